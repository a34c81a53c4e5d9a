//! Endpoints that fail, return, and stand in for others (F22, F26 to F29, R108-R114, R141), counted at the endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::support::gateway::Plan;
use crate::support::{Gateway, Origin, PATIENCE, Step, eventually, ok};

/// An origin whose health is the test's choice; it answers everything else.
pub struct Patient {
    pub origin: Origin,
    well: Arc<AtomicBool>,
}

impl Patient {
    pub fn start(well: bool) -> Self {
        let well = Arc::new(AtomicBool::new(well));
        let own = well.clone();
        let origin = Origin::start(move |seen| match (seen.path(), own.load(Ordering::Relaxed)) {
            ("/health", false) => {
                vec![
                    Step::Send(b"HTTP/1.1 500 Ill\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()),
                    Step::Close,
                ]
            }
            ("/health", true) => ok("fine").into_iter().chain([Step::Close]).collect(),
            _ => ok("served"),
        });
        Self { origin, well }
    }

    pub fn set(&self, well: bool) {
        self.well.store(well, Ordering::Relaxed);
    }

    /// Requests of clients.
    pub fn served(&self) -> usize {
        self.origin.seen().iter().filter(|seen| seen.path() != "/health").count()
    }
}

pub const QUICK: &str = "health_check: {interval: 40ms, timeout: 10s, rise: 1, fall: 1}, slow_start: 0s";

fn yaml(endpoints: &[&Patient], more: &str) -> String {
    let endpoints: Vec<_> = endpoints.iter().map(|patient| format!("\"{}\"", patient.origin.address)).collect();
    format!(
        "services: [{{name: up, endpoints: [{}], {QUICK}{more}}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        endpoints.join(", ")
    )
}

pub fn wait_for(gateway: &Gateway, state: &str, count: f64) {
    let label = format!("state=\"{state}\"");
    eventually(&format!("{count} {state}"), || {
        (gateway.metric("ringway_service_endpoints", &[&label]) == count).then_some(())
    });
}

#[test]
fn all_down_is_told_at_once_and_is_over_with_the_next_check() {
    let (one, two) = (Patient::start(true), Patient::start(true));
    let gateway = Gateway::start(&yaml(&[&one, &two], ""));
    assert_eq!(gateway.get("/").status, 200);
    one.set(false);
    two.set(false);
    wait_for(&gateway, "check_failed", 2.0);
    let before = one.served() + two.served();
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.reason().as_str()), (503, "no_endpoint"));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(one.served() + two.served(), before, "nobody was asked");
    let checks = gateway.ask_admin("GET", "/services").json()[0]["checks"].clone();
    assert_eq!((checks[0]["verdict"].as_str(), checks.as_array().map(Vec::len)), (Some("down"), Some(2)));
    let last = checks[0]["history"].as_array().and_then(|all| all.last()).cloned().expect("a result");
    assert_eq!((last["passed"].as_bool(), last["why"].as_str()), (Some(false), Some("status 500")));
    two.set(true);
    eventually("it serves again", || (gateway.get("/").status == 200).then_some(()));
    assert!(gateway.metric("ringway_health_checks_total", &["result=\"failed\""]) >= 2.0);
    let events = gateway.ask_admin("GET", "/services").json()[0]["events"].to_string();
    assert!(events.contains("\"down\"") && events.contains("\"up\""), "{events}");
}

#[test]
fn with_most_of_a_pool_down_all_are_asked_or_the_rest() {
    for (more, spread) in [("", true), (", panic: {then: fail}", false)] {
        let patients: Vec<_> = (0..4).map(|_| Patient::start(true)).collect();
        let gateway = Gateway::start(&yaml(&patients.iter().collect::<Vec<_>>(), more));
        patients[1..].iter().for_each(|patient| patient.set(false));
        wait_for(&gateway, "check_failed", 3.0);
        assert_eq!(gateway.metric("ringway_service_panic", &["service=\"up\""]), 1.0);
        let before: Vec<_> = patients.iter().map(Patient::served).collect();
        (0..40).for_each(|_| assert_eq!(gateway.get("/").status, 200));
        let served: Vec<_> = patients.iter().zip(before).map(|(patient, before)| patient.served() - before).collect();
        assert_eq!(served, if spread { [10, 10, 10, 10] } else { [40, 0, 0, 0] });
    }
}

