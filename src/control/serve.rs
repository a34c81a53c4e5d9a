//! `ringway run`: start everything or nothing, serve, and stop without losing a request.

use std::fmt;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout};

use super::admin::backend::ReloadOutcome;
use super::admin::{AdminServer, AdminSettings};
use super::fleet::{Fleet, FleetSettings};
use super::gateway::{AccessLogs, Gateway, ReloadRequest, open_all, shares};
use super::notify::Notifier;
use super::revivals::{self, Revivals};
use super::signals::{Event, Signals};
use super::source::{ConfigSource, Ready};
use super::watch::FileWatch;
use super::watchdog::Watchdog;
use crate::config::model::{self, LogFormat, LogLevel, Workers};
use crate::limits::RING_ENTRIES;
use crate::policy::CompileEnv;
use crate::sys::limit;
use crate::sys::ring::Driver;
use crate::telemetry::log::{self, Level, Style};

/// Descriptors that the gateway needs before it serves anybody: rings, wake-ups, logs, admin API.
const DESCRIPTORS_OWN: u64 = 48;
/// Descriptors of one worker besides its listeners.
const DESCRIPTORS_PER_WORKER: u64 = 8;
/// How long the access log may take to be written at the end.
const LOG_FINISH: Duration = Duration::from_secs(2);
/// How often a stop looks whether the workers have ended.
const STOP_POLL: Duration = Duration::from_millis(5);

/// What `ringway run` is told.
pub struct RunOptions {
    /// Where the configuration comes from.
    pub source: ConfigSource,
    /// The best driver to try.
    pub driver: Driver,
    /// Overrides `server.workers`.
    pub workers: Option<u32>,
}

/// Why the gateway did not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is wrong; the text tells everything that is.
    Config(String),
    /// The system refused something.
    System(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(text) | Self::System(text) => f.write_str(text),
        }
    }
}

/// Runs the gateway until it is told to stop. The exit code is 0 after a stop, 2 for a wrong configuration, 1 for what
/// the system refused.
pub fn run(options: RunOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&StartError::System(format!("cannot start the control thread: {error}"))),
    };
    revivals::log_panics();
    // Boxed: the control thread's whole life is a future of several KiB.
    runtime.block_on(async {
        match Box::pin(start(options)).await {
            Ok(running) => Box::pin(running.serve()).await,
            Err(error) => failed(&error),
        }
    })
}

fn failed(error: &StartError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(if matches!(error, StartError::Config(_)) { 2 } else { 1 })
}

struct Running {
    gateway: Arc<Gateway>,
    requests: mpsc::Receiver<ReloadRequest>,
    source: ConfigSource,
    env: CompileEnv,
    logs: AccessLogs,
    notifier: Notifier,
    signals: Signals,
    server: model::Server,
    watch: bool,
    admin_stop: Option<oneshot::Sender<()>>,
    /// Ends with the process; without it the workers are not watched.
    watchdog: Option<Watchdog>,
    revivals: Revivals,
}

