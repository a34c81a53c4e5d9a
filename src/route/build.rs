//! From specs to a table.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::AHashMap;
use regex::bytes::{Regex, RegexBuilder};

use super::captures::Name;
use super::hosts::Hosts;
use super::pattern::raw_shape;
use super::rank::predicate_count;
use super::table::{Demands, Fixed, Level, NONE, Param, Places, Route};
use super::trie::Builder;
use super::{BuildError, CAPTURE_NAME_BYTES_MAX, CAPTURES_MAX, HostPattern, Order, PathPattern, RouteSpec, RouteTable};

/// Most routes of one table.
pub const ROUTES_MAX: usize = 1 << 20;

/// Largest compiled form of one regular expression.
pub const REGEX_BYTES_MAX: usize = 1 << 20;

/// How much of a regular expression's literal beginning is used to find it.
const REGEX_BEGINS_BYTES_MAX: usize = 64;

impl RouteTable {
    /// Builds the table of `specs`, which stand in declared order.
    ///
    /// # Errors
    /// Everything that is wrong, at once: bad patterns, regular expressions that do not compile or grow beyond
    /// [`REGEX_BYTES_MAX`], more than [`CAPTURES_MAX`] captures, two captures of one name, too many routes.
    pub fn build(specs: Vec<RouteSpec>, order: Order) -> Result<RouteTable, Vec<BuildError>> {
        Self::build_after(None, specs.into_iter().map(Arc::new).collect(), order)
    }