#[test]
fn half_of_a_pool_down_is_no_panic() {
    let (one, two) = (Patient::start(true), Patient::start(false));
    let gateway = Gateway::start(&yaml(&[&one, &two], ""));
    wait_for(&gateway, "check_failed", 1.0);
    let before = two.served();
    (0..20).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!((two.served(), gateway.metric("ringway_service_panic", &[])), (before, 0.0));
}

#[test]
fn an_endpoint_that_returns_starts_slowly() {
    let (one, two) = (Patient::start(true), Patient::start(false));
    let slow = yaml(&[&one, &two], "").replace("slow_start: 0s", "slow_start: 600s");
    let gateway = Gateway::start(&slow);
    wait_for(&gateway, "check_failed", 1.0);
    two.set(true);
    wait_for(&gateway, "healthy", 2.0);
    let before = two.served();
    let mut client = gateway.connect();
    (0..400).for_each(|_| assert_eq!(client.get("/").status, 200));
    // A tenth of its half is 20.
    let served = two.served() - before;
    assert!((4..=50).contains(&served), "{served} of 400");
}

#[test]
fn failing_endpoints_are_ejected_and_come_back() {
    let ill = Origin::start(|_| vec![Step::Send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec())]);
    let good = Origin::fixed("good");
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\", \"{}\"], slow_start: 0s, ejection: {{base: 4s}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        ill.address, good.address
    ));
    let lost = (0..40).filter(|_| gateway.get("/").status != 200).count();
    assert_eq!((lost, ill.seen().len()), (5, 5), "five gateway errors in a row");
    assert_eq!(gateway.metric("ringway_service_ejections_total", &["service=\"up\""]), 1.0);
    let endpoints = gateway.ask_admin("GET", "/services/up/endpoints").json();
    assert_eq!(endpoints[0]["state"], "ejected", "{endpoints}");
    eventually("it is asked again", || {
        gateway.get("/");
        (ill.seen().len() > 5).then_some(())
    });
}

/// An endpoint that falls and rises all the time costs no GET, and is left alone for longer each time (F26).
#[test]
fn flapping_costs_no_get_and_is_answered_with_patience() {
    let count = AtomicUsize::new(0);
    let flapping = Origin::start(move |_| match count.fetch_add(1, Ordering::Relaxed) / 5 % 2 {
        0 => vec![Step::Reset],
        _ => ok("up"),
    });
    let good = Origin::fixed("good");
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\", \"{}\"], slow_start: 0s, ejection: {{base: 100ms, max: 60s}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        flapping.address, good.address
    ));
    let (begun, mut client, mut asked) = (Instant::now(), gateway.connect(), 0_u64);
    let ejections = || gateway.metric("ringway_service_ejections_total", &[]);
    while begun.elapsed() < Duration::from_millis(1_500) || (ejections() < 3.0 && begun.elapsed() < PATIENCE) {
        let response = client.get("/");
        assert_eq!(response.status, 200);
        asked += 1;
        // On a fast machine a connection reaches its number of requests.
        if response.closes() {
            client = gateway.connect();
        }
    }
    let ejections = ejections();
    // 100, 200, 400 ms and so on: the next begins when all before it are over.
    let most = (begun.elapsed().as_secs_f64() * 10.0 + 1.0).log2().floor() + 1.0;
    assert!((3.0..=most).contains(&ejections), "{ejections} ejections in {asked} requests, {most} are possible");
    assert!(flapping.seen().len() > 10, "it was asked in between");
}

/// An endpoint dies under load and comes back at the same address: no GET is lost.
#[test]
fn an_endpoint_may_die_and_come_back_under_load() {
    let (dying, good) = (Origin::fixed("one"), Origin::fixed("two"));
    let address = dying.address;
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{address}\", \"{}\"], slow_start: 0s, ejection: {{base: 100ms}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        good.address
    ));
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get("/");
                    assert_eq!(response.status, 200);
                    if response.closes() {
                        client = gateway.connect();
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let more = |count: usize| {
            let from = asked.load(Ordering::Relaxed);
            eventually("requests", || (asked.load(Ordering::Relaxed) >= from + count).then_some(()));
        };
        more(50);
        drop(dying);
        more(200);
        let revived = Origin::fixed_at(address, "again");
        eventually("it is asked again", || (revived.seen().len() > 20).then_some(()));
        stop.store(true, Ordering::Relaxed);
    });
    assert!(gateway.metric("ringway_service_ejections_total", &[]) >= 1.0);
}

