//! Watches the workers' loops (F06, F18): one that takes no turn is warned of with its stack after
//! [`STUCK_WARN_MS`], reported after [`STUCK_REPORT_MS`], and ends the process after [`STUCK_ABORT_MS`], so that the
//! supervisor starts another.
//!
//! ```text
//! worker: a tick each 20 or 64 ms stores the time ──► watchdog: a look each 50 ms ──► late? ─ signal ─ stack ─ log
//! ```
//! Time in which nobody could run is nobody's fault. What the watchdog itself comes late (SIGSTOP, a suspended machine,
//! a debugger, a quota that is used up) is taken off; or what the thread waited for a processor, where that is more,
//! but at most half of the silence: a thread that the machine forgets for long is as bad as one that is stuck.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::symbols;
use crate::limits::{STUCK_ABORT_MS, STUCK_REPORT_MS, STUCK_WARN_MS, WATCHDOG_LATE_MS, WATCHDOG_TURN_MS};
use crate::sys::stack;
use crate::telemetry::log::{self, Level, Site};
use crate::time::Now;
use crate::worker::placement::{Board, Pulse};

/// How long the last lines may take to be written before the process ends.
const LAST_LINES: Duration = Duration::from_millis(500);
const MS: u64 = 1_000_000;

/// The watching thread. It ends with this.
pub struct Watchdog {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    /// Begins to watch.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(board: Arc<Board>) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let theirs = stop.clone();
        let thread = thread::Builder::new().name("watchdog".to_owned()).spawn(move || watch(&board, &theirs))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It cannot have panicked without having said so.
            let _ = thread.join();
        }
    }
}

fn watch(board: &Board, stop: &AtomicBool) {
    let mut judge = Judge::new(board.berths().len(), Now::read().0);
    while !stop.load(Ordering::Acquire) {
        thread::park_timeout(Duration::from_millis(WATCHDOG_TURN_MS));
        let pulse = |worker: usize| &*board.berths()[worker].pulse;
        let beat = |worker: usize| pulse(worker).beat_ns.load(Ordering::Relaxed);
        let waited = |worker: usize| waited_for_processor(pulse(worker).thread.load(Ordering::Relaxed));
        for verdict in judge.turn(Now::read().0, beat, waited) {
            act(verdict, pulse(verdict.worker));
        }
    }
}

/// What is said of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which one.
    pub worker: usize,
    /// How long it took no turn, in milliseconds.
    pub stuck_ms: u64,
    /// What follows.
    pub what: What,
}

/// What follows from a worker's silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// It takes turns again.
    Recovered,
    /// A warning with its stack.
    Warn,
    /// An error, counted.
    Report,
    /// The end of the process.
    Abort,
}

#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    beat_ns: u64,
    /// What was said of the present silence.
    said: Option<What>,
    /// How much of it was the watchdog's own lateness.
    excused_ns: u64,
    /// What the thread had waited for a processor when its silence was first noticed.
    waited_ns: Option<u64>,
}

/// Decides from the times alone.
#[derive(Debug)]
pub struct Judge {
    last_turn_ns: u64,
    workers: Vec<Watched>,
}

impl Judge {
    /// A judge of so many workers, at a time of the monotonic clock in nanoseconds.
    pub fn new(workers: usize, now_ns: u64) -> Self {
        Self { last_turn_ns: now_ns, workers: vec![Watched::default(); workers] }
    }

    /// One look. `beat` tells when a worker last took a turn (0: it does not run), `waited` how long its thread has
    /// waited for a processor in all; it is asked only of silent ones.
    pub fn turn(&mut self, now_ns: u64, beat: impl Fn(usize) -> u64, waited: impl Fn(usize) -> u64) -> Vec<Verdict> {
        let late_ns = now_ns.saturating_sub(self.last_turn_ns + WATCHDOG_TURN_MS * MS);
        self.last_turn_ns = now_ns;
        let late_ns = if late_ns > WATCHDOG_LATE_MS * MS { late_ns } else { 0 };
        let mut verdicts = Vec::new();
        for (worker, watched) in self.workers.iter_mut().enumerate() {
            if let Some((stuck_ns, what)) = watched.look(now_ns, beat(worker), late_ns, || waited(worker)) {
                verdicts.push(Verdict { worker, stuck_ms: stuck_ns / MS, what });
            }
        }
        verdicts
    }
}

