//! A pause of a request, by the worker's wheel: it ends with the tick behind its time, or when the worker ends.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::net::io::Interrupt;
use crate::net::timer::{OnExpiry, Timers};

/// Who pauses.
#[derive(Default)]
pub(super) struct Sleeper {
    is_over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Sleeper {
    /// Whether the pause is over; if not, `cx` is woken at its end.
    pub(super) fn poll_over(&self, cx: &Context<'_>) -> Poll<()> {
        if self.is_over.get() {
            return Poll::Ready(());
        }
        self.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }

    /// Another pause begins.
    pub(super) fn begin_anew(&self) {
        self.is_over.set(false);
    }
}

impl Interrupt for Sleeper {
    fn shutdown(&self, _: Shutdown) {
        self.release();
    }

    fn release(&self) {
        self.is_over.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn has_left(&self) -> bool {
        false
    }
}

/// Pauses for so long; not at all for 0.
pub async fn nap(timers: &Rc<Timers>, ms: u64) {
    if ms == 0 {
        return;
    }
    let sleeper = Rc::new(Sleeper::default());
    let deadline = timers.deadline(sleeper.clone());
    deadline.arm(timers.now().plus_ms(ms), OnExpiry::ShutBoth);
    poll_fn(|cx| sleeper.poll_over(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Clock, Now};

    #[test]
    fn a_pause_ends_with_its_tick() {
        let timers = Timers::new(Clock::stopped());
        let mut pause = std::pin::pin!(nap(&timers, 50));
        let mut is_over = || pause.as_mut().poll(&mut std::task::Context::from_waker(Waker::noop())).is_ready();
        assert!(!is_over());
        timers.advance(Now::from_ms(40));
        assert!(!is_over());
        timers.advance(Now::from_ms(80));
        assert!(is_over());
    }
}
