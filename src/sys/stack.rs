//! The stack of another thread of this process, for the watchdog (F06).
//!
//! A signal makes the thread walk its own stack. The handler does nothing but that and store the addresses: it takes no
//! lock, allocates nothing and keeps `errno`. The unwinder looks its tables up without a lock since glibc 2.35; names
//! are found later, on the thread that asked.

use std::ffi::{c_int, c_void};
use std::io;
use std::sync::Once;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::limits::STACK_FRAMES_MAX;

/// How long a thread may take to answer, in turns of a millisecond. One that the kernel does not let run never does.
const TURNS_MAX: u32 = 50;

const IDLE: usize = 0;
const ASKED: usize = 1;
const WALKING: usize = 2;
const DONE: usize = 3;

// Answers to the unwinder: `_URC_NO_REASON` and `_URC_END_OF_STACK`.
const GO_ON: c_int = 0;
const END: c_int = 5;

static STATE: AtomicUsize = AtomicUsize::new(IDLE);
static COUNT: AtomicUsize = AtomicUsize::new(0);
static FRAMES: [AtomicUsize; STACK_FRAMES_MAX] = [const { AtomicUsize::new(0) }; STACK_FRAMES_MAX];

// SAFETY: these are the signatures of the Itanium C++ ABI, which all unwinders that Rust uses have.
unsafe extern "C" {
    // Of libgcc_s or libunwind, which the standard library links for its panics.
    fn _Unwind_Backtrace(step: extern "C" fn(*mut c_void, *mut c_void) -> c_int, argument: *mut c_void) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

/// Return addresses of a thread of this process, innermost first, without those of the signal handler. Empty when the
/// thread does not answer. One caller at a time.
///
/// # Errors
/// When the thread is gone or the handler cannot be installed.
pub fn of(thread: i32) -> io::Result<Vec<usize>> {
    install()?;
    STATE.store(ASKED, Ordering::Release);
    // SAFETY: the call takes three numbers; the handler is installed.
    let sent = unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal()) };
    if sent != 0 {
        STATE.store(IDLE, Ordering::Release);
        return Err(io::Error::last_os_error());
    }
    for _ in 0..TURNS_MAX {
        if STATE.load(Ordering::Acquire) == DONE {
            break;
        }
        thread::park_timeout(Duration::from_millis(1));
    }
    // A thread that begins only now finds that nobody asks; one in the middle is waited for, as it cannot block.
    while STATE.compare_exchange(ASKED, IDLE, Ordering::AcqRel, Ordering::Acquire) == Err(WALKING) {
        thread::yield_now();
    }
    match STATE.swap(IDLE, Ordering::AcqRel) {
        DONE => Ok(FRAMES[..COUNT.load(Ordering::Relaxed)].iter().map(|f| f.load(Ordering::Relaxed)).collect()),
        _ => Ok(Vec::new()),
    }
}

/// Return addresses of the calling thread, innermost first, at most [`STACK_FRAMES_MAX`].
pub fn own() -> Vec<usize> {
    extern "C" fn step(context: *mut c_void, argument: *mut c_void) -> c_int {
        // SAFETY: the argument is the vector of the call below, which nobody else uses meanwhile; the unwinder gave
        // the context for the duration of this call.
        let (frames, frame) = unsafe { (&mut *argument.cast::<Vec<usize>>(), _Unwind_GetIP(context)) };
        if frames.len() == frames.capacity() {
            return END;
        }
        frames.push(frame);
        GO_ON
    }
    let mut frames: Vec<usize> = Vec::with_capacity(STACK_FRAMES_MAX);
    // SAFETY: the walk calls `step` with a pointer to the vector, which lives longer, and ends before it returns.
    unsafe { _Unwind_Backtrace(step, (&raw mut frames).cast()) };
    frames
}

fn signal() -> c_int {
    libc::SIGRTMIN() + 6
}

fn install() -> io::Result<()> {
    static ONCE: Once = Once::new();
    let mut outcome = Ok(());
    ONCE.call_once(|| {
        // SAFETY: the structure is plain data for which zero is valid; the handler has the signature that SA_SIGINFO
        // asks for and does only what is allowed in one.
        outcome = unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART;
            match libc::sigaction(signal(), &action, std::ptr::null_mut()) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
    });
    outcome
}

extern "C" fn on_signal(_signal: c_int, _info: *mut libc::siginfo_t, _context: *mut c_void) {
    if STATE.compare_exchange(ASKED, WALKING, Ordering::AcqRel, Ordering::Acquire).is_err() {
        return;
    }
    COUNT.store(0, Ordering::Relaxed);
    // SAFETY: `errno` is this thread's; the walk calls `step` with a context that lives during the call.
    unsafe {
        let errno = *libc::__errno_location();
        _Unwind_Backtrace(step, std::ptr::null_mut());
        *libc::__errno_location() = errno;
    }
    STATE.store(DONE, Ordering::Release);
}

extern "C" fn step(context: *mut c_void, _argument: *mut c_void) -> c_int {
    let at = COUNT.load(Ordering::Relaxed);
    let Some(frame) = FRAMES.get(at) else { return END };
    // SAFETY: the unwinder gave this context for the duration of this call.
    frame.store(unsafe { _Unwind_GetIP(context) }, Ordering::Relaxed);
    COUNT.store(at + 1, Ordering::Relaxed);
    GO_ON
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, AtomicI32};

    #[inline(never)]
    fn spin(stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn the_stack_of_a_spinning_thread_is_seen() {
        let (stop, number) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI32::new(0)));
        let (theirs, said) = (stop.clone(), number.clone());
        let spinning = thread::spawn(move || {
            said.store(crate::sys::thread::id(), Ordering::Release);
            spin(&theirs);
        });
        while number.load(Ordering::Acquire) == 0 {
            thread::yield_now();
        }
        let frames = of(number.load(Ordering::Acquire)).expect("it runs");
        stop.store(true, Ordering::Relaxed);
        spinning.join().expect("it ends");
        let within = |frame: &usize| (spin as *const () as usize..spin as *const () as usize + 4_096).contains(frame);
        assert!(frames.len() > 3 && frames.iter().any(within), "{frames:x?}");
        assert!(of(i32::MAX).is_err(), "there is no such thread");
    }

    #[test]
    fn the_own_stack_is_seen_and_bounded() {
        fn deep(left: usize) -> usize {
            if left == 0 { own().len() } else { std::hint::black_box(deep(left - 1)) }
        }
        assert!(own().len() > 3);
        assert_eq!(deep(2 * STACK_FRAMES_MAX), STACK_FRAMES_MAX);
    }
}
