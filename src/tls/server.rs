//! What a listener does with TLS: which certificate answers which name, and whose certificates it asks for.

use std::collections::HashMap;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::certificate::{Pair, identity};
use super::managed::{Proofs, Slot, TLS_PROOF_PROTOCOL};
use super::pace::Paces;
use super::provider::{Profile, provider};
use super::ticket::{BoundTickets, TicketRing};
use crate::http::secure::Secure;
use crate::net::tls::Agreed;
use crate::time;

/// What a listener's TLS is made from.
#[derive(Debug)]
pub struct Rules {
    /// Its identity: sessions of other listeners are not taken up.
    pub listener: String,
    /// Certificates. The first one answers clients that ask for no name, or for one that no certificate has.
    pub pairs: Vec<Pair>,
    /// Names whose certificates the gateway gets by itself. They go before `pairs`, once they are there.
    pub managed: Vec<Arc<Slot>>,
    /// What is to be proved to authorities, where it orders certificates.
    pub proofs: Option<Arc<Proofs>>,
    /// How many handshakes are taken in a time.
    pub paces: Option<Arc<Paces>>,
    /// Names that no certificate has are refused, and so is asking for none.
    pub refuse_unknown: bool,
    /// Versions and ciphers.
    pub profile: Profile,
    /// Protocols for ALPN, the best first.
    pub alpn: Vec<Vec<u8>>,
    /// Keys of session tickets; None for no tickets.
    pub tickets: Option<Arc<TicketRing>>,
    /// Whose certificates are asked for where no zone says otherwise.
    pub client: Option<ClientRules>,
    /// Names with rules of their own.
    pub zones: Vec<ZoneRules>,
    /// The value of `Strict-Transport-Security`.
    pub hsts: Option<String>,
    /// Connections without TLS are served too.
    pub plain_too: bool,
    /// Endpoints are told who the client is.
    pub forward_identity: bool,
}

/// Names with rules of their own.
#[derive(Debug)]
pub struct ZoneRules {
    /// Host names in lower case; `*.` begins a wildcard.
    pub names: Vec<String>,
    /// Whose certificates are asked for.
    pub client: Option<ClientRules>,
}

/// Whose certificates clients show.
#[derive(Debug)]
pub struct ClientRules {
    /// Who must have signed them.
    pub authorities: Vec<CertificateDer<'static>>,
    /// What they have revoked. With any list there must be one of every authority: what nobody vouches for is refused.
    pub revocations: Vec<CertificateRevocationListDer<'static>>,
    /// Clients without one are refused.
    pub required: bool,
    /// A list that is over still counts for what it says; else nobody is let in until there is a new one.
    pub believes_old_lists: bool,
    /// The lists by their files.
    pub lists: Vec<List>,
}

/// A revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// Where it was read from.
    pub label: String,
    /// When the next one was promised for, in seconds since the Unix epoch.
    pub until_s: i64,
}

/// A listener's TLS.
#[derive(Debug)]
pub struct ServerTls {
    zones: Vec<Zone>,
    by_name: Names<usize>,
    certificates: Arc<Certificates>,
    proofs: Option<Arc<Proofs>>,
    refuse_unknown: bool,
    tickets: Option<Arc<TicketRing>>,
    /// How many handshakes are taken in a time; goes on over reloads.
    pub paces: Option<Arc<Paces>>,
    /// The value of `Strict-Transport-Security`.
    pub hsts: Option<String>,
    /// Connections without TLS are served too.
    pub plain_too: bool,
    /// Endpoints are told who the client is.
    pub forward_identity: bool,
    /// Revocation lists, for metrics.
    pub lists: Vec<List>,
    /// Its certificates that were read with the configuration.
    pairs: Vec<Pair>,
}

/// What is known of a certificate in service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Where it was read from.
    pub label: String,
    /// Its names.
    pub names: Vec<String>,
    /// Its beginning, in seconds since the Unix epoch.
    pub not_before_s: i64,
    /// Its end, in seconds since the Unix epoch.
    pub not_after_s: i64,
    /// SHA-256 of it.
    pub fingerprint: [u8; 32],
    /// Whether its OCSP response is stapled at present; None where it has none.
    pub staples: Option<bool>,
}

impl Known {
    /// What is known of it.
    pub fn of(pair: &Pair) -> Self {
        Self {
            label: pair.label.clone(),
            names: pair.names.clone(),
            not_before_s: pair.not_before_s,
            not_after_s: pair.not_after_s,
            fingerprint: pair.fingerprint,
            staples: pair.staples_at(time::unix_seconds()),
        }
    }
}

#[derive(Debug)]
struct Zone {
    config: Arc<ServerConfig>,
    /// Digest of its rules.
    rules: [u8; 32],
}

