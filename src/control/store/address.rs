//! Where a configuration is kept outside of files: `consul://HOST:PORT/KEY`, `etcd+https://A:2379,B:2379/KEY`.
//!
//! No message repeats what was written: whoever puts a password where it does not belong must not find it in a log.

use std::net::Ipv6Addr;

use crate::limits::{STORE_KEY_BYTES_MAX, STORE_SERVERS_MAX};

/// What a right address looks like.
pub const FORMS: &str = "consul://HOST:8500/path/to/key (with ?dc=NAME if need be), \
                         etcd://HOST:2379,HOST:2379/path/to/key, the same over TLS with consul+https and etcd+https, \
                         or the path of a file";

/// Which store it is. Another one is a word here, and a client where [`super::Store`] makes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Consul's key-value store.
    Consul,
    /// etcd, version 3.
    Etcd,
}

/// Where a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// As it was written; nothing secret.
    pub text: String,
    /// The store.
    pub kind: Kind,
    /// Whether its servers are asked over TLS.
    pub is_https: bool,
    /// Servers that know the same: hosts and ports.
    pub servers: Vec<(String, u16)>,
    /// The key.
    pub key: String,
    /// Consul's datacentre; empty for the agent's own.
    pub datacenter: String,
}

impl Address {
    /// Reads an address. None for a word that is the path of a file.
    pub fn parse(word: &str) -> Option<Result<Self, String>> {
        let (scheme, rest) = word.split_once("://")?;
        let wrong = |what: String| format!("{what}; a configuration comes from {FORMS}");
        Some(parse(word, scheme, rest).map_err(wrong))
    }
}

fn parse(word: &str, scheme: &str, rest: &str) -> Result<Address, String> {
    let (kind, is_https) = scheme_of(scheme)?;
    if rest.contains('@') {
        return Err(format!(
            "credentials have no place in an address, where everybody sees them: {} (an @ in a key is written %40)",
            match kind {
                Kind::Consul => "set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE",
                Kind::Etcd => "set ETCDCTL_USER and ETCDCTL_PASSWORD or ETCDCTL_PASSWORD_FILE",
            }
        ));
    }
    if rest.contains('#') || rest.chars().any(|c| c.is_control() || c == ' ') {
        return Err("an address has no space, control character or # (write %23 in a key)".to_owned());
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let Some((authority, path)) = rest.split_once('/') else {
        return Err("the address names no key".to_owned());
    };
    let default = match (kind, is_https) {
        (Kind::Consul, false) => 8500,
        (Kind::Consul, true) => 8501,
        (Kind::Etcd, _) => 2379,
    };
    let servers = authority.split(',').map(|one| server(one, default)).collect::<Result<Vec<_>, _>>()?;
    if servers.len() > STORE_SERVERS_MAX {
        return Err(format!("the address names more than {STORE_SERVERS_MAX} servers"));
    }
    let key = unescape(path).ok_or("the key has a % without two hexadecimal digits, or is not UTF-8")?;
    match &key {
        key if key.is_empty() => return Err("the address names no key".to_owned()),
        key if key.ends_with('/') => return Err("the key ends with a slash: that is a folder, and no value".to_owned()),
        key if key.len() > STORE_KEY_BYTES_MAX => {
            return Err(format!("the key is longer than {STORE_KEY_BYTES_MAX} bytes"));
        }
        _ => {}
    }
    let datacenter = datacenter(kind, query)?;
    Ok(Address { text: word.to_owned(), kind, is_https, servers, key, datacenter })
}

fn scheme_of(scheme: &str) -> Result<(Kind, bool), String> {
    Ok(match scheme {
        "consul" | "consul+http" => (Kind::Consul, false),
        "consul+https" => (Kind::Consul, true),
        "etcd" | "etcd+http" => (Kind::Etcd, false),
        "etcd+https" => (Kind::Etcd, true),
        "http" | "https" => return Err("a plain web address is no store of configurations".to_owned()),
        "file" => return Err("a file is named by its path alone".to_owned()),
        // A word of the program's own kind of words only: what stands before :// may be anything.
        other if other.len() <= 16 && other.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'+') => {
            return Err(format!("there is no store `{other}`"));
        }
        _ => return Err("there is no such store".to_owned()),
    })
}

fn server(text: &str, default: u16) -> Result<(String, u16), String> {
    let wrong = || "a server is written HOST, HOST:PORT or [IPv6]:PORT".to_owned();
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            match rest {
                "" => (host, None),
                rest => (host, Some(rest.strip_prefix(':').ok_or_else(wrong)?)),
            }
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
            if host.is_empty() || host.len() > 255 || !host.bytes().all(is_plain) {
                return Err(wrong());
            }
            (host, port)
        }
    };
    let port = match port {
        Some(text) => text.parse().ok().filter(|port| *port > 0).ok_or_else(wrong)?,
        None => default,
    };
    Ok((host.to_owned(), port))
}

