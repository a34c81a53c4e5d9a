//! Seeded simulation of the rate limiter over several workers in virtual time (D4, C7).
//!
//! Checked in every run: in any span of `t` at most `burst + rate * t` tokens pass in the whole node, and a request is
//! refused only while at most the published bound of tokens stands unused. `RINGWAY_SEED=n` replays one seed.

#[path = "support/random.rs"]
mod random;

use std::sync::Arc;

use ringway::http::exchange::Exchange;
use ringway::policy::rate_limit::RateLimit;
use ringway::policy::rate_limit::lease::{Leases, SplitPlan};
use ringway::policy::rate_limit::node::{LEASE_MS, NodeTable};
use ringway::policy::rate_limit::rate::{Rate, Ticks, ticks_of_ms};
use ringway::policy::{Compile, CompileEnv, Flow, Hooks, Tick, WorkerSeed};
use ringway::schema::decode_str;
use ringway::time::Now;

use random::Random;

/// Seeds of an ordinary run.
const SEEDS: u64 = 1_000;
/// Requests of one simulation.
const REQUESTS: usize = 3_000;
/// Distance of timer ticks.
const TICK_MS: u64 = 20;

#[derive(Clone, Copy, Debug)]
enum Skew {
    Uniform,
    One,
    Zipf,
    Moving,
}

impl Skew {
    fn worker(self, random: &mut Random, workers: u64, now: Ticks) -> usize {
        let worker = match self {
            Skew::Uniform => random.below(workers),
            Skew::One => 0,
            // Half of the rest at each step.
            Skew::Zipf => u64::from(random.next().trailing_ones()).min(workers - 1),
            Skew::Moving => now / ticks_of_ms(100) % workers,
        };
        worker as usize
    }
}

/// What one simulation does.
#[derive(Clone, Copy, Debug)]
struct Plan {
    workers: u64,
    skew: Skew,
    rate: Rate,
    cost: u32,
    /// Mean distance of requests.
    distance: Ticks,
    /// Chance of a pause, in 1/256.
    pauses: u64,
    split: SplitPlan,
    keys: u64,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        let workers = random.pick(&[1, 2, 4, 8]);
        let requests = random.pick(&[1, 10, 100, 1_000, 20_000]);
        let burst = random.pick(&[1, 2, 7, 50, 100, 300, 1_000, 5_000]);
        let rate = Rate::new(requests, 1_000_000_000, burst).expect("legal");
        let cost = random.pick(&[1, 1, 1, 2, 5]).min(burst);
        // Demand from a tenth of the rate to twenty times it.
        let distance = rate.interval() * u64::from(cost) * random.pick(&[200, 100, 50, 20, 10, 1]) / 20;
        let split = match random.below(4) {
            0 => SplitPlan::exact(workers as u32),
            _ => SplitPlan::new(burst, workers as u32),
        };
        let skew = random.pick(&[Skew::Uniform, Skew::One, Skew::Zipf, Skew::Moving]);
        let (pauses, keys) = (random.pick(&[0, 0, 1, 8]), random.pick(&[1, 1, 3]));
        Self { workers, skew, rate, cost, distance: distance.max(1), pauses, split, keys }
    }
}

/// A token bucket that is charged with what really passed: what stands unused, whoever holds it.
struct Shadow {
    unused: u128,
    at: Ticks,
}

impl Shadow {
    fn advance(&mut self, rate: &Rate, now: Ticks) {
        let full = u128::from(rate.capacity());
        self.unused = (self.unused + u128::from(now - self.at)).min(full);
        self.at = now;
    }

    fn tokens(&self, rate: &Rate) -> u64 {
        (self.unused / u128::from(rate.interval())) as u64
    }
}

