//! Endpoints by load and by lot.

use super::{Candidates, View};

/// The least load for its weight; of equal ones the next in turn (R99).
#[inline]
pub(super) fn least(next: &mut usize, candidates: Candidates<'_>) -> Option<usize> {
    let first = candidates.from(*next)?;
    let count = candidates.views.len();
    let mut best = first;
    for at in (first + 1..count).chain(0..first) {
        if candidates.has(at) && less_loaded(&candidates.views[at], &candidates.views[best]) {
            best = at;
        }
    }
    *next = best + 1;
    Some(best)
}

/// The less loaded of two that are drawn by lot. Each is nearly as good as the least loaded one, and workers that know
/// only their own load do not all run to the same endpoint.
#[inline]
pub(super) fn power_of_two(candidates: Candidates<'_>, random: u64) -> Option<usize> {
    let one = draw(candidates, random, None)?;
    let Some(two) = draw(candidates, step(random), Some(one)) else { return Some(one) };
    let better = less_loaded(&candidates.views[two], &candidates.views[one]);
    Some(if better { two } else { one })
}

/// By lot, each by its weight (R100).
#[inline]
pub(super) fn random(candidates: Candidates<'_>, random: u64) -> Option<usize> {
    let weights = || {
        let all = candidates.views.iter().enumerate();
        all.filter(|(at, _)| candidates.has(*at)).map(|(at, view)| (at, u64::from(view.weight)))
    };
    let total: u64 = weights().map(|(_, weight)| weight).sum();
    let mut left = below(random, total);
    let mut last = None;
    for (at, weight) in weights() {
        if left < weight {
            return Some(at);
        }
        left -= weight;
        last = Some(at);
    }
    last
}

/// Draws before endpoints are searched one by one.
const DRAWS: usize = 8;

/// A candidate other than `not`, each as likely; a search from the last lot on when most endpoints are out.
fn draw(candidates: Candidates<'_>, random: u64, not: Option<usize>) -> Option<usize> {
    let count = candidates.views.len();
    let mut lot = random;
    for _ in 0..DRAWS {
        let at = below(lot, count as u64) as usize;
        if Some(at) != not && candidates.has(at) {
            return Some(at);
        }
        lot = step(lot);
    }
    let start = below(lot, count as u64) as usize;
    (start..count).chain(0..start).find(|&at| Some(at) != not && candidates.has(at))
}

/// Whether the next request is better at `a`: `(load + 1) / weight` is smaller. The request itself counts, so that
/// among idle ones the heaviest wins.
#[inline]
fn less_loaded(a: &View, b: &View) -> bool {
    (u64::from(a.load) + 1) * u64::from(b.weight) < (u64::from(b.load) + 1) * u64::from(a.weight)
}

/// A number below `bound` from random bits, without a division (Lemire 2019); 0 for a bound of 0.
#[inline]
fn below(random: u64, bound: u64) -> u64 {
    ((u128::from(random) * u128::from(bound)) >> 64) as u64
}

/// The next lot: a multiplicative congruential generator, of which the high bits are used (Steele, Vigna 2021).
#[inline]
fn step(random: u64) -> u64 {
    (random | 1).wrapping_mul(0xd134_2543_de82_ef95)
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Balancer, BalancerState, TriedSet};
    use super::*;

    fn views(ends: &[(u32, u32)]) -> Vec<View> {
        ends.iter().map(|&(weight, load)| View { weight, load, healthy: true, hash: 0 }).collect()
    }

    fn picks(algorithm: Algorithm, views: &[View], count: u64) -> Vec<usize> {
        let (balancer, mut state) = (Balancer::new(algorithm, views), BalancerState::new(0));
        let mut random = 1u64;
        let mut next = || crate::random::next(&mut random);
        (0..count).filter_map(|_| balancer.pick(&mut state, views, None, next(), &TriedSet::default())).collect()
    }

    fn share(picks: &[usize], at: usize) -> f64 {
        picks.iter().filter(|&&picked| picked == at).count() as f64 / picks.len() as f64
    }

    #[test]
    fn the_least_loaded_for_its_weight_wins_and_ties_take_turns() {
        let mut ends = views(&[(1, 3), (1, 1), (1, 2)]);
        assert_eq!(picks(Algorithm::LeastConnections, &ends, 2), [1, 1]);
        ends[0] = View { weight: 10, ..ends[0] };
        assert_eq!(picks(Algorithm::LeastConnections, &ends, 1), [0], "4/10 < 2/1");
        assert_eq!(picks(Algorithm::LeastConnections, &views(&[(1, 0); 3]), 4), [0, 1, 2, 0]);
    }

    #[test]
    fn two_choices_avoid_the_loaded_one() {
        let ends = views(&[(1, 0), (1, 9), (1, 0), (1, 0)]);
        let got = picks(Algorithm::PowerOfTwo, &ends, 10_000);
        assert_eq!(share(&got, 1), 0.0);
        for at in [0, 2, 3] {
            assert!((share(&got, at) - 1.0 / 3.0).abs() < 0.03, "{at}: {}", share(&got, at));
        }
    }

    #[test]
    fn lots_fall_by_weight() {
        let got = picks(Algorithm::Random, &views(&[(1, 0), (2, 0), (0, 0), (5, 0)]), 20_000);
        for (at, want) in [0.125, 0.25, 0.0, 0.625].into_iter().enumerate() {
            assert!((share(&got, at) - want).abs() < 0.02, "{at}: {}", share(&got, at));
        }
    }
}
