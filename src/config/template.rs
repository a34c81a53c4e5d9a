//! The `api_gateway` document (R267-R278), turned into the native form before it is decoded.
//!
//! Values keep their places on the way, so that messages about the native form point at the template's lines.

use std::sync::Arc;

use super::model::{Admin, CircuitBreaker, LoadBalancer, LogFormat, LogLevel, Service};
use crate::schema::types::{Duration, Int, Method, Name, PathPattern, Raw};
use crate::schema::{Cx, Decode, Entry, NOT_BUILT, Node, Span, Spanned, codes};
use crate::{config_enum, config_struct};

/// The key that tells a template from a native file.
pub(super) const KEY: &str = "api_gateway";

config_struct! {
    /// A file in the form of the `api_gateway` template.
    pub(super) struct Template {
        /// The template.
        api_gateway: ApiGateway,
        /// Services with endpoints, in the native form; those that only routes name have none.
        services: Vec<Spanned<Arc<Service>>> = "[]",
        /// The listener for operators, in the native form.
        admin: Option<Admin>,
    }
}

config_struct! {
    /// The `api_gateway` template.
    pub(super) struct ApiGateway {
        /// Where clients connect.
        server: TemplateServer = "{}",
        /// Which requests go where.
        routing: Routing = "{}",
        /// Policies for every route, in this order.
        plugins: Vec<Plugin> = "[]",
        /// Where endpoints come from. Not in this build yet.
        service_discovery: Option<Raw>,
        /// When services are left alone that fail (R275): that of every service without one of its own.
        circuit_breaker: Option<CircuitBreaker>,
        /// Metrics, tracing, logging.
        observability: Observability = "{}",
    }
}

config_struct! {
    /// Where clients connect (R267).
    pub(super) struct TemplateServer {
        /// The port.
        port: Int<0, 65535> = "8080",
        /// The address.
        host: String = "0.0.0.0",
        /// The whole time of a request.
        timeout: Duration = "30s",
    }
}

config_struct! {
    /// Which requests go where (R268).
    pub(super) struct Routing {
        /// The routes.
        routes: Vec<TemplateRoute> = "[]",
    }
}

config_struct! {
    /// One route (R268).
    pub(super) struct TemplateRoute {
        /// The path, as in native routes.
        path: PathPattern,
        /// The service that answers.
        service: Spanned<Name>,
        /// Methods; any when left out.
        methods: Vec<Method> = "[]",
        /// Whether the literal part of the path is removed.
        strip_prefix: bool = "false",
        /// How an endpoint is chosen.
        load_balancer: Option<LoadBalancer>,
    }
}

config_struct! {
    /// One policy (R269).
    pub(super) struct Plugin {
        /// Its name: `rate_limiting`, or a policy of this build.
        name: Spanned<String>,
        /// Its settings.
        config: Raw = "{}",
    }
}

config_struct! {
    /// The settings of the plugin `rate_limiting` (R271, C9).
    pub(super) struct RateLimiting {
        /// How many requests in a minute, in the long run.
        requests_per_minute: Int<1, 1_000_000_000> = "60",
        /// How many at once; as many as in a minute when left out.
        burst: Option<Int<1, 1_000_000_000>>,
        /// Whose requests are counted together.
        by: LimitBy = "ip",
    }
}

config_enum! {
    /// Whose requests are counted together (R76-R80).
    pub(super) enum LimitBy {
        /// The user's.
        UserId = "user_id" | "user",
        /// The client address's.
        Ip = "ip" | "client_ip" | "ip_address",
        /// The API key's.
        ApiKey = "api_key",
        /// The route's.
        Route = "route" | "endpoint",
        /// All.
        Global = "global",
    }
}

config_struct! {
    /// Metrics, tracing, logging (R276).
    pub(super) struct Observability {
        /// What is counted.
        metrics: TemplateMetrics = "{}",
        /// Traces of single requests. Not in this build yet.
        tracing: Option<Tracing>,
        /// What is written.
        logging: Option<TemplateLogging>,
    }
}

