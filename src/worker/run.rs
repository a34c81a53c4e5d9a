//! A worker's thread: builds its runtime, takes commands, ticks, and ends when it is told to, or by a panic.
//!
//! A panic in a connection's task costs that connection. Any other ends the worker (F05): it closes its connections,
//! leaves its listening sockets open, says what it had counted, and the control thread starts another in its place.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use monoio::io::AsyncReadRent;
use tokio::sync::oneshot;

use super::accept::{self, Closing, Socket};
use super::mailbox::{ChangedServices, Command, Drain, ListeningSocket, Mailbox, Preparation, Report};
use super::placement::{Handed, Member, Seat};
use super::pressure::{Allowance, Pressure, upstream_room};
use crate::concurrency::bell;
use crate::limits::{BUF_SPARE, LAST_WORDS_MS, STOOD_STILL_MS, TICK_MS, TUNNEL_STOP_MS, UNSENT_BYTES_MAX};
use crate::net::tcp::TcpConnect;
use crate::net::timer::{Timers, Untold};
use crate::pipeline::env::Env;
use crate::pipeline::plan::{Plan, Preparing};
use crate::policy::slots::Slots;
use crate::policy::{Tick, WorkerSeed};
use crate::snapshot::Snapshot;
use crate::sys::ring::{self, Driver, WorkerRuntime};
use crate::sys::{buf, memory, pipe, room, stream, thread};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::WorkerMetrics;
use crate::telemetry::metrics::instruments::Refusal;
use crate::telemetry::metrics::snapshot::WorkerSnapshot;
use crate::time::{self, Clock, Now};
use crate::upstream::endpoint::Connections;

/// What a worker is started with.
pub struct Start {
    /// Number of the worker, from 0.
    pub index: u32,
    /// How many there are.
    pub count: u32,
    /// The core that it is pinned to.
    pub core: Option<core_affinity::CoreId>,
    /// The best driver to try.
    pub driver: Driver,
    /// Entries of its ring.
    pub ring_entries: u32,
    /// Its listening sockets.
    pub sockets: Vec<ListeningSocket>,
    /// What it serves, and will serve: the control thread's one store swaps it for all workers (R307).
    pub published: Arc<ArcSwap<Snapshot>>,
    /// Its access log.
    pub access_log: AccessLog,
    /// Its commands.
    pub mailbox: Mailbox,
    /// Its place among the workers.
    pub member: Member,
    /// Random bits.
    pub seed: u64,
    /// What it may use of the process's descriptors and memory.
    pub allowance: Allowance,
}

/// How a worker's thread ended.
#[derive(Debug)]
pub enum End {
    /// As it was told to, or it never served.
    Told,
    /// By a panic.
    Died {
        /// What the panic said.
        panic: String,
        /// What the worker had counted.
        counted: Option<Box<WorkerSnapshot>>,
        /// Connections that did not end in time.
        left_behind: usize,
    },
}

/// What a worker says once it serves.
#[derive(Debug)]
pub struct Started {
    /// The driver that it got.
    pub driver: Driver,
    /// What better drivers answered.
    pub refused: Vec<(Driver, io::Error)>,
    /// Whether it could be pinned.
    pub pinned: bool,
}

/// What the tasks of a worker share.
pub struct Shared {
    /// For requests.
    pub env: Env<TcpConnect>,
    /// Open downstream connections.
    pub connections: Cell<usize>,
    /// TLS handshakes under way.
    pub handshakes: Cell<usize>,
    /// What is done when descriptors or memory run short.
    pub pressure: Pressure,
    sockets: RefCell<Vec<Rc<Socket>>>,
    prepared: RefCell<Option<Preparation>>,
    member: Member,
    index: u32,
    seed: u64,
    on_ring: bool,
    /// Ends the reading of commands.
    bell: RefCell<Option<UnixStream>>,
    /// Tasks that accept.
    pub(super) accepting: Cell<usize>,
    /// Clients that are being told that there is no memory for them.
    pub(super) turned_away: Rc<Cell<u32>>,
    /// Whether the end has begun.
    ending: Cell<bool>,
    closes_idle: Cell<bool>,
    /// Connections that were taken up until the last second.
    taken_up: Cell<u64>,
    /// Processor time of the thread at the last second.
    cpu_ns: Cell<(Now, u64)>,
    /// So many times more memory is given back to the kernel.
    freed: Cell<u8>,
    /// There is a new configuration, and what was freed for it has not been given back.
    renewed: Cell<bool>,
    /// The worker died: it ticks no more.
    died: Cell<bool>,
}

