//! One request's client side on an HTTP/2 stream.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Context, Poll};

use super::link::{Alarm, Link};
use super::tunnel::StreamIo;
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::{Downstream, RequestBody, ResponseSink, Rest};
use crate::http::exchange::Exchange;
use crate::http::fields::Fields;
use crate::http::message::BodyLength;
use crate::http::name::NameSet;
use crate::net::duplex::Duplex;
use crate::net::pace::Pace;
use crate::net::timer::{Deadline, OnExpiry, Timers};
use crate::proto::h2::code::Code;
use crate::proto::h2::core::Key;
use crate::proto::h2::head;
use crate::sys::buf::Buf;

/// A request under way on a stream.
pub struct Stream {
    body: Body,
    response: Response,
}

impl Stream {
    /// The stream of a request whose head has come. A malformed one is reset where it would be answered.
    pub fn new(link: &Rc<Link>, key: Key, end: bool, malformed: bool) -> Self {
        let rules = link.rules();
        let pace = |rate: &crate::http::pace::MinRate| Pace::new(rate.bytes_per_s, rate.grace_ms);
        let body = Body {
            link: link.clone(),
            key,
            timeout_ms: rules.body_timeout_ms,
            pace: pace(&rules.body_rate),
            deadline: None,
            done: end,
            stop: Rc::default(),
        };
        let response = Response {
            link: link.clone(),
            key,
            timeout_ms: rules.write_timeout_ms,
            pace: pace(&rules.write_rate),
            deadline: None,
            head_sent: false,
            malformed,
            code: Code::Internal,
        };
        Self { body, response }
    }

    /// The stream without HTTP, behind the head that opened the tunnel.
    pub fn into_duplex(self, timers: &Rc<Timers>) -> Duplex<StreamIo> {
        StreamIo::duplex(&self.response.link, self.response.key, timers)
    }

    /// Gives the stream up: what was not ended is reset.
    pub fn finish(self) {
        self.response.link.finish_stream(self.response.key, self.response.code);
    }
}

impl Downstream for Stream {
    type Body = Body;
    type Response = Response;

    fn split(&mut self) -> (&mut Body, &mut Response) {
        (&mut self.body, &mut self.response)
    }

    fn has_left(&self) -> bool {
        self.response.link.gone(self.response.key).is_some()
    }
}

/// A deadline that wakes the stream, made at its first wait: most streams never wait.
fn waking<'d>(deadline: &'d mut Option<Deadline>, link: &Link, cx: &Context<'_>) -> &'d Deadline {
    deadline.get_or_insert_with(|| link.timers.deadline(Alarm::new(cx.waker().clone())))
}

/// The request body.
pub struct Body {
    link: Rc<Link>,
    key: Key,
    timeout_ms: u64,
    pace: Pace,
    deadline: Option<Deadline>,
    done: bool,
    /// No more of it is wanted, or not now.
    stop: Rc<Cell<Option<Rest>>>,
}

impl Body {
    fn take(&mut self) -> Result<Option<Chunk>, Failure> {
        let chunk = self.link.take_body(self.key)?;
        self.done |= chunk.as_ref().is_some_and(|chunk| chunk.end);
        Ok(chunk)
    }
}

impl RequestBody for Body {
    fn ready(&mut self) -> Result<Option<Chunk>, Failure> {
        self.take()
    }

    async fn next(&mut self) -> Result<Chunk, Failure> {
        let asked = self.link.timers.known_now();
        let mut waits = false;
        self.stop.set(self.stop.get().filter(|rest| *rest != Rest::Later));
        let chunk = poll_fn(|cx| {
            if let Some(Rest::Unwanted(_)) = self.stop.get() {
                // What the client still sends is dropped with its stream.
                return Poll::Ready(Err(Failure::with(Reason::ClientClosed, "the rest of the body is not wanted")));
            }
            match self.take() {
                Ok(Some(chunk)) => return Poll::Ready(Ok(chunk)),
                Err(failure) => return Poll::Ready(Err(failure)),
                Ok(None) => {}
            }
            if self.stop.get().is_some() {
                return Poll::Ready(Ok(Chunk::default()));
            }
            let deadline = waking(&mut self.deadline, &self.link, cx);
            if !waits {
                waits = true;
                deadline.arm_in(self.timeout_ms, OnExpiry::ShutBoth);
            } else if deadline.fired() {
                return Poll::Ready(Err(Reason::BodyTimeout.into()));
            }
            Poll::Pending
        })
        .await?;
        let is_piece = !chunk.is_nothing();
        if let Some(deadline) = self.deadline.as_ref().filter(|_| waits) {
            deadline.disarm();
            let waited_ns = self.link.timers.known_now().since_ns(asked);
            if is_piece && !self.pace.keeps_up(waited_ns, chunk.data.len()) && !chunk.end {
                return Err(Reason::BodyTooSlow.into());
            }
        }
        Ok(chunk)
    }

    fn is_done(&self) -> bool {
        self.done
    }

    fn begin_drain(&mut self) {
        self.stop.set(Some(Rest::Unwanted(0)));
    }

    fn stopper(&self) -> Box<dyn Fn(Rest)> {
        let (stop, ready, slot) = (self.stop.clone(), self.link.ready.clone(), self.key.slot as usize);
        Box::new(move |rest| {
            stop.set(Some(rest));
            ready.mark(slot);
        })
    }
}

/// The response's way out.
pub struct Response {
    link: Rc<Link>,
    key: Key,
    timeout_ms: u64,
    pace: Pace,
    deadline: Option<Deadline>,
    head_sent: bool,
    malformed: bool,
    /// What the client is told where the response does not end well.
    code: Code,
}

