use std::fs::{self, File};
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::error::{Failure, Reason};
use crate::http::exchange::RequestId;

const UNIX_MS: u64 = 1_786_970_096_789;

fn exchange() -> Exchange {
    let mut x = Exchange { id: RequestId::from_random(1, 2), attempts: 1, upstream_status: 200, ..Exchange::default() };
    x.client_ip = "203.0.113.9".parse().expect("address");
    x.upstream_ns = 1_250_000;
    x.request_bytes = 7;
    x.response_bytes = 1_234;
    x.response.status = 200;
    let fields = &mut x.request.fields;
    fields.append(b"User-Agent", b"curl/8 \"x\"").expect("legal");
    fields.append(b"Referer", b"https://a.example/?token=t1&b=2").expect("legal");
    let texts = ["GET", "/a/../users/1?page=2&api_key=s3cret", "/users/1", "page=2&api_key=s3cret", "a.example"];
    let [method, target, path, query, host] = texts.map(|text| fields.keep(text.as_bytes()));
    let request = &mut x.request;
    (request.method_text, request.target, request.path, request.query, request.host) =
        (method, target, path, Some(query), host);
    x
}

const NAMES: Names<'static> = Names { route: "users", service: "users-v1", endpoint: "10.0.0.1:80" };

fn line(format: Format, exchange: &Exchange, names: &Names<'_>) -> String {
    let mut log = AccessLog::with(format, 3, None);
    log.record(exchange, names, Now(2_500_000), UNIX_MS);
    String::from_utf8(log.buffer).expect("text")
}

#[allow(clippy::disallowed_methods, reason = "the log's thread runs in real time")]
fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::yield_now();
    }
}

#[test]
fn json_lines_have_the_required_fields() {
    let text = line(Format::Json, &exchange(), &NAMES);
    let golden = concat!(
        r#"{"time":"2026-08-17T12:34:56.789Z","level":"INFO","message":"Request completed","method":"GET","#,
        r#""path":"/users/1","query":"page=2&api_key=***","target":"/a/../users/1","status":200,"duration_ms":2.500,"#,
        r#""client":"203.0.113.9","user_agent":"curl/8 \"x\"","request_id":"00000000-0000-4001-8000-000000000002","#,
        r#""host":"a.example","route":"users","service":"users-v1","endpoint":"10.0.0.1:80","upstream_status":200,"#,
        r#""upstream_ms":1.250,"attempts":1,"scheme":"http","protocol":"HTTP/1.1","bytes_in":7,"bytes_out":1234,"#,
        r#""worker":3}"#,
        "\n"
    );
    assert_eq!(text, golden);
    serde_json::from_str::<Value>(&text).expect("JSON");
}

#[test]
fn failures_carry_their_reason_and_unread_requests_a_dash() {
    let failure = Some(Failure::with(Reason::ClientClosed, "reset"));
    let text = line(Format::Json, &Exchange { failure, ..Exchange::default() }, &Names::default());
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(value["status"], 499);
    assert_eq!(
        (&value["reason"], &value["detail"], &value["method"]),
        (&"client_closed".into(), &"reset".into(), &"-".into())
    );
    assert_eq!(value.get("service"), None);
}

#[test]
fn common_and_combined_are_as_others_write_them() {
    let common = r#"203.0.113.9 - - [17/Aug/2026:12:34:56 +0000] "GET /users/1?page=2&api_key=*** HTTP/1.1" 200 1234"#;
    assert_eq!(line(Format::Common, &exchange(), &NAMES), format!("{common}\n"));
    let tail = r#""https://a.example/?token=***&b=2" "curl/8 \x22x\x22""#;
    assert_eq!(line(Format::Combined, &exchange(), &NAMES), format!("{common} {tail}\n"));
    assert_eq!(line(Format::Off, &exchange(), &NAMES), "");
}

#[test]
fn the_longest_line_fits() {
    let mut x = Exchange::default();
    let long = vec![0x01; 9_000];
    let request = &mut x.request;
    let text = request.fields.keep(&long);
    (request.method_text, request.target, request.path, request.query, request.host) =
        (text, text, text, Some(text), text);
    let legal = vec![0xff; 9_000];
    request.fields.append(b"User-Agent", &legal).expect("legal");
    let name = "\u{1}".repeat(9_000);
    let text = line(Format::Json, &x, &Names { route: &name, service: &name, endpoint: &name });
    assert!(text.len() > 90_000 && text.len() <= LINE_BYTES_MAX, "{}", text.len());
    serde_json::from_str::<Value>(&text).expect("JSON");
}

