//! Requests that become tunnels (F47): when they do, when they do not, and how long they last.

use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, PATIENCE, Response, eventually};

const ASK: &str = "GET /chat?a=b HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                      Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway before an endpoint that the test plays itself.
struct Bed {
    gateway: Gateway,
    endpoint: TcpListener,
}

/// `route` stands in the one route, `top` beside it.
fn bed(route: &str, top: &str) -> Bed {
    let endpoint = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gateway = Plan::new(&config(&endpoint, route, top)).start();
    Bed { gateway, endpoint }
}

fn config(endpoint: &TcpListener, route: &str, top: &str) -> String {
    format!(
        "logging: {{access_log: {{format: json}}}}\n{top}\nservices: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up{route}}}]\n",
        endpoint.local_addr().expect("an address")
    )
}

const WEBSOCKET: &str = ", upgrade: [websocket]";

impl Bed {
    fn accept(&self) -> Client {
        Client::over(self.endpoint.accept().expect("a connection").0)
    }

    /// Opens a tunnel: the client's end, and the endpoint's.
    #[track_caller]
    fn open(&self) -> (Client, Client) {
        let mut client = self.gateway.connect();
        client.send(ASK);
        let mut far = self.accept();
        assert!(far.read_head().is_some());
        far.send(SWITCH);
        let head = client.read_head().expect("an answer");
        assert_eq!(head.start, "HTTP/1.1 101 Switching Protocols");
        (client, far)
    }

    /// What the client gets when the endpoint answers its request so, and what the endpoint saw.
    #[track_caller]
    fn answered(&self, request: &str, answer: &str) -> (Response, crate::support::client::Head) {
        let mut client = self.gateway.connect();
        client.send(request);
        let mut far = self.accept();
        let seen = far.read_head().expect("a request");
        far.send(answer);
        (client.response(), seen)
    }

    /// The one line of the access log.
    #[track_caller]
    fn log_line(&self) -> Value {
        eventually("a log line", || {
            let lines = self.gateway.stdout();
            lines.iter().find_map(|line| serde_json::from_str::<Value>(line).ok())
        })
    }
}

#[track_caller]
fn passes(from: &mut Client, to: &mut Client, text: &str) {
    from.send(text);
    assert_eq!(to.take(text.len()), text.as_bytes());
}

/// A request for the protocol, with other field lines.
fn asking(fields: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: test\r\n{fields}\r\n")
}

#[test]
fn a_websocket_passes_both_ways_and_each_end_by_itself() {
    let bed = bed(WEBSOCKET, "");
    let mut client = bed.gateway.connect();
    client.send(ASK);
    let mut far = bed.accept();
    let head = far.read_head().expect("a request");
    assert_eq!(head.start, "GET /chat?a=b HTTP/1.1");
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("WebSocket")));
    assert_eq!(head.get("sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(head.get("x-forwarded-for"), Some("127.0.0.1"));
    far.send(SWITCH);
    let head = client.read_head().expect("an answer");
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("WebSocket")));
    assert_eq!(head.get("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!((head.length(), head.is_chunked()), (None, false));
    passes(&mut client, &mut far, "\u{1}hello GET / HTTP/1.1\r\n\r\n");
    passes(&mut far, &mut client, "HTTP/1.1 200 OK\r\n\r\nworld");
    assert_eq!(bed.gateway.open_tunnels(), 1.0);
    client.shutdown_write();
    assert!(far.is_closed(), "the client's end is passed on");
    passes(&mut far, &mut client, "and the other direction goes on");
    drop(far);
    assert!(client.is_closed());
    bed.gateway.wait_open_tunnels(0.0);
    let line = bed.log_line();
    assert_eq!((&line["status"], &line["path"], &line["query"]), (&101.into(), &"/chat".into(), &"a=b".into()));
    assert_eq!((&line["route"], &line["service"]), (&"all".into(), &"up".into()));
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&25.into(), &55.into()));
    assert_eq!((&line["client"], &line["reason"]), (&"127.0.0.1".into(), &Value::Null));
    assert_eq!(bed.gateway.metric("ringway_worker_tunnel_upstream_bytes_total", &[]), 25.0);
    assert_eq!(bed.gateway.metric("ringway_worker_tunnel_downstream_bytes_total", &[]), 55.0);
    assert_eq!(bed.gateway.metric("ringway_worker_tunnels_opened_total", &[]), 1.0);
}

