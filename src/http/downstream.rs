//! What the pipeline needs of a wire on the client's side. An HTTP/1 connection implements it, later an HTTP/2 or
//! HTTP/3 stream; tests implement it in memory.

use std::net::SocketAddr;

use super::body::Chunk;
use super::exchange::Exchange;
use crate::error::{Failure, Reason};
use crate::net::splice::End;
use crate::sys::buf::Buf;

/// One request's client side, in two parts that are used at the same time: the body comes in while the response goes
/// out.
pub trait Downstream {
    /// Where the request body comes from.
    type Body: RequestBody;
    /// Where the response goes.
    type Response: ResponseSink;

    /// Both parts.
    fn split(&mut self) -> (&mut Self::Body, &mut Self::Response);

    /// Whether the client is gone, as far as can be told without reading: asked while a request waits in a queue. A
    /// client that has closed its sending side counts as gone.
    fn has_left(&self) -> bool {
        false
    }
}

/// The request body.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait RequestBody {
    /// What has already arrived, without waiting. None when nothing has.
    ///
    /// # Errors
    /// A broken body.
    fn ready(&mut self) -> Result<Option<Chunk>, Failure>;

    /// The next piece. After one with `end` it is not called again.
    ///
    /// # Errors
    /// A broken body, a body over its bound, a client that stalls or leaves.
    async fn next(&mut self) -> Result<Chunk, Failure>;

    /// Where the body's bytes can be taken as they stand, and how many are left; none of them has been read.
    fn raw(&self) -> Option<(End<'_>, u64)> {
        None
    }

    /// So many of those bytes were taken.
    fn raw_taken(&mut self, _bytes: u64) {}

    /// What it means that taking them stopped.
    fn raw_failed(&self) -> Failure {
        Reason::ClientClosed.into()
    }

    /// Whether the end was handed out.
    fn is_done(&self) -> bool;

    /// From now on the body is only read so that the connection can go on or close cleanly: within this bound of bytes
    /// and time it may end, else it fails.
    fn begin_drain(&mut self);

    /// To be called while a `next` is under way and the response is complete or is not to come: with what becomes of
    /// the rest of the body.
    fn stopper(&self) -> Box<dyn Fn(Rest)>;
}

/// What becomes of the rest of a body whose exchange has ended before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// Nobody wants it: the `next` under way takes no longer than so many milliseconds, and fails where it does.
    Unwanted(u64),
    /// It is read on later: the `next` under way ends soon, with nothing where nothing has come. Where it cannot be
    /// ended without a loss it waits for the client as long as for what is unwanted.
    Later,
}

/// The response's way out.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait ResponseSink {
    /// Sends `100 Continue`.
    ///
    /// # Errors
    /// The client left or stalls.
    async fn send_continue(&mut self) -> Result<(), Failure>;

    /// Sends the interim response (1xx) in `x.response`.
    ///
    /// # Errors
    /// The client left or stalls.
    async fn send_interim(&mut self, x: &Exchange) -> Result<(), Failure>;

    /// Sends the head in `x.response` with the first piece of the body.
    ///
    /// # Errors
    /// The client left or stalls.
    async fn send_head(&mut self, x: &mut Exchange, first: Chunk) -> Result<(), Failure>;

    /// Sends a further piece. Returns its emptied buffer for reuse.
    ///
    /// # Errors
    /// The client left or stalls.
    async fn send_body(&mut self, chunk: Chunk) -> Result<Buf, Failure>;

    /// Where the body's bytes can be put as they are.
    fn raw(&self) -> Option<End<'_>> {
        None
    }

    /// Putting them there stopped. Returns what that means.
    fn raw_failed(&mut self) -> Failure {
        Reason::ClientClosed.into()
    }

    /// Sends the 101 in `x.response`, or what the wire has in its place, which opens the tunnel that
    /// `x.request.upgrade` asks for. Its status is what the client was told afterwards.
    ///
    /// # Errors
    /// The client left or stalls.
    async fn send_switch(&mut self, x: &mut Exchange) -> Result<(), Failure>;

    /// The address that the client connected to, where it is known.
    fn local_addr(&self) -> Option<SocketAddr>;

    /// Whether a final response head was sent.
    fn head_sent(&self) -> bool;

    /// The response ends here without being complete: the client must see an error, never a whole message (F24).
    fn abort(&mut self);

    /// The connection ends after this response.
    fn close_after(&mut self);
}
