//! The clients of the simulation of retries, over HTTP/1 and HTTP/2.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ringway::http::name::Name;
use ringway::net::io::{Io, ReadHalf, send_all};
use ringway::net::mem::{MemRead, MemWrite};
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::Code;
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::sys::buf::Buf;
use ringway::time::Now;

use crate::exec::Handle;
use crate::h2wire::{self, Peer, Wire, lines, value};
use crate::http1_up::Reading;
use crate::retry::{Book, Fate, Gateway, Outcome, filling, has_trailers, is_full, request_body};
use crate::retry_up::{DRAIN, FILL};
use crate::rng::Rng;

/// How long nothing happens before windows are measured: by then all has come that was on its way.
const QUIET_MS: u64 = 1_000;
/// Requests that measure windows of endpoints, one after the other.
const DRAINS: usize = 2;

/// Clients that are still at work, and those of them that have requests of the plan.
pub struct Shift {
    pub at_work: Cell<usize>,
    planned: Cell<usize>,
}

impl Shift {
    fn leave(count: &Cell<usize>) {
        count.set(count.get() - 1);
    }
}

/// Starts the clients.
pub fn start(gateway: &Rc<Gateway>, book: &Rc<Book>, [by_h1, measures]: [bool; 2], rng: &mut Rng) -> Rc<Shift> {
    let count = if by_h1 { 4 } else { 2 };
    let shift = Rc::new(Shift { at_work: Cell::new(count), planned: Cell::new(count) });
    for client in 0..count {
        let numbers = (client..book.plans.len()).step_by(count).collect();
        let rng = Rng::new(rng.next());
        let drains = if client == 0 && measures { DRAINS } else { 0 };
        let (gateway, book, shift) = (gateway.clone(), book.clone(), shift.clone());
        if by_h1 {
            let name = format!("client {client}");
            gateway.handle.clone().spawn(name, async move {
                Plain { gateway, book, rng, open: None }.run(numbers, drains, &shift).await;
                Shift::leave(&shift.at_work);
            });
        } else {
            let fills = usize::from(measures);
            start_h2(&gateway, &book, rng, numbers, drains + fills, shift);
        }
    }
    shift
}

fn note(book: &Book, number: usize, change: impl FnOnce(&mut Outcome)) {
    change(&mut book.outcomes.borrow_mut()[number]);
}

// === HTTP/1 ===

struct Plain {
    gateway: Rc<Gateway>,
    book: Rc<Book>,
    rng: Rng,
    open: Option<(MemRead, MemWrite)>,
}

impl Plain {
    /// One request after the other; behind all clients' last ones a few that measure the windows of endpoints.
    async fn run(mut self, numbers: Vec<usize>, drains: usize, shift: &Shift) {
        for number in numbers {
            let plan = self.book.plans[number];
            let head = match plan.method {
                "GET" => format!("GET /{number} HTTP/1.1\r\nHost: sim\r\n\r\n"),
                method => {
                    let length = plan.body_bytes;
                    format!("{method} /{number} HTTP/1.1\r\nHost: sim\r\nContent-Length: {length}\r\n\r\n")
                }
            };
            let bytes = [head.as_bytes(), request_body(number, &plan)].concat();
            let reading = self.ask(bytes).await;
            note(&self.book, number, |outcome| {
                (outcome.status, outcome.body, outcome.whole) = reading;
            });
            if plan.fate == Fate::Early {
                self.open = None;
            }
        }
        self.open = None;
        Shift::leave(&shift.planned);
        while shift.planned.get() > 0 {
            self.gateway.handle.sleep(20).await;
        }
        self.gateway.handle.sleep(QUIET_MS).await;
        for _ in 0..drains {
            let drained = self.ask(format!("GET {DRAIN} HTTP/1.1\r\nHost: sim\r\n\r\n").into_bytes()).await;
            assert!(drained.0 == 200 && drained.2, "an answer: {}", drained.0);
        }
    }

    /// Sends a request, on a connection that is open or on another one.
    async fn begin(&mut self, bytes: Vec<u8>) {
        if self.open.is_none() {
            let (read, write, _control) = self.gateway.accept(&mut self.rng).split();
            self.open = Some((read, write));
        }
        let (_, write) = self.open.as_mut().expect("it is open");
        // The gateway may have answered, and taken no more.
        let _ = send_all(write, Buf::copy_of(&bytes)).await;
    }

