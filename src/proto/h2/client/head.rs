//! Decoded lines into a response's head (RFC 9113 section 8.3.2), as strictly as HTTP/1's.

use crate::error::{Failure, Reason};
use crate::http::message::{BodyLength, Method, ResponseHead, Version};
use crate::http::name::Name;
use crate::proto::h1::parse;
use crate::proto::h1::response::is_bodiless;
use crate::proto::h2::core::Section;
use crate::proto::h2::head::CONNECTION_SPECIFIC;
use crate::proto::h2::hpack::decode::{Fault, Kind, Pseudo};

const fn invalid(what: &'static str) -> Failure {
    Failure::with(Reason::UpstreamInvalid, what)
}

/// Enters a head into `head`. `end` says that no body follows.
///
/// # Errors
/// [`Reason::UpstreamInvalid`] or [`Reason::UpstreamHeaderTooLarge`].
pub fn response(
    section: &mut Section,
    fault: Option<Fault>,
    end: bool,
    method: Method,
    head: &mut ResponseHead,
) -> Result<(), Failure> {
    match fault {
        Some(Fault::Malformed(what)) => return Err(invalid(what)),
        Some(Fault::TooLarge(what)) => return Err(Failure::with(Reason::UpstreamHeaderTooLarge, what)),
        None => {}
    }
    head.clear();
    head.version = Version::Http2;
    head.fields.set_buffer(std::mem::take(&mut section.buf));
    enter(section, head)?;
    if head.fields.lines().any(|line| CONNECTION_SPECIFIC.has(line.id)) {
        return Err(invalid("connection-specific field"));
    }
    if head.status < 200 {
        // 101 has no meaning here (section 8.6), and no response ends with an interim head.
        return if end || head.status == 101 { Err(invalid("interim response out of place")) } else { Ok(()) };
    }
    read_length(head, end, method)?;
    head.fields.remove_all(crate::http::hop::HOP_BY_HOP);
    Ok(())
}

fn enter(section: &Section, head: &mut ResponseHead) -> Result<(), Failure> {
    let mut is_begun = false;
    for line in &section.lines {
        match line.kind {
            Kind::Field(id) => {
                is_begun = true;
                head.fields.push_parsed(line.name, line.value, id);
            }
            Kind::Pseudo(Pseudo::Status) if !is_begun && head.status == 0 => {
                head.status = status(head.fields.text(line.value)).ok_or(invalid("bad :status"))?;
            }
            Kind::Pseudo(_) => return Err(invalid("pseudo-header field out of place")),
            Kind::Malformed(what) => return Err(invalid(what)),
        }
    }
    if head.status == 0 { Err(invalid("no :status")) } else { Ok(()) }
}

fn status(text: &[u8]) -> Option<u16> {
    match text {
        [a @ b'1'..=b'9', b, c] if b.is_ascii_digit() && c.is_ascii_digit() => {
            Some(u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0'))
        }
        _ => None,
    }
}

/// Content-Length, which must agree with the frames (RFC 9113 section 8.1.1).
fn read_length(head: &mut ResponseHead, end: bool, method: Method) -> Result<(), Failure> {
    if head.fields.values(Name::TransferEncoding).next().is_some() {
        return Err(invalid("Transfer-Encoding"));
    }
    head.declared_length = parse::framing(&head.fields, Reason::UpstreamInvalid)?.length;
    head.body = match (head.declared_length, end) {
        _ if is_bodiless(head.status, method) => BodyLength::None,
        (Some(1..), true) => return Err(invalid("Content-Length without a body")),
        (Some(length), _) => BodyLength::Known(length),
        (None, true) => BodyLength::Known(0),
        (None, false) => BodyLength::Streamed,
    };
    Ok(())
}
