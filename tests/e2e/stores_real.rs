//! A real Consul agent and a real etcd as stores of the configuration (R229), over TLS with credentials. They run where
//! the programs are: `consul` as for [`crate::consul_agent`], etcd in the path or as `tests/external/build_kube` builds
//! it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ringway::http::grpc_web::encode;
use serde_json::{Value, json};

use crate::consul_agent::{self, Agent, TOKEN, free};
use crate::support::gateway::{Plan, complete};
use crate::support::tls::Authority;
use crate::support::{Client, Gateway, eventually};

fn fixed(body: &str) -> String {
    complete(&format!("routes: [{{name: a, path: /a, respond: {{body: {body}}}}}]\n"))
}

#[track_caller]
fn wait_serves(gateway: &Gateway, body: &str) {
    eventually(&format!("{body} is served"), || (gateway.get("/a").text() == body).then_some(()));
}

#[track_caller]
fn wait_up(gateway: &Gateway, is_up: bool) {
    let value = f64::from(u8::from(is_up));
    eventually("the store is seen", || (gateway.metric("ringway_config_store_up", &[]) == value).then_some(()));
}

fn cache(dir: &tempfile::TempDir) -> String {
    dir.path().join("copy").display().to_string()
}

#[track_caller]
fn wait_copy(dir: &tempfile::TempDir, body: &str) {
    eventually(&format!("the copy has {body}"), || {
        std::fs::read_to_string(cache(dir)).is_ok_and(|text| text.contains(&fixed(body))).then_some(())
    });
}

#[test]
fn a_real_consul_is_followed_and_outlived() {
    let Some(program) = consul_agent::program() else { return };
    let authority = Authority::new("ours");
    let mut agent = Agent::start(program, &authority);
    let put = |agent: &Agent, body: &str| {
        let told = agent.put_text("/v1/kv/edge/ringway.yaml", body);
        assert_eq!(told.text().trim(), "true");
    };
    put(&agent, &fixed("one"));
    let dir = tempfile::tempdir().expect("a directory");
    let url = format!("consul+https://localhost:{}/edge/ringway.yaml?dc=eu", agent.https.port());
    let plan = |token: &str| {
        let plan = Plan::stored(&url).arguments(&["--config-cache", &cache(&dir)]);
        plan.env("CONSUL_HTTP_TOKEN", token).env("CONSUL_CACERT", authority.ca().display())
    };
    // Without its token it sees nothing.
    let ended = plan("00000000-0000-0000-0000-000000000000").start_in_vain();
    assert!(ended.code == Some(1) && ended.stderr.contains("answered 403"), "{}", ended.stderr);
    let gateway = plan(TOKEN).start();
    assert_eq!(gateway.get("/a").text(), "one");
    for body in ["two", "three"] {
        put(&agent, &fixed(body));
        wait_serves(&gateway, body);
    }
    let refused = || gateway.ask_admin("GET", "/config").json()["last_refused"].to_string();
    agent.ask("DELETE", "/v1/kv/edge/ringway.yaml", &Value::Null);
    eventually("it is gone", || refused().contains("the key is not there").then_some(()));
    put(&agent, &fixed("four"));
    wait_serves(&gateway, "four");
    wait_copy(&dir, "four");
    agent.kill();
    wait_up(&gateway, false);
    let other = plan(TOKEN).start();
    assert_eq!(other.get("/a").text(), "four", "by the copy");
    // It has lost everything, and begins with a lower index.
    agent.restart();
    eventually("it is back, without the key", || refused().contains("the key is not there").then_some(()));
    assert_eq!(gateway.get("/a").text(), "four");
    put(&agent, &fixed("five"));
    wait_serves(&gateway, "five");
    wait_serves(&other, "five");
    assert!(!gateway.stderr().contains(TOKEN));
}

/// An etcd with one user, `gateway` with the password `pass:word`.
struct Etcd {
    program: PathBuf,
    dir: tempfile::TempDir,
    ports: Vec<SocketAddr>,
    authority: Authority,
    child: Child,
}

fn base64(text: &str) -> String {
    let mut out = Vec::new();
    encode(text.as_bytes(), &mut out);
    String::from_utf8(out).expect("letters")
}

