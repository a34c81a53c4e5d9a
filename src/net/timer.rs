//! Deadlines: one coarse wheel per worker, one entry per connection.
//!
//! A fresh timer around every read costs 5 % of a request. Here a connection stores when its present operation must be
//! over (two stores), and the wheel looks at it at that tick or within its horizon, whichever is first. What has passed
//! is interrupted through the connection, so that the operation ends and its buffer comes back.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::Shutdown;
use std::rc::{Rc, Weak};

use super::io::Interrupt;
use crate::limits::TICK_MS;
use crate::time::{Clock, Now};

/// Slots of the wheel: its horizon is this many ticks.
const SLOTS: usize = 128;
const NEVER: u64 = u64::MAX;

/// What happens when a deadline passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExpiry {
    /// The reading direction is shut: a pending read ends, an answer can still be written.
    ShutRead,
    /// The writing direction is shut: a pending write ends, an answer can still be read.
    ShutWrite,
    /// Both directions are shut.
    ShutBoth,
    /// A pending `recv_idle` gives its buffer back.
    Release,
    /// Both directions are shut, unless a second look shows that the peer takes what is sent: see [`Deadline::watch`].
    ShutSlow,
    /// As `ShutBoth`, for the life of a tunnel: see [`Timers::close_tunnels`].
    EndTunnel,
}

/// What a downstream connection without a request under way waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Its last response was sent; only what the client still sends is drained.
    Linger,
    /// The first byte of another request.
    Request,
    /// The first byte of its first request.
    First,
    /// The rest of a request head.
    Head,
}

impl Waits {
    /// What a connection waits for between its requests and before them.
    pub const IDLE: &'static [Waits] = &[Waits::Request, Waits::First];

    /// Those with the lowest rank are closed first when the worker runs short, within one rank the oldest (F08). A
    /// client that has come and not spoken is no better than one that has sent half a head, and no worse: its bytes may
    /// be on their way, and those that have been silent longest make room for it.
    const fn rank(self) -> u8 {
        match self {
            Waits::Linger => 0,
            Waits::Request => 1,
            Waits::First | Waits::Head => 2,
        }
    }
}

/// What a [`OnExpiry::ShutSlow`] deadline asks of the peer.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    /// Ticks to the next look; 0 for none.
    again_ticks: u64,
    /// What the peer must have taken meanwhile.
    bytes_min: u64,
}

struct Entry {
    due_tick: Cell<u64>,
    scheduled_tick: Cell<u64>,
    on_expiry: Cell<OnExpiry>,
    fired: Cell<bool>,
    /// None while a request is under way.
    waits: Cell<Option<Waits>>,
    /// Since when it waits.
    since: Cell<Now>,
    watch: Cell<Watch>,
    /// What the peer had yet to take at the last look of the present sending.
    unsent_bytes: Cell<Option<u64>>,
    /// At that look it had taken something, if too little.
    moved: Cell<bool>,
    target: Rc<dyn Interrupt>,
}

/// A connection that waited when the wheel was searched last.
struct Candidate {
    waits: Waits,
    since: Now,
    entry: Weak<Entry>,
}

/// Connections that may be closed when the worker runs short: what the last search of the wheel found, in the order in
/// which they go. A search looks at every entry, but one search serves as many closes as it found connections, so that
/// a close costs a few steps, and a request nothing but the mark that it carries anyway.
#[derive(Default)]
struct LeastUseful {
    found: VecDeque<Candidate>,
    searched: Option<Now>,
}

/// Idle connections closed in one tick, at least.
const CLOSES_PER_TICK: usize = 256;
/// Ticks in which all of them are closed, about.
const CLOSING_TICKS: usize = 64;
/// The order of what waits is looked at again after this long, in milliseconds.
const SEARCH_AGE_MS_MAX: u64 = 1_000;
/// A search that found nothing is repeated after a millisecond for so many entries: a worker full of requests under way
/// searches for at most a few hundredths of its time.
const SEARCH_ENTRIES_PER_MS: usize = 256;

