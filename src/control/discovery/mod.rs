//! Where endpoints come from while the gateway runs (R225-R230, F30-F32).
//!
//! Each different lookup of the configuration has one task on the control thread, whoever uses it: a [`provider`] that
//! tells what there is now, or why it cannot tell. What it tells is kept ([`state`]); a second task makes the sets of
//! the services concerned from it, puts them where workers find them, and tells the workers, which take them up between
//! two requests. Nothing of this waits for a worker's request, and no request waits for it.
//!
//! A start or a reload waits for first answers, for a bounded time, and goes on without those that do not come.

pub mod cluster;
pub mod consul;
pub mod dns;
pub mod file;
pub mod http;
pub mod kubernetes;
pub mod provider;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use ahash::{AHashMap, AHashSet};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};
use tokio::time::{Instant, timeout_at};

use self::consul::ConsulProvider;
use self::dns::{NameProvider, Names, SrvProvider};
use self::file::FileProvider;
use self::kubernetes::KubernetesProvider;
use self::provider::{Member, Patience, Provider, Trouble};
use self::state::{Change, Condition, Event, Events, Known};
use super::fleet::Fleet;
use super::orders::Orders;
use crate::limits::ENDPOINT_SETS_PER_TURN;
use crate::snapshot::{self, Endpoint, Endpoints, Lookup, Service, Snapshot, Source};
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::DiscoveryFacts;
use crate::time::Now;
use crate::upstream::balance::ENDPOINTS_MAX;
use crate::worker::mailbox::ChangedServices;

/// All lookups.
pub struct Discovery {
    state: Mutex<State>,
    /// There are answers that are not in the services yet.
    news: Notify,
    /// A lookup has its first answer.
    first: Notify,
    /// What operators want of endpoints, whoever finds them.
    orders: Arc<Orders>,
}

struct State {
    settings: Arc<snapshot::Discovery>,
    names: Arc<Names>,
    lookups: AHashMap<Lookup, Running>,
    /// Lookups whose answers are not in the services yet.
    changed: BTreeSet<Lookup>,
    /// Which services of a snapshot use a lookup.
    users: Users,
    /// What the sets of services were made from, by identity.
    made: AHashMap<String, Made>,
    events: Events,
    counts: Counts,
    random: u64,
}

struct Running {
    task: AbortHandle,
    patience: Patience,
    known: Known,
}

/// Which services use which lookup.
#[derive(Default)]
struct Users {
    generation: u64,
    of: AHashMap<Lookup, Vec<u32>>,
}

/// What a source of a service has found.
type Found = Option<Arc<[Member]>>;

/// What the present set of a service was made from. Where both are the same, so would be the set.
struct Made {
    place: Weak<Endpoints>,
    from: Vec<Found>,
}

impl Made {
    fn is_of(&self, place: &Arc<Endpoints>, from: &[Found]) -> bool {
        let is_same = |(one, other): (&Found, &Found)| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (one, other) => one.is_none() && other.is_none(),
        };
        let is_there = Weak::as_ptr(&self.place) == Arc::as_ptr(place) && self.place.strong_count() > 0;
        is_there && self.from.len() == from.len() && self.from.iter().zip(from).all(is_same)
    }
}

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    answers: u64,
    failures: u64,
    sets: u64,
}

impl Discovery {
    /// Nothing is looked up yet. `random` spreads pauses.
    pub fn new(random: u64, orders: Arc<Orders>) -> Arc<Self> {
        let settings = Arc::new(snapshot::Discovery::default());
        let state = State {
            names: Names::new(&settings.dns),
            settings,
            lookups: AHashMap::new(),
            changed: BTreeSet::new(),
            users: Users::default(),
            made: AHashMap::new(),
            events: Events::default(),
            counts: Counts::default(),
            random,
        };
        Arc::new(Self { state: Mutex::new(state), news: Notify::new(), first: Notify::new(), orders })
    }

    /// Looks up what a snapshot needs, beside what is looked up already, and fills its services with what is known
    /// when the first answers are there or the time for them has passed. What it shares with the snapshot that serves,
    /// if that is given, is looked up and filled already.
    pub async fn prepare(self: &Arc<Self>, snapshot: &Snapshot, previous: Option<&Snapshot>) {
        let fresh = fresh_services(snapshot, previous);
        let wanted: BTreeSet<Lookup> = lookups(snapshot, &fresh).cloned().collect();
        if wanted.is_empty() {
            return;
        }
        self.begin(snapshot, &wanted);
        let deadline = Instant::now() + Duration::from_millis(snapshot.discovery.wait_ms);
        loop {
            let told = self.first.notified();
            let mut told = std::pin::pin!(told);
            told.as_mut().enable();
            if !self.is_waiting(&wanted) || timeout_at(deadline, told).await.is_err() {
                break;
            }
        }
        self.fill(snapshot, &fresh);
    }

