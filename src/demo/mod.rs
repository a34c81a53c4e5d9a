//! Built-in demo upstreams: an origin server for the first run, for benchmarks and for end-to-end tests.
//!
//! ```text
//! Origin ─► server (accept, sweep, stop) ─► conn (one connection)
//!                                             ├─► fast    known first line, whole response in memory
//!                                             └─► answer  everything else: paths, request, json
//! ```
//! An origin is one thread with a runtime of its own. It shares nothing with the gateway but buffers and the codec.

mod answer;
mod conn;
mod fast;
mod json;
mod paths;
mod request;
mod server;
#[cfg(test)]
mod tests;
mod wire;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use crate::net::listener;
use crate::sys::ring::{Driver, WorkerRuntime};

/// Entries of an origin's submission queue.
pub const RING_ENTRIES: u32 = 256;
/// Request head; more is answered 431.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Connections of one origin; further ones are closed at once.
pub const CONNECTIONS_MAX: usize = 20_000;
/// Connection of a [`Kind::Demo`] origin on which no byte moves, in milliseconds; rounded up to [`SWEEP_MS`].
pub const IDLE_TIMEOUT_MS: u64 = 75_000;
/// Pause between two looks at the connections, in milliseconds.
pub const SWEEP_MS: u64 = 5_000;
/// Answers of pipelined requests that are held until one send, in bytes.
pub const OUTPUT_BYTES_MAX: usize = 64 * 1024;
/// Body of `/bytes/N`, in bytes.
pub const BODY_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Pieces of `/chunked/N` and `/drip/N/MS`.
pub const PIECES_MAX: u64 = 65_536;
/// Wait of `/slow/MS`, and of `/drip/N/MS` between two pieces, in milliseconds.
pub const WAIT_MS_MAX: u64 = 60_000;
/// `/stream` and `/drip` as a whole, in milliseconds.
pub const STREAM_MS_MAX: u64 = 3_600_000;
/// Pause between two pieces of `/stream`, in milliseconds.
pub const STREAM_PAUSE_MS: u64 = 100;
/// Shortest and longest pause after an accept that failed, in milliseconds; it doubles in between.
pub const ACCEPT_BACKOFF_MS: (u64, u64) = (5, 1_000);
/// How long a stopping origin waits for its connections' tasks, in milliseconds.
pub const STOP_MS_MAX: u64 = 1_000;

/// The configuration of the demo, with fixed addresses; `config/demo.yaml`.
pub const CONFIG: &str = include_str!("../../config/demo.yaml");
/// The endpoints of [`CONFIG`]: the name of each and the address that stands for it there.
pub const ENDPOINTS: [(&str, &str); 4] = [
    ("users-1", "127.0.0.1:19081"),
    ("users-2", "127.0.0.1:19082"),
    ("orders-1", "127.0.0.1:19083"),
    ("orders-2", "127.0.0.1:19084"),
];

/// What an origin does with paths that have no meaning of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Answers with JSON that shows the request; connections without traffic are closed.
    Demo,
    /// Answers with 1 KiB as cheaply as it can; connections may stay idle for ever.
    Bench,
}

/// A running origin. Dropping it closes its connections and joins its thread.
#[derive(Debug)]
pub struct Origin {
    address: SocketAddr,
    /// The origin stops when this is closed.
    stop: Option<UnixStream>,
    thread: Option<JoinHandle<()>>,
}

impl Origin {
    /// Starts an origin of [`Kind::Demo`] on a thread of its own; `name` is the `service` of its answers. It listens
    /// when this returns. The runtime is the best one from `driver` on.
    ///
    /// # Errors
    /// The address cannot be bound, the thread not started, or no runtime be built.
    pub fn start(address: SocketAddr, name: &str, driver: Driver) -> io::Result<Self> {
        Self::start_as(Kind::Demo, address, name, driver)
    }

    /// Starts an origin of either kind; see [`Origin::start`].
    ///
    /// # Errors
    /// As for [`Origin::start`].
    pub fn start_as(kind: Kind, address: SocketAddr, name: &str, driver: Driver) -> io::Result<Self> {
        let listener = bind(address)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = UnixStream::pair()?;
        let (ready, built) = mpsc::sync_channel(1);
        let shared = (kind, name.to_owned());
        let run = move || match WorkerRuntime::build(driver, RING_ENTRIES) {
            Ok((mut runtime, got, _)) => {
                let _ = ready.send(Ok(()));
                runtime.block_on(server::serve(listener, Some(stopped), shared.0, &shared.1, got));
            }
            Err(error) => drop(ready.send(Err(error))),
        };
        let thread = thread::Builder::new().name(format!("demo-{name}")).spawn(run)?;
        let origin = Self { address, stop: Some(stop), thread: Some(thread) };
        built.recv().unwrap_or_else(|_| Err(io::Error::other("the origin's thread ended early")))?;
        Ok(origin)
    }

    /// Where it listens; the port is a real one also when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A thread that panicked is gone as well.
            let _ = thread.join();
        }
    }
}

/// Runs an origin of [`Kind::Demo`] on this thread until the process ends.
///
/// # Errors
/// As for [`Origin::start`].
pub fn serve_forever(address: SocketAddr, name: &str) -> io::Result<()> {
    serve_forever_as(Kind::Demo, address, name, Driver::RingDeferTaskrun)
}

/// Runs an origin of either kind on this thread until the process ends.
///
/// # Errors
/// As for [`Origin::start`].
pub fn serve_forever_as(kind: Kind, address: SocketAddr, name: &str, driver: Driver) -> io::Result<()> {
    let listener = bind(address)?;
    let (mut runtime, got, _) = WorkerRuntime::build(driver, RING_ENTRIES)?;
    runtime.block_on(server::serve(listener, None, kind, name, got));
    Ok(())
}

/// Starts the four origins of the demo on free loopback ports. Returns them with the demo's configuration, in which
/// their real addresses stand.
///
/// # Errors
/// As for [`Origin::start`].
pub fn embedded() -> io::Result<(Vec<Origin>, String)> {
    let mut origins = Vec::new();
    let mut config = CONFIG.to_owned();
    for (name, placeholder) in ENDPOINTS {
        let origin = Origin::start(SocketAddr::from(([127, 0, 0, 1], 0)), name, Driver::RingDeferTaskrun)?;
        config = config.replace(placeholder, &origin.address().to_string());
        origins.push(origin);
    }
    Ok((origins, config))
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let first = listener::open(address, 1)?.pop();
    first.ok_or_else(|| io::Error::other("no listening socket"))
}
