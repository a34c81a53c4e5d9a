//! A PROXY protocol header before the first request of a connection (F59).

use std::net::SocketAddr;

use super::Connection;
use crate::error::{Failure, Reason};
use crate::http::ipset::IpSet;
use crate::limits::PROXY_TIMEOUT_MS;
use crate::net::io::{Io, ReadHalf};
use crate::net::timer::{Deadline, OnExpiry};
use crate::proto::proxy_protocol::{self, Malformed};
use crate::sys::buf::Buf;
use crate::time::Now;

impl<I: Io> Connection<I> {
    /// Reads the header that every connection of the listener begins with. Returns the client that it names; None where
    /// it names nobody, and the peer itself is the client. What stands behind it is the beginning of the first request.
    ///
    /// # Errors
    /// As [`receive`].
    pub async fn read_proxy_header(
        &mut self,
        trusted: &IpSet,
        peer: SocketAddr,
    ) -> Result<Option<SocketAddr>, Failure> {
        // What cannot be understood is answered, and what still comes is read and dropped.
        self.keep = super::Keep::Linger;
        let now = self.timers.now();
        let (client, rest) = receive(&mut self.read, &self.read_deadline, now, trusted, peer).await?;
        self.carry = rest;
        self.keep = super::Keep::Alive;
        Ok(client)
    }
}

/// Reads a header off a connection. Returns the client that it names, and what came behind it.
///
/// # Errors
/// [`Reason::BadProxyHeader`] for a peer that is not in `trusted` and for whatever is no header,
/// [`Reason::HeaderTimeout`], and [`Reason::ClientClosed`] for one that leaves.
pub async fn receive<R: ReadHalf>(
    read: &mut R,
    deadline: &Deadline,
    now: Now,
    trusted: &IpSet,
    peer: SocketAddr,
) -> Result<(Option<SocketAddr>, Buf), Failure> {
    if !trusted.contains(peer.ip()) {
        return Err(Failure::with(Reason::BadProxyHeader, "the peer is not trusted"));
    }
    deadline.arm(now.plus_ms(PROXY_TIMEOUT_MS), OnExpiry::ShutRead);
    let mut buf = Buf::small();
    loop {
        let (count, back) = read.recv(buf).await;
        buf = back;
        match count {
            Ok(count) if count > 0 => {}
            _ if deadline.fired() => {
                return Err(Failure::with(Reason::HeaderTimeout, "no whole PROXY header"));
            }
            // A port scan, or a health check that only connects.
            _ => return Err(Reason::ClientClosed.into()),
        }
        let bad = |Malformed(what)| Failure::with(Reason::BadProxyHeader, what);
        if let Some(header) = proxy_protocol::parse(buf.as_slice()).map_err(bad)? {
            deadline.disarm();
            buf.consume(header.bytes);
            return Ok((header.addresses.map(|addresses| addresses.source), buf));
        }
    }
}

const _: () = assert!(proxy_protocol::HEADER_BYTES_MAX <= crate::limits::BUF_SMALL_BYTES, "a header fits one buffer");