    /// The same table, which shares with another one what they have in common: all of it where the specs say the
    /// same, hosts and paths where those are the same, and regular expressions of the same text.
    ///
    /// # Errors
    /// As [`build`](Self::build).
    pub fn build_after(
        before: Option<&RouteTable>,
        mut specs: Vec<Arc<RouteSpec>>,
        order: Order,
    ) -> Result<RouteTable, Vec<BuildError>> {
        for (spec, known) in specs.iter_mut().zip(before.map_or(&[][..], RouteTable::specs)) {
            if !Arc::ptr_eq(spec, known) && *spec == *known {
                *spec = known.clone();
            }
        }
        if let Some(before) = before.filter(|before| before.is_of(&specs, order)) {
            return Ok(before.clone());
        }
        let mut errors = Vec::new();
        if let Some(spec) = specs.get(ROUTES_MAX) {
            return Err(vec![BuildError { id: spec.id, what: format!("more than {ROUTES_MAX} routes") }]);
        }
        let mut regexes = Regexes::known(before);
        let mut routes = Vec::with_capacity(specs.len());
        let mut demands = Arena::default();
        for (at, spec) in specs.iter().enumerate() {
            if before.is_some_and(|before| before.is_plain(at, spec)) {
                routes.push(Route::of(spec, NONE));
                continue;
            }
            match compile(spec, &mut regexes) {
                Ok(some) => routes.push(Route::of(spec, demands.place(some))),
                Err(what) => errors.push(BuildError { id: spec.id, what }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let tried = order_of_trial(&specs, order);
        let mut trials = vec![0; specs.len()];
        tried.iter().zip(0..).for_each(|(index, trial)| trials[*index as usize] = trial);
        let places = match before.filter(|before| before.has_places_of(&specs, &trials)) {
            Some(before) => before.places.clone(),
            None => Arc::new(arrange(&specs, &tried)),
        };
        let (specs, routes, demands) = (specs.into(), routes.into(), demands.all.into());
        let fixed = Fixed { order, specs, routes, demands, trials: trials.into() };
        Ok(RouteTable { fixed: Arc::new(fixed), places, regexes: regexes.all })
    }

    /// Whether it is the table of these very specs.
    fn is_of(&self, specs: &[Arc<RouteSpec>], order: Order) -> bool {
        let mine = self.specs();
        self.fixed.order == order && mine.len() == specs.len() && mine.iter().zip(specs).all(|(a, b)| Arc::ptr_eq(a, b))
    }

    /// Whether the spec is this table's at that place, and neither captures nor demands more than a method.
    fn is_plain(&self, at: usize, spec: &Arc<RouteSpec>) -> bool {
        self.specs().get(at).is_some_and(|mine| Arc::ptr_eq(mine, spec)) && self.fixed.routes[at].demands == NONE
    }

    /// Whether routes of these specs, tried in this order, stand where those of this table do.
    fn has_places_of(&self, specs: &[Arc<RouteSpec>], trials: &[u32]) -> bool {
        let stands = |(mine, other): (&Arc<RouteSpec>, &Arc<RouteSpec>)| {
            Arc::ptr_eq(mine, other) || (mine.path == other.path && mine.hosts == other.hosts)
        };
        let in_order = |list: &[u32]| list.is_sorted_by_key(|index| trials[*index as usize]);
        self.len() == specs.len()
            && self.specs().iter().zip(specs).all(stands)
            && self.places.trie.lists().all(in_order)
            && self.places.levels.iter().all(|level| in_order(&level.catch_all))
    }
}

/// Regular expressions while a table is built.
#[derive(Default)]
struct Regexes<'t> {
    all: Vec<Regex>,
    /// Of another table, by text: to compile one takes longer than all else that is done for a route.
    known: AHashMap<&'t str, &'t Regex>,
}

impl<'t> Regexes<'t> {
    fn known(before: Option<&'t RouteTable>) -> Self {
        let known = before.map_or(&[][..], |table| &table.regexes);
        Self { all: Vec::new(), known: known.iter().map(|regex| (regex.as_str(), regex)).collect() }
    }

    /// Its place among all.
    fn add(&mut self, text: &str) -> Result<u32, String> {
        let known = self.known.get(text).map(|regex| (*regex).clone());
        self.all.push(known.map_or_else(|| compile_regex(text), Ok)?);
        Ok(self.all.len() as u32 - 1)
    }
}

/// Compiles in the one way that all of routing uses: bytes, linear time, bounded size.
pub(super) fn compile_regex(text: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).dot_matches_new_line(true).size_limit(REGEX_BYTES_MAX);
    builder.build().map_err(|error| format!("regular expression `{text}`: {error}"))
}

/// The order in which routes of one rank of path are tried.
fn order_of_trial(specs: &[Arc<RouteSpec>], order: Order) -> Vec<u32> {
    let mut tried: Vec<u32> = (0..specs.len() as u32).collect();
    if order == Order::Specificity {
        // Stable: what is equal stays in declared order.
        tried.sort_by_key(|index| {
            let spec = &specs[*index as usize];
            Reverse((spec.priority, predicate_count(spec)))
        });
    }
    tried
}

/// Sorts the routes by host and path, each place's in the order in which they are tried.
fn arrange(specs: &[Arc<RouteSpec>], tried: &[u32]) -> Places {
    let mut hosts = Hosts::new();
    let mut levels: Vec<Growing> = Vec::new();
    let mut builder = Builder::default();
    for index in tried {
        let spec = &specs[*index as usize];
        let patterns = if spec.hosts.is_empty() { &[HostPattern::Any][..] } else { &spec.hosts };
        for (at, pattern) in patterns.iter().enumerate() {
            if patterns[..at].contains(pattern) {
                continue;
            }
            let level = hosts.level(pattern, levels.len() as u32) as usize;
            if level == levels.len() {
                levels.push(Growing { root: builder.root(), regexes: None, catch_all: Vec::new() });
            }
            levels[level].add(&mut builder, &spec.path, *index);
        }
    }
    let levels = levels.into_iter().map(|level| Level {
        root: level.root,
        regexes: level.regexes,
        catch_all: level.catch_all.into(),
    });
    Places { hosts, levels: levels.collect(), trie: builder.finish() }
}

/// A [`Level`] while routes are added.
struct Growing {
    root: u32,
    regexes: Option<u32>,
    catch_all: Vec<u32>,
}

impl Growing {
    fn add(&mut self, builder: &mut Builder, path: &PathPattern, index: u32) {
        match (path.shape(), path) {
            (Some(shape), _) if shape.is_catch_all() => self.catch_all.push(index),
            (Some(shape), _) => builder.add(self.root, &shape, index),
            (None, PathPattern::Regex(text)) => {
                let root = *self.regexes.get_or_insert_with(|| builder.root());
                builder.add(root, &raw_shape(&regex_begins(text)), index);
            }
            (None, _) => {}
        }
    }
}

/// Demands, of which those that many routes share are kept once.
#[derive(Default)]
struct Arena {
    all: Vec<Demands>,
    /// Where those are that only capture.
    captures: HashMap<Box<[Param]>, u32>,
}

impl Arena {
    fn place(&mut self, demands: Demands) -> u32 {
        let next = self.all.len() as u32;
        if demands.is_empty() {
            return NONE;
        }
        if demands.regex == NONE && demands.predicates.is_empty() {
            let place = *self.captures.entry(demands.captures.clone()).or_insert(next);
            if place != next {
                return place;
            }
        }
        self.all.push(demands);
        next
    }
}

fn compile(spec: &RouteSpec, regexes: &mut Regexes<'_>) -> Result<Demands, String> {
    let before = regexes.all.len();
    let mut compile_one = |text: &str| regexes.add(text);
    spec.path.check()?;
    let regex = match &spec.path {
        PathPattern::Regex(text) => compile_one(text)?,
        _ => NONE,
    };
    let predicates: Result<Box<[_]>, String> =
        spec.predicates.iter().map(|predicate| predicate.compile(&mut compile_one)).collect();
    let captures = match &spec.path {
        PathPattern::Regex(_) => group_params(&regexes.all[before])?,
        path => checked(path.params())?,
    };
    Ok(Demands { regex, predicates: predicates?, captures })
}

fn group_params(regex: &Regex) -> Result<Box<[Param]>, String> {
    checked(regex.capture_names().enumerate().skip(1).map(|(group, name)| (group, name.unwrap_or(""), false)))
}

fn checked<'a>(params: impl Iterator<Item = (usize, &'a str, bool)>) -> Result<Box<[Param]>, String> {
    let mut seen = HashSet::new();
    let mut out = Vec::new();
    for (place, text, rest) in params {
        let Some(name) = Name::new(text) else {
            return Err(format!("capture `{text}` has a name of more than {CAPTURE_NAME_BYTES_MAX} bytes"));
        };
        if !text.is_empty() && !seen.insert(text) {
            return Err(format!("two captures are called `{text}`"));
        }
        if out.len() == CAPTURES_MAX {
            return Err(format!("more than {CAPTURES_MAX} captures"));
        }
        out.push(Param { place: u16::try_from(place).unwrap_or(u16::MAX), rest, name });
    }
    Ok(out.into())
}

