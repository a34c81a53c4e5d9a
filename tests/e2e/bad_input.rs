//! What clients and origins do wrong: the right refusal, nothing passed on, nobody else disturbed (F22–F54).

use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, Gateway, Origin, Step, ok, proxy_to};

#[test]
fn the_reason_comes_in_the_form_that_the_client_reads() {
    let gateway = Gateway::start("routes: [{path: /a, respond: 200}]\n");
    let json = gateway.get("/nowhere");
    let body = json.json();
    assert_eq!(json.header("content-type"), Some("application/json"));
    assert_eq!(
        (&body["error"], &body["status"], &body["reason"]),
        (&"Route not found".into(), &404.into(), &"no_route".into())
    );
    assert_eq!(body["request_id"].as_str(), json.header("x-request-id"));
    assert!(body["timestamp"].is_number());
    let problem = gateway.ask("GET /b HTTP/1.1\r\nHost: a\r\nAccept: application/problem+json\r\n\r\n");
    assert_eq!(problem.header("content-type"), Some("application/problem+json"));
    assert_eq!(problem.json()["type"], "urn:ringway:reason:no_route");
    let text = gateway.ask("GET /b HTTP/1.1\r\nHost: a\r\nAccept: text/plain\r\n\r\n");
    assert!(text.text().starts_with("Route not found (no_route, request "), "{}", text.text());
}

/// A gateway with these limits on its listener.
fn limited(origin: &Origin, limits: &str) -> Gateway {
    Gateway::start(&format!("listeners: [{{address: \"127.0.0.1:0\", limits: {{{limits}}}}}]\n{}", proxy_to(origin)))
}

#[test]
fn sizes_are_refused_at_the_byte() {
    let origin = Origin::fixed("ok");
    let gateway =
        limited(&origin, "target_bytes_max: 100B, field_bytes_max: 200B, header_bytes_max: 1KiB, fields_max: 10");
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - 1));
    let field = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(bytes - 1));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    let head = |bytes: usize| {
        let most = format!("GET / HTTP/1.1\r\nHost: a\r\n{}", format!("X: {}\r\n", "a".repeat(150)).repeat(6));
        let last = bytes - most.len() - "Y: \r\n\r\n".len();
        format!("{most}Y: {}\r\n\r\n", "a".repeat(last))
    };
    type Case<'a> = (&'a dyn Fn(usize) -> String, usize, u16, &'a str);
    let cases: [Case<'_>; 4] = [
        (&target, 100, 414, "uri_too_long"),
        (&field, 200, 431, "header_too_large"),
        (&fields, 10, 431, "header_too_large"),
        (&head, 1024, 431, "header_too_large"),
    ];
    for (make, most, status, reason) in cases {
        assert_eq!(gateway.ask(make(most)).status, 200, "{reason} at {most}");
        let over = gateway.ask(make(most + 1));
        assert_eq!((over.status, over.reason().as_str(), over.closes()), (status, reason, true));
        let far_over = gateway.ask(make(most * 900));
        assert_eq!((far_over.status, far_over.closes()), (status, true), "{reason} far over");
    }
    assert_eq!(origin.seen().len(), 4);
    // A head that never ends is refused as soon as it is too long.
    let mut client = gateway.connect();
    client.send(format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(9)));
    client.send(format!("Z: {}", "a".repeat(2000)));
    assert_eq!(client.response().status, 431);
    let mut client = gateway.connect();
    client.send(format!("GET /{}", "a".repeat(200)));
    assert_eq!(client.response().status, 414);
}

