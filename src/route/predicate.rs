//! What a route may demand beyond host, path and method (R9).
//!
//! Queries and cookies are read to their end, however many pairs they have: a pair that is not seen could not make a
//! route fail. The bound is that of the request's head.

use std::fmt;

use regex::bytes::Regex;
use smallvec::SmallVec;

use super::RouteInput;
use crate::http::ipset::Network;

/// Decoded query values up to this length need no allocation before a regular expression.
const DECODED_INLINE_BYTES: usize = 128;

/// One demand. `R` is how a regular expression is given: by its text, or compiled by its place in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Predicate<R = String> {
    /// A header field, its name in lower case. Of repeated fields any one value may pass the test.
    Header {
        /// Field name, in lower case.
        name: String,
        /// What its value must be.
        test: Test<R>,
    },
    /// A query parameter; names and values are percent-decoded, with `+` as a space. Any of repeated ones may pass.
    Query {
        /// Parameter name, decoded; case matters.
        name: String,
        /// What its value must be.
        test: Test<R>,
    },
    /// A cookie (RFC 6265 section 5.4); quotes around the value are not part of it. Any of repeated ones may pass.
    Cookie {
        /// Cookie name; case matters.
        name: String,
        /// What its value must be.
        test: Test<R>,
    },
    /// The client's address is in one of these networks.
    Client(Vec<Network>),
}

/// What a value must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Test<R = String> {
    /// There is one.
    Present,
    /// There is none.
    Absent,
    /// Equal, byte by byte.
    Exact(String),
    /// Begins with this.
    Prefix(String),
    /// Has a match of this regular expression anywhere; `^` and `$` tie it to the ends. Bytes, not characters.
    Regex(R),
}

impl Predicate {
    /// The same demand with its regular expression's text replaced by what `compile` makes of it.
    pub(super) fn compile<E>(&self, mut compile: impl FnMut(&str) -> Result<u32, E>) -> Result<Predicate<u32>, E> {
        Ok(match self {
            Predicate::Header { name, test } => {
                Predicate::Header { name: name.to_ascii_lowercase(), test: test.compile(&mut compile)? }
            }
            Predicate::Query { name, test } => {
                Predicate::Query { name: name.clone(), test: test.compile(&mut compile)? }
            }
            Predicate::Cookie { name, test } => {
                Predicate::Cookie { name: name.clone(), test: test.compile(&mut compile)? }
            }
            Predicate::Client(networks) => Predicate::Client(networks.clone()),
        })
    }

    /// Whether a request that meets `other` always meets this too; false where it cannot be told.
    pub(super) fn follows_from(&self, other: &Predicate) -> bool {
        match (self, other) {
            (Predicate::Header { name: mine, test }, Predicate::Header { name, test: other }) => {
                mine.eq_ignore_ascii_case(name) && test.follows_from(other)
            }
            (Predicate::Query { name: mine, test }, Predicate::Query { name, test: other })
            | (Predicate::Cookie { name: mine, test }, Predicate::Cookie { name, test: other }) => {
                mine == name && test.follows_from(other)
            }
            (Predicate::Client(mine), Predicate::Client(theirs)) => {
                theirs.iter().all(|their| mine.iter().any(|net| net.covers(*their)))
            }
            _ => false,
        }
    }
}

impl Test {
    fn compile<E>(&self, compile: &mut impl FnMut(&str) -> Result<u32, E>) -> Result<Test<u32>, E> {
        Ok(match self {
            Test::Present => Test::Present,
            Test::Absent => Test::Absent,
            Test::Exact(text) => Test::Exact(text.clone()),
            Test::Prefix(text) => Test::Prefix(text.clone()),
            Test::Regex(text) => Test::Regex(compile(text)?),
        })
    }

    fn follows_from(&self, other: &Test) -> bool {
        match (self, other) {
            (Test::Present, other) => *other != Test::Absent,
            (Test::Prefix(mine), Test::Exact(theirs) | Test::Prefix(theirs)) => theirs.starts_with(mine),
            (mine, theirs) => mine == theirs,
        }
    }
}

impl Predicate<u32> {
    /// Whether the request meets the demand.
    pub(super) fn holds(&self, input: &impl RouteInput, regexes: &[Regex]) -> bool {
        match self {
            Predicate::Header { name, test } => test.decide(|each| {
                input.header(name.as_bytes(), &mut |value| !each(test.passes(value, regexes)));
            }),
            Predicate::Query { name, test } => test.decide(|each| {
                for pair in input.query().unwrap_or(b"").split(|byte| *byte == b'&') {
                    let (key, value) = split_pair(pair);
                    if !pair.is_empty() && Decoded(key).eq(name.bytes()) && each(test.passes_decoded(value, regexes)) {
                        return;
                    }
                }
            }),
            Predicate::Cookie { name, test } => test.decide(|each| {
                input.header(b"cookie", &mut |field| {
                    !cookies(field).any(|(key, value)| key == name.as_bytes() && each(test.passes(value, regexes)))
                });
            }),
            Predicate::Client(networks) => {
                let address = input.client_ip();
                networks.iter().any(|network| network.contains(address))
            }
        }
    }
}

