//! What a listener asks of its connections, whatever their wire.

use crate::error::Failure;
use crate::http::exchange::Exchange;
use crate::http::ipset::IpSet;
use crate::http::pace::MinRate;
use crate::http::path::PathPolicy;
use crate::limits;
use crate::net::timer::Deadline;
use crate::proto::h1::parse::HeadLimits;
use crate::proto::h1::request::{self, Accepted};
use crate::sys::buf::Buf;

/// A listener's rules for its connections. Defaults stand in `limits.rs`.
#[derive(Clone, Debug)]
pub struct ServerRules {
    /// Bounds of a request head.
    pub head: HeadLimits,
    /// Whole request head, from its first byte, in milliseconds.
    pub header_timeout_ms: u64,
    /// Wait for the next request, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Pause in a request body, in milliseconds.
    pub body_timeout_ms: u64,
    /// Pause of a client that does not read, in milliseconds.
    pub write_timeout_ms: u64,
    /// How slowly a request body may come (F39).
    pub body_rate: MinRate,
    /// How slowly a response may be taken (F39).
    pub write_rate: MinRate,
    /// Request body, in bytes.
    pub body_bytes_max: u64,
    /// Requests on one connection.
    pub requests_max: u64,
    /// Age at which a connection is closed behind its next response, in milliseconds.
    pub age_ms_max: u64,
    /// Treatment of paths with several spellings.
    pub path_policy: PathPolicy,
    /// Peers whose forwarding fields are believed.
    pub trusted_proxies: IpSet,
    /// Each connection begins with a PROXY protocol header, from one of these peers; None for connections without.
    pub proxy_protocol: Option<IpSet>,
    /// HTTP/2 is offered over TLS.
    pub h2: bool,
    /// HTTP/2 without TLS is spoken with clients that begin with it (RFC 9113 section 3.3).
    pub h2c: bool,
}

impl Default for ServerRules {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            header_timeout_ms: limits::HEADER_TIMEOUT_MS,
            idle_timeout_ms: limits::IDLE_TIMEOUT_MS,
            body_timeout_ms: limits::BODY_TIMEOUT_MS,
            write_timeout_ms: limits::WRITE_TIMEOUT_MS,
            body_rate: MinRate::default(),
            write_rate: MinRate::default(),
            body_bytes_max: limits::BODY_BYTES_MAX,
            requests_max: limits::REQUESTS_PER_CONNECTION_MAX,
            age_ms_max: limits::CONNECTION_AGE_MS_MAX,
            path_policy: PathPolicy::default(),
            trusted_proxies: IpSet::default(),
            proxy_protocol: None,
            h2: true,
            h2c: false,
        }
    }
}

impl ServerRules {
    /// How long a sending may wait before its progress is looked at, in milliseconds.
    pub(in crate::proto) fn first_look_ms(&self) -> u64 {
        self.write_timeout_ms.min(self.write_rate.grace_ms.max(1))
    }

    /// From then on, what the client must take until the next look decides: within `write_timeout` in all something,
    /// and as much as the rate asks for.
    pub(in crate::proto) fn watch(&self, sending: &Deadline) {
        let again_ms = self.write_timeout_ms - self.first_look_ms();
        let bytes_min = self.write_rate.bytes_per_s.saturating_mul(again_ms) / 1_000;
        sending.watch(again_ms, bytes_min.max(1));
    }

    /// Whether a peer's forwarding fields are believed.
    #[inline]
    pub fn trusts(&self, peer: std::net::IpAddr) -> bool {
        !self.trusted_proxies.is_empty() && self.trusted_proxies.contains(peer)
    }

    /// Gives the head whose lines were entered into `x.request` its meaning under these rules. `head` holds its bytes.
    ///
    /// # Errors
    /// The reason to refuse the request.
    pub fn accept(&self, x: &mut Exchange, head: Buf, head_bytes: usize) -> Result<Accepted, Failure> {
        x.peer_is_trusted = self.trusts(x.peer.ip());
        request::interpret(&mut x.request, head, head_bytes, self.path_policy, x.peer_is_trusted)
    }
}
