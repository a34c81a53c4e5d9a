//! The endpoints of the simulation of retries: they look at requests in the order in which these came, and do with each
//! what its plan says.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ringway::http::name::Name;
use ringway::net::mem::Mem;
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::Code;
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::proto::h2::frame::Kind;
use ringway::time::Now;

use crate::exec::Handle;
use crate::h2wire::{self, Peer, Wire, value};
use crate::retry::{Became, Book, Fate, answer_body, filling, has_trailers, is_full, request_body};
use crate::rng::Rng;

/// What a path asks for besides the requests of the plan: an answer that fills the connection's window, or nothing for
/// a body that does.
pub const DRAIN: &str = "/drain";
pub const FILL: &str = "/fill";

/// A request.
struct Stream {
    key: Key,
    what: What,
    got: Vec<u8>,
    whole: bool,
    /// With trailers.
    trailed: bool,
    /// What is sent, once it is answered, and how much of it was.
    answer: Option<Vec<u8>>,
    sent: usize,
}

/// Which request it is: one of the plan with the number of its delivery, or one that measures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Planned((usize, usize)),
    Drain,
    Fill,
}

impl Stream {
    /// Whether the gateway has all of it, to be sent again.
    fn is_held(&self, book: &Book) -> bool {
        matches!(self.what, What::Planned((number, _)) if self.whole && book.plans[number].is_held())
    }
}

struct Up {
    wire: Wire,
    endpoint: usize,
    handle: Handle,
    book: Rc<Book>,
    streams: RefCell<BTreeMap<u32, Stream>>,
    /// The last stream that it has looked at.
    last: Cell<u32>,
    /// It has said that it looks at no more.
    is_ending: Cell<bool>,
    has_left: Cell<bool>,
    /// An answer has filled the window.
    is_measured: Cell<bool>,
}

/// Serves one connection.
pub fn start(io: Mem, handle: &Handle, rng: Rng, endpoint: usize, book: &Rc<Book>) {
    let up = Up {
        wire: Wire::new(Core::server(HeadLimits::default(), false, Now::from_ms(0)), rng, usize::MAX),
        endpoint,
        handle: handle.clone(),
        book: book.clone(),
        streams: RefCell::default(),
        last: Cell::default(),
        is_ending: Cell::default(),
        has_left: Cell::default(),
        is_measured: Cell::default(),
    };
    h2wire::start(Rc::new(up), io, handle, "origin");
}

impl Up {
    fn begin(&self, core: &mut Core, key: Key, whole: bool) {
        let lines = h2wire::lines(core);
        let what = match value(&lines, ":path").expect("a path") {
            DRAIN => What::Drain,
            FILL => What::Fill,
            path => {
                let number = path[1..].parse().expect("a number");
                What::Planned((number, self.book.deliver(number, self.endpoint)))
            }
        };
        let (got, answer, sent) = (Vec::new(), None, 0);
        let stream = Stream { key, what, got, whole, trailed: false, answer, sent };
        if self.is_ending.get() {
            self.unsee(&stream);
        }
        self.streams.borrow_mut().insert(key.id, stream);
    }

    fn unsee(&self, stream: &Stream) {
        let now_ms = self.handle.now_ms();
        if let What::Planned(delivery) = stream.what {
            self.book.with(delivery, |seen| {
                (seen.became, seen.whole, seen.unseen_ms) = (Became::Unseen, stream.is_held(&self.book), now_ms);
            });
        }
    }

    fn end(&self, core: &mut Core, stream: &Stream) {
        core.release(stream.key);
        self.note_over(stream.what);
    }

    fn note_over(&self, what: What) {
        if let What::Planned(delivery) = what {
            let now_ms = self.handle.now_ms();
            self.book.with(delivery, |seen| seen.over_ms = seen.over_ms.or(Some(now_ms)));
        }
    }

    /// What a request has become, and whether it had come whole by then.
    fn became(&self, stream: &Stream, became: Became) {
        if let What::Planned(delivery) = stream.what {
            self.book.with(delivery, |seen| (seen.became, seen.whole) = (became, stream.is_held(&self.book)));
        }
    }

