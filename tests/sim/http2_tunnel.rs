//! A connection of HTTP/2 that holds quiet tunnels alone holds no buffer, as an idle one does, and hears of a drain.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ringway::http::name::Name;
use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, pair};
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::Code;
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::proto::websocket;
use ringway::sys::buf::{Buf, pool_taken};
use ringway::telemetry::access_log::AccessLog;
use ringway::time::Now;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::exec::{Exec, Handle};
use crate::h2wire::{self, Peer, Wire, value};
use crate::rng::Rng;

const CONFIG: &str = "listeners: [{address: 127.0.0.1:8080, protocols: [http1, h2c]}]
services: [{name: up, endpoints: [\"10.0.0.1:80\"]}]
routes: [{path: /*, service: up, upgrade: [websocket]}]
";

const KEY: &str = "sec-websocket-key";

/// An endpoint that agrees, and sends back what comes.
struct Echo(Handle);

impl Connect for Echo {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let (ours, theirs) = pair(1 << 16, &Faults::NONE);
        self.0.spawn("endpoint".into(), echo(theirs));
        Ok(ours)
    }
}

async fn echo(io: Mem) {
    let (mut read, mut write, _control) = io.split();
    let (count, head) = read.recv(Buf::large()).await;
    let head = String::from_utf8_lossy(head.as_slice()).into_owned();
    assert!(count.is_ok() && head.ends_with("\r\n\r\n"), "{head}");
    let line = head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(KEY)));
    let accept = String::from_utf8(websocket::accept(line.expect("a key").1.as_bytes())).expect("base64");
    let lines = "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket";
    let answer = format!("{lines}\r\nSec-WebSocket-Accept: {accept}\r\n\r\n");
    assert!(send_all(&mut write, Buf::copy_of(answer.as_bytes())).await.is_ok());
    loop {
        let (count, buf) = read.recv(Buf::large()).await;
        if !matches!(count, Ok(1..)) || send_all(&mut write, buf).await.is_err() {
            return;
        }
    }
}

/// A client with two tunnels.
struct Chat {
    wire: Wire,
    keys: RefCell<Vec<Key>>,
    agreed: Cell<usize>,
    /// What is to be said in each.
    words: Cell<Option<&'static [u8]>>,
    got: RefCell<Vec<u8>>,
    /// GOAWAY has come.
    told: Cell<bool>,
}

impl Peer for Chat {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn take(&self, event: Event) {
        let mut core = self.wire.core.borrow_mut();
        match event {
            Event::Head { key, .. } => {
                assert_eq!(value(&h2wire::lines(&mut core), ":status"), Some("200"));
                core.head_done(key);
                self.agreed.set(self.agreed.get() + 1);
            }
            Event::Data { key, data, .. } => {
                self.wire.hold(data.len());
                self.wire.give(&mut core, key, data.len());
                self.got.borrow_mut().extend_from_slice(data.as_slice());
            }
            Event::GoAway { code: Code::NoError, .. } => self.told.set(true),
            Event::Reset { .. } | Event::GoAway { .. } => panic!("{event:?}"),
            _ => {}
        }
    }

    fn act(&self) {
        let (mut core, mut keys) = (self.wire.core.borrow_mut(), self.keys.borrow_mut());
        while core.is_connected() && keys.len() < 2 && !self.told.get() {
            let key = core.open(false, |encoder, out| {
                encoder.method(out, b"CONNECT");
                encoder.protocol(out, b"websocket");
                encoder.scheme(out, b"http");
                encoder.path(out, b"/chat");
                encoder.authority(out, b"sim");
                encoder.field(out, b"sec-websocket-version", b"13", Name::Other);
            });
            keys.push(key.expect("it may open one"));
        }
        if let Some(words) = self.words.take() {
            for key in keys.iter() {
                assert_eq!(core.data(*key, &mut Buf::copy_of(words), false), Sent::All);
            }
        }
    }

    fn is_done(&self) -> bool {
        false
    }
}

#[test]
fn quiet_tunnels_alone_hold_no_buffer() {
    let taken = pool_taken();
    let mut exec = Exec::new(1);
    let snapshot = bed::snapshot(CONFIG, 1, None);
    let echo = Echo(exec.handle());
    let (env, _published) = bed::env(echo, &exec.timers, &snapshot, AccessLog::off(), 1);
    let env = Rc::new(env);
    let serving = env.clone();
    let (theirs, ours) = pair(1 << 16, &Faults::NONE);
    let mut wire = Wire::new(Core::client(HeadLimits::default(), Now::from_ms(0)), Rng::new(1), usize::MAX);
    wire.is_narrow = false;
    let (keys, agreed, words, got, told) = Default::default();
    let chat = Rc::new(Chat { wire, keys, agreed, words, got, told });
    h2wire::start(chat.clone(), theirs, &exec.handle(), "client");
    exec.handle().spawn("gateway".into(), async move {
        let listener = bed::listener(&snapshot);
        serve_http1(&serving, ours, bed::origin("192.0.2.1:40000"), || listener.clone()).await;
    });
    let mut until_ms = 0;
    for words in [&b""[..], b"hello", b"and again"] {
        chat.words.set(Some(words).filter(|words| !words.is_empty()));
        until_ms += 4_000;
        assert!(!exec.run(until_ms, |alive| !alive.contains(&"gateway")), "the connection has ended");
        assert_eq!((chat.agreed.get(), chat.got.take()), (2, words.repeat(2)));
        // One in the hand of the client's reader and of each endpoint's, and two in what the log lines will be made of.
        assert_eq!(pool_taken() - taken, 5, "buffers behind {words:?}");
    }
    // A drain is told at once, though nothing happens on the connection.
    env.draining.set(true);
    assert!(!exec.timers.end_soon().tell_some(), "there is one to be told");
    exec.run(until_ms, |_| false);
    assert!(chat.told.get(), "the client has heard nothing of the drain");
    drop((chat, exec, env));
    assert_eq!(pool_taken(), taken, "buffers are left");
}
