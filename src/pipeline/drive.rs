//! One request from its typed head to its log line.
//!
//! ```text
//! pin plan ─ identify ─ route ─ policies: request ─ handler ─ policies: response ─ send ─ policies: done ─ telemetry
//! ```

use std::future::poll_fn;
use std::net::IpAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::Bytes;

use super::env::{Env, Request};
use super::plan::{Plan, RoutePlan};
use super::tunnel::Tunnel;
use super::{fallback, mirror, readings, reply, secure, wait};
use crate::error::{Failure, Reason};
use crate::handler::grpc_web::Web;
use crate::handler::proxy::Proxy;
use crate::handler::replay::Tap;
use crate::handler::upgrade::{Opened, Upgrade};
use crate::http::downstream::{Downstream, ResponseSink};
use crate::http::exchange::{EndpointTag, Exchange, Reply, RequestId};
use crate::http::grpc::{Call, Dress};
use crate::http::hop;
use crate::http::message::{BodyLength, Method};
use crate::http::name::Name;
use crate::http::path::{self, PathPolicy};
use crate::net::io::Connect;
use crate::policy::slots::Progress;
use crate::policy::{Flow, Policy};
use crate::route::{Miss, Rewrite, RouteInput, RouteTable, Spellings};
use crate::snapshot::{self, Action, Fallback, Listener, Redirect, RedirectTarget, Respond, Snapshot};
use crate::telemetry::access_log::Names;
use crate::telemetry::metrics::instruments::{Deadline, Instruments};
use crate::time::Now;

/// Serves the request in `request.x`, whose head is typed, canonical and stripped. Returns the tunnel that it has
/// become, if it has: the log line is written at the tunnel's end.
pub fn drive<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    listener: &Listener,
    request: &mut Request,
) -> impl Future<Output = Option<Box<Tunnel<C::Io>>>> {
    drive_until(down, env, listener, request, std::future::pending())
}

/// As [`drive`], for a request that its client may give up while it is served: with `gone`, what is under way for it
/// ends at once, and its endpoint's connection with it.
pub async fn drive_until<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    listener: &Listener,
    request: &mut Request,
    gone: impl Future<Output = Failure>,
) -> Option<Box<Tunnel<C::Io>>> {
    let plan = env.pin();
    identify(env, listener, &mut request.x);
    request.x.grpc = Call::take(&mut request.x.request, request.x.started);
    if let Some(proof) = secure::proof(listener, &request.x) {
        Box::pin(show_proof(down, env, &plan, request, proof)).await;
        return None;
    }
    if secure::is_to_move(listener, &request.x) {
        Box::pin(move_to_https(down, env, &plan, listener, request)).await;
        return None;
    }
    let admitted = secure::enter(listener, &mut request.x);
    let decided = |()| decide(&plan.snapshot, &plan.table, listener.rules.path_policy, request);
    let routed = admitted.and_then(decided);
    let mut progress = Progress::default();
    let served = match routed {
        Ok(()) => {
            let mut serving = pin!(serve(down, env, &plan, listener, request, &mut progress));
            let mut gone = pin!(gone);
            poll_fn(|cx| match gone.as_mut().poll(cx) {
                Poll::Ready(failure) => Poll::Ready(Err(failure)),
                Poll::Pending => serving.as_mut().poll(cx),
            })
            .await
        }
        Err(failure) => Err(failure),
    };
    let opened = match served {
        Ok(opened) => opened,
        Err(failure) => {
            fail(down, &plan, request, failure, progress).await;
            None
        }
    };
    let Some(opened) = opened else {
        finish(env, &plan, &request.x, progress);
        return None;
    };
    settle(env, &plan, &request.x, progress, env.timers.now());
    let endpoint = request.x.endpoint.clone();
    let names = names(&plan.snapshot, &request.x, endpoint.as_deref());
    Some(Tunnel::new(*opened, &mut request.x, &names))
}

async fn move_to_https<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    plan: &Plan<C::Io>,
    listener: &Listener,
    request: &mut Request,
) {
    if let Err(failure) = secure::move_to_https(down, listener, &mut request.x).await {
        fail(down, plan, request, failure, Progress::default()).await;
    }
    finish(env, plan, &request.x, Progress::default());
}

async fn show_proof<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    plan: &Plan<C::Io>,
    request: &mut Request,
    proof: Bytes,
) {
    if let Err(failure) = secure::show_proof(down, &mut request.x, proof).await {
        fail(down, plan, request, failure, Progress::default()).await;
    }
    finish(env, plan, &request.x, Progress::default());
}

