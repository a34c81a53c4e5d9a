//! Latency of an endpoint as balancing sees it: an average over the last ten seconds that takes a peak at once and
//! forgets it slowly (peak EWMA, as in Finagle and linkerd).

use crate::time::Now;

/// What is a tenth of its former weight after 23 s: the time constant, in nanoseconds.
const DECAY_NS: f64 = 10e9;
/// What an endpoint counts that has requests and has not answered any yet, in microseconds: it gets one, not all.
const UNKNOWN_US: f64 = 1e6;

/// One worker's measure of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    us: f64,
    at: Now,
}

impl Latency {
    /// With an answer that took `ns`.
    pub fn with(self, ns: u64, now: Now) -> Self {
        let us = ns as f64 / 1e3;
        let kept = self.weight(now);
        let us = if us > self.us { us } else { self.us * kept + us * (1.0 - kept) };
        Self { us: us.max(1.0), at: now }
    }

    /// What one more request would wait for: less is better. An endpoint that was not asked for long is forgiven.
    pub fn cost(self, active: u32, now: Now) -> u32 {
        let us = match self.us {
            0.0 if active > 0 => UNKNOWN_US,
            us => us * self.weight(now),
        };
        // Saturating, as casts of floats are.
        (us.max(1.0) * (f64::from(active) + 1.0)) as u32
    }

    /// The average after the last answer, in microseconds; 0 before the first.
    pub fn us(self) -> u64 {
        self.us as u64
    }

    fn weight(self, now: Now) -> f64 {
        (-(now.since_ns(self.at) as f64) / DECAY_NS).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Now {
        Now::from_ms(ms)
    }

    #[test]
    fn peaks_count_at_once_and_are_forgotten_slowly() {
        let mut latency = Latency::default();
        for at in 0..100 {
            latency = latency.with(1_000_000, ms(at * 100));
        }
        assert_eq!(latency.cost(0, ms(9_900)), 1_000);
        latency = latency.with(50_000_000, ms(10_000));
        assert_eq!(latency.cost(0, ms(10_000)), 50_000);
        for at in 101..600 {
            latency = latency.with(1_000_000, ms(at * 100));
        }
        assert!(latency.cost(0, ms(60_000)) < 1_500, "{}", latency.cost(0, ms(60_000)));
    }

    #[test]
    fn requests_in_flight_multiply_and_an_unknown_endpoint_gets_one() {
        let known = Latency::default().with(2_000_000, ms(0));
        assert_eq!((known.cost(0, ms(0)), known.cost(3, ms(0))), (2_000, 8_000));
        let unknown = Latency::default();
        assert!(unknown.cost(0, ms(0)) < known.cost(0, ms(0)) && unknown.cost(1, ms(0)) > known.cost(9, ms(0)));
    }
}
