//! Endpoints, workers and time as a simulation without sockets: ejection, slow start, tiers, panic, budgets and
//! breakers through their own state machines, under seeds (F25 to F29, R117-R128). A seed that fails is named; the run
//! of a seed is always the same.

#[path = "support/random.rs"]
mod random;

use std::sync::Arc;

use ringway::time::Now;
use ringway::upstream::balance::{Algorithm, Balancer, BalancerState, TriedSet, View};
use ringway::upstream::breaker::{BreakerRules, BreakerSpec, State, Verdict as Ended};
use ringway::upstream::budget::RetryBudget;
use ringway::upstream::health::{Out, Returning, Verdict};
use ringway::upstream::passive::Outcome;
use ringway::upstream::record::Record;
use ringway::upstream::rules::{BudgetRules, EjectionRules, SelectionRules};
use ringway::upstream::selection::{Member, Selection};
use ringway::upstream::state::ServiceState;

use random::Random;

/// Seeds of a usual run.
const SEEDS: u64 = 10_000;

/// One gateway's worker: what it has computed.
struct Worker {
    selection: Selection,
    epoch: u64,
    states: Vec<BalancerState>,
    budget: RetryBudget,
}

struct World {
    rng: Random,
    now: Now,
    names: Vec<String>,
    priorities: Vec<u32>,
    well: Vec<bool>,
    checked: bool,
    state: Arc<ServiceState>,
    /// What all workers have seen, by endpoint.
    records: Vec<Arc<Record>>,
    workers: Vec<Worker>,
    balancer: Balancer,
    returning: Returning,
    breaker: BreakerSpec,
    asked: Vec<u64>,
    /// Failures in a row by endpoint, as an onlooker counts them.
    rows: Vec<u32>,
    requests: u64,
    retries: u64,
    trials: u32,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Random(seed);
        let count = 1 + rng.below(8) as usize;
        let names: Vec<_> = (0..count).map(|at| format!("10.0.0.{at}:80")).collect();
        let tiers = 1 + rng.below(2);
        let priorities: Vec<_> = (0..count).map(|_| rng.below(tiers) as u32).collect();
        let algorithm = Algorithm::ALL[rng.below(Algorithm::ALL.len() as u64) as usize];
        let views = vec![View { weight: 1, load: 0, healthy: true, hash: 0 }; count];
        let worker = |_| Worker {
            selection: Selection::default(),
            epoch: 0,
            states: Vec::new(),
            budget: RetryBudget::default(),
        };
        let workers = (0..1 + rng.below(3)).map(worker).collect();
        let rules = BreakerRules { open_ms: 5_000, ..BreakerRules::default() };
        let state = ServiceState::new(names.iter().map(String::as_str));
        Self {
            now: Now::from_ms(1_000_000),
            well: vec![true; count],
            checked: rng.below(2) == 0,
            records: names.iter().map(|name| state.record(name)).collect(),
            state,
            workers,
            balancer: Balancer::new(algorithm, &views),
            returning: Returning { base_ms: 1_000, max_ms: 30_000, slow_start_ms: rng.below(2) * 3_000 },
            breaker: BreakerSpec { name: "up".into(), rules, shared: Arc::default() },
            asked: vec![0; count],
            rows: vec![0; count],
            requests: 0,
            retries: 0,
            trials: 0,
            names,
            priorities,
            rng,
        }
    }

    /// One of the endpoints falls or rises; checks see it at once where there are any.
    fn weather(&mut self) {
        let at = self.rng.below(self.names.len() as u64) as usize;
        self.well[at] = !self.well[at];
        if self.checked {
            let verdict = if self.well[at] { Verdict::Up } else { Verdict::Down };
            self.state.judge(&self.names[at], verdict, self.now, String::new());
        }
    }

    fn select(&mut self, worker: usize) {
        let own = &mut self.workers[worker];
        if own.epoch == self.state.epoch() && self.now < own.selection.until {
            return;
        }
        let (mut members, mut at) = (Vec::new(), 0);
        own.epoch = self.state.read(self.names.iter().map(String::as_str), |facts| {
            let view = View { weight: 1, load: 0, healthy: true, hash: 0 };
            members.push(Member { view, priority: self.priorities[at], zone: "", facts: *facts });
            at += 1;
        });
        own.selection = Selection::of(&members, &SelectionRules::default(), &self.returning, self.now);
        own.states.resize_with(own.selection.tiers.len().max(1), || BalancerState::new(0));
        self.judge_selection(worker);
    }

    /// What must hold of every selection.
    fn judge_selection(&self, worker: usize) {
        let selection = &self.workers[worker].selection;
        let outs: Vec<_> = self.names.iter().map(|n| self.state.facts(n).expect("known").out(self.now)).collect();
        let down = outs.iter().filter(|out| **out == Some(Out::CheckFailed)).count();
        // Nobody is asked only where checks say that all are down.
        assert_eq!(selection.is_empty(), down == self.names.len());
        for tier in &selection.tiers {
            let asked: Vec<_> = (0..self.names.len()).filter(|at| tier.views[*at].healthy).collect();
            assert!(!asked.is_empty(), "a tier with nobody in it");
            assert!(selection.panic || asked.iter().all(|at| outs[*at].is_none()), "asked though out, without panic");
        }
        assert!(selection.tiers.last().is_none_or(|tier| tier.below_percent == 100));
        let ejected = outs.iter().filter(|out| matches!(out, Some(Out::Ejected(_)))).count();
        assert!(ejected * 2 <= self.names.len(), "{ejected} of {} ejected", self.names.len());
    }

    fn ask(&mut self, worker: usize) {
        let Ok(passage) = self.breaker.enter(self.now) else {
            assert!(!matches!(self.breaker.shared.state(), State::Closed { .. }));
            return;
        };
        if let State::HalfOpen { trials, .. } = self.breaker.shared.state() {
            self.trials = self.trials.max(trials);
        }
        self.requests += 1;
        let (breaker, now) = (self.breaker.clone(), self.now);
        drop(passage);
        let mut tried = TriedSet::default();
        let mut ended = Ended::Nothing;
        for attempt in 0..2 {
            let requests = u32::from(attempt == 0);
            self.workers[worker].budget.count(requests, self.now);
            self.select(worker);
            let Some(at) = self.pick(worker, &tried) else { break };
            self.asked[at] += 1;
            ended = if self.well[at] { Ended::Success } else { Ended::Failure };
            self.learn(at);
            if self.well[at] || attempt == 1 {
                break;
            }
            tried.insert(at);
            let count = self.workers.len() as u32;
            if !self.workers[worker].budget.take(0, self.now, &BudgetRules::default(), count) {
                break;
            }
            self.retries += 1;
        }
        if let Ok(passage) = breaker.enter(now) {
            passage.settle(ended, now);
        }
    }

    fn pick(&mut self, worker: usize, tried: &TriedSet) -> Option<usize> {
        let (random, own) = (self.rng.next(), &mut self.workers[worker]);
        let tier = own.selection.tier(random);
        let views = if tried.is_empty() { &own.selection.tiers.get(tier)?.views } else { &own.selection.healthy };
        let picked = self.balancer.pick(&mut own.states[tier], views, Some(random), random, tried)?;
        if tried.is_empty() && own.selection.defers(picked, random, &self.returning, self.now) {
            let mut slow = TriedSet::default();
            slow.insert(picked);
            return self.balancer.pick(&mut own.states[tier], views, Some(random), random, &slow).or(Some(picked));
        }
        Some(picked)
    }

    fn learn(&mut self, at: usize) {
        let outcome = if self.well[at] { Outcome::Well } else { Outcome::Failed };
        let known = &mut self.rows[at];
        *known = if self.well[at] { 0 } else { *known + 1 };
        let why = self.records[at].add(outcome, &EjectionRules::default());
        // Whichever workers saw them: the third failure in a row is the one that ejects, and no earlier one.
        assert_eq!(why.is_some(), *known == 3, "{known} failures in a row, counted by {} workers", self.workers.len());
        if let Some(why) = why {
            *known = 0;
            self.state.eject(&self.names[at], self.now, &self.returning, 50, why.to_owned());
        }
    }
}