/// The deadline of one connection. Dropping it and its clones takes it off the wheel.
#[derive(Clone)]
pub struct Deadline {
    entry: Rc<Entry>,
    timers: Rc<Timers>,
}

/// A worker's wheel.
pub struct Timers {
    slots: RefCell<Vec<Vec<Weak<Entry>>>>,
    tick: Cell<u64>,
    clock: Clock,
    known: Cell<Now>,
    least_useful: RefCell<LeastUseful>,
    ending: Cell<bool>,
    /// Where the next turn of closing goes on.
    close_slot: Cell<usize>,
}

impl Timers {
    /// An empty wheel that stands at the clock's time.
    pub fn new(clock: Clock) -> Rc<Self> {
        let slots = RefCell::new((0..SLOTS).map(|_| Vec::new()).collect());
        let now = clock.read();
        let (tick, known) = (Cell::new(tick_of(now)), Cell::new(now));
        let (least_useful, ending, close_slot) = (RefCell::default(), Cell::new(false), Cell::new(0));
        Rc::new(Self { slots, tick, clock, known, least_useful, ending, close_slot })
    }

    /// Reads the clock.
    #[inline]
    pub fn now(&self) -> Now {
        let now = self.clock.read();
        self.known.set(now);
        now
    }

    /// The time that was read last: at most a tick old, unless the worker is stuck. It costs nothing.
    #[inline]
    pub fn known_now(&self) -> Now {
        self.known.get()
    }

    /// A deadline for a connection; it is not armed.
    pub fn deadline(self: &Rc<Self>, target: Rc<dyn Interrupt>) -> Deadline {
        let entry = Rc::new(Entry {
            due_tick: Cell::new(NEVER),
            scheduled_tick: Cell::new(NEVER),
            on_expiry: Cell::new(OnExpiry::ShutBoth),
            fired: Cell::new(false),
            waits: Cell::new(None),
            since: Cell::new(Now::default()),
            watch: Cell::default(),
            unsent_bytes: Cell::default(),
            moved: Cell::default(),
            target,
        });
        Deadline { entry, timers: self.clone() }
    }

    /// Moves the wheel to `now` and interrupts what has passed. Returns how many were interrupted.
    pub fn advance(&self, now: Now) -> usize {
        self.known.set(now);
        let target = tick_of(now);
        // After a pause longer than the horizon every slot is visited once (F18).
        let first = (self.tick.get() + 1).max(target.saturating_sub(SLOTS as u64 - 1));
        let mut fired = 0;
        for tick in first..=target {
            self.tick.set(tick);
            fired += self.visit(tick);
        }
        self.tick.set(target.max(self.tick.get()));
        fired
    }

    /// Says that connections are to end: from now on each response announces its close.
    pub fn end_soon(&self) {
        self.ending.set(true);
    }

    /// Interrupts connections that wait for their next request, so that a drain ends soon: a slice of them, to be
    /// called at each tick until none is left. Returns how many. One whose request has arrived already can still be
    /// answered: only reading is shut.
    pub fn close_idle(&self) -> usize {
        self.end_waiting(Waits::IDLE, 0, Shutdown::Read, self.slice())
    }

    /// Interrupts connections that have waited for one of these for at least `ms`, as many as of `ticks` ticks. Returns
    /// how many.
    pub fn close_waiting(&self, those: &[Waits], ms: u64, ticks: u64) -> usize {
        self.end_waiting(those, ms, Shutdown::Both, self.slice() * ticks as usize)
    }

    /// How many connections are closed in one tick: each costs some ten microseconds, and thousands at once would keep
    /// all others waiting. With very many it is a part of them, so that the whole takes little more than a second.
    fn slice(&self) -> usize {
        CLOSES_PER_TICK.max(self.len() / CLOSING_TICKS)
    }

