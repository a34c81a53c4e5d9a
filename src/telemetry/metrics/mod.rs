//! Metrics: counters that one worker owns and adds to, snapshots of them that travel, and the page that Prometheus
//! reads.
//!
//! ```text
//! worker thread                              control thread
//! WorkerMetrics (Cell, no atomics) ─snapshot()─► Exposition::render ─► text 0.0.4
//! ```
//! The request path calls [`WorkerMetrics::finished`] once; the instruments of [`instruments::Instruments`] are added
//! to where their event happens. Labels come from configuration alone (C37, F77).

pub mod exposition;
pub mod instruments;
pub mod latency;
pub mod page;
pub mod process;
pub mod snapshot;
pub mod stats;
mod totals;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use self::instruments::{Instruments, Tally};
use self::latency::Latency;
use self::snapshot::WorkerSnapshot;
use self::stats::{CallStats, Counter, EndpointStats, Registry, RouteStats, ServiceStats};
use crate::error::{Failure, Reason};
use crate::http::exchange::{EndpointTag, Exchange};
use crate::http::grpc::{self, Call, Code};
use crate::http::message::{Method, Version};
use crate::time::Now;

/// Label value that gathers whatever is beyond a bound (F77).
pub const OTHER: &str = "other";
/// `path` of requests that no route matched (C37).
pub const UNMATCHED: &str = "unmatched";

/// What one worker counts. It belongs to that worker's thread; nothing here is shared.
pub struct WorkerMetrics {
    /// Events and states of the worker itself.
    pub own: Instruments,
    worker: u32,
    started: Now,
    /// How often all of it was copied.
    copies: Cell<u64>,
    protocols: Tally<3>,
    failures: Tally<{ Reason::ALL.len() }>,
    unserved: Latency,
    routes: Registry<(String, String), RouteStats>,
    services: Registry<String, ServiceStats>,
    limiters: Registry<String, Counter>,
    calls: Registry<String, CallStats>,
    unmatched: Rc<RouteStats>,
}

/// The counters of one service, with those of its endpoints.
///
/// The counters behind it outlive the plan when the next one asks for the same names.
#[derive(Clone)]
pub struct ServiceHandle {
    stats: Rc<ServiceStats>,
    endpoints: Rc<RefCell<Vec<Slot>>>,
}

/// The place of an endpoint's counters, given to another one when nobody has its tag any more.
struct Slot {
    stats: Rc<EndpointStats>,
    tag: Weak<EndpointTag>,
}

impl WorkerMetrics {
    /// Empty metrics of worker number `worker`, which started at `now`.
    pub fn new(worker: u32, now: Now) -> Self {
        Self {
            own: Instruments::default(),
            worker,
            started: now,
            copies: Cell::new(0),
            protocols: Tally::default(),
            failures: Tally::default(),
            unserved: Latency::default(),
            routes: Registry::new(RouteStats::new(OTHER)),
            services: Registry::new(ServiceStats::new(OTHER, stats::OVERFLOW_ID)),
            limiters: Registry::new(Counter::new(OTHER)),
            calls: Registry::new(CallStats::new(OTHER, OTHER)),
            unmatched: Rc::new(RouteStats::new(UNMATCHED)),
        }
    }

    /// The counters of a route, the same ones for the same name and pattern over any number of reloads. `pattern` is
    /// the `path` label. Past `stats::ENTRIES_MAX` living routes it is the shared entry `other`.
    pub fn route(&mut self, name: &str, pattern: &str) -> Rc<RouteStats> {
        self.routes.entry((name.to_owned(), pattern.to_owned()), |_| RouteStats::new(pattern))
    }

    /// Whether these are the counters that routes share for which there was no room.
    pub fn is_shared(&self, stats: &Rc<RouteStats>) -> bool {
        self.routes.is_overflow(stats)
    }

    /// The counters for requests that no route matched.
    pub fn unmatched(&self) -> Rc<RouteStats> {
        self.unmatched.clone()
    }

