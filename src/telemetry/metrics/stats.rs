//! Counters of routes, services, endpoints and limiters: cheap to add to, and kept by name over reloads.

use std::cell::{Cell, RefCell};
use std::hash::Hash;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;

use super::OTHER;
use super::instruments::{Mirrored, Tally};
use super::latency::Latency;
use crate::error::Reason;
use crate::http::message::Method;

/// Entries of one kind that a worker keeps: routes, services, endpoints of one service. More share the entry `other`.
pub const ENTRIES_MAX: usize = 2_000;
/// Combinations of method, status and service counted for one route; more share one row.
pub const ROWS_PER_ROUTE_MAX: usize = 256;
/// Different statuses counted for one service; more share one row.
pub const STATUSES_PER_SERVICE_MAX: usize = 64;
/// Number of the overflow entry. 0 stands for no entry at all.
pub const OVERFLOW_ID: u32 = u32::MAX;
/// Upper bounds of the duration histograms, in microseconds (0.5 ms to 10 s).
pub const BUCKETS_US: [i32; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000,
    10_000_000,
];
/// How many bounds are below each power of two.
const BELOW_POWER: [usize; 32] = {
    let mut below = [0; 32];
    let mut log = 0;
    while log < below.len() {
        let mut at = 0;
        while at < BUCKETS_US.len() && (BUCKETS_US[at] as i64) < 1 << log {
            at += 1;
        }
        below[log] = at;
        log += 1;
    }
    below
};

/// What an entry that nobody holds any more does before it goes: it gives its counts to the overflow entry.
pub trait Absorb {
    /// Adds the counts of `other`.
    fn absorb(&self, other: &Self);
}

/// Entries by identity. At most [`ENTRIES_MAX`]; when full, those without a holder are folded into the overflow entry.
pub struct Registry<K, T> {
    entries: AHashMap<K, Rc<T>>,
    order: Vec<Rc<T>>,
    overflow: Rc<T>,
    next_id: u32,
}

impl<K: Eq + Hash, T: Absorb> Registry<K, T> {
    /// A registry that only has the overflow entry.
    pub fn new(overflow: T) -> Self {
        Self { entries: AHashMap::new(), order: Vec::new(), overflow: Rc::new(overflow), next_id: 1 }
    }

    /// The entry of this identity. `make` gets a number that no living entry of this registry has.
    pub fn entry(&mut self, key: K, make: impl FnOnce(u32) -> T) -> Rc<T> {
        if let Some(entry) = self.entries.get(&key) {
            return entry.clone();
        }
        if self.entries.len() >= ENTRIES_MAX {
            self.fold_unused();
        }
        if self.entries.len() >= ENTRIES_MAX {
            return self.overflow.clone();
        }
        let entry = Rc::new(make(self.next_id));
        self.next_id = self.next_id.wrapping_add(1).max(1);
        self.order.push(entry.clone());
        self.entries.insert(key, entry.clone());
        entry
    }

    /// The entry of all that have none of their own.
    pub fn overflow(&self) -> Rc<T> {
        self.overflow.clone()
    }

    /// Whether it is the entry of all that have none of their own.
    pub fn is_overflow(&self, entry: &Rc<T>) -> bool {
        Rc::ptr_eq(entry, &self.overflow)
    }

    /// The entry that `number` gives this number. Numbers rise in the order in which entries are made.
    pub fn numbered(&self, id: u32, number: impl Fn(&T) -> u32) -> Option<&T> {
        let at = self.order.binary_search_by_key(&id, |entry| number(entry)).ok()?;
        Some(&self.order[at])
    }

    /// All entries in the order they were made, the overflow entry last.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.order.iter().chain(std::iter::once(&self.overflow)).map(Rc::as_ref)
    }

    fn fold_unused(&mut self) {
        const OWN: usize = 2; // `entries` and `order`
        let overflow = self.overflow.clone();
        self.entries.retain(|_, entry| Rc::strong_count(entry) > OWN);
        self.order.retain(|entry| {
            let used = Rc::strong_count(entry) > 1;
            if !used {
                overflow.absorb(entry);
            }
            used
        });
    }
}

