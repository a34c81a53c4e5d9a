//! TLS over any connection, in both roles. rustls shakes hands and keeps the key schedule; the records behind it are
//! sealed and opened in place ([`record`]), so that a body is neither copied nor allocated for on its way.
//!
//! ```text
//! Fresh::new(io) ─► accept | connect ─► (Tls, Agreed) ─► split ─► TlsRead, TlsWrite
//! ```
//!
//! An idle connection holds its keys and nothing else. Closing says `close_notify`; a connection of the peer's that
//! ends without it ends in an error, so that a body that is delimited by the end cannot be cut unseen.

mod handshake;
pub mod record;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::rc::Rc;

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{ConnectionTrafficSecrets, Error};

pub use handshake::{Agreed, Fresh, HandshakeError};

use super::io::{Done, Interrupt, Io, ReadHalf, WriteHalf, send_all};
use crate::limits::{IDLE_RECORDS_MAX, RECORDS_PER_KEY_MAX, TICKET_BYTES_MAX};
use crate::sys::buf::Buf;
use record::{Alert, Content, Opened, Opener, Sealer};

const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
/// `KeyUpdate` with `update_not_requested` (RFC 8446 section 4.6.3).
const KEY_UPDATE_ANSWER: [u8; 5] = [KEY_UPDATE, 0, 0, 1, 0];

/// What rustls keeps of a connection: the secrets that the next keys are made from, and where tickets go.
pub enum Kernel {
    /// Of a server.
    Server(KernelConnection<ServerConnectionData>),
    /// Of a client.
    Client(KernelConnection<ClientConnectionData>),
}

impl Kernel {
    fn next_sealer(&mut self) -> Result<Sealer, Alert> {
        let next = match self {
            Self::Server(kernel) => kernel.update_tx_secret(),
            Self::Client(kernel) => kernel.update_tx_secret(),
        };
        renewed(next, Sealer::new)
    }

    fn next_opener(&mut self) -> Result<Opener, Alert> {
        let next = match self {
            Self::Server(kernel) => kernel.update_rx_secret(),
            Self::Client(kernel) => kernel.update_rx_secret(),
        };
        renewed(next, Opener::new)
    }
}

fn renewed<T>(
    secrets: Result<(u64, ConnectionTrafficSecrets), Error>,
    make: fn(&ConnectionTrafficSecrets, u64, bool) -> Option<T>,
) -> Result<T, Alert> {
    let (sequence, secrets) = secrets.map_err(|_| Alert::InternalError)?;
    make(&secrets, sequence, true).ok_or(Alert::InternalError)
}

/// A connection whose handshake is done.
pub struct Tls<I: Io> {
    read: TlsRead<I::Read>,
    write: TlsWrite<I::Write>,
}

/// What the halves share. Nothing of it stays borrowed over a wait.
struct Common {
    sealer: RefCell<Sealer>,
    kernel: RefCell<Kernel>,
    inner: Rc<dyn Interrupt>,
    /// The peer wants new keys of us before we send more.
    update_due: Cell<bool>,
    /// A send is under way, or came to grief: nothing can be put behind it.
    sending: Cell<bool>,
    /// Nothing more is sent: `close_notify` or another alert was, or nothing can be.
    closed: Cell<bool>,
    /// The peer has said `close_notify`.
    peer_closed: Cell<bool>,
    /// Bytes wait that were read from the connection.
    holds: Cell<bool>,
}

impl<I: Io> Tls<I> {
    fn new(
        read: I::Read,
        write: I::Write,
        inner: Rc<dyn Interrupt>,
        early: Buf,
        sealer: Sealer,
        opener: Opener,
        kernel: Kernel,
    ) -> Self {
        let common = Rc::new(Common {
            sealer: RefCell::new(sealer),
            kernel: RefCell::new(kernel),
            inner,
            update_due: Cell::new(false),
            sending: Cell::new(false),
            closed: Cell::new(false),
            peer_closed: Cell::new(false),
            holds: Cell::new(!early.is_empty()),
        });
        let read = TlsRead {
            inner: read,
            common: common.clone(),
            opener,
            sealed: early,
            plain: Buf::empty(),
            message: Vec::new(),
            idle_records: 0,
        };
        Self { read, write: TlsWrite { inner: write, common } }
    }
}

