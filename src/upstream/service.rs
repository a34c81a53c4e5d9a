//! A service as one worker knows it: its endpoints with their pools and their load. It outlives reloads by identity.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use ahash::AHashMap;
use rustls::AlertDescription;
use rustls::pki_types::ServerName;

use super::balance::{Algorithm, BalancerState, TriedSet, View, hash_key};
use super::budget::RetryBudget;
use super::latency::Latency;
use super::passive::{self, Outcome, Streak, Window};
use super::pool::Pool;
use super::selection::Selection;
use super::state::Ejection;
use super::sticky::Sticky;
use super::streams::Streams;
use crate::concurrency::{Admission, Bounds, Local, Terms, Ticket};
use crate::error::{Failure, Reason};
use crate::http::exchange::{EndpointTag, EndpointWork, Exchange};
use crate::limits::{BUF_LARGE_BYTES, BUF_SMALL_BYTES, BUF_TINY_BYTES, ENDPOINT_REQUESTS_MAX, SHORT_RESPONSES_MIN};
use crate::net::io::{Connect, Io};
use crate::net::timer::Timers;
use crate::net::tls::HandshakeError;
use crate::proto::h1::client::ClientConnection;
use crate::snapshot::{self, EndpointSet, HashKey, Protocol, ServiceRules};
use crate::telemetry::log;
use crate::telemetry::metrics::ServiceHandle;
use crate::time::Now;
use crate::tls::{ClientTls, certificate_words};

/// One endpoint in one worker; the same one over reloads as long as its address stands.
pub struct Endpoint<I: Io> {
    /// Where it is; None while its name does not resolve.
    pub address: Option<SocketAddr>,
    /// As written: label.
    pub authority: String,
    /// The Host that it sees where the rule says so.
    pub host: String,
    /// What requests keep of it.
    pub tag: Rc<EndpointTag>,
    /// Idle connections.
    pub pool: Pool<I>,
    /// How it is spoken to by TLS; None without.
    secure: Option<Secure>,
    /// What it chose at the last handshake, where it was offered a choice.
    chosen: Cell<Option<Protocol>>,
    /// Connections that requests share, where they are HTTP/2.
    pub streams: Streams,
    active: Cell<u32>,
    opened: Cell<u64>,
    reused: Cell<u64>,
    /// Room for the next response, in bytes.
    room: Cell<u32>,
    /// Responses in a row that would have fitted the smallest buffer.
    short: Cell<u8>,
    /// Failures in a row.
    streak: Cell<Streak>,
    /// Successes and failures, where outliers are looked for.
    window: Cell<Window>,
    /// How long answers take at worst of late, where balancing asks.
    latency: Cell<Latency>,
}

/// TLS towards an endpoint.
struct Secure {
    tls: Arc<ClientTls>,
    /// None where its host can be in no certificate.
    name: Option<ServerName<'static>>,
}

/// What is reckoned for a response's head.
const HEAD_BYTES_USUAL: usize = 512;

/// What an endpoint tells the admin plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointReport {
    /// As written.
    pub authority: String,
    /// Requests under way.
    pub active: u64,
    /// Idle connections.
    pub idle: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Requests that went over a connection already open.
    pub reused: u64,
    /// Whether it can be chosen.
    pub healthy: bool,
    /// How long its answers take of late, in microseconds, where balancing asks; 0 where it does not, or not yet.
    pub ewma_us: u64,
}

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
    /// Workers that share what the retry budget earns with time.
    workers: u32,
    seed: u64,
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

/// An endpoint while a request is with it: counted as its load until dropped.
pub struct Visit<I: Io>(Rc<Endpoint<I>>);

impl<I: Io> Drop for Visit<I> {
    fn drop(&mut self) {
        debug_assert!(self.0.active.get() > 0);
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

impl<I: Io> Visit<I> {
    /// A load of its own on the same endpoint, for what may outlive the configuration.
    pub fn load(&self) -> Load<I> {
        self.0.active.set(self.0.active.get() + 1);
        Load(Rc::downgrade(&self.0))
    }
}

/// A tunnel as the load of its endpoint, until dropped. An endpoint that a reload took away is not kept: its idle
/// connections close.
pub struct Load<I: Io>(Weak<Endpoint<I>>);

impl<I: Io> Drop for Load<I> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0.upgrade() {
            endpoint.active.set(endpoint.active.get().saturating_sub(1));
        }
    }
}

