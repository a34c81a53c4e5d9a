//! Replacing the running program, socket activation, and what reloads must not disturb (F01, F02, F03).

use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::gateway::{BINARY, Plan};
use crate::support::load::Load;
use crate::support::{Client, Gateway, Origin, eventually, ok};

/// A gateway whose successors end with it.
pub struct Upgraded {
    pub gateway: Gateway,
    program: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Upgraded {
    fn drop(&mut self) {
        for pid in self.successors() {
            // It may have ended, after an upgrade of its own.
            let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).output();
        }
    }
}

impl Upgraded {
    /// Starts the program under a name that can be given to another.
    pub fn start(plan: Plan) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = dir.path().join("ringway");
        symlink(BINARY, &program).expect("linked");
        Self { gateway: plan.binary(&program).start(), program, _dir: dir }
    }

    /// Puts another program in the place of the running one's file.
    pub fn replace_program(&self, script: Option<&str>) {
        let next = self.program.with_extension("next");
        match script {
            Some(script) => {
                // Written by another process: what this one has open for writing cannot be run, and a child that
                // another test starts at that moment has it open too.
                let write = "printf '#!/bin/sh\\n%s\\n' \"$1\" > \"$0\" && chmod 755 \"$0\"";
                let done = Command::new("sh").arg("-c").arg(write).arg(&next).arg(script).status().expect("sh runs");
                assert!(done.success(), "{script}");
            }
            None => symlink(BINARY, &next).expect("linked"),
        }
        std::fs::rename(&next, &self.program).expect("replaced");
    }

    /// Every process that was started to take over.
    pub fn successors(&self) -> Vec<u32> {
        let begun = self.gateway.logs("upgrade begins");
        begun.iter().filter_map(|entry| entry["pid"].to_string().trim_matches('"').parse().ok()).collect()
    }

    fn upgrade(&self) -> Told {
        told("upgrade", &["--admin", &self.gateway.admin.to_string()])
    }

    /// Upgrades and waits until the new process is alone with new clients.
    #[track_caller]
    pub fn upgrade_well(&self) -> u32 {
        let told = self.upgrade();
        assert_eq!(told.code, 0, "{told:?}\n{}", self.gateway.stderr());
        told.outcome["pid"].as_u64().expect("a process") as u32
    }
}

/// What a command of ours answered.
#[derive(Debug)]
struct Told {
    code: i32,
    outcome: Value,
    text: String,
}

fn told(verb: &str, whom: &[&str]) -> Told {
    let Output { status, stdout, stderr } =
        Command::new(BINARY).arg(verb).args(whom).arg("--json").output().expect("it runs");
    let text = String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned();
    Told { code: status.code().unwrap_or(-1), outcome: serde_json::from_str(&text).unwrap_or_default(), text }
}

/// An origin whose `/slow` takes its time.
fn origin() -> Origin {
    Origin::start(|seen| {
        if seen.path() == "/slow" {
            thread::park_timeout(Duration::from_secs(1));
        }
        ok(seen.path())
    })
}

