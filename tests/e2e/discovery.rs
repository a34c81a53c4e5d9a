//! Endpoints that come and go while the gateway runs (F30-F32, R225-R230).

use std::path::Path;
use std::time::Duration;

use serde_json::Value;

use crate::support::dns::{Mode, NameServer, Record};
use crate::support::load::Load;
use crate::support::{Gateway, Origin, eventually, ok};

const NAME: &str = "users.test";

/// Names are asked for all the time, and given up after a short while.
fn quick(server: &NameServer) -> String {
    format!(
        "discovery: {{wait: 2s, dns: {{servers: [\"{}\"], timeout: 600ms, attempts: 1, error: 100ms, negative: 100ms, \
         ttl_min: 100ms}}}}\n",
        server.address
    )
}

fn one_route(server: &NameServer, service: &str) -> String {
    format!(
        "{}services:\n- {{name: up, {service}}}\nroutes:\n- {{path: /*, service: up}}\n\
         - {{path: /here, respond: {{body: here}}}}\n",
        quick(server)
    )
}

/// The first source of the first service.
fn source(gateway: &Gateway) -> Value {
    gateway.ask_admin("GET", "/services").json()[0]["sources"][0].clone()
}

fn wait_state(gateway: &Gateway, states: &[&str]) -> Value {
    eventually(&format!("the lookup is {states:?}"), || {
        let source = source(gateway);
        states.iter().any(|state| source["state"] == *state).then_some(source)
    })
}

/// The addresses of the endpoints of the first service.
fn wait_resolved(gateway: &Gateway, expected: &[&str]) {
    eventually(&format!("endpoints are {expected:?}"), || (gateway.resolved() == expected).then_some(()));
}

#[test]
fn a_name_that_is_not_there_stops_nothing_and_heals() {
    let (server, origin) = (NameServer::start(), Origin::fixed("up"));
    let port = origin.address.port();
    let gateway = Gateway::start(&one_route(&server, &format!("endpoints: [\"{NAME}:{port}\"]")));
    assert_eq!(gateway.get("/here").text(), "here");
    let refused = gateway.get("/");
    assert_eq!((refused.status, refused.reason()), (503, "no_endpoint".to_owned()));
    assert_eq!(source(&gateway)["state"], "failed");
    let ready = gateway.ask_admin("GET", "/ready");
    assert_eq!(ready.status, 200, "other routes serve");
    assert!(ready.text().contains("0 of 1 lookups are current; name users.test"), "{}", ready.text());
    server.set_addresses(NAME, 1, &["127.0.0.1"]);
    eventually("the name is found", || (gateway.get("/").status == 200).then_some(()));
    assert_eq!(wait_state(&gateway, &["current"])["endpoints"], 1);
    let endpoints = gateway.ask_admin("GET", "/services/up/endpoints").json();
    assert_eq!(endpoints[0]["address"], format!("{NAME}:{port}").as_str(), "one address goes by the name as written");
}

#[test]
fn lies_of_the_name_server_leave_the_last_good_addresses() {
    let (server, origin) = (NameServer::start(), Origin::everywhere(|_| ok("up")));
    server.set_addresses(NAME, 1, &["127.0.0.1", "127.0.0.2"]);
    let service = format!("endpoints: [\"{NAME}:{}\"]", origin.address.port());
    let gateway = Gateway::start(&one_route(&server, &service));
    let load = Load::start(gateway.address, 1, 2, 0);
    for lie in Mode::LIES {
        server.set_mode(lie);
        let asked = server.asked();
        match lie {
            Mode::Huge => {
                eventually("a bounded part of a huge answer", || (gateway.resolved().len() == 256).then_some(()));
            }
            _ => {
                let source = wait_state(&gateway, &["stale"]);
                assert_eq!(source["endpoints"], 2, "{lie:?}: {source}");
                assert_eq!(gateway.resolved().len(), 2, "{lie:?}");
            }
        }
        eventually("it is asked again", || (server.asked() > asked + 1).then_some(()));
        load.wait(5);
        server.set_mode(Mode::Truth);
        wait_state(&gateway, &["current"]);
    }
    wait_resolved(
        &gateway,
        &[&format!("127.0.0.1:{}", origin.address.port()), &format!("127.0.0.2:{}", origin.address.port())],
    );
    load.finish();
    assert!(gateway.metric("ringway_discovery_failures_total", &[]) >= 7.0);
}

#[test]
fn addresses_that_are_kept_for_too_long_are_given_up() {
    let (server, origin) = (NameServer::start(), Origin::fixed("up"));
    server.set_addresses(NAME, 1, &["127.0.0.1"]);
    let yaml = one_route(&server, &format!("endpoints: [\"{NAME}:{}\"]", origin.address.port()));
    let gateway = Gateway::start(&yaml.replace("error: 100ms", "stale: 1s, error: 100ms"));
    assert_eq!(gateway.get("/").status, 200);
    server.set_mode(Mode::Dead);
    wait_state(&gateway, &["failed"]);
    eventually("nobody is asked any more", || (gateway.get("/").status == 503).then_some(()));
    server.set_mode(Mode::Truth);
    eventually("and is again", || (gateway.get("/").status == 200).then_some(()));
}

