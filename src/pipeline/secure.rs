//! What TLS means for a request: which hosts its connection may ask for, what browsers and endpoints are told, and the
//! way to https.

use bytes::Bytes;

use super::reply;
use crate::error::{Failure, Reason};
use crate::http::downstream::Downstream;
use crate::http::exchange::{Exchange, Reply, Scheme};
use crate::http::message::Method;
use crate::http::name::Name;
use crate::snapshot::Listener;

/// Holds a request of a TLS connection to the rules of its host, and adds what follows from TLS.
///
/// # Errors
/// [`Reason::Misdirected`] where the host has other rules for client certificates than the connection was accepted
/// under: a client cannot show its certificate for one name and ask for another (F50, F84).
#[inline]
pub fn enter(listener: &Listener, x: &mut Exchange) -> Result<(), Failure> {
    if x.secure.is_none() { Ok(()) } else { enter_secure(listener, x) }
}

fn enter_secure(listener: &Listener, x: &mut Exchange) -> Result<(), Failure> {
    let Some(secure) = x.secure.clone() else { return Ok(()) };
    // A listener that has lost its TLS by a reload knows no rules any more.
    let Some(tls) = listener.tls.as_ref() else { return Err(Reason::Misdirected.into()) };
    if let Some(hsts) = &tls.hsts {
        let added = x.late_fields.append(b"Strict-Transport-Security", hsts.as_bytes());
        debug_assert!(added.is_ok(), "made from numbers and words");
    }
    if !tls.admits(&secure, x.request.host()) {
        return Err(Reason::Misdirected.into());
    }
    if let Some(client) = secure.client.as_ref().filter(|_| tls.forward_identity) {
        let fields = &mut x.request.fields;
        let mut add = |name: &[u8], value: &str| match value {
            "" => Ok(()),
            value => fields.append(name, value.as_bytes()),
        };
        let added = add(b"X-Client-Cert-Subject", &client.subject)
            .and_then(|()| add(b"X-Client-Cert-San", &client.names))
            .and_then(|()| add(b"X-Client-Cert-Fingerprint", &client.fingerprint));
        // A certificate with thousands of names does not fit a head; its owner is not let in half named.
        added.map_err(|_| Failure::from(Reason::HeaderTooLarge))?;
    }
    Ok(())
}

/// Whether a request is to be sent to https: it came without TLS, also to the first proxy that we trust.
#[inline]
pub fn is_to_move(listener: &Listener, x: &Exchange) -> bool {
    listener.https_redirect.is_some() && x.scheme == Scheme::Http && !came_by_https(x)
}

/// What an authority asks to be shown over a connection without TLS before it signs for the host (RFC 8555 section
/// 8.3); None for all other requests. It goes before routes, policies and the way to https.
#[inline]
pub fn proof(listener: &Listener, x: &Exchange) -> Option<Bytes> {
    let proofs = listener.proofs.as_ref()?;
    let asks = matches!(x.request.method, Method::Get | Method::Head);
    if asks { proofs.answer(x.request.path()) } else { None }
}

/// Shows it.
///
/// # Errors
/// What sending gives.
pub async fn show_proof<D: Downstream>(down: &mut D, x: &mut Exchange, proof: Bytes) -> Result<(), Failure> {
    let reply = Reply { status: 200, content_type: "application/octet-stream", body: proof, ..Reply::default() };
    let body = reply::compose(x, reply);
    reply::send(down, x, body).await
}

fn came_by_https(x: &Exchange) -> bool {
    x.peer_is_trusted && x.request.fields.get(Name::XForwardedProto) == Some(b"https")
}

/// Answers 308, to the same place by https.
///
/// # Errors
/// [`Reason::BadHost`] without a host to name, and what sending gives.
pub async fn move_to_https<D: Downstream>(down: &mut D, listener: &Listener, x: &mut Exchange) -> Result<(), Failure> {
    let host = x.request.host();
    if host.is_empty() {
        return Err(Reason::BadHost.into());
    }
    let port = match listener.https_redirect {
        None | Some(443) => String::new(),
        Some(port) => format!(":{port}"),
    };
    let query = x.request.query().map(|query| [b"?", query].concat()).unwrap_or_default();
    let location = [b"https://", host, port.as_bytes(), x.request.path(), &query].concat();
    let fields = vec![(Bytes::from_static(b"Location"), location.into())];
    let body = reply::compose(x, Reply { status: 308, fields, ..Reply::default() });
    reply::send(down, x, body).await
}
