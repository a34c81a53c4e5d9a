//! Reloads while requests run: nothing is lost, nothing is forgotten, a wrong configuration changes nothing (A30, F01,
//! F02, R10).

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Instant;

use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, Origin, PATIENCE, Step, eventually, ok};

fn fixed(body: &str) -> String {
    format!("routes: [{{name: a, path: /a, respond: {{body: {body}}}}}]\n")
}

#[test]
fn a_reload_is_seen_by_the_next_request_on_the_same_connection() {
    let gateway = Gateway::start(&fixed("one"));
    let mut client = gateway.connect();
    assert_eq!(client.get("/a").text(), "one");
    let told = gateway.reload(&fixed("two"));
    assert_eq!(told.status, 200);
    assert_eq!((&told.json()["result"], &told.json()["generation"]), (&"applied".into(), &2.into()));
    assert_eq!(told.json()["changes"]["routes"]["changed"][0], "a");
    assert_eq!(client.get("/a").text(), "two");
    gateway.write_config(&fixed("three"));
    gateway.signal("HUP");
    gateway.wait_log("configuration applied", 2);
    assert_eq!(client.get("/a").text(), "three");
    assert_eq!(gateway.metric("ringway_config_generation", &[]), 3.0);
    assert_eq!(gateway.metric("ringway_config_reloads_total", &["applied"]), 3.0, "the start counts");
}

/// Nothing is made, and no worker is told, where the file says what serves already.
#[test]
fn a_file_that_is_as_it_was_is_left_alone() {
    let gateway = Gateway::start(&fixed("one"));
    let told = gateway.reload(&fixed("one"));
    assert_eq!(
        (told.status, &told.json()["result"], &told.json()["generation"]),
        (200, &"unchanged".into(), &1.into())
    );
    gateway.signal("HUP");
    gateway.wait_log("configuration unchanged", 2);
    assert_eq!(gateway.metric("ringway_config_reloads_total", &["applied"]), 3.0, "the start counts");
    assert_eq!(gateway.reload(&fixed("two")).json()["result"], "applied");
    assert_eq!(gateway.get("/a").text(), "two");
    assert_eq!(gateway.reload("routes: [{path: b}]\n").status, 422);
    let back = gateway.reload(&fixed("two"));
    assert_eq!(back.json()["result"], "unchanged", "what was refused never served");
    assert!(!gateway.ask_admin("GET", "/ready").text().contains("refused"));
}

/// The metrics name the configuration, the same one whatever was served before it; and whoever asks for them while one
/// is taken up gets them, with counters that only rise (R260).
#[test]
fn metrics_name_the_configuration_and_answer_while_it_changes() {
    let text = |turn: usize| {
        let more = |n: usize| if n == turn { ", timeouts: {connect: 1501ms}" } else { "" };
        let service = |n: usize| format!("- {{name: s{n}, endpoints: [\"127.0.0.1:9\"]{}}}\n", more(n));
        let route = |n: usize| format!("- {{prefix: /s{n}/, service: s{n}}}\n");
        let (services, routes): (String, String) = ((0..300).map(service).collect(), (0..300).map(route).collect());
        format!("services:\n{services}routes:\n{routes}")
    };
    let gateway = Gateway::start(&text(0));
    let hash = || {
        let page = gateway.metrics();
        let line = page.lines().find(|line| line.starts_with("ringway_config_info{")).expect("it is there");
        line.to_owned()
    };
    let (first, ended) = (hash(), AtomicBool::new(false));
    thread::scope(|scope| {
        let scrape = || {
            let (mut generation, mut pages) = (0.0, 0);
            while !ended.load(Ordering::Relaxed) {
                let next = gateway.metric("ringway_config_generation", &[]);
                assert!(next >= generation, "{next} after {generation}");
                (generation, pages) = (next, pages + 1);
            }
            pages
        };
        let scrapers = [scope.spawn(scrape), scope.spawn(scrape)];
        let mut seen = vec![first.clone()];
        for turn in 1..=5 {
            assert_eq!(gateway.reload(&text(turn)).json()["result"], "applied");
            let next = hash();
            assert!(!seen.contains(&next), "{next}");
            seen.push(next);
        }
        assert_eq!(gateway.reload(&text(0)).json()["result"], "applied");
        assert_eq!(hash(), first, "it says the same again");
        ended.store(true, Ordering::Relaxed);
        scrapers.into_iter().for_each(|scraper| assert!(scraper.join().expect("it does not fail") > 0));
    });
}

