//! Parsing a request head (RFC 9112 sections 3 to 6) into its typed form.

use super::parse::{self, HeadLimits, Parsed};
use super::{upgrade, usual};
use crate::error::{Failure, Reason};
use crate::http::fields::Text;
use crate::http::hop::{self, ConnectionOptions};
use crate::http::message::{BodyLength, Method, RequestHead, Version};
use crate::http::name::{Name, NameSet};
use crate::http::path::{self, PathPolicy};
use crate::http::range;
use crate::limits::METHOD_BYTES_MAX;
use crate::sys::buf::Buf;

/// What parsing found besides the head itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// What `Connection` says.
    pub connection: ConnectionOptions,
    /// Bytes of the head in the buffer.
    pub head_bytes: usize,
}

/// Looks for a whole head at the front of `bytes` and enters its lines into `head`, as ranges of `bytes`.
///
/// # Errors
/// The reason to refuse the request; framing is lost then and the connection closes after the answer.
#[inline]
pub fn parse_lines(bytes: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<Parsed, Failure> {
    match usual::request(bytes, limits, head) {
        Some(length) => Ok(Parsed::Complete(length)),
        None => parse_any(bytes, limits, head),
    }
}

/// As [`parse_lines`], for a head of any shape, at more cost.
///
/// # Errors
/// As [`parse_lines`].
pub fn parse_any(bytes: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Result<Parsed, Failure> {
    let skip = parse::leading_empty_lines(bytes)?;
    let message = &bytes[skip..];
    if message.first() == Some(&b'\n') {
        return Err(Failure::with(Reason::BadRequestLine, "bare LF"));
    }
    let mut table = parse::header_table();
    let mut request = httparse::Request::new(&mut []);
    let status = httparse::ParserConfig::default().parse_request_with_uninit_headers(&mut request, message, &mut table);
    match status {
        Ok(httparse::Status::Complete(length)) => {
            check_sizes(length, request.path.unwrap_or_default().len(), limits)?;
            parse::check_parsed_line_ends(&message[..length], request.headers, Reason::BadHeader)?;
            head.version = version_of(request.version)?;
            let method = request.method.unwrap_or_default().as_bytes();
            head.method = Method::of(method);
            head.method_text = parse::range_in(bytes, method);
            head.target = parse::range_in(bytes, request.path.unwrap_or_default().as_bytes());
            let too_large = Reason::HeaderTooLarge;
            parse::enter_fields(request.headers, bytes, limits, &mut head.fields, too_large)?;
            Ok(Parsed::Complete(skip + length))
        }
        Ok(httparse::Status::Partial) => {
            check_partial(message, limits)?;
            Ok(Parsed::Partial)
        }
        Err(error) => Err(refusal(error, message, limits)),
    }
}

fn check_sizes(head_bytes: usize, target_bytes: usize, limits: &HeadLimits) -> Result<(), Failure> {
    if target_bytes > limits.target_bytes_max {
        return Err(Reason::UriTooLong.into());
    }
    if head_bytes > limits.header_bytes_max {
        return Err(Failure::with(Reason::HeaderTooLarge, "over header_bytes_max"));
    }
    Ok(())
}

/// An unfinished head is refused as soon as it cannot become a legal one.
fn check_partial(bytes: &[u8], limits: &HeadLimits) -> Result<(), Failure> {
    let line_end = memchr::memchr(b'\n', bytes);
    let line = &bytes[..line_end.unwrap_or(bytes.len())];
    let target = line.split(|&b| b == b' ').nth(1).unwrap_or_default();
    check_sizes(bytes.len(), target.len(), limits)?;
    parse::check_line_ends(bytes, Reason::BadHeader)
}

fn version_of(minor: Option<u8>) -> Result<Version, Failure> {
    match minor {
        Some(0) => Ok(Version::Http10),
        Some(1) => Ok(Version::Http11),
        _ => Err(Reason::VersionUnsupported.into()),
    }
}

#[cold]
fn refusal(error: httparse::Error, bytes: &[u8], limits: &HeadLimits) -> Failure {
    if let Err(failure) = check_partial(bytes, limits)
        && failure.reason != Reason::BadHeader
    {
        return failure;
    }
    match error {
        httparse::Error::TooManyHeaders => Failure::with(Reason::HeaderTooLarge, "over fields_max"),
        httparse::Error::Version if names_other_version(bytes) => Reason::VersionUnsupported.into(),
        httparse::Error::Version => Failure::with(Reason::BadRequestLine, "no HTTP version"),
        httparse::Error::HeaderName => Failure::with(Reason::BadHeader, "invalid field name"),
        httparse::Error::HeaderValue => Failure::with(Reason::BadHeader, "invalid field value"),
        httparse::Error::NewLine if !ends_in_version(bytes) => Reason::BadRequestLine.into(),
        httparse::Error::NewLine => Failure::with(Reason::BadHeader, "bare CR"),
        _ => Reason::BadRequestLine.into(),
    }
}

/// Whether the third and last word of the request line is `HTTP/` digit `.` digit: a version, if not one that is served
/// here (RFC 9110 section 15.6.6).
fn names_other_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\r' || b == b'\n').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ');
    let version = words.nth(2).unwrap_or_default();
    words.next().is_none()
        && matches!(version, [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit())
}

/// Whether the request line is sound up to its CRLF, so that what is wrong stands behind it.
fn ends_in_version(bytes: &[u8]) -> bool {
    let line = bytes.split(|&b| b == b'\n').next().unwrap_or_default();
    line.ends_with(b" HTTP/1.1\r") || line.ends_with(b" HTTP/1.0\r")
}

/// Gives the entered lines their meaning: framing, host, canonical path, connection options. Forged and hop-by-hop
/// fields are gone afterwards; `peer_is_trusted` says whether forwarding fields may stay (C15).
///
/// # Errors
/// The reason to refuse the request.
pub fn interpret(
    head: &mut RequestHead,
    buffer: Buf,
    head_bytes: usize,
    policy: PathPolicy,
    peer_is_trusted: bool,
) -> Result<Accepted, Failure> {
    head.fields.set_buffer(buffer);
    check_method(head)?;
    read_framing(head)?;
    let connection = hop::take_connection(&mut head.fields)?;
    read_target(head, policy)?;
    read_conditions(head)?;
    if connection.upgrade {
        head.upgrade = upgrade::asked(head, connection);
    }
    hop::strip_request(&mut head.fields, peer_is_trusted);
    Ok(Accepted { connection, head_bytes })
}

/// Unknown methods are passed on, but none that is long, and no other spelling of one that is refused: not every
/// endpoint minds the case.
pub(in crate::proto) fn check_method(head: &RequestHead) -> Result<(), Failure> {
    if head.method != Method::Extension {
        return Ok(());
    }
    let text = head.fields.text(head.method_text);
    if text.len() > METHOD_BYTES_MAX {
        return Err(Failure::with(Reason::BadRequestLine, "method too long"));
    }
    if text.eq_ignore_ascii_case(b"TRACE") || text.eq_ignore_ascii_case(b"CONNECT") {
        return Err(Reason::MethodRefused.into());
    }
    Ok(())
}

fn read_framing(head: &mut RequestHead) -> Result<(), Failure> {
    let framing = parse::framing(&head.fields, Reason::BadFraming)?;
    if framing.chunked && head.version == Version::Http10 {
        return Err(Failure::with(Reason::BadFraming, "transfer coding in HTTP/1.0"));
    }
    head.body = match framing {
        parse::Framing { chunked: true, .. } => BodyLength::Streamed,
        parse::Framing { length: Some(length), .. } => BodyLength::Known(length),
        parse::Framing { length: None, .. } => BodyLength::None,
    };
    Ok(())
}

/// Expect and Range: at most one line of each, and only what is understood (RFC 9110 sections 10.1.1, 14.2).
pub(in crate::proto) fn read_conditions(head: &mut RequestHead) -> Result<(), Failure> {
    if !head.fields.may_have(NameSet::of(&[Name::Expect, Name::Range])) {
        return Ok(());
    }
    let (mut expects, mut ranges, mut is_known) = (0, 0, true);
    for line in head.fields.lines() {
        match line.id {
            Name::Expect => {
                expects += 1;
                if expects > 1 || !head.fields.text(line.value).eq_ignore_ascii_case(b"100-continue") {
                    return Err(Reason::ExpectationFailed.into());
                }
            }
            Name::Range => {
                ranges += 1;
                if ranges > 1 {
                    return Err(Failure::with(Reason::BadRange, "several Range fields"));
                }
                is_known = range::check(head.fields.text(line.value))?;
            }
            _ => {}
        }
    }
    if !is_known {
        head.fields.remove_all(NameSet::of(&[Name::Range]));
    }
    // HTTP/1.0 has no interim responses (RFC 9110 section 10.1.1).
    head.expects_continue = expects > 0 && head.version != Version::Http10 && !head.body.is_empty();
    Ok(())
}

fn read_target(head: &mut RequestHead, policy: PathPolicy) -> Result<(), Failure> {
    if matches!(head.method, Method::Connect | Method::Trace) {
        return Err(Reason::MethodRefused.into());
    }
    let host = the_host(head)?;
    let target = head.fields.text(head.target);
    match target.first() {
        Some(b'/') => {
            head.authority = host.unwrap_or_default();
            split_target(head, head.target, policy)?;
        }
        Some(b'*') if target.len() == 1 && head.method == Method::Options => {
            head.authority = host.unwrap_or_default();
            head.path = head.target;
        }
        _ => read_absolute(head, host, policy)?,
    }
    read_host(head)
}

/// The Host field: just one in HTTP/1.1, at most one in 1.0 (RFC 9112 section 3.2).
fn the_host(head: &RequestHead) -> Result<Option<Text>, Failure> {
    let mut hosts = head.fields.lines().filter(|line| line.id == Name::Host);
    let host = hosts.next().map(|line| line.value);
    if hosts.next().is_some() {
        return Err(Failure::with(Reason::BadHost, "several Host fields"));
    }
    if host.is_none() && head.version == Version::Http11 {
        return Err(Failure::with(Reason::BadHost, "no Host"));
    }
    Ok(host)
}

/// `http://authority/path?query`: the authority must be the Host (F50).
fn read_absolute(head: &mut RequestHead, host: Option<Text>, policy: PathPolicy) -> Result<(), Failure> {
    let target = head.fields.text(head.target);
    let scheme = ["http://", "https://"]
        .into_iter()
        .find(|s| target.len() >= s.len() && target[..s.len()].eq_ignore_ascii_case(s.as_bytes()));
    let Some(scheme) = scheme else { return Err(Failure::with(Reason::BadPath, "target form not served")) };
    let rest = &target[scheme.len()..];
    let authority_len = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
    let authority = head.target.part(scheme.len(), authority_len);
    let matches_host = host.is_none_or(|h| head.fields.text(h).eq_ignore_ascii_case(&rest[..authority_len]));
    if !matches_host {
        return Err(Failure::with(Reason::BadHost, "Host differs from the target"));
    }
    head.authority = authority;
    let path = head.target.part(scheme.len() + authority_len, target.len());
    if head.fields.text(path).first() == Some(&b'/') {
        return split_target(head, path, policy);
    }
    // RFC 9112 section 3.2.2: an empty path stands for the root.
    head.query = (!path.is_empty()).then(|| path.part(1, path.len()));
    head.path = head.fields.keep(b"/");
    check_query(head)
}

pub(in crate::proto) fn split_target(head: &mut RequestHead, target: Text, policy: PathPolicy) -> Result<(), Failure> {
    let bytes = head.fields.text(target);
    let canonical_len = path::canonical_len(bytes);
    let path_len = canonical_len.unwrap_or_else(|| memchr::memchr(b'?', bytes).unwrap_or(bytes.len()));
    head.query = (path_len < bytes.len()).then(|| target.part(path_len + 1, bytes.len()));
    if canonical_len.is_some() {
        head.path = target.part(0, path_len);
    } else {
        let mut canonical = Vec::with_capacity(path_len);
        path::canonicalise(&bytes[..path_len], policy, &mut canonical)?;
        head.doubtful = path::doubtful(&canonical);
        head.path = head.fields.keep(&canonical);
        head.matched = path::matched(&canonical).map(|form| head.fields.keep(&form));
    }
    check_query(head)
}

fn check_query(head: &RequestHead) -> Result<(), Failure> {
    let legal = |b: &u8| (0x21..=0x7e).contains(b) && *b != b'#';
    match head.query() {
        Some(query) if !query.iter().all(legal) => {
            Err(Failure::with(Reason::BadPath, "control, fragment or non-ASCII byte in the query"))
        }
        _ => Ok(()),
    }
}

/// Checks the authority (RFC 3986 section 3.2, without user information) and keeps its host in lower case.
pub(in crate::proto) fn read_host(head: &mut RequestHead) -> Result<(), Failure> {
    let authority = head.fields.text(head.authority);
    if let Some(length) = head.known.host_length(authority) {
        head.host = head.authority.part(0, length);
        return Ok(());
    }
    if authority.is_empty() {
        return if head.version == Version::Http10 {
            Ok(())
        } else {
            Err(Failure::with(Reason::BadHost, "empty Host"))
        };
    }
    let (host_len, has_upper) = host_length(authority).ok_or(Failure::with(Reason::BadHost, "invalid Host"))?;
    if has_upper {
        let lower = authority[..host_len].to_ascii_lowercase();
        head.host = head.fields.keep(&lower);
    } else {
        head.host = head.authority.part(0, host_len);
        head.known.set(authority, host_len);
    }
    Ok(())
}

/// Length of the host in `host[:port]` and whether it has upper-case letters, if both parts are legal.
fn host_length(authority: &[u8]) -> Option<(usize, bool)> {
    let (host_len, has_upper) = match authority[0] {
        b'[' => literal_length(authority)?,
        _ => name_length(authority)?,
    };
    match &authority[host_len..] {
        [] => Some((host_len, has_upper)),
        [b':', port @ ..] if is_port(port) => Some((host_len, has_upper)),
        _ => None,
    }
}

/// As [`host_length`], for an IPv6 address in brackets.
fn literal_length(authority: &[u8]) -> Option<(usize, bool)> {
    let end = memchr::memchr(b']', authority)?;
    let literal = std::str::from_utf8(&authority[1..end]).ok()?;
    literal.parse::<std::net::Ipv6Addr>().ok()?;
    Some((end + 1, literal.bytes().any(|byte| byte.is_ascii_uppercase())))
}

/// As [`host_length`], for a name or an IPv4 address: as far as bytes are legal in one. No label is empty, but for the
/// one behind a last dot.
fn name_length(authority: &[u8]) -> Option<(usize, bool)> {
    let (mut classes, mut before, mut length) = (0, b'.', 0);
    for &byte in authority {
        let class = HOST_CLASS[byte as usize];
        if class == 0 || (byte == b'.' && before == b'.') {
            break;
        }
        classes |= class;
        before = byte;
        length += 1;
    }
    (length > 0).then_some((length, classes & HOST_UPPER != 0))
}

const HOST_LEGAL: u8 = 1;
const HOST_UPPER: u8 = 2;

/// Bytes that may stand in a host's name.
static HOST_CLASS: [u8; 256] = {
    let mut classes = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') {
            classes[byte] = if b.is_ascii_uppercase() { HOST_LEGAL | HOST_UPPER } else { HOST_LEGAL };
        }
        byte += 1;
    }
    classes
};

