//! A TCP stream shared by its two halves and by the timer that may interrupt it.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::io;
use std::mem::ManuallyDrop;
use std::net::{Shutdown, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, RawFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
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
    stream: UnsafeCell<ManuallyDrop<TcpStream>>,
    /// What ends an idle read.
    idle: RefCell<Idle>,
    on_epoll: bool,
    released: Cell<bool>,
    /// Nothing is under way any more.
    spent: Cell<bool>,
    /// Whether a system call on the descriptor may block; known once it was asked.
    blocks: Cell<Option<bool>>,
    /// Nothing but the end follows what is sent next.
    ends: Cell<bool>,
}

/// How an idle read that is under way is ended.
#[derive(Default)]
enum Idle {
    /// Through the ring, by the descriptor.
    #[default]
    ByDescriptor,
    /// Through the runtime, which keeps a set of such reads.
    Tracked(Canceller),
    /// By its waker. On epoll the system owns nothing of a read that waits: it is dropped.
    Dropped(Option<Waker>),
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
        // SAFETY: the stream is not used again.
        let stream = unsafe { ManuallyDrop::take(self.stream.get_mut()) };
        if self.spent.get() && !self.on_epoll && !std::thread::panicking() {
            drop(into_std(stream));
        }
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
        let (idle, on_epoll) = (RefCell::default(), monoio::utils::is_legacy());
        let stream = UnsafeCell::new(ManuallyDrop::new(stream));
        let (released, spent, blocks, ends) = (Cell::new(false), Cell::new(false), Cell::new(None), Cell::new(false));
        Rc::new(Self { stream, idle, on_epoll, released, spent, blocks, ends })
    }

    /// Reads into the spare room of the buffer. The future is the runtime's own: each layer around it would move the
    /// buffer once more.
    #[inline]
    pub fn recv(&self, buf: Buf) -> impl Future<Output = Done> + use<'_> {
        // SAFETY: `read` borrows the stream only to start the operation (invariant); nothing else runs meanwhile on
        // this thread, and the stream is not Send.
        let stream = unsafe { &mut *self.stream.get() };
        stream.read(buf)
    }

    /// As [`Self::recv`], but [`Self::release`] ends it early with `Interrupted`; or data arrived just before and is
    /// returned as usual.
    #[inline]
    pub fn recv_idle(&self, buf: Buf) -> impl Future<Output = Done> + use<'_> {
        self.released.set(false);
        // A dropped read takes its buffer along, so that one that holds bytes is not read into in this way.
        let by_waker = self.on_epoll && buf.is_empty();
        if !by_waker && (OPEN.get() > UNTRACKED_MAX || !ring::can_cancel()) {
            return IdleRead { stream: self, read: Reading::Tracked(self.recv_tracked(buf)) };
        }
        let mut idle = self.idle.borrow_mut();
        match &*idle {
            Idle::Dropped(_) if by_waker => {}
            _ if by_waker => *idle = Idle::Dropped(None),
            _ => *idle = Idle::ByDescriptor,
        }
        drop(idle);
        IdleRead { stream: self, read: Reading::Plain(self.recv(buf)) }
    }

    #[cold]
    fn recv_tracked(&self, buf: Buf) -> Pin<Box<dyn Future<Output = Done> + '_>> {
        let mut idle = self.idle.borrow_mut();
        if !matches!(*idle, Idle::Tracked(_)) {
            *idle = Idle::Tracked(Canceller::new());
        }
        let Idle::Tracked(canceller) = &*idle else { return Box::pin(self.recv(buf)) };
        // SAFETY: as in `recv`.
        let stream = unsafe { &mut *self.stream.get() };
        Box::pin(stream.cancelable_read(buf, canceller.handle()))
    }

    /// Ends a [`Self::recv_idle`] that is under way.
    pub fn release(&self) {
        self.released.set(true);
        let mut idle = self.idle.borrow_mut();
        match std::mem::take(&mut *idle) {
            Idle::ByDescriptor => ring::cancel_all(self.as_raw_fd()),
            Idle::Tracked(canceller) => *idle = Idle::Tracked(canceller.cancel()),
            Idle::Dropped(waker) => {
                *idle = Idle::Dropped(None);
                drop(idle);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
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

    /// Sends the buffer's window; may send less, or nothing with `Interrupted` where a release of the reading half has
    /// met it.
    #[inline]
    pub fn send(&self, buf: Buf) -> impl Future<Output = Done> + use<'_> {
        if self.ends.get()
            && let Some(done) = self.send_before_end(buf.as_slice())
        {
            return Sending::Done(Some((done, buf)));
        }
        // SAFETY: as in `recv`.
        let stream = unsafe { &mut *self.stream.get() };
        Sending::Waiting(stream.write(buf))
    }

    /// Hands the kernel what it takes at once, to be held back for the end that follows; None where that is nothing. By
    /// a system call: the close follows in the same turn, and what is held back would otherwise wait for the next one.
    fn send_before_end(&self, bytes: &[u8]) -> Option<io::Result<usize>> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | libc::MSG_MORE;
        // SAFETY: the descriptor is open as long as `self`, the slice lives for the whole call, which keeps nothing.
        let sent = unsafe { libc::send(self.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) };
        if let Ok(count) = usize::try_from(sent) {
            return Some(Ok(count));
        }
        let error = io::Error::last_os_error();
        let again = matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted);
        (!again).then_some(Err(error))
    }

    /// Says that the connection is shut for writing, or closed, right behind what is sent next. The kernel holds that
    /// back until then, as far as it would fill no segment, and both go out in one.
    #[inline]
    pub fn ends(&self) {
        self.ends.set(true);
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

    /// Nothing is under way on the connection, nor will be: its descriptor is closed by a system call. The runtime
    /// closes it by an operation of the ring and sends another one after that to cancel it.
    pub fn spend(&self) {
        self.spent.set(true);
    }

    /// Makes the close that follows a reset.
    pub fn reset(&self) {
        // Where it cannot be set the peer sees an end instead: no worse than before.
        let _ = self.with_socket(|socket| socket.set_linger(Some(Duration::ZERO)));
    }

    /// Sends what the kernel takes without a wait. Returns whether that is all; errors of a connection that is going
    /// are nothing to act on.
    pub fn send_now(&self, bytes: &[u8]) -> bool {
        let sent = self.with_socket(|s| s.send_with_flags(bytes, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL));
        sent.is_ok_and(|count| count == bytes.len())
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
        let stream = unsafe { &*self.stream.get() };
        stream.as_raw_fd()
    }

    fn with_socket<T>(&self, run: impl FnOnce(SockRef<'_>) -> T) -> T {
        run(SockRef::from(&self.as_fd()))
    }
}

/// A count or an error, and the buffer back.
type Done = (io::Result<usize>, Buf);

/// A read of a stream that may be released.
struct IdleRead<'s, F> {
    stream: &'s SharedStream,
    read: Reading<'s, F>,
}

