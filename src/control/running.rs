//! The gateway while it runs: obeys signals and wishes, one after another, and ends.

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::admin::backend::{ReloadOutcome, UpgradeOutcome};
use super::discovery::Publisher;
use super::gateway::{Belongings, Compiled, Gateway, WISHES_WAITING_MAX, Wish};
use super::notify::Notifier;
use super::orders::handover::Handover;
use super::outcome;
use super::revivals::Revivals;
use super::signals::{Event, Signals};
use super::source::ConfigSource;
use super::store::Follower;
use super::upgrade::{Goods, Successor};
use super::watch::FileWatch;
use super::watchdog::Watchdog;
use crate::config::model;
use crate::policy::CompileEnv;
use crate::sys::memory;
use crate::telemetry::log;
use crate::worker::mailbox::Drain;

/// How long the access log may take to be written at the end.
const LOG_FINISH: Duration = Duration::from_secs(2);
/// How often a stop looks whether the workers have ended.
const STOP_POLL: Duration = Duration::from_millis(5);
/// How long workers may take to end when they are told to.
const END_WAIT: Duration = Duration::from_secs(1);
/// At the end of the drain behind an upgrade: how long idle connections may take to close.
const IDLE_CLOSE: Duration = Duration::from_millis(250);

/// The gateway while it runs.
pub(super) struct Running {
    pub gateway: Arc<Gateway>,
    pub wishes: mpsc::Receiver<Wish>,
    pub source: ConfigSource,
    pub env: CompileEnv,
    pub belongings: Belongings,
    pub notifier: Notifier,
    pub signals: Signals,
    pub server: model::Server,
    pub watch: Option<FileWatch>,
    /// Follows the configuration's store, where it comes from one.
    pub follower: Option<Follower>,
    pub pid_file: Option<PathBuf>,
    /// Whether a service manager has the listening sockets too.
    pub from_manager: bool,
    pub reload: Reload,
    pub upgrade: Option<Upgrade>,
    /// Ends with the process; without it the workers are not watched.
    pub watchdog: Option<Watchdog>,
    pub revivals: Revivals,
    /// Ends with the process.
    pub publisher: Publisher,
}

/// By then what only the start needs has run.
const START_OVER: Duration = Duration::from_millis(500);

/// A reload under way, and who waits for it.
#[derive(Default)]
pub(super) struct Reload {
    compiling: Option<oneshot::Receiver<Compiled>>,
    askers: Vec<oneshot::Sender<ReloadOutcome>>,
    /// Another one was asked for meanwhile: the file may have changed since it was read.
    next: Option<Vec<oneshot::Sender<ReloadOutcome>>>,
}

/// An upgrade under way, and who waits for it.
pub(super) struct Upgrade {
    successor: Successor,
    /// What it is told of orders.
    orders: Handover,
    asker: Option<oneshot::Sender<UpgradeOutcome>>,
}

impl Running {
    /// Obeys until the end.
    pub async fn serve(mut self) -> ExitCode {
        let interval = self.notifier.watchdog_interval().unwrap_or(Duration::from_secs(1));
        // A while after the last of the start has run; it ends with this runtime.
        drop(tokio::spawn(async {
            sleep(START_OVER).await;
            memory::let_go_of_code();
            memory::give_back();
        }));
        let fleet = self.gateway.clone();
        loop {
            tokio::select! {
                event = self.signals.next() => match event {
                    Event::Reload => self.begin_reload(None),
                    Event::ReopenLogs => self.belongings.logs.reopen(),
                    Event::StopGraceful => return Box::pin(self.stop(false)).await,
                    Event::StopFast | Event::StopNow => return Box::pin(self.stop(true)).await,
                    Event::Upgrade => self.begin_upgrade(None),
                },
                Some(wish) = self.wishes.recv() => match wish {
                    Wish::Reload(asker) => self.begin_reload(Some(asker)),
                    Wish::Upgrade(asker) => self.begin_upgrade(Some(asker)),
                },
                // What has changed meanwhile waits, lest it be lost with an upgrade that fails.
                () = changed(&mut self.watch), if self.is_free() => self.begin_reload(None),
                () = told(&self.source), if self.is_free() => self.compile(false),
                compiled = compiled(&mut self.reload.compiling) => Box::pin(self.finish_reload(compiled)).await,
                ready = ready(&mut self.upgrade) => {
                    if let Some(upgrade) = self.finish_upgrade(ready) {
                        return Box::pin(self.retire(upgrade)).await;
                    }
                }
                death = fleet.fleet().next_death() => self.revivals.add(death),
                worker = self.revivals.due() => self.revive(worker).await,
                () = sleep(interval) => self.check_workers(),
            }
        }
    }

