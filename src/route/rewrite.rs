//! The path that goes upstream (R11, R12, C33, C34).
//!
//! Whatever goes in, what comes out begins with one slash, holds only bytes that a request target's path may hold, and
//! has no dot segments: a captured value cannot end the request line (CR, LF, NUL, space), begin a query or fragment,
//! name another authority (`//host`), or climb out of its directory. A capture that did not take part is empty.

use regex::bytes::Regex;

use super::build::compile_regex;
use super::predicate::hex;
use super::{CAPTURES_MAX, Captures};
use crate::http::path::offset_in;

/// Longest path that a rewrite may yield, in bytes.
pub const REWRITE_BYTES_MAX: usize = 32 * 1024;

/// Most rules of one rewrite map.
pub const REWRITE_RULES_MAX: usize = 256;

/// How a route changes the path.
#[derive(Clone, Debug)]
pub enum Rewrite {
    /// Removes what the route's prefix took; `/` is left of an exact path (R11).
    StripPrefix,
    /// Puts this in its place.
    ReplacePrefix(Box<[u8]>),
    /// Replaces the whole path.
    Template(Template),
    /// Replaces what a regular expression matches at the path's beginning; without a match the path stays.
    Regex(Rule),
    /// The first rule that matches; without one the path stays (R12, C34).
    Map(Box<[Rule]>),
}

/// A canonical path in its two forms, which are mostly one: what patterns see, and what is sent on (see
/// [`matched`](crate::http::path::matched)). Patterns look at the first, and what they take is taken from the second,
/// so that a rewrite neither misses `/%40a` where it means `/@a`, nor changes how the rest is spelled.
#[derive(Clone, Copy, Debug)]
pub struct Spellings<'a> {
    /// The canonical path.
    pub sent: &'a [u8],
    /// Its matched form.
    pub matched: &'a [u8],
}

impl<'a> Spellings<'a> {
    /// A path whose two forms are one.
    pub fn one(path: &'a [u8]) -> Self {
        Self { sent: path, matched: path }
    }

    /// The part of the path as it is sent that has this place in the matched form.
    fn sent(&self, matched: std::ops::Range<usize>) -> &'a [u8] {
        let place = |offset| match self.sent.len() == self.matched.len() {
            true => offset,
            false => offset_in(self.sent, offset),
        };
        self.sent.get(place(matched.start)..place(matched.end)).unwrap_or_default()
    }

    fn sent_from(&self, start: usize) -> &'a [u8] {
        self.sent(start..self.matched.len())
    }
}

/// Text with captures in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Box<[Part]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(Box<[u8]>),
    /// A capture by name, or by number if it is one.
    Capture(Box<str>),
}

/// A pattern that is tied to the path's beginning, and what goes in its place.
#[derive(Clone, Debug)]
pub struct Rule {
    pattern: Pattern,
    replacement: Template,
}

#[derive(Clone, Debug)]
enum Pattern {
    /// Whole segments, without a slash at its end.
    Prefix(Box<[u8]>),
    Regex(Regex),
}

/// Why a path cannot be rewritten. The request is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RewriteError {
    /// The result would be longer than [`REWRITE_BYTES_MAX`].
    TooLong,
    /// The result would have a segment `.` or `..`, plain or percent-encoded.
    DotSegment,
}

impl RewriteError {
    /// What is wrong, in words.
    pub const fn text(self) -> &'static str {
        match self {
            RewriteError::TooLong => "the rewritten path is too long",
            RewriteError::DotSegment => "the rewritten path has a dot segment",
        }
    }
}

impl std::fmt::Display for RewriteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.text())
    }
}

impl std::error::Error for RewriteError {}

