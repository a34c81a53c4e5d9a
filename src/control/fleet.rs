//! The workers as the control thread sees them: started together, told together, started again when one dies.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot};

use crate::limits::{RESTART_BACK_OFF_MS, RESTART_BACK_OFF_MS_MAX, WORKER_STEADY_MS};
use crate::snapshot::Snapshot;
use crate::sys::ring::Driver;
use crate::sys::thread as this_thread;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::WorkerFate;
use crate::telemetry::metrics::snapshot::WorkerSnapshot;
use crate::worker::mailbox::{self, ChangedServices, Command, Drain, ListeningSocket, Postbox, Preparation, Report};
use crate::worker::placement::Board;
use crate::worker::pressure::Allowance;
use crate::worker::run::{self, End, Start, Started};

/// How long the control thread waits for every worker's answer before it gives a reload up, in milliseconds.
pub const PREPARE_TIMEOUT_MS: u64 = 10_000;
/// How long it waits for the workers to stop accepting, in milliseconds. Less than a successor waits for that.
pub const LET_GO_TIMEOUT_MS: u64 = 1_500;
/// How long it waits for a worker's counters, in milliseconds.
pub const REPORT_TIMEOUT_MS: u64 = 1_000;
/// Stack of a worker's thread, in bytes.
const WORKER_STACK_BYTES: usize = 2 * 1024 * 1024;

/// How workers are to be started.
#[derive(Clone, Debug)]
pub struct FleetSettings {
    /// How many.
    pub workers: u32,
    /// Whether each is pinned to a core.
    pub pin: bool,
    /// The best driver to try.
    pub driver: Driver,
    /// Entries of each ring.
    pub ring_entries: u32,
    /// Random bits.
    pub seed: u64,
    /// What each may use.
    pub allowance: Allowance,
}

/// One worker over all its lives.
struct Member {
    postbox: Postbox,
    thread: Option<JoinHandle<End>>,
    /// Copies of its listening sockets: while it is dead they stay open, so that nobody is refused (F05).
    sockets: Vec<ListeningSocket>,
    started: Instant,
    restarts: u64,
    /// Deaths soon after a start, one after another.
    falls: u32,
}

/// All workers.
pub struct Fleet {
    settings: FleetSettings,
    cores: Vec<core_affinity::CoreId>,
    members: Mutex<Vec<Member>>,
    published: Arc<ArcSwap<Snapshot>>,
    board: Arc<Board>,
    deaths: tokio::sync::Mutex<mpsc::Receiver<u32>>,
    tell_death: mpsc::Sender<u32>,
    /// What workers had counted when they died; taken with the next reports.
    counted: Mutex<Vec<WorkerSnapshot>>,
}

/// One worker's part of what the fleet is given.
pub struct Share {
    /// Its listening sockets.
    pub sockets: Vec<ListeningSocket>,
    /// Its access log.
    pub access_log: Option<AccessLog>,
}

/// What is to be done about a worker that died.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Death {
    /// Its number.
    pub worker: u32,
    /// When it is to be started again.
    pub after: Duration,
}

impl Fleet {
    /// Starts the workers; each has its share. Returns once all serve.
    ///
    /// # Errors
    /// What the first one that cannot serve says; the others are told to end.
    pub async fn start(
        settings: FleetSettings,
        snapshot: Arc<Snapshot>,
        shares: Vec<Share>,
    ) -> io::Result<(Self, Vec<Started>)> {
        let (tell_death, deaths) = mpsc::channel(shares.len().max(1));
        let cores = if settings.pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        let fleet = Self {
            settings,
            cores,
            members: Mutex::default(),
            published: Arc::new(ArcSwap::from(snapshot)),
            board: Board::new(shares.len()),
            deaths: tokio::sync::Mutex::new(deaths),
            tell_death,
            counted: Mutex::default(),
        };
        let mut answers = Vec::new();
        for (index, share) in shares.into_iter().enumerate() {
            let copies = copies(&share.sockets)?;
            let (postbox, thread, started) = fleet.launch(index as u32, 0, share)?;
            let (thread, sockets) = (Some(thread), copies);
            fleet.members().push(Member { postbox, thread, sockets, started: now(), restarts: 0, falls: 0 });
            answers.push(started);
        }
        let mut all = Vec::new();
        for answer in answers {
            all.push(answer.await.unwrap_or_else(|_| Err(io::Error::other("a worker ended while it started")))?);
        }
        Ok((fleet, all))
    }

