//! Seeded simulation of a limit on requests in flight over several workers in virtual time (F13, F14).
//!
//! Requests come, wait, are served, leave while they wait, and end by panics; the limit changes by reloads. They are
//! polled only when they were woken, so that a lost wake-up shows. Checked all the time: never more in flight than the
//! limit, never more waiting than the queue takes, nobody waits while there is room (but for a tick), nobody waits
//! longer than allowed; and at the end everything was given back. `RINGWAY_SEED=n` replays one seed.

#[path = "support/random.rs"]
mod random;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use ringway::concurrency::{Admission, Gate, Local, Permit, Terms, Ticket, Waiting};
use ringway::limits::TICK_MS;
use ringway::time::Now;

use random::Random;

/// Seeds of an ordinary run.
const SEEDS: u64 = 200;
/// Time of one simulation.
const END_MS: u64 = 2_000;

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[derive(Clone, Copy, Debug)]
struct Plan {
    workers: u64,
    keys: u64,
    terms: Terms,
    /// Mean time of a request in service.
    work_ms: u64,
    /// Requests that come in a millisecond, in 1/256.
    arrivals: u64,
    /// All to one worker, evenly, or to one after the other in turns of a tenth of a second.
    skew: u64,
    /// One in so many leaves while it waits; 0 for none.
    leaves: u64,
    /// One in so many ends by a panic.
    panics: u64,
    reloads: bool,
    /// Whether workers hear each other's bells; else they find out at their next tick.
    bells: bool,
}

impl Plan {
    fn draw(random: &mut Random) -> Self {
        let requests_max = random.pick(&[1, 2, 3, 10, 40]);
        let terms = Terms {
            requests_max,
            pending_max: random.pick(&[0, 1, 5, 50]),
            wait_ms: random.pick(&[20, 100, 500]),
            adaptive: None,
        };
        let (workers, keys) = (random.pick(&[1, 2, 4, 8]), random.pick(&[0, 0, 3]));
        let work_ms = random.pick(&[1, 10, 60]);
        // From half to four times of what the limit can do.
        let capacity = (256 * u64::from(requests_max) * keys.max(1) / work_ms).min(2_560);
        Self {
            workers,
            keys,
            terms,
            work_ms,
            arrivals: capacity * random.pick(&[2, 4, 8, 16]) / 4,
            skew: random.below(3),
            leaves: random.pick(&[0, 2, 10]),
            panics: random.pick(&[0, 5]),
            reloads: random.below(3) == 0,
            bells: random.below(2) == 0,
        }
    }
}

enum Stage {
    Waits(Ticket, u64),
    Works { _permit: Permit, until_ms: u64 },
}

struct Task {
    key: u64,
    stage: Stage,
    flag: Arc<Flag>,
    panics: bool,
    leaves_ms: u64,
    begun_ms: u64,
}

struct Worker {
    local: Rc<Local>,
    waiting: Waiting,
}

struct Sim {
    plan: Plan,
    random: Random,
    gate: Arc<Gate>,
    workers: Vec<Worker>,
    tasks: Vec<Task>,
    now_ms: u64,
    most: u64,
    /// Served at once, served after a wait, queue full, waited too long, left.
    ends: [u64; 5],
}