    fn end_waiting(&self, those: &[Waits], ms: u64, how: Shutdown, most: usize) -> usize {
        let until = self.known.get();
        let waits = |entry: &Rc<Entry>| {
            entry.waits.get().is_some_and(|waits| those.contains(&waits))
                && until.since_ns(entry.since.get()) >= ms * 1_000_000
                && !entry.fired.get()
        };
        let slots = self.slots.borrow();
        let from = self.close_slot.get();
        let in_turn = (from..from + SLOTS).flat_map(|at| slots[at % SLOTS].iter().map(move |entry| (at, entry)));
        let found = in_turn.filter_map(|(at, entry)| Some((at, entry.upgrade().filter(waits)?)));
        // The wheel may not stay borrowed while connections are interrupted.
        let found: Vec<_> = found.take(most).collect();
        drop(slots);
        // Where it stopped there may be more.
        self.close_slot.set(found.last().map_or(from, |(at, _)| at % SLOTS));
        found.iter().filter(|(_, entry)| waits(entry)).map(|(_, entry)| entry.close(how)).count()
    }

    /// Interrupts the connection that is of the least use: one that is drained, else the one that has waited longest
    /// for another request, else the one that has waited longest for a whole head. Returns what it waited for, or None
    /// when every connection has a request under way.
    pub fn close_least_useful(&self) -> Option<Waits> {
        let now = self.known.get();
        let mut least_useful = self.least_useful.borrow_mut();
        let age_ms = least_useful.searched.map_or(u64::MAX, |at| now.since_ns(at) / 1_000_000);
        if age_ms >= SEARCH_AGE_MS_MAX {
            least_useful.search(self, now);
        }
        if let Some(waited) = least_useful.close_next() {
            return Some(waited);
        }
        if age_ms < SEARCH_AGE_MS_MAX && age_ms >= (self.len() / SEARCH_ENTRIES_PER_MS) as u64 {
            least_useful.search(self, now);
        }
        least_useful.close_next()
    }

    /// Ends every tunnel: the drain's time is over. Returns how many.
    pub fn close_tunnels(&self) -> usize {
        let entries: Vec<_> = self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        let is_tunnel = |e: &&Rc<Entry>| e.on_expiry.get() == OnExpiry::EndTunnel && !e.fired.get();
        entries.iter().filter(is_tunnel).map(|entry| entry.fire()).count()
    }

    /// Interrupts every connection, up and down. Returns how many.
    pub fn end_all(&self) -> usize {
        let entries: Vec<_> = self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        for entry in &entries {
            entry.target.shutdown(Shutdown::Both);
        }
        entries.len()
    }

    /// Entries on the wheel, dead ones included until their slot is visited.
    pub fn len(&self) -> usize {
        self.slots.borrow().iter().map(Vec::len).sum()
    }

    /// Whether the wheel is empty.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn visit(&self, tick: u64) -> usize {
        let slot = tick as usize % SLOTS;
        let mut waiting = std::mem::take(&mut self.slots.borrow_mut()[slot]);
        let mut fired = 0;
        for weak in waiting.drain(..) {
            let Some(entry) = weak.upgrade() else { continue };
            // An entry that was moved to an earlier slot left this copy behind.
            if entry.scheduled_tick.get() > tick {
                continue;
            }
            entry.scheduled_tick.set(NEVER);
            match entry.due_tick.get() {
                NEVER => {}
                due if due > tick => self.schedule(&entry, due),
                _ => match entry.next_look(tick) {
                    Some(due) => self.schedule(&entry, due),
                    None => {
                        entry.fire();
                        fired += 1;
                    }
                },
            }
        }
        // The slot keeps its allocation, unless something was scheduled into it meanwhile.
        let mut slots = self.slots.borrow_mut();
        if slots[slot].is_empty() {
            slots[slot] = waiting;
        }
        fired
    }

    fn schedule(&self, entry: &Rc<Entry>, due: u64) {
        let now = self.tick.get();
        let at = due.clamp(now + 1, now + SLOTS as u64 - 1);
        entry.scheduled_tick.set(at);
        self.slots.borrow_mut()[at as usize % SLOTS].push(Rc::downgrade(entry));
    }
}