enum Reading<'s, F> {
    Plain(F),
    Tracked(Pin<Box<dyn Future<Output = Done> + 's>>),
}

impl<F: Future<Output = Done>> Future for IdleRead<'_, F> {
    type Output = Done;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        // SAFETY: the read is not moved out of `self`, which has no Drop and is not Unpin unless the read is.
        let (stream, read) = unsafe {
            let this = self.get_unchecked_mut();
            (this.stream, &mut this.read)
        };
        let polled = match read {
            // SAFETY: as above.
            Reading::Plain(read) => unsafe { Pin::new_unchecked(read) }.poll(cx),
            Reading::Tracked(read) => read.as_mut().poll(cx),
        };
        match polled {
            Poll::Ready((Err(_), buf)) if stream.released.get() => Poll::Ready((Err(interrupted()), buf)),
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => stream.wait_for_release(cx),
        }
    }
}

impl SharedStream {
    /// What becomes of an idle read that has nothing to return.
    #[inline]
    fn wait_for_release(&self, cx: &Context<'_>) -> Poll<Done> {
        if let Idle::Dropped(waker) = &mut *self.idle.borrow_mut() {
            if self.released.get() {
                // The read goes with its future, and its buffer with it.
                return Poll::Ready((Err(interrupted()), Buf::empty()));
            }
            if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                *waker = Some(cx.waker().clone());
            }
        }
        Poll::Pending
    }
}

#[cold]
fn interrupted() -> io::Error {
    io::ErrorKind::Interrupted.into()
}

