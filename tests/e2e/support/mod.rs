//! What the tests share: the gateway as a process, origins on threads, a client that shows exact bytes.

pub mod client;
pub mod dns;
pub mod gateway;
pub mod h2_origin;
pub mod kubernetes;
pub mod load;
pub mod origin;
pub mod pebble;
pub mod tls;

pub use client::{Client, Response};
pub use gateway::Gateway;
pub use origin::{Origin, Seen, Step, ok};

use std::time::{Duration, Instant};

/// No test waits longer than this for anything. A machine that is slow, or busy with other work, is no failure.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks again and again, for at most [`PATIENCE`], until there is an answer.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = ask() {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "did not happen: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A service named `up` at this origin, and a route for everything.
pub fn proxy_to(origin: &Origin) -> String {
    format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\nroutes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    )
}

/// A plain request.
pub const GET: &str = "GET /a HTTP/1.1\r\nHost: test\r\n\r\n";

/// A gateway before one origin for everything.
pub fn before(origin: &Origin) -> Gateway {
    Gateway::start(&proxy_to(origin))
}
