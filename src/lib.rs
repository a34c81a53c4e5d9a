//! ringway: a thread-per-core API gateway and edge proxy for Linux.
//!
//! The modules stand in the order of a request's way; `docs/architecture.md` draws it.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod error;
pub mod http;
pub mod limits;
pub mod policy;
pub mod schema;
pub mod sys;
pub mod time;
pub mod upstream;
