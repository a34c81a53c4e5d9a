//! Giving memory back to the kernel.

/// Gives what this thread has freed back to the kernel. The allocator does it by itself only when it is used again,
/// which a worker whose clients have all become idle does not. Takes up to a millisecond.
pub fn give_back() {
    // SAFETY: the call takes a flag and touches only the allocator's own state of this thread; without the allocator in
    // use there is none.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
