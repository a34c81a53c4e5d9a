//! What a worker lends to its requests. All of it belongs to one thread; nothing here is shared with another.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::plan::{Plan, Preparing};
use crate::concurrency::Waiting;
use crate::http::exchange::Exchange;
use crate::limits::{EXCHANGES_FREE_MAX, PREPARED_AT_ONCE};
use crate::net::io::Connect;
use crate::net::timer::Timers;
use crate::policy::Tick;
use crate::policy::slots::Slots;
use crate::random;
use crate::route::Captures;
use crate::snapshot::Snapshot;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::WorkerMetrics;
use crate::time::Now;

/// A worker's environment.
pub struct Env<C: Connect> {
    /// Opens upstream connections.
    pub connector: C,
    /// Deadlines and the clock.
    pub timers: Rc<Timers>,
    /// Counters.
    pub metrics: RefCell<WorkerMetrics>,
    /// The log of requests.
    pub access_log: RefCell<AccessLog>,
    /// The gateway is stopping: connections close behind their next response.
    pub draining: Cell<bool>,
    /// How short memory is.
    pub strain: Cell<Strain>,
    /// Requests under way.
    pub active: Cell<u64>,
    /// A request began since the last tick, or a client came and memory is limited, or it is short.
    pub stirred: Cell<bool>,
    /// Wall clock minus monotonic clock, in milliseconds, as of the last tick.
    wall_offset_ms: Cell<u64>,
    /// Requests that wait for others to end.
    pub waiting: Waiting,
    /// States of policies, by identity.
    pub slots: RefCell<Slots>,
    plan: RefCell<Rc<Plan<C::Io>>>,
    prepared: RefCell<Option<Rc<Plan<C::Io>>>>,
    published: RefCell<Cache<Arc<ArcSwap<Snapshot>>, Arc<Snapshot>>>,
    random: Cell<u64>,
    #[allow(clippy::vec_box, reason = "a request is large: taken and given back as a pointer")]
    free: RefCell<Vec<Box<Request>>>,
}

/// What a worker that runs short of memory asks of its connections (F10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strain {
    /// Nothing.
    #[default]
    None,
    /// They close behind their responses.
    CloseAfter,
    /// They close, and what they ask is answered 503.
    Refuse,
}

/// The state of one request, recycled from request to request so that none allocates.
#[derive(Default)]
pub struct Request {
    /// The exchange.
    pub x: Exchange,
    /// Named parts of the path.
    pub captures: Captures,
    /// Room for a rewritten path.
    pub path: Vec<u8>,
}

impl<C: Connect> Env<C> {
    /// An environment that runs `plan`, the present content of `published`. `seed` starts its generator of request ids
    /// and choices.
    #[allow(clippy::too_many_arguments, reason = "called once per worker, with the parts of one")]
    pub fn new(
        connector: C,
        timers: Rc<Timers>,
        metrics: WorkerMetrics,
        access_log: AccessLog,
        slots: Slots,
        plan: Plan<C::Io>,
        published: Arc<ArcSwap<Snapshot>>,
        seed: u64,
    ) -> Self {
        Self {
            connector,
            timers,
            metrics: RefCell::new(metrics),
            access_log: RefCell::new(access_log),
            draining: Cell::new(false),
            strain: Cell::new(Strain::None),
            active: Cell::new(0),
            stirred: Cell::new(false),
            wall_offset_ms: Cell::new(0),
            waiting: Waiting::default(),
            slots: RefCell::new(slots),
            plan: RefCell::new(Rc::new(plan)),
            prepared: RefCell::default(),
            published: RefCell::new(Cache::new(published)),
            random: Cell::new(seed),
            free: RefCell::default(),
        }
    }

    /// Sets the wall clock, in milliseconds since the Unix epoch: once a tick.
    pub fn set_wall_clock(&self, unix_ms: u64) {
        self.wall_offset_ms.set(unix_ms.saturating_sub(self.timers.known_now().ms()));
    }

    /// The wall clock at `now`, in milliseconds since the Unix epoch, without asking the system.
    #[inline]
    pub fn unix_ms(&self, now: Now) -> u64 {
        self.wall_offset_ms.get() + now.ms()
    }

    /// The plan for a whole request: that of the snapshot published last. Seeing that it is still the same one costs
    /// one load of a pointer.
    #[inline]
    pub fn pin(&self) -> Rc<Plan<C::Io>> {
        let generation = self.published.borrow_mut().load().generation;
        if generation != self.plan.borrow().snapshot.generation {
            self.adopt(generation);
        }
        self.plan.borrow().clone()
    }

    /// Takes the prepared plan into service.
    #[cold]
    fn adopt(&self, generation: u64) {
        let prepared = self.prepared.take().filter(|plan| plan.snapshot.generation == generation);
        debug_assert!(prepared.is_some(), "a snapshot was published that this worker did not prepare");
        if let Some(plan) = prepared {
            let previous = self.plan.borrow().snapshot.clone();
            plan.commit(Some(&previous), &mut self.slots.borrow_mut(), self.timers.known_now());
            self.plan.replace(plan);
        }
    }

    /// Makes a snapshot ready beside the one that serves.
    pub fn prepare(&self, snapshot: Arc<Snapshot>, tick: Tick, seed: u64) {
        let previous = self.pin();
        let (mut slots, mut metrics) = (self.slots.borrow_mut(), self.metrics.borrow_mut());
        let plan = Plan::prepare(snapshot, Some(&previous), &mut slots, &mut metrics, tick, seed);
        self.prepared.replace(Some(Rc::new(plan)));
    }

    /// A slice of [`Self::prepare`]: makes a little more of a snapshot ready. Returns whether there is more to do;
    /// [`Self::prepared`] takes what is done.
    pub fn prepare_some(&self, preparing: &mut Preparing<'_, C::Io>, tick: Tick, seed: u64) -> bool {
        let (mut slots, mut metrics) = (self.slots.borrow_mut(), self.metrics.borrow_mut());
        preparing.step(&mut slots, &mut metrics, tick, seed, PREPARED_AT_ONCE)
    }

    /// Keeps a plan that was made in slices beside the one that serves.
    pub fn prepared(&self, preparing: Preparing<'_, C::Io>) {
        self.prepared.replace(Some(Rc::new(preparing.into_plan())));
    }

    /// Takes up the present endpoints of services: by their ids in the snapshot of a generation, or of all. A plan that
    /// is being prepared does it when it is adopted.
    pub fn follow(&self, generation: u64, services: Option<&[u32]>) {
        let plan = self.pin();
        let count = plan.follow(services.filter(|_| plan.snapshot.generation == generation));
        self.metrics.borrow().own.endpoint_sets.add(count as i64);
    }

    /// Forgets what was made ready.
    pub fn abandon(&self) {
        self.prepared.take();
    }

    /// The next value of the worker's generator: for ids and choices, not for secrets.
    #[inline]
    pub fn random(&self) -> u64 {
        let mut state = self.random.get();
        let value = random::next(&mut state);
        self.random.set(state);
        value
    }

    /// An empty request state.
    #[inline]
    pub fn take_request(&self) -> Box<Request> {
        self.free.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives a request state back.
    #[inline]
    pub fn give_request(&self, mut request: Box<Request>) {
        request.x.clear();
        request.captures.clear();
        let mut free = self.free.borrow_mut();
        if free.len() < EXCHANGES_FREE_MAX {
            free.push(request);
        }
    }
}