fn yaml(origin: &Origin, workers: usize) -> String {
    format!(
        "server: {{workers: {workers}, pin_workers: false, drain_timeout: 8s}}\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    )
}

fn upgrades(gateway: &Gateway, result: &str) -> f64 {
    gateway.metric("ringway_upgrades_total", &[&format!("\"{result}\"")])
}

#[test]
fn two_upgrades_a_second_apart_lose_nothing() {
    let origin = origin();
    let mut bed = Upgraded::start(Plan::new(&yaml(&origin, 2)));
    let load = Load::start(bed.gateway.address, 4, 10, 3);
    let first = bed.upgrade_well();
    thread::park_timeout(Duration::from_secs(1));
    let second = bed.upgrade_well();
    assert_ne!(first, second);
    load.wait(200);
    assert_eq!(upgrades(&bed.gateway, "done"), 2.0);
    assert_eq!(bed.gateway.exit_code(), 0, "the first process ends well");
    let counts = load.finish();
    let announced = counts.announced.load(Ordering::Relaxed);
    assert!((10..=20).contains(&announced), "each kept client is told once for each upgrade: {counts:?}");
}

/// One client after another, so that no next one wakes the process for the one before.
#[test]
fn who_comes_at_the_moment_of_the_change_is_not_forgotten() {
    let bed = Upgraded::start(Plan::new("server: {workers: 1}\nroutes: [{path: /a, respond: {body: here}}]\n"));
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            while !stop.load(Ordering::Relaxed) {
                let begun = Instant::now();
                assert_eq!(bed.gateway.get("/a").text(), "here");
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        });
        let upgraded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for _ in 0..10 {
                bed.upgrade_well();
            }
        }));
        stop.store(true, Ordering::Relaxed);
        upgraded.expect("every upgrade succeeds");
        let slowest = client.join().expect("every request is answered");
        assert!(slowest < Duration::from_secs(20), "{slowest:?}");
    });
}

#[test]
fn an_idle_client_gets_one_more_answer_and_is_told() {
    let origin = origin();
    let mut bed = Upgraded::start(Plan::new(&yaml(&origin, 1)));
    let mut idle = bed.gateway.connect();
    assert!(!idle.get("/a").closes());
    // Long enough for the connection to wait without a buffer.
    let mut silent = bed.gateway.connect();
    assert!(!silent.get("/a").closes());
    bed.upgrade_well();
    let mut fresh = bed.gateway.connect();
    assert!(!fresh.get("/b").closes(), "the new process announces nothing");
    thread::park_timeout(Duration::from_millis(100));
    let answer = idle.get("/c");
    assert_eq!((answer.status, answer.closes()), (200, true));
    assert!(idle.is_closed());
    assert!(bed.gateway.is_running(), "one client is still idle");
    // A stop of the old process ends its wait for idle clients.
    bed.gateway.signal("TERM");
    assert_eq!(bed.gateway.exit_code(), 0);
    assert!(silent.is_closed());
    assert_eq!(fresh.get("/b").status, 200);
}

#[test]
fn a_new_program_that_fails_changes_nothing() {
    let origin = origin();
    let bed = Upgraded::start(Plan::new(&yaml(&origin, 1)));
    let mut kept = bed.gateway.connect();
    assert_eq!(kept.get("/a").status, 200);
    let whole = yaml(&origin, 1);
    let cases = [
        (None, "routes: [{path: /a, servce: up}]\n", "servce"),
        (Some("exit 3"), whole.as_str(), "exit status: 3"),
        (Some("kill -SEGV $$"), whole.as_str(), "signal"),
    ];
    for (number, (script, config, why)) in cases.into_iter().enumerate() {
        bed.gateway.write_config(config);
        bed.replace_program(script);
        let told = bed.upgrade();
        assert_eq!(told.code, 1, "{told:?}");
        assert_eq!(told.outcome["result"], "failed");
        assert!(told.text.contains(why), "{why} in {told:?}");
        assert_eq!(upgrades(&bed.gateway, "failed"), number as f64 + 1.0);
        bed.gateway.wait_log("upgrade failed, this process serves on", number + 1);
        let answer = kept.get("/a");
        assert_eq!((answer.status, answer.closes()), (200, false));
        assert_eq!(bed.gateway.get("/new").status, 200);
    }
    std::fs::remove_file(&bed.program).expect("removed");
    assert_eq!(bed.upgrade().code, 1, "no program at all");
    bed.replace_program(None);
    bed.upgrade_well();
    assert_eq!(bed.gateway.get("/new").status, 200);
    assert!(kept.get("/a").closes());
}