/// One seed: some minutes of weather and requests. Returns what it did, for the sums.
fn run(seed: u64) -> [u64; 3] {
    let mut world = World::new(seed);
    let begun = world.now;
    let stormy = 1 + world.rng.below(200);
    for _ in 0..400 {
        world.now = world.now.plus_ms(1 + world.rng.below(200));
        if world.rng.below(stormy) == 0 {
            world.weather();
        }
        let worker = world.rng.below(world.workers.len() as u64) as usize;
        (0..1 + world.rng.below(4)).for_each(|_| world.ask(worker));
    }
    let seconds = world.now.since_ns(begun) / 1_000_000_000 + 1;
    let bound = world.requests / 5 + 10 * seconds + 3 * world.workers.len() as u64;
    let (requests, workers) = (world.requests, world.workers.len());
    assert!(
        world.retries <= bound,
        "{} retries of {requests} requests in {seconds} s, {workers} workers",
        world.retries
    );
    assert!(world.trials <= 3, "{} trials at once", world.trials);
    // All are well again: after the longest ejection and slow start everybody has a share.
    world.well.iter_mut().for_each(|well| *well = true);
    let names = world.names.clone();
    names.iter().for_each(|name| _ = world.state.judge(name, Verdict::Up, world.now, String::new()));
    world.now = world.now.plus_ms(60_000);
    world.breaker.shared.reset();
    world.asked.iter_mut().for_each(|count| *count = 0);
    (0..names.len() as u64 * 200).for_each(|_| world.ask(0));
    let first = world.priorities.iter().min().copied().expect("an endpoint");
    for (at, asked) in world.asked.iter().enumerate() {
        let even = 200 * names.len() as u64 / world.priorities.iter().filter(|tier| **tier == first).count() as u64;
        let is_hash = world.balancer.algorithm().needs_key();
        let range = match world.priorities[at] == first {
            // Equal identities share a Maglev table unevenly: hashes have tests of their own.
            true if is_hash => 0..=u64::MAX,
            true => even * 6 / 10..=even * 14 / 10,
            false => 0..=0,
        };
        assert!(range.contains(asked), "endpoint {at} was asked {asked} times, even is {even}");
    }
    [world.requests, world.retries, world.state.ejections()]
}

