//! How the kernel backs the process's memory.

/// Asks for ordinary pages. A proxy's memory is many small things: in pages of 2 MiB each of them costs the rest of its
/// page, 8 MiB for a process at rest. That it cannot be had is no reason not to run.
pub fn use_small_pages() {
    // SAFETY: the call takes numbers only and changes nothing but this process's own setting.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}
