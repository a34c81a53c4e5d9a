//! The chunked transfer coding (RFC 9112 section 7.1), decoded in place.

use crate::http::fields::Fields;
use crate::http::hop;
use crate::http::name::{Name, NameSet};
use crate::limits::{CHUNK_LINE_BYTES_MAX, FIELDS_MAX, TRAILER_BYTES_MAX};

/// ```text
/// Size ─► Extension ─► SizeLf ─► Data ─► DataCr ─► DataLf ─► Size
///   └────────────────────┘ └─ size 0 ─► Trailer ─► Done
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    Trailer,
    Done,
}

/// What decoding a piece of the raw body found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Where the payload begins in the piece.
    pub start: usize,
    /// Where the payload ends.
    pub end: usize,
    /// Raw bytes used up; all of the piece unless the body is over.
    pub consumed: usize,
    /// The body is over, trailers included.
    pub done: bool,
}

/// The coding is broken: what is wrong with it, for the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken(pub &'static str);

/// Decoder of one body. It keeps no bytes but those of an unfinished trailer section.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    remaining: u64,
    digits: u32,
    line_bytes: usize,
    trailer: Vec<u8>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { state: State::Size, remaining: 0, digits: 0, line_bytes: 0, trailer: Vec::new() }
    }
}

impl Decoder {
    /// Decodes `raw`, moving the payload of its chunks together. A payload that is one chunk is not moved.
    ///
    /// # Errors
    /// [`Broken`]; the decoder is of no use afterwards.
    pub fn decode(&mut self, raw: &mut [u8]) -> Result<Decoded, Broken> {
        let mut found = Decoded { start: 0, end: 0, consumed: 0, done: false };
        while found.consumed < raw.len() && self.state != State::Done {
            match self.state {
                State::Data => self.take_data(raw, &mut found),
                State::Trailer => self.take_trailer(raw[found.consumed], &mut found)?,
                _ => self.take_line(raw[found.consumed], &mut found)?,
            }
        }
        found.done = self.state == State::Done;
        Ok(found)
    }

    fn take_data(&mut self, raw: &mut [u8], found: &mut Decoded) {
        let at = found.consumed;
        let count = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(raw.len() - at);
        if found.end == found.start {
            (found.start, found.end) = (at, at);
        }
        if found.end != at {
            raw.copy_within(at..at + count, found.end);
        }
        found.end += count;
        found.consumed += count;
        self.remaining -= count as u64;
        if self.remaining == 0 {
            self.state = State::DataCr;
        }
    }

    fn take_line(&mut self, byte: u8, found: &mut Decoded) -> Result<(), Broken> {
        found.consumed += 1;
        self.line_bytes += 1;
        if self.line_bytes > CHUNK_LINE_BYTES_MAX {
            return Err(Broken("over chunk_line_bytes_max"));
        }
        self.state = match (self.state, byte) {
            (State::Size, b'\r') if self.digits > 0 => State::SizeLf,
            (State::Size, b';') if self.digits > 0 => State::Extension,
            (State::Size, _) => self.take_digit(byte)?,
            (State::Extension, b'\r') => State::SizeLf,
            (State::Extension, 0..=8 | 10..=31 | 127) => return Err(Broken("control character in a chunk extension")),
            (State::Extension, _) => State::Extension,
            (State::SizeLf, b'\n') => self.begin_chunk(),
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => self.begin_line(State::Size),
            _ => return Err(Broken("chunk without CRLF")),
        };
        Ok(())
    }

    fn take_digit(&mut self, byte: u8) -> Result<State, Broken> {
        let digit = (byte as char).to_digit(16).ok_or(Broken("chunk size is not hexadecimal"))?;
        // 15 digits cannot overflow, and no chunk is that long. Leading zeros count: they serve only to confuse.
        if self.digits == 15 {
            return Err(Broken("chunk size too large"));
        }
        self.digits += 1;
        self.remaining = self.remaining << 4 | u64::from(digit);
        Ok(State::Size)
    }

    fn begin_chunk(&mut self) -> State {
        let next = if self.remaining == 0 { State::Trailer } else { State::Data };
        self.begin_line(next)
    }

    fn begin_line(&mut self, next: State) -> State {
        self.digits = 0;
        self.line_bytes = 0;
        next
    }

    fn take_trailer(&mut self, byte: u8, found: &mut Decoded) -> Result<(), Broken> {
        found.consumed += 1;
        self.trailer.push(byte);
        if self.trailer.len() > TRAILER_BYTES_MAX {
            return Err(Broken("over trailer_bytes_max"));
        }
        if byte == b'\n' {
            if self.trailer.len() < 2 || self.trailer[self.trailer.len() - 2] != b'\r' {
                return Err(Broken("bare LF in the trailer section"));
            }
            if self.trailer.len() == 2 || self.trailer.ends_with(b"\r\n\r\n") {
                self.state = State::Done;
            }
        }
        Ok(())
    }