    /// Looks at a request that waits for that, or does some more for one. Returns whether it is over here.
    fn serve(&self, core: &mut Core, rng: &mut Rng, stream: &mut Stream) -> bool {
        let What::Planned(delivery) = stream.what else { return self.measure(core, rng, stream) };
        let became = self.book.seen.borrow()[&delivery.0][delivery.1].became;
        match became {
            Became::Queued => match self.book.fate(delivery.0) {
                Fate::Refuse => {
                    self.became(stream, Became::Refused);
                    core.reset(stream.key, Code::Refused);
                    return true;
                }
                fate => self.became(stream, Became::Begun(fate)),
            },
            Became::Begun(fate) => return self.go_on(core, rng, stream, delivery.0, fate),
            Became::Unseen | Became::Refused => {}
        }
        false
    }

    fn go_on(&self, core: &mut Core, rng: &mut Rng, stream: &mut Stream, number: usize, fate: Fate) -> bool {
        let plan = &self.book.plans[number];
        match fate {
            Fate::Reset(code) => {
                let done = rng.one_in(4);
                if done {
                    self.became(stream, Became::Begun(fate));
                    core.reset(stream.key, code);
                }
                done
            }
            Fate::Hold if number.is_multiple_of(2) => false,
            Fate::Serve | Fate::Break | Fate::Misstate(_) if !stream.whole => false,
            _ if stream.answer.is_none() => {
                if stream.whole && stream.got != request_body(number, plan) {
                    self.book.complain(format!("request {number}: {} other bytes", stream.got.len()));
                }
                let trails = has_trailers(number) && plan.body_bytes > 0 && !self.book.by_h1;
                if stream.whole && stream.trailed != trails {
                    self.book.complain(format!("request {number}: trailers: {}", stream.trailed));
                }
                let body = answer_body(number, plan);
                let stated = match fate {
                    Fate::Misstate(by) => Some((body.len() as i64 + by) as usize),
                    // Where nobody has said how long it is, nothing but the reset tells that it was cut.
                    _ => (number % 4 > 1).then_some(body.len()),
                };
                head(core, stream.key, stated);
                stream.answer = Some(body.to_vec());
                false
            }
            Fate::Hold => {
                self.send(core, rng, stream, number, 1);
                false
            }
            Fate::Break if rng.one_in(3) => {
                self.became(stream, Became::Begun(fate));
                core.reset(stream.key, rng.pick(&[Code::Internal, Code::Cancel, Code::Refused]));
                true
            }
            Fate::Break => {
                self.send(core, rng, stream, number, 1);
                false
            }
            _ => {
                let done = self.send(core, rng, stream, number, 0);
                if done && !stream.whole {
                    core.reset(stream.key, Code::NoError);
                }
                done
            }
        }
    }

    /// Sends some of an answer, all but `kept` bytes at most. Returns whether it has come to its end.
    fn send(&self, core: &mut Core, rng: &mut Rng, stream: &mut Stream, number: usize, kept: usize) -> bool {
        let body = stream.answer.as_deref().unwrap_or_default();
        let body = &body[..body.len() - kept];
        let (trailers, most) = (number.is_multiple_of(3), 1 + rng.below(20_000));
        let (ends, key) = (kept == 0 && !trailers, stream.key);
        let sent = self.wire.send_some(core, key, body, &mut stream.sent, most, ends);
        let done = kept == 0 && sent == Sent::All && stream.sent == body.len();
        if done && trailers {
            core.head(key, true, |encoder, out| encoder.field(out, b"x-sum", b"1", Name::Other));
        }
        done || sent == Sent::Closed
    }

    fn measure(&self, core: &mut Core, rng: &mut Rng, stream: &mut Stream) -> bool {
        if !stream.whole {
            return false;
        }
        if stream.answer.is_none() {
            let room = if stream.what == What::Drain { filling(core.send_room()) } else { 0 };
            head(core, stream.key, None);
            stream.answer = Some(vec![b'x'; room]);
        }
        let done = self.send(core, rng, stream, 1, 0);
        self.is_measured.set(self.is_measured.get() || done && stream.what == What::Drain);
        done
    }

