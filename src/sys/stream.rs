//! A TCP stream shared by its two halves and by the timer that may interrupt it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::rc::Rc;
use std::time::Duration;

use monoio::io::{AsyncReadRent, AsyncWriteRent, CancelableAsyncReadRent, Canceller};
use monoio::net::TcpStream;
use socket2::SockRef;

use super::buf::Buf;
use super::ring;

/// A connected TCP stream.
///
/// Invariant: the `TcpStream` is only used to start operations. Each of its methods copies the descriptor's handle into
/// the operation before it returns the future, so no reference to it lives across an await of ours.
pub struct SharedStream {
    stream: UnsafeCell<TcpStream>,
    /// Only where the ring cannot cancel by descriptor: tracking each read costs a tenth of a request's instructions.
    idle: Option<RefCell<Canceller>>,
    released: Cell<bool>,
}

impl SharedStream {
    /// Wraps a stream.
    pub fn new(stream: TcpStream) -> Rc<Self> {
        let idle = (!ring::can_cancel()).then(|| RefCell::new(Canceller::new()));
        Rc::new(Self { stream: UnsafeCell::new(stream), idle, released: Cell::new(false) })
    }

    /// Reads into the spare room of the buffer.
    #[inline]
    pub async fn recv(&self, buf: Buf) -> (io::Result<usize>, Buf) {
        // SAFETY: `read` borrows the stream only to start the operation (invariant); nothing else runs meanwhile on
        // this thread, and the stream is not Send.
        let stream = unsafe { &mut *self.stream.get() };
        stream.read(buf).await
    }

    /// As [`Self::recv`], but [`Self::release`] ends it early; then the count is an error and the buffer is free, or
    /// data arrived just before and is returned as usual.
    pub async fn recv_idle(&self, buf: Buf) -> (io::Result<usize>, Buf) {
        self.released.set(false);
        let Some(idle) = &self.idle else { return self.recv(buf).await };
        let handle = idle.borrow().handle();
        // SAFETY: as in `recv`.
        let stream = unsafe { &mut *self.stream.get() };
        stream.cancelable_read(buf, handle).await
    }

    /// Ends a [`Self::recv_idle`] that is under way.
    pub fn release(&self) {
        self.released.set(true);
        match &self.idle {
            Some(idle) => {
                let canceller = idle.take();
                idle.replace(canceller.cancel());
            }
            None => ring::cancel_all(self.as_raw_fd()),
        }
    }

    /// Whether [`Self::release`] was called since the last `recv_idle` began.
    pub fn is_released(&self) -> bool {
        self.released.get()
    }

    /// Waits until there is something to read, the end included, without a buffer.
    ///
    /// # Errors
    /// What the poll gives.
    pub async fn readable(&self) -> io::Result<()> {
        // SAFETY: as in `recv`; `readable` takes a shared reference.
        let stream = unsafe { &*self.stream.get() };
        stream.readable(false).await
    }

    /// Sends the buffer's window; may send less.
    #[inline]
    pub async fn send(&self, buf: Buf) -> (io::Result<usize>, Buf) {
        // SAFETY: as in `recv`.
        let stream = unsafe { &mut *self.stream.get() };
        stream.write(buf).await
    }

    /// Shuts one or both directions down; operations under way end. Errors of a connection that is already gone are
    /// nothing to act on.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.with_socket(|socket| socket.shutdown(how));
    }

    /// Makes the close that follows a reset.
    pub fn reset(&self) {
        // Where it cannot be set the peer sees an end instead: no worse than before.
        let _ = self.with_socket(|socket| socket.set_linger(Some(Duration::ZERO)));
    }

    /// Whether an idle connection is still open and silent. One with unasked bytes, or closed, is not.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = self.with_socket(|s| s.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT));
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Sets TCP_NODELAY.
    ///
    /// # Errors
    /// What the system call gives.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.with_socket(|socket| socket.set_tcp_nodelay(true))
    }

    /// The address of this end.
    ///
    /// # Errors
    /// What the system call gives.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        let addr = self.with_socket(|socket| socket.local_addr())?;
        addr.as_socket().ok_or_else(|| io::Error::other("not an internet address"))
    }

    fn as_raw_fd(&self) -> RawFd {
        // SAFETY: the shared reference is used only to read the descriptor.
        unsafe { &*self.stream.get() }.as_raw_fd()
    }

    fn with_socket<T>(&self, run: impl FnOnce(SockRef<'_>) -> T) -> T {
        let fd = self.as_raw_fd();
        // SAFETY: the descriptor stays open as long as the stream, which `self` owns for the whole call.
        run(SockRef::from(&unsafe { BorrowedFd::borrow_raw(fd) }))
    }
}
