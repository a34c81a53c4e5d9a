//! The only reader of the operating system's clocks.
//!
//! Deadlines, limits and durations use [`Now`], a monotonic count; only dates, certificates and tokens use the wall
//! clock.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys::clock;

/// A point on the monotonic clock, in nanoseconds (CLOCK_MONOTONIC, so that service managers can compare it). Pure code
/// takes it as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Now(pub u64);

impl Now {
    /// Later than any other.
    pub const NEVER: Now = Now(u64::MAX);

    /// Reads the clock.
    #[inline]
    pub fn read() -> Self {
        Self(clock::monotonic_ns())
    }

    /// A point from milliseconds since the start, for tests.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Whole milliseconds since the start.
    #[inline]
    pub const fn ms(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Nanoseconds from `earlier` to here; 0 when `earlier` is later.
    #[inline]
    pub const fn since_ns(self, earlier: Now) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The point `ms` milliseconds later.
    #[inline]
    pub const fn plus_ms(self, ms: u64) -> Now {
        Now(self.0.saturating_add(ms.saturating_mul(1_000_000)))
    }

    /// The point `ns` nanoseconds later.
    #[inline]
    pub const fn plus_ns(self, ns: u64) -> Now {
        Now(self.0.saturating_add(ns))
    }
}

/// Where [`Now`] comes from: the system, or a simulation.
#[derive(Clone, Debug, Default)]
pub enum Clock {
    /// The monotonic clock.
    #[default]
    System,
    /// A time that a simulation sets.
    Virtual(Rc<Cell<Now>>),
}

impl Clock {
    /// A virtual clock that stands at zero.
    pub fn stopped() -> Self {
        Self::Virtual(Rc::default())
    }

    /// Reads the clock.
    #[inline]
    pub fn read(&self) -> Now {
        match self {
            Self::System => Now::read(),
            Self::Virtual(now) => now.get(),
        }
    }
}

/// The wall clock, in milliseconds since the Unix epoch; 0 before it.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn unix_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The wall clock in whole seconds since the Unix epoch.
pub fn unix_seconds() -> u64 {
    unix_ms() / 1000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn monotonic_arithmetic_saturates() {
        let a = Now::from_ms(5);
        assert_eq!(a.since_ns(Now::from_ms(9)), 0);
        assert_eq!(Now(u64::MAX).plus_ms(1), Now(u64::MAX));
        assert!(Now::read() <= Now::read());
    }
}