/// A table by host name: exact names before wildcards, which stand for one label.
#[derive(Debug)]
struct Names<T> {
    exact: HashMap<Box<str>, T, ahash::RandomState>,
    wildcard: HashMap<Box<str>, T, ahash::RandomState>,
}

impl<T> Names<T> {
    fn new() -> Self {
        Self { exact: HashMap::default(), wildcard: HashMap::default() }
    }

    fn entry(&mut self, name: &str) -> std::collections::hash_map::Entry<'_, Box<str>, T> {
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.entry(parent.into()),
            None => self.exact.entry(name.into()),
        }
    }

    /// Finds a name in lower case.
    fn find(&self, name: &str) -> Option<&T> {
        self.exact.get(name).or_else(|| {
            let (first, parent) = name.split_once('.')?;
            self.wildcard.get(parent).filter(|_| !first.is_empty())
        })
    }
}

/// Certificates by name. Of several for one name, the first that the client can check is taken.
#[derive(Debug)]
struct Certificates {
    by_name: Names<Vec<Arc<Pair>>>,
    default: Vec<Arc<Pair>>,
    managed: HashMap<Box<str>, Arc<Slot>, ahash::RandomState>,
}

impl Certificates {
    fn new(mut pairs: Vec<Pair>, managed: &[Arc<Slot>]) -> Self {
        let first = pairs.first().cloned();
        pairs.sort_by_key(Pair::rank);
        let pairs: Vec<Arc<Pair>> = pairs.into_iter().map(Arc::new).collect();
        let mut by_name = Names::<Vec<Arc<Pair>>>::new();
        for pair in &pairs {
            for name in &pair.names {
                by_name.entry(name).or_default().push(pair.clone());
            }
        }
        // Beside the first, those with the same names stand in for it: the other kind of key.
        let names = first.map(|pair| pair.names).unwrap_or_default();
        let default = pairs.iter().filter(|pair| pair.names == names).cloned().collect();
        let managed = managed.iter().map(|slot| (slot.name.as_str().into(), slot.clone())).collect();
        Self { by_name, default, managed }
    }

    /// Whether somebody who asks for this name is shown a certificate of it.
    fn has(&self, name: &str) -> bool {
        self.managed.get(name).is_some_and(|slot| slot.get().is_some()) || self.by_name.find(name).is_some()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(lower);
        let fits = |pair: &&Arc<Pair>| pair.key.key.choose_scheme(hello.signature_schemes()).is_some();
        if !self.managed.is_empty()
            && let Some(pair) = name.as_deref().and_then(|name| self.managed.get(name)?.get())
            && fits(&&pair)
        {
            return Some(pair.shown().clone());
        }
        let named = name.and_then(|name| self.by_name.find(&name));
        let candidates = named.unwrap_or(&self.default);
        candidates.iter().find(fits).map(|pair| pair.shown().clone())
    }
}

fn lower(name: &str) -> String {
    name.to_ascii_lowercase()
}

impl ServerTls {
    /// Makes it ready for handshakes.
    ///
    /// # Errors
    /// What is wrong, in words for the user.
    pub fn new(rules: Rules) -> Result<Self, String> {
        if rules.pairs.is_empty() && rules.managed.is_empty() {
            return Err("there is no certificate".to_owned());
        }
        let certificates = Arc::new(Certificates::new(rules.pairs.clone(), &rules.managed));
        let clients = rules.client.iter().chain(rules.zones.iter().filter_map(|zone| zone.client.as_ref()));
        let lists = clients.flat_map(|client| client.lists.iter().cloned()).collect();
        let mut zones = vec![zone(&rules, &[], rules.client.as_ref(), &certificates)?];
        let mut by_name = Names::new();
        for written in &rules.zones {
            zones.push(zone(&rules, &written.names, written.client.as_ref(), &certificates)?);
            for name in &written.names {
                by_name.entry(name).or_insert(zones.len() - 1);
            }
        }
        Ok(Self {
            zones,
            by_name,
            certificates,
            proofs: rules.proofs,
            paces: rules.paces,
            lists,
            refuse_unknown: rules.refuse_unknown,
            tickets: rules.tickets,
            hsts: rules.hsts,
            plain_too: rules.plain_too,
            forward_identity: rules.forward_identity,
            pairs: rules.pairs,
        })
    }

    /// The rules for a client that says this; None when the name that it asks for is not served here.
    pub fn choose(&self, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
        let name = hello.server_name().map(lower);
        if let Some(proofs) = self.proofs.as_ref().filter(|_| asks_for_proof(hello)) {
            return proofs.handshake(name.as_deref()?);
        }
        let is_known = name.as_deref().is_some_and(|name| self.certificates.has(name));
        // A name whose certificate is still to come is not answered with another one's.
        let is_to_come = || name.as_deref().is_some_and(|name| self.certificates.managed.contains_key(name));
        if !is_known && (self.refuse_unknown || self.certificates.default.is_empty() || is_to_come()) {
            return None;
        }
        Some(self.zones[self.zone_of(name.as_deref())].config.clone())
    }

