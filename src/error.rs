//! Why an exchange failed: one enum of reasons, from which status, log word and metric label derive (A16).
//!
//! A [`Failure`] is made where the fault is seen and becomes a response at one place, `pipeline::reply`.

pub mod pages;

use std::fmt;

/// Whose fault it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client sent something wrong, or left.
    Downstream,
    /// The gateway refused or could not do it.
    Gateway,
    /// The endpoint failed.
    Upstream,
}

impl Origin {
    /// `client`, `gateway` or `upstream`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Downstream => "client",
            Self::Gateway => "gateway",
            Self::Upstream => "upstream",
        }
    }
}

/// May the gateway send the same request again, elsewhere?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Never.
    No,
    /// Nothing of the request left the gateway: any method may be retried.
    Unsent,
    /// The request may have been acted on: idempotent methods only (RFC 9110 section 9.2.2).
    IfIdempotent,
}

impl Retry {
    /// `never`, `safe` or `idempotent`.
    pub const fn word(self) -> &'static str {
        match self {
            Self::No => "never",
            Self::Unsent => "safe",
            Self::IfIdempotent => "idempotent",
        }
    }
}

macro_rules! reasons {
    ($(
        $(#[$doc:meta])+
        $variant:ident = $word:literal, $status:literal, $origin:ident, $retry:ident, $text:literal;
    )+) => {
        /// The reason of a failure. Each has a stable word (log, metric, problem document), the status that the gateway
        /// answers with, an [`Origin`] and a [`Retry`] rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Reason { $( $(#[$doc])+ $variant, )+ }

        impl Reason {
            /// All reasons, in declaration order.
            pub const ALL: &'static [Reason] = &[ $( Reason::$variant, )+ ];

            /// The stable word, for logs, metrics and error bodies.
            pub const fn word(self) -> &'static str {
                match self { $( Reason::$variant => $word, )+ }
            }

            /// The status that the gateway answers with.
            pub const fn status(self) -> u16 {
                match self { $( Reason::$variant => $status, )+ }
            }

            /// Whose fault it is.
            pub const fn origin(self) -> Origin {
                match self { $( Reason::$variant => Origin::$origin, )+ }
            }

            /// Whether another attempt is allowed.
            pub const fn retry(self) -> Retry {
                match self { $( Reason::$variant => Retry::$retry, )+ }
            }

            /// What the client reads: a sentence without internals.
            pub const fn text(self) -> &'static str {
                match self { $( Reason::$variant => $text, )+ }
            }
        }
    };
}

