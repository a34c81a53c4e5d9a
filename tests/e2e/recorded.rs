//! What a real Kubernetes API server answered, played back to the gateway (R227): `tests/external/record_kube.py` has
//! recorded it, and `kubernetes.rs` asks such a server itself where one is built.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Gateway, eventually};

const RECORDED: &str = include_str!("../fixtures/kubernetes/recorded.json");

/// One exchange that must come next.
struct Step {
    /// Its name in the recording.
    name: &'static str,
    /// What the request's target must end with.
    due: String,
    /// The last piece of the body is held back until the test says so, and then so is its end.
    held: bool,
}

/// Plays steps, one connection each.
struct Player {
    address: SocketAddr,
    /// Requests that were another than the one that was due.
    faults: Arc<Mutex<Vec<String>>>,
    /// How many steps are begun.
    begun: Arc<Mutex<usize>>,
    go_on: Sender<()>,
}

fn exchange(name: &str) -> Value {
    let all: Value = serde_json::from_str(RECORDED).expect("JSON");
    assert_eq!(all["version"], "v1.34.0");
    let found = all["exchanges"][name].clone();
    assert!(found.is_object(), "{name} is not recorded");
    found
}

/// The version of a list.
fn version(name: &str) -> String {
    let list: Value = serde_json::from_str(&body(&exchange(name)).concat()).expect("a list");
    list["metadata"]["resourceVersion"].as_str().expect("a version").to_owned()
}

fn body(exchange: &Value) -> Vec<String> {
    let pieces = exchange["body"].as_array().expect("pieces").iter();
    pieces.map(|piece| piece.as_str().expect("text").to_owned()).collect()
}

impl Player {
    fn start(steps: Vec<Step>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (faults, begun) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<usize>>::default());
        let (go_on, wait) = channel();
        let (their_faults, their_count) = (faults.clone(), begun.clone());
        thread::spawn(move || {
            for step in steps {
                let Ok((stream, _)) = listener.accept() else { return };
                *their_count.lock().expect("a count") += 1;
                if let Some(fault) = play(stream, &step, &wait) {
                    their_faults.lock().expect("faults").push(fault);
                }
            }
        });
        Self { address, faults, begun, go_on }
    }

    fn wait_begun(&self, count: usize) {
        eventually(&format!("{count} requests"), || (*self.begun.lock().expect("a count") >= count).then_some(()));
    }

    fn gateway(&self, port: &str) -> (Gateway, tempfile::TempDir) {
        let dir = tempfile::tempdir().expect("a directory");
        let kubeconfig = dir.path().join("config");
        let text = format!(
            "current-context: t\ncontexts: [{{name: t, context: {{cluster: c, user: u, namespace: shop}}}}]\n\
             clusters: [{{name: c, cluster: {{server: \"http://{}\"}}}}]\nusers: [{{name: u, user: {{token: t}}}}]\n",
            self.address
        );
        std::fs::write(&kubeconfig, text).expect("written");
        let gateway = Gateway::start(&format!(
            "discovery: {{wait: 5s, kubernetes: {{kubeconfig: {}}}}}\n\
             services:\n- {{name: up, discovery: [{{kubernetes: {{service: users, port: {port}}}}}]}}\n\
             routes:\n- {{path: /*, service: up}}\n",
            kubeconfig.display()
        ));
        (gateway, dir)
    }

    #[track_caller]
    fn finish(self) {
        assert_eq!(*self.faults.lock().expect("faults"), Vec::<String>::new());
    }
}

/// Answers one request. What was wrong with it, if anything.
fn play(stream: TcpStream, step: &Step, wait: &Receiver<()>) -> Option<String> {
    let mut lines = BufReader::new(stream.try_clone().expect("a stream"));
    let (mut head, mut line) = (String::new(), String::new());
    while line != "\r\n" {
        line.clear();
        if lines.read_line(&mut line).is_ok_and(|count| count == 0) {
            return Some(format!("{}: nothing was asked", step.name));
        }
        head.push_str(&line);
    }
    let recorded = exchange(step.name);
    let target = head.split(' ').nth(1).unwrap_or_default();
    // The path and the selector are those of the recording, and the rest what is due.
    let (path, _) = recorded["target"].as_str().expect("a target").split_once('&').expect("a query");
    let fault = (!target.starts_with(path) || !target.ends_with(&step.due))
        .then(|| format!("{}: {path}…{} was due, {target} came", step.name, step.due));
    // The gateway leaves when it has heard enough.
    let _ = answer(stream, &recorded, step.held.then_some(wait));
    fault
}

