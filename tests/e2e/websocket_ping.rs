//! Pings of the gateway's own in WebSockets: when they are sent, where they may stand, and what silence leads to.

use std::net::TcpListener;

use serde_json::Value;

use crate::http2::wire::{self, END_HEADERS, H2, HEADERS, raw};
use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, eventually};

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

struct Bed {
    gateway: Gateway,
    endpoint: TcpListener,
}

fn bed(ping: &str) -> Bed {
    let endpoint = TcpListener::bind("127.0.0.1:0").expect("a port");
    let gateway = Plan::new(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocols: [http1, h2c]}}]\nlogging: {{access_log: {{format: json}}}}\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: all, path: /*, service: up, upgrade: [websocket], websocket_ping: {ping}}}]\n",
        endpoint.local_addr().expect("an address")
    ))
    .start();
    Bed { gateway, endpoint }
}

impl Bed {
    /// The endpoint's end of a WebSocket that is asked for.
    fn accept(&self) -> Client {
        let mut far = Client::over(self.endpoint.accept().expect("a connection").0);
        let head = far.read_head().expect("a request");
        let key = head.get("sec-websocket-key").expect("a key");
        let accept = String::from_utf8(ringway::proto::websocket::accept(key.as_bytes())).expect("base64");
        far.send(format!(
            "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        ));
        far
    }

    fn open(&self) -> (Client, Client) {
        let mut client = self.gateway.connect();
        client.send(ASK);
        let far = self.accept();
        let head = client.read_head().expect("an answer");
        assert!(head.start.contains(" 101 "), "{}", head.start);
        (client, far)
    }

    #[track_caller]
    fn reason(&self) -> Value {
        let line: Value =
            eventually("a log line", || self.gateway.stdout().iter().find_map(|line| serde_json::from_str(line).ok()));
        line["reason"].clone()
    }
}

/// Takes one short frame off a connection: its first byte, and its payload without the mask.
fn frame(from: &mut Client) -> (u8, Vec<u8>) {
    let head = from.take(2);
    let length = usize::from(head[1] & 0x7f);
    assert!(length < 126, "{head:?}");
    let mask = if head[1] & 0x80 != 0 { from.take(4) } else { vec![0; 4] };
    let payload = from.take(length);
    (head[0], payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect())
}

const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;
/// A client's pong, with a mask.
const CLIENTS_PONG: [u8; 6] = [PONG, 0x80, 1, 2, 3, 4];

#[test]
fn silent_sides_are_asked_and_live_as_long_as_they_answer() {
    let bed = bed("{interval: 200ms, timeout: 60s}");
    let (mut client, mut far) = bed.open();
    for _ in 0..4 {
        // To a client without a mask, to an endpoint with one.
        assert_eq!(client.take(2), [PING, 0]);
        client.send(CLIENTS_PONG);
        let mut others = Vec::new();
        while others.last() != Some(&PONG) {
            others.push(frame(&mut far).0);
        }
        assert!(others.iter().all(|kind| matches!(*kind, PING | PONG)), "{others:?}");
        far.send([PONG, 0]);
        let mut kind = 0;
        while kind != PONG {
            kind = frame(&mut client).0;
            if kind == PING {
                client.send(CLIENTS_PONG);
            }
        }
    }
    assert_eq!(bed.gateway.metric("ringway_worker_tunnels_open", &[]), 1.0);
}

/// A ping never stands inside of a frame, however long that takes.
#[test]
fn a_frame_under_way_is_not_broken() {
    let bed = bed("{interval: 100ms, timeout: 60s}");
    let (mut client, mut far) = bed.open();
    let mut sent = vec![0x82, 0xfe, 0x01, 0x00, 9, 9, 9, 9];
    client.send(&sent);
    for at in 0..256_u16 {
        if at % 32 == 0 {
            // Each of these pings to the client is a pause in which the endpoint might have got one.
            assert_eq!(client.take(2), [PING, 0]);
        }
        let byte = [at as u8];
        client.send(byte);
        sent.extend(byte);
    }
    let mut got = Vec::new();
    // Those that came before the frame began.
    while got.len() < sent.len() {
        let byte = far.take(1);
        if got.is_empty() && byte == [PING] {
            far.take(5);
            continue;
        }
        got.extend(byte);
    }
    assert!(got == sent, "the frame is whole");
    client.send([0x81, 0x80, 1, 2, 3, 4]);
    let mut kind = PING;
    while kind == PING {
        kind = frame(&mut far).0;
    }
    assert_eq!(kind, 0x81, "frames go on behind it");
}

#[test]
fn an_endpoint_that_does_not_answer_is_given_up() {
    let bed = bed("{interval: 100ms, timeout: 500ms}");
    let (mut client, mut far) = bed.open();
    let close = loop {
        let (kind, payload) = frame(&mut client);
        match kind {
            PING => drop(client.try_send(CLIENTS_PONG)),
            CLOSE => break payload,
            other => panic!("{other:x}"),
        }
    };
    assert_eq!((&close[..2], &close[2..]), (&1011_u16.to_be_bytes()[..], &b"the other side does not answer pings"[..]));
    assert!(client.is_closed());
    drop(far.read_to_end());
    assert_eq!(bed.reason(), "tunnel_timeout");
}

/// The same from the other side, where the client is a stream of HTTP/2.
#[test]
fn a_client_that_does_not_answer_is_given_up() {
    let bed = bed("{interval: 100ms, timeout: 1s}");
    let mut client = H2::connect(bed.gateway.address);
    let connect = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/chat"),
        (":authority", "test"),
    ];
    client.send(&raw(HEADERS, END_HEADERS, 1, &wire::block(&connect)));
    let mut far = bed.accept();
    let close = loop {
        let (kind, payload) = frame(&mut far);
        match kind {
            PING => drop(far.try_send([PONG, 0])),
            CLOSE => break payload,
            other => panic!("{other:x}"),
        }
    };
    assert_eq!(close[..2], 1011_u16.to_be_bytes());
    let answer = client.answer(1);
    assert_eq!((answer.status, answer.reset), (200, Some(8)));
    let (pings, rest) = answer.body.as_chunks::<2>();
    assert!(rest.is_empty() && pings.contains(&[PING, 0]) && pings.iter().all(|frame| *frame != [CLOSE, 0]));
    assert_eq!(bed.reason(), "tunnel_timeout");
}
