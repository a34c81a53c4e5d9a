//! A worker that dies, hangs or stands still (F05, F06, F18).

use std::io::Read;
use std::net::TcpStream;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use ringway::worker::placement::fair_share;

use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, Origin, PATIENCE, Step, eventually, ok};

const TWO: &str = "server: {workers: 2, pin_workers: false}\nroutes: [{path: /a, respond: {body: here}}]\n";

fn strike(gateway: &Gateway, fault: &str) -> Client {
    let mut client = gateway.connect();
    client.send(format!("GET /.fault/{fault} HTTP/1.1\r\nHost: test\r\n\r\n"));
    client
}

fn requests(gateway: &Gateway) -> f64 {
    gateway.metric("gateway_requests_total", &["/a"])
}

#[test]
fn faults_are_not_there_unless_they_are_allowed() {
    let gateway = Gateway::start(TWO);
    for fault in ["panic", "worker", "spin/10000"] {
        assert_eq!(strike(&gateway, fault).response().status, 404);
    }
}

#[test]
fn a_panic_costs_one_connection() {
    let gateway = Plan::new(TWO).faults().start();
    let mut bystanders: Vec<_> = (0..8).map(|_| gateway.connect()).collect();
    for _ in 0..5 {
        bystanders.iter_mut().for_each(|client| assert_eq!(client.get("/a").text(), "here"));
        assert!(strike(&gateway, "panic").is_closed(), "no answer is made up");
    }
    bystanders.iter_mut().for_each(|client| assert_eq!(client.get("/a").text(), "here"));
    assert_eq!(gateway.metric("ringway_worker_panics_total", &[]), 5.0);
    assert_eq!(gateway.metric("ringway_worker_restarts_total", &[]), 0.0);
    let line = &gateway.wait_log("panicked", 1)[0];
    assert_eq!(line["panic"], "a panic that was asked for");
    assert!(line["stack"].as_str().is_some_and(|stack| stack.contains("faults::strike")), "{line}");
    assert!(line["place"].as_str().is_some_and(|place| place.contains("faults.rs")), "{line}");
    drop(bystanders);
    eventually("every place is given back", || {
        (gateway.metric("ringway_worker_active_connections", &[]) == 0.0).then_some(())
    });
}

/// Connects and asks without a pause; counts those that were refused and those that were answered.
struct Knocking<'s> {
    answered: &'s AtomicU32,
    refused: &'s AtomicU32,
    stop: &'s AtomicBool,
}

