//! The running gateway as one object: applies configurations to the fleet and answers the admin API.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::acme::{self, Acme};
use super::activation::Inherited;
use super::admin::backend::{
    AdminBackend, Answer, Check, EndpointOrder, EndpointOutcome, ErrorRates, Health, HealthStatus, Readiness,
    ReadyStatus, ReloadOutcome, UpgradeOutcome,
};
use super::checks::Checks;
use super::discovery::Discovery;
use super::door::Door;
use super::fleet::{Fleet, Share};
use super::limits;
use super::listening::{Listening, Shares};
use super::operator;
use super::orders::Orders;
use super::source::{ConfigSource, Ready};
use super::survival;
use crate::limits::{LET_GO_LOOK_MS, LET_GO_MS_MAX};
use crate::policy::{self, CompileEnv};
use crate::schema::Diagnostics;
use crate::snapshot::{Listener, Service, Snapshot};
use crate::sys::thread;
use crate::telemetry::access_log::{self, AccessLogWriter};
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::{CertificateFacts, ControlFacts, Exposition, MemoryFacts, WorkerReport};
use crate::telemetry::metrics::process::ProcessFacts;
use crate::time;
use crate::tls::Known;
use crate::worker::mailbox::{ChangedServices, Report};
use crate::worker::memory::{Level, Memory};

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
    exposition: Mutex<Exposition>,
    drivers: Vec<String>,
    memory: Arc<Memory>,
    discovery: Arc<Discovery>,
    checks: Arc<Checks>,
    acme: Arc<Acme>,
    orders: Arc<Orders>,
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
        let Parts { fleet, drivers, memory, discovery, orders } = parts;
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
            exposition: Mutex::new(Exposition::new(compat_names)),
            drivers,
            memory,
            discovery,
            checks: Arc::default(),
            acme: Arc::default(),
            orders,
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
    pub fn compile(&self, source: &ConfigSource, env: CompileEnv) -> JoinHandle<Compiled> {
        let (source, previous) = (source.clone(), self.fleet.snapshot());
        tokio::task::spawn_blocking(move || {
            // Where a worker has the same core, its requests go first.
            thread::give_way();
            let ready = source.compile(previous.generation + 1, env, Some(&previous))?;
            let mut changes = changes(&previous.effective, &ready.snapshot.effective);
            changes["needs_restart"] = json!(needs_restart(&previous.effective, &ready.snapshot.effective));
            Ok((ready, changes))
        })
    }

    /// Prepares a compiled configuration and swaps it in on all workers; or leaves everything as it was (A30).
    pub async fn apply(self: &Arc<Self>, compiled: Compiled, belongings: &mut Belongings) -> ReloadOutcome {
        if self.is_draining() {
            return ReloadOutcome::Busy;
        }
        let previous = self.fleet.snapshot();
        let outcome = match compiled {
            Ok((ready, changes)) => Box::pin(self.swap(ready, changes, &previous, belongings)).await,
            Err(diagnostics) => Err(diagnostics.to_json()),
        };
        match outcome {
            Ok((generation, changes)) => {
                let_go(previous);
                self.reloads_ok.fetch_add(1, Ordering::Relaxed);
                self.last_success_seconds.store(time::unix_seconds(), Ordering::Relaxed);
                *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = None;
                log::info("configuration applied", &[("generation", &generation), ("changes", &changes)]);
                ReloadOutcome::Applied { generation, changes }
            }
            Err(diagnostics) => {
                self.reloads_failed.fetch_add(1, Ordering::Relaxed);
                log::error("configuration refused, the old one serves on", &[("diagnostics", &diagnostics)]);
                *self.last_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(diagnostics.clone());
                ReloadOutcome::Rejected { generation: previous.generation, diagnostics }
            }
        }
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
        in_background(move || drop((loaded, warnings)));
        self.discovery.prepare(&snapshot).await;
        self.orders.apply(&snapshot);
        match self.fleet.replace(snapshot.clone(), shares(sockets, access_logs)).await {
            Ok(()) => {
                listening.retain(&snapshot.listeners);
                // An operator may have said something meanwhile.
                self.tell_orders(&snapshot).await;
                self.orders.keep_in(state_file);
                door.change(change, self);
                self.discovery.settle(&snapshot, &self.fleet).await;
                self.acme.follow(&snapshot.acme);
                logs.change(log_change);
                Ok((snapshot.generation, changes))
            }
            Err(what) => {
                // What was begun for the new one is of no use.
                self.discovery.prepare(&self.fleet.snapshot()).await;
                self.discovery.settle(&self.fleet.snapshot(), &self.fleet).await;
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
        operator::endpoints(service, &self.reports().await, &self.orders, &self.discovery)
    }

    async fn reports(&self) -> Vec<Option<Report>> {
        self.fleet.report().await
    }
}

/// Work on a thread that gives way to workers on the same core.
fn in_background(work: impl FnOnce() + Send + 'static) {
    tokio::task::spawn_blocking(|| {
        thread::give_way();
        work();
    });
}

/// Takes a snapshot apart that serves no more: for thousands of routes that is milliseconds, which a worker would take
/// from its requests if it were the last to have it. One that is in use for longer, by a stream, is left to the worker.
fn let_go(previous: Arc<Snapshot>) {
    tokio::spawn(async move {
        for _ in 0..LET_GO_MS_MAX / LET_GO_LOOK_MS {
            if Arc::strong_count(&previous) == 1 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(LET_GO_LOOK_MS)).await;
        }
        in_background(move || drop(previous));
    });
}