config_struct! {
    /// What is counted.
    pub(super) struct TemplateMetrics {
        /// Whether anything is.
        enabled: bool = "true",
        /// Under which path of the admin listener it is shown.
        endpoint: PathPattern = "/metrics",
    }
}

config_struct! {
    /// Traces of single requests.
    pub(super) struct Tracing {
        /// Whether there are any.
        enabled: bool = "false",
        /// The share of requests.
        sample_rate: f64 = "1",
        /// Where they are sent.
        exporter: Option<Raw>,
    }
}

config_struct! {
    /// What is written.
    pub(super) struct TemplateLogging {
        /// The least important messages that are written.
        level: LogLevel = "info",
        /// How; also turns the access log on.
        format: LogFormat = "json",
    }
}

/// The native document that means the same as `root`; none when it cannot be read at all.
///
/// Mistakes are found here and again in the native form; diagnostics keep one of two equal ones.
pub(super) fn convert(root: &Node, cx: &mut Cx) -> Option<Node> {
    let template = Template::decode(root, cx)?;
    let gateway = &template.api_gateway;
    let source = root.get(KEY)?;
    warn_not_built(gateway, source, cx);
    let server = source.get("server").map_or(source.span, |node| node.span);
    let address = format!("{}:{}", bracketed(&gateway.server.host), gateway.server.port.get());
    let listener = map(server, vec![("name", Node::text("main", server)), ("address", Node::text(address, server))]);
    let timeout = scalar_of(&gateway.server.timeout, server);
    let mut entries = vec![
        ("server", map(server, vec![("timeout", timeout)])),
        ("listeners", Node::sequence(vec![listener], server)),
        ("services", services(&template, root, source.get("circuit_breaker"))),
        ("routes", source.get("routing").and_then(|node| node.get("routes")).cloned().unwrap_or_else(|| list(server))),
        ("policies", policies(gateway, cx)),
        ("metrics", metrics(&gateway.observability)),
    ];
    if let Some(logging) = &gateway.observability.logging {
        entries.push(("logging", logging_node(logging)));
    }
    if let Some(admin) = root.get("admin") {
        entries.push(("admin", admin.clone()));
    }
    Some(map(root.span, entries))
}

fn warn_not_built(gateway: &ApiGateway, source: &Node, cx: &mut Cx) {
    let mut warn = |key: &str, parent: &Node, meaning: &str| {
        let span = parent.entry(key).map_or(parent.span, |entry| entry.key_span);
        cx.report(codes::TEMPLATE_NOT_BUILT, span, format!("`{key}` is not in this build yet: {meaning}"));
    };
    if gateway.service_discovery.is_some() {
        warn("service_discovery", source, "services have only the endpoints that `services` lists");
    }
    if gateway.observability.tracing.as_ref().is_some_and(|tracing| tracing.enabled)
        && let Some(parent) = source.get("observability")
    {
        warn("tracing", parent, "no traces are made");
    }
}

/// The services that are written, and one without endpoints for each other name that a route uses.
fn services(template: &Template, root: &Node, breaker: Option<&Node>) -> Node {
    let written = root.get("services");
    let mut items = written.and_then(Node::as_sequence).map(<[Node]>::to_vec).unwrap_or_default();
    let known = template.services.iter().map(|service| service.name.as_str());
    let mut known: std::collections::HashSet<&str> = known.collect();
    for route in &template.api_gateway.routing.routes {
        let name = &route.service;
        if known.insert(name.as_str()) {
            items.push(map(name.span, vec![("name", Node::text(name.as_str(), name.span))]));
        }
    }
    if let Some(breaker) = breaker {
        items.iter_mut().for_each(|service| add_breaker(service, breaker));
    }
    Node::sequence(items, written.map_or(root.span, |node| node.span))
}

/// Gives a service the template's breaker, unless it has its own.
fn add_breaker(service: &mut Node, breaker: &Node) {
    if let Some(entries) = service.as_mapping().filter(|_| service.get("circuit_breaker").is_none()) {
        let mut entries = entries.to_vec();
        entries.push(Entry::new("circuit_breaker", breaker.clone()));
        *service = Node::mapping(entries, service.span);
    }
}

