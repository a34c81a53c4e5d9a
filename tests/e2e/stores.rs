//! The configuration in a key-value store (R229), by a store that speaks the documented protocols of Consul and etcd:
//! blocking queries with an index, ranges and watches. `stores_real.rs` asks the programs themselves.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use ringway::http::grpc_web::encode;
use serde_json::{Value, json};

use crate::support::gateway::{BINARY, Plan, complete};
use crate::support::{Gateway, eventually};
use crate::upgrade::Upgraded;

const SECRET: &str = "s3cr3t-of-the-store";

/// Which protocol is spoken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Consul,
    Etcd,
}

const BOTH: [Kind; 2] = [Kind::Consul, Kind::Etcd];

/// How the store behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Well,
    /// 500 with a sentence.
    Failing,
    /// Closes without an answer.
    Closing,
    /// Says nothing.
    Hanging,
    /// Something that no store says.
    Garbage,
    /// More than anybody should read.
    Huge,
}

/// A store on threads.
struct Store {
    kind: Kind,
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    /// Targets and credentials of the requests.
    seen: Mutex<Vec<(String, String)>>,
    ended: AtomicBool,
}

struct State {
    index: u64,
    value: Option<String>,
    mode: Mode,
}

impl Store {
    fn start(kind: Kind, value: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let state = State { index: 10, value: Some(complete(value)), mode: Mode::Well };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: Condvar::new(),
            seen: Mutex::default(),
            ended: AtomicBool::new(false),
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                let theirs = theirs.clone();
                thread::spawn(move || theirs.serve(&mut stream));
            }
        });
        Self { kind, address, shared }
    }

    /// Where the gateway finds its configuration.
    fn url(&self) -> String {
        let scheme = if self.kind == Kind::Consul { "consul" } else { "etcd" };
        format!("{scheme}://{}/edge/ringway", self.address)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.shared.state.lock().expect("state");
        state.index += 1;
        change(&mut state);
        self.shared.changed.notify_all();
    }

    fn set(&self, value: &str) {
        self.change(|state| state.value = Some(complete(value)));
    }

    fn set_mode(&self, mode: Mode) {
        self.change(|state| state.mode = mode);
    }

    fn seen(&self) -> Vec<(String, String)> {
        self.shared.seen.lock().expect("seen").clone()
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.changed.notify_all();
        let _ = TcpStream::connect(self.address);
    }
}

/// A request: target, credentials, body. None where the client leaves.
fn read_request(stream: &mut impl Read) -> Option<(String, String, String)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let target = head.lines().next()?.split(' ').nth(1)?.to_owned();
    let field = |names: &[&str]| {
        let mut fields = head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(name, _)| names.contains(name)).map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let mut body = vec![0; field(&["content-length"]).parse().unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((target, field(&["x-consul-token", "authorization"]), String::from_utf8(body).ok()?))
}

fn base64(text: &str) -> String {
    let mut out = Vec::new();
    encode(text.as_bytes(), &mut out);
    String::from_utf8(out).expect("letters")
}

impl Shared {
    fn serve(&self, stream: &mut TcpStream) {
        let Some((target, credentials, body)) = read_request(stream) else { return };
        self.seen.lock().expect("seen").push((target.clone(), credentials));
        let mode = self.state.lock().expect("state").mode;
        match mode {
            Mode::Closing => {}
            Mode::Hanging => self.wait(|state| state.mode != Mode::Hanging),
            Mode::Failing => answer(stream, "500 Internal Server Error", "", "No cluster leader"),
            Mode::Garbage => answer(stream, "200 OK", "X-Consul-Index: 3\r\n", "<html>"),
            Mode::Huge => {
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nX-Consul-Index: 3\r\nTransfer-Encoding: chunked\r\n\r\n");
                let piece = format!("10000\r\n{}\r\n", " ".repeat(0x10000));
                // The gateway has enough long before the end.
                while stream.write_all(piece.as_bytes()).is_ok() {}
            }
            Mode::Well if target.starts_with("/v1/kv/edge/ringway") => self.consul(stream, &target),
            Mode::Well => self.etcd(stream, &target, &serde_json::from_str(&body).unwrap_or_default()),
        }
    }

