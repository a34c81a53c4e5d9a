//! `protocol: auto`: an endpoint behind TLS chooses HTTP/2 or HTTP/1.1, and is spoken to so. The endpoint is a gateway.

use std::net::{SocketAddr, TcpListener};
use std::thread;

use serde_json::Value;

use crate::support::gateway::Plan;
use crate::support::tls::{Authority, Issued};
use crate::support::{Client, Gateway, Origin, eventually, ok};

/// A gateway with TLS as the endpoint, before this origin.
fn far(one: &Issued, protocols: &str, origin: SocketAddr) -> Plan {
    Plan::new(&format!(
        "server: {{workers: 1, pin_workers: false}}\nlogging: {{access_log: {{format: json}}}}\n\
         listeners: [{{address: \"127.0.0.1:0\", protocols: {protocols}, tls: {{{}}}}}]\n\
         services: [{{name: up, endpoints: [\"{origin}\"]}}]\n\
         routes: [{{name: all, path: /*, service: up, upgrade: [websocket]}}]\n",
        one.yaml()
    ))
}

fn near(ca: &Authority, endpoint: SocketAddr, protocol: &str) -> Gateway {
    Gateway::start(&format!(
        "server: {{workers: 1, pin_workers: false}}\n\
         services: [{{name: far, protocol: {protocol}, endpoints: [\"{endpoint}\"], \
         tls: {{ca: [{}], server_name: up.test}}}}]\n\
         routes: [{{name: all, path: /*, service: far, upgrade: [websocket]}}]\n",
        ca.ca().display()
    ))
}

/// What the lines of the access log say of the protocol.
fn spoken(gateway: &Gateway, lines: usize) -> Vec<String> {
    eventually("log lines", || {
        let all = gateway.stdout();
        let lines_of: Vec<Value> = all.iter().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let protocol = |line: &Value| line["protocol"].as_str().unwrap_or_default().to_owned();
        (lines_of.len() >= lines).then(|| lines_of.iter().map(protocol).collect())
    })
}

#[test]
fn an_endpoint_is_spoken_to_as_it_chooses() {
    let ca = Authority::new("ca");
    let one = ca.issue("up", &["up.test"]);
    let origin = Origin::start(|seen| ok(&seen.body));
    for (protocols, expected) in [("[http1, h2]", "HTTP/2.0"), ("[http1]", "HTTP/1.1")] {
        let far = far(&one, protocols, origin.address).start();
        let near = near(&ca, far.address, "auto");
        let address = near.address;
        // The first ones come together: one of them finds out.
        let clients: Vec<_> = (0..12)
            .map(|at| {
                thread::spawn(move || {
                    let mut client = Client::connect(address);
                    for _ in 0..4 {
                        let body = format!("mine is {at}");
                        client.send(format!(
                            "POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}",
                            body.len()
                        ));
                        let answer = client.response();
                        assert_eq!((answer.status, answer.text()), (200, body));
                    }
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().expect("answered"));
        let said = spoken(&far, 48);
        assert!(said.iter().all(|protocol| protocol == expected), "{protocols}: {said:?}");
        if expected == "HTTP/2.0" {
            assert_eq!(far.metric("ringway_worker_h2_connections", &[]), 1.0, "they share one connection");
        }
    }
}

/// What it chose is remembered, and not believed for longer than it is true.
#[test]
fn an_endpoint_may_choose_otherwise_later() {
    let ca = Authority::new("ca");
    let one = ca.issue("up", &["up.test"]);
    let origin = Origin::start(|seen| ok(&seen.body));
    // One socket for one endpoint after the other: who comes between waits in it.
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let start = |protocols: &str| {
        let plan = far(&one, protocols, origin.address);
        plan.replace("127.0.0.1:0\", protocols", &format!("{address}\", protocols"))
            .socket(socket.try_clone().expect("a copy"))
            .start()
    };
    let mut far = start("[http1, h2]");
    let near = near(&ca, address, "auto");
    assert_eq!(near.get("/a").status, 200);
    for (protocols, expected) in [("[http1]", "HTTP/1.1"), ("[http1, h2]", "HTTP/2.0")] {
        far.signal("TERM");
        assert_eq!(far.exit_code(), 0);
        far = start(protocols);
        // A POST: it could not be repeated, had anything of it been sent.
        for _ in 0..3 {
            let answer = near.ask("POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!((answer.status, answer.text().as_str()), (200, "hi"), "{}", near.stdout().join("\n"));
        }
        assert_eq!(spoken(&far, 3), [expected; 3]);
    }
}

/// A tunnel goes over HTTP/1.1, whatever else is spoken.
#[test]
fn tunnels_ask_for_http1() {
    let ca = Authority::new("ca");
    let one = ca.issue("up", &["up.test"]);
    let chat = TcpListener::bind("127.0.0.1:0").expect("a port");
    let far = far(&one, "[http1, h2]", chat.local_addr().expect("an address")).start();
    for protocol in ["auto", "h2", "http1"] {
        let near = near(&ca, far.address, protocol);
        let mut client = near.connect();
        client.send("GET / HTTP/1.1\r\nHost: t\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n");
        let mut end = Client::over(chat.accept().expect("a connection").0);
        assert!(end.read_head().is_some());
        end.send("HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello");
        assert!(client.read_head().expect("an answer").start.contains(" 101 "), "{protocol}");
        assert_eq!(client.take(5), b"hello");
        client.send("and back");
        assert_eq!(end.take(8), b"and back");
    }
}