/// A send. A release of the reading half may cancel all that waits on the descriptor; a send that it met has sent
/// nothing, and is to be made again.
enum Sending<F> {
    /// The kernel has answered at once.
    Done(Option<Done>),
    Waiting(F),
}

impl<F: Future<Output = Done>> Future for Sending<F> {
    type Output = Done;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Done> {
        // SAFETY: the send is not moved out of `self`, which has no Drop and is not Unpin unless the send is.
        let waiting = match unsafe { self.get_unchecked_mut() } {
            Sending::Done(done) => return done.take().map_or(Poll::Pending, Poll::Ready),
            // SAFETY: as above.
            Sending::Waiting(waiting) => unsafe { Pin::new_unchecked(waiting) },
        };
        match waiting.poll(cx) {
            Poll::Ready((Err(error), buf)) if error.raw_os_error() == Some(libc::ECANCELED) => {
                Poll::Ready((Err(interrupted()), buf))
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;
    use crate::sys::ring::{Driver, WorkerRuntime};

    /// A released read gives back what its buffer held, and the next read goes on where it was.
    async fn release_and_go_on(held: &'static [u8]) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut far = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (near, _) = listener.accept().expect("accepted");
        near.set_nonblocking(monoio::utils::is_legacy()).expect("set");
        let stream = SharedStream::new(TcpStream::from_std(near).expect("adopted"));
        for _ in 0..2 {
            let mut read = std::pin::pin!(stream.recv_idle(Buf::copy_of(held)));
            let first = std::future::poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await;
            assert!(first.is_pending());
            // A turn of the loop: on a ring the read is not under way before.
            monoio::time::sleep(Duration::from_millis(1)).await;
            stream.release();
            let (count, buf) = read.await;
            assert_eq!(count.expect_err("released").kind(), io::ErrorKind::Interrupted);
            assert_eq!(buf.as_slice(), held);
        }
        far.write_all(b"late").expect("sent");
        let (count, buf) = stream.recv_idle(Buf::copy_of(held)).await;
        assert_eq!((count.expect("read"), buf.as_slice()), (4, &[held, b"late"].concat()[..]));
    }

    /// What is sent as the last is held back for the end, which brings it. Whether it was held back.
    async fn send_the_last() -> bool {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut far = std::net::TcpStream::connect(listener.local_addr().expect("an address")).expect("connected");
        let (near, _) = listener.accept().expect("accepted");
        near.set_nonblocking(monoio::utils::is_legacy()).expect("set");
        near.set_nodelay(true).expect("set");
        let stream = SharedStream::new(TcpStream::from_std(near).expect("adopted"));
        assert_eq!(stream.send(Buf::copy_of(b"first ")).await.0.expect("sent"), 6);
        let mut first = [0; 6];
        far.read_exact(&mut first).expect("sent at once");
        stream.ends();
        assert_eq!(stream.send(Buf::copy_of(b"last")).await.0.expect("sent"), 4);
        far.set_nonblocking(true).expect("set");
        let held_back = far.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        far.set_nonblocking(false).expect("set");
        stream.spend();
        drop(stream);
        let mut last = Vec::new();
        far.read_to_end(&mut last).expect("closed, not reset");
        assert_eq!(last, b"last");
        held_back
    }

    #[test]
    fn the_last_goes_out_with_the_end() {
        for first in [Driver::RingDeferTaskrun, Driver::Epoll] {
            let thread = std::thread::spawn(move || {
                let (mut runtime, ..) = WorkerRuntime::build(first, 64).expect("a runtime");
                // The kernel holds it back for 200 ms at most; a machine that stands still for longer is tried again.
                (0..20).any(|_| runtime.block_on(send_the_last()))
            });
            assert!(thread.join().expect("the thread ends well"));
        }
    }

    #[test]
    fn an_idle_read_is_released_and_loses_nothing() {
        for first in [Driver::RingDeferTaskrun, Driver::Epoll] {
            let thread = std::thread::spawn(move || {
                let (mut runtime, ..) = WorkerRuntime::build(first, 64).expect("a runtime");
                runtime.block_on(async {
                    release_and_go_on(b"").await;
                    release_and_go_on(b"half a record").await;
                });
            });
            thread.join().expect("the thread ends well");
        }
    }
}
