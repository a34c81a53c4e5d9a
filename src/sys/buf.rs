//! Pooled buffers that the kernel may own while an operation is in flight.
//!
//! A [`Buf`] is a window `start..end` into fixed storage, with head room before it and tail room behind it. It goes
//! back to its thread's pool when it is dropped, so that a worker neither allocates nor zeroes on the request path.

use std::cell::RefCell;
use std::mem::MaybeUninit;

use monoio::buf::{IoBuf, IoBufMut};

use crate::limits::{
    BUF_HEADROOM_BYTES, BUF_LARGE_BYTES, BUF_LARGE_FREE_MAX, BUF_SMALL_BYTES, BUF_SMALL_FREE_MAX, BUF_TAILROOM_BYTES,
    BUF_TINY_BYTES,
};

const TINY_STORAGE: usize = BUF_HEADROOM_BYTES + BUF_TINY_BYTES + BUF_TAILROOM_BYTES;
const SMALL_STORAGE: usize = BUF_HEADROOM_BYTES + BUF_SMALL_BYTES + BUF_TAILROOM_BYTES;
const LARGE_STORAGE: usize = BUF_HEADROOM_BYTES + BUF_LARGE_BYTES + BUF_TAILROOM_BYTES;

type Storage = Box<[MaybeUninit<u8>]>;

/// A byte buffer with a filled window, from the thread's pool.
///
/// Invariant: `start <= end <= storage.len()`, and the bytes of the window are initialised.
pub struct Buf {
    storage: Storage,
    start: u32,
    end: u32,
}

/// A pooled size of storage.
#[derive(Clone, Copy)]
enum Size {
    Tiny,
    Small,
    Large,
}

const SIZES: usize = Size::Large as usize + 1;

impl Size {
    /// The size that storage of so many bytes has.
    const fn of(storage_bytes: usize) -> Option<Size> {
        match storage_bytes {
            TINY_STORAGE => Some(Size::Tiny),
            SMALL_STORAGE => Some(Size::Small),
            LARGE_STORAGE => Some(Size::Large),
            _ => None,
        }
    }

    const fn storage_bytes(self) -> usize {
        match self {
            Size::Tiny => TINY_STORAGE,
            Size::Small => SMALL_STORAGE,
            Size::Large => LARGE_STORAGE,
        }
    }

    /// Free storages of this size that a thread keeps.
    const fn free_max(self) -> usize {
        match self {
            Size::Tiny | Size::Small => BUF_SMALL_FREE_MAX,
            Size::Large => BUF_LARGE_FREE_MAX,
        }
    }
}

struct Pool {
    /// Free storages of each size.
    free: [Vec<Storage>; SIZES],
    /// Pooled buffers that are in use: taken and not yet given back.
    taken: usize,
    /// The most that were in use at once since the pool was trimmed.
    taken_peak: usize,
    /// Storage of all pooled buffers, in use or free.
    bytes: usize,
    /// What can be done with less storage is.
    scarce: bool,
}

impl Pool {
    const EMPTY: Pool = Pool { free: [const { Vec::new() }; SIZES], taken: 0, taken_peak: 0, bytes: 0, scarce: false };
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool::EMPTY) };
}

impl Buf {
    /// A buffer without storage; reading into it brings nothing.
    pub fn empty() -> Self {
        Self { storage: Box::default(), start: 0, end: 0 }
    }

    /// An empty buffer of [`BUF_SMALL_BYTES`].
    pub fn small() -> Self {
        Self::fresh(take(Size::Small))
    }

    /// An empty buffer of [`BUF_LARGE_BYTES`].
    pub fn large() -> Self {
        Self::fresh(take(Size::Large))
    }

    /// An empty buffer for at least `bytes`, pooled when a pooled size is enough.
    pub fn with_room(bytes: usize) -> Self {
        if bytes <= BUF_TINY_BYTES {
            Self::fresh(take(Size::Tiny))
        } else if bytes <= BUF_SMALL_BYTES {
            Self::small()
        } else if bytes <= BUF_LARGE_BYTES {
            Self::large()
        } else {
            Self::fresh(Box::new_uninit_slice(BUF_HEADROOM_BYTES + bytes + BUF_TAILROOM_BYTES))
        }
    }

    /// A buffer that holds a copy of `bytes`.
    pub fn copy_of(bytes: &[u8]) -> Self {
        let mut buf = Self::with_room(bytes.len());
        buf.extend(bytes);
        buf
    }

