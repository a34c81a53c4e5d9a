//! What a connection's reader reads into.

use crate::sys::buf::Buf;

/// A buffer that holds what was read and not taken, as large as what comes asks for.
#[derive(Debug)]
pub struct Input {
    /// What was read.
    pub buf: Buf,
    /// Much comes at once.
    is_large: bool,
    asked: usize,
}

impl Input {
    /// With what was read before.
    pub fn new(early: Buf) -> Self {
        Self { buf: early, is_large: false, asked: 0 }
    }

    /// The buffer for a read, with room for what is wanted next: a whole frame at most.
    pub fn lend(&mut self, wanted: usize) -> Buf {
        self.make_room(wanted);
        self.asked = self.buf.spare();
        std::mem::take(&mut self.buf)
    }

    /// So many bytes were read into it.
    pub fn filled(&mut self, count: usize) {
        self.is_large = count == self.asked || (self.is_large && count > self.asked / 4);
    }

    fn make_room(&mut self, wanted: usize) {
        let buf = &mut self.buf;
        if buf.is_empty() {
            if !buf.has_storage() || buf.spare() == 0 {
                *buf = if self.is_large { Buf::large() } else { Buf::small() };
            }
            buf.clear();
            return;
        }
        let more = wanted.saturating_sub(buf.len()).max(1);
        if buf.spare() < more {
            buf.compact();
        }
        if buf.spare() < more {
            buf.reserve(more);
        }
    }
}
