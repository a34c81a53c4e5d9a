//! What a worker sends when it is asked: a copy of its counters that owns nothing of the worker.

use std::sync::Arc;

use super::instruments::{Deadline, Eviction, GoAway, HandshakeFailure, INSTRUMENTS, Mirrored, Refusal};
use super::latency::Latencies;
use super::stats::{Buckets, GRPC_CODES, OVERFLOW_ID, RouteStats, ServiceStats};
use super::{METHODS, OTHER, WorkerMetrics};
use crate::error::Reason;

/// A copy of one worker's counters.
#[derive(Clone, Debug)]
pub struct WorkerSnapshot {
    /// Number of the worker.
    pub worker: u32,
    /// When the worker started, in nanoseconds of the process' clock: a new value means that its counters began anew.
    pub epoch: u64,
    /// Counts the copies of this worker since then: of two, the higher one is the newer.
    pub copy: u64,
    /// Values in the order of [`INSTRUMENTS`].
    pub own: [i64; INSTRUMENTS.len()],
    /// Deadlines that fired, in the order of [`Deadline::WORDS`].
    pub deadlines: [u64; Deadline::WORDS.len()],
    /// Connections refused, in the order of [`Refusal::WORDS`].
    pub refusals: [u64; Refusal::WORDS.len()],
    /// Connections closed to make room, in the order of [`Eviction::WORDS`].
    pub evictions: [u64; Eviction::WORDS.len()],
    /// TLS handshakes that failed, in the order of [`HandshakeFailure::WORDS`].
    pub handshake_failures: [u64; HandshakeFailure::WORDS.len()],
    /// HTTP/2 connections ended for what their clients did, in the order of [`GoAway::WORDS`].
    pub goaways: [u64; GoAway::WORDS.len()],
    /// Requests by protocol: HTTP/1.0, HTTP/1.1, HTTP/2.
    pub protocols: [u64; 3],
    /// Failures without a service, by reason.
    pub failures: [u64; Reason::ALL.len()],
    /// Latency of requests without a service.
    pub unserved: Latencies,
    /// Refusals by kind of limiter.
    pub limiters: Vec<(Arc<str>, u64)>,
    /// gRPC calls by service, method and code.
    pub calls: Vec<(Arc<str>, Arc<str>, [u64; GRPC_CODES])>,
    /// Routes that answered.
    pub routes: Vec<RouteSnapshot>,
    /// Services that were asked.
    pub services: Vec<ServiceSnapshot>,
}

/// Counters of one route.
#[derive(Clone, Debug)]
pub struct RouteSnapshot {
    /// The route's pattern.
    pub path: Arc<str>,
    /// Requests by method, status (0 is `other`) and service.
    pub requests: Vec<(&'static str, u16, Arc<str>, u64)>,
    /// Durations by method and service.
    pub durations: Vec<(&'static str, Arc<str>, Buckets)>,
}

/// Counters of one service.
#[derive(Clone, Debug)]
pub struct ServiceSnapshot {
    /// The service's name.
    pub name: Arc<str>,
    /// Latency of whole requests.
    pub latency: Latencies,
    /// Statuses that endpoints answered with.
    pub upstream_status: Vec<(u16, u64)>,
    /// Failures by reason.
    pub failures: [u64; Reason::ALL.len()],
    /// What became of requests that were to be mirrored here.
    pub mirrored: [u64; Mirrored::WORDS.len()],
    /// Backend durations of the endpoints that answered.
    pub endpoints: Vec<(Arc<str>, Buckets)>,
}

impl WorkerSnapshot {
    pub(super) fn take(metrics: &WorkerMetrics) -> Self {
        let names = ServiceNames { metrics, none: "".into(), other: OTHER.into() };
        let routes = std::iter::once(&*metrics.unmatched).chain(metrics.routes.iter());
        let routes = routes.filter(|route| route.is_used());
        let services = metrics.services.iter().filter(|service| service.is_used());
        Self {
            worker: metrics.worker,
            epoch: metrics.started.0,
            copy: metrics.copies.get(),
            own: metrics.own.values(),
            deadlines: metrics.own.deadlines.values(),
            refusals: metrics.own.refusals.values(),
            evictions: metrics.own.evictions.values(),
            handshake_failures: metrics.own.handshake_failures.values(),
            goaways: metrics.own.goaways.values(),
            protocols: metrics.protocols.values(),
            failures: metrics.failures.values(),
            unserved: metrics.unserved.get(),
            limiters: metrics.limiters.iter().map(|limiter| limiter.value()).collect(),
            calls: metrics.calls.iter().map(|call| call.value()).collect(),
            routes: routes.map(|route| RouteSnapshot::take(route, &names)).collect(),
            services: services.map(ServiceSnapshot::take).collect(),
        }
    }
}

impl RouteSnapshot {
    fn take(route: &RouteStats, names: &ServiceNames) -> Self {
        let requests = route.requests().into_iter();
        let durations = route.durations().into_iter();
        Self {
            path: route.path(),
            requests: requests.map(|r| (method_text(r.method), r.status, names.get(r.service), r.count)).collect(),
            durations: durations.map(|(m, service, buckets)| (method_text(m), names.get(service), buckets)).collect(),
        }
    }
}

impl ServiceSnapshot {
    fn take(service: &ServiceStats) -> Self {
        Self {
            name: service.name(),
            latency: service.latency.get(),
            upstream_status: service.upstream_status.values(),
            failures: service.failures.values(),
            mirrored: service.mirrored.values(),
            endpoints: service.endpoints(),
        }
    }
}

/// Names of services by number.
struct ServiceNames<'a> {
    metrics: &'a WorkerMetrics,
    none: Arc<str>,
    other: Arc<str>,
}

impl ServiceNames<'_> {
    /// A service that was folded away is `other`.
    fn get(&self, id: u32) -> Arc<str> {
        match id {
            0 => self.none.clone(),
            OVERFLOW_ID => self.other.clone(),
            id => {
                let known = self.metrics.services.numbered(id, ServiceStats::id);
                known.map_or_else(|| self.other.clone(), ServiceStats::name)
            }
        }
    }
}

fn method_text(number: u8) -> &'static str {
    METHODS.get(number as usize).map_or("OTHER", |method| method.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn snapshots_travel_and_method_numbers_match() {
        fn travels<T: Send + 'static>() {}
        travels::<WorkerSnapshot>();
        for (number, method) in METHODS.iter().enumerate() {
            assert_eq!(*method as usize, number);
        }
        assert_eq!(method_text(200), "OTHER");
    }
}
