//! Certificates that the gateway orders by itself, against Pebble, a real authority (RFC 8555, RFC 8737).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::support::Gateway;
use crate::support::gateway::Plan;
use crate::support::pebble::{Pebble, Setup, in_time, program};
use crate::support::tls::{ask, believes, connect, get, has, s_client};

const RESPOND: &str = "routes: [{name: all, path: /*, respond: {body: hello}}]\n";
const LIFE_S: u64 = 90 * 86_400;

/// Two listeners: the first at 127.0.0.1, where Pebble looks.
fn listening(first: &str, second: &str) -> String {
    format!(
        "server: {{workers: 2}}\nlisteners: [{{address: \"127.0.0.1:0\"{first}}}, {{address: \"127.0.0.2:0\"{second}}}]\n\
         {RESPOND}"
    )
}

fn pebble(program: &Path, gateway: &Gateway, life_s: u64) -> (Pebble, Setup) {
    let port = gateway.address.port();
    let setup = Setup { http: port, tls: port, life_s, binding: None };
    (Pebble::start(program, &setup), setup)
}

/// `tls: {acme: …}` with these keys.
fn acme(pebble: &Pebble, storage: &Path, more: &str) -> String {
    format!(", tls: {{acme: {{{}, storage: {}, {more}}}}}", pebble.yaml(), storage.display())
}

fn ordered(gateway: &Gateway, name: &str) -> Value {
    let page: Value = serde_json::from_str(&gateway.ask_admin("GET", "/certificates").text()).expect("JSON");
    let all = page["ordered"].as_array().expect("a list").clone();
    all.into_iter().find(|one| one["name"] == name).unwrap_or(Value::Null)
}

fn fingerprint(gateway: &Gateway, name: &str) -> Option<String> {
    ordered(gateway, name)["certificate"]["fingerprint"].as_str().map(str::to_owned)
}

/// The account's folder, whatever it is called.
fn home(storage: &Path) -> PathBuf {
    let mut all = std::fs::read_dir(storage).expect("a storage");
    all.next().expect("an authority").expect("an entry").path()
}

/// Issue, serve, start again: the same certificate, and no other order.
#[track_caller]
fn issues(pebble: &Pebble, gateway: Gateway, at: usize, yaml: &str, storage: &Path) {
    let loaded = gateway.reload(yaml);
    assert_eq!(loaded.status, 200, "{}", loaded.text());
    let root = pebble.root();
    let config = Arc::new(believes(&root, None));
    let address = gateway.addresses[at];
    let response = in_time("the certificate", || ask(address, &config, "site.test", "site.test").ok());
    assert!(response.0.ends_with("hello"), "{}", response.0);
    assert_eq!(pebble.orders(), 1);
    assert_eq!(gateway.metric("ringway_acme_orders_total", &[]), 1.0);
    assert_eq!(gateway.metric("ringway_acme_names_without_certificate", &[]), 0.0);
    assert!(gateway.metric("ringway_tls_certificate_days_left", &["site.test/pair.pem"]) > 80.0);
    assert_eq!(ordered(&gateway, "site.test")["state"], "valid");
    if has("curl") {
        let file = storage.join("root.pem");
        std::fs::write(&file, &root).expect("written");
        let out = std::process::Command::new("curl")
            .args(["-sS", "--max-time", "20", "--cacert"])
            .arg(&file)
            .args(["--resolve", &format!("site.test:{}:{}", address.port(), address.ip())])
            .arg(format!("https://site.test:{}/", address.port()))
            .output()
            .expect("curl");
        assert_eq!(String::from_utf8_lossy(&out.stdout), "hello", "{}", String::from_utf8_lossy(&out.stderr));
        std::fs::remove_file(&file).expect("removed");
    }
    let before = fingerprint(&gateway, "site.test").expect("a certificate");
    drop(gateway);
    let again = Gateway::start(yaml);
    let response = ask(again.addresses[at], &config, "site.test", "site.test").expect("serves at once");
    assert!(response.0.ends_with("hello"));
    assert_eq!(fingerprint(&again, "site.test"), Some(before));
    assert_eq!((pebble.orders(), again.metric("ringway_acme_orders_total", &[])), (1, 0.0));
    let key = home(storage).join("site.test/pair.pem");
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(key).expect("kept").permissions());
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_certificate_is_got_by_a_request_before_the_redirect_and_for_a_customer() {
    let Some(program) = program() else { return };
    let storage = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&listening("", ""));
    let port = gateway.address.port();
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let setup = Setup { http: port, tls: 1, life_s: LIFE_S, binding: Some(("customer", key)) };
    let pebble = Pebble::start(&program, &setup);
    pebble.names.set_addresses("site.test", 60, &["127.0.0.1"]);
    let more = format!(
        "challenge: http-01, domains: [site.test], email: me@site.test, \
         external_account: {{key_id: customer, hmac_key: \"{key}\"}}"
    );
    let yaml = listening(", https_redirect: 443", &acme(&pebble, storage.path(), &more));
    issues(&pebble, gateway, 1, &yaml, storage.path());
}

#[test]
fn a_certificate_is_got_by_a_handshake_for_the_hosts_of_routes() {
    let Some(program) = program() else { return };
    let storage = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&listening("", ""));
    let port = gateway.address.port();
    let pebble = Pebble::start(&program, &Setup { http: 1, tls: port, life_s: LIFE_S, binding: None });
    pebble.names.set_addresses("site.test", 60, &["127.0.0.1"]);
    let yaml = listening(&acme(&pebble, storage.path(), "email: me@site.test"), "");
    let yaml = yaml.replace("{name: all,", "{name: all, hosts: [site.test, localhost],");
    issues(&pebble, gateway, 0, &yaml, storage.path());
}

