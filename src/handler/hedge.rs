//! Hedged requests (Dean and Barroso, The Tail at Scale): where an endpoint takes longer than most answers do, the same
//! request goes to another one as well. The first answer wins, the others are cancelled.
//!
//! Only what may be repeated is hedged, and each copy takes a retry from the service's budget. A body is taken in
//! first, if it says that it is short enough to be held, so that each endpoint gets all of it. A copy
//! is a future of its own with its own connection or stream: the loser's is dropped as a whole, its connection shut
//! before, its stream reset, and never used again. Interim responses are not passed on meanwhile: they would be those
//! of an answer that may lose.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;

use super::forward;
use super::nap::nap;
use super::proxy::{Attempt, Proxy, is_stale};
use super::relay::{self, HALF_SENT, TOO_MANY_INTERIM, is_final};
use super::replay::{Held, Replayed};
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::{Downstream, RequestBody};
use crate::http::exchange::Exchange;
use crate::http::message::{BodyLength, ResponseHead};
use crate::limits::{HEDGED_BODY_BYTES_MAX, INTERIM_RESPONSES_MAX};
use crate::net::io::{Connect, Io};
use crate::proto::h1::client::ClientConnection;
use crate::proto::h2::client::Stream;
use crate::proto::upstream::{Interrupter, RequestSink, ResponseSource, Upstream};
use crate::snapshot::Protocol;
use crate::sys::buf::Buf;
use crate::time::Now;
use crate::upstream::balance::TriedSet;
use crate::upstream::endpoint::Visit;
use crate::upstream::passive::CHANGED;
use crate::upstream::rules::Hedge;

/// What an answer comes on.
enum Wire<I: Io> {
    Connection(Box<ClientConnection<I>>),
    Stream(Stream),
}

/// An answer whose head is there.
struct Won<I: Io> {
    wire: Wire<I>,
    head: Box<ResponseHead>,
    asked: Now,
    /// The endpoint has taken all of the request.
    is_sent: bool,
}

/// A copy that has come to its end.
struct Finished<I: Io> {
    at: u32,
    visit: Visit<I>,
    won: Result<Won<I>, Failure>,
}

type Copy<'r, I> = Pin<Box<dyn Future<Output = Finished<I>> + 'r>>;

/// What happened next.
enum Event<I: Io> {
    Finished(Finished<I>),
    TimeForAnother,
}

/// Shuts a connection when its copy of the request is given up: a read that is under way ends with it.
struct Cut(Option<Interrupter>);

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(interrupter) = self.0.take() {
            interrupter.shutdown_if(true);
        }
    }
}

