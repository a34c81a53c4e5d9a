//! The calling thread as the kernel knows it.

/// Its number.
pub fn id() -> i32 {
    // SAFETY: the call takes nothing and cannot fail.
    unsafe { libc::gettid() }
}

/// Processor time that it has used, in nanoseconds. A system call: for once a second.
pub fn cpu_ns() -> u64 {
    let mut used = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a live timespec of this frame.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut used) };
    (used.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(used.tv_nsec as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_have_numbers_and_use_time() {
        let other = std::thread::spawn(id).join().expect("it ends");
        assert!(id() > 0 && other > 0 && other != id());
        let before = cpu_ns();
        while cpu_ns() == before {}
    }
}
