//! Serialising and parsing are inverse to each other on the typed form, whatever a peer sends.

use std::sync::Arc;

use proptest::prelude::*;
use ringway::handler::forward;
use ringway::http::body::Chunk;
use ringway::http::downstream::ResponseSink;
use ringway::http::exchange::{Exchange, RequestId, ShortText};
use ringway::http::fields::Fields;
use ringway::http::message::{BodyLength, Method, ResponseHead};
use ringway::http::name::{Name, NameSet};
use ringway::http::path::PathPolicy;
use ringway::proto::h1::chunked::Decoder;
use ringway::proto::h1::parse::{HeadLimits, Parsed};
use ringway::proto::h1::server::ServerRules;
use ringway::proto::h1::{request, response, serialise};
use ringway::snapshot::{HostRule, Listener};
use ringway::sys::buf::Buf;

/// Names and values.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn listener(forwarded: bool, via: bool) -> Listener {
    let address = "127.0.0.1:8080".parse().expect("an address");
    let via = via.then(|| "ringway".to_owned());
    Listener { forwarded, via, ..Listener::plain("l", address, Arc::default()) }
}

/// Parses a request; None when it is refused.
fn parse(bytes: &[u8], trusted: bool) -> Option<Exchange> {
    let mut x = Exchange::default();
    let Ok(Parsed::Complete(length)) = request::parse_lines(bytes, &HeadLimits::default(), &mut x.request) else {
        return None;
    };
    request::interpret(&mut x.request, Buf::copy_of(bytes), length, PathPolicy::Preserve, trusted).ok()?;
    x.peer = "192.0.2.7:5000".parse().expect("an address");
    x.peer_text = ShortText::of(&x.peer.ip());
    x.port_text = ShortText::of(&8080);
    x.id = RequestId::from_peer(b"id-1").expect("legal");
    Some(x)
}

fn forward_of(x: &Exchange, listener: &Listener) -> Vec<u8> {
    let mut out = Buf::small();
    forward::write_head(&mut out, x, listener, forward::host(x, &HostRule::Preserve, "up:80"));
    out.as_slice().to_vec()
}

/// The fields that the client sent and that the gateway does not write itself.
fn own_fields(fields: &Fields) -> Pairs {
    let written = NameSet::of(&[Name::Host, Name::ContentLength, Name::TransferEncoding, Name::Connection, Name::Te]);
    let written = written.and(ringway::http::hop::FORWARDING).and(NameSet::of(&[Name::XRequestId, Name::Expect]));
    let lines = fields.lines().filter(|line| !written.has(line.id));
    let pairs = lines.map(|line| (fields.text(line.name).to_vec(), fields.text(line.value).to_vec()));
    pairs.filter(|(name, _)| !name.eq_ignore_ascii_case(b"via")).collect()
}

fn token() -> impl Strategy<Value = String> {
    "[A-Za-z0-9!#$%&'*+.^_`|~-]{1,12}"
}

fn field() -> impl Strategy<Value = (String, String)> {
    let names = prop_oneof![
        token(),
        prop::sample::select(vec![
            "Accept",
            "Cookie",
            "X_Forwarded_For",
            "TE",
            "x-user-id",
            "Upgrade",
            "Keep-Alive",
            "Via"
        ])
        .prop_map(str::to_owned),
    ];
    (names, "[ -~\u{a1}-\u{ff}\t]{0,20}")
}

fn framing() -> impl Strategy<Value = (&'static str, String)> {
    prop_oneof![
        Just(("", String::new())),
        (0..1u64 << 50).prop_map(|n| ("Content-Length", n.to_string())),
        prop::sample::select(vec!["chunked", "Chunked", "CHUNKED"])
            .prop_map(|word| ("Transfer-Encoding", word.to_owned())),
    ]
}

