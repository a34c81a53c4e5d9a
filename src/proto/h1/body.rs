//! Reading a body off an HTTP/1 connection, whichever side it comes from.

use std::io;

use super::chunked::{Broken, Decoder};
use crate::http::body::Chunk;
use crate::http::message::BodyLength;
use crate::limits::{BUF_LARGE_BYTES, BUF_SMALL_BYTES};
use crate::net::io::ReadHalf;
use crate::sys::buf::{self, Buf};

/// Why a body could not be read on.
#[derive(Debug)]
pub enum BodyError {
    /// The chunked coding is broken.
    Broken(&'static str),
    /// The peer closed before the end.
    Truncated,
    /// Reading failed.
    Io(io::Error),
}

impl From<Broken> for BodyError {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken.0)
    }
}

#[derive(Debug)]
enum Mode {
    Length(u64),
    Chunked(Box<Decoder>),
    UntilClose,
    Done,
}

/// A body under way.
///
/// Invariant: `raw` holds only bytes that were not handed out; once the body is done, those behind it.
#[derive(Debug)]
pub struct BodyReader {
    mode: Mode,
    raw: Buf,
    /// The last read filled its buffer: more may lie behind it, unread.
    filled: bool,
}

impl BodyReader {
    /// A body of this length, of which `raw` has already been read (and maybe more, behind it).
    pub fn new(length: BodyLength, raw: Buf) -> Self {
        let mode = match length {
            BodyLength::None | BodyLength::Known(0) => Mode::Done,
            BodyLength::Known(length) => Mode::Length(length),
            BodyLength::Streamed => Mode::Chunked(Box::default()),
            BodyLength::UntilClose => Mode::UntilClose,
        };
        Self { mode, raw, filled: false }
    }

    /// Whether the end was handed out.
    #[inline]
    pub fn is_done(&self) -> bool {
        matches!(self.mode, Mode::Done)
    }

    /// The bytes behind the body, once it is done.
    pub fn into_rest(self) -> Buf {
        self.raw
    }

    /// Whether bytes stand behind the body.
    pub fn has_rest(&self) -> bool {
        !self.raw.is_empty()
    }

    /// Whether the last read filled its buffer, so that bytes behind the body may have been left with the system.
    pub fn may_have_more(&self) -> bool {
        self.filled
    }

    /// Says so of the read that brought the head.
    pub fn set_filled(&mut self, filled: bool) {
        self.filled = filled;
    }

    /// Bytes that are still to be read, where they are the body as it stands and none of them has been read yet.
    pub fn raw_left(&self) -> Option<u64> {
        match self.mode {
            Mode::Length(left) if self.raw.is_empty() => Some(left),
            _ => None,
        }
    }

    /// So many of the bytes of [`Self::raw_left`] went past the reader.
    pub fn raw_taken(&mut self, bytes: u64) {
        let Mode::Length(left) = self.mode else { return };
        debug_assert!(bytes <= left, "more than the body");
        // What lies behind them was not looked at.
        self.filled |= bytes > 0;
        self.mode = if bytes >= left { Mode::Done } else { Mode::Length(left - bytes) };
    }

    /// What can be handed out without reading.
    ///
    /// # Errors
    /// [`BodyError::Broken`].
    #[inline]
    pub fn ready(&mut self) -> Result<Option<Chunk>, BodyError> {
        match &mut self.mode {
            Mode::Done => Ok(Some(Chunk::end())),
            _ if self.raw.is_empty() => Ok(None),
            Mode::Length(remaining) => {
                let remaining = *remaining;
                Ok(Some(self.take_length(remaining)))
            }
            Mode::Chunked(_) => self.take_chunked(),
            Mode::UntilClose => Ok(Some(Chunk::more(std::mem::take(&mut self.raw)))),
        }
    }

