//! An in-memory network: what tests, simulations and benches pass instead of TCP.
//!
//! A [`Faults`] seed tears reads and writes into pieces, delays them, and can reset a connection after a number of
//! bytes. The same seed gives the same run.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::io::{Done, Interrupt, Io, ReadHalf, WriteHalf};
use crate::sys::buf::Buf;

/// What goes wrong on a connection, drawn from a seed.
#[derive(Clone, Debug)]
pub struct Faults {
    /// State of the generator.
    pub seed: u64,
    /// Most bytes that one read brings; `usize::MAX` for whole reads.
    pub read_bytes_max: usize,
    /// Most bytes that one write takes.
    pub write_bytes_max: usize,
    /// One operation in so many is put off by a turn; 0 for none.
    pub delay_one_in: u64,
    /// The connection is reset after so many bytes were read from it.
    pub reset_after_bytes: Option<usize>,
}

impl Faults {
    /// A perfect connection.
    pub const NONE: Faults = Faults {
        seed: 1,
        read_bytes_max: usize::MAX,
        write_bytes_max: usize::MAX,
        delay_one_in: 0,
        reset_after_bytes: None,
    };

    fn draw(&mut self) -> u64 {
        self.seed = splitmix(self.seed);
        self.seed
    }

    fn piece(&mut self, most: usize, wanted: usize) -> usize {
        match wanted.min(most) {
            0 => 0,
            cap if most == usize::MAX => cap,
            cap => 1 + (self.draw() as usize) % cap,
        }
    }

    fn delays(&mut self) -> bool {
        self.delay_one_in != 0 && self.draw().is_multiple_of(self.delay_one_in)
    }
}

pub use crate::random::mix as splitmix;

