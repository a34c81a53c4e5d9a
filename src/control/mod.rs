//! The control thread: admin API, signals, service manager, file watch. It never touches the request path; workers are
//! asked by message.

pub mod acme;
pub mod activation;
pub mod admin;
mod background;
pub mod checks;
mod client;
pub mod discovery;
pub mod door;
pub mod fleet;
pub mod gateway;
mod disk;
mod limits;
pub mod listening;
pub mod notify;
mod operator;
pub mod orders;
pub mod outcome;
pub mod revivals;
mod running;
pub mod serve;
pub mod signals;
pub mod source;
pub mod store;
mod survival;
pub mod symbols;
pub mod upgrade;
pub mod watch;
pub mod watchdog;
