//! What a route says of hosts and paths, and the shape that the trie is built from.

use std::fmt;

use smallvec::SmallVec;

/// Most segments that a pattern may have; a path may have more, which only prefixes and regular expressions match.
pub const SEGMENTS_MAX: usize = 256;

/// Longest host, in bytes (RFC 1035 section 2.3.4, with room for an IPv6 literal's brackets).
pub(super) const HOST_BYTES_MAX: usize = 255;

/// A host that a route serves (R8).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host, and a request without one.
    Any,
    /// This host, in lower case.
    Exact(String),
    /// One or more labels before this suffix: `example.com` stands for `*.example.com`.
    Wildcard(String),
}

impl HostPattern {
    /// Reads `*`, `example.com` or `*.example.com`.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<HostPattern, String> {
        if text == "*" {
            return Ok(HostPattern::Any);
        }
        let lower = text.to_ascii_lowercase();
        let (suffix, wildcard) = match lower.strip_prefix("*.") {
            Some(suffix) => (suffix, true),
            None => (&*lower, false),
        };
        let name = suffix.strip_suffix('.').unwrap_or(suffix).to_owned();
        check_host(&name).map_err(|what| format!("host `{text}` {what}"))?;
        Ok(if wildcard { HostPattern::Wildcard(name) } else { HostPattern::Exact(name) })
    }

    /// Whether every host that `other` takes is taken here too.
    pub(super) fn covers(&self, other: &HostPattern) -> bool {
        match (self, other) {
            (HostPattern::Any, _) => true,
            (HostPattern::Exact(mine), HostPattern::Exact(theirs)) => mine == theirs,
            (HostPattern::Wildcard(suffix), HostPattern::Exact(host)) => under(host.as_bytes(), suffix),
            (HostPattern::Wildcard(mine), HostPattern::Wildcard(theirs)) => {
                mine == theirs || under(theirs.as_bytes(), mine)
            }
            _ => false,
        }
    }

    /// Whether it takes `host` (lower case, no port, no trailing dot).
    pub(super) fn takes(&self, host: &[u8]) -> bool {
        match self {
            HostPattern::Any => true,
            HostPattern::Exact(name) => host.len() <= HOST_BYTES_MAX && name.as_bytes() == host,
            HostPattern::Wildcard(suffix) => host.len() <= HOST_BYTES_MAX && under(host, suffix),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostPattern::Any => f.write_str("*"),
            HostPattern::Exact(name) => f.write_str(name),
            HostPattern::Wildcard(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

/// The paths that a route takes. Literal parts are compared with the canonical path byte by byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PathPattern {
    /// This path and no other; `/a/` is not `/a` (R3).
    Exact(String),
    /// This path and everything below it, at a segment boundary (R2, C30): `/a` takes `/a`, `/a/` and `/a/b`, not
    /// `/ab`. With a slash at its end, `/a/` takes `/a/` and `/a/b`, not `/a`; `/` takes every path.
    Prefix(String),
    /// Everything that begins with these bytes, for imports that need it (C30).
    RawPrefix(String),
    /// Segments (R4, R6).
    Template(Vec<Segment>),
    /// A regular expression (R5) of the `regex` crate, in linear time; must match from the path's first byte, and up to
    /// its last only if it says so with `$`. Bytes, not characters: `\d` is ASCII, `.` is any byte.
    Regex(String),
}

/// One segment of a [`PathPattern::Template`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Segment {
    /// This text.
    Literal(String),
    /// `{name}`: one segment that is not empty, captured.
    Param(String),
    /// `*` before the last segment: one segment that is not empty.
    Any,
    /// `*` or `**` as the last segment: whatever follows, or nothing, as [`PathPattern::Prefix`].
    Tail,
    /// `{name...}` as the last segment: what follows the slash, perhaps nothing, captured.
    Rest(String),
}

impl PathPattern {
    /// Reads a pattern: `^...` is a regular expression, `/a/*` the prefix `/a`, a pattern with `{name}`, `{name...}`
    /// or `*` a template, and all else an exact path (R2-R6).
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn parse(text: &str) -> Result<PathPattern, String> {
        if text.starts_with('^') {
            return Ok(PathPattern::Regex(text.to_owned()));
        }
        let Some(below_root) = text.strip_prefix('/') else {
            return Err(format!("path `{text}` must begin with `/`, or with `^` for a regular expression"));
        };
        if !text.contains(['*', '{', '}']) {
            return Ok(PathPattern::Exact(text.to_owned()));
        }
        let parts: Vec<&str> = below_root.split('/').collect();
        let last = parts.len() - 1;
        let segments: Result<Vec<Segment>, String> =
            parts.iter().enumerate().map(|(at, part)| parse_segment(part, at == last)).collect();
        let segments = segments.map_err(|what| format!("path `{text}`: {what}"))?;
        Ok(plain_prefix(&segments).map_or(PathPattern::Template(segments), PathPattern::Prefix))
    }

    /// What the pattern demands, step by step; None for a regular expression.
    pub(super) fn shape(&self) -> Option<Shape<'_>> {
        match self {
            PathPattern::Exact(path) => Some(Shape { steps: literals(path), end: End::Exact }),
            PathPattern::Prefix(path) => Some(prefix_shape(path)),
            PathPattern::RawPrefix(path) => Some(raw_shape(path)),
            PathPattern::Template(segments) => Some(template_shape(segments)),
            PathPattern::Regex(_) => None,
        }
    }

    /// The named parts: place among the segments, name, and whether it takes all that follows.
    pub(super) fn params(&self) -> impl Iterator<Item = (usize, &str, bool)> {
        let segments = if let PathPattern::Template(segments) = self { &segments[..] } else { &[] };
        segments.iter().enumerate().filter_map(|(at, segment)| match segment {
            Segment::Param(name) => Some((at, &**name, false)),
            Segment::Rest(name) => Some((at, &**name, true)),
            _ => None,
        })
    }

    /// What is wrong with a pattern that was put together by hand; `parse` yields none of these.
    pub(super) fn check(&self) -> Result<(), String> {
        let begins = match self {
            PathPattern::Exact(path) | PathPattern::RawPrefix(path) => path.starts_with('/'),
            PathPattern::Prefix(path) => path.is_empty() || path.starts_with('/'),
            PathPattern::Template(segments) => {
                let open = |segment: &Segment| matches!(segment, Segment::Tail | Segment::Rest(_));
                if segments.iter().rev().skip(1).any(open) {
                    return Err(format!("path `{self}`: only the last segment may take all that follows"));
                }
                !segments.is_empty()
            }
            PathPattern::Regex(_) => true,
        };
        if !begins {
            return Err(format!("path `{self}` must begin with `/`"));
        }
        match self.shape() {
            Some(shape) if shape.steps.len() > SEGMENTS_MAX => {
                Err(format!("path has {} segments; at most {SEGMENTS_MAX}", shape.steps.len()))
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PathPattern::Exact(text) | PathPattern::Regex(text) => f.write_str(text),
            PathPattern::Prefix(text) => write!(f, "{}/*", text.strip_suffix('/').unwrap_or(text)),
            PathPattern::RawPrefix(text) => write!(f, "{text}*"),
            PathPattern::Template(segments) => segments.iter().try_for_each(|segment| match segment {
                Segment::Literal(text) => write!(f, "/{text}"),
                Segment::Param(name) => write!(f, "/{{{name}}}"),
                Segment::Any => f.write_str("/*"),
                Segment::Tail => f.write_str("/**"),
                Segment::Rest(name) => write!(f, "/{{{name}...}}"),
            }),
        }
    }
}

/// A pattern reduced to what matching and ranking need.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Shape<'a> {
    pub steps: Steps<'a>,
    pub end: End<'a>,
}

