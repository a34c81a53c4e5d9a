//! The server's side of an HTTP/1 connection: waits for requests, reads their heads and bodies, writes responses.
//!
//! ```text
//! wait_request ─► read_head ─► (pipeline uses `downstream()`) ─► finish ─► wait_request | close
//! ```

mod prior;
mod proxied;

pub use proxied::receive as receive_proxy_header;

mod switch;

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::body::{BodyError, BodyReader};
use super::parse::{HeadLimits, Parsed};
use super::request::{self, Accepted};
use super::serialise;
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::{Downstream, RequestBody, ResponseSink};
use crate::http::exchange::Exchange;
use crate::http::ipset::IpSet;
use crate::http::message::{BodyLength, Version};
use crate::http::name::{Name, NameSet};
use crate::http::pace::MinRate;
use crate::http::path::PathPolicy;
use crate::limits::{self, BUF_SMALL_BYTES, BUF_TINY_BYTES, DRAIN_BODY_BYTES_MAX, IDLE_RELEASE_MS, LINGER_MS};
use crate::net::io::{Io, ReadHalf, WriteHalf};
use crate::net::pace::Pace;
use crate::net::splice::End;
use crate::net::timer::{Deadline, OnExpiry, Timers, Waits};
use crate::sys::buf::Buf;
use crate::time::Now;

/// A listener's rules for its connections. Defaults stand in `limits.rs`.
#[derive(Clone, Debug)]
pub struct ServerRules {
    /// Bounds of a request head.
    pub head: HeadLimits,
    /// Whole request head, from its first byte, in milliseconds.
    pub header_timeout_ms: u64,
    /// Wait for the next request, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Pause in a request body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Pause of a client that does not read, in milliseconds.
    pub write_timeout_ms: u64,
    /// How slowly a request body may come (F39).
    pub body_rate: MinRate,
    /// How slowly a response may be taken (F39).
    pub write_rate: MinRate,
    /// Request body, in bytes.
    pub body_bytes_max: u64,
    /// Requests on one connection.
    pub requests_max: u64,
    /// Age at which a connection is closed behind its next response, in milliseconds.
    pub age_ms_max: u64,
    /// Treatment of paths with several spellings.
    pub path_policy: PathPolicy,
    /// Peers whose forwarding fields are believed.
    pub trusted_proxies: IpSet,
    /// Each connection begins with a PROXY protocol header, from one of these peers; None for connections without.
    pub proxy_protocol: Option<IpSet>,
    /// HTTP/2 is offered over TLS.
    pub h2: bool,
    /// HTTP/2 without TLS is spoken with clients that begin with it (RFC 9113 section 3.3).
    pub h2c: bool,
}

impl Default for ServerRules {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            header_timeout_ms: limits::HEADER_TIMEOUT_MS,
            idle_timeout_ms: limits::IDLE_TIMEOUT_MS,
            body_timeout_ms: limits::BODY_TIMEOUT_MS,
            write_timeout_ms: limits::WRITE_TIMEOUT_MS,
            body_rate: MinRate::default(),
            write_rate: MinRate::default(),
            body_bytes_max: limits::BODY_BYTES_MAX,
            requests_max: limits::REQUESTS_PER_CONNECTION_MAX,
            age_ms_max: limits::CONNECTION_AGE_MS_MAX,
            path_policy: PathPolicy::default(),
            trusted_proxies: IpSet::default(),
            proxy_protocol: None,
            h2: true,
            h2c: false,
        }
    }
}

impl ServerRules {
    /// How long a sending may wait before its progress is looked at, in milliseconds.
    pub(in crate::proto) fn first_look_ms(&self) -> u64 {
        self.write_timeout_ms.min(self.write_rate.grace_ms.max(1))
    }

    /// From then on, what the client must take until the next look decides: within `write_timeout` in all something,
    /// and as much as the rate asks for.
    pub(in crate::proto) fn watch(&self, sending: &Deadline) {
        let again_ms = self.write_timeout_ms - self.first_look_ms();
        let bytes_min = self.write_rate.bytes_per_s.saturating_mul(again_ms) / 1_000;
        sending.watch(again_ms, bytes_min.max(1));
    }

