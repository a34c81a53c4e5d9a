//! What request and response heads have in common: field lines, lengths, line ends.

use std::mem::MaybeUninit;

use crate::error::{Failure, Reason};
use crate::http::fields::{Fields, Text};
use crate::http::name::{Name, NameSet};
use crate::limits::{
    FIELD_BYTES_MAX, FIELDS_CEILING, FIELDS_MAX, HEADER_BYTES_MAX, LEADING_CRLF_MAX, TARGET_BYTES_MAX,
};

/// Bounds of a head. Defaults stand in `limits.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Start line and field lines together, in bytes.
    pub header_bytes_max: usize,
    /// One field line, in bytes.
    pub field_bytes_max: usize,
    /// Request target, in bytes.
    pub target_bytes_max: usize,
    /// Number of field lines.
    pub fields_max: usize,
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            header_bytes_max: HEADER_BYTES_MAX,
            field_bytes_max: FIELD_BYTES_MAX,
            target_bytes_max: TARGET_BYTES_MAX,
            fields_max: FIELDS_MAX,
        }
    }
}

/// Outcome of looking for a head at the front of the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed.
    Partial,
    /// A head of this many bytes.
    Complete(usize),
}

/// The parser's table: uninitialised, since only what the parser fills is read.
pub type HeaderTable<'b> = [MaybeUninit<httparse::Header<'b>>; FIELDS_CEILING];

/// A table for one parse.
#[inline]
pub const fn header_table<'b>() -> HeaderTable<'b> {
    [const { MaybeUninit::uninit() }; FIELDS_CEILING]
}

/// Refuses line ends other than CRLF (RFC 9112 section 2.2): other parsers disagree on where such a head ends.
///
/// # Errors
/// `reason`.
#[inline]
pub fn check_line_ends(head: &[u8], reason: Reason) -> Result<(), Failure> {
    for at in memchr::memchr_iter(b'\n', head) {
        if at == 0 || head[at - 1] != b'\r' {
            return Err(Failure::with(reason, "bare LF"));
        }
    }
    Ok(())
}

/// As [`check_line_ends`] for a whole head, from where its parsed lines stand: the bytes before each name and those at
/// the end are looked at, not every byte between.
///
/// # Errors
/// `reason`.
#[inline]
pub fn check_parsed_line_ends(head: &[u8], lines: &[httparse::Header<'_>], reason: Reason) -> Result<(), Failure> {
    let ends_well = |at: usize| at >= 2 && head[at - 2..at] == *b"\r\n";
    let begins_well = |line: &httparse::Header<'_>| {
        let at = (line.name.as_ptr() as usize).wrapping_sub(head.as_ptr() as usize);
        at <= head.len() && ends_well(at)
    };
    if head.ends_with(b"\r\n\r\n") && lines.iter().all(begins_well) {
        return Ok(());
    }
    Err(Failure::with(reason, "bare LF"))
}

/// Counts the empty lines in front of a message.
///
/// # Errors
/// [`Reason::BadRequestLine`] beyond [`LEADING_CRLF_MAX`].
pub fn leading_empty_lines(bytes: &[u8]) -> Result<usize, Failure> {
    let mut at = 0;
    while bytes[at..].starts_with(b"\r\n") {
        at += 2;
        if at > 2 * LEADING_CRLF_MAX {
            return Err(Failure::with(Reason::BadRequestLine, "too many empty lines"));
        }
    }
    Ok(at)
}

/// Enters parsed field lines into a section. `bytes` is the window that they point into.
///
/// # Errors
/// `too_large` for a line or a count over the limits.
#[inline]
pub fn enter_fields(
    lines: &[httparse::Header<'_>],
    bytes: &[u8],
    limits: &HeadLimits,
    fields: &mut Fields,
    too_large: Reason,
) -> Result<(), Failure> {
    if lines.len() > limits.fields_max {
        return Err(Failure::with(too_large, "over fields_max"));
    }
    for line in lines {
        if line.name.len() + line.value.len() > limits.field_bytes_max {
            return Err(Failure::with(too_large, "over field_bytes_max"));
        }
        let name = range_in(bytes, line.name.as_bytes());
        fields.push_parsed(name, range_in(bytes, line.value), Name::of(line.name.as_bytes()));
    }
    Ok(())
}

/// The place of a part within the whole.
#[inline]
pub fn range_in(whole: &[u8], part: &[u8]) -> Text {
    // An empty value may point anywhere; it reads as empty at any place.
    let offset = (part.as_ptr() as usize).wrapping_sub(whole.as_ptr() as usize);
    if offset <= whole.len() { Text::in_buffer(offset, part.len()) } else { Text::EMPTY }
}

/// The framing fields of a section, strictly read (RFC 9112 section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Framing {
    /// The one Content-Length.
    pub length: Option<u64>,
    /// The transfer coding is `chunked`, and nothing else.
    pub chunked: bool,
}

