//! The state machines of survival against tables of all their transitions, under seeds (F26, F28, F29, R117-R128): what
//! is seen must be in the table, and all of the table must be seen. Beside them the bounds of balancing by load, and
//! how soon a service is back.

#[path = "support/random.rs"]
mod random;

use std::collections::BTreeSet;

use ringway::time::Now;
use ringway::upstream::balance::{Algorithm, Balancer, BalancerState, TriedSet, View};
use ringway::upstream::breaker::{BreakerRules, BreakerSpec, Passage, State, Verdict as Ended};
use ringway::upstream::check::{CheckRules, Row};
use ringway::upstream::health::{Administration, Out, Returning, Verdict};
use ringway::upstream::state::{Ejection, ServiceState};

use random::Random;

const SEEDS: u64 = 10_000;

/// From, event, to.
type Step = [&'static str; 3];

fn is_all(seen: &BTreeSet<Step>, table: &[Step]) {
    let table: BTreeSet<Step> = table.iter().copied().collect();
    let (odd, missing): (Vec<_>, Vec<_>) = (seen.difference(&table).collect(), table.difference(seen).collect());
    assert!(odd.is_empty() && missing.is_empty(), "not in the table: {odd:?}\nnever seen: {missing:?}");
}

/// A breaker as its description has it, step by step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Model {
    Closed(u32),
    Open(u64),
    Half { period: u64, trials: u32, well: u32 },
}

impl Model {
    fn word(self) -> &'static str {
        match self {
            Model::Closed(_) => "closed",
            Model::Open(_) => "open",
            Model::Half { .. } => "half",
        }
    }

    fn is(self, state: State) -> bool {
        match (self, state) {
            (Model::Closed(own), State::Closed { failures }) => own == failures,
            (Model::Open(own), State::Open { until_ms }) => own == until_ms,
            (Model::Half { trials: a, well: b, .. }, State::HalfOpen { trials, successes, .. }) => {
                (a, b) == (trials, successes)
            }
            _ => false,
        }
    }
}

const BREAKER: &[Step] = &[
    ["closed", "passes", "closed"],
    ["closed", "success", "closed"],
    ["closed", "failure", "closed"],
    ["closed", "failure", "open"],
    ["closed", "nothing", "closed"],
    ["closed", "result of a trial", "closed"],
    ["open", "is refused", "open"],
    ["open", "begins trials", "half"],
    ["open", "result from before", "open"],
    ["open", "result of a trial", "open"],
    ["half", "is a trial", "half"],
    ["half", "is refused", "half"],
    ["half", "trial succeeds", "half"],
    ["half", "trial succeeds", "closed"],
    ["half", "trial fails", "open"],
    ["half", "trial says nothing", "half"],
    ["half", "result from before", "half"],
    ["half", "result of an earlier trial", "half"],
    ["closed", "reset", "closed"],
    ["open", "reset", "closed"],
    ["half", "reset", "closed"],
];

/// One breaker with a dozen requests under way at once, beside its model.
struct Breaker<'a> {
    spec: &'a BreakerSpec,
    model: Model,
    opened: u64,
    /// With the period that each is a trial of.
    under_way: Vec<(Passage<'a>, Option<u64>)>,
    now: Now,
}