#[test]
fn default_sizes_are_those_of_the_documentation() {
    let origin = Origin::fixed("ok");
    let gateway = Gateway::start(&proxy_to(&origin));
    let target = |bytes: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(bytes - 1));
    assert_eq!((gateway.ask(target(8192)).status, gateway.ask(target(8193)).status), (200, 414));
    let field = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(bytes - 1));
    assert_eq!((gateway.ask(field(16384)).status, gateway.ask(field(16385)).status), (200, 431));
    let fields = |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
    assert_eq!((gateway.ask(fields(100)).status, gateway.ask(fields(101)).status), (200, 431));
    let announced =
        |bytes: u64| format!("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: {bytes}\r\n\r\n");
    let over = gateway.ask(announced((10 << 20) + 1));
    assert_eq!((over.status, over.interim.len()), (413, 0));
    let mut client = gateway.connect();
    client.send(announced(10 << 20));
    assert_eq!(client.read_head().map(|head| head.start), Some("HTTP/1.1 100 Continue".into()));
}

#[test]
fn bodies_are_bounded_however_they_come() {
    let origin = Origin::start(|seen| ok(seen.body.len().to_string()));
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", limits: {{body_bytes_max: 1000B}}}}]\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{path: /a, service: up}}, {{path: /large, service: up, body_bytes_max: 2000B}}]\n",
        origin.address
    ));
    let known = |path: &str, bytes: usize| {
        let body = "x".repeat(bytes);
        gateway.ask(format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{body}"))
    };
    let chunked = |path: &str, bytes: usize| {
        let mut client = gateway.connect();
        client.send(format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"));
        for _ in 0..bytes / 100 {
            client.send(format!("64\r\n{}\r\n", "x".repeat(100)));
        }
        client.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", bytes % 100 + 1, "x".repeat(bytes % 100 + 1)));
        client.response()
    };
    for (path, most) in [("/a", 1000), ("/large", 2000)] {
        assert_eq!(known(path, most).text(), most.to_string());
        assert_eq!(chunked(path, most - 1).text(), most.to_string());
        for over in [known(path, most + 1), chunked(path, most)] {
            assert_eq!((over.status, over.reason().as_str()), (413, "body_too_large"), "{path}");
        }
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
        let endless = gateway.ask(format!("{head}{:x}\r\n{}", most + 1, "x".repeat(most + 1)));
        assert_eq!((endless.status, endless.closes()), (413, true), "nobody waits for its end");
    }
    assert_eq!(origin.seen().len(), 4);
}

#[test]
fn trailers_and_chunk_extensions_are_bounded() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&proxy_to(&origin));
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for body in [
        format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(5000)),
        format!("0\r\nX: {}\r\n\r\n", "x".repeat(9000)),
        format!("0\r\n{}\r\n", "X: y\r\n".repeat(2000)),
    ] {
        let response = gateway.ask(format!("{head}{body}"));
        assert!(matches!(response.status, 400 | 431) && response.closes(), "{response:?}");
    }
    assert!(origin.seen().is_empty());
    // Fields that would change what the message means are left out of a trailer section (RFC 9110 section 6.5.1).
    let odd = gateway.ask(format!("{head}0\r\nContent-Length: 5\r\nHost: evil\r\nAuthorization: b\r\nX: y\r\n\r\n"));
    assert_eq!((odd.status, origin.last().trailers.as_str()), (200, "X: y\n"));
}