struct Sim {
    plan: Plan,
    random: Random,
    table: Arc<NodeTable>,
    leases: Vec<Leases>,
    shadows: Vec<Shadow>,
    now: Ticks,
    ticked: Ticks,
    /// Tokens that died with a worker, at most.
    lost: u64,
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let plan = Plan::draw(&mut random);
        let table = Arc::new(NodeTable::new(1_024));
        let leases = (0..plan.workers).map(|_| Leases::new(table.clone())).collect();
        let now = ticks_of_ms(1_000_000);
        let full = || Shadow { unused: plan.rate.capacity().into(), at: now };
        let shadows = (0..plan.keys).map(|_| full()).collect();
        Self { plan, random, table, leases, shadows, now, ticked: now, lost: 0 }
    }

    fn run(&mut self) -> Result<(), String> {
        for turn in 0..REQUESTS {
            self.pass_time();
            self.request()?;
            if turn == REQUESTS / 2 && self.random.below(4) == 0 {
                self.kill_worker();
            }
        }
        match self.table.evicted_live() + self.table.gave_up() {
            0 => Ok(()),
            _ => Err("the table was too small for the test".to_owned()),
        }
    }

    /// Goes to the next request, with the timer ticks before it.
    fn pass_time(&mut self) {
        let mut step = self.random.below(2 * self.plan.distance + 1);
        if self.random.below(256) < self.plan.pauses {
            step += ticks_of_ms(self.random.below(4 * LEASE_MS));
        }
        let next = self.now + step;
        // In a long pause only the first ticks matter: they end all leases.
        let busy = next.min(self.ticked + ticks_of_ms(4 * LEASE_MS));
        while self.ticked + ticks_of_ms(TICK_MS) <= busy {
            self.ticked += ticks_of_ms(TICK_MS);
            let at = self.ticked.max(self.now);
            for leases in &mut self.leases {
                leases.on_tick(&self.plan.rate, at);
            }
        }
        self.ticked = self.ticked.max(next - (next - self.ticked) % ticks_of_ms(TICK_MS));
        self.now = next;
    }

    fn request(&mut self) -> Result<(), String> {
        let Plan { workers, skew, rate, cost, split, keys, .. } = self.plan;
        let which = self.random.below(keys);
        let key = (which + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let worker = skew.worker(&mut self.random, workers, self.now);
        let verdict = self.leases[worker].decide(&rate, split, key, cost, self.now);
        let shadow = &mut self.shadows[which as usize];
        shadow.advance(&rate, self.now);
        let price = u128::from(rate.interval()) * u128::from(cost);
        if verdict.admitted {
            // The bucket that starts full and is charged with all that passed never runs dry exactly when every span
            // `t` admitted at most `burst + rate * t`: it is the maximum over all begins of the span.
            shadow.unused = shadow.unused.checked_sub(price).ok_or("more than burst + rate * t passed")?;
            return Ok(());
        }
        let (unused, bound) = (shadow.tokens(&rate), split.error_bound(cost) + self.lost);
        match unused > bound {
            true => Err(format!("refused while {unused} tokens stand unused, bound {bound}")),
            false => Ok(()),
        }
    }

    /// A worker dies with its leases and begins anew: what it held is lost, and counts as leased until it is written
    /// off.
    fn kill_worker(&mut self) {
        let worker = self.random.below(self.plan.workers) as usize;
        self.leases[worker] = Leases::new(self.table.clone());
        self.lost += 2 * u64::from(self.plan.split.extra_max);
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("RINGWAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..SEEDS).collect(),
    }
}

#[test]
fn the_bound_holds_on_both_sides_for_every_seed() {
    for seed in seeds() {
        let mut sim = Sim::new(seed);
        if let Err(error) = sim.run() {
            panic!("RINGWAY_SEED={seed}: {error} ({:?})", sim.plan);
        }
    }
}

/// The share of admissions that the reference bucket would give: the split must not starve anyone in the long run.
#[test]
fn the_split_admits_nearly_what_one_bucket_admits() {
    for seed in seeds().into_iter().take(100) {
        let mut random = Random(seed ^ 0xabcd);
        let mut plan = Plan::draw(&mut random);
        plan.rate = Rate::new(1_000, 1_000_000_000, 1_000).expect("legal");
        plan.split = SplitPlan::new(1_000, plan.workers as u32);
        plan.cost = 1;
        let (got, ideal) = both(plan, seed);
        assert!(got * 100 >= ideal * 95, "RINGWAY_SEED={seed}: {got} of {ideal} ({plan:?})");
    }
}

/// Admissions over ten seconds of twice the rate: of the split, and of one bucket.
fn both(plan: Plan, seed: u64) -> (u64, u64) {
    let mut random = Random(seed);
    let mut sim = Sim::new(0);
    let table = Arc::new(NodeTable::new(16));
    sim.leases = (0..plan.workers).map(|_| Leases::new(table.clone())).collect();
    sim.plan = Plan { distance: plan.rate.interval() / 2, pauses: 0, keys: 1, ..plan };
    let mut ideal = Shadow { unused: plan.rate.capacity().into(), at: sim.now };
    let (mut got, mut best) = (0, 0);
    for _ in 0..20_000 {
        sim.pass_time();
        let worker = plan.skew.worker(&mut random, plan.workers, sim.now);
        got += u64::from(sim.leases[worker].decide(&plan.rate, plan.split, 7, 1, sim.now).admitted);
        ideal.advance(&plan.rate, sim.now);
        if let Some(rest) = ideal.unused.checked_sub(plan.rate.interval().into()) {
            ideal.unused = rest;
            best += 1;
        }
    }
    (got, best)
}

/// Real threads on one key, with clocks that run: never more than burst + rate * t in the whole node.
#[test]
fn threads_with_leases_stay_within_the_budget() {
    use std::sync::atomic::{AtomicU64, Ordering};
    for round in 0..5 {
        let rate = Rate::new(1_000, 1_000_000_000, 400).expect("legal");
        let (table, clock, passed) = (Arc::new(NodeTable::new(16)), AtomicU64::new(0), AtomicU64::new(0));
        let start = ticks_of_ms(1_000_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let mut leases = Leases::new(table.clone());
                    for turn in 0..20_000u64 {
                        // All threads move one clock, so that none is behind what another has seen.
                        let now = start + clock.fetch_add(rate.interval() / 16, Ordering::SeqCst);
                        let verdict = leases.decide(&rate, SplitPlan::new(400, 4), 7, 1, now);
                        passed.fetch_add(u64::from(verdict.admitted), Ordering::SeqCst);
                        if turn % 64 == 0 {
                            leases.on_tick(&rate, now);
                        }
                    }
                });
            }
        });
        let refilled = clock.load(Ordering::SeqCst) / rate.interval();
        let passed = passed.load(Ordering::SeqCst);
        assert!(passed <= 400 + refilled, "round {round}: {passed} passed, {refilled} refilled");
        assert!(passed * 100 >= (400 + refilled) * 90, "round {round}: {passed} passed, {refilled} refilled");
    }
}

