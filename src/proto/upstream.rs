//! What the copy loop needs of a wire on the endpoint's side, as [`crate::http::downstream`] is what it needs of one on
//! the client's. An HTTP/1 connection implements it, and so does a stream of an HTTP/2 connection.
//!
//! Every call is resolved when the gateway is built: the loop exists once for each wire, and costs one what it would
//! cost if it were written for that wire alone.

use std::rc::Rc;

use super::h1::parse::HeadLimits;
use crate::error::Failure;
use crate::http::body::Chunk;
use crate::http::message::{Method, ResponseHead};
use crate::net::splice::End;
use crate::net::timer::Deadline;
use crate::sys::buf::Buf;
use crate::sys::order::Order;
use crate::time::Now;

/// One exchange with an endpoint, in two parts that are used at the same time: the request body goes up while the
/// response comes down.
pub trait Upstream {
    /// Where the request goes.
    type Request: RequestSink;
    /// Where the response comes from.
    type Response: ResponseSource;

    /// Both parts.
    fn split(&mut self) -> (&mut Self::Request, &mut Self::Response);
}

/// The request's way up. A head is written before it comes here, in the form that its wire sends: as the text of an
/// HTTP/1 message, or, for a wire whose connection has written it in its own order, as nothing.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait RequestSink {
    /// Joins the head with the first piece of the body, so that both leave in one send. Returns what is left to be sent
    /// after that. `chunked`: the body's length was not declared.
    fn join(&mut self, head: Buf, first: Chunk, chunked: bool) -> (Buf, Option<Buf>);

    /// Sends the whole window within `timeout_ms`. Returns the emptied buffer.
    ///
    /// # Errors
    /// [`crate::error::Reason::UpstreamTimeout`] or [`crate::error::Reason::UpstreamReset`].
    async fn send(&mut self, buf: Buf, timeout_ms: u64) -> Result<Buf, Failure>;

    /// Sends a piece of the request body. `chunked`: its length was not declared.
    ///
    /// # Errors
    /// As [`Self::send`].
    async fn send_body(&mut self, chunk: Chunk, chunked: bool, timeout_ms: u64) -> Result<Buf, Failure>;

    /// Where the request body's bytes can be put as they are.
    fn raw(&self, _timeout_ms: u64) -> Option<End<'_>> {
        None
    }

    /// A handle that ends whatever waits on the exchange.
    fn interrupter(&self) -> Interrupter;
}

/// The response's way down.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait ResponseSource {
    /// Receives a response head into `head`; interim responses come as they are. Waits until `due`.
    ///
    /// # Errors
    /// The reason why there is no valid head.
    async fn recv_head(
        &mut self,
        head: &mut ResponseHead,
        method: Method,
        limits: &HeadLimits,
        due: Now,
    ) -> Result<(), Failure>;

    /// As [`Self::recv_head`], but may come back early from the wait for its first byte, once, so that the caller can
    /// look after the request's sending. `recv_head` goes on from there. `room` is how much the first read may bring,
    /// in bytes.
    ///
    /// # Errors
    /// As [`Self::recv_head`].
    async fn recv_head_soon(
        &mut self,
        head: &mut ResponseHead,
        method: Method,
        limits: &HeadLimits,
        due: Now,
        room: usize,
    ) -> Result<Soon, Failure>;

    /// The piece of the body that came along with the head, without waiting.
    ///
    /// # Errors
    /// The body is broken.
    fn first_body(&mut self) -> Result<Chunk, Failure>;

    /// The next piece of the body. Waits until `due`.
    ///
    /// # Errors
    /// The response cannot be completed.
    async fn next_body(&mut self, due: Now) -> Result<Chunk, Failure>;

    /// A handle to put the deadline of a wait off that is under way.
    fn waiting(&self) -> Deadline;

    /// Where the body's bytes can be taken as they stand, and how many are left; none of them has been read.
    fn raw(&self, _timeout_ms: u64, _due: Now) -> Option<(End<'_>, u64)> {
        None
    }

    /// So many of those bytes were taken.
    fn raw_taken(&mut self, _bytes: u64) {}

    /// What it means that taking them stopped.
    fn raw_failed(&self) -> Failure {
        crate::error::Reason::UpstreamTruncated.into()
    }

    /// The request was not taken to its end, although the response was complete.
    fn spoil(&mut self);

    /// On a connection that was kept from an earlier request: what tells whether something lay there before this one
    /// was sent, and is therefore no answer to it (F34).
    fn order(&self) -> Option<Rc<Order>> {
        None
    }
}

/// How [`ResponseSource::recv_head_soon`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Soon {
    /// The head is there.
    Received,
    /// Nothing has come yet.
    Late,
}

/// Ends whatever waits on an exchange.
pub struct Interrupter(Rc<Deadline>);

impl Interrupter {
    /// Ends what waits for this deadline.
    pub fn new(deadline: Rc<Deadline>) -> Self {
        Self(deadline)
    }

    /// Whether the deadline has passed.
    pub fn is_late(&self) -> bool {
        self.0.fired()
    }

    /// Breaks the exchange off if `condition` holds; its connection or stream is never used again then.
    pub fn shutdown_if(&self, condition: bool) {
        if condition {
            self.0.expire();
        }
    }
}