impl<I: Io> Io for Tls<I> {
    type Read = TlsRead<I::Read>;
    type Write = TlsWrite<I::Write>;

    fn split(self) -> (Self::Read, Self::Write, Rc<dyn Interrupt>) {
        let interrupt = self.write.common.clone();
        (self.read, self.write, interrupt)
    }
}

impl Common {
    /// Sends an alert, if nothing is under way that it would tear, and no more after it.
    fn say(&self, alert: Alert) {
        if let Some(sealed) = self.words(alert) {
            self.inner.last_words(sealed.as_slice());
        }
    }

    fn words(&self, alert: Alert) -> Option<Buf> {
        if self.closed.replace(true) || self.sending.get() {
            return None;
        }
        let mut words = Buf::small();
        let level = if alert == Alert::CloseNotify { 1 } else { 2 };
        words.extend(&[level, alert as u8]);
        self.sealer.borrow_mut().seal(words, Content::Alert).ok()
    }

    /// Ends the connection for what the peer has sent.
    #[cold]
    fn fail(&self, alert: Alert) -> io::Error {
        self.say(alert);
        io::Error::new(io::ErrorKind::InvalidData, "broken TLS record")
    }
}

impl Interrupt for Common {
    fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Read {
            self.say(Alert::CloseNotify);
        }
        self.inner.shutdown(how);
    }

    fn reset(&self) {
        // The peer must not take what it has for the whole.
        self.closed.set(true);
        self.inner.reset();
    }

    fn spend(&self) {
        self.inner.spend();
    }

    fn release(&self) {
        self.inner.release();
    }

    fn last_words(&self, bytes: &[u8]) -> bool {
        if self.closed.get() || self.sending.get() {
            return false;
        }
        let sealed = self.sealer.borrow_mut().seal(Buf::copy_of(bytes), Content::Data);
        let taken = sealed.is_ok_and(|sealed| self.inner.last_words(sealed.as_slice()));
        if !taken {
            // Half a record, or none: nothing can follow it.
            self.closed.set(true);
        }
        taken
    }

    fn unsent_bytes(&self) -> Option<u64> {
        self.inner.unsent_bytes()
    }

    fn is_quiet(&self) -> bool {
        !self.holds.get() && !self.peer_closed.get() && self.inner.is_quiet()
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        self.inner.local_addr()
    }

    fn has_left(&self) -> bool {
        self.peer_closed.get() || self.inner.has_left()
    }
}

/// The reading half.
pub struct TlsRead<R> {
    inner: R,
    common: Rc<Common>,
    opener: Opener,
    /// Records, or parts of one, as they came.
    sealed: Buf,
    /// Data for which the reader had no room.
    plain: Buf,
    /// A handshake message of which the rest is to come.
    message: Vec<u8>,
    idle_records: u32,
}

impl<R: ReadHalf> TlsRead<R> {
    /// Reads until there are data, the end, or an error. A read goes to the reader's own buffer where that is empty,
    /// and its records are opened there.
    async fn read(&mut self, mut buf: Buf, idle: bool) -> Done {
        if buf.spare() == 0 {
            return (Ok(0), buf);
        }
        loop {
            if !self.plain.is_empty() {
                let count = self.take_plain(&mut buf);
                return (Ok(count), buf);
            }
            if self.common.peer_closed.get() {
                return (Ok(0), buf);
            }
            match record::record_bytes(self.sealed.as_slice()) {
                Ok(Some(length)) if length <= self.sealed.len() => match self.open_all(buf) {
                    (Ok(0), back) => buf = back,
                    done => return done,
                },
                Ok(needed) => {
                    let (result, back) = self.fill(buf, idle, needed).await;
                    buf = back;
                    if let Err(error) = result {
                        return (Err(error), buf);
                    }
                }
                Err(alert) => return (Err(self.common.fail(alert)), buf),
            }
        }
    }