prop_compose! {
    fn request_text()(
        method in prop_oneof![token(), Just("GET".to_owned()), Just("POST".to_owned())],
        path in "/[a-zA-Z0-9/._~%2Ff:@!$&'()*+,;=-]{0,24}",
        query in prop::option::of("[!-\"$-~]{0,16}"),
        fields in prop::collection::vec(field(), 0..8),
        space in "[ \t]{0,3}",
        (name, value) in framing(),
        place in 0..9usize,
    ) -> Vec<u8> {
        let query = query.map(|query| format!("?{query}")).unwrap_or_default();
        let line = |(name, value): &(String, String)| format!("{name}:{space}{value}{space}\r\n");
        let mut lines: Vec<_> = fields.iter().map(line).collect();
        lines.insert(place.min(lines.len()), "Host: Ex.ample:81\r\n".to_owned());
        if !name.is_empty() {
            lines.insert(place.min(lines.len()), format!("{name}: {value}\r\n"));
        }
        format!("{method} {path}{query} HTTP/1.1\r\n{}\r\n", lines.concat()).into_bytes()
    }
}

/// What of a request must arrive unchanged.
#[derive(Debug, PartialEq)]
struct Typed {
    method: (Method, Vec<u8>),
    path: Vec<u8>,
    query: Option<Vec<u8>>,
    host: Vec<u8>,
    body: BodyLength,
    fields: Pairs,
}

fn typed(x: &Exchange) -> Typed {
    let head = &x.request;
    Typed {
        method: (head.method, head.fields.text(head.method_text).to_vec()),
        path: head.path().to_vec(),
        query: head.query().map(<[u8]>::to_vec),
        host: head.host().to_vec(),
        body: head.body,
        fields: own_fields(&head.fields),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_forwarded_request_is_the_request(text in request_text(), forwarded: bool, via: bool) {
        let Some(x) = parse(&text, false) else { return Ok(()) };
        let listener = listener(forwarded, via);
        let out = forward_of(&x, &listener);
        let again = parse(&out, true).unwrap_or_else(|| panic!("refused: {}", out.escape_ascii()));
        prop_assert_eq!(typed(&x), typed(&again));
        // Once more: only the chain of addresses grows.
        let twice = parse(&forward_of(&again, &listener), true).expect("legal");
        prop_assert_eq!(typed(&again), typed(&twice));
    }

    /// Most generated requests must be legal, or the test above would say nothing.
    #[test]
    fn plain_requests_are_accepted(name in "[A-Z][a-z]{3,8}-[a-z]{3,8}", value in "[!-~]([ -~]{0,20}[!-~])?") {
        let text = format!("PUT /a/b?c HTTP/1.1\r\nHost: a\r\nX-{name}: {value}\r\nContent-Length: 5\r\n\r\n");
        let x = parse(text.as_bytes(), false).expect("legal");
        let out = forward_of(&x, &listener(false, false));
        let line = format!("\r\nX-{name}: {value}\r\n");
        prop_assert!(out.windows(line.len()).any(|window| window == line.as_bytes()));
    }

    #[test]
    fn a_written_response_is_the_response(
        status in 200u16..600,
        fields in prop::collection::vec(field(), 0..8),
        (name, value) in framing(),
        head_only: bool,
    ) {
        let lines: Vec<_> = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let framing = if name.is_empty() { String::new() } else { format!("{name}: {value}\r\n") };
        let text = format!("HTTP/1.1 {status} R\r\n{}{framing}\r\n", lines.concat()).into_bytes();
        let method = if head_only { Method::Head } else { Method::Get };
        let Some(head) = response_of(&text, method) else { return Ok(()) };
        let again = rewritten(&head);
        let again = response_of(&again, method).unwrap_or_else(|| panic!("refused: {}", again.escape_ascii()));
        // What the close delimits comes from the gateway in chunks.
        let body = if head.body == BodyLength::UntilClose { BodyLength::Streamed } else { head.body };
        prop_assert_eq!((head.status, body), (again.status, again.body));
        prop_assert!(head.status == 204 || head.declared_length == again.declared_length);
        prop_assert_eq!(own_fields(&head.fields), own_fields(&again.fields));
    }

    #[test]
    fn chunks_come_back_under_any_tearing(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..6),
        trailer in prop::option::of(("[A-Z][a-z]{2,8}-[a-z]{1,8}", "[!-~]{1,12}")),
        cuts in prop::collection::vec(1..64usize, 1..8),
        rest in prop::collection::vec(any::<u8>(), 0..20),
    ) {
        let mut wire = Vec::new();
        for piece in &pieces {
            let chunk = Chunk { data: Buf::copy_of(piece), end: false, trailers: None };
            wire.extend_from_slice(serialise::chunk(chunk).as_slice());
        }
        let trailers = trailer.as_ref().map(|(name, value)| {
            let mut fields = Box::<Fields>::default();
            fields.append(format!("X-{name}").as_bytes(), value.as_bytes()).expect("legal");
            fields
        });
        wire.extend_from_slice(serialise::chunk(Chunk { data: Buf::empty(), end: true, trailers }).as_slice());
        let body_bytes = wire.len();
        wire.extend_from_slice(&rest);
        let (payload, used, found) = decode(&wire, &cuts);
        prop_assert_eq!(payload, pieces.concat());
        prop_assert_eq!(used, body_bytes);
        let expected = trailer.map(|(name, value)| (format!("X-{name}").into_bytes(), value.into_bytes()));
        prop_assert_eq!(found, expected.into_iter().collect::<Vec<_>>());
    }
}

