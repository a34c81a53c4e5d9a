//! A request that asks for another protocol: it goes out on a connection of its own, and only a 101 to that very
//! protocol opens a tunnel (F47). Until then nothing that the client sent behind its request is passed on.

use std::cell::Cell;

use super::relay::{self, Terms};
use super::tunnel::Times;
use crate::error::{Failure, Reason};
use crate::http::downstream::ResponseSink;
use crate::http::exchange::Exchange;
use crate::http::message::Version;
use crate::limits::INTERIM_RESPONSES_MAX;
use crate::net::duplex::Duplex;
use crate::net::io::Io;
use crate::net::mem::splitmix;
use crate::proto::h1::client::ClientConnection;
use crate::proto::h1::serialise;
use crate::proto::h1::upgrade::may_pass;
use crate::proto::upstream::{RequestSink, ResponseSource};
use crate::proto::websocket;
use crate::snapshot::{ConnectionPlace, Listener, TunnelRules};
use crate::sys::buf::Buf;
use crate::upstream::service::{Load, Visit};

/// What a request that may become a tunnel has with it.
pub struct Upgrade<I: Io> {
    place: Cell<Option<ConnectionPlace>>,
    times: Times,
    /// The key of a WebSocket's handshake, where the client's wire has none (RFC 8441 section 5).
    key: Option<Box<[u8]>>,
    opened: Cell<Option<Box<Opened<I>>>>,
}

/// A tunnel that the endpoint has agreed to, and the client been told of. It holds nothing of the request or of the
/// configuration that it began with.
pub struct Opened<I: Io> {
    /// The endpoint's side.
    pub upstream: Duplex<I>,
    /// Its load on the endpoint.
    pub load: Load<I>,
    /// Its place under the listener's bound on tunnels; a connection that was none before has none.
    pub place: Option<ConnectionPlace>,
    /// Its times.
    pub times: Times,
}

impl<I: Io> Upgrade<I> {
    /// What the request needs to change to the protocol that it asks for; None where the route does not let it. Then it
    /// is an ordinary request, if its wire knows it as one.
    ///
    /// # Errors
    /// [`Reason::TunnelsFull`], [`Reason::ProtocolUnsupported`].
    pub fn permit(
        x: &mut Exchange,
        rules: Option<&TunnelRules>,
        listener: &Listener,
    ) -> Result<Option<Box<Self>>, Failure> {
        let Some(asked) = x.request.upgrade else { return Ok(None) };
        let asked = x.request.fields.text(asked);
        let knows = |known: &String| asked.eq_ignore_ascii_case(known.as_bytes());
        let extended = x.request.version == Version::Http2;
        let Some(rules) = rules.filter(|rules| may_pass(asked) && rules.protocols.iter().any(knows)) else {
            return if extended { Err(Reason::ProtocolUnsupported.into()) } else { Ok(None) };
        };
        let place = listener.tunnels.enter().ok_or(Reason::TunnelsFull)?;
        let times = Times {
            idle_timeout_ms: rules.idle_timeout_ms,
            duration_ms_max: rules.duration_ms_max,
            client_timeout_ms: listener.rules.write_timeout_ms,
            // Known when the service is.
            upstream_timeout_ms: 0,
            ping: rules.ping.filter(|_| asked.eq_ignore_ascii_case(websocket::PROTOCOL)),
        };
        let key = extended.then(|| {
            // It means nothing on the client's wire, and whoever sends one does not choose the gateway's.
            x.request.fields.remove(websocket::KEY);
            x.request.fields.remove(websocket::ACCEPT);
            websocket::key([x.random, splitmix(x.random ^ x.started.0)])
        });
        Ok(Some(Box::new(Self { place: Cell::new(Some(place)), times, key, opened: Cell::new(None) })))
    }

    /// The tunnel, once there is one.
    pub fn into_opened(self) -> Option<Box<Opened<I>>> {
        self.opened.into_inner()
    }

