//! The access log: one line per request, written off the request path (R201–R205, F15, F16, F78).
//!
//! ```text
//! worker: AccessLog ─ buffer 256 KiB ─ try_send at a tick or half full ─► writer thread ─► stdout, stderr, file
//!            ▲                                                               │
//!            └──────────────────────── emptied buffers ◄─────────────────────┘
//! ```
//! A worker never waits: when the writer is behind, lines are dropped and counted, and when it has recovered one line
//! says how many. Values of query parameters that usually are secrets are masked ([`text::SECRET_PARAMETERS`]).

mod format;
pub mod text;
mod writer;

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use self::format::Line;
pub use self::writer::{AccessLogWriter, Target, write_errors};
use super::stamp::Stamp;
use crate::http::exchange::Exchange;
use crate::time::Now;

/// Bytes of lines that a worker holds before it drops further ones.
pub const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// A buffer of this size is handed over without waiting for the tick.
pub const BUFFER_BYTES_HANDOVER: usize = BUFFER_BYTES_MAX / 2;
/// Longest line: nine values from the client or the configuration, each byte escaped to six, and what is short.
pub const LINE_BYTES_MAX: usize = 120 * 1024;
/// Handed-over buffers that wait for the writer, for each worker.
pub const QUEUED_BUFFERS_MAX: usize = 8;
/// Emptied buffers that wait for their worker.
pub const RETURNED_BUFFERS_MAX: usize = 2;

const _: () =
    assert!(BUFFER_BYTES_HANDOVER + LINE_BYTES_MAX <= BUFFER_BYTES_MAX, "a line must fit behind the handover");

const _: () = assert!(9 * (6 * text::VALUE_BYTES_MAX + 3) + 2_048 <= LINE_BYTES_MAX, "the longest line must fit");

/// What a line looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Format {
    /// One JSON object a line (R202).
    #[default]
    Json,
    /// The common log format.
    Common,
    /// The combined log format, as nginx and Apache write it.
    Combined,
    /// No access log.
    Off,
}

impl Format {
    /// The format of a configuration word: `json`, `common`, `combined` or `off`.
    pub fn of(word: &str) -> Option<Self> {
        match word {
            "json" => Some(Format::Json),
            "common" => Some(Format::Common),
            "combined" => Some(Format::Combined),
            "off" => Some(Format::Off),
            _ => None,
        }
    }
}

/// Names from the snapshot that served the request; empty when there was none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Names<'a> {
    /// Route.
    pub route: &'a str,
    /// Service.
    pub service: &'a str,
    /// Endpoint.
    pub endpoint: &'a str,
}

/// The access log of one worker.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    worker: u32,
    stamp: Stamp,
    buffer: Vec<u8>,
    handover: Option<Handover>,
    dropped: u64,
    unreported: u64,
}

#[derive(Debug)]
struct Handover {
    queue: SyncSender<Message>,
    returned: Receiver<Vec<u8>>,
    give_back: SyncSender<Vec<u8>>,
}

/// What goes to the writer's thread.
#[derive(Debug)]
enum Message {
    /// Lines to be written.
    Batch(Batch),
    /// Nothing; the flags are to be looked at.
    Wake,
}

#[derive(Debug)]
struct Batch {
    lines: Vec<u8>,
    dropped: u64,
    worker: u32,
    give_back: SyncSender<Vec<u8>>,
}

impl AccessLog {
    /// A log that writes nothing.
    pub fn off() -> Self {
        Self::with(Format::Off, 0, None)
    }

    fn with(format: Format, worker: u32, handover: Option<Handover>) -> Self {
        let (stamp, buffer) = (Stamp::default(), Vec::new());
        Self { format, worker, stamp, buffer, handover, dropped: 0, unreported: 0 }
    }

    /// Appends the line of a finished request. `unix_ms` is the wall clock; a worker may pass the time of its tick. The
    /// request's header section must still have its buffer. Never waits: without room the line is dropped and counted.
    #[inline]
    pub fn record(&mut self, exchange: &Exchange, names: &Names<'_>, now: Now, unix_ms: u64) {
        if self.format == Format::Off {
            return;
        }
        if self.buffer.len() + LINE_BYTES_MAX > BUFFER_BYTES_MAX {
            self.flush();
            if self.buffer.len() + LINE_BYTES_MAX > BUFFER_BYTES_MAX {
                self.dropped += 1;
                self.unreported += 1;
                return;
            }
        }
        self.stamp.set(unix_ms);
        let before = self.buffer.len();
        let line =
            Line { exchange, names, stamp: &self.stamp, worker: self.worker, ns: now.since_ns(exchange.started) };
        line.write(self.format, &mut self.buffer);
        debug_assert!(self.buffer.len() - before <= LINE_BYTES_MAX);
        if self.buffer.len() >= BUFFER_BYTES_HANDOVER {
            self.flush();
        }
    }

    /// Hands the lines over, if there are any and the writer can take them. To be called at a tick and at the end.
    pub fn flush(&mut self) {
        let Some(handover) = self.handover.as_ref().filter(|_| !self.buffer.is_empty()) else { return };
        let batch = Batch {
            lines: std::mem::take(&mut self.buffer),
            dropped: self.unreported,
            worker: self.worker,
            give_back: handover.give_back.clone(),
        };
        match handover.queue.try_send(Message::Batch(batch)) {
            Ok(()) => {
                self.unreported = 0;
                self.buffer = handover.returned.try_recv().unwrap_or_default();
            }
            Err(TrySendError::Full(Message::Batch(batch)) | TrySendError::Disconnected(Message::Batch(batch))) => {
                self.buffer = batch.lines;
            }
            Err(_) => {}
        }
    }

    /// Takes the place of another log at a reload: hands its lines over and goes on with its counts. Lines that its
    /// writer does not take are dropped.
    pub fn succeed(&mut self, mut old: AccessLog) {
        old.flush();
        let left = memchr::memchr_iter(b'\n', &old.buffer).count() as u64;
        self.dropped += old.dropped + left;
        self.unreported += old.unreported + left;
    }

    /// Lines dropped since the start.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

impl Handover {
    fn new(queue: SyncSender<Message>) -> Self {
        let (give_back, returned) = sync_channel(RETURNED_BUFFERS_MAX);
        Self { queue, returned, give_back }
    }
}

#[cfg(test)]
mod tests;