/// Decodes in pieces of the given sizes, over and over.
fn decode(wire: &[u8], cuts: &[usize]) -> (Vec<u8>, usize, Pairs) {
    let (mut decoder, mut payload, mut used) = (Decoder::default(), Vec::new(), 0);
    for cut in cuts.iter().cycle() {
        let mut piece = wire[used..wire.len().min(used + cut)].to_vec();
        assert!(!piece.is_empty(), "no end");
        let found = decoder.decode(&mut piece).expect("legal");
        payload.extend_from_slice(&piece[found.start..found.end]);
        used += found.consumed;
        if found.done {
            break;
        }
        assert_eq!(found.consumed, piece.len());
    }
    let trailers = decoder.take_trailers().expect("legal");
    let pairs = trailers.iter().flat_map(|fields| fields.iter()).map(|(name, value)| (name.to_vec(), value.to_vec()));
    (payload, used, pairs.collect())
}

fn response_of(bytes: &[u8], method: Method) -> Option<ResponseHead> {
    let mut head = ResponseHead::default();
    let Ok(Parsed::Complete(_)) = response::parse_lines(bytes, &HeadLimits::default(), &mut head) else { return None };
    response::interpret(&mut head, Buf::copy_of(bytes), method).ok()?;
    Some(head)
}

/// The head as a client of the gateway gets it, written by the server's side of a connection in memory.
fn rewritten(head: &ResponseHead) -> Vec<u8> {
    use ringway::http::downstream::Downstream;
    use ringway::net::io::{Io, ReadHalf};
    use ringway::net::mem::{Faults, pair};
    use ringway::net::timer::Timers;
    use ringway::proto::h1::server::Connection;
    use ringway::time::Clock;

    let (ours, theirs) = pair(1 << 20, &Faults::NONE);
    let timers = Timers::new(Clock::stopped());
    let mut connection = Connection::new(ours, &timers, Arc::new(ServerRules::default()));
    let mut x = Exchange { id: RequestId::from_peer(b"id-1").expect("legal"), ..Exchange::default() };
    x.response.status = head.status;
    (x.response.body, x.response.declared_length) = (head.body, head.declared_length);
    for (name, value) in head.fields.iter() {
        x.response.fields.append(name, value).expect("parsed");
    }
    let mut down = connection.downstream(&x);
    now(down.split().1.send_head(&mut x, Chunk::default())).expect("room");
    let mut read = theirs.split().0;
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.extend_from_slice(now(read.recv(Buf::small())).1.as_slice());
    }
    bytes
}

/// The output of a future that has nothing to wait for.
fn now<F: Future>(future: F) -> F::Output {
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        std::task::Poll::Ready(output) => output,
        std::task::Poll::Pending => panic!("waits"),
    }
}