    /// Whether a peer's forwarding fields are believed.
    #[inline]
    pub fn trusts(&self, peer: std::net::IpAddr) -> bool {
        !self.trusted_proxies.is_empty() && self.trusted_proxies.contains(peer)
    }

    /// Gives the head whose lines were entered into `x.request` its meaning under these rules. `head` holds its bytes.
    ///
    /// # Errors
    /// The reason to refuse the request.
    pub fn accept(&self, x: &mut Exchange, head: Buf, head_bytes: usize) -> Result<Accepted, Failure> {
        x.peer_is_trusted = self.trusts(x.peer.ip());
        request::interpret(&mut x.request, head, head_bytes, self.path_policy, x.peer_is_trusted)
    }
}

/// How a connection waits for its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Patience {
    /// For [`IDLE_RELEASE_MS`] with a buffer in hand: what a busy connection does.
    Short,
    /// For the rest of the idle time without one.
    Long,
}

/// How a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waited {
    /// There are bytes.
    Arrived,
    /// The short wait is over; the buffer was given back.
    Released,
    /// The client left, was idle for too long, or the gateway drains.
    Over,
}

/// One downstream connection.
pub struct Connection<I: Io> {
    read: I::Read,
    write: I::Write,
    read_deadline: Deadline,
    write_deadline: Deadline,
    timers: Rc<Timers>,
    rules: Arc<ServerRules>,
    /// Bytes that were read and belong to no message yet.
    carry: Buf,
    /// The last read would not have fitted the smallest buffer, or nothing is known yet.
    roomy: bool,
    requests: u64,
    opened: Now,
    keep: Keep,
}

/// Whether the connection outlives the present exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keep {
    /// Yes.
    Alive,
    /// It closes behind the response.
    Close,
    /// It closes, and the client may still be sending: read for a while, so that the close does not destroy the answer.
    Linger,
    /// It is cut at once.
    Abort,
    /// It is no HTTP connection any more.
    Switched,
}

impl<I: Io> Connection<I> {
    /// Takes over an accepted connection.
    pub fn new(io: I, timers: &Rc<Timers>, rules: Arc<ServerRules>) -> Self {
        let (read, write, interrupt) = io.split();
        let write_deadline = timers.deadline(interrupt.clone());
        rules.watch(&write_deadline);
        Self {
            read,
            write,
            read_deadline: timers.deadline(interrupt),
            write_deadline,
            timers: timers.clone(),
            rules,
            carry: Buf::empty(),
            roomy: true,
            requests: 0,
            opened: timers.known_now(),
            keep: Keep::Alive,
        }
    }

    /// The listener's present rules: a reload holds from the next request on.
    #[inline]
    pub fn set_rules(&mut self, rules: &Arc<ServerRules>) {
        if !Arc::ptr_eq(&self.rules, rules) {
            self.rules = rules.clone();
            rules.watch(&self.write_deadline);
        }
    }

    /// The connection ends after the present exchange.
    pub fn close_after(&mut self) {
        if self.keep == Keep::Alive {
            self.keep = Keep::Close;
        }
    }

    /// Waits for the first byte of the next request: for a short while with a buffer in hand, or long and without one,
    /// so that an idle connection holds no buffer.
    pub async fn wait_request(&mut self, patience: Patience) -> Waited {
        if !self.carry.is_empty() {
            return Waited::Arrived;
        }
        self.carry = Buf::empty();
        self.read_deadline.set_waits(Some(if self.requests == 0 { Waits::First } else { Waits::Request }));
        let waited = match patience {
            Patience::Short => self.wait_with_buffer().await,
            Patience::Long => self.wait_without_buffer().await,
        };
        self.read_deadline.disarm();
        self.read_deadline.set_waits(None);
        waited
    }

    fn patience_ms(&self) -> u64 {
        match self.requests {
            0 => self.rules.header_timeout_ms,
            _ => self.rules.idle_timeout_ms,
        }
    }

