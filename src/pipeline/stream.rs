//! A connection that is passed on as it is (L4): no requests, no routes, no policies. A service takes it, chosen by the
//! listener or by the server name in a TLS client's first bytes, and from then on it is a [tunnel](super::tunnel).
//!
//! ```text
//! PROXY header? ─ ClientHello? ─ service ─ place under its limit ─ endpoint, connect ─ PROXY header? ─ tunnel
//! ```

use std::rc::Rc;

use super::env::{Env, Strain};
use super::plan::Plan;
use super::tunnel::Tunnel;
use super::wait;
use crate::error::{Failure, Reason, Retry};
use crate::handler::forward;
use crate::handler::proxy::Proxy;
use crate::handler::tunnel::Times;
use crate::handler::upgrade::Opened;
use crate::http::exchange::{EndpointTag, Exchange, RequestId, Scheme};
use crate::http::message::Method;
use crate::limits::{ATTEMPTS_MAX, BUF_LARGE_BYTES};
use crate::net::duplex::Duplex;
use crate::net::io::{Connect, Interrupt, Io, ReadHalf, send_all};
use crate::net::timer::{Deadline, OnExpiry, Waits};
use crate::proto::client_hello::{self, Malformed, OPENING_BYTES_MAX, Opening};
use crate::proto::h1::server::receive_proxy_header;
use crate::proto::upstream::RequestSink;
use crate::snapshot::{self, Listener};
use crate::sys::buf::Buf;
use crate::telemetry::access_log::Names;
use crate::upstream::balance::TriedSet;
use crate::upstream::passive::Outcome;
use crate::upstream::rules::RetryRules;

/// Serves a connection of a listener without requests until it ends. `x` knows its peer.
pub async fn serve<I: Io, C: Connect>(env: &Env<C>, io: I, mut x: Box<Exchange>, listener: Rc<Listener>) {
    let (read, write, interrupt) = io.split();
    let deadline = env.timers.deadline(interrupt.clone());
    let mut client: Client<I> = Client { read, write, interrupt, deadline, early: Buf::empty() };
    begin(env, &mut x);
    let plan = env.pin();
    match open(env, &plan, &mut client, &mut x, &listener).await {
        Ok(opened) => {
            x.response.status = OPENED;
            let endpoint = x.endpoint.clone();
            let names = names(&plan, &listener, &x, endpoint.as_deref());
            let tunnel = Tunnel::keeping(opened, x, &names);
            // It may outlive many reloads.
            drop((plan, listener));
            let Client { read, write, interrupt, early, .. } = client;
            let client = Duplex::<I>::new(read, write, interrupt, early, &env.timers);
            tunnel.run_boxed(env, client).await;
        }
        Err(failure) => refuse(env, &plan, client, &mut x, &listener, failure).await,
    }
}

/// What the log calls a connection that led somewhere: nothing of it is a response.
const OPENED: u16 = 200;

/// The client's connection before it is a tunnel.
struct Client<I: Io> {
    read: I::Read,
    write: I::Write,
    interrupt: Rc<dyn Interrupt>,
    deadline: Deadline,
    /// What was read and belongs to the endpoint.
    early: Buf,
}

fn begin<C: Connect>(env: &Env<C>, x: &mut Exchange) {
    x.started = env.timers.now();
    x.client_ip = x.peer.ip();
    x.scheme = Scheme::Tcp;
    x.random = env.random();
    x.id = RequestId::from_random(x.random, env.random());
    x.request.method = Method::Extension;
    x.request.method_text = x.request.fields.keep(b"CONNECTION");
}