impl Etcd {
    fn start() -> Option<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let programs = std::env::var_os("KUBE_BIN").map_or_else(|| root.join("target/tools"), PathBuf::from);
        let built = programs.join("etcd");
        let program = if built.exists() { built } else { PathBuf::from("etcd") };
        let Ok(version) = Command::new(&program).arg("--version").output() else {
            println!("skipped: no etcd here (Debian's etcd-server, or tests/external/build_kube)");
            return None;
        };
        println!("{}", String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or_default());
        let (authority, dir, ports) = (Authority::new("ours"), tempfile::tempdir().expect("a directory"), free(3));
        let child = Self::run(&program, &dir, &ports, &authority);
        let etcd = Self { program, dir, ports, authority, child };
        etcd.wait();
        Some(etcd)
    }

    /// TLS for the gateway, plain HTTP for the test.
    fn run(program: &Path, dir: &tempfile::TempDir, ports: &[SocketAddr], authority: &Authority) -> Child {
        let issued = authority.issue("etcd", &["localhost", "127.0.0.1"]);
        let mut command = Command::new(program);
        let (tls, plain, peer) =
            (format!("https://{}", ports[0]), format!("http://{}", ports[1]), format!("http://{}", ports[2]));
        command.arg("--data-dir").arg(dir.path().join("data"));
        command.args(["--listen-client-urls", &format!("{tls},{plain}"), "--advertise-client-urls", &tls]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &format!("default={peer}")]);
        command.arg("--cert-file").arg(&issued.cert).arg("--key-file").arg(&issued.key);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }

    fn wait(&self) {
        eventually("etcd serves", || {
            std::net::TcpStream::connect(self.ports[1]).ok()?;
            let mut client = Client::connect(self.ports[1]);
            client.send("GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            client.response().text().contains("\"true\"").then_some(())
        });
    }

    fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    fn restart(&mut self) {
        self.child = Self::run(&self.program, &self.dir, &self.ports, &self.authority);
        self.wait();
    }

    #[track_caller]
    fn post(&self, token: &str, path: &str, body: &Value) -> (u16, Value) {
        let mut client = Client::connect(self.ports[1]);
        let (body, token) =
            (body.to_string(), if token.is_empty() { String::new() } else { format!("Authorization: {token}\r\n") });
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{token}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        let told = client.response();
        (told.status, serde_json::from_str(&told.text()).unwrap_or_default())
    }

    #[track_caller]
    fn well(&self, token: &str, path: &str, body: Value) -> Value {
        let (status, told) = self.post(token, path, &body);
        assert_eq!(status, 200, "{path}: {told}");
        told
    }

    #[track_caller]
    fn root(&self) -> String {
        let told = self.well("", "/v3/auth/authenticate", json!({ "name": "root", "password": "root" }));
        told["token"].as_str().expect("a token").to_owned()
    }

    #[track_caller]
    fn put(&self, body: &str) -> Value {
        self.well(&self.root(), "/v3/kv/put", json!({ "key": base64("/edge/ringway"), "value": base64(&fixed(body)) }))
    }

    fn secure(&self) {
        self.well("", "/v3/auth/user/add", json!({ "name": "root", "password": "root" }));
        self.well("", "/v3/auth/role/add", json!({ "name": "root" }));
        self.well("", "/v3/auth/user/grant", json!({ "user": "root", "role": "root" }));
        self.well("", "/v3/auth/user/add", json!({ "name": "gateway", "password": "pass:word" }));
        self.well("", "/v3/auth/role/add", json!({ "name": "reader" }));
        let perm = json!({ "permType": "READ", "key": base64("/edge/ringway") });
        self.well("", "/v3/auth/role/grant", json!({ "name": "reader", "perm": perm }));
        self.well("", "/v3/auth/user/grant", json!({ "user": "gateway", "role": "reader" }));
        self.well("", "/v3/auth/enable", json!({}));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_real_etcd_is_followed_and_outlived() {
    let Some(mut etcd) = Etcd::start() else { return };
    etcd.secure();
    etcd.put("one");
    let dir = tempfile::tempdir().expect("a directory");
    // The first server is not there.
    let url = format!("etcd+https://127.0.0.1:1,localhost:{}//edge/ringway", etcd.ports[0].port());
    let ca = etcd.authority.ca().display().to_string();
    let plan = |password: &str| {
        let plan = Plan::stored(&url).arguments(&["--config-cache", &cache(&dir)]).env("ETCDCTL_CACERT", &ca);
        plan.env("ETCDCTL_USER", "gateway").env("ETCDCTL_PASSWORD", password)
    };
    let ended = plan("wrong").start_in_vain();
    assert!(ended.code == Some(1) && ended.stderr.contains("answered 4"), "{}", ended.stderr);
    let gateway = plan("pass:word").start();
    assert_eq!(gateway.get("/a").text(), "one");
    for body in ["two", "three"] {
        etcd.put(body);
        wait_serves(&gateway, body);
    }
    let refused = || gateway.ask_admin("GET", "/config").json()["last_refused"].to_string();
    let told = etcd.well(&etcd.root(), "/v3/kv/deleterange", json!({ "key": base64("/edge/ringway") }));
    eventually("it is gone", || refused().contains("the key is not there").then_some(()));
    // What lies behind is kept no more.
    etcd.well(&etcd.root(), "/v3/kv/compaction", json!({ "revision": told["header"]["revision"] }));
    etcd.put("four");
    wait_serves(&gateway, "four");
    wait_copy(&dir, "four");
    etcd.kill();
    wait_up(&gateway, false);
    let other = plan("pass:word").start();
    assert_eq!(other.get("/a").text(), "four", "by the copy");
    etcd.restart();
    wait_up(&gateway, true);
    etcd.put("five");
    wait_serves(&gateway, "five");
    wait_serves(&other, "five");
    let shown = gateway.stderr() + &gateway.ask_admin("GET", "/config").text();
    assert!(!shown.contains("pass:word"), "{shown}");
}
