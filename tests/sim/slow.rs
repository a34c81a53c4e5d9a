//! Clients that are slow on purpose, against the default limits, in virtual time (F38, F39, B9).

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ringway::net::io::{Connect, Interrupt, Io, ReadHalf};
use ringway::net::mem::{Faults, Mem, MemRead, MemWrite, pair};
use ringway::pipeline::env::Env;
use ringway::sys::buf::{self, Buf, pool_taken};
use ringway::telemetry::access_log::AccessLog;
use ringway::telemetry::metrics::instruments::Deadline;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::exec::{Exec, Handle};
use crate::wire::{Framing, Incoming, Piece, send};

const CONFIG: &str = "
listeners: [\"127.0.0.1:8080\"]
services: [{name: up, endpoints: [\"10.0.0.1:80\"]}]
routes: [{path: /*, service: up, timeout: 10m}]
";

/// What the only origin does with a connection.
type Serve = fn(Handle, Mem) -> std::pin::Pin<Box<dyn Future<Output = ()>>>;

struct One {
    handle: Handle,
    serve: Serve,
}

impl Connect for One {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let (ours, theirs) = pair(1 << 20, &Faults::NONE);
        self.handle.spawn("origin".to_owned(), (self.serve)(self.handle.clone(), theirs));
        Ok(ours)
    }
}

/// A client's end, and what it has seen.
struct Peer {
    read: MemRead,
    write: MemWrite,
    control: Rc<dyn Interrupt>,
    handle: Handle,
}

/// How a run ended.
#[derive(Default)]
struct Seen {
    /// The first line and the body of what came back.
    text: RefCell<String>,
    /// When the client had its answer, or its end.
    answered_ms: Cell<u64>,
    /// When the gateway was done with the connection.
    over_ms: Cell<u64>,
    header: Cell<u64>,
    body: Cell<u64>,
    body_rate: Cell<u64>,
    write: Cell<u64>,
    write_rate: Cell<u64>,
}

/// Runs one client against the origin, over a connection that holds `capacity` bytes.
fn run<F: Future<Output = ()> + 'static>(
    serve: Serve,
    capacity: usize,
    client: impl FnOnce(Peer, Rc<Seen>) -> F,
) -> Rc<Seen> {
    let taken = pool_taken();
    let mut exec = Exec::new(1);
    let handle = exec.handle();
    let snapshot = bed::snapshot(CONFIG, 1, None);
    let connector = One { handle: handle.clone(), serve };
    let (env, _published) = bed::env(connector, &exec.timers, &snapshot, AccessLog::off(), 1);
    let (env, listener) = (Rc::new(env), bed::listener(&snapshot));
    let seen = Rc::<Seen>::default();
    let (theirs, ours) = pair(capacity, &Faults::NONE);
    let (read, write, control) = theirs.split();
    handle.spawn("client".to_owned(), client(Peer { read, write, control, handle: handle.clone() }, seen.clone()));
    let (served, at_end, worker) = (env.clone(), seen.clone(), handle.clone());
    handle.spawn("connection".to_owned(), async move {
        serve_http1(&served, ours, bed::origin("192.0.2.1:1"), || listener.clone()).await;
        at_end.over_ms.set(worker.now_ms());
    });
    let idle = env.clone();
    let ended = exec.run(600_000, move |alive| {
        idle.pin().expire(idle.timers.known_now());
        alive.is_empty()
    });
    assert!(ended, "tasks that do not end: {:?}", exec.alive());
    count(&env, &seen);
    drop(env);
    assert_eq!(pool_taken(), taken, "buffers that did not come back");
    seen
}

fn count(env: &Env<One>, seen: &Seen) {
    let all = env.metrics.borrow().own.deadlines.values();
    let of = |kind: Deadline| all[kind as usize];
    seen.header.set(of(Deadline::Header));
    seen.body.set(of(Deadline::Body));
    seen.body_rate.set(of(Deadline::BodyRate));
    seen.write.set(of(Deadline::Write));
    seen.write_rate.set(of(Deadline::WriteRate));
}

/// An origin that reads requests and answers each once it is whole.
fn echo(_: Handle, io: Mem) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (read, mut write, _) = io.split();
        let mut incoming = Incoming::new(read);
        while let Some(head) = incoming.head().await {
            let mut framing = head.framing().unwrap_or(Framing::Length(0));
            let mut bytes = 0;
            loop {
                match incoming.piece(&mut framing).await {
                    Piece::Data(data) => bytes += data.len(),
                    Piece::End => break,
                    Piece::Cut => return,
                }
            }
            let text = bytes.to_string();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            if !send(&mut write, answer.as_bytes()).await {
                return;
            }
        }
    })
}

/// An origin that answers at the head, and reads nothing more.
fn early(handle: Handle, io: Mem) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (read, mut write, _) = io.split();
        let mut incoming = Incoming::new(read);
        if incoming.head().await.is_some() {
            send(&mut write, b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly").await;
            handle.sleep(1_000).await;
        }
    })
}

/// An origin with a long answer.
fn long(_: Handle, io: Mem) -> std::pin::Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(async move {
        let (read, mut write, _) = io.split();
        let mut incoming = Incoming::new(read);
        if incoming.head().await.is_some() {
            let body = "x".repeat(30_000);
            send(&mut write, format!("HTTP/1.1 200 OK\r\nContent-Length: 30000\r\n\r\n{body}").as_bytes()).await;
        }
    })
}

/// Sends what is to be sent at once, then so many bytes each time, and waits for the answer meanwhile.
fn upload(first: String, rest: String, bytes: usize, every_ms: u64) -> impl FnOnce(Peer, Rc<Seen>) -> BoxedClient {
    move |peer, seen| {
        Box::pin(async move {
            let Peer { read, mut write, control, handle } = peer;
            let done = Rc::new(Cell::new(false));
            let (ended, at) = (done.clone(), handle.clone());
            handle.spawn("client reads".to_owned(), async move {
                let mut incoming = Incoming::new(read);
                if let Some(head) = incoming.head().await {
                    let mut framing = head.framing().unwrap_or(Framing::Length(0));
                    let mut text = head.start.join(" ");
                    while let Piece::Data(data) = incoming.piece(&mut framing).await {
                        text += &String::from_utf8_lossy(&data);
                    }
                    seen.text.replace(text);
                }
                seen.answered_ms.set(at.now_ms());
                ended.set(true);
            });
            let _ = send(&mut write, first.as_bytes()).await;
            for part in rest.as_bytes().chunks(bytes) {
                handle.sleep(every_ms).await;
                if done.get() || !send(&mut write, part).await {
                    break;
                }
            }
            while !done.get() {
                handle.sleep(20).await;
            }
            control.shutdown(std::net::Shutdown::Both);
        })
    }
}

type BoxedClient = std::pin::Pin<Box<dyn Future<Output = ()>>>;

/// Asks, then reads so many bytes each time.
fn download(bytes: usize, every_ms: u64) -> impl FnOnce(Peer, Rc<Seen>) -> BoxedClient {
    move |peer, seen| {
        Box::pin(async move {
            let Peer { mut read, mut write, control, handle } = peer;
            let _ = send(&mut write, b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let mut total = 0;
            while total < 30_000 {
                handle.sleep(every_ms).await;
                for _ in 0..bytes {
                    // Leaves room for one byte, so that one read takes one.
                    let mut one = Buf::small();
                    one.extend(&vec![0; one.spare() - 1]);
                    match read.recv(one).await.0 {
                        Ok(count) if count > 0 => total += count,
                        _ => {
                            seen.answered_ms.set(handle.now_ms());
                            return;
                        }
                    }
                }
            }
            seen.text.replace("whole".to_owned());
            seen.answered_ms.set(handle.now_ms());
            control.shutdown(std::net::Shutdown::Both);
        })
    }
}

fn post(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n")
}

const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[track_caller]
fn assert_ended(seen: &Seen, reason: &str, from_ms: u64, to_ms: u64) {
    let (text, at) = (seen.text.borrow(), seen.answered_ms.get());
    assert!(text.starts_with("HTTP/1.1 408") && text.contains(&format!("\"{reason}\"")), "{text}");
    assert!((from_ms..=to_ms).contains(&at), "answered at {at} ms");
    assert!(seen.over_ms.get() <= at + 2_500, "closed at {} ms", seen.over_ms.get());
}

#[test]
fn a_head_at_a_byte_a_second_has_ten_seconds() {
    let head = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Filler: {}\r\n\r\n", "a".repeat(400));
    let seen = run(echo, 1 << 16, upload(String::new(), head, 1, 1_000));
    assert_ended(&seen, "header_timeout", 11_000, 11_060);
    assert_eq!(seen.header.get(), 1);
}

#[test]
fn a_body_at_a_byte_a_second_is_ended_within_forty_seconds() {
    let seen = run(echo, 1 << 16, upload(post(400), "x".repeat(400), 1, 1_000));
    assert_ended(&seen, "body_too_slow", 10_000, 12_000);
    assert_eq!((seen.body_rate.get(), seen.body.get()), (1, 0));
    let chunks = "1\r\nx\r\n".repeat(100);
    assert_ended(&run(echo, 1 << 16, upload(CHUNKED.to_owned(), chunks, 6, 1_000)), "body_too_slow", 10_000, 12_000);
    assert_ended(&run(echo, 1 << 16, upload(post(400), "x".repeat(400), 1, 29_000)), "body_too_slow", 29_000, 30_000);
    // Bytes that are no payload buy nothing, however many come.
    let extension = format!("1;{}", "e".repeat(4_000));
    let seen = run(echo, 1 << 16, upload(CHUNKED.to_owned(), extension, 60, 1_000));
    assert_ended(&seen, "body_timeout", 30_000, 31_000);
    // A burst buys no time.
    let seen = run(echo, 1 << 16, upload(post(300_000) + &"x".repeat(200_000), "x".repeat(400), 1, 1_000));
    assert_ended(&seen, "body_too_slow", 10_000, 12_000);
}

#[test]
fn a_body_that_pauses_is_ended_by_its_timeout() {
    let seen = run(echo, 1 << 16, upload(post(400), "x".repeat(400), 100, 35_000));
    assert_ended(&seen, "body_timeout", 30_000, 30_100);
    assert_eq!((seen.body_rate.get(), seen.body.get()), (0, 1));
}

/// Fast enough is never cut, also where the whole takes longer than the endpoint's time to its first byte.
#[test]
fn a_slow_body_that_is_fast_enough_arrives() {
    let seen = run(echo, 1 << 16, upload(post(30_000), "x".repeat(30_000), 300, 1_000));
    assert_eq!(*seen.text.borrow(), "HTTP/1.1 200 OK30000");
    assert_eq!((seen.answered_ms.get() / 1_000, seen.body_rate.get()), (100, 0));
    let paused = run(echo, 1 << 16, upload(post(60_000), "x".repeat(60_000), 20_000, 20_000));
    assert_eq!(*paused.text.borrow(), "HTTP/1.1 200 OK60000");
}

#[test]
fn a_slow_reader_is_cut() {
    let seen = run(long, 1_000, download(100, 1_000));
    assert_eq!((seen.write_rate.get(), seen.write.get()), (1, 0));
    assert_eq!(*seen.text.borrow(), "", "cut, never completed");
    assert!((10_000..=40_000).contains(&seen.over_ms.get()), "over at {} ms", seen.over_ms.get());
}

#[test]
fn a_reader_that_is_fast_enough_is_served() {
    let seen = run(long, 1_000, download(300, 1_000));
    assert_eq!((seen.write_rate.get(), seen.write.get()), (0, 0));
    assert_eq!(*seen.text.borrow(), "whole");
    assert!(seen.answered_ms.get() > 90_000);
}

#[test]
fn a_reader_that_stops_is_cut_by_its_timeout() {
    let seen = run(long, 1_000, download(2_000, 100_000));
    assert_eq!((seen.write_rate.get(), seen.write.get()), (0, 1));
    assert!((30_000..=30_100).contains(&seen.over_ms.get()), "over at {} ms", seen.over_ms.get());
}

/// The answer is complete while the client still has body to send, and sends none: the request is over soon.
#[test]
fn an_upload_that_nobody_waits_for_ends_with_a_drain() {
    let seen = run(early, 1 << 16, upload(post(400) + "x", String::new(), 1, 1_000));
    assert_eq!(*seen.text.borrow(), "HTTP/1.1 200 OKearly");
    assert!(seen.over_ms.get() < 5_000, "over at {} ms", seen.over_ms.get());
}

#[test]
fn where_memory_is_short_no_head_gets_a_large_buffer() {
    let field = format!("X-Filler: {}\r\n", "a".repeat(1_988));
    let answer = |bytes: usize| {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", field.repeat(bytes / field.len()));
        run(echo, 1 << 16, upload(String::new(), head, 700, 1)).text.borrow().clone()
    };
    assert!(answer(20_000).starts_with("HTTP/1.1 200"));
    buf::set_scarce(true);
    let (small, large) = (answer(6_000), answer(20_000));
    buf::set_scarce(false);
    assert!(small.starts_with("HTTP/1.1 200"), "{small}");
    assert!(large.starts_with("HTTP/1.1 503") && large.contains("\"memory\""), "{large}");
    assert!(answer(20_000).starts_with("HTTP/1.1 200"));
}

#[test]
fn where_memory_is_short_bodies_arrive_whole() {
    buf::set_scarce(true);
    let seen = run(echo, 1 << 16, upload(post(60_000), "x".repeat(60_000), 20_000, 1));
    buf::set_scarce(false);
    let text = seen.text.borrow();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}
