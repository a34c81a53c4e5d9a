//! What all workers know of a service: the facts about its endpoints, over reloads and over changes of its endpoints.
//!
//! A request reads one number, the epoch, which is written only when a fact changes; it then sees at once whether what
//! its worker has computed from the facts still holds. The facts themselves lie behind a lock that is taken for a
//! change and for computing anew, never for a plain request.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ahash::AHashMap;

use super::health::{Administration, Facts, Out, Returning, Verdict};
use super::passive;
use super::record::{Pace, Record};
use super::rules::OutlierRules;
use crate::limits::EVENTS_PER_SERVICE_MAX;
use crate::time::Now;

/// A service as all workers know it. Variants of a service (by route) share it.
#[derive(Debug)]
#[repr(align(128))]
pub struct ServiceState {
    /// Counts changes; a line of its own, read for each request.
    epoch: AtomicU64,
    /// Ejections so far.
    ejections: AtomicU64,
    /// Paces trials of endpoints that cannot be reached, while others can: each may cost a retry.
    trials: Pace,
    /// Paces the looks for outliers.
    looks: Pace,
    /// Mirrored requests under way with it.
    copies: AtomicU32,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    facts: AHashMap<Arc<str>, Facts>,
    /// Of the endpoints that a worker has.
    records: AHashMap<Arc<str>, Arc<Record>>,
    /// Of endpoints that are there and of those that may come back.
    orders: AHashMap<Arc<str>, Order>,
    events: VecDeque<Event>,
}

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Whether it gets requests.
    pub administration: Administration,
    /// In place of its weight; None leaves that.
    pub weight: Option<u32>,
}

/// A change of an endpoint's state, for operators.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When.
    pub at: Now,
    /// The endpoint as written.
    pub endpoint: Arc<str>,
    /// What happened: `ejected`, `up`, `down`, `joined`, `left`, `enabled`, `draining`, `maintenance`, `weight`.
    pub what: &'static str,
    /// Why.
    pub why: String,
}

/// What became of the wish to eject an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ejection {
    /// It is left alone for so many milliseconds.
    Done(u64),
    /// It is out already, or not of this service.
    Already,
    /// As much of the pool is ejected as may be.
    PoolSpared,
}

