//! Building a worker's runtime: the best ring that this kernel offers, or epoll where rings are forbidden.
//!
//! The flags are worth 5 to 15 % of a request (`PERF.md`), so the best set is tried first and each refusal falls back
//! to the next. DEFER_TASKRUN runs completions only when the worker waits; COOP_TASKRUN at any return to the kernel.

use std::io;

use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};

/// Which driver a worker got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring with SINGLE_ISSUER and DEFER_TASKRUN (Linux 6.1).
    RingDeferTaskrun,
    /// io_uring with SINGLE_ISSUER and COOP_TASKRUN (Linux 6.0).
    RingCoopTaskrun,
    /// io_uring without flags (Linux 5.6).
    Ring,
    /// epoll.
    Epoll,
}

impl Driver {
    /// As it stands in the start log.
    pub const fn text(self) -> &'static str {
        match self {
            Driver::RingDeferTaskrun => "io_uring (single_issuer, defer_taskrun)",
            Driver::RingCoopTaskrun => "io_uring (single_issuer, coop_taskrun)",
            Driver::Ring => "io_uring",
            Driver::Epoll => "epoll",
        }
    }

    /// In the order they are tried.
    pub const ALL: [Driver; 4] = [Driver::RingDeferTaskrun, Driver::RingCoopTaskrun, Driver::Ring, Driver::Epoll];

    /// The driver of a `--driver` word.
    pub fn of(word: &str) -> Option<Driver> {
        match word {
            "defer" => Some(Driver::RingDeferTaskrun),
            "coop" => Some(Driver::RingCoopTaskrun),
            "ring" => Some(Driver::Ring),
            "epoll" => Some(Driver::Epoll),
            _ => None,
        }
    }
}

/// Drivers that were tried in vain, with what they answered.
pub type Refusals = Vec<(Driver, io::Error)>;

/// A worker's runtime.
pub enum WorkerRuntime {
    /// On a ring.
    Ring(Box<Runtime<TimeDriver<IoUringDriver>>>),
    /// On epoll.
    Epoll(Box<Runtime<TimeDriver<LegacyDriver>>>),
}

impl WorkerRuntime {
    /// Builds the best runtime from `first` on. Call it on the thread that will run it: the ring has a single issuer.
    /// Returns the driver that it got and what the better ones answered.
    ///
    /// # Errors
    /// The last refusal, when even epoll is refused.
    pub fn build(first: Driver, entries: u32) -> io::Result<(Self, Driver, Refusals)> {
        let mut refused = Vec::new();
        for driver in Driver::ALL.into_iter().skip_while(|d| *d != first) {
            match Self::try_build(driver, entries) {
                Ok(runtime) => return Ok((runtime, driver, refused)),
                Err(error) => refused.push((driver, error)),
            }
        }
        Err(refused.pop().map_or_else(|| io::Error::other("no driver to try"), |(_, error)| error))
    }

    fn try_build(driver: Driver, entries: u32) -> io::Result<Self> {
        let mut ring = io_uring::IoUring::builder();
        match driver {
            Driver::RingDeferTaskrun => ring.setup_single_issuer().setup_defer_taskrun(),
            Driver::RingCoopTaskrun => ring.setup_single_issuer().setup_coop_taskrun(),
            Driver::Ring => &mut ring,
            Driver::Epoll => {
                let builder = RuntimeBuilder::<LegacyDriver>::new().enable_timer();
                return builder.build().map(|runtime| Self::Epoll(Box::new(runtime)));
            }
        };
        ring.dontfork();
        let builder = RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring).with_entries(entries).enable_timer();
        builder.build().map(|runtime| Self::Ring(Box::new(runtime)))
    }

    /// Runs a future to its end.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Self::Ring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_driver_or_its_fallback_runs_a_future() {
        for first in Driver::ALL {
            let built = std::thread::spawn(move || {
                let (mut runtime, got, _) = WorkerRuntime::build(first, 256).expect("epoll at least");
                runtime.block_on(async { 7 }) == 7 && Driver::ALL.contains(&got)
            });
            assert!(built.join().expect("the thread ends well"));
        }
    }
}
