//! Endpoints that nobody can reach, counted and in virtual time (F25, F29): what a request costs there, that its answer
//! waits for nothing, and how soon the first one that is back serves.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arc_swap::ArcSwap;
use ringway::limits::UNREACHABLE_TRIAL_MS;
use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, pair};
use ringway::net::timer::Timers;
use ringway::pipeline::env::Env;
use ringway::snapshot::Snapshot;
use ringway::sys::buf::Buf;
use ringway::telemetry::access_log::AccessLog;
use ringway::time::{Clock, Now};
use ringway::upstream::health::Verdict;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::rng::Rng;

/// Where endpoints are, whether there is somebody or not.
#[derive(Default)]
struct Land {
    clock: Rc<Cell<Now>>,
    there: RefCell<[bool; 4]>,
    /// When somebody knocked, in milliseconds, and where.
    knocks: RefCell<Vec<(u64, usize)>>,
    /// The far ends of connections whose request was not answered yet.
    taken: RefCell<Vec<Mem>>,
}

struct Road(Rc<Land>);

impl Connect for Road {
    type Io = Mem;

    async fn connect(&self, to: SocketAddr, _: u64) -> io::Result<Mem> {
        let IpAddr::V4(ip) = to.ip() else { panic!("{to}") };
        let at = usize::from(ip.octets()[3]) - 1;
        self.0.knocks.borrow_mut().push((self.0.clock.get().ms(), at));
        if !self.0.there.borrow()[at] {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = pair(1 << 16, &Faults::NONE);
        self.0.taken.borrow_mut().push(theirs);
        Ok(ours)
    }
}

struct Gateway {
    land: Rc<Land>,
    env: Env<Road>,
    timers: Rc<Timers>,
    snapshot: Arc<Snapshot>,
    _published: Arc<ArcSwap<Snapshot>>,
}

/// The output of a future that has nothing to wait for.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => panic!("waits"),
    }
}

impl Gateway {
    fn new(endpoints: usize, service: &str) -> Self {
        let land = Rc::<Land>::default();
        let timers = Timers::new(Clock::Virtual(land.clock.clone()));
        let addresses: Vec<_> = (1..=endpoints).map(|at| format!("\"10.0.0.{at}:80\"")).collect();
        let snapshot = bed::snapshot(
            &format!(
                "listeners: [\"127.0.0.1:8080\"]\nroutes: [{{path: /*, service: up}}]\n\
                 services: [{{name: up, endpoints: [{}], slow_start: 0s{service}}}]\n",
                addresses.join(", ")
            ),
            1,
            None,
        );
        let (env, published) = bed::env(Road(land.clone()), &timers, &snapshot, AccessLog::off(), 11);
        let gateway = Self { land, env, timers, snapshot, _published: published };
        gateway.pass(1_000);
        gateway
    }

    /// Lets time pass.
    fn pass(&self, ms: u64) {
        let now = self.land.clock.get().plus_ms(ms);
        self.land.clock.set(now);
        self.timers.advance(now);
    }

    fn now_ms(&self) -> u64 {
        self.land.clock.get().ms()
    }

    fn knocks(&self) -> usize {
        self.land.knocks.borrow().len()
    }

    fn ask(&self, method: &str) -> String {
        self.ask_with(method, "")
    }

    /// One request on a connection of its own: the whole answer. No time passes, so that whoever waits for a timer
    /// waits for ever.
    fn ask_with(&self, method: &str, fields: &str) -> String {
        let (theirs, ours) = pair(1 << 16, &Faults::NONE);
        let (mut read, mut write, _control) = theirs.split();
        let body = if method == "GET" { "" } else { "Content-Length: 2\r\n" };
        let rest = if method == "GET" { "" } else { "hi" };
        let request = format!("{method} / HTTP/1.1\r\nHost: t\r\n{fields}{body}\r\n{rest}");
        at_once(send_all(&mut write, Buf::copy_of(request.as_bytes()))).expect("room");
        let listener = bed::listener(&self.snapshot);
        let mut served = pin!(serve_http1(&self.env, ours, bed::origin("192.0.2.1:40000"), || listener.clone()));
        let mut turn = || assert!(served.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        turn();
        if let Some(endpoint) = self.land.taken.borrow_mut().pop() {
            let (mut read, mut write, _control) = endpoint.split();
            at_once(read.recv(Buf::small())).0.expect("a request");
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            at_once(send_all(&mut write, Buf::copy_of(answer))).expect("room");
            turn();
        }
        let (count, buf) = at_once(read.recv(Buf::small()));
        count.expect("an answer");
        String::from_utf8_lossy(buf.as_slice()).into_owned()
    }

    fn status(&self, method: &str) -> u16 {
        self.ask(method)[9..12].parse().expect("a number")
    }

    /// Asks until it is known that nobody is there; nothing but 502 comes before that.
    fn learn(&self) {
        let before = self.knocks();
        let lost = (0..100).take_while(|_| self.status("GET") == 502).count();
        let count = self.snapshot.services[0].endpoints.get().endpoints.len();
        // Three connections each, and no more for anybody.
        assert!(lost < 3 * count && self.knocks() - before <= 3 * count, "{lost} lost, {} knocks", self.knocks());
    }
}

const LONG: &str = ", ejection: {base: 300s}";

#[test]
fn all_dead_is_told_without_a_timer_and_with_no_attempt_beyond_the_trial() {
    for endpoints in [1, 3, 4] {
        for service in ["", LONG, ", retries: {attempts: 5}"] {
            let gateway = Gateway::new(endpoints, service);
            gateway.learn();
            let before = gateway.knocks();
            for at in 0..500 {
                let answer = gateway.ask(if at % 2 == 0 { "GET" } else { "POST" });
                assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
                assert!(answer.to_ascii_lowercase().contains("\r\nretry-after: 1\r\n"), "{answer}");
            }
            // One trial of each, in a moment that does not end.
            assert!(gateway.knocks() - before <= endpoints, "{} knocks", gateway.knocks() - before);
        }
    }
}

#[test]
fn each_dead_endpoint_is_tried_four_times_a_second_at_most() {
    let gateway = Gateway::new(4, LONG);
    gateway.learn();
    let (from, begun) = (gateway.knocks(), gateway.now_ms());
    for _ in 0..1_000 {
        gateway.pass(10);
        assert_eq!(gateway.status("GET"), 503);
    }
    let knocks = gateway.land.knocks.borrow()[from..].to_vec();
    for at in 0..4 {
        let times: Vec<_> = knocks.iter().filter(|knock| knock.1 == at).map(|knock| knock.0).collect();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] >= UNREACHABLE_TRIAL_MS), "{at}: {times:?}");
        let most = (gateway.now_ms() - begun) / UNREACHABLE_TRIAL_MS + 1;
        assert!(times.len() as u64 <= most && times.len() as u64 >= most / 2, "{at}: {} of {most}", times.len());
    }
}