#[test]
fn whatever_does_not_clearly_ask_is_an_ordinary_request() {
    let both = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    let bed = bed(WEBSOCKET, "");
    for request in [
        asking("Connection: upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"),
        asking("Connection: upgrade\r\nUpgrade: chat\r\n"),
        asking("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"),
        asking("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n"),
        asking("Connection: upgrade\r\nUpgrade: websocket/\r\n"),
        asking("Connection: upgrade, close\r\nUpgrade: websocket\r\n"),
        asking("Connection: upgrade\r\n"),
        asking("Upgrade: websocket\r\n"),
        asking(&format!("Content-Length: 2\r\n{both}")) + "hi",
        format!("POST /a HTTP/1.1\r\nHost: test\r\n{both}\r\n"),
        format!("GET /a HTTP/1.0\r\nHost: test\r\n{both}\r\n"),
    ] {
        let (response, seen) = bed.answered(&request, OK);
        assert_eq!((response.status, response.text().as_str()), (200, "ok"), "{request:?}");
        assert_eq!((seen.get("upgrade"), seen.get("connection")), (None, None), "{request:?}");
        let (response, _) = bed.answered(&request, SWITCH);
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_invalid"), "{request:?}");
    }
    assert_eq!(bed.gateway.metric("ringway_worker_tunnels_opened_total", &[]), 0.0);
}

#[test]
fn a_route_that_allows_nothing_serves_what_stands_behind_by_itself() {
    let bed = bed("", "");
    let mut client = bed.gateway.connect();
    client.send(format!("{ASK}GET /second HTTP/1.1\r\nHost: test\r\n\r\n"));
    let mut far = bed.accept();
    for start in ["GET /chat?a=b HTTP/1.1", "GET /second HTTP/1.1"] {
        let head = far.read_head().expect("a request");
        assert_eq!((head.start.as_str(), head.get("upgrade")), (start, None));
        far.send(OK);
        assert_eq!(client.response().text(), "ok");
    }
}

