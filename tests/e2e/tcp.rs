//! Listeners that pass connections on as they are, by the listener or by the server name of TLS clients.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;

use serde_json::Value;

use crate::support::gateway::Plan;
use crate::support::tls::{Authority, connect};
use crate::support::{Client, Gateway, PATIENCE, eventually};

/// An endpoint that the test plays itself.
struct Far(TcpListener);

impl Far {
    fn new() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    #[track_caller]
    fn accept(&self) -> Client {
        Client::over(self.0.accept().expect("a connection").0)
    }

    fn service(&self, name: &str, more: &str) -> String {
        format!("{{name: {name}, endpoints: [\"{}\"]{more}}}", self.address())
    }
}

fn config(listener: &str, services: &[String]) -> String {
    format!(
        "logging: {{access_log: {{format: json}}}}\nlisteners: [{{name: l4, address: \"127.0.0.1:0\", protocol: tcp{listener}}}]\nservices: [{}]\n",
        services.join(", ")
    )
}

#[track_caller]
fn log_line(gateway: &Gateway, at: usize) -> Value {
    eventually("a log line", || {
        let lines = gateway.stdout();
        lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok()).nth(at)
    })
}

fn vector16(of: &[u8]) -> Vec<u8> {
    [&(of.len() as u16).to_be_bytes()[..], of].concat()
}

/// A ClientHello for this name, with GREASE around it, in records of at most so many bytes.
pub fn hello(name: Option<&str>, most: usize) -> Vec<u8> {
    let mut extensions = [&[0x1a, 0x1a][..], &vector16(b"")].concat();
    if let Some(name) = name {
        let entry = [&[0][..], &vector16(name.as_bytes())].concat();
        extensions.extend([&[0, 0][..], &vector16(&vector16(&entry))].concat());
    }
    let mut body = [&[3, 3][..], &[7; 32], &[0]].concat();
    body.extend(vector16(&[0x0a, 0x0a, 0x13, 0x01]));
    body.extend([1, 0]);
    body.extend(vector16(&extensions));
    let message = [&[1][..], &(body.len() as u32).to_be_bytes()[1..], &body].concat();
    message.chunks(most).flat_map(|part| [&[22, 3, 1][..], &vector16(part)].concat()).collect()
}

