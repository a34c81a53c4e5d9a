//! Resource limits of the process.

use std::io;

/// Soft and hard limit of open descriptors.
///
/// # Errors
/// What the system call gives.
pub fn descriptors() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to a live rlimit of this frame.
    match unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } {
        0 => Ok((limit.rlim_cur, limit.rlim_max)),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Raises the soft limit of open descriptors to the hard one. Returns the new soft limit.
///
/// # Errors
/// What the system calls give.
pub fn raise_descriptors() -> io::Result<u64> {
    let (soft, hard) = descriptors()?;
    if soft == hard {
        return Ok(soft);
    }
    let limit = libc::rlimit { rlim_cur: hard, rlim_max: hard };
    // SAFETY: the pointer is to a live rlimit of this frame.
    match unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } {
        0 => Ok(hard),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptor_limit_is_raised_to_the_hard_one() {
        let (_, hard) = descriptors().expect("the limit can be read");
        assert_eq!(raise_descriptors().expect("the soft limit may rise"), hard);
        assert_eq!(descriptors().expect("the limit can be read").0, hard);
    }
}
