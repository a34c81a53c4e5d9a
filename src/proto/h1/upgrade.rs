//! `Upgrade` (RFC 9110 section 7.8): which protocol a request asks for, and which one a 101 changes to.
//!
//! A request asks only if there is one reading: one GET of HTTP/1.1 without a body, `Connection: upgrade`, and one
//! `Upgrade` line with one protocol. Whatever else it says is left out, as RFC 9110 allows, and the request is an
//! ordinary one.

use crate::http::fields::{Fields, Text, is_token};
use crate::http::hop::ConnectionOptions;
use crate::http::message::{Method, RequestHead, Version};
use crate::http::name::Name;

/// Protocols that are never passed on, whatever a configuration says: HTTP itself would go on behind the gateway's
/// back, past every route and policy (F47), and TLS hides what follows.
const NEVER: &[&str] = &["h2c", "h2", "h3", "http", "tls"];

/// The protocol that a request asks for. To be called before hop-by-hop fields are removed.
pub fn asked(head: &RequestHead, connection: ConnectionOptions) -> Option<Text> {
    let may_ask = head.version == Version::Http11
        && head.method == Method::Get
        && head.body.is_empty()
        && connection.upgrade
        && !connection.close;
    if may_ask { named(&head.fields) } else { None }
}

/// The protocol of the only `Upgrade` line, if it is one and legal.
pub fn named(fields: &Fields) -> Option<Text> {
    let mut lines = fields.lines().filter(|line| line.id == Name::Upgrade);
    let (only, more) = (lines.next()?.value, lines.next());
    (more.is_none() && is_protocol(fields.text(only))).then_some(only)
}

/// Whether this is `name` or `name/version`, both tokens.
pub fn is_protocol(text: &[u8]) -> bool {
    let mut parts = text.split(|&b| b == b'/');
    parts.by_ref().take(2).all(is_token) && parts.next().is_none()
}

/// Whether a protocol may be passed on at all.
pub fn may_pass(protocol: &[u8]) -> bool {
    let name = protocol.split(|&b| b == b'/').next().unwrap_or_default();
    is_protocol(protocol) && !NEVER.iter().any(|never| name.eq_ignore_ascii_case(never.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::path::PathPolicy;
    use crate::proto::h1::parse::HeadLimits;
    use crate::proto::h1::{request, response};
    use crate::sys::buf::Buf;

    fn asks(text: &str) -> Option<String> {
        let mut head = RequestHead::default();
        request::parse_lines(text.as_bytes(), &HeadLimits::default(), &mut head).expect("legal");
        let buffer = Buf::copy_of(text.as_bytes());
        request::interpret(&mut head, buffer, text.len(), PathPolicy::default(), false).expect("legal");
        assert!(head.fields.get(Name::Upgrade).is_none(), "hop-by-hop fields are gone");
        head.upgrade.map(|text| String::from_utf8_lossy(head.fields.text(text)).into_owned())
    }

    #[test]
    fn only_one_reading_asks() {
        let get = |fields: &str| asks(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
        assert_eq!(get("Connection: Upgrade\r\nUpgrade: websocket\r\n").as_deref(), Some("websocket"));
        assert_eq!(get("Upgrade: a/1\r\nConnection: keep-alive, upgrade\r\n").as_deref(), Some("a/1"));
        for fields in [
            "Upgrade: websocket\r\n",
            "Connection: upgrade\r\n",
            "Connection: upgrade\r\nUpgrade: websocket, h2c\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: websocket\r\n",
            "Connection: upgrade\r\nUpgrade: a b\r\n",
            "Connection: upgrade\r\nUpgrade: a/1/2\r\n",
            "Connection: upgrade\r\nUpgrade: /1\r\n",
            "Connection: upgrade\r\nUpgrade:\r\n",
            "Connection: upgrade, close\r\nUpgrade: websocket\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 1\r\n",
            "Connection: upgrade\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n",
        ] {
            assert_eq!(get(fields), None, "{fields:?}");
        }
        let fields = "Host: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(asks(&format!("POST / HTTP/1.1\r\n{fields}")), None);
        assert_eq!(asks(&format!("GET / HTTP/1.0\r\n{fields}")), None);
    }

    #[test]
    fn http_and_tls_never_pass() {
        for protocol in ["h2c", "H2C", "h2c/1", "HTTP/2.0", "http", "TLS/1.0", "", "a b", "a/b/c"] {
            assert!(!may_pass(protocol.as_bytes()), "{protocol}");
        }
        assert!(may_pass(b"websocket") && may_pass(b"WebSocket") && may_pass(b"chat/2"));
    }

    #[test]
    fn a_101_says_what_it_changes_to() {
        let changes = |text: &str| {
            let mut head = crate::http::message::ResponseHead::default();
            response::parse_lines(text.as_bytes(), &HeadLimits::default(), &mut head).expect("legal");
            response::interpret(&mut head, Buf::copy_of(text.as_bytes()), Method::Get).expect("legal");
            head.upgrade.is_some()
        };
        let fields = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        assert!(changes(&format!("HTTP/1.1 101 S\r\n{fields}\r\n")));
        assert!(!changes(&format!("HTTP/1.1 200 S\r\n{fields}\r\n")));
        assert!(!changes(&format!("HTTP/1.0 101 S\r\n{fields}\r\n")));
        assert!(!changes(&format!("HTTP/1.1 101 S\r\nContent-Length: 3\r\n{fields}\r\n")));
        assert!(!changes("HTTP/1.1 101 S\r\nUpgrade: websocket\r\n\r\n"));
        assert!(!changes("HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n"));
    }
}
