//! Flow control (RFC 9113 sections 5.2 and 6.9): what may still be sent, and what may still come.

use super::frame::INT31_MAX;

/// A window is wider than the protocol allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overflow;

/// What the peer lets this side send. It may be negative after a change of the peer's settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SendWindow(i64);

impl SendWindow {
    /// A window of so many bytes.
    pub fn new(bytes: u32) -> Self {
        Self(i64::from(bytes))
    }

    /// Bytes that may be sent.
    #[inline]
    pub fn left(self) -> usize {
        self.0.max(0) as usize
    }

    /// So many bytes are sent.
    #[inline]
    pub fn take(&mut self, bytes: usize) {
        debug_assert!(bytes <= self.left());
        self.0 -= bytes as i64;
    }

    /// The peer widens it, or narrows it by its settings.
    ///
    /// # Errors
    /// [`Overflow`]; the window stays.
    pub fn change(&mut self, by: i64) -> Result<(), Overflow> {
        let wide = self.0 + by;
        if wide > i64::from(INT31_MAX) {
            return Err(Overflow);
        }
        self.0 = wide;
        Ok(())
    }
}

/// What the peer may still send here. Its size is the most that can wait here for whom it is for: what that one has
/// taken is given back, in steps of half the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvWindow {
    size: u32,
    left: u32,
    owed: u32,
}

impl RecvWindow {
    /// A window of this size.
    pub fn new(size: u32) -> Self {
        Self { size, left: size, owed: 0 }
    }

    /// So many bytes have come.
    ///
    /// # Errors
    /// [`Overflow`] when there was no room for them.
    #[inline]
    pub fn receive(&mut self, bytes: usize) -> Result<(), Overflow> {
        let bytes = u32::try_from(bytes).map_err(|_| Overflow)?;
        self.left = self.left.checked_sub(bytes).ok_or(Overflow)?;
        Ok(())
    }

    /// So many of them were taken. Returns by how much the peer is to be told to widen its window, when it is time.
    #[inline]
    pub fn give_back(&mut self, bytes: usize) -> Option<u32> {
        self.owed += bytes as u32;
        debug_assert!(self.owed + self.left <= self.size, "more given back than came");
        if self.owed < self.size / 2 {
            return None;
        }
        self.left += self.owed;
        Some(std::mem::take(&mut self.owed))
    }

    /// Whether all that has come was taken.
    pub fn is_level(&self) -> bool {
        self.left + self.owed == self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_go_below_zero_and_never_over_the_top() {
        let mut window = SendWindow::new(100);
        window.take(60);
        assert_eq!(window.change(-50), Ok(()));
        assert_eq!((window, window.left()), (SendWindow(-10), 0));
        assert_eq!(window.change(10), Ok(()));
        assert_eq!(window.left(), 0);
        assert_eq!(window.change(i64::from(INT31_MAX)), Ok(()));
        assert_eq!(window.change(1), Err(Overflow));
        assert_eq!(window.left(), INT31_MAX as usize);
    }

    #[test]
    fn what_waits_is_bounded_by_the_window() {
        let mut window = RecvWindow::new(1_000);
        let mut waiting = 0;
        for turn in 0..1_000_usize {
            let come = turn * 37 % 400;
            if window.receive(come).is_ok() {
                waiting += come;
            }
            assert!(waiting <= 1_000);
            let taken = waiting.min(turn * 91 % 300);
            waiting -= taken;
            if let Some(widened) = window.give_back(taken) {
                assert!((500..=1_000).contains(&widened));
            }
        }
        assert_eq!(RecvWindow::new(10).receive(11), Err(Overflow));
        assert_eq!(RecvWindow::new(10).receive(1 << 40), Err(Overflow));
    }
}
