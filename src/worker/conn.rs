//! One downstream connection from accept to close. While it is idle it is this small future and nothing else; a request
//! under way lives in a box of its own.

use std::cell::Cell;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;

use super::accept::Socket;
use super::http2::serve_http2;
use super::placement::Seat;
use super::run::Shared;
use super::secure;
use crate::error::Reason;
use crate::http::exchange::{Exchange, PortText, Scheme, ShortText};
use crate::http::secure::Secure;
use crate::net::io::{Connect, Io};
use crate::net::tcp::Tcp;
use crate::pipeline::env::{Env, Request, Strain};
use crate::pipeline::tunnel::Tunnel;
use crate::pipeline::{drive, stream};
use crate::proto::h1::server::{Connection, Patience, Waited};
use crate::snapshot::{Listener, Places};
use crate::sys::room::Room;

/// What a connection holds as long as it is open.
pub struct Held {
    _places: Places,
    _seat: Seat,
    pub(super) socket: Rc<Socket>,
    pub(super) shared: Rc<Shared>,
}

impl Held {
    /// Counts a connection as open.
    pub fn new(shared: &Rc<Shared>, socket: &Rc<Socket>, places: Places, seat: Seat) -> Self {
        shared.opened();
        Self { _places: places, _seat: seat, socket: socket.clone(), shared: shared.clone() }
    }

    fn origin(&self, peer: SocketAddr) -> ConnectionOrigin {
        ConnectionOrigin {
            peer,
            peer_text: ShortText::of_address(peer.ip()),
            port_text: self.socket.port_text,
            secure: None,
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shared.closed();
    }
}

/// Begins to serve a connection, in a task of its kind: one with requests has no room for what only others need. A
/// panic costs this connection only and is counted.
pub fn begin(held: Held, io: Tcp, peer: SocketAddr) {
    let listener = held.socket.listener();
    if listener.tls.is_some() {
        drop(monoio::spawn(secured(held, io, peer)));
    } else if listener.stream.is_some() {
        drop(monoio::spawn(passed_on(held, io, peer, listener)));
    } else {
        drop(monoio::spawn(plain(held, io, peer)));
    }
}

// Functions that return a block, here and below, in place of async functions: those keep each argument twice.

/// The task of a connection with plain HTTP.
#[allow(clippy::manual_async_fn, reason = "an async function keeps each argument twice")]
fn plain(held: Held, io: Tcp, peer: SocketAddr) -> impl Future<Output = ()> {
    async move {
        let serving = pin!(serve_http1(&held.shared.env, io, held.origin(peer), || held.socket.listener()));
        guard(&held.shared, serving).await;
    }
}

/// The task of a connection with TLS.
#[allow(clippy::manual_async_fn, reason = "an async function keeps each argument twice")]
fn secured(held: Held, io: Tcp, peer: SocketAddr) -> impl Future<Output = ()> {
    async move {
        let serving = pin!(secure::serve(&held.shared, &held.socket, io, held.origin(peer)));
        guard(&held.shared, serving).await;
    }
}

/// The task of a connection that is passed on as it is.
#[allow(clippy::manual_async_fn, reason = "an async function keeps each argument twice")]
fn passed_on(held: Held, io: Tcp, peer: SocketAddr, listener: Rc<Listener>) -> impl Future<Output = ()> {
    async move {
        let origin = held.origin(peer);
        let serving = pin!(serve_stream(&held.shared.env, io, &origin, listener));
        guard(&held.shared, serving).await;
    }
}

/// Serves a connection that is passed on as it is.
pub async fn serve_stream<I: Io, C: Connect>(env: &Env<C>, io: I, origin: &ConnectionOrigin, listener: Rc<Listener>) {
    let mut x = Box::<Exchange>::default();
    origin.enter(&mut x);
    stream::serve(env, io, x, listener).await;
}

/// Runs what serves a connection; a panic ends it and is counted.
fn guard<'g>(shared: &'g Shared, mut future: Pin<&'g mut impl Future<Output = ()>>) -> impl Future<Output = ()> {
    poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(_) => {
            shared.env.metrics.borrow().own.panics.inc();
            Poll::Ready(())
        }
    })
}

