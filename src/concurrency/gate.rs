//! A limit on requests in flight that all workers of a node share, with its queue.
//!
//! While nobody waits, a request enters and leaves by one compare-and-swap each (`keys.rs`). Who finds the limit
//! reached waits in one queue for the whole node, which a lock guards: it is taken only by those who have to wait and
//! by those who leave while others wait. Rules, each checked by `tests/concurrency_sim.rs`:
//!
//! - Never more in flight than the limit says: a place is handed over, not given up and taken again.
//! - Who comes while others wait goes behind them: no barging.
//! - The count of those who wait changes under the lock alone, together with the queue: no wake-up is lost.
//!
//! **First come, first served, until the queue stands.** Once the oldest has waited for half of the time that it may
//! wait, the newest is served first: served in order, under lasting overload, each request would be answered just
//! before its client gives up. Served so, most are answered at once, and those who cannot be are told.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crossbeam_utils::CachePadded;

use super::adaptive::{Adaptive, Bounds, Window};
use super::keys::{IN_FLIGHT, Keys, Place, WAITING, in_flight, waiting};
use crate::time::Now;

/// Requests that may wait at one limit in the whole node, whatever its keys.
pub const PENDING_CEILING: usize = 10_000;

/// The numbers of a limit, as they are configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Requests in flight, for each key; at least 1.
    pub requests_max: u32,
    /// Requests that wait, for each key.
    pub pending_max: u32,
    /// How long one waits, in milliseconds.
    pub wait_ms: u64,
    /// Moves the limit by latency, between these bounds.
    pub adaptive: Option<Bounds>,
}

impl Terms {
    /// In one line, for people.
    pub fn text(&self) -> String {
        let Self { requests_max, pending_max, wait_ms, adaptive } = self;
        let limit = match adaptive {
            None => format!("at most {requests_max} requests in flight"),
            Some(bounds) => format!("from {} to {requests_max} requests in flight, by latency", bounds.min),
        };
        match pending_max {
            0 => format!("{limit}, none waits"),
            _ => format!("{limit}, {pending_max} wait for at most {wait_ms} ms"),
        }
    }
}

/// What a limit does at present.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The limit; for each key, where there are keys.
    pub limit: u32,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests that wait.
    pub queued: u64,
    /// Requests refused because the queue was full, since the start.
    pub refused_full: u64,
    /// Requests refused because they had waited too long, since the start.
    pub refused_late: u64,
    /// Clients that left while they waited, since the start.
    pub left: u64,
    /// Keys that had to share a count, since the start.
    pub crowded: u64,
}

/// A limit, shared by all workers.
pub struct Gate {
    keys: Keys,
    /// Written when a configuration or the adaptation changes it.
    limit: CachePadded<AtomicU32>,
    lot: CachePadded<Mutex<Lot>>,
    refused_full: AtomicU64,
    refused_late: AtomicU64,
    left: AtomicU64,
}

/// What the lock guards.
struct Lot {
    queues: BTreeMap<Place, Queue>,
    count: usize,
    next_id: u64,
    adaptive: Adaptive,
}

/// Who waits for one key, in the order in which they came.
#[derive(Default)]
struct Queue {
    items: VecDeque<Item>,
    newest_first: bool,
}

struct Item {
    id: u64,
    worker: u32,
    since: Now,
    granted: Arc<AtomicBool>,
}

/// Who is to be told that a place is its own now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    pub worker: u32,
    pub id: u64,
}

/// What became of a request that wanted to enter.
pub(super) enum Entered {
    /// It is in flight.
    In(Place),
    /// It waits.
    Queued { place: Place, id: u64, granted: Arc<AtomicBool> },
    /// Neither.
    Full,
}

impl Gate {
    /// A limit without requests. `keys`: how many keys are told apart; None for one limit for all.
    pub fn new(keys: Option<usize>, terms: &Terms) -> Arc<Self> {
        let adaptive = Adaptive::new(terms.requests_max);
        let limit = terms.adaptive.map_or(terms.requests_max, |bounds| adaptive.limit(bounds));
        let lot = Lot { queues: BTreeMap::new(), count: 0, next_id: 0, adaptive };
        Arc::new(Self {
            keys: Keys::new(keys),
            limit: CachePadded::new(AtomicU32::new(limit)),
            lot: CachePadded::new(Mutex::new(lot)),
            refused_full: AtomicU64::new(0),
            refused_late: AtomicU64::new(0),
            left: AtomicU64::new(0),
        })
    }

