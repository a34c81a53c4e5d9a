//! A second, simple reading of HTTP/1, so that the gateway's parser is not judged by itself.

use ringway::net::io::{ReadHalf, send_all};
use ringway::net::mem::{MemRead, MemWrite};
use ringway::sys::buf::Buf;

/// A message head: its start line, and its fields with names in lower case.
#[derive(Clone, Debug, Default)]
pub struct Head {
    pub start: Vec<String>,
    pub fields: Vec<(String, String)>,
}

impl Head {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The framing that the fields declare; None without any.
    pub fn framing(&self) -> Option<Framing> {
        let chunked = self.get("transfer-encoding").map(|_| Framing::Size);
        let known = || Some(Framing::Length(self.get("content-length")?.parse().expect("a number")));
        assert!(chunked.is_none() || self.get("content-length").is_none(), "two framings: {self:?}");
        chunked.or_else(known)
    }
}

/// Where in a body a reader stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// So many bytes are left.
    Length(usize),
    /// Before a chunk-size line.
    Size,
    /// Inside a chunk of which so many bytes are left.
    Data(usize),
    /// In the trailer section.
    Trailer,
    /// Everything up to the close.
    Close,
}

/// How reading a message went on.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece {
    Data(Vec<u8>),
    End,
    /// The connection ended first.
    Cut,
}

/// The reading half with what was read ahead.
pub struct Incoming {
    read: MemRead,
    pub raw: Vec<u8>,
    /// Bytes read in all.
    pub total: usize,
    /// How it ended: None while open.
    pub was_reset: Option<bool>,
}

impl Incoming {
    pub fn new(read: MemRead) -> Self {
        Self { read, raw: Vec::new(), total: 0, was_reset: None }
    }

    /// Reads on; false at the end.
    pub async fn more(&mut self) -> bool {
        let (count, buf) = self.read.recv(Buf::small()).await;
        match count {
            Ok(count) if count > 0 => {
                self.raw.extend_from_slice(buf.as_slice());
                self.total += count;
                true
            }
            ended => {
                self.was_reset = Some(ended.is_err());
                false
            }
        }
    }

    /// The next head; None when the connection ends before it is whole.
    pub async fn head(&mut self) -> Option<Head> {
        loop {
            if let Some(end) = find(&self.raw, b"\r\n\r\n") {
                let bytes: Vec<u8> = self.raw.drain(..end + 4).collect();
                return Some(parse(&bytes[..end]));
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// The next piece of a body.
    pub async fn piece(&mut self, framing: &mut Framing) -> Piece {
        loop {
            if let Some(piece) = self.ready(framing) {
                return piece;
            }
            if !self.more().await {
                let whole = *framing == Framing::Close && self.was_reset == Some(false);
                return if whole { Piece::End } else { Piece::Cut };
            }
        }
    }

    fn ready(&mut self, framing: &mut Framing) -> Option<Piece> {
        match *framing {
            Framing::Length(0) => Some(Piece::End),
            Framing::Length(left) | Framing::Data(left) if left > 0 => {
                let count = left.min(self.raw.len());
                let left = left - count;
                *framing =
                    if matches!(framing, Framing::Data(_)) { Framing::Data(left) } else { Framing::Length(left) };
                (count > 0).then(|| Piece::Data(self.raw.drain(..count).collect()))
            }
            Framing::Close => (!self.raw.is_empty()).then(|| Piece::Data(std::mem::take(&mut self.raw))),
            _ => self.line(framing),
        }
    }

    /// A line of the chunked coding.
    fn line(&mut self, framing: &mut Framing) -> Option<Piece> {
        loop {
            let end = find(&self.raw, b"\r\n")?;
            let line: Vec<u8> = self.raw.drain(..end + 2).collect();
            let line = std::str::from_utf8(&line[..end]).expect("a text line");
            match *framing {
                Framing::Data(_) => {
                    assert!(line.is_empty(), "no line end behind a chunk: {line:?}");
                    *framing = Framing::Size;
                }
                Framing::Trailer if line.is_empty() => {
                    *framing = Framing::Length(0);
                    return Some(Piece::End);
                }
                Framing::Trailer => assert!(line.contains(':'), "no trailer: {line:?}"),
                _ => {
                    let size = usize::from_str_radix(line, 16).unwrap_or_else(|_| panic!("no chunk size: {line:?}"));
                    *framing = if size == 0 { Framing::Trailer } else { Framing::Data(size) };
                    if size > 0 {
                        return self.ready(framing);
                    }
                }
            }
        }
    }
}

pub fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn parse(bytes: &[u8]) -> Head {
    let text = std::str::from_utf8(bytes).expect("a text head");
    let mut lines = text.split("\r\n");
    let start = lines.next().expect("one").splitn(3, ' ').map(str::to_owned).collect();
    let field = |line: &str| {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("no field: {line:?}"));
        (name.to_ascii_lowercase(), value.to_owned())
    };
    Head { start, fields: lines.map(field).collect() }
}

/// Sends all; false when the peer is gone.
pub async fn send(write: &mut MemWrite, bytes: &[u8]) -> bool {
    send_all(write, Buf::copy_of(bytes)).await.is_ok()
}

/// A body whose every part names where it belongs.
pub fn body(tag: &str, bytes: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(bytes + 24);
    while body.len() < bytes {
        let part = format!("<{tag}@{}>", body.len());
        body.extend_from_slice(part.as_bytes());
    }
    body.truncate(bytes);
    body
}

/// A body in the chunked coding, in chunks of `size`.
pub fn chunked(body: &[u8], size: usize, trailer: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 64);
    for chunk in body.chunks(size.max(1)) {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(if trailer { b"0\r\nX-Trailer: t\r\n\r\n" } else { b"0\r\n\r\n" });
    out
}
