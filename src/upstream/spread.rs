//! How answers of a service are spread over time, in one worker: enough to say how long all but a few take.

/// Steps of one doubling.
const STEPS: u32 = 4;
/// Microseconds, from 1 to more than an hour.
const BUCKETS: usize = 33 * STEPS as usize;
/// Answers after which the older half of their weight is forgotten.
const COUNT_MAX: u32 = 2_000;
/// Fewer answers say nothing.
const COUNT_MIN: u32 = 100;

/// A histogram with steps of a fifth, that forgets.
#[derive(Clone, Debug)]
pub struct Spread {
    buckets: [u16; BUCKETS],
    count: u32,
}

impl Default for Spread {
    fn default() -> Self {
        Self { buckets: [0; BUCKETS], count: 0 }
    }
}

impl Spread {
    /// Takes an answer in.
    pub fn add(&mut self, ns: u64) {
        if self.count >= COUNT_MAX {
            self.buckets.iter_mut().for_each(|bucket| *bucket /= 2);
            self.count = self.buckets.iter().map(|bucket| u32::from(*bucket)).sum();
        }
        self.buckets[bucket_of(ns / 1_000)] += 1;
        self.count += 1;
    }

    /// How long all but the slowest take, in milliseconds, rounded up; None while too few are known.
    pub fn percentile_ms(&self, percent: u32) -> Option<u64> {
        if self.count < COUNT_MIN {
            return None;
        }
        let wanted = (u64::from(self.count) * u64::from(percent.min(100))).div_ceil(100);
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|bucket| {
            seen += u64::from(*bucket);
            seen >= wanted
        });
        bucket.map(|at| end_us(at).div_ceil(1_000))
    }
}

/// The bucket of a time in microseconds.
fn bucket_of(us: u64) -> usize {
    let us = us.max(1);
    let doublings = us.ilog2();
    let step = ((us << 2 >> doublings) & 3) as u32;
    ((doublings * STEPS + step) as usize).min(BUCKETS - 1)
}

/// Where a bucket ends, in microseconds.
fn end_us(bucket: usize) -> u64 {
    let (doublings, step) = (bucket as u32 / STEPS, bucket as u64 % u64::from(STEPS));
    ((u64::from(STEPS) + step + 1) << doublings).div_ceil(u64::from(STEPS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for us in (1..100_000).chain([u64::from(u32::MAX), u64::MAX >> 3]) {
            let bucket = bucket_of(us);
            assert!(bucket == BUCKETS - 1 || us < end_us(bucket).max(us.min(4) + 1), "{us} in {bucket}");
            assert!(bucket == 0 || us >= BUCKETS as u64 || end_us(bucket - 1) <= us.max(4), "{us} in {bucket}");
        }
    }

    #[test]
    fn percentiles_are_within_a_step_and_follow_the_times() {
        let mut spread = Spread::default();
        (0..99).for_each(|_| spread.add(5_000_000));
        assert_eq!(spread.percentile_ms(95), None, "too few");
        (0..901).for_each(|at| spread.add(if at % 20 == 0 { 900_000_000 } else { 5_000_000 }));
        assert!((5..=7).contains(&spread.percentile_ms(90).expect("enough")));
        assert!((900..=1_100).contains(&spread.percentile_ms(99).expect("enough")));
        (0..20_000).for_each(|_| spread.add(80_000_000));
        assert!((80..=100).contains(&spread.percentile_ms(50).expect("enough")), "the past is forgotten");
    }
}
