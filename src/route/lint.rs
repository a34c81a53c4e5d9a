//! Routes that can never be reached (C31).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::ControlFlow;
use std::sync::Arc;

use super::build::regex_begins;
use super::pattern::{End, Shape, Step};
use super::{HostPattern, Order, PathPattern, RouteId, RouteInput, RouteSpec, RouteTable};

/// With more routes than this that have changed, all are looked at.
const CHANGED_MAX: usize = 8;

/// A route that another one always goes before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shadowed {
    /// The route that is never reached.
    pub route: RouteId,
    /// The one that takes all its requests.
    pub by: RouteId,
    /// How they relate.
    pub why: Shadow,
}

/// How a route comes to be shadowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shadow {
    /// Both demand the same.
    Duplicate,
    /// The other one demands less.
    Wider,
}

impl fmt::Display for Shadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Shadow::Duplicate => "both demand the same, and the other one goes first",
            Shadow::Wider => "the other one goes first and takes every request that this one would",
        })
    }
}

impl RouteTable {
    /// The routes that are never reached because one other route takes all that they could, in declared order.
    ///
    /// What it says is always true; it does not find routes that only several others together shadow, nor compare
    /// regular expressions other than by their text and their literal beginning.
    pub fn lint(&self) -> Vec<Shadowed> {
        self.shadowed(|index, facts| self.hidden_by(index, facts))
    }

    /// The same behind a table in which no route was hidden: only those count that have changed.
    pub fn lint_after(&self, before: &RouteTable) -> Vec<Shadowed> {
        let pairs = self.specs().iter().zip(before.specs()).zip(0_u32..);
        let changed = pairs.filter(|((one, other), _)| !Arc::ptr_eq(one, other)).map(|(_, index)| index);
        let changed: Vec<u32> = changed.take(CHANGED_MAX + 1).collect();
        // Others have kept their order among themselves where all have kept their places.
        if changed.len() > CHANGED_MAX || !Arc::ptr_eq(&self.places, &before.places) {
            return self.lint();
        }
        if changed.is_empty() {
            return Vec::new();
        }
        self.shadowed(|index, facts| {
            let hides = |other: &u32| *other == index || self.hides(*other, index, facts);
            if changed.iter().any(hides) { self.hidden_by(index, facts) } else { None }
        })
    }

