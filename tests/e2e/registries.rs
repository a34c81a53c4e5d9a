//! Consul and Kubernetes as sources of endpoints, by a registry that speaks their documented protocols: blocking
//! queries with an index, and lists with watches (R225, R227, C56).
//!
//! Building the programs takes minutes, so these are their documented answers. `consul_agent.rs` and `kubernetes.rs` ask
//! the programs themselves where they are built.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use crate::support::load::Load;
use crate::support::tls::{Authority, Issued};
use crate::support::{Gateway, Origin, eventually, ok};

/// How the registry behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    /// 500 with a sentence.
    Failing,
    /// Closes without an answer.
    Closing,
    /// Something that is no JSON.
    Garbage,
    /// More than anybody should read.
    Huge,
}

/// A registry on threads.
struct Registry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// What there is, and its version. For Consul instances, for Kubernetes slices by name.
    content: Mutex<(u64, Value)>,
    changed: Condvar,
    mode: Mutex<Mode>,
    /// Targets and tokens of the requests.
    seen: Mutex<Vec<(String, String)>>,
    ended: AtomicBool,
}

impl Registry {
    fn start(content: Value) -> Self {
        Self::begin(content, None)
    }

    /// The same behind TLS.
    fn secured(content: Value, tls: ServerConfig) -> Self {
        Self::begin(content, Some(Arc::new(tls)))
    }

    fn begin(content: Value, tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            content: Mutex::new((10, content)),
            changed: Condvar::new(),
            mode: Mutex::new(Mode::Well),
            seen: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                let (theirs, tls) = (theirs.clone(), tls.clone());
                thread::spawn(move || match tls {
                    Some(tls) => {
                        let tls = ServerConnection::new(tls).expect("a server");
                        let mut stream = StreamOwned::new(tls, stream);
                        theirs.serve(&mut stream);
                        stream.conn.send_close_notify();
                        let _ = stream.flush();
                    }
                    None => theirs.serve(&mut { stream }),
                });
            }
        });
        Self { address, shared }
    }

    fn set(&self, content: Value) {
        let mut present = self.shared.content.lock().expect("content");
        *present = (present.0 + 1, content);
        self.shared.changed.notify_all();
    }

    /// The same as of an agent whose catalogue began anew: with a lower index.
    fn begin_anew(&self, index: u64, content: Value) {
        *self.shared.content.lock().expect("content") = (index, content);
        self.shared.changed.notify_all();
    }

    /// Changes how it behaves, and ends what waits.
    fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().expect("mode") = mode;
        self.shared.content.lock().expect("content").0 += 1;
        self.shared.changed.notify_all();
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.shared.seen.lock().expect("seen").clone()
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address);
    }
}

fn query<'a>(target: &'a str, key: &str) -> Option<&'a str> {
    let (_, query) = target.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
}

/// A request head without its empty line; None where the client leaves, or does not trust us.
fn read_head(stream: &mut impl Read) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

