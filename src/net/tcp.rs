//! TCP through the worker's runtime.

use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use monoio::net::TcpStream;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::io::{Connect, Done, Interrupt, Io, ReadHalf, WriteHalf};
use super::tls::Fresh;
use super::wire::Wire;
use crate::sys::buf::Buf;
use crate::sys::stream::SharedStream;

/// A TCP connection.
pub struct Tcp(Rc<SharedStream>);

impl Tcp {
    /// Wraps a stream of the worker's runtime.
    pub fn new(stream: TcpStream) -> Self {
        Self(SharedStream::new(stream))
    }

    /// Ends what waits on the connection: for a deadline.
    pub fn interrupt(&self) -> Rc<dyn Interrupt> {
        self.0.clone()
    }

    /// The first byte that the peer sends; it stays to be read.
    ///
    /// # Errors
    /// When the connection ends before.
    pub async fn first_byte(&self) -> io::Result<u8> {
        self.0.readable().await?;
        self.0.peek()
    }

    /// The address of this end.
    ///
    /// # Errors
    /// What the system call gives.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

impl Io for Tcp {
    type Read = TcpRead;
    type Write = TcpWrite;

    fn split(self) -> (TcpRead, TcpWrite, Rc<dyn Interrupt>) {
        (TcpRead(self.0.clone()), TcpWrite(self.0.clone()), self.0)
    }
}

/// The reading half of a TCP connection.
pub struct TcpRead(Rc<SharedStream>);

impl ReadHalf for TcpRead {
    #[inline]
    fn recv(&mut self, buf: Buf) -> impl Future<Output = Done> {
        self.0.recv(buf)
    }

    #[inline]
    fn recv_idle(&mut self, buf: Buf) -> impl Future<Output = Done> {
        self.0.recv_idle(buf)
    }

    async fn readable(&mut self) -> io::Result<()> {
        self.0.readable().await
    }

    fn socket(&self) -> Option<&SharedStream> {
        Some(&self.0)
    }
}

/// The writing half of a TCP connection.
pub struct TcpWrite(Rc<SharedStream>);

impl WriteHalf for TcpWrite {
    #[inline]
    fn send(&mut self, buf: Buf) -> impl Future<Output = Done> {
        self.0.send(buf)
    }

    fn socket(&self) -> Option<&SharedStream> {
        Some(&self.0)
    }

    fn ends(&self) {
        self.0.ends();
    }

    fn has_room(&self) -> bool {
        self.0.has_room()
    }

    async fn writable(&mut self) -> io::Result<()> {
        self.0.writable().await
    }
}

impl Interrupt for SharedStream {
    fn shutdown(&self, how: Shutdown) {
        SharedStream::shutdown(self, how);
    }

    fn reset(&self) {
        SharedStream::reset(self);
    }

    fn spend(&self) {
        SharedStream::spend(self);
    }

    fn release(&self) {
        SharedStream::release(self);
    }

    fn last_words(&self, bytes: &[u8]) -> bool {
        SharedStream::send_now(self, bytes)
    }

    fn unsent_bytes(&self) -> Option<u64> {
        SharedStream::unsent_bytes(self)
    }

    fn is_quiet(&self) -> bool {
        SharedStream::is_quiet(self)
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        SharedStream::local_addr(self).ok()
    }

    fn has_left(&self) -> bool {
        SharedStream::has_left(self)
    }
}

/// Connects over TCP, with TCP_NODELAY.
#[derive(Clone, Default)]
pub struct TcpConnect {
    /// Asked before a descriptor is taken; may make room for it. None takes what the system gives.
    room: Option<Rc<dyn Fn() -> bool>>,
    /// Bytes that the kernel holds for an endpoint before they are on their way; None leaves it to the system.
    unsent_bytes_max: Option<u32>,
}

impl TcpConnect {
    /// Connects as long as `room` says that there is a descriptor to be had.
    pub fn within(room: impl Fn() -> bool + 'static, unsent_bytes_max: Option<u32>) -> Self {
        Self { room: Some(Rc::new(room)), unsent_bytes_max }
    }
}

impl TcpConnect {
    async fn open(&self, to: SocketAddr, timeout_ms: u64) -> io::Result<Tcp> {
        if self.room.as_ref().is_some_and(|room| !room()) {
            return Err(io::Error::from_raw_os_error(libc::EMFILE));
        }
        let attempt = TcpStream::connect_addr(to);
        // Dropping the attempt at the timeout is sound: nothing of it is used afterwards.
        let stream = match monoio::time::timeout(Duration::from_millis(timeout_ms), attempt).await {
            Ok(connected) => connected?,
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        };
        let shared = SharedStream::new(stream);
        shared.set_nodelay()?;
        if let Some(most) = self.unsent_bytes_max {
            shared.set_unsent_max(most)?;
        }
        Ok(Tcp(shared))
    }
}

impl Connect for TcpConnect {
    type Io = Wire;

    fn another(&self) -> Option<Self> {
        Some(self.clone())
    }

    async fn connect(&self, to: SocketAddr, timeout_ms: u64) -> io::Result<Wire> {
        self.open(to, timeout_ms).await.map(Wire::Plain)
    }

    async fn connect_tls(
        &self,
        to: SocketAddr,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        timeout_ms: u64,
    ) -> io::Result<Wire> {
        let begun = crate::time::Clock::System.read();
        let tcp = self.open(to, timeout_ms).await?;
        let left_ms = timeout_ms.saturating_sub(crate::time::Clock::System.read().since_ns(begun) / 1_000_000);
        let interrupt = tcp.interrupt();
        let shaking = Box::pin(Fresh::new(tcp).connect(config, name));
        match monoio::time::timeout(Duration::from_millis(left_ms), shaking).await {
            Ok(shaken) => {
                let refused = |error| io::Error::new(io::ErrorKind::InvalidData, error);
                shaken.map(|secured| Wire::Tls(Box::new(secured))).map_err(refused)
            }
            Err(_) => {
                // The read that was under way ends with its connection; nothing of it is used afterwards.
                interrupt.shutdown(Shutdown::Both);
                Err(io::Error::new(io::ErrorKind::TimedOut, "in the TLS handshake"))
            }
        }
    }
}