/// How a connection comes to be served.
pub enum Begun<I: Io> {
    /// As it was accepted, or behind its handshake.
    Fresh(I),
    /// What stands before its first request has been read.
    Named(Box<Connection<I>>),
}

/// Serves HTTP/1 on a connection until it ends. `listener` gives the present settings of where it came in.
pub fn serve_http1<'e, I: Io, C: Connect>(
    env: &'e Env<C>,
    io: I,
    origin: ConnectionOrigin,
    listener: impl Fn() -> Rc<Listener> + 'e,
) -> impl Future<Output = ()> + 'e {
    serve_begun(env, Begun::Fresh(io), origin, listener)
}

/// As [`serve_http1`], from whatever the connection has begun with.
#[allow(clippy::manual_async_fn, reason = "an async function keeps each argument twice")]
pub fn serve_begun<'e, I: Io, C: Connect>(
    env: &'e Env<C>,
    begun: Begun<I>,
    mut origin: ConnectionOrigin,
    listener: impl Fn() -> Rc<Listener> + 'e,
) -> impl Future<Output = ()> + 'e {
    async move {
        let (mut connection, is_named) = match begun {
            Begun::Fresh(io) => (Box::new(Connection::new(io, &env.timers, listener().rules.clone())), false),
            Begun::Named(connection) => (connection, true),
        };
        // Before a handshake it has been read already.
        if !is_named && origin.secure.is_none() && listener().rules.proxy_protocol.is_some() {
            let Some(named) = identify_boxed(env, &mut connection, origin.clone(), listener()).await else {
                return Box::pin(connection.close()).await;
            };
            origin = named;
        }
        loop {
            // Where memory is short a connection that waits holds no buffer at all.
            let patience = if env.strain.get() == Strain::None { Patience::Short } else { Patience::Long };
            let mut waited = pin!(connection.wait_request(patience)).await;
            if waited == Waited::Released {
                waited = connection.wait_request(Patience::Long).await;
            }
            if waited != Waited::Arrived {
                break;
            }
            if connection.may_speak_h2() && Box::pin(connection.speaks_h2()).await {
                let duplex = connection.into_duplex(&env.timers);
                return Box::pin(serve_http2(env, duplex, origin.clone(), listener)).await;
            }
            // Not a part of this future, so that an idle connection does not carry its room.
            let (back, next) = Room::of(|| serve_request(env, connection, &origin, listener())).await;
            connection = back;
            match next {
                Next::Request => {}
                Next::Close => break,
                Next::Tunnel(tunnel) => return tunnel.run_boxed(env, connection.into_duplex(&env.timers)).await,
            }
        }
        Box::pin(connection.close()).await;
    }
}

/// What follows on a connection.
enum Next<I: Io> {
    /// Perhaps another request.
    Request,
    /// Nothing.
    Close,
    /// What the client and an endpoint have agreed on.
    Tunnel(Box<Tunnel<I>>),
}

/// As [`identify`], boxed: a plain connection has no room for it.
fn identify_boxed<'a, I: Io, C: Connect>(
    env: &'a Env<C>,
    connection: &'a mut Connection<I>,
    origin: ConnectionOrigin,
    listener: Rc<Listener>,
) -> Pin<Box<impl Future<Output = Option<ConnectionOrigin>> + 'a>> {
    Box::pin(identify(env, connection, origin, listener))
}

/// Reads whom the connection comes from, before its first request; None when that is refused.
async fn identify<I: Io, C: Connect>(
    env: &Env<C>,
    connection: &mut Connection<I>,
    origin: ConnectionOrigin,
    listener: Rc<Listener>,
) -> Option<ConnectionOrigin> {
    let trusted = listener.rules.proxy_protocol.as_ref()?;
    let failure = match connection.read_proxy_header(trusted, origin.peer).await {
        Ok(None) => return Some(origin),
        Ok(Some(peer)) => {
            return Some(ConnectionOrigin { peer, peer_text: ShortText::of_address(peer.ip()), ..origin });
        }
        Err(failure) if failure.reason == Reason::ClientClosed => return None,
        Err(failure) => failure,
    };
    let mut request = env.take_request();
    origin.enter(&mut request.x);
    request.x.started = env.timers.now();
    let mut down = connection.downstream(&request.x);
    drive::refuse(&mut down, env, &listener, &mut request, failure).await;
    let lent = down.into_finished();
    connection.finish(lent);
    env.give_request(request);
    None
}

