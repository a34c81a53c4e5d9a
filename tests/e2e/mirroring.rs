//! Copies of requests for a second service: whatever that does, clients notice nothing; what becomes of copies is
//! counted, here and at the servers.

use std::net::TcpListener;

use crate::support::gateway::Plan;
use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::{Gateway, Origin, Step, eventually, ok};

fn config(main: &Origin, shadow: impl std::fmt::Display, mirror: &str, more: &str) -> String {
    format!(
        "services:\n  - {{name: main, endpoints: [\"{}\"]}}\n  - {{name: shadow, endpoints: [\"{shadow}\"]{more}}}\n\
         routes: [{{name: all, path: /*, service: main, mirror: {mirror}}}]\n",
        main.address
    )
}

fn mirrored(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("ringway_mirrored_requests_total", &["service=\"shadow\"", &format!("result=\"{result}\"")])
}

fn wait_for(gateway: &Gateway, result: &str, count: f64) {
    eventually(&format!("{count} {result}"), || (mirrored(gateway, result) == count).then_some(()));
}

fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: t\r\nX-Own: 1\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

#[test]
fn a_copy_is_the_request_with_a_mark() {
    let (main, shadow) = (Origin::fixed("main"), Origin::fixed("shadow"));
    let gateway = Gateway::start(&config(&main, shadow.address, "shadow", ""));
    let mut client = gateway.connect();
    assert_eq!(client.get("/a?b=c").text(), "main");
    wait_for(&gateway, "answered", 1.0);
    let (seen, copy) = (main.last(), shadow.last());
    assert_eq!((copy.line(), copy.header("x-mirrored")), (seen.line(), Some("true")));
    assert_eq!((seen.header("x-mirrored"), copy.header("host")), (None, seen.header("host")));
    assert_eq!(copy.header("x-request-id"), seen.header("x-request-id"), "they can be told to belong together");
    assert!(copy.header("x-request-id").is_some() && copy.header("x-forwarded-for").is_some());
    // Bodies, of a known length and without one.
    client.send(post("/post", "hello"));
    assert_eq!(client.response().text(), "main");
    wait_for(&gateway, "answered", 2.0);
    client
        .send("PUT /chunks HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "main");
    wait_for(&gateway, "answered", 3.0);
    let bodies: Vec<_> = shadow.seen().into_iter().map(|seen| seen.body).collect();
    assert_eq!(bodies, [&b""[..], b"hello", b"hello"]);
    assert_eq!(shadow.connections(), 1, "answers are read, so that the connection is used again");
    assert_eq!(gateway.metric("gateway_requests_total", &["path=\"/*\""]), 3.0, "copies are no requests of clients");
}

/// Whatever the second service does, clients get their answers, and one after the other: none waits for a copy.
#[test]
fn clients_notice_nothing_of_a_service_that_fails() {
    let nobody = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let garbage = Origin::start(|_| vec![Step::Send(b"\x16\x03 no HTTP\r\n\r\n".to_vec()), Step::Close]);
    let closing = Origin::start(|_| vec![Step::Close]);
    let cut = Origin::start(|_| {
        vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly".to_vec()), Step::Close]
    });
    for shadow in [nobody, garbage.address, closing.address, cut.address] {
        let main = Origin::fixed("main");
        let gateway = Gateway::start(&config(&main, shadow, "shadow", ""));
        let mut client = gateway.connect();
        for at in 0..5 {
            client.send(post(&format!("/{at}"), "body"));
            assert_eq!((client.response().text(), client.get("/").text()), ("main".into(), "main".into()));
        }
        wait_for(&gateway, "failed", 10.0);
        assert_eq!((main.seen().len(), mirrored(&gateway, "answered")), (10, 0.0));
        assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0, "no error of the gateway's clients");
    }
}

#[test]
fn a_service_that_hangs_holds_no_more_than_its_bound() {
    let (main, shadow) = (Origin::fixed("main"), Origin::start(|_| vec![Step::Hang]));
    // Bounds are of the process, not of each of its workers.
    let mirror = "{service: shadow, requests_max: 2, timeout: 600s}";
    let yaml = |mirror: &str| {
        let rest = config(&main, shadow.address, mirror, ", timeouts: {first_byte: 600s}");
        format!("server: {{workers: 3}}\n{rest}")
    };
    let gateway = Plan::new(&yaml(mirror)).start();
    let mut clients: Vec<_> = (0..10).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "main"));
    wait_for(&gateway, "refused", 8.0);
    let used = gateway.by_worker("ringway_worker_requests_total", 3).iter().filter(|count| **count > 0.0).count();
    assert!(used > 1, "one worker had it all");
    let mut client = clients.remove(0);
    eventually("two copies", || (shadow.seen().len() == 2).then_some(()));
    // A reload changes nothing of what is under way, and nobody waits for it at the stop.
    let reloaded = yaml("{service: shadow, requests_max: 3, timeout: 600s}");
    assert_eq!(gateway.reload(&reloaded).status, 200);
    (0..3).for_each(|_| assert_eq!(client.get("/").text(), "main"));
    eventually("a third copy", || (shadow.seen().len() == 3).then_some(()));
    assert_eq!((mirrored(&gateway, "refused"), mirrored(&gateway, "failed")), (10.0, 0.0));
    drop((client, clients));
    let mut gateway = gateway;
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn a_copy_that_takes_too_long_ends() {
    let (main, shadow) = (Origin::fixed("main"), Origin::start(|_| vec![Step::Hang]));
    let gateway = Gateway::start(&config(&main, shadow.address, "{service: shadow, timeout: 50ms}", ""));
    assert_eq!(gateway.get("/").text(), "main");
    wait_for(&gateway, "failed", 1.0);
}

