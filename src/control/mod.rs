//! The control thread: admin API, signals, service manager, file watch. It never touches the request path; workers are
//! asked by message.

pub mod admin;
pub mod fleet;
pub mod gateway;
mod limits;
pub mod source;
pub mod notify;
pub mod revivals;
pub mod serve;
pub mod signals;
pub mod symbols;
pub mod watch;
pub mod watchdog;
