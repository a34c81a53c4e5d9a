//! A connection of HTTP/2 that gives its buffers back since nothing happens, at the moment at which a request comes.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use ringway::limits::{IDLE_RELEASE_MS, TICK_MS};
use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, pair, pair_with};
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::core::{Core, Event};
use ringway::sys::buf::{Buf, pool_taken};
use ringway::telemetry::access_log::AccessLog;
use ringway::time::Now;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::exec::{Exec, Handle};
use crate::h2wire::{self, Peer, Wire};
use crate::rng::Rng;

const CONFIG: &str = "listeners: [{address: 127.0.0.1:8080, protocols: [http1, h2c]}]
services: [{name: up, endpoints: [\"10.0.0.1:80\"]}]
routes: [{path: /*, service: up}]
";

/// An endpoint that takes a moment for each answer.
struct Slow(Handle);

impl Connect for Slow {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let ((ours, theirs), handle) = (pair(1 << 16, &Faults::NONE), self.0.clone());
        self.0.spawn("endpoint".into(), async move {
            let (mut read, mut write, _control) = theirs.split();
            while matches!(read.recv(Buf::small()).await.0, Ok(1..)) {
                handle.sleep(TICK_MS).await;
                let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
                if send_all(&mut write, Buf::copy_of(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(ours)
    }
}

/// A client that asks again when its connection has been idle for about so long.
struct Visitor {
    wire: Wire,
    handle: Handle,
    left: Cell<usize>,
    waits: Cell<bool>,
    next_ms: Cell<u64>,
    got: RefCell<Vec<u8>>,
}

impl Peer for Visitor {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn take(&self, event: Event) {
        let mut core = self.wire.core.borrow_mut();
        match event {
            Event::Head { key, .. } => core.head_done(key),
            Event::Data { key, data, end } => {
                self.wire.hold(data.len());
                self.wire.give(&mut core, key, data.len());
                self.got.borrow_mut().extend_from_slice(data.as_slice());
                if end {
                    core.release(key);
                    self.waits.set(false);
                    let around = self.wire.rng.borrow_mut().below(5) as u64 * TICK_MS;
                    self.next_ms.set(self.handle.now_ms() + IDLE_RELEASE_MS + around - 2 * TICK_MS);
                }
            }
            Event::Reset { .. } | Event::GoAway { .. } => panic!("{event:?}"),
            _ => {}
        }
    }

    fn act(&self) {
        let mut core = self.wire.core.borrow_mut();
        if self.waits.get() || self.left.get() == 0 || self.handle.now_ms() < self.next_ms.get() {
            return;
        }
        self.waits.set(true);
        self.left.set(self.left.get() - 1);
        let key = core.open(true, |encoder, out| {
            encoder.method(out, b"GET");
            encoder.scheme(out, b"http");
            encoder.path(out, b"/");
            encoder.authority(out, b"sim");
        });
        key.expect("it may open one");
    }

    fn is_done(&self) -> bool {
        self.left.get() == 0 && !self.waits.get()
    }
}

#[test]
fn a_request_that_comes_while_buffers_are_given_back_is_served() {
    const REQUESTS: usize = 8;
    for seed in 0..40 {
        let taken = pool_taken();
        let mut exec = Exec::new(seed);
        let snapshot = bed::snapshot(CONFIG, 1, None);
        let (env, _published) = bed::env(Slow(exec.handle()), &exec.timers, &snapshot, AccessLog::off(), seed);
        let env = Rc::new(env);
        let serving = env.clone();
        let late = Faults { seed, delay_one_in: 2, ..Faults::NONE };
        let (theirs, ours) = pair_with(1 << 16, Faults::NONE, late);
        let wire = Wire::new(Core::client(HeadLimits::default(), Now::from_ms(0)), Rng::new(seed), usize::MAX);
        let (left, handle) = (Cell::new(REQUESTS), exec.handle());
        let (waits, next_ms, got) = Default::default();
        let visitor = Rc::new(Visitor { wire, handle, left, waits, next_ms, got });
        h2wire::start(visitor.clone(), theirs, &exec.handle(), "client");
        exec.handle().spawn("gateway".into(), async move {
            let listener = bed::listener(&snapshot);
            serve_http1(&serving, ours, bed::origin("192.0.2.1:40000"), || listener.clone()).await;
        });
        assert!(exec.run(60_000, |alive| !alive.contains(&"gateway")), "seed {seed}: the connection does not end");
        assert_eq!(visitor.got.take(), b"ok".repeat(REQUESTS), "seed {seed}: a request was lost");
        env.pin().close_idle(exec.timers.known_now(), 0);
        assert!(exec.run(90_000, |alive| alive.is_empty()), "seed {seed}: {:?}", exec.alive());
        drop((visitor, exec, env));
        assert_eq!(pool_taken(), taken, "seed {seed}: buffers are left");
    }
}
