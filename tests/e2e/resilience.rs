//! Success rates, zones, breakers of routes, slow start and budgets over real sockets, counted at the endpoints (F25,
//! F28, R112, R117-R128, R141).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use crate::support::{Client, Gateway, Origin, PATIENCE, Step, eventually, ok};
use crate::survival::{Patient, QUICK, wait_for};

fn status(code: u16) -> Vec<Step> {
    vec![Step::Send(format!("HTTP/1.1 {code} So\r\nContent-Length: 0\r\n\r\n").into_bytes())]
}

fn list<'a>(origins: impl IntoIterator<Item = &'a Origin>) -> String {
    origins.into_iter().map(|origin| format!("\"{}\"", origin.address)).collect::<Vec<_>>().join(", ")
}

/// Every second answer of one of five is a 500: no row of failures, and far fewer successes than the others have. Of
/// three workers none sees enough of it to judge; together they do.
#[test]
fn an_endpoint_with_few_successes_is_ejected_by_what_all_workers_see() {
    let count = AtomicUsize::new(0);
    let half = Origin::start(move |_| match count.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => status(500),
        _ => ok("half"),
    });
    let good: Vec<_> = (0..4).map(|_| Origin::fixed("good")).collect();
    let gateway = Gateway::start(&format!(
        "server: {{workers: 3}}\nservices: [{{name: up, endpoints: [{}, {}], load_balancer: round_robin, ejection: {{base: \
         300s, outliers: {{window: 3s, requests_min: 20, endpoints_min: 5, deviations: 1.5}}}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        list([&half]),
        list(&good)
    ));
    let mut clients: Vec<_> = (0..12).map(|_| Client::connect(gateway.address)).collect();
    let ejections = || gateway.metric("ringway_service_ejections_total", &["service=\"up\""]);
    let begun = Instant::now();
    while ejections() == 0.0 {
        assert!(begun.elapsed() < PATIENCE, "it was never ejected");
        // 24 or so for each endpoint, at once; then nothing until a window has ended with all of them in it, or a
        // second one with the rest.
        let before = gateway.by_worker("ringway_worker_requests_total", 3);
        for client in &mut clients {
            (0..10).for_each(|_| assert!([200, 500].contains(&client.get("/").status)));
        }
        let asked = || gateway.by_worker("ringway_worker_requests_total", 3);
        eventually("all are counted", || {
            let counts: Vec<_> = asked().iter().zip(&before).map(|(now, before)| now - before).collect();
            (counts.iter().sum::<f64>() == 120.0).then(|| {
                // A fifth of this is what a worker sees of an endpoint.
                assert!(counts.iter().all(|count| *count < 90.0), "{counts:?}");
            })
        });
        let sent = Instant::now();
        while ejections() == 0.0 && sent.elapsed().as_secs() < 7 {
            thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }
    let endpoints = gateway.ask_admin("GET", "/services/up/endpoints").json();
    let states: Vec<_> = (0..5).map(|at| endpoints[at]["state"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(states, ["ejected", "healthy", "healthy", "healthy", "healthy"], "{endpoints}");
    let events = gateway.ask_admin("GET", "/events").text();
    assert!(events.contains("far fewer successes than the others"), "{events}");
    let seen = half.seen().len();
    (0..20).for_each(|_| assert_eq!(gateway.get("/").text(), "good"));
    assert_eq!(half.seen().len(), seen);
}

/// Endpoints of the own zone have it all while 70 % of them are well; then everybody shares it, and it goes back.
#[test]
fn the_own_zone_is_preferred_and_spills_over() {
    let patients: Vec<_> = (0..4).map(|_| Patient::start(true)).collect();
    let zoned: Vec<_> = patients
        .iter()
        .zip(["here", "here", "there", "elsewhere"])
        .map(|(patient, zone)| format!("{{address: \"{}\", zone: {zone}}}", patient.origin.address))
        .collect();
    let gateway = Gateway::start(&format!(
        "server: {{workers: 1, zone: here}}\nservices: [{{name: up, {QUICK}, endpoints: [{}]}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        zoned.join(", ")
    ));
    let gained = || {
        let before: Vec<_> = patients.iter().map(Patient::served).collect();
        (0..60).for_each(|_| assert_eq!(gateway.get("/").status, 200));
        patients.iter().zip(before).map(|(patient, before)| patient.served() - before).collect::<Vec<_>>()
    };
    wait_for(&gateway, "healthy", 4.0);
    assert_eq!(gained(), [30, 30, 0, 0]);
    patients[1].set(false);
    wait_for(&gateway, "check_failed", 1.0);
    assert_eq!(gained(), [20, 0, 20, 20], "half of a zone is too little for all requests");
    patients[0].set(false);
    wait_for(&gateway, "check_failed", 2.0);
    assert_eq!(gained(), [0, 0, 30, 30]);
    patients[0].set(true);
    patients[1].set(true);
    wait_for(&gateway, "healthy", 4.0);
    assert_eq!(gained(), [30, 30, 0, 0]);
}

fn breaker(gateway: &Gateway, name: &str) -> String {
    let all = gateway.ask_admin("GET", "/circuit-breakers").json();
    let found = all.as_array().expect("a list").iter().find(|one| one["service"] == name || one["name"] == name);
    found.unwrap_or_else(|| panic!("no {name} in {all}"))["state"].as_str().unwrap_or_default().to_owned()
}

/// A route with a breaker of its own neither opens the service's nor is stopped by it.
#[test]
fn a_route_has_a_breaker_of_its_own() {
    let code = Arc::new(AtomicU16::new(503));
    let own = code.clone();
    let origin = Origin::start(move |_| status(own.load(Ordering::Relaxed)));
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], circuit_breaker: {{failure_threshold: 3}}}}]\n\
         routes:\n  - {{name: pay, path: /pay, service: up, circuit_breaker: own}}\n  \
         - {{name: all, path: /*, service: up}}\n",
        origin.address
    ));
    let reason = |path: &str| Some(gateway.get(path)).filter(|answer| !answer.body.is_empty()).map(|a| a.reason());
    let open = || Some("circuit_open".to_owned());
    (0..3).for_each(|_| assert_eq!(reason("/pay"), None, "the service's own 503"));
    assert_eq!((reason("/pay"), reason("/other")), (open(), None));
    assert_eq!((breaker(&gateway, "route:pay").as_str(), breaker(&gateway, "up").as_str()), ("open", "closed"));
    // One failure was counted for the service meanwhile: two more open it, and not the route's.
    assert_eq!(gateway.ask_admin("POST", "/circuit-breakers/route:pay/reset").json()["state"], "closed");
    (0..2).for_each(|_| assert_eq!(reason("/other"), None));
    assert_eq!((reason("/other"), reason("/pay")), (open(), None));
    assert_eq!((breaker(&gateway, "route:pay").as_str(), breaker(&gateway, "up").as_str()), ("closed", "open"));
    code.store(200, Ordering::Relaxed);
    assert_eq!((gateway.get("/pay").status, gateway.get("/other").status), (200, 503));
    assert_eq!(gateway.metric("ringway_circuit_breaker_opened_total", &[]), 2.0);
}

/// What an endpoint that has come back is given rises in a line (F28): each batch of requests is held to what the time
/// before and behind it allows, whatever the speed of the machine.
#[test]
fn the_share_of_an_endpoint_that_is_back_rises_in_a_line() {
    const WHOLE_S: f64 = 6.0;
    let (one, two) = (Patient::start(true), Patient::start(false));
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, {}, endpoints: [{}]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        QUICK.replace("slow_start: 0s", "slow_start: 6s"),
        list([&one.origin, &two.origin])
    ));
    wait_for(&gateway, "check_failed", 1.0);
    let before = Instant::now();
    two.set(true);
    wait_for(&gateway, "healthy", 2.0);
    let behind = Instant::now();
    let (mut client, mut shares) = (gateway.connect(), Vec::new());
    let ramp = |since: Instant, at: Instant| (0.1 + 0.9 * (at - since).as_secs_f64() / WHOLE_S).min(1.0);
    loop {
        let (from, served) = (Instant::now(), two.served());
        for _ in 0..200 {
            let response = client.get("/");
            assert_eq!(response.status, 200);
            if response.closes() {
                client = gateway.connect();
            }
        }
        let (to, share) = (Instant::now(), two.served() - served);
        // Half of all are its share; six deviations of the lots, and a tick of the worker's clock.
        let (least, most) = (100.0 * ramp(behind, from) - 32.0, 100.0 * ramp(before, to) + 32.0);
        assert!((least..=most).contains(&(share as f64)), "{share} of 200, allowed {least:.0} to {most:.0}");
        shares.push(share);
        if (from - behind).as_secs_f64() > WHOLE_S + 0.5 {
            break;
        }
    }
    assert_eq!(shares.last(), Some(&100), "{shares:?}");
}

/// Nobody is told to try again by a budget that is used up: a storm adds nothing to what came in (F25).
#[test]
fn without_a_budget_a_storm_is_as_large_as_what_came_in() {
    let busy: Vec<_> = (0..3).map(|_| Origin::start(|_| status(503))).collect();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [{}], ejection: {{gateway_errors: 0}}, retries: {{attempts: 4, statuses: [503], \
         budget: {{percent: 0, per_second: 0, least: 0}}}}}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        list(&busy)
    ));
    let mut client = gateway.connect();
    (0..200).for_each(|_| assert_eq!(client.get("/").status, 503));
    assert_eq!(busy.iter().map(|origin| origin.seen().len()).sum::<usize>(), 200);
}