reasons! {
    /// The request line is not `method SP target SP version CRLF` (RFC 9112 section 3).
    BadRequestLine = "bad_request_line", 400, Downstream, No, "Malformed request line";
    /// A field line breaks RFC 9112 section 5.
    BadHeader = "bad_header", 400, Downstream, No, "Malformed header field";
    /// Content-Length and Transfer-Encoding are ambiguous or wrong (RFC 9112 section 6).
    BadFraming = "bad_framing", 400, Downstream, No, "Ambiguous or invalid message framing";
    /// The chunked coding is broken (RFC 9112 section 7.1).
    BadChunk = "bad_chunk", 400, Downstream, No, "Malformed chunked body";
    /// A gRPC-Web body in text form is no base64.
    BadGrpcWeb = "bad_grpc_web", 400, Downstream, No, "Malformed gRPC-Web body";
    /// Host is missing, repeated, invalid or disagrees with the target (RFC 9112 section 3.2).
    BadHost = "bad_host", 400, Downstream, No, "Missing or invalid Host";
    /// The request target cannot be made canonical without a guess.
    BadPath = "bad_path", 400, Downstream, No, "Invalid request target";
    /// The route would make an illegal path of the request's: one with dot segments, or too long (F48, F49).
    BadRewrite = "bad_rewrite", 400, Downstream, No, "Invalid request target";
    /// `Connection` names a protected field.
    BadConnection = "bad_connection", 400, Downstream, No, "Connection names a protected field";
    /// The host has other rules for client certificates than the connection was accepted under (RFC 9110 section
    /// 15.5.20, F50).
    Misdirected = "misdirected", 421, Downstream, No, "Misdirected request";
    /// The method is not served by the gateway (CONNECT, TRACE).
    MethodRefused = "method_refused", 405, Downstream, No, "Method not allowed";
    /// An extended CONNECT (RFC 8441) to a protocol that the gateway does not serve, or not on this route: there is no
    /// ordinary request in it that could be answered instead (RFC 9220 section 3).
    ProtocolUnsupported = "protocol_unsupported", 501, Downstream, No, "Protocol not supported";
    /// The path has routes, but none for this method (R7).
    MethodNotAllowed = "method_not_allowed", 405, Downstream, No, "Method not allowed";
    /// An Expect other than 100-continue (RFC 9110 section 10.1.1).
    ExpectationFailed = "expectation_failed", 417, Downstream, No, "Expectation failed";
    /// Range is malformed, repeated, or has too many or overlapping parts (RFC 9110 section 15.5.17).
    BadRange = "bad_range", 416, Downstream, No, "Range not satisfiable";
    /// The HTTP version is not 1.0 or 1.1.
    VersionUnsupported = "version_unsupported", 505, Downstream, No, "HTTP version not supported";
    /// The header section is over `header_bytes_max`, a field over `field_bytes_max`, or there are too many fields.
    HeaderTooLarge = "header_too_large", 431, Downstream, No, "Request header fields too large";
    /// The request target is over `target_bytes_max`.
    UriTooLong = "uri_too_long", 414, Downstream, No, "URI too long";
    /// The body is over `body_bytes_max` (R182, C53).
    BodyTooLarge = "body_too_large", 413, Downstream, No, "Request too large";
    /// The header section did not arrive in `header_timeout`.
    HeaderTimeout = "header_timeout", 408, Downstream, No, "Request header timeout";
    /// The PROXY protocol header is malformed or missing, or its sender is not trusted (F59).
    BadProxyHeader = "bad_proxy_header", 400, Downstream, No, "Invalid or unexpected PROXY protocol header";
    /// What a TLS client began with is no ClientHello that its server name can be read from. Never sent; for the log.
    BadClientHello = "bad_client_hello", 400, Downstream, No, "Malformed TLS ClientHello";
    /// The listener has no service for the server name that the client asks for, or for a client without one. Never
    /// sent; the client gets the TLS alert `unrecognized_name`.
    UnknownServerName = "unknown_server_name", 421, Downstream, No, "Unknown server name";
    /// A tunnel was idle or open for too long, or the gateway stopped. Never sent; for the log.
    TunnelTimeout = "tunnel_timeout", 408, Downstream, No, "Tunnel timeout";
    /// The body paused longer than `body_timeout`, or was not all there when the `timeout` of the request was over.
    BodyTimeout = "body_timeout", 408, Downstream, No, "Request body timeout";
    /// The body came slower than `body_rate_min` for longer than `rate_grace` (F39).
    BodyTooSlow = "body_too_slow", 408, Downstream, No, "Request body too slow";
    /// The client closed or reset before its answer was complete. Never sent; logged as 499.
    ClientClosed = "client_closed", 499, Downstream, No, "Client closed the connection";
    /// The client did not read its answer within `write_timeout`. Never sent.
    ClientStalled = "client_stalled", 499, Downstream, No, "Client stopped reading";
    /// The client took its answer slower than `write_rate_min` for longer than `rate_grace` (F39). Never sent.
    ClientTooSlow = "client_too_slow", 499, Downstream, No, "Client reads too slowly";
    /// No route matches (R21, C19).
    NoRoute = "no_route", 404, Gateway, No, "Route not found";
    /// An address rule refused the client (R71).
    IpDenied = "ip_denied", 403, Gateway, No, "Forbidden";
    /// A rate limit refused the request (R89).
    RateLimited = "rate_limited", 429, Gateway, No, "Rate limit exceeded";
    /// As many requests as allowed are in flight, and as many as allowed wait: `limits` of the service, or a
    /// `concurrency_limit` (F13, F14).
    ConcurrencyLimited = "concurrency_limited", 503, Gateway, No, "Too many requests in flight";
    /// The request waited longer than `queue_timeout` for others to end (F13).
    QueueTimeout = "queue_timeout", 503, Gateway, No, "Waited too long for other requests";
    /// The service has no endpoint that can take the request (R106).
    NoEndpoint = "no_endpoint", 503, Gateway, No, "Service unavailable";
    /// The circuit breaker of the service is open: it failed too often of late (R125).
    CircuitOpen = "circuit_open", 503, Gateway, No, "Circuit breaker open";
    /// The listener has as many tunnels open as it may (`tunnels_max`).
    TunnelsFull = "tunnels_full", 503, Gateway, No, "Too many open tunnels";
    /// A bound of the gateway itself was reached.
    Overloaded = "overloaded", 503, Gateway, No, "Gateway overloaded";
    /// The memory limit is near: 95 % of `memory_limit` is in use (F10).
    MemoryShort = "memory", 503, Gateway, No, "Gateway overloaded";
    /// The gateway is stopping.
    Draining = "draining", 503, Gateway, No, "Gateway is shutting down";
    /// An invariant of the gateway broke; only this request is lost (R136).
    Internal = "internal", 500, Gateway, No, "Internal gateway error";
    /// The endpoint refused the connection.
    ConnectRefused = "connect_refused", 502, Upstream, Unsent, "Bad gateway";
    /// Connecting failed otherwise (no route, no local port, no descriptor).
    ConnectFailed = "connect_failed", 502, Upstream, Unsent, "Bad gateway";
    /// Connecting took longer than `connect` (R134).
    ConnectTimeout = "connect_timeout", 504, Upstream, Unsent, "Gateway timeout";
    /// The endpoint's certificate is not accepted: expired, for another name, of an unknown authority (F88).
    UpstreamCertificate = "upstream_certificate", 502, Upstream, Unsent, "Bad gateway";
    /// The TLS handshake with the endpoint failed otherwise: it does not speak TLS, shares no version or cipher, or
    /// refuses our certificate (F88).
    UpstreamHandshake = "upstream_handshake", 502, Upstream, Unsent, "Bad gateway";
    /// The endpoint reset the connection before its answer.
    UpstreamReset = "upstream_reset", 502, Upstream, IfIdempotent, "Bad gateway";
    /// The endpoint says that it has not looked at the request: its connection goes away, or has streams enough
    /// (HTTP/2: GOAWAY, REFUSED_STREAM).
    UpstreamRefused = "upstream_refused", 502, Upstream, Unsent, "Bad gateway";
    /// The endpoint closed the connection without an answer.
    UpstreamClosed = "upstream_closed", 502, Upstream, IfIdempotent, "Bad gateway";
    /// The endpoint did not answer in time (R134).
    UpstreamTimeout = "upstream_timeout", 504, Upstream, No, "Gateway timeout";
    /// The whole request was not done within its `timeout`, and it was not the client who was waited for (C51).
    RequestTimeout = "request_timeout", 504, Upstream, No, "Gateway timeout";
    /// The endpoint answered with a status for which the service asks another, and none gave a better one.
    UpstreamStatus = "upstream_status", 502, Upstream, IfIdempotent, "Bad gateway";
    /// The endpoint's answer is not valid HTTP.
    UpstreamInvalid = "upstream_invalid", 502, Upstream, IfIdempotent, "Bad gateway";
    /// The chunked coding of the endpoint's body is broken: 502 if the client has seen nothing yet, else its connection
    /// is cut, never completed (F24).
    UpstreamBadChunk = "upstream_bad_chunk", 502, Upstream, IfIdempotent, "Bad gateway";
    /// The endpoint's header section is over the bound.
    UpstreamHeaderTooLarge = "upstream_header_too_large", 502, Upstream, IfIdempotent, "Bad gateway";
    /// The endpoint's body ended early: the downstream connection is cut, never completed (F24).
    UpstreamTruncated = "upstream_truncated", 502, Upstream, No, "Bad gateway";
}

