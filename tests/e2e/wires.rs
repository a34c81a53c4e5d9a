//! A client on one wire, an endpoint on another: what must change on the way, and what must not.

use ringway::proto::h2::code::Code;

use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::{Gateway, eventually};

fn gateway(origin: &H2Origin) -> Gateway {
    Gateway::start(&format!(
        "services: [{{name: up, protocol: h2, endpoints: [\"{}\"]}}]\nroutes: [{{path: /*, service: up}}]\n",
        origin.address
    ))
}

fn status(code: &str) -> Vec<(&'static str, String)> {
    vec![(":status", code.to_owned())]
}

#[test]
fn a_request_of_http1_becomes_one_of_http2() {
    let origin = H2Origin::start(|_| Answer::ok("hello"));
    let gateway = gateway(&origin);
    let answer = gateway.ask(
        "GET /a/b?q=1 HTTP/1.1\r\nHost: Shop.example:80\r\nCookie: a=1; b=2\r\nConnection: keep-alive, X-Hop\r\n\
         X-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers, gzip\r\nUpgrade: h2c\r\nX-Mixed-Case: Value\r\n\
         X-Forwarded-For: 6.6.6.6\r\n\r\n",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = origin.last();
    let pseudo = [":method", ":scheme", ":authority", ":path"].map(|name| seen.get(name).unwrap_or("-"));
    assert_eq!(pseudo, ["GET", "http", "Shop.example:80", "/a/b?q=1"]);
    assert_eq!((seen.get("x-mixed-case"), seen.get("cookie")), (Some("Value"), Some("a=1; b=2")));
    for gone in ["connection", "keep-alive", "x-hop", "te", "upgrade", "host", "content-length", "transfer-encoding"] {
        assert_eq!(seen.get(gone), None, "{gone}");
    }
    assert_eq!(seen.get("x-forwarded-for"), Some("127.0.0.1"));
    assert!(seen.get("x-request-id").is_some() && seen.get("x-forwarded-proto") == Some("http"));
    assert!(seen.fields.iter().all(|(name, _)| !name.bytes().any(|b| b.is_ascii_uppercase())));
}

#[test]
fn bodies_and_trailers_pass_however_they_are_framed() {
    let origin = H2Origin::start(|seen| {
        let mut answer = Answer::ok(&seen.body);
        match seen.path() {
            "/length" => answer.head.push(("content-length", seen.body.len().to_string())),
            "/trailers" => answer.trailers = vec![("x-sum", "7".into())],
            _ => {}
        }
        answer
    });
    let gateway = gateway(&origin);
    let long = "x".repeat(200_000);
    for body in ["", "abc", &long] {
        for path in ["/length", "/plain", "/trailers"] {
            let known = format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let mut coded = format!("POST {path} HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n");
            for piece in body.as_bytes().chunks(30_000) {
                coded += &format!("{:x}\r\n{}\r\n", piece.len(), String::from_utf8_lossy(piece));
            }
            coded += "0\r\nX-Up: 1\r\n\r\n";
            for (request, declared, trailer) in [(known, Some(body.len().to_string()), None), (coded, None, Some("1"))]
            {
                let answer = gateway.ask(&request);
                assert_eq!((answer.status, answer.body.len()), (200, body.len()), "{path}");
                let seen = origin.last();
                assert_eq!((seen.body.len(), seen.get("content-length")), (body.len(), declared.as_deref()), "{path}");
                let up = seen.trailers.iter().find(|(name, _)| name == "x-up").map(|(_, value)| value.as_str());
                assert_eq!(up, trailer, "{path} {}", body.len());
                let sized = answer.header("content-length").is_some();
                // A body that came whole with its head may get a length that nobody has sent.
                match path {
                    "/length" => assert!(sized),
                    "/trailers" => assert!(!sized),
                    _ => {}
                }
                assert_eq!(answer.trailers.contains("x-sum: 7"), path == "/trailers", "{:?}", answer.trailers);
            }
        }
    }
    assert_eq!(origin.connections(), 1, "all on one connection");
}

#[test]
fn heads_without_bodies_stay_without() {
    let origin = H2Origin::start(|seen| match seen.path() {
        "/204" => Answer { head: status("204"), ..Answer::default() },
        "/304" => Answer { head: [status("304"), vec![("content-length", "9".into())]].concat(), ..Answer::default() },
        _ => Answer { head: [status("200"), vec![("content-length", "9".into())]].concat(), ..Answer::default() },
    });
    let gateway = gateway(&origin);
    let mut client = gateway.connect();
    for (request, code, length) in [("GET /204", 204, None), ("GET /304", 304, Some("9")), ("HEAD /", 200, Some("9"))] {
        client.send(format!("{request} HTTP/1.1\r\nHost: t\r\n\r\n"));
        let head = client.read_head().expect("an answer");
        assert!(head.start.starts_with(&format!("HTTP/1.1 {code} ")), "{request}: {}", head.start);
        assert_eq!(head.get("content-length"), length, "{request}");
    }
    let lies = gateway.get("/");
    assert_eq!((lies.status, lies.reason().as_str()), (502, "upstream_invalid"), "a length, and no body");
}

#[test]
fn interim_heads_and_expectations() {
    let origin = H2Origin::start(|seen| Answer {
        interim: vec![[status("103"), vec![("link", "</a>".into())]].concat()],
        ..Answer::ok(&seen.body)
    });
    let gateway = gateway(&origin);
    let mut client = gateway.connect();
    client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n");
    assert!(client.read_head().expect("leave to go on").start.starts_with("HTTP/1.1 100"));
    client.send("abc");
    let hints = client.read_head().expect("hints");
    assert_eq!((&hints.start[..12], hints.get("link")), ("HTTP/1.1 103", Some("</a>")));
    assert_eq!(client.response().text(), "abc");
    assert_eq!(origin.last().get("expect"), None);
}

#[test]
fn what_breaks_off_is_seen_to_break_off() {
    let origin = H2Origin::start(|seen| match seen.path() {
        "/early" => Answer { reset: Some(Code::Internal), ..Answer::default() },
        _ => Answer { reset: Some(Code::Internal), ..Answer::ok("part") },
    });
    let gateway = gateway(&origin);
    let early = gateway.ask("POST /early HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((early.status, early.reason().as_str()), (502, "upstream_reset"));
    let mut client = gateway.connect();
    client.send("GET /late HTTP/1.1\r\nHost: t\r\n\r\n");
    let bytes = client.read_to_end();
    let text = String::from_utf8_lossy(&bytes);
    // Either before the head left, or cut: never a whole message (F24).
    assert!(text.starts_with("HTTP/1.1 502") || !text.ends_with("0\r\n\r\n"), "{text}");
}

#[test]
fn refused_streams_and_endpoints_that_leave_are_not_noticed() {
    let turn = std::sync::atomic::AtomicUsize::new(0);
    let origin = H2Origin::start(move |_| match turn.fetch_add(1, std::sync::atomic::Ordering::SeqCst) % 5 {
        1 => Answer { reset: Some(Code::Refused), ..Answer::default() },
        3 => Answer { leave: true, ..Answer::ok("last") },
        _ => Answer::ok("ok"),
    });
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, protocol: h2, endpoints: [\"{}\"], retries: {{same_endpoint: true}}}}]\n\
         routes: [{{path: /*, service: up}}]\n",
        origin.address
    ));
    for number in 0..40 {
        let answer = gateway.get("/");
        assert_eq!(answer.status, 200, "{number}: {answer:?}");
    }
    assert!(origin.connections() > 3, "a connection that leaves is replaced");
    assert!(origin.seen().len() > 44, "refused ones came again: {}", origin.seen().len());
}

#[test]
fn many_requests_share_few_connections_and_who_leaves_resets_its_stream() {
    let origin = H2Origin::start(|seen| match seen.path() {
        "/long" => Answer::ok("x".repeat(8 << 20)),
        _ => Answer::ok("ok"),
    });
    let gateway = gateway(&origin);
    let mut clients: Vec<_> = (0..50).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET / HTTP/1.1\r\nHost: t\r\n\r\n");
    }
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert!(origin.connections() <= 2, "{}", origin.connections());
    let mut leaver = gateway.connect();
    leaver.send("GET /long HTTP/1.1\r\nHost: t\r\n\r\n");
    leaver.read_head().expect("an answer");
    drop(leaver);
    eventually("a reset", || origin.resets().contains(&Code::Cancel).then_some(()));
    assert_eq!(gateway.get("/").status, 200, "the connection goes on");
}
