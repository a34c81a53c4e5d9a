//! What the parts of one connection share: the codec, and what has come for each stream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::head;
use super::stream::Stream;
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::fields::Fields;
use crate::http::message::{BodyLength, Method, ResponseHead};
use crate::limits::{H2_OUT_BYTES_MAX, H2_PING_AFTER_MS, H2_PING_TIMEOUT_MS, IDLE_RELEASE_MS, INTERIM_RESPONSES_MAX};
use crate::net::io::Interrupt;
use crate::net::timer::{Deadline, OnExpiry, Timers};
use crate::proto::h1::parse::HeadLimits;
use crate::proto::h2::code::{Code, Fatal};
use crate::proto::h2::core::{Core, Event, Key};
use crate::proto::h2::head::trailers;
use crate::proto::h2::hpack::decode::Fault;
use crate::proto::h2::hpack::encode::Encoder;
use crate::proto::h2::pieces::Pieces;
use crate::proto::h2::turn::{Sending, Turn};
use crate::sys::buf::Buf;
use crate::time::Now;

/// The rules of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Bounds of response heads (F36).
    pub head: HeadLimits,
    /// Pause of an endpoint that does not read, in milliseconds.
    pub send_timeout_ms: u64,
    /// Requests on the connection.
    pub requests_max: u64,
}

/// How far a connection is.
///
/// ```text
/// Open ──GOAWAY, spent, let go──► Draining ──last stream ends──► Closing ──sent──► Over
///   └────────────the endpoint closes, breaks the rules, or is silent────────────────►─┘
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Open,
    Draining,
    Closing,
    Over,
}

/// Wakes those that wait for one stream: its two deadlines ring it too.
#[derive(Default)]
pub(super) struct Bell {
    receiver: RefCell<Option<Waker>>,
    sender: RefCell<Option<Waker>>,
    /// The exchange was broken off from this side.
    pub(super) shut: Cell<bool>,
}

impl Bell {
    fn ring_receiver(&self) {
        if let Some(waker) = self.receiver.take() {
            waker.wake();
        }
    }

    fn ring_sender(&self) {
        if let Some(waker) = self.sender.take() {
            waker.wake();
        }
    }

    pub(super) fn wait_to_receive(&self, cx: &Context<'_>) {
        self.receiver.replace(Some(cx.waker().clone()));
    }

    pub(super) fn wait_to_send(&self, cx: &Context<'_>) {
        self.sender.replace(Some(cx.waker().clone()));
    }
}

impl Interrupt for Bell {
    fn shutdown(&self, _: Shutdown) {
        self.shut.set(true);
        self.ring_receiver();
        self.ring_sender();
    }

    fn release(&self) {
        self.ring_receiver();
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn has_left(&self) -> bool {
        false
    }
}

/// A place for a stream; its bell and deadlines serve one after the other.
struct Slot {
    id: u32,
    method: Method,
    heads: VecDeque<Box<ResponseHead>>,
    interims: u32,
    /// The final head has come.
    answered: bool,
    body: Pieces,
    /// Nothing more will come.
    gone: Option<Failure>,
    bell: Rc<Bell>,
    receiving: Deadline,
    sending: Rc<Deadline>,
}

impl Slot {
    fn new(timers: &Rc<Timers>) -> Self {
        let bell = Rc::<Bell>::default();
        Self {
            id: 0,
            method: Method::Get,
            heads: VecDeque::new(),
            interims: 0,
            answered: false,
            body: Pieces::default(),
            gone: None,
            receiving: timers.deadline(bell.clone()),
            sending: Rc::new(timers.deadline(bell.clone())),
            bell,
        }
    }

    fn begin(&mut self, id: u32, method: Method) {
        self.clear();
        (self.id, self.method) = (id, method);
    }

    fn clear(&mut self) {
        self.receiving.disarm();
        self.sending.disarm();
        self.bell.shut.set(false);
        self.heads.clear();
        self.body.clear();
        (self.id, self.interims, self.answered, self.gone) = (0, 0, false, None);
    }

