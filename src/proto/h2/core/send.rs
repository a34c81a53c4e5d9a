//! Commands in, bytes out.

use super::super::code::Code;
use super::super::flow::{RecvWindow, SendWindow};
use super::super::frame::{self, END_HEADERS, END_STREAM, HEAD_BYTES, Head, Kind};
use super::super::hpack::encode::Encoder;
use super::super::stream::{Event, State};
use super::out::COPIED_BYTES_MAX;
use super::table::Stream;
use super::{Core, Key, Role};
use crate::limits::{H2_FRAME_BYTES_MAX, H2_OUT_BYTES_MAX, H2_STREAM_WINDOW_BYTES};
use crate::sys::buf::Buf;

/// What became of a piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// All of it is on its way.
    All,
    /// A frame full of it; there may be room for more.
    Some,
    /// Nothing: the peer has given no room on this stream.
    NoStreamWindow,
    /// Nothing: the peer has given no room on the connection.
    NoConnectionWindow,
    /// Nothing: much waits for the socket.
    NoRoom,
    /// Nothing: the stream is over.
    Closed,
}

/// Room that the head of a message usually needs.
const HEAD_ROOM: usize = 1_024;

impl Core {
    pub(super) fn new_stream(&self, state: State) -> Stream {
        Stream {
            state,
            send: SendWindow::new(self.peer.window_bytes),
            recv: RecvWindow::new(H2_STREAM_WINDOW_BYTES),
            untaken: 0,
            lacked: 0,
            expected: None,
            head_done: false,
        }
    }

    /// Opens a stream with the head that `write` encodes. None when there may be no more.
    pub fn open(&mut self, end: bool, write: impl FnOnce(&mut Encoder, &mut Buf)) -> Option<Key> {
        debug_assert_eq!(self.role, Role::Client);
        if !self.may_open() {
            return None;
        }
        let id = if self.highest == 0 { 1 } else { self.highest + 2 };
        let stream = self.new_stream(State::Idle);
        let key = self.streams.insert(id, stream)?;
        self.highest = id;
        self.budget.stream_opened();
        let sent = self.head(key, end, write);
        debug_assert!(sent, "a new stream takes a head");
        Some(key)
    }

    /// Sends a head or trailers that `write` encodes. Returns whether the stream could take it.
    pub fn head(&mut self, key: Key, end: bool, write: impl FnOnce(&mut Encoder, &mut Buf)) -> bool {
        if !self.advance(key, Event::SendHead { end }) {
            return false;
        }
        let (encoder, frame_max) = (&mut self.encoder, (self.peer.frame_bytes_max as usize).min(H2_FRAME_BYTES_MAX));
        self.out.write(HEAD_ROOM, |out| {
            let start = out.len();
            out.extend(&[0; HEAD_BYTES]);
            encoder.begin(out);
            write(encoder, out);
            let length = out.len() - start - HEAD_BYTES;
            let flags = if end { END_STREAM } else { 0 };
            if length <= frame_max {
                let head = Head { length, kind: Kind::Headers, flags: flags | END_HEADERS, stream: key.id };
                out.as_mut_slice()[start..start + HEAD_BYTES].copy_from_slice(&head.bytes());
            } else {
                write_in_parts(out, start, flags, key.id, frame_max);
            }
        });
        true
    }

    /// Sends what there is room for of a piece of a body; what is left stays in `data`. `end` goes with the last byte.
    pub fn data(&mut self, key: Key, data: &mut Buf, end: bool) -> Sent {
        let (head, is_all) = match self.begin_data_frame(key, data.len(), end) {
            Ok(begun) => begun,
            Err(sent) => return sent,
        };
        let count = head.length;
        if is_all && count > COPIED_BYTES_MAX && data.prepend(&head.bytes()) {
            self.out.push(std::mem::take(data));
            return Sent::All;
        }
        self.out.write(HEAD_BYTES + count, |out| {
            out.extend(&head.bytes());
            out.extend(&data.as_slice()[..count]);
        });
        data.consume(count);
        if is_all { Sent::All } else { Sent::Some }
    }

    /// As [`Self::data`] without an end, for bytes that are copied; those that were sent are taken off the front.
    pub fn piece(&mut self, key: Key, bytes: &mut &[u8]) -> Sent {
        let (head, is_all) = match self.begin_data_frame(key, bytes.len(), false) {
            Ok(begun) => begun,
            Err(sent) => return sent,
        };
        let (piece, rest) = bytes.split_at(head.length);
        self.out.write(HEAD_BYTES + piece.len(), |out| {
            out.extend(&head.bytes());
            out.extend(piece);
        });
        *bytes = rest;
        if is_all { Sent::All } else { Sent::Some }
    }

    /// Takes a DATA frame of up to `length` bytes into account that is to be written at once. Returns its head, and
    /// whether it holds all.
    #[inline]
    fn begin_data_frame(&mut self, key: Key, length: usize, end: bool) -> Result<(Head, bool), Sent> {
        let (connection, frame_max) = (self.send_window.left(), self.peer.frame_bytes_max as usize);
        let out_full = self.out.bytes() >= H2_OUT_BYTES_MAX;
        let Some(stream) = self.streams.get(key).filter(|stream| stream.state.may_send()) else {
            return Err(Sent::Closed);
        };
        let room = stream.send.left().min(connection).min(frame_max).min(H2_FRAME_BYTES_MAX);
        let count = length.min(room);
        if length > 0 {
            match (count, stream.send.left()) {
                (0, 0) => return Err(Sent::NoStreamWindow),
                (0, _) => return Err(Sent::NoConnectionWindow),
                _ if out_full => return Err(Sent::NoRoom),
                _ => {}
            }
        }
        let is_all = count == length;
        let end = end && is_all;
        if count == 0 && !end {
            return Err(Sent::All);
        }
        stream.send.take(count);
        self.send_window.take(count);
        if !self.advance(key, Event::SendData { end }) {
            return Err(Sent::Closed);
        }
        self.budget.data_sent();
        let flags = if end { END_STREAM } else { 0 };
        Ok((Head { length: count, kind: Kind::Data, flags, stream: key.id }, is_all))
    }

    /// Resets a stream, if it is not over.
    pub fn reset(&mut self, key: Key, code: Code) {
        if self.advance(key, Event::SendReset) {
            self.write_reset(key.id, code);
        }
    }

    pub(super) fn write_reset(&mut self, id: u32, code: Code) {
        self.streams.remember_reset(id);
        self.out.write(13, |out| frame::write(out, Kind::Reset, 0, id, &(code as u32).to_be_bytes()));
    }

    /// Moves a stream on for something that this side does. What it may not do is not done.
    fn advance(&mut self, key: Key, event: Event) -> bool {
        if self.given_up {
            return false;
        }
        let Some(stream) = self.streams.get(key) else { return false };
        match stream.state.after(event) {
            Ok(state) => stream.state = state,
            Err(_) => return false,
        }
        true
    }
}

/// Parts a block that is larger than a frame.
#[cold]
fn write_in_parts(out: &mut Buf, start: usize, flags: u8, stream: u32, frame_max: usize) {
    let block = out.split_off(start + HEAD_BYTES);
    out.truncate(start);
    let mut left = block.as_slice();
    let (mut kind, mut flags) = (Kind::Headers, flags);
    while !left.is_empty() {
        let (part, rest) = left.split_at(left.len().min(frame_max));
        let last = if rest.is_empty() { END_HEADERS } else { 0 };
        frame::write(out, kind, flags | last, stream, part);
        (kind, flags, left) = (Kind::Continuation, 0, rest);
    }
}
