//! Published vulnerabilities of other proxies (HTTP/1 framing, fields, limits, answers, ranges, captures, logs): each
//! has the test that would have caught it. Those of paths, tunnels and the PROXY protocol stand in their own suites.

use std::time::Duration;

use crate::support::e2e::{Gateway, Origin, Step, before, eventually};
use crate::support::{Case, Recorder, Want, check};

const BAD_FRAMING: Want = Want::Refused(400, "bad_framing");
const BAD_HEADER: Want = Want::Refused(400, "bad_header");
const BAD_CHUNK: Want = Want::Refused(400, "bad_chunk");
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

fn post(fields: &str, body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}")
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn one(name: &str, send: String, want: Want) {
    check(&[Case::new(name, send, want).gone(&["smuggled"])]);
}

/// Pingora: a body that was not read before a reuse became the next request.
#[test]
fn cve_2025_4366_an_unread_body_is_not_the_next_request() {
    let origin = Recorder::start();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: own, path: /own, respond: 200}}, {{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    let mut client = gateway.connect();
    client.send(format!("GET /own HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()));
    assert_eq!(client.response().status, 200);
    client.try_send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
    client.try_response(false);
    assert!(origin.received().is_empty(), "a body was read as a request");
}

/// Pingora: a request of HTTP/1.0 whose body ends with the connection, and several transfer codings.
#[test]
fn cve_2026_2835_bodies_of_requests_never_end_with_the_connection() {
    one("1.0 without a length", format!("POST /x HTTP/1.0\r\nHost: a\r\n\r\n{SMUGGLED}"), Want::Served);
    one("chunked in 1.0", "POST /x HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".into(), BAD_FRAMING);
    one("identity, chunked", post("Transfer-Encoding: identity, chunked\r\n", "0\r\n\r\n"), BAD_FRAMING);
    one(
        "two lines of codings",
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &format!("0\r\n\r\n{SMUGGLED}")),
        BAD_FRAMING,
    );
}

/// Traefik: a refused CONNECT left its body unread on a connection that others used.
#[test]
fn cve_2026_71324_a_refused_connect_leaves_nothing_behind() {
    let body = format!("CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\nContent-Length: 35\r\n\r\n{SMUGGLED}");
    one("CONNECT with a body", body, Want::Refused(405, "method_refused"));
}

/// HAProxy: the length of a long field name overflowed, so that the field became a Content-Length of 0.
#[test]
fn cve_2021_40346_a_long_field_name_is_no_content_length() {
    let name = format!("Content-Length0{}", "a".repeat(255));
    let send =
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{name}:\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    check(&[Case::new("long name", send, Want::Served).kept(&["content-length: 35\r\n", "/smuggled"])]);
    let origin = Origin::echo();
    let gateway = before(&origin);
    let send =
        format!("POST /x HTTP/1.1\r\nHost: a\r\n{name}:\r\nContent-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len());
    assert_eq!(gateway.ask(send).status, 200);
    assert_eq!(origin.seen().len(), 1, "the body is a body");
    assert_eq!(origin.last().body, SMUGGLED.as_bytes());
}

/// HAProxy: an empty field name ended the list of fields.
#[test]
fn cve_2023_25725_an_empty_field_name_is_refused() {
    one("empty name", post(": x\r\nContent-Length: 35\r\n", SMUGGLED), BAD_HEADER);
    one("empty name at the end", post("Content-Length: 35\r\n:\r\n", SMUGGLED), BAD_HEADER);
    one("blank name", post("\t: x\r\nContent-Length: 35\r\n", SMUGGLED), BAD_HEADER);
}

/// HAProxy: an empty Content-Length was passed on.
#[test]
fn cve_2023_40225_an_empty_content_length_is_refused() {
    one("empty", post("Content-Length:\r\n", SMUGGLED), BAD_FRAMING);
    one("blank", post("Content-Length:  \t \r\n", SMUGGLED), BAD_FRAMING);
    one("empty beside one", post("Content-Length:\r\nContent-Length: 35\r\n", SMUGGLED), BAD_FRAMING);
}

/// HAProxy: a Transfer-Encoding with a vertical tab was not understood, and passed on.
#[test]
fn cve_2019_18277_a_malformed_transfer_coding_is_refused() {
    let both = |value: &str| post(&format!("Content-Length: 35\r\nTransfer-Encoding:{value}\r\n"), SMUGGLED);
    one("vertical tab", both("\x0bchunked"), BAD_HEADER);
    one("form feed", both(" \x0cchunked"), BAD_HEADER);
    one("unknown", both(" chunked-"), BAD_FRAMING);
}

/// Go (Traefik, Caddy): a bare LF ended a chunk-size line.
#[test]
fn cve_2025_22871_a_bare_lf_does_not_end_a_chunk_size() {
    one("size", chunked("5\nhello\r\n0\r\n\r\n"), BAD_CHUNK);
    one("extension", chunked(&format!("5;a\n{SMUGGLED}\r\nhello\r\n0\r\n\r\n")), BAD_CHUNK);
    one("last", chunked(&format!("0\n\r\n{SMUGGLED}")), BAD_CHUNK);
}

/// hyper: the last of several Transfer-Encoding lines counted alone.
#[test]
fn cve_2021_21299_several_transfer_codings_are_refused() {
    one("chunked, then other", post("Transfer-Encoding: chunked\r\nTransfer-Encoding: cow\r\n", ""), BAD_FRAMING);
    one("other, then chunked", post("Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n", ""), BAD_FRAMING);
}

/// hyper, and nginx's CVE-2013-2028: a chunk size overflowed.
#[test]
fn cve_2021_32714_cve_2013_2028_chunk_sizes_do_not_overflow() {
    for size in ["f0000000000000003", "10000000000000003", "ffffffffffffffff", "fffffffffffffff0", "8000000000000000"] {
        one(size, chunked(&format!("{size}\r\nabc\r\n0\r\n\r\n{SMUGGLED}")), BAD_CHUNK);
    }
}

/// hyper: `Content-Length: +3`.
#[test]
fn cve_2021_32715_a_signed_content_length_is_refused() {
    one("+3", post("Content-Length: +3\r\n", "abc"), BAD_FRAMING);
    one("-3", post("Content-Length: -3\r\n", "abc"), BAD_FRAMING);
    one("- 3", post("Content-Length: - 3\r\n", "abc"), BAD_FRAMING);
}

/// nginx: an unescaped space in the target ended the checks of the path.
#[test]
fn cve_2013_4547_a_space_in_the_target_is_refused() {
    let bad = Want::Refused(400, "bad_request_line");
    one("space", "GET /a /../protected HTTP/1.1\r\nHost: a\r\n\r\n".into(), bad);
    one("space and NUL", "GET /a \0.php HTTP/1.1\r\nHost: a\r\n\r\n".into(), bad);
}

/// HAProxy: an endless loop in forwarding. After a chunked transfer both ways the process rests.
#[test]
fn cve_2024_45506_forwarding_ends() {
    let body = "x".repeat(100_000);
    let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n186a0\r\n{body}\r\n0\r\n\r\n");
    let origin = Origin::bytes(answer);
    let gateway = before(&origin);
    let response = gateway.ask(chunked(&format!("186a0\r\n{body}\r\n0\r\n\r\n")));
    assert!(response.complete && response.body.len() == body.len());
    let mut leaver = gateway.connect();
    leaver.send(chunked("186a0\r\nxxx"));
    drop(leaver);
    gateway.wait_idle();
}

/// Traefik: `Connection` took the proxy's own fields away, then again in lower case (CVE-2026-29054).
#[test]
fn cve_2024_45410_cve_2026_29054_connection_removes_nothing_of_the_gateways_own() {
    for name in ["X-Forwarded-For", "x-forwarded-for", "X-FORWARDED-HOST", "x-Real-Ip", "x_forwarded_proto"] {
        let send = format!("GET /smuggled HTTP/1.1\r\nHost: a\r\nConnection: close, {name}\r\n\r\n");
        one(name, send, Want::Refused(400, "bad_connection"));
    }
}

/// Traefik: identity and forwarding fields forged by other spellings (also CVE-2026-39858, CVE-2026-54763).
#[test]
fn cve_2026_33433_other_spellings_forge_nothing() {
    let spell = |name: &str| {
        let send = format!("GET /x HTTP/1.1\r\nHost: a\r\n{name}: 66.6.6.6\r\n\r\n");
        Case::new(name, send, Want::Served).gone(&["66.6.6.6"])
    };
    let names = [
        "x-forwarded-for",
        "X_FORWARDED_FOR",
        "X-Forwarded_For",
        "X.Forwarded.For",
        "X+Forwarded~For",
        "x-user-id",
        "X_User-Id",
        "X!User!ID",
        "x_real_ip",
        "TRUE_CLIENT_IP",
        "forwarded",
    ];
    check(&names.map(spell));
}

/// Traefik: prefix and port believed though the peer is a stranger (also CVE-2026-54764).
#[test]
fn cve_2026_35051_prefix_and_port_of_strangers_are_not_believed() {
    let names = ["X-Forwarded-Prefix", "X-Forwarded-Port", "X-Forwarded-Host", "X-Forwarded-Server", "X-Forwarded-Tls"];
    check(&names.map(|name| {
        let send = format!("GET /x HTTP/1.1\r\nHost: a\r\n{name}: /evil:6666\r\n\r\n");
        Case::new(name, send, Want::Served).gone(&["evil"])
    }));
}

/// Envoy: control fields of the proxy's own were taken from outside. Ours are removed.
#[test]
fn cve_2024_45806_control_fields_from_outside_are_removed() {
    check(&["X-Target-Service", "X_Target_Service", "X-Client-ID", "X-User-Role", "X-Original-URL"].map(|name| {
        let send = format!("GET /x HTTP/1.1\r\nHost: a\r\n{name}: evil\r\n\r\n");
        Case::new(name, send, Want::Served).gone(&["evil"])
    }));
}

/// APISIX: X-Real-IP made an address rule believe anything.
#[test]
fn cve_2022_24112_address_rules_do_not_believe_strangers() {
    let gateway =
        Gateway::start("routes: [{name: all, path: /*, respond: 200, policies: [{ip: {allow: [7.7.7.7]}}]}]\n");
    for name in ["X-Real-IP", "X-Forwarded-For", "True-Client-IP", "CF-Connecting-IP", "Forwarded", "X_Real_IP"] {
        let value = if name == "Forwarded" { "for=7.7.7.7" } else { "7.7.7.7" };
        let response = gateway.ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: {value}\r\n\r\n"));
        assert_eq!((response.status, response.reason().as_str()), (403, "ip_denied"), "{name}");
    }
}

/// Traefik: a Content-Length without its body held a connection for ever.
#[test]
fn cve_2024_28869_a_body_that_does_not_come_is_not_waited_for() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", limits: {{body_timeout: 300ms}}}}]\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{path: /*, service: up}}]\n",
        origin.address
    ));
    let mut client = gateway.connect();
    client.send("GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n");
    let response = client.response();
    assert_eq!((response.status, response.reason().as_str()), (408, "body_timeout"));
}

