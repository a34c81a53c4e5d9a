//! Addresses.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::{Fault, ScalarType};
use crate::http::ipset::NotANetwork;
use crate::schema::codes;
use crate::schema::doc::TypeDoc;

/// An address range: `10.0.0.0/8`, `2001:db8::/32`, or one address. Bits after the prefix are cleared.
pub use crate::http::ipset::Network as Cidr;

impl ScalarType for Cidr {
    const WANTED: &'static str = "an address or address range";

    fn parse(text: &str) -> Result<Self, Fault> {
        text.parse().map_err(|fault| match fault {
            NotANetwork::Form => Fault::hint("write it as 10.0.0.0/8, 192.0.2.1 or 2001:db8::/32"),
            NotANetwork::TooLong { bits, most } => {
                Fault::message(format!("`/{bits}` is too long a prefix: at most /{most} here"))
                    .code(codes::OUT_OF_RANGE)
            }
        })
    }

    fn show(&self) -> String {
        self.to_string()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("address range", "IPv4 or IPv6, with or without /prefix", None)
    }
}

/// Where a listener waits: `127.0.0.1:8080`, `[::1]:8080`, `:8080` for all IPv4 addresses, `localhost:8080` (R44).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenAddress(pub SocketAddr);

impl ScalarType for ListenAddress {
    const WANTED: &'static str = "an address to listen on";

    fn parse(text: &str) -> Result<Self, Fault> {
        let (host, port) = host_and_port(text)?;
        let ip = match host {
            "" | "*" => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            "localhost" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            host => host.parse().map_err(|_| {
                Fault::message(format!("`{host}` is not an IP address"))
                    .and_hint("listeners need an address of this machine, as 127.0.0.1:8080, [::]:8080 or :8080")
            })?,
        };
        Ok(ListenAddress(SocketAddr::new(ip, port)))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("listen address", "address:port, or :port for all addresses", Some(r"^.*:[0-9]+$"))
    }
}

/// Where an endpoint is: `10.0.0.1:3000`, `[2001:db8::1]:3000` or `name:3000`. The port is from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// An address without brackets, or a name in lower case.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Endpoint {
    /// The address, when it is one and not a name.
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.host.parse().ok()?, self.port))
    }
}

impl ScalarType for Endpoint {
    const WANTED: &'static str = "an endpoint address";

    fn parse(text: &str) -> Result<Self, Fault> {
        if let Some((_, rest)) = text.split_once("://") {
            let bare = rest.split('/').next().unwrap_or(rest);
            return Err(Fault::hint(format!("write host:port without the scheme: {bare}")));
        }
        let (host, port) = host_and_port(text)?;
        if port == 0 {
            return Err(Fault::message("port 0 cannot be reached").code(codes::OUT_OF_RANGE));
        }
        Ok(Endpoint { host: host_name(host)?, port })
    }

    fn show(&self) -> String {
        show_host_port(&self.host, self.port)
    }

    fn document() -> TypeDoc {
        TypeDoc::text("endpoint address", "host:port", Some(r"^.+:[0-9]+$"))
    }
}

fn show_host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// An address or a host name, lower-cased.
fn host_name(host: &str) -> Result<String, Fault> {
    let is_label = |label: &str| {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(word) && !label.starts_with('-')
    };
    let is_name = host.len() <= 253 && host.strip_suffix('.').unwrap_or(host).split('.').all(is_label);
    let all_numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if host.parse::<IpAddr>().is_ok() || (is_name && !all_numeric) {
        return Ok(host.to_ascii_lowercase());
    }
    Err(Fault::message(format!("`{host}` is neither an address nor a host name")))
}

/// `host:port`, the host without brackets and perhaps empty.
fn host_and_port(text: &str) -> Result<(&str, u16), Fault> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").ok_or_else(|| Fault::hint("write it as [address]:port"))?,
        None => text.rsplit_once(':').ok_or_else(|| no_port(text))?,
    };
    if host.contains(':') && !text.starts_with('[') {
        return Err(Fault::hint("write an IPv6 address in brackets, as [::1]:8080"));
    }
    if port.is_empty() || !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err(Fault::message(format!("`{port}` is not a port")).and_hint("write it as host:port"));
    }
    match port.parse::<u16>() {
        Ok(port) => Ok((host, port)),
        Err(_) => {
            let message = format!("port {port} is out of range: allowed is up to 65535");
            Err(Fault::message(message).code(codes::OUT_OF_RANGE))
        }
    }
}

