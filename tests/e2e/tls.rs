//! TLS of listeners: who is shown what, who is let in, what is resumed, and what a reload changes (F50, F80 to F87).

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::support::gateway::Plan;
use crate::support::tls::{Authority, Issued, Kind, ask, connect, get, has, s_client, shown};
use crate::support::{Client, Gateway, Origin, Step, eventually, ok, proxy_to};

const RESPOND: &str = "routes: [{name: all, path: /*, respond: {body: hello}}]\n";

fn listening(tls: &str) -> String {
    format!("server: {{workers: 2}}\nlisteners: [{{address: \"127.0.0.1:0\", tls: {{{tls}}}}}]\n")
}

fn serving(tls: &str) -> Gateway {
    Gateway::start(&(listening(tls) + RESPOND))
}

/// `curl` against the gateway under the name `site.test`.
fn curl(gateway: &Gateway, ca: &Authority, path: &str, arguments: &[&str]) -> std::process::Output {
    let port = gateway.address.port();
    Command::new("curl")
        .args(["-sS", "--max-time", "20", "--cacert"])
        .arg(ca.ca())
        .args(["--resolve", &format!("site.test:{port}:127.0.0.1")])
        .args(arguments)
        .arg(format!("https://site.test:{port}{path}"))
        .output()
        .expect("curl")
}

#[test]
fn curl_gets_and_sends_long_bodies_and_endpoints_learn_the_scheme() {
    if !has("curl") {
        return;
    }
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let origin = Origin::echo();
    let gateway = Gateway::start(&(listening(&site.yaml()) + &proxy_to(&origin)));
    for version in ["--tlsv1.3", "--tls-max=1.2"] {
        let version = if version == "--tlsv1.3" { &["--tlsv1.3"][..] } else { &["--tls-max", "1.2"] };
        let out = curl(&gateway, &ca, "/x?y=1", version);
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
    }
    let long = ca.path("long");
    let bytes: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(n) >> 7) as u8).collect();
    std::fs::write(&long, &bytes).expect("written");
    let sink = Origin::start(|seen| ok(&seen.body));
    let gateway = Gateway::start(&(listening(&site.yaml()) + &proxy_to(&sink)));
    let data = format!("@{}", long.display());
    for version in [&["--tlsv1.3"][..], &["--tls-max", "1.2"]] {
        let out = curl(&gateway, &ca, "/up", &[version, &["--data-binary", &data]].concat());
        assert!(out.status.success() && out.stdout == bytes, "{}", String::from_utf8_lossy(&out.stderr));
    }
}

#[test]
fn a_body_that_ends_with_the_connection_ends_with_close_notify() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let chunks = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n".to_vec();
    let origin = Origin::start(move |_| vec![Step::Send(chunks.clone())]);
    let gateway = Gateway::start(&(listening(&site.yaml()) + &proxy_to(&origin)));
    let mut secured = connect(gateway.address, &Arc::new(ca.client(None)), "site.test", false);
    secured.write_all(b"GET / HTTP/1.0\r\nHost: site.test\r\n\r\n").expect("sent");
    let mut all = String::new();
    // rustls takes an end without close_notify for a failure.
    secured.read_to_string(&mut all).expect("a clean end");
    assert!(all.ends_with("\r\n\r\nhello"), "{all}");
}

#[test]
fn profiles_refuse_old_versions_and_ciphers() {
    if !has("openssl") {
        return;
    }
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let rsa = ca.issue_until("rsa", &["site.test"], Kind::Rsa, 2090);
    let both = format!("{}, certificates: [{{{}}}]", site.yaml(), rsa.yaml());
    for (profile, takes_12) in [("modern", false), ("intermediate", true)] {
        let gateway = serving(&format!("profile: {profile}, {both}"));
        let accepted = |arguments: &[&str]| {
            let all = [&["-servername", "site.test"], arguments].concat();
            let out = s_client(gateway.address, &all, "");
            out.contains("Cipher is ") && !out.contains("Cipher is (NONE)")
        };
        assert!(accepted(&["-tls1_3"]));
        assert_eq!(accepted(&["-tls1_2"]), takes_12, "{profile}");
        for weak in ["-tls1_1", "-tls1"] {
            assert!(!accepted(&[weak, "-cipher", "ALL:@SECLEVEL=0"]), "{profile} {weak}");
        }
        for weak in ["AES128-SHA", "AES128-GCM-SHA256", "ECDHE-RSA-AES128-SHA", "DHE-RSA-AES128-GCM-SHA256", "NULL"] {
            assert!(!accepted(&["-tls1_2", "-cipher", &format!("{weak}:@SECLEVEL=0")]), "{profile} {weak}");
        }
        // R asks for a renegotiation, which both versions of the protocol that are left refuse (F81).
        let out = s_client(gateway.address, &["-servername", "site.test", "-tls1_3"], "R\n");
        assert!(!out.contains("RENEGOTIATING\ndepth"), "{out}");
    }
}

