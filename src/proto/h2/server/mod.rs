//! The server's side of an HTTP/2 connection: what reads, what writes, and the streams between them.
//!
//! ```text
//!            ┌───────────────── one task, in this order in each of its turns ─────────────────┐
//! socket ──► read_all ──► Core ──► arrivals, bodies ──► streams (pipeline) ──► Core ──► write_all ──► socket
//! ```
//!
//! Whatever the streams of a turn write is together in one buffer when the writer's turn comes, and leaves in one send.

mod io;
mod link;
mod stream;
mod tunnel;

pub use io::{End, read_all, write_all};
pub use link::{Arrived, Counts, Link};
pub use stream::Stream;
pub use tunnel::StreamIo;
