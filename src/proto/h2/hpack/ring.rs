//! The dynamic table of HPACK (RFC 7541 section 2.3.2): entries in the order of their coming, the oldest evicted first.
//!
//! A line is kept as HTTP/1 writes it, `name: value CRLF`, so that a reference to it becomes one copy.

use std::collections::VecDeque;

/// What an entry counts beyond its text (RFC 7541 section 4.1), in bytes.
pub const ENTRY_OVERHEAD: usize = 32;
/// What stands in a line beside name and value.
pub const LINE_EXTRA: usize = 4;

const _: () = assert!(LINE_EXTRA < ENTRY_OVERHEAD, "the text of a full table is no longer than its size");

/// An entry. `E` is what its side of the connection keeps with it.
#[derive(Clone, Copy, Debug)]
pub struct Entry<E> {
    offset: u32,
    /// Length of the name.
    pub name_len: u16,
    /// Length of the value.
    pub value_len: u16,
    /// More about it.
    pub extra: E,
}

impl<E> Entry<E> {
    /// What it counts (RFC 7541 section 4.1).
    pub fn size(&self) -> usize {
        self.name_len as usize + self.value_len as usize + ENTRY_OVERHEAD
    }

    fn line_len(&self) -> usize {
        self.name_len as usize + self.value_len as usize + LINE_EXTRA
    }
}

/// A dynamic table.
#[derive(Debug)]
pub struct Ring<E> {
    /// The lines of the living entries, behind those of evicted ones.
    text: Vec<u8>,
    entries: VecDeque<Entry<E>>,
    size: usize,
    size_max: usize,
}

impl<E: Copy> Ring<E> {
    /// An empty table that may hold `size_max` bytes. It allocates nothing until something enters.
    pub fn new(size_max: usize) -> Self {
        Self { text: Vec::new(), entries: VecDeque::new(), size: 0, size_max }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What the entries count.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The most that they may.
    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// Bytes of memory in use.
    pub fn held_bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Entry<E>>()
    }

    /// Sets the most that they may count, and evicts what is over it.
    pub fn resize(&mut self, size_max: usize) {
        self.size_max = size_max;
        self.evict(size_max);
    }

    fn evict(&mut self, down_to: usize) {
        while self.size > down_to {
            let Some(entry) = self.entries.pop_front() else { break };
            self.size -= entry.size();
        }
        if self.entries.is_empty() {
            debug_assert_eq!(self.size, 0);
            self.text.clear();
        }
    }

    /// The `at`-th newest entry, from 0.
    pub fn get(&self, at: usize) -> Option<&Entry<E>> {
        self.entries.get(self.entries.len().checked_sub(at + 1)?)
    }

    /// Its line, `name: value CRLF`.
    pub fn line(&self, entry: &Entry<E>) -> &[u8] {
        &self.text[entry.offset as usize..][..entry.line_len()]
    }

    /// The entries from the newest to the oldest.
    pub fn newest_first(&self) -> impl Iterator<Item = &Entry<E>> {
        self.entries.iter().rev()
    }

    /// Lets a line of this name's and value's length enter, given in parts. One that is larger than the table empties
    /// it (RFC 7541 section 4.4).
    pub fn insert(&mut self, parts: [&[u8]; 4], name_len: usize, value_len: usize, extra: E) {
        let size = name_len + value_len + ENTRY_OVERHEAD;
        if size > self.size_max {
            return self.evict(0);
        }
        self.evict(self.size_max - size);
        self.make_room(name_len + value_len + LINE_EXTRA);
        let offset = self.text.len() as u32;
        parts.iter().for_each(|part| self.text.extend_from_slice(part));
        debug_assert_eq!(self.text.len() - offset as usize, name_len + value_len + LINE_EXTRA);
        self.entries.push_back(Entry { offset, name_len: name_len as u16, value_len: value_len as u16, extra });
        self.size += size;
    }

    /// Moves the living lines to the front once the dead ones before them are as many: each byte is moved once on
    /// average.
    fn make_room(&mut self, more: usize) {
        let dead = self.entries.front().map_or(self.text.len(), |entry| entry.offset as usize);
        if dead > 0 && self.text.len() + more > self.text.capacity() && dead * 2 >= self.text.len() {
            self.text.drain(..dead);
            self.entries.iter_mut().for_each(|entry| entry.offset -= dead as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn insert(ring: &mut Ring<u32>, name: &[u8], value: &[u8], extra: u32) {
        ring.insert([name, b": ", value, b"\r\n"], name.len(), value.len(), extra);
    }

    #[test]
    fn the_oldest_go_first_and_text_stays_bounded() {
        let mut ring = Ring::new(4_096);
        for n in 0..10_000_u32 {
            insert(&mut ring, b"name", n.to_string().as_bytes(), n);
            assert!(ring.size() <= 4_096 && ring.held_bytes() < 4 * 4_096, "{}", ring.held_bytes());
            let newest = ring.get(0).expect("just entered");
            assert_eq!(ring.line(newest), format!("name: {n}\r\n").as_bytes());
        }
        let extras: Vec<u32> = ring.newest_first().map(|entry| entry.extra).collect();
        assert!(extras.iter().zip(extras.iter().skip(1)).all(|(newer, older)| *newer == *older + 1));
        let oldest = ring.get(ring.len() - 1).expect("not empty");
        assert_eq!(ring.line(oldest), format!("name: {}\r\n", oldest.extra).as_bytes());
        assert!(ring.get(ring.len()).is_none());
    }

    #[test]
    fn what_is_larger_than_the_table_empties_it() {
        let mut ring = Ring::new(100);
        insert(&mut ring, b"a", b"b", 1);
        insert(&mut ring, b"a", &[b'x'; 68], 2);
        assert_eq!((ring.len(), ring.size()), (0, 0));
        insert(&mut ring, b"a", &[b'x'; 67], 3);
        assert_eq!((ring.len(), ring.size()), (1, 100));
        ring.resize(99);
        assert!(ring.is_empty());
    }
}
