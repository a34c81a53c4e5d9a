//! The running gateway as one object: applies configurations to the fleet and answers the admin API.

mod access_logs;
mod backend;
mod changes;
mod facts;
mod page;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

pub use self::access_logs::AccessLogs;
use self::changes::changes;
use self::page::PageMaker;
use super::acme::Acme;
use super::activation::Inherited;
use super::admin::backend::{EndpointOrder, EndpointOutcome, ReloadOutcome, UpgradeOutcome};
use super::background::Background;
use super::checks::Checks;
use super::discovery::Discovery;
use super::door::Door;
use super::fleet::{Fleet, Share};
use super::listening::{Listening, Shares};
use super::operator::{self, Told};
use super::orders::Orders;
use super::source::{ConfigSource, Ready, expect};
use super::store::Store;
use crate::config::Present;
use crate::limits::{LET_GO_LOOK_MS, LET_GO_LOOK_MS_MAX, LET_GO_MS_MAX};
use crate::policy::CompileEnv;
use crate::schema::{Diagnostics, Kept};
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log;
use crate::time;
use crate::worker::mailbox::ChangedServices;
use crate::worker::memory::Memory;

/// Wishes that wait for their turn; one more is told to come back.
pub const WISHES_WAITING_MAX: usize = 4;

/// What the admin API wants of the control thread, and where the outcome goes.
pub enum Wish {
    /// Load the configuration anew.
    Reload(oneshot::Sender<ReloadOutcome>),
    /// Replace the running program.
    Upgrade(oneshot::Sender<UpgradeOutcome>),
}

/// What of the process follows the configuration beside the workers.
#[derive(Default)]
pub struct Belongings {
    /// The access logs.
    pub logs: AccessLogs,
    /// The listening sockets.
    pub listening: Listening,
    /// The admin listener.
    pub door: Door,
}

/// The running gateway.
pub struct Gateway {
    fleet: Fleet,
    started: Instant,
    state: AtomicU8,
    wishes: mpsc::Sender<Wish>,
    /// Upgrades since the first start, those that failed, those that were not begun.
    upgrades: [AtomicU64; 3],
    reloads_ok: AtomicU64,
    reloads_failed: AtomicU64,
    last_failure: Mutex<Option<Value>>,
    last_success_seconds: AtomicU64,
    pages: Arc<tokio::sync::Mutex<PageMaker>>,
    drivers: Vec<String>,
    memory: Arc<Memory>,
    discovery: Arc<Discovery>,
    checks: Arc<Checks>,
    acme: Arc<Acme>,
    orders: Arc<Orders>,
    /// Where the configuration comes from, if that is a store.
    store: Option<Arc<Store>>,
    background: Arc<Background>,
}

/// What a gateway is made of.
pub struct Parts {
    /// The workers.
    pub fleet: Fleet,
    /// The I/O driver of each.
    pub drivers: Vec<String>,
    /// Memory of the process.
    pub memory: Arc<Memory>,
    /// Where endpoints come from.
    pub discovery: Arc<Discovery>,
    /// What operators want of them.
    pub orders: Arc<Orders>,
    /// Where the configuration comes from, if that is a store.
    pub store: Option<Arc<Store>>,
}

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;
const REPLACED: u8 = 3;

impl Gateway {
    /// The gateway of a started fleet, and where wishes come out. `upgrades` is the number of upgrades since the first
    /// start.
    #[allow(clippy::disallowed_methods, reason = "the control thread's own clock; no request sees it")]
    pub fn new(parts: Parts, compat_names: bool, upgrades: u64) -> (Arc<Self>, mpsc::Receiver<Wish>) {
        let Parts { fleet, drivers, memory, discovery, orders, store } = parts;
        let (sender, wishes) = mpsc::channel(WISHES_WAITING_MAX);
        let gateway = Self {
            fleet,
            started: Instant::now(),
            state: AtomicU8::new(STARTING),
            wishes: sender,
            upgrades: [AtomicU64::new(upgrades), AtomicU64::new(0), AtomicU64::new(0)],
            reloads_ok: AtomicU64::new(1),
            reloads_failed: AtomicU64::new(0),
            last_failure: Mutex::default(),
            last_success_seconds: AtomicU64::new(time::unix_seconds()),
            pages: Arc::new(tokio::sync::Mutex::new(PageMaker::new(compat_names))),
            drivers,
            memory,
            discovery,
            checks: Arc::default(),
            acme: Arc::default(),
            orders,
            store,
            background: Arc::default(),
        };
        (Arc::new(gateway), wishes)
    }

    /// Begins to check endpoints and to order certificates. Must run on the control thread's runtime; ends with it.
    pub fn begin_checks(self: &Arc<Self>, seed: u64) {
        self.acme.follow(&self.fleet.snapshot().acme);
        let gateway = self.clone();
        tokio::spawn(self.checks.clone().run(move || gateway.fleet.snapshot(), seed));
    }

    /// The workers.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Where endpoints come from.
    pub fn discovery(&self) -> &Arc<Discovery> {
        &self.discovery
    }