    /// The counters of a service and its endpoints, the same ones for the same names over any number of reloads.
    /// `endpoints` are the labels of the first slots.
    pub fn service<'a>(&mut self, name: &str, endpoints: impl IntoIterator<Item = &'a str>) -> ServiceHandle {
        let stats = self.services.entry(name.to_owned(), |id| ServiceStats::new(name, id));
        let slot = |label| Slot { stats: stats.endpoint(label), tag: Weak::new() };
        let endpoints = Rc::new(RefCell::new(endpoints.into_iter().map(slot).collect()));
        ServiceHandle { stats, endpoints }
    }

    /// The counter of refusals by one kind of limiter (R215); the label is a word of the program, such as
    /// `token_bucket`.
    pub fn limiter(&mut self, limiter_type: &str) -> Rc<Counter> {
        self.limiters.entry(limiter_type.to_owned(), |_| Counter::new(limiter_type))
    }

    /// Counts a finished gRPC call. Only a method that an endpoint has answered as its own gets labels of its own:
    /// names that a client made up are `other` (F77).
    pub fn called(&mut self, call: &Call, exchange: &Exchange) {
        let unknown = call.status.is_none_or(|status| status == Code::Unimplemented as u32);
        let names = grpc::service_and_method(exchange.request.path()).filter(|_| exchange.upstream_status == 200);
        let stats = match names.filter(|_| !unknown) {
            Some((service, method)) => {
                let key = format!("{service}/{method}");
                self.calls.entry(key, |_| CallStats::new(service, method))
            }
            None => self.calls.overflow(),
        };
        stats.add(call.status);
    }

    /// Counts one finished request: to be called exactly once, whatever became of it.
    #[inline]
    pub fn finished(&self, route: &RouteStats, service: Option<&ServiceHandle>, exchange: &Exchange, now: Now) {
        let ns = now.since_ns(exchange.started);
        let service_id = service.map_or(0, |service| service.stats.id());
        route.add(exchange.request.method, status_of(exchange), service_id, ns);
        self.protocols.add(protocol_index(exchange.request.version));
        let failures = match service {
            Some(service) => {
                service.add(exchange, ns);
                &service.stats.failures
            }
            None => {
                self.unserved.record(ns);
                &self.failures
            }
        };
        if let Some(failure) = exchange.failure {
            failures.add(failure.reason as usize);
        }
    }

    /// Counts a connection without requests that failed before it led anywhere.
    pub fn stream_failed(&self, service: Option<&ServiceHandle>, failure: Failure) {
        let failures = service.map_or(&self.failures, |service| &service.stats.failures);
        failures.add(failure.reason as usize);
    }

    /// Copies what was counted so that it can go to another thread. Costs about a microsecond for each service and
    /// route that was used; call it at a scrape, not for each request.
    pub fn snapshot(&self) -> WorkerSnapshot {
        self.copies.set(self.copies.get() + 1);
        WorkerSnapshot::take(self)
    }
}

impl ServiceHandle {
    #[inline]
    fn add(&self, exchange: &Exchange, ns: u64) {
        self.stats.latency.record(ns);
        if exchange.upstream_status == 0 {
            return;
        }
        self.stats.upstream_status.add(exchange.upstream_status);
        if let Some(tag) = &exchange.endpoint
            && let Some(slot) = self.endpoints.borrow().get(tag.slot as usize)
        {
            slot.stats.durations.add(exchange.upstream_ns);
        }
    }

    /// The service's counters, for what outlives this handle.
    pub fn stats(&self) -> Rc<ServiceStats> {
        self.stats.clone()
    }

    /// Tags for these endpoints, each with a slot of its own. Looks once at all slots for free ones.
    pub fn tags<'a>(&self, labels: impl IntoIterator<Item = &'a str>) -> Vec<Rc<EndpointTag>> {
        let mut slots = self.endpoints.borrow_mut();
        let mut from = 0;
        let mut tag = |label: &str| {
            let free = slots[from..].iter().position(|slot| slot.tag.strong_count() == 0);
            let at = free.map_or(slots.len(), |at| from + at);
            let tag = Rc::new(EndpointTag { authority: label.into(), slot: at as u32 });
            let slot = Slot { stats: self.stats.endpoint(label), tag: Rc::downgrade(&tag) };
            match slots.get_mut(at) {
                Some(place) => *place = slot,
                None => slots.push(slot),
            }
            from = at + 1;
            tag
        };
        labels.into_iter().map(&mut tag).collect()
    }
}

/// The status that the client was answered with, or would have been (499 for one that left).
#[inline]
fn status_of(exchange: &Exchange) -> u16 {
    match (exchange.response.status, exchange.failure) {
        (0, Some(failure)) => failure.reason.status(),
        (status, _) => status,
    }
}

const VERSIONS: [Version; 3] = [Version::Http10, Version::Http11, Version::Http2];

#[inline]
fn protocol_index(version: Version) -> usize {
    match version {
        Version::Http10 => 0,
        Version::Http11 => 1,
        Version::Http2 => 2,
    }
}

/// Methods in the order of their numbers in [`stats`].
const METHODS: [Method; 10] = {
    let [a, b, c, d, e, f, g, h, i] = Method::NAMED;
    [a, b, c, d, e, f, g, h, i, Method::Extension]
};

#[cfg(test)]
mod tests;
