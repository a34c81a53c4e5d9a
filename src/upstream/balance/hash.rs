//! Endpoints by the hash of a key, so that few keys move when endpoints come or go (C27).
//!
//! A Maglev table (Eisenbud et al., NSDI 2016) names the owner of each slot. When the owner is out, the highest random
//! weight (rendezvous; Thaler, Ravishankar 1998) decides among the candidates: its keys spread over all others, keep
//! their second choice while it is out, and come back afterwards.

use super::{Candidates, View};

/// Slots of the largest table: 128 KiB for each service that hashes.
pub const TABLE_SLOTS_MAX: usize = 65_537;
/// Table sizes: primes, so that every step visits every slot.
const SIZES: [usize; 5] = [251, 1_021, 4_093, 16_381, TABLE_SLOTS_MAX];
/// Slots per endpoint, so that shares differ by about 1 % (section 5.3 of the paper); fewer when the table is full.
const SLOTS_PER_ENDPOINT: usize = 100;

/// A hash that is the same on every node, in every process and version: FNV-1a with a finaliser that spreads it over
/// all bits.
pub fn hash_key(bytes: &[u8]) -> u64 {
    let fnv = bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    spread(fnv)
}

#[derive(Debug)]
pub(super) struct Maglev {
    owners: Box<[u16]>,
}

/// The order in which an endpoint asks for slots, and how far it has come.
struct Claim {
    owner: u16,
    at: usize,
    step: usize,
    share: f64,
    due: f64,
}

impl Maglev {
    /// The table of these endpoints; it does not depend on their order.
    pub(super) fn new(endpoints: &[View]) -> Self {
        let size = SIZES.into_iter().find(|&size| size >= endpoints.len() * SLOTS_PER_ENDPOINT);
        let size = size.unwrap_or(TABLE_SLOTS_MAX);
        let mut claims = claims(endpoints, size);
        let mut owners = vec![NOBODY; size];
        let mut filled = 0;
        while filled < size && !claims.is_empty() {
            for claim in &mut claims {
                claim.due += claim.share;
                if claim.due >= 1.0 && filled < size {
                    claim.due -= 1.0;
                    claim.take(&mut owners);
                    filled += 1;
                }
            }
        }
        Self { owners: owners.into() }
    }

    #[inline]
    pub(super) fn pick(&self, key: u64, candidates: Candidates<'_>) -> Option<usize> {
        let owner = usize::from(self.owners[(key % self.owners.len() as u64) as usize]);
        if candidates.has(owner) { Some(owner) } else { rendezvous(key, candidates) }
    }
}

const NOBODY: u16 = u16::MAX;

fn claims(endpoints: &[View], size: usize) -> Vec<Claim> {
    let heaviest = endpoints.iter().map(|view| view.weight).max().unwrap_or(0);
    let mut order: Vec<usize> = (0..endpoints.len().min(usize::from(NOBODY))).collect();
    order.retain(|&at| endpoints[at].weight > 0);
    order.sort_by_key(|&at| (endpoints[at].hash, at));
    let claim = |at: usize| {
        let hash = spread(endpoints[at].hash);
        Claim {
            owner: at as u16,
            at: hash as usize % size,
            step: (spread(hash) as usize % (size - 1)) + 1,
            share: f64::from(endpoints[at].weight) / f64::from(heaviest),
            due: 0.0,
        }
    };
    order.into_iter().map(claim).collect()
}

impl Claim {
    /// Takes the next free slot; the caller knows that there is one.
    fn take(&mut self, owners: &mut [u16]) {
        for _ in 0..owners.len() {
            let slot = self.at;
            self.at = (self.at + self.step) % owners.len();
            if owners[slot] == NOBODY {
                owners[slot] = self.owner;
                return;
            }
        }
    }
}

