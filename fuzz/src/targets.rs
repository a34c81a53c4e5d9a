//! What each fuzz target does with its input. The fuzzer runs these, and `tests/fuzz_replay.rs` runs them over the
//! committed corpora. They depend on the crate alone, and panic on what must not be.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use ringway::config::compile::{Inputs, compile};
use ringway::config::load_str;
use ringway::handler::forward;
use ringway::http::exchange::{Exchange, RequestId, ShortText};
use ringway::http::fields::{Fields, Text};
use ringway::http::hop;
use ringway::http::message::{BodyLength, Method, RequestHead, ResponseHead};
use ringway::http::name::Name;
use ringway::http::path::{PathPolicy, canonicalise, is_canonical};
use ringway::net::io::{Io, send_all};
use ringway::net::mem::{self, Faults};
use ringway::policy::{self, CompileEnv};
use ringway::proto::client_hello::{self, Opening};
use ringway::proto::h1::body::BodyReader;
use ringway::proto::h1::chunked::Decoder;
use ringway::proto::h1::parse::{HeadLimits, Parsed};
use ringway::proto::h1::{request, response, serialise};
use ringway::proto::proxy_protocol::{self, Version};
use ringway::route::{
    Captures, HostPattern, Order, PathPattern, Rewrite, RouteId, RouteInput, RouteSpec, RouteTable, Spellings, Verdict,
};
use ringway::schema::FixedEnv;
use ringway::snapshot::{HostRule, Listener};
use ringway::sys::buf::Buf;
use ringway::telemetry::access_log::text::{self, Escape};