#[test]
fn changed_addresses_are_used_and_no_request_is_lost() {
    let server = NameServer::start();
    let origin = Origin::everywhere(|seen| match seen.path() {
        "/slow" => {
            std::thread::park_timeout(Duration::from_millis(400));
            ok("slow")
        }
        _ => ok("up"),
    });
    let port = origin.address.port();
    server.set_addresses(NAME, 1, &["127.0.0.1"]);
    let gateway = Gateway::start(&one_route(&server, &format!("discovery: [{{dns: \"{NAME}:{port}\"}}]")));
    let load = Load::start(gateway.address, 2, 2, 1);
    for round in 0..4 {
        let now = if round % 2 == 0 { ["127.0.0.2", "127.0.0.3"] } else { ["127.0.0.3", "127.0.0.4"] };
        server.set_addresses(NAME, 1, &now);
        wait_resolved(&gateway, &now.map(|ip| format!("{ip}:{port}")).each_ref().map(String::as_str));
        load.wait(20);
    }
    let counts = load.finish();
    assert!(counts.slow.load(std::sync::atomic::Ordering::Relaxed) > 0);
    eventually("the old ones have no connections", || {
        let endpoints = gateway.ask_admin("GET", "/services/up/endpoints").json();
        let addresses = endpoints.as_array()?.iter().map(|one| one["address"].as_str().unwrap_or_default().to_owned());
        (addresses.collect::<Vec<_>>() == [format!("127.0.0.3:{port}"), format!("127.0.0.4:{port}")]).then_some(())
    });
    let events = gateway.ask_admin("GET", "/events").text();
    assert!(events.contains("1 endpoints became 2"), "{events}");
}

#[test]
fn srv_records_bring_ports_weights_and_tiers() {
    let (server, first, second) = (NameServer::start(), Origin::fixed("first"), Origin::fixed("second"));
    let srv = |priority, weight, port: u16, target: &str| Record::Srv(priority, weight, port, target.to_owned());
    server.set(
        "_http._tcp.users.test",
        1,
        vec![srv(20, 0, second.address.port(), "b.test"), srv(10, 7, first.address.port(), "a.test")],
    );
    server.set_addresses("a.test", 1, &["127.0.0.1"]);
    server.set_addresses("b.test", 1, &["127.0.0.1"]);
    let gateway = Gateway::start(&one_route(&server, "discovery: [{srv: _http._tcp.users.test, zone: z}]"));
    let expected = [(0, 7, first.address.to_string()), (1, 1, second.address.to_string())];
    assert_eq!(gateway.resolved_shares(), expected);
    assert_eq!(gateway.ask_admin("GET", "/services/up/endpoints").json()[0]["zone"], "z");
    assert_eq!(gateway.get("/").status, 200);
}

fn put(path: &Path, text: &str) {
    let next = path.with_extension("next");
    std::fs::write(&next, text).expect("written");
    std::fs::rename(&next, path).expect("renamed");
}

#[test]
fn a_file_is_followed_and_a_broken_one_changes_nothing() {
    let (server, one, two) = (NameServer::start(), Origin::fixed("one"), Origin::fixed("two"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("list.yaml");
    put(&path, &format!("- {}\n", one.address));
    let yaml = one_route(&server, &format!("discovery: [{{file: {}}}]", path.display()));
    let gateway = Gateway::start(&yaml);
    assert_eq!(gateway.get("/").text(), "one");
    put(&path, &format!("[{{\"address\": \"{}\"}}]", two.address));
    eventually("the new list is used", || (gateway.get("/").text() == "two").then_some(()));
    put(&path, "- nonsense\n");
    let source = wait_state(&gateway, &["stale"]);
    assert!(source["error"].as_str().is_some_and(|error| error.contains("nonsense")), "{source}");
    assert_eq!(gateway.get("/").text(), "two");
    assert_eq!(gateway.reload(&format!("{yaml}- {{path: /more, respond: {{body: more}}}}\n")).status, 200);
    assert_eq!((gateway.get("/").text(), gateway.get("/more").text()), ("two".into(), "more".into()));
    put(&path, "[]\n");
    eventually("an empty list is one", || (gateway.get("/").status == 503).then_some(()));
}

#[test]
fn a_reload_brings_names_and_takes_them_away() {
    let (server, origin) = (NameServer::start(), Origin::fixed("up"));
    let port = origin.address.port();
    server.set_addresses("a.test", 1, &["127.0.0.1"]);
    server.set_addresses("b.test", 1, &["127.0.0.1"]);
    let gateway = Gateway::start(&one_route(&server, &format!("endpoints: [\"a.test:{port}\"]")));
    assert_eq!(gateway.get("/").status, 200);
    gateway.reload(&one_route(&server, &format!("endpoints: [\"b.test:{port}\"]")));
    assert_eq!(gateway.get("/").status, 200, "the first request after a reload finds the new name");
    assert_eq!(source(&gateway)["lookup"], format!("b.test:{port}").as_str());
    // Another name server, which is dead: what is known stays.
    let dead = NameServer::start();
    dead.set_mode(Mode::Dead);
    gateway.reload(&one_route(&dead, &format!("endpoints: [\"b.test:{port}\"]")));
    assert_eq!(gateway.get("/").status, 200);
    wait_state(&gateway, &["stale"]);
    assert_eq!(gateway.get("/").status, 200);
}
