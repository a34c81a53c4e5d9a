//! F24, F35, F36: an endpoint's answer is read as strictly as a request. What has no single reading becomes 502 with
//! its reason, what breaks off is cut, and the connection is never used again.

use std::time::Duration;

use crate::support::e2e::{Gateway, Origin, Step, eventually};
use crate::support::{Case, Want, check};

const GET: &str = "GET /x HTTP/1.1\r\nHost: a\r\n\r\n";
const INVALID: Want = Want::Failed(502, "upstream_invalid");
const LARGE: Want = Want::Failed(502, "upstream_header_too_large");

/// Answers that are no HTTP/1.1.
pub fn heads() -> Vec<Case> {
    let case = |name: &str, answer: &str| Case::new(name, GET, INVALID).answer(answer);
    let ok =
        |name: &str, fields: &str| Case::new(name, GET, INVALID).answer(format!("HTTP/1.1 200 OK\r\n{fields}\r\nok"));
    let length = |name: &str, value: &str| ok(name, &format!("Content-Length:{value}\r\n"));
    let coding = |name: &str, value: &str| {
        let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding:{value}\r\n\r\n2\r\nok\r\n0\r\n\r\n");
        Case::new(name, GET, INVALID).answer(answer)
    };
    vec![
        case("garbage", "SSH-2.0-OpenSSH_9.2\r\n"),
        case("body without a head (HTTP/0.9)", "<html>hello</html>\r\n\r\n"),
        case("empty line before", "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("bare LF before", "\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("version 2.0", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("version 1.2", "HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("lower case http", "http/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n"),
        case("status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n"),
        case("status 099", "HTTP/1.1 099 OK\r\nContent-Length: 0\r\n\r\n"),
        case("status -20", "HTTP/1.1 -20 OK\r\nContent-Length: 0\r\n\r\n"),
        case("two spaces before the status", "HTTP/1.1  200 OK\r\nContent-Length: 0\r\n\r\n"),
        case("NUL in the reason phrase", "HTTP/1.1 200 O\0K\r\nContent-Length: 0\r\n\r\n"),
        case("bare CR in the reason phrase", "HTTP/1.1 200 O\rK\r\nContent-Length: 0\r\n\r\n"),
        case("bare LF everywhere", "HTTP/1.1 200 OK\nContent-Length: 0\n\n"),
        case("bare LF behind the status line", "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n"),
        case("bare LF for the empty line", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\n"),
        case("head that ends early", "HTTP/1.1 200 OK\r\nContent-Le"),
        ok("NUL in a value", "X: a\0b\r\nContent-Length: 2\r\n"),
        ok("control in a value", "X: a\x01b\r\nContent-Length: 2\r\n"),
        ok("bare CR in a value", "X: a\rY: b\r\nContent-Length: 2\r\n"),
        ok("bare LF between two fields", "X: a\nContent-Length: 2\r\n"),
        ok("folded line", "X: a\r\n b\r\nContent-Length: 2\r\n"),
        ok("space before a colon", "Content-Length : 2\r\n"),
        ok("no colon", "X\r\nContent-Length: 2\r\n"),
        ok("empty name", ": a\r\nContent-Length: 2\r\n"),
        ok("length and chunked", "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n"),
        ok("chunked and length", "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n"),
        ok("two equal lengths", "Content-Length: 2\r\nContent-Length: 2\r\n"),
        ok("two different lengths", "Content-Length: 2\r\nContent-Length: 3\r\n"),
        length("list of equal lengths", " 2, 2"),
        length("empty length", ""),
        length("length +2", " +2"),
        length("length -2", " -2"),
        length("length 0x2", " 0x2"),
        length("length 2^64 + 2", " 18446744073709551618"),
        coding("gzip, chunked", " gzip, chunked"),
        coding("chunked, identity", " chunked, identity"),
        coding("identity", " identity"),
        coding("xchunked", " xchunked"),
        coding("chunked twice", " chunked, chunked"),
        case("chunked in HTTP/1.0", "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        case("101 that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\nleak"),
        Case::new(
            "101 to an upgrade that was not passed on",
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tea/1\r\n\r\n",
            INVALID,
        )
        .answer("HTTP/1.1 101 Switching Protocols\r\nUpgrade: tea/1\r\n\r\nleak"),
        Case::new("200 fields", GET, LARGE)
            .answer(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(200))),
        Case::new("5,000 fields", GET, LARGE)
            .answer(format!("HTTP/1.1 200 OK\r\n{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(5_000))),
        Case::new("head of 1 MiB in one field", GET, LARGE)
            .answer(format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 0\r\n\r\n", "a".repeat(1 << 20))),
        Case::new("head of 1 MiB that does not end", GET, LARGE)
            .answer(format!("HTTP/1.1 200 OK\r\nX: {}", "a".repeat(1 << 20))),
    ]
}

/// Bodies that break off or break their coding, and interim responses.
pub fn bodies() -> Vec<Case> {
    let chunked = |name: &str, body: &str, want: Want| {
        Case::new(name, GET, want).answer(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))
    };
    let bad = Want::Failed(502, "upstream_bad_chunk");
    let long = "x".repeat(200_000);
    let interims = |count: usize| {
        let one = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n";
        format!("{}HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", one.repeat(count))
    };
    vec![
        Case::new("length, ends early", GET, Want::Cut).answer("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel"),
        Case::new("length of 200 KB, ends early", GET, Want::Cut)
            .answer(format!("HTTP/1.1 200 OK\r\nContent-Length: 200001\r\n\r\n{long}")),
        chunked("chunked, ends within a chunk", "5\r\nhel", Want::Cut),
        chunked("chunked, ends behind a chunk", "5\r\nhello\r\n", Want::Cut),
        chunked("chunked, ends within the last chunk", "5\r\nhello\r\n0\r\n", Want::Cut),
        chunked("chunked, ends within a trailer", "5\r\nhello\r\n0\r\nX: y", Want::Cut),
        chunked("chunked, no chunk at all", "", Want::Cut),
        chunked("chunk size in words", "zz\r\nhello\r\n0\r\n\r\n", bad),
        chunked("chunk size 0x5", "0x5\r\nhello\r\n0\r\n\r\n", bad),
        chunked("chunk size over 2^64", "10000000000000005\r\nhello\r\n0\r\n\r\n", bad),
        chunked("bare LF behind a chunk size", "5\nhello\r\n0\r\n\r\n", bad),
        chunked("space behind a chunk size", "5 \r\nhello\r\n0\r\n\r\n", bad),
        chunked("more data than the size says", "5\r\nhelloX\r\n0\r\n\r\n", bad),
        chunked("bare LF in trailers", "5\r\nhello\r\n0\r\nX: y\n\r\n", bad),
        // Longer than a first read may be: whether the head has left when the bound is passed depends on that.
        chunked(
            "chunk extension of 5 KB",
            &format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(5_000)),
            Want::Broken(502, "upstream_bad_chunk"),
        ),
        chunked("trailers of 9 KB", &format!("5\r\nhello\r\n0\r\nX: {}\r\n\r\n", "a".repeat(9_000)), Want::Cut),
        chunked("broken behind 200 KB", &format!("30d40\r\n{long}\r\nzz\r\n"), Want::Cut),
        Case::new("16 interim responses", GET, Want::Served).answer(interims(16)),
        Case::new("17 interim responses", GET, INVALID).answer(interims(17)),
        Case::new("1,000 interim responses", GET, INVALID).answer(interims(1_000)),
        Case::new("interim response with a body", GET, INVALID).answer(
            "HTTP/1.1 103 Early Hints\r\nContent-Length: 4\r\n\r\nleakHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        ),
        Case::new("interim response alone", GET, Want::Failed(502, "upstream_closed"))
            .answer("HTTP/1.1 103 Early Hints\r\n\r\n"),
    ]
}

#[test]
fn heads_have_one_reading() {
    check(&heads());
}

#[test]
fn bodies_are_whole_or_cut() {
    check(&bodies());
}

/// The connection that brought such an answer is not used again: the next request comes over another.
#[test]
fn a_connection_with_a_bad_answer_is_never_pooled() {
    let mut answers: Vec<Vec<u8>> = heads().into_iter().chain(bodies()).map(|case| case.answer).collect();
    // Complete answers with something behind them.
    for behind in ["x", "\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nother"] {
        answers.push(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{behind}").into());
        answers.push(format!("HTTP/1.1 204 No Content\r\n\r\n{behind}").into());
        answers.push(format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n{behind}").into());
        answers
            .push(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{behind}").into());
    }
    answers.retain(|answer| !is_pooled_by_right(answer));
    let current = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let theirs = current.clone();
    // The origin keeps every connection open.
    let origin = Origin::start(move |_| vec![Step::Send(theirs.lock().expect("an answer").clone())]);
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"], timeouts: {{first_byte: 1s, between_bytes: 1s}}}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    for answer in answers {
        current.lock().expect("an answer").clone_from(&answer);
        let before = origin.connections();
        let mut client = gateway.connect();
        // Not repeated when it fails.
        client.send("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
        let _ = client.try_response(false);
        *current.lock().expect("an answer") = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nmine".to_vec();
        let text = answer[..answer.len().min(120)].escape_ascii().to_string();
        assert_eq!(gateway.get("/2").text(), "mine", "behind {text}");
        assert!(origin.connections() - before >= 2, "reused behind {text}");
        origin.close_connections();
        // What lies in the pool is closed now, and is not to be met by the next case.
        eventually("the pool is empty", || {
            (gateway.metric("gateway_upstream_connections", &["idle"]) == 0.0).then_some(())
        });
    }
}

/// Whether an answer is whole and good, nothing behind it.
fn is_pooled_by_right(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    text.starts_with("HTTP/1.1 103") && text.ends_with("\r\n\r\nok") && text.matches(" 103 ").count() <= 16
}

/// F24: nothing that was cut looks complete, with a length or in chunks, to clients of either version.
#[test]
fn a_truncated_answer_never_looks_complete() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhel",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
    ] {
        for version in ["1.0", "1.1"] {
            let origin = Origin::start(move |_| {
                vec![Step::Send(answer.into()), Step::Await(std::sync::mpsc::channel().1), Step::Close]
            });
            let gateway = crate::support::e2e::before(&origin);
            let mut client = gateway.connect();
            client.stream.set_read_timeout(Some(Duration::from_secs(60))).expect("an option");
            client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            let mut raw = Vec::new();
            let ended = std::io::Read::read_to_end(&mut client.stream, &mut raw);
            let text = String::from_utf8_lossy(&raw).into_owned();
            let delimited = text.contains("Content-Length: 9") || text.contains("chunked");
            // A message that ends with its connection is cut by a reset.
            assert!(delimited || ended.is_err(), "{version}: {text}");
            assert!(!text.ends_with("0\r\n\r\n"), "{text}");
            eventually("it is counted", || {
                (gateway.metric("gateway_errors_total", &["upstream_truncated"]) == 1.0).then_some(())
            });
        }
    }
}
