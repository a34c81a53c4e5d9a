//! Heads of the usual shape, read in one pass: a line is found, checked and entered as it is walked over.
//!
//! Nearly all heads are of this shape: whole, of HTTP/1.1, one space between words and behind each colon, no white
//! space to be trimmed, no tab. Whatever else comes (an unfinished head, a mistake, a bound that is passed) is left to
//! the general parser, which knows what it is and why it is refused. So nothing is taken here that the general parser
//! would not take, with the very same reading; the tests hold the two against each other.

use super::parse::HeadLimits;
use crate::http::fields::{Fields, Text, is_token};
use crate::http::message::{Method, RequestHead, ResponseHead, Version};
use crate::http::name::Name;

/// Enters the request head at the front of `bytes` into `head`, which is empty. Returns its length; None where it is
/// not of the usual shape, with `head` as it was.
#[inline]
pub fn request(bytes: &[u8], limits: &HeadLimits, head: &mut RequestHead) -> Option<usize> {
    let method_length = bytes.iter().position(|byte| !byte.is_ascii_uppercase()).filter(|length| *length > 0)?;
    let target_at = method_length + 1;
    if bytes[method_length] != b' ' {
        return None;
    }
    let target_length = visible_length(&bytes[target_at..]);
    if target_length == 0 || target_length > limits.target_bytes_max {
        return None;
    }
    let rest = bytes[target_at + target_length..].strip_prefix(b" HTTP/1.1\r\n")?;
    let head_length = enter(bytes, bytes.len() - rest.len(), limits, &mut head.fields)?;
    head.version = Version::Http11;
    head.method = Method::of(&bytes[..method_length]);
    head.method_text = Text::in_buffer(0, method_length);
    head.target = Text::in_buffer(target_at, target_length);
    Some(head_length)
}

/// As [`request`], for a response.
#[inline]
pub fn response(bytes: &[u8], limits: &HeadLimits, head: &mut ResponseHead) -> Option<usize> {
    let (status, reason) = bytes.strip_prefix(b"HTTP/1.1 ")?.split_first_chunk::<4>()?;
    let &[hundreds @ b'1'..=b'9', tens @ b'0'..=b'9', ones @ b'0'..=b'9', b' '] = status else { return None };
    let rest = reason[text_length(reason)..].strip_prefix(b"\r\n")?;
    let head_length = enter(bytes, bytes.len() - rest.len(), limits, &mut head.fields)?;
    let digit = |byte: u8| u16::from(byte - b'0');
    head.version = Version::Http11;
    head.status = digit(hundreds) * 100 + digit(tens) * 10 + digit(ones);
    Some(head_length)
}

/// Enters the field lines from `at` on. Returns where the empty line behind them ends; None, with the section empty,
/// where it is not of the usual shape.
#[inline]
fn enter(bytes: &[u8], at: usize, limits: &HeadLimits, fields: &mut Fields) -> Option<usize> {
    let end = enter_lines(bytes, at, limits, fields).filter(|end| *end <= limits.header_bytes_max);
    if end.is_none() {
        fields.clear();
    }
    end
}

#[inline]
fn enter_lines(bytes: &[u8], mut at: usize, limits: &HeadLimits, fields: &mut Fields) -> Option<usize> {
    for _ in 0..=limits.fields_max {
        let line = &bytes[at..];
        if line.starts_with(b"\r\n") {
            return Some(at + 2);
        }
        let name_length = name_length(line);
        let (name, rest) = line.split_at(name_length);
        let id = Name::of(name);
        let text = rest.strip_prefix(b": ")?;
        let value_length = text_length(text);
        let (value, rest) = text.split_at(value_length);
        let is_trimmed = !matches!((value.first(), value.last()), (None | Some(b' '), _) | (_, Some(b' ')));
        let fits = name_length + value_length <= limits.field_bytes_max;
        // A known name is a token: without controls nothing else is taken for one.
        let is_named = id != Name::Other || is_token(name);
        if !is_named || !is_trimmed || !fits || !rest.starts_with(b"\r\n") {
            return None;
        }
        let value_at = at + name_length + 2;
        fields.push_parsed(Text::in_buffer(at, name_length), Text::in_buffer(value_at, value_length), id);
        at = value_at + value_length + 2;
    }
    None
}

