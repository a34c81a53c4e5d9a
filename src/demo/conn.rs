//! One connection of an origin: reads requests, holds answers back until they are worth a send, closes politely.
//!
//! ```text
//! ┌─► fast::recognise ─► whole responses ─┐
//! │        └─► read_head ─► answer ───────┤
//! └───────────────────────────────────────┴─► linger
//! ```

use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::fast::{self, Run};
use super::request::{HEAD_LIMITS, Request};
use super::server::Shared;
use super::wire::Wire;
use super::{HEAD_BYTES_MAX, OUTPUT_BYTES_MAX};
use crate::error::Failure;
use crate::http::message::{BodyLength, RequestHead};
use crate::limits::{DRAIN_BODY_BYTES_MAX, LINGER_MS};
use crate::net::io::{ReadHalf, send_all};
use crate::proto::h1::body::{BodyError, BodyReader};
use crate::proto::h1::parse::Parsed;
use crate::proto::h1::request::parse_lines;
use crate::sys::buf::Buf;
use crate::time::Now;

/// Longest part of a wait, so that a stop ends it soon.
const PAUSE_PART_MS: u64 = 50;

/// One connection.
pub(super) struct Connection {
    pub(super) wire: Wire,
    pub(super) shared: Rc<Shared>,
    /// Bytes that were read and belong to no request yet.
    input: Buf,
    /// Answers that were not sent yet.
    pub(super) output: Buf,
    pub(super) head: RequestHead,
}

/// Whether the connection outlives an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// Another request may follow.
    Next,
    /// The connection closes behind the answer.
    Close,
}

/// What looking for a head brought.
enum Head {
    /// This many bytes of the input.
    Whole(usize),
    /// No legal one.
    Refused(Failure),
    /// The client left.
    Gone,
}

impl Connection {
    pub fn new(wire: Wire, shared: Rc<Shared>) -> Self {
        Self { wire, shared, input: Buf::empty(), output: Buf::empty(), head: RequestHead::default() }
    }

    /// Serves the connection to its end. Errors are those of a peer that left: nothing to tell anybody.
    pub async fn run(mut self) {
        if let Ok(After::Close) = self.serve().await
            && self.flush().await.is_ok()
        {
            self.wire.finish();
            self.linger().await;
        }
    }

    /// `Next` when the client left first.
    async fn serve(&mut self) -> io::Result<After> {
        while !self.shared.stopping.get() {
            if self.input.is_empty() {
                self.flush().await?;
                if !self.fill().await? {
                    return Ok(After::Next);
                }
            }
            if let Some(run) = fast::recognise(self.input.as_slice(), self.shared.kind) {
                self.input.consume(run.bytes);
                self.answer_run(run).await?;
                continue;
            }
            let head_bytes = match self.read_head().await? {
                Head::Whole(head_bytes) => head_bytes,
                Head::Refused(failure) => return Ok(self.refuse(&failure)),
                Head::Gone => return Ok(After::Next),
            };
            self.head.fields.set_buffer(Buf::copy_of(&self.input.as_slice()[..head_bytes]));
            self.input.consume(head_bytes);
            let after = match Request::of(&self.head) {
                Ok(request) => self.answer(request).await?,
                Err(failure) => self.refuse(&failure),
            };
            if after == After::Close {
                return Ok(after);
            }
        }
        Ok(After::Close)
    }

    async fn answer_run(&mut self, run: Run) -> io::Result<()> {
        let whole = run.which.responses(run.count);
        if run.which.is_small() && !(self.output.is_empty() && self.input.is_empty()) {
            return self.push(whole).await;
        }
        self.flush().await?;
        self.wire.send_static(whole).await
    }

