//! A service as one worker knows it: its endpoints with their pools and their load. It outlives reloads by identity.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use ahash::AHashMap;

use super::balance::{BalancerState, TriedSet, View, hash_key};
use super::budget::RetryBudget;
use super::endpoint::{Connections, Endpoint, EndpointReport, Visit};
use super::passive::{Outcome, Window};
use super::rules::{EjectionRules, Hedge};
use super::selection::Selection;
use super::spread::Spread;
use super::state::Ejection;
use super::sticky::Sticky;
use crate::concurrency::{Admission, Bounds, Local, Terms, Ticket};
use crate::error::{Failure, Reason};
use crate::http::exchange::{EndpointWork, Exchange};
use crate::limits::ENDPOINT_REQUESTS_MAX;
use crate::net::io::Io;
use crate::snapshot::{self, EndpointSet, HashKey, ServiceRules};
use crate::telemetry::log;
use crate::telemetry::metrics::ServiceHandle;
use crate::time::Now;

/// A service in one worker.
pub struct Service<I: Io> {
    /// Its counters.
    pub stats: ServiceHandle,
    balancing: RefCell<Balancing<I>>,
    limit: Option<Box<Limit>>,
    /// Requests under way with one endpoint: bounded here where no limit is configured.
    endpoint_requests_max: u32,
    name: String,
    /// Requests since the last look.
    requests: Cell<u32>,
    /// There was nothing to look after at the last look, and only a request can change that.
    rests: Cell<bool>,
    /// Its connections, known for as long as it rests.
    counted: Cell<Option<Connections>>,
    /// The same service in an earlier plan, whose requests may still ask the same endpoints.
    before: Weak<Service<I>>,
    /// Workers that share what the retry budget earns with time.
    workers: u32,
    seed: u64,
    /// How answers are spread, where hedging asks.
    spread: RefCell<Option<Box<Spread>>>,
}

/// A configured limit on the requests of a service (F13).
struct Limit {
    local: Rc<Local>,
    terms: Terms,
}

/// What choosing looks at and remembers.
struct Balancing<I: Io> {
    /// What the others were made from.
    set: Arc<EndpointSet>,
    /// In the order of the set.
    endpoints: Vec<Rc<Endpoint<I>>>,
    /// Who may be asked; empty before the first request.
    selection: Selection,
    /// The epoch of the facts that it was computed from.
    epoch: u64,
    /// One for each tier.
    states: Vec<BalancerState>,
    budget: RetryBudget,
}

impl<I: Io> Service<I> {
    /// The service of a snapshot; endpoints that `previous` had at the same address are taken over with their
    /// connections and their load.
    pub fn new(spec: &snapshot::Service, previous: Option<&Rc<Service<I>>>, stats: ServiceHandle, seed: u64) -> Self {
        let set = spec.endpoints.get();
        let before = previous.map(|service| service.balancing.borrow());
        let endpoints = match &before {
            // Nothing has changed, as for most services at most reloads.
            Some(before) if before.is_of(&set, spec) => before.endpoints.clone(),
            before => join(before.as_ref().map_or(&[][..], |before| &before.endpoints), &set, spec, &stats),
        };
        // A reload gives nobody more retries.
        let budget = before.map(|before| before.budget.clone()).unwrap_or_default();
        let balancing = RefCell::new(Balancing {
            set,
            endpoints,
            selection: Selection::default(),
            epoch: 0,
            states: vec![BalancerState::new(seed)],
            budget,
        });
        Self {
            stats,
            balancing,
            limit: None,
            endpoint_requests_max: ENDPOINT_REQUESTS_MAX,
            name: spec.name.clone(),
            requests: Cell::new(0),
            rests: Cell::new(false),
            counted: Cell::new(None),
            before: previous.map(Rc::downgrade).unwrap_or_default(),
            workers: 1,
            seed,
            spread: RefCell::default(),
        }
    }

