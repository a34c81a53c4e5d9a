//! A stream as a connection without a wire: what a WebSocket over HTTP/2 is carried by (RFC 8441 section 5).
//!
//! DATA is bytes, END_STREAM the end of a direction, RST_STREAM with CANCEL what a reset is to TCP.

use std::cell::Cell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::link::Link;
use crate::net::duplex::Duplex;
use crate::net::io::{Done, Interrupt, Io, ReadHalf, WriteHalf};
use crate::net::timer::Timers;
use crate::proto::h2::code::Code;
use crate::proto::h2::core::Key;
use crate::sys::buf::Buf;

/// A stream whose DATA means nothing to HTTP. It never is a connection before it is one of a tunnel's.
pub struct StreamIo(Rc<Control>);

/// What both halves of a stream share. Dropped with the last of them, which is the end of the stream.
struct Control {
    link: Rc<Link>,
    key: Key,
    waker: Waker,
    no_read: Cell<bool>,
    no_write: Cell<bool>,
    released: Cell<bool>,
}

impl StreamIo {
    /// The stream, from now on without HTTP.
    pub(super) fn duplex(link: &Rc<Link>, key: Key, timers: &Rc<Timers>) -> Duplex<Self> {
        link.count_tunnels(1);
        let waker = link.ready.waker(key.slot as usize);
        let (no_read, no_write, released) = Default::default();
        let (read, write, control) =
            Self(Rc::new(Control { link: link.clone(), key, waker, no_read, no_write, released })).split();
        Duplex::new(read, write, control, Buf::empty(), timers)
    }
}

impl Io for StreamIo {
    type Read = StreamRead;
    type Write = StreamWrite;

    fn split(self) -> (StreamRead, StreamWrite, Rc<dyn Interrupt>) {
        (StreamRead { control: self.0.clone(), ended: false }, StreamWrite(self.0.clone()), self.0)
    }
}

impl Interrupt for Control {
    fn shutdown(&self, how: Shutdown) {
        self.no_read.set(self.no_read.get() || how != Shutdown::Write);
        self.no_write.set(self.no_write.get() || how != Shutdown::Read);
        self.waker.wake_by_ref();
    }

    fn release(&self) {
        self.released.set(true);
        self.waker.wake_by_ref();
    }

    fn is_quiet(&self) -> bool {
        !self.has_left()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.link.local_addr()
    }

    fn has_left(&self) -> bool {
        self.link.gone(self.key).is_some()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        // Both directions have ended, or something has broken: then it is reset.
        self.link.finish_stream(self.key, Code::Cancel);
        self.link.count_tunnels(-1);
    }
}

/// What the client sends.
pub struct StreamRead {
    control: Rc<Control>,
    ended: bool,
}

impl StreamRead {
    /// What has come; None when nothing has.
    fn take(&mut self, buf: &mut Buf) -> Option<io::Result<usize>> {
        let Control { link, key, no_read, .. } = &*self.control;
        if self.ended {
            return Some(Ok(0));
        }
        match link.take_body(*key) {
            Err(_) => Some(Err(ErrorKind::ConnectionReset.into())),
            Ok(Some(chunk)) => {
                self.ended = chunk.end;
                let count = chunk.data.len();
                if buf.is_empty() && count > 0 {
                    *buf = chunk.data;
                } else {
                    buf.reserve(count);
                    buf.extend(chunk.data.as_slice());
                }
                Some(Ok(count))
            }
            Ok(None) => no_read.get().then_some(Ok(0)),
        }
    }
}

impl ReadHalf for StreamRead {
    async fn recv(&mut self, mut buf: Buf) -> Done {
        let count = poll_fn(|_| self.take(&mut buf).map_or(Poll::Pending, Poll::Ready)).await;
        (count, buf)
    }

    async fn recv_idle(&mut self, mut buf: Buf) -> Done {
        self.control.released.set(false);
        let count = poll_fn(|_| match self.take(&mut buf) {
            Some(done) => Poll::Ready(done),
            None if self.control.released.get() => Poll::Ready(Err(ErrorKind::Interrupted.into())),
            None => Poll::Pending,
        })
        .await;
        (count, buf)
    }

    async fn readable(&mut self) -> io::Result<()> {
        let Control { link, key, no_read, .. } = &*self.control;
        let is_ready = || self.ended || no_read.get() || link.has_body(*key);
        poll_fn(|_| if is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }).await
    }
}

/// What goes to the client.
pub struct StreamWrite(Rc<Control>);

impl WriteHalf for StreamWrite {
    async fn send(&mut self, buf: Buf) -> Done {
        let Control { link, key, no_write, .. } = &*self.0;
        let sent = poll_fn(|_| {
            if no_write.get() {
                link.give_turn_up(*key);
                return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
            }
            let mut rest = buf.as_slice();
            let before = rest.len();
            match link.send_piece(*key, &mut rest) {
                Err(_) => Poll::Ready(Err(ErrorKind::ConnectionReset.into())),
                Ok(true) => Poll::Ready(Ok(before)),
                Ok(false) if rest.len() < before => Poll::Ready(Ok(before - rest.len())),
                Ok(false) => Poll::Pending,
            }
        })
        .await;
        (sent, buf)
    }

    async fn finish(&mut self) -> io::Result<()> {
        // An end needs no room.
        let sent = self.0.link.send_data(self.0.key, &mut Buf::empty(), true);
        sent.map(drop).map_err(|_| ErrorKind::ConnectionReset.into())
    }
}
