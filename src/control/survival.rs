//! What services and their circuit breakers tell: for metrics and the admin API. All workers share it, so none is
//! asked.

use std::sync::{Arc, Weak};

use serde_json::{Value, json};

use super::discovery;
use crate::limits::EVENTS_SHOWN_MAX;
use crate::snapshot::{Endpoint, EndpointSet, Service, Snapshot};
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::{BreakerFacts, ServiceFacts};
use crate::time::{self, Now};
use crate::upstream::breaker::{BreakerSpec, State};
use crate::upstream::health::{Facts, Out};
use crate::upstream::selection::Selection;
use crate::upstream::state::Event;

/// States of endpoints, as metrics and the admin API name them.
const STATES: [&str; 6] = ["healthy", "unresolved", "check_failed", "ejected", "draining", "maintenance"];

/// The state of an endpoint in a word.
pub(super) fn state_of(endpoint: &Endpoint, facts: &Facts, now: Now) -> &'static str {
    match facts.out(now) {
        Some(Out::Administration(administration)) => administration.word(),
        Some(Out::CheckFailed) => "check_failed",
        _ if endpoint.address.is_none() => "unresolved",
        Some(Out::Ejected(_)) => "ejected",
        None => "healthy",
    }
}

/// What was found of the services the last time. With thousands of endpoints most are as they were.
#[derive(Default)]
pub(super) struct ServiceWatch(Vec<Watched>);

/// The facts of a service, and what they were found from.
struct Watched {
    service: Weak<Service>,
    set: Weak<EndpointSet>,
    epoch: u64,
    /// When an ejection or a slow start ends.
    until: Now,
    facts: Arc<ServiceFacts>,
}

impl ServiceWatch {
    /// Endpoints of each service by state, and whether most of them are out.
    pub fn facts(&mut self, snapshot: &Snapshot, now: Now) -> Vec<Arc<ServiceFacts>> {
        let whole = snapshot.services.iter().filter(|service| service.is_whole());
        let mut count = 0;
        for service in whole {
            match self.0.get_mut(count) {
                Some(known) if known.holds(service, now) => {}
                Some(known) => *known = Watched::new(service, now),
                None => self.0.push(Watched::new(service, now)),
            }
            count += 1;
        }
        self.0.truncate(count);
        self.0.iter().map(|known| known.facts.clone()).collect()
    }
}

impl Watched {
    fn new(service: &Arc<Service>, now: Now) -> Self {
        let set = service.endpoints.get();
        let (mut known, mut counts) = (Vec::with_capacity(set.endpoints.len()), [0; STATES.len()]);
        let names = set.endpoints.iter().map(|endpoint| &*endpoint.authority);
        let epoch = service.state.read(names, |facts| known.push(*facts));
        for (endpoint, facts) in set.endpoints.iter().zip(&known) {
            let word = state_of(endpoint, facts, now);
            let place = STATES.iter().position(|state| *state == word);
            counts[place.unwrap_or_default()] += 1;
        }
        let members: Vec<_> = set.endpoints.iter().zip(known).map(|(endpoint, facts)| endpoint.member(facts)).collect();
        let rules = &service.resilience;
        let selection = Selection::of(&members, &rules.selection, &rules.returning, now);
        let facts = ServiceFacts {
            name: service.label.clone(),
            endpoints: STATES.into_iter().zip(counts).collect(),
            panic: selection.panic,
            ejections: service.state.ejections(),
        };
        let (service, set) = (Arc::downgrade(service), Arc::downgrade(&set));
        Self { service, set, epoch, until: selection.until, facts: facts.into() }
    }

    fn holds(&self, service: &Arc<Service>, now: Now) -> bool {
        self.epoch == service.state.epoch()
            && now < self.until
            && Weak::as_ptr(&self.service) == Arc::as_ptr(service)
            && Weak::as_ptr(&self.set) == Arc::as_ptr(&service.endpoints.get())
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

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::config::compile::{Inputs, compile};
    use crate::config::load_str;
    use crate::policy::{self, CompileEnv};
    use crate::schema::FixedEnv;
    use crate::upstream::state::Ejection;

    const FILE: &str = "\
listeners: [\"127.0.0.1:0\"]
services:
- {name: a, endpoints: [\"127.0.0.1:1\", \"127.0.0.1:2\"]}
- {name: b, endpoints: [\"127.0.0.1:3\"]}
";

    fn states(facts: &ServiceFacts) -> Vec<(&'static str, u64)> {
        facts.endpoints.iter().copied().filter(|(_, count)| *count > 0).collect()
    }

    /// What is remembered is what would be found.
    #[test]
    fn facts_follow_whatever_changes() {
        let load = |text: &str| {
            let (outside, policies) = (FixedEnv::default(), CompileEnv { workers: 1, random: 7 });
            let loaded = load_str("t", text, &outside, policy::SCHEMA).unwrap_or_else(|all| panic!("{}", all.render()));
            let resolve = |host: &str, port: u16| Some(SocketAddr::new(host.parse().ok()?, port));
            let inputs = Inputs { generation: 1, policies, resolve: Some(resolve), previous: None };
            compile(&loaded, &inputs).unwrap_or_else(|all| panic!("{}", all.render())).0
        };
        let (snapshot, mut watch) = (load(FILE), ServiceWatch::default());
        let at = Now::from_ms;
        let mut look = |snapshot: &Snapshot, now: Now| {
            let found = watch.facts(snapshot, now);
            let afresh = ServiceWatch::default().facts(snapshot, now);
            assert_eq!(found, afresh);
            found
        };
        let first = look(&snapshot, at(1));
        assert_eq!((states(&first[0]), states(&first[1])), (vec![("healthy", 2)], vec![("healthy", 1)]));
        assert!(look(&snapshot, at(2)).iter().zip(&first).all(|(one, other)| Arc::ptr_eq(one, other)));
        let (a, b) = (&snapshot.services[0], &snapshot.services[1]);
        let Ejection::Done(ms) = a.state.eject("127.0.0.1:1", at(10), &a.resilience.returning, 50, String::new())
        else {
            panic!("there is another one");
        };
        let next = look(&snapshot, at(11));
        assert_eq!(states(&next[0]), [("healthy", 1), ("ejected", 1)]);
        assert_eq!((next[0].ejections, Arc::ptr_eq(&next[1], &first[1])), (1, true));
        assert_eq!(states(&look(&snapshot, at(11 + ms))[0]), [("healthy", 2)], "nobody has said so");
        assert!(b.endpoints.replace(&[]));
        assert!(states(&look(&snapshot, at(12 + ms))[1]).is_empty());
        let other = load(&FILE.replace("name: a", "name: c"));
        assert_eq!(look(&other, at(13 + ms))[0].name, "c");
    }
}
