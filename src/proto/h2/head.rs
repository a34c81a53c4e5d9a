//! Decoded lines into typed heads, and typed heads into lines (RFC 9113 section 8).

use super::core::Section;
use super::hpack::decode::{Fault, Kind, Line, Pseudo};
use super::hpack::encode::Encoder;
use crate::error::{Failure, Reason};
use crate::http::decimal::Decimal;
use crate::http::exchange::Exchange;
use crate::http::fields::{Field, Fields, Text};
use crate::http::hop;
use crate::http::message::{BodyLength, Method, RequestHead, Version};
use crate::http::name::{Name, NameSet};
use crate::http::path::PathPolicy;
use crate::proto::h1::chunked::NEVER_TRAILERS;
use crate::proto::h1::parse;
use crate::proto::h1::request;
use crate::proto::websocket;
use crate::sys::buf::Buf;

/// Why a head is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It breaks the rules of the wire: the stream is reset with PROTOCOL_ERROR (RFC 9113 section 8.1.1).
    Malformed(Failure),
    /// It is a request, and not one that is served: it is answered.
    Answered(Failure),
}

impl Refusal {
    fn malformed(what: &'static str) -> Self {
        Self::Malformed(Failure::with(Reason::BadHeader, what))
    }

    /// Why, for the log.
    pub fn failure(self) -> Failure {
        match self {
            Self::Malformed(failure) | Self::Answered(failure) => failure,
        }
    }
}

/// Fields that HTTP/2 does not have: the frames say it all (RFC 9113 section 8.2.2).
pub const CONNECTION_SPECIFIC: NameSet =
    NameSet::of(&[Name::Connection, Name::KeepAlive, Name::ProxyConnection, Name::TransferEncoding, Name::Upgrade]);

/// The pseudo-header fields of a request.
#[derive(Clone, Copy, Debug, Default)]
struct Pseudos {
    method: Option<Text>,
    scheme: Option<Text>,
    authority: Option<Text>,
    path: Option<Text>,
    protocol: Option<Text>,
}

/// Gives the lines of a section their meaning as a request, as strictly as HTTP/1's. `end` says that no body follows.
/// Forged and hop-by-hop fields are gone afterwards.
///
/// # Errors
/// What becomes of it instead.
pub fn request(
    section: &mut Section,
    fault: Option<Fault>,
    end: bool,
    policy: PathPolicy,
    target_bytes_max: usize,
    x: &mut Exchange,
) -> Result<(), Refusal> {
    let head = &mut x.request;
    head.version = Version::Http2;
    head.fields.set_buffer(std::mem::take(&mut section.buf));
    let pseudos = enter(&section.lines, &mut head.fields);
    // What the log says of it, whatever is wrong.
    if let Ok(pseudos) = &pseudos {
        head.method_text = pseudos.method.unwrap_or_default();
        head.method = Method::of(head.fields.text(head.method_text));
        head.target = pseudos.path.or(pseudos.authority).unwrap_or_default();
    }
    match fault {
        Some(Fault::Malformed(what)) => return Err(Refusal::malformed(what)),
        Some(Fault::TooLarge(what)) => {
            return Err(Refusal::Answered(Failure::with(Reason::HeaderTooLarge, what)));
        }
        None => {}
    }
    let pseudos = pseudos?;
    check_fields(&head.fields)?;
    read_length(head, end)?;
    join_cookies(&mut head.fields);
    interpret(head, pseudos, policy, target_bytes_max)?;
    hop::strip_request(&mut head.fields, x.peer_is_trusted);
    Ok(())
}

/// Enters the fields, and gathers what stands before them: pseudo-header fields come first, each once.
fn enter(lines: &[Line], fields: &mut Fields) -> Result<Pseudos, Refusal> {
    let mut pseudos = Pseudos::default();
    let mut is_begun = false;
    for line in lines {
        let place = match line.kind {
            Kind::Field(id) => {
                is_begun = true;
                fields.push_parsed(line.name, line.value, id);
                continue;
            }
            _ if is_begun => return Err(Refusal::malformed("pseudo-header field behind a field")),
            Kind::Pseudo(Pseudo::Method) => &mut pseudos.method,
            Kind::Pseudo(Pseudo::Scheme) => &mut pseudos.scheme,
            Kind::Pseudo(Pseudo::Authority) => &mut pseudos.authority,
            Kind::Pseudo(Pseudo::Path) => &mut pseudos.path,
            Kind::Pseudo(Pseudo::Protocol) => &mut pseudos.protocol,
            Kind::Pseudo(Pseudo::Status) => return Err(Refusal::malformed(":status in a request")),
            Kind::Malformed(what) => return Err(Refusal::malformed(what)),
        };
        if place.replace(line.value).is_some() {
            return Err(Refusal::malformed("pseudo-header field twice"));
        }
    }
    Ok(pseudos)
}