    async fn wait_with_buffer(&mut self) -> Waited {
        self.read_deadline.arm_in(IDLE_RELEASE_MS.min(self.patience_ms()), OnExpiry::Release);
        let room = if self.roomy { BUF_SMALL_BYTES } else { BUF_TINY_BYTES };
        let (count, buf) = self.read.recv_idle(Buf::with_room(room)).await;
        match count {
            Ok(count) if count > 0 => {
                self.roomy = buf.spare() == 0 || buf.len() > BUF_TINY_BYTES;
                self.carry = buf;
                Waited::Arrived
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => Waited::Released,
            _ => Waited::Over,
        }
    }

    async fn wait_without_buffer(&mut self) -> Waited {
        let left_ms = self.patience_ms().saturating_sub(IDLE_RELEASE_MS);
        // Only reading is shut: a request that comes at the last moment is answered, with the close announced.
        self.read_deadline.arm_in(left_ms, OnExpiry::ShutRead);
        if self.read.readable().await.is_err() {
            return Waited::Over;
        }
        if self.read_deadline.fired() {
            self.requests = self.rules.requests_max.saturating_sub(1);
        }
        let (count, buf) = self.read.recv(Buf::small()).await;
        self.carry = buf;
        if matches!(count, Ok(count) if count > 0) { Waited::Arrived } else { Waited::Over }
    }

    /// Reads the head of the next request into `x`. On success the exchange's request is typed, canonical and stripped.
    ///
    /// # Errors
    /// The reason to refuse it; answer it and call [`Self::finish`]. [`Reason::ClientClosed`] cannot be answered.
    pub async fn read_head(&mut self, x: &mut Exchange) -> Result<(), Failure> {
        x.started = self.timers.now();
        self.requests += 1;
        // Until the head is understood, the end of this request is not known.
        self.keep = Keep::Linger;
        let head_bytes = match self.parse_head(x)? {
            Some(head_bytes) => head_bytes,
            None => self.read_more_head(x).await?,
        };
        self.accept_head(x, head_bytes)
    }

    fn parse_head(&mut self, x: &mut Exchange) -> Result<Option<usize>, Failure> {
        match request::parse_lines(self.carry.as_slice(), &self.rules.head, &mut x.request)? {
            Parsed::Complete(bytes) => Ok(Some(bytes)),
            Parsed::Partial => Ok(None),
        }
    }

    async fn read_more_head(&mut self, x: &mut Exchange) -> Result<usize, Failure> {
        self.read_deadline.arm(x.started.plus_ms(self.rules.header_timeout_ms), OnExpiry::ShutRead);
        self.read_deadline.set_waits(Some(Waits::Head));
        let read = self.read_rest_of_head(x).await;
        self.read_deadline.set_waits(None);
        self.read_deadline.disarm();
        read
    }

    async fn read_rest_of_head(&mut self, x: &mut Exchange) -> Result<usize, Failure> {
        loop {
            if self.carry.spare() == 0 {
                self.carry.reserve(self.carry.len().max(1));
            }
            let before = self.carry.len();
            let (count, buf) = self.read.recv(std::mem::take(&mut self.carry)).await;
            self.carry = buf;
            match count {
                Ok(0) | Err(_) if self.read_deadline.fired() => return Err(Reason::HeaderTimeout.into()),
                Ok(0) | Err(_) => {
                    // Nobody is there to be drained.
                    self.carry = Buf::empty();
                    self.keep = Keep::Close;
                    return Err(Reason::ClientClosed.into());
                }
                Ok(_) => {}
            }
            // A head that comes byte by byte is parsed again only where a line or a doubling makes it worth while.
            let news = &self.carry.as_slice()[before..];
            let worth = news.contains(&b'\n') || self.carry.len().is_power_of_two() || news.len() > before;
            if !worth && self.carry.len() < self.rules.head.target_bytes_max {
                continue;
            }
            x.request.clear();
            if let Some(head_bytes) = self.parse_head(x)? {
                return Ok(head_bytes);
            }
        }
    }

    fn accept_head(&mut self, x: &mut Exchange, head_bytes: usize) -> Result<(), Failure> {
        let (head, rest) = part(std::mem::take(&mut self.carry), head_bytes);
        self.carry = rest;
        let accepted = self.rules.accept(x, head, head_bytes)?;
        let wants_more = match x.request.version {
            Version::Http10 => accepted.connection.keep_alive && !accepted.connection.close,
            _ => !accepted.connection.close,
        };
        let spent = self.requests >= self.rules.requests_max
            || x.started.since_ns(self.opened) >= self.rules.age_ms_max.saturating_mul(1_000_000);
        self.keep = if wants_more && !spent { Keep::Alive } else { Keep::Close };
        Ok(())
    }

    /// The request under way, for the pipeline.
    pub fn downstream(&mut self, x: &Exchange) -> Http1<'_, I> {
        let length = x.request.body;
        // Bytes behind a bodiless request belong to the next one.
        let raw = match length {
            BodyLength::None | BodyLength::Known(0) => Buf::empty(),
            _ => std::mem::take(&mut self.carry),
        };
        Http1 {
            body: Body {
                reader: BodyReader::new(length, raw),
                read: &mut self.read,
                deadline: &self.read_deadline,
                timeout_ms: self.rules.body_timeout_ms,
                pace: pace(&self.rules.body_rate),
                // The route's bound is held where the body is used; this one is for draining.
                bytes_left: u64::MAX,
                draining: false,
            },
            response: Response {
                write: &mut self.write,
                deadline: &self.write_deadline,
                first_look_ms: self.rules.first_look_ms(),
                pace: pace(&self.rules.write_rate),
                version: x.request.version,
                coding: Coding::Plain,
                head_sent: false,
                keep: self.keep,
                unlooked_bytes: 0,
            },
        }
    }