impl LeastUseful {
    fn search(&mut self, timers: &Timers, now: Now) {
        let candidate = |entry: &Weak<Entry>| {
            let strong = entry.upgrade()?;
            Some(Candidate { waits: strong.waits.get()?, since: strong.since.get(), entry: entry.clone() })
        };
        let mut all: Vec<_> = timers.slots.borrow().iter().flatten().filter_map(candidate).collect();
        all.sort_by_key(|candidate| (candidate.waits.rank(), candidate.since));
        self.found = all.into();
        self.searched = Some(now);
    }

    fn close_next(&mut self) -> Option<Waits> {
        while let Some(candidate) = self.found.pop_front() {
            let Some(entry) = candidate.entry.upgrade() else { continue };
            // One that has had a request meanwhile waits anew, behind those that are found now.
            if entry.waits.get() == Some(candidate.waits) && entry.since.get() == candidate.since {
                entry.close(Shutdown::Both);
                return Some(candidate.waits);
            }
        }
        self.found.shrink_to_fit();
        None
    }
}

impl Entry {
    /// Ends a connection that waits, as if the client had left.
    fn close(&self, how: Shutdown) {
        // Half a head is then an end by the client, without an answer, and not a timeout.
        self.fired.set(self.waits.replace(None) != Some(Waits::Head));
        self.due_tick.set(NEVER);
        self.target.shutdown(how);
    }

    /// When a deadline that has passed is to be looked at again, as it is a matter of how much the peer takes.
    fn next_look(&self, tick: u64) -> Option<u64> {
        let watch = self.watch.get();
        self.moved.set(false);
        if self.on_expiry.get() != OnExpiry::ShutSlow || watch.again_ticks == 0 {
            return None;
        }
        // Where it cannot be known, nothing has moved.
        let unsent = self.target.unsent_bytes().unwrap_or(u64::MAX);
        let taken = self.unsent_bytes.replace(Some(unsent)).map(|before| before.saturating_sub(unsent));
        self.moved.set(taken.is_some_and(|bytes| bytes > 0));
        if taken.is_some_and(|bytes| bytes < watch.bytes_min) {
            return None;
        }
        let due = tick + watch.again_ticks;
        self.due_tick.set(due);
        Some(due)
    }

    fn fire(&self) {
        self.fired.set(true);
        self.due_tick.set(NEVER);
        match self.on_expiry.get() {
            OnExpiry::ShutRead => self.target.shutdown(Shutdown::Read),
            OnExpiry::ShutWrite => self.target.shutdown(Shutdown::Write),
            OnExpiry::ShutBoth | OnExpiry::ShutSlow | OnExpiry::EndTunnel => {
                self.target.shutdown(Shutdown::Both);
            }
            OnExpiry::Release => self.target.release(),
        }
    }
}

impl Deadline {
    /// Arms the deadline: the connection is interrupted at `due`, rounded up to a tick.
    #[inline]
    pub fn arm(&self, due: Now, on_expiry: OnExpiry) {
        let tick = tick_of(due) + 1;
        self.entry.due_tick.set(tick);
        self.entry.on_expiry.set(on_expiry);
        self.entry.fired.set(false);
        if on_expiry == OnExpiry::ShutSlow {
            self.entry.unsent_bytes.set(None);
        }
        if tick < self.entry.scheduled_tick.get() {
            self.move_up(tick);
        }
    }

    /// Arms the deadline `ms` milliseconds from the time that was read last.
    #[inline]
    pub fn arm_in(&self, ms: u64, on_expiry: OnExpiry) {
        self.arm(self.timers.known_now().plus_ms(ms), on_expiry);
    }

    /// Rules for [`Self::arm_watched`]: at its deadline what the peer has yet to take is looked at, and again each
    /// `again_ms`; the peer must have taken `bytes_min` from one look to the next. `again_ms` 0 means no such look.
    pub fn watch(&self, again_ms: u64, bytes_min: u64) {
        let again_ticks = again_ms.div_ceil(TICK_MS);
        self.entry.watch.set(Watch { again_ticks, bytes_min });
    }

    /// Arms the deadline of a sending for a first look in `ms` milliseconds.
    #[inline]
    pub fn arm_watched(&self, ms: u64) {
        self.arm_in(ms, OnExpiry::ShutSlow);
    }

