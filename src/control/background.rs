//! Work that takes milliseconds and that no request waits for: compiling a configuration, taking one apart.
//!
//! One thread does all of it, and gives way to workers on the same core. What one piece of work has freed is room for
//! the next, which is most of what it needs; so memory goes back to the system only when there has been nothing to do
//! for a while. A pool of threads would give each of them pages of its own, and a cold stack.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::{Mutex as AsyncMutex, oneshot};
use tokio::time::timeout;

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

    /// Has this done with what only one at a time may have. Where it is not begun in time, since a configuration is
    /// compiled that takes seconds, the caller does it. Nothing comes of it when it panics.
    pub async fn run_within<H, T>(
        &self,
        patience: Duration,
        held: &Arc<AsyncMutex<H>>,
        work: impl FnOnce(&mut H) -> T + Send + 'static,
    ) -> Option<T>
    where
        H: Send + 'static,
        T: Send + 'static,
    {
        let place = Arc::new(Mutex::new(Some(work)));
        let (theirs, wanted) = (place.clone(), held.clone());
        let mut answer = self.run(move || {
            let work = take(&theirs)?;
            // Where there is no thread to be had, the control thread does this, which may not block: nobody has it.
            let mut held = wanted.try_lock().unwrap_or_else(|_| wanted.blocking_lock());
            Some(work(&mut held))
        });
        if let Ok(answer) = timeout(patience, &mut answer).await {
            return answer.ok().flatten();
        }
        let mut held = held.lock().await;
        if let Some(work) = take(&place) {
            return Some(work(&mut held));
        }
        // It was begun meanwhile.
        drop(held);
        answer.await.ok().flatten()
    }
}

fn take<T>(place: &Mutex<Option<T>>) -> Option<T> {
    place.lock().unwrap_or_else(PoisonError::into_inner).take()
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

    #[tokio::test]
    async fn what_cannot_wait_for_long_work_is_done_all_the_same_and_once() {
        let (background, long) = (Background::default(), Duration::from_secs(60));
        let held = Arc::new(AsyncMutex::new(Vec::new()));
        let note = |who: &'static str| {
            move |notes: &mut Vec<_>| {
                notes.push(who);
                thread::current().name() == Some("background")
            }
        };
        assert_eq!(background.run_within(long, &held, note("soon")).await, Some(true));
        let (end, wait) = channel::<()>();
        let busy = background.run(move || wait.recv());
        assert_eq!(background.run_within(Duration::ZERO, &held, note("late")).await, Some(false));
        drop(end);
        assert!(busy.await.is_ok());
        // Behind it came what was taken back.
        assert_eq!(background.run_within(long, &held, note("last")).await, Some(true));
        assert_eq!(*held.lock().await, ["soon", "late", "last"]);
        let broken = |_: &mut Vec<_>| assert!(thread::panicking(), "as it is meant to");
        assert_eq!(background.run_within(long, &held, broken).await, None);
        assert_eq!(background.run_within(long, &held, |notes| notes.len()).await, Some(3));
    }

    #[tokio::test]
    async fn what_has_been_begun_is_waited_for() {
        let background = Background::default();
        let held = Arc::new(AsyncMutex::new(0));
        let ((tell, told), (end, wait)) = (oneshot::channel(), channel::<()>());
        let slow = move |held: &mut i32| {
            let _ = tell.send(());
            let _ = wait.recv();
            *held += 1;
            *held
        };
        let begun = async move {
            told.await.expect("it begins");
            drop(end);
        };
        // It is begun before or after the patience ends, and done once.
        let (made, ()) = tokio::join!(background.run_within(Duration::from_secs(60), &held, slow), begun);
        assert_eq!((made, *held.lock().await), (Some(1), 1));
    }
}