fn check_fields(fields: &Fields) -> Result<(), Refusal> {
    for line in fields.lines() {
        if CONNECTION_SPECIFIC.has(line.id) {
            return Err(Refusal::malformed("connection-specific field"));
        }
        if line.id == Name::Te && fields.text(line.value) != b"trailers" {
            return Err(Refusal::malformed("TE other than trailers"));
        }
    }
    Ok(())
}

/// Content-Length, which must agree with the frames (RFC 9113 section 8.1.1).
fn read_length(head: &mut RequestHead, end: bool) -> Result<(), Refusal> {
    let framing = parse::framing(&head.fields, Reason::BadFraming).map_err(Refusal::Malformed)?;
    head.body = match (framing.length, end) {
        (Some(1..), true) => {
            return Err(Refusal::Malformed(Failure::with(Reason::BadFraming, "Content-Length without a body")));
        }
        (Some(length), _) => BodyLength::Known(length),
        (None, true) => BodyLength::None,
        (None, false) => BodyLength::Streamed,
    };
    Ok(())
}

/// Crumbs of cookies become one field (RFC 9113 section 8.2.3).
fn join_cookies(fields: &mut Fields) {
    if fields.values(Name::Cookie).nth(1).is_none() {
        return;
    }
    let joined = fields.values(Name::Cookie).collect::<Vec<_>>().join(&b"; "[..]);
    // It stood in the section in parts.
    let set = fields.set(b"cookie", &joined);
    debug_assert!(set.is_ok());
}

fn interpret(
    head: &mut RequestHead,
    pseudos: Pseudos,
    policy: PathPolicy,
    target_bytes_max: usize,
) -> Result<(), Refusal> {
    if pseudos.method.is_none_or(Text::is_empty) {
        return Err(Refusal::malformed("no :method"));
    }
    if pseudos.protocol.is_some() && head.method != Method::Connect {
        return Err(Refusal::malformed(":protocol without CONNECT"));
    }
    if head.method == Method::Connect && pseudos.protocol.is_none() {
        let is_plain = pseudos.scheme.is_none() && pseudos.path.is_none() && pseudos.authority.is_some();
        return Err(match is_plain {
            true => Refusal::Answered(Reason::MethodRefused.into()),
            false => Refusal::malformed("CONNECT with :scheme or :path"),
        });
    }
    let (Some(scheme), Some(path)) = (pseudos.scheme, pseudos.path.filter(|path| !path.is_empty())) else {
        return Err(Refusal::malformed("no :scheme or :path"));
    };
    if !matches!(head.fields.text(scheme), b"http" | b"https") {
        return Err(Refusal::Answered(Failure::with(Reason::BadPath, "scheme not served")));
    }
    if path.len() > target_bytes_max {
        return Err(Refusal::Answered(Reason::UriTooLong.into()));
    }
    let is_token = crate::http::fields::is_token(head.fields.text(head.method_text));
    if !is_token {
        return Err(Refusal::malformed("method is no token"));
    }
    if let Some(protocol) = pseudos.protocol {
        extend(head, protocol)?;
    }
    meaning(head, path, pseudos.authority, policy).map_err(Refusal::Answered)
}

/// Makes of an extended CONNECT (RFC 8441 section 4) what HTTP/1 says with Upgrade: a GET that asks for the protocol.
/// What follows on its stream is the tunnel's, not a body.
fn extend(head: &mut RequestHead, protocol: Text) -> Result<(), Refusal> {
    let name = head.fields.text(protocol);
    if !crate::http::fields::is_token(name) {
        return Err(Refusal::malformed(":protocol is no token"));
    }
    if matches!(head.body, BodyLength::Known(_)) {
        return Err(Refusal::malformed("CONNECT with Content-Length"));
    }
    if !name.eq_ignore_ascii_case(websocket::PROTOCOL) {
        return Err(Refusal::Answered(Reason::ProtocolUnsupported.into()));
    }
    (head.method, head.method_text) = (Method::Get, head.fields.keep(Method::Get.text().as_bytes()));
    (head.upgrade, head.body) = (Some(protocol), BodyLength::None);
    Ok(())
}

