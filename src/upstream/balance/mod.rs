//! Which endpoint gets a request (R97 to R106, C27 to C29): algorithms over a slice of views, without I/O, clock or
//! randomness of their own.
//!
//! The compiled part ([`Balancer`]) is immutable and shared, the state ([`BalancerState`]) belongs to one worker, and
//! the views are what that worker knows at the moment. Only endpoints that are healthy, have a weight and have not been
//! tried for this request are candidates (R105). No pick allocates. What changes with time, such as slow start or
//! latency, enters through [`View::weight`] and [`View::load`], so it needs no algorithm of its own.

mod hash;
mod load;
mod turns;

pub use hash::{TABLE_SLOTS_MAX, hash_key};

use hash::Maglev;
use turns::Smooth;

/// Most endpoints of a service; whoever builds a [`Balancer`] refuses more.
pub const ENDPOINTS_MAX: usize = 4_096;
/// Most endpoints that are remembered as tried for one request.
pub const TRIED_MAX: usize = 16;

/// How an endpoint is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// One after the other (R97). O(1), O(n) behind endpoints that are out.
    RoundRobin,
    /// One after the other by weight, evenly spread: smooth weighted round robin (R98, C29). O(n).
    WeightedRoundRobin,
    /// The least load for its weight; ties take turns (R99). O(n).
    LeastConnections,
    /// The less loaded of two drawn by lot (Mitzenmacher 2001). O(1), O(n) when most are out.
    PowerOfTwo,
    /// As [`Self::PowerOfTwo`], where load is the latency of late, with peaks remembered, times the requests in flight.
    PeakEwma,
    /// By lot, by weight (R100). O(n).
    Random,
    /// By the hash of the client's address; without one as round robin (R101). O(1), O(n) when the owner is out.
    IpHash,
    /// By the hash of any key (R102, R103, C27). O(1), O(n) when the owner is out.
    ConsistentHash,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Algorithm; 8] = [
        Algorithm::RoundRobin,
        Algorithm::WeightedRoundRobin,
        Algorithm::LeastConnections,
        Algorithm::PowerOfTwo,
        Algorithm::PeakEwma,
        Algorithm::Random,
        Algorithm::IpHash,
        Algorithm::ConsistentHash,
    ];

    /// The word in configuration and reports.
    pub const fn word(self) -> &'static str {
        match self {
            Algorithm::RoundRobin => "round_robin",
            Algorithm::WeightedRoundRobin => "weighted_round_robin",
            Algorithm::LeastConnections => "least_connections",
            Algorithm::PowerOfTwo => "power_of_two",
            Algorithm::PeakEwma => "peak_ewma",
            Algorithm::Random => "random",
            Algorithm::IpHash => "ip_hash",
            Algorithm::ConsistentHash => "consistent_hash",
        }
    }

    /// Whether a pick depends on a key's hash.
    pub const fn needs_key(self) -> bool {
        matches!(self, Algorithm::IpHash | Algorithm::ConsistentHash)
    }

    /// Whether a pick looks at the load of endpoints.
    pub const fn needs_load(self) -> bool {
        matches!(self, Algorithm::LeastConnections | Algorithm::PowerOfTwo | Algorithm::PeakEwma)
    }
}

/// An endpoint as a worker sees it at the moment of a pick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// Share relative to the others, in any unit; 0 takes no requests. Slow start lowers it for a while.
    pub weight: u32,
    /// Requests in flight, or another measure of load.
    pub load: u32,
    /// Whether it may be asked.
    pub healthy: bool,
    /// Hash of its identity ([`hash_key`] of its address), the same on every worker and after every reload.
    pub hash: u64,
}

/// Endpoints that were tried for this request already.
#[derive(Clone, Copy, Debug, Default)]
pub struct TriedSet {
    tried: [u32; TRIED_MAX],
    len: usize,
    /// Of which endpoints.
    of: u64,
}

impl TriedSet {
    /// None.
    pub const NONE: Self = Self { tried: [0; TRIED_MAX], len: 0, of: 0 };

    /// Adds an endpoint. False when [`TRIED_MAX`] are remembered: no further attempt should be made.
    pub fn insert(&mut self, endpoint: usize) -> bool {
        let Ok(endpoint) = u32::try_from(endpoint) else { return false };
        match self.tried.get_mut(self.len) {
            Some(place) => {
                *place = endpoint;
                self.len += 1;
                true
            }
            None => false,
        }
    }