    /// Reads records: into the reader's buffer where nothing waits and it is empty. Afterwards they are in `sealed`.
    async fn fill(&mut self, mut buf: Buf, idle: bool, needed: Option<usize>) -> (io::Result<()>, Buf) {
        let lent = self.sealed.is_empty() && buf.is_empty();
        let mut into = if lent {
            std::mem::take(&mut buf)
        } else if self.sealed.has_storage() {
            std::mem::take(&mut self.sealed)
        } else {
            Buf::small()
        };
        let missing = needed.unwrap_or(0).saturating_sub(into.len());
        if into.spare() < missing.max(1) {
            into = roomier(into, missing);
        }
        let (count, mut into) = if idle { self.inner.recv_idle(into).await } else { self.inner.recv(into).await };
        let result = match count {
            Ok(count) if count > 0 => {
                self.common.holds.set(true);
                self.sealed = into;
                return (Ok(()), buf);
            }
            Ok(_) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the TLS connection ended without close_notify")),
            Err(error) => Err(error),
        };
        if lent {
            into.clear();
            return (result, into);
        }
        self.sealed = into;
        (result, buf)
    }

    /// Opens the whole records at the front of `sealed`. Their data are returned in place where the reader's buffer is
    /// empty; it then keeps what is left of the next record. 0 when there were none.
    fn open_all(&mut self, mut buf: Buf) -> Done {
        let mut sealed = std::mem::take(&mut self.sealed);
        let (mut data, mut at, mut failed) = (0..0, 0, None);
        while !self.common.peer_closed.get()
            && let Ok(Some(length)) = record::record_bytes(&sealed.as_slice()[at..])
            && at + length <= sealed.len()
        {
            match self.open_one(&mut sealed.as_mut_slice()[at..at + length]) {
                Ok(opened) if opened.content == Content::Data => {
                    let from = at + opened.start;
                    if data.is_empty() {
                        data = from..from + opened.length;
                    } else {
                        sealed.as_mut_slice().copy_within(from..from + opened.length, data.end);
                        data.end += opened.length;
                    }
                }
                Ok(_) => {}
                Err(alert) => {
                    failed = Some(alert);
                    break;
                }
            }
            at += length;
        }
        if let Some(alert) = failed {
            let error = self.common.fail(alert);
            sealed.clear();
            return (Err(error), if buf.has_storage() { buf } else { sealed });
        }
        let rest = &sealed.as_slice()[at..];
        if data.is_empty() {
            sealed.consume(at);
            if sealed.is_empty() && !buf.has_storage() {
                sealed.clear();
                std::mem::swap(&mut sealed, &mut buf);
            }
            self.keep(sealed);
            return (Ok(0), buf);
        }
        if !rest.is_empty() {
            let mut kept = if rest.len() < 64 { Buf::small() } else { Buf::large() };
            kept.extend(rest);
            self.sealed = kept;
        }
        sealed.truncate(data.end);
        sealed.consume(data.start);
        self.common.holds.set(!self.sealed.is_empty());
        if buf.is_empty() {
            return (Ok(sealed.len()), sealed);
        }
        self.plain = sealed;
        let count = self.take_plain(&mut buf);
        (Ok(count), buf)
    }

    /// Keeps what is no whole record yet; a buffer with nothing in it goes back to its pool.
    fn keep(&mut self, sealed: Buf) {
        self.sealed = if sealed.is_empty() { Buf::empty() } else { sealed };
        self.common.holds.set(!self.sealed.is_empty());
    }

    fn take_plain(&mut self, buf: &mut Buf) -> usize {
        let count = self.plain.len().min(buf.spare());
        buf.extend(&self.plain.as_slice()[..count]);
        self.plain.consume(count);
        if self.plain.is_empty() {
            self.plain = Buf::empty();
        }
        self.common.holds.set(!self.plain.is_empty() || !self.sealed.is_empty());
        count
    }

