//! Real DNS servers, dnsmasq and unbound: addresses of both families, SRV records, times to live, changes under load,
//! and the death of the server (F30 to F32). What no honest server does, the liar of `discovery.rs` does.

use std::net::{Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::load::Load;
use crate::support::{Gateway, Origin, eventually, ok};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Dnsmasq,
    Unbound,
}

/// What it tells of `test.`.
#[derive(Clone, Debug, Default)]
struct Zone {
    /// Name and address.
    addresses: Vec<(&'static str, String)>,
    /// Target, port, priority, weight of `_http._tcp.users.test`.
    services: Vec<(&'static str, u16, u16, u16)>,
}

/// A server with a time to live of a second.
struct Server {
    kind: Kind,
    program: PathBuf,
    address: SocketAddr,
    dir: tempfile::TempDir,
    child: Child,
}

/// Where the program is; Debian keeps servers out of the path of ordinary users.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/usr/local/sbin";
    let found = path.split(':').map(|dir| PathBuf::from(dir).join(name)).find(|path| path.is_file());
    if found.is_none() {
        println!("skipped: {name} is not installed");
    }
    found
}

impl Server {
    /// None where it is not installed.
    fn start(kind: Kind, zone: &Zone) -> Option<Self> {
        let program = find(if kind == Kind::Dnsmasq { "dnsmasq" } else { "unbound" })?;
        let dir = tempfile::tempdir().expect("a directory");
        let (child, address) = eventually("a name server that listens", || {
            // A port that is free for both; somebody may take it until the server does.
            let tcp = TcpListener::bind("127.0.0.1:0").ok()?;
            let address = tcp.local_addr().ok()?;
            UdpSocket::bind(address).ok()?;
            drop(tcp);
            write(kind, &dir, address, zone);
            let mut child = run(kind, &program, &dir, address);
            match answers(&mut child, address) {
                true => Some((child, address)),
                false => {
                    end(&mut child);
                    None
                }
            }
        });
        Some(Self { kind, program, address, dir, child })
    }

    /// Tells something else from now on.
    fn set(&self, zone: &Zone) {
        write(self.kind, &self.dir, self.address, zone);
        let sent = Command::new("kill").args(["-s", "HUP", &self.child.id().to_string()]).status().expect("kill runs");
        assert!(sent.success());
    }

    fn kill(&mut self) {
        end(&mut self.child);
    }

