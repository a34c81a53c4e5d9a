//! The access log of a running gateway (A16, R201–R205, F16, F78).

use std::path::Path;

use serde_json::Value;

use crate::support::{Gateway, Origin, Step, eventually, ok};

/// The lines of a log, once there are so many.
#[track_caller]
fn lines(path: &Path, count: usize) -> Vec<String> {
    eventually(&format!("{count} lines in the log"), || {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        (lines.len() >= count && text.ends_with('\n')).then_some(lines)
    })
}

fn logging(format: &str, path: &Path) -> (Gateway, Origin) {
    let origin = Origin::start(|seen| match seen.path() {
        "/fails" => vec![Step::Reset],
        _ => ok("hello"),
    });
    let gateway = Gateway::start(&format!(
        "logging: {{access_log: {{format: {format}, path: {}}}}}\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /a/*, service: up}}, {{name: fails, path: /fails, service: up}}]\n",
        path.display(),
        origin.address
    ));
    (gateway, origin)
}

#[test]
fn json_lines_tell_everything_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let (gateway, origin) = logging("json", &path);
    let id = gateway
        .ask("POST /a/b?x=1&token=hunter2 HTTP/1.1\r\nHost: Shop.example\r\nUser-Agent: te\"st\\\t\u{e9}\r\nContent-Length: 3\r\n\r\nabc")
        .header("x-request-id")
        .map(str::to_owned);
    gateway.get("/fails");
    gateway.get("/nowhere");
    gateway.ask("GET / HTTP/1.1\r\n\r\n");
    gateway.ask("\x01\x02\r\n\r\n");
    let text = lines(&path, 5);
    let entries: Vec<Value> = text.iter().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(entries.len(), 5);
    let first = &entries[0];
    for (key, value) in [
        ("message", "Request completed".into()),
        ("level", "INFO".into()),
        ("method", "POST".into()),
        ("path", "/a/b".into()),
        ("query", "x=1&token=***".into()),
        ("status", Value::from(200)),
        ("client", "127.0.0.1".into()),
        ("host", "shop.example".into()),
        ("route", "all".into()),
        ("service", "up".into()),
        ("endpoint", origin.address.to_string().into()),
        ("upstream_status", Value::from(200)),
        ("attempts", Value::from(1)),
        ("protocol", "HTTP/1.1".into()),
        ("bytes_in", Value::from(3)),
        ("bytes_out", Value::from(5)),
        ("request_id", id.into()),
    ] {
        assert_eq!(first[key], value, "{key} in {}", text[0]);
    }
    assert!(first["duration_ms"].is_number() && first["reason"].is_null(), "{first}");
    assert!(!text.join("").contains("hunter2") && !text.join("").bytes().any(|b| b < 0x20), "{text:?}");
    let reasons: Vec<_> = entries.iter().map(|e| (e["status"].as_u64(), e["reason"].as_str())).collect();
    assert_eq!(
        reasons[1..],
        [
            (Some(502), Some("upstream_reset")),
            (Some(404), Some("no_route")),
            (Some(400), Some("bad_host")),
            (Some(400), Some("bad_request_line")),
        ]
    );
}

#[test]
fn a_client_that_leaves_is_499() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let (gateway, origin) = logging("json", &path);
    let mut client = gateway.connect();
    client.send("POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhalf");
    eventually("the upload began", || (!origin.received().is_empty()).then_some(()));
    drop(client);
    let entry: Value = serde_json::from_str(&lines(&path, 1)[0]).expect("JSON");
    assert_eq!((&entry["status"], &entry["reason"]), (&499.into(), &"client_closed".into()));
}

#[test]
fn common_and_combined_lines_are_what_other_tools_read() {
    for format in ["common", "combined"] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let (gateway, _origin) = logging(format, &path);
        gateway.ask(
            "GET /a/b?q=1 HTTP/1.1\r\nHost: a\r\nReferer: http://x/?token=hunter2\r\nUser-Agent: quo\"te\\ \t agent\r\n\r\n",
        );
        let line = lines(&path, 1).remove(0);
        let (before, rest) = line.split_once(" [").expect("a time");
        assert_eq!(before, "127.0.0.1 - -");
        let (time, rest) = rest.split_once("] ").expect("a time");
        assert_eq!((time.len(), time.as_bytes()[2], time.as_bytes()[11]), (26, b'/', b':'), "{time}");
        let (request, rest) = rest.split_at("\"GET /a/b?q=1 HTTP/1.1\"".len());
        assert_eq!(request, "\"GET /a/b?q=1 HTTP/1.1\"");
        match format {
            "common" => assert_eq!(rest, " 200 5"),
            _ => {
                assert!(rest.starts_with(" 200 5 \"http://x/?token=***\" \"quo\\x22te\\x5c"), "{rest}");
                assert!(rest.ends_with(" agent\""), "{rest}");
            }
        }
    }
}

