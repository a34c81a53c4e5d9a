//! An HTTP/2 connection without I/O, for both roles: bytes in, events out; commands in, bytes out.
//!
//! ```text
//! bytes ─► receive ─► frame ─► stream state, windows, budget ─► Event ─► driver
//!                                                                          │
//! bytes ◄─ take_output ◄─ Out ◄─ frames ◄─ head, data, trailers, reset ◄───┘
//! ```
//!
//! Time is an argument and nothing waits. What the peer may make this side hold is bounded: a window for each stream
//! and for all of them, one block of fields, one table for them in each direction, and a budget for all that costs work
//! and moves nothing on.

mod block;
mod out;
mod receive;
mod send;
mod table;

#[cfg(test)]
mod states;
#[cfg(test)]
mod tests;

pub use send::Sent;
pub use table::{Key, SLOTS};

use self::block::Block;
use self::out::Out;
use self::receive::DataFrame;
use self::table::Table;
use super::budget::Budget;
use super::code::{Code, Fatal};
use super::flow::{RecvWindow, SendWindow};
use super::frame::{self, INT31_MAX, Kind};
use super::hpack::decode::{Decoder, Fault, Line};
use super::hpack::encode::Encoder;
use super::settings::{self, Peer, WINDOW_BYTES_DEFAULT};
use crate::limits::{H2_CONNECTION_WINDOW_BYTES, H2_STREAMS_MAX};
use crate::proto::h1::parse::HeadLimits;
use crate::sys::buf::Buf;
use crate::time::Now;

/// Which end of the connection this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer asks.
    Server,
    /// This side asks.
    Client,
}

/// What has come.
#[derive(Debug)]
pub enum Event {
    /// A request's head, or a response's (interim or final): its lines are in [`Core::section`] until the next call.
    Head {
        /// Its stream; a new one for a server.
        key: Key,
        /// No body follows.
        end: bool,
        /// What is wrong with it.
        fault: Option<Fault>,
    },
    /// The trailers, which end the stream's message. Lines as for a head.
    Trailers {
        /// Its stream.
        key: Key,
        /// What is wrong with them.
        fault: Option<Fault>,
    },
    /// A piece of a body. Its room is given back by [`Core::taken`].
    Data {
        /// Its stream.
        key: Key,
        /// The piece; empty only with the end.
        data: Buf,
        /// Nothing follows.
        end: bool,
    },
    /// A stream is over before its time. It is to be released.
    Reset {
        /// Which.
        key: Key,
        /// Why.
        code: Code,
        /// By the peer; else for what the peer did.
        by_peer: bool,
    },
    /// A window for sending has become wider: of one stream, or of the connection and perhaps all streams.
    Window(Option<Key>),
    /// The peer's settings have come for the first time.
    Connected,
    /// The peer takes no new streams and has not seen those over `last`.
    GoAway {
        /// The last stream that it has seen.
        last: u32,
        /// Why.
        code: Code,
    },
    /// The answer to a [`Core::ping`].
    Pong(u64),
}

/// The lines of a block, with the buffer that they are ranges of.
#[derive(Debug, Default)]
pub struct Section {
    /// The bytes.
    pub buf: Buf,
    /// The lines in order.
    pub lines: Vec<Line>,
}

/// The connection.
#[derive(Debug)]
pub struct Core {
    role: Role,
    limits: HeadLimits,
    peer: Peer,
    decoder: Decoder,
    encoder: Encoder,
    section: Section,
    streams: Table,
    /// The highest stream that the client has opened.
    highest: u32,
    /// The streams that it has passed over last: from the first to behind the last.
    skipped: std::ops::Range<u32>,
    /// The last stream that is still taken from the peer, once it was told.
    last_taken: Option<u32>,
    send_window: SendWindow,
    recv_window: RecvWindow,
    budget: Budget,
    out: Out,
    preface_left: usize,
    connected: bool,
    /// Boxed, as few blocks are more than a frame.
    block: Option<Box<Block>>,
    data: Option<DataFrame>,
    wanted_bytes: usize,
    /// GOAWAY with an error was written: nothing follows it.
    given_up: bool,
}