/// A target: its name, which is also that of its corpus, and what it does.
pub type Target = (&'static str, fn(&[u8]));

/// All targets.
pub const TARGETS: &[Target] = &[
    ("request_head", request_head),
    ("response_head", response_head),
    ("chunked", chunked),
    ("relayed_body", relayed_body),
    ("client_address", client_address),
    ("substitution", substitution),
    ("path", path),
    ("config", config),
    ("route", route),
    ("rewrite", rewrite),
    ("forwarded_request", forwarded_request),
    ("access_log_escape", access_log_escape),
    ("h2_frames", h2_frames),
    ("hpack", hpack),
    ("proxy_header", proxy_header),
    ("client_hello", client_hello),
];

const POLICIES: [PathPolicy; 3] = [PathPolicy::Strict, PathPolicy::Merge, PathPolicy::Preserve];

fn parsed(bytes: &[u8], policy: PathPolicy, trusted: bool) -> Option<(RequestHead, usize)> {
    let mut head = RequestHead::default();
    let Ok(Parsed::Complete(length)) = request::parse_lines(bytes, &HeadLimits::default(), &mut head) else {
        return None;
    };
    assert!(length <= bytes.len(), "a head longer than its bytes");
    request::interpret(&mut head, Buf::copy_of(bytes), length, policy, trusted).ok()?;
    Some((head, length))
}

/// A request head: whatever is accepted is typed without contradiction, and no prefix of it was whole before.
pub fn request_head(data: &[u8]) {
    let (mut head, mut general) = (RequestHead::default(), RequestHead::default());
    let found = request::parse_lines(data, &HeadLimits::default(), &mut head);
    assert_eq!(found, request::parse_any(data, &HeadLimits::default(), &mut general), "the short way and the long one");
    if let Ok(Parsed::Complete(_)) = found {
        let start = |head: &RequestHead| (head.method, head.version, head.method_text, head.target);
        assert_eq!((start(&head), lines(&head.fields)), (start(&general), lines(&general.fields)));
    }
    for policy in POLICIES {
        let Some((head, length)) = parsed(data, policy, false) else { continue };
        assert!(head.path() == b"*" || head.path().starts_with(b"/"));
        assert!(head.host().iter().all(|byte| !byte.is_ascii_uppercase()));
        assert!(!matches!(head.method, Method::Connect | Method::Trace));
        assert!(head.query().is_none_or(|query| query.iter().all(|byte| (0x21..=0x7e).contains(byte))));
        for cut in [length / 3, length / 2, length - 1] {
            let early = request::parse_lines(&data[..cut], &HeadLimits::default(), &mut RequestHead::default());
            assert!(!matches!(early, Ok(Parsed::Complete(_))), "a head that ends before its end");
        }
    }
}

/// The places of field lines.
fn lines(fields: &Fields) -> Vec<(Text, Text, Name)> {
    fields.lines().map(|line| (line.name, line.value, line.id)).collect()
}

/// A response head, as the answer to a GET and to a HEAD.
pub fn response_head(data: &[u8]) {
    let (mut head, mut general) = (ResponseHead::default(), ResponseHead::default());
    let found = response::parse_lines(data, &HeadLimits::default(), &mut head);
    assert_eq!(
        found,
        response::parse_any(data, &HeadLimits::default(), &mut general),
        "the short way and the long one"
    );
    if let Ok(Parsed::Complete(_)) = found {
        let start = |head: &ResponseHead| (head.status, head.version);
        assert_eq!((start(&head), lines(&head.fields)), (start(&general), lines(&general.fields)));
    }
    for method in [Method::Get, Method::Head] {
        let mut head = ResponseHead::default();
        let Ok(Parsed::Complete(length)) = response::parse_lines(data, &HeadLimits::default(), &mut head) else {
            return;
        };
        assert!(length <= data.len());
        let Ok(keeps) = response::interpret(&mut head, Buf::copy_of(data), method) else { continue };
        assert!((100..=999).contains(&head.status));
        assert!(!keeps || head.body != BodyLength::UntilClose, "kept after a body that the close ends");
        assert!(method != Method::Head || head.body == BodyLength::None);
    }
}

/// A chunked body, torn and in one piece: the same payload, end and verdict. The first byte says how it is torn.
pub fn chunked(data: &[u8]) {
    let Some((&piece, body)) = data.split_first() else { return };
    let whole = decode(body, body.len().max(1));
    let torn = decode(body, usize::from(piece % 16) + 1);
    match (whole, torn) {
        (Some(whole), Some(torn)) => assert_eq!(whole, torn),
        (None, None) => {}
        (whole, torn) => panic!("whole {whole:?}, torn {torn:?}"),
    }
}

/// Payload, raw bytes used, and whether it ended; None when it is refused.
fn decode(body: &[u8], piece: usize) -> Option<(Vec<u8>, usize, bool)> {
    let (mut decoder, mut payload, mut used) = (Decoder::default(), Vec::new(), 0);
    for part in body.chunks(piece) {
        let mut part = part.to_vec();
        let found = decoder.decode(&mut part).ok()?;
        assert!(found.start <= found.end && found.end <= found.consumed && found.consumed <= part.len());
        payload.extend_from_slice(&part[found.start..found.end]);
        used += found.consumed;
        if found.done {
            break;
        }
    }
    if decoder.is_done() {
        decoder.take_trailers().ok()?;
    }
    Some((payload, used, decoder.is_done()))
}

/// A body as it is relayed: read from a connection in pieces, sent on in chunks. The first byte says how it is framed,
/// the second how it is torn. What goes out has an end exactly if what came in had one, and says the same.
pub fn relayed_body(data: &[u8]) {
    let [how, torn, raw @ ..] = data else { return };
    let length = match how % 3 {
        0 => BodyLength::Streamed,
        1 => BodyLength::Known(u64::from(*how)),
        _ => BodyLength::UntilClose,
    };
    let faults = Faults { seed: 1, read_bytes_max: usize::from(torn % 32) + 1, ..Faults::NONE };
    let (near, far) = mem::pair(1 << 20, &faults);
    let ((mut read, ..), (_far_read, mut write, _)) = (near.split(), far.split());
    let raw = &raw[..raw.len().min(1 << 19)];
    run(send_all(&mut write, Buf::copy_of(raw))).expect("room for all");
    drop(write);
    let mut reader = BodyReader::new(length, Buf::empty());
    let (mut payload, mut out, mut trailers) = (Vec::new(), Vec::new(), Vec::new());
    while !reader.is_done() {
        let Ok(chunk) = run(reader.next(&mut read)) else { break };
        assert_eq!(chunk.end, reader.is_done());
        payload.extend_from_slice(chunk.data.as_slice());
        let lines = chunk.trailers.iter().flat_map(|fields| fields.iter());
        trailers.extend(lines.map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec())));
        out.extend_from_slice(serialise::chunk(chunk).as_slice());
    }
    if let BodyLength::Known(length) = length {
        assert_eq!((payload.len() as u64 == length, payload.len() as u64 <= length), (reader.is_done(), true));
    }
    let again = rechunked(&out);
    assert_eq!(again.2, reader.is_done(), "an end that was not there, or was lost: {}", out.escape_ascii());
    assert_eq!((again.0, again.1), (payload, trailers));
}

