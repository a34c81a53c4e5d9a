//! Descriptors that pass from one process to the next, and signals to another process.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Descriptors that are looked at one by one where the kernel cannot close all at once (before Linux 5.11).
const DESCRIPTORS_CLOSED_MAX: RawFd = 65_536;
const CLOSE_RANGE_CLOEXEC: libc::c_uint = 1 << 2;

/// Lets a program inherit descriptors, under the numbers that they have here, and no others beside the standard
/// streams: runtimes open some that are not marked to be closed, and a client's connection must not stay open in
/// another process.
pub fn inherit(command: &mut Command, descriptors: Vec<OwnedFd>) {
    let keep_open = move || {
        close_all_at_exec();
        for descriptor in &descriptors {
            set_cloexec(descriptor.as_raw_fd(), false)?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only close_range and fcntl are called, which are async-signal-safe; nothing is
    // allocated, and the descriptors are open because the closure owns them.
    unsafe { command.pre_exec(keep_open) };
}

/// Takes over a descriptor that this process was started with. It is closed to programs that this one starts.
///
/// Call it once for each number, before the process opens descriptors of its own that could have the same number.
///
/// # Errors
/// When there is no such descriptor, or it is one of the standard streams.
pub fn take_inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    if descriptor <= libc::STDERR_FILENO {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    set_cloexec(descriptor, true)?;
    // SAFETY: the descriptor is open, as fcntl has just shown, and the caller is the only one who takes it: who
    // started the process left it for this.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Marks every descriptor behind the standard streams as one that a new program does not get.
fn close_all_at_exec() {
    let first = libc::STDERR_FILENO + 1;
    let last = libc::c_uint::MAX;
    // SAFETY: close_range with integers touches no memory; with this flag it closes nothing now.
    let done = unsafe { libc::syscall(libc::SYS_close_range, first as libc::c_uint, last, CLOSE_RANGE_CLOEXEC) };
    if done != 0 {
        for descriptor in first..DESCRIPTORS_CLOSED_MAX {
            // Most are not open.
            let _ = set_cloexec(descriptor, true);
        }
    }
}

fn set_cloexec(descriptor: RawFd, on: bool) -> io::Result<()> {
    let flags = if on { libc::FD_CLOEXEC } else { 0 };
    // SAFETY: F_SETFD with an integer touches no memory.
    match unsafe { libc::fcntl(descriptor, libc::F_SETFD, flags) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Whether a descriptor's file is non-blocking: the flag is shared with every process that has the same file open.
///
/// # Errors
/// What the system call gives.
pub fn is_nonblocking(descriptor: &impl AsRawFd) -> io::Result<bool> {
    // SAFETY: F_GETFL touches no memory.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) } {
        -1 => Err(io::Error::last_os_error()),
        flags => Ok(flags & libc::O_NONBLOCK != 0),
    }
}

/// A signal that operators send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
}

/// Sends a signal to one process.
///
/// # Errors
/// No such process, or one of another user.
pub fn ask(pid: u32, what: Ask) -> io::Result<()> {
    // 0 and negative numbers would mean groups of processes.
    let pid = i32::try_from(pid).ok().filter(|&pid| pid > 0);
    let pid = pid.ok_or_else(|| io::Error::from_raw_os_error(libc::ESRCH))?;
    let signal = match what {
        Ask::Reload => libc::SIGHUP,
        Ask::Upgrade => libc::SIGUSR2,
    };
    // SAFETY: kill touches no memory.
    match unsafe { libc::kill(pid, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn a_program_gets_the_descriptors_that_are_given_and_no_others() {
        let given = TcpListener::bind("127.0.0.1:0").expect("a port");
        let kept = TcpListener::bind("127.0.0.1:0").expect("a port");
        set_cloexec(kept.as_raw_fd(), false).expect("an option");
        let (given_fd, kept_fd) = (given.as_raw_fd(), kept.as_raw_fd());
        let mut command = Command::new("sh");
        command.args(["-c", &format!("for n in {given_fd} {kept_fd}; do [ -e /proc/self/fd/$n ] && echo $n; done; :")]);
        inherit(&mut command, vec![given.into()]);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().expect("a shell");
        let mut said = String::new();
        child.stdout.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert!(child.wait().expect("a child").success());
        assert_eq!(said.trim(), given_fd.to_string());
    }

    #[test]
    fn standard_streams_and_closed_descriptors_are_not_taken() {
        for descriptor in [-1, 0, 1, 2, 1_000_000] {
            assert!(take_inherited(descriptor).is_err(), "{descriptor}");
        }
    }

    #[test]
    fn only_one_process_can_be_asked() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            assert!(ask(pid, Ask::Reload).is_err(), "{pid}");
        }
    }
}
