//! TLS towards endpoints (F88): who is believed, what is said of who is not, and what is resumed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig, ServerConnection, StreamOwned, SupportedProtocolVersion};

use crate::support::tls::{Authority, Issued, Kind, has};
use crate::support::{Gateway, PATIENCE, Response, eventually};

/// What an endpoint saw of one connection.
#[derive(Clone, Debug, Default)]
pub struct Met {
    resumed: bool,
    name: Option<String>,
    alpn: Option<Vec<u8>>,
    client: bool,
    requests: usize,
}

/// An endpoint that speaks TLS.
pub struct Secure {
    pub address: SocketAddr,
    met: Arc<Mutex<Vec<Met>>>,
}

impl Secure {
    fn start(config: ServerConfig) -> Self {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), config)
    }

    pub fn start_at(address: SocketAddr, config: ServerConfig) -> Self {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("an address");
        let (met, config) = (Arc::<Mutex<Vec<Met>>>::default(), Arc::new(config));
        let seen = met.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, seen) = (config.clone(), seen.clone());
                stream.set_read_timeout(Some(PATIENCE)).expect("an option");
                thread::spawn(move || answer(ServerConnection::new(config).expect("a server"), stream, &seen));
            }
        });
        Self { address, met }
    }

    pub fn met(&self) -> Vec<Met> {
        self.met.lock().expect("unharmed").clone()
    }
}

