//! Resource limits of the process.

use std::io;

use crate::limits::{
    ACCEPT_OVERSHOOT, CONNECTIONS_PER_WORKER_MAX, DESCRIPTORS_OWN, DESCRIPTORS_PER_WORKER, DESCRIPTORS_RESERVE,
    SHARE_MIN, UPSTREAM_SHARE,
};

/// What one worker may open of the process's descriptors (F08).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorShare {
    /// Connections of clients and to endpoints together.
    pub streams_max: usize,
    /// Connections of clients.
    pub clients_max: usize,
}

impl DescriptorShare {
    /// An equal share for each of `workers` in what `limit` leaves besides the gateway's own needs and its reserve.
    ///
    /// # Errors
    /// How many descriptors are needed at least, when there are fewer.
    pub fn of(limit: u64, workers: u32, listeners: usize) -> Result<Self, u64> {
        let workers = u64::from(workers.max(1));
        // A listening socket is open twice: once in the ring, once to be closed from outside.
        let each = DESCRIPTORS_PER_WORKER + 2 * listeners as u64 + ACCEPT_OVERSHOOT as u64;
        let own = DESCRIPTORS_OWN + DESCRIPTORS_RESERVE + workers * each;
        let needed = own + workers * SHARE_MIN;
        if limit < needed {
            return Err(needed);
        }
        let streams = usize::try_from((limit - own) / workers).unwrap_or(usize::MAX);
        let streams_max = streams.min(CONNECTIONS_PER_WORKER_MAX);
        Ok(Self { streams_max, clients_max: streams_max - streams_max / UPSTREAM_SHARE })
    }
}

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
    fn shares_leave_the_reserve_and_fit_the_limit() {
        let share = DescriptorShare::of(256, 2, 1).expect("enough");
        assert_eq!(share, DescriptorShare { streams_max: 86, clients_max: 65 });
        assert_eq!(DescriptorShare::of(80, 1, 1), Ok(DescriptorShare { streams_max: 14, clients_max: 11 }));
        assert_eq!(DescriptorShare::of(64, 1, 1), Err(74));
        let most = DescriptorShare::of(u64::MAX, 3, 5).expect("plenty");
        assert_eq!(most.streams_max, CONNECTIONS_PER_WORKER_MAX);
    }

    #[test]
    fn descriptor_limit_is_raised_to_the_hard_one() {
        let (_, hard) = descriptors().expect("the limit can be read");
        assert_eq!(raise_descriptors().expect("the soft limit may rise"), hard);
        assert_eq!(descriptors().expect("the limit can be read").0, hard);
    }
}
