//! What services and their circuit breakers tell: for metrics and the admin API. All workers share it, so none is
//! asked.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::discovery;
use crate::limits::EVENTS_SHOWN_MAX;
use crate::snapshot::{Endpoint, Service, Snapshot};
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::{BreakerFacts, ServiceFacts};
use crate::time::{self, Now};
use crate::upstream::breaker::{BreakerSpec, State};
use crate::upstream::health::Out;
use crate::upstream::selection::Selection;
use crate::upstream::state::Event;

/// States of endpoints, as metrics and the admin API name them.
const STATES: [&str; 6] = ["healthy", "unresolved", "check_failed", "ejected", "draining", "maintenance"];

/// The state of an endpoint in a word.
pub(super) fn state_of(service: &Service, endpoint: &Endpoint, now: Now) -> &'static str {
    let facts = service.state.facts(&endpoint.authority).unwrap_or_default();
    match facts.out(now) {
        Some(Out::Administration(administration)) => administration.word(),
        Some(Out::CheckFailed) => "check_failed",
        _ if endpoint.address.is_none() => "unresolved",
        Some(Out::Ejected(_)) => "ejected",
        None => "healthy",
    }
}

/// Endpoints of each service by state, and whether most of them are out.
pub(super) fn service_facts(snapshot: &Snapshot, now: Now) -> Vec<ServiceFacts> {
    let whole = snapshot.services.iter().filter(|service| service.is_whole());
    whole.map(|service| of_service(service, now)).collect()
}

fn of_service(service: &Service, now: Now) -> ServiceFacts {
    let set = service.endpoints.get();
    let states = set.endpoints.iter().map(|endpoint| state_of(service, endpoint, now));
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    states.for_each(|state| *counts.entry(state).or_default() += 1);
    let members: Vec<_> = set
        .endpoints
        .iter()
        .map(|endpoint| endpoint.member(service.state.facts(&endpoint.authority).unwrap_or_default()))
        .collect();
    let rules = &service.resilience;
    let selection = Selection::of(&members, &rules.selection, &rules.returning, now);
    ServiceFacts {
        name: service.label.clone(),
        endpoints: STATES.iter().map(|state| (*state, counts.get(state).copied().unwrap_or_default())).collect(),
        panic: selection.panic,
        ejections: service.state.ejections(),
    }
}

/// The last changes of a service's endpoints.
pub(super) fn events(service: &Service) -> Value {
    let (now, unix_ms) = (Now::read(), time::unix_ms());
    let event = |event: &Event| {
        json!({
            "unix_ms": unix_ms.saturating_sub(now.since_ns(event.at) / 1_000_000),
            "endpoint": &*event.endpoint,
            "what": event.what,
            "why": event.why,
        })
    };
    Value::Array(service.state.events().iter().map(event).collect())
}

/// The last changes of all endpoints and of where they come from, oldest first.
pub(super) fn recent(snapshot: &Snapshot, lookups: Vec<discovery::state::Event>) -> Value {
    let (now, unix_ms) = (Now::read(), time::unix_ms());
    let when = |at: Now| unix_ms.saturating_sub(now.since_ns(at) / 1_000_000);
    let of_lookup = |e: discovery::state::Event| {
        let (subject, what, why) = (e.subject, e.what, e.why);
        json!({ "unix_ms": when(e.at), "subject": subject, "what": what, "why": why })
    };
    let mut all: Vec<Value> = lookups.into_iter().map(of_lookup).collect();
    for service in snapshot.services.iter().filter(|service| service.is_whole()) {
        let of_endpoint = |e: Event| {
            let (subject, endpoint) = (&service.label, &*e.endpoint);
            json!({ "unix_ms": when(e.at), "subject": subject, "endpoint": endpoint, "what": e.what, "why": e.why })
        };
        all.extend(service.state.events().into_iter().map(of_endpoint));
    }
    all.sort_by_key(|event| event["unix_ms"].as_u64());
    let surplus = all.len().saturating_sub(EVENTS_SHOWN_MAX);
    all.drain(..surplus);
    Value::Array(all)
}

/// All breakers: of services, and of routes that have their own.
fn all(snapshot: &Snapshot) -> impl Iterator<Item = &BreakerSpec> {
    let of_services = snapshot.services.iter().filter(|service| service.is_whole());
    let of_services = of_services.filter_map(|service| service.breaker.as_ref());
    let of_routes = snapshot.routes.iter().filter_map(|route| route.breaker.as_ref()?.as_deref());
    of_services.chain(of_routes)
}

fn json_of(breaker: &BreakerSpec, now: Now) -> Value {
    let (failures, left_ms, trials, successes) = match breaker.shared.state() {
        State::Closed { failures } => (failures, 0, 0, 0),
        State::Open { until_ms } => (breaker.rules.failure_threshold, until_ms.saturating_sub(now.ms()), 0, 0),
        State::HalfOpen { trials, successes, .. } => (breaker.rules.failure_threshold, 0, trials, successes),
    };
    json!({
        "service": breaker.name,
        "state": breaker.shared.state().word(),
        "failures": failures,
        "failure_threshold": breaker.rules.failure_threshold,
        "timeout_ms": breaker.rules.open_ms,
        "half_open_requests": breaker.rules.half_open_requests,
        "half_open_in_ms": left_ms,
        "trials": trials,
        "successes": successes,
        "opened": breaker.shared.opened(),
    })
}

/// `GET /circuit-breakers`.
pub(super) fn breakers(snapshot: &Snapshot) -> Value {
    let now = Now::read();
    Value::Array(all(snapshot).map(|breaker| json_of(breaker, now)).collect())
}

/// Closes the breaker of that name.
pub(super) fn reset(snapshot: &Snapshot, name: &str) -> Option<Value> {
    let breaker = all(snapshot).find(|breaker| breaker.name == name)?;
    breaker.shared.reset();
    log::info("circuit breaker reset", &[("service", &name)]);
    Some(json_of(breaker, Now::read()))
}

/// The same for metrics.
pub(super) fn breaker_facts(snapshot: &Snapshot) -> Vec<BreakerFacts> {
    let facts = |breaker: &BreakerSpec| BreakerFacts {
        name: breaker.name.clone(),
        state: breaker.shared.state().word(),
        opened: breaker.shared.opened(),
    };
    all(snapshot).map(facts).collect()
}