/// The one parameter there is.
fn datacenter(kind: Kind, query: &str) -> Result<String, String> {
    let mut datacenter = String::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        match (kind, name) {
            (Kind::Consul, "dc") => {
                let value = unescape(value).filter(|value| !value.is_empty());
                datacenter = value.ok_or("`dc` names no datacentre")?;
            }
            (Kind::Consul, "token") => {
                return Err("a token has no place in an address: set CONSUL_HTTP_TOKEN".to_owned());
            }
            (Kind::Consul, _) => return Err("the only parameter of a Consul address is `dc`".to_owned()),
            (Kind::Etcd, _) => return Err("an etcd address has no parameters".to_owned()),
        }
    }
    Ok(datacenter)
}

/// The text behind `%XX`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let [high, low, behind @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        bytes.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = behind;
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good(word: &str) -> Address {
        Address::parse(word).expect("an address").unwrap_or_else(|error| panic!("{word}: {error}"))
    }

    #[test]
    fn addresses_are_told_from_paths_and_read() {
        for path in ["ringway.yaml", "/etc/ringway/a.yaml", "consul:/a", "./consul:8500", ""] {
            assert_eq!(Address::parse(path), None, "{path}");
        }
        let at = |host: &str, port| (host.to_owned(), port);
        let consul = good("consul://127.0.0.1:8500/gateways/edge%201.yaml?dc=eu-1");
        assert_eq!((consul.kind, consul.is_https, consul.servers), (Kind::Consul, false, vec![at("127.0.0.1", 8500)]));
        assert_eq!((consul.key.as_str(), consul.datacenter.as_str()), ("gateways/edge 1.yaml", "eu-1"));
        let etcd = good("etcd+https://a.internal,b:2380,[::1]:7//ringway/config");
        assert_eq!((etcd.kind, etcd.is_https), (Kind::Etcd, true));
        assert_eq!(etcd.servers, [at("a.internal", 2379), at("b", 2380), at("::1", 7)]);
        assert_eq!(etcd.key, "/ringway/config", "a key of etcd's may begin with a slash");
        assert_eq!(good("consul+https://c/k").servers, [at("c", 8501)]);
    }

    #[test]
    fn wrong_addresses_are_told_what_would_be_right_and_no_secret_is_repeated() {
        for (word, told) in [
            ("consull://a/k", "no store `consull`"),
            ("http://a/k", "plain web address"),
            ("file:///etc/a", "its path alone"),
            ("s3cr3t s3cr3t://a/k", "no such store"),
            ("consul://a", "no key"),
            ("consul://a/", "no key"),
            ("consul:///k", "HOST:PORT"),
            ("consul://a:0/k", "HOST:PORT"),
            ("consul://a:s3cr3t/k", "HOST:PORT"),
            ("consul://[::1/k", "HOST:PORT"),
            ("consul://[1.2.3.4]:1/k", "HOST:PORT"),
            ("consul://a/k/", "a folder"),
            ("consul://a/k%2", "hexadecimal"),
            ("consul://a/k%ff", "UTF-8"),
            ("consul://a/k#s3cr3t", "%23"),
            ("consul://a/k?dc=", "datacentre"),
            ("consul://a/k?token=s3cr3t", "CONSUL_HTTP_TOKEN"),
            ("consul://a/k?s3cr3t=1", "only parameter"),
            ("consul://:s3cr3t@a/k", "CONSUL_HTTP_TOKEN_FILE"),
            ("consul://u:12/s3cr3t@a/k", "CONSUL_HTTP_TOKEN_FILE"),
            ("etcd://root:s3cr3t@a/k", "ETCDCTL_PASSWORD"),
            ("etcd://a/k?dc=s3cr3t", "no parameters"),
            ("etcd://a,,b/k", "HOST:PORT"),
            ("etcd://a,a,a,a,a,a,a,a,a/k", "more than 8"),
        ] {
            let error = Address::parse(word).expect("an address").expect_err(word);
            assert!(error.contains(told) && error.contains("etcd://HOST:2379"), "{word}: {error}");
            assert!(!error.contains("s3cr3t"), "{word}: {error}");
        }
        let long = format!("etcd://a/{}", "k".repeat(STORE_KEY_BYTES_MAX + 1));
        assert!(Address::parse(&long).expect("an address").is_err_and(|error| error.contains("longer")));
    }
}