    /// Takes back what [`Self::downstream`] lent. Returns whether another request may follow.
    pub fn finish(&mut self, lent: Finished) -> bool {
        // A drain of the body that ended early may have left its deadline behind.
        self.read_deadline.disarm();
        self.keep = match (lent.keep, lent.body_done) {
            (Keep::Alive, false) => Keep::Linger,
            (Keep::Close, false) => Keep::Linger,
            (keep, _) => keep,
        };
        if self.carry.is_empty() {
            self.carry = lent.rest;
        }
        self.keep == Keep::Alive
    }

    /// Ends the connection as its last exchange left it.
    pub async fn close(mut self) {
        let target = self.read_deadline.target();
        if matches!(self.keep, Keep::Close | Keep::Linger) {
            self.write_deadline.arm_watched(self.rules.first_look_ms());
            // One that cannot be told has left.
            let _ = self.write.finish().await;
            self.write_deadline.disarm();
        }
        match self.keep {
            Keep::Alive if self.carry.is_empty() => {}
            // Bytes that nobody has read (a pipelined request behind the last one) would make the close a reset.
            Keep::Close if self.carry.is_empty() && target.is_quiet() => {}
            Keep::Abort => target.reset(),
            _ => {
                target.shutdown(std::net::Shutdown::Write);
                Box::pin(self.linger()).await;
            }
        }
    }

    /// Reads and drops what the client still sends, so that the kernel does not answer it with a reset that destroys
    /// the response on its way (RFC 9112 section 9.6).
    async fn linger(&mut self) {
        self.read_deadline.arm(self.timers.now().plus_ms(LINGER_MS), OnExpiry::ShutBoth);
        self.read_deadline.set_waits(Some(Waits::Linger));
        let mut left = DRAIN_BODY_BYTES_MAX;
        let mut buf = std::mem::take(&mut self.carry);
        while left > 0 && !self.read_deadline.fired() {
            buf = if buf.has_storage() { buf } else { Buf::small() };
            buf.clear();
            let (count, back) = self.read.recv(buf).await;
            buf = back;
            match count {
                Ok(count) if count > 0 => left = left.saturating_sub(count as u64),
                _ => break,
            }
        }
    }
}

#[inline]
fn pace(rate: &MinRate) -> Pace {
    Pace::new(rate.bytes_per_s, rate.grace_ms)
}

/// Parts a buffer at the end of its head. The smaller part is copied.
pub(super) fn part(mut whole: Buf, head_bytes: usize) -> (Buf, Buf) {
    if whole.len() - head_bytes <= head_bytes {
        let rest = whole.split_off(head_bytes);
        return (whole, rest);
    }
    let head = Buf::copy_of(&whole.as_slice()[..head_bytes]);
    whole.consume(head_bytes);
    (head, whole)
}

