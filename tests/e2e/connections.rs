//! Connections to clients and to endpoints: how long they live, and what goes over them.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use crate::support::{Client, GET, Gateway, Origin, Response, Seen, Step, before, eventually, ok, proxy_to};

/// A script that waits in its middle until the returned sender speaks.
fn gated(before: &'static [u8], after: &'static [u8]) -> (Sender<()>, impl Fn(&Seen) -> Vec<Step> + Send + Sync) {
    let (go, wait) = channel();
    let wait = Mutex::new(Some(wait));
    let script = move |_: &Seen| {
        let mut steps = vec![Step::Send(before.to_vec())];
        if let Some(wait) = wait.lock().expect("the gate").take() {
            steps.push(Step::Await(wait));
        }
        steps.push(Step::Send(after.to_vec()));
        steps
    };
    (go, script)
}

#[test]
fn one_connection_serves_many_requests_over_one_upstream_connection() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for number in 0..20 {
        let response = client.get(&format!("/{number}?q={number}"));
        assert_eq!((response.status, response.text()), (200, format!("GET /{number}?q={number}")));
        assert!(!response.closes());
    }
    assert_eq!((origin.connections(), origin.seen().len()), (1, 20));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|seen| ok([seen.line().as_bytes(), &seen.body].concat()));
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send(
        "GET /1 HTTP/1.1\r\nHost: t\r\n\r\n\
         POST /2 HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nfour\
         POST /3 HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
         HEAD /4 HTTP/1.1\r\nHost: t\r\n\r\n\
         GET /5 HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n\
         GET /never HTTP/1.1\r\nHost: t\r\n\r\n",
    );
    assert_eq!(client.response().text(), "GET /1");
    assert_eq!(client.response().text(), "POST /2four");
    assert_eq!(client.response().text(), "POST /3abc");
    assert_eq!(client.head_response().head.length(), Some(7));
    let last = client.response();
    assert_eq!((last.text().as_str(), last.closes()), ("GET /5", true));
    assert!(client.is_closed());
    assert_eq!(origin.seen().len(), 5);
}

#[test]
fn http_1_0_closes_unless_asked_to_keep() {
    let origin = Origin::fixed("hello");
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.0\r\nHost: t\r\nConnection: keep-alive\r\n\r\n");
    let first = client.response();
    assert_eq!((first.text().as_str(), first.header("connection")), ("hello", Some("keep-alive")));
    client.send("GET / HTTP/1.0\r\n\r\n");
    let second = client.response();
    assert_eq!((second.text().as_str(), second.closes()), ("hello", true));
    assert!(client.is_closed());
    assert!(origin.seen().iter().all(|seen| seen.head.start == "GET / HTTP/1.1"));
}

