//! Pipes through which the kernel passes bytes from socket to socket without copying them.
//!
//! A pipe holds references to the pages that the source's packets lie in; the destination sends those pages. What a
//! pipe holds is kernel memory, at most [`SPLICE_STEP_BYTES`], and a worker has at most [`PIPES_MAX`] pipes in use.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::limits::{PIPES_FREE_MAX, PIPES_MAX, SPLICE_STEP_BYTES};

/// An empty pipe, or one that carries bytes from a source to a destination.
pub struct Pipe {
    ends: Option<Ends>,
    held: usize,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

thread_local! {
    static FREE: RefCell<Vec<Ends>> = const { RefCell::new(Vec::new()) };
    static TAKEN: Cell<usize> = const { Cell::new(0) };
    /// The fewest that were free since the last trim: so many were of no use.
    static UNUSED: Cell<usize> = const { Cell::new(0) };
}

impl Pipe {
    /// A pipe of this thread's pool. None when too many are in use or the system gives none: bytes are copied then.
    pub fn take() -> Option<Self> {
        if TAKEN.get() >= PIPES_MAX {
            return None;
        }
        let pooled = FREE
            .try_with(|free| {
                let mut free = free.borrow_mut();
                let pooled = free.pop();
                UNUSED.set(UNUSED.get().min(free.len()));
                pooled
            })
            .ok()?;
        let ends = pooled.map_or_else(Ends::open, Ok).ok()?;
        TAKEN.set(TAKEN.get() + 1);
        Some(Self { ends: Some(ends), held: 0 })
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes what the source, which must not block, has now: at most `bytes_max` and
    /// [`SPLICE_STEP_BYTES`]. 0 is the end.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing; else what the connection has come to.
    pub fn fill(&mut self, source: BorrowedFd<'_>, bytes_max: u64) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let bytes = bytes_max.min(SPLICE_STEP_BYTES as u64) as usize;
        let count = splice(source, ends.write.as_fd(), bytes)?;
        self.held += count;
        Ok(count)
    }

    /// Gives to the destination, which must not block, what it takes now.
    ///
    /// # Errors
    /// `WouldBlock` when it takes nothing; else what the connection has come to.
    pub fn drain(&mut self, destination: BorrowedFd<'_>) -> io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let count = splice(ends.read.as_fd(), destination, self.held)?;
        self.held = self.held.saturating_sub(count);
        Ok(count)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        TAKEN.set(TAKEN.get().saturating_sub(1));
        let Some(ends) = self.ends.take().filter(|_| self.held == 0) else { return };
        // The pool is gone when a thread ends; then the descriptors are closed.
        let _ = FREE.try_with(|free| {
            let mut free = free.borrow_mut();
            if free.len() < PIPES_FREE_MAX {
                free.push(ends);
            }
        });
    }
}

impl Ends {
    fn open() -> io::Result<Self> {
        let mut fds = [-1; 2];
        // SAFETY: `fds` is room for the two descriptors that the call writes.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just opened them; nobody else owns them.
        let [read, write] = fds.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
        // Where a user's pipes are short of pages the pipe keeps its usual size: it only takes more steps.
        // SAFETY: the descriptor is open; the argument is a number.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, SPLICE_STEP_BYTES as libc::c_int) };
        Ok(Self { read, write })
    }
}

fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, bytes: usize) -> io::Result<usize> {
    // The flag keeps the call from waiting for the pipe; whether it waits for a socket is the socket's own mode.
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    loop {
        // SAFETY: both descriptors are open for the whole call; the offsets are null, as sockets and pipes need.
        let count = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), bytes, flags) };
        if count >= 0 {
            return Ok(count as usize);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// Closes the free pipes that were of no use since the last time: two descriptors each, which clients may need (F61).
pub fn trim() {
    let _ = FREE.try_with(|free| {
        let mut free = free.borrow_mut();
        let unused = UNUSED.get().min(free.len());
        free.drain(..unused);
        UNUSED.set(free.len());
    });
}

/// Pipes in use and free in this thread; for tests and gauges.
pub fn count() -> (usize, usize) {
    (TAKEN.get(), FREE.try_with(|free| free.borrow().len()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let near = TcpStream::connect(listener.local_addr().expect("bound")).expect("connects");
        let far = listener.accept().expect("accepts").0;
        (near, far)
    }

    fn arrived(source: &TcpStream) {
        source.set_nonblocking(false).expect("a socket");
        source.peek(&mut [0]).expect("has arrived");
        source.set_nonblocking(true).expect("a socket");
    }

    #[test]
    fn bytes_pass_and_the_pipe_comes_back() {
        let ((mut client, source), (destination, mut server)) = (pair(), pair());
        source.set_nonblocking(true).expect("a socket");
        let mut pipe = Pipe::take().expect("a pipe");
        let nothing = pipe.fill(source.as_fd(), 10).map_err(|error| error.kind());
        assert_eq!(nothing, Err(io::ErrorKind::WouldBlock));
        client.write_all(b"hello").expect("sends");
        client.shutdown(std::net::Shutdown::Write).expect("open");
        arrived(&source);
        assert_eq!(pipe.fill(source.as_fd(), 3).expect("bytes"), 3);
        assert_eq!(pipe.drain(destination.as_fd()).expect("room"), 3);
        assert_eq!((pipe.fill(source.as_fd(), 9).expect("bytes"), pipe.held()), (2, 2));
        assert_eq!(pipe.drain(destination.as_fd()).expect("room"), 2);
        assert_eq!(pipe.fill(source.as_fd(), 9).expect("the end"), 0);
        let before = count();
        drop(pipe);
        assert_eq!(count(), (before.0 - 1, before.1 + 1));
        drop(destination);
        let mut all = Vec::new();
        server.read_to_end(&mut all).expect("reads");
        assert_eq!(all, b"hello");
    }

    #[test]
    fn a_pipe_that_holds_bytes_is_not_used_again() {
        std::thread::spawn(|| {
            let (mut client, source) = pair();
            client.write_all(b"x").expect("sends");
            arrived(&source);
            let mut pipe = Pipe::take().expect("a pipe");
            assert_eq!(pipe.fill(source.as_fd(), 9).expect("bytes"), 1);
            drop(pipe);
            assert_eq!(count(), (0, 0));
        })
        .join()
        .expect("the thread ends well");
    }

    #[test]
    fn pipes_of_no_use_are_closed() {
        std::thread::spawn(|| {
            let taken: Vec<_> = std::iter::from_fn(Pipe::take).take(5).collect();
            drop(taken);
            assert_eq!(count(), (0, 5));
            trim();
            assert_eq!(count().1, 5, "they were in use a moment ago");
            drop((Pipe::take(), Pipe::take()));
            trim();
            assert_eq!(count().1, 2, "two were of use");
            trim();
            assert_eq!(count(), (0, 0));
        })
        .join()
        .expect("the thread ends well");
    }

    #[test]
    fn pipes_in_use_are_bounded() {
        std::thread::spawn(|| {
            let all: Vec<_> = std::iter::from_fn(Pipe::take).take(PIPES_MAX + 1).collect();
            assert!(all.len() <= PIPES_MAX);
            drop(all);
            assert!(count().1 <= PIPES_FREE_MAX);
        })
        .join()
        .expect("the thread ends well");
    }
}
