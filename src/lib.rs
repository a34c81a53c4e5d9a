//! ringway: a thread-per-core HTTP gateway and edge proxy for Linux, on io_uring.
//!
//! The program is `ringway`; this library is its body, public so that tests and benches reach every part. The modules
//! stand in the order of a request's way. `docs/architecture.md` draws it and lists the invariants,
//! `docs/life-of-a-request.md` follows one request step by step.
//!
//! ```text
//! worker::accept ─ worker::conn ─ proto::h1::server ─► pipeline::drive
//!    drive:  pin the plan ─ identify ─ route ─ policies: request ─ handler ─ policies: response ─ send ─ telemetry
//!    handler::proxy:  upstream (balance, pool, connect) ─ proto::h1::client ─ handler::relay (both bodies)
//!
//! control:  config (file ─► types) ─ config::compile ─► snapshot ─ prepared by every worker ─ published with one store
//! ```
//!
//! | layer | modules | knows |
//! |---|---|---|
//! | ground | [`sys`], [`error`], [`limits`], [`time`] | the system, reasons, bounds, clocks |
//! | shared bounds | [`concurrency`] | how many requests at once, over all workers; who waits |
//! | messages | [`net`], [`http`], [`proto`] | bytes, heads, bodies, wires |
//! | decisions | [`route`], [`policy`], [`upstream`] | which route, whether, where to; pure but for pools |
//! | answers | [`handler`], [`snapshot`], [`pipeline`] | the life of a request |
//! | threads | [`worker`], [`control`] | the data path; everything else |
//! | beside | [`telemetry`], [`schema`], [`config`], [`cli`], [`demo`] | what is told, what is written, what is asked |
//!
//! A module uses those of its layer and of the layers above; but [`upstream`] and [`snapshot`] know each other's types.
//! [`config`] is used by [`control`] and [`cli`] alone.

#![deny(unsafe_code)]
#![warn(missing_docs)]
#![deny(clippy::await_holding_refcell_ref, clippy::undocumented_unsafe_blocks)]
#![warn(clippy::large_futures)]
#![cfg_attr(not(test), warn(clippy::unwrap_used))]

pub mod sys;

pub mod error;
pub mod limits;
pub mod random;
pub mod time;

pub mod concurrency;

pub mod http;
pub mod net;
pub mod proto;
pub mod tls;
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