/// Whether the digits behind the colon are a port; there may be none (RFC 3986 section 3.2.3).
fn is_port(digits: &[u8]) -> bool {
    let value = || digits.iter().fold(0, |number: u32, digit| number * 10 + u32::from(digit - b'0'));
    digits.len() <= 5 && digits.iter().all(u8::is_ascii_digit) && value() <= u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<(RequestHead, Accepted), Failure> {
        let mut head = RequestHead::default();
        match parse_lines(text.as_bytes(), &HeadLimits::default(), &mut head)? {
            Parsed::Partial => Err(Failure::with(Reason::Internal, "partial")),
            Parsed::Complete(length) => {
                let buffer = Buf::copy_of(text.as_bytes());
                let accepted = interpret(&mut head, buffer, length, PathPolicy::default(), false)?;
                Ok((head, accepted))
            }
        }
    }

    fn refused(text: &str) -> Reason {
        match request(text) {
            Ok(_) => panic!("accepted: {text:?}"),
            Err(failure) => failure.reason,
        }
    }

    #[test]
    fn a_plain_request_is_typed_without_copies() {
        let (head, accepted) =
            request("GET /a/b?x=1 HTTP/1.1\r\nHost: Ex.ample:80\r\nA: b\r\n\r\nrest").expect("legal");
        assert_eq!((head.method, head.version, head.body), (Method::Get, Version::Http11, BodyLength::None));
        assert_eq!((head.path(), head.query(), head.host()), (&b"/a/b"[..], Some(&b"x=1"[..]), &b"ex.ample"[..]));
        assert_eq!(head.fields.text(head.authority), b"Ex.ample:80");
        assert_eq!(accepted.head_bytes, 50);
    }

    #[test]
    fn a_known_authority_is_read_as_before() {
        let mut head = RequestHead::default();
        let mut host = |authority: &str| {
            let text = format!("GET / HTTP/1.1\r\nHost: {authority}\r\n\r\n");
            head.clear();
            parse_lines(text.as_bytes(), &HeadLimits::default(), &mut head).expect("legal");
            interpret(&mut head, Buf::copy_of(text.as_bytes()), text.len(), PathPolicy::default(), false)?;
            Ok::<_, Failure>(String::from_utf8_lossy(head.host()).into_owned())
        };
        let long = "a.".repeat(60) + "b:80";
        for _ in 0..2 {
            for (authority, expected) in
                [("a.b:80", "a.b"), ("a.b:80", "a.b"), ("A.b:80", "a.b"), ("a.b", "a.b"), ("a.b:8", "a.b")]
            {
                assert_eq!(host(authority).as_deref(), Ok(expected));
            }
            assert_eq!(host(&long).as_deref(), Ok(&long[..long.len() - 3]));
            assert_eq!(host("a.b:x").map_err(|failure| failure.reason), Err(Reason::BadHost));
            assert_eq!(host("").map_err(|failure| failure.reason), Err(Reason::BadHost));
        }
    }

    #[test]
    fn target_forms() {
        let host = |text: &str| request(text).expect("legal").0;
        assert_eq!(host("GET http://a.b/c?d HTTP/1.1\r\nHost: a.b\r\n\r\n").path(), b"/c");
        assert_eq!(host("GET http://a.b HTTP/1.1\r\nHost: a.b\r\n\r\n").path(), b"/");
        assert_eq!(host("GET http://a.b?q HTTP/1.1\r\nHost: a.b\r\n\r\n").query(), Some(&b"q"[..]));
        assert_eq!(host("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path(), b"*");
        assert_eq!(host("GET / HTTP/1.0\r\n\r\n").host(), b"");
        assert_eq!(host("GET / HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n").host(), b"[::1]");
        assert_eq!(host("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n").path(), b"/");
    }

    #[test]
    fn refusals_have_their_reason() {
        use Reason::*;
        for (text, reason) in [
            ("GET / HTTP/1.1\r\n\r\n", BadHost),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", BadHost),
            ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", BadHost),
            ("GET / HTTP/1.1\r\nHost: \r\n\r\n", BadHost),
            ("GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", BadHost),
            ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", BadHost),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n", BadHost),
            ("GET / HTTP/1.1\nHost: a\n\n", BadHeader),
            ("GET / HTTP/1.1\r\nHost : a\r\n\r\n", BadHeader),
            ("GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", BadHeader),
            ("GET / HTTP/1.1\r\nA: b\0c\r\n\r\n", BadHeader),
            ("GET / HTTP/1.1\r\n: b\r\n\r\n", BadHeader),
            ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
            ("GET / HTTP/2.0\r\nHost: a\r\n\r\n", VersionUnsupported),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", VersionUnsupported),
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
            ("GET / x HTTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
            ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n", BadRequestLine),
            ("GET / HTTP/1.10\r\nHost: a\r\n\r\n", BadRequestLine),
            ("GET / FTP/1.1\r\nHost: a\r\n\r\n", BadRequestLine),
            ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", BadPath),
            ("GET * HTTP/1.1\r\nHost: a\r\n\r\n", BadPath),
            ("GET /%2f HTTP/1.1\r\nHost: a\r\n\r\n", BadPath),
            ("GET /?a#b HTTP/1.1\r\nHost: a\r\n\r\n", BadPath),
            ("CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", MethodRefused),
            ("TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", MethodRefused),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", BadFraming),
            ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", BadFraming),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n", BadFraming),
            ("GET / HTTP/1.1\r\nHost: a\r\nConnection: Authorization\r\n\r\n", BadConnection),
            ("GET / HTTP/1.1\r\nHost: a\r\nExpect: tea\r\n\r\n", ExpectationFailed),
        ] {
            assert_eq!(refused(text), reason, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_bounded_at_the_byte() {
        let target = |n: usize| format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(n - 1));
        assert!(request(&target(8192)).is_ok());
        assert_eq!(refused(&target(8193)), Reason::UriTooLong);
        let field = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "a".repeat(n - 1));
        assert!(request(&field(16384)).is_ok());
        assert_eq!(refused(&field(16385)), Reason::HeaderTooLarge);
        let count = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
        assert!(request(&count(100)).is_ok());
        assert_eq!(refused(&count(101)), Reason::HeaderTooLarge);
        assert_eq!(refused(&count(400)), Reason::HeaderTooLarge);
        assert_eq!(
            refused(&format!("GET / HTTP/1.1\r\n{}", "X: yyyyyyyyyyyyy\r\n".repeat(2048))),
            Reason::HeaderTooLarge
        );
        assert_eq!(refused(&format!("GET /{}", "a".repeat(9000))), Reason::UriTooLong);
    }

    #[test]
    fn every_prefix_is_partial_or_refused_never_complete() {
        let text = "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n";
        for end in 0..text.len() {
            let parsed = parse_lines(&text.as_bytes()[..end], &HeadLimits::default(), &mut RequestHead::default());
            assert_eq!(parsed, Ok(Parsed::Partial), "after {end} bytes");
        }
    }
}