#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    if let Some(seed) = number("RINGWAY_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let count = number("RINGWAY_SEEDS").unwrap_or(SEEDS);
    let mut sums = [0; 3];
    for seed in 0..count {
        let one = std::panic::catch_unwind(|| run(seed));
        let one = one.unwrap_or_else(|_| panic!("replay with RINGWAY_SEED={seed} cargo test --test survival_sim"));
        sums.iter_mut().zip(one).for_each(|(sum, more)| *sum += more);
    }
    println!("{count} seeds: requests, retries, ejections {sums:?}");
    // A simulation in which nothing happens would pass every assertion.
    assert!(sums[1] > count && sums[2] > count / 2, "{sums:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    (0..20).for_each(|seed| assert_eq!(run(seed), run(seed)));
}

/// An endpoint that is up for a second and down for a second, beside three that are well, for half an hour (F26): the
/// times for which it is left alone double up to their cap, so that it costs less and less; the others never leave.
fn flap(seed: u64) -> [u64; 2] {
    let mut world = World::new(seed);
    (world.checked, world.returning.slow_start_ms) = (false, 3_000);
    let count = world.names.len();
    let begun = world.now;
    let (mut last, mut out_ms, mut failed_early, mut failed_late) = (0, Vec::new(), 0, 0);
    for _ in 0..18_000 {
        world.now = world.now.plus_ms(50 + world.rng.below(100));
        let ms = world.now.since_ns(begun) / 1_000_000;
        world.well[0] = (ms / 1_000).is_multiple_of(2);
        let worker = world.rng.below(world.workers.len() as u64) as usize;
        let (asked, was_well) = (world.asked[0], world.well[0]);
        world.ask(worker);
        let failed = if was_well { 0 } else { world.asked[0] - asked };
        if ms < 300_000 {
            failed_early += failed
        } else if ms < 600_000 {
            failed_late += failed
        }
        let facts = world.state.facts(&world.names[0]).expect("known");
        if facts.ejections > 0 && facts.ejected_until.0 != last {
            last = facts.ejected_until.0;
            out_ms.push(facts.ejected_until.since_ns(world.now) / 1_000_000);
        }
        for other in 1..count {
            assert!(world.state.facts(&world.names[other]).expect("known").out(world.now).is_none());
        }
    }
    if count == 1 {
        assert!(out_ms.is_empty(), "a single one is never left alone");
        return [0; 2];
    }
    // One doubling more each time, but for those that long service has paid for.
    let doubles = |pair: &[u64]| pair[1] <= pair[0] * 2 && pair[1] >= 1_000;
    assert!(out_ms.windows(2).all(doubles) && out_ms.iter().all(|ms| *ms <= 30_000), "{out_ms:?}");
    [failed_early, failed_late]
}

#[test]
fn a_flapping_endpoint_costs_less_and_less() {
    let mut sums = [0; 2];
    for seed in 0..60 {
        let one = std::panic::catch_unwind(|| flap(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
        sums.iter_mut().zip(one).for_each(|(sum, more)| *sum += more);
    }
    println!("requests that met it down, in the first five minutes and in the next: {sums:?}");
    assert!(sums[0] > 0 && sums[1] * 10 <= sums[0] * 12, "{sums:?}");
}

/// Every endpoint fails, every request wants three retries, for a minute at any rate: what reaches endpoints is what
/// came in and the budget, whichever way requests fall on workers (F25).
#[test]
fn a_storm_of_retries_is_held_to_the_budget() {
    for seed in 0..2_000 {
        let mut rng = Random(seed);
        let (workers, rules) = (1 + rng.below(8) as u32, BudgetRules::default());
        let mut budgets = vec![RetryBudget::default(); workers as usize];
        let (mut now, begun) = (Now::from_ms(1_000_000), Now::from_ms(1_000_000));
        let (pause_us, mut requests, mut retries) = (500 + rng.below(200_000), 0, 0);
        while now.since_ns(begun) < 60_000_000_000 && requests < 3_000 {
            now = Now(now.0 + rng.below(2 * pause_us) * 1_000);
            let budget = &mut budgets[rng.below(u64::from(workers)) as usize];
            budget.count(1, now);
            requests += 1;
            retries += (0..3).take_while(|_| budget.take(0, now, &rules, workers)).count() as u64;
        }
        let seconds = now.since_ns(begun) / 1_000_000_000 + 1;
        let bound = requests / 5 + 10 * seconds + 3 * u64::from(workers) + u64::from(workers);
        assert!(retries <= bound, "seed {seed}: {retries} of {requests} in {seconds} s, {workers} workers");
        // And it gives what it promises.
        assert!(retries * 10 >= requests, "seed {seed}: {retries} of {requests}, {workers} workers");
    }
}
