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
use crate::http::exchange::{Exchange, Scheme, ShortText};
use crate::http::secure::Secure;
use crate::net::io::{Connect, Io};
use crate::net::tcp::Tcp;
use crate::pipeline::env::{Env, Request, Strain};
use crate::pipeline::tunnel::Tunnel;
use crate::pipeline::{drive, stream};
use crate::proto::h1::server::{Connection, Patience, Waited};
use crate::snapshot::{Listener, Places};
use crate::sys::room::Room;

/// Serves a connection; a panic costs this connection only and is counted.
pub async fn serve(shared: Rc<Shared>, socket: Rc<Socket>, io: Tcp, peer: SocketAddr, _places: (Places, Seat)) {
    let _open = shared.open();
    let origin =
        ConnectionOrigin { peer, peer_text: ShortText::of(&peer.ip()), port_text: socket.port_text, secure: None };
    let listener = socket.listener();
    if listener.tls.is_some() {
        return Box::pin(guard(&shared, secure::serve(&shared, &socket, io, origin))).await;
    }
    if listener.stream.is_some() {
        // Boxed, so that a connection with requests has no room for it.
        return Box::pin(guard(&shared, serve_stream(&shared.env, io, &origin, listener))).await;
    }
    drop(listener);
    guard(&shared, serve_http1(&shared.env, io, origin, || socket.listener())).await;
}

/// Serves a connection that is passed on as it is.
pub async fn serve_stream<I: Io, C: Connect>(env: &Env<C>, io: I, origin: &ConnectionOrigin, listener: Rc<Listener>) {
    let mut x = Box::<Exchange>::default();
    origin.enter(&mut x);
    stream::serve(env, io, x, listener).await;
}

/// Runs what serves a connection; a panic ends it and is counted.
async fn guard(shared: &Shared, future: impl Future<Output = ()>) {
    let mut future = pin!(future);
    let guarded = poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(poll) => poll.map(Ok),
        Err(_) => Poll::Ready(Err(())),
    });
    if guarded.await.is_err() {
        shared.env.metrics.borrow().own.panics.inc();
    }
}

/// Serves HTTP/1 on a connection until it ends. `listener` gives the present settings of where it came in.
pub async fn serve_http1<I: Io, C: Connect>(
    env: &Env<C>,
    io: I,
    origin: ConnectionOrigin,
    listener: impl Fn() -> Rc<Listener>,
) {
    let mut connection = Box::new(Connection::new(io, &env.timers, listener().rules.clone()));
    let mut origin = origin;
    // Before a handshake it has been read already.
    if origin.secure.is_none() && listener().rules.proxy_protocol.is_some() {
        let Some(named) = identify_boxed(env, &mut connection, origin, listener()).await else {
            return Box::pin(connection.close()).await;
        };
        origin = named;
    }
    loop {
        // Where memory is short a connection that waits holds no buffer at all.
        let patience = if env.strain.get() == Strain::None { Patience::Short } else { Patience::Long };
        let again = match connection.wait_request(patience).await {
            Waited::Released => connection.wait_request(Patience::Long).await,
            other => other,
        };
        if again != Waited::Arrived {
            break;
        }
        if connection.may_speak_h2() && Box::pin(connection.speaks_h2()).await {
            let duplex = connection.into_duplex(&env.timers);
            return Box::pin(serve_http2(env, duplex, origin, listener)).await;
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
        Ok(Some(peer)) => return Some(ConnectionOrigin { peer, peer_text: ShortText::of(&peer.ip()), ..origin }),
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
    pub port_text: ShortText,
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
    let next = answer_request(env, &mut connection, &listener, &mut request).await;
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
    if env.draining.get() || strain != Strain::None {
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
        Ok(()) => drive::drive(&mut down, env, listener, request).await,
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