#[test]
fn slow_clients_are_let_go() {
    let origin = Origin::echo();
    let gateway = limited(&origin, "header_timeout: 1s, body_timeout: 1s, idle_timeout: 1s, write_timeout: 1s");
    let begun = Instant::now();
    let mut silent = gateway.connect();
    let mut half_head = gateway.connect();
    half_head.send("GET / HTTP/1.1\r\nHost: a\r\n");
    let mut half_body = gateway.connect();
    half_body.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello");
    let mut half_chunk = gateway.connect();
    half_chunk.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel");
    let mut idle = gateway.connect();
    assert_eq!(idle.get("/").status, 200);
    assert!(silent.is_closed(), "a client that says nothing gets nothing");
    for (client, reason) in
        [(&mut half_head, "header_timeout"), (&mut half_body, "body_timeout"), (&mut half_chunk, "body_timeout")]
    {
        let response = client.response();
        assert_eq!((response.status, response.reason().as_str(), response.closes()), (408, reason, true));
        assert!(client.is_closed());
    }
    assert!(idle.is_closed());
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_head_in_drips_has_one_deadline_for_all() {
    let origin = Origin::echo();
    let gateway = limited(&origin, "header_timeout: 300ms");
    let mut client = gateway.connect();
    let begun = Instant::now();
    // One byte each 20 ms would take seconds.
    for byte in b"GET / HTTP/1.1\r\nHost: a\r\nX-Filler: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" {
        if !client.try_send([*byte]) || begun.elapsed() > Duration::from_millis(400) {
            break;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
    assert_eq!(client.response().status, 408);
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let origin = Origin::start(|_| ok(vec![b'x'; 16 << 20]));
    let gateway = limited(&origin, "write_timeout: 200ms");
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.peek(1);
    crate::support::eventually("the stalled client is counted", || {
        (gateway.metric("gateway_errors_total", &["client_stalled"]) == 1.0).then_some(())
    });
    let response = client.response();
    assert!(!response.complete, "cut, never completed");
}

/// What one kind of faulty answer becomes.
fn through(script: fn() -> Vec<Step>, rules: &str) -> (u16, String) {
    let origin = Origin::start(move |_| script());
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]{rules}}}, {{name: good, endpoints: [\"{}\"]}}]\n\
         routes: [{{path: /*, service: up}}]\n",
        origin.address, origin.address
    ));
    let mut client = gateway.connect();
    let response = client.get("/");
    assert!(!response.closes(), "the client's connection is fine: {response:?}");
    assert_eq!(client.get("/again").status, response.status, "and serves on");
    let word = response.reason();
    assert!(gateway.metric("gateway_errors_total", &[&format!("\"{word}\"")]) >= 2.0, "{}", gateway.metrics());
    (response.status, word)
}

#[test]
fn faulty_answers_become_502_with_a_reason() {
    let invalid = (502, "upstream_invalid".to_owned());
    let large = (502, "upstream_header_too_large".to_owned());
    assert_eq!(through(|| vec![Step::Close], ""), (502, "upstream_closed".into()));
    assert_eq!(through(|| vec![Step::Reset], ""), (502, "upstream_reset".into()));
    assert_eq!(through(|| vec![Step::Send(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), Step::Close], ""), invalid);
    assert_eq!(through(|| vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()), Step::Close], ""), invalid);
    assert_eq!(through(|| vec![Step::Send(b"HTTP/1.1 200 OK\nContent-Length: 0\n\n".to_vec())], ""), invalid);
    assert_eq!(
        through(
            || vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na".to_vec())],
            ""
        ),
        invalid
    );
    assert_eq!(
        through(
            || vec![Step::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec())],
            ""
        ),
        invalid
    );
    assert_eq!(through(|| vec![Step::Send(b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec())], ""), invalid);
    let many = || vec![Step::Send(format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(200)).into_bytes())];
    assert_eq!(through(many, ""), large);
    let long = || vec![Step::Send(format!("HTTP/1.1 200 OK\r\nA: {}\r\n\r\n", "b".repeat(1 << 20)).into_bytes())];
    assert_eq!(through(long, ""), large);
}

#[test]
fn silent_origins_become_504_with_a_reason() {
    let timeouts = ", timeouts: {first_byte: 100ms}";
    assert_eq!(through(|| vec![Step::Hang], timeouts), (504, "upstream_timeout".into()));
    let half = || vec![Step::Send(b"HTTP/1.1 200 OK\r\n".to_vec()), Step::Hang];
    assert_eq!(through(half, timeouts), (504, "upstream_timeout".into()));
    let drip = || vec![Step::Drip(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec(), Duration::from_millis(10))];
    assert_eq!(through(drip, timeouts), (504, "upstream_timeout".into()));
}