async fn start(options: RunOptions) -> Result<Running, StartError> {
    let system = |error: &dyn fmt::Display| StartError::System(format!("error: {error}"));
    let signals = Signals::new().map_err(|error| system(&error))?;
    let loaded = options.source.load().map_err(|diagnostics| StartError::Config(diagnostics.render()))?;
    let server = loaded.config.server.clone();
    let workers = options.workers.unwrap_or_else(|| worker_count(&server));
    let env = CompileEnv { workers, random: random_bits() };
    let ready = Ready::of(loaded, 1, env, None);
    let ready = ready.map_err(|diagnostics| StartError::Config(diagnostics.render()))?;
    init_log(&ready.loaded.config.logging);
    check_descriptors(workers, ready.snapshot.listeners.len()).map_err(|what| system(&what))?;

    let admin = bind_admin(&ready.loaded.config).await.map_err(|what| system(&what))?;
    let addresses = ready.snapshot.listeners.iter().map(|listener| listener.address);
    let sockets = open_all(addresses, workers as usize).map_err(|what| system(&what))?;
    let listening: Vec<_> =
        sockets.first().into_iter().flatten().filter_map(|(_, socket)| socket.local_addr().ok()).collect();
    let mut logs = AccessLogs::default();
    let access_logs = logs.replace(&ready, workers as usize).map_err(|what| system(&what))?;

    let settings = FleetSettings {
        workers,
        pin: server.pin_workers,
        driver: options.driver,
        ring_entries: server.ring_entries.map_or(RING_ENTRIES, |entries| entries.get() as u32),
        seed: random_bits(),
    };
    let fleet = Fleet::start(settings, ready.snapshot.clone(), shares(sockets, access_logs)).await;
    let (fleet, started) = fleet.map_err(|error| system(&error))?;
    let drivers = started.iter().map(|worker| worker.driver.text().to_owned()).collect::<Vec<_>>();
    announce(&ready, &started, &listening, admin.as_ref().and_then(|admin| admin.local_addr().ok()));

    let (gateway, requests) = Gateway::new(fleet, drivers, ready.loaded.config.metrics.compat_names);
    let admin_stop = admin.map(|admin| serve_admin(admin, gateway.clone()));
    let notifier = Notifier::from_env(|name| std::env::var_os(name), std::process::id()).unwrap_or_default();
    let watch = ready.loaded.config.reload.watch;
    let watchdog = Watchdog::start(gateway.fleet().board().clone());
    let watchdog = watchdog.inspect_err(|error| log::error("the workers are not watched", &[("error", error)])).ok();
    let revivals = Revivals::default();
    let source = options.source;
    Ok(Running {
        gateway,
        requests,
        source,
        env,
        logs,
        notifier,
        signals,
        server,
        watch,
        admin_stop,
        watchdog,
        revivals,
    })
}

/// One worker for each core that this process may use: affinity and control groups count.
fn worker_count(server: &model::Server) -> u32 {
    match server.workers {
        Workers::Count(count) => count as u32,
        Workers::Auto => std::thread::available_parallelism().map_or(1, |count| count.get() as u32),
    }
}

/// Random bits from the system, through the keys that the standard library draws for its hash maps.
fn random_bits() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

fn init_log(logging: &model::Logging) {
    let level = match logging.level {
        LogLevel::Error => Level::Error,
        LogLevel::Warn => Level::Warn,
        LogLevel::Info => Level::Info,
        LogLevel::Debug | LogLevel::Trace => Level::Debug,
    };
    let style = match logging.format {
        LogFormat::Json => Style::Json,
        LogFormat::Text => Style::detect(),
    };
    log::init(level, style);
}

/// A limit that is too low to serve anybody is a reason not to start.
fn check_descriptors(workers: u32, listeners: usize) -> Result<(), String> {
    let limit = limit::raise_descriptors().map_err(|error| format!("cannot read the descriptor limit: {error}"))?;
    let needed = DESCRIPTORS_OWN + u64::from(workers) * (DESCRIPTORS_PER_WORKER + 2 * listeners as u64);
    if limit < needed {
        return Err(format!(
            "the limit of open descriptors is {limit}, and {workers} workers with {listeners} listeners need {needed} \
             before the first client comes: raise it with `ulimit -n` or LimitNOFILE="
        ));
    }
    Ok(())
}

async fn bind_admin(config: &model::Config) -> Result<Option<AdminServer>, String> {
    if !config.admin.enabled {
        return Ok(None);
    }
    let metrics_path = config.metrics.enabled.then(|| config.metrics.endpoint.as_str().to_owned());
    let settings = AdminSettings { metrics_path, ..AdminSettings::on(config.admin.listen.0) };
    AdminServer::bind(settings).await.map(Some).map_err(|error| error.to_string())
}

fn serve_admin(admin: AdminServer, gateway: Arc<Gateway>) -> oneshot::Sender<()> {
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        let until = async {
            // A dropped sender also means to stop.
            let _ = stopped.await;
        };
        if let Err(error) = admin.serve(gateway, until).await {
            log::error("the admin API ended", &[("error", &error)]);
        }
    });
    stop
}

