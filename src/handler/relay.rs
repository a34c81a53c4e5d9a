//! The one copy loop: request body up and response down at the same time, each with back-pressure, for every wire.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::replay::Held;
use crate::error::{Failure, Reason};
use crate::http::downstream::{RequestBody, ResponseSink, Rest};
use crate::http::exchange::Exchange;
use crate::http::message::{BodyLength, Version};
use crate::limits::{INTERIM_RESPONSES_MAX, LINGER_MS, SPLICE_BYTES_MIN};
use crate::net::splice::{Progress, Stopped, carry};
use crate::net::timer::{Deadline, OnExpiry, Timers};
use crate::proto::upstream::{Interrupter, RequestSink, ResponseSource, Soon, Upstream};
use crate::snapshot::ServiceRules;
use crate::sys::buf::Buf;
use crate::sys::order::Order;
use crate::sys::pipe::Pipe;
use crate::time::Now;

/// The rules of one exchange with an endpoint.
pub struct Terms<'a> {
    /// The service's times and bounds.
    pub rules: &'a ServiceRules,
    /// When the whole request must be over.
    pub due: Now,
    /// Request body, in bytes.
    pub body_bytes_max: u64,
    /// Room for the response's first read, in bytes.
    pub room: usize,
    /// Waiting for the response head, in milliseconds.
    pub first_byte_ms: u64,
    /// Whether a response is refused, so that another endpoint is asked; None takes every one.
    pub refuses: Option<&'a dyn Fn(&Exchange) -> bool>,
    /// What is held of the request's body. Where the endpoint has not looked at the request, the rest of the body stays
    /// with the client: the next endpoint gets both.
    pub held: Option<&'a Held>,
    /// The worker's clock.
    pub timers: &'a Rc<Timers>,
}

impl Terms<'_> {
    /// When an operation that may take `ms` from now must be over.
    pub(super) fn until(&self, ms: u64) -> Now {
        self.timers.known_now().plus_ms(ms).min(self.due)
    }

    /// The whole deadline has a reason of its own.
    pub(super) fn explain(&self, failure: Failure) -> Failure {
        if failure.reason == Reason::UpstreamTimeout && self.timers.now() >= self.due {
            return Reason::RequestTimeout.into();
        }
        failure
    }
}

/// Sends the request head in `out`, as [`RequestSink`] has it, then carries both bodies. The response leaves through
/// `sink`; `on_head` sees its head before it does.
///
/// # Errors
/// Why the exchange failed. `sink.head_sent()` tells whether the client has seen any of it.
pub async fn exchange<B: RequestBody, S: ResponseSink, U: Upstream>(
    body: &mut B,
    sink: &mut S,
    upstream: &mut U,
    x: &mut Exchange,
    out: Buf,
    terms: &Terms<'_>,
    on_head: &mut dyn FnMut(&mut Exchange),
) -> Result<(), Failure> {
    let (sender, receiver) = upstream.split();
    if body.is_done() {
        return pin!(without_body(sink, sender, receiver, x, out, terms, on_head)).await;
    }
    let chunked = x.request.body == BodyLength::Streamed;
    let expects_continue = x.request.expects_continue;
    // A client that waits for 100 Continue has sent nothing yet.
    let first = if expects_continue { None } else { body.ready()? };
    let mut sent = 0;
    let (out, rest) = match first {
        Some(first) => {
            sent = first.data.len() as u64;
            check_size(sent, terms)?;
            sender.join(out, first, chunked)
        }
        None => (out, None),
    };
    if body.is_done() && rest.is_none() {
        // The whole body came with the head, and goes with it.
        x.request_bytes = sent;
        return without_body(sink, sender, receiver, x, out, terms, on_head).await;
    }
    let taken = begin(sender, out, rest, terms).await?;
    if expects_continue && taken {
        sink.send_continue().await?;
        // Another attempt does not say so again.
        x.request.expects_continue = false;
    }
    // A client that was not told to continue sends nothing that could be drained.
    let awaited = !expects_continue || taken;
    let (response_done, waiting) = (Cell::new(false), Cell::new(Some(receiver.waiting())));
    let head_due = Cell::new(terms.due);
    let progress = Progress::default();
    let is_kept = Cell::new(false);
    let up = Upload { chunked, sent, taken, awaited, terms, response_done, is_kept, waiting, head_due, progress };
    // Boxed: most requests have no body and should not carry the room for one.
    Box::pin(both(body, sink, sender, receiver, x, on_head, up)).await
}