impl Rewrite {
    /// Puts `text` in the place of the prefix.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn replace_prefix(text: &str) -> Result<Rewrite, String> {
        check_text(text)?;
        Ok(Rewrite::ReplacePrefix(text.as_bytes().into()))
    }

    /// Reads `/v2/{id}/x`: a name in braces is a capture of the route.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn template(text: &str) -> Result<Rewrite, String> {
        Ok(Rewrite::Template(Template::parse(text)?))
    }

    /// A regular expression (of bytes, tied to the path's beginning) and a replacement with `$1`, `${name}` and `$$`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn regex(pattern: &str, replacement: &str) -> Result<Rewrite, String> {
        Ok(Rewrite::Regex(Rule::regex(pattern, replacement)?))
    }

    /// Patterns and replacements: `^...` is a regular expression, `/...` a prefix of whole segments.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn map<'a>(rules: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Rewrite, String> {
        let rules: Result<Box<[Rule]>, String> =
            rules.into_iter().map(|(pattern, replacement)| Rule::parse(pattern, replacement)).collect();
        let rules = rules?;
        if rules.len() > REWRITE_RULES_MAX {
            return Err(format!("{} rewrite rules; at most {REWRITE_RULES_MAX}", rules.len()));
        }
        Ok(Rewrite::Map(rules))
    }

    /// The names that a template takes from the route's captures, so that the configuration can be checked.
    pub fn route_captures(&self) -> impl Iterator<Item = &str> {
        let template = if let Rewrite::Template(template) = self { Some(template) } else { None };
        template.into_iter().flat_map(Template::captures)
    }

    /// Writes the new path of `path` to `out`, which is cleared first. `prefix_bytes` and `captures` are those of
    /// [`RouteTable::find`](super::RouteTable::find) for this path, as places in the form that is sent.
    ///
    /// # Errors
    /// If the result may not be sent; `out` is then empty.
    pub fn apply(
        &self,
        path: Spellings<'_>,
        prefix_bytes: usize,
        captures: &Captures,
        out: &mut Vec<u8>,
    ) -> Result<(), RewriteError> {
        out.clear();
        let rest = path.sent.get(prefix_bytes..).unwrap_or(b"");
        match self {
            Rewrite::StripPrefix => join(rest, out),
            Rewrite::ReplacePrefix(text) => {
                escape(text, out);
                join(rest, out);
            }
            Rewrite::Template(template) => template.write(|name| captures.get(name, path.sent), out),
            Rewrite::Regex(rule) => {
                let _ = rule.write(path, out) || keep(path.sent, out);
            }
            Rewrite::Map(rules) => {
                let _ = rules.iter().any(|rule| rule.write(path, out)) || keep(path.sent, out);
            }
        }
        begin_with_one_slash(out);
        check(out).inspect_err(|_| out.clear())
    }
}

impl Template {
    /// Reads `/v2/{id}`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<Template, String> {
        if !text.starts_with('/') {
            return Err(format!("`{text}` must begin with `/`"));
        }
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('{') {
            let Some((name, after)) = after.split_once('}') else {
                return Err(format!("`{text}` has a `{{` without `}}`"));
            };
            push_text(&mut parts, before, text)?;
            parts.push(Part::Capture(capture_name(name, text)?));
            rest = after;
        }
        push_text(&mut parts, rest, text)?;
        Template::of(parts, text)
    }

    /// Reads `/v2/$1/${name}`; `$$` is a dollar sign.
    fn parse_dollars(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('$') {
            push_text(&mut parts, before, text)?;
            rest = if let Some(after) = after.strip_prefix('$') {
                push_text(&mut parts, "$", text)?;
                after
            } else if let Some((name, after)) = after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                parts.push(Part::Capture(capture_name(name, text)?));
                after
            } else {
                // `$1x` is group 1 and an `x`.
                let number = after.starts_with(|c: char| c.is_ascii_digit());
                let ends = |c: char| !(c.is_ascii_digit() || !number && (c.is_ascii_alphabetic() || c == '_'));
                let (name, after) = after.split_at(after.find(ends).unwrap_or(after.len()));
                parts.push(Part::Capture(capture_name(name, text)?));
                after
            };
        }
        push_text(&mut parts, rest, text)?;
        Template::of(parts, text)
    }

    fn of(parts: Vec<Part>, text: &str) -> Result<Template, String> {
        if parts.len() > 2 * CAPTURES_MAX + 1 {
            return Err(format!("`{text}` uses more than {CAPTURES_MAX} captures"));
        }
        Ok(Template { parts: parts.into() })
    }

    fn captures(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Capture(name) => Some(&**name),
            Part::Text(_) => None,
        })
    }

    fn write<'a>(&self, capture: impl Fn(&str) -> Option<&'a [u8]>, out: &mut Vec<u8>) {
        for part in &self.parts {
            match part {
                Part::Text(text) => escape(text, out),
                // Each by itself, so that half an escape cannot become a whole one by what stands next to it.
                Part::Capture(name) => escape(capture(name).unwrap_or(b""), out),
            }
        }
    }
}

