//! Building a worker's runtime: the best ring that this kernel offers, or epoll where rings are forbidden.
//!
//! The flags are worth 5 to 15 % of a request (`PERF.md`), so the best set is tried first and each refusal falls back
//! to the next. DEFER_TASKRUN runs completions only when the worker waits; COOP_TASKRUN at any return to the kernel.
//!
//! What a ring that runs short does (F20): a full submission queue is submitted at once; completions that do not fit
//! the completion queue wait in the kernel (IORING_FEAT_NODROP); EAGAIN and EBUSY are tried again after the completions
//! so far were taken. One hole in the runtime (monoio 0.2.4) is avoided: when it waits, an EBUSY ends its turn before
//! completions are taken. Kernels before 5.13 answer so while completions overflow, and it would never go on; those get
//! epoll.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::io;
use std::os::fd::RawFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use monoio::{IoUringDriver, LegacyDriver, Runtime, RuntimeBuilder, time::TimeDriver};

use super::clock;
use crate::limits::QUIET_TICK_MS;

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
    #[allow(clippy::type_complexity, reason = "one caller, which takes the tuple apart at once")]
    pub fn build(first: Driver, entries: u32) -> io::Result<(Self, Driver, Vec<(Driver, io::Error)>)> {
        let mut refused = Vec::new();
        for driver in Driver::ALL.into_iter().skip_while(|d| *d != first) {
            match Self::try_build(driver, entries) {
                Ok(runtime) => return Ok((runtime, driver, refused)),
                Err(error) => refused.push((driver, told(driver, error))),
            }
        }
        Err(refused.pop().map_or_else(|| io::Error::other("no driver to try"), |(_, error)| error))
    }

    fn try_build(driver: Driver, entries: u32) -> io::Result<Self> {
        let mut ring = io_uring::IoUring::builder();
        match driver {
            // SUBMIT_ALL: one operation that is refused does not keep those behind it in the queue.
            Driver::RingDeferTaskrun => ring.setup_single_issuer().setup_defer_taskrun().setup_submit_all(),
            Driver::RingCoopTaskrun => ring.setup_single_issuer().setup_coop_taskrun().setup_submit_all(),
            Driver::Ring => &mut ring,
            Driver::Epoll => {
                let builder = RuntimeBuilder::<LegacyDriver>::new().enable_timer();
                let runtime = builder.build()?;
                BUILT.set(clock::monotonic_ns());
                return Ok(Self::Epoll(Box::new(runtime)));
            }
        };
        ring.dontfork();
        let builder =
            RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring.clone()).with_entries(entries).enable_timer();
        // One ring at a time, so that the new descriptor is this thread's.
        static BUILDING: Mutex<()> = Mutex::new(());
        let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
        suffices(&ring)?;
        let before = ring_descriptors();
        let runtime = builder.build()?;
        BUILT.set(clock::monotonic_ns());
        let mut new = ring_descriptors().into_iter().filter(|fd| !before.contains(fd));
        RING.set(new.next().filter(|_| new.next().is_none()));
        Ok(Self::Ring(Box::new(runtime)))
    }

    /// Runs a future to its end.
    pub fn block_on<F: Future>(&mut self, future: F) -> F::Output {
        match self {
            Self::Ring(runtime) => runtime.block_on(future),
            Self::Epoll(runtime) => runtime.block_on(future),
        }
    }
}

/// How long until the timer wheel of this thread's runtime turns by a slot of [`QUIET_TICK_MS`]: its first level has
/// 64 places of a millisecond. A sleep beyond that wakes the thread there too; one that ends there wakes it once. The
/// wheel rounds up: half a millisecond is for what passed between its beginning and what was noted of it.
pub fn until_wheel_turns() -> Duration {
    let turn_ns = QUIET_TICK_MS * 1_000_000;
    let passed_ns = clock::monotonic_ns().saturating_sub(BUILT.get()) + HALF_MS_NS;
    Duration::from_nanos(turn_ns - passed_ns % turn_ns)
}

const HALF_MS_NS: u64 = 500_000;

/// Operations that the workers use, with the kernel that brought them.
const OPERATIONS: [(u8, &str); 7] = [
    (io_uring::opcode::Accept::CODE, "IORING_OP_ACCEPT (5.5)"),
    (io_uring::opcode::Connect::CODE, "IORING_OP_CONNECT (5.5)"),
    (io_uring::opcode::Recv::CODE, "IORING_OP_RECV (5.6)"),
    (io_uring::opcode::Send::CODE, "IORING_OP_SEND (5.6)"),
    (io_uring::opcode::PollAdd::CODE, "IORING_OP_POLL_ADD (5.1)"),
    (io_uring::opcode::AsyncCancel::CODE, "IORING_OP_ASYNC_CANCEL (5.5)"),
    (io_uring::opcode::Close::CODE, "IORING_OP_CLOSE (5.6)"),
];