/// The certificates that serve, and how long they are good for (F87).
fn certificate_facts(snapshot: &Snapshot) -> Vec<CertificateFacts> {
    let now_s = time::unix_seconds() as i64;
    let of = |listener: &Listener| {
        let known = listener.tls.as_ref().map(|tls| tls.known()).unwrap_or_default();
        let fact = |known: &Known| CertificateFacts {
            listener: listener.name.clone(),
            label: known.label.clone(),
            days_left: (known.not_after_s - now_s) as f64 / 86_400.0,
            staples: known.staples,
        };
        known.iter().map(fact).collect::<Vec<_>>()
    };
    snapshot.listeners.iter().flat_map(of).collect()
}

/// The revocation lists, and the days until the next ones are promised.
fn list_facts(snapshot: &Snapshot) -> Vec<(String, String, f64)> {
    let now_s = time::unix_seconds() as i64;
    let of = |listener: &Listener| {
        let lists = listener.tls.as_ref().map_or(&[][..], |tls| &tls.lists);
        let promised = lists.iter().filter(|list| list.until_s < i64::MAX);
        let days_left = |until_s: i64| (until_s - now_s) as f64 / 86_400.0;
        promised.map(|list| (listener.name.clone(), list.label.clone(), days_left(list.until_s))).collect::<Vec<_>>()
    };
    snapshot.listeners.iter().flat_map(of).collect()
}

/// What [`Gateway::compile`] gives: the configuration, and how it differs from the one that serves.
pub type Compiled = Result<(Ready, Value), Box<Diagnostics>>;

/// Keys whose change is not taken up by a reload, as far as they differ. An upgrade takes them up.
fn needs_restart(old: &Value, new: &Value) -> Vec<&'static str> {
    const KEYS: [(&str, &str); 5] = [
        ("/server/workers", "server.workers"),
        ("/server/pin_workers", "server.pin_workers"),
        ("/server/ring_entries", "server.ring_entries"),
        ("/logging/level", "logging.level"),
        ("/logging/format", "logging.format"),
    ];
    KEYS.into_iter().filter(|(at, _)| old.pointer(at) != new.pointer(at)).map(|(_, name)| name).collect()
}

/// Joins what each worker gets.
pub fn shares(sockets: Shares, logs: Option<Vec<crate::telemetry::access_log::AccessLog>>) -> Vec<Share> {
    let mut logs = logs.into_iter().flatten();
    sockets.into_iter().map(|sockets| Share { sockets, access_log: logs.next() }).collect()
}

/// The access log's writer; a reload that changes where or how is logged gets another one.
#[derive(Default)]
pub struct AccessLogs {
    present: Option<(crate::config::model::AccessLog, AccessLogWriter)>,
}

/// What the access log is to become.
pub enum LogChange {
    /// What it is.
    Stay,
    /// Nothing is logged.
    Off,
    /// Another writer.
    To(Box<(crate::config::model::AccessLog, AccessLogWriter)>),
}