/// Whichever of them it is, and whenever it comes: also one that was ejected for minutes.
#[test]
fn the_first_that_is_back_serves_within_a_trial() {
    for service in ["", LONG] {
        for back in 0..3 {
            for wait_ms in [0, 130, 5_000, 61_000] {
                let gateway = Gateway::new(3, service);
                gateway.learn();
                (0..wait_ms / 130).for_each(|_| {
                    gateway.pass(130);
                    assert_eq!(gateway.status("GET"), 503);
                });
                gateway.land.there.borrow_mut()[back] = true;
                let begun = gateway.now_ms();
                while gateway.status("GET") != 200 {
                    gateway.pass(10);
                    assert!(gateway.now_ms() <= begun + UNREACHABLE_TRIAL_MS + 10, "{back} after {wait_ms} ms");
                }
                // From then on it has all of them, and nobody pays for the others but with a look now and then.
                (0..200).for_each(|_| assert_eq!(gateway.status("POST"), 200));
            }
        }
    }
}

/// Nothing was sent, and somebody is there: no budget may say no to that (F25), and no count of attempts.
#[test]
fn a_request_finds_the_one_that_is_there() {
    let none = ", retries: {budget: {percent: 0, per_second: 0, least: 0}}";
    for service in ["", none] {
        for there in 0..4 {
            let gateway = Gateway::new(4, service);
            gateway.land.there.borrow_mut()[there] = true;
            for at in 0..200 {
                let method = if at % 2 == 0 { "GET" } else { "POST" };
                assert_eq!(gateway.status(method), 200, "{at}: {method} {there} {service}");
                gateway.pass(7);
            }
        }
    }
    // Where one attempt is wanted it is one.
    let gateway = Gateway::new(4, ", retries: {attempts: 1}");
    gateway.land.there.borrow_mut()[3] = true;
    assert_eq!((0..4).filter(|_| gateway.status("GET") == 502).count(), 3);
    assert_eq!(gateway.knocks(), 4);
}

/// Clients keep their endpoint for as long as it lives, whatever becomes of the others, and have another one from the
/// first request on that it does not live.
#[test]
fn clients_stick_to_an_endpoint_that_lives() {
    let sticky = ", sticky: {cookie: route, secret: 0123456789abcdef}";
    let (mut kept, mut moved) = (0, 0);
    for seed in 0..40 {
        let mut rng = Rng::of(&[seed, 77]);
        let gateway = Gateway::new(4, sticky);
        *gateway.land.there.borrow_mut() = [true; 4];
        let state = gateway.snapshot.services[0].state.clone();
        let mut clients: Vec<(String, usize)> = Vec::new();
        for _ in 0..200 {
            gateway.pass(rng.below(400) as u64);
            let (at, verdict) = (rng.below(4), if rng.one_in(2) { Verdict::Up } else { Verdict::Down });
            let name = format!("10.0.0.{}:80", at + 1);
            let facts = |name: &str| state.facts(name).expect("known");
            state.judge(&name, verdict, gateway.timers.now(), String::new());
            if state.is_deserted(gateway.timers.now()) {
                continue;
            }
            if clients.len() < 8 {
                clients.push((String::new(), usize::MAX));
            }
            let client = rng.below(clients.len());
            let (cookie, own) = &mut clients[client];
            let answer = gateway.ask_with("GET", cookie);
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            let served = gateway.land.knocks.borrow().last().expect("a knock").1;
            let new = answer.lines().find_map(|line| line.strip_prefix("Set-Cookie: "));
            let lives = *own != usize::MAX && facts(&format!("10.0.0.{}:80", *own + 1)).verdict != Verdict::Down;
            assert!(!lives || (served == *own && new.is_none()), "seed {seed}: {own} lives, and {served} was asked");
            // In a panic all are asked, and it may be its own.
            assert_eq!(new.is_some(), served != *own, "seed {seed}");
            (kept, moved) = (kept + usize::from(lives), moved + usize::from(!lives));
            if let Some(new) = new {
                *own = served;
                *cookie = format!("Cookie: {}\r\n", new.split(';').next().expect("a value"));
            }
        }
    }
    assert!(kept > 1_000 && moved > 500, "{kept} {moved}");
}