    /// A snapshot serves in place of another one: forgets what only others needed, and catches up with what came while
    /// it was prepared.
    pub async fn settle(&self, snapshot: &Snapshot, previous: Option<&Snapshot>, fleet: &Fleet) {
        let fresh = fresh_services(snapshot, previous);
        self.state().follow(snapshot, previous, &fresh);
        let changed = self.fill(snapshot, &fresh);
        if !changed.is_empty() {
            fleet.endpoints_changed(ChangedServices::Some(snapshot.generation, changed.into())).await;
        }
    }

    /// Carries answers to the workers, for ever, beginning with what came since `first` was prepared.
    pub async fn publish<F: AsRef<Fleet>>(self: Arc<Self>, fleet: Arc<F>, first: Arc<Snapshot>) {
        self.settle(&first, None, (*fleet).as_ref()).await;
        drop(first);
        loop {
            self.news.notified().await;
            let fleet = (*fleet).as_ref();
            let snapshot = fleet.snapshot();
            let concerned = self.state().take_concerned(&snapshot);
            let changed = self.fill(&snapshot, &concerned);
            for some in changed.chunks(ENDPOINT_SETS_PER_TURN) {
                fleet.endpoints_changed(ChangedServices::Some(snapshot.generation, some.into())).await;
            }
        }
    }

    fn begin(self: &Arc<Self>, snapshot: &Snapshot, wanted: &BTreeSet<Lookup>) {
        let mut state = self.state();
        let before = std::mem::replace(&mut state.settings, snapshot.discovery.clone());
        if before.dns != snapshot.discovery.dns {
            state.names = Names::new(&snapshot.discovery.dns);
        }
        for lookup in wanted {
            if state.lookups.contains_key(lookup) && is_same(lookup, &before, &snapshot.discovery) {
                continue;
            }
            let known = match state.lookups.remove(lookup) {
                // It is asked elsewhere from now on; what is known is not worth less for that.
                Some(running) => {
                    running.task.abort();
                    running.known
                }
                None => Known::NOTHING,
            };
            let running = self.start(&mut state, lookup, known);
            state.lookups.insert(lookup.clone(), running);
        }
    }

    fn start(self: &Arc<Self>, state: &mut State, lookup: &Lookup, known: Known) -> Running {
        let (provider, patience) = state.provider(lookup);
        let (this, about) = (Arc::downgrade(self), lookup.clone());
        let seed = state.random();
        let mut random = seed;
        let tell = move |answer| {
            if let Some(this) = this.upgrade() {
                this.take(&about, answer);
            }
        };
        let draw = move || {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            random >> 33
        };
        let task = tokio::spawn(provider::watch(provider, patience, draw, tell)).abort_handle();
        Running { task, patience, known }
    }

    fn take(&self, lookup: &Lookup, answer: Result<Vec<Member>, Trouble>) {
        let mut state = self.state();
        let State { lookups, changed, events, counts, .. } = &mut *state;
        let Some(running) = lookups.get_mut(lookup) else { return };
        match &answer {
            Ok(_) => counts.answers += 1,
            Err(_) => counts.failures += 1,
        }
        let change = running.known.take(answer, &running.patience, Now::read());
        let known = &running.known;
        if change != Change::None {
            tell(events, lookup, known, change);
        }
        if change == Change::Members {
            changed.insert(lookup.clone());
            self.news.notify_one();
        }
        self.first.notify_waiters();
    }

    /// Makes the sets of these services from what is known. Returns whose sets are others than before.
    fn fill(&self, snapshot: &Snapshot, ids: &[u32]) -> Vec<u32> {
        let mut state = self.state();
        let mut changed = Vec::new();
        for &id in ids {
            let Some(service) = snapshot.services.get(id as usize) else { continue };
            if service.sources.iter().all(|source| source.lookup.is_none()) {
                continue;
            }
            let from = state.found(service);
            if state.has_made(service, &from) && !self.orders.concern(&service.label) {
                continue;
            }
            let mut endpoints = endpoints(&service.sources, &from);
            state.made.insert(service.name.clone(), Made { place: Arc::downgrade(&service.endpoints), from });
            endpoints.retain(|endpoint| endpoint.says(&service.subset));
            let before = service.endpoints.get().endpoints.len();
            let orders = self.orders.of_service(&service.label);
            if service.endpoints.replace_weighted(&endpoints, |endpoint| orders.weight(endpoint)) {
                changed.push(id);
                state.counts.sets += 1;
                state.note_set(service, before, endpoints.len());
                if service.is_whole() {
                    service.state.set_endpoints(endpoints.iter().map(|endpoint| &*endpoint.authority), Now::read());
                }
                self.orders.apply_to(service);
            }
        }
        changed
    }

