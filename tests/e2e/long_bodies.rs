//! Long bodies, which the kernel passes from socket to socket: their ends, their failures, and what they leave behind.

use crate::support::{GET, Gateway, Origin, Step, before, eventually, ok};

const BYTES: usize = 6 << 20;

/// Open descriptors of the gateway, and of these its pipes.
fn descriptors(gateway: &Gateway) -> (usize, usize) {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("a running gateway").flatten();
    let targets: Vec<_> = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect();
    let pipes = targets.iter().filter(|target| target.to_string_lossy().starts_with("pipe:")).count();
    (targets.len(), pipes)
}

fn with_rules(origin: &Origin, listener: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{name: public, address: 127.0.0.1:0, limits: {{{listener}}}}}]\n\
         services: [{{name: up, endpoints: [\"{}\"], timeouts: {{between_bytes: 300ms}}}}]\n\
         routes: [{{name: all, prefix: /, service: up}}]\n",
        origin.address
    ))
}

#[track_caller]
fn wait_error(gateway: &Gateway, reason: &str) {
    eventually(reason, || (gateway.metric("gateway_errors_total", &[reason]) >= 1.0).then_some(()));
}

#[test]
fn a_response_cut_in_its_middle_never_looks_whole() {
    let origin = Origin::start(|seen| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n");
        let half = [head.as_bytes(), &vec![b'x'; BYTES / 2]].concat();
        let end = match seen.path() {
            "/close" => Step::Close,
            "/reset" => Step::Reset,
            _ => Step::Hang,
        };
        vec![Step::Send(half), end]
    });
    let gateway = with_rules(&origin, "body_bytes_max: 1MiB");
    for path in ["/close", "/reset", "/hang"] {
        let mut client = gateway.connect();
        let response = client.get(path);
        assert!(!response.complete && response.body.len() <= BYTES / 2, "{path}");
        assert!(client.is_closed(), "{path}");
    }
    wait_error(&gateway, "upstream_truncated");
    wait_error(&gateway, "upstream_timeout");
}

#[test]
fn a_client_that_leaves_takes_nothing_along() {
    let origin = Origin::start(|_| ok(vec![b'x'; BYTES * 4]));
    let gateway = before(&origin);
    gateway.get("/warm");
    let before = descriptors(&gateway);
    for _ in 0..20 {
        let mut client = gateway.connect();
        client.send(GET);
        client.peek(200_000);
    }
    eventually("descriptors come back", || (descriptors(&gateway).0 <= before.0 + 1).then_some(()));
    assert!(descriptors(&gateway).1 <= before.1, "pipes with bytes in them are closed");
    assert_eq!(gateway.get("/again").body.len(), BYTES * 4);
}

#[test]
fn a_client_that_does_not_read_is_cut_at_its_deadline() {
    let origin = Origin::start(|_| ok(vec![b'x'; BYTES * 8]));
    let gateway = with_rules(&origin, "write_timeout: 300ms");
    let mut client = gateway.connect();
    client.send(GET);
    client.peek(1);
    wait_error(&gateway, "client_stalled");
    assert!(!client.response().complete);
}

#[test]
fn an_upload_that_stops_is_answered_and_not_passed_as_whole() {
    let origin = Origin::start(|_| ok("whole"));
    let gateway = with_rules(&origin, "body_timeout: 300ms, body_bytes_max: 64MiB");
    let mut client = gateway.connect();
    client.send(format!("POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: {BYTES}\r\n\r\n"));
    client.send(vec![b'x'; BYTES / 2]);
    let response = client.response();
    assert_eq!((response.status, response.reason().as_str()), (408, "body_timeout"));
    let mut leaver = gateway.connect();
    leaver.send(format!("POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: {BYTES}\r\n\r\n"));
    leaver.send(vec![b'x'; BYTES / 2]);
    leaver.shutdown_write();
    drop(leaver);
    wait_error(&gateway, "client_closed");
    assert!(origin.seen().is_empty(), "the origin saw a whole request");
}

#[test]
fn an_answer_in_the_middle_of_an_upload_reaches_its_client() {
    let origin = Origin::early(|_| {
        let answer = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno".to_vec();
        vec![Step::Send(answer), Step::Hang]
    });
    let gateway = with_rules(&origin, "body_bytes_max: 64MiB");
    for _ in 0..3 {
        let mut client = gateway.connect();
        client.send(format!("POST /x HTTP/1.1\r\nHost: t\r\nContent-Length: {BYTES}\r\n\r\n"));
        // The gateway reads on within bounds, then closes: a part of this may not be sent.
        client.try_send(vec![b'x'; BYTES]);
        let response = client.try_response(false);
        let (status, text) = response.map(|r| (r.status, r.text())).unwrap_or_default();
        assert_eq!((status, text.as_str()), (403, "no"));
    }
}

#[test]
fn many_at_once_come_whole_and_in_turn() {
    let origin = Origin::start(|seen| ok(vec![seen.path().as_bytes()[1]; BYTES]));
    let gateway = before(&origin);
    let mut clients: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    for round in 0..2 {
        for (at, client) in clients.iter_mut().enumerate() {
            client.send(format!("GET /{} HTTP/1.1\r\nHost: t\r\n\r\n", (at + round) % 8));
        }
        for (at, client) in clients.iter_mut().enumerate() {
            let response = client.response();
            let wanted = b'0' + ((at + round) % 8) as u8;
            assert!(response.complete && response.body.len() == BYTES, "{at}");
            assert!(response.body.iter().all(|byte| *byte == wanted), "{at}: bytes of another response");
        }
    }
}

#[test]
fn a_stalled_way_costs_no_time_of_the_worker() {
    let origin = Origin::start(|_| ok(vec![b'x'; BYTES * 8]));
    let gateway = before(&origin);
    let mut stalled: Vec<_> = (0..10).map(|_| gateway.connect()).collect();
    for client in &mut stalled {
        client.send(GET);
        client.peek(1);
    }
    gateway.wait_idle();
    assert_eq!(gateway.ask_admin("GET", "/health").status, 200);
    gateway.wait_idle();
}
