//! Bytes in, events out.

use super::super::code::{Code, Fatal};
use super::super::flow::Overflow;
use super::super::frame::{self, ACK, END_STREAM, HEAD_BYTES, Head, Kind, PADDED, PREFACE};
use super::super::hpack::decode::Fault;
use super::super::stream::{self, Illegal, State};
use super::block::is_middle;
use super::{Core, Event, Key, Role};
use crate::limits::{BUF_LARGE_BYTES, H2_STREAMS_MAX, H2_TINY_DATA_BYTES};
use crate::sys::buf::Buf;
use crate::time::Now;

/// A DATA frame that is not whole yet.
#[derive(Debug)]
pub(super) struct DataFrame {
    /// Whose it is; None for one that is skipped.
    pub(super) key: Option<Key>,
    left: usize,
    padding: usize,
    end: bool,
}

impl DataFrame {
    /// Skips the rest. Returns how much payload that is.
    pub(super) fn skip(&mut self) -> usize {
        self.key = None;
        self.padding += self.left;
        std::mem::take(&mut self.left)
    }
}

/// A piece of a body that is at least so long leaves with the buffer that it was read into.
const MOVED_BYTES_MIN: usize = 1024;

/// Why a stream that depends on itself ends its connection.
const ON_ITSELF: &str = "priority of a stream on itself";

pub(super) type Received = Result<Option<Event>, Fatal>;