type Steps<'a> = SmallVec<[Step<'a>; 8]>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Step<'a> {
    Literal(&'a [u8]),
    /// One segment that is not empty.
    One,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum End<'a> {
    /// The path ends here.
    Exact,
    /// The next segment begins with these bytes, which are not empty.
    Raw(&'a [u8]),
    /// At least one more segment, perhaps empty.
    Below,
    /// Anything or nothing.
    Tail,
}

impl Shape<'_> {
    /// Whether it takes every path.
    pub(super) fn is_catch_all(&self) -> bool {
        self.steps.is_empty() && self.end == End::Below
    }

    /// Whether it takes `path`; by plain comparison, segment after segment.
    pub(super) fn takes(&self, path: &[u8]) -> bool {
        let Some(below_root) = path.strip_prefix(b"/") else {
            return false;
        };
        let mut segments = below_root.split(|byte| *byte == b'/');
        let steps_hold = self.steps.iter().all(|step| match (step, segments.next()) {
            (_, None) => false,
            (Step::Literal(text), Some(segment)) => *text == segment,
            (Step::One, Some(segment)) => !segment.is_empty(),
        });
        steps_hold
            && match (self.end, segments.next()) {
                (End::Exact, next) => next.is_none(),
                (End::Raw(text), next) => next.is_some_and(|segment| segment.starts_with(text)),
                (End::Below, next) => next.is_some(),
                (End::Tail, _) => true,
            }
    }

    /// Whether every path that `other` takes is taken here too.
    pub(super) fn covers(&self, other: &Shape<'_>) -> bool {
        for (at, mine) in self.steps.iter().enumerate() {
            let holds = match (mine, other.steps.get(at)) {
                (Step::Literal(mine), Some(Step::Literal(theirs))) => mine == theirs,
                (Step::One, Some(Step::Literal(theirs))) => !theirs.is_empty(),
                (Step::One, Some(Step::One)) => true,
                (Step::One, None) => at == other.steps.len() && matches!(other.end, End::Raw(_)) && self.open_after(at),
                _ => false,
            };
            if !holds {
                return false;
            }
        }
        self.steps.len() > other.steps.len() || self.end_covers(other.steps.get(self.steps.len()), other.end)
    }

    /// Whether nothing is demanded after step `at`.
    fn open_after(&self, at: usize) -> bool {
        self.steps.len() == at + 1 && self.end == End::Tail
    }

    fn end_covers(&self, next: Option<&Step<'_>>, end: End<'_>) -> bool {
        match (self.end, next) {
            (End::Tail, _) => true,
            (End::Below, Some(_)) => true,
            (End::Below, None) => matches!(end, End::Below | End::Raw(_)),
            (End::Exact, next) => next.is_none() && end == End::Exact,
            (End::Raw(mine), Some(Step::Literal(theirs))) => theirs.starts_with(mine),
            (End::Raw(mine), None) => matches!(end, End::Raw(theirs) if theirs.starts_with(mine)),
            (End::Raw(_), Some(Step::One)) => false,
        }
    }
}

