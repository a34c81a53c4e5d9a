//! A snapshot made ready in one worker: its own copy of the route table, and the state that belongs to each id.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::Arc;

use ahash::AHashMap;

use crate::net::io::Io;
use crate::policy::Tick;
use crate::policy::slots::{LiveChain, Slots};
use crate::route::RouteTable;
use crate::snapshot::{self, Route, Snapshot};
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
    /// By route id; those of the plan before, where both snapshots have the same.
    pub routes: Rc<[RoutePlan]>,
    /// By service id; one that both snapshots have is that of the plan before.
    pub services: Vec<Rc<Service<I>>>,
    /// What this plan does not share with the one before.
    fresh: Fresh,
}

/// What is not shared between a plan and the one that it was made from.
#[derive(Default)]
struct Fresh {
    routes: bool,
    services: Vec<u32>,
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
    moved: OnceCell<AHashMap<&'p str, usize>>,
    /// Those of the plan before, if they are.
    kept_routes: OnceCell<Option<Rc<[RoutePlan]>>>,
    routes: Vec<RoutePlan>,
    services: Vec<Rc<Service<I>>>,
    fresh: Vec<u32>,
}

/// What is made anew costs as much as so many that are kept as they are.
const KEPT_FOR_ONE: usize = 64;

impl<'p, I: Io> Preparing<'p, I> {
    /// Begins. What `previous` has under the same identities is taken over: pools, loads, limits and counters go on.
    /// Living state is not changed until [`Plan::commit`], so that the reload can still be abandoned.
    pub fn new(snapshot: Arc<Snapshot>, previous: Option<&'p Plan<I>>) -> Self {
        let services = Vec::with_capacity(snapshot.services.len());
        let (moved, kept_routes, routes, fresh) = Default::default();
        Self { snapshot, previous, moved, kept_routes, routes, services, fresh }
    }

    /// Makes as many routes, services and endpoints ready as `most` says, or a few more. Returns whether any are left.
    pub fn step(&mut self, slots: &mut Slots, metrics: &mut WorkerMetrics, tick: Tick, seed: u64, most: usize) -> bool {
        let mut room = most.saturating_mul(KEPT_FOR_ONE);
        if self.kept_routes.get_or_init(|| same_routes(&self.snapshot, self.previous, metrics)).is_none() {
            self.some_routes(slots, metrics, tick, &mut room);
        }
        while self.services.len() < self.snapshot.services.len() && room > 0 {
            self.service(slots, metrics, seed, &mut room);
        }
        self.routes_left() > 0 || self.services.len() < self.snapshot.services.len()
    }

    fn routes_left(&self) -> usize {
        match self.kept_routes.get() {
            Some(Some(_)) => 0,
            _ => self.snapshot.routes.len() - self.routes.len(),
        }
    }

    fn some_routes(&mut self, slots: &mut Slots, metrics: &mut WorkerMetrics, tick: Tick, room: &mut usize) {
        self.routes.reserve_exact(self.routes_left());
        let most = room.div_ceil(KEPT_FOR_ONE);
        for (at, route) in self.snapshot.routes.iter().enumerate().skip(self.routes.len()).take(most) {
            let kept = self.previous.and_then(|plan| plan.stats_of(at, route, metrics));
            let stats = kept.unwrap_or_else(|| metrics.route(&route.name, &route.pattern));
            // Routes without policies of their own have one chain.
            let before = at.checked_sub(1).filter(|before| self.snapshot.routes[*before].chain.is(&route.chain));
            let chain = before.map_or_else(|| slots.prepare(&route.chain, tick), |at| self.routes[at].chain.clone());
            self.routes.push(RoutePlan { chain, stats });
            *room = room.saturating_sub(KEPT_FOR_ONE);
        }
    }

    /// Makes the next service ready.
    fn service(&mut self, slots: &Slots, metrics: &mut WorkerMetrics, seed: u64, room: &mut usize) {
        let at = self.services.len();
        let spec = &self.snapshot.services[at];
        let old = self.old(at, &spec.name);
        if let Some((service, before)) = old
            && Arc::ptr_eq(before, spec)
        {
            self.services.push(service.clone());
            *room = room.saturating_sub(1);
            return;
        }
        let old = old.map(|(service, _)| service);
        // Tags of endpoints that stay name slots of the handle that they came from.
        let stats = old.map_or_else(|| metrics.service(&spec.name, []), |service| service.stats.clone());
        let service = Service::new(spec, old, stats, seed).among(slots.workers());
        let service = service.limited(spec, old.map(|old| &**old), slots.worker());
        *room = room.saturating_sub(KEPT_FOR_ONE * (1 + service.len()));
        self.services.push(Rc::new(service));
        self.fresh.push(at as u32);
    }

    /// The service of this name, which most often stands where it stood, with what it was made from.
    fn old(&self, at: usize, name: &str) -> Option<(&'p Rc<Service<I>>, &'p Arc<snapshot::Service>)> {
        let previous = self.previous?;
        let before = &previous.services;
        let by_name = || before.iter().map(|service| service.name()).zip(0..).collect();
        let at = match before.get(at) {
            Some(service) if service.name() == name => at,
            _ => *self.moved.get_or_init(by_name).get(name)?,
        };
        before.get(at).zip(previous.snapshot.services.get(at))
    }

    /// The plan, of which nothing is left to be made.
    pub fn into_plan(self) -> Plan<I> {
        let Self { snapshot, kept_routes, routes, services, fresh, .. } = self;
        let kept = kept_routes.into_inner().flatten();
        let fresh = Fresh { routes: kept.is_none(), services: fresh };
        let routes = kept.unwrap_or_else(|| routes.into());
        debug_assert_eq!((routes.len(), services.len()), (snapshot.routes.len(), snapshot.services.len()));
        Plan { table: snapshot.table.clone(), routes, services, fresh, snapshot }
    }
}

/// The routes of the plan before, where its snapshot has the same.
fn same_routes<I: Io>(
    snapshot: &Snapshot,
    previous: Option<&Plan<I>>,
    metrics: &WorkerMetrics,
) -> Option<Rc<[RoutePlan]>> {
    let before = previous.filter(|plan| Arc::ptr_eq(&plan.snapshot.routes, &snapshot.routes))?;
    // What shares an entry because all were taken may get one of its own.
    let is_settled = before.routes.iter().all(|route| !metrics.is_shared(&route.stats));
    is_settled.then(|| before.routes.clone())
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

    /// Fits living state to this plan's configuration, which takes the place of another one's. What it shares with that
    /// fits already, and has taken up what has changed since this plan was prepared.
    pub fn commit(&self, previous: Option<&Snapshot>, slots: &mut Slots, now: Now) {
        if self.fresh.routes {
            self.routes.iter().for_each(|route| slots.commit(&route.chain));
        }
        let fresh = || self.fresh.services.iter().map(|at| *at as usize);
        fresh().filter_map(|at| self.services.get(at)).for_each(|service| service.commit());
        self.follow(Some(&self.fresh.services));
        let specs = fresh().filter_map(|at| Some((at, self.snapshot.services.get(at)?)));
        for (at, spec) in specs.filter(|(_, spec)| spec.is_whole()) {
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

    /// Closes upstream connections that have been idle for too long, and does what else is done once a second.
    pub fn expire(&self, now: Now) {
        self.services.iter().zip(&self.snapshot.services).for_each(|(service, spec)| service.on_second(spec, now));
    }
}