impl Reason {
    /// Whether the client may send the same request again, later: what a problem document says as `retry`. The gateway
    /// itself is stricter, as it would do so at once ([`Self::retry`]).
    pub const fn repeat(self) -> Retry {
        match (self.retry(), self.origin(), self.status()) {
            (Retry::Unsent, ..) => Retry::Unsent,
            // Part of it may have reached an endpoint.
            (Retry::IfIdempotent, ..) | (_, Origin::Upstream, _) | (_, _, 499) => Retry::IfIdempotent,
            _ if matches!(self, Self::BodyTimeout | Self::BodyTooSlow) => Retry::IfIdempotent,
            // Refused for now, and nothing was done.
            (_, _, 408 | 429 | 503) => Retry::Unsent,
            _ => Retry::No,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A failed exchange: the reason, and for operators a static detail that never reaches the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// More for logs and `explain`; empty when the reason says it all.
    pub detail: &'static str,
}

impl Failure {
    /// A failure without detail.
    pub const fn new(reason: Reason) -> Self {
        Self { reason, detail: "" }
    }

    /// A failure with a detail for operators.
    pub const fn with(reason: Reason, detail: &'static str) -> Self {
        Self { reason, detail }
    }

    /// The bound that the request passed, by its name on the page of limits: clients are told (F40).
    pub fn limit(&self) -> Option<&'static str> {
        match self.reason {
            Reason::UriTooLong => Some("target_bytes_max"),
            Reason::BodyTooLarge => Some("body_bytes_max"),
            Reason::HeaderTooLarge | Reason::BadChunk => self.detail.strip_prefix("over "),
            _ => None,
        }
    }
}

impl From<Reason> for Failure {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.detail {
            "" => f.write_str(self.reason.word()),
            detail => write!(f, "{} ({detail})", self.reason.word()),
        }
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn words_are_unique_and_statuses_legal() {
        let words: HashSet<_> = Reason::ALL.iter().map(|r| r.word()).collect();
        assert_eq!(words.len(), Reason::ALL.len());
        assert!(Reason::ALL.iter().all(|r| (400..600).contains(&r.status())));
    }

