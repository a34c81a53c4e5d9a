//! The message model, without I/O and without a wire: heads, fields, names, bodies, the exchange.

pub mod body;
pub mod decimal;
pub mod downstream;
pub mod exchange;
pub mod fields;
pub mod grpc;
pub mod grpc_web;
pub mod hop;
pub mod ipset;
pub mod message;
pub mod name;
pub mod pace;
pub mod path;
pub mod range;
pub mod reading;
pub mod secure;
