//! A snapshot made ready in one worker: its own copy of the route table, and the state that belongs to each id.

use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;

use crate::net::io::Io;
use crate::policy::Tick;
use crate::policy::slots::{LiveChain, Slots};
use crate::route::RouteTable;
use crate::snapshot::{Route, Snapshot};
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::metrics::stats::RouteStats;
use crate::time::Now;
use crate::upstream::service::Service;

/// A snapshot with this worker's state. A request keeps the plan that it began with.
pub struct Plan<I: Io> {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// This worker's copy: the caches of its regular expressions are not shared.
    pub table: RouteTable,
    /// By route id.
    pub routes: Vec<RoutePlan>,
    /// By service id.
    pub services: Vec<Service<I>>,
}

/// A route's state in this worker.
pub struct RoutePlan {
    /// Its policies with their states.
    pub chain: LiveChain,
    /// Its counters.
    pub stats: Rc<RouteStats>,
}

impl<I: Io> Plan<I> {
    /// Makes a snapshot ready. What `previous` has under the same identities is taken over: pools, loads, limits and
    /// counters go on. Living state is not changed until [`Self::commit`], so that the reload can still be abandoned.
    pub fn prepare(
        snapshot: Arc<Snapshot>,
        previous: Option<&Plan<I>>,
        slots: &mut Slots,
        metrics: &mut WorkerMetrics,
        tick: Tick,
        seed: u64,
    ) -> Self {
        let worker = slots.worker();
        let routes = snapshot.routes.iter().enumerate().map(|(at, route)| RoutePlan {
            chain: slots.prepare(&route.chain, tick),
            stats: previous
                .and_then(|plan| plan.stats_of(at, route, metrics))
                .unwrap_or_else(|| metrics.route(&route.name, &route.pattern)),
        });
        let routes = routes.collect();
        let old: AHashMap<_, _> = previous.iter().flat_map(|plan| &plan.services).map(|s| (s.name(), s)).collect();
        let services = snapshot.services.iter().map(|spec| {
            let old = old.get(&*spec.name).copied();
            // Tags of endpoints that stay name slots of the handle that they came from.
            let stats = old.map_or_else(|| metrics.service(&spec.name, []), |service| service.stats.clone());
            Service::new(spec, old, stats, seed).among(slots.workers()).limited(spec, old, worker)
        });
        let services = services.collect();
        Self { table: snapshot.table.clone(), routes, services, snapshot }
    }

    /// The counters of a route that has kept its place: most do over a reload, and to compare costs less than a search.
    fn stats_of(&self, at: usize, route: &Route, metrics: &WorkerMetrics) -> Option<Rc<RouteStats>> {
        let old = self.snapshot.routes.get(at)?;
        let same = old.name == route.name && old.pattern == route.pattern;
        // What shares an entry because all were taken may get one of its own.
        self.routes.get(at).map(|live| &live.stats).filter(|stats| same && !metrics.is_shared(stats)).cloned()
    }

    /// Fits living state to this plan's configuration.
    pub fn commit(&self, slots: &mut Slots, now: Now) {
        self.routes.iter().for_each(|route| slots.commit(&route.chain));
        self.services.iter().for_each(Service::commit);
        // They may have changed since this plan was prepared.
        self.follow(None);
        for spec in self.snapshot.services.iter().filter(|spec| spec.is_whole()) {
            spec.state.set_endpoints(spec.endpoints.get().endpoints.iter().map(|endpoint| &*endpoint.authority), now);
        }
    }

    /// Takes up the present endpoints of these services; of all, where none are named. Returns how many had others.
    pub fn follow(&self, services: Option<&[u32]>) -> usize {
        let has_others = |at: &usize| {
            let known = self.services.get(*at).zip(self.snapshot.services.get(*at));
            known.is_some_and(|(service, spec)| service.follow(spec))
        };
        match services {
            Some(some) => some.iter().map(|&at| at as usize).filter(has_others).count(),
            None => (0..self.services.len()).filter(has_others).count(),
        }
    }

    /// Closes upstream connections that have been idle for at least `ms`.
    pub fn close_idle(&self, now: Now, ms: u64) {
        self.services.iter().for_each(|service| service.close_idle(now, ms));
    }

    /// Closes upstream connections that have been idle for too long.
    pub fn expire(&self, now: Now) {
        for (service, spec) in self.services.iter().zip(&self.snapshot.services) {
            service.expire(now, &spec.rules);
            service.on_second(spec, now);
        }
    }
}