#[test]
fn files_are_appended_to_and_opened_anew_after_a_rename() {
    let dir = tempfile::tempdir().expect("directory");
    let (path, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    fs::write(&path, "before\n").expect("written");
    let writer = AccessLogWriter::start(Target::File(path.clone()), Format::Common, 1).expect("started");
    let mut log = writer.worker(0);
    log.record(&exchange(), &NAMES, Now(0), UNIX_MS);
    log.flush();
    wait_until("first line", || fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 2));
    fs::rename(&path, &old).expect("renamed");
    writer.reopen();
    wait_until("new file", || path.exists());
    log.record(&exchange(), &NAMES, Now(0), UNIX_MS);
    log.flush();
    drop(log);
    assert!(writer.stop(Duration::from_secs(20)));
    let lines = |path| fs::read_to_string(path).expect("read").lines().count();
    assert_eq!((lines(&old), lines(&path)), (2, 1));
}

#[test]
fn a_pipe_that_nobody_reads_costs_lines_but_never_time() {
    let (mut reader, sender) = std::io::pipe().expect("pipe");
    let target = Target::Open(File::from(OwnedFd::from(sender)));
    let writer = AccessLogWriter::start(target, Format::Json, 1).expect("started");
    let mut log = writer.worker(0);
    let requests: u64 = 20_000;
    for _ in 0..requests {
        log.record(&exchange(), &NAMES, Now(0), UNIX_MS);
    }
    let dropped = log.dropped();
    assert!(dropped > 0 && dropped < requests, "{dropped}");
    assert!(log.buffer.len() <= BUFFER_BYTES_MAX);

    // The reader comes back: every line that was not dropped arrives, whole, with one that says how many were.
    let reading = std::thread::spawn(move || {
        let mut text = String::new();
        reader.read_to_string(&mut text).map(|_| text)
    });
    wait_until("handed over", || {
        log.flush();
        log.buffer.is_empty()
    });
    drop(log);
    assert!(writer.stop(Duration::from_secs(20)));
    let text = reading.join().expect("joined").expect("text");
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a whole line")).collect();
    let (notices, written): (Vec<_>, Vec<_>) =
        lines.iter().partition(|line| line["message"] == "Access log lines dropped");
    assert_eq!(written.len() as u64, requests - dropped);
    assert_eq!(notices.iter().filter_map(|line| line["dropped"].as_u64()).sum::<u64>(), dropped);
}

#[test]
fn a_stalled_sink_does_not_hold_the_stop() {
    let (_reader, sender) = std::io::pipe().expect("pipe");
    let target = Target::Open(File::from(OwnedFd::from(sender)));
    let writer = AccessLogWriter::start(target, Format::Json, 1).expect("started");
    let mut log = writer.worker(0);
    for _ in 0..1_000 {
        log.record(&exchange(), &NAMES, Now(0), UNIX_MS);
    }
    log.flush();
    assert!(!writer.stop(Duration::from_millis(50)));
}

#[test]
fn a_full_disk_is_counted_and_tried_again() {
    let writer = AccessLogWriter::start(Target::File("/dev/full".into()), Format::Json, 1).expect("started");
    let mut log = writer.worker(0);
    for _ in 0..5 {
        log.record(&exchange(), &NAMES, Now(0), UNIX_MS);
        log.flush();
    }
    wait_until("two attempts", || writer.write_errors() >= 2);
    assert_eq!(log.dropped(), 0);
    drop(log);
    assert!(writer.stop(Duration::from_secs(20)));
}

#[test]
fn a_sink_that_cannot_be_opened_is_an_error_at_the_start() {
    let missing = Target::File("/nonexistent/access.log".into());
    assert!(AccessLogWriter::start(missing, Format::Json, 1).is_err());
}

#[test]
fn emptied_buffers_come_back() {
    let writer = AccessLogWriter::start(Target::File("/dev/null".into()), Format::Json, 1).expect("started");
    let mut log = writer.worker(0);
    // A buffer that cannot be handed over yet stays full.
    wait_until("an empty buffer with capacity", || {
        log.record(&exchange(), &NAMES, Now(0), UNIX_MS);
        log.flush();
        log.buffer.is_empty() && log.buffer.capacity() > 0
    });
}
