//! A connection to an endpoint: plain, or TLS over that (F88).
//!
//! A plain one costs what it cost before: a branch that is always the same, and no byte more in any future, since what
//! TLS needs lies in boxes of its own.

use std::io;
use std::pin::pin;
use std::rc::Rc;

use super::io::{Done, Interrupt, Io, ReadHalf, WriteHalf};
use super::tcp::{Tcp, TcpRead, TcpWrite};
use super::tls::{Agreed, Tls, TlsRead, TlsWrite};
use crate::sys::buf::Buf;
use crate::sys::stream::SharedStream;

/// A connection to an endpoint.
pub enum Wire {
    /// As it is.
    Plain(Tcp),
    /// Behind a handshake.
    Tls(Box<(Tls<Tcp>, Agreed)>),
}

/// Its reading half.
pub enum WireRead {
    /// As it is.
    Plain(TcpRead),
    /// Opens records.
    Tls(Box<TlsRead<TcpRead>>),
}

/// Its writing half.
pub enum WireWrite {
    /// As it is.
    Plain(TcpWrite),
    /// Seals records.
    Tls(Box<TlsWrite<TcpWrite>>),
}

impl Io for Wire {
    type Read = WireRead;
    type Write = WireWrite;

    fn split(self) -> (WireRead, WireWrite, Rc<dyn Interrupt>) {
        match self {
            Wire::Plain(tcp) => {
                let (read, write, interrupt) = tcp.split();
                (WireRead::Plain(read), WireWrite::Plain(write), interrupt)
            }
            Wire::Tls(secured) => {
                let (read, write, interrupt) = secured.0.split();
                (WireRead::Tls(Box::new(read)), WireWrite::Tls(Box::new(write)), interrupt)
            }
        }
    }

    fn agreed(&self) -> Option<&Agreed> {
        match self {
            Wire::Plain(_) => None,
            Wire::Tls(secured) => Some(&secured.1),
        }
    }
}

impl ReadHalf for WireRead {
    #[inline]
    async fn recv(&mut self, buf: Buf) -> Done {
        match self {
            WireRead::Plain(tcp) => tcp.recv(buf).await,
            WireRead::Tls(tls) => Box::pin(tls.recv(buf)).await,
        }
    }

    async fn recv_idle(&mut self, buf: Buf) -> Done {
        match self {
            WireRead::Plain(tcp) => pin!(tcp.recv_idle(buf)).await,
            WireRead::Tls(tls) => Box::pin(tls.recv_idle(buf)).await,
        }
    }

    async fn readable(&mut self) -> io::Result<()> {
        match self {
            WireRead::Plain(tcp) => tcp.readable().await,
            WireRead::Tls(tls) => Box::pin(tls.readable()).await,
        }
    }

    fn socket(&self) -> Option<&SharedStream> {
        match self {
            WireRead::Plain(tcp) => tcp.socket(),
            WireRead::Tls(_) => None,
        }
    }
}

impl WriteHalf for WireWrite {
    #[inline]
    async fn send(&mut self, buf: Buf) -> Done {
        match self {
            WireWrite::Plain(tcp) => pin!(tcp.send(buf)).await,
            WireWrite::Tls(tls) => Box::pin(tls.send(buf)).await,
        }
    }

    fn socket(&self) -> Option<&SharedStream> {
        match self {
            WireWrite::Plain(tcp) => tcp.socket(),
            WireWrite::Tls(_) => None,
        }
    }

    fn has_room(&self) -> bool {
        match self {
            WireWrite::Plain(tcp) => tcp.has_room(),
            WireWrite::Tls(tls) => tls.has_room(),
        }
    }

    async fn finish(&mut self) -> io::Result<()> {
        match self {
            WireWrite::Plain(tcp) => tcp.finish().await,
            WireWrite::Tls(tls) => Box::pin(tls.finish()).await,
        }
    }

    async fn writable(&mut self) -> io::Result<()> {
        match self {
            WireWrite::Plain(tcp) => tcp.writable().await,
            WireWrite::Tls(tls) => Box::pin(tls.writable()).await,
        }
    }
}
