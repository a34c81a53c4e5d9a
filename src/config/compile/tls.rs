//! `listeners[].tls`: reads certificates, keys and lists, and says which file is wrong.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Inputs, acme};
use crate::config::model::{self, ClientAuthMode, CrlExpired, TlsProfile, UnknownName};
use crate::limits::{CERTIFICATE_DAYS_MIN, CERTIFICATES_MAX, TLS_FILE_BYTES_MAX};
use crate::schema::types::Rate;
use crate::schema::{Diagnostics, Span, Spanned, codes};
use crate::snapshot::Listener;
use crate::time;
use crate::tls::managed::Plan;
use crate::tls::{ClientRules, Pair, Profile, Rules, ServerTls, TicketRing, ZoneRules};
use crate::tls::{List, Pace, Paces, read_authorities, read_revocations, revocations_end_s};

/// The TLS of a listener. None where it has none, or what it has is wrong and was reported.
pub(super) fn compile(
    written: &model::Listener,
    config: &model::Config,
    plan: &Plan,
    inputs: &Inputs<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<ServerTls>> {
    let tls = written.tls.as_ref()?;
    let before = inputs.previous.into_iter().flat_map(|snapshot| &snapshot.listeners);
    let before: Vec<&Listener> = before.collect();
    let mut reader = Reader { diagnostics, before: &before, now_s: time::unix_seconds(), failed: false };
    let pairs = reader.pairs(tls);
    let client = reader.client(tls.client_auth.as_ref());
    let zones = tls.hosts.iter().map(|host| ZoneRules {
        names: host.names.iter().map(|name| name.as_str().to_owned()).collect(),
        client: reader.client(host.client_auth.as_ref()),
    });
    let zones = zones.collect();
    let managed = tls.acme.as_ref().map(|acme| acme::slots(acme, config, plan)).unwrap_or_default();
    // Without any name, that was told.
    if reader.failed || (pairs.is_empty() && managed.is_empty() && tls.acme.is_some()) {
        return None;
    }
    let tickets = match tls.tickets.then(|| ring(&before)).transpose() {
        Ok(ring) => ring,
        Err(what) => {
            diagnostics.report(codes::BAD_CERTIFICATE, tls.span, what);
            return None;
        }
    };
    let rules = Rules {
        listener: written.address.0.to_string(),
        pairs,
        managed,
        paces: paces(written, &before),
        proofs: tls.acme.as_ref().map(|_| plan.proofs.clone()),
        refuse_unknown: tls.unknown_name == UnknownName::Refuse,
        profile: match tls.profile {
            TlsProfile::Modern => Profile::Modern,
            TlsProfile::Intermediate => Profile::Intermediate,
        },
        alpn: alpn(written),
        tickets,
        client,
        zones,
        hsts: tls.hsts.as_ref().map(hsts),
        plain_too: tls.plain_too,
        forward_identity: tls.forward_client_cert,
    };
    match ServerTls::new(rules) {
        Ok(tls) => Some(Arc::new(tls)),
        Err(what) => {
            diagnostics.report(codes::BAD_CERTIFICATE, tls.span, what);
            None
        }
    }
}

/// The rates of handshakes; a listener whose rates stay goes on counting.
fn paces(written: &model::Listener, before: &[&Listener]) -> Option<Arc<Paces>> {
    let pace = |rate: Rate| Pace::new(rate.count, u64::try_from(rate.per.as_nanos()).unwrap_or(u64::MAX));
    let (all, client) = (written.limits.handshake_rate.map(pace), written.limits.handshake_rate_per_client.map(pace));
    if all.is_none() && client.is_none() {
        return None;
    }
    let same = before.iter().find(|listener| listener.address == written.address.0);
    let same = same.and_then(|listener| listener.tls.as_ref()?.paces.clone()).filter(|paces| paces.has(all, client));
    Some(same.unwrap_or_else(|| Arc::new(Paces::new(all, client))))
}

/// What is offered, the better first.
fn alpn(written: &model::Listener) -> Vec<Vec<u8>> {
    let h2 = written.protocols.contains(&model::Wire::H2).then(|| b"h2".to_vec());
    h2.into_iter().chain([b"http/1.1".to_vec()]).collect()
}

/// All listeners have the same keys, before a reload and after it.
fn ring(before: &[&Listener]) -> Result<Arc<TicketRing>, String> {
    match before.iter().find_map(|listener| listener.tls.as_ref()?.tickets()) {
        Some(ring) => Ok(ring),
        None => TicketRing::new(),
    }
}

fn hsts(written: &model::Hsts) -> String {
    let mut value = format!("max-age={}", written.max_age.as_millis() / 1_000);
    if written.subdomains {
        value.push_str("; includeSubDomains");
    }
    if written.preload {
        value.push_str("; preload");
    }
    value
}

/// Files that the TLS of listeners and services is made from: a reload takes up what they hold.
pub fn files(config: &model::Config) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for tls in config.listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        all.extend([&tls.cert, &tls.key, &tls.ocsp].into_iter().flatten().map(|path| PathBuf::from(&path.value)));
        for one in &tls.certificates {
            all.extend([&one.cert, &one.key, &one.ocsp].into_iter().flatten().map(|path| PathBuf::from(&path.value)));
            let directory = one.directory.as_ref().and_then(|path| in_directory(Path::new(&path.value)).ok());
            all.extend(directory.into_iter().flatten().flat_map(|(cert, key)| [cert, key]));
        }
        let hosts = tls.hosts.iter().filter_map(|host| host.client_auth.as_ref());
        for auth in tls.client_auth.iter().chain(hosts) {
            all.extend(auth.ca.iter().chain(&auth.crl).map(|path| PathBuf::from(&path.value)));
        }
    }
    for tls in config.services.iter().filter_map(|service| service.tls.as_ref()) {
        let pair = [&tls.cert, &tls.key].into_iter().flatten();
        all.extend(tls.ca.iter().chain(pair).map(|path| PathBuf::from(&path.value)));
    }
    all.sort();
    all.dedup();
    all
}

