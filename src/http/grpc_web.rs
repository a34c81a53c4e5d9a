//! gRPC-Web between a browser and a gRPC endpoint: the same length-prefixed messages, but the trailers come as a last
//! frame of the body, and everything may be base64 text (PROTOCOL-WEB.md of the gRPC project).
//!
//! ```text
//! request:  text ──Decoder──► messages as they are
//! response: messages as they are, trailers ──trailers_frame──► frame 0x80 ──encode──► text
//! ```
//! Pure: bytes in, bytes out, whatever the pieces that they come in.

use super::fields::Fields;

/// The flag byte of the frame that holds the trailers.
const TRAILERS: u8 = 0x80;
const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// The trailers as the last frame of a body: a flag, their length, and lines with names in lower case.
pub fn trailers_frame(trailers: Option<&Fields>) -> Vec<u8> {
    let mut frame = vec![TRAILERS, 0, 0, 0, 0];
    for (name, value) in trailers.into_iter().flat_map(Fields::iter) {
        frame.extend(name.iter().map(u8::to_ascii_lowercase));
        frame.extend_from_slice(b": ");
        frame.extend_from_slice(value);
        frame.extend_from_slice(b"\r\n");
    }
    let length = u32::try_from(frame.len() - 5).unwrap_or(u32::MAX);
    frame[1..5].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Appends a piece as base64, with padding of its own: a message does not wait for the next one to fill its last group,
/// and readers take one text behind the other.
pub fn encode(piece: &[u8], out: &mut Vec<u8>) {
    out.reserve(piece.len().div_ceil(3) * 4);
    let (groups, rest) = piece.as_chunks::<3>();
    groups.iter().for_each(|group| put(group, out));
    match *rest {
        [a] => {
            put(&[a, 0, 0], out);
            let end = out.len();
            out[end - 2..].copy_from_slice(b"==");
        }
        [a, b] => {
            put(&[a, b, 0], out);
            let end = out.len();
            out[end - 1] = b'=';
        }
        _ => {}
    }
}

fn put(group: &[u8; 3], out: &mut Vec<u8>) {
    let n = u32::from(group[0]) << 16 | u32::from(group[1]) << 8 | u32::from(group[2]);
    out.extend_from_slice(&[digit(n, 18), digit(n, 12), digit(n, 6), digit(n, 0)]);
}

fn digit(n: u32, shift: u32) -> u8 {
    ALPHABET[(n >> shift & 63) as usize]
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBase64;

/// Reads base64 in pieces. A text may be several texts with padding of their own, one behind the other: a client that
/// streams encodes each of its pieces for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decoder {
    group: u32,
    digits: u32,
    padding: u32,
}

impl Decoder {
    /// Appends what a piece stands for.
    ///
    /// # Errors
    /// A character that is no digit, or padding in the wrong place.
    pub fn decode(&mut self, piece: &[u8], out: &mut Vec<u8>) -> Result<(), NotBase64> {
        out.reserve(piece.len() / 4 * 3 + 3);
        for &byte in piece {
            if byte == b'=' {
                self.padding += 1;
                self.group <<= 6;
                if self.digits < 2 || self.digits + self.padding > 4 {
                    return Err(NotBase64);
                }
            } else {
                if self.padding > 0 {
                    return Err(NotBase64);
                }
                self.group = self.group << 6 | value(byte).ok_or(NotBase64)?;
                self.digits += 1;
            }
            if self.digits + self.padding == 4 {
                let bytes = self.group.to_be_bytes();
                out.extend_from_slice(&bytes[1..4 - self.padding as usize]);
                *self = Self::default();
            }
        }
        Ok(())
    }

    /// Whether a text may end here.
    pub const fn is_whole(&self) -> bool {
        self.digits == 0
    }
}

fn value(byte: u8) -> Option<u32> {
    Some(u32::from(match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn trailers_become_a_frame() {
        let mut trailers = Fields::default();
        trailers.append(b"Grpc-Status", b"0").expect("legal");
        trailers.append(b"x-y", b"").expect("legal");
        assert_eq!(trailers_frame(Some(&trailers)), b"\x80\0\0\0\x17grpc-status: 0\r\nx-y: \r\n");
        assert_eq!(trailers_frame(None), b"\x80\0\0\0\0");
    }

    #[test]
    fn known_texts_agree() {
        for (plain, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            let (mut coded, mut back) = (Vec::new(), Vec::new());
            encode(plain.as_bytes(), &mut coded);
            assert_eq!(coded, text.as_bytes());
            let mut decoder = Decoder::default();
            assert_eq!((decoder.decode(&coded, &mut back), decoder.is_whole()), (Ok(()), true));
            assert_eq!(back, plain.as_bytes());
        }
        for wrong in ["=", "A=", "A===", "Zg=A", "Zg==A=", "Zm9v*", "Zm9\n", "Zg-_"] {
            let mut decoder = Decoder::default();
            let read = decoder.decode(wrong.as_bytes(), &mut Vec::new());
            assert!(read.is_err() || !decoder.is_whole(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn pieces_written_one_by_one_are_read_whole_whatever_tears_them(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..12),
            step in 1_usize..9,
        ) {
            let mut text = Vec::new();
            pieces.iter().for_each(|piece| encode(piece, &mut text));
            let (mut decoder, mut back) = (Decoder::default(), Vec::new());
            for part in text.chunks(step) {
                prop_assert!(decoder.decode(part, &mut back).is_ok());
            }
            prop_assert!(decoder.is_whole());
            prop_assert_eq!(back, pieces.concat());
        }

        #[test]
        fn no_text_breaks_the_reader(text in prop::collection::vec(any::<u8>(), 0..64)) {
            let (mut decoder, mut out) = (Decoder::default(), Vec::new());
            let _ = decoder.decode(&text, &mut out);
            prop_assert!(out.len() <= text.len() * 3 / 4);
        }
    }
}
