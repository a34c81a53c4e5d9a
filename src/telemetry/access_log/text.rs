//! Cheap writers into a byte buffer: numbers, addresses, escaped values. No formatting machinery.

use std::net::{IpAddr, Ipv4Addr};

use crate::http::decimal::{Decimal, two_digits};

/// Longest value written to a log line; the rest is cut and replaced by `...`.
pub const VALUE_BYTES_MAX: usize = 2_048;

/// Query parameters whose values never stand in a log (F78), compared without case.
pub const SECRET_PARAMETERS: &[&str] = &[
    "token",
    "access_token",
    "refresh_token",
    "id_token",
    "key",
    "api_key",
    "apikey",
    "password",
    "passwd",
    "secret",
    "client_secret",
    "signature",
    "sig",
    "code",
    "x-amz-signature",
    "x-amz-security-token",
];

const MASK: &[u8] = b"***";
const HEX: &[u8; 16] = b"0123456789abcdef";

/// How a value is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// As a JSON string without its quotes: controls, quotes and backslashes by RFC 8259, other bytes that are not
    /// UTF-8 as `\u00XX`.
    Json,
    /// As nginx writes the combined format: controls, DEL, quotes, backslashes and bytes that are not UTF-8 as `\xHH`.
    Hex,
}

/// Writes a number in decimal.
#[inline]
pub fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(Decimal::of(value).as_bytes());
}

/// Writes nanoseconds as milliseconds with three decimals: `12.345`.
#[inline]
pub fn milliseconds(out: &mut Vec<u8>, ns: u64) {
    let us = ns / 1_000;
    number(out, us / 1_000);
    let rest = (us % 1_000) as u32;
    let [tens, ones] = two_digits(rest);
    out.extend_from_slice(&[b'.', b'0' + (rest / 100) as u8, tens, ones]);
}

/// Writes an IP address.
pub fn address(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(address) => address_v4(out, address),
        IpAddr::V6(address) => {
            // The shortening rules of RFC 5952 are left to the standard library; IPv6 clients pay for them.
            let _ = std::io::Write::write_fmt(out, format_args!("{address}"));
        }
    }
}

fn address_v4(out: &mut Vec<u8>, address: Ipv4Addr) {
    let (mut text, mut at) = ([b'.'; 16], 0);
    for octet in address.octets() {
        let [tens, ones] = two_digits(u32::from(octet));
        // Each octet with its dot; the digits that are not there are written over.
        text[at] = b'0' + octet / 100;
        at += usize::from(octet >= 100);
        text[at] = tens;
        at += usize::from(octet >= 10);
        text[at..at + 2].copy_from_slice(&[ones, b'.']);
        at += 2;
    }
    out.extend_from_slice(&text[..at - 1]);
}

/// Writes a value, escaped and cut to [`VALUE_BYTES_MAX`].
#[inline]
pub fn value(out: &mut Vec<u8>, bytes: &[u8], how: Escape) {
    let (bytes, cut) = match bytes.get(..VALUE_BYTES_MAX) {
        Some(head) if bytes.len() > VALUE_BYTES_MAX => (head, true),
        _ => (bytes, false),
    };
    escaped(out, bytes, how);
    if cut {
        out.extend_from_slice(b"...");
    }
}

/// Writes a query with the values of [`SECRET_PARAMETERS`] masked, escaped and cut.
pub fn query(out: &mut Vec<u8>, query: &[u8], how: Escape) {
    let query = &query[..query.len().min(VALUE_BYTES_MAX)];
    for (at, pair) in query.split(|&b| b == b'&').enumerate() {
        if at > 0 {
            out.push(b'&');
        }
        match memchr::memchr(b'=', pair) {
            Some(equals) if is_secret(&pair[..equals]) => {
                escaped(out, &pair[..=equals], how);
                out.extend_from_slice(MASK);
            }
            _ => escaped(out, pair, how),
        }
    }
    if query.len() == VALUE_BYTES_MAX {
        out.extend_from_slice(b"...");
    }
}

/// Writes a URL, as a Referer has it, with the secrets of its query masked.
pub fn url(out: &mut Vec<u8>, url: &[u8], how: Escape) {
    match memchr::memchr(b'?', url) {
        Some(at) => {
            value(out, &url[..at], how);
            out.push(b'?');
            query(out, &url[at + 1..], how);
        }
        None => value(out, url, how),
    }
}

fn is_secret(name: &[u8]) -> bool {
    SECRET_PARAMETERS.iter().any(|secret| secret.as_bytes().eq_ignore_ascii_case(name))
}

#[inline]
fn escaped(out: &mut Vec<u8>, bytes: &[u8], how: Escape) {
    // Nearly every value is printable ASCII without quotes and goes in one copy.
    match all_plain(bytes) {
        true => out.extend_from_slice(bytes),
        false => escaped_slowly(out, bytes, how),
    }
}