impl Response {
    fn reset_malformed(&mut self) {
        self.code = Code::Protocol;
        let mut inner = self.link.inner.borrow_mut();
        inner.counts.resets_made += 1;
        if let Err(fatal) = inner.core.refuse(self.key, Code::Protocol, self.link.timers.known_now()) {
            inner.give_up(fatal);
        }
    }

    fn left(&self) -> Failure {
        self.link.gone(self.key).unwrap_or(Reason::ClientClosed.into())
    }

    /// Sends all of it, as the client gives room. One that takes a part gets its time anew, as long as it is fast
    /// enough.
    async fn send(&mut self, data: &mut Buf, end: bool) -> Result<(), Failure> {
        let mut waits = false;
        let mut asked = self.link.timers.known_now();
        let sent = poll_fn(|cx| {
            let before = data.len();
            match self.link.send_data(self.key, data, end) {
                Ok(true) => return Poll::Ready(Ok(())),
                Err(failure) => return Poll::Ready(Err(failure)),
                Ok(false) => {}
            }
            let deadline = waking(&mut self.deadline, &self.link, cx);
            let taken = before - data.len();
            if !waits || taken > 0 {
                let now = self.link.timers.known_now();
                if waits && !self.pace.keeps_up(now.since_ns(asked), taken) {
                    return Poll::Ready(Err(Reason::ClientTooSlow.into()));
                }
                (waits, asked) = (true, now);
                deadline.arm_in(self.timeout_ms, OnExpiry::ShutBoth);
            } else if deadline.fired() {
                return Poll::Ready(Err(Reason::ClientStalled.into()));
            }
            Poll::Pending
        })
        .await;
        if let Some(deadline) = self.deadline.as_ref().filter(|_| waits) {
            deadline.disarm();
            let waited_ns = self.link.timers.known_now().since_ns(asked);
            if sent.is_ok() && !end && !self.pace.keeps_up(waited_ns, 1) {
                return Err(Reason::ClientTooSlow.into());
            }
        }
        sent
    }

    async fn send_chunk(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        let Chunk { mut data, end, trailers } = chunk;
        self.send(&mut data, end && trailers.is_none()).await?;
        if let Some(trailers) = trailers.filter(|_| end) {
            self.send_trailers(&trailers)?;
        }
        data.clear();
        Ok(data)
    }

    fn send_trailers(&mut self, trailers: &Fields) -> Result<(), Failure> {
        let mut inner = self.link.inner.borrow_mut();
        let sent = inner.core.head(self.key, true, |encoder, out| {
            head::write_fields(encoder, out, trailers, head::CONNECTION_SPECIFIC.and(NameSet::none()));
        });
        drop(inner);
        if sent { Ok(()) } else { Err(self.left()) }
    }
}

impl ResponseSink for Response {
    async fn send_continue(&mut self) -> Result<(), Failure> {
        let sent = self.link.inner.borrow_mut().core.head(self.key, false, |encoder, out| encoder.status(out, 100));
        if sent { Ok(()) } else { Err(self.left()) }
    }

    async fn send_interim(&mut self, x: &Exchange) -> Result<(), Failure> {
        let write = |encoder: &mut _, out: &mut _| head::write_interim(encoder, out, x);
        let sent = self.link.inner.borrow_mut().core.head(self.key, false, write);
        if sent { Ok(()) } else { Err(self.left()) }
    }

    async fn send_head(&mut self, x: &mut Exchange, first: Chunk) -> Result<(), Failure> {
        if self.malformed {
            self.reset_malformed();
            return Ok(());
        }
        if x.request.upgrade.is_some() && (200..300).contains(&x.response.status) {
            // The client would take it for the tunnel that it asked for.
            return Err(Failure::with(Reason::ProtocolUnsupported, "answered without a tunnel"));
        }
        let whole = first.end && first.trailers.is_none();
        let length = match x.response.body {
            // HEAD and 304 may say how long the body would be; 1xx and 204 may not (RFC 9110 section 8.6).
            BodyLength::None => x.response.declared_length.filter(|_| x.response.status != 204),
            BodyLength::Known(length) => Some(length),
            _ if whole => Some(first.data.len() as u64),
            _ => None,
        };
        let end = whole && first.data.is_empty();
        let write = |encoder: &mut _, out: &mut _| head::write_response(encoder, out, x, length);
        let sent = self.link.inner.borrow_mut().core.head(self.key, end, write);
        if !sent {
            return Err(self.left());
        }
        self.head_sent = true;
        x.response_bytes += first.data.len() as u64;
        if !first.end {
            // The body may take its time; nobody looks at these fields again (F11).
            x.response.fields.clear();
        }
        if end || (first.data.is_empty() && !first.end) {
            return Ok(());
        }
        self.send_chunk(first).await.map(drop)
    }

    async fn send_body(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        if chunk.is_nothing() {
            return Ok(chunk.data);
        }
        self.send_chunk(chunk).await
    }

    async fn send_switch(&mut self, x: &mut Exchange) -> Result<(), Failure> {
        x.response.status = 200;
        let write = |encoder: &mut _, out: &mut _| head::write_response(encoder, out, x, None);
        if !self.link.inner.borrow_mut().core.head(self.key, false, write) {
            return Err(self.left());
        }
        self.head_sent = true;
        Ok(())
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.link.local_addr()
    }

    fn head_sent(&self) -> bool {
        self.head_sent
    }

    fn abort(&mut self) {
        if !self.head_sent {
            self.code = Code::Cancel;
        }
    }

    fn close_after(&mut self) {}
}
