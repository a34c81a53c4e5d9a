//! What requests say of an endpoint (R112): failures in a row, and successes among many.

use super::rules::{EjectionRules, OutlierRules};
use crate::error::{Failure, Reason};
use crate::time::Now;

/// How an endpoint did with one attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered with less than 500.
    Well,
    /// It answered with 502, 503 or 504.
    GatewayError,
    /// It answered with another 5xx.
    ServerError,
    /// It brought no whole answer.
    Failed,
    /// What happened says nothing about it.
    Nothing,
}

impl Outcome {
    /// That of an answer.
    #[inline]
    pub const fn answered(status: u16) -> Self {
        match status {
            502..=504 => Outcome::GatewayError,
            500.. => Outcome::ServerError,
            _ => Outcome::Well,
        }
    }

    /// That of a failure. `answered`: the head of a response had come.
    pub fn of(failure: Failure, answered: bool) -> Self {
        match failure.reason {
            Reason::ConnectFailed if failure.detail == "no local port left" => Outcome::Nothing,
            // The time of the whole request may have been spent by the client.
            Reason::RequestTimeout if answered => Outcome::Nothing,
            Reason::ConnectRefused
            | Reason::ConnectFailed
            | Reason::ConnectTimeout
            | Reason::UpstreamReset
            | Reason::UpstreamCertificate
            | Reason::UpstreamHandshake
            | Reason::UpstreamClosed
            | Reason::UpstreamTimeout
            | Reason::RequestTimeout
            | Reason::UpstreamInvalid
            | Reason::UpstreamBadChunk
            | Reason::UpstreamHeaderTooLarge
            | Reason::UpstreamTruncated => Outcome::Failed,
            _ => Outcome::Nothing,
        }
    }
}

/// Failures of one endpoint in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streak {
    /// Attempts without a whole answer.
    pub failures: u16,
    /// These, and answers 502 to 504.
    pub gateway_errors: u16,
    /// These, and other answers 5xx.
    pub server_errors: u16,
}

impl Streak {
    /// Counts an outcome. Returns why the endpoint is to be ejected, if it is.
    pub fn add(&mut self, outcome: Outcome, rules: &EjectionRules) -> Option<&'static str> {
        let up = |count: &mut u16| *count = count.saturating_add(1);
        match outcome {
            Outcome::Nothing => return None,
            Outcome::Well => *self = Self::default(),
            Outcome::ServerError => {
                (self.failures, self.gateway_errors) = (0, 0);
                up(&mut self.server_errors);
            }
            Outcome::GatewayError => {
                self.failures = 0;
                up(&mut self.gateway_errors);
                up(&mut self.server_errors);
            }
            Outcome::Failed => {
                up(&mut self.failures);
                up(&mut self.gateway_errors);
                up(&mut self.server_errors);
            }
        }
        let over = |count: u16, most: u32| most > 0 && u32::from(count) >= most;
        match () {
            () if over(self.failures, rules.failures) => Some("failures in a row"),
            () if over(self.gateway_errors, rules.gateway_errors) => Some("gateway errors in a row"),
            () if over(self.server_errors, rules.server_errors) => Some("server errors in a row"),
            () => None,
        }
    }
}

/// Successes and failures of one endpoint since some time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    begun: Option<Now>,
    well: u32,
    all: u32,
}

impl Window {
    /// An empty one.
    pub fn begun(now: Now) -> Self {
        Self { begun: Some(now), well: 0, all: 0 }
    }

    /// Whether it counts.
    #[inline]
    pub fn counts(&self) -> bool {
        self.begun.is_some()
    }

    /// With one outcome more.
    pub fn with(self, outcome: Outcome) -> Self {
        match (self.begun, outcome) {
            (None, _) | (_, Outcome::Nothing) => self,
            (_, Outcome::Well) => Self { well: self.well.saturating_add(1), all: self.all.saturating_add(1), ..self },
            _ => Self { all: self.all.saturating_add(1), ..self },
        }
    }

    /// Whether its time is over; one that has not begun is.
    pub fn is_over(&self, now: Now, rules: &OutlierRules) -> bool {
        self.begun.is_none_or(|begun| now.since_ns(begun) / 1_000_000 >= rules.window_ms)
    }
}