    fn shadowed(&self, hidden_by: impl Fn(u32, &[Facts<'_>]) -> Option<u32>) -> Vec<Shadowed> {
        let facts: Vec<Facts<'_>> = self.specs().iter().map(|spec| Facts::of(spec)).collect();
        let found = (0..facts.len() as u32).filter_map(|index| {
            let (route, by) = (&facts[index as usize], &facts[hidden_by(index, &facts)? as usize]);
            let duplicate = self.covers(route, by);
            let why = if duplicate { Shadow::Duplicate } else { Shadow::Wider };
            Some(Shadowed { route: route.spec.id, by: by.spec.id, why })
        });
        found.collect()
    }

    /// A route that goes before `index` for every request that `index` could take. Whatever does so takes a sample of
    /// those requests too, so that only the few places on the sample's way need a closer look.
    fn hidden_by(&self, index: u32, facts: &[Facts<'_>]) -> Option<u32> {
        let mut by = None;
        self.candidates(&Sample::of(&facts[index as usize]), |_, place| {
            by = place.routes.iter().copied().find(|other| self.hides(*other, index, facts));
            if by.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        by
    }

    /// Whether `other` goes before `index`, and takes all that it could.
    fn hides(&self, other: u32, index: u32, facts: &[Facts<'_>]) -> bool {
        let (first, route, trials) = (&facts[other as usize], &facts[index as usize], &self.fixed.trials);
        let wide = self.fixed.order == Order::Specificity && first.is_wider_prefix(route);
        let before = wide || trials[other as usize] < trials[index as usize];
        other != index && before && self.covers(first, route)
    }

    /// Whether `first` takes all that `second` could; by specificity also that neither host nor path of `second` is
    /// the more specific one.
    fn covers<'f>(&self, first: &Facts<'f>, second: &Facts<'f>) -> bool {
        let same = first.shape == second.shape && (first.shape.is_some() || first.spec.path == second.spec.path);
        let (path, hosts) = match self.fixed.order {
            Order::Specificity => (same, same_hosts(first.spec, second.spec)),
            Order::Strict => (
                same || match (&first.shape, &second.shape) {
                    (Some(first), Some(second)) => first.covers(second),
                    (Some(first), None) => first.is_catch_all(),
                    (None, _) => false,
                },
                covers_hosts(first.spec, second.spec),
            ),
        };
        hosts && (path || first.is_wider_prefix(second)) && demands_less(first.spec, second.spec)
    }
}

/// What is asked of a spec again and again.
struct Facts<'t> {
    spec: &'t RouteSpec,
    shape: Option<Shape<'t>>,
    /// The literal beginning of a regular expression.
    begins: String,
}

impl Facts<'_> {
    fn of(spec: &RouteSpec) -> Facts<'_> {
        let begins = if let PathPattern::Regex(text) = &spec.path { regex_begins(text) } else { String::new() };
        Facts { spec, shape: spec.path.shape(), begins }
    }

    /// Whether this is a plain prefix, other than the catch-all, that takes all that the regular expression could.
    fn is_wider_prefix(&self, regex: &Facts<'_>) -> bool {
        match &self.spec.path {
            PathPattern::Prefix(prefix) if prefix.len() > 1 => {
                let whole = prefix.strip_suffix('/').unwrap_or(prefix);
                regex.begins.strip_prefix(whole).is_some_and(|rest| rest.starts_with('/'))
            }
            _ => false,
        }
    }
}

/// A request that a route could take, as far as host and path go.
struct Sample {
    host: String,
    path: Vec<u8>,
}

/// A segment, or a part of one, that stands for any.
const ANY_TEXT: &[u8] = b"~";

impl Sample {
    fn of(route: &Facts<'_>) -> Sample {
        let host = match &hosts(route.spec)[0] {
            HostPattern::Any => String::new(),
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Wildcard(suffix) => format!("~.{suffix}"),
        };
        let Some(shape) = &route.shape else {
            let path = if route.begins.starts_with('/') { &*route.begins } else { "/" };
            return Sample { host, path: path.into() };
        };
        let mut path = Vec::new();
        for step in &shape.steps {
            path.push(b'/');
            path.extend_from_slice(if let Step::Literal(text) = step { text } else { ANY_TEXT });
        }
        match shape.end {
            End::Raw(text) => path.extend_from_slice(&[b"/", text, ANY_TEXT].concat()),
            End::Below => path.extend_from_slice(b"/"),
            End::Exact | End::Tail => {}
        }
        Sample { host, path }
    }
}

impl RouteInput for Sample {
    fn method(&self) -> &[u8] {
        b""
    }

    fn host(&self) -> &[u8] {
        self.host.as_bytes()
    }

    fn path(&self) -> &[u8] {
        &self.path
    }

    fn query(&self) -> Option<&[u8]> {
        None
    }

    fn header<'a>(&'a self, _: &[u8], _: &mut dyn FnMut(&'a [u8]) -> bool) {}

    fn client_ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    }
}

fn covers_hosts(first: &RouteSpec, second: &RouteSpec) -> bool {
    hosts(second).iter().all(|theirs| hosts(first).iter().any(|mine| mine.covers(theirs)))
}

/// By specificity only the same host pattern is tried at the same level.
fn same_hosts(first: &RouteSpec, second: &RouteSpec) -> bool {
    hosts(second).iter().all(|theirs| hosts(first).contains(theirs))
}

fn demands_less(first: &RouteSpec, second: &RouteSpec) -> bool {
    first.methods.covers(&second.methods)
        && first.predicates.iter().all(|mine| second.predicates.iter().any(|theirs| mine.follows_from(theirs)))
}

fn hosts(spec: &RouteSpec) -> &[HostPattern] {
    if spec.hosts.is_empty() { &[HostPattern::Any] } else { &spec.hosts }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{MethodSet, Predicate, Test};

    fn spec(id: u32, path: &str) -> RouteSpec {
        RouteSpec::new(RouteId(id), PathPattern::parse(path).unwrap())
    }

    fn lint(specs: Vec<RouteSpec>, order: Order) -> Vec<(u32, u32, Shadow)> {
        let found = RouteTable::build(specs, order).unwrap().lint();
        found.iter().map(|shadowed| (shadowed.route.0, shadowed.by.0, shadowed.why)).collect()
    }

    #[test]
    fn by_specificity() {
        let get = RouteSpec { methods: MethodSet::of(["GET"]), ..spec(0, "/a") };
        let urgent = RouteSpec { priority: 5, ..spec(1, "/a") };
        assert_eq!(lint(vec![get.clone(), urgent], Order::Specificity), [(0, 1, Shadow::Wider)]);
        assert_eq!(lint(vec![get, spec(1, "/a")], Order::Specificity), [], "more predicates go first");
        assert_eq!(lint(vec![spec(0, "/{x}"), spec(1, "/{y}")], Order::Specificity), [(1, 0, Shadow::Duplicate)]);
        assert_eq!(lint(vec![spec(0, "/*"), spec(1, "/a"), spec(2, "^/a")], Order::Specificity), []);
        let covered = vec![spec(0, "^/a/\\d"), spec(1, "/a/*"), spec(2, "^/ab")];
        assert_eq!(lint(covered, Order::Specificity), [(0, 1, Shadow::Wider)]);
        let host = RouteSpec { hosts: vec![HostPattern::Exact("x".into())], ..spec(1, "/a") };
        assert_eq!(lint(vec![spec(0, "/a"), host], Order::Specificity), []);
    }

    #[test]
    fn in_strict_order() {
        let header = Predicate::Header { name: "x".into(), test: Test::Present };
        let picky = RouteSpec { predicates: vec![header], ..spec(0, "/*") };
        let specs = vec![picky, spec(1, "/a/*"), spec(2, "/a/{x}"), spec(3, "/b"), spec(4, "/*"), spec(5, "^/c")];
        assert_eq!(lint(specs, Order::Strict), [(2, 1, Shadow::Wider), (5, 4, Shadow::Wider)]);
        let host = RouteSpec { hosts: vec![HostPattern::Exact("a.x".into())], ..spec(1, "/a") };
        let wildcard = RouteSpec { hosts: vec![HostPattern::Wildcard("x".into())], ..spec(0, "/a") };
        assert_eq!(lint(vec![wildcard, host], Order::Strict), [(1, 0, Shadow::Wider)]);
        let twice = vec![spec(0, "^/a/(x)"), spec(1, "^/a/(x)"), spec(2, "/a/*"), spec(3, "^/a/(y)")];
        assert_eq!(lint(twice, Order::Strict), [(1, 0, Shadow::Duplicate), (3, 2, Shadow::Wider)]);
        let raw = |id, text: &str| RouteSpec::new(RouteId(id), PathPattern::RawPrefix(text.into()));
        let raws = vec![raw(0, "/ab"), raw(1, "/abc"), spec(2, "/abd/*"), spec(3, "/{x}"), raw(4, "/a")];
        assert_eq!(lint(raws, Order::Strict), [(1, 0, Shadow::Wider), (2, 0, Shadow::Wider)]);
    }
}
