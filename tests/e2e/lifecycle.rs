//! Start, stop, and what happens when the system runs short (F04, F08, F09).

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::sync::Mutex;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::support::gateway::Plan;
use crate::support::{Gateway, Origin, PATIENCE, Step, eventually, ok, proxy_to};

const HERE: &str = "routes: [{path: /a, respond: {body: here}}]\n";

/// An origin whose answers to `/slow` wait for the sender.
fn slow() -> (Origin, std::sync::mpsc::Sender<()>) {
    let (go, wait) = channel();
    let wait = Mutex::new(Some(wait));
    let origin = Origin::start(move |seen| match seen.path() {
        "/slow" => {
            let wait = wait.lock().expect("the gate").take().expect("one slow request");
            let Step::Send(answer) = ok("done").remove(0) else { unreachable!("a whole answer") };
            vec![Step::Await(wait), Step::Send(answer)]
        }
        _ => ok("fast"),
    });
    (origin, go)
}

fn refuses(gateway: &Gateway) {
    eventually("new connections are refused", || TcpStream::connect(gateway.address).is_err().then_some(()));
}

#[test]
fn a_stop_finishes_what_runs_and_takes_nothing_new() {
    for (signal, workers) in [("TERM", 1), ("QUIT", 2)] {
        let (origin, go) = slow();
        let yaml = format!("server: {{workers: {workers}, pin_workers: false}}\n{}", proxy_to(&origin));
        let mut gateway = Gateway::start(&yaml);
        assert_eq!(gateway.ask_admin("GET", "/ready").status, 200);
        let mut idle = gateway.connect();
        assert_eq!(idle.get("/").text(), "fast");
        let mut client = gateway.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
        eventually("the request is under way", || (origin.received().len() > 200).then_some(()));
        gateway.signal(signal);
        gateway.wait_log("stopping", 1);
        refuses(&gateway);
        let ready = gateway.ask_admin("GET", "/ready");
        assert_eq!((ready.status, &ready.json()["status"]), (503, &"draining".into()));
        assert!(idle.is_closed(), "idle connections end");
        assert!(gateway.is_running());
        go.send(()).expect("the origin waits");
        let response = client.response();
        assert_eq!((response.status, response.text().as_str()), (200, "done"));
        assert!(client.is_closed());
        assert_eq!(gateway.exit_code(), 0);
        assert_eq!(gateway.wait_log("stopped", 1)[0]["drained"], "true");
    }
}

#[test]
fn responses_during_a_drain_announce_the_close() {
    let (origin, go) = slow();
    let yaml = format!("server: {{workers: 1, drain_delay: 2s}}\n{}", proxy_to(&origin));
    let mut gateway = Gateway::start(&yaml);
    let mut slow_one = gateway.connect();
    slow_one.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
    eventually("the request is under way", || (!origin.received().is_empty()).then_some(()));
    let mut kept = gateway.connect();
    assert!(!kept.get("/").closes());
    gateway.signal("TERM");
    gateway.wait_log("stopping", 1);
    assert_eq!(gateway.ask_admin("GET", "/ready").status, 503);
    let told = kept.get("/");
    assert!(told.status == 200 && told.closes(), "kept connections are told during the delay");
    assert_eq!(gateway.get("/").text(), "fast", "listeners stay open for the delay");
    refuses(&gateway);
    go.send(()).expect("the origin waits");
    let answer = slow_one.response();
    assert!(answer.text() == "done" && answer.closes(), "a request that was under way is told too");
    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [("TERM", "TERM"), ("TERM", "INT"), ("INT", "")] {
        let (origin, _go) = slow();
        let mut gateway = Gateway::start(&proxy_to(&origin));
        let mut client = gateway.connect();
        client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
        eventually("the request is under way", || (!origin.received().is_empty()).then_some(()));
        gateway.signal(first);
        gateway.wait_log("stopping", 1);
        let begun = Instant::now();
        if !second.is_empty() {
            gateway.signal(second);
        }
        assert_eq!(gateway.exit_code(), 0, "{first} {second}");
        assert!(begun.elapsed() < PATIENCE, "{first} {second}: {:?}", begun.elapsed());
        assert!(client.try_response(false).is_none(), "no answer is made up");
    }
}

