//! The request as it goes upstream: written from the typed form, with the fields that tell where it came from.

use std::net::SocketAddr;

use crate::http::exchange::Exchange;
use crate::http::grpc;
use crate::http::hop;
use crate::http::message::BodyLength;
use crate::http::name::{Name, NameSet};
use crate::proto::h1::serialise;
use crate::proto::h2::head;
use crate::proto::h2::hpack::encode::Encoder;
use crate::proto::proxy_protocol::{self, Version};
use crate::snapshot::{HostRule, Listener};
use crate::sys::buf::Buf;

/// Fields that are written here, from what the gateway knows.
const WRITTEN_HERE: NameSet = hop::HOP_BY_HOP.and(NameSet::of(&[
    Name::Host,
    Name::Expect,
    Name::XForwardedFor,
    Name::XForwardedProto,
    Name::XForwardedHost,
    Name::XForwardedPort,
    Name::XRequestId,
    Name::Forwarded,
]));

/// Writes the head of the request for an HTTP/1.1 endpoint.
pub fn write_head(out: &mut Buf, x: &Exchange, listener: &Listener, host: &[u8]) {
    let request = &x.request;
    let text = |text| request.fields.text(text);
    out.extend_all([text(request.method_text), b" ", text(request.forward_path.unwrap_or(request.path))]);
    if let Some(query) = request.forward_query.or(request.query) {
        out.extend_all([b"?", text(query)]);
    }
    out.extend_all([b" HTTP/1.1\r\nHost: ", host, b"\r\n"]);
    serialise::fields(out, &request.fields, WRITTEN_HERE);
    write_origin(out, x, listener);
    if let Some(left_ns) = x.grpc.and_then(|call| call.left_ns) {
        serialise::field(out, grpc::TIMEOUT, grpc::format_timeout(left_ns).as_bytes());
    }
    match request.body {
        BodyLength::Known(length) => serialise::content_length(out, length),
        BodyLength::Streamed => out.extend(b"Transfer-Encoding: chunked\r\n"),
        _ => {}
    }
    out.extend(b"\r\n");
}

/// Writes the head of the request for an HTTP/2 endpoint, over TLS if `secure`: the same fields, names in lower case.
pub fn write_h2_head(
    encoder: &mut Encoder,
    out: &mut Buf,
    x: &Exchange,
    listener: &Listener,
    host: &[u8],
    secure: bool,
) {
    let request = &x.request;
    let text = |text| request.fields.text(text);
    encoder.method(out, text(request.method_text));
    // What the endpoint's connection is, not what the client's was: that stands in X-Forwarded-Proto.
    encoder.scheme(out, if secure { b"https" } else { b"http" });
    encoder.authority(out, host);
    let path = text(request.forward_path.unwrap_or(request.path));
    match request.forward_query.or(request.query) {
        None => encoder.path(out, path),
        Some(query) => encoder.path(out, &[path, b"?", text(query)].concat()),
    }
    head::write_fields(encoder, out, &request.fields, WRITTEN_HERE);
    write_h2_origin(encoder, out, x, listener);
    if let Some(call) = x.grpc {
        encoder.field(out, b"te", b"trailers", Name::Te);
        if let Some(left_ns) = call.left_ns {
            encoder.field(out, grpc::TIMEOUT, grpc::format_timeout(left_ns).as_bytes(), Name::Other);
        }
    }
    if let BodyLength::Known(length) = request.body {
        encoder.field(out, b"content-length", length.to_string().as_bytes(), Name::ContentLength);
    }
}

