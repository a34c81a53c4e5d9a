//! `ringway run`: start everything or nothing, beside nobody or in another process's place.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::{fmt, io};

use super::activation::Inherited;
use super::discovery::{Discovery, Publisher};
use super::fleet::{Fleet, FleetSettings};
use super::gateway::{Belongings, Gateway, Parts, shares};
use super::notify::Notifier;
use super::orders::Orders;
use super::orders::handover::Handover;
use super::revivals::{self, Revivals};
use super::running::{Reload, Running};
use super::signals::Signals;
use super::source::{ConfigSource, Ready};
use super::upgrade::Predecessor;
use super::watch::FileWatch;
use super::watchdog::Watchdog;
use crate::config::model::{self, LogFormat, LogLevel, MemoryLimit, Workers};
use crate::limits::RING_ENTRIES;
use crate::policy::CompileEnv;
use crate::schema::Diagnostics;
use crate::sys::limit::{self, DescriptorShare};
use crate::sys::memory::Group;
use crate::sys::ring::Driver;
use crate::sys::thread as this_thread;
use crate::telemetry::log::{self, Level, Style};
use crate::worker::memory::Memory;
use crate::worker::pressure::Allowance;

/// What `ringway run` is told.
pub struct RunOptions {
    /// Where the configuration comes from.
    pub source: ConfigSource,
    /// The best driver to try.
    pub driver: Driver,
    /// Overrides `server.workers`.
    pub workers: Option<u32>,
    /// Where the process id is written to.
    pub pid_file: Option<PathBuf>,
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
    // All but the workers, which share their cores with it.
    this_thread::be_patient();
    revivals::log_panics();
    let parent = std::os::unix::process::parent_id();
    let inherited = Inherited::take(|name| std::env::var(name).ok(), std::process::id(), parent);
    // Boxed: the control thread's whole life is a future of several KiB.
    let code = match inherited {
        Ok(inherited) => runtime.block_on(Box::pin(live(options, inherited))),
        Err(unusable) => failed(&system(&unusable)),
    };
    // A name that is being resolved for a reload holds nobody up.
    runtime.shutdown_background();
    code
}

async fn live(options: RunOptions, mut inherited: Inherited) -> ExitCode {
    let started = Box::pin(start(options, &mut inherited)).await;
    let predecessor = inherited.link.take().map(Predecessor::over);
    match started {
        Ok(running) => {
            tell_ready(&running, predecessor).await;
            Box::pin(running.serve()).await
        }
        Err(error) => {
            if let Some(predecessor) = predecessor {
                predecessor.failed(&error.to_string());
            }
            failed(&error)
        }
    }
}

fn failed(error: &StartError) -> ExitCode {
    eprintln!("{error}");
    ExitCode::from(if matches!(error, StartError::Config(_)) { 2 } else { 1 })
}

async fn start(options: RunOptions, inherited: &mut Inherited) -> Result<Running, StartError> {
    let signals = Signals::new().map_err(|error| system(&error))?;
    let (ready, env) = read(&options).await?;
    let (server, workers) = (ready.loaded.config.server.clone(), env.workers);
    let allowance = allowance(&server, workers, ready.snapshot.listeners.len()).map_err(|what| system(&what))?;

    let replaces = inherited.link.is_some();
    let driver = match replaces && inherited.any_nonblocking() {
        // The flag is shared with the process that is replaced: a ring would take it away under its feet.
        true => Driver::Epoll,
        false => options.driver,
    };
    let mut belongings = Belongings::default();
    let door = belongings.door.prepare(&ready.loaded.config, inherited).map_err(|what| system(&what))?;
    let sockets = belongings.listening.open(&ready.snapshot.listeners, inherited, workers as usize);
    let sockets = sockets.map_err(|what| system(&what))?;
    let (log_change, access_logs) = belongings.logs.prepare(&ready, workers as usize).map_err(|what| system(&what))?;
    belongings.logs.change(log_change);
    for given in inherited.sockets.drain(..) {
        log::warn("a socket was handed over that nothing listens on", &[("address", &given.address)]);
    }

    let (discovery, orders) = find_endpoints(&ready, inherited.orders.take()).await;
    let settings = FleetSettings {
        workers,
        pin: server.pin_workers,
        driver,
        ring_entries: server.ring_entries.map_or(RING_ENTRIES, |entries| entries.get() as u32),
        seed: random_bits(),
        allowance: allowance.clone(),
    };
    let fleet = Fleet::start(settings, ready.snapshot.clone(), shares(sockets, access_logs)).await;
    let (fleet, started) = fleet.map_err(|error| system(&error))?;
    let drivers = started.iter().map(|worker| worker.driver.text().to_owned()).collect::<Vec<_>>();
    announce(&ready, &started, &belongings.listening.bound());

    let compat_names = ready.loaded.config.metrics.compat_names;
    let parts =
        Parts { fleet, drivers, memory: allowance.memory, discovery, orders, store: options.source.store().cloned() };
    let (gateway, wishes) = Gateway::new(parts, compat_names, inherited.upgrades);
    belongings.door.change(door, &gateway);
    let publisher = gateway.discovery().clone().publish(gateway.clone(), gateway.fleet().snapshot());
    gateway.begin_checks(random_bits());
    let notifier = Notifier::from_env(|name| std::env::var_os(name), std::process::id()).unwrap_or_default();
    let watchdog = Watchdog::start(gateway.fleet().board().clone());
    let watchdog = watchdog.inspect_err(|error| log::error("the workers are not watched", &[("error", error)])).ok();
    let watched = options.source.watched(&ready.loaded.config);
    let follower = options.source.store().map(|store| store.serve(&ready.loaded.source, random_bits()));
    Ok(Running {
        gateway,
        wishes,
        source: options.source,
        env,
        belongings,
        notifier,
        signals,
        server,
        watch: watched.map(FileWatch::new),
        follower,
        pid_file: options.pid_file,
        from_manager: inherited.from_manager,
        reload: Reload::default(),
        upgrade: None,
        watchdog,
        revivals: Revivals::default(),
        publisher: Publisher::start(publisher),
    })
}

