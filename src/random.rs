//! Chance from a seed: splitmix64 (Steele, Lea, Flood 2014). For choices, ids and tests that repeat, never for secrets.

/// What the state of the generator grows by.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The value behind this state. Distinct states have distinct values, so it also serves to scatter numbers.
#[inline]
pub const fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(STEP);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The next value of the sequence.
#[inline]
pub const fn next(state: &mut u64) -> u64 {
    let value = mix(*state);
    *state = state.wrapping_add(STEP);
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first values of the reference implementation for the seed 1234567.
    #[test]
    fn equals_the_reference() {
        let mut state = 1_234_567;
        let values = [(); 3].map(|()| next(&mut state));
        assert_eq!(values, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }
}