/// Endpoints whose share of successes is far below that of the others.
pub fn outliers(windows: &[Window], rules: &OutlierRules) -> Vec<usize> {
    let judged = || windows.iter().enumerate().filter(|(_, window)| window.all >= rules.requests_min.max(1));
    let count = judged().count();
    if count < rules.endpoints_min.max(2) as usize {
        return Vec::new();
    }
    let rate = |window: &Window| f64::from(window.well) / f64::from(window.all);
    let mean = judged().map(|(_, window)| rate(window)).sum::<f64>() / count as f64;
    let variance = judged().map(|(_, window)| (rate(window) - mean).powi(2)).sum::<f64>() / count as f64;
    let least = mean - variance.sqrt() * f64::from(rules.deviations_milli) / 1_000.0;
    judged().filter(|(_, window)| rate(window) < least).map(|(at, _)| at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ejected(outcomes: &[Outcome], rules: &EjectionRules) -> Option<(usize, &'static str)> {
        let mut streak = Streak::default();
        outcomes.iter().enumerate().find_map(|(at, outcome)| Some((at + 1, streak.add(*outcome, rules)?)))
    }

    #[test]
    fn rows_of_failures_eject_and_a_success_breaks_them() {
        use Outcome::{Failed, GatewayError, Nothing, ServerError, Well};
        let rules = EjectionRules::default();
        assert_eq!(ejected(&[Failed; 9], &rules), Some((3, "failures in a row")));
        assert_eq!(ejected(&[GatewayError; 9], &rules), Some((5, "gateway errors in a row")));
        assert_eq!(ejected(&[ServerError; 99], &rules), None, "a 500 is the service's own affair by default");
        assert_eq!(ejected(&[Failed, Failed, Well, Failed, Failed], &rules), None);
        assert_eq!(ejected(&[Failed, Nothing, Failed, Nothing, Failed], &rules), Some((5, "failures in a row")));
        let mixed = [Failed, Failed, GatewayError, Failed, Failed];
        assert_eq!(ejected(&mixed, &rules), Some((5, "gateway errors in a row")));
        let strict = EjectionRules { server_errors: 2, ..rules.clone() };
        assert_eq!(ejected(&[ServerError, GatewayError], &strict), Some((2, "server errors in a row")));
        let off = EjectionRules { failures: 0, gateway_errors: 0, ..rules };
        assert_eq!(ejected(&[Failed; 99], &off), None);
    }

    #[test]
    fn every_reason_says_something_or_nothing() {
        for reason in Reason::ALL {
            let outcome = Outcome::of((*reason).into(), false);
            // A refused answer is judged by its status; a refused stream is an endpoint that goes in good order.
            let judged_elsewhere = matches!(reason, Reason::UpstreamStatus | Reason::UpstreamRefused);
            let blamed = reason.origin() == crate::error::Origin::Upstream && !judged_elsewhere;
            assert_eq!(outcome == Outcome::Failed, blamed, "{reason}");
        }
        let ours = Failure::with(Reason::ConnectFailed, "no local port left");
        assert_eq!(Outcome::of(ours, false), Outcome::Nothing);
        assert_eq!(Outcome::of(Reason::RequestTimeout.into(), true), Outcome::Nothing);
        let statuses = [200, 404, 500, 501, 502, 503, 504, 505].map(Outcome::answered);
        use Outcome::{GatewayError as G, ServerError as S, Well as W};
        assert_eq!(statuses, [W, W, S, S, G, G, G, S]);
    }

    #[test]
    fn outliers_are_those_far_below_the_others() {
        let rules = OutlierRules { window_ms: 10_000, requests_min: 100, endpoints_min: 5, deviations_milli: 1_900 };
        let window = |well, all| Window { begun: Some(Now(0)), well, all };
        let mut windows = vec![window(990, 1_000); 9];
        assert_eq!(outliers(&windows, &rules), [0; 0], "all alike");
        windows[4] = window(700, 1_000);
        assert_eq!(outliers(&windows, &rules), [4]);
        windows[4] = window(0, 99);
        assert_eq!(outliers(&windows, &rules), [0; 0], "too few requests to judge");
        assert_eq!(outliers(&[window(0, 100), window(100, 100)], &rules), [0; 0], "too few endpoints");
    }
}
