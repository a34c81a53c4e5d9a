//! Answers a request from an endpoint of a service: choose, connect or reuse, exchange, and try again where that is
//! safe.

use std::rc::Rc;

use super::forward;
use super::relay::{self, Terms};
use super::upgrade::Upgrade;
use crate::error::{Failure, Reason, Retry};
use crate::http::downstream::{Downstream, RequestBody, ResponseSink};
use crate::http::exchange::Exchange;
use crate::net::io::Connect;
use crate::net::timer::Timers;
use crate::proto::h1::client::ClientConnection;
use crate::snapshot::{self, HostRule, Listener};
use crate::sys::buf::Buf;
use crate::time::Now;
use crate::upstream::balance::TriedSet;
use crate::upstream::service::{Service, Visit};

/// What a request needs to reach an endpoint.
pub struct Proxy<'a, C: Connect> {
    /// Opens connections.
    pub connector: &'a C,
    /// The worker's timers.
    pub timers: &'a Rc<Timers>,
    /// Where the client came in.
    pub listener: &'a Listener,
    /// The service as the snapshot has it.
    pub spec: &'a snapshot::Service,
    /// The service as this worker knows it.
    pub service: &'a Service<C::Io>,
    /// Which Host goes upstream.
    pub host: &'a HostRule,
    /// When the whole request must be over.
    pub due: Now,
    /// Request body, in bytes.
    pub body_bytes_max: u64,
    /// What the request needs to become a tunnel, where it asks for one and may.
    pub upgrade: Option<&'a Upgrade<C::Io>>,
}

/// How one attempt ended.
enum Attempt {
    Done,
    /// The connection had been closed by the endpoint while it was idle; nothing was lost.
    Stale(Failure),
    Failed(Failure),
}

impl<C: Connect> Proxy<'_, C> {
    /// Answers the request. `on_head` sees the response head before it leaves.
    ///
    /// # Errors
    /// Why there is no whole answer. `sink.head_sent()` tells whether the client has seen any of it.
    pub async fn answer<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Result<(), Failure> {
        let mut tried = TriedSet::default();
        // A stale connection says nothing about its endpoint: once per request it costs no attempt, and the next try
        // takes a new connection.
        let mut stale = false;
        loop {
            let (at, visit) = match self.service.choose(self.spec, x, &mut tried) {
                Ok(chosen) => chosen,
                Err(failure) => return Err(x.failure.unwrap_or(failure)),
            };
            x.endpoint = Some(visit.tag.clone());
            x.attempts += 1;
            let failure = match self.attempt(down, x, &visit, stale, on_head).await {
                Attempt::Done => {
                    x.failure = None;
                    return Ok(());
                }
                Attempt::Stale(failure) if !stale && self.may_retry(down, x, failure) => {
                    stale = true;
                    continue;
                }
                Attempt::Stale(failure) | Attempt::Failed(failure) => failure,
            };
            if x.attempts >= self.spec.rules.attempts_max || !self.may_retry(down, x, failure) {
                return Err(failure);
            }
            // Remembered in case no other endpoint is left.
            x.failure = Some(failure);
            if !tried.insert(at as usize) {
                return Err(failure);
            }
        }
    }

    /// A request goes out again only if the client has seen nothing, and either nothing of it left the gateway or its
    /// method may be repeated (C50, RFC 9110 section 9.2.2). One with a body is not repeated: the body is gone, and an
    /// empty one in chunks would leave its head without the last chunk.
    fn may_retry<D: Downstream>(&self, down: &mut D, x: &Exchange, failure: Failure) -> bool {
        let (_, sink) = down.split();
        if sink.head_sent() || self.timers.now() >= self.due {
            return false;
        }
        match failure.reason.retry() {
            Retry::No => false,
            Retry::Unsent => true,
            Retry::IfIdempotent => x.request.method.is_idempotent() && x.request.body.is_empty(),
        }
    }

    async fn attempt<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        visit: &Visit<C::Io>,
        fresh: bool,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Attempt {
        let (body, sink) = down.split();
        // What cannot be sent twice goes only over a connection that is known to be open.
        let must_live = !x.request.method.is_idempotent() || !body.is_done();
        // A tunnel has a connection of its own, and so has a client that the endpoint is told of.
        let fresh = fresh || self.upgrade.is_some() || self.spec.proxy_protocol.is_some();
        let reused = if fresh { None } else { visit.reuse(self.timers.known_now(), &self.spec.rules, must_live) };
        let was_reused = reused.is_some();
        let mut upstream = match reused {
            Some(connection) => connection,
            None => match self.connect(visit).await {
                Ok(connection) => connection,
                Err(failure) => return Attempt::Failed(failure),
            },
        };
        let mut out = Buf::small();
        if let Some(version) = self.spec.proxy_protocol {
            forward::write_proxy_header(&mut out, version, x, sink.local_addr());
        }
        forward::write_head(&mut out, x, self.listener, forward::host(x, self.host, &visit.host));
        let terms = Terms {
            rules: &self.spec.rules,
            due: self.due,
            body_bytes_max: self.body_bytes_max,
            room: visit.room(),
            timers: self.timers,
        };
        if let Some(upgrade) = self.upgrade {
            // Boxed, since it is rare.
            let changed = Box::pin(upgrade.exchange(sink, upstream, visit, x, out, &terms, on_head)).await;
            return changed.map_or_else(Attempt::Failed, |()| Attempt::Done);
        }
        upstream.uses += 1;
        match relay::exchange(body, sink, &mut upstream, x, out, &terms, on_head).await {
            Ok(()) => {
                visit.learn(x.response_bytes);
                self.put_back(visit, upstream);
                Attempt::Done
            }
            Err(failure) if was_reused && is_stale(failure) => Attempt::Stale(failure),
            Err(failure) => Attempt::Failed(failure),
        }
    }

    async fn connect(&self, visit: &Visit<C::Io>) -> Result<ClientConnection<C::Io>, Failure> {
        let left_ms = self.due.since_ns(self.timers.known_now()) / 1_000_000;
        let timeout_ms = self.spec.rules.connect_timeout_ms.min(left_ms);
        visit.connect(self.connector, self.timers, timeout_ms).await
    }

    fn put_back(&self, visit: &Visit<C::Io>, upstream: ClientConnection<C::Io>) {
        if upstream.is_reusable() {
            visit.pool.give(upstream, self.timers.known_now(), &self.spec.rules);
        }
    }
}

/// Whether a failure is what a connection gives that the endpoint closed while it was idle.
fn is_stale(failure: Failure) -> bool {
    matches!(failure.reason, Reason::UpstreamClosed | Reason::UpstreamReset)
}
