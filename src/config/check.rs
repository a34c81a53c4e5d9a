//! What no single value can say: names that refer, names that clash, risks.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use ahash::AHashMap;

use super::model::{Answer, Config, DefaultRoute, EndpointWire, ListenProtocol, Listener, Mirror, Route, Service};
use super::reach;
use crate::schema::types::Name;
use crate::schema::{self, Cx, Kept, Node, Pieces, Span, Spanned, codes};

/// Paths of the admin listener that metrics may not take.
const ADMIN_PATHS: &[&str] = &["/health", "/ready", "/config", "/config/reload", "/services"];

/// Reports everything that is wrong or risky between the parts of `config`.
///
/// `root` is the tree behind it: parts that could not be decoded are missing in `config` and still known by name.
pub(super) fn check(config: &Config, root: &Node, known: &Known, cx: &mut Cx) {
    check_admin(config, cx);
    check_listeners(config, cx);
    let mut services = match known.is_alike {
        true => Services::as_before(),
        false => Services::gather(&config.services, root, cx),
    };
    for (at, service) in config.services.iter().enumerate() {
        if !known.has_service(at) {
            check_service(service, cx);
        }
        if let Some(name) = service.fallback.as_ref().and_then(|fallback| fallback.service.as_ref()) {
            services.refer(name, cx);
        }
    }
    for listener in &config.listeners {
        check_protocol(listener, &mut services, cx);
    }
    if !known.is_alike {
        unique(config.routes.iter().filter_map(|route| route.name.as_ref()), "route", cx);
    }
    for (at, route) in config.routes.iter().enumerate() {
        match known.has_route(at) {
            true if services.are_as_before => {}
            true => refer(route, &mut services, cx),
            false => check_route(route, &mut services, cx),
        }
    }
    reach::warn_unreachable(config, known, cx);
    if let Some(route) = &config.default_route {
        check_default_route(route, &mut services, cx);
    }
    warn_unused(config, &services, cx);
}

/// What was found to be good when an earlier file was read, which was the same but for services and routes: each by
/// itself, and any two of them together.
#[derive(Default)]
pub(super) struct Known {
    services: Vec<bool>,
    routes: Vec<bool>,
    /// What is new has the names of what is gone, and refers to the same services: nothing is called like another one,
    /// and nothing is missing or left over that was not before.
    is_alike: bool,
}

impl Known {
    /// What of a file is known, that was read in these pieces behind another one.
    pub(super) fn of(config: &Config, before: &Kept, pieces: &Pieces) -> Self {
        let (services, routes) = (pieces.known("services"), pieces.known("routes"));
        let gone = Parts { services: before.gone("services", pieces), routes: before.gone("routes", pieces) };
        let fresh = Parts { services: fresh(&config.services, &services), routes: fresh(&config.routes, &routes) };
        let is_alike = gone.services.len() == fresh.services.len() && gone.summary() == fresh.summary();
        Self { services, routes, is_alike }
    }

    fn has_service(&self, at: usize) -> bool {
        is_known(&self.services, at)
    }

    /// Whether this route is among them.
    pub(super) fn has_route(&self, at: usize) -> bool {
        is_known(&self.routes, at)
    }

    /// Whether all these routes are.
    pub(super) fn has_all_routes(&self, count: usize) -> bool {
        self.routes.len() == count && self.routes.iter().all(|known| *known)
    }
}

/// Some of the services and routes of a file.
struct Parts {
    services: Vec<Arc<Service>>,
    routes: Vec<Arc<Route>>,
}

impl Parts {
    /// All names, and all services that are referred to, by where that may be done; none twice that may not be.
    fn summary(&self) -> [Vec<&str>; 3] {
        let own = self.services.iter().map(|service| service.name.as_str());
        let of_routes = self.routes.iter().filter_map(|route| Some(route.name.as_ref()?.as_str()));
        let fallbacks = self.services.iter().filter_map(|service| service.fallback.as_ref()?.service.as_ref());
        let referred = self.routes.iter().flat_map(|route| referred(route)).chain(fallbacks).map(|name| name.as_str());
        let sorted = |mut names: Vec<_>| {
            names.sort_unstable();
            names
        };
        [sorted(own.collect()), sorted(of_routes.collect()), sorted(referred.collect())]
    }
}