    /// Says that new traffic may come.
    pub fn set_ready(&self) {
        self.state.store(READY, Ordering::Release);
    }

    /// Says that no new traffic should come.
    pub fn set_draining(&self) {
        self.state.store(DRAINING, Ordering::Release);
    }

    /// Says that another process serves, which is to be told what operators want.
    pub fn set_replaced(&self) {
        self.state.store(REPLACED, Ordering::Release);
    }

    /// Whether the gateway is stopping.
    pub fn is_draining(&self) -> bool {
        self.state.load(Ordering::Acquire) >= DRAINING
    }

    /// What operators want of endpoints.
    pub fn orders(&self) -> &Orders {
        &self.orders
    }

    /// Takes up what a predecessor was told while this process started.
    pub async fn catch_up(&self) {
        let snapshot = self.fleet.snapshot();
        let changed = self.orders.catch_up(&snapshot);
        self.tell_changed(&snapshot, changed).await;
        if self.orders.is_unwritten() {
            // Whatever becomes of it is in the log.
            let orders = self.orders.clone();
            drop(tokio::spawn(async move { orders.persist().await }));
        }
    }

    /// Counts what became of an upgrade.
    pub fn count_upgrade(&self, outcome: &UpgradeOutcome) {
        let at = match outcome {
            UpgradeOutcome::Done { .. } => 0,
            UpgradeOutcome::Failed { .. } => 1,
            UpgradeOutcome::Refused { .. } => 2,
        };
        self.upgrades[at].fetch_add(1, Ordering::Relaxed);
    }

    /// Upgrades since the first start.
    pub fn upgrades(&self) -> u64 {
        self.upgrades[0].load(Ordering::Relaxed)
    }

    /// Reads, checks and compiles the configuration on a thread of its own: names are resolved meanwhile, and the
    /// control thread answers others.
    pub fn compile(&self, source: &ConfigSource, env: CompileEnv) -> oneshot::Receiver<Compiled> {
        let (source, previous) = (source.clone(), self.fleet.snapshot());
        self.background.run(move || {
            let Some(ready) = source.compile(previous.generation + 1, env, Some(&previous))? else { return Ok(None) };
            let before = Present::in_snapshot(&previous);
            let changes = before.map(|before| {
                let is_alike = |kept: &Arc<Kept>| kept.has_same_rest(&ready.loaded.kept);
                changes(&before.config, &ready.loaded.config, before.kept.as_ref().is_some_and(is_alike))
            });
            Ok(Some((ready, changes.unwrap_or_default())))
        })
    }

    /// The same for a store that is asked first, while the control thread answers others.
    pub fn read_and_compile(
        self: &Arc<Self>,
        store: &Arc<Store>,
        source: &ConfigSource,
        env: CompileEnv,
    ) -> oneshot::Receiver<Compiled> {
        let (done, answer) = oneshot::channel();
        let (gateway, store, source) = (self.clone(), store.clone(), source.clone());
        drop(tokio::spawn(async move {
            store.read().await;
            if let Ok(compiled) = gateway.compile(&source, env).await {
                // The gateway may be stopping.
                let _ = done.send(compiled);
            }
        }));
        answer
    }

    /// Prepares a compiled configuration and swaps it in on all workers; or leaves everything as it was (A30).
    pub async fn apply(self: &Arc<Self>, compiled: Compiled, belongings: &mut Belongings) -> ReloadOutcome {
        if self.is_draining() {
            return ReloadOutcome::Busy;
        }
        let previous = self.fleet.snapshot();
        let outcome = match compiled {
            Ok(Some((ready, changes))) => Box::pin(self.swap(ready, changes, &previous, belongings)).await.map(Some),
            Ok(None) => Ok(None),
            Err(diagnostics) => Err(diagnostics.to_json()),
        };
        match outcome {
            Ok(Some((generation, changes))) => {
                let_go(previous, &self.background);
                self.went_well();
                log::info("configuration applied", &[("generation", &generation), ("changes", &changes)]);
                ReloadOutcome::Applied { generation, changes }
            }
            Ok(None) => {
                self.went_well();
                let generation = previous.generation;
                log::info("configuration unchanged", &[("generation", &generation)]);
                ReloadOutcome::Unchanged { generation }
            }
            Err(diagnostics) => {
                self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                log::error("configuration refused, the old one serves on", &[("diagnostics", &diagnostics)]);
                *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(diagnostics.clone());
                ReloadOutcome::Rejected { generation: previous.generation, diagnostics }
            }
        }
    }

