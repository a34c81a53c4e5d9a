//! The retry budget of a service in one worker (F25): retries may be a part of its requests, and a few besides.
//!
//! Each worker has its own, so that nothing is shared. The sum over all workers of a node is then bounded by `percent`
//! of the requests of the last ten seconds, plus `per_second` a second, plus `least` for each worker once.

use super::rules::BudgetRules;
use crate::time::Now;

/// How many seconds back requests earn retries.
const SECONDS: usize = 10;

/// One worker's budget.
#[derive(Clone, Debug, Default)]
pub struct RetryBudget {
    /// Requests and retries by second, the present one last used.
    requests: [u32; SECONDS],
    retries: [u32; SECONDS],
    second: u64,
    /// Thousandths of retries that time has earned.
    earned_milli: u64,
    earned_at: Option<Now>,
}

impl RetryBudget {
    /// Takes a retry out of the budget, if there is one left. `requests` came since the last call, and `workers` share
    /// the part that time earns.
    pub fn take(&mut self, requests: u32, now: Now, rules: &BudgetRules, workers: u32) -> bool {
        self.count(requests, now);
        let asked: u64 = self.requests.iter().copied().map(u64::from).sum();
        let repeated: u64 = self.retries.iter().copied().map(u64::from).sum();
        if (repeated + 1) * 100 <= asked * u64::from(rules.percent) {
            self.retries[self.slot()] += 1;
            return true;
        }
        self.earn(now, rules, workers);
        let enough = self.earned_milli >= 1_000;
        if enough {
            self.earned_milli -= 1_000;
        }
        enough
    }

    /// Counts requests; to be called at least once a second while there are any.
    pub fn count(&mut self, requests: u32, now: Now) {
        let second = now.ms() / 1_000;
        let passed = second.saturating_sub(self.second).min(SECONDS as u64);
        for step in 0..passed {
            let slot = ((second - step) % SECONDS as u64) as usize;
            (self.requests[slot], self.retries[slot]) = (0, 0);
        }
        self.second = second.max(self.second);
        let slot = self.slot();
        self.requests[slot] = self.requests[slot].saturating_add(requests);
    }

    fn slot(&self) -> usize {
        (self.second % SECONDS as u64) as usize
    }

    fn earn(&mut self, now: Now, rules: &BudgetRules, workers: u32) {
        let per_second_milli = u64::from(rules.per_second) * 1_000 / u64::from(workers.max(1));
        let most = (u64::from(rules.least) * 1_000).max(per_second_milli);
        self.earned_milli = match self.earned_at {
            None => u64::from(rules.least) * 1_000,
            Some(at) => self.earned_milli + now.since_ns(at) / 1_000_000 * per_second_milli / 1_000,
        };
        // Parts of a millisecond are not lost: they count from the time that was credited.
        if self.earned_at.is_none_or(|at| now.since_ns(at) >= 1_000_000) {
            self.earned_at = Some(now);
        }
        self.earned_milli = self.earned_milli.min(most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: BudgetRules = BudgetRules { percent: 20, per_second: 10, least: 3 };

    #[test]
    fn a_storm_is_held_to_a_fifth_and_ten_a_second() {
        let mut budget = RetryBudget::default();
        let (mut repeated, seconds, rate) = (0u64, 30, 500);
        for ms in (0..seconds * 1_000).step_by(2) {
            // Every request fails and wants three retries.
            let mut requests = 1;
            for _ in 0..3 {
                repeated += u64::from(budget.take(requests, Now::from_ms(ms), &RULES, 1));
                requests = 0;
            }
        }
        let bound = seconds * rate / 5 + 10 * seconds + 3;
        assert!(repeated <= bound && repeated * 100 > bound * 90, "{repeated} of {bound}");
    }

    #[test]
    fn few_requests_have_a_few_retries_all_the_same() {
        let mut budget = RetryBudget::default();
        let taken =
            |budget: &mut RetryBudget, ms| (0..50).filter(|_| budget.take(0, Now::from_ms(ms), &RULES, 4)).count();
        assert_eq!(taken(&mut budget, 0), 3, "the least");
        assert_eq!(taken(&mut budget, 400), 1, "a quarter of ten in a second");
        assert_eq!(taken(&mut budget, 60_000), 3, "what is not used is not saved up");
    }

    #[test]
    fn requests_earn_retries_for_ten_seconds() {
        let mut budget = RetryBudget::default();
        budget.count(1_000, Now::from_ms(500));
        let none = BudgetRules { per_second: 0, least: 0, ..RULES };
        assert!(budget.clone().take(0, Now::from_ms(9_900), &none, 1));
        assert!(!budget.take(0, Now::from_ms(10_000), &none, 1));
    }
}
