//! A connection's socket: through the ring for bytes, and by its plain descriptor for whoever ends it.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;

use crate::net::io::{Done, ReadHalf, WriteHalf};
use crate::sys::buf::Buf;

/// What the server holds of a connection: a second descriptor, so that it can be shut from outside its task.
#[derive(Debug)]
pub(super) struct Link {
    socket: std::net::TcpStream,
    moved: Cell<bool>,
    silent_sweeps: Cell<u64>,
}

impl Link {
    pub fn new(socket: std::net::TcpStream) -> Self {
        Self { socket, moved: Cell::new(true), silent_sweeps: Cell::new(0) }
    }

    /// Operations under way end. Errors of a connection that is already gone are nothing to act on.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.socket.shutdown(how);
    }

    /// Counts the sweeps since a byte moved. The request path pays one store for it.
    pub fn sweep(&self) -> u64 {
        let silent = if self.moved.replace(false) { 0 } else { self.silent_sweeps.get() + 1 };
        self.silent_sweeps.set(silent);
        silent
    }
}

/// A connection's bytes, in both directions.
pub(super) struct Wire {
    stream: TcpStream,
    link: Rc<Link>,
}

impl Wire {
    pub fn new(stream: TcpStream, link: Rc<Link>) -> Self {
        Self { stream, link }
    }

    /// Sends bytes that live for ever, without a copy.
    #[inline]
    pub async fn send_static(&mut self, mut bytes: &'static [u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let (sent, _) = self.stream.write(bytes).await;
            self.link.moved.set(true);
            match sent {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn finish(&self) {
        self.link.shutdown(Shutdown::Write);
    }
}

impl ReadHalf for Wire {
    #[inline]
    async fn recv(&mut self, buf: Buf) -> Done {
        let done = self.stream.read(buf).await;
        self.link.moved.set(true);
        done
    }

    async fn recv_idle(&mut self, buf: Buf) -> Done {
        self.recv(buf).await
    }

    async fn readable(&mut self) -> io::Result<()> {
        self.stream.readable(false).await
    }
}

impl WriteHalf for Wire {
    #[inline]
    async fn send(&mut self, buf: Buf) -> Done {
        let done = self.stream.write(buf).await;
        self.link.moved.set(true);
        done
    }
}