fn announce(
    ready: &Ready,
    started: &[crate::worker::run::Started],
    listening: &[std::net::SocketAddr],
    admin: Option<std::net::SocketAddr>,
) {
    if !ready.warnings.sorted().is_empty() {
        log::warn("the configuration has warnings", &[("diagnostics", &ready.warnings.to_json())]);
    }
    for (driver, error) in started.first().map_or(&[][..], |worker| &worker.refused) {
        log::warn("driver refused by this kernel", &[("driver", &driver.text()), ("error", error)]);
    }
    let driver = started.first().map_or("none", |worker| worker.driver.text());
    let pinned = started.iter().filter(|worker| worker.pinned).count();
    let version = env!("CARGO_PKG_VERSION");
    log::info(
        "ringway starts",
        &[("version", &version), ("workers", &started.len()), ("pinned", &pinned), ("driver", &driver)],
    );
    for address in listening {
        log::info("listening", &[("address", address)]);
    }
    if let Some(address) = admin {
        log::info("admin listening", &[("address", &address)]);
    }
    log::info(
        "ready",
        &[("routes", &ready.snapshot.routes.len()), ("services", &ready.snapshot.services.len()), ("generation", &1)],
    );
}

impl Running {
    async fn serve(mut self) -> ExitCode {
        self.gateway.set_ready();
        self.notifier.ready("serving");
        let mut watch = self.source.path().filter(|_| self.watch).map(|path| FileWatch::new(vec![path]));
        let interval = self.notifier.watchdog_interval().unwrap_or(Duration::from_secs(1));
        loop {
            tokio::select! {
                event = self.signals.next() => match event {
                    Event::Reload => self.reload(None).await,
                    Event::ReopenLogs => self.logs.reopen(),
                    Event::StopGraceful => return self.stop(false).await,
                    Event::StopFast | Event::StopNow => return self.stop(true).await,
                    Event::Upgrade => log::warn("binary upgrade is not in this build yet", &[]),
                },
                Some(request) = self.requests.recv() => self.reload(Some(request)).await,
                () = changed(&mut watch) => self.reload(None).await,
                death = self.gateway.fleet().next_death() => self.revivals.add(death),
                worker = self.revivals.due() => self.revive(worker).await,
                () = sleep(interval) => self.check_workers(),
            }
        }
    }

    async fn reload(&mut self, request: Option<ReloadRequest>) {
        self.notifier.reloading(crate::time::Now::read().0 / 1000);
        let outcome = self.gateway.apply(&self.source, self.env, &mut self.logs).await;
        let status = match &outcome {
            ReloadOutcome::Applied { generation, .. } => format!("serving generation {generation}"),
            _ => "serving; the last reload was refused".to_owned(),
        };
        self.notifier.ready(&status);
        if let Some(request) = request {
            // The client that asked may have gone.
            let _ = request.send(outcome);
        }
    }

    async fn revive(&mut self, worker: u32) {
        self.revivals.done(worker);
        if let Err(error) = self.gateway.fleet().revive(worker, self.logs.worker(worker)).await {
            log::error("worker cannot be started again", &[("worker", &worker), ("error", &error)]);
        }
    }

    fn check_workers(&self) {
        match self.gateway.fleet().ended() {
            0 => self.notifier.watchdog(),
            ended => log::error("workers have ended", &[("count", &ended)]),
        }
    }

    /// Stops: not ready, accept no more, finish what runs within the drain time, end. A second signal ends at once.
    async fn stop(mut self, fast: bool) -> ExitCode {
        self.gateway.set_draining();
        self.notifier.stopping("draining");
        let (delay, limit) = match fast {
            true => (Duration::ZERO, Duration::ZERO),
            false => (self.server.drain_delay.get(), self.server.drain_timeout.get()),
        };
        log::info("stopping", &[("drain_seconds", &limit.as_secs())]);
        let drained = tokio::select! {
            drained = drain(&self.gateway, delay, limit) => drained,
            () = another_stop(&mut self.signals) => false,
        };
        self.gateway.fleet().stop();
        let ended = timeout(Duration::from_secs(1), all_ended(&self.gateway)).await.is_ok();
        drop(self.admin_stop.take());
        self.logs.finish(LOG_FINISH);
        drop(self.watchdog.take());
        log::info("stopped", &[("drained", &drained), ("workers_ended", &ended)]);
        log::flush(Duration::from_secs(1));
        ExitCode::SUCCESS
    }
}

async fn drain(gateway: &Gateway, delay: Duration, limit: Duration) -> bool {
    // Load balancers see /ready fail before connections are refused (F04).
    sleep(delay).await;
    gateway.fleet().drain();
    timeout(limit, all_ended(gateway)).await.is_ok()
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
