//! A name with several addresses of which one leads nowhere (RFC 8305): no request waits for the time of a connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use crate::support::dns::NameServer;
use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::load::Load;
use crate::support::tls::Authority;
use crate::support::{Client, Gateway, Origin, eventually};
use crate::upstream_tls::{Secure, plain};

const NAME: &str = "users.test";
const HOLE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// An address at which connections neither come about nor fail: who listens there takes none, and its queue is full.
struct BlackHole {
    _listener: Socket,
    _filling: Vec<TcpStream>,
    address: SocketAddr,
}

impl BlackHole {
    fn at(ip: IpAddr, port: u16) -> Option<Self> {
        let address = SocketAddr::from((ip, port));
        let listener = Socket::new(Domain::for_address(address), Type::STREAM, None).ok()?;
        listener.bind(&address.into()).ok()?;
        listener.listen(1).expect("it listens");
        // Until one does not come about any more.
        let mut filling = Vec::new();
        while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(400)) {
            filling.push(stream);
            assert!(filling.len() < 64, "the queue of {address} is never full");
        }
        Some(Self { _listener: listener, _filling: filling, address })
    }

    /// Connections to it that are neither there nor given up.
    fn knocking(&self) -> usize {
        let (table, words): (_, Vec<[u8; 4]>) = match self.address.ip() {
            IpAddr::V4(ip) => ("/proc/net/tcp", vec![ip.octets()]),
            IpAddr::V6(ip) => ("/proc/net/tcp6", ip.octets().as_chunks().0.to_vec()),
        };
        let table = std::fs::read_to_string(table).expect("the kernel's table");
        let words: String = words.into_iter().map(|word| format!("{:08X}", u32::from_le_bytes(word))).collect();
        let remote = format!("{words}:{:04X}", self.address.port());
        let waits = |line: &&str| line.split_whitespace().skip(2).take(2).eq([remote.as_str(), "02"]);
        table.lines().filter(waits).count()
    }
}

/// A name server that knows the hole first, and then somebody who answers, at the same port.
fn bed<O>(start: impl Fn(SocketAddr) -> O) -> (NameServer, BlackHole, O) {
    bed_with(HOLE.into(), start)
}

fn bed_with<O>(nowhere: IpAddr, start: impl Fn(SocketAddr) -> O) -> (NameServer, BlackHole, O) {
    let port = |hole: &BlackHole| hole.address.port();
    let (hole, origin) = eventually("a port that is free at both addresses", || {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let hole = BlackHole::at(nowhere, free)?;
        // Somebody else may have taken it meanwhile.
        drop(std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port(&hole))).ok()?);
        let origin = start(SocketAddr::from((Ipv4Addr::LOCALHOST, free)));
        Some((hole, origin))
    });
    let server = NameServer::start();
    server.set_addresses(NAME, 60, &[&nowhere.to_string(), "127.0.0.1"]);
    (server, hole, origin)
}

fn yaml(server: &NameServer, hole: &BlackHole, workers: u32, service: &str) -> String {
    format!(
        "server: {{workers: {workers}}}\ndiscovery: {{wait: 20s, dns: {{servers: [\"{}\"]}}}}\nservices:\n\
         - {{name: up, endpoints: [\"{NAME}:{}\"], load_balancer: round_robin, slow_start: 0s, {service}}}\n\
         routes:\n- {{path: /*, service: up}}\n",
        server.address,
        hole.address.port()
    )
}

/// Nobody could wait for this: a request that did would fail the test.
const ENDLESS: &str = "timeouts: {connect: 600s, next_address: 40ms}";

fn both_methods(gateway: &Gateway, rounds: usize) {
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(gateway.address)).collect();
    for _ in 0..rounds {
        for client in &mut clients {
            assert_eq!(client.get("/").status, 200);
            client.send("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 2\r\n\r\nhi");
            assert_eq!(client.response().status, 200);
        }
    }
}

#[test]
fn no_request_waits_for_an_address_that_leads_nowhere() {
    let (server, hole, origin) = bed(|address| Origin::fixed_at(address, "up"));
    let before = hole.knocking();
    let gateway = Gateway::start(&yaml(&server, &hole, 2, ENDLESS));
    assert_eq!(gateway.resolved().len(), 2);
    both_methods(&gateway, 20);
    // All at once, each on a new connection.
    let load = Load::start(gateway.address, 4, 0, 0);
    load.wait(60);
    load.finish();
    // One connection of each worker finds out what becomes of it.
    eventually("the others are given up", || (1..=2).contains(&(hole.knocking() - before)).then_some(()));
    assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0);
    assert!(origin.connections() > 0);
}

/// The way of IPv6 leads nowhere, as in many networks: the name has both kinds of addresses, and IPv4 answers.
#[test]
fn no_request_waits_for_a_way_of_ipv6_that_leads_nowhere() {
    if std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        println!("skipped: no IPv6 here");
        return;
    }
    let (server, hole, origin) = bed_with(Ipv6Addr::LOCALHOST.into(), |address| Origin::fixed_at(address, "up"));
    let before = hole.knocking();
    let name = format!("endpoints: [\"{NAME}:{}\"]", hole.address.port());
    let both = format!("discovery: [{{dns: {{address: \"{NAME}:{}\", family: both}}}}]", hole.address.port());
    let yaml = yaml(&server, &hole, 1, ENDLESS);
    // By default a name with both goes by IPv4, and nobody knocks there.
    let gateway = Gateway::start(&yaml);
    both_methods(&gateway, 3);
    assert_eq!((gateway.resolved().len(), hole.knocking() - before), (1, 0));
    assert_eq!(gateway.reload(&yaml.replace(&name, &both)).status, 200);
    eventually("both addresses are known", || (gateway.resolved().len() == 2).then_some(()));
    both_methods(&gateway, 20);
    let load = Load::start(gateway.address, 4, 0, 0);
    load.wait(60);
    load.finish();
    eventually("one finds out", || (hole.knocking() - before == 1).then_some(()));
    assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0);
    assert!(origin.connections() > 0);
}