impl Watched {
    fn look(&mut self, now_ns: u64, beat_ns: u64, late_ns: u64, waited: impl Fn() -> u64) -> Option<(u64, What)> {
        if beat_ns != self.beat_ns {
            let stuck_ns = beat_ns.saturating_sub(self.beat_ns + self.excused_ns);
            let was_stuck = self.said.is_some() && beat_ns != 0;
            *self = Self { beat_ns, ..Self::default() };
            return was_stuck.then_some((stuck_ns, What::Recovered));
        }
        self.excused_ns += late_ns;
        let silent_ns = now_ns.saturating_sub(beat_ns);
        if beat_ns == 0 || silent_ns.saturating_sub(self.excused_ns) < STUCK_WARN_MS * MS / 2 {
            return None;
        }
        let waited_ns = waited();
        let starved_ns = waited_ns.saturating_sub(*self.waited_ns.get_or_insert(waited_ns)).min(silent_ns / 2);
        let stuck_ns = silent_ns.saturating_sub(starved_ns.max(self.excused_ns));
        let what = match stuck_ns / MS {
            STUCK_ABORT_MS.. => What::Abort,
            STUCK_REPORT_MS.. => What::Report,
            STUCK_WARN_MS.. => What::Warn,
            _ => return None,
        };
        if self.said >= Some(what) {
            return None;
        }
        self.said = Some(what);
        Some((stuck_ns, what))
    }
}

