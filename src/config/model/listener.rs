//! `listeners`.

use super::tls::Tls;
use super::tunnel::{ProxyProtocol, Tunnel};
use crate::schema::types::{ByteSize, Cidr, Duration, HostPattern, Int, ListenAddress, Map, Name, Rate};
use crate::schema::{Cx, Node, Spanned, codes};
use crate::{config_enum, config_struct};

config_struct! {
    /// A place where clients connect.
    #[shorthand(address)]
    pub struct Listener {
        /// Its name in logs and metrics; its address when left out.
        name: Option<Spanned<Name>>,
        /// Address and port (R44).
        address: Spanned<ListenAddress>,
        /// What is spoken with clients: `http1` always, `h2` where TLS is (by ALPN), `h2c` where it is not, with those
        /// that begin with it.
        protocols: Vec<Wire> = "[http1, h2]",
        /// What its clients speak. `tcp` passes connections on as they are, to `service`: no routes, no policies.
        protocol: ListenProtocol = "http",
        /// Of `protocol: tcp`: the service that takes its connections; with `sni`, those whose name stands not there.
        service: Option<Spanned<Name>>,
        /// Of `protocol: tcp`: services by the server name in the ClientHello of TLS clients; a key is a name, or as
        /// `*.example.com` all names below one. TLS is passed through, not ended.
        sni: Map<HostPattern, Spanned<Name>> = "{}",
        /// Of `protocol: tcp`: how long its connections may last.
        tunnel: Option<Spanned<Tunnel>>,
        /// TLS (HTTPS); without this key connections are not encrypted.
        tls: Option<Spanned<Tls>>,
        /// Every request without TLS is answered 308, to https at this port: `https_redirect: 443`.
        https_redirect: Option<Int<1, 65535>>,
        /// Proxies whose `X-Forwarded-*`, `Forwarded` and `X-Request-ID` are believed; nobody's are by default
        /// (C15, C18).
        trusted_proxies: Vec<Spanned<Cidr>> = "[]",
        /// Whether, and from whom, connections begin with a PROXY protocol header; it is refused without this key
        /// (F59).
        proxy_protocol: Option<ProxyProtocol>,
        /// Whether `Forwarded` (RFC 7239) is sent upstream beside `X-Forwarded-*`.
        forwarded: bool = "false",
        /// Whether `Via` (RFC 9110) is added in both directions (C42).
        via: bool = "false",
        /// What is done with paths that endpoints may read differently: `//`, escaped slashes and the like. Under each
        /// of them dot segments are resolved, and no request walks around a route; `docs/paths.md` has the table.
        path_policy: PathPolicy = "strict",
        /// Bounds on what one client may use.
        limits: Limits = "{}",
    }
}

config_enum! {
    /// A protocol that is spoken with clients.
    pub enum Wire {
        /// HTTP/1.1 and 1.0. It cannot be left out: whoever speaks nothing else is told so in it.
        Http1 = "http1",
        /// HTTP/2 over TLS.
        H2 = "h2",
        /// HTTP/2 without TLS, by prior knowledge: a connection that begins with its preface. There is no Upgrade to
        /// it.
        H2c = "h2c",
    }
}

config_enum! {
    /// What the clients of a listener speak.
    pub enum ListenProtocol {
        /// Requests, which go where routes say.
        Http = "http",
        /// Anything: connections are passed on as they are.
        Tcp = "tcp",
    }
}

config_enum! {
    /// What is done with paths that an endpoint may read differently. Dot segments are always resolved, `;parameters`
    /// always passed on where they do not lead to another route.
    pub enum PathPolicy {
        /// Refuse with 400: empty segments, escaped slashes, backslashes, double encoding, broken UTF-8.
        Strict = "strict",
        /// As `strict`, but empty segments are merged.
        Merge = "merge",
        /// Pass them on as they are, if every reading of the path takes the same route; else refuse with 400.
        Preserve = "preserve",
    }
}

