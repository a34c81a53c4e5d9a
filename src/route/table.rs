//! The table of routes: built once, then only read.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;

use regex::bytes::{Regex, RegexBuilder};

use super::captures::Name;
use super::hosts::Hosts;
use super::method::RequestMethod;
use super::rank::predicate_count;
use super::trie::{Builder, Place, Trie};
use super::{
    BuildError, CAPTURE_NAME_BYTES_MAX, CAPTURES_MAX, Captures, HostPattern, MethodSet, Order, PathPattern, Predicate,
    RouteId, RouteInput, RouteSpec,
};

/// Most routes of one table.
pub const ROUTES_MAX: usize = 1 << 20;

/// Longest path that can match; a longer one misses.
pub const PATH_BYTES_MAX: usize = 1 << 20;

/// Largest compiled form of one regular expression.
pub const REGEX_BYTES_MAX: usize = 1 << 20;

const NONE: u32 = u32::MAX;

/// All routes of a gateway or a listener.
///
/// Clones share the trie and the specs, but each has regular expressions of its own, whose scratch space is then not
/// contended: one clone per worker.
#[derive(Clone, Debug)]
pub struct RouteTable {
    pub(super) fixed: Arc<Fixed>,
    pub(super) regexes: Vec<Regex>,
}

/// What all clones of a table share.
#[derive(Debug)]
pub(super) struct Fixed {
    pub order: Order,
    /// In declared order.
    pub specs: Box<[RouteSpec]>,
    /// As `specs`.
    pub routes: Box<[Route]>,
    pub demands: Box<[Demands]>,
    hosts: Hosts,
    levels: Box<[Level]>,
    trie: Trie,
}

/// A spec in the form that `find` reads; small, so that many fit the cache.
#[derive(Debug)]
pub(super) struct Route {
    id: RouteId,
    /// What it demands or captures beyond host, plain path and method: an index into `demands`, or `NONE`.
    pub demands: u32,
    methods: MethodSet,
}

/// What not every route has.
#[derive(Debug)]
pub(super) struct Demands {
    /// The path's regular expression, or `NONE`.
    regex: u32,
    pub predicates: Box<[Predicate<u32>]>,
    captures: Box<[Param]>,
    /// What every path that the regular expression matches begins with.
    regex_begins: Box<[u8]>,
}

/// A part of the path to hand out: a segment, or all that follows from it, or a group of the regular expression.
#[derive(Clone, Copy, Debug)]
struct Param {
    place: u16,
    rest: bool,
    name: Name,
}

/// The routes of one host pattern. Lists hold indices, in the order in which they are tried.
#[derive(Debug)]
struct Level {
    root: u32,
    regexes: Box<[u32]>,
    catch_all: Box<[u32]>,
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Which route.
    pub route: RouteId,
    /// Its place in declared order, from 0.
    pub declared: u32,
    /// How many bytes of the path the pattern's fixed part took: a prefix without a slash at its end, what a regular
    /// expression matched, the whole path for an exact path. This is what strip and replace work on (R11).
    pub prefix_bytes: usize,
}

/// No route takes a request (R21).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The methods with which some route would have taken it: the Allow field of a 405 (RFC 9110 section 15.5.6).
    /// None if no method would help: a 404.
    pub allow: Option<MethodSet>,
}

/// How much memory a table takes, in bytes, without compiled regular expressions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Trie, hosts and routes: what `find` reads.
    pub find_bytes: usize,
    /// The specs, which only `explain` and `lint` read.
    pub spec_bytes: usize,
}