    /// Starts it again at its old place.
    fn revive(&mut self) {
        eventually("the name server is back", || {
            self.child = run(self.kind, &self.program, &self.dir, self.address);
            let up = answers(&mut self.child, self.address);
            if !up {
                end(&mut self.child);
            }
            up.then_some(())
        });
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}

fn write(kind: Kind, dir: &tempfile::TempDir, address: SocketAddr, zone: &Zone) {
    let srv = "_http._tcp.users.test";
    let text = match kind {
        Kind::Dnsmasq => zone.addresses.iter().map(|(name, ip)| format!("{ip} {name}\n")).collect(),
        Kind::Unbound => {
            let data = |(name, ip): &(&str, String)| {
                let kind = if ip.contains(':') { "AAAA" } else { "A" };
                format!("  local-data: \"{name}. 1 IN {kind} {ip}\"\n")
            };
            let service = |(target, port, priority, weight): &(&str, u16, u16, u16)| {
                format!("  local-data: \"{srv}. 1 IN SRV {priority} {weight} {port} {target}.\"\n")
            };
            let data: String = zone.addresses.iter().map(data).chain(zone.services.iter().map(service)).collect();
            format!(
                "server:\n  interface: 127.0.0.1@{}\n  do-daemonize: no\n  username: \"\"\n  chroot: \"\"\n  \
                 pidfile: \"\"\n  directory: \"{}\"\n  use-syslog: no\n  logfile: \"\"\n  module-config: \"iterator\"\n  \
                 do-not-query-localhost: yes\n  local-zone: \"test.\" static\n{data}remote-control:\n  \
                 control-enable: no\n",
                address.port(),
                dir.path().display()
            )
        }
    };
    std::fs::write(dir.path().join("data.next"), text).expect("written");
    std::fs::rename(dir.path().join("data.next"), dir.path().join("data")).expect("renamed");
    if kind == Kind::Dnsmasq {
        let service = |(target, port, priority, weight): &(&str, u16, u16, u16)| {
            format!("srv-host={srv},{target},{port},{priority},{weight}\n")
        };
        let services: String = zone.services.iter().map(service).collect();
        std::fs::write(dir.path().join("services"), services).expect("written");
    }
}

fn run(kind: Kind, program: &PathBuf, dir: &tempfile::TempDir, address: SocketAddr) -> Child {
    let data = dir.path().join("data");
    let mut command = Command::new(program);
    match kind {
        Kind::Dnsmasq => {
            let user = Command::new("id").arg("-un").output().expect("id runs").stdout;
            command.args(["--keep-in-foreground", "--no-resolv", "--no-hosts", "--bind-interfaces", "--local-ttl=1"]);
            command.args(["--local=/test/", "--pid-file=", "--listen-address=127.0.0.1", "--no-daemon"]);
            command.arg(format!("--user={}", String::from_utf8_lossy(&user).trim()));
            command.arg(format!("--port={}", address.port()));
            command.arg(format!("--addn-hosts={}", data.display()));
            command.arg(format!("--conf-file={}", dir.path().join("services").display()));
        }
        Kind::Unbound => {
            command.arg("-d").arg("-c").arg(&data);
        }
    }
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
}

/// Whether it answers a question; false when it has ended.
fn answers(child: &mut Child, address: SocketAddr) -> bool {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    // Who is `x.test`? Any answer will do.
    let question = b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0\x01x\x04test\0\0\x01\0\x01";
    let until = Instant::now() + Duration::from_secs(20);
    while Instant::now() < until && child.try_wait().is_ok_and(|ended| ended.is_none()) {
        let sent = socket.send_to(question, address);
        if sent.is_ok() && socket.recv_from(&mut [0; 512]).is_ok() {
            return true;
        }
    }
    false
}

fn yaml(server: &Server, service: &str) -> String {
    format!(
        "discovery: {{wait: 10s, dns: {{servers: [\"{}\"], timeout: 1s, attempts: 2, error: 100ms, negative: 100ms, \
         ttl_min: 100ms}}}}\nservices:\n- {{name: up, {service}}}\nroutes:\n- {{path: /*, service: up}}\n",
        server.address
    )
}

fn resolved(gateway: &Gateway) -> Vec<String> {
    let mut all = gateway.resolved();
    all.sort();
    all
}

fn wait_resolved(gateway: &Gateway, expected: &[String]) {
    eventually(&format!("endpoints are {expected:?}"), || (resolved(gateway) == expected).then_some(()));
}

fn wait_state(gateway: &Gateway, state: &str) {
    eventually(&format!("the lookup is {state}"), || {
        let services = gateway.ask_admin("GET", "/services").json();
        (services[0]["sources"][0]["state"] == state).then_some(())
    });
}

fn at(names: &[(&'static str, &str)]) -> Zone {
    Zone { addresses: names.iter().map(|(name, ip)| (*name, (*ip).to_owned())).collect(), services: Vec::new() }
}

/// Addresses are followed by their time to live, and the server's death changes nothing.
fn follows_and_outlives(kind: Kind) {
    let Some(mut server) = Server::start(kind, &at(&[("users.test", "127.0.0.1"), ("users.test", "127.0.0.2")])) else {
        return;
    };
    let origin = Origin::everywhere(|_| ok("up"));
    let port = origin.address.port();
    let ips = |ips: &[&str]| ips.iter().map(|ip| format!("{ip}:{port}")).collect::<Vec<_>>();
    let gateway = Gateway::start(&yaml(&server, &format!("endpoints: [\"users.test:{port}\"]")));
    wait_resolved(&gateway, &ips(&["127.0.0.1", "127.0.0.2"]));
    let load = Load::start(gateway.address, 1, 2, 0);
    for now in [["127.0.0.3", "127.0.0.4"], ["127.0.0.4", "127.0.0.5"], ["127.0.0.1", "127.0.0.5"]] {
        server.set(&at(&[("users.test", now[0]), ("users.test", now[1])]));
        wait_resolved(&gateway, &ips(&now));
        load.wait(10);
    }
    server.kill();
    wait_state(&gateway, "stale");
    load.wait(10);
    assert_eq!(resolved(&gateway), ips(&["127.0.0.1", "127.0.0.5"]), "the last good answer");
    eventually("its age is told", || (gateway.metric("ringway_discovery_stale_seconds", &[]) >= 1.0).then_some(()));
    write(server.kind, &server.dir, server.address, &at(&[("users.test", "127.0.0.6"), ("users.test", "127.0.0.7")]));
    server.revive();
    wait_resolved(&gateway, &ips(&["127.0.0.6", "127.0.0.7"]));
    wait_state(&gateway, "current");
    assert_eq!(gateway.metric("ringway_discovery_stale_seconds", &[]), 0.0);
    // A name that is gone is told as one that is not there; its last addresses serve on.
    server.set(&at(&[("others.test", "127.0.0.9")]));
    wait_state(&gateway, "stale");
    load.wait(10);
    assert_eq!(resolved(&gateway).len(), 2);
    load.finish();
}

/// SRV records bring ports, tiers and weights; a name with IPv6 alone is found.
fn knows_services_and_both_families(kind: Kind) {
    let (first, second) = (Origin::fixed("first"), Origin::fixed("second"));
    let names = [("a.users.test", "127.0.0.1"), ("b.users.test", "127.0.0.1"), ("six.test", "::1")];
    let services = vec![("a.users.test", first.address.port(), 5, 70), ("b.users.test", second.address.port(), 9, 10)];
    let Some(server) = Server::start(kind, &Zone { services, ..at(&names) }) else { return };
    let gateway = Gateway::start(&yaml(&server, "discovery: [{srv: _http._tcp.users.test}]"));
    eventually("both are found", || (resolved(&gateway).len() == 2).then_some(()));
    let expected = [(0, 70, first.address.to_string()), (1, 10, second.address.to_string())];
    assert_eq!(gateway.resolved_shares(), expected);
    assert_eq!(gateway.get("/").text(), "first");
    let six = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    if TcpListener::bind(six).is_err() {
        return println!("skipped: no IPv6 here");
    }
    let origin = Origin::fixed_at(six, "six");
    let gateway = Gateway::start(&yaml(&server, &format!("endpoints: [\"six.test:{}\"]", origin.address.port())));
    eventually("the name is found", || (gateway.get("/").text() == "six").then_some(()));
    assert_eq!(resolved(&gateway), [origin.address.to_string()]);
}

#[test]
fn dnsmasq_is_followed_and_outlived() {
    follows_and_outlives(Kind::Dnsmasq);
}

#[test]
fn unbound_is_followed_and_outlived() {
    follows_and_outlives(Kind::Unbound);
}

#[test]
fn dnsmasq_knows_services_and_both_families() {
    knows_services_and_both_families(Kind::Dnsmasq);
}

#[test]
fn unbound_knows_services_and_both_families() {
    knows_services_and_both_families(Kind::Unbound);
}