#[test]
fn one_upgrade_at_a_time() {
    let origin = origin();
    let bed = Upgraded::start(Plan::new(&yaml(&origin, 1)));
    // The new program waits until the test lets it go on.
    let gate = bed.gateway.dir.path().join("gate");
    let script = format!("while [ ! -e {} ]; do sleep 0.02; done; exec {BINARY} \"$@\"", gate.display());
    bed.replace_program(Some(&script));
    thread::scope(|scope| {
        let first = scope.spawn(|| bed.upgrade());
        bed.gateway.wait_log("upgrade begins", 1);
        let second = bed.upgrade();
        assert_eq!((second.code, &second.outcome["result"]), (3, &"refused".into()), "{second:?}");
        let by_signal = told("upgrade", &["--pid", &bed.gateway.pid().to_string()]);
        assert_eq!(by_signal.code, 3, "{by_signal:?}");
        let reload = told("reload", &["--admin", &bed.gateway.admin.to_string()]);
        assert_eq!(reload.code, 3, "{reload:?}");
        assert_eq!(bed.gateway.get("/a").status, 200);
        std::fs::write(&gate, "").expect("written");
        assert_eq!(first.join().expect("a thread").code, 0);
    });
    assert_eq!(bed.gateway.get("/a").status, 200);
    bed.upgrade_well();
    assert_eq!(bed.gateway.get("/a").status, 200);
}

#[test]
fn the_number_of_workers_may_change() {
    let origin = origin();
    let bed = Upgraded::start(Plan::new(&yaml(&origin, 3)));
    let load = Load::start(bed.gateway.address, 3, 4, 0);
    for workers in [2, 4, 1] {
        bed.gateway.write_config(&yaml(&origin, workers));
        bed.upgrade_well();
        let serving = bed.gateway.ask_admin("GET", "/workers").json();
        assert_eq!(serving.as_array().map(Vec::len), Some(workers));
        load.wait(60);
    }
    load.finish();
}

#[test]
fn every_driver_hands_over() {
    let origin = origin();
    for driver in ["epoll", "ring", "coop"] {
        let mut bed = Upgraded::start(Plan::new(&yaml(&origin, 2)).arguments(&["--driver", driver]));
        let load = Load::start(bed.gateway.address, 2, 2, 1);
        bed.upgrade_well();
        load.wait(40);
        assert_eq!(bed.gateway.exit_code(), 0, "{driver}");
        load.finish();
    }
}