/// Answers requests with the number that they have on their connection; `/close` ends it.
fn answer(tls: ServerConnection, stream: std::net::TcpStream, seen: &Mutex<Vec<Met>>) {
    let mut stream = StreamOwned::new(tls, stream);
    let mut at = None;
    loop {
        let (mut head, mut byte) = (Vec::new(), [0; 1]);
        while !head.ends_with(b"\r\n\r\n") {
            if !matches!(stream.read(&mut byte), Ok(1)) {
                return;
            }
            head.push(byte[0]);
        }
        let tls = &stream.conn;
        let mut all = seen.lock().expect("unharmed");
        let at = *at.get_or_insert_with(|| {
            all.push(Met {
                resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
                name: tls.server_name().map(str::to_owned),
                alpn: tls.alpn_protocol().map(<[u8]>::to_vec),
                client: tls.peer_certificates().is_some(),
                requests: 0,
            });
            all.len() - 1
        });
        all[at].requests += 1;
        let body = all[at].requests.to_string();
        drop(all);
        let close = head.starts_with(b"GET /close");
        let more = if close { "Connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
        if stream.write_all(answer.as_bytes()).and_then(|()| stream.flush()).is_err() {
            return;
        }
        if close {
            stream.conn.send_close_notify();
            let _ = stream.flush();
            return;
        }
    }
}

fn serving(one: &Issued, clients: Option<&Authority>, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(versions);
    let builder = builder.expect("versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_slice(authority.pem.as_bytes()).expect("PEM")).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let chain = vec![CertificateDer::from_pem_file(&one.cert).expect("PEM")];
    let key = PrivateKeyDer::from_pem_file(&one.key).expect("PEM");
    let mut config = builder.with_single_cert(chain, key).expect("a pair");
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

pub fn plain(one: &Issued) -> ServerConfig {
    serving(one, None, rustls::ALL_VERSIONS)
}

/// An endpoint of this name.
pub fn named(ca: &Authority, name: &str) -> Secure {
    Secure::start(plain(&ca.issue("up", &[name])))
}

fn to(address: SocketAddr, tls: &str) -> String {
    format!(
        "logging: {{access_log: {{format: json}}}}\nservices: [{{name: up, endpoints: [\"{address}\"], tls: {{{tls}}}}}]\nroutes: [{{name: all, path: /*, service: up}}]\n"
    )
}

fn trusting(authority: &Authority, more: &str) -> String {
    format!("ca: [{}]{more}", authority.ca().display())
}

/// The reason and the detail of the log's last line.
#[track_caller]
fn logged(gateway: &Gateway, at: usize) -> (String, String) {
    let line = eventually("a log line", || {
        let lines = gateway.stdout();
        lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()).nth(at)
    });
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    (text("reason"), text("detail"))
}

#[track_caller]
fn refused(response: &Response, gateway: &Gateway, reason: &str, detail: &str) {
    assert_eq!((response.status, response.reason().as_str()), (502, reason));
    assert!(!response.text().contains(detail), "clients learn nothing of it");
    assert_eq!(logged(gateway, 0), (reason.to_owned(), detail.to_owned()));
}

#[test]
fn a_verified_endpoint_is_asked_by_name_and_its_connection_kept() {
    let ca = Authority::new("ca");
    let endpoint = Secure::start(plain(&ca.issue("up", &["up.test"])));
    let gateway = Gateway::start(&to(endpoint.address, &trusting(&ca, ", server_name: up.test")));
    for number in 1..=3 {
        assert_eq!(gateway.get("/a").text(), number.to_string());
    }
    let met = endpoint.met();
    assert_eq!((met.len(), met[0].requests, met[0].resumed, met[0].client), (1, 3, false, false));
    assert_eq!((met[0].name.as_deref(), met[0].alpn.as_deref()), (Some("up.test"), Some(&b"http/1.1"[..])));
}

#[test]
fn addresses_are_verified_too() {
    let ca = Authority::new("ca");
    let endpoint = Secure::start(plain(&ca.issue("up", &["127.0.0.1"])));
    let gateway = Gateway::start(&to(endpoint.address, &trusting(&ca, "")));
    assert_eq!(gateway.get("/a").text(), "1");
    assert_eq!(endpoint.met()[0].name, None, "an address is not asked for by name");
}

#[test]
fn sessions_are_resumed_and_outlive_a_reload() {
    let ca = Authority::new("ca");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let endpoint = Secure::start(serving(&ca.issue("up", &["up.test"]), None, &[version]));
        let yaml = to(endpoint.address, &trusting(&ca, ", server_name: up.test"));
        let gateway = Gateway::start(&yaml);
        for _ in 0..3 {
            assert_eq!(gateway.get("/close").status, 200);
        }
        assert_eq!(gateway.reload(&yaml.replace("name: all", "name: other")).status, 200);
        assert_eq!(gateway.get("/close").status, 200);
        let resumed: Vec<bool> = endpoint.met().iter().map(|met| met.resumed).collect();
        assert_eq!(resumed, [false, true, true, true], "{version:?}");
        // Whoever trusts somebody else starts anew.
        let other = Authority::new("other");
        let yaml = to(endpoint.address, &trusting(&other, ", server_name: up.test"));
        assert_eq!(gateway.reload(&yaml).status, 200);
        assert_eq!(gateway.get("/close").reason(), "upstream_certificate");
    }
}

#[test]
fn f88_certificates_that_prove_nothing_are_refused_and_the_log_says_why() {
    let (ca, other) = (Authority::new("ca"), Authority::new("other"));
    let cases = [
        (ca.issue("wrong", &["other.test"]), &ca, "the certificate is for another name"),
        (ca.issue_until("old", &["up.test"], Kind::Ecdsa, 2021), &ca, "the certificate has expired"),
        (other.issue("stranger", &["up.test"]), &ca, "the certificate is of an unknown authority"),
    ];
    for (issued, trusted, detail) in cases {
        let endpoint = Secure::start(plain(&issued));
        let gateway = Gateway::start(&to(endpoint.address, &trusting(trusted, ", server_name: up.test")));
        refused(&gateway.get("/a"), &gateway, "upstream_certificate", detail);
        assert!(endpoint.met().is_empty(), "nothing of the request has left");
        let unsafely = to(endpoint.address, "verify: false, server_name: up.test");
        assert_eq!(gateway.reload(&unsafely).status, 200);
        assert_eq!(gateway.get("/a").text(), "1", "{detail}");
    }
}

#[test]
fn f88_self_signed_certificates_are_refused_by_the_systems_authorities() {
    let made = rcgen::generate_simple_self_signed(["up.test".to_owned()]).expect("a certificate");
    let dir = tempfile::tempdir().expect("a directory");
    let issued = Issued { cert: dir.path().join("up.crt"), key: dir.path().join("up.key"), serial: 1 };
    std::fs::write(&issued.cert, made.cert.pem()).expect("written");
    std::fs::write(&issued.key, made.signing_key.serialize_pem()).expect("written");
    let endpoint = Secure::start(plain(&issued));
    // The system's list, as the test has it.
    let ca = Authority::new("ca");
    let plan = |tls: &str| {
        crate::support::gateway::Plan::new(&to(endpoint.address, tls)).env("SSL_CERT_FILE", ca.ca().display())
    };
    let gateway = plan("server_name: up.test").start();
    refused(&gateway.get("/a"), &gateway, "upstream_certificate", "the certificate is of an unknown authority");
    let pinned = to(endpoint.address, &format!("ca: [{}], server_name: up.test", issued.cert.display()));
    assert_eq!(gateway.reload(&pinned).status, 200);
    assert_eq!(gateway.get("/a").text(), "1", "named itself, it is believed");
}

/// CVE-2026-47778: a name that ended at its NUL for one reader, and not for the other (F85).
#[test]
fn cve_2026_47778_a_nul_in_a_name_ends_no_name() {
    let ca = Authority::new("ca");
    for (at, name) in ["up.test\0.evil.test", "up.test\0", "\0up.test", "*.test\0"].into_iter().enumerate() {
        let endpoint = Secure::start(plain(&ca.issue(&format!("nul-{at}"), &[name])));
        let gateway = Gateway::start(&to(endpoint.address, &trusting(&ca, ", server_name: up.test")));
        let response = gateway.get("/a");
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_certificate"), "{name:?}");
        assert!(endpoint.met().is_empty(), "{name:?}: nothing of the request has left");
    }
}

/// CVE-2026-1642: what stood before the handshake was taken for the endpoint's answer.
#[test]
fn cve_2026_1642_plaintext_before_the_handshake_is_no_answer() {
    let ca = Authority::new("ca");
    for text in ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", "", "\x15\x03\x03\x00\x02\x02\x28"] {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let _ = stream.write_all(text.as_bytes());
                // Until the gateway has said its word.
                let _ = stream.shutdown(std::net::Shutdown::Write);
                let _ = stream.read(&mut [0; 512]);
            }
        });
        let gateway = Gateway::start(&to(address, &trusting(&ca, ", server_name: up.test")));
        let response = gateway.get("/a");
        assert_eq!((response.status, response.reason().as_str()), (502, "upstream_handshake"), "{text:?}");
        let detail = match text.bytes().next() {
            Some(b'H') => "the endpoint does not speak TLS",
            None => "the endpoint closed in the handshake",
            _ => "the endpoint refuses the handshake",
        };
        assert_eq!(logged(&gateway, 0).1, detail);
    }
}