impl Shared {
    fn serve(&self, stream: &mut (impl Read + Write)) {
        let Some(head) = read_head(stream) else { return };
        let mut lines = head.lines();
        let target = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
        let mut token = String::new();
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap_or_default();
            if ["x-consul-token", "authorization"].contains(&name) {
                token = value.to_owned();
            }
        }
        self.seen.lock().expect("seen").push((target.clone(), token));
        let mode = *self.mode.lock().expect("mode");
        let mut answer = |status: &str, more: &str, body: &str| {
            let length = body.len();
            let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n{body}");
        };
        match mode {
            Mode::Closing => {}
            Mode::Failing => answer("500 Internal Server Error", "", "No cluster leader"),
            Mode::Garbage => answer("200 OK", "X-Consul-Index: 3\r\n", "<html>"),
            Mode::Huge => {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nX-Consul-Index: 3\r\nTransfer-Encoding: chunked\r\n\r\n");
                let piece = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                // The gateway has enough long before the end.
                while stream.write_all(piece.as_bytes()).is_ok() {}
            }
            Mode::Well if target.starts_with("/v1/health/service/") => {
                let (index, content) = self.wait(query(&target, "index").and_then(|text| text.parse().ok()));
                answer("200 OK", &format!("X-Consul-Index: {index}\r\n"), &content.to_string());
            }
            Mode::Well if query(&target, "watch").is_some() => self.watch(stream, &target),
            Mode::Well => {
                let (version, content) = self.content.lock().expect("content").clone();
                let items: Vec<_> = content.as_object().expect("slices").values().cloned().collect();
                answer(
                    "200 OK",
                    "",
                    &json!({"metadata": {"resourceVersion": version.to_string()}, "items": items}).to_string(),
                );
            }
        }
    }

    /// The content once it is another than that of `index`.
    fn wait(&self, index: Option<u64>) -> (u64, Value) {
        let mut content = self.content.lock().expect("content");
        while Some(content.0) == index && !self.ended.load(Ordering::SeqCst) {
            content = self.changed.wait_timeout(content, Duration::from_secs(1)).expect("content").0;
        }
        content.clone()
    }

    fn watch(&self, stream: &mut impl Write, target: &str) {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let mut version = query(target, "resourceVersion").and_then(|text| text.parse().ok()).unwrap_or(0);
        if stream.write_all(head.as_bytes()).is_err() {
            return;
        }
        let mut known = self.content.lock().expect("content").1.clone();
        let send = |stream: &mut dyn Write, kind: &str, object: &Value| {
            let line = format!("{}\n", json!({"type": kind, "object": object}));
            // In two pieces, so that an event does not come as it was sent.
            let (one, two) = line.split_at(line.len() / 2);
            write!(stream, "{:x}\r\n{one}\r\n{:x}\r\n{two}\r\n", one.len(), two.len()).is_ok()
        };
        loop {
            let (now, content) = self.wait(Some(version));
            version = now;
            if self.ended.load(Ordering::SeqCst) || *self.mode.lock().expect("mode") != Mode::Well {
                return;
            }
            if content["expired"] == true {
                let status = json!({"kind": "Status", "code": 410, "message": "too old resource version"});
                send(stream, "ERROR", &status);
                return;
            }
            let (old, new) = (known.as_object().expect("slices"), content.as_object().expect("slices"));
            for (name, slice) in new {
                let mut slice = slice.clone();
                slice["metadata"]["resourceVersion"] = json!(version.to_string());
                match old.get(name) {
                    None => send(stream, "ADDED", &slice),
                    Some(before) if before != new.get(name).expect("it") => send(stream, "MODIFIED", &slice),
                    Some(_) => true,
                };
            }
            for (_, slice) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                send(stream, "DELETED", slice);
            }
            known = content;
        }
    }
}

fn instance(address: &SocketAddr, ip: &str, status: &str) -> Value {
    json!({
        "Node": {"Node": "n", "Address": "127.0.0.9", "Datacenter": "dc1"},
        "Service": {"ID": ip, "Service": "users", "Address": ip, "Port": address.port(),
            "Tags": ["v1"], "Meta": {"rack": "7"},
            "Weights": {"Passing": 2, "Warning": 1}},
        "Checks": [{"CheckID": "serfHealth", "Status": "passing"}, {"CheckID": "service", "Status": status}],
    })
}

fn wait_state(gateway: &Gateway, state: &str) -> Value {
    eventually(&format!("the lookup is {state}"), || {
        let source = gateway.ask_admin("GET", "/services").json()[0]["sources"][0].clone();
        (source["state"] == state).then_some(source)
    })
}

const ROUTE: &str = "routes:\n- {path: /*, service: up}\n";

#[test]
fn consul_tells_changes_at_once_and_is_believed_while_it_is_gone() {
    let origin = Origin::everywhere(|_| ok("up"));
    let at = |ips: &[&str]| Value::Array(ips.iter().map(|ip| instance(&origin.address, ip, "passing")).collect());
    let registry = Registry::start(at(&["127.0.0.1"]));
    let gateway = Gateway::start(&format!(
        "discovery: {{wait: 5s, consul: {{address: \"http://{}\", token: s3cret-token, consistency: stale}}}}\n\
         services:\n- {{name: up, discovery: \
         [{{consul: {{service: users, tags: [v1], datacenter: dc1}}, zone: z}}]}}\n{ROUTE}",
        registry.address
    ));
    gateway.wait_resolved_ips(&["127.0.0.1"]);
    let one = gateway.ask_admin("GET", "/services/up/endpoints").json()[0].clone();
    assert_eq!((&one["weight"], &one["zone"], &one["metadata"]["rack"]), (&json!(2), &json!("z"), &json!("7")));
    let (target, token) = registry.seen()[0].clone();
    assert_eq!(target, "/v1/health/service/users?passing&tag=v1&dc=dc1&stale");
    assert_eq!(token, "s3cret-token");
    let load = Load::start(gateway.address, 1, 2, 0);
    registry.set(at(&["127.0.0.2", "127.0.0.3"]));
    gateway.wait_resolved_ips(&["127.0.0.2", "127.0.0.3"]);
    assert!(registry.seen().iter().any(|(target, _)| target.ends_with("&index=10&wait=60s")), "{:?}", registry.seen());
    let warned = instance(&origin.address, "127.0.0.4", "critical");
    registry.set(Value::Array(vec![warned, instance(&origin.address, "127.0.0.5", "passing")]));
    gateway.wait_resolved_ips(&["127.0.0.5"]);
    for mode in [Mode::Failing, Mode::Closing, Mode::Garbage, Mode::Huge] {
        registry.set_mode(mode);
        let source = wait_state(&gateway, "stale");
        assert!(!source.to_string().contains("s3cret"), "{source}");
        load.wait(5);
        assert_eq!(gateway.resolved_ips(), ["127.0.0.5"], "{mode:?}");
        registry.set_mode(Mode::Well);
        wait_state(&gateway, "current");
    }
    load.finish();
    for page in ["/config", "/services", "/events"] {
        assert!(!gateway.ask_admin("GET", page).text().contains("s3cret-token"), "{page}");
    }
}

