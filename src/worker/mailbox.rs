//! How the control thread speaks to a worker: a queue, and a socket that wakes the worker's ring.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::oneshot;

use crate::snapshot::Snapshot;
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::snapshot::WorkerSnapshot;
use crate::upstream::endpoint::EndpointReport;

/// What a worker is told. The queue needs no bound of its own: only the control thread sends, and it waits for answers.
pub enum Command {
    /// Make a configuration ready, beside the one that serves (A30). Answered when done.
    Prepare {
        /// What to make ready.
        work: Box<Preparation>,
        /// The answer.
        ready: oneshot::Sender<()>,
    },
    /// The prepared configuration was published: fit listeners and logs to it, even if no request comes. Answered when
    /// done.
    Commit(oneshot::Sender<()>),
    /// Forget what was made ready.
    Abort,
    /// Services have other endpoints than before. Answered when they have been taken up.
    Endpoints {
        /// Whose.
        changed: ChangedServices,
        /// The answer.
        done: oneshot::Sender<()>,
    },
    /// Copy the counters.
    Report {
        /// With what each endpoint does: for thousands of them a millisecond that requests wait.
        endpoints: bool,
        /// The answer.
        answer: oneshot::Sender<Report>,
    },
    /// Come to an end, step by step; the thread ends when accepting has ended and no connection is left.
    Drain(Drain),
    /// As [`Drain::LetGo`]. Answered when no accept is under way any more.
    LetGo(oneshot::Sender<()>),
    /// Look at the listening sockets anew: another process that accepted from them has let go. A connection may have
    /// come whose wake-up went to that process at the moment in which it stopped waiting.
    Look,
    /// End now.
    Stop,
}

/// A step towards the end. Whatever the step, each response announces the close of its connection from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// Go on accepting.
    Announce,
    /// Accept what has come, then no more; close idle connections.
    Close,
    /// Stop accepting and leave what has come to another process that accepts from the same sockets. Idle connections
    /// get one more answer.
    LetGo,
    /// As [`Drain::LetGo`], and close idle connections.
    LetGoAndClose,
}

/// A listening socket, with the address as it is configured: the identity of a listener over reloads.
pub type ListeningSocket = (SocketAddr, TcpListener);

/// A configuration for one worker.
pub struct Preparation {
    /// The configuration.
    pub snapshot: Arc<Snapshot>,
    /// Sockets of addresses that the worker does not listen on yet.
    pub sockets: Vec<ListeningSocket>,
    /// Another access log, when the logging changed.
    pub access_log: Option<AccessLog>,
}

/// Services whose endpoints changed.
#[derive(Clone, Debug)]
pub enum ChangedServices {
    /// Perhaps all.
    All,
    /// These, by their ids in the snapshot of this generation.
    Some(u64, Arc<[u32]>),
}

/// What a worker tells.
#[derive(Clone, Debug)]
pub struct Report {
    /// Its counters.
    pub metrics: WorkerSnapshot,
    /// Its endpoints, by service name; none where they were not asked for.
    pub services: Vec<(String, Vec<EndpointReport>)>,
    /// Requests under way.
    pub active_requests: u64,
    /// Open downstream connections.
    pub connections: u64,
    /// Generation that it serves.
    pub generation: u64,
}

/// The control thread's end.
#[derive(Debug)]
pub struct Postbox {
    queue: Sender<Command>,
    bell: UnixStream,
}

/// The worker's end.
pub struct Mailbox {
    /// Commands.
    pub queue: Receiver<Command>,
    /// Becomes readable when there are some.
    pub bell: UnixStream,
}

/// A connected pair.
///
/// # Errors
/// What the socket calls give.
pub fn pair() -> io::Result<(Postbox, Mailbox)> {
    let (ours, theirs) = UnixStream::pair()?;
    // A full socket already rings: the worker empties the queue whatever the number of bytes.
    ours.set_nonblocking(true)?;
    let (sender, receiver) = channel();
    Ok((Postbox { queue: sender, bell: ours }, Mailbox { queue: receiver, bell: theirs }))
}

impl Postbox {
    /// Another descriptor of the bell, for workers that hand connections over.
    ///
    /// # Errors
    /// What the system call gives.
    pub fn bell(&self) -> io::Result<UnixStream> {
        self.bell.try_clone()
    }

    /// Sends a command. Returns whether the worker still listens.
    pub fn send(&self, command: Command) -> bool {
        if self.queue.send(command).is_err() {
            return false;
        }
        match (&self.bell).write_all(&[1]) {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}
