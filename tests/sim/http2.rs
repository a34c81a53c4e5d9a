//! HTTP/2 in the simulation: one client with many streams on a torn connection, before endpoints that echo. It resets
//! streams in whatever state they are, leaves windows closed, says GOAWAY or leaves in the midst of it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ringway::http::name::Name;
use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, MemRead, MemWrite, pair_with};
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::{Code, Fatal};
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::proto::h2::hpack::decode::{Kind, Pseudo};
use ringway::sys::buf::{Buf, pool_taken};
use ringway::telemetry::access_log::AccessLog;
use ringway::time::Now;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::exec::{Exec, Handle};
use crate::http2_up::{self, Told};
use crate::rng::Rng;

/// Seeds of a run that says nothing else; `RINGWAY_SEEDS=COUNT` runs more.
const SEEDS: u64 = 150;
const END_MS: u64 = 100_000;
const STREAMS_MAX: usize = 12;

const CONFIG: &str = "listeners:
  - address: 127.0.0.1:8080
    protocols: [http1, h2c]
    limits: {header_timeout: 2s, idle_timeout: 3s, body_timeout: 2s, write_timeout: 2s}
services: [{name: up, endpoints: [\"10.0.0.1:80\"]}]
routes: [{path: /*, service: up, timeout: 20s}]
";

pub fn faults(rng: &mut Rng) -> Faults {
    let most = [usize::MAX, 3_000, 100][rng.below(3)];
    let delay_one_in = [0, 3][rng.below(2)] as u64;
    Faults { seed: rng.next(), read_bytes_max: most, write_bytes_max: most, delay_one_in, reset_after_bytes: None }
}

struct Origins {
    handle: Handle,
    rng: RefCell<Rng>,
}

impl Connect for Origins {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let mut rng = Rng::new(self.rng.borrow_mut().next());
        let (ours, theirs) = pair_with(1 << 16, faults(&mut rng), faults(&mut rng));
        let slow = rng.one_in(4);
        self.handle.spawn("origin".into(), echo(theirs, self.handle.clone(), slow));
        Ok(ours)
    }
}

/// Answers requests one after another with their bodies, chunked.
async fn echo(io: Mem, handle: Handle, slow: bool) {
    let (mut read, mut write, _control) = io.split();
    let mut bytes = Vec::new();
    loop {
        let Some((taken, body)) = request(&bytes) else {
            let (count, buf) = read.recv(Buf::large()).await;
            if !matches!(count, Ok(1..)) {
                return;
            }
            bytes.extend_from_slice(buf.as_slice());
            continue;
        };
        bytes.drain(..taken);
        if slow {
            handle.sleep(300).await;
        }
        let mut answer = Buf::copy_of(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for part in body.chunks(7_000) {
            answer.extend(format!("{:x}\r\n", part.len()).as_bytes());
            answer.extend(part);
            answer.extend(b"\r\n");
        }
        answer.extend(b"0\r\nX-Sum: 1\r\n\r\n");
        if send_all(&mut write, answer).await.is_err() {
            return;
        }
    }
}

/// A whole request at the front: its length and its body.
fn request(bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
    if let Some((_, rest)) = head.split_once("content-length: ") {
        let length: usize = rest.split("\r\n").next()?.parse().ok()?;
        return Some((end + length, bytes.get(end..end + length)?.to_vec()));
    }
    if !head.contains("transfer-encoding") {
        return Some((end, Vec::new()));
    }
    let (mut at, mut body) = (end, Vec::new());
    loop {
        let line = bytes[at..].windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).ok()?, 16).ok()?;
        at += line + 2;
        body.extend_from_slice(bytes.get(at..at + size)?);
        at += size + 2;
        if bytes.len() < at {
            return None;
        }
        if size == 0 {
            return Some((at, body));
        }
    }
}

/// A stream as its client sees it.
struct Asked {
    body: Vec<u8>,
    sent: usize,
    declared: bool,
    got: Vec<u8>,
    status: Option<u16>,
    whole: bool,
    given_up: bool,
    reset: Option<Code>,
}

struct Client {
    core: RefCell<Core>,
    streams: RefCell<BTreeMap<u32, (Key, Asked)>>,
    rng: RefCell<Rng>,
    writer: RefCell<Option<Waker>>,
    left: Cell<usize>,
    leaves: bool,
    over: Cell<bool>,
    fatal: Cell<Option<Fatal>>,
}

impl Client {
    fn wake(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Opens a stream, or sends more of a body, or gives one up.
    fn act(&self) {
        let (mut core, mut rng) = (self.core.borrow_mut(), self.rng.borrow_mut());
        let mut streams = self.streams.borrow_mut();
        if self.left.get() > 0 && core.may_open() {
            self.left.set(self.left.get() - 1);
            let length = [0, 0, 5, 9_000, 120_000][rng.below(5)];
            let body: Vec<u8> = (0..length).map(|at| (at * 31 + length) as u8).collect();
            let declared = rng.one_in(2);
            let key = core.open(body.is_empty(), |encoder, out| {
                encoder.method(out, if body.is_empty() { b"GET" } else { b"POST" });
                encoder.scheme(out, b"http");
                encoder.path(out, b"/a");
                encoder.authority(out, b"sim");
                if declared && !body.is_empty() {
                    encoder.field(out, b"content-length", body.len().to_string().as_bytes(), Name::ContentLength);
                }
            });
            let key = key.expect("it may open one");
            let asked = Asked {
                body,
                sent: 0,
                declared,
                got: Vec::new(),
                status: None,
                whole: false,
                given_up: false,
                reset: None,
            };
            streams.insert(key.id, (key, asked));
        }
        for (key, asked) in streams.values_mut().filter(|(_, asked)| !asked.whole && asked.reset.is_none()) {
            if self.leaves && !asked.given_up && rng.one_in(40) {
                asked.given_up = true;
                core.reset(*key, Code::Cancel);
                core.release(*key);
            }
            if asked.given_up || asked.sent == asked.body.len() {
                continue;
            }
            let most = 1 + rng.below(20_000);
            let end = (asked.sent + most).min(asked.body.len());
            let mut piece = Buf::copy_of(&asked.body[asked.sent..end]);
            let before = piece.len();
            let sent = core.data(*key, &mut piece, end == asked.body.len());
            asked.sent += if sent == Sent::All { before } else { before - piece.len() };
        }
        if self.leaves && rng.one_in(400) {
            core.refuse_further();
        }
    }

    fn take(&self, event: Event) {
        let mut core = self.core.borrow_mut();
        let mut streams = self.streams.borrow_mut();
        match event {
            Event::Head { key, end, .. } => {
                let section = core.section();
                let status = section.lines.iter().find(|line| line.kind == Kind::Pseudo(Pseudo::Status));
                let mut fields = ringway::http::fields::Fields::default();
                fields.set_buffer(std::mem::take(&mut section.buf));
                let text = fields.text(status.expect("a status").value);
                let status = std::str::from_utf8(text).expect("digits").parse().expect("a number");
                if status >= 200 {
                    core.head_done(key);
                    let (_, asked) = streams.get_mut(&key.id).expect("it was asked");
                    (asked.status, asked.whole) = (Some(status), end);
                }
            }
            Event::Trailers { key, .. } => streams.get_mut(&key.id).expect("it was asked").1.whole = true,
            Event::Data { key, data, end } => {
                let (_, asked) = streams.get_mut(&key.id).expect("it was asked");
                asked.got.extend_from_slice(data.as_slice());
                asked.whole = end;
                core.taken(key, data.len());
            }
            Event::Reset { key, code, .. } => {
                let (_, asked) = streams.get_mut(&key.id).expect("it was asked");
                if !asked.whole {
                    asked.reset = Some(code);
                }
            }
            Event::GoAway { .. } => self.left.set(0),
            _ => {}
        }
        for (key, asked) in streams.values().filter(|(_, asked)| asked.whole || asked.reset.is_some()) {
            let _ = asked;
            core.release(*key);
        }
    }

    async fn read(self: Rc<Self>, mut read: MemRead) {
        let mut input = Buf::large();
        loop {
            let (count, back) = read.recv(input).await;
            input = back;
            if !matches!(count, Ok(1..)) {
                break;
            }
            loop {
                let received = self.core.borrow_mut().receive(&mut input, Now::from_ms(0));
                match received {
                    Ok(Some(event)) => self.take(event),
                    Ok(None) => break,
                    Err(fatal) => {
                        self.fatal.set(Some(fatal));
                        self.over.set(true);
                        return self.wake();
                    }
                }
            }
            self.act();
            self.wake();
            input.compact();
            if input.spare() < 20_000 {
                input.reserve(20_000);
            }
        }
        self.over.set(true);
        self.wake();
    }

    fn is_done(&self) -> bool {
        let streams = self.streams.borrow();
        let ended = |asked: &Asked| asked.whole || asked.given_up || asked.reset.is_some();
        self.left.get() == 0 && streams.values().all(|(_, asked)| ended(asked))
    }

    async fn write(self: Rc<Self>, mut write: MemWrite, handle: Handle) {
        let bytes_max = if self.leaves && self.rng.borrow_mut().one_in(4) { 5_000 } else { usize::MAX };
        let mut bytes = 0;
        loop {
            self.act();
            while let Some(out) = { self.core.borrow_mut().take_output() } {
                bytes += out.len();
                if bytes > bytes_max || send_all(&mut write, out).await.is_err() {
                    return write.reset();
                }
            }
            if self.over.get() || self.is_done() {
                return;
            }
            let pause = 1 + self.rng.borrow_mut().below(40) as u64;
            let mut sleeping = std::pin::pin!(handle.sleep(pause));
            poll_fn(|cx| {
                self.writer.replace(Some(cx.waker().clone()));
                let again = sleeping.as_mut().poll(cx).is_ready() || self.core.borrow().output_bytes() > 0;
                if again || self.over.get() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
}

/// One seed before endpoints that speak HTTP/1. Returns how many streams came out whole.
fn run(seed: u64) -> usize {
    let mut rng = Rng::of(&[seed, 2]);
    let exec = Exec::new(seed);
    let origins = Origins { handle: exec.handle(), rng: RefCell::new(Rng::new(rng.next())) };
    drive(seed, rng, exec, CONFIG, origins, false)
}

/// One seed before endpoints that speak HTTP/2.
fn run_both(seed: u64, wild: bool, told: &Rc<Told>) -> usize {
    let mut rng = Rng::of(&[seed, 3]);
    let exec = Exec::new(seed);
    let config = CONFIG.replace("name: up,", "name: up, protocol: h2,");
    let up = RefCell::new(Rng::new(rng.next()));
    let origins = http2_up::Origins { handle: exec.handle(), rng: up, wild, told: told.clone() };
    let whole = drive(seed, rng, exec, &config, origins, wild);
    assert_eq!(told.fatal.get(), None, "seed {seed}: what the endpoint says of the gateway");
    whole
}

fn drive<C: Connect>(seed: u64, mut rng: Rng, mut exec: Exec, config: &str, origins: C, wild: bool) -> usize {
    let taken = pool_taken();
    let snapshot = bed::snapshot(config, 1, None);
    let handle = exec.handle();
    let (env, _published) = bed::env(origins, &exec.timers, &snapshot, AccessLog::off(), seed);
    let (env, listener) = (Rc::new(env), bed::listener(&snapshot));
    let (theirs, ours) = pair_with([1 << 16, 300][rng.below(2)], faults(&mut rng), faults(&mut rng));
    let serving = env.clone();
    handle.spawn("gateway".into(), async move {
        let origin = bed::origin("192.0.2.1:40000");
        serve_http1(&*serving, ours, origin, || listener.clone()).await;
    });
    let client = Rc::new(Client {
        core: RefCell::new(Core::client(HeadLimits::default(), Now::from_ms(0))),
        streams: RefCell::default(),
        left: Cell::new(1 + rng.below(STREAMS_MAX)),
        leaves: rng.one_in(2),
        rng: RefCell::new(rng),
        writer: RefCell::default(),
        over: Cell::new(false),
        fatal: Cell::new(None),
    });
    let (read, write, _control) = theirs.split();
    handle.spawn("client reads".into(), client.clone().read(read));
    handle.spawn("client writes".into(), client.clone().write(write, handle.clone()));
    let ended = exec.run(END_MS, |alive| !alive.contains(&"gateway"));
    assert!(ended, "seed {seed}: still alive: {:?}", exec.alive());
    assert_eq!((env.active.get(), client.fatal.get()), (0, None), "seed {seed}");
    let mut whole = 0;
    for (id, (_, asked)) in client.streams.borrow().iter() {
        if asked.whole && asked.status == Some(200) {
            assert!(
                asked.got == asked.body,
                "seed {seed}, stream {id}: {} of {} bytes",
                asked.got.len(),
                asked.body.len()
            );
            whole += 1;
        }
        let cut = asked.given_up || asked.reset.is_some() || client.leaves;
        assert!(asked.whole || cut, "seed {seed}, stream {id}: no end, declared {}", asked.declared);
        let fails = asked.whole && asked.status != Some(200);
        assert!(!fails || wild || client.leaves, "seed {seed}, stream {id}: {:?}", asked.status);
    }
    drop((client, env, exec, handle, snapshot));
    assert_eq!(pool_taken(), taken, "seed {seed}: buffers are left");
    whole
}

/// The seeds of this run, and whether there is just one.
fn seeds(usual: u64) -> (std::ops::Range<u64>, bool) {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match number("RINGWAY_SEED") {
        Some(seed) => (seed..seed + 1, true),
        None => (0..number("RINGWAY_SEEDS").unwrap_or(usual), false),
    }
}

#[test]
fn many_streams_on_torn_connections() {
    let (seeds, alone) = seeds(SEEDS);
    let count = seeds.end - seeds.start;
    let whole = seeds.map(run).sum::<usize>() as u64;
    assert!(alone || whole > 2 * count, "only {whole} streams came out whole");
}

/// Both roles: windows run out and answers come in any order, and every stream that its client keeps comes out whole.
#[test]
fn endpoints_of_http2_that_take_their_time_lose_nothing() {
    let (seeds, alone) = seeds(SEEDS);
    let (count, told) = (seeds.end - seeds.start, Rc::default());
    let whole = seeds.map(|seed| run_both(seed, false, &told)).sum::<usize>() as u64;
    assert!(alone || whole > 2 * count, "only {whole} streams came out whole");
}

/// GOAWAY at any frame, resets in any state, connections that break: nothing hangs, nothing is taken for whole that is
/// not, no answer goes to another stream.
#[test]
fn endpoints_of_http2_that_are_wild_cost_only_their_own_streams() {
    let (seeds, alone) = seeds(2 * SEEDS);
    let (count, told) = (seeds.end - seeds.start, Rc::<Told>::default());
    let whole = seeds.map(|seed| run_both(seed, true, &told)).sum::<usize>() as u64;
    assert!(alone || whole > count / 2, "only {whole} streams came out whole");
    let met = [&told.resets, &told.goaways, &told.cuts].map(Cell::get);
    assert!(alone || met.iter().all(|&times| times > count / 30), "resets, GOAWAYs, cuts: {met:?}");
}