#[test]
fn the_whole_request_has_a_deadline() {
    let origin = Origin::start(|_| vec![Step::Hang]);
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{path: /*, service: up, timeout: 100ms}}]\n",
        origin.address
    ));
    let response = gateway.get("/");
    assert_eq!((response.status, response.reason().as_str()), (504, "request_timeout"));
}

#[test]
fn an_origin_that_is_not_there_is_502_and_none_is_503() {
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("an address");
    let gateway = Gateway::start(&format!(
        "services: [{{name: down, endpoints: [\"{vacant}\"]}}, {{name: none}}]\n\
         routes: [{{path: /down, service: down}}, {{path: /none, service: none}}]\n"
    ));
    let down = gateway.get("/down");
    assert_eq!((down.status, down.reason().as_str()), (502, "connect_refused"));
    let none = gateway.get("/none");
    assert_eq!((none.status, none.reason().as_str()), (503, "no_endpoint"));
    assert_eq!(none.header("retry-after"), Some("1"));
}

#[test]
fn one_bad_endpoint_of_two_costs_no_get() {
    for bad in [|| vec![Step::Close], || vec![Step::Reset], || vec![Step::Send(b"garbage\r\n\r\n".to_vec())]] {
        let (bad, good) = (Origin::start(move |_| bad()), Origin::fixed("good"));
        let gateway = Gateway::start(&format!(
            "services: [{{name: up, endpoints: [\"{}\", \"{}\"]}}]\nroutes: [{{path: /*, service: up}}]\n",
            bad.address, good.address
        ));
        let mut client = gateway.connect();
        for _ in 0..20 {
            assert_eq!(client.get("/").text(), "good");
        }
    }
    let vacant = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("an address");
    let good = Origin::fixed("good");
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{vacant}\", \"{}\"]}}]\nroutes: [{{path: /*, service: up}}]\n",
        good.address
    ));
    let mut client = gateway.connect();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
        assert_eq!(client.response().text(), "good", "nothing was sent to the one that refuses");
    }
}

/// The client's view of a response that its origin does not finish.
fn cut(answer: &'static str, end: fn() -> Step) {
    let origin = Origin::start(move |_| vec![Step::Send(answer.as_bytes().to_vec()), end()]);
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], timeouts: {{between_bytes: 200ms}}}}]\n\
         routes: [{{path: /up, service: up}}, {{path: /other, respond: {{body: fine}}}}]\n",
        origin.address
    ));
    let mut bystander = gateway.connect();
    assert_eq!(bystander.get("/other").text(), "fine");
    let mut client = gateway.connect();
    let response = client.get("/up");
    assert!(!response.complete && response.status == 200, "{answer:?} became a whole response: {response:?}");
    assert!(client.is_closed());
    assert_eq!(bystander.get("/other").text(), "fine");
    assert_eq!(origin.seen().len(), 1, "what the client has seen a part of is not asked again");
}

#[test]
fn a_response_that_breaks_off_is_never_completed() {
    let known = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n";
    let in_chunk = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64\r\nhalf";
    for answer in [known, chunked, in_chunk] {
        cut(answer, || Step::Close);
        cut(answer, || Step::Reset);
    }
    cut(known, || Step::Hang);
    // A body that is broken before the client has seen anything is an error like any other.
    let garbage = || vec![Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec())];
    assert_eq!(through(garbage, "").0, 502);
}

#[test]
fn a_client_that_leaves_ends_its_upload_and_nothing_else() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&proxy_to(&origin));
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    origin.wait_bytes(10);
    drop(client);
    crate::support::eventually("the client that left is counted", || {
        (gateway.metric("gateway_errors_total", &["client_closed"]) == 1.0).then_some(())
    });
    assert!(origin.seen().is_empty());
    assert_eq!(gateway.get("/").status, 200);
}

#[test]
fn no_answer_is_mixed_with_another_after_early_answers() {
    // F34: the origin answers before it has read, so its connection holds bytes of an unfinished request.
    let origin = Origin::early(|seen| ok(seen.path()));
    let gateway = Gateway::start(&proxy_to(&origin));
    for number in 0..200 {
        let mut client = gateway.connect();
        client.send(format!("POST /{number} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf"));
        assert_eq!(client.response().text(), format!("/{number}"));
        drop(client);
        assert_eq!(Client::connect(gateway.address).get(&format!("/get/{number}")).text(), format!("/get/{number}"));
    }
}
