//! What requests say of an endpoint (R112): failures in a row, and successes among many.

use super::rules::{EjectionRules, OutlierRules};
use crate::error::{Failure, Reason};

/// Nothing of ours is left to connect from.
pub const NO_LOCAL_PORT: Failure = Failure::with(Reason::ConnectFailed, "no local port left");
/// The endpoint has chosen another protocol than at the last handshake; nothing was sent. The next try knows.
pub const CHANGED: Failure = Failure::with(Reason::ConnectFailed, "another protocol than before");

/// A connection to it takes too long already; nobody opens a second one beside it.
pub const LATE: Failure = Failure::with(Reason::ConnectTimeout, "another connection to it is late");

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
    /// There was no connection to it. No request can be the cause.
    Unreached,
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
            // It is there, and as well as before.
            Reason::ConnectFailed if failure == NO_LOCAL_PORT || failure == CHANGED => Outcome::Nothing,
            Reason::ConnectTimeout if failure == LATE => Outcome::Nothing,
            // The time of the whole request may have been spent by the client.
            Reason::RequestTimeout if answered => Outcome::Nothing,
            Reason::ConnectRefused | Reason::ConnectFailed | Reason::ConnectTimeout => Outcome::Unreached,
            Reason::UpstreamReset
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

    /// Whether it brought no whole answer.
    pub const fn is_failure(self) -> bool {
        matches!(self, Outcome::Failed | Outcome::Unreached)
    }

    /// Whether it answered, whatever it said.
    pub const fn is_answer(self) -> bool {
        matches!(self, Outcome::Well | Outcome::GatewayError | Outcome::ServerError)
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
    /// Connections in a row that did not come about, whatever was ejected meanwhile.
    pub unreached: u16,
}

impl Streak {
    /// From one word.
    #[inline]
    pub const fn of_word(word: u64) -> Self {
        Self {
            failures: word as u16,
            gateway_errors: (word >> 16) as u16,
            server_errors: (word >> 32) as u16,
            unreached: (word >> 48) as u16,
        }
    }

    /// As one word.
    pub const fn word(self) -> u64 {
        self.failures as u64
            | (self.gateway_errors as u64) << 16
            | (self.server_errors as u64) << 32
            | (self.unreached as u64) << 48
    }

    /// Without what an ejection has paid for.
    pub const fn begun_anew(self) -> Self {
        Self { failures: 0, gateway_errors: 0, server_errors: 0, unreached: self.unreached }
    }

    /// Counts an outcome. Returns why the endpoint is to be ejected, if it is.
    pub fn add(&mut self, outcome: Outcome, rules: &EjectionRules) -> Option<&'static str> {
        let up = |count: &mut u16| *count = count.saturating_add(1);
        match outcome {
            Outcome::Nothing => return None,
            Outcome::Well => *self = Self::default(),
            Outcome::ServerError => {
                (self.failures, self.gateway_errors, self.unreached) = (0, 0, 0);
                up(&mut self.server_errors);
            }
            Outcome::GatewayError => {
                (self.failures, self.unreached) = (0, 0);
                up(&mut self.gateway_errors);
                up(&mut self.server_errors);
            }
            Outcome::Failed | Outcome::Unreached => {
                if outcome == Outcome::Unreached {
                    up(&mut self.unreached);
                }
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
    /// Successes.
    pub well: u32,
    /// These and failures.
    pub all: u32,
}

impl Window {
    /// With one outcome more.
    pub fn with(self, outcome: Outcome) -> Self {
        match outcome {
            Outcome::Nothing => self,
            Outcome::Well => Self { well: self.well.saturating_add(1), all: self.all.saturating_add(1) },
            _ => Self { all: self.all.saturating_add(1), ..self },
        }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self { well: self.well.saturating_add(other.well), all: self.all.saturating_add(other.all) }
    }

    /// From one word.
    pub const fn of_word(word: u64) -> Self {
        Self { well: word as u32, all: (word >> 32) as u32 }
    }

    /// As one word.
    pub const fn word(self) -> u64 {
        self.well as u64 | (self.all as u64) << 32
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
            assert_eq!(outcome.is_failure(), blamed, "{reason}");
        }
        for nobodys in [NO_LOCAL_PORT, CHANGED, LATE] {
            assert_eq!(Outcome::of(nobodys, false), Outcome::Nothing);
        }
        assert_eq!(Outcome::of(Reason::RequestTimeout.into(), true), Outcome::Nothing);
        let statuses = [200, 404, 500, 501, 502, 503, 504, 505].map(Outcome::answered);
        use Outcome::{GatewayError as G, ServerError as S, Well as W};
        assert_eq!(statuses, [W, W, S, S, G, G, G, S]);
    }

    #[test]
    fn outliers_are_those_far_below_the_others() {
        let rules = OutlierRules { window_ms: 10_000, requests_min: 100, endpoints_min: 5, deviations_milli: 1_900 };
        let window = |well, all| Window { well, all };
        let mut windows = vec![window(990, 1_000); 9];
        assert_eq!(outliers(&windows, &rules), [0; 0], "all alike");
        windows[4] = window(700, 1_000);
        assert_eq!(outliers(&windows, &rules), [4]);
        windows[4] = window(0, 99);
        assert_eq!(outliers(&windows, &rules), [0; 0], "too few requests to judge");
        assert_eq!(outliers(&[window(0, 100), window(100, 100)], &rules), [0; 0], "too few endpoints");
        let two = OutlierRules { endpoints_min: 2, deviations_milli: 500, ..rules };
        assert_eq!(outliers(&[window(0, 100), window(100, 100)], &two), [0]);
    }

    #[test]
    fn windows_count_what_speaks_for_or_against_and_fit_their_word() {
        use Outcome::{Failed, GatewayError, Nothing, ServerError, Unreached, Well};
        let all = [Well, Well, Nothing, GatewayError, ServerError, Failed, Unreached];
        let window = all.into_iter().fold(Window::default(), Window::with);
        assert_eq!(window, Window { well: 2, all: 6 });
        assert_eq!(Window::of_word(window.and(window).word()), Window { well: 4, all: 12 });
        let full = Window { well: u32::MAX, all: u32::MAX };
        assert_eq!((full.and(window), Window::of_word(full.word())), (full, full));
    }
}