#[test]
fn a_handshake_that_does_not_come_ends_with_the_time_to_connect() {
    let ca = Authority::new("ca");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let yaml = to(address, &trusting(&ca, "")).replace("tls:", "timeouts: {connect: 300ms}, tls:");
    let gateway = Gateway::start(&yaml);
    let response = gateway.get("/a");
    assert_eq!((response.status, response.reason().as_str()), (504, "connect_timeout"));
    assert_eq!(logged(&gateway, 0).1, "in the TLS handshake");
}

#[test]
fn a_client_certificate_is_shown_where_it_is_asked_for() {
    let (ca, clients) = (Authority::new("ca"), Authority::new("clients"));
    let own = clients.issue("gateway", &["gateway.test"]);
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let endpoint = Secure::start(serving(&ca.issue("up", &["up.test"]), Some(&clients), &[version]));
        let with = trusting(&ca, &format!(", server_name: up.test, {}", own.yaml()));
        let gateway = Gateway::start(&to(endpoint.address, &with));
        assert_eq!(gateway.get("/a").text(), "1");
        assert!(endpoint.met()[0].client);
        let without = to(endpoint.address, &trusting(&ca, ", server_name: up.test"));
        assert_eq!(gateway.reload(&without).status, 200);
        let response = gateway.get("/a");
        assert_eq!(response.status, 502, "{}", response.text());
        // In 1.3 it is refused behind the client's side of the handshake.
        assert!(matches!(response.reason().as_str(), "upstream_handshake" | "upstream_reset" | "upstream_closed"));
        assert_eq!(endpoint.met().len(), 1);
    }
}

