//! Connections of a listener with TLS: detection, handshake within its bounds, and then the wire that was agreed on.
//!
//! All of it lives in a box of its own: a plain connection has no room for it.

use std::rc::Rc;

use super::accept::Socket;
use super::conn::{self, ConnectionOrigin};
use super::http2::serve_http2;
use super::run::Shared;
use crate::http::exchange::ShortText;
use crate::limits::{HANDSHAKE_TIMEOUT_MS, HANDSHAKES_MAX, PROXY_TIMEOUT_MS};
use crate::net::duplex::Duplex;
use crate::net::io::Io;
use crate::net::tcp::Tcp;
use crate::net::timer::{OnExpiry, Waits};
use crate::net::tls::{Agreed, Fresh, HandshakeError, Tls};
use crate::proto::h1::server::Connection;
use crate::proto::proxy_protocol;
use crate::snapshot::Listener;
use crate::sys::buf::Buf;
use crate::telemetry::log::{self, Level};
use crate::telemetry::metrics::instruments::{HandshakeFailure, Refusal};
use crate::tls::managed::TLS_PROOF_PROTOCOL;
use crate::tls::{ServerTls, TooMany};

/// The first byte of a TLS connection: a record of the handshake protocol.
const HANDSHAKE_RECORD: u8 = 22;

/// What a client speaks behind its handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

impl Wire {
    /// The wire that ALPN agreed on; HTTP/1.1 where nothing was said.
    pub fn of(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Self::Http2 } else { Self::Http1 }
    }
}

/// A handshake under way, counted until dropped.
struct Underway(Rc<Shared>);

impl Underway {
    fn begin(shared: &Rc<Shared>) -> Option<Self> {
        let count = shared.handshakes.get();
        shared.handshakes.set(count + 1);
        let underway = Self(shared.clone());
        (count < HANDSHAKES_MAX).then_some(underway)
    }
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get().saturating_sub(1));
    }
}

/// Serves a connection that came to a listener with TLS. Each of its parts has a box of its own, that of the handshake
/// is gone with it.
pub async fn serve(shared: &Rc<Shared>, socket: &Socket, io: Tcp, origin: ConnectionOrigin) {
    match Box::pin(begin(shared, socket, io, origin)).await {
        Begun::Plain(begun, origin) => {
            Box::pin(conn::serve_begun(&shared.env, begun, *origin, || socket.listener())).await;
        }
        Begun::Stream(io, origin, listener) => {
            Box::pin(conn::serve_stream(&shared.env, *io, &origin, listener)).await;
        }
        Begun::Http2(io, origin) => {
            let (read, write, interrupt) = io.split();
            let duplex: Duplex<Tls<Tcp>> = Duplex::new(read, write, interrupt, Buf::empty(), &shared.env.timers);
            Box::pin(serve_http2(&shared.env, duplex, *origin, || socket.listener())).await;
        }
        Begun::Http1(io, origin) => {
            Box::pin(conn::serve_http1(&shared.env, *io, *origin, || socket.listener())).await;
        }
        Begun::Over => {}
    }
}

/// What a connection has begun with.
enum Begun {
    /// Nothing: it is over.
    Over,
    /// No TLS.
    Plain(conn::Begun<Tcp>, Box<ConnectionOrigin>),
    /// TLS, and bytes that are passed on.
    Stream(Box<Tls<Tcp>>, Box<ConnectionOrigin>, Rc<Listener>),
    /// TLS and HTTP/1.1.
    Http1(Box<Tls<Tcp>>, Box<ConnectionOrigin>),
    /// TLS and HTTP/2.
    Http2(Box<Tls<Tcp>>, Box<ConnectionOrigin>),
}

async fn begin(shared: &Rc<Shared>, socket: &Socket, io: Tcp, mut origin: ConnectionOrigin) -> Begun {
    let listener = socket.listener();
    let Some(tls) = listener.tls.clone() else { return Begun::Plain(conn::Begun::Fresh(io), Box::new(origin)) };
    let Some(underway) = Underway::begin(shared) else {
        shared.refused(Refusal::Handshakes);
        return Begun::Over;
    };
    let deadline = shared.env.timers.deadline(io.interrupt());
    deadline.set_waits(Some(Waits::Head));
    deadline.arm(shared.env.timers.now().plus_ms(HANDSHAKE_TIMEOUT_MS), OnExpiry::ShutBoth);
    let is_proxied = listener.rules.proxy_protocol.is_some();
    if tls.plain_too && !is_proxied && !matches!(io.first_byte().await, Ok(HANDSHAKE_RECORD) | Err(_)) {
        return Begun::Plain(conn::Begun::Fresh(io), Box::new(origin));
    }
    let mut fresh = Fresh::new(io);
    if is_proxied {
        deadline.arm(shared.env.timers.now().plus_ms(PROXY_TIMEOUT_MS), OnExpiry::ShutBoth);
        let Some(named) = identify(&listener, &mut fresh, origin).await else { return Begun::Over };
        origin = named;
        deadline.arm(shared.env.timers.now().plus_ms(HANDSHAKE_TIMEOUT_MS), OnExpiry::ShutBoth);
        if tls.plain_too {
            match first_byte(&mut fresh).await {
                Some(HANDSHAKE_RECORD) => {}
                Some(_) => {
                    let connection = Connection::of(fresh.into_parts(), &shared.env.timers, listener.rules.clone());
                    return Begun::Plain(conn::Begun::Named(Box::new(connection)), Box::new(origin));
                }
                None => return Begun::Over,
            }
        }
    }
    let agreed = handshake(shared, &tls, fresh, origin).await;
    drop((deadline, underway));
    let Some((io, agreed, mut origin)) = agreed else { return Begun::Over };
    if agreed.alpn.as_deref() == Some(TLS_PROOF_PROTOCOL) {
        // The handshake was the whole proof (RFC 8737 section 3).
        return Begun::Over;
    }
    origin.secure = Some(Rc::new(tls.describe(&agreed)));
    let (io, origin) = (Box::new(io), Box::new(origin));
    if listener.stream.is_some() {
        return Begun::Stream(io, origin, listener);
    }
    match Wire::of(agreed.alpn.as_deref()) {
        Wire::Http2 => Begun::Http2(io, origin),
        Wire::Http1 => Begun::Http1(io, origin),
    }
}