    /// The peer takes or brings too little: as if the deadline had passed with that, without a shutdown.
    pub fn was_slow(&self) {
        self.entry.fired.set(true);
        self.entry.moved.set(true);
    }

    /// Whether the last look at a watched sending saw that the peer had taken something, if too little.
    pub fn saw_movement(&self) -> bool {
        self.entry.moved.get()
    }

    /// The time that was read last.
    #[inline]
    pub fn known_now(&self) -> Now {
        self.timers.known_now()
    }

    /// The time that was read last, and `ms` milliseconds.
    #[inline]
    pub fn in_ms(&self, ms: u64) -> Now {
        self.timers.known_now().plus_ms(ms)
    }

    /// Disarms the deadline.
    #[inline]
    pub fn disarm(&self) {
        self.entry.due_tick.set(NEVER);
    }

    /// Whether the deadline passed since it was armed last.
    #[inline]
    pub fn fired(&self) -> bool {
        self.entry.fired.get()
    }

    /// Says what the connection waits for, if it has no request under way; a worker that drains or runs short closes
    /// those that wait.
    /// Whether connections are to end soon.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.timers.ending.get()
    }

    /// Says whether the connection waits for its next request; a drain closes those that do.
    #[inline]
    pub fn set_waits(&self, waits: Option<Waits>) {
        self.entry.waits.set(waits);
        self.entry.since.set(self.timers.known_now());
    }

    /// The connection's interrupt, to be kept.
    pub fn interrupt(&self) -> Rc<dyn Interrupt> {
        self.entry.target.clone()
    }

    /// The connection's interrupt.
    pub fn target(&self) -> &dyn Interrupt {
        &*self.entry.target
    }

    /// Shuts the connection down at once, as if the deadline had passed.
    pub fn expire(&self) {
        self.entry.on_expiry.set(OnExpiry::ShutBoth);
        self.entry.fire();
    }

    fn move_up(&self, tick: u64) {
        // Most deadlines lie beyond the horizon: the entry then waits at the horizon and is not touched again until
        // there.
        let horizon = self.timers.tick.get() + SLOTS as u64 - 1;
        if self.entry.scheduled_tick.get() == NEVER || tick < self.entry.scheduled_tick.get().min(horizon) {
            self.timers.schedule(&self.entry, tick);
        }
    }
}

