//! RFC 9113 section 8: requests and responses, what is malformed, and what goes over to HTTP/1.

use super::wire::*;
use super::{Want, bed, before, check};
use crate::support::e2e::{Origin, Step, ok};

const MALFORMED: Want = Want::Reset(&[1]);

type Row = (&'static str, &'static str, Vec<u8>, Want);

fn request(fields: &[(&str, &str)]) -> Vec<u8> {
    raw(HEADERS, 5, 1, &block(fields))
}

/// A sound request and these fields behind.
fn with(fields: &[(&str, &str)]) -> Vec<u8> {
    request(&[&pseudo("GET", "/fixed")[..], fields].concat())
}

fn path(path: &str) -> Vec<u8> {
    request(&pseudo("GET", path))
}

fn authority(authority: &str) -> Vec<u8> {
    request(&[(":method", "GET"), (":scheme", "http"), (":path", "/fixed"), (":authority", authority)])
}

/// Sections 8.2 and 8.3.
fn heads() -> Vec<Row> {
    let (method, scheme, root) = ((":method", "GET"), (":scheme", "http"), (":path", "/fixed"));
    let host = (":authority", "test");
    let (connect, websocket) = ((":method", "CONNECT"), (":protocol", "websocket"));
    vec![
        ("8.2.1", "a name in upper case", with(&[("X-Upper", "1")]), MALFORMED),
        ("8.2.1", "a name with a space", with(&[("a b", "1")]), MALFORMED),
        ("8.2.1", "an empty name", with(&[("", "1")]), MALFORMED),
        ("8.2.1", "a value with a line feed", with(&[("a", "1\n2")]), MALFORMED),
        ("8.2.1", "a value with a NUL", with(&[("a", "1\x002")]), MALFORMED),
        ("8.2.1", "a value with a carriage return", with(&[("a", "1\r\nb: 2")]), MALFORMED),
        ("8.2.1", "a value that begins with a space", with(&[("a", " 1")]), MALFORMED),
        ("8.2.1", "a value that ends in a tab", with(&[("a", "1\t")]), MALFORMED),
        ("8.2.2", "Connection", with(&[("connection", "close")]), MALFORMED),
        ("8.2.2", "Keep-Alive", with(&[("keep-alive", "1")]), MALFORMED),
        ("8.2.2", "Proxy-Connection", with(&[("proxy-connection", "close")]), MALFORMED),
        ("8.2.2", "Transfer-Encoding", with(&[("transfer-encoding", "chunked")]), MALFORMED),
        ("8.2.2", "Upgrade", with(&[("upgrade", "h2c")]), MALFORMED),
        ("8.2.2", "TE: gzip", with(&[("te", "gzip")]), MALFORMED),
        ("8.2.2", "TE: trailers", with(&[("te", "trailers")]), Want::Status(200)),
        ("8.3", "no pseudo-header fields", request(&[("a", "b")]), MALFORMED),
        ("8.3", "an unknown one", request(&[method, scheme, root, host, (":other", "1")]), MALFORMED),
        ("8.3", ":status in a request", request(&[method, scheme, root, host, (":status", "200")]), MALFORMED),
        ("8.3", "one behind a field", request(&[method, scheme, root, ("a", "b"), host]), MALFORMED),
        ("8.3", ":method twice", request(&[method, method, scheme, root, host]), MALFORMED),
        ("8.3", ":path twice", request(&[method, scheme, root, root, host]), MALFORMED),
        ("8.3.1", "no :method", request(&[scheme, root, host]), MALFORMED),
        ("8.3.1", "no :scheme", request(&[method, root, host]), MALFORMED),
        ("8.3.1", "no :path", request(&[method, scheme, host]), MALFORMED),
        ("8.3.1", "an empty :path", request(&[method, scheme, (":path", ""), host]), MALFORMED),
        ("8.3.1", "a method that is no token", request(&[(":method", "G T"), scheme, root, host]), MALFORMED),
        ("8.3.1", "another scheme", request(&[method, (":scheme", "ftp"), root, host]), Want::Status(400)),
        ("8.3.1", "a path without a slash", path("fixed"), Want::Status(400)),
        ("8.3.1", "an absolute form in :path", path("http://test/fixed"), Want::Status(400)),
        ("8.3.1", "no :authority and no Host", request(&[method, scheme, root]), Want::Status(400)),
        ("8.3.1", "Host alone", request(&[method, scheme, root, ("host", "test")]), Want::Status(200)),
        ("8.3.1", "Host like :authority", with(&[("host", "test")]), Want::Status(200)),
        ("8.3.1", "Host unlike :authority", with(&[("host", "other")]), Want::Status(400)),
        ("8.3.1", "two Hosts", with(&[("host", "test"), ("host", "test")]), Want::Status(400)),
        ("8.3.1", "user information", authority("user@test"), Want::Status(400)),
        ("8.3.1", "a port that is none", authority("test:99999"), Want::Status(400)),
        ("8.4", "a pushed stream's number", raw(HEADERS, 5, 2, &block(&pseudo("GET", "/fixed"))), Want::Over(&[1])),
        ("8.5", "CONNECT", request(&[(":method", "CONNECT"), (":authority", "test:1")]), Want::Status(405)),
        ("8.5", "CONNECT with a :path", request(&[(":method", "CONNECT"), root, host]), MALFORMED),
        ("RFC 8441 4", ":protocol without CONNECT", request(&[method, websocket, scheme, root, host]), MALFORMED),
        ("RFC 8441 4", "no :scheme beside :protocol", request(&[connect, websocket, root, host]), MALFORMED),
        ("RFC 8441 4", "no :path beside :protocol", request(&[connect, websocket, scheme, host]), MALFORMED),
        ("RFC 8441 4", "nothing beside :protocol", request(&[connect, websocket, host]), MALFORMED),
        ("RFC 8441 4", ":protocol twice", request(&[connect, websocket, websocket, scheme, root, host]), MALFORMED),
        ("RFC 8441 4", "no :authority", request(&[connect, websocket, scheme, root]), Want::Status(400)),
        (
            "RFC 8441 4",
            "a token that is none",
            request(&[connect, (":protocol", "a b"), scheme, root, host]),
            MALFORMED,
        ),
        ("RFC 9220 3", "not on this route", request(&[connect, websocket, scheme, root, host]), Want::Status(501)),
        ("RFC 9220 3", "unknown", request(&[connect, (":protocol", "tea"), scheme, root, host]), Want::Status(501)),
        ("8.5", "a length", request(&[connect, websocket, scheme, root, host, ("content-length", "0")]), MALFORMED),
    ]
}

