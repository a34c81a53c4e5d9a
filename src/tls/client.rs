//! Whom the gateway takes for an endpoint of a service, and who it is to endpoints (F88).

use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Pair;
use super::provider::{Profile, provider};
use crate::limits::UPSTREAM_SESSIONS_MAX;

/// Where systems keep the authorities that they trust; the first that is there counts. `SSL_CERT_FILE` goes before.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What a service's TLS is made from.
pub struct EndpointRules {
    /// Authorities that are trusted; empty for those of the system.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Whether certificates and their names are verified.
    pub verifies: bool,
    /// The name that is asked for and verified; the endpoint's host when None.
    pub server_name: Option<ServerName<'static>>,
    /// The certificate that endpoints may ask for.
    pub identity: Option<Pair>,
    /// Protocols of ALPN, the best first.
    pub alpn: Vec<Vec<u8>>,
}

/// The TLS of a service, with the sessions that can be resumed. All its workers and, while nothing of it changes, all
/// its snapshots share it.
pub struct ClientTls {
    config: Arc<ClientConfig>,
    /// The same with HTTP/1.1 as all that is offered.
    http1: Arc<ClientConfig>,
    server_name: Option<ServerName<'static>>,
    source: [u8; 32],
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientTls").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl ClientTls {
    /// Makes the rules ready.
    ///
    /// # Errors
    /// What is wrong, in words for the user.
    pub fn new(rules: EndpointRules) -> Result<Self, String> {
        let source = rules.digest();
        let provider = provider();
        let verifier: Arc<dyn ServerCertVerifier> = if rules.verifies {
            let roots = if rules.authorities.is_empty() { system_roots()? } else { store(&rules.authorities)? };
            let built = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build();
            built.map_err(|error| format!("the authorities cannot be used: {error}"))?
        } else {
            Arc::new(Anybody(provider.clone()))
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(Profile::Intermediate.versions())
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(verifier);
        let mut config = match &rules.identity {
            Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.key.clone()))),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(UPSTREAM_SESSIONS_MAX);
        config.alpn_protocols = rules.alpn;
        // The record layer is our own.
        config.enable_secret_extraction = true;
        let config = Arc::new(config);
        let http1 = if config.alpn_protocols.iter().any(|protocol| protocol == b"h2") {
            let mut http1 = ClientConfig::clone(&config);
            http1.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(http1)
        } else {
            config.clone()
        };
        Ok(Self { config, http1, server_name: rules.server_name, source })
    }

    /// Whether it was made from the same.
    pub fn is_like(&self, other: &Self) -> bool {
        self.source == other.source
    }

    /// What handshakes need.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config.clone()
    }

    /// As [`Self::config`], for what HTTP/1.1 alone can carry.
    pub fn http1_config(&self) -> Arc<ClientConfig> {
        self.http1.clone()
    }

    /// Whether HTTP/2 is all that is offered.
    pub fn wants_h2(&self) -> bool {
        self.config.alpn_protocols == [b"h2"]
    }

    /// The name to ask for and to verify at an endpoint `host:port`; None where the host can be in no certificate.
    pub fn name(&self, authority: &str) -> Option<ServerName<'static>> {
        if let Some(name) = &self.server_name {
            return Some(name.clone());
        }
        let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
        server_name(host.trim_start_matches('[').trim_end_matches(']'))
    }
}

/// A host name, or an address, as it may stand in a certificate.
pub fn server_name(text: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(text.to_owned()).ok()
}

impl EndpointRules {
    fn digest(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        let mut add = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_be_bytes());
            context.update(bytes);
        };
        add(&[u8::from(self.verifies)]);
        add(self.server_name.as_ref().map(|name| name.to_str()).unwrap_or_default().as_bytes());
        add(self.identity.as_ref().map_or(&[][..], |pair| &pair.fingerprint));
        add(&self.alpn.join(&b' '));
        self.authorities.iter().for_each(|der| add(der));
        let mut digest = [0; 32];
        digest.copy_from_slice(context.finish().as_ref());
        digest
    }
}

fn store(authorities: &[CertificateDer<'static>]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for authority in authorities {
        roots.add(authority.clone()).map_err(|error| format!("an authority cannot be used: {error}"))?;
    }
    Ok(roots)
}

/// The authorities that the system trusts. Those that cannot be read are passed over, as everywhere.
fn system_roots() -> Result<RootCertStore, String> {
    let own = std::env::var_os("SSL_CERT_FILE");
    let places = own.iter().map(Path::new).chain(SYSTEM_ROOTS.iter().map(Path::new));
    let Some(path) = places.into_iter().find(|path| path.is_file()) else {
        return Err("the system has no list of authorities that it trusts: install ca-certificates, or name some \
                    with `ca`"
            .to_owned());
    };
    let mut roots = RootCertStore::empty();
    let found = CertificateDer::pem_file_iter(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    roots.add_parsable_certificates(found.flatten());
    if roots.is_empty() {
        return Err(format!("`{}` holds no authority", path.display()));
    }
    Ok(roots)
}

/// Believes everybody (`verify: false`). What they sign must still be signed with the key that they show.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Which check a certificate did not pass, in words for the log.
pub fn certificate_words(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "the certificate has expired",
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the certificate is not valid yet"
        }
        CertificateError::UnknownIssuer => "the certificate is of an unknown authority",
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the certificate is for another name"
        }
        CertificateError::Revoked => "the certificate is revoked",
        CertificateError::BadSignature => "the certificate's signature is wrong",
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "the certificate is not for servers"
        }
        CertificateError::BadEncoding => "the certificate cannot be read",
        _ => "the certificate is not accepted",
    }
}