impl<'a> Breaker<'a> {
    fn enter(&mut self) -> &'static str {
        let rules = &self.spec.rules;
        let entered = self.spec.enter(self.now);
        let (event, trial) = match &mut self.model {
            Model::Closed(_) => ("passes", None),
            Model::Open(until) if self.now.ms() < *until => {
                assert_eq!(entered.as_ref().err(), Some(&(*until - self.now.ms())), "what a client is told");
                return "is refused";
            }
            Model::Open(_) => {
                self.model = Model::Half { period: self.opened, trials: 1, well: 0 };
                ("begins trials", Some(self.opened))
            }
            Model::Half { trials, well, .. } if *trials + *well >= rules.half_open_requests => {
                assert!(entered.is_err(), "a trial too many");
                return "is refused";
            }
            Model::Half { period, trials, .. } => {
                *trials += 1;
                ("is a trial", Some(*period))
            }
        };
        self.under_way.push((entered.unwrap_or_else(|_| panic!("{event}, and refused")), trial));
        event
    }

    fn end(&mut self, at: usize, verdict: Ended) -> &'static str {
        let (passage, trial) = self.under_way.swap_remove(at);
        match verdict {
            // Also what is dropped without a word gives its place back.
            Ended::Nothing => drop(passage),
            verdict => passage.settle(verdict, self.now),
        }
        let rules = &self.spec.rules;
        let open = Model::Open(self.now.ms() + rules.open_ms);
        let (event, next) = match (self.model, trial, verdict) {
            (Model::Closed(_), Some(_), _) => ("result of a trial", self.model),
            (Model::Closed(_), None, Ended::Success) => ("success", Model::Closed(0)),
            (Model::Closed(_), None, Ended::Nothing) => ("nothing", self.model),
            (Model::Closed(row), None, Ended::Failure) if row + 1 < rules.failure_threshold => {
                ("failure", Model::Closed(row + 1))
            }
            (Model::Closed(_), None, Ended::Failure) => ("failure", open),
            (_, None, _) => ("result from before", self.model),
            (Model::Open(_), Some(_), _) => ("result of a trial", self.model),
            (Model::Half { period, .. }, Some(of), _) if of != period => ("result of an earlier trial", self.model),
            (Model::Half { .. }, Some(_), Ended::Failure) => ("trial fails", open),
            (Model::Half { period, trials, well }, Some(_), Ended::Nothing) => {
                ("trial says nothing", Model::Half { period, trials: trials - 1, well })
            }
            (Model::Half { well, .. }, Some(_), Ended::Success) if well + 1 >= rules.half_open_requests => {
                ("trial succeeds", Model::Closed(0))
            }
            (Model::Half { period, trials, well }, Some(_), Ended::Success) => {
                ("trial succeeds", Model::Half { period, trials: trials - 1, well: well + 1 })
            }
        };
        self.opened += u64::from(next == open && !matches!(self.model, Model::Open(_)));
        self.model = next;
        event
    }
}

#[test]
fn breakers_go_by_their_table() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut rng = Random(seed);
        let rules = BreakerRules { open_ms: 1_000, failure_threshold: 1 + rng.below(5) as u32, ..Default::default() };
        let spec = BreakerSpec { name: "up".into(), rules, shared: Default::default() };
        let (now, model) = (Now::from_ms(5_000), Model::Closed(0));
        let mut breaker = Breaker { spec: &spec, model, opened: 0, under_way: Vec::new(), now };
        let sick = 1 + rng.below(9);
        for _ in 0..120 {
            breaker.now = breaker.now.plus_ms(rng.below(120));
            let from = breaker.model.word();
            let event = match rng.below(60) {
                0 => {
                    spec.shared.reset();
                    breaker.model = Model::Closed(0);
                    "reset"
                }
                1..30 if breaker.under_way.len() < 12 => breaker.enter(),
                _ if breaker.under_way.is_empty() => continue,
                _ => {
                    let at = rng.below(breaker.under_way.len() as u64) as usize;
                    let verdict = match rng.below(10) {
                        0 => Ended::Nothing,
                        luck if luck < sick => Ended::Failure,
                        _ => Ended::Success,
                    };
                    breaker.end(at, verdict)
                }
            };
            seen.insert([from, event, breaker.model.word()]);
            let state = spec.shared.state();
            assert!(breaker.model.is(state), "seed {seed}, {event}: {state:?}, the model says {:?}", breaker.model);
            assert_eq!(spec.shared.opened(), breaker.opened, "seed {seed}");
        }
    }
    is_all(&seen, BREAKER);
}

const RETURNING: Returning = Returning { base_ms: 1_000, max_ms: 8_000, slow_start_ms: 3_000 };

/// What an endpoint is to its service.
fn word(state: &ServiceState, name: &str, now: Now) -> &'static str {
    let facts = state.facts(name).expect("known");
    match facts.out(now) {
        Some(Out::Administration(Administration::Draining)) => "draining",
        Some(Out::Administration(_)) => "maintenance",
        Some(Out::CheckFailed) => "down",
        Some(Out::Ejected(_)) => "ejected",
        None if facts.ramp_percent(now, &RETURNING) < 100 => "rising",
        None => "well",
    }
}

