//! One exchange on a connection, as the copy loop wants it.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;

use super::link::{Bell, Link};
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::fields::Fields;
use crate::http::message::{Method, ResponseHead};
use crate::net::timer::{Deadline, OnExpiry};
use crate::proto::h1::parse::HeadLimits;
use crate::proto::h2::core::Key;
use crate::proto::upstream::{Interrupter, RequestSink, ResponseSource, Soon, Upstream};
use crate::sys::buf::Buf;
use crate::time::Now;

/// A stream. Dropping it before both sides have ended resets it with CANCEL.
pub struct Stream {
    sender: Sender,
    receiver: Receiver,
    /// Whether its connection had served others before.
    pub was_used: bool,
}

impl Stream {
    pub(super) fn new(
        link: Rc<Link>,
        key: Key,
        bell: Rc<Bell>,
        receiving: Deadline,
        sending: Rc<Deadline>,
        was_used: bool,
    ) -> Self {
        let sender = Sender { link: link.clone(), key, bell: bell.clone(), deadline: sending, held: Held::default() };
        Self { sender, receiver: Receiver { link, key, bell, deadline: receiving }, was_used }
    }
}

impl Stream {
    /// Whether its connection has ended, and it with that: nobody has said anything of this stream alone.
    pub fn has_lost_connection(&self) -> bool {
        self.sender.link.is_over()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.sender.link.finish(self.sender.key);
    }
}

impl Upstream for Stream {
    type Request = Sender;
    type Response = Receiver;

    fn split(&mut self) -> (&mut Sender, &mut Receiver) {
        (&mut self.sender, &mut self.receiver)
    }
}

/// What follows the piece that is being sent.
#[derive(Default)]
struct Held {
    end: bool,
    trailers: Option<Box<Fields>>,
    /// The head is sent before the piece, and ends nothing.
    behind_head: bool,
}

/// The request's way up. Its head was written when the stream was opened.
pub struct Sender {
    link: Rc<Link>,
    key: Key,
    bell: Rc<Bell>,
    deadline: Rc<Deadline>,
    held: Held,
}

impl Sender {
    /// Sends what can be sent now. Returns whether all is sent, what follows included.
    fn push(&mut self, data: &mut Buf) -> Result<bool, Failure> {
        let Held { end, trailers, .. } = &self.held;
        let is_last = *end && trailers.is_none();
        if !self.link.send_data(self.key, data, is_last)? {
            return Ok(false);
        }
        let held = std::mem::take(&mut self.held);
        if let Some(trailers) = held.trailers.filter(|_| held.end) {
            self.link.send_trailers(self.key, &trailers);
        }
        Ok(true)
    }
}

impl RequestSink for Sender {
    fn join(&mut self, head: Buf, first: Chunk, _chunked: bool) -> (Buf, Option<Buf>) {
        let Chunk { mut data, end, trailers } = first;
        self.held = Held { end, trailers, behind_head: false };
        match self.push(&mut data) {
            Ok(true) => (head, None),
            // A stream that is over says so when the rest is sent.
            Ok(false) | Err(_) => {
                self.held.behind_head = true;
                (head, Some(data))
            }
        }
    }

    async fn send(&mut self, buf: Buf, timeout_ms: u64) -> Result<Buf, Failure> {
        let mut buf = buf;
        if buf.is_empty() && (std::mem::take(&mut self.held.behind_head) || !self.held.end) {
            // The head, which is on its way.
            self.link.wake_writer();
            return Ok(buf);
        }
        self.deadline.arm_in(timeout_ms, OnExpiry::ShutBoth);
        let sent = poll_fn(|cx| {
            if self.bell.shut.get() {
                let stalled = Failure::with(Reason::UpstreamTimeout, "endpoint does not read");
                let cut = Failure::with(Reason::UpstreamReset, "broken off");
                return Poll::Ready(Err(if self.deadline.fired() { stalled } else { cut }));
            }
            match self.push(&mut buf) {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => {
                    self.bell.wait_to_send(cx);
                    Poll::Pending
                }
                // As HTTP/1 says it: the endpoint may have answered before.
                Err(failure) if failure.reason == Reason::UpstreamTruncated => {
                    Poll::Ready(Err(Failure::with(Reason::UpstreamReset, failure.detail)))
                }
                Err(failure) => Poll::Ready(Err(failure)),
            }
        })
        .await;
        self.deadline.disarm();
        sent?;
        buf.clear();
        Ok(buf)
    }

    async fn send_body(&mut self, chunk: Chunk, _chunked: bool, timeout_ms: u64) -> Result<Buf, Failure> {
        let Chunk { data, end, trailers } = chunk;
        self.held = Held { end, trailers, behind_head: false };
        self.send(data, timeout_ms).await
    }

    fn interrupter(&self) -> Interrupter {
        Interrupter::new(self.deadline.clone())
    }
}

/// The response's way down.
pub struct Receiver {
    link: Rc<Link>,
    key: Key,
    bell: Rc<Bell>,
    deadline: Deadline,
}

impl Receiver {
    fn cut(&self, otherwise: Reason) -> Failure {
        if self.deadline.fired() { Reason::UpstreamTimeout.into() } else { otherwise.into() }
    }

    /// What `take` has, once it has something. `cut` is the failure of an exchange that was broken off from this side.
    fn receive<'a, T: 'a>(
        &'a self,
        due: Now,
        cut: Reason,
        mut take: impl FnMut() -> Result<Option<T>, Failure> + 'a,
    ) -> impl Future<Output = Result<T, Failure>> + 'a {
        self.deadline.arm(due, OnExpiry::ShutBoth);
        async move {
            let received = poll_fn(|cx| match take() {
                Ok(Some(taken)) => Poll::Ready(Ok(taken)),
                Ok(None) if self.bell.shut.get() => Poll::Ready(Err(self.cut(cut))),
                Ok(None) => {
                    self.bell.wait_to_receive(cx);
                    Poll::Pending
                }
                Err(failure) => Poll::Ready(Err(failure)),
            })
            .await;
            if received.is_ok() {
                self.deadline.disarm();
            }
            received
        }
    }
}

impl ResponseSource for Receiver {
    async fn recv_head(
        &mut self,
        head: &mut ResponseHead,
        _method: Method,
        _limits: &HeadLimits,
        due: Now,
    ) -> Result<(), Failure> {
        let take = || self.link.take_head(self.key, head).map(|taken| taken.then_some(()));
        self.receive(due, Reason::UpstreamReset, take).await
    }

    /// Never late: what is sent is looked after by the connection.
    async fn recv_head_soon(
        &mut self,
        head: &mut ResponseHead,
        method: Method,
        limits: &HeadLimits,
        due: Now,
        _room: usize,
    ) -> Result<Soon, Failure> {
        self.recv_head(head, method, limits, due).await.map(|()| Soon::Received)
    }

    fn first_body(&mut self) -> Result<Chunk, Failure> {
        self.link.take_body(self.key).map(Option::unwrap_or_default)
    }

    async fn next_body(&mut self, due: Now) -> Result<Chunk, Failure> {
        self.receive(due, Reason::UpstreamTruncated, || self.link.take_body(self.key)).await
    }

    fn waiting(&self) -> Deadline {
        self.deadline.clone()
    }

    fn spoil(&mut self) {
        // The stream is reset when it is dropped.
    }
}
