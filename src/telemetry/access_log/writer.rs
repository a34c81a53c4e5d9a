//! The thread that writes the access log. It alone waits for the sink, and it keeps what the sink refuses.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{AccessLog, Batch, Format, Handover, Message, QUEUED_BUFFERS_MAX};
use crate::telemetry::log;
use crate::telemetry::stamp::Stamp;

/// First pause after a failed write; it doubles up to [`RETRY_MS_MAX`].
pub const RETRY_MS_MIN: u64 = 10;
/// Longest pause after a failed write.
pub const RETRY_MS_MAX: u64 = 1_000;
/// Permissions of a file that is made.
const FILE_MODE: u32 = 0o640;

/// Writes that failed since the start of the process, of all writers: a reload may make another one.
static WRITE_ERRORS: AtomicU64 = AtomicU64::new(0);

/// Writes and openings of access logs that failed since the start of the process; failed writes are repeated.
pub fn write_errors() -> u64 {
    WRITE_ERRORS.load(Ordering::Relaxed)
}

/// Where the access log goes.
#[derive(Debug)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to; made when it is missing, opened anew at [`AccessLogWriter::reopen`].
    File(PathBuf),
    /// Something that is open already.
    Open(File),
}

/// The handle of the writer's thread.
#[derive(Debug)]
pub struct AccessLogWriter {
    format: Format,
    queue: SyncSender<Message>,
    flags: Arc<Flags>,
    thread: JoinHandle<()>,
    done: Receiver<()>,
}

#[derive(Debug, Default)]
struct Flags {
    reopen: AtomicBool,
    stop: AtomicBool,
    write_errors: AtomicU64,
    lost_batches: AtomicU64,
}

impl Flags {
    fn count_error(&self) {
        self.write_errors.fetch_add(1, Ordering::Relaxed);
        WRITE_ERRORS.fetch_add(1, Ordering::Relaxed);
    }
}

impl AccessLogWriter {
    /// Opens the target and starts the thread.
    ///
    /// # Errors
    /// When the target cannot be opened (a FIFO without a reader is one such case) or no thread can be started.
    pub fn start(target: Target, format: Format, workers: usize) -> io::Result<Self> {
        let (queue, receiver) = sync_channel(QUEUED_BUFFERS_MAX * workers.max(1));
        let (done_sender, done) = sync_channel(1);
        let flags = Arc::new(Flags::default());
        let mut writer = Writer { sink: Sink::open(target)?, format, flags: flags.clone(), failing: false };
        let run = move || {
            writer.run(&receiver);
            let _ = done_sender.try_send(());
        };
        let thread = thread::Builder::new().name("access-log".to_owned()).spawn(run)?;
        Ok(Self { format, queue, flags, thread, done })
    }

    /// The access log of one worker, to be moved to its thread.
    pub fn worker(&self, worker: u32) -> AccessLog {
        AccessLog::with(self.format, worker, Some(Handover::new(self.queue.clone())))
    }

    /// Asks for the file to be opened anew, after it was renamed (SIGUSR1). Returns at once.
    pub fn reopen(&self) {
        self.flags.reopen.store(true, Ordering::Release);
        self.wake();
    }

    /// Writes that failed; each was or is repeated.
    pub fn write_errors(&self) -> u64 {
        self.flags.write_errors.load(Ordering::Relaxed)
    }

    /// Buffers given up at the stop because the sink did not take them.
    pub fn lost_batches(&self) -> u64 {
        self.flags.lost_batches.load(Ordering::Relaxed)
    }

    /// Writes what was handed over and ends the thread. Returns whether that was done within `timeout`; otherwise the
    /// thread is left behind, since it waits for a sink that nobody reads.
    pub fn stop(self, timeout: Duration) -> bool {
        self.flags.stop.store(true, Ordering::Release);
        self.wake();
        self.done.recv_timeout(timeout).is_ok()
    }

    fn wake(&self) {
        // A full queue needs no message: the thread is awake or waits for its next attempt.
        let _ = self.queue.try_send(Message::Wake);
        self.thread.thread().unpark();
    }
}

struct Writer {
    sink: Sink,
    format: Format,
    flags: Arc<Flags>,
    failing: bool,
}

impl Writer {
    fn run(&mut self, queue: &Receiver<Message>) {
        while let Ok(message) = queue.recv() {
            self.take(message);
            while let Ok(message) = queue.try_recv() {
                self.take(message);
            }
            if self.flags.stop.load(Ordering::Acquire) {
                return;
            }
        }
    }

    fn take(&mut self, message: Message) {
        self.reopen_if_asked();
        if let Message::Batch(batch) = message {
            self.report_dropped(&batch);
            self.write(&batch.lines);
            let mut lines = batch.lines;
            lines.clear();
            // A worker that has enough buffers, or is gone, does not get it back.
            let _ = batch.give_back.try_send(lines);
        }
    }