#[test]
fn certificates_are_chosen_by_name_and_by_what_the_client_can_check() {
    if !has("openssl") {
        return;
    }
    let ca = Authority::new("ca");
    let first = ca.issue("first", &["first.test"]);
    let other = ca.issue("other", &["other.test", "*.wild.test"]);
    let rsa = ca.issue_until("rsa", &["first.test"], Kind::Rsa, 2090);
    let tls = format!("{}, certificates: [{{{}}}, {{{}}}]", first.yaml(), rsa.yaml(), other.yaml());
    let gateway = serving(&tls);
    let name = |name: &str| shown(gateway.address, &["-servername", name], &ca.ca());
    assert_eq!(name("first.test"), "first");
    assert_eq!(name("FIRST.Test"), "first");
    assert_eq!(name("other.test"), "other");
    assert_eq!(name("a.wild.test"), "other");
    assert_eq!(name("a.b.wild.test"), "first", "a wildcard is one label");
    assert_eq!(name("wild.test"), "first");
    assert_eq!(name("else.test"), "first");
    assert_eq!(shown(gateway.address, &["-noservername"], &ca.ca()), "first");
    for version in ["-tls1_2", "-tls1_3"] {
        let only = ["-servername", "first.test", version, "-sigalgs", "rsa_pss_rsae_sha256:RSA+SHA256"];
        assert_eq!(shown(gateway.address, &only, &ca.ca()), "rsa", "{version}");
        let only = ["-servername", "first.test", version, "-sigalgs", "ECDSA+SHA256"];
        assert_eq!(shown(gateway.address, &only, &ca.ca()), "first", "{version}");
    }
    let refusing = serving(&format!("unknown_name: refuse, {tls}"));
    assert_eq!(shown(refusing.address, &["-servername", "a.wild.test"], &ca.ca()), "other");
    for unknown in [&["-servername", "else.test"][..], &["-noservername"]] {
        let out = s_client(refusing.address, unknown, "");
        assert!(out.contains("unrecognized name") || out.contains("unrecognised name"), "{out}");
    }
}

#[test]
fn certificates_come_from_directories_and_from_the_environment() {
    let ca = Authority::new("ca");
    let _ = (ca.issue("one", &["one.test"]), ca.issue("two", &["two.test"]));
    let three = ca.issue("three", &["three.test"]);
    let read = |path| std::fs::read_to_string(path).expect("a file");
    let pem = read(&three.cert) + &read(&three.key);
    std::fs::remove_file(&three.key).expect("removed");
    let tls = format!("certificates: [\"{}\", {{pem: \"${{PEM}}\"}}]", ca.dir.path().display());
    let gateway = Plan::new(&(listening(&tls) + RESPOND)).env("PEM", pem).start();
    let config = Arc::new(ca.client(None));
    for name in ["one.test", "two.test", "three.test"] {
        let (response, _) = ask(gateway.address, &config, name, name).expect("verified");
        assert!(response.ends_with("hello"), "{name}: {response}");
    }
}

fn guarded(ca: &Authority, site: &Issued, more: &str) -> String {
    let ca = ca.ca().display().to_string();
    format!("{}, client_auth: {{ca: [\"{ca}\"]}}, {more}", site.yaml())
}

