//! Floods over HTTP/2 (F41 to F45) under a virtual clock: who floods is told why, is gone at once, and costs no
//! waiting.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ringway::limits::LINGER_MS;
use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, pair_with};
use ringway::proto::h2::code::Code;
use ringway::proto::h2::frame::{self, END_HEADERS, END_STREAM, Head, INT31_MAX, Kind, PREFACE};
use ringway::sys::buf::{Buf, pool_taken};
use ringway::telemetry::access_log::AccessLog;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::exec::Exec;
use crate::h2wire;
use crate::rng::Rng;

const CONFIG: &str = "listeners: [{address: 127.0.0.1:8080, protocols: [http1, h2c]}]
routes: [{path: /*, respond: {body: fixed}}]
";
const GET: &[u8] = b"\x82\x86\x84\x41\x04test";

fn raw(kind: Kind, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Buf::with_room(payload.len() + 9);
    frame::write(&mut out, kind, flags, stream, payload);
    out.as_slice().to_vec()
}

fn opened(n: u32, flags: u8) -> Vec<u8> {
    raw(Kind::Headers, END_HEADERS | flags, 2 * n + 1, GET)
}

/// Name, how it ends, what stands first, the n-th piece.
type Flood = (&'static str, Code, Vec<u8>, fn(u32) -> Vec<u8>);

/// A field of 16,000 bytes.
fn large_field() -> Vec<u8> {
    [&b"\0\x01a\x7f\x81\x7c"[..], &[b'x'; 16_000]].concat()
}

fn floods() -> [Flood; 8] {
    [
        ("resets", Code::Calm, vec![], |n| {
            [opened(n, END_STREAM), raw(Kind::Reset, 0, 2 * n + 1, &[0, 0, 0, 8])].concat()
        }),
        ("windows of zero", Code::Protocol, vec![], |n| {
            [opened(n, 0), raw(Kind::WindowUpdate, 0, 2 * n + 1, &[0; 4])].concat()
        }),
        ("malformed heads", Code::Calm, vec![], |n| {
            raw(Kind::Headers, END_HEADERS | END_STREAM, 2 * n + 1, b"\0\x01x\x01y")
        }),
        ("pings", Code::Calm, vec![], |_| raw(Kind::Ping, 0, 0, &[0; 8])),
        ("settings", Code::Calm, vec![], |_| raw(Kind::Settings, 0, 0, b"")),
        ("CONTINUATION", Code::Calm, raw(Kind::Headers, 0, 1, GET), |_| raw(Kind::Continuation, 0, 1, b"\0\x01a\x01b")),
        ("large CONTINUATION", Code::Calm, raw(Kind::Headers, 0, 1, GET), |_| {
            raw(Kind::Continuation, 0, 1, &large_field())
        }),
        ("malformed CONTINUATION", Code::Protocol, raw(Kind::Headers, 0, 1, GET), |_| {
            raw(Kind::Continuation, 0, 1, &[0; 16_000])
        }),
    ]
}

struct Nowhere;

impl Connect for Nowhere {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }
}

/// What a client has read.
type Read = Rc<RefCell<Vec<u8>>>;

/// The code of the last GOAWAY among whole frames.
fn goaway(bytes: &[u8]) -> Option<Code> {
    let (mut at, mut found) = (0, None);
    while let Some(head) = Head::parse(&bytes[at..]) {
        let Some(payload) = bytes.get(at + 9..at + 9 + head.length) else { break };
        if head.kind == Kind::GoAway {
            assert!(frame::number(payload) <= INT31_MAX);
            found = Some(Code::of(frame::number(&payload[4..])));
        }
        at += 9 + head.length;
    }
    found
}

/// Floods one connection, which the client never closes. Returns what it was told, when the gateway was done with it.
fn run(seed: u64, flood: &Flood, capacity: usize, reads: bool) -> (Option<Code>, u64) {
    let (what, _, first, piece) = flood;
    let taken = pool_taken();
    let mut rng = Rng::of(&[seed, 41]);
    let mut exec = Exec::new(seed);
    let handle = exec.handle();
    let snapshot = bed::snapshot(CONFIG, 1, None);
    let (env, _published) = bed::env(Nowhere, &exec.timers, &snapshot, AccessLog::off(), seed);
    let (env, listener) = (Rc::new(env), bed::listener(&snapshot));
    let (theirs, ours) = pair_with(capacity, h2wire::faults(&mut rng), Faults::NONE);
    let serving = env.clone();
    handle.spawn("gateway".into(), async move {
        serve_http1(&*serving, ours, bed::origin("192.0.2.1:40000"), || listener.clone()).await;
    });
    let settings = raw(Kind::Settings, 0, 0, b"");
    let mut text = [&PREFACE[..], &settings, first].concat();
    // Less than what is read and dropped behind other errors, and more than fits on the way.
    (0..)
        .take_while(|n| {
            text.extend(piece(*n));
            text.len() < 160_000
        })
        .for_each(drop);
    let (mut read, mut write, control) = theirs.split();
    let got = Read::default();
    let (told, kept) = (got.clone(), control.clone());
    handle.spawn("client writes".into(), async move {
        let sent = send_all(&mut write, Buf::copy_of(&text)).await;
        assert!(sent.is_err(), "all of it was taken");
        // It does not close: the gateway has to.
        std::future::pending::<()>().await;
        drop(write);
    });
    handle.spawn("client reads".into(), async move {
        let _kept = kept;
        if reads {
            while let (Ok(1..), buf) = read.recv(Buf::small()).await {
                told.borrow_mut().extend_from_slice(buf.as_slice());
            }
        }
        std::future::pending::<()>().await;
        drop(read);
    });
    let ended = exec.run(60_000, |alive| !alive.contains(&"gateway"));
    assert!(ended, "{what}, seed {seed}: still alive: {:?}", exec.alive());
    let ended_ms = handle.now_ms();
    assert_eq!(env.active.get(), 0, "{what}, seed {seed}");
    // Its last words are still to be read.
    exec.run(ended_ms + 1, |_| false);
    let code = goaway(&got.borrow());
    drop((env, exec, handle, snapshot, control, got));
    assert_eq!(pool_taken(), taken, "{what}, seed {seed}: buffers are left");
    (code, ended_ms)
}

#[test]
fn who_floods_is_told_why_and_is_gone_at_once() {
    for flood in &floods() {
        for seed in 0..30 {
            let (code, ended_ms) = run(seed, flood, 1 << 16, true);
            assert_eq!((code, ended_ms), (Some(flood.1), 0), "{}, seed {seed}", flood.0);
        }
    }
}

/// A send that is under way has its time, and no more: what does not fit is not waited for.
#[test]
fn who_floods_and_does_not_read_is_not_waited_for_long() {
    for flood in &floods() {
        for seed in 0..10 {
            let (code, ended_ms) = run(seed, flood, 30, false);
            assert!(code.is_none() && ended_ms <= LINGER_MS + 1_000, "{}, seed {seed}: {ended_ms} ms", flood.0);
        }
    }
}
