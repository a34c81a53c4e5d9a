//! How slow a peer may be (F39): a minimum rate over the time that the gateway waits for it.

use crate::limits::{RATE_BYTES_MIN, RATE_GRACE_MS};

/// The least a peer must bring or take while the gateway waits for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MinRate {
    /// Bytes in a second; 0 for no such rule.
    pub bytes_per_s: u64,
    /// Waiting that costs nothing, in milliseconds.
    pub grace_ms: u64,
}

impl Default for MinRate {
    fn default() -> Self {
        Self { bytes_per_s: RATE_BYTES_MIN, grace_ms: RATE_GRACE_MS }
    }
}
