//! What the parts of one connection share: the codec, and what waits for each stream.

use std::cell::{Cell, RefCell};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Waker;

use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::fields::Fields;
use crate::limits::{H2_END_WAIT_MS, H2_OUT_BYTES_MAX, IDLE_RELEASE_MS, LINGER_MS};
use crate::net::io::Interrupt;
use crate::net::timer::{Deadline, OnExpiry, Timers, Waits};
use crate::proto::h1::server::ServerRules;
use crate::proto::h2::code::{Code, Fatal};
use crate::proto::h2::core::{Core, Key, SLOTS, Sent};
use crate::proto::h2::pieces::Pieces;
use crate::proto::h2::ready::Ready;
use crate::proto::h2::turn::{Sending, Turn};
use crate::sys::buf::Buf;
use crate::time::Now;

/// The bit of the connection itself.
const CONNECTION: usize = SLOTS - 1;

/// Why a stream is gone that its client has reset.
pub(super) const RESET_BY_CLIENT: &str = "stream reset by the client";

/// A request whose head has come.
pub struct Arrived<T> {
    /// Its stream.
    pub key: Key,
    /// What the driver keeps for it.
    pub item: T,
    /// Why it is not served, if it is not.
    pub refused: Option<Failure>,
    /// It is malformed: its stream is reset, not answered.
    pub malformed: bool,
    /// No body follows.
    pub end: bool,
}

/// What has come for one stream and was not taken, and how its connection's turn stands.
#[derive(Default)]
struct Slot {
    id: u32,
    body: Pieces,
    /// An extended CONNECT: nothing but DATA may follow.
    is_tunnel: bool,
    /// The client has given it up, or made it be given up.
    gone: Option<Failure>,
}

/// When something must have happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Times {
    /// A block of fields that has begun must be whole.
    block_due: Option<Now>,
    /// The connection must have a stream.
    idle_due: Option<Now>,
    /// The peer must have read that the connection ends.
    end_due: Option<Now>,
}

impl Times {
    fn first(self) -> Option<Now> {
        [self.block_due, self.idle_due, self.end_due].into_iter().flatten().min()
    }
}

/// What a connection counts, to be taken by whoever has the metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Streams opened.
    pub streams: u64,
    /// Streams reset by the client.
    pub resets: u64,
    /// Streams reset for what the client did.
    pub resets_made: u64,
}

/// Ends waits by waking: the deadline of something that is no socket.
pub(super) struct Alarm {
    waker: Waker,
    /// The connection's own, not a stream's.
    is_connections: bool,
    shut: Cell<Option<Shutdown>>,
}

impl Alarm {
    pub(super) fn new(waker: Waker) -> Rc<Self> {
        Rc::new(Self { waker, is_connections: false, shut: Cell::new(None) })
    }

    fn of_connection(waker: Waker) -> Rc<Self> {
        Rc::new(Self { waker, is_connections: true, shut: Cell::new(None) })
    }
}

impl Interrupt for Alarm {
    fn shutdown(&self, how: Shutdown) {
        self.shut.set(Some(how));
        self.waker.wake_by_ref();
    }

    fn release(&self) {
        self.waker.wake_by_ref();
    }

