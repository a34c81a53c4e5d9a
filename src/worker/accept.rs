//! Accepting connections, within the worker's bound and without spinning when the system runs short.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{self, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use monoio::io::Canceller;
use monoio::net::{TcpListener, TcpStream};

use super::conn::{self, Held};
use super::placement::Seat;
use super::run::Shared;
use super::turn_away;
use crate::http::exchange::{PortText, ShortText};
use crate::limits::{ACCEPTS_AT_ONCE, UNSENT_BYTES_MAX};
use crate::net::tcp::Tcp;
use crate::snapshot::{self, Listener};
use crate::sys::ring;
use crate::telemetry::metrics::instruments::Refusal;

/// First pause after a failed accept; it doubles up to [`BACK_OFF_MS_MAX`] (F09).
const BACK_OFF_MS: u64 = 10;
const BACK_OFF_MS_MAX: u64 = 500;
/// Clients in a row that left before they were accepted, from which on it is taken for a failure: each is a turn of the
/// loop that serves nobody.
const PASSING_MAX: u32 = 64;
/// How long accepting waits for closed connections to be gone, in milliseconds.
const OVER_TURNS_MAX: u32 = 50;
/// Connections taken from a queue that is being closed: more than a queue holds.
const QUEUE_TAKEN_MAX: usize = 2 * crate::net::listener::BACKLOG as usize;

/// A listening socket of this worker.
pub struct Socket {
    /// The address as it is configured: its identity over reloads.
    pub address: SocketAddr,
    /// The port that it got, as text.
    pub port_text: PortText,
    listener: RefCell<Rc<Listener>>,
    /// What ends the accepts under way.
    accepting: RefCell<Accepting>,
    /// Tasks that accept.
    acceptors: Cell<usize>,
    closed: Cell<Option<Closing>>,
}

/// How accepts that are under way are ended.
enum Accepting {
    /// Through the ring, by the descriptor.
    ByDescriptor(RawFd),
    /// Through the runtime, which keeps a set of such accepts: half a thousand instructions for each.
    Tracked(Canceller),
    /// There is none any more.
    Over,
}

/// How a listening socket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// Connections that wait in its queue are taken first: to close it resets them.
    TakeQueue,
    /// Another process has the same socket and takes them.
    LeaveQueue,
}

impl Socket {
    /// Starts accepting.
    ///
    /// # Errors
    /// When the socket cannot be handed to the worker's runtime.
    pub fn open(
        shared: &Rc<Shared>,
        listener: &Listener,
        socket: net::TcpListener,
        on_ring: bool,
    ) -> io::Result<Rc<Self>> {
        let port_text = ShortText::of(&socket.local_addr()?.port());
        // On a ring a non-blocking socket would turn each accept into an error instead of a wait.
        socket.set_nonblocking(!on_ring)?;
        if shared.pressure.is_limited() {
            // Accepted connections inherit it.
            socket2::SockRef::from(&socket).set_tcp_notsent_lowat(UNSENT_BYTES_MAX)?;
        }
        let queue = socket.try_clone()?;
        let by_descriptor = on_ring && ring::can_cancel();
        let accepting = match by_descriptor {
            true => Accepting::ByDescriptor(socket.as_raw_fd()),
            false => Accepting::Tracked(Canceller::new()),
        };
        let stream = TcpListener::from_std(socket)?;
        let this = Rc::new(Self {
            address: listener.address,
            port_text,
            listener: RefCell::new(Rc::new(listener.clone())),
            accepting: RefCell::new(accepting),
            acceptors: Cell::new(if on_ring { ACCEPTS_AT_ONCE } else { 1 }),
            closed: Cell::new(None),
        });
        shared.accepting.set(shared.accepting.get() + 1);
        let sockets = Rc::new((stream, queue));
        for at in 0..this.acceptors.get() {
            monoio::spawn(accept_all(shared.clone(), this.clone(), sockets.clone(), at == 0));
        }
        Ok(this)
    }

    /// The listener's present settings.
    pub fn listener(&self) -> Rc<Listener> {
        self.listener.borrow().clone()
    }

    /// New settings, for connections and requests that come from now on.
    pub fn update(&self, listener: &Listener) {
        self.listener.replace(Rc::new(listener.clone()));
    }

    /// A reload has dropped it: it accepts no more, and its connections end with what they have under way.
    pub fn end(self: &Rc<Self>) {
        let listener = Listener { is_closed: true, ..(*self.listener()).clone() };
        self.update(&listener);
        self.close(Closing::TakeQueue);
    }

    /// Accepts no more. The socket is closed when nobody else has it; it is never shut down, as that would end it for
    /// other processes too.
    pub fn close(self: &Rc<Self>, how: Closing) {
        if self.closed.get().is_none() {
            self.closed.set(Some(how));
        }
        // An accept that completes at this moment is served.
        let present = self.accepting.replace(Accepting::Over);
        match present {
            Accepting::ByDescriptor(_) => {
                self.accepting.replace(present);
                drop(monoio::spawn(end_accept(self.clone())));
            }
            Accepting::Tracked(canceller) => drop(canceller.cancel()),
            Accepting::Over => {}
        }
    }

    /// Looks at the queue anew: ends the accept under way, so that the next one begins with what is there.
    pub fn look(&self) {
        let mut accepting = self.accepting.borrow_mut();
        match std::mem::replace(&mut *accepting, Accepting::Over) {
            Accepting::Tracked(present) => {
                drop(present.cancel());
                *accepting = Accepting::Tracked(Canceller::new());
            }
            // One that is not under way yet begins with what is there.
            Accepting::ByDescriptor(fd) => {
                ring::cancel_all(fd);
                *accepting = Accepting::ByDescriptor(fd);
            }
            Accepting::Over => {}
        }
    }

