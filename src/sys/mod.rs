//! The only place of unsafe code: buffers that the kernel fills, sockets shared by two halves, the ring, limits.
//!
//! Every `unsafe` block states why it is sound. Nothing here knows HTTP.
#![allow(unsafe_code)]

pub mod alloc;
pub mod buf;
pub mod clock;
pub mod fetch;
pub mod limit;
pub mod memory;
pub mod order;
pub mod pipe;
pub mod process;
pub mod ring;
pub mod room;
pub mod stack;
pub mod stream;
pub mod thread;
