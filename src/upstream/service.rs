//! A service as one worker knows it: its endpoints with their pools and their load. It outlives reloads by identity.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;

use super::balance::{Algorithm, BalancerState, TriedSet, View, hash_key};
use super::pool::Pool;
use crate::error::{Failure, Reason};
use crate::http::exchange::Exchange;
use crate::limits::{BUF_LARGE_BYTES, BUF_SMALL_BYTES};
use crate::net::io::{Connect, Io};
use crate::net::timer::Timers;
use crate::proto::h1::client::ClientConnection;
use crate::snapshot::{self, HashKey, ServiceRules};
use crate::telemetry::metrics::ServiceHandle;
use crate::time::Now;

/// One endpoint in one worker; the same one over reloads as long as its address stands.
pub struct Endpoint<I: Io> {
    /// Where it is; None while its name does not resolve.
    pub address: Option<SocketAddr>,
    /// As written: label and Host.
    pub authority: String,
    /// Idle connections.
    pub pool: Pool<I>,
    active: Cell<u32>,
    opened: Cell<u64>,
    reused: Cell<u64>,
    large: Cell<bool>,
}

/// What an endpoint tells the admin plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointReport {
    /// As written.
    pub authority: String,
    /// Requests under way.
    pub active: u64,
    /// Idle connections.
    pub idle: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Requests that went over a connection already open.
    pub reused: u64,
    /// Whether it can be chosen.
    pub healthy: bool,
}

/// A service in one worker.
pub struct Service<I: Io> {
    /// Its counters.
    pub stats: ServiceHandle,
    endpoints: Vec<Rc<Endpoint<I>>>,
    balancing: RefCell<Balancing>,
    name: String,
}

/// What choosing looks at and remembers.
struct Balancing {
    state: BalancerState,
    views: Vec<View>,
}

/// An endpoint while a request is with it: counted as its load until dropped.
pub struct Visit<I: Io>(Rc<Endpoint<I>>);

