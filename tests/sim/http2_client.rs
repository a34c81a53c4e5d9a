//! The client of the HTTP/2 simulation: many streams on one connection. It resets them in whatever state they are,
//! leaves windows closed, says GOAWAY or leaves in the midst of it, each where its plan says so.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ringway::http::name::Name;
use ringway::limits::H2_CONNECTION_WINDOW_BYTES;
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::Code;
use ringway::proto::h2::core::{Core, Event, Key};
use ringway::proto::h2::frame::INT31_MAX;
use ringway::time::Now;

use crate::h2wire::{self, Peer, Wire, lines, value};
use crate::http2::Ledger;
use crate::rng::Rng;

const STREAMS_MAX: usize = 12;

/// A stream as its client sees it.
pub struct Asked {
    key: Key,
    pub path: String,
    pub body: &'static [u8],
    sent: usize,
    pub got: Vec<u8>,
    untaken: usize,
    pub status: Option<u16>,
    pub whole: bool,
    pub given_up: bool,
    pub reset: Option<Code>,
    /// The gateway has said that it will not serve it.
    pub refused: bool,
    /// Generations: when it was asked, what the gateway set in the request and in the response, when the head came.
    generations: [u64; 4],
}

pub struct Client {
    pub wire: Wire,
    number: usize,
    pub streams: RefCell<BTreeMap<u32, Asked>>,
    left: Cell<usize>,
    /// It resets streams, says GOAWAY, breaks off.
    pub leaves: bool,
    /// It asks on behind the first GOAWAY.
    stubborn: bool,
    /// It takes bodies late.
    slow: bool,
    /// It waits for the gateway to end the connection.
    stays: bool,
    /// The last streams of all GOAWAYs, in order.
    pub ends: RefCell<Vec<u32>>,
    ledger: Rc<Ledger>,
}

impl Client {
    pub fn new(number: usize, mut rng: Rng, stays: bool, ledger: &Rc<Ledger>) -> Self {
        let leaves = rng.one_in(2);
        let bytes_max = if leaves && rng.one_in(4) { 5_000 } else { usize::MAX };
        Self {
            number,
            streams: RefCell::default(),
            left: Cell::new(1 + rng.below(STREAMS_MAX)),
            leaves,
            stubborn: rng.one_in(2),
            slow: rng.one_in(2),
            stays: stays && rng.one_in(2),
            ends: RefCell::default(),
            ledger: ledger.clone(),
            wire: Wire::new(Core::client(HeadLimits::default(), Now::from_ms(0)), rng, bytes_max),
        }
    }

    fn open(&self, core: &mut Core, rng: &mut Rng) -> Asked {
        let number = self.number * 100 + self.left.get();
        let length = [0, 0, 5, 700, 9_000, 9_000, 20_000, 70_000][rng.below(8)];
        let body = h2wire::body(number, length);
        let declared = rng.one_in(2);
        let path = format!("/{number}");
        // Two of them make a head of more than one frame.
        let long = rng.one_in(6).then(|| h2wire::long_value(&path));
        let key = core.open(body.is_empty(), |encoder, out| {
            encoder.method(out, if body.is_empty() { b"GET" } else { b"POST" });
            encoder.scheme(out, b"http");
            encoder.path(out, path.as_bytes());
            encoder.authority(out, b"sim");
            if declared && !body.is_empty() {
                encoder.field(out, b"content-length", body.len().to_string().as_bytes(), Name::ContentLength);
            }
            for long in long.iter().flat_map(|long| [long; 2]) {
                encoder.field(out, b"x-long", long.as_bytes(), Name::Other);
            }
        });
        Asked {
            key: key.expect("it may open one"),
            path,
            body,
            sent: 0,
            got: Vec::new(),
            untaken: 0,
            status: None,
            whole: false,
            given_up: false,
            reset: None,
            refused: false,
            generations: [self.ledger.generation.get(), 0, 0, 0],
        }
    }

    fn head(&self, core: &mut Core, asked: &mut Asked, end: bool) {
        let lines = lines(core);
        let status = value(&lines, ":status").expect("a status").parse().expect("a number");
        if status < 200 {
            return;
        }
        assert_eq!(asked.status.replace(status), None, "{}: two answers", asked.path);
        asked.whole = end;
        core.head_done(asked.key);
        if status == 200 {
            assert_eq!(value(&lines, "x-path"), Some(&*asked.path), "the answer to another stream");
            let number = |name| value(&lines, name).and_then(|text| text.parse().ok()).expect("a generation");
            let [asked_in, ..] = asked.generations;
            asked.generations = [asked_in, number("x-seen"), number("x-told"), self.ledger.generation.get()];
        }
    }

    /// Whether a stream's request and response were of one configuration, one that held in between.
    fn check_generations(&self, asked: &Asked) {
        let [before, seen, told, after] = asked.generations;
        assert!(before <= seen && seen == told && told <= after, "{}: {:?}", asked.path, asked.generations);
    }