/// What HTTP/1's requests are held to as well: paths, methods, sizes, conditions.
fn meanings() -> Vec<Row> {
    let long = "v".repeat(8_200);
    vec![
        ("paths", "dot segments", path("/a/../fixed"), Want::Status(200)),
        ("paths", "an encoded slash", path("/a%2ffixed"), Want::Status(400)),
        ("paths", "an empty segment", path("//fixed"), Want::Status(400)),
        ("paths", "a fragment", path("/fixed?a#b"), Want::Status(400)),
        ("paths", "a control in the query", path("/fixed?a\u{7f}"), MALFORMED),
        ("methods", "TRACE", request(&pseudo("TRACE", "/fixed")), Want::Status(405)),
        ("methods", "trace in lower case", request(&pseudo("trace", "/fixed")), Want::Status(405)),
        ("methods", "the asterisk form of GET", request(&pseudo("GET", "*")), Want::Status(400)),
        ("conditions", "an unknown expectation", with(&[("expect", "tea")]), Want::Status(417)),
        ("sizes", "a path of 8,193 bytes", path(&format!("/{}", &long[..8_192])), Want::Status(414)),
        ("sizes", "101 fields and more", with(&[("a", "b"); 120]), Want::Status(431)),
        ("8.1.1", "Content-Length without a body", with(&[("content-length", "5")]), MALFORMED),
        ("8.1.1", "Content-Length twice", with(&[("content-length", "0"), ("content-length", "0")]), MALFORMED),
        ("8.1.1", "Content-Length that is no number", with(&[("content-length", "+0")]), MALFORMED),
        ("8.1.1", "Content-Length of nothing", with(&[("content-length", "0")]), Want::Status(200)),
        ("8.1.1", "more than Content-Length", body("3", &[raw(DATA, 1, 1, b"four")]), MALFORMED),
        ("8.1.1", "less than Content-Length", body("3", &[raw(DATA, 0, 1, b"a"), raw(DATA, 1, 1, b"b")]), MALFORMED),
        (
            "8.1.1",
            "just Content-Length",
            body("3", &[raw(DATA, 0, 1, b"ab"), raw(DATA, 1, 1, b"c")]),
            Want::Status(200),
        ),
        (
            "8.1",
            "trailers",
            body("1", &[raw(DATA, 0, 1, b"a"), raw(HEADERS, 5, 1, &block(&[("x-sum", "1")]))]),
            Want::Status(200),
        ),
        (
            "8.1",
            "trailers that do not end",
            body("1", &[raw(DATA, 0, 1, b"a"), raw(HEADERS, 4, 1, &block(&[("x-sum", "1")]))]),
            MALFORMED,
        ),
        (
            "8.1",
            "pseudo-header fields in trailers",
            body("1", &[raw(DATA, 0, 1, b"a"), raw(HEADERS, 5, 1, &block(&[(":path", "/")]))]),
            MALFORMED,
        ),
        (
            "8.1",
            "upper case in trailers",
            body("1", &[raw(DATA, 0, 1, b"a"), raw(HEADERS, 5, 1, &block(&[("X", "1")]))]),
            MALFORMED,
        ),
    ]
}

