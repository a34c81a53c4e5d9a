//! Endpoints that speak HTTP/2, in the simulation: they echo in any order, give room late, and where they are wild,
//! reset streams in any state, say GOAWAY or leave at any frame.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use ringway::http::name::Name;
use ringway::net::mem::Mem;
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::Code;
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::time::Now;

use crate::exec::Handle;
use crate::h2wire::{self, Peer, Wire, value};
use crate::http2::Ledger;
use crate::rng::Rng;

/// A request, and how far its answer is.
struct Asked {
    key: Key,
    path: String,
    /// What the gateway set in it.
    asked: String,
    body: Vec<u8>,
    untaken: usize,
    whole: bool,
    answered: bool,
    sent: usize,
}

struct Origin {
    wire: Wire,
    streams: RefCell<BTreeMap<u32, Asked>>,
    wild: bool,
    /// It says GOAWAY now and then, and serves what it has seen.
    departing: bool,
    ending: Cell<bool>,
    ledger: Rc<Ledger>,
}

/// Serves one connection.
pub fn start(io: Mem, handle: &Handle, mut rng: Rng, [wild, departing]: [bool; 2], ledger: &Rc<Ledger>) {
    let bytes_max = if wild && rng.one_in(4) { 200 + rng.below(60_000) } else { usize::MAX };
    let core = Core::server(HeadLimits::default(), false, Now::from_ms(0));
    let origin = Origin {
        wire: Wire::new(core, rng, bytes_max),
        streams: RefCell::default(),
        wild,
        departing,
        ending: Cell::new(false),
        ledger: ledger.clone(),
    };
    h2wire::start(Rc::new(origin), io, handle, "origin");
}

impl Peer for Origin {
    fn wire(&self) -> &Wire {
        &self.wire
    }

    fn take(&self, event: Event) {
        let mut core = self.wire.core.borrow_mut();
        let mut streams = self.streams.borrow_mut();
        match event {
            Event::Head { key, end, fault } => {
                assert_eq!(fault, None, "the gateway sends sound heads");
                let lines = h2wire::lines(&mut core);
                let path = value(&lines, ":path").expect("a path").to_owned();
                self.ledger.deliver(&path);
                let long = lines.iter().filter(|(name, _)| name == "x-long");
                assert!(long.clone().all(|(_, value)| *value == h2wire::long_value(&path)), "{path}: a torn field");
                assert!(matches!(long.count(), 0 | 2), "{path}: a field is lost");
                let asked = value(&lines, "x-asked").unwrap_or_default().to_owned();
                let (body, sent) = (Vec::new(), 0);
                streams.insert(key.id, Asked { key, path, asked, body, untaken: 0, whole: end, answered: false, sent });
            }
            Event::Data { key, data, end } => {
                self.wire.hold(data.len());
                match streams.get_mut(&key.id) {
                    Some(asked) => {
                        asked.body.extend_from_slice(data.as_slice());
                        asked.untaken += data.len();
                        asked.whole = end;
                    }
                    None => self.wire.give(&mut core, key, data.len()),
                }
            }
            Event::Trailers { key, .. } => {
                if let Some(asked) = streams.get_mut(&key.id) {
                    asked.whole = true;
                }
            }
            Event::Reset { key, by_peer, code } => {
                assert!(by_peer, "the gateway made a mistake: {code:?}");
                if let Some(asked) = streams.remove(&key.id) {
                    self.wire.give(&mut core, key, asked.untaken);
                }
                core.release(key);
            }
            _ => {}
        }
    }

    /// Does something for some streams, in no order.
    fn act(&self) {
        let (mut core, mut rng) = (self.wire.core.borrow_mut(), self.wire.rng.borrow_mut());
        let mut streams = self.streams.borrow_mut();
        let mut ids: Vec<u32> = streams.keys().copied().collect();
        for at in (1..ids.len()).rev() {
            ids.swap(at, rng.below(at + 1));
        }
        for id in ids {
            let asked = streams.get_mut(&id).expect("it is there");
            // Room comes back late: windows run out meanwhile.
            if asked.untaken > 0 && rng.one_in(3) {
                self.wire.give(&mut core, asked.key, std::mem::take(&mut asked.untaken));
            }
            if self.wild && rng.one_in(60) {
                self.ledger.resets.set(self.ledger.resets.get() + 1);
                core.reset(asked.key, rng.pick(&[Code::Refused, Code::Internal, Code::Cancel, Code::NoError]));
            } else if !answer(&self.wire, &mut core, &mut rng, asked) {
                continue;
            }
            self.wire.give(&mut core, asked.key, asked.untaken);
            core.release(asked.key);
            streams.remove(&id);
        }
        if (self.wild || self.departing) && !self.ending.get() && rng.one_in(80) {
            self.ledger.goaways.set(self.ledger.goaways.get() + 1);
            self.ending.set(true);
            core.refuse_further();
        }
    }

    fn is_done(&self) -> bool {
        self.ending.get() && self.streams.borrow().is_empty()
    }
}

/// A connection's last word to the sums of its seed.
impl Drop for Origin {
    fn drop(&mut self) {
        self.ledger.cuts.set(self.ledger.cuts.get() + u64::from(self.wire.broke.get()));
        self.ledger.note_windows(&self.wire);
        if let Some(fatal) = self.wire.fatal.get() {
            self.ledger.fatal.set(Some(fatal));
        }
    }
}

/// Sends a piece of an answer: at once, or when the request is whole. Returns whether that was the last one.
fn answer(wire: &Wire, core: &mut Core, rng: &mut Rng, asked: &mut Asked) -> bool {
    let key = asked.key;
    if !asked.answered {
        if !asked.whole && rng.one_in(2) || rng.one_in(3) {
            return false;
        }
        if rng.one_in(5) {
            core.head(key, false, |encoder, out| encoder.status(out, 103));
        }
        let end = asked.whole && asked.body.is_empty();
        core.head(key, end, |encoder, out| {
            encoder.status(out, 200);
            encoder.field(out, b"x-path", asked.path.as_bytes(), Name::Other);
            encoder.field(out, b"x-seen", asked.asked.as_bytes(), Name::Other);
        });
        asked.answered = true;
        return end;
    }
    let trailers = key.id.is_multiple_of(3);
    let most = 1 + rng.below(20_000);
    let sent = wire.send_some(core, key, &asked.body, &mut asked.sent, most, asked.whole && !trailers);
    if sent != Sent::All || !asked.whole || asked.sent < asked.body.len() {
        return sent == Sent::Closed;
    }
    !trailers || core.head(key, true, |encoder, out| encoder.field(out, b"x-sum", b"1", Name::Other))
}
