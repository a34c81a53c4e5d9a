//! Which parts of a connection want to be polled: a bit for each stream, and one waker for the task that polls them.
//!
//! A connection polls its streams itself. So what they write in one turn leaves in one send, and a simulation can drive
//! it without a runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Wake, Waker};

use crossbeam_utils::atomic::AtomicCell;

/// Bits: one for each place in the table of streams, the last for the connection itself.
const BITS: usize = 128;

/// The set of what is to be polled.
#[derive(Default)]
pub struct Ready {
    bits: [AtomicU64; BITS / 64],
    task: AtomicCell<Option<Waker>>,
}

impl Ready {
    /// The task that polls; to be called at the begin of each of its turns.
    #[inline]
    pub fn register(&self, task: &Waker) {
        self.task.store(Some(task.clone()));
    }

    /// Marks a bit, without waking: for the task itself.
    #[inline]
    pub fn mark(&self, at: usize) {
        self.bits[at / 64].fetch_or(1 << (at % 64), Ordering::Relaxed);
    }

    /// Takes all marks.
    #[inline]
    pub fn take(&self) -> [u64; BITS / 64] {
        [self.bits[0].swap(0, Ordering::Relaxed), self.bits[1].swap(0, Ordering::Relaxed)]
    }

    /// Whether there are marks.
    #[inline]
    pub fn any(&self) -> bool {
        self.bits.iter().any(|bits| bits.load(Ordering::Relaxed) != 0)
    }

    /// A waker for a bit.
    pub fn waker(self: &Arc<Self>, at: usize) -> Waker {
        debug_assert!(at < BITS);
        Waker::from(Arc::new(BitWaker { ready: self.clone(), at }))
    }
}

struct BitWaker {
    ready: Arc<Ready>,
    at: usize,
}

impl Wake for BitWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.mark(self.at);
        if let Some(task) = self.ready.task.take() {
            task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_once_and_the_task_is_woken() {
        let ready = Arc::new(Ready::default());
        let task = Arc::new(BitWaker { ready: Arc::default(), at: 0 });
        ready.register(&Waker::from(task.clone()));
        ready.waker(3).wake();
        ready.waker(127).wake();
        ready.mark(64);
        assert_eq!(task.ready.take(), [1, 0]);
        assert_eq!(ready.take(), [1 << 3, 1 << 63 | 1]);
        assert_eq!(ready.take(), [0, 0]);
    }
}
