//! A service of one worker: rest, bounds, limits over reloads, endpoints that come and go.

use super::*;
use crate::concurrency::Gate;
use crate::net::mem::Mem;
use crate::snapshot::{Endpoints, HostRule, ServiceLimits};
use crate::telemetry::metrics::WorkerMetrics;
use crate::upstream::balance::Algorithm;
use crate::upstream::rules::Resilience;
use crate::upstream::state::ServiceState;

fn make_spec(limits: Option<ServiceLimits>) -> snapshot::Service {
    let address = "10.0.0.1:80";
    let endpoint =
        snapshot::Endpoint { authority: address.into(), address: address.parse().ok(), ..Default::default() };
    snapshot::Service {
        name: "up".into(),
        label: "up".into(),
        endpoints: Endpoints::new(Algorithm::RoundRobin, vec![endpoint]),
        sources: [].into(),
        subset: Vec::new(),
        state: ServiceState::new([address]),
        hash_key: HashKey::ClientIp,
        host: HostRule::Preserve,
        rules: ServiceRules::default(),
        resilience: Resilience::default(),
        check: None,
        sticky: None,
        breaker: None,
        fallback: None,
        proxy_protocol: None,
        tls: None,
        limits,
    }
}

fn make(spec: &snapshot::Service, previous: Option<&Rc<Service<Mem>>>) -> Rc<Service<Mem>> {
    let stats = WorkerMetrics::new(0, Now(0)).service("up", []);
    Rc::new(Service::new(spec, previous, stats, 1).limited(spec, previous.map(|old| &**old), 3_100))
}

/// What is passed by once a second must have nothing that could age.
#[test]
fn a_service_rests_while_nothing_is_open_and_nobody_asks() {
    let spec = make_spec(None);
    let service = make(&spec, None);
    let second = |at: u64| service.on_second(&spec, Now::from_ms(1_000 * at));
    let (x, mut tried) = (Exchange::default(), TriedSet::default());
    second(1);
    assert!(service.rests.get());
    assert_eq!(service.connections(), Connections::default());
    let (_, visit) = service.choose(&spec, &x, &mut tried, Now::from_ms(1_500)).expect("one");
    second(2);
    second(3);
    assert!(!service.rests.get(), "a request is with an endpoint");
    let (ours, _theirs) = crate::net::mem::pair(64, &crate::net::mem::Faults::NONE);
    let timers = crate::net::timer::Timers::new(crate::time::Clock::stopped());
    let connection = Box::new(crate::proto::h1::client::ClientConnection::new(ours, &timers));
    visit.pool.give(connection, Now::from_ms(3_500), &spec.rules);
    drop(visit);
    second(4);
    assert!(!service.rests.get() && service.report()[0].idle == 1, "a connection is kept");
    assert_eq!(service.connections(), Connections { idle: 1, ..Connections::default() });
    second(4 + spec.rules.idle_timeout_ms / 1_000);
    assert!(service.rests.get() && service.report()[0].idle == 0, "no longer");
    assert_eq!([service.connections(), service.connections()], [Connections::default(); 2]);
    // A request that was tried elsewhere before, and one that nobody saw a second of.
    tried.insert(0);
    let more = make_spec(None);
    more.endpoints.replace(&["10.0.0.1:80", "10.0.0.2:80"].map(|at| snapshot::Endpoint::at(at.parse().expect("at"))));
    assert!(service.follow(&more));
    tried.follow(2);
    tried.insert(0);
    drop(service.choose(&spec, &x, &mut tried, Now::from_ms(200_000)).expect("the other one"));
    assert!(!service.rests.get());
    // While the plan before still has requests, they may bring connections.
    let next = make(&spec, Some(&service));
    next.on_second(&spec, Now::from_ms(201_000));
    assert!(!next.rests.get());
    drop(service);
    next.on_second(&spec, Now::from_ms(202_000));
    assert!(next.rests.get());
}

