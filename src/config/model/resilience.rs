//! `ejection`, `panic` and `retries` of services, `retries` of routes.

use super::route::Respond;
use crate::schema::types::{ByteSize, Duration, HeaderName, HeaderValue, Int, Map, Method, Name, Secret};
use crate::schema::{Cx, Node, Spanned, codes};
use crate::{config_enum, config_struct};

config_struct! {
    /// When requests leave an endpoint alone that failed (R112, F22, F23, F26). What all workers see counts together.
    #[check(check_ejection)]
    pub struct EjectionConfig {
        /// After so many attempts in a row that brought no whole answer: refused, reset, closed, garbage, too late. 0:
        /// never.
        failures: Int<0, 1000> = "3",
        /// After so many answers 502, 503 or 504 in a row, failures counted too. 0: never.
        gateway_errors: Int<0, 1000> = "5",
        /// After so many answers 5xx of any kind in a row, failures counted too. 0: never.
        server_errors: Int<0, 1000> = "0",
        /// How long the first time; twice as long each further time.
        base: Duration = "10s",
        /// How long at most.
        max: Duration = "300s",
        /// Part of the pool that may be out at once, in percent. A single endpoint is never ejected.
        percent_max: Int<0, 100> = "50",
        /// Ejects also those whose share of successes is far below that of the others.
        outliers: Option<Outliers>,
    }
}

fn check_ejection(ejection: &EjectionConfig, node: &Node, cx: &mut Cx) {
    if ejection.max.get() < ejection.base.get() {
        let span = node.entry("max").map_or(node.span, |entry| entry.value.span);
        cx.report(codes::CONTRADICTION, span, "`max` is less than `base`");
    }
}

config_struct! {
    /// Endpoints whose share of successes is far below that of the others.
    pub struct Outliers {
        /// How long is counted.
        window: Duration = "10s",
        /// Requests to an endpoint in the window, over all workers, for it to be judged.
        requests_min: Int<1, 1_000_000> = "100",
        /// Endpoints with so many, for any to be judged.
        endpoints_min: Int<2, 4096> = "5",
        /// How many standard deviations below the mean is too few.
        deviations: f64 = "1.9",
    }
}

config_struct! {
    /// What happens when most of a pool is out (F27).
    pub struct PanicConfig {
        /// Below this part of healthy endpoints, in percent; 0: never.
        threshold: Int<0, 100> = "50",
        /// Who is asked then.
        then: PanicMode = "spread",
    }
}

config_enum! {
    /// Who is asked when most of a pool is out.
    pub enum PanicMode {
        /// All, healthy or not: the checks may be wrong, and the few that are left would break down. Retries still go
        /// to healthy ones.
        Spread = "spread",
        /// Only the healthy ones.
        Fail = "fail",
    }
}

config_struct! {
    /// Stops asking a service that fails, and tries it again after a while with a few requests (R117-R128, C24). All
    /// workers share its state. `{}` takes all defaults.
    pub struct CircuitBreaker {
        /// So many failures in a row open it (R118).
        failure_threshold: Int<1, 1_000_000> = "5",
        /// How long it stays open (R119).
        timeout | recovery_timeout: Duration = "60s",
        /// So many requests at once try the service then; as many successes close the breaker, one failure opens it
        /// again (R120-R122).
        half_open_requests: Int<1, 1000> = "3",
        /// Statuses of the service that are failures, besides an endpoint that cannot be reached, is too late or breaks
        /// off (R124, C25). 4xx never are.
        statuses: Vec<Int<500, 599>> = "[502, 503, 504]",
    }
}

config_struct! {
    /// Keeps each client at one endpoint for as long as that can be asked. The cookie holds the endpoint's identity and
    /// a signature: it survives restarts, and endpoints that come and go.
    #[check(check_sticky)]
    pub struct StickyConfig {
        /// The cookie's name.
        cookie: String = "ringway_route",
        /// How long browsers keep it; until they close when left out.
        max_age: Option<Duration<1000>>,
        /// What it is signed with; the same on all gateways that serve the same clients.
        secret: Secret,
    }
}

fn check_sticky(sticky: &StickyConfig, node: &Node, cx: &mut Cx) {
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!#$%&'*+^`|~".contains(&byte);
    if sticky.cookie.is_empty() || !sticky.cookie.bytes().all(legal) {
        let span = node.entry("cookie").map_or(node.span, |entry| entry.value.span);
        cx.report(codes::BAD_VALUE, span, "this is no name of a cookie (RFC 6265)");
    }
    if sticky.secret.expose().len() < 16 {
        let span = node.entry("secret").map_or(node.span, |entry| entry.value.span);
        cx.report(codes::BAD_VALUE, span, "a secret for signing has at least 16 characters");
    }
}