impl Knocking<'_> {
    fn knock(&self, gateway: &Gateway) {
        while !self.stop.load(Ordering::Relaxed) {
            if TcpStream::connect(gateway.address).is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let mut client = gateway.connect();
            let asked = client.try_send("GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
            if asked && client.try_response(false).is_some() {
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Kills a worker; others are not touched, nobody is refused, and it is back within a second.
fn dies_and_comes_back(driver: &str) {
    let gateway = Plan::new(TWO).faults().arguments(&["--driver", driver]).start();
    let mut bystanders: Vec<_> = (0..6).map(|_| gateway.connect()).collect();
    bystanders.iter_mut().for_each(|client| assert_eq!(client.get("/a").text(), "here"));
    assert_eq!(gateway.by_worker("ringway_worker_active_connections", 2), [3.0, 3.0]);
    let (answered, refused, stop) = (AtomicU32::new(0), AtomicU32::new(0), AtomicBool::new(false));
    let before = thread::scope(|scope| {
        let knocking = Knocking { answered: &answered, refused: &refused, stop: &stop };
        let knocked = &gateway;
        scope.spawn(move || knocking.knock(knocked));
        eventually("others knock", || (answered.load(Ordering::Relaxed) > 3).then_some(()));
        let before = requests(&gateway);
        strike(&gateway, "worker");
        gateway.wait_log("worker started again", 1);
        let count = answered.load(Ordering::Relaxed);
        eventually("others go on", || (answered.load(Ordering::Relaxed) > count + 20).then_some(()));
        stop.store(true, Ordering::Relaxed);
        before
    });
    assert_eq!(refused.load(Ordering::Relaxed), 0, "{driver}");
    let line = &gateway.logs("worker died")[0];
    assert_eq!(line["panic"], "a worker's panic that was asked for", "{driver}");
    assert_eq!(line["left_behind"], "0", "{driver}");
    let survivors = bystanders.iter_mut().filter_map(|client| {
        client.try_send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n").then(|| client.try_response(false)).flatten()
    });
    assert_eq!(survivors.count(), 3, "{driver}: those of the other worker");
    assert!(requests(&gateway) >= before + 20.0, "{driver}: counters go on");
    assert_eq!(gateway.metric("ringway_worker_restarts_total", &[]), 1.0, "{driver}");
    let mut clients: Vec<_> = (0..10).map(|_| gateway.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(client.get("/a").text(), "here", "{driver}"));
    assert_eq!(gateway.by_worker("gateway_worker_up", 2), [1.0, 1.0], "{driver}");
    let share = fair_share(13, 2) as f64;
    eventually("the one that came back has its share", || {
        let spread = gateway.by_worker("ringway_worker_active_connections", 2);
        (spread[0] + spread[1] == 13.0 && spread.iter().all(|&count| count <= share)).then_some(())
    });
}

/// The scheduling policy of each thread, by its name (proc_pid_stat(5), field 41).
fn policies(gateway: &Gateway) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", gateway.pid())).expect("threads");
    let read = |task: &std::path::Path, what: &str| std::fs::read_to_string(task.join(what)).unwrap_or_default();
    let of = |task: std::path::PathBuf| {
        let stat = read(&task, "stat");
        let policy = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(38)).unwrap_or("gone");
        (read(&task, "comm").trim().to_owned(), policy.to_owned())
    };
    tasks.map(|task| of(task.expect("a thread").path())).collect()
}

/// The control thread takes no core from a worker in the middle of a request, not even behind a reload by a new one.
#[test]
fn only_workers_are_prompt() {
    let gateway = Plan::new(TWO).faults().start();
    let is_right = || {
        policies(&gateway).iter().all(|(name, policy)| match name.starts_with("worker") {
            true => policy == "0",
            false => policy == "3" || policy == "gone",
        })
    };
    eventually("the workers at the start", || is_right().then_some(()));
    strike(&gateway, "worker");
    eventually("a worker that was started by the control thread", || {
        (gateway.metric("ringway_worker_restarts_total", &[]) == 1.0).then_some(())
    });
    eventually("all of them", || is_right().then_some(()));
}

#[test]
fn a_worker_that_dies_is_back_within_a_second() {
    dies_and_comes_back("defer");
    dies_and_comes_back("epoll");
}

#[test]
fn counters_go_on_over_a_death() {
    let gateway = Plan::new(&TWO.replace("workers: 2", "workers: 1")).faults().start();
    let mut client = gateway.connect();
    (0..10).for_each(|_| assert_eq!(client.get("/a").text(), "here"));
    // Nothing was scraped before: what the worker tells at its end is all there is.
    strike(&gateway, "worker");
    gateway.wait_log("worker started again", 1);
    assert_eq!(requests(&gateway), 10.0);
    assert_eq!(gateway.get("/a").text(), "here");
    assert_eq!(requests(&gateway), 11.0);
    assert!(gateway.metric("ringway_worker_requests_total", &["HTTP/1.1"]) >= 11.0, "{}", gateway.metrics());
    assert!(gateway.metric("ringway_worker_connections_accepted_total", &[]) >= 3.0);
}

#[test]
fn one_that_dies_again_and_again_is_started_with_growing_pauses() {
    let gateway = Plan::new(&TWO.replace("workers: 2", "workers: 1")).faults().start();
    for time in 1..=4 {
        strike(&gateway, "worker");
        gateway.wait_log("worker started again", time);
    }
    let pauses: Vec<_> = gateway.logs("worker died").iter().map(|line| line["restart_ms"].to_string()).collect();
    assert_eq!(pauses, ["\"0\"", "\"100\"", "\"200\"", "\"400\""]);
    assert_eq!(gateway.get("/a").text(), "here");
}

#[test]
fn reloads_survive_deaths() {
    let gateway = Plan::new(TWO).faults().start();
    let config = |generation: usize| {
        format!(
            "server: {{workers: 2, pin_workers: false}}\nlisteners: [\"127.0.0.1:0\"]\n\
             routes: [{{path: /a, respond: {{body: \"{generation}\"}}}}]\n"
        )
    };
    let mut serves = String::from("here");
    for generation in 0..8 {
        thread::scope(|scope| {
            scope.spawn(|| strike(&gateway, "worker"));
            let outcome = gateway.reload(&config(generation));
            // A worker that dies while it prepares makes the reload fail, and then nothing changes anywhere.
            assert!(matches!(outcome.status, 200 | 400 | 422 | 503), "{} {}", outcome.status, outcome.text());
            if outcome.status == 200 {
                serves = generation.to_string();
            }
        });
        let deaths = generation + 1;
        gateway.wait_log("worker started again", deaths);
        for _ in 0..8 {
            assert_eq!(gateway.get("/a").text(), serves, "all workers serve the same one");
        }
        let generations = gateway.by_worker("ringway_worker_config_generation", 2);
        assert_eq!(generations[0], generations[1]);
        // The next death is not counted as one of a row that makes the pause grow too long for this test.
        if deaths >= 4 {
            break;
        }
    }
}

#[test]
fn a_loop_that_is_stuck_is_told_of_with_its_stack() {
    let gateway = Plan::new(TWO).faults().start();
    let mut struck = strike(&gateway, "spin/400");
    assert_eq!(struck.response().status, 404);
    let line = &gateway.wait_log("worker takes no turn", 1)[0];
    let stack = line["stack"].as_str().unwrap_or_default();
    assert!(stack.contains("faults::spin") || stack.contains("faults::strike"), "{line}");
    assert!(stack.contains("serve_request") || stack.contains("conn"), "{line}");
    gateway.wait_log("worker takes turns again", 1);
    assert!(gateway.logs("worker is stuck").is_empty());
    let mut struck = strike(&gateway, "spin/1400");
    assert_eq!(struck.response().status, 404);
    gateway.wait_log("worker is stuck", 1);
    assert_eq!(gateway.metric("ringway_worker_stalls_total", &[]), 1.0);
    assert_eq!(gateway.get("/a").text(), "here");
}

#[test]
fn a_loop_that_stays_stuck_ends_the_process() {
    const SIGABRT: i32 = 6;
    let mut gateway = Plan::new(TWO).faults().start();
    let begun = Instant::now();
    let _struck = strike(&gateway, "spin/60000");
    // The other worker serves meanwhile: two connections, of which the stuck one takes one at most.
    let mut clients: Vec<_> = (0..2).map(|_| gateway.connect()).collect();
    for client in &mut clients {
        client.send("GET /a HTTP/1.1\r\nHost: test\r\n\r\n");
        client.stream.set_nonblocking(true).expect("an option");
    }
    eventually("one of them is served", || {
        let mut is_served = |client: &mut Client| matches!(client.stream.read(&mut [0; 64]), Ok(1..));
        clients.iter_mut().any(&mut is_served).then_some(())
    });
    assert_eq!(gateway.exit_code(), -SIGABRT);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(4_900) && took < PATIENCE, "{took:?}");
    gateway.wait_log("worker is stuck for good, the process ends", 1);
}

#[test]
fn a_process_that_stood_still_is_not_ended_and_judges_fairly() {
    let (go, wait) = channel();
    let wait = Mutex::new(Some(wait));
    let origin = Origin::start(move |seen| match seen.path() {
        "/late" => {
            let wait = wait.lock().expect("the gate").take().expect("one late request");
            vec![Step::Await(wait), ok("late").remove(0)]
        }
        _ => ok("fast"),
    });
    let yaml = format!(
        "server: {{workers: 2, pin_workers: false}}\n\
         listeners: [{{address: \"127.0.0.1:0\", limits: {{idle_timeout: 4s}}}}]\n\
         services: [{{name: up, endpoints: [\"{}\"], timeouts: {{first_byte: 2s}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    );
    let mut gateway = Gateway::start(&yaml);
    let mut idle: Vec<_> = (0..6).map(|_| gateway.connect()).collect();
    idle.iter_mut().for_each(|client| assert_eq!(client.get("/").text(), "fast"));
    let mut asking = gateway.connect();
    asking.send("GET /late HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is under way", || String::from_utf8_lossy(&origin.received()).contains("/late").then_some(()));
    gateway.signal("STOP");
    go.send(()).expect("the origin waits");
    // Longer than the watchdog's patience, and than both deadlines.
    thread::park_timeout(Duration::from_millis(6_000));
    gateway.signal("CONT");
    assert_eq!(asking.response().text(), "late", "the answer was there in time");
    idle.iter_mut().for_each(|client| assert!(client.is_closed(), "idle connections expire"));
    assert!(gateway.is_running());
    assert_eq!(gateway.get("/").text(), "fast");
    assert!(gateway.logs("worker is stuck").is_empty(), "{}", gateway.stderr());
}
