//! gRPC as HTTP sees it: content types, deadlines, status codes and messages. Pure; the wire below does not matter.
//!
//! What a failed call looks like to its client is defined over HTTP/2's trailers, but an answer of the gateway's own
//! has no body, and so its status stands among the header fields ("Trailers-Only").

use super::message::{Method, RequestHead};
use super::name::Name;
use crate::error::Reason;
use crate::time::Now;

/// How a call is dressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dress {
    /// gRPC itself: status in trailers.
    Grpc,
    /// gRPC-Web: status in a last frame of the body.
    Web,
    /// The same, as base64 text.
    WebText,
}

impl Dress {
    const ALL: [(Dress, &'static [u8]); 3] = [
        (Dress::WebText, b"application/grpc-web-text"),
        (Dress::Web, b"application/grpc-web"),
        (Dress::Grpc, b"application/grpc"),
    ];

    /// The dress that a content type names, and what stands behind it: `+proto`, parameters, or nothing.
    pub fn of(content_type: &[u8]) -> Option<(Dress, &[u8])> {
        Self::ALL.into_iter().find_map(|(dress, name)| {
            let (head, rest) = content_type.split_at_checked(name.len())?;
            let ends = matches!(rest.first(), None | Some(b'+' | b';' | b' '));
            (ends && head.eq_ignore_ascii_case(name)).then_some((dress, rest))
        })
    }

    /// The content type without what stands behind it.
    pub const fn content_type(self) -> &'static [u8] {
        match self {
            Dress::WebText => b"application/grpc-web-text",
            Dress::Web => b"application/grpc-web",
            Dress::Grpc => b"application/grpc",
        }
    }
}

/// What is known of a request that is a gRPC call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// How the client has dressed it.
    pub dress: Dress,
    /// When the client gives up; [`Now::NEVER`] where it does not say.
    pub due: Now,
    /// Nanoseconds that were left of it when the last attempt began.
    pub left_ns: Option<u64>,
    /// The status that the endpoint gave.
    pub status: Option<u32>,
}

impl Call {
    /// The call that a request is, if it is one. Takes `grpc-timeout` out of its fields: what goes upstream is what is
    /// left of it then. One that cannot be read is taken out as well.
    pub fn take(head: &mut RequestHead, started: Now) -> Option<Call> {
        if head.method != Method::Post {
            return None;
        }
        let (dress, _) = Dress::of(head.fields.get(Name::ContentType)?)?;
        let due = match head.fields.find(TIMEOUT) {
            None => Now::NEVER,
            Some(text) => {
                let due = parse_timeout(text).map_or(Now::NEVER, |ns| Now(started.0.saturating_add(ns)));
                head.fields.remove(TIMEOUT);
                due
            }
        };
        Some(Call { dress, due, left_ns: None, status: None })
    }
}

impl Call {
    /// An attempt begins.
    pub fn begin(&mut self, now: Now) {
        // Nothing left is still something that can be written: the attempt fails at once.
        self.left_ns = (self.due != Now::NEVER).then(|| self.due.since_ns(now).max(1));
    }
}

/// The field of a call's deadline.
pub const TIMEOUT: &[u8] = b"grpc-timeout";
/// The field of a call's status.
pub const STATUS: &[u8] = b"grpc-status";
/// The field of what the status means.
pub const MESSAGE: &[u8] = b"grpc-message";

const UNITS: [(u8, u64); 6] =
    [(b'n', 1), (b'u', 1_000), (b'm', 1_000_000), (b'S', 1_000_000_000), (b'M', 60_000_000_000), (b'H', HOUR_NS)];
const HOUR_NS: u64 = 3_600_000_000_000;
/// Digits of a deadline.
const DIGITS_MAX: usize = 8;

/// Nanoseconds of a `grpc-timeout`: one to eight digits and a unit.
pub fn parse_timeout(text: &[u8]) -> Option<u64> {
    let (unit, digits) = text.split_last()?;
    let (_, ns) = UNITS.iter().find(|(name, _)| name == unit)?;
    if digits.is_empty() || digits.len() > DIGITS_MAX || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    Some(count.saturating_mul(*ns))
}