    /// Now and then it looks at no more, or leaves without a word.
    fn disturb(&self, rng: &mut Rng) {
        let streams = self.streams.borrow();
        let (goaways, cuts) = (&self.book.goaways_left[self.endpoint], &self.book.cuts_left[self.endpoint]);
        let measures = streams.values().any(|stream| !matches!(stream.what, What::Planned(_)));
        if self.is_ending.get() || streams.is_empty() || measures {
            return;
        }
        if goaways.get() > 0 && rng.one_in(8) {
            goaways.set(goaways.get() - 1);
            self.is_ending.set(true);
            self.wire.say(Kind::GoAway, &[self.last.get().to_be_bytes(), [0; 4]].concat());
            streams.range(self.last.get() + 1..).for_each(|(_, stream)| self.unsee(stream));
        } else if cuts.get() > 0 && rng.one_in(12) {
            cuts.set(cuts.get() - 1);
            self.has_left.set(true);
            for stream in streams.values() {
                if let What::Planned(delivery) = stream.what {
                    self.book.with(delivery, |seen| seen.cut = true);
                }
            }
        }
    }
}

fn head(core: &mut Core, key: Key, length: Option<usize>) {
    core.head(key, false, |encoder, out| {
        encoder.status(out, 200);
        if let Some(length) = length {
            encoder.field(out, b"content-length", length.to_string().as_bytes(), Name::ContentLength);
        }
    });
}

impl Peer for Up {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn take(&self, event: Event) {
        if self.has_left.get() {
            return;
        }
        let mut core = self.wire.core.borrow_mut();
        match event {
            Event::Head { key, end, fault } => {
                assert_eq!(fault, None, "the gateway sends sound heads");
                self.begin(&mut core, key, end);
            }
            Event::Data { key, data, end } => {
                self.wire.hold(data.len());
                self.wire.give(&mut core, key, data.len());
                if let Some(stream) = self.streams.borrow_mut().get_mut(&key.id) {
                    stream.got.extend_from_slice(data.as_slice());
                    stream.whole = end;
                }
            }
            Event::Trailers { key, .. } => {
                if let Some(stream) = self.streams.borrow_mut().get_mut(&key.id) {
                    (stream.whole, stream.trailed) = (true, true);
                }
            }
            Event::Reset { key, by_peer, code } => {
                if !by_peer {
                    self.book.complain(format!("the gateway made a mistake: {code:?}"));
                }
                match self.streams.borrow_mut().remove(&key.id) {
                    Some(stream) => self.end(&mut core, &stream),
                    None => core.release(key),
                }
            }
            _ => {}
        }
    }

    /// Looks at the next requests, and does something for those that it has looked at.
    fn act(&self) {
        if self.has_left.get() {
            return;
        }
        let (mut core, mut rng) = (self.wire.core.borrow_mut(), self.wire.rng.borrow_mut());
        let ids: Vec<u32> = self.streams.borrow().keys().copied().collect();
        for id in ids {
            let is_new = id > self.last.get();
            if is_new && (self.is_ending.get() || rng.one_in(2)) {
                break;
            }
            self.last.set(self.last.get().max(id));
            let mut streams = self.streams.borrow_mut();
            let stream = streams.get_mut(&id).expect("it is there");
            if (is_new || rng.one_in(2)) && self.serve(&mut core, &mut rng, stream) {
                let stream = streams.remove(&id).expect("it is there");
                self.end(&mut core, &stream);
            }
        }
        drop(core);
        self.disturb(&mut rng);
    }

    fn is_done(&self) -> bool {
        self.has_left.get()
    }
}

/// A connection's last word: what has not ended before ends with it.
impl Drop for Up {
    fn drop(&mut self) {
        self.streams.borrow().values().for_each(|stream| self.note_over(stream.what));
        if let Some(fatal) = self.wire.fatal.get() {
            self.book.complain(format!("what an endpoint says of the gateway: {fatal:?}"));
        }
        if self.is_measured.get() && !self.has_left.get() {
            let room = self.wire.core.borrow().send_room();
            self.book.measured.set(self.book.measured.get() + 1);
            if !is_full(room) {
                self.book.complain(format!("{room} bytes of window at endpoint {}", self.endpoint));
            }
        }
    }
}
