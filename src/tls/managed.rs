//! Certificates that the gateway gets by itself (RFC 8555), as far as handshakes and requests see them: the slot that
//! the present certificate of a name stands in, and the proofs that an authority asks for while it is being ordered.
//!
//! The control thread writes both; nothing of a configuration or of a connection changes with them.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use rustls::ServerConfig;

use super::certificate::Pair;
use crate::limits::ACME_PROOFS_MAX;

/// Where proofs of http-01 are asked for (RFC 8555 section 8.3).
pub const HTTP_PROOF_PREFIX: &[u8] = b"/.well-known/acme-challenge/";
/// The protocol in which tls-alpn-01 asks (RFC 8737 section 3).
pub const TLS_PROOF_PROTOCOL: &[u8] = b"acme-tls/1";

/// Everything that is ordered for a configuration.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Whom certificates are ordered from, and for which names.
    pub sites: Vec<Arc<Site>>,
    /// What is to be proved at present; the same over reloads.
    pub proofs: Arc<Proofs>,
}

/// An authority with a place on disk, and the names that it is asked for.
#[derive(Debug)]
pub struct Site {
    /// How it is asked.
    pub settings: Settings,
    /// The names, each with its certificate.
    pub slots: Vec<Arc<Slot>>,
}

/// How an authority is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The URL of its directory.
    pub directory: String,
    /// Where account, certificates and locks are kept: a directory for this authority alone.
    pub storage: PathBuf,
    /// Whom it may write to about the account.
    pub email: Option<String>,
    /// Who has signed its own certificate, as PEM; those that the system trusts without.
    pub authorities: Option<Vec<u8>>,
    /// The customer's account that the account is bound to: its id and key.
    pub binding: Option<(String, Vec<u8>)>,
    /// How names are proved.
    pub method: Method,
}

/// How a name is proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// By a handshake at port 443.
    TlsAlpn01,
    /// By a request at port 80.
    Http01,
}

impl Method {
    /// Its name in the protocol.
    pub const fn word(self) -> &'static str {
        match self {
            Self::TlsAlpn01 => "tls-alpn-01",
            Self::Http01 => "http-01",
        }
    }
}

impl Settings {
    /// Where what belongs to a name is kept.
    pub fn home(&self, name: &str) -> PathBuf {
        self.storage.join(name)
    }

    /// The file with a name's certificate, its chain and its key: one file, so that they change together.
    pub fn pair_file(&self, name: &str) -> PathBuf {
        self.home(name).join("pair.pem")
    }
}

/// The certificate of a name; empty until there is one. It goes on over reloads.
#[derive(Debug)]
pub struct Slot {
    /// The name, in lower case.
    pub name: String,
    pair: ArcSwapOption<Pair>,
}

impl Slot {
    /// With what is known already.
    pub fn new(name: String, pair: Option<Pair>) -> Arc<Self> {
        Arc::new(Self { name, pair: ArcSwapOption::from(pair.map(Arc::new)) })
    }

    /// What serves.
    pub fn get(&self) -> Option<Arc<Pair>> {
        self.pair.load_full()
    }

    /// Serves this from the next handshake on.
    pub fn set(&self, pair: Pair) {
        self.pair.store(Some(Arc::new(pair)));
    }
}

/// What is to be proved at present.
#[derive(Debug, Default)]
pub struct Proofs {
    table: ArcSwap<Table>,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// By token.
    requests: HashMap<Box<str>, Bytes>,
    /// By name.
    handshakes: HashMap<Box<str>, Arc<ServerConfig>>,
}

impl Proofs {
    /// The answer to a request for this path, if it asks for something that is to be proved.
    pub fn answer(&self, path: &[u8]) -> Option<Bytes> {
        let token = std::str::from_utf8(path.strip_prefix(HTTP_PROOF_PREFIX)?).ok()?;
        self.table.load().requests.get(token).cloned()
    }

    /// The rules of a handshake that proves this name.
    pub fn handshake(&self, name: &str) -> Option<Arc<ServerConfig>> {
        self.table.load().handshakes.get(name).cloned()
    }