impl AccessLogs {
    /// What is to become of the log, and the logs of all workers if they are different from the present ones, which
    /// stay as they are.
    ///
    /// # Errors
    /// Why the log cannot be written.
    pub fn prepare(
        &self,
        ready: &Ready,
        workers: usize,
    ) -> Result<(LogChange, Option<Vec<crate::telemetry::access_log::AccessLog>>), String> {
        use crate::config::model::{AccessLogFormat, LogTarget};
        use crate::telemetry::access_log::{AccessLog, Format, Target};
        let wanted = &ready.loaded.config.logging.access_log;
        if self.present.as_ref().is_some_and(|(present, _)| same_log(present, wanted)) {
            return Ok((LogChange::Stay, None));
        }
        let format = match wanted.format {
            AccessLogFormat::Off => {
                let was_on = self.present.is_some();
                let logs = was_on.then(|| (0..workers).map(|_| AccessLog::off()).collect());
                return Ok((LogChange::Off, logs));
            }
            AccessLogFormat::Json => Format::Json,
            AccessLogFormat::Common => Format::Common,
            AccessLogFormat::Combined => Format::Combined,
        };
        let target = match &wanted.path {
            LogTarget::Stdout => Target::Stdout,
            LogTarget::Stderr => Target::Stderr,
            LogTarget::File(path) => Target::File(path.into()),
        };
        let writer = AccessLogWriter::start(target, format, workers)
            .map_err(|error| format!("cannot write the access log: {error}"))?;
        let logs = (0..workers).map(|worker| writer.worker(worker as u32)).collect();
        Ok((LogChange::To(Box::new((wanted.clone(), writer))), Some(logs)))
    }

    /// Makes the change, once the workers have their logs. The writer before ends with the last log that uses it.
    pub fn change(&mut self, change: LogChange) {
        match change {
            LogChange::Stay => {}
            LogChange::Off => self.present = None,
            LogChange::To(next) => self.present = Some(*next),
        }
    }

    /// The log of one worker that is started again.
    pub fn worker(&self, worker: u32) -> Option<crate::telemetry::access_log::AccessLog> {
        self.present.as_ref().map(|(_, writer)| writer.worker(worker))
    }

    /// Opens the log file anew.
    pub fn reopen(&self) {
        if let Some((_, writer)) = &self.present {
            writer.reopen();
        }
    }

    /// Writes what is left, for at most `timeout`.
    pub fn finish(&mut self, timeout: std::time::Duration) {
        if let Some((_, writer)) = self.present.take() {
            writer.stop(timeout);
        }
    }
}

fn same_log(one: &crate::config::model::AccessLog, other: &crate::config::model::AccessLog) -> bool {
    one.format == other.format && one.path == other.path
}

/// What is different between two effective configurations, by name.
fn changes(old: &Value, new: &Value) -> Value {
    let named = |value: &Value, list: &str| -> BTreeMap<String, Value> {
        let items = value.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let key = |item: &Value| match (&item["name"], &item["address"]) {
            (Value::String(name), _) | (_, Value::String(name)) => name.clone(),
            _ => item.to_string(),
        };
        items.into_iter().map(|item| (key(&item), item)).collect()
    };
    let mut all = serde_json::Map::new();
    for list in ["listeners", "services", "routes"] {
        let (old, new) = (named(old, list), named(new, list));
        let added: Vec<_> = new.keys().filter(|name| !old.contains_key(*name)).collect();
        let removed: Vec<_> = old.keys().filter(|name| !new.contains_key(*name)).collect();
        let differs = |name: &&String| old.get(*name).is_some_and(|was| was != &new[*name]);
        let changed: Vec<_> = new.keys().filter(differs).collect();
        all.insert(list.to_owned(), json!({ "added": added, "removed": removed, "changed": changed }));
    }
    Value::Object(all)
}

impl AsRef<Fleet> for Gateway {
    fn as_ref(&self) -> &Fleet {
        &self.fleet
    }
}

impl AdminBackend for Gateway {
    fn ready(&self) -> Readiness {
        let status = match self.state.load(Ordering::Acquire) {
            STARTING => ReadyStatus::Starting,
            READY => ReadyStatus::Ready,
            _ => ReadyStatus::Draining,
        };
        let (all, ended) = (self.fleet.len(), self.fleet.ended());
        let workers = Check { name: "workers".into(), ok: ended == 0, detail: format!("{} of {all} run", all - ended) };
        let generation = self.fleet.snapshot().generation;
        let failed = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let detail = match failed {
            true => format!("generation {generation} serves; the last reload was refused"),
            false => format!("generation {generation} serves"),
        };
        let mut checks = vec![workers, Check { name: "configuration".into(), ok: !failed, detail }];
        checks.extend(self.memory.is_limited().then(|| memory_check(&self.memory)));
        let check = |(ok, detail)| Check { name: "discovery".into(), ok, detail };
        checks.extend(self.discovery.check().map(check));
        Readiness { status, checks }
    }

