//! Limits on requests in flight, with a bounded queue and a deadline (F13, F14). Services and the policy
//! `concurrency_limit` stand on it.
//!
//! ```text
//! Local (one worker's end) ─enter─► Permit          in flight until it is dropped
//!        │                     └──► Ticket ─granted─► Permit      in the queue until then, or until it is dropped
//!        └─► Gate (all workers): counts, queue, adaptation
//! ```
//! A [`Permit`] and a [`Ticket`] give back what they hold when they are dropped, however a request ends: after its
//! response, by a client that leaves, by a panic. What waits is woken through [`Local`], by the bell of its worker
//! ([`bell`]) or, at the latest, by its next tick ([`Waiting::tick`]).

pub mod adaptive;
pub mod bell;
pub mod gate;
mod keys;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

pub use self::adaptive::{Bounds, Window};
use self::gate::{Entered, Granted};
pub use self::gate::{Gate, PENDING_CEILING, Report, Terms};
pub use self::keys::KEYS_MAX;
use self::keys::Place;
use crate::time::Now;

/// How long a worker gathers measurements before it takes them to the adaptation, in milliseconds.
pub const LEARN_EVERY_MS: u64 = 50;
/// Ticks after which one who waits looks whether its client is still there.
pub const LEFT_EVERY_TICKS: u64 = 5;

/// What became of a request at a limit.
#[derive(Debug)]
pub enum Admission {
    /// It goes on; its place is its own until the permit is dropped.
    In(Permit),
    /// It waits.
    Wait(Ticket),
    /// The queue is full.
    Full,
}

/// One worker's end of a limit.
pub struct Local {
    gate: Arc<Gate>,
    worker: u32,
    waiters: RefCell<BTreeMap<u64, Waiter>>,
    window: Cell<Window>,
    window_since: Cell<Now>,
}

struct Waiter {
    due: Now,
    granted: Arc<AtomicBool>,
    waker: Waker,
}

/// A request in flight.
pub struct Permit {
    local: Rc<Local>,
    place: Place,
}

/// A request in the queue.
pub struct Ticket {
    local: Rc<Local>,
    place: Place,
    id: u64,
    granted: Arc<AtomicBool>,
    due: Now,
    /// The place was turned into a permit, or given back.
    done: bool,
    left: bool,
}

impl Local {
    /// A worker's end. One for each limit and worker, kept over reloads as long as the limit is the same.
    pub fn new(gate: Arc<Gate>, worker: u32) -> Rc<Self> {
        Rc::new(Self {
            gate,
            worker,
            waiters: RefCell::default(),
            window: Cell::default(),
            window_since: Cell::default(),
        })
    }

    /// The limit.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// The worker whose end it is.
    pub fn worker(&self) -> u32 {
        self.worker
    }

    /// Whether it is an end of this limit.
    pub fn is_of(&self, gate: &Arc<Gate>) -> bool {
        Arc::ptr_eq(&self.gate, gate)
    }

    /// Enters, or waits, or neither. `key` matters where the limit has keys.
    #[inline]
    pub fn enter(self: &Rc<Self>, key: u64, terms: &Terms, now: Now) -> Admission {
        match self.gate.enter(key, terms, self.worker, now) {
            Entered::In(place) => Admission::In(Permit { local: self.clone(), place }),
            Entered::Full => Admission::Full,
            Entered::Queued { place, id, granted } => {
                let due = now.plus_ms(terms.wait_ms);
                Admission::Wait(Ticket { local: self.clone(), place, id, granted, due, done: false, left: false })
            }
        }
    }

    /// Brings the limit to what is configured now: after a reload.
    pub fn apply(&self, terms: &Terms) {
        if terms.adaptive.is_none() {
            self.tell(self.gate.set_limit(terms.requests_max));
        }
    }

    /// Notes how an endpoint did: how long it took, or that it failed as an overloaded one does.
    pub fn observe(&self, latency_ns: Option<u64>, bounds: Bounds, now: Now) {
        let mut window = self.window.get();
        window.absorb(Window {
            answered: u64::from(latency_ns.is_some()),
            sum_ns: latency_ns.unwrap_or_default(),
            failed: u64::from(latency_ns.is_none()),
            in_flight_max: self.gate.in_flight(),
        });
        self.window.set(window);
        if now.since_ns(self.window_since.get()) >= LEARN_EVERY_MS * 1_000_000 {
            self.window_since.set(now);
            self.tell(self.gate.learn(self.window.take(), bounds, now));
        }
    }

    fn tell(&self, granted: impl IntoIterator<Item = Granted>) {
        for one in granted {
            let woken = one.worker == self.worker && self.wake(one.id);
            if !woken {
                // On another worker, or at another end of the same limit on this one.
                bell::ring(one.worker);
            }
        }
    }

    fn wake(&self, id: u64) -> bool {
        let waiter = self.waiters.borrow_mut().remove(&id);
        let found = waiter.is_some();
        if let Some(waiter) = waiter {
            waiter.waker.wake();
        }
        found
    }

    /// Wakes those who have a place, whose time is over, or, with `all`, everyone. Returns whether anyone waits.
    fn look(&self, now: Now, all: bool) -> bool {
        let waiters = self.waiters.borrow();
        for waiter in waiters.values() {
            if all || now >= waiter.due || waiter.granted.load(Ordering::Acquire) {
                waiter.waker.wake_by_ref();
            }
        }
        !waiters.is_empty()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.local.tell(self.local.gate.leave(self.place));
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("worker", &self.local.worker).field("place", &self.place).finish()
    }
}

