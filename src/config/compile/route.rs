//! Routes: what they match, and who answers.

use bytes::Bytes;

use super::policies::Chains;
use super::resilience::retries;
use super::service::{Services, host_rule};
use crate::config::model::{self, Answer, MatchKind};
use crate::http::exchange::Exchange;
use crate::http::path::{self, PathPolicy};
use crate::limits::{TUNNEL_DURATION_MS_MAX, TUNNEL_IDLE_TIMEOUT_MS};
use crate::route::{
    HostPattern, MethodSet, PathPattern, Predicate, Rewrite, RouteId, RouteSpec, Segment, Test, WeightedSplit,
};
use crate::schema::{Diagnostics, Policy, Span, Spanned, codes};
use crate::snapshot::{Action, MirrorRules, PingRules, Redirect, RedirectTarget, Respond, Route, Split, TunnelRules};
use crate::upstream::balance::hash_key;
use crate::upstream::breaker::BreakerSpec;

/// What a route matches; None when its path is wrong, which is reported.
pub(super) fn spec(written: &Spanned<model::Route>, id: u32, diagnostics: &mut Diagnostics) -> Option<RouteSpec> {
    let path = path_pattern(written, diagnostics)?;
    let mut methods = MethodSet::any();
    if !written.methods.is_empty() {
        methods = MethodSet::of(written.methods.iter().map(|method| method.as_str()));
    }
    let hosts = written.hosts.iter().filter_map(|host| {
        let parsed = HostPattern::parse(host.as_str());
        parsed.map_err(|what| report(diagnostics, host.span, what)).ok()
    });
    let hosts = hosts.collect();
    let predicates = predicates(written);
    Some(RouteSpec { id: RouteId(id), hosts, path, methods, predicates, priority: written.priority.get() as i32 })
}

fn path_pattern(written: &Spanned<model::Route>, diagnostics: &mut Diagnostics) -> Option<PathPattern> {
    if let Some(regex) = &written.regex {
        return Some(PathPattern::Regex(regex.source.clone()));
    }
    let (text, span) = written.path_text()?;
    if text.starts_with('^') {
        return Some(PathPattern::Regex(text.to_owned()));
    }
    let pattern = if written.exact.is_some() {
        Ok(PathPattern::Exact(text.to_owned()))
    } else if written.prefix.is_some() {
        let boundary = if written.raw_prefix { PathPattern::RawPrefix } else { PathPattern::Prefix };
        Ok(boundary(text.to_owned()))
    } else {
        PathPattern::parse(text)
    };
    let pattern = pattern.and_then(canonical);
    pattern.map_err(|what| report(diagnostics, span, what)).ok()
}

/// A pattern whose literal parts are in the form in which requests are matched (F49): one for `/caf%c3%a9` as written
/// would match nothing.
fn canonical(pattern: PathPattern) -> Result<PathPattern, String> {
    Ok(match pattern {
        PathPattern::Exact(path) => PathPattern::Exact(canonical_path(&path)?),
        PathPattern::Prefix(path) if !path.is_empty() => PathPattern::Prefix(canonical_path(&path)?),
        PathPattern::RawPrefix(path) => PathPattern::RawPrefix(canonical_beginning(&path)?),
        PathPattern::Template(segments) => {
            PathPattern::Template(segments.into_iter().map(canonical_segment).collect::<Result<_, _>>()?)
        }
        pattern => pattern,
    })
}

fn canonical_path(path: &str) -> Result<String, String> {
    let mut out = Vec::with_capacity(path.len());
    let canonical = path::canonicalise(path.as_bytes(), PathPolicy::Preserve, &mut out);
    canonical.map_err(|failure| format!("no request can have this path: {}", failure.detail))?;
    if path::doubtful(&out) {
        return Err("no request can have this path: endpoints read it in several ways; see docs/paths.md".to_owned());
    }
    let out = path::matched(&out).unwrap_or(out);
    Ok(String::from_utf8_lossy(&out).into_owned())
}

fn canonical_segment(segment: Segment) -> Result<Segment, String> {
    match segment {
        Segment::Literal(text) if text.is_empty() => Ok(Segment::Literal(text)),
        Segment::Literal(text) => match canonical_path(&format!("/{text}"))?.as_str() {
            "/" => Err(format!("no request can have this path: the segment `{text}` stands for no directory")),
            path => Ok(Segment::Literal(path[1..].to_owned())),
        },
        other => Ok(other),
    }
}

/// Of a prefix that may end within a segment: `/a/.` is the beginning of `/a/.git`, not the directory `/a/`.
fn canonical_beginning(path: &str) -> Result<String, String> {
    let dots = path.len() - path.trim_end_matches('.').len();
    let (path, dots) = path.split_at(path.len() - dots);
    Ok(if path.is_empty() { dots.to_owned() } else { canonical_path(path)? + dots })
}