    /// A reload was no failure.
    fn went_well(&self) {
        self.reloads_ok.fetch_add(1, Ordering::Relaxed);
        self.last_success_seconds.store(time::unix_seconds(), Ordering::Relaxed);
        *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    async fn swap(
        self: &Arc<Self>,
        ready: Ready,
        changes: Value,
        previous: &Snapshot,
        belongings: &mut Belongings,
    ) -> Result<(u64, Value), Value> {
        let refused = |what: String| json!([{ "message": what }]);
        let Belongings { logs, listening, door } = belongings;
        let (mut nothing, workers) = (Inherited::default(), self.fleet.len());
        let change = door.prepare(&ready.loaded.config, &mut nothing).map_err(refused)?;
        let sockets = listening.open(&ready.snapshot.listeners, &mut nothing, workers).map_err(refused)?;
        let undo = |what: String, listening: &mut Listening| {
            listening.retain(&previous.listeners);
            refused(what)
        };
        let (log_change, access_logs) = logs.prepare(&ready, workers).map_err(|what| undo(what, listening))?;
        let Ready { snapshot, loaded, warnings } = ready;
        let state_file = loaded.config.admin.state_file.as_ref().map(PathBuf::from);
        // Taking thousands of routes apart is work for the same thread.
        drop(self.background.run(move || drop((loaded, warnings))));
        self.discovery.prepare(&snapshot, Some(previous)).await;
        self.orders.apply(&snapshot);
        match self.fleet.replace(snapshot.clone(), shares(sockets, access_logs)).await {
            Ok(()) => {
                listening.retain(&snapshot.listeners);
                // An operator may have said something meanwhile.
                self.tell_orders(&snapshot).await;
                self.orders.keep_in(state_file);
                door.change(change, self);
                self.discovery.settle(&snapshot, Some(previous), &self.fleet).await;
                self.acme.follow(&snapshot.acme);
                self.checks.look_anew();
                logs.change(log_change);
                Ok((snapshot.generation, changes))
            }
            Err(what) => {
                // What was begun for the new one is of no use.
                self.discovery.prepare(previous, None).await;
                self.discovery.settle(previous, None, &self.fleet).await;
                // What services had there was made known.
                for service in previous.services.iter().filter(|service| service.is_whole()) {
                    let set = service.endpoints.get();
                    service.state.set_endpoints(set.endpoints.iter().map(|one| &*one.authority), time::Now::read());
                }
                Err(undo(what.to_owned(), listening))
            }
        }
    }

    /// Makes hold what operators want, and tells the workers where their tables are others then.
    async fn tell_orders(&self, snapshot: &Snapshot) {
        self.tell_changed(snapshot, self.orders.apply(snapshot)).await;
    }

    async fn tell_changed(&self, snapshot: &Snapshot, changed: Vec<u32>) {
        if !changed.is_empty() {
            let changed = ChangedServices::Some(snapshot.generation, changed.into());
            self.fleet.endpoints_changed(changed).await;
        }
    }

    /// Does what an operator wants of an endpoint. All that matters is done before the first wait.
    async fn order(&self, order: EndpointOrder) -> EndpointOutcome {
        if self.state.load(Ordering::Acquire) == REPLACED {
            return EndpointOutcome::Replaced;
        }
        let snapshot = self.fleet.snapshot();
        let done = match operator::order(&snapshot, &self.orders, &order) {
            Ok(done) => done,
            Err(refused) => return refused,
        };
        self.tell_changed(&snapshot, done.reweighed.clone()).await;
        let persisted = if done.changed { self.orders.persist().await } else { Ok(self.orders.is_kept()) };
        let shown = match snapshot.services.iter().find(|known| known.is_whole() && known.name == order.service) {
            Some(known) => self.endpoints_of(known).await,
            None => Vec::new(),
        };
        done.told(&order.service, shown, persisted)
    }

    async fn endpoints_of(&self, service: &Service) -> Vec<Value> {
        let reports = self.fleet.report(true).await;
        operator::endpoints(service, &Told::of(&reports), &self.orders, &self.discovery)
    }
}

/// Takes a snapshot apart that serves no more: for thousands of routes that is milliseconds, which a worker would take
/// from its requests if it were the last to have it. One that is in use for longer, by a stream, is left to the worker.
fn let_go(previous: Arc<Snapshot>, background: &Arc<Background>) {
    let background = background.clone();
    tokio::spawn(async move {
        let (mut waited_ms, mut pause_ms) = (0, LET_GO_LOOK_MS);
        while Arc::strong_count(&previous) > 1 && waited_ms < LET_GO_MS_MAX {
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            waited_ms += pause_ms;
            pause_ms = (2 * pause_ms).min(LET_GO_LOOK_MS_MAX);
        }
        drop(background.run(move || {
            expect(&previous);
            drop(previous);
        }));
    });
}

/// What [`Gateway::compile`] gives: the configuration, and how it differs from the one that serves; None where it is
/// that one.
pub type Compiled = Result<Option<(Ready, Value)>, Box<Diagnostics>>;

/// Joins what each worker gets.
pub fn shares(sockets: Shares, logs: Option<Vec<AccessLog>>) -> Vec<Share> {
    let mut logs = logs.into_iter().flatten();
    sockets.into_iter().map(|sockets| Share { sockets, access_log: logs.next() }).collect()
}

impl AsRef<Fleet> for Gateway {
    fn as_ref(&self) -> &Fleet {
        &self.fleet
    }
}