/// Whether this item of a list is known.
fn is_known(known: &[bool], at: usize) -> bool {
    known.get(at).copied().unwrap_or(false)
}

/// What of a list is not known.
fn fresh<T>(all: &[Spanned<Arc<T>>], known: &[bool]) -> Vec<Arc<T>> {
    all.iter().enumerate().filter(|(at, _)| !is_known(known, *at)).map(|(_, item)| item.value.clone()).collect()
}

/// Gives a name to every route that has none: its path, with `#2` and so on where that is taken. One that gets the name
/// that it had before is the same one.
pub(super) fn name_routes(config: &mut Config, cx: &mut Cx) {
    if config.routes.iter().all(|route| route.name.is_some()) {
        return;
    }
    let mut taken: HashSet<String> =
        config.routes.iter().filter_map(|route| route.name.as_ref()).map(|name| name.as_str().to_owned()).collect();
    let mut next: HashMap<String, usize> = HashMap::new();
    for route in config.routes.iter_mut().filter(|route| route.name.is_none()) {
        let base = Name::from_text(route.path_text().map_or("route", |(text, _)| text));
        let count = next.entry(base.as_str().to_owned()).or_insert(1);
        let mut name = base.as_str().to_owned();
        while !taken.insert(name.clone()) {
            *count += 1;
            name = format!("{}#{count}", base.as_str());
        }
        let decoded = route.value.clone();
        let known = cx.before.and_then(|before| before.completed(&decoded)).filter(|known| known.name() == name);
        match known {
            Some(known) => route.value = known,
            None => {
                let name = Some(Spanned::new(Name::from_text(&name), Span::NOWHERE));
                Arc::make_mut(&mut route.value).name = name;
            }
        }
        cx.kept.keep_completed(decoded, route.value.clone());
    }
}

fn check_admin(config: &Config, cx: &mut Cx) {
    let admin = &config.admin;
    if admin.enabled && !admin.listen.0.ip().is_loopback() {
        let message = format!("the admin listener on {} can be reached from other machines", admin.listen.0);
        cx.report(codes::ADMIN_EXPOSED, admin.listen.span, message)
            .hint("it asks for no password; listen on 127.0.0.1, or keep strangers away by a firewall");
    }
    let endpoint = config.metrics.endpoint.as_str();
    if ADMIN_PATHS.contains(&endpoint) {
        let message = format!("`{endpoint}` is taken by the admin listener itself");
        cx.report(codes::DUPLICATE_ADDRESS, config.metrics.endpoint.span, message)
            .hint("choose another `metrics.endpoint`");
    }
}

fn check_listeners(config: &Config, cx: &mut Cx) {
    if config.listeners.is_empty() && !cx.diagnostics.has_errors() {
        cx.report(codes::MISSING_KEY, Span::NOWHERE, "there is no listener, so that no client can connect")
            .hint("add `listeners: [\":8080\"]`");
    }
    unique(config.listeners.iter().filter_map(|listener| listener.name.as_ref()), "listener", cx);
    let mut seen = HashMap::new();
    // With port 0 it has a port of its own.
    if config.admin.enabled && config.admin.listen.0.port() != 0 {
        seen.insert(config.admin.listen.0, "the admin listener has this address".to_owned());
    }
    for listener in &config.listeners {
        // Port 0 too: a listener is known by its address over reloads, so that the second would be the first.
        let address = listener.address.0;
        let place = format!("it stands first in line {}", listener.address.span.line);
        if let Some(first) = seen.insert(address, place) {
            let message = format!("the address {address} is used twice");
            cx.report(codes::DUPLICATE_ADDRESS, listener.address.span, message).hint(first);
        }
        check_trust(listener, cx);
        check_tls(listener, cx);
    }
}

fn check_trust(listener: &Listener, cx: &mut Cx) {
    for range in listener.trusted_proxies.iter().filter(|range| range.is_everyone()) {
        cx.report(codes::TRUSTS_EVERYONE, range.span, "everyone is trusted to name the client's address")
            .hint("anyone can then forge X-Forwarded-For and slip past address lists and limits; name your proxies");
    }
    let senders = listener.proxy_protocol.as_ref().map_or(&[][..], |from| &from.trusted);
    for range in senders.iter().filter(|range| range.is_everyone()) {
        cx.report(codes::TRUSTS_EVERYONE, range.span, "everyone is trusted to name the client's address")
            .hint("anyone can then send a forged PROXY header; name your load balancers");
    }
}