/// Sends a request that is whole in `out` and waits for the response at the same time. The end of the sending is looked
/// at when the response is there, and not waited for before, which saves a turn of the event loop.
async fn without_body<S: ResponseSink, R: ResponseSource, W: RequestSink>(
    sink: &mut S,
    sender: &mut W,
    receiver: &mut R,
    x: &mut Exchange,
    out: Buf,
    terms: &Terms<'_>,
    on_head: &mut dyn FnMut(&mut Exchange),
) -> Result<(), Failure> {
    let asked = terms.timers.known_now();
    {
        let order = receiver.order();
        let due = terms.until(terms.first_byte_ms);
        let mut sending = pin!(sender.send(out, terms.rules.send_timeout_ms));
        let (sent, received) = {
            let head = (&mut x.response, x.request.method, &terms.rules.head);
            let mut receiving = pin!(receiver.recv_head_soon(head.0, head.1, head.2, due, terms.room));
            ask(sending.as_mut(), receiving.as_mut(), order).await?
        };
        if !sent {
            // Either the response is there, and with it the sending is over; or the response is late, and there is time
            // to see to a sending that stopped half way.
            let sent = sending.await;
            if !matches!(received, Ok(Soon::Received)) {
                sent.map_err(|failure| terms.explain(failure))?;
            }
        }
        match received {
            Ok(Soon::Late) => final_head(receiver, sink, x, terms, &Cell::new(due), 0)
                .await
                .map_err(|failure| terms.explain(failure))?,
            Ok(Soon::Received) if is_final(x.response.status) => {}
            Ok(Soon::Received) => {
                interim(sink, x).await?;
                final_head(receiver, sink, x, terms, &Cell::new(due), 1)
                    .await
                    .map_err(|failure| terms.explain(failure))?;
            }
            Err(failure) => return Err(terms.explain(failure)),
        }
    }
    pin!(deliver(receiver, sink, x, asked, terms, on_head)).await
}

/// Bytes lay on a kept connection before the request was sent. What else comes on it cannot be told apart from answers.
const UNASKED: Failure = Failure::with(Reason::UpstreamReset, "bytes that nobody asked for");

/// Sends a request and waits for its answer at the same time. Returns whether the sending is over.
///
/// On a connection that was kept the read is begun before the send: what lay there already then ends the read before
/// the send is done, and is known for what it is (F34). It costs no system call.
async fn ask(
    mut sending: Pin<&mut impl Future<Output = Result<Buf, Failure>>>,
    mut receiving: Pin<&mut impl Future<Output = Result<Soon, Failure>>>,
    order: Option<Rc<Order>>,
) -> Result<(bool, Result<Soon, Failure>), Failure> {
    // The first poll of the sending starts it. Nobody is to be woken by its end.
    let Some(order) = order else {
        let sent = match sending.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(sent) => sent.map(|_| true)?,
            Poll::Pending => false,
        };
        return Ok((sent, receiving.await));
    };
    order.begin();
    let (mut begun, mut sent) = (false, false);
    let received = poll_fn(|cx| {
        let received = order.poll_read(receiving.as_mut(), cx);
        if begun || received.is_ready() {
            return received.map(Ok);
        }
        begun = true;
        match order.poll_send(sending.as_mut()) {
            Poll::Ready(Err(failure)) => return Poll::Ready(Err(failure)),
            polled => sent = polled.is_ready(),
        }
        Poll::Pending
    })
    .await?;
    let unasked = !begun || order.read_was_first();
    if unasked && matches!(received, Ok(Soon::Received)) {
        return Err(UNASKED);
    }
    Ok((sent || !begun, received))
}

