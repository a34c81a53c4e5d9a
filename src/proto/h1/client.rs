//! The client's side of an HTTP/1 connection to an endpoint.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use super::body::{BodyError, BodyReader};
use super::parse::{HeadLimits, Parsed};
use super::response;
use super::serialise;
use super::server::part;
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::message::{BodyLength, Method, ResponseHead};
use crate::limits::{BUF_LARGE_BYTES, BUF_TINY_BYTES, SEND_CHECK_MS};
use crate::net::duplex::Duplex;
use crate::net::io::{Io, ReadHalf, WriteHalf, send_all};
use crate::net::splice::End;
use crate::net::timer::{Deadline, OnExpiry, Timers};
use crate::proto::upstream::{Interrupter, RequestSink, ResponseSource, Soon, Upstream};
use crate::sys::buf::Buf;
use crate::sys::order::Order;
use crate::time::Now;

/// One upstream connection.
pub struct ClientConnection<I: Io> {
    /// Where requests go.
    pub sender: Sender<I::Write>,
    /// Where responses come from.
    pub receiver: Receiver<I::Read>,
    /// Requests that were sent on it.
    pub uses: u64,
    /// When it became idle last.
    pub idle_since: Now,
    /// Under TLS what arrives need not be an answer: sessions are offered at any time.
    is_secure: bool,
}

impl<I: Io> ClientConnection<I> {
    /// Takes over a connected stream.
    pub fn new(io: I, timers: &Rc<Timers>) -> Self {
        let is_secure = io.agreed().is_some();
        let (read, write, interrupt) = io.split();
        let sending = Rc::new(timers.deadline(interrupt.clone()));
        Self {
            sender: Sender { write, deadline: sending.clone() },
            receiver: Receiver {
                read,
                deadline: timers.deadline(interrupt),
                body: BodyReader::new(BodyLength::None, Buf::empty()),
                keeps: false,
                until_close: false,
                sending,
                order: None,
            },
            uses: 0,
            idle_since: timers.known_now(),
            is_secure,
        }
    }

    /// It waits for its next request from `now` on. What comes before that is sent is nobody's answer.
    pub fn rest(&mut self, now: Now) {
        self.idle_since = now;
        if !self.is_secure && self.receiver.order.is_none() {
            self.receiver.order = Some(Rc::default());
        }
    }

    /// Whether unasked bytes are found only by a look before the next request.
    pub const fn needs_look(&self) -> bool {
        self.is_secure
    }

    /// The connection without its wire: a response has ended it. What stood behind that response goes first.
    pub fn into_duplex(self, timers: &Rc<Timers>) -> Duplex<I> {
        let Receiver { read, deadline, body, .. } = self.receiver;
        Duplex::new(read, self.sender.write, deadline.interrupt(), body.into_rest(), timers)
    }

    /// Whether an idle connection is still open and silent.
    pub fn is_quiet(&self) -> bool {
        self.receiver.deadline.target().is_quiet()
    }

    /// Whether the exchange left the connection fit for another one: the response is complete, the endpoint keeps it,
    /// and nothing stands behind the response (F34). Where the last read filled its buffer, the system is asked.
    pub fn is_reusable(&self) -> bool {
        let body = &self.receiver.body;
        self.receiver.keeps && body.is_done() && !body.has_rest() && (!body.may_have_more() || self.is_quiet())
    }
}

impl<I: Io> Upstream for ClientConnection<I> {
    type Request = Sender<I::Write>;
    type Response = Receiver<I::Read>;

    #[inline]
    fn split(&mut self) -> (&mut Sender<I::Write>, &mut Receiver<I::Read>) {
        (&mut self.sender, &mut self.receiver)
    }
}

/// Sends requests.
pub struct Sender<W> {
    write: W,
    deadline: Rc<Deadline>,
}

impl<W: WriteHalf> RequestSink for Sender<W> {
    #[inline]
    fn join(&mut self, head: Buf, first: Chunk, chunked: bool) -> (Buf, Option<Buf>) {
        let coded = if chunked { serialise::chunk(first) } else { first.data };
        Buf::join(head, coded)
    }