type Lines = Vec<(Vec<u8>, Vec<u8>)>;

/// A second reading of the chunked coding: payload, trailers, and whether it ended.
fn rechunked(mut out: &[u8]) -> (Vec<u8>, Lines, bool) {
    let mut payload = Vec::new();
    while !out.is_empty() {
        let Ok(httparse::Status::Complete((line, size))) = httparse::parse_chunk_size(out) else {
            panic!("no chunk size: {}", out.escape_ascii());
        };
        out = &out[line..];
        if size == 0 {
            let mut table = [httparse::EMPTY_HEADER; 512];
            let parsed = httparse::parse_headers(out, &mut table);
            let Ok(httparse::Status::Complete((used, fields))) = parsed else { panic!("trailers: {parsed:?}") };
            assert_eq!(used, out.len(), "bytes behind the end");
            let lines = fields.iter().map(|field| (field.name.to_ascii_lowercase().into(), field.value.to_vec()));
            return (payload, lines.collect(), true);
        }
        let (data, rest) = out.split_at(size as usize);
        payload.extend_from_slice(data);
        assert!(rest.starts_with(b"\r\n"));
        out = &rest[2..];
    }
    (payload, Vec::new(), false)
}

/// Polls a future that the memory network alone drives.
fn run<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
}

/// Lines: values of X-Forwarded-For. From a trusted peer the client is the first address from the right that is not
/// trusted; what stands to the left of it, or of something that is no address, decides nothing (C15, F51).
pub fn client_address(data: &[u8]) {
    let trusted = |ip: IpAddr| matches!(ip, IpAddr::V4(four) if four.octets()[0] == 10);
    let mut fields = Fields::default();
    for line in data.split(|&byte| byte == b'\n').take(8) {
        let _ = fields.append(b"X-Forwarded-For", line);
    }
    let stranger = IpAddr::from([192, 0, 2, 1]);
    assert_eq!(hop::client_ip(&fields, stranger, trusted), stranger, "a stranger is believed");
    let proxy = IpAddr::from([10, 0, 0, 1]);
    let client = hop::client_ip(&fields, proxy, trusted);
    let all: Vec<&[u8]> = fields.values(Name::XForwardedFor).collect();
    let joined = all.join(&b","[..]);
    let said: Vec<_> = joined.split(|&byte| byte == b',').map(<[u8]>::trim_ascii).collect();
    let is = |text: &&[u8]| {
        let text = String::from_utf8_lossy(text);
        text.contains(&client.to_string()) || text.parse() == Ok(client) || text.contains([':', '['])
    };
    assert!(client == proxy || said.iter().any(is), "{client} out of {}", joined.escape_ascii());
    // Whatever a client puts in front of what the proxies saw changes nothing, once an untrusted address is found.
    if !trusted(client) {
        let mut forged = Fields::default();
        forged.append(b"X-Forwarded-For", b"6.6.6.6, nonsense").expect("legal");
        all.iter().for_each(|line| forged.append(b"X-Forwarded-For", line).expect("legal before"));
        assert_eq!(hop::client_ip(&forged, proxy, trusted), client, "a forged address is believed");
    }
}

