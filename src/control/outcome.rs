//! How the process that was asked by a signal tells what became of it.
//!
//! Who sends SIGHUP or SIGUSR2 gets no answer from the kernel. `ringway reload --pid` and `upgrade --pid` therefore
//! bind a datagram socket under a name that belongs to the process that they ask, and the outcome goes there, if
//! anybody listens. The name is abstract: nothing is left in a file system, and nothing is told but what the log says
//! as well.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use serde::Serialize;
use serde_json::Value;

/// Longest outcome, in bytes; a longer one is not told.
const OUTCOME_BYTES_MAX: usize = 64 * 1024;

fn name(what: &str, pid: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("ringway-{what}-{pid}"))
}

/// Tells the outcome of `what` (`reload` or `upgrade`) to whoever waits for it.
pub fn tell(what: &str, outcome: &impl Serialize) {
    let Ok(text) = serde_json::to_vec(outcome) else { return };
    let sent = || {
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        socket.send_to_addr(&text, &name(what, std::process::id())?)
    };
    // Nobody waits, most of the time.
    let _ = sent();
}

/// Waits for the outcome of what another process is asked to do.
#[derive(Debug)]
pub struct Listener(UnixDatagram);

impl Listener {
    /// Waits for the outcome of `what` in the process `pid`. To be made before the process is asked.
    ///
    /// # Errors
    /// When somebody else waits for it already.
    pub fn new(what: &str, pid: u32) -> io::Result<Self> {
        UnixDatagram::bind_addr(&name(what, pid)?).map(Self)
    }

    /// The outcome; None when none comes within `timeout`.
    pub fn wait(&self, timeout: Duration) -> Option<Value> {
        self.0.set_read_timeout(Some(timeout)).ok()?;
        let mut bytes = vec![0; OUTCOME_BYTES_MAX];
        let count = self.0.recv(&mut bytes).ok()?;
        serde_json::from_slice(&bytes[..count]).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_outcome_reaches_the_one_who_waits() {
        let own = std::process::id();
        tell("test", &json!({ "nobody": "listens" }));
        let listener = Listener::new("test", own).expect("free");
        assert!(Listener::new("test", own).is_err(), "one at a time");
        tell("test", &json!({ "result": "done" }));
        assert_eq!(listener.wait(Duration::from_secs(5)), Some(json!({ "result": "done" })));
        assert_eq!(listener.wait(Duration::from_millis(5)), None);
    }
}