    /// Answers requests for `token` with `text`. Returns false where there are too many already.
    pub fn add_request(&self, token: &str, text: &str) -> bool {
        self.change(|table| {
            table.requests.insert(token.into(), Bytes::copy_from_slice(text.as_bytes()));
        })
    }

    /// Answers handshakes for `name`. Returns false where there are too many already.
    pub fn add_handshake(&self, name: &str, config: Arc<ServerConfig>) -> bool {
        self.change(|table| {
            table.handshakes.insert(name.into(), config.clone());
        })
    }

    /// Answers nothing for this token and this name any more.
    pub fn remove(&self, token: &str, name: &str) {
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            table.requests.remove(token);
            table.handshakes.remove(name);
            table
        });
    }

    fn change(&self, change: impl Fn(&mut Table)) -> bool {
        let before = self.table.load();
        if before.requests.len() + before.handshakes.len() >= ACME_PROOFS_MAX {
            return false;
        }
        self.table.rcu(|table| {
            let mut table = Table::clone(table);
            change(&mut table);
            table
        });
        true
    }
}

/// The rules of a handshake that proves `name` to whoever asks in [`TLS_PROOF_PROTOCOL`]: a certificate of our own for
/// that name alone, with the digest of what is to be proved in it (RFC 8737 section 3).
///
/// # Errors
/// When no certificate can be made.
#[cfg(feature = "acme")]
pub fn proof_handshake(name: &str, digest: &[u8]) -> Result<Arc<ServerConfig>, String> {
    use rcgen::{CertificateParams, CustomExtension, KeyPair};
    use rustls::crypto::aws_lc_rs::sign::any_supported_type;
    use rustls::pki_types::PrivateKeyDer;
    use rustls::sign::{CertifiedKey, SingleCertAndKey};
    let told = |error: rcgen::Error| error.to_string();
    let mut params = CertificateParams::new(vec![name.to_owned()]).map_err(told)?;
    params.custom_extensions.push(CustomExtension::new_acme_identifier(digest));
    let key = KeyPair::generate().map_err(told)?;
    let certificate = params.self_signed(&key).map_err(told)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(str::to_owned)?;
    let key = any_supported_type(&key).map_err(|error| error.to_string())?;
    // Its extension is critical and unknown to everybody else: it is checked by nobody but the authority.
    let certified = SingleCertAndKey::from(CertifiedKey::new(vec![certificate.der().clone()], key));
    let mut config = ServerConfig::builder_with_provider(super::provider::provider())
        .with_protocol_versions(super::provider::Profile::Intermediate.versions())
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certified));
    config.alpn_protocols = vec![TLS_PROOF_PROTOCOL.to_vec()];
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    // The record layer is our own.
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(feature = "acme")]
    #[test]
    fn a_handshake_can_be_made_for_every_digest() {
        let config = proof_handshake("site.test", &[7; 32]).expect("made");
        assert_eq!(config.alpn_protocols, [TLS_PROOF_PROTOCOL]);
        assert!(config.enable_secret_extraction);
        let proofs = Proofs::default();
        assert!(proofs.handshake("site.test").is_none() && proofs.add_handshake("site.test", config));
        assert!(proofs.handshake("site.test").is_some() && proofs.handshake("other.test").is_none());
        proofs.remove("", "site.test");
        assert!(proofs.handshake("site.test").is_none());
    }

    #[test]
    fn proofs_are_answered_while_they_are_asked_for_and_bounded() {
        let proofs = Proofs::default();
        assert!(proofs.add_request("abc", "abc.print"));
        assert_eq!(proofs.answer(b"/.well-known/acme-challenge/abc").as_deref(), Some(&b"abc.print"[..]));
        for path in ["/.well-known/acme-challenge/", "/.well-known/acme-challenge/abcd", "/abc", "/x/abc"] {
            assert_eq!(proofs.answer(path.as_bytes()), None, "{path}");
        }
        proofs.remove("abc", "");
        assert_eq!(proofs.answer(b"/.well-known/acme-challenge/abc"), None);
        let added = (0..ACME_PROOFS_MAX + 9).filter(|n| proofs.add_request(&n.to_string(), "x")).count();
        assert_eq!(added, ACME_PROOFS_MAX);
    }
}
