//! What an OCSP response says of a certificate (RFC 6960), as far as it decides whether the response is worth stapling:
//! a client that asks for a staple and gets an old or a bad one is worse off than without.
//!
//! Signatures are the client's business; a response that is not the authority's convinces nobody.

use x509_parser::asn1_rs::{FromDer as _, GeneralizedTime};

/// How long a response without an end of its own is stapled, in seconds from its beginning.
const OPEN_LIFE_S: i64 = 86_400;

/// When a response is worth stapling, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// From this time on.
    pub from_s: i64,
    /// Before this time.
    pub until_s: i64,
}

impl Window {
    /// For a response that is never worth it.
    pub const NEVER: Self = Self { from_s: 0, until_s: 0 };

    /// Whether it is now.
    pub fn is_open(&self, now_s: i64) -> bool {
        (self.from_s..self.until_s).contains(&now_s)
    }
}

const ENUMERATED: u8 = 0x0a;
const INTEGER: u8 = 0x02;
const OCTET_STRING: u8 = 0x04;
const SEQUENCE: u8 = 0x30;
const GENERALIZED_TIME: u8 = 0x18;
/// `[0] EXPLICIT`.
const FIRST: u8 = 0xa0;
/// `good [0] IMPLICIT NULL`.
const GOOD: u8 = 0x80;

/// When this response may be stapled to the certificate with this serial number.
///
/// # Errors
/// Why never, in words for the user.
pub fn window(response: &[u8], serial: &[u8]) -> Result<Window, String> {
    let broken = || "the OCSP response cannot be read".to_owned();
    let mut outer = Reader(response).enter(SEQUENCE).ok_or_else(broken)?;
    match outer.enter(ENUMERATED).ok_or_else(broken)?.0 {
        [0] => {}
        _ => return Err("the OCSP response is a refusal of the responder".to_owned()),
    }
    let mut bytes = outer.enter(FIRST).and_then(|mut one| one.enter(SEQUENCE)).ok_or_else(broken)?;
    bytes.next().ok_or_else(broken)?;
    let basic = bytes.enter(OCTET_STRING).and_then(|mut basic| basic.enter(SEQUENCE));
    let mut data = basic.and_then(|mut basic| basic.enter(SEQUENCE)).ok_or_else(broken)?;
    // The version may be left out; the responder's name and the date of the whole are of no use here.
    let mut skipped = data.next().ok_or_else(broken)?;
    if skipped.0 == FIRST {
        skipped = data.next().ok_or_else(broken)?;
    }
    let _ = skipped;
    data.enter(GENERALIZED_TIME).ok_or_else(broken)?;
    let mut answers = data.enter(SEQUENCE).ok_or_else(broken)?;
    while !answers.0.is_empty() {
        let mut answer = answers.enter(SEQUENCE).ok_or_else(broken)?;
        let mut about = answer.enter(SEQUENCE).ok_or_else(broken)?;
        for _ in 0..3 {
            about.next().ok_or_else(broken)?;
        }
        if number(about.enter(INTEGER).ok_or_else(broken)?.0) == number(serial) {
            return of_answer(answer).ok_or_else(broken)?;
        }
    }
    Err("the OCSP response is about another certificate".to_owned())
}

/// None where it cannot be read.
fn of_answer(mut answer: Reader<'_>) -> Option<Result<Window, String>> {
    let (status, _) = answer.next()?;
    if status != GOOD {
        return Some(Err("the OCSP response says that the certificate is revoked or unknown".to_owned()));
    }
    let from_s = time(&mut answer)?;
    let until_s = match answer.peek() {
        Some(FIRST) => time(&mut answer.enter(FIRST)?)?,
        _ => from_s.saturating_add(OPEN_LIFE_S),
    };
    Some(Ok(Window { from_s, until_s }))
}

fn time(reader: &mut Reader<'_>) -> Option<i64> {
    let whole = reader.0;
    reader.enter(GENERALIZED_TIME)?;
    let (_, time) = GeneralizedTime::from_der(whole).ok()?;
    Some(time.utc_datetime().ok()?.unix_timestamp())
}

/// A number without the zeros before it.
fn number(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros..]
}