/// Sends the head and what of the body came with it. Returns whether the endpoint takes more: one that has closed may
/// have answered before, and its answer is still there to be read.
async fn begin<W: RequestSink>(
    sender: &mut W,
    out: Buf,
    rest: Option<Buf>,
    terms: &Terms<'_>,
) -> Result<bool, Failure> {
    for part in [Some(out), rest].into_iter().flatten() {
        match sender.send(part, terms.rules.send_timeout_ms).await {
            Ok(_) => {}
            Err(failure) if failure.reason == Reason::UpstreamReset => return Ok(false),
            Err(failure) => return Err(failure),
        }
    }
    Ok(true)
}

fn check_size(bytes: u64, terms: &Terms<'_>) -> Result<(), Failure> {
    if bytes > terms.body_bytes_max { Err(Reason::BodyTooLarge.into()) } else { Ok(()) }
}

struct Upload<'a> {
    chunked: bool,
    sent: u64,
    taken: bool,
    awaited: bool,
    terms: &'a Terms<'a>,
    response_done: Cell<bool>,
    /// The endpoint has not looked at the request: what has not come yet is left for another one.
    is_kept: Cell<bool>,
    /// The deadline of the wait for the response's head, until that is there or the endpoint has the request.
    waiting: Cell<Option<Deadline>>,
    /// When the head must be there.
    head_due: Cell<Now>,
    /// Whether the client is what is waited for.
    progress: Progress,
}

/// The time of the whole request ended while the client still owed a part of it, which is not the endpoint's fault.
pub(super) const HALF_SENT: Failure = Failure::with(Reason::BodyTimeout, "the time of the whole request");

impl Upload<'_> {
    /// Carries the request body up. When the response is complete before it, or the endpoint takes no more, the rest is
    /// only drained, within bounds, so that the client's connection stays usable.
    async fn run<B: RequestBody, W: RequestSink>(
        &self,
        body: &mut B,
        sender: &mut W,
        bytes: &Cell<u64>,
    ) -> Result<bool, Failure> {
        let mut taken = self.taken;
        bytes.set(self.sent);
        if self.taken {
            taken = self.pass_up(body, sender, bytes).await?;
            self.give_up(taken, &sender.interrupter());
        }
        while self.awaited && !body.is_done() && !self.is_kept.get() {
            if self.response_done.get() {
                taken = false;
            }
            if !taken {
                body.begin_drain();
            }
            self.progress.awaits_source.set(true);
            let chunk = body.next().await;
            self.progress.awaits_source.set(false);
            let chunk = match chunk {
                // What is only drained is no part of the exchange any more; the connection ends with it.
                Err(_) if !taken => return Ok(false),
                chunk => chunk?,
            };
            bytes.set(bytes.get() + chunk.data.len() as u64);
            if taken && !self.is_kept.get() {
                check_size(bytes.get(), self.terms)?;
                let sent = sender.send_body(chunk, self.chunked, self.terms.rules.send_timeout_ms).await;
                taken = sent.is_ok();
                self.give_up(taken, &sender.interrupter());
            }
            if !taken {
                self.expect_head();
            }
        }
        self.expect_head();
        Ok(taken)
    }

    /// The response is over, or is not to come, before the body: sees to what is left of that.
    fn cut_short(&self, result: Result<(), Failure>, stop: &dyn Fn(Rest)) {
        self.response_done.set(true);
        let is_unseen = matches!(result, Err(failure) if failure.reason == Reason::UpstreamRefused);
        if is_unseen && self.terms.held.is_some_and(Held::is_within) {
            self.is_kept.set(true);
            if self.progress.awaits_source.get() {
                stop(Rest::Later);
            }
            return;
        }
        // What still goes up has no reader: an upload that waits for the endpoint is let go. A client that owes its
        // request is not waited for once more.
        stop(Rest::Unwanted(if result == Err(HALF_SENT) { 0 } else { LINGER_MS }));
    }

    /// Why no head came.
    fn explain(&self, failure: Failure) -> Failure {
        match self.terms.explain(failure) {
            Failure { reason: Reason::RequestTimeout, .. } if self.progress.awaits_source.get() => HALF_SENT,
            failure => failure,
        }
    }

    /// An endpoint that has read nothing for too long is given up, unless it is answering.
    fn give_up(&self, taken: bool, endpoint: &Interrupter) {
        if !taken {
            let waiting = self.waiting.take();
            endpoint.shutdown_if(waiting.is_some() && endpoint.is_late());
            self.waiting.set(waiting);
        }
    }

    /// From here on the endpoint owes an answer: it has the request, or takes no more of it.
    fn expect_head(&self) {
        if let Some(waiting) = self.waiting.take()
            && !waiting.fired()
        {
            let due = self.terms.until(self.terms.first_byte_ms);
            self.head_due.set(due);
            waiting.arm(due, OnExpiry::ShutBoth);
        }
    }

    /// Passes the rest of a long body on inside the kernel, where it can be. Returns whether the endpoint takes more.
    async fn pass_up<B: RequestBody, W: RequestSink>(
        &self,
        body: &mut B,
        sender: &mut W,
        bytes: &Cell<u64>,
    ) -> Result<bool, Failure> {
        let carried = {
            let ends = (body.raw(), sender.raw(self.terms.rules.send_timeout_ms));
            let (Some((source, left)), Some(destination)) = ends else { return Ok(true) };
            check_size(bytes.get() + left, self.terms)?;
            let long = left >= SPLICE_BYTES_MIN && !self.chunked;
            let Some(mut pipe) = (if long { Pipe::take() } else { None }) else { return Ok(true) };
            carry(&mut pipe, source, destination, left, &self.progress).await
        };
        let moved = self.progress.moved.get();
        body.raw_taken(moved);
        bytes.set(bytes.get() + moved);
        match carried {
            Ok(()) => Ok(true),
            Err(Stopped::Source) => Err(body.raw_failed()),
            Err(Stopped::Destination) => Ok(false),
        }
    }
}