/// A text of a configuration with `${...}` in it: what comes out is what a second reading makes of it, and no value of
/// a variable becomes a part of the document.
pub fn substitution(data: &[u8]) {
    const EVIL: &str = "\"}}], admin: {enabled: false}, ${NAME} # $$";
    let Ok(text) = std::str::from_utf8(data) else { return };
    let vars = [("NAME", "value"), ("EMPTY", ""), ("EVIL", EVIL)];
    let document = serde_json::json!({
        "listeners": ["127.0.0.1:0"], "routes": [{ "path": "/*", "respond": { "body": text } }]
    });
    let loaded = load_str("fuzz.json", &document.to_string(), &FixedEnv::of(&vars), policy::SCHEMA);
    match (loaded, substituted(text, &vars)) {
        (Ok(loaded), Some(want)) => {
            let effective = loaded.effective();
            assert_eq!(effective["routes"][0]["respond"]["body"], want.as_str());
            assert_eq!(effective["routes"].as_array().map(Vec::len), Some(1));
            assert_eq!(effective["admin"]["enabled"], true);
        }
        (Ok(_), None) => panic!("taken, and wrong: {text:?}"),
        // A text may be refused for other reasons, such as characters that YAML does not know.
        (Err(diagnostics), _) => assert!(!diagnostics.render().is_empty()),
    }
}

fn substituted(text: &str, vars: &[(&str, &str)]) -> Option<String> {
    let (mut out, mut rest) = (String::new(), text);
    while let Some(first) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("$$") {
            out.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix("${") {
            let (inside, behind) = after.split_once('}')?;
            let (name, default) = inside.split_once(":-").map_or((inside, None), |(name, or)| (name, Some(or)));
            let is_name = !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit());
            if !is_name || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
                return None;
            }
            let value = vars.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            out += match (value, default) {
                (Some(""), Some(default)) | (None, Some(default)) => default,
                (value, _) => value?,
            };
            rest = behind;
        } else {
            out.push(first);
            rest = &rest[first.len_utf8()..];
        }
    }
    Some(out)
}

#[path = "bypass.rs"]
pub mod bypass;
#[path = "h2.rs"]
pub mod h2;
pub use h2::{h2_frames, hpack};

thread_local! {
    static JUDGE: bypass::Judge = bypass::Judge::new();
}

/// Canonical paths are fixed points of their policy, and the hot path agrees with the slow one.
pub fn path(data: &[u8]) {
    for policy in POLICIES {
        let mut once = Vec::new();
        let result = canonicalise(data, policy, &mut once);
        if is_canonical(data) {
            assert!(result.is_ok() && once == data, "canonical, and yet changed: {}", data.escape_ascii());
        }
        if result.is_err() {
            continue;
        }
        let mut twice = Vec::new();
        canonicalise(&once, policy, &mut twice).expect("a canonical path is legal");
        assert_eq!(once, twice, "not a fixed point");
        assert!(once.starts_with(b"/") && !once.split(|&byte| byte == b'/').any(|part| part == b".." || part == b"."));
    }
    JUDGE.with(|judge| walks_around_nothing(judge, data));
}

/// No rule of any kind is walked around, under any policy, whatever a service makes of what it gets (F49). Most kinds
/// and policies forward the same path: its readings are made once for all of them.
fn walks_around_nothing(judge: &bypass::Judge, target: &[u8]) {
    let mut read: Vec<(Vec<u8>, bypass::Readings)> = Vec::new();
    for kind in &bypass::KINDS {
        let target = [kind.before.as_bytes(), target].concat();
        for (at, policy) in bypass::POLICIES.iter().enumerate() {
            let Some(sent) = judge.forwarded(at, kind.host, &target) else { continue };
            let known = read.iter().position(|(path, _)| *path == sent);
            let place = known.unwrap_or_else(|| {
                read.push((sent.clone(), bypass::Readings::of(&sent)));
                read.len() - 1
            });
            let model = read[place].1.walked_around(kind);
            let shown = || (target.escape_ascii().to_string(), sent.escape_ascii().to_string());
            assert!(model.is_none(), "{} under {policy}: {:?} for an endpoint that {model:?}", kind.name, shown());
        }
    }
}

