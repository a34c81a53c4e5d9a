//! Over real sockets, as any client sees an origin.

#![allow(clippy::disallowed_methods, reason = "sockets run in real time")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

struct Client {
    socket: TcpStream,
    rest: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
    trailers: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    fn field(&self, name: &str) -> Option<&str> {
        let lines = self.head.split("\r\n").filter_map(|line| line.split_once(": "));
        lines.filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value).next()
    }
}

impl Client {
    fn new(origin: &Origin) -> Self {
        let socket = TcpStream::connect(origin.address()).expect("it listens");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        socket.set_nodelay(true).expect("no delay");
        Self { socket, rest: Vec::new() }
    }

    fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).expect("it reads");
    }

    fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        self.answer(true)
    }

    fn more(&mut self) -> usize {
        let mut buf = [0; 64 * 1024];
        let count = self.socket.read(&mut buf).expect("an answer in time");
        self.rest.extend_from_slice(&buf[..count]);
        count
    }

    fn until(&mut self, mark: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.rest, mark) {
                return self.exactly(at + mark.len());
            }
            assert!(self.more() > 0, "closed before {mark:?}");
        }
    }

    fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.rest.len() < count {
            assert!(self.more() > 0, "closed after {} of {count}", self.rest.len());
        }
        let behind = self.rest.split_off(count);
        std::mem::replace(&mut self.rest, behind)
    }

    fn is_closed(&mut self) -> bool {
        self.rest.is_empty() && self.more() == 0
    }

    fn answer(&mut self, with_body: bool) -> Answer {
        let head = String::from_utf8(self.until(b"\r\n\r\n")).expect("a plain head");
        let status = head[9..12].parse().expect("a status");
        let mut answer = Answer { status, head, body: Vec::new(), trailers: String::new() };
        if !with_body || status == 204 || status == 304 || status < 200 {
            return answer;
        }
        if let Some(length) = answer.field("Content-Length") {
            let length = length.parse().expect("a number");
            answer.body = self.exactly(length);
        } else if answer.field("Transfer-Encoding").is_some() {
            self.chunks(&mut answer);
        } else {
            while self.more() > 0 {}
            answer.body = std::mem::take(&mut self.rest);
        }
        answer
    }

    fn chunks(&mut self, answer: &mut Answer) {
        loop {
            let line = String::from_utf8(self.until(b"\r\n")).expect("a size");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("hexadecimal");
            if size == 0 {
                break;
            }
            answer.body.extend(self.exactly(size));
            assert_eq!(self.exactly(2), b"\r\n");
        }
        loop {
            let line = String::from_utf8(self.until(b"\r\n")).expect("a trailer");
            if line == "\r\n" {
                return;
            }
            answer.trailers += &line;
        }
    }
}

fn demo() -> Origin {
    Origin::start(LOOPBACK, "users-1", Driver::RingDeferTaskrun).expect("an origin")
}

fn bench() -> Origin {
    Origin::start_as(Kind::Bench, LOOPBACK, "bench", Driver::RingDeferTaskrun).expect("an origin")
}

#[test]
fn fixed_bodies_on_one_connection() {
    let origin = demo();
    let mut client = Client::new(&origin);
    for (path, length) in [("/1k", 1024), ("/64k", 65_536), ("/1m", 1_048_576), ("/1k", 1024)] {
        let answer = client.get(path);
        assert_eq!((answer.status, answer.body.len()), (200, length), "{path}");
        assert_eq!(answer.field("Content-Length"), Some(length.to_string().as_str()));
    }
}

#[test]
fn the_request_is_shown() {
    let origin = demo();
    let mut client = Client::new(&origin);
    client.send("DELETE /api/x?y=%20&z HTTP/1.1\r\nHost: h:1\r\nX-B: \"q\"\r\nx-a: 1\r\nX-B: 2\r\n\r\n");
    let wanted = json!({
        "service": "users-1", "method": "DELETE", "path": "/api/x", "query": "y=%20&z",
        "headers": {"Host": "h:1", "X-B": ["\"q\"", "2"], "x-a": "1"},
    });
    let answer = client.answer(true);
    assert_eq!(answer.json(), wanted);
    assert_eq!(answer.json()["headers"].as_object().expect("a map").keys().collect::<Vec<_>>(), ["Host", "X-B", "x-a"]);
    assert_eq!(client.get("/").json()["path"], "/");
}