/// What is left of a lent request.
pub struct Finished {
    keep: Keep,
    body_done: bool,
    rest: Buf,
}

/// A request under way on an HTTP/1 connection.
pub struct Http1<'c, I: Io> {
    body: Body<'c, I::Read>,
    response: Response<'c, I::Write>,
}

impl<I: Io> Http1<'_, I> {
    /// Gives the connection back.
    pub fn into_finished(mut self) -> Finished {
        // A body that was not asked for but has arrived is over without waiting.
        while !self.body.reader.is_done() && matches!(self.body.reader.ready(), Ok(Some(_))) {}
        Finished {
            keep: if self.body.draining && !self.body.reader.is_done() && self.response.keep == Keep::Alive {
                Keep::Linger
            } else {
                self.response.keep
            },
            body_done: self.body.reader.is_done(),
            rest: self.body.reader.into_rest(),
        }
    }
}

impl<'c, I: Io> Downstream for Http1<'c, I> {
    type Body = Body<'c, I::Read>;
    type Response = Response<'c, I::Write>;

    fn split(&mut self) -> (&mut Self::Body, &mut Self::Response) {
        (&mut self.body, &mut self.response)
    }

    fn has_left(&self) -> bool {
        self.response.deadline.target().has_left()
    }
}

/// The request body on an HTTP/1 connection.
pub struct Body<'c, R> {
    reader: BodyReader,
    read: &'c mut R,
    deadline: &'c Deadline,
    timeout_ms: u64,
    pace: Pace,
    bytes_left: u64,
    draining: bool,
}

impl<R: ReadHalf> Body<'_, R> {
    fn account(&mut self, chunk: Chunk) -> Result<Chunk, Failure> {
        match self.bytes_left.checked_sub(chunk.data.len() as u64) {
            Some(left) => self.bytes_left = left,
            None => return Err(Reason::BodyTooLarge.into()),
        }
        Ok(chunk)
    }

    fn failure(&self, error: &BodyError) -> Failure {
        match error {
            BodyError::Broken(what) => broken_body(what),
            _ if self.deadline.saw_movement() => Reason::BodyTooSlow.into(),
            _ if self.deadline.fired() => Reason::BodyTimeout.into(),
            BodyError::Truncated => Failure::with(Reason::ClientClosed, "request body ended early"),
            BodyError::Io(_) => Failure::with(Reason::ClientClosed, "reading the request body failed"),
        }
    }
}

/// A trailer section over its bounds is a header section too large (F40); all else is a broken coding.
fn broken_body(what: &'static str) -> Failure {
    let of_trailers = matches!(what, "over trailer_bytes_max" | "over fields_max");
    Failure::with(if of_trailers { Reason::HeaderTooLarge } else { Reason::BadChunk }, what)
}

impl<R: ReadHalf> RequestBody for Body<'_, R> {
    fn ready(&mut self) -> Result<Option<Chunk>, Failure> {
        match self.reader.ready() {
            Ok(Some(chunk)) => self.account(chunk).map(Some),
            Ok(None) => Ok(None),
            Err(error) => Err(self.failure(&error)),
        }
    }

    async fn next(&mut self) -> Result<Chunk, Failure> {
        if !self.draining {
            self.deadline.arm_in(self.timeout_ms, OnExpiry::ShutRead);
        }
        let asked = self.deadline.known_now();
        match self.reader.next(self.read).await {
            Ok(chunk) => {
                let waited_ns = self.deadline.known_now().since_ns(asked);
                if !self.pace.keeps_up(waited_ns, chunk.data.len()) && !chunk.end && !self.draining {
                    return Err(Reason::BodyTooSlow.into());
                }
                // A drain has one deadline for all of it: a client that trickles does not renew it.
                if !self.draining || chunk.end {
                    self.deadline.disarm();
                }
                self.account(chunk)
            }
            Err(error) => Err(self.failure(&error)),
        }
    }

    fn raw(&self) -> Option<(End<'_>, u64)> {
        let left = self.reader.raw_left().filter(|_| !self.draining)?;
        let (stream, deadline) = (self.read.socket()?, self.deadline);
        let (on_expiry, timeout_ms, due, pace) = (OnExpiry::ShutRead, self.timeout_ms, Now::NEVER, Some(self.pace));
        Some((End { stream, deadline, on_expiry, timeout_ms, due, pace }, left))
    }

    fn raw_taken(&mut self, bytes: u64) {
        self.reader.raw_taken(bytes);
    }

    fn raw_failed(&self) -> Failure {
        self.failure(&BodyError::Truncated)
    }

    fn is_done(&self) -> bool {
        self.reader.is_done()
    }

    fn begin_drain(&mut self) {
        if !self.draining {
            self.draining = true;
            self.bytes_left = DRAIN_BODY_BYTES_MAX;
            self.deadline.arm_in(LINGER_MS, OnExpiry::ShutRead);
        }
    }

    fn drain_limit(&self) -> Box<dyn Fn()> {
        let deadline = self.deadline.clone();
        Box::new(move || deadline.arm_in(LINGER_MS, OnExpiry::ShutRead))
    }
}