impl Ticket {
    /// The place, once it is there.
    pub fn granted(&mut self) -> Option<Permit> {
        if self.done || !self.granted.load(Ordering::Acquire) {
            return None;
        }
        self.done = true;
        Some(Permit { local: self.local.clone(), place: self.place })
    }

    /// The wait is over at `due`, if not before.
    pub fn end_by(&mut self, due: Now) {
        self.due = self.due.min(due);
    }

    /// When the wait is over.
    pub fn due(&self) -> Now {
        self.due
    }

    /// The client has left: it is counted so.
    pub fn leave(&mut self) {
        self.left = true;
    }

    /// Asks to be woken when there is news.
    pub fn park(&self, waker: &Waker) {
        let waiter = Waiter { due: self.due, granted: self.granted.clone(), waker: waker.clone() };
        self.local.waiters.borrow_mut().insert(self.id, waiter);
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.local.waiters.borrow_mut().remove(&self.id);
        if !self.done && !self.local.gate.withdraw(self.place, self.id, self.left) {
            // It got a place in the meantime, and has no use for it.
            self.local.tell(self.local.gate.leave(self.place));
        }
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("id", &self.id).field("due", &self.due).finish()
    }
}

/// The limits at which requests of one worker wait.
#[derive(Default)]
pub struct Waiting {
    locals: RefCell<Vec<Rc<Local>>>,
    ticks: Cell<u64>,
}

impl Waiting {
    /// A request begins to wait.
    pub fn watch(&self, ticket: &Ticket) {
        let mut locals = self.locals.borrow_mut();
        if !locals.iter().any(|local| Rc::ptr_eq(local, &ticket.local)) {
            locals.push(ticket.local.clone());
        }
    }

    /// The worker's tick: wakes those whose time is over, and now and then all, to see whether their clients are there.
    pub fn tick(&self, now: Now) {
        if self.locals.borrow().is_empty() {
            return;
        }
        self.ticks.set(self.ticks.get() + 1);
        let all = self.ticks.get().is_multiple_of(LEFT_EVERY_TICKS);
        self.locals.borrow_mut().retain(|local| local.look(now, all));
    }

    /// The worker's bell was rung: wakes those who have a place.
    pub fn rung(&self) {
        self.locals.borrow().iter().for_each(|local| _ = local.look(Now(0), false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;
    use std::task::Wake;

    struct Count(AtomicU32);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    const TERMS: Terms = Terms { requests_max: 1, pending_max: 2, wait_ms: 100, adaptive: None };

    fn permit(admission: Admission) -> Permit {
        match admission {
            Admission::In(permit) => permit,
            other => panic!("{other:?}"),
        }
    }

    fn ticket(admission: Admission) -> Ticket {
        match admission {
            Admission::Wait(ticket) => ticket,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_dropped_is_given_back() {
        let local = Local::new(Gate::new(None, &TERMS), 3_000);
        let first = permit(local.enter(0, &TERMS, Now(0)));
        let second = ticket(local.enter(0, &TERMS, Now(0)));
        let mut third = ticket(local.enter(0, &TERMS, Now(0)));
        assert!(matches!(local.enter(0, &TERMS, Now(0)), Admission::Full));
        drop(second);
        assert!(third.granted().is_none());
        let wakes = Arc::new(Count(AtomicU32::new(0)));
        third.park(&wakes.clone().into());
        drop(first);
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1);
        let third = third.granted().expect("a place");
        // A place that nobody takes goes on to the next.
        let fourth = ticket(local.enter(0, &TERMS, Now(0)));
        let mut fifth = ticket(local.enter(0, &TERMS, Now(0)));
        drop(third);
        drop(fourth);
        drop(fifth.granted().expect("a place"));
        drop(fifth);
        let report = local.gate().report();
        assert_eq!((report.in_flight, report.queued, report.refused_full), (0, 0, 1));
    }

    #[test]
    fn ticks_wake_those_who_are_late_and_forget_those_who_are_gone() {
        let (local, waiting) = (Local::new(Gate::new(None, &TERMS), 3_000), Waiting::default());
        let _held = permit(local.enter(0, &TERMS, Now(0)));
        let late = ticket(local.enter(0, &TERMS, Now(0)));
        let wakes = Arc::new(Count(AtomicU32::new(0)));
        waiting.watch(&late);
        waiting.watch(&late);
        late.park(&wakes.clone().into());
        waiting.tick(Now::from_ms(99));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 0);
        waiting.tick(Now::from_ms(100));
        assert_eq!((wakes.0.load(Ordering::SeqCst), waiting.locals.borrow().len()), (1, 1));
        drop(late);
        waiting.tick(Now::from_ms(120));
        assert!(waiting.locals.borrow().is_empty());
        assert_eq!(local.gate().report().refused_late, 1);
    }

    #[test]
    fn another_worker_hears_the_bell() {
        let gate = Gate::new(None, &TERMS);
        let (one, other) = (Local::new(gate.clone(), 1_000), Local::new(gate, 1_001));
        let heard = bell::hang(1_001).expect("a socket");
        let held = permit(one.enter(0, &TERMS, Now(0)));
        let mut waits = ticket(other.enter(0, &TERMS, Now(0)));
        drop(held);
        let mut byte = [0];
        std::io::Read::read_exact(&mut (&heard), &mut byte).expect("a byte");
        bell::answered(1_001);
        assert!(waits.granted().is_some());
    }
}
