//! Circuit breakers and fallbacks over real sockets (R117-R128, R139, R140, R212, R265, R266).

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::support::{Gateway, Origin, Step};

/// An origin that answers with a status of the test's choice.
fn moody() -> (Origin, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(503));
    let own = status.clone();
    let origin = Origin::start(move |_| {
        let status = own.load(Ordering::Relaxed);
        vec![Step::Send(format!("HTTP/1.1 {status} So\r\nContent-Length: 2\r\n\r\nup").into_bytes())]
    });
    (origin, status)
}

fn state(gateway: &Gateway) -> String {
    let all = gateway.ask_admin("GET", "/circuit-breakers").json();
    all[0]["state"].as_str().unwrap_or_default().to_owned()
}

/// A request's outcome is counted behind its answer, perhaps by another worker than the one that is asked next.
fn wait_until_open(gateway: &Gateway) {
    crate::support::eventually("it opens", || (state(gateway) == "open").then_some(()));
}

#[test]
fn a_breaker_opens_after_five_failures_and_is_closed_by_hand() {
    let (origin, status) = moody();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], circuit_breaker: {{}}}}]\n\
         routes:\n  - {{name: free, path: /free, service: up, circuit_breaker: off}}\n  \
         - {{name: all, path: /*, service: up}}\n",
        origin.address
    ));
    for _ in 0..5 {
        assert_eq!(gateway.get("/").header("retry-after"), None, "the service's own 503");
    }
    wait_until_open(&gateway);
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.reason().as_str()), (503, "circuit_open"));
    let seconds: u64 = refused.header("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
    assert!((55..=60).contains(&seconds), "{seconds}");
    assert_eq!((origin.seen().len(), state(&gateway).as_str()), (5, "open"));
    assert_eq!(gateway.metric("gateway_circuit_breaker_state", &["service=\"up\"", "state=\"open\""]), 1.0);
    assert_eq!(gateway.metric("gateway_circuit_breaker_state", &["state=\"closed\""]), 0.0);
    assert_eq!(gateway.metric("ringway_circuit_breaker_opened_total", &["service=\"up\""]), 1.0);
    gateway.get("/free");
    assert_eq!(origin.seen().len(), 6, "a route without a breaker goes through");
    status.store(200, Ordering::Relaxed);
    assert_eq!(gateway.ask_admin("POST", "/circuit-breakers/nobody/reset").status, 404);
    assert_eq!(gateway.ask_admin("POST", "/circuit-breakers/up/reset").json()["state"], "closed");
    assert_eq!((gateway.get("/").status, state(&gateway).as_str()), (200, "closed"));
}

#[test]
fn a_half_open_breaker_is_closed_by_three_successes_and_opened_by_one_failure() {
    let (origin, status) = moody();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], circuit_breaker: {{timeout: 1s}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    let open = || crate::support::eventually("it opens", || gateway.get("/").header("retry-after").map(|_| ()));
    let tried = || {
        crate::support::eventually("a trial", || Some(gateway.get("/")).filter(|r| r.header("retry-after").is_none()))
    };
    open();
    assert_eq!(tried().status, 503, "a trial that fails");
    wait_until_open(&gateway);
    assert_eq!(gateway.get("/").reason(), "circuit_open");
    assert_eq!(gateway.metric("ringway_circuit_breaker_opened_total", &[]), 2.0);
    status.store(200, Ordering::Relaxed);
    assert_eq!(tried().status, 200);
    assert_eq!(state(&gateway), "half_open");
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [200, 200]);
    crate::support::eventually("it closes", || (state(&gateway) == "closed").then_some(()));
}

#[test]
fn the_state_outlives_a_reload_and_the_template_has_breakers() {
    let (origin, _) = moody();
    let yaml = |threshold: u32| {
        format!(
            "api_gateway:\n  server: {{host: 127.0.0.1, port: 0}}\n  routing:\n    routes:\n      \
             - {{path: /*, service: up}}\n  circuit_breaker: {{failure_threshold: {threshold}, timeout: 60s, \
             half_open_requests: 3}}\nservices: [{{name: up, endpoints: [\"{}\"]}}]\n\
             admin: {{listen: \"127.0.0.1:0\"}}\n",
            origin.address
        )
    };
    let gateway = Gateway::start(&yaml(2));
    assert_eq!([gateway.get("/").status, gateway.get("/").status], [503, 503]);
    wait_until_open(&gateway);
    assert_eq!(gateway.get("/").reason(), "circuit_open");
    assert_eq!(gateway.reload(&yaml(3)).status, 200);
    assert_eq!((gateway.get("/").reason().as_str(), origin.seen().len()), ("circuit_open", 2));
}

#[test]
fn a_fallback_answers_for_a_service_that_does_not() {
    let spare = Origin::fixed("spare");
    let (origin, _) = moody();
    let gateway = Gateway::start(&format!(
        "services:\n  - {{name: up, endpoints: [\"{}\"], circuit_breaker: {{failure_threshold: 1}}, \
         fallback: {{service: spare}}}}\n  \
         - {{name: spare, endpoints: [\"{}\"]}}\n  \
         - {{name: none, endpoints: [], fallback: {{respond: {{status: 200, body: \"[]\", \
         content_type: application/json}}}}}}\n\
         routes:\n  - {{name: all, path: /*, service: up}}\n  - {{name: none, path: /none, service: none}}\n",
        origin.address, spare.address
    ));
    assert_eq!(gateway.get("/").status, 503, "an answer is an answer");
    let response = gateway.get("/");
    assert_eq!((response.status, response.text().as_str(), response.header("retry-after")), (200, "spare", None));
    let response = gateway.ask("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((response.text().as_str(), spare.last().body), ("spare", b"hi".to_vec()), "nothing had gone out");
    let response = gateway.get("/none");
    assert_eq!((response.status, response.text().as_str()), (200, "[]"));
    assert_eq!(response.header("content-type"), Some("application/json"));
}