    fn health(&self) -> Answer<'_, Health> {
        Box::pin(async move {
            let reports = self.reports().await;
            let workers_up = reports.iter().flatten().count();
            let reports = worker_reports(reports);
            let summary = {
                let mut exposition = self.exposition.lock().unwrap_or_else(PoisonError::into_inner);
                self.fleet.take_counted().iter().for_each(|counted| exposition.last_words(counted));
                exposition.summary(&reports)
            };
            let rate = |part: u64| if summary.requests == 0 { 0.0 } else { part as f64 / summary.requests as f64 };
            let average_ms = rate(summary.duration_ns) / 1e6;
            let error_rate = rate(summary.server_errors);
            Health {
                status: HealthStatus::judge(error_rate, average_ms, workers_up == self.fleet.len()),
                error_rates: ErrorRates { all: error_rate },
                average_response_time: average_ms,
                active_connections: summary.active_connections,
                requests: summary.requests,
                workers_up,
                workers: self.fleet.len(),
                uptime_seconds: self.started.elapsed().as_secs(),
            }
        })
    }

    fn metrics_text(&self) -> Answer<'_, String> {
        Box::pin(async move {
            let reports = worker_reports(self.reports().await);
            let snapshot = self.fleet.snapshot();
            let facts = ControlFacts {
                version: env!("CARGO_PKG_VERSION").to_owned(),
                commit: option_env!("RINGWAY_COMMIT").unwrap_or_default().to_owned(),
                config_hash: format!("{:016x}", stable_hash(&snapshot.effective.to_string())),
                generation: snapshot.generation,
                last_reload_ok: self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).is_none(),
                last_reload_success_seconds: self.last_success_seconds.load(Ordering::Relaxed),
                reloads_ok: self.reloads_ok.load(Ordering::Relaxed),
                reloads_failed: self.reloads_failed.load(Ordering::Relaxed),
                upgrades: self.upgrades.each_ref().map(|count| count.load(Ordering::Relaxed)),
                log_write_errors: access_log::write_errors(),
                process_log_dropped: log::dropped(),
                limits: limits::facts(&snapshot),
                checks: self.checks.facts(),
                breakers: survival::breaker_facts(&snapshot),
                services: survival::service_facts(&snapshot, time::Now::read()),
                workers: self.fleet.fates(),
                memory: memory_facts(&self.memory),
                discovery: self.discovery.facts(),
                certificates: certificate_facts(&snapshot),
                lists: list_facts(&snapshot),
                acme: self.acme.facts(&snapshot.acme),
            };
            let mut exposition = self.exposition.lock().unwrap_or_else(PoisonError::into_inner);
            self.fleet.take_counted().iter().for_each(|counted| exposition.last_words(counted));
            exposition.render(&reports, &ProcessFacts::read(), &facts)
        })
    }

    fn config_json(&self) -> Value {
        let snapshot = self.fleet.snapshot();
        let failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({ "generation": snapshot.generation, "last_refused": failure, "config": snapshot.effective })
    }

    fn reload(&self) -> Answer<'_, ReloadOutcome> {
        Box::pin(async move {
            let (sender, outcome) = oneshot::channel();
            if self.wishes.try_send(Wish::Reload(sender)).is_err() {
                return ReloadOutcome::Busy;
            }
            outcome.await.unwrap_or(ReloadOutcome::Busy)
        })
    }

    fn upgrade(&self) -> Answer<'_, UpgradeOutcome> {
        Box::pin(async move {
            let refused = || UpgradeOutcome::Refused { error: "the gateway is busy or stopping".to_owned() };
            let (sender, outcome) = oneshot::channel();
            if self.wishes.try_send(Wish::Upgrade(sender)).is_err() {
                return refused();
            }
            outcome.await.unwrap_or_else(|_| refused())
        })
    }

    fn services(&self) -> Answer<'_, Value> {
        Box::pin(async move {
            let snapshot = self.fleet.snapshot();
            let reports = self.reports().await;
            let service = |service: &Service| {
                json!({
                    "name": service.name,
                    "load_balancer": service.endpoints.algorithm().word(),
                    "endpoints": operator::endpoints(service, &reports, &self.orders, &self.discovery),
                    "orders_for_absent": operator::absent(service, &self.orders),
                    "sources": self.discovery.sources(service),
                    "limits": limits::of_service(service),
                    "breaker": service.breaker.as_ref().map(|breaker| breaker.shared.state().word()),
                    "checks": self.checks.of_service(service),
                    "events": survival::events(service),
                })
            };
            Value::Array(snapshot.services.iter().map(service).collect())
        })
    }

    fn endpoints<'a>(&'a self, service: &'a str) -> Answer<'a, Option<Value>> {
        Box::pin(async move {
            let snapshot = self.fleet.snapshot();
            let service = snapshot.services.iter().find(|s| s.name == service)?;
            Some(Value::Array(self.endpoints_of(service).await))
        })
    }

    fn order_endpoint(&self, order: EndpointOrder) -> Answer<'_, EndpointOutcome> {
        Box::pin(self.order(order))
    }

    fn events(&self) -> Value {
        let snapshot = self.fleet.snapshot();
        let mut events = self.discovery.events();
        events.extend(self.acme.events());
        survival::recent(&snapshot, events)
    }

    fn certificates(&self) -> Value {
        let snapshot = self.fleet.snapshot();
        let of = |listener: &Listener| {
            let known = listener.tls.as_ref().map(|tls| tls.known()).unwrap_or_default();
            let shown = known.iter().map(acme::facts_of).collect::<Vec<_>>();
            json!({ "listener": listener.name, "certificates": shown })
        };
        let listeners = snapshot.listeners.iter().filter(|listener| listener.tls.is_some());
        json!({ "listeners": listeners.map(of).collect::<Vec<_>>(), "ordered": self.acme.json(&snapshot.acme) })
    }

    fn breakers(&self) -> Value {
        survival::breakers(&self.fleet.snapshot())
    }

    fn reset_breaker(&self, name: &str) -> Option<Value> {
        survival::reset(&self.fleet.snapshot(), name)
    }

    fn workers(&self) -> Answer<'_, Value> {
        Box::pin(async move {
            let (reports, fates) = (self.reports().await, self.fleet.fates());
            let restarts = |worker: usize| fates.get(worker).map_or(0, |fate| fate.restarts);
            let worker = |(index, report): (usize, &Option<Report>)| match report {
                Some(report) => json!({
                    "worker": index, "up": true, "restarts": restarts(index), "driver": self.drivers.get(index),
                    "connections": report.connections, "active_requests": report.active_requests,
                    "generation": report.generation,
                }),
                None => json!({ "worker": index, "up": false }),
            };
            Value::Array(reports.iter().enumerate().map(worker).collect())
        })
    }

    fn policies(&self) -> Value {
        let kinds = policy::KINDS.iter();
        let known = kinds.map(|k| json!({ "name": k.name, "phase": k.phase.word(), "summary": k.summary }));
        let snapshot = self.fleet.snapshot();
        let in_use = snapshot.routes.iter().map(|route| {
            let chain = route.chain.slots().iter().map(|slot| slot.policy().explain());
            json!({ "route": route.name, "chain": chain.collect::<Vec<_>>() })
        });
        json!({ "known": known.collect::<Vec<_>>(), "routes": in_use.collect::<Vec<_>>() })
    }

    fn version(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("RINGWAY_COMMIT").unwrap_or_default(),
            "drivers": self.drivers,
        })
    }
}

