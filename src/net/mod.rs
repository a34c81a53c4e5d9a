//! Bytes in and out: the I/O traits, TCP, the in-memory network, timers, listeners.

pub mod duplex;
pub mod io;
pub mod listener;
pub mod mem;
pub mod pace;
pub mod splice;
pub mod tcp;
pub mod timer;
pub mod tls;
pub mod wire;