/// What another file says may be another thing each time.
#[test]
fn a_file_that_names_a_secret_file_is_read_each_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("key");
    std::fs::write(&secret, "0123456789abcdef0123456789abcdef").expect("written");
    let text = format!(
        "services:\n- name: up\n  endpoints: [\"127.0.0.1:9\"]\n  sticky: {{secret: \"file:{}\"}}\n\
         routes:\n- path: /a\n  \
         service: up\n",
        secret.display()
    );
    let gateway = Gateway::start(&text);
    assert_eq!(gateway.reload(&text).json()["result"], "applied");
    std::fs::remove_file(&secret).expect("removed");
    assert_eq!(gateway.reload(&text).status, 422);
}

#[test]
fn what_has_not_changed_is_told_from_what_has_and_findings_have_their_place_in_the_new_file() {
    let route = |n: usize, more: &str| format!("- {{name: r{n}, prefix: /r{n}, service: s{n}{more}}}\n");
    let routes = |changed: usize| {
        let all = (0..20).map(|n| route(n, if n == changed { ", priority: 1" } else { "" }));
        format!("routes:\n{}", all.collect::<String>())
    };
    let services = |but: usize| {
        let all =
            (0..20).filter(|n| *n != but).map(|n| format!("- {{name: s{n}, endpoints: [\"127.0.0.1:{}\"]}}\n", 9 + n));
        format!("services:\n{}", all.collect::<String>())
    };
    let gateway = Gateway::start(&(services(99) + &routes(99)));
    let told = gateway.reload(&(services(99) + &routes(7))).json();
    assert_eq!(
        told["changes"]["routes"],
        serde_json::json!({ "added": [], "removed": [], "changed": ["r7"] }),
        "{told}"
    );
    assert_eq!(told["changes"]["services"]["changed"], serde_json::json!([]), "{told}");
    // The route that is wrong now is written as before, and stands elsewhere.
    let text = format!("# one\n# two\n# three\n{}{}", routes(7), services(5));
    let refused = gateway.reload(&text);
    assert_eq!(refused.status, 422, "{}", refused.text());
    let whole = std::fs::read_to_string(gateway.config_path()).expect("the file");
    let line = 1 + whole.lines().position(|line| line.contains("name: r5,")).expect("the route");
    assert!(refused.text().contains(&format!("\"line\":{line}")), "line {line}: {}", refused.text());
    assert_eq!(gateway.reload(&(services(99) + &routes(7))).json()["result"], "unchanged");
    assert!(gateway.ask_admin("GET", "/config").text().contains("\"r19\""));
}

#[test]
fn a_watched_file_is_loaded_when_it_changes() {
    let watched = |body: &str| format!("reload: {{watch: true}}\n{}", fixed(body));
    let gateway = Gateway::start(&watched("one"));
    let mut client = gateway.connect();
    assert_eq!(client.get("/a").text(), "one");
    gateway.write_config(&watched("two"));
    eventually("the change is served", || (client.get("/a").text() == "two").then_some(()));
}

#[test]
fn a_wrong_configuration_changes_nothing_and_says_why() {
    let gateway = Gateway::start(&fixed("one"));
    let mut client = gateway.connect();
    let refused = gateway.reload("routes: [{name: a, path: /a, servce: nowhere}, {path: b}]\n");
    assert_eq!((refused.status, &refused.json()["result"]), (422, &"rejected".into()));
    let reason = refused.text();
    for part in ["servce", "service", "line", "E0102"] {
        assert!(reason.contains(part), "{part} in {reason}");
    }
    assert_eq!(client.get("/a").text(), "one");
    assert!(gateway.ask_admin("GET", "/config").text().contains("servce"));
    let ready = gateway.ask_admin("GET", "/ready");
    assert_eq!(ready.status, 200, "it serves");
    assert!(ready.text().contains("refused"), "{}", ready.text());
    assert_eq!(gateway.metric("ringway_config_last_reload_successful", &[]), 0.0);
    gateway.signal("HUP");
    gateway.wait_log("configuration refused, the old one serves on", 2);
    assert_eq!(client.get("/a").text(), "one");
    assert_eq!(gateway.reload(&fixed("two")).status, 200);
    assert!(!gateway.ask_admin("GET", "/config").text().contains("servce"));
    assert_eq!(gateway.metric("ringway_config_last_reload_successful", &[]), 1.0);
    assert_eq!(client.get("/a").text(), "two");
}

