//! Parsing an endpoint's response head, as strictly as a request's.

use super::parse::{self, HeadLimits, Parsed};
use super::{upgrade, usual};
use crate::error::{Failure, Reason};
use crate::http::hop::{self, ConnectionOptions};
use crate::http::message::{BodyLength, Method, ResponseHead, Version};
use crate::sys::buf::Buf;

/// Looks for a whole head at the front of `bytes` and enters its lines into `head`, as ranges of `bytes`.
///
/// # Errors
/// [`Reason::UpstreamInvalid`] or [`Reason::UpstreamHeaderTooLarge`]; the connection is never used again.
#[inline]
pub fn parse_lines(bytes: &[u8], limits: &HeadLimits, head: &mut ResponseHead) -> Result<Parsed, Failure> {
    match usual::response(bytes, limits, head) {
        Some(length) => Ok(Parsed::Complete(length)),
        None => parse_any(bytes, limits, head),
    }
}

/// As [`parse_lines`], for a head of any shape, at more cost.
///
/// # Errors
/// As [`parse_lines`].
pub fn parse_any(bytes: &[u8], limits: &HeadLimits, head: &mut ResponseHead) -> Result<Parsed, Failure> {
    // Lines before it, which a tolerant parser skips, are bytes that nobody asked for (F34).
    if matches!(bytes.first(), Some(b'\r' | b'\n')) {
        return Err(Failure::with(Reason::UpstreamInvalid, "empty line before a response"));
    }
    let mut table = parse::header_table();
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, bytes, &mut table);
    match status {
        Ok(httparse::Status::Complete(length)) => {
            check_size(length, limits)?;
            parse::check_parsed_line_ends(&bytes[..length], response.headers, Reason::UpstreamInvalid)?;
            head.version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
            head.status = response.code.unwrap_or_default();
            if !(100..=999).contains(&head.status) {
                return Err(Failure::with(Reason::UpstreamInvalid, "status code out of range"));
            }
            let too_large = Reason::UpstreamHeaderTooLarge;
            parse::enter_fields(response.headers, bytes, limits, &mut head.fields, too_large)?;
            Ok(Parsed::Complete(length))
        }
        Ok(httparse::Status::Partial) => {
            check_size(bytes.len(), limits)?;
            Ok(Parsed::Partial)
        }
        Err(httparse::Error::TooManyHeaders) => Err(Failure::with(Reason::UpstreamHeaderTooLarge, "over fields_max")),
        Err(_) => Err(Failure::with(Reason::UpstreamInvalid, "malformed response head")),
    }
}

fn check_size(bytes: usize, limits: &HeadLimits) -> Result<(), Failure> {
    if bytes > limits.header_bytes_max { Err(Reason::UpstreamHeaderTooLarge.into()) } else { Ok(()) }
}

/// Gives the entered lines their meaning (RFC 9112 section 6.3). Returns whether the endpoint keeps the connection.
///
/// # Errors
/// [`Reason::UpstreamInvalid`] for framing that can be read in two ways.
pub fn interpret(head: &mut ResponseHead, buffer: Buf, request_method: Method) -> Result<bool, Failure> {
    head.fields.set_buffer(buffer);
    interpret_lines(head, request_method)
}

/// As [`interpret`], of a head that has its bytes.
///
/// # Errors
/// As [`interpret`].
pub(super) fn interpret_lines(head: &mut ResponseHead, request_method: Method) -> Result<bool, Failure> {
    let framing = parse::framing(&head.fields, Reason::UpstreamInvalid)?;
    if framing.chunked && head.version == Version::Http10 {
        return Err(Failure::with(Reason::UpstreamInvalid, "transfer coding in HTTP/1.0"));
    }
    let options = hop::take_connection(&mut head.fields)
        .map_err(|failure| Failure::with(Reason::UpstreamInvalid, failure.detail))?;
    head.declared_length = framing.length;
    head.body = match framing {
        _ if is_bodiless(head.status, request_method) => BodyLength::None,
        parse::Framing { chunked: true, .. } => BodyLength::Streamed,
        parse::Framing { length: Some(length), .. } => BodyLength::Known(length),
        _ => BodyLength::UntilClose,
    };
    if head.status == 101 {
        let plain = head.version == Version::Http11 && framing == parse::Framing::default() && options.upgrade;
        head.upgrade = if plain { upgrade::named(&head.fields) } else { None };
    }
    head.fields.remove_all(hop::HOP_BY_HOP);
    Ok(keeps(head.version, options) && head.body != BodyLength::UntilClose)
}

/// Whether a response has no body whatever its fields say.
pub const fn is_bodiless(status: u16, request_method: Method) -> bool {
    matches!(request_method, Method::Head) || matches!(status, 100..=199 | 204 | 304)
}

const fn keeps(version: Version, options: ConnectionOptions) -> bool {
    match version {
        Version::Http10 => options.keep_alive && !options.close,
        _ => !options.close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::name::Name;

    fn response(text: &str, method: Method) -> Result<(ResponseHead, bool), Failure> {
        let mut head = ResponseHead::default();
        match parse_lines(text.as_bytes(), &HeadLimits::default(), &mut head)? {
            Parsed::Partial => Err(Failure::with(Reason::Internal, "partial")),
            Parsed::Complete(_) => {
                let keeps = interpret(&mut head, Buf::copy_of(text.as_bytes()), method)?;
                Ok((head, keeps))
            }
        }
    }

    #[test]
    fn body_lengths_follow_status_and_method() {
        let length = |text: &str, method| {
            let (head, keeps) = response(text, method).expect("legal");
            (head.body, keeps)
        };
        let with_length = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(length(with_length, Method::Get), (BodyLength::Known(5), true));
        assert_eq!(length(with_length, Method::Head), (BodyLength::None, true));
        assert_eq!(length("HTTP/1.1 304 N\r\nContent-Length: 5\r\n\r\n", Method::Get), (BodyLength::None, true));
        assert_eq!(length("HTTP/1.1 204 N\r\n\r\n", Method::Get), (BodyLength::None, true));
        assert_eq!(length("HTTP/1.1 200 OK\r\n\r\n", Method::Get), (BodyLength::UntilClose, false));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
        assert_eq!(length(chunked, Method::Get), (BodyLength::Streamed, false));
        assert!(!length("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", Method::Get).1);
        assert!(length("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", Method::Get).1);
    }

    #[test]
    fn declared_length_outlives_a_missing_body() {
        let (head, _) = response("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Head).expect("legal");
        assert_eq!((head.declared_length, head.fields.get(Name::ContentLength)), (Some(5), None));
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "garbage\r\n\r\n",
            "HTTP/1.1 2000 OK\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/1.1 200 OK\nA: b\n\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n\r\n",
            "\nHTTP/1.1 200 OK\r\n\r\n",
        ] {
            assert_eq!(response(text, Method::Get).expect_err(text).reason, Reason::UpstreamInvalid, "{text:?}");
        }
        let bomb = format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(101));
        assert_eq!(response(&bomb, Method::Get).expect_err("bomb").reason, Reason::UpstreamHeaderTooLarge);
    }
}