/// The twelve hellos of F84: whatever name a client asks for, and however its hello is cut, required is required.
#[test]
fn nobody_walks_around_a_required_certificate() {
    let ca = Authority::new("ca");
    let names = ["admin.test", "open.test", "*.wild.test", "127.0.0.1"];
    let site = ca.issue("site", &names);
    let robot = ca.issue("robot", &["robot.test"]);
    let gateway = serving(&guarded(&ca, &site, "hosts: [{names: [open.test, \"*.open.test\"]}]"));
    let (stranger, member) = (ca.client(None), ca.client(Some(&robot)));
    let shapes = ["admin.test", "ADMIN.test", "a.wild.test", "A.WILD.TEST", "127.0.0.1", "::1"];
    for (torn, pieces) in [(false, None), (true, None), (false, Some(32))] {
        let fragmented = |config: &rustls::ClientConfig| {
            let mut config = config.clone();
            config.max_fragment_size = pieces;
            Arc::new(config)
        };
        for name in &shapes {
            if torn && *name == "::1" {
                continue;
            }
            let mut secured = connect(gateway.address, &fragmented(&stranger), name, torn);
            let refused = get(&mut secured, "admin.test", "");
            assert!(refused.is_err(), "{name}, torn {torn}: {refused:?}");
        }
        let mut secured = connect(gateway.address, &fragmented(&member), "admin.test", torn);
        assert!(get(&mut secured, "admin.test", "").expect("let in").ends_with("hello"));
        let mut secured = connect(gateway.address, &fragmented(&stranger), "open.test", torn);
        assert!(get(&mut secured, "open.test", "").expect("let in").ends_with("hello"));
        // The connection of one name does not serve the other (F50), however its host is spelt.
        for host in ["admin.test", "Admin.Test", "admin.test.", "admin.test:443", "else.test", "127.0.0.1"] {
            let mut secured = connect(gateway.address, &fragmented(&stranger), "open.test", torn);
            let response = get(&mut secured, host, "").expect("an answer");
            assert!(response.starts_with("HTTP/1.1 421 "), "{host}: {response}");
            assert!(response.contains("\"reason\":\"misdirected\""), "{response}");
        }
    }
    if has("openssl") {
        for name in [&["-noservername"][..], &["-servername", "else.test"], &["-servername", "ADMIN.TEST"]] {
            for version in ["-tls1_2", "-tls1_3"] {
                let request = "GET / HTTP/1.1\r\nHost: admin.test\r\nConnection: close\r\n\r\n";
                let out = s_client(gateway.address, &[name, &[version, "-quiet", "-ign_eof"]].concat(), request);
                assert!(!out.contains("HTTP/1.1 "), "{name:?} {version}: {out}");
            }
        }
    }
}

#[test]
fn endpoints_learn_who_the_client_is_and_nobody_can_say_it_himself() {
    let ca = Authority::new("ca");
    let stranger = Authority::new("another");
    let site = ca.issue("site", &["site.test"]);
    let robot = ca.issue("robot", &["robot.test"]);
    let revoked = ca.issue("revoked", &["revoked.test"]);
    let list = ca.revoke("ca.crl", &[&revoked]);
    let origin = Origin::echo();
    let auth = format!("{{mode: optional, ca: [\"{}\"], crl: [\"{}\"]}}", ca.ca().display(), list.display());
    let tls = format!("{}, forward_client_cert: true, client_auth: {auth}", site.yaml());
    let gateway = Gateway::start(&(listening(&tls) + &proxy_to(&origin)));
    let forged = "X-Client-Cert-Subject: CN=admin\r\nX-CLIENT-CERT-FINGERPRINT: 00\r\nx-client-cert-san: DNS:x\r\n";
    let mut secured = connect(gateway.address, &Arc::new(ca.client(Some(&robot))), "site.test", false);
    for _ in 0..2 {
        assert!(get(&mut secured, "site.test", forged).expect("let in").starts_with("HTTP/1.1 200"));
        let seen = origin.last();
        assert_eq!(seen.header("x-client-cert-subject"), Some("CN=robot"));
        assert_eq!(seen.header("x-client-cert-san"), Some("DNS:robot.test"));
        assert_eq!(seen.header("x-client-cert-fingerprint").map(str::len), Some(64));
    }
    let mut secured = connect(gateway.address, &Arc::new(ca.client(None)), "site.test", false);
    assert!(get(&mut secured, "site.test", forged).expect("let in").starts_with("HTTP/1.1 200"));
    assert_eq!(origin.last().header("x-client-cert-subject"), None, "nobody is nobody");
    assert_eq!(origin.last().header("x-client-cert-fingerprint"), None);
    let outsider = stranger.issue("robot", &["robot.test"]);
    for bad in [&revoked, &outsider] {
        let refused = ask(gateway.address, &Arc::new(ca.client(Some(bad))), "site.test", "site.test");
        assert!(refused.is_err(), "{bad:?}: {refused:?}");
    }
}