impl Sim {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let plan = Plan::draw(&mut random);
        Self::of(plan, random)
    }

    fn of(plan: Plan, random: Random) -> Self {
        let gate = Gate::new((plan.keys > 0).then_some(64), &plan.terms);
        // Numbers that no worker's bell has.
        let worker = |index| Worker { local: Local::new(gate.clone(), 4_000 + index), waiting: Waiting::default() };
        let workers = (0..plan.workers as u32).map(worker).collect();
        let most = plan.terms.requests_max.into();
        Self { plan, random, gate, workers, tasks: Vec::new(), now_ms: 1_000, most, ends: [0; 5] }
    }

    fn now(&self) -> Now {
        Now::from_ms(self.now_ms)
    }

    fn run(&mut self) {
        let end = self.now_ms + END_MS;
        while self.now_ms < end {
            self.step(true);
        }
        // No more come; all that is there ends by itself.
        for _ in 0..self.plan.terms.wait_ms + 40 * self.plan.work_ms + 100 {
            self.step(false);
        }
        assert!(self.tasks.is_empty(), "{} requests have no end", self.tasks.len());
        let report = self.gate.report();
        assert_eq!((report.in_flight, report.queued), (0, 0));
        assert_eq!((report.refused_full, report.refused_late, report.left), (self.ends[2], self.ends[3], self.ends[4]));
    }

    fn step(&mut self, open: bool) {
        self.now_ms += 1;
        if open {
            self.arrive();
        }
        self.end_work();
        if self.plan.reloads && self.random.below(200) == 0 {
            self.reload();
        }
        self.poll_woken();
        self.leave();
        if self.plan.bells {
            self.workers.iter().for_each(|worker| worker.waiting.rung());
            self.poll_woken();
        }
        let is_tick = self.now_ms.is_multiple_of(TICK_MS);
        if is_tick {
            let now = self.now();
            self.workers.iter().for_each(|worker| worker.waiting.tick(now));
            self.poll_woken();
        }
        self.check(is_tick);
    }

    fn arrive(&mut self) {
        let mut count = self.plan.arrivals / 256;
        count += u64::from(self.random.below(256) < self.plan.arrivals % 256);
        for _ in 0..count {
            let worker = match self.plan.skew {
                0 => 0,
                1 => self.random.below(self.plan.workers),
                _ => self.now_ms / 100 % self.plan.workers,
            };
            let key = 1 + self.random.below(self.plan.keys);
            self.request(worker as usize, key);
        }
    }

    fn request(&mut self, worker: usize, key: u64) {
        let flag = Arc::new(Flag(AtomicBool::new(true)));
        let stage = match self.workers[worker].local.enter(key, &self.plan.terms, self.now()) {
            Admission::In(permit) => {
                self.ends[0] += 1;
                Stage::Works { _permit: permit, until_ms: self.work_until() }
            }
            Admission::Wait(ticket) => {
                self.workers[worker].waiting.watch(&ticket);
                Stage::Waits(ticket, self.now_ms)
            }
            Admission::Full => {
                self.ends[2] += 1;
                return;
            }
        };
        let one_in = |random: &mut Random, count: u64| count > 0 && random.below(count) == 0;
        let leaves = one_in(&mut self.random, self.plan.leaves);
        let leaves_ms = if leaves { self.now_ms + self.random.below(self.plan.terms.wait_ms) } else { u64::MAX };
        let panics = one_in(&mut self.random, self.plan.panics);
        self.tasks.push(Task { key, stage, flag, panics, leaves_ms, begun_ms: self.now_ms });
    }

    fn work_until(&mut self) -> u64 {
        self.now_ms + 1 + self.random.below(2 * self.plan.work_ms)
    }

    fn end_work(&mut self) {
        let now_ms = self.now_ms;
        let is_over = |task: &Task| matches!(task.stage, Stage::Works { until_ms, .. } if until_ms <= now_ms);
        while let Some(at) = self.tasks.iter().position(is_over) {
            let task = self.tasks.swap_remove(at);
            if task.panics {
                let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                    let _request = task;
                    std::panic::resume_unwind(Box::new("a panic of this request"));
                }));
                assert!(ended.is_err());
            }
        }
    }

    fn leave(&mut self) {
        let now_ms = self.now_ms;
        for task in &mut self.tasks {
            if let (Stage::Waits(ticket, _), true) = (&mut task.stage, task.leaves_ms <= now_ms) {
                ticket.leave();
            }
        }
        let left = |task: &Task| matches!(task.stage, Stage::Waits(..)) && task.leaves_ms <= now_ms;
        let before = self.gate.report().left;
        // One that has got its place at this moment gives that back, and is not counted as left in the queue.
        self.tasks.retain(|task| !left(task));
        self.ends[4] += self.gate.report().left - before;
    }

    fn poll_woken(&mut self) {
        let woken = |task: &Task| matches!(task.stage, Stage::Waits(..)) && task.flag.0.load(Ordering::SeqCst);
        while let Some(at) = self.tasks.iter().position(woken) {
            self.poll(at);
        }
    }

    /// What `pipeline::wait` does.
    fn poll(&mut self, at: usize) {
        let (now, until_ms) = (self.now(), self.work_until());
        let task = &mut self.tasks[at];
        task.flag.0.store(false, Ordering::SeqCst);
        let Stage::Waits(ticket, since) = &mut task.stage else { return };
        if let Some(permit) = ticket.granted() {
            task.stage = Stage::Works { _permit: permit, until_ms };
            self.ends[1] += 1;
        } else if now >= ticket.due() {
            assert!(self.now_ms <= *since + self.plan.terms.wait_ms + TICK_MS, "waited too long");
            self.tasks.swap_remove(at);
            self.ends[3] += 1;
        } else {
            ticket.park(&Waker::from(task.flag.clone()));
        }
    }

    fn reload(&mut self) {
        self.plan.terms.requests_max = self.random.pick(&[1, 2, 5, 30]);
        let before = self.gate.report().in_flight;
        self.workers.iter().for_each(|worker| worker.local.apply(&self.plan.terms));
        // Those in flight stay; a higher limit lets others in.
        self.most = before.max(self.plan.terms.requests_max.into());
    }

    fn check(&mut self, is_tick: bool) {
        let report = self.gate.report();
        let limit = u64::from(self.plan.terms.requests_max);
        self.most = limit.max(self.most.min(report.in_flight * u64::from(self.plan.keys == 0)));
        if self.plan.keys == 0 {
            assert!(report.in_flight <= self.most, "{report:?}, {} allowed", self.most);
        }
        for key in 1..=self.plan.keys.max(1) {
            let works = |task: &&Task| task.key == key && matches!(task.stage, Stage::Works { .. });
            let waits = |task: &&Task| task.key == key && matches!(task.stage, Stage::Waits(..));
            let (works, waits) = (self.tasks.iter().filter(works).count(), self.tasks.iter().filter(waits).count());
            if !self.plan.reloads {
                assert!(works as u64 <= limit, "{works} in flight for key {key}");
            }
            if is_tick || self.plan.bells {
                assert!(waits == 0 || works as u64 >= limit, "{waits} wait for key {key}, {works} of {limit} work");
            }
        }
        assert!(report.queued <= u64::from(self.plan.terms.pending_max) * self.plan.keys.max(1));
        let oldest = self.tasks.iter().map(|task| task.begun_ms).min().unwrap_or(self.now_ms);
        assert!(self.now_ms - oldest <= self.plan.terms.wait_ms + TICK_MS + 2 * self.plan.work_ms + 1);
    }
}