/// How often memory is given back after buffers were freed: connections let go of theirs one after another.
const FREED_TIMES: u8 = 3;

/// Runs a worker until it is told to end, or dies. `started` is answered once it serves, or with why it cannot.
pub fn run(start: Start, started: oneshot::Sender<io::Result<Started>>) -> End {
    let pinned = start.core.is_some_and(core_affinity::set_for_current);
    let (mut runtime, driver, refused) = match WorkerRuntime::build(start.driver, start.ring_entries) {
        Ok(built) => built,
        Err(error) => {
            drop(started.send(Err(error)));
            return End::Told;
        }
    };
    let started_as = Started { driver, refused, pinned };
    let place = RefCell::default();
    let serving = AssertUnwindSafe(|| runtime.block_on(serve(start, started_as, started, &place)));
    let outcome = catch_unwind(serving);
    let shared: Option<Rc<Shared>> = place.take();
    // Tasks that still wait keep what they share alive: the place among the workers is given up by hand.
    shared.iter().for_each(|shared| shared.member.leave());
    let end = match outcome {
        Ok(()) => End::Told,
        Err(panic) => last_words(&mut runtime, &*panic, shared),
    };
    // A panic in what is dropped here changes nothing any more.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(runtime)));
    end
}

/// Ends the connections of a worker that died. The runtime is whole: the panic took one task out of it. Those that do
/// not end in time are left behind with their descriptors; the kernel ends their operations with the thread.
fn last_words(runtime: &mut WorkerRuntime, panic: &(dyn Any + Send), shared: Option<Rc<Shared>>) -> End {
    let panic = match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
        (Some(text), _) => (*text).to_owned(),
        (_, Some(text)) => text.clone(),
        _ => "a panic without a text".to_owned(),
    };
    let Some(shared) = shared else { return End::Died { panic, counted: None, left_behind: 0 } };
    let ending = async move {
        shared.end_all().await;
        let (counted, left_behind) = (Box::new(shared.report(false).metrics), shared.connections.get());
        drop(shared);
        // What was dropped is closed by the ring, once more has been submitted.
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
        (counted, left_behind)
    };
    // A second panic changes nothing: what is left is left behind.
    match catch_unwind(AssertUnwindSafe(|| runtime.block_on(ending))) {
        Ok((counted, left_behind)) => End::Died { panic, counted: Some(counted), left_behind },
        Err(_) => End::Died { panic, counted: None, left_behind: 0 },
    }
}

