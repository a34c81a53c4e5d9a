//! Messages through the gateway: how they are framed, both ways.

use crate::support::{GET, Gateway, Origin, Step, before, ok};

#[test]
fn requests_may_arrive_byte_by_byte() {
    let origin = Origin::start(|seen| ok(&seen.body));
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for byte in b"POST /x HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nA: b\r\n\r\n" {
        client.send([*byte]);
    }
    assert_eq!(client.response().text(), "hello");
    assert_eq!(origin.last().trailers, "A: b\n");
}

#[test]
fn request_bodies_arrive_whole_in_either_framing() {
    let origin = Origin::start(|seen| ok(&seen.body));
    let gateway = before(&origin);
    let known = gateway.ask("PUT /a HTTP/1.1\r\nHost: t\r\nContent-Length: 11\r\n\r\nhello world");
    assert_eq!(known.text(), "hello world");
    assert_eq!((origin.last().header("content-length"), origin.last().head.is_chunked()), (Some("11"), false));
    let chunked = "PUT /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
                   6;ext=1\r\nhello \r\n5\r\nworld\r\n0\r\nX-Sum: 42\r\n\r\n";
    assert_eq!(gateway.ask(chunked).text(), "hello world");
    let seen = origin.last();
    assert_eq!((seen.header("content-length"), seen.head.is_chunked()), (None, true));
    assert_eq!((&seen.body[..], seen.trailers.as_str()), (&b"hello world"[..], "X-Sum: 42\n"));
    assert!(!String::from_utf8_lossy(&seen.raw).contains("ext"), "chunk extensions are of one hop");
    let empty = gateway.ask("POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((empty.status, origin.last().header("content-length")), (200, Some("0")));
}

#[test]
fn chunked_responses_pass_with_their_trailers() {
    let origin = Origin::bytes(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n\
         4;a=b\r\nwiki\r\n5\r\npedia\r\n0\r\nX-Sum: 7\r\n\r\n",
    );
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.chunked), ("wikipedia", true));
        assert_eq!((response.trailers.as_str(), response.closes()), ("X-Sum: 7\n", false));
    }
    assert_eq!(origin.connections(), 1);
    // HTTP/1.0 knows neither chunks nor trailers.
    let old = gateway.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((old.text().as_str(), old.chunked, old.head.length()), ("wikipedia", false, None));
}

#[test]
fn close_delimited_responses_end_in_the_clients_own_way() {
    let origin = Origin::start(|_| vec![Step::Send(b"HTTP/1.1 200 OK\r\n\r\nuntil".to_vec()), Step::Close]);
    let gateway = before(&origin);
    let mut client = gateway.connect();
    for _ in 0..2 {
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.complete, response.closes()), ("until", true, false));
        assert!(response.chunked);
    }
    let old = gateway.ask("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!((old.text().as_str(), old.closes(), old.head.length()), ("until", true, None));
}

#[test]
fn responses_without_a_body_do_not_wait_for_one() {
    let origin = Origin::start(|seen| {
        let answer = match seen.path() {
            "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/304" => "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n",
            _ => "HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n",
        };
        vec![Step::Send(answer.into())]
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("HEAD /h HTTP/1.1\r\nHost: t\r\n\r\n");
    let head = client.head_response();
    assert_eq!((head.status, head.head.length()), (200, Some(12345)));
    let none = client.get("/204");
    assert_eq!((none.status, none.head.length(), none.head.is_chunked()), (204, None, false));
    let unchanged = client.get("/304");
    assert_eq!((unchanged.status, unchanged.header("etag")), (304, Some("\"x\"")));
    assert!(!client.get("/204").closes());
    assert_eq!(origin.connections(), 1, "all over one connection");
}

#[test]
fn interim_responses_pass_but_not_100() {
    let origin = Origin::bytes(
        "HTTP/1.1 100 Continue\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n\
         HTTP/1.1 103 Early Hints\r\nLink: </b.css>; rel=preload\r\n\r\n\
         HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
    );
    let gateway = before(&origin);
    let response = gateway.ask(GET);
    let hints: Vec<_> = response.interim.iter().map(|head| (head.start.as_str(), head.get("link"))).collect();
    assert_eq!(
        hints,
        [
            ("HTTP/1.1 103 Early Hints", Some("</a.css>; rel=preload")),
            ("HTTP/1.1 103 Early Hints", Some("</b.css>; rel=preload"))
        ]
    );
    assert_eq!(response.text(), "hi");
    let old = gateway.ask("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((old.interim.len(), old.text().as_str()), (0, "hi"));
}

#[test]
fn too_many_interim_responses_are_a_fault() {
    let mut flood = b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n".repeat(1000);
    flood.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    let origin = Origin::bytes(flood);
    let gateway = before(&origin);
    let response = gateway.ask(GET);
    assert_eq!((response.status, response.reason().as_str()), (502, "upstream_invalid"));
    assert!(response.interim.len() <= 34, "{} passed", response.interim.len());
}

#[test]
fn continue_is_said_only_where_the_body_is_wanted() {
    let origin = Origin::start(|seen| ok(&seen.body));
    let yaml = format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{path: /up, service: up, body_bytes_max: 10B}}, {{path: /stop, respond: 403}}]\n",
        origin.address
    );
    let gateway = Gateway::start(&yaml);
    let ask = |path: &str, length: u32| {
        let mut client = gateway.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        client
    };
    let mut client = ask("/up", 5);
    assert_eq!(client.read_head().expect("an interim response").start, "HTTP/1.1 100 Continue");
    client.send("hello");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.interim.len(), response.closes()), ("hello", 0, false));
    assert_eq!(client.get("/stop").status, 403, "the connection goes on");
    assert!(origin.last().header("expect").is_none());
    for (path, length, status) in [("/nowhere", 5, 404), ("/stop", 5, 403), ("/up", 11, 413)] {
        let mut client = ask(path, length);
        let response = client.response();
        assert_eq!((response.status, response.interim.len()), (status, 0), "{path}");
        assert!(response.closes(), "{path}: nobody knows whether the body comes");
        assert!(client.is_closed());
    }
    assert_eq!(origin.seen().len(), 1);
    let old = gateway.ask("POST /up HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((old.text().as_str(), old.interim.len()), ("hi", 0));
}

