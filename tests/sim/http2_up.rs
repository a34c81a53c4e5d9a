//! Endpoints that speak HTTP/2, in the simulation: they echo in any order, give room late, and where they are wild,
//! reset streams in any state, say GOAWAY or leave at any frame.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ringway::http::name::Name;
use ringway::net::io::{Connect, Io, ReadHalf, send_all};
use ringway::net::mem::{Mem, MemRead, MemWrite, pair_with};
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::{Code, Fatal};
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::sys::buf::Buf;
use ringway::time::Now;

use crate::exec::Handle;
use crate::http2::faults;
use crate::rng::Rng;

/// What one seed's endpoints have done.
#[derive(Default)]
pub struct Told {
    pub resets: Cell<u64>,
    pub goaways: Cell<u64>,
    pub cuts: Cell<u64>,
    /// What the gateway did that HTTP/2 does not allow.
    pub fatal: Cell<Option<Fatal>>,
}

/// Connects to endpoints of this file.
pub struct Origins {
    pub handle: Handle,
    pub rng: RefCell<Rng>,
    pub wild: bool,
    pub told: Rc<Told>,
}

impl Connect for Origins {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let mut rng = Rng::new(self.rng.borrow_mut().next());
        let (ours, theirs) = pair_with([1 << 16, 500][rng.below(2)], faults(&mut rng), faults(&mut rng));
        let origin = Rc::new(Origin {
            core: RefCell::new(Core::server(HeadLimits::default(), false, Now::from_ms(0))),
            streams: RefCell::default(),
            bytes_max: if self.wild && rng.one_in(4) { 200 + rng.below(60_000) } else { usize::MAX },
            wild: self.wild,
            rng: RefCell::new(rng),
            writer: RefCell::default(),
            over: Cell::new(false),
            ending: Cell::new(false),
            told: self.told.clone(),
        });
        let (read, write, _control) = theirs.split();
        self.handle.spawn("origin reads".into(), origin.clone().read(read));
        self.handle.spawn("origin writes".into(), origin.write(write, self.handle.clone()));
        Ok(ours)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        self.handle.spawn("link".into(), task);
    }
}

/// A request, and how far its answer is.
struct Asked {
    key: Key,
    body: Vec<u8>,
    untaken: usize,
    whole: bool,
    answered: bool,
    sent: usize,
}

struct Origin {
    core: RefCell<Core>,
    streams: RefCell<BTreeMap<u32, Asked>>,
    rng: RefCell<Rng>,
    writer: RefCell<Option<Waker>>,
    wild: bool,
    bytes_max: usize,
    over: Cell<bool>,
    ending: Cell<bool>,
    told: Rc<Told>,
}

fn count(cell: &Cell<u64>) {
    cell.set(cell.get() + 1);
}

impl Origin {
    fn wake(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    fn take(&self, event: Event) {
        let mut streams = self.streams.borrow_mut();
        match event {
            Event::Head { key, end, fault } => {
                assert_eq!(fault, None, "the gateway sends sound heads");
                let asked = Asked { key, body: Vec::new(), untaken: 0, whole: end, answered: false, sent: 0 };
                streams.insert(key.id, asked);
            }
            Event::Data { key, data, end } => match streams.get_mut(&key.id) {
                Some(asked) => {
                    asked.body.extend_from_slice(data.as_slice());
                    asked.untaken += data.len();
                    asked.whole = end;
                }
                None => self.core.borrow_mut().taken(key, data.len()),
            },
            Event::Trailers { key, .. } => {
                if let Some(asked) = streams.get_mut(&key.id) {
                    asked.whole = true;
                }
            }
            Event::Reset { key, .. } => {
                streams.remove(&key.id);
                self.core.borrow_mut().release(key);
            }
            _ => {}
        }
    }

    /// Does something for some streams, in no order.
    fn act(&self) {
        let (mut core, mut rng) = (self.core.borrow_mut(), self.rng.borrow_mut());
        let mut streams = self.streams.borrow_mut();
        let mut ids: Vec<u32> = streams.keys().copied().collect();
        for at in (1..ids.len()).rev() {
            ids.swap(at, rng.below(at + 1));
        }
        for id in ids {
            let asked = streams.get_mut(&id).expect("it is there");
            // Room comes back late: windows run out meanwhile.
            if asked.untaken > 0 && rng.one_in(3) {
                core.taken(asked.key, std::mem::take(&mut asked.untaken));
            }
            if self.wild && rng.one_in(60) {
                count(&self.told.resets);
                core.reset(asked.key, rng.pick(&[Code::Refused, Code::Internal, Code::Cancel, Code::NoError]));
            } else if !answer(&mut core, &mut rng, asked) {
                continue;
            }
            core.release(asked.key);
            streams.remove(&id);
        }
        if self.wild && !self.ending.get() && rng.one_in(80) {
            count(&self.told.goaways);
            self.ending.set(true);
            core.refuse_further();
        }
    }

    async fn read(self: Rc<Self>, mut read: MemRead) {
        let mut input = Buf::large();
        loop {
            let (count, back) = read.recv(input).await;
            input = back;
            if !matches!(count, Ok(1..)) {
                break;
            }
            loop {
                let received = self.core.borrow_mut().receive(&mut input, Now::from_ms(0));
                match received {
                    Ok(Some(event)) => self.take(event),
                    Ok(None) => break,
                    Err(fatal) => {
                        self.told.fatal.set(Some(fatal));
                        self.over.set(true);
                        return self.wake();
                    }
                }
            }
            self.wake();
            input.compact();
            if input.spare() < 20_000 {
                input.reserve(20_000);
            }
        }
        self.over.set(true);
        self.wake();
    }

    async fn write(self: Rc<Self>, mut write: MemWrite, handle: Handle) {
        let mut bytes = 0;
        loop {
            self.act();
            while let Some(out) = { self.core.borrow_mut().take_output() } {
                bytes += out.len();
                if bytes > self.bytes_max {
                    count(&self.told.cuts);
                    return write.reset();
                }
                if send_all(&mut write, out).await.is_err() {
                    return;
                }
            }
            if self.over.get() || self.ending.get() && self.streams.borrow().is_empty() {
                return;
            }
            let pause = 1 + self.rng.borrow_mut().below(40) as u64;
            let mut sleeping = std::pin::pin!(handle.sleep(pause));
            poll_fn(|cx| {
                self.writer.replace(Some(cx.waker().clone()));
                let again = sleeping.as_mut().poll(cx).is_ready() || self.core.borrow().output_bytes() > 0;
                if again || self.over.get() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
        }
    }
}

/// Sends a piece of an answer: at once, or when the request is whole. Returns whether that was the last one.
fn answer(core: &mut Core, rng: &mut Rng, asked: &mut Asked) -> bool {
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
            encoder.field(out, b"x-stream", key.id.to_string().as_bytes(), Name::Other);
        });
        asked.answered = true;
        return end;
    }
    let end = (asked.sent + 1 + rng.below(20_000)).min(asked.body.len());
    let mut piece = Buf::copy_of(&asked.body[asked.sent..end]);
    let (before, trailers) = (piece.len(), key.id.is_multiple_of(3));
    let last = asked.whole && end == asked.body.len();
    let sent = core.data(key, &mut piece, last && !trailers);
    asked.sent += if sent == Sent::All { before } else { before - piece.len() };
    if sent != Sent::All || !last {
        return sent == Sent::Closed;
    }
    !trailers || core.head(key, true, |encoder, out| encoder.field(out, b"x-sum", b"1", Name::Other))
}