/// One direction of a connection.
struct Pipe {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// The writer has shut its direction.
    ended: bool,
    /// The reader has shut its direction, or is gone.
    refused: bool,
    reset: bool,
    read_total: usize,
    faults: Faults,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn new(capacity: usize, faults: Faults) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self {
            bytes: VecDeque::new(),
            capacity,
            ended: false,
            refused: false,
            reset: false,
            read_total: 0,
            faults,
            reader: None,
            writer: None,
        }))
    }

    /// Both sides see a reset, and what was on its way is lost.
    fn reset(&mut self) {
        self.reset = true;
        self.bytes.clear();
        self.wake();
    }

    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }

    /// Whether a write would not wait: there is room, or an error to be had.
    fn has_room(&self) -> bool {
        self.reset || self.refused || self.ended || self.bytes.len() < self.capacity
    }

    fn poll_read(&mut self, buf: &mut Buf, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.reset || self.faults.reset_after_bytes.is_some_and(|limit| self.read_total >= limit) {
            self.reset = true;
            self.wake();
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.bytes.is_empty() || self.faults.delays() {
            if self.bytes.is_empty() && (self.ended || self.refused) {
                return Poll::Ready(Ok(0));
            }
            if !self.bytes.is_empty() {
                cx.waker().wake_by_ref();
            }
            self.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let most = self.faults.read_bytes_max;
        let wanted = self.bytes.len().min(buf.spare());
        let count = self.faults.piece(most, wanted);
        let (first, second) = self.bytes.as_slices();
        let whole = count.min(first.len());
        buf.extend(&first[..whole]);
        buf.extend(&second[..count - whole]);
        self.bytes.drain(..count);
        self.read_total += count;
        self.wake();
        Poll::Ready(Ok(count))
    }

    fn poll_write(&mut self, bytes: &[u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if self.refused || self.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let room = self.capacity - self.bytes.len();
        if room == 0 || self.faults.delays() {
            if room != 0 {
                cx.waker().wake_by_ref();
            }
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let most = self.faults.write_bytes_max;
        let count = self.faults.piece(most, bytes.len().min(room));
        self.bytes.extend(&bytes[..count]);
        self.wake();
        Poll::Ready(Ok(count))
    }
}

/// One end of an in-memory connection.
pub struct Mem {
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
    released: Rc<Cell<bool>>,
}

/// Two connected ends. Each direction holds at most `capacity` bytes; `faults` apply to both.
pub fn pair(capacity: usize, faults: &Faults) -> (Mem, Mem) {
    let mut second = faults.clone();
    second.seed = splitmix(faults.seed ^ 0x005e_c00d);
    pair_with(capacity, faults.clone(), second)
}

/// As [`pair`], with faults of its own for each direction: what the first end reads, and what the second end reads.
pub fn pair_with(capacity: usize, to_first: Faults, to_second: Faults) -> (Mem, Mem) {
    let (one, two) = (Pipe::new(capacity, to_first), Pipe::new(capacity, to_second));
    let end = |incoming: &Rc<RefCell<Pipe>>, outgoing: &Rc<RefCell<Pipe>>| Mem {
        incoming: incoming.clone(),
        outgoing: outgoing.clone(),
        released: Rc::default(),
    };
    (end(&one, &two), end(&two, &one))
}

impl Io for Mem {
    type Read = MemRead;
    type Write = MemWrite;

    fn split(self) -> (MemRead, MemWrite, Rc<dyn Interrupt>) {
        let control = Rc::new(self);
        (MemRead(control.clone()), MemWrite(control.clone()), control)
    }
}

/// The reading half of an in-memory connection.
pub struct MemRead(Rc<Mem>);

impl ReadHalf for MemRead {
    async fn recv(&mut self, mut buf: Buf) -> Done {
        let result = poll_fn(|cx| self.0.incoming.borrow_mut().poll_read(&mut buf, cx)).await;
        (result, buf)
    }

    async fn recv_idle(&mut self, mut buf: Buf) -> Done {
        self.0.released.set(false);
        let result = poll_fn(|cx| match self.0.incoming.borrow_mut().poll_read(&mut buf, cx) {
            Poll::Pending if self.0.released.get() => Poll::Ready(Err(io::ErrorKind::Interrupted.into())),
            other => other,
        });
        (result.await, buf)
    }

    async fn readable(&mut self) -> io::Result<()> {
        poll_fn(|cx| {
            let mut pipe = self.0.incoming.borrow_mut();
            if pipe.bytes.is_empty() && !pipe.ended && !pipe.refused && !pipe.reset {
                pipe.reader = Some(cx.waker().clone());
                return Poll::Pending;
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Drop for MemRead {
    fn drop(&mut self) {
        let mut pipe = self.0.incoming.borrow_mut();
        pipe.refused = true;
        pipe.wake();
    }
}

/// The writing half of an in-memory connection.
pub struct MemWrite(Rc<Mem>);

impl MemWrite {
    /// Resets the connection: both ends fail from here on, and what neither has read yet is lost.
    pub fn reset(&self) {
        self.0.incoming.borrow_mut().reset();
        self.0.outgoing.borrow_mut().reset();
    }
}

impl WriteHalf for MemWrite {
    async fn send(&mut self, buf: Buf) -> Done {
        let result = poll_fn(|cx| self.0.outgoing.borrow_mut().poll_write(buf.as_slice(), cx)).await;
        (result, buf)
    }

    fn has_room(&self) -> bool {
        self.0.outgoing.borrow().has_room()
    }

    async fn writable(&mut self) -> io::Result<()> {
        let poll = |cx: &mut Context<'_>| {
            let mut pipe = self.0.outgoing.borrow_mut();
            if pipe.has_room() {
                return Poll::Ready(Ok(()));
            }
            pipe.writer = Some(cx.waker().clone());
            Poll::Pending
        };
        poll_fn(poll).await
    }
}

impl Drop for MemWrite {
    fn drop(&mut self) {
        let mut pipe = self.0.outgoing.borrow_mut();
        pipe.ended = true;
        pipe.wake();
    }
}

impl Interrupt for Mem {
    fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            let mut incoming = self.incoming.borrow_mut();
            incoming.refused = true;
            incoming.wake();
        }
        if how != Shutdown::Read {
            let mut outgoing = self.outgoing.borrow_mut();
            outgoing.ended = true;
            outgoing.wake();
        }
    }

    fn release(&self) {
        self.released.set(true);
        self.incoming.borrow_mut().wake();
    }

    fn last_words(&self, bytes: &[u8]) -> bool {
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.ended || outgoing.refused || outgoing.reset {
            return false;
        }
        let room = outgoing.capacity.saturating_sub(outgoing.bytes.len());
        outgoing.bytes.extend(&bytes[..bytes.len().min(room)]);
        outgoing.wake();
        bytes.len() <= room
    }

    fn is_quiet(&self) -> bool {
        let pipe = self.incoming.borrow();
        pipe.bytes.is_empty() && !pipe.ended && !pipe.refused && !pipe.reset
    }

    fn has_left(&self) -> bool {
        let pipe = self.incoming.borrow();
        pipe.ended || pipe.reset
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::io::send_all;

    /// Polls a future that the memory network alone drives.
    fn run<F: Future>(future: F) -> F::Output {
        let mut future = std::pin::pin!(future);
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..100_000 {
            if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
                return output;
            }
        }
        panic!("the future does not end");
    }

    #[test]
    fn torn_transfers_keep_every_byte() {
        for seed in 0..50 {
            let faults =
                Faults { seed, read_bytes_max: 3, write_bytes_max: 2, delay_one_in: 3, reset_after_bytes: None };
            let (a, b) = pair(1 << 16, &faults);
            let ((_, mut write, _), (mut read, _, _)) = (a.split(), b.split());
            let text: Vec<u8> = (0..255).collect();
            run(send_all(&mut write, Buf::copy_of(&text))).expect("room for all");
            drop(write);
            let mut got = Buf::small();
            loop {
                let (count, back) = run(read.recv(got));
                got = back;
                if count.expect("no reset") == 0 {
                    break;
                }
            }
            assert_eq!(got.as_slice(), text);
        }
    }

    #[test]
    fn a_release_ends_only_an_idle_read() {
        let (a, b) = pair(16, &Faults::NONE);
        let ((mut read, _, control), (_, mut write, _)) = (a.split(), b.split());
        let mut cx = Context::from_waker(Waker::noop());
        {
            let mut idle = std::pin::pin!(read.recv_idle(Buf::small()));
            assert!(idle.as_mut().poll(&mut cx).is_pending());
            control.release();
            let Poll::Ready((result, _)) = idle.as_mut().poll(&mut cx) else { panic!("released") };
            assert_eq!(result.expect_err("interrupted").kind(), io::ErrorKind::Interrupted);
        }
        run(send_all(&mut write, Buf::copy_of(b"late"))).expect("room");
        assert_eq!(run(read.recv_idle(Buf::small())).1.as_slice(), b"late");
    }

    #[test]
    fn resets_and_shutdowns_are_seen() {
        let (a, b) = pair(16, &Faults { reset_after_bytes: Some(0), ..Faults::NONE });
        let ((mut read, _, _), _b) = (a.split(), b.split());
        assert_eq!(run(read.recv(Buf::small())).0.expect_err("reset").kind(), io::ErrorKind::ConnectionReset);
        let (a, b) = pair(16, &Faults::NONE);
        let ((mut read, mut write, control), _b) = (a.split(), b.split());
        assert!(control.is_quiet());
        control.shutdown(Shutdown::Both);
        assert_eq!(run(read.recv(Buf::small())).0.expect("the end"), 0);
        assert!(run(send_all(&mut write, Buf::copy_of(b"x"))).is_err());
        assert!(!control.is_quiet());
    }
}