impl Core {
    /// A server's side. Its settings are ready to be sent.
    pub fn server(limits: HeadLimits, connect_protocol: bool, now: Now) -> Self {
        let mut core = Self::new(Role::Server, limits, now);
        let [streams, window, header] = settings::of_server(limits.header_bytes_max);
        let all = [streams, window, header, settings::WITH_CONNECT];
        core.begin(if connect_protocol { &all } else { &all[..3] });
        core
    }

    /// A client's side. Its preface and settings are ready to be sent.
    pub fn client(limits: HeadLimits, now: Now) -> Self {
        let mut core = Self::new(Role::Client, limits, now);
        core.out.write(frame::PREFACE.len(), |out| out.extend(frame::PREFACE));
        core.begin(&settings::of_client(limits.header_bytes_max));
        core
    }

    fn new(role: Role, limits: HeadLimits, now: Now) -> Self {
        Self {
            role,
            limits,
            peer: Peer::default(),
            decoder: Decoder::default(),
            encoder: Encoder::default(),
            section: Section::default(),
            streams: Table::default(),
            highest: 0,
            skipped: 0..0,
            last_taken: None,
            send_window: SendWindow::new(WINDOW_BYTES_DEFAULT),
            recv_window: RecvWindow::new(H2_CONNECTION_WINDOW_BYTES),
            budget: Budget::new(now),
            out: Out::default(),
            preface_left: if role == Role::Server { frame::PREFACE.len() } else { 0 },
            connected: false,
            block: None,
            data: None,
            wanted_bytes: 0,
            given_up: false,
        }
    }

    fn begin(&mut self, settings: &[(u16, u32)]) {
        let widened = H2_CONNECTION_WINDOW_BYTES - WINDOW_BYTES_DEFAULT;
        self.out.write(128, |out| {
            frame::write_settings(out, settings);
            frame::write(out, Kind::WindowUpdate, 0, 0, &widened.to_be_bytes());
        });
    }

    /// What the peer has told of itself.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Whether the peer's settings have come.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Bounds of the heads from here on.
    pub fn set_limits(&mut self, limits: HeadLimits) {
        self.limits = limits;
    }

    /// The lines of the head or the trailers that came last.
    pub fn section(&mut self) -> &mut Section {
        &mut self.section
    }

    /// Streams that were not released yet.
    pub fn streams(&self) -> usize {
        self.streams.len()
    }

    /// The highest stream that the client has opened.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// Whether a stream is still in the table, and where it is in its life.
    pub fn state(&mut self, key: Key) -> Option<super::stream::State> {
        self.streams.get(key).map(|stream| stream.state)
    }

    /// Whether a block of fields has begun and not ended.
    pub fn is_in_block(&self) -> bool {
        self.block.is_some()
    }

    /// Bytes that [`Core::receive`] wants to see together before it can go on.
    pub fn wanted_bytes(&self) -> usize {
        self.wanted_bytes
    }