    /// Waits until this holds, or it is over.
    fn wait(&self, is_due: impl Fn(&State) -> bool) {
        let mut state = self.state.lock().expect("state");
        while !is_due(&state) && !self.ended.load(Ordering::SeqCst) {
            state = self.changed.wait_timeout(state, Duration::from_secs(1)).expect("state").0;
        }
    }

    fn consul(&self, stream: &mut TcpStream, target: &str) {
        let index = target.split(['?', '&']).find_map(|pair| pair.strip_prefix("index=")?.parse::<u64>().ok());
        self.wait(|state| Some(state.index) != index);
        let state = self.state.lock().expect("state");
        if state.mode != Mode::Well {
            return;
        }
        let field = format!("X-Consul-Index: {}\r\n", state.index);
        match &state.value {
            Some(value) => {
                let pair = json!([{ "Key": "edge/ringway", "Value": base64(value), "ModifyIndex": state.index }]);
                answer(stream, "200 OK", &field, &pair.to_string());
            }
            None => answer(stream, "404 Not Found", &field, ""),
        }
    }

    fn etcd(&self, stream: &mut TcpStream, target: &str, asked: &Value) {
        let header = || json!({ "revision": self.state.lock().expect("state").index.to_string() });
        match target {
            "/v3/auth/authenticate" if asked["name"] == "gateway" && asked["password"] == SECRET => {
                answer(stream, "200 OK", "", &json!({ "header": header(), "token": "a-token" }).to_string());
            }
            "/v3/kv/range" if asked["key"] == base64("edge/ringway") => {
                let header = header();
                let value = self.state.lock().expect("state").value.clone();
                let pairs: Vec<_> = value.iter().map(|value| json!({ "value": base64(value) })).collect();
                answer(stream, "200 OK", "", &json!({ "header": header, "kvs": pairs }).to_string());
            }
            "/v3/watch" if asked["create_request"]["key"] == base64("edge/ringway") => {
                let from = asked["create_request"]["start_revision"].as_str().and_then(|text| text.parse::<u64>().ok());
                let from = from.expect("behind the last answer");
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
                let line = |value: Value| {
                    let text = format!("{}\n", json!({ "result": value }));
                    format!("{:x}\r\n{text}\r\n", text.len())
                };
                let _ = write!(stream, "{head}{}", line(json!({ "created": true, "header": header() })));
                self.wait(|state| state.index >= from);
                if self.state.lock().expect("state").mode == Mode::Well {
                    let _ = write!(stream, "{}", line(json!({ "events": [{ "kv": {} }], "header": header() })));
                }
            }
            _ => answer(stream, "400 Bad Request", "", r#"{"code":3,"message":"what is asked here?"}"#),
        }
    }
}

fn answer(stream: &mut TcpStream, status: &str, more: &str, body: &str) {
    let length = body.len();
    // The gateway may have gone.
    let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{more}\r\n{body}");
}

fn fixed(body: &str) -> String {
    format!("routes: [{{name: a, path: /a, respond: {{body: {body}}}}}]\n")
}

fn plan(store: &Store, dir: &Path) -> Plan {
    Plan::stored(&store.url()).arguments(&["--config-cache", dir.join("sub/copy").to_str().expect("a path")])
}

#[track_caller]
fn wait_serves(gateway: &Gateway, body: &str) {
    eventually(&format!("{body} is served"), || (gateway.get("/a").text() == body).then_some(()));
}

#[track_caller]
fn wait_metric(gateway: &Gateway, name: &str, value: f64) {
    eventually(&format!("{name} is {value}"), || (gateway.metric(name, &[]) == value).then_some(()));
}

/// Waits until the last reload was refused for this.
#[track_caller]
fn wait_refused(gateway: &Gateway, reason: &str) -> Value {
    eventually(&format!("refused: {reason}"), || {
        let told = gateway.ask_admin("GET", "/config").json()["last_refused"].clone();
        told.to_string().contains(reason).then_some(told)
    })
}

#[test]
fn a_change_is_taken_up_and_kept_on_disk() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        let gateway = plan(&store, dir.path()).start();
        assert_eq!(gateway.get("/a").text(), "one");
        for body in ["two", "three"] {
            store.set(&fixed(body));
            wait_serves(&gateway, body);
            let copy = dir.path().join("sub/copy");
            eventually("the copy follows", || {
                let text = std::fs::read_to_string(&copy).unwrap_or_default();
                (text.contains(&fixed(body)) && text.lines().next()?.ends_with(&store.url())).then_some(())
            });
            assert_eq!(std::fs::metadata(&copy).expect("a file").permissions().mode() & 0o777, 0o600);
        }
        let told = gateway.ask_admin("GET", "/config").json();
        assert_eq!(
            (&told["store"]["source"], &told["store"]["reachable"], &told["store"]["from_copy"]),
            (&json!(store.url()), &json!(true), &json!(false)),
            "{kind:?}"
        );
        assert_eq!(gateway.metric("ringway_config_store_up", &[]), 1.0);
        // What is asked for is read anew, changed or not.
        let before = store.seen().len();
        let reloaded = gateway.ask_admin("POST", "/config/reload");
        assert_eq!(reloaded.json()["result"], "unchanged");
        gateway.signal("HUP");
        gateway.wait_log("configuration unchanged", 2);
        assert!(store.seen().len() >= before + 2, "{:?}", store.seen());
    }
}