#[test]
fn connections_pass_both_ways_and_each_end_by_itself() {
    let far = Far::new();
    let gateway = Gateway::start(&config(", service: db", &[far.service("db", "")]));
    let mut client = gateway.connect();
    let mut server = far.accept();
    // The endpoint may speak first.
    server.send("220 ready\r\n");
    assert_eq!(client.take(11), b"220 ready\r\n");
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert_eq!(server.take(18), b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(gateway.metric("ringway_worker_tunnels_open", &[]), 1.0);
    client.shutdown_write();
    assert!(server.is_closed(), "the client's end is passed on");
    server.send("bye");
    assert_eq!(client.take(3), b"bye", "and the other direction goes on");
    drop(server);
    assert!(client.is_closed());
    eventually("it ends", || (gateway.metric("ringway_worker_tunnels_open", &[]) == 0.0).then_some(()));
    let line = log_line(&gateway, 0);
    assert_eq!((&line["protocol"], &line["scheme"], &line["status"]), (&"TCP".into(), &"tcp".into(), &200.into()));
    assert_eq!((&line["route"], &line["service"]), (&"l4".into(), &"db".into()));
    assert_eq!((&line["bytes_in"], &line["bytes_out"], &line["attempts"]), (&18.into(), &14.into(), &1.into()));
    assert_eq!((&line["client"], &line["reason"]), (&"127.0.0.1".into(), &Value::Null));
    assert_eq!(line["endpoint"], far.address().to_string());
}

#[test]
fn long_streams_pass_unchanged() {
    let far = Far::new();
    let gateway = Gateway::start(&config(", service: db", &[far.service("db", "")]));
    let text: Vec<u8> = (0..20_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let mut client = gateway.connect();
    let mut server = far.accept();
    let sent = text.clone();
    let sender = std::thread::spawn(move || {
        client.send(&sent);
        client.shutdown_write();
        client.take(sent.len())
    });
    let mut got = vec![0; text.len()];
    server.stream.read_exact(&mut got).expect("all of it");
    assert!(got == text, "up");
    assert!(server.is_closed());
    server.stream.write_all(&text).expect("taken");
    drop(server);
    assert!(sender.join().expect("sent") == text, "down");
}

#[test]
fn the_server_name_chooses_the_service() {
    let (one, wild, rest) = (Far::new(), Far::new(), Far::new());
    let gateway = Gateway::start(&config(
        ", service: rest, sni: {one.test: one, \"*.wild.test\": wild}",
        &[one.service("one", ""), wild.service("wild", ""), rest.service("rest", "")],
    ));
    let cases = [
        (Some("one.test"), &one),
        (Some("ONE.test"), &one),
        (Some("a.wild.test"), &wild),
        (Some("b.a.wild.test"), &wild),
        (Some("wild.test"), &rest),
        (Some("x.one.test"), &rest),
        (None, &rest),
    ];
    for (name, far) in cases {
        for most in [16_384, 9] {
            let bytes = hello(name, most);
            let mut client = gateway.connect();
            client.send(&bytes);
            let mut server = far.accept();
            assert_eq!(server.take(bytes.len()), bytes, "{name:?}: what was read comes first, unchanged");
            server.send("answer");
            assert_eq!(client.take(6), b"answer");
        }
    }
    // Byte by byte, and what is no TLS at all.
    let bytes = hello(Some("one.test"), 16_384);
    let mut client = gateway.connect();
    for byte in &bytes {
        client.send([*byte]);
    }
    assert_eq!(one.accept().take(bytes.len()), bytes);
    let mut client = gateway.connect();
    client.send("SSH-2.0-x\r\n");
    assert_eq!(rest.accept().take(11), b"SSH-2.0-x\r\n");
}

#[test]
fn names_without_a_service_are_told_so() {
    let one = Far::new();
    let gateway = Gateway::start(&config(", sni: {one.test: one}", &[one.service("one", "")]));
    for name in [Some("two.test"), None] {
        let mut client = gateway.connect();
        client.send(hello(name, 16_384));
        assert_eq!(client.take(7), [21, 3, 1, 0, 2, 2, 112], "the alert unrecognized_name");
        assert!(client.is_closed());
    }
    let mut client = gateway.connect();
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert!(client.is_closed(), "what is no TLS gets nothing");
    let mut client = gateway.connect();
    client.send([22, 3, 1, 0, 4, 2, 0, 0, 1]);
    assert!(client.is_closed());
    let line = log_line(&gateway, 0);
    assert_eq!((&line["reason"], &line["host"]), (&"unknown_server_name".into(), &"two.test".into()));
    assert_eq!(log_line(&gateway, 3)["reason"], "bad_client_hello");
    let errors = |word: &str| gateway.metric("gateway_errors_total", &[&format!("error_type=\"{word}\"")]);
    assert_eq!((errors("unknown_server_name"), errors("bad_client_hello")), (3.0, 1.0));
}

#[test]
fn a_hello_that_does_not_come_is_given_up() {
    let one = Far::new();
    let listener = ", sni: {one.test: one}, limits: {header_timeout: 1s}";
    let gateway = Gateway::start(&config(listener, &[one.service("one", "")]));
    let mut silent = gateway.connect();
    let mut half = gateway.connect();
    half.send(&hello(Some("one.test"), 16_384)[..20]);
    assert!(silent.is_closed() && half.is_closed());
    assert_eq!(log_line(&gateway, 0)["reason"], "header_timeout");
    assert_eq!(log_line(&gateway, 1)["reason"], "header_timeout");
}

#[test]
fn another_endpoint_is_tried_and_failures_are_seen() {
    let far = Far::new();
    let nobody = Far::new().address();
    let service = format!("{{name: db, endpoints: [\"{nobody}\", \"{}\"]}}", far.address());
    let dead = format!("{{name: dead, endpoints: [\"{nobody}\"]}}");
    let gateway = Gateway::start(&config(", sni: {db.test: db, dead.test: dead}", &[service, dead]));
    for _ in 0..4 {
        let bytes = hello(Some("db.test"), 16_384);
        let mut client = gateway.connect();
        client.send(&bytes);
        assert_eq!(far.accept().take(bytes.len()), bytes);
    }
    let mut client = gateway.connect();
    client.send(hello(Some("dead.test"), 16_384));
    let read = client.stream.read(&mut [0; 8]);
    assert!(read.is_err(), "a reset, not an orderly end: {read:?}");
    eventually("it is logged", || {
        let lines = gateway.stdout();
        lines.iter().any(|line| line.contains("\"reason\":\"connect_refused\"")).then_some(())
    });
}

#[test]
fn clients_are_named_in_and_out_by_the_proxy_protocol() {
    let far = Far::new();
    let gateway = Gateway::start(&config(
        ", sni: {one.test: one}, proxy_protocol: {trusted: [127.0.0.0/8]}",
        &[far.service("one", ", proxy_protocol: v1")],
    ));
    let bytes = hello(Some("one.test"), 16_384);
    let mut client = gateway.connect();
    client.send([b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443\r\n", &bytes[..]].concat());
    let mut server = far.accept();
    let begin = format!("PROXY TCP4 203.0.113.9 127.0.0.1 4660 {}\r\n", gateway.address.port());
    assert_eq!(server.take(begin.len()), begin.as_bytes());
    assert_eq!(server.take(bytes.len()), bytes);
    drop((client, server));
    assert_eq!(log_line(&gateway, 0)["client"], "203.0.113.9");
    let mut client = gateway.connect();
    client.send(&bytes);
    assert!(client.is_closed());
    assert_eq!(log_line(&gateway, 1)["reason"], "bad_proxy_header");
}

#[test]
fn bounds_hold_for_connections() {
    let far = Far::new();
    let limits = ", limits: {requests_max: 1, pending_max: 0}";
    let listener = ", service: db, tunnel: {idle_timeout: 2s}";
    let gateway = Gateway::start(&config(listener, &[far.service("db", limits)]));
    let mut first = gateway.connect();
    let mut server = far.accept();
    server.send("x");
    assert_eq!(first.take(1), b"x");
    // It is closed at once: the connecting itself may see that.
    let second = TcpStream::connect_timeout(&gateway.address, PATIENCE).and_then(|mut stream| {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.read(&mut [0; 8])
    });
    assert!(!matches!(second, Ok(1..)), "the service has one connection: {second:?}");
    assert_eq!(log_line(&gateway, 0)["reason"], "concurrency_limited");
    // The idle one ends, and its place is free again.
    assert!(first.is_closed());
    assert_eq!(log_line(&gateway, 1)["reason"], "tunnel_timeout");
    drop(server);
    let mut third = gateway.connect();
    far.accept().send("y");
    assert_eq!(third.take(1), b"y");
}

#[test]
fn connections_outlive_a_reload_and_are_drained() {
    let far = Far::new();
    let with = |more: &str| config(&format!(", service: db{more}"), &[far.service("db", "")]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    drop(listener);
    let at = |yaml: String| {
        format!("server: {{workers: 1, drain_timeout: 3s}}\n{}", yaml.replacen("127.0.0.1:0", &address, 1))
    };
    let mut gateway = Plan::new(&at(with(""))).start();
    let mut client = gateway.connect();
    let mut server = far.accept();
    assert_eq!(gateway.reload(&at(with(", via: false, tunnel: {idle_timeout: 9m}"))).status, 200);
    client.send("still");
    assert_eq!(server.take(5), b"still");
    let response =
        gateway
            .reload(&at(with("").replace("protocol: tcp, service: db", "protocol: http")
                + "routes: [{path: /*, service: db}]\n"));
    assert_eq!(response.status, 200, "{}", response.text());
    client.send("still");
    assert_eq!(server.take(5), b"still");
    gateway.signal("TERM");
    client.send("here");
    assert_eq!(server.take(4), b"here", "it goes on while the gateway drains");
    assert!(client.is_closed(), "and is closed at the end of that");
    assert_eq!(gateway.exit_code(), 0);
    assert_eq!(log_line(&gateway, 0)["reason"], "draining");
}

#[test]
fn tls_can_end_here_and_its_inside_be_passed_on() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let far = Far::new();
    let listener = format!(", service: db, tls: {{{}}}, proxy_protocol: {{trusted: [127.0.0.0/8]}}", site.yaml());
    let yaml = config(&listener, &[far.service("db", ", proxy_protocol: v1")]);
    let gateway = Gateway::start(&yaml);
    let mut secured = connect(gateway.address, &Arc::new(ca.client(None)), "site.test", false);
    secured.sock.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443\r\n").expect("sent");
    secured.write_all(b"hello").expect("sent");
    let mut server = far.accept();
    let begin = format!("PROXY TCP4 203.0.113.9 127.0.0.1 4660 {}\r\n", gateway.address.port());
    assert_eq!(server.take(begin.len()), begin.as_bytes());
    assert_eq!(server.take(5), b"hello");
    server.send("world");
    let mut got = [0; 5];
    secured.read_exact(&mut got).expect("received");
    assert_eq!(&got, b"world");
    drop(server);
    assert_eq!(secured.read(&mut got).expect("an orderly end"), 0);
    drop(secured);
    let line = log_line(&gateway, 0);
    assert_eq!((&line["client"], &line["protocol"]), (&"203.0.113.9".into(), &"TCP".into()));
    let both = yaml.replace("tls: {", "sni: {a.test: db}, tls: {");
    assert!(Plan::new(&both).start_in_vain().stderr.contains("`sni` passes TLS through, and `tls` ends it"));
}

#[test]
fn wrong_configurations_are_refused() {
    let far = Far::new();
    let refused = |listener: &str, wanted: &str| {
        let exited = Plan::new(&config(listener, &[far.service("db", "")])).start_in_vain();
        assert!(exited.stderr.contains(wanted), "{}", exited.stderr);
    };
    refused("", "to no service");
    refused(", service: nobody", "there is no service `nobody`");
    refused(", sni: {\"a.*\": db}", "may only be the whole first part");
    let yaml = config("", &[far.service("db", "")]).replace("protocol: tcp", "service: db");
    let exited = Plan::new(&yaml).start_in_vain();
    assert!(exited.stderr.contains("add `protocol: tcp`"), "{}", exited.stderr);
}

/// A real TLS client and a real TLS server, neither of which notices.
#[test]
fn tls_of_openssl_passes_through() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
    let (key, cert) = (path("key.pem"), path("cert.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=one.test", "-keyout", &key, "-out", &cert])
        .output();
    let Ok(made) = made else { return println!("skipped: openssl is missing") };
    assert!(made.status.success(), "{made:?}");
    let port = Far::new().address().port();
    let mut server = Command::new("openssl")
        .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-key", &key, "-cert", &cert, "-www"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("openssl is there");
    eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
    let service = format!("{{name: one, endpoints: [\"127.0.0.1:{port}\"]}}");
    let gateway = Gateway::start(&config(", sni: {one.test: one}", &[service]));
    let resolve = format!("one.test:{}:127.0.0.1", gateway.address.port());
    let url = format!("https://one.test:{}/", gateway.address.port());
    let got =
        Command::new("curl").args(["-sS", "--max-time", "10", "--cacert", &cert, "--resolve", &resolve, &url]).output();
    let _ = server.kill();
    let _ = server.wait();
    let Ok(got) = got else { return println!("skipped: curl is missing") };
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(String::from_utf8_lossy(&got.stdout).contains("s_server"));
}
