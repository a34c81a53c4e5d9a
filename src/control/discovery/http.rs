//! What is asked of registries: where their API is, what an answer may take (F37), and what a refusal says.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, HOST, HeaderValue, USER_AGENT};
use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::super::client::{self, Wire};
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
    /// JSON to POST; None for a GET.
    pub body: Option<Vec<u8>>,
}

/// An answer whose body is still to come.
pub struct Answer(client::Answer);

/// What a refusal has in it.
#[derive(Deserialize)]
struct Said {
    message: String,
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
        let allowed = Duration::from_millis(DISCOVERY_CONNECT_MS);
        let connected = timeout(allowed, Box::pin(self.connect())).await;
        let stream = connected.map_err(|_| self.trouble("no connection in time"))??;
        let wire: Box<dyn Wire> = match &self.tls {
            None => Box::new(stream),
            Some(config) => {
                let name = self.tls_name.as_ref().unwrap_or(&self.host);
                let shaken = timeout(allowed, client::secure(stream, config, name)).await;
                let shaken = shaken.map_err(|_| self.trouble("no TLS in time"))?;
                shaken.map_err(|error| self.trouble(error))?
            }
        };
        let answered = timeout(ask.wait, Box::pin(client::send(wire, self.request(ask)?))).await;
        let answered = answered.map_err(|_| self.trouble("no answer in time"))?;
        answered.map(Answer).map_err(|error| self.trouble(error))
    }

    async fn connect(&self) -> Result<TcpStream, Trouble> {
        let found = self.names.addresses(&self.host, Family::Auto).await?;
        let addresses = found.all.into_iter().map(|ip| SocketAddr::new(ip, self.port));
        client::connect(addresses).await.map_err(|error| self.trouble(error))
    }

    fn request(&self, ask: &Ask<'_>) -> Result<Request<Full<Bytes>>, Trouble> {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let request = match ask.body {
            None => Request::get(ask.path),
            Some(_) => Request::post(ask.path).header(CONTENT_TYPE, "application/json"),
        };
        let mut request = request
            .header(HOST, format!("{host}:{}", self.port))
            .header(USER_AGENT, client::AGENT)
            .header(ACCEPT, "application/json");
        for (name, value) in ask.secrets {
            let mut value =
                HeaderValue::from_str(value).map_err(|_| self.trouble("a token that is no header value"))?;
            value.set_sensitive(true);
            request = request.header(*name, value);
        }
        request.body(Full::from(ask.body.clone().unwrap_or_default())).map_err(|error| self.trouble(error))
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
        self.0.head().status().as_u16()
    }

    /// The value of a field.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.0.head().headers().get(name)?.to_str().ok()
    }

    /// The whole body, which must come within `wait` and be no longer than [`DISCOVERY_BYTES_MAX`].
    pub async fn body(mut self, wait: Duration) -> Result<Vec<u8>, Trouble> {
        let read = timeout(wait, self.0.body(DISCOVERY_BYTES_MAX)).await;
        let read = read.map_err(|_| Trouble::failed("the answer did not end in time"))?;
        read.map_err(Trouble::failed)
    }

    /// The next piece of the body; None at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, Trouble> {
        self.0.piece().await.map_err(Trouble::failed)
    }

    /// What a refusal says, shortened: the sentence in it, where it is one of Kubernetes'.
    pub async fn refusal(self) -> Trouble {
        let status = self.status();
        let body = self.body(Duration::from_secs(2)).await.unwrap_or_default();
        let said = serde_json::from_slice::<Said>(&body).map(|said| said.message);
        let said = said.unwrap_or_else(|_| String::from_utf8_lossy(&body[..body.len().min(160)]).into_owned());
        Trouble::failed(format!("answered {status}: {}", said.trim()))
    }
}

/// Cuts a stream into lines of bounded length.
#[derive(Default)]
pub struct Lines {
    whole: VecDeque<Vec<u8>>,
    /// What of a line has come.
    pub begun: Vec<u8>,
}

impl Lines {
    /// Takes what has come.
    ///
    /// # Errors
    /// A line that is too long.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let mut pieces = bytes.split(|&byte| byte == b'\n');
        self.begun.extend_from_slice(pieces.next().unwrap_or_default());
        for piece in pieces {
            self.whole.push_back(std::mem::replace(&mut self.begun, piece.to_vec()));
        }
        match self.begun.len() {
            ..=DISCOVERY_BYTES_MAX => Ok(()),
            _ => Err(Trouble::failed("an event that is too long")),
        }
    }

    /// The next whole line, without its end.
    pub fn line(&mut self) -> Option<Vec<u8>> {
        self.whole.pop_front()
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