    fn announce_end(&self) -> bool {
        if self.is_connections {
            // GOAWAY follows from the turn.
            self.waker.wake_by_ref();
        }
        self.is_connections
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn has_left(&self) -> bool {
        false
    }
}

pub(super) struct Inner {
    pub(super) core: Core,
    slots: Vec<Slot>,
    turn: Turn,
    times: Times,
    pub(super) counts: Counts,
    pub(super) fatal: Option<Fatal>,
    /// GOAWAY was announced.
    announced: bool,
    is_idle: bool,
    over: bool,
}

/// One connection.
pub struct Link {
    pub(super) inner: RefCell<Inner>,
    /// Who is to be polled.
    pub ready: Arc<Ready>,
    pub(super) timers: Rc<Timers>,
    rules: RefCell<Arc<ServerRules>>,
    alarm: Rc<Alarm>,
    alarm_deadline: Deadline,
    /// Gives the reader's buffer back; also the interrupt of the socket.
    pub(super) read_deadline: Deadline,
    pub(super) write_deadline: Deadline,
    opened: Now,
    requests: Cell<u64>,
    released: Cell<bool>,
    /// The socket has bytes that it has not taken yet.
    pub(super) sending: Cell<bool>,
    /// Streams that have become tunnels.
    tunnels: Cell<u32>,
}

impl Link {
    /// A connection that has begun. The deadlines are those of its socket's halves, and not armed.
    pub fn new(
        read_deadline: Deadline,
        write_deadline: Deadline,
        timers: &Rc<Timers>,
        rules: Arc<ServerRules>,
    ) -> Rc<Self> {
        let ready = Arc::<Ready>::default();
        let alarm = Alarm::of_connection(ready.waker(CONNECTION));
        let now = timers.known_now();
        let inner = Inner {
            core: Core::server(rules.head, true, now),
            slots: Vec::new(),
            turn: Turn::default(),
            times: Times { idle_due: Some(now.plus_ms(rules.header_timeout_ms)), ..Times::default() },
            counts: Counts::default(),
            fatal: None,
            announced: false,
            is_idle: true,
            over: false,
        };
        let link = Self {
            inner: RefCell::new(inner),
            alarm_deadline: timers.deadline(alarm.clone()),
            read_deadline,
            write_deadline,
            ready,
            timers: timers.clone(),
            alarm,
            opened: now,
            requests: Cell::new(0),
            released: Cell::new(false),
            sending: Cell::new(false),
            tunnels: Cell::new(0),
            rules: RefCell::new(rules.clone()),
        };
        rules.watch(&link.write_deadline);
        link.alarm_deadline.set_waits(Some(Waits::First));
        link.arm();
        Rc::new(link)
    }

    /// The rules of the listener.
    pub fn rules(&self) -> Arc<ServerRules> {
        self.rules.borrow().clone()
    }

    /// A reload holds from the next stream on.
    pub fn set_rules(&self, rules: &Arc<ServerRules>) {
        if !Arc::ptr_eq(&self.rules.borrow(), rules) {
            self.rules.replace(rules.clone());
            rules.watch(&self.write_deadline);
            self.inner.borrow_mut().core.set_limits(rules.head);
        }
    }

    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.read_deadline.target().local_addr()
    }

    /// What was counted since the last call; None for nothing.
    pub fn take_counts(&self) -> Option<Counts> {
        let counts = std::mem::take(&mut self.inner.borrow_mut().counts);
        (counts != Counts::default()).then_some(counts)
    }

    /// Whether all that was to be sent is with the socket.
    pub fn is_flushed(&self) -> bool {
        !self.sending.get() && self.inner.borrow().core.output_bytes() == 0
    }

    /// What still comes is read and dropped, for a while (RFC 9112 section 9.6 says why).
    pub fn linger(&self) {
        self.alarm_deadline.disarm();
        self.alarm_deadline.set_waits(None);
        self.read_deadline.arm_in(LINGER_MS, OnExpiry::ShutBoth);
        self.read_deadline.set_waits(Some(Waits::Linger));
    }

    /// What ended the connection by the client's fault.
    pub fn fatal(&self) -> Option<Fatal> {
        self.inner.borrow().fatal
    }

    /// Whether the client has overdone it. What waits to be sent is left to [`Self::last_words`] then.
    pub fn is_flooded(&self) -> bool {
        self.inner.borrow().fatal.is_some_and(|fatal| fatal.is_at_once())
    }

    /// Sends what waits, with the reason for the end behind it, as far as the socket takes it at once. Returns false
    /// while a send is under way: it can only follow that.
    pub fn last_words(&self, interrupt: &dyn Interrupt) -> bool {
        if self.sending.get() {
            return false;
        }
        let mut inner = self.inner.borrow_mut();
        while let Some(words) = inner.core.take_output() {
            if !interrupt.last_words(words.as_slice()) {
                break;
            }
        }
        true
    }

    /// Whether the connection has given its buffers back since the last call: so may others that work for it.
    pub fn take_released(&self) -> bool {
        self.released.take()
    }

    pub(super) fn set_released(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.core.give_section_back();
        if self.tunnels.get() == 0 {
            self.released.set(true);
            inner.slots = Vec::new();
        }
    }