#[test]
fn https_urls_and_tcp_listeners_reach_endpoints_by_tls() {
    let ca = Authority::new("ca");
    let endpoint = Secure::start(plain(&ca.issue("up", &["localhost", "up.test"])));
    let port = endpoint.address.port();
    let url = format!("routes: [{{name: all, path: /*, service_url: \"https://localhost:{port}\"}}]\n");
    let gateway = crate::support::gateway::Plan::new(&url).env("SSL_CERT_FILE", ca.ca().display()).start();
    assert_eq!(gateway.get("/a").text(), "1");
    assert_eq!(endpoint.met()[0].name.as_deref(), Some("localhost"));
    let tls = trusting(&ca, ", server_name: up.test");
    let passed = format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocol: tcp, service: up}}]\nservices: [{{name: up, endpoints: [\"{}\"], tls: {{{tls}}}}}]\n",
        endpoint.address
    );
    let gateway = Gateway::start(&passed);
    assert_eq!(gateway.get("/a").text(), "1", "what comes plain leaves sealed");
    assert_eq!(endpoint.met()[1].name.as_deref(), Some("up.test"));
}

#[test]
fn http2_is_agreed_on_and_never_guessed() {
    let ca = Authority::new("ca");
    for alpn in [vec![b"http/1.1".to_vec()], Vec::new()] {
        let mut config = plain(&ca.issue("up", &["up.test"]));
        config.alpn_protocols = alpn;
        let endpoint = Secure::start(config);
        let yaml = to(endpoint.address, &trusting(&ca, ", server_name: up.test"));
        let gateway = Gateway::start(&yaml.replace("tls:", "protocol: h2, tls:"));
        let response = gateway.get("/a");
        refused(&response, &gateway, "upstream_handshake", "the endpoint does not speak our protocol");
        assert!(endpoint.met().is_empty());
    }
}

#[test]
fn wrong_files_and_risks_are_reported() {
    let ca = Authority::new("ca");
    let (one, two) = (ca.issue("one", &["a.test"]), ca.issue("two", &["a.test"]));
    let address = "127.0.0.1:9".parse().expect("an address");
    let said = |tls: &str| {
        let exited = crate::support::gateway::Plan::new(&to(address, tls)).start_in_vain();
        exited.stderr
    };
    assert!(said("ca: [/nowhere/ca.pem]").contains("`/nowhere/ca.pem` cannot be read"));
    assert!(said(&format!("ca: [{}]", one.key.display())).contains("there is no certificate in it"));
    let crossed = format!("cert: {}, key: {}", one.cert.display(), two.key.display());
    assert!(said(&crossed).contains("the private key belongs to another certificate"));
    assert!(said(&format!("cert: {}", one.cert.display())).contains("`cert` needs its `key`"));
    assert!(said("server_name: \"a b\"").contains("is no name that a certificate can be for"));
    let file = ca.path("risky.yaml");
    std::fs::write(&file, "listeners: [\":8080\"]\n".to_owned() + &to(address, "verify: false")).expect("written");
    let check = |more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
        command.arg("check").args(more).arg(&file).output().expect("it runs")
    };
    let output = check(&["--strict"]);
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success() && text.contains("are not verified"), "{text}");
    assert!(check(&[]).status.success());
}

/// A server that is not ours, with both versions.
#[test]
fn openssl_answers() {
    if !has("openssl") {
        return;
    }
    let ca = Authority::new("ca");
    let one = ca.issue("up", &["up.test"]);
    for version in ["-tls1_3", "-tls1_2"] {
        let port = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
        let mut server = Command::new("openssl")
            .args(["s_server", "-accept", &format!("127.0.0.1:{port}"), "-www", "-quiet", version])
            .arg("-key")
            .arg(&one.key)
            .arg("-cert")
            .arg(&one.cert)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        eventually("it listens", || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let gateway = Gateway::start(&to(address, &trusting(&ca, ", server_name: up.test")));
        let response = gateway.get("/");
        let _ = server.kill();
        let _ = server.wait();
        assert_eq!(response.status, 200, "{version} {}", response.text());
        assert!(response.text().contains("s_server"), "{version}");
    }
}

/// Active checks go over the service's TLS, with the same verification.
#[test]
fn checks_verify_as_requests_do() {
    let (ca, stranger) = (Authority::new("trusted"), Authority::new("stranger"));
    let (good, other) = (named(&ca, "localhost"), named(&stranger, "localhost"));
    let check = "health_check: {interval: 50ms, rise: 1, fall: 1}";
    let gateway = Gateway::start(&format!(
        "services:\n  - {{name: good, endpoints: [\"localhost:{}\"], tls: {{{tls}}}, {check}}}\n  \
         - {{name: other, endpoints: [\"localhost:{}\"], tls: {{{tls}}}, {check}}}\n\
         routes: [{{name: good, path: /good, service: good}}, {{name: other, path: /other, service: other}}]\n",
        good.address.port(),
        other.address.port(),
        tls = trusting(&ca, "")
    ));
    eventually("checks", || {
        let passed = gateway.metric("ringway_health_checks_total", &["service=\"good\"", "result=\"passed\""]);
        let failed = gateway.metric("ringway_health_checks_total", &["service=\"other\"", "result=\"failed\""]);
        (passed >= 2.0 && failed >= 1.0).then_some(())
    });
    assert_eq!(gateway.metric("ringway_health_checks_total", &["service=\"good\"", "result=\"failed\""]), 0.0);
    let other = gateway.get("/other");
    assert_eq!((other.status, other.reason().as_str()), (503, "no_endpoint"));
    assert_eq!(gateway.get("/good").status, 200);
}
