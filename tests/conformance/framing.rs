//! F46: one reading of where a message and each of its parts begins and ends, or none.

use crate::support::{Case, Recorder, Want, check, e2e};

const BAD_LINE: Want = Want::Refused(400, "bad_request_line");
const BAD_HEADER: Want = Want::Refused(400, "bad_header");
const BAD_FRAMING: Want = Want::Refused(400, "bad_framing");
const BAD_CHUNK: Want = Want::Refused(400, "bad_chunk");

fn bytes(name: &str, send: &str, want: Want) -> Case {
    Case::new(name, send, want)
}

/// The request line (RFC 9112 section 3).
pub fn request_lines() -> Vec<Case> {
    let old = Want::Refused(505, "version_unsupported");
    vec![
        bytes("no version (HTTP/0.9)", "GET /\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("space before the method", " GET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("two spaces before the target", "GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("two spaces behind the target", "GET /  HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("space behind the version", "GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("space within the target", "GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("tabs for spaces", "GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("vertical tab for a space", "GET\x0b/ HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("method is no token", "G@T / HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("method with a colon", "GET: / HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("bare LF before the request line", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("bare CR ends the request line", "GET / HTTP/1.1\rHost: a\r\n\r\n", BAD_LINE),
        bytes("bare CR within the request line", "GET /\r HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("NUL in the target", "GET /a\0b HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("control in the target", "GET /a\x01b HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("DEL in the target", "GET /a\x7fb HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        Case::new("raw byte above 127 in the path", b"GET /a\xffb HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        Case::new("raw byte above 127 in the query", b"GET /a?\xe9 HTTP/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("UTF-8 in the path", "GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Want::Refused(400, "bad_path")),
        bytes("http in lower case", "GET / http/1.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("version 1.10", "GET / HTTP/1.10\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("version 01.1", "GET / HTTP/01.1\r\nHost: a\r\n\r\n", BAD_LINE),
        bytes("version 1.2", "GET / HTTP/1.2\r\nHost: a\r\n\r\n", old),
        bytes("version 2.0", "GET / HTTP/2.0\r\nHost: a\r\n\r\n", old),
        bytes("version 0.9 in words", "GET / HTTP/0.9\r\nHost: a\r\n\r\n", old),
        bytes("TLS on the plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\r\n\r\n", BAD_LINE),
        bytes("one empty line before", "\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", Want::Served),
        Case::new(
            "a hundred empty lines before",
            ["\r\n".repeat(100), "GET / HTTP/1.1\r\nHost: a\r\n\r\n".into()].concat(),
            BAD_LINE,
        ),
    ]
}

/// Field lines (RFC 9112 section 5).
pub fn field_lines() -> Vec<Case> {
    let get = |name: &str, fields: &str| Case::new(name, format!("GET / HTTP/1.1\r\n{fields}\r\n"), BAD_HEADER);
    let mut cases = vec![
        Case::new("bare LF everywhere", "GET / HTTP/1.1\nHost: a\n\n", BAD_HEADER),
        get("bare LF between two fields", "Host: a\nX: b\r\n"),
        get("bare LF behind the last field", "Host: a\r\nX: b\n"),
        Case::new("bare LF for the empty line", "GET / HTTP/1.1\r\nHost: a\r\n\n", BAD_HEADER),
        get("bare CR within a value", "Host: a\r\nX: b\rY: c\r\n"),
        get("two CR before the LF", "Host: a\r\nX: b\r\r\n"),
        get("folded line", "Host: a\r\nX: b\r\n c\r\n"),
        get("folded line with a tab", "Host: a\r\nX: b\r\n\tc\r\n"),
        get("fold before the first field", " X: b\r\nHost: a\r\n"),
        get("space before the colon", "Host: a\r\nX : b\r\n"),
        get("tab before the colon", "Host: a\r\nX\t: b\r\n"),
        get("space before the colon of Content-Length", "Host: a\r\nContent-Length : 0\r\n"),
        get("space before the colon of Transfer-Encoding", "Host: a\r\nTransfer-Encoding : chunked\r\n"),
        get("space within a name", "Host: a\r\nX b: c\r\n"),
        get("no colon", "Host: a\r\nX\r\n"),
        get("empty name", "Host: a\r\n: b\r\n"),
        get("name with a NUL", "Host: a\r\nX\0: b\r\n"),
        get("name with a bracket", "Host: a\r\nX(: b\r\n"),
        get("name beyond ASCII", "Host: a\r\n\u{e9}: b\r\n"),
    ];
    // Tab is legal; so are bytes above 127 (obs-text). CR and LF have rows of their own.
    for control in (0u8..=31).chain([127]).filter(|byte| !matches!(byte, b'\t' | b'\r' | b'\n')) {
        let mut send = b"GET / HTTP/1.1\r\nHost: a\r\nX: b".to_vec();
        send.push(control);
        send.extend_from_slice(b"c\r\n\r\n");
        cases.push(Case::new(format!("byte {control:#04x} within a value"), send, BAD_HEADER));
    }
    cases
}

/// Content-Length and Transfer-Encoding (RFC 9112 section 6).
pub fn lengths() -> Vec<Case> {
    let post = |name: &str, fields: &str, body: &str| {
        Case::new(name, format!("POST /x HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}"), BAD_FRAMING)
    };
    let length = |name: &str, value: &str| post(name, &format!("Content-Length:{value}\r\n"), "hello");
    let coding = |name: &str, value: &str| post(name, &format!("Transfer-Encoding:{value}\r\n"), "0\r\n\r\n");
    let served = |mut case: Case, kept: &'static str| {
        case.want = Want::Served;
        case.kept(&[kept])
    };
    vec![
        served(length("one length", " 5"), "content-length: 5\r\n"),
        served(coding("chunked", " chunked"), "transfer-encoding: chunked\r\n"),
        served(coding("CHUNKED", " CHUNKED"), "transfer-encoding: chunked\r\n"),
        post("length, then chunked", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("chunked, then length", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        post("length and an unknown coding", "Content-Length: 5\r\nTransfer-Encoding: x\r\n", "hello"),
        post("two equal lengths", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello"),
        post("two different lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "hello"),
        post("a length and an empty one", "Content-Length: 5\r\nContent-Length:\r\n", "hello"),
        length("list of equal lengths", " 5, 5"),
        length("list of different lengths", " 5, 6"),
        length("length with a comma behind", " 5,"),
        length("empty length", ""),
        length("length +5", " +5"),
        length("length -5", " -5"),
        length("length 0x5", " 0x5"),
        length("length 5.0", " 5.0"),
        length("length 5e0", " 5e0"),
        length("length 5 5", " 5 5"),
        length("length 5_0", " 5_0"),
        length("length in quotes", " \"5\""),
        length("length in Arabic digits", " \u{665}"),
        length("length five", " five"),
        length("length 2^63", " 9223372036854775808"),
        length("length 2^64", " 18446744073709551616"),
        length("length 2^64 + 5", " 18446744073709551621"),
        length("length of 30 digits", " 000000000000000000000000000005"),
        coding("gzip, chunked", " gzip, chunked"),
        coding("chunked, gzip", " chunked, gzip"),
        coding("chunked, identity", " chunked, identity"),
        coding("chunked twice in a line", " chunked, chunked"),
        post("chunked twice in two lines", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        post("two codings in two lines", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        coding("identity", " identity"),
        coding("xchunked", " xchunked"),
        coding("chunked with a parameter", " chunked;q=1"),
        coding("chunked with a semicolon", " chunked;"),
        coding("chunked in quotes", " \"chunked\""),
        coding("chunked with a comma before", " ,chunked"),
        coding("chunked with a comma behind", " chunked,"),
        coding("empty coding", ""),
        coding("chunked with a NEL before", " \u{85}chunked"),
        bytes(
            "chunked in HTTP/1.0",
            "POST /x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            BAD_FRAMING,
        ),
        bytes(
            "chunked in HTTP/1.0, kept alive",
            "POST /x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            BAD_FRAMING,
        ),
        bytes("GET with a body", "GET /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello", Want::Served)
            .kept(&["content-length: 5\r\n", "\r\n\r\nhello"]),
        bytes("body without a length", "POST /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nhello", Want::Served)
            .gone(&["hello"]),
    ]
}

/// The chunked coding (RFC 9112 section 7.1).
pub fn chunks() -> Vec<Case> {
    let case = |name: &str, body: &str| {
        let send = format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}");
        Case::new(name, send, BAD_CHUNK)
    };
    let served = |mut case: Case, gone: &'static str| {
        case.want = Want::Served;
        case.gone(&[gone])
    };
    vec![
        served(case("extension", "5;a=b\r\nhello\r\n0\r\n\r\n"), "a=b"),
        served(case("quoted extension", "5;a=\"b c\"\r\nhello\r\n0\r\n\r\n"), "b c"),
        served(case("leading zeros", "0005\r\nhello\r\n0\r\n\r\n"), "0005"),
        case("size in words", "zz\r\n"),
        case("no size", "\r\nhello\r\n0\r\n\r\n"),
        case("extension without a size", ";a\r\nhello\r\n0\r\n\r\n"),
        case("size -1", "-1\r\n"),
        case("size +5", "+5\r\nhello\r\n0\r\n\r\n"),
        case("size 0x5", "0x5\r\nhello\r\n0\r\n\r\n"),
        case("size 5_0", "5_0\r\n"),
        case("space before the size", " 5\r\nhello\r\n0\r\n\r\n"),
        case("space behind the size", "5 \r\nhello\r\n0\r\n\r\n"),
        case("tab behind the size", "5\t\r\nhello\r\n0\r\n\r\n"),
        case("size of 2^64 + 5", "10000000000000005\r\nhello\r\n0\r\n\r\n"),
        case("size of 2^64 - 1", "ffffffffffffffff\r\nhello"),
        case("size of 2^63", "8000000000000000\r\nhello"),
        case("size of 17 zeros and 5", "000000000000000005\r\nhello\r\n0\r\n\r\n"),
        case("bare LF behind the size", "5\nhello\r\n0\r\n\r\n"),
        case("bare CR behind the size", "5\rhello\r\n0\r\n\r\n"),
        case("two CR behind the size", "5\r\r\nhello\r\n0\r\n\r\n"),
        case("bare LF in an extension", "5;a\nb\r\nhello\r\n0\r\n\r\n"),
        case("bare CR in an extension", "5;a\rb\r\nhello\r\n0\r\n\r\n"),
        case("NUL in an extension", "5;\0\r\nhello\r\n0\r\n\r\n"),
        case("more data than the size says", "5\r\nhelloX\r\n0\r\n\r\n"),
        case("no CRLF behind the data", "5\r\nhello0\r\n\r\n"),
        case("bare LF behind the data", "5\r\nhello\n0\r\n\r\n"),
        case("bare LF behind the last chunk", "5\r\nhello\r\n0\n\n"),
        case("bare LF for the last line", "5\r\nhello\r\n0\r\n\n"),
        case("space before a trailer's colon", "0\r\nX : b\r\n\r\n"),
        case("bare LF in trailers", "0\r\nX: b\n\r\n"),
        case("folded trailer", "0\r\nX: b\r\n c\r\n\r\n"),
        case("NUL in a trailer", "0\r\nX: b\0\r\n\r\n"),
        served(case("Content-Length in trailers", "0\r\nContent-Length: 77\r\nX: y\r\n\r\n"), "content-length: 77"),
        served(case("Host in trailers", "0\r\nHost: evil\r\nX: y\r\n\r\n"), "evil"),
        served(case("Authorization in trailers", "0\r\nAuthorization: evil\r\nX: y\r\n\r\n"), "evil"),
        served(case("X-Forwarded-For in trailers", "0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"), "6.6.6.6"),
        served(case("X_Forwarded_For in trailers", "0\r\nX_Forwarded_For: 6.6.6.6\r\n\r\n"), "6.6.6.6"),
    ]
}

#[test]
fn request_lines_have_one_reading() {
    check(&request_lines());
}

#[test]
fn field_lines_have_one_reading() {
    check(&field_lines());
}

#[test]
fn lengths_have_one_reading() {
    check(&lengths());
}

#[test]
fn chunks_have_one_reading() {
    check(&chunks());
}

/// Whatever the tearing of the client's bytes, what goes on is the same.
#[test]
fn what_is_forwarded_does_not_depend_on_how_it_came() {
    let origin = Recorder::start();
    let gateway = e2e::Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    let whole = "\r\nPOST /x?y HTTP/1.1\r\nHost: a\r\nX-Request-ID: 1\r\nX: b\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5;e=1\r\nhello\r\n6\r\n world\r\n0\r\nT: u\r\n\r\n";
    let mut bodies = std::collections::BTreeSet::new();
    for at in 1..whole.len() {
        origin.begin(crate::support::recorder::PLAIN);
        let mut client = gateway.connect();
        client.send(&whole[..at]);
        // The first part is to arrive by itself; if it does not, the case is only an easier one.
        std::thread::park_timeout(std::time::Duration::from_millis(2));
        client.send(&whole[at..]);
        assert_eq!(client.response().status, 200, "torn at {at}");
        let seen = origin.received().concat();
        let body_at = e2e::client::find(&seen, b"\r\n\r\n").expect("a head") + 4;
        let (_, body, trailers) = e2e::client::chunked_end(&seen[body_at..]).expect("a whole body");
        bodies.insert((body, trailers));
    }
    let only = (b"hello world".to_vec(), "T: u\n".to_owned());
    assert_eq!(bodies.into_iter().collect::<Vec<_>>(), [only]);
}