/// Reads DER, one element after another.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    /// The next element: its tag and what is in it. Lengths of more than four bytes are nobody's.
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
                (bytes.iter().fold(0, |sum, byte| (sum << 8) | usize::from(*byte)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }

    /// The content of the next element, which must have this tag.
    fn enter(&mut self, tag: u8) -> Option<Self> {
        let (found, content) = self.next()?;
        (found == tag).then_some(Self(content))
    }
}

/// A response for tests: `status` is the tag of the answer's status.
#[cfg(test)]
pub(super) fn made(result: u8, serial: &[u8], status: u8, from: &str, until: Option<&str>) -> Vec<u8> {
    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut out = vec![tag];
        match content.len() {
            short @ 0..=127 => out.push(short as u8),
            long => out.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        out.extend(content);
        out
    }
    let time = |text: &str| tlv(GENERALIZED_TIME, &[text.as_bytes()]);
    let algorithm = tlv(SEQUENCE, &[&[0x06, 5, 0x2b, 0x0e, 3, 2, 0x1a]]);
    let hash = tlv(OCTET_STRING, &[&[7; 20]]);
    let about = tlv(SEQUENCE, &[&algorithm, &hash, &hash, &tlv(INTEGER, &[serial])]);
    let until = until.map(|text| tlv(FIRST, &[&time(text)])).unwrap_or_default();
    let content = if status == 0xa1 { time("20210101000000Z") } else { Vec::new() };
    let answer = tlv(SEQUENCE, &[&about, &tlv(status, &[&content]), &time(from), &until]);
    let responder = tlv(0xa2, &[&hash]);
    let data = tlv(SEQUENCE, &[&responder, &time("20260101000000Z"), &tlv(SEQUENCE, &[&answer])]);
    let basic = tlv(SEQUENCE, &[&data, &algorithm, &tlv(0x03, &[&[0; 200]])]);
    let bytes = tlv(SEQUENCE, &[&[0x06, 1, 1], &tlv(OCTET_STRING, &[&basic])]);
    tlv(SEQUENCE, &[&tlv(ENUMERATED, &[&[result]]), &tlv(FIRST, &[&bytes])])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-01-01 and 2026-01-08.
    const FROM_S: i64 = 1_767_225_600;
    const WEEK_S: i64 = 7 * 86_400;

    #[test]
    fn good_responses_are_stapled_from_their_beginning_to_their_end() {
        let good = made(0, &[0, 0x99, 1], GOOD, "20260101000000Z", Some("20260108000000Z"));
        let found = window(&good, &[0x99, 1]).expect("good");
        assert_eq!(found, Window { from_s: FROM_S, until_s: FROM_S + WEEK_S });
        for (at, open) in [(-1, false), (0, true), (WEEK_S - 1, true), (WEEK_S, false)] {
            assert_eq!(found.is_open(FROM_S + at), open, "{at}");
        }
        let endless = made(0, &[5], GOOD, "20260101000000Z", None);
        assert_eq!(window(&endless, &[5]).map(|found| found.until_s), Ok(FROM_S + OPEN_LIFE_S));
        assert!(!Window::NEVER.is_open(0));
    }

    /// F85: revoked and unknown are final, and so is another one's answer.
    #[test]
    fn bad_responses_are_never_stapled() {
        let week = Some("20260108000000Z");
        for (what, response) in [
            ("revoked", made(0, &[5], 0xa1, "20260101000000Z", week)),
            ("unknown", made(0, &[5], 0x82, "20260101000000Z", week)),
            ("another", made(0, &[6], GOOD, "20260101000000Z", week)),
            ("tryLater", made(3, &[5], GOOD, "20260101000000Z", week)),
            ("no date", made(0, &[5], GOOD, "yesterday", week)),
        ] {
            assert!(window(&response, &[5]).is_err(), "{what}");
        }
    }

    #[test]
    fn no_bytes_do_harm() {
        let good = made(0, &[5], GOOD, "20260101000000Z", Some("20260108000000Z"));
        for at in 0..good.len() {
            assert!(window(&good[..at], &[5]).is_err(), "cut at {at}");
            for value in [0, 0x30, 0x80, 0x84, 0xff] {
                let mut changed = good.clone();
                changed[at] = value;
                // Whatever it says, it says it.
                let _ = window(&changed, &[5]);
            }
        }
    }
}