    fn fresh(storage: Storage) -> Self {
        Self { storage, start: BUF_HEADROOM_BYTES as u32, end: BUF_HEADROOM_BYTES as u32 }
    }

    /// Length of the filled window.
    #[inline]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether the window is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Whether there is storage at all.
    #[inline]
    pub fn has_storage(&self) -> bool {
        !self.storage.is_empty()
    }

    /// The filled window.
    #[inline]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: start <= end <= storage.len(), and the window's bytes are initialised (invariant).
        unsafe { std::slice::from_raw_parts(self.storage.as_ptr().add(self.start as usize).cast(), self.len()) }
    }

    /// The filled window, to change in place.
    #[inline]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        let len = self.len();
        // SAFETY: as for `as_slice`; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.storage.as_mut_ptr().add(self.start as usize).cast(), len) }
    }

    /// Bytes that a read may still bring; the tail room is not counted.
    #[inline]
    pub fn spare(&self) -> usize {
        self.storage.len().saturating_sub(self.end as usize + BUF_TAILROOM_BYTES)
    }

    /// Takes `count` bytes off the front of the window.
    #[inline]
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "consume beyond the window");
        self.start += count as u32;
    }

    /// Cuts the window to its first `len` bytes.
    #[inline]
    pub fn truncate(&mut self, len: usize) {
        if len < self.len() {
            self.end = self.start + len as u32;
        }
    }

    /// Empties the window and restores the head room.
    #[inline]
    pub fn clear(&mut self) {
        self.start = (BUF_HEADROOM_BYTES as u32).min(self.storage.len() as u32);
        self.end = self.start;
    }

    /// Moves the window to the front, so that all spare room is behind it.
    pub fn compact(&mut self) {
        let front = BUF_HEADROOM_BYTES.min(self.storage.len());
        let (start, end) = (self.start as usize, self.end as usize);
        if start != front {
            self.storage.copy_within(start..end, front);
            self.start = front as u32;
            self.end = (front + end - start) as u32;
        }
    }

    /// Appends `bytes`, moving to larger storage when they do not fit.
    #[inline]
    pub fn extend(&mut self, bytes: &[u8]) {
        if self.storage.len() - (self.end as usize) < bytes.len() {
            self.reserve(bytes.len());
        }
        let end = self.end as usize;
        // SAFETY: there is room for bytes.len() at `end` (checked above or made by `reserve`), and `bytes` cannot
        // overlap storage that is borrowed exclusively here.
        unsafe {
            let to = self.storage.as_mut_ptr().add(end).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.end += bytes.len() as u32;
    }

    /// Appends all of these, one behind the other: as [`Self::extend`] for each, with one look at the room.
    #[inline]
    pub fn extend_all<const N: usize>(&mut self, pieces: [&[u8]; N]) {
        let more = pieces.iter().map(|piece| piece.len()).sum::<usize>();
        if self.storage.len() - (self.end as usize) < more {
            self.reserve(more);
        }
        let mut end = self.end as usize;
        for piece in pieces {
            // SAFETY: there is room for all pieces from the window's end on (checked above or made by `reserve`), of
            // which those before take what lies before `end`; none can overlap storage that is borrowed exclusively.
            unsafe {
                let to = self.storage.as_mut_ptr().add(end).cast::<u8>();
                std::ptr::copy_nonoverlapping(piece.as_ptr(), to, piece.len());
            }
            end += piece.len();
        }
        self.end = end as u32;
    }

    /// Puts `bytes` before the window, in the head room. Returns false, changing nothing, when they do not fit.
    pub fn prepend(&mut self, bytes: &[u8]) -> bool {
        let Some(start) = (self.start as usize).checked_sub(bytes.len()) else { return false };
        // SAFETY: start + bytes.len() is the window's start, so the copy stays inside the storage, which is borrowed
        // exclusively and cannot overlap `bytes`.
        unsafe {
            let to = self.storage.as_mut_ptr().add(start).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len());
        }
        self.start = start as u32;
        true
    }

    /// Joins a message head with the payload behind it, with the smaller copy where there is room for it. Returns what
    /// is left over when neither buffer has room for the other: then the payload is to be sent after the head.
    pub fn join(head: Buf, payload: Buf) -> (Buf, Option<Buf>) {
        let (mut head, mut payload) = (head, payload);
        if payload.len() > head.len() && payload.prepend(head.as_slice()) {
            return (payload, None);
        }
        if payload.len() <= head.spare() {
            head.extend(payload.as_slice());
            return (head, None);
        }
        if payload.prepend(head.as_slice()) {
            return (payload, None);
        }
        (head, Some(payload))
    }

    /// Makes room for `more` bytes behind the window.
    #[cold]
    pub fn reserve(&mut self, more: usize) {
        let need = self.len() + more;
        let mut bigger = Self::with_room(need.max(self.len() * 2));
        bigger.extend(self.as_slice());
        *self = bigger;
    }

    /// Splits off everything from `at` on into a buffer of its own; costs a copy of that tail.
    pub fn split_off(&mut self, at: usize) -> Buf {
        if at >= self.len() {
            return Buf::empty();
        }
        let tail = Buf::copy_of(&self.as_slice()[at..]);
        self.truncate(at);
        tail
    }
}

