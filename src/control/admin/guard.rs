//! Who may use the admin API (F76).
//!
//! - Host must be an IP address, `localhost` or a listed name: a web page that rebinds its own name to 127.0.0.1 is
//!   refused.
//! - A write with an Origin (or `Sec-Fetch-Site`) of another site is refused: no page can reload the configuration.
//! - Off loopback a token is needed, else the start fails. The read token does not allow writes. Without a token only
//!   `/health` and `/ready` answer, with their status alone.

use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::Response;

use super::{Admin, reply};

/// Shortest token that is taken.
pub const TOKEN_BYTES_MIN: usize = 16;

/// Where the admin API listens and whom it serves.
#[derive(Clone)]
pub struct AdminSettings {
    /// Address and port; port 0 takes any free one.
    pub listen: SocketAddr,
    /// Bearer token that allows everything.
    pub token: Option<String>,
    /// Bearer token that allows reading; only together with `token`.
    pub read_token: Option<String>,
    /// Under which path the metrics are shown; None shows none (R260).
    pub metrics_path: Option<String>,
    /// Host names allowed besides IP addresses and `localhost`.
    pub allowed_hosts: Vec<String>,
}

impl AdminSettings {
    /// On this address, without a token.
    pub fn on(listen: SocketAddr) -> Self {
        Self {
            listen,
            token: None,
            read_token: None,
            metrics_path: Some("/metrics".to_owned()),
            allowed_hosts: Vec::new(),
        }
    }
}

impl std::fmt::Debug for AdminSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AdminSettings").field("listen", &self.listen).finish_non_exhaustive()
    }
}

/// Why these settings would leave the admin API open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenAdmin {
    /// Not loopback, and no token.
    NoToken(SocketAddr),
    /// A token is shorter than [`TOKEN_BYTES_MIN`].
    ShortToken,
    /// A read token without a token: everybody could write.
    OnlyReadToken,
}

impl std::fmt::Display for OpenAdmin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            OpenAdmin::NoToken(address) => {
                write!(
                    f,
                    "admin API on {address} is reachable by others and has no token; listen on 127.0.0.1 or set one"
                )
            }
            OpenAdmin::ShortToken => write!(f, "an admin token has less than {TOKEN_BYTES_MIN} bytes"),
            OpenAdmin::OnlyReadToken => f.write_str("a read token needs a token for writes beside it"),
        }
    }
}

impl std::error::Error for OpenAdmin {}

/// The checks, with their settings.
#[derive(Debug)]
pub struct Guard(AdminSettings);

/// What a request may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// Nothing but the bare state of `/health` and `/ready`.
    Probe,
    /// Read.
    Read,
    /// Read and write.
    Write,
}

impl Guard {
    /// Checks the settings.
    ///
    /// # Errors
    /// [`OpenAdmin`] when they would leave the API open.
    pub fn new(settings: AdminSettings) -> Result<Self, OpenAdmin> {
        let short = |token: &Option<String>| token.as_ref().is_some_and(|token| token.len() < TOKEN_BYTES_MIN);
        if short(&settings.token) || short(&settings.read_token) {
            return Err(OpenAdmin::ShortToken);
        }
        match (&settings.token, &settings.read_token) {
            (None, Some(_)) => Err(OpenAdmin::OnlyReadToken),
            (None, None) if !settings.listen.ip().is_loopback() => Err(OpenAdmin::NoToken(settings.listen)),
            _ => Ok(Self(settings)),
        }
    }

    /// Under which path the metrics are shown.
    pub fn metrics_path(&self) -> Option<&str> {
        self.0.metrics_path.as_deref()
    }