/// Finds where the connection leads and connects there.
async fn open<I: Io, C: Connect>(
    env: &Env<C>,
    plan: &Plan<C::Io>,
    client: &mut Client<I>,
    x: &mut Exchange,
    listener: &Listener,
) -> Result<Opened<C::Io>, Failure> {
    if env.strain.get() == Strain::Refuse {
        return Err(Reason::MemoryShort.into());
    }
    // Before a handshake it has been read already.
    if let Some(trusted) = listener.rules.proxy_protocol.as_ref().filter(|_| x.secure.is_none()) {
        client.deadline.set_waits(Some(Waits::First));
        let received =
            receive_proxy_header(&mut client.read, &client.deadline, env.timers.now(), trusted, x.peer).await;
        let (named, rest) = received?;
        client.deadline.set_waits(None);
        client.early = rest;
        x.client_ip = named.map_or(x.client_ip, |client| client.ip());
        x.peer = named.unwrap_or(x.peer);
    }
    // The listener's own settings may be those of another generation than the plan's.
    let rules = plan.snapshot.listeners.iter().find(|l| l.address == listener.address).and_then(|l| l.stream.as_ref());
    let rules = rules.ok_or(Failure::with(Reason::Draining, "the listener is no more what it was"))?;
    x.service = match &rules.names {
        Some(names) => {
            let name = client.server_name(listener.rules.header_timeout_ms).await?;
            let chosen = name.as_ref().and_then(|name| names.find(name));
            x.request.host = x.request.fields.keep(name.unwrap_or_default().as_bytes());
            chosen.or(rules.service).ok_or(Reason::UnknownServerName)?
        }
        None => rules.service.ok_or(Failure::with(Reason::Internal, "a listener without a service"))?,
    };
    enter(env, plan, client, x).await?;
    let times = Times {
        idle_timeout_ms: rules.idle_timeout_ms,
        duration_ms_max: rules.duration_ms_max,
        client_timeout_ms: listener.rules.write_timeout_ms,
        upstream_timeout_ms: plan.snapshot.services[x.service as usize].rules.send_timeout_ms,
        ping: None,
    };
    connect(env, plan, client, x, listener, times).await
}

/// Takes a place under the service's limit, which the connection keeps until it ends.
async fn enter<I: Io, C: Connect>(
    env: &Env<C>,
    plan: &Plan<C::Io>,
    client: &Client<I>,
    x: &mut Exchange,
) -> Result<(), Failure> {
    let entered = plan.services[x.service as usize].enter(x, env.timers.known_now())?;
    let Some(ticket) = entered else { return Ok(()) };
    // The ticket has a time of its own, which is never longer than a tunnel may last.
    let due = env.timers.known_now().plus_ms(crate::limits::TUNNEL_DURATION_MS_MAX);
    let permit = wait::place(&|| client.interrupt.has_left(), env, ticket, due).await?.map_err(Failure::new)?;
    x.permits.push(permit);
    Ok(())
}

/// Connects to an endpoint, and to another one where that fails: nothing that the client sent has left by then.
async fn connect<I: Io, C: Connect>(
    env: &Env<C>,
    plan: &Plan<C::Io>,
    client: &Client<I>,
    x: &mut Exchange,
    listener: &Listener,
    times: Times,
) -> Result<Opened<C::Io>, Failure> {
    let spec = &plan.snapshot.services[x.service as usize];
    let service = &plan.services[x.service as usize];
    let retries = RetryRules::default();
    let proxy = Proxy {
        connector: &env.connector,
        timers: &env.timers,
        listener,
        spec,
        service,
        host: &spec.host,
        // Each try has the time of a connection, and there are few.
        due: env.timers.known_now().plus_ms(crate::limits::TUNNEL_DURATION_MS_MAX),
        body_bytes_max: 0,
        retries: &retries,
        upgrade: None,
        is_stream: true,
        tap: None,
    };
    let mut tried = TriedSet::default();
    let mut failed = None;
    loop {
        let now = env.timers.known_now();
        let (at, visit) = match service.choose(spec, x, &mut tried, now) {
            Ok(chosen) => chosen,
            Err(failure) => return Err(failed.unwrap_or(failure)),
        };
        x.attempts += 1;
        let asked = env.timers.now();
        // Where its name has other addresses, they race (RFC 8305).
        let (given, at, visit) = match proxy.has_choice(&visit) {
            true => Box::pin(proxy.connect_first(x, (at, visit), &mut tried)).await,
            false => (Ok(None), at, visit),
        };
        x.endpoint = Some(visit.tag.clone());
        let connected = match given {
            Ok(Some(connection)) => Ok(connection),
            Ok(None) => visit.connect(&env.connector, &env.timers, spec.rules.connect_timeout_ms).await,
            Err(failure) => Err(failure),
        };
        let failure = match connected {
            Ok(mut upstream) => {
                x.upstream_ns = env.timers.now().since_ns(asked);
                if let Some(version) = spec.proxy_protocol {
                    let mut out = Buf::small();
                    forward::write_proxy_header(&mut out, version, x, client.interrupt.local_addr());
                    drop(upstream.sender.send(out, spec.rules.send_timeout_ms).await?);
                }
                let (load, upstream) = (visit.load(), upstream.into_duplex(&env.timers));
                return Ok(Opened { upstream, load, place: None, times });
            }
            Err(failure) => failure,
        };
        service.learn(spec, &visit, Outcome::of(failure, false), env.timers.known_now());
        let again = failure.reason.retry() == Retry::Unsent && x.attempts < ATTEMPTS_MAX;
        if !again || client.interrupt.has_left() || !tried.insert(at as usize) {
            return Err(failure);
        }
        failed = Some(failure);
    }
}