async fn serve(
    start: Start,
    as_what: Started,
    started: oneshot::Sender<io::Result<Started>>,
    place: &RefCell<Option<Rc<Shared>>>,
) {
    let on_ring = as_what.driver != Driver::Epoll;
    let Start { index, count, sockets, published, access_log, mailbox, member, seed, allowance, .. } = start;
    member.pulse().thread.store(thread::id(), Ordering::Relaxed);
    let snapshot = published.load_full();
    let timers = Timers::new(Clock::System);
    let mut metrics = WorkerMetrics::new(index, timers.now());
    let mut slots = Slots::new(WorkerSeed { index, count, random: seed, tick: tick(&timers) });
    let plan = Plan::prepare(snapshot.clone(), None, &mut slots, &mut metrics, tick(&timers), seed);
    metrics.own.generation.set(snapshot.generation as i64);
    let room = upstream_room(allowance.descriptors, timers.clone());
    let connect = TcpConnect::within(room, allowance.memory.is_limited().then_some(UNSENT_BYTES_MAX));
    let env = Env::new(connect, timers, metrics, access_log, slots, plan, published, seed);
    env.set_wall_clock(time::unix_ms());
    let shared = Rc::new(Shared {
        env,
        connections: Cell::new(0),
        handshakes: Cell::new(0),
        pressure: Pressure::new(allowance, index, count),
        sockets: RefCell::default(),
        prepared: RefCell::default(),
        member,
        index,
        seed,
        on_ring,
        bell: RefCell::default(),
        accepting: Cell::new(0),
        turned_away: Rc::default(),
        ending: Cell::new(false),
        closes_idle: Cell::new(false),
        taken_up: Cell::new(0),
        cpu_ns: Cell::default(),
        freed: Cell::new(0),
        renewed: Cell::new(false),
        died: Cell::new(false),
    });
    place.replace(Some(shared.clone()));
    if let Err(error) = shared.open_sockets(&snapshot, sockets) {
        drop(started.send(Err(error)));
        return;
    }
    // The next configuration is to find nobody who still has the first.
    drop(snapshot);
    // The starter waits for this answer; if it is gone, so is the process.
    let _ = started.send(Ok(as_what));
    shared.beat(shared.env.timers.now());
    monoio::spawn(tick_all(Rc::downgrade(&shared)));
    monoio::spawn(super::bell::listen(shared.clone(), index, on_ring));
    obey(&shared, mailbox).await;
    shared.env.access_log.borrow_mut().flush();
}

/// Takes commands until one says to end.
async fn obey(shared: &Rc<Shared>, mailbox: Mailbox) {
    let Mailbox { queue, bell } = mailbox;
    let ready = bell.set_nonblocking(!shared.on_ring);
    let opened = ready.and_then(|()| {
        shared.bell.replace(Some(bell.try_clone()?));
        monoio::net::UnixStream::from_std(bell)
    });
    let Ok(mut bell) = opened else { return };
    let mut bytes = vec![0; 64];
    loop {
        let (count, back) = bell.read(bytes).await;
        bytes = back;
        for command in queue.try_iter() {
            match command {
                Command::Drain(step) => shared.drain(step),
                Command::Stop => return end_tunnels(shared).await,
                Command::Prepare { work, ready } => {
                    Box::pin(shared.prepare(*work)).await;
                    let _ = ready.send(());
                }
                other => shared.obey(other),
            }
        }
        shared.take_handed();
        // The drain has ended; or the control thread is gone, and so is the process, or it is about to be.
        if !matches!(count, Ok(count) if count > 0) {
            return;
        }
    }
}

/// Closes tunnels, which get a moment to write their log lines.
async fn end_tunnels(shared: &Rc<Shared>) {
    let end = shared.env.timers.now().plus_ms(TUNNEL_STOP_MS);
    while shared.env.metrics.borrow().own.tunnels_open.get() > 0 && shared.env.timers.known_now() < end {
        shared.env.timers.close_tunnels();
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
    }
}

/// Tells connections that they are to end, some at each tick.
fn tell_all(mut untold: Untold) {
    if untold.tell_some() {
        monoio::spawn(async move {
            loop {
                monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
                if !untold.tell_some() {
                    return;
                }
            }
        });
    }
}

