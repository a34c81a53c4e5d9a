//! Names and values of HTTP.

use serde_json::Value as Json;

use super::{Fault, ScalarType, decode_scalar};
use crate::http::fields;
use crate::schema::codes;
use crate::schema::decode::{Cx, Decode};
use crate::schema::doc::TypeDoc;
use crate::schema::node::Node;
use crate::schema::suggest;

fn is_token(text: &str) -> bool {
    fields::is_token(text.as_bytes())
}

/// A header field name in lower case (RFC 9110 section 5.1); at most 256 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeaderName(String);

impl HeaderName {
    /// The name in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ScalarType for HeaderName {
    const WANTED: &'static str = "a header name";

    fn parse(text: &str) -> Result<Self, Fault> {
        if is_token(text) && text.len() <= 256 {
            return Ok(HeaderName(text.to_ascii_lowercase()));
        }
        Err(match text.split_once(':') {
            Some((name, _)) if is_token(name) => Fault::hint(format!("give the name only: {name}")),
            _ => Fault::hint("names consist of letters, digits and -"),
        })
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("header name", "token characters; case does not matter", Some(r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))
    }
}

/// A header field value without line breaks and control characters (RFC 9110 section 5.5); at most 8 KiB.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HeaderValue {
    value: String,
    /// As written, when a variable gave it: dumps show this one, since the value may be a token (C60).
    written: Option<Box<str>>,
}

impl HeaderValue {
    /// The value.
    pub fn as_str(&self) -> &str {
        &self.value
    }
}

impl Decode for HeaderValue {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let value: HeaderValue = decode_scalar(node, cx)?;
        let written = node.as_scalar().and_then(|scalar| scalar.written.clone());
        Some(HeaderValue { written, ..value })
    }

    fn dump(&self) -> Json {
        Json::from(self.written.as_deref().unwrap_or(&self.value))
    }

    fn describe() -> TypeDoc {
        Self::document()
    }
}

impl ScalarType for HeaderValue {
    const WANTED: &'static str = "a header value";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f) {
            return Err(Fault::message("a header value may not hold line breaks or control characters"));
        }
        if text.len() > 8 * 1024 {
            return Err(Fault::message("a header value may hold at most 8KiB").code(codes::OUT_OF_RANGE));
        }
        let value = text.trim_matches([' ', '\t']).to_owned();
        Ok(HeaderValue { value, written: None })
    }

    fn show(&self) -> String {
        self.value.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("header value", "no line breaks, no control characters", None)
    }
}

/// A request method, which is case-sensitive (RFC 9110 section 9.1); at most 32 bytes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(String);

impl Method {
    /// The method.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

impl ScalarType for Method {
    const WANTED: &'static str = "a method";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.contains(['|', ',', ' ']) {
            let words: Vec<&str> = text.split(['|', ',', ' ']).filter(|word| !word.is_empty()).collect();
            return Err(Fault::hint(format!("write a list: [{}]", words.join(", "))));
        }
        let upper = text.to_ascii_uppercase();
        if METHODS.contains(&upper.as_str()) && upper != text {
            return Err(Fault::hint(format!("methods are written in capitals: {upper}")));
        }
        if !is_token(text) || text.len() > 32 {
            return Err(Fault::hint(format!("the usual ones are {}", METHODS.join(", "))));
        }
        Ok(Method(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("method", "GET, HEAD, POST, PUT, DELETE, PATCH, OPTIONS or another token", Some("^[^a-z|, ]+$"))
    }
}

impl Decode for Method {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let method: Method = decode_scalar(node, cx)?;
        if !METHODS.contains(&method.as_str())
            && let Some(near) = suggest::nearest(method.as_str(), METHODS.iter().copied())
        {
            cx.report(codes::UNUSUAL_METHOD, node.span, format!("`{}` is not a usual method", method.as_str()))
                .hint(format!("did you mean `{near}`?"));
        }
        Some(method)
    }

    fn dump(&self) -> Json {
        Json::from(self.as_str())
    }

    fn describe() -> TypeDoc {
        Self::document()
    }
}

/// A host name to match, lower-cased: `api.example.com`, or `*.example.com` for all names below it (R8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPattern(String);