    /// Nothing more comes. What a client has seen a part of is cut.
    fn end_early(&mut self, before_head: Failure) {
        if self.id == 0 || self.body.is_ended() || self.gone.is_some() {
            return;
        }
        let cut = Failure::with(Reason::UpstreamTruncated, before_head.detail);
        self.gone = Some(if self.answered { cut } else { before_head });
        self.bell.ring_receiver();
        self.bell.ring_sender();
    }
}

pub(super) struct Inner {
    core: Core,
    slots: Vec<Slot>,
    turn: Turn,
    #[allow(clippy::vec_box, reason = "a head is large: taken and given back as a pointer")]
    spare_heads: Vec<Box<ResponseHead>>,
}

impl Inner {
    fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.get_mut(key.slot as usize).filter(|slot| slot.id == key.id)
    }
}

/// One connection.
pub struct Link {
    inner: RefCell<Inner>,
    timers: Rc<Timers>,
    rules: Rules,
    phase: Cell<Phase>,
    /// Waits for something to send.
    writer: RefCell<Option<Waker>>,
    pub(super) read_deadline: Deadline,
    pub(super) write_deadline: Deadline,
    uses: Cell<u64>,
    idle_since: Cell<Now>,
    /// When something has come last.
    heard: Cell<Now>,
    /// When the ping was sent that has no answer yet.
    pinged: Cell<Option<Now>>,
    /// Called whenever there may be room for another stream, or never more.
    on_room: Box<dyn Fn()>,
}

impl Link {
    pub(super) fn new(interrupt: Rc<dyn Interrupt>, timers: &Rc<Timers>, rules: Rules, on_room: Box<dyn Fn()>) -> Self {
        let now = timers.known_now();
        let core = Core::client(rules.head, now);
        let inner = Inner { core, slots: Vec::new(), turn: Turn::default(), spare_heads: Vec::new() };
        let link = Self {
            inner: RefCell::new(inner),
            timers: timers.clone(),
            rules,
            phase: Cell::new(Phase::Open),
            writer: RefCell::default(),
            read_deadline: timers.deadline(interrupt.clone()),
            write_deadline: timers.deadline(interrupt),
            uses: Cell::new(0),
            idle_since: Cell::new(now),
            heard: Cell::new(now),
            pinged: Cell::new(None),
            on_room,
        };
        link.note_idle();
        link
    }

    // === for those that ask ===

    /// Opens a stream with the head that `write` encodes; None when the connection takes no more now. `end`: no body
    /// follows.
    pub fn open(
        self: &Rc<Self>,
        method: Method,
        end: bool,
        write: impl FnOnce(&mut Encoder, &mut Buf),
    ) -> Option<Stream> {
        if self.phase.get() != Phase::Open {
            return None;
        }
        let mut inner = self.inner.borrow_mut();
        let key = inner.core.open(end, write)?;
        let at = key.slot as usize;
        while inner.slots.len() <= at {
            inner.slots.push(Slot::new(&self.timers));
        }
        let slot = &mut inner.slots[at];
        slot.begin(key.id, method);
        let parts = (slot.bell.clone(), slot.receiving.clone(), slot.sending.clone());
        let now = self.timers.known_now();
        if self.pinged.get().is_none() && now.since_ns(self.heard.get()) >= H2_PING_AFTER_MS * 1_000_000 {
            // Nothing has come for a while: does the endpoint still hear?
            inner.core.ping(now.0);
            self.pinged.set(Some(now));
        }
        if inner.core.streams() == 1 {
            self.stay_on_wheel();
        }
        drop(inner);
        self.uses.set(self.uses.get() + 1);
        if self.uses.get() >= self.rules.requests_max {
            self.phase.set(Phase::Draining);
        }
        let was_used = self.uses.get() > 1;
        Some(Stream::new(self.clone(), key, parts.0, parts.1, parts.2, was_used))
    }

