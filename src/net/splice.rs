//! Carrying a long body from socket to socket inside the kernel: no byte of it is copied by the gateway.
//!
//! The same back-pressure as the copying loop has: nothing more is taken from the source before the destination has
//! taken what there is.

use std::cell::Cell;
use std::io;
use std::os::fd::BorrowedFd;

use super::pace::Pace;
use super::timer::{Deadline, OnExpiry};
use crate::limits::SPLICE_STEPS_MAX;
use crate::sys::pipe::Pipe;
use crate::sys::stream::SharedStream;
use crate::time::Now;

/// One end of the way: a socket, and how long it may keep the other end waiting.
pub struct End<'a> {
    /// The socket.
    pub stream: &'a SharedStream,
    /// Its deadline, which is armed for each wait.
    pub deadline: &'a Deadline,
    /// What happens to the connection when the deadline passes.
    pub on_expiry: OnExpiry,
    /// How long each wait for it may take, in milliseconds.
    pub timeout_ms: u64,
    /// When all waits must be over.
    pub due: Now,
    /// How slow it may be.
    pub pace: Option<Pace>,
}

/// Which end stopped the carrying.
#[derive(Debug)]
pub enum Stopped {
    /// The source: it ended before the last byte, or failed.
    Source,
    /// The destination takes no more.
    Destination,
}

/// How far a carrying is, for those who look on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Bytes taken from the source.
    pub moved: Cell<u64>,
    /// Whether the source is what is waited for.
    pub awaits_source: Cell<bool>,
}

/// Carries `bytes` from `source` to `destination`.
///
/// # Errors
/// The end that stopped it; its deadline tells whether it was too slow.
pub async fn carry(
    pipe: &mut Pipe,
    mut source: End<'_>,
    mut destination: End<'_>,
    bytes: u64,
    Progress { moved, awaits_source }: &Progress,
) -> Result<(), Stopped> {
    // What the end that was waited for last has had, or given, up to then.
    let (mut waited_ns, mut before) = (None, 0);
    loop {
        // What cannot be asked for its mode, or made not to block, is a connection that is gone.
        let pause = source.stream.without_blocking(|from| {
            let done = destination.stream.without_blocking(|to| Ok(burst(pipe, from, to, bytes, moved)));
            Ok(done.unwrap_or(Err(Stopped::Destination)))
        });
        let pause = pause.unwrap_or(Err(Stopped::Source))?;
        match waited_ns.take() {
            Some(Waited::Source(ns)) if !source.keeps_up(ns, moved.get() - before) => return Err(Stopped::Source),
            Some(Waited::Destination(ns)) if !destination.keeps_up(ns, moved.get() - pipe.held() as u64 - before) => {
                return Err(Stopped::Destination);
            }
            _ => {}
        }
        match pause {
            Pause::Done => return Ok(()),
            Pause::Source => {
                before = moved.get();
                awaits_source.set(true);
                let waited = source.readable().await;
                awaits_source.set(false);
                waited_ns = Some(Waited::Source(waited.map_err(|_| Stopped::Source)?));
            }
            Pause::Destination => {
                before = moved.get() - pipe.held() as u64;
                waited_ns = Some(Waited::Destination(destination.writable().await.map_err(|_| Stopped::Destination)?));
            }
        }
    }
}

/// Which end was waited for, in nanoseconds.
enum Waited {
    Source(u64),
    Destination(u64),
}

/// Why a burst of steps came to a pause.
enum Pause {
    /// All bytes are through.
    Done,
    /// The source has nothing more now; or it has had its turn, and the worker's other connections have theirs.
    Source,
    /// The destination takes nothing more now.
    Destination,
}

/// Carries what can be carried now, within [`SPLICE_STEPS_MAX`] steps.
fn burst(
    pipe: &mut Pipe,
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    bytes: u64,
    moved: &Cell<u64>,
) -> Result<Pause, Stopped> {
    for _ in 0..SPLICE_STEPS_MAX {
        while pipe.held() > 0 {
            match pipe.drain(to) {
                Ok(count) if count > 0 => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Pause::Destination),
                _ => return Err(Stopped::Destination),
            }
        }
        if moved.get() >= bytes {
            return Ok(Pause::Done);
        }
        match pipe.fill(from, bytes - moved.get()) {
            Ok(count) if count > 0 => moved.set(moved.get() + count as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Pause::Source),
            _ => return Err(Stopped::Source),
        }
    }
    Ok(if pipe.held() > 0 { Pause::Destination } else { Pause::Source })
}

impl End<'_> {
    fn arm(&self) {
        self.deadline.arm(self.deadline.in_ms(self.timeout_ms).min(self.due), self.on_expiry);
    }

    /// Waits, and says for how long, in nanoseconds.
    async fn readable(&self) -> io::Result<u64> {
        self.arm();
        let asked = self.deadline.known_now();
        let ready = self.stream.readable().await;
        self.deadline.disarm();
        ready.map(|()| self.deadline.known_now().since_ns(asked))
    }

    /// As [`Self::readable`].
    async fn writable(&self) -> io::Result<u64> {
        self.arm();
        let asked = self.deadline.known_now();
        let ready = self.stream.writable().await;
        self.deadline.disarm();
        ready.map(|()| self.deadline.known_now().since_ns(asked))
    }

    /// Whether the end is fast enough, after a wait that brought so many bytes.
    fn keeps_up(&mut self, waited_ns: u64, bytes: u64) -> bool {
        let keeps_up = self.pace.as_mut().is_none_or(|pace| pace.keeps_up(waited_ns, bytes as usize));
        // A wait that ends with the deadline has that for its reason.
        if !keeps_up && !self.deadline.fired() {
            self.deadline.was_slow();
        }
        keeps_up || self.deadline.fired() && !self.deadline.saw_movement()
    }
}