/// Entries of the ring that the kernel is asked with.
const PROBE_ENTRIES: u32 = 2;

/// Whether rings of this kernel do what the workers need. The error names what is missing.
fn suffices(ring: &io_uring::Builder) -> io::Result<()> {
    let ring = ring.build(PROBE_ENTRIES)?;
    let unsupported = |what: String| io::Error::new(io::ErrorKind::Unsupported, what);
    if !ring.params().is_feature_nodrop() || !ring.params().is_feature_resource_tagging() {
        return Err(unsupported("rings of this kernel may stall when completions overflow (fixed in 5.13)".to_owned()));
    }
    let mut probe = io_uring::Probe::new();
    ring.submitter().register_probe(&mut probe)?;
    match OPERATIONS.iter().find(|(code, _)| !probe.is_supported(*code)) {
        Some((_, name)) => Err(unsupported(format!("{name} is missing"))),
        None => Ok(()),
    }
}

/// A refusal with what it means and the kernel's version, so that it can be acted on.
fn told(driver: Driver, error: io::Error) -> io::Error {
    let means = match error.raw_os_error() {
        _ if driver == Driver::Epoll => "",
        Some(libc::EPERM | libc::EACCES) => ": forbidden by a seccomp filter or by kernel.io_uring_disabled",
        Some(libc::ENOSYS) => ": this kernel has no io_uring, or a seccomp filter hides it",
        Some(libc::ENOMEM) => ": not enough locked memory (LimitMEMLOCK=)",
        Some(libc::EINVAL) => ": this kernel does not know the flags",
        _ => "",
    };
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    io::Error::new(error.kind(), format!("{error}{means} (kernel {})", kernel.trim()))
}

thread_local! {
    /// Descriptor of this thread's ring, for what the runtime does not offer.
    static RING: Cell<Option<RawFd>> = const { Cell::new(None) };
    /// When this thread's runtime was built, in nanoseconds of the monotonic clock: its timer wheel counts from there.
    static BUILT: Cell<u64> = const { Cell::new(0) };
}

/// Descriptors of this process that are rings. Empty where /proc cannot be read.
fn ring_descriptors() -> BTreeSet<RawFd> {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return BTreeSet::new() };
    let is_ring = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path()).is_ok_and(|link| link.as_os_str() == "anon_inode:[io_uring]")
    };
    let rings = entries.flatten().filter(is_ring);
    rings.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Layout of `struct io_uring_sync_cancel_reg` (linux/io_uring.h).
#[repr(C)]
struct SyncCancel {
    addr: u64,
    fd: i32,
    flags: u32,
    timeout: [i64; 2],
    opcode: u8,
    pad: [u8; 7],
    pad2: [u64; 3],
}

const REGISTER_SYNC_CANCEL: libc::c_uint = 24;
const CANCEL_ALL: u32 = 1 << 0;
const CANCEL_FD: u32 = 1 << 1;

fn sync_cancel(ring: RawFd, fd: RawFd) -> io::Result<()> {
    let request = SyncCancel {
        addr: 0,
        fd,
        flags: CANCEL_ALL | CANCEL_FD,
        // An operation that is completing anyway is not waited for.
        timeout: [0, 1],
        opcode: 0,
        pad: [0; 7],
        pad2: [0; 3],
    };
    // SAFETY: the pointer is to a live structure of the layout that this operation reads; the kernel keeps nothing of
    // it.
    match unsafe { libc::syscall(libc::SYS_io_uring_register, ring, REGISTER_SYNC_CANCEL, &request, 1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether [`cancel_all`] works on this thread (Linux 6.0 and a ring). Asked once for each thread.
pub fn can_cancel() -> bool {
    thread_local! {
        static ANSWER: Cell<Option<bool>> = const { Cell::new(None) };
    }
    ANSWER.get().unwrap_or_else(|| {
        // Descriptor -1 has no operations: a kernel that knows the request says so.
        let probe = RING.get().map(|ring| sync_cancel(ring, -1));
        let answer =
            matches!(probe, Some(Err(error)) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EBADF)));
        ANSWER.set(Some(answer));
        answer
    })
}

/// Ends the operations of this thread's ring that wait on a descriptor: each completes with ECANCELED, or with what it
/// had already done. Nothing happens where [`can_cancel`] is false.
pub fn cancel_all(fd: RawFd) {
    if let Some(ring) = RING.get() {
        // That there was none, or that it is completing just now, is as good as done.
        let _ = sync_cancel(ring, fd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_what_it_means() {
        let said = |code: i32| told(Driver::Ring, io::Error::from_raw_os_error(code)).to_string();
        assert!(said(libc::EPERM).contains("seccomp") && said(libc::EPERM).contains("(kernel "));
        assert!(said(libc::ENOMEM).contains("LimitMEMLOCK"));
        assert!(!told(Driver::Epoll, io::Error::from_raw_os_error(libc::EPERM)).to_string().contains("uring"));
    }

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
