//! The fast path: requests known by their first line, answered with whole responses that are held in memory.

use std::sync::OnceLock;

use super::Kind;
use super::paths::{self, Target};

/// Whole 1 KiB responses that stand one behind the other, so that as many pipelined requests cost one send.
const SMALL_BATCH_MAX: usize = 64;

/// A body of fixed size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fixed {
    Kib1,
    Kib64,
    Mib1,
}

/// Requests for the same body at the front of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub which: Fixed,
    /// Number of requests, at least 1 and at most the batch of `which`.
    pub count: usize,
    /// Bytes of these requests.
    pub bytes: usize,
}

struct Prepared {
    /// `batch_max` whole responses.
    all: Box<[u8]>,
    head_bytes: usize,
    one_bytes: usize,
}

impl Fixed {
    pub const ALL: [Fixed; 3] = [Fixed::Kib1, Fixed::Kib64, Fixed::Mib1];

    const fn line(self) -> &'static [u8] {
        match self {
            Fixed::Kib1 => b"GET /1k HTTP/1.1\r\n",
            Fixed::Kib64 => b"GET /64k HTTP/1.1\r\n",
            Fixed::Mib1 => b"GET /1m HTTP/1.1\r\n",
        }
    }

    pub const fn body_bytes(self) -> usize {
        match self {
            Fixed::Kib1 => 1024,
            Fixed::Kib64 => 64 * 1024,
            Fixed::Mib1 => 1024 * 1024,
        }
    }

    const fn batch_max(self) -> usize {
        match self {
            Fixed::Kib1 => SMALL_BATCH_MAX,
            _ => 1,
        }
    }

    /// Whether a response is worth a copy to leave together with others.
    pub const fn is_small(self) -> bool {
        matches!(self, Fixed::Kib1)
    }

    /// `count` whole responses; at most a batch.
    pub fn responses(self, count: usize) -> &'static [u8] {
        let prepared = self.prepared();
        &prepared.all[..count.min(self.batch_max()) * prepared.one_bytes]
    }

    /// The body alone.
    pub fn body(self) -> &'static [u8] {
        let prepared = self.prepared();
        &prepared.all[prepared.head_bytes..prepared.one_bytes]
    }

    /// Made at the first use, so that a demo without benchmarks does not hold a mebibyte for nothing.
    fn prepared(self) -> &'static Prepared {
        static ALL: [OnceLock<Prepared>; 3] = [const { OnceLock::new() }; 3];
        ALL[self as usize].get_or_init(|| {
            let length = self.body_bytes();
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n");
            let mut one = head.clone().into_bytes();
            one.extend(b"ringway\n".iter().cycle().take(length));
            let (head_bytes, one_bytes) = (head.len(), one.len());
            Prepared { all: one.repeat(self.batch_max()).into(), head_bytes, one_bytes }
        })
    }
}

/// The requests at the front of `input` that ask for the same fixed body and nothing else. None when the first one is
/// anything but that, or unfinished: the full parser then looks at it.
#[inline]
pub(super) fn recognise(input: &[u8], kind: Kind) -> Option<Run> {
    let (which, bytes) = request(input, kind)?;
    let mut run = Run { which, count: 1, bytes };
    while run.count < which.batch_max() && run.bytes < input.len() {
        match request(&input[run.bytes..], kind) {
            Some((next, bytes)) if next == which => {
                run.count += 1;
                run.bytes += bytes;
            }
            _ => break,
        }
    }
    Some(run)
}

#[inline]
fn request(input: &[u8], kind: Kind) -> Option<(Fixed, usize)> {
    let (which, line_bytes) = request_line(input, kind)?;
    Some((which, plain_head(input, line_bytes)?))
}

#[inline]
fn request_line(input: &[u8], kind: Kind) -> Option<(Fixed, usize)> {
    for which in Fixed::ALL {
        if input.starts_with(which.line()) {
            return Some((which, which.line().len()));
        }
    }
    if kind == Kind::Demo {
        return None;
    }
    let end = memchr::memchr(b'\n', input)?;
    let target = input[..end].strip_prefix(b"GET ")?.strip_suffix(b" HTTP/1.1\r")?;
    let plain = target.starts_with(b"/") && target.iter().all(|b| (0x21..=0x7e).contains(b));
    (plain && paths::target(paths::path_of(target)) == Target::Unlisted).then_some((Fixed::Kib1, end + 1))
}

