//! `services`.

use super::discovery::Discover;
use super::endpoint_tls::EndpointTls;
use super::resilience::{CircuitBreaker, EjectionConfig, Fallback, HealthCheck, PanicConfig, Retries, StickyConfig};
use super::tunnel::ProxyVersion;
use crate::limits::{PENDING_MAX, QUEUE_TIMEOUT_MS};
use crate::policy::concurrency_limit::Adaptive;
use crate::schema::types::{ByteSize, Duration, Endpoint, Fault, Int, KeySource, Map, Name, ScalarType};
use crate::schema::{Cx, Node, Spanned, TypeDoc, codes};
use crate::{config_enum, config_scalar, config_struct};

config_struct! {
    /// A group of endpoints that answer the same requests (R96).
    pub struct Service {
        /// Its name, by which routes refer to it.
        name: Spanned<Name>,
        /// Where it runs. A bare `host:port` means `{address: …}`. A name stands for all of its addresses, and is
        /// looked up again when its time to live has passed. Without endpoints its requests get 503 (R106).
        endpoints: Vec<Spanned<EndpointConfig>> = "[]",
        /// Where further endpoints are looked up while the gateway runs (R225-R230).
        discovery: Vec<Spanned<Discover>> = "[]",
        /// How an endpoint is chosen. A bare word means `{algorithm: …}`.
        load_balancer: LoadBalancer = "round_robin",
        /// The `Host` that endpoints see: `preserve` keeps the client's, `upstream` is the endpoint's address, anything
        /// else is sent as it stands (R22).
        host: HostMode = "preserve",
        /// TLS towards endpoints; `{}` verifies them as browsers do. Without this key connections are not encrypted.
        tls: Option<Spanned<EndpointTls>>,
        /// How endpoints are spoken to.
        protocol: Spanned<EndpointWire> = "http1",
        /// Whether each connection begins with a PROXY protocol header that names the client, and in which version.
        /// Such connections serve one request (U36).
        proxy_protocol: Option<ProxyVersion>,
        /// Connections that are kept for later requests (R40).
        pool: Pool = "{}",
        /// Deadlines towards endpoints.
        timeouts: Timeouts = "{}",
        /// Bounds on its requests in the whole node. Without them one worker has at most 4,096 requests under way with
        /// one endpoint.
        limits: ServiceLimits = "{}",
        /// When requests leave an endpoint alone that failed.
        ejection: EjectionConfig = "{}",
        /// How long an endpoint that comes back, or joins, gets less than its share: a tenth at first, rising in a line
        /// (F28). 0 for not at all.
        slow_start: Duration<0> = "30s",
        /// What happens when most of the pool is out.
        panic: PanicConfig = "{}",
        /// How much more than its share a tier of endpoints can take, in percent: the next tier helps out when the
        /// healthy part of this one times that is below 100.
        overprovision: Int<100, 1000> = "140",
        /// When a request is tried again. A bare number means `{attempts: …}`.
        retries: Retries = "{}",
        /// Keeps each client at one endpoint, by a signed cookie.
        sticky: Option<StickyConfig>,
        /// Asks each endpoint now and then how it is. Without it only requests tell.
        health_check: Option<HealthCheck>,
        /// Stops asking the service while it fails. Without it there is none.
        circuit_breaker: Option<CircuitBreaker>,
        /// What answers in its place while it does not.
        fallback: Option<Fallback>,
        /// For a response head; more is answered 502.
        response_header_bytes_max: ByteSize = "32KiB",
        /// For the number of response header fields; more is answered 502.
        response_fields_max: Int<1, 1000> = "100",
    }
}

config_enum! {
    /// The protocol towards endpoints.
    pub enum EndpointWire {
        /// HTTP/1.1.
        Http1 = "http1",
        /// HTTP/2; without TLS by prior knowledge (h2c). What gRPC needs.
        H2 = "h2",
        /// What the endpoint chooses by TLS; HTTP/1.1 where there is no TLS.
        Auto = "auto",
    }
}

config_struct! {
    /// One instance of a service (R107).
    #[shorthand(address)]
    pub struct EndpointConfig {
        /// Host and port.
        address: Spanned<Endpoint>,
        /// Its share, for the algorithms that know weights (R98).
        weight: Int<1, 65535> = "1",
        /// Its tier. Requests go to the lowest number that is well; the next one helps out when more than a part of it
        /// fails, and takes over when all of it does (R141).
        priority: Int<0, 15> = "0",
        /// Where it stands, as `eu-1a`: endpoints in the gateway's own zone are preferred where `server.zone` names
        /// that.
        zone: Option<String>,
        /// What it says of itself, as `{version: v2}`: a route can ask for some endpoints only.
        metadata: Map<String, String> = "{}",
    }
}

config_struct! {
    /// How an endpoint is chosen.
    #[check(check_load_balancer)]
    #[shorthand(algorithm)]
    pub struct LoadBalancer {
        /// The algorithm.
        algorithm: Algorithm = "round_robin",
        /// What `consistent_hash` hashes; the client's address when left out (R102).
        key: Option<KeySource>,
    }
}

