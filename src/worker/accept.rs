//! Accepting connections, within the worker's bound and without spinning when the system runs short.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use super::conn;
use super::placement::Seat;
use super::run::Shared;
use crate::http::exchange::ShortText;
use crate::limits::CONNECTIONS_PER_WORKER_MAX;
use crate::net::tcp::Tcp;
use crate::snapshot::Listener;
use crate::sys::ring;
use crate::telemetry::metrics::instruments::Refusal;

/// First pause after a failed accept; it doubles up to [`BACK_OFF_MS_MAX`] (F09).
const BACK_OFF_MS: u64 = 10;
const BACK_OFF_MS_MAX: u64 = 500;

/// A listening socket of this worker.
pub struct Socket {
    /// The address as it is configured: its identity over reloads.
    pub address: SocketAddr,
    /// The port that it got, as text.
    pub port_text: ShortText,
    listener: RefCell<Rc<Listener>>,
    control: TcpListener,
    /// The descriptor that is accepted from.
    accepting: RawFd,
    closed: Cell<bool>,
}

impl Socket {
    /// Starts accepting.
    ///
    /// # Errors
    /// When the socket cannot be handed to the worker's runtime.
    pub fn open(shared: &Rc<Shared>, listener: &Listener, socket: TcpListener, on_ring: bool) -> io::Result<Rc<Self>> {
        let control = socket.try_clone()?;
        let port_text = ShortText::of(&socket.local_addr()?.port());
        // On a ring a non-blocking socket would turn each accept into an error instead of a wait.
        socket.set_nonblocking(!on_ring)?;
        let stream = monoio::net::TcpListener::from_std(socket)?;
        let this = Rc::new(Self {
            address: listener.address,
            port_text,
            listener: RefCell::new(Rc::new(listener.clone())),
            control,
            accepting: stream.as_raw_fd(),
            closed: Cell::new(false),
        });
        monoio::spawn(accept_all(shared.clone(), this.clone(), stream));
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

    /// Accepts no more on this worker, and leaves the socket open for its successor (F05).
    pub fn abandon(&self) {
        self.closed.set(true);
        // The accept under way ends with an error. On epoll there is none under way: the task is only never woken.
        ring::cancel_all(self.accepting);
    }

    /// Accepts no more.
    pub fn close(&self) {
        self.closed.set(true);
        // The accept under way ends with an error; an error here means that it has ended already.
        let _ = socket2::SockRef::from(&self.control).shutdown(std::net::Shutdown::Both);
    }
}

async fn accept_all(shared: Rc<Shared>, socket: Rc<Socket>, stream: monoio::net::TcpListener) {
    let mut pause_ms = BACK_OFF_MS;
    while !socket.closed.get() {
        match stream.accept().await {
            Ok((connection, peer)) => {
                pause_ms = BACK_OFF_MS;
                if let Some((connection, seat)) = shared.seat(&socket, connection, peer) {
                    admit(&shared, &socket, connection, peer, seat);
                }
            }
            Err(_) if socket.closed.get() => break,
            Err(error) if is_passing(&error) => {}
            Err(error) => {
                shared.refused(refusal(&error));
                monoio::time::sleep(Duration::from_millis(pause_ms)).await;
                pause_ms = (pause_ms * 2).min(BACK_OFF_MS_MAX);
            }
        }
    }
}

/// Serves a connection, if the bounds let it in.
pub(super) fn admit(
    shared: &Rc<Shared>,
    socket: &Rc<Socket>,
    stream: monoio::net::TcpStream,
    peer: SocketAddr,
    seat: Seat,
) {
    if shared.connections.get() >= CONNECTIONS_PER_WORKER_MAX {
        shared.refused(Refusal::Connections);
        return;
    }
    let place = match &socket.listener.borrow().connections {
        Some(bound) => match bound.enter() {
            Some(place) => Some(place),
            None => return shared.refused(Refusal::Connections),
        },
        None => None,
    };
    monoio::spawn(conn::serve(shared.clone(), socket.clone(), Tcp::new(stream), peer, (place, seat)));
}

/// The client left before it was accepted, or a signal came: nothing is wrong here.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted)
}

fn refusal(error: &io::Error) -> Refusal {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => Refusal::Descriptors,
        Some(libc::ENOMEM | libc::ENOBUFS) => Refusal::Memory,
        _ => Refusal::Accept,
    }
}
