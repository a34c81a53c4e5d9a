//! One line of the access log, in each format.

use super::text::{Escape, address, milliseconds, number, query, url, value};
use super::{Format, Names};
use crate::http::exchange::{Exchange, Scheme};
use crate::http::name::Name;
use crate::telemetry::stamp::Stamp;

/// What a line is made of.
pub(super) struct Line<'a> {
    pub exchange: &'a Exchange,
    pub names: &'a Names<'a>,
    pub stamp: &'a Stamp,
    pub worker: u32,
    /// Duration of the request.
    pub ns: u64,
}

impl Line<'_> {
    pub fn write(&self, format: Format, out: &mut Vec<u8>) {
        match format {
            Format::Json => self.json(out),
            Format::Common => self.common(out),
            Format::Combined => self.combined(out),
            Format::Off => return,
        }
        out.push(b'\n');
    }

    fn json(&self, out: &mut Vec<u8>) {
        let (x, request) = (self.exchange, &self.exchange.request);
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(self.stamp.rfc3339());
        out.extend_from_slice(b"\",\"level\":\"INFO\",\"message\":\"Request completed\",\"method\":\"");
        value(out, self.method(), Escape::Json);
        out.extend_from_slice(b"\",\"path\":\"");
        value(out, request.path(), Escape::Json);
        if let Some(text) = request.query() {
            out.extend_from_slice(b"\",\"query\":\"");
            query(out, text, Escape::Json);
        }
        if let Some(target) = self.odd_target() {
            out.extend_from_slice(b"\",\"target\":\"");
            value(out, target, Escape::Json);
        }
        out.extend_from_slice(b"\",\"status\":");
        number(out, u64::from(self.status()));
        out.extend_from_slice(b",\"duration_ms\":");
        milliseconds(out, self.ns);
        out.extend_from_slice(b",\"client\":\"");
        address(out, x.client_ip);
        out.extend_from_slice(b"\",\"user_agent\":\"");
        value(out, request.fields.get(Name::UserAgent).unwrap_or_default(), Escape::Json);
        plain_field(out, b"\",\"request_id\":\"", x.id.as_bytes());
        text_field(out, b"\",\"host\":\"", request.host());
        text_field(out, b"\",\"route\":\"", self.names.route.as_bytes());
        self.json_upstream(out);
        if let Some(failure) = x.failure {
            plain_field(out, b"\",\"reason\":\"", failure.reason.word().as_bytes());
            if !failure.detail.is_empty() {
                text_field(out, b"\",\"detail\":\"", failure.detail.as_bytes());
            }
        }
        plain_field(out, b"\",\"protocol\":\"", self.protocol().as_bytes());
        number_field(out, b"\",\"bytes_in\":", x.request_bytes);
        number_field(out, b",\"bytes_out\":", x.response_bytes);
        number_field(out, b",\"worker\":", u64::from(self.worker));
        out.push(b'}');
    }

    /// Begins and ends inside a text value.
    fn json_upstream(&self, out: &mut Vec<u8>) {
        let x = self.exchange;
        if self.names.service.is_empty() {
            return;
        }
        text_field(out, b"\",\"service\":\"", self.names.service.as_bytes());
        text_field(out, b"\",\"endpoint\":\"", self.names.endpoint.as_bytes());
        number_field(out, b"\",\"upstream_status\":", u64::from(x.upstream_status));
        out.extend_from_slice(b",\"upstream_ms\":");
        milliseconds(out, x.upstream_ns);
        number_field(out, b",\"attempts\":", u64::from(x.attempts));
        plain_field(out, b",\"scheme\":\"", x.scheme.text().as_bytes());
    }

    /// `client - - [time] "method path?query version" status bytes`
    fn common(&self, out: &mut Vec<u8>) {
        let request = &self.exchange.request;
        address(out, self.exchange.client_ip);
        out.extend_from_slice(b" - - [");
        out.extend_from_slice(self.stamp.clf());
        out.extend_from_slice(b"] \"");
        value(out, self.method(), Escape::Hex);
        out.push(b' ');
        value(out, request.path(), Escape::Hex);
        if let Some(text) = request.query() {
            out.push(b'?');
            query(out, text, Escape::Hex);
        }
        out.push(b' ');
        out.extend_from_slice(self.protocol().as_bytes());
        out.extend_from_slice(b"\" ");
        number(out, u64::from(self.status()));
        out.push(b' ');
        number(out, self.exchange.response_bytes);
    }

    fn combined(&self, out: &mut Vec<u8>) {
        let fields = &self.exchange.request.fields;
        self.common(out);
        out.extend_from_slice(b" \"");
        url(out, fields.get(Name::Referer).unwrap_or(b"-"), Escape::Hex);
        out.extend_from_slice(b"\" \"");
        value(out, fields.get(Name::UserAgent).unwrap_or(b"-"), Escape::Hex);
        out.push(b'"');
    }

    /// The status that the client was answered with, or would have been (499 for one that left).
    fn status(&self) -> u16 {
        match (self.exchange.response.status, self.exchange.failure) {
            (0, Some(failure)) => failure.reason.status(),
            (status, _) => status,
        }
    }

    fn protocol(&self) -> &'static str {
        match self.exchange.scheme {
            Scheme::Tcp => "TCP",
            _ => self.exchange.request.version.text(),
        }
    }

    /// The method's token; that of an unreadable request is `-`.
    fn method(&self) -> &[u8] {
        let request = &self.exchange.request;
        match (request.fields.text(request.method_text), request.path()) {
            (b"", b"") => b"-",
            (b"", _) => request.method.text().as_bytes(),
            (token, _) => token,
        }
    }

    /// The path as it was sent, when it is not the canonical one. Without its query, which may hold secrets.
    fn odd_target(&self) -> Option<&[u8]> {
        let request = &self.exchange.request;
        let target = request.fields.text(request.target);
        let sent = match memchr::memchr(b'?', target) {
            Some(at) => &target[..at],
            None => target,
        };
        (!sent.is_empty() && sent != request.path()).then_some(sent)
    }
}

fn text_field(out: &mut Vec<u8>, key: &[u8], text: &[u8]) {
    out.extend_from_slice(key);
    value(out, text, Escape::Json);
}

/// A text of the gateway's own making or checking, in which nothing is to be escaped.
fn plain_field(out: &mut Vec<u8>, key: &[u8], text: &[u8]) {
    out.extend_from_slice(key);
    out.extend_from_slice(text);
}

fn number_field(out: &mut Vec<u8>, key: &[u8], count: u64) {
    out.extend_from_slice(key);
    number(out, count);
}
