//! What one hop may not pass on to the next: hop-by-hop fields, forged identity, forwarding fields of strangers.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::fields::Fields;
use super::name::{Name, NameSet};
use crate::error::{Failure, Reason};

/// Fields of this hop alone, and those that the serialiser writes itself (RFC 9110 section 7.6.1).
pub const HOP_BY_HOP: NameSet = NameSet::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::Te,
    Name::TransferEncoding,
    Name::Upgrade,
    Name::ContentLength,
]);

/// Fields that only the gateway may set in a request (C14, C16, C17): removed from every request before any policy
/// runs.
pub const GATEWAY_OWNED: NameSet = NameSet::of(&[
    Name::XUserId,
    Name::XUserRole,
    Name::XClientId,
    Name::XClientCertSubject,
    Name::XClientCertSan,
    Name::XClientCertFingerprint,
    Name::XTargetService,
    Name::XOriginalUrl,
    Name::XRewriteUrl,
    Name::Proxy,
    Name::XHttpMethodOverride,
    Name::XHttpMethod,
    Name::XMethodOverride,
    Name::ProxyAuthorization,
]);

/// Fields that tell where a request came from: rebuilt by the gateway, believed only from trusted proxies (C15, F51).
pub const FORWARDING: NameSet = NameSet::of(&[
    Name::Forwarded,
    Name::XForwardedFor,
    Name::XForwardedProto,
    Name::XForwardedHost,
    Name::XForwardedPort,
    Name::XForwardedPrefix,
    Name::XRealIp,
    Name::TrueClientIp,
]);

/// Names that other vendors' proxies use for the same, beside all that begin with `X-Forwarded-`: believed only from
/// trusted proxies too.
const FORWARDING_ELSEWHERE: [&str; 9] = [
    "x-client-ip",
    "cf-connecting-ip",
    "fastly-client-ip",
    "x-cluster-client-ip",
    "x-original-forwarded-for",
    "x-original-host",
    "x-host",
    "x-forwarded",
    "forwarded-for",
];

/// Fields that a `Connection` header may not name (F52): removing them would change what the request means.
const PROTECTED: NameSet = NameSet::of(&[
    Name::Host,
    Name::ContentLength,
    Name::TransferEncoding,
    Name::Authorization,
    Name::Cookie,
    Name::XRequestId,
    Name::ContentType,
    Name::Expect,
    Name::Via,
])
.and(FORWARDING)
.and(GATEWAY_OWNED);

/// What a `Connection` header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct ConnectionOptions {
    /// `close` was named.
    pub close: bool,
    /// `keep-alive` was named.
    pub keep_alive: bool,
    /// `upgrade` was named.
    pub upgrade: bool,
}

/// Reads every `Connection` line and removes the fields that they name.
///
/// # Errors
/// [`Reason::BadConnection`] when a protected field is named, [`Reason::BadHeader`] for something that is no token.
pub fn take_connection(fields: &mut Fields) -> Result<ConnectionOptions, Failure> {
    let mut options = ConnectionOptions::default();
    if !fields.may_have(NameSet::of(&[Name::Connection])) {
        return Ok(options);
    }
    let mut lines = fields.values(Name::Connection);
    match (lines.next(), lines.next()) {
        (None, _) => return Ok(options),
        // What nearly every message says.
        (Some(b"keep-alive"), None) => return Ok(ConnectionOptions { keep_alive: true, ..options }),
        (Some(b"close"), None) => return Ok(ConnectionOptions { close: true, ..options }),
        _ => {}
    }
    drop(lines);
    let mut named: SmallVec<[SmallVec<[u8; 24]>; 2]> = SmallVec::new();
    for value in fields.values(Name::Connection) {
        for token in value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
            match classify(token)? {
                Token::Close => options.close = true,
                Token::KeepAlive => options.keep_alive = true,
                Token::Upgrade => options.upgrade = true,
                Token::Nothing => {}
                Token::Field => named.push(SmallVec::from_slice(token)),
            }
        }
    }
    for name in &named {
        fields.remove(name);
    }
    Ok(options)
}

enum Token {
    Close,
    KeepAlive,
    Upgrade,
    Nothing,
    Field,
}

fn classify(token: &[u8]) -> Result<Token, Failure> {
    if token.eq_ignore_ascii_case(b"keep-alive") {
        return Ok(Token::KeepAlive);
    }
    if token.eq_ignore_ascii_case(b"close") {
        return Ok(Token::Close);
    }
    if token.eq_ignore_ascii_case(b"upgrade") {
        return Ok(Token::Upgrade);
    }
    match token {
        b"" => Ok(Token::Nothing),
        _ if !super::fields::is_token(token) => Err(Failure::with(Reason::BadHeader, "Connection option is no token")),
        _ => {
            let plain = hyphenated(token);
            let protected = PROTECTED.has(Name::of(&plain)) || is_forwarding_elsewhere(&plain);
            if protected { Err(Reason::BadConnection.into()) } else { Ok(Token::Field) }
        }
    }
}

/// Removes hop-by-hop fields, what only the gateway may set, and (from strangers) forwarding fields, in all spellings:
/// a name with underscores (or dots, or whatever else a token may hold) is the same name to a CGI endpoint (F51, F53).
pub fn strip_request(fields: &mut Fields, peer_is_trusted: bool) {
    let owned = HOP_BY_HOP.and(GATEWAY_OWNED).and(NameSet::of(&[Name::Expect]));
    let forbidden = if peer_is_trusted { owned } else { owned.and(FORWARDING).and(NameSet::of(&[Name::XRequestId])) };
    fields.remove_all(forbidden);
    if !fields.may_have(NameSet::of(&[Name::Other])) {
        return;
    }
    let is_suspect = |name: &[u8]| is_odd(name) || is_forwarding_elsewhere(name);
    if fields.lines().any(|line| line.id == Name::Other && is_suspect(fields.text(line.name))) {
        fields.retain(|name, _| !is_forged(name, peer_is_trusted));
    }
}

