//! What workers run: one immutable configuration, with ids instead of names and nothing left to check.
//!
//! The compiler of the configuration builds it, the control thread publishes it with one atomic store, and a request
//! keeps the one that it began with (R307). What changes while requests run (counters, pools, buckets) is not here but
//! in each worker, found again over reloads by the identities that a snapshot gives: listener, route, service and slot
//! names.

mod bounds;
mod endpoints;
mod source;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;

pub use bounds::{ClientBound, ClientPlace, ClientTable, ConnectionBound, ConnectionPlace, Full, Places};
pub use endpoints::{Endpoint, EndpointSet, Endpoints};
pub use source::{Consul, Discovery, Dns, Family, Kubernetes, Lookup, Source};

pub use stream::{Names as ServerNames, StreamRules};

use crate::concurrency::{Gate, Terms};
use crate::limits;
use crate::policy::slots::Chain;
use crate::proto::h1::parse::HeadLimits;
use crate::proto::h1::server::ServerRules;
use crate::proto::proxy_protocol::Version;
use crate::route::{Rewrite, RouteTable, WeightedSplit};
use crate::tls::managed::{Plan, Proofs};
use crate::tls::{ClientTls, ServerTls};
use crate::upstream::breaker::BreakerSpec;
use crate::upstream::check::CheckRules;
use crate::upstream::rules::{Resilience, RetryRules};
use crate::upstream::state::ServiceState;
use crate::upstream::sticky::Sticky;

/// A compiled configuration.
pub struct Snapshot {
    /// Counts applied configurations from 1.
    pub generation: u64,
    /// Where clients come in.
    pub listeners: Vec<Listener>,
    /// Chooses a route; ids are indices of `routes`.
    pub table: RouteTable,
    /// The routes in declared order; those of the snapshot before, where none has changed.
    pub routes: Arc<[Route]>,
    /// Serves what no route matches (R20, C57); an index of `routes` that the table does not know.
    pub default_route: Option<u32>,
    /// Where requests go. One that nothing has changed for is that of the snapshot before.
    pub services: Vec<Arc<Service>>,
    /// Where endpoints are looked up.
    pub discovery: Arc<Discovery>,
    /// What certificates are ordered.
    pub acme: Plan,
    /// The configuration that this was made from.
    pub written: Arc<dyn Written>,
}

/// A configuration as it was written, for operators and for the next one.
pub trait Written: std::any::Any + Send + Sync {
    /// As JSON, with every default written out and secrets masked (C60). For thousands of routes that is a lot of work.
    fn effective(&self) -> serde_json::Value;
}

/// A listening address and its rules.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Identity over reloads.
    pub name: String,
    /// Address.
    pub address: SocketAddr,
    /// Rules of its connections.
    pub rules: Arc<ServerRules>,
    /// Send the `Forwarded` field too (RFC 7239).
    pub forwarded: bool,
    /// Send and add `Via` (RFC 9110 section 7.6.3), under this name.
    pub via: Option<String>,
    /// How many connections it takes at once; None leaves it to the workers' shares of descriptors.
    pub connections: Option<ConnectionBound>,
    /// How many of its connections may be tunnels at once.
    pub tunnels: ConnectionBound,
    /// How many connections one client may have.
    pub per_client: Option<ClientBound>,
    /// Where its connections lead, if they are passed on as they are; None where they bring requests.
    pub stream: Option<Arc<StreamRules>>,
    /// Certificates and rules of TLS; None for connections without it.
    pub tls: Option<Arc<ServerTls>>,
    /// What is to be proved to authorities by requests without TLS, where certificates are ordered so.
    pub proofs: Option<Arc<Proofs>>,
    /// Requests without TLS are sent to https at this port.
    pub https_redirect: Option<u16>,
    /// A reload has dropped it: its connections end with what they have under way.
    pub is_closed: bool,
}

