//! The endpoints of a service. They change without a reload, as names, registries and files say (F32).

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::upstream::balance::{Algorithm, Balancer, View, hash_key};
use crate::upstream::health::Facts;
use crate::upstream::selection::Member;

/// One address of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// As written, `host:port`: identity over reloads, and metric label. Where a name has several addresses, each of
    /// them.
    pub authority: String,
    /// The Host that it sees where the rule says so; empty when that is its authority.
    pub host: String,
    /// Resolved address; None while its name does not resolve.
    pub address: Option<SocketAddr>,
    /// Share of the load, at least 1.
    pub weight: u32,
    /// Its tier: requests go to the lowest that is well (R141).
    pub priority: u32,
    /// Where it stands; empty when that is not said.
    pub zone: String,
    /// What it says of itself, for routes that ask for some endpoints only.
    pub metadata: Vec<(String, String)>,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            authority: String::new(),
            host: String::new(),
            address: None,
            weight: 1,
            priority: 0,
            zone: String::new(),
            metadata: Vec::new(),
        }
    }
}

impl Endpoint {
    /// The endpoint at this address.
    pub fn at(address: SocketAddr) -> Self {
        Self { authority: address.to_string(), address: Some(address), ..Self::default() }
    }

    /// The endpoint as balancing sees it, without load.
    pub fn view(&self) -> View {
        View {
            weight: self.weight,
            load: 0,
            healthy: self.address.is_some(),
            hash: hash_key(self.authority.as_bytes()),
        }
    }

    /// Whether it says all of this of itself.
    pub fn says(&self, wanted: &[(String, String)]) -> bool {
        wanted.iter().all(|wanted| self.metadata.contains(wanted))
    }

    /// The endpoint with what is known of it.
    pub fn member(&self, facts: Facts) -> Member<'_> {
        Member { view: self.view(), priority: self.priority, zone: &self.zone, facts }
    }
}

/// The endpoints of a service at one moment, and what balancing computed from them. Never changed, only replaced.
#[derive(Debug)]
pub struct EndpointSet {
    /// Counts the sets of a service.
    pub version: u64,
    /// The endpoints; may be none.
    pub endpoints: Vec<Endpoint>,
    /// Chooses one.
    pub balancer: Balancer,
    /// The weights that its tables were made with, where it has tables.
    weights: Box<[u32]>,
}

/// Where the present set lies: the same place over reloads, for as long as what the endpoints come from stands in the
/// configuration. The control thread replaces the set; workers take it up when they are told, between requests.
#[derive(Debug)]
pub struct Endpoints {
    present: ArcSwap<EndpointSet>,
    algorithm: Algorithm,
}

impl Endpoints {
    /// A place with these endpoints.
    pub fn new(algorithm: Algorithm, endpoints: Vec<Endpoint>) -> Arc<Self> {
        let weights = weights(algorithm, &endpoints, |endpoint| endpoint.weight);
        let set = EndpointSet::new(1, algorithm, endpoints, weights);
        Arc::new(Self { present: ArcSwap::from_pointee(set), algorithm })
    }

    /// The present set.
    pub fn get(&self) -> Arc<EndpointSet> {
        self.present.load_full()
    }

    /// How one is chosen.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Replaces the set, if these are others. Only the control thread does. Returns whether they are.
    pub fn replace(&self, endpoints: &[Endpoint]) -> bool {
        self.replace_weighted(endpoints, |endpoint| endpoint.weight)
    }

    /// The same, with weights that hold in place of those written: tables of who owns which keys are made from them.
    /// What has no tables takes weights from the facts about endpoints, and is not replaced for them.
    pub fn replace_weighted(&self, endpoints: &[Endpoint], weight: impl Fn(&Endpoint) -> u32) -> bool {
        let present = self.present.load();
        let weights = weights(self.algorithm, endpoints, weight);
        let is_same = present.endpoints == endpoints;
        if is_same && present.weights == weights {
            return false;
        }
        // The numbers of endpoints mean the same where only weights differ: what was tried stays so.
        let version = if is_same { present.version } else { present.version + 1 };
        self.present.store(Arc::new(EndpointSet::new(version, self.algorithm, endpoints.to_vec(), weights)));
        true
    }

    /// Makes the tables anew with these weights, if they are others. Returns whether they are.
    pub fn reweigh(&self, weight: impl Fn(&Endpoint) -> u32) -> bool {
        let present = self.get();
        self.replace_weighted(&present.endpoints, weight)
    }
}

fn weights(algorithm: Algorithm, endpoints: &[Endpoint], weight: impl Fn(&Endpoint) -> u32) -> Box<[u32]> {
    if algorithm.needs_key() { endpoints.iter().map(weight).collect() } else { Box::default() }
}

impl EndpointSet {
    fn new(version: u64, algorithm: Algorithm, endpoints: Vec<Endpoint>, weights: Box<[u32]>) -> Self {
        let mut views: Vec<_> = endpoints.iter().map(Endpoint::view).collect();
        views.iter_mut().zip(&weights).for_each(|(view, weight)| view.weight = *weight);
        Self { version, balancer: Balancer::new(algorithm, &views), endpoints, weights }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::balance::{BalancerState, TriedSet};

    const NONE: TriedSet = TriedSet::NONE;

    #[test]
    fn a_set_is_replaced_only_by_another_one() {
        let one = |text: &str| Endpoint::at(text.parse().expect("an address"));
        let place = Endpoints::new(Algorithm::IpHash, vec![one("10.0.0.1:80")]);
        let first = place.get();
        assert!(!place.replace(&[one("10.0.0.1:80")]) && Arc::ptr_eq(&first, &place.get()));
        assert!(place.replace(&[one("10.0.0.1:80"), one("10.0.0.2:80")]));
        assert_eq!((place.get().version, place.get().endpoints.len(), first.endpoints.len()), (2, 2, 1));
        assert!(place.replace(&[]) && place.get().endpoints.is_empty());
    }

    #[test]
    fn other_weights_make_other_tables_and_nothing_else() {
        let one = |text: &str| Endpoint::at(text.parse().expect("an address"));
        let endpoints = [one("10.0.0.1:80"), one("10.0.0.2:80")];
        let place = Endpoints::new(Algorithm::ConsistentHash, endpoints.to_vec());
        let share = |place: &Endpoints| {
            let (set, mut state) = (place.get(), BalancerState::new(0));
            let views: Vec<_> = set.endpoints.iter().map(Endpoint::view).collect();
            let pick = |key: u64| set.balancer.pick(&mut state, &views, Some(hash_key(&key.to_le_bytes())), 0, &NONE);
            (0..1_000).map(pick).filter(|picked| *picked == Some(0)).count()
        };
        assert!((400..600).contains(&share(&place)));
        assert!(place.reweigh(|endpoint| if endpoint.authority == "10.0.0.1:80" { 9 } else { 1 }));
        assert!((850..950).contains(&share(&place)), "{}", share(&place));
        assert_eq!(place.get().version, 1, "what was tried stays so");
        assert!(!place.replace_weighted(&endpoints, |endpoint| if endpoint.authority == "10.0.0.1:80" {
            9
        } else {
            1
        }));
        assert!(place.replace(&endpoints) && (400..600).contains(&share(&place)));
        let turns = Endpoints::new(Algorithm::WeightedRoundRobin, endpoints.to_vec());
        assert!(!turns.reweigh(|_| 5), "it has no tables");
    }
}
