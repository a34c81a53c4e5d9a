//! HTTP/2 in the simulation: clients with many streams on torn connections, before endpoints that echo over HTTP/1 or
//! HTTP/2, while the gateway reloads, drains and stops at a deadline.
//!
//! `RINGWAY_SEED`, `RINGWAY_SEEDS` and `RINGWAY_SEEDS_FROM` are those of the other simulation.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ringway::net::io::Connect;
use ringway::net::mem::{Mem, pair_with};
use ringway::pipeline::env::Env;
use ringway::policy::Tick;
use ringway::proto::h2::code::Fatal;
use ringway::snapshot::{Listener, Snapshot};
use ringway::sys::buf::pool_taken;
use ringway::telemetry::access_log::AccessLog;
use ringway::worker::conn::serve_http1;

use crate::exec::{Exec, Handle};
use crate::h2wire::{Wire, faults};
use crate::http2_client::Client;
use crate::rng::Rng;
use crate::{bed, h2wire, http1_up, http2_up};

const END_MS: u64 = 100_000;

/// What one seed's peers have seen.
#[derive(Default)]
pub struct Ledger {
    /// The configuration that holds.
    pub generation: Cell<u64>,
    pub resets: Cell<u64>,
    pub goaways: Cell<u64>,
    pub cuts: Cell<u64>,
    /// Connections whose windows ran out towards the gateway, and away from it.
    pub stalls: [Cell<u64>; 2],
    /// What the gateway did to an endpoint that HTTP/2 does not allow.
    pub fatal: Cell<Option<Fatal>>,
    delivered: RefCell<BTreeMap<String, usize>>,
}

impl Ledger {
    /// A request has come to an endpoint.
    pub fn deliver(&self, path: &str) {
        *self.delivered.borrow_mut().entry(path.to_owned()).or_default() += 1;
    }

    /// A connection is over.
    pub fn note_windows(&self, wire: &Wire) {
        for (count, met) in self.stalls.iter().zip([wire.is_stalled.get(), wire.is_full.get()]) {
            count.set(count.get() + u64::from(met));
        }
    }

    pub fn deliveries(&self, path: &str) -> usize {
        self.delivered.borrow().get(path).copied().unwrap_or(0)
    }
}

/// What is drawn for a seed, and what may happen in it.
#[derive(Clone, Copy, Debug, Default)]
struct World {
    seed: u64,
    /// Endpoints speak HTTP/2.
    up_h2: bool,
    /// They break off what they have begun.
    wild: bool,
    /// They say GOAWAY now and then, and serve what they have seen.
    departing: bool,
    /// The gateway reloads, drains, stops.
    disturbed: bool,
}

/// What seeds have done, for sums over many.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    whole: u64,
    refused: u64,
    reloads: u64,
    drains: u64,
    deadlines: u64,
    resets: u64,
    goaways: u64,
    cuts: u64,
    stalls: [u64; 2],
}

impl Sums {
    fn add(&mut self, one: Self) {
        self.whole += one.whole;
        self.refused += one.refused;
        self.reloads += one.reloads;
        self.drains += one.drains;
        self.deadlines += one.deadlines;
        self.resets += one.resets;
        self.goaways += one.goaways;
        self.cuts += one.cuts;
        self.stalls.iter_mut().zip(one.stalls).for_each(|(sum, one)| *sum += one);
    }
}