/// Answers a request whose head was refused, and counts it.
pub async fn refuse<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    listener: &Listener,
    request: &mut Request,
    failure: Failure,
) {
    let plan = env.pin();
    identify(env, listener, &mut request.x);
    fail(down, &plan, request, failure, Progress::default()).await;
    finish(env, &plan, &request.x, Progress::default());
}

/// Who asks, and how this request is named.
fn identify<C: Connect>(env: &Env<C>, listener: &Listener, x: &mut Exchange) {
    x.random = env.random();
    locate_client(listener, x);
    // Only a trusted peer names its requests (C18).
    let given = x.peer_is_trusted.then(|| x.request.fields.get(Name::XRequestId).and_then(RequestId::from_peer));
    let given = given.flatten();
    x.id = given.unwrap_or_else(|| RequestId::from_random(x.random, env.random()));
}

/// Finds the client's address behind trusted proxies (C15).
pub fn locate_client(listener: &Listener, x: &mut Exchange) {
    x.client_ip = x.peer.ip();
    if x.peer_is_trusted {
        let trusted = &listener.rules.trusted_proxies;
        x.client_ip = hop::client_ip(&x.request.fields, x.peer.ip(), |ip| trusted.contains(ip));
    }
}

/// The request as routes see it.
pub struct Input<'a>(pub &'a Exchange);

impl RouteInput for Input<'_> {
    #[inline]
    fn method(&self) -> &[u8] {
        match self.0.request.method {
            Method::Extension => self.0.request.fields.text(self.0.request.method_text),
            method => method.text().as_bytes(),
        }
    }

    #[inline]
    fn host(&self) -> &[u8] {
        self.0.request.host()
    }

    #[inline]
    fn path(&self) -> &[u8] {
        self.0.request.matched_path()
    }

    fn query(&self) -> Option<&[u8]> {
        self.0.request.query()
    }

    fn header<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8]) -> bool) {
        let fields = &self.0.request.fields;
        for (own, value) in fields.iter() {
            if own.eq_ignore_ascii_case(name) && !each(value) {
                break;
            }
        }
    }

    fn client_ip(&self) -> IpAddr {
        self.0.client_ip
    }
}

/// Finds the route and rewrites the path for its endpoints. `table` is a worker's copy of the snapshot's. `ringway
/// explain` takes this very decision.
///
/// # Errors
/// Nothing takes the request, its path is read in ways that take different routes, or cannot be rewritten.
pub fn decide(
    snapshot: &Snapshot,
    table: &RouteTable,
    policy: PathPolicy,
    request: &mut Request,
) -> Result<(), Failure> {
    let Request { x, captures, path } = request;
    let (route, mut prefix_bytes) = match table.find(&Input(x), captures) {
        Ok(hit) => (hit.route.0, hit.prefix_bytes),
        Err(miss) => (unmatched(snapshot, x, &miss)?, 0),
    };
    if x.request.doubtful {
        readings::agree(snapshot, table, x, route)?;
    }
    if x.request.matched.is_some() {
        prefix_bytes = readings::respell(x, captures, prefix_bytes);
    }
    x.route = route;
    let route = &snapshot.routes[route as usize];
    x.route_key = route.key;
    let Some(rewrite) = &route.rewrite else { return Ok(()) };
    rewrite_path(rewrite, x, captures, prefix_bytes, policy, path)
}

fn rewrite_path(
    rewrite: &Rewrite,
    x: &mut Exchange,
    captures: &crate::route::Captures,
    prefix_bytes: usize,
    policy: PathPolicy,
    path: &mut Vec<u8>,
) -> Result<(), Failure> {
    let spellings = Spellings { sent: x.request.path(), matched: x.request.matched_path() };
    let written = rewrite.apply(spellings, prefix_bytes, captures, path);
    written.map_err(|error| Failure::with(Reason::BadRewrite, error.text()))?;
    // A rewritten path is held to the same rules as one that arrived (F49).
    if !path::is_canonical(path) {
        let raw = std::mem::take(path);
        // Empty segments are of the template's own making: a capture that took no part.
        let policy = if policy == PathPolicy::Strict { PathPolicy::Merge } else { policy };
        path::canonicalise(&raw, policy, path).map_err(|failure| Failure::with(Reason::BadRewrite, failure.detail))?;
    }
    x.request.forward_path = Some(x.request.fields.keep(path));
    Ok(())
}