/// A named counter.
pub struct Counter {
    label: Arc<str>,
    count: Cell<u64>,
}

impl Counter {
    /// A counter at zero.
    pub fn new(label: &str) -> Self {
        Self { label: label.into(), count: Cell::new(0) }
    }

    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.count.set(self.count.get() + 1);
    }

    /// Label and value.
    pub fn value(&self) -> (Arc<str>, u64) {
        (self.label.clone(), self.count.get())
    }
}

impl Absorb for Counter {
    fn absorb(&self, other: &Self) {
        self.count.set(self.count.get() + other.count.get());
    }
}

/// Codes of gRPC calls that are told apart: those that gRPC defines, and one for all others and none at all.
pub const GRPC_CODES: usize = crate::http::grpc::Code::LAST as usize + 2;

/// Counters of the calls of one gRPC method.
pub struct CallStats {
    service: Arc<str>,
    method: Arc<str>,
    codes: Tally<GRPC_CODES>,
}

impl CallStats {
    /// Counters at zero.
    pub fn new(service: &str, method: &str) -> Self {
        Self { service: service.into(), method: method.into(), codes: Tally::default() }
    }

    /// Counts a call that ended with this code.
    pub fn add(&self, code: Option<u32>) {
        self.codes.add(code.map_or(GRPC_CODES - 1, |code| (code as usize).min(GRPC_CODES - 1)));
    }

    /// Service, method, and the count of each code.
    pub fn value(&self) -> (Arc<str>, Arc<str>, [u64; GRPC_CODES]) {
        (self.service.clone(), self.method.clone(), self.codes.values())
    }
}

impl Absorb for CallStats {
    fn absorb(&self, other: &Self) {
        self.codes.absorb(&other.codes);
    }
}

/// Counters of one route.
pub struct RouteStats {
    path: Arc<str>,
    rows: RefCell<RouteRows>,
}

#[derive(Default)]
struct RouteRows {
    last: usize,
    requests: Vec<RequestRow>,
    durations: Vec<DurationRow>,
}

/// A count of requests: `key` packs method, status and service, `duration` is the index of its histogram.
#[derive(Clone, Copy)]
struct RequestRow {
    key: u64,
    duration: u32,
    count: u64,
}

struct DurationRow {
    key: u64,
    durations: Durations,
}

const STATUS_SHIFT: u32 = 32;
const METHOD_SHIFT: u32 = 48;
const STATUS_MASK: u64 = 0xffff << STATUS_SHIFT;

const fn pack(method: Method, status: u16, service: u32) -> u64 {
    (method as u64) << METHOD_SHIFT | (status as u64) << STATUS_SHIFT | service as u64
}

/// One count of a route: method (its number), status (0 is `other`), number of the service, requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestCount {
    /// Number of the method.
    pub method: u8,
    /// Status; 0 for those beyond the bound.
    pub status: u16,
    /// Number of the service in its registry; 0 without one.
    pub service: u32,
    /// Requests.
    pub count: u64,
}

impl RouteStats {
    /// Counters at zero; nothing is allocated before the first request.
    pub fn new(path: &str) -> Self {
        Self { path: path.into(), rows: RefCell::default() }
    }

    /// The route's pattern.
    pub fn path(&self) -> Arc<str> {
        self.path.clone()
    }

    /// Whether anything was counted.
    pub fn is_used(&self) -> bool {
        !self.rows.borrow().requests.is_empty()
    }

    /// Counts one request. The last row used is looked at first: a route answers most requests alike.
    #[inline]
    pub fn add(&self, method: Method, status: u16, service: u32, ns: u64) {
        let key = pack(method, status, service);
        let rows = &mut *self.rows.borrow_mut();
        let at = match rows.requests.get(rows.last) {
            Some(row) if row.key == key => rows.last,
            _ => rows.find(key),
        };
        rows.last = at;
        let row = &mut rows.requests[at];
        row.count += 1;
        rows.durations[row.duration as usize].durations.add(ns);
    }