#[test]
fn a_rotated_file_is_opened_anew() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, rotated) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let (gateway, _origin) = logging("json", &path);
    assert_eq!(gateway.get("/a/1").status, 200);
    lines(&path, 1);
    std::fs::rename(&path, &rotated).expect("rotated");
    assert_eq!(gateway.get("/a/2").status, 200);
    lines(&rotated, 2);
    gateway.signal("USR1");
    eventually("a new file is there", || path.exists().then_some(()));
    assert_eq!(gateway.get("/a/3").status, 200);
    assert!(lines(&path, 1)[0].contains("/a/3"));
    assert_eq!(lines(&rotated, 2).len(), 2);
}

#[test]
fn every_request_of_many_is_logged_once_and_the_rest_at_the_stop() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    let (mut gateway, _origin) = logging("json", &path);
    let mut client = gateway.connect();
    for number in 0..500 {
        assert_eq!(client.get(&format!("/a/{number}")).status, 200);
    }
    gateway.signal("TERM");
    assert_eq!(gateway.exit_code(), 0);
    let text = lines(&path, 500);
    assert_eq!(text.len(), 500);
    for (number, line) in text.iter().enumerate() {
        assert!(line.contains(&format!("\"/a/{number}\"")), "line {number}: {line}");
    }
}

#[test]
fn it_goes_to_standard_output_and_can_change_at_a_reload() {
    let yaml = |format: &str| format!("logging: {{access_log: {format}}}\nroutes: [{{path: /*, respond: 204}}]\n");
    let gateway = Gateway::start(&yaml("combined"));
    assert_eq!(gateway.get("/one").status, 204);
    eventually("a line is written", || {
        gateway.stdout().iter().any(|line| line.contains("\"GET /one HTTP/1.1\" 204 0")).then_some(())
    });
    assert_eq!(gateway.reload(&yaml("off")).status, 200);
    assert_eq!(gateway.get("/two").status, 204);
    assert_eq!(gateway.reload(&yaml("json")).status, 200);
    assert_eq!(gateway.get("/three").status, 204);
    eventually("a JSON line is written", || {
        gateway.stdout().iter().any(|line| line.contains("\"path\":\"/three\"")).then_some(())
    });
    assert!(!gateway.stdout().iter().any(|line| line.contains("/two")), "{:?}", gateway.stdout());
}

#[test]
fn a_full_device_stops_nothing() {
    let (gateway, _origin) = logging("json", Path::new("/dev/full"));
    let mut client = gateway.connect();
    for _ in 0..200 {
        assert_eq!(client.get("/a/x").status, 200);
    }
}

/// F78: whatever byte a client sends, a line stays a line, and nothing in it steers a terminal.
#[test]
fn no_byte_of_a_request_breaks_a_line() {
    for format in ["json", "common", "combined"] {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("access.log");
        let (mut gateway, _origin) = logging(format, &path);
        for byte in 0..=255_u8 {
            let at = |text: &str| [text.as_bytes(), &[byte], b"z"].concat();
            let (target, agent) = (at("GET /a/"), at("\r\nUser-Agent: a"));
            let referer = at(" HTTP/1.1\r\nHost: a\r\nReferer: http://r/");
            // One request with the byte in its target, one with it in its fields.
            for parts in [[&target[..], b"?q= HTTP/1.1\r\nHost: a", b""], [b"GET /a/b", &referer, &agent]] {
                let mut client = gateway.connect();
                client.send([&parts.concat()[..], b"\r\nConnection: close\r\n\r\n"].concat());
                client.response();
            }
        }
        gateway.signal("TERM");
        assert_eq!(gateway.exit_code(), 0);
        let text = String::from_utf8(std::fs::read(&path).expect("a log")).expect("UTF-8");
        assert_eq!(text.lines().count(), 512, "{format}");
        assert!(!text.lines().any(|line| line.chars().any(char::is_control)), "{format}: {text:?}");
        if format == "json" {
            text.lines().for_each(|line| drop(serde_json::from_str::<Value>(line).expect(line)));
        }
    }
}

