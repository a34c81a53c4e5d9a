//! What the gateway knows of WebSocket (RFC 6455): the keys of its handshake, where frames begin and end, and the few
//! frames that it makes itself. Payloads are nobody's business here.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::http::grpc_web::encode as base64;

/// Its name in `Upgrade` and `:protocol`.
pub const PROTOCOL: &[u8] = b"websocket";
/// The field of the client's key.
pub const KEY: &[u8] = b"sec-websocket-key";
/// The field of the server's answer to it.
pub const ACCEPT: &[u8] = b"sec-websocket-accept";

/// The key of a handshake that the gateway makes: 16 bytes, as base64.
pub fn key(random: [u64; 2]) -> Box<[u8]> {
    let bytes = [random[0].to_be_bytes(), random[1].to_be_bytes()].concat();
    let mut text = Vec::new();
    base64(&bytes, &mut text);
    text.into()
}

/// What a server answers to a key (RFC 6455 section 4.2.2).
pub fn accept(key: &[u8]) -> Vec<u8> {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let mut accept = Vec::new();
    base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &text).as_ref(), &mut accept);
    accept
}

/// Longest head of a frame: two bytes, a length of eight, a mask of four.
const HEAD_BYTES_MAX: usize = 14;
/// The longest payload of a control frame.
const CONTROL_BYTES_MAX: usize = 125;
const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;
const CLOSE: u8 = 8;
const PING: u8 = 9;

/// Follows the frames of one direction by their heads alone, so that something can be said between two of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    head: [u8; HEAD_BYTES_MAX],
    /// Bytes of the next head that have passed.
    head_bytes: usize,
    /// Bytes of the present frame's payload that are still to pass.
    payload_left: u64,
    is_closed: bool,
}

impl Frames {
    /// These bytes pass.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let count = self.payload_left.min(bytes.len() as u64);
                self.payload_left -= count;
                bytes = &bytes[count as usize..];
                continue;
            }
            self.head[self.head_bytes] = bytes[0];
            self.head_bytes += 1;
            bytes = &bytes[1..];
            if let Some(length) = payload_length(&self.head[..self.head_bytes]) {
                self.is_closed |= self.head[0] & 0x0f == CLOSE;
                (self.payload_left, self.head_bytes) = (length, 0);
            }
        }
    }

    /// Whether a frame of the gateway's may stand here: between two frames, and before the last one.
    pub fn is_between(&self) -> bool {
        self.head_bytes == 0 && self.payload_left == 0 && !self.is_closed
    }
}

/// The length that a head names, once the head is whole (RFC 6455 section 5.2).
fn payload_length(head: &[u8]) -> Option<u64> {
    let second = *head.get(1)?;
    let (length_bytes, short) = match second & 0x7f {
        126 => (2, 0),
        127 => (8, 0),
        short => (0, u64::from(short)),
    };
    let mask_bytes = if second & MASKED != 0 { 4 } else { 0 };
    if head.len() < 2 + length_bytes + mask_bytes {
        return None;
    }
    Some(head[2..2 + length_bytes].iter().fold(short, |length, &byte| length << 8 | u64::from(byte)))
}

/// A ping. What goes to a server is masked (section 5.3); of an empty payload the mask hides nothing.
pub fn ping(mask: Option<[u8; 4]>) -> Vec<u8> {
    control(PING, b"", mask)
}

/// A close with its status and a reason for people.
pub fn close(status: u16, reason: &str, mask: Option<[u8; 4]>) -> Vec<u8> {
    control(CLOSE, &[&status.to_be_bytes()[..], reason.as_bytes()].concat(), mask)
}

fn control(opcode: u8, payload: &[u8], mask: Option<[u8; 4]>) -> Vec<u8> {
    debug_assert!(payload.len() <= CONTROL_BYTES_MAX);
    let mut frame = vec![FIN | opcode, payload.len() as u8];
    match mask {
        None => frame.extend(payload),
        Some(mask) => {
            frame[1] |= MASKED;
            frame.extend(mask);
            frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        }
    }
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, payload: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { MASKED } else { 0 };
        let mut bytes = vec![opcode];
        match payload {
            0..126 => bytes.push(mask | payload as u8),
            126..0x1_0000 => {
                bytes.push(mask | 126);
                bytes.extend((payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(mask | 127);
                bytes.extend((payload as u64).to_be_bytes());
            }
        }
        bytes.extend(vec![0x5a; if masked { 4 } else { 0 }]);
        // Payloads look like heads of frames.
        bytes.extend([0x88, 0x00].iter().cycle().take(payload));
        bytes
    }

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        assert_eq!(accept(b"dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let made = key([u64::MAX, 7]);
        assert_eq!((made.len(), &made[22..]), (24, &b"=="[..]));
    }

    #[test]
    fn boundaries_are_found_however_frames_are_torn() {
        for masked in [false, true] {
            for size in [0, 1, 125, 126, 127, 65_535, 65_536, 70_001] {
                let bytes = [frame(0x02, size, masked), frame(0x80, 3, masked)].concat();
                let ends = [frame(0x02, size, masked).len(), bytes.len()];
                for step in [1, 2, 3, 7, 4_096, usize::MAX] {
                    let mut frames = Frames::default();
                    let mut passed = 0;
                    for piece in bytes.chunks(step.min(bytes.len())) {
                        frames.pass(piece);
                        passed += piece.len();
                        assert_eq!(frames.is_between(), ends.contains(&passed), "{size} masked {masked} by {step}");
                    }
                }
            }
        }
    }

    #[test]
    fn nothing_is_said_behind_a_close() {
        let mut frames = Frames::default();
        assert!(frames.is_between());
        frames.pass(&frame(0x88, 2, true));
        assert!(!frames.is_between());
    }

    #[test]
    fn frames_of_our_own_are_legal() {
        assert_eq!(ping(None), [0x89, 0]);
        assert_eq!(ping(Some([1, 2, 3, 4])), [0x89, 0x80, 1, 2, 3, 4]);
        assert_eq!(close(1001, "x", None), [0x88, 3, 0x03, 0xe9, b'x']);
        assert_eq!(close(1001, "", Some([0xff, 0, 0, 0])), [0x88, 0x82, 0xff, 0, 0, 0, 0xfc, 0xe9]);
    }
}
