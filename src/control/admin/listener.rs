//! The admin listener: bounded in connections, and each connection bounded in time.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

use super::{CONNECTIONS_MAX, IDLE_TIMEOUT_MS, REQUEST_TIMEOUT_MS};

/// Accepts at most [`CONNECTIONS_MAX`] connections at once.
pub(super) struct Guarded {
    listener: TcpListener,
    free: Arc<Semaphore>,
    idle: Duration,
    request: Duration,
}

impl Guarded {
    pub fn new(listener: TcpListener) -> Self {
        let (idle, request) = (Duration::from_millis(IDLE_TIMEOUT_MS), Duration::from_millis(REQUEST_TIMEOUT_MS));
        Self::with(listener, idle, request)
    }

    pub fn with(listener: TcpListener, idle: Duration, request: Duration) -> Self {
        Self { listener, free: Arc::new(Semaphore::new(CONNECTIONS_MAX)), idle, request }
    }
}

impl Listener for Guarded {
    type Io = Timed<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        // The semaphore is never closed.
        let permit = self.free.clone().acquire_owned().await.ok();
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (Timed::new(stream, permit, self.idle, self.request), address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A stream with one deadline: `idle` from the last written byte to the first of the next request, then `request` to
/// the first byte of the answer. A client can neither send slowly nor read slowly for longer.
pub(super) struct Timed<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    in_request: bool,
    idle: Duration,
    request: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl<S> Timed<S> {
    fn new(stream: S, permit: Option<OwnedSemaphorePermit>, idle: Duration, request: Duration) -> Self {
        Self { stream, deadline: Box::pin(sleep(idle)), in_request: false, idle, request, _permit: permit }
    }

    fn began(&mut self, in_request: bool) {
        self.in_request = in_request;
        let timeout = if in_request { self.request } else { self.idle };
        self.deadline.as_mut().reset(Instant::now() + timeout);
    }

    fn waiting<T>(&mut self, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        ready!(self.deadline.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        match Pin::new(&mut this.stream).poll_read(context, buf) {
            Poll::Pending => this.waiting(context),
            done => {
                if !this.in_request && buf.filled().len() > before {
                    this.began(true);
                }
                done
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        match Pin::new(&mut this.stream).poll_write(context, bytes) {
            Poll::Pending => this.waiting(context),
            done => {
                this.began(false);
                done
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    const SHORT: Duration = Duration::from_millis(30);
    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_connection_without_a_request_ends() {
        let (near, _far) = duplex(64);
        let mut timed = Timed::new(near, None, SHORT, LONG);
        let error = timed.read_u8().await.expect_err("timed out");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_request_that_drips_ends_in_spite_of_each_byte() {
        let (near, mut far) = duplex(64);
        let mut timed = Timed::new(near, None, LONG, Duration::from_millis(200));
        let drip = async {
            for _ in 0..1_000 {
                tokio::time::sleep(Duration::from_millis(5)).await;
                if far.write_all(b"x").await.is_err() {
                    return;
                }
            }
        };
        let read = async {
            let mut bytes = Vec::new();
            timed.read_to_end(&mut bytes).await.expect_err("timed out").kind()
        };
        tokio::select! {
            kind = read => assert_eq!(kind, io::ErrorKind::TimedOut),
            () = drip => panic!("read for ever"),
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_ends() {
        let (near, _far) = duplex(8);
        let mut timed = Timed::new(near, None, SHORT, SHORT);
        let error = timed.write_all(&[0; 64]).await.expect_err("timed out");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
