//! The server's side of an HTTP/1 connection: waits for requests, reads their heads and bodies, writes responses.
//!
//! ```text
//! wait_request ─► read_head ─► (pipeline uses `downstream()`) ─► finish ─► wait_request | close
//! ```

mod body;
mod prior;
mod proxied;
mod response;
mod rules;
mod switch;

pub use body::Body;
pub use proxied::receive as receive_proxy_header;
pub use response::Response;
pub use rules::ServerRules;

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;

use self::response::Coding;
use super::body::BodyReader;
use super::parse::Parsed;
use super::request;
use crate::error::{Failure, Reason};
use crate::http::downstream::Downstream;
use crate::http::exchange::Exchange;
use crate::http::message::{BodyLength, Version};
use crate::http::pace::MinRate;
use crate::limits::{BUF_SMALL_BYTES, BUF_TINY_BYTES, DRAIN_BODY_BYTES_MAX, IDLE_RELEASE_MS, LINGER_MS};
use crate::net::io::{Io, ReadHalf, WriteHalf};
use crate::net::pace::Pace;
use crate::net::timer::{Deadline, OnExpiry, Timers, Waits};
use crate::sys::buf::{self, Buf};
use crate::time::Now;

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

/// Both halves of a connection, what ends their waits, and bytes that were read.
pub type Parts<I> = (<I as Io>::Read, <I as Io>::Write, Rc<dyn crate::net::io::Interrupt>, Buf);

impl<I: Io> Connection<I> {
    /// Takes over an accepted connection.
    pub fn new(io: I, timers: &Rc<Timers>, rules: Arc<ServerRules>) -> Self {
        let (read, write, interrupt) = io.split();
        Self::of((read, write, interrupt, Buf::empty()), timers, rules)
    }

    /// Takes over the parts of a connection of which something has been read.
    pub fn of(parts: Parts<I>, timers: &Rc<Timers>, rules: Arc<ServerRules>) -> Self {
        let (read, write, interrupt, carry) = parts;
        let write_deadline = timers.deadline(interrupt.clone());
        rules.watch(&write_deadline);
        Self {
            read,
            write,
            read_deadline: timers.deadline(interrupt),
            write_deadline,
            timers: timers.clone(),
            rules,
            carry,
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
        let (count, buf) = pin!(self.read.recv_idle(Buf::with_room(room))).await;
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
                if self.carry.len() >= BUF_SMALL_BYTES && buf::is_scarce() {
                    // Nobody who is being served pays for a head that is long on its way.
                    return Err(Reason::MemoryShort.into());
                }
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
                request_done: matches!(length, BodyLength::None | BodyLength::Known(0)),
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
            // Its body and its response were awaited to their ends.
            Keep::Alive if self.carry.is_empty() => target.spend(),
            // Bytes that nobody has read (a pipelined request behind the last one) would make the close a reset.
            Keep::Close if self.carry.is_empty() && target.is_quiet() => target.spend(),
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