impl Rule {
    /// A regular expression if the pattern begins with `^`, else a prefix of whole segments.
    fn parse(pattern: &str, replacement: &str) -> Result<Rule, String> {
        if pattern.starts_with('^') {
            return Rule::regex(pattern, replacement);
        }
        if !pattern.starts_with('/') {
            return Err(format!(
                "rewrite pattern `{pattern}` must begin with `/`, or with `^` for a regular expression"
            ));
        }
        let prefix = pattern.strip_suffix("/*").unwrap_or(pattern);
        let prefix = prefix.strip_suffix('/').unwrap_or(prefix);
        let mut parts = Vec::new();
        push_text(&mut parts, replacement, replacement)?;
        Ok(Rule { pattern: Pattern::Prefix(prefix.as_bytes().into()), replacement: Template { parts: parts.into() } })
    }

    fn regex(pattern: &str, replacement: &str) -> Result<Rule, String> {
        let regex = compile_regex(pattern)?;
        let replacement = Template::parse_dollars(replacement)?;
        for name in replacement.captures() {
            let number = name.parse().is_ok_and(|number: usize| number < regex.captures_len());
            if !number && !regex.capture_names().flatten().any(|group| group == name) {
                return Err(format!("`{pattern}` has no group `{name}`"));
            }
        }
        Ok(Rule { pattern: Pattern::Regex(regex), replacement })
    }

    /// Writes the new path if the pattern matches.
    fn write(&self, path: Spellings<'_>, out: &mut Vec<u8>) -> bool {
        match &self.pattern {
            Pattern::Prefix(prefix) => {
                let rest = path.matched.strip_prefix(&**prefix);
                if !rest.is_some_and(|rest| rest.is_empty() || rest[0] == b'/') {
                    return false;
                }
                self.replacement.write(|_| None, out);
                join(path.sent_from(prefix.len()), out);
            }
            Pattern::Regex(regex) => {
                let Some(groups) = regex.captures(path.matched) else {
                    return false;
                };
                let Some(whole) = groups.get(0).filter(|whole| whole.start() == 0) else {
                    return false;
                };
                let group = |name: &str| match name.parse() {
                    Ok(number) => groups.get(number),
                    Err(_) => groups.name(name),
                };
                self.replacement.write(|name| group(name).map(|found| path.sent(found.range())), out);
                escape(path.sent_from(whole.end()), out);
            }
        }
        true
    }
}

fn capture_name(name: &str, text: &str) -> Result<Box<str>, String> {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    match !name.is_empty() && name.bytes().all(word) {
        true => Ok(name.into()),
        false => Err(format!("`{text}` has a capture without a name of letters, digits, `_` and `-`")),
    }
}

fn push_text(parts: &mut Vec<Part>, text: &str, whole: &str) -> Result<(), String> {
    check_text(text).map_err(|what| format!("`{whole}`: {what}"))?;
    match parts.last_mut() {
        _ if text.is_empty() => {}
        Some(Part::Text(last)) => *last = [last, text.as_bytes()].concat().into(),
        _ => parts.push(Part::Text(text.as_bytes().into())),
    }
    Ok(())
}

fn check_text(text: &str) -> Result<(), String> {
    match text.bytes().find(|byte| b"?#\\".contains(byte) || byte.is_ascii_control() || *byte == b' ') {
        Some(byte) => Err(format!("a path may not hold {:?}", char::from(byte))),
        None => Ok(()),
    }
}

/// Adds `rest` with one slash where the two meet, unless `rest` goes on within a segment.
fn join(rest: &[u8], out: &mut Vec<u8>) {
    let rest = match (out.last(), rest) {
        (Some(b'/'), [b'/', after @ ..]) => after,
        _ => rest,
    };
    escape(rest, out);
}

