//! The circuit breaker of a service (R117-R128, C24, C25): it stops asking a service that fails, and tries again after
//! a while with a few requests.
//!
//! ```text
//!            failure_threshold in a row                 timeout is over
//!   closed ───────────────────────────► open ─────────────────────────► half open
//!      ▲  ▲                              ▲                                 │  │
//!      │  └── reset ─────────────────────┼───────── a trial fails ─────────┘  │
//!      └──────────────── half_open_requests trials succeed ───────────────────┘
//! ```
//! The whole state is one word, which all workers share. A request reads it; it is written by failures, by the first
//! success behind failures, and by trials. While all is well nothing is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits;
use crate::time::Now;

/// The numbers of a breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerRules {
    /// Failures in a row that open it (R118).
    pub failure_threshold: u32,
    /// How long it stays open, in milliseconds (R119).
    pub open_ms: u64,
    /// Trials at once while half open, and successes that close it (R120, R122).
    pub half_open_requests: u32,
    /// Statuses that are failures (C25).
    pub statuses: Vec<u16>,
}

impl Default for BreakerRules {
    fn default() -> Self {
        Self {
            failure_threshold: limits::BREAKER_FAILURES,
            open_ms: limits::BREAKER_OPEN_MS,
            half_open_requests: limits::BREAKER_TRIALS,
            statuses: vec![502, 503, 504],
        }
    }
}

/// A state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All requests pass.
    Closed {
        /// Failures in a row.
        failures: u32,
    },
    /// None passes.
    Open {
        /// When trials begin, in milliseconds of the monotonic clock.
        until_ms: u64,
    },
    /// A few pass, as trials.
    HalfOpen {
        /// Which time it is half open: results of an earlier one do not count.
        period: u32,
        /// Trials under way.
        trials: u32,
        /// Trials that succeeded.
        successes: u32,
    },
}

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// Pass.
    Pass,
    /// Pass as a trial of this period.
    Trial(u32),
    /// Not pass; come back after so many milliseconds.
    Refused(u64),
}

/// How a request that passed ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The service answered.
    Success,
    /// It did not, or with a status that counts as a failure.
    Failure,
    /// What happened says nothing about it.
    Nothing,
}

const PERIOD_BITS: u32 = 30;
const COUNT_MASK: u64 = 0xffff;

impl State {
    /// The word in reports and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            State::Closed { .. } => "closed",
            State::Open { .. } => "open",
            State::HalfOpen { .. } => "half_open",
        }
    }

    /// All words, for metrics.
    pub const WORDS: [&'static str; 3] = ["closed", "open", "half_open"];

    /// Lets a request in. Returns the state behind it, and what it may do.
    fn enter(self, now: Now, rules: &BreakerRules, period: u32) -> (Self, Entry) {
        match self {
            State::Closed { .. } => (self, Entry::Pass),
            State::Open { until_ms } if now.ms() < until_ms => (self, Entry::Refused(until_ms - now.ms())),
            State::Open { .. } => (State::HalfOpen { period, trials: 1, successes: 0 }, Entry::Trial(period)),
            State::HalfOpen { trials, successes, .. } if trials + successes >= rules.half_open_requests => {
                (self, Entry::Refused(limits::BREAKER_TRIAL_RETRY_MS))
            }
            State::HalfOpen { period, trials, successes } => {
                (State::HalfOpen { period, trials: trials + 1, successes }, Entry::Trial(period))
            }
        }
    }

    /// Takes a result. `trial` is the period that the request was a trial of.
    fn settle(self, trial: Option<u32>, verdict: Verdict, now: Now, rules: &BreakerRules) -> Self {
        let open = State::Open { until_ms: now.ms() + rules.open_ms };
        match (self, trial, verdict) {
            (State::Closed { .. }, None, Verdict::Success) => State::Closed { failures: 0 },
            (State::Closed { failures }, None, Verdict::Failure) if failures + 1 >= rules.failure_threshold => open,
            (State::Closed { failures }, None, Verdict::Failure) => State::Closed { failures: failures + 1 },
            (State::HalfOpen { period, trials, successes }, Some(trial), _) if trial == period => {
                let trials = trials.saturating_sub(1);
                match verdict {
                    Verdict::Failure => open,
                    Verdict::Success if successes + 1 >= rules.half_open_requests => State::Closed { failures: 0 },
                    Verdict::Success => State::HalfOpen { period, trials, successes: successes + 1 },
                    Verdict::Nothing => State::HalfOpen { period, trials, successes },
                }
            }
            // Requests that began in another state say nothing about this one.
            _ => self,
        }
    }

    const fn pack(self) -> u64 {
        match self {
            State::Closed { failures } => failures as u64,
            State::Open { until_ms } => 1 << 62 | (until_ms & (u64::MAX >> 2)),
            State::HalfOpen { period, trials, successes } => {
                2 << 62
                    | ((period as u64 & ((1 << PERIOD_BITS) - 1)) << 32)
                    | ((successes as u64 & COUNT_MASK) << 16)
                    | (trials as u64 & COUNT_MASK)
            }
        }
    }

    const fn unpack(word: u64) -> Self {
        match word >> 62 {
            0 => State::Closed { failures: word as u32 },
            1 => State::Open { until_ms: word & (u64::MAX >> 2) },
            _ => State::HalfOpen {
                period: (word >> 32) as u32 & ((1 << PERIOD_BITS) - 1),
                trials: (word & COUNT_MASK) as u32,
                successes: (word >> 16 & COUNT_MASK) as u32,
            },
        }
    }
}

