//! The sum over workers, by label, with a bound on the series of each family (F77).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::OTHER;
use super::instruments::Mirrored;
use super::latency::Latencies;
use super::snapshot::{RouteSnapshot, ServiceSnapshot, WorkerSnapshot};
use super::stats::Buckets;
use crate::error::Reason;

/// Series of one family; more are summed up in one whose labels say `other` (F77). A histogram counts as one series
/// here.
pub const SERIES_MAX: usize = 2_000;

/// Label values of one series.
pub(super) type Labels = Vec<Arc<str>>;

/// The families that are summed over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    Requests,
    Durations,
    Backend,
    Errors,
    UpstreamStatus,
    Limiters,
    Calls,
    Latency,
    Mirrored,
}

const FAMILIES: usize = 9;

/// Which series have a name of their own. A series that was let in stays in, so that it and `other` never go down.
#[derive(Debug, Default)]
pub(super) struct Admission([BTreeSet<Labels>; FAMILIES]);

impl Admission {
    fn admit(&mut self, family: Family, labels: Labels) -> Labels {
        let set = &mut self.0[family as usize];
        if set.contains(&labels) {
            return labels;
        }
        if set.len() >= SERIES_MAX - 1 {
            return vec![OTHER.into(); labels.len()];
        }
        set.insert(labels.clone());
        labels
    }
}

/// Sums by label, in the order of the labels.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// method, path, status, service
    pub requests: BTreeMap<Labels, u64>,
    /// method, path, service
    pub durations: BTreeMap<Labels, Buckets>,
    /// service, endpoint
    pub backend: BTreeMap<Labels, Buckets>,
    /// reason, service
    pub errors: BTreeMap<Labels, u64>,
    /// service, status
    pub upstream_status: BTreeMap<Labels, u64>,
    /// kind of limiter
    pub limiters: BTreeMap<Labels, u64>,
    /// gRPC service, gRPC method, code
    pub calls: BTreeMap<Labels, u64>,
    /// service, result
    pub mirrored: BTreeMap<Labels, u64>,
    /// service
    pub latency: BTreeMap<Labels, Latencies>,
    /// All requests together.
    pub latency_all: Latencies,
    /// Requests that were answered with 5xx.
    pub server_errors: u64,
}

impl Totals {
    pub fn add(&mut self, admission: &mut Admission, worker: &WorkerSnapshot) {
        worker.routes.iter().for_each(|route| self.add_route(admission, route));
        worker.services.iter().for_each(|service| self.add_service(admission, service));
        self.add_failures(admission, &"".into(), &worker.failures);
        self.latency_all.add(&worker.unserved);
        for (label, count) in worker.limiters.iter().filter(|(_, count)| *count > 0) {
            *self.limiters.entry(admission.admit(Family::Limiters, vec![label.clone()])).or_default() += count;
        }
        for (service, method, codes) in &worker.calls {
            self.add_calls(admission, service, method, codes);
        }
    }

    /// Requests counted.
    pub fn request_count(&self) -> u64 {
        self.requests.values().sum()
    }

    /// Sum of all durations, in nanoseconds.
    pub fn duration_ns(&self) -> u64 {
        self.durations.values().fold(0, |sum, buckets| sum.wrapping_add(buckets.sum_ns))
    }

    fn add_route(&mut self, admission: &mut Admission, route: &RouteSnapshot) {
        for (method, status, service, count) in &route.requests {
            let labels = vec![(*method).into(), route.path.clone(), status_label(*status), service.clone()];
            *self.requests.entry(admission.admit(Family::Requests, labels)).or_default() += count;
            self.server_errors += if *status >= 500 { *count } else { 0 };
        }
        for (method, service, buckets) in &route.durations {
            let labels = vec![(*method).into(), route.path.clone(), service.clone()];
            self.durations.entry(admission.admit(Family::Durations, labels)).or_default().absorb(buckets);
        }
    }

    fn add_service(&mut self, admission: &mut Admission, service: &ServiceSnapshot) {
        for (endpoint, buckets) in &service.endpoints {
            let labels = vec![service.name.clone(), endpoint.clone()];
            self.backend.entry(admission.admit(Family::Backend, labels)).or_default().absorb(buckets);
        }
        for (status, count) in &service.upstream_status {
            let labels = vec![service.name.clone(), status_label(*status)];
            *self.upstream_status.entry(admission.admit(Family::UpstreamStatus, labels)).or_default() += count;
        }
        self.add_failures(admission, &service.name, &service.failures);
        for (result, count) in Mirrored::WORDS.iter().zip(service.mirrored).filter(|(_, count)| *count > 0) {
            let labels = vec![service.name.clone(), (*result).into()];
            *self.mirrored.entry(admission.admit(Family::Mirrored, labels)).or_default() += count;
        }
        if !service.latency.is_empty() {
            self.latency_all.add(&service.latency);
            let labels = admission.admit(Family::Latency, vec![service.name.clone()]);
            self.latency.entry(labels).or_default().add(&service.latency);
        }
    }

    fn add_calls(&mut self, admission: &mut Admission, service: &Arc<str>, method: &Arc<str>, codes: &[u64]) {
        for (code, count) in codes.iter().enumerate().filter(|(_, count)| **count > 0) {
            let code = if code + 1 < codes.len() { code.to_string().into() } else { OTHER.into() };
            let labels = vec![service.clone(), method.clone(), code];
            *self.calls.entry(admission.admit(Family::Calls, labels)).or_default() += count;
        }
    }

    fn add_failures(&mut self, admission: &mut Admission, service: &Arc<str>, counts: &[u64; Reason::ALL.len()]) {
        for (reason, count) in Reason::ALL.iter().zip(counts).filter(|(_, count)| **count > 0) {
            let labels = vec![reason.word().into(), service.clone()];
            *self.errors.entry(admission.admit(Family::Errors, labels)).or_default() += count;
        }
    }
}

fn status_label(status: u16) -> Arc<str> {
    match status {
        0 => OTHER.into(),
        status => status.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn series_are_bounded_and_stay_admitted() {
        let mut admission = Admission::default();
        let label = |n: usize| vec![Arc::<str>::from(n.to_string())];
        for n in 0..SERIES_MAX - 1 {
            assert_eq!(admission.admit(Family::Limiters, label(n)), label(n));
        }
        assert_eq!(admission.admit(Family::Limiters, label(9_999)), [OTHER.into()]);
        assert_eq!(admission.admit(Family::Limiters, label(5)), label(5));
        assert_eq!(admission.admit(Family::Errors, label(9_999)), label(9_999));
    }
}
