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

/// From now on other threads that want the core have nine tenths of it and more. For threads that work in the
/// background: the way back needs privileges. Not the lowest priority there is: on a machine whose cores are all busy
/// that one gets a hundredth, and a reload that takes 50 ms of work did not end within 20 s.
pub fn give_way() {
    const NICER: libc::c_int = 10;
    // SAFETY: the call takes numbers. On Linux it concerns the thread that it names, not the process; a refusal changes
    // nothing.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, id() as libc::id_t, NICER) };
}

/// From now on this thread waits for its turn when it wakes up, and does not take the core from one that runs
/// (`SCHED_BATCH`): what it does is worth the same a millisecond later, a worker's requests are not. Threads and
/// processes that it starts inherit that: see [`be_prompt`]. A policy that the user has chosen stays.
pub fn be_patient() {
    set_policy(libc::SCHED_OTHER, libc::SCHED_BATCH);
}

/// Ends [`be_patient`].
pub fn be_prompt() {
    set_policy(libc::SCHED_BATCH, libc::SCHED_OTHER);
}

fn set_policy(from: libc::c_int, to: libc::c_int) {
    let param = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, the pointer is to a live value of this frame; a refusal changes nothing.
    unsafe {
        if libc::sched_getscheduler(0) == from {
            libc::sched_setscheduler(0, to, &param);
        }
    }
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

    #[test]
    fn patience_is_inherited_and_can_be_ended() {
        // SAFETY: 0 is the calling thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let before = policy();
        let patient = std::thread::spawn(move || {
            be_patient();
            let heir = std::thread::spawn(move || {
                let inherited = policy();
                be_prompt();
                (inherited, policy())
            });
            (policy(), heir.join().expect("it ends"))
        });
        let seen = patient.join().expect("it ends");
        if before == libc::SCHED_OTHER {
            assert_eq!(seen, (libc::SCHED_BATCH, (libc::SCHED_BATCH, libc::SCHED_OTHER)));
        }
        assert_eq!(policy(), before, "it concerns one thread");
    }

    #[test]
    fn giving_way_concerns_one_thread() {
        // SAFETY: the call takes numbers.
        let nice = |thread: i32| unsafe { libc::getpriority(libc::PRIO_PROCESS, thread as libc::id_t) };
        let before = nice(id());
        let other = std::thread::spawn(move || {
            give_way();
            nice(id())
        });
        assert_eq!((other.join().expect("it ends"), nice(id())), (10, before));
    }
}
