//! A small HTTP/1.1 client for registries: one request on each connection, every wait and every answer bounded (F37).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, HOST, HeaderValue, USER_AGENT};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::dns::Names;
use super::provider::Trouble;
use crate::limits::{DISCOVERY_BYTES_MAX, DISCOVERY_CONNECT_MS};
use crate::snapshot::Family;

/// Where an API is, and how it is spoken to.
pub struct Api {
    /// The host, as in its URL.
    pub host: String,
    /// The port.
    pub port: u16,
    /// None for plain HTTP.
    pub tls: Option<Arc<rustls::ClientConfig>>,
    /// The name that its certificate must have, where that is not its host.
    pub tls_name: Option<String>,
    /// Who resolves the host.
    pub names: Arc<Names>,
}

/// A request.
pub struct Ask<'a> {
    /// Path and query.
    pub path: &'a str,
    /// Fields beside the usual ones; their values are secrets.
    pub secrets: &'a [(&'static str, String)],
    /// From the request to the head of the answer.
    pub wait: Duration,
}

/// An answer whose body is still to come.
pub struct Answer {
    response: Response<Incoming>,
    /// Drives the connection; ends with the answer.
    _driver: Driver,
}

struct Driver(JoinHandle<()>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Api {
    /// Splits `http://host:port`.
    pub fn parse(url: &str) -> Result<(bool, String, u16), Trouble> {
        let wrong = || Trouble::failed(format!("{url} is no URL of an API"));
        let uri: hyper::Uri = url.parse().map_err(|_| wrong())?;
        let is_https = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(wrong()),
        };
        let host = uri.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        Ok((is_https, host, uri.port_u16().unwrap_or(if is_https { 443 } else { 80 })))
    }

    /// Asks. The answer is whatever came, good or bad.
    pub async fn ask(&self, ask: &Ask<'_>) -> Result<Answer, Trouble> {
        let connect = timeout(Duration::from_millis(DISCOVERY_CONNECT_MS), Box::pin(self.connect()));
        let stream = connect.await.map_err(|_| self.trouble("no connection in time"))??;
        match &self.tls {
            None => Box::pin(self.exchange(stream, ask)).await,
            Some(config) => {
                let name = self.tls_name.clone().unwrap_or_else(|| self.host.clone());
                let name = ServerName::try_from(name).map_err(|error| self.trouble(error))?;
                let shake = TlsConnector::from(config.clone()).connect(name, stream);
                let shaken = timeout(Duration::from_millis(DISCOVERY_CONNECT_MS), Box::pin(shake)).await;
                let stream = shaken.map_err(|_| self.trouble("no TLS in time"))?;
                Box::pin(self.exchange(stream.map_err(|error| self.trouble(error))?, ask)).await
            }
        }
    }

    async fn connect(&self) -> Result<TcpStream, Trouble> {
        let found = self.names.addresses(&self.host, Family::Auto).await?;
        let mut last = None;
        for ip in found.all.into_iter().take(4) {
            match TcpStream::connect(SocketAddr::new(ip, self.port)).await {
                Ok(stream) => return Ok(stream),
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| self.trouble("no address"), |error| self.trouble(error)))
    }

    async fn exchange<S>(&self, stream: S, ask: &Ask<'_>) -> Result<Answer, Trouble>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = shaken.map_err(|error| self.trouble(error))?;
        let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
        let request = self.request(ask)?;
        let answered = timeout(ask.wait, sender.send_request(request)).await;
        let answered = answered.map_err(|_| self.trouble("no answer in time"))?;
        let response = answered.map_err(|error| self.trouble(error))?;
        Ok(Answer { response, _driver: driver })
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Empty<Bytes>>, Trouble> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let mut request = Request::get(ask.path)
            .header(HOST, format!("{host}:{}", self.port))
            .header(USER_AGENT, concat!("ringway/", env!("CARGO_PKG_VERSION")))
            .header(ACCEPT, "application/json");
        for (name, value) in ask.secrets {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| self.trouble("a token that is no header value"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        request.body(Empty::new()).map_err(|error| self.trouble(error))
    }

    fn trouble(&self, what: impl std::fmt::Display) -> Trouble {
        Trouble::failed(format!("{}:{}: {what}", self.host, self.port))
    }
}

/// The field for a bearer token.
pub fn bearer(token: &str) -> (&'static str, String) {
    ("authorization", format!("Bearer {token}"))
}

impl Answer {
    /// The status.
    pub fn status(&self) -> u16 {
        self.response.status().as_u16()
    }

    /// The value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// The whole body, which must come within `wait` and be no longer than [`DISCOVERY_BYTES_MAX`].
    pub async fn body(mut self, wait: Duration) -> Result<Vec<u8>, Trouble> {
        let read = async {
            let mut all = Vec::new();
            while let Some(piece) = self.piece().await? {
                all.extend_from_slice(&piece);
                if all.len() > DISCOVERY_BYTES_MAX {
                    return Err(Trouble::failed(format!("an answer of more than {DISCOVERY_BYTES_MAX} bytes")));
                }
            }
            Ok(all)
        };
        timeout(wait, read).await.unwrap_or_else(|_| Err(Trouble::failed("the answer did not end in time")))
    }

    /// The next piece of the body; None at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Trouble> {
        loop {
            match self.response.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(Trouble::failed(error)),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// What a refusal says, shortened.
    pub async fn refusal(self) -> Trouble {
        let status = self.status();
        let body = self.body(Duration::from_secs(2)).await.unwrap_or_default();
        Trouble::failed(format!("answered {status}: {}", String::from_utf8_lossy(&body[..body.len().min(160)]).trim()))
    }
}

/// Escapes what may not stand in a path segment or a query value.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(byte as char),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

/// A TLS client that trusts these authorities, or those of the system, and shows a certificate if it has one.
pub fn tls(authorities: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Arc<rustls::ClientConfig>, Trouble> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    let mut roots = rustls::RootCertStore::empty();
    let of_system;
    let pem = match authorities {
        Some(pem) => pem,
        None => {
            of_system = system_authorities()?;
            &of_system
        }
    };
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(pem).filter_map(Result::ok));
    if roots.is_empty() {
        return Err(Trouble::failed("no certificate authority that can be used"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(Trouble::failed)?.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain =
                CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(Trouble::failed)?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|_| Trouble::failed("the client key cannot be read"))?;
            builder.with_client_auth_cert(chain, key).map_err(Trouble::failed)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where distributions keep the authorities that they trust.
fn system_authorities() -> Result<Vec<u8>, Trouble> {
    const PLACES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = std::env::var("SSL_CERT_FILE").ok();
    let places = named.as_deref().into_iter().chain(PLACES);
    let found = places.map(std::fs::read).find_map(Result::ok);
    found.ok_or_else(|| Trouble::failed("the system has no file of certificate authorities: name one with `ca_file`"))
}