#[test]
fn processes_that_share_a_storage_order_once() {
    let Some(program) = program() else { return };
    let storage = tempfile::tempdir().expect("a directory");
    let (one, other) = (Gateway::start(&listening("", "")), Gateway::start(&listening("", "")));
    let (pebble, _) = pebble(&program, &one, LIFE_S);
    for name in ["one.test", "two.test", "three.test"] {
        pebble.names.set_addresses(name, 60, &["127.0.0.1"]);
    }
    let keys = acme(&pebble, storage.path(), "domains: [one.test, two.test, three.test]");
    let yaml = listening(&keys, "");
    // Pebble looks at the first process alone, whichever of them orders: it shows the other's proofs.
    assert_eq!((one.reload(&yaml).status, other.reload(&yaml).status), (200, 200));
    let config = Arc::new(believes(&pebble.root(), None));
    for gateway in [&one, &other] {
        for name in ["one.test", "two.test", "three.test"] {
            let response = in_time("certificates", || ask(gateway.address, &config, name, name).ok());
            assert!(response.0.ends_with("hello"), "{}", response.0);
        }
    }
    assert_eq!(pebble.orders(), 3, "one order for each name");
    let orders = |gateway: &Gateway| gateway.metric("ringway_acme_orders_total", &[]);
    assert_eq!(orders(&one) + orders(&other), 3.0);
    for name in ["one.test", "two.test", "three.test"] {
        assert_eq!(fingerprint(&one, name), fingerprint(&other, name), "{name}");
    }
}

#[test]
fn certificates_are_renewed_in_time_and_kept_while_the_authority_is_away() {
    let Some(program) = program() else { return };
    let storage = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&listening("", ""));
    let (mut pebble, setup) = pebble(&program, &gateway, 15);
    pebble.names.set_addresses("site.test", 60, &["127.0.0.1"]);
    let yaml = listening(&acme(&pebble, storage.path(), "domains: [site.test]"), "");
    assert_eq!(gateway.reload(&yaml).status, 200);
    let first = in_time("a certificate", || fingerprint(&gateway, "site.test"));
    let mut open = connect(gateway.address, &Arc::new(believes(&pebble.root(), None)), "site.test", false);
    assert!(get(&mut open, "site.test", "").expect("served").ends_with("hello"));
    let second = in_time("a renewal", || fingerprint(&gateway, "site.test").filter(|print| *print != first));
    assert!(get(&mut open, "site.test", "").expect("an open connection stays").ends_with("hello"));
    pebble.end();
    in_time("a failed renewal", || {
        (gateway.metric("ringway_acme_failures_total", &["unreachable"]) >= 1.0).then_some(())
    });
    let kept = fingerprint(&gateway, "site.test").expect("the last good one stays");
    assert!(kept == second || kept != first);
    if has("openssl") {
        let shown = s_client(gateway.address, &["-servername", "site.test"], "");
        assert!(shown.contains("BEGIN CERTIFICATE"), "{shown}");
    }
    assert_eq!(ordered(&gateway, "site.test")["state"], "valid, renewal failed");
    // It comes back and knows nobody: another account is made.
    assert!(pebble.run(&program, &setup), "its ports are free");
    in_time("a renewal", || fingerprint(&gateway, "site.test").filter(|print| *print != kept));
    assert_eq!(ordered(&gateway, "site.test")["failures"], 0);
}

#[test]
fn a_name_that_cannot_be_proved_is_not_asked_for_again_and_again() {
    let Some(program) = program() else { return };
    let storage = tempfile::tempdir().expect("a directory");
    let gateway = Gateway::start(&listening("", ""));
    let (pebble, _) = pebble(&program, &gateway, LIFE_S);
    // Nobody listens there.
    pebble.names.set_addresses("bad.test", 60, &["127.0.0.9"]);
    pebble.names.set_addresses("good.test", 60, &["127.0.0.1"]);
    let yaml = listening(&acme(&pebble, storage.path(), "domains: [bad.test]"), "");
    assert_eq!(gateway.reload(&yaml).status, 200);
    in_time("a refusal", || (gateway.metric("ringway_acme_failures_total", &["\"challenge\""]) >= 1.0).then_some(()));
    let told = ordered(&gateway, "bad.test");
    assert_eq!((&told["state"], &told["failures"]), (&Value::from("failed"), &Value::from(1)));
    assert!(told["error"].as_str().is_some_and(|error| !error.is_empty()), "{told}");
    let line = gateway.wait_log("no certificate obtained", 1).remove(0);
    assert!(
        line["again_in_s"]
            .as_str()
            .is_some_and(|text| text.parse().is_ok_and(|pause_s: u64| (120..=132).contains(&pause_s))),
        "{line}"
    );
    assert!(gateway.ask_admin("GET", "/events").text().contains("no certificate obtained"));
    if has("openssl") {
        let out = s_client(gateway.address, &["-servername", "bad.test"], "");
        assert!(out.contains("unrecognized name"), "{out}");
    }
    // Neither a reload nor another process begins anew.
    for _ in 0..3 {
        assert_eq!(gateway.reload(&yaml).status, 200);
    }
    drop(gateway);
    let again = Plan::new(&yaml.replace("[bad.test]", "[bad.test, good.test]")).start();
    let failures = || ordered(&again, "bad.test")["failures"].as_u64();
    assert_eq!(in_time("what is kept", || failures().filter(|count| *count > 0)), 1);
    in_time("the other name", || (ordered(&again, "good.test")["failures"].as_u64()? > 0).then_some(()));
    assert_eq!(pebble.orders(), 2, "one for each");
    assert_eq!(again.metric("ringway_acme_names_without_certificate", &[]), 2.0);
}