    fn is_waiting(&self, wanted: &BTreeSet<Lookup>) -> bool {
        let state = self.state();
        let waits = |lookup| state.lookups.get(lookup).is_some_and(|r| r.known.condition() == Condition::Waiting);
        wanted.iter().any(waits)
    }

    /// How the sources of a service are doing.
    pub fn sources(&self, service: &Service) -> Value {
        let (state, now) = (self.state(), Now::read());
        let source = |lookup: &Lookup| {
            let nothing = Known::NOTHING;
            let known = state.lookups.get(lookup).map_or(&nothing, |running| &running.known);
            known.json(lookup.kind(), &lookup.text(), now)
        };
        Value::Array(service.sources.iter().filter_map(|s| s.lookup.as_ref()).map(source).collect())
    }

    /// Which lookup brought each endpoint of a service, by the address that it goes by. Those that were written out are
    /// not among them.
    pub fn finders(&self, service: &Service) -> BTreeMap<String, String> {
        let state = self.state();
        let mut finders = BTreeMap::new();
        for source in &*service.sources {
            let Some(lookup) = &source.lookup else { continue };
            let members = state.lookups.get(lookup).and_then(|running| running.known.members.clone());
            let members = members.unwrap_or_default();
            for member in &*members {
                let name = join(&source.endpoint, member, members.len()).authority;
                finders.entry(name).or_insert_with(|| format!("{} {}", lookup.kind(), lookup.text()));
            }
        }
        finders
    }

    /// For metrics.
    pub fn facts(&self) -> DiscoveryFacts {
        let (state, now) = (self.state(), Now::read());
        let mut counts: BTreeMap<(&'static str, &'static str), u64> = BTreeMap::new();
        for (lookup, running) in &state.lookups {
            *counts.entry((lookup.kind(), running.known.condition().word())).or_default() += 1;
        }
        let lookups = counts.into_iter().map(|((kind, word), count)| (kind, word, count)).collect();
        let Counts { answers, failures, sets } = state.counts;
        let stale = state.lookups.values().filter(|running| running.known.condition() == Condition::Stale);
        let stale_s = stale.filter_map(|running| running.known.good_at).map(|at| now.since_ns(at) / 1_000_000_000);
        DiscoveryFacts { lookups, answers, failures, sets, stale_s: stale_s.max().unwrap_or(0) }
    }

    /// Whether all lookups have good answers, and a line about those that have not; None where nothing is looked up.
    pub fn check(&self) -> Option<(bool, String)> {
        let state = self.state();
        let current = |(_, running): &(&Lookup, &Running)| running.known.condition() == Condition::Current;
        let (all, good) = (state.lookups.len(), state.lookups.iter().filter(current).count());
        let mut bad: Vec<_> = state.lookups.iter().filter(|one| !current(one)).collect();
        bad.sort_by_key(|(lookup, _)| *lookup);
        let bad = bad.into_iter().take(3).map(|(lookup, running)| {
            let known = &running.known;
            let why = known.trouble.as_deref().unwrap_or("no answer yet");
            format!("; {} {} is {}: {why}", lookup.kind(), lookup.text(), known.condition().word())
        });
        (all > 0).then(|| (good == all, format!("{good} of {all} lookups are current{}", bad.collect::<String>())))
    }

    /// The last changes, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.all().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.state().lookups.values().for_each(|running| running.task.abort());
    }
}

impl State {
    fn random(&mut self) -> u64 {
        crate::random::next(&mut self.random)
    }