#[test]
fn only_a_101_to_the_protocol_that_was_asked_for_opens() {
    let bed = bed(WEBSOCKET, "");
    for answer in [
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n",
        "HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n",
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket, chat\r\n\r\n",
        "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n",
        "HTTP/1.0 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ] {
        let (response, _) = bed.answered(ASK, answer);
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_invalid"), "{answer:?}");
    }
    // Interim responses pass before the switch.
    let mut client = bed.gateway.connect();
    client.send(ASK);
    let mut far = bed.accept();
    assert!(far.read_head().is_some());
    far.send(format!("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n{SWITCH}first"));
    assert_eq!(client.read_head().expect("hints").start, "HTTP/1.1 103 Early Hints");
    assert_eq!(client.read_head().expect("the switch").start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(client.take(5), b"first", "what came with the 101 belongs to the tunnel");
    bed.gateway.wait_open_tunnels(1.0);
}

#[test]
fn connect_and_trace_stay_refused() {
    let bed = bed(WEBSOCKET, "");
    for request in ["CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\n\r\n", "TRACE / HTTP/1.1\r\nHost: test\r\n\r\n"] {
        let response = bed.gateway.ask(request);
        assert_eq!((response.status, response.reason().as_str()), (405, "method_refused"));
        assert!(response.closes());
    }
}

#[test]
fn no_configuration_lets_h2c_through() {
    for protocol in ["h2c", "H2C", "HTTP/2.0", "TLS/1.0"] {
        let endpoint = TcpListener::bind("127.0.0.1:0").expect("a port");
        let exited = Plan::new(&config(&endpoint, &format!(", upgrade: [\"{protocol}\"]"), "")).start_in_vain();
        assert!(exited.stderr.contains("is never passed on"), "{}", exited.stderr);
    }
}

/// CVE-2026-2833: a proxy opened the tunnel before the endpoint had agreed.
#[test]
fn cve_2026_2833_nothing_passes_before_the_101() {
    let bed = bed(WEBSOCKET, "");
    let mut client = bed.gateway.connect();
    // More than any buffer on the way holds.
    let early = "early ".repeat(500_000);
    client.send(ASK);
    let sender = {
        let mut stream = client.stream.try_clone().expect("a descriptor");
        let early = early.clone();
        std::thread::spawn(move || std::io::Write::write_all(&mut stream, early.as_bytes()).expect("taken in the end"))
    };
    let mut far = bed.accept();
    assert!(far.read_head().is_some());
    far.stream.set_read_timeout(Some(Duration::from_millis(300))).expect("an option");
    let read = std::io::Read::read(&mut far.stream, &mut [0; 16]);
    assert!(read.is_err(), "nothing may come before the 101: {read:?}");
    assert_eq!(far.carried(), 0);
    assert!(bed.gateway.rss_kib() < 200_000);
    far.stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    far.send(SWITCH);
    assert_eq!(client.read_head().expect("an answer").start, "HTTP/1.1 101 Switching Protocols");
    assert!(far.take(early.len()) == early.as_bytes(), "all of it passes behind the 101");
    sender.join().expect("sent");
}

/// CVE-2026-73548: what a client sent for a tunnel that was then refused was read as a request on a shared connection.
#[test]
fn cve_2026_73548_bytes_before_a_refused_upgrade_reach_nobody() {
    let bed = bed(WEBSOCKET, "");
    let mut client = bed.gateway.connect();
    client.send(format!("{ASK}GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n"));
    let mut far = bed.accept();
    assert!(far.read_head().is_some());
    far.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let response = client.response();
    assert_eq!((response.status, response.closes()), (403, true));
    assert!(client.is_closed(), "the second request gets no answer");
    assert!(far.is_closed(), "and the endpoint nothing more, on a connection that is not kept");
}

/// CVE-2024-23326: a 200 was taken for an accepted upgrade.
#[test]
fn cve_2024_23326_a_200_opens_nothing() {
    let bed = bed(WEBSOCKET, "");
    let mut client = bed.gateway.connect();
    client.send(format!("{ASK}tunnel bytes"));
    let mut far = bed.accept();
    assert!(far.read_head().is_some());
    far.send("HTTP/1.1 200 OK\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nok");
    let response = client.response();
    assert_eq!((response.status, response.text().as_str(), response.closes()), (200, "ok", true));
    assert_eq!((response.header("upgrade"), response.header("connection")), (None, Some("close")));
    assert!(client.is_closed() && far.is_closed());
    assert_eq!(bed.gateway.metric("ringway_worker_tunnels_opened_total", &[]), 0.0);
}

/// CVE-2026-88008: an h2c upgrade was forwarded, and what followed went past every rule.
#[test]
fn cve_2026_88008_h2c_is_never_forwarded() {
    let bed = bed(", upgrade: [websocket, chat/1]", "");
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for upgrade in ["h2c", "H2C", "h2", "HTTP/2.0", "websocket, h2c", "h2c, websocket", "h2c\r\nUpgrade: websocket"] {
        let fields = format!("Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMA\r\nUpgrade: {upgrade}\r\n");
        let mut client = bed.gateway.connect();
        client.send(asking(&fields) + preface);
        let mut far = bed.accept();
        let seen = far.read_head().expect("a request");
        assert_eq!((seen.get("upgrade"), seen.get("connection"), seen.get("http2-settings")), (None, None, None));
        far.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
        assert_eq!(client.response().text(), "ok");
        assert_eq!(client.response().status, 505, "the preface is a request by itself, and none that is served");
    }
}

/// CVE-2026-71324: the body of a refused CONNECT stayed unread on a pooled connection, and became the next request.
#[test]
fn cve_2026_71324_a_refused_connect_leaves_nothing_behind() {
    let bed = bed(WEBSOCKET, "");
    let mut client = bed.gateway.connect();
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: test\r\n\r\n";
    let length = smuggled.len();
    client.send(format!(
        "CONNECT test:80 HTTP/1.1\r\nHost: test:80\r\nContent-Length: {length}\r\n\r\n{smuggled}{smuggled}"
    ));
    let response = client.response();
    assert_eq!((response.status, response.closes()), (405, true));
    assert!(client.is_closed(), "one answer for one request");
    // The endpoint sees the next client's request first.
    let (response, seen) = bed.answered("GET /next HTTP/1.1\r\nHost: test\r\n\r\n", OK);
    assert_eq!((response.status, seen.start.as_str()), (200, "GET /next HTTP/1.1"));
}

#[test]
fn tunnels_have_a_bound_of_their_own() {
    let listener = |most: u32| format!("listeners: [{{address: \"127.0.0.1:0\", limits: {{tunnels_max: {most}}}}}]");
    let bed = bed(WEBSOCKET, &listener(2));
    let first = bed.open();
    let _second = bed.open();
    let refused = bed.gateway.ask(ASK);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "tunnels_full"));
    assert!(refused.header("retry-after").is_some());
    // Whatever does not become a tunnel gives its place back.
    drop(first);
    bed.gateway.wait_open_tunnels(1.0);
    for _ in 0..5 {
        assert_eq!(bed.answered(ASK, OK).0.status, 200);
    }
    let _third = bed.open();
    assert_eq!(bed.gateway.ask(ASK).status, 503);
    // Tunnels that are open count under the bound that a reload brings.
    let reloaded = bed.gateway.reload(&config(&bed.endpoint, WEBSOCKET, &listener(3)));
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    let _fourth = bed.open();
    assert_eq!(bed.gateway.ask(ASK).status, 503);
}