/// Whether each byte stands for itself in every format. Eight at a time, the last ones from the end: values are too
/// short for vector instructions to pay.
#[inline]
fn all_plain(bytes: &[u8]) -> bool {
    let Some(last) = bytes.last_chunk() else { return bytes.iter().all(|&b| is_plain(b)) };
    bytes.as_chunks().0.iter().fold(odd_bytes(last), |odd, eight| odd | odd_bytes(eight)) == 0
}

/// Not zero if one of eight bytes is a control, a quote, a backslash, DEL or beyond ASCII. The carries of a subtraction
/// can reach from an odd byte into its neighbours, and from no other.
#[inline]
fn odd_bytes(eight: &[u8; 8]) -> u64 {
    const fn all(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    let word = u64::from_ne_bytes(*eight);
    let below = |word: u64, bound: u8| word.wrapping_sub(all(bound)) & !word;
    let is = |byte: u8| below(word ^ all(byte), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\') | is(0x7f) | word) & all(0x80)
}

#[cold]
fn escaped_slowly(out: &mut Vec<u8>, bytes: &[u8], how: Escape) {
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match u8::try_from(c) {
                Ok(b) if is_plain(b) => out.push(b),
                // C1 controls drive terminals as the C0 ones do.
                Ok(b) if b.is_ascii() || b < 0xa0 => escape_byte(out, b, how),
                _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        chunk.invalid().iter().for_each(|&b| escape_byte(out, b, how));
    }
}

fn escape_byte(out: &mut Vec<u8>, byte: u8, how: Escape) {
    let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
    match (how, byte) {
        (Escape::Json, b'"' | b'\\') => out.extend_from_slice(&[b'\\', byte]),
        (Escape::Json, b'\n') => out.extend_from_slice(b"\\n"),
        (Escape::Json, b'\r') => out.extend_from_slice(b"\\r"),
        (Escape::Json, b'\t') => out.extend_from_slice(b"\\t"),
        (Escape::Json, _) => out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]),
        (Escape::Hex, _) => out.extend_from_slice(&[b'\\', b'x', high, low]),
    }
}

/// Whether a byte stands for itself in every format.
#[inline]
fn is_plain(byte: u8) -> bool {
    (byte.wrapping_sub(0x20) < 0x5f) & (byte != b'"') & (byte != b'\\')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn numbers_and_addresses() {
        assert_eq!(written(|out| number(out, 12_345)), "12345");
        assert_eq!(written(|out| milliseconds(out, 12_345_678)), "12.345");
        assert_eq!(written(|out| milliseconds(out, 7_999)), "0.007");
        for text in ["203.0.113.9", "0.10.99.100", "255.255.255.255", "2001:db8::1"] {
            assert_eq!(written(|out| address(out, text.parse().expect("address"))), text);
        }
        assert_eq!(written(|out| address(out, "::ffff:1.2.3.4".parse().expect("address"))), "1.2.3.4");
    }

    #[test]
    fn every_odd_byte_is_found_at_every_place() {
        for byte in 0..=255u8 {
            for len in 1..20 {
                for at in 0..len {
                    let mut bytes = vec![b'~'; len];
                    bytes[at] = byte;
                    assert_eq!(all_plain(&bytes), is_plain(byte), "{byte:#x} at {at} of {len}");
                }
            }
        }
        assert!(all_plain(b""));
    }

    #[test]
    fn secrets_are_masked_and_the_rest_is_kept() {
        let masked = written(|out| query(out, b"a=1&Access_Token=abc&token&key=&codes=2&code=x=y", Escape::Json));
        assert_eq!(masked, "a=1&Access_Token=***&token&key=***&codes=2&code=***");
        assert_eq!(written(|out| url(out, b"http://a/?sig=1#f", Escape::Hex)), "http://a/?sig=***");
    }

    #[test]
    fn controls_cannot_forge_a_line() {
        assert_eq!(written(|out| value(out, b"a\"\\\n\x1b[2J\xff\x7f", Escape::Hex)), r"a\x22\x5c\x0a\x1b[2J\xff\x7f");
        assert_eq!(written(|out| value(out, "é\u{9b}".as_bytes(), Escape::Json)), "é\\u009b");
    }

    #[test]
    fn long_values_are_cut() {
        assert_eq!(written(|out| value(out, &[b'a'; 9_000], Escape::Json)).len(), VALUE_BYTES_MAX + 3);
        assert_eq!(written(|out| query(out, &[b'&'; 9_000], Escape::Json)).len(), VALUE_BYTES_MAX + 3);
    }

    proptest! {
        #[test]
        fn json_escapes_are_read_back(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = written(|out| {
                out.push(b'"');
                value(out, &bytes, Escape::Json);
                out.push(b'"');
            });
            let read: String = serde_json::from_str(&text).expect("a JSON string");
            if let Ok(original) = std::str::from_utf8(&bytes) {
                prop_assert_eq!(read, original);
            }
            prop_assert!(text.chars().all(|c| !c.is_control()));
        }

        #[test]
        fn hex_escapes_leave_no_control(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let text = written(|out| value(out, &bytes, Escape::Hex));
            prop_assert!(text.chars().all(|c| !c.is_control() && c != '"'));
        }
    }
}
