//! ringway: a thread-per-core API gateway and edge proxy for Linux.
//!
//! The modules stand in the order of a request's way; `docs/architecture.md` draws it.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod config;
pub mod control;
pub mod demo;
pub mod error;
pub mod http;
pub mod limits;
pub mod net;
pub mod policy;
pub mod proto;
pub mod route;
pub mod schema;
pub mod sys;
pub mod telemetry;
pub mod time;