fn answer(mut stream: TcpStream, recorded: &Value, wait: Option<&Receiver<()>>) -> std::io::Result<()> {
    let (pieces, kind) = (body(recorded), recorded["type"].as_str().expect("a type"));
    write!(stream, "HTTP/1.1 {} X\r\nContent-Type: {kind}\r\nConnection: close\r\n", recorded["status"])?;
    if recorded["chunked"] == false {
        return write!(stream, "Content-Length: {}\r\n\r\n{}", pieces.concat().len(), pieces.concat());
    }
    write!(stream, "Transfer-Encoding: chunked\r\n\r\n")?;
    for (at, piece) in pieces.iter().enumerate() {
        if let Some(wait) = wait.filter(|_| at + 1 == pieces.len()) {
            let _ = wait.recv();
        }
        write!(stream, "{:x}\r\n{piece}\r\n", piece.len())?;
    }
    if let Some(wait) = wait {
        let _ = wait.recv();
    }
    write!(stream, "0\r\n\r\n")
}

fn step(name: &'static str, due: &str) -> Step {
    Step { name, due: due.to_owned(), held: false }
}

fn watch(name: &'static str, from: &str, held: bool) -> Step {
    let due = format!("&watch=1&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={from}");
    Step { name, due, held }
}

fn state(gateway: &Gateway) -> (Value, String) {
    let source = gateway.ask_admin("GET", "/services").json()[0]["sources"][0].clone();
    (source["state"].clone(), source["error"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn a_recorded_list_is_watched_until_its_version_expires_and_listed_anew() {
    let listed = version("list");
    // The bookmark's version is what the watch after it begins with.
    let last = body(&exchange("watch")).pop().expect("a bookmark");
    let last: Value = serde_json::from_str(&last).expect("an event");
    assert_eq!(last["type"], "BOOKMARK");
    let marked = last["object"]["metadata"]["resourceVersion"].as_str().expect("a version").to_owned();
    let player = Player::start(vec![
        step("list", "&limit=250"),
        watch("watch", &listed, true),
        watch("watch that expired", &marked, false),
        step("list after", "&limit=250"),
        watch("watch", &version("list after"), true),
    ]);
    let (gateway, _dir) = player.gateway("http");
    // Of b's endpoints one is ready, and c's are at another port.
    gateway.wait_resolved_ips(&["10.0.0.1", "10.0.0.2", "10.0.0.4"]);
    let one = gateway.ask_admin("GET", "/services/up/endpoints").json()[0].clone();
    assert_eq!(
        (&one["resolved"], &one["zone"], &one["metadata"]["pod"], &one["metadata"]["node"]),
        (&json!("10.0.0.1:8080"), &json!("eu-1a"), &json!("users-1"), &json!("node-7"))
    );
    player.wait_begun(2);
    // a's endpoint ends, d came, c has gone.
    gateway.wait_resolved_ips(&["10.0.0.2", "10.0.0.5"]);
    // The bookmark, and after a second, as a server ends a watch, its end.
    player.go_on.send(()).expect("it plays");
    let marked_at = Instant::now();
    eventually("a second has passed", || (marked_at.elapsed() > Duration::from_secs(1)).then_some(()));
    player.go_on.send(()).expect("it plays");
    gateway.wait_resolved_ips(&["10.0.0.2", "10.0.0.5", "10.0.0.7"]);
    player.wait_begun(5);
    assert_eq!(state(&gateway), (json!("current"), String::new()), "what has expired is nobody's fault");
    assert_eq!(gateway.metric("ringway_discovery_failures_total", &[]), 0.0);
    player.finish();
}

#[test]
fn recorded_pages_are_one_list_and_begun_anew_where_they_expire() {
    let follows =
        exchange("page 2")["target"].as_str().expect("a target").split_once("continue=").expect("it").1.to_owned();
    let next = format!("&limit=250&continue={follows}");
    let player = Player::start(vec![
        step("page 1", "&limit=250"),
        step("page that expired", &next),
        step("page 1", "&limit=250"),
        step("page 2", &next),
        watch("watch", &version("page 2"), true),
    ]);
    let (gateway, _dir) = player.gateway("metrics");
    gateway.wait_resolved_ips(&["10.0.0.1", "10.0.0.2", "10.0.0.4"]);
    player.wait_begun(5);
    player.finish();
}

#[test]
fn recorded_refusals_are_told_and_got_over() {
    let forbidden = "answered 403: endpointslices.discovery.k8s.io is forbidden: User \"stranger\" cannot list";
    for (name, words) in [("unauthorized", "answered 401: Unauthorized"), ("forbidden", forbidden)] {
        let player = Player::start(vec![
            step(name, "&limit=250"),
            step("empty", "&limit=250"),
            watch("watch", &version("empty"), true),
        ]);
        let (gateway, _dir) = player.gateway("http");
        gateway.wait_resolved_ips(&["10.0.0.5"]);
        let events = gateway.ask_admin("GET", "/events").json();
        let failed =
            events.as_array().expect("a list").iter().find(|event| event["what"] == "failed").expect("it is told");
        assert!(failed["why"].as_str().is_some_and(|why| why.contains(words)), "{failed}");
        assert_eq!(state(&gateway).0, "current");
        player.finish();
    }
}
