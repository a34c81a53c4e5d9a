//! Deadlines: one coarse wheel per worker, one entry per connection.
//!
//! A fresh timer around every read costs 5 % of a request. Here a connection stores when its present operation must be
//! over (two stores), and the wheel looks at it at that tick or within its horizon, whichever is first. What has passed
//! is interrupted through the connection, so that the operation ends and its buffer comes back.

use std::cell::{Cell, RefCell};
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
    /// Both directions are shut.
    ShutBoth,
    /// A pending `recv_idle` gives its buffer back.
    Release,
    /// As `ShutBoth`, for the life of a tunnel: see [`Timers::close_tunnels`].
    EndTunnel,
}

struct Entry {
    due_tick: Cell<u64>,
    scheduled_tick: Cell<u64>,
    on_expiry: Cell<OnExpiry>,
    fired: Cell<bool>,
    idle: Cell<bool>,
    target: Rc<dyn Interrupt>,
}

/// The deadline of one connection. Dropping it takes it off the wheel.
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
    ending: Cell<bool>,
}

impl Timers {
    /// An empty wheel that stands at the clock's time.
    pub fn new(clock: Clock) -> Rc<Self> {
        let slots = RefCell::new((0..SLOTS).map(|_| Vec::new()).collect());
        let now = clock.read();
        Rc::new(Self { slots, tick: Cell::new(tick_of(now)), clock, known: Cell::new(now), ending: Cell::new(false) })
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
            idle: Cell::new(false),
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

    /// Interrupts every connection that waits for its next request, so that a drain ends soon. Returns how many. One
    /// whose request has arrived already can still be answered: only reading is shut.
    pub fn close_idle(&self) -> usize {
        let entries: Vec<_> = self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        let mut closed = 0;
        for entry in entries.iter().filter(|entry| entry.idle.get() && !entry.fired.get()) {
            entry.on_expiry.set(OnExpiry::ShutRead);
            entry.fire();
            closed += 1;
        }
        closed
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
                due if due <= tick => {
                    entry.fire();
                    fired += 1;
                }
                due => self.schedule(&entry, due),
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
    fn fire(&self) {
        self.fired.set(true);
        self.due_tick.set(NEVER);
        match self.on_expiry.get() {
            OnExpiry::ShutRead => self.target.shutdown(Shutdown::Read),
            OnExpiry::ShutBoth | OnExpiry::EndTunnel => self.target.shutdown(Shutdown::Both),
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
        if tick < self.entry.scheduled_tick.get() {
            self.move_up(tick);
        }
    }

    /// Arms the deadline `ms` milliseconds from the time that was read last.
    #[inline]
    pub fn arm_in(&self, ms: u64, on_expiry: OnExpiry) {
        self.arm(self.timers.known_now().plus_ms(ms), on_expiry);
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

    /// Says whether the connection waits for its next request; a drain closes those that do.
    #[inline]
    pub fn set_idle(&self, idle: bool) {
        self.entry.idle.set(idle);
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
    fn a_drain_interrupts_only_idle_connections() {
        let timers = Timers::new(Clock::stopped());
        let ((idle, a), (busy, b)) = (probe(&timers), probe(&timers));
        [&a, &b].iter().for_each(|d| d.arm(Now::from_ms(75_000), OnExpiry::Release));
        a.set_idle(true);
        assert_eq!(timers.close_idle(), 1);
        assert_eq!((idle.shut.get(), busy.shut.get()), (1, 0));
        assert!(a.fired() && !b.fired());
    }
}
