//! A TCP stream shared by its two halves and by the timer that may interrupt it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
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
    /// Made at the first read that is tracked.
    idle: RefCell<Option<Canceller>>,
    tracked: Cell<bool>,
    released: Cell<bool>,
    /// Whether a system call on the descriptor may block; known once it was asked.
    blocks: Cell<Option<bool>>,
}

/// Streams of one thread up to which a read is cancelled by its descriptor. The kernel then searches all that waits on
/// the ring, so that beyond this bound each read is tracked instead: that costs a tenth of a request's instructions,
/// but thousands of connections that become idle together cost a step each, not a search of all others each.
pub const UNTRACKED_MAX: u32 = 2048;

thread_local! {
    static OPEN: Cell<u32> = const { Cell::new(0) };
}

/// Streams that this thread has open, of clients and of endpoints.
#[inline]
pub fn open_streams() -> usize {
    OPEN.get() as usize
}

impl Drop for SharedStream {
    fn drop(&mut self) {
        OPEN.set(OPEN.get().saturating_sub(1));
    }
}

/// Takes a stream off this thread's driver, so that another thread can serve it. It must be fresh: nothing runs on it
/// and no copy of its handle exists, as just after the accept.
pub fn into_std(stream: TcpStream) -> std::net::TcpStream {
    let fd = stream.into_raw_fd();
    // SAFETY: the descriptor is open, and the call before gave up its ownership to this one.
    unsafe { std::net::TcpStream::from_raw_fd(fd) }
}

impl SharedStream {
    /// Wraps a stream.
    pub fn new(stream: TcpStream) -> Rc<Self> {
        OPEN.set(OPEN.get() + 1);
        let idle = RefCell::new(None);
        let (tracked, released) = (Cell::new(false), Cell::new(false));
        Rc::new(Self { stream: UnsafeCell::new(stream), idle, tracked, released, blocks: Cell::new(None) })
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
        self.tracked.set(OPEN.get() > UNTRACKED_MAX || !ring::can_cancel());
        if !self.tracked.get() {
            return self.recv(buf).await;
        }
        let handle = self.idle.borrow_mut().get_or_insert_default().handle();
        // SAFETY: as in `recv`.
        let stream = unsafe { &mut *self.stream.get() };
        stream.cancelable_read(buf, handle).await
    }

