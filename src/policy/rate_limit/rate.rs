//! Token bucket arithmetic on one number: the time at which the bucket will be full again.
//!
//! The "theoretical arrival time" (TAT) of GCRA (ITU-T I.371) is a token bucket in another dress: with interval `T` per
//! token and capacity `B`, the bucket holds `(now + B*T - max(TAT, now)) / T` tokens, and taking `n` moves TAT to
//! `max(TAT, now) + n*T`. One number per key means one compare-and-swap per decision.

use crate::time::Now;

/// Ticks per nanosecond. Rates of millions per second divide badly into whole nanoseconds; 64 bits of ticks still last
/// 36 years of uptime.
pub const TICKS_PER_NS: u64 = 16;
/// Most requests per second that a rate can express: an interval of 160 ticks, rounded up by less than 1 %.
pub const REQUESTS_PER_SECOND_MAX: u64 = 100_000_000;
/// Longest time for a whole bucket to fill: a year.
pub const FILL_NS_MAX: u64 = 366 * 86_400 * 1_000_000_000;

/// A point in time, or a span of it, in ticks.
pub type Ticks = u64;

/// The ticks of a point in time.
#[inline]
pub const fn ticks(now: Now) -> Ticks {
    now.0.saturating_mul(TICKS_PER_NS)
}

/// The ticks of a span in milliseconds.
pub const fn ticks_of_ms(ms: u64) -> Ticks {
    ms.saturating_mul(1_000_000 * TICKS_PER_NS)
}

/// Whole milliseconds of a span or a point, rounded up.
#[inline]
pub const fn ms_of_ticks(ticks: Ticks) -> u64 {
    ticks.div_ceil(1_000_000 * TICKS_PER_NS)
}

/// A rate with its burst (R73): both sides of a token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Ticks,
    capacity: Ticks,
    burst: u32,
}

impl Rate {
    /// `requests` per `per_ns` nanoseconds, at most `burst` at once. The interval is rounded up, so the rate is never
    /// exceeded.
    ///
    /// # Errors
    /// A sentence when one of them is zero, or the rate or the time to fill the bucket is out of range.
    pub fn new(requests: u64, per_ns: u64, burst: u32) -> Result<Self, String> {
        if requests == 0 || per_ns == 0 || burst == 0 {
            return Err("`requests`, `per` and `burst` must be above zero".to_owned());
        }
        let interval = (u128::from(per_ns) * u128::from(TICKS_PER_NS)).div_ceil(u128::from(requests));
        if interval < u128::from(1_000_000_000 * TICKS_PER_NS / REQUESTS_PER_SECOND_MAX) {
            return Err(format!("the rate is over {REQUESTS_PER_SECOND_MAX} requests per second"));
        }
        let capacity = interval * u128::from(burst);
        match (u64::try_from(interval), u64::try_from(capacity)) {
            (Ok(interval), Ok(capacity)) if capacity <= FILL_NS_MAX * TICKS_PER_NS => {
                Ok(Self { interval, capacity, burst })
            }
            _ => Err("the bucket would take more than 366 days to fill".to_owned()),
        }
    }

    /// Most tokens at once.
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// Time per token.
    pub const fn interval(&self) -> Ticks {
        self.interval
    }

    /// Time in which the empty bucket fills.
    pub const fn capacity(&self) -> Ticks {
        self.capacity
    }

    /// The TAT that counts: `leased` tokens are out but not spent, and the bucket holds at most `burst - leased`, so
    /// that bucket and leases together never hold more than `burst`.
    #[inline]
    pub fn base(&self, tat: Ticks, leased: u32, now: Ticks) -> Ticks {
        // A TAT beyond a whole bucket was left by a larger or slower one before a reload: take it as empty. Clocks of
        // workers differ by a loop turn, which is no reason to forgive.
        let ceiling = now.saturating_add(self.capacity);
        let tat = if tat > ceiling.saturating_add(FORGIVE) { ceiling } else { tat };
        tat.max(now.saturating_add(self.interval.saturating_mul(u64::from(leased))))
    }

    /// Whole tokens in a bucket of this base.
    #[inline]
    pub fn level(&self, base: Ticks, now: Ticks) -> u32 {
        let empty = base.saturating_sub(now).min(self.capacity);
        // At most `burst`, which is a u32.
        ((self.capacity - empty) / self.interval) as u32
    }

    /// How long until a bucket of this base has `tokens`.
    #[inline]
    pub fn wait(&self, base: Ticks, tokens: u32, now: Ticks) -> Ticks {
        self.moved(base, u64::from(tokens)).saturating_sub(self.capacity).saturating_sub(now)
    }

    /// The base after taking `tokens`.
    #[inline]
    pub fn moved(&self, base: Ticks, tokens: u64) -> Ticks {
        base.saturating_add(self.interval.saturating_mul(tokens))
    }
}

const FORGIVE: Ticks = ticks_of_ms(1_000);

/// What a limiter says about one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the request may pass.
    pub admitted: bool,
    /// Tokens left, as far as this worker knows.
    pub remaining: u32,
    /// How long until the request could pass; 0 when it may.
    pub retry: Ticks,
    /// When the whole quota is there again.
    pub full_at: Ticks,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_never_rounded_up() {
        for (requests, per_ns) in [(3, 1_000_000_000), (7, 60_000_000_000), (99_999_999, 1_000_000_000)] {
            let rate = Rate::new(requests, per_ns, 1).expect("legal");
            assert!(u128::from(rate.interval()) * u128::from(requests) >= u128::from(per_ns) * 16);
        }
    }

    #[test]
    fn out_of_range_is_refused() {
        for (requests, per_ns, burst) in [
            (0, 1, 1),
            (1, 0, 1),
            (1, 1, 0),
            (101_000_000, 1_000_000_000, 1),
            (1, FILL_NS_MAX, 2),
            (1, u64::MAX, u32::MAX),
        ] {
            assert!(Rate::new(requests, per_ns, burst).is_err());
        }
        assert!(Rate::new(10_000, 1_000_000_000, 5_000).is_ok(), "C10");
    }

    #[test]
    fn level_and_wait_agree() {
        let rate = Rate::new(10, 1_000_000_000, 5).expect("legal");
        let now = 1_000 * rate.interval();
        assert_eq!(rate.level(0, now), 5);
        let base = rate.moved(rate.base(0, 0, now), 5);
        assert_eq!((rate.level(base, now), rate.wait(base, 1, now)), (0, rate.interval()));
        assert_eq!(rate.level(base, now + rate.interval()), 1);
        assert_eq!(rate.level(rate.base(0, 3, now), now), 2, "three are leased out");
        assert_eq!(rate.base(u64::MAX, 0, now), now + rate.capacity(), "left by a slower bucket");
    }
}