#[test]
fn policies_know_the_certificate_that_a_client_has_shown() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let robots = ["one", "two"].map(|name| ca.issue(name, &["robot.test", "also.test"]));
    let origin = Origin::echo();
    let tls = format!("{}, client_auth: {{mode: optional, ca: [\"{}\"]}}", site.yaml(), ca.ca().display());
    let policies = "policies:\n\
        - rate_limit: {rate: 2/h, key: client_cert, scope: node}\n\
        - headers: {request: {set: {X-Who: \"$client_cert_subject ($client_cert_san)\", X-Print: $client_cert_fingerprint}}}\n";
    let gateway = Gateway::start(&(listening(&tls) + policies + &proxy_to(&origin)));
    let ask = |certificate| {
        let config = Arc::new(ca.client(certificate));
        let mut secured = connect(gateway.address, &config, "site.test", false);
        get(&mut secured, "site.test", "X-Print: forged\r\n").expect("let in")[9..12].to_owned()
    };
    // Each has its own two, over its connections; who shows none is counted by the address.
    for (robot, who) in [(Some(&robots[0]), "CN=one"), (Some(&robots[1]), "CN=two"), (None, "")] {
        assert_eq!([ask(robot), ask(robot)], ["200", "200"], "{who}");
        let seen = origin.last();
        let names = if who.is_empty() { "" } else { "DNS:robot.test,DNS:also.test" };
        assert_eq!(seen.header("x-who"), Some(format!("{who} ({names})").trim()));
        assert_eq!(seen.header("x-print").map(str::len), robot.map(|_| 64), "no certificate, no field");
        assert_eq!(ask(robot), "429", "{who}");
    }
}

#[test]
fn sessions_resume_at_every_worker_and_never_under_another_name_or_other_rules() {
    if !has("openssl") {
        return;
    }
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["a.test", "b.test", "admin.test"]);
    let admins = format!("{{names: [admin.test], client_auth: {{mode: optional, ca: [\"{}\"]}}}}", ca.ca().display());
    let tls = format!("{}, hosts: [{admins}]", site.yaml());
    let gateway = serving(&tls);
    let config = Arc::new(ca.client(None));
    let resumed = |_| ask(gateway.address, &config, "a.test", "a.test").expect("served").1;
    let count = (0..9).map(resumed).filter(|resumed| *resumed).count();
    assert!(count >= 8, "{count} of 9, on two workers");
    let file = ca.path("session").display().to_string();
    let save = |version: &str, name: &str| {
        let asks = ["-servername", name, version, "-sess_out", &file, "-ign_eof"];
        let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        let out = s_client(gateway.address, &asks, &request);
        assert!(out.contains("hello"), "{out}");
        // No ticket allows data before the handshake (F83).
        assert!(version == "-tls1_2" || out.contains("Max Early Data: 0"), "{out}");
    };
    let reuses = |version: &str, name: &str| {
        let out = s_client(gateway.address, &["-servername", name, version, "-sess_in", &file], "");
        assert!(out.contains("Reused, ") || out.contains("New, "), "{out}");
        out.contains("Reused, ")
    };
    for version in ["-tls1_2", "-tls1_3"] {
        save(version, "a.test");
        assert!(reuses(version, "a.test"), "{version}");
        assert!(!reuses(version, "b.test"), "{version}: another name");
        assert!(!reuses(version, "admin.test"), "{version}: other rules");
        assert_eq!(gateway.reload(&(listening(&tls) + RESPOND)).status, 200);
        assert!(reuses(version, "a.test"), "{version}: over a reload");
    }
    save("-tls1_3", "admin.test");
    assert!(reuses("-tls1_3", "admin.test"));
    let stricter = tls.replace("optional", "required");
    assert_eq!(gateway.reload(&(listening(&stricter) + RESPOND)).status, 200);
    assert!(!reuses("-tls1_3", "admin.test"), "the rules have changed");
    assert!(gateway.metric("ringway_worker_tls_handshakes_resumed_total", &[]) >= 8.0);
}

