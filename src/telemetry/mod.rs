//! What the gateway tells about itself: metrics, access log, process log.
//!
//! The request path only adds to plain counters and appends to a buffer of its own worker; everything that formats for
//! others, merges or writes happens on the control thread or the log writers' threads.

pub mod access_log;
pub mod log;
pub mod metrics;
pub mod stamp;
