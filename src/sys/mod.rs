//! The only place of unsafe code: buffers that the kernel fills, sockets, the ring, processors.
//!
//! Every `unsafe` block states why it is sound. Nothing here knows HTTP.
#![allow(unsafe_code)]

pub mod buf;
