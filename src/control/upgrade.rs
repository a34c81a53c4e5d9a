//! Replacing the running program by another without losing a client (F03).
//!
//! ```text
//! predecessor                                   successor
//!   starts it with all listening sockets ─────►   reads and compiles its configuration
//!   and what operators want of endpoints          starts its workers on the sockets
//!                                        ◄─────   "ready", or "failed" with the reason
//!   tells the service manager who is main
//!   accepts no more, and says "go"        ─────►  looks at the queues and orders anew
//!   tells whoever wanted this             ◄─────  closes its end
//!                                                 writes the process id file, tells the service manager
//!   finishes what it has, and ends
//! ```
//!
//! Why the queues are looked at anew: the kernel wakes one of those who wait for a connection. When that is an accept
//! of the predecessor at the moment in which it is cancelled, the wake-up is lost, and the connection would wait for
//! the next one to come.
//!
//! Both speak over a socket pair that the successor inherits. Whatever goes wrong before "ready" ends the successor and
//! leaves the predecessor as it was: its sockets are the same open files, which it never closed.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::activation::{ADMIN_NAME, COUNT_VARIABLE, FROM_VARIABLE, LINK_VARIABLE, ORDERS_VARIABLE, SOCKETS_VARIABLE};
use super::orders::handover::Handover;
use crate::sys::process;

/// How long a successor may take until it is ready, in milliseconds.
pub const READY_TIMEOUT_MS: u64 = 10_000;
/// How long a successor waits for the word that it is alone, in milliseconds. It serves meanwhile.
const GO_TIMEOUT_MS: u64 = 2_000;
/// Longest message of a successor, in bytes; the rest of a reason is cut.
const MESSAGE_BYTES_MAX: usize = 16 * 1024;
/// How long the exit status of a successor that has closed its end may take.
const EXIT_WAIT: Duration = Duration::from_millis(500);

const READY: &str = "ready";
const FAILED: &str = "failed ";

/// What is handed over: listeners and the admin listener, with the addresses as they are configured, and orders.
pub struct Goods<'a> {
    /// Of clients.
    pub listeners: Vec<(SocketAddr, &'a TcpListener)>,
    /// Of operators.
    pub admin: Option<(SocketAddr, &'a TcpListener)>,
    /// What operators want of endpoints.
    pub orders: &'a Handover,
}

/// A successor that is starting.
pub struct Successor {
    child: Child,
    link: tokio::net::UnixStream,
    said: Vec<u8>,
    due: Instant,
}

impl Successor {
    /// Starts the program anew: the same words, the file found again by its name, so that a replaced one is taken.
    /// `count` is the number of upgrades since the first start, this one included. Must run on the control thread's
    /// runtime.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn start(goods: &Goods<'_>, count: u64) -> io::Result<Self> {
        let mut words = std::env::args_os();
        let program = words.next().unwrap_or_else(|| OsString::from("ringway"));
        let mut command = Command::new(program);
        command.args(words);
        let link = equip(&mut command, goods, count)?;
        link.set_nonblocking(true)?;
        let link = tokio::net::UnixStream::from_std(link)?;
        let child = command.spawn()?;
        // The command holds the descriptors that the child has now: with them its end of the link would stay open.
        drop(command);
        let due = Instant::now() + Duration::from_millis(READY_TIMEOUT_MS);
        Ok(Self { child, link, said: Vec::new(), due })
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it is ready or has failed. Safe to drop and call again.
    ///
    /// # Errors
    /// Why it will not serve.
    pub async fn ready(&mut self) -> Result<(), String> {
        match timeout_at(self.due, self.message()).await {
            Ok(Some(message)) if message == READY => Ok(()),
            Ok(Some(message)) => Err(message.strip_prefix(FAILED).unwrap_or(&message).to_owned()),
            Ok(None) => Err(match self.exit_status().await {
                Some(status) => format!("the new program ended before it was ready: {status}"),
                None => "the new program closed its way back before it was ready".to_owned(),
            }),
            Err(_) => Err(format!("the new program was not ready within {} s", READY_TIMEOUT_MS / 1_000)),
        }
    }

    /// Tells it that it is alone from now on, and waits until it has taken that in. It serves without that, too.
    pub async fn go(mut self) {
        // It may have gone already: there is nobody to tell then.
        let _ = self.link.try_write(b"go\n");
        // It closes its end.
        self.said.clear();
        let _ = timeout(Duration::from_millis(GO_TIMEOUT_MS), self.message()).await;
    }

    /// Ends it.
    pub fn end(mut self) {
        // It may have ended by itself. Who ends takes a moment; nobody waits for it here.
        let _ = self.child.kill();
        tokio::task::spawn_blocking(move || self.child.wait());
    }

    /// Its first line; None when it closes its end without one.
    async fn message(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.said.iter().position(|&byte| byte == b'\n') {
                return Some(String::from_utf8_lossy(&self.said[..end]).into_owned());
            }
            self.link.readable().await.ok()?;
            let mut bytes = [0; 1_024];
            match self.link.try_read(&mut bytes) {
                Ok(count) if count > 0 && self.said.len() < MESSAGE_BYTES_MAX => {
                    self.said.extend_from_slice(&bytes[..count]);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                _ => return None,
            }
        }
    }

    async fn exit_status(&mut self) -> Option<ExitStatus> {
        let until = Instant::now() + EXIT_WAIT;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => sleep(Duration::from_millis(5)).await,
                Ok(status) => return status,
                Err(_) => return None,
            }
        }
        None
    }
}