/// Nanoseconds as a `grpc-timeout`, in the finest unit that has room for them, rounded up: an endpoint that stops
/// earlier than the client would have is no use to it.
pub fn format_timeout(ns: u64) -> String {
    let fits = |(_, unit): &&(u8, u64)| ns.div_ceil(*unit) < 10_u64.pow(DIGITS_MAX as u32);
    let &(unit, unit_ns) = UNITS.iter().find(fits).unwrap_or(&UNITS[5]);
    format!("{}{}", ns.div_ceil(unit_ns), char::from(unit))
}

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are gRPC's own")]
pub enum Code {
    Ok = 0,
    Cancelled = 1,
    Unknown = 2,
    InvalidArgument = 3,
    DeadlineExceeded = 4,
    NotFound = 5,
    AlreadyExists = 6,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    FailedPrecondition = 9,
    Aborted = 10,
    OutOfRange = 11,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    DataLoss = 15,
    Unauthenticated = 16,
}

impl Code {
    /// The highest code.
    pub const LAST: u32 = 16;

    /// What clients make of an HTTP status that comes without one of gRPC
    /// (doc/http-grpc-status-mapping.md of the gRPC project).
    pub const fn of_http(status: u16) -> Code {
        match status {
            400 => Code::Internal,
            401 => Code::Unauthenticated,
            403 => Code::PermissionDenied,
            404 => Code::Unimplemented,
            429 | 502..=504 => Code::Unavailable,
            _ => Code::Unknown,
        }
    }

    /// How the gateway says that it could not do what was asked. Where the answer's status tells more than gRPC's table
    /// of HTTP codes does, the code says it: a client retries `UNAVAILABLE` at once, and not `RESOURCE_EXHAUSTED`.
    pub const fn of_reason(reason: Reason) -> Code {
        match reason {
            Reason::Internal => Code::Internal,
            Reason::ClientClosed => Code::Cancelled,
            // As long as no endpoint is asked, nothing is known to exist under the name.
            Reason::NoRoute | Reason::MethodNotAllowed => Code::Unimplemented,
            Reason::RateLimited | Reason::ConcurrencyLimited | Reason::BodyTooLarge => Code::ResourceExhausted,
            Reason::UpstreamTimeout | Reason::RequestTimeout => Code::DeadlineExceeded,
            Reason::UpstreamHeaderTooLarge => Code::ResourceExhausted,
            Reason::UpstreamInvalid | Reason::UpstreamBadChunk => Code::Internal,
            _ => match reason.status() {
                401 => Code::Unauthenticated,
                403 => Code::PermissionDenied,
                408 => Code::DeadlineExceeded,
                413 | 429 | 431 => Code::ResourceExhausted,
                400..=499 => Code::Internal,
                502..=504 => Code::Unavailable,
                _ => Code::Internal,
            },
        }
    }
}

