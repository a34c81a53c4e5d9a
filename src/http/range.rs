//! `Range` (RFC 9110 section 14.2): few parts that do not overlap, or none (F56).
//!
//! An endpoint that makes a part for each range can be made to send many times what it has, and two readings of an
//! overflowing number have leaked memory elsewhere. So what is excessive or malformed does not reach it.

use smallvec::SmallVec;

use crate::error::{Failure, Reason};
use crate::limits::RANGES_MAX;

/// First and last byte of a range.
type Span = (u64, u64);

/// Looks at the value of a `Range` field. Returns whether its unit is understood here; a proxy may drop others.
///
/// # Errors
/// [`Reason::BadRange`] for more than [`RANGES_MAX`] ranges, for ranges that overlap, and for what is no range.
pub fn check(value: &[u8]) -> Result<bool, Failure> {
    let at = memchr::memchr(b'=', value).ok_or(Failure::with(Reason::BadRange, "no unit"))?;
    if !value[..at].eq_ignore_ascii_case(b"bytes") {
        return Ok(false);
    }
    let mut spans: SmallVec<[Span; RANGES_MAX]> = SmallVec::new();
    let mut suffixes = 0;
    for part in value[at + 1..].split(|&byte| byte == b',') {
        if spans.len() + suffixes == RANGES_MAX {
            return Err(Failure::with(Reason::BadRange, "too many ranges"));
        }
        match span(part.trim_ascii()).ok_or(Failure::with(Reason::BadRange, "malformed range"))? {
            Some(span) => spans.push(span),
            None => suffixes += 1,
        }
    }
    spans.sort_unstable();
    if suffixes > 1 || spans.windows(2).any(|pair| pair[1].0 <= pair[0].1) {
        return Err(Failure::with(Reason::BadRange, "overlapping ranges"));
    }
    Ok(true)
}

/// `first-last`, `first-`; nothing for `-suffix`, whose place is known only to the endpoint.
fn span(part: &[u8]) -> Option<Option<Span>> {
    let at = memchr::memchr(b'-', part)?;
    match (&part[..at], &part[at + 1..]) {
        (b"", suffix) => number(suffix).map(|_| None),
        (first, b"") => Some(Some((number(first)?, u64::MAX))),
        (first, last) => {
            let span = (number(first)?, number(last)?);
            (span.0 <= span.1).then_some(Some(span))
        }
    }
}

fn number(digits: &[u8]) -> Option<u64> {
    // 18 digits cannot overflow, and nothing is that long.
    let legal = !digits.is_empty() && digits.len() <= 18 && digits.iter().all(u8::is_ascii_digit);
    legal.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_ranges_apart_are_passed() {
        for value in ["bytes=0-0", "bytes=0-9,10-19", "Bytes=10-19, 0-9", "bytes=-5", "bytes=5-", "bytes=0-4,-5"] {
            assert_eq!(check(value.as_bytes()), Ok(true), "{value}");
        }
        assert_eq!(check(b"lines=1-2"), Ok(false));
    }

    #[test]
    fn others_are_not() {
        let many = (0..=RANGES_MAX).map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>().join(",");
        let many = format!("bytes={many}");
        for value in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=a-b",
            "bytes=1",
            "bytes=1-2-3",
            "bytes=2-1",
            "bytes=0-1,",
            "bytes=0-9,9-12",
            "bytes=5-,9-10",
            "bytes=0-,0-",
            "bytes=-1,-2",
            "bytes=0-9223372036854775808",
            "bytes=-99999999999999999999999",
            &many,
        ] {
            assert_eq!(check(value.as_bytes()).map_err(|failure| failure.reason), Err(Reason::BadRange), "{value}");
        }
    }
}
