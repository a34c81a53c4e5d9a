//! What a worker does when descriptors or memory run short: it closes what is of the least use, so that the next client
//! is served (F08), and past the memory limit it refuses (F10).
//!
//! Descriptors are divided between the workers at the start, so that counting them shares nothing. Memory is judged for
//! the process: each worker tells at its tick what it holds, one of them asks the kernel ten times a second, and all
//! follow the level that comes out. Without a limit none of this runs.

use std::cell::Cell;
use std::sync::Arc;

use super::memory::{Level, Memory};
use super::run::Shared;
use crate::limits::{ACCEPT_OVERSHOOT, CLIENT_HELD_BYTES, CONNECTION_HELD_BYTES, REQUEST_HELD_BYTES};
use crate::net::timer::{Timers, Waits};
use crate::pipeline::env::Strain;
use crate::sys::limit::DescriptorShare;
use crate::sys::{buf, memory, room, stream};
use crate::telemetry::metrics::instruments::{Eviction, Refusal};
use crate::time::Now;

/// What a worker may use, given at its start.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// Its share of the descriptors.
    pub descriptors: DescriptorShare,
    /// The process's memory.
    pub memory: Arc<Memory>,
}

/// How short a worker is.
pub struct Pressure {
    allowance: Allowance,
    worker: usize,
    workers: u64,
    /// Room had to be made since the last tick.
    short: Cell<bool>,
    ticks: Cell<u64>,
    /// Clients that were let in under a memory limit, to look at it now and then.
    admitted: Cell<u32>,
    /// What the process used at the last tick, and what was accepted since counts on top.
    used_bytes: Cell<u64>,
}

/// Ticks between two of the actions that look at every connection.
const TICKS_PER_SWEEP: u64 = 5;
/// Clients between two looks at the memory, besides that of the tick.
const ADMITTED_PER_LOOK: u32 = 32;
/// An upstream connection that rested this long is not part of the present load, in milliseconds.
const RESTED_MS: u64 = 1_000;

impl Pressure {
    /// The state of one worker of `workers`.
    pub fn new(allowance: Allowance, worker: u32, workers: u32) -> Self {
        Self {
            allowance,
            worker: worker as usize,
            workers: u64::from(workers),
            short: Cell::new(false),
            ticks: Cell::new(0),
            admitted: Cell::new(0),
            used_bytes: Cell::new(0),
        }
    }

    /// Whether one more client may be served: there is a descriptor and memory for it, or a connection of less use was
    /// closed in its favour.
    ///
    /// # Errors
    /// What there is too little of.
    #[inline]
    pub fn admit(&self, shared: &Shared) -> Result<(), Refusal> {
        if self.allowance.memory.is_limited() {
            self.admit_memory(shared)?;
        }
        let share = &self.allowance.descriptors;
        if shared.connections.get() < share.clients_max && stream::open_streams() < share.streams_max {
            return Ok(());
        }
        self.make_room(shared).ok_or(Refusal::Descriptors)
    }

    /// Whether memory is limited.
    pub fn is_limited(&self) -> bool {
        self.allowance.memory.is_limited()
    }

    /// Whether connections that were closed in favour of others still wait to be gone.
    pub fn is_over(&self, shared: &Shared) -> bool {
        shared.connections.get() > self.allowance.descriptors.clients_max + ACCEPT_OVERSHOOT
    }

    /// Closes the connection of the least use. None when every one has a request under way.
    #[cold]
    pub fn make_room(&self, shared: &Shared) -> Option<()> {
        self.short.set(true);
        let waited = shared.env.timers.close_least_useful()?;
        shared.env.metrics.borrow().own.evicted(cause(waited));
        Some(())
    }