    /// Whether no stream is open.
    pub fn is_idle(&self) -> bool {
        self.inner.borrow().core.streams() == 0
    }

    /// Since when no stream is open.
    pub fn idle_since(&self) -> Now {
        self.idle_since.get()
    }

    /// Whether it takes no further stream, ever.
    pub fn is_ending(&self) -> bool {
        self.phase.get() != Phase::Open
    }

    /// Whether nothing comes or goes any more.
    pub(super) fn is_over(&self) -> bool {
        self.phase.get() == Phase::Over
    }

    /// No further streams: the connection closes behind the last one.
    pub fn let_go(&self) {
        if self.phase.get() == Phase::Open {
            self.phase.set(Phase::Draining);
        }
        self.close_if_drained();
    }

    /// Ends a connection that has not answered a ping in time. To be called now and then.
    pub fn check(&self, now: Now) {
        let late = |asked: Now| now.since_ns(asked) >= H2_PING_TIMEOUT_MS * 1_000_000;
        if self.pinged.get().is_some_and(late) && self.phase.get() < Phase::Closing {
            self.die(Failure::with(Reason::UpstreamTimeout, "endpoint does not answer pings"));
            self.read_deadline.expire();
        }
    }

    fn close_if_drained(&self) {
        if self.phase.get() == Phase::Draining && self.is_idle() {
            self.inner.borrow_mut().core.refuse_further();
            self.phase.set(Phase::Closing);
            self.wake_writer();
            (self.on_room)();
        }
    }

    // === for streams ===