/// What takes a request that no route does: the default route if no route knows the path. Where one does, though not
/// for this method, the answer is 405: a list of methods is a rule, and falling to the default would walk around it.
fn unmatched(snapshot: &Snapshot, x: &mut Exchange, miss: &Miss) -> Result<u32, Failure> {
    snapshot.default_route.filter(|_| miss.allow.is_none()).ok_or_else(|| missed(x, miss))
}

/// 405 with Allow where another method would have a route, else 404.
fn missed(x: &mut Exchange, miss: &Miss) -> Failure {
    let Some(methods) = &miss.allow else { return Reason::NoRoute.into() };
    let allow = methods.names().collect::<Vec<_>>().join(&b", "[..]);
    let added = x.late_fields.append(b"Allow", &allow);
    debug_assert!(added.is_ok(), "method names are tokens");
    Reason::MethodNotAllowed.into()
}

/// Runs the policies and the route's handler.
async fn serve<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    plan: &Rc<Plan<C::Io>>,
    listener: &Listener,
    request: &mut Request,
    progress: &mut Progress,
) -> Result<Option<Box<Opened<C::Io>>>, Failure> {
    let Request { x, captures, path } = request;
    let at = x.route as usize;
    let (route, live) = (&plan.snapshot.routes[at], &plan.routes[at]);
    let mut flow = live.chain.on_request(progress, x, x.started);
    if let Flow::Wait(pending) = flow {
        let due = due(x, route);
        flow = Box::pin(wait::policies(down, env, &live.chain, progress, x, pending, due)).await?;
    }
    if let Flow::Reply(reply) = flow {
        count_refusal(env, live, &reply, *progress);
        return answer(down, live, x, *reply, *progress).await.map(|()| None);
    }
    x.service = match &route.action {
        Action::Proxy(service) => *service,
        Action::Split(split) => split.pick(x.random),
        Action::Redirect(to) => {
            let reply = redirect(x, captures, path, to)?;
            return answer(down, live, x, reply, *progress).await.map(|()| None);
        }
        Action::Respond(respond) => return answer(down, live, x, fixed(respond), *progress).await.map(|()| None),
    };
    check_body(x, route, listener)?;
    let tap = route.mirror.as_deref().and_then(|rules| mirror::copy(env, plan, listener, rules, x));
    let answered = pin!(proxy(down, env, plan, listener, x, route, live, *progress, tap)).await;
    let Err(failure) = answered else { return answered };
    Box::pin(fall_back(down, env, plan, listener, x, at, *progress, failure)).await
}

/// The answer of a route that has one of its own.
fn fixed(respond: &Respond) -> Reply {
    let mut fields = respond.fields.clone();
    if !respond.content_type.is_empty() {
        fields.push((Bytes::from_static(b"Content-Type"), respond.content_type.clone()));
    }
    Reply { status: respond.status, body: respond.body.clone(), fields, ..Reply::default() }
}

/// A rate limiter's refusals are counted under its own word (R215).
fn count_refusal<C: Connect>(env: &Env<C>, live: &RoutePlan, reply: &Reply, progress: Progress) {
    if reply.reason != Some(Reason::RateLimited) {
        return;
    }
    if let Some(word) = live.chain.stopped_by(progress).and_then(Policy::limiter_type) {
        env.metrics.borrow_mut().limiter(word).inc();
    }
}

/// The bound on a request body, in bytes: the route's, else the listener's.
pub fn body_bytes_max(route: &snapshot::Route, listener: &Listener) -> u64 {
    route.body_bytes_max.unwrap_or(listener.rules.body_bytes_max)
}

/// Whether the request's body may be as long as it says; one that does not say is counted as it comes.
///
/// # Errors
/// [`Reason::BodyTooLarge`].
pub fn check_body(x: &Exchange, route: &snapshot::Route, listener: &Listener) -> Result<(), Failure> {
    match x.request.body {
        BodyLength::Known(bytes) if bytes > body_bytes_max(route, listener) => Err(Reason::BodyTooLarge.into()),
        _ => Ok(()),
    }
}

/// When the whole request must be over: by the route's time, or by that of a gRPC call, whichever is first.
fn due(x: &Exchange, route: &snapshot::Route) -> Now {
    let due = x.started.plus_ms(route.timeout_ms);
    x.grpc.map_or(due, |call| due.min(call.due))
}

