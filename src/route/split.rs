//! A weighted choice between services (canary releases).

/// Most services that one split may name.
pub const SPLIT_CHOICES_MAX: usize = 64;

/// Chooses an index in exact proportion to its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WeightedSplit {
    /// Running sums of the weights; the last is their total, which is not 0.
    sums: Box<[u64]>,
}

impl WeightedSplit {
    /// One weight per choice, in any unit; 0 means never.
    ///
    /// # Errors
    /// A sentence for the user if there are no weights, too many ([`SPLIT_CHOICES_MAX`]), or only zeros.
    pub fn new(weights: &[u32]) -> Result<WeightedSplit, String> {
        if weights.len() > SPLIT_CHOICES_MAX {
            return Err(format!("{} services in one split; at most {SPLIT_CHOICES_MAX}", weights.len()));
        }
        let mut total = 0;
        let sums: Box<[u64]> = weights
            .iter()
            .map(|weight| {
                total += u64::from(*weight);
                total
            })
            .collect();
        if total == 0 {
            return Err("a split needs at least one service with a weight above 0".into());
        }
        Ok(WeightedSplit { sums })
    }

    /// The index that `random`, uniform over all 64 bits, falls on. Each index owns its weight's share of the 2^64
    /// values, to within one value.
    pub fn pick(&self, random: u64) -> usize {
        let total = self.sums.last().copied().unwrap_or(0);
        let point = ((u128::from(random) * u128::from(total)) >> 64) as u64;
        self.sums.partition_point(|sum| *sum <= point)
    }

    /// Each index's share of the requests, in percent.
    pub fn shares(&self) -> impl Iterator<Item = f64> {
        let total = self.sums.last().copied().unwrap_or(1) as f64;
        let starts = std::iter::once(0).chain(self.sums.iter().copied());
        self.sums.iter().zip(starts).map(move |(end, start)| (end - start) as f64 * 100.0 / total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses() {
        assert!(WeightedSplit::new(&[]).is_err());
        assert!(WeightedSplit::new(&[0, 0]).is_err());
        assert!(WeightedSplit::new(&[1; SPLIT_CHOICES_MAX + 1]).is_err());
    }

    #[test]
    fn ends() {
        let split = WeightedSplit::new(&[0, 1, 0, 99, 0]).unwrap();
        assert_eq!((split.pick(0), split.pick(u64::MAX)), (1, 3));
        let largest = WeightedSplit::new(&[u32::MAX; SPLIT_CHOICES_MAX]).unwrap();
        assert_eq!((largest.pick(0), largest.pick(u64::MAX)), (0, SPLIT_CHOICES_MAX - 1));
    }

    proptest! {
        #[test]
        fn exact(weights in prop::collection::vec(0u32..40, 1..12)) {
            prop_assume!(weights.iter().any(|weight| *weight > 0));
            let split = WeightedSplit::new(&weights).unwrap();
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0u32; weights.len()];
            for share in 0..total {
                let random = (u128::from(share) << 64).div_ceil(u128::from(total)) as u64;
                counts[split.pick(random)] += 1;
            }
            prop_assert_eq!(counts, weights);
        }
    }
}