fn tick_of(now: Now) -> u64 {
    now.ms() / TICK_MS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Probe {
        shut: Cell<u32>,
        released: Cell<u32>,
        unsent: Cell<Option<u64>>,
    }

    impl Interrupt for Probe {
        fn shutdown(&self, _: Shutdown) {
            self.shut.set(self.shut.get() + 1);
        }
        fn release(&self) {
            self.released.set(self.released.get() + 1);
        }
        fn is_quiet(&self) -> bool {
            true
        }
        fn unsent_bytes(&self) -> Option<u64> {
            self.unsent.get()
        }
        fn has_left(&self) -> bool {
            false
        }
    }

    fn probe(timers: &Rc<Timers>) -> (Rc<Probe>, Deadline) {
        let probe = Rc::new(Probe::default());
        (probe.clone(), timers.deadline(probe))
    }

    fn run_to(timers: &Timers, from_ms: u64, to_ms: u64) {
        (from_ms..=to_ms).step_by(TICK_MS as usize).for_each(|ms| {
            timers.advance(Now::from_ms(ms));
        });
    }

    #[test]
    fn never_fires_early_and_at_most_two_ticks_late() {
        for due in [0, 1, TICK_MS, 300, 2_540, 2_560, 10_000, 75_000] {
            let timers = Timers::new(Clock::stopped());
            let (seen, deadline) = probe(&timers);
            deadline.arm(Now::from_ms(due), OnExpiry::ShutRead);
            run_to(&timers, 0, due);
            assert_eq!(seen.shut.get(), 0, "early for {due}");
            run_to(&timers, due, due + 2 * TICK_MS);
            assert_eq!(seen.shut.get(), 1, "late for {due}");
            assert!(deadline.fired());
        }
    }

    #[test]
    fn moving_a_deadline_forth_and_back() {
        let timers = Timers::new(Clock::stopped());
        let (seen, deadline) = probe(&timers);
        deadline.arm(Now::from_ms(60_000), OnExpiry::ShutBoth);
        deadline.arm(Now::from_ms(200), OnExpiry::Release);
        run_to(&timers, 0, 260);
        assert_eq!((seen.released.get(), seen.shut.get()), (1, 0));
        deadline.arm(Now::from_ms(400), OnExpiry::ShutBoth);
        deadline.arm(Now::from_ms(5_000), OnExpiry::ShutBoth);
        run_to(&timers, 260, 4_900);
        assert_eq!(seen.shut.get(), 0);
        deadline.disarm();
        run_to(&timers, 4_900, 10_000);
        assert_eq!(seen.shut.get(), 0);
        deadline.arm(Now::from_ms(10_100), OnExpiry::ShutBoth);
        run_to(&timers, 10_000, 10_200);
        assert_eq!(seen.shut.get(), 1);
    }

    #[test]
    fn a_long_pause_fires_each_once() {
        let timers = Timers::new(Clock::stopped());
        let all: Vec<_> = (0..50).map(|_| probe(&timers)).collect();
        all.iter().enumerate().for_each(|(n, (_, d))| d.arm(Now::from_ms(n as u64 * 100), OnExpiry::ShutBoth));
        assert_eq!(timers.advance(Now::from_ms(3_600_000)), 50);
        assert!(all.iter().all(|(p, _)| p.shut.get() == 1));
    }

    #[test]
    fn rearming_each_request_does_not_grow_the_wheel() {
        let timers = Timers::new(Clock::stopped());
        let (_, deadline) = probe(&timers);
        for ms in 0..20_000 {
            deadline.arm(Now::from_ms(ms + 10_000), OnExpiry::ShutRead);
            deadline.arm(Now::from_ms(ms + 1_000), OnExpiry::Release);
            timers.advance(Now::from_ms(ms));
            assert!(timers.len() < 300, "{} entries", timers.len());
        }
        drop(deadline);
        run_to(&timers, 20_000, 25_000);
        assert!(timers.is_empty());
    }

    #[test]
    fn a_watched_sending_ends_when_the_peer_takes_too_little() {
        for (unsent_at_second, unsent_at_third, shut_by_ms, moved) in [
            (Some(1_000), Some(1_000), 30_100, false),
            (Some(950), Some(950), 30_100, true),
            (Some(900), Some(850), 50_100, true),
            (Some(900), Some(800), u64::MAX, true),
            (None, None, 30_100, false),
        ] {
            let timers = Timers::new(Clock::stopped());
            let (seen, deadline) = probe(&timers);
            deadline.watch(20_000, 100);
            seen.unsent.set(unsent_at_second.map(|_| 1_000));
            deadline.arm_watched(10_000);
            run_to(&timers, 0, 15_000);
            seen.unsent.set(unsent_at_second);
            run_to(&timers, 15_000, 40_000);
            seen.unsent.set(unsent_at_third);
            run_to(&timers, 40_000, 60_000);
            assert_eq!((seen.shut.get() == 0, deadline.fired()), (shut_by_ms == u64::MAX, shut_by_ms != u64::MAX));
            assert_eq!(deadline.saw_movement(), moved);
        }
    }

    #[test]
    fn a_drain_interrupts_only_idle_connections() {
        let timers = Timers::new(Clock::stopped());
        let ((idle, a), (busy, b)) = (probe(&timers), probe(&timers));
        [&a, &b].iter().for_each(|d| d.arm(Now::from_ms(75_000), OnExpiry::Release));
        a.set_waits(Some(Waits::Request));
        assert_eq!(timers.close_idle(), 1);
        assert_eq!((idle.shut.get(), busy.shut.get()), (1, 0));
        assert_eq!(timers.close_idle(), 0, "each is closed once");
    }

    #[test]
    fn thousands_are_closed_in_slices_and_none_is_left() {
        for count in [1, 256, 257, 15_000, 40_000] {
            let timers = Timers::new(Clock::stopped());
            let all: Vec<_> = (0..count).map(|_| probe(&timers)).collect();
            for (at, (_, deadline)) in all.iter().enumerate() {
                deadline.arm(Now::from_ms((at as u64 * 7) % 75_000), OnExpiry::ShutRead);
                deadline.set_waits(Some(Waits::Request));
            }
            let mut slices = Vec::new();
            while slices.last() != Some(&0) {
                slices.push(timers.close_idle());
                assert!(slices.len() < 2 * CLOSING_TICKS, "{count}: {slices:?}");
            }
            assert!(slices.iter().all(|&slice| slice <= CLOSES_PER_TICK.max(count / CLOSING_TICKS)), "{slices:?}");
            assert_eq!(slices.iter().sum::<usize>(), count);
            assert!(all.iter().all(|(seen, _)| seen.shut.get() == 1));
        }
    }

    #[test]
    fn the_least_useful_goes_first_and_a_request_under_way_never() {
        let timers = Timers::new(Clock::stopped());
        let order = [None, Some(Waits::Head), Some(Waits::Request), Some(Waits::First), Some(Waits::Request)];
        let all: Vec<_> = order.iter().map(|_| probe(&timers)).collect();
        for (at, ((_, deadline), waits)) in all.iter().zip(order).enumerate() {
            timers.advance(Now::from_ms(at as u64 * TICK_MS));
            deadline.arm_in(10_000, OnExpiry::ShutRead);
            // A deadline that was moved up leaves a copy on the wheel.
            deadline.arm_in(1_000, OnExpiry::ShutRead);
            deadline.set_waits(waits);
        }
        let closed = || all.iter().map(|(seen, _)| seen.shut.get()).collect::<Vec<_>>();
        for (waits, expected) in [
            (Some(Waits::Request), [0, 0, 1, 0, 0]),
            (Some(Waits::Request), [0, 0, 1, 0, 1]),
            (Some(Waits::Head), [0, 1, 1, 0, 1]),
            (Some(Waits::First), [0, 1, 1, 1, 1]),
            (None, [0, 1, 1, 1, 1]),
        ] {
            assert_eq!((timers.close_least_useful(), closed()), (waits, expected.to_vec()));
        }
        let (late, deadline) = probe(&timers);
        deadline.arm_in(1_000, OnExpiry::ShutRead);
        deadline.set_waits(Some(Waits::Linger));
        assert_eq!((timers.close_least_useful(), late.shut.get()), (Some(Waits::Linger), 1));
    }

    #[test]
    fn one_that_has_had_a_request_since_the_search_is_kept() {
        let timers = Timers::new(Clock::stopped());
        let all: Vec<_> = (0..3).map(|_| probe(&timers)).collect();
        for (_, deadline) in &all {
            deadline.arm_in(10_000, OnExpiry::ShutRead);
            deadline.set_waits(Some(Waits::Request));
        }
        assert!(timers.close_least_useful().is_some());
        all[1].1.set_waits(None);
        timers.advance(Now::from_ms(TICK_MS));
        all[2].1.set_waits(Some(Waits::Request));
        assert!(timers.close_least_useful().is_some());
        assert_eq!(all.iter().map(|(seen, _)| seen.shut.get()).collect::<Vec<_>>(), [1, 0, 1]);
    }

    #[test]
    fn a_worker_full_of_requests_does_not_search_at_each_connection() {
        let timers = Timers::new(Clock::stopped());
        let all: Vec<_> = (0..SEARCH_ENTRIES_PER_MS * 100).map(|_| probe(&timers)).collect();
        all.iter().for_each(|(_, deadline)| deadline.arm_in(10_000, OnExpiry::ShutRead));
        assert_eq!(timers.close_least_useful(), None);
        all[7].1.set_waits(Some(Waits::Head));
        assert_eq!(timers.close_least_useful(), None, "not searched again so soon");
        timers.advance(Now::from_ms(100));
        assert_eq!(timers.close_least_useful(), Some(Waits::Head));
    }
}