#[test]
fn a_drain_has_an_end() {
    let (origin, _go) = slow();
    let yaml = format!("server: {{workers: 1, drain_timeout: 200ms}}\n{}", proxy_to(&origin));
    let mut gateway = Gateway::start(&yaml);
    let mut client = gateway.connect();
    client.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
    eventually("the request is under way", || (!origin.received().is_empty()).then_some(()));
    let begun = Instant::now();
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), 0);
    assert!(begun.elapsed() >= Duration::from_millis(200) && begun.elapsed() < PATIENCE);
    assert_eq!(gateway.wait_log("stopped", 1)[0]["drained"], "false");
}

#[test]
fn a_port_in_use_is_a_reason_not_to_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    for yaml in [format!("listeners: [\"{address}\"]\n{HERE}"), format!("admin: {{listen: \"{address}\"}}\n{HERE}")] {
        let exited = Plan::new(&yaml).start_in_vain();
        assert_eq!(exited.code, Some(1), "{}", exited.stderr);
        assert!(exited.stderr.contains(&address.to_string()) && exited.stderr.contains("in use"), "{}", exited.stderr);
    }
}

#[test]
fn a_wrong_configuration_is_told_whole_and_not_served() {
    let exited = Plan::new(
        "services: [{name: up, endpoints: [\"127.0.0.1:70000\"]}]\n\
         routes:\n\
         - {path: /a, servce: up}\n\
         - {path: /b, service: uq}\n\
         - {path: /c, service: up, timeout: 30}\n",
    )
    .start_in_vain();
    assert_eq!(exited.code, Some(2), "{}", exited.stderr);
    for part in ["70000", "servce", "did you mean", "uq", "timeout", "ringway.yaml:6:14"] {
        assert!(exited.stderr.contains(part), "{part} in {}", exited.stderr);
    }
}

#[test]
fn short_of_descriptors_the_oldest_idle_connection_goes_and_a_request_never() {
    let (origin, go) = slow();
    // Room for eleven clients.
    let gateway = Plan::new(&proxy_to(&origin)).descriptors(80).start();
    assert_eq!(gateway.wait_log("limits", 1)[0]["client_connections_per_worker"], "11");
    let mut busy = gateway.connect();
    busy.send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
    eventually("the request is under way", || (!origin.received().is_empty()).then_some(()));
    let mut half = gateway.connect();
    half.send("GET / HTTP/1.1\r\nHo");
    let mut idle: Vec<_> = (0..9).map(|_| gateway.connect()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").text(), "fast");
    }
    let mut new: Vec<_> = (0..3).map(|_| gateway.connect()).collect();
    for (client, oldest) in new.iter_mut().zip(&mut idle) {
        assert_eq!(client.get("/").text(), "fast", "a new client is served");
        assert!(oldest.is_closed(), "the oldest idle one goes for it");
    }
    assert_eq!(idle[8].get("/").text(), "fast", "younger ones stay");
    half.send("st: t\r\n\r\n");
    assert_eq!(half.response().text(), "fast", "so do unfinished heads while there are idle ones");
    assert_eq!(gateway.ask_admin("GET", "/ready").status, 200);
    assert!(gateway.metric("ringway_worker_evicted_total", &["idle"]) >= 3.0);
    go.send(()).expect("the origin waits");
    assert_eq!(busy.response().text(), "done");
}

#[test]
fn too_few_descriptors_are_a_reason_not_to_start() {
    let exited = Plan::new(HERE).descriptors(40).start_in_vain();
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("limit of open descriptors is 40"), "{}", exited.stderr);
}

