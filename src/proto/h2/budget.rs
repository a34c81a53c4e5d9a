//! What a peer may do for free (F41 to F45): every counter that it drives stands here, and each has a bound.
//!
//! A flood is not told from use by its frames but by their number: in ten seconds a peer may do so much of each, and
//! what its own requests and the data for it account for.

use super::code::Fatal;
use crate::limits::{
    H2_CONTROLS_MAX, H2_CONTROLS_PER_DATA, H2_CONTROLS_PER_STREAM, H2_CONTROLS_SAVED_MAX, H2_EMPTY_DATA_MAX,
    H2_FLOOD_MS, H2_RESETS_MADE_MAX, H2_RESETS_MAX, H2_TINY_DATA_BYTES, H2_TINY_DATA_MAX,
};
use crate::time::Now;

/// The counters of one connection.
#[derive(Debug)]
pub struct Budget {
    since: Now,
    resets: u32,
    resets_made: u32,
    controls: u32,
    empty_data: u32,
    /// Control frames accounted for.
    saved: u32,
    /// What tiny DATA frames lack, as long as nobody has taken their payload.
    tiny: u32,
}

/// `count` goes up by one, within `most`.
#[inline]
fn count(count: &mut u32, most: u32, why: &'static str) -> Result<(), Fatal> {
    if *count >= most {
        return Err(Fatal::flood(why));
    }
    *count += 1;
    Ok(())
}

impl Budget {
    /// Nothing was done yet.
    pub fn new(now: Now) -> Self {
        Self { since: now, resets: 0, resets_made: 0, controls: 0, empty_data: 0, saved: 0, tiny: 0 }
    }

    /// The counts begin anew every [`H2_FLOOD_MS`].
    #[inline]
    fn at(&mut self, now: Now) -> &mut Self {
        if now >= self.since.plus_ms(H2_FLOOD_MS) {
            let (saved, tiny) = (self.saved, self.tiny);
            *self = Self { saved, tiny, ..Self::new(now) };
        }
        self
    }

    /// The peer reset a stream (F41).
    ///
    /// # Errors
    /// One too many.
    pub fn reset(&mut self, now: Now) -> Result<(), Fatal> {
        count(&mut self.at(now).resets, H2_RESETS_MAX, "too many resets")
    }

    /// The peer made this side reset a stream (F43).
    ///
    /// # Errors
    /// One too many.
    pub fn reset_made(&mut self, now: Now) -> Result<(), Fatal> {
        count(&mut self.at(now).resets_made, H2_RESETS_MADE_MAX, "too many stream errors")
    }

    /// A frame came that moves nothing on (F45).
    ///
    /// # Errors
    /// One too many.
    #[inline]
    pub fn control(&mut self, now: Now) -> Result<(), Fatal> {
        if self.saved > 0 {
            self.saved -= 1;
            return Ok(());
        }
        count(&mut self.at(now).controls, H2_CONTROLS_MAX, "too many control frames")
    }

    /// Data was sent to the peer, which accounts for some control frames.
    #[inline]
    pub fn data_sent(&mut self) {
        self.save(H2_CONTROLS_PER_DATA);
    }

    /// A stream was opened, which accounts for some.
    #[inline]
    pub fn stream_opened(&mut self) {
        self.save(H2_CONTROLS_PER_STREAM);
    }

    fn save(&mut self, frames: u32) {
        self.saved = (self.saved + frames).min(H2_CONTROLS_SAVED_MAX);
    }

    /// DATA came without payload and without the end (F45).
    ///
    /// # Errors
    /// One too many.
    pub fn empty_data(&mut self, now: Now) -> Result<(), Fatal> {
        count(&mut self.at(now).empty_data, H2_EMPTY_DATA_MAX, "too many empty DATA frames")
    }

    /// DATA came with so much payload. Returns what it lacks, to be given back by [`Self::taken`].
    ///
    /// # Errors
    /// Too much is lacking.
    #[inline]
    pub fn data(&mut self, bytes: usize) -> Result<u32, Fatal> {
        let lacks = H2_TINY_DATA_BYTES.saturating_sub(bytes as u32);
        if self.tiny + lacks > H2_TINY_DATA_MAX {
            return Err(Fatal::flood("too many tiny DATA frames"));
        }
        self.tiny += lacks;
        Ok(lacks)
    }

    /// The payload of frames that lacked so much was taken.
    #[inline]
    pub fn taken(&mut self, lacked: u32) {
        debug_assert!(lacked <= self.tiny);
        self.tiny = self.tiny.saturating_sub(lacked);
    }

    /// Whether nothing is lacking.
    pub fn is_level(&self) -> bool {
        self.tiny == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many times something may be done at `now`, up to a bound.
    fn times(mut act: impl FnMut() -> Result<(), Fatal>) -> u32 {
        (0..100_000).find(|_| act().is_err()).expect("a bound")
    }

    #[test]
    fn each_flood_has_its_bound_and_ten_seconds() {
        let now = Now::from_ms(5);
        let mut budget = Budget::new(now);
        assert_eq!(times(|| budget.reset_made(now)), 100);
        assert_eq!(times(|| budget.reset(now)), 200);
        assert_eq!(times(|| budget.control(now)), 200);
        assert_eq!(times(|| budget.empty_data(now)), 100);
        assert_eq!(times(|| budget.data(1).map(drop)), 100);
        assert!(budget.reset(now.plus_ms(9_999)).is_err());
        let later = now.plus_ms(10_000);
        assert_eq!(times(|| budget.reset(later)), 200);
        assert_eq!(times(|| budget.control(later)), 200);
    }

    #[test]
    fn windows_may_be_updated_for_data_without_end() {
        let now = Now::from_ms(0);
        let mut budget = Budget::new(now);
        for _ in 0..100_000 {
            budget.data_sent();
            (0..H2_CONTROLS_PER_DATA).for_each(|_| budget.control(now).expect("accounted for"));
        }
        assert_eq!(times(|| budget.control(now)), 200);
        (0..1_000_000).for_each(|_| budget.data_sent());
        assert_eq!(times(|| budget.control(now)), H2_CONTROLS_SAVED_MAX);
    }

    #[test]
    fn tiny_data_that_is_taken_counts_no_more() {
        let mut budget = Budget::new(Now::from_ms(0));
        for bytes in [1, 100, 255, 256, 16_384] {
            for _ in 0..1_000 {
                let lacked = budget.data(bytes).expect("taken each time");
                budget.taken(lacked);
            }
        }
        assert_eq!(times(|| budget.data(256).map(drop).and(Err(Fatal::flood("")))), 0);
        assert_eq!(budget.tiny, 0);
    }
}