impl RouteTable {
    /// Builds the table of `specs`, which stand in declared order.
    ///
    /// # Errors
    /// Everything that is wrong, at once: bad patterns, regular expressions that do not compile or grow beyond
    /// [`REGEX_BYTES_MAX`], more than [`CAPTURES_MAX`] captures, two captures of one name, too many routes.
    pub fn build(specs: Vec<RouteSpec>, order: Order) -> Result<RouteTable, Vec<BuildError>> {
        let mut errors = Vec::new();
        if let Some(spec) = specs.get(ROUTES_MAX) {
            return Err(vec![BuildError { id: spec.id, what: format!("more than {ROUTES_MAX} routes") }]);
        }
        let mut regexes = Vec::new();
        let mut routes = Vec::with_capacity(specs.len());
        let mut demands = Vec::new();
        for spec in &specs {
            match compile(spec, &mut regexes) {
                Ok(some) if some.is_empty() => routes.push(Route::of(spec, NONE)),
                Ok(some) => {
                    routes.push(Route::of(spec, demands.len() as u32));
                    demands.push(some);
                }
                Err(what) => errors.push(BuildError { id: spec.id, what }),
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        let (hosts, levels, trie) = arrange(&specs, order);
        let (specs, routes, demands) = (specs.into(), routes.into(), demands.into());
        let fixed = Fixed { order, specs, routes, demands, hosts, levels, trie };
        Ok(RouteTable { fixed: Arc::new(fixed), regexes })
    }

    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.fixed.specs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fixed.specs.is_empty()
    }

    /// The specs, in declared order.
    pub fn specs(&self) -> &[RouteSpec] {
        &self.fixed.specs
    }

    /// The route that takes the request, by the table's order. `captures` is cleared and then filled with the named
    /// parts of the path; it stays empty on a miss.
    ///
    /// Allocates nothing on a hit, unless the pattern is a regular expression with groups or the captures grow beyond
    /// their inline space.
    ///
    /// # Errors
    /// A [`Miss`] if there is none.
    pub fn find(&self, input: &impl RouteInput, captures: &mut Captures) -> Result<Hit, Miss> {
        captures.clear();
        let mut seeker = Seeker::new(self, input);
        match self.fixed.order {
            Order::Specificity => self.candidates(input, |place| seeker.first(place)),
            Order::Strict => self.candidates(input, |place| seeker.least(place)),
        };
        match seeker.best {
            Some((declared, prefix_bytes)) => Ok(self.hit(declared, prefix_bytes, input.path(), captures)),
            None if seeker.method_missed => Err(Miss { allow: self.allow(input) }),
            None => Err(Miss { allow: None }),
        }
    }

    /// How much memory the table takes.
    pub fn footprint(&self) -> Footprint {
        let fixed = &*self.fixed;
        let lists: usize = fixed.levels.iter().map(|level| (level.regexes.len() + level.catch_all.len()) * 4).sum();
        let demands: usize = fixed.demands.iter().map(Demands::bytes).sum();
        let routes = size_of_val(&*fixed.routes) + demands;
        Footprint {
            find_bytes: fixed.trie.bytes() + fixed.hosts.bytes() + size_of_val(&*fixed.levels) + lists + routes,
            spec_bytes: fixed.specs.iter().map(spec_bytes).sum(),
        }
    }

    /// Calls `visit` with every place whose host and path take the request (for regular expressions: whose host does),
    /// the most specific first, until it breaks.
    #[inline]
    fn candidates<'t>(&'t self, input: &impl RouteInput, mut visit: impl FnMut(Place<'t>) -> ControlFlow<()>) {
        let fixed = &*self.fixed;
        let path = input.path();
        if path.first() != Some(&b'/') || path.len() > PATH_BYTES_MAX {
            return;
        }
        let _ = fixed.hosts.visit(without_dot(input.host()), |level| {
            let level = &fixed.levels[level as usize];
            fixed.trie.walk(level.root, path, &mut visit)?;
            visit(Place { routes: &level.regexes, prefix_bytes: 0 })?;
            visit(Place { routes: &level.catch_all, prefix_bytes: 0 })
        });
    }

    fn hit(&self, declared: u32, prefix_bytes: usize, path: &[u8], captures: &mut Captures) -> Hit {
        let route = &self.fixed.routes[declared as usize];
        let mut hit = Hit { route: route.id, declared, prefix_bytes };
        if let Some(demands) = self.fixed.demands.get(route.demands as usize) {
            match self.regexes.get(demands.regex as usize) {
                Some(regex) => hit.prefix_bytes = capture_groups(regex, &demands.captures, path, captures),
                None => capture_segments(&demands.captures, path, captures),
            }
        }
        hit
    }

    /// The methods of the routes that would take the request but for its method.
    #[cold]
    fn allow(&self, input: &impl RouteInput) -> Option<MethodSet> {
        let seeker = Seeker::new(self, input);
        let mut allow = MethodSet::any();
        self.candidates(input, |place| {
            for index in place.routes {
                let route = &self.fixed.routes[*index as usize];
                if seeker.demands_hold(route) {
                    allow.extend(&route.methods);
                }
            }
            ControlFlow::Continue(())
        });
        (!allow.is_any()).then_some(allow)
    }
}

/// One search for a request's route.
struct Seeker<'t, I> {
    table: &'t RouteTable,
    input: &'t I,
    method: RequestMethod<'t>,
    /// Some route was passed over for its method; whether the rest of it holds is not known.
    method_missed: bool,
    /// The best route so far, and the prefix that it took.
    best: Option<(u32, usize)>,
}