    #[inline]
    async fn send(&mut self, buf: Buf, timeout_ms: u64) -> Result<Buf, Failure> {
        // An endpoint that reads no more may still be answering.
        self.deadline.arm_in(timeout_ms, OnExpiry::ShutWrite);
        let sent = pin!(send_all(&mut self.write, buf)).await;
        self.deadline.disarm();
        match sent {
            Ok(buf) => Ok(buf),
            Err(_) if self.deadline.fired() => Err(Failure::with(Reason::UpstreamTimeout, "endpoint does not read")),
            Err(_) => Err(Failure::with(Reason::UpstreamReset, "sending failed")),
        }
    }

    async fn send_body(&mut self, chunk: Chunk, chunked: bool, timeout_ms: u64) -> Result<Buf, Failure> {
        let coded = if chunked { serialise::chunk(chunk) } else { chunk.data };
        if coded.is_empty() {
            return Ok(coded);
        }
        self.send(coded, timeout_ms).await
    }

    fn raw(&self, timeout_ms: u64) -> Option<End<'_>> {
        let stream = self.write.socket()?;
        let (deadline, on_expiry) = (&*self.deadline, OnExpiry::ShutWrite);
        Some(End { stream, deadline, on_expiry, timeout_ms, due: Now::NEVER, pace: None })
    }

    fn interrupter(&self) -> Interrupter {
        Interrupter::new(self.deadline.clone())
    }
}

/// Receives responses.
pub struct Receiver<R> {
    read: R,
    deadline: Deadline,
    body: BodyReader,
    keeps: bool,
    /// The close of the connection ends the body.
    until_close: bool,
    /// The sender's deadline. When it has fired, the gateway itself has shut the connection down: an end that is read
    /// from then on is not the endpoint's.
    sending: Rc<Deadline>,
    /// Of a connection that has rested.
    order: Option<Rc<Order>>,
}

impl<R: ReadHalf> ResponseSource for Receiver<R> {
    async fn recv_head(
        &mut self,
        head: &mut ResponseHead,
        method: Method,
        limits: &HeadLimits,
        due: Now,
    ) -> Result<(), Failure> {
        let buf = self.begin_head(head);
        self.deadline.arm(due, OnExpiry::ShutBoth);
        self.read_head(head, method, limits, buf).await
    }

    /// Comes back early after [`SEND_CHECK_MS`].
    async fn recv_head_soon(
        &mut self,
        head: &mut ResponseHead,
        method: Method,
        limits: &HeadLimits,
        due: Now,
        room: usize,
    ) -> Result<Soon, Failure> {
        let buf = self.begin_head(head);
        debug_assert!(buf.is_empty(), "bytes of a response before its request");
        self.deadline.arm_in(SEND_CHECK_MS, OnExpiry::Release);
        let (count, buf) = pin!(self.read.recv_idle(Buf::with_room(room))).await;
        match count {
            Ok(count) if count > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(Soon::Late),
            Ok(_) => return Err(Reason::UpstreamClosed.into()),
            Err(_) => return Err(Reason::UpstreamReset.into()),
        }
        self.deadline.arm(due, OnExpiry::ShutBoth);
        // Nearly every head comes whole: it is read here, without a wait.
        if let Parsed::Complete(bytes) = response::parse_lines(buf.as_slice(), limits, head)? {
            self.deadline.disarm();
            return self.accept_head(head, buf, bytes, method).map(|()| Soon::Received);
        }
        self.read_head(head, method, limits, buf).await.map(|()| Soon::Received)
    }

