//! Cases as data: what is sent, what the origin answers, what must come of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::e2e::PATIENCE;
use super::e2e::client::{Head, chunked_end, find};
use super::recorder::PLAIN;
use super::{Edge, Kind, Recorder};

/// One row.
pub struct Case {
    /// What is wrong or odd, in words for the page.
    pub name: String,
    /// The client's bytes.
    pub send: Vec<u8>,
    /// The origin's bytes; it closes behind them.
    pub answer: Vec<u8>,
    /// What the gateway makes of it.
    pub want: Want,
    /// Texts, in lower case, that the origin may not see.
    pub gone: Vec<&'static str>,
    /// Texts, in lower case, that the origin must see.
    pub kept: Vec<&'static str>,
}

/// What the gateway makes of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// This status and reason, the client's connection closed; the origin sees no whole request.
    Refused(u16, &'static str),
    /// The origin's answer arrives.
    Served,
    /// This status and reason in place of the origin's answer; the client's connection goes on.
    Failed(u16, &'static str),
    /// As `Failed`, or as `Cut` where the answer's head had left before its body was seen to be broken.
    Broken(u16, &'static str),
    /// The answer begins and is cut: it never looks complete.
    Cut,
}

impl Case {
    pub fn new(name: impl Into<String>, send: impl AsRef<[u8]>, want: Want) -> Self {
        Self {
            name: name.into(),
            send: send.as_ref().to_vec(),
            answer: PLAIN.to_vec(),
            want,
            gone: Vec::new(),
            kept: Vec::new(),
        }
    }

    /// The origin's answer instead of a plain 200.
    pub fn answer(mut self, answer: impl AsRef<[u8]>) -> Self {
        self.answer = answer.as_ref().to_vec();
        self
    }

    /// Refused with this status and reason.
    pub fn want(mut self, status: u16, reason: &'static str) -> Self {
        self.want = Want::Refused(status, reason);
        self
    }

    /// Served, and the origin sees this text.
    pub fn serve(mut self, text: &'static str) -> Self {
        self.want = Want::Served;
        self.kept(&[text])
    }

    pub fn gone(mut self, texts: &[&'static str]) -> Self {
        self.gone.extend_from_slice(texts);
        self
    }

    pub fn kept(mut self, texts: &[&'static str]) -> Self {
        self.kept.extend_from_slice(texts);
        self
    }
}

/// What came of a case.
#[derive(Debug, Default)]
pub struct Outcome {
    /// All bytes that the client got.
    pub raw: Vec<u8>,
    /// Final responses that arrived whole, in order.
    pub answers: Vec<Answer>,
    /// Whether the proxy closed the connection.
    pub closed: bool,
    /// Bytes of each connection to the origin.
    pub forwarded: Vec<Vec<u8>>,
}

/// A response to the client.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Vec<u8>,
}

impl Answer {
    /// The reason word of an error of the gateway's own.
    pub fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["reason"].as_str().unwrap_or_default().to_owned()
    }
}

impl Outcome {
    /// What the origin got, in lower case.
    pub fn origin_saw(&self) -> String {
        self.forwarded.concat().iter().map(|&byte| (byte as char).to_ascii_lowercase()).collect()
    }

    /// A word or two for the comparison.
    pub fn word(&self, case: &Case) -> String {
        let status = self.answers.first().map(|answer| answer.status.to_string());
        if self.forwarded.is_empty() {
            return status.unwrap_or_else(|| if self.closed { "closed".into() } else { "no answer".into() });
        }
        if matches!(case.want, Want::Failed(..) | Want::Broken(..) | Want::Cut) {
            return match status {
                None if self.closed && !self.raw.is_empty() => "cut".into(),
                None if self.closed => "closed".into(),
                None => "no end".into(),
                Some(status) => status,
            };
        }
        let saw = self.origin_saw();
        let fate = if case.gone.is_empty() && case.kept.is_empty() {
            "forwarded"
        } else if case.gone.iter().any(|text| saw.contains(text)) {
            "passed"
        } else if !case.kept.iter().all(|text| saw.contains(text)) {
            "lost"
        } else if case.gone.is_empty() {
            "kept"
        } else {
            "removed"
        };
        match status {
            Some(status) if status == "200" => fate.into(),
            Some(status) => format!("{fate}, {status}"),
            None => format!("{fate}, no answer"),
        }
    }
}

/// Runs cases against ringway and fails with a list of those that came out otherwise. With `RINGWAY_PEER` set, they run
/// against that proxy and are printed.
#[track_caller]
pub fn check(cases: &[Case]) {
    let origin = Recorder::start();
    let kind = Kind::asked().unwrap_or(Kind::Ringway);
    let edge = kind.start(origin.address);
    let mut wrong = Vec::new();
    for case in cases {
        let outcome = run(case, &edge, &origin);
        if kind != Kind::Ringway {
            println!("{}: {}: {}", kind.word(), case.name, outcome.word(case));
            continue;
        }
        if let Err(why) = judge(case, &outcome) {
            wrong.push(format!(
                "{}: {why}\n    sent {:?}\n    got {:?}\n    origin saw {:?}",
                case.name,
                shown(&case.send),
                shown(&outcome.raw),
                shown(&outcome.forwarded.concat())
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    if let Some(gateway) = &edge.gateway {
        gateway.wait_idle();
    }
}

/// Runs one case.
pub fn run(case: &Case, edge: &Edge, origin: &Recorder) -> Outcome {
    origin.begin(&case.answer);
    let quiet = if edge.gateway.is_some() { PATIENCE } else { Duration::from_millis(1200) };
    let mut outcome = talk(edge.address, &case.send, quiet, case.want);
    outcome.forwarded = origin.received();
    outcome
}

fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(400)].escape_ascii().to_string()
}

/// Sends the bytes and reads until the connection ends, an answer is complete where it may stay open, or nothing more
/// comes.
fn talk(address: SocketAddr, send: &[u8], quiet: Duration, want: Want) -> Outcome {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_nodelay(true).expect("an option");
    let mut outcome = Outcome::default();
    // Large cases are sent beside the reading: an answer may come before all was taken.
    let mut writer = stream.try_clone().expect("a descriptor");
    let bytes = send.to_vec();
    let sending = std::thread::spawn(move || writer.write_all(&bytes).is_ok());
    let is_head = send.starts_with(b"HEAD ");
    let may_stay = matches!(want, Want::Served | Want::Failed(..) | Want::Broken(..));
    let begun = Instant::now();
    loop {
        outcome.answers = answers(&outcome.raw, is_head, outcome.closed);
        let enough = may_stay && !outcome.answers.is_empty();
        let left = quiet.saturating_sub(begun.elapsed());
        if outcome.closed || enough || left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left)).expect("an option");
        let mut bytes = [0; 65_536];
        match stream.read(&mut bytes) {
            Ok(0) => outcome.closed = true,
            Ok(count) => outcome.raw.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => outcome.closed = true,
        }
    }
    // Whoever still writes into a connection that nobody reads is let go.
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = sending.join();
    outcome
}

/// The final responses at the front of the bytes that are complete.
fn answers(mut bytes: &[u8], to_head: bool, closed: bool) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some(end) = find(bytes, b"\r\n\r\n").map(|at| at + 4) {
        let head = Head::parse(&bytes[..end]);
        let status = head.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
        let rest = &bytes[end..];
        let (used, body) = match status {
            100..=199 => {
                bytes = rest;
                continue;
            }
            204 | 304 => (0, Vec::new()),
            _ if to_head => (0, Vec::new()),
            _ if !head.all("transfer-encoding").is_empty() => match whole_chunked(rest) {
                Some(found) => found,
                None => break,
            },
            _ => match head.all("content-length").first().and_then(|length| length.parse::<usize>().ok()) {
                Some(length) if length <= rest.len() => (length, rest[..length].to_vec()),
                Some(_) => break,
                None if closed => (rest.len(), rest.to_vec()),
                None => break,
            },
        };
        all.push(Answer { status, body });
        bytes = &rest[used..];
    }
    all
}

fn whole_chunked(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    // What another proxy passes on may be no chunked body at all.
    let parsed = std::panic::catch_unwind(|| chunked_end(bytes));
    parsed.ok().flatten().map(|(used, body, _)| (used, body))
}

/// Whether ringway did what it must.
fn judge(case: &Case, outcome: &Outcome) -> Result<(), String> {
    let first = outcome.answers.first();
    let got = first.map(|answer| (answer.status, answer.reason()));
    let is = |status: u16, reason: &str| got == Some((status, reason.to_owned()));
    match case.want {
        Want::Refused(status, reason) if !is(status, reason) => Err(format!("{got:?}, not {status} {reason}")),
        Want::Refused(..) if !outcome.closed => Err("the connection stays open".into()),
        Want::Refused(..) if outcome.answers.len() > 1 => Err("an answer behind the refusal".into()),
        Want::Failed(status, reason) if !is(status, reason) => Err(format!("{got:?}, not {status} {reason}")),
        Want::Broken(status, reason) if is(status, reason) => Ok(()),
        Want::Served if first.map(|answer| answer.status) != Some(200) => Err(format!("{got:?}, not served")),
        Want::Served => seen_as_wanted(case, outcome),
        Want::Cut | Want::Broken(..) if !outcome.answers.is_empty() => Err(format!("{got:?} looks complete")),
        Want::Cut | Want::Broken(..) if !outcome.closed => Err("neither complete nor cut".into()),
        _ => Ok(()),
    }
}

fn seen_as_wanted(case: &Case, outcome: &Outcome) -> Result<(), String> {
    let saw = outcome.origin_saw();
    if let Some(text) = case.gone.iter().find(|text| saw.contains(**text)) {
        return Err(format!("the origin saw {text:?}"));
    }
    match case.kept.iter().find(|text| !saw.contains(**text)) {
        Some(text) => Err(format!("the origin did not see {text:?}")),
        None => Ok(()),
    }
}