impl<I: Io> std::ops::Deref for Visit<I> {
    type Target = Endpoint<I>;

    fn deref(&self) -> &Endpoint<I> {
        &self.0
    }
}

impl<I: Io> Service<I> {
    /// The service of a snapshot; endpoints that `previous` had at the same address are taken over with their
    /// connections and their load.
    pub fn new(spec: &snapshot::Service, previous: Option<&Service<I>>, stats: ServiceHandle, seed: u64) -> Self {
        let set = spec.endpoints.get();
        let before = previous.map(|service| service.balancing.borrow());
        let endpoints = join(before.as_ref().map_or(&[][..], |before| &before.endpoints), &set, spec, &stats);
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
            workers: 1,
            seed,
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
    /// [`Reason::NoEndpoint`]; [`Reason::Overloaded`] when the endpoint has as many requests as one worker gives it.
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
        let at = at.ok_or(Reason::NoEndpoint)?;
        let endpoint = &balancing.endpoints[at];
        if endpoint.active.get() >= self.endpoint_requests_max {
            return Err(Failure::with(Reason::Overloaded, "too many requests at one endpoint"));
        }
        let endpoint = endpoint.clone();
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
        let Balancing { set, endpoints, selection, states, .. } = balancing;
        let mut suspects = *tried;
        let failing = endpoints.iter().enumerate().filter(|(_, endpoint)| endpoint.streak.get().failures > 0);
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
        gone.for_each(|(endpoint, _)| endpoint.streak.set(Streak::default()));
    }

    /// Learns how an endpoint did. Ejects it when it failed too often (F22, F23).
    #[inline]
    pub fn learn(&self, spec: &snapshot::Service, endpoint: &Endpoint<I>, outcome: Outcome, now: Now) {
        if outcome == Outcome::Well && endpoint.streak.get() == Streak::default() && !endpoint.window.get().counts() {
            return;
        }
        self.note(spec, endpoint, outcome, now);
    }

    #[cold]
    fn note(&self, spec: &snapshot::Service, endpoint: &Endpoint<I>, outcome: Outcome, now: Now) {
        let rules = &spec.resilience.ejection;
        let mut streak = endpoint.streak.get();
        let why = streak.add(outcome, rules);
        endpoint.streak.set(streak);
        endpoint.window.set(endpoint.window.get().with(outcome));
        if let Some(why) = why {
            endpoint.streak.set(Streak::default());
            self.eject(spec, endpoint, why, now);
        }
    }

    fn eject(&self, spec: &snapshot::Service, endpoint: &Endpoint<I>, why: &str, now: Now) {
        let (returning, most) = (&spec.resilience.returning, spec.resilience.ejection.percent_max);
        let done = spec.state.eject(&endpoint.authority, now, returning, most, why.to_owned());
        if let Ejection::Done(ms) = done {
            let fields: [(&str, &dyn std::fmt::Display); 4] =
                [("service", &spec.label), ("endpoint", &endpoint.authority), ("why", &why), ("ms", &ms)];
            log::warn("endpoint ejected", &fields);
        }
    }

    /// Whether the budget has a retry left, which is then taken (F25).
    pub fn take_retry(&self, spec: &snapshot::Service, now: Now) -> bool {
        let rules = &spec.resilience.retries.budget;
        self.balancing.borrow_mut().budget.take(self.requests.take(), now, rules, self.workers)
    }