#[test]
fn a_client_may_close_its_sending_side() {
    let (go, script) = gated(b"", b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nlate");
    let origin = Origin::start(script);
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send(GET);
    client.shutdown_write();
    origin.wait_bytes(10);
    go.send(()).expect("the origin waits");
    assert_eq!(client.response().text(), "late");
    assert!(client.is_closed());
}

#[test]
fn many_clients_at_once_get_their_own_answers() {
    let origin = Origin::start(|seen| ok([seen.path().as_bytes(), &seen.body].concat()));
    let gateway = Gateway::start(&format!("server: {{workers: 2}}\n{}", proxy_to(&origin)));
    thread::scope(|scope| {
        for number in 0..16 {
            let gateway = &gateway;
            scope.spawn(move || {
                let mut client = gateway.connect();
                for turn in 0..50 {
                    let path = format!("/{number}/{turn}");
                    client.send(format!(
                        "POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{path}",
                        path.len()
                    ));
                    assert_eq!(client.response().text(), format!("{path}{path}"));
                }
            });
        }
    });
    assert_eq!(origin.seen().len(), 800);
    // Until the origin has shown that it keeps connections, each POST has its own.
    assert!(origin.connections() <= 16 + 100, "{} upstream connections", origin.connections());
}

#[test]
fn upstream_connections_are_shared_by_clients() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    for _ in 0..10 {
        assert_eq!(gateway.ask(GET).status, 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn upstream_connections_end_after_their_number_of_requests() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], pool: {{requests_max: 3}}}}]\n\
         routes: [{{path: /*, service: up}}]\n",
        origin.address
    ));
    let mut client = gateway.connect();
    for _ in 0..9 {
        assert_eq!(client.get("/").status, 200);
    }
    let connections: Vec<_> = origin.seen().iter().map(|seen| seen.connection).collect();
    assert_eq!(connections, [0, 0, 0, 1, 1, 1, 2, 2, 2]);
}

#[test]
fn without_a_pool_each_request_has_its_connection() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], pool: {{idle_max: 0}}}}]\nroutes: [{{path: /*, service: up}}]\n",
        origin.address
    ));
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn upstream_close_is_honoured() {
    let origin = Origin::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for _ in 0..3 {
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.closes()), ("ok", false));
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn bytes_behind_a_response_poison_the_connection() {
    let poison = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    let origin = Origin::bytes(poison);
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for _ in 0..5 {
        assert_eq!(client.get("/").text(), "ok");
    }
    assert_eq!(origin.connections(), 5);
}

#[test]
fn a_stale_connection_is_replaced_without_the_client_seeing_it() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for number in 0..10 {
        let response = match number % 2 {
            0 => client.get("/get"),
            _ => {
                client.send("POST /post HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody");
                client.response()
            }
        };
        assert_eq!(response.status, 200, "request {number}");
        origin.close_connections();
    }
    assert_eq!(origin.seen().len(), 10, "nothing was sent twice");
}

/// Answers the first request of a connection and resets at the second.
fn once_per_connection() -> Origin {
    let used = Mutex::new(std::collections::HashSet::new());
    Origin::start(move |seen| match used.lock().expect("connections").insert(seen.connection) {
        true => ok("first"),
        false => vec![Step::Reset],
    })
}

#[test]
fn a_get_is_repeated_when_a_kept_connection_breaks() {
    let origin = once_per_connection();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for _ in 0..4 {
        let response = client.get("/");
        assert_eq!((response.status, response.text().as_str()), (200, "first"));
    }
}

#[test]
fn a_post_that_went_out_is_never_sent_again() {
    let origin = once_per_connection();
    let gateway = before(&origin);
    let mut client = gateway.connect();
    let post = "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody";
    client.send(post);
    assert_eq!(client.response().status, 200);
    // Long enough to show that the endpoint keeps its connections.
    thread::park_timeout(Duration::from_millis(2 * ringway::limits::POOL_PROOF_MS));
    client.send(post);
    let broken = client.response();
    assert_eq!((broken.status, broken.reason().as_str()), (502, "upstream_reset"));
    assert_eq!(origin.seen().len(), 2);
}

#[test]
fn connections_end_after_their_number_of_requests() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", limits: {{requests_max: 3}}}}]\n{}",
        proxy_to(&origin)
    ));
    let mut client = gateway.connect();
    let closes: Vec<_> = (0..3).map(|_| client.get("/").closes()).collect();
    assert_eq!(closes, [false, false, true]);
    assert!(client.is_closed());
}

#[test]
fn requests_with_bodies_for_gateway_answers_keep_the_connection_in_order() {
    let gateway = Gateway::start("routes: [{path: /here, respond: {body: here}}]\n");
    let mut client = gateway.connect();
    client.send(
        "POST /here HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhelloGET /nowhere HTTP/1.1\r\nHost: t\r\n\r\n",
    );
    let first: Response = client.response();
    assert_eq!((first.text().as_str(), first.closes()), ("here", false));
    assert_eq!(client.response().status, 404);
    // A body that has not come yet: nobody waits for it.
    client.send("POST /here HTTP/1.1\r\nHost: t\r\nContent-Length: 5\r\n\r\nhe");
    let half = client.response();
    assert_eq!((half.text().as_str(), half.closes()), ("here", true));
    assert!(client.is_closed());
}

#[test]
fn several_listeners_serve_the_same_routes() {
    let gateway = Gateway::start(
        "listeners: [\"127.0.0.1:0\", {address: \"[::1]:0\"}]\nroutes: [{path: /*, respond: {body: hi}}]\n",
    );
    assert_eq!(gateway.addresses.len(), 2);
    for address in &gateway.addresses {
        assert_eq!(Client::connect(*address).get("/").text(), "hi");
    }
}

#[test]
fn a_listener_takes_no_more_connections_than_its_bound() {
    let gateway = Gateway::start(
        "listeners: [{address: \"127.0.0.1:0\", limits: {connections_max: 3}}]\n\
         routes: [{path: /*, respond: {body: here}}]\n",
    );
    let mut held: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for client in &mut held {
        assert_eq!(client.get("/").text(), "here");
    }
    let mut fourth = gateway.connect();
    fourth.try_send(GET);
    assert!(fourth.try_response(false).is_none_or(|response| response.status == 503));
    assert_eq!(held[0].get("/").text(), "here", "those that are served stay");
    assert!(gateway.metric("ringway_worker_refused_total", &["connections"]) >= 1.0);
    drop(held);
    eventually("there is room again", || {
        let mut client = gateway.connect();
        client.try_send(GET);
        client.try_response(false).filter(|response| response.status == 200)
    });
}

#[test]
fn connections_end_at_their_age() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", limits: {{age_max: 200ms}}}}]\n{}",
        proxy_to(&origin)
    ));
    let mut client = gateway.connect();
    assert!(!client.get("/").closes());
    eventually("a response announces the end", || client.get("/").closes().then_some(()));
    assert!(client.is_closed());
}

#[test]
fn idle_upstream_connections_are_closed() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], pool: {{idle_timeout: 100ms}}}}]\nroutes: [{{path: /*, service: up}}]\n",
        origin.address
    ));
    assert_eq!(gateway.get("/").status, 200);
    let idle = || gateway.ask_admin("GET", "/services/up/endpoints").json()[0]["idle_connections"].as_u64();
    eventually("the pool is empty", || (idle() == Some(0)).then_some(()));
    assert_eq!(gateway.get("/").status, 200);
    assert_eq!(origin.connections(), 2);
}
