//! What systemd is told (`sd_notify(3)`): readiness, reloads, stopping, a status line, the watchdog.

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

/// Longest status line sent; the rest is cut.
pub const STATUS_BYTES_MAX: usize = 1_024;

/// The way to the service manager. Without `NOTIFY_SOCKET` it does nothing; failures are ignored, as the manager has
/// timeouts of its own.
#[derive(Debug, Default)]
pub struct Notifier {
    way: Option<(UnixDatagram, SocketAddr)>,
    watchdog_interval: Option<Duration>,
}

impl Notifier {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID` through `variable`.
    ///
    /// # Errors
    /// When a socket is named that cannot be used. The start need not fail for that.
    pub fn from_env(variable: impl Fn(&str) -> Option<OsString>, process_id: u32) -> io::Result<Self> {
        let Some(name) = variable("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else { return Ok(Self::default()) };
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(&name)?,
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    "NOTIFY_SOCKET is neither a path nor abstract",
                ));
            }
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        let number = |name: &str| variable(name)?.to_str()?.parse::<u64>().ok();
        let is_ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(process_id));
        // Half of the time, as sd_watchdog_enabled(3) advises.
        let interval = number("WATCHDOG_USEC").filter(|&us| us > 1 && is_ours).map(|us| Duration::from_micros(us / 2));
        Ok(Self { way: Some((socket, address)), watchdog_interval: interval })
    }

    /// The gateway serves.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\n{}", status_line(status)));
    }

    /// A reload began; [`Notifier::ready`] must follow. `monotonic_us` is CLOCK_MONOTONIC in microseconds.
    pub fn reloading(&self, monotonic_us: u64) {
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={monotonic_us}\n"));
    }

    /// The gateway stops.
    pub fn stopping(&self, status: &str) {
        self.send(&format!("STOPPING=1\n{}", status_line(status)));
    }

    /// Another process is the main one from now on. Until then the manager believes nobody but this process.
    pub fn main_process(&self, pid: u32) {
        self.send(&format!("MAINPID={pid}\n{}", status_line("replaced by a new process")));
    }

    /// One line that `systemctl status` shows.
    pub fn status(&self, status: &str) {
        self.send(&status_line(status));
    }

    /// All workers are alive. To be sent each [`Notifier::watchdog_interval`].
    pub fn watchdog(&self) {
        self.send("WATCHDOG=1\n");
    }

    /// How often the watchdog wants to hear; None when there is none.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog_interval
    }

    fn send(&self, message: &str) {
        if let Some((socket, address)) = &self.way {
            let _ = socket.send_to_addr(message.as_bytes(), address);
        }
    }
}

/// A line break in the status would begin another assignment.
fn status_line(status: &str) -> String {
    let end = (0..=STATUS_BYTES_MAX.min(status.len())).rev().find(|&at| status.is_char_boundary(at)).unwrap_or(0);
    format!("STATUS={}\n", status[..end].replace(['\n', '\r', '\0'], " "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(variables: &[(&str, &str)]) -> io::Result<Notifier> {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
        Notifier::from_env(find, 42)
    }

    fn received(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 2_048];
        let len = socket.recv(&mut bytes).expect("a message");
        String::from_utf8_lossy(&bytes[..len]).into_owned()
    }

    #[test]
    fn messages_arrive_at_a_path() {
        let dir = tempfile::tempdir().expect("directory");
        let path = dir.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("bound");
        let notifier = notifier(&[("NOTIFY_SOCKET", path.to_str().expect("text"))]).expect("usable");
        notifier.ready("2 workers\nREADY=0");
        notifier.reloading(77);
        notifier.status(&"é".repeat(STATUS_BYTES_MAX));
        notifier.stopping("bye");
        notifier.watchdog();
        notifier.main_process(7);
        assert_eq!(received(&socket), "READY=1\nSTATUS=2 workers READY=0\n");
        assert_eq!(received(&socket), "RELOADING=1\nMONOTONIC_USEC=77\n");
        assert_eq!(received(&socket), format!("STATUS={}\n", "é".repeat(STATUS_BYTES_MAX / 2)));
        assert_eq!(received(&socket), "STOPPING=1\nSTATUS=bye\n");
        assert_eq!(received(&socket), "WATCHDOG=1\n");
        assert_eq!(received(&socket), "MAINPID=7\nSTATUS=replaced by a new process\n");
        drop(socket);
        notifier.watchdog();
    }

    #[test]
    fn messages_arrive_at_an_abstract_name() {
        let name = format!("ringway-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let socket = UnixDatagram::bind_addr(&address).expect("bound");
        notifier(&[("NOTIFY_SOCKET", &format!("@{name}"))]).expect("usable").watchdog();
        assert_eq!(received(&socket), "WATCHDOG=1\n");
    }

    #[test]
    fn the_watchdog_is_heard_twice_in_its_time_and_only_by_its_process() {
        let interval = |variables: &[(&str, &str)]| {
            let mut all = vec![("NOTIFY_SOCKET", "/run/none")];
            all.extend_from_slice(variables);
            notifier(&all).expect("usable").watchdog_interval()
        };
        assert_eq!(interval(&[("WATCHDOG_USEC", "3000000")]), Some(Duration::from_millis(1_500)));
        assert_eq!(
            interval(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "42")]),
            Some(Duration::from_millis(1_500))
        );
        assert_eq!(interval(&[("WATCHDOG_USEC", "3000000"), ("WATCHDOG_PID", "43")]), None);
        assert_eq!(interval(&[("WATCHDOG_USEC", "soon")]), None);
        assert_eq!(interval(&[]), None);
    }

    #[test]
    fn without_a_socket_nothing_happens_and_a_bad_one_is_told() {
        notifier(&[]).expect("nothing to do").ready("x");
        assert!(notifier(&[("NOTIFY_SOCKET", "vsock:2:1")]).is_err());
    }
}