/// A server with this certificate.
fn server(issued: &Issued) -> ServerConfig {
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let chain = CertificateDer::pem_file_iter(&issued.cert).expect("a chain").map(|one| one.expect("one"));
    let key = PrivateKeyDer::from_pem_file(&issued.key).expect("a key");
    ServerConfig::builder_with_provider(provider.into())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain.collect(), key)
        .expect("a certificate")
}

#[test]
fn consul_is_asked_over_tls_with_its_token_and_its_index() {
    let origin = Origin::everywhere(|_| ok("up"));
    let at = |ips: &[&str]| Value::Array(ips.iter().map(|ip| instance(&origin.address, ip, "passing")).collect());
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let registry = Registry::secured(at(&["127.0.0.1"]), server(&ours.issue("consul", &["localhost", "127.0.0.1"])));
    let yaml = |ca: &Authority| {
        format!(
            "discovery: {{wait: 5s, consul: {{address: \"https://{}\", ca_file: {}, token: s3cret-token}}}}\n\
             services:\n- {{name: up, discovery: [{{consul: {{service: users, datacenter: eu}}}}]}}\n{ROUTE}",
            registry.address,
            ca.ca().display()
        )
    };
    let gateway = Gateway::start(&yaml(&ours));
    gateway.wait_resolved_ips(&["127.0.0.1"]);
    let seen = registry.seen();
    assert_eq!(seen[0], ("/v1/health/service/users?passing&dc=eu".to_owned(), "s3cret-token".to_owned()));
    let load = Load::start(gateway.address, 1, 2, 0);
    registry.set(at(&["127.0.0.2"]));
    gateway.wait_resolved_ips(&["127.0.0.2"]);
    // The servers were restored from a backup: an index that went backwards begins anew, and none of 0 is sent.
    registry.begin_anew(3, at(&["127.0.0.3"]));
    gateway.wait_resolved_ips(&["127.0.0.3"]);
    let waits_with = |index: &str| {
        let is_it = |(target, _): &(String, String)| target.contains(&format!("index={index}&"));
        eventually("it waits for the next change", || registry.seen().iter().any(is_it).then_some(()));
    };
    waits_with("3");
    registry.set(at(&["127.0.0.4"]));
    gateway.wait_resolved_ips(&["127.0.0.4"]);
    waits_with("4");
    let targets: Vec<String> = registry.seen().into_iter().map(|(target, _)| target).collect();
    let asked = |index: &str| targets.iter().filter(|target| target.contains(&format!("index={index}&"))).count();
    let anew = targets.iter().filter(|target| !target.contains("index=")).count();
    assert_eq!((asked("11"), asked("3"), asked("0"), anew), (1, 1, 0, 2), "{targets:?}");
    // Another authority: the registry is nobody's that we trust, and hears no token. What is known stays.
    let heard = registry.seen().len();
    assert_eq!(gateway.reload(&yaml(&theirs)).status, 200);
    let source = wait_state(&gateway, "stale");
    assert!(source["error"].as_str().is_some_and(|error| error.contains("ertificate")), "{source}");
    load.wait(5);
    assert_eq!((gateway.resolved_ips(), registry.seen().len()), (vec!["127.0.0.4".to_owned()], heard));
    assert_eq!(gateway.reload(&yaml(&ours)).status, 200);
    wait_state(&gateway, "current");
    load.finish();
}

