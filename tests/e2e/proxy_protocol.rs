//! The PROXY protocol: in, from trusted load balancers alone (F59), and out, towards services.

use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::http2::wire::{self, H2, PREFACE, SETTINGS, raw};
use crate::support::tls::{self, Authority};
use crate::support::{Client, Gateway, Origin, Step, ok, proxy_to};

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n";
const V2_BEGIN: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

fn listening(trusted: &str, more: &str) -> String {
    format!("listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: {{trusted: [{trusted}]}}{more}}}]\n")
}

/// A gateway that believes this machine.
fn before(origin: &Origin) -> Gateway {
    Gateway::start(&(listening("127.0.0.0/8", "") + &proxy_to(origin)))
}

fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u16).to_be_bytes();
    [&V2_BEGIN[..], &[command, family], &length, payload].concat()
}

/// 203.0.113.9:4660 to 198.51.100.2:443.
const INET: [u8; 12] = [203, 0, 113, 9, 198, 51, 100, 2, 0x12, 0x34, 1, 187];

/// Headers that name 203.0.113.9.
fn naming() -> Vec<Vec<u8>> {
    vec![
        b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443\r\n".to_vec(),
        v2(0x21, 0x11, &INET),
        // With a TLV that says nothing to the gateway, near the bound.
        v2(0x21, 0x11, &[&INET[..], &[0xe0, 0x0f, 0xf1], &[7; 0x0ff1]].concat()),
    ]
}

#[test]
fn a_trusted_header_names_the_client() {
    let origin = Origin::fixed("ok");
    let gateway = before(&origin);
    for header in naming() {
        let mut client = gateway.connect();
        client.send([&header, GET, GET].concat());
        for _ in 0..2 {
            assert_eq!(client.response().status, 200);
            assert_eq!(origin.last().header("x-forwarded-for"), Some("203.0.113.9"));
        }
    }
    let mut client = gateway.connect();
    client.send([b"PROXY TCP6 2001:db8::9 ::1 1 2\r\n", GET].concat());
    assert_eq!(client.response().status, 200);
    assert_eq!(origin.last().header("x-forwarded-for"), Some("2001:db8::9"));
}

#[test]
fn a_header_may_come_byte_by_byte() {
    let origin = Origin::fixed("ok");
    let gateway = before(&origin);
    for header in naming().into_iter().take(2) {
        let mut client = gateway.connect();
        for byte in [&header, GET].concat() {
            client.send([byte]);
        }
        assert_eq!(client.response().status, 200);
        assert_eq!(origin.last().header("x-forwarded-for"), Some("203.0.113.9"));
    }
}

/// One listener for HTTP/1, HTTP/2 by prior knowledge and TLS behind a header: the header goes first, then the first
/// byte behind it tells, wherever what is sent is torn.
#[test]
fn what_is_spoken_behind_a_header_is_found_out() {
    let (ca, origin) = (Authority::new("ca"), Origin::fixed("ok"));
    let site = ca.issue("site", &["site.test"]);
    let more = format!(", protocols: [http1, h2, h2c], tls: {{{}, plain_too: true}}", site.yaml());
    let gateway = Gateway::start(&(listening("127.0.0.0/8", &more) + &proxy_to(&origin)));
    let named = |scheme: &str| {
        let last = origin.last();
        assert_eq!(last.header("x-forwarded-for"), Some("203.0.113.9"));
        assert_eq!(last.header("x-forwarded-proto"), Some(scheme));
    };
    let config = Arc::new(ca.client(None));
    for header in naming().into_iter().take(2) {
        let h1 = [&header, GET].concat();
        for at in 0..h1.len() {
            let mut client = gateway.connect();
            client.send(&h1[..at]);
            client.send(&h1[at..]);
            assert_eq!(client.response().status, 200, "HTTP/1 torn at {at}");
            named("http");
        }
        let h2 = [&header, PREFACE, &raw(SETTINGS, 0, 0, b""), &wire::get(1, "/a")].concat();
        for at in 0..h2.len() {
            let mut client = H2::silent(gateway.address);
            assert!(client.send(&h2[..at]) && client.send(&h2[at..]));
            assert_eq!(client.answer(1).status, 200, "HTTP/2 torn at {at}");
            named("http");
        }
        for at in 0..=header.len() + 8 {
            let mut secured = tls::connect(gateway.address, &config, "site.test", false);
            let mut bytes = header.clone();
            secured.conn.write_tls(&mut bytes).expect("a hello");
            secured.sock.stream.write_all(&bytes[..at]).expect("sent");
            secured.sock.stream.write_all(&bytes[at..]).expect("sent");
            let answer = tls::get(&mut secured, "site.test", "").expect("served");
            assert!(answer.starts_with("HTTP/1.1 200"), "TLS torn at {at}: {answer}");
            named("https");
        }
        let mut secured = tls::connect(gateway.address, &config, "site.test", true);
        secured.sock.stream.write_all(&header).expect("sent");
        assert!(tls::get(&mut secured, "site.test", "").expect("served").starts_with("HTTP/1.1 200"));
    }
    // Without a header nobody is served, whatever is spoken.
    let mut client = gateway.connect();
    client.try_send(GET);
    assert!(client.is_closed());
    assert!(tls::ask(gateway.address, &config, "site.test", "site.test").is_err());
}

