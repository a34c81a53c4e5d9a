//! `listeners[].tls.acme`: whom certificates are ordered from, for which names, and what is there of them already.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Inputs;
use super::tls::read;
use crate::config::model::{self, AcmeChallenge};
use crate::limits::ACME_NAMES_MAX;
use crate::schema::{Diagnostics, Spanned, codes};
use crate::tls::Pair;
use crate::tls::managed::{Method, Plan, Settings, Site, Slot};

/// Let's Encrypt.
const DIRECTORY: &str = "https://acme-v02.api.letsencrypt.org/directory";
/// Its authority for trials.
const STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";

/// What all listeners together order.
pub(super) fn plan(config: &model::Config, inputs: &Inputs<'_>, diagnostics: &mut Diagnostics) -> Plan {
    let previous = inputs.previous.map(|snapshot| &snapshot.acme);
    let mut plan = Plan { sites: Vec::new(), proofs: previous.map(|plan| plan.proofs.clone()).unwrap_or_default() };
    let mut sites: Vec<(Settings, Vec<Arc<Slot>>)> = Vec::new();
    for listener in &config.listeners {
        let Some(acme) = listener.tls.as_ref().and_then(|tls| tls.acme.as_ref()) else { continue };
        let Some(settings) = settings(acme, diagnostics) else { continue };
        let names = names(acme, config);
        if names.is_empty() {
            diagnostics
                .report(codes::MISSING_KEY, acme.span, "there is no name to order a certificate for")
                .hint("add `domains`, or `hosts` to routes");
        }
        skipped(acme, config, diagnostics);
        let at = sites.iter().position(|(known, _)| known.storage == settings.storage);
        let at = at.unwrap_or_else(|| {
            sites.push((settings.clone(), Vec::new()));
            sites.len() - 1
        });
        let (known, slots) = &mut sites[at];
        if *known != settings {
            diagnostics
                .report(codes::CONTRADICTION, acme.span, "another listener asks the same authority in another way")
                .hint("write the same `acme` on both, or give one of them another `storage`");
        }
        for name in names {
            if !slots.iter().any(|slot| slot.name == name) {
                slots.push(slot(&settings, name, previous));
            }
        }
    }
    let count: usize = sites.iter().map(|(_, slots)| slots.len()).sum();
    if count > ACME_NAMES_MAX {
        let span = config.listeners.iter().find_map(|one| Some(one.tls.as_ref()?.acme.as_ref()?.span));
        let message = format!("certificates are ordered for at most {ACME_NAMES_MAX} names, and here are {count}");
        diagnostics.report(codes::OUT_OF_RANGE, span.unwrap_or_default(), message);
    }
    plan.sites = sites.into_iter().map(|(settings, slots)| Arc::new(Site { settings, slots })).collect();
    plan
}

/// The slots of one listener.
pub(super) fn slots(acme: &Spanned<model::Acme>, config: &model::Config, plan: &Plan) -> Vec<Arc<Slot>> {
    let storage = storage(acme);
    let names = names(acme, config);
    let site = plan.sites.iter().find(|site| site.settings.storage == storage);
    let slots = site.into_iter().flat_map(|site| &site.slots);
    slots.filter(|slot| names.contains(&slot.name)).cloned().collect()
}

/// Whether requests may ask for proofs.
pub(super) fn by_requests(plan: &Plan) -> bool {
    plan.sites.iter().any(|site| site.settings.method == Method::Http01)
}

fn directory(acme: &model::Acme) -> &str {
    match &acme.directory {
        Some(url) => url,
        None if acme.staging => STAGING,
        None => DIRECTORY,
    }
}

/// A directory for this authority alone: its host and path.
fn storage(acme: &model::Acme) -> PathBuf {
    let place = directory(acme).trim_start_matches("https://");
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c.to_ascii_lowercase() } else { '-' };
    let folder: String = place.chars().map(plain).collect();
    Path::new(&acme.storage.value).join(folder.trim_matches(['-', '.']))
}

