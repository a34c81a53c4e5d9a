//! The message model, without I/O and without a wire: heads, fields, names, the exchange.

pub mod exchange;
pub mod fields;
pub mod message;
pub mod name;
