//! What the gateway puts on the wire, in both directions, is read alike by independent parsers (F46, CVE-2021-40346 and
//! its like): corpora and seeded mutations of them go through the whole worker, and what comes out at the other side is
//! judged by httparse here, and by others where `RINGWAY_RECORDS` names a file to write (`check_parsers.py`).

use std::cell::{Cell, RefCell};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use ringway::net::io::{Connect, Io};
use ringway::net::mem::{Faults, Mem, MemRead, pair};
use ringway::snapshot::Snapshot;
use ringway::telemetry::access_log::AccessLog;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::exec::{Exec, Handle};
use crate::rng::Rng;
use crate::wire::{Incoming, send};

/// Inputs of a run that says nothing else, in each direction.
const CASES: u64 = 1_500;
/// How long a peer waits for more before it goes on: all that can come has come.
const QUIET_MS: u64 = 60;

/// Everything is let through that may be let through.
const CONFIG: &str = "
listeners:
  - {address: \"127.0.0.1:8080\", path_policy: preserve, forwarded: FLAG, via: FLAG, trusted_proxies: [TRUSTED]}
services: [{name: up, endpoints: [\"10.0.0.1:80\"]}]
routes: [{path: /*, service: up}]
";

/// What one side received, and on which connection.
type Received = Rc<RefCell<Vec<Rc<RefCell<Vec<u8>>>>>>;

struct Origin {
    handle: Handle,
    /// What it answers, whatever it is asked.
    answer: Rc<Vec<u8>>,
    received: Received,
}

impl Connect for Origin {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> std::io::Result<Mem> {
        let (ours, theirs) = pair(1 << 20, &Faults::NONE);
        let bytes = Rc::<RefCell<Vec<u8>>>::default();
        self.received.borrow_mut().push(bytes.clone());
        let (read, mut write, _) = theirs.split();
        let open = Rc::new(Cell::new(true));
        self.handle.spawn("origin reads".to_owned(), record(read, bytes.clone(), open.clone()));
        let (handle, answer) = (self.handle.clone(), self.answer.clone());
        self.handle.spawn("origin answers".to_owned(), async move {
            let mut answered = 0;
            while open.get() {
                let before = bytes.borrow().len();
                handle.sleep(QUIET_MS).await;
                let now = bytes.borrow().len();
                if now == before && now > answered {
                    answered = now;
                    if !send(&mut write, &answer).await {
                        break;
                    }
                    // An answer of the fuzzer's making may end with the connection alone.
                    if answer.as_slice() != PLAIN {
                        handle.sleep(QUIET_MS).await;
                        break;
                    }
                }
            }
        });
        Ok(ours)
    }
}

const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";

async fn record(read: MemRead, into: Rc<RefCell<Vec<u8>>>, open: Rc<Cell<bool>>) {
    let mut incoming = Incoming::new(read);
    while incoming.more().await {
        into.borrow_mut().append(&mut incoming.raw);
    }
    open.set(false);
}

thread_local! {
    /// The configuration for a stranger, and that for a trusted proxy.
    static SNAPSHOTS: [Arc<Snapshot>; 2] = [("false", ""), ("true", "192.0.2.0/24")]
        .map(|(flag, trusted)| bed::snapshot(&CONFIG.replace("FLAG", flag).replace("TRUSTED", trusted), 1, None));
}

/// Sends `request` through a worker whose origin answers `answer`. Returns what the origin's connections and the client
/// received.
fn through(request: &[u8], answer: &[u8], trusted: bool) -> (Vec<Vec<u8>>, Vec<u8>) {
    let mut exec = Exec::new(1);
    let handle = exec.handle();
    let snapshot = SNAPSHOTS.with(|both| both[usize::from(trusted)].clone());
    let received = Received::default();
    let origin = Origin { handle: handle.clone(), answer: Rc::new(answer.to_vec()), received: received.clone() };
    let (env, _published) = bed::env(origin, &exec.timers, &snapshot, AccessLog::off(), 1);
    let (env, listener) = (Rc::new(env), bed::listener(&snapshot));
    let (theirs, ours) = pair(1 << 20, &Faults::NONE);
    let (read, mut write, control) = theirs.split();
    let (bytes, open) = (Rc::<RefCell<Vec<u8>>>::default(), Rc::new(Cell::new(true)));
    handle.spawn("client reads".to_owned(), record(read, bytes.clone(), open.clone()));
    let (request, at) = (request.to_vec(), handle.clone());
    handle.spawn("client writes".to_owned(), async move {
        let _ = send(&mut write, &request).await;
        at.sleep(60 * QUIET_MS).await;
        control.shutdown(std::net::Shutdown::Both);
    });
    let served = env.clone();
    handle.spawn("connection".to_owned(), async move {
        serve_http1(&served, ours, bed::origin("192.0.2.1:1"), || listener.clone()).await;
    });
    let ended = exec.run(600_000, |alive| {
        env.pin().expire(env.timers.known_now());
        alive.is_empty()
    });
    assert!(ended, "tasks that do not end: {:?}", exec.alive());
    let all = received.borrow().iter().map(|one| one.borrow().clone()).collect();
    let bytes = bytes.borrow().clone();
    (all, bytes)
}

/// A message as a parser reads it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Message {
    /// Method and target, or the status.
    start: Vec<Vec<u8>>,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
    body: Vec<u8>,
    trailers: Vec<(Vec<u8>, Vec<u8>)>,
}

/// What httparse sees in a stream: the whole messages, and how many bytes of a broken-off one stand behind them.
fn read_all(mut bytes: &[u8], is_request: bool, to_head: bool) -> (Vec<Message>, usize) {
    let mut all = Vec::new();
    while let Some((message, used)) = read_one(bytes, is_request, to_head) {
        bytes = &bytes[used..];
        all.push(message);
    }
    (all, bytes.len())
}

fn read_one(bytes: &[u8], is_request: bool, to_head: bool) -> Option<(Message, usize)> {
    let mut table = [httparse::EMPTY_HEADER; 400];
    let mut message = Message::default();
    let (used, fields) = if is_request {
        let mut head = httparse::Request::new(&mut table);
        let httparse::Status::Complete(used) = head.parse(bytes).unwrap_or_else(|error| broken(bytes, error)) else {
            return None;
        };
        assert_eq!(head.version, Some(1));
        message.start = [head.method, head.path].map(|part| part.unwrap_or_default().as_bytes().to_vec()).to_vec();
        (used, head.headers)
    } else {
        let mut head = httparse::Response::new(&mut table);
        let httparse::Status::Complete(used) = head.parse(bytes).unwrap_or_else(|error| broken(bytes, error)) else {
            return None;
        };
        message.start = vec![head.code.unwrap_or_default().to_string().into_bytes()];
        (used, head.headers)
    };
    message.fields =
        fields.iter().map(|field| (field.name.to_ascii_lowercase().into(), field.value.to_vec())).collect();
    let status = std::str::from_utf8(&message.start[0]).ok().and_then(|text| text.parse::<u16>().ok());
    let bodiless = !is_request && (to_head || status.is_some_and(|code| matches!(code, 100..=199 | 204 | 304)));
    let used = used + if bodiless { 0 } else { read_body(&bytes[used..], is_request, &mut message)? };
    Some((message, used))
}

fn broken<T>(bytes: &[u8], error: httparse::Error) -> T {
    panic!("httparse says {error}: {}", bytes.escape_ascii())
}

/// Strict: one framing, written as the gateway writes it. None when the body is not whole.
fn read_body(bytes: &[u8], is_request: bool, message: &mut Message) -> Option<usize> {
    let values =
        |name: &[u8]| message.fields.iter().filter(|field| field.0 == name).map(|field| &field.1[..]).collect();
    let (lengths, codings): (Vec<&[u8]>, Vec<&[u8]>) = (values(b"content-length"), values(b"transfer-encoding"));
    match (&lengths[..], &codings[..]) {
        ([], []) => {
            assert!(is_request, "a response to HTTP/1.1 without a framing");
            Some(0)
        }
        ([length], []) => {
            assert!(length.iter().all(u8::is_ascii_digit) && !length.is_empty(), "{}", length.escape_ascii());
            let length: usize = std::str::from_utf8(length).ok()?.parse().ok()?;
            message.body = bytes.get(..length)?.to_vec();
            Some(length)
        }
        ([], [b"chunked"]) => read_chunks(bytes, message),
        other => panic!("two framings: {other:?}"),
    }
}

fn read_chunks(bytes: &[u8], message: &mut Message) -> Option<usize> {
    let mut at = 0;
    loop {
        let httparse::Status::Complete((line, size)) = httparse::parse_chunk_size(&bytes[at..]).expect("a chunk size")
        else {
            return None;
        };
        let digits = &bytes[at..at + line - 2];
        assert!(digits.iter().all(u8::is_ascii_hexdigit), "an extension was passed on: {}", digits.escape_ascii());
        at += line;
        if size == 0 {
            break;
        }
        message.body.extend_from_slice(bytes.get(at..at + size as usize)?);
        at += size as usize + 2;
        assert_eq!(bytes.get(at - 2..at)?, b"\r\n");
    }
    let mut table = [httparse::EMPTY_HEADER; 200];
    match httparse::parse_headers(&bytes[at..], &mut table).expect("trailers") {
        httparse::Status::Complete((used, fields)) => {
            message.trailers = fields.iter().map(|f| (f.name.to_ascii_lowercase().into(), f.value.to_vec())).collect();
            Some(at + used)
        }
        httparse::Status::Partial => None,
    }
}

/// The inputs of a fuzz target's corpus that somebody wrote. Those that the fuzzer found are hardly ever forwarded, and
/// neither is what is made of them; `tests/fuzz_replay.rs` replays them.
fn corpus(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).expect("a corpus").map(|entry| entry.expect("one").path()).collect();
    paths.retain(|path| !path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("found_")));
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("an input")).collect()
}

/// Parts that change what a message means, or nearly do.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"chunked",
    b"Transfer-Encoding: chunked\r\n",
    b"Content-Length: 5\r\n",
    b"Content-Length: 3\r\n",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"Host: a\r\n",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"Trailer: X\r\n",
    b"X: y\r\n",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"GET / HTTP/1.1\r\nHost: b\r\n\r\n",
    b"//",
    b"/../",
    b"%2f",
    b"?",
    b"#",
    b"\xff",
    b"\x80",
    b"_",
];

fn mutated(rng: &mut Rng, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[rng.below(seeds.len())].clone();
    for _ in 0..rng.below(4) {
        let at = rng.below(bytes.len() + 1);
        match rng.below(6) {
            0 => drop(bytes.splice(at..at, WORDS[rng.below(WORDS.len())].iter().copied())),
            1 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
            2 if at < bytes.len() => drop(bytes.remove(at)),
            3 => {
                let end = (at + rng.below(20)).min(bytes.len());
                let copy = bytes[at..end].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            4 => {
                // A line of another message, at the start of a line.
                let other = &seeds[rng.below(seeds.len())];
                let lines: Vec<_> = other.split_inclusive(|byte| *byte == b'\n').collect();
                let starts: Vec<_> = memchr::memchr_iter(b'\n', &bytes).map(|at| at + 1).collect();
                if let (false, false) = (starts.is_empty(), lines.is_empty()) {
                    let (line, at) = (lines[rng.below(lines.len())].to_vec(), starts[rng.below(starts.len())]);
                    drop(bytes.splice(at..at, line));
                }
            }
            _ => {}
        }
    }
    bytes
}

/// Writes what others are to read, as JSON lines; bytes in hexadecimal.
#[derive(Default)]
struct Records(Option<std::fs::File>);

impl Records {
    fn open(name: &str) -> Self {
        Self(
            std::env::var_os("RINGWAY_RECORDS")
                .map(|folder| std::fs::File::create(Path::new(&folder).join(name)).expect("a file for records")),
        )
    }

    fn write(&mut self, wire: &[u8], method: &str, messages: &[Message], rest: usize) {
        let Some(file) = &mut self.0 else { return };
        let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        let pairs = |fields: &[(Vec<u8>, Vec<u8>)]| {
            fields.iter().map(|(name, value)| serde_json::json!([hex(name), hex(value)])).collect::<Vec<_>>()
        };
        let messages: Vec<_> = messages
            .iter()
            .map(|m| {
                let start: Vec<_> = m.start.iter().map(|part| hex(part)).collect();
                serde_json::json!({
                    "start": start, "fields": pairs(&m.fields), "body": hex(&m.body), "trailers": pairs(&m.trailers)
                })
            })
            .collect();
        let line = serde_json::json!({ "wire": hex(wire), "method": method, "messages": messages, "rest": rest });
        writeln!(file, "{line}").expect("written");
    }
}

fn cases() -> u64 {
    crate::number("RINGWAY_CASES").unwrap_or(CASES)
}

#[test]
fn what_goes_upstream_is_read_alike() {
    let mut records = Records::open("requests.jsonl");
    let mut seeds = [corpus("forwarded_request"), corpus("request_head")].concat();
    seeds.extend(BODIES.iter().map(|text| text.as_bytes().to_vec()));
    let (mut forwarded, mut with_body) = (0, 0);
    for case in 0..cases() + seeds.len() as u64 {
        let mut rng = Rng::of(&[case, 31]);
        // First the seeds as they are.
        let request = seeds.get(case as usize).cloned().unwrap_or_else(|| mutated(&mut rng, &seeds));
        let (streams, _) = through(&request, PLAIN, rng.one_in(2));
        for wire in streams {
            let (messages, rest) = read_all(&wire, true, false);
            forwarded += messages.len();
            with_body += messages.iter().filter(|message| !message.body.is_empty()).count();
            records.write(&wire, "", &messages, rest);
        }
    }
    println!("{forwarded} requests forwarded, {with_body} with a body");
    assert!(forwarded as u64 > cases() / 5 && with_body as u64 > cases() / 50);
}

/// Requests with bodies, several on a connection.
const BODIES: &[&str] = &[
    "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET /b HTTP/1.1\r\nHost: a\r\n\r\n",
    "PUT /c?d=e HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "PUT /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
     5;a=b\r\nhello\r\n00\r\nX-Sum: 1\r\n\r\n",
    "POST /f HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n\
     1\r\na\r\nA\r\n0123456789\r\n0\r\n\r\nGET /g HTTP/1.1\r\nHost: a\r\n\r\n",
    "DELETE /h HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Odd: \u{e9}\r\nX-Empty:\r\n\r\n",
    "M-SEARCH /i;j=k HTTP/1.1\r\nHost: [::1]:80\r\nX_Under: 1\r\nX-Forwarded-For: 1.2.3.4\r\n\r\n",
];

#[test]
fn what_goes_downstream_is_read_alike() {
    let mut records = Records::open("responses.jsonl");
    let mut seeds = corpus("response_head");
    seeds.extend(ANSWERS.iter().map(|text| text.as_bytes().to_vec()));
    let (mut sent, mut with_body) = (0, 0);
    for case in 0..cases() + seeds.len() as u64 {
        let mut rng = Rng::of(&[case, 32]);
        let answer = seeds.get(case as usize).cloned().unwrap_or_else(|| mutated(&mut rng, &seeds));
        let method = rng.pick(&["GET", "GET", "HEAD", "DELETE"]);
        let request = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
        let (_, wire) = through(request.as_bytes(), &answer, rng.one_in(2));
        let (messages, rest) = read_all(&wire, false, method == "HEAD");
        let finals = messages.iter().filter(|message| !message.start[0].starts_with(b"1")).count();
        assert!(finals + usize::from(rest > 0) == 1, "{finals} responses: {}", wire.escape_ascii());
        sent += finals;
        with_body += messages.iter().filter(|message| !message.body.is_empty()).count();
        records.write(&wire, method, &messages, rest);
    }
    println!("{sent} responses sent, {with_body} with a body");
    assert!(sent as u64 > cases() / 2 && with_body > 50);
}

const ANSWERS: &[&str] = &[
    "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X\r\n\r\n\
     5;x=y\r\nhello\r\n3\r\nabc\r\n0\r\nX: 1\r\n\r\n",
    "HTTP/1.1 200\r\n\r\nuntil the close",
    "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"a\"\r\n\r\n",
    "HTTP/1.1 500 Oops\r\nSet-Cookie: a=b\r\nSet-Cookie: c=d\r\nContent-Length: 1\r\n\r\n!",
];