    fn open_one(&mut self, record: &mut [u8]) -> Result<Opened, Alert> {
        let opened = self.opener.open(record)?;
        let data = &record[opened.start..opened.start + opened.length];
        if opened.content == Content::Data && !data.is_empty() && self.message.is_empty() {
            self.idle_records = 0;
            return Ok(opened);
        }
        self.idle_records += 1;
        if self.idle_records > IDLE_RECORDS_MAX {
            return Err(Alert::UnexpectedMessage);
        }
        match opened.content {
            // Data between the parts of a message.
            Content::Data if !self.message.is_empty() => Err(Alert::UnexpectedMessage),
            Content::Data => Ok(opened),
            Content::Alert => self.take_alert(data).map(|()| opened),
            Content::Handshake => self.take_messages(data).map(|()| opened),
        }
    }

    /// `close_notify` ends the stream; a warning of TLS 1.2 is passed over; all else ends the connection.
    fn take_alert(&mut self, data: &[u8]) -> Result<(), Alert> {
        let tls13 = self.common.sealer.borrow().is_tls13();
        match *data {
            [_, 0] => self.common.peer_closed.set(true),
            // `user_canceled` announces a close in 1.3; other warnings are of 1.2.
            [_, 90] => {}
            [1, _] if !tls13 => {}
            [_, _] => {
                // The peer is gone: nothing is said to it.
                self.common.closed.set(true);
                return Err(Alert::CloseNotify);
            }
            _ => return Err(Alert::DecodeError),
        }
        Ok(())
    }

    /// Messages behind the handshake. TLS 1.2 has none: renegotiation is refused (F81).
    fn take_messages(&mut self, data: &[u8]) -> Result<(), Alert> {
        if !self.common.sealer.borrow().is_tls13() || data.is_empty() {
            return Err(Alert::UnexpectedMessage);
        }
        self.message.extend_from_slice(data);
        let mut messages = std::mem::take(&mut self.message);
        let mut at = 0;
        while let [kind, a, b, c, rest @ ..] = &messages[at..] {
            let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
            if length > TICKET_BYTES_MAX {
                return Err(Alert::DecodeError);
            }
            let Some(payload) = rest.get(..length) else { break };
            self.take_message(*kind, payload, rest.len() == length)?;
            at += 4 + length;
        }
        messages.drain(..at);
        if !messages.is_empty() {
            self.message = messages;
        }
        Ok(())
    }

    fn take_message(&mut self, kind: u8, payload: &[u8], is_last: bool) -> Result<(), Alert> {
        let mut kernel = self.common.kernel.borrow_mut();
        match (kind, &mut *kernel) {
            (KEY_UPDATE, kernel) => {
                // What follows under the old key was never allowed (RFC 8446 section 5.1).
                let (&[wanted @ 0..=1], true) = (payload, is_last) else { return Err(Alert::DecodeError) };
                self.opener = kernel.next_opener()?;
                if wanted == 1 {
                    self.common.update_due.set(true);
                }
                Ok(())
            }
            (NEW_SESSION_TICKET, Kernel::Client(kernel)) => {
                kernel.handle_new_session_ticket(payload).map_err(|_| Alert::DecodeError)
            }
            _ => Err(Alert::UnexpectedMessage),
        }
    }
}

/// The same window in storage with room for `missing` bytes more: the rest of a record, which is at most half of a
/// large buffer.
#[cold]
fn roomier(buf: Buf, missing: usize) -> Buf {
    let mut bigger = Buf::with_room((buf.len() + missing).max(crate::limits::BUF_LARGE_BYTES));
    bigger.extend(buf.as_slice());
    bigger
}

impl<R: ReadHalf> ReadHalf for TlsRead<R> {
    async fn recv(&mut self, buf: Buf) -> Done {
        self.read(buf, false).await
    }

    async fn recv_idle(&mut self, buf: Buf) -> Done {
        self.read(buf, true).await
    }

    async fn readable(&mut self) -> io::Result<()> {
        let whole = |sealed: &Buf| match record::record_bytes(sealed.as_slice()) {
            Ok(Some(length)) => length <= sealed.len(),
            Ok(None) => false,
            Err(_) => true,
        };
        if !self.plain.is_empty() || self.common.peer_closed.get() || whole(&self.sealed) {
            return Ok(());
        }
        self.inner.readable().await
    }
}

