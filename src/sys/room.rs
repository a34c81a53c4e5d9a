//! Rooms for the futures of requests: taken when a request begins and given back at its end, the last one first.
//!
//! The room of a request is what a worker writes most in. Taken from one stack by all connections, it is mostly in the
//! processor's caches; a room for each connection would not be, from some hundred connections on.

use std::alloc::{Layout, handle_alloc_error};
use std::cell::RefCell;
use std::pin::Pin;
use std::ptr::NonNull;
use std::task::{Context, Poll};

use crate::limits::ROOMS_FREE_MAX;

/// A future in a room of its own.
///
/// Invariant: `at` holds a future from [`Room::of`] until the drop, in storage of just its layout that nobody else
/// uses.
pub struct Room<F> {
    at: NonNull<F>,
}

/// The free rooms of one layout.
struct Rooms {
    layout: Layout,
    free: Vec<NonNull<u8>>,
    taken: usize,
    /// The most that were taken at once since the last trim.
    taken_peak: usize,
}

thread_local! {
    /// A thread has as many kinds of requests' futures as kinds of connections: a handful.
    static ROOMS: RefCell<Vec<Rooms>> = const { RefCell::new(Vec::new()) };
}

impl<F: Future> Room<F> {
    /// Makes a future in a free room.
    #[inline]
    pub fn of(make: impl FnOnce() -> F) -> Self {
        assert!(size_of::<F>() > 0, "a future without a size needs no room");
        let at = take(Layout::new::<F>()).cast::<F>();
        // SAFETY: `take` gives storage of this layout that is the caller's alone.
        unsafe { at.write(make()) };
        Self { at }
    }
}

impl<F: Future> Future for Room<F> {
    type Output = F::Output;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // SAFETY: the future lives there (invariant) and stays there until it is dropped, so that it is pinned; the
        // borrow is exclusive.
        unsafe { Pin::new_unchecked(self.get_unchecked_mut().at.as_mut()) }.poll(cx)
    }
}

impl<F> Drop for Room<F> {
    fn drop(&mut self) {
        let storage = Storage(self.at.cast(), Layout::new::<F>());
        // SAFETY: the future lives there (invariant) and is not used again. Its storage goes back also when it panics.
        unsafe { self.at.drop_in_place() };
        drop(storage);
    }
}

/// A room on its way back.
struct Storage(NonNull<u8>, Layout);

impl Drop for Storage {
    fn drop(&mut self) {
        let Storage(at, layout) = *self;
        let kept = ROOMS.try_with(|rooms| give(&mut rooms.borrow_mut(), at, layout)).unwrap_or(false);
        if !kept {
            // SAFETY: it was allocated by `take` with this layout, and is neither used nor kept.
            unsafe { std::alloc::dealloc(at.as_ptr(), layout) };
        }
    }
}

fn take(layout: Layout) -> NonNull<u8> {
    let pooled = ROOMS.try_with(|rooms| {
        let rooms = &mut *rooms.borrow_mut();
        let at = rooms.iter().position(|kind| kind.layout == layout).unwrap_or_else(|| {
            rooms.push(Rooms { layout, free: Vec::new(), taken: 0, taken_peak: 0 });
            rooms.len() - 1
        });
        let kind = &mut rooms[at];
        kind.taken += 1;
        kind.taken_peak = kind.taken_peak.max(kind.taken);
        kind.free.pop()
    });
    pooled.ok().flatten().unwrap_or_else(|| {
        // SAFETY: the layout has a size (asserted by the only caller).
        let new = unsafe { std::alloc::alloc(layout) };
        NonNull::new(new).unwrap_or_else(|| handle_alloc_error(layout))
    })
}

/// Keeps a room, if there are not too many free ones. Returns whether it did.
fn give(rooms: &mut [Rooms], at: NonNull<u8>, layout: Layout) -> bool {
    let Some(kind) = rooms.iter_mut().find(|kind| kind.layout == layout) else { return false };
    kind.taken = kind.taken.saturating_sub(1);
    let keeps = kind.free.len() < ROOMS_FREE_MAX;
    if keeps {
        kind.free.push(at);
    }
    keeps
}

/// Gives the free rooms of this thread back to the allocator that were not needed since the last time. To be called
/// once a second.
pub fn trim() {
    let _ = ROOMS.try_with(|rooms| {
        for kind in &mut *rooms.borrow_mut() {
            let wanted = kind.taken_peak - kind.taken;
            kind.taken_peak = kind.taken;
            for at in kind.free.drain(wanted.min(kind.free.len())..) {
                // SAFETY: it was allocated by `take` with this layout, and nothing uses it.
                unsafe { std::alloc::dealloc(at.as_ptr(), kind.layout) };
            }
            kind.free.shrink_to(2 * wanted);
        }
    });
}

#[cfg(test)]
fn free_rooms() -> usize {
    ROOMS.with(|rooms| rooms.borrow().iter().map(|kind| kind.free.len()).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        match future.as_mut().poll(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Ready(output) => output,
            Poll::Pending => panic!("it waits"),
        }
    }

    #[test]
    fn a_room_serves_one_future_after_another() {
        let double = |number: u32| Room::of(move || async move { 2 * number });
        let (first, second) = (double(1), double(2));
        let places = [first.at, second.at];
        assert_ne!(places[0], places[1]);
        assert_eq!((run(second), run(first), free_rooms()), (4, 2, 2));
        let third = double(3);
        assert_eq!(third.at, places[0], "the last one in is the first one out");
        assert_eq!((run(third), free_rooms()), (6, 2));
        trim();
        assert_eq!(free_rooms(), 2, "both were in use a moment ago");
        trim();
        assert_eq!(free_rooms(), 0);
    }

    #[test]
    fn a_panic_gives_the_room_back() {
        let broken = std::panic::catch_unwind(|| {
            run(Room::of(|| async {
                let large = [0u8; 1000];
                assert!(large[1] == 1, "as meant");
            }))
        });
        assert!(broken.is_err());
        assert_eq!(free_rooms(), 1);
        trim();
        trim();
    }
}
