//! The routing engine against a matcher that knows nothing of tries: the greatest rank of all routes that match.

use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use ringway::route::*;

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    host: String,
    path: String,
    query: Option<&'static str>,
    header: Option<&'static str>,
}

impl RouteInput for Request {
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
        if let ("x-v", Some(value)) = (std::str::from_utf8(name).unwrap(), self.header) {
            each(value.as_bytes());
        }
    }
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }
}

/// Matches by the words of the documentation, over strings.
mod naive {
    use super::*;

    pub fn matches(spec: &RouteSpec, request: &Request) -> bool {
        path(&spec.path, &request.path) && method(spec, request) && others(spec, request)
    }

    /// All but the method.
    pub fn matches_but_method(spec: &RouteSpec, request: &Request) -> bool {
        host(spec, request) && path(&spec.path, &request.path) && others(spec, request)
    }

    fn host(spec: &RouteSpec, request: &Request) -> bool {
        spec.hosts.is_empty()
            || spec.hosts.iter().any(|pattern| match pattern {
                HostPattern::Any => true,
                HostPattern::Exact(name) => *name == request.host,
                HostPattern::Wildcard(suffix) => request.host.ends_with(&format!(".{suffix}")),
            })
    }

    fn method(spec: &RouteSpec, request: &Request) -> bool {
        let mut names = spec.methods.names().peekable();
        names.peek().is_none() || names.any(|name| name == request.method.as_bytes())
    }

    fn others(spec: &RouteSpec, request: &Request) -> bool {
        spec.predicates.iter().all(|predicate| match predicate {
            Predicate::Header { test, .. } => passes(test, request.header),
            Predicate::Query { test, .. } => passes(test, request.query.and_then(|query| query.strip_prefix("q="))),
            _ => unreachable!("not generated"),
        })
    }

    fn passes(test: &Test, value: Option<&str>) -> bool {
        match (test, value) {
            (Test::Absent, value) => value.is_none(),
            (_, None) => false,
            (Test::Present, _) => true,
            (Test::Exact(text), Some(value)) => text == value,
            (Test::Prefix(text), Some(value)) => value.starts_with(text),
            (Test::Regex(text), Some(value)) => regex::Regex::new(text).unwrap().is_match(value),
        }
    }

    fn path(pattern: &PathPattern, path: &str) -> bool {
        match pattern {
            PathPattern::Exact(text) => text == path,
            PathPattern::Prefix(text) if text.ends_with('/') => path.starts_with(text),
            PathPattern::Prefix(text) => path == text || path.starts_with(&format!("{text}/")),
            PathPattern::RawPrefix(text) => path.starts_with(text),
            PathPattern::Regex(text) => regex::Regex::new(text).unwrap().find(path).is_some_and(|m| m.start() == 0),
            PathPattern::Template(segments) => {
                let parts: Vec<&str> = path[1..].split('/').collect();
                template(segments, &parts)
            }
        }
    }

    fn template(segments: &[Segment], parts: &[&str]) -> bool {
        match (segments, parts) {
            ([], []) | ([Segment::Tail], _) => true,
            ([Segment::Rest(_)], parts) => !parts.is_empty(),
            ([Segment::Literal(text), segments @ ..], [part, parts @ ..]) => text == part && template(segments, parts),
            ([Segment::Param(_) | Segment::Any, segments @ ..], [part, parts @ ..]) => {
                !part.is_empty() && template(segments, parts)
            }
            _ => false,
        }
    }
}

fn segment() -> impl Strategy<Value = String> {
    prop_oneof![8 => "[ab]", 3 => "[ab]{2,3}", 1 => Just(String::new())]
}