#[rustfmt::skip]
const ENDPOINT: &[Step] = &[
    ["well", "ejected", "ejected"], ["rising", "ejected", "ejected"],
    ["well", "spared", "well"], ["rising", "spared", "rising"],
    ["down", "spared", "down"], ["draining", "spared", "draining"], ["maintenance", "spared", "maintenance"],
    ["ejected", "already out", "ejected"], ["down", "already out", "down"],
    ["draining", "already out", "draining"], ["maintenance", "already out", "maintenance"],
    // Ejected behind what an operator or a check says: it is not seen before that is taken back.
    ["down", "ejected", "down"], ["draining", "ejected", "draining"], ["maintenance", "ejected", "maintenance"],
    ["well", "check passes", "well"], ["rising", "check passes", "rising"],
    // What checks say ends an ejection, but only where they had said otherwise before; so does an operator's word.
    ["down", "check passes", "rising"], ["ejected", "check passes", "ejected"],
    ["draining", "check passes", "draining"], ["maintenance", "check passes", "maintenance"],
    ["well", "check fails", "down"], ["rising", "check fails", "down"], ["ejected", "check fails", "down"],
    ["down", "check fails", "down"],
    ["draining", "check fails", "draining"], ["maintenance", "check fails", "maintenance"],
    ["well", "answers", "well"], ["rising", "answers", "rising"], ["ejected", "answers", "rising"],
    ["down", "answers", "down"], ["draining", "answers", "draining"], ["maintenance", "answers", "maintenance"],
    ["well", "time passes", "well"], ["rising", "time passes", "rising"], ["rising", "time passes", "well"],
    ["ejected", "time passes", "ejected"], ["ejected", "time passes", "rising"], ["ejected", "time passes", "well"],
    ["down", "time passes", "down"], ["draining", "time passes", "draining"],
    ["maintenance", "time passes", "maintenance"],
    ["well", "enable", "well"], ["rising", "enable", "rising"], ["ejected", "enable", "ejected"],
    ["down", "enable", "down"],
    ["draining", "enable", "rising"], ["draining", "enable", "down"],
    ["maintenance", "enable", "rising"], ["maintenance", "enable", "down"],
    ["well", "drain", "draining"], ["rising", "drain", "draining"], ["ejected", "drain", "draining"],
    ["down", "drain", "draining"], ["draining", "drain", "draining"], ["maintenance", "drain", "draining"],
    ["well", "maintain", "maintenance"], ["rising", "maintain", "maintenance"],
    ["ejected", "maintain", "maintenance"], ["down", "maintain", "maintenance"],
    ["draining", "maintain", "maintenance"], ["maintenance", "maintain", "maintenance"],
];

#[test]
fn endpoints_go_by_their_table() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let mut rng = Random(seed);
        let names: Vec<_> = (0..1 + rng.below(4)).map(|at| format!("10.0.0.{at}:80")).collect();
        let state = ServiceState::new(names.iter().map(String::as_str));
        let mut now = Now::from_ms(100_000);
        for _ in 0..80 {
            let name = &names[rng.below(names.len() as u64) as usize];
            let from = word(&state, name, now);
            let event = match rng.below(12) {
                0..3 => match state.eject(name, now, &RETURNING, 50, String::new()) {
                    Ejection::Done(ms) => {
                        assert!((1_000..=8_000).contains(&ms) && ms.is_multiple_of(1_000), "seed {seed}: {ms}");
                        "ejected"
                    }
                    Ejection::Already => "already out",
                    Ejection::PoolSpared => "spared",
                },
                3 | 4 => {
                    state.judge(name, Verdict::Up, now, String::new());
                    "check passes"
                }
                5 => {
                    state.judge(name, Verdict::Down, now, String::new());
                    "check fails"
                }
                6 => {
                    state.revive(name, now);
                    "answers"
                }
                7 | 8 => {
                    now = now.plus_ms(rng.below(3_000) * (1 + rng.below(4)));
                    "time passes"
                }
                9 => {
                    state.administer(name, Administration::Enabled, now, String::new());
                    "enable"
                }
                10 if rng.below(3) == 0 => {
                    state.administer(name, Administration::Draining, now, String::new());
                    "drain"
                }
                _ if rng.below(3) == 0 => {
                    state.administer(name, Administration::Maintenance, now, String::new());
                    "maintain"
                }
                _ => continue,
            };
            seen.insert([from, event, word(&state, name, now)]);
            let is_ejected = |name: &String| now < state.facts(name).expect("known").ejected_until;
            let ejected = names.iter().filter(|name| is_ejected(name)).count();
            let shown = names.iter().filter(|name| word(&state, name, now) == "ejected").count();
            assert!(shown * 2 <= names.len() || names.len() == 1 && shown == 0, "seed {seed}: {shown}, {ejected}");
        }
    }
    is_all(&seen, ENDPOINT);
}