    #[test]
    fn clients_are_told_whether_to_repeat() {
        let said = |reason: Reason| (reason.origin().word(), reason.repeat().word());
        assert_eq!(said(Reason::BadHeader), ("client", "never"));
        assert_eq!(said(Reason::BodyTooSlow), ("client", "idempotent"));
        assert_eq!(said(Reason::HeaderTimeout), ("client", "safe"));
        assert_eq!(said(Reason::RateLimited), ("gateway", "safe"));
        assert_eq!(said(Reason::Internal), ("gateway", "never"));
        assert_eq!(said(Reason::ConnectRefused), ("upstream", "safe"));
        assert_eq!(said(Reason::UpstreamTimeout), ("upstream", "idempotent"));
        // What the gateway may do at once, a client may do later.
        for reason in Reason::ALL {
            assert!(reason.retry() == Retry::No || reason.retry() == reason.repeat(), "{reason}");
        }
    }

    #[test]
    fn every_reason_has_one_page_that_helps() {
        let words: Vec<_> = pages::PAGES.iter().map(|page| page.word).collect();
        for word in Reason::ALL.iter().map(|reason| reason.word()) {
            let count = words.iter().filter(|page| **page == word).count();
            assert_eq!(count, 1, "`{word}` has {count} pages in src/error/pages.rs");
        }
        for page in pages::PAGES {
            assert!(Reason::ALL.iter().any(|reason| reason.word() == page.word), "`{}` is no reason", page.word);
            assert!(!page.causes.is_empty() && !page.remedies.is_empty(), "{} helps nobody", page.word);
        }
    }

    #[test]
    fn only_upstream_failures_may_be_retried() {
        for reason in Reason::ALL {
            if reason.retry() != Retry::No {
                assert_eq!(reason.origin(), Origin::Upstream, "{reason}");
            }
        }
    }
}
