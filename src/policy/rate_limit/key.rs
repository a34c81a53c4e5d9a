//! Whose requests are counted together.

use std::net::IpAddr;

use ahash::RandomState;

use crate::http::exchange::Exchange;
use crate::policy::Phase;
use crate::schema::types::KeySource;

/// What requests are counted by (R76 to R80).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Key {
    /// `client_ip`: the client's address; IPv6 by its /64, which is what one customer gets (F71).
    #[default]
    ClientIp,
    /// `client_cert`: the certificate that the client has shown, by its fingerprint. Without one: by address.
    ClientCert,
    /// `global`: all requests together.
    Global,
    /// `route`: all requests of a route together.
    Route,
    /// `path`: the canonical path, so that spellings of one path share a bucket (F71).
    Path,
    /// `header:NAME`: the value of a field. Without it: by address (R76).
    Header(Box<[u8]>),
    /// `query:NAME`: the value of a query parameter. Without it: by address.
    Query(Box<[u8]>),
    /// `cookie:NAME`: the value of a cookie. Without it: by address.
    Cookie(Box<[u8]>),
}

impl Key {
    /// From the configuration.
    pub fn of(source: &KeySource) -> Self {
        match source {
            KeySource::ClientIp => Key::ClientIp,
            KeySource::ClientCert => Key::ClientCert,
            KeySource::Global => Key::Global,
            KeySource::Route => Key::Route,
            KeySource::Path => Key::Path,
            KeySource::Header(name) => Key::Header(name.as_str().as_bytes().into()),
            KeySource::Query(name) => Key::Query(name.as_bytes().into()),
            KeySource::Cookie(name) => Key::Cookie(name.as_bytes().into()),
        }
    }

    /// The label of refusals in metrics and in `X-RateLimit-Limit-Type` (R92), unless one is configured.
    pub const fn label(&self) -> &'static str {
        match self {
            Key::ClientIp => "ip",
            Key::ClientCert => "client_cert",
            Key::Global => "global",
            Key::Route => "route",
            Key::Path => "path",
            Key::Header(_) => "header",
            Key::Query(_) => "query",
            Key::Cookie(_) => "cookie",
        }
    }

    /// When a limit by this key runs: before the credential check if it needs nothing but the connection (C12).
    pub const fn phase(&self) -> Phase {
        match self {
            Key::ClientIp | Key::ClientCert | Key::Global | Key::Route | Key::Path => Phase::Guard,
            Key::Header(_) | Key::Query(_) | Key::Cookie(_) => Phase::Limit,
        }
    }

    /// How many keys a table must hold: few when clients cannot choose them.
    pub const fn count_max(&self, clients: usize) -> usize {
        match self {
            Key::Global => 1,
            _ => clients,
        }
    }

    /// The fingerprint of the request's key, never 0. Two keys share one with probability 2^-64; clients do not know
    /// the hash's key, so they cannot make it happen.
    #[inline]
    pub fn fingerprint(&self, hasher: &RandomState, x: &Exchange) -> u64 {
        let value = match self {
            Key::ClientIp => None,
            Key::ClientCert => x.client_identity().map(|client| client.fingerprint.as_bytes()),
            Key::Global => return 1,
            Key::Route => return hasher.hash_one((1u8, x.route_key)).max(1),
            Key::Path => Some(x.request.matched_path()),
            Key::Header(name) => x.request.fields.find(name),
            Key::Query(name) => x.request.query_value(name),
            Key::Cookie(name) => x.request.cookie(name),
        };
        match value {
            Some(value) => hasher.hash_one((2u8, value)).max(1),
            None => hasher.hash_one((3u8, network(x.client_ip))).max(1),
        }
    }
}

/// The part of an address that one client has: all of IPv4, the /64 of IPv6.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(address: &str) -> Exchange {
        Exchange { client_ip: address.parse().expect("an address"), ..Exchange::default() }
    }

    fn print(key: &Key, x: &Exchange) -> u64 {
        key.fingerprint(&RandomState::with_seeds(1, 2, 3, 4), x)
    }

    #[test]
    fn an_ipv6_network_is_one_client() {
        let key = Key::ClientIp;
        assert_eq!(print(&key, &from("2001:db8::1")), print(&key, &from("2001:db8::ffff:2")));
        assert_ne!(print(&key, &from("2001:db8::1")), print(&key, &from("2001:db8:0:1::1")));
        assert_ne!(print(&key, &from("10.0.0.1")), print(&key, &from("10.0.0.2")));
        assert_eq!(print(&key, &from("10.0.0.1")), print(&key, &from("::ffff:10.0.0.1")));
    }

    #[test]
    fn a_missing_value_falls_back_to_the_address() {
        let key = Key::Header(b"x-api-key"[..].into());
        let mut x = from("10.0.0.1");
        assert_eq!(print(&key, &x), print(&Key::ClientIp, &x));
        x.request.fields.append(b"x-api-key", b"k1").expect("legal");
        let one = print(&key, &x);
        assert_ne!(one, print(&Key::ClientIp, &x));
        x.request.fields.set(b"x-api-key", b"k2").expect("legal");
        assert_ne!(one, print(&key, &x));
    }
}
