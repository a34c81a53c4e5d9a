//! What operators say of endpoints by the admin API: drained, in maintenance, another weight (U28, F76).

use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::support::gateway::{BINARY, Plan};
use crate::support::load::Load;
use crate::support::{Client, Gateway, Origin, Response, eventually, ok};
use crate::upgrade::Upgraded;

/// One request about an endpoint, with this body.
#[track_caller]
fn order(gateway: &Gateway, address: &str, word: &str, body: &str) -> Response {
    let mut client = Client::connect(gateway.admin);
    let length = body.len();
    client.send(format!(
        "POST /services/up/endpoints/{address}/{word} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    ));
    client.response()
}

#[track_caller]
fn done(gateway: &Gateway, address: &str, word: &str, body: &str) -> Value {
    let response = order(gateway, address, word, body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

/// How many of `count` requests each origin answers.
fn shares(gateway: &Gateway, count: usize, names: [&str; 2]) -> [usize; 2] {
    let mut client = gateway.connect();
    let mut shares = [0; 2];
    for number in 0..count {
        let response = client.get(&format!("/{number}"));
        assert_eq!(response.status, 200, "{}", response.text());
        let name = response.text();
        let at = names.iter().position(|known| *known == name).expect("one of the two");
        shares[at] += 1;
    }
    shares
}

fn pair() -> (Origin, Origin) {
    (Origin::fixed("one"), Origin::fixed("two"))
}

/// Two endpoints, without a slow start: what an order does is seen at once.
fn yaml(one: &Origin, two: &Origin, more: &str) -> String {
    format!(
        "services:\n- {{name: up, slow_start: 0s, endpoints: [\"{}\", \"{}\"]{more}}}\n\
         routes:\n- {{path: /*, service: up}}\n",
        one.address, two.address
    )
}

fn state(gateway: &Gateway, at: usize) -> Value {
    gateway.ask_admin("GET", "/services/up/endpoints").json()[at].clone()
}

#[test]
fn a_drained_endpoint_gets_nothing_new_and_comes_back() {
    let (one, two) = pair();
    let gateway = Gateway::start(&yaml(&one, &two, ""));
    assert_eq!(shares(&gateway, 10, ["one", "two"]), [5, 5]);
    let address = one.address.to_string();
    let told = done(&gateway, &address, "drain", "{\"why\": \"new disk\"}");
    assert_eq!((&told["changed"], &told["persisted"]), (&json!(true), &json!(false)), "{told}");
    assert_eq!((&told["endpoint"]["state"], &told["endpoint"]["address"]), (&json!("draining"), &json!(address)));
    assert_eq!(shares(&gateway, 10, ["one", "two"]), [0, 10]);
    let shown = state(&gateway, 0);
    assert_eq!(shown["why"], "an operator said so: new disk", "{shown}");
    assert_eq!((&shown["order"]["state"], &shown["source"]), (&json!("draining"), &json!("configuration")));
    assert_eq!(gateway.metric("ringway_service_endpoints", &["service=\"up\"", "state=\"draining\""]), 1.0);
    assert_eq!(done(&gateway, &address, "drain", "")["changed"], false, "it is already");
    assert_eq!(done(&gateway, &address, "maintenance", "")["endpoint"]["state"], "maintenance");
    assert_eq!(shares(&gateway, 10, ["one", "two"]), [0, 10]);
    assert_eq!(done(&gateway, &address, "enable", "")["endpoint"]["state"], "healthy");
    assert_eq!(shares(&gateway, 10, ["one", "two"]), [5, 5]);
    let events = gateway.ask_admin("GET", "/events").json();
    let words: Vec<_> = events.as_array().expect("a list").iter().filter_map(|event| event["what"].as_str()).collect();
    assert_eq!(words, ["draining", "maintenance", "enabled"], "{events}");
}

#[test]
fn weights_change_at_once_for_each_algorithm() {
    let (one, two) = pair();
    for (algorithm, key) in [("weighted_round_robin", ""), ("random", ""), ("consistent_hash", ", key: path")] {
        let more = format!(", load_balancer: {{algorithm: {algorithm}{key}}}");
        let gateway = Gateway::start(&yaml(&one, &two, &more));
        let (address, names) = (one.address.to_string(), ["one", "two"]);
        let told = done(&gateway, &address, "weight", "{\"weight\": 9}");
        assert_eq!((&told["endpoint"]["weight"], &told["endpoint"]["weight_configured"]), (&json!(9), &json!(1)));
        let [most, _] = shares(&gateway, 200, names);
        assert!((150..200).contains(&most), "{algorithm}: {most} of 200");
        done(&gateway, &address, "weight", "{\"weight\": 0}");
        assert_eq!(shares(&gateway, 50, names), [0, 50], "{algorithm}");
        assert_eq!(state(&gateway, 0)["why"], "an operator gave it no weight");
        // A reload that leaves the service as it is, and one that does not.
        for pool in ["", ", pool: {idle_max: 3}"] {
            let again = format!("{}- {{path: /more, respond: 204}}\n", yaml(&one, &two, &format!("{more}{pool}")));
            assert_eq!(gateway.reload(&again).status, 200);
            assert_eq!(shares(&gateway, 50, names), [0, 50], "{algorithm}{pool}");
        }
        assert_eq!(done(&gateway, &address, "weight", "{\"weight\": null}")["endpoint"]["weight"], 1);
        let [some, _] = shares(&gateway, 200, names);
        assert!((50..150).contains(&some), "{algorithm}: {some} of 200");
    }
}

#[test]
fn what_cannot_be_done_is_told_in_the_one_shape() {
    let (one, two) = pair();
    let gateway = Gateway::start(&yaml(&one, &two, ""));
    let address = one.address.to_string();
    for (place, word, body, status) in [
        ("127.0.0.1:1", "drain", "", 404),
        (&*address, "explode", "", 404),
        (&*address, "weight", "{}", 400),
        (&*address, "drain", "{\"what\": 1}", 400),
    ] {
        let response = order(&gateway, place, word, body);
        assert_eq!((response.status, response.json()["status"].as_u64()), (status, Some(u64::from(status))));
    }
    let mut client = Client::connect(gateway.admin);
    client.send(format!(
        "POST /services/up/endpoints/{address}/drain HTTP/1.1\r\nHost: localhost\r\nOrigin: https://evil.example\r\n\
         Content-Length: 0\r\nConnection: close\r\n\r\n"
    ));
    assert_eq!(client.response().status, 403, "no page of another site drains anything");
    assert_eq!(state(&gateway, 0)["state"], "healthy");
}

fn with_state(path: &Path, one: &Origin, two: &Origin) -> String {
    format!("admin: {{listen: \"127.0.0.1:0\", state_file: {}}}\n{}", path.display(), yaml(one, two, ""))
}

#[test]
fn the_state_file_outlives_the_process_and_a_bad_one_stops_nothing() {
    let ((one, two), dir) = (pair(), tempfile::tempdir().expect("a directory"));
    let (path, address, names) = (dir.path().join("state.json"), one.address.to_string(), ["one", "two"]);
    let config = with_state(&path, &one, &two);
    let gateway = Gateway::start(&config);
    assert_eq!(done(&gateway, &address, "drain", "{\"why\": \"rack 7\"}")["persisted"], true);
    done(&gateway, &two.address.to_string(), "weight", "{\"weight\": 5}");
    drop(gateway);
    let gateway = Gateway::start(&config);
    assert_eq!(shares(&gateway, 6, names), [0, 6]);
    assert_eq!(
        (&state(&gateway, 0)["why"], &state(&gateway, 1)["weight"]),
        (&json!("an operator said so: rack 7"), &json!(5))
    );
    done(&gateway, &address, "enable", "");
    drop(gateway);
    std::fs::write(&path, "{\"version\": 1, \"serv").expect("written");
    let gateway = Gateway::start(&config);
    assert_eq!(shares(&gateway, 6, names), [3, 3]);
    let warned = gateway.wait_log("admin.state_file cannot be used: all endpoints are as the configuration says", 1);
    assert_eq!(warned[0]["file"], path.display().to_string());
    assert_eq!(done(&gateway, &address, "maintenance", "")["persisted"], true);
    assert!(dir.path().join("state.json.bad").exists(), "what could not be read is put aside");
    drop(gateway);
    let gateway = Gateway::start(&config);
    assert_eq!(state(&gateway, 0)["state"], "maintenance");
    drop(gateway);
    let nowhere = with_state(&dir.path().join("no/where.json"), &one, &two);
    let gateway = Gateway::start(&nowhere);
    let told = done(&gateway, &address, "drain", "");
    assert_eq!((&told["persisted"], told["persist_error"].is_string()), (&json!(false), true), "{told}");
    assert_eq!(shares(&gateway, 6, names), [0, 6], "it holds all the same");
}

#[test]
fn an_order_survives_reloads_and_what_discovery_says() {
    let origin = Origin::everywhere(|_| ok("up"));
    let dir = tempfile::tempdir().expect("a directory");
    let (list, port) = (dir.path().join("list.yaml"), origin.address.port());
    let put = |ips: &[&str]| {
        let text: String = ips.iter().map(|ip| format!("- {ip}:{port}\n")).collect();
        let next = list.with_extension("next");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(&next, &list).expect("renamed");
    };
    put(&["127.0.0.1", "127.0.0.2"]);
    let config = format!(
        "services:\n- {{name: up, discovery: [{{file: {}}}]}}\nroutes:\n- {{path: /*, service: up}}\n",
        list.display()
    );
    let gateway = Gateway::start(&config);
    let address = format!("127.0.0.1:{port}");
    let shown = || gateway.ask_admin("GET", "/services/up/endpoints").json();
    let states = || {
        let one = |endpoint: &Value| format!("{} {}", endpoint["address"], endpoint["state"]).replace('"', "");
        shown().as_array().expect("a list").iter().map(one).collect::<Vec<_>>()
    };
    assert_eq!(shown()[0]["source"], format!("file {}", list.display()));
    let load = Load::start(gateway.address, 1, 2, 0);
    done(&gateway, &address, "drain", "{\"why\": \"old\"}");
    assert_eq!(states(), [format!("{address} draining"), format!("127.0.0.2:{port} healthy")]);
    put(&["127.0.0.2", "127.0.0.3"]);
    eventually("it has gone", || (!states().iter().any(|one| one.starts_with(&address))).then_some(()));
    let absent = gateway.ask_admin("GET", "/services").json()[0]["orders_for_absent"].clone();
    assert_eq!((&absent[0]["address"], &absent[0]["state"]), (&json!(address), &json!("draining")), "{absent}");
    assert_eq!(gateway.reload(&format!("{config}- {{path: /more, respond: 204}}\n")).status, 200);
    put(&["127.0.0.1", "127.0.0.3"]);
    eventually("it is back, and drained", || states().contains(&format!("{address} draining")).then_some(()));
    // Nobody has asked it meanwhile, not even once.
    assert_eq!(shown()[0]["opened"].as_u64(), Some(0), "{}", shown());
    assert_eq!(done(&gateway, &address, "enable", "")["endpoint"]["state"], "healthy");
    eventually("it is asked", || (shown()[0]["opened"].as_u64() > Some(0)).then_some(()));
    done(&gateway, &address, "maintenance", "");
    put(&["127.0.0.3"]);
    eventually("it has gone", || (!states().iter().any(|one| one.starts_with(&address))).then_some(()));
    assert_eq!(done(&gateway, &address, "enable", "")["endpoint"]["state"], "absent", "what is said can be taken back");
    assert_eq!(order(&gateway, &address, "drain", "").status, 404);
    put(&["127.0.0.1", "127.0.0.3"]);
    eventually("it is back", || states().contains(&format!("{address} healthy")).then_some(()));
    load.finish();
}

/// Without a state file, and over two upgrades: what is told while the new program starts holds too (F03, F76).
#[test]
fn orders_outlive_upgrades() {
    let (one, two) = pair();
    let bed = Upgraded::start(Plan::new(&yaml(&one, &two, "")));
    let (gateway, names) = (&bed.gateway, ["one", "two"]);
    let (first, second) = (one.address.to_string(), two.address.to_string());
    done(gateway, &first, "drain", "{\"why\": \"rack 7\"}");
    done(gateway, &second, "weight", "{\"weight\": 5}");
    let since = state(gateway, 0)["order"]["since_unix_ms"].clone();
    bed.upgrade_well();
    assert_eq!(shares(gateway, 6, names), [0, 6]);
    let drained = state(gateway, 0);
    assert_eq!((&drained["state"], &drained["why"]), (&json!("draining"), &json!("an operator said so: rack 7")));
    assert_eq!((&drained["order"]["since_unix_ms"], &state(gateway, 1)["weight"]), (&since, &json!(5)));
    // The new program waits until this test lets it go on.
    let gate = gateway.dir.path().join("gate");
    bed.replace_program(Some(&format!("while [ ! -e {} ]; do sleep 0.02; done; exec {BINARY} \"$@\"", gate.display())));
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| bed.upgrade_well());
        eventually("it starts", || (bed.successors().len() == 2).then_some(()));
        assert_eq!(done(gateway, &first, "enable", "")["endpoint"]["state"], "healthy");
        done(gateway, &second, "weight", "{\"weight\": null}");
        done(gateway, &second, "maintenance", "{\"why\": \"late\"}");
        std::fs::write(&gate, "").expect("written");
        upgrade.join().expect("upgraded");
    });
    assert_eq!(shares(gateway, 6, names), [6, 0]);
    assert_eq!((&state(gateway, 0)["order"], &state(gateway, 0)["state"]), (&Value::Null, &json!("healthy")));
    let late = state(gateway, 1);
    assert_eq!((&late["why"], &late["weight"]), (&json!("an operator said so: late"), &json!(1)), "{late}");
    done(gateway, &second, "enable", "");
    assert_eq!(shares(gateway, 6, names), [3, 3]);
}

/// A state file that an upgrade brings gets what the program before had in its memory alone.
#[test]
fn a_state_file_that_comes_with_an_upgrade_is_filled() {
    let ((one, two), dir) = (pair(), tempfile::tempdir().expect("a directory"));
    let (path, address) = (dir.path().join("state.json"), one.address.to_string());
    let bed = Upgraded::start(Plan::new(&yaml(&one, &two, "")));
    done(&bed.gateway, &address, "drain", "{\"why\": \"rack 7\"}");
    bed.gateway.write_config(&with_state(&path, &one, &two));
    bed.upgrade_well();
    eventually("it is written", || std::fs::read_to_string(&path).ok().filter(|text| text.contains("rack 7")));
    assert_eq!(done(&bed.gateway, &address, "enable", "")["persisted"], true);
    eventually("it is written", || std::fs::read_to_string(&path).ok().filter(|text| !text.contains("rack 7")));
}