    /// Sends the request in `out`, and either opens the tunnel or passes the answer on. The connection is never used
    /// for another request.
    ///
    /// # Errors
    /// Why there is neither.
    #[allow(clippy::too_many_arguments, reason = "one call, whose arguments are the parts of one exchange")]
    pub async fn exchange<S: ResponseSink>(
        &self,
        sink: &mut S,
        mut upstream: Box<ClientConnection<I>>,
        visit: &Visit<I>,
        x: &mut Exchange,
        mut out: Buf,
        terms: &Terms<'_>,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Result<(), Failure> {
        self.add_upgrade(&mut out, x);
        let asked = terms.timers.known_now();
        drop(upstream.sender.send(out, terms.rules.send_timeout_ms).await?);
        let due = terms.until(terms.first_byte_ms);
        for _ in 0..=INTERIM_RESPONSES_MAX {
            let received = upstream.receiver.recv_head(&mut x.response, x.request.method, &terms.rules.head, due);
            received.await.map_err(|failure| terms.explain(failure))?;
            match x.response.status {
                101 => return self.switch(sink, upstream, visit, x, asked, terms, on_head).await,
                status if relay::is_final(status) => {
                    // What the client may have sent for the tunnel must not be read as a request (CVE-2026-73548).
                    sink.close_after();
                    return relay::deliver(&mut upstream.receiver, sink, x, asked, terms, on_head).await;
                }
                _ => relay::interim(sink, x).await?,
            }
        }
        Err(relay::TOO_MANY_INTERIM)
    }

    #[allow(clippy::too_many_arguments, reason = "as above")]
    async fn switch<S: ResponseSink>(
        &self,
        sink: &mut S,
        upstream: Box<ClientConnection<I>>,
        visit: &Visit<I>,
        x: &mut Exchange,
        asked: crate::time::Now,
        terms: &Terms<'_>,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Result<(), Failure> {
        let name = |text| x.request.fields.text(text);
        let same = match (x.request.upgrade, x.response.upgrade) {
            (Some(asked), Some(got)) => name(asked).eq_ignore_ascii_case(x.response.fields.text(got)),
            _ => false,
        };
        let place = self.place.take();
        let (true, Some(place)) = (same, place) else {
            return Err(Failure::with(Reason::UpstreamInvalid, "switch to a protocol that nobody asked for"));
        };
        if let Some(key) = &self.key {
            let is_accepted = {
                let mut accepts = x.response.fields.find_all(websocket::ACCEPT);
                accepts.next() == Some(&websocket::accept(key)[..]) && accepts.next().is_none()
            };
            if !is_accepted {
                return Err(Failure::with(Reason::UpstreamInvalid, "wrong Sec-WebSocket-Accept"));
            }
            x.response.fields.remove(websocket::ACCEPT);
        }
        x.upstream_ns = terms.timers.now().since_ns(asked);
        x.upstream_status = x.response.status;
        on_head(x);
        sink.send_switch(x).await?;
        let times = Times { upstream_timeout_ms: terms.rules.send_timeout_ms, ..self.times };
        let upstream = upstream.into_duplex(terms.timers);
        self.opened.set(Some(Box::new(Opened { upstream, load: visit.load(), place: Some(place), times })));
        Ok(())
    }

    /// Puts the lines that ask for the protocol before the empty line at the end of a written head.
    fn add_upgrade(&self, out: &mut Buf, x: &Exchange) {
        let Some(protocol) = x.request.upgrade else { return };
        debug_assert!(out.as_slice().ends_with(b"\r\n\r\n"));
        out.truncate(out.len() - 2);
        out.extend(b"Connection: upgrade\r\n");
        serialise::field(out, b"Upgrade", x.request.fields.text(protocol));
        if let Some(key) = &self.key {
            serialise::field(out, b"Sec-WebSocket-Key", key);
        }
        out.extend(b"\r\n");
    }
}
