//! When a certificate is ordered, as pure arithmetic.

use crate::limits::{ACME_BACK_OFF_S, ACME_BACK_OFF_S_MAX, ACME_RETRY_AFTER_S_MAX, ACME_UNREACHABLE_S};

/// When a certificate is renewed, in seconds since the Unix epoch: at two thirds of its life, and up to a thirtieth
/// later, so that what was ordered together is not renewed together. `chance` comes from the certificate itself:
/// processes that share it agree.
pub fn renewal_s(not_before_s: i64, not_after_s: i64, chance: u64) -> i64 {
    let life_s = not_after_s.saturating_sub(not_before_s).max(0);
    let spread_s = (life_s / 30).max(1) as u64;
    not_before_s.saturating_add(life_s / 3 * 2 + life_s % 3 * 2 / 3).saturating_add((chance % spread_s) as i64)
}

/// How long nothing is ordered for a name after so many failures in a row, in seconds. What the authority asks for
/// holds where it is longer; a tenth more by chance.
pub fn pause_s(failures: u32, unreachable: bool, retry_after_s: Option<u64>, chance: u64) -> u64 {
    let first_s = if unreachable { ACME_UNREACHABLE_S } else { ACME_BACK_OFF_S };
    let doubled = first_s.saturating_mul(1 << failures.saturating_sub(1).min(20));
    let pause_s = doubled.min(ACME_BACK_OFF_S_MAX);
    let asked_s = retry_after_s.unwrap_or(0).min(ACME_RETRY_AFTER_S_MAX);
    let pause_s = pause_s.max(asked_s);
    pause_s + chance % (pause_s / 10 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_renewed_at_two_thirds_of_their_life_and_not_all_at_once() {
        let (begin, life) = (1_800_000_000, 90 * 86_400);
        let at = |chance| renewal_s(begin, begin + life, chance) - begin;
        assert_eq!(at(0), 60 * 86_400);
        for chance in [1, 77, u64::MAX, 123_456_789] {
            assert!((60 * 86_400..=63 * 86_400).contains(&at(chance)), "{chance}");
        }
        assert_ne!(at(1), at(86_400));
        assert_eq!(renewal_s(100, 130, 99), 120, "a life of seconds");
        assert!(renewal_s(100, 50, 3) <= 101, "an end before the beginning is due at once");
        assert!(renewal_s(i64::MIN, i64::MAX, 3) < i64::MAX);
    }

    #[test]
    fn no_failure_is_repeated_soon_or_for_ever_put_off() {
        let pauses: Vec<u64> = (1..40).map(|failures| pause_s(failures, false, None, 0)).collect();
        assert_eq!(pauses[..5], [120, 240, 480, 960, 1_920]);
        assert!(pauses[..4].iter().sum::<u64>() + pauses[4] > 3_600, "five within an hour at most");
        assert_eq!(pauses.last(), Some(&ACME_BACK_OFF_S_MAX));
        assert_eq!((pause_s(1, true, None, 0), pause_s(99, true, None, 0)), (15, ACME_BACK_OFF_S_MAX));
        assert_eq!(pause_s(1, false, Some(7_200), 0), 7_200, "the authority's word");
        assert_eq!(pause_s(9, false, Some(1), 0), ACME_BACK_OFF_S_MAX, "not sooner for it");
        assert_eq!(pause_s(1, false, Some(u64::MAX), 0), ACME_RETRY_AFTER_S_MAX);
        assert!((120..=132).contains(&pause_s(1, false, None, u64::MAX)));
    }
}