/// What [`write_origin`] writes, with the same rules.
fn write_h2_origin(encoder: &mut Encoder, out: &mut Buf, x: &Exchange, listener: &Listener) {
    let continued = |id: Name, own: &[u8]| {
        let mut value = Vec::with_capacity(64);
        for before in x.request.fields.values(id).filter(|_| x.peer_is_trusted) {
            value.extend_from_slice(before);
            value.extend_from_slice(b", ");
        }
        value.extend_from_slice(own);
        value
    };
    let mut write = |id: Name, value: &[u8]| {
        if !value.is_empty() {
            encoder.field(out, id.text().as_bytes(), value, id);
        }
    };
    write(Name::XForwardedFor, &continued(Name::XForwardedFor, x.peer_text.as_bytes()));
    let authority = x.request.fields.text(x.request.authority);
    for (id, own) in [
        (Name::XForwardedProto, x.scheme.text().as_bytes()),
        (Name::XForwardedHost, authority),
        (Name::XForwardedPort, x.port_text.as_bytes()),
    ] {
        let kept = x.request.fields.get(id).filter(|_| x.peer_is_trusted);
        write(id, kept.unwrap_or(own));
    }
    write(Name::XRequestId, x.id.as_bytes());
    if listener.forwarded {
        let mut line = Buf::small();
        write_forwarded(&mut line, x, authority);
        let line = line.as_slice();
        write(Name::Forwarded, &line[b"Forwarded: ".len()..line.len() - 2]);
    }
    if let Some(name) = &listener.via {
        write(Name::Via, &[b"1.1 ", name.as_bytes()].concat());
    }
}

/// X-Forwarded-For, -Proto, -Host, -Port, X-Request-ID, and Forwarded where asked for (R29, R30, C15).
///
/// Fields of trusted proxies are still in the request here, those of strangers are gone: For is continued, the others
/// keep what the first trusted proxy saw.
fn write_origin(out: &mut Buf, x: &Exchange, listener: &Listener) {
    let authority = x.request.fields.text(x.request.authority);
    let (peer, port) = (x.peer_text.as_bytes(), x.port_text.as_bytes());
    if x.peer_is_trusted || authority.is_empty() || port.is_empty() {
        write_continued_origin(out, x, authority);
    } else {
        let scheme = x.scheme.text().as_bytes();
        out.extend_all([b"X-Forwarded-For: ", peer, b"\r\nX-Forwarded-Proto: ", scheme]);
        out.extend_all([b"\r\nX-Forwarded-Host: ", authority, b"\r\nX-Forwarded-Port: ", port]);
    }
    out.extend_all([b"\r\nX-Request-ID: ", x.id.as_bytes(), b"\r\n"]);
    if listener.forwarded {
        write_forwarded(out, x, authority);
    }
    if let Some(name) = &listener.via {
        out.extend_all([b"Via: 1.1 ", name.as_bytes(), b"\r\n"]);
    }
}

/// The first four of them, without the last one's end: where a trusted proxy may have sent some, or one is not known.
fn write_continued_origin(out: &mut Buf, x: &Exchange, authority: &[u8]) {
    out.extend(b"X-Forwarded-For: ");
    if x.peer_is_trusted {
        for value in x.request.fields.values(Name::XForwardedFor) {
            out.extend_all([value, b", "]);
        }
    }
    out.extend(x.peer_text.as_bytes());
    keep_or_write(out, x, Name::XForwardedProto, b"\r\nX-Forwarded-Proto: ", x.scheme.text().as_bytes());
    keep_or_write(out, x, Name::XForwardedHost, b"\r\nX-Forwarded-Host: ", authority);
    keep_or_write(out, x, Name::XForwardedPort, b"\r\nX-Forwarded-Port: ", x.port_text.as_bytes());
}

/// Ends the line before and writes the next one without its end.
#[inline]
fn keep_or_write(out: &mut Buf, x: &Exchange, id: Name, begin: &[u8], own: &[u8]) {
    let kept = if x.peer_is_trusted { x.request.fields.get(id) } else { None };
    let value = kept.unwrap_or(own);
    if !value.is_empty() {
        out.extend_all([begin, value]);
    }
}

/// `Forwarded: for=…;host=…;proto=…` (RFC 7239 section 4).
fn write_forwarded(out: &mut Buf, x: &Exchange, authority: &[u8]) {
    out.extend(b"Forwarded: ");
    for value in x.request.fields.values(Name::Forwarded) {
        out.extend(value);
        out.extend(b", ");
    }
    let quoted_v6 = x.peer.is_ipv6();
    out.extend(if quoted_v6 { b"for=\"[" } else { b"for=" });
    out.extend(x.peer_text.as_bytes());
    if quoted_v6 {
        out.extend(b"]\"");
    }
    // Host was checked to hold neither quotes nor backslashes.
    out.extend(b";host=\"");
    out.extend(authority);
    out.extend(b"\";proto=");
    out.extend(x.scheme.text().as_bytes());
    out.extend(b"\r\n");
}

