//! The canonical path: one form, computed once, that is matched, logged, keyed and forwarded (F49).
//!
//! What cannot be made canonical without a guess about the endpoint is refused. `docs/conformance.md` holds the table.

use crate::error::{Failure, Reason};

/// How a listener treats paths that name the same resource in several ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PathPolicy {
    /// Refuse every spelling that some endpoint may read differently: encoded slashes and backslashes, double encoding,
    /// empty segments, dot segments that climb above the root, invalid UTF-8.
    Strict,
    /// As `Strict`, but empty segments are merged instead of refused.
    #[default]
    Merge,
    /// Dot segments and unreserved octets are normalised; encoded slashes, backslashes, double encoding and empty
    /// segments pass as they are.
    Preserve,
}

/// Whether a path is canonical as it stands: the hot path. Such a path needs no copy.
#[inline]
pub fn is_canonical(path: &[u8]) -> bool {
    // Segments are looked at only behind a slash: a second slash or a dot may need work there.
    let mut previous = b'/';
    let Some((b'/', rest)) = path.split_first() else { return false };
    for &byte in rest {
        if !PLAIN[byte as usize] || (previous == b'/' && (byte == b'/' || byte == b'.')) {
            return false;
        }
        previous = byte;
    }
    true
}

/// Writes the canonical form of `path` behind `out`.
///
/// # Errors
/// [`Reason::BadPath`], with what is wrong as its detail.
pub fn canonicalise(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), Failure> {
    if path.first() != Some(&b'/') {
        return Err(bad("path does not begin with a slash"));
    }
    let decoded_from = out.len();
    decode_unreserved(path, policy, out)?;
    let decoded = out.split_off(decoded_from);
    check_double_encoding(&decoded, policy)?;
    check_utf8(&decoded, policy)?;
    resolve_segments(&decoded, policy, out)
}

/// Decodes percent-encoded unreserved octets and writes the other encodings in upper case (RFC 3986 section 6.2.2).
fn decode_unreserved(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), Failure> {
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        if byte != b'%' {
            check_raw(byte, policy)?;
            out.push(byte);
            at += 1;
            continue;
        }
        let octet = hex_pair(path.get(at + 1..at + 3)).ok_or(bad("percent sign without two hex digits"))?;
        check_encoded(octet, policy)?;
        if is_unreserved(octet) {
            out.push(octet);
        } else {
            out.extend_from_slice(&[b'%', hex_digit(octet >> 4), hex_digit(octet & 15)]);
        }
        at += 3;
    }
    Ok(())
}

fn check_raw(byte: u8, policy: PathPolicy) -> Result<(), Failure> {
    match byte {
        b'\\' if policy != PathPolicy::Preserve => Err(bad("backslash in the path")),
        b'#' => Err(bad("fragment in the request target")),
        0x21..=0x7e => Ok(()),
        _ => Err(bad("raw control or non-ASCII byte in the path")),
    }
}

fn check_encoded(octet: u8, policy: PathPolicy) -> Result<(), Failure> {
    let lenient = policy == PathPolicy::Preserve;
    match octet {
        0..=0x1f | 0x7f => Err(bad("encoded control character")),
        b'/' | b'\\' if !lenient => Err(bad("encoded slash or backslash")),
        _ => Ok(()),
    }
}

/// Looks at what is decoded, since the digits behind an encoded percent sign may be encoded themselves: `%25%32f`.
fn check_double_encoding(decoded: &[u8], policy: PathPolicy) -> Result<(), Failure> {
    let mut signs = memchr::memmem::find_iter(decoded, b"%25");
    let hides_octet = |at: usize| hex_pair(decoded.get(at + 3..at + 5)).is_some();
    if policy != PathPolicy::Preserve && signs.any(hides_octet) { Err(bad("double encoding")) } else { Ok(()) }
}

/// Overlong and broken UTF-8 is where decoders disagree. Encoded octets above 0x7f must form valid sequences.
fn check_utf8(decoded: &[u8], policy: PathPolicy) -> Result<(), Failure> {
    if policy == PathPolicy::Preserve || !decoded.contains(&b'%') {
        return Ok(());
    }
    let mut bytes = Vec::with_capacity(decoded.len());
    let mut at = 0;
    while at < decoded.len() {
        match (decoded[at], hex_pair(decoded.get(at + 1..at + 3))) {
            (b'%', Some(octet)) => {
                bytes.push(octet);
                at += 3;
            }
            (byte, _) => {
                bytes.push(byte);
                at += 1;
            }
        }
    }
    std::str::from_utf8(&bytes).map(|_| ()).map_err(|_| bad("encoded bytes are not valid UTF-8"))
}