    fn provider(&self, lookup: &Lookup) -> (Box<dyn Provider>, Patience) {
        let names = || self.names.clone();
        match lookup {
            Lookup::Name { name, port, family } => {
                let provider = NameProvider { names: names(), name: name.clone(), port: *port, family: *family };
                (Box::new(provider), self.names.patience())
            }
            Lookup::Srv { name, family } => {
                let provider = SrvProvider { names: names(), name: name.clone(), family: *family };
                (Box::new(provider), self.names.patience())
            }
            Lookup::File { path } => (Box::new(FileProvider::new(path, names())), Patience::default()),
            Lookup::Consul { service, tags, datacenter, namespace, passing_only } => {
                let query = consul::Query {
                    service: service.clone(),
                    tags: tags.clone(),
                    datacenter: datacenter.clone(),
                    namespace: namespace.clone(),
                    passing_only: *passing_only,
                };
                let provider = ConsulProvider::new(self.settings.consul.clone(), names(), query);
                (Box::new(provider), Patience::default())
            }
            Lookup::Kubernetes { service, namespace, port } => {
                let settings = self.settings.kubernetes.clone();
                let provider = KubernetesProvider::new(settings, names(), service, namespace, port);
                (Box::new(provider), Patience::default())
            }
        }
    }

    /// What is known now of each source of a service, in their order.
    fn found(&self, service: &Service) -> Vec<Found> {
        let known = |lookup: &Lookup| self.lookups.get(lookup)?.known.members.clone();
        service.sources.iter().map(|source| source.lookup.as_ref().and_then(known)).collect()
    }

    fn has_made(&self, service: &Service, from: &[Found]) -> bool {
        self.made.get(&service.name).is_some_and(|made| made.is_of(&service.endpoints, from))
    }

    /// The services that lookups with news belong to.
    fn take_concerned(&mut self, snapshot: &Snapshot) -> Vec<u32> {
        if self.users.generation != snapshot.generation {
            self.users = Users::of(snapshot);
        }
        let changed = std::mem::take(&mut self.changed);
        let ids: BTreeSet<u32> = changed.iter().filter_map(|l| self.users.of.get(l)).flatten().copied().collect();
        ids.into_iter().collect()
    }

    /// A snapshot serves, in which these services are new to what served before.
    fn follow(&mut self, snapshot: &Snapshot, previous: Option<&Snapshot>, fresh: &[u32]) {
        match previous {
            Some(previous) => {
                let gone = fresh_services(previous, Some(snapshot));
                self.users.follow(snapshot, previous, fresh, &gone);
                for lookup in lookups(previous, &gone) {
                    if !self.users.of.contains_key(lookup)
                        && let Some(running) = self.lookups.remove(lookup)
                    {
                        running.task.abort();
                    }
                }
            }
            None => {
                self.users = Users::of(snapshot);
                self.lookups.retain(|lookup, running| {
                    let stays = self.users.of.contains_key(lookup);
                    if !stays {
                        running.task.abort();
                    }
                    stays
                });
            }
        }
        self.made.retain(|_, made| made.place.strong_count() > 0);
    }

    fn note_set(&mut self, service: &Service, before: usize, after: usize) {
        if service.is_whole() {
            self.events.add(service.label.clone(), "endpoints", format!("{before} endpoints became {after}"));
        }
    }
}

impl Users {
    fn of(snapshot: &Snapshot) -> Self {
        let mut users = Self { generation: snapshot.generation, of: AHashMap::new() };
        (0..snapshot.services.len() as u32).for_each(|id| users.add(snapshot, id));
        users
    }

    /// Knows the users of `snapshot`, which has these services in place of those of `previous` that are gone.
    fn follow(&mut self, snapshot: &Snapshot, previous: &Snapshot, fresh: &[u32], gone: &[u32]) {
        // Where others have moved, all have other numbers.
        let stand = snapshot.services.len() == previous.services.len() && fresh == gone;
        match self.generation {
            generation if generation == snapshot.generation => {}
            generation if generation == previous.generation && stand => {
                gone.iter().for_each(|id| self.remove(previous, *id));
                fresh.iter().for_each(|id| self.add(snapshot, *id));
                self.generation = snapshot.generation;
            }
            _ => *self = Self::of(snapshot),
        }
    }

    fn add(&mut self, snapshot: &Snapshot, id: u32) {
        for lookup in lookups(snapshot, &[id]) {
            match self.of.get_mut(lookup) {
                Some(ids) => ids.push(id),
                None => drop(self.of.insert(lookup.clone(), vec![id])),
            }
        }
    }

    fn remove(&mut self, snapshot: &Snapshot, id: u32) {
        for lookup in lookups(snapshot, &[id]) {
            let Some(ids) = self.of.get_mut(lookup) else { continue };
            ids.retain(|known| *known != id);
            if ids.is_empty() {
                self.of.remove(lookup);
            }
        }
    }
}

