//! What operators see of endpoints and do to them (admin API).

use std::collections::BTreeMap;

use ahash::AHashMap;
use serde_json::{Value, json};

use super::admin::backend::{EndpointOrder, EndpointOutcome};
use super::discovery::Discovery;
use super::orders::{Change, Kept, Orders};
use super::survival;
use crate::snapshot::{Endpoint, Service, Snapshot};
use crate::telemetry::log;
use crate::time::Now;
use crate::upstream::endpoint::EndpointReport;
use crate::upstream::health::{Administration, Facts, Out, Verdict};
use crate::upstream::state::Event;
use crate::worker::mailbox::Report;

/// An order that holds.
pub(super) struct Done {
    /// Whether anything is other than before.
    pub changed: bool,
    /// Services whose tables are others now.
    pub reweighed: Vec<u32>,
    /// What the endpoint goes by.
    address: String,
}

/// Makes an order hold for a service and its variants.
///
/// # Errors
/// Why it cannot.
pub(super) fn order(snapshot: &Snapshot, orders: &Orders, order: &EndpointOrder) -> Result<Done, EndpointOutcome> {
    let (label, address) = (&*order.service, &*order.address);
    let of_service = || snapshot.services.iter().zip(0_u32..).filter(|(service, _)| service.label == label);
    let Some((whole, _)) = of_service().find(|(service, _)| service.is_whole()) else {
        return Err(EndpointOutcome::NoService);
    };
    let set = whole.endpoints.get();
    let is_it = |endpoint: &&Endpoint| endpoint.authority == address;
    let is_there = |endpoint: &&Endpoint| endpoint.address.is_some_and(|known| known.to_string() == address);
    let endpoint = set.endpoints.iter().find(is_it).or_else(|| set.endpoints.iter().find(is_there));
    // What is said of one that has gone can be taken back, and nothing else.
    let takes_back = matches!(order.change, Change::Administer(Administration::Enabled) | Change::Weigh(None));
    let is_known =
        endpoint.is_some() || (takes_back && orders.of_service(label).iter().any(|(name, _)| name == address));
    if !is_known {
        return Err(EndpointOutcome::NoEndpoint);
    }
    let address = endpoint.map_or(address, |endpoint| &endpoint.authority).to_owned();
    let changed = orders.change(label, &address, endpoint, order.change, order.why.clone());
    let changed = changed.map_err(|_| EndpointOutcome::Full)?;
    let reweighed = match changed {
        true => of_service().filter(|(service, _)| orders.apply_to(service)).map(|(_, id)| id).collect(),
        false => Vec::new(),
    };
    if changed {
        let what = match order.change {
            Change::Administer(administration) => administration.word().to_owned(),
            Change::Weigh(Some(weight)) => format!("weight {weight}"),
            Change::Weigh(None) => "weight as configured".to_owned(),
        };
        let fields: [(&str, &dyn std::fmt::Display); 4] =
            [("service", &label), ("endpoint", &address), ("what", &what), ("why", &order.why)];
        log::info("an operator changes an endpoint", &fields);
    }
    Ok(Done { changed, reweighed, address })
}

impl Done {
    /// The answer.
    pub fn told(self, service: &str, shown: Vec<Value>, persisted: Result<bool, String>) -> EndpointOutcome {
        let is_it = |endpoint: &Value| endpoint["address"] == self.address.as_str();
        let absent = || json!({ "address": self.address, "state": "absent" });
        EndpointOutcome::Done(json!({
            "service": service,
            "changed": self.changed,
            "persisted": persisted.as_ref().is_ok_and(|kept| *kept),
            "persist_error": persisted.err(),
            "endpoint": shown.into_iter().find(is_it).unwrap_or_else(absent),
        }))
    }
}

/// What workers have told of endpoints, by service.
pub(super) struct Told<'a>(Vec<AHashMap<&'a str, &'a [EndpointReport]>>);

impl<'a> Told<'a> {
    pub fn of(reports: &'a [Option<Report>]) -> Self {
        let of = |report: &'a Report| report.services.iter().map(|(name, told)| (&**name, &**told)).collect();
        Self(reports.iter().flatten().map(of).collect())
    }
}

