//! Conformance: what the gateway does with hostile and odd messages, row by row of `docs/conformance.md`.
//!
//! Raw sockets against the real program, before an origin that records the exact bytes it gets. The tables of cases run
//! against other proxies too, to be compared and not judged: `RINGWAY_PEER=nginx cargo test --test conformance -- \
//! --nocapture` prints them, `cargo test --test conformance -- --ignored peer_table` writes the page's comparison.

#![allow(clippy::disallowed_methods, reason = "the program under test runs in real time")]

#[path = "../../fuzz/src/bypass.rs"]
#[allow(dead_code, reason = "shared with the fuzz targets")]
mod bypass;
mod support;

mod cves;
mod framing;
mod h2;
mod host;
mod identity;
mod injection;
mod methods;
mod path_cves;
mod paths;
mod peers;
mod poisoning;
mod responses;
mod sizes;