    fn begin_reload(&mut self, asker: Option<oneshot::Sender<ReloadOutcome>>) {
        if self.upgrade.is_some() {
            log::warn("no reload while an upgrade is under way: the new program reads the configuration", &[]);
            return answer_reload(asker, &ReloadOutcome::Busy);
        }
        if self.reload.compiling.is_some() {
            let next = self.reload.next.get_or_insert_default();
            match asker {
                Some(asker) if next.len() < WISHES_WAITING_MAX => next.push(asker),
                asker => answer_reload(asker, &ReloadOutcome::Busy),
            }
            return;
        }
        self.reload.askers.extend(asker);
        self.compile(true);
    }

    /// Whether a reload can begin at once. What a store has told waits for that.
    fn is_free(&self) -> bool {
        self.upgrade.is_none() && self.reload.compiling.is_none()
    }

    /// `is_asked`: a store is read anew, and not taken by what it has told.
    fn compile(&mut self, is_asked: bool) {
        self.notifier.reloading(crate::time::Now::read().0 / 1000);
        self.reload.compiling = Some(match self.source.store().filter(|_| is_asked) {
            Some(store) => self.gateway.read_and_compile(store, &self.source, self.env),
            None => self.gateway.compile(&self.source, self.env),
        });
    }

    async fn finish_reload(&mut self, compiled: Option<Compiled>) {
        self.reload.compiling = None;
        let outcome = match compiled {
            Some(compiled) => {
                let loaded = compiled.as_ref().ok().and_then(Option::as_ref).map(|(ready, _)| &ready.loaded);
                let settings = loaded.map(|loaded| {
                    let config = &loaded.config;
                    (config.server.clone(), self.source.watched(config), loaded.source.clone())
                });
                let outcome = Box::pin(self.gateway.apply(compiled, &mut self.belongings)).await;
                if let (ReloadOutcome::Applied { .. }, Some((server, watch, text))) = (&outcome, settings) {
                    self.follow(server, watch);
                    if let Some(store) = self.source.store() {
                        store.keep(text);
                    }
                }
                outcome
            }
            // The thread panicked; what it said is in the log.
            None => ReloadOutcome::Busy,
        };
        let status = match &outcome {
            ReloadOutcome::Applied { generation, .. } | ReloadOutcome::Unchanged { generation } => {
                format!("serving generation {generation}")
            }
            _ => "serving; the last reload was refused".to_owned(),
        };
        self.notifier.ready(&status);
        outcome::tell("reload", &outcome);
        self.reload.askers.drain(..).for_each(|asker| answer_reload(Some(asker), &outcome));
        if let Some(askers) = self.reload.next.take() {
            self.begin_reload(None);
            self.reload.askers.extend(askers);
        }
    }

    /// Takes up the settings of the control thread itself.
    fn follow(&mut self, server: model::Server, watched: Option<Vec<PathBuf>>) {
        match (&self.watch, watched) {
            (Some(watch), Some(paths)) if watch.watches(&paths) => {}
            (_, Some(paths)) => self.watch = Some(FileWatch::new(paths)),
            (_, None) => self.watch = None,
        }
        self.server = server;
    }

    fn begin_upgrade(&mut self, asker: Option<oneshot::Sender<UpgradeOutcome>>) {
        let refusal = match () {
            () if self.upgrade.is_some() => Some("another upgrade is under way"),
            () if self.reload.compiling.is_some() => Some("a reload is under way"),
            () if std::process::id() == 1 => Some("this is process 1 of its container, which ends with it"),
            () => None,
        };
        if let Some(error) = refusal {
            return self.refuse_upgrade(asker, error);
        }
        match self.start_successor() {
            Ok((successor, orders)) => self.upgrade = Some(Upgrade { successor, orders, asker }),
            Err(error) => self.upgrade_failed(asker, format!("the new program cannot be started: {error}")),
        }
    }