#[test]
fn the_process_id_file_and_the_service_manager_follow() {
    let origin = origin();
    let dir = tempfile::tempdir().expect("a directory");
    let (notify, pid_file) = (dir.path().join("notify"), dir.path().join("ringway.pid"));
    let socket = std::os::unix::net::UnixDatagram::bind(&notify).expect("a socket");
    socket.set_read_timeout(Some(crate::support::PATIENCE)).expect("an option");
    let receive = || {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let plan = Plan::new(&yaml(&origin, 1)).env("NOTIFY_SOCKET", notify.display());
    let mut bed = Upgraded::start(plan.arguments(&["--pid-file", pid_file.to_str().expect("text")]));
    let in_file = || std::fs::read_to_string(&pid_file).unwrap_or_default().trim().parse::<u32>().unwrap_or(0);
    assert!(receive().starts_with("READY=1\n"));
    assert_eq!(in_file(), bed.gateway.pid());
    let told = told("upgrade", &["--pid-file", pid_file.to_str().expect("text")]);
    assert_eq!(told.code, 0, "{told:?}");
    let new = told.outcome["pid"].as_u64().expect("a process") as u32;
    assert!(receive().starts_with(&format!("MAINPID={new}\n")));
    assert!(receive().starts_with("READY=1\n"), "now from the new one");
    assert_eq!(bed.gateway.exit_code(), 0);
    eventually("the file has the new process", || (in_file() == new).then_some(()));
    let killed = Command::new("kill").args(["-s", "TERM", &new.to_string()]).status().expect("kill runs");
    assert!(killed.success());
    assert!(receive().starts_with("STOPPING=1\n"));
    eventually("the file is gone", || (!pid_file.exists()).then_some(()));
}

fn listener() -> (TcpListener, SocketAddr) {
    let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    (socket, address)
}

/// As systemd does it: the socket is there before the gateway, and after it.
#[test]
fn a_service_managers_socket_is_used_and_outlives_reload_upgrade_and_restart() {
    let origin = origin();
    let (socket, address) = listener();
    let (admin, admin_address) = listener();
    let yaml = format!(
        "listeners: [\"{address}\"]\nadmin: {{listen: \"{admin_address}\"}}\n{}",
        // One socket, two workers: both accept from it.
        yaml(&origin, 2)
    );
    // Who comes before the gateway waits for it.
    let mut early = Client::connect(address);
    early.send("GET /early HTTP/1.1\r\nHost: t\r\n\r\n");
    let keep = |socket: &TcpListener| socket.try_clone().expect("a descriptor");
    let mut bed = Upgraded::start(Plan::new(&yaml).socket(keep(&socket)).socket(keep(&admin)));
    assert_eq!(bed.gateway.address, address);
    assert_eq!(early.response().text(), "/early");
    assert_eq!(bed.gateway.ask_admin("GET", "/ready").status, 200);
    let load = Load::start(address, 2, 2, 0);
    assert_eq!(bed.gateway.reload(&format!("{yaml}# changed\n")).status, 200);
    load.wait(20);
    let new = bed.upgrade_well();
    load.wait(50);
    load.finish();
    drop(early);
    assert_eq!(bed.gateway.exit_code(), 0);
    // A stop closes nothing that the manager holds: who comes meanwhile is served by the next one.
    let killed = Command::new("kill").args(["-s", "TERM", &new.to_string()]).status().expect("kill runs");
    assert!(killed.success());
    bed.gateway.wait_log("stopped", 2);
    let mut between = Client::connect(address);
    between.send("GET /between HTTP/1.1\r\nHost: t\r\n\r\n");
    let again = Plan::new(&yaml).socket(keep(&socket)).socket(keep(&admin)).start();
    assert_eq!(between.response().text(), "/between");
    assert_eq!(again.get("/a").status, 200);
}

#[test]
fn promised_sockets_that_are_not_there_are_a_reason_not_to_start() {
    let exited = Plan::new("routes: [{path: /a, respond: 204}]\n")
        .env("RINGWAY_UPGRADE_FROM", std::process::id())
        .env("RINGWAY_UPGRADE_SOCKETS", "77=127.0.0.1:0")
        .env("RINGWAY_UPGRADE_LINK", "78")
        .start_in_vain();
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("78"), "{}", exited.stderr);
}

#[test]
fn eight_reloads_close_nothing() {
    let origin = origin();
    let gateway = Gateway::start(&yaml(&origin, 2));
    let load = Load::start(gateway.address, 4, 10, 5);
    for turn in 0..8 {
        gateway.write_config(&format!(
            "{}- {{path: /x{turn}, respond: 204}}\n",
            yaml(&origin, 2).replace(
                "routes: [{name: all, path: /*, service: up}]",
                "routes:\n- {name: all, path: /*, service: up}",
            )
        ));
        let whom = match turn % 2 {
            0 => ["--admin".to_owned(), gateway.admin.to_string()],
            _ => ["--pid".to_owned(), gateway.pid().to_string()],
        };
        let told = told("reload", &[&whom[0], &whom[1]]);
        assert_eq!(told.code, 0, "{told:?}");
        load.wait(40);
    }
    let counts = load.finish();
    assert_eq!(counts.announced.load(Ordering::Relaxed), 0, "{counts:?}");
    assert!(counts.slow.load(Ordering::Relaxed) >= 5, "{counts:?}");
    assert_eq!(gateway.metric("ringway_config_generation", &[]), 9.0);
}

