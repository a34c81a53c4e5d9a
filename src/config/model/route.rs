//! `routes` and `default_route`.

use super::resilience::{BreakerChoice, Retries};
use super::service::{HostMode, LoadBalancer};
use super::tunnel::{Protocol, Tunnel, WebSocketPing};
use crate::schema::types::{
    ByteSize, Cidr, Duration, HeaderName, HeaderValue, HostPattern, Int, Map, Method, Name, PathPattern, Pattern,
    Percent, ServiceUrl,
};
use crate::schema::{Cx, Node, Policy, Span, Spanned, codes};
use crate::{config_enum, config_struct};

config_enum! {
    /// How the route is chosen when several match.
    pub enum RouteOrder {
        /// The most specific: exact path, longest literal, parameters, regular expressions by priority.
        Specificity = "specificity",
        /// The first in the file, as lists from other gateways mean it.
        Strict = "strict",
    }
}

config_struct! {
    /// Which requests go where (R1).
    pub struct Route {
        /// Its name in logs and metrics; made from its path when left out.
        name: Option<Spanned<Name>>,
        /// The path: exact, with `{name}` for one segment, `*` for any one segment, and a last `/*` for everything
        /// below (R2-R4, R6).
        path: Option<Spanned<PathPattern>>,
        /// Everything at and below this path.
        prefix: Option<Spanned<PathPattern>>,
        /// This path, without special characters.
        exact: Option<Spanned<PathPattern>>,
        /// A regular expression on the path (R5).
        regex: Option<Spanned<Pattern>>,
        /// Whether the prefix may end inside a segment: `/api/users` then also takes `/api/users2` (C30).
        raw_prefix: bool = "false",
        /// Host names (R8); any when left out.
        hosts: Vec<Spanned<HostPattern>> = "[]",
        /// Methods (R7); any when left out.
        methods: Vec<Spanned<Method>> = "[]",
        /// Header fields that must match, by name. A bare text means `{exact: …}` (R9).
        headers: Map<HeaderName, ValueMatch> = "{}",
        /// Query parameters that must match, by name.
        query: Map<String, ValueMatch> = "{}",
        /// Cookies that must match, by name.
        cookies: Map<String, ValueMatch> = "{}",
        /// Client addresses, one of which must match.
        client_addresses: Vec<Cidr> = "[]",
        /// Which of several routes wins that are equally specific: the higher.
        priority: Int<0, 1_000_000> = "0",
        /// The service that answers.
        service: Option<Spanned<Name>>,
        /// Several services that share the requests by weight.
        services: Vec<Spanned<WeightedService>> = "[]",
        /// Where the client is sent instead. A bare text means `{to: …}`.
        redirect: Option<Redirect>,
        /// What the gateway answers itself. A bare number means `{status: …}`.
        respond: Option<Respond>,
        /// Where requests go when the service has no endpoints, or when no service is named (R13, C55).
        service_url: Option<Spanned<ServiceUrl>>,
        /// Whether the literal part of the path that matched is removed before the request goes on (R11, C33).
        strip_prefix: bool = "false",
        /// How the path changes on its way (R12, C34).
        rewrite: Option<Spanned<Rewrite>>,
        /// In place of the service's own (R14).
        load_balancer: Option<LoadBalancer>,
        /// The whole time of a request; the server's when left out (R17).
        timeout: Option<Duration>,
        /// For a request body; the listener's when left out.
        body_bytes_max: Option<ByteSize>,
        /// Which circuit breaker its requests go through (R19).
        circuit_breaker: BreakerChoice = "service",
        /// Only endpoints with these `metadata`, as `{version: v2}`: a subset of the service.
        endpoints: Map<String, String> = "{}",
        /// In place of the service's own, all of them: `retries: 1` repeats nothing (R131).
        retries: Option<Retries>,
        /// In place of the service's own.
        host: Option<HostMode>,
        /// Protocols that requests may change to with `Upgrade`, as `websocket`; others stay what they are (R256).
        upgrade: Vec<Spanned<Protocol>> = "[]",
        /// How long requests that have changed may go on.
        tunnel: Option<Spanned<Tunnel>>,
        /// Pings of the gateway's own in WebSockets, to a side that is silent; none when left out. Without them no byte
        /// of a WebSocket is looked at.
        websocket_ping: Option<Spanned<WebSocketPing>>,
        /// Whether calls in gRPC-Web, as browsers make them, are translated for an endpoint that speaks gRPC.
        grpc_web: bool = "false",
        /// Where copies of its requests go as well, whose answers nobody gets. A bare text names the service.
        mirror: Option<Spanned<Mirror>>,
        /// Policies of this route, after the global ones (R1, R24).
        policies: Vec<Policy> = "[]",
    }
}