fn policies(gateway: &ApiGateway, cx: &mut Cx) -> Node {
    let items = gateway.plugins.iter().filter_map(|plugin| policy(plugin, cx)).collect();
    Node::sequence(items, Span::NOWHERE)
}

fn policy(plugin: &Plugin, cx: &mut Cx) -> Option<Node> {
    let (name, span) = (plugin.name.as_str(), plugin.name.span);
    let policies = cx.policies;
    let built = |name: &str| policies.iter().any(|kind| kind.name == name);
    if name == "rate_limiting" && built("rate_limit") {
        return rate_limit(plugin, cx);
    }
    if built(name) {
        return Some(map(span, vec![(name, plugin.config.0.clone())]));
    }
    if name == "rate_limiting" || NOT_BUILT.contains(&name) {
        let meaning = match name {
            "authentication" => "REQUESTS ARE NOT AUTHENTICATED",
            "rate_limiting" => "requests are not limited",
            _ => "it does nothing",
        };
        cx.report(codes::TEMPLATE_NOT_BUILT, span, format!("the plugin `{name}` is not in this build yet: {meaning}"));
        return None;
    }
    let known = policies.iter().map(|kind| kind.name).chain(NOT_BUILT.iter().copied()).chain(["rate_limiting"]);
    cx.report(codes::UNKNOWN_POLICY, span, format!("there is no plugin `{name}`")).suggest(name, known);
    None
}

/// C9: the rate is `requests_per_minute` in a minute, the bucket holds `burst`.
fn rate_limit(plugin: &Plugin, cx: &mut Cx) -> Option<Node> {
    let node = &plugin.config.0;
    let limit = RateLimiting::decode(node, cx)?;
    let per_minute = limit.requests_per_minute.get();
    let burst = limit.burst.map_or(per_minute, Int::get);
    let key = match limit.by {
        LimitBy::Ip => "client_ip",
        LimitBy::Route => "route",
        LimitBy::Global => "global",
        LimitBy::UserId | LimitBy::ApiKey => {
            // Without authentication the header is what the client says, so that a forger had no limit (C16).
            let span = node.get("by").map_or(node.span, |by| by.span);
            let message = format!("`by: {}` needs authentication, which is not in this build yet", limit.by.as_str());
            cx.report(codes::TEMPLATE_NOT_BUILT, span, message).hint("requests are counted by client address");
            "client_ip"
        }
    };
    let span = plugin.name.span;
    let settings = map(
        node.span,
        vec![
            ("rate", Node::text(format!("{per_minute}/m"), span)),
            ("burst", Node::plain(burst.to_string(), span)),
            ("key", Node::text(key, span)),
        ],
    );
    Some(map(span, vec![("rate_limit", settings)]))
}

fn metrics(observability: &Observability) -> Node {
    let metrics = &observability.metrics;
    let enabled = Node::plain(metrics.enabled.to_string(), Span::NOWHERE);
    let endpoint = scalar_of(&metrics.endpoint, Span::NOWHERE);
    map(Span::NOWHERE, vec![("enabled", enabled), ("endpoint", endpoint)])
}

fn logging_node(logging: &TemplateLogging) -> Node {
    let word = |word: &str| Node::text(word, Span::NOWHERE);
    let access = if logging.format == LogFormat::Json { "json" } else { "common" };
    let entries = vec![
        ("level", word(logging.level.as_str())),
        ("format", word(logging.format.as_str())),
        ("access_log", word(access)),
    ];
    map(Span::NOWHERE, entries)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') { format!("[{host}]") } else { host.to_owned() }
}

fn scalar_of<T: crate::schema::types::ScalarType>(value: &T, span: Span) -> Node {
    Node::text(value.show(), span)
}

fn list(span: Span) -> Node {
    Node::sequence(Vec::new(), span)
}

fn map(span: Span, entries: Vec<(&str, Node)>) -> Node {
    Node::mapping(entries.into_iter().map(|(key, value)| Entry::new(key, value)).collect(), span)
}