fn slice(name: &str, origin: &Origin, ips: &[(&str, bool)]) -> Value {
    let endpoint = |(ip, ready): &(&str, bool)| {
        json!({
            "addresses": [ip], "conditions": {"ready": ready, "serving": ready, "terminating": !ready}, "zone": "eu-1a",
            "targetRef": {"kind": "Pod", "name": format!("pod-{ip}")},
        })
    };
    json!({
        "metadata": {"name": name, "namespace": "shop"}, "addressType": "IPv4",
        "ports": [{"name": "http", "port": origin.address.port(), "protocol": "TCP"}, {"name": "metrics", "port": 9}],
        "endpoints": ips.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

#[test]
fn slices_of_kubernetes_are_listed_watched_and_listed_anew() {
    let origin = Origin::everywhere(|_| ok("up"));
    let registry = Registry::start(json!({"a": slice("a", &origin, &[("127.0.0.1", true), ("127.0.0.9", false)])}));
    let dir = tempfile::tempdir().expect("a directory");
    let kubeconfig = dir.path().join("config");
    std::fs::write(
        &kubeconfig,
        format!(
            "current-context: t\ncontexts: [{{name: t, context: {{cluster: c, user: u, namespace: shop}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\n\
         users: [{{name: u, user: {{token: pod-token}}}}]\n",
            registry.address
        ),
    )
    .expect("written");
    let gateway = Gateway::start(&format!(
        "discovery: {{wait: 5s, kubernetes: {{kubeconfig: {}}}}}\n\
         services:\n- {{name: up, discovery: [{{kubernetes: {{service: users, port: http}}}}]}}\n{ROUTE}",
        kubeconfig.display()
    ));
    gateway.wait_resolved_ips(&["127.0.0.1"]);
    let one = gateway.ask_admin("GET", "/services/up/endpoints").json()[0].clone();
    assert_eq!((&one["zone"], &one["metadata"]["pod"]), (&json!("eu-1a"), &json!("pod-127.0.0.1")));
    let (target, token) = registry.seen()[0].clone();
    let (path, query) = target.split_once('?').expect("a query");
    assert_eq!(path, "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices");
    assert!(query.starts_with("labelSelector=kubernetes.io%2Fservice-name%3Dusers&limit="), "{query}");
    assert_eq!(token, "Bearer pod-token");
    let load = Load::start(gateway.address, 1, 2, 0);
    eventually("it watches", || {
        registry.seen().iter().any(|(target, _)| target.contains("resourceVersion=10")).then_some(())
    });
    registry.set(
        json!({"a": slice("a", &origin, &[("127.0.0.1", true)]), "b": slice("b", &origin, &[("127.0.0.2", true)])}),
    );
    gateway.wait_resolved_ips(&["127.0.0.1", "127.0.0.2"]);
    registry.set(json!({"b": slice("b", &origin, &[("127.0.0.2", true), ("127.0.0.3", true)])}));
    gateway.wait_resolved_ips(&["127.0.0.2", "127.0.0.3"]);
    registry.set(json!({"expired": true}));
    wait_state(&gateway, "stale");
    registry.set(json!({"b": slice("b", &origin, &[("127.0.0.4", true)])}));
    gateway.wait_resolved_ips(&["127.0.0.4"]);
    for mode in [Mode::Closing, Mode::Garbage, Mode::Failing] {
        registry.set_mode(mode);
        wait_state(&gateway, "stale");
        load.wait(5);
        assert_eq!(gateway.resolved_ips(), ["127.0.0.4"], "{mode:?}");
        registry.set_mode(Mode::Well);
        wait_state(&gateway, "current");
    }
    load.finish();
}

#[test]
fn a_registry_that_is_not_there_stops_nothing() {
    let gone = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("an address");
    let gateway = Gateway::start(&format!(
        "discovery: {{consul: \"http://{gone}\", kubernetes: {{kubeconfig: /nowhere}}}}\n\
         services:\n- {{name: up, discovery: [{{consul: users}}, {{kubernetes: users}}]}}\n{ROUTE}\
         - {{path: /here, respond: {{body: here}}}}\n"
    ));
    assert_eq!((gateway.get("/here").status, gateway.get("/").status), (200, 503));
    let source = wait_state(&gateway, "failed");
    assert!(source["error"].as_str().is_some_and(|error| error.contains("refused")), "{source}");
}