#[test]
fn certificates_change_under_open_connections_and_bad_ones_change_nothing() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let yaml = format!("reload: {{watch: true}}\n{}{RESPOND}", listening(&site.yaml()));
    let gateway = Gateway::start(&yaml);
    let config = ca.client(None);
    // Without sessions: each handshake shows the certificate.
    let mut fresh = config.clone();
    fresh.resumption = rustls::client::Resumption::disabled();
    let fresh = Arc::new(fresh);
    let seen = || {
        let mut secured = connect(gateway.address, &fresh, "site.test", false);
        get(&mut secured, "site.test", "").expect("served");
        secured.conn.peer_certificates().expect("a chain")[0].to_vec()
    };
    let mut kept = connect(gateway.address, &fresh, "site.test", false);
    get(&mut kept, "site.test", "").expect("served");
    let before = seen();
    // The files alone change.
    let _ = ca.issue("site", &["site.test"]);
    eventually("the new certificate is shown", || (seen() != before).then_some(()));
    get(&mut kept, "site.test", "").expect("the connection stays");
    let present = seen();
    let other = ca.issue("other", &["other.test"]);
    let expired = ca.issue_until("expired", &["site.test"], Kind::Ecdsa, 2021);
    let mixed = format!("cert: {}, key: {}", site.cert.display(), other.key.display());
    let gone = format!("cert: /nowhere/site.crt, key: {}", site.key.display());
    let no_ca = format!("{}, client_auth: {{ca: [/nowhere/ca.pem]}}", site.yaml());
    for (tls, names, why) in [
        (mixed.as_str(), "site.crt", "another certificate"),
        (&expired.yaml(), "expired.crt", "has expired"),
        (&gone, "/nowhere/site.crt", "cannot be read"),
        (&no_ca, "/nowhere/ca.pem", "cannot be read"),
    ] {
        let refused = gateway.reload(&(listening(tls) + RESPOND));
        assert_eq!(refused.status, 422, "{tls}");
        assert!(refused.text().contains(names) && refused.text().contains(why), "{}", refused.text());
        assert_eq!(seen(), present, "{tls}");
    }
    get(&mut kept, "site.test", "").expect("the connection stays");
    assert!(gateway.metric("ringway_tls_certificate_days_left", &["site.crt"]) > 20_000.0);
    let vain = Plan::new(&(listening(&no_ca) + RESPOND)).start_in_vain();
    assert!(vain.code != Some(0) && vain.stderr.contains("/nowhere/ca.pem"), "{}", vain.stderr);
}