/// A worker makes thousands of routes and services ready in slices; counters and pools go on over them.
#[test]
fn a_large_configuration_is_made_ready_in_slices() {
    let origin = Origin::start(|seen| ok(seen.path()));
    let yaml = |count: usize| {
        let services = (0..count).map(|n| format!("- {{name: s{n}, endpoints: [\"{}\"]}}\n", origin.address));
        let routes = (0..2 * count).map(|n| format!("- {{name: r{n}, path: /r{n}, service: s{}}}\n", n % count));
        format!(
            "server: {{workers: 1}}\nservices:\n{}routes:\n{}",
            services.collect::<String>(),
            routes.collect::<String>()
        )
    };
    // Less than a slice, then several, then less again.
    let gateway = Gateway::start(&yaml(50));
    let mut client = gateway.connect();
    assert_eq!(client.get("/r99").text(), "/r99");
    for count in [120, 121, 50] {
        let told = gateway.reload(&yaml(count));
        assert_eq!(told.status, 200, "{count}: {}", told.text());
        for route in [0, 99, 2 * count - 1] {
            assert_eq!(client.get(&format!("/r{route}")).text(), format!("/r{route}"), "{count}");
        }
    }
    let counted = gateway.metric("gateway_requests_total", &["path=\"/r99\""]);
    assert_eq!(counted, 5.0, "one before, and one for each reload; the last one asks for it twice");
}