/// What a listener's protocol makes of its keys.
fn check_protocol(listener: &Spanned<Listener>, services: &mut Services, cx: &mut Cx) {
    let place = listener.address.span;
    if listener.protocol == ListenProtocol::Http {
        let written = [
            ("service", listener.service.as_ref().map(|name| name.span)),
            ("sni", listener.sni.iter().next().map(|(name, _)| name.span)),
            ("tunnel", listener.tunnel.as_ref().map(|tunnel| tunnel.span)),
        ];
        for (key, span) in written.into_iter().filter_map(|(key, span)| Some((key, span?))) {
            let message = format!("`{key}` is for listeners that pass connections on");
            cx.report(codes::CONTRADICTION, span, message).hint("add `protocol: tcp`, or write a route");
        }
        return;
    }
    if let (Some(tls), Some((name, _))) = (&listener.tls, listener.sni.iter().next()) {
        cx.report(codes::CONTRADICTION, name.span, "`sni` passes TLS through, and `tls` ends it")
            .hint(format!("keep one of them; `tls` stands in line {}", tls.span.line));
    }
    for name in listener.service.iter().chain(listener.sni.iter().map(|(_, service)| service)) {
        services.refer(name, cx);
    }
    if listener.service.is_none() && listener.sni.is_empty() && !cx.diagnostics.has_errors_within(listener.span) {
        cx.report(codes::ROUTE_ANSWER, place, "the listener passes connections on, and to no service")
            .hint("add `service`, or `sni` with services by server name");
    }
    let http_only = [
        ("forwarded", listener.forwarded),
        ("via", listener.via),
        ("trusted_proxies", !listener.trusted_proxies.is_empty()),
    ];
    for (key, _) in http_only.into_iter().filter(|(_, given)| *given) {
        let message = format!("`{key}` has no effect where connections are passed on as they are");
        cx.report(codes::NO_EFFECT, place, message).hint("take it out");
    }
}

fn check_tls(listener: &Listener, cx: &mut Cx) {
    let Some(tls) = &listener.tls else { return };
    if listener.https_redirect.is_some() && !tls.plain_too {
        cx.report(codes::NO_EFFECT, tls.span, "`https_redirect` has no effect where every connection has TLS")
            .hint("write it on the listener without TLS, or add `plain_too: true`");
    }
}

fn check_service(service: &Spanned<Arc<Service>>, cx: &mut Cx) {
    let name = service.name.as_str();
    if let (Some(tls), Some(_)) = (&service.tls, &service.proxy_protocol) {
        cx.report(
            codes::CONTRADICTION,
            tls.span,
            "a PROXY protocol header is not sent before a handshake in this build",
        )
        .hint("take `proxy_protocol` or `tls` out");
    }
    if service.endpoints.is_empty() && service.discovery.is_empty() && !cx.diagnostics.has_errors_within(service.span) {
        let message = format!("the service `{name}` has no endpoints, so its requests are answered 503");
        cx.report(codes::NO_ENDPOINTS, service.name.span, message).hint("add `endpoints: [\"host:port\"]`");
    }
    if service.protocol.value == EndpointWire::H2 && service.proxy_protocol.is_some() {
        let message = "a connection that many clients share cannot begin with the header of one";
        cx.report(codes::CONTRADICTION, service.protocol.span, message)
            .hint("leave `proxy_protocol` out, or use `protocol: http1`");
    }
    let mut seen = HashSet::new();
    for endpoint in &service.endpoints {
        let address = &endpoint.address;
        if !seen.insert(&address.value) {
            let message = format!("the service `{name}` has this endpoint twice");
            cx.report(codes::BAD_ENDPOINT, address.span, message).hint("give it a `weight` for a larger share");
        }
        let ip = address.socket_addr().map(|socket| socket.ip());
        if ip.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
            let message = format!("`{}` is an address to listen on, not one to connect to", address.host);
            cx.report(codes::BAD_ENDPOINT, address.span, message).hint("write 127.0.0.1 for this machine");
        }
    }
}

