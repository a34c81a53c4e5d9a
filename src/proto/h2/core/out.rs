//! What is on its way to the peer: small frames together in few buffers, large payloads in their own.

use std::collections::VecDeque;

use super::super::frame::HEAD_BYTES;
use crate::limits::{BUF_LARGE_BYTES, BUF_SMALL_BYTES};
use crate::sys::buf::Buf;

/// A payload up to this is copied behind what goes before it; a larger one goes in its own buffer.
pub const COPIED_BYTES_MAX: usize = 4 * 1024;

/// Buffers in the order in which they leave.
#[derive(Debug, Default)]
pub struct Out {
    queue: VecDeque<Buf>,
    bytes: usize,
    /// Small frames may be put behind what the last buffer holds.
    open: bool,
}

impl Out {
    /// Bytes that wait.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Lets `write` append about `room` bytes of frames.
    #[inline]
    pub fn write<T>(&mut self, room: usize, write: impl FnOnce(&mut Buf) -> T) -> T {
        if !self.open || self.queue.back().is_none_or(|last| last.spare() < room) {
            // Where much is written much is to come.
            let large = self.open || room > BUF_SMALL_BYTES;
            self.queue.push_back(if large { Buf::with_room(room.max(BUF_LARGE_BYTES)) } else { Buf::small() });
            self.open = true;
        }
        let at = self.queue.len() - 1;
        let last = &mut self.queue[at];
        let before = last.len();
        let result = write(last);
        self.bytes += last.len() - before;
        result
    }

    /// Puts a frame in a buffer of its own behind all.
    pub fn push(&mut self, frame: Buf) {
        debug_assert!(frame.len() > HEAD_BYTES);
        self.bytes += frame.len();
        self.queue.push_back(frame);
        self.open = false;
    }

    /// Takes what leaves next.
    pub fn take(&mut self) -> Option<Buf> {
        let first = self.queue.pop_front()?;
        self.bytes -= first.len();
        if self.queue.is_empty() {
            self.open = false;
            // An idle connection holds no queue.
            self.queue.shrink_to(4);
        }
        Some(first)
    }

    /// Drops everything.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
}