impl<I: Io> Client<I> {
    /// Reads as much as it takes to know the server name, within `timeout_ms` from now; None where there is none. What
    /// was read goes to the endpoint.
    async fn server_name(&mut self, timeout_ms: u64) -> Result<Option<String>, Failure> {
        self.deadline.arm_in(timeout_ms, OnExpiry::ShutRead);
        self.deadline.set_waits(Some(Waits::First));
        let opening = loop {
            let bad = |Malformed(what)| Failure::with(Reason::BadClientHello, what);
            if let Some(opening) = client_hello::parse(self.early.as_slice()).map_err(bad)? {
                break opening;
            }
            if self.early.len() >= OPENING_BYTES_MAX {
                return Err(Failure::with(Reason::BadClientHello, "hello too long"));
            }
            let first = self.early.is_empty();
            let (count, buf) = self.read.recv(roomy(std::mem::take(&mut self.early))).await;
            self.early = buf;
            match count {
                Ok(count) if count > 0 && first => self.deadline.set_waits(Some(Waits::Head)),
                Ok(count) if count > 0 => {}
                _ if self.deadline.fired() => {
                    return Err(Failure::with(Reason::HeaderTimeout, "no whole ClientHello"));
                }
                _ => return Err(Reason::ClientClosed.into()),
            }
        };
        self.deadline.disarm();
        self.deadline.set_waits(None);
        Ok(match opening {
            Opening::Tls(name) => name,
            Opening::Other => None,
        })
    }
}

const _: () = assert!(OPENING_BYTES_MAX <= BUF_LARGE_BYTES, "a hello fits one buffer");

/// The same bytes with room for more: a hello that does not fit a small buffer gets a large one.
fn roomy(buf: Buf) -> Buf {
    match (buf.has_storage(), buf.spare()) {
        (false, _) => Buf::small(),
        (true, 0) => {
            let mut larger = Buf::large();
            larger.extend(buf.as_slice());
            larger
        }
        (true, _) => buf,
    }
}

/// Ends a connection that leads nowhere, and says so in log and metrics.
async fn refuse<I: Io, C: Connect>(
    env: &Env<C>,
    plan: &Plan<C::Io>,
    mut client: Client<I>,
    x: &mut Exchange,
    listener: &Listener,
    failure: Failure,
) {
    let is_tls = matches!(client_hello::parse(client.early.as_slice()), Ok(Some(Opening::Tls(_))));
    if failure.reason == Reason::UnknownServerName && is_tls {
        client.deadline.arm_in(listener.rules.write_timeout_ms, OnExpiry::ShutBoth);
        // A client that does not take the reason is closed all the same.
        let _ = send_all(&mut client.write, Buf::copy_of(client_hello::UNRECOGNIZED_NAME)).await;
    } else if failure.reason.status() >= 500 {
        // To whom the endpoint's silence would look like an orderly end.
        client.interrupt.reset();
    }
    x.failure = Some(failure);
    let service = plan.services.get(x.service as usize).map(|service| &service.stats);
    env.metrics.borrow().stream_failed(service, failure);
    let now = env.timers.now();
    env.access_log.borrow_mut().record(x, &names(plan, listener, x, x.endpoint.as_deref()), now, env.unix_ms(now));
}

fn names<'a, I: Io>(
    plan: &'a Plan<I>,
    listener: &'a Listener,
    x: &Exchange,
    endpoint: Option<&'a EndpointTag>,
) -> Names<'a> {
    let service: Option<&snapshot::Service> = plan.snapshot.services.get(x.service as usize).map(|service| &**service);
    Names {
        route: &listener.name,
        service: service.map_or("", |service| &service.name),
        endpoint: endpoint.map_or("", |endpoint| &endpoint.authority),
    }
}