#[test]
fn check_warns_of_what_expires_soon() {
    if !has("openssl") {
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let (cert, key, yaml) = (dir.path().join("c.pem"), dir.path().join("k.pem"), dir.path().join("c.yaml"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "5"])
        .args(["-subj", "/CN=soon", "-addext", "subjectAltName=DNS:soon.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output();
    assert!(made.expect("openssl").status.success());
    let tls = format!("cert: {}, key: {}", cert.display(), key.display());
    std::fs::write(&yaml, listening(&tls) + RESPOND).expect("written");
    let out = Command::new(env!("CARGO_BIN_EXE_ringway")).arg("check").arg(&yaml).output().expect("it runs");
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success() && said.contains("W0211") && said.contains("expires in "), "{said}");
}

#[test]
fn plain_requests_are_sent_to_https_and_hsts_is_said_over_tls_alone() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let tls = format!("tls: {{{}, plain_too: true, hsts: {{max_age: 1h, subdomains: true}}}}", site.yaml());
    let listeners = format!("listeners: [{{address: \"127.0.0.1:0\", https_redirect: 8443, {tls}}}]\n");
    let gateway = Gateway::start(&(listeners + RESPOND));
    let mut plain = gateway.connect();
    plain.send("GET /a/b?c=d HTTP/1.1\r\nHost: site.test:80\r\n\r\n");
    let answer = plain.response();
    assert_eq!((answer.status, answer.header("location")), (308, Some("https://site.test:8443/a/b?c=d")));
    assert_eq!(answer.header("strict-transport-security"), None);
    plain.send("POST /up HTTP/1.1\r\nHost: site.test\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(plain.response().header("location"), Some("https://site.test:8443/up"));
    let mut secured = connect(gateway.address, &Arc::new(ca.client(None)), "site.test", false);
    let response = get(&mut secured, "site.test", "").expect("served");
    assert!(response.contains("Strict-Transport-Security: max-age=3600; includeSubDomains\r\n"), "{response}");
    assert!(response.ends_with("hello"));
}

#[test]
fn a_proxy_header_stands_before_the_handshake() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let origin = Origin::echo();
    let listeners = format!(
        "listeners: [{{address: \"127.0.0.1:0\", proxy_protocol: {{trusted: [127.0.0.0/8]}}, tls: {{{}}}}}]\n",
        site.yaml()
    );
    let gateway = Gateway::start(&(listeners + &proxy_to(&origin)));
    let mut secured = connect(gateway.address, &Arc::new(ca.client(None)), "site.test", false);
    secured.sock.stream.write_all(b"PROXY TCP4 203.0.113.9 198.51.100.2 4660 443\r\n").expect("sent");
    assert!(get(&mut secured, "site.test", "").expect("served").starts_with("HTTP/1.1 200"));
    assert_eq!(origin.last().header("x-forwarded-for"), Some("203.0.113.9"));
    assert_eq!(origin.last().header("x-forwarded-proto"), Some("https"));
}

#[test]
fn stalled_handshakes_are_closed_after_ten_seconds_and_hinder_nobody() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let gateway = serving(&site.yaml());
    let config = Arc::new(ca.client(None));
    let begun = Instant::now();
    let half = [22, 3, 1, 1, 0, 1, 0, 0, 0xfc];
    let stalled: Vec<TcpStream> = (0..200)
        .map(|n| {
            let mut stream = TcpStream::connect(gateway.address).expect("connected");
            if n % 2 == 0 {
                stream.write_all(&half).expect("sent");
            }
            stream
        })
        .collect();
    for _ in 0..20 {
        assert!(ask(gateway.address, &config, "site.test", "site.test").is_ok());
    }
    for mut stream in stalled {
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
        assert!(matches!(stream.read(&mut [0; 64]), Ok(0) | Err(_)));
        assert!(begun.elapsed() < Duration::from_secs(50), "a stalled handshake stays");
    }
    assert!(begun.elapsed() >= Duration::from_secs(9), "closed before its time");
    eventually("all are counted", || {
        (gateway.metric("ringway_worker_tls_handshakes_failed_total", &[]) >= 200.0).then_some(())
    });
}

#[test]
fn garbage_costs_its_own_connection_only() {
    let ca = Authority::new("ca");
    let site = ca.issue("site", &["site.test"]);
    let gateway = serving(&site.yaml());
    let mut state = 11_u64;
    for round in 0..60 {
        let mut bytes: Vec<u8> = (0..200 + round * 13)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 33) as u8
            })
            .collect();
        if round % 3 > 0 {
            bytes[..6].copy_from_slice(&[22, 3, round as u8 % 5, 0, 150, 1]);
        }
        let mut client = Client::connect(gateway.address);
        client.try_send(&bytes);
        client.shutdown_write();
        let _ = client.read_to_end();
    }
    let mut client = Client::connect(gateway.address);
    client.try_send("GET / HTTP/1.1\r\nHost: site.test\r\n\r\n");
    let told = client.read_to_end();
    assert!(!told.starts_with(b"HTTP"), "a plain request is no request here");
    assert!(ask(gateway.address, &Arc::new(ca.client(None)), "site.test", "site.test").is_ok());
    assert_eq!(gateway.metric("ringway_worker_panics_total", &[]), 0.0);
}