    fn admit_memory(&self, shared: &Shared) -> Result<(), Refusal> {
        let memory = &self.allowance.memory;
        let admitted = self.admitted.get().wrapping_add(1);
        self.admitted.set(admitted);
        // What it holds may grow by many MiB between two quiet ticks.
        shared.env.stirred.set(true);
        if admitted.is_multiple_of(ADMITTED_PER_LOOK) {
            // In a flood of connections one turn of the loop may take longer than a tick.
            self.tell(shared, shared.env.timers.now());
        }
        let used = self.used_bytes.get() + CLIENT_HELD_BYTES * self.workers;
        self.used_bytes.set(used);
        if memory.is_full(used) {
            return Err(Refusal::Memory);
        }
        if memory.level() == Level::Shedding {
            // One goes for each that comes; where none can, the new one gets its 503.
            self.make_room(shared);
        }
        Ok(())
    }

    /// To be called at each tick.
    pub fn on_tick(&self, shared: &Shared) {
        let ticks = self.ticks.get() + 1;
        self.ticks.set(ticks);
        if self.short.take() {
            // Pooled connections that rest cost nobody anything but a new handshake.
            shared.env.pin().close_idle(shared.env.timers.known_now(), RESTED_MS);
        }
        if self.allowance.memory.is_limited() {
            self.follow(shared, ticks.is_multiple_of(TICKS_PER_SWEEP));
        }
    }

    /// Whether half of the memory limit or more is in use.
    pub fn is_felt(&self) -> bool {
        self.is_limited() && self.used_bytes.get() >= self.allowance.memory.limit_bytes() / 2
    }

    /// Tells what this worker holds and takes over what the level says to requests.
    fn tell(&self, shared: &Shared, now: Now) -> (u64, Level) {
        let memory = &self.allowance.memory;
        let used = memory.tell(self.worker, held_bytes(shared), now);
        self.used_bytes.set(used);
        let level = memory.level();
        shared.env.strain.set(match level {
            Level::Ample => Strain::None,
            Level::Saving => Strain::CloseAfter,
            Level::Shedding => Strain::Refuse,
        });
        buf::set_scarce(level == Level::Shedding);
        if level != Level::Ample {
            shared.env.stirred.set(true);
        }
        (used, level)
    }

    /// Tells what this worker holds and does what the level asks for.
    fn follow(&self, shared: &Shared, sweep: bool) {
        let memory = &self.allowance.memory;
        let (used, level) = self.tell(shared, shared.env.timers.known_now());
        if level == Level::Ample || !sweep {
            return;
        }
        let timers = &shared.env.timers;
        let mut closed = timers.close_waiting(&[Waits::Request], RESTED_MS, TICKS_PER_SWEEP);
        if level == Level::Shedding {
            shared.env.pin().close_idle(timers.known_now(), 0);
            let patience_ms = if memory.is_full(used) { 0 } else { RESTED_MS };
            closed += timers.close_waiting(&[Waits::First, Waits::Head], patience_ms, TICKS_PER_SWEEP);
            buf::pool_trim(0);
            room::trim();
            memory::give_back();
        }
        (0..closed).for_each(|_| shared.env.metrics.borrow().own.evicted(Eviction::Memory));
    }
}

/// Whether a descriptor for an upstream connection is to be had: what the connector asks. A worker's upstream and
/// downstream connections draw on one share.
pub fn upstream_room(share: DescriptorShare, timers: std::rc::Rc<Timers>) -> impl Fn() -> bool {
    move || stream::open_streams() < share.streams_max || timers.close_least_useful().is_some()
}

/// What this worker holds by its own count, in bytes: an estimate from below that moves with every connection, while
/// the kernel's figure is asked for ten times a second.
fn held_bytes(shared: &Shared) -> u64 {
    buf::pool_bytes() as u64
        + stream::open_streams() as u64 * CONNECTION_HELD_BYTES
        + shared.env.active.get() * REQUEST_HELD_BYTES
}

fn cause(waited: Waits) -> Eviction {
    match waited {
        Waits::Linger => Eviction::Linger,
        Waits::Request => Eviction::Idle,
        Waits::First => Eviction::First,
        Waits::Head => Eviction::Head,
    }
}