#[test]
fn what_is_wrong_or_gone_is_refused_and_the_last_good_one_serves() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        let gateway = plan(&store, dir.path()).start();
        store.set("routes: [{name: a, path: /a, servce: nowhere}, {path: b}]\n");
        let told = wait_refused(&gateway, "servce");
        assert!(told["errors"] == 2 && told["file"] == store.url(), "all mistakes: {told}");
        let first = &told["diagnostics"][0];
        assert!(first["line"].as_u64() > Some(1) && first["column"].as_u64() > Some(1), "{told}");
        assert!(gateway.wait_log("configuration refused, the old one serves on", 1)[0].to_string().contains("servce"));
        assert_eq!(gateway.metric("ringway_config_last_reload_successful", &[]), 0.0);
        store.change(|state| state.value = None);
        wait_refused(&gateway, "the key is not there");
        store.change(|state| state.value = Some(String::new()));
        wait_refused(&gateway, "the value is empty");
        assert_eq!(gateway.get("/a").text(), "one");
        assert_eq!(gateway.metric("ringway_config_store_up", &[]), 1.0, "the store is well");
        store.set(&fixed("one"));
        wait_metric(&gateway, "ringway_config_last_reload_successful", 1.0);
        store.set(&fixed("two"));
        wait_serves(&gateway, "two");
    }
}

#[test]
fn a_store_that_dies_changes_nothing_and_is_followed_when_it_is_back() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        let gateway = plan(&store, dir.path()).start();
        for (mode, body) in [(Mode::Closing, "two"), (Mode::Failing, "three"), (Mode::Garbage, "four")] {
            store.set_mode(mode);
            wait_metric(&gateway, "ringway_config_store_up", 0.0);
            assert_eq!(gateway.metric("ringway_config_last_reload_successful", &[]), 1.0, "{mode:?}: nothing is wrong");
            assert!(gateway.ask_admin("GET", "/ready").text().contains("configuration_store"));
            // Whoever asks is told.
            let refused = gateway.ask_admin("POST", "/config/reload");
            assert_eq!(refused.status, 422, "{mode:?}: {}", refused.text());
            store.change(|state| (state.mode, state.value) = (Mode::Well, Some(complete(&fixed(body)))));
            wait_serves(&gateway, body);
            wait_metric(&gateway, "ringway_config_store_up", 1.0);
            wait_metric(&gateway, "ringway_config_last_reload_successful", 1.0);
        }
        assert!(gateway.metric("ringway_config_store_failures_total", &[]) >= 6.0);
        // Each time once, however often it was tried.
        for told in [
            "the configuration store cannot be read, the last configuration serves on",
            "the configuration store can be read again",
        ] {
            assert_eq!(gateway.wait_log(told, 3).len(), 3, "{told}");
        }
    }
}