config_enum! {
    /// How an endpoint is chosen (R97-R103, C27-C29).
    pub enum Algorithm {
        /// One after the other.
        RoundRobin = "round_robin" | "round-robin",
        /// One after the other, by weight, smoothly.
        WeightedRoundRobin = "weighted_round_robin" | "weighted-round-robin",
        /// The one with the fewest requests in flight, by weight.
        LeastConnections = "least_connections" | "least-connections",
        /// The less busy of two that are drawn by lot.
        PowerOfTwo = "power_of_two" | "power-of-two",
        /// The quicker of two that are drawn by lot: latency of late, with peaks remembered, times requests in flight.
        PeakEwma = "peak_ewma" | "peak-ewma",
        /// By lot.
        Random = "random",
        /// The same client address, the same endpoint.
        IpHash = "ip_hash" | "ip-hash",
        /// The same key, the same endpoint; few keys move when endpoints come or go.
        ConsistentHash = "consistent_hash" | "consistent-hash",
    }
}

fn check_load_balancer(balancer: &LoadBalancer, node: &Node, cx: &mut Cx) {
    let span = node.entry("key").map_or(node.span, |entry| entry.value.span);
    match &balancer.key {
        Some(key) if balancer.algorithm != Algorithm::ConsistentHash => {
            let message = format!("`{}` has no use for a key", balancer.algorithm.as_str());
            cx.report(codes::CONTRADICTION, span, message)
                .hint(format!("use `algorithm: consistent_hash` to balance by {}", key.show()));
        }
        Some(KeySource::Route | KeySource::Global) => {
            cx.report(codes::BAD_VALUE, span, "this key is the same for all requests of a route")
                .hint("use client_ip, client_cert, path, header:NAME, cookie:NAME or query:NAME");
        }
        _ => {}
    }
}

config_struct! {
    /// Connections to endpoints that are kept for later requests.
    pub struct Pool {
        /// Idle connections that a worker keeps to all endpoints of the service; 0 keeps none.
        idle_max: Int<0, 100_000> = "128",
        /// How long one may stay idle.
        idle_timeout: Duration = "60s",
        /// Requests on one connection before it is closed.
        requests_max: Int<1, 1_000_000_000> = "10000",
    }
}

config_struct! {
    /// Bounds on the requests of a service in the whole node (F13). More wait; those that cannot are answered 503.
    #[check(check_service_limits)]
    pub struct ServiceLimits {
        /// Requests in flight.
        requests_max: Option<Int<1, 1_000_000>>,
        /// Requests that wait until others end; 0 refuses them at once.
        pending_max: Int<0, 10_000> = "128",
        /// How long one waits.
        queue_timeout: Duration = "1s",
        /// Moves the limit by latency, up to `requests_max`.
        adaptive: Option<Adaptive>,
    }
}

fn check_service_limits(limits: &ServiceLimits, node: &Node, cx: &mut Cx) {
    if limits.requests_max.is_some() {
        return;
    }
    // A configuration that is written out in full has the defaults.
    let given = [
        ("pending_max", limits.pending_max.get() != u64::from(PENDING_MAX)),
        ("queue_timeout", limits.queue_timeout.as_millis() != u128::from(QUEUE_TIMEOUT_MS)),
        ("adaptive", limits.adaptive.is_some()),
    ];
    for (key, is_given) in given {
        if let Some(entry) = node.entry(key).filter(|_| is_given) {
            cx.report(codes::CONTRADICTION, entry.value.span, format!("`{key}` has no use without `requests_max`"))
                .hint("set `requests_max`: how many requests may be in flight");
        }
    }
}

config_struct! {
    /// Deadlines towards endpoints.
    pub struct Timeouts {
        /// For a connection.
        connect: Duration = "5s",
        /// For a connection, before another address of the same name is tried beside it, the other family first
        /// (RFC 8305). `0s`: never.
        next_address: Duration<0> = "250ms",
        /// From the end of the request to the head of the response.
        first_byte: Duration = "15s",
        /// Between two parts of the response.
        between_bytes: Duration = "60s",
        /// Between two parts of the request that the endpoint takes.
        send: Duration = "30s",
    }
}

/// The `Host` that endpoints see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostMode {
    /// The client's.
    Preserve,
    /// The endpoint's address.
    Upstream,
    /// This one.
    Literal(String),
}

impl ScalarType for HostMode {
    const WANTED: &'static str = "a host";

    fn parse(text: &str) -> Result<Self, Fault> {
        match text {
            "preserve" => return Ok(HostMode::Preserve),
            "upstream" => return Ok(HostMode::Upstream),
            _ => {}
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
            return Err(Fault::hint("write `preserve`, `upstream`, or a host such as api.example.com"));
        }
        // A literal without a dot or port is more often a slip than a host.
        match crate::schema::suggest::nearest(text, ["preserve", "upstream"]) {
            Some(near) if !text.contains(['.', ':']) => Err(Fault::hint(format!("did you mean `{near}`?"))),
            _ => Ok(HostMode::Literal(text.to_owned())),
        }
    }

    fn show(&self) -> String {
        match self {
            HostMode::Preserve => "preserve".to_owned(),
            HostMode::Upstream => "upstream".to_owned(),
            HostMode::Literal(host) => host.clone(),
        }
    }

    fn document() -> TypeDoc {
        TypeDoc::text("host", "preserve, upstream, or a host", None)
    }
}

config_scalar!(HostMode);