    /// Starts a worker's thread.
    #[allow(clippy::type_complexity, reason = "two callers, which take the tuple apart at once")]
    fn launch(
        &self,
        index: u32,
        life: u64,
        share: Share,
    ) -> io::Result<(Postbox, JoinHandle<End>, oneshot::Receiver<io::Result<Started>>)> {
        let (postbox, mailbox) = mailbox::pair()?;
        let (answer, started) = oneshot::channel();
        let seed = self.settings.seed.wrapping_add(life << 32).wrapping_add(u64::from(index));
        let start = Start {
            index,
            count: self.settings.workers,
            // More workers than cores would only disturb each other on one.
            core: self
                .cores
                .get(index as usize)
                .copied()
                .filter(|_| self.settings.workers as usize <= self.cores.len()),
            driver: self.settings.driver,
            ring_entries: self.settings.ring_entries,
            sockets: share.sockets,
            published: self.published.clone(),
            access_log: share.access_log.unwrap_or_else(AccessLog::off),
            mailbox,
            member: self.board.join(index as usize, postbox.bell()?),
            allowance: self.settings.allowance.clone(),
            seed: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        let tell_death = self.tell_death.clone();
        let live = move || {
            this_thread::be_prompt();
            let end = run::run(start, answer);
            if matches!(end, End::Died { .. }) {
                // There is room for one death of each worker.
                let _ = tell_death.try_send(index);
            }
            end
        };
        let builder = thread::Builder::new().name(format!("worker-{index}")).stack_size(WORKER_STACK_BYTES);
        Ok((postbox, builder.spawn(live)?, started))
    }

    /// The next worker that died: logged and counted, and still to be started again.
    pub async fn next_death(&self) -> Death {
        let Some(worker) = self.deaths.lock().await.recv().await else { std::future::pending().await };
        let mut members = self.members();
        let Some(member) = members.get_mut(worker as usize) else { return Death { worker, after: Duration::ZERO } };
        let is_steady = member.started.elapsed() >= Duration::from_millis(WORKER_STEADY_MS);
        member.falls = if is_steady { 0 } else { member.falls.saturating_add(1) };
        let after = back_off(member.falls);
        // The thread said so in its last statement.
        let end = member.thread.take().map(JoinHandle::join);
        if let Some(Ok(End::Died { panic, counted, left_behind })) = end {
            let delay = after.as_millis();
            log::error(
                "worker died",
                &[("worker", &worker), ("panic", &panic), ("left_behind", &left_behind), ("restart_ms", &delay)],
            );
            self.counted.lock().unwrap_or_else(PoisonError::into_inner).extend(counted.map(|counted| *counted));
        }
        Death { worker, after }
    }

    /// Starts a worker again with its listening sockets and what serves now. One that cannot be started is reported as
    /// another death, so that it is tried again.
    ///
    /// # Errors
    /// What the system refused.
    pub async fn revive(&self, worker: u32, access_log: Option<AccessLog>) -> io::Result<()> {
        let outcome = self.relaunch(worker, access_log).await;
        if outcome.is_err() {
            let _ = self.tell_death.try_send(worker);
        }
        outcome
    }

    async fn relaunch(&self, worker: u32, access_log: Option<AccessLog>) -> io::Result<()> {
        let (sockets, life) = match self.members().get(worker as usize) {
            Some(member) => (copies(&member.sockets)?, member.restarts + 1),
            None => return Ok(()),
        };
        let (postbox, thread, started) = self.launch(worker, life, Share { sockets, access_log })?;
        if let Some(member) = self.members().get_mut(worker as usize) {
            (member.postbox, member.thread) = (postbox, Some(thread));
            (member.started, member.restarts) = (now(), life);
        }
        let died = || Err(io::Error::other("the worker ended while it started"));
        let started = started.await.unwrap_or_else(|_| died())?;
        if let Some(member) = self.members().get(worker as usize) {
            // What changed while it started was told to nobody.
            let (done, _) = oneshot::channel();
            member.postbox.send(Command::Endpoints { changed: ChangedServices::All, done });
        }
        log::warn("worker started again", &[("worker", &worker), ("driver", &started.driver.text()), ("life", &life)]);
        Ok(())
    }

    /// The configuration that serves.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// What the workers know of each other.
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// What became of each worker.
    pub fn fates(&self) -> Vec<WorkerFate> {
        use std::sync::atomic::Ordering;
        let stalls = self.board.berths().iter().map(|berth| berth.pulse.stalls.load(Ordering::Relaxed));
        let fate = |(member, stalls): (&Member, u64)| WorkerFate { restarts: member.restarts, stalls };
        self.members().iter().zip(stalls).map(fate).collect()
    }

    /// What workers had counted when they died, since the last call.
    pub fn take_counted(&self) -> Vec<WorkerSnapshot> {
        std::mem::take(&mut self.counted.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.members().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Workers whose thread has ended.
    pub fn ended(&self) -> usize {
        self.members().iter().filter(|m| m.thread.as_ref().is_none_or(JoinHandle::is_finished)).count()
    }

    /// Makes a configuration ready on all workers and then publishes it to all with one store (R307). When one worker
    /// does not get ready, none changes. A worker that is dead is passed over: it will start with what is published
    /// then, and with its listening sockets; so will one that dies between the two steps.
    ///
    /// # Errors
    /// What went wrong; the old configuration serves on.
    pub async fn replace(&self, snapshot: Arc<Snapshot>, shares: Vec<Share>) -> Result<(), &'static str> {
        // Before any worker is told: none of them is to be left prepared for what does not come.
        let fresh: io::Result<Vec<_>> = shares.iter().map(|share| copies(&share.sockets)).collect();
        let fresh = fresh.map_err(|_| "no descriptors are left")?;
        let mut answers = Vec::new();
        for (member, share) in self.members().iter().zip(shares) {
            let (ready, answer) = oneshot::channel();
            let Share { sockets, access_log } = share;
            let work = Box::new(Preparation { snapshot: snapshot.clone(), sockets, access_log });
            if member.postbox.send(Command::Prepare { work, ready }) {
                answers.push(answer);
            }
        }
        if !all_answer(answers).await {
            self.tell_all(|| Command::Abort);
            return Err("a worker did not get ready");
        }
        self.published.store(snapshot.clone());
        for (member, fresh) in self.members().iter_mut().zip(fresh) {
            member.sockets.extend(fresh);
            member.sockets.retain(|(address, _)| snapshot.listeners.iter().any(|l| l.address == *address));
        }
        // From here on every request runs on the new one. Workers without traffic are woken to let go of the old one.
        let mut answers = Vec::new();
        for member in self.members().iter() {
            let (done, answer) = oneshot::channel();
            member.postbox.send(Command::Commit(done));
            answers.push(answer);
        }
        all_answer(answers).await;
        Ok(())
    }

    /// Has all workers take up the endpoints that services have now. Returns when they have, so that a busy worker is
    /// not told more than once meanwhile, or after [`REPORT_TIMEOUT_MS`].
    pub async fn endpoints_changed(&self, changed: ChangedServices) {
        let tell = |member: &Member| {
            let (done, answer) = oneshot::channel();
            member.postbox.send(Command::Endpoints { changed: changed.clone(), done });
            answer
        };
        let answers: Vec<_> = self.members().iter().map(tell).collect();
        let all = async {
            for answer in answers {
                // One that died will start with what is there then.
                let _ = answer.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(REPORT_TIMEOUT_MS), all).await;
    }

    /// Asks every worker for its counters, and what its endpoints do if that is wanted; None for one that stays silent.
    pub async fn report(&self, endpoints: bool) -> Vec<Option<Report>> {
        let ask = |member: &Member| {
            let (answer, report) = oneshot::channel();
            member.postbox.send(Command::Report { endpoints, answer });
            report
        };
        let asked: Vec<_> = self.members().iter().map(ask).collect();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(REPORT_TIMEOUT_MS);
        let mut reports = Vec::new();
        for report in asked {
            reports.push(tokio::time::timeout_at(deadline, report).await.ok().and_then(Result::ok));
        }
        reports
    }

    /// Has all workers stop accepting and leave the queues to another process. Returns when they have, or after
    /// [`LET_GO_TIMEOUT_MS`]: the other process is then to [look](Self::look).
    pub async fn let_go(&self) {
        let mut answers = Vec::new();
        for member in self.members().iter_mut() {
            member.sockets.clear();
            let (done, answer) = oneshot::channel();
            member.postbox.send(Command::LetGo(done));
            answers.push(answer);
        }
        let all = async {
            for answer in answers {
                // A worker that has ended has let go.
                let _ = answer.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_millis(LET_GO_TIMEOUT_MS), all).await;
    }

    /// Has all workers look at their listening sockets anew.
    pub fn look(&self) {
        self.tell_all(|| Command::Look);
    }

    /// One more step towards the end.
    pub fn drain(&self, step: Drain) {
        if step != Drain::Announce {
            self.members().iter_mut().for_each(|member| member.sockets.clear());
        }
        self.tell_all(|| Command::Drain(step));
    }

    /// End now.
    pub fn stop(&self) {
        self.tell_all(|| Command::Stop);
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for member in self.members().iter() {
            member.postbox.send(command());
        }
    }

    fn members(&self) -> MutexGuard<'_, Vec<Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(clippy::disallowed_methods, reason = "the control thread's own clock; no request sees it")]
fn now() -> Instant {
    Instant::now()
}

/// Other descriptors of the same sockets.
fn copies(sockets: &[ListeningSocket]) -> io::Result<Vec<ListeningSocket>> {
    sockets.iter().map(|(address, socket)| Ok((*address, socket.try_clone()?))).collect()
}

/// The pause before a worker that died `falls` times soon after its start is started again.
fn back_off(falls: u32) -> Duration {
    match falls {
        0 | 1 => Duration::ZERO,
        falls => {
            let ms = RESTART_BACK_OFF_MS.saturating_mul(1 << (falls - 2).min(16));
            Duration::from_millis(ms.min(RESTART_BACK_OFF_MS_MAX))
        }
    }
}

async fn all_answer(answers: Vec<oneshot::Receiver<()>>) -> bool {
    let deadline = tokio::time::Instant::now() + Duration::from_millis(PREPARE_TIMEOUT_MS);
    let mut all = true;
    for answer in answers {
        all &= matches!(tokio::time::timeout_at(deadline, answer).await, Ok(Ok(())));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restart_is_at_once_and_the_pauses_grow_to_a_bound() {
        let ms: Vec<_> = (0..10).map(|falls| back_off(falls).as_millis()).collect();
        assert_eq!(ms, [0, 0, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(back_off(u32::MAX).as_millis(), 5_000);
    }
}