/// Gives the program its goods and its end of the link; returns our end.
fn equip(command: &mut Command, goods: &Goods<'_>, count: u64) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    let mut descriptors = vec![OwnedFd::from(theirs), goods.orders.descriptor()?];
    command.env(LINK_VARIABLE, descriptors[0].as_raw_fd().to_string());
    command.env(ORDERS_VARIABLE, descriptors[1].as_raw_fd().to_string());
    let mut names = Vec::new();
    let listeners = goods.listeners.iter().map(|(address, socket)| (String::new(), address, socket));
    let admin = goods.admin.iter().map(|(address, socket)| (format!("{ADMIN_NAME}@"), address, socket));
    for (name, address, socket) in listeners.chain(admin) {
        let descriptor = OwnedFd::from(socket.try_clone()?);
        names.push(format!("{}={name}{address}", descriptor.as_raw_fd()));
        descriptors.push(descriptor);
    }
    command.env(SOCKETS_VARIABLE, names.join(","));
    command.env(FROM_VARIABLE, std::process::id().to_string());
    command.env(COUNT_VARIABLE, count.to_string());
    // These speak of this process: sockets come from here, and the watchdog is for whoever is main.
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"] {
        command.env_remove(name);
    }
    process::inherit(command, descriptors);
    Ok(ours)
}

/// A successor's way to the process that it replaces.
#[derive(Debug)]
pub struct Predecessor(UnixStream);

impl Predecessor {
    /// Speaks over the inherited descriptor.
    pub fn over(link: OwnedFd) -> Self {
        Self(UnixStream::from(link))
    }

    /// Says that this process serves, and waits until the other one has stopped accepting or is gone. The other one
    /// waits until this is dropped.
    pub fn ready(&mut self) {
        let waits = self.0.set_read_timeout(Some(Duration::from_millis(GO_TIMEOUT_MS)));
        if self.0.write_all(format!("{READY}\n").as_bytes()).is_ok() && waits.is_ok() {
            // Whatever comes, or nothing: this process serves.
            let _ = self.0.read(&mut [0; 16]);
        }
    }

    /// Says why this process does not serve.
    pub fn failed(mut self, why: &str) {
        let why: String = why.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let end = (0..=why.len().min(MESSAGE_BYTES_MAX / 2)).rev().find(|&at| why.is_char_boundary(at)).unwrap_or(0);
        // When the other one has gone there is nobody to tell; the log has it too.
        let _ = self.0.write_all(format!("{FAILED}{}\n", &why[..end]).as_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn successor(script: &str) -> Successor {
        // Other shells know descriptors of one digit only.
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        let orders = Handover::new().expect("a file");
        let link =
            equip(&mut command, &Goods { listeners: Vec::new(), admin: None, orders: &orders }, 1).expect("a link");
        link.set_nonblocking(true).expect("an option");
        let link = tokio::net::UnixStream::from_std(link).expect("a runtime");
        let child = command.spawn().expect("a shell");
        drop(command);
        Successor { child, link, said: Vec::new(), due: Instant::now() + Duration::from_secs(5) }
    }

    #[tokio::test]
    async fn what_a_successor_says_or_does_not_is_understood() {
        for (script, wanted) in [
            ("echo ready >&$RINGWAY_UPGRADE_LINK; sleep 5", Ok(())),
            ("echo failed no such port >&$RINGWAY_UPGRADE_LINK", Err("no such port")),
            ("exit 3", Err("the new program ended before it was ready: exit status: 3")),
            ("kill -9 $$", Err("the new program ended before it was ready: signal: 9 (SIGKILL)")),
        ] {
            let mut successor = successor(script);
            assert_eq!(successor.ready().await, wanted.map_err(str::to_owned), "{script}");
            successor.end();
        }
    }

    #[tokio::test]
    async fn a_successor_that_is_silent_is_given_up() {
        let mut successor = successor("sleep 60");
        successor.due = Instant::now() + Duration::from_millis(20);
        assert!(successor.ready().await.is_err_and(|why| why.contains("not ready within")));
        successor.end();
    }

    #[tokio::test]
    async fn a_successors_own_words_arrive() {
        for (ready, wanted) in [(true, Ok(())), (false, Err("line one line two".to_owned()))] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            ours.set_nonblocking(true).expect("an option");
            let link = tokio::net::UnixStream::from_std(ours).expect("a runtime");
            let child = Command::new("sleep").arg("60").spawn().expect("a program");
            let due = Instant::now() + Duration::from_secs(5);
            let mut successor = Successor { child, link, said: Vec::new(), due };
            let speaks = std::thread::spawn(move || match ready {
                true => Predecessor(theirs).ready(),
                false => Predecessor(theirs).failed("line one\nline two\n"),
            });
            assert_eq!(successor.ready().await, wanted);
            let _ = successor.child.kill();
            successor.go().await;
            speaks.join().expect("it ends");
        }
    }
}
