//! The body of a message, as far as it has come and nobody has taken it.

use std::collections::VecDeque;

use crate::http::body::Chunk;
use crate::http::fields::Fields;
use crate::limits::BUF_LARGE_BYTES;
use crate::sys::buf::Buf;

/// Pieces of a body, and what follows them.
#[derive(Debug, Default)]
pub struct Pieces {
    queue: VecDeque<Buf>,
    trailers: Option<Box<Fields>>,
    ended: bool,
}

impl Pieces {
    /// Nothing follows what is there.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether nothing follows what is there.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Whether nothing has come that was not taken.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Puts a piece behind the others. Small ones are put together, so that many of them are one for whom they are for.
    pub fn push(&mut self, data: Buf, end: bool, trailers: Option<Box<Fields>>) {
        match self.queue.back_mut() {
            Some(last) if data.len() <= last.spare() && last.len() + data.len() <= BUF_LARGE_BYTES => {
                last.extend(data.as_slice());
            }
            _ if data.is_empty() => {}
            _ => self.queue.push_back(data),
        }
        self.ended |= end;
        self.trailers = trailers;
    }

    /// The next piece, or the end; None when neither is there.
    pub fn take(&mut self) -> Option<Chunk> {
        let data = self.queue.pop_front();
        let end = self.ended && self.queue.is_empty();
        if data.is_none() && !end {
            return None;
        }
        let trailers = if end { self.trailers.take() } else { None };
        Some(Chunk { data: data.unwrap_or_default(), end, trailers })
    }

    /// Forgets all, but for the room of the queue.
    pub fn clear(&mut self) {
        self.queue.clear();
        (self.ended, self.trailers) = (false, None);
    }
}
