//! The workers as the control thread sees them: started together, told together.

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::oneshot;

use crate::snapshot::Snapshot;
use crate::sys::ring::Driver;
use crate::telemetry::access_log::AccessLog;
use crate::worker::mailbox::{self, Command, Drain, ListeningSocket, Postbox, Preparation, Report};
use crate::worker::run::{self, Start, Started};

/// How long the control thread waits for every worker's answer before it gives a reload up, in milliseconds.
pub const PREPARE_TIMEOUT_MS: u64 = 10_000;
/// How long it waits for a worker's counters, in milliseconds.
pub const REPORT_TIMEOUT_MS: u64 = 1_000;
/// Stack of a worker's thread, in bytes.
const WORKER_STACK_BYTES: usize = 2 * 1024 * 1024;

/// How workers are to be started.
#[derive(Clone, Copy, Debug)]
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
}

struct Member {
    postbox: Postbox,
    thread: Option<JoinHandle<()>>,
}

/// All workers.
pub struct Fleet {
    members: Vec<Member>,
    published: Arc<ArcSwap<Snapshot>>,
}

/// One worker's part of what the fleet is given.
pub struct Share {
    /// Its listening sockets.
    pub sockets: Vec<ListeningSocket>,
    /// Its access log.
    pub access_log: Option<AccessLog>,
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
        let published = Arc::new(ArcSwap::from(snapshot));
        let cores = if settings.pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        let (mut members, mut answers) = (Vec::new(), Vec::new());
        for (index, share) in shares.into_iter().enumerate() {
            let (postbox, mailbox) = mailbox::pair()?;
            let (answer, started) = oneshot::channel();
            let start = Start {
                index: index as u32,
                count: settings.workers,
                // More workers than cores would only disturb each other on one.
                core: cores.get(index).copied().filter(|_| settings.workers as usize <= cores.len()),
                driver: settings.driver,
                ring_entries: settings.ring_entries,
                sockets: share.sockets,
                published: published.clone(),
                access_log: share.access_log.unwrap_or_else(AccessLog::off),
                mailbox,
                seed: settings.seed.wrapping_add((index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            };
            let builder = thread::Builder::new().name(format!("worker-{index}")).stack_size(WORKER_STACK_BYTES);
            let thread = builder.spawn(move || run::run(start, answer))?;
            members.push(Member { postbox, thread: Some(thread) });
            answers.push(started);
        }
        let fleet = Self { members, published };
        let mut all = Vec::new();
        for answer in answers {
            all.push(answer.await.unwrap_or_else(|_| Err(io::Error::other("a worker ended while it started")))?);
        }
        Ok((fleet, all))
    }

    /// The configuration that serves.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.published.load_full()
    }

    /// How many workers there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Workers whose thread has ended.
    pub fn ended(&self) -> usize {
        self.members.iter().filter(|m| m.thread.as_ref().is_none_or(JoinHandle::is_finished)).count()
    }

    /// Makes a configuration ready on all workers and then publishes it to all with one store (R307). When one worker
    /// does not get ready, none changes.
    ///
    /// # Errors
    /// What went wrong; the old configuration serves on.
    pub async fn replace(&self, snapshot: Arc<Snapshot>, shares: Vec<Share>) -> Result<(), &'static str> {
        debug_assert_eq!(shares.len(), self.members.len());
        let mut answers = Vec::new();
        for (member, share) in self.members.iter().zip(shares) {
            let (ready, answer) = oneshot::channel();
            let Share { sockets, access_log } = share;
            let work = Box::new(Preparation { snapshot: snapshot.clone(), sockets, access_log });
            member.postbox.send(Command::Prepare { work, ready });
            answers.push(answer);
        }
        if !all_answer(answers).await {
            self.tell_all(|| Command::Abort);
            return Err("a worker did not get ready");
        }
        self.published.store(snapshot);
        // From here on every request runs on the new one. Workers without traffic are woken to let go of the old one.
        let mut answers = Vec::new();
        for member in &self.members {
            let (done, answer) = oneshot::channel();
            member.postbox.send(Command::Commit(done));
            answers.push(answer);
        }
        all_answer(answers).await;
        Ok(())
    }

    /// Asks every worker for its counters; None for one that stays silent.
    pub async fn report(&self) -> Vec<Option<Report>> {
        let ask = |member: &Member| {
            let (answer, report) = oneshot::channel();
            member.postbox.send(Command::Report(answer));
            report
        };
        let asked: Vec<_> = self.members.iter().map(ask).collect();
        let deadline = tokio::time::Instant::now() + Duration::from_millis(REPORT_TIMEOUT_MS);
        let mut reports = Vec::new();
        for report in asked {
            reports.push(tokio::time::timeout_at(deadline, report).await.ok().and_then(Result::ok));
        }
        reports
    }

    /// One more step towards the end.
    pub fn drain(&self, step: Drain) {
        self.tell_all(|| Command::Drain(step));
    }

    /// End now.
    pub fn stop(&self) {
        self.tell_all(|| Command::Stop);
    }

    fn tell_all(&self, command: impl Fn() -> Command) {
        for member in &self.members {
            member.postbox.send(command());
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