fn plain_path(most: usize) -> impl Strategy<Value = String> {
    prop::collection::vec(segment(), 1..=most).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn template() -> impl Strategy<Value = PathPattern> {
    let inner = prop_oneof![
        4 => segment().prop_map(Segment::Literal),
        3 => Just(Segment::Param("p".into())),
        1 => Just(Segment::Any),
    ];
    let last = prop_oneof![4 => Just(None), 1 => Just(Some(Segment::Tail)), 1 => Just(Some(Segment::Rest("r".into())))];
    (prop::collection::vec(inner, 1..4), last).prop_map(|(mut segments, last)| {
        for (at, segment) in segments.iter_mut().enumerate() {
            if let Segment::Param(name) = segment {
                *name = format!("p{at}");
            }
        }
        segments.extend(last);
        PathPattern::Template(segments)
    })
}

fn pattern() -> impl Strategy<Value = PathPattern> {
    let regexes = ["^/a", "^/.*b$", "/(a|b)/", "b", "^/(?<x>a+)/?$", "^/a/?b?", "^/ab|^/b"];
    prop_oneof![
        4 => plain_path(3).prop_map(PathPattern::Exact),
        3 => plain_path(3).prop_map(PathPattern::Prefix),
        2 => plain_path(3).prop_map(PathPattern::RawPrefix),
        4 => template(),
        2 => prop::sample::select(regexes.to_vec()).prop_map(|text| PathPattern::Regex(text.into())),
    ]
}

fn predicates() -> impl Strategy<Value = Vec<Predicate>> {
    let test = prop_oneof![
        Just(Test::Present),
        Just(Test::Absent),
        Just(Test::Exact("1".into())),
        Just(Test::Prefix("1".into())),
        Just(Test::Regex("2$".into())),
    ];
    let predicate = (any::<bool>(), test).prop_map(|(header, test)| match header {
        true => Predicate::Header { name: "x-v".into(), test },
        false => Predicate::Query { name: "q".into(), test },
    });
    prop_oneof![3 => Just(Vec::new()), 1 => prop::collection::vec(predicate, 1..3)]
}

fn hosts() -> impl Strategy<Value = Vec<HostPattern>> {
    let names = ["*", "x.com", "*.com", "*.x.com", "w.x.com"];
    let host = prop::sample::select(names.to_vec()).prop_map(|text| HostPattern::parse(text).unwrap());
    prop_oneof![3 => Just(Vec::new()), 2 => prop::collection::vec(host, 1..3)]
}

fn spec() -> impl Strategy<Value = RouteSpec> {
    let sets: Vec<&[&str]> = vec![&[], &[], &["GET"], &["POST"], &["PURGE", "POST"]];
    let methods = prop::sample::select(sets);
    (hosts(), pattern(), methods, predicates(), -1i32..2).prop_map(|(hosts, path, methods, predicates, priority)| {
        let methods = MethodSet::of(methods.iter().copied());
        RouteSpec { id: RouteId(0), hosts, path, methods, predicates, priority }
    })
}

fn specs() -> impl Strategy<Value = Vec<RouteSpec>> {
    prop::collection::vec(spec(), 0..25).prop_map(|mut specs| {
        // Ids that are not places, so that one cannot pass for the other.
        specs.iter_mut().zip(0..).for_each(|(spec, at)| spec.id = RouteId(1000 - at));
        specs
    })
}

fn request() -> impl Strategy<Value = Request> {
    let host = prop::sample::select(&["", "x.com", "w.x.com", "v.w.x.com", "y.com", "org", ".com"][..]);
    let method = prop::sample::select(&["GET", "POST", "HEAD", "PURGE", "get"][..]);
    let header = prop::sample::select(&[None, None, Some("1"), Some("12"), Some("2")][..]);
    let query = prop::sample::select(&[None, Some(""), Some("q=1"), Some("q=12"), Some("p=1")][..]);
    (method, host, plain_path(5), query, header).prop_map(|(method, host, path, query, header)| Request {
        method,
        host: if host == ".com" { "z.com".into() } else { host.into() },
        path,
        query,
        header,
    })
}

/// All routes tested, the greatest rank wins.
fn naive_find(specs: &[RouteSpec], request: &Request, order: Order) -> Option<RouteId> {
    let matching = specs.iter().zip(0..).filter_map(|(spec, declared)| {
        let rank = Rank::of(spec, declared, request.host.as_bytes(), order)?;
        naive::matches(spec, request).then_some((rank, spec.id))
    });
    matching.max().map(|(_, id)| id)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn find_and_explain_equal_the_naive_matcher(
        specs in specs(),
        requests in prop::collection::vec(request(), 1..8),
        strict in any::<bool>(),
    ) {
        let order = if strict { Order::Strict } else { Order::Specificity };
        let table = RouteTable::build(specs.clone(), order).unwrap();
        let shadowed: Vec<RouteId> = table.lint().iter().map(|shadowed| shadowed.route).collect();
        let mut captures = Captures::new();
        for request in &requests {
            let found = table.find(request, &mut captures);
            let expected = naive_find(&specs, request, order);
            prop_assert_eq!(found.as_ref().ok().map(|hit| hit.route), expected, "{:?}", request);
            let explanation = table.explain(request);
            prop_assert_eq!(explanation.winner, expected);
            prop_assert_eq!(explanation.considered.len(), specs.len());
            match found {
                Ok(hit) => {
                    prop_assert_eq!(specs[hit.declared as usize].id, hit.route);
                    prop_assert!(hit.prefix_bytes <= request.path.len());
                    prop_assert!(!shadowed.contains(&hit.route), "lint says that {:?} is never reached", hit.route);
                    for (_, range) in captures.iter() {
                        prop_assert!(request.path.get(range).is_some());
                    }
                }
                Err(miss) => {
                    let mut allow = MethodSet::any();
                    for spec in specs.iter().filter(|spec| naive::matches_but_method(spec, request)) {
                        allow.extend(&spec.methods);
                    }
                    prop_assert_eq!(miss.allow.is_some(), !allow.is_any());
                    prop_assert_eq!(miss.allow.unwrap_or_default(), allow);
                    prop_assert!(captures.is_empty());
                }
            }
        }
    }

    #[test]
    fn a_table_that_shares_with_another_is_as_one_of_its_own(
        specs in specs(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), 0..6_u8, spec()), 0..4),
        requests in prop::collection::vec(request(), 1..8),
        strict in any::<[bool; 2]>(),
    ) {
        let order = strict.map(|strict| if strict { Order::Strict } else { Order::Specificity });
        // Without what the others hide, as a configuration is that nothing was found in.
        let hidden = RouteTable::build(specs.clone(), order[0]).unwrap().lint();
        let is_seen = |spec: &RouteSpec| hidden.iter().all(|shadowed| shadowed.route != spec.id);
        let mut specs: Vec<Arc<RouteSpec>> = specs.into_iter().filter(is_seen).map(Arc::new).collect();
        let before = RouteTable::build_after(None, specs.clone(), order[0]).unwrap();
        prop_assert_eq!(before.lint(), vec![]);
        for (at, what, other) in &changes {
            if specs.is_empty() {
                break;
            }
            let at = at.index(specs.len());
            let mut spec = (*specs[at]).clone();
            match what {
                0 => spec.priority = other.priority,
                1 => spec.methods = other.methods.clone(),
                2 => spec.predicates = other.predicates.clone(),
                3 => spec.path = other.path.clone(),
                4 => spec.hosts = other.hosts.clone(),
                _ => {
                    let moved = specs.remove(at);
                    specs.insert(0, moved);
                }
            }
            if *what < 5 {
                specs[at] = Arc::new(spec);
            }
        }
        let own = RouteTable::build_after(None, specs.clone(), order[1]).unwrap();
        let sharing = RouteTable::build_after(Some(&before), specs, order[1]).unwrap();
        prop_assert_eq!(own.footprint().find_bytes, sharing.footprint().find_bytes);
        if order[0] == order[1] {
            let found = |of: Vec<Shadowed>| of.iter().map(|shadowed| shadowed.route).collect::<Vec<_>>();
            prop_assert_eq!(found(own.lint()), found(sharing.lint_after(&before)));
        }
        for request in &requests {
            let [mut one, mut other] = [Captures::new(), Captures::new()];
            prop_assert_eq!(own.find(request, &mut one), sharing.find(request, &mut other));
            prop_assert_eq!(one.iter().collect::<Vec<_>>(), other.iter().collect::<Vec<_>>());
        }
    }

    #[test]
    fn exact_and_parameter_routes_agree_with_matchit(
        patterns in prop::collection::vec(
            prop::collection::vec(prop_oneof!["[ab]{1,2}", Just("{p}".to_string())], 1..4),
            1..12,
        ),
        paths in prop::collection::vec(prop::collection::vec("[abc]{1,2}", 1..5), 1..10),
    ) {
        let mut router = matchit::Router::new();
        let mut specs = Vec::new();
        for (at, segments) in patterns.iter().enumerate() {
            let named = |(at, text): (usize, &String)| text.replace("{p}", &format!("{{p{at}}}"));
            let named: Vec<String> = segments.iter().enumerate().map(named).collect();
            let text = format!("/{}", named.join("/"));
            // A pattern that is there already is a conflict to matchit.
            if router.insert(text.clone(), at).is_ok() {
                specs.push(RouteSpec::new(RouteId(at as u32), PathPattern::parse(&text).unwrap()));
            }
        }
        let table = RouteTable::build(specs, Order::Specificity).unwrap();
        for path in paths {
            let path = format!("/{}", path.join("/"));
            let request = Request { method: "GET", host: String::new(), path: path.clone(), query: None, header: None };
            let mut captures = Captures::new();
            let ours = table.find(&request, &mut captures).ok().map(|hit| hit.route.0 as usize);
            let theirs = router.at(&path).ok();
            prop_assert_eq!(ours, theirs.as_ref().map(|found| *found.value), "{}", path);
            for (name, value) in theirs.iter().flat_map(|found| found.params.iter()) {
                prop_assert_eq!(captures.get(name, path.as_bytes()), Some(value.as_bytes()));
            }
        }
    }
}