    /// The next head that has come.
    pub(super) fn take_head(&self, key: Key, head: &mut ResponseHead) -> Result<bool, Failure> {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return Err(Reason::UpstreamReset.into()) };
        match (slot.heads.pop_front(), slot.gone) {
            (Some(mut arrived), _) => {
                std::mem::swap(head, &mut arrived);
                arrived.clear();
                inner.spare_heads.push(arrived);
                Ok(true)
            }
            (None, Some(failure)) => Err(failure),
            (None, None) => Ok(false),
        }
    }

    /// The next piece of the body that has come.
    pub(super) fn take_body(&self, key: Key) -> Result<Option<Chunk>, Failure> {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return Err(Reason::UpstreamTruncated.into()) };
        let Some(chunk) = slot.body.take() else { return slot.gone.map_or(Ok(None), Err) };
        inner.core.taken(key, chunk.data.len());
        drop(inner);
        self.wake_writer();
        Ok(Some(chunk))
    }

    /// Sends what there is room for of a piece of a body, when it is this stream's turn. Returns whether all is sent.
    pub(super) fn send_data(&self, key: Key, data: &mut Buf, end: bool) -> Result<bool, Failure> {
        let mut inner = self.inner.borrow_mut();
        let sent = turn_of(&mut inner, key, data, end);
        drop(inner);
        self.wake_writer();
        sent
    }

    /// Sends trailers, which end the request.
    pub(super) fn send_trailers(&self, key: Key, fields: &Fields) -> bool {
        let mut inner = self.inner.borrow_mut();
        let none = crate::http::name::NameSet::none();
        let sent = inner.core.head(key, true, |encoder, out| {
            crate::proto::h2::head::write_fields(encoder, out, fields, none);
        });
        drop(inner);
        self.wake_writer();
        sent
    }

    /// A stream's work is done, or given up: then it is reset.
    pub(super) fn finish(&self, key: Key) {
        let mut inner = self.inner.borrow_mut();
        leave_turn(&mut inner, key);
        inner.core.release(key);
        if let Some(slot) = inner.slot(key) {
            slot.clear();
        }
        drop(inner);
        self.wake_writer();
        if self.is_idle() {
            self.note_idle();
        }
        self.close_if_drained();
        (self.on_room)();
    }

    /// Lets the writer see what there is to send.
    pub(super) fn wake_writer(&self) {
        let has_output = self.inner.borrow().core.output_bytes() > 0;
        if (has_output || self.phase.get() >= Phase::Closing)
            && let Some(waker) = self.writer.take()
        {
            waker.wake();
        }
    }

    // === for the connection's task ===

    pub(super) fn send_timeout_ms(&self) -> u64 {
        self.rules.send_timeout_ms
    }

    pub(super) fn wanted_bytes(&self) -> usize {
        self.inner.borrow().core.wanted_bytes()
    }

    /// What is to be sent next; None when the connection ends.
    pub(super) fn poll_output(&self, cx: &Context<'_>) -> Poll<Option<Buf>> {
        if self.phase.get() == Phase::Over {
            return Poll::Ready(None);
        }
        let mut inner = self.inner.borrow_mut();
        if let Some(output) = inner.core.take_output() {
            if inner.core.output_bytes() <= H2_OUT_BYTES_MAX / 2 {
                let first = inner.turn.first();
                wake(&mut inner, first);
            }
            return Poll::Ready(Some(output));
        }
        if self.phase.get() == Phase::Closing {
            return Poll::Ready(None);
        }
        self.writer.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Takes what was read. Returns whether the connection goes on.
    pub(super) fn take_input(&self, input: &mut Buf) -> bool {
        let now = self.timers.now();
        self.heard.set(now);
        loop {
            let received = self.inner.borrow_mut().core.receive(input, now);
            let event = match received {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(fatal) => {
                    self.give_up(fatal);
                    return false;
                }
            };
            if let Err(fatal) = self.on_event(event, now) {
                self.give_up(fatal);
                return false;
            }
        }
        self.wake_writer();
        true
    }

    fn on_event(&self, event: Event, now: Now) -> Result<(), Fatal> {
        let mut inner = self.inner.borrow_mut();
        match event {
            Event::Head { key, end, fault } => return on_head(&mut inner, key, end, fault, now),
            Event::Trailers { key, fault } => return on_trailers(&mut inner, key, fault, now),
            Event::Data { key, data, end } => on_data(&mut inner, key, data, end, None),
            Event::Reset { key, code, by_peer } => on_reset(&mut inner, key, code, by_peer),
            Event::Window(Some(key)) => {
                if let Some(slot) = inner.slot(key) {
                    slot.bell.ring_sender();
                }
            }
            Event::Window(None) => inner.slots.iter().for_each(|slot| slot.bell.ring_sender()),
            Event::Connected => {
                drop(inner);
                (self.on_room)();
            }
            Event::GoAway { last, .. } => {
                let unseen = Failure::with(Reason::UpstreamRefused, "endpoint goes away");
                inner.slots.iter_mut().filter(|slot| slot.id > last).for_each(|slot| slot.end_early(unseen));
                drop(inner);
                self.let_go();
                (self.on_room)();
            }
            Event::Pong(_) => self.pinged.set(None),
        }
        Ok(())
    }

    /// The endpoint broke the rules of the wire.
    fn give_up(&self, fatal: Fatal) {
        self.inner.borrow_mut().core.give_up(fatal);
        self.end_streams(Failure::with(Reason::UpstreamInvalid, fatal.why));
        self.phase.set(Phase::Closing);
        self.wake_writer();
        (self.on_room)();
    }

    /// The connection is over: so is every stream.
    pub(super) fn die(&self, failure: Failure) {
        self.phase.set(Phase::Over);
        self.inner.borrow_mut().core.drop_output();
        self.end_streams(failure);
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
        (self.on_room)();
    }

    fn end_streams(&self, failure: Failure) {
        self.inner.borrow_mut().slots.iter_mut().for_each(|slot| slot.end_early(failure));
    }

    /// An idle connection gives its reader's buffer back.
    fn note_idle(&self) {
        self.idle_since.set(self.timers.known_now());
        self.read_deadline.arm_in(IDLE_RELEASE_MS, OnExpiry::Release);
    }

    /// A connection at work has no deadline of its own, but is found by those that end all connections.
    pub(super) fn stay_on_wheel(&self) {
        self.read_deadline.arm(Now(u64::MAX / 2), OnExpiry::ShutBoth);
    }
}

