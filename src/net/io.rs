//! What the wires need of a connection. Production passes TCP (later TLS over it), tests and benches pass
//! [`super::mem`].
//!
//! Buffers are owned by the operation while it is under way. A future of these traits is never dropped before it is
//! done by code that goes on with the connection: it is interrupted through its [`Interrupt`] and then awaited.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::tls::Agreed;
use crate::sys::buf::Buf;
use crate::sys::stream::SharedStream;

/// A count or an error, and the buffer back.
pub type Done = (io::Result<usize>, Buf);

/// A bidirectional connection that comes apart into two halves.
pub trait Io: 'static {
    /// The reading half.
    type Read: ReadHalf;
    /// The writing half.
    type Write: WriteHalf;

    /// Takes the connection apart. The third part interrupts both halves.
    fn split(self) -> (Self::Read, Self::Write, Rc<dyn Interrupt>);

    /// What its handshake agreed on, the protocol of ALPN among it; None without TLS.
    fn agreed(&self) -> Option<&Agreed> {
        None
    }
}

/// The reading half of a connection.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait ReadHalf: 'static {
    /// Reads into the spare room of the buffer; 0 is the end.
    async fn recv(&mut self, buf: Buf) -> Done;

    /// As `recv`, but [`Interrupt::release`] may end it with `ErrorKind::Interrupted`, so that an idle connection can
    /// give its buffer back.
    async fn recv_idle(&mut self, buf: Buf) -> Done;

    /// Waits, without a buffer, until there is something to read, the end included.
    async fn readable(&mut self) -> io::Result<()>;

    /// The socket, where the bytes of the message are those on the socket and may bypass the gateway's buffers.
    fn socket(&self) -> Option<&SharedStream> {
        None
    }
}

/// The writing half of a connection.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait WriteHalf: 'static {
    /// Sends the buffer's window; may send less.
    async fn send(&mut self, buf: Buf) -> Done;

    /// As [`ReadHalf::socket`].
    fn socket(&self) -> Option<&SharedStream> {
        None
    }

    /// Says that the connection is finished, shut for writing or closed right behind what is sent next: that may be
    /// held back until then, so that both go out in one.
    fn ends(&self) {}

    /// Whether a send would be taken now, for the better part. A wire that cannot tell says yes.
    fn has_room(&self) -> bool {
        true
    }

    /// Says that no more comes, where the wire has a word for it, and waits until that is taken. Nothing can be sent
    /// afterwards.
    async fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Waits, without a buffer, until a send would be taken, or the connection ends.
    async fn writable(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Ends operations that wait on a connection.
pub trait Interrupt {
    /// Shuts one or both directions down; operations under way end.
    fn shutdown(&self, how: Shutdown);

    /// Makes the close that follows a reset: the peer sees that the message was cut, also a message that ends with the
    /// connection.
    /// Nothing may be waiting on the connection.
    fn reset(&self) {
        self.shutdown(Shutdown::Both);
    }

    /// Says that nothing is under way on the connection, nor will be before it is dropped: that is then done at once.
    fn spend(&self) {}

    /// Ends a `recv_idle` that is under way.
    fn release(&self);

    /// Sends these bytes at once, as far as the connection takes them without a wait: what is said when it ends.
    /// No send may be under way. Returns whether all were taken; where they were not, nothing can follow them.
    fn last_words(&self, _bytes: &[u8]) -> bool {
        false
    }

    /// Bytes that were sent and that the peer has not acknowledged yet. None where that cannot be known. A system call:
    /// for waits that have become long.
    fn unsent_bytes(&self) -> Option<u64> {
        None
    }

    /// Says that connections are to end soon. Returns whether there is somebody who does something about it now, and
    /// not with the next response.
    fn announce_end(&self) -> bool {
        false
    }

    /// Whether an idle connection is open and silent: one that was closed, or that brings unasked bytes, is not.
    fn is_quiet(&self) -> bool;

    /// The address of this end, where the system tells it.
    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    /// Whether the peer has closed its sending side or reset the connection, whatever has arrived before.
    fn has_left(&self) -> bool;
}

/// Opens connections to endpoints.
#[allow(async_fn_in_trait, reason = "workers are single-threaded; futures need not be Send")]
pub trait Connect: 'static {
    /// The connection it gives.
    type Io: Io;

    /// Connects within `timeout_ms`.
    ///
    /// # Errors
    /// `TimedOut` when the time is over, else what the connection attempt gave.
    async fn connect(&self, to: SocketAddr, timeout_ms: u64) -> io::Result<Self::Io>;

    /// Connects and shakes hands, both within `timeout_ms`.
    ///
    /// # Errors
    /// As [`Self::connect`]; `InvalidData` with a [`super::tls::HandshakeError`] where the handshake fails.
    async fn connect_tls(
        &self,
        _to: SocketAddr,
        _config: Arc<ClientConfig>,
        _name: ServerName<'static>,
        _timeout_ms: u64,
    ) -> io::Result<Self::Io> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// One of the same kind for a task of its own; None where there is no other.
    fn another(&self) -> Option<Self>
    where
        Self: Sized,
    {
        None
    }

    /// Runs a task beside the others of the worker: of a connection that serves several exchanges and none for itself.
    fn spawn(&self, task: Pin<Box<dyn Future<Output = ()>>>) {
        monoio::spawn(task);
    }
}

/// Sends the whole window. Returns the emptied buffer for reuse.
///
/// # Errors
/// The first error of a send; a send of nothing is `WriteZero`.
#[inline]
pub async fn send_all<W: WriteHalf>(write: &mut W, mut buf: Buf) -> io::Result<Buf> {
    while !buf.is_empty() {
        let (sent, back) = pin!(write.send(buf)).await;
        buf = back;
        match sent {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => buf.consume(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    buf.clear();
    Ok(buf)
}
