//! The order between routes that match the same request, as a value that is compared (C31).

use std::cmp::Reverse;

use smallvec::SmallVec;

use super::pattern::{End, Step};
use super::{HostPattern, Order, RouteSpec};

/// How specific a route is for a request; of all routes that match, the greatest wins.
///
/// The fields stand in the order of their weight, and the derived `Ord` is the rule that the module's documentation
/// states. Two routes of one table never have equal ranks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// The most specific of the route's hosts that take the request's.
    pub host: HostRank,
    /// The path pattern.
    pub path: PathRank,
    /// The route's priority.
    pub priority: i32,
    /// How many predicates it has; a method list is one.
    pub predicates: u32,
    /// Its place in declared order, from 0; the earlier one is greater.
    pub declared: Reverse<u32>,
}

/// How specific a host pattern is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HostRank {
    /// Any host.
    Any,
    /// A wildcard, with the length of its suffix in bytes.
    Wildcard(usize),
    /// An exact host.
    Exact,
}

/// How specific a path pattern is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PathRank {
    /// The prefix `/`, which takes every path.
    CatchAll,
    /// A regular expression; between two of them the priority decides.
    Regex,
    /// Everything else, compared from the left. The last step is always one that ends the pattern.
    Steps(SmallVec<[StepRank; 8]>),
}

/// How specific one segment of a pattern is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum StepRank {
    /// Ends: anything or nothing.
    Tail,
    /// Ends: at least one more segment.
    Below,
    /// One segment, a parameter or `*`.
    One,
    /// Ends: the segment begins with a text of this length in bytes.
    Raw(usize),
    /// A literal segment.
    Literal,
    /// Ends: the path ends here too.
    Exact,
}

impl Rank {
    /// The rank of the route at place `declared` of a table, for a request with this host (lower case, without port or
    /// trailing dot); None if the route does not take the host. Under [`Order::Strict`] only `declared` differs.
    pub fn of(spec: &RouteSpec, declared: u32, host: &[u8], order: Order) -> Option<Rank> {
        let host = host_rank(spec, host)?;
        let declared = Reverse(declared);
        Some(match order {
            Order::Strict => {
                Rank { host: HostRank::Any, path: PathRank::CatchAll, priority: 0, predicates: 0, declared }
            }
            Order::Specificity => Rank {
                host,
                path: PathRank::of(spec),
                priority: spec.priority,
                predicates: predicate_count(spec),
                declared,
            },
        })
    }
}

impl PathRank {
    fn of(spec: &RouteSpec) -> PathRank {
        let Some(shape) = spec.path.shape() else {
            return PathRank::Regex;
        };
        if shape.is_catch_all() {
            return PathRank::CatchAll;
        }
        let end = match shape.end {
            End::Exact => StepRank::Exact,
            End::Raw(text) => StepRank::Raw(text.len()),
            End::Below => StepRank::Below,
            End::Tail => StepRank::Tail,
        };
        let steps = shape.steps.iter().map(|step| match step {
            Step::Literal(_) => StepRank::Literal,
            Step::One => StepRank::One,
        });
        PathRank::Steps(steps.chain([end]).collect())
    }
}

/// How many predicates a route has; a method list is one.
pub(super) fn predicate_count(spec: &RouteSpec) -> u32 {
    spec.predicates.len() as u32 + u32::from(!spec.methods.is_any())
}

fn host_rank(spec: &RouteSpec, host: &[u8]) -> Option<HostRank> {
    if spec.hosts.is_empty() {
        return Some(HostRank::Any);
    }
    let matching = spec.hosts.iter().filter(|pattern| pattern.takes(host));
    matching
        .map(|pattern| match pattern {
            HostPattern::Any => HostRank::Any,
            HostPattern::Wildcard(suffix) => HostRank::Wildcard(suffix.len()),
            HostPattern::Exact(_) => HostRank::Exact,
        })
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::{PathPattern, RouteId};

    fn rank(path: PathPattern) -> Rank {
        Rank::of(&RouteSpec::new(RouteId(0), path), 0, b"", Order::Specificity).unwrap()
    }

    #[test]
    fn documented_order() {
        let parse = |text| PathPattern::parse(text).unwrap();
        let patterns = [
            parse("/a/b"),
            parse("/a/b/*"),
            PathPattern::RawPrefix("/a/bc".into()),
            PathPattern::RawPrefix("/a/b".into()),
            parse("/a/{x}"),
            parse("/a/{x}/{y...}"),
            parse("/a/{x}/**"),
            PathPattern::Prefix("/a/".into()),
            parse("/a/*"),
            PathPattern::RawPrefix("/a".into()),
            parse("/{x}/b"),
            parse("/{x}/{y}"),
            parse("^/.*"),
            parse("/*"),
        ];
        let ranks: Vec<Rank> = patterns.iter().cloned().map(rank).collect();
        for (pair, names) in ranks.windows(2).zip(patterns.windows(2)) {
            assert!(pair[0] > pair[1], "{} > {}", names[0], names[1]);
        }
    }
}
