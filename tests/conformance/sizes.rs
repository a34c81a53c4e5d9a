//! F40, F56: what is too large is refused at the byte, and the answer says which limit it was.

use crate::support::{Case, Recorder, Want, check, e2e};

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: a\r\n{fields}\r\n")
}

fn chunked(body: &str) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}")
}

fn known_body(bytes: usize) -> String {
    format!("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: {bytes}\r\n\r\n{}", "x".repeat(bytes))
}

/// A head of exactly so many bytes, no field of it too long.
fn head_of(bytes: usize) -> String {
    let start = "GET / HTTP/1.1\r\nHost: a\r\n".len() + "\r\n".len();
    let mut fields = String::new();
    let mut left = bytes - start;
    while left > 0 {
        let line = if left > 9000 { 8000 } else { left };
        fields.push_str(&format!("X: {}\r\n", "a".repeat(line - "X: \r\n".len())));
        left -= line;
    }
    get("/", &fields)
}

/// Sizes, each at its bound and over it, and far over it.
pub fn cases() -> Vec<Case> {
    let large = Want::Refused(431, "header_too_large");
    let case = |name: &str, send: String, want: Want| Case::new(name, send, want);
    let fields = |count: usize| get("/", &"X: y\r\n".repeat(count - 1));
    let field = |bytes: usize| get("/", &format!("X: {}\r\n", "a".repeat(bytes - 1)));
    let target = |bytes: usize| get(&format!("/{}", "a".repeat(bytes - 1)), "");
    let extension = |bytes: usize| chunked(&format!("5;{}\r\nhello\r\n0\r\n\r\n", "a".repeat(bytes - 4)));
    let trailer = |bytes: usize| chunked(&format!("0\r\nX: {}\r\n\r\n", "a".repeat(bytes - 7)));
    let trailers = |count: usize| chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(count)));
    vec![
        case("100 field lines", fields(100), Want::Served),
        case("101 field lines", fields(101), large),
        case("5,000 field lines", fields(5_000), large),
        case("field of 16 KiB", field(16 << 10), Want::Served),
        case("field of 16 KiB and a byte", field((16 << 10) + 1), large),
        case("field of 1 MiB", field(1 << 20), large),
        case("field name of 20 KiB", get("/", &format!("{}: b\r\n", "a".repeat(20 << 10))), large),
        case("head of 32 KiB", head_of(32 << 10), Want::Served),
        case("head of 32 KiB and a byte", head_of((32 << 10) + 1), large),
        case(
            "head that never ends",
            format!("GET / HTTP/1.1\r\n{}", "X: y\r\n".repeat(90) + &"a".repeat(40 << 10)),
            large,
        ),
        case("target of 8 KiB", target(8 << 10), Want::Served),
        case("target of 8 KiB and a byte", target((8 << 10) + 1), Want::Refused(414, "uri_too_long")),
        case("target of 1 MiB", target(1 << 20), Want::Refused(414, "uri_too_long")),
        case("request line that never ends", format!("GET /{}", "a".repeat(9_000)), Want::Refused(414, "uri_too_long")),
        case(
            "method of 9 KiB",
            format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "A".repeat(9 << 10)),
            Want::Refused(400, "bad_request_line"),
        ),
        case("body of 10 MiB", known_body(10 << 20), Want::Served),
        case("body of 10 MiB and a byte", known_body((10 << 20) + 1), Want::Refused(413, "body_too_large")),
        case(
            "chunked body of 10 MiB and a byte",
            chunked(&format!("a00001\r\n{}\r\n0\r\n\r\n", "x".repeat((10 << 20) + 1))),
            Want::Refused(413, "body_too_large"),
        ),
        case("chunk-size line of 4 KiB", extension(4 << 10), Want::Served),
        case("chunk-size line of 4 KiB and a byte", extension((4 << 10) + 1), Want::Refused(400, "bad_chunk")),
        case("chunk-size line of 300,000 bytes", extension(300_000), Want::Refused(400, "bad_chunk")),
        case("trailer section of 8 KiB", trailer(8 << 10), Want::Served),
        case("trailer section of 8 KiB and a byte", trailer((8 << 10) + 1), large),
        case("trailer of 300,000 bytes", trailer(300_000), large),
        case("100 trailers", trailers(100), Want::Served),
        case("101 trailers", trailers(101), large),
    ]
}