#[test]
fn a_header_that_names_nobody_leaves_the_peer() {
    let origin = Origin::fixed("ok");
    let gateway = before(&origin);
    for header in [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
        v2(0x20, 0x00, &[]),
        v2(0x20, 0x11, &INET),
        v2(0x21, 0x00, &[]),
        v2(0x21, 0x12, &INET),
        v2(0x21, 0x31, &[0; 216]),
    ] {
        let mut client = gateway.connect();
        client.send([&header, GET].concat());
        assert_eq!(client.response().status, 200, "{header:?}");
        assert_eq!(origin.last().header("x-forwarded-for"), Some("127.0.0.1"), "{header:?}");
    }
}

#[test]
fn the_named_client_is_held_to_rules_and_to_trust_in_forwarding_fields() {
    let origin = Origin::fixed("ok");
    let rules = "policies: [{ip: {deny: [203.0.113.9]}}]\n";
    let listener = listening("127.0.0.1", ", trusted_proxies: [192.0.2.0/24]");
    let gateway = Gateway::start(&format!("{listener}{rules}{}", proxy_to(&origin)));
    let ask = |source: &str, fields: &str| {
        let mut client = gateway.connect();
        client.send(format!("PROXY TCP4 {source} 127.0.0.1 9 80\r\nGET /a HTTP/1.1\r\nHost: test\r\n{fields}\r\n"));
        client.response().status
    };
    assert_eq!(ask("203.0.113.9", ""), 403);
    assert_eq!(ask("203.0.113.8", ""), 200);
    // The peer is trusted to name its client, but not in X-Forwarded-For; a named proxy is, where it is listed.
    assert_eq!(ask("203.0.113.8", "X-Forwarded-For: 203.0.113.9\r\n"), 200);
    assert_eq!(origin.last().header("x-forwarded-for"), Some("203.0.113.8"));
    assert_eq!(ask("192.0.2.1", "X-Forwarded-For: 203.0.113.9\r\n"), 403);
}

