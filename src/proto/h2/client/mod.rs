//! The client's side of an HTTP/2 connection to an endpoint: many exchanges on one connection, each of them one
//! [`Stream`] for the copy loop.
//!
//! ```text
//! request's task:  Link::open ─ Stream { Sender, Receiver } ─ drop: RST_STREAM unless both sides have ended
//!                      │   ▲
//!                codec ▼   │ bells
//! connection's task:  write_all ─► socket ─► read_all
//! ```
//! A connection's task belongs to the worker, not to a request. It reads all the time, so that a connection that an
//! endpoint closes, or says it will close, is known before the next request.

mod head;
mod io;
mod link;
mod stream;
#[cfg(test)]
mod tests;

pub use io::start;
pub use link::{Link, Rules};
pub use stream::Stream;