/// Where the head ends whose field lines begin at `line`, if none of them changes what is to be done and Host is there.
#[inline]
fn plain_head(input: &[u8], mut line: usize) -> Option<usize> {
    let mut has_host = false;
    let start = line;
    for found in memchr::memchr_iter(b'\n', &input[start..]) {
        let end = start + found;
        let text = input[line..end].strip_suffix(b"\r")?;
        match text.first() {
            None => return has_host.then_some(end + 1),
            Some(b'h' | b'H') if names(text, b"host:") => {
                if has_host {
                    return None;
                }
                has_host = true;
            }
            Some(b'c' | b'C' | b't' | b'T' | b'e' | b'E') if matters(text) => return None,
            Some(first) if !first.is_ascii_graphic() => return None,
            Some(_) => {}
        }
        line = end + 1;
    }
    None
}

/// Fields of framing and of the connection are for the full parser.
fn matters(line: &[u8]) -> bool {
    [&b"connection"[..], b"content-length", b"transfer-encoding", b"expect"].into_iter().any(|name| names(line, name))
}

/// Whether the line's name is this one, or begins with it: a name before a stray blank is not overlooked.
fn names(line: &[u8], name: &[u8]) -> bool {
    line.len() > name.len() && line[..name.len()].eq_ignore_ascii_case(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: &[u8] = b"GET /1k HTTP/1.1\r\nHost: a\r\nX-Request-ID: 7\r\n\r\n";

    #[test]
    fn runs_of_equal_requests_are_counted() {
        let input = [REQUEST, REQUEST, REQUEST, b"GET /64k HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let run = recognise(&input, Kind::Demo).expect("three of them");
        assert_eq!(run, Run { which: Fixed::Kib1, count: 3, bytes: 3 * REQUEST.len() });
        assert_eq!(recognise(&input[run.bytes..], Kind::Demo).map(|r| (r.which, r.count)), Some((Fixed::Kib64, 1)));
        let many = recognise(&REQUEST.repeat(100), Kind::Demo).expect("a batch");
        assert_eq!(many.count, SMALL_BATCH_MAX);
    }

    #[test]
    fn unfinished_requests_are_left_alone() {
        for end in 0..REQUEST.len() {
            assert_eq!(recognise(&REQUEST[..end], Kind::Demo), None);
            assert_eq!(recognise(&REQUEST[..end], Kind::Bench), None);
        }
    }

    #[test]
    fn what_needs_thought_goes_to_the_parser() {
        for fields in [
            "Host: a\r\nConnection: close\r\n",
            "Host: a\r\ncontent-LENGTH: 5\r\n",
            "Host: a\r\nTransfer-Encoding: chunked\r\n",
            "Host: a\r\nTransfer-Encoding : chunked\r\n",
            "Host: a\r\nExpect: 100-continue\r\n",
            "Host: a\r\n folded\r\n",
            "Host: a\nX: b\r\n",
            "X: b\r\n",
            "Hostile: a\r\n",
            "Host: a\r\nhost: b\r\n",
        ] {
            let input = format!("GET /1k HTTP/1.1\r\n{fields}\r\n");
            assert_eq!(recognise(input.as_bytes(), Kind::Bench), None, "{fields:?}");
        }
        assert_eq!(recognise(b"GET /1k HTTP/1.0\r\nHost: a\r\n\r\n", Kind::Bench), None);
    }

    #[test]
    fn only_a_bench_answers_any_path() {
        for (path, bench) in [("/", true), ("/api/users/1?x=y", true), ("/status/200", false), ("/echo", false)] {
            let input = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(recognise(input.as_bytes(), Kind::Demo), None);
            assert_eq!(recognise(input.as_bytes(), Kind::Bench).is_some(), bench, "{path}");
        }
    }

    #[test]
    fn responses_are_whole() {
        for which in Fixed::ALL {
            let one = which.responses(1);
            assert!(one.starts_with(b"HTTP/1.1 200 OK\r\n") && one.ends_with(which.body()));
            assert_eq!(which.body().len(), which.body_bytes());
        }
        assert_eq!(Fixed::Kib1.responses(3), Fixed::Kib1.responses(1).repeat(3));
    }
}