/// Removes dot segments (RFC 3986 section 5.2.4) and treats empty ones by policy.
fn resolve_segments(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), Failure> {
    let base = out.len();
    let mut segments = path[1..].split(|&b| b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." if last => out.push(b'/'),
            b"." => {}
            b".." => {
                climb(out, base)?;
                if last {
                    out.push(b'/');
                }
            }
            b"" if !last && policy == PathPolicy::Strict => return Err(bad("empty path segment")),
            b"" if !last && policy == PathPolicy::Merge => {}
            _ if is_hidden_dot(segment, policy) => return Err(bad("path segment of dots or parameters only")),
            _ => {
                out.push(b'/');
                out.extend_from_slice(segment);
            }
        }
    }
    if out.len() == base {
        out.push(b'/');
    }
    Ok(())
}

fn climb(out: &mut Vec<u8>, base: usize) -> Result<(), Failure> {
    let parent = memchr::memrchr(b'/', &out[base..]).ok_or(bad("path climbs above the root"))?;
    out.truncate(base + parent);
    Ok(())
}

/// A segment that becomes empty or a dot segment once its parameters are dropped, as servlet containers do.
fn is_hidden_dot(segment: &[u8], policy: PathPolicy) -> bool {
    let Some(at) = memchr::memchr(b';', segment) else { return false };
    policy != PathPolicy::Preserve && matches!(&segment[..at], b"" | b"." | b"..")
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn hex_pair(pair: Option<&[u8]>) -> Option<u8> {
    let &[high, low] = pair? else { return None };
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789ABCDEF"[value as usize & 15]
}

const fn bad(detail: &'static str) -> Failure {
    Failure::with(Reason::BadPath, detail)
}

/// Bytes that are canonical wherever they stand in a segment but for dots behind a slash.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0x21;
    while byte < 0x7f {
        table[byte] = !matches!(byte as u8, b'%' | b'\\' | b'#' | b';' | b'?');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(path: &str, policy: PathPolicy) -> Result<String, &'static str> {
        let mut out = Vec::new();
        canonicalise(path.as_bytes(), policy, &mut out).map_err(|failure| failure.detail)?;
        Ok(String::from_utf8(out).expect("canonical paths are ASCII"))
    }

    #[test]
    fn equal_resources_get_one_form() {
        for (path, expected) in [
            ("/a/./b/../c", "/a/c"),
            ("/a/%62/%7Ec", "/a/b/~c"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/..", "/"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("//a///b/", "/a/b/"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/100%25", "/100%25"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/", "/"),
        ] {
            assert_eq!(canonical(path, PathPolicy::Merge).as_deref(), Ok(expected), "{path}");
        }
    }

    #[test]
    fn what_needs_a_guess_is_refused() {
        for path in [
            "a",
            "/a\\b",
            "/a%2fb",
            "/a%5Cb",
            "/%2561",
            "/%25%32f",
            "/..",
            "/a/../../b",
            "/a%00b",
            "/a%0d%0a",
            "/%zz",
            "/%4",
            "/a#b",
            "/%c0%af",
            "/..;/a",
            "/;x/a",
            "/a b",
            "/\u{e9}",
        ] {
            assert!(canonical(path, PathPolicy::Merge).is_err(), "{path}");
            assert!(canonical(path, PathPolicy::Strict).is_err(), "{path}");
        }
        assert!(canonical("/a//b", PathPolicy::Strict).is_err());
        assert_eq!(canonical("/a%2Fb//c", PathPolicy::Preserve).as_deref(), Ok("/a%2Fb//c"));
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(path in "/([a-c./;%\\\\]|%2[0-9a-fA-F]|%[4-7][0-9a-f]|%c3%a9){0,12}") {
            for policy in [PathPolicy::Strict, PathPolicy::Merge, PathPolicy::Preserve] {
                if let Ok(once) = canonical(&path, policy) {
                    prop_assert_eq!(canonical(&once, policy), Ok(once));
                }
            }
        }

        #[test]
        fn the_hot_path_agrees(path in "/[a-c./%;?#0-9A-Z~_-]{0,20}") {
            if is_canonical(path.as_bytes()) {
                for policy in [PathPolicy::Strict, PathPolicy::Merge, PathPolicy::Preserve] {
                    prop_assert_eq!(canonical(&path, policy), Ok(path.clone()));
                }
            }
        }

        #[test]
        fn any_bytes_do_not_panic(path in proptest::collection::vec(any::<u8>(), 0..64)) {
            for policy in [PathPolicy::Strict, PathPolicy::Merge, PathPolicy::Preserve] {
                let _ = canonicalise(&path, policy, &mut Vec::new());
            }
        }
    }
}