config_struct! {
    /// Asks each endpoint now and then how it is, from one place for the whole process (R108-R111, C26).
    #[check(check_health_check)]
    #[shorthand(path)]
    pub struct HealthCheck {
        /// What is asked.
        kind | type: CheckKind = "http",
        /// The path, with its query.
        path: String = "/health",
        /// The method.
        method: Method = "GET",
        /// The `Host`; the endpoint's own address when left out.
        host: Option<String>,
        /// With `kind: grpc`: the service that gRPC's health service is asked for, as `helloworld.Greeter`; the whole
        /// server when left out.
        service | grpc_service: Option<String>,
        /// Further header fields.
        headers: Map<HeaderName, HeaderValue> = "{}",
        /// Statuses that are a success.
        statuses | expected_statuses: Vec<Int<100, 599>> = "[200]",
        /// A text that the body must hold, within its first 64 KiB as they come.
        body: Option<String>,
        /// Another port than the one that requests go to.
        port: Option<Int<1, 65535>>,
        /// From one check of an endpoint to its next (R109).
        interval: Duration = "5s",
        /// By how much that varies either way, in percent.
        jitter: Int<0, 100> = "10",
        /// A whole check.
        timeout: Duration = "2s",
        /// Successes in a row that make an endpoint healthy.
        rise | healthy_threshold: Int<1, 1000> = "2",
        /// Failures in a row that make it unhealthy (R110).
        fall | unhealthy_threshold: Int<1, 1000> = "3",
        /// What endpoints are before their checks have said so (R111).
        initial: CheckInitial = "healthy",
    }
}

fn check_health_check(check: &HealthCheck, node: &Node, cx: &mut Cx) {
    let foreign: &[&str] = match check.kind {
        CheckKind::Http => &["service", "grpc_service"],
        CheckKind::Grpc => &["path", "method", "statuses", "expected_statuses", "body"],
        CheckKind::Tcp => &["service", "grpc_service", "headers", "host", "body"],
    };
    for entry in foreign.iter().filter_map(|key| node.entry(key)) {
        let message = format!("it means nothing to a check of the kind `{}`", check.kind.as_str());
        cx.report(codes::CONTRADICTION, entry.value.span, message);
    }
    let legal = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    for (key, text) in [("path", Some(&check.path)), ("host", check.host.as_ref())] {
        let span = node.entry(key).map_or(node.span, |entry| entry.value.span);
        if text.is_some_and(|text| !legal(text)) || (key == "path" && !check.path.starts_with('/')) {
            cx.report(codes::BAD_VALUE, span, format!("`{key}` cannot be sent as it stands"));
        }
    }
}

config_enum! {
    /// What a check asks.
    pub enum CheckKind {
        /// An answer to a request.
        Http = "http",
        /// A connection.
        Tcp = "tcp",
        /// gRPC's own health service (`grpc.health.v1.Health/Check`), over HTTP/2: whether it says SERVING.
        Grpc = "grpc",
    }
}

config_enum! {
    /// What endpoints are before their checks have said so.
    pub enum CheckInitial {
        /// They get requests.
        Healthy = "healthy",
        /// They get none.
        Unhealthy = "unhealthy",
    }
}

config_enum! {
    /// Which circuit breaker a route goes through (R19).
    pub enum BreakerChoice {
        /// The service's, if it has one.
        Service = "service" | "true",
        /// None.
        Off = "off" | "false",
        /// One of its own, with the numbers of the service's, or with the defaults.
        Own = "own",
    }
}

config_struct! {
    /// What answers in place of a service that does not: its breaker is open, it has no endpoint that can be asked, or
    /// all attempts failed before the client saw anything (R128, R139, R140).
    #[check(check_fallback)]
    pub struct Fallback {
        /// Another service. A request whose body has gone out does not go there.
        service: Option<Spanned<Name>>,
        /// A fixed answer.
        respond: Option<Respond>,
    }
}

fn check_fallback(fallback: &Fallback, node: &Node, cx: &mut Cx) {
    if fallback.service.is_some() == fallback.respond.is_some() {
        cx.report(codes::ALTERNATIVES, node.span, "a fallback has one of `service` or `respond`");
    }
}