/// How the response body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    /// By its length, by the close, or not at all: bytes go out as they are.
    Plain,
    /// Chunked.
    Chunked,
}

/// The response's way out on an HTTP/1 connection.
pub struct Response<'c, W> {
    write: &'c mut W,
    deadline: &'c Deadline,
    first_look_ms: u64,
    pace: Pace,
    version: Version,
    coding: Coding,
    head_sent: bool,
    keep: Keep,
    /// Bytes that were sent since the kernel was asked whether it takes more.
    unlooked_bytes: usize,
}

/// After so many bytes the kernel is asked whether it takes more. Most responses are shorter and never ask.
const LOOK_BYTES: usize = 16 * 1024;

impl<W: WriteHalf> Response<'_, W> {
    /// Sends all of it. A client that takes a part gets its time anew, as long as it is fast enough.
    async fn send(&mut self, mut buf: Buf) -> Result<Buf, Failure> {
        while !buf.is_empty() {
            self.deadline.arm_watched(self.first_look_ms);
            let asked = self.deadline.known_now();
            let (sent, back) = self.write.send(buf).await;
            buf = back;
            match sent {
                Ok(count) if count > 0 => {
                    buf.consume(count);
                    let waited_ns = self.deadline.known_now().since_ns(asked);
                    if !self.pace.keeps_up(waited_ns, count) && !buf.is_empty() {
                        return Err(self.give_up(Reason::ClientTooSlow));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => return Err(self.raw_failed()),
            }
        }
        self.deadline.disarm();
        buf.clear();
        Ok(buf)
    }

    #[cold]
    fn give_up(&mut self, reason: Reason) -> Failure {
        self.deadline.disarm();
        self.keep = Keep::Abort;
        reason.into()
    }

    fn has_room(&mut self) -> bool {
        self.unlooked_bytes = 0;
        self.write.has_room()
    }

    /// Waits until the client has read some of what the kernel holds for it, before the next piece is fetched: a client
    /// that does not read holds no buffer meanwhile (F11, F12).
    async fn wait_for_room(&mut self) -> Result<(), Failure> {
        self.deadline.arm_watched(self.first_look_ms);
        // What is wrong with the connection is found by the next send.
        let _ = self.write.writable().await;
        self.deadline.disarm();
        if self.deadline.fired() { Err(self.raw_failed()) } else { Ok(()) }
    }

    /// Decides how the body is delimited and writes the fields that say so (RFC 9112 section 6.1).
    fn write_framing(&mut self, out: &mut Buf, x: &Exchange, first: &Chunk) {
        let whole = first.end && first.trailers.is_none();
        match x.response.body {
            BodyLength::None => {
                // HEAD and 304 may say how long the body would be; 1xx and 204 may not (RFC 9110 section 8.6).
                if let Some(length) = x.response.declared_length.filter(|_| x.response.status >= 200)
                    && x.response.status != 204
                {
                    serialise::content_length(out, length);
                }
            }
            BodyLength::Known(length) => serialise::content_length(out, length),
            _ if whole => serialise::content_length(out, first.data.len() as u64),
            _ if self.version == Version::Http10 => self.keep = Keep::Close,
            _ => {
                self.coding = Coding::Chunked;
                out.extend(b"Transfer-Encoding: chunked\r\n");
            }
        }
    }

    fn write_connection(&self, out: &mut Buf) {
        match (self.keep, self.version) {
            (Keep::Alive, Version::Http10) => out.extend(b"Connection: keep-alive\r\n"),
            (Keep::Alive, _) => {}
            _ => out.extend(b"Connection: close\r\n"),
        }
    }

    fn coded(&self, chunk: Chunk) -> Buf {
        match self.coding {
            Coding::Plain => chunk.data,
            Coding::Chunked => serialise::chunk(chunk),
        }
    }
}

/// Fields that the serialiser writes itself.
const WRITTEN_HERE: NameSet = NameSet::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::ContentLength,
    Name::TransferEncoding,
    Name::Upgrade,
    Name::XRequestId,
]);