/// The literal text that the regular expression begins with, as far as it is plain to see.
pub(super) fn regex_begins(text: &str) -> String {
    let mut begins = String::new();
    if text.contains('|') {
        return begins;
    }
    let mut bytes = text.strip_prefix('^').unwrap_or(text).bytes().peekable();
    while begins.len() < REGEX_BEGINS_BYTES_MAX
        && let Some(byte) = bytes.next()
    {
        match byte {
            // `\<` and `\>` are word boundaries.
            b'\\' if bytes.peek().is_some_and(|next| next.is_ascii_punctuation() && !b"<>".contains(next)) => {
                begins.extend(bytes.next().map(char::from));
            }
            b'/' | b'-' | b'_' | b'~' | b'%' | b'=' | b':' | b'@' | b',' => begins.push(byte.into()),
            byte if byte.is_ascii_alphanumeric() => begins.push(byte.into()),
            // What may be repeated no times is not certain to be there.
            b'*' | b'?' | b'{' => {
                begins.pop();
                break;
            }
            _ => break,
        }
    }
    // At the bound the last byte's repetition has not been seen.
    begins.truncate(REGEX_BEGINS_BYTES_MAX - 1);
    begins
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{RouteId, SEGMENTS_MAX};

    #[test]
    fn build_reports_everything() {
        let path = |id, path| RouteSpec::new(RouteId(id), path);
        let parsed = |id, text: &str| path(id, PathPattern::parse(text).unwrap());
        let long = format!("/{}", "a/".repeat(SEGMENTS_MAX));
        let groups = format!("^/{}", "(a)".repeat(CAPTURES_MAX + 1));
        let specs = vec![
            path(0, PathPattern::Exact("a".into())),
            path(1, PathPattern::Regex("^/(".into())),
            path(2, PathPattern::Exact(long)),
            path(3, PathPattern::Regex(groups)),
            parsed(4, "/{a}/{a}"),
            parsed(5, "/fine"),
            path(6, PathPattern::Regex("^/(\\d{1000}){1000}".into())),
            parsed(7, &format!("/{{{}}}", "n".repeat(CAPTURE_NAME_BYTES_MAX + 1))),
        ];
        let errors = RouteTable::build(specs, Order::Specificity).unwrap_err();
        assert_eq!(errors.iter().map(|error| error.id.0).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 6, 7]);
    }

    #[test]
    fn what_a_regex_begins_with() {
        let cases = [
            ("^/api/users$", "/api/users"),
            ("^/a\\.b?", "/a."),
            ("/ab*c", "/a"),
            ("^/a|/b", ""),
            ("^/a(?:b)?", "/a"),
            ("^/a\\<b", "/a"),
            ("(?i)^/a", ""),
            ("^/a\\d", "/a"),
            ("^/ab+", "/ab"),
            ("^/ab{2}", "/a"),
        ];
        for (text, expected) in cases {
            assert_eq!(regex_begins(text), expected, "{text}");
        }
        let optional_at_the_bound = format!("^/{}b?", "a".repeat(REGEX_BEGINS_BYTES_MAX - 2));
        assert!(!regex_begins(&optional_at_the_bound).contains('b'));
    }
}
