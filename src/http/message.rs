//! Request and response heads: typed, with ranges into the bytes they arrived in. No I/O, no wire format.

use super::fields::{Fields, Text};
use super::name::Name;

/// A request method (RFC 9110 section 9). Methods are case-sensitive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Method {
    /// GET
    #[default]
    Get,
    /// HEAD
    Head,
    /// POST
    Post,
    /// PUT
    Put,
    /// DELETE
    Delete,
    /// CONNECT
    Connect,
    /// OPTIONS
    Options,
    /// TRACE
    Trace,
    /// PATCH (RFC 5789)
    Patch,
    /// Any other token; its text stands in the head.
    Extension,
}

impl Method {
    /// All methods with a name of their own.
    pub const NAMED: [Method; 9] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Connect,
        Method::Options,
        Method::Trace,
        Method::Patch,
    ];

    /// Finds the method of a token.
    pub fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            _ => Method::Extension,
        }
    }

    /// The token; `OTHER` for an extension method, which also is its metric label (C37).
    pub const fn text(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Connect => "CONNECT",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Patch => "PATCH",
            Method::Extension => "OTHER",
        }
    }

    /// Whether a request may be repeated without asking (RFC 9110 section 9.2.2).
    pub const fn is_idempotent(self) -> bool {
        !matches!(self, Method::Post | Method::Patch | Method::Connect | Method::Extension)
    }
}

/// The HTTP version that a message arrived in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Version {
    /// HTTP/1.0
    Http10,
    /// HTTP/1.1
    #[default]
    Http11,
    /// HTTP/2
    Http2,
}

impl Version {
    /// As it stands in logs.
    pub const fn text(self) -> &'static str {
        match self {
            Version::Http10 => "HTTP/1.0",
            Version::Http11 => "HTTP/1.1",
            Version::Http2 => "HTTP/2.0",
        }
    }
}

/// How long a body is, as far as its head tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BodyLength {
    /// There is none.
    #[default]
    None,
    /// Just so many bytes; 0 is an explicit `Content-Length: 0`.
    Known(u64),
    /// Delimited by the wire: chunked coding, or the end of a stream.
    Streamed,
    /// Delimited by the close of the connection (responses in HTTP/1 only).
    UntilClose,
}

impl BodyLength {
    /// Whether the head says that nothing follows it. A streamed body may turn out to be empty, and has an end to be
    /// sent all the same.
    pub const fn is_empty(self) -> bool {
        matches!(self, BodyLength::None | BodyLength::Known(0))
    }
}

/// An authority that was found legal and without upper-case letters, so that it need not be looked at again.
#[derive(Debug, Default)]
pub struct KnownAuthority {
    text: Vec<u8>,
    host_length: usize,
}

impl KnownAuthority {
    /// Longer ones are not remembered.
    const BYTES_MAX: usize = 64;

    /// The length of this authority's host, where it is the known one.
    #[inline]
    pub fn host_length(&self, authority: &[u8]) -> Option<usize> {
        (!authority.is_empty() && self.text == authority).then_some(self.host_length)
    }

    /// Remembers an authority.
    pub fn set(&mut self, authority: &[u8], host_length: usize) {
        if authority.len() <= Self::BYTES_MAX {
            self.text.clear();
            self.text.extend_from_slice(authority);
            self.host_length = host_length;
        }
    }
}

/// A request head.
#[derive(Debug, Default)]
pub struct RequestHead {
    /// Method.
    pub method: Method,
    /// The method's token as it arrived.
    pub method_text: Text,
    /// Version of the downstream message.
    pub version: Version,
    /// The request target as it arrived, for the log.
    pub target: Text,
    /// Canonical path: what is matched, logged, keyed and forwarded.
    pub path: Text,
    /// The canonical path as routes and keys see it, where escapes that mean nothing make it another one.
    pub matched: Option<Text>,
    /// Some endpoint may read the path in another way; see [`doubtful`](super::path::doubtful).
    pub doubtful: bool,
    /// Query without the question mark, as it arrived.
    pub query: Option<Text>,
    /// Host with port, as the client sent it; empty when there is none (HTTP/1.0).
    pub authority: Text,
    /// Host in lower case without port: what routes match.
    pub host: Text,
    /// How long the body is.
    pub body: BodyLength,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
    /// The one protocol that the client would change to (RFC 9110 section 7.8), where its request may ask for it.
    pub upgrade: Option<Text>,
    /// The path that goes upstream when a route rewrote it.
    pub forward_path: Option<Text>,
    /// The query that goes upstream, when a route or policy changed it.
    pub forward_query: Option<Text>,
    /// The authority that was last found legal, in whatever request: most name it again.
    pub known: KnownAuthority,
    /// Header section.
    pub fields: Fields,
}