/// The number of a `grpc-status`.
pub fn parse_status(text: &[u8]) -> Option<u32> {
    let digits = !text.is_empty() && text.len() <= 9 && text.iter().all(u8::is_ascii_digit);
    digits.then(|| text.iter().fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0')))
}

/// A text as it stands in `grpc-message`: what is not printable ASCII, and `%`, is escaped.
pub fn encode_message(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// Service and method of a call's path: `/package.Service/Method`.
pub fn service_and_method(path: &[u8]) -> Option<(&str, &str)> {
    let path = std::str::from_utf8(path).ok()?;
    let (service, method) = path.strip_prefix('/')?.rsplit_once('/')?;
    (!service.is_empty() && !method.is_empty()).then_some((service, method))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn content_types_name_the_dress() {
        let of = |text: &str| Dress::of(text.as_bytes()).map(|(dress, rest)| (dress, rest.to_vec()));
        assert_eq!(of("application/grpc"), Some((Dress::Grpc, vec![])));
        assert_eq!(of("Application/GRPC+proto"), Some((Dress::Grpc, b"+proto".to_vec())));
        assert_eq!(of("application/grpc; charset=x"), Some((Dress::Grpc, b"; charset=x".to_vec())));
        assert_eq!(of("application/grpc-web+proto"), Some((Dress::Web, b"+proto".to_vec())));
        assert_eq!(of("application/grpc-web-text"), Some((Dress::WebText, vec![])));
        for other in ["application/grpcx", "application/grpc-webby", "application/json", "", "application/grp"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn deadlines_are_read_in_every_unit() {
        for (text, ns) in [
            ("1n", 1),
            ("2u", 2_000),
            ("3m", 3_000_000),
            ("4S", 4_000_000_000),
            ("5M", 300_000_000_000),
            ("6H", 6 * HOUR_NS),
            ("00000001S", 1_000_000_000),
            ("99999999H", u64::MAX),
        ] {
            assert_eq!(parse_timeout(text.as_bytes()), Some(ns), "{text}");
        }
        for wrong in ["", "S", "1", "1s", "123456789S", "-1S", "1.5S", " 1S", "1S ", "1Ss", "é1S"] {
            assert_eq!(parse_timeout(wrong.as_bytes()), None, "{wrong}");
        }
    }

    #[test]
    fn a_call_gives_its_deadline_up() {
        let mut head = RequestHead { method: Method::Post, ..RequestHead::default() };
        head.fields.append(b"content-type", b"application/grpc+proto").expect("legal");
        head.fields.append(b"Grpc-Timeout", b"100m").expect("legal");
        let call = Call::take(&mut head, Now::from_ms(5)).expect("a call");
        assert_eq!((call.due, head.fields.find(TIMEOUT)), (Now::from_ms(105), None));
        head.method = Method::Get;
        assert_eq!(Call::take(&mut head, Now::from_ms(5)), None);
    }

    #[test]
    fn codes_follow_the_table() {
        let table = [(400, 13), (401, 16), (403, 7), (404, 12), (429, 14), (502, 14), (503, 14), (504, 14), (500, 2)];
        for (status, code) in table {
            assert_eq!(Code::of_http(status) as u8, code, "{status}");
        }
        for (reason, code) in [
            (Reason::NoRoute, Code::Unimplemented),
            (Reason::RateLimited, Code::ResourceExhausted),
            (Reason::RequestTimeout, Code::DeadlineExceeded),
            (Reason::NoEndpoint, Code::Unavailable),
            (Reason::ConnectRefused, Code::Unavailable),
            (Reason::ConnectTimeout, Code::Unavailable),
            (Reason::IpDenied, Code::PermissionDenied),
            (Reason::Draining, Code::Unavailable),
            (Reason::Internal, Code::Internal),
        ] {
            assert_eq!(Code::of_reason(reason), code, "{reason}");
        }
        assert!(Reason::ALL.iter().all(|reason| Code::of_reason(*reason) != Code::Ok));
    }

    #[test]
    fn messages_are_escaped() {
        assert_eq!(encode_message("100% of\nGröße ~"), "100%25 of%0AGr%C3%B6%C3%9Fe ~");
        assert_eq!(parse_status(b"16"), Some(16));
        assert_eq!([b"".as_slice(), b"-1", b"1x", b"1234567890"].map(parse_status), [None; 4]);
    }

    #[test]
    fn names_stand_in_the_path() {
        assert_eq!(service_and_method(b"/a.b.C/D"), Some(("a.b.C", "D")));
        assert_eq!(service_and_method(b"/prefix/a.b.C/D"), Some(("prefix/a.b.C", "D")));
        assert_eq!([&b"/a"[..], b"a/b", b"//b", b"/a/"].map(service_and_method), [None; 4]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(ns in any::<u64>()) {
            let text = format_timeout(ns);
            let read = parse_timeout(text.as_bytes()).expect("legal");
            prop_assert!(read >= ns, "{} is shorter than {}", text, ns);
            // Never longer by more than the coarsest digit that eight of them leave.
            prop_assert!(read - ns <= ns / 100_000 + 1, "{} is much longer than {}", text, ns);
        }

        #[test]
        fn messages_are_plain_and_reversible(text in any::<String>()) {
            let coded = encode_message(&text);
            prop_assert!(coded.bytes().all(|b| (b' '..=b'~').contains(&b)));
            let mut bytes = Vec::new();
            let mut rest = coded.as_bytes();
            while let Some((&first, more)) = rest.split_first() {
                rest = more;
                if first == b'%' {
                    let digits = std::str::from_utf8(&rest[..2]).expect("digits");
                    bytes.push(u8::from_str_radix(digits, 16).expect("digits"));
                    rest = &rest[2..];
                } else {
                    bytes.push(first);
                }
            }
            prop_assert_eq!(bytes, text.into_bytes());
        }
    }
}