#[test]
fn a_port_in_use_refuses_the_reload() {
    let gateway = Gateway::start(&fixed("one"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let refused = gateway.reload(&format!("listeners: [\"127.0.0.1:0\", \"{address}\"]\n{}", fixed("two")));
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains(&address.to_string()), "{}", refused.text());
    assert_eq!(gateway.get("/a").text(), "one");
}

#[test]
fn listeners_come_and_go() {
    let spare = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("an address");
    let gateway = Gateway::start(&fixed("one"));
    let two = format!("listeners: [\"127.0.0.1:0\", \"{spare}\"]\n{}", fixed("two"));
    assert_eq!(gateway.reload(&two).status, 200);
    let mut over_new = Client::connect(spare);
    assert_eq!(over_new.get("/a").text(), "two");
    assert_eq!(gateway.get("/a").text(), "two");
    assert_eq!(gateway.reload(&fixed("three")).status, 200);
    eventually("the removed listener refuses", || std::net::TcpStream::connect(spare).is_err().then_some(()));
    assert_eq!(gateway.get("/a").text(), "three");
    let last = over_new.get("/a");
    assert_eq!(
        (last.text(), last.header("connection")),
        ("three".to_owned(), Some("close")),
        "who has a connection is served"
    );
    assert_eq!(gateway.reload(&two).status, 200, "the port is free again");
    assert_eq!(Client::connect(spare).get("/a").text(), "two");
}

#[test]
fn limits_are_not_reset() {
    let limited = |body: &str| {
        format!(
            "policies: [{{rate_limit: {{rate: 5/h}}}}]\nroutes: [{{name: a, path: /a, respond: {{body: {body}}}}}]\n"
        )
    };
    let gateway = Gateway::start(&limited("one"));
    let mut client = gateway.connect();
    for _ in 0..3 {
        assert_eq!(client.get("/a").status, 200);
    }
    assert_eq!(gateway.reload(&limited("two")).status, 200);
    let statuses: Vec<_> = (0..4).map(|_| client.get("/a").status).collect();
    assert_eq!(statuses, [200, 200, 429, 429]);
}

#[test]
fn pools_and_counters_go_on() {
    let origin = Origin::echo();
    let yaml = |extra: &str| {
        format!(
            "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: a, path: /*, service: up}}{extra}]\n",
            origin.address
        )
    };
    let gateway = Gateway::start(&yaml(""));
    let mut client = gateway.connect();
    for turn in 0..5 {
        assert_eq!(client.get("/").status, 200);
        assert_eq!(gateway.reload(&yaml(&format!(", {{path: /x{turn}, respond: 200}}"))).status, 200);
    }
    assert_eq!(origin.connections(), 1);
    assert_eq!(gateway.metric("gateway_requests_total", &["\"200\""]), 5.0);
}

/// An origin that streams: a head and a first chunk, then nothing until the gate opens, then the end.
fn streaming(gates: usize) -> (Origin, Vec<Sender<()>>) {
    let (senders, receivers): (Vec<_>, Vec<Receiver<()>>) = (0..gates).map(|_| channel()).unzip();
    let receivers = Mutex::new(receivers);
    let origin = Origin::start(move |seen| match seen.path() {
        "/stream" => {
            let gate = receivers.lock().expect("gates").pop().expect("a gate is left");
            vec![
                Step::Send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegin\r\n".to_vec()),
                Step::Await(gate),
                Step::Send(b"3\r\nend\r\n0\r\n\r\n".to_vec()),
            ]
        }
        path => ok(path),
    });
    (origin, senders)
}

#[test]
fn a_request_under_way_finishes_on_what_it_began_with() {
    let (origin, gates) = streaming(1);
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{path: /stream, service: up, policies: [{{headers: {{response: {{set: {{X-Version: old}}}}}}}}]}}]\n",
        origin.address
    ));
    let mut client = gateway.connect();
    client.send("GET /stream HTTP/1.1\r\nHost: t\r\n\r\n");
    client.peek(10);
    // The service is gone altogether.
    assert_eq!(gateway.reload(&fixed("new")).status, 200);
    gates[0].send(()).expect("the origin waits");
    let response = client.response();
    assert_eq!((response.text().as_str(), response.header("x-version")), ("beginend", Some("old")));
    assert_eq!(client.get("/stream").status, 404);
    assert_eq!(client.get("/a").text(), "new");
}

fn ask_until(stop: &AtomicBool, asked: &AtomicUsize, gateway: &Gateway, anew: bool) {
    let mut kept = gateway.connect();
    while !stop.load(Ordering::Relaxed) {
        if anew {
            kept = gateway.connect();
        }
        let response = kept.get("/any");
        assert_eq!((response.status, response.text().as_str()), (200, "/any"));
        assert!(!response.closes(), "a swap closes nothing");
        asked.fetch_add(1, Ordering::Relaxed);
    }
}

