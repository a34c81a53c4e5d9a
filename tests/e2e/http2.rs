//! HTTP/2 with real clients: curl, nghttp and h2load. Without them a test says that it was skipped.

use std::io::Write;
use std::process::{Command, Stdio};

use crate::support::{Gateway, Origin, ok};

#[path = "../support/h2.rs"]
pub mod wire;

use wire::H2;

fn before(origin: &Origin, top: &str) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\", protocols: [http1, h2c]}}]\n{top}\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: fixed, path: /fixed, respond: {{body: fixed}}}}, {{name: all, path: /*, service: up}}]\n",
        origin.address
    ))
}

/// What a program prints, or None where it is not installed.
fn run(program: &str, arguments: &[&str], input: &[u8]) -> Option<String> {
    let started = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = started else {
        println!("{program} is not installed: skipped");
        return None;
    };
    let mut stdin = child.stdin.take().expect("a pipe");
    let bytes = input.to_vec();
    let writing = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("it ends");
    let _ = writing.join();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {text}");
    Some(text)
}

#[test]
fn curl_asks_and_uploads() {
    let origin = Origin::start(|seen| ok(&seen.body));
    let gateway = before(&origin, "");
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    let prior = ["-sS", "--max-time", "20", "--http2-prior-knowledge"];
    let ask = |more: &[&str], input: &[u8]| run("curl", &[&prior[..], more].concat(), input);
    let Some(text) = ask(&["-i", &url("/fixed")], b"") else { return };
    assert!(text.starts_with("HTTP/2 200") && text.ends_with("fixed"), "{text}");
    let body: String = (0..60_000).map(|n| format!("{n:05}")).collect();
    let echoed = ask(&["--data-binary", "@-", &url("/echo")], body.as_bytes()).expect("curl is here");
    assert!(echoed == body, "{} of {} bytes", echoed.len(), body.len());
    assert_eq!(origin.last().header("content-length"), Some("300000"));
    // HTTP/1 on the same listener; an Upgrade to h2c is not taken up.
    let text = run("curl", &["-sS", "-i", "--max-time", "20", "--http2", &url("/fixed")], b"").expect("curl is here");
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
}

#[test]
fn nghttp_and_h2load_ask_on_many_streams() {
    let origin = Origin::start(|_| ok(vec![b'x'; 1_024]));
    let gateway = before(&origin, "");
    let url = |path: &str| format!("http://{}{path}", gateway.address);
    if let Some(text) = run("nghttp", &["-v", "-m", "5", &url("/a")], b"") {
        assert_eq!(text.matches(":status: 200").count(), 5, "{text}");
        assert!(text.contains("SETTINGS_MAX_CONCURRENT_STREAMS(0x03):100"), "{text}");
    }
    if let Some(text) = run("h2load", &["-n", "2000", "-c", "4", "-m", "20", &url("/a")], b"") {
        assert!(text.contains("2000 succeeded, 0 failed, 0 errored"), "{text}");
        assert!(gateway.metric("ringway_worker_h2_streams_total", &[]) >= 2_000.0);
    }
}

#[test]
fn a_listener_without_h2c_does_not_speak_it() {
    let origin = Origin::fixed("");
    let gateway = crate::support::before(&origin);
    let mut client = gateway.connect();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    assert_eq!(client.response().status, 505);
}

/// A listener that a reload drops: who has nothing but a quiet stream there is told at once.
#[test]
fn a_listener_that_is_dropped_says_so_on_its_quiet_connections() {
    let origin = Origin::start(|_| vec![crate::support::Step::Hang]);
    let spare = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("an address");
    let config = |more: &str| {
        format!(
            "listeners: [\"127.0.0.1:0\"{more}]\nservices: [{{name: up, endpoints: [\"{}\"]}}]\n\
             routes: [{{path: /*, service: up}}]\n",
            origin.address
        )
    };
    let gateway = Gateway::start(&config(&format!(", {{address: \"{spare}\", protocols: [h2c]}}")));
    let mut client = H2::connect(spare);
    client.send(&wire::get(1, "/hangs"));
    origin.wait(1);
    assert!(client.ping());
    assert_eq!(gateway.reload(&config("")).status, 200);
    while client.goaway.is_none() {
        assert!(client.step(), "it goes on with its stream");
    }
    assert_eq!(client.goaway.as_ref().map(wire::Frame::code), Some(0));
    assert!(client.ping(), "it goes on with its stream");
}

/// A stop: first GOAWAY that leaves room for what is on its way, then the last stream, then the close.
#[test]
fn a_stop_is_announced_and_what_is_under_way_is_served() {
    let (release, released) = std::sync::mpsc::channel();
    let released = std::sync::Mutex::new(Some(released));
    let origin = Origin::start(move |_| {
        let wait = released.lock().expect("the one request").take().expect("one request");
        let mut steps = vec![crate::support::Step::Await(wait)];
        steps.extend(ok("late"));
        steps
    });
    let gateway = before(&origin, "");
    let mut client = H2::connect(gateway.address);
    let mut idle = H2::connect(gateway.address);
    idle.send(&wire::get(1, "/fixed"));
    assert_eq!(idle.answer(1).status, 200);
    client.send(&wire::get(1, "/slow"));
    origin.wait(1);
    gateway.signal("TERM");
    assert_eq!(idle.end().map(|(code, _)| code), Some(0));
    let mut lasts = Vec::new();
    while lasts.len() < 2 {
        let frame = client.frame().expect("GOAWAY comes");
        match frame.kind {
            wire::GOAWAY => {
                assert_eq!(frame.code(), 0);
                lasts.push(u32::from_be_bytes(frame.payload[..4].try_into().expect("four bytes")));
            }
            wire::PING => drop(client.send(&wire::raw(wire::PING, wire::ACK, 0, &frame.payload))),
            _ => {}
        }
    }
    assert_eq!(lasts, [i32::MAX as u32, 1]);
    release.send(()).expect("the origin waits");
    assert_eq!(client.answer(1).body, b"late");
    client.end();
    assert!(client.closed, "with its last stream");
}