#[test]
fn the_second_tier_stands_in_for_the_first() {
    let (first, second) = (Patient::start(true), Patient::start(true));
    let gateway = Gateway::start(&format!(
        "services:\n  - {{name: up, {QUICK}, endpoints: [\"{}\", {{address: \"{}\", priority: 1}}]}}\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        first.origin.address, second.origin.address
    ));
    (0..10).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!((first.served(), second.served()), (10, 0));
    first.set(false);
    wait_for(&gateway, "check_failed", 1.0);
    (0..10).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!((first.served(), second.served()), (10, 10));
}

#[test]
fn a_route_asks_a_subset_and_tells_the_deadline() {
    let (old, new) = (Origin::fixed("old"), Origin::fixed("new"));
    let gateway = Gateway::start(&format!(
        "services:\n  - {{name: up, retries: {{deadline_header: X-Timeout-Ms}}, \
         endpoints: [{{address: \"{}\", metadata: {{version: v1}}}}, \
         {{address: \"{}\", metadata: {{version: v2}}}}]}}\n\
         routes:\n  - {{name: new, path: /new, service: up, endpoints: {{version: v2}}, timeout: 5s}}\n  \
         - {{name: none, path: /none, service: up, endpoints: {{version: v3}}}}\n",
        old.address, new.address
    ));
    (0..6).for_each(|_| assert_eq!(gateway.get("/new").text(), "new"));
    assert_eq!((gateway.get("/none").status, old.seen().len()), (503, 0));
    let answer = gateway.ask("GET /new HTTP/1.1\r\nHost: t\r\nX-Timeout-Ms: 999999\r\n\r\n");
    assert_eq!(answer.status, 200);
    let left: u64 = new.last().header("x-timeout-ms").and_then(|text| text.parse().ok()).expect("a number");
    assert!((1..=5_000).contains(&left), "{left}");
}

/// Clients keep their endpoint while it lives, over restarts of the gateway and changes of the other endpoints.
#[test]
fn a_client_sticks_to_its_endpoint() {
    let patients: Vec<_> = (0..3).map(|_| Patient::start(true)).collect();
    let sticky = ", sticky: {cookie: route, secret: \"${STICKY}\"}";
    let start = |those: &[&Patient]| Plan::new(&yaml(those, sticky)).env("STICKY", "0123456789abcdef").start();
    let gateway = start(&patients.iter().collect::<Vec<_>>());
    let mut cookies = Vec::new();
    for _ in 0..3 {
        let first = gateway.get("/");
        let cookie = first.header("set-cookie").and_then(|set| set.split(';').next()).expect("a cookie").to_owned();
        cookies.push(cookie);
    }
    let ask = |gateway: &Gateway, cookie: &str| {
        gateway.ask(format!("GET / HTTP/1.1\r\nHost: t\r\nCookie: a=b; {cookie}\r\n\r\n"))
    };
    let served = || patients.iter().map(Patient::served).collect::<Vec<_>>();
    let check = |gateway: &Gateway, at: usize| {
        let before = served();
        for _ in 0..20 {
            let response = ask(gateway, &cookies[at]);
            assert_eq!((response.status, response.header("set-cookie")), (200, None));
        }
        let gained: Vec<_> = served().iter().zip(before).map(|(now, before)| now - before).collect();
        assert_eq!(gained.iter().filter(|count| **count == 20).count(), 1, "{gained:?}");
        gained.iter().position(|count| *count == 20).expect("one")
    };
    let owners: Vec<_> = (0..3).map(|at| check(&gateway, at)).collect();
    drop(gateway);
    // Another process, with another order and one endpoint less.
    let gateway = start(&[&patients[owners[1]], &patients[owners[0]]]);
    assert_eq!((check(&gateway, 0), check(&gateway, 1)), (owners[0], owners[1]));
    let moved = ask(&gateway, &cookies[2]);
    assert!(moved.status == 200 && moved.header("set-cookie").is_some(), "its endpoint is gone");
    assert!(ask(&gateway, "route=0123456789abcdef.forged").header("set-cookie").is_some());
    patients[owners[0]].set(false);
    wait_for(&gateway, "check_failed", 1.0);
    assert!(ask(&gateway, &cookies[0]).header("set-cookie").is_some(), "its endpoint is down");
}
