//! Wakes another worker: a byte on a socket that its ring reads.
//!
//! Only one place in the process needs this: a request on one worker ends, and its place goes to one that waits on
//! another. A worker without a bell (in tests) finds out at its next tick.

use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

/// Workers that can have a bell; others find out at their next tick.
pub const BELLS_MAX: usize = 1_024;

static BELLS: [ArcSwapOption<Bell>; BELLS_MAX] = [const { ArcSwapOption::const_empty() }; BELLS_MAX];

/// A worker's bell.
#[derive(Debug)]
pub struct Bell {
    stream: UnixStream,
    rung: AtomicBool,
}

/// Takes the bell of a worker down: whoever reads it comes to its end.
pub fn take_down(worker: u32) {
    if let Some(bell) = BELLS.get(worker as usize) {
        bell.store(None);
    }
}

/// Hangs up the bell of a worker, in place of the one before. Returns the end that the worker reads.
///
/// # Errors
/// What the socket calls give.
pub fn hang(worker: u32) -> std::io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    if let Some(place) = BELLS.get(worker as usize) {
        place.store(Some(Bell { stream: ours, rung: AtomicBool::new(false) }.into()));
    }
    Ok(theirs)
}

/// Wakes a worker, if it was not woken since it looked last.
pub(super) fn ring(worker: u32) {
    let Some(bell) = BELLS.get(worker as usize).and_then(|bell| bell.load_full()) else { return };
    if !bell.rung.swap(true, Ordering::SeqCst) {
        // A socket that is full or gone has woken the worker, or there is none.
        let _ = (&bell.stream).write(&[1]);
    }
}

/// The worker is awake and about to look.
pub fn answered(worker: u32) {
    if let Some(bell) = BELLS.get(worker as usize).and_then(|bell| bell.load_full()) {
        bell.rung.store(false, Ordering::SeqCst);
    }
}