/// A configuration: loads and compiles, or says why not. The first byte chooses YAML or JSON.
pub fn config(data: &[u8]) {
    let Some((kind, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let name = if *kind == b'j' { "fuzz.json" } else { "fuzz.yaml" };
    let outside = FixedEnv::of(&[("NAME", "value"), ("PORT", "8080")]);
    match load_str(name, text, &outside, policy::SCHEMA) {
        Err(diagnostics) => assert!(!diagnostics.render().is_empty()),
        Ok(loaded) => {
            assert!(loaded.effective().to_string().len() > 2);
            let resolve = |host: &str, port: u16| Some(SocketAddr::new(host.parse().ok()?, port));
            let policies = CompileEnv { workers: 2, random: 3 };
            drop(compile(&loaded, &Inputs { generation: 1, policies, resolve: Some(resolve), previous: None }));
        }
    }
}

struct Asked<'a> {
    host: &'a [u8],
    path: &'a [u8],
}

impl RouteInput for Asked<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn host(&self) -> &[u8] {
        self.host
    }
    fn path(&self) -> &[u8] {
        self.path
    }
    fn query(&self) -> Option<&[u8]> {
        None
    }
    fn header<'a>(&'a self, _: &[u8], _: &mut dyn FnMut(&'a [u8]) -> bool) {}
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }
}

/// Lines: the host and path that are asked for, then patterns, each `host path` or `path`. What `find` finds is what
/// `explain` says, in both orders.
pub fn route(data: &[u8]) {
    let mut lines = data.split(|&byte| byte == b'\n');
    let (Some(host), Some(path)) = (lines.next(), lines.next()) else { return };
    let host = host.to_ascii_lowercase();
    let asked = Asked { host: &host, path };
    let specs: Vec<_> = lines.take(32).enumerate().filter_map(|(at, line)| spec(at as u32, line)).collect();
    for order in [Order::Specificity, Order::Strict] {
        let Ok(table) = RouteTable::build(specs.clone(), order) else { continue };
        drop(table.lint());
        let mut captures = Captures::new();
        let found = table.find(&asked, &mut captures).ok().map(|hit| hit.route);
        for (name, range) in captures.iter() {
            assert!(range.end <= path.len() && name.len() < 32);
        }
        let explained = table.explain(&asked);
        let won = explained.considered.iter().find(|one| one.verdict == Verdict::Won).map(|one| one.route);
        assert_eq!(found, won, "find and explain disagree in {order:?}");
    }
}

fn spec(at: u32, line: &[u8]) -> Option<RouteSpec> {
    let line = std::str::from_utf8(line).ok()?;
    let (host, path) = line.split_once(' ').unwrap_or(("", line));
    let pattern = match path.strip_prefix('~') {
        Some(regex) => PathPattern::Regex(regex.to_owned()),
        None => PathPattern::parse(path).ok()?,
    };
    let mut spec = RouteSpec::new(RouteId(at), pattern);
    if !host.is_empty() {
        spec.hosts.push(HostPattern::parse(host).ok()?);
    }
    Some(spec)
}

/// Lines: a path, a pattern, a replacement. What comes out is a path that a request line can hold.
pub fn rewrite(data: &[u8]) {
    let mut lines = data.splitn(3, |&byte| byte == b'\n');
    let mut next = || lines.next().unwrap_or_default();
    let (path, pattern, to) = (next(), next(), next());
    let (Ok(pattern), Ok(to)) = (std::str::from_utf8(pattern), std::str::from_utf8(to)) else { return };
    let mut canonical = Vec::new();
    if canonicalise(path, PathPolicy::Preserve, &mut canonical).is_err() {
        return;
    }
    let mut captures = Captures::new();
    let mut prefix_bytes = 0;
    if let Ok(parsed) = PathPattern::parse(pattern)
        && let Ok(table) = RouteTable::build(vec![RouteSpec::new(RouteId(0), parsed)], Order::Specificity)
        && let Ok(hit) = table.find(&Asked { host: b"", path: &canonical }, &mut captures)
    {
        prefix_bytes = hit.prefix_bytes;
    }
    let all = [
        Ok(Rewrite::StripPrefix),
        Rewrite::replace_prefix(to),
        Rewrite::template(to),
        Rewrite::regex(pattern, to),
        Rewrite::map([(pattern, to)]),
    ];
    for rewrite in all.into_iter().flatten() {
        let mut out = Vec::new();
        if rewrite.apply(Spellings::one(&canonical), prefix_bytes, &captures, &mut out).is_ok() {
            assert!(out.starts_with(b"/") && !out.starts_with(b"//"), "{}", out.escape_ascii());
            let legal = |byte: &u8| (0x21..0x7f).contains(byte) && !matches!(byte, b'?' | b'#');
            assert!(out.iter().all(legal), "{}", out.escape_ascii());
        }
    }
    stays_below(&canonical, prefix_bytes, to);
}