    /// Adds to the output, and sends it when it is long.
    pub(super) async fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.output.extend(bytes);
        if self.output.len() < OUTPUT_BYTES_MAX { Ok(()) } else { self.flush().await }
    }

    /// Sends what is held back.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.output.is_empty() {
            return Ok(());
        }
        send_all(&mut self.wire, std::mem::take(&mut self.output)).await.map(drop)
    }

    async fn read_head(&mut self) -> io::Result<Head> {
        loop {
            self.head.clear();
            match parse_lines(self.input.as_slice(), &HEAD_LIMITS, &mut self.head) {
                Ok(Parsed::Complete(head_bytes)) => return Ok(Head::Whole(head_bytes)),
                Err(failure) => return Ok(Head::Refused(failure)),
                Ok(Parsed::Partial) => {}
            }
            self.flush().await?;
            if !self.fill_line().await? {
                return Ok(Head::Gone);
            }
        }
    }

    /// Reads until a line more is there: a head that comes byte by byte is not parsed at each of them.
    async fn fill_line(&mut self) -> io::Result<bool> {
        loop {
            let known = self.input.len();
            if !self.fill().await? {
                return Ok(false);
            }
            let input = self.input.as_slice();
            if memchr::memchr(b'\n', &input[known..]).is_some() || input.len() > HEAD_BYTES_MAX {
                return Ok(true);
            }
        }
    }

    /// Reads once; false at the end.
    #[inline]
    async fn fill(&mut self) -> io::Result<bool> {
        if self.input.is_empty() {
            self.input.clear();
        } else {
            self.input.compact();
        }
        if self.input.spare() == 0 {
            self.input.reserve(self.input.len().max(1));
        }
        let (count, input) = self.wire.recv(std::mem::take(&mut self.input)).await;
        self.input = input;
        Ok(count? > 0)
    }

    /// Begins to read the body of a request.
    pub(super) async fn body(&mut self, request: &Request) -> io::Result<BodyReader> {
        if request.body == BodyLength::None {
            return Ok(BodyReader::new(BodyLength::None, Buf::empty()));
        }
        if request.expects_continue && self.input.is_empty() {
            self.output.extend(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.flush().await?;
        Ok(BodyReader::new(request.body, std::mem::take(&mut self.input)))
    }

    /// Takes back what stands behind a body that was read.
    pub(super) fn end_body(&mut self, body: BodyReader, request: &Request) {
        if request.body != BodyLength::None {
            self.input = body.into_rest();
        }
    }

    /// Reads the whole body and returns its length.
    ///
    /// # Errors
    /// [`BodyError`]; only a broken coding can be answered.
    pub(super) async fn drain(&mut self, request: &Request) -> Result<u64, BodyError> {
        let mut body = self.body(request).await.map_err(BodyError::Io)?;
        let mut received = 0;
        while !body.is_done() {
            received += body.next(&mut self.wire).await?.data.len() as u64;
        }
        self.end_body(body, request);
        Ok(received)
    }

    /// Sends what is held back, then waits.
    ///
    /// # Errors
    /// `Interrupted` when the origin stops: what is under way is cut, not ended.
    pub(super) async fn pause(&mut self, ms: u64) -> io::Result<()> {
        self.flush().await?;
        let until = Now::read().plus_ms(ms);
        loop {
            if self.shared.stopping.get() {
                return Err(io::ErrorKind::Interrupted.into());
            }
            let left_ms = until.since_ns(Now::read()).div_ceil(1_000_000);
            if left_ms == 0 {
                return Ok(());
            }
            monoio::time::sleep(Duration::from_millis(left_ms.min(PAUSE_PART_MS))).await;
        }
    }

    /// Reads and drops what the client still sends, so that the kernel does not answer it with a reset that destroys
    /// the response on its way (RFC 9112 section 9.6).
    async fn linger(&mut self) {
        let drain = async {
            let mut left = DRAIN_BODY_BYTES_MAX;
            while left > 0 {
                self.input.clear();
                match self.fill().await {
                    Ok(true) => left = left.saturating_sub(self.input.len() as u64),
                    _ => break,
                }
            }
        };
        // Dropping the read is sound: the connection is not used afterwards.
        let _ = monoio::time::timeout(Duration::from_millis(LINGER_MS), drain).await;
    }
}