impl ServiceState {
    /// The state of a service with these endpoints, all of which were always there.
    pub fn new<'a>(endpoints: impl IntoIterator<Item = &'a str>) -> Arc<Self> {
        let facts = endpoints.into_iter().map(|endpoint| (endpoint.into(), Facts::default())).collect();
        let ejections = AtomicU64::new(0);
        let (trials, looks, known) = (Pace::default(), Pace::default(), Known { facts, ..Known::default() });
        let (copies, known) = (AtomicU32::new(0), Mutex::new(known));
        Arc::new(Self { epoch: AtomicU64::new(1), ejections, trials, looks, copies, known })
    }

    /// Changes whenever a fact does. Relaxed: facts are read behind a lock, which orders them; seeing a change one
    /// request later is no harm.
    #[inline]
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Makes known which endpoints there are: new ones get a slow start, others are forgotten. Harmless when called
    /// again.
    pub fn set_endpoints<'a>(&self, endpoints: impl IntoIterator<Item = &'a str> + Clone, now: Now) {
        let mut known = self.known();
        let (mut count, names) = (0, endpoints.clone());
        let are_known = names.into_iter().inspect(|_| count += 1).all(|name| known.facts.contains_key(name));
        if are_known && count == known.facts.len() {
            // Each worker says the same of each service at each reload. No name is there twice.
            return;
        }
        let wanted: AHashMap<&str, ()> = endpoints.into_iter().map(|endpoint| (endpoint, ())).collect();
        let gone: Vec<_> = known.facts.keys().filter(|name| !wanted.contains_key(&***name)).cloned().collect();
        let fresh: Vec<Arc<str>> =
            wanted.keys().filter(|name| !known.facts.contains_key(**name)).map(|name| Arc::from(*name)).collect();
        if gone.is_empty() && fresh.is_empty() {
            return;
        }
        // Workers may hold on to one for a while: an endpoint that comes back meanwhile is the same.
        known.records.retain(|name, record| wanted.contains_key(&**name) || Arc::strong_count(record) > 1);
        for name in gone {
            known.facts.remove(&name);
            known.note(now, &name, "left", String::new());
        }
        // Where there was none before, there is nobody to take the load meanwhile.
        let first = known.facts.is_empty();
        for name in fresh {
            let Order { administration, weight } = known.orders.get(&name).copied().unwrap_or_default();
            let facts = if first { Facts::default() } else { Facts::joined(now) };
            known.facts.insert(name.clone(), Facts { administration, weight, ..facts });
            known.note(now, &name, "joined", String::new());
        }
        self.changed();
    }

    /// Computes from the facts: `each` gets the facts of the named endpoints in their order. Returns the epoch that
    /// they belong to.
    pub fn read<'a>(&self, endpoints: impl IntoIterator<Item = &'a str>, mut each: impl FnMut(&Facts)) -> u64 {
        let known = self.known();
        for endpoint in endpoints {
            each(known.facts.get(endpoint).unwrap_or(&Facts::default()));
        }
        // Under the lock: changes happen under it too.
        self.epoch()
    }

    /// The facts about one endpoint; None when it is not of this service.
    pub fn facts(&self, endpoint: &str) -> Option<Facts> {
        self.known().facts.get(endpoint).copied()
    }

    /// Ejects an endpoint, unless at least `percent_max` of all would be out by ejection then (at least one may always
    /// be where there are two).
    pub fn eject(&self, endpoint: &str, now: Now, rules: &Returning, percent_max: u32, why: String) -> Ejection {
        let mut known = self.known();
        let out = known.facts.values().filter(|facts| matches!(facts.out(now), Some(Out::Ejected(_)))).count();
        let room = known.facts.len() * percent_max.min(100) as usize / 100;
        let Some(facts) = known.facts.get_mut(endpoint).filter(|facts| now >= facts.ejected_until) else {
            return Ejection::Already;
        };
        if out >= room {
            return Ejection::PoolSpared;
        }
        let Some(ms) = facts.eject(now, rules) else { return Ejection::Already };
        known.note(now, endpoint, "ejected", format!("{why}; for {} s", ms / 1_000));
        self.ejections.fetch_add(1, Ordering::Relaxed);
        self.changed();
        Ejection::Done(ms)
    }

    /// Whether there is nobody who may be asked.
    pub fn is_deserted(&self, now: Now) -> bool {
        self.known().facts.values().all(|facts| facts.out(now).is_some())
    }

    /// What all workers have seen of an endpoint: the same for all that ask.
    pub fn record(&self, endpoint: &str) -> Arc<Record> {
        let mut known = self.known();
        if let Some(record) = known.records.get(endpoint) {
            return record.clone();
        }
        let record = Arc::<Record>::default();
        known.records.insert(endpoint.into(), record.clone());
        record
    }

    /// Whether a request may try an endpoint that could not be reached, although another one can be.
    pub fn take_trial(&self, now: Now) -> bool {
        self.trials.take(now)
    }

    /// Endpoints that all workers together have seen to have far fewer successes than the others. One of them judges,
    /// at the end of each window; for the others there are none.
    pub fn outliers(&self, rules: &OutlierRules, now: Now) -> Vec<Arc<str>> {
        if !self.looks.take_for(rules.window_ms, now) {
            return Vec::new();
        }
        let known = self.known();
        let (names, windows): (Vec<_>, Vec<_>) =
            known.records.iter().map(|(name, record)| (name.clone(), record.take_window())).unzip();
        passive::outliers(&windows, rules).into_iter().map(|at| names[at].clone()).collect()
    }

    /// Takes a place among at most so many mirrored requests of the whole process; false where there is none.
    pub fn take_copy(&self, most: u32) -> bool {
        let next = |copies| (copies < most).then_some(copies + 1);
        self.copies.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok()
    }

    /// Gives such a place back.
    pub fn give_copy_back(&self) {
        let before = self.copies.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0);
    }

    /// Ends an endpoint's ejection, since it answers. Returns whether it was ejected.
    pub fn revive(&self, endpoint: &str, now: Now) -> bool {
        self.change(now, endpoint, "up", "it answers again".to_owned(), |facts| facts.revive(now))
    }

    /// Takes the verdict of a check. Returns whether it changed anything.
    pub fn judge(&self, endpoint: &str, verdict: Verdict, now: Now, why: String) -> bool {
        self.change(now, endpoint, verdict.word(), why, |facts| facts.judge(verdict, now))
    }

    /// Takes an operator's wish. Returns whether it changed anything.
    pub fn administer(&self, endpoint: &str, wish: Administration, now: Now, why: String) -> bool {
        self.change(now, endpoint, wish.word(), why, |facts| facts.administer(wish, now))
    }

    /// Another weight than the configured one; None goes back to that. Returns whether it changed anything.
    pub fn set_weight(&self, endpoint: &str, weight: Option<u32>, now: Now, why: String) -> bool {
        self.change(now, endpoint, "weight", why, |facts| std::mem::replace(&mut facts.weight, weight) != weight)
    }

    /// What operators want, by endpoint: it holds for those that join later. Those that are there are told by
    /// [`Self::administer`] and [`Self::set_weight`].
    pub fn set_orders(&self, orders: impl IntoIterator<Item = (Arc<str>, Order)>) {
        self.known().orders = orders.into_iter().collect();
    }

    /// Ejections so far.
    pub fn ejections(&self) -> u64 {
        self.ejections.load(Ordering::Relaxed)
    }

    /// The last changes, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.known().events.iter().cloned().collect()
    }

    fn change(
        &self,
        now: Now,
        endpoint: &str,
        what: &'static str,
        why: String,
        with: impl FnOnce(&mut Facts) -> bool,
    ) -> bool {
        let mut known = self.known();
        let changed = known.facts.get_mut(endpoint).is_some_and(with);
        if changed {
            known.note(now, endpoint, what, why);
            self.changed();
        }
        changed
    }

    fn changed(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    fn note(&mut self, now: Now, endpoint: &str, what: &'static str, why: String) {
        if self.events.len() >= EVENTS_PER_SERVICE_MAX {
            self.events.pop_front();
        }
        self.events.push_back(Event { at: now, endpoint: endpoint.into(), what, why });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::passive::Window;

    const RULES: Returning = Returning { base_ms: 10_000, max_ms: 300_000, slow_start_ms: 30_000 };

    fn state(count: usize) -> (Arc<ServiceState>, Vec<String>) {
        let names: Vec<_> = (0..count).map(|at| format!("10.0.0.{at}:80")).collect();
        (ServiceState::new(names.iter().map(String::as_str)), names)
    }

    fn eject(state: &ServiceState, name: &str, ms: u64) -> Ejection {
        state.eject(name, Now::from_ms(ms), &RULES, 50, "test".to_owned())
    }

    #[test]
    fn half_of_the_pool_at_most_is_ejected_and_a_single_endpoint_never() {
        for (count, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (9, 4)] {
            let (state, names) = state(count);
            let done = names.iter().filter(|name| matches!(eject(&state, name, 1_000), Ejection::Done(_))).count();
            assert_eq!(done, most, "of {count}");
        }
        let (state, names) = state(2);
        assert_eq!(eject(&state, &names[0], 1_000), Ejection::Done(10_000));
        assert_eq!(eject(&state, &names[0], 1_001), Ejection::Already);
        assert_eq!(eject(&state, &names[1], 1_001), Ejection::PoolSpared);
        assert_eq!(eject(&state, &names[1], 11_000), Ejection::Done(10_000), "the other one is back");
        assert_eq!(eject(&state, "10.9.9.9:80", 0), Ejection::Already);
    }

    #[test]
    fn the_epoch_tells_of_changes_and_of_nothing_else() {
        let (state, names) = state(2);
        let mut epoch = state.epoch();
        let mut changed = || std::mem::replace(&mut epoch, state.epoch()) != state.epoch();
        eject(&state, &names[0], 1_000);
        assert!(changed());
        eject(&state, &names[1], 1_000);
        assert!(!changed(), "the pool was spared");
        assert!(state.judge(&names[1], Verdict::Down, Now(5), String::new()) && changed());
        assert!(!state.judge(&names[1], Verdict::Down, Now(6), String::new()) && !changed());
        assert!(state.administer(&names[1], Administration::Draining, Now(7), String::new()) && changed());
        assert!(state.set_weight(&names[1], Some(3), Now(8), String::new()) && changed());
        let words: Vec<_> = state.events().iter().map(|event| event.what).collect();
        assert_eq!(words, ["ejected", "down", "draining", "weight"]);
    }

    #[test]
    fn outliers_are_judged_by_what_all_workers_have_told_and_once_in_a_window() {
        let (state, names) = state(5);
        let rules = OutlierRules { window_ms: 10_000, requests_min: 90, endpoints_min: 5, deviations_milli: 1_900 };
        let records: Vec<_> = names.iter().map(|name| state.record(name)).collect();
        assert!(state.outliers(&rules, Now::from_ms(1)).is_empty(), "the first window begins");
        // Of two workers neither has seen enough.
        for _ in 0..2 {
            for (at, record) in records.iter().enumerate() {
                record.tell(Window { well: if at == 3 { 30 } else { 50 }, all: 50 });
            }
        }
        assert!(state.outliers(&rules, Now::from_ms(9_999)).is_empty(), "not yet");
        let found = state.outliers(&rules, Now::from_ms(10_001));
        assert_eq!(found.iter().map(|name| &**name).collect::<Vec<_>>(), [&names[3]]);
        assert!(state.outliers(&rules, Now::from_ms(10_002)).is_empty(), "one of them judges");
        assert!(state.outliers(&rules, Now::from_ms(20_001)).is_empty(), "each window begins anew");
    }

    #[test]
    fn a_service_is_deserted_when_nobody_may_be_asked() {
        let (state, names) = state(2);
        assert!(!state.is_deserted(Now(0)));
        names.iter().for_each(|name| _ = state.judge(name, Verdict::Down, Now(1), String::new()));
        assert!(state.is_deserted(Now(2)));
        state.judge(&names[0], Verdict::Up, Now(3), String::new());
        assert!(!state.is_deserted(Now(4)));
    }

    #[test]
    fn endpoints_that_come_start_slowly_and_those_that_go_are_forgotten() {
        let (state, names) = state(2);
        let now = Now::from_ms(9_000);
        state.set_endpoints([&names[1][..], "new:80"], now);
        assert_eq!((state.facts(&names[0]), state.facts("new:80")), (None, Some(Facts::joined(now))));
        let epoch = state.epoch();
        state.set_endpoints([&names[1][..], "new:80"], Now::from_ms(9_999));
        assert_eq!(state.epoch(), epoch, "known already");
        let empty = ServiceState::new([]);
        empty.set_endpoints(["first:80"], now);
        assert_eq!(empty.facts("first:80"), Some(Facts::default()), "nobody else could take the load");
    }

    #[test]
    fn what_an_operator_wants_outlives_an_endpoints_absence() {
        let (state, names) = state(2);
        let order = Order { administration: Administration::Draining, weight: Some(7) };
        state.set_orders([(names[1].as_str().into(), order)]);
        assert_eq!(state.facts(&names[1]), Some(Facts::default()), "it is told separately");
        state.set_endpoints([&names[0][..]], Now(1));
        state.set_endpoints(names.iter().map(String::as_str), Now(2));
        let facts = state.facts(&names[1]).expect("it is back");
        assert_eq!((facts.administration, facts.weight), (Administration::Draining, Some(7)));
        state.set_orders([]);
        state.set_endpoints([&names[0][..]], Now(3));
        state.set_endpoints(names.iter().map(String::as_str), Now(4));
        assert_eq!(state.facts(&names[1]), Some(Facts::joined(Now(4))));
    }

    #[test]
    fn the_log_of_events_is_bounded() {
        let (state, names) = state(1);
        for at in 0..EVENTS_PER_SERVICE_MAX as u32 + 10 {
            state.set_weight(&names[0], Some(at), Now(1), String::new());
        }
        assert_eq!(state.events().len(), EVENTS_PER_SERVICE_MAX);
    }
}