impl Test<u32> {
    /// Lets `visit` report for each value that there is whether it passes; reporting returns whether that settles it.
    fn decide(&self, visit: impl FnOnce(&mut dyn FnMut(bool) -> bool)) -> bool {
        let mut settled = false;
        visit(&mut |passes| {
            settled |= passes;
            settled
        });
        settled != (*self == Test::Absent)
    }

    /// Whether a value passes; for `Absent` every value counts, and `decide` turns it around.
    fn passes(&self, value: &[u8], regexes: &[Regex]) -> bool {
        match self {
            Test::Present | Test::Absent => true,
            Test::Exact(text) => value == text.as_bytes(),
            Test::Prefix(text) => value.starts_with(text.as_bytes()),
            Test::Regex(at) => regexes.get(*at as usize).is_some_and(|regex| regex.is_match(value)),
        }
    }

    fn passes_decoded(&self, value: &[u8], regexes: &[Regex]) -> bool {
        match self {
            Test::Exact(text) => Decoded(value).eq(text.bytes()),
            Test::Prefix(text) => {
                let mut decoded = Decoded(value);
                text.bytes().all(|byte| decoded.next() == Some(byte))
            }
            Test::Regex(_) => {
                let decoded: SmallVec<[u8; DECODED_INLINE_BYTES]> = Decoded(value).collect();
                self.passes(&decoded, regexes)
            }
            Test::Present | Test::Absent => true,
        }
    }
}

impl fmt::Display for Predicate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Predicate::Header { name, test } => write!(f, "header {name} {test}"),
            Predicate::Query { name, test } => write!(f, "query {name} {test}"),
            Predicate::Cookie { name, test } => write!(f, "cookie {name} {test}"),
            Predicate::Client(networks) => {
                f.write_str("client in")?;
                networks.iter().try_for_each(|network| write!(f, " {network}"))
            }
        }
    }
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Test::Present => f.write_str("present"),
            Test::Absent => f.write_str("absent"),
            Test::Exact(text) => write!(f, "= {text:?}"),
            Test::Prefix(text) => write!(f, "begins with {text:?}"),
            Test::Regex(text) => write!(f, "matches {text:?}"),
        }
    }
}

/// Bytes with `%XX` decoded and `+` as a space; a `%` without two hex digits stands for itself.
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        if first == b'%'
            && let [high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            self.0 = after;
            return Some(high << 4 | low);
        }
        Some(if first == b'+' { b' ' } else { first })
    }
}

/// The value of a hex digit.
pub(super) fn hex(digit: u8) -> Option<u8> {
    (digit as char).to_digit(16).map(|value| value as u8)
}

/// Name and value; without `=` the value is empty.
fn split_pair(pair: &[u8]) -> (&[u8], &[u8]) {
    match memchr::memchr(b'=', pair) {
        Some(at) => (&pair[..at], &pair[at + 1..]),
        None => (pair, b""),
    }
}

/// The cookies of one field; pairs without `=` are skipped (RFC 6265 section 4.2.1).
fn cookies(field: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let pairs = field.split(|byte| *byte == b';');
    pairs.filter(|pair| pair.contains(&b'=')).map(|pair| {
        let (name, value) = split_pair(pair);
        let value = value.trim_ascii();
        let quoted = value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\""));
        (name.trim_ascii(), quoted.unwrap_or(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding() {
        let decoded = |text: &str| Decoded(text.as_bytes()).collect::<Vec<u8>>();
        assert_eq!(decoded("a%20b+c%2B%zz%4"), b"a b c+%zz%4");
        assert_eq!(decoded("%%41"), b"%A");
    }

    #[test]
    fn cookie_pairs() {
        let found: Vec<_> = cookies(b"a=1; b=\"two\";c ; d=x=y;=e").collect();
        let expected: [(&[u8], &[u8]); 4] = [(b"a", b"1"), (b"b", b"two"), (b"d", b"x=y"), (b"", b"e")];
        assert_eq!(found, expected);
    }

    #[test]
    fn implication() {
        let header = |test: Test| Predicate::Header { name: "x".into(), test };
        let exact = header(Test::Exact("abc".into()));
        assert!(header(Test::Present).follows_from(&exact));
        assert!(header(Test::Prefix("ab".into())).follows_from(&exact));
        assert!(!exact.follows_from(&header(Test::Prefix("ab".into()))));
        assert!(!header(Test::Present).follows_from(&header(Test::Absent)));
        let client = |text: &str| Predicate::Client(vec![text.parse().unwrap()]);
        assert!(client("10.0.0.0/8").follows_from(&client("10.1.0.0/16")));
        assert!(!client("10.1.0.0/16").follows_from(&client("10.0.0.0/8")));
    }
}