    /// Once a second: counts requests for the budget, looks for outliers.
    pub fn on_second(&self, spec: &snapshot::Service, now: Now) {
        self.balancing.borrow_mut().budget.count(self.requests.take(), now);
        let Some(rules) = &spec.resilience.ejection.outliers else { return };
        let endpoints = self.balancing.borrow().endpoints.clone();
        let windows: Vec<_> = endpoints.iter().map(|endpoint| endpoint.window.get()).collect();
        let due = windows.first().is_none_or(|window| window.is_over(now, rules));
        if !due {
            return;
        }
        for at in passive::outliers(&windows, rules) {
            self.eject(spec, &endpoints[at], "far fewer successes than the others", now);
        }
        endpoints.iter().for_each(|endpoint| endpoint.window.set(Window::begun(now)));
    }

    /// Whether more than the threshold is out, so that all are asked (F27).
    pub fn is_in_panic(&self) -> bool {
        self.balancing.borrow().selection.panic
    }

    /// Closes idle connections that are too old.
    pub fn expire(&self, now: Now, rules: &ServiceRules) {
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
    let mut make = |e: &snapshot::Endpoint| Some(Rc::new(Endpoint::new(e, tls, tags.next()?)));
    set.endpoints.iter().filter_map(|e| kept(e).cloned().or_else(|| make(e))).collect()
}

impl<I: Io> Endpoint<I> {
    /// Whether it sees what the specification says.
    fn is_as(&self, spec: &snapshot::Endpoint) -> bool {
        self.host == if spec.host.is_empty() { &*spec.authority } else { &*spec.host }
    }

    fn new(spec: &snapshot::Endpoint, tls: Option<&Arc<ClientTls>>, tag: Rc<EndpointTag>) -> Self {
        // A certificate is for the name that was written, whichever of its addresses this is.
        let name = if spec.host.is_empty() { &spec.authority } else { &spec.host };
        let secure = tls.map(|tls| Secure { tls: tls.clone(), name: tls.name(name) });
        Self {
            secure,
            chosen: Cell::new(None),
            address: spec.address,
            authority: spec.authority.clone(),
            host: if spec.host.is_empty() { spec.authority.clone() } else { spec.host.clone() },
            tag,
            pool: Pool::default(),
            streams: Streams::default(),
            active: Cell::new(0),
            opened: Cell::new(0),
            reused: Cell::new(0),
            room: Cell::new(BUF_SMALL_BYTES as u32),
            short: Cell::new(0),
            streak: Cell::default(),
            window: Cell::default(),
            latency: Cell::default(),
        }
    }

    /// What balancing compares.
    fn load(&self, algorithm: Algorithm, now: Now) -> u32 {
        match algorithm {
            Algorithm::PeakEwma => self.latency.get().cost(self.active.get(), now),
            _ => self.active.get(),
        }
    }

    /// Learns how long an answer took.
    pub fn took(&self, ns: u64, now: Now) {
        self.latency.set(self.latency.get().with(ns, now));
    }

    fn report(&self) -> EndpointReport {
        EndpointReport {
            authority: self.authority.clone(),
            active: u64::from(self.active.get()),
            idle: (self.pool.len() + self.streams.len()) as u64,
            opened: self.opened.get(),
            reused: self.reused.get(),
            healthy: self.address.is_some(),
            ewma_us: self.latency.get().us(),
        }
    }

    /// Room for the first read of a response, in bytes: what the last ones were like is the best guess.
    pub fn room(&self) -> usize {
        self.room.get() as usize
    }

    /// Remembers how long a response was. A large buffer pays where it takes the whole response: what is longer is read
    /// in steps or passed on by the kernel, and its first read need not be long. The smallest costs one more read where
    /// the guess is wrong, so it takes several responses to come to it.
    pub fn learn(&self, response_bytes: u64) {
        const TINY_MAX: u64 = (BUF_TINY_BYTES - HEAD_BYTES_USUAL) as u64;
        const LARGE_MIN: u64 = BUF_SMALL_BYTES as u64 + 1;
        const LARGE_MAX: u64 = BUF_LARGE_BYTES as u64;
        let short = if response_bytes <= TINY_MAX { self.short.get().saturating_add(1) } else { 0 };
        self.short.set(short);
        let room = match response_bytes {
            _ if short >= SHORT_RESPONSES_MIN => BUF_TINY_BYTES,
            LARGE_MIN..=LARGE_MAX => BUF_LARGE_BYTES,
            _ => BUF_SMALL_BYTES,
        };
        self.room.set(room as u32);
    }