    /// What this request may do, or the status and the sentence that refuse it.
    fn access(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<Access, (StatusCode, &'static str)> {
        let host = single(headers, header::HOST)?.ok_or((StatusCode::BAD_REQUEST, "Missing Host"))?;
        let target = uri.authority().map_or(host, |authority| authority.as_str());
        if !self.knows_host(host) || !self.knows_host(target) {
            return Err((StatusCode::FORBIDDEN, "Host not allowed"));
        }
        let access = self.token_access(headers);
        if *method == Method::GET || *method == Method::HEAD {
            return Ok(access);
        }
        let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
        let foreign_site = site.is_some_and(|site| site != b"same-origin" && site != b"none");
        let origin = single(headers, header::ORIGIN)?;
        if foreign_site || origin.is_some_and(|origin| !is_same_host(origin, host)) {
            return Err((StatusCode::FORBIDDEN, "Cross-site request refused"));
        }
        match access {
            Access::Read => Err((StatusCode::FORBIDDEN, "This token allows reading only")),
            access => Ok(access),
        }
    }

    fn token_access(&self, headers: &HeaderMap) -> Access {
        let Some(token) = &self.0.token else { return Access::Write };
        let given = headers.get(header::AUTHORIZATION).and_then(|value| bearer(value.as_bytes())).unwrap_or_default();
        // Both are compared always, so that time tells nothing.
        let write = equal(given, token.as_bytes());
        let read = self.0.read_token.as_ref().is_some_and(|token| equal(given, token.as_bytes()));
        match (write, read) {
            (true, _) => Access::Write,
            (false, true) => Access::Read,
            (false, false) => Access::Probe,
        }
    }

    fn knows_host(&self, authority: &str) -> bool {
        let host = host_of(authority);
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().is_ok()
            || host.eq_ignore_ascii_case("localhost")
            || self.0.allowed_hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }
}

/// The middleware: refuses, or puts the [`Access`] beside the request.
pub(super) async fn check(State(admin): State<Admin>, mut request: Request, next: Next) -> Response {
    let access = match admin.guard.access(request.method(), request.uri(), request.headers()) {
        Ok(access) => access,
        Err((status, sentence)) => return reply::error(status, sentence),
    };
    let is_read = *request.method() == Method::GET || *request.method() == Method::HEAD;
    let is_probe = is_read && matches!(request.uri().path(), "/health" | "/ready");
    if access == Access::Probe && !is_probe {
        return reply::unauthorized();
    }
    request.extensions_mut().insert(access);
    next.run(request).await
}

/// The only value of a field; none when it is missing.
fn single(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, (StatusCode, &'static str)> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| (StatusCode::BAD_REQUEST, "Invalid header field")),
        (Some(_), Some(_)) => Err((StatusCode::BAD_REQUEST, "Repeated header field")),
    }
}

fn host_of(authority: &str) -> &str {
    match authority.rfind(':') {
        Some(at) if authority[at..].find(']').is_none() => &authority[..at],
        _ => authority,
    }
}

/// Whether an Origin names the very host and port that the request went to. `null` never does.
fn is_same_host(origin: &str, host: &str) -> bool {
    origin.split_once("://").is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host))
}

fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then_some(token.trim_ascii())
}