fn predicates(written: &model::Route) -> Vec<Predicate> {
    let mut all = Vec::new();
    for (name, value) in written.headers.iter() {
        all.push(Predicate::Header { name: name.as_str().to_owned(), test: test(value) });
    }
    for (name, value) in written.query.iter() {
        all.push(Predicate::Query { name: name.value.clone(), test: test(value) });
    }
    for (name, value) in written.cookies.iter() {
        all.push(Predicate::Cookie { name: name.value.clone(), test: test(value) });
    }
    let networks = written.client_addresses.clone();
    if !networks.is_empty() {
        all.push(Predicate::Client(networks));
    }
    all
}

fn test(value: &model::ValueMatch) -> Test {
    match value.kind() {
        MatchKind::Present(true) => Test::Present,
        MatchKind::Present(false) => Test::Absent,
        MatchKind::Exact(text) => Test::Exact(text.to_owned()),
        MatchKind::Prefix(text) => Test::Prefix(text.to_owned()),
        MatchKind::Regex(pattern) => Test::Regex(pattern.source.clone()),
    }
}

/// A route's running form. Whatever is wrong is reported; the result is of no use then.
pub(super) fn compile(
    written: &Spanned<model::Route>,
    config: &model::Config,
    services: &mut Services<'_>,
    chains: &mut Chains,
    diagnostics: &mut Diagnostics,
) -> Route {
    let parts = Parts {
        name: written.name(),
        pattern: written.path_text().map_or("", |(text, _)| text),
        answer: written.answer(),
        load_balancer: written.load_balancer.as_ref(),
        subset: written.endpoints.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect(),
        timeout: written.timeout.map(|timeout| timeout.as_millis() as u64),
        body_bytes_max: written.body_bytes_max.map(|size| size.get()),
        policies: &written.policies,
    };
    let mut route = build(&parts, config, services, chains, diagnostics);
    route.rewrite = rewrite(written, diagnostics).map(Box::new);
    route.host = written.host.as_ref().map(|host| Box::new(host_rule(host)));
    route.breaker = breaker(written, &route, services);
    route.retries = written.retries.as_ref().map(|written| Box::new(retries(written)));
    route.tunnel = tunnel(written);
    route.mirror = written.mirror.as_deref().and_then(|written| mirror(written, services, diagnostics));
    route.grpc_web = written.grpc_web;
    route
}

/// What serves requests that no route matches (R20, C57).
pub(super) fn compile_default(
    written: &Spanned<model::DefaultRoute>,
    config: &model::Config,
    services: &mut Services<'_>,
    chains: &mut Chains,
    diagnostics: &mut Diagnostics,
) -> Route {
    let parts = Parts {
        name: "default",
        pattern: "default",
        answer: written.answer(),
        load_balancer: None,
        subset: Vec::new(),
        timeout: written.timeout.map(|timeout| timeout.as_millis() as u64),
        body_bytes_max: written.body_bytes_max.map(|size| size.get()),
        policies: &written.policies,
    };
    build(&parts, config, services, chains, diagnostics)
}

struct Parts<'a> {
    name: &'a str,
    pattern: &'a str,
    answer: Option<Answer<'a>>,
    load_balancer: Option<&'a model::LoadBalancer>,
    subset: Vec<(&'a str, &'a str)>,
    timeout: Option<u64>,
    body_bytes_max: Option<u64>,
    policies: &'a [Policy],
}

fn build(
    parts: &Parts<'_>,
    config: &model::Config,
    services: &mut Services<'_>,
    chains: &mut Chains,
    diagnostics: &mut Diagnostics,
) -> Route {
    Route {
        name: parts.name.into(),
        key: hash_key(parts.name.as_bytes()),
        pattern: parts.pattern.into(),
        chain: chains.of(parts.name, parts.policies, diagnostics),
        action: action(parts, services, diagnostics),
        rewrite: None,
        timeout_ms: parts.timeout.unwrap_or(config.server.timeout.as_millis() as u64),
        body_bytes_max: parts.body_bytes_max,
        host: None,
        breaker: None,
        retries: None,
        tunnel: None,
        mirror: None,
        grpc_web: false,
    }
}