    /// Ends a [`Self::recv_idle`] that is under way.
    pub fn release(&self) {
        self.released.set(true);
        if !self.tracked.get() {
            ring::cancel_all(self.as_raw_fd());
            return;
        }
        let canceller = self.idle.take();
        self.idle.replace(canceller.map(Canceller::cancel));
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

    /// Waits until there is room to send, or the connection has come to an end.
    ///
    /// # Errors
    /// What the poll gives.
    pub async fn writable(&self) -> io::Result<()> {
        // SAFETY: as in `recv`; `writable` takes a shared reference.
        let stream = unsafe { &*self.stream.get() };
        stream.writable(false).await
    }

    /// Runs a system call on the descriptor that must not block. The descriptor of a stream on a ring blocks otherwise:
    /// there a call that would block is one that waits.
    ///
    /// # Errors
    /// What the call gives.
    pub fn without_blocking<T>(&self, call: impl FnOnce(BorrowedFd<'_>) -> io::Result<T>) -> io::Result<T> {
        let blocks = match self.blocks.get() {
            Some(blocks) => blocks,
            None => !self.with_socket(|socket| socket.nonblocking())?,
        };
        self.blocks.set(Some(blocks));
        if !blocks {
            return call(self.as_fd());
        }
        self.set_blocking(false)?;
        let done = call(self.as_fd());
        self.set_blocking(true)?;
        done
    }

    /// One system call, where the usual way takes two.
    fn set_blocking(&self, blocking: bool) -> io::Result<()> {
        let mut nonblocking = libc::c_int::from(!blocking);
        // SAFETY: the descriptor is open, and FIONBIO reads one int.
        match unsafe { libc::ioctl(self.as_raw_fd(), libc::FIONBIO, &mut nonblocking) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The descriptor.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor stays open as long as the stream, which `self` owns.
        unsafe { BorrowedFd::borrow_raw(self.as_raw_fd()) }
    }

    /// Sends the buffer's window; may send less.
    #[inline]
    pub async fn send(&self, buf: Buf) -> (io::Result<usize>, Buf) {
        // SAFETY: as in `recv`.
        let stream = unsafe { &mut *self.stream.get() };
        stream.write(buf).await
    }

    /// Whether the kernel takes more now. It says no from two thirds of its buffer on, so that what follows a yes is
    /// seldom left half way.
    pub fn has_room(&self) -> bool {
        let mut wanted = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: the pointer is to one live pollfd of this frame, and the call does not wait.
        let ready = unsafe { libc::poll(&mut wanted, 1, 0) };
        // An error, or a connection that is gone, is found by the send that follows.
        ready != 0
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

    /// Sends what the kernel takes without a wait. Errors of a connection that is going are nothing to act on.
    pub fn send_now(&self, bytes: &[u8]) {
        let _ = self.with_socket(|s| s.send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL));
    }

    /// Reads and drops what has arrived, as far as 64 KiB.
    pub fn discard_now(&self) {
        let mut dropped = [std::mem::MaybeUninit::uninit(); 4096];
        for _ in 0..16 {
            match self.with_socket(|s| s.recv_with_flags(&mut dropped, libc::MSG_DONTWAIT)) {
                Ok(count) if count > 0 => {}
                _ => break,
            }
        }
    }

    /// Bytes in the kernel's send queue that the peer has not acknowledged.
    pub fn unsent_bytes(&self) -> Option<u64> {
        let mut bytes: libc::c_int = 0;
        // SAFETY: the descriptor is open as long as `self`; the request writes one int, which lives in this frame.
        let done = unsafe { libc::ioctl(self.as_raw_fd(), libc::TIOCOUTQ, &mut bytes) };
        (done == 0).then(|| u64::try_from(bytes).unwrap_or(0))
    }

    /// The next byte, which stays to be read.
    ///
    /// # Errors
    /// When there is none.
    pub fn peek(&self) -> io::Result<u8> {
        let mut byte = 0_u8;
        let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
        // SAFETY: the descriptor is open as long as `self`; at most one byte is written, to one that lives here.
        match unsafe { libc::recv(self.as_raw_fd(), (&raw mut byte).cast(), 1, flags) } {
            1 => Ok(byte),
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Whether an idle connection is still open and silent. One with unasked bytes, or closed, is not.
    pub fn is_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = self.with_socket(|s| s.recv_with_flags(&mut byte, libc::MSG_PEEK | libc::MSG_DONTWAIT));
        matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the peer has closed its sending side or reset the connection. Bytes that arrived before do not hide it.
    pub fn has_left(&self) -> bool {
        let mut asked = libc::pollfd { fd: self.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
        // SAFETY: `asked` is one valid entry for the whole call, which does not wait; the descriptor is ours and open.
        let count = unsafe { libc::poll(&mut asked, 1, 0) };
        count > 0 && asked.revents & (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) != 0
    }

    /// Sets TCP_NODELAY.
    ///
    /// # Errors
    /// What the system call gives.
    pub fn set_nodelay(&self) -> io::Result<()> {
        self.with_socket(|socket| socket.set_tcp_nodelay(true))
    }

    /// Bounds what the kernel holds before it is on its way, in bytes.
    ///
    /// # Errors
    /// What the system call gives.
    pub fn set_unsent_max(&self, bytes: u32) -> io::Result<()> {
        self.with_socket(|socket| socket.set_tcp_notsent_lowat(bytes))
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
        run(SockRef::from(&self.as_fd()))
    }
}