    /// Writes all, however long it takes; a failing sink is tried again until the stop.
    fn write(&mut self, lines: &[u8]) {
        let (mut at, mut pause_ms) = (0, RETRY_MS_MIN);
        while at < lines.len() {
            match self.sink.file.write(&lines[at..]) {
                Ok(written) if written > 0 => {
                    at += written;
                    pause_ms = RETRY_MS_MIN;
                    self.recovered();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                refused => {
                    self.failed(refused.err());
                    if self.flags.stop.load(Ordering::Acquire) {
                        self.flags.lost_batches.fetch_add(1, Ordering::Relaxed);
                        return;
                    }
                    thread::park_timeout(Duration::from_millis(pause_ms));
                    pause_ms = (pause_ms * 2).min(RETRY_MS_MAX);
                    if self.reopen_if_asked() {
                        at = line_start(lines, at);
                    }
                }
            }
        }
    }

    fn failed(&mut self, error: Option<io::Error>) {
        if error.as_ref().is_some_and(|error| error.kind() == ErrorKind::WouldBlock) {
            return;
        }
        self.flags.count_error();
        if !std::mem::replace(&mut self.failing, true) {
            let cause = error.map_or_else(|| "nothing was written".to_owned(), |error| error.to_string());
            log::warn("Access log cannot be written, trying again", &[("cause", &cause)]);
        }
    }

    fn recovered(&mut self) {
        if std::mem::take(&mut self.failing) {
            log::info("Access log can be written again", &[]);
        }
    }

    fn report_dropped(&mut self, batch: &Batch) {
        if batch.dropped == 0 {
            return;
        }
        let (worker, dropped) = (batch.worker, batch.dropped);
        if self.format == Format::Json {
            let time = Stamp::of(crate::time::unix_ms());
            let line = format!(
                "{{\"time\":\"{}\",\"level\":\"WARN\",\"message\":\"Access log lines dropped\",\
                 \"dropped\":{dropped},\"worker\":{worker}}}\n",
                time.rfc3339_text()
            );
            self.write(line.as_bytes());
        } else {
            // A line of another form would break readers of the common formats.
            log::warn("Access log lines dropped", &[("dropped", &dropped), ("worker", &worker)]);
        }
    }

    /// Whether the sink was opened anew. When that fails the old file stays in use.
    fn reopen_if_asked(&mut self) -> bool {
        if !self.flags.reopen.swap(false, Ordering::AcqRel) {
            return false;
        }
        match self.sink.reopen() {
            Ok(()) => true,
            Err(error) => {
                self.flags.count_error();
                log::warn("Access log cannot be opened anew, the old file stays", &[("cause", &error)]);
                false
            }
        }
    }
}

/// The start of the next whole line at or behind `at`: the file that was left has the beginning of the broken one.
fn line_start(lines: &[u8], at: usize) -> usize {
    if at == 0 || lines[at - 1] == b'\n' {
        return at;
    }
    memchr::memchr(b'\n', &lines[at..]).map_or(lines.len(), |end| at + end + 1)
}

struct Sink {
    file: File,
    path: Option<PathBuf>,
}

impl Sink {
    fn open(target: Target) -> io::Result<Self> {
        let (file, path) = match target {
            Target::Stdout => (duplicate(&io::stdout())?, None),
            Target::Stderr => (duplicate(&io::stderr())?, None),
            Target::File(path) => (append_to(&path)?, Some(path)),
            Target::Open(file) => (file, None),
        };
        Ok(Self { file, path })
    }

    fn reopen(&mut self) -> io::Result<()> {
        if let Some(path) = &self.path {
            self.file = append_to(path)?;
        }
        Ok(())
    }
}

/// Another descriptor of the same stream, past the standard library's line buffer.
fn duplicate(stream: &impl AsFd) -> io::Result<File> {
    let fd: OwnedFd = stream.as_fd().try_clone_to_owned()?;
    Ok(File::from(fd))
}

fn append_to(path: &Path) -> io::Result<File> {
    // Non-blocking matters for a FIFO alone: opening one that nobody reads then fails instead of waiting for ever.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(FILE_MODE).custom_flags(libc::O_NONBLOCK).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_line_is_not_continued_elsewhere() {
        assert_eq!(line_start(b"ab\ncd\n", 0), 0);
        assert_eq!(line_start(b"ab\ncd\n", 1), 3);
        assert_eq!(line_start(b"ab\ncd\n", 3), 3);
        assert_eq!(line_start(b"ab\ncd\n", 4), 6);
        assert_eq!(line_start(b"abcd", 2), 4);
    }
}
