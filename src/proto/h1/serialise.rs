//! Writing heads and chunks: only from the typed form, so that what leaves has one reading (D5).

use crate::http::body::Chunk;
use crate::http::decimal::Decimal;
use crate::http::fields::Fields;
use crate::http::message::reason_phrase;
use crate::http::name::NameSet;
use crate::sys::buf::Buf;

/// The last chunk of a body without trailers.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Writes `name: value CRLF`. Both were checked when they entered a section, or are the gateway's own.
#[inline]
pub fn field(out: &mut Buf, name: &[u8], value: &[u8]) {
    out.extend_all([name, b": ", value, b"\r\n"]);
}

/// Writes the lines of a section, but for those of `except`. Lines that arrived in just this form are passed on as they
/// are.
#[inline]
pub fn fields(out: &mut Buf, section: &Fields, except: NameSet) {
    for line in section.lines() {
        if except.has(line.id) {
            continue;
        }
        match section.verbatim(line) {
            Some(raw) => out.extend(raw),
            None => field(out, section.text(line.name), section.text(line.value)),
        }
    }
}

/// Writes `HTTP/1.1 status reason CRLF`.
#[inline]
pub fn status_line(out: &mut Buf, status: u16) {
    match status {
        200 => out.extend(b"HTTP/1.1 200 OK\r\n"),
        _ => {
            out.extend(b"HTTP/1.1 ");
            out.extend(&[
                b'0' + (status / 100 % 10) as u8,
                b'0' + (status / 10 % 10) as u8,
                b'0' + (status % 10) as u8,
            ]);
            out.extend(b" ");
            out.extend(reason_phrase(status).as_bytes());
            out.extend(b"\r\n");
        }
    }
}

/// Writes `Content-Length: number CRLF`.
#[inline]
pub fn content_length(out: &mut Buf, length: u64) {
    out.extend_all([b"Content-Length: ", Decimal::of(length).as_bytes(), b"\r\n"]);
}

/// Puts a piece of a body into the chunked coding, in place where the buffer has room around the payload.
pub fn chunk(piece: Chunk) -> Buf {
    let Chunk { mut data, end, trailers } = piece;
    if !data.is_empty() {
        let mut line = [0; 18];
        let length = size_line(data.len(), &mut line);
        if !data.prepend(&line[..length]) {
            let mut moved = Buf::with_room(data.len() + 64);
            moved.extend(&line[..length]);
            moved.extend(data.as_slice());
            data = moved;
        }
        data.extend(b"\r\n");
    }
    match trailers {
        _ if !end => {}
        None => data.extend(LAST_CHUNK),
        Some(trailers) => {
            data.extend(b"0\r\n");
            fields(&mut data, &trailers, NameSet::none());
            data.extend(b"\r\n");
        }
    }
    data
}

fn size_line(size: usize, line: &mut [u8; 18]) -> usize {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1) as usize;
    for (at, digit) in line.iter_mut().enumerate().take(digits) {
        *digit = b"0123456789abcdef"[size >> (4 * (digits - 1 - at)) & 15];
    }
    line[digits..digits + 2].copy_from_slice(b"\r\n");
    digits + 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::BUF_LARGE_BYTES;

    #[test]
    fn chunks_are_framed_whatever_their_size() {
        for size in [1, 15, 16, 255, 4096, BUF_LARGE_BYTES, BUF_LARGE_BYTES * 3] {
            let payload = vec![b'x'; size];
            let framed = chunk(Chunk { data: Buf::copy_of(&payload), end: true, trailers: None });
            let expected = [format!("{size:x}\r\n").as_bytes(), &payload, b"\r\n0\r\n\r\n"].concat();
            assert_eq!(framed.as_slice(), expected);
        }
        assert_eq!(chunk(Chunk::end()).as_slice(), b"0\r\n\r\n");
    }

    #[test]
    fn trailers_follow_the_last_chunk() {
        let mut trailers = Box::<Fields>::default();
        trailers.append(b"X-T", b"v").expect("legal");
        let framed = chunk(Chunk { data: Buf::copy_of(b"ab"), end: true, trailers: Some(trailers) });
        assert_eq!(framed.as_slice(), b"2\r\nab\r\n0\r\nX-T: v\r\n\r\n");
    }

    #[test]
    fn lengths_and_status_lines() {
        let mut out = Buf::small();
        content_length(&mut out, 1_234_567_890);
        assert_eq!(out.as_slice(), b"Content-Length: 1234567890\r\n");
        out.clear();
        status_line(&mut out, 404);
        status_line(&mut out, 599);
        assert_eq!(out.as_slice(), b"HTTP/1.1 404 Not Found\r\nHTTP/1.1 599 \r\n");
    }
}
