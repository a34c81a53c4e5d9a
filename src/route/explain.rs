//! Why a request goes to the route that it goes to, for `ringway explain` (C31).
//!
//! Every route is looked at one by one, without the trie; that the answer is always that of `find` is a property test.

use std::fmt;

use super::table::without_dot;
use super::{PathPattern, Rank, RouteId, RouteInput, RouteTable};

/// What became of every route of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The route that takes the request.
    pub winner: Option<RouteId>,
    /// All routes: the winner, then those that match but lost, the closest first, then those that fail, the ones that
    /// fail latest (predicate, method, path, host) first.
    pub considered: Vec<Considered>,
}

/// One route of an [`Explanation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Considered {
    /// Which route.
    pub route: RouteId,
    /// What became of it.
    pub verdict: Verdict,
}

/// What became of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It takes the request.
    Won,
    /// It matches, but another one goes before it.
    LostTo {
        /// The one that takes the request.
        winner: RouteId,
        /// What decided.
        why: Lost,
    },
    /// It does not match.
    Failed(Failure),
}

/// What decided between two routes that match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// The other one's host is more specific.
    Host,
    /// The other one's path is more specific.
    Path,
    /// The other one has a higher priority.
    Priority,
    /// The other one has more predicates.
    Predicates,
    /// The other one was declared earlier.
    Declared,
}

/// Why a route does not match: the first of host, path, method and predicates that does not hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// None of its hosts.
    Host,
    /// Not its path.
    Path,
    /// Not one of its methods.
    Method,
    /// This predicate, by its place from 0 and in words.
    Predicate(usize, String),
}

impl RouteTable {
    /// What becomes of every route for this request. Takes time in proportion to the number of routes.
    pub fn explain(&self, input: &impl RouteInput) -> Explanation {
        let mut matching = Vec::new();
        let mut failed = Vec::new();
        for declared in 0..self.len() as u32 {
            match self.examine(declared, input) {
                Ok(rank) => matching.push((rank, self.specs()[declared as usize].id)),
                Err(failure) => failed.push((self.specs()[declared as usize].id, failure)),
            }
        }
        matching.sort_by(|a, b| b.0.cmp(&a.0));
        failed.sort_by_key(|(_, failure)| std::cmp::Reverse(failure.stage()));
        let winner = matching.first().map(|(_, id)| *id);
        let ranked = matching.iter().map(|(rank, route)| {
            let verdict = match (winner, matching.first()) {
                (Some(winner), Some((best, _))) if best != rank => {
                    Verdict::LostTo { winner, why: Lost::between(best, rank) }
                }
                _ => Verdict::Won,
            };
            Considered { route: *route, verdict }
        });
        let failed = failed.into_iter().map(|(route, failure)| Considered { route, verdict: Verdict::Failed(failure) });
        Explanation { winner, considered: ranked.chain(failed).collect() }
    }

    fn examine(&self, declared: u32, input: &impl RouteInput) -> Result<Rank, Failure> {
        let spec = &self.specs()[declared as usize];
        let demands = self.fixed.demands.get(self.fixed.routes[declared as usize].demands as usize);
        let rank = Rank::of(spec, declared, without_dot(input.host()), self.fixed.order).ok_or(Failure::Host)?;
        let path = input.path();
        let path_holds = path.len() <= super::PATH_BYTES_MAX
            && match (&spec.path, spec.path.shape()) {
                (PathPattern::Regex(_), _) => {
                    path.starts_with(b"/") && demands.is_some_and(|demands| self.regex_holds(demands, path))
                }
                (_, shape) => shape.is_some_and(|shape| shape.takes(path)),
            };
        if !path_holds {
            return Err(Failure::Path);
        }
        if !spec.methods.contains(input.method()) {
            return Err(Failure::Method);
        }
        let predicates = demands.map_or(&[][..], |demands| &demands.predicates);
        let unmet = predicates.iter().position(|predicate| !predicate.holds(input, &self.regexes));
        match unmet {
            Some(at) => Err(Failure::Predicate(at, spec.predicates[at].to_string())),
            None => Ok(rank),
        }
    }
}

impl Lost {
    fn between(winner: &Rank, loser: &Rank) -> Lost {
        if winner.host != loser.host {
            Lost::Host
        } else if winner.path != loser.path {
            Lost::Path
        } else if winner.priority != loser.priority {
            Lost::Priority
        } else if winner.predicates != loser.predicates {
            Lost::Predicates
        } else {
            Lost::Declared
        }
    }
}

impl Failure {
    fn stage(&self) -> u8 {
        match self {
            Failure::Host => 0,
            Failure::Path => 1,
            Failure::Method => 2,
            Failure::Predicate(..) => 3,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Verdict::Won => f.write_str("won"),
            Verdict::LostTo { winner, why } => write!(f, "lost to {}: {why}", winner.0),
            Verdict::Failed(failure) => write!(f, "failed: {failure}"),
        }
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Lost::Host => "less specific host",
            Lost::Path => "less specific path",
            Lost::Priority => "lower priority",
            Lost::Predicates => "fewer predicates",
            Lost::Declared => "declared later",
        })
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Host => f.write_str("host"),
            Failure::Path => f.write_str("path"),
            Failure::Method => f.write_str("method"),
            Failure::Predicate(_, text) => f.write_str(text),
        }
    }
}
