//! A real Consul agent, over TLS with a token: instances that come, fail their check and go, under load (R225, R226).
//!
//! Debian has none, and building one takes minutes, so the test runs where `consul` is in the path or named by
//! `RINGWAY_TEST_CONSUL`. The last version under the MPL, from Go's module proxy, was used:
//! `go mod init x && go get github.com/hashicorp/consul@v1.14.11 && go build github.com/hashicorp/consul`.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::support::load::Load;
use crate::support::tls::Authority;
use crate::support::{Client, Gateway, Origin, Response, eventually, ok};

pub const TOKEN: &str = "0d5c4b9e-7a63-4a5f-9f0e-2f1f6f0c8a11";

pub struct Agent {
    child: Child,
    http: SocketAddr,
    pub https: SocketAddr,
    program: String,
    dir: tempfile::TempDir,
}

pub fn program() -> Option<String> {
    let named = std::env::var("RINGWAY_TEST_CONSUL").unwrap_or_else(|_| "consul".to_owned());
    let works = Command::new(&named).arg("version").output().is_ok();
    if !works {
        println!("skipped: no consul agent here");
    }
    works.then_some(named)
}

pub fn free(count: usize) -> Vec<SocketAddr> {
    let open: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
    open.iter().map(|listener| listener.local_addr().expect("an address")).collect()
}

impl Agent {
    pub fn start(program: String, authority: &Authority) -> Self {
        let issued = authority.issue("consul", &["localhost", "127.0.0.1", "server.eu.consul"]);
        let dir = tempfile::tempdir().expect("a directory");
        let ports = free(5);
        let port = |at: usize| ports[at].port();
        let config = json!({
            "datacenter": "eu", "bind_addr": "127.0.0.1", "client_addr": "127.0.0.1",
            "ports": {"http": port(0), "https": port(1), "server": port(2), "serf_lan": port(3), "serf_wan": port(4),
                "dns": -1, "grpc": -1, "grpc_tls": -1},
            "tls": {"https": {"ca_file": authority.ca(), "cert_file": issued.cert, "key_file": issued.key,
                "verify_incoming": false}},
            "acl": {"enabled": true, "default_policy": "deny", "tokens": {"initial_management": TOKEN, "agent": TOKEN}},
        });
        std::fs::write(dir.path().join("agent.json"), config.to_string()).expect("written");
        let child = Self::run(&program, &dir);
        let agent = Self { child, http: ports[0], https: ports[1], program, dir };
        agent.wait();
        agent
    }

    fn run(program: &str, dir: &tempfile::TempDir) -> Child {
        let mut command = Command::new(program);
        command.args(["agent", "-dev", "-config-file"]).arg(dir.path().join("agent.json"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts")
    }

    fn wait(&self) {
        eventually("the agent has a leader", || {
            std::net::TcpStream::connect(self.http).ok()?;
            let told = self.ask("GET", "/v1/operator/raft/configuration?pretty", &Value::Null);
            (told.status == 200 && told.text().contains("\"Leader\": true")).then_some(())
        });
    }

    /// As if the machine had lost its power.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Behind [`Self::kill`]: it knows nothing any more.
    pub fn restart(&mut self) {
        self.child = Self::run(&self.program, &self.dir);
        self.wait();
    }

    #[track_caller]
    pub fn ask(&self, method: &str, path: &str, body: &Value) -> Response {
        self.send(
            Client::connect(self.http),
            method,
            path,
            &if body.is_null() { String::new() } else { body.to_string() },
        )
    }

    /// PUTs a text as it stands.
    #[track_caller]
    pub fn put_text(&self, path: &str, text: &str) -> Response {
        self.send(Client::connect(self.http), "PUT", path, text)
    }

    #[track_caller]
    fn send(&self, mut client: Client, method: &str, path: &str, body: &str) -> Response {
        client.send(format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-Consul-Token: {TOKEN}\r\nConnection: close\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        ));
        client.response()
    }

    fn put(&self, path: &str, body: &Value) {
        let response = self.ask("PUT", path, body);
        assert_eq!(response.status, 200, "{path}: {}", response.text());
    }

    fn register(&self, id: &str, ip: &str, port: u16) {
        self.put(
            "/v1/agent/service/register",
            &json!({
                "ID": id, "Name": "users", "Address": ip, "Port": port, "Tags": ["v1"], "Meta": {"rack": "7"},
                "Weights": {"Passing": 3, "Warning": 1},
                "Check": {"CheckID": format!("check-{id}"), "TTL": "30m", "Status": "passing"},
            }),
        );
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn instances_of_a_real_agent_are_followed_and_outlive_it() {
    let Some(program) = program() else { return };
    let authority = Authority::new("ours");
    let mut agent = Agent::start(program, &authority);
    let origin = Origin::everywhere(|_| ok("up"));
    let port = origin.address.port();
    agent.register("one", "127.0.0.1", port);
    let yaml = |token: &str| {
        format!(
            "discovery: {{wait: 10s, consul: {{address: \"https://{}\", ca_file: {}, token: \"{token}\"}}}}\n\
             services:\n- {{name: up, discovery: [{{consul: {{service: users, tags: [v1], datacenter: eu}}}}]}}\n\
             routes:\n- {{path: /*, service: up}}\n",
            agent.https,
            authority.ca().display()
        )
    };
    let gateway = Gateway::start(&yaml(TOKEN));
    gateway.wait_resolved_ips(&["127.0.0.1"]);
    let one = gateway.ask_admin("GET", "/services/up/endpoints").json()[0].clone();
    assert_eq!(
        (&one["weight"], &one["metadata"]["rack"], &one["source"]),
        (&json!(3), &json!("7"), &json!("consul users"))
    );
    let load = Load::start(gateway.address, 1, 2, 0);
    agent.register("two", "127.0.0.2", port);
    gateway.wait_resolved_ips(&["127.0.0.1", "127.0.0.2"]);
    agent.put("/v1/agent/check/fail/check-one", &Value::Null);
    gateway.wait_resolved_ips(&["127.0.0.2"]);
    load.wait(10);
    agent.put("/v1/agent/check/pass/check-one", &Value::Null);
    gateway.wait_resolved_ips(&["127.0.0.1", "127.0.0.2"]);
    agent.put("/v1/agent/service/deregister/two", &Value::Null);
    gateway.wait_resolved_ips(&["127.0.0.1"]);
    load.wait(10);
    // It dies and comes back without what it knew, and so with a lower index.
    agent.kill();
    eventually("the last answer is used", || {
        let services = gateway.ask_admin("GET", "/services").json();
        (services[0]["sources"][0]["state"] == "stale").then_some(())
    });
    load.wait(10);
    assert_eq!(gateway.resolved_ips(), ["127.0.0.1"]);
    let counts = load.finish();
    assert!(counts.answered.load(std::sync::atomic::Ordering::Relaxed) > 0);
    agent.restart();
    agent.register("three", "127.0.0.3", port);
    gateway.wait_resolved_ips(&["127.0.0.3"]);
}
