//! Work that takes milliseconds and that no request waits for: compiling a configuration, taking one apart.
//!
//! One thread does all of it, and gives way to workers on the same core. What one piece of work has freed is room for
//! the next, which is most of what it needs; so memory goes back to the system only when there has been nothing to do
//! for a while. A pool of threads would give each of them pages of its own, and a cold stack.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::sys::{memory, thread as this_thread};
use crate::telemetry::log;

/// Without work for so long, it gives back what it has freed.
const CALM: Duration = Duration::from_secs(1);

type Work = Box<dyn FnOnce() + Send>;

/// The thread. It starts with its first work, and ends when this is dropped and all work is done.
#[derive(Default)]
pub struct Background(OnceLock<Sender<Work>>);

impl Background {
    /// Has this done, behind what is there already. The answer tells what came of it; an error, that it panicked.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> oneshot::Receiver<T> {
        let (done, answer) = oneshot::channel();
        let work: Work = Box::new(move || {
            // Nobody need wait for it.
            let _ = done.send(work());
        });
        if let Err(left) = self.0.get_or_init(start).send(work) {
            // There is no thread to be had. It takes longer than the control thread should, and is done.
            do_one(left.0);
        }
        answer
    }
}

fn start() -> Sender<Work> {
    let (queue, work) = channel();
    let started = thread::Builder::new().name("background".to_owned()).spawn(move || serve(&work));
    if let Err(error) = started {
        log::error("a thread cannot be started, its work is done by the control thread", &[("error", &error)]);
    }
    queue
}

fn serve(queue: &Receiver<Work>) {
    this_thread::give_way();
    let mut has_freed = false;
    loop {
        let work = match has_freed {
            true => queue.recv_timeout(CALM),
            false => queue.recv().map_err(RecvTimeoutError::from),
        };
        match work {
            Ok(work) => {
                do_one(work);
                has_freed = true;
            }
            Err(RecvTimeoutError::Timeout) => {
                memory::give_back();
                has_freed = false;
            }
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

/// What a panic says is in the log; whoever waits is told that there is no answer.
fn do_one(work: Work) {
    let _ = catch_unwind(AssertUnwindSafe(work));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_in_order_by_one_thread_whatever_becomes_of_it() {
        let background = Background::default();
        let first = background.run(|| thread::current().id());
        let broken = background.run(|| assert!(thread::panicking(), "as it is meant to"));
        let last = background.run(|| (thread::current().id(), thread::current().name().map(str::to_owned)));
        let first = first.blocking_recv().expect("done");
        assert!(broken.blocking_recv().is_err());
        assert_eq!(last.blocking_recv(), Ok((first, Some("background".to_owned()))));
        assert_ne!(first, thread::current().id());
    }
}