    /// The status and the body of an answer, and whether it is whole.
    async fn ask(&mut self, bytes: Vec<u8>) -> (u16, Vec<u8>, bool) {
        self.begin(bytes).await;
        let (mut bytes, mut reading) = (Vec::new(), Reading::default());
        let (read, _) = self.open.as_mut().expect("it is open");
        let whole = loop {
            if reading.go_on(&mut bytes) {
                break true;
            }
            let (count, buf) = read.recv(Buf::large()).await;
            if !matches!(count, Ok(1..)) {
                break false;
            }
            bytes.extend_from_slice(buf.as_slice());
        };
        let head = reading.head.to_ascii_lowercase();
        if !whole || head.contains("connection: close") {
            self.open = None;
        }
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        (status, reading.body, whole)
    }
}

// === HTTP/2 ===

struct Asked {
    key: Key,
    /// One of the plan's, or one that measures.
    number: Option<usize>,
    body: Vec<u8>,
    sent: usize,
    untaken: usize,
    over: bool,
}

struct Client {
    wire: Wire,
    book: Rc<Book>,
    handle: Handle,
    numbers: RefCell<Vec<usize>>,
    /// Requests that are still to measure windows, one after the other: of endpoints, then this client's own.
    measures: Cell<usize>,
    fills: bool,
    /// Since when nobody has requests of the plan.
    quiet_ms: Cell<Option<u64>>,
    has_ended_plan: Cell<bool>,
    streams: RefCell<BTreeMap<u32, Asked>>,
    shift: Rc<Shift>,
}

fn start_h2(
    gateway: &Rc<Gateway>,
    book: &Rc<Book>,
    mut rng: Rng,
    numbers: Vec<usize>,
    measures: usize,
    shift: Rc<Shift>,
) {
    let io = gateway.accept(&mut rng);
    let client = Client {
        wire: Wire::new(Core::client(HeadLimits::default(), Now::from_ms(0)), rng, usize::MAX),
        book: book.clone(),
        handle: gateway.handle.clone(),
        numbers: RefCell::new(numbers),
        measures: Cell::new(measures),
        fills: measures > 0,
        quiet_ms: Cell::default(),
        has_ended_plan: Cell::default(),
        streams: RefCell::default(),
        shift,
    };
    h2wire::start(Rc::new(client), io, &gateway.handle, "client");
}

impl Client {
    fn open(&self, core: &mut Core, method: &str, path: &str, body: Vec<u8>, number: Option<usize>) {
        let is_stated = !body.is_empty() && number.is_some_and(|number| number.is_multiple_of(2));
        let key = core.open(body.is_empty(), |encoder, out| {
            encoder.method(out, method.as_bytes());
            encoder.scheme(out, b"http");
            encoder.path(out, path.as_bytes());
            encoder.authority(out, b"sim");
            if is_stated {
                encoder.field(out, b"content-length", body.len().to_string().as_bytes(), Name::ContentLength);
            }
        });
        let key = key.expect("it may open one");
        self.streams.borrow_mut().insert(key.id, Asked { key, number, body, sent: 0, untaken: 0, over: false });
    }

    /// Opens the next stream where it is time.
    fn open_next(&self, core: &mut Core, rng: &mut Rng) {
        if self.wire.over.get() || !core.is_connected() {
            return;
        }
        let next = self.numbers.borrow_mut().pop();
        if let Some(number) = next {
            let plan = &self.book.plans[number];
            let body = request_body(number, plan).to_vec();
            return self.open(core, plan.method, &format!("/{number}"), body, Some(number));
        }
        let (left, is_quiet) = (self.measures.get(), self.streams.borrow().values().all(|asked| asked.over));
        if !is_quiet || !self.may_measure() || left == 0 || rng.one_in(2) {
            return;
        }
        self.measures.set(left - 1);
        if left > 1 {
            self.open(core, "GET", DRAIN, Vec::new(), None);
        } else {
            self.open(core, "POST", FILL, vec![b'x'; filling(core.send_room())], None);
        }
    }

    /// Whether all clients' requests of the plan have been over for a while. Called when this one's are.
    fn may_measure(&self) -> bool {
        if !self.has_ended_plan.replace(true) {
            Shift::leave(&self.shift.planned);
        }
        if self.shift.planned.get() > 0 {
            return false;
        }
        let now_ms = self.handle.now_ms();
        let quiet_ms = self.quiet_ms.get().unwrap_or(now_ms);
        self.quiet_ms.set(Some(quiet_ms));
        now_ms >= quiet_ms + QUIET_MS
    }