/// A tunnel is a request in flight until it ends: for the limit of its route, and for that of its service.
#[test]
fn tunnels_hold_their_places_under_limits_of_requests() {
    let in_flight = |bed: &Bed| bed.gateway.metric("ringway_limit_requests_in_flight", &[]);
    let policy = ", policies: [{concurrency_limit: {requests_max: 2, pending_max: 0}}]";
    let bed = bed(&[WEBSOCKET, policy].concat(), "");
    let first = bed.open();
    let second = bed.open();
    assert_eq!(in_flight(&bed), 2.0);
    let refused = bed.gateway.ask(ASK);
    assert_eq!((refused.status, refused.reason().as_str()), (503, "concurrency_limited"));
    // A reload lets nobody forget them.
    let yaml = config(&bed.endpoint, &[WEBSOCKET, policy, ", timeout: 50s"].concat(), "");
    assert_eq!(bed.gateway.reload(&yaml).status, 200);
    assert_eq!(bed.gateway.ask(ASK).reason(), "concurrency_limited");
    drop(first);
    eventually("a place is free", || (in_flight(&bed) == 1.0).then_some(()));
    let _third = bed.open();
    assert_eq!(bed.gateway.ask(ASK).reason(), "concurrency_limited");
    drop(second);
    eventually("a place is free", || (in_flight(&bed) == 1.0).then_some(()));
}