impl<'t, I: RouteInput> Seeker<'t, I> {
    #[inline]
    fn new(table: &'t RouteTable, input: &'t I) -> Seeker<'t, I> {
        Seeker { table, input, method: RequestMethod::of(input.method()), method_missed: false, best: None }
    }

    /// Takes the first route that holds.
    #[inline]
    fn first(&mut self, place: Place<'_>) -> ControlFlow<()> {
        for index in place.routes {
            if self.holds(*index) {
                self.best = Some((*index, place.prefix_bytes));
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }

    /// Takes the route that was declared first; the places' lists are in declared order.
    fn least(&mut self, place: Place<'_>) -> ControlFlow<()> {
        for index in place.routes {
            if self.best.is_some_and(|(best, _)| best <= *index) {
                break;
            }
            if self.holds(*index) {
                self.best = Some((*index, place.prefix_bytes));
            }
        }
        ControlFlow::Continue(())
    }

    /// Whether a route that stands at a fitting place takes the request.
    #[inline]
    fn holds(&mut self, index: u32) -> bool {
        let route = &self.table.fixed.routes[index as usize];
        if !route.methods.takes(self.method) {
            self.method_missed = true;
            return false;
        }
        self.demands_hold(route)
    }

    #[inline]
    fn demands_hold(&self, route: &Route) -> bool {
        route.demands == NONE || {
            let demands = &self.table.fixed.demands[route.demands as usize];
            self.table.regex_holds(demands, self.input.path())
                && demands.predicates.iter().all(|predicate| predicate.holds(self.input, &self.table.regexes))
        }
    }
}

impl RouteTable {
    /// Whether the path's regular expression, if there is one, matches from the first byte.
    pub(super) fn regex_holds(&self, demands: &Demands, path: &[u8]) -> bool {
        match self.regexes.get(demands.regex as usize) {
            Some(regex) => path.starts_with(&demands.regex_begins) && match_bytes(regex, path).is_some(),
            None => true,
        }
    }
}

impl Route {
    fn of(spec: &RouteSpec, demands: u32) -> Route {
        Route { id: spec.id, demands, methods: spec.methods.clone() }
    }
}

impl Demands {
    fn is_empty(&self) -> bool {
        self.regex == NONE && self.predicates.is_empty() && self.captures.is_empty()
    }

    fn bytes(&self) -> usize {
        size_of::<Demands>() + size_of_val(&*self.predicates) + size_of_val(&*self.captures) + self.regex_begins.len()
    }
}

/// A host without the trailing dot of its absolute form.
pub(super) fn without_dot(host: &[u8]) -> &[u8] {
    host.strip_suffix(b".").unwrap_or(host)
}

/// Compiles in the one way that all of routing uses: bytes, linear time, bounded size.
pub(super) fn compile_regex(text: &str) -> Result<Regex, String> {
    let mut builder = RegexBuilder::new(text);
    builder.unicode(false).dot_matches_new_line(true).size_limit(REGEX_BYTES_MAX);
    builder.build().map_err(|error| format!("regular expression `{text}`: {error}"))
}

/// How much of `path` the match takes that begins at its first byte, if there is one. The leftmost match is looked at,
/// so one that begins later means that none begins there.
pub(super) fn match_bytes(regex: &Regex, path: &[u8]) -> Option<usize> {
    regex.find(path).filter(|found| found.start() == 0).map(|found| found.end())
}

fn compile(spec: &RouteSpec, regexes: &mut Vec<Regex>) -> Result<Demands, String> {
    let before = regexes.len();
    let mut compile_one = |text: &str| {
        regexes.push(compile_regex(text)?);
        Ok::<u32, String>(regexes.len() as u32 - 1)
    };
    spec.path.check()?;
    let regex = match &spec.path {
        PathPattern::Regex(text) => compile_one(text)?,
        _ => NONE,
    };
    let predicates: Result<Box<[_]>, String> =
        spec.predicates.iter().map(|predicate| predicate.compile(&mut compile_one)).collect();
    let captures = match &spec.path {
        PathPattern::Regex(_) => group_params(&regexes[before])?,
        path => checked(path.params())?,
    };
    let regex_begins = match &spec.path {
        PathPattern::Regex(text) => regex_begins(text).into(),
        _ => Box::default(),
    };
    Ok(Demands { regex, predicates: predicates?, captures, regex_begins })
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
pub(super) fn regex_begins(text: &str) -> Vec<u8> {
    let mut begins = Vec::new();
    if text.contains('|') {
        return begins;
    }
    let mut bytes = text.strip_prefix('^').unwrap_or(text).bytes().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            // `\<` and `\>` are word boundaries.
            b'\\' if bytes.peek().is_some_and(|next| next.is_ascii_punctuation() && !b"<>".contains(next)) => {
                begins.extend(bytes.next());
            }
            b'/' | b'-' | b'_' | b'~' | b'%' | b'=' | b':' | b'@' | b',' => begins.push(byte),
            byte if byte.is_ascii_alphanumeric() => begins.push(byte),
            // What may be repeated no times is not certain to be there.
            b'*' | b'?' | b'{' => {
                begins.pop();
                break;
            }
            _ => break,
        }
    }
    begins
}