/// What replaces a prefix by a plain directory stays below it, whatever a service makes of the result (F49).
fn stays_below(path: &[u8], prefix_bytes: usize, directory: &str) {
    if !is_canonical(directory.as_bytes()) || directory.ends_with('/') {
        return;
    }
    let Ok(rewrite) = Rewrite::replace_prefix(&format!("{directory}/")) else { return };
    let (mut out, mut sent) = (Vec::new(), Vec::new());
    let policy = PathPolicy::Preserve;
    if rewrite.apply(Spellings::one(path), prefix_bytes, &Captures::new(), &mut out).is_ok()
        && canonicalise(&out, policy, &mut sent).is_ok()
    {
        let model = bypass::escapes(directory.as_bytes(), &sent);
        let shown = (path.escape_ascii().to_string(), sent.escape_ascii().to_string());
        assert!(model.is_none(), "out of {directory}: {shown:?} for an endpoint that {model:?}");
    }
}

/// A request that is accepted goes upstream in a form that the gateway's parser and an independent one read alike.
pub fn forwarded_request(data: &[u8]) {
    for trusted in [false, true] {
        let Some((head, _)) = parsed(data, PathPolicy::Preserve, trusted) else { continue };
        let x = exchange(head);
        let address = SocketAddr::from(([127, 0, 0, 1], 80));
        let listener = Listener { forwarded: trusted, ..Listener::plain("l", address, Arc::default()) };
        let mut out = Buf::small();
        forward::write_head(&mut out, &x, &listener, forward::host(&x, &HostRule::Preserve, "up:80"));
        let (again, length) = parsed_again(out.as_slice());
        assert_eq!(length, out.len(), "bytes behind the head");
        assert_eq!(again.body, x.request.body, "framing");
        assert_eq!(again.fields.text(again.method_text), x.request.fields.text(x.request.method_text));
        assert_eq!((again.path(), again.query()), (x.request.path(), x.request.query()));
        agrees_with_httparse(out.as_slice(), &again);
    }
}

fn exchange(head: RequestHead) -> Exchange {
    let peer = SocketAddr::from(([192, 0, 2, 1], 9));
    Exchange {
        request: head,
        peer,
        peer_text: ShortText::of(&peer.ip()),
        port_text: ShortText::of(&8080),
        id: RequestId::from_random(1, 2),
        ..Exchange::default()
    }
}

/// The written head is a little longer than what was read: the bounds of the endpoint must not be those of the client.
fn parsed_again(bytes: &[u8]) -> (RequestHead, usize) {
    let limits =
        HeadLimits { header_bytes_max: 1 << 20, field_bytes_max: 1 << 19, target_bytes_max: 1 << 19, fields_max: 256 };
    let mut head = RequestHead::default();
    let Ok(Parsed::Complete(length)) = request::parse_lines(bytes, &limits, &mut head) else {
        panic!("not a head: {}", bytes.escape_ascii());
    };
    let result = request::interpret(&mut head, Buf::copy_of(bytes), length, PathPolicy::Preserve, true);
    assert!(result.is_ok(), "refused for {:?}: {}", result.err(), bytes.escape_ascii());
    (head, length)
}