impl<C: Connect> Proxy<'_, C> {
    /// Whether the request's body is taken in before an endpoint is asked, so that several may be: where it may be sent
    /// to several at all, and says that it fits what may be held. A client that waits to be told to send it is no such
    /// one.
    #[inline]
    pub(super) fn takes_in<D: Downstream>(&self, down: &mut D, x: &Exchange) -> bool {
        if self.retries.hedge.is_none() || x.attempts > 0 || !self.is_for_several(x) || down.split().0.is_done() {
            return false;
        }
        let most = self.body_bytes_max.min(self.retries.replay_bytes_max.min(HEDGED_BODY_BYTES_MAX) as u64);
        matches!(x.request.body, BodyLength::Known(bytes) if bytes <= most) && !x.request.expects_continue
    }

    /// Takes the whole body in.
    ///
    /// # Errors
    /// As its pieces; [`Reason::BodyTimeout`] when the time of the whole request has passed.
    pub(super) async fn take_in<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        held: &Held,
    ) -> Result<(), Failure> {
        let mut body = Replayed::new(down.split().0, held);
        while !body.is_done() {
            x.request_bytes += body.next().await?.data.len() as u64;
            if self.timers.now() >= self.due {
                return Err(HALF_SENT);
            }
        }
        held.rewind();
        debug_assert!(held.is_whole(), "it says that it fits");
        if held.is_whole() { Ok(()) } else { Err(Reason::Internal.into()) }
    }

    /// Answers by the first of up to `1 + hedge.most` endpoints, of which `visit` is asked at once. Returns how it
    /// ended, and with which of them.
    pub(super) async fn race<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        (at, visit): (u32, Visit<C::Io>),
        tried: &mut TriedSet,
        (hedge, held): (&Hedge, Option<&Held>),
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> (Attempt, u32, Visit<C::Io>) {
        self.tell_deadline(x);
        x.upstream_status = 0;
        let begun = self.timers.known_now();
        let (Finished { at: winner, visit, won }, copies) = self.first_of(x, (at, visit), tried, (hedge, held)).await;
        x.hedges += copies;
        x.endpoint = Some(visit.tag.clone());
        let won = match won {
            Ok(won) => won,
            Err(failure) => return (Attempt::Failed(failure), winner, visit),
        };
        x.hedge_won = winner != at;
        self.hear(&visit, won.head.status);
        x.response = *won.head;
        let refuses = |x: &Exchange| self.refuses(x, held);
        let terms = self.terms(&visit, begun, &refuses, None);
        let (_, sink) = down.split();
        let mut let_go;
        let on_head = match held {
            Some(held) => {
                held.is_sent();
                let_go = held.until_answered(on_head);
                &mut let_go as &mut dyn FnMut(&mut Exchange)
            }
            None => on_head,
        };
        let delivered = match won.wire {
            Wire::Connection(mut connection) => {
                let receiver = connection.split().1;
                let delivered = relay::deliver(receiver, sink, x, won.asked, &terms, on_head).await;
                if delivered.is_ok() {
                    visit.learn(x.response_bytes);
                    if won.is_sent {
                        self.put_back(&visit, connection);
                    }
                }
                delivered
            }
            Wire::Stream(mut stream) => relay::deliver(stream.split().1, sink, x, won.asked, &terms, on_head).await,
        };
        // From the first copy on: what the others might have taken is not known.
        self.service.note_answer(hedge, won.asked.since_ns(begun) + x.upstream_ns);
        (delivered.map_or_else(Attempt::Failed, |()| Attempt::Done), winner, visit)
    }

    /// The first whole head, or the last failure. Returns how many copies were sent.
    async fn first_of(
        &self,
        x: &Exchange,
        (at, visit): (u32, Visit<C::Io>),
        tried: &mut TriedSet,
        (hedge, held): (&Hedge, Option<&Held>),
    ) -> (Finished<C::Io>, u8) {
        let after_ms = self.service.hedge_after_ms(hedge);
        let mut running: Vec<Copy<'_, C::Io>> = vec![Box::pin(self.copy(x, at, visit, held))];
        let (mut pause, mut copies, mut asked) = (Some(Box::pin(nap(self.timers, after_ms))), 0, vec![at]);
        loop {
            let event = poll_fn(|cx| {
                for at in 0..running.len() {
                    if let Poll::Ready(finished) = running[at].as_mut().poll(cx) {
                        drop(running.swap_remove(at));
                        return Poll::Ready(Event::Finished(finished));
                    }
                }
                match &mut pause {
                    Some(until) => until.as_mut().poll(cx).map(|()| Event::TimeForAnother),
                    None => Poll::Pending,
                }
            })
            .await;
            match event {
                Event::Finished(finished) if finished.won.is_ok() || running.is_empty() => return (finished, copies),
                Event::Finished(Finished { visit, won, .. }) => {
                    won.err().into_iter().for_each(|failure| self.blame(&visit, x, failure));
                }
                Event::TimeForAnother => {
                    pause = None;
                    let Some((at, visit)) = self.another(x, tried, &mut asked) else { continue };
                    running.push(Box::pin(self.copy(x, at, visit, held)));
                    copies += 1;
                    pause = (copies < hedge.most).then(|| Box::pin(nap(self.timers, after_ms)));
                }
            }
        }
    }

    /// An endpoint that has no copy yet, if the budget has one left.
    fn another(&self, x: &Exchange, tried: &mut TriedSet, asked: &mut Vec<u32>) -> Option<(u32, Visit<C::Io>)> {
        let now = self.timers.now();
        let room = now < self.due && asked.iter().all(|at| tried.has(*at as usize) || tried.insert(*at as usize));
        if !room || self.service.len() <= asked.len() || !self.service.take_retry(self.spec, now) {
            return None;
        }
        let (at, visit) = self.service.choose(self.spec, x, tried, now).ok()?;
        let is_new = !asked.contains(&at);
        asked.push(at);
        is_new.then_some((at, visit))
    }

    /// One copy, to the head of its answer.
    async fn copy(&self, x: &Exchange, at: u32, visit: Visit<C::Io>, held: Option<&Held>) -> Finished<C::Io> {
        let won = match visit.protocol(&self.spec.rules) {
            Some(Protocol::Http2) => self.over_shared(x, &visit, held).await,
            _ => match self.over_own(x, &visit, held).await {
                // It has turned out to speak HTTP/2.
                Err(failure) if failure == CHANGED => self.over_shared(x, &visit, held).await,
                result => result,
            },
        };
        Finished { at, visit, won }
    }

    async fn over_own(&self, x: &Exchange, visit: &Visit<C::Io>, held: Option<&Held>) -> Result<Won<C::Io>, Failure> {
        let begun = self.timers.known_now();
        if let Some(connection) = visit.reuse(begun, &self.spec.rules, true) {
            match self.exchange_heads(x, visit, connection, (begun, held)).await {
                // The endpoint had closed it while it was idle.
                Err(failure) if is_stale(failure) => {}
                result => return result,
            }
        }
        let connection = self.connect(visit).await?;
        self.exchange_heads(x, visit, connection, (begun, held)).await
    }

    async fn exchange_heads(
        &self,
        x: &Exchange,
        visit: &Visit<C::Io>,
        mut connection: Box<ClientConnection<C::Io>>,
        (begun, held): (Now, Option<&Held>),
    ) -> Result<Won<C::Io>, Failure> {
        let mut out = Buf::small();
        forward::write_head(&mut out, x, self.listener, forward::host(x, self.host, &visit.host));
        connection.uses += 1;
        let mut cut = Cut(Some(connection.sender.interrupter()));
        let asked = self.timers.known_now();
        let (sender, receiver) = connection.split();
        let (head, is_sent) = self.ask_whole(sender, receiver, x, out, (begun, held)).await?;
        cut.0 = None;
        drop(cut);
        Ok(Won { wire: Wire::Connection(connection), head, asked, is_sent })
    }

    async fn over_shared(
        &self,
        x: &Exchange,
        visit: &Visit<C::Io>,
        held: Option<&Held>,
    ) -> Result<Won<C::Io>, Failure> {
        let begun = self.timers.known_now();
        loop {
            let mut stream = self.open_stream(x, visit, held.is_none()).await?;
            let asked = self.timers.known_now();
            let (sender, receiver) = stream.split();
            // The head is in the connection's output: this sends it on its way.
            match self.ask_whole(sender, receiver, x, Buf::empty(), (begun, held)).await {
                Ok((head, is_sent)) => return Ok(Won { wire: Wire::Stream(stream), head, asked, is_sent }),
                // Of a connection that had ended by itself. A new one is another matter.
                Err(failure) if stream.was_used && is_stale(failure) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    /// Sends a request and waits for the head of its answer, both at the same time where there is a body: an endpoint
    /// may answer before it has read all of that. Returns whether it has taken all.
    async fn ask_whole<W: RequestSink, R: ResponseSource>(
        &self,
        sender: &mut W,
        receiver: &mut R,
        x: &Exchange,
        out: Buf,
        (begun, held): (Now, Option<&Held>),
    ) -> Result<(Box<ResponseHead>, bool), Failure> {
        let Some(held) = held else {
            drop(sender.send(out, self.spec.rules.send_timeout_ms).await?);
            return Ok((self.final_head(receiver, x, begun).await?, true));
        };
        let (mut sending, mut receiving) =
            (pin!(self.send_all(sender, out, held)), pin!(self.final_head(receiver, x, begun)));
        let (mut sent, mut head) = (None, None);
        poll_fn(|cx| {
            if sent.is_none()
                && let Poll::Ready(result) = sending.as_mut().poll(cx)
            {
                sent = Some(result);
            }
            if head.is_none()
                && let Poll::Ready(result) = receiving.as_mut().poll(cx)
            {
                head = Some(result);
            }
            match (&sent, &head) {
                (Some(_), Some(_)) | (_, Some(Err(_))) => Poll::Ready(()),
                // Who takes no more may have answered before.
                (Some(Err(failure)), None) if failure.reason != Reason::UpstreamReset => Poll::Ready(()),
                // A sending that is under way is not dropped: what is as short as this goes into the kernel's buffers.
                _ => Poll::Pending,
            }
        })
        .await;
        match (head, sent) {
            (Some(head), sent) => Ok((head?, matches!(sent, Some(Ok(()))))),
            (None, Some(Err(failure))) => Err(failure),
            (None, _) => Err(Reason::Internal.into()),
        }
    }

    async fn send_all<W: RequestSink>(&self, sender: &mut W, out: Buf, held: &Held) -> Result<(), Failure> {
        let mut pieces = held.pieces();
        let timeout_ms = self.spec.rules.send_timeout_ms;
        let first = pieces.next().unwrap_or_else(Chunk::end);
        // Its length was declared.
        let (out, rest) = sender.join(out, first, false);
        for part in [Some(out), rest].into_iter().flatten() {
            drop(sender.send(part, timeout_ms).await?);
        }
        for piece in pieces {
            drop(sender.send_body(piece, false, timeout_ms).await?);
        }
        Ok(())
    }

    async fn final_head<R: ResponseSource>(
        &self,
        receiver: &mut R,
        x: &Exchange,
        begun: Now,
    ) -> Result<Box<ResponseHead>, Failure> {
        let wait_ms = self.within_try(self.spec.rules.first_byte_timeout_ms, begun);
        let due = self.timers.known_now().plus_ms(wait_ms).min(self.due);
        let mut head = Box::<ResponseHead>::default();
        for _ in 0..=INTERIM_RESPONSES_MAX {
            let received = receiver.recv_head(&mut head, x.request.method, &self.spec.rules.head, due).await;
            received.map_err(|failure| match failure.reason {
                Reason::UpstreamTimeout if self.timers.now() >= self.due => Reason::RequestTimeout.into(),
                _ => failure,
            })?;
            match head.status {
                101 => return Err(Failure::with(Reason::UpstreamInvalid, "switch of protocols that nobody asked for")),
                status if is_final(status) => return Ok(head),
                _ => {}
            }
        }
        Err(TOO_MANY_INTERIM)
    }
}