    /// What it does at present.
    pub fn report(&self) -> Report {
        let (in_flight, queued) = self.keys.totals();
        Report {
            limit: self.limit.load(Ordering::Relaxed),
            in_flight,
            queued,
            refused_full: self.refused_full.load(Ordering::Relaxed),
            refused_late: self.refused_late.load(Ordering::Relaxed),
            left: self.left.load(Ordering::Relaxed),
            crowded: self.keys.crowded(),
        }
    }

    /// Requests in flight, for limits without keys.
    pub(super) fn in_flight(&self) -> u32 {
        in_flight(self.keys.find(0).1.load(Ordering::Relaxed))
    }

    #[inline]
    pub(super) fn enter(&self, key: u64, terms: &Terms, worker: u32, now: Now) -> Entered {
        match self.try_enter(key) {
            Ok(place) => Entered::In(place),
            Err(()) => self.queue(key, terms, worker, now),
        }
    }

    /// Enters when nobody waits and there is room. Each failed swap means that another worker's succeeded.
    #[inline]
    fn try_enter(&self, key: u64) -> Result<Place, ()> {
        let limit = self.limit.load(Ordering::Relaxed);
        loop {
            let (place, word, seen) = self.keys.find(key);
            if waiting(seen) > 0 || in_flight(seen) >= limit {
                return Err(());
            }
            if swap(word, seen, seen + IN_FLIGHT) {
                return Ok(place);
            }
        }
    }

    #[cold]
    fn queue(&self, key: u64, terms: &Terms, worker: u32, now: Now) -> Entered {
        let mut lot = self.lot();
        let limit = self.limit.load(Ordering::Relaxed);
        loop {
            let (place, word, seen) = self.keys.find(key);
            if waiting(seen) == 0 && in_flight(seen) < limit {
                if swap(word, seen, seen + IN_FLIGHT) {
                    return Entered::In(place);
                }
                continue;
            }
            if waiting(seen) >= terms.pending_max || lot.count >= PENDING_CEILING {
                self.refused_full.fetch_add(1, Ordering::Relaxed);
                return Entered::Full;
            }
            if swap(word, seen, seen + WAITING) {
                let (id, granted) = lot.push(place, worker, terms.wait_ms, now);
                return Entered::Queued { place, id, granted };
            }
        }
    }

    /// Ends a request: its place goes to one who waits, who must be told, or becomes free.
    #[inline]
    #[must_use]
    pub(super) fn leave(&self, place: Place) -> Option<Granted> {
        let word = self.keys.word(place);
        let mut seen = word.load(Ordering::SeqCst);
        while waiting(seen) == 0 {
            match word.compare_exchange_weak(seen, seen - IN_FLIGHT, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => return None,
                Err(newer) => seen = newer,
            }
        }
        self.hand_over(place)
    }

    #[cold]
    fn hand_over(&self, place: Place) -> Option<Granted> {
        let mut lot = self.lot();
        let limit = self.limit.load(Ordering::Relaxed);
        let word = self.keys.word(place);
        loop {
            let seen = word.load(Ordering::SeqCst);
            // After the limit was lowered, places are given up until it holds.
            let is_over = in_flight(seen) > limit;
            if waiting(seen) == 0 || is_over {
                if swap(word, seen, seen - IN_FLIGHT) {
                    return None;
                }
                continue;
            }
            if swap(word, seen, seen - WAITING) {
                return lot.pop(place);
            }
        }
    }

    /// Takes one who waits out of the queue. False when it has got a place already, which it must use or give back.
    pub(super) fn withdraw(&self, place: Place, id: u64, left: bool) -> bool {
        let mut lot = self.lot();
        if !lot.remove(place, id) {
            return false;
        }
        // Only the holder of the lock changes the count of those who wait; others change what is in flight.
        self.keys.word(place).fetch_sub(WAITING, Ordering::SeqCst);
        let count = if left { &self.left } else { &self.refused_late };
        count.fetch_add(1, Ordering::Relaxed);
        true
    }

    /// Sets the limit. Those who may enter now are to be told.
    pub(super) fn set_limit(&self, limit: u32) -> Vec<Granted> {
        let limit = limit.max(1);
        if self.limit.load(Ordering::Relaxed) == limit {
            return Vec::new();
        }
        let mut lot = self.lot();
        self.limit.store(limit, Ordering::SeqCst);
        self.fill(&mut lot, limit)
    }

