//! The end of HTTP/1 on a connection: the 101 that opens a tunnel, and the connection without its wire.

use std::net::SocketAddr;
use std::rc::Rc;

use super::response::{Response, WRITTEN_HERE};
use super::{Connection, Keep};
use crate::error::Failure;
use crate::http::exchange::Exchange;
use crate::net::duplex::Duplex;
use crate::net::io::{Io, WriteHalf};
use crate::net::timer::Timers;
use crate::proto::h1::serialise;
use crate::sys::buf::Buf;

impl<I: Io> Connection<I> {
    /// Whether the last exchange ended in a 101 of our own asking.
    pub fn is_switched(&self) -> bool {
        self.keep == Keep::Switched
    }

    /// The connection without its wire. What the client sent behind its request goes first.
    pub fn into_duplex(self, timers: &Rc<Timers>) -> Duplex<I> {
        let Self { read, write, read_deadline, carry, .. } = self;
        Duplex::new(read, write, read_deadline.interrupt(), carry, timers)
    }

    /// The address that the client connected to, where the system tells it.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.read_deadline.target().local_addr()
    }
}

/// Sends the 101 in `x.response`; it changes to the protocol that the client asked for, in the client's own spelling.
pub(super) async fn send<W: WriteHalf>(response: &mut Response<'_, W>, x: &Exchange) -> Result<(), Failure> {
    let mut out = Buf::small();
    serialise::status_line(&mut out, x.response.status);
    serialise::fields(&mut out, &x.response.fields, WRITTEN_HERE);
    serialise::fields(&mut out, &x.late_fields, WRITTEN_HERE);
    serialise::field(&mut out, b"X-Request-ID", x.id.as_bytes());
    out.extend(b"Connection: upgrade\r\n");
    let protocol = x.request.upgrade.map_or(&b""[..], |text| x.request.fields.text(text));
    serialise::field(&mut out, b"Upgrade", protocol);
    out.extend(b"\r\n");
    response.head_sent = true;
    response.keep = Keep::Switched;
    response.send(out).await.map(drop)
}