#[test]
fn strangers_are_refused_with_and_without_a_header() {
    let origin = Origin::fixed("ok");
    let gateway = Gateway::start(&(listening("192.0.2.0/24, \"2001:db8::/32\"", "") + &proxy_to(&origin)));
    for bytes in [GET.to_vec(), [&naming()[0], GET].concat(), [&naming()[1], GET].concat(), b"x".repeat(100_000)] {
        let mut client = gateway.connect();
        client.try_send(&bytes);
        let response = client.response();
        assert_eq!((response.status, response.reason().as_str()), (400, "bad_proxy_header"));
        assert!(response.closes() && client.is_closed());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_listener_without_the_key_takes_no_header() {
    let origin = Origin::fixed("ok");
    let gateway = crate::support::before(&origin);
    for header in naming() {
        let mut client = gateway.connect();
        client.send([&header, GET].concat());
        assert_eq!(client.response().status, 400);
        assert!(client.is_closed());
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn what_is_no_header_is_refused() {
    let origin = Origin::fixed("ok");
    let gateway = before(&origin);
    let bomb: Vec<u8> = [&INET[..], &[1, 0xff, 0xff]].concat();
    for bytes in [
        GET.to_vec(),
        b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 65536\r\n".to_vec(),
        b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443\n".to_vec(),
        [b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443".to_vec(), b" ".repeat(200)].concat(),
        b"P".repeat(200),
        // A TLV that reaches beyond the end, a declared length over the bound, and one that would take 64 KiB.
        v2(0x21, 0x11, &bomb),
        [&V2_BEGIN[..], &[0x21, 0x11, 0x10, 0x01]].concat(),
        [&V2_BEGIN[..], &[0x21, 0x11, 0xff, 0xff]].concat(),
        v2(0x22, 0x11, &INET),
        v2(0x21, 0x11, &INET[..11]),
        b"\r\nGET / HTTP/1.1\r\n".to_vec(),
    ] {
        let mut client = gateway.connect();
        client.send(&bytes);
        let response = client.response();
        assert_eq!((response.status, response.reason().as_str()), (400, "bad_proxy_header"), "{bytes:?}");
        assert!(response.closes() && client.is_closed());
    }
    assert_eq!(origin.connections(), 0);
    gateway.wait_idle();
}

/// CVE-2026-47692: fields of a version 2 header spilled into the stream behind it.
#[test]
fn cve_2026_47692_no_field_of_a_header_becomes_a_request() {
    let origin = Origin::echo();
    let gateway = before(&origin);
    let smuggled = b"GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    let tlv = [&INET[..], &[0xe0, 0, smuggled.len() as u8], smuggled].concat();
    let mut client = gateway.connect();
    client.send([&v2(0x21, 0x11, &tlv), GET].concat());
    assert_eq!(client.response().text(), "GET /a");
    // One whose addresses take less than its length says, and what is behind is no TLV.
    let mut client = gateway.connect();
    client.send([&v2(0x21, 0x11, &[&INET[..], smuggled].concat()), GET].concat());
    assert_eq!(client.response().status, 400);
    assert!(client.is_closed());
    assert_eq!(origin.seen().len(), 1);
}

#[test]
fn a_header_that_does_not_come_is_given_up() {
    let origin = Origin::fixed("ok");
    let gateway = before(&origin);
    let begun = Instant::now();
    let mut halves: Vec<Client> = [&b""[..], b"PROXY TC", V2_BEGIN]
        .into_iter()
        .map(|begin| {
            let mut client = gateway.connect();
            client.send(begin);
            client
        })
        .collect();
    // Those who leave are nothing to answer.
    drop(gateway.connect());
    for client in &mut halves {
        let response = client.response();
        assert_eq!((response.status, response.reason().as_str()), (408, "header_timeout"));
        assert!(client.is_closed());
    }
    assert!(begun.elapsed() >= Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(gateway.metric("ringway_worker_panics_total", &[]), 0.0);
}

/// An origin that reads a PROXY header before each connection's first request is not one that the support has: here
/// the header's bytes are seen as they came.
#[track_caller]
fn told(version: &str, listener: &str, request: &[u8]) -> (Vec<u8>, std::net::SocketAddr, std::net::SocketAddr) {
    let endpoint = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = endpoint.local_addr().expect("an address");
    let gateway = Gateway::start(&format!(
        "{listener}services: [{{name: up, proxy_protocol: {version}, endpoints: [\"{address}\"]}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n"
    ));
    let mut client = gateway.connect();
    let (own, to) = (client.stream.local_addr().expect("an address"), gateway.address);
    let mut header = Vec::new();
    client.send(request);
    for round in 0..2 {
        if round > 0 {
            client.send(GET);
        }
        let mut far = Client::over(endpoint.accept().expect("a connection of its own").0);
        let head = far.peek(1).windows(4).position(|bytes| bytes == b"GET ");
        let length = match head {
            Some(at) => at,
            None => {
                let mut count = far.carried();
                loop {
                    if let Some(at) = far.peek(count).windows(4).position(|bytes| bytes == b"GET ") {
                        break at;
                    }
                    count = far.carried() + 1;
                }
            }
        };
        header = far.take(length);
        assert_eq!(far.read_head().expect("a request").start, "GET /a HTTP/1.1");
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(client.response().text(), "ok");
        assert!(far.is_closed(), "the connection is not kept");
    }
    (header, own, to)
}

#[test]
fn services_are_told_of_the_client() {
    let (header, own, to) = told("v1", "", GET);
    let text = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), to.port());
    assert_eq!(String::from_utf8_lossy(&header), text);
    let (header, own, to) = told("v2", "", GET);
    let ports = [own.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    assert_eq!(header, v2(0x21, 0x11, &[&[127, 0, 0, 1, 127, 0, 0, 1][..], &ports].concat()));
}

#[test]
fn services_are_told_what_a_load_balancer_told_the_gateway() {
    let request = [b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443\r\n", GET].concat();
    let (header, _, to) = told("v1", &listening("127.0.0.0/8", ""), &request);
    let text = format!("PROXY TCP4 203.0.113.9 127.0.0.1 4660 {}\r\n", to.port());
    assert_eq!(String::from_utf8_lossy(&header), text);
    let request = [b"PROXY TCP6 2001:db8::9 ::1 4660 443\r\n", GET].concat();
    let (header, _, to) = told("v1", &listening("127.0.0.0/8", ""), &request);
    let text = format!("PROXY TCP6 2001:db8::9 ::ffff:127.0.0.1 4660 {}\r\n", to.port());
    assert_eq!(String::from_utf8_lossy(&header), text);
}

/// A reload that brings the key finds connections in the pool that named nobody: they are not used for it.
#[test]
fn a_reload_that_brings_the_header_uses_no_old_connection() {
    let origin = Origin::start(|seen| if seen.line().starts_with("GET") { ok("plain") } else { vec![Step::Close] });
    let gateway = crate::support::before(&origin);
    assert_eq!(gateway.get("/a").text(), "plain");
    let yaml = proxy_to(&origin).replace("name: up,", "name: up, proxy_protocol: v1,");
    assert_eq!(gateway.reload(&yaml).status, 200);
    gateway.ask(GET);
    assert!(origin.connections() >= 2);
    let begins = origin.received().windows(6).any(|bytes| bytes == b"PROXY ");
    assert!(begins, "{}", String::from_utf8_lossy(&origin.received()));
}