fn no_port(text: &str) -> Fault {
    match text.parse::<u16>() {
        Ok(port) => Fault::hint(format!("write `:{port}` for all addresses, or `127.0.0.1:{port}`")),
        Err(_) => Fault::message(format!("`{text}` has no port")).and_hint(format!("write it as {text}:8080")),
    }
}

/// The scheme of a [`ServiceUrl`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP, port 80 when none is given.
    Http,
    /// HTTP over TLS, port 443 when none is given.
    Https,
}

/// A place given as URL: `http://host:port`, without path, query or user (R13, C55).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServiceUrl {
    /// The scheme.
    pub scheme: Scheme,
    /// Host and port.
    pub endpoint: Endpoint,
}

impl ScalarType for ServiceUrl {
    const WANTED: &'static str = "a URL";

    fn parse(text: &str) -> Result<Self, Fault> {
        let (scheme, rest, port) = if let Some(rest) = text.strip_prefix("http://") {
            (Scheme::Http, rest, 80)
        } else if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest, 443)
        } else {
            return Err(Fault::hint("write it as http://host:port"));
        };
        let place = rest.strip_suffix('/').unwrap_or(rest);
        if place.contains(['/', '?', '#', '@']) {
            return Err(Fault::hint("give host and port only; a path is set by `rewrite`"));
        }
        let has_port = place.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
        let endpoint = match has_port {
            true => Endpoint::parse(place)?,
            false => {
                let host = place.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(place);
                Endpoint { host: host_name(host)?, port }
            }
        };
        Ok(ServiceUrl { scheme, endpoint })
    }

    fn show(&self) -> String {
        let scheme = if self.scheme == Scheme::Http { "http" } else { "https" };
        format!("{scheme}://{}", self.endpoint.show())
    }

    fn document() -> TypeDoc {
        TypeDoc::text("URL", "http:// or https://, host and port", Some(r"^https?://[^/]+/?$"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code_of<T: ScalarType>(text: &str) -> &'static str {
        T::parse(text).err().map_or("ok", |fault| fault.code)
    }

    #[test]
    fn ranges_have_a_form() {
        assert_eq!(code_of::<Cidr>("10.0.0.0/33"), codes::OUT_OF_RANGE);
        assert_eq!(code_of::<Cidr>("10.0.0/8"), codes::BAD_VALUE);
    }

    #[test]
    fn listeners_take_addresses_only() {
        let shown = |text: &str| ListenAddress::parse(text).map(|a| a.show()).unwrap_or_default();
        assert_eq!(shown(":8080"), "0.0.0.0:8080");
        assert_eq!(shown("[::]:1"), "[::]:1");
        assert_eq!(shown("localhost:0"), "127.0.0.1:0");
        assert_eq!(code_of::<ListenAddress>("127.0.0.1:99999"), codes::OUT_OF_RANGE);
        for bad in ["", "8080", "a.b:80", "::1:80", "[::1]", ":x", ":"] {
            assert_eq!(code_of::<ListenAddress>(bad), codes::BAD_VALUE, "{bad}");
        }
    }

    #[test]
    fn endpoints_take_names_too() {
        for good in ["10.0.0.1:1", "[::1]:65535", "backend:80", "a-b.example.com:80", "a_b:80"] {
            assert_eq!(Endpoint::parse(good).map(|e| e.show()), Ok(good.to_owned()));
        }
        for bad in ["a b:80", "http://a:80", "a:", ":80", "-a:80", "1.2.3:80", "a..b:80"] {
            assert_eq!(code_of::<Endpoint>(bad), codes::BAD_VALUE, "{bad}");
        }
        assert_eq!(code_of::<Endpoint>("a:0"), codes::OUT_OF_RANGE);
    }

    #[test]
    fn urls_have_default_ports() {
        let shown = |text: &str| ServiceUrl::parse(text).map(|u| u.show()).unwrap_or_default();
        assert_eq!(shown("http://localhost:9000"), "http://localhost:9000");
        assert_eq!(shown("https://a.b/"), "https://a.b:443");
        assert_eq!(shown("http://[::1]"), "http://[::1]:80");
        for bad in ["localhost:9000", "http://", "http://a/b", "http://u@a", "ftp://a"] {
            assert_eq!(shown(bad), "", "{bad}");
        }
    }
}