impl Listener {
    /// One with nothing but rules: what a configuration that names only the address has, before the compiler adds what
    /// else is written.
    pub fn plain(name: &str, address: SocketAddr, rules: Arc<ServerRules>) -> Self {
        Self {
            name: name.to_owned(),
            address,
            rules,
            forwarded: false,
            via: None,
            connections: None,
            tunnels: ConnectionBound::default(),
            per_client: None,
            stream: None,
            tls: None,
            proofs: None,
            https_redirect: None,
            is_closed: false,
        }
    }
}

/// What happens to the requests that it takes. What few routes have is boxed: with thousands of them each request finds
/// another one, and what it looks at is to be two or three cache lines.
pub struct Route {
    /// Identity over reloads.
    pub name: Box<str>,
    /// The same as a number, for policies that count by route.
    pub key: u64,
    /// The pattern as written: the `path` label of metrics (C37).
    pub pattern: Box<str>,
    /// Its policies in order.
    pub chain: Chain,
    /// Who answers.
    pub action: Action,
    /// How the path changes on its way upstream (R11, R12).
    pub rewrite: Option<Box<Rewrite>>,
    /// Whole request, in milliseconds (R17, C51).
    pub timeout_ms: u64,
    /// Request body, in bytes; None leaves it to the listener.
    pub body_bytes_max: Option<u64>,
    /// Which Host goes upstream; None leaves it to the service.
    pub host: Option<Box<HostRule>>,
    /// Its circuit breaker: Some(None) for none at all, None for the service's.
    pub breaker: Option<Option<Box<BreakerSpec>>>,
    /// When its requests are tried again; None leaves it to the service.
    pub retries: Option<Box<RetryRules>>,
    /// Translate gRPC-Web for its endpoints.
    pub grpc_web: bool,
    /// Where copies of its requests go; None for nowhere, which is usual.
    pub mirror: Option<Box<MirrorRules>>,
    /// Which protocols its requests may change to; None for none, which is usual.
    pub tunnel: Option<Box<TunnelRules>>,
}

/// Where copies of a route's requests go, and how many. Defaults stand in `limits.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorRules {
    /// Index of `Snapshot::services`.
    pub service: u32,
    /// So many of 2^32 requests.
    pub share: u64,
    /// Copies under way with the service, over all workers.
    pub requests_max: u32,
    /// The longest body, in bytes.
    pub body_bytes_max: u64,
    /// A whole copy, in milliseconds.
    pub timeout_ms: u64,
}

impl MirrorRules {
    /// Whether the request with this random value is among those that are copied. Canary splits look at the other end
    /// of the value.
    pub const fn takes(&self, random: u64) -> bool {
        random & 0xffff_ffff < self.share
    }
}

/// What a route's requests may become, and for how long (F47). Defaults stand in `limits.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelRules {
    /// Protocols, in lower case: `websocket`.
    pub protocols: Vec<String>,
    /// Without a byte in either direction, in milliseconds.
    pub idle_timeout_ms: u64,
    /// From its opening to its end, in milliseconds.
    pub duration_ms_max: u64,
    /// Pings in WebSockets, where they are wanted.
    pub ping: Option<PingRules>,
}

/// When a silent side of a WebSocket is sent a ping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PingRules {
    /// Silence before it, in milliseconds.
    pub interval_ms: u64,
    /// Silence behind it, in milliseconds.
    pub timeout_ms: u64,
}

/// Who answers a request.
pub enum Action {
    /// A service: an index of `Snapshot::services`.
    Proxy(u32),
    /// One service of several, by weight (canary).
    Split(Box<Split>),
    /// A redirect to another place.
    Redirect(Box<Redirect>),
    /// A fixed answer.
    Respond(Box<Respond>),
}

impl Action {
    /// The services that may be asked; none where the route answers by itself.
    pub fn services(&self) -> &[u32] {
        match self {
            Action::Proxy(service) => std::slice::from_ref(service),
            Action::Split(split) => &split.services,
            Action::Redirect(_) | Action::Respond(_) => &[],
        }
    }
}

