//! The canonical path: one form, computed once, that is matched, logged, keyed and forwarded (F49).
//!
//! What cannot be made canonical without a guess about the endpoint is refused. Where a legal path can still be read in
//! two ways (a servlet container drops `;x`), [`doubtful`] says so, [`reading`] lists the ways, and the
//! router refuses the request unless all of them take the same route. `docs/paths.md` has the table.

use super::reading;
use crate::error::{Failure, Reason};

/// How a listener treats paths that name the same resource in several ways. Dot segments are resolved and needless
/// escapes decoded under each of them; none lets a request walk around a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum PathPolicy {
    /// Refuse every spelling that some endpoint may read differently: encoded slashes and backslashes, double encoding,
    /// empty segments, invalid UTF-8.
    #[default]
    Strict,
    /// As `Strict`, but empty segments are merged instead of refused.
    Merge,
    /// Encoded slashes, backslashes, double encoding, empty segments and other encodings than UTF-8 pass as they are,
    /// unless one of their readings has a dot segment or takes another route.
    Preserve,
}

/// Whether a path is canonical as it stands, and read in one way only.
#[inline]
pub fn is_canonical(path: &[u8]) -> bool {
    canonical_len(path) == Some(path.len())
}

/// Length of the path that a target begins with, up to its query, if that path is canonical as it stands and read in
/// one way only: the hot path. Such a path needs no copy, and its end no search of its own.
#[inline]
pub fn canonical_len(target: &[u8]) -> Option<usize> {
    // Segments are looked at only behind a slash: a second slash or a dot may need work there.
    let mut previous = b'/';
    let Some((b'/', rest)) = target.split_first() else { return None };
    for (at, &byte) in rest.iter().enumerate() {
        if !PLAIN[byte as usize] || (previous == b'/' && (byte == b'/' || byte == b'.')) {
            return (byte == b'?').then_some(at + 1);
        }
        previous = byte;
    }
    Some(target.len())
}

/// Writes the canonical form of `path` behind `out`.
///
/// # Errors
/// [`Reason::BadPath`], with what is wrong as its detail.
pub fn canonicalise(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), Failure> {
    if path.first() != Some(&b'/') {
        return Err(bad("path does not begin with a slash"));
    }
    let begins_at = out.len();
    decode_unreserved(path, policy, out)?;
    let decoded = out.split_off(begins_at);
    if decoded.contains(&b'%') {
        check_double_encoding(&decoded, policy)?;
        check_utf8(&decoded, policy)?;
    }
    resolve_segments(&decoded, policy, out)
}

/// The form of a canonical path that routes and keys see, if it is another: escapes of bytes that never end a segment
/// (`%40` for `@`) are decoded, so that a route takes both spellings. They are not decoded in what is forwarded, since
/// RFC 3986 section 2.2 calls the two different, and some endpoints verify a signature over the one that was sent.
pub fn matched(path: &[u8]) -> Option<Vec<u8>> {
    let needless = |at| hex_pair(path.get(at + 1..at + 3)).is_some_and(is_sub_delimiter);
    if !memchr::memchr_iter(b'%', path).any(needless) {
        return None;
    }
    let (mut out, mut at) = (Vec::with_capacity(path.len()), 0);
    while at < path.len() {
        let (octet, length) = matched_octet(path, at);
        out.push(octet);
        at += length;
    }
    Some(out)
}

/// The place in a canonical path of the byte that is the `offset`th of its [`matched`] form; the path's end beyond it.
pub fn offset_in(path: &[u8], offset: usize) -> usize {
    (0..offset).fold(0, |at, _| path.len().min(at + matched_octet(path, at).1))
}

/// The byte of the matched form that stands at `at`, and how many bytes of the path it is.
fn matched_octet(path: &[u8], at: usize) -> (u8, usize) {
    match (path.get(at), hex_pair(path.get(at + 1..at + 3))) {
        (Some(b'%'), Some(octet)) if is_sub_delimiter(octet) => (octet, 3),
        (byte, _) => (byte.copied().unwrap_or_default(), 1),
    }
}

/// Whether some endpoint may read a canonical path in another way than as it stands.
pub fn doubtful(path: &[u8]) -> bool {
    memchr::memchr3_iter(b';', b'%', b'/', path).any(|at| match path[at] {
        b';' => true,
        b'/' => path.get(at + 1) == Some(&b'/'),
        _ => match hex_pair(path.get(at + 1..at + 3)) {
            Some(b'%') => hex_pair(path.get(at + 3..at + 5)).is_some(),
            octet => matches!(octet, Some(b';' | b'?' | b'#' | b'/' | b'\\')),
        },
    })
}