#[test]
fn systemd_is_told() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("an option");
    let receive = || {
        let mut bytes = [0; 4096];
        let count = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..count]).into_owned()
    };
    let mut gateway = Plan::new(HERE).env("NOTIFY_SOCKET", path.display()).start();
    assert!(receive().starts_with("READY=1\n"));
    for (more, generation) in [("server: {timeout: 9s}\n", 2), ("server: {timeout: 9s}\n", 2), ("", 3)] {
        assert_eq!(gateway.reload(&format!("{HERE}{more}")).status, 200);
        assert!(receive().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        let again = receive();
        assert!(again.starts_with(&format!("READY=1\nSTATUS=serving generation {generation}")), "{again}");
    }
    gateway.signal("TERM");
    assert!(receive().starts_with("STOPPING=1\n"));
    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn every_driver_serves() {
    let origin = Origin::start(|seen| ok(&seen.body));
    for (driver, is_ring) in [("epoll", false), ("ring", true), ("coop", true), ("defer", true)] {
        let gateway = Plan::new(&proxy_to(&origin)).arguments(&["--driver", driver]).start();
        let name = gateway.logs("ringway starts")[0]["driver"].to_string();
        let refused = !gateway.logs("driver refused by this kernel").is_empty();
        assert!(refused || name.contains("io_uring") == is_ring, "{driver}: {name}");
        let mut client = gateway.connect();
        let body = "x".repeat(200_000);
        for _ in 0..3 {
            client.send(format!("POST / HTTP/1.1\r\nHost: t\r\nContent-Length: {}\r\n\r\n{body}", body.len()));
            assert!(client.response().text() == body, "{driver}");
        }
        let mut half = gateway.connect();
        half.send("GET / HT");
        assert_eq!(gateway.get("/").status, 200, "{driver}");
        assert_eq!(gateway.reload(HERE).status, 200);
        assert_eq!(client.get("/a").text(), "here", "{driver}");
    }
}

#[test]
fn workers_can_be_set_from_outside() {
    let gateway = Plan::new(HERE).arguments(&["--workers", "3"]).start();
    let workers = gateway.ask_admin("GET", "/workers").json();
    assert_eq!(workers.as_array().map(Vec::len), Some(3));
    let mut seen = std::collections::HashSet::new();
    for _ in 0..64 {
        assert_eq!(gateway.get("/a").text(), "here");
    }
    for line in gateway.metrics().lines().filter(|line| line.starts_with("ringway_worker_requests_total")) {
        if !line.ends_with(" 0") {
            seen.insert(line.split("worker=").nth(1).map(|rest| rest[..3].to_owned()));
        }
    }
    assert_eq!(seen.len(), 3, "connections are spread over all workers: {seen:?}");
}

/// More half-open clients than descriptors: new ones are served at the cost of those that have waited longest (F08).
fn exhausted(driver: &str) {
    let origin = Origin::echo();
    let gateway = Plan::new(&proxy_to(&origin)).arguments(&["--driver", driver]).descriptors(80).start();
    assert_eq!(gateway.get("/before").status, 200);
    let mut clients: Vec<_> = (0..100)
        .map(|_| {
            let mut client = gateway.connect();
            client.try_send("GET / HTTP/1.1\r\nHost: t\r\n");
            client
        })
        .collect();
    eventually("the first are closed for the last", || {
        (gateway.metric("ringway_worker_evicted_total", &[]) >= 80.0).then_some(())
    });
    let cpu = gateway.cpu();
    std::thread::park_timeout(Duration::from_millis(600));
    let spent = gateway.cpu() - cpu;
    assert!(spent < Duration::from_millis(250), "{driver}: {spent:?} of CPU in 600 ms");
    assert_eq!(gateway.get("/during").text(), "GET /during", "{driver}");
    assert_eq!(gateway.ask_admin("GET", "/ready").status, 200);
    assert!(clients[0].is_closed(), "{driver}: the first to come is the first to go");
    drop(clients);
    assert_eq!(gateway.get("/after").text(), "GET /after", "{driver}");
}

#[test]
fn running_out_of_descriptors_neither_spins_nor_lasts() {
    exhausted("defer");
    exhausted("epoll");
}