#[test]
fn an_endpoint_without_a_limit_has_a_bound_all_the_same() {
    let spec = make_spec(None);
    let service = make(&spec, None);
    let (mut x, mut none) = (Exchange::default(), TriedSet::default());
    assert!(service.enter(&mut x, Now(0)).expect("no limit").is_none() && x.permits.is_empty());
    let mut visits: Vec<_> =
        (0..ENDPOINT_REQUESTS_MAX).map(|_| service.choose(&spec, &x, &mut none, Now(0)).expect("room")).collect();
    let refused = service.choose(&spec, &x, &mut none, Now(0)).err().map(|failure| failure.reason);
    assert_eq!(refused, Some(Reason::Overloaded));
    // Where another one has room, it is asked: one that hangs takes nobody's share with it.
    let at = |text: &str| snapshot::Endpoint::at(text.parse().expect("an address"));
    assert!(spec.endpoints.replace(&[at("10.0.0.1:80"), at("10.0.0.2:80")]));
    service.follow(&spec);
    for _ in 0..ENDPOINT_REQUESTS_MAX {
        let (_, visit) = service.choose(&spec, &x, &mut none, Now(0)).expect("the other one");
        assert_eq!(visit.authority, "10.0.0.2:80");
        visits.push((1, visit));
    }
    assert!(service.choose(&spec, &x, &mut none, Now(0)).is_err(), "both are full");
    visits.pop();
    assert!(service.choose(&spec, &x, &mut none, Now(0)).is_ok());
    let terms = Terms { requests_max: 9_999, pending_max: 0, wait_ms: 1, adaptive: None };
    let spec = make_spec(Some(ServiceLimits { terms, gate: Gate::new(None, &terms) }));
    let limited = make(&spec, Some(&service));
    assert!(limited.choose(&spec, &x, &mut none, Now(0)).is_ok(), "a limit of its own holds in its place");
}

#[test]
fn a_limit_outlives_a_reload() {
    let terms = Terms { requests_max: 1, pending_max: 1, wait_ms: 100, adaptive: None };
    let gate = Gate::new(None, &terms);
    let old = make(&make_spec(Some(ServiceLimits { terms, gate: gate.clone() })), None);
    let (mut first, mut second) = (Exchange::default(), Exchange::default());
    assert!(old.enter(&mut first, Now(0)).expect("room").is_none());
    let mut ticket = old.enter(&mut second, Now(0)).expect("room to wait").expect("waits");
    let raised = Terms { requests_max: 2, ..terms };
    let new = make(&make_spec(Some(ServiceLimits { terms: raised, gate: gate.clone() })), Some(&old));
    assert!(ticket.granted().is_none(), "what is prepared does not hold yet");
    new.commit();
    assert!(ticket.granted().is_some());
    first.clear();
    assert_eq!((gate.report().limit, gate.report().in_flight), (2, 0));
}

#[test]
fn endpoints_come_and_go_between_requests() {
    let spec = make_spec(None);
    let service = make(&spec, None);
    let (x, mut tried) = (Exchange::default(), TriedSet::default());
    let (_, old) = service.choose(&spec, &x, &mut tried, Now(0)).expect("one");
    tried.insert(0);
    let at = |text: &str| snapshot::Endpoint::at(text.parse().expect("an address"));
    assert!(spec.endpoints.replace(&[at("10.0.0.2:80"), at("10.0.0.1:80")]));
    service.follow(&spec);
    let second = service.choose(&spec, &x, &mut tried, Now(0)).expect("another");
    let third = service.choose(&spec, &x, &mut tried, Now(0)).expect("another");
    let kept = [&second.1, &third.1].into_iter().find(|visit| visit.authority == "10.0.0.1:80").expect("it");
    assert!(Rc::ptr_eq(&kept.0, &old.0), "what stays is the same, with its load and its connections");
    let tag = old.tag.clone();
    let weak = Rc::downgrade(&old.0);
    spec.endpoints.replace(&[at("10.0.0.3:80")]);
    service.follow(&spec);
    assert_eq!((service.len(), &*old.authority, old.active.get() > 0), (1, "10.0.0.1:80", true));
    drop((second, third, old));
    assert!(weak.upgrade().is_none(), "nobody keeps an endpoint that has gone");
    let (_, new) = service.choose(&spec, &x, &mut tried, Now(0)).expect("the new one");
    assert_ne!(new.tag.slot, tag.slot, "a finished request still names its own counters");
    spec.endpoints.replace(&[]);
    service.follow(&spec);
    let none = service.choose(&spec, &x, &mut tried, Now(0)).err().map(|failure| failure.reason);
    assert_eq!(none, Some(Reason::NoEndpoint));
}