fn on_head(inner: &mut Inner, key: Key, end: bool, fault: Option<Fault>, now: Now) -> Result<(), Fatal> {
    let mut head = inner.spare_heads.pop().unwrap_or_default();
    let Some(slot) = inner.slots.get_mut(key.slot as usize).filter(|slot| slot.id == key.id) else { return Ok(()) };
    let read = head::response(inner.core.section(), fault, end, slot.method, &mut head);
    let is_final = head.status >= 200;
    slot.interims += u32::from(!is_final);
    let read = match read {
        Ok(()) if slot.interims > INTERIM_RESPONSES_MAX => {
            Err(Failure::with(Reason::UpstreamInvalid, "too many interim responses"))
        }
        read => read,
    };
    if let Err(failure) = read {
        slot.end_early(failure);
        return inner.core.refuse(key, Code::Protocol, now);
    }
    if is_final {
        slot.answered = true;
        if end {
            slot.body.end();
        }
        inner.core.head_done(key);
        match head.body {
            BodyLength::None if !end => inner.core.expect_bytes(key, 0),
            BodyLength::Known(bytes) if !end => inner.core.expect_bytes(key, bytes),
            _ => {}
        }
    }
    slot.heads.push_back(head);
    slot.bell.ring_receiver();
    Ok(())
}

fn on_trailers(inner: &mut Inner, key: Key, fault: Option<Fault>, now: Now) -> Result<(), Fatal> {
    match trailers(inner.core.section(), fault) {
        Ok(trailers) => {
            on_data(inner, key, Buf::empty(), true, trailers);
            Ok(())
        }
        Err(what) => {
            if let Some(slot) = inner.slot(key) {
                slot.end_early(Failure::with(Reason::UpstreamInvalid, what));
            }
            inner.core.refuse(key, Code::Protocol, now)
        }
    }
}

fn on_data(inner: &mut Inner, key: Key, data: Buf, end: bool, trailers: Option<Box<Fields>>) {
    let Some(slot) = inner.slot(key) else { return };
    slot.body.push(data, end, trailers);
    slot.bell.ring_receiver();
}

fn on_reset(inner: &mut Inner, key: Key, code: Code, by_peer: bool) {
    let Some(slot) = inner.slot(key) else { return };
    let failure = match (by_peer, code) {
        (true, Code::Refused) => Failure::with(Reason::UpstreamRefused, "stream refused"),
        (true, _) => Failure::with(Reason::UpstreamReset, code.word()),
        (false, _) => Failure::with(Reason::UpstreamInvalid, code.word()),
    };
    // An endpoint that has answered may say so that it wants no more of the request (RFC 9113 section 8.1).
    slot.end_early(failure);
    slot.bell.ring_sender();
}

fn turn_of(inner: &mut Inner, key: Key, data: &mut Buf, end: bool) -> Result<bool, Failure> {
    let over = Failure::with(Reason::UpstreamReset, "endpoint takes no more");
    if let Some(failure) = inner.slot(key).map_or(Some(over), |slot| slot.gone) {
        leave_turn(inner, key);
        return Err(failure);
    }
    let (sent, next) = inner.turn.send(key, data.is_empty(), || inner.core.data(key, data, end));
    wake(inner, next);
    match sent {
        Sending::Done => Ok(true),
        Sending::Waits => Ok(false),
        Sending::Closed => Err(over),
    }
}

fn leave_turn(inner: &mut Inner, key: Key) {
    let next = inner.turn.leave(key);
    wake(inner, next);
}

fn wake(inner: &mut Inner, key: Option<Key>) {
    if let Some(slot) = key.and_then(|key| inner.slot(key)) {
        slot.bell.ring_sender();
    }
}
