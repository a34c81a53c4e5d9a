//! One kept-alive connection through the whole gateway, in memory: a request goes in, an origin answers, the response
//! comes out. Nothing here allocates once it is warm, so that what is counted or measured is the gateway's.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, MemRead, MemWrite, pair};
use ringway::net::timer::Timers;
use ringway::sys::buf::Buf;
use ringway::telemetry::access_log::AccessLog;
use ringway::time::Clock;
use ringway::worker::conn::serve_http1;

use super::bed;

pub const REQUEST: &[u8] = b"GET /api/users/17?full=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1\r\n\
    Accept: */*\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n\r\n";

pub const CONFIG: &str = "listeners: [\"127.0.0.1:8080\"]
services: [{name: up, endpoints: [\"10.0.0.1:80\"]}]
routes: [{path: /api/users/*, service: up}]
";

/// Bytes of a direction in memory.
const CAPACITY: usize = 1 << 20;

struct MemConnect(Rc<RefCell<Option<Mem>>>);

impl Connect for MemConnect {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let (ours, theirs) = pair(CAPACITY, &Faults::NONE);
        self.0.replace(Some(theirs));
        Ok(ours)
    }
}

/// The gateway with its client and its origin.
pub struct Whole {
    served: Pin<Box<dyn Future<Output = ()>>>,
    client: (MemRead, MemWrite),
    origin: Option<(MemRead, MemWrite)>,
    connected: Rc<RefCell<Option<Mem>>>,
    response: Vec<u8>,
}

impl Whole {
    /// A gateway that runs `config` in front of an origin whose answers have bodies of `body_bytes`.
    pub fn new(config: &str, body_bytes: usize) -> Self {
        let timers = Timers::new(Clock::stopped());
        let snapshot = bed::snapshot(config, 1, None);
        let connected = Rc::default();
        let (env, published) = bed::env(MemConnect(Rc::clone(&connected)), &timers, &snapshot, AccessLog::off(), 11);
        let listener = bed::listener(&snapshot);
        let (ours, theirs) = pair(CAPACITY, &Faults::NONE);
        let served = Box::pin(async move {
            let _published = published;
            serve_http1(&env, ours, bed::origin("192.0.2.1:40000"), || listener.clone()).await;
        });
        let (read, write, _) = theirs.split();
        let body = "x".repeat(body_bytes);
        let response = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: origin\r\n\
             Content-Length: {body_bytes}\r\n\r\n{body}"
        );
        Self { served, client: (read, write), origin: None, connected, response: response.into_bytes() }
    }

    fn run_gateway(&mut self) {
        let poll = self.served.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll.is_pending(), "the connection ended");
    }

    /// One request and its response. Returns the bytes that the client got.
    pub fn exchange(&mut self) -> usize {
        now(send_all(&mut self.client.1, Buf::copy_of(REQUEST))).expect("room");
        self.run_gateway();
        if let Some(origin) = self.connected.take() {
            let (read, write, _) = origin.split();
            self.origin = Some((read, write));
        }
        let (read, write) = self.origin.as_mut().expect("the gateway connects");
        let (count, _) = now(read.recv(Buf::small()));
        assert!(count.is_ok_and(|count| count > REQUEST.len() / 2));
        now(send_all(write, Buf::copy_of(&self.response))).expect("room");
        self.run_gateway();
        let (count, back) = now(self.client.0.recv(Buf::with_room(self.response.len() + 1_024)));
        assert!(back.as_slice().starts_with(b"HTTP/1.1 200 OK\r\n"));
        count.expect("a response")
    }
}

/// The output of a future that has nothing to wait for.
pub fn now<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("waits"),
    }
}