#[test]
fn a_bench_answers_any_path_with_a_kibibyte() {
    let origin = bench();
    let mut client = Client::new(&origin);
    assert_eq!(client.get("/any/path?q").body.len(), 1024);
    assert_eq!(client.get("/status/418").status, 418);
    client.send("OPTIONS /x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer(true).body.len(), 1024);
}

#[test]
fn statuses_and_sizes() {
    let origin = demo();
    let mut client = Client::new(&origin);
    for status in [200, 201, 204, 205, 304, 404, 429, 500, 503, 599] {
        assert_eq!(client.get(&format!("/status/{status}")).status, status);
    }
    for count in [0, 1, 65_535, 65_536, 300_000] {
        assert_eq!(client.get(&format!("/bytes/{count}")).body.len(), count);
    }
    for count in [0, 1, 200] {
        let answer = client.get(&format!("/chunked/{count}"));
        assert_eq!((answer.field("Transfer-Encoding"), answer.body.len()), (Some("chunked"), count * 1024));
    }
    assert_eq!(client.get("/bytes/99999999999").status, 400);
    assert_eq!(client.get("/1k").status, 200);
}

#[test]
fn waits_are_kept() {
    let origin = demo();
    let mut client = Client::new(&origin);
    let began = Instant::now();
    assert_eq!(client.get("/slow/120").json()["waited_ms"], 120);
    assert!(began.elapsed() >= Duration::from_millis(120));
    let began = Instant::now();
    assert_eq!(client.get("/drip/3/60").body, b"drop 1\ndrop 2\ndrop 3\n");
    assert!(began.elapsed() >= Duration::from_millis(120));
    assert_eq!(client.get("/drip/0/60").body, b"");
}

#[test]
fn closing_answers_close() {
    let origin = demo();
    for path in ["/close", "/early"] {
        let mut client = Client::new(&origin);
        let answer = client.get(path);
        assert_eq!((answer.status, answer.field("Connection")), (200, Some("close")), "{path}");
        assert!(client.is_closed(), "{path}");
    }
    let mut client = Client::new(&origin);
    client.send("POST /early HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nfirst");
    assert_eq!(client.answer(true).json()["early"], true);
    client.send([b'x'; 1000]);
    assert!(client.is_closed());
    let mut client = Client::new(&origin);
    client.send("GET /1k HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n");
    assert_eq!(client.answer(true).field("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn trailers_hints_and_fields() {
    let origin = demo();
    let mut client = Client::new(&origin);
    let answer = client.get("/trailers");
    assert_eq!(answer.trailers, "X-Checksum: 42\r\nX-Done: yes\r\n");
    let hint = client.get("/103");
    assert!(hint.status == 103 && hint.field("Link").is_some());
    assert_eq!(client.answer(true).status, 200);
    let answer = client.get("/headers");
    assert_eq!(answer.head.matches("Set-Cookie: ").count(), 2);
    assert_eq!(answer.field("ETag"), Some("\"demo-1\""));
}

#[test]
fn bodies_are_counted_whatever_their_framing_and_tearing() {
    let origin = demo();
    let mut client = Client::new(&origin);
    client.send("POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
    assert_eq!(client.answer(true).json()["received"], 5);
    let chunked =
        "POST /api/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n3;a=b\r\nped\r\n0\r\n\r\n";
    for byte in chunked.as_bytes() {
        client.send([*byte]);
    }
    assert_eq!(client.answer(true).json()["received"], 7);
    client.send("PUT /1k HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n");
    client.send(vec![b'x'; 1_000_000]);
    assert_eq!(client.answer(true).json()["received"], 1_000_000);
    client.send("POST /post HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer(true).json()["received"], 0);
    client.send("POST /post HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n");
    assert_eq!(client.answer(true).status, 100);
    client.send("ok");
    assert_eq!(client.answer(true).json()["received"], 2);
}

#[test]
fn echo_keeps_body_and_framing() {
    let origin = demo();
    let mut client = Client::new(&origin);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Type: a/b\r\nContent-Length: 5\r\n\r\nhelloGET /1k");
    let answer = client.answer(true);
    assert_eq!((answer.field("Content-Type"), answer.body.as_slice()), (Some("a/b"), &b"hello"[..]));
    client.send(" HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer(true).body.len(), 1024);
    client.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n");
    // The chunk comes back before the body is over.
    client.until(b"chunked\r\n\r\n2\r\nab\r\n");
    client.send("1\r\nc\r\n0\r\nX-T: v\r\n\r\n");
    assert_eq!(client.until(b"\r\n\r\n"), b"1\r\nc\r\n0\r\nX-T: v\r\n\r\n");
    assert_eq!(client.get("/echo").body, b"");
}

#[test]
fn torn_requests_are_put_together() {
    let origin = demo();
    let mut client = Client::new(&origin);
    for path in ["/1k", "/status/404"] {
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "y".repeat(200));
        for byte in request.as_bytes() {
            client.send([*byte]);
        }
        assert!(matches!(client.answer(true).status, 200 | 404));
    }
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Long: {}\r\n\r\n", "y".repeat(60_000));
    client.send(long);
    assert_eq!(client.answer(true).json()["headers"]["X-Long"].as_str().map(str::len), Some(60_000));
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = demo();
    let mut client = Client::new(&origin);
    let paths = ["/1k", "/status/404", "/1k", "/64k", "/bytes/7", "/chunked/2", "/1k"];
    let requests: String = paths.iter().map(|p| format!("GET {p} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
    client.send(requests.repeat(20));
    for _ in 0..20 {
        let answers: Vec<_> = paths.iter().map(|_| client.answer(true)).map(|a| (a.status, a.body.len())).collect();
        let wanted = [(200, 1024), (404, 15), (200, 1024), (200, 65_536), (200, 7), (200, 2048), (200, 1024)];
        assert_eq!(answers, wanted);
    }
    client.send("GET /1k HTTP/1.1\r\nHost: a\r\n\r\n".repeat(500));
    assert!((0..500).all(|_| client.answer(true).body.len() == 1024));
}

#[test]
fn head_has_the_fields_and_no_body() {
    let origin = demo();
    let mut client = Client::new(&origin);
    for (path, length) in
        [("/1k", Some("1024")), ("/1m", Some("1048576")), ("/bytes/9", Some("9")), ("/chunked/9", None)]
    {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer(false);
        assert_eq!((answer.status, answer.field("Content-Length")), (200, length), "{path}");
    }
    for path in ["/", "/stream", "/drip/9/9", "/trailers", "/headers", "/echo", "/status/500"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(matches!(client.answer(false).status, 200 | 500), "{path}");
    }
    assert_eq!(client.get("/1k").body.len(), 1024);
}

#[test]
fn old_clients_are_served() {
    let origin = demo();
    let mut client = Client::new(&origin);
    client.send("GET /1k HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert_eq!(client.answer(true).field("Connection"), Some("keep-alive"));
    client.send("GET /chunked/3 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    let answer = client.answer(true);
    assert_eq!((answer.field("Transfer-Encoding"), answer.body.len()), (None, 3072));
    let mut client = Client::new(&origin);
    client.send("GET /status/200 HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer(true).field("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn malformed_requests_are_refused_and_the_origin_lives_on() {
    let origin = demo();
    let long = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(HEAD_BYTES_MAX));
    for (request, status) in [
        ("nonsense\r\n\r\n", 400),
        ("GET /1k HTTP/1.1\r\n\r\n", 400),
        ("GET /1k HTTP/1.1\nHost: a\n\n", 400),
        ("GET /1k HTTP/1.1\r\nHost: a\r\nA b: c\r\nConnection: close\r\n\r\n", 400),
        ("GET / HTTP/3.0\r\nHost: a\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        ("\0\0\0\0\r\n", 400),
        (long.as_str(), 431),
    ] {
        let mut client = Client::new(&origin);
        client.send(request);
        let answer = client.answer(true);
        assert_eq!((answer.status, answer.field("Connection")), (status, Some("close")), "{request:.60}");
        assert!(client.is_closed());
    }
    // Clients that leave in the middle of something.
    for request in [
        "GET /1",
        "POST /post HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx",
        "GET /stream HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        Client::new(&origin).send(request);
    }
    assert_eq!(Client::new(&origin).get("/1k").status, 200);
}

#[test]
fn dropping_an_origin_ends_its_thread_and_its_connections() {
    for driver in Driver::ALL {
        for kind in [Kind::Demo, Kind::Bench] {
            let origin = Origin::start_as(kind, LOOPBACK, "gone", driver).expect("an origin");
            let address = origin.address();
            let mut idle = Client::new(&origin);
            assert_eq!(idle.get("/1k").status, 200);
            let mut busy = [Client::new(&origin), Client::new(&origin), Client::new(&origin)];
            for (client, path) in busy.iter_mut().zip(["/slow/60000", "/stream", "/drip/9/60000"]) {
                client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            }
            busy[1].until(b"drop 2\n");
            let began = Instant::now();
            drop(origin);
            assert!(began.elapsed() < Duration::from_millis(800), "{driver:?} took {:?}", began.elapsed());
            assert!(idle.is_closed());
            while busy[1].more() > 0 {}
            assert!(!busy[1].rest.ends_with(b"0\r\n\r\n"), "a stream that is cut has no end");
            assert!(TcpStream::connect(address).is_err(), "{driver:?} still listens");
        }
    }
}

#[test]
fn a_taken_address_is_an_error() {
    let origin = demo();
    let again = Origin::start(origin.address(), "again", Driver::RingDeferTaskrun);
    assert_eq!(again.expect_err("taken").kind(), io::ErrorKind::AddrInUse);
}

#[test]
fn many_connections_at_once() {
    let origin = bench();
    let mut clients: Vec<_> = (0..300).map(|_| Client::new(&origin)).collect();
    for _ in 0..3 {
        clients.iter_mut().for_each(|c| c.send("GET /1k HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(clients.iter_mut().all(|c| c.answer(true).body.len() == 1024));
    }
}

mod config {
    use super::*;
    use crate::config::load_str;
    use crate::config_struct;
    use crate::schema::types::{HeaderName, HeaderValue, KeySource, Map, Rate};
    use crate::schema::{Env, PolicyKind};

    config_struct! {
        /// The keys of the real policy that the demo uses.
        pub struct Limit {
            /// The rate.
            rate: Rate,
            /// Whose.
            key: KeySource,
        }
    }

    config_struct! {
        /// The keys of the real policy that the demo uses.
        pub struct Headers {
            /// Of the request.
            request: Edits,
            /// Of the response.
            response: Edits,
        }
    }

    config_struct! {
        /// The keys of the real policy that the demo uses.
        pub struct Edits {
            /// Names with values.
            set: Map<HeaderName, HeaderValue>,
        }
    }

    const POLICIES: &[PolicyKind] =
        &[PolicyKind::of::<Limit>("rate_limit", "Limits."), PolicyKind::of::<Headers>("headers", "Edits.")];

    struct NoEnv;

    impl Env for NoEnv {
        fn var(&self, _name: &str) -> Option<String> {
            None
        }

        fn read_file(&self, _path: &str, _bytes_max: usize) -> Result<String, String> {
            Err("no files here".to_owned())
        }
    }

    #[test]
    fn the_embedded_demo_has_living_endpoints() {
        let (origins, text) = embedded().expect("four origins");
        for ((name, placeholder), origin) in ENDPOINTS.iter().zip(&origins) {
            assert_eq!(CONFIG.matches(&format!("\"{placeholder}\"")).count(), 1, "{placeholder}");
            assert_eq!(text.matches(&format!("\"{}\"", origin.address())).count(), 1);
            assert_eq!(Client::new(origin).get("/").json()["service"], *name);
        }
        for text in [CONFIG, &text] {
            let loaded = load_str("demo.yaml", text, &NoEnv, POLICIES).map_err(|errors| errors.render());
            let loaded = loaded.unwrap_or_else(|errors| panic!("{errors}"));
            assert!(loaded.warnings.warnings_total() == 0, "{}", loaded.warnings.render());
            assert_eq!((loaded.config.services.len(), loaded.config.routes.len()), (2, 6));
        }
    }
}