/// Several services that share a route's requests.
pub struct Split {
    /// Indices of `Snapshot::services`.
    pub services: Vec<u32>,
    /// Which of them a request goes to.
    pub shares: WeightedSplit,
}

impl Split {
    /// The service for the request with this random value.
    #[inline]
    pub fn pick(&self, random: u64) -> u32 {
        self.services[self.shares.pick(random)]
    }
}

/// A redirect to another place.
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// Where to.
    pub to: RedirectTarget,
}

/// A fixed answer.
pub struct Respond {
    /// Status code.
    pub status: u16,
    /// Content type; empty without a body.
    pub content_type: Bytes,
    /// Body.
    pub body: Bytes,
    /// Further fields.
    pub fields: Vec<(Bytes, Bytes)>,
}

/// Where a redirect leads.
#[derive(Clone, Debug)]
pub enum RedirectTarget {
    /// To this URL or path as it stands.
    Fixed(Bytes),
    /// To the same path and query under this origin (`https://example.com`).
    Origin(Bytes),
    /// To a path with captures of the route's path.
    Template {
        /// `https://example.com`; empty for the origin that was asked.
        origin: Bytes,
        /// Writes the path.
        path: Box<Rewrite>,
        /// `?` and the query, as it stands; may be empty.
        query: Bytes,
    },
}

impl RedirectTarget {
    /// `https://example.com` keeps path and query; whatever has a path, or `/` at its end, is taken as it stands but
    /// for
    /// `{name}` in the path.
    ///
    /// # Errors
    /// A sentence for the user.
    pub fn of(text: &str) -> Result<Self, String> {
        let authority_at = text.find("://").map_or(0, |at| at + 3);
        let path_at = text[authority_at..].find(['/', '?', '#']).map(|at| authority_at + at);
        let bytes = |text: &str| Bytes::copy_from_slice(text.as_bytes());
        let Some(path_at) = path_at else {
            return Ok(if authority_at > 0 { Self::Origin(bytes(text)) } else { Self::Fixed(bytes(text)) });
        };
        let (origin, rest) = text.split_at(path_at);
        let (path, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
        match path.contains('{') {
            true => Ok(Self::Template {
                origin: bytes(origin),
                path: Box::new(Rewrite::template(path)?),
                query: bytes(query),
            }),
            false => Ok(Self::Fixed(bytes(text))),
        }
    }
}

/// Which Host an endpoint sees (R22).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum HostRule {
    /// The client's.
    #[default]
    Preserve,
    /// The endpoint's own address as written.
    Endpoint,
    /// This one.
    Literal(Bytes),
}

/// Where requests go: endpoints that serve the same thing.
#[derive(Clone)]
pub struct Service {
    /// Identity over reloads: its name, and for the variant of one route what differs.
    pub name: String,
    /// Its name as written, for people and metrics.
    pub label: String,
    /// Its endpoints, and the choice among them; both may change without a reload.
    pub endpoints: Arc<Endpoints>,
    /// Where they come from.
    pub sources: Arc<[Source]>,
    /// Only endpoints that say all of this of themselves.
    pub subset: Vec<(String, String)>,
    /// What all workers know of its endpoints; the same over reloads, and for all variants of a service.
    pub state: Arc<ServiceState>,
    /// What a hash is made from, for the algorithms that hash.
    pub hash_key: HashKey,
    /// Which Host its endpoints see.
    pub host: HostRule,
    /// Its times and bounds.
    pub rules: ServiceRules,
    /// How it deals with endpoints that fail.
    pub resilience: Resilience,
    /// How its endpoints are checked; None for not at all.
    pub check: Option<Arc<CheckRules>>,
    /// How its clients stick to endpoints; None for not at all.
    pub sticky: Option<Arc<Sticky>>,
    /// Its circuit breaker, if it has one.
    pub breaker: Option<BreakerSpec>,
    /// What answers in its place.
    pub fallback: Option<Fallback>,
    /// Tell endpoints the client's address in this form, at the beginning of each connection. Such connections are not
    /// kept.
    pub proxy_protocol: Option<Version>,
    /// TLS towards its endpoints; None for connections without it.
    pub tls: Option<Arc<ClientTls>>,
    /// The limit on its requests; None leaves it to what one worker gives to one endpoint.
    pub limits: Option<ServiceLimits>,
}