/// The candidate with the highest random weight for this key.
fn rendezvous(key: u64, candidates: Candidates<'_>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for at in (0..candidates.views.len()).filter(|&at| candidates.has(at)) {
        let view = &candidates.views[at];
        // A number in (0, 1): 53 bits and a half. Weighted as in Schindelhauer, Schomaker 2005.
        let lot = ((spread(key ^ view.hash) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        let score = f64::from(view.weight) / -lot.ln();
        if best.is_none_or(|(_, most)| score > most) {
            best = Some((at, score));
        }
    }
    best.map(|(at, _)| at)
}

/// The finaliser of MurmurHash3.
fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::super::{Algorithm, Balancer, BalancerState, TriedSet};
    use super::*;

    const KEYS: u64 = 20_000;

    fn views(count: usize) -> Vec<View> {
        let hash = |at: usize| hash_key(format!("10.0.{}.{}:8080", at / 250, at % 250).as_bytes());
        (0..count).map(|at| View { weight: 1, load: 0, healthy: true, hash: hash(at) }).collect()
    }

    /// The identity of each key's endpoint.
    fn owners(views: &[View], exclude: &TriedSet) -> Vec<u64> {
        let (balancer, mut state) = (Balancer::new(Algorithm::ConsistentHash, views), BalancerState::new(0));
        let mut pick = |key: u64| balancer.pick(&mut state, views, Some(hash_key(&key.to_le_bytes())), 0, exclude);
        (0..KEYS).filter_map(|key| pick(key).map(|at| views[at].hash)).collect()
    }

    fn moved(before: &[u64], after: &[u64]) -> f64 {
        before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64
    }

    #[test]
    fn removing_one_of_n_moves_about_one_nth_of_the_keys() {
        for count in [2, 5, 10, 50, 200] {
            let all = views(count);
            let mut fewer = all.clone();
            fewer.remove(count / 2);
            let none = TriedSet::default();
            let share = moved(&owners(&all, &none), &owners(&fewer, &none));
            let fair = 1.0 / count as f64;
            assert!(share < fair * 1.3 + 0.03 && share > fair * 0.6, "{count}: {share} moved, fair {fair}");
        }
    }

    #[test]
    fn an_unhealthy_owner_moves_only_its_own_keys_and_gets_them_back() {
        let all = views(10);
        let before = owners(&all, &TriedSet::default());
        let mut out = all.clone();
        out[3].healthy = false;
        let during = owners(&out, &TriedSet::default());
        assert!(before.iter().zip(&during).all(|(a, b)| a == b || *a == all[3].hash));
        let mut counts = vec![0; 10];
        for (_, to) in before.iter().zip(&during).filter(|(a, b)| a != b) {
            counts[all.iter().position(|view| view.hash == *to).expect("known")] += 1;
        }
        let most = counts.iter().max().copied().unwrap_or(0);
        assert!(counts[3] == 0 && most < KEYS as usize / 10 / 4, "spread over the others: {counts:?}");
    }

    #[test]
    fn a_retry_goes_to_another_endpoint_and_always_the_same() {
        let all = views(5);
        let first = owners(&all, &TriedSet::default());
        for at in 0..5 {
            let mut tried = TriedSet::default();
            tried.insert(at);
            let second = owners(&all, &tried);
            assert!(first.iter().zip(&second).all(|(a, b)| a == b || *a == all[at].hash));
            assert!(second.iter().all(|owner| *owner != all[at].hash));
        }
    }

    #[test]
    fn shares_follow_weights_and_not_the_order() {
        let mut all = views(4);
        all[0].weight = 5;
        all[1].weight = 0;
        let got = owners(&all, &TriedSet::default());
        let share = |view: &View| got.iter().filter(|owner| **owner == view.hash).count() as f64 / got.len() as f64;
        for (view, want) in all.iter().zip([5.0 / 7.0, 0.0, 1.0 / 7.0, 1.0 / 7.0]) {
            assert!((share(view) - want).abs() < 0.02, "{} for {want}", share(view));
        }
        let mut turned = all.clone();
        turned.rotate_left(2);
        assert_eq!(got, owners(&turned, &TriedSet::default()));
    }

    #[test]
    fn the_hash_never_changes() {
        assert_eq!(hash_key(b""), spread(0xcbf2_9ce4_8422_2325));
        assert_eq!(hash_key(b"10.0.0.1:80"), 6_834_485_282_503_893_322);
    }
}
