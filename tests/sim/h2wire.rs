//! What both ends of a simulated HTTP/2 connection do alike: read what comes, act now and then, send what there is.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::OnceLock;
use std::task::{Poll, Waker};

use ringway::http::fields::Fields;
use ringway::net::io::{Io, ReadHalf, send_all};
use ringway::net::mem::{Faults, Mem, MemRead, MemWrite, splitmix};
use ringway::proto::h2::code::Fatal;
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::proto::h2::frame::{self, Kind};
use ringway::proto::h2::hpack::decode::{self, Pseudo};
use ringway::sys::buf::Buf;
use ringway::time::Now;

use crate::exec::Handle;
use crate::rng::Rng;

/// A connection that is torn now and then.
pub fn faults(rng: &mut Rng) -> Faults {
    let most = [usize::MAX, usize::MAX, 3_000, 100][rng.below(4)];
    let delay_one_in = [0, 3][rng.below(2)] as u64;
    Faults { seed: rng.next(), read_bytes_max: most, write_bytes_max: most, delay_one_in, reset_after_bytes: None }
}

/// Bytes of bodies: no two places of it look alike, so that a body of one stream is not taken for another's.
pub fn body(place: usize, length: usize) -> &'static [u8] {
    static BYTES: OnceLock<Vec<u8>> = OnceLock::new();
    let bytes = BYTES.get_or_init(|| (0..32_768).flat_map(|at| splitmix(at).to_le_bytes()).collect());
    let from = place * 1_003 % (bytes.len() / 4);
    &bytes[from..from + length]
}

/// The initial window of a stream, as it is without a word (RFC 9113 section 6.9.2).
const WINDOW_BYTES: u32 = 65_535;
/// SETTINGS that a peer may send without being taken for a flood; even, so that the last ones are wide.
const NARROWED_MAX: u64 = 40;
/// Room of a narrow connection that is not worth a word.
const OWED_BYTES: u32 = 8_000;
/// WINDOW_UPDATE, its head included.
const WINDOW_UPDATE_BYTES: usize = 13;

/// A connection of a simulated peer.
pub struct Wire {
    pub core: RefCell<Core>,
    pub rng: RefCell<Rng>,
    writer: RefCell<Option<Waker>>,
    /// Nothing more comes.
    pub over: Cell<bool>,
    /// What the other end did that HTTP/2 does not allow.
    pub fatal: Cell<Option<Fatal>>,
    /// So much is sent before the connection breaks.
    pub bytes_max: usize,
    pub broke: Cell<bool>,
    /// It gives so little room that windows run out, and narrows them now and then.
    pub is_narrow: bool,
    held: Cell<usize>,
    /// The other end has used all room that the narrow connection gave.
    pub is_full: Cell<bool>,
    /// This end has used all room that it had.
    pub is_stalled: Cell<bool>,
    /// Room that the narrow connection has not given back.
    owed: Cell<u32>,
    /// SETTINGS that were sent to that end: the narrow ones are odd.
    narrowed: Cell<u64>,
    /// Frames that the codec does not know of.
    raw: RefCell<Buf>,
}

impl Wire {
    pub fn new(mut core: Core, mut rng: Rng, bytes_max: usize) -> Self {
        let is_narrow = rng.one_in(2);
        let mut greeting = core.take_output().expect("a greeting");
        if is_narrow {
            // It ends with the word that the connection's window is wide.
            greeting.truncate(greeting.len() - WINDOW_UPDATE_BYTES);
        }
        Self {
            core: RefCell::new(core),
            rng: RefCell::new(rng),
            writer: RefCell::default(),
            over: Cell::new(false),
            fatal: Cell::new(None),
            bytes_max,
            broke: Cell::new(false),
            is_narrow,
            held: Cell::new(0),
            is_full: Cell::new(false),
            is_stalled: Cell::new(false),
            owed: Cell::new(0),
            narrowed: Cell::new(0),
            raw: RefCell::new(greeting),
        }
    }

    fn end(&self) {
        self.over.set(true);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }

    /// Bytes have come, for which no room is given back yet.
    pub fn hold(&self, bytes: usize) {
        let held = self.held.get() + bytes;
        self.held.set(held);
        self.is_full.set(self.is_full.get() || self.is_narrow && held + OWED_BYTES as usize >= WINDOW_BYTES as usize);
    }

    /// Gives room back for bytes that were taken.
    pub fn give(&self, core: &mut Core, key: Key, bytes: usize) {
        core.taken(key, bytes);
        self.held.set(self.held.get() - bytes);
        self.owed.set(self.owed.get() + bytes as u32);
        if self.is_narrow && self.owed.get() >= OWED_BYTES {
            self.say(Kind::WindowUpdate, &self.owed.take().to_be_bytes());
        }
    }

    /// Sends some of the bytes of a body behind `sent`, the end with the last of them where `ends` says so.
    pub fn send_some(
        &self,
        core: &mut Core,
        key: Key,
        bytes: &[u8],
        sent: &mut usize,
        most: usize,
        ends: bool,
    ) -> Sent {
        let end = (*sent + most).min(bytes.len());
        let mut piece = Buf::copy_of(&bytes[*sent..end]);
        let before = piece.len();
        let outcome = core.data(key, &mut piece, ends && end == bytes.len());
        *sent += if outcome == Sent::All { before } else { before - piece.len() };
        if matches!(outcome, Sent::NoStreamWindow | Sent::NoConnectionWindow) {
            self.is_stalled.set(true);
        }
        outcome
    }

