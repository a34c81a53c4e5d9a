//! How a service survives: rules that the configuration sets, with the defaults of `limits.rs`.

use super::health::Returning;
use crate::limits;

/// How a service deals with endpoints that fail.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resilience {
    /// When endpoints are left alone for a while.
    pub ejection: EjectionRules,
    /// For how long, and how they come back.
    pub returning: Returning,
    /// Who is asked.
    pub selection: SelectionRules,
    /// When a request is tried again.
    pub retries: RetryRules,
}

/// When an endpoint is ejected: what all workers have seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EjectionRules {
    /// Attempts in a row that brought no whole answer: refused, reset, closed, garbage, too late. 0: never.
    pub failures: u32,
    /// Answers in a row with 502, 503 or 504, failures counted too. 0: never.
    pub gateway_errors: u32,
    /// Answers in a row with any 5xx, failures counted too. 0: never.
    pub server_errors: u32,
    /// Part of the pool that may be out by ejection, in percent.
    pub percent_max: u32,
    /// Ejects those whose share of successes is far below that of the others.
    pub outliers: Option<OutlierRules>,
}

/// Success-rate outliers: an endpoint with a rate below mean − factor × standard deviation of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutlierRules {
    /// How long is counted, in milliseconds.
    pub window_ms: u64,
    /// Requests of an endpoint in the window, for it to be judged.
    pub requests_min: u32,
    /// Endpoints with so many, for any to be judged.
    pub endpoints_min: u32,
    /// Standard deviations below the mean, in thousandths.
    pub deviations_milli: u32,
}

impl Default for EjectionRules {
    fn default() -> Self {
        Self {
            failures: limits::EJECTION_FAILURES,
            gateway_errors: limits::EJECTION_GATEWAY_ERRORS,
            server_errors: 0,
            percent_max: limits::EJECTION_PERCENT_MAX,
            outliers: None,
        }
    }
}

/// Which endpoints are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectionRules {
    /// Below this part of healthy endpoints in the last tier that is left, in percent, all are asked (F27).
    pub panic_percent: u32,
    /// In a panic the healthy ones alone are asked all the same, and nobody where there is none.
    pub panic_fails: bool,
    /// How much more than its share a tier can take, in percent: a tier is full as long as its healthy part times this
    /// is at least 100.
    pub overprovision_percent: u32,
    /// Where the gateway stands; empty when that is not said.
    pub zone: String,
}

impl Default for SelectionRules {
    fn default() -> Self {
        Self {
            panic_percent: limits::PANIC_PERCENT,
            panic_fails: false,
            overprovision_percent: limits::OVERPROVISION_PERCENT,
            zone: String::new(),
        }
    }
}

/// When a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRules {
    /// Attempts for one request, the first one counted (C50).
    pub attempts_max: u32,
    /// From the beginning of an attempt to the head of its response, in milliseconds; None leaves it to the others.
    pub per_try_ms: Option<u64>,
    /// An endpoint that refuses or cannot be reached.
    pub on_connect: bool,
    /// A connection that ends, or brings no HTTP, before the response.
    pub on_reset: bool,
    /// An endpoint that does not answer in time.
    pub on_timeout: bool,
    /// Responses with these statuses.
    pub statuses: Vec<u16>,
    /// Responses with these codes in `grpc-status`.
    pub grpc_codes: Vec<u32>,
    /// The same endpoint again, where there is no other.
    pub same_endpoint: bool,
    /// Methods that are not idempotent as well (RFC 9110 section 9.2.2).
    pub any_method: bool,
    /// A request with `Idempotency-Key` counts as idempotent.
    pub idempotency_key: bool,
    /// Request body that is held to be sent again, in bytes.
    pub replay_bytes_max: usize,
    /// How long is waited.
    pub backoff: Backoff,
    /// How many there may be.
    pub budget: BudgetRules,
    /// When the same request goes to another endpoint as well.
    pub hedge: Option<Hedge>,
    /// A request header that tells the endpoint how many milliseconds are left.
    pub deadline_header: Option<String>,
}

impl Default for RetryRules {
    fn default() -> Self {
        Self {
            attempts_max: limits::ATTEMPTS_MAX,
            per_try_ms: None,
            on_connect: true,
            on_reset: true,
            on_timeout: false,
            statuses: Vec::new(),
            grpc_codes: Vec::new(),
            same_endpoint: false,
            any_method: false,
            idempotency_key: true,
            replay_bytes_max: limits::REPLAY_BYTES_MAX,
            backoff: Backoff::default(),
            budget: BudgetRules::default(),
            hedge: None,
            deadline_header: None,
        }
    }
}

impl RetryRules {
    /// Whether an answer may be a reason to try again.
    #[inline]
    pub fn looks_at_answers(&self) -> bool {
        !self.statuses.is_empty() || !self.grpc_codes.is_empty()
    }
}

/// When a request goes to another endpoint before the first one has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hedge {
    /// After so many milliseconds.
    pub after_ms: u64,
    /// Or after what so many percent of the service's answers take, once that is known.
    pub percentile: Option<u32>,
    /// Copies at most, beside the first.
    pub most: u8,
}

/// The pause before a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// It grows by the number of retries instead of doubling (R130).
    pub linear: bool,
    /// The first one at most, in milliseconds.
    pub base_ms: u64,
    /// All at most, in milliseconds.
    pub max_ms: u64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { linear: false, base_ms: limits::BACKOFF_MS, max_ms: limits::BACKOFF_MS_MAX }
    }
}

impl Backoff {
    /// The pause before retry number `retry` (from 1), in milliseconds: any from none to the whole, as `random` falls.
    /// Full jitter spreads those that failed together best (Brooker 2015).
    pub fn pause_ms(&self, retry: u32, random: u64) -> u64 {
        let factor = if self.linear { u64::from(retry) } else { 1 << retry.saturating_sub(1).min(20) };
        let whole = self.base_ms.saturating_mul(factor).min(self.max_ms.max(self.base_ms));
        ((u128::from(random) * u128::from(whole + 1)) >> 64) as u64
    }
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BudgetRules {
    /// Part of the requests of the last ten seconds, in percent.
    pub percent: u32,
    /// So many a second besides, in the whole node.
    pub per_second: u32,
    /// So many at once besides, in each worker.
    pub least: u32,
}

impl Default for BudgetRules {
    fn default() -> Self {
        Self {
            percent: limits::RETRY_BUDGET_PERCENT,
            per_second: limits::RETRY_BUDGET_PER_SECOND,
            least: limits::RETRY_BUDGET_LEAST,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_cap_and_are_spread_over_the_whole() {
        let exponential = Backoff::default();
        let most = |backoff: Backoff, retry| backoff.pause_ms(retry, u64::MAX);
        assert_eq!([1, 2, 3, 4, 5, 99].map(|retry| most(exponential, retry)), [25, 50, 100, 200, 250, 250]);
        let linear = Backoff { linear: true, ..exponential };
        assert_eq!([1, 2, 3, 9, 11].map(|retry| most(linear, retry)), [25, 50, 75, 225, 250]);
        assert_eq!(exponential.pause_ms(3, 0), 0);
        assert_eq!(exponential.pause_ms(3, u64::MAX / 2), 50);
    }
}
