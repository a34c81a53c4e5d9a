//! A snapshot made ready in one worker: its own copy of the route table, and the state that belongs to each id.

use std::cell::OnceCell;
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

/// A plan that is being made, a slice at a time.
pub struct Preparing<'p, I: Io> {
    snapshot: Arc<Snapshot>,
    previous: Option<&'p Plan<I>>,
    /// Services by name, once one stands elsewhere.
    moved: OnceCell<AHashMap<&'p str, &'p Service<I>>>,
    routes: Vec<RoutePlan>,
    services: Vec<Service<I>>,
}

impl<'p, I: Io> Preparing<'p, I> {
    /// Begins. What `previous` has under the same identities is taken over: pools, loads, limits and counters go on.
    /// Living state is not changed until [`Plan::commit`], so that the reload can still be abandoned.
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&'p Plan<I>>) -> Self {
        let (routes, services) = (snapshot.routes.len(), snapshot.services.len());
        let (routes, services) = (Vec::with_capacity(routes), Vec::with_capacity(services));
        Self { snapshot, previous, moved: OnceCell::new(), routes, services }
    }

    /// Makes as many routes, services and endpoints ready as `most` says, or a few more. Returns whether any are left.
    pub fn step(
        &mut self,
        slots: &mut Slots,
        metrics: &mut WorkerMetrics,
        tick: Tick,
        seed: u64,
        mut most: usize,
    ) -> bool {
        for (at, route) in self.snapshot.routes.iter().enumerate().skip(self.routes.len()).take(most) {
            let kept = self.previous.and_then(|plan| plan.stats_of(at, route, metrics));
            let stats = kept.unwrap_or_else(|| metrics.route(&route.name, &route.pattern));
            // Routes without policies of their own have one chain.
            let before = at.checked_sub(1).filter(|before| self.snapshot.routes[*before].chain.is(&route.chain));
            let chain = before.map_or_else(|| slots.prepare(&route.chain, tick), |at| self.routes[at].chain.clone());
            self.routes.push(RoutePlan { chain, stats });
            most -= 1;
        }
        let worker = slots.worker();
        for spec in self.snapshot.services.iter().skip(self.services.len()) {
            if most == 0 {
                return true;
            }
            let old = self.old(self.services.len(), &spec.name);
            // Tags of endpoints that stay name slots of the handle that they came from.
            let stats = old.map_or_else(|| metrics.service(&spec.name, []), |service| service.stats.clone());
            let service = Service::new(spec, old, stats, seed).among(slots.workers()).limited(spec, old, worker);
            self.services.push(service);
            most = most.saturating_sub(1 + spec.endpoints.get().endpoints.len());
        }
        self.routes.len() < self.snapshot.routes.len()
    }

    /// The service of this name, which most often stands where it stood.
    fn old(&self, at: usize, name: &str) -> Option<&'p Service<I>> {
        let before = &self.previous?.services;
        let stands = before.get(at).filter(|service| service.name() == name);
        let by_name = || before.iter().map(|service| (service.name(), service)).collect();
        stands.or_else(|| self.moved.get_or_init(by_name).get(name).copied())
    }

    /// The plan, of which nothing is left to be made.
    pub fn into_plan(self) -> Plan<I> {
        let Self { snapshot, routes, services, .. } = self;
        debug_assert_eq!((routes.len(), services.len()), (snapshot.routes.len(), snapshot.services.len()));
        Plan { table: snapshot.table.clone(), routes, services, snapshot }
    }
}

impl<I: Io> Plan<I> {
    /// Makes a snapshot ready at once; see [`Preparing`].
    pub fn prepare(
        snapshot: Arc<Snapshot>,
        previous: Option<&Plan<I>>,
        slots: &mut Slots,
        metrics: &mut WorkerMetrics,
        tick: Tick,
        seed: u64,
    ) -> Self {
        let mut preparing = Preparing::new(snapshot, previous);
        while preparing.step(slots, metrics, tick, seed, usize::MAX) {}
        preparing.into_plan()
    }

    /// The counters of a route that has kept its place: most do over a reload, and to compare costs less than a search.
    fn stats_of(&self, at: usize, route: &Route, metrics: &WorkerMetrics) -> Option<Rc<RouteStats>> {
        let old = self.snapshot.routes.get(at)?;
        let same = old.name == route.name && old.pattern == route.pattern;
        // What shares an entry because all were taken may get one of its own.
        self.routes.get(at).map(|live| &live.stats).filter(|stats| same && !metrics.is_shared(stats)).cloned()
    }

    /// Fits living state to this plan's configuration, which takes the place of another one's.
    pub fn commit(&self, previous: Option<&Snapshot>, slots: &mut Slots, now: Now) {
        self.routes.iter().for_each(|route| slots.commit(&route.chain));
        self.services.iter().for_each(Service::commit);
        // They may have changed since this plan was prepared.
        self.follow(None);
        for (at, spec) in self.snapshot.services.iter().enumerate().filter(|(_, spec)| spec.is_whole()) {
            // Whoever changes the endpoints of a service that serves makes them known.
            let before = previous.and_then(|previous| previous.services.get(at));
            if before.is_some_and(|before| before.shares_endpoints(spec)) {
                continue;
            }
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