impl RequestHead {
    /// Empties the head for the next request, keeping the allocated tables and the known authority.
    pub fn clear(&mut self) {
        self.method = Method::Get;
        self.method_text = Text::EMPTY;
        self.version = Version::Http11;
        self.target = Text::EMPTY;
        self.path = Text::EMPTY;
        self.matched = None;
        self.doubtful = false;
        self.query = None;
        self.authority = Text::EMPTY;
        self.host = Text::EMPTY;
        self.body = BodyLength::None;
        self.expects_continue = false;
        self.upgrade = None;
        self.forward_path = None;
        self.forward_query = None;
        self.fields.clear();
    }

    /// The same head once more, with bytes of its own.
    pub fn copy(&self) -> Self {
        Self { fields: self.fields.copy(), known: KnownAuthority::default(), ..*self }
    }

    /// Canonical path.
    pub fn path(&self) -> &[u8] {
        self.fields.text(self.path)
    }

    /// Canonical path as routes and keys see it: `/@a`, however its escapes are spelled.
    #[inline]
    pub fn matched_path(&self) -> &[u8] {
        self.fields.text(self.matched.unwrap_or(self.path))
    }

    /// Query without the question mark.
    pub fn query(&self) -> Option<&[u8]> {
        self.query.map(|query| self.fields.text(query))
    }

    /// Host in lower case without port.
    pub fn host(&self) -> &[u8] {
        self.fields.text(self.host)
    }

    /// First value of a query parameter, as it stands (not decoded).
    pub fn query_value<'a>(&'a self, name: &[u8]) -> Option<&'a [u8]> {
        let pairs = self.query()?.split(|&b| b == b'&');
        pairs.map(split_pair).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// First value of a cookie (RFC 6265 section 4.2.1).
    pub fn cookie<'a>(&'a self, name: &[u8]) -> Option<&'a [u8]> {
        let pairs = self.fields.values(Name::Cookie).flat_map(|line| line.split(|&b| b == b';'));
        pairs.map(|pair| split_pair(pair.trim_ascii())).find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}

/// A response head.
#[derive(Debug, Default)]
pub struct ResponseHead {
    /// Status code, 100 to 999.
    pub status: u16,
    /// Version of the upstream message.
    pub version: Version,
    /// How long the body is.
    pub body: BodyLength,
    /// The Content-Length that the endpoint declared, also where the response has no body (HEAD, 304).
    pub declared_length: Option<u64>,
    /// The one protocol that a lawful 101 changes to (RFC 9110 section 15.2.2).
    pub upgrade: Option<Text>,
    /// Header section.
    pub fields: Fields,
}

impl ResponseHead {
    /// Empties the head for the next response, keeping the allocated tables.
    pub fn clear(&mut self) {
        self.status = 0;
        self.version = Version::Http11;
        self.body = BodyLength::None;
        self.declared_length = None;
        self.upgrade = None;
        self.fields.clear();
    }
}

/// The reason phrase of a status code (RFC 9110 section 15); empty for one without.
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        511 => "Network Authentication Required",
        _ => "",
    }
}

fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, b""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_case_sensitive() {
        assert_eq!(Method::of(b"GET"), Method::Get);
        assert_eq!(Method::of(b"get"), Method::Extension);
        assert!(Method::NAMED.iter().all(|&m| Method::of(m.text().as_bytes()) == m));
    }

    #[test]
    fn cookies_and_query_values_are_found() {
        let mut head = RequestHead::default();
        head.fields.append(b"Cookie", b"a=1; sid=x=y;b").expect("legal");
        head.query = Some(head.fields.keep(b"q=1&empty&q=2"));
        assert_eq!(head.cookie(b"sid"), Some(&b"x=y"[..]));
        assert_eq!(head.cookie(b"b"), Some(&b""[..]));
        assert_eq!(head.cookie(b"none"), None);
        assert_eq!(head.query_value(b"q"), Some(&b"1"[..]));
        assert_eq!(head.query_value(b"empty"), Some(&b""[..]));
    }
}