#[allow(clippy::too_many_arguments, reason = "one call, whose arguments are the parts of one request")]
async fn proxy<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    plan: &Plan<C::Io>,
    listener: &Listener,
    x: &mut Exchange,
    route: &snapshot::Route,
    live: &RoutePlan,
    progress: Progress,
    tap: Option<Rc<Tap>>,
) -> Result<Option<Box<Opened<C::Io>>>, Failure> {
    let service = x.service as usize;
    let spec = &plan.snapshot.services[service];
    let upgrade = match x.request.upgrade {
        None => None,
        Some(_) if env.draining.get() => return Err(Reason::Draining.into()),
        Some(_) => Upgrade::permit(x, route.tunnel.as_deref(), listener)?,
    };
    let passage = fallback::pass(route, spec, x, env.timers.known_now())?;
    let due = due(x, route);
    if let Some(ticket) = plan.services[service].enter(x, env.timers.known_now())? {
        Box::pin(wait::service(down, env, x, ticket, due)).await?;
    }
    let proxy = Proxy {
        connector: &env.connector,
        timers: &env.timers,
        listener,
        spec,
        service: &plan.services[service],
        host: route.host.as_deref().unwrap_or(&spec.host),
        due,
        body_bytes_max: body_bytes_max(route, listener),
        retries: route.retries.as_deref().unwrap_or(&spec.resilience.retries),
        upgrade: upgrade.as_deref(),
        is_stream: false,
        tap: tap.as_ref(),
    };
    let timers = &env.timers;
    let on_head = &mut |x: &mut Exchange| {
        if let Some(sticky) = &spec.sticky {
            fallback::stick(sticky, x);
        }
        live.chain.on_response(progress, x, timers.known_now());
    };
    if route.grpc_web
        && x.grpc.is_some_and(|call| call.dress != Dress::Grpc)
        && let Some(mut web) = Web::undress(down, x)
    {
        // Boxed, and a copy of the loop of its own: plain requests carry nothing of it.
        let answered = Box::pin(proxy.answer(&mut web, x, on_head)).await;
        fallback::settle(passage, x, &answered, timers.known_now());
        return answered.map(|()| None);
    }
    let answered = pin!(proxy.answer(down, x, on_head)).await;
    fallback::settle(passage, x, &answered, timers.known_now());
    answered?;
    Ok(upgrade.and_then(|upgrade| upgrade.into_opened()))
}

/// Answers in place of a service that did not, where something may.
#[allow(clippy::too_many_arguments, reason = "one call, whose arguments are the parts of one request")]
async fn fall_back<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    plan: &Plan<C::Io>,
    listener: &Listener,
    x: &mut Exchange,
    route: usize,
    progress: Progress,
    failure: Failure,
) -> Result<Option<Box<Opened<C::Io>>>, Failure> {
    let (route, live) = (&plan.snapshot.routes[route], &plan.routes[route]);
    let spec = &plan.snapshot.services[x.service as usize];
    match fallback::instead(down, spec, x, failure) {
        None => Err(failure),
        Some(Fallback::Respond { status, body, fields }) => {
            let sent = answer(down, live, x, fallback::reply(*status, body, fields), progress).await;
            x.failure = Some(failure);
            sent.map(|()| None)
        }
        Some(Fallback::Service(other)) => {
            (x.service, x.endpoint, x.attempts, x.vain, x.failure) = (*other, None, 0, 0, None);
            x.late_fields.remove(b"Retry-After");
            proxy(down, env, plan, listener, x, route, live, progress, None).await
        }
    }
}

/// The answer of a route that redirects.
///
/// # Errors
/// [`Reason::BadRewrite`] when the captures do not make a legal target.
pub fn redirect(
    x: &Exchange,
    captures: &crate::route::Captures,
    path: &mut Vec<u8>,
    to: &Redirect,
) -> Result<Reply, Failure> {
    let location = match &to.to {
        RedirectTarget::Fixed(url) => url.clone(),
        RedirectTarget::Origin(origin) => {
            let path = x.request.forward_path.map_or(x.request.path(), |path| x.request.fields.text(path));
            let query = x.request.query().map(|query| [b"?", query].concat()).unwrap_or_default();
            [&origin[..], path, &query].concat().into()
        }
        RedirectTarget::Template { origin, path: template, query } => {
            let spellings = Spellings { sent: x.request.path(), matched: x.request.matched_path() };
            let written = template.apply(spellings, 0, captures, path);
            written.map_err(|error| Failure::with(Reason::BadRewrite, error.text()))?;
            [&origin[..], path, query].concat().into()
        }
    };
    Ok(Reply { status: to.status, fields: vec![(Bytes::from_static(b"Location"), location)], ..Reply::default() })
}