/// The services by name, and which of them are used.
#[derive(Default)]
struct Services<'c> {
    known: Vec<&'c str>,
    index: AHashMap<&'c str, bool>,
    /// They have the names that they had, and are used as they were: there is nothing to find.
    are_as_before: bool,
}

impl<'c> Services<'c> {
    fn as_before() -> Self {
        Self { are_as_before: true, ..Self::default() }
    }

    fn gather(services: &'c [Spanned<Arc<Service>>], root: &'c Node, cx: &mut Cx) -> Services<'c> {
        unique(services.iter().map(|service| &service.name), "service", cx);
        let written = root.get("services").and_then(Node::as_sequence).unwrap_or_default();
        let name_of = |node: &'c Node| Some(node.get("name")?.as_scalar()?.text.as_str());
        // What stood in the file before is in the tree no more, and was decoded.
        let decoded = services.iter().map(|service| service.name.as_str());
        let is_known = |node: &Node| matches!(node.value, schema::Value::Known(_));
        let known: Vec<&str> = match written.iter().any(is_known) {
            true => decoded.collect(),
            false => written.iter().filter_map(name_of).collect(),
        };
        let index = known.iter().map(|name| (*name, false)).collect();
        Services { known, index, are_as_before: false }
    }

    fn refer(&mut self, name: &Spanned<Name>, cx: &mut Cx) {
        if self.are_as_before {
            return;
        }
        if let Some(used) = self.index.get_mut(name.as_str()) {
            *used = true;
            return;
        }
        let full = cx.diagnostics.is_full();
        let item = cx.report(codes::UNKNOWN_SERVICE, name.span, format!("there is no service `{}`", name.as_str()));
        if !full {
            item.suggest(name.as_str(), self.known.iter().copied());
        }
    }

    fn is_used(&self, name: &str) -> bool {
        self.are_as_before || self.index.get(name).copied().unwrap_or(false)
    }
}

/// What a route that is good has to do with services, which may be others now.
fn refer(route: &Route, services: &mut Services, cx: &mut Cx) {
    referred(route).for_each(|name| services.refer(name, cx));
}

/// The services that a route names.
fn referred(route: &Route) -> impl Iterator<Item = &Spanned<Name>> {
    let of_split = route.services.iter().map(|part| &part.name);
    let mirror = route.mirror.as_ref().map(|mirror| &mirror.service);
    route.service.iter().chain(of_split).chain(mirror)
}

fn check_route(route: &Spanned<Arc<Route>>, services: &mut Services, cx: &mut Cx) {
    let place = route.path_text().map_or(route.span, |(_, span)| span).or(route.span);
    let whole = !cx.diagnostics.has_errors_within(route.span);
    match route.path_forms() {
        1 => {}
        0 if !whole => {}
        0 => {
            cx.report(codes::ROUTE_PATH, place, "the route has no path")
                .hint("add one of `path`, `prefix`, `exact`, `regex`; `path: /*` takes every request");
        }
        _ => {
            cx.report(codes::ROUTE_PATH, place, "the route has more than one of `path`, `prefix`, `exact`, `regex`")
                .hint("keep one of them, or write several routes");
        }
    }
    check_answers(&route.answers(), place, whole, services, cx);
    check_path_changes(route, place, cx);
    let answered_here = matches!(route.answer(), Some(Answer::Redirect(_) | Answer::Respond(_)));
    if answered_here && (route.strip_prefix || route.rewrite.is_some()) {
        cx.report(codes::NO_EFFECT, place, "the path of a request that is not passed on is changed in vain")
            .hint("take `strip_prefix` or `rewrite` out");
    }
    check_upgrade(route, answered_here, cx);
    if let Some(mirror) = &route.mirror {
        check_mirror(route, mirror, answered_here, services, cx);
    }
}

fn check_mirror(route: &Route, mirror: &Spanned<Mirror>, answered_here: bool, services: &mut Services, cx: &mut Cx) {
    services.refer(&mirror.service, cx);
    if answered_here {
        cx.report(codes::NO_EFFECT, mirror.span, "what the gateway answers itself is not mirrored")
            .hint("take `mirror` out");
    }
    let name = mirror.service.as_str();
    let of_split = route.services.iter().map(|part| part.name.as_str());
    if route.service.iter().map(|own| own.as_str()).chain(of_split).any(|own| own == name) {
        let message = format!("`{name}` answers this route: it would get its requests twice");
        cx.report(codes::CONTRADICTION, mirror.service.span, message).hint("mirror to another service");
    }
}