config_struct! {
    /// Bounds on what one client may use.
    #[check(check_limits)]
    pub struct Limits {
        /// For a whole request head, from its first byte.
        header_timeout: Duration = "10s",
        /// For a kept-alive connection without a request.
        idle_timeout: Duration = "75s",
        /// Between two parts of a request body.
        body_timeout: Duration = "30s",
        /// Between two parts of a response that the client takes.
        write_timeout: Duration = "30s",
        /// A request body must bring so much in a second, else it is ended with 408; 0B for no such rule (F39).
        body_rate_min: ByteSize = "256B",
        /// A client must take so much of its response in a second, else it is cut off; 0B for no such rule (F39).
        write_rate_min: ByteSize = "256B",
        /// Waiting for a client that the two rates do not count; faster parts make up for slower ones up to this.
        rate_grace: Duration = "10s",
        /// For a request head; more is answered 431.
        header_bytes_max: ByteSize = "32KiB",
        /// For one header field; more is answered 431.
        field_bytes_max: ByteSize = "16KiB",
        /// For the request target; more is answered 414.
        target_bytes_max: ByteSize = "8KiB",
        /// For the number of header fields, trailers counted; more is answered 431.
        fields_max: Int<1, 1000> = "100",
        /// For a request body; more is answered 413. Routes may set their own.
        body_bytes_max: ByteSize = "10MiB",
        /// Requests on one connection before it is closed.
        requests_max: Int<1, 1_000_000_000> = "10000",
        /// Age of a connection after which it is closed with its next response.
        age_max: Duration = "1h",
        /// Connections of this listener at once. With or without it, the workers share what the limit of open
        /// descriptors leaves, and log it at the start.
        connections_max: Option<Int<1, 10_000_000>>,
        /// Of these, tunnels (WebSocket and the like) at once; more are answered 503.
        tunnels_max | max_tunnels: Int<0, 10_000_000> = "10000",
        /// Connections that one client (an IPv4 address, or 64 bits of an IPv6 address) may have to this listener at
        /// once; more are closed as they come. It counts TCP peers, and does not hold for `trusted_proxies`.
        connections_per_client_max: Option<Int<1, 1_000_000>>,
        /// TLS handshakes of this listener in a time (`2000/s`), in all workers together; more are closed as they come.
        handshake_rate: Option<Rate>,
        /// The same for one client (an IPv4 address, or 64 bits of an IPv6 address), behind the PROXY protocol.
        handshake_rate_per_client: Option<Rate>,
    }
}

/// Smallest `header_bytes_max`, so that an ordinary browser's request fits.
const HEADER_BYTES_MIN: u64 = 1024;
/// Largest `header_bytes_max`: heads are held in memory whole.
const HEADER_BYTES_MAX: u64 = 1024 * 1024;

fn check_limits(limits: &Limits, node: &Node, cx: &mut Cx) {
    let total = limits.header_bytes_max.get();
    let span_of = |key: &str| node.get(key).map_or(node.span, |value| value.span);
    if !(HEADER_BYTES_MIN..=HEADER_BYTES_MAX).contains(&total) {
        let message = "`header_bytes_max` is out of range: allowed is 1KiB to 1MiB";
        cx.report(codes::OUT_OF_RANGE, span_of("header_bytes_max"), message);
    }
    for (key, part) in [("field_bytes_max", limits.field_bytes_max), ("target_bytes_max", limits.target_bytes_max)] {
        if part.get() > total {
            // Whichever key is written is the one to change.
            let at = if node.get(key).is_some() { key } else { "header_bytes_max" };
            cx.report(codes::CONTRADICTION, span_of(at), format!("`{key}` is larger than `header_bytes_max`"))
                .hint(format!("a head holds its fields and its target; raise `header_bytes_max` or lower `{key}`"));
        }
    }
}

impl Listener {
    /// Its name, or its address when it has none.
    pub fn name(&self) -> String {
        match &self.name {
            Some(name) => name.as_str().to_owned(),
            None => self.address.0.to_string(),
        }
    }
}
