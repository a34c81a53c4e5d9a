//! Bounds on what TLS of listeners believes and takes: names of sessions, old revocation lists, rates of handshakes,
//! and the words that failures are told in (F82, F85, F86).

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use crate::support::tls::{Authority, ask, has, s_client};
use crate::support::{Gateway, eventually};

const RESPOND: &str = "routes: [{name: all, path: /*, respond: {body: hello}}]\n";

fn listening(tls: &str, more: &str) -> String {
    format!("listeners: [{{address: \"127.0.0.1:0\", tls: {{{tls}}}{more}}}]\n{RESPOND}")
}

fn failures(gateway: &Gateway, reason: &str) -> f64 {
    let label = format!("reason=\"{reason}\"");
    gateway.metric("ringway_worker_tls_handshake_failures_total", &[&label])
}

/// What is other the second time, the name of the first, where and how the second asks, and whether it is taken up.
type Shape<'a> = (&'a str, &'a str, SocketAddr, &'a [&'a str], Option<bool>);

/// F82: a session is taken up where it was made, and nowhere else. `None` where both would be right: the name is the
/// same.
#[test]
fn sessions_are_bound_to_their_name_their_listener_and_its_rules() {
    if !has("openssl") {
        return;
    }
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["a.test", "b.test", "*.wild.test", "admin.test"]);
    let admins = format!("{{names: [admin.test], client_auth: {{mode: optional, ca: [\"{}\"]}}}}", ca.ca().display());
    let tls = format!("{}, hosts: [{admins}]", site.yaml());
    let gateway = Gateway::start(&format!(
        "server: {{workers: 2}}\nlisteners: [{{address: \"127.0.0.1:0\", tls: {{{tls}}}}}, \
         {{address: \"127.0.0.2:0\", tls: {{{tls}}}}}]\n{RESPOND}"
    ));
    let (here, there) = (gateway.addresses[0], gateway.addresses[1]);
    let file = ca.path("session").display().to_string();
    let save = |version: &str, name: &str| {
        let asks = ["-servername", name, version, "-sess_out", &file, "-ign_eof"];
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        let out = s_client(here, &asks, &request);
        assert!(out.contains("hello"), "{out}");
    };
    let reused =
        |at: SocketAddr, more: &[&str]| s_client(at, &[&["-sess_in", &file], more].concat(), "").contains("Reused, ");
    for version in ["-tls1_2", "-tls1_3"] {
        let other = if version == "-tls1_2" { "-tls1_3" } else { "-tls1_2" };
        let table: [Shape<'_>; 12] = [
            ("the same", "a.test", here, &["-servername", "a.test", version], Some(true)),
            ("other case", "a.test", here, &["-servername", "A.TEST", version], None),
            ("another name", "a.test", here, &["-servername", "b.test", version], Some(false)),
            ("no name", "a.test", here, &["-noservername", version], Some(false)),
            ("a dot behind it", "a.test", here, &["-servername", "a.test.", version], None),
            ("an unknown name", "a.test", here, &["-servername", "else.test", version], Some(false)),
            ("a sibling", "x.wild.test", here, &["-servername", "y.wild.test", version], Some(false)),
            ("other rules", "a.test", here, &["-servername", "admin.test", version], Some(false)),
            ("and back", "admin.test", here, &["-servername", "a.test", version], Some(false)),
            ("another listener", "a.test", there, &["-servername", "a.test", version], Some(false)),
            ("another version", "a.test", here, &["-servername", "a.test", other], Some(false)),
            ("another protocol", "a.test", here, &["-servername", "a.test", version, "-alpn", "h2"], None),
        ];
        for (what, first, at, second, expected) in table {
            save(version, first);
            let found = reused(at, second);
            assert!(expected.is_none_or(|expected| expected == found), "{version}: {what}: {found}");
        }
    }
}