/// The first byte behind a PROXY protocol header; None when the connection ends before.
async fn first_byte(fresh: &mut Fresh<Tcp>) -> Option<u8> {
    if fresh.unread().is_empty() {
        fresh.read_more().await.ok()?;
    }
    fresh.unread().first().copied()
}

async fn handshake(
    shared: &Rc<Shared>,
    tls: &ServerTls,
    fresh: Fresh<Tcp>,
    origin: ConnectionOrigin,
) -> Option<(Tls<Tcp>, Agreed, ConnectionOrigin)> {
    if let Some(paces) = &tls.paces
        && let Err(why) = paces.take(origin.peer.ip(), shared.env.timers.now().0)
    {
        shared.refused(match why {
            TooMany::Listener => Refusal::HandshakeRate,
            TooMany::Client => Refusal::ClientHandshakeRate,
        });
        return None;
    }
    let accepted = fresh.accept(|hello| tls.choose(hello)).await;
    let metrics = shared.env.metrics.borrow();
    match accepted {
        Ok((io, agreed)) => {
            metrics.own.handshakes.inc();
            if agreed.resumed {
                metrics.own.handshakes_resumed.inc();
            }
            Some((io, agreed, origin))
        }
        Err(error) => {
            metrics.own.handshakes_failed.inc();
            let why = failure_of(&error);
            metrics.own.handshake_failures.add(why as usize);
            if why != HandshakeFailure::Ended {
                let reason = HandshakeFailure::WORDS[why as usize];
                let fields: &[log::Field<'_>] = &[("client", &origin.peer), ("reason", &reason), ("error", &error)];
                FAILURES.write(Level::Info, "TLS handshake failed", fields, shared.env.timers.now());
            }
            None
        }
    }
}

/// Few lines pass: whoever wants to can make handshakes fail.
static FAILURES: log::Site = log::Site::new();

/// In which words a failure is counted.
fn failure_of(error: &HandshakeError) -> HandshakeFailure {
    use rustls::AlertDescription as Alert;
    use rustls::{CertificateError, Error};
    match error {
        HandshakeError::Io(_) => HandshakeFailure::Ended,
        HandshakeError::UnknownName => HandshakeFailure::UnknownName,
        HandshakeError::TooLong => HandshakeFailure::TooLong,
        HandshakeError::Tls(error) => match error {
            Error::AlertReceived(alert) => match alert {
                Alert::UnknownCA => HandshakeFailure::AlertUnknownCa,
                Alert::CertificateExpired => HandshakeFailure::AlertExpired,
                Alert::CertificateRevoked => HandshakeFailure::AlertRevoked,
                Alert::BadCertificate | Alert::CertificateUnknown | Alert::UnsupportedCertificate => {
                    HandshakeFailure::AlertCertificate
                }
                Alert::HandshakeFailure => HandshakeFailure::AlertFailure,
                Alert::CloseNotify | Alert::UserCanceled => HandshakeFailure::AlertClosed,
                _ => HandshakeFailure::AlertOther,
            },
            Error::PeerIncompatible(_) | Error::NoApplicationProtocol => HandshakeFailure::Incompatible,
            Error::NoCertificatesPresented => HandshakeFailure::NoCertificate,
            Error::InvalidCertificate(CertificateError::Revoked) => HandshakeFailure::Revoked,
            Error::InvalidCertificate(
                CertificateError::ExpiredRevocationList | CertificateError::ExpiredRevocationListContext { .. },
            ) => HandshakeFailure::OldList,
            Error::InvalidCertificate(_) => HandshakeFailure::BadCertificate,
            Error::InvalidMessage(_)
            | Error::PeerMisbehaved(_)
            | Error::InappropriateMessage { .. }
            | Error::InappropriateHandshakeMessage { .. }
            | Error::DecryptError => HandshakeFailure::Protocol,
            _ => HandshakeFailure::Other,
        },
    }
}

/// Reads the PROXY protocol header before the handshake. None closes: there is nobody yet to be told why.
async fn identify(listener: &Listener, fresh: &mut Fresh<Tcp>, origin: ConnectionOrigin) -> Option<ConnectionOrigin> {
    let trusted = listener.rules.proxy_protocol.as_ref()?;
    if !trusted.contains(origin.peer.ip()) {
        return None;
    }
    loop {
        fresh.read_more().await.ok()?;
        if let Some(header) = proxy_protocol::parse(fresh.unread()).ok()? {
            fresh.skip(header.bytes);
            let Some(addresses) = header.addresses else { return Some(origin) };
            let peer = addresses.source;
            return Some(ConnectionOrigin { peer, peer_text: ShortText::of_address(peer.ip()), ..origin });
        }
    }
}