/// Decodes percent-encoded unreserved octets, and writes the other encodings, and what may not stand in a path
/// unencoded, as escapes in upper case (RFC 3986 section 6.2.2).
fn decode_unreserved(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), Failure> {
    let mut at = 0;
    while at < path.len() {
        let byte = path[at];
        if byte != b'%' {
            check_raw(byte, policy)?;
            if is_path_byte(byte) {
                out.push(byte)
            } else {
                escape(byte, out)
            }
            at += 1;
            continue;
        }
        let octet = hex_pair(path.get(at + 1..at + 3)).ok_or(bad("percent sign without two hex digits"))?;
        check_encoded(octet, policy)?;
        if is_unreserved(octet) {
            out.push(octet)
        } else {
            escape(octet, out)
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

/// Overlong and broken UTF-8 is where decoders disagree. Encoded octets above 0x7f must form valid sequences; under
/// `preserve` they may be of another encoding, but not an overlong form of something else.
fn check_utf8(decoded: &[u8], policy: PathPolicy) -> Result<(), Failure> {
    let octets = reading::decode(decoded);
    if std::str::from_utf8(&octets).is_ok() {
        return Ok(());
    }
    match policy {
        PathPolicy::Preserve if !reading::has_overlong(&octets) => Ok(()),
        _ => Err(bad("encoded bytes are not valid UTF-8")),
    }
}

/// Removes dot segments (RFC 3986 section 5.2.4) and treats empty ones by policy. A segment that hides dots is refused
/// here, before another one may climb over it; and so is climbing over what may be no segment, or several.
fn resolve_segments(path: &[u8], policy: PathPolicy, out: &mut Vec<u8>) -> Result<(), Failure> {
    let base = out.len();
    let mut uncertain = false;
    let mut segments = path[1..].split(|&b| b == b'/').peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    climb(uncertain, base, out)?;
                }
                if last {
                    out.push(b'/');
                }
            }
            b"" if last => out.push(b'/'),
            b"" if policy == PathPolicy::Strict => return Err(bad("empty path segment")),
            b"" => {
                uncertain = true;
                if policy == PathPolicy::Preserve {
                    out.push(b'/');
                }
            }
            _ => {
                uncertain |= check_segment(segment, policy)?;
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

fn climb(uncertain: bool, base: usize, out: &mut Vec<u8>) -> Result<(), Failure> {
    if uncertain {
        return Err(bad("dot segment behind an empty or encoded one"));
    }
    let parent = memchr::memrchr(b'/', &out[base..]).ok_or(bad("path climbs above the root"))?;
    out.truncate(base + parent);
    Ok(())
}

/// Whether the segment may be several, or the path's end. Refuses one that becomes dots, or empty once its parameters
/// are dropped, as servlet containers do.
fn check_segment(segment: &[u8], policy: PathPolicy) -> Result<bool, Failure> {
    if !doubtful(segment) {
        return Ok(false);
    }
    if policy != PathPolicy::Preserve && (segment.starts_with(b";") || segment.starts_with(b"%3B")) {
        return Err(bad("path segment of parameters only"));
    }
    reading::check_segment(segment)?;
    Ok(segment.contains(&b'%'))
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// What may stand in a segment unencoded and ends nothing there: `sub-delims`, `:` and `@` (RFC 3986 section 3.3),
/// without the semicolon, which begins parameters.
fn is_sub_delimiter(byte: u8) -> bool {
    b"!$&'()*+,=:@".contains(&byte)
}

/// What may stand in a path unencoded (RFC 3986 section 3.3), the slash counted.
pub(super) fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || is_sub_delimiter(byte) || matches!(byte, b'/' | b';')
}

/// Adds the percent-encoded octet.
pub(super) fn escape(octet: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[b'%', hex_digit(octet >> 4), hex_digit(octet & 15)]);
}

/// The octet that two hexadecimal digits stand for.
pub(super) fn hex_pair(pair: Option<&[u8]>) -> Option<u8> {
    let &[high, low] = pair? else { return None };
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    Some(digit(high)? << 4 | digit(low)?)
}

fn hex_digit(value: u8) -> u8 {
    b"0123456789ABCDEF"[value as usize & 15]
}

/// A path that is refused, and why.
pub(super) const fn bad(detail: &'static str) -> Failure {
    Failure::with(Reason::BadPath, detail)
}

/// Bytes that are canonical wherever they stand in a segment but for dots behind a slash.
static PLAIN: [bool; 256] = {
    let mut table = [false; 256];
    let legal = b"/-._~!$&'()*+,=:@0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < legal.len() {
        table[legal[at] as usize] = true;
        at += 1;
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

    #[test]
    fn needless_escapes_are_matched_decoded_and_kept() {
        let path = b"/%40a%2Bb%2Cc/%20%3B";
        let form = matched(path).expect("another form");
        assert_eq!(form, b"/@a+b,c/%20%3B");
        for (offset, place) in
            [(0, 0), (1, 1), (2, 4), (3, 5), (4, 8), (7, 13), (8, 14), (14, path.len()), (99, path.len())]
        {
            assert_eq!(offset_in(path, offset), place, "{offset}");
        }
        assert_eq!(matched(b"/a%20%2F%25"), None);
        assert_eq!(canonical("/%40[%7c|]", PathPolicy::Strict).as_deref(), Ok("/%40%5B%7C%7C%5D"));
    }

    #[test]
    fn nothing_climbs_over_what_may_be_no_segment() {
        for path in ["/x//../a", "/x/%2e/y//z/../a", "/x%2Fy/../a", "/x/y%3F/../a", "/x%252Fy/z/../a"] {
            for policy in [PathPolicy::Strict, PathPolicy::Merge, PathPolicy::Preserve] {
                assert!(canonical(path, policy).is_err(), "{path} under {policy:?}");
            }
        }
        assert_eq!(canonical("/x/../a//b", PathPolicy::Merge).as_deref(), Ok("/a/b"));
        assert_eq!(canonical("/x;v=1/../a", PathPolicy::Strict).as_deref(), Ok("/a"));
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
