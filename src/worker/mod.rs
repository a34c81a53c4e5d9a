//! One thread per core: its ring, its listeners, its timers, its requests. Nothing of it is shared on the request path.

pub mod accept;
mod bell;
pub mod conn;
pub mod faults;
pub mod http2;
pub mod mailbox;
pub mod memory;
pub mod placement;
pub mod pressure;
pub mod run;
pub mod secure;
mod turn_away;
