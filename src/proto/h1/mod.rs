//! HTTP/1.1 and 1.0 (RFC 9112), strict: what is ambiguous is refused, in both directions.

pub mod body;
pub mod chunked;
pub mod client;
pub mod parse;
pub mod request;
pub mod response;
pub mod serialise;
pub mod server;
pub mod upgrade;
mod usual;
