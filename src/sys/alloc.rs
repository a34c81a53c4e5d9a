//! The program's allocator.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use libmimalloc_sys as mi;
use mimalloc::MiMalloc;

/// mimalloc. What needs no more than a word's alignment, as nearly everything, is asked for in the plain way: the way
/// that takes an alignment costs three times as much and gives the same.
pub struct Allocator;

/// Every block is aligned to so many bytes, whatever its size.
const WORD_BYTES: usize = 8;

// SAFETY: each call is passed on to mimalloc, whose functions have the contract of the trait's; a block may be resized
// and freed whichever of them it came from.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() > WORD_BYTES {
            // SAFETY: the caller's promises are passed on.
            return unsafe { MiMalloc.alloc(layout) };
        }
        // SAFETY: any size may be asked for; blocks are aligned to a word.
        unsafe { mi::mi_malloc(layout.size()) }.cast()
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.align() > WORD_BYTES {
            // SAFETY: the caller's promises are passed on.
            return unsafe { MiMalloc.alloc_zeroed(layout) };
        }
        // SAFETY: as in `alloc`.
        unsafe { mi::mi_zalloc(layout.size()) }.cast()
    }

    #[inline]
    unsafe fn dealloc(&self, at: *mut u8, _: Layout) {
        // SAFETY: the caller gives up a block of this allocator.
        unsafe { mi::mi_free(at.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        unsafe { MiMalloc.realloc(at, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_aligned_zeroed_and_keep_their_bytes() {
        for align in [1, 2, 4, 8, 16, 64, 4096] {
            for size in [1, 3, 8, 9, 17, 24, 40, 100, 513, 5_000, 70_000] {
                let layout = Layout::from_size_align(size, align).expect("a layout");
                // SAFETY: the layout has a size; blocks are used within it, and freed once.
                unsafe {
                    let (plain, zeroed) = (Allocator.alloc(layout), Allocator.alloc_zeroed(layout));
                    assert!(!plain.is_null() && !zeroed.is_null());
                    assert_eq!((plain as usize % align, zeroed as usize % align), (0, 0), "{layout:?}");
                    assert!(std::slice::from_raw_parts(zeroed, size).iter().all(|byte| *byte == 0));
                    plain.write_bytes(7, size);
                    let larger = Allocator.realloc(plain, layout, 2 * size);
                    assert_eq!(larger as usize % align, 0, "{layout:?}");
                    assert!(std::slice::from_raw_parts(larger, size).iter().all(|byte| *byte == 7));
                    Allocator.dealloc(larger, Layout::from_size_align(2 * size, align).expect("a layout"));
                    Allocator.dealloc(zeroed, layout);
                }
            }
        }
    }
}