/// A breaker, shared by all workers. The word has a cache line of its own.
#[derive(Debug)]
#[repr(align(128))]
pub struct Breaker {
    word: AtomicU64,
    /// How often it opened.
    opened: AtomicU64,
}

/// A breaker where it is configured.
#[derive(Clone, Debug)]
pub struct BreakerSpec {
    /// What it is called in the admin API and in metrics.
    pub name: String,
    /// Its numbers.
    pub rules: BreakerRules,
    /// What all workers share; the same over reloads.
    pub shared: Arc<Breaker>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { word: AtomicU64::new(State::Closed { failures: 0 }.pack()), opened: AtomicU64::new(0) }
    }
}

impl Breaker {
    /// Lets a request in. Relaxed throughout: the word is all there is, and no other memory depends on it.
    #[inline]
    pub fn enter(&self, now: Now, rules: &BreakerRules) -> Entry {
        match State::unpack(self.word.load(Ordering::Relaxed)) {
            State::Closed { .. } => Entry::Pass,
            state => self.enter_slowly(state, now, rules),
        }
    }

    #[cold]
    fn enter_slowly(&self, mut state: State, now: Now, rules: &BreakerRules) -> Entry {
        loop {
            let period = self.opened.load(Ordering::Relaxed) as u32 & ((1 << PERIOD_BITS) - 1);
            let (next, entry) = state.enter(now, rules, period);
            match self.swap(state, next) {
                Ok(()) => return entry,
                Err(other) => state = other,
            }
        }
    }

    /// Takes a result.
    #[inline]
    pub fn settle(&self, trial: Option<u32>, verdict: Verdict, now: Now, rules: &BreakerRules) {
        let state = self.state();
        if state != state.settle(trial, verdict, now, rules) {
            self.settle_slowly(state, trial, verdict, now, rules);
        }
    }

    #[cold]
    fn settle_slowly(&self, mut state: State, trial: Option<u32>, verdict: Verdict, now: Now, rules: &BreakerRules) {
        loop {
            let next = state.settle(trial, verdict, now, rules);
            match self.swap(state, next) {
                Ok(()) => {
                    let opens = matches!(next, State::Open { .. }) && !matches!(state, State::Open { .. });
                    self.opened.fetch_add(u64::from(opens), Ordering::Relaxed);
                    return;
                }
                Err(other) => state = other,
            }
        }
    }

