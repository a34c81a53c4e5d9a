//! The streams of a connection that somebody still works with.

use super::super::flow::{RecvWindow, SendWindow};
use super::super::stream::State;
use crate::limits::{H2_RESET_MEMORY, H2_STREAMS_MAX};

/// Streams that may be in the table: those that count, and as many that were reset and are being given up.
pub const SLOTS: usize = 128;

const _: () = assert!(H2_STREAMS_MAX <= SLOTS);

/// A stream, by its place in the table and its identifier: a place is used again, an identifier never.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// Its place, below [`SLOTS`].
    pub slot: u16,
    /// Its identifier.
    pub id: u32,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    /// Where it is in its life.
    pub state: State,
    /// What may be sent.
    pub send: SendWindow,
    /// What may come.
    pub recv: RecvWindow,
    /// Bytes that came and were not taken.
    pub untaken: u32,
    /// What tiny frames among them lack.
    pub lacked: u32,
    /// Body bytes that are still to come, where the head said how many.
    pub expected: Option<u64>,
    /// The final head has come; the next block is trailers.
    pub head_done: bool,
}

/// The table.
#[derive(Debug, Default)]
pub struct Table {
    /// Identifier by place; 0 is a free one. Apart, as each frame is searched for here.
    ids: Vec<u32>,
    streams: Vec<Option<Stream>>,
    open: usize,
    /// Streams that were reset here and may still bring frames, the oldest overwritten first.
    reset: Vec<u32>,
    reset_at: usize,
}

impl Table {
    /// The stream with this identifier.
    #[inline]
    pub fn find(&self, id: u32) -> Option<Key> {
        self.ids.iter().position(|&other| other == id).map(|slot| Key { slot: slot as u16, id })
    }

    /// The stream of a key, unless it was removed.
    #[inline]
    pub fn get(&mut self, key: Key) -> Option<&mut Stream> {
        let is_same = self.ids.get(key.slot as usize) == Some(&key.id);
        self.streams.get_mut(key.slot as usize).filter(|_| is_same)?.as_mut()
    }

    /// Puts a stream in. None when there is no place.
    pub fn insert(&mut self, id: u32, stream: Stream) -> Option<Key> {
        let slot = match self.ids.iter().position(|&other| other == 0) {
            Some(free) => free,
            None if self.ids.len() < SLOTS => {
                self.ids.push(0);
                self.streams.push(None);
                self.ids.len() - 1
            }
            None => return None,
        };
        self.ids[slot] = id;
        self.streams[slot] = Some(stream);
        self.open += 1;
        Some(Key { slot: slot as u16, id })
    }

    /// Takes a stream out.
    pub fn remove(&mut self, key: Key) -> Option<Stream> {
        let removed = self.get(key).is_some().then(|| self.streams[key.slot as usize].take()).flatten();
        if removed.is_some() {
            self.ids[key.slot as usize] = 0;
            self.open -= 1;
        }
        removed
    }

    /// Streams in the table.
    pub fn len(&self) -> usize {
        self.open
    }

    /// All streams.
    pub fn all(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.streams.iter_mut().flatten()
    }

    /// Remembers a stream that was reset here.
    pub fn remember_reset(&mut self, id: u32) {
        if self.reset.len() < H2_RESET_MEMORY {
            self.reset.push(id);
        } else {
            self.reset[self.reset_at] = id;
        }
        self.reset_at = (self.reset_at + 1) % H2_RESET_MEMORY;
    }

    /// Whether a stream was reset here lately.
    pub fn was_reset(&self, id: u32) -> bool {
        self.reset.contains(&id)
    }
}