fn keep(path: &[u8], out: &mut Vec<u8>) -> bool {
    escape(path, out);
    true
}

/// Adds `bytes`, with all that a path may not hold percent-encoded (RFC 3986 section 3.3). Stops adding when the result
/// is too long, which `check` then sees.
fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for (at, byte) in bytes.iter().enumerate() {
        if out.len() > REWRITE_BYTES_MAX {
            return;
        }
        let escaped = *byte == b'%' && is_escape(&bytes[at..]);
        if escaped || is_path_byte(*byte) {
            out.push(*byte);
        } else {
            const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
            out.extend([b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
        }
    }
}

fn is_escape(bytes: &[u8]) -> bool {
    matches!(bytes, [b'%', high, low, ..] if hex(*high).is_some() && hex(*low).is_some())
}

/// pchar without `%`, and the slash.
fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+,;=:@".contains(&byte)
}

/// `//host/` would name an authority where it is used as a reference (RFC 3986 section 4.2).
fn begin_with_one_slash(out: &mut Vec<u8>) {
    let slashes = out.iter().take_while(|byte| **byte == b'/').count();
    match slashes {
        0 => out.insert(0, b'/'),
        slashes => drop(out.drain(1..slashes)),
    }
}

fn check(path: &[u8]) -> Result<(), RewriteError> {
    if path.len() > REWRITE_BYTES_MAX {
        return Err(RewriteError::TooLong);
    }
    match path.split(|byte| *byte == b'/').any(is_dot_segment) {
        true => Err(RewriteError::DotSegment),
        false => Ok(()),
    }
}

