//! A PROXY protocol header before the first request of a connection (F59).

use std::net::SocketAddr;

use super::Connection;
use crate::error::{Failure, Reason};
use crate::http::ipset::IpSet;
use crate::limits::PROXY_TIMEOUT_MS;
use crate::net::io::{Io, ReadHalf};
use crate::net::timer::OnExpiry;
use crate::proto::proxy_protocol::{self, Malformed};
use crate::sys::buf::Buf;

impl<I: Io> Connection<I> {
    /// Reads the header that every connection of the listener begins with. Returns the client that it names; None where
    /// it names nobody, and the peer itself is the client. What stands behind it is the beginning of the first request.
    ///
    /// # Errors
    /// [`Reason::BadProxyHeader`] for a peer that is not in `trusted` and for whatever is no header,
    /// [`Reason::HeaderTimeout`], and [`Reason::ClientClosed`] for one that leaves.
    pub async fn read_proxy_header(
        &mut self,
        trusted: &IpSet,
        peer: SocketAddr,
    ) -> Result<Option<SocketAddr>, Failure> {
        // What cannot be understood is answered, and what still comes is read and dropped.
        self.keep = super::Keep::Linger;
        if !trusted.contains(peer.ip()) {
            return Err(Failure::with(Reason::BadProxyHeader, "the peer is not trusted"));
        }
        self.read_deadline.arm(self.timers.now().plus_ms(PROXY_TIMEOUT_MS), OnExpiry::ShutRead);
        let mut buf = Buf::small();
        loop {
            let (count, back) = self.read.recv(buf).await;
            buf = back;
            match count {
                Ok(count) if count > 0 => {}
                _ if self.read_deadline.fired() => {
                    return Err(Failure::with(Reason::HeaderTimeout, "no whole PROXY header"));
                }
                // A port scan, or a health check that only connects.
                _ => return Err(Reason::ClientClosed.into()),
            }
            let bad = |Malformed(what)| Failure::with(Reason::BadProxyHeader, what);
            if let Some(header) = proxy_protocol::parse(buf.as_slice()).map_err(bad)? {
                self.read_deadline.disarm();
                buf.consume(header.bytes);
                self.carry = buf;
                self.keep = super::Keep::Alive;
                return Ok(header.addresses.map(|addresses| addresses.source));
            }
        }
    }
}

const _: () = assert!(proxy_protocol::HEADER_BYTES_MAX <= crate::limits::BUF_SMALL_BYTES, "a header fits one buffer");