    fn swap(&self, from: State, to: State) -> Result<(), State> {
        if from == to {
            return Ok(());
        }
        let swapped = self.word.compare_exchange_weak(from.pack(), to.pack(), Ordering::Relaxed, Ordering::Relaxed);
        swapped.map(|_| ()).map_err(State::unpack)
    }

    /// The state as it is kept: an open breaker whose time is over opens half with the next request.
    pub fn state(&self) -> State {
        State::unpack(self.word.load(Ordering::Relaxed))
    }

    /// How often it opened.
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// Closes it (R127).
    pub fn reset(&self) {
        self.word.store(State::Closed { failures: 0 }.pack(), Ordering::Relaxed);
    }
}

/// The way of one request through a breaker. Dropped without a verdict it gives its place as a trial back.
pub struct Passage<'a> {
    spec: &'a BreakerSpec,
    trial: Option<u32>,
    settled: bool,
}

impl BreakerSpec {
    /// Lets a request in.
    ///
    /// # Errors
    /// It is open: after so many milliseconds trials begin.
    #[inline]
    pub fn enter(&self, now: Now) -> Result<Passage<'_>, u64> {
        let passage = |trial| Passage { spec: self, trial, settled: false };
        match self.shared.enter(now, &self.rules) {
            Entry::Pass => Ok(passage(None)),
            Entry::Trial(period) => Ok(passage(Some(period))),
            Entry::Refused(ms) => Err(ms),
        }
    }
}