impl Drop for Buf {
    #[inline]
    fn drop(&mut self) {
        if self.has_storage() {
            give(std::mem::take(&mut self.storage));
        }
    }
}

impl std::fmt::Debug for Buf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Buf({} of {} bytes)", self.len(), self.storage.len())
    }
}

impl Default for Buf {
    fn default() -> Self {
        Self::empty()
    }
}

// SAFETY: the storage is boxed, so that moving the Buf does not move the bytes; the window is initialised (invariant).
unsafe impl IoBuf for Buf {
    fn read_ptr(&self) -> *const u8 {
        self.as_slice().as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.len()
    }
}

// SAFETY: the kernel writes at most `bytes_total` bytes from `write_ptr`, which lie behind the window inside the
// storage;
// `set_init` is called with the count that it wrote, so that the grown window is initialised.
unsafe impl IoBufMut for Buf {
    fn write_ptr(&mut self) -> *mut u8 {
        let end = self.end as usize;
        self.storage[end..].as_mut_ptr().cast()
    }

    fn bytes_total(&mut self) -> usize {
        self.spare()
    }

    unsafe fn set_init(&mut self, count: usize) {
        assert!(count <= self.spare(), "the kernel wrote beyond the buffer");
        self.end += count as u32;
    }
}

/// Free buffers of this thread's pool: `(small, large)`, the smallest among the small; for tests and gauges.
pub fn pool_free() -> (usize, usize) {
    POOL.try_with(|pool| {
        let pool = pool.borrow();
        let count = |size: Size| pool.free[size as usize].len();
        (count(Size::Tiny) + count(Size::Small), count(Size::Large))
    })
    .unwrap_or_default()
}

/// Buffers of a pooled size that this thread has in use; for tests and gauges. Buffers must not change threads for this
/// to be exact, and in a worker none does.
pub fn pool_taken() -> usize {
    POOL.try_with(|pool| pool.borrow().taken).unwrap_or_default()
}

/// Storage of this thread's pooled buffers, in use or free, in bytes.
pub fn pool_bytes() -> usize {
    POOL.try_with(|pool| pool.borrow().bytes).unwrap_or_default()
}

/// Whether memory is so short that no small buffer should become a large one where that can be refused (F10).
pub fn is_scarce() -> bool {
    POOL.try_with(|pool| pool.borrow().scarce).unwrap_or_default()
}

/// Says so for this thread.
pub fn set_scarce(scarce: bool) {
    let _ = POOL.try_with(|pool| pool.borrow_mut().scarce = scarce);
}

/// Gives the free buffers back to the allocator that were not needed since the last time: those over the most that
/// were in use at once, and `spare` more. Returns how many. To be called once a second.
pub fn pool_trim(spare: usize) -> usize {
    let trim = |pool: &RefCell<Pool>| {
        let mut pool = pool.borrow_mut();
        let wanted = pool.taken_peak - pool.taken + spare;
        let (mut count, mut bytes) = (0, 0);
        for free in &mut pool.free {
            let over = free.drain(wanted.min(free.len())..);
            over.for_each(|storage| (count, bytes) = (count + 1, bytes + storage.len()));
        }
        pool.taken_peak = pool.taken;
        pool.bytes = pool.bytes.saturating_sub(bytes);
        count
    };
    POOL.try_with(trim).unwrap_or_default()
}

#[inline]
fn take(size: Size) -> Storage {
    let take_one = |pool: &RefCell<Pool>| {
        let mut pool = pool.borrow_mut();
        pool.taken += 1;
        pool.taken_peak = pool.taken_peak.max(pool.taken);
        let free = pool.free[size as usize].pop();
        if free.is_none() {
            pool.bytes += size.storage_bytes();
        }
        free
    };
    let pooled = POOL.try_with(take_one).ok().flatten();
    pooled.unwrap_or_else(|| Box::new_uninit_slice(size.storage_bytes()))
}

