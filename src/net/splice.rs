//! Carrying a long body from socket to socket inside the kernel: no byte of it is copied by the gateway.
//!
//! The same back-pressure as the copying loop has: nothing more is taken from the source before the destination has
//! taken what there is.

use std::cell::Cell;
use std::io;

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
}

/// Which end stopped the carrying.
#[derive(Debug)]
pub enum Stopped {
    /// The source: it ended before the last byte, or failed.
    Source,
    /// The destination takes no more.
    Destination,
}

/// Carries `bytes` from `source` to `destination`. `moved` counts what was taken from the source.
///
/// # Errors
/// The end that stopped it; its deadline tells whether it was too slow.
pub async fn carry(
    pipe: &mut Pipe,
    source: End<'_>,
    destination: End<'_>,
    bytes: u64,
    moved: &Cell<u64>,
) -> Result<(), Stopped> {
    let mut steps = 0;
    while moved.get() < bytes {
        // A fast stream leaves the worker to the others now and then.
        if steps == SPLICE_STEPS_MAX {
            steps = 0;
            source.readable().await.map_err(|_| Stopped::Source)?;
        }
        match pipe.fill(source.stream.as_fd(), bytes - moved.get()) {
            Ok(0) => return Err(Stopped::Source),
            Ok(count) => moved.set(moved.get() + count as u64),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                source.readable().await.map_err(|_| Stopped::Source)?;
                continue;
            }
            Err(_) => return Err(Stopped::Source),
        }
        steps += 1;
        empty(pipe, &destination).await?;
    }
    Ok(())
}

async fn empty(pipe: &mut Pipe, destination: &End<'_>) -> Result<(), Stopped> {
    while pipe.held() > 0 {
        match destination.stream.without_blocking(|fd| pipe.drain(fd)) {
            Ok(count) if count > 0 => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                destination.writable().await.map_err(|_| Stopped::Destination)?;
            }
            _ => return Err(Stopped::Destination),
        }
    }
    Ok(())
}

impl End<'_> {
    fn arm(&self) {
        self.deadline.arm(self.deadline.in_ms(self.timeout_ms).min(self.due), self.on_expiry);
    }

    async fn readable(&self) -> io::Result<()> {
        self.arm();
        let ready = self.stream.readable().await;
        self.deadline.disarm();
        ready
    }

    async fn writable(&self) -> io::Result<()> {
        self.arm();
        let ready = self.stream.writable().await;
        self.deadline.disarm();
        ready
    }
}