#[test]
fn a_body_over_the_bound_is_passed_on_and_not_copied() {
    let (main, shadow) = (Origin::start(|seen| ok(seen.body.len().to_string())), Origin::fixed("shadow"));
    let gateway = Gateway::start(&config(&main, shadow.address, "{service: shadow, body_bytes_max: 1KiB}", ""));
    let long = "x".repeat(100_000);
    assert_eq!(gateway.ask(post("/known", &long)).text(), "100000");
    let chunked =
        format!("POST /chunks HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n{long}\r\n0\r\n\r\n");
    assert_eq!(gateway.ask(chunked).text(), "100000");
    let trailers = "POST /t HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-T: 1\r\n\r\n";
    assert_eq!(gateway.ask(trailers).text(), "1");
    wait_for(&gateway, "body_too_long", 3.0);
    assert_eq!(gateway.ask(post("/fits", &long[..1024])).text(), "1024");
    wait_for(&gateway, "answered", 1.0);
    assert_eq!(shadow.seen().iter().map(|seen| seen.body.len()).collect::<Vec<_>>(), [1024]);
}

#[test]
fn half_a_body_is_not_copied() {
    let (main, shadow) = (Origin::fixed("main"), Origin::fixed("shadow"));
    let gateway = Gateway::start(&config(&main, shadow.address, "shadow", ""));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhalf");
    drop(client);
    wait_for(&gateway, "body_incomplete", 1.0);
    assert_eq!(shadow.connections(), 0);
}

#[test]
fn a_long_answer_is_not_read_to_its_end() {
    let (main, shadow) = (Origin::fixed("main"), Origin::fixed(&"x".repeat(8 << 20)));
    let gateway = Gateway::start(&config(&main, shadow.address, "shadow", ""));
    assert_eq!(gateway.get("/").text(), "main");
    wait_for(&gateway, "answered", 1.0);
}

#[test]
fn copies_are_not_copied_again() {
    // A gateway whose second service is itself.
    let port = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = port.local_addr().expect("an address");
    let main = Origin::fixed("main");
    let yaml = config(&main, address, "shadow", "");
    let gateway = Plan::new(&format!("listeners: [\"{address}\"]\n{yaml}")).socket(port).start();
    assert_eq!(gateway.get("/").text(), "main");
    wait_for(&gateway, "answered", 1.0);
    eventually("the request and its copy", || (main.seen().len() == 2).then_some(()));
    gateway.wait_idle();
    assert_eq!(main.seen().len(), 2, "and no copy of the copy");
}

#[test]
fn a_part_of_the_requests_is_copied() {
    let (main, shadow) = (Origin::fixed("main"), Origin::fixed("shadow"));
    let mirror = "{service: shadow, percent: 25%, requests_max: 1000}";
    let gateway = Gateway::start(&config(&main, shadow.address, mirror, ""));
    let mut client = gateway.connect();
    (0..400).for_each(|_| assert_eq!(client.get("/").text(), "main"));
    // 100 are expected; 50 are six deviations away.
    eventually("copies", || {
        let all = mirrored(&gateway, "answered") + mirrored(&gateway, "failed");
        (all == shadow.seen().len() as f64 && (50.0..=150.0).contains(&all)).then_some(())
    });
}

#[test]
fn copies_go_over_http_2() {
    let main = Origin::fixed("main");
    let shadow = H2Origin::start(|seen| Answer::ok(&seen.body));
    let gateway = Gateway::start(&config(&main, shadow.address, "shadow", ", protocol: h2"));
    assert_eq!(gateway.ask(post("/a", "hello")).text(), "main");
    assert_eq!(gateway.get("/b").text(), "main");
    wait_for(&gateway, "answered", 2.0);
    let mut seen = shadow.seen();
    seen.sort_by_key(|seen| seen.path().to_owned());
    assert_eq!((seen[0].path(), &seen[0].body[..], seen[0].get("x-mirrored")), ("/a", &b"hello"[..], Some("true")));
    assert_eq!((seen[1].path(), seen[1].get(":method")), ("/b", Some("GET")));
}

/// The second service's own limits hold, and it waits in no queue.
#[test]
fn a_copy_takes_no_place_that_is_not_free() {
    let (main, shadow) = (Origin::fixed("main"), Origin::start(|_| vec![Step::Hang]));
    let limits = ", limits: {requests_max: 1}, timeouts: {first_byte: 600s}";
    let gateway = Gateway::start(&config(&main, shadow.address, "{service: shadow, timeout: 600s}", limits));
    let mut client = gateway.connect();
    assert_eq!(client.get("/").text(), "main");
    eventually("a copy", || (shadow.seen().len() == 1).then_some(()));
    (0..5).for_each(|_| assert_eq!(client.get("/").text(), "main"));
    wait_for(&gateway, "refused", 5.0);
    assert_eq!(shadow.seen().len(), 1);
}
