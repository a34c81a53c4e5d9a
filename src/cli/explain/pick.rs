//! Which endpoint of a service is asked, and why each other one is not (R105, R141, F22 to F28).

use serde_json::Value;

use crate::http::exchange::Exchange;
use crate::limits::SLOW_START_PERCENT;
use crate::snapshot::{Endpoint, Service, Snapshot};
use crate::time::Now;
use crate::upstream::balance::{Balancer, BalancerState, TriedSet, View, WhyNot};
use crate::upstream::health::{Administration, Facts, Out, Returning, Verdict};
use crate::upstream::selection::Selection;
use crate::upstream::service::key_of;

/// The moment that is explained. Any will do that is later than what is known of endpoints.
const NOW: Now = Now::from_ms(1 << 40);

/// An endpoint with what is known of it.
#[derive(Clone, Debug)]
pub struct Known {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What speaks for and against it.
    pub facts: Facts,
    /// Requests that it has, or their cost where latency is balanced.
    pub load: u32,
    /// Where it comes from: `configuration`, or a lookup.
    pub source: String,
    /// What the running gateway says of its state.
    pub why: Option<String>,
}

/// One endpoint, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The endpoint.
    pub known: Known,
    /// Whether it gets the request.
    pub picked: bool,
    /// Why, or why not.
    pub why: String,
}

/// The endpoints of a service as its configuration has them: nothing speaks against any, and names are looked up.
pub fn configured(service: &Service) -> Vec<Known> {
    let set = service.endpoints.get();
    let known = |endpoint: &Endpoint| {
        let written = service.sources.iter().find(|source| source.endpoint.authority == endpoint.authority);
        let lookup = written.and_then(|source| source.lookup.as_ref());
        Known {
            endpoint: endpoint.clone(),
            facts: Facts::default(),
            load: 0,
            source: lookup.map_or("configuration".to_owned(), |lookup| format!("{} {}", lookup.kind(), lookup.text())),
            why: None,
        }
    };
    set.endpoints.iter().map(known).collect()
}