    fn start_successor(&self) -> io::Result<(Successor, Handover)> {
        let orders = self.gateway.orders().begin_handover()?;
        let listeners: Vec<_> = self.belongings.listening.all().collect();
        let count = listeners.len();
        let goods = Goods { listeners, admin: self.belongings.door.listener(), orders: &orders };
        let successor = Successor::start(&goods, self.gateway.upgrades() + 1)?;
        log::info("upgrade begins", &[("pid", &successor.pid()), ("sockets", &count)]);
        Ok((successor, orders))
    }

    fn refuse_upgrade(&self, asker: Option<oneshot::Sender<UpgradeOutcome>>, error: &str) {
        log::warn("upgrade refused", &[("error", &error)]);
        self.answer_upgrade(asker, UpgradeOutcome::Refused { error: error.to_owned() });
    }

    fn upgrade_failed(&self, asker: Option<oneshot::Sender<UpgradeOutcome>>, error: String) {
        log::error("upgrade failed, this process serves on", &[("error", &error)]);
        self.answer_upgrade(asker, UpgradeOutcome::Failed { error });
    }

    fn answer_upgrade(&self, asker: Option<oneshot::Sender<UpgradeOutcome>>, outcome: UpgradeOutcome) {
        self.gateway.count_upgrade(&outcome);
        outcome::tell("upgrade", &outcome);
        if let Some(asker) = asker {
            // The client that asked may have gone.
            let _ = asker.send(outcome);
        }
    }

    /// Takes note of what the successor said. Returns it when it serves.
    fn finish_upgrade(&mut self, ready: Result<(), String>) -> Option<Upgrade> {
        let upgrade = self.upgrade.take()?;
        if let Err(error) = ready {
            upgrade.successor.end();
            self.upgrade_failed(upgrade.asker, error);
            return None;
        }
        // First of all: the service manager takes this process's end for the end of the service otherwise.
        self.notifier.main_process(upgrade.successor.pid());
        Some(upgrade)
    }

    async fn revive(&mut self, worker: u32) {
        self.revivals.done(worker);
        let log = self.belongings.logs.worker(worker);
        if let Err(error) = self.gateway.fleet().revive(worker, log).await {
            log::error("worker cannot be started again", &[("worker", &worker), ("error", &error)]);
        }
    }

    fn check_workers(&self) {
        match self.gateway.fleet().ended() {
            0 => self.notifier.watchdog(),
            ended => log::error("workers have ended", &[("count", &ended)]),
        }
    }

    /// Finishes what this process has, behind an upgrade: accepts no more at once, gives each kept connection one more
    /// answer, closes those that are still idle at the end of the drain time. A stop closes idle ones at once, a second
    /// one everything.
    async fn retire(mut self, Upgrade { successor, orders, asker }: Upgrade) -> ExitCode {
        self.follower = None;
        self.gateway.set_replaced();
        self.refuse_wishes();
        self.belongings.listening.clear();
        self.gateway.fleet().let_go().await;
        if let Err(error) = self.gateway.orders().end_handover(&orders).await {
            log::error("the last orders about endpoints cannot be handed over", &[("error", &error)]);
        }
        let pid = successor.pid();
        successor.go().await;
        log::info("upgraded, this process finishes what it has", &[("pid", &pid)]);
        self.answer_upgrade(asker, UpgradeOutcome::Done { pid });
        // Answers under way in the admin API, the one about this upgrade among them, have until the end.
        let door = tokio::spawn(self.belongings.door.close());
        let due = Instant::now() + self.server.drain_timeout.get();
        let mut drained = false;
        while !drained && Instant::now() < due {
            tokio::select! {
                ended = timeout_at(due, all_ended(&self.gateway)) => drained = ended.is_ok(),
                event = self.signals.next() => match event {
                    Event::StopGraceful => self.gateway.fleet().drain(Drain::LetGoAndClose),
                    Event::StopFast | Event::StopNow => break,
                    Event::ReopenLogs => self.belongings.logs.reopen(),
                    Event::Reload | Event::Upgrade => {
                        let error = format!("this process was replaced: ask process {pid}");
                        log::warn("not done", &[("error", &error)]);
                        outcome::tell("upgrade", &UpgradeOutcome::Refused { error });
                        outcome::tell("reload", &ReloadOutcome::Busy);
                    }
                },
            }
        }
        if !drained {
            self.gateway.fleet().drain(Drain::LetGoAndClose);
            drained = timeout(IDLE_CLOSE, all_ended(&self.gateway)).await.is_ok();
        }
        // It has a deadline of its own.
        let _ = door.await;
        self.end(drained).await
    }