/// Writes the header that tells an endpoint of the client before the request does. `local` is the address that the
/// client connected to. The client's port is known only where it is the peer itself.
pub fn write_proxy_header(out: &mut Buf, version: Version, x: &Exchange, local: Option<SocketAddr>) {
    let port = if x.client_ip == x.peer.ip() { x.peer.port() } else { 0 };
    let source = SocketAddr::new(x.client_ip, port);
    out.extend(&proxy_protocol::written(version, local.map(|to| proxy_protocol::Addresses { source, to })));
}

/// The Host that the endpoint sees (R22). A client of HTTP/1.0 may have sent none; then the endpoint's own is used.
pub fn host<'a>(x: &'a Exchange, rule: &'a HostRule, endpoint: &'a str) -> &'a [u8] {
    match rule {
        HostRule::Preserve if !x.request.authority.is_empty() => x.request.fields.text(x.request.authority),
        HostRule::Literal(host) => host,
        _ => endpoint.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::http::exchange::ShortText;
    use crate::http::path::PathPolicy;
    use crate::proto::h1::parse::{HeadLimits, Parsed};
    use crate::proto::h1::request;

    fn exchange(text: &str, trusted: bool) -> Exchange {
        let mut x = Exchange::default();
        let limits = HeadLimits::default();
        let Ok(Parsed::Complete(bytes)) = request::parse_lines(text.as_bytes(), &limits, &mut x.request) else {
            panic!("not a request: {text}");
        };
        x.peer_is_trusted = trusted;
        let buffer = Buf::copy_of(text.as_bytes());
        request::interpret(&mut x.request, buffer, bytes, PathPolicy::default(), trusted).expect("legal");
        x.peer = "192.0.2.7:5000".parse().expect("an address");
        x.peer_text = ShortText::of(&x.peer.ip());
        x.port_text = ShortText::of(&8080);
        x.id = crate::http::exchange::RequestId::from_peer(b"id-1").expect("legal");
        x
    }

    fn listener(forwarded: bool) -> Listener {
        let address = "127.0.0.1:8080".parse().expect("an address");
        Listener { forwarded, ..Listener::plain("l", address, Arc::default()) }
    }

    fn head(x: &Exchange, forwarded: bool) -> String {
        let mut out = Buf::small();
        write_head(&mut out, x, &listener(forwarded), host(x, &HostRule::Preserve, "up:80"));
        String::from_utf8(out.as_slice().to_vec()).expect("ASCII")
    }

    #[test]
    fn strangers_are_named_and_not_believed() {
        let x = exchange(
            "GET /a/../b?q HTTP/1.1\r\nHost: a.b\r\nX-Forwarded-For: 6.6.6.6\r\n\
             Connection: keep-alive\r\nA:  b\r\n\r\n",
            false,
        );
        assert_eq!(
            head(&x, true),
            "GET /b?q HTTP/1.1\r\nHost: a.b\r\nA: b\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: http\r\n\
             X-Forwarded-Host: a.b\r\nX-Forwarded-Port: 8080\r\nX-Request-ID: id-1\r\n\
             Forwarded: for=192.0.2.7;host=\"a.b\";proto=http\r\n\r\n"
        );
    }

    #[test]
    fn trusted_proxies_are_continued() {
        let x = exchange(
            "POST / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\n\
             Content-Length: 3\r\n\r\n",
            true,
        );
        let head = head(&x, false);
        assert!(head.contains("X-Forwarded-For: 6.6.6.6, 192.0.2.7\r\n"), "{head}");
        assert!(head.contains("X-Forwarded-Proto: https\r\n") && head.contains("Content-Length: 3\r\n"), "{head}");
        assert_eq!(head.matches("X-Forwarded-For").count(), 1);
    }

    #[test]
    fn what_is_written_parses_to_the_same_form() {
        let x = exchange("PUT /x%7Ey HTTP/1.1\r\nHost: A.b:1\r\nTransfer-Encoding: chunked\r\nC: d\r\n\r\n", false);
        let text = head(&x, false);
        let again = exchange(&text, true);
        assert_eq!(head(&again, false).replace(", 192.0.2.7", ""), text);
        assert_eq!((again.request.path(), again.request.body), (&b"/x~y"[..], BodyLength::Streamed));
    }
}