#[test]
fn a_start_without_its_store_takes_the_copy_and_catches_up() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        {
            let _first = plan(&store, dir.path()).start();
            eventually("there is a copy", || dir.path().join("sub/copy").exists().then_some(()));
        }
        let mode = if kind == Kind::Consul { Mode::Closing } else { Mode::Hanging };
        store.set_mode(mode);
        let gateway = plan(&store, dir.path()).start();
        assert_eq!(gateway.get("/a").text(), "one");
        let told = gateway.wait_log(
            "the configuration store cannot be read, this start takes the copy of the last good configuration",
            1,
        );
        assert_eq!(told[0]["level"], "ERROR", "{told:?}");
        assert_eq!(gateway.ask_admin("GET", "/config").json()["store"]["from_copy"], true);
        assert_eq!(gateway.metric("ringway_config_store_copy", &[]), 1.0);
        store.change(|state| (state.mode, state.value) = (Mode::Well, Some(complete(&fixed("two")))));
        wait_serves(&gateway, "two");
        assert_eq!(gateway.metric("ringway_config_store_copy", &[]), 0.0);
    }
}

#[test]
fn a_start_without_store_and_copy_fails_and_says_why() {
    let dir = tempfile::tempdir().expect("a directory");
    for kind in BOTH {
        let store = Store::start(kind, &fixed("one"));
        store.set_mode(Mode::Closing);
        let ended = plan(&store, dir.path()).start_in_vain();
        assert_eq!(ended.code, Some(1), "{}", ended.stderr);
        assert!(ended.stderr.contains(&store.url()) && ended.stderr.contains("no copy at"), "{}", ended.stderr);
        let ended = Plan::stored(&store.url()).arguments(&["--config-cache", "none"]).start_in_vain();
        assert!(ended.code == Some(1) && ended.stderr.contains("no copy is kept"), "{}", ended.stderr);
        // It answers, and there is nothing that could serve.
        store.change(|state| (state.mode, state.value) = (Mode::Well, None));
        let ended = plan(&store, dir.path()).start_in_vain();
        assert!(ended.code == Some(2) && ended.stderr.contains("the key is not there"), "{}", ended.stderr);
        store.set("routes: [{path: b}]\n");
        let ended = plan(&store, dir.path()).start_in_vain();
        assert_eq!(ended.code, Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(&format!("{}:", store.url())), "the place: {}", ended.stderr);
        // The copy of another source is none.
        std::fs::create_dir_all(dir.path().join("sub")).expect("made");
        std::fs::write(dir.path().join("sub/copy"), complete(&fixed("x"))).expect("written");
        store.set_mode(Mode::Closing);
        let ended = plan(&store, dir.path()).start_in_vain();
        assert!(ended.code == Some(1) && ended.stderr.contains("not of this source"), "{}", ended.stderr);
        std::fs::remove_file(dir.path().join("sub/copy")).expect("removed");
    }
}

#[test]
fn a_value_that_is_too_large_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::start(Kind::Consul, &fixed("one"));
    let gateway = plan(&store, dir.path()).start();
    store.set_mode(Mode::Huge);
    wait_refused(&gateway, "larger than");
    assert_eq!(gateway.get("/a").text(), "one");
    store.change(|state| (state.mode, state.value) = (Mode::Well, Some(complete(&fixed("two")))));
    wait_serves(&gateway, "two");
}

#[test]
fn an_index_that_goes_backwards_begins_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Store::start(Kind::Consul, &fixed("one"));
    let gateway = plan(&store, dir.path()).start();
    eventually("it waits", || store.seen().last()?.0.contains("index=10").then_some(()));
    // The agent was set up anew.
    store.change(|state| (state.index, state.value) = (3, Some(complete(&fixed("two")))));
    wait_serves(&gateway, "two");
    eventually("it begins without an index, and waits with the new one", || {
        let targets: Vec<_> = store.seen().into_iter().map(|(target, _)| target).collect();
        let [.., before, last] = targets.as_slice() else { return None };
        (!before.contains("index=") && last.contains("index=3&")).then_some(())
    });
    store.set(&fixed("three"));
    wait_serves(&gateway, "three");
}

