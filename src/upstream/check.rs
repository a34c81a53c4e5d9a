//! Active checks (R108-R111): their rules, and when results make a verdict. The asking is done by the control thread.

use super::health::Verdict;
use crate::limits;

/// How the endpoints of a service are checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckRules {
    /// How.
    pub probe: Probe,
    /// Another port than the one that requests go to.
    pub port: Option<u16>,
    /// From one check of an endpoint to its next, in milliseconds.
    pub interval_ms: u64,
    /// By how much that varies either way, in percent.
    pub jitter_percent: u64,
    /// A whole check, in milliseconds.
    pub timeout_ms: u64,
    /// Successes in a row that make an endpoint up.
    pub rise: u32,
    /// Failures in a row that make it down.
    pub fall: u32,
    /// Endpoints are down before their first verdict.
    pub begins_down: bool,
}

/// What is asked of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It takes a connection.
    Tcp,
    /// It answers a request.
    Http {
        /// The head, whole but for the Host where that is the endpoint's own.
        method: String,
        /// Path and query.
        path: String,
        /// Host; None for the endpoint's own.
        host: Option<String>,
        /// Further fields.
        fields: Vec<(String, String)>,
        /// Statuses that are a success.
        statuses: Vec<u16>,
        /// A text that the body must hold.
        body: Option<String>,
    },
    /// The health service of gRPC says that it is serving.
    Grpc {
        /// The name that is asked for; empty for the whole server.
        service: String,
        /// `:authority`; None for the endpoint's own.
        host: Option<String>,
        /// Metadata.
        fields: Vec<(String, String)>,
    },
}

impl Default for CheckRules {
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            interval_ms: limits::CHECK_INTERVAL_MS,
            jitter_percent: limits::CHECK_JITTER_PERCENT,
            timeout_ms: limits::CHECK_TIMEOUT_MS,
            rise: limits::CHECK_RISE,
            fall: limits::CHECK_FALL,
            begins_down: false,
        }
    }
}

impl CheckRules {
    /// The pause before the next check, in milliseconds: `random` spreads the checks of many gateways and endpoints.
    pub fn pause_ms(&self, random: u64) -> u64 {
        let most = self.interval_ms * self.jitter_percent.min(100) / 100;
        let part = ((u128::from(random) * u128::from(2 * most + 1)) >> 64) as u64;
        (self.interval_ms - most + part).max(1)
    }

    /// The pause before an endpoint's first check, in milliseconds: soon, and not all at once (F18).
    pub fn first_pause_ms(&self, random: u64) -> u64 {
        let most = self.interval_ms.min(limits::CHECK_FIRST_MS);
        ((u128::from(random) * u128::from(most + 1)) >> 64) as u64
    }
}

/// Results in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// Successes since the last failure.
    pub passed: u32,
    /// Failures since the last success (R110).
    pub failed: u32,
}

impl Row {
    /// Counts a result. Returns the verdict that holds from now on. `alone`: nobody else may be asked; whoever passes
    /// then serves at once, since all that a doubt could spare clients is an answer (F29).
    pub fn add(&mut self, passed: bool, verdict: Verdict, rules: &CheckRules, alone: bool) -> Verdict {
        match passed {
            true => (self.passed, self.failed) = (self.passed.saturating_add(1), 0),
            false => (self.passed, self.failed) = (0, self.failed.saturating_add(1)),
        }
        match verdict {
            Verdict::Down if self.passed >= if alone { 1 } else { rules.rise } => Verdict::Up,
            Verdict::Up | Verdict::Unknown if self.failed >= rules.fall => Verdict::Down,
            Verdict::Unknown if self.passed >= rules.rise => Verdict::Up,
            same => same,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(begin: Verdict, results: &[bool]) -> Vec<Verdict> {
        let (rules, mut row, mut verdict) = (CheckRules::default(), Row::default(), begin);
        let step = |passed: &bool| {
            verdict = row.add(*passed, verdict, &rules, false);
            verdict
        };
        results.iter().map(step).collect()
    }

    #[test]
    fn two_rise_and_three_fall() {
        use Verdict::{Down, Unknown, Up};
        assert_eq!(verdicts(Unknown, &[true, true]), [Unknown, Up]);
        assert_eq!(verdicts(Unknown, &[false, false, false]), [Unknown, Unknown, Down]);
        assert_eq!(verdicts(Up, &[false, false, true, false, false, false]), [Up, Up, Up, Up, Up, Down]);
        assert_eq!(verdicts(Down, &[true, false, true, true]), [Down, Down, Down, Up]);
    }

    #[test]
    fn one_pass_is_enough_where_nobody_is_left() {
        let (rules, mut row) = (CheckRules::default(), Row { passed: 0, failed: 7 });
        assert_eq!(row.add(true, Verdict::Down, &rules, true), Verdict::Up);
        assert_eq!(row.add(false, Verdict::Up, &rules, true), Verdict::Up, "and it falls no sooner");
    }

    #[test]
    fn checks_are_spread() {
        let rules = CheckRules::default();
        assert_eq!([0, u64::MAX / 2, u64::MAX].map(|random| rules.pause_ms(random)), [4_500, 5_000, 5_500]);
        assert_eq!(rules.first_pause_ms(u64::MAX), 1_000);
        let quick = CheckRules { interval_ms: 100, jitter_percent: 0, ..rules };
        assert_eq!((quick.pause_ms(7), quick.first_pause_ms(u64::MAX)), (100, 100));
    }
}