/// Answers when accepting has ended.
async fn tell_let_go(shared: Rc<Shared>, done: oneshot::Sender<()>) {
    while shared.accepting.get() > 0 {
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
    // Who asked may have waited for long enough.
    let _ = done.send(());
}

/// Waits until no connection is left and then ends the thread. The control thread ends the process when that takes too
/// long.
async fn end_when_idle(shared: Rc<Shared>) {
    // Whoever was accepted before the sockets were closed is served first.
    monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
    // A connection on its way from another worker has its seat here already.
    while shared.accepting.get() > 0 || shared.connections.get() > 0 || shared.member.connections() > 0 {
        shared.take_handed();
        if shared.closes_idle.get() {
            shared.env.timers.close_idle();
        }
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
    }
    if let Some(bell) = shared.bell.take() {
        // The reading of commands ends, and with it the thread.
        let _ = bell.shutdown(std::net::Shutdown::Both);
    }
}

/// How often policies' slots are tended, and the access log's lines passed on.
const SLOTS: Duration = Duration::from_millis(100);
const SECOND: Duration = Duration::from_secs(1);

/// The worker's heartbeat: deadlines at each tick, the rest less often. Ticks come seldom once a whole one has passed
/// without a request; limits count by the clock that they read.
///
/// After a pause of the whole process (SIGSTOP, a suspended machine) what arrived meanwhile is read before deadlines
/// are judged: an answer that is there is not a late one (F18).
///
/// Between two ticks it holds nothing: a worker that dies may be gone before the next, and what a task still holds
/// then stays for ever, descriptors too.
async fn tick_all(shared: Weak<Shared>) {
    let (mut pause, mut due) = (Duration::from_millis(TICK_MS), Now::read());
    let (mut since_slots, mut since_second) = (Duration::ZERO, Duration::ZERO);
    loop {
        due = due.plus_ns(pause.as_nanos() as u64);
        monoio::time::sleep(pause).await;
        let Some(shared) = shared.upgrade().filter(|shared| !shared.died.get()) else { return };
        let now = shared.env.timers.now();
        shared.beat(now);
        if now.since_ns(due) < STOOD_STILL_MS * 1_000_000 {
            shared.env.timers.advance(now);
        }
        shared.env.set_wall_clock(time::unix_ms());
        shared.env.waiting.tick(now);
        shared.pressure.on_tick(&shared);
        since_slots += pause;
        since_second += pause;
        if since_slots >= SLOTS {
            since_slots = Duration::ZERO;
            shared.env.slots.borrow_mut().on_tick(tick(&shared.env.timers));
            if shared.pressure.is_felt() {
                shared.trim();
            }
            shared.env.access_log.borrow_mut().flush();
        }
        if since_second >= SECOND {
            since_second = Duration::ZERO;
            shared.once_a_second(now);
        }
        shared.env.metrics.borrow().own.lag(now.since_ns(due));
        let is_quiet = !shared.env.stirred.replace(false) && shared.env.active.get() == 0;
        pause = if is_quiet { ring::until_wheel_turns() } else { Duration::from_millis(TICK_MS) };
        due = due.max(shared.env.timers.known_now());
    }
}

fn tick(timers: &Timers) -> Tick {
    Tick { now: timers.now(), unix_ms: time::unix_ms() }
}

impl Shared {
    fn beat(&self, now: Now) {
        self.member.pulse().beat_ns.store(now.0, Ordering::Relaxed);
    }

    /// Decides which worker serves a connection accepted here: returns it with its seat, or hands it over.
    pub fn seat(
        &self,
        socket: &Socket,
        connection: monoio::net::TcpStream,
        peer: SocketAddr,
    ) -> Option<(monoio::net::TcpStream, Seat)> {
        let seat = self.member.seat();
        if self.member.is_own(&seat) {
            return Some((connection, seat));
        }
        let (stream, from_ring) = (stream::into_std(connection), self.on_ring);
        match self.member.hand(Handed { stream, peer, listener: socket.address, from_ring, seat }) {
            Ok(()) => {
                self.env.metrics.borrow().own.handed_over.inc();
                None
            }
            Err(back) => {
                let seat = self.member.own_seat();
                Some((monoio::net::TcpStream::from_std(back.stream).ok()?, seat))
            }
        }
    }

    /// Serves the connections that other workers handed over. One whose listener is gone is closed.
    fn take_handed(self: &Rc<Self>) {
        while let Some(Handed { stream, peer, listener, from_ring, seat }) = self.member.take() {
            let socket = self.sockets.borrow().iter().find(|socket| socket.address == listener).cloned();
            let Some(socket) = socket else { continue };
            let fits = from_ring == self.on_ring || stream.set_nonblocking(!self.on_ring).is_ok();
            match monoio::net::TcpStream::from_std(stream) {
                Ok(stream) if fits => {
                    self.env.metrics.borrow().own.taken_over.inc();
                    accept::admit_soon(self, &socket, stream, peer, seat);
                }
                _ => self.refused(Refusal::Descriptors),
            }
        }
    }

    /// Ends all connections at once, up and down, and waits for it, but not for long.
    async fn end_all(&self) {
        self.died.set(true);
        self.env.draining.set(true);
        self.sockets.borrow().iter().for_each(|socket| socket.close(Closing::LeaveQueue));
        // A read that nobody ends would keep the ring alive.
        bell::take_down(self.index);
        for _ in 0..LAST_WORDS_MS / TICK_MS {
            self.env.timers.end_all();
            monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
            if self.connections.get() == 0 {
                break;
            }
        }
        self.sockets.borrow_mut().clear();
        self.env.pin().close_idle(self.env.timers.known_now(), 0);
        self.env.access_log.borrow_mut().flush();
    }

    /// Counts a connection as open.
    pub fn opened(&self) {
        self.connections.set(self.connections.get() + 1);
        let metrics = self.env.metrics.borrow();
        metrics.own.active_connections.inc();
        metrics.own.accepted.inc();
    }

    /// Counts a connection as closed.
    pub fn closed(&self) {
        self.connections.set(self.connections.get().saturating_sub(1));
        self.env.metrics.borrow().own.active_connections.dec();
    }

    /// Whether the worker runs on a ring.
    pub fn on_ring(&self) -> bool {
        self.on_ring
    }

    /// Counts a connection that was not served.
    pub fn refused(&self, why: Refusal) {
        self.env.metrics.borrow().own.refused(why);
    }

    fn open_sockets(self: &Rc<Self>, snapshot: &Snapshot, sockets: Vec<ListeningSocket>) -> io::Result<()> {
        for (address, socket) in sockets {
            let Some(listener) = snapshot.listeners.iter().find(|l| l.address == address) else { continue };
            let opened = Socket::open(self, listener, socket, self.on_ring)?;
            self.sockets.borrow_mut().push(opened);
        }
        Ok(())
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Commit(done) => {
                self.commit();
                let _ = done.send(());
            }
            Command::Abort => {
                self.env.abandon();
                drop(self.prepared.take());
            }
            Command::Endpoints { changed, done } => {
                match &changed {
                    ChangedServices::All => self.env.follow(0, None),
                    ChangedServices::Some(generation, ids) => self.env.follow(*generation, Some(ids)),
                }
                let _ = done.send(());
            }
            Command::Report { endpoints, answer } => drop(answer.send(self.report(endpoints))),
            Command::Drain(step) => self.drain(step),
            Command::LetGo(done) => {
                self.drain(Drain::LetGo);
                monoio::spawn(tell_let_go(self.clone(), done));
            }
            Command::Look => self.sockets.borrow().iter().for_each(|socket| socket.look()),
            // They are waited for, where commands are taken.
            Command::Prepare { .. } | Command::Stop => {}
        }
    }

    fn drain(self: &Rc<Self>, step: Drain) {
        if !self.env.draining.replace(true) {
            tell_all(self.env.timers.end_soon());
        }
        let (closing, idle) = match step {
            Drain::Announce => return,
            Drain::Close => (Closing::TakeQueue, true),
            Drain::LetGo => (Closing::LeaveQueue, false),
            Drain::LetGoAndClose => (Closing::LeaveQueue, true),
        };
        self.closes_idle.set(self.closes_idle.get() || idle);
        self.sockets.borrow().iter().for_each(|socket| socket.close(closing));
        self.member.close();
        if !self.ending.replace(true) {
            monoio::spawn(end_when_idle(self.clone()));
        }
    }

    /// Makes a configuration ready, with requests served in between.
    async fn prepare(&self, work: Preparation) {
        let previous = self.env.pin();
        let mut preparing = Preparing::new(work.snapshot.clone(), Some(&previous));
        while self.env.prepare_some(&mut preparing, tick(&self.env.timers), self.seed) {
            monoio::time::sleep(Duration::from_millis(1)).await;
        }
        self.env.prepared(preparing);
        self.prepared.replace(Some(work));
    }

    fn commit(self: &Rc<Self>) {
        let Some(work) = self.prepared.take() else { return };
        drop(self.env.pin());
        self.renewed.set(true);
        self.env.metrics.borrow().own.generation.set(work.snapshot.generation as i64);
        if let Some(log) = work.access_log {
            let old = self.env.access_log.replace(log);
            self.env.access_log.borrow_mut().succeed(old);
        }
        let mut is_dropped = false;
        self.sockets.borrow_mut().retain(|socket| {
            let listener = work.snapshot.listeners.iter().find(|l| l.address == socket.address);
            match listener {
                Some(listener) => socket.update(listener),
                None => {
                    socket.end();
                    is_dropped = true;
                }
            }
            listener.is_some()
        });
        if is_dropped {
            tell_all(self.env.timers.untold());
        }
        // What cannot be opened was opened by the control thread; handing it over fails only without descriptors.
        if self.open_sockets(&work.snapshot, work.sockets).is_err() {
            self.refused(Refusal::Descriptors);
        }
    }

    fn report(&self, endpoints: bool) -> Report {
        let plan = self.env.pin();
        let metrics = self.env.metrics.borrow();
        metrics.own.active_requests.set(self.env.active.get() as i64);
        let told = plan.services.iter().filter(|_| endpoints);
        let services = told.map(|service| (service.name().to_owned(), service.report())).collect();
        let sum = plan.services.iter().fold(Connections::default(), |sum, service| sum + service.connections());
        metrics.own.upstream_idle.set(sum.idle as i64);
        metrics.own.upstream_open.set((sum.idle + sum.active) as i64);
        metrics.own.upstream_opened.set(sum.opened as i64);
        metrics.own.upstream_reused.set(sum.reused as i64);
        metrics.own.log_dropped.set(self.env.access_log.borrow().dropped() as i64);
        let (small, large) = buf::pool_free();
        metrics.own.buffers_free.set((small + large) as i64);
        metrics.own.buffers_used.set(buf::pool_taken() as i64);
        let busy = self.env.active.get() + metrics.own.tunnels_open.get() as u64;
        let idle = (self.connections.get() as u64).saturating_sub(busy);
        metrics.own.idle_connections.set(idle as i64);
        Report {
            metrics: metrics.snapshot(),
            services,
            active_requests: self.env.active.get(),
            connections: self.connections.get() as u64,
            generation: plan.snapshot.generation,
        }
    }

    fn once_a_second(&self, now: Now) {
        let (since, used) = self.cpu_ns.replace((now, thread::cpu_ns()));
        let busy = (self.cpu_ns.get().1 - used).saturating_mul(1_000_000_000) / now.since_ns(since).max(1);
        self.env.metrics.borrow().own.busy.set(busy as i64);
        let taken_up = self.env.metrics.borrow().own.accepted.get() as u64;
        self.member.took_up(taken_up - self.taken_up.replace(taken_up));
        self.env.pin().expire(now);
        pipe::trim();
        self.trim();
    }

    /// Gives back what a load that is over has left. To be called once a second, or more often where memory is dear.
    fn trim(&self) {
        room::trim();
        // After a new configuration only once nothing is under way: a load of requests is not held up for it.
        let is_renewed = self.renewed.get() && self.env.active.get() == 0;
        if is_renewed {
            self.renewed.set(false);
        }
        if buf::pool_trim(BUF_SPARE) >= BUF_SPARE || is_renewed {
            self.freed.set(FREED_TIMES);
        }
        if self.freed.get() > 0 {
            self.freed.set(self.freed.get() - 1);
            memory::give_back();
        }
    }
}