    /// The counts, in the order of first use.
    pub fn requests(&self) -> Vec<RequestCount> {
        let unpack = |row: &RequestRow| RequestCount {
            method: (row.key >> METHOD_SHIFT) as u8,
            status: (row.key >> STATUS_SHIFT) as u16,
            service: row.key as u32,
            count: row.count,
        };
        self.rows.borrow().requests.iter().map(unpack).collect()
    }

    /// The durations by method and service, in the order of first use.
    pub fn durations(&self) -> Vec<(u8, u32, Buckets)> {
        let unpack = |row: &DurationRow| ((row.key >> METHOD_SHIFT) as u8, row.key as u32, row.durations.get());
        self.rows.borrow().durations.iter().map(unpack).collect()
    }
}

impl RouteRows {
    #[cold]
    #[inline(never)]
    fn find(&mut self, key: u64) -> usize {
        if let Some(at) = self.requests.iter().position(|row| row.key == key) {
            return at;
        }
        if self.requests.len() >= ROWS_PER_ROUTE_MAX {
            return self.overflow();
        }
        self.push(key)
    }

    fn push(&mut self, key: u64) -> usize {
        let duration = self.duration(key & !STATUS_MASK);
        grow(&mut self.requests);
        self.requests.push(RequestRow { key, duration, count: 0 });
        self.requests.len() - 1
    }

    fn overflow(&mut self) -> usize {
        let key = pack(Method::Extension, 0, 0);
        match self.requests.iter().position(|row| row.key == key) {
            Some(at) => at,
            None => self.push(key),
        }
    }

    fn duration(&mut self, key: u64) -> u32 {
        let at = match self.durations.iter().position(|row| row.key == key) {
            Some(at) => at,
            None => {
                grow(&mut self.durations);
                self.durations.push(DurationRow { key, durations: Durations::default() });
                self.durations.len() - 1
            }
        };
        at as u32
    }
}

/// Makes room for one more row. Most routes have one, for which a vector would make room for four.
fn grow<T>(rows: &mut Vec<T>) {
    if rows.len() < 4 {
        rows.reserve_exact(1);
    }
}

impl Absorb for RouteStats {
    fn absorb(&self, other: &Self) {
        let rows = &mut *self.rows.borrow_mut();
        let other = other.rows.borrow();
        for row in &other.requests {
            let at = rows.find(row.key);
            rows.requests[at].count += row.count;
        }
        for row in &other.durations {
            let at = rows.duration(row.key);
            rows.durations[at as usize].durations.absorb(&row.durations);
        }
    }
}

/// Counters of one service.
pub struct ServiceStats {
    name: Arc<str>,
    id: u32,
    /// Latency of whole requests, for quantiles.
    pub latency: Latency,
    /// Statuses that endpoints answered with.
    pub upstream_status: Statuses,
    /// Failures by reason.
    pub failures: Tally<{ Reason::ALL.len() }>,
    /// What became of requests that were to be mirrored here.
    pub mirrored: Tally<{ Mirrored::WORDS.len() }>,
    endpoints: RefCell<Registry<String, EndpointStats>>,
}

impl ServiceStats {
    /// Counters at zero.
    pub fn new(name: &str, id: u32) -> Self {
        Self {
            name: name.into(),
            id,
            latency: Latency::default(),
            upstream_status: Statuses::default(),
            failures: Tally::default(),
            mirrored: Tally::default(),
            endpoints: RefCell::new(Registry::new(EndpointStats::new(OTHER))),
        }
    }

    /// The service's name.
    pub fn name(&self) -> Arc<str> {
        self.name.clone()
    }

