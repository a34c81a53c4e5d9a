//! HTTP towards an authority: one request on each connection, every wait and every answer bounded.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue, RETRY_AFTER, USER_AGENT};
use hyper::{Method, Request, Response, Uri};
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::super::client::{self, Wire};
use crate::limits::{ACME_ANSWER_BYTES_MAX, ACME_REQUEST_MS};

/// Speaks with an authority, over TLS only.
#[derive(Clone)]
pub struct Http {
    tls: Arc<rustls::ClientConfig>,
    asked: Arc<Mutex<Option<u64>>>,
}

impl Http {
    /// Trusts these authorities, or those of the system.
    ///
    /// # Errors
    /// When none can be used.
    pub fn new(authorities: Option<&[u8]>) -> Result<Self, String> {
        Ok(Self { tls: client::tls(authorities, None)?, asked: Arc::default() })
    }

    /// How long the authority has asked to be left alone with its last refusal, in seconds.
    pub fn retry_after_s(&self) -> Option<u64> {
        *self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Error> {
        let place = request.uri().clone();
        let is_read = request.method() == Method::GET;
        let asked = timeout(Duration::from_millis(ACME_REQUEST_MS), Box::pin(self.ask(request)));
        let answered = asked.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        let answer = answered.map_err(|what| trouble(&place, &what))?;
        let (mut head, mut body) = answer.into_parts();
        let failed = head.status.is_client_error() || head.status.is_server_error();
        if failed {
            let seconds = retry_after_s(&head.headers);
            *self.asked.lock().unwrap_or_else(PoisonError::into_inner) = seconds;
        }
        let told = head.headers.get(CONTENT_TYPE).is_some_and(|kind| {
            let kind = kind.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
            kind.trim_ascii().ends_with(b"json")
        });
        if failed && (is_read || !told) {
            let what = format!("it answered {}", head.status);
            if is_read {
                return Err(trouble(&place, &what));
            }
            // What stands before an authority does not speak as it does.
            let problem = serde_json::json!({ "detail": what, "status": head.status.as_u16() });
            body = Bytes::from(problem.to_string());
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        }
        Ok(BytesResponse { parts: head, body: Box::new(body) })
    }

    async fn ask(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, String> {
        let place = request.uri().clone();
        let wire = self.connect(&place).await?;
        let authority = place.authority().map_or("", |authority| authority.as_str());
        let path = place.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(text)?;
        request.headers_mut().insert(HOST, HeaderValue::from_str(authority).map_err(text)?);
        request.headers_mut().insert(USER_AGENT, client::AGENT);
        let mut answer = client::send(wire, request).await?;
        let body = answer.body(ACME_ANSWER_BYTES_MAX).await?;
        let mut response = Response::new(Bytes::from(body));
        *response.status_mut() = answer.head().status();
        *response.headers_mut() = answer.head().headers().clone();
        Ok(response)
    }

    async fn connect(&self, place: &Uri) -> Result<Box<dyn Wire>, String> {
        let host = place.host().unwrap_or_default().trim_matches(['[', ']']);
        if place.scheme_str() != Some("https") {
            return Err("it is no https URL".to_owned());
        }
        let addresses = lookup_host((host, place.port_u16().unwrap_or(443))).await.map_err(text)?;
        client::secure(client::connect(addresses).await?, &self.tls, host).await
    }
}

impl HttpClient for Http {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        Box::pin(self.clone().exchange(request))
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn trouble(place: &Uri, what: &str) -> Error {
    Error::Other(format!("{}: {what}", place.authority().map_or("", |authority| authority.as_str())).into())
}

/// Seconds, or a date that is told in seconds from the answer's own.
fn retry_after_s(fields: &HeaderMap) -> Option<u64> {
    fields.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()
}
