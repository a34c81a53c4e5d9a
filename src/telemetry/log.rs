//! The process log: what the gateway says about itself, on standard error.
//!
//! For the control plane and rare events of workers; requests have the access log. A line is a level, a message and
//! fields. Events that peers can cause go through a [`Site`], which lets few of them pass. After [`init`] a thread
//! writes, so that a stalled standard error stops nobody; lines that do not fit its queue are dropped and counted.

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use super::access_log::text::{Escape, value};
use super::stamp::Stamp;
use crate::time::{Now, unix_ms};

/// Lines that wait for the writing thread.
pub const QUEUED_LINES_MAX: usize = 256;
/// Lines that one [`Site`] lets pass in [`SITE_WINDOW_MS`].
pub const SITE_LINES_MAX: u32 = 5;
/// How long a [`Site`] counts before it lets lines pass again.
pub const SITE_WINDOW_MS: u64 = 10_000;

/// How much a line matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// For those who look for a fault.
    Debug,
    /// What happens in good order.
    Info,
    /// Somebody should look at it.
    Warn,
    /// An invariant broke or a function is lost.
    Error,
}

impl Level {
    /// The level of a configuration word: `debug`, `info`, `warn` (also `warning`) or `error`.
    pub fn of(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "debug" => Some(Level::Debug),
            "info" => Some(Level::Info),
            "warn" | "warning" => Some(Level::Warn),
            "error" => Some(Level::Error),
            _ => None,
        }
    }

    /// `DEBUG`, `INFO`, `WARN` or `ERROR`.
    pub const fn text(self) -> &'static str {
        match self {
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
        }
    }
}

/// Key and value of a field.
pub type Field<'a> = (&'a str, &'a dyn Display);

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// One JSON object a line.
    Json,
    /// `12:34:56.789 INFO message key=value`
    Text,
}

impl Style {
    /// Text for a terminal, JSON for everything else (U48).
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Style::Text } else { Style::Json }
    }
}

/// Sets level and style once and starts the writing thread. Before that, and when no thread can be started, lines are
/// written where they arise. A second call changes nothing.
pub fn init(level: Level, style: Style) {
    LOGGER.get_or_init(|| Logger { level, style, queue: start_thread(), dropped: AtomicU64::new(0) });
}

