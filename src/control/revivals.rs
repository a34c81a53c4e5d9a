//! Workers that died and wait to be started again, and what the process says of a panic.

use std::fmt;
use std::panic::PanicHookInfo;
use std::thread;

use tokio::time::{Instant, sleep_until};

use super::fleet::Death;
use super::symbols;
use crate::sys::stack;
use crate::telemetry::log::{self, Level, Site};
use crate::time::Now;

/// Workers that wait for their restart.
#[derive(Debug, Default)]
pub struct Revivals(Vec<(Instant, u32)>);

impl Revivals {
    /// One more.
    pub fn add(&mut self, death: Death) {
        self.0.push((Instant::now() + death.after, death.worker));
    }

    /// The next one that is due; never, while there is none. Safe to drop and call again.
    pub async fn due(&self) -> u32 {
        match self.0.iter().min() {
            Some(&(at, worker)) => {
                sleep_until(at).await;
                worker
            }
            None => std::future::pending().await,
        }
    }

    /// That worker no longer waits.
    pub fn done(&mut self, worker: u32) {
        self.0.retain(|(_, waiting)| *waiting != worker);
    }
}

/// Panics go to the process log: one line each, and few of them when a peer can cause them.
pub fn log_panics() {
    static SITE: Site = Site::new();
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or(payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic without a text");
        let place = info.location().map_or_else(String::new, ToString::to_string);
        let thread = thread::current().name().unwrap_or("unnamed").to_owned();
        let stack = Named(stack::own());
        let fields: [log::Field<'_>; 4] = [("thread", &thread), ("panic", &text), ("place", &place), ("stack", &stack)];
        SITE.write(Level::Error, "panicked", &fields, Now::read());
    }));
}

/// A stack whose names are looked up only when the line is written.
struct Named(Vec<usize>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&symbols::describe(&self.0).join(" <- "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn the_earliest_is_due_first_and_each_once() {
        let mut waiting = Revivals::default();
        waiting.add(Death { worker: 3, after: Duration::from_millis(20) });
        waiting.add(Death { worker: 1, after: Duration::ZERO });
        for worker in [1, 3] {
            assert_eq!(waiting.due().await, worker);
            waiting.done(worker);
        }
        let never = tokio::time::timeout(Duration::from_millis(1), waiting.due());
        assert!(never.await.is_err());
    }
}
