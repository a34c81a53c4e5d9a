//! What all workers together have seen of an endpoint: failures in a row, as one word.
//!
//! The word is read for each request and written for a failure and for the first success after one: while all is well
//! nothing that workers share is written. The failure that is one too many is seen by exactly one worker, since counts
//! begin anew in the same step.

use std::sync::atomic::{AtomicU64, Ordering};

use super::passive::{Outcome, Streak, Window};
use super::rules::EjectionRules;
use crate::limits::UNREACHABLE_TRIAL_MS;
use crate::time::Now;

/// The counts of one endpoint, with a cache line to themselves. All orders are relaxed: each word stands alone.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct Record {
    row: AtomicU64,
    trials: Pace,
    /// Successes and failures since outliers were looked for, as far as workers have told of them.
    window: AtomicU64,
}

/// Lets one through in a while, over all workers.
#[derive(Debug, Default)]
pub struct Pace(AtomicU64);

impl Pace {
    /// Whether this one may: none else in the next [`UNREACHABLE_TRIAL_MS`].
    pub fn take(&self, now: Now) -> bool {
        self.take_for(UNREACHABLE_TRIAL_MS, now)
    }

    /// Whether this one may, and none else in the next `ms`.
    pub fn take_for(&self, ms: u64, now: Now) -> bool {
        let due = self.0.load(Ordering::Relaxed);
        let next = now.plus_ms(ms).0;
        now.0 >= due && self.0.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

impl Record {
    /// The failures in a row.
    #[inline]
    pub fn streak(&self) -> Streak {
        Streak::of_word(self.row.load(Ordering::Relaxed))
    }

    /// Whether nothing speaks against it.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.row.load(Ordering::Relaxed) == 0
    }

    /// Whether connecting failed so often in a row that it would be ejected for it, and nothing has succeeded since.
    #[inline]
    pub fn is_unreachable(&self, rules: &EjectionRules) -> bool {
        rules.failures > 0 && u32::from(self.streak().unreached) >= rules.failures
    }

    /// Counts an outcome. Returns why the endpoint is to be ejected, if it is: to one caller alone.
    pub fn add(&self, outcome: Outcome, rules: &EjectionRules) -> Option<&'static str> {
        let mut word = self.row.load(Ordering::Relaxed);
        loop {
            let mut streak = Streak::of_word(word);
            let why = streak.add(outcome, rules);
            if why.is_some() {
                streak = streak.begun_anew();
            }
            match self.row.compare_exchange_weak(word, streak.word(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return why,
                Err(other) => word = other,
            }
        }
    }

    /// Takes in what a worker has seen since it told last: each does once a second, so that a request writes nothing
    /// here.
    pub fn tell(&self, window: Window) {
        let with = |word| Some(Window::of_word(word).and(window).word());
        // Never an error: there is always a next word.
        let _ = self.window.fetch_update(Ordering::Relaxed, Ordering::Relaxed, with);
    }

    /// What all workers have told since this was asked last.
    pub fn take_window(&self) -> Window {
        Window::of_word(self.window.swap(0, Ordering::Relaxed))
    }

    /// Forgets failures: an endpoint that comes back has no past. That it could not be reached holds until it can.
    pub fn begin_anew(&self) {
        let anew = |word| {
            let anew = Streak::of_word(word).begun_anew().word();
            (anew != word).then_some(anew)
        };
        // Not an error: there was nothing to forget.
        let _ = self.row.fetch_update(Ordering::Relaxed, Ordering::Relaxed, anew);
    }

    /// Whether a request may try now an endpoint that could not be reached: one in [`UNREACHABLE_TRIAL_MS`], over all
    /// workers.
    pub fn take_trial(&self, now: Now) -> bool {
        self.trials.take(now)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn failures_of_all_workers_count_together_and_one_of_them_ejects() {
        let (record, rules) = (Arc::<Record>::default(), EjectionRules { failures: 50, ..EjectionRules::default() });
        let strict = EjectionRules { gateway_errors: 0, ..rules };
        let worker = || {
            let (record, rules) = (record.clone(), strict.clone());
            move || (0..1_000).filter(|_| record.add(Outcome::Failed, &rules).is_some()).count()
        };
        let workers: Vec<_> = (0..4).map(|_| std::thread::spawn(worker())).collect();
        let ejections: usize = workers.into_iter().map(|worker| worker.join().expect("a worker")).sum();
        assert_eq!((ejections, record.is_clean()), (4_000 / 50, true));
    }

    #[test]
    fn what_cannot_be_reached_stays_so_until_it_answers() {
        let (record, rules) = (Record::default(), EjectionRules::default());
        let reasons: Vec<_> = (0..3).map(|_| record.add(Outcome::Unreached, &rules)).collect();
        assert_eq!(reasons, [None, None, Some("failures in a row")]);
        assert!(record.is_unreachable(&rules) && record.streak().failures == 0);
        record.begin_anew();
        record.add(Outcome::Failed, &rules);
        record.add(Outcome::Nothing, &rules);
        assert!(record.is_unreachable(&rules), "whoever closes without an answer has not answered");
        record.begin_anew();
        assert_eq!(record.streak(), Streak { unreached: 3, ..Streak::default() });
        record.add(Outcome::GatewayError, &rules);
        assert!(!record.is_unreachable(&rules), "it answers");
        record.add(Outcome::Well, &rules);
        assert!(record.is_clean());
        let never = EjectionRules { failures: 0, ..rules };
        (0..9).for_each(|_| _ = record.add(Outcome::Unreached, &never));
        assert!(!record.is_unreachable(&never), "without ejection nobody is judged");
    }

    #[test]
    fn one_request_in_a_while_is_a_trial() {
        let record = Record::default();
        let now = Now::from_ms(5_000);
        assert!(record.take_trial(now) && !record.take_trial(now));
        assert!(!record.take_trial(now.plus_ms(UNREACHABLE_TRIAL_MS - 1)));
        assert!(record.take_trial(now.plus_ms(UNREACHABLE_TRIAL_MS)));
    }
}