    /// Takes up the present endpoints, if they are others than before. Those that stay keep their connections and their
    /// load. Those that are gone finish what they have; their idle connections close. Requests under way notice
    /// nothing, but that an attempt after this one is made at one of the new set. Returns whether they are others.
    pub fn follow(&self, spec: &snapshot::Service) -> bool {
        let set = spec.endpoints.get();
        let mut balancing = self.balancing.borrow_mut();
        if Arc::ptr_eq(&set, &balancing.set) {
            return false;
        }
        let endpoints = join(&balancing.endpoints, &set, spec, &self.stats);
        // Who may be asked is computed anew before the next request.
        (balancing.selection, balancing.epoch) = (Selection::default(), 0);
        balancing.set = set;
        self.counted.set(None);
        let gone = std::mem::replace(&mut balancing.endpoints, endpoints);
        drop(balancing);
        // Closing connections is done when nothing is borrowed any more.
        drop(gone);
        true
    }

    /// The same in one of so many workers.
    pub fn among(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    /// The same with the limit of its specification. This worker's end of a limit outlives reloads.
    pub fn limited(mut self, spec: &snapshot::Service, previous: Option<&Service<I>>, worker: u32) -> Self {
        self.limit = spec.limits.as_ref().map(|limits| {
            let known = previous.and_then(|service| service.limit.as_ref()).map(|limit| &limit.local);
            let known = known.filter(|local| local.is_of(&limits.gate)).cloned();
            let local = known.unwrap_or_else(|| Local::new(limits.gate.clone(), worker));
            Box::new(Limit { local, terms: limits.terms })
        });
        if self.limit.is_some() {
            self.endpoint_requests_max = u32::MAX;
        }
        self
    }

    /// The limit that was prepared holds from now on.
    pub fn commit(&self) {
        if let Some(limit) = &self.limit {
            limit.local.apply(&limit.terms);
        }
    }

    /// Lets a request in under the service's limit, if it has one. Some when it must wait.
    ///
    /// # Errors
    /// [`Reason::ConcurrencyLimited`].
    #[inline]
    pub fn enter(&self, x: &mut Exchange, now: Now) -> Result<Option<Ticket>, Failure> {
        match &self.limit {
            None => Ok(None),
            Some(limit) => limit.enter(x, now),
        }
    }

    /// Learns from a finished request, where the limit moves by latency.
    #[inline]
    pub fn observe(&self, x: &Exchange, now: Now) {
        if let Some(limit) = &self.limit
            && let Some(bounds) = limit.terms.adaptive
        {
            observe(&limit.local, bounds, x, now);
        }
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.balancing.borrow().endpoints.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Identity over reloads.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Chooses an endpoint that was not tried yet (R105, R106) and counts the request as its load. Where none is left,
    /// those that were tried come again if the service wants that.
    ///
    /// # Errors
    /// [`Reason::NoEndpoint`]; [`Reason::Overloaded`] when all have as many requests as one worker gives them.
    #[inline]
    pub fn choose(
        &self,
        spec: &snapshot::Service,
        x: &Exchange,
        tried: &mut TriedSet,
        now: Now,
    ) -> Result<(u32, Visit<I>), Failure> {
        let mut balancing = self.balancing.borrow_mut();
        if balancing.epoch != spec.state.epoch() || now >= balancing.selection.until {
            self.select(spec, &mut balancing, now);
        }
        tried.follow(balancing.set.version);
        let algorithm = spec.endpoints.algorithm();
        let key = algorithm.needs_key().then(|| key_of(&spec.hash_key, x)).flatten();
        let at = match tried.is_empty() {
            true => {
                self.requests.set(self.requests.get().saturating_add(1));
                let stuck = spec.sticky.as_ref().and_then(|sticky| stuck(sticky, &balancing.selection, x));
                stuck.or_else(|| self.first(spec, &mut balancing, key, x.random, now))
            }
            false => self.another(spec, &mut balancing, key, x.random, tried),
        };
        let mut at = at.ok_or(Reason::NoEndpoint)?;
        if balancing.endpoints[at].record.is_unreachable(&spec.resilience.ejection) {
            at = detour(spec, &mut balancing, at, (key, x.random), tried, now)?;
        }
        if balancing.endpoints[at].active.get() >= self.endpoint_requests_max {
            let (rules, max) = (&spec.resilience.ejection, self.endpoint_requests_max);
            let has_room =
                |endpoint: &Endpoint<I>| endpoint.active.get() < max && !endpoint.record.is_unreachable(rules);
            let found = elsewhere(&mut balancing, (key, x.random), tried, has_room);
            at = found.ok_or(Failure::with(Reason::Overloaded, "too many requests at each endpoint"))?;
        }
        let endpoint = balancing.endpoints[at].clone();
        endpoint.active.set(endpoint.active.get() + 1);
        Ok((at as u32, Visit(endpoint)))
    }

    /// The endpoint of a request that was not tried anywhere yet.
    #[inline]
    fn first(
        &self,
        spec: &snapshot::Service,
        balancing: &mut Balancing<I>,
        key: Option<u64>,
        random: u64,
        now: Now,
    ) -> Option<usize> {
        let Balancing { set, endpoints, selection, states, .. } = balancing;
        let tier = selection.tier(random);
        let views = &mut selection.tiers.get_mut(tier)?.views;
        if spec.endpoints.algorithm().needs_load() {
            // Load changes with every request; the others do not look at it.
            views.iter_mut().zip(&*endpoints).for_each(|(view, e)| view.load = e.load(spec.endpoints.algorithm(), now));
        }
        let none = TriedSet::default();
        let at = set.balancer.pick(&mut states[tier], views, key, random, &none)?;
        if !selection.ramping.is_empty() && selection.defers(at, key.unwrap_or(random), &spec.resilience.returning, now)
        {
            let mut slow = TriedSet::default();
            slow.insert(at);
            let views = &selection.tiers[tier].views;
            return set.balancer.pick(&mut states[tier], views, key, random, &slow).or(Some(at));
        }
        Some(at)
    }

    /// Another endpoint for a request that failed elsewhere: one of the same tier that has not just failed, else any
    /// that is healthy, else, in a panic, any.
    #[cold]
    fn another(
        &self,
        spec: &snapshot::Service,
        balancing: &mut Balancing<I>,
        key: Option<u64>,
        random: u64,
        tried: &TriedSet,
    ) -> Option<usize> {
        self.rests.set(false);
        let Balancing { set, endpoints, selection, states, .. } = balancing;
        let mut suspects = *tried;
        let fails = |e: &Endpoint<I>| e.record.streak().failures > 0 || e.record.streak().unreached > 0;
        let failing = endpoints.iter().enumerate().filter(|(_, endpoint)| fails(endpoint));
        failing.for_each(|(at, _)| _ = tried.has(at) || suspects.insert(at));
        let tier = selection.tier(random);
        let views = selection.tiers.get(tier).map(|tier| &tier.views);
        let own = views.filter(|_| !selection.panic);
        let sets = [own, Some(&selection.healthy), views];
        let mut pick = |views: &Vec<View>, but: &TriedSet| {
            set.balancer.pick(&mut states[tier], views, key, random.rotate_left(7), but)
        };
        let all = || sets.iter().copied().flatten();
        let found = all().find_map(|views| pick(views, &suspects));
        let found = found.or_else(|| all().find_map(|views| pick(views, tried)));
        let again = spec.resilience.retries.same_endpoint;
        found.or_else(|| if again { all().find_map(|views| pick(views, &TriedSet::default())) } else { None })
    }

    /// Computes anew who may be asked.
    #[cold]
    fn select(&self, spec: &snapshot::Service, balancing: &mut Balancing<I>, now: Now) {
        let set = balancing.set.clone();
        let mut members = Vec::with_capacity(set.endpoints.len());
        let mut endpoints = set.endpoints.iter();
        let names = set.endpoints.iter().map(|endpoint| &*endpoint.authority);
        balancing.epoch = spec.state.read(names, |facts| {
            members.extend(endpoints.next().map(|endpoint| endpoint.member(*facts)));
        });
        let resilience = &spec.resilience;
        balancing.selection = Selection::of(&members, &resilience.selection, &resilience.returning, now);
        let tiers = balancing.selection.tiers.len().max(1);
        balancing.states.resize_with(tiers, || BalancerState::new(self.seed));
        // An endpoint that comes back has no past.
        let healthy = &balancing.selection.healthy;
        let gone = balancing.endpoints.iter().zip(healthy).filter(|(_, view)| !view.healthy);
        gone.for_each(|(endpoint, _)| endpoint.record.begin_anew());
    }

    /// Whether connecting has failed at every endpoint that may be asked, and none has answered since (F29).
    #[cold]
    pub fn is_unreachable(&self, spec: &snapshot::Service) -> bool {
        let balancing = self.balancing.borrow();
        !balancing.selection.is_empty() && !balancing.has_reachable(&spec.resilience.ejection)
    }

    /// Learns how an endpoint did. Ejects it when it failed too often, with all workers (F22, F23).
    #[inline]
    pub fn learn(&self, spec: &snapshot::Service, endpoint: &Endpoint<I>, outcome: Outcome, now: Now) {
        if outcome == Outcome::Well && endpoint.record.is_clean() && spec.resilience.ejection.outliers.is_none() {
            return;
        }
        self.note(spec, endpoint, outcome, now);
    }

    /// Learns from the head of an answer that an endpoint can be reached again; [`Self::learn`] is told the rest.
    #[cold]
    pub fn hear(&self, spec: &snapshot::Service, endpoint: &Endpoint<I>, outcome: Outcome, now: Now) {
        if outcome == Outcome::Well && endpoint.record.is_unreachable(&spec.resilience.ejection) {
            self.note(spec, endpoint, outcome, now);
        }
    }

    #[cold]
    fn note(&self, spec: &snapshot::Service, endpoint: &Endpoint<I>, outcome: Outcome, now: Now) {
        let rules = &spec.resilience.ejection;
        // Where nobody could be reached, who answers has been asked in spite of its ejection.
        let back = outcome.is_answer() && endpoint.record.is_unreachable(rules) && self.is_unreachable(spec);
        let why = endpoint.record.add(outcome, rules);
        if rules.outliers.is_some() {
            endpoint.window.set(endpoint.window.get().with(outcome));
        }
        if let Some(why) = why {
            eject(spec, &endpoint.authority, why, now);
        } else if back {
            spec.state.revive(&endpoint.authority, now);
        }
    }

    /// Whether the budget has a retry left, which is then taken (F25).
    pub fn take_retry(&self, spec: &snapshot::Service, now: Now) -> bool {
        let rules = &spec.resilience.retries.budget;
        self.rests.set(false);
        self.balancing.borrow_mut().budget.take(self.requests.take(), now, rules, self.workers)
    }

    /// Remembers how long an answer took, where hedging asks for that.
    pub fn note_answer(&self, hedge: &Hedge, ns: u64) {
        if hedge.percentile.is_some() {
            self.spread.borrow_mut().get_or_insert_default().add(ns);
        }
    }

    /// When a copy of a request goes to another endpoint, in milliseconds.
    pub fn hedge_after_ms(&self, hedge: &Hedge) -> u64 {
        let spread = self.spread.borrow();
        let known = hedge.percentile.and_then(|percent| spread.as_ref()?.percentile_ms(percent));
        known.unwrap_or(hedge.after_ms)
    }

    /// Once a second: closes connections that were idle for too long, counts requests for the budget, looks for
    /// outliers.
    /// With thousands of services most have nothing to look after: one that rests is passed by.
    pub fn on_second(&self, spec: &snapshot::Service, now: Now) {
        if self.rests.get() && self.requests.get() == 0 {
            return;
        }
        self.counted.set(None);
        self.look(spec, now);
        let rests = self.before.strong_count() == 0 && spec.resilience.ejection.outliers.is_none();
        self.rests.set(rests && self.balancing.borrow().endpoints.iter().all(|endpoint| endpoint.rests()));
    }

    fn look(&self, spec: &snapshot::Service, now: Now) {
        self.expire(now, &spec.rules);
        self.balancing.borrow_mut().budget.count(self.requests.take(), now);
        self.learn_of_late(spec, now);
        let Some(rules) = &spec.resilience.ejection.outliers else { return };
        for endpoint in &self.balancing.borrow().endpoints {
            let window = endpoint.window.take();
            if window != Window::default() {
                endpoint.record.tell(window);
            }
        }
        for authority in spec.state.outliers(rules, now) {
            eject(spec, &authority, "far fewer successes than the others", now);
        }
    }

    /// Learns from connections that came too late for their requests.
    fn learn_of_late(&self, spec: &snapshot::Service, now: Now) {
        let endpoints: Vec<_> = self.balancing.borrow().endpoints.iter().filter(|e| e.has_twins()).cloned().collect();
        for endpoint in endpoints {
            for failure in endpoint.take_late_failures() {
                self.note(spec, &endpoint, Outcome::of(failure, false), now);
            }
        }
    }

    /// Another address of an endpoint's name, counted as the load of one request: one that may be asked and is not
    /// `taken`, of the other family first.
    pub fn twin(
        &self,
        spec: &snapshot::Service,
        of: &Endpoint<I>,
        from: u32,
        taken: impl Fn(usize) -> bool,
    ) -> Option<(u32, Visit<I>)> {
        self.rests.set(false);
        let balancing = self.balancing.borrow();
        let Balancing { endpoints, selection, .. } = &*balancing;
        let asked = |at: usize| selection.healthy.get(at).is_some_and(|view| view.healthy && view.weight > 0);
        let fits = |at: &usize| {
            let endpoint = &endpoints[*at];
            let is_well = !endpoint.is_late() && !endpoint.record.is_unreachable(&spec.resilience.ejection);
            endpoint.host == of.host && endpoint.address != of.address && is_well && asked(*at) && !taken(*at)
        };
        let is_v6 = |endpoint: &Endpoint<I>| endpoint.address.is_some_and(|address| address.is_ipv6());
        let others = || (1..endpoints.len()).map(|step| (from as usize + step) % endpoints.len()).filter(fits);
        let at = others().find(|at| is_v6(&endpoints[*at]) != is_v6(of)).or_else(|| others().next())?;
        let endpoint = endpoints[at].clone();
        endpoint.active.set(endpoint.active.get() + 1);
        Some((at as u32, Visit(endpoint)))
    }

    /// Whether more than the threshold is out, so that all are asked (F27).
    pub fn is_in_panic(&self) -> bool {
        self.balancing.borrow().selection.panic
    }

    /// Closes idle connections that are too old.
    fn expire(&self, now: Now, rules: &ServiceRules) {
        self.balancing.borrow().endpoints.iter().for_each(|endpoint| {
            endpoint.pool.expire(now, rules);
            endpoint.streams.expire(now, rules);
        });
    }

    /// Closes connections that have been idle for at least `ms`.
    pub fn close_idle(&self, now: Now, ms: u64) {
        self.balancing.borrow().endpoints.iter().for_each(|endpoint| {
            endpoint.pool.close_idle(now, ms);
            endpoint.streams.close_idle(now, ms);
        });
    }

    /// All connections together. With thousands of endpoints, most of which nobody asks, those are not looked at again.
    pub fn connections(&self) -> Connections {
        let rests = self.rests.get() && self.requests.get() == 0;
        if let Some(known) = self.counted.get().filter(|_| rests) {
            return known;
        }
        let balancing = self.balancing.borrow();
        let sum = balancing.endpoints.iter().fold(Connections::default(), |sum, one| sum + one.connections());
        self.counted.set(rests.then_some(sum));
        sum
    }

    /// What the endpoints are doing.
    pub fn report(&self) -> Vec<EndpointReport> {
        self.balancing.borrow().endpoints.iter().map(|endpoint| endpoint.report()).collect()
    }
}

/// The endpoints of a set: those that were there before at the same address, and new ones.
fn join<I: Io>(
    before: &[Rc<Endpoint<I>>],
    set: &EndpointSet,
    spec: &snapshot::Service,
    stats: &ServiceHandle,
) -> Vec<Rc<Endpoint<I>>> {
    let known: AHashMap<_, _> = before.iter().map(|e| ((&*e.authority, e.address), e)).collect();
    let tls = spec.tls.as_ref();
    let kept = |e: &snapshot::Endpoint| {
        known.get(&(&*e.authority, e.address)).filter(|known| known.is_as(e) && known.is_secured_by(tls)).copied()
    };
    let fresh = set.endpoints.iter().filter(|e| kept(e).is_none()).map(|e| &*e.authority);
    let mut tags = stats.tags(fresh).into_iter();
    let mut make =
        |e: &snapshot::Endpoint| Some(Rc::new(Endpoint::new(e, tls, tags.next()?, spec.state.record(&e.authority))));
    let all: Vec<_> = set.endpoints.iter().filter_map(|e| kept(e).cloned().or_else(|| make(e))).collect();
    let mut names = AHashMap::<&str, u32>::new();
    all.iter().for_each(|endpoint| *names.entry(&endpoint.host).or_default() += 1);
    all.iter().for_each(|endpoint| endpoint.has_twins.set(names.get(&*endpoint.host).is_some_and(|count| *count > 1)));
    drop(names);
    all
}

impl<I: Io> Balancing<I> {
    /// Whether the endpoints are those of this set, secured as the service says now.
    fn is_of(&self, set: &Arc<EndpointSet>, spec: &snapshot::Service) -> bool {
        let tls = spec.tls.as_ref();
        Arc::ptr_eq(&self.set, set) && self.endpoints.iter().all(|endpoint| endpoint.is_secured_by(tls))
    }

    /// Whether there is one that may be asked and has not failed to be reached of late.
    fn has_reachable(&self, rules: &EjectionRules) -> bool {
        let selection = &self.selection;
        let sets = selection.tiers.iter().map(|tier| &tier.views).chain([&selection.healthy]);
        let reachable = |(view, endpoint): (&View, &Rc<Endpoint<I>>)| {
            view.healthy && view.weight > 0 && !endpoint.record.is_unreachable(rules)
        };
        sets.into_iter().any(|views| views.iter().zip(&self.endpoints).any(reachable))
    }

    /// An endpoint that a request may try although none could be reached: each is tried once in a while, those that
    /// are ejected as well, so that the first one that is back serves at once.
    fn trial(&self, first: usize, tried: &TriedSet, now: Now) -> Option<usize> {
        let Selection { tiers, healthy, ejected, .. } = &self.selection;
        let asked = |at: usize| healthy[at].healthy || tiers.iter().any(|tier| tier.views[at].healthy);
        let others = (0..self.endpoints.len()).filter(|at| asked(*at) || ejected.contains(&(*at as u32)));
        let mut all = std::iter::once(first).chain(others);
        all.find(|at| !tried.has(*at) && self.endpoints[*at].record.take_trial(now))
    }
}

/// Where to instead of an endpoint that could not be reached: to it once in a while, else to another one. In a panic
/// all are asked as they come (F27). Where none can be reached, most requests fail at once (F29).
#[cold]
fn detour<I: Io>(
    spec: &snapshot::Service,
    balancing: &mut Balancing<I>,
    at: usize,
    (key, random): (Option<u64>, u64),
    tried: &TriedSet,
    now: Now,
) -> Result<usize, Failure> {
    let rules = &spec.resilience.ejection;
    if !balancing.has_reachable(rules) {
        return balancing.trial(at, tried, now).ok_or(Failure::with(Reason::NoEndpoint, UNREACHABLE));
    }
    let tries = || spec.state.take_trial(now) && balancing.endpoints[at].record.take_trial(now);
    if balancing.selection.panic || tries() {
        return Ok(at);
    }
    let is_reachable = |endpoint: &Endpoint<I>| !endpoint.record.is_unreachable(rules);
    Ok(elsewhere(balancing, (key, random), tried, is_reachable).unwrap_or(at))
}

/// One of the endpoints that may be asked, were not tried, and fit: of the tier that is the request's, else of any.
#[cold]
fn elsewhere<I: Io>(
    balancing: &mut Balancing<I>,
    (key, random): (Option<u64>, u64),
    tried: &TriedSet,
    fits: impl Fn(&Endpoint<I>) -> bool,
) -> Option<usize> {
    let Balancing { set, endpoints, selection, states, .. } = balancing;
    let tier = selection.tier(random);
    let own = selection.tiers.get(tier).map(|tier| &tier.views);
    own.into_iter().chain([&selection.healthy]).find_map(|views| {
        let fitting = views.iter().zip(&*endpoints);
        let fitting = fitting.map(|(view, endpoint)| View { healthy: view.healthy && fits(endpoint), ..*view });
        set.balancer.pick(&mut states[tier], &fitting.collect::<Vec<_>>(), key, random, tried)
    })
}

/// Why nobody is asked, for the log.
pub const UNREACHABLE: &str = "no endpoint can be reached";

impl Limit {
    fn enter(&self, x: &mut Exchange, now: Now) -> Result<Option<Ticket>, Failure> {
        match self.local.enter(0, &self.terms, now) {
            Admission::In(permit) => {
                x.permits.push(permit);
                Ok(None)
            }
            Admission::Wait(ticket) => Ok(Some(ticket)),
            Admission::Full => Err(Reason::ConcurrencyLimited.into()),
        }
    }
}

/// Leaves an endpoint alone for a while, with all workers.
fn eject(spec: &snapshot::Service, authority: &str, why: &str, now: Now) {
    let (returning, most) = (&spec.resilience.returning, spec.resilience.ejection.percent_max);
    if let Ejection::Done(ms) = spec.state.eject(authority, now, returning, most, why.to_owned()) {
        let fields: [(&str, &dyn std::fmt::Display); 4] =
            [("service", &spec.label), ("endpoint", &authority), ("why", &why), ("ms", &ms)];
        log::warn("endpoint ejected", &fields);
    }
}

/// Tells a limit that moves by latency how a request went.
#[cold]
fn observe(local: &Local, bounds: Bounds, x: &Exchange, now: Now) {
    match x.endpoint_work() {
        EndpointWork::Unknown => {}
        EndpointWork::Took(ns) => local.observe(Some(ns), bounds, now),
        EndpointWork::Strained => local.observe(None, bounds, now),
    }
}

/// The endpoint that a client sticks to, where it still is and may be asked.
fn stuck(sticky: &Sticky, selection: &Selection, x: &Exchange) -> Option<usize> {
    let identity = sticky.read(x.request.cookie(sticky.cookie.as_bytes())?)?;
    let at = selection.healthy.iter().position(|view| view.hash == identity)?;
    (selection.healthy[at].healthy || selection.leaving.contains(&(at as u32))).then_some(at)
}

/// Hash of what the service balances on; None when the request does not have it.
pub fn key_of(key: &HashKey, x: &Exchange) -> Option<u64> {
    let bytes = match key {
        HashKey::ClientIp => return Some(ip_key(x.client_ip)),
        HashKey::ClientCert => x.client_identity()?.fingerprint.as_bytes(),
        HashKey::Path => x.request.matched_path(),
        HashKey::Header(name) => x.request.fields.find(name.as_bytes())?,
        HashKey::Cookie(name) => x.request.cookie(name.as_bytes())?,
        HashKey::Query(name) => x.request.query_value(name.as_bytes())?,
    };
    Some(hash_key(bytes))
}

fn ip_key(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => hash_key(&v4.octets()),
        IpAddr::V6(v6) => hash_key(&v6.octets()),
    }
}

#[cfg(test)]
mod tests;