    /// Says that numbers are those of this set of endpoints from now on; those of another one mean nothing.
    #[inline]
    pub fn follow(&mut self, of: u64) {
        if self.of != of {
            *self = Self { of, ..Self::default() };
        }
    }

    /// Whether an endpoint was tried.
    #[inline]
    pub fn has(&self, endpoint: usize) -> bool {
        self.tried[..self.len].iter().any(|&tried| tried as usize == endpoint)
    }

    /// How many were.
    pub fn count(&self) -> usize {
        self.len
    }

    /// Whether none was.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// The immutable part of a service's balancing.
#[derive(Debug)]
pub struct Balancer {
    algorithm: Algorithm,
    table: Option<Maglev>,
}

/// What one worker remembers between picks.
#[derive(Clone, Debug)]
pub struct BalancerState {
    next: usize,
    smooth: Smooth,
}

impl BalancerState {
    /// A state whose first turn depends on `random`, so that workers do not march in step. 0 begins at the first.
    pub fn new(random: u64) -> Self {
        // Any bits will do: turns are taken modulo the number of endpoints.
        Self { next: (random >> 16) as usize, smooth: Smooth::new(random) }
    }
}

/// The endpoints that may be picked.
#[derive(Clone, Copy)]
struct Candidates<'a> {
    views: &'a [View],
    exclude: &'a TriedSet,
}

impl Candidates<'_> {
    #[inline]
    fn has(&self, at: usize) -> bool {
        self.views.get(at).is_some_and(|view| view.healthy && view.weight > 0) && !self.exclude.has(at)
    }

    /// The first candidate from `start` on, going round.
    #[inline]
    fn from(&self, start: usize) -> Option<usize> {
        let count = self.views.len();
        let start = if start < count { start } else { start.checked_rem(count)? };
        (start..count).chain(0..start).find(|&at| self.has(at))
    }
}

impl Balancer {
    /// The balancer of endpoints in the order in which [`Balancer::pick`] will see them. Only hash and weight matter.
    pub fn new(algorithm: Algorithm, endpoints: &[View]) -> Self {
        Self { algorithm, table: algorithm.needs_key().then(|| Maglev::new(endpoints)) }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Picks an endpoint; None when there is no candidate (R106). `random` must be new for every pick.
    #[inline]
    pub fn pick(
        &self,
        state: &mut BalancerState,
        views: &[View],
        key_hash: Option<u64>,
        random: u64,
        exclude: &TriedSet,
    ) -> Option<usize> {
        let candidates = Candidates { views, exclude };
        match self.algorithm {
            Algorithm::RoundRobin => turns::round_robin(&mut state.next, candidates),
            Algorithm::WeightedRoundRobin => state.smooth.pick(candidates),
            Algorithm::LeastConnections => load::least(&mut state.next, candidates),
            Algorithm::PowerOfTwo | Algorithm::PeakEwma => load::power_of_two(candidates, random),
            Algorithm::Random => load::random(candidates, random),
            Algorithm::IpHash | Algorithm::ConsistentHash => match (key_hash, &self.table) {
                (Some(key), Some(table)) => table.pick(key, candidates),
                _ => turns::round_robin(&mut state.next, candidates),
            },
        }
    }

    /// Why `other` did not get the request that `picked` got.
    pub fn why_not(&self, views: &[View], picked: Option<usize>, other: usize, exclude: &TriedSet) -> WhyNot {
        match (views.get(other), self.algorithm) {
            (None, _) => WhyNot::Unknown,
            (Some(view), _) if !view.healthy => WhyNot::Unhealthy,
            (Some(view), _) if view.weight == 0 => WhyNot::NoWeight,
            _ if exclude.has(other) => WhyNot::Tried,
            _ if picked == Some(other) => WhyNot::Picked,
            (_, Algorithm::LeastConnections) => WhyNot::NotLessLoaded,
            (_, Algorithm::PowerOfTwo | Algorithm::PeakEwma) => WhyNot::NotDrawnOrNotLessLoaded,
            (_, Algorithm::Random) => WhyNot::NotDrawn,
            (_, Algorithm::IpHash | Algorithm::ConsistentHash) => WhyNot::KeyBelongsToAnother,
            (_, Algorithm::RoundRobin | Algorithm::WeightedRoundRobin) => WhyNot::NotItsTurn,
        }
    }
}

/// Why an endpoint was not picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It was picked.
    Picked,
    /// There is no such endpoint.
    Unknown,
    /// It is not healthy (R105).
    Unhealthy,
    /// Its weight is 0.
    NoWeight,
    /// It was tried for this request.
    Tried,
    /// Another one's turn.
    NotItsTurn,
    /// Another one has less load for its weight, or as much and its turn.
    NotLessLoaded,
    /// The lot fell on others, or it lost against the other one drawn.
    NotDrawnOrNotLessLoaded,
    /// The lot fell on another one.
    NotDrawn,
    /// The key's hash belongs to another one.
    KeyBelongsToAnother,
}

