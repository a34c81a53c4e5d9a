//! The ways in which endpoints read a path that is not read alike by all (F49).
//!
//! Some drop `;parameters`, before or behind decoding; some decode escapes once, some twice; some take a backslash for
//! a slash, merge empty segments, take two slashes at the beginning for those of an authority, or end a path at a
//! decoded `?` or `#`. A reading is written as routes see paths.

use std::borrow::Cow;
use std::ops::ControlFlow;

use super::path::{bad, escape, hex_pair, is_path_byte};
use crate::error::Failure;

/// Calls `each` with every way in which a canonical path may be read other than as it stands, until it breaks. Each
/// comes once. There are none unless the path is [`doubtful`](super::path::doubtful).
pub fn each(path: &[u8], mut each: impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
    let mut seen = Seen { literal: super::path::matched(path).unwrap_or_else(|| path.to_vec()), others: Vec::new() };
    let dropped = drop_parameters(path);
    let whole = [Some(path), dropped.as_deref()];
    let behind_authority = whole.map(|path| path.and_then(without_authority));
    for start in whole.into_iter().chain(behind_authority).flatten() {
        // What is left undecoded is read as it stands, so that its escapes stay.
        let undecoded = super::path::matched(start).unwrap_or_else(|| start.to_vec());
        seen.offer(merged(&undecoded), &mut each)?;
        seen.offer(undecoded, &mut each)?;
        let once = decode(start);
        if once == start {
            continue;
        }
        each_decoded(&once, &mut |form| seen.offer(form, &mut each))?;
        let dropped = drop_parameters(&once);
        for once in [Some(&once), dropped.as_ref()].into_iter().flatten() {
            let twice = decode(once);
            if twice != *once {
                each_decoded(&twice, &mut |form| seen.offer(form, &mut each))?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// Refuses a segment that some reading turns into dot segments, controls or overlong UTF-8, or that is encoded more
/// than twice. With it a path would climb behind the router's back.
///
/// # Errors
/// [`Reason::BadPath`](crate::error::Reason::BadPath).
pub(super) fn check_segment(segment: &[u8]) -> Result<(), Failure> {
    let deepest = decoded_twice(segment);
    if deepest.iter().any(|byte| byte.is_ascii_control()) {
        return Err(bad("doubly encoded control character"));
    }
    if has_overlong(&deepest) {
        return Err(bad("overlong UTF-8 under double encoding"));
    }
    if memchr::memchr_iter(b'%', &deepest).any(|at| hex_pair(deepest.get(at + 1..at + 3)).is_some()) {
        return Err(bad("encoded more than twice"));
    }
    let ends = |byte: &u8| matches!(byte, b';' | b'?' | b'#');
    let mut segments = deepest.split(|byte| matches!(byte, b'/' | b'\\'));
    let is_dots = |segment: &[u8]| matches!(segment.split(ends).next(), Some(b"." | b".."));
    if segments.any(is_dots) { Err(bad("hidden dot segment")) } else { Ok(()) }
}

fn decoded_twice(octets: &[u8]) -> Cow<'_, [u8]> {
    if !octets.contains(&b'%') {
        return Cow::Borrowed(octets);
    }
    let once = decode(octets);
    Cow::Owned(if once.contains(&b'%') { decode(&once) } else { once })
}

/// Decodes every escape once; a percent sign without two digits stays.
pub(super) fn decode(path: &[u8]) -> Vec<u8> {
    let (mut out, mut at) = (Vec::with_capacity(path.len()), 0);
    while at < path.len() {
        match (path[at], hex_pair(path.get(at + 1..at + 3))) {
            (b'%', Some(octet)) => {
                out.push(octet);
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// Whether there is a UTF-8 sequence that is longer than its character needs (RFC 3629 section 10), also for a decoder
/// that takes any octet for a continuation and looks at its six low bits alone: `%C0/` is a slash to it. C0 and C1
/// begin nothing else, so that they are refused wherever they stand.
pub(super) fn has_overlong(octets: &[u8]) -> bool {
    let low = |next: &u8| next & 0x3f;
    octets.iter().any(|octet| matches!(octet, 0xc0 | 0xc1))
        || octets.windows(2).any(|pair| match pair {
            [0xe0, next] => low(next) < 0x20,
            [0xf0, next] => low(next) < 0x10,
            _ => false,
        })
}

struct Seen {
    literal: Vec<u8>,
    others: Vec<Vec<u8>>,
}

impl Seen {
    fn offer(&mut self, form: Vec<u8>, each: &mut impl FnMut(&[u8]) -> ControlFlow<()>) -> ControlFlow<()> {
        if form == self.literal || self.others.contains(&form) {
            return ControlFlow::Continue(());
        }
        each(&form)?;
        self.others.push(form);
        ControlFlow::Continue(())
    }
}

/// What may be made of decoded octets.
fn each_decoded(octets: &[u8], each: &mut impl FnMut(Vec<u8>) -> ControlFlow<()>) -> ControlFlow<()> {
    let slashed = backslashes(octets);
    for form in [Some(octets), slashed.as_deref()].into_iter().flatten() {
        let cut = memchr::memchr2(b'?', b'#', form).map(|end| &form[..end]);
        for form in [Some(form), cut].into_iter().flatten() {
            let dropped = drop_parameters(form);
            let slashed = dropped.as_deref().and_then(backslashes);
            for form in [Some(form), dropped.as_deref(), slashed.as_deref()].into_iter().flatten() {
                if form.windows(2).any(|pair| pair == b"//") {
                    each(encode(&merged(form)))?;
                }
                each(encode(form))?;
            }
        }
    }
    ControlFlow::Continue(())
}

/// What follows the first segment where two slashes begin the path: for WHATWG's parser it is a host.
fn without_authority(path: &[u8]) -> Option<&[u8]> {
    let from_host = path.strip_prefix(b"//")?;
    let host_at = from_host.iter().position(|byte| *byte != b'/')?;
    Some(memchr::memchr(b'/', &from_host[host_at..]).map_or(b"/", |end| &from_host[host_at + end..]))
}

/// Without the parameters of each segment; None if there are none.
fn drop_parameters(path: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b';', path)?;
    let (mut out, mut inside) = (Vec::with_capacity(path.len()), false);
    for &byte in path {
        match byte {
            b';' => inside = true,
            b'/' => inside = false,
            _ => {}
        }
        if !inside {
            out.push(byte);
        }
    }
    Some(out)
}

/// With backslashes as slashes; None if there are none.
fn backslashes(octets: &[u8]) -> Option<Vec<u8>> {
    memchr::memchr(b'\\', octets)?;
    Some(octets.iter().map(|&byte| if byte == b'\\' { b'/' } else { byte }).collect())
}

/// With runs of slashes as one.
fn merged(path: &[u8]) -> Vec<u8> {
    let mut out = path.to_vec();
    out.dedup_by(|next, before| *next == b'/' && *before == b'/');
    out
}

/// Octets in the form in which routes see a path.
fn encode(octets: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(octets.len());
    for &byte in octets {
        if is_path_byte(byte) { out.push(byte) } else { escape(byte, &mut out) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::path::doubtful;

    fn readings(path: &str) -> Vec<String> {
        let mut all = Vec::new();
        let _ = each(path.as_bytes(), |form| {
            all.push(String::from_utf8(form.to_vec()).expect("ASCII"));
            ControlFlow::Continue(())
        });
        all.sort();
        all
    }

    #[test]
    fn plain_paths_are_read_in_one_way() {
        for path in ["/", "/a/b", "/a%20b/caf%C3%A9", "/@a,b", "/%40a%2Cb", "/100%25", "/a%25zz"] {
            assert!(!doubtful(path.as_bytes()), "{path}");
            assert_eq!(readings(path), Vec::<String>::new(), "{path}");
        }
    }

    #[test]
    fn doubtful_paths_are_read_in_several() {
        for (path, expected) in [
            ("/a;x/b", &["/a/b"][..]),
            ("/a%3Bx/b", &["/a/b", "/a;x/b"]),
            ("/a%3Bx;y/b", &["/a/b", "/a;x/b", "/a;x;y/b", "/a%3Bx/b"]),
            ("/a%3Fx/b", &["/a"]),
            ("/a%2Fb", &["/a/b"]),
            ("/a%5Cb", &["/a/b"]),
            // Once decoded it is `%2F`, which routes see as `%252F`.
            ("/a%252Fb", &["/a/b"]),
            ("/a//b", &["/a/b"]),
            ("/a%2F%2Fb", &["/a//b", "/a/b"]),
            ("//a/b", &["/a/b", "/b"]),
            ("//a", &["/", "/a"]),
        ] {
            assert!(doubtful(path.as_bytes()), "{path}");
            let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
            expected.sort();
            assert_eq!(readings(path), expected, "{path}");
        }
    }

    #[test]
    fn overlong_sequences_are_found_for_lax_decoders_too() {
        for octets in
            [&b"\xc0\xaf"[..], b"\xc0", b"a\xc1b", b"\xc0n\xc0n", b"\xe0\x80\xaf", b"\xe0@o", b"\xf0\x80", b"\xf0@@o"]
        {
            assert!(has_overlong(octets), "{}", octets.escape_ascii());
        }
        for text in ["caf\u{e9}", "\u{800}\u{fff}", "\u{10000}", "\u{10ffff}", "\u{7ff}\u{80}"] {
            assert!(!has_overlong(text.as_bytes()), "{text}");
        }
        // Latin-1, as old applications write it.
        assert!(!has_overlong(b"voil\xe0/caf\xe9/\xfcber"));
    }

    #[test]
    fn hidden_dots_are_refused() {
        for segment in ["..%3Bx", "..;", "a%2F..%2Fb", "a%5C..", "%252E%252E", "..%3Fb", ".%23b", ".;x=1"] {
            assert!(check_segment(segment.as_bytes()).is_err(), "{segment}");
        }
        for segment in ["%252525", "a%2500", "a%250D", "%25C0%25AF"] {
            assert!(check_segment(segment.as_bytes()).is_err(), "{segment}");
        }
        for segment in ["a;v=1", "a%2Fb", "..a;b", "a.;b", "...;", "a%252Fb", "a%5C...%2Fb"] {
            assert!(check_segment(segment.as_bytes()).is_ok(), "{segment}");
        }
    }
}
