//! Faults that a request asks for, so that tests see what becomes of them (F05, F06).
//!
//! They are in builds with debug assertions or the feature `faults`, and there only when `RINGWAY_FAULTS=1` is in the
//! environment. A release build has none of this.
//!
//! ```text
//! /.fault/panic      this connection's task panics
//! /.fault/worker     a task that nobody guards panics: the worker dies
//! /.fault/spin/MS    the worker takes no turn for so many milliseconds of processor time
//! ```
#![cfg(any(debug_assertions, feature = "faults"))]

use std::sync::OnceLock;

use crate::sys::thread;

/// Does what the path asks for, if faults are allowed.
pub fn strike(path: &[u8]) {
    static ALLOWED: OnceLock<bool> = OnceLock::new();
    let Some(fault) = path.strip_prefix(b"/.fault/") else { return };
    if !ALLOWED.get_or_init(|| std::env::var_os("RINGWAY_FAULTS").is_some_and(|value| value == "1")) {
        return;
    }
    match fault {
        b"panic" => panic!("a panic that was asked for"),
        b"worker" => drop(monoio::spawn(async { panic!("a worker's panic that was asked for") })),
        other => {
            if let Some(Ok(ms)) = other.strip_prefix(b"spin/").map(|ms| String::from_utf8_lossy(ms).parse()) {
                spin(ms);
            }
        }
    }
}

/// Takes the thread for so many milliseconds of its own processor time, however busy the machine is.
#[inline(never)]
fn spin(ms: u64) {
    let end = thread::cpu_ns().saturating_add(ms.saturating_mul(1_000_000));
    while thread::cpu_ns() < end {
        std::hint::spin_loop();
    }
}