/// A gateway that sheds is still the right place for new traffic: it says for itself what it cannot take.
fn memory_check(memory: &Memory) -> Check {
    let facts = memory.facts();
    let percent = facts.used_bytes.saturating_mul(100) / facts.limit_bytes.max(1);
    let detail = format!("{}: {percent} % of {} bytes are in use", facts.level.word(), facts.limit_bytes);
    Check { name: "memory".into(), ok: facts.level == Level::Ample, detail }
}

fn memory_facts(memory: &Memory) -> MemoryFacts {
    let facts = memory.facts();
    MemoryFacts {
        limit_bytes: facts.limit_bytes,
        used_bytes: facts.used_bytes,
        held_bytes: facts.held_bytes,
        group_bytes: facts.group_bytes,
        level: facts.level as u64,
    }
}

fn worker_reports(reports: Vec<Option<Report>>) -> Vec<WorkerReport> {
    let with_number = |(worker, report): (usize, Option<Report>)| WorkerReport {
        worker: worker as u32,
        snapshot: report.map(|report| report.metrics),
    };
    reports.into_iter().enumerate().map(with_number).collect()
}

/// FNV-1a: the same on every node, so that equal configurations are seen to be equal.
fn stable_hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_name() {
        let old =
            json!({ "routes": [{ "name": "a", "path": "/a" }, { "name": "b" }], "listeners": [{ "address": "x" }] });
        let new =
            json!({ "routes": [{ "name": "a", "path": "/z" }, { "name": "c" }], "listeners": [{ "address": "x" }] });
        let told = changes(&old, &new);
        assert_eq!(told["routes"], json!({ "added": ["c"], "removed": ["b"], "changed": ["a"] }));
        assert_eq!(told["listeners"], json!({ "added": [], "removed": [], "changed": [] }));
    }
}