fn check_upgrade(route: &Route, answered_here: bool, cx: &mut Cx) {
    if let Some(first) = route.upgrade.first().filter(|_| answered_here) {
        cx.report(codes::NO_EFFECT, first.span, "no tunnel is opened where the gateway answers itself")
            .hint("take `upgrade` out");
    }
    if let Some(tunnel) = route.tunnel.as_ref().filter(|_| route.upgrade.is_empty()) {
        cx.report(codes::NO_EFFECT, tunnel.span, "`tunnel` has no effect on a route without `upgrade`")
            .hint("add `upgrade: [websocket]`");
    }
}

fn check_path_changes(route: &Route, place: Span, cx: &mut Cx) {
    if route.strip_prefix
        && let Some(rewrite) = &route.rewrite
    {
        cx.report(codes::CONTRADICTION, rewrite.span, "`strip_prefix` and `rewrite` both change the path")
            .hint("keep one of them; `rewrite: {prefix: /}` strips and replaces");
    }
    let has_prefix = route.prefix.is_some() || route.path.as_ref().is_some_and(|path| path.as_str().ends_with("/*"));
    if route.strip_prefix && route.path_forms() == 1 && !has_prefix {
        cx.report(codes::CONTRADICTION, place, "`strip_prefix` needs a path that ends in `/*`, or a `prefix`")
            .hint("use `rewrite` for other paths");
    }
    if route.raw_prefix && route.path_forms() == 1 && !has_prefix {
        cx.report(codes::NO_EFFECT, place, "`raw_prefix` has no effect on a path that is no prefix");
    }
}

fn check_default_route(route: &Spanned<DefaultRoute>, services: &mut Services, cx: &mut Cx) {
    let whole = !cx.diagnostics.has_errors_within(route.span);
    check_answers(&route.answers(), route.span, whole, services, cx);
}

fn check_answers(answers: &[Answer], place: Span, whole: bool, services: &mut Services, cx: &mut Cx) {
    match answers.len() {
        1 => {}
        // The answer may be among what could not be read.
        0 if !whole => {}
        0 => {
            cx.report(codes::ROUTE_ANSWER, place, "nothing answers this route")
                .hint("add one of `service`, `services`, `redirect`, `respond`, `service_url`");
        }
        _ => {
            cx.report(codes::ROUTE_ANSWER, place, "the route has more than one answer")
                .hint("keep one of `service`, `services`, `redirect`, `respond`");
        }
    }
    for answer in answers {
        match answer {
            Answer::Service { name, .. } => {
                if let Some(name) = name {
                    services.refer(name, cx);
                }
            }
            Answer::Split(parts) => {
                for part in *parts {
                    services.refer(&part.name, cx);
                }
                if parts.iter().all(|part| part.weight.get() == 0) {
                    let span = parts.first().map_or(place, |part| part.span);
                    cx.report(codes::ZERO_WEIGHTS, span, "all weights are 0, so that no service gets a request");
                }
            }
            Answer::Redirect(_) | Answer::Respond(_) => {}
        }
    }
}

fn warn_unused(config: &Config, services: &Services, cx: &mut Cx) {
    if cx.diagnostics.has_errors() || services.are_as_before {
        return;
    }
    for service in &config.services {
        let name = &service.name;
        if !services.is_used(name.as_str()) {
            cx.report(codes::NO_EFFECT, name.span, format!("nothing uses the service `{}`", name.as_str()));
        }
    }
}

fn unique<'c>(names: impl Iterator<Item = &'c Spanned<Name>>, what: &str, cx: &mut Cx) {
    let mut seen: AHashMap<&str, Span> = AHashMap::with_capacity(names.size_hint().1.unwrap_or_default());
    for name in names {
        if let Some(first) = seen.get(name.as_str()) {
            let message = format!("there are two {what}s called `{}`", name.as_str());
            let hint = format!("the first stands in line {}", first.line);
            cx.report(codes::DUPLICATE_NAME, name.span, message).hint(hint);
        } else {
            seen.insert(name.as_str(), name.span);
        }
    }
}
