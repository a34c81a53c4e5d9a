//! Settings (RFC 9113 section 6.5): what is told to the peer, and what it tells.

use super::code::{Code, Fatal};
use super::frame::INT31_MAX;
use crate::limits::{H2_STREAM_WINDOW_BYTES, H2_STREAMS_MAX};

/// SETTINGS_HEADER_TABLE_SIZE
pub const HEADER_TABLE_SIZE: u16 = 1;
/// SETTINGS_ENABLE_PUSH
pub const ENABLE_PUSH: u16 = 2;
/// SETTINGS_MAX_CONCURRENT_STREAMS
pub const MAX_CONCURRENT_STREAMS: u16 = 3;
/// SETTINGS_INITIAL_WINDOW_SIZE
pub const INITIAL_WINDOW_SIZE: u16 = 4;
/// SETTINGS_MAX_FRAME_SIZE
pub const MAX_FRAME_SIZE: u16 = 5;
/// SETTINGS_MAX_HEADER_LIST_SIZE
pub const MAX_HEADER_LIST_SIZE: u16 = 6;
/// SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441)
pub const ENABLE_CONNECT_PROTOCOL: u16 = 8;

/// Window of a connection, and of streams before settings say otherwise (RFC 9113 section 6.9.2).
pub const WINDOW_BYTES_DEFAULT: u32 = 65_535;
/// Smallest SETTINGS_MAX_FRAME_SIZE, and its default.
pub const FRAME_BYTES_MIN: u32 = 16_384;

/// What a server tells, and [`WITH_CONNECT`] where that is so.
pub fn of_server(header_bytes_max: usize) -> [(u16, u32); 3] {
    [
        (MAX_CONCURRENT_STREAMS, H2_STREAMS_MAX as u32),
        (INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW_BYTES),
        (MAX_HEADER_LIST_SIZE, header_bytes_max as u32),
    ]
}

/// A server takes extended CONNECT (RFC 8441).
pub const WITH_CONNECT: (u16, u32) = (ENABLE_CONNECT_PROTOCOL, 1);

/// What a client tells: nothing is to be pushed.
pub fn of_client(header_bytes_max: usize) -> [(u16, u32); 3] {
    [(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, H2_STREAM_WINDOW_BYTES), (MAX_HEADER_LIST_SIZE, header_bytes_max as u32)]
}

/// What the peer has told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The table that its decoder keeps.
    pub table_bytes: u32,
    /// Streams that it takes at once.
    pub streams_max: u32,
    /// Window of a new stream.
    pub window_bytes: u32,
    /// Largest frame that it takes.
    pub frame_bytes_max: u32,
    /// It knows extended CONNECT.
    pub connect_protocol: bool,
}

impl Default for Peer {
    fn default() -> Self {
        Self {
            table_bytes: 4_096,
            // Without a word about it there is no bound; until the word comes a client keeps to what is usual.
            streams_max: H2_STREAMS_MAX as u32,
            window_bytes: WINDOW_BYTES_DEFAULT,
            frame_bytes_max: FRAME_BYTES_MIN,
            connect_protocol: false,
        }
    }
}

impl Peer {
    /// Takes one setting. One that is not known is ignored.
    ///
    /// # Errors
    /// A value that it may not have.
    pub fn set(&mut self, id: u16, value: u32) -> Result<(), Fatal> {
        match id {
            HEADER_TABLE_SIZE => self.table_bytes = value,
            ENABLE_PUSH if value > 1 => return Err(Fatal::protocol("SETTINGS_ENABLE_PUSH")),
            MAX_CONCURRENT_STREAMS => self.streams_max = value,
            INITIAL_WINDOW_SIZE if value > INT31_MAX => {
                return Err(Fatal::new(Code::FlowControl, "SETTINGS_INITIAL_WINDOW_SIZE"));
            }
            INITIAL_WINDOW_SIZE => self.window_bytes = value,
            MAX_FRAME_SIZE if !(FRAME_BYTES_MIN..1 << 24).contains(&value) => {
                return Err(Fatal::protocol("SETTINGS_MAX_FRAME_SIZE"));
            }
            MAX_FRAME_SIZE => self.frame_bytes_max = value,
            ENABLE_CONNECT_PROTOCOL if value > 1 || (self.connect_protocol && value == 0) => {
                return Err(Fatal::protocol("SETTINGS_ENABLE_CONNECT_PROTOCOL"));
            }
            ENABLE_CONNECT_PROTOCOL => self.connect_protocol = value == 1,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked_and_the_unknown_is_ignored() {
        for (id, value, expected) in [
            (ENABLE_PUSH, 1, Ok(())),
            (ENABLE_PUSH, 2, Err(Code::Protocol)),
            (INITIAL_WINDOW_SIZE, INT31_MAX, Ok(())),
            (INITIAL_WINDOW_SIZE, INT31_MAX + 1, Err(Code::FlowControl)),
            (MAX_FRAME_SIZE, 16_383, Err(Code::Protocol)),
            (MAX_FRAME_SIZE, 16_384, Ok(())),
            (MAX_FRAME_SIZE, (1 << 24) - 1, Ok(())),
            (MAX_FRAME_SIZE, 1 << 24, Err(Code::Protocol)),
            (ENABLE_CONNECT_PROTOCOL, 2, Err(Code::Protocol)),
            (4_711, u32::MAX, Ok(())),
        ] {
            assert_eq!(Peer::default().set(id, value).map_err(|fatal| fatal.code), expected, "{id} {value}");
        }
        let mut peer = Peer::default();
        peer.set(ENABLE_CONNECT_PROTOCOL, 1).expect("legal");
        assert!(peer.connect_protocol && peer.set(ENABLE_CONNECT_PROTOCOL, 0).is_err(), "it may not be taken back");
    }
}