    /// An idle connection, if there is one that may be used.
    pub fn reuse(&self, now: Now, rules: &ServiceRules, must_live: bool) -> Option<Box<ClientConnection<I>>> {
        let connection = self.pool.take(now, rules, must_live)?;
        self.reused.set(self.reused.get() + 1);
        Some(connection)
    }

    /// A request goes over a connection that was open.
    pub fn count_reuse(&self) {
        self.reused.set(self.reused.get() + 1);
    }

    /// A new connection, within `timeout_ms`.
    ///
    /// # Errors
    /// Why there is none; nothing of the request was sent then.
    pub async fn connect<C: Connect<Io = I>>(
        &self,
        connector: &C,
        timers: &Rc<Timers>,
        timeout_ms: u64,
    ) -> Result<Box<ClientConnection<I>>, Failure> {
        let io = self.open(connector, timeout_ms, false).await?;
        Ok(Box::new(ClientConnection::new(io, timers)))
    }

    /// How it is spoken to; None where that is agreed on and nobody has asked yet.
    #[inline]
    pub fn protocol(&self, rules: &ServiceRules) -> Option<Protocol> {
        match rules.protocol {
            Protocol::Auto if self.secure.is_some() => self.chosen.get(),
            Protocol::Auto => Some(Protocol::Http1),
            known => Some(known),
        }
    }

    /// Whether it is spoken to by TLS.
    pub fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// Remembers what was agreed on for a connection, where there was a choice.
    pub fn remember(&self, io: &I, rules: &ServiceRules) {
        if rules.protocol == Protocol::Auto {
            let agreed = io.agreed().and_then(|agreed| agreed.alpn.as_deref());
            self.chosen.set(Some(if agreed == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 }));
        }
    }

    /// As [`Self::connect`], without a wire. `http1_only`: for what HTTP/1.1 alone can carry.
    ///
    /// # Errors
    /// As there.
    pub async fn open<C: Connect<Io = I>>(
        &self,
        connector: &C,
        timeout_ms: u64,
        http1_only: bool,
    ) -> Result<I, Failure> {
        let Some(address) = self.address else { return Err(Failure::with(Reason::ConnectFailed, "name not resolved")) };
        // Boxed, since it is rare and its timer would make every request's future larger.
        let opened = match &self.secure {
            None => Box::pin(connector.connect(address, timeout_ms)).await,
            Some(Secure { tls, name: Some(name) }) => {
                let config = if http1_only { tls.http1_config() } else { tls.config() };
                Box::pin(connector.connect_tls(address, config, name.clone(), timeout_ms)).await
            }
            Some(Secure { name: None, .. }) => {
                return Err(Failure::with(Reason::UpstreamCertificate, "the host can be in no certificate"));
            }
        };
        match opened {
            Ok(io) => {
                self.opened.set(self.opened.get() + 1);
                // HTTP/2 behind TLS is agreed on, never guessed (RFC 9113 section 3.3).
                let wants_h2 = !http1_only && self.secure.as_ref().is_some_and(|secure| secure.tls.wants_h2());
                match io.agreed() {
                    Some(agreed) if wants_h2 && agreed.alpn.as_deref() != Some(b"h2") => {
                        Err(Failure::with(Reason::UpstreamHandshake, "the endpoint does not speak our protocol"))
                    }
                    _ => Ok(io),
                }
            }
            Err(error) => Err(connect_failure(&error)),
        }
    }

    /// Whether these are its rules of TLS. What was opened under others is not theirs.
    fn is_secured_by(&self, tls: Option<&Arc<ClientTls>>) -> bool {
        match (&self.secure, tls) {
            (None, None) => true,
            (Some(known), Some(wanted)) => Arc::ptr_eq(&known.tls, wanted),
            _ => false,
        }
    }
}

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

