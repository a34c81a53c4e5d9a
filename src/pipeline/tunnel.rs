//! A request that has become a tunnel: what is left of it, and its end.
//!
//! It may live for hours, over reloads. So it keeps neither the request's memory nor the configuration that it began
//! with, but a small copy of what its log line says.

use std::pin::Pin;

use super::env::Env;
use crate::concurrency::Permit;
use crate::error::{Failure, Reason};
use crate::handler::tunnel::{Ending, Side, relay};
use crate::handler::upgrade::Opened;
use crate::http::exchange::Exchange;
use crate::http::fields::{Fields, Text};
use crate::http::name::Name;
use crate::net::duplex::Duplex;
use crate::net::io::{Connect, Io};
use crate::telemetry::access_log::Names;

/// An open tunnel. Its place under the listener's bound, its places under limits on requests in flight and the
/// endpoint's load are given back with it.
pub struct Tunnel<I: Io> {
    opened: Opened<I>,
    permits: Vec<Permit>,
    record: Record,
}

/// What the log line is made of.
struct Record {
    x: Box<Exchange>,
    route: String,
    service: String,
    endpoint: String,
}

impl<I: Io> Tunnel<I> {
    /// The tunnel that the request of `x` has become. It takes the request's permits along.
    pub fn new(opened: Opened<I>, x: &mut Exchange, names: &Names<'_>) -> Box<Self> {
        let mut copy = kept(x);
        copy.permits = std::mem::take(&mut x.permits);
        Self::keeping(opened, copy, names)
    }

    /// The tunnel of an exchange that is nothing else.
    pub fn keeping(opened: Opened<I>, mut x: Box<Exchange>, names: &Names<'_>) -> Box<Self> {
        let permits = std::mem::take(&mut x.permits);
        let owned = |name: &str| name.to_owned();
        let record =
            Record { x, route: owned(names.route), service: owned(names.service), endpoint: owned(names.endpoint) };
        Box::new(Self { opened, permits, record })
    }

    /// Carries bytes until the tunnel ends, then logs it. Boxed: a connection that is none has no room for one.
    pub fn run_boxed<C: Connect, D: Io>(
        self: Box<Self>,
        env: &Env<C>,
        client: Duplex<D>,
    ) -> Pin<Box<impl Future<Output = ()>>> {
        Box::pin(self.run(env, client))
    }

    async fn run<C: Connect, D: Io>(self: Box<Self>, env: &Env<C>, client: Duplex<D>) {
        let Self { opened: Opened { upstream, load, place, times }, permits, mut record } = *self;
        let open = Open::new(env);
        let passed = (std::cell::Cell::new(0_u64), std::cell::Cell::new(0_u64));
        let count = |to: Side, bytes: usize| {
            let metrics = env.metrics.borrow();
            let (sum, counter) = match to {
                Side::Upstream => (&passed.0, &metrics.own.tunnel_bytes_up),
                Side::Client => (&passed.1, &metrics.own.tunnel_bytes_down),
            };
            sum.set(sum.get() + bytes as u64);
            counter.add(bytes as i64);
        };
        let ending = relay(client, upstream, times, &env.timers, &count).await;
        drop((load, place, permits));
        record.x.failure = failure(ending);
        (record.x.request_bytes, record.x.response_bytes) = (passed.0.get(), passed.1.get());
        let names = Names { route: &record.route, service: &record.service, endpoint: &record.endpoint };
        let now = env.timers.now();
        env.access_log.borrow_mut().record(&record.x, &names, now, env.unix_ms(now));
        drop(open);
    }
}

/// An open tunnel, counted until dropped: also when it ends by a panic.
struct Open<'e, C: Connect>(&'e Env<C>);

impl<'e, C: Connect> Open<'e, C> {
    fn new(env: &'e Env<C>) -> Self {
        let metrics = env.metrics.borrow();
        metrics.own.tunnels_open.inc();
        metrics.own.tunnels_opened.inc();
        drop(metrics);
        Self(env)
    }
}

impl<C: Connect> Drop for Open<'_, C> {
    fn drop(&mut self) {
        self.0.metrics.borrow().own.tunnels_open.dec();
    }
}

/// How the log names an end that is not an orderly one.
fn failure(ending: Ending) -> Option<Failure> {
    let (reason, detail) = match ending {
        Ending::Closed => return None,
        Ending::Reset(Side::Client) => (Reason::ClientClosed, "tunnel broken off"),
        Ending::Reset(Side::Upstream) => (Reason::UpstreamReset, "tunnel broken off"),
        Ending::Stalled(Side::Client) => (Reason::ClientStalled, "in a tunnel"),
        Ending::Stalled(Side::Upstream) => (Reason::UpstreamTimeout, "endpoint does not read the tunnel"),
        Ending::Silent(Side::Client) => (Reason::TunnelTimeout, "the client does not answer pings"),
        Ending::Silent(Side::Upstream) => (Reason::TunnelTimeout, "the endpoint does not answer pings"),
        Ending::Idle => (Reason::TunnelTimeout, "idle"),
        Ending::TooLong => (Reason::TunnelTimeout, "open for too long"),
        Ending::Stopped => (Reason::Draining, "closed at the end of the drain"),
    };
    Some(Failure::with(reason, detail))
}

/// A copy of what a log line says, without the buffers of the request.
fn kept(x: &Exchange) -> Box<Exchange> {
    let mut copy = Box::new(Exchange {
        id: x.id,
        peer: x.peer,
        client_ip: x.client_ip,
        peer_text: x.peer_text,
        port_text: x.port_text,
        peer_is_trusted: x.peer_is_trusted,
        scheme: x.scheme,
        started: x.started,
        route: x.route,
        route_key: x.route_key,
        service: x.service,
        endpoint: x.endpoint.clone(),
        attempts: x.attempts,
        upstream_ns: x.upstream_ns,
        upstream_status: x.upstream_status,
        ..Exchange::default()
    });
    let from = &x.request;
    let to = &mut copy.request;
    (to.method, to.version) = (from.method, from.version);
    let copied = |fields: &mut Fields, text: Text| fields.keep(from.fields.text(text));
    to.method_text = copied(&mut to.fields, from.method_text);
    to.target = copied(&mut to.fields, from.target);
    to.path = copied(&mut to.fields, from.path);
    to.query = from.query.map(|query| copied(&mut to.fields, query));
    to.authority = copied(&mut to.fields, from.authority);
    to.host = copied(&mut to.fields, from.host);
    for name in [Name::UserAgent, Name::Referer] {
        if let Some(value) = from.fields.get(name) {
            // It stood in a section already.
            let _ = to.fields.append(name.text().as_bytes(), value);
        }
    }
    copy.response.status = x.response.status;
    copy
}