#[test]
fn over_http2_those_that_wait_for_a_connection_do_not_wait_for_that_one() {
    let (server, hole, origin) = bed(|address| H2Origin::at(address, |_| Answer::ok("up")));
    let before = hole.knocking();
    let gateway = Gateway::start(&yaml(&server, &hole, 1, &format!("protocol: h2, {ENDLESS}")));
    let load = Load::start(gateway.address, 4, 4, 0);
    load.wait(60);
    load.finish();
    both_methods(&gateway, 10);
    eventually("one connection to each", || (hole.knocking() - before == 1 && origin.connections() == 1).then_some(()));
}

#[test]
fn over_tls_no_request_waits_for_it_either() {
    let authority = Authority::new("ours");
    let issued = authority.issue("up", &[NAME]);
    let (server, hole, origin) = bed(|address| Secure::start_at(address, plain(&issued)));
    let before = hole.knocking();
    let gateway =
        Gateway::start(&yaml(&server, &hole, 1, &format!("tls: {{ca: [{}]}}, {ENDLESS}", authority.ca().display())));
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(gateway.address)).collect();
    for _ in 0..10 {
        for client in &mut clients {
            assert_eq!(client.get("/").status, 200);
        }
    }
    assert!(!origin.met().is_empty());
    eventually("one finds out", || ((hole.knocking() - before) <= 1).then_some(()));
    assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0);
}

/// A connection that is passed on as it is goes to whichever address is there.
#[test]
fn connections_that_are_passed_on_do_not_wait_for_it() {
    let (server, hole, origin) = bed(|address| Origin::fixed_at(address, "up"));
    let yaml = yaml(&server, &hole, 1, ENDLESS).replace("routes:\n- {path: /*, service: up}\n", "");
    let yaml = format!("{yaml}listeners: [{{address: \"127.0.0.1:0\", protocol: tcp, service: up}}]\n");
    let gateway = Gateway::start(&yaml);
    assert_eq!(gateway.resolved().len(), 2);
    let before = hole.knocking();
    let ask = || assert_eq!(Client::connect(gateway.address).get("/").status, 200);
    // One of two begins with the hole, finds that it takes long, and is served by the other address all the same.
    (0..2).for_each(|_| ask());
    assert_eq!(hole.knocking() - before, 1);
    (0..8).for_each(|_| ask());
    assert_eq!(hole.knocking() - before, 1, "it is known to be late, and others begin elsewhere");
    assert_eq!(origin.connections(), 10);
}

/// What becomes of connections that nobody waits for is learned: after three the address is left alone.
#[test]
fn an_address_that_leads_nowhere_is_ejected_without_a_request_that_fails() {
    let (server, hole, _origin) = bed(|address| Origin::fixed_at(address, "up"));
    let service = "timeouts: {connect: 300ms, next_address: 20ms}, ejection: {base: 300s}";
    let gateway = Gateway::start(&yaml(&server, &hole, 1, service));
    eventually("it is ejected", || {
        both_methods(&gateway, 1);
        (gateway.metric("ringway_service_ejections_total", &[]) == 1.0).then_some(())
    });
    assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0);
    let endpoints = gateway.ask_admin("GET", "/services/up/endpoints").json();
    let state = |at: usize| (endpoints[at]["address"].as_str().map(str::to_owned), endpoints[at]["state"].clone());
    let of_hole = [state(0), state(1)].into_iter().find(|one| one.0 == Some(hole.address.to_string()));
    assert_eq!(of_hole.expect("it is shown").1, "ejected", "{endpoints}");
}

/// Without it an address costs the time of a connection, and the request goes elsewhere then.
#[test]
fn without_it_requests_wait_and_are_sent_elsewhere() {
    let (server, hole, origin) = bed(|address| Origin::fixed_at(address, "up"));
    let service = "timeouts: {connect: 100ms, next_address: 0s}";
    let gateway = Gateway::start(&yaml(&server, &hole, 1, service));
    both_methods(&gateway, 3);
    assert!(gateway.metric("ringway_worker_retries_total", &[]) >= 3.0, "each of the first three that met it");
    assert!(origin.connections() > 0);
}

/// Addresses that refuse are passed over at once, and the last hope is asked in any case.
#[test]
fn addresses_that_refuse_cost_nothing() {
    let origin = Origin::fixed("up");
    let server = NameServer::start();
    server.set_addresses(NAME, 60, &["127.0.0.3", "127.0.0.1", "127.0.0.4", "127.0.0.5"]);
    let gateway = Gateway::start(&format!(
        "discovery: {{wait: 20s, dns: {{servers: [\"{}\"]}}}}\nservices:\n\
         - {{name: up, endpoints: [\"{NAME}:{}\"], timeouts: {{next_address: 300s}}}}\n\
         routes:\n- {{path: /*, service: up}}\n",
        server.address,
        origin.address.port()
    ));
    both_methods(&gateway, 10);
    assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0);
}