fn connect_failure(error: &io::Error) -> Failure {
    if matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE)) {
        return Failure::with(Reason::Overloaded, "no descriptor left");
    }
    if let Some(refused) = error.get_ref().and_then(|inner| inner.downcast_ref::<HandshakeError>()) {
        return handshake_failure(refused);
    }
    match error.kind() {
        io::ErrorKind::TimedOut if error.get_ref().is_some() => {
            Failure::with(Reason::ConnectTimeout, "in the TLS handshake")
        }
        io::ErrorKind::TimedOut => Reason::ConnectTimeout.into(),
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused.into(),
        io::ErrorKind::AddrNotAvailable => Failure::with(Reason::ConnectFailed, "no local port left"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Failure::with(Reason::ConnectFailed, "unreachable")
        }
        _ => Reason::ConnectFailed.into(),
    }
}

/// Which check failed, and whose it was.
fn handshake_failure(error: &HandshakeError) -> Failure {
    let failed = |detail| Failure::with(Reason::UpstreamHandshake, detail);
    match error {
        HandshakeError::Tls(rustls::Error::InvalidCertificate(why)) => {
            Failure::with(Reason::UpstreamCertificate, certificate_words(why))
        }
        HandshakeError::Tls(rustls::Error::NoCertificatesPresented) => {
            Failure::with(Reason::UpstreamCertificate, "the endpoint shows no certificate")
        }
        HandshakeError::Tls(rustls::Error::AlertReceived(alert)) => failed(alert_words(*alert)),
        HandshakeError::Tls(rustls::Error::InvalidMessage(_)) => failed("the endpoint does not speak TLS"),
        HandshakeError::Tls(rustls::Error::PeerIncompatible(_)) => failed("no common version or cipher"),
        HandshakeError::Io(_) => failed("the endpoint closed in the handshake"),
        HandshakeError::TooLong => failed("the endpoint says too much"),
        _ => failed("the endpoint breaks the protocol"),
    }
}

/// What an endpoint says why it refuses us.
fn alert_words(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::ProtocolVersion | AlertDescription::InsufficientSecurity => {
            "the endpoint refuses our versions or ciphers"
        }
        AlertDescription::UnrecognisedName => "the endpoint does not know the name",
        AlertDescription::NoApplicationProtocol => "the endpoint does not speak our protocol",
        AlertDescription::CertificateRequired => "the endpoint wants a certificate of ours",
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied => "the endpoint refuses our certificate",
        _ => "the endpoint refuses the handshake",
    }
}