    /// Whether it leaves this request now.
    fn gives_up(&self, number: usize, rng: &mut Rng) -> bool {
        let plan = &self.book.plans[number];
        plan.gives_up && rng.one_in(3) && (self.book.is_held(number) || plan.fate != Fate::Hold && rng.one_in(4))
    }

    fn note(&self, asked: &Asked, change: impl FnOnce(&mut Outcome)) {
        if let Some(number) = asked.number {
            note(&self.book, number, change);
        }
    }
}

impl Peer for Client {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn act(&self) {
        let (mut core, mut rng) = (self.wire.core.borrow_mut(), self.wire.rng.borrow_mut());
        if rng.one_in(2) {
            self.open_next(&mut core, &mut rng);
        }
        for asked in self.streams.borrow_mut().values_mut() {
            if asked.untaken > 0 {
                self.wire.give(&mut core, asked.key, std::mem::take(&mut asked.untaken));
            }
            if asked.over {
                core.release(asked.key);
            } else if asked.number.is_some_and(|number| self.gives_up(number, &mut rng)) {
                asked.over = true;
                self.note(asked, |outcome| outcome.given_up_ms = Some(self.handle.now_ms()));
                core.reset(asked.key, Code::Cancel);
                core.release(asked.key);
            } else if asked.sent < asked.body.len() {
                let (most, trails) = (1 + rng.below(20_000), asked.number.is_some_and(has_trailers));
                let sent = self.wire.send_some(&mut core, asked.key, &asked.body, &mut asked.sent, most, !trails);
                if trails && sent == Sent::All && asked.sent == asked.body.len() {
                    core.head(asked.key, true, |encoder, out| encoder.field(out, b"x-sum", b"1", Name::Other));
                }
            }
        }
    }

    fn take(&self, event: Event) {
        let mut core = self.wire.core.borrow_mut();
        let mut streams = self.streams.borrow_mut();
        match event {
            Event::Head { key, end, fault } => {
                assert_eq!(fault, None, "the gateway sends sound heads");
                let status = value(&lines(&mut core), ":status").expect("a status").parse().expect("a number");
                core.head_done(key);
                let asked = streams.get_mut(&key.id).expect("it was asked");
                asked.over = end;
                self.note(asked, |outcome| (outcome.status, outcome.whole) = (status, end));
            }
            Event::Data { key, data, end } => {
                self.wire.hold(data.len());
                let asked = streams.get_mut(&key.id).expect("it was asked");
                asked.untaken += data.len();
                asked.over = end;
                self.note(asked, |outcome| {
                    outcome.body.extend_from_slice(data.as_slice());
                    outcome.whole = end;
                });
            }
            Event::Trailers { key, .. } => {
                let asked = streams.get_mut(&key.id).expect("it was asked");
                asked.over = true;
                self.note(asked, |outcome| outcome.whole = true);
            }
            Event::Reset { key, code, by_peer } => {
                let asked = streams.get_mut(&key.id).expect("it was asked");
                if !by_peer || asked.over && code != Code::NoError {
                    self.book.complain(format!("{:?}: {code:?} for the gateway's mistake", asked.number));
                }
                asked.over = true;
            }
            Event::GoAway { code, .. } if code != Code::NoError => {
                self.book.complain(format!("the gateway goes away: {code:?}"));
            }
            _ => {}
        }
    }

    /// With its own window full again, where it was measured.
    fn is_done(&self) -> bool {
        let is_over = self.measures.get() == 0 && self.streams.borrow().values().all(|asked| asked.over);
        is_over && self.has_ended_plan.get() && (!self.fills || is_full(self.wire.core.borrow().send_room()))
    }
}

/// A client's last word.
impl Drop for Client {
    fn drop(&mut self) {
        Shift::leave(&self.shift.at_work);
        if let Some(fatal) = self.wire.fatal.get() {
            self.book.complain(format!("what a client says of the gateway: {fatal:?}"));
        }
        let (measures, room) = (self.measures.get(), self.wire.core.borrow().send_room());
        if self.fills && (measures > 0 || !is_full(room)) {
            self.book.complain(format!("a client ends with {room} bytes of window, {measures} to measure"));
        }
    }
}