    fn take_length(&mut self, remaining: u64) -> Chunk {
        let mut data = std::mem::take(&mut self.raw);
        if data.len() as u64 > remaining {
            self.raw = data.split_off(remaining as usize);
        }
        let left = remaining - data.len() as u64;
        self.mode = if left == 0 { Mode::Done } else { Mode::Length(left) };
        Chunk { data, end: left == 0, trailers: None }
    }

    fn take_chunked(&mut self) -> Result<Option<Chunk>, BodyError> {
        let Mode::Chunked(decoder) = &mut self.mode else { return Ok(None) };
        let mut data = std::mem::take(&mut self.raw);
        let found = decoder.decode(data.as_mut_slice())?;
        let mut trailers = None;
        if found.done {
            trailers = decoder.take_trailers()?;
            self.raw = data.split_off(found.consumed);
            self.mode = Mode::Done;
        }
        data.truncate(found.end);
        data.consume(found.start);
        let chunk = Chunk { data, end: found.done, trailers };
        Ok((!chunk.is_nothing()).then_some(chunk))
    }

    /// Reads and hands out the next piece.
    ///
    /// # Errors
    /// See [`BodyError`].
    #[inline]
    pub async fn next<R: ReadHalf>(&mut self, read: &mut R) -> Result<Chunk, BodyError> {
        loop {
            if let Some(chunk) = self.ready()? {
                return Ok(chunk);
            }
            let (count, buf) = read.recv(self.buffer()).await;
            match count {
                Ok(0) => return self.closed(),
                Ok(_) => {
                    self.filled = buf.spare() == 0;
                    self.raw = buf;
                }
                Err(error) => return Err(BodyError::Io(error)),
            }
        }
    }

    fn buffer(&self) -> Buf {
        match self.mode {
            Mode::Length(remaining) if remaining <= BUF_SMALL_BYTES as u64 => Buf::small(),
            _ if buf::is_scarce() => Buf::small(),
            _ => Buf::with_room(BUF_LARGE_BYTES),
        }
    }

    fn closed(&mut self) -> Result<Chunk, BodyError> {
        match self.mode {
            Mode::UntilClose => {
                self.mode = Mode::Done;
                Ok(Chunk::end())
            }
            _ => Err(BodyError::Truncated),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(length: BodyLength, raw: &[u8]) -> (Vec<u8>, bool, Vec<u8>) {
        let mut body = BodyReader::new(length, Buf::copy_of(raw));
        let (mut payload, mut ended) = (Vec::new(), false);
        while let Ok(Some(chunk)) = body.ready() {
            payload.extend_from_slice(chunk.data.as_slice());
            ended = chunk.end;
            if ended {
                break;
            }
        }
        (payload, ended, body.into_rest().as_slice().to_vec())
    }

    #[test]
    fn bytes_behind_a_body_are_kept() {
        let known = BodyLength::Known(5);
        assert_eq!(collect(known, b"helloGET /"), (b"hello".to_vec(), true, b"GET /".to_vec()));
        assert_eq!(collect(known, b"hel"), (b"hel".to_vec(), false, vec![]));
        let chunked = b"5\r\nhello\r\n0\r\n\r\nGET /";
        assert_eq!(collect(BodyLength::Streamed, chunked), (b"hello".to_vec(), true, b"GET /".to_vec()));
        assert_eq!(collect(BodyLength::None, b"GET /"), (vec![], true, b"GET /".to_vec()));
        assert_eq!(collect(BodyLength::UntilClose, b"all"), (b"all".to_vec(), false, vec![]));
    }

    #[test]
    fn a_close_ends_only_close_delimited_bodies() {
        assert!(BodyReader::new(BodyLength::UntilClose, Buf::empty()).closed().is_ok_and(|chunk| chunk.end));
        for length in [BodyLength::Known(1), BodyLength::Streamed] {
            assert!(matches!(BodyReader::new(length, Buf::empty()).closed(), Err(BodyError::Truncated)));
        }
    }
}