/// The endpoints of a service as a running gateway tells them (`GET /services/{name}/endpoints`). What is no endpoint
/// is left out.
pub fn running(told: &Value, returning: &Returning) -> Vec<Known> {
    let one = |told: &Value| {
        let text = |key: &str| told[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| told[key].as_u64().and_then(|number| u32::try_from(number).ok());
        let metadata = told["metadata"].as_object().into_iter().flatten();
        let weight = number("weight_configured")?;
        Some(Known {
            endpoint: Endpoint {
                authority: told["address"].as_str()?.to_owned(),
                host: String::new(),
                address: told["resolved"].as_str().and_then(|address| address.parse().ok()),
                weight,
                priority: number("priority")?,
                zone: text("zone"),
                metadata: metadata.map(|(key, value)| (key.clone(), text_of(value))).collect(),
            },
            facts: facts(told, weight, returning),
            load: load(told),
            source: text("source"),
            why: told["why"].as_str().map(str::to_owned),
        })
    };
    told.as_array().into_iter().flatten().filter_map(one).collect()
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What the balancing compares, over all workers: one worker sees its part of it.
fn load(told: &Value) -> u32 {
    let active = told["active_connections"].as_u64().unwrap_or_default();
    let cost = match told["ewma_ms"].as_f64() {
        Some(ms) => ms * 1e3 * (active as f64 + 1.0),
        None => active as f64,
    };
    // Saturating, as casts of floats are.
    cost as u32
}

fn facts(told: &Value, configured: u32, returning: &Returning) -> Facts {
    let state = told["state"].as_str().unwrap_or_default();
    let weight = told["weight"].as_u64().and_then(|weight| u32::try_from(weight).ok());
    let administration = match state {
        "draining" => Administration::Draining,
        "maintenance" => Administration::Maintenance,
        _ => Administration::Enabled,
    };
    let percent = told["slow_start_percent"].as_u64().unwrap_or(100);
    Facts {
        administration,
        weight: weight.filter(|weight| *weight != configured),
        verdict: if state == "check_failed" { Verdict::Down } else { Verdict::Unknown },
        ejected_until: if state == "ejected" { NOW.plus_ms(1) } else { Now(0) },
        ejections: 0,
        back_since: (percent < 100).then(|| began(percent, returning)),
    }
}

/// When a slow start began that has come to so many percent.
fn began(percent: u64, returning: &Returning) -> Now {
    let (gained, whole) = (percent.saturating_sub(SLOW_START_PERCENT), 100 - SLOW_START_PERCENT);
    Now::from_ms(NOW.ms() - (gained * returning.slow_start_ms).div_ceil(whole).min(NOW.ms()))
}

/// Has a worker that has just started choose among these. Where all are of one tier, in one zone and well, that is the
/// algorithm's choice alone.
pub fn pick(service: &Service, known: Vec<Known>, x: &Exchange) -> Vec<Asked> {
    let rules = &service.resilience;
    let (taken, other): (Vec<_>, Vec<_>) = known.into_iter().partition(|known| known.endpoint.says(&service.subset));
    let members: Vec<_> = taken.iter().map(|known| known.endpoint.member(known.facts)).collect();
    let selection = Selection::of(&members, &rules.selection, &rules.returning, NOW);
    let mut views = selection.tiers.first().map(|tier| tier.views.clone()).unwrap_or_default();
    views.iter_mut().zip(&taken).for_each(|(view, known)| view.load = known.load);
    let algorithm = service.endpoints.algorithm();
    let balancer = Balancer::new(algorithm, &weighted(&taken));
    let key = algorithm.needs_key().then(|| key_of(&service.hash_key, x)).flatten();
    let turn = |but: &TriedSet| balancer.pick(&mut BalancerState::new(0), &views, key, 0, but);
    let first = turn(&TriedSet::NONE);
    let ramps = |at: usize| selection.ramping.iter().any(|(slow, _)| *slow as usize == at);
    // A key always has the same lot; without one, what most requests would meet.
    let defers = |at: usize| match key {
        Some(key) => selection.defers(at, key, &rules.returning, NOW),
        None => ramps(at) && taken[at].facts.ramp_percent(NOW, &rules.returning) < 50,
    };
    let slow = first.filter(|at| defers(*at));
    let picked = match slow {
        Some(slow) => turn(&but(slow)).or(first),
        None => first,
    };
    let tier = picked.map(|at| taken[at].endpoint.priority);
    let told = |(at, known): (usize, Known)| {
        let why = match reason(&known, &views, at, tier, picked) {
            Some(why) => why,
            None if slow == Some(at) && picked != slow => starts_slowly(&known, &rules.returning),
            None if algorithm.needs_key() && key.is_none() && picked != Some(at) => {
                WhyNot::NotItsTurn.text().to_owned()
            }
            None => balanced(&balancer, &views, picked, at),
        };
        Asked { picked: picked == Some(at), why, known }
    };
    let subset: Vec<_> = service.subset.iter().map(|(key, value)| format!("{key}={value}")).collect();
    let left_out = |known| Asked { known, picked: false, why: format!("the route asks for {}", subset.join(", ")) };
    taken.into_iter().enumerate().map(told).chain(other.into_iter().map(left_out)).collect()
}

fn weighted(known: &[Known]) -> Vec<View> {
    let view = |known: &Known| {
        let view = known.endpoint.view();
        View { weight: known.facts.weight.unwrap_or(view.weight), ..view }
    };
    known.iter().map(view).collect()
}

fn but(at: usize) -> TriedSet {
    let mut set = TriedSet::default();
    set.insert(at);
    set
}

/// Why it may not be asked, or is only because there is no better one; None where the algorithm decides.
fn reason(known: &Known, views: &[View], at: usize, tier: Option<u32>, picked: Option<usize>) -> Option<String> {
    let is_asked = views.get(at).is_some_and(|view| view.healthy);
    let with = |general: &str| match &known.why {
        Some(why) => why.clone(),
        None => general.to_owned(),
    };
    let out = match known.facts.out(NOW) {
        _ if known.endpoint.address.is_none() => Some("its name does not resolve".to_owned()),
        Some(Out::Administration(administration)) => {
            Some(format!("{}: {}", administration.word(), with("an operator said so")))
        }
        Some(Out::CheckFailed) => Some(with("its checks fail")),
        Some(Out::Ejected(_)) => Some(format!("ejected: {}", with("requests to it failed"))),
        None => None,
    };
    match out {
        Some(out) if is_asked && picked == Some(at) => Some(format!("in a panic anybody is asked; {out}")),
        Some(out) if !is_asked => Some(out),
        _ if is_asked && views[at].weight == 0 => Some("its weight is 0".to_owned()),
        _ if is_asked => None,
        _ if tier.is_some_and(|tier| tier < known.endpoint.priority) => {
            Some("a tier before its own is well".to_owned())
        }
        _ if tier.is_some_and(|tier| tier > known.endpoint.priority) => Some("its tier is not well".to_owned()),
        _ if known.facts.weight.unwrap_or(known.endpoint.weight) == 0 => Some("its weight is 0".to_owned()),
        _ if picked.is_none() => Some("nobody may be asked".to_owned()),
        _ => Some("another zone".to_owned()),
    }
}

fn starts_slowly(known: &Known, returning: &Returning) -> String {
    format!("it starts slowly, with {} % of its share", known.facts.ramp_percent(NOW, returning))
}

/// What the algorithm says, with the loads where it compares them.
fn balanced(balancer: &Balancer, views: &[View], picked: Option<usize>, at: usize) -> String {
    let text = balancer.why_not(views, picked, at, &TriedSet::NONE).text();
    match picked.filter(|picked| *picked != at && balancer.algorithm().needs_load()) {
        Some(picked) if views[at].load > 0 || views[picked].load > 0 => {
            format!("{text}: load {} against {}", views[at].load, views[picked].load)
        }
        _ => text.to_owned(),
    }
}

/// What is known of a service's endpoints: those that a variant for a route leaves out too.
pub fn of_whole<'a>(snapshot: &'a Snapshot, service: &'a Service) -> &'a Service {
    snapshot
        .services
        .iter()
        .map(|whole| &**whole)
        .find(|whole| whole.is_whole() && whole.label == service.label)
        .unwrap_or(service)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_gateway_tells_is_taken_as_it_was() {
        let rules = Returning::default();
        for percent in 10..=100 {
            let told = json!([{
                "address": "a:80", "resolved": "10.0.0.1:80", "weight": 3, "weight_configured": 1, "priority": 1,
                "zone": "z", "metadata": {"version": "v2"}, "state": "healthy", "slow_start_percent": percent,
                "active_connections": 4, "ewma_ms": 2.5, "source": "srv x",
            }]);
            let known = running(&told, &rules).remove(0);
            assert_eq!(u64::from(known.facts.ramp_percent(NOW, &rules)), percent);
            assert_eq!((known.facts.weight, known.endpoint.weight, known.load), (Some(3), 1, 12_500));
            assert!(known.facts.out(NOW).is_none() && known.endpoint.says(&[("version".into(), "v2".into())]));
        }
        let state = |word: &str| {
            let told = json!([{"address": "a:80", "state": word, "weight": 1, "weight_configured": 1, "priority": 0}]);
            running(&told, &rules).remove(0).facts.out(NOW)
        };
        assert_eq!(state("draining"), Some(Out::Administration(Administration::Draining)));
        assert_eq!(state("maintenance"), Some(Out::Administration(Administration::Maintenance)));
        assert_eq!(state("check_failed"), Some(Out::CheckFailed));
        assert!(matches!(state("ejected"), Some(Out::Ejected(_))));
        assert_eq!((state("healthy"), state("another word")), (None, None));
        assert!(running(&json!({"error": "no"}), &rules).is_empty() && running(&json!([1]), &rules).is_empty());
    }
}