impl<W: WriteHalf> ResponseSink for Response<'_, W> {
    async fn send_continue(&mut self) -> Result<(), Failure> {
        self.send(Buf::copy_of(b"HTTP/1.1 100 Continue\r\n\r\n")).await.map(drop)
    }

    async fn send_interim(&mut self, x: &Exchange) -> Result<(), Failure> {
        // HTTP/1.0 clients do not know interim responses (RFC 9110 section 15.2).
        if self.version == Version::Http10 {
            return Ok(());
        }
        let mut out = Buf::small();
        serialise::status_line(&mut out, x.response.status);
        serialise::fields(&mut out, &x.response.fields, WRITTEN_HERE);
        out.extend(b"\r\n");
        self.send(out).await.map(drop)
    }

    async fn send_head(&mut self, x: &mut Exchange, first: Chunk) -> Result<(), Failure> {
        // A drain may have begun while the answer was made.
        if self.deadline.is_ending() {
            self.close_after();
        }
        let mut out = Buf::small();
        serialise::status_line(&mut out, x.response.status);
        serialise::fields(&mut out, &x.response.fields, WRITTEN_HERE);
        serialise::fields(&mut out, &x.late_fields, WRITTEN_HERE);
        out.extend(b"X-Request-ID: ");
        out.extend(x.id.as_bytes());
        out.extend(b"\r\n");
        self.write_framing(&mut out, x, &first);
        self.write_connection(&mut out);
        out.extend(b"\r\n");
        self.head_sent = true;
        x.response_bytes += first.data.len() as u64;
        if !first.end {
            // The body may take its time; nobody looks at these fields again (F11).
            x.response.fields.clear();
        }
        let (out, rest) = Buf::join(out, self.coded(first));
        drop(self.send(out).await?);
        match rest {
            Some(rest) => self.send(rest).await.map(drop),
            None => Ok(()),
        }
    }

    async fn send_body(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        let end = chunk.end;
        let coded = self.coded(chunk);
        if coded.is_empty() {
            return Ok(coded);
        }
        self.unlooked_bytes += coded.len();
        let buf = self.send(coded).await?;
        if end || self.unlooked_bytes < LOOK_BYTES || self.has_room() {
            return Ok(buf);
        }
        drop(buf);
        Box::pin(self.wait_for_room()).await.map(|()| Buf::empty())
    }

    fn raw(&self) -> Option<End<'_>> {
        let stream = self.write.socket().filter(|_| self.coding == Coding::Plain)?;
        let (deadline, on_expiry, timeout_ms) = (self.deadline, OnExpiry::ShutSlow, self.first_look_ms);
        Some(End { stream, deadline, on_expiry, timeout_ms, due: Now::NEVER, pace: Some(self.pace) })
    }

    fn raw_failed(&mut self) -> Failure {
        self.give_up(match (self.deadline.fired(), self.deadline.saw_movement()) {
            (false, _) => Reason::ClientClosed,
            (true, false) => Reason::ClientStalled,
            (true, true) => Reason::ClientTooSlow,
        })
    }

    async fn send_switch(&mut self, x: &Exchange) -> Result<(), Failure> {
        switch::send(self, x).await
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.deadline.target().local_addr()
    }

    fn head_sent(&self) -> bool {
        self.head_sent
    }

    fn abort(&mut self) {
        self.keep = Keep::Abort;
    }

    fn close_after(&mut self) {
        if self.keep == Keep::Alive {
            self.keep = Keep::Close;
        }
    }
}