/// Requests come and go at random: whoever is picked by `least_connections` never has more than anybody else for its
/// weight, so that no endpoint has more than one above the mean, rounded up; of two drawn by lot the busiest
/// stays within the logarithm of their number of the mean (Mitzenmacher).
#[test]
fn loads_stay_within_their_bounds() {
    for seed in 0..SEEDS / 10 {
        let mut rng = Random(seed);
        let count = 2 + rng.below(15) as usize;
        for algorithm in [Algorithm::LeastConnections, Algorithm::PowerOfTwo] {
            let mut views = vec![View { weight: 1, load: 0, healthy: true, hash: 0 }; count];
            let (balancer, mut state) = (Balancer::new(algorithm, &views), BalancerState::new(seed));
            let (mut under_way, most) = (Vec::new(), 1 + rng.below(400) as usize);
            for _ in 0..1_500 {
                if under_way.len() >= most {
                    let left = under_way.swap_remove(rng.below(under_way.len() as u64) as usize);
                    views[left as usize].load -= 1;
                }
                let none = TriedSet::default();
                let at = balancer.pick(&mut state, &views, None, rng.next(), &none).expect("one of them");
                let (own, least) = (views[at].load, views.iter().map(|view| view.load).min().expect("some"));
                assert!(algorithm != Algorithm::LeastConnections || own == least, "seed {seed}: {own}, not {least}");
                views[at].load += 1;
                under_way.push(at as u32);
                let (mean, busiest) = (under_way.len().div_ceil(count), views.iter().map(|view| view.load).max());
                let apart = busiest.expect("some") as usize - mean.min(busiest.expect("some") as usize);
                // Requests that end leave holes that the next ones fill: never more than the largest load before.
                let allowed = if algorithm == Algorithm::LeastConnections { 1 } else { 4 + 2 * count.ilog2() as usize };
                assert!(apart <= allowed, "seed {seed}: {} of {count} is {apart} over {mean}", algorithm.word());
            }
        }
    }
}

/// Checks have taken everybody out. Whoever comes back first serves within one interval and its jitter, whenever that
/// is, by default too, where an endpoint that is not alone needs two passes (F29).
#[test]
fn a_deserted_service_is_back_within_one_interval_of_its_checks() {
    let rules = CheckRules::default();
    let (returning, most_ms) =
        (Returning::default(), rules.interval_ms + rules.interval_ms * rules.jitter_percent / 100);
    let mut longest_ms = 0;
    for seed in 0..SEEDS {
        let mut rng = Random(seed);
        let names: Vec<_> = (0..1 + rng.below(4)).map(|at| format!("10.0.0.{at}:80")).collect();
        let state = ServiceState::new(names.iter().map(String::as_str));
        let begun = Now::from_ms(1_000_000);
        // In virtual time, a millisecond at a time where something is due.
        let mut due: Vec<_> = names.iter().map(|_| begun.plus_ms(rules.first_pause_ms(rng.next()))).collect();
        let mut rows = vec![Row::default(); names.len()];
        let (back, back_at) = (rng.below(names.len() as u64) as usize, begun.plus_ms(60_000 + rng.below(20_000)));
        let served = loop {
            let at = (0..names.len()).min_by_key(|at| due[*at].0).expect("one of them");
            let (now, passes) = (due[at], at == back && due[at] >= back_at);
            let before = state.facts(&names[at]).expect("known").verdict;
            let alone = before == Verdict::Down && state.is_deserted(now);
            let verdict = rows[at].add(passes, before, &rules, alone);
            state.judge(&names[at], verdict, now, String::new());
            due[at] = now.plus_ms(rules.pause_ms(rng.next()));
            assert!(now < begun.plus_ms(20_000) || now >= back_at || state.is_deserted(now), "seed {seed}");
            if now >= back_at && !state.is_deserted(now) {
                break now;
            }
        };
        let took_ms = served.since_ns(back_at) / 1_000_000;
        assert!(took_ms <= most_ms, "seed {seed}: {took_ms} ms");
        longest_ms = longest_ms.max(took_ms);
        assert_eq!(state.facts(&names[back]).expect("known").out(served), None);
        assert!(state.facts(&names[back]).expect("known").ramp_percent(served, &returning) < 100);
    }
    assert!(longest_ms > most_ms / 2, "{longest_ms} ms at most: a check comes at no time of its own");
}
