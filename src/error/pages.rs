//! What operators read about each reason: its usual causes, what to do, and where to look. `docs/reasons/` is made from
//! this table and from the doc comments of [`super::Reason`] by the test `reasons_pages_are_current`.

/// The page of one reason. Sentences are written for whoever sees the word in a log.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The reason's word.
    pub word: &'static str,
    /// Usual causes, the most frequent first.
    pub causes: &'static [&'static str],
    /// What to do.
    pub remedies: &'static [&'static str],
    /// Configuration keys that bear on it, as the reference has them: `section` and `key`.
    pub keys: &'static [(&'static str, &'static str)],
    /// Metrics that tell more, beside `gateway_errors_total`.
    pub metrics: &'static [&'static str],
}

const LIMITS: &str = "listeners[].limits";
const LISTENER: &str = "listeners[]";
const ROUTE: &str = "routes[]";
const SERVICE: &str = "services[]";
const RETRIES: &str = "services[].retries";
const BREAKER: &str = "services[].circuit_breaker";
const ENDPOINT_TLS: &str = "services[].tls";
const TIMEOUTS: &str = "services[].timeouts";
const DEADLINES: &[&str] = &["ringway_worker_deadlines_total"];
const BACKENDS: &[&str] = &["gateway_upstream_status_total", "gateway_backend_duration_seconds"];
const SCANNER: &str = "A scanner, or an attack by request smuggling.";
const OLD_CLIENT: &str = "A client with a hand-made HTTP stack.";
const LOOK_AT_CLIENT: &str = "Find the client by its address in the access log; a correct client never causes it.";
const LOOK_AT_ENDPOINT: &str = "Ask the endpoint directly (`curl -v`), at the address that the access log names.";
const NOT_LOOSENED: &str = "There is no switch to let it pass: what two programs read differently is refused.";