    async fn accept(&self, stream: &TcpListener) -> io::Result<(TcpStream, SocketAddr)> {
        let handle = match &*self.accepting.borrow() {
            Accepting::ByDescriptor(_) => None,
            Accepting::Tracked(canceller) => Some(canceller.handle()),
            Accepting::Over => return Err(io::ErrorKind::Interrupted.into()),
        };
        match handle {
            Some(handle) => stream.cancelable_accept(handle).await,
            None => stream.accept().await,
        }
    }
}

/// Ends the accept of a socket that was closed. One that waits for the next turn of the loop to begin is not found at
/// first.
async fn end_accept(socket: Rc<Socket>) {
    loop {
        match &*socket.accepting.borrow() {
            Accepting::ByDescriptor(fd) => ring::cancel_all(*fd),
            _ => break,
        }
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Accepts until the socket is closed; the last task to find that ends it. Of several only the first counts what goes
/// wrong: it is the same for all.
async fn accept_all(
    shared: Rc<Shared>,
    socket: Rc<Socket>,
    sockets: Rc<(TcpListener, net::TcpListener)>,
    is_first: bool,
) {
    let (stream, queue) = &*sockets;
    let mut pause_ms = BACK_OFF_MS;
    let mut passing = 0;
    while socket.closed.get().is_none() {
        match socket.accept(stream).await {
            Ok((connection, peer)) => {
                pause_ms = BACK_OFF_MS;
                passing = 0;
                if let Some((connection, seat)) = shared.seat(&socket, connection, peer) {
                    admit(&shared, &socket, connection, peer, seat).await;
                }
                while_over(&shared).await;
            }
            Err(_) if socket.closed.get().is_some() => break,
            Err(error) if is_passing(&error) && passing < PASSING_MAX => passing += 1,
            Err(error) => {
                if error.kind() == io::ErrorKind::WouldBlock && shared.on_ring() {
                    // Another process that has the same socket made it non-blocking: waiting needs it back.
                    let _ = queue.set_nonblocking(false);
                }
                if is_first {
                    shared.refused(refusal(&error));
                    // By then what was closed here has given its descriptor back (F08).
                    shared.pressure.make_room(&shared);
                }
                monoio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(BACK_OFF_MS_MAX);
            }
        }
    }
    socket.acceptors.set(socket.acceptors.get() - 1);
    if socket.acceptors.get() > 0 {
        return;
    }
    if socket.closed.get() == Some(Closing::TakeQueue) {
        take_queue(&shared, &socket, queue);
    }
    // Its descriptor may be another socket's from here on.
    socket.accepting.replace(Accepting::Over);
    drop(sockets);
    shared.accepting.set(shared.accepting.get().saturating_sub(1));
}

/// Takes what waits in a socket's queue, without waiting for more.
fn take_queue(shared: &Rc<Shared>, socket: &Rc<Socket>, queue: &net::TcpListener) {
    if queue.set_nonblocking(true).is_err() {
        return;
    }
    for _ in 0..QUEUE_TAKEN_MAX {
        let Ok((connection, peer)) = queue.accept() else { return };
        let adopted = connection.set_nonblocking(!shared.on_ring()).and_then(|()| TcpStream::from_std(connection));
        let Ok(connection) = adopted else { continue };
        if let Some((connection, seat)) = shared.seat(socket, connection, peer) {
            admit_soon(shared, socket, connection, peer, seat);
        }
    }
}

/// Serves a connection, if the bounds let it in.
async fn admit(shared: &Rc<Shared>, socket: &Rc<Socket>, stream: TcpStream, peer: SocketAddr, seat: Seat) {
    // What is over a bound of its own costs nobody else a connection.
    let places = match socket.listener.borrow().enter(peer.ip()) {
        Ok(places) => places,
        Err(snapshot::Full::Listener) => return shared.refused(Refusal::Connections),
        Err(snapshot::Full::Client) => return shared.refused(Refusal::Client),
    };
    let mut admitted = shared.pressure.admit(shared);
    if admitted == Err(Refusal::Descriptors) {
        // Those that were accepted a moment ago may not have begun to wait, and then they cannot be chosen.
        monoio::time::sleep(Duration::from_millis(1)).await;
        admitted = shared.pressure.admit(shared);
    }
    if let Err(why) = admitted {
        if why == Refusal::Memory && speaks_plain_http(&socket.listener.borrow()) {
            turn_away::tell(&shared.turned_away, stream);
        }
        return shared.refused(why);
    }
    conn::begin(Held::new(shared, socket, places, seat), Tcp::new(stream), peer);
}

/// Whether a response that nobody asked for is understood there.
fn speaks_plain_http(listener: &Listener) -> bool {
    listener.tls.is_none() && listener.stream.is_none()
}

/// As [`admit`], without waiting for it: that is rare, and where it is used nobody can wait.
pub(super) fn admit_soon(shared: &Rc<Shared>, socket: &Rc<Socket>, stream: TcpStream, peer: SocketAddr, seat: Seat) {
    let (shared, socket) = (shared.clone(), socket.clone());
    monoio::spawn(async move { admit(&shared, &socket, stream, peer, seat).await });
}

/// Connections that were closed for others need a turn of the loop to be gone. Where many come at once, the next is
/// accepted when they are; one that does not go soon is not waited for.
async fn while_over(shared: &Shared) {
    for _ in 0..OVER_TURNS_MAX {
        if !shared.pressure.is_over(shared) {
            break;
        }
        monoio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The client left before it was accepted, a signal came, or the queue is to be looked at anew: nothing is wrong here.
fn is_passing(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::ECANCELED)
        || matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Refusal::Descriptors,
        Some(libc::ENOMEM | libc::ENOBUFS) => Refusal::Memory,
        _ => Refusal::Accept,
    }
}