/// Ranges (RFC 9110 section 14, F56).
pub fn ranges() -> Vec<Case> {
    let many = |count: usize| (0..count).map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>().join(",");
    let case = |name: &str, value: &str, want: Want| {
        Case::new(name, get("/", &format!("Range: {value}\r\n")), want).kept(&["range: "])
    };
    let bad = Want::Refused(416, "bad_range");
    vec![
        case("one range", "bytes=0-9", Want::Served),
        case("16 ranges", &format!("bytes={}", many(16)), Want::Served),
        case("17 ranges", &format!("bytes={}", many(17)), bad),
        case("1,500 ranges", &format!("bytes={}", many(1_500)), bad),
        case("overlapping ranges", "bytes=0-,0-,0-", bad),
        case("ranges that share bytes", "bytes=0-9,5-15", bad),
        case("two suffixes", "bytes=-5,-10", bad),
        case("end before the beginning", "bytes=9-0", bad),
        case("number over 2^63", "bytes=0-9223372036854775808", bad),
        case("no number", "bytes=-", bad),
        case("words", "bytes=a-b", bad),
        case("two Range fields", "bytes=0-1\r\nRange: bytes=5-6", bad),
        Case::new("another unit", get("/", "Range: lines=1-2\r\n"), Want::Served).gone(&["range:"]),
    ]
}

#[test]
fn sizes_are_refused_at_the_byte() {
    check(&cases());
}

#[test]
fn ranges_are_few_and_do_not_overlap() {
    check(&ranges());
}

#[test]
fn ten_thousand_ranges_are_too_large_a_field() {
    let origin = Recorder::start();
    let gateway = e2e::Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    let ranges = (0..10_000).map(|at| format!("{at}-{at}")).collect::<Vec<_>>().join(",");
    let response = gateway.ask(get("/", &format!("Range: bytes={ranges}\r\n")));
    assert_eq!((response.status, response.reason().as_str()), (431, "header_too_large"));
    assert!(origin.received().is_empty());
    gateway.wait_idle();
}

#[test]
fn the_answer_says_which_limit_it_was() {
    let origin = Recorder::start();
    let gateway = e2e::Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    for (send, limit) in [
        (get("/", &"X: y\r\n".repeat(150)), "fields_max"),
        (get("/", &"X: y\r\n".repeat(300)), "fields_max"),
        (get("/", &format!("X: {}\r\n", "a".repeat(20 << 10))), "field_bytes_max"),
        (head_of(33 << 10), "header_bytes_max"),
        (get(&format!("/{}", "a".repeat(9 << 10)), ""), "target_bytes_max"),
        (chunked(&format!("5;{}\r\n", "a".repeat(5_000))), "chunk_line_bytes_max"),
        (chunked(&format!("0\r\nX: {}\r\n\r\n", "a".repeat(9_000))), "trailer_bytes_max"),
        (chunked(&format!("0\r\n{}\r\n", "X: y\r\n".repeat(101))), "fields_max"),
        ("POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10485761\r\n\r\n".to_owned(), "body_bytes_max"),
    ] {
        let response = gateway.ask(&send);
        assert_eq!(response.json()["limit"], limit, "{response:?}");
        let text = send.replacen("Host: a\r\n", "Host: a\r\nAccept: text/plain\r\n", 1);
        if !text.contains("5;") && limit != "header_bytes_max" {
            let response = gateway.ask(text);
            assert!(response.text().contains(limit) || limit == "fields_max", "{response:?}");
        }
    }
}
