//! An origin's thread: accepts connections, looks for idle ones, stops.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::rc::{Rc, Weak};
use std::time::Duration;

use monoio::io::AsyncReadRent;
use monoio::time::sleep;
use socket2::SockRef;

use super::conn::Connection;
use super::wire::{Link, Wire};
use super::{ACCEPT_BACKOFF_MS, CONNECTIONS_MAX, IDLE_TIMEOUT_MS, Kind, STOP_MS_MAX, SWEEP_MS};
use crate::sys::buf::Buf;
use crate::sys::ring::Driver;

/// Pause between two looks at whether the connections of a stopping origin are gone.
const STOP_POLL: Duration = Duration::from_millis(2);

/// What the connections of an origin share.
pub(super) struct Shared {
    pub kind: Kind,
    /// The `service` of its answers.
    pub name: Box<str>,
    /// No further request is answered.
    pub stopping: Cell<bool>,
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    accepted: Cell<u64>,
}

/// Serves until `stop` is closed, or for ever without it. `driver` is the one that this thread runs on.
pub(super) async fn serve(listener: TcpListener, stop: Option<UnixStream>, kind: Kind, name: &str, driver: Driver) {
    let shared = Rc::new(Shared {
        kind,
        name: name.into(),
        stopping: Cell::new(false),
        links: RefCell::default(),
        accepted: Cell::new(0),
    });
    let polled = driver == Driver::Epoll;
    if kind == Kind::Demo {
        monoio::spawn(sweep(Rc::downgrade(&shared)));
    }
    if let Some(stop) = stop
        && let Ok(closer) = listener.try_clone()
    {
        monoio::spawn(stop_when_closed(stop, closer, shared.clone(), polled));
    }
    // An error here is one of the first system calls: the origin then ends and refuses connections.
    let _ = accept(listener, &shared, polled).await;
    for _ in 0..STOP_MS_MAX / STOP_POLL.as_millis() as u64 {
        if shared.links.borrow().is_empty() {
            break;
        }
        sleep(STOP_POLL).await;
    }
    // The runtime closes descriptors through the ring: one more turn submits the last of them.
    sleep(STOP_POLL).await;
}

async fn accept(listener: TcpListener, shared: &Rc<Shared>, polled: bool) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let ready = monoio::net::TcpListener::from_std(listener.try_clone()?)?;
    let mut backoff_ms = ACCEPT_BACKOFF_MS.0;
    while !shared.stopping.get() {
        let outcome = match ready.readable(false).await {
            Ok(()) => accept_waiting(&listener, shared, polled),
            Err(error) => Err(error),
        };
        if outcome.is_ok() || shared.stopping.get() {
            backoff_ms = ACCEPT_BACKOFF_MS.0;
            continue;
        }
        // Without descriptors the listener stays readable: trying again at once would only burn the core.
        sleep(Duration::from_millis(backoff_ms)).await;
        backoff_ms = (backoff_ms * 2).min(ACCEPT_BACKOFF_MS.1);
    }
    Ok(())
}

/// Takes every connection that waits.
fn accept_waiting(listener: &TcpListener, shared: &Rc<Shared>, polled: bool) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((socket, _)) => admit(socket, shared, polled)?,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => return Ok(()),
                io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                _ => return Err(error),
            },
        }
    }
}

fn admit(socket: std::net::TcpStream, shared: &Rc<Shared>, polled: bool) -> io::Result<()> {
    if shared.links.borrow().len() >= CONNECTIONS_MAX || shared.stopping.get() {
        return Ok(());
    }
    // A ring waits by itself, but not for a descriptor that says not to.
    socket.set_nonblocking(polled)?;
    let link = Rc::new(Link::new(socket.try_clone()?));
    let wire = Wire::new(monoio::net::TcpStream::from_std(socket)?, link.clone());
    let id = shared.accepted.get();
    shared.accepted.set(id + 1);
    shared.links.borrow_mut().insert(id, link);
    let shared = shared.clone();
    monoio::spawn(async move {
        Connection::new(wire, shared.clone()).run().await;
        shared.links.borrow_mut().remove(&id);
    });
    Ok(())
}

async fn stop_when_closed(stop: UnixStream, listener: TcpListener, shared: Rc<Shared>, polled: bool) {
    let waited = async {
        stop.set_nonblocking(polled)?;
        let mut stop = monoio::net::UnixStream::from_std(stop)?;
        stop.read(Buf::small()).await.0
    };
    let _ = waited.await;
    shared.stopping.set(true);
    // On Linux this ends the wait for connections, and frees the port.
    let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
    for link in shared.links.borrow().values() {
        link.shutdown(Shutdown::Both);
    }
}

/// Ends connections on which no byte moved for [`IDLE_TIMEOUT_MS`]. A wait that was asked for is shorter than that.
async fn sweep(shared: Weak<Shared>) {
    loop {
        sleep(Duration::from_millis(SWEEP_MS)).await;
        let Some(shared) = shared.upgrade() else { return };
        for link in shared.links.borrow().values() {
            if link.sweep() >= IDLE_TIMEOUT_MS.div_ceil(SWEEP_MS) {
                link.shutdown(Shutdown::Both);
            }
        }
    }
}