/// All pages, in the order of the reasons.
pub const PAGES: &[Page] = &[
    Page {
        word: "bad_request_line",
        causes: &[SCANNER, "TLS spoken to a plain port.", OLD_CLIENT],
        remedies: &[LOOK_AT_CLIENT, NOT_LOOSENED],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "bad_header",
        causes: &["Control characters, spaces before the colon, or folded lines in a field.", SCANNER, OLD_CLIENT],
        remedies: &[LOOK_AT_CLIENT, NOT_LOOSENED],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "bad_framing",
        causes: &[
            "Content-Length together with Transfer-Encoding, or several lengths.",
            "A Transfer-Encoding other than `chunked`, or one in HTTP/1.0.",
            SCANNER,
        ],
        remedies: &[LOOK_AT_CLIENT, NOT_LOOSENED],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "bad_chunk",
        causes: &["A chunk size that is no number or does not fit its data.", "A connection that was cut.", SCANNER],
        remedies: &[LOOK_AT_CLIENT, NOT_LOOSENED],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "bad_grpc_web",
        causes: &[
            "A body of `application/grpc-web-text` that is no base64: a client that means `application/grpc-web`.",
            "A body that was cut within a group of four characters.",
        ],
        remedies: &["Send binary messages as `application/grpc-web`.", LOOK_AT_CLIENT],
        keys: &[(ROUTE, "grpc_web")],
        metrics: &[],
    },
    Page {
        word: "bad_host",
        causes: &[
            "No Host in HTTP/1.1.",
            "A Host that is not a host name, or disagrees with an absolute target.",
            SCANNER,
        ],
        remedies: &[LOOK_AT_CLIENT, "A health check of a load balancer often lacks Host: give it one."],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "bad_path",
        causes: &[
            "Encoded slashes, backslashes, dot segments or double encoding in the path.",
            "Characters that should have been percent-encoded.",
            "An attempt to walk around a path rule.",
        ],
        remedies: &[
            "Have the client send the plain path.",
            "Where a backend needs such paths: `path_policy` of the listener.",
        ],
        keys: &[(LISTENER, "path_policy")],
        metrics: &[],
    },
    Page {
        word: "bad_connection",
        causes: &["`Connection` names a field that the gateway relies on, such as Authorization or Host: an attack."],
        remedies: &[LOOK_AT_CLIENT],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "misdirected",
        causes: &[
            "A client uses a connection that it opened for one name to ask for another, whose rules for client \
             certificates are different.",
            "A reload changed these rules, and the connection was accepted under the old ones.",
        ],
        remedies: &[
            "Nothing: browsers and good clients repeat the request on a new connection.",
            "Where a client does not, give the two names addresses, or listeners, of their own.",
        ],
        keys: &[("listeners[].tls", "client_auth"), ("listeners[].tls", "hosts")],
        metrics: &[],
    },
    Page {
        word: "method_refused",
        causes: &[
            "A scanner for open proxies (CONNECT) or for TRACE.",
            "A client that takes the gateway for a forward proxy.",
        ],
        remedies: &[LOOK_AT_CLIENT],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "method_not_allowed",
        causes: &["The route lists its methods, and this one is not among them; `Allow` in the answer names them."],
        remedies: &[
            "Add the method to the route, or leave its `methods` out.",
            "`ringway explain` shows which routes were near.",
        ],
        keys: &[(ROUTE, "methods")],
        metrics: &[],
    },
    Page {
        word: "protocol_unsupported",
        causes: &[
            "A WebSocket over HTTP/2 to a route without `upgrade: [websocket]`, or one that answers by itself.",
            "A `:protocol` other than `websocket`: only that can be carried to an endpoint.",
            "The endpoint answered the request for a WebSocket as an ordinary one.",
        ],
        remedies: &["Name the protocol at the route that is to carry it: `upgrade: [websocket]`."],
        keys: &[(ROUTE, "upgrade")],
        metrics: &[],
    },
    Page {
        word: "expectation_failed",
        causes: &["`Expect` with something other than `100-continue`: it has no other use."],
        remedies: &[LOOK_AT_CLIENT],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "bad_range",
        causes: &["Many or overlapping ranges: an attack on memory, or a broken download manager."],
        remedies: &[LOOK_AT_CLIENT],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "version_unsupported",
        causes: &["HTTP/0.9, or HTTP/2 without its negotiation.", SCANNER],
        remedies: &[LOOK_AT_CLIENT],
        keys: &[],
        metrics: &[],
    },
    Page {
        word: "header_too_large",
        causes: &["Cookies that grow without end.", "Large tokens in fields.", "An attack on memory."],
        remedies: &[
            "Find out which field grows, and stop that.",
            "Raise the bound that is met; the log's detail names it.",
        ],
        keys: &[(LIMITS, "header_bytes_max"), (LIMITS, "field_bytes_max"), (LIMITS, "fields_max")],
        metrics: &[],
    },
    Page {
        word: "uri_too_long",
        causes: &["A form sent by GET.", "A list of ids in the query."],
        remedies: &["Send it as a body.", "Raise the bound; endpoints usually have one near 8 KiB of their own."],
        keys: &[(LIMITS, "target_bytes_max")],
        metrics: &[],
    },
    Page {
        word: "body_too_large",
        causes: &["An upload over the route's or the listener's bound."],
        remedies: &["Raise the bound of the one route that takes uploads, rather than that of the listener."],
        keys: &[(LIMITS, "body_bytes_max"), (ROUTE, "body_bytes_max")],
        metrics: &[],
    },
    Page {
        word: "header_timeout",
        causes: &[
            "A client that holds connections open on purpose (slow header attack).",
            "A connection that died on its way.",
            "A health check that connects and says nothing.",
        ],
        remedies: &[
            "Nothing, where few clients are concerned: it is the bound that does its work.",
            "Limit connections where one address opens many.",
        ],
        keys: &[(LIMITS, "header_timeout"), (LIMITS, "connections_max")],
        metrics: DEADLINES,
    },
    Page {
        word: "bad_proxy_header",
        causes: &[
            "The listener expects the PROXY protocol, and a client came directly.",
            "The balancer in front is not among those that are trusted.",
            "A client that forges its address.",
        ],
        remedies: &[
            "Name the balancer's address in `proxy_protocol`, or turn the protocol off on one of the two sides.",
        ],
        keys: &[(LISTENER, "proxy_protocol")],
        metrics: &[],
    },
    Page {
        word: "tunnel_timeout",
        causes: &["Nobody used the tunnel for long.", "It reached its greatest age.", "The gateway stopped."],
        remedies: &[
            "Have clients send a ping now and then, and connect again.",
            "Raise the times of the route's `tunnel`.",
        ],
        keys: &[(ROUTE, "tunnel")],
        metrics: &[],
    },
    Page {
        word: "body_timeout",
        causes: &["The client's network was lost during an upload.", "A client that announces more than it sends."],
        remedies: &["Raise it for clients that pause for long, such as those that make their body while they send it."],
        keys: &[(LIMITS, "body_timeout")],
        metrics: DEADLINES,
    },
    Page {
        word: "body_too_slow",
        causes: &[
            "A client that trickles its body on purpose (slow body attack).",
            "A stream of rare events sent as a request body.",
            "A very poor network.",
        ],
        remedies: &[
            "For streams of events: set `body_rate_min` of that listener to `0B`.",
            "For poor networks: lower the rate or raise the grace.",
        ],
        keys: &[(LIMITS, "body_rate_min"), (LIMITS, "rate_grace")],
        metrics: DEADLINES,
    },
    Page {
        word: "client_closed",
        causes: &[
            "The user went on, or the client's own timeout passed.",
            "A proxy in front with a shorter timeout than the answer takes.",
        ],
        remedies: &[
            "Look at the durations of these lines: many just below a round number are somebody's timeout.",
            "Make the answer faster, or the timeouts in front longer than those here.",
        ],
        keys: &[(ROUTE, "timeout")],
        metrics: &["gateway_request_duration_seconds"],
    },
    Page {
        word: "client_stalled",
        causes: &[
            "The client's network was lost during a download.",
            "A client that does not read, on purpose (slow read attack).",
        ],
        remedies: &["Nothing, where few clients are concerned."],
        keys: &[(LIMITS, "write_timeout")],
        metrics: DEADLINES,
    },
    Page {
        word: "client_too_slow",
        causes: &[
            "A client that reads a few bytes at a time, on purpose (slow read attack).",
            "A player that pauses for long behind a full buffer.",
            "A very poor network.",
        ],
        remedies: &["Where clients may take their time: lower `write_rate_min`, or set it to `0B`."],
        keys: &[(LIMITS, "write_rate_min"), (LIMITS, "rate_grace"), (LIMITS, "write_timeout")],
        metrics: DEADLINES,
    },
    Page {
        word: "no_route",
        causes: &[
            "A path that no route takes: a scanner, an old link, a route that is missing or spelt otherwise.",
            "The host matches no route's `hosts`.",
        ],
        remedies: &[
            "`ringway explain` shows for a request which routes were near, and why they did not match.",
            "A `default_route` answers what no other route does.",
        ],
        keys: &[(ROUTE, "path"), (ROUTE, "hosts"), ("default_route", "service")],
        metrics: &[],
    },
    Page {
        word: "ip_denied",
        causes: &[
            "The client's address is on the list of those denied, or not on that of those allowed.",
            "A proxy in front is not among `trusted_proxies`: then its own address is judged.",
        ],
        remedies: &[
            "Compare `client` in the access log with the policy.",
            "Name the proxies in front in `trusted_proxies`.",
        ],
        keys: &[("ip", "allow"), ("ip", "deny"), (LISTENER, "trusted_proxies")],
        metrics: &[],
    },
    Page {
        word: "rate_limited",
        causes: &[
            "A client over its rate; `Retry-After` and `X-RateLimit-*` tell it when to come back.",
            "A key that many clients share, such as the address of a proxy that is not trusted.",
        ],
        remedies: &[
            "Set `dry_run` to see what a limit would refuse.",
            "Raise `burst` for clients that come in bursts, `rate` for steady ones.",
        ],
        keys: &[("rate_limit", "rate"), ("rate_limit", "burst"), ("rate_limit", "key"), ("rate_limit", "dry_run")],
        metrics: &["gateway_rate_limit_hits_total"],
    },
    Page {
        word: "concurrency_limited",
        causes: &[
            "More requests at once than the service or the policy allows, and the queue is full.",
            "A slow endpoint.",
        ],
        remedies: &["Find out why requests take long.", "Raise the limit or the queue where endpoints bear more."],
        keys: &[(SERVICE, "limits")],
        metrics: &["gateway_backend_duration_seconds"],
    },
    Page {
        word: "queue_timeout",
        causes: &["More requests than endpoints can serve: those that wait too long are sent away."],
        remedies: &[
            "Add endpoints, or make answers faster.",
            "Raise `queue_timeout` only where clients wait that long.",
        ],
        keys: &[(SERVICE, "limits")],
        metrics: &["gateway_backend_duration_seconds"],
    },
    Page {
        word: "no_endpoint",
        causes: &["The service has no endpoints.", "None of them can take another request."],
        remedies: &[
            "`/services` of the admin listener shows the endpoints and their state.",
            "Give the service endpoints, or its routes a `service_url`.",
        ],
        keys: &[(SERVICE, "endpoints"), (ROUTE, "service_url")],
        metrics: &[],
    },
    Page {
        word: "bad_client_hello",
        causes: &["A scanner, or a client with a TLS stack of its own.", "A connection that was cut."],
        remedies: &[LOOK_AT_CLIENT, "The log's detail says what is wrong."],
        keys: &[(LISTENER, "sni")],
        metrics: &[],
    },
    Page {
        word: "unknown_server_name",
        causes: &[
            "A name that no key of the listener's `sni` stands for.",
            "A client that sends no server name, or speaks no TLS, where the listener has no `service`.",
        ],
        remedies: &[
            "Add the name to `sni`, or give the listener a `service` for all others.",
            "The log's `host` is the name that was asked for.",
        ],
        keys: &[(LISTENER, "sni"), (LISTENER, "service")],
        metrics: &[],
    },
    Page {
        word: "circuit_open",
        causes: &[
            "`circuit_breaker.failure_threshold` requests in a row failed: the service is left alone for `timeout`.",
            "It is being tried with `half_open_requests` requests, and this was one more.",
        ],
        remedies: &[
            "Look for the failures before: `gateway_errors_total` and the log name their reasons.",
            "`GET /circuit-breakers` of the admin API shows the state.",
            "`POST /circuit-breakers/{service}/reset` of the admin API closes it.",
            "A `fallback` answers meanwhile.",
        ],
        keys: &[(BREAKER, "failure_threshold"), (BREAKER, "timeout"), (SERVICE, "fallback")],
        metrics: &["gateway_circuit_breaker_state", "ringway_circuit_breaker_opened_total"],
    },
    Page {
        word: "tunnels_full",
        causes: &["More tunnels at once than the listener allows.", "Clients that open tunnels and do not use them."],
        remedies: &["Shorten the idle time of tunnels.", "Raise `tunnels_max` where there is memory."],
        keys: &[(LIMITS, "tunnels_max"), (ROUTE, "tunnel")],
        metrics: &[],
    },
    Page {
        word: "overloaded",
        causes: &["More connections or requests than a bound of the gateway allows."],
        remedies: &[
            "`ringway_worker_refused_total` tells which bound.",
            "Add workers or machines, or raise the bound where there is memory.",
        ],
        keys: &[(LIMITS, "connections_max"), ("server", "workers")],
        metrics: &["ringway_worker_refused_total"],
    },
    Page {
        word: "memory",
        causes: &["More clients, or slower ones, than the memory limit allows.", "A flood."],
        remedies: &[
            "`ringway_memory_used_bytes` against `ringway_memory_limit_bytes` shows how it came.",
            "Raise `memory_limit` or the limit of the control group, or bound connections with `connections_max`.",
        ],
        keys: &[("server", "memory_limit"), (LIMITS, "connections_max")],
        metrics: &["ringway_memory_used_bytes", "ringway_memory_level"],
    },
    Page {
        word: "draining",
        causes: &["The gateway was asked to stop and takes no new requests."],
        remedies: &["Raise `drain_delay`, so that balancers in front see `/ready` turn before listeners close."],
        keys: &[("server", "drain_delay"), ("server", "drain_timeout")],
        metrics: &[],
    },
    Page {
        word: "internal",
        causes: &["A fault of the gateway. Only this request was lost."],
        remedies: &["Report it with the log lines of the time and the request's shape."],
        keys: &[],
        metrics: &["ringway_worker_panics_total"],
    },
    Page {
        word: "bad_rewrite",
        causes: &["The route's `rewrite` made no path of this request: no leading slash, or control characters."],
        remedies: &[
            "`ringway explain` shows the rewritten path.",
            "Let the pattern match less, or put `/` before what it captures.",
        ],
        keys: &[("routes[].rewrite", "pattern"), ("routes[].rewrite", "to"), ("routes[].rewrite", "path")],
        metrics: &[],
    },
    Page {
        word: "connect_refused",
        causes: &["Nothing listens at the endpoint's address: it is down, starting, or the port is wrong."],
        remedies: &[LOOK_AT_ENDPOINT, "Compare the address in the access log with the service's `endpoints`."],
        keys: &[("services[].endpoints[]", "address")],
        metrics: BACKENDS,
    },
    Page {
        word: "connect_failed",
        causes: &["No route to the endpoint.", "No local port or descriptor is left for another connection."],
        remedies: &[
            "Look at the descriptors of the process and at the ports in TIME-WAIT.",
            "Keep more idle connections in the pool, so that fewer are opened.",
        ],
        keys: &[("services[].pool", "idle_max")],
        metrics: &["ringway_worker_upstream_connections_opened_total"],
    },
    Page {
        word: "connect_timeout",
        causes: &["A firewall that drops packets.", "An endpoint whose listen queue is full."],
        remedies: &["Ping the endpoint's port from this machine.", "Add endpoints, if it is load."],
        keys: &[(TIMEOUTS, "connect")],
        metrics: DEADLINES,
    },
    Page {
        word: "upstream_certificate",
        causes: &[
            "A certificate that has expired, or is for another name than the endpoint's host.",
            "One that the authority of the company signed, which the system does not know.",
            "Somebody between the gateway and the endpoint.",
        ],
        remedies: &[
            "The log's detail says which check failed; `openssl s_client -connect HOST:PORT` shows the certificate.",
            "Name the authority with `ca`, or the name that the certificate is for with `server_name`.",
            "Renew the certificate. `verify: false` hides the problem and everybody who abuses it.",
        ],
        keys: &[(SERVICE, "tls"), (ENDPOINT_TLS, "ca"), (ENDPOINT_TLS, "server_name")],
        metrics: &[],
    },
    Page {
        word: "upstream_handshake",
        causes: &[
            "The endpoint speaks no TLS at this port.",
            "It wants a client certificate, or refuses the one that it got.",
            "It speaks nothing newer than TLS 1.1, or only ciphers without forward secrecy.",
        ],
        remedies: &[
            "The log's detail says what was refused, and by whom.",
            "Take `tls` out where the port is plain; give the service a `cert` and `key` where one is wanted.",
        ],
        keys: &[(SERVICE, "tls"), (ENDPOINT_TLS, "cert"), (ENDPOINT_TLS, "key")],
        metrics: &[],
    },
    Page {
        word: "upstream_reset",
        causes: &[
            "The endpoint crashed or was restarted in the middle.",
            "It refuses the request by cutting the connection.",
            "Its idle timeout is shorter than the gateway's.",
        ],
        remedies: &[
            "Look at the endpoint's log at that time.",
            "Let `pool.idle_timeout` be shorter than the endpoint's keep-alive.",
        ],
        keys: &[("services[].pool", "idle_timeout")],
        metrics: BACKENDS,
    },
    Page {
        word: "upstream_refused",
        causes: &[
            "An endpoint that restarts says so with GOAWAY, and the request came behind it.",
            "An endpoint that takes fewer streams at once than it is sent: REFUSED_STREAM.",
        ],
        remedies: &[
            "It is repeated by itself where nothing of a body is lost; more `attempts` or endpoints help the rest.",
            LOOK_AT_ENDPOINT,
        ],
        keys: &[(SERVICE, "protocol")],
        metrics: BACKENDS,
    },
    Page {
        word: "upstream_closed",
        causes: &[
            "The endpoint closed without a word: a crash, a restart, or an idle timeout just as the request came.",
        ],
        remedies: &[
            "Look at the endpoint's log at that time.",
            "Let `pool.idle_timeout` be shorter than the endpoint's keep-alive.",
        ],
        keys: &[("services[].pool", "idle_timeout")],
        metrics: BACKENDS,
    },
    Page {
        word: "upstream_timeout",
        causes: &[
            "The endpoint is slow: overloaded, or waits for something itself.",
            "It takes no more of the request.",
            "It stopped in the middle of its answer.",
        ],
        remedies: &[
            "`upstream_status` in the access log tells whether an answer had begun.",
            "Raise the one timeout for routes that are slow by nature, such as long polls.",
        ],
        keys: &[(TIMEOUTS, "first_byte"), (TIMEOUTS, "between_bytes"), (TIMEOUTS, "send")],
        metrics: &["ringway_worker_deadlines_total", "gateway_backend_duration_seconds"],
    },
    Page {
        word: "request_timeout",
        causes: &[
            "The whole took too long, although no single wait did: a long download or upload, or several attempts.",
        ],
        remedies: &["Give routes with long answers or uploads a `timeout` of their own."],
        keys: &[(ROUTE, "timeout"), ("server", "timeout")],
        metrics: DEADLINES,
    },
    Page {
        word: "upstream_status",
        causes: &[
            "The service's `retries.statuses` or `grpc_codes` name what an endpoint answered; the retry then got no \
             answer at all.",
        ],
        remedies: &["Look at the endpoints: one answers with errors, another not at all."],
        keys: &[(RETRIES, "statuses"), (RETRIES, "attempts")],
        metrics: BACKENDS,
    },
    Page {
        word: "upstream_invalid",
        causes: &[
            "The endpoint speaks another protocol on that port: TLS, HTTP/2, something else.",
            "Its answer has several lengths, broken fields, or a switch of protocols nobody asked for.",
        ],
        remedies: &[
            LOOK_AT_ENDPOINT,
            "The log's detail says what is wrong. An answer that is ambiguous is not guessed at.",
        ],
        keys: &[],
        metrics: BACKENDS,
    },
    Page {
        word: "upstream_bad_chunk",
        causes: &["The endpoint, or a proxy behind the gateway, writes broken chunk sizes or ends."],
        remedies: &[LOOK_AT_ENDPOINT, "The log's detail says what is wrong."],
        keys: &[],
        metrics: BACKENDS,
    },
    Page {
        word: "upstream_header_too_large",
        causes: &["Many or large Set-Cookie fields, or a debug header that holds a page."],
        remedies: &["Have the endpoint send less, or raise its service's bound."],
        keys: &[(SERVICE, "response_header_bytes_max"), (SERVICE, "response_fields_max")],
        metrics: &[],
    },
    Page {
        word: "upstream_truncated",
        causes: &[
            "The endpoint crashed or was stopped in the middle of its answer.",
            "Its Content-Length is larger than what it sends.",
        ],
        remedies: &[
            "Look at the endpoint's log at that time.",
            "The client sees a cut connection, never a whole answer: it can tell.",
        ],
        keys: &[],
        metrics: BACKENDS,
    },
];