    /// Streams that were refused have no trace, neither here nor at an endpoint; all others have what they asked for.
    /// `strict`: nobody has given one of them up that an endpoint has seen, so that each was passed on once.
    pub fn check(&self, strict: bool, departing: bool) -> usize {
        assert_eq!(self.wire.fatal.get(), None, "what the client says of the gateway");
        let ends = self.ends.borrow();
        assert!(ends.is_sorted_by(|one, next| one >= next), "a last stream was raised: {ends:?}");
        let mut whole = 0;
        for (id, asked) in self.streams.borrow().iter() {
            let at = format!("client {}, stream {id}", self.number);
            if asked.refused {
                assert!(asked.status.is_none() && asked.got.is_empty(), "{at}: served behind the end");
                assert_eq!(self.ledger.deliveries(&asked.path), 0, "{at}: refused, and passed on");
            }
            if asked.whole && asked.status == Some(200) {
                let (got, all) = (asked.got.len(), asked.body.len());
                assert!(asked.got == asked.body, "{at}: {got} of {all} bytes, or others");
                self.check_generations(asked);
                assert_eq!(asked.reset, None, "{at}: an end and a reset");
                whole += 1;
            }
            let lost = self.wire.over.get() && !self.wire.core.borrow().is_connected();
            let (status, reset, passed_on) = (asked.status, asked.reset, self.ledger.deliveries(&asked.path));
            let unseen = lost || departing && passed_on == 0;
            let fine = asked.whole && status == Some(200) || asked.refused || asked.given_up || unseen;
            assert!(passed_on <= 1 || !strict, "{at}: passed on {passed_on} times");
            assert!(fine || !strict, "{at}: {status:?}, {reset:?}, whole: {}, {ends:?}", asked.whole);
        }
        whole
    }

    /// Room for the connection has come back for all that was sent, but for what is not worth a word.
    pub fn check_window(&self) {
        let left = self.wire.core.borrow().send_room();
        assert!(left > H2_CONNECTION_WINDOW_BYTES as usize / 2, "client {}: {left} bytes of window", self.number);
    }

    fn ended(&self, asked: &Asked) -> bool {
        asked.whole || asked.given_up || asked.refused || asked.reset.is_some()
    }
}

impl Peer for Client {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    /// Opens a stream, or sends more of a body, or gives one up.
    fn act(&self) {
        let (mut core, mut rng) = (self.wire.core.borrow_mut(), self.wire.rng.borrow_mut());
        let mut streams = self.streams.borrow_mut();
        if self.left.get() > 0 && core.may_open() && !self.wire.over.get() {
            let asked = self.open(&mut core, &mut rng);
            self.left.set(self.left.get() - 1);
            streams.insert(asked.key.id, asked);
        }
        for asked in streams.values_mut() {
            if asked.untaken > 0 && (asked.whole || !self.slow || rng.one_in(8)) {
                self.wire.give(&mut core, asked.key, std::mem::take(&mut asked.untaken));
            }
            if self.ended(asked) {
                core.release(asked.key);
                continue;
            }
            if self.leaves && rng.one_in(40) {
                asked.given_up = true;
                core.reset(asked.key, Code::Cancel);
                core.release(asked.key);
            } else if asked.sent < asked.body.len() {
                let most = 1 + rng.below(20_000);
                self.wire.send_some(&mut core, asked.key, asked.body, &mut asked.sent, most, true);
            }
        }
        if self.leaves && rng.one_in(400) {
            core.refuse_further();
        }
    }

    fn stirred(&self) {
        self.act();
    }

    fn take(&self, event: Event) {
        let mut core = self.wire.core.borrow_mut();
        let mut streams = self.streams.borrow_mut();
        match event {
            Event::Head { key, end, fault } => {
                assert_eq!(fault, None, "the gateway sends sound heads");
                let asked = streams.get_mut(&key.id).expect("it was asked");
                self.head(&mut core, asked, end);
            }
            Event::Trailers { key, .. } => streams.get_mut(&key.id).expect("it was asked").whole = true,
            Event::Data { key, data, end } => {
                let asked = streams.get_mut(&key.id).expect("it was asked");
                asked.got.extend_from_slice(data.as_slice());
                asked.untaken += data.len();
                self.wire.hold(data.len());
                asked.whole = end;
            }
            Event::Reset { key, code, by_peer } => {
                assert!(by_peer, "the gateway made a mistake: {code:?}");
                let asked = streams.get_mut(&key.id).expect("it was asked");
                // Behind a whole answer it says that the rest of the request is not wanted (RFC 9113 section 8.1).
                assert!(!asked.whole || code == Code::NoError, "{}: {code:?} behind the end", asked.path);
                if !asked.whole {
                    asked.reset = Some(code);
                }
            }
            Event::GoAway { last, code } => {
                assert_eq!(code, Code::NoError);
                let mut ends = self.ends.borrow_mut();
                // What is not announced ends a connection on which nothing runs.
                let runs = streams.values().any(|asked| asked.key.id <= last && !self.ended(asked));
                assert!(!ends.is_empty() || last == INT31_MAX || !runs, "the end was not announced: {last}");
                ends.push(last);
                streams.values_mut().filter(|asked| asked.key.id > last).for_each(|asked| asked.refused = true);
                if !self.stubborn || last < INT31_MAX {
                    self.left.set(0);
                }
            }
            _ => {}
        }
    }

    fn is_done(&self) -> bool {
        let is_over = self.left.get() == 0 && self.streams.borrow().values().all(|asked| self.ended(asked));
        is_over && !self.stays
    }
}