#[test]
fn an_idle_tunnel_ends_and_a_busy_one_does_not() {
    let bed = bed(", upgrade: [websocket], tunnel: {idle_timeout: 1500ms}", "");
    let (mut client, mut far) = bed.open();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(3) {
        passes(&mut far, &mut client, "tick");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    let quiet = Instant::now();
    assert!(client.is_closed() && far.is_closed());
    assert!(quiet.elapsed() >= Duration::from_secs(1), "{:?}", quiet.elapsed());
    let line = bed.log_line();
    assert_eq!((&line["reason"], &line["detail"]), (&"tunnel_timeout".into(), &"idle".into()));
    assert_eq!(line["status"], 101);
}

#[test]
fn no_tunnel_is_open_for_ever() {
    let bed = bed(", upgrade: [websocket], tunnel: {duration_max: 1500ms}", "");
    let (mut client, mut far) = bed.open();
    let begun = Instant::now();
    while client.try_send("tick") && far.peek(far.carried() + 1).len() > 3 && begun.elapsed() < PATIENCE {
        let count = far.carried();
        far.take(count);
    }
    assert!(begun.elapsed() >= Duration::from_secs(1), "{:?}", begun.elapsed());
    let line = bed.log_line();
    assert_eq!((&line["reason"], &line["detail"]), (&"tunnel_timeout".into(), &"open for too long".into()));
}

#[test]
fn reloads_close_no_tunnel() {
    let bed = bed(WEBSOCKET, "");
    let mut tunnels: Vec<_> = (0..5).map(|_| bed.open()).collect();
    for round in 0..8 {
        // Even one that takes the route and the service away.
        let yaml = match round % 2 {
            0 => "routes: [{path: /other, respond: {body: here}}]".to_owned(),
            _ => config(&bed.endpoint, "", ""),
        };
        let reloaded = bed.gateway.reload(&yaml);
        assert_eq!(reloaded.status, 200, "{}", reloaded.text());
        for (client, far) in &mut tunnels {
            passes(client, far, "ping");
            passes(far, client, "pong");
        }
    }
    assert_eq!(bed.gateway.open_tunnels(), 5.0);
    drop(tunnels);
    bed.gateway.wait_open_tunnels(0.0);
    assert_eq!((&bed.log_line()["route"], &bed.log_line()["service"]), (&"all".into(), &"up".into()));
}

#[test]
fn a_drain_ends_tunnels_at_its_deadline_and_no_sooner() {
    let mut bed = bed(WEBSOCKET, "server: {workers: 1, pin_workers: false, drain_timeout: 4s}");
    let (mut client, mut far) = bed.open();
    let begun = Instant::now();
    bed.gateway.signal("TERM");
    bed.gateway.wait_log("stopping", 1);
    eventually("no new connections", || TcpStream::connect(bed.gateway.address).is_err().then_some(()));
    passes(&mut client, &mut far, "still");
    passes(&mut far, &mut client, "open");
    assert_eq!(bed.gateway.open_tunnels(), 1.0, "the drain can be watched");
    assert!(client.is_closed() && far.is_closed());
    assert!(begun.elapsed() >= Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(bed.gateway.exit_code(), 0);
    assert_eq!(bed.log_line()["reason"], "draining");
}

#[test]
fn a_drain_waits_no_longer_than_its_tunnels() {
    let mut bed = bed(WEBSOCKET, "");
    let (client, mut far) = bed.open();
    let mut other = bed.gateway.connect();
    assert_eq!(other.get("/%zz").status, 400);
    bed.gateway.signal("TERM");
    bed.gateway.wait_log("stopping", 1);
    assert!(bed.gateway.is_running());
    drop(client);
    assert!(far.is_closed());
    drop(far);
    assert_eq!(bed.gateway.exit_code(), 0);
    assert_eq!(bed.gateway.wait_log("stopped", 1)[0]["drained"], "true");
}

#[test]
fn idle_tunnels_hold_no_buffers() {
    let bed = bed(WEBSOCKET, "");
    let mut tunnels: Vec<_> = (0..20).map(|_| bed.open()).collect();
    for round in ["one", "two"] {
        for (client, far) in &mut tunnels {
            passes(client, far, round);
            passes(far, client, round);
        }
        eventually("buffers come back", || {
            (bed.gateway.metric("ringway_worker_buffers_used", &[]) == 0.0).then_some(())
        });
    }
    assert_eq!(bed.gateway.open_tunnels(), 20.0);
}

/// While the client does not read, the other direction becomes idle and gives its buffer back: no byte is lost.
#[test]
fn a_slow_reader_holds_one_buffer_and_loses_nothing() {
    let bed = bed(WEBSOCKET, "");
    let (mut client, far) = bed.open();
    let before = bed.gateway.rss_kib();
    let text: Vec<u8> = (0..16_000_000_u32).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
    let sender = {
        let (mut stream, text) = (far.stream.try_clone().expect("a descriptor"), text.clone());
        std::thread::spawn(move || std::io::Write::write_all(&mut stream, &text).expect("taken in the end"))
    };
    eventually("one buffer waits for the client", || {
        (bed.gateway.metric("ringway_worker_buffers_used", &[]) == 1.0).then_some(())
    });
    assert!(bed.gateway.rss_kib() < before + 8_192, "{} KiB, {before} before", bed.gateway.rss_kib());
    assert!(client.take(text.len()) == text, "every byte, in order");
    sender.join().expect("sent");
    bed.gateway.wait_open_tunnels(1.0);
}

#[test]
fn a_reset_is_passed_on() {
    let bed = bed(WEBSOCKET, "");
    for from_client in [true, false] {
        let (client, far) = bed.open();
        let (gone, mut left) = if from_client { (client, far) } else { (far, client) };
        socket2::SockRef::from(&gone.stream).set_linger(Some(Duration::ZERO)).expect("an option");
        drop(gone);
        let error = std::io::Read::read(&mut left.stream, &mut [0; 1]).expect_err("no orderly end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
        bed.gateway.wait_open_tunnels(0.0);
    }
    bed.gateway.wait_idle();
}

#[test]
fn an_endpoint_that_is_down_or_silent_is_answered_for() {
    let endpoint = TcpListener::bind("127.0.0.1:0").expect("a port");
    let yaml = config(&endpoint, WEBSOCKET, "").replace("endpoints:", "timeouts: {first_byte: 300ms}, endpoints:");
    let gateway = Plan::new(&yaml).start();
    let silent = gateway.ask(ASK);
    assert_eq!((silent.status, silent.reason().as_str()), (504, "upstream_timeout"));
    drop(endpoint);
    let down = gateway.ask(ASK);
    assert_eq!(down.status, 502, "{}", down.text());
    assert_eq!(gateway.metric("ringway_worker_tunnels_open", &[]), 0.0);
}
