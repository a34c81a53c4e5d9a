//! What an origin needs to know of a request head. Unlike the gateway it keeps every field, so that it can show them.

use super::paths::{self, Target};
use crate::error::{Failure, Reason};
use crate::http::message::{BodyLength, Method, RequestHead, Version};
use crate::http::name::Name;
use crate::limits::FIELDS_CEILING;
use crate::proto::h1::parse::{self, HeadLimits};

use super::HEAD_BYTES_MAX;

/// Bounds of a head.
pub(super) const HEAD_LIMITS: HeadLimits = HeadLimits {
    header_bytes_max: HEAD_BYTES_MAX,
    field_bytes_max: HEAD_BYTES_MAX,
    target_bytes_max: HEAD_BYTES_MAX,
    fields_max: FIELDS_CEILING,
};

/// How a request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub target: Target,
    /// The answer has no body (HEAD).
    pub head_only: bool,
    pub http10: bool,
    /// Another request may follow on the connection.
    pub keep: bool,
    pub body: BodyLength,
    /// The client waits for `100 Continue`.
    pub expects_continue: bool,
}

impl Request {
    /// Reads a parsed head whose buffer is set.
    ///
    /// # Errors
    /// The reason to refuse it.
    pub fn of(head: &RequestHead) -> Result<Self, Failure> {
        let http10 = head.version == Version::Http10;
        let framing = parse::framing(&head.fields, Reason::BadFraming)?;
        if framing.chunked && http10 {
            return Err(Failure::with(Reason::BadFraming, "transfer coding in HTTP/1.0"));
        }
        let hosts = head.fields.values(Name::Host).count();
        if hosts > 1 || hosts == 0 && !http10 {
            return Err(Reason::BadHost.into());
        }
        let body = match framing.length {
            _ if framing.chunked => BodyLength::Streamed,
            Some(length) if length > 0 => BodyLength::Known(length),
            _ => BodyLength::None,
        };
        let named = |option| names_option(head, option);
        let expects = head.fields.get(Name::Expect).is_some_and(|v| v.eq_ignore_ascii_case(b"100-continue"));
        Ok(Self {
            target: paths::target(paths::path_of(head.fields.text(head.target))),
            head_only: head.method == Method::Head,
            http10,
            keep: !named(b"close") && (!http10 || named(b"keep-alive")),
            body,
            expects_continue: expects && !http10 && body != BodyLength::None,
        })
    }

    /// The answer to something that is no request.
    pub fn malformed() -> Self {
        Self {
            target: Target::Refused,
            head_only: false,
            http10: false,
            keep: false,
            body: BodyLength::None,
            expects_continue: false,
        }
    }
}

fn names_option(head: &RequestHead, option: &[u8]) -> bool {
    let mut values = head.fields.values(Name::Connection).flat_map(|value| value.split(|&b| b == b','));
    values.any(|token| token.trim_ascii().eq_ignore_ascii_case(option))
}