/// nginx: the sum of suffix ranges overflowed and leaked memory.
#[test]
fn cve_2017_7529_range_arithmetic_does_not_overflow() {
    let bad = Want::Refused(416, "bad_range");
    for value in [
        "bytes=-623,-9223372036854775185",
        "bytes=-9223372036854775808,-9223372036854775808",
        "bytes=0-18446744073709551615",
        "bytes=18446744073709551616-18446744073709551617",
        "bytes=-18446744073709551616",
    ] {
        one(value, format!("GET /x HTTP/1.1\r\nHost: a\r\nRange: {value}\r\n\r\n"), bad);
    }
}

/// nginx: captures in rewriting: overflow, stale captures, uninitialised memory (also CVE-2026-42945, CVE-2026-42533,
/// CVE-2026-60005). A capture that took no part is empty, also right behind a request where it did.
#[test]
fn cve_2026_9256_captures_are_of_this_request_and_bounded() {
    let origin = Origin::echo();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes:\n\
         - {{path: /re/*, service: up, rewrite: {{pattern: \"^/re/(?:(a+)|(b+))$\", to: \"/$1/$2/end\"}}}}\n\
         - {{path: \"/grow/{{one}}\", service: up, rewrite: {{path: \"/{{one}}{{one}}{{one}}{{one}}{{one}}{{one}}\"}}}}\n",
        origin.address
    ));
    let mut client = gateway.connect();
    for round in 0..50 {
        assert_eq!(client.get("/re/aaaa").text(), "GET /aaaa/end", "round {round}: nothing twice");
        let second = client.get("/re/b").text();
        assert!(second.starts_with("GET /") && second.ends_with("/b/end") && !second.contains('a'), "{second}");
    }
    let long = "x".repeat(8_000);
    let grown = gateway.get(&format!("/grow/{long}"));
    assert!(grown.status == 400 || grown.text().len() >= 6 * long.len(), "{grown:?}");
    assert_eq!(gateway.get(&format!("/grow/{}", "%C3%A9".repeat(900))).status, 200);
    gateway.wait_idle();
}

/// Envoy: what a client sends forges lines of the access log (also CVE-2025-25294).
#[test]
fn cve_2024_45808_one_request_is_one_line_of_the_log() {
    for format in ["json", "common", "combined"] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let gateway = Gateway::start(&format!(
            "logging: {{access_log: {{format: {format}, path: {}}}}}\nroutes: [{{path: /*, respond: 204}}]\n",
            path.display()
        ));
        let mut sent = 0;
        for byte in (1..=255u8).filter(|byte| !matches!(byte, b'\r' | b'\n')) {
            for place in ["User-Agent", "Referer", "X-Forwarded-For", "X-Request-ID"] {
                let mut client = gateway.connect();
                let head = format!("GET /x%{byte:02x}y?{byte} HTTP/1.1\r\nHost: a\r\n{place}: a\" forged");
                client.send([head.as_bytes(), &[byte], b"\",\"status\":200}\r\nConnection: close\r\n\r\n"].concat());
                client.read_to_end();
                sent += 1;
            }
        }
        let text = eventually("the log is written", || {
            let text = std::fs::read(&path).unwrap_or_default();
            (text.iter().filter(|&&byte| byte == b'\n').count() >= sent).then_some(text)
        });
        let lines: Vec<&[u8]> = text.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()).collect();
        assert_eq!(lines.len(), sent, "{format}");
        for line in lines {
            assert!(line.iter().all(|byte| *byte >= 0x20 && *byte != 0x7f), "{}", line.escape_ascii());
            if format == "json" {
                let entry: serde_json::Value = serde_json::from_slice(line).expect("one object");
                assert!(entry["status"].is_number() && entry["message"].is_string(), "{entry}");
            }
        }
    }
}

/// F57: no pattern takes more than linear time.
#[test]
fn nested_quantifiers_take_linear_time() {
    let gateway = Gateway::start(
        "listeners: [{address: \"127.0.0.1:0\", limits: {target_bytes_max: 16KiB}}]\n\
         routes:\n\
         - {regex: \"^/(a+)+$\", respond: 200}\n\
         - {regex: \"^/(a|a)*b$\", respond: 200}\n\
         - {regex: \"^/(.*)*(.*)*(.*)*c$\", respond: 200}\n\
         - {path: /h, headers: {x-long: {regex: \"^(a*)*$\"}}, respond: 200}\n",
    );
    let mut client = gateway.connect();
    let long = "a".repeat(12_000);
    client.get("/warm");
    let begun = gateway.cpu();
    for _ in 0..10 {
        assert_eq!(client.get(&format!("/{long}!")).status, 404);
        client.send(format!("GET /h HTTP/1.1\r\nHost: a\r\nX-Long: {long}!\r\n\r\n"));
        assert_eq!(client.response().status, 404);
    }
    let spent = gateway.cpu() - begun;
    // Of an unoptimised build; one exponential match would not end at all.
    assert!(spent < Duration::from_secs(10), "{spent:?} for 20 requests");
    let refused = crate::support::e2e::gateway::Plan::new("routes: [{regex: \"^/(a{1000}){1000}$\", respond: 200}]\n");
    let exited = refused.start_in_vain();
    assert!(exited.code != Some(0) && exited.stderr.contains("E0108"), "{}", exited.stderr);
}

/// Envoy: a redirect crashed the process. Every kind of redirect survives every kind of request.
#[test]
fn cve_2026_47221_redirects_survive_odd_requests() {
    let gateway = Gateway::start(
        "routes:\n- {path: \"/go/{one}\", redirect: {to: \"/items/{one}\", status: 308}}\n\
         - {path: /all/*, redirect: \"https://y.example\"}\n",
    );
    for send in [
        "GET /go/a HTTP/1.0\r\n\r\n",
        "HEAD /go/a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "GET http://a/go/%C3%A9 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
        "POST /all/?? HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n1\r\na\r\n0\r\n\r\n",
        "GET /all HTTP/1.1\r\nHost: [::1]:65535\r\nConnection: close\r\n\r\n",
        "BREW /go/. HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    ] {
        let mut client = gateway.connect();
        client.send(send);
        assert!(client.read_to_end().starts_with(b"HTTP/1.1 "), "{send}");
    }
    assert_eq!(gateway.get("/go/alive").status, 308);
}

/// A reply that an endpoint gives in two pieces of a head is one reply (nginx, hyper: parsers that start over).
#[test]
fn torn_answers_are_one_answer() {
    let answer = "HTTP/1.1 200 OK\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nT: u\r\n\r\n";
    let origin = Origin::start(move |_| vec![Step::Drip(answer.into(), Duration::from_micros(300))]);
    let gateway = before(&origin);
    let response = gateway.get("/");
    assert_eq!((response.text().as_str(), response.complete), ("hello", true));
}

/// Envoy: several values of one field were joined before an access rule looked at them, so that a rule on one value no
/// longer held. Here each value is looked at by itself: a second one hides none, in whatever order and spelling.
#[test]
fn cve_2026_26308_a_second_value_hides_none_from_a_rule() {
    let origin = Recorder::start();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes:\n\
         - {{name: exact, path: /exact/*, headers: {{x-role: banned}}, respond: 403}}\n\
         - {{name: prefix, path: /prefix/*, headers: {{x-role: {{prefix: ban}}}}, respond: 403}}\n\
         - {{name: regex, path: /regex/*, headers: {{x-role: {{regex: \"^banned$\"}}}}, respond: 403}}\n\
         - {{name: all, path: /*, service: up}}\n",
        origin.address
    ));
    let fields = [
        "x-role: banned\r\n",
        "x-role: user\r\nx-role: banned\r\n",
        "x-role: banned\r\nx-role: user\r\n",
        "X-Role: user\r\nx-role: user\r\nX-ROLE: banned\r\n",
        "x-role:\r\nx-role:   banned  \r\n",
    ];
    for rule in ["exact", "prefix", "regex"] {
        for fields in fields {
            let answer = gateway.ask(format!("GET /{rule}/x HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
            assert_eq!(answer.status, 403, "{rule}: {fields:?}");
        }
        // And nobody is taken for another by what two values would be together.
        let answer = gateway.ask(format!("GET /{rule}/x HTTP/1.1\r\nHost: a\r\nx-role: ok\r\nx-role: no\r\n\r\n"));
        assert_eq!(answer.status, 200, "{rule}");
    }
}