/// The writing half. Dropping it says `close_notify`, if that can be sent at once; `finish` waits for it.
pub struct TlsWrite<W> {
    inner: W,
    common: Rc<Common>,
}

impl<W: WriteHalf> TlsWrite<W> {
    /// Renews the keys where the peer wants it or they are worn (RFC 8446 section 5.5).
    #[cold]
    async fn update_keys(&mut self) -> io::Result<()> {
        let common = self.common.clone();
        if !common.sealer.borrow().is_tls13() {
            // TLS 1.2 cannot: a connection of 16 million records is long enough.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        let broken = |_| io::Error::other("key update failed");
        let message = common.sealer.borrow_mut().seal(Buf::copy_of(&KEY_UPDATE_ANSWER), Content::Handshake);
        let next = common.kernel.borrow_mut().next_sealer().map_err(broken)?;
        common.sealer.replace(next);
        common.update_due.set(false);
        self.flush(message.map_err(broken)?).await.1.map(drop)
    }

    /// Sends all of it. Returns whether the kernel took it in one piece: then its window is as it was.
    async fn flush(&mut self, mut buf: Buf) -> (bool, io::Result<Buf>) {
        self.common.sending.set(true);
        let (sent, back) = self.inner.send(buf).await;
        buf = back;
        match sent {
            Ok(count) if count == buf.len() && count > 0 => {
                self.common.sending.set(false);
                return (true, Ok(buf));
            }
            Ok(0) => return (false, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => buf.consume(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (false, Err(error)),
        }
        let rest = send_all(&mut self.inner, buf).await;
        // After an error a part of a record may be out: nothing can follow it.
        self.common.sending.set(rest.is_err());
        (false, rest)
    }
}

impl<W: WriteHalf> WriteHalf for TlsWrite<W> {
    async fn send(&mut self, buf: Buf) -> Done {
        if self.common.closed.get() {
            return (Err(io::ErrorKind::BrokenPipe.into()), buf);
        }
        let count = buf.len();
        if count == 0 {
            return (Ok(0), buf);
        }
        if (self.common.update_due.get() || self.common.sealer.borrow().sealed() >= RECORDS_PER_KEY_MAX)
            && let Err(error) = Box::pin(self.update_keys()).await
        {
            return (Err(error), buf);
        }
        let before = self.common.sealer.borrow().before();
        let sealed = match self.common.sealer.borrow_mut().seal(buf, Content::Data) {
            Ok(sealed) => sealed,
            Err(_) => return (Err(io::Error::other("sealing failed")), Buf::empty()),
        };
        let (whole, sent) = self.flush(sealed).await;
        match sent {
            Ok(mut buf) if whole => {
                // As many bytes as were given, whatever they are now: they are done with.
                buf.consume(before);
                buf.truncate(count);
                (Ok(count), buf)
            }
            Ok(mut buf) => {
                buf.clear();
                fill(&mut buf, count);
                (Ok(count), buf)
            }
            Err(error) => (Err(error), Buf::empty()),
        }
    }

    fn ends(&self) {
        self.inner.ends();
    }

    fn has_room(&self) -> bool {
        self.inner.has_room()
    }

    async fn finish(&mut self) -> io::Result<()> {
        match self.common.words(Alert::CloseNotify) {
            Some(words) => self.flush(words).await.1.map(drop),
            None => Ok(()),
        }
    }

    async fn writable(&mut self) -> io::Result<()> {
        self.inner.writable().await
    }
}

/// A window of so many bytes, for a caller who takes off what was sent.
fn fill(buf: &mut Buf, bytes: usize) {
    const ZEROS: [u8; 4096] = [0; 4096];
    while buf.len() < bytes {
        buf.extend(&ZEROS[..(bytes - buf.len()).min(ZEROS.len())]);
    }
}

impl<W> Drop for TlsWrite<W> {
    fn drop(&mut self) {
        // A panic must not make a part of a message look like the whole.
        if !std::thread::panicking() {
            self.common.say(Alert::CloseNotify);
        }
    }
}