    fn zone_of(&self, name: Option<&str>) -> usize {
        name.and_then(|name| self.by_name.find(name)).copied().unwrap_or(0)
    }

    /// What requests of a connection know of it, after its handshake.
    pub fn describe(&self, agreed: &Agreed) -> Secure {
        let zone = self.zone_of(agreed.server_name.as_deref());
        Secure {
            server_name: agreed.server_name.clone(),
            zone,
            rules: self.zones[zone].rules,
            version: if agreed.version == rustls::ProtocolVersion::TLSv1_2 { "TLSv1.2" } else { "TLSv1.3" },
            resumed: agreed.resumed,
            client: agreed.peer.as_ref().and_then(|chain| chain.first()).and_then(identity),
        }
    }

    /// Whether a connection that was accepted as `secure` says may ask for this host: the rules for client certificates
    /// are those of its own name, and they have not changed since (F50, F84).
    #[inline]
    pub fn admits(&self, secure: &Secure, host: &[u8]) -> bool {
        self.zones[self.zone_of_host(host)].rules == secure.rules
    }

    fn zone_of_host(&self, host: &[u8]) -> usize {
        if self.zones.len() == 1 {
            return 0;
        }
        let host = host.strip_suffix(b".").unwrap_or(host);
        match std::str::from_utf8(host) {
            Ok(host) => self.zone_of(Some(&lower(host))),
            Err(_) => 0,
        }
    }

    /// Its certificates at present, for metrics and warnings.
    pub fn known(&self) -> Vec<Known> {
        let managed = self.certificates.managed.values().filter_map(|slot| Some(Known::of(&*slot.get()?)));
        let mut managed: Vec<_> = managed.collect();
        managed.sort_by(|one, other| one.label.cmp(&other.label));
        self.pairs.iter().map(Known::of).chain(managed).collect()
    }

    /// The keys of its tickets, for the listener that follows it.
    pub fn tickets(&self) -> Option<Arc<TicketRing>> {
        self.tickets.clone()
    }
}

/// Whether a handshake is of tls-alpn-01: that protocol and no other (RFC 8737 section 3).
fn asks_for_proof(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut all| all.next() == Some(TLS_PROOF_PROTOCOL) && all.next().is_none())
}

fn zone(
    rules: &Rules,
    names: &[String],
    client: Option<&ClientRules>,
    certificates: &Arc<Certificates>,
) -> Result<Zone, String> {
    let provider = provider();
    let verifier: Arc<dyn ClientCertVerifier> = match client {
        None => WebPkiClientVerifier::no_client_auth(),
        Some(client) => verifier(client)?,
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(rules.profile.versions())
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificates.clone());
    let (rules_digest, session_digest) = digests(&rules.listener, names, client);
    config.alpn_protocols = rules.alpn.clone();
    config.ignore_client_order = true;
    config.enable_secret_extraction = true;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // One ticket is enough: resuming brings the next one.
    config.send_tls13_tickets = usize::from(rules.tickets.is_some());
    if let Some(ring) = &rules.tickets {
        config.ticketer = Arc::new(BoundTickets { ring: ring.clone(), binding: session_digest });
    }
    Ok(Zone { config: Arc::new(config), rules: rules_digest })
}

fn verifier(client: &ClientRules) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut roots = RootCertStore::empty();
    for authority in &client.authorities {
        roots.add(authority.clone()).map_err(|error| format!("a certificate of an authority is refused: {error}"))?;
    }
    let mut builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .with_crls(client.revocations.iter().cloned());
    if !client.believes_old_lists {
        builder = builder.enforce_revocation_expiration();
    }
    if !client.required {
        builder = builder.allow_unauthenticated();
    }
    builder.build().map(|verifier| verifier as _).map_err(|error| format!("client certificates: {error}"))
}

/// Digests of the rules for client certificates: without what is revoked, for connections that stay open when a list is
/// renewed, and with it, for sessions, which then are verified anew.
fn digests(listener: &str, names: &[String], client: Option<&ClientRules>) -> ([u8; 32], [u8; 32]) {
    let mut digest = Context::new(&SHA256);
    let mut add = |bytes: &[u8]| {
        digest.update(&(bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    };
    add(listener.as_bytes());
    let mut sessions = None;
    if let Some(client) = client {
        names.iter().for_each(|name| add(name.as_bytes()));
        add(if client.required { b"required" } else { b"optional" });
        client.authorities.iter().for_each(|one| add(one));
        let mut more = digest.clone();
        client.revocations.iter().for_each(|list| more.update(list));
        more.update(&[u8::from(client.believes_old_lists)]);
        sessions = Some(finish(more));
    }
    let rules = finish(digest);
    (rules, sessions.unwrap_or(rules))
}

fn finish(digest: Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.finish().as_ref());
    bytes
}