    /// The number that stands for the service in the rows of routes.
    #[inline]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The counters of one endpoint.
    pub fn endpoint(&self, label: &str) -> Rc<EndpointStats> {
        self.endpoints.borrow_mut().entry(label.to_owned(), |_| EndpointStats::new(label))
    }

    /// Whether anything was counted.
    pub fn is_used(&self) -> bool {
        let counts = self.failures.values().into_iter().chain(self.mirrored.values());
        self.latency.is_used() || counts.into_iter().any(|count| count > 0)
    }

    /// Backend durations of the endpoints that answered.
    pub fn endpoints(&self) -> Vec<(Arc<str>, Buckets)> {
        if !self.latency.is_used() {
            // No request has ended, so that none was answered.
            return Vec::new();
        }
        let endpoints = self.endpoints.borrow();
        let used = endpoints.iter().filter(|endpoint| endpoint.durations.is_used());
        used.map(|endpoint| (endpoint.label.clone(), endpoint.durations.get())).collect()
    }
}

impl Absorb for ServiceStats {
    fn absorb(&self, other: &Self) {
        self.latency.absorb(&other.latency);
        self.failures.absorb(&other.failures);
        self.mirrored.absorb(&other.mirrored);
        for (status, count) in other.upstream_status.values() {
            self.upstream_status.add_many(status, count);
        }
        for endpoint in other.endpoints.borrow().iter() {
            self.endpoint(OTHER).absorb(endpoint);
        }
    }
}

/// Counters of one endpoint.
pub struct EndpointStats {
    label: Arc<str>,
    /// Time from sending the request to the response head.
    pub durations: Durations,
}

impl EndpointStats {
    /// Counters at zero.
    pub fn new(label: &str) -> Self {
        Self { label: label.into(), durations: Durations::default() }
    }
}

impl Absorb for EndpointStats {
    fn absorb(&self, other: &Self) {
        self.durations.absorb(&other.durations);
    }
}

/// Counts by status, the last one used first.
#[derive(Default)]
pub struct Statuses(RefCell<(usize, Vec<(u16, u64)>)>);

impl Statuses {
    /// One more.
    #[inline]
    pub fn add(&self, status: u16) {
        self.add_many(status, 1);
    }

    #[inline]
    fn add_many(&self, status: u16, more: u64) {
        let (last, rows) = &mut *self.0.borrow_mut();
        if rows.get(*last).is_none_or(|row| row.0 != status) {
            *last = find_status(rows, status);
        }
        rows[*last].1 += more;
    }

    /// Statuses and counts in the order of first use; status 0 stands for those beyond the bound.
    pub fn values(&self) -> Vec<(u16, u64)> {
        self.0.borrow().1.clone()
    }
}

#[cold]
#[inline(never)]
fn find_status(rows: &mut Vec<(u16, u64)>, status: u16) -> usize {
    if let Some(at) = rows.iter().position(|row| row.0 == status) {
        return at;
    }
    if rows.len() >= STATUSES_PER_SERVICE_MAX {
        return match rows.iter().position(|row| row.0 == 0) {
            Some(at) => at,
            None => push_status(rows, 0),
        };
    }
    push_status(rows, status)
}

fn push_status(rows: &mut Vec<(u16, u64)>, status: u16) -> usize {
    rows.push((status, 0));
    rows.len() - 1
}

/// A duration histogram with the fixed bounds [`BUCKETS_US`].
#[derive(Default)]
pub struct Durations {
    counts: [Cell<u64>; BUCKETS_US.len() + 1],
    sum_ns: Cell<u64>,
}

/// The values of a [`Durations`]: counts per bucket (not cumulative), the last one without an upper bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets {
    /// Count of each bucket.
    pub counts: [u64; BUCKETS_US.len() + 1],
    /// Sum of all durations in nanoseconds.
    pub sum_ns: u64,
}

impl Buckets {
    /// Number of durations.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Adds the values of another one.
    pub fn absorb(&mut self, other: &Buckets) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
    }
}