    /// Memory held besides buffers, in bytes.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.decoder.held_bytes() + self.encoder.held_bytes()
    }

    /// The body of a stream's message is to have just so many bytes.
    pub fn expect_bytes(&mut self, key: Key, bytes: u64) {
        if let Some(stream) = self.streams.get(key) {
            stream.expected = Some(bytes);
        }
    }

    /// The head that came last was the final one; what follows it are data and trailers.
    pub fn head_done(&mut self, key: Key) {
        if let Some(stream) = self.streams.get(key) {
            stream.head_done = true;
        }
    }

    /// So many body bytes of a stream were taken by whom they are for: the peer may send as many more.
    pub fn taken(&mut self, key: Key, bytes: usize) {
        let Some(stream) = self.streams.get(key) else { return };
        debug_assert!(bytes <= stream.untaken as usize);
        stream.untaken -= (bytes as u32).min(stream.untaken);
        self.budget.taken(std::mem::take(&mut stream.lacked));
        let widened = stream.recv.give_back(bytes).filter(|_| stream.state.may_receive());
        if let Some(widened) = widened {
            self.write_window(key.id, widened);
        }
        self.give_back(bytes);
    }

    /// Gives room back to the connection's window.
    fn give_back(&mut self, bytes: usize) {
        if let Some(widened) = self.recv_window.give_back(bytes) {
            self.write_window(0, widened);
        }
    }

    fn write_window(&mut self, stream: u32, by: u32) {
        if self.given_up {
            return;
        }
        self.out.write(13, |out| frame::write(out, Kind::WindowUpdate, 0, stream, &by.to_be_bytes()));
    }

    /// Forgets a stream. One that has not ended on both sides is reset: with NO_ERROR where this side has ended, so
    /// that the peer need not go on (RFC 9113 section 8.1).
    pub fn release(&mut self, key: Key) {
        let Some(state) = self.state(key) else { return };
        if state == super::stream::State::HalfLocal && self.role == Role::Server {
            self.reset(key, Code::NoError);
        } else if state != super::stream::State::Closed {
            self.reset(key, Code::Cancel);
        }
        let Some(stream) = self.streams.remove(key) else { return };
        self.budget.taken(stream.lacked);
        if self.data.as_ref().is_some_and(|data| data.key == Some(key)) {
            // The rest of its frame is skipped; as untaken bytes it is given back below.
            self.data.as_mut().map(DataFrame::skip);
        }
        self.give_back(stream.untaken as usize);
        debug_assert!(self.given_up || self.streams.len() > 0 || self.is_level(), "room that nobody gives back");
    }

    /// Whether all that has come was taken: room for it was given back, or will be with the next.
    fn is_level(&self) -> bool {
        self.recv_window.is_level() && self.budget.is_level()
    }

    /// Says that the connection will end: the peer opens no more streams once it has read this. Those that it opens
    /// until then are served.
    pub fn announce_end(&mut self) {
        self.out.write(32, |out| frame::write_goaway(out, INT31_MAX, Code::NoError, ""));
    }

    /// Says that no further stream is served. New ones are ignored: the peer knows that it may ask elsewhere.
    pub fn refuse_further(&mut self) {
        // What was said once is not raised again.
        let last = self.last_taken.unwrap_or(self.highest);
        self.last_taken = Some(last);
        self.out.write(32, |out| frame::write_goaway(out, last, Code::NoError, ""));
    }

    /// Whether no further stream is served.
    pub fn is_ending(&self) -> bool {
        self.last_taken.is_some()
    }

    /// Says why the connection ends at once. Streams send nothing any more, not even that they are reset.
    pub fn give_up(&mut self, fatal: Fatal) {
        // A client has seen none of the server's streams: there are none.
        let last = if self.role == Role::Server { self.last_taken.unwrap_or(self.highest) } else { 0 };
        self.last_taken = Some(last);
        self.given_up = true;
        self.out.write(64 + fatal.why.len(), |out| frame::write_goaway(out, last, fatal.code, fatal.why));
    }

    /// Sends a PING; its answer is [`Event::Pong`].
    pub fn ping(&mut self, payload: u64) {
        self.out.write(17, |out| frame::write(out, Kind::Ping, 0, 0, &payload.to_be_bytes()));
    }

    /// Bytes of bodies that the peer has given room for, on the connection as a whole.
    pub fn send_room(&self) -> usize {
        self.send_window.left()
    }

    /// Bytes that wait to be sent.
    pub fn output_bytes(&self) -> usize {
        self.out.bytes()
    }

    /// Takes what is to be sent next.
    pub fn take_output(&mut self) -> Option<Buf> {
        self.out.take()
    }

    /// Drops what is to be sent.
    pub fn drop_output(&mut self) {
        self.out.clear();
    }

    /// Whether a client may open another stream now.
    pub fn may_open(&self) -> bool {
        let most = (self.peer.streams_max as usize).min(H2_STREAMS_MAX);
        self.last_taken.is_none() && self.streams.len() < most && self.highest < INT31_MAX - 2
    }
}