/// F85: what a list says that is over is not what it would say now.
#[test]
fn an_old_revocation_list_lets_nobody_in_unless_it_is_told_to() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let (robot, revoked) = (ca.issue("robot", &["robot.test"]), ca.issue("revoked", &["revoked.test"]));
    let list = ca.revoke_until("old.crl", &[&revoked], 2022);
    let tls = |rule: &str| {
        let auth = format!("{{ca: [\"{}\"], crl: [\"{}\"], {rule}}}", ca.ca().display(), list.display());
        listening(&format!("{}, client_auth: {auth}", site.yaml()), "")
    };
    let gateway = Gateway::start(&tls("mode: required"));
    let member = Arc::new(ca.client(Some(&robot)));
    let refused = ask(gateway.address, &member, "site.test", "site.test");
    assert!(refused.is_err(), "{refused:?}");
    eventually("the reason is told", || (failures(&gateway, "crl_expired") == 1.0).then_some(()));
    assert!(gateway.metric("ringway_tls_crl_days_left", &[]) < -365.0);
    assert_eq!(gateway.reload(&tls("crl_expired: warn")).status, 200);
    let (answer, _) = ask(gateway.address, &member, "site.test", "site.test").expect("what it says still counts");
    assert!(answer.ends_with("hello"), "{answer}");
    let refused = ask(gateway.address, &Arc::new(ca.client(Some(&revoked))), "site.test", "site.test");
    assert!(refused.is_err(), "and whom it names is out: {refused:?}");
    eventually("the reason is told", || (failures(&gateway, "client_certificate_revoked") == 1.0).then_some(()));
}

#[test]
fn handshakes_are_taken_at_their_rate_in_all_and_of_one_client() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let config = Arc::new(ca.client(None));
    for (key, reason) in [("handshake_rate", "handshake_rate"), ("handshake_rate_per_client", "client_handshake_rate")]
    {
        let yaml = listening(&site.yaml(), &format!(", limits: {{{key}: 3/h}}"));
        let gateway = Gateway::start(&yaml);
        let ask = || ask(gateway.address, &config, "site.test", "site.test");
        for _ in 0..3 {
            assert!(ask().expect("within the rate").0.ends_with("hello"));
        }
        assert!(ask().is_err(), "{key}");
        // A reload that changes nothing forgets nothing.
        assert_eq!(gateway.reload(&yaml).status, 200);
        assert!(ask().is_err(), "{key}: over a reload");
        let label = format!("cause=\"{reason}\"");
        eventually("it is counted", || {
            (gateway.metric("ringway_worker_refused_total", &[&label]) == 2.0).then_some(())
        });
        assert_eq!(gateway.reload(&yaml.replace("3/h", "4/h")).status, 200);
        assert!(ask().is_ok(), "{key}: another rate begins anew");
    }
}

#[test]
fn failures_of_handshakes_are_told_in_words() {
    if !has("openssl") {
        return;
    }
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let site = ca.issue("site", &["site.test"]);
    let auth = format!("hosts: [{{names: [admin.test], client_auth: {{ca: [\"{}\"]}}}}]", ca.ca().display());
    let gateway = Gateway::start(&listening(&format!("{}, unknown_name: refuse, {auth}", site.yaml()), ""));
    let told = |reason: &str| eventually(reason, || (failures(&gateway, reason) >= 1.0).then_some(()));
    let strange = other.ca().display().to_string();
    let knows_nobody = ["-servername", "site.test", "-verify_return_error", "-CAfile", &strange, "-no-CApath"];
    s_client(gateway.address, &knows_nobody, "");
    told("alert_unknown_ca");
    assert!(ask(gateway.address, &Arc::new(ca.client(None)), "else.test", "else.test").is_err());
    told("unknown_name");
    let mut plain = TcpStream::connect(gateway.address).expect("connected");
    plain.write_all(b"GET / HTTP/1.1\r\nHost: site.test\r\n\r\n").expect("sent");
    told("protocol");
    drop(TcpStream::connect(gateway.address).expect("connected"));
    told("ended");
    let lines = gateway.wait_log("TLS handshake failed", 3);
    assert!(lines.iter().any(|line| line["reason"] == "alert_unknown_ca"), "{lines:?}");
}