/// Reads and compiles what is to be served, and begins to log as that says.
async fn read(options: &RunOptions) -> Result<(Ready, CompileEnv), StartError> {
    let store = options.source.store();
    if let Some(store) = store {
        Box::pin(store.begin()).await.map_err(|what| system(&what))?;
    }
    let wrong = |diagnostics: Box<Diagnostics>| StartError::Config(diagnostics.render());
    let loaded = options.source.load().map_err(wrong)?;
    let workers = options.workers.unwrap_or_else(|| worker_count(&loaded.config.server));
    let env = CompileEnv { workers, random: random_bits() };
    let ready = Ready::of(loaded, 1, env, None).map_err(wrong)?;
    init_log(&ready.loaded.config.logging);
    if let Some(store) = store {
        store.tell_start();
    }
    Ok((ready, env))
}

/// Looks endpoints up, and makes hold what operators want of them.
async fn find_endpoints(ready: &Ready, handed: Option<OwnedFd>) -> (Arc<Discovery>, Arc<Orders>) {
    let state_file = ready.loaded.config.admin.state_file.as_ref().map(PathBuf::from);
    let orders = Orders::load(state_file, handed.map(Handover::over));
    let discovery = Discovery::new(random_bits(), orders.clone());
    discovery.prepare(&ready.snapshot, None).await;
    orders.apply(&ready.snapshot);
    (discovery, orders)
}

fn system(error: &dyn fmt::Display) -> StartError {
    StartError::System(format!("error: {error}"))
}

/// Says to everybody who wants to know that the gateway serves.
async fn tell_ready(running: &Running, predecessor: Option<Predecessor>) {
    running.gateway.set_ready();
    let snapshot = running.gateway.fleet().snapshot();
    log::info(
        "ready",
        &[("routes", &snapshot.routes.len()), ("services", &snapshot.services.len()), ("generation", &1)],
    );
    // From here on this process is the only one that accepts.
    if let Some(mut predecessor) = predecessor {
        predecessor.ready();
        running.gateway.fleet().look();
        running.gateway.catch_up().await;
    }
    if let Some(path) = &running.pid_file
        && let Err(error) = write_pid_file(path)
    {
        log::error("the process id file cannot be written", &[("path", &path.display()), ("error", &error)]);
    }
    running.notifier.ready("serving");
}

/// Whoever reads the file finds a whole number in it at any time.
fn write_pid_file(path: &Path) -> io::Result<()> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    std::fs::write(&new, format!("{}\n", std::process::id()))?;
    std::fs::rename(&new, path)
}

/// Removes the process id file, if it still is this process's.
pub(super) fn remove_pid_file(path: &Path) {
    let is_ours = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string());
    if is_ours {
        // A file that stays behind does no harm: the next start replaces it.
        let _ = std::fs::remove_file(path);
    }
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

/// What each worker may use of descriptors, and all together of memory. A limit that is too low to serve anybody is a
/// reason not to start.
fn allowance(server: &model::Server, workers: u32, listeners: usize) -> Result<Allowance, String> {
    let limit = limit::raise_descriptors().map_err(|error| format!("cannot read the descriptor limit: {error}"))?;
    let descriptors = DescriptorShare::of(limit, workers, listeners).map_err(|needed| {
        format!(
            "the limit of open descriptors is {limit}, and {workers} workers with {listeners} listeners need {needed} \
             to serve anybody: raise it with `ulimit -n` or LimitNOFILE="
        )
    })?;
    let memory = memory(server, workers);
    log::info(
        "limits",
        &[
            ("descriptors", &limit),
            ("client_connections_per_worker", &descriptors.clients_max),
            ("connections_per_worker", &descriptors.streams_max),
            ("memory_limit_bytes", &memory.limit_bytes()),
        ],
    );
    Ok(Allowance { descriptors, memory: Arc::new(memory) })
}

/// The memory under the limit that is configured, or most of that of the control group, whichever is tighter.
fn memory(server: &model::Server, workers: u32) -> Memory {
    let group = Group::find();
    let of_group = group.as_ref().map_or(u64::MAX, Group::share_bytes);
    let limit = match server.memory_limit {
        MemoryLimit::Auto => of_group,
        MemoryLimit::None => return Memory::new(0, None, workers),
        MemoryLimit::Bytes(bytes) => bytes.min(of_group),
    };
    match limit {
        u64::MAX => Memory::new(0, None, workers),
        _ => Memory::new(limit, group, workers),
    }
}

fn announce(ready: &Ready, started: &[crate::worker::run::Started], listening: &[SocketAddr]) {
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
}