    #[inline]
    fn first_body(&mut self) -> Result<Chunk, Failure> {
        match self.body.ready() {
            Ok(chunk) => Ok(chunk.unwrap_or_default()),
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn next_body(&mut self, due: Now) -> Result<Chunk, Failure> {
        self.deadline.arm(due, OnExpiry::ShutBoth);
        match self.body.next(&mut self.read).await {
            Ok(chunk) if chunk.end && self.until_close && self.deadline.fired() => Err(Reason::UpstreamTimeout.into()),
            Ok(chunk) if chunk.end && self.until_close && self.sending.fired() => Err(Reason::UpstreamTruncated.into()),
            Ok(chunk) => {
                self.deadline.disarm();
                Ok(chunk)
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn waiting(&self) -> Deadline {
        self.deadline.clone()
    }

    fn raw(&self, timeout_ms: u64, due: Now) -> Option<(End<'_>, u64)> {
        let left = self.body.raw_left()?;
        let stream = self.read.socket()?;
        let (deadline, on_expiry) = (&self.deadline, OnExpiry::ShutBoth);
        Some((End { stream, deadline, on_expiry, timeout_ms, due, pace: None }, left))
    }

    fn raw_taken(&mut self, bytes: u64) {
        self.body.raw_taken(bytes);
    }

    fn raw_failed(&self) -> Failure {
        self.failure(&BodyError::Truncated)
    }

    fn spoil(&mut self) {
        self.keeps = false;
    }

    #[inline]
    fn order(&self) -> Option<Rc<Order>> {
        self.order.clone()
    }
}

impl<R: ReadHalf> Receiver<R> {
    /// Empties the head. Returns the bytes that an interim response brought along.
    fn begin_head(&mut self, head: &mut ResponseHead) -> Buf {
        head.clear();
        let nothing = BodyReader::new(BodyLength::None, Buf::empty());
        std::mem::replace(&mut self.body, nothing).into_rest()
    }

    async fn read_head(
        &mut self,
        head: &mut ResponseHead,
        method: Method,
        limits: &HeadLimits,
        mut buf: Buf,
    ) -> Result<(), Failure> {
        loop {
            if !buf.is_empty()
                && let Parsed::Complete(bytes) = response::parse_lines(buf.as_slice(), limits, head)?
            {
                self.deadline.disarm();
                return self.accept_head(head, buf, bytes, method);
            }
            if !buf.has_storage() {
                buf = Buf::small();
            } else if buf.spare() == 0 {
                buf.reserve(BUF_LARGE_BYTES);
            }
            let (count, back) = self.read.recv(buf).await;
            buf = back;
            match count {
                Ok(count) if count > 0 => {}
                _ if self.deadline.fired() => return Err(Reason::UpstreamTimeout.into()),
                Ok(_) if buf.is_empty() => return Err(Reason::UpstreamClosed.into()),
                Ok(_) => return Err(Failure::with(Reason::UpstreamInvalid, "response head ended early")),
                Err(_) => return Err(Reason::UpstreamReset.into()),
            }
        }
    }

    fn accept_head(
        &mut self,
        head: &mut ResponseHead,
        mut buf: Buf,
        head_bytes: usize,
        method: Method,
    ) -> Result<(), Failure> {
        let filled = buf.spare() == 0;
        let rest = if head_bytes <= BUF_TINY_BYTES.min(buf.len() - head_bytes) {
            // A short head before more of a body: the buffer goes on as that body.
            head.fields.set_copy(&buf.as_slice()[..head_bytes]);
            buf.consume(head_bytes);
            buf
        } else {
            let (head_buf, rest) = part(buf, head_bytes);
            head.fields.set_buffer(head_buf);
            rest
        };
        self.keeps = response::interpret_lines(head, method)?;
        self.until_close = head.body == BodyLength::UntilClose;
        self.body = BodyReader::new(head.body, rest);
        self.body.set_filled(filled);
        Ok(())
    }

    fn failure(&self, error: &BodyError) -> Failure {
        match error {
            BodyError::Broken(what) => Failure::with(Reason::UpstreamBadChunk, what),
            _ if self.deadline.fired() => Reason::UpstreamTimeout.into(),
            _ => Reason::UpstreamTruncated.into(),
        }
    }
}