    /// Learns from what a worker has seen; for limits without keys.
    pub(super) fn learn(&self, window: Window, bounds: Bounds, now: Now) -> Vec<Granted> {
        let mut lot = self.lot();
        lot.adaptive.learn(window, bounds, now);
        let limit = lot.adaptive.limit(bounds);
        self.limit.store(limit, Ordering::SeqCst);
        self.fill(&mut lot, limit)
    }

    /// Lets in who may enter.
    fn fill(&self, lot: &mut Lot, limit: u32) -> Vec<Granted> {
        let mut granted = Vec::new();
        let places: Vec<Place> = lot.queues.keys().copied().collect();
        for place in places {
            let word = self.keys.word(place);
            loop {
                let seen = word.load(Ordering::SeqCst);
                if waiting(seen) == 0 || in_flight(seen) >= limit {
                    break;
                }
                if swap(word, seen, seen - WAITING + IN_FLIGHT) {
                    granted.extend(lot.pop(place));
                }
            }
        }
        granted
    }

    /// A panic under the lock is not possible; if it were, the data would still be in order.
    fn lot(&self) -> MutexGuard<'_, Lot> {
        self.lot.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[inline]
fn swap(word: &AtomicU64, seen: u64, new: u64) -> bool {
    word.compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
}

impl Lot {
    fn push(&mut self, place: Place, worker: u32, wait_ms: u64, now: Now) -> (u64, Arc<AtomicBool>) {
        let (id, granted) = (self.next_id, Arc::new(AtomicBool::new(false)));
        self.next_id += 1;
        self.count += 1;
        let queue = self.queues.entry(place).or_default();
        let waited_ns = queue.items.front().map_or(0, |oldest| now.since_ns(oldest.since));
        queue.newest_first = waited_ns > wait_ms.saturating_mul(1_000_000) / 2;
        queue.items.push_back(Item { id, worker, since: now, granted: granted.clone() });
        (id, granted)
    }

    /// Gives the place to the one whose turn it is.
    fn pop(&mut self, place: Place) -> Option<Granted> {
        let queue = self.queues.get_mut(&place)?;
        let item = if queue.newest_first { queue.items.pop_back() } else { queue.items.pop_front() };
        self.forget_if_empty(place);
        let item = item?;
        self.count -= 1;
        item.granted.store(true, Ordering::Release);
        Some(Granted { worker: item.worker, id: item.id })
    }

    fn remove(&mut self, place: Place, id: u64) -> bool {
        let Some(queue) = self.queues.get_mut(&place) else { return false };
        // Ids grow, so the queue is sorted by them.
        let Ok(at) = queue.items.binary_search_by_key(&id, |item| item.id) else { return false };
        queue.items.remove(at);
        self.count -= 1;
        self.forget_if_empty(place);
        true
    }