struct Reader<'a> {
    diagnostics: &'a mut Diagnostics,
    before: &'a [&'a Listener],
    now_s: u64,
    failed: bool,
}

impl Reader<'_> {
    fn fail(&mut self, span: Span, what: String) {
        self.failed = true;
        self.diagnostics.report(codes::BAD_CERTIFICATE, span, what);
    }

    fn read(&mut self, path: &str, span: Span) -> Option<Vec<u8>> {
        match read(Path::new(path)) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                self.fail(span, format!("`{path}` cannot be read: {error}"));
                None
            }
        }
    }

    fn pairs(&mut self, tls: &Spanned<model::Tls>) -> Vec<Pair> {
        let mut pairs = Vec::new();
        if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
            pairs.extend(self.files(cert, key, tls.ocsp.as_ref()));
        }
        for one in &tls.certificates {
            if let (Some(cert), Some(key)) = (&one.cert, &one.key) {
                pairs.extend(self.files(cert, key, one.ocsp.as_ref()));
            }
            if let Some(directory) = &one.directory {
                self.directory(directory, &mut pairs);
            }
            if let Some(pem) = &one.pem {
                let text = pem.expose().as_bytes();
                pairs.extend(self.pair(text, text, None, "(pem)".to_owned(), pem.span));
            }
        }
        if pairs.len() > CERTIFICATES_MAX {
            self.fail(tls.span, format!("a listener has at most {CERTIFICATES_MAX} certificates"));
        }
        pairs
    }

    fn files(&mut self, cert: &Spanned<String>, key: &Spanned<String>, ocsp: Option<&Spanned<String>>) -> Option<Pair> {
        let chain = self.read(cert, cert.span)?;
        let secret = self.read(key, key.span)?;
        let staple = match ocsp {
            Some(path) => Some(self.read(path, path.span)?),
            None => None,
        };
        self.pair(&chain, &secret, staple, cert.value.clone(), cert.span)
    }

    fn directory(&mut self, directory: &Spanned<String>, pairs: &mut Vec<Pair>) {
        let found = match in_directory(Path::new(&directory.value)) {
            Ok(found) if !found.is_empty() => found,
            Ok(_) => return self.fail(directory.span, format!("`{}` holds no certificate", directory.value)),
            Err(error) => return self.fail(directory.span, format!("`{}` cannot be read: {error}", directory.value)),
        };
        for (cert, key) in found {
            let (cert, key) = (cert.display().to_string(), key.display().to_string());
            let chain = self.read(&cert, directory.span);
            let secret = self.read(&key, directory.span);
            if let (Some(chain), Some(secret)) = (chain, secret) {
                pairs.extend(self.pair(&chain, &secret, None, cert, directory.span));
            }
        }
    }

    fn pair(&mut self, chain: &[u8], key: &[u8], ocsp: Option<Vec<u8>>, label: String, span: Span) -> Option<Pair> {
        let pair = match Pair::read(chain, key, ocsp, label.clone()) {
            Ok(pair) => pair,
            Err(what) => {
                self.fail(span, format!("`{label}`: {what}"));
                return None;
            }
        };
        self.judge(&pair, span);
        Some(pair)
    }

    /// An expired certificate is no reason to leave one that is good: a reload with it is refused (F87). At the start,
    /// and where it serves already, there is nothing better, and it is only said.
    fn judge(&mut self, pair: &Pair, span: Span) {
        let days = pair.days_left(self.now_s);
        let serves = |listener: &&Listener| {
            let mut known = listener.tls.iter().flat_map(|tls| tls.known());
            known.any(|known| known.fingerprint == pair.fingerprint)
        };
        if days < 0 && !self.before.is_empty() && !self.before.iter().any(serves) {
            self.fail(span, format!("`{}` has expired {} days ago", pair.label, -days));
        } else if days < 0 {
            let message = format!("`{}` has expired: clients will refuse it", pair.label);
            self.diagnostics.report(codes::CERTIFICATE_EXPIRES, span, message);
        } else if days < CERTIFICATE_DAYS_MIN {
            let message = format!("`{}` expires in {days} days", pair.label);
            self.diagnostics.report(codes::CERTIFICATE_EXPIRES, span, message);
        }
        if let Some(what) = &pair.bad_staple {
            let message = format!("`{}`: {what}; it is not stapled", pair.label);
            self.diagnostics.report(codes::NO_EFFECT, span, message);
        } else if pair.staples_at(self.now_s) == Some(false) {
            let message = format!("the OCSP response for `{}` is over; it is not stapled", pair.label);
            self.diagnostics.report(codes::CERTIFICATE_EXPIRES, span, message);
        }
        if pair.odd_names > 0 {
            let message = format!("`{}` has {} names that are no host names", pair.label, pair.odd_names);
            self.diagnostics.report(codes::NO_EFFECT, span, message);
        }
    }

    /// An old list is said, and no reason to refuse a configuration: what it does is the rule's business.
    fn judge_list(&mut self, path: &Spanned<String>, until_s: i64, rule: CrlExpired) {
        if until_s > self.now_s as i64 {
            return;
        }
        let then = match rule {
            CrlExpired::Refuse => "nobody whom it should tell of is let in",
            CrlExpired::Warn => "what it says still counts",
        };
        let message = format!("`{}` is over, a newer list was promised: {then}", path.value);
        self.diagnostics.report(codes::CERTIFICATE_EXPIRES, path.span, message);
    }

    fn client(&mut self, written: Option<&Spanned<model::ClientAuth>>) -> Option<ClientRules> {
        let written = written.filter(|auth| auth.mode != ClientAuthMode::None)?;
        let mut rules = ClientRules {
            authorities: Vec::new(),
            revocations: Vec::new(),
            required: written.mode == ClientAuthMode::Required,
            believes_old_lists: written.crl_expired == CrlExpired::Warn,
            lists: Vec::new(),
        };
        for path in &written.ca {
            let Some(bytes) = self.read(path, path.span) else { continue };
            match read_authorities(&bytes) {
                Ok(found) => rules.authorities.extend(found),
                Err(what) => self.fail(path.span, format!("`{}`: {what}", path.value)),
            }
        }
        for path in &written.crl {
            let Some(bytes) = self.read(path, path.span) else { continue };
            match read_revocations(&bytes) {
                Ok(found) => {
                    let until_s = found.iter().map(revocations_end_s).min().unwrap_or(i64::MAX);
                    self.judge_list(path, until_s, written.crl_expired);
                    rules.lists.push(List { label: path.value.clone(), until_s });
                    rules.revocations.extend(found);
                }
                Err(what) => self.fail(path.span, format!("`{}`: {what}", path.value)),
            }
        }
        if rules.authorities.is_empty() && !self.failed {
            self.fail(written.span, "`ca` names nobody who could have signed a client".to_owned());
        }
        Some(rules)
    }
}

/// Reads a regular file within a bound. Opening a FIFO would wait for ever.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read as _;
    let error = |what: &str| Err(std::io::Error::other(what.to_owned()));
    if !std::fs::metadata(path)?.is_file() {
        return error("it is no file");
    }
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(TLS_FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > TLS_FILE_BYTES_MAX {
        return error("it is too large");
    }
    Ok(bytes)
}

/// The pairs of a directory, by name: `NAME.crt` or `NAME.pem` with `NAME.key`.
fn in_directory(directory: &Path) -> std::io::Result<Vec<(PathBuf, PathBuf)>> {
    let mut pairs = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let cert = entry?.path();
        let is_certificate = cert.extension().is_some_and(|kind| kind == "crt" || kind == "pem");
        let key = cert.with_extension("key");
        if is_certificate && key.is_file() {
            pairs.push((cert, key));
        }
    }
    pairs.sort();
    Ok(pairs)
}