fn body(length: &str, frames: &[Vec<u8>]) -> Vec<u8> {
    let fields = [&pseudo("POST", "/echo")[..], &[("content-length", length)]].concat();
    [raw(HEADERS, 4, 1, &block(&fields)), frames.concat()].concat()
}

#[test]
fn messages_by_sections() {
    let (_origin, gateway) = bed();
    check(&gateway, &[heads(), meanings()].concat());
}

/// What an HTTP/1 endpoint gets of a request over HTTP/2.
#[test]
fn requests_go_over_to_http1() {
    let origin = Origin::start(|seen| ok(&seen.body));
    let gateway = before(&origin, "");
    let mut client = H2::connect(gateway.address);
    let fields = [
        &pseudo("POST", "/echo/%7Ea?q=1")[..],
        &[
            ("cookie", "a=1"),
            ("x-mine", "kept"),
            ("cookie", "b=2"),
            ("te", "trailers"),
            ("cookie", "c=3"),
            ("x-user-id", "forged"),
            ("x_user_id", "forged"),
            ("x-forwarded-for", "6.6.6.6"),
            ("priority", "u=1, i"),
            ("expect", "100-continue"),
        ],
    ]
    .concat();
    client.send(&raw(HEADERS, 4, 1, &block(&fields)));
    while client.answers.get(&1).is_none_or(|answer| answer.interim.is_empty()) {
        assert!(client.step());
    }
    assert_eq!(client.answers[&1].interim, [100]);
    client.send(&[raw(DATA, 0, 1, b"one"), raw(DATA, 0, 1, b" two")].concat());
    client.send(&raw(HEADERS, 5, 1, &block(&[("x-sum", "7"), ("authorization", "forged")])));
    let answer = client.answer(1);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"one two"[..]));
    let seen = origin.last();
    assert_eq!(seen.line(), "POST /echo/~a?q=1");
    assert_eq!((seen.header("host"), seen.header("cookie")), (Some("test"), Some("a=1; b=2; c=3")));
    assert_eq!((seen.header("x-mine"), seen.header("priority")), (Some("kept"), Some("u=1, i")));
    assert_eq!((seen.header("transfer-encoding"), seen.header("content-length")), (Some("chunked"), None));
    assert_eq!((seen.header("x-forwarded-for"), seen.header("x-forwarded-proto")), (Some("127.0.0.1"), Some("http")));
    for gone in ["te", "x-user-id", "x_user_id", "expect", ":path", "connection"] {
        assert_eq!(seen.header(gone), None, "{gone}");
    }
    assert!(seen.trailers.to_ascii_lowercase().contains("x-sum: 7"), "{}", seen.trailers);
    assert!(!seen.trailers.contains("forged"));
}