/// Writes a line.
pub fn write(level: Level, message: &str, fields: &[Field<'_>]) {
    match LOGGER.get() {
        Some(logger) if level < logger.level => {}
        Some(logger) => logger.send(render(logger.style, level, message, fields, unix_ms())),
        None if level < Level::Info => {}
        None => write_now(&render(Style::detect(), level, message, fields, unix_ms())),
    }
}

/// Writes a line of level debug.
pub fn debug(message: &str, fields: &[Field<'_>]) {
    write(Level::Debug, message, fields);
}

/// Writes a line of level info.
pub fn info(message: &str, fields: &[Field<'_>]) {
    write(Level::Info, message, fields);
}

/// Writes a line of level warn.
pub fn warn(message: &str, fields: &[Field<'_>]) {
    write(Level::Warn, message, fields);
}

/// Writes a line of level error.
pub fn error(message: &str, fields: &[Field<'_>]) {
    write(Level::Error, message, fields);
}

/// Waits until the lines so far are written, at most `timeout`. Returns whether they are.
pub fn flush(timeout: Duration) -> bool {
    let Some(queue) = LOGGER.get().and_then(|logger| logger.queue.as_ref()) else { return true };
    let (sender, done) = sync_channel(1);
    queue.try_send(Message::Flush(sender)).is_ok() && done.recv_timeout(timeout).is_ok()
}

/// Lines dropped because the writing thread was behind.
pub fn dropped() -> u64 {
    LOGGER.get().map_or(0, |logger| logger.dropped.load(Ordering::Relaxed))
}

/// A place in the code whose lines peers can cause: [`SITE_LINES_MAX`] pass in [`SITE_WINDOW_MS`], the next one that
/// passes says how many were suppressed. Meant for a `static`.
#[derive(Debug)]
pub struct Site {
    window_end_ms: AtomicU64,
    passed: AtomicU32,
    suppressed: AtomicU64,
}

impl Site {
    /// A place that has said nothing.
    pub const fn new() -> Self {
        Self { window_end_ms: AtomicU64::new(0), passed: AtomicU32::new(0), suppressed: AtomicU64::new(0) }
    }

    /// Writes a line, unless too many were written lately.
    pub fn write(&self, level: Level, message: &str, fields: &[Field<'_>], now: Now) {
        match self.pass(now) {
            Some(0) => write(level, message, fields),
            Some(suppressed) => {
                let mut fields = fields.to_vec();
                fields.push(("suppressed", &suppressed));
                write(level, message, &fields);
            }
            None => {}
        }
    }

    /// Whether a line may pass, and how many were suppressed before it. Two threads may count a window's end twice and
    /// let some lines more pass; that is harmless.
    fn pass(&self, now: Now) -> Option<u64> {
        if now.ms() >= self.window_end_ms.load(Ordering::Relaxed) {
            self.window_end_ms.store(now.ms() + SITE_WINDOW_MS, Ordering::Relaxed);
            self.passed.store(0, Ordering::Relaxed);
        }
        if self.passed.fetch_add(1, Ordering::Relaxed) < SITE_LINES_MAX {
            return Some(self.suppressed.swap(0, Ordering::Relaxed));
        }
        // The count must not wrap around to zero in a window of four thousand million lines.
        self.passed.store(SITE_LINES_MAX, Ordering::Relaxed);
        self.suppressed.fetch_add(1, Ordering::Relaxed);
        None
    }
}

impl Default for Site {
    fn default() -> Self {
        Self::new()
    }
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

struct Logger {
    level: Level,
    style: Style,
    queue: Option<SyncSender<Message>>,
    dropped: AtomicU64,
}

enum Message {
    Line(Vec<u8>),
    Flush(SyncSender<()>),
}

impl Logger {
    fn send(&self, line: Vec<u8>) {
        match &self.queue {
            Some(queue) => {
                if queue.try_send(Message::Line(line)).is_err() {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            None => write_now(&line),
        }
    }
}

fn start_thread() -> Option<SyncSender<Message>> {
    let (sender, receiver) = sync_channel(QUEUED_LINES_MAX);
    let run = move || write_lines(&receiver);
    std::thread::Builder::new().name("process-log".to_owned()).spawn(run).ok().map(|_| sender)
}

fn write_lines(queue: &Receiver<Message>) {
    let mut reported = 0;
    while let Ok(message) = queue.recv() {
        match message {
            Message::Line(line) => {
                write_now(&line);
                report_dropped(&mut reported, dropped(), &mut |lines| {
                    warn("Process log lines dropped", &[("dropped", &lines)]);
                });
            }
            Message::Flush(done) => _ = done.try_send(()),
        }
    }
}

/// Says once how many lines were dropped since it was said last. The line takes the way of all others: where the queue
/// is still full it is dropped itself, and counted with the next ones.
fn report_dropped(reported: &mut u64, dropped: u64, say: &mut dyn FnMut(u64)) {
    if dropped > *reported {
        say(dropped - *reported);
        *reported = dropped;
    }
}

fn write_now(line: &[u8]) {
    // There is nowhere left to tell that standard error does not work.
    let _ = std::io::stderr().write_all(line);
}

fn render(style: Style, level: Level, message: &str, fields: &[Field<'_>], unix_ms: u64) -> Vec<u8> {
    let stamp = Stamp::of(unix_ms);
    let mut out = Vec::with_capacity(160);
    match style {
        Style::Json => render_json(&mut out, &stamp, level, message, fields),
        Style::Text => render_text(&mut out, &stamp, level, message, fields),
    }
    out.push(b'\n');
    out
}

fn render_json(out: &mut Vec<u8>, stamp: &Stamp, level: Level, message: &str, fields: &[Field<'_>]) {
    out.extend_from_slice(b"{\"time\":\"");
    out.extend_from_slice(stamp.rfc3339());
    out.extend_from_slice(b"\",\"level\":\"");
    out.extend_from_slice(level.text().as_bytes());
    out.extend_from_slice(b"\",\"message\":\"");
    value(out, message.as_bytes(), Escape::Json);
    out.push(b'"');
    for (key, field) in fields {
        out.extend_from_slice(b",\"");
        value(out, key.as_bytes(), Escape::Json);
        out.extend_from_slice(b"\":\"");
        value(out, display(*field).as_bytes(), Escape::Json);
        out.push(b'"');
    }
    out.push(b'}');
}

fn render_text(out: &mut Vec<u8>, stamp: &Stamp, level: Level, message: &str, fields: &[Field<'_>]) {
    out.extend_from_slice(&stamp.rfc3339()[11..23]);
    out.push(b' ');
    out.extend_from_slice(level.text().as_bytes());
    out.push(b' ');
    value(out, message.as_bytes(), Escape::Hex);
    for (key, field) in fields {
        out.push(b' ');
        out.extend_from_slice(key.as_bytes());
        out.push(b'=');
        let text = display(*field);
        let quoted = text.is_empty() || text.contains([' ', '"', '=']);
        if quoted {
            out.push(b'"');
        }
        value(out, text.as_bytes(), Escape::Json);
        if quoted {
            out.push(b'"');
        }
    }
}

fn display(field: &dyn Display) -> String {
    let mut text = String::new();
    // A Display that fails leaves what it wrote.
    let _ = write!(text, "{field}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_level_message_and_fields() {
        let fields: [Field<'_>; 2] = [("port", &8080), ("cause", &"a \"b\"\n")];
        let text = |style| String::from_utf8(render(style, Level::Warn, "Odd thing", &fields, 1_500)).expect("text");
        assert_eq!(text(Style::Text), "00:00:01.500 WARN Odd thing port=8080 cause=\"a \\\"b\\\"\\n\"\n");
        let json: serde_json::Value = serde_json::from_str(&text(Style::Json)).expect("JSON");
        assert_eq!((&json["port"], &json["cause"]), (&"8080".into(), &"a \"b\"\n".into()));
    }

    #[test]
    fn a_site_lets_few_lines_pass_and_says_how_many_it_kept() {
        let site = Site::new();
        let passed = (0..100).filter(|_| site.pass(Now::from_ms(5)).is_some()).count();
        assert_eq!(passed, SITE_LINES_MAX as usize);
        assert_eq!(site.pass(Now::from_ms(5 + SITE_WINDOW_MS)), Some(100 - u64::from(SITE_LINES_MAX)));
        assert_eq!(site.pass(Now::from_ms(6 + SITE_WINDOW_MS)), Some(0));
    }

    #[test]
    fn what_was_dropped_is_said_once() {
        let (mut reported, mut said) = (0, Vec::new());
        for dropped in [0, 0, 7, 7, 7, 9] {
            report_dropped(&mut reported, dropped, &mut |lines| said.push(lines));
        }
        assert_eq!(said, [7, 2]);
    }

    #[test]
    fn levels_are_read_without_case() {
        assert_eq!(Level::of("Warning"), Some(Level::Warn));
        assert_eq!(Level::of("loud"), None);
        assert!(Level::Debug < Level::Error);
    }
}