fn get(path: String) -> Request {
    Request { method: "GET", host: String::new(), path, query: None, header: None }
}

/// Literal against parameter at each of many levels would take 2^n steps without the trie's bound.
#[test]
fn adversarial_paths_are_cheap() {
    let mut specs = Vec::new();
    for at in 0..200u32 {
        let before = "/a".repeat(at as usize);
        specs.push(RouteSpec::new(RouteId(at), PathPattern::parse(&format!("{before}/{{p}}/x")).unwrap()));
    }
    let table = RouteTable::build(specs, Order::Specificity).unwrap();
    for path in ["/a".repeat(20_000), "/".repeat(100_000), format!("{}/y", "/a".repeat(150)), "/a".repeat(255)] {
        assert!(table.find(&get(path), &mut Captures::new()).is_err());
    }
    assert_eq!(table.find(&get(format!("{}/b/x", "/a".repeat(150))), &mut Captures::new()).unwrap().route.0, 150);
    assert!(table.find(&get("/a".repeat(PATH_BYTES_MAX)), &mut Captures::new()).is_err());
    assert!(table.find(&get(String::new()), &mut Captures::new()).is_err());
    assert!(table.find(&get("*".into()), &mut Captures::new()).is_err(), "OPTIONS * has no path");
}

/// Prints what a route costs in memory, and holds it to a bound.
#[test]
fn memory_per_route() {
    let routes = 10_000;
    let specs = (0..routes)
        .map(|at| RouteSpec::new(RouteId(at), PathPattern::parse(&format!("/service-{at}/v1/{{id}}")).unwrap()));
    let footprint = RouteTable::build(specs.collect(), Order::Specificity).unwrap().footprint();
    let (find, spec) = (footprint.find_bytes / routes as usize, footprint.spec_bytes / routes as usize);
    println!("{routes} routes: {find} bytes each for find, {spec} for explain and lint");
    assert!(find < 400 && spec < 400, "{find} {spec}");
}
