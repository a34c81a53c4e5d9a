//! The life of a request, whichever wire it came on.

pub mod drive;
pub mod env;
mod fallback;
pub mod mirror;
pub mod plan;
mod readings;
pub mod reply;
pub mod stream;
mod secure;
pub mod tunnel;
mod wait;
