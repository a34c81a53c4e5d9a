//! `services[].tls`: reads authorities, certificate and key, and says which file is wrong.

use std::path::Path;
use std::sync::Arc;

use super::tls::read;
use crate::config::model;
use crate::schema::{Diagnostics, Span, Spanned, codes};
use crate::snapshot::Snapshot;
use crate::tls::{ClientTls, EndpointRules, Pair, read_authorities, server_name};

/// The TLS of a service. None where what it has is wrong and was reported.
pub(super) fn compile(
    written: &Spanned<model::EndpointTls>,
    wire: model::EndpointWire,
    label: &str,
    previous: Option<&Snapshot>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<ClientTls>> {
    let name = match &written.server_name {
        None => None,
        Some(text) => match server_name(text) {
            Some(name) => Some(name),
            None => {
                let message = format!("`{}` is no name that a certificate can be for", text.value);
                diagnostics.report(codes::BAD_VALUE, text.span, message);
                return None;
            }
        },
    };
    let mut authorities = Vec::new();
    for path in &written.ca {
        let found = file(path, diagnostics).map(|bytes| read_authorities(&bytes));
        authorities.extend(settle(path, found?, diagnostics)?);
    }
    let identity = match (&written.cert, &written.key) {
        (Some(cert), Some(key)) => {
            let (chain, secret) = (file(cert, diagnostics)?, file(key, diagnostics)?);
            Some(settle(cert, Pair::read(&chain, &secret, None, cert.value.clone()), diagnostics)?)
        }
        _ => None,
    };
    let rules = EndpointRules {
        authorities,
        verifies: written.verify,
        server_name: name,
        identity,
        alpn: match wire {
            model::EndpointWire::Http1 => vec![b"http/1.1".to_vec()],
            model::EndpointWire::H2 => vec![b"h2".to_vec()],
            // The endpoint chooses.
            model::EndpointWire::Auto => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        },
    };
    ready(rules, label, previous, written.span, diagnostics)
}

/// What `https` alone says: the system's authorities, and the host as the name.
pub(super) fn usual(
    label: &str,
    previous: Option<&Snapshot>,
    span: Span,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<ClientTls>> {
    let rules = EndpointRules {
        authorities: Vec::new(),
        verifies: true,
        server_name: None,
        identity: None,
        alpn: vec![b"http/1.1".to_vec()],
    };
    ready(rules, label, previous, span, diagnostics)
}

/// What is the same as before stays the same, and its sessions and connections with it.
fn ready(
    rules: EndpointRules,
    label: &str,
    previous: Option<&Snapshot>,
    span: Span,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<ClientTls>> {
    match ClientTls::new(rules) {
        Ok(tls) => {
            let before = previous.into_iter().flat_map(|snapshot| &snapshot.services);
            let mut known = before.filter(|service| service.label == label).filter_map(|service| service.tls.as_ref());
            Some(known.find(|known| known.is_like(&tls)).cloned().unwrap_or_else(|| Arc::new(tls)))
        }
        Err(what) => {
            diagnostics.report(codes::BAD_CERTIFICATE, span, what);
            None
        }
    }
}

fn file(path: &Spanned<String>, diagnostics: &mut Diagnostics) -> Option<Vec<u8>> {
    match read(Path::new(&path.value)) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            let message = format!("`{}` cannot be read: {error}", path.value);
            diagnostics.report(codes::BAD_CERTIFICATE, path.span, message);
            None
        }
    }
}

fn settle<T>(path: &Spanned<String>, read: Result<T, String>, diagnostics: &mut Diagnostics) -> Option<T> {
    read.map_err(|what| diagnostics.report(codes::BAD_CERTIFICATE, path.span, format!("`{}`: {what}", path.value))).ok()
}
