//! Endpoints in turn.

use super::Candidates;

/// One after the other (R97, C28). An endpoint that is out hands its turn to the next, which is not asked twice then.
#[inline]
pub(super) fn round_robin(next: &mut usize, candidates: Candidates<'_>) -> Option<usize> {
    let picked = candidates.from(*next)?;
    *next = picked + 1;
    Some(picked)
}

/// Turns that a worker's sequence may begin at.
const STARTS: u64 = 64;

/// Smooth weighted round robin (nginx's): each endpoint gains its weight, the richest is picked and pays what all of
/// them gained. In a cycle of the sum of weights each is picked just `weight` times, evenly spread (C29).
#[derive(Clone, Debug)]
pub(super) struct Smooth {
    credit: Vec<i64>,
    /// Turns to skip before the first pick.
    skip: u64,
}

impl Smooth {
    pub(super) fn new(random: u64) -> Self {
        Self { credit: Vec::new(), skip: random % STARTS }
    }

    #[inline]
    pub(super) fn pick(&mut self, candidates: Candidates<'_>) -> Option<usize> {
        if self.credit.len() != candidates.views.len() {
            // The service has other endpoints than before: credits belong to nobody any more.
            self.credit.clear();
            self.credit.resize(candidates.views.len(), 0);
        }
        for _ in 0..std::mem::take(&mut self.skip) {
            self.turn(candidates);
        }
        self.turn(candidates)
    }

    #[inline]
    fn turn(&mut self, candidates: Candidates<'_>) -> Option<usize> {
        let mut gained = 0;
        let mut richest: Option<(usize, i64)> = None;
        for (at, credit) in self.credit.iter_mut().enumerate() {
            if !candidates.has(at) {
                continue;
            }
            let weight = i64::from(candidates.views[at].weight);
            gained += weight;
            // Saturating, since weights may change at any time; sums stay far below otherwise.
            *credit = credit.saturating_add(weight);
            if richest.is_none_or(|(_, most)| *credit > most) {
                richest = Some((at, *credit));
            }
        }
        let (picked, _) = richest?;
        self.credit[picked] = self.credit[picked].saturating_sub(gained);
        Some(picked)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Balancer, BalancerState, TriedSet, View};

    fn sequence(algorithm: Algorithm, weights: &[u32], random: u64, count: usize) -> Vec<usize> {
        let view = |&weight| View { weight, load: 0, healthy: true, hash: 0 };
        let views: Vec<View> = weights.iter().map(view).collect();
        let (balancer, mut state) = (Balancer::new(algorithm, &views), BalancerState::new(random));
        let pick = |_| balancer.pick(&mut state, &views, None, 0, &TriedSet::default());
        (0..count).filter_map(pick).collect()
    }

    #[test]
    fn smooth_weights_give_the_known_sequence() {
        let got = sequence(Algorithm::WeightedRoundRobin, &[5, 1, 1], 0, 14);
        assert_eq!(got, [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn each_cycle_gives_each_its_weight_wherever_it_begins() {
        for random in 0..64 {
            let weights = [3, 1, 7, 2];
            let got = sequence(Algorithm::WeightedRoundRobin, &weights, random, 13 * 5);
            for cycle in got.chunks(13) {
                let counts = [0, 1, 2, 3].map(|at| cycle.iter().filter(|&&picked| picked == at).count() as u32);
                assert_eq!(counts, weights);
            }
        }
    }

    #[test]
    fn workers_begin_at_different_places() {
        let first = |random: u64| sequence(Algorithm::RoundRobin, &[1; 4], random << 16, 4);
        assert_eq!([first(0), first(3)], [vec![0, 1, 2, 3], vec![3, 0, 1, 2]]);
        assert_eq!(first(u64::MAX).len(), 4);
    }

    #[test]
    fn an_endpoint_that_is_out_does_not_double_its_neighbour() {
        let mut views = [View { weight: 1, load: 0, healthy: true, hash: 0 }; 4];
        views[1].healthy = false;
        let (balancer, mut state) = (Balancer::new(Algorithm::RoundRobin, &views), BalancerState::new(0));
        let got: Vec<_> = (0..6).map(|_| balancer.pick(&mut state, &views, None, 0, &TriedSet::default())).collect();
        assert_eq!(got, [0, 2, 3, 0, 2, 3].map(Some));
    }
}