/// Whether a name that the gateway does not know as it stands is another spelling of one that only proxies or the
/// gateway may set, or (from strangers) a vendor's own name for where a request came from.
fn is_forged(name: &[u8], peer_is_trusted: bool) -> bool {
    const SPOOFABLE: NameSet = GATEWAY_OWNED.and(FORWARDING).and(PROTECTED).and(HOP_BY_HOP);
    if !is_odd(name) {
        return !peer_is_trusted && is_forwarding_elsewhere(name);
    }
    let plain = hyphenated(name);
    SPOOFABLE.has(Name::of(&plain)) || is_forwarding_elsewhere(&plain)
}

/// Whether a field of this name may stand in a trailer section: none of `never`, in no spelling, and nothing that tells
/// where a message came from.
pub fn may_trail(name: &[u8], never: NameSet) -> bool {
    let plain = hyphenated(name);
    !never.has(Name::of(&plain)) && !is_forwarding_elsewhere(&plain)
}

fn is_forwarding_elsewhere(name: &[u8]) -> bool {
    const FAMILY: &[u8] = b"x-forwarded-";
    name.get(..FAMILY.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(FAMILY))
        || FORWARDING_ELSEWHERE.iter().any(|known| known.as_bytes().eq_ignore_ascii_case(name))
}

/// Whether a name has a byte that CGI endpoints make an underscore of, as they do with hyphens.
fn is_odd(name: &[u8]) -> bool {
    !name.iter().all(|&byte| byte == b'-' || byte.is_ascii_alphanumeric())
}

fn hyphenated(name: &[u8]) -> SmallVec<[u8; 32]> {
    name.iter().map(|&byte| if byte.is_ascii_alphanumeric() { byte } else { b'-' }).collect()
}

/// The client's address: the right-most one that no trusted proxy vouches away (C15).
pub fn client_ip(fields: &Fields, peer: IpAddr, is_trusted: impl Fn(IpAddr) -> bool) -> IpAddr {
    let mut client = peer;
    if !is_trusted(peer) {
        return client;
    }
    let lines: SmallVec<[&[u8]; 4]> = fields.values(Name::XForwardedFor).collect();
    for entry in lines.iter().rev().flat_map(|line| line.rsplit(|&b| b == b',')) {
        let Some(address) = parse_address(entry.trim_ascii()) else { break };
        client = address;
        if !is_trusted(address) {
            break;
        }
    }
    client
}

/// An address as it stands in X-Forwarded-For: bare, with a port, or in brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    bare.parse().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(lines: &[(&str, &str)]) -> Fields {
        let mut fields = Fields::default();
        lines.iter().for_each(|(n, v)| fields.append(n.as_bytes(), v.as_bytes()).expect("legal"));
        fields
    }

    fn names(fields: &Fields) -> Vec<String> {
        fields.iter().map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    #[test]
    fn connection_removes_what_it_names_unless_protected() {
        let mut sample = fields(&[("Connection", "close, X-Secret"), ("X-Secret", "1"), ("A", "2")]);
        let options = take_connection(&mut sample).expect("legal");
        assert!(options.close && !options.keep_alive);
        assert_eq!(names(&sample), ["Connection", "A"]);
        for name in ["authorization", "HOST", "Cookie", "X_Forwarded_For", "x-user-id", "content-length"] {
            let failure = take_connection(&mut fields(&[("Connection", name)])).expect_err(name);
            assert_eq!(failure.reason, Reason::BadConnection, "{name}");
        }
        assert!(take_connection(&mut fields(&[("Connection", "a b")])).is_err());
    }

    #[test]
    fn forged_identity_goes_in_every_spelling() {
        let forged =
            ["X-User-ID", "x_user_id", "X-Forwarded-For", "X_Forwarded_For", "Forwarded", "Proxy", "X-Real-IP"];
        let lines: Vec<_> = forged.iter().map(|n| (*n, "1")).chain([("X_Mine", "kept"), ("Accept", "kept")]).collect();
        let mut sample = fields(&lines);
        strip_request(&mut sample, false);
        assert_eq!(names(&sample), ["X_Mine", "Accept"]);
        let mut trusted = fields(&[("X-Forwarded-For", "1"), ("X-User-ID", "1"), ("Upgrade", "h2c")]);
        strip_request(&mut trusted, true);
        assert_eq!(names(&trusted), ["X-Forwarded-For"]);
    }

    #[test]
    fn client_address_is_read_from_the_right() {
        let trusted = |ip: IpAddr| ip.to_string().starts_with("10.");
        let peer: IpAddr = "10.0.0.1".parse().expect("an address");
        let read =
            |value: &str, peer: IpAddr| client_ip(&fields(&[("X-Forwarded-For", value)]), peer, trusted).to_string();
        assert_eq!(read("6.6.6.6, 7.7.7.7, 10.0.0.2", peer), "7.7.7.7");
        assert_eq!(read("6.6.6.6, garbage, 10.0.0.2", peer), "10.0.0.2");
        assert_eq!(read("[2001:db8::1]:443", peer), "2001:db8::1");
        assert_eq!(read("10.1.1.1, 10.2.2.2", peer), "10.1.1.1");
        assert_eq!(read("6.6.6.6", "9.9.9.9".parse().expect("an address")), "9.9.9.9");
    }
}
