//! The one event alphabet for bodies of all wires.

use super::fields::Fields;
use crate::sys::buf::Buf;

/// A piece of a body.
#[derive(Debug, Default)]
pub struct Chunk {
    /// Payload; may be empty.
    pub data: Buf,
    /// Nothing follows.
    pub end: bool,
    /// Trailer section; only with `end`.
    pub trailers: Option<Box<Fields>>,
}

impl Chunk {
    /// The end of a body, without payload.
    pub fn end() -> Self {
        Self { data: Buf::empty(), end: true, trailers: None }
    }

    /// Payload that more follows.
    pub fn more(data: Buf) -> Self {
        Self { data, end: false, trailers: None }
    }

    /// Whether there is neither payload nor end.
    pub fn is_nothing(&self) -> bool {
        self.data.is_empty() && !self.end
    }
}
