//! Requests that are no HTTP/1.1: each has its status and its reason, and none of them goes anywhere (F46–F54). The
//! tables of `tests/conformance/` hold many more; here stands what those do not have.

use crate::support::{Gateway, Origin, proxy_to};

/// A request, the status that it gets, the reason word. Each ends its connection: where the next request begins is not
/// known, or not to be trusted.
const MALFORMED: &[(&str, u16, &str)] = &[
    // Request line (RFC 9112 section 3).
    ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    ("GET / HTTP/11\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    ("GET / FTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    ("\r\n\r\n\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_request_line"),
    ("GET / HTTP/3.1\r\nHost: a\r\n\r\n", 505, "version_unsupported"),
    // Field lines (RFC 9112 section 5).
    ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400, "bad_header"),
    ("GET / HTTP/1.1\r\nHost\t: a\r\n\r\n", 400, "bad_header"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\0c\r\n\r\n", 400, "bad_header"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\x01c\r\n\r\n", 400, "bad_header"),
    ("GET / HTTP/1.1\r\nHost: a\r\nX: b\x7fc\r\n\r\n", 400, "bad_header"),
    // Framing (RFC 9112 section 6).
    ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\nhello", 400, "bad_framing"),
    ("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "bad_framing"),
    // Host (RFC 9112 section 3.2, F50).
    ("GET / HTTP/1.1\r\n\r\n", 400, "bad_host"),
    ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "bad_host"),
    // Target (F49).
    ("GET /#fragment HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a%2fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a\\b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a%0d%0ab HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a%252fb HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a%zz HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a% HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a%c0%af HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET //a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /../a HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a/%2e%2e/%2e%2e/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a/..;/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    ("GET /a/;x/b HTTP/1.1\r\nHost: a\r\n\r\n", 400, "bad_path"),
    // Methods, expectations, Connection (F47, F52, F54).
    ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 405, "method_refused"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, Authorization\r\n\r\n", 400, "bad_connection"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: COOKIE\r\nCookie: a\r\n\r\n", 400, "bad_connection"),
    ("GET / HTTP/1.1\r\nHost: a\r\nConnection: host\r\n\r\n", 400, "bad_connection"),
];

/// Chunked bodies that break the coding (RFC 9112 section 7.1). Their heads are good, so the origin may see those, but
/// never a whole request.
const BROKEN_CHUNKS: &[&str] = &[
    "zz\r\n",
    "\r\n",
    "-1\r\n",
    "+1\r\na\r\n0\r\n\r\n",
    " 1\r\na\r\n0\r\n\r\n",
    "0x1\r\na\r\n0\r\n\r\n",
    "1\na\r\n0\r\n\r\n",
    "1\ra\r\n0\r\n\r\n",
    "1\r\nab\r\n0\r\n\r\n",
    "1\r\na0\r\n\r\n",
    "1\r\na\n0\r\n\r\n",
    "1;\0\r\na\r\n0\r\n\r\n",
    "1;a\nb\r\na\r\n0\r\n\r\n",
    "ffffffffffffffff\r\na",
    "10000000000000000\r\na",
    "100000000000000000001\r\na\r\n0\r\n\r\n",
    "0\r\nA : b\r\n\r\n",
    "0\r\nA: b\n\r\n",
    "0\r\n A: b\r\n\r\n",
    "0\r\nA: b\0\r\n\r\n",
];

#[test]
fn malformed_requests_are_refused_with_their_reason_and_go_nowhere() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&proxy_to(&origin));
    let mut wrong = Vec::new();
    for (request, status, reason) in MALFORMED {
        let mut client = gateway.connect();
        client.send(request);
        let Some(response) = client.try_response(false) else {
            wrong.push(format!("{request:?}: no answer"));
            continue;
        };
        let got = (response.status, response.reason());
        if got != (*status, (*reason).to_owned()) || !response.closes() || !client.is_closed() {
            wrong.push(format!("{request:?}: {got:?}, expected {status} {reason}; close: {}", response.closes()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(origin.received(), b"", "something got through");
    assert_eq!(gateway.get("/bystander").status, 200);
    gateway.wait_idle();
    assert_eq!(gateway.metric("ringway_worker_panics_total", &[]), 0.0);
}

#[test]
fn broken_chunks_end_the_request_and_reach_no_origin_whole() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&proxy_to(&origin));
    let mut wrong = Vec::new();
    for chunks in BROKEN_CHUNKS {
        let mut client = gateway.connect();
        client.send(format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
        match client.try_response(false) {
            Some(response) if response.status == 400 && response.reason() == "bad_chunk" => {
                assert!(response.closes() && client.is_closed(), "{chunks:?}");
            }
            Some(response) => wrong.push(format!("{chunks:?}: {} {}", response.status, response.text())),
            None => wrong.push(format!("{chunks:?}: no answer")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(origin.seen().is_empty(), "{:?}", origin.seen());
    assert_eq!(gateway.get("/bystander").status, 200);
    gateway.wait_idle();
}
