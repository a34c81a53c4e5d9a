//! The one HTTP/1.1 client of the control thread, towards registries and certificate authorities: one request on each
//! connection. Whoever asks bounds the wait; what an answer may have in bytes is bounded here.

use std::net::SocketAddr;
use std::sync::Arc;

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::HeaderValue;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;

/// Who we are to them.
pub const AGENT: HeaderValue = HeaderValue::from_static(concat!("ringway/", env!("CARGO_PKG_VERSION")));
/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 4;

/// A connection, with TLS or without.
pub trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

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

/// Connects to the first of a few addresses that takes it.
///
/// # Errors
/// Why the last one did not.
pub async fn connect(addresses: impl Iterator<Item = SocketAddr>) -> Result<TcpStream, String> {
    let mut last = "no address".to_owned();
    for address in addresses.take(ADDRESSES_MAX) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = text(error),
        }
    }
    Err(last)
}

/// Shakes hands, with somebody who must have a certificate for this name.
///
/// # Errors
/// What is wrong with the name, the certificate or the handshake.
pub async fn secure(
    stream: TcpStream,
    config: &Arc<rustls::ClientConfig>,
    name: &str,
) -> Result<Box<dyn Wire>, String> {
    let name = ServerName::try_from(name.to_owned()).map_err(text)?;
    let shaken = Box::pin(TlsConnector::from(config.clone()).connect(name, stream)).await;
    Ok(Box::new(shaken.map_err(text)?))
}

/// Asks. The answer is whatever came, good or bad.
///
/// # Errors
/// Why none came.
pub async fn send<B>(wire: Box<dyn Wire>, request: Request<B>) -> Result<Answer, String>
where
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(wire)).await;
    let (mut sender, connection) = shaken.map_err(text)?;
    let driver = Driver(tokio::spawn(async move { drop(connection.await) }));
    let response = sender.send_request(request).await.map_err(text)?;
    Ok(Answer { response, _driver: driver })
}

impl Answer {
    /// Its head.
    pub fn head(&self) -> &Response<Incoming> {
        &self.response
    }

    /// The next piece of the body; None at its end.
    ///
    /// # Errors
    /// Why it broke off.
    pub async fn piece(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match self.response.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(text(error)),
                Some(Ok(frame)) => {
                    if let Ok(piece) = frame.into_data() {
                        return Ok(Some(piece));
                    }
                }
            }
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// Why it broke off, or that it is longer than this.
    pub async fn body(&mut self, bytes_max: usize) -> Result<Vec<u8>, String> {
        let mut all = Vec::new();
        while let Some(piece) = self.piece().await? {
            if all.len() + piece.len() > bytes_max {
                return Err(format!("an answer of more than {bytes_max} bytes"));
            }
            all.extend_from_slice(&piece);
        }
        Ok(all)
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

/// A TLS client that trusts these authorities, or those of the system, and shows a certificate if it has one.
///
/// # Errors
/// What of it cannot be used.
pub fn tls(authorities: Option<&[u8]>, identity: Option<(&[u8], &[u8])>) -> Result<Arc<rustls::ClientConfig>, String> {
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
        return Err("no certificate authority that can be used".to_owned());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(text)?.with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let chain = CertificateDer::pem_slice_iter(chain).collect::<Result<Vec<_>, _>>().map_err(text)?;
            let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| "the client key cannot be read".to_owned())?;
            builder.with_client_auth_cert(chain, key).map_err(text)?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Where distributions keep the authorities that they trust.
fn system_authorities() -> Result<Vec<u8>, String> {
    const PLACES: [&str; 4] = [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ];
    let named = std::env::var("SSL_CERT_FILE").ok();
    let places = named.as_deref().into_iter().chain(PLACES);
    let found = places.map(std::fs::read).find_map(Result::ok);
    found.ok_or_else(|| "the system has no file of certificate authorities: name one with `ca_file`".to_owned())
}
