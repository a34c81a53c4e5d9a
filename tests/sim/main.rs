//! A worker over the in-memory network and a virtual clock: clients, origins, reloads and a drain, all from one seed.
//!
//! `RINGWAY_SEED=N` replays one seed with its trace, `RINGWAY_SEEDS=COUNT` runs so many of them, from
//! `RINGWAY_SEEDS_FROM` on.

#[path = "../support/bed.rs"]
mod bed;
mod client;
mod everywhere;
mod exec;
mod floods;
mod forwarded;
mod gateway;
mod h2wire;
mod http1_up;
mod http2;
mod http2_client;
mod http2_idle;
mod http2_tunnel;
mod http2_up;
mod nobody;
mod origin;
mod plan;
mod retry;
mod retry_down;
mod retry_up;
mod rng;
mod scenarios;
mod slow;
mod wire;
mod world;

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use exec::Exec;
use gateway::Gateway;
use plan::{Client, Scale};
use ringway::sys::buf::pool_taken;
use rng::Rng;
use world::World;

/// Seeds of a run that says nothing else.
const SEEDS: u64 = 1_000;
/// Virtual time by which everything has ended: the work takes seconds, the longest deadline is 9 s.
const END_MS: u64 = 120_000;

/// What a seed did, for sums over many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Summary {
    digest: u64,
    responses: u64,
    connects: u64,
    reloads: u64,
    attempts: u64,
}

fn world(seed: u64, traced: bool) -> Rc<World> {
    let mut rng = Rng::of(&[seed, 1]);
    let scale = Scale::draw(&mut rng);
    let clients = (0..2 + rng.below(4)).map(|_| Client::draw(&mut rng, &scale)).collect();
    World::new(seed, scale, clients, None, traced)
}

/// Runs one seed in its world; every invariant is an assertion.
fn run(world: &Rc<World>) -> Summary {
    let seed = world.seed;
    let taken_before = pool_taken();
    let mut exec = Exec::new(seed);
    let handle = exec.handle();
    let gateway = Gateway::new(world, &exec, &mut Rng::of(&[seed, 2]));
    for conn in 0..world.clients.len() {
        handle.spawn(format!("connection {conn}"), gateway.clone().accept(conn));
    }
    handle.spawn("control".to_owned(), gateway.clone().control(Rng::of(&[seed, 3])));
    handle.spawn("housekeeping".to_owned(), gateway.clone().housekeeping());
    let ended = exec.run(END_MS, |alive| alive.is_empty());
    assert!(ended, "tasks that do not end: {:?}", exec.alive());
    assert_eq!(gateway.active(), (0, 0), "requests that are still counted");
    let now = exec.timers.known_now();
    for tick in 0..200 {
        exec.timers.advance(now.plus_ms(20 * tick));
    }
    assert!(exec.timers.is_empty(), "{} entries on the wheel", exec.timers.len());
    assert_eq!(pool_taken(), taken_before, "buffers that did not come back");
    let attempts = world.attempts.borrow().iter().flatten().map(|all| all.len() as u64).sum();
    Summary {
        digest: world.digest(),
        responses: world.responses.get(),
        connects: world.connects.get(),
        reloads: world.reloads.get(),
        attempts,
    }
}

/// Runs a seed; a failing one is run again for its trace.
fn run_or_explain(seed: u64) -> Summary {
    match catch_unwind(AssertUnwindSafe(|| run(&world(seed, false)))) {
        Ok(summary) => summary,
        Err(_) => explain(seed),
    }
}

fn explain(seed: u64) -> Summary {
    let world = world(seed, true);
    let clients: Vec<_> = world.clients.iter().enumerate().map(|(n, client)| format!("{n}: {client:?}")).collect();
    let outcome = catch_unwind(AssertUnwindSafe(|| run(&world)));
    eprintln!("{}\n{}", clients.join("\n"), world.trace());
    match outcome {
        Ok(summary) if outcome_is_wanted() => summary,
        Ok(_) => panic!("seed {seed} failed, and did not fail again: it is not deterministic"),
        Err(_) => panic!("seed {seed} failed; replay it with RINGWAY_SEED={seed} cargo test --test sim"),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds of this run, and how many they are where none is asked for by itself; 0 for one alone.
fn chosen_seeds(usual: u64) -> (Range<u64>, u64) {
    let from = number("RINGWAY_SEEDS_FROM").unwrap_or(0);
    match number("RINGWAY_SEED") {
        Some(seed) => (seed..seed + 1, 0),
        None => {
            let count = number("RINGWAY_SEEDS").unwrap_or(usual);
            (from..from + count, count)
        }
    }
}

fn outcome_is_wanted() -> bool {
    number("RINGWAY_SEED").is_some()
}

#[test]
fn seeds() {
    if let Some(seed) = number("RINGWAY_SEED") {
        println!("{:?}", explain(seed));
        return;
    }
    let (seeds, count) = chosen_seeds(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let one = |thread: u64| {
        let mut sum = Summary::default();
        for seed in seeds.clone().filter(|seed| seed % threads == thread) {
            let one = run_or_explain(seed);
            sum.responses += one.responses;
            sum.connects += one.connects;
            sum.reloads += one.reloads;
            sum.attempts += one.attempts;
        }
        sum
    };
    let sums: Vec<_> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..threads).map(|thread| scope.spawn(move || one(thread))).collect();
        runs.into_iter().map(|run| run.join().expect("a seed failed; see above")).collect()
    });
    println!("{count} seeds: {sums:?}");
    // A simulation that does nothing would pass every assertion.
    let responses: u64 = sums.iter().map(|sum| sum.responses).sum();
    let reloads: u64 = sums.iter().map(|sum| sum.reloads).sum();
    assert!(responses >= count * 4 && reloads >= count / 2, "{responses} responses, {reloads} reloads");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        assert_eq!(run(&world(seed, false)), run(&world(seed, true)), "seed {seed}");
    }
}
