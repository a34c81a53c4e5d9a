//! Whether a peer keeps to its least rate over the time that the gateway waits for it (F39).

/// The account of one message: it starts with the grace, waiting is taken from it, bytes are paid into it at the least
/// rate, and it never holds more than the grace. So a burst does not buy hours of trickling, a pause is made good by
/// what follows it, and time that the gateway itself needs is not counted.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    bytes_per_s: u64,
    grace_ns: u64,
    left_ns: u64,
}

/// Waits below this are not looked at while the account is full: what a fast peer causes.
const SHORT_NS: u64 = 1_000_000;

impl Pace {
    /// The account of a message that must come with `bytes_per_s` (0: with any), after `grace_ms` that cost nothing.
    #[inline]
    pub fn new(bytes_per_s: u64, grace_ms: u64) -> Self {
        let grace_ns = grace_ms.saturating_mul(1_000_000);
        Self { bytes_per_s, grace_ns, left_ns: grace_ns }
    }

    /// Accounts for a wait and for what it brought. Returns whether the peer is fast enough so far.
    #[inline]
    pub fn keeps_up(&mut self, waited_ns: u64, bytes: usize) -> bool {
        if waited_ns < SHORT_NS && self.left_ns == self.grace_ns {
            return true;
        }
        self.settle(waited_ns, bytes as u64)
    }

    fn settle(&mut self, waited_ns: u64, bytes: u64) -> bool {
        if self.bytes_per_s == 0 {
            return true;
        }
        let earned_ns = bytes.saturating_mul(1_000_000_000) / self.bytes_per_s;
        let left = self.left_ns.saturating_add(earned_ns).checked_sub(waited_ns);
        self.left_ns = left.unwrap_or(0).min(self.grace_ns);
        left.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::{RATE_BYTES_MIN, RATE_GRACE_MS};

    const SECOND_NS: u64 = 1_000_000_000;

    /// After how many waits of `wait_ms` with `bytes` each a peer is let go.
    fn let_go_after(pace: &mut Pace, wait_ms: u64, bytes: usize) -> Option<u64> {
        (1..=10_000).find(|_| !pace.keeps_up(wait_ms * 1_000_000, bytes))
    }

    #[test]
    fn the_rate_divides_the_slow_from_the_fast() {
        let new = || Pace::new(RATE_BYTES_MIN, RATE_GRACE_MS);
        assert_eq!(let_go_after(&mut new(), 1_000, 1), Some(11));
        assert_eq!(let_go_after(&mut new(), 1_000, 256), None);
        assert_eq!(let_go_after(&mut new(), 1_000, 250), Some(427));
        assert_eq!(let_go_after(&mut new(), 10, 3), None);
        assert_eq!(let_go_after(&mut new(), 10, 2), Some(4572));
        let mut off = Pace::new(0, 1);
        assert_eq!(let_go_after(&mut off, 60_000, 1), None);
    }

    #[test]
    fn a_burst_buys_no_more_than_the_grace() {
        let mut pace = Pace::new(RATE_BYTES_MIN, RATE_GRACE_MS);
        assert!(pace.keeps_up(SECOND_NS, 100_000_000));
        assert_eq!(let_go_after(&mut pace, 1_000, 1), Some(11));
    }

    #[test]
    fn a_pause_is_made_good_by_what_follows() {
        let mut pace = Pace::new(RATE_BYTES_MIN, RATE_GRACE_MS);
        assert!(pace.keeps_up(25 * SECOND_NS, 16 * 1024));
        assert!(!Pace::new(RATE_BYTES_MIN, RATE_GRACE_MS).keeps_up(25 * SECOND_NS, 1024));
        let mut spent = Pace::new(RATE_BYTES_MIN, RATE_GRACE_MS);
        assert!(!spent.keeps_up(25 * SECOND_NS, 1));
        assert!(!spent.keeps_up(SECOND_NS, 1), "it stays too slow");
    }
}
