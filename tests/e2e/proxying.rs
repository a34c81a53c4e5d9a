//! Messages through the gateway: framing both ways, connections, what is added and removed.

use std::sync::Mutex;
use std::sync::mpsc::{Sender, channel};
use std::thread;

use crate::support::{Client, Gateway, Origin, Response, Seen, Step, eventually, ok, proxy_to};

const GET: &str = "GET /a HTTP/1.1\r\nHost: test\r\n\r\n";

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

/// A gateway before one origin for everything.
fn before(origin: &Origin) -> Gateway {
    Gateway::start(&proxy_to(origin))
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
    eventually("the gateway rests", || {
        let cpu = gateway.cpu();
        thread::park_timeout(std::time::Duration::from_millis(30));
        (gateway.cpu() == cpu).then_some(())
    });
    let grown = gateway.rss_kib().saturating_sub(before_kib);
    assert!(grown < 4096, "{grown} KiB for one slow client");
    let response = client.response();
    assert!(response.complete && response.body.len() == BYTES);
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
    assert!(origin.connections() <= 16 + 2, "{} upstream connections", origin.connections());
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
    client.send(post);
    let broken = client.response();
    assert_eq!((broken.status, broken.reason().as_str()), (502, "upstream_reset"));
    assert_eq!(origin.seen().len(), 2);
}

/// What the origin sees of these lines.
fn forwarded(listener: &str, lines: &str) -> Seen {
    let origin = Origin::echo();
    let gateway =
        Gateway::start(&format!("listeners: [{{address: \"127.0.0.1:0\"{listener}}}]\n{}", proxy_to(&origin)));
    let response = gateway.ask(format!("GET /a HTTP/1.1\r\nHost: Shop.example:81\r\n{lines}\r\n"));
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = origin.last();
    let port = gateway.address.port().to_string();
    if !lines.to_ascii_lowercase().contains("x-forwarded-port") {
        assert_eq!(seen.header("x-forwarded-port"), Some(port.as_str()));
    }
    assert_eq!(seen.header("x-request-id"), response.header("x-request-id"));
    seen
}

#[test]
fn strangers_cannot_forge_where_they_come_from() {
    let seen = forwarded(
        "",
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\n\
         X-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\n\
         X-Request-ID: evil\r\nX_Forwarded_For: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\nX_User_ID: root\r\nX-User-ID: root\r\n\
         X-User-Role: admin\r\nX-Client-ID: evil\r\nX-Target-Service: evil\r\nX-Original-URL: /evil\r\n\
         X-HTTP-Method-Override: DELETE\r\nProxy: evil\r\nx_ordinary: stays\r\n",
    );
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("Shop.example:81"));
    assert_eq!(seen.header("x_ordinary"), Some("stays"));
    let text = String::from_utf8_lossy(&seen.raw).to_ascii_lowercase();
    for forged in ["6.6.6.6", "evil", "root", "admin", "delete", "forwarded: "] {
        assert!(!text.contains(forged), "{forged} in {text}");
    }
}

#[test]
fn trusted_proxies_are_believed_and_continued() {
    let seen = forwarded(
        ", trusted_proxies: [127.0.0.0/8], forwarded: true, via: true",
        "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n\
         X-Forwarded-Port: 443\r\nForwarded: for=203.0.113.9\r\nX-Request-ID: given-1\r\nX-User-ID: root\r\n",
    );
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("a.example"));
    assert_eq!(seen.header("x-forwarded-port"), Some("443"));
    assert_eq!(seen.header("x-request-id"), Some("given-1"));
    assert_eq!(seen.header("forwarded"), Some("for=203.0.113.9, for=127.0.0.1;host=\"Shop.example:81\";proto=http"));
    assert!(seen.header("via").is_some_and(|via| via.starts_with("1.1 ")), "{seen:?}");
    assert_eq!(seen.header("x-user-id"), None, "identity comes from nobody but the gateway");
}

#[test]
fn request_ids_are_made_for_everyone_else() {
    let seen = forwarded(", trusted_proxies: [192.0.2.0/24]", "X-Request-ID: given-1\r\n");
    let id = seen.header("x-request-id").expect("an id").to_owned();
    assert!(id.len() >= 32 && id != "given-1", "{id}");
    let odd = forwarded(", trusted_proxies: [127.0.0.1]", "X-Request-ID: a b\"<script>\r\n");
    assert!(odd.header("x-request-id").is_some_and(|id| id.len() >= 32), "{odd:?}");
}

#[test]
fn the_host_that_endpoints_see_is_a_choice() {
    let origin = Origin::echo();
    let address = origin.address;
    let gateway = Gateway::start(&format!(
        "services:\n\
         - {{name: kept, endpoints: [\"{address}\"]}}\n\
         - {{name: own, endpoints: [\"{address}\"], host: upstream}}\n\
         - {{name: fixed, endpoints: [\"{address}\"], host: api.internal}}\n\
         routes:\n\
         - {{path: /kept, service: kept}}\n\
         - {{path: /own, service: own}}\n\
         - {{path: /fixed, service: fixed}}\n\
         - {{path: /route, service: fixed, host: preserve}}\n"
    ));
    let own = address.to_string();
    for (path, host) in
        [("/kept", "Test.example"), ("/own", &own), ("/fixed", "api.internal"), ("/route", "Test.example")]
    {
        gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: Test.example\r\n\r\n"));
        assert_eq!(origin.last().header("host"), Some(host), "{path}");
    }
    gateway.ask("GET /kept HTTP/1.0\r\n\r\n");
    assert_eq!(origin.last().header("host"), Some(own.as_str()), "HTTP/1.0 without Host");
    gateway.ask("GET http://Abs.example/kept?x HTTP/1.1\r\nHost: Abs.example\r\n\r\n");
    assert_eq!((origin.last().line(), origin.last().header("host")), ("GET /kept?x", Some("Abs.example")));
}

#[test]
fn what_belongs_to_one_hop_stays_there() {
    let seen = forwarded(
        "",
        "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nX-End: 2\r\n",
    );
    for gone in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-connection", "proxy-authorization", "te"] {
        assert_eq!(seen.head.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!(seen.header("x-end"), Some("2"));
    let origin = Origin::bytes(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Upgrade: h2c\r\nProxy-Connection: close\r\nX-End: a\r\nX-End: b\r\n\r\nok",
    );
    let gateway = before(&origin);
    let response = gateway.ask(GET);
    for gone in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-connection"] {
        assert_eq!(response.head.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!((response.text().as_str(), response.head.all("x-end")), ("ok", vec!["a", "b"]));
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