/// Gives storage back, if it is of a pooled size.
fn give(storage: Storage) {
    let Some(size) = Size::of(storage.len()) else { return };
    // The pool is gone when a thread ends; then the storage is simply freed.
    let _ = POOL.try_with(|pool| {
        let mut pool = pool.borrow_mut();
        pool.taken = pool.taken.saturating_sub(1);
        let free = &mut pool.free[size as usize];
        if free.len() < size.free_max() {
            free.push(storage);
        } else {
            pool.bytes = pool.bytes.saturating_sub(size.storage_bytes());
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn window_moves_and_grows() {
        let mut buf = Buf::small();
        buf.extend(b"hello world");
        buf.consume(6);
        assert_eq!(buf.as_slice(), b"world");
        assert!(buf.prepend(b"big "));
        assert_eq!(buf.as_slice(), b"big world");
        buf.compact();
        assert_eq!(buf.as_slice(), b"big world");
        buf.extend(&[7; BUF_LARGE_BYTES * 2]);
        assert_eq!(buf.len(), 9 + BUF_LARGE_BYTES * 2);
        assert_eq!(&buf.as_slice()[..9], b"big world");
        assert_eq!(buf.split_off(9).len(), BUF_LARGE_BYTES * 2);
    }

    #[test]
    fn pieces_are_appended_in_order_whatever_their_size() {
        let mut buf = Buf::copy_of(b"a");
        buf.extend_all([b"bc", b"", b"d"]);
        assert_eq!(buf.as_slice(), b"abcd");
        let long = vec![7; BUF_SMALL_BYTES];
        buf.extend_all([&long, b"e", &long]);
        assert_eq!(buf.as_slice(), [b"abcd", &long[..], b"e", &long].concat());
        let mut empty = Buf::empty();
        empty.extend_all([]);
        empty.extend_all([b"x"]);
        assert_eq!(empty.as_slice(), b"x");
    }

    #[test]
    fn prepend_refuses_what_does_not_fit() {
        let mut buf = Buf::small();
        assert!(!buf.prepend(&[0; BUF_HEADROOM_BYTES + 1]));
        assert!(buf.prepend(&[0; BUF_HEADROOM_BYTES]));
        assert!(!buf.prepend(b"x"));
        assert!(!Buf::empty().prepend(b"x"));
    }

    #[test]
    fn joining_keeps_the_order_whichever_way() {
        for (head, payload) in [(100, 10), (100, 5_000), (100, 32_000), (600, 32_000), (7_000, 2_000), (0, 9)] {
            let (head, payload) = (vec![b'h'; head], vec![b'p'; payload]);
            let (first, second) = Buf::join(Buf::copy_of(&head), Buf::copy_of(&payload));
            let joined = [first.as_slice(), second.as_ref().map_or(&[][..], Buf::as_slice)].concat();
            assert_eq!(joined, [head, payload].concat());
        }
    }

    #[test]
    fn storage_is_reused_and_bounded() {
        std::thread::spawn(|| {
            drop(Buf::small());
            assert_eq!(pool_free(), (1, 0));
            let many: Vec<_> = (0..BUF_SMALL_FREE_MAX + 9).map(|_| Buf::small()).collect();
            assert_eq!(pool_free(), (0, 0));
            drop(many);
            assert_eq!(pool_free(), (BUF_SMALL_FREE_MAX, 0));
            pool_trim(3);
            assert_eq!(pool_free(), (BUF_SMALL_FREE_MAX, 0), "all were in use a moment ago");
            drop([Buf::small(), Buf::small()]);
            pool_trim(3);
            assert_eq!(pool_free(), (5, 0));
            assert_eq!(pool_bytes(), 5 * SMALL_STORAGE);
            let _large = Buf::large();
            assert_eq!(pool_bytes(), 5 * SMALL_STORAGE + LARGE_STORAGE);
        })
        .join()
        .expect("the pool thread ends well");
    }

    #[test]
    fn empty_buffer_has_no_room() {
        let mut buf = Buf::empty();
        assert_eq!((buf.spare(), buf.bytes_total(), buf.len()), (0, 0, 0));
        buf.clear();
        buf.compact();
        buf.extend(b"grows");
        assert_eq!(buf.as_slice(), b"grows");
    }
}