/// Where a connection comes from, made once for all its requests.
#[derive(Clone, Debug)]
pub struct ConnectionOrigin {
    /// Address of the TCP peer.
    pub peer: SocketAddr,
    /// The same without the port, as text.
    pub peer_text: ShortText,
    /// The port that it came to, as text.
    pub port_text: PortText,
    /// What TLS knows of it; None without TLS.
    pub secure: Option<Rc<Secure>>,
}

impl ConnectionOrigin {
    #[inline]
    pub(super) fn enter(&self, x: &mut Exchange) {
        x.peer = self.peer;
        x.peer_text = self.peer_text;
        x.port_text = self.port_text;
        x.scheme = if self.secure.is_some() { Scheme::Https } else { Scheme::Http };
        if self.secure.is_some() || x.secure.is_some() {
            x.secure = self.secure.clone();
        }
    }
}

/// Serves one request. The connection goes in and comes back, so that the future borrows nothing that changes.
async fn serve_request<'e, I: Io, C: Connect>(
    env: &'e Env<C>,
    mut connection: Box<Connection<I>>,
    origin: &'e ConnectionOrigin,
    listener: Rc<Listener>,
) -> (Box<Connection<I>>, Next<C::Io>) {
    let mut request = env.take_request();
    origin.enter(&mut request.x);
    connection.set_rules(&listener.rules);
    let active = Active::new(&env.active);
    env.stirred.set(true);
    let next = pin!(answer_request(env, &mut connection, &listener, &mut request)).await;
    drop(active);
    env.give_request(request);
    (connection, next)
}

/// A request under way, counted until dropped: also when it ends by a panic.
pub(super) struct Active<'e>(&'e Cell<u64>);

impl<'e> Active<'e> {
    pub(super) fn new(count: &'e Cell<u64>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

async fn answer_request<I: Io, C: Connect>(
    env: &Env<C>,
    connection: &mut Connection<I>,
    listener: &Listener,
    request: &mut Request,
) -> Next<C::Io> {
    let head = connection.read_head(&mut request.x).await;
    if matches!(head, Err(failure) if failure.reason == Reason::ClientClosed) {
        // It left in the middle of a head: there is nobody to answer and nothing that was asked.
        return Next::Close;
    }
    let strain = env.strain.get();
    if env.draining.get() || listener.is_closed || strain != Strain::None {
        connection.close_after();
    }
    #[cfg(any(debug_assertions, feature = "faults"))]
    super::faults::strike(request.x.request.path());
    let mut down = connection.downstream(&request.x);
    let tunnel = match head {
        Ok(()) if strain == Strain::Refuse => {
            let failure = Reason::MemoryShort.into();
            Box::pin(drive::refuse(&mut down, env, listener, request, failure)).await;
            None
        }
        Ok(()) => pin!(drive::drive(&mut down, env, listener, request)).await,
        Err(failure) => {
            drive::refuse(&mut down, env, listener, request, failure).await;
            None
        }
    };
    let lent = down.into_finished();
    match (connection.finish(lent), tunnel) {
        (_, Some(tunnel)) => Next::Tunnel(tunnel),
        (true, None) => Next::Request,
        (false, None) => Next::Close,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of the future that a function returns.
    const fn bytes_of<A, F>(_: &impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }

    /// What the runtime puts around a future.
    const TASK_BYTES: usize = 48;

    #[test]
    fn an_idle_connection_is_small() {
        // The allocator has sizes of 320, 384, 448, 512, 640 bytes: a step more is a step for each idle client.
        let plain = bytes_of(&|(held, io, peer)| plain(held, io, peer)) + TASK_BYTES;
        assert!(plain <= 512, "the task of a plain connection has {plain} bytes");
        let secured = bytes_of(&|(held, io, peer)| secured(held, io, peer)) + TASK_BYTES;
        assert!(secured <= 384, "the task of a TLS connection has {secured} bytes");
        let own = size_of::<Connection<Tcp>>();
        assert!(own <= 112, "a connection has {own} bytes");
    }
}
