//! Which path means what.

use super::fast::Fixed;
use super::{BODY_BYTES_MAX, PIECES_MAX, WAIT_MS_MAX};

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `/1k`, `/64k`, `/1m`
    Fixed(Fixed),
    /// `/post`: how many bytes the body has.
    Post,
    /// `/status/NNN`
    Status(u16),
    /// `/bytes/N`
    Bytes(u64),
    /// `/chunked/N`: chunks of 1 KiB.
    Chunked(u64),
    /// `/slow/MS`
    Slow(u64),
    /// `/drip/N/MS`: pieces, pause.
    Drip(u64, u64),
    /// `/close`
    Close,
    /// `/stream`
    Stream,
    /// `/early`
    Early,
    /// `/trailers`
    Trailers,
    /// `/103`
    EarlyHints,
    /// `/headers`
    Headers,
    /// `/echo`
    Echo,
    /// One of these with a number that is not served.
    Refused,
    /// Anything else.
    Unlisted,
}

/// The path of a request target: without authority and query.
pub(super) fn path_of(target: &[u8]) -> &[u8] {
    let path = parts(target).0;
    if path.is_empty() { b"/" } else { path }
}

/// The query of a request target; empty when there is none.
pub(super) fn query_of(target: &[u8]) -> &[u8] {
    parts(target).1
}

fn parts(target: &[u8]) -> (&[u8], &[u8]) {
    let local = match memchr::memmem::find(target, b"://") {
        Some(at) if target.first() != Some(&b'/') => {
            let authority = &target[at + 3..];
            let end = authority.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(authority.len());
            &authority[end..]
        }
        _ => target,
    };
    match memchr::memchr(b'?', local) {
        Some(at) => (&local[..at], &local[at + 1..]),
        None => (local, b""),
    }
}

/// Finds what a path asks for.
pub(super) fn target(path: &[u8]) -> Target {
    let mut segments = path.strip_prefix(b"/").unwrap_or(path).split(|&b| b == b'/');
    let first = segments.next().unwrap_or_default();
    match (segments.next(), segments.next(), segments.next()) {
        (None, ..) => single(first),
        (Some(number), None, _) => with_number(first, number),
        (Some(count), Some(wait), None) if first == b"drip" => {
            match (number_to(count, PIECES_MAX), number_to(wait, WAIT_MS_MAX)) {
                (Some(count), Some(wait_ms)) => Target::Drip(count, wait_ms),
                _ => Target::Refused,
            }
        }
        _ => Target::Unlisted,
    }
}

fn single(name: &[u8]) -> Target {
    match name {
        b"1k" => Target::Fixed(Fixed::Kib1),
        b"64k" => Target::Fixed(Fixed::Kib64),
        b"1m" => Target::Fixed(Fixed::Mib1),
        b"post" => Target::Post,
        b"close" => Target::Close,
        b"stream" => Target::Stream,
        b"early" => Target::Early,
        b"trailers" => Target::Trailers,
        b"103" => Target::EarlyHints,
        b"headers" => Target::Headers,
        b"echo" => Target::Echo,
        _ => Target::Unlisted,
    }
}

fn with_number(name: &[u8], number: &[u8]) -> Target {
    let (max, make): (u64, fn(u64) -> Target) = match name {
        b"status" => (599, status),
        b"bytes" => (BODY_BYTES_MAX, Target::Bytes),
        b"chunked" => (PIECES_MAX, Target::Chunked),
        b"slow" => (WAIT_MS_MAX, Target::Slow),
        _ => return Target::Unlisted,
    };
    number_to(number, max).map_or(Target::Refused, make)
}

/// A final status; interim ones have a path of their own.
fn status(number: u64) -> Target {
    match u16::try_from(number) {
        Ok(status) if status >= 200 => Target::Status(status),
        _ => Target::Refused,
    }
}

fn number_to(digits: &[u8], max: u64) -> Option<u64> {
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    (number <= max).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_have_one_meaning() {
        for (path, wanted) in [
            ("/1k", Target::Fixed(Fixed::Kib1)),
            ("/1m", Target::Fixed(Fixed::Mib1)),
            ("/1k/", Target::Unlisted),
            ("/status/503", Target::Status(503)),
            ("/status/199", Target::Refused),
            ("/status/600", Target::Refused),
            ("/status/-1", Target::Refused),
            ("/bytes/67108864", Target::Bytes(67_108_864)),
            ("/bytes/67108865", Target::Refused),
            ("/bytes/99999999999999999999999", Target::Refused),
            ("/slow/60000", Target::Slow(60_000)),
            ("/slow/60001", Target::Refused),
            ("/drip/3/10", Target::Drip(3, 10)),
            ("/drip/3", Target::Unlisted),
            ("/drip/3/10/5", Target::Unlisted),
            ("/drip//", Target::Refused),
            ("/", Target::Unlisted),
            ("*", Target::Unlisted),
            ("/api/orders/1", Target::Unlisted),
        ] {
            assert_eq!(target(path.as_bytes()), wanted, "{path}");
        }
    }

    #[test]
    fn targets_come_apart() {
        for (target, path, query) in [
            ("/a?b=c?d", "/a", "b=c?d"),
            ("/a", "/a", ""),
            ("http://h:1/a?b", "/a", "b"),
            ("http://h", "/", ""),
            ("http://h?q", "/", "q"),
            ("/go?to=http://x/y", "/go", "to=http://x/y"),
            ("/a://b/c", "/a://b/c", ""),
        ] {
            assert_eq!((path_of(target.as_bytes()), query_of(target.as_bytes())), (path.as_bytes(), query.as_bytes()));
        }
    }
}
