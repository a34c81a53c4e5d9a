//! A worker's environment without a worker: built from a configuration text, over any way to connect. The simulation,
//! the allocation test and the whole-request bench stand on it.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ringway::config::compile::{Inputs, compile};
use ringway::config::load_str;
use ringway::http::exchange::ShortText;
use ringway::net::io::Connect;
use ringway::net::timer::Timers;
use ringway::pipeline::env::Env;
use ringway::pipeline::plan::Plan;
use ringway::policy::slots::Slots;
use ringway::policy::{self, CompileEnv, Tick, WorkerSeed};
use ringway::schema::FixedEnv;
use ringway::snapshot::{Listener, Snapshot};
use ringway::telemetry::access_log::AccessLog;
use ringway::telemetry::metrics::WorkerMetrics;
use ringway::worker::conn::ConnectionOrigin;

/// Compiles a configuration. Only literal addresses resolve.
pub fn snapshot(text: &str, generation: u64, previous: Option<&Snapshot>) -> Arc<Snapshot> {
    let outside = FixedEnv::default();
    let loaded = load_str("bed.yaml", text, &outside, policy::SCHEMA)
        .unwrap_or_else(|diagnostics| panic!("{}\n{text}", diagnostics.render()));
    let resolve = |host: &str, port: u16| Some(SocketAddr::new(host.parse().ok()?, port));
    let policies = CompileEnv { workers: 1, random: 7 };
    let inputs = Inputs { generation, policies, resolve: Some(resolve), previous };
    let compiled = compile(&loaded, &inputs);
    Arc::new(compiled.unwrap_or_else(|diagnostics| panic!("{}\n{text}", diagnostics.render())).0)
}

/// A worker's environment that serves `snapshot`, and the cell that a reload publishes to.
pub fn env<C: Connect>(
    connector: C,
    timers: &Rc<Timers>,
    snapshot: &Arc<Snapshot>,
    access_log: AccessLog,
    seed: u64,
) -> (Env<C>, Arc<ArcSwap<Snapshot>>) {
    let tick = Tick { now: timers.now(), unix_ms: 0 };
    let mut metrics = WorkerMetrics::new(0, tick.now);
    let mut slots = Slots::new(WorkerSeed { index: 0, count: 1, random: seed, tick });
    let plan = Plan::prepare(snapshot.clone(), None, &mut slots, &mut metrics, tick, seed);
    let published = Arc::new(ArcSwap::new(snapshot.clone()));
    let env = Env::new(connector, timers.clone(), metrics, access_log, slots, plan, published.clone(), seed);
    (env, published)
}

/// The first listener of a snapshot.
pub fn listener(snapshot: &Snapshot) -> Rc<Listener> {
    Rc::new(snapshot.listeners[0].clone())
}

/// A client's place on the network.
pub fn origin(peer: &str) -> ConnectionOrigin {
    let peer: SocketAddr = peer.parse().expect("an address");
    ConnectionOrigin { peer, peer_text: ShortText::of(&peer.ip()), port_text: ShortText::of(&8080), secure: None }
}