/// Swaps configurations again and again while clients ask and responses stream (acceptance 4).
#[test]
fn swaps_under_load_lose_nothing() {
    const STREAMS: usize = 5;
    let long = std::env::var_os("RINGWAY_LONG").is_some();
    let (swaps, warm) = if long { (1000, 200) } else { (200, 50) };
    let (origin, gates) = streaming(STREAMS);
    let yaml = |turn: usize| {
        let extra: String = (0..turn % 7).map(|n| format!("- {{path: /x{n}, respond: {turn}}}\n")).collect();
        let extra = extra.replace(&format!("respond: {turn}"), "respond: 204");
        format!(
            "server: {{workers: 2, timeout: 1h}}\n\
             services: [{{name: up, endpoints: [\"{}\"], timeouts: {{between_bytes: 1h}}}}]\n\
             listeners: [{{address: \"127.0.0.1:0\", limits: {{requests_max: 1000000000}}}}]\n\
             policies: [{{rate_limit: {{rate: 100000000/h}}}}]\n\
             routes:\n- {{path: /*, service: up}}\n- {{path: /version, respond: {{body: v{turn}}}}}\n{extra}",
            origin.address
        )
    };
    let gateway = Plan::new(&yaml(0)).start();
    let mut streams: Vec<_> = (0..STREAMS).map(|_| gateway.connect()).collect();
    for client in &mut streams {
        client.send("GET /stream HTTP/1.1\r\nHost: t\r\n\r\n");
        client.peek(10);
    }
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (mut warm_kib, mut done, begun) = (0, 0, Instant::now());
    // Where the machine has other work, the thread that gives way gets little of it: some swaps are enough there.
    let is_slow = |turn: usize| !long && turn > 20 && begun.elapsed() > PATIENCE / 3;
    thread::scope(|scope| {
        for number in 0..4 {
            let (stop, asked, gateway) = (&stop, &asked, &gateway);
            // Two clients keep their connection, two come anew.
            scope.spawn(move || ask_until(stop, asked, gateway, number % 2 == 1));
        }
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for turn in 1..=swaps {
                if is_slow(turn) {
                    break;
                }
                assert_eq!(gateway.reload(&yaml(turn)).status, 200, "swap {turn}");
                done = turn;
                if turn == warm {
                    warm_kib = gateway.rss_kib();
                }
            }
        }));
        stop.store(true, Ordering::Relaxed);
        outcome.expect("every swap is applied");
    });
    let swaps = done;
    assert_eq!(gateway.get("/version").text(), format!("v{swaps}"));
    assert!(asked.load(Ordering::Relaxed) > swaps / 2, "{asked:?} requests under {swaps} swaps");
    for gate in gates {
        gate.send(()).expect("the origin waits");
    }
    for mut client in streams {
        let response = client.response();
        assert!(response.complete && response.text() == "beginend", "{response:?}");
        assert_eq!(client.get("/version").text(), format!("v{swaps}"));
    }
    assert_eq!(gateway.metric("gateway_errors_total", &[]), 0.0);
    let end_kib = gateway.rss_kib();
    assert!(!long || end_kib * 10 <= warm_kib * 11, "resident memory grew from {warm_kib} to {end_kib} KiB");
}

/// Wherever a reload finds that descriptors are short, the access log stays what it was. The limit of a running gateway
/// is set by `prlimit`, to one more each time, until a reload succeeds.
#[test]
fn a_reload_that_fails_anywhere_leaves_the_access_log_alone() {
    let yaml = |log: &str, more: &str| {
        format!(
            "logging: {{access_log: {{format: json, path: {log}}}}}\nadmin: {{listen: \"127.0.0.1:0\"}}\n\
             listeners: [\"127.0.0.1:0\"{more}]\nroutes: [{{name: all, path: /*, respond: {{body: ok}}}}]\n"
        )
    };
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let gateway = Gateway::start(&yaml(&file("old"), ""));
    let limit = |most: Option<usize>| {
        let most = most.map_or("4096".to_owned(), |most| most.to_string());
        let pid = gateway.pid().to_string();
        let done = std::process::Command::new("prlimit").args(["--pid", &pid, &format!("--nofile={most}:")]).status();
        assert!(done.is_ok_and(|status| status.success()), "prlimit of util-linux");
    };
    let lines = |name: &str| std::fs::read_to_string(file(name)).unwrap_or_default().lines().count();
    assert_eq!(gateway.get("/").status, 200);
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).expect("descriptors").count();
    let (mut refused, mut asked) = (0, 1);
    for spare in 1.. {
        gateway.write_config(&yaml(&file("new"), ", \"127.0.0.2:0\", \"127.0.0.3:0\""));
        limit(Some(open + spare));
        gateway.signal("HUP");
        let said = |message: &str| gateway.logs(message).len();
        let outcome = eventually("the reload has an end", || {
            let (applied, told) = (said("configuration applied"), said("configuration refused, the old one serves on"));
            (applied > 0 || told > refused).then_some(applied > 0)
        });
        limit(None);
        let before = lines("new");
        assert_eq!(gateway.get("/").status, 200);
        asked += 1;
        if outcome {
            eventually("the new log has the line", || (lines("new") > before).then_some(()));
            break;
        }
        refused += 1;
        eventually("the old log has the line", || (lines("old") == asked).then_some(()));
        assert_eq!(lines("new"), 0, "{refused} refusals");
        assert!(spare < 60, "no reload succeeds");
    }
    assert!(refused > 2, "{refused} refusals show little");
}