impl HostPattern {
    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ScalarType for HostPattern {
    const WANTED: &'static str = "a host name";

    fn parse(text: &str) -> Result<Self, Fault> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        if name.contains('*') {
            return Err(Fault::hint("a `*` may only be the whole first part, as in *.example.com"));
        }
        if let Some((_, rest)) = name.split_once("://") {
            return Err(Fault::hint(format!("give the host only: {}", rest.split(['/', ':']).next().unwrap_or(""))));
        }
        let literal = name.starts_with('[') && name.ends_with(']');
        if !literal && name.contains(':') {
            return Err(Fault::hint("give the host without its port; the listener decides about ports"));
        }
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        if name.is_empty() || name.len() > 253 || !(literal || name.bytes().all(plain)) {
            return Err(Fault::hint("write it as api.example.com or *.example.com"));
        }
        Ok(HostPattern(text.to_ascii_lowercase()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("host name", "api.example.com or *.example.com", None)
    }
}

/// A path to match, as text: the router compiles it. Begins with `/`, holds no query, blank or control character.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathPattern(String);

impl PathPattern {
    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ScalarType for PathPattern {
    const WANTED: &'static str = "a path";

    fn parse(text: &str) -> Result<Self, Fault> {
        if text.starts_with('^') {
            return Err(Fault::hint("write regular expressions under `regex`"));
        }
        if text == "*" {
            return Err(Fault::hint("write `/*` for every path"));
        }
        if !text.starts_with('/') {
            return Err(Fault::hint(format!("a path begins with `/`: /{text}")));
        }
        if text.contains(['?', '#']) {
            return Err(Fault::hint("a path holds no `?` or `#`; match the query under `query`"));
        }
        if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(Fault::message("a path holds no blanks and no control characters"));
        }
        if text.len() > 8 * 1024 {
            return Err(Fault::message("a path may hold at most 8KiB").code(codes::OUT_OF_RANGE));
        }
        Ok(PathPattern(text.to_owned()))
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("path", "begins with /", Some("^/[^?# ]*$"))
    }
}

/// What tells requests apart: for hashing to an endpoint and for counting in a limiter (R76-R80, R102).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// The client's address.
    ClientIp,
    /// The certificate that the client has shown.
    ClientCert,
    /// The path as sent upstream.
    Path,
    /// The route.
    Route,
    /// Nothing: all requests are one.
    Global,
    /// A request header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
}

const KEY_FORMS: &[&str] =
    &["client_ip", "client_cert", "path", "route", "global", "header:NAME", "cookie:NAME", "query:NAME"];

impl ScalarType for KeySource {
    const WANTED: &'static str = "a key";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "client_ip" => return Ok(KeySource::ClientIp),
            "client_cert" => return Ok(KeySource::ClientCert),
            "path" => return Ok(KeySource::Path),
            "route" => return Ok(KeySource::Route),
            "global" => return Ok(KeySource::Global),
            _ => {}
        }
        let forms = || Fault::hint(format!("one of {}", KEY_FORMS.join(", ")));
        let Some((kind, name)) = text.split_once(':') else {
            let words = KEY_FORMS.iter().copied().filter(|form| !form.contains(':'));
            return Err(match suggest::nearest(text, words) {
                Some(near) => Fault::hint(format!("did you mean `{near}`?")),
                None => forms(),
            });
        };
        let name = name.trim();
        match kind {
            "header" => HeaderName::parse(name).map(KeySource::Header),
            "cookie" if is_token(name) => Ok(KeySource::Cookie(name.to_owned())),
            "query" if !name.is_empty() && !name.contains(['&', '=', '#']) => Ok(KeySource::Query(name.to_owned())),
            _ => Err(match suggest::nearest(kind, ["header", "cookie", "query"]) {
                Some(near) if near != kind => Fault::hint(format!("did you mean `{near}:{name}`?")),
                _ => forms(),
            }),
        }
    }

    fn show(&self) -> String {
        match self {
            KeySource::ClientIp => "client_ip".to_owned(),
            KeySource::ClientCert => "client_cert".to_owned(),
            KeySource::Path => "path".to_owned(),
            KeySource::Route => "route".to_owned(),
            KeySource::Global => "global".to_owned(),
            KeySource::Header(name) => format!("header:{}", name.as_str()),
            KeySource::Cookie(name) => format!("cookie:{name}"),
            KeySource::Query(name) => format!("query:{name}"),
        }
    }

    fn document() -> TypeDoc {
        let pattern = "^(client_ip|client_cert|path|route|global|(header|cookie|query):.+)$";
        TypeDoc::text("key", &KEY_FORMS.join(", "), Some(pattern))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hint_of<T: ScalarType>(text: &str) -> String {
        T::parse(text).err().and_then(|fault| fault.hint).unwrap_or_default()
    }

    #[test]
    fn names_and_values_cannot_smuggle() {
        assert_eq!(HeaderName::parse("X-Trace").map(|n| n.show()), Ok("x-trace".to_owned()));
        for bad in ["", "a b", "a:", "a\r\nb", "ä"] {
            assert!(HeaderName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["a\r\nb: c", "a\0", "a\x7f", "\n"] {
            assert!(HeaderValue::parse(bad).is_err(), "{bad:?}");
        }
        assert!(HeaderValue::parse("a\tb ü").is_ok());
    }

    #[test]
    fn slips_get_the_right_form() {
        assert_eq!(hint_of::<Method>("GET|POST"), "write a list: [GET, POST]");
        assert_eq!(hint_of::<Method>("get"), "methods are written in capitals: GET");
        assert_eq!(hint_of::<PathPattern>("api/x"), "a path begins with `/`: /api/x");
        assert_eq!(hint_of::<HostPattern>("https://a.b/c"), "give the host only: a.b");
        assert_eq!(hint_of::<KeySource>("clientip"), "did you mean `client_ip`?");
        assert_eq!(hint_of::<KeySource>("haeder:x"), "did you mean `header:x`?");
        assert_eq!(KeySource::parse("header:X-User").map(|k| k.show()), Ok("header:x-user".to_owned()));
    }
}