/// Sends an answer of the gateway's own past the policies that the request has passed.
async fn answer<D: Downstream>(
    down: &mut D,
    live: &RoutePlan,
    x: &mut Exchange,
    reply: Reply,
    progress: Progress,
) -> Result<(), Failure> {
    let body = reply::compose(x, reply);
    live.chain.on_response(progress, x, x.started);
    reply::send(down, x, body).await
}

/// Turns a failure into a response, or cuts the connection where the client has already seen a part of one (F24).
async fn fail<D: Downstream, I: crate::net::io::Io>(
    down: &mut D,
    plan: &Plan<I>,
    request: &mut Request,
    failure: Failure,
    progress: Progress,
) {
    let x = &mut request.x;
    x.failure = Some(failure);
    let (_, response) = down.split();
    let gone = matches!(failure.reason, Reason::ClientClosed | Reason::ClientStalled | Reason::ClientTooSlow);
    if response.head_sent() || gone {
        response.abort();
        return;
    }
    if failure.reason == Reason::BodyTooLarge {
        // Even where all of it has arrived: who sends too much is not encouraged (F40).
        response.close_after();
    }
    let body = reply::compose(x, Reply::failure(failure.reason));
    x.failure = Some(failure);
    if let Some(live) = plan.routes.get(x.route as usize) {
        live.chain.on_response(progress, x, x.started);
    }
    if let Err(failure) = reply::send(down, x, body).await {
        x.failure = Some(failure);
    }
}

/// Gives permits back, counts and logs: exactly once for every request that does not become a tunnel.
fn finish<C: Connect>(env: &Env<C>, plan: &Plan<C::Io>, x: &Exchange, progress: Progress) {
    let now = env.timers.now();
    settle(env, plan, x, progress, now);
    env.access_log.borrow_mut().record(x, &names(&plan.snapshot, x, x.endpoint.as_deref()), now, env.unix_ms(now));
}

/// Gives permits back and counts: exactly once for every request.
fn settle<C: Connect>(env: &Env<C>, plan: &Plan<C::Io>, x: &Exchange, progress: Progress, now: Now) {
    let live = plan.routes.get(x.route as usize);
    if let Some(live) = live {
        live.chain.on_done(progress, x, now);
    }
    let metrics = env.metrics.borrow();
    let service = plan.services.get(x.service as usize);
    if let Some(service) = service {
        service.observe(x, now);
    }
    let service = service.map(|service| &service.stats);
    let unmatched;
    let stats = match live {
        Some(live) => &*live.stats,
        None => {
            unmatched = metrics.unmatched();
            &*unmatched
        }
    };
    metrics.finished(stats, service, x, now);
    count_own(&metrics.own, x);
    drop(metrics);
    if let Some(call) = &x.grpc {
        env.metrics.borrow_mut().called(call, x);
    }
}

/// What a finished request adds to the worker's own counters.
#[inline]
fn count_own(own: &Instruments, x: &Exchange) {
    own.request_bytes.add(x.request_bytes as i64);
    own.response_bytes.add(x.response_bytes as i64);
    if x.attempts > 1 {
        own.retries.add(i64::from(x.attempts) - 1);
    }
    if x.hedges > 0 {
        own.hedges.add(i64::from(x.hedges));
        own.hedges_won.add(i64::from(x.hedge_won));
    }
    let deadline = x.failure.and_then(|failure| match failure.reason {
        Reason::HeaderTimeout => Some(Deadline::Header),
        Reason::BodyTimeout => Some(Deadline::Body),
        Reason::ClientStalled => Some(Deadline::Write),
        Reason::BodyTooSlow => Some(Deadline::BodyRate),
        Reason::ClientTooSlow => Some(Deadline::WriteRate),
        Reason::ConnectTimeout => Some(Deadline::Connect),
        Reason::UpstreamTimeout if x.upstream_status == 0 => Some(Deadline::FirstByte),
        Reason::UpstreamTimeout => Some(Deadline::BetweenBytes),
        Reason::RequestTimeout => Some(Deadline::Request),
        _ => None,
    });
    if let Some(deadline) = deadline {
        own.deadline(deadline);
    }
}

/// What the ids of an exchange are called in the configuration that served it.
fn names<'a>(snapshot: &'a Snapshot, x: &Exchange, endpoint: Option<&'a EndpointTag>) -> Names<'a> {
    let service = snapshot.services.get(x.service as usize);
    Names {
        route: snapshot.routes.get(x.route as usize).map_or("", |route| &route.name),
        service: service.map_or("", |service| &service.name),
        endpoint: endpoint.map_or("", |endpoint| &endpoint.authority),
    }
}