/// The services of a snapshot that it does not share with another one: whose endpoints come from elsewhere, or lie
/// elsewhere. All, where there is no other one, or that looks things up in other ways.
fn fresh_services(snapshot: &Snapshot, other: Option<&Snapshot>) -> Vec<u32> {
    let all = || (0..snapshot.services.len() as u32).collect();
    let Some(other) = other.filter(|other| other.discovery == snapshot.discovery) else { return all() };
    let identity = |service: &Arc<Service>| (service.sources.as_ptr(), Arc::as_ptr(&service.endpoints));
    let stands =
        |(one, other): (&Arc<Service>, &Arc<Service>)| Arc::ptr_eq(one, other) || identity(one) == identity(other);
    let pairs = snapshot.services.iter().zip(&other.services);
    if snapshot.services.len() == other.services.len() {
        return pairs.zip(0_u32..).filter(|(pair, _)| !stands(*pair)).map(|(_, id)| id).collect();
    }
    let known: AHashSet<_> = other.services.iter().map(identity).collect();
    let services = snapshot.services.iter().zip(0_u32..);
    services.filter(|(service, _)| !known.contains(&identity(service))).map(|(_, id)| id).collect()
}

/// Writes an event, and where an operator should know at once, a line of the log.
fn tell(events: &mut Events, lookup: &Lookup, known: &Known, change: Change) {
    let subject = format!("{} {}", lookup.kind(), lookup.text());
    let condition = known.condition();
    let why = match (&known.trouble, &known.members) {
        (Some(trouble), _) => trouble.clone(),
        (None, members) => format!("{} endpoints", members.as_deref().map_or(0, <[Member]>::len)),
    };
    match condition {
        Condition::Stale => {
            log::warn("a lookup fails, its last answer is used", &[("lookup", &subject), ("why", &why)])
        }
        Condition::Failed => log::warn("a lookup fails", &[("lookup", &subject), ("why", &why)]),
        Condition::Current if change == Change::Condition => {
            log::info("a lookup is well again", &[("lookup", &subject)])
        }
        Condition::Current | Condition::Waiting => {}
    }
    events.add(subject, condition.word(), why);
}

/// Whether a lookup is asked at the same place with both settings.
fn is_same(lookup: &Lookup, one: &snapshot::Discovery, other: &snapshot::Discovery) -> bool {
    match lookup {
        Lookup::Name { .. } | Lookup::Srv { .. } | Lookup::File { .. } => one.dns == other.dns,
        Lookup::Consul { .. } => one.consul == other.consul && one.dns == other.dns,
        Lookup::Kubernetes { .. } => one.kubernetes == other.kubernetes,
    }
}

/// What these services look up.
fn lookups<'s>(snapshot: &'s Snapshot, ids: &'s [u32]) -> impl Iterator<Item = &'s Lookup> {
    let services = ids.iter().filter_map(|id| snapshot.services.get(*id as usize));
    services.flat_map(|service| service.sources.iter()).filter_map(|source| source.lookup.as_ref())
}

/// The endpoints of a service. An endpoint that was written as a name and is not known yet is there without an address,
/// so that it is seen to be missing. None is there twice.
fn endpoints(sources: &[Source], found: &[Found]) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::new();
    for (source, found) in sources.iter().zip(found) {
        let written = &source.endpoint;
        if source.lookup.is_none() {
            all.push(written.clone());
            continue;
        }
        match found {
            Some(members) => all.extend(members.iter().map(|member| join(written, member, members.len()))),
            None if written.authority.is_empty() => {}
            None => all.push(written.clone()),
        }
    }
    let mut seen = std::collections::HashSet::new();
    all.retain(|endpoint| seen.insert(endpoint.authority.clone()));
    all.truncate(ENDPOINTS_MAX);
    all
}

/// What was written about an endpoint, and what was found. A name with one address is called as it was written.
fn join(written: &Endpoint, found: &Member, count: usize) -> Endpoint {
    let is_named = !written.authority.is_empty();
    let metadata = if found.metadata.is_empty() { written.metadata.clone() } else { found.metadata.clone() };
    Endpoint {
        authority: if is_named && count == 1 { written.authority.clone() } else { found.address.to_string() },
        host: if is_named { written.authority.clone() } else { found.host.clone() },
        address: Some(found.address),
        weight: found.weight.unwrap_or(written.weight).max(1),
        priority: found.priority.unwrap_or(written.priority),
        zone: found.zone.clone().unwrap_or_else(|| written.zone.clone()),
        metadata,
    }
}

/// The task that carries answers to the workers; ends with what it is dropped with.
pub struct Publisher(JoinHandle<()>);

impl Publisher {
    /// Starts it.
    pub fn start(work: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(work))
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.0.abort();
    }
}