config_struct! {
    /// Copies of a route's requests, for a service that is to be tried with real ones. They are marked with
    /// `X-Mirrored: true`; a request that comes with that field is not copied again.
    #[shorthand(service)]
    pub struct Mirror {
        /// Where they go.
        service: Spanned<Name>,
        /// How many of the requests are copied.
        percent: Percent = "100%",
        /// Copies that are under way with the service, over all workers; while there are as many, requests are not
        /// copied.
        requests_max: Int<1, 65_536> = "64",
        /// A request with a longer body is not copied.
        body_bytes_max: ByteSize = "64KiB",
        /// A whole copy, to the end of its answer.
        timeout: Duration = "5s",
    }
}

config_struct! {
    /// What answers requests for paths that no route knows.
    pub struct DefaultRoute {
        /// The service that answers.
        service: Option<Spanned<Name>>,
        /// Several services that share the requests by weight.
        services: Vec<Spanned<WeightedService>> = "[]",
        /// Where the client is sent instead. A bare text means `{to: …}`.
        redirect: Option<Redirect>,
        /// What the gateway answers itself. A bare number means `{status: …}`.
        respond: Option<Respond>,
        /// Where requests go when the service has no endpoints, or when no service is named.
        service_url: Option<Spanned<ServiceUrl>>,
        /// The whole time of a request; the server's when left out.
        timeout: Option<Duration>,
        /// For a request body; the listener's when left out.
        body_bytes_max: Option<ByteSize>,
        /// Policies of this route, after the global ones.
        policies: Vec<Policy> = "[]",
    }
}

config_struct! {
    /// One of several services that share a route's requests, for canary releases.
    #[shorthand(name)]
    pub struct WeightedService {
        /// The service.
        name: Spanned<Name>,
        /// Its share of the sum of all weights.
        weight: Int<0, 1_000_000> = "1",
    }
}

config_struct! {
    /// Sends the client elsewhere.
    #[shorthand(to)]
    pub struct Redirect {
        /// The `Location`: a URL or a path; may hold `{name}` of the route's path.
        to: Spanned<HeaderValue>,
        /// The status. 307 and 308 keep the method.
        status: Int<300, 399> = "307",
    }
}

config_struct! {
    /// A fixed answer.
    #[check(check_respond)]
    #[shorthand(status)]
    pub struct Respond {
        /// The status.
        status: Int<200, 599> = "200",
        /// The body.
        body: String = "\"\"",
        /// The body's type.
        content_type: HeaderValue = "text/plain; charset=utf-8",
        /// Further header fields.
        headers: Map<HeaderName, HeaderValue> = "{}",
    }
}