const EACH: u64 = u64::from_le_bytes([1; 8]);
const TOP_BITS: u64 = EACH << 7;

/// Bytes at the front that are visible ASCII.
#[inline]
fn visible_length(bytes: &[u8]) -> usize {
    length_until(bytes, |word| controls(word, b'!') | (word & TOP_BITS))
}

/// Bytes at the front that are visible ASCII and no colon.
#[inline]
fn name_length(bytes: &[u8]) -> usize {
    length_until(bytes, |word| controls(word, b'!') | equal(word, b':') | (word & TOP_BITS))
}

/// Bytes at the front that may stand in a field value, tabs left out.
#[inline]
fn text_length(bytes: &[u8]) -> usize {
    length_until(bytes, |word| controls(word, b' '))
}

/// The top bits of the bytes below `least` or of value 0x7f, among eight of them. Above the first one there may be some
/// that mean nothing: a borrow is carried upwards.
#[inline]
fn controls(word: u64, least: u8) -> u64 {
    let below = word.wrapping_sub(EACH * u64::from(least)) & !word & TOP_BITS;
    below | equal(word, 0x7f)
}

/// As [`controls`], of the bytes of this value.
#[inline]
fn equal(word: u64, byte: u8) -> u64 {
    let differs = word ^ (EACH * u64::from(byte));
    differs.wrapping_sub(EACH) & !differs & TOP_BITS
}

