//! HTTP/2 (RFC 9113): a codec without I/O for both roles, and drivers for it.

pub mod budget;
pub mod client;
pub mod code;
pub mod core;
pub mod flow;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod input;
pub mod pieces;
pub mod ready;
pub mod server;
pub mod settings;
pub mod stream;
pub mod turn;