#[allow(clippy::too_many_arguments, reason = "the two directions' halves, lent for the time of one exchange")]
async fn both<B: RequestBody, S: ResponseSink, R: ResponseSource, W: RequestSink>(
    body: &mut B,
    sink: &mut S,
    sender: &mut W,
    receiver: &mut R,
    x: &mut Exchange,
    on_head: &mut dyn FnMut(&mut Exchange),
    upload: Upload<'_>,
) -> Result<(), Failure> {
    let bytes = Cell::new(0);
    let interrupt = sender.interrupter();
    let stop = body.stopper();
    let mut response = None;
    let mut uploaded = None;
    let mut cut_short = false;
    {
        let mut down = pin!(respond(receiver, sink, x, &upload, on_head));
        let mut up = pin!(upload.run(body, sender, &bytes));
        poll_fn(|cx| {
            if response.is_none()
                && let Poll::Ready(result) = down.as_mut().poll(cx)
            {
                if uploaded.is_none() {
                    cut_short = true;
                    upload.cut_short(result, &*stop);
                }
                interrupt.shutdown_if(uploaded.is_none());
                response = Some(result);
            }
            if uploaded.is_none()
                && let Poll::Ready(result) = up.as_mut().poll(cx)
            {
                // A client that broke its body off gets no answer to half a request.
                interrupt.shutdown_if(result.is_err() && response.is_none());
                uploaded = Some(result);
            }
            if response.is_some() && uploaded.is_some() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
    x.request_bytes = bytes.get();
    match (response, uploaded) {
        // The client's own fault explains the endpoint's, unless that came first.
        (Some(Err(_)), Some(Err(failure))) if !cut_short => Err(failure),
        // Nobody gets the rest of this body.
        (Some(Err(unseen)), Some(Err(failure))) if upload.is_kept.get() => Err(match failure.reason {
            Reason::BodyTimeout => Failure::with(Reason::UpstreamReset, unseen.detail),
            _ => failure,
        }),
        (Some(Ok(())), Some(Ok(true))) => Ok(()),
        (Some(Ok(())), _) => {
            receiver.spoil();
            Ok(())
        }
        (Some(Err(failure)), _) => Err(failure),
        (None, _) => Err(Reason::Internal.into()),
    }
}

/// Receives the response and sends it on.
async fn respond<S: ResponseSink, R: ResponseSource>(
    receiver: &mut R,
    sink: &mut S,
    x: &mut Exchange,
    upload: &Upload<'_>,
    on_head: &mut dyn FnMut(&mut Exchange),
) -> Result<(), Failure> {
    let terms = upload.terms;
    let asked = terms.timers.known_now();
    let head = final_head(receiver, sink, x, terms, &upload.head_due, 0).await;
    upload.waiting.take();
    head.map_err(|failure| upload.explain(failure))?;
    deliver(receiver, sink, x, asked, terms, on_head).await
}

/// Sends the response on whose head was received.
pub(super) async fn deliver<S: ResponseSink, R: ResponseSource>(
    receiver: &mut R,
    sink: &mut S,
    x: &mut Exchange,
    asked: Now,
    terms: &Terms<'_>,
    on_head: &mut dyn FnMut(&mut Exchange),
) -> Result<(), Failure> {
    x.upstream_ns = terms.timers.now().since_ns(asked);
    x.upstream_status = x.response.status;
    let first = receiver.first_body()?;
    if terms.refuses.is_some_and(|refuses| refuses(x)) {
        return Err(Reason::UpstreamStatus.into());
    }
    on_head(x);
    let mut ended = first.end;
    if x.grpc.is_some() {
        x.note_grpc_status(None);
        x.note_grpc_status(first.trailers.as_deref());
    }
    pin!(sink.send_head(x, first)).await?;
    if !ended {
        ended = Box::pin(pass_down(receiver, sink, x, terms)).await?;
    }
    while !ended {
        let due = terms.until(terms.rules.between_bytes_timeout_ms);
        let chunk = receiver.next_body(due).await.map_err(|failure| terms.explain(failure))?;
        ended = chunk.end;
        if chunk.trailers.is_some() {
            x.note_grpc_status(chunk.trailers.as_deref());
        }
        x.response_bytes += chunk.data.len() as u64;
        drop(sink.send_body(chunk).await?);
    }
    Ok(())
}

/// Passes the rest of a long response on inside the kernel, where it can be. Returns whether that was all of it.
async fn pass_down<S: ResponseSink, R: ResponseSource>(
    receiver: &mut R,
    sink: &mut S,
    x: &mut Exchange,
    terms: &Terms<'_>,
) -> Result<bool, Failure> {
    let progress = Progress::default();
    let carried = {
        let source = receiver.raw(terms.rules.between_bytes_timeout_ms, terms.due);
        let (Some((source, left)), Some(destination)) = (source, sink.raw()) else { return Ok(false) };
        let Some(mut pipe) = (if left >= SPLICE_BYTES_MIN { Pipe::take() } else { None }) else { return Ok(false) };
        carry(&mut pipe, source, destination, left, &progress).await
    };
    let moved = progress.moved.get();
    receiver.raw_taken(moved);
    x.response_bytes += moved;
    match carried {
        Ok(()) => Ok(true),
        Err(Stopped::Source) => Err(terms.explain(receiver.raw_failed())),
        Err(Stopped::Destination) => Err(sink.raw_failed()),
    }
}

/// Passes interim responses on, within their bound, until the final head is there (F35). So many have been already.
async fn final_head<S: ResponseSink, R: ResponseSource>(
    receiver: &mut R,
    sink: &mut S,
    x: &mut Exchange,
    terms: &Terms<'_>,
    due: &Cell<Now>,
    interims: u32,
) -> Result<(), Failure> {
    for _ in interims..=INTERIM_RESPONSES_MAX {
        receiver.recv_head(&mut x.response, x.request.method, &terms.rules.head, due.get()).await?;
        if is_final(x.response.status) {
            return Ok(());
        }
        interim(sink, x).await?;
    }
    Err(TOO_MANY_INTERIM)
}

pub(super) const TOO_MANY_INTERIM: Failure = Failure::with(Reason::UpstreamInvalid, "too many interim responses");

pub(super) const fn is_final(status: u16) -> bool {
    status >= 200
}

/// Passes an interim response on, or drops it.
pub(super) async fn interim<S: ResponseSink>(sink: &mut S, x: &mut Exchange) -> Result<(), Failure> {
    match x.response.status {
        // The gateway has answered the expectation itself.
        100 => Ok(()),
        101 => Err(Failure::with(Reason::UpstreamInvalid, "switch of protocols that nobody asked for")),
        _ if x.request.version == Version::Http10 => Ok(()),
        _ => sink.send_interim(x).await,
    }
}