    /// Whether there is no stream that something is awaited of: none at all, or tunnels alone.
    pub(super) fn is_quiet(&self) -> bool {
        self.inner.borrow().core.streams() == self.tunnels.get() as usize
    }

    /// A connection that has tunnels alone gives its reader's buffer back as an idle one does.
    pub(super) fn look_after_tunnels(&self) {
        if self.tunnels.get() > 0 && self.is_quiet() && !self.inner.borrow().over {
            self.read_deadline.arm_in(IDLE_RELEASE_MS, OnExpiry::Release);
        }
    }

    // === streams ===

    /// A request has come: its slot is made ready. Returns whether further ones are taken.
    pub(super) fn begin_stream(&self, key: Key, end: bool, is_tunnel: bool) {
        let mut inner = self.inner.borrow_mut();
        inner.counts.streams += 1;
        let at = key.slot as usize;
        if inner.slots.len() <= at {
            inner.slots.resize_with(at + 1, Slot::default);
        }
        inner.slots[at] = Slot { id: key.id, is_tunnel, ..Slot::default() };
        if end {
            inner.slots[at].body.end();
        }
        drop(inner);
        self.requests.set(self.requests.get() + 1);
        self.ready.mark(at);
    }

    pub(super) fn push_body(&self, key: Key, data: Buf, end: bool, trailers: Option<Box<Fields>>) {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return };
        slot.body.push(data, end, trailers);
        self.ready.mark(key.slot as usize);
    }

    /// Whether a stream is one of which only bytes may come.
    pub(super) fn is_tunnel(&self, key: Key) -> bool {
        self.inner.borrow_mut().slot(key).is_some_and(|slot| slot.is_tunnel)
    }

    pub(super) fn set_gone(&self, key: Key, failure: Failure) {
        if let Some(slot) = self.inner.borrow_mut().slot(key) {
            slot.gone = slot.gone.or(Some(failure));
            self.ready.mark(key.slot as usize);
        }
    }

    /// The connection is over: every stream ends.
    pub fn end_streams(&self) {
        let mut inner = self.inner.borrow_mut();
        inner.over = true;
        for (at, slot) in inner.slots.iter_mut().enumerate().filter(|(_, slot)| slot.id != 0) {
            slot.gone = slot.gone.or(Some(Reason::ClientClosed.into()));
            self.ready.mark(at);
        }
    }

    /// Why a stream is given up, if it is.
    pub fn gone(&self, key: Key) -> Option<Failure> {
        let mut inner = self.inner.borrow_mut();
        match inner.slot(key) {
            Some(slot) => slot.gone,
            None => Some(Reason::ClientClosed.into()),
        }
    }

    /// Forgets a stream that its client has reset before anything was done for it. Returns whether it is such a one.
    pub fn forget_withdrawn(&self, key: Key) -> bool {
        let is_withdrawn = self.gone(key).is_some_and(|failure| failure.detail == RESET_BY_CLIENT);
        if is_withdrawn {
            self.finish_stream(key, Code::Cancel);
        }
        is_withdrawn
    }

    /// The next piece of a body that has come; None when none has.
    pub(super) fn take_body(&self, key: Key) -> Result<Option<Chunk>, Failure> {
        let mut inner = self.inner.borrow_mut();
        let Some(slot) = inner.slot(key) else { return Err(Reason::ClientClosed.into()) };
        if let Some(failure) = slot.gone {
            return Err(failure);
        }
        let Some(chunk) = slot.body.take() else { return Ok(None) };
        inner.core.taken(key, chunk.data.len());
        Ok(Some(chunk))
    }

    /// Whether a `take_body` would bring something, an end or a failure.
    pub(super) fn has_body(&self, key: Key) -> bool {
        let mut inner = self.inner.borrow_mut();
        inner.slot(key).is_none_or(|slot| slot.body.is_ended() || slot.gone.is_some() || !slot.body.is_empty())
    }

    /// Streams that have become tunnels, and hold what is not theirs alone until they have ended.
    pub fn tunnels(&self) -> u32 {
        self.tunnels.get()
    }

    pub(super) fn count_tunnels(&self, change: i32) {
        self.tunnels.set(self.tunnels.get().saturating_add_signed(change));
        self.look_after_tunnels();
    }

    /// Sends what there is room for of a piece of a body, when it is this stream's turn. Returns whether all is sent.
    pub(super) fn send_data(&self, key: Key, data: &mut Buf, end: bool) -> Result<bool, Failure> {
        self.send_in_turn(key, data.is_empty(), |core| core.data(key, data, end))
    }

    /// As [`Self::send_data`], for bytes that stay where they are; those that were sent are taken off the front.
    pub(super) fn send_piece(&self, key: Key, bytes: &mut &[u8]) -> Result<bool, Failure> {
        self.send_in_turn(key, bytes.is_empty(), |core| core.piece(key, bytes))
    }

    fn send_in_turn(&self, key: Key, is_empty: bool, mut send: impl FnMut(&mut Core) -> Sent) -> Result<bool, Failure> {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        if let Some(failure) = inner.slot(key).map_or(Some(Reason::ClientClosed.into()), |slot| slot.gone) {
            self.leave_turn(inner, key);
            return Err(failure);
        }
        let (sent, next) = inner.turn.send(key, is_empty, || send(&mut inner.core));
        self.wake(next);
        match sent {
            Sending::Done => Ok(true),
            Sending::Waits => Ok(false),
            Sending::Closed => Err(Reason::ClientClosed.into()),
        }
    }

    /// Does not wait for its turn any longer.
    pub(super) fn give_turn_up(&self, key: Key) {
        self.leave_turn(&mut self.inner.borrow_mut(), key);
    }

    fn leave_turn(&self, inner: &mut Inner, key: Key) {
        self.wake(inner.turn.leave(key));
    }

    fn wake(&self, key: Option<Key>) {
        if let Some(key) = key {
            self.ready.mark(key.slot as usize);
        }
    }

    /// A window has become wider.
    pub(super) fn windows_widened(&self, key: Option<Key>) {
        let inner = self.inner.borrow();
        match key {
            Some(key) => self.ready.mark(key.slot as usize),
            None => inner.slots.iter().enumerate().for_each(|(at, slot)| {
                if slot.id != 0 {
                    self.ready.mark(at);
                }
            }),
        }
        self.wake(inner.turn.first());
    }

    /// What is to be sent next.
    pub(super) fn take_output(&self) -> Option<Buf> {
        let mut inner = self.inner.borrow_mut();
        if inner.fatal.is_some_and(|fatal| fatal.is_at_once()) {
            return None;
        }
        let taken = inner.core.take_output()?;
        if inner.core.output_bytes() <= H2_OUT_BYTES_MAX / 2 {
            self.wake(inner.turn.first());
        }
        Some(taken)
    }

    /// Forgets a stream whose work is done. One that is not over is reset with `code`.
    pub(super) fn finish_stream(&self, key: Key, code: Code) {
        let mut inner = self.inner.borrow_mut();
        let inner = &mut *inner;
        self.leave_turn(inner, key);
        if inner.core.state(key).is_some_and(|state| state.may_send()) {
            inner.core.reset(key, code);
        }
        inner.core.release(key);
        if let Some(slot) = inner.slot(key) {
            *slot = Slot::default();
        }
    }

    // === the connection's own time ===

    /// Whether this connection serves no further requests than so many, or not for longer than so long.
    fn is_spent(&self, now: Now) -> bool {
        let rules = self.rules.borrow();
        self.requests.get() >= rules.requests_max
            || now.since_ns(self.opened) >= rules.age_ms_max.saturating_mul(1_000_000)
    }

    /// A block of fields has begun, or is whole.
    pub(super) fn set_in_block(&self, is_in_block: bool) {
        let mut inner = self.inner.borrow_mut();
        if is_in_block == inner.times.block_due.is_some() {
            return;
        }
        let due = self.timers.known_now().plus_ms(self.rules.borrow().header_timeout_ms);
        inner.times.block_due = is_in_block.then_some(due);
        drop(inner);
        self.arm();
    }

    fn arm(&self) {
        // Also where nothing is due it is found by those that end connections.
        let due = self.inner.borrow().times.first().unwrap_or(Now(u64::MAX / 2));
        self.alarm_deadline.arm(due, OnExpiry::ShutBoth);
    }

    /// What follows from the turn that ends: to be called before what it has written leaves. Returns whether the
    /// connection is over once that is sent.
    pub fn end_turn(&self, draining: bool) -> bool {
        let now = self.timers.known_now();
        let shut = self.alarm.shut.take();
        let mut inner = self.inner.borrow_mut();
        if inner.over || inner.fatal.is_some() {
            return true;
        }
        if let Some(shut) = shut {
            if self.rang(&mut inner, shut, now) {
                return true;
            }
            drop(inner);
            self.arm();
            inner = self.inner.borrow_mut();
        }
        if (draining || self.is_spent(now)) && !inner.announced {
            inner.announced = true;
            inner.core.announce_end();
            inner.core.ping(END_PING);
            inner.times.end_due = Some(now.plus_ms(H2_END_WAIT_MS));
            drop(inner);
            self.arm();
            inner = self.inner.borrow_mut();
        }
        self.note_idle(inner, now)
    }

    /// A deadline has passed, or the worker ends connections. Returns whether this one ends at once.
    fn rang(&self, inner: &mut Inner, shut: Shutdown, now: Now) -> bool {
        let is_idle = inner.core.streams() == 0;
        let passed = |due: Option<Now>| due.is_some_and(|due| due <= now);
        let times = inner.times;
        if passed(times.block_due) {
            inner.give_up(Fatal::new(Code::NoError, "header timeout"));
            return true;
        }
        if passed(times.end_due) {
            inner.times.end_due = None;
            inner.core.refuse_further();
        }
        let by_worker = !passed(times.first());
        if is_idle && (passed(times.idle_due) || by_worker) {
            inner.core.refuse_further();
            return true;
        }
        by_worker && shut == Shutdown::Both
    }

    /// Sees to it that an idle connection ends in time and holds no buffers.
    fn note_idle(&self, mut inner: std::cell::RefMut<'_, Inner>, now: Now) -> bool {
        let is_idle = inner.core.streams() == 0;
        if is_idle && inner.core.is_ending() {
            return true;
        }
        if is_idle == inner.is_idle && (inner.times.idle_due.is_some() == is_idle) {
            return false;
        }
        inner.is_idle = is_idle;
        let idle_ms = self.rules.borrow().idle_timeout_ms;
        inner.times.idle_due = is_idle.then(|| now.plus_ms(idle_ms));
        drop(inner);
        if is_idle {
            self.read_deadline.arm_in(IDLE_RELEASE_MS, OnExpiry::Release);
            self.alarm_deadline.set_waits(Some(Waits::Request));
        } else {
            self.read_deadline.disarm();
            self.alarm_deadline.set_waits(None);
        }
        self.arm();
        false
    }

    /// The client's settings are here: from now on it may be idle for longer.
    pub(super) fn connected(&self) {
        let now = self.timers.known_now();
        let idle_ms = self.rules.borrow().idle_timeout_ms;
        self.inner.borrow_mut().times.idle_due = Some(now.plus_ms(idle_ms));
        self.read_deadline.arm_in(IDLE_RELEASE_MS, OnExpiry::Release);
        self.alarm_deadline.set_waits(Some(Waits::Request));
        self.arm();
    }

    /// The client has read that the connection ends.
    pub(super) fn ponged(&self, payload: u64) {
        let mut inner = self.inner.borrow_mut();
        if payload == END_PING && inner.times.end_due.take().is_some() {
            inner.core.refuse_further();
        }
    }
}

/// The payload of the PING behind the first GOAWAY of an orderly end.
const END_PING: u64 = u64::from_be_bytes(*b"ringway!");

impl Inner {
    fn slot(&mut self, key: Key) -> Option<&mut Slot> {
        self.slots.get_mut(key.slot as usize).filter(|slot| slot.id == key.id)
    }

    pub(super) fn give_up(&mut self, fatal: Fatal) {
        if self.fatal.is_none() {
            self.core.give_up(fatal);
            self.fatal = Some(fatal);
        }
    }
}