    fn forget_if_empty(&mut self, place: Place) {
        if self.queues.get(&place).is_some_and(|queue| queue.items.is_empty()) {
            self.queues.remove(&place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERMS: Terms = Terms { requests_max: 2, pending_max: 3, wait_ms: 100, adaptive: None };

    fn place(entered: Entered) -> Place {
        match entered {
            Entered::In(place) => place,
            _ => panic!("not in"),
        }
    }

    fn queued(gate: &Gate, worker: u32, ms: u64) -> (Place, u64, Arc<AtomicBool>) {
        match gate.enter(0, &TERMS, worker, Now::from_ms(ms)) {
            Entered::Queued { place, id, granted } => (place, id, granted),
            _ => panic!("not queued"),
        }
    }

    /// In flight, queued.
    fn counts(gate: &Gate) -> (u64, u64) {
        (gate.report().in_flight, gate.report().queued)
    }

    #[test]
    fn the_table_of_states() {
        let gate = Gate::new(None, &TERMS);
        let a = place(gate.enter(0, &TERMS, 0, Now(0)));
        place(gate.enter(0, &TERMS, 0, Now(0)));
        let waiting: Vec<_> = (0..3).map(|worker| queued(&gate, worker, 0)).collect();
        assert!(matches!(gate.enter(0, &TERMS, 0, Now(0)), Entered::Full));
        assert_eq!((counts(&gate), gate.report().refused_full), ((2, 3), 1));
        // A place is handed over in order, without becoming free in between.
        assert_eq!(gate.leave(a), Some(Granted { worker: 0, id: waiting[0].1 }));
        assert!(waiting[0].2.load(Ordering::Acquire) && !waiting[1].2.load(Ordering::Acquire));
        assert_eq!(counts(&gate), (2, 2));
        // Who leaves the queue is skipped, and cannot be taken out twice.
        assert!(gate.withdraw(waiting[1].0, waiting[1].1, true));
        assert!(!gate.withdraw(waiting[1].0, waiting[1].1, true));
        assert!(!gate.withdraw(waiting[0].0, waiting[0].1, true), "it has a place");
        assert_eq!((counts(&gate), gate.report().left), ((2, 1), 1));
        assert_eq!(gate.leave(a), Some(Granted { worker: 2, id: waiting[2].1 }));
        assert_eq!((gate.leave(a), gate.leave(a), counts(&gate)), (None, None, (0, 0)));
    }

    #[test]
    fn a_standing_queue_is_served_from_its_end() {
        let gate = Gate::new(None, &TERMS);
        let a = place(gate.enter(0, &TERMS, 0, Now(0)));
        place(gate.enter(0, &TERMS, 0, Now(0)));
        let old = queued(&gate, 0, 0).1;
        let middle = queued(&gate, 0, 50).1;
        let new = queued(&gate, 0, 51).1;
        let order: Vec<_> = (0..3).filter_map(|_| gate.leave(a)).map(|granted| granted.id).collect();
        assert_eq!(order, [new, middle, old]);
        let first = queued(&gate, 0, 200).1;
        queued(&gate, 0, 201);
        assert_eq!(gate.leave(a).map(|granted| granted.id), Some(first), "in order again");
    }

    #[test]
    fn a_new_limit_holds_at_once() {
        let gate = Gate::new(None, &TERMS);
        let a = place(gate.enter(0, &TERMS, 0, Now(0)));
        place(gate.enter(0, &TERMS, 0, Now(0)));
        let ids: Vec<_> = (0..3).map(|_| queued(&gate, 1, 0).1).collect();
        let told: Vec<_> = gate.set_limit(4).iter().map(|granted| granted.id).collect();
        assert_eq!((told, counts(&gate)), (ids[..2].to_vec(), (4, 1)));
        assert!(gate.set_limit(1).is_empty());
        assert_eq!([gate.leave(a), gate.leave(a), gate.leave(a)], [None; 3]);
        assert_eq!(gate.leave(a).map(|granted| granted.id), Some(ids[2]), "the last place is handed over");
        assert_eq!(counts(&gate), (1, 0));
    }

    #[test]
    fn keys_have_limits_and_queues_of_their_own() {
        let gate = Gate::new(Some(64), &TERMS);
        let one = place(gate.enter(1, &TERMS, 0, Now(0)));
        place(gate.enter(1, &TERMS, 0, Now(0)));
        assert!(matches!(gate.enter(1, &TERMS, 0, Now(0)), Entered::Queued { .. }));
        let other = place(gate.enter(2, &TERMS, 0, Now(0)));
        assert_eq!(gate.leave(other), None, "the other key's request waits on");
        assert!(gate.leave(one).is_some());
    }

    #[test]
    fn threads_never_exceed_the_limit_and_lose_nobody() {
        let terms = Terms { requests_max: 3, pending_max: 8, ..TERMS };
        let (gate, flying) = (Gate::new(None, &terms), AtomicU32::new(0));
        std::thread::scope(|scope| {
            for worker in 0..4 {
                let (gate, flying) = (&gate, &flying);
                scope.spawn(move || (0..20_000).for_each(|turn| one_request(gate, flying, &terms, worker, turn)));
            }
        });
        assert_eq!(counts(&gate), (0, 0));
        assert!(gate.lot().queues.is_empty() && gate.lot().count == 0);
    }

    fn one_request(gate: &Gate, flying: &AtomicU32, terms: &Terms, worker: u32, turn: u64) {
        let place = match gate.enter(0, terms, worker, Now(turn)) {
            Entered::In(place) => place,
            Entered::Full => return,
            Entered::Queued { place, id, .. } if turn.is_multiple_of(5) && gate.withdraw(place, id, false) => return,
            Entered::Queued { place, granted, .. } => {
                while !granted.load(Ordering::Acquire) {
                    std::thread::yield_now();
                }
                place
            }
        };
        assert!(flying.fetch_add(1, Ordering::SeqCst) < terms.requests_max);
        flying.fetch_sub(1, Ordering::SeqCst);
        let _ = gate.leave(place);
    }
}