fn settings(acme: &Spanned<model::Acme>, diagnostics: &mut Diagnostics) -> Option<Settings> {
    let authorities = match &acme.ca {
        None => None,
        Some(path) => match read(Path::new(&path.value)) {
            Ok(pem) => Some(pem),
            Err(error) => {
                let message = format!("`{}` cannot be read: {error}", path.value);
                diagnostics.report(codes::BAD_CERTIFICATE, path.span, message);
                return None;
            }
        },
    };
    let binding = match &acme.external_account {
        None => None,
        Some(account) => match base64(account.hmac_key.expose()) {
            Some(key) => Some((account.key_id.clone(), key)),
            None => {
                diagnostics.report(codes::BAD_VALUE, account.hmac_key.span, "the key is not base64");
                return None;
            }
        },
    };
    Some(Settings {
        directory: directory(acme).to_owned(),
        storage: storage(acme),
        email: acme.email.as_ref().map(|email| email.value.clone()),
        authorities,
        binding,
        method: match acme.challenge {
            AcmeChallenge::TlsAlpn01 => Method::TlsAlpn01,
            AcmeChallenge::Http01 => Method::Http01,
        },
    })
}

/// The names, in the order in which they are written.
fn names(acme: &model::Acme, config: &model::Config) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let mut add = |name: &str| {
        let name = name.trim_end_matches('.');
        if model::is_provable(name) && !names.iter().any(|known| known == name) {
            names.push(name.to_owned());
        }
    };
    match acme.domains.is_empty() {
        true => hosts(config).for_each(|host| add(host.as_str())),
        false => acme.domains.iter().for_each(|name| add(name.as_str())),
    }
    names
}

fn hosts(config: &model::Config) -> impl Iterator<Item = &Spanned<crate::schema::types::HostPattern>> {
    config.routes.iter().flat_map(|route| &route.hosts)
}

/// Hosts of routes that are left out are told.
fn skipped(acme: &model::Acme, config: &model::Config, diagnostics: &mut Diagnostics) {
    let left = hosts(config).filter(|host| !model::is_provable(host.as_str().trim_end_matches('.')));
    if let Some(host) = acme.domains.is_empty().then_some(left).and_then(|mut left| left.next()) {
        let message = format!("no certificate is ordered for `{}`", host.as_str());
        diagnostics
            .report(codes::NO_EFFECT, host.span, message)
            .hint("wildcards and addresses cannot be proved: bring a certificate for it, or name `domains`");
    }
}

/// A name keeps its slot over reloads. A new one begins with what is on disk; what cannot be read is ordered anew.
fn slot(settings: &Settings, name: String, previous: Option<&Plan>) -> Arc<Slot> {
    let before = previous.into_iter().flat_map(|plan| &plan.sites);
    let mut same = before.filter(|site| site.settings.storage == settings.storage).flat_map(|site| &site.slots);
    if let Some(slot) = same.find(|slot| slot.name == name) {
        return slot.clone();
    }
    let file = settings.pair_file(&name);
    let pair = read(&file).ok().and_then(|pem| Pair::read(&pem, &pem, None, file.display().to_string()).ok());
    Slot::new(name, pair)
}

/// Base64 of either alphabet, with or without its padding.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut word, mut bits) = (Vec::new(), 0_u32, 0_u32);
    for byte in text.trim().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        (word, bits) = ((word << 6) | u32::from(value), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((word >> bits) as u8);
            word &= (1 << bits) - 1;
        }
    }
    (!bytes.is_empty()).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_customers_are_read_in_both_alphabets() {
        assert_eq!(base64("aGVsbG8_IQ").as_deref(), Some(&b"hello?!"[..]));
        assert_eq!(base64("aGVsbG8/IQ==").as_deref(), Some(&b"hello?!"[..]));
        assert_eq!((base64(""), base64("a b"), base64("=")), (None, None, None));
    }

    #[test]
    fn names_that_authorities_sign_for() {
        for (name, good) in [("example.com", true), ("a.b-c.example", true), ("xn--abc.example", true)] {
            assert_eq!(model::is_provable(name), good, "{name}");
        }
        for name in ["localhost", "*.example.com", "127.0.0.1", "[::1]", "-a.example", "a..b", "a_b.example", ".com"] {
            assert!(!model::is_provable(name), "{name}");
        }
    }
}
