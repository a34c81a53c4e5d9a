//! ringway: a thread-per-core API gateway and edge proxy for Linux.
//!
//! The modules stand in the order of a request's way; `docs/architecture.md` draws it.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod sys;

pub mod error;
pub mod limits;
pub mod time;

pub mod http;
pub mod net;
pub mod proto;
pub mod route;
pub mod policy;
pub mod upstream;
pub mod handler;
pub mod snapshot;
pub mod pipeline;
pub mod worker;
pub mod demo;

pub mod telemetry;

pub mod config;
pub mod cli;
pub mod control;
pub mod schema;