/// A service's endpoints with the sums over all workers.
pub(super) fn endpoints(service: &Service, told: &Told<'_>, orders: &Orders, discovery: &Discovery) -> Vec<Value> {
    let all: Vec<_> = told.0.iter().filter_map(|of_worker| of_worker.get(&*service.name).copied()).collect();
    let (orders, finders) = (orders.of_service(&service.label), discovery.finders(service));
    let (now, events) = (Now::read(), service.state.events());
    let one = |(at, endpoint): (usize, &Endpoint)| {
        // A worker may not have taken the present set up yet; most often it has.
        let is_it = |report: &&EndpointReport| report.authority == endpoint.authority;
        let same: Vec<_> =
            all.iter().filter_map(|all| all.get(at).filter(is_it).or_else(|| all.iter().find(is_it))).collect();
        let sum = |field: fn(&EndpointReport) -> u64| -> u64 { same.iter().map(|report| field(report)).sum() };
        let facts = service.state.facts(&endpoint.authority).unwrap_or_default();
        let ewma_us = same.iter().map(|report| report.ewma_us).max().filter(|us| *us > 0);
        json!({
            "address": endpoint.authority,
            "resolved": endpoint.address,
            "source": finders.get(&endpoint.authority).map_or("configuration", |finder| finder),
            "weight": facts.weight.unwrap_or(endpoint.weight),
            "weight_configured": endpoint.weight,
            "priority": endpoint.priority,
            "zone": endpoint.zone,
            "metadata": endpoint.metadata.iter().cloned().collect::<BTreeMap<_, _>>(),
            "state": survival::state_of(endpoint, &facts, now),
            "why": why(endpoint, &facts, &events, now),
            "check": (facts.verdict != Verdict::Unknown).then(|| facts.verdict.word()),
            "slow_start_percent": facts.ramp_percent(now, &service.resilience.returning),
            "order": orders.of(endpoint).map(order_json),
            "active_connections": sum(|e| e.active),
            "idle_connections": sum(|e| e.idle),
            "opened": sum(|e| e.opened),
            "reused": sum(|e| e.reused),
            "ewma_ms": ewma_us.map(|us| us as f64 / 1e3),
        })
    };
    service.endpoints.get().endpoints.iter().enumerate().map(one).collect()
}

/// Orders about endpoints that a service does not have now.
pub(super) fn absent(service: &Service, orders: &Orders) -> Value {
    let (set, orders) = (service.endpoints.get(), orders.of_service(&service.label));
    let met: Vec<&Kept> = set.endpoints.iter().filter_map(|endpoint| orders.of(endpoint)).collect();
    let unmet = orders.iter().filter(|(_, kept)| !met.iter().any(|known| std::ptr::eq(*known, *kept)));
    let told = |(address, kept): (&str, &Kept)| {
        let mut order = order_json(kept);
        order["address"] = json!(address);
        order
    };
    Value::Array(unmet.map(told).collect())
}

fn order_json(kept: &Kept) -> Value {
    json!({
        "state": kept.order.administration.word(),
        "weight": kept.order.weight,
        "why": kept.why,
        "since_unix_ms": kept.since_unix_ms,
    })
}

/// Why an endpoint is in its state; None where nothing speaks against it.
fn why(endpoint: &Endpoint, facts: &Facts, events: &[Event], now: Now) -> Option<String> {
    let last = |what: &str| {
        let event = events.iter().rev().find(|event| *event.endpoint == *endpoint.authority && event.what == what);
        event.map(|event| event.why.clone()).filter(|why| !why.is_empty())
    };
    let with = |general: &str, more: Option<String>| match more {
        Some(more) => format!("{general}: {more}"),
        None => general.to_owned(),
    };
    match facts.out(now) {
        Some(Out::Administration(administration)) => Some(with("an operator said so", last(administration.word()))),
        Some(Out::CheckFailed) => Some(with("its checks fail", last("down"))),
        _ if endpoint.address.is_none() => Some("its name has no address".to_owned()),
        Some(Out::Ejected(until)) => {
            let left_ms = until.since_ns(now) / 1_000_000;
            Some(with(&format!("requests to it failed; {left_ms} ms are left"), last("ejected")))
        }
        None if facts.weight == Some(0) => Some(with("an operator gave it no weight", last("weight"))),
        None => None,
    }
}
