//! What limits on requests in flight tell: for metrics and the admin API. All workers share them, so none is asked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::concurrency::Report;
use crate::error::Reason;
use crate::policy::Policy;
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::metrics::exposition::LimitFacts;

/// All limits of a configuration, by the names of services and the places of policies.
pub(super) fn facts(snapshot: &Snapshot) -> Vec<LimitFacts> {
    let mut all = BTreeMap::new();
    for service in &snapshot.services {
        if let Some(limits) = &service.limits {
            all.insert(format!("service:{}", service.label), limits.gate.report());
        }
    }
    for slot in snapshot.routes.iter().flat_map(|route| route.chain.slots()) {
        if let Policy::ConcurrencyLimit(limit) = slot.policy() {
            all.insert(slot.id().to_owned(), limit.gate().report());
        }
    }
    all.into_iter().map(|(name, report)| fact(name, &report)).collect()
}

fn fact(name: String, report: &Report) -> LimitFacts {
    let refused = refused(report).to_vec();
    let (limit, in_flight, queued) = (u64::from(report.limit), report.in_flight, report.queued);
    LimitFacts { name, limit, in_flight, queued, refused }
}

fn refused(report: &Report) -> [(&'static str, u64); 3] {
    [
        (Reason::ConcurrencyLimited.word(), report.refused_full),
        (Reason::QueueTimeout.word(), report.refused_late),
        (Reason::ClientClosed.word(), report.left),
    ]
}

/// The limit of a service; null without one.
pub(super) fn of_service(service: &Service) -> Value {
    let Some(limits) = &service.limits else { return Value::Null };
    let report = limits.gate.report();
    json!({
        "requests_max": report.limit,
        "pending_max": limits.terms.pending_max,
        "queue_timeout_ms": limits.terms.wait_ms,
        "adaptive": limits.terms.adaptive.is_some(),
        "in_flight": report.in_flight,
        "queued": report.queued,
        "refused": refused(&report).into_iter().collect::<BTreeMap<_, _>>(),
    })
}
