//! WebSocket over HTTP/2 (RFC 8441): an extended CONNECT on the client's side, an Upgrade on the endpoint's.

use std::net::TcpListener;

use serde_json::Value;

use crate::http2::wire::{self, DATA, END_HEADERS, END_STREAM, GOAWAY, H2, HEADERS, RESET, SETTINGS, raw};
use crate::support::client::Head;
use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, eventually};

const CANCEL: u32 = 8;

struct Bed {
    gateway: Gateway,
    endpoint: TcpListener,
}

fn config(endpoint: &TcpListener, route: &str, limits: &str, top: &str) -> String {
    format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocols: [http1, h2c], limits: {{{limits}}}}}]\n\
         logging: {{access_log: {{format: json}}}}\n{top}\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: fixed, path: /fixed, respond: {{body: fixed}}}}, {{name: plain, path: /plain, service: up}}, \
         {{name: all, path: /*, service: up, upgrade: [websocket]{route}}}]\n",
        endpoint.local_addr().expect("an address")
    )
}

fn bed(route: &str, limits: &str, top: &str) -> Bed {
    let endpoint = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gateway = Plan::new(&config(&endpoint, route, limits, top)).start();
    Bed { gateway, endpoint }
}

/// An extended CONNECT with these fields behind the usual ones.
fn connect(stream: u32, path: &str, protocol: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "CONNECT"),
        (":protocol", protocol),
        (":scheme", "http"),
        (":path", path),
        (":authority", "test"),
        ("sec-websocket-version", "13"),
    ];
    raw(HEADERS, END_HEADERS, stream, &wire::block(&[&usual[..], more].concat()))
}

fn ask(stream: u32) -> Vec<u8> {
    connect(stream, "/chat?a=b", "websocket", &[])
}

/// What an endpoint answers that has understood.
fn switch(head: &Head) -> String {
    let key = head.get("sec-websocket-key").expect("a key");
    let accept = String::from_utf8(ringway::proto::websocket::accept(key.as_bytes())).expect("base64");
    format!(
        "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\
         Sec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

impl Bed {
    fn accept(&self) -> Client {
        Client::over(self.endpoint.accept().expect("a connection").0)
    }

    /// A tunnel on a stream of `client`. Returns the endpoint's end.
    #[track_caller]
    fn open(&self, client: &mut H2, stream: u32) -> Client {
        client.send(&ask(stream));
        let mut far = self.accept();
        let head = far.read_head().expect("a request");
        far.send(switch(&head));
        assert_eq!(status(client, stream), 200);
        far
    }

    /// The log line of the tunnel.
    #[track_caller]
    fn log_line(&self) -> Value {
        eventually("a log line", || {
            let lines = self.gateway.stdout();
            lines
                .iter()
                .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                .find(|line| line["path"] == "/chat")
        })
    }
}

/// Reads until the head of a stream's answer is there.
#[track_caller]
fn status(client: &mut H2, stream: u32) -> u16 {
    while client.answers.get(&stream).is_none_or(|answer| answer.status == 0 && answer.reset.is_none()) {
        assert!(client.step(), "no answer: {:?}", client.goaway);
    }
    client.answers[&stream].status
}

/// Reads until so many bytes have come on a stream.
#[track_caller]
fn body(client: &mut H2, stream: u32, bytes: usize) -> Vec<u8> {
    while client.answers[&stream].body.len() < bytes {
        assert!(client.step(), "{} of {bytes} bytes", client.answers[&stream].body.len());
    }
    client.answers[&stream].body.clone()
}

#[test]
fn a_websocket_passes_both_ways_and_each_end_by_itself() {
    let bed = bed("", "", "");
    let mut client = H2::connect(bed.gateway.address);
    let settings = client.frame().expect("SETTINGS come first");
    assert!(
        settings.kind == SETTINGS && settings.payload.chunks(6).any(|one| one == [0, 8, 0, 0, 0, 1]),
        "{settings:?}"
    );
    let lies = [("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA=="), ("sec-websocket-protocol", "chat")];
    client.send(&connect(1, "/chat?a=b", "WebSocket", &lies));
    let mut far = bed.accept();
    let head = far.read_head().expect("a request");
    assert_eq!(head.start, "GET /chat?a=b HTTP/1.1");
    assert_eq!((head.get("connection"), head.get("upgrade")), (Some("upgrade"), Some("WebSocket")));
    assert_eq!((head.get("host"), head.get("x-forwarded-for")), (Some("test"), Some("127.0.0.1")));
    assert_eq!((head.get("sec-websocket-version"), head.get("sec-websocket-protocol")), (Some("13"), Some("chat")));
    let keys = head.all("sec-websocket-key");
    assert!(keys.len() == 1 && keys[0].len() == 24 && keys[0] != lies[0].1, "the key is the gateway's: {keys:?}");
    assert_eq!((head.length(), head.is_chunked()), (None, false));
    far.send(switch(&head));
    assert_eq!(status(&mut client, 1), 200);
    let answer = client.answers[&1].clone();
    assert_eq!(answer.field("sec-websocket-protocol"), Some("chat"));
    for gone in ["sec-websocket-accept", "connection", "upgrade", "content-length"] {
        assert_eq!(answer.field(gone), None, "{gone}");
    }
    // More than the windows hold, each way.
    let long: String = (0..15_000).map(|n| format!("{n:05} ")).collect();
    for piece in long.as_bytes().chunks(15_000) {
        client.send(&raw(DATA, 0, 1, piece));
        assert!(far.take(piece.len()) == piece, "up, as it is");
    }
    far.send(&long);
    assert!(body(&mut client, 1, long.len()) == long.as_bytes(), "down, as it is");
    assert_eq!(bed.gateway.open_tunnels(), 1.0);
    client.send(&raw(DATA, END_STREAM, 1, b"last"));
    assert_eq!(far.take(4), b"last");
    assert!(far.is_closed(), "the client's end is passed on");
    far.send("and the other direction goes on");
    body(&mut client, 1, long.len() + 31);
    drop(far);
    let answer = client.answer(1);
    assert_eq!((answer.ended, answer.reset), (true, None));
    bed.gateway.wait_open_tunnels(0.0);
    let line = bed.log_line();
    assert_eq!((&line["status"], &line["query"], &line["route"]), (&200.into(), &"a=b".into(), &"all".into()));
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&90_004.into(), &90_031.into()));
    assert_eq!((&line["method"], &line["reason"]), (&"GET".into(), &Value::Null));
    assert_eq!(bed.gateway.metric("ringway_worker_tunnels_opened_total", &[]), 1.0);
    // The connection goes on with others.
    client.send(&wire::get(3, "/fixed"));
    assert_eq!(client.answer(3).body, b"fixed");
}

#[test]
fn what_is_no_tunnel_is_told_apart() {
    let bed = bed("", "", "");
    let mut client = H2::connect(bed.gateway.address);
    let mut stream = 1;
    for (path, protocol) in [("/plain", "websocket"), ("/fixed", "websocket"), ("/a", "connect-udp"), ("/a", "h2c")] {
        client.send(&connect(stream, path, protocol, &[]));
        let answer = client.answer(stream);
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 501 && text.contains("protocol_unsupported"), "{path} {protocol}: {answer:?} {text}");
        stream += 2;
    }
    let wrong = "HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
    for (answered, expected) in [
        ("HTTP/1.1 403 F\r\nContent-Length: 2\r\n\r\nno", 403),
        // A 200 is what says that the tunnel is open.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 501),
        ("HTTP/1.1 204 N\r\n\r\n", 501),
        (&format!("{wrong}\r\n"), 502),
        (&format!("{wrong}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"), 502),
        ("HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: chat\r\n\r\n", 502),
    ] {
        client.send(&ask(stream));
        let mut far = bed.accept();
        assert!(far.read_head().is_some());
        far.send(answered);
        assert_eq!(client.answer(stream).status, expected, "{answered}");
        assert!(far.is_closed(), "it is never used again");
        stream += 2;
    }
    bed.gateway.wait_open_tunnels(0.0);
}

#[test]
fn a_break_on_one_side_is_a_break_on_the_other() {
    let bed = bed("", "", "");
    // The client resets its stream.
    let mut client = H2::connect(bed.gateway.address);
    let mut far = bed.open(&mut client, 1);
    client.send(&raw(RESET, 0, 1, &CANCEL.to_be_bytes()));
    assert!(far.is_closed());
    assert_eq!(bed.log_line()["reason"], "client_closed");
    bed.gateway.wait_open_tunnels(0.0);
    // The endpoint resets its connection.
    let far = bed.open(&mut client, 3);
    socket2::SockRef::from(&far.stream).set_linger(Some(std::time::Duration::ZERO)).expect("an option");
    drop(far);
    assert_eq!(client.answer(3).reset, Some(CANCEL));
    // Fields where only bytes may be.
    let _far = bed.open(&mut client, 5);
    client.send(&raw(HEADERS, END_HEADERS | END_STREAM, 5, &wire::block(&[("a", "b")])));
    assert_eq!(client.answer(5).reset, Some(1));
    // The client's whole connection goes, with two tunnels.
    let mut fars = [bed.open(&mut client, 7), bed.open(&mut client, 9)];
    drop(client);
    assert!(fars.iter_mut().all(Client::is_closed));
    bed.gateway.wait_open_tunnels(0.0);
    eventually("a line for each tunnel", || {
        let lines = bed.gateway.stdout();
        (lines.iter().filter(|line| line.contains("\"/chat\"")).count() == 5).then_some(())
    });
}

#[test]
fn a_tunnel_without_room_keeps_nobody_waiting() {
    let bed = bed("", "", "");
    let mut client = H2::with(bed.gateway.address, &[(4, 1_000)]);
    client.gives_room = false;
    let mut far = bed.open(&mut client, 1);
    far.send("x".repeat(20_000));
    body(&mut client, 1, 1_000);
    client.send(&wire::get(3, "/fixed"));
    assert_eq!(client.answer(3).body, b"fixed");
    assert_eq!(client.answers[&1].body.len(), 1_000, "no byte over the window");
    client.send(&raw(wire::WINDOW_UPDATE, 0, 1, &19_000_u32.to_be_bytes()));
    assert_eq!(body(&mut client, 1, 20_000).len(), 20_000);
}

#[test]
fn tunnels_are_bounded_and_outlive_reloads() {
    let bed = bed("", "tunnels_max: 1", "");
    let mut client = H2::connect(bed.gateway.address);
    let mut far = bed.open(&mut client, 1);
    client.send(&ask(3));
    assert_eq!(client.answer(3).status, 503);
    let reloaded = bed.gateway.reload(&config(&bed.endpoint, ", tunnel: {idle_timeout: 1h}", "tunnels_max: 2", ""));
    assert_eq!(reloaded.status, 200, "{}", reloaded.text());
    client.send(&raw(DATA, 0, 1, b"still"));
    assert_eq!(far.take(5), b"still");
    let _second = bed.open(&mut client, 5);
    assert_eq!(bed.gateway.open_tunnels(), 2.0);
}

#[test]
fn an_idle_tunnel_ends_and_its_connection_does_not() {
    let bed = bed(", tunnel: {idle_timeout: 1s}", "", "");
    let mut client = H2::connect(bed.gateway.address);
    let mut far = bed.open(&mut client, 1);
    assert!(far.is_closed());
    client.answer(1);
    assert_eq!(bed.log_line()["reason"], "tunnel_timeout");
    client.send(&wire::get(3, "/fixed"));
    assert_eq!(client.answer(3).status, 200);
}

#[test]
fn a_drain_is_announced_and_ends_tunnels_at_its_deadline() {
    let mut bed = bed("", "", "server: {workers: 1, pin_workers: false, drain_timeout: 3s}");
    let mut client = H2::connect(bed.gateway.address);
    let mut far = bed.open(&mut client, 1);
    bed.gateway.signal("TERM");
    while client.goaway.is_none() {
        assert!(client.step(), "GOAWAY comes first");
    }
    assert_eq!(client.goaway.as_ref().map(|frame| (frame.kind, frame.code())), Some((GOAWAY, 0)));
    client.send(&raw(DATA, 0, 1, b"still"));
    assert_eq!(far.take(5), b"still");
    assert!(far.is_closed());
    client.end();
    assert_eq!(bed.gateway.exit_code(), 0);
    assert_eq!(bed.log_line()["reason"], "draining");
}