impl Passage<'_> {
    /// Whether an answer with this status is a failure.
    #[inline]
    pub fn is_failure(&self, status: u16) -> bool {
        status >= 500 && self.spec.rules.statuses.contains(&status)
    }

    /// Says how the request ended.
    #[inline]
    pub fn settle(mut self, verdict: Verdict, now: Now) {
        self.settled = true;
        self.spec.shared.settle(self.trial, verdict, now, &self.spec.rules);
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if !self.settled && self.trial.is_some() {
            self.spec.shared.settle(self.trial, Verdict::Nothing, Now(0), &self.spec.rules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: BreakerRules =
        BreakerRules { failure_threshold: 5, open_ms: 60_000, half_open_requests: 3, statuses: Vec::new() };

    fn at(seconds: u64) -> Now {
        Now::from_ms(seconds * 1_000)
    }

    const fn half(trials: u32, successes: u32) -> State {
        State::HalfOpen { period: 7, trials, successes }
    }

    #[test]
    fn states_fit_their_word() {
        for state in [
            State::Closed { failures: 0 },
            State::Closed { failures: u32::MAX },
            State::Open { until_ms: 123_456_789_012 },
            State::HalfOpen { period: (1 << 30) - 1, trials: 65_535, successes: 3 },
        ] {
            assert_eq!(State::unpack(state.pack()), state);
        }
    }

    #[test]
    fn every_entry_has_its_outcome() {
        let (closed, open) = (State::Closed { failures: 4 }, State::Open { until_ms: 60_000 });
        for (state, now, want) in [
            (closed, at(0), (closed, Entry::Pass)),
            (open, at(59), (open, Entry::Refused(1_000))),
            (open, at(60), (half(1, 0), Entry::Trial(7))),
            (half(1, 0), at(61), (half(2, 0), Entry::Trial(7))),
            (half(2, 0), at(61), (half(3, 0), Entry::Trial(7))),
            (half(3, 0), at(61), (half(3, 0), Entry::Refused(limits::BREAKER_TRIAL_RETRY_MS))),
            (half(1, 2), at(61), (half(1, 2), Entry::Refused(limits::BREAKER_TRIAL_RETRY_MS))),
            (half(0, 2), at(61), (half(1, 2), Entry::Trial(7))),
        ] {
            assert_eq!(state.enter(now, &RULES, 7), want, "{state:?}");
        }
    }

    #[test]
    fn every_result_has_its_outcome() {
        use Verdict::{Failure, Nothing, Success};
        let (closed, reopened) = (|failures| State::Closed { failures }, State::Open { until_ms: 160_000 });
        let open = State::Open { until_ms: 200_000 };
        for (state, trial, verdict, want) in [
            (closed(0), None, Success, closed(0)),
            (closed(4), None, Success, closed(0)),
            (closed(0), None, Failure, closed(1)),
            (closed(3), None, Failure, closed(4)),
            (closed(4), None, Failure, reopened),
            (closed(4), None, Nothing, closed(4)),
            // A trial that ends when it is closed again says nothing new.
            (closed(2), Some(7), Success, closed(2)),
            (closed(4), Some(7), Failure, closed(4)),
            // What began before it opened does not count while it is open, or half open.
            (open, None, Success, open),
            (open, None, Failure, open),
            (open, Some(7), Success, open),
            (open, Some(7), Failure, open),
            (half(2, 0), None, Failure, half(2, 0)),
            (half(2, 0), None, Success, half(2, 0)),
            (half(3, 0), Some(7), Success, half(2, 1)),
            (half(2, 1), Some(7), Success, half(1, 2)),
            (half(1, 2), Some(7), Success, closed(0)),
            (half(3, 0), Some(7), Failure, reopened),
            (half(1, 2), Some(7), Failure, reopened),
            (half(2, 1), Some(7), Nothing, half(1, 1)),
            // A trial of an earlier period.
            (half(2, 1), Some(6), Failure, half(2, 1)),
            (half(2, 1), Some(6), Success, half(2, 1)),
        ] {
            assert_eq!(state.settle(trial, verdict, at(100), &RULES), want, "{state:?} {trial:?} {verdict:?}");
        }
    }

    fn spec() -> BreakerSpec {
        BreakerSpec { name: "up".into(), rules: RULES, shared: Arc::default() }
    }

    #[test]
    fn the_whole_way_round() {
        let spec = spec();
        let fail = |now| spec.enter(now).map(|passage| passage.settle(Verdict::Failure, now)).is_ok();
        assert!((0..5).all(|_| fail(at(1))) && !fail(at(2)));
        assert_eq!(spec.enter(at(31)).err(), Some(30_000), "what a client is told");
        let mut trials: Vec<_> = (0..3).map(|_| spec.enter(at(61)).expect("a trial")).collect();
        assert!(spec.enter(at(61)).is_err(), "three at once");
        drop(trials.pop());
        trials.push(spec.enter(at(61)).expect("the place of the one that left"));
        trials.into_iter().for_each(|trial| trial.settle(Verdict::Success, at(62)));
        assert_eq!((spec.shared.state(), spec.shared.opened()), (State::Closed { failures: 0 }, 1));
        assert!((0..5).all(|_| fail(at(70))));
        spec.enter(at(130)).expect("a trial").settle(Verdict::Failure, at(131));
        assert_eq!(spec.enter(at(131)).err(), Some(60_000), "open for the whole time again");
        assert_eq!(spec.shared.opened(), 3);
        spec.shared.reset();
        assert!(spec.enter(at(132)).is_ok());
    }

    #[test]
    fn many_workers_never_have_more_trials_than_allowed() {
        use std::sync::atomic::AtomicUsize;
        let spec = BreakerSpec { rules: BreakerRules { failure_threshold: 1, open_ms: 0, ..RULES }, ..spec() };
        spec.enter(at(0)).expect("closed").settle(Verdict::Failure, at(0));
        let (under_way, most, passed) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for turn in 0..20_000 {
                        let Ok(passage) = spec.enter(at(1)) else { continue };
                        if passage.trial.is_none() {
                            // Closed by successes: open it again.
                            passage.settle(Verdict::Failure, at(1));
                            continue;
                        }
                        most.fetch_max(under_way.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        passed.fetch_add(1, Ordering::SeqCst);
                        under_way.fetch_sub(1, Ordering::SeqCst);
                        // Never a failure here: it would begin a new period beside trials of the old one.
                        passage.settle(if turn % 3 == 0 { Verdict::Nothing } else { Verdict::Success }, at(1));
                    }
                });
            }
        });
        assert!(most.load(Ordering::SeqCst) <= 3 && passed.load(Ordering::SeqCst) > 1_000);
    }
}
