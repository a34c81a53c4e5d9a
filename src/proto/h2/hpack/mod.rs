//! HPACK (RFC 7541): field lines into blocks of bytes and back, each side with its table.
//!
//! A decoded line is written as HTTP/1 writes it, `name: value CRLF`, into the buffer of the message that it belongs
//! to. Nothing is allocated for a field, a reference to the table is one copy, and a message that goes on over HTTP/1
//! is passed on line by line as it stands.

pub mod decode;
pub mod encode;
pub mod huffman;
pub mod integer;
pub mod ring;
pub mod statics;

#[cfg(test)]
mod tests;

use super::code::{Code, Fatal};

/// Why a block cannot be decoded: the tables of both sides no longer agree and the connection is lost
/// (COMPRESSION_ERROR, RFC 9113 section 4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBlock(pub &'static str);

impl BadBlock {
    /// It could be decoded, and is too much of it (F44).
    pub const BOMB: Self = Self("bomb of fields");

    /// What the peer is told.
    pub fn fatal(self) -> Fatal {
        if self == Self::BOMB { Fatal::flood(self.0) } else { Fatal::new(Code::Compression, self.0) }
    }
}
