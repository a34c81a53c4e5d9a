//! Limits on requests in flight over real sockets: of services and of the policy `concurrency_limit` (F13, F14).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::support::{Client, Gateway, Origin, Response, Step, eventually, ok};

/// An origin whose every answer waits for a word. It counts how many requests it had at once.
struct Held {
    origin: Origin,
    gates: Arc<Mutex<Receiver<Sender<()>>>>,
}

impl Held {
    fn start() -> Self {
        let (opened, gates) = channel();
        let opened = Mutex::new(opened);
        let origin = Origin::start(move |_| {
            let (go, wait) = channel();
            opened.lock().expect("gates").send(go).expect("the test listens");
            let Step::Send(answer) = ok("done").remove(0) else { unreachable!("a whole answer") };
            vec![Step::Await(wait), Step::Send(answer)]
        });
        Self { origin, gates: Arc::new(Mutex::new(gates)) }
    }

    /// The next request that has arrived, unanswered.
    fn next(&self) -> Sender<()> {
        self.gates.lock().expect("gates").recv_timeout(crate::support::PATIENCE).expect("a request at the origin")
    }

    fn none_arrived(&self) -> bool {
        self.gates.lock().expect("gates").try_recv().is_err()
    }
}

fn service_limit(origin: &Origin, limits: &str) -> String {
    format!(
        "services: [{{name: up, endpoints: [\"{}\"], limits: {limits}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    )
}

fn policy_limit(origin: &Origin, limit: &str) -> String {
    format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: all, path: /*, service: up, policies: [{{concurrency_limit: {limit}}}]}}]\n",
        origin.address
    )
}

fn ask(gateway: &Gateway, fields: &str) -> Client {
    let mut client = gateway.connect();
    client.send(format!("GET /a HTTP/1.1\r\nHost: t\r\n{fields}\r\n"));
    client
}

fn gauge(gateway: &Gateway, name: &str) -> f64 {
    gateway.metric(&format!("ringway_limit_requests_{name}"), &[])
}

fn wait_for(gateway: &Gateway, in_flight: f64, queued: f64) {
    eventually(&format!("{in_flight} in flight, {queued} queued"), || {
        (gauge(gateway, "in_flight") == in_flight && gauge(gateway, "queued") == queued).then_some(())
    });
}

#[track_caller]
fn is_refused(response: &Response, reason: &str) {
    assert_eq!((response.status, response.reason().as_str()), (503, reason));
    assert_eq!((response.header("retry-after"), response.closes()), (Some("1"), false));
}

/// Seven clients at a limit of two with room for two: two are served, two wait, three are told at once.
fn seven_clients(yaml: impl Fn(&Origin) -> String, limit_name: &str) {
    let held = Held::start();
    let gateway = Gateway::start(&yaml(&held.origin));
    let mut served: Vec<_> = (0..2).map(|_| ask(&gateway, "")).collect();
    let gates: Vec<_> = (0..2).map(|_| held.next()).collect();
    let mut waiting = Vec::new();
    for queued in 1..=2 {
        waiting.push(ask(&gateway, ""));
        wait_for(&gateway, 2.0, f64::from(queued));
    }
    for _ in 0..3 {
        is_refused(&ask(&gateway, "").response(), "concurrency_limited");
    }
    assert!(held.none_arrived());
    // The queue moves, in order.
    gates[0].send(()).expect("the origin waits");
    let third = held.next();
    wait_for(&gateway, 2.0, 1.0);
    gates[1].send(()).expect("the origin waits");
    let fourth = held.next();
    assert!(served.iter_mut().all(|client| client.response().status == 200));
    third.send(()).expect("the origin waits");
    assert_eq!(waiting[0].response().text(), "done");
    fourth.send(()).expect("the origin waits");
    assert_eq!(waiting[1].response().text(), "done");
    wait_for(&gateway, 0.0, 0.0);
    let labels = [&format!("limit=\"{limit_name}\"")[..], "reason=\"concurrency_limited\""];
    assert_eq!(gateway.metric("ringway_limit_refused_total", &labels), 3.0);
    assert_eq!(held.origin.seen().len(), 4);
}

#[test]
fn a_service_serves_two_queues_two_and_refuses_three() {
    let limits = "{requests_max: 2, pending_max: 2, queue_timeout: 60s}";
    seven_clients(|origin| service_limit(origin, limits), "service:up");
}

#[test]
fn a_route_serves_two_queues_two_and_refuses_three() {
    let limit = "{requests_max: 2, pending_max: 2, queue_timeout: 60s}";
    seven_clients(|origin| policy_limit(origin, limit), "route:all/concurrency_limit#0");
}

#[test]
fn the_limit_holds_for_all_workers_together() {
    let limits = "{requests_max: 2, pending_max: 2, queue_timeout: 60s}";
    let yaml =
        |origin: &Origin| format!("server: {{workers: 4, pin_workers: false}}\n{}", service_limit(origin, limits));
    seven_clients(yaml, "service:up");
}

#[test]
fn who_waits_too_long_is_told_and_the_place_is_free_again() {
    let held = Held::start();
    let gateway = Gateway::start(&service_limit(&held.origin, "{requests_max: 1, queue_timeout: 500ms}"));
    let mut first = ask(&gateway, "");
    let gate = held.next();
    let mut late = ask(&gateway, "");
    is_refused(&late.response(), "queue_timeout");
    gate.send(()).expect("the origin waits");
    assert_eq!(first.response().status, 200);
    late.send("GET /b HTTP/1.1\r\nHost: t\r\n\r\n");
    held.next().send(()).expect("the origin waits");
    assert_eq!(late.response().status, 200);
    let services = gateway.ask_admin("GET", "/services").json();
    let limits = &services[0]["limits"];
    assert_eq!((&limits["requests_max"], &limits["queued"], &limits["in_flight"]), (&1.into(), &0.into(), &0.into()));
    assert_eq!(limits["refused"]["queue_timeout"], 1);
}

#[test]
fn who_leaves_the_queue_gives_the_place_back() {
    let held = Held::start();
    let gateway = Gateway::start(&service_limit(&held.origin, "{requests_max: 1, pending_max: 1, queue_timeout: 60s}"));
    let _first = ask(&gateway, "");
    let gate = held.next();
    let left = ask(&gateway, "");
    wait_for(&gateway, 1.0, 1.0);
    drop(left);
    wait_for(&gateway, 1.0, 0.0);
    let mut stays = ask(&gateway, "");
    wait_for(&gateway, 1.0, 1.0);
    gate.send(()).expect("the origin waits");
    held.next().send(()).expect("the origin waits");
    assert_eq!(stays.response().status, 200);
    assert_eq!(gateway.metric("ringway_limit_refused_total", &["reason=\"client_closed\""]), 1.0);
    assert_eq!(held.origin.seen().len(), 2);
}

#[test]
fn clients_have_limits_of_their_own() {
    let held = Held::start();
    let limit = "{requests_max: 1, pending_max: 0, key: \"header:X-Client\"}";
    let gateway = Gateway::start(&policy_limit(&held.origin, limit));
    let mut one = ask(&gateway, "X-Client: a\r\n");
    let gate = held.next();
    is_refused(&ask(&gateway, "X-Client: a\r\n").response(), "concurrency_limited");
    let mut other = ask(&gateway, "X-Client: b\r\n");
    held.next().send(()).expect("the origin waits");
    assert_eq!(other.response().status, 200);
    gate.send(()).expect("the origin waits");
    assert_eq!(one.response().status, 200);
}

#[test]
fn those_who_wait_go_on_through_a_reload_and_a_drain() {
    let held = Held::start();
    let mut gateway = Gateway::start(&service_limit(&held.origin, "{requests_max: 1, queue_timeout: 60s}"));
    let mut first = ask(&gateway, "");
    let gate = held.next();
    let mut waiting: Vec<_> = (1..=2)
        .map(|queued| {
            let client = ask(&gateway, "");
            wait_for(&gateway, 1.0, f64::from(queued));
            client
        })
        .collect();
    // A higher limit lets the next one in at once; the others wait on.
    let raised = gateway.reload(&service_limit(&held.origin, "{requests_max: 2, queue_timeout: 60s}"));
    assert_eq!(raised.status, 200, "{raised:?}");
    let second = held.next();
    wait_for(&gateway, 2.0, 1.0);
    gateway.signal("TERM");
    eventually("draining", || (gateway.ask_admin("GET", "/ready").status == 503).then_some(()));
    gate.send(()).expect("the origin waits");
    let third = held.next();
    for go in [second, third] {
        go.send(()).expect("the origin waits");
    }
    assert_eq!(first.response().status, 200);
    assert!(waiting.iter_mut().all(|client| client.response().status == 200));
    assert_eq!(gateway.exit_code(), 0);
}

/// F13 in counts: twice as many clients as limit and queue take, each of which asks again at once. The origin always
/// has as many requests as the limit allows: each answer brings the next, so that no capacity is lost; never more.
#[test]
fn overload_costs_no_goodput() {
    const LIMIT: usize = 4;
    const CLIENTS: usize = 16;
    const ANSWERS: usize = 200;
    let held = Held::start();
    let limits = "{requests_max: 4, pending_max: 4, queue_timeout: 60s}";
    let yaml = format!("server: {{workers: 2, pin_workers: false}}\n{}", service_limit(&held.origin, limits));
    let gateway = Gateway::start(&yaml);
    let (stop, served, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let mut client = gateway.connect();
                while !stop.load(Ordering::SeqCst) {
                    match client.get("/").status {
                        200 => served.fetch_add(1, Ordering::SeqCst),
                        503 => refused.fetch_add(1, Ordering::SeqCst),
                        status => panic!("{status}"),
                    };
                }
            });
        }
        let mut gates: VecDeque<_> = (0..LIMIT).map(|_| held.next()).collect();
        for _ in 0..ANSWERS {
            assert!(held.none_arrived(), "more than the limit");
            gates.pop_front().expect("a request").send(()).expect("the origin waits");
            gates.push_back(held.next());
        }
        stop.store(true, Ordering::SeqCst);
        // The rest goes its way: those in flight and those who wait.
        for _ in 0..LIMIT + 4 {
            gates.pop_front().map(|gate| gate.send(()));
            gates.extend(held.gates.lock().expect("gates").recv_timeout(Duration::from_millis(200)));
        }
    });
    assert!(served.load(Ordering::SeqCst) >= ANSWERS && refused.load(Ordering::SeqCst) > CLIENTS);
    assert_eq!(held.origin.seen().len(), served.load(Ordering::SeqCst), "whatever was let in was served");
    wait_for(&gateway, 0.0, 0.0);
}

/// The limit that finds itself answers as the others do, and shows where it stands.
#[test]
fn an_adaptive_limit_starts_low_and_serves() {
    let origin = Origin::fixed("ok");
    let gateway = Gateway::start(&service_limit(&origin, "{requests_max: 500, adaptive: {min: 3}}"));
    let mut client = gateway.connect();
    assert!((0..300).all(|_| client.get("/").status == 200));
    let limit = gauge(&gateway, "max");
    assert!((3.0..=500.0).contains(&limit), "{limit}");
    assert_eq!(gateway.ask_admin("GET", "/services").json()[0]["limits"]["adaptive"], true);
}