/// A configuration: its generation stands in each request and response.
fn config(world: World, generation: u64, rng: &mut Rng) -> String {
    let endpoints = if world.disturbed { rng.pick(&["\"10.0.0.1:80\"", "\"10.0.0.2:80\""]) } else { "\"10.0.0.1:80\"" };
    let more = if world.disturbed && rng.one_in(2) { ", \"10.0.0.3:80\"" } else { "" };
    let requests_max = if world.disturbed { rng.pick(&[4, 1_000]) } else { 1_000 };
    let uses_max = if world.disturbed { rng.pick(&[1, 3, 1_000]) } else { 1_000 };
    let protocol = if world.up_h2 { "h2" } else { "http1" };
    format!(
        "listeners:
  - address: 127.0.0.1:8080
    protocols: [http1, h2c]
    limits:
      {{header_timeout: 2s, idle_timeout: 3s, body_timeout: 2s, write_timeout: 2s, requests_max: {requests_max}}}
services: [{{name: up, protocol: {protocol}, endpoints: [{endpoints}{more}], pool: {{requests_max: {uses_max}}}}}]
routes:
  - path: /*
    service: up
    timeout: 20s
    policies: [{{headers: {{request: {{set: {{X-Asked: \"{generation}\"}}}}, response: {{set: {{X-Told: \"{generation}\"}}}}}}}}]
"
    )
}

/// Connects to endpoints.
struct Origins {
    world: World,
    handle: Handle,
    rng: RefCell<Rng>,
    ledger: Rc<Ledger>,
}

impl Connect for Origins {
    type Io = Mem;

    async fn connect(&self, _: SocketAddr, _: u64) -> io::Result<Mem> {
        let mut rng = Rng::new(self.rng.borrow_mut().next());
        let (ours, theirs) = pair_with([1 << 16, 500][rng.below(2)], faults(&mut rng), faults(&mut rng));
        if self.world.up_h2 {
            let World { wild, departing, .. } = self.world;
            http2_up::start(theirs, &self.handle, rng, [wild, departing], &self.ledger);
        } else {
            let slow = rng.one_in(4);
            let serving = http1_up::echo(theirs, self.handle.clone(), slow, self.ledger.clone());
            self.handle.spawn("origin".into(), serving);
        }
        Ok(ours)
    }

    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        self.handle.spawn("link".into(), task);
    }
}

/// The worker.
struct Gateway {
    world: World,
    env: Env<Origins>,
    handle: Handle,
    ledger: Rc<Ledger>,
    listener: RefCell<Rc<Listener>>,
    present: RefCell<Arc<Snapshot>>,
    published: Arc<ArcSwap<Snapshot>>,
    /// Connections that are not over.
    open: Cell<usize>,
    reloads: Cell<u64>,
    drains: Cell<u64>,
    deadlines: Cell<u64>,
}

impl Gateway {
    fn new(world: World, exec: &Exec, rng: &mut Rng, ledger: &Rc<Ledger>) -> Rc<Self> {
        let snapshot = bed::snapshot(&config(world, 1, rng), 1, None);
        ledger.generation.set(1);
        let (handle, next) = (exec.handle(), RefCell::new(Rng::new(rng.next())));
        let origins = Origins { world, handle: handle.clone(), rng: next, ledger: ledger.clone() };
        let (env, published) = bed::env(origins, &exec.timers, &snapshot, AccessLog::off(), world.seed);
        Rc::new(Self {
            world,
            env,
            handle,
            ledger: ledger.clone(),
            listener: RefCell::new(bed::listener(&snapshot)),
            present: RefCell::new(snapshot),
            published,
            open: Cell::new(0),
            reloads: Cell::default(),
            drains: Cell::default(),
            deadlines: Cell::default(),
        })
    }

    /// Lets a client in.
    fn accept(self: &Rc<Self>, number: usize, rng: &mut Rng) -> Rc<Client> {
        let (theirs, ours) = pair_with([1 << 16, 300][rng.below(2)], faults(rng), faults(rng));
        let client = Rc::new(Client::new(number, Rng::new(rng.next()), self.world.disturbed, &self.ledger));
        h2wire::start(client.clone(), theirs, &self.handle, &format!("client {number}"));
        let gateway = self.clone();
        self.open.set(self.open.get() + 1);
        self.handle.spawn(format!("connection {number}"), async move {
            let origin = bed::origin(&format!("192.0.2.{}:40000", number + 1));
            serve_http1(&gateway.env, ours, origin, || gateway.listener.borrow().clone()).await;
            gateway.open.set(gateway.open.get() - 1);
        });
        client
    }

    /// Reloads now and then, and in some seeds drains in the midst of the work, some of them with a deadline.
    async fn control(self: Rc<Self>, mut rng: Rng) {
        for _ in 0..rng.below(4) {
            self.handle.sleep(rng.below(200) as u64).await;
            self.reload(&mut rng).await;
        }
        if rng.one_in(3) {
            return;
        }
        self.handle.sleep(rng.below(300) as u64).await;
        if self.open.get() == 0 {
            return;
        }
        self.drains.set(1);
        let deadline_ms = if rng.one_in(2) { rng.below(200) as u64 } else { u64::MAX };
        let begun_ms = self.handle.now_ms();
        self.env.draining.set(true);
        let mut untold = self.env.timers.end_soon();
        while untold.tell_some() {
            self.handle.sleep(20).await;
        }
        // As between the announcement and the closing of what is idle.
        self.handle.sleep(rng.pick(&[0, 0, 100])).await;
        while self.open.get() > 0 {
            if self.handle.now_ms() - begun_ms >= deadline_ms {
                self.deadlines.set(1);
                self.env.timers.end_all();
            }
            self.env.timers.close_idle();
            self.handle.sleep(20).await;
        }
    }

    async fn reload(&self, rng: &mut Rng) {
        let present = self.present.borrow().clone();
        let generation = present.generation + 1;
        let next = bed::snapshot(&config(self.world, generation, rng), generation, Some(&present));
        let tick = Tick { now: self.env.timers.now(), unix_ms: 0 };
        self.env.prepare(next.clone(), tick, rng.next());
        // Requests come between the two phases.
        self.handle.sleep(rng.pick(&[0, 20, 60])).await;
        if rng.one_in(5) {
            return self.env.abandon();
        }
        self.published.store(next.clone());
        drop(self.env.pin());
        self.ledger.generation.set(generation);
        self.listener.replace(bed::listener(&next));
        self.present.replace(next);
        self.reloads.set(self.reloads.get() + 1);
    }

    /// What a worker does once a second, and at its end: connections to endpoints that nobody uses are let go.
    async fn housekeeping(self: Rc<Self>) {
        while self.open.get() > 0 {
            for _ in 0..50 {
                self.handle.sleep(20).await;
                self.env.waiting.tick(self.env.timers.known_now());
            }
            self.env.pin().expire(self.env.timers.known_now());
        }
        self.env.pin().close_idle(self.env.timers.known_now(), 0);
    }

    /// Requests that are still counted as under way, in the worker and at its endpoints, and HTTP/2 connections.
    fn active(&self) -> (u64, u64, i64) {
        let plan = self.env.pin();
        let loads = plan.services.iter().flat_map(|service| service.report()).map(|endpoint| endpoint.active).sum();
        (self.env.active.get(), loads, self.env.metrics.borrow().own.h2_connections.get())
    }
}

/// Runs one seed; every invariant is an assertion.
fn run(world: World) -> Sums {
    let taken = pool_taken();
    let mut rng = Rng::of(&[world.seed, 2]);
    let mut exec = Exec::new(world.seed);
    let ledger = Rc::<Ledger>::default();
    let gateway = Gateway::new(world, &exec, &mut rng, &ledger);
    let count = if world.disturbed { 1 + rng.below(2) } else { 1 };
    let clients: Vec<_> = (0..count).map(|number| gateway.accept(number, &mut rng)).collect();
    if world.disturbed {
        exec.handle().spawn("control".into(), gateway.clone().control(Rng::new(rng.next())));
    }
    exec.handle().spawn("housekeeping".into(), gateway.clone().housekeeping());
    let ended = exec.run(END_MS, |alive| alive.is_empty());
    assert!(ended, "tasks that do not end: {:?}", exec.alive());
    assert_eq!(gateway.active(), (0, 0, 0), "what is still counted");
    assert_eq!(ledger.fatal.get(), None, "what an endpoint says of the gateway");
    let cut_off = gateway.deadlines.get() > 0;
    let mut sums = Sums { reloads: gateway.reloads.get(), drains: gateway.drains.get(), ..Sums::default() };
    for client in &clients {
        ledger.note_windows(&client.wire);
        let strict = !world.wild && !client.leaves && !cut_off;
        sums.whole += client.check(strict, world.departing) as u64;
        if strict {
            client.check_window();
        }
        sums.refused += client.streams.borrow().values().filter(|asked| asked.refused).count() as u64;
    }
    sums.deadlines = gateway.deadlines.get();
    [sums.resets, sums.goaways, sums.cuts] = [&ledger.resets, &ledger.goaways, &ledger.cuts].map(Cell::get);
    sums.stalls = ledger.stalls.each_ref().map(Cell::get);
    drop((clients, gateway));
    let now = exec.timers.known_now();
    for tick in 0..200 {
        exec.timers.advance(now.plus_ms(20 * tick));
    }
    assert!(exec.timers.is_empty(), "{} entries on the wheel", exec.timers.len());
    drop((exec, ledger));
    assert_eq!(pool_taken(), taken, "buffers are left");
    sums
}

/// Runs the seeds of this run, each in its world. Returns their sums, and how many they are; 0 for one alone.
fn run_all(usual: u64, of: impl Fn(u64) -> World) -> (Sums, u64) {
    let (seeds, count) = crate::chosen_seeds(usual);
    let mut all = Sums::default();
    for seed in seeds {
        let world = of(seed);
        let Ok(one) = catch_unwind(AssertUnwindSafe(|| run(world))) else {
            panic!("seed {seed} failed in {world:?}; replay it with RINGWAY_SEED={seed} cargo test --test sim http2::");
        };
        all.add(one);
    }
    println!("{count} seeds: {all:?}");
    (all, count)
}

#[test]
fn many_streams_on_torn_connections() {
    let (sums, count) = run_all(300, |seed| World { seed, ..World::default() });
    assert!(sums.whole >= 2 * count && sums.stalls[0] >= count / 30, "{sums:?}");
}

/// Both roles: windows run out and answers come in any order, and every stream that its client keeps comes out whole.
#[test]
fn endpoints_of_http2_that_take_their_time_lose_nothing() {
    let (sums, count) = run_all(400, |seed| World { seed, up_h2: true, ..World::default() });
    assert!(sums.whole >= 2 * count && sums.stalls.iter().all(|&met| met >= count / 60), "{sums:?}");
}

/// GOAWAY at any frame of an endpoint: what it has seen comes out whole, and is asked for nowhere else.
#[test]
fn endpoints_of_http2_that_depart_serve_what_they_have_seen() {
    let (sums, count) = run_all(400, |seed| World { seed, up_h2: true, departing: true, ..World::default() });
    assert!(sums.whole >= 2 * count && sums.goaways >= count / 5, "{sums:?}");
}

/// GOAWAY at any frame, resets in any state, connections that break: nothing hangs, nothing is taken for whole that is
/// not, no answer goes to another stream.
#[test]
fn endpoints_of_http2_that_are_wild_cost_only_their_own_streams() {
    let (sums, count) = run_all(600, |seed| World { seed, up_h2: true, wild: true, ..World::default() });
    assert!(sums.whole >= count / 2, "{sums:?}");
    assert!([sums.resets, sums.goaways, sums.cuts].iter().all(|&met| met >= count / 30), "{sums:?}");
}

/// The gateway's own reloads, drains and deadlines in the midst of streams: a stream keeps the configuration that it
/// began with, the last GOAWAY names just the last stream that is served, all up to it are served to their ends, none
/// behind it leaves a trace, and connections to endpoints end behind their last stream.
#[test]
fn reloads_drains_and_deadlines_in_the_midst_of_streams() {
    let (sums, count) = run_all(1_200, |seed| {
        let (up_h2, wild) = (!seed.is_multiple_of(3), seed % 4 == 3);
        World { seed, up_h2, wild: wild && up_h2, departing: seed % 4 == 1, disturbed: true }
    });
    assert!(sums.whole >= 2 * count && sums.reloads >= count / 2, "{sums:?}");
    assert!([sums.refused, sums.drains, sums.deadlines].iter().all(|&met| met >= count / 30), "{sums:?}");
}
