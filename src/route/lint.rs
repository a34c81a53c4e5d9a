//! Routes that can never be reached (C31).

use std::collections::HashMap;
use std::fmt;

use super::rank::predicate_count;
use super::table::regex_begins;
use super::{HostPattern, Order, PathPattern, RouteId, RouteSpec, RouteTable};

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
        let (specs, order) = (self.specs(), self.fixed.order);
        let mut groups: HashMap<Option<String>, Vec<usize>> = HashMap::new();
        let mut found = Vec::new();
        for index in self.in_order_of_trial() {
            let spec = &specs[index];
            let group = groups.entry(self.group(spec)).or_default();
            let by = group.iter().map(|before| &specs[*before]).find(|before| hides(before, spec, order));
            if let Some(by) = by.or_else(|| self.wide_prefix(spec)) {
                let why = if hides(spec, by, order) { Shadow::Duplicate } else { Shadow::Wider };
                found.push((index, Shadowed { route: spec.id, by: by.id, why }));
            }
            group.push(index);
        }
        found.sort_by_key(|(index, _)| *index);
        found.into_iter().map(|(_, shadowed)| shadowed).collect()
    }

    /// By specificity a route hides only routes of the same pattern, in strict order any.
    fn group(&self, spec: &RouteSpec) -> Option<String> {
        match self.fixed.order {
            Order::Strict => None,
            // The shape without names: what the trie puts in one place.
            Order::Specificity => Some(match spec.path.shape() {
                Some(shape) => format!("{shape:?}"),
                None => format!("~{}", spec.path),
            }),
        }
    }

    fn in_order_of_trial(&self) -> Vec<usize> {
        let specs = self.specs();
        let mut order: Vec<usize> = (0..specs.len()).collect();
        if self.fixed.order == Order::Specificity {
            order.sort_by_key(|index| std::cmp::Reverse((specs[*index].priority, predicate_count(&specs[*index]))));
        }
        order
    }

    /// A plain prefix that goes before a regular expression and takes all that it could, by specificity.
    fn wide_prefix(&self, spec: &RouteSpec) -> Option<&RouteSpec> {
        let PathPattern::Regex(text) = &spec.path else {
            return None;
        };
        if self.fixed.order == Order::Strict {
            return None;
        }
        let begins = regex_begins(text);
        self.specs().iter().find(|other| match &other.path {
            PathPattern::Prefix(prefix) if prefix.len() > 1 => {
                let slash = format!("{}/", prefix.strip_suffix('/').unwrap_or(prefix));
                begins.starts_with(slash.as_bytes()) && same_hosts(other, spec) && demands_less(other, spec)
            }
            _ => false,
        })
    }
}

/// Whether `first`, which is tried before `second` for every request that both take, takes all that `second` could.
fn hides(first: &RouteSpec, second: &RouteSpec, order: Order) -> bool {
    let path = match (first.path.shape(), second.path.shape()) {
        (Some(first), Some(second)) => first.covers(&second),
        (Some(first), None) => first.is_catch_all(),
        (None, None) => first.path == second.path,
        (None, Some(_)) => false,
    };
    let hosts = match order {
        Order::Strict => covers_hosts(first, second),
        Order::Specificity => same_hosts(first, second),
    };
    path && hosts && demands_less(first, second)
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
    }
}