/// Reads Content-Length and Transfer-Encoding.
///
/// # Errors
/// `reason` for several lengths (equal ones too), a length that is not plain digits, both fields together, or a coding
/// other than exactly `chunked`.
#[inline]
pub fn framing(fields: &Fields, reason: Reason) -> Result<Framing, Failure> {
    let mut framing = Framing::default();
    if !fields.may_have(NameSet::of(&[Name::ContentLength, Name::TransferEncoding])) {
        return Ok(framing);
    }
    let mut coded = false;
    for line in fields.lines() {
        match line.id {
            Name::ContentLength if framing.length.is_some() => {
                return Err(Failure::with(reason, "several Content-Length fields"));
            }
            Name::ContentLength => framing.length = Some(content_length(fields.text(line.value), reason)?),
            Name::TransferEncoding if coded => return Err(Failure::with(reason, "several Transfer-Encoding fields")),
            Name::TransferEncoding => {
                coded = true;
                framing.chunked = fields.text(line.value).eq_ignore_ascii_case(b"chunked");
            }
            _ => {}
        }
    }
    if coded && !framing.chunked {
        return Err(Failure::with(reason, "transfer coding other than chunked"));
    }
    if coded && framing.length.is_some() {
        return Err(Failure::with(reason, "Content-Length and Transfer-Encoding together"));
    }
    Ok(framing)
}

fn content_length(value: &[u8], reason: Reason) -> Result<u64, Failure> {
    // 18 digits cannot overflow, and no body is that long.
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(Failure::with(reason, "Content-Length is not a plain number"));
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framing_of(lines: &[(&str, &str)]) -> Result<Framing, Failure> {
        let mut fields = Fields::default();
        lines.iter().for_each(|(n, v)| fields.append(n.as_bytes(), v.as_bytes()).expect("legal"));
        framing(&fields, Reason::BadFraming)
    }

    #[test]
    fn one_interpretation_or_none() {
        let known = |n| Ok(Framing { length: Some(n), chunked: false });
        assert_eq!(framing_of(&[]), Ok(Framing::default()));
        assert_eq!(framing_of(&[("Content-Length", "0")]), known(0));
        assert_eq!(framing_of(&[("content-length", "42")]), known(42));
        assert_eq!(framing_of(&[("Transfer-Encoding", "Chunked")]), Ok(Framing { length: None, chunked: true }));
        for lines in [
            &[("Content-Length", "1"), ("Content-Length", "1")][..],
            &[("Content-Length", "1, 1")],
            &[("Content-Length", "+1")],
            &[("Content-Length", "0x1")],
            &[("Content-Length", "")],
            &[("Content-Length", "1 ")],
            &[("Content-Length", "9999999999999999999")],
            &[("Content-Length", "1"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "gzip, chunked")],
            &[("Transfer-Encoding", "chunked, chunked")],
            &[("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
            &[("Transfer-Encoding", "identity")],
            &[("Transfer-Encoding", "\u{b}chunked")],
        ] {
            // The vertical tab cannot even enter a section; such a case counts as refused.
            let legal = lines.iter().all(|(_, v)| crate::http::fields::is_field_value(v.as_bytes()));
            assert!(!legal || framing_of(lines).is_err(), "{lines:?}");
        }
    }

    #[test]
    fn bare_line_feeds_are_found() {
        assert!(check_line_ends(b"a\r\nb\r\n", Reason::BadHeader).is_ok());
        assert!(check_line_ends(b"a\nb\r\n", Reason::BadHeader).is_err());
        assert!(check_line_ends(b"\n", Reason::BadHeader).is_err());
        assert_eq!(leading_empty_lines(b"\r\n\r\nGET"), Ok(4));
        assert!(leading_empty_lines(&b"\r\n".repeat(9)).is_err());
    }
}