fn check_host(name: &str) -> Result<(), &'static str> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:[]".contains(&byte);
    if !name.is_ascii() {
        return Err("must be in its ASCII form (xn--...)");
    }
    if name.contains('*') {
        return Err("may have `*` only as its whole first label, as in `*.example.com`");
    }
    if name.contains(':') && !(name.starts_with('[') && name.ends_with(']')) {
        return Err("must not have a port (an IPv6 address stands in brackets)");
    }
    if name.is_empty() || name.len() > HOST_BYTES_MAX || name.starts_with('.') || !name.bytes().all(allowed) {
        return Err("is not a host name");
    }
    Ok(())
}

/// Whether `host` has at least one label before `suffix`.
fn under(host: &[u8], suffix: &str) -> bool {
    host.strip_suffix(suffix.as_bytes()).is_some_and(|labels| labels.len() > 1 && labels.ends_with(b"."))
}

fn parse_segment(part: &str, last: bool) -> Result<Segment, String> {
    match part {
        "*" if !last => return Ok(Segment::Any),
        "*" | "**" if last => return Ok(Segment::Tail),
        "**" => return Err("`**` may only be the last segment".into()),
        _ => {}
    }
    let Some(inner) = part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) else {
        if part.contains(['*', '{', '}']) {
            return Err(format!("`{part}` must be a whole segment; use a regular expression (`^/...`)"));
        }
        return Ok(Segment::Literal(part.to_owned()));
    };
    let (name, rest) = match inner.strip_suffix("...") {
        Some(name) => (name, true),
        None => (inner, false),
    };
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if name.is_empty() || !name.bytes().all(word) || name.as_bytes()[0].is_ascii_digit() {
        return Err(format!(
            "`{part}` needs a name of letters, digits, `_` and `-` that begins with none of the digits"
        ));
    }
    match (rest, last) {
        (true, false) => Err(format!("`{part}` may only be the last segment")),
        (true, true) => Ok(Segment::Rest(name.to_owned())),
        (false, _) => Ok(Segment::Param(name.to_owned())),
    }
}

/// The prefix that literals and a tail amount to.
fn plain_prefix(segments: &[Segment]) -> Option<String> {
    let (Segment::Tail, before) = segments.split_last()? else {
        return None;
    };
    let mut prefix = String::new();
    for segment in before {
        let Segment::Literal(text) = segment else {
            return None;
        };
        prefix.push('/');
        prefix.push_str(text);
    }
    // `//*` is a prefix of one empty segment, which a slash at the end cannot say.
    match prefix.ends_with('/') {
        true => None,
        false if prefix.is_empty() => Some("/".into()),
        false => Some(prefix),
    }
}

fn literals(path: &str) -> Steps<'_> {
    let below_root = path.strip_prefix('/').unwrap_or(path);
    below_root.split('/').map(|segment| Step::Literal(segment.as_bytes())).collect()
}

