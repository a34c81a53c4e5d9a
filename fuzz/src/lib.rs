//! The targets, for the fuzzer.

pub mod targets;