impl WhyNot {
    /// In words, for `ringway explain`.
    pub const fn text(self) -> &'static str {
        match self {
            WhyNot::Picked => "picked",
            WhyNot::Unknown => "no such endpoint",
            WhyNot::Unhealthy => "not healthy",
            WhyNot::NoWeight => "weight 0",
            WhyNot::Tried => "tried for this request already",
            WhyNot::NotItsTurn => "not its turn",
            WhyNot::NotLessLoaded => "not less loaded for its weight",
            WhyNot::NotDrawnOrNotLessLoaded => "not drawn, or more loaded than the other one drawn",
            WhyNot::NotDrawn => "not drawn",
            WhyNot::KeyBelongsToAnother => "the key belongs to another endpoint",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn views(weights: &[u32]) -> Vec<View> {
        let view = |(at, &weight): (usize, &u32)| View {
            weight,
            load: 0,
            healthy: true,
            hash: hash_key(format!("10.0.0.{at}:80").as_bytes()),
        };
        weights.iter().enumerate().map(view).collect()
    }

    #[test]
    fn nobody_is_picked_when_nobody_can_be() {
        for algorithm in Algorithm::ALL {
            let mut state = BalancerState::new(0);
            let mut pick = |views: &[View], exclude: &TriedSet| {
                Balancer::new(algorithm, views).pick(&mut state, views, Some(7), 7, exclude)
            };
            assert_eq!(pick(&[], &TriedSet::default()), None);
            let mut some = views(&[1, 0, 1]);
            some[0].healthy = false;
            let mut tried = TriedSet::default();
            assert_eq!(pick(&some, &tried), Some(2), "{algorithm:?}");
            assert!(tried.insert(2));
            assert_eq!(pick(&some, &tried), None, "{algorithm:?}");
        }
    }

    #[test]
    fn reasons_name_the_first_that_holds() {
        let mut some = views(&[1, 0, 1, 1]);
        some[0].healthy = false;
        let mut tried = TriedSet::default();
        tried.insert(2);
        let balancer = Balancer::new(Algorithm::Random, &some);
        let why = |other| balancer.why_not(&some, Some(3), other, &tried);
        let want = [WhyNot::Unhealthy, WhyNot::NoWeight, WhyNot::Tried, WhyNot::Picked, WhyNot::Unknown];
        assert_eq!([0, 1, 2, 3, 4].map(why), want);
    }

    #[test]
    fn tried_endpoints_are_bounded() {
        let mut tried = TriedSet::default();
        assert!((0..TRIED_MAX).all(|at| tried.insert(at)));
        assert!(!tried.insert(99) && !tried.has(99) && tried.has(TRIED_MAX - 1));
        tried.clear();
        assert!(!tried.has(0));
    }

    proptest! {
        #[test]
        fn only_candidates_are_picked_and_one_if_there_is_any(
            ends in prop::collection::vec((0..4u32, 0..5u32, any::<bool>()), 0..40),
            tried in prop::collection::vec(0..40usize, 0..6),
            key in any::<Option<u64>>(),
            randoms in prop::collection::vec(any::<u64>(), 5),
        ) {
            let mut all = views(&ends.iter().map(|end| end.0).collect::<Vec<_>>());
            for (view, end) in all.iter_mut().zip(&ends) {
                (view.load, view.healthy) = (end.1, end.2);
            }
            let mut exclude = TriedSet::default();
            tried.iter().for_each(|&at| { exclude.insert(at); });
            let any = (0..all.len()).any(|at| Candidates { views: &all, exclude: &exclude }.has(at));
            for algorithm in Algorithm::ALL {
                let balancer = Balancer::new(algorithm, &all);
                let mut state = BalancerState::new(randoms[0]);
                for &random in &randoms {
                    let picked = balancer.pick(&mut state, &all, key, random, &exclude);
                    prop_assert_eq!(picked.is_some(), any, "{:?}", algorithm);
                    let legal = |at| Candidates { views: &all, exclude: &exclude }.has(at);
                    prop_assert!(picked.is_none_or(legal), "{:?}", algorithm);
                }
            }
        }
    }
}
