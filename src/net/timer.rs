//! Deadlines: one coarse wheel per worker, one entry per connection.
//!
//! A fresh timer around every read costs 5 % of a request. Here a connection stores when its present operation must be
//! over (two stores), and the wheel looks at it at that tick or within its horizon, whichever is first. What has passed
//! is interrupted through the connection, so that the operation ends and its buffer comes back.

mod closing;

pub use closing::{Untold, Waits};

use std::cell::{Cell, RefCell};
use std::net::Shutdown;
use std::rc::{Rc, Weak};

use self::closing::LeastUseful;
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

impl Entry {
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

    /// Whether connections are to end soon.
    #[inline]
    pub fn is_ending(&self) -> bool {
        self.timers.ending.get()
    }

    /// Says what the connection waits for, if it has no request under way; a worker that drains or runs short closes
    /// those that wait.
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
    pub(super) struct Probe {
        pub shut: Cell<u32>,
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

    pub(super) fn probe(timers: &Rc<Timers>) -> (Rc<Probe>, Deadline) {
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
}
