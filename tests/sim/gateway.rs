//! The gateway's side of the simulation: a worker's environment over the in-memory network, with reloads and a drain.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ringway::net::io::Connect;
use ringway::net::mem::{Mem, pair_with};
use ringway::pipeline::env::Env;
use ringway::policy::Tick;
use ringway::snapshot::{Listener, Snapshot};
use ringway::telemetry::access_log::AccessLog;
use ringway::worker::conn::serve_http1;

use crate::bed;
use crate::client;
use crate::exec::{Exec, Handle};
use crate::origin::{self, Origin};
use crate::rng::Rng;
use crate::world::World;

const ALGORITHMS: [&str; 6] =
    ["round_robin", "weighted_round_robin", "least_connections", "power_of_two", "random", "ip_hash"];

/// A configuration: what a reload may change is drawn.
pub fn config(rng: &mut Rng) -> String {
    let endpoints: Vec<_> = (1..=1 + rng.below(3)).map(|n| format!("\"10.0.0.{n}:80\"")).collect();
    let policies = match rng.below(4) {
        // Fewer than there are clients, and room for all: some wait, none is refused.
        3 => "[{concurrency_limit: {requests_max: 2, queue_timeout: 60s}}]",
        0 => "[]",
        1 => "[{headers: {response: {set: {X-By: sim}}}}]",
        _ => "[{rate_limit: {rate: 100000/s}}]",
    };
    format!(
        "listeners:
  - address: 127.0.0.1:8080
    forwarded: {forwarded}
    limits: {{header_timeout: 2s, idle_timeout: 3s, body_timeout: 1s, write_timeout: 1s, requests_max: {requests}}}
services:
  - name: up
    endpoints: [{endpoints}]
    load_balancer: {algorithm}
    pool: {{idle_max: {idle}, idle_timeout: 3s, requests_max: {uses}}}
    timeouts: {{connect: 300ms, first_byte: 1500ms, between_bytes: 1s, send: 1s}}
routes:
  - {{path: /c/*, service: up, timeout: {timeout}s, policies: {policies}}}
  - {{path: /fixed/*, respond: {{body: \"fixed\\n\"}}}}
",
        forwarded = rng.one_in(2),
        requests = rng.pick(&[3, 100]),
        endpoints = endpoints.join(", "),
        algorithm = rng.pick(&ALGORITHMS),
        idle = rng.pick(&[0, 1, 8]),
        uses = rng.pick(&[1, 3, 100]),
        timeout = rng.pick(&[4, 6]),
    )
}

/// Connects to simulated origins.
pub struct SimConnect {
    world: Rc<World>,
    handle: Handle,
    rng: RefCell<Rng>,
}

impl Connect for SimConnect {
    type Io = Mem;

    async fn connect(&self, to: SocketAddr, timeout_ms: u64) -> io::Result<Mem> {
        let mut rng = Rng::new(self.rng.borrow_mut().next());
        let number = self.world.connects.get();
        self.world.connects.set(number + 1);
        match rng.below(24) {
            _ if self.world.script.is_some() => {}
            0 => return Err(io::ErrorKind::ConnectionRefused.into()),
            1 => {
                self.handle.sleep(timeout_ms).await;
                return Err(io::ErrorKind::TimedOut.into());
            }
            2..=5 => self.handle.sleep(rng.below(100) as u64).await,
            _ => {}
        }
        let scale = &self.world.scale;
        let [to_gateway, to_origin] = [scale.faults(&mut rng), scale.faults(&mut rng)];
        let capacity = scale.capacity(&mut rng);
        let whole = to_gateway.read_bytes_max == usize::MAX && to_gateway.write_bytes_max == usize::MAX;
        let clean = whole && capacity >= 1 << 16;
        let (ours, theirs) = pair_with(capacity, to_gateway, to_origin);
        let name = format!("origin {number} at {}", to.ip());
        let origin = Origin::new(self.world.clone(), self.handle.clone(), to, name.clone(), clean, rng);
        self.handle.spawn(name, origin::serve(origin, theirs));
        Ok(ours)
    }
}

/// A worker's part in the simulation.
pub struct Gateway {
    pub env: Env<SimConnect>,
    world: Rc<World>,
    handle: Handle,
    listener: RefCell<Rc<Listener>>,
    present: RefCell<Arc<Snapshot>>,
    published: Arc<ArcSwap<Snapshot>>,
}

impl Gateway {
    pub fn new(world: &Rc<World>, exec: &Exec, rng: &mut Rng) -> Rc<Self> {
        let snapshot = bed::snapshot(&config(rng), 1, None);
        let (handle, seed) = (exec.handle(), rng.next());
        let connector =
            SimConnect { world: world.clone(), handle: handle.clone(), rng: RefCell::new(Rng::new(rng.next())) };
        let (env, published) = bed::env(connector, &exec.timers, &snapshot, AccessLog::off(), seed);
        let listener = RefCell::new(bed::listener(&snapshot));
        Rc::new(Self { env, world: world.clone(), handle, listener, present: RefCell::new(snapshot), published })
    }

    /// Lets a client in.
    pub async fn accept(self: Rc<Self>, conn: usize) {
        let plan = &self.world.clients[conn];
        self.handle.sleep(plan.start_ms).await;
        if self.world.draining.get() {
            return;
        }
        let [to_client, to_gateway] = plan.faults.clone();
        let (theirs, ours) = pair_with(plan.capacity, to_client, to_gateway);
        client::start(&self.world, &self.handle, conn, theirs);
        let peer = bed::origin(&format!("192.0.2.{}:40000", conn + 1));
        serve_http1(&self.env, ours, peer, || self.listener.borrow().clone()).await;
        self.world.over_ms.set(self.handle.now_ms());
        self.world.note(self.handle.now_ms(), format_args!("connection {conn} is over"));
    }

    /// Reloads now and then, and in some seeds drains in the middle of the work.
    pub async fn control(self: Rc<Self>, mut rng: Rng) {
        if self.world.script.is_some() {
            return;
        }
        for _ in 0..rng.below(4) {
            self.handle.sleep(rng.below(700) as u64).await;
            self.reload(&mut rng).await;
        }
        if rng.one_in(4) {
            self.handle.sleep(rng.below(1_500) as u64).await;
            self.world.note(self.handle.now_ms(), format_args!("drain"));
            self.world.draining.set(true);
            self.env.draining.set(true);
            for _ in 0..600 {
                self.env.timers.close_idle();
                self.handle.sleep(20).await;
            }
        }
    }

    async fn reload(&self, rng: &mut Rng) {
        let present = self.present.borrow().clone();
        let next = bed::snapshot(&config(rng), present.generation + 1, Some(&present));
        let tick = Tick { now: self.env.timers.now(), unix_ms: 0 };
        self.env.prepare(next.clone(), tick, rng.next());
        // Requests come between the two phases.
        self.handle.sleep(rng.pick(&[0, 20, 200])).await;
        if rng.one_in(4) {
            self.world.note(self.handle.now_ms(), format_args!("abandoned reload"));
            return self.env.abandon();
        }
        self.world.note(self.handle.now_ms(), format_args!("reload to {}", next.generation));
        self.published.store(next.clone());
        drop(self.env.pin());
        self.listener.replace(bed::listener(&next));
        self.present.replace(next);
        self.world.reloads.set(self.world.reloads.get() + 1);
    }

    /// What a worker does once a second.
    pub async fn housekeeping(self: Rc<Self>) {
        for tick in 0.. {
            self.handle.sleep(20).await;
            self.env.waiting.tick(self.env.timers.known_now());
            if tick % 50 != 0 {
                continue;
            }
            let plan = self.env.pin();
            plan.expire(self.env.timers.known_now());
            let idle: u64 = plan.services.iter().flat_map(|service| service.report()).map(|e| e.idle).sum();
            if idle == 0 && self.handle.now_ms() > 60_000 {
                return;
            }
        }
    }

    /// Requests that are still counted as under way, in the worker and at its endpoints.
    pub fn active(&self) -> (u64, u64) {
        let plan = self.env.pin();
        let loads = plan.services.iter().flat_map(|service| service.report()).map(|endpoint| endpoint.active).sum();
        (self.env.active.get(), loads)
    }
}