impl Durations {
    /// Counts one duration. A duration just at a bound is within it.
    #[inline]
    pub fn add(&self, ns: u64) {
        let us = i32::try_from(ns.div_ceil(1_000)).unwrap_or(i32::MAX);
        // Where the bounds below its power of two end; at most two of the following are below it too.
        let first = BELOW_POWER[us.unsigned_abs().checked_ilog2().map_or(0, |log| log as usize)];
        let bucket = BUCKETS_US[first..].iter().take_while(|&&bound| us > bound).count() + first;
        let cell = &self.counts[bucket % (BUCKETS_US.len() + 1)];
        cell.set(cell.get() + 1);
        self.sum_ns.set(self.sum_ns.get().wrapping_add(ns));
    }

    /// Whether anything was counted.
    pub fn is_used(&self) -> bool {
        self.counts.iter().any(|count| count.get() > 0)
    }

    /// The values.
    pub fn get(&self) -> Buckets {
        Buckets { counts: std::array::from_fn(|at| self.counts[at].get()), sum_ns: self.sum_ns.get() }
    }

    fn absorb(&self, other: &Durations) {
        for (cell, more) in self.counts.iter().zip(&other.counts) {
            cell.set(cell.get() + more.get());
        }
        self.sum_ns.set(self.sum_ns.get().wrapping_add(other.sum_ns.get()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_at_a_bound_is_within_it() {
        let durations = Durations::default();
        durations.add(500_000);
        durations.add(500_001);
        durations.add(u64::MAX / 2);
        let buckets = durations.get();
        assert_eq!((buckets.counts[0], buckets.counts[1], buckets.counts[14]), (1, 1, 1));
        assert_eq!(buckets.total(), 3);
    }

    #[test]
    fn rows_are_bounded_and_nothing_is_lost() {
        let route = RouteStats::new("/a");
        for status in 100..1_000 {
            route.add(Method::Get, status, 1, 1);
        }
        let rows = route.requests();
        assert_eq!(rows.len(), ROWS_PER_ROUTE_MAX + 1);
        assert_eq!(rows.iter().map(|row| row.count).sum::<u64>(), 900);
        let other = RequestCount { method: 9, status: 0, service: 0, count: 900 - ROWS_PER_ROUTE_MAX as u64 };
        assert_eq!(rows.last(), Some(&other));
    }

    #[test]
    fn statuses_are_bounded_and_nothing_is_lost() {
        let statuses = Statuses::default();
        (100..300).for_each(|status| statuses.add(status));
        assert_eq!(statuses.values().len(), STATUSES_PER_SERVICE_MAX + 1);
        assert_eq!(statuses.values().iter().map(|row| row.1).sum::<u64>(), 200);
    }

    #[test]
    fn identity_keeps_counts_and_unused_entries_fold_when_full() {
        let mut registry = Registry::new(Counter::new(OTHER));
        let kept = registry.entry("kept".to_owned(), |_| Counter::new("kept"));
        kept.inc();
        for n in 0..ENTRIES_MAX - 1 {
            registry.entry(format!("gone {n}"), |_| Counter::new("gone")).inc();
        }
        assert_eq!(registry.entry("gone 7".to_owned(), |_| Counter::new("never")).value().1, 1);
        let fresh = registry.entry("fresh".to_owned(), |_| Counter::new("fresh"));
        assert_eq!(&*fresh.value().0, "fresh");
        assert_eq!(registry.entry("kept".to_owned(), |_| Counter::new("never")).value().1, 1);
        let total: u64 = registry.iter().map(|counter| counter.value().1).sum();
        assert_eq!(total, ENTRIES_MAX as u64);
    }

    #[test]
    fn a_full_registry_shares_the_overflow_entry() {
        let mut registry = Registry::new(Counter::new(OTHER));
        let held: Vec<_> = (0..ENTRIES_MAX + 5).map(|n| registry.entry(n, |_| Counter::new("x"))).collect();
        assert_eq!(held.iter().filter(|counter| &*counter.value().0 == OTHER).count(), 5);
    }
}