fn agrees_with_httparse(bytes: &[u8], head: &RequestHead) {
    let mut table = [httparse::EMPTY_HEADER; 512];
    let mut other = httparse::Request::new(&mut table);
    assert_eq!(other.parse(bytes), Ok(httparse::Status::Complete(bytes.len())));
    assert_eq!(other.method.map(str::as_bytes), Some(head.fields.text(head.method_text)));
    let count = |name: &str| other.headers.iter().filter(|line| line.name.eq_ignore_ascii_case(name)).count();
    assert!(count("content-length") + count("transfer-encoding") <= 1, "two framings");
    assert_eq!(count("host"), 1);
    assert_eq!(count("connection"), 0);
    assert_eq!(count("transfer-encoding") == 1, head.body == BodyLength::Streamed);
}

/// Any bytes become one line of text without controls, and JSON reads valid text back.
pub fn access_log_escape(data: &[u8]) {
    type Write = fn(&mut Vec<u8>, &[u8], Escape);
    let writers: [Write; 3] = [text::value, text::query, text::url];
    for write in writers {
        for how in [Escape::Json, Escape::Hex] {
            let mut out = Vec::new();
            write(&mut out, data, how);
            let text = String::from_utf8(out).expect("text");
            assert!(!text.chars().any(char::is_control), "a control in {text:?}");
            if how == Escape::Json {
                serde_json::from_str::<String>(&format!("\"{text}\"")).expect("a JSON string");
            } else {
                assert!(!text.contains('"'));
            }
        }
    }
}

/// A PROXY protocol header: whatever is accepted ends where its own length says, means the same with anything behind
/// it, and was no header at any earlier byte; and what it tells is told on unchanged.
pub fn proxy_header(data: &[u8]) {
    let read = proxy_protocol::parse(data);
    let with_more = proxy_protocol::parse(&[data, b"GET / HTTP/1.1\r\n\r\n"].concat());
    match read {
        Err(_) => assert!(with_more.is_err(), "more bytes mend a header"),
        Ok(None) => assert!(data.len() < proxy_protocol::HEADER_BYTES_MAX, "a header without end"),
        Ok(Some(header)) => {
            assert!(header.bytes <= data.len() && header.bytes <= proxy_protocol::HEADER_BYTES_MAX);
            assert_eq!(with_more, Ok(Some(header)));
            for cut in (0..header.bytes).step_by(1 + header.bytes / 256) {
                assert_eq!(proxy_protocol::parse(&data[..cut]), Ok(None), "a header that ends before its end");
            }
            for version in [Version::V1, Version::V2] {
                let told = proxy_protocol::written(version, header.addresses);
                let again = proxy_protocol::parse(&told).ok().flatten().expect("what is written is a header");
                assert_eq!((again.addresses, again.bytes), (header.addresses, told.len()));
            }
        }
    }
}

/// The first bytes of a connection: whatever is decided stays so with anything behind it, is decided within the bound,
/// and a whole hello was none at any earlier byte; a name is one that a table of names can hold.
pub fn client_hello(data: &[u8]) {
    let read = client_hello::parse(data);
    let with_more = client_hello::parse(&[data, b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"].concat());
    match &read {
        Err(_) => assert_eq!(with_more, read, "more bytes mend a hello"),
        Ok(None) => assert!(data.len() < client_hello::OPENING_BYTES_MAX, "a hello without end"),
        Ok(Some(opening)) => {
            assert_eq!(with_more, read);
            if let Opening::Tls(Some(name)) = opening {
                assert!(!name.is_empty() && name.len() <= 253 && *name == name.to_ascii_lowercase());
                assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b)), "{name:?}");
            }
        }
    }
    let mut decided = false;
    for cut in (0..=data.len()).step_by(1 + data.len() / 256) {
        let early = client_hello::parse(&data[..cut]);
        assert!(!decided || early == read, "a decision that changes");
        if !matches!(early, Ok(None)) {
            assert_eq!(early, read, "a decision that changes");
            decided = true;
        }
    }
}
