//! The way of a response out to an HTTP/1 connection: its head, its framing, and clients that do not read.

use std::net::SocketAddr;
use std::pin::pin;

use super::{Keep, switch};
use crate::error::{Failure, Reason};
use crate::http::body::Chunk;
use crate::http::downstream::ResponseSink;
use crate::http::exchange::Exchange;
use crate::http::message::{BodyLength, Version};
use crate::http::name::{Name, NameSet};
use crate::net::io::WriteHalf;
use crate::net::pace::Pace;
use crate::net::splice::End;
use crate::net::timer::{Deadline, OnExpiry};
use crate::proto::h1::serialise;
use crate::sys::buf::Buf;
use crate::time::Now;

/// How the response body is delimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Coding {
    /// By its length, by the close, or not at all: bytes go out as they are.
    Plain,
    /// Chunked.
    Chunked,
}

/// The response's way out on an HTTP/1 connection.
pub struct Response<'c, W> {
    pub(super) write: &'c mut W,
    pub(super) deadline: &'c Deadline,
    pub(super) first_look_ms: u64,
    pub(super) pace: Pace,
    pub(super) version: Version,
    pub(super) coding: Coding,
    pub(super) head_sent: bool,
    pub(super) keep: Keep,
    /// The request has no body: what closes the connection does not wait for the rest of it.
    pub(super) request_done: bool,
    /// Bytes that were sent since the kernel was asked whether it takes more.
    pub(super) unlooked_bytes: usize,
}

/// After so many bytes the kernel is asked whether it takes more. Most responses are shorter and never ask.
const LOOK_BYTES: usize = 16 * 1024;

impl<W: WriteHalf> Response<'_, W> {
    /// Sends all of it. A client that takes a part gets its time anew, as long as it is fast enough.
    pub(super) async fn send(&mut self, mut buf: Buf) -> Result<Buf, Failure> {
        while !buf.is_empty() {
            self.deadline.arm_watched(self.first_look_ms);
            let asked = self.deadline.known_now();
            let (sent, back) = pin!(self.write.send(buf)).await;
            buf = back;
            match sent {
                Ok(count) if count > 0 => {
                    buf.consume(count);
                    let waited_ns = self.deadline.known_now().since_ns(asked);
                    if !self.pace.keeps_up(waited_ns, count) && !buf.is_empty() {
                        return Err(self.give_up(Reason::ClientTooSlow));
                    }
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                _ => return Err(self.raw_failed()),
            }
        }
        self.deadline.disarm();
        buf.clear();
        Ok(buf)
    }

    #[cold]
    fn give_up(&mut self, reason: Reason) -> Failure {
        self.deadline.disarm();
        self.keep = Keep::Abort;
        reason.into()
    }

    /// The last piece of the response comes next: where the connection closes behind it, both go out together.
    fn ends(&self) {
        if self.keep == Keep::Close && self.request_done {
            self.write.ends();
        }
    }

    fn has_room(&mut self) -> bool {
        self.unlooked_bytes = 0;
        self.write.has_room()
    }

    /// Waits until the client has read some of what the kernel holds for it, before the next piece is fetched: a client
    /// that does not read holds no buffer meanwhile (F11, F12).
    async fn wait_for_room(&mut self) -> Result<(), Failure> {
        self.deadline.arm_watched(self.first_look_ms);
        // What is wrong with the connection is found by the next send.
        let _ = self.write.writable().await;
        self.deadline.disarm();
        if self.deadline.fired() { Err(self.raw_failed()) } else { Ok(()) }
    }

    /// Decides how the body is delimited and writes the fields that say so (RFC 9112 section 6.1).
    fn write_framing(&mut self, out: &mut Buf, x: &Exchange, first: &Chunk) {
        let whole = first.end && first.trailers.is_none();
        match x.response.body {
            BodyLength::None => {
                // HEAD and 304 may say how long the body would be; 1xx and 204 may not (RFC 9110 section 8.6).
                if let Some(length) = x.response.declared_length.filter(|_| x.response.status >= 200)
                    && x.response.status != 204
                {
                    serialise::content_length(out, length);
                }
            }
            BodyLength::Known(length) => serialise::content_length(out, length),
            _ if whole => serialise::content_length(out, first.data.len() as u64),
            _ if self.version == Version::Http10 => self.keep = Keep::Close,
            _ => {
                self.coding = Coding::Chunked;
                out.extend(b"Transfer-Encoding: chunked\r\n");
            }
        }
    }

    fn write_connection(&self, out: &mut Buf) {
        match (self.keep, self.version) {
            (Keep::Alive, Version::Http10) => out.extend(b"Connection: keep-alive\r\n"),
            (Keep::Alive, _) => {}
            _ => out.extend(b"Connection: close\r\n"),
        }
    }

    fn coded(&self, chunk: Chunk) -> Buf {
        match self.coding {
            Coding::Plain => chunk.data,
            Coding::Chunked => serialise::chunk(chunk),
        }
    }
}