    /// Stops: not ready, accept no more, finish what runs within the drain time, end. A second signal ends at once.
    async fn stop(mut self, fast: bool) -> ExitCode {
        if let Some(Upgrade { successor, asker, .. }) = self.upgrade.take() {
            successor.end();
            self.upgrade_failed(asker, "the gateway was told to stop".to_owned());
        }
        self.gateway.set_draining();
        self.refuse_wishes();
        self.notifier.stopping("draining");
        let (delay, limit) = match fast {
            true => (Duration::ZERO, Duration::ZERO),
            false => (self.server.drain_delay.get(), self.server.drain_timeout.get()),
        };
        log::info("stopping", &[("drain_seconds", &limit.as_secs())]);
        // What a service manager holds on to waits for the next process there.
        let last = if self.from_manager { Drain::LetGoAndClose } else { Drain::Close };
        let (gateway, listening) = (self.gateway.clone(), &mut self.belongings.listening);
        let drain = async {
            // Load balancers see /ready fail before connections are refused (F04).
            gateway.fleet().drain(Drain::Announce);
            sleep(delay).await;
            listening.clear();
            gateway.fleet().drain(last);
            timeout(limit, all_ended(&gateway)).await.is_ok()
        };
        let drained = tokio::select! {
            drained = drain => drained,
            () = another_stop(&mut self.signals) => false,
        };
        if let Some(path) = &self.pid_file {
            super::serve::remove_pid_file(path);
        }
        self.end(drained).await
    }

    /// Whoever waits for something, or comes from now on, is told that it is too late.
    fn refuse_wishes(&mut self) {
        self.wishes.close();
        while self.wishes.try_recv().is_ok() {}
        self.reload = Reload::default();
    }

    async fn end(mut self, drained: bool) -> ExitCode {
        self.gateway.fleet().stop();
        let ended = timeout(END_WAIT, all_ended(&self.gateway)).await.is_ok();
        self.belongings.door.close().await;
        self.belongings.logs.finish(LOG_FINISH);
        drop((self.watchdog.take(), self.publisher));
        log::info("stopped", &[("drained", &drained), ("workers_ended", &ended)]);
        log::flush(Duration::from_secs(1));
        ExitCode::SUCCESS
    }
}

fn answer_reload(asker: Option<oneshot::Sender<ReloadOutcome>>, outcome: &ReloadOutcome) {
    if let Some(asker) = asker {
        // The client that asked may have gone.
        let _ = asker.send(outcome.clone());
    }
}

async fn all_ended(gateway: &Gateway) {
    while gateway.fleet().ended() < gateway.fleet().len() {
        tokio::time::sleep_until(Instant::now() + STOP_POLL).await;
    }
}

async fn another_stop(signals: &mut Signals) {
    loop {
        if matches!(signals.next().await, Event::StopGraceful | Event::StopFast | Event::StopNow) {
            return;
        }
    }
}

/// The next change of the watched file; never, when none is watched.
async fn changed(watch: &mut Option<FileWatch>) {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}

/// What a store tells; never, where the configuration comes from none.
async fn told(source: &ConfigSource) {
    match source.store() {
        Some(store) => store.changed().await,
        None => std::future::pending().await,
    }
}

/// The end of the compilation under way; never, when there is none. None when it panicked.
async fn compiled(compiling: &mut Option<oneshot::Receiver<Compiled>>) -> Option<Compiled> {
    match compiling {
        Some(answer) => answer.await.ok(),
        None => std::future::pending().await,
    }
}

/// What the successor says; never, when there is none.
async fn ready(upgrade: &mut Option<Upgrade>) -> Result<(), String> {
    match upgrade {
        Some(upgrade) => upgrade.successor.ready().await,
        None => std::future::pending().await,
    }
}