/// What HTTP/1 holds its requests to, too.
fn meaning(head: &mut RequestHead, path: Text, authority: Option<Text>, policy: PathPolicy) -> Result<(), Failure> {
    request::check_method(head)?;
    if head.method == Method::Trace {
        return Err(Reason::MethodRefused.into());
    }
    head.authority = the_authority(head, authority)?;
    match head.fields.text(path) {
        [b'/', ..] => request::split_target(head, path, policy)?,
        b"*" if head.method == Method::Options => head.path = path,
        _ => return Err(Failure::with(Reason::BadPath, "target form not served")),
    }
    request::read_host(head)?;
    request::read_conditions(head)
}

/// `:authority`, or Host, or both alike (RFC 9113 section 8.3.1).
fn the_authority(head: &RequestHead, authority: Option<Text>) -> Result<Text, Failure> {
    let mut hosts = head.fields.lines().filter(|line: &Field| line.id == Name::Host);
    let host = hosts.next().map(|line| line.value);
    if hosts.next().is_some() {
        return Err(Failure::with(Reason::BadHost, "several Host fields"));
    }
    match (authority, host) {
        (Some(authority), Some(host)) if !head.fields.text(authority).eq_ignore_ascii_case(head.fields.text(host)) => {
            Err(Failure::with(Reason::BadHost, "Host differs from :authority"))
        }
        (Some(authority), _) => Ok(authority),
        (None, Some(host)) => Ok(host),
        (None, None) => Err(Failure::with(Reason::BadHost, "no :authority and no Host")),
    }
}

/// The trailer section of a message, without fields that may not stand there (RFC 9110 section 6.5.1). None when there
/// is nothing left.
///
/// # Errors
/// What makes the message malformed.
pub fn trailers(section: &mut Section, fault: Option<Fault>) -> Result<Option<Box<Fields>>, &'static str> {
    match fault {
        Some(Fault::Malformed(what) | Fault::TooLarge(what)) => return Err(what),
        None => {}
    }
    let mut bytes = Fields::default();
    bytes.set_buffer(std::mem::take(&mut section.buf));
    let mut kept = Box::<Fields>::default();
    for line in &section.lines {
        let Kind::Field(id) = line.kind else { return Err("pseudo-header field in trailers") };
        let name = bytes.text(line.name);
        if !CONNECTION_SPECIFIC.has(id) && hop::may_trail(name, NEVER_TRAILERS) {
            kept.append(name, bytes.text(line.value)).map_err(|_| "invalid trailer field")?;
        }
    }
    Ok((!kept.is_empty()).then_some(kept))
}

/// Fields of a response that are written here or not at all.
const NOT_COPIED: NameSet = CONNECTION_SPECIFIC.and(NameSet::of(&[Name::ContentLength, Name::XRequestId, Name::Te]));

/// Writes the final head in `x.response`.
pub fn write_response(encoder: &mut Encoder, out: &mut Buf, x: &Exchange, length: Option<u64>) {
    encoder.status(out, x.response.status);
    write_fields(encoder, out, &x.response.fields, NOT_COPIED);
    write_fields(encoder, out, &x.late_fields, NOT_COPIED);
    encoder.field(out, b"x-request-id", x.id.as_bytes(), Name::XRequestId);
    if let Some(length) = length {
        encoder.field(out, b"content-length", Decimal::of(length).as_bytes(), Name::ContentLength);
    }
}

/// Writes the interim head in `x.response`.
pub fn write_interim(encoder: &mut Encoder, out: &mut Buf, x: &Exchange) {
    encoder.status(out, x.response.status);
    write_fields(encoder, out, &x.response.fields, NOT_COPIED);
}

/// Writes the lines of a section but for those of `except`, their names in lower case.
pub fn write_fields(encoder: &mut Encoder, out: &mut Buf, section: &Fields, except: NameSet) {
    for line in section.lines() {
        if except.has(line.id) {
            continue;
        }
        let (name, value) = (section.text(line.name), section.text(line.value));
        if line.id != Name::Other {
            encoder.field(out, line.id.text().as_bytes(), value, line.id);
            continue;
        }
        let mut lower = [0_u8; 64];
        match lower.get_mut(..name.len()) {
            Some(lower) => {
                lower.copy_from_slice(name);
                lower.make_ascii_lowercase();
                encoder.field(out, lower, value, Name::Other);
            }
            None => encoder.field(out, &name.to_ascii_lowercase(), value, Name::Other),
        }
    }
}
