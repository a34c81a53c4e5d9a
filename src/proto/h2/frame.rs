//! Frames (RFC 9113 sections 4 and 6): parsed strictly from whole payloads, and written.

use super::code::{Code, Fatal};
use crate::limits::H2_FRAME_BYTES_MAX;
use crate::sys::buf::Buf;

/// Length of a frame's head.
pub const HEAD_BYTES: usize = 9;
/// What a client's side of a connection begins with (RFC 9113 section 3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Largest stream identifier and largest window.
pub const INT31_MAX: u32 = i32::MAX as u32;

/// The last frame of a message in its direction.
pub const END_STREAM: u8 = 0x1;
/// An answer to SETTINGS or PING.
pub const ACK: u8 = 0x1;
/// The last frame of a block.
pub const END_HEADERS: u8 = 0x4;
/// The payload has padding.
pub const PADDED: u8 = 0x8;
/// A HEADERS frame with the old priority fields.
pub const PRIORITY: u8 = 0x20;

/// The type of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// DATA
    Data,
    /// HEADERS
    Headers,
    /// PRIORITY, deprecated
    Priority,
    /// RST_STREAM
    Reset,
    /// SETTINGS
    Settings,
    /// PUSH_PROMISE
    PushPromise,
    /// PING
    Ping,
    /// GOAWAY
    GoAway,
    /// WINDOW_UPDATE
    WindowUpdate,
    /// CONTINUATION
    Continuation,
    /// Any other: ignored (RFC 9113 section 5.5).
    Unknown(u8),
}

impl Kind {
    const KNOWN: [Kind; 10] = [
        Kind::Data,
        Kind::Headers,
        Kind::Priority,
        Kind::Reset,
        Kind::Settings,
        Kind::PushPromise,
        Kind::Ping,
        Kind::GoAway,
        Kind::WindowUpdate,
        Kind::Continuation,
    ];

    fn of(byte: u8) -> Kind {
        Self::KNOWN.get(byte as usize).copied().unwrap_or(Kind::Unknown(byte))
    }

    fn byte(self) -> u8 {
        match self {
            Kind::Unknown(byte) => byte,
            known => Self::KNOWN.iter().position(|kind| *kind == known).unwrap_or_default() as u8,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Length of the payload.
    pub length: usize,
    /// Type.
    pub kind: Kind,
    /// Flags; those without a meaning are ignored.
    pub flags: u8,
    /// The stream; 0 for the connection.
    pub stream: u32,
}

impl Head {
    /// The head at the front of `bytes`, if it is whole.
    #[inline]
    pub fn parse(bytes: &[u8]) -> Option<Head> {
        let [a, b, c, kind, flags, s @ ..] = *bytes.first_chunk::<HEAD_BYTES>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        // The reserved bit is ignored (RFC 9113 section 4.1).
        Some(Head { length, kind: Kind::of(kind), flags, stream: u32::from_be_bytes(s) & INT31_MAX })
    }

    /// The bytes of the head.
    #[inline]
    pub fn bytes(self) -> [u8; HEAD_BYTES] {
        debug_assert!(self.length < 1 << 24 && self.stream <= INT31_MAX);
        let [_, a, b, c] = (self.length as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind.byte(), self.flags, s, t, u, v]
    }

    /// Whether a flag is set.
    #[inline]
    pub fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Length and stream as the type has them (RFC 9113 section 6).
    ///
    /// # Errors
    /// What ends the connection.
    #[inline]
    pub fn check(self) -> Result<(), Fatal> {
        let size = |why| Err(Fatal::new(Code::FrameSize, why));
        if self.length > H2_FRAME_BYTES_MAX {
            return size("frame too large");
        }
        match (self.kind, self.stream, self.length) {
            (Kind::Data | Kind::Headers | Kind::Continuation | Kind::Priority | Kind::Reset, 0, _) => {
                Err(Fatal::protocol("frame without a stream"))
            }
            (Kind::Settings | Kind::Ping | Kind::GoAway, 1.., _) => Err(Fatal::protocol("frame on a stream")),
            (Kind::Reset, _, length) if length != 4 => size("RST_STREAM of a wrong size"),
            (Kind::Ping, _, length) if length != 8 => size("PING of a wrong size"),
            (Kind::WindowUpdate, _, length) if length != 4 => size("WINDOW_UPDATE of a wrong size"),
            (Kind::Settings, _, length) if length % 6 != 0 || (self.has(ACK) && length != 0) => {
                size("SETTINGS of a wrong size")
            }
            (Kind::GoAway, _, 0..8) => size("GOAWAY of a wrong size"),
            (Kind::PushPromise, ..) => Err(Fatal::protocol("PUSH_PROMISE")),
            _ => Ok(()),
        }
    }
}

/// What a HEADERS frame carries besides its flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers<'b> {
    /// The fragment of the block.
    pub fragment: &'b [u8],
    /// The stream that it says it depends on.
    pub depends_on: Option<u32>,
}

/// Takes padding and priority off the payload of a HEADERS frame.
///
/// # Errors
/// Padding that is longer than the payload; a payload that is too short.
pub fn headers(head: Head, payload: &[u8]) -> Result<Headers<'_>, Fatal> {
    let short = Fatal::new(Code::FrameSize, "HEADERS too short");
    let (padding, mut rest) = match head.has(PADDED) {
        true => payload.split_first().map(|(length, rest)| (*length as usize, rest)).ok_or(short)?,
        false => (0, payload),
    };
    let mut depends_on = None;
    if head.has(PRIORITY) {
        let (fields, behind) = rest.split_first_chunk::<5>().ok_or(short)?;
        depends_on = Some(number(fields) & INT31_MAX);
        rest = behind;
    }
    let length = rest.len().checked_sub(padding).ok_or(Fatal::protocol("padding too long"))?;
    Ok(Headers { fragment: &rest[..length], depends_on })
}