/// Sorts the routes by host and path, each place's in the order in which they are tried.
fn arrange(specs: &[RouteSpec], order: Order) -> (Hosts, Box<[Level]>, Trie) {
    let mut tried: Vec<u32> = (0..specs.len() as u32).collect();
    if order == Order::Specificity {
        // Stable: what is equal stays in declared order.
        tried.sort_by_key(|index| {
            let spec = &specs[*index as usize];
            std::cmp::Reverse((spec.priority, predicate_count(spec)))
        });
    }
    let mut hosts = Hosts::new();
    let mut levels: Vec<(u32, Vec<u32>, Vec<u32>)> = Vec::new();
    let mut builder = Builder::default();
    for index in tried {
        let spec = &specs[index as usize];
        let patterns = if spec.hosts.is_empty() { &[HostPattern::Any][..] } else { &spec.hosts };
        for (at, pattern) in patterns.iter().enumerate() {
            if patterns[..at].contains(pattern) {
                continue;
            }
            let level = hosts.level(pattern, levels.len() as u32) as usize;
            if level == levels.len() {
                levels.push((builder.root(), Vec::new(), Vec::new()));
            }
            let (root, regexes, catch_all) = &mut levels[level];
            match spec.path.shape() {
                None => regexes.push(index),
                Some(shape) if shape.is_catch_all() => catch_all.push(index),
                Some(shape) => builder.add(*root, &shape, index),
            }
        }
    }
    let levels = levels.into_iter().map(|(root, regexes, catch_all)| Level {
        root,
        regexes: regexes.into(),
        catch_all: catch_all.into(),
    });
    (hosts, levels.collect(), builder.finish())
}

fn capture_segments(params: &[Param], path: &[u8], captures: &mut Captures) {
    let mut at = 1;
    let mut place = 0;
    for (number, param) in params.iter().enumerate() {
        while place < param.place {
            at += memchr::memchr(b'/', path.get(at..).unwrap_or(b"")).map_or(path.len(), |length| length + 1);
            place += 1;
        }
        let below = path.get(at..).unwrap_or(b"");
        let length = if param.rest { None } else { memchr::memchr(b'/', below) };
        let end = length.map_or(path.len(), |length| at + length);
        captures.push(param.name, number as u8 + 1, at.min(end)..end);
    }
}

/// Captures the groups that took part, and returns how much of the path the expression took.
fn capture_groups(regex: &Regex, params: &[Param], path: &[u8], captures: &mut Captures) -> usize {
    if params.is_empty() {
        return match_bytes(regex, path).unwrap_or(0);
    }
    let mut groups = regex.capture_locations();
    let Some(whole) = regex.captures_read(&mut groups, path) else {
        return 0;
    };
    for param in params {
        if let Some((start, end)) = groups.get(usize::from(param.place)) {
            captures.push(param.name, param.place as u8, start..end);
        }
    }
    whole.end()
}