/// Fields that frame a message: the gateway writes them itself.
const FRAMING_FIELDS: &[&str] =
    &["connection", "content-length", "content-type", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"];

fn check_respond(respond: &Respond, _: &Node, cx: &mut Cx) {
    for (name, _) in respond.headers.iter() {
        if FRAMING_FIELDS.contains(&name.as_str()) {
            let message = format!("the gateway writes `{}` itself", name.as_str());
            let item = cx.report(codes::BAD_VALUE, name.span, message);
            if name.as_str() == "content-type" {
                item.hint("use the key `content_type`");
            }
        }
    }
}

config_struct! {
    /// How the path changes on its way: one of `prefix`, `pattern` with `to`, or `path`.
    #[check(check_rewrite)]
    pub struct Rewrite {
        /// Replaces the literal part of the path that matched.
        prefix: Option<PathPattern>,
        /// A regular expression on the whole path; what it matches is replaced by `to`.
        pattern: Option<Pattern>,
        /// The replacement, with `$1` or `$name` for what `pattern` captured.
        to: Option<String>,
        /// The whole new path, with `{name}` for what the route's path captured.
        path: Option<PathPattern>,
    }
}

fn check_rewrite(rewrite: &Rewrite, node: &Node, cx: &mut Cx) {
    let by_pattern = rewrite.pattern.is_some() || rewrite.to.is_some();
    let forms = [rewrite.prefix.is_some(), by_pattern, rewrite.path.is_some()];
    if forms.iter().filter(|form| **form).count() != 1 {
        cx.report(codes::ALTERNATIVES, node.span, "a rewrite has one of `prefix`, `pattern` with `to`, or `path`");
    } else if by_pattern && (rewrite.pattern.is_none() || rewrite.to.is_none()) {
        cx.report(codes::ALTERNATIVES, node.span, "`pattern` and `to` belong together");
    }
}

config_struct! {
    /// What a header field, query parameter or cookie must be: one of these keys.
    #[check(check_value_match)]
    #[shorthand(exact)]
    pub struct ValueMatch {
        /// Whether it must be there (or must not).
        present: Option<bool>,
        /// The whole value.
        exact: Option<String>,
        /// The beginning of the value.
        prefix: Option<String>,
        /// A regular expression that must match somewhere in the value; anchor it with `^` and `$`.
        regex: Option<Pattern>,
    }
}

fn check_value_match(value: &ValueMatch, node: &Node, cx: &mut Cx) {
    let given = [value.present.is_some(), value.exact.is_some(), value.prefix.is_some(), value.regex.is_some()];
    if given.iter().filter(|given| **given).count() != 1 {
        cx.report(codes::ALTERNATIVES, node.span, "give one of `present`, `exact`, `prefix`, `regex`");
    }
}

/// A [`ValueMatch`] as the one condition it is.
#[derive(Clone, Copy, Debug)]
pub enum MatchKind<'a> {
    /// Must be there, or must not.
    Present(bool),
    /// The whole value.
    Exact(&'a str),
    /// The beginning of the value.
    Prefix(&'a str),
    /// Must match somewhere.
    Regex(&'a Pattern),
}

impl ValueMatch {
    /// The one condition; `Present(true)` when none is given, which the checks refuse.
    pub fn kind(&self) -> MatchKind<'_> {
        match (&self.exact, &self.prefix, &self.regex) {
            (Some(exact), _, _) => MatchKind::Exact(exact),
            (_, Some(prefix), _) => MatchKind::Prefix(prefix),
            (_, _, Some(regex)) => MatchKind::Regex(regex),
            _ => MatchKind::Present(self.present.unwrap_or(true)),
        }
    }
}

/// Who answers a route's requests.
#[derive(Clone, Copy, Debug)]
pub enum Answer<'a> {
    /// A service, a URL, or a service with a URL for when it has no endpoints. At least one is given.
    Service {
        /// The service's name.
        name: Option<&'a Spanned<Name>>,
        /// The URL.
        url: Option<&'a Spanned<ServiceUrl>>,
    },
    /// Several services by weight.
    Split(&'a [Spanned<WeightedService>]),
    /// A redirect.
    Redirect(&'a Redirect),
    /// A fixed answer.
    Respond(&'a Respond),
}

macro_rules! answers {
    ($ty:ty) => {
        impl $ty {
            /// All answers that the route names; a route that passed the checks has exactly one.
            pub fn answers(&self) -> Vec<Answer<'_>> {
                let url = self.service_url.as_ref();
                let mut all = Vec::new();
                if self.service.is_some() || url.is_some() {
                    all.push(Answer::Service { name: self.service.as_ref(), url });
                }
                if !self.services.is_empty() {
                    all.push(Answer::Split(&self.services));
                }
                all.extend(self.redirect.as_ref().map(Answer::Redirect));
                all.extend(self.respond.as_ref().map(Answer::Respond));
                all
            }

            /// The answer of a route that passed the checks.
            pub fn answer(&self) -> Option<Answer<'_>> {
                self.answers().into_iter().next()
            }
        }
    };
}

answers!(Route);
answers!(DefaultRoute);

impl Route {
    /// Its name; loading gives one to each route that has none. Empty only before that.
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("", |name| name.as_str())
    }

    /// The path as written, in whichever form, and its place.
    pub fn path_text(&self) -> Option<(&str, Span)> {
        let paths = [&self.path, &self.prefix, &self.exact];
        let plain = paths.into_iter().flatten().next().map(|path| (path.as_str(), path.span));
        plain.or_else(|| self.regex.as_ref().map(|regex| (regex.source.as_str(), regex.span)))
    }

    /// In how many forms a path is given; 1 in a route that passed the checks.
    pub fn path_forms(&self) -> usize {
        let forms = [self.path.is_some(), self.prefix.is_some(), self.exact.is_some(), self.regex.is_some()];
        forms.into_iter().filter(|given| *given).count()
    }
}