/// Fields that the serialiser writes itself.
pub(super) const WRITTEN_HERE: NameSet = NameSet::of(&[
    Name::Connection,
    Name::KeepAlive,
    Name::ProxyConnection,
    Name::ContentLength,
    Name::TransferEncoding,
    Name::Upgrade,
    Name::XRequestId,
]);

impl<W: WriteHalf> ResponseSink for Response<'_, W> {
    async fn send_continue(&mut self) -> Result<(), Failure> {
        self.send(Buf::copy_of(b"HTTP/1.1 100 Continue\r\n\r\n")).await.map(drop)
    }

    async fn send_interim(&mut self, x: &Exchange) -> Result<(), Failure> {
        // HTTP/1.0 clients do not know interim responses (RFC 9110 section 15.2).
        if self.version == Version::Http10 {
            return Ok(());
        }
        let mut out = Buf::small();
        serialise::status_line(&mut out, x.response.status);
        serialise::fields(&mut out, &x.response.fields, WRITTEN_HERE);
        out.extend(b"\r\n");
        self.send(out).await.map(drop)
    }

    async fn send_head(&mut self, x: &mut Exchange, first: Chunk) -> Result<(), Failure> {
        // A drain may have begun while the answer was made.
        if self.deadline.is_ending() {
            self.close_after();
        }
        let mut out = Buf::small();
        serialise::status_line(&mut out, x.response.status);
        serialise::fields(&mut out, &x.response.fields, WRITTEN_HERE);
        serialise::fields(&mut out, &x.late_fields, WRITTEN_HERE);
        out.extend_all([b"X-Request-ID: ", x.id.as_bytes(), b"\r\n"]);
        self.write_framing(&mut out, x, &first);
        self.write_connection(&mut out);
        out.extend(b"\r\n");
        self.head_sent = true;
        x.response_bytes += first.data.len() as u64;
        if !first.end {
            // The body may take its time; nobody looks at these fields again (F11).
            x.response.fields.clear();
        }
        let end = first.end;
        let (out, rest) = Buf::join(out, self.coded(first));
        if end && rest.is_none() {
            self.ends();
        }
        drop(pin!(self.send(out)).await?);
        match rest {
            Some(rest) => {
                if end {
                    self.ends();
                }
                self.send(rest).await.map(drop)
            }
            None => Ok(()),
        }
    }

    async fn send_body(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        let end = chunk.end;
        let coded = self.coded(chunk);
        if coded.is_empty() {
            return Ok(coded);
        }
        self.unlooked_bytes += coded.len();
        if end {
            self.ends();
        }
        let buf = self.send(coded).await?;
        if end || self.unlooked_bytes < LOOK_BYTES || self.has_room() {
            return Ok(buf);
        }
        drop(buf);
        Box::pin(self.wait_for_room()).await.map(|()| Buf::empty())
    }

    fn raw(&self) -> Option<End<'_>> {
        let stream = self.write.socket().filter(|_| self.coding == Coding::Plain)?;
        let (deadline, on_expiry, timeout_ms) = (self.deadline, OnExpiry::ShutSlow, self.first_look_ms);
        Some(End { stream, deadline, on_expiry, timeout_ms, due: Now::NEVER, pace: Some(self.pace) })
    }

    fn raw_failed(&mut self) -> Failure {
        self.give_up(match (self.deadline.fired(), self.deadline.saw_movement()) {
            (false, _) => Reason::ClientClosed,
            (true, false) => Reason::ClientStalled,
            (true, true) => Reason::ClientTooSlow,
        })
    }

    async fn send_switch(&mut self, x: &mut Exchange) -> Result<(), Failure> {
        switch::send(self, x).await
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.deadline.target().local_addr()
    }

    fn head_sent(&self) -> bool {
        self.head_sent
    }

    fn abort(&mut self) {
        self.keep = Keep::Abort;
    }

    fn close_after(&mut self) {
        if self.keep == Keep::Alive {
            self.keep = Keep::Close;
        }
    }
}
