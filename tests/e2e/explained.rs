//! `ringway explain --admin`: the pick, and why each other endpoint is not picked, as a running gateway has them (U08).

use std::process::Command;

use serde_json::Value;

use crate::support::{Client, Gateway, Origin, eventually};

fn explain(gateway: &Gateway, path: &str) -> (String, Value) {
    let run = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.args(["explain", "GET", path, "-c"]).arg(gateway.config_path());
        let output = command.args(["--admin", &gateway.admin.to_string()]).args(more).output().expect("it runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    };
    (run(&[]), serde_json::from_str(&run(&["--json"])).expect("JSON"))
}

fn post(gateway: &Gateway, path: &str, body: &str) {
    let mut client = Client::connect(gateway.admin);
    let length = body.len();
    let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n");
    client.send(format!("{head}\r\n{body}"));
    assert_eq!(client.response().status, 200, "{path}");
}

/// The reason beside each address.
fn reasons(explained: &Value) -> Vec<(String, bool, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |endpoint: &Value| (text(&endpoint["authority"]), endpoint["picked"] == true, text(&endpoint["why"]));
    explained["services"][0]["endpoints"].as_array().expect("a list").iter().map(one).collect()
}

#[test]
fn each_endpoint_has_its_reason() {
    let origins: Vec<_> = (0..8).map(|_| Origin::fixed("up")).collect();
    let at = |number: usize| origins[number].address.to_string();
    let dead = "127.0.0.1:1";
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("list.yaml");
    std::fs::write(&list, format!("- {{address: \"{}\", zone: a, metadata: {{version: v1}}}}\n", at(0)))
        .expect("written");
    let written =
        |number: usize, more: &str| format!("{{address: \"{}\", metadata: {{version: v1}}{more}}}", at(number));
    let gateway = Gateway::start(&format!(
        "server: {{workers: 1, pin_workers: false, zone: a}}\n\
         services:\n- name: up\n  slow_start: 10m\n  panic: {{threshold: 0}}\n  circuit_breaker: {{failure_threshold: 1}}\n  \
         health_check: {{path: /, interval: 1s, initial: healthy}}\n  endpoints: [{}, {}, {}, {}, {}, {{address: \"{dead}\", \
         metadata: {{version: v1}}}}, \"{}\"]\n  discovery: [{{file: {}}}]\n\
         routes:\n- {{path: /*, service: up, endpoints: {{version: v1}}}}\n",
        written(1, ", zone: c"),
        written(2, ", zone: a"),
        written(3, ", zone: a"),
        written(4, ", zone: b"),
        written(5, ", zone: a, priority: 1"),
        at(6),
        list.display(),
    ));
    let endpoint = |number: usize| format!("/services/up/endpoints/{}", at(number));
    post(&gateway, &format!("{}/drain", endpoint(1)), "{\"why\": \"new disk\"}");
    post(&gateway, &format!("{}/weight", endpoint(2)), "{\"weight\": 0}");
    post(&gateway, &format!("{}/maintenance", endpoint(3)), "");
    post(&gateway, &format!("{}/enable", endpoint(3)), "");
    let (text, explained) = eventually("the checks have failed", || {
        let (text, explained) = explain(&gateway, "/x");
        text.contains("its checks fail").then_some((text, explained))
    });
    let reasons = reasons(&explained);
    let of = |address: &str| reasons.iter().find(|one| one.0 == address).expect("it is there").clone();
    assert!(of(&at(0)).1, "{text}");
    for (address, why) in [
        (at(1), "draining: an operator said so: new disk"),
        (at(2), "its weight is 0"),
        (at(4), "another zone"),
        (at(5), "a tier before its own is well"),
        (at(6), "the route asks for version=v1"),
    ] {
        assert_eq!(of(&address), (address.clone(), false, why.to_owned()), "{text}");
    }
    assert!(of(dead).2.starts_with("its checks fail: "), "{text}");
    let slow = of(&at(3)).2;
    assert!(slow.starts_with("it starts slowly, with 1"), "{slow} in {text}");
    assert!(text.contains(&format!("{}  weight 1, Host: localhost, from file {}", at(0), list.display())), "{text}");
    assert_eq!(explained["services"][0]["breaker"], "closed");
    assert!(text.contains("round_robin, as it runs"), "{text}");
}

#[test]
fn an_open_breaker_and_an_ejected_endpoint_are_told() {
    let silent = Origin::start(|_| vec![crate::support::Step::Close]);
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, circuit_breaker: {{failure_threshold: 3}}, endpoints: [\"{}\", \"127.0.0.1:1\"]}}]\n\
         routes: [{{path: /*, service: up}}]\n",
        silent.address
    ));
    eventually("the breaker opens", || (gateway.get("/").reason() == "circuit_open").then_some(()));
    let (text, explained) = explain(&gateway, "/");
    assert_eq!(
        (&explained["services"][0]["breaker"], &explained["answer"]["reason"]),
        (&"open".into(), &"circuit_open".into())
    );
    assert!(text.contains("(ejected: requests to it failed; "), "{text}");
}

#[test]
fn nobody_to_ask_is_an_error_with_a_sentence() {
    let gateway = Gateway::start("routes: [{path: /*, respond: 204}]\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    command.args(["explain", "GET", "/", "--admin", "127.0.0.1:1", "-c"]).arg(gateway.config_path());
    let output = command.output().expect("it runs");
    assert_eq!(output.status.code(), Some(2));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.starts_with("the admin API at 127.0.0.1:1 gives no answer: "), "{told}");
}