config_struct! {
    /// When a request is tried again, and how often (R129-R131, C50).
    #[check(check_retries)]
    #[shorthand(attempts)]
    pub struct Retries {
        /// How many times a request is tried in all; 1 never repeats one. Above that, endpoints that refuse the
        /// connection do not count while there are others to ask.
        attempts: Int<1, 16> = "2",
        /// From the beginning of an attempt to the head of its response. When it is over, another is made, if the
        /// request may be repeated.
        per_try_timeout: Option<Duration>,
        /// What is repeated.
        on: Vec<RetryOn> = "[connect, reset]",
        /// Also responses with these statuses, as `[502, 503]`. They are the endpoint's own: a 500 is passed on unless
        /// it stands here.
        statuses: Vec<Int<400, 599>> = "[]",
        /// Also responses with these codes in `grpc-status`, as `[14]` for UNAVAILABLE.
        grpc_codes: Vec<Int<1, 16>> = "[]",
        /// Whether requests are repeated whose method is not idempotent (POST, PATCH), after they may have reached an
        /// endpoint. They may then be done twice.
        any_method: bool = "false",
        /// Whether a request with `Idempotency-Key` is taken for idempotent.
        idempotency_key: bool = "true",
        /// Whether the same endpoint is asked again where there is no other.
        same_endpoint: bool = "false",
        /// How much of a request body is held to be sent again; a request with a longer one is not repeated.
        replay_bytes_max: ByteSize = "64KiB",
        /// How long is waited before. The first retry at another endpoint, after a failure without a response, waits
        /// for nothing.
        backoff: BackoffConfig = "{}",
        /// How many retries there may be, so that they do not make a bad hour worse (F25).
        budget: BudgetConfig = "{}",
        /// Sends a request to another endpoint as well when the first one is slow; the first answer wins. Only what may
        /// be repeated, and within `budget`; a body that fits `replay_bytes_max`, and 64 KiB, is taken in before it is
        /// sent.
        hedge: Option<HedgeConfig>,
        /// A request header that tells endpoints how many milliseconds are left (R133), as `X-Request-Timeout-Ms`.
        deadline_header: Option<HeaderName>,
    }
}

config_struct! {
    /// When a request goes to a second endpoint before the first one has answered.
    #[shorthand(after)]
    pub struct HedgeConfig {
        /// How long the first one has.
        after: Duration,
        /// In its place, what so many percent of the service's answers take, as each worker has seen a hundred.
        percentile: Option<Int<50, 99>>,
        /// Copies at most, each after the same time.
        max: Int<1, 3> = "1",
    }
}

fn check_retries(retries: &Retries, node: &Node, cx: &mut Cx) {
    let by_answer = !retries.statuses.is_empty() || !retries.grpc_codes.is_empty() || retries.per_try_timeout.is_some();
    if retries.attempts.get() == 1 && by_answer {
        let message = "with `attempts: 1` nothing is repeated";
        cx.report(codes::CONTRADICTION, node.span, message)
            .hint("`attempts` counts the first try: write 2 for one retry");
    }
}

config_enum! {
    /// What is repeated.
    pub enum RetryOn {
        /// An endpoint that refuses the connection or cannot be reached: nothing was sent.
        Connect = "connect",
        /// A connection that ends, or brings no HTTP, before a response: idempotent requests only.
        Reset = "reset",
        /// An endpoint that does not answer within `first_byte`: idempotent requests only.
        Timeout = "timeout",
    }
}

config_struct! {
    /// The pause before a retry: any time up to the one that results (full jitter).
    pub struct BackoffConfig {
        /// How it grows (R130).
        kind: BackoffKind = "exponential",
        /// The first.
        base: Duration = "25ms",
        /// The longest.
        max: Duration = "250ms",
    }
}

config_enum! {
    /// How a pause grows.
    pub enum BackoffKind {
        /// It doubles.
        Exponential = "exponential",
        /// By as much each time.
        Linear = "linear",
    }
}

config_struct! {
    /// How many retries there may be.
    pub struct BudgetConfig {
        /// Part of the requests of the last ten seconds, in percent.
        percent: Int<0, 100> = "20",
        /// So many a second besides, in the whole node.
        per_second: Int<0, 1_000_000> = "10",
        /// So many at once besides, in each worker.
        least: Int<0, 1000> = "3",
    }
}
