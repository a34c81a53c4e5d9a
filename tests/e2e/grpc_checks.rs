//! Checks of endpoints by gRPC's own health service, with a small fake of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::{Gateway, Origin, eventually};

const CHECK: &str = "/grpc.health.v1.Health/Check";
const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;
/// No status of the health service: the call itself fails.
const FAILS: u8 = 200;

/// A server of gRPC whose health is the test's choice.
struct Patient {
    origin: H2Origin,
    health: Arc<AtomicU8>,
}

impl Patient {
    fn start(health: u8) -> Self {
        let health = Arc::new(AtomicU8::new(health));
        let own = health.clone();
        let origin = H2Origin::start(move |seen| {
            let head = vec![(":status", "200".into()), ("content-type", "application/grpc".into())];
            match (seen.path(), own.load(Ordering::Relaxed)) {
                (CHECK, FAILS) => {
                    let status = vec![("grpc-status", "14".into()), ("grpc-message", "out for lunch".into())];
                    Answer { head: [head, status].concat(), ..Answer::default() }
                }
                (CHECK, health) => Answer {
                    head,
                    body: vec![0, 0, 0, 0, 2, 8, health],
                    trailers: vec![("grpc-status", "0".into())],
                    ..Answer::default()
                },
                _ => Answer::ok("served"),
            }
        });
        Self { origin, health }
    }

    /// Requests of clients.
    fn served(&self) -> usize {
        self.origin.seen().iter().filter(|seen| seen.path() != CHECK).count()
    }
}

fn wait_for(gateway: &Gateway, state: &str, count: f64) {
    let label = format!("state=\"{state}\"");
    eventually(&format!("{count} {state}"), || {
        (gateway.metric("ringway_service_endpoints", &[&label]) == count).then_some(())
    });
}

/// The reason of the last check of an endpoint that failed.
fn last_failure(gateway: &Gateway, endpoint: usize) -> Option<String> {
    let services = gateway.ask_admin("GET", "/services").json();
    let history = services[0]["checks"][endpoint]["history"].as_array()?.clone();
    history.iter().rev().find_map(|result| result["why"].as_str().map(str::to_owned))
}

#[test]
fn a_server_that_says_that_it_does_not_serve_gets_nothing() {
    let (one, two) = (Patient::start(SERVING), Patient::start(NOT_SERVING));
    let gateway = Gateway::start(&format!(
        "services:\n  - name: up\n    protocol: h2\n    endpoints: [\"{}\", \"{}\"]\n    slow_start: 0s\n    \
         health_check: {{kind: grpc, service: a.B, headers: {{x-check: \"1\"}}, interval: 40ms, rise: 1, fall: 1}}\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        one.origin.address, two.origin.address
    ));
    wait_for(&gateway, "check_failed", 1.0);
    let before = two.served();
    (0..10).for_each(|_| assert_eq!(gateway.get("/").status, 200));
    assert_eq!(two.served(), before, "who does not serve is not asked");
    assert_eq!(last_failure(&gateway, 1).as_deref(), Some("NOT_SERVING"));
    assert_eq!(last_failure(&gateway, 0), None);
    // The first check of one may come well behind that of the other.
    let asked = eventually("a check", || one.origin.seen().into_iter().find(|seen| seen.path() == CHECK));
    assert_eq!(
        (asked.get(":method"), asked.get("te"), asked.get("x-check")),
        (Some("POST"), Some("trailers"), Some("1"))
    );
    assert_eq!(
        (asked.get("content-type"), &asked.body[..]),
        (Some("application/grpc"), &b"\0\0\0\0\x05\x0a\x03a.B"[..])
    );
    two.health.store(FAILS, Ordering::Relaxed);
    eventually("another reason", || {
        (last_failure(&gateway, 1).as_deref() == Some("grpc-status 14 out for lunch")).then_some(())
    });
    two.health.store(SERVING, Ordering::Relaxed);
    wait_for(&gateway, "healthy", 2.0);
    eventually("it is asked again", || {
        gateway.get("/");
        (two.served() > before).then_some(())
    });
}

#[test]
fn what_speaks_no_grpc_is_not_well() {
    let plain = Origin::fixed("no gRPC");
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], health_check: {{kind: grpc, interval: 40ms, fall: 1}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        plain.address
    ));
    wait_for(&gateway, "check_failed", 1.0);
    let why = last_failure(&gateway, 0).expect("a reason");
    assert!(why.starts_with("HTTP/2: "), "{why}");
    assert_eq!(gateway.get("/").reason(), "no_endpoint");
}
