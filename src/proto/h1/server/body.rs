//! The way of a request body from an HTTP/1 connection into the pipeline.

use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::{RequestBody, Rest};
use crate::limits::{DRAIN_BODY_BYTES_MAX, LINGER_MS};
use crate::net::io::ReadHalf;
use crate::net::pace::Pace;
use crate::net::splice::End;
use crate::net::timer::{Deadline, OnExpiry};
use crate::proto::h1::body::{BodyError, BodyReader};
use crate::time::Now;

/// The request body on an HTTP/1 connection.
pub struct Body<'c, R> {
    pub(super) reader: BodyReader,
    pub(super) read: &'c mut R,
    pub(super) deadline: &'c Deadline,
    pub(super) timeout_ms: u64,
    pub(super) pace: Pace,
    pub(super) bytes_left: u64,
    pub(super) draining: bool,
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

    fn stopper(&self) -> Box<dyn Fn(Rest)> {
        let deadline = self.deadline.clone();
        Box::new(move |rest| {
            let ms = match rest {
                Rest::Unwanted(ms) => ms,
                Rest::Later => LINGER_MS,
            };
            deadline.arm_in(ms, OnExpiry::ShutRead);
        })
    }
}