impl<I: Io> Drop for Visit<I> {
    fn drop(&mut self) {
        debug_assert!(self.0.active.get() > 0);
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

impl<I: Io> std::ops::Deref for Visit<I> {
    type Target = Endpoint<I>;

    fn deref(&self) -> &Endpoint<I> {
        &self.0
    }
}

impl<I: Io> Service<I> {
    /// The service of a snapshot; endpoints that `previous` had at the same address are taken over with their
    /// connections and their load.
    pub fn new(spec: &snapshot::Service, previous: Option<&Service<I>>, stats: ServiceHandle, seed: u64) -> Self {
        let kept = |wanted: &snapshot::Endpoint| {
            let all = previous.map_or(&[][..], |service| &service.endpoints);
            all.iter().find(|e| e.authority == wanted.authority && e.address == wanted.address).cloned()
        };
        let endpoints: Vec<_> =
            spec.endpoints.iter().map(|e| kept(e).unwrap_or_else(|| Rc::new(Endpoint::new(e)))).collect();
        let views = spec.endpoints.iter().map(snapshot::Endpoint::view).collect();
        let balancing = RefCell::new(Balancing { state: BalancerState::new(seed), views });
        Self { stats, endpoints, balancing, name: spec.name.clone() }
    }

    /// Identity over reloads.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Chooses an endpoint that was not tried yet (R105, R106) and counts the request as its load.
    ///
    /// # Errors
    /// [`Reason::NoEndpoint`].
    pub fn choose(&self, spec: &snapshot::Service, x: &Exchange, tried: &TriedSet) -> Result<(u32, Visit<I>), Failure> {
        let algorithm = spec.balancer.algorithm();
        let key = matches!(algorithm, Algorithm::IpHash | Algorithm::ConsistentHash).then(|| key_of(&spec.hash_key, x));
        let mut balancing = self.balancing.borrow_mut();
        let Balancing { state, views } = &mut *balancing;
        if matches!(algorithm, Algorithm::LeastConnections | Algorithm::PowerOfTwo) {
            // Load changes with every request; the others do not look at it.
            views.iter_mut().zip(&self.endpoints).for_each(|(view, endpoint)| view.load = endpoint.active.get());
        }
        let at = spec.balancer.pick(state, views, key.flatten(), x.random, tried).ok_or(Reason::NoEndpoint)?;
        let endpoint = self.endpoints[at].clone();
        endpoint.active.set(endpoint.active.get() + 1);
        Ok((at as u32, Visit(endpoint)))
    }

    /// Closes idle connections that are too old.
    pub fn expire(&self, now: Now, rules: &ServiceRules) {
        self.endpoints.iter().for_each(|endpoint| {
            endpoint.pool.expire(now, rules);
        });
    }

    /// Closes the connections that are idle.
    pub fn close_idle(&self) {
        self.endpoints.iter().for_each(|endpoint| endpoint.pool.clear());
    }

    /// What the endpoints are doing.
    pub fn report(&self) -> Vec<EndpointReport> {
        self.endpoints.iter().map(|endpoint| endpoint.report()).collect()
    }
}

impl<I: Io> Endpoint<I> {
    fn new(spec: &snapshot::Endpoint) -> Self {
        Self {
            address: spec.address,
            authority: spec.authority.clone(),
            pool: Pool::default(),
            active: Cell::new(0),
            opened: Cell::new(0),
            reused: Cell::new(0),
            large: Cell::new(false),
        }
    }

    fn report(&self) -> EndpointReport {
        EndpointReport {
            authority: self.authority.clone(),
            active: u64::from(self.active.get()),
            idle: self.pool.len() as u64,
            opened: self.opened.get(),
            reused: self.reused.get(),
            healthy: self.address.is_some(),
        }
    }

    /// Room for the first read of a response, in bytes: what the last one was like is the best guess.
    pub fn room(&self) -> usize {
        if self.large.get() { BUF_LARGE_BYTES } else { BUF_SMALL_BYTES }
    }

    /// Remembers how long a response was.
    pub fn learn(&self, response_bytes: u64) {
        self.large.set(response_bytes > BUF_SMALL_BYTES as u64);
    }

    /// An idle connection, if there is one that may be used.
    pub fn reuse(&self, now: Now, rules: &ServiceRules, must_live: bool) -> Option<ClientConnection<I>> {
        let connection = self.pool.take(now, rules, must_live)?;
        self.reused.set(self.reused.get() + 1);
        Some(connection)
    }

    /// A new connection, within `timeout_ms`.
    ///
    /// # Errors
    /// Why there is none; nothing of the request was sent then.
    pub async fn connect<C: Connect<Io = I>>(
        &self,
        connector: &C,
        timers: &Rc<Timers>,
        timeout_ms: u64,
    ) -> Result<ClientConnection<I>, Failure> {
        let Some(address) = self.address else { return Err(Failure::with(Reason::ConnectFailed, "name not resolved")) };
        // Boxed, since it is rare and its timer would make every request's future larger.
        match Box::pin(connector.connect(address, timeout_ms)).await {
            Ok(io) => {
                self.opened.set(self.opened.get() + 1);
                Ok(ClientConnection::new(io, timers))
            }
            Err(error) => Err(connect_failure(&error)),
        }
    }
}

fn connect_failure(error: &io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::TimedOut => Reason::ConnectTimeout.into(),
        io::ErrorKind::ConnectionRefused => Reason::ConnectRefused.into(),
        io::ErrorKind::AddrNotAvailable => Failure::with(Reason::ConnectFailed, "no local port left"),
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Failure::with(Reason::ConnectFailed, "unreachable")
        }
        _ => Reason::ConnectFailed.into(),
    }
}

/// Hash of what the service balances on; None when the request does not have it.
pub fn key_of(key: &HashKey, x: &Exchange) -> Option<u64> {
    let bytes = match key {
        HashKey::ClientIp => return Some(ip_key(x.client_ip)),
        HashKey::Path => x.request.path(),
        HashKey::Header(name) => x.request.fields.find(name.as_bytes())?,
        HashKey::Cookie(name) => x.request.cookie(name.as_bytes())?,
        HashKey::Query(name) => x.request.query_value(name.as_bytes())?,
    };
    Some(hash_key(bytes))
}

fn ip_key(address: IpAddr) -> u64 {
    match address {
        IpAddr::V4(v4) => hash_key(&v4.octets()),
        IpAddr::V6(v6) => hash_key(&v6.octets()),
    }
}