#[test]
fn credentials_are_sent_and_never_shown() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        let plan = match kind {
            Kind::Consul => plan(&store, dir.path()).env("CONSUL_HTTP_TOKEN", SECRET),
            Kind::Etcd => plan(&store, dir.path()).env("ETCDCTL_USER", "gateway").env("ETCDCTL_PASSWORD", SECRET),
        };
        let gateway = plan.start();
        store.set(&fixed("two"));
        wait_serves(&gateway, "two");
        let is_known = |(target, credentials): &(String, String)| match kind {
            Kind::Consul => credentials == SECRET,
            Kind::Etcd => target == "/v3/auth/authenticate" || credentials == "a-token",
        };
        assert!(store.seen().iter().all(is_known), "{:?}", store.seen());
        store.set_mode(Mode::Failing);
        wait_metric(&gateway, "ringway_config_store_up", 0.0);
        let shown = gateway.ask_admin("POST", "/config/reload").text()
            + &gateway.ask_admin("GET", "/config").text()
            + &gateway.ask_admin("GET", "/ready").text()
            + &gateway.stderr();
        assert!(
            shown.contains("No cluster leader") && !shown.contains(SECRET) && !shown.contains("a-token"),
            "{shown}"
        );
        let scheme = if kind == Kind::Consul { "consul" } else { "etcd" };
        let ended =
            Plan::stored(&format!("{scheme}://gateway:{SECRET}@{}/edge/ringway", store.address)).start_in_vain();
        assert!(ended.code == Some(2) && ended.stderr.contains("credentials have no place"), "{}", ended.stderr);
        assert!(!ended.stderr.contains(SECRET), "{}", ended.stderr);
    }
}

/// The control thread answers others while a reload waits for a store.
#[test]
fn a_store_that_hangs_holds_nobody_up() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        let gateway = plan(&store, dir.path()).start();
        let before = store.seen().len();
        store.set_mode(Mode::Hanging);
        gateway.signal("HUP");
        eventually("it is asked", || (store.seen().len() > before).then_some(()));
        assert_eq!(gateway.ask_admin("GET", "/health").status, 200);
        assert_eq!(gateway.get("/a").text(), "one");
        store.change(|state| (state.mode, state.value) = (Mode::Well, Some(complete(&fixed("two")))));
        wait_serves(&gateway, "two");
    }
}

#[test]
fn an_upgrade_reads_the_same_source_and_without_it_the_copy() {
    for kind in BOTH {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::start(kind, &fixed("one"));
        let upgraded = Upgraded::start(plan(&store, dir.path()));
        upgraded.upgrade_well();
        store.set(&fixed("two"));
        wait_serves(&upgraded.gateway, "two");
        eventually("the copy follows", || {
            std::fs::read_to_string(dir.path().join("sub/copy")).is_ok_and(|text| text.contains("two")).then_some(())
        });
        store.set_mode(Mode::Closing);
        upgraded.upgrade_well();
        assert_eq!(upgraded.gateway.get("/a").text(), "two");
        store.change(|state| (state.mode, state.value) = (Mode::Well, Some(complete(&fixed("three")))));
        wait_serves(&upgraded.gateway, "three");
    }
}

#[test]
fn commands_that_run_nothing_ask_the_store_too() {
    let ask = |words: &[&str]| {
        let out = Command::new(BINARY).args(words).output().expect("it runs");
        (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
    };
    for kind in BOTH {
        let store = Store::start(kind, &fixed("one"));
        let url = store.url();
        let (code, text) = ask(&["check", &url]);
        assert!(code == Some(0) && text.contains("the configuration is good"), "{text}");
        let (code, text) = ask(&["explain", "GET", "/a", "-c", &url]);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(ask(&["config", "show", &url]).0, Some(0));
        store.set("routes: [{path: b}]\n");
        let (code, text) = ask(&["check", &url]);
        assert!(code == Some(2) && text.contains(&format!("{url}:")), "{text}");
        store.set_mode(Mode::Closing);
        let (code, text) = ask(&["check", &url]);
        assert!(code == Some(2) && text.contains("the configuration cannot be read"), "{text}");
    }
    let (code, text) = ask(&["run", "-c", "consull://a/k"]);
    assert!(code == Some(2) && text.contains("no store `consull`") && text.contains("consul://HOST:8500"), "{text}");
    let (code, text) = ask(&["run", "-c", "a.yaml", "--config-cache", "b"]);
    assert!(code == Some(2) && text.contains("--config-cache"), "{text}");
}