impl Core {
    /// Takes bytes off the front of `input` up to the next event. None when there are too few: then what is left in
    /// `input` belongs to a frame of which [`Core::wanted_bytes`] are needed.
    ///
    /// # Errors
    /// [`Fatal`]: the connection ends.
    pub fn receive(&mut self, input: &mut Buf, now: Now) -> Received {
        loop {
            if self.data.is_some() {
                if let Some(event) = self.data_piece(input) {
                    return Ok(Some(event));
                }
                if self.data.is_some() {
                    self.wanted_bytes = 1;
                    return Ok(None);
                }
            }
            if self.block.is_some() && !self.block_piece(input)? {
                self.wanted_bytes = 1;
                return Ok(None);
            }
            if self.preface_left > 0 && !self.take_preface(input)? {
                return Ok(None);
            }
            let Some(head) = self.whole_frame(input)? else { return Ok(None) };
            if is_middle(head) {
                input.consume(HEAD_BYTES);
                self.begin_block_pieces(head);
                continue;
            }
            if head.kind == Kind::Data {
                let padding = if head.has(PADDED) { Some(input.as_slice()[HEAD_BYTES]) } else { None };
                input.consume(HEAD_BYTES + usize::from(padding.is_some()));
                if let Some(event) = self.begin_data(head, padding, now)? {
                    return Ok(Some(event));
                }
                continue;
            }
            let event = self.frame(head, &input.as_slice()[HEAD_BYTES..HEAD_BYTES + head.length], now)?;
            input.consume(HEAD_BYTES + head.length);
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    fn take_preface(&mut self, input: &mut Buf) -> Result<bool, Fatal> {
        let count = self.preface_left.min(input.len());
        let at = PREFACE.len() - self.preface_left;
        if input.as_slice()[..count] != PREFACE[at..at + count] {
            return Err(Fatal::protocol("bad connection preface"));
        }
        input.consume(count);
        self.preface_left -= count;
        self.wanted_bytes = 1;
        Ok(self.preface_left == 0)
    }

    /// The head of the next frame, once all that has to be seen of it is there: of DATA only the length of its padding,
    /// and nothing of a frame within a block.
    fn whole_frame(&mut self, input: &Buf) -> Result<Option<Head>, Fatal> {
        self.wanted_bytes = HEAD_BYTES;
        let Some(head) = Head::parse(input.as_slice()) else { return Ok(None) };
        head.check()?;
        if !self.connected && (head.kind != Kind::Settings || head.has(ACK)) {
            return Err(Fatal::protocol("no SETTINGS first"));
        }
        match &self.block {
            Some(block) if head.kind != Kind::Continuation || head.stream != block.stream => {
                return Err(Fatal::protocol("block of fields interrupted"));
            }
            Some(block) => block.check(head, self.limits.header_bytes_max)?,
            None if head.kind == Kind::Continuation => return Err(Fatal::protocol("CONTINUATION of nothing")),
            None => {}
        }
        let needed = match head.kind {
            Kind::Data if head.has(PADDED) && head.length == 0 => {
                return Err(Fatal::new(Code::FrameSize, "padding without a length"));
            }
            Kind::Data => HEAD_BYTES + usize::from(head.has(PADDED)),
            Kind::Continuation if is_middle(head) => HEAD_BYTES,
            _ => HEAD_BYTES + head.length,
        };
        debug_assert!(needed <= BUF_LARGE_BYTES);
        self.wanted_bytes = needed;
        Ok((input.len() >= needed).then_some(head))
    }

    fn frame(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        match head.kind {
            Kind::Headers => self.headers(head, payload, now),
            Kind::Continuation => self.continuation(payload, now),
            Kind::Settings => self.settings(head, payload, now),
            Kind::WindowUpdate => self.window_update(head, payload, now),
            Kind::Reset => self.peer_reset(head, payload, now),
            Kind::Ping => self.pinged(head, payload, now),
            Kind::Priority => self.priority(head, payload, now),
            Kind::GoAway => {
                self.budget.control(now)?;
                let last = frame::number(payload) & frame::INT31_MAX;
                Ok(Some(Event::GoAway { last, code: Code::of(frame::number(&payload[4..])) }))
            }
            Kind::Unknown(_) => self.budget.control(now).map(|()| None),
            // They do not come here: the first is taken apart before, the second is refused by its head.
            Kind::Data | Kind::PushPromise => Err(Fatal::new(Code::Internal, "frame out of place")),
        }
    }

    // === DATA ===

    /// Takes a whole DATA frame into account before its payload is looked at.
    fn begin_data(&mut self, head: Head, padding: Option<u8>, now: Now) -> Received {
        let overhead = padding.map_or(0, |length| usize::from(length) + 1);
        let payload = head.length.checked_sub(overhead).ok_or(Fatal::protocol("padding too long"))?;
        let Ok(()) = self.recv_window.receive(head.length) else {
            return Err(Fatal::new(Code::FlowControl, "connection window overrun"));
        };
        let end = head.has(END_STREAM);
        let frame = DataFrame { key: None, left: payload, padding: usize::from(padding.unwrap_or(0)), end };
        let Some(key) = self.streams.find(head.stream) else {
            self.skip_data(frame, head.length);
            return self.data_on_no_stream(head, now);
        };
        if let Err(code) = self.account_data(key, head, payload, now)? {
            self.skip_data(frame, head.length);
            return self.stream_error(key, code, now);
        }
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        stream.untaken += payload as u32;
        // Padding has nobody to take it.
        let widened = stream.recv.give_back(overhead).filter(|_| stream.state.may_receive());
        if let Some(widened) = widened {
            self.write_window(key.id, widened);
        }
        self.give_back(overhead);
        self.data = Some(DataFrame { key: Some(key), ..frame });
        Ok(None)
    }

    /// State, window, length and budget of a stream that DATA comes for. An inner error is the stream's alone.
    fn account_data(&mut self, key: Key, head: Head, payload: usize, now: Now) -> Result<Result<(), Code>, Fatal> {
        let end = head.has(END_STREAM);
        let Some(stream) = self.streams.get(key) else { return Ok(Err(Code::StreamClosed)) };
        let state = match stream.state.after(stream::Event::RecvData { end }) {
            Ok(state) => state,
            Err(illegal) => return refused(illegal).map(Err),
        };
        if self.role == Role::Client && !stream.head_done {
            return Ok(Err(Code::Protocol));
        }
        if stream.recv.receive(head.length) == Err(Overflow) {
            return Ok(Err(Code::FlowControl));
        }
        if let Some(expected) = &mut stream.expected {
            match expected.checked_sub(payload as u64) {
                Some(left) if left == 0 || !end => *expected = left,
                _ => return Ok(Err(Code::Protocol)),
            }
        }
        stream.state = state;
        match (payload, end) {
            (_, true) => {}
            (0, false) => self.budget.empty_data(now)?,
            // Endpoints may stream small messages as they like.
            _ if self.role == Role::Client => {}
            _ => stream.lacked += self.budget.data(payload)?,
        }
        Ok(Ok(()))
    }

    fn data_on_no_stream(&mut self, head: Head, now: Now) -> Received {
        if self.is_idle(head.stream) {
            return Err(Fatal::protocol("DATA on an idle stream"));
        }
        if self.is_late(head.stream) {
            // What was on its way is no flood, unless it comes in crumbs.
            let tiny = head.length < H2_TINY_DATA_BYTES as usize && self.role == Role::Server;
            return if tiny { self.budget.control(now).map(|()| None) } else { Ok(None) };
        }
        self.error_on_closed(head.stream, Code::StreamClosed, now)
    }

    fn skip_data(&mut self, mut frame: DataFrame, length: usize) {
        frame.skip();
        self.data = Some(frame);
        self.give_back(length);
    }

    /// The next piece of the DATA frame that has begun.
    fn data_piece(&mut self, input: &mut Buf) -> Option<Event> {
        let frame = self.data.as_mut()?;
        if let Some(key) = frame.key {
            let count = frame.left.min(input.len());
            let end = frame.end && count == frame.left;
            if count < frame.left && count == 0 {
                return None;
            }
            frame.left -= count;
            if frame.left == 0 {
                frame.key = None;
            }
            if count > 0 || end {
                return Some(Event::Data { key, data: piece(input, count), end });
            }
        }
        let skipped = frame.padding.min(input.len());
        input.consume(skipped);
        frame.padding -= skipped;
        if frame.padding == 0 {
            self.data = None;
        }
        None
    }

    // === HEADERS ===

    /// A whole block that was decoded, whatever becomes of it: the next one builds upon it.
    pub(super) fn block(&mut self, id: u32, end: bool, on: Option<u32>, fault: Option<Fault>, now: Now) -> Received {
        match self.streams.find(id) {
            Some(key) if on == Some(id) => self.breach(key, Code::Protocol, ON_ITSELF, now),
            Some(key) => self.block_on_stream(key, end, fault, now),
            None if self.role == Role::Server && id > self.highest => self.open_by_peer(id, end, on, fault, now),
            None if self.is_idle(id) => Err(Fatal::protocol("HEADERS on an idle stream")),
            None if self.is_late(id) && self.role == Role::Client => Ok(None),
            None if self.is_late(id) => self.budget.control(now).map(|()| None),
            None if self.skipped.contains(&id) => Err(Fatal::protocol("stream below one that was opened")),
            None => Err(Fatal::new(Code::StreamClosed, "HEADERS on a closed stream")),
        }
    }

    fn open_by_peer(&mut self, id: u32, end: bool, on: Option<u32>, fault: Option<Fault>, now: Now) -> Received {
        if id.is_multiple_of(2) {
            return Err(Fatal::protocol("stream of the wrong side"));
        }
        // It is idle no longer, taken or not: what follows its head may be on its way too.
        let next = self.highest.next_multiple_of(2) + 1;
        if id > next {
            self.skipped = next..id;
        }
        self.highest = id;
        if self.last_taken.is_some() {
            // The client was told that it would not be seen. It counts, as the work was done.
            return self.budget.control(now).map(|()| None);
        }
        if on == Some(id) {
            return Err(Fatal::breach(Code::Protocol, ON_ITSELF));
        }
        if self.streams.len() >= H2_STREAMS_MAX {
            return self.error_on_closed(id, Code::Refused, now);
        }
        let state = if end { State::HalfRemote } else { State::Open };
        let mut stream = self.new_stream(state);
        stream.head_done = true;
        match self.streams.insert(id, stream) {
            Some(key) => {
                self.budget.stream_opened();
                Ok(Some(Event::Head { key, end, fault }))
            }
            None => self.error_on_closed(id, Code::Refused, now),
        }
    }

    /// A block on a stream that is known: a response's head, or trailers.
    fn block_on_stream(&mut self, key: Key, end: bool, fault: Option<Fault>, now: Now) -> Received {
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        let state = match stream.state.after(stream::Event::RecvHead { end }) {
            Ok(state) => state,
            Err(_) if self.streams.was_reset(key.id) => return self.budget.control(now).map(|()| None),
            Err(illegal) => return self.stream_error(key, refused(illegal)?, now),
        };
        if !stream.head_done {
            stream.state = state;
            return Ok(Some(Event::Head { key, end, fault }));
        }
        // Trailers end the stream, and what was declared has come before them (RFC 9113 section 8.1).
        if !end || stream.expected.is_some_and(|left| left > 0) {
            return self.stream_error(key, Code::Protocol, now);
        }
        stream.state = state;
        Ok(Some(Event::Trailers { key, fault }))
    }

    // === the others ===

    fn settings(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        self.budget.control(now)?;
        if head.has(ACK) {
            return Ok(None);
        }
        let before = self.peer;
        frame::settings(payload).try_for_each(|(id, value)| self.peer.set(id, value))?;
        self.encoder.set_table_size(self.peer.table_bytes as usize);
        let change = i64::from(self.peer.window_bytes) - i64::from(before.window_bytes);
        for stream in self.streams.all() {
            stream.send.change(change).map_err(|Overflow| Fatal::new(Code::FlowControl, "window too wide"))?;
        }
        self.out.write(HEAD_BYTES, |out| frame::write(out, Kind::Settings, ACK, 0, b""));
        if !self.connected {
            self.connected = true;
            return Ok(Some(Event::Connected));
        }
        Ok((change > 0).then_some(Event::Window(None)))
    }

    fn window_update(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        self.budget.control(now)?;
        let by = frame::number(payload) & frame::INT31_MAX;
        if head.stream == 0 {
            if by == 0 {
                return Err(Fatal::protocol("WINDOW_UPDATE by 0"));
            }
            let widened = self.send_window.change(i64::from(by));
            widened.map_err(|Overflow| Fatal::new(Code::FlowControl, "window too wide"))?;
            return Ok(Some(Event::Window(None)));
        }
        let Some(key) = self.streams.find(head.stream) else {
            return match self.is_idle(head.stream) {
                true => Err(Fatal::protocol("WINDOW_UPDATE on an idle stream")),
                false => Ok(None),
            };
        };
        let Some(stream) = self.streams.get(key).filter(|stream| stream.state != State::Closed) else {
            return Ok(None);
        };
        match (by, stream.send.change(i64::from(by))) {
            (0, _) => self.breach(key, Code::Protocol, "WINDOW_UPDATE by 0", now),
            (_, Err(Overflow)) => self.breach(key, Code::FlowControl, "window too wide", now),
            _ => Ok(Some(Event::Window(Some(key)))),
        }
    }

    fn peer_reset(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        let Some(key) = self.streams.find(head.stream) else {
            return match (self.is_idle(head.stream), self.role) {
                (true, _) => Err(Fatal::protocol("RST_STREAM on an idle stream")),
                // What this side has given up may be reset as often as it was asked for.
                (_, Role::Client) => Ok(None),
                (_, Role::Server) => self.budget.control(now).map(|()| None),
            };
        };
        let Some(stream) = self.streams.get(key) else { return Ok(None) };
        match stream.state.after(stream::Event::RecvReset) {
            Ok(state) => stream.state = state,
            Err(_) => return self.budget.control(now).map(|()| None),
        }
        if self.role == Role::Server {
            self.budget.reset(now)?;
        }
        Ok(Some(Event::Reset { key, code: Code::of(frame::number(payload)), by_peer: true }))
    }

    fn pinged(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        self.budget.control(now)?;
        if head.has(ACK) {
            let number = payload.first_chunk().map_or(0, |bytes| u64::from_be_bytes(*bytes));
            return Ok(Some(Event::Pong(number)));
        }
        self.out.write(HEAD_BYTES + 8, |out| frame::write(out, Kind::Ping, ACK, 0, payload));
        Ok(None)
    }

    /// Deprecated (RFC 9113 section 5.3.2), and ignored but for what may never have been right.
    fn priority(&mut self, head: Head, payload: &[u8], now: Now) -> Received {
        self.budget.control(now)?;
        let (code, why) = match payload.len() {
            5 if frame::number(payload) & frame::INT31_MAX != head.stream => return Ok(None),
            5 => (Code::Protocol, ON_ITSELF),
            _ => (Code::FrameSize, "PRIORITY of a wrong size"),
        };
        match self.streams.find(head.stream) {
            Some(key) => self.breach(key, code, why, now),
            // What is not there cannot be reset.
            None => Err(Fatal::breach(code, why)),
        }
    }

    // === errors ===

    /// The peer has made a mistake on a stream: it is reset, which is counted (F43).
    fn stream_error(&mut self, key: Key, code: Code, now: Now) -> Received {
        self.budget.reset_made(now)?;
        let was_open = self.streams.get(key).is_some_and(|stream| stream.state != State::Closed);
        self.reset(key, code);
        Ok(was_open.then_some(Event::Reset { key, code, by_peer: false }))
    }

    /// The same for a frame that can never be right: it ends a client's connection (RFC 9113 section 5.4.1), since
    /// whoever sends one is at fault or up to no good, and the next costs as much. An endpoint's other streams go on.
    fn breach(&mut self, key: Key, code: Code, why: &'static str, now: Now) -> Received {
        match self.role {
            Role::Server => Err(Fatal::breach(code, why)),
            Role::Client => self.stream_error(key, code, now),
        }
    }

    /// The same for a stream that is not in the table.
    fn error_on_closed(&mut self, id: u32, code: Code, now: Now) -> Received {
        self.budget.reset_made(now)?;
        self.write_reset(id, code);
        Ok(None)
    }

    /// A stream is reset for what only its driver can judge: a malformed message, a body over its bound. Counted.
    ///
    /// # Errors
    /// One too many.
    pub fn refuse(&mut self, key: Key, code: Code, now: Now) -> Result<(), Fatal> {
        self.stream_error(key, code, now).map(drop)
    }

    /// Whether a stream was never opened.
    fn is_idle(&self, id: u32) -> bool {
        id > self.highest || id.is_multiple_of(2)
    }

    /// Whether frames may still be on their way for a stream that is closed here.
    fn is_late(&self, id: u32) -> bool {
        self.role == Role::Client || self.last_taken.is_some_and(|last| id > last) || self.streams.was_reset(id)
    }
}

/// What a stream's state says to a frame of the peer's: the code for the stream, or the end of the connection.
fn refused(illegal: Illegal) -> Result<Code, Fatal> {
    match illegal {
        Illegal::Stream(code) => Ok(code),
        Illegal::Connection(code) => Err(Fatal::new(code, "frame on a stream that may not have it")),
        Illegal::Late => Ok(Code::StreamClosed),
        Illegal::Own => Err(Fatal::new(Code::Internal, "state of a stream")),
    }
}

/// Takes `count` bytes off the front of `input`: with its buffer where they are all that it holds.
fn piece(input: &mut Buf, count: usize) -> Buf {
    if count == input.len() && count >= MOVED_BYTES_MIN {
        return std::mem::take(input);
    }
    if count == 0 {
        return Buf::empty();
    }
    let copy = Buf::copy_of(&input.as_slice()[..count]);
    input.consume(count);
    copy
}