#[test]
fn an_answer_may_come_before_the_request_is_whole() {
    let origin = Origin::early(|_| ok("early"));
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nhello");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (200, "early"));
    // The rest is drained, and the connection is good for another request.
    client.send("world");
    assert_eq!(client.get("/again").text(), "early");
    // The upstream connection, on which half a request was sent, is not.
    assert_eq!(origin.seen()[1].connection, 1, "{:?}", origin.seen());
}

#[test]
fn an_early_answer_with_a_close_is_the_answer() {
    let origin = Origin::early(|_| {
        vec![
            Step::Send(b"HTTP/1.1 413 Too Big\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig".to_vec()),
            Step::Close,
        ]
    });
    let gateway = before(&origin);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 4000000\r\n\r\n");
    let body = vec![b'x'; 1 << 20];
    for _ in 0..3 {
        if !client.try_send(&body) {
            break;
        }
    }
    let response = client.response();
    assert_eq!((response.status, response.text().as_str()), (413, "big"));
}

/// A deterministic body with few repetitions.
fn body(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut body = Vec::with_capacity(bytes + 8);
    while body.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        body.extend_from_slice(&state.to_le_bytes());
    }
    body.truncate(bytes);
    body
}

#[test]
fn large_bodies_pass_unchanged_both_ways() {
    const BYTES: usize = 8 << 20;
    let origin = Origin::start(|seen| {
        assert!(seen.body == body(BYTES), "the upload was changed");
        if seen.head.is_chunked() {
            let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for chunk in seen.body.chunks(100_000) {
                answer.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                answer.extend_from_slice(chunk);
                answer.extend_from_slice(b"\r\n");
            }
            answer.extend_from_slice(b"0\r\n\r\n");
            vec![Step::Send(answer)]
        } else {
            ok(&seen.body)
        }
    });
    let gateway = before(&origin);
    let sent = body(BYTES);
    let mut client = gateway.connect();
    client.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {BYTES}\r\n\r\n"));
    client.send(&sent);
    let response = client.response();
    assert!(response.complete && !response.chunked && response.body == sent);
    client.send("POST / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
    for chunk in sent.chunks(70_000) {
        client.send(format!("{:x}\r\n", chunk.len()));
        client.send(chunk);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    let response = client.response();
    assert!(response.complete && response.chunked && response.body == sent);
}

#[test]
fn a_slow_reader_holds_the_origin_back() {
    const BYTES: usize = 32 << 20;
    let origin = Origin::start(|_| ok(vec![b'x'; BYTES]));
    let gateway = before(&origin);
    let before_kib = gateway.rss_kib();
    let mut client = gateway.connect();
    client.send(GET);
    client.peek(1);
    gateway.wait_idle();
    let grown = gateway.rss_kib().saturating_sub(before_kib);
    assert!(grown < 4096, "{grown} KiB for one slow client");
    let response = client.response();
    assert!(response.complete && response.body.len() == BYTES);
}