/// What a client gets of an endpoint's response over HTTP/1.
#[test]
fn responses_come_back_from_http1() {
    let origin = Origin::start(|seen| {
        let text = match seen.path() {
            "/hints" => "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "/chunked" => {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nX-UPPER: 1\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-Sum: 9\r\n\r\n"
            }
            "/none" => "HTTP/1.1 204 No Content\r\n\r\n",
            "/old" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\nETag: \"a\"\r\n\r\n",
            "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n",
            "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
            "/close" => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nuntil the end",
            _ => "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
        };
        vec![Step::Send(text.into()), Step::Close]
    });
    let gateway = before(&origin, "");
    let mut client = H2::connect(gateway.address);
    let mut stream = 1;
    let mut ask = |method: &str, path: &str| {
        client.send(&raw(HEADERS, 5, stream, &block(&pseudo(method, path))));
        let answer = client.answer(stream);
        stream += 2;
        answer
    };
    let hints = ask("GET", "/hints");
    assert_eq!((&hints.interim[..], hints.status, &hints.body[..]), (&[103][..], 200, &b"ok"[..]));
    let chunked = ask("GET", "/chunked");
    assert_eq!(
        (&chunked.body[..], chunked.field("x-upper"), chunked.field("transfer-encoding")),
        (&b"abc"[..], Some("1"), None)
    );
    assert_eq!(chunked.trailers, [("x-sum".to_owned(), "9".to_owned())]);
    let none = ask("GET", "/none");
    assert_eq!((none.status, none.ended, none.field("content-length")), (204, true, None));
    let old = ask("GET", "/old");
    assert_eq!((old.status, old.ended, old.field("content-length")), (304, true, Some("9")));
    let head = ask("HEAD", "/head");
    assert_eq!((head.status, head.ended, head.field("content-length"), head.body.len()), (200, true, Some("1234"), 0));
    let plain = ask("GET", "/plain");
    assert_eq!((plain.field("connection"), plain.field("keep-alive"), &plain.body[..]), (None, None, &b"ok"[..]));
    // A response that is cut is never taken for a whole one (F24).
    let cut = ask("GET", "/cut");
    assert_eq!((cut.status, cut.ended, cut.reset), (200, false, Some(2)));
    assert_eq!(&ask("GET", "/close").body[..], b"until the end");
    assert_eq!(ask("GET", "/fixed").status, 200);
}

/// A request that is answered before its body has come: the client need not go on, and others are not disturbed.
#[test]
fn early_answers_end_their_uploads() {
    let (_origin, gateway) = bed();
    let mut client = H2::connect(gateway.address);
    client.send(&[post(1, "/fixed"), raw(DATA, 0, 1, &[0; 1_000])].concat());
    let answer = client.answer(1);
    assert_eq!((answer.status, &answer.body[..]), (200, &b"fixed"[..]));
    while client.answers[&1].reset.is_none() {
        assert!(client.step());
    }
    assert_eq!(client.answers[&1].reset, Some(0), "NO_ERROR");
    client.send(&raw(DATA, 0, 1, &[0; 16_000]));
    client.send(&get(3, "/fixed"));
    assert_eq!(client.answer(3).status, 200);
    let fields = [&pseudo("POST", "/echo")[..], &[("content-length", "99999999")]].concat();
    client.send(&raw(HEADERS, 4, 5, &block(&fields)));
    assert_eq!(client.answer(5).status, 413);
}

/// Many streams with long bodies at once, in both directions, over small windows.
#[test]
fn long_bodies_share_a_connection() {
    let (_origin, gateway) = bed();
    let mut client = H2::connect(gateway.address);
    let text = |n: u32| (0..200_000_u32).map(|at| (at.wrapping_mul(n) >> 3) as u8).collect::<Vec<u8>>();
    let mut writer = client.stream.try_clone().expect("a descriptor");
    // The gateway gives 64 KiB of room for each: what it echoes is read while the rest is sent.
    for n in 0..8 {
        client.send(&post(2 * n + 1, "/echo"));
    }
    for part in 0..4 {
        for n in 0..8 {
            let all = text(n + 1);
            let piece = &all[part * 12_000..(part + 1) * 12_000];
            let end = u8::from(part == 3);
            std::io::Write::write_all(&mut writer, &raw(DATA, end, 2 * n + 1, piece)).expect("taken");
        }
    }
    for n in 0..8 {
        assert_eq!(client.answer(2 * n + 1).body, text(n + 1)[..48_000], "stream {}", 2 * n + 1);
    }
}