    /// The trailer section of a finished body, without fields that may not stand there (RFC 9110 section 6.5.1).
    ///
    /// # Errors
    /// [`Broken`] when a line is malformed or there are too many.
    pub fn take_trailers(&mut self) -> Result<Option<Box<Fields>>, Broken> {
        if self.trailer.len() <= 2 {
            return Ok(None);
        }
        let section = std::mem::take(&mut self.trailer);
        let mut table = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let lines = match httparse::parse_headers(&section, &mut table) {
            Ok(httparse::Status::Complete((_, lines))) => lines,
            Err(httparse::Error::TooManyHeaders) => return Err(Broken("over fields_max")),
            _ => return Err(Broken("malformed trailer section")),
        };
        let mut fields = Box::<Fields>::default();
        for line in lines {
            if hop::may_trail(line.name.as_bytes(), NEVER_TRAILERS) {
                fields.append(line.name.as_bytes(), line.value).map_err(|_| Broken("malformed trailer field"))?;
            }
        }
        Ok(Some(fields))
    }

    /// Whether the body is over.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

/// Fields for framing, routing, authentication and the like have no business behind the body.
pub(in crate::proto) const NEVER_TRAILERS: NameSet = NameSet::of(&[
    Name::Host,
    Name::Trailer,
    Name::Expect,
    Name::Authorization,
    Name::Cookie,
    Name::SetCookie,
    Name::ContentType,
    Name::ContentEncoding,
    Name::XRequestId,
    Name::Location,
])
.and(hop::HOP_BY_HOP)
.and(hop::FORWARDING)
.and(hop::GATEWAY_OWNED);

#[cfg(test)]
mod tests {
    use super::*;

    fn decode_whole(raw: &[u8], piece: usize) -> Result<(Vec<u8>, usize, Decoder), Broken> {
        let mut decoder = Decoder::default();
        let (mut payload, mut used) = (Vec::new(), 0);
        for part in raw.chunks(piece) {
            let mut part = part.to_vec();
            let found = decoder.decode(&mut part)?;
            payload.extend_from_slice(&part[found.start..found.end]);
            used += found.consumed;
            if found.done {
                break;
            }
        }
        Ok((payload, used, decoder))
    }

    #[test]
    fn any_tearing_gives_the_same_body() {
        let raw = b"4\r\nWiki\r\n5;ext=\"a b\"\r\npedia\r\nE\r\n in\r\n\r\nchunks.\r\n0\r\nX-T: v\r\n\r\nNEXT";
        for piece in 1..=raw.len() {
            let (payload, used, mut decoder) = decode_whole(raw, piece).expect("legal");
            assert_eq!(payload, b"Wikipedia in\r\n\r\nchunks.", "pieces of {piece}");
            assert_eq!(&raw[used..], b"NEXT");
            let trailers = decoder.take_trailers().expect("legal").expect("some");
            assert_eq!(trailers.find(b"x-t"), Some(&b"v"[..]));
        }
    }

    #[test]
    fn one_chunk_is_not_moved() {
        let mut raw = b"5\r\nhello\r\n0\r\n\r\n".to_vec();
        let found = Decoder::default().decode(&mut raw).expect("legal");
        assert_eq!((found.start, found.end, found.consumed, found.done), (3, 8, 15, true));
    }

    #[test]
    fn broken_codings_are_refused_however_torn() {
        for raw in [
            &b"\r\n"[..],
            b"5\nhello\r\n",
            b"5 \r\nhello\r\n",
            b" 5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"-1\r\n",
            b"5\r\nhelloX\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\r\nhello",
            b"5;a\nb\r\nhello",
            b"5;a\0\r\nhello",
            b"0\r\nA: b\n\r\n",
            b"ffffffffffffffff\r\n",
            b"0000000000000000005\r\nhello\r\n0\r\n\r\n",
            b"g\r\n",
        ] {
            for piece in [1, 2, raw.len()] {
                assert!(decode_whole(raw, piece).is_err(), "{:?} in pieces of {piece}", raw.escape_ascii().to_string());
            }
        }
    }

    #[test]
    fn lines_and_trailers_are_bounded() {
        let long = [b"5;".to_vec(), vec![b'a'; CHUNK_LINE_BYTES_MAX]].concat();
        assert!(decode_whole(&long, 100).is_err());
        let trailers = [b"0\r\nA: ".to_vec(), vec![b'a'; TRAILER_BYTES_MAX]].concat();
        assert!(decode_whole(&trailers, 100).is_err());
    }

    #[test]
    fn trailers_cannot_carry_framing_or_identity() {
        let raw = b"0\r\nContent-Length: 5\r\nX-User-ID: 1\r\nHost: b\r\nGrpc-Status: 0\r\n\r\n";
        let (_, _, mut decoder) = decode_whole(raw, raw.len()).expect("legal");
        let trailers = decoder.take_trailers().expect("legal").expect("some");
        assert_eq!(trailers.iter().collect::<Vec<_>>(), [(&b"Grpc-Status"[..], &b"0"[..])]);
    }
}