/// A limit survives reloads: old and new snapshots, used in turn by all workers, share one budget.
#[test]
fn reloads_do_not_reset_the_limit() {
    let compile = |seed| {
        let config = decode_str("{rate: 100/h, burst: 200}").expect("legal");
        RateLimit::compile(&config, &CompileEnv { workers: 4, random: seed }).expect("legal")
    };
    let mut snapshots = vec![compile(1)];
    let tick = Tick { now: Now::from_ms(5_000), unix_ms: 1_700_000_000_000 };
    let seed = |index| WorkerSeed { index, count: 4, random: 0, tick };
    let mut states: Vec<_> = (0..4).map(|index| snapshots[0].new_state(&seed(index))).collect();
    let mut passed = 0;
    for turn in 0..4_000u64 {
        if turn % 50 == 0 {
            let mut next = compile(turn);
            next.inherit(&snapshots[snapshots.len() - 1]);
            states.iter_mut().for_each(|state| next.adopt(state));
            snapshots.push(next);
        }
        // Every third request began before the last reload.
        let snapshot = &snapshots[snapshots.len() - 1 - usize::from(turn % 3 == 0)];
        let now = Now::from_ms(5_000 + turn);
        let flow = snapshot.on_request(&mut states[turn as usize % 4], &mut Exchange::default(), now);
        passed += u64::from(matches!(flow, Flow::Continue));
    }
    let bound = snapshots[0].error_bound().expect("a bucket has one");
    assert!(passed <= 200, "{passed} passed");
    assert!(passed + bound >= 200, "{passed} passed");
}