/// `.` or `..`, of which each dot may be `%2e`.
fn is_dot_segment(mut segment: &[u8]) -> bool {
    let mut dots = 0;
    while !segment.is_empty() {
        segment = match segment {
            [b'.', rest @ ..] | [b'%', b'2', b'e' | b'E', rest @ ..] => rest,
            _ => return false,
        };
        dots += 1;
    }
    dots == 1 || dots == 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::captures::Name;
    use proptest::prelude::*;

    fn apply(rewrite: &Rewrite, path: &str, prefix_bytes: usize) -> String {
        let mut out = b"old".to_vec();
        rewrite.apply(Spellings::one(path.as_bytes()), prefix_bytes, &Captures::new(), &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn prefixes() {
        let replace = |text| Rewrite::replace_prefix(text).unwrap();
        let cases = [
            (Rewrite::StripPrefix, "/api/users/7", 4, "/users/7"),
            (Rewrite::StripPrefix, "/api", 4, "/"),
            (Rewrite::StripPrefix, "/api//evil.com/", 4, "/evil.com/"),
            (Rewrite::StripPrefix, "/api-v1x", 7, "/x"),
            (Rewrite::StripPrefix, "/a", 99, "/"),
            (replace("/v2"), "/api/users", 4, "/v2/users"),
            (replace("/v2/"), "/api/users", 4, "/v2/users"),
            (replace("/v2"), "/api", 4, "/v2"),
            (replace("/v2"), "/users", 0, "/v2/users"),
            (replace("/"), "/api/users/", 4, "/users/"),
            (replace(""), "/api/users", 4, "/users"),
            (replace("/new"), "/olders", 4, "/newers"),
        ];
        for (rewrite, path, prefix_bytes, expected) in cases {
            assert_eq!(apply(&rewrite, path, prefix_bytes), expected, "{rewrite:?} {path}");
        }
    }

    #[test]
    fn templates() {
        let template = |text| Rewrite::template(text).unwrap();
        let mut captures = Captures::new();
        captures.push(Name::new("id").unwrap(), 1, 3..5);
        let mut out = Vec::new();
        template("/v2/{id}/{1}/{missing}x").apply(Spellings::one(b"/u/42"), 5, &captures, &mut out).unwrap();
        assert_eq!(out, b"/v2/42/42/x");
        captures.clear();
        template("/v2/{id}").apply(Spellings::one(b"/u/42"), 5, &captures, &mut out).unwrap();
        assert_eq!(out, b"/v2/", "nothing of the request before");
        let error = Rewrite::template("/x/.{id}").unwrap().apply(Spellings::one(b"/u/42"), 5, &captures, &mut out);
        assert_eq!((error, out.len()), (Err(RewriteError::DotSegment), 0));
        for text in ["v2", "/a{", "/{}", "/{a b}", "/a?b=1", "/a#", "/a b", "/a\r\n"] {
            assert!(Rewrite::template(text).is_err(), "{text}");
        }
    }

    #[test]
    fn regexes_and_maps_are_tied_to_the_beginning() {
        let regex = |pattern, text| Rewrite::regex(pattern, text).unwrap();
        assert_eq!(apply(&regex("^/u/(\\d+)", "/users/$1"), "/u/7/x", 0), "/users/7/x");
        assert_eq!(apply(&regex("/u/(?<id>\\d+)$", "/x$$/${id}"), "/u/7", 0), "/x$/7");
        assert_eq!(apply(&regex("/u", "/x"), "/a/u/b", 0), "/a/u/b", "not in the middle (C34)");
        assert_eq!(apply(&regex("^/(a)?(b)?", "/$1-$2"), "/b", 0), "/-b", "a group that did not take part is empty");
        assert!(Rewrite::regex("^/(a)", "/$2").is_err() && Rewrite::regex("^/(", "/").is_err());
        let map = Rewrite::map([("/api/users", "/users"), ("^/v(\\d)/", "/$1/"), ("/api/*", "")]).unwrap();
        assert_eq!(apply(&map, "/api/users/7", 0), "/users/7");
        assert_eq!(apply(&map, "/api/users2", 0), "/users2");
        assert_eq!(apply(&map, "/v3/x", 0), "/3/x");
        assert_eq!(apply(&map, "/x/api/users", 0), "/x/api/users");
        assert!(Rewrite::map([("api", "/x")]).is_err());
    }

    #[test]
    fn escapes() {
        let strip = Rewrite::StripPrefix;
        let mut out = Vec::new();
        strip.apply(Spellings::one(b"/a/\r\n\0 ?#%zz%41\xff\""), 2, &Captures::new(), &mut out).unwrap();
        assert_eq!(out, b"/%0D%0A%00%20%3F%23%25zz%41%FF%22");
        let split = Rewrite::regex("^/(%2)(.*)", "/$1F$2").unwrap();
        assert_eq!(apply(&split, "/%2E", 0), "/%252FE", "half an escape stays half");
        let long = [b"/".as_slice(), &vec![b'a'; REWRITE_BYTES_MAX]].concat();
        assert_eq!(strip.apply(Spellings::one(&long), 0, &Captures::new(), &mut out), Err(RewriteError::TooLong));
        for path in ["/a/..", "/a/.", "/a/%2e%2E/x", "/a/.%2e"] {
            let result = strip.apply(Spellings::one(path.as_bytes()), 2, &Captures::new(), &mut out);
            assert_eq!(result, Err(RewriteError::DotSegment), "{path}");
        }
    }

    proptest! {
        #[test]
        fn always_a_path(path in prop::collection::vec(any::<u8>(), 0..40), prefix in 0usize..50, which in 0usize..5) {
            let rewrites = [
                Rewrite::StripPrefix,
                Rewrite::replace_prefix("/x").unwrap(),
                Rewrite::template("/{a}/{1}").unwrap(),
                Rewrite::regex("(.)(.*)", "$2$1").unwrap(),
                Rewrite::map([("^.", ""), ("/", "")]).unwrap(),
            ];
            let mut captures = Captures::new();
            captures.push(Name::new("a").unwrap(), 1, prefix / 2..prefix);
            let mut out = Vec::new();
            if rewrites[which].apply(Spellings::one(&path), prefix, &captures, &mut out).is_ok() {
                prop_assert!(out.starts_with(b"/") && !out.starts_with(b"//"));
                for (at, byte) in out.iter().enumerate() {
                    prop_assert!(is_path_byte(*byte) || is_escape(&out[at..]), "{:?}", out);
                }
                prop_assert!(!out.split(|byte| *byte == b'/').any(is_dot_segment));
            } else {
                prop_assert!(out.is_empty());
            }
        }
    }
}