/// Bytes before the first one whose top bit is set in what `stops` makes of eight bytes at a time.
#[inline]
fn length_until(bytes: &[u8], stops: impl Fn(u64) -> u64) -> usize {
    let first = |stops: u64| stops.trailing_zeros() as usize / 8;
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        match stops(u64::from_le_bytes(*word)) {
            0 => {}
            found => return 8 * at + first(found),
        }
    }
    // What is missing of the last eight bytes is filled up with zeros, which stop.
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    8 * words.len() + first(stops(u64::from_le_bytes(last)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Failure;
    use crate::proto::h1::parse::Parsed;
    use crate::proto::h1::{request, response};

    const REQUESTS: [&str; 3] = [
        "GET /a?b=1 HTTP/1.1\r\nHost: a.b:80\r\nX: y z\r\n\r\nrest",
        "DELETE /0123456789 HTTP/1.1\r\nAccept-Language: 0123456789, 0123456789\r\nHost: x\r\nC: \u{e4}\r\n\r\n",
        "P /: HTTP/1.1\r\n\r\n",
    ];
    const RESPONSES: [&str; 3] = [
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 4\r\n\r\nbody",
        "HTTP/1.1 599 \r\nA: 0123456789abcdef0123456789\r\nB: c\r\n\r\n",
        "HTTP/1.1 404 Not Found, sorry\r\n\r\n",
    ];

    fn limits() -> HeadLimits {
        HeadLimits { header_bytes_max: 100, field_bytes_max: 48, target_bytes_max: 12, fields_max: 3 }
    }

    /// What is read of a head: its start line, in a way that can be compared, and its fields.
    type Read = (String, Vec<(Text, Text, Name)>, usize);
    type General = Result<Option<Read>, Failure>;

    fn lines(fields: &Fields) -> Vec<(Text, Text, Name)> {
        fields.lines().map(|line| (line.name, line.value, line.id)).collect()
    }

    fn requests_read(bytes: &[u8]) -> (Option<Read>, General) {
        let read = |head: &RequestHead, length| {
            let start = format!("{:?} {:?} {:?} {:?}", head.method, head.method_text, head.target, head.version);
            (start, lines(&head.fields), length)
        };
        let mut head = RequestHead::default();
        let usual = super::request(bytes, &limits(), &mut head).map(|length| read(&head, length));
        assert!(usual.is_some() || (head.fields.is_empty() && head.target.is_empty()), "left as it was");
        let mut head = RequestHead::default();
        let general = request::parse_any(bytes, &limits(), &mut head);
        (
            usual,
            general.map(|parsed| if let Parsed::Complete(length) = parsed { Some(read(&head, length)) } else { None }),
        )
    }

    fn responses_read(bytes: &[u8]) -> (Option<Read>, General) {
        let read =
            |head: &ResponseHead, length| (format!("{} {:?}", head.status, head.version), lines(&head.fields), length);
        let mut head = ResponseHead::default();
        let usual = super::response(bytes, &limits(), &mut head).map(|length| read(&head, length));
        assert!(usual.is_some() || (head.fields.is_empty() && head.status == 0), "left as it was");
        let mut head = ResponseHead::default();
        let general = response::parse_any(bytes, &limits(), &mut head);
        (
            usual,
            general.map(|parsed| if let Parsed::Complete(length) = parsed { Some(read(&head, length)) } else { None }),
        )
    }

    /// What is made of a head by each change of one byte, each byte put in, each one left out, each cut.
    fn each_change(text: &str, mut check: impl FnMut(&[u8])) {
        let bytes = text.as_bytes();
        for at in 0..bytes.len() {
            let (before, after) = bytes.split_at(at);
            check(before);
            check(&[before, &after[1..]].concat());
            for byte in 0..=u8::MAX {
                check(&[before, &[byte], &after[1..]].concat());
                check(&[before, &[byte], after].concat());
            }
        }
        check(bytes);
    }

    fn agree(usual: Option<Read>, general: General, bytes: &[u8], taken: &mut u32) {
        if let Some(usual) = usual {
            *taken += 1;
            assert_eq!(general, Ok(Some(usual)), "{:?}", bytes.escape_ascii().to_string());
        }
    }

    #[test]
    fn the_general_parser_agrees() {
        let (mut taken, mut seen) = (0, 0);
        for text in REQUESTS {
            each_change(text, |bytes| {
                let (usual, general) = requests_read(bytes);
                seen += 1;
                agree(usual, general, bytes, &mut taken);
            });
        }
        for text in RESPONSES {
            each_change(text, |bytes| {
                let (usual, general) = responses_read(bytes);
                seen += 1;
                agree(usual, general, bytes, &mut taken);
            });
        }
        assert!(taken > seen / 4 && taken < seen, "{taken} of {seen} are of the usual shape");
    }

    #[test]
    fn usual_heads_are_taken_and_others_left() {
        for text in REQUESTS {
            assert!(requests_read(text.as_bytes()).0.is_some(), "{text}");
        }
        for text in RESPONSES {
            assert!(responses_read(text.as_bytes()).0.is_some(), "{text}");
        }
        for text in [
            "GET / HTTP/1.0\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost:a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a \r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: \r\n\r\n",
            "GET / HTTP/1.1\nHost: a\n\n",
            "GET / HTTP/1.1\r\nHost: a\r\nB: c\r\nD: e\r\nF: g\r\n\r\n",
            "GET /0123456789ab HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\n",
            "get / HTTP/1.1\r\nHost: a\r\n\r\n",
        ] {
            assert!(requests_read(text.as_bytes()).0.is_none(), "{text}");
        }
    }

    #[test]
    fn runs_end_at_the_first_byte_that_may_not_stand_there() {
        for length in 0..40 {
            for byte in 0..=u8::MAX {
                let bytes = [vec![b'a'; length], vec![byte], b"bcd\r\n".to_vec()].concat();
                let run = |legal: fn(&u8) -> bool| bytes.iter().position(|byte| !legal(byte)).expect("it ends");
                assert_eq!(visible_length(&bytes), run(|byte| (b'!'..=b'~').contains(byte)), "{byte} at {length}");
                let is_named = |byte: &u8| (b'!'..=b'~').contains(byte) && *byte != b':';
                assert_eq!(name_length(&bytes), run(is_named), "{byte} at {length}");
                assert_eq!(text_length(&bytes), run(|byte| *byte >= b' ' && *byte != 0x7f), "{byte} at {length}");
            }
        }
        assert_eq!(text_length(b"no end"), 6);
    }
}