/// About how many bytes a spec takes.
fn spec_bytes(spec: &RouteSpec) -> usize {
    let path = match &spec.path {
        PathPattern::Exact(text)
        | PathPattern::Prefix(text)
        | PathPattern::RawPrefix(text)
        | PathPattern::Regex(text) => text.capacity(),
        PathPattern::Template(segments) => segments.capacity() * (size_of::<super::Segment>() + 8),
    };
    let hosts = spec.hosts.capacity() * (size_of::<HostPattern>() + 16);
    size_of::<RouteSpec>() + path + hosts + spec.predicates.capacity() * (size_of::<Predicate>() + 16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{Cidr, Test};
    use std::net::IpAddr;

    struct Request<'a> {
        method: &'a str,
        host: &'a str,
        path: &'a str,
        query: Option<&'a str>,
        headers: &'a [(&'a str, &'a str)],
    }

    impl RouteInput for Request<'_> {
        fn method(&self) -> &[u8] {
            self.method.as_bytes()
        }
        fn host(&self) -> &[u8] {
            self.host.as_bytes()
        }
        fn path(&self) -> &[u8] {
            self.path.as_bytes()
        }
        fn query(&self) -> Option<&[u8]> {
            self.query.map(str::as_bytes)
        }
        fn header<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8]) -> bool) {
            let mut values = self.headers.iter().filter(|(key, _)| key.as_bytes() == name);
            let _ = values.all(|(_, value)| each(value.as_bytes()));
        }
        fn client_ip(&self) -> IpAddr {
            IpAddr::from([10, 0, 0, 1])
        }
    }

    fn get(path: &str) -> Request<'_> {
        Request { method: "GET", host: "", path, query: None, headers: &[] }
    }

    fn spec(id: u32, path: &str) -> RouteSpec {
        RouteSpec::new(RouteId(id), PathPattern::parse(path).unwrap())
    }

    fn table(specs: Vec<RouteSpec>) -> RouteTable {
        RouteTable::build(specs, Order::Specificity).unwrap()
    }

    fn winner(table: &RouteTable, request: &Request<'_>) -> Option<u32> {
        table.find(request, &mut Captures::new()).ok().map(|hit| hit.route.0)
    }

    #[test]
    fn most_specific_path_wins() {
        let patterns = ["/*", "^/u/.*", "/u/*", "/u/{id}", "/u/me", "/u/{id}/x", "/u/me/y"];
        let table = table(patterns.iter().zip(0..).map(|(path, id)| spec(id, path)).collect());
        let expected = [
            ("/", 0),
            ("/u", 2),
            ("/u/", 2),
            ("/u/7", 3),
            ("/u/me", 4),
            ("/u/me/x", 5),
            ("/u/me/y", 6),
            ("/u/me/z", 2),
            ("/user", 0),
        ];
        for (path, id) in expected {
            assert_eq!(winner(&table, &get(path)), Some(id), "{path}");
        }
    }

    #[test]
    fn a_default_route_does_not_hide_regexes() {
        let table = table(vec![spec(0, "/*"), spec(1, "^/a\\d$"), spec(2, "^/a")]);
        assert_eq!(winner(&table, &get("/a1")), Some(1));
        assert_eq!(winner(&table, &get("/ab")), Some(2));
        assert_eq!(winner(&table, &get("/b/a")), Some(0), "a regex begins at the path's first byte");
    }

    #[test]
    fn captures_and_prefix() {
        let regex = spec(2, "^/r/(\\d+)(?<b>x)?(?<tail>/.*)?");
        let table =
            table(vec![spec(0, "/a/{x}/*/{y}"), spec(1, "/f/{rest...}"), regex, spec(3, "/p/*"), spec(4, "/e")]);
        let mut captures = Captures::new();
        let mut check = |path: &str, prefix_bytes: usize, expected: &[(&str, Option<&str>)]| {
            let hit = table.find(&get(path), &mut captures).unwrap();
            assert_eq!(hit.prefix_bytes, prefix_bytes, "{path}");
            for (name, value) in expected {
                let found = captures.get(name, path.as_bytes());
                assert_eq!(found, value.map(str::as_bytes), "{path} {name}");
            }
        };
        check("/a/1/2/3", 8, &[("x", Some("1")), ("y", Some("3")), ("2", Some("3")), ("rest", None)]);
        check("/f/a/b", 2, &[("rest", Some("a/b")), ("x", None)]);
        check("/f/", 2, &[("rest", Some(""))]);
        check("/r/12/z", 7, &[("1", Some("12")), ("b", None), ("2", None), ("tail", Some("/z"))]);
        check("/p/q", 2, &[("1", None)]);
        check("/p", 2, &[]);
        check("/e", 2, &[]);
        assert_eq!(table.find(&get("/f"), &mut captures), Err(Miss { allow: None }));
        assert!(captures.is_empty());
    }

    #[test]
    fn method_mismatch_is_told_apart() {
        let mut post = spec(0, "/a");
        post.methods = MethodSet::of(["POST"]);
        let mut purge = spec(1, "/a");
        purge.methods = MethodSet::of(["PURGE"]);
        purge.predicates = vec![Predicate::Header { name: "x-key".into(), test: Test::Present }];
        let table = table(vec![post, purge]);
        let miss = |request: &Request<'_>| {
            let miss = table.find(request, &mut Captures::new()).unwrap_err();
            miss.allow.map(|allow| allow.to_string())
        };
        assert_eq!(miss(&get("/a")), Some("POST".into()));
        assert_eq!(miss(&Request { headers: &[("x-key", "1")], ..get("/a") }), Some("POST, PURGE".into()));
        assert_eq!(miss(&get("/b")), None);
        assert_eq!(winner(&table, &Request { method: "POST", ..get("/a") }), Some(0));
    }

    #[test]
    fn predicates() {
        let header = |test| Predicate::Header { name: "X-V".into(), test };
        let query = |test| Predicate::Query { name: "a b".into(), test };
        let cookie = |test| Predicate::Cookie { name: "s".into(), test };
        let text = String::from;
        let holds = |predicate: Predicate| {
            let table = table(vec![RouteSpec { predicates: vec![predicate], ..spec(0, "/") }]);
            let headers = &[("x-v", "one"), ("x-v", "two"), ("cookie", "t=1"), ("cookie", "u=2; s=\"abc\"")];
            winner(&table, &Request { query: Some("x&a+b=%31+2&a%20b=z"), headers, ..get("/") }).is_some()
        };
        assert!(holds(header(Test::Exact(text("two")))) && holds(header(Test::Prefix(text("tw")))));
        assert!(holds(header(Test::Regex(text("^t.o$")))) && !holds(header(Test::Regex(text("^wo")))));
        assert!(holds(header(Test::Present)) && !holds(header(Test::Absent)));
        assert!(holds(query(Test::Exact(text("1 2")))) && holds(query(Test::Exact(text("z")))));
        assert!(holds(query(Test::Prefix(text("1 ")))) && !holds(query(Test::Prefix(text("1 23")))));
        assert!(holds(query(Test::Regex(text("^\\d \\d$")))) && !holds(query(Test::Absent)));
        assert!(holds(cookie(Test::Exact(text("abc")))) && !holds(cookie(Test::Exact(text("\"abc\"")))));
        assert!(holds(Predicate::Cookie { name: text("none"), test: Test::Absent }));
        let client = |network| Predicate::Client(vec![Cidr::parse(network).unwrap()]);
        assert!(holds(client("10.0.0.0/8")) && !holds(client("192.168.0.0/16")));
    }

    #[test]
    fn hosts_fall_back() {
        let host = |id, path, host| RouteSpec { hosts: vec![HostPattern::parse(host).unwrap()], ..spec(id, path) };
        let table =
            table(vec![spec(0, "/a"), host(1, "/*", "*.x.com"), host(2, "/b", "w.x.com"), host(3, "/b", "*.com")]);
        let at = |host: &str, path: &str| winner(&table, &Request { host, ..get(path) });
        assert_eq!(at("w.x.com", "/b"), Some(2));
        assert_eq!(at("w.x.com.", "/b"), Some(2));
        assert_eq!(at("w.x.com", "/a"), Some(1), "a wider path of a more specific host goes first");
        assert_eq!(at("x.com", "/b"), Some(3));
        assert_eq!(at("x.com", "/a"), Some(0));
        assert_eq!(at("", "/b"), None);
    }

    #[test]
    fn build_reports_everything() {
        let path = |id, path| RouteSpec::new(RouteId(id), path);
        let long = format!("/{}", "a/".repeat(super::super::SEGMENTS_MAX));
        let groups = format!("^/{}", "(a)".repeat(CAPTURES_MAX + 1));
        let specs = vec![
            path(0, PathPattern::Exact("a".into())),
            path(1, PathPattern::Regex("^/(".into())),
            path(2, PathPattern::Exact(long)),
            path(3, PathPattern::Regex(groups)),
            spec(4, "/{a}/{a}"),
            spec(5, "/fine"),
            path(6, PathPattern::Regex("^/(\\d{1000}){1000}".into())),
            spec(7, &format!("/{{{}}}", "n".repeat(CAPTURE_NAME_BYTES_MAX + 1))),
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
            assert_eq!(String::from_utf8(regex_begins(text)).unwrap(), expected, "{text}");
        }
    }
}
