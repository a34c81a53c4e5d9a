//! The table of routes: built once, then only read.

use std::ops::ControlFlow;
use std::sync::Arc;

use regex::bytes::Regex;

use super::captures::Name;
use super::hosts::Hosts;
use super::method::RequestMethod;
use super::trie::{Place, Trie};
use super::{Captures, HostPattern, MethodSet, Order, PathPattern, Predicate, RouteId, RouteInput, RouteSpec};

/// Longest path that can match; a longer one misses.
pub const PATH_BYTES_MAX: usize = 1 << 20;

/// No entry.
pub(super) const NONE: u32 = u32::MAX;

/// All routes of a gateway or a listener.
///
/// Clones share the trie and the specs, but each has regular expressions of its own, whose scratch space is then not
/// contended: one clone per worker.
#[derive(Clone, Debug)]
pub struct RouteTable {
    pub(super) fixed: Arc<Fixed>,
    pub(super) places: Arc<Places>,
    pub(super) regexes: Vec<Regex>,
}

/// What all clones of a table share.
#[derive(Debug)]
pub(super) struct Fixed {
    pub order: Order,
    /// In declared order.
    pub specs: Box<[Arc<RouteSpec>]>,
    /// As `specs`.
    pub routes: Box<[Route]>,
    pub demands: Box<[Demands]>,
    /// As `specs`: the place of each route in the order in which routes of one rank of path are tried.
    pub trials: Box<[u32]>,
}

/// Where each route stands among hosts and paths. Tables share it whose routes have the same ones, and are tried in the
/// same order at each place.
#[derive(Debug)]
pub(super) struct Places {
    pub hosts: Hosts,
    pub levels: Box<[Level]>,
    pub trie: Trie,
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
    pub regex: u32,
    pub predicates: Box<[Predicate<u32>]>,
    pub captures: Box<[Param]>,
}

/// A part of the path to hand out: a segment, or all that follows from it, or a group of the regular expression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Param {
    pub place: u16,
    pub rest: bool,
    pub name: Name,
}

/// The routes of one host pattern. Lists hold indices, in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Level {
    pub root: u32,
    /// The root of the regular expressions, which stand where the literal text ends that they begin with.
    pub regexes: Option<u32>,
    pub catch_all: Box<[u32]>,
}

/// Where in a level a place is.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    /// Everything but the other two; the most specific place comes first.
    Paths,
    /// Regular expressions, which remain to be matched; their places come in no useful order.
    Regexes,
    CatchAll,
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
    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.fixed.specs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fixed.specs.is_empty()
    }

    /// The specs, in declared order.
    pub fn specs(&self) -> &[Arc<RouteSpec>] {
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
            Order::Specificity => self.candidates(input, |part, place| match part {
                Part::Paths => seeker.first(place),
                Part::Regexes => seeker.least(place),
                Part::CatchAll if seeker.best.is_some() => ControlFlow::Break(()),
                Part::CatchAll => seeker.first(place),
            }),
            Order::Strict => self.candidates(input, |_, place| seeker.least(place)),
        };
        match seeker.best {
            Some((declared, prefix_bytes)) => Ok(self.hit(declared, prefix_bytes, input.path(), captures)),
            None if seeker.method_missed => Err(Miss { allow: self.allow(input) }),
            None => Err(Miss { allow: None }),
        }
    }

    /// How much memory the table takes.
    pub fn footprint(&self) -> Footprint {
        let (fixed, places) = (&*self.fixed, &*self.places);
        let lists: usize = places.levels.iter().map(|level| size_of_val(&*level.catch_all)).sum();
        let demands: usize = fixed.demands.iter().map(Demands::bytes).sum();
        let routes = size_of_val(&*fixed.routes) + size_of_val(&*fixed.trials) + demands;
        Footprint {
            find_bytes: places.trie.bytes() + places.hosts.bytes() + size_of_val(&*places.levels) + lists + routes,
            spec_bytes: fixed.specs.iter().map(|spec| spec_bytes(spec)).sum(),
        }
    }

    /// Calls `visit` with every place whose host and path take the request (for regular expressions: whose host does,
    /// and whose literal beginning), the most specific host first, until it breaks. For each host the parts come in
    /// their order, and the last of them always comes, if perhaps without routes.
    #[inline]
    pub(super) fn candidates<'t>(
        &'t self,
        input: &impl RouteInput,
        mut visit: impl FnMut(Part, Place<'t>) -> ControlFlow<()>,
    ) {
        let places = &*self.places;
        let path = input.path();
        if path.first() != Some(&b'/') || path.len() > PATH_BYTES_MAX {
            return;
        }
        let _ = places.hosts.visit(without_dot(input.host()), |level| {
            let level = &places.levels[level as usize];
            places.trie.walk(level.root, path, |place| visit(Part::Paths, place))?;
            if let Some(root) = level.regexes {
                places.trie.walk(root, path, |place| visit(Part::Regexes, place))?;
            }
            visit(Part::CatchAll, Place { routes: &level.catch_all, prefix_bytes: 0 })
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
        self.candidates(input, |_, place| {
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

    /// Takes the route that is first in the order of trial, in which the places' lists are too.
    fn least(&mut self, place: Place<'_>) -> ControlFlow<()> {
        let trials = &self.table.fixed.trials;
        for index in place.routes {
            if self.best.is_some_and(|(best, _)| trials[best as usize] <= trials[*index as usize]) {
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
            Some(regex) => match_bytes(regex, path).is_some(),
            None => true,
        }
    }
}

impl Route {
    pub(super) fn of(spec: &RouteSpec, demands: u32) -> Route {
        Route { id: spec.id, demands, methods: spec.methods.clone() }
    }
}

impl Demands {
    pub(super) fn is_empty(&self) -> bool {
        self.regex == NONE && self.predicates.is_empty() && self.captures.is_empty()
    }

    fn bytes(&self) -> usize {
        size_of::<Demands>() + size_of_val(&*self.predicates) + size_of_val(&*self.captures)
    }
}

/// A host without the trailing dot of its absolute form.
pub(super) fn without_dot(host: &[u8]) -> &[u8] {
    host.strip_suffix(b".").unwrap_or(host)
}

/// How much of `path` the match takes that begins at its first byte, if there is one. The leftmost match is looked at,
/// so one that begins later means that none begins there.
pub(super) fn match_bytes(regex: &Regex, path: &[u8]) -> Option<usize> {
    regex.find(path).filter(|found| found.start() == 0).map(|found| found.end())
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
    // The pointer to it, and its two counts.
    size_of::<RouteSpec>()
        + 3 * size_of::<usize>()
        + path
        + hosts
        + spec.predicates.capacity() * (size_of::<Predicate>() + 16)
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::route::Test;

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
        let client = |network: &str| Predicate::Client(vec![network.parse().unwrap()]);
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
}