/// The first four bytes as a number; the payload's length was checked.
#[inline]
pub fn number(payload: &[u8]) -> u32 {
    payload.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

/// The settings of a SETTINGS frame in order.
pub fn settings(payload: &[u8]) -> impl Iterator<Item = (u16, u32)> + '_ {
    let (all, _) = payload.as_chunks::<6>();
    all.iter().map(|[a, b, value @ ..]| (u16::from_be_bytes([*a, *b]), u32::from_be_bytes(*value)))
}

/// Appends a frame with a short payload.
#[inline]
pub fn write(out: &mut Buf, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    out.extend(&Head { length: payload.len(), kind, flags, stream }.bytes());
    out.extend(payload);
}

/// Appends SETTINGS.
pub fn write_settings(out: &mut Buf, settings: &[(u16, u32)]) {
    out.extend(&Head { length: settings.len() * 6, kind: Kind::Settings, flags: 0, stream: 0 }.bytes());
    for (id, value) in settings {
        let ([a, b], [c, d, e, f]) = (id.to_be_bytes(), value.to_be_bytes());
        out.extend(&[a, b, c, d, e, f]);
    }
}

/// Appends GOAWAY.
pub fn write_goaway(out: &mut Buf, last: u32, code: Code, why: &str) {
    out.extend(&Head { length: 8 + why.len(), kind: Kind::GoAway, flags: 0, stream: 0 }.bytes());
    out.extend(&last.to_be_bytes());
    out.extend(&(code as u32).to_be_bytes());
    out.extend(why.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_survive_and_the_reserved_bit_does_not() {
        for kind in 0..=255 {
            for (length, flags, stream) in [(0, 0, 0), (16_384, 0xff, 1), ((1 << 24) - 1, 5, INT31_MAX)] {
                let head = Head { length, kind: Kind::of(kind), flags, stream };
                let mut bytes = head.bytes();
                assert_eq!(Head::parse(&bytes), Some(head));
                bytes[5] |= 0x80;
                assert_eq!(Head::parse(&bytes), Some(head));
                assert_eq!(Head::parse(&bytes[..8]), None);
            }
        }
    }

    #[test]
    fn sizes_and_streams_are_checked() {
        use Kind::*;
        let check = |kind, length, stream, flags| Head { length, kind, flags, stream }.check().map_err(|f| f.code);
        for (kind, length, stream, flags, expected) in [
            (Data, 0, 1, 0, Ok(())),
            (Data, 16_384, 1, 0, Ok(())),
            (Data, 16_385, 1, 0, Err(Code::FrameSize)),
            (Unknown(99), 16_385, 1, 0, Err(Code::FrameSize)),
            (Unknown(99), 7, 0, 0, Ok(())),
            (Data, 1, 0, 0, Err(Code::Protocol)),
            (Headers, 1, 0, 0, Err(Code::Protocol)),
            (Priority, 5, 0, 0, Err(Code::Protocol)),
            (Reset, 4, 0, 0, Err(Code::Protocol)),
            (Continuation, 1, 0, 0, Err(Code::Protocol)),
            (Settings, 0, 1, 0, Err(Code::Protocol)),
            (Ping, 8, 1, 0, Err(Code::Protocol)),
            (GoAway, 8, 1, 0, Err(Code::Protocol)),
            (Reset, 3, 1, 0, Err(Code::FrameSize)),
            (Reset, 5, 1, 0, Err(Code::FrameSize)),
            (Ping, 7, 0, 0, Err(Code::FrameSize)),
            (Ping, 9, 0, 0, Err(Code::FrameSize)),
            (WindowUpdate, 3, 0, 0, Err(Code::FrameSize)),
            (WindowUpdate, 4, 0, 0, Ok(())),
            (WindowUpdate, 4, 1, 0, Ok(())),
            (Settings, 7, 0, 0, Err(Code::FrameSize)),
            (Settings, 6, 0, ACK, Err(Code::FrameSize)),
            (Settings, 0, 0, ACK, Ok(())),
            (GoAway, 7, 0, 0, Err(Code::FrameSize)),
            (PushPromise, 8, 1, 0, Err(Code::Protocol)),
        ] {
            assert_eq!(check(kind, length, stream, flags), expected, "{kind:?} {length} {stream}");
        }
    }

    #[test]
    fn padding_and_priority_are_taken_off() {
        let head = |flags| Head { length: 0, kind: Kind::Headers, flags, stream: 1 };
        let parsed = |flags, payload: &'static [u8]| headers(head(flags), payload);
        assert_eq!(parsed(0, b"abc"), Ok(Headers { fragment: b"abc", depends_on: None }));
        assert_eq!(parsed(PADDED, b"\x02abc\0\0"), Ok(Headers { fragment: b"abc", depends_on: None }));
        assert_eq!(parsed(PADDED, b"\x03\0\0\0"), Ok(Headers { fragment: b"", depends_on: None }));
        assert_eq!(parsed(PADDED, b"\x04\0\0\0").map_err(|f| f.code), Err(Code::Protocol));
        assert_eq!(parsed(PADDED, b"").map_err(|f| f.code), Err(Code::FrameSize));
        let with_priority = parsed(PADDED | PRIORITY, b"\x01\x80\0\0\x07\xffab\0");
        assert_eq!(with_priority, Ok(Headers { fragment: b"ab", depends_on: Some(7) }));
        assert_eq!(parsed(PRIORITY, b"\0\0\0\0").map_err(|f| f.code), Err(Code::FrameSize));
    }
}