fn seeds() -> Vec<u64> {
    match std::env::var("RINGWAY_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => vec![seed],
        None => (0..SEEDS).collect(),
    }
}

#[test]
fn limits_hold_and_nobody_is_forgotten_for_every_seed() {
    let mut sums = [0; 5];
    for seed in seeds() {
        let mut sim = Sim::new(seed);
        let plan = sim.plan;
        let run = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| sim.run()));
        assert!(run.is_ok(), "RINGWAY_SEED={seed} ({plan:?})");
        sums.iter_mut().zip(sim.ends).for_each(|(sum, count)| *sum += count);
    }
    assert!(seeds().len() < 100 || sums.iter().all(|&sum| sum > 1_000), "not everything was exercised: {sums:?}");
}

fn overload(workers: u64, times: u64) -> Sim {
    let terms = Terms { requests_max: 20, pending_max: 40, wait_ms: 200, adaptive: None };
    let arrivals = times * 256 * 20 / 10;
    let plan = Plan {
        workers,
        keys: 0,
        terms,
        work_ms: 10,
        arrivals,
        skew: 1,
        leaves: 0,
        panics: 0,
        reloads: false,
        bells: true,
    };
    Sim::of(plan, Random(workers))
}

/// F13: at twice the capacity at least 90 % of what the limit allows is served, on one worker as on eight.
#[test]
fn goodput_stays_at_twice_the_capacity() {
    for workers in [1, 2, 8] {
        let (mut peak, mut double) = (overload(workers, 1), overload(workers, 2));
        peak.run();
        double.run();
        let served = |sim: &Sim| sim.ends[0] + sim.ends[1];
        let possible = END_MS * 20 / 11;
        assert!(served(&double) * 10 >= possible * 9, "{workers}: {} of {possible}", served(&double));
        assert!(served(&double) * 10 >= served(&peak) * 9, "{workers}: {} < {}", served(&double), served(&peak));
        let full = double.ends[2];
        assert!(full > 0 && full + double.ends[3] >= served(&double) * 3 / 4, "{:?}", double.ends);
    }
}

/// F14: a client that asks for everything has its own limit; one that asks for little never waits.
#[test]
fn a_hot_client_does_not_hold_others_up() {
    let terms = Terms { requests_max: 10, pending_max: 20, wait_ms: 200, adaptive: None };
    let plan = Plan {
        workers: 2,
        keys: 1,
        terms,
        work_ms: 10,
        arrivals: 2_560,
        skew: 1,
        leaves: 0,
        panics: 0,
        reloads: false,
        bells: true,
    };
    let mut sim = Sim::of(plan, Random(1));
    for turn in 0..2_000 {
        sim.step(true);
        if turn % 5 == 0 {
            let before = sim.ends[0];
            sim.request(turn % 2, 77);
            assert_eq!(sim.ends[0], before + 1, "the other client enters at once");
        }
    }
    assert!(sim.ends[2] > 1_000, "the hot client was refused: {:?}", sim.ends);
}