fn prefix_shape(path: &str) -> Shape<'_> {
    match path.strip_suffix('/').unwrap_or(path) {
        "" => Shape { steps: SmallVec::new(), end: End::Below },
        before if before.len() < path.len() => Shape { steps: literals(before), end: End::Below },
        whole => Shape { steps: literals(whole), end: End::Tail },
    }
}

/// What a path must be to begin with these bytes.
pub(super) fn raw_shape(path: &str) -> Shape<'_> {
    if path.ends_with('/') {
        return prefix_shape(path);
    }
    let mut steps = literals(path);
    match steps.pop() {
        Some(Step::Literal(part)) => Shape { steps, end: End::Raw(part) },
        _ => Shape { steps, end: End::Below },
    }
}

fn template_shape(segments: &[Segment]) -> Shape<'_> {
    let mut end = End::Exact;
    let mut steps = Steps::new();
    for segment in segments {
        match segment {
            Segment::Literal(text) => steps.push(Step::Literal(text.as_bytes())),
            Segment::Param(_) | Segment::Any => steps.push(Step::One),
            Segment::Tail => end = End::Tail,
            Segment::Rest(_) => end = End::Below,
        }
    }
    if steps.is_empty() && end == End::Tail {
        end = End::Below;
    }
    Shape { steps, end }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_parse() {
        let parse = |text: &str| PathPattern::parse(text).unwrap();
        assert_eq!(parse("/api/users/*"), PathPattern::Prefix("/api/users".into()));
        assert_eq!(parse("/*"), PathPattern::Prefix("/".into()));
        assert_eq!(parse("/**"), PathPattern::Prefix("/".into()));
        assert_eq!(parse("/api/users"), PathPattern::Exact("/api/users".into()));
        assert_eq!(parse("^/api/users/(\\d+)$"), PathPattern::Regex("^/api/users/(\\d+)$".into()));
        for text in ["/a/{id}", "/a/*/b", "/a/{id}/**", "/f/{rest...}", "/a/*/b/{x}/{y...}", "//**"] {
            assert!(matches!(parse(text), PathPattern::Template(_)), "{text}");
            assert_eq!(parse(text).to_string(), text);
        }
        let bad = ["", "api", "/a/{}", "/a/{1}", "/a/{x", "/a/x{y}", "/a/*.jpg", "/**/a", "/{a...}/b", "/{a b}", "/}"];
        for text in bad {
            assert!(PathPattern::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn prefixes_end_at_segments() {
        let takes = |pattern: PathPattern, path: &str| pattern.shape().unwrap().takes(path.as_bytes());
        let prefix = |text: &str| PathPattern::Prefix(text.into());
        for path in ["/api/users", "/api/users/", "/api/users/7/x"] {
            assert!(takes(prefix("/api/users"), path), "{path}");
        }
        for path in ["/api/users2", "/api", "/", "/x/api/users"] {
            assert!(!takes(prefix("/api/users"), path), "{path}");
        }
        assert!(!takes(prefix("/api/"), "/api") && takes(prefix("/api/"), "/api/"));
        assert!(takes(prefix("/"), "/") && takes(prefix("/"), "/a/b") && takes(prefix(""), "/a"));
        let raw = |text: &str| PathPattern::RawPrefix(text.into());
        assert!(takes(raw("/api/users"), "/api/users2/x") && !takes(raw("/api/users"), "/api/user"));
        assert!(takes(raw("/api/"), "/api/") && !takes(raw("/api/"), "/api"));
    }

    #[test]
    fn hosts_parse() {
        assert_eq!(HostPattern::parse("*").unwrap(), HostPattern::Any);
        assert_eq!(HostPattern::parse("API.Example.com.").unwrap(), HostPattern::Exact("api.example.com".into()));
        assert_eq!(HostPattern::parse("*.Example.com").unwrap(), HostPattern::Wildcard("example.com".into()));
        assert!(HostPattern::parse("[::1]").is_ok());
        for text in ["", ".", "*.", "a.*.com", "**.a", "a:80", "::1", "a b", "bücher.de", ".a", "http://a"] {
            assert!(HostPattern::parse(text).is_err(), "{text}");
        }
        let wildcard = HostPattern::parse("*.a.com").unwrap();
        assert!(wildcard.takes(b"x.a.com") && wildcard.takes(b"x.y.a.com"));
        assert!(!wildcard.takes(b"a.com") && !wildcard.takes(b".a.com") && !wildcard.takes(b"xa.com"));
    }
}