/// A FIFO with a reader that does not read.
fn unread_pipe(dir: &Path) -> (std::path::PathBuf, std::fs::File) {
    use std::os::unix::fs::OpenOptionsExt;
    let path = dir.join("access.fifo");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("mkfifo runs");
    assert!(made.success());
    let reader = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(&path);
    (path, reader.expect("a reader"))
}

/// F15: 4,000 requests are served while nobody reads the log; what was dropped is counted, and said when it recovers.
#[test]
fn a_pipe_that_nobody_reads_stops_nothing() {
    use std::io::Read;
    let dir = tempfile::tempdir().expect("a directory");
    let (path, mut reader) = unread_pipe(dir.path());
    let (gateway, _origin) = logging("json", &path);
    let mut client = gateway.connect();
    let long = "x".repeat(1_000);
    for number in 0..4_000 {
        assert_eq!(client.get(&format!("/a/{number}/{long}")).status, 200);
    }
    let dropped = gateway.metric("ringway_worker_log_lines_dropped_total", &[]);
    assert!(dropped > 0.0 && dropped < 4_000.0, "{dropped} lines dropped");
    gateway.wait_idle();
    // The reader comes back. One more request makes the line that tells what is missing.
    let mut text = Vec::new();
    let mut asked = false;
    let lines = eventually("every line that was kept", || {
        // At the end of what is there the pipe would block.
        let _ = reader.read_to_end(&mut text);
        let lines: Vec<&[u8]> = text.split_inclusive(|byte| *byte == b'\n').collect();
        let told: f64 =
            lines.iter().filter_map(|line| serde_json::from_slice::<Value>(line).ok()?["dropped"].as_f64()).sum();
        if !asked && text.len() > 512 * 1024 {
            asked = true;
            assert_eq!(client.get("/a/last").status, 200);
        }
        let is_last = lines.last().is_some_and(|line| memchr::memmem::find(line, b"/a/last").is_some());
        (told == dropped && is_last).then_some(lines.len())
    });
    let notices = text
        .split(|b| *b == b'\n')
        .filter(|line| line.starts_with(b"{") && memchr::memmem::find(line, b"lines dropped").is_some());
    assert_eq!(lines as f64, 4_001.0 - dropped + notices.count() as f64);
    assert_eq!(gateway.metric("ringway_access_log_write_errors_total", &[]), 0.0, "a full pipe is no error");
}

/// F16: what cannot be written is tried again, counted, and said once; the old file stays where no new one can be made.
#[test]
fn a_disk_that_refuses_is_counted_and_said_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("access.log");
    std::os::unix::fs::symlink("/dev/full", &path).expect("a link");
    let (gateway, _origin) = logging("json", &path);
    let mut client = gateway.connect();
    assert_eq!(client.get("/a/1").status, 200);
    eventually("errors are counted", || {
        (gateway.metric("ringway_access_log_write_errors_total", &[]) >= 3.0).then_some(())
    });
    assert_eq!(gateway.logs("Access log cannot be written, trying again").len(), 1);
    // Space again: what was held back is written, and the log says so once.
    std::fs::remove_file(&path).expect("removed");
    gateway.signal("USR1");
    assert!(lines(&path, 1)[0].contains("/a/1"));
    gateway.wait_log("Access log can be written again", 1);
    // The file is deleted, and its name taken by a directory: the old one stays in use until a name is free again.
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("a directory");
    let before = gateway.metric("ringway_access_log_write_errors_total", &[]);
    gateway.signal("USR1");
    gateway.wait_log("Access log cannot be opened anew, the old file stays", 1);
    assert_eq!(gateway.metric("ringway_access_log_write_errors_total", &[]), before + 1.0);
    assert_eq!(client.get("/a/2").status, 200);
    std::fs::remove_dir(&path).expect("removed");
    gateway.signal("USR1");
    eventually("a new file is there", || path.exists().then_some(()));
    assert_eq!(client.get("/a/3").status, 200);
    eventually("the next line is in it", || {
        std::fs::read_to_string(&path).ok().filter(|text| text.contains("/a/3") && text.ends_with('\n'))
    });
}