/// Hash of what the service balances on; None when the request does not have it.
pub fn key_of(key: &HashKey, x: &Exchange) -> Option<u64> {
    let bytes = match key {
        HashKey::ClientIp => return Some(ip_key(x.client_ip)),
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
mod tests {
    use super::*;
    use crate::concurrency::Gate;
    use crate::net::mem::Mem;
    use crate::snapshot::{Endpoints, HostRule, ServiceLimits};
    use crate::telemetry::metrics::WorkerMetrics;
    use crate::upstream::rules::Resilience;
    use crate::upstream::state::ServiceState;

    fn make_spec(limits: Option<ServiceLimits>) -> snapshot::Service {
        let address = "10.0.0.1:80";
        let endpoint =
            snapshot::Endpoint { authority: address.into(), address: address.parse().ok(), ..Default::default() };
        snapshot::Service {
            name: "up".into(),
            label: "up".into(),
            endpoints: Endpoints::new(Algorithm::RoundRobin, vec![endpoint]),
            sources: [].into(),
            subset: Vec::new(),
            state: ServiceState::new([address]),
            hash_key: HashKey::ClientIp,
            host: HostRule::Preserve,
            rules: ServiceRules::default(),
            resilience: Resilience::default(),
            check: None,
            sticky: None,
            breaker: None,
            fallback: None,
            proxy_protocol: None,
            tls: None,
            limits,
        }
    }

    fn make(spec: &snapshot::Service, previous: Option<&Service<Mem>>) -> Service<Mem> {
        let stats = WorkerMetrics::new(0, Now(0)).service("up", []);
        Service::new(spec, previous, stats, 1).limited(spec, previous, 3_100)
    }

    #[test]
    fn an_endpoint_without_a_limit_has_a_bound_all_the_same() {
        let spec = make_spec(None);
        let service = make(&spec, None);
        let (mut x, mut none) = (Exchange::default(), TriedSet::default());
        assert!(service.enter(&mut x, Now(0)).expect("no limit").is_none() && x.permits.is_empty());
        let mut visits: Vec<_> =
            (0..ENDPOINT_REQUESTS_MAX).map(|_| service.choose(&spec, &x, &mut none, Now(0)).expect("room")).collect();
        let refused = service.choose(&spec, &x, &mut none, Now(0)).err().map(|failure| failure.reason);
        assert_eq!(refused, Some(Reason::Overloaded));
        visits.pop();
        assert!(service.choose(&spec, &x, &mut none, Now(0)).is_ok());
        let terms = Terms { requests_max: 9_999, pending_max: 0, wait_ms: 1, adaptive: None };
        let spec = make_spec(Some(ServiceLimits { terms, gate: Gate::new(None, &terms) }));
        let limited = make(&spec, Some(&service));
        assert!(limited.choose(&spec, &x, &mut none, Now(0)).is_ok(), "a limit of its own holds in its place");
    }

    #[test]
    fn a_limit_outlives_a_reload() {
        let terms = Terms { requests_max: 1, pending_max: 1, wait_ms: 100, adaptive: None };
        let gate = Gate::new(None, &terms);
        let old = make(&make_spec(Some(ServiceLimits { terms, gate: gate.clone() })), None);
        let (mut first, mut second) = (Exchange::default(), Exchange::default());
        assert!(old.enter(&mut first, Now(0)).expect("room").is_none());
        let mut ticket = old.enter(&mut second, Now(0)).expect("room to wait").expect("waits");
        let raised = Terms { requests_max: 2, ..terms };
        let new = make(&make_spec(Some(ServiceLimits { terms: raised, gate: gate.clone() })), Some(&old));
        assert!(ticket.granted().is_none(), "what is prepared does not hold yet");
        new.commit();
        assert!(ticket.granted().is_some());
        first.clear();
        assert_eq!((gate.report().limit, gate.report().in_flight), (2, 0));
    }

    #[test]
    fn endpoints_come_and_go_between_requests() {
        let spec = make_spec(None);
        let service = make(&spec, None);
        let (x, mut tried) = (Exchange::default(), TriedSet::default());
        let (_, old) = service.choose(&spec, &x, &mut tried, Now(0)).expect("one");
        tried.insert(0);
        let at = |text: &str| snapshot::Endpoint::at(text.parse().expect("an address"));
        assert!(spec.endpoints.replace(&[at("10.0.0.2:80"), at("10.0.0.1:80")]));
        service.follow(&spec);
        let second = service.choose(&spec, &x, &mut tried, Now(0)).expect("another");
        let third = service.choose(&spec, &x, &mut tried, Now(0)).expect("another");
        let kept = [&second.1, &third.1].into_iter().find(|visit| visit.authority == "10.0.0.1:80").expect("it");
        assert!(Rc::ptr_eq(&kept.0, &old.0), "what stays is the same, with its load and its connections");
        let tag = old.tag.clone();
        let weak = Rc::downgrade(&old.0);
        spec.endpoints.replace(&[at("10.0.0.3:80")]);
        service.follow(&spec);
        assert_eq!((service.len(), &*old.authority, old.active.get() > 0), (1, "10.0.0.1:80", true));
        drop((second, third, old));
        assert!(weak.upgrade().is_none(), "nobody keeps an endpoint that has gone");
        let (_, new) = service.choose(&spec, &x, &mut tried, Now(0)).expect("the new one");
        assert_ne!(new.tag.slot, tag.slot, "a finished request still names its own counters");
        spec.endpoints.replace(&[]);
        service.follow(&spec);
        let none = service.choose(&spec, &x, &mut tried, Now(0)).err().map(|failure| failure.reason);
        assert_eq!(none, Some(Reason::NoEndpoint));
    }
}