/// What answers in place of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// Another service: an index of `Snapshot::services`.
    Service(u32),
    /// A fixed answer.
    Respond {
        /// Status code.
        status: u16,
        /// Body.
        body: Bytes,
        /// Fields, the content type among them.
        fields: Vec<(Bytes, Bytes)>,
    },
}

impl Service {
    /// Whether the endpoints of the two are the same, whichever those are at the moment, and what is known of them.
    pub fn shares_endpoints(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.endpoints, &other.endpoints) && Arc::ptr_eq(&self.state, &other.state)
    }

    /// Whether it is the service itself, and no variant of it that may have fewer endpoints.
    pub fn is_whole(&self) -> bool {
        self.name == self.label
    }
}

/// A limit on the requests of a service in the whole node (F13).
#[derive(Clone)]
pub struct ServiceLimits {
    /// Its numbers.
    pub terms: Terms,
    /// What all workers share; the same over reloads, and for all variants of a service.
    pub gate: Arc<Gate>,
}

/// How endpoints are spoken to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2, known beforehand.
    Http2,
    /// What TLS agrees on; HTTP/1.1 without TLS.
    Auto,
}

/// Times and bounds of a service. Defaults stand in `limits.rs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRules {
    /// Connecting, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Connecting, before another address of the same name is tried too, in milliseconds; 0: never.
    pub next_address_ms: u64,
    /// Waiting for the response head, in milliseconds.
    pub first_byte_timeout_ms: u64,
    /// Pause between two reads of a response, in milliseconds.
    pub between_bytes_timeout_ms: u64,
    /// Pause of an endpoint that does not read, in milliseconds.
    pub send_timeout_ms: u64,
    /// Idle connections that one worker keeps for one endpoint.
    pub idle_max: usize,
    /// How long it keeps them, in milliseconds.
    pub idle_timeout_ms: u64,
    /// Requests on one connection.
    pub requests_max: u64,
    /// Bounds of response heads (F36).
    pub head: HeadLimits,
    /// How its endpoints are spoken to.
    pub protocol: Protocol,
}

impl Default for ServiceRules {
    fn default() -> Self {
        Self {
            connect_timeout_ms: limits::CONNECT_TIMEOUT_MS,
            next_address_ms: limits::NEXT_ADDRESS_MS,
            first_byte_timeout_ms: limits::FIRST_BYTE_TIMEOUT_MS,
            between_bytes_timeout_ms: limits::BETWEEN_BYTES_TIMEOUT_MS,
            send_timeout_ms: limits::WRITE_TIMEOUT_MS,
            idle_max: limits::POOL_IDLE_MAX,
            idle_timeout_ms: limits::POOL_IDLE_TIMEOUT_MS,
            requests_max: u64::MAX,
            head: HeadLimits::default(),
            protocol: Protocol::default(),
        }
    }
}

/// What a hash balancer hashes (R101, R102).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum HashKey {
    /// The client's address.
    #[default]
    ClientIp,
    /// The certificate that the client has shown.
    ClientCert,
    /// The canonical path.
    Path,
    /// A request header, in lower case.
    Header(String),
    /// A cookie.
    Cookie(String),
    /// A query parameter.
    Query(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Behind it, 10,000 routes that are hit at random cost more than the cache has.
    #[test]
    fn a_route_is_small() {
        assert!(size_of::<Route>() <= 160, "{}", size_of::<Route>());
    }
}