/// Where copies of the route's requests go. An unknown name was reported when the configuration was loaded.
fn mirror(
    written: &model::Mirror,
    services: &mut Services<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Box<MirrorRules>> {
    let service = services.id(Some(written.service.as_str()), None, None, &[], diagnostics)?;
    // Saturating, and between 0 and 2^32.
    let share = (written.percent.get() / 100.0 * (1_u64 << 32) as f64) as u64;
    Some(Box::new(MirrorRules {
        service,
        share,
        requests_max: written.requests_max.get() as u32,
        body_bytes_max: written.body_bytes_max.get(),
        timeout_ms: written.timeout.as_millis() as u64,
    }))
}

/// What the route's requests may become.
fn tunnel(written: &model::Route) -> Option<Box<TunnelRules>> {
    if written.upgrade.is_empty() {
        return None;
    }
    let (idle_timeout_ms, duration_ms_max) = tunnel_times(written.tunnel.as_deref());
    let protocols = written.upgrade.iter().map(|protocol| protocol.0.clone()).collect();
    // A pause of nothing is one of a tick.
    let ms = |pause: crate::schema::types::Duration| (pause.as_millis() as u64).max(1);
    let ping = written.websocket_ping.as_ref();
    let ping = ping.map(|ping| PingRules { interval_ms: ms(ping.interval), timeout_ms: ms(ping.timeout) });
    Some(Box::new(TunnelRules { protocols, idle_timeout_ms, duration_ms_max, ping }))
}

/// How long a tunnel may be idle, and may last, in milliseconds.
pub(super) fn tunnel_times(written: Option<&model::Tunnel>) -> (u64, u64) {
    let ms = |of: fn(&model::Tunnel) -> crate::schema::types::Duration, default| {
        written.map_or(default, |tunnel| of(tunnel).as_millis() as u64)
    };
    (ms(|tunnel| tunnel.idle_timeout, TUNNEL_IDLE_TIMEOUT_MS), ms(|tunnel| tunnel.duration_max, TUNNEL_DURATION_MS_MAX))
}

fn action(parts: &Parts<'_>, services: &mut Services<'_>, diagnostics: &mut Diagnostics) -> Action {
    match parts.answer {
        Some(Answer::Service { name, url }) => {
            let name = name.map(|name| name.as_str());
            let id = services.id(name, url, parts.load_balancer, &parts.subset, diagnostics);
            Action::Proxy(id.unwrap_or(Exchange::NO_SERVICE))
        }
        Some(Answer::Split(choices)) => {
            let mut id = |name| services.id(Some(name), None, parts.load_balancer, &parts.subset, diagnostics);
            let services = choices.iter().filter_map(|choice| id(choice.name.as_str())).collect();
            let weights: Vec<u32> = choices.iter().map(|choice| choice.weight.get() as u32).collect();
            match WeightedSplit::new(&weights) {
                Ok(shares) => Action::Split(Box::new(Split { services, shares })),
                Err(what) => {
                    diagnostics.report(codes::BAD_VALUE, choices[0].name.span, what);
                    Action::Proxy(Exchange::NO_SERVICE)
                }
            }
        }
        Some(Answer::Redirect(redirect)) => {
            let to = RedirectTarget::of(redirect.to.as_str()).unwrap_or_else(|what| {
                report(diagnostics, redirect.to.span, what);
                RedirectTarget::Fixed(Bytes::new())
            });
            Action::Redirect(Box::new(Redirect { status: redirect.status.get() as u16, to }))
        }
        Some(Answer::Respond(respond)) => respond_action(respond),
        // Reported when the configuration was loaded.
        None => Action::Proxy(Exchange::NO_SERVICE),
    }
}

/// Which breaker the route's requests go through.
fn breaker(written: &model::Route, route: &Route, services: &Services<'_>) -> Option<Option<Box<BreakerSpec>>> {
    let first = match &route.action {
        Action::Redirect(_) | Action::Respond(_) => return None,
        action => action.services().first().copied(),
    };
    match written.circuit_breaker {
        model::BreakerChoice::Service => None,
        model::BreakerChoice::Off => Some(None),
        model::BreakerChoice::Own => Some(Some(Box::new(services.route_breaker(written.name(), first)))),
    }
}

/// Status, body and fields of a fixed answer.
pub(super) fn fixed_answer(respond: &model::Respond) -> (u16, Bytes, Vec<(Bytes, Bytes)>) {
    let fields = respond.headers.iter().map(|(name, value)| (bytes(name.as_str()), bytes(value.as_str())));
    let mut fields: Vec<_> = fields.collect();
    if !respond.body.is_empty() {
        fields.push((Bytes::from_static(b"Content-Type"), bytes(respond.content_type.as_str())));
    }
    (respond.status.get() as u16, bytes(&respond.body), fields)
}

fn respond_action(respond: &model::Respond) -> Action {
    let fields = respond.headers.iter().map(|(name, value)| (bytes(name.as_str()), bytes(value.as_str())));
    let content_type = if respond.body.is_empty() { "" } else { respond.content_type.as_str() };
    Action::Respond(Box::new(Respond {
        status: respond.status.get() as u16,
        content_type: bytes(content_type),
        body: bytes(&respond.body),
        fields: fields.collect(),
    }))
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn rewrite(written: &Spanned<model::Route>, diagnostics: &mut Diagnostics) -> Option<Rewrite> {
    let Some(rewrite) = &written.rewrite else { return written.strip_prefix.then_some(Rewrite::StripPrefix) };
    let built = match (&rewrite.prefix, &rewrite.pattern, &rewrite.to, &rewrite.path) {
        (Some(prefix), ..) => Rewrite::replace_prefix(prefix.as_str()),
        (_, Some(pattern), Some(to), _) => Rewrite::regex(&pattern.source, to),
        (.., Some(path)) => Rewrite::template(path.as_str()),
        _ => return None,
    };
    built.map_err(|what| report(diagnostics, rewrite.span, what)).ok()
}

fn report(diagnostics: &mut Diagnostics, span: Span, what: String) {
    diagnostics.report(codes::BAD_VALUE, span, what);
}