#[test]
fn broken_files_are_refused_with_their_reason_and_the_old_one_serves() {
    let origin = origin();
    let good = yaml(&origin, 1);
    let gateway = Gateway::start(&good);
    let mut kept = gateway.connect();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let mut count = 0;
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let checked = Command::new(BINARY).arg("check").arg(&path).output().expect("it runs");
        if checked.status.success() {
            // It has warnings only.
            continue;
        }
        std::fs::copy(&path, gateway.config_path()).expect("copied");
        let told = told("reload", &["--admin", &gateway.admin.to_string()]);
        count += 1;
        assert_eq!(told.code, 2, "{}: {told:?}", path.display());
        assert!(told.text.contains("ringway.yaml"), "{}: {told:?}", path.display());
        assert_eq!(gateway.metric("ringway_config_last_reload_successful", &[]), 0.0, "{}", path.display());
        let answer = kept.get("/a");
        assert_eq!((answer.status, answer.closes()), (200, false), "{}", path.display());
    }
    assert!(count >= 11, "{count} broken files");
    assert_eq!(gateway.reload(&good).status, 200);
    assert_eq!(gateway.metric("ringway_config_last_reload_successful", &[]), 1.0);
}

#[test]
fn the_admin_listener_follows_a_reload() {
    let gateway = Gateway::start("routes: [{path: /a, respond: 204}]\n");
    let (socket, next) = listener();
    drop(socket);
    let yaml = |metrics: &str| {
        format!(
            "admin: {{listen: \"{next}\"}}\nmetrics: {{endpoint: {metrics}}}\nroutes: [{{path: /a, respond: 204}}]\n"
        )
    };
    assert_eq!(gateway.reload(&yaml("/numbers")).status, 200, "answered where it was asked");
    let ask = |path: &str| {
        let mut client = Client::connect(next);
        client.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"));
        client.response().status
    };
    assert_eq!((ask("/ready"), ask("/numbers"), ask("/metrics")), (200, 200, 404));
    eventually("the old one is closed", || std::net::TcpStream::connect(gateway.admin).is_err().then_some(()));
    // The same address with another path.
    gateway.write_config(&yaml("/metrics"));
    assert_eq!(told("reload", &["--admin", &next.to_string()]).code, 0);
    eventually("the new path is there", || (ask("/metrics") == 200).then_some(()));
    // An address that cannot be had leaves everything as it was.
    let (_taken, address) = listener();
    gateway.write_config(&yaml("/metrics").replace(&next.to_string(), &address.to_string()));
    let told = told("reload", &["--admin", &next.to_string()]);
    assert_eq!(told.code, 2, "{told:?}");
    assert!(told.text.contains(&address.to_string()), "{told:?}");
    assert_eq!(ask("/ready"), 200);
}

/// Probes are answered while a configuration is compiled (U27).
#[test]
fn a_reload_holds_no_probe_up() {
    let routes: String = (0..1_000).map(|n| format!("- {{path: \"/r{n}/{{id}}\", respond: 204}}\n")).collect();
    let big = format!("routes:\n{routes}");
    let gateway = Gateway::start(&big);
    thread::scope(|scope| {
        let reload = scope.spawn(|| {
            assert_eq!(gateway.reload(&format!("{big}- {{path: /more, respond: 204}}\n")).status, 200);
        });
        let mut answered = 0;
        while !reload.is_finished() {
            assert_eq!(gateway.ask_admin("GET", "/ready").status, 200);
            answered += 1;
        }
        reload.join().expect("a thread");
        // Probes that are held up until the reload is over would be two or three: one before it, one during, one after.
        assert!(answered > 5, "{answered} probes were answered during a reload");
    });
}

#[test]
fn what_a_reload_does_not_take_up_is_named() {
    let gateway = Gateway::start("server: {workers: 1}\nroutes: [{path: /a, respond: 204}]\n");
    let answer = gateway.reload("server: {workers: 2, drain_timeout: 7s}\nroutes: [{path: /a, respond: 204}]\n");
    assert_eq!(answer.json()["changes"]["needs_restart"], serde_json::json!(["server.workers"]));
}