/// Compares in a time that depends on the lengths alone.
fn equal(given: &[u8], expected: &[u8]) -> bool {
    let mut difference = u8::from(given.len() != expected.len());
    for (at, byte) in expected.iter().enumerate() {
        difference = black_box(difference | (byte ^ given.get(at).copied().unwrap_or_default()));
    }
    difference == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE: &str = "write-token-0123456789";
    const READ: &str = "read-token-0123456789";

    fn settings(listen: &str, token: Option<&str>, read_token: Option<&str>) -> AdminSettings {
        AdminSettings {
            token: token.map(str::to_owned),
            read_token: read_token.map(str::to_owned),
            allowed_hosts: vec!["admin.example".to_owned()],
            ..AdminSettings::on(listen.parse().expect("address"))
        }
    }

    fn access(guard: &Guard, method: Method, fields: &[(&str, &str)]) -> Result<Access, u16> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(HeaderName::try_from(*name).expect("name"), value.parse().expect("value"));
        }
        guard.access(&method, &Uri::from_static("/x"), &headers).map_err(|(status, _)| status.as_u16())
    }

    #[test]
    fn settings_that_would_be_open_are_refused() {
        let refused = |listen, token, read| Guard::new(settings(listen, token, read)).err();
        let address = "0.0.0.0:9901".parse().expect("address");
        assert_eq!(refused("0.0.0.0:9901", None, None), Some(OpenAdmin::NoToken(address)));
        assert_eq!(refused("0.0.0.0:9901", Some("short"), None), Some(OpenAdmin::ShortToken));
        assert_eq!(refused("127.0.0.1:9901", None, Some(READ)), Some(OpenAdmin::OnlyReadToken));
        assert_eq!(refused("0.0.0.0:9901", Some(WRITE), None), None);
        assert_eq!(refused("[::1]:9901", None, None), None);
        assert!(!format!("{:?}", Guard::new(settings("[::1]:1", Some(WRITE), None))).contains(WRITE));
    }

    #[test]
    fn hosts_that_can_be_rebound_are_refused() {
        let guard = Guard::new(settings("127.0.0.1:9901", None, None)).expect("closed");
        for host in
            ["127.0.0.1", "127.0.0.1:9901", "[::1]:9901", "[::1]", "localhost:9901", "LOCALHOST", "Admin.example:1"]
        {
            assert_eq!(access(&guard, Method::GET, &[("host", host)]), Ok(Access::Write), "{host}");
        }
        for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "", "[::1", "x@127.0.0.1"] {
            assert_eq!(access(&guard, Method::GET, &[("host", host)]), Err(403), "{host}");
        }
        assert_eq!(access(&guard, Method::GET, &[]), Err(400));
        assert_eq!(access(&guard, Method::GET, &[("host", "localhost"), ("host", "localhost")]), Err(400));
        let rebound = Uri::from_static("http://evil.example/x");
        let mut headers = HeaderMap::new();
        headers.insert("host", "localhost".parse().expect("value"));
        assert!(guard.access(&Method::GET, &rebound, &headers).is_err());
    }

    #[test]
    fn other_sites_cannot_write() {
        let guard = Guard::new(settings("127.0.0.1:9901", None, None)).expect("closed");
        let post = |name, value| access(&guard, Method::POST, &[("host", "127.0.0.1:9901"), (name, value)]);
        assert_eq!(post("origin", "http://127.0.0.1:9901"), Ok(Access::Write));
        for origin in ["https://evil.example", "null", "http://127.0.0.1:9902", "http://127.0.0.1", ""] {
            assert_eq!(post("origin", origin), Err(403), "{origin}");
        }
        assert_eq!(post("sec-fetch-site", "cross-site"), Err(403));
        assert_eq!(post("sec-fetch-site", "same-site"), Err(403));
        assert_eq!(post("sec-fetch-site", "same-origin"), Ok(Access::Write));
        let get = [("host", "127.0.0.1:9901"), ("origin", "https://evil.example")];
        assert_eq!(access(&guard, Method::GET, &get), Ok(Access::Write));
    }

    #[test]
    fn tokens_give_their_role() {
        let guard = Guard::new(settings("0.0.0.0:9901", Some(WRITE), Some(READ))).expect("closed");
        let with = |method, value: &str| access(&guard, method, &[("host", "10.0.0.1"), ("authorization", value)]);
        assert_eq!(with(Method::POST, &format!("Bearer {WRITE}")), Ok(Access::Write));
        assert_eq!(with(Method::GET, &format!("bearer {READ}")), Ok(Access::Read));
        assert_eq!(with(Method::POST, &format!("Bearer {READ}")), Err(403));
        for wrong in
            ["", "Bearer ", "Basic eDp5", &WRITE[1..], &format!("Bearer {WRITE}x"), &format!("Bearer {}", &WRITE[1..])]
        {
            assert_eq!(with(Method::GET, wrong), Ok(Access::Probe), "{wrong}");
        }
    }
}