fn act(verdict: Verdict, pulse: &Pulse) {
    let Verdict { worker, stuck_ms, what } = verdict;
    let thread = pulse.thread.load(Ordering::Relaxed);
    match what {
        What::Recovered => log::warn("worker takes turns again", &[("worker", &worker), ("stuck_ms", &stuck_ms)]),
        What::Warn => {
            static SITE: Site = Site::new();
            let stack = stack_text(thread);
            let fields: &[log::Field<'_>] = &[("worker", &worker), ("stuck_ms", &stuck_ms), ("stack", &stack)];
            SITE.write(Level::Warn, "worker takes no turn", fields, Now::read());
        }
        What::Report => {
            pulse.stalls.fetch_add(1, Ordering::Relaxed);
            let stack = stack_text(thread);
            log::error("worker is stuck", &[("worker", &worker), ("stuck_ms", &stuck_ms), ("stack", &stack)]);
        }
        What::Abort => {
            let stack = stack_text(thread);
            let fields: &[log::Field<'_>] = &[("worker", &worker), ("stuck_ms", &stuck_ms), ("stack", &stack)];
            log::error("worker is stuck for good, the process ends", fields);
            log::flush(LAST_LINES);
            std::process::abort();
        }
    }
}

/// The stack of a thread, innermost first; what the kernel says of it when it does not answer.
fn stack_text(thread: i32) -> String {
    match stack::of(thread) {
        Ok(frames) if !frames.is_empty() => symbols::describe(&frames).join(" <- "),
        _ => {
            let of =
                |file: &str| std::fs::read_to_string(format!("/proc/self/task/{thread}/{file}")).unwrap_or_default();
            format!("no answer; in the kernel: {} {}", of("wchan").trim(), of("syscall").trim())
        }
    }
}

/// Time that a thread was ready to run without a processor, in nanoseconds; 0 where the kernel does not tell.
fn waited_for_processor(thread: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|ns| ns.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks at each turn from `from` to `to` ms at one worker whose last beat was at `beat` ms.
    fn looks(judge: &mut Judge, from: u64, to: u64, beat: u64, waited: impl Fn(u64) -> u64) -> Vec<(u64, What)> {
        let mut all = Vec::new();
        for ms in (from..=to).step_by(WATCHDOG_TURN_MS as usize) {
            let verdicts = judge.turn(ms * MS, |_| beat * MS, |_| waited(ms) * MS);
            all.extend(verdicts.into_iter().map(|verdict| (ms, verdict.what)));
        }
        all
    }

    #[test]
    fn silence_is_warned_of_reported_and_ended() {
        let mut judge = Judge::new(1, 1_000 * MS);
        let said = looks(&mut judge, 1_050, 7_000, 1_000, |_| 0);
        assert_eq!(said, [(1_100, What::Warn), (2_000, What::Report), (6_000, What::Abort)]);
    }

    #[test]
    fn a_turn_ends_the_silence_and_is_told_once() {
        let mut judge = Judge::new(1, 1_000 * MS);
        assert_eq!(looks(&mut judge, 1_050, 1_300, 1_000, |_| 0), [(1_100, What::Warn)]);
        let verdicts = judge.turn(1_350 * MS, |_| 1_310 * MS, |_| 0);
        assert_eq!(verdicts, [Verdict { worker: 0, stuck_ms: 310, what: What::Recovered }]);
        assert_eq!(looks(&mut judge, 1_400, 1_450, 1_390, |_| 0), []);
        assert_eq!(looks(&mut judge, 1_500, 1_500, 1_390, |_| 0), [(1_500, What::Warn)], "the next one is told again");
    }

    #[test]
    fn a_stop_of_the_whole_process_is_forgiven() {
        let mut judge = Judge::new(1, 1_000 * MS);
        assert_eq!(looks(&mut judge, 1_050, 1_050, 1_000, |_| 0), []);
        // 60 s later the watchdog wakes first; the worker has what was left to it.
        assert_eq!(looks(&mut judge, 61_050, 61_050, 1_040, |_| 0), []);
        let awake = judge.turn(61_100 * MS, |_| 61_060 * MS, |_| 0);
        assert_eq!(awake, []);
        assert_eq!(looks(&mut judge, 61_150, 61_200, 61_060, |_| 0), [(61_200, What::Warn)]);
    }

    #[test]
    fn a_watchdog_that_is_late_again_and_again_still_ends_a_stuck_worker() {
        // A quota lets the process run for 50 of each 150 ms: 5 s of its own time are 15 s.
        let mut judge = Judge::new(1, 1_000 * MS);
        let mut said = Vec::new();
        for ms in (1_150..60_000).step_by(150) {
            said.extend(judge.turn(ms * MS, |_| 1_000 * MS, |_| 0).into_iter().map(|verdict| (ms, verdict.what)));
        }
        let (ms, what) = *said.last().expect("some");
        assert!(what == What::Abort && (15_500..16_500).contains(&ms), "{said:?}");
    }

    #[test]
    fn a_thread_that_gets_no_processor_has_twice_the_time() {
        let mut judge = Judge::new(1, 1_000 * MS);
        // It waited all the time since it was first noticed.
        let said = looks(&mut judge, 1_050, 12_000, 1_000, |ms| ms);
        assert_eq!(said, [(1_100, What::Warn), (3_000, What::Report), (11_000, What::Abort)]);
        let mut judge = Judge::new(1, 1_000 * MS);
        // A quarter of the time.
        let said = looks(&mut judge, 1_050, 12_000, 1_000, |ms| ms / 4);
        let (ms, what) = *said.last().expect("some");
        assert!(what == What::Abort && (7_500..7_800).contains(&ms), "{said:?}");
    }

    #[test]
    fn workers_that_do_not_run_are_not_judged() {
        let mut judge = Judge::new(2, 1_000 * MS);
        assert_eq!(looks(&mut judge, 1_050, 9_000, 0, |_| 0), []);
    }
}