    /// Narrows all streams' windows, below what is on its way already, or makes them as wide as they were.
    fn play_with_windows(&self) {
        let (mut rng, count) = (self.rng.borrow_mut(), self.narrowed.get());
        let is_narrowed = !count.is_multiple_of(2);
        if !self.is_narrow || count >= NARROWED_MAX || !rng.one_in(if is_narrowed { 3 } else { 20 }) {
            return;
        }
        let bytes = if is_narrowed { WINDOW_BYTES } else { rng.pick(&[0, 10, 3_000]) };
        self.narrowed.set(count + 1);
        self.say(Kind::Settings, &[&[0, 4][..], &bytes.to_be_bytes()].concat());
    }

    /// Sends a frame of the connection itself.
    pub fn say(&self, kind: Kind, payload: &[u8]) {
        let mut raw = self.raw.borrow_mut();
        raw.reserve(payload.len() + frame::HEAD_BYTES);
        frame::write(&mut raw, kind, 0, 0, payload);
    }

    /// What is to be sent next; frames are whole in it.
    fn take_output(&self) -> Option<Buf> {
        let raw = std::mem::take(&mut *self.raw.borrow_mut());
        if raw.is_empty() { self.core.borrow_mut().take_output() } else { Some(raw) }
    }
}

/// The lines of a head that has come: `:status` and `:path` by these names.
pub fn lines(core: &mut Core) -> Vec<(String, String)> {
    let section = core.section();
    let mut fields = Fields::default();
    fields.set_buffer(std::mem::take(&mut section.buf));
    let text = |text| String::from_utf8_lossy(fields.text(text)).into_owned();
    let line = |line: &decode::Line| match line.kind {
        decode::Kind::Pseudo(Pseudo::Status) => Some((":status".into(), text(line.value))),
        decode::Kind::Pseudo(Pseudo::Path) => Some((":path".into(), text(line.value))),
        decode::Kind::Field(_) => Some((text(line.name), text(line.value))),
        _ => None,
    };
    section.lines.iter().filter_map(line).collect()
}

/// What a long field of a request says: half a frame, of letters that no code makes shorter.
pub fn long_value(path: &str) -> String {
    format!("{path}{}", "X".repeat(9_000))
}

/// The value of a line.
pub fn value<'l>(lines: &'l [(String, String)], name: &str) -> Option<&'l str> {
    lines.iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// One end of a connection.
pub trait Peer: 'static {
    fn wire(&self) -> &Wire;

    /// Something has come.
    fn take(&self, event: Event);

    /// Does something for some streams.
    fn act(&self);

    /// Something was read: whoever is quick acts at once.
    fn stirred(&self) {}

    /// Whether it leaves.
    fn is_done(&self) -> bool;
}

/// Starts both halves of a peer.
pub fn start<P: Peer>(peer: Rc<P>, io: Mem, handle: &Handle, name: &str) {
    let (reads, writes, _control) = io.split();
    handle.spawn(format!("{name} reads"), read(peer.clone(), reads));
    handle.spawn(format!("{name} writes"), write(peer, writes, handle.clone()));
}

async fn read<P: Peer>(peer: Rc<P>, mut read: MemRead) {
    let wire = peer.wire();
    let mut input = Buf::large();
    loop {
        let (count, back) = read.recv(input).await;
        input = back;
        if !matches!(count, Ok(1..)) {
            return wire.end();
        }
        loop {
            let received = wire.core.borrow_mut().receive(&mut input, Now::from_ms(0));
            match received {
                Ok(Some(event)) => peer.take(event),
                Ok(None) => break,
                Err(fatal) => {
                    wire.fatal.set(Some(fatal));
                    return wire.end();
                }
            }
        }
        peer.stirred();
        wire.wake();
        input.compact();
        if input.spare() < 20_000 {
            input.reserve(20_000);
        }
    }
}

async fn write<P: Peer>(peer: Rc<P>, mut write: MemWrite, handle: Handle) {
    let wire = peer.wire();
    let mut bytes = 0;
    loop {
        peer.act();
        wire.play_with_windows();
        while let Some(out) = wire.take_output() {
            bytes += out.len();
            if bytes > wire.bytes_max {
                wire.broke.set(true);
                return write.reset();
            }
            if send_all(&mut write, out).await.is_err() {
                // What the other end has sent before it closed is still read.
                return;
            }
        }
        if wire.over.get() || peer.is_done() {
            return;
        }
        let pause = 1 + wire.rng.borrow_mut().below(40) as u64;
        let mut sleeping = std::pin::pin!(handle.sleep(pause));
        poll_fn(|cx| {
            wire.writer.replace(Some(cx.waker().clone()));
            let output = wire.core.borrow().output_bytes() + wire.raw.borrow().len();
            let again = sleeping.as_mut().poll(cx).is_ready() || output > 0;
            if again || wire.over.get() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}
