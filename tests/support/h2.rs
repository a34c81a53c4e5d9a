//! An HTTP/2 client over a raw socket: it sends whatever bytes a test wants, and reads frames.
#![allow(dead_code, reason = "shared by several test binaries")]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::hpack::decode::Decoder;
use ringway::sys::buf::Buf;

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const PATIENCE: Duration = Duration::from_secs(60);

/// The bytes of a frame.
pub fn raw(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u32).to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A block of literals that enter no table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut text = |text: &str| {
        assert!(text.len() < 16_000);
        match text.len() {
            short @ 0..127 => out.push(short as u8),
            long => {
                let rest = long - 127;
                out.extend([127, rest as u8 & 0x7f | 0x80, (rest >> 7) as u8]);
            }
        }
        out.extend(text.as_bytes());
    };
    let mut all = Vec::new();
    for (name, value) in fields {
        text(name);
        text(value);
    }
    // Each literal begins with its kind, before its name.
    let mut at = 0;
    for (name, value) in fields {
        all.push(0);
        let length = coded(name) + coded(value);
        all.extend(&out[at..at + length]);
        at += length;
    }
    all
}

fn coded(text: &str) -> usize {
    text.len() + if text.len() < 127 { 1 } else { 3 }
}

/// The pseudo-header fields of a request.
pub fn pseudo<'a>(method: &'a str, path: &'a str) -> Vec<(&'a str, &'a str)> {
    vec![(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]
}

/// HEADERS of a request without a body.
pub fn get(stream: u32, path: &str) -> Vec<u8> {
    raw(HEADERS, END_HEADERS | END_STREAM, stream, &block(&pseudo("GET", path)))
}

/// HEADERS of a request whose body follows.
pub fn post(stream: u32, path: &str) -> Vec<u8> {
    raw(HEADERS, END_HEADERS, stream, &block(&pseudo("POST", path)))
}

/// A frame of the gateway's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

impl Frame {
    /// The code of RST_STREAM or GOAWAY.
    pub fn code(&self) -> u32 {
        let at = if self.kind == GOAWAY { 4 } else { 0 };
        u32::from_be_bytes(self.payload[at..at + 4].try_into().expect("four bytes"))
    }
}

/// What came of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub interim: Vec<u16>,
    pub fields: Vec<(String, String)>,
    pub trailers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub ended: bool,
    pub reset: Option<u32>,
}

impl Answer {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// A connection.
pub struct H2 {
    pub stream: TcpStream,
    input: Vec<u8>,
    decoder: Decoder,
    pub answers: BTreeMap<u32, Answer>,
    pub goaway: Option<Frame>,
    pub closed: bool,
    /// Windows are given back for what comes.
    pub gives_room: bool,
}

impl H2 {
    /// A connection that has said nothing.
    pub fn silent(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("the gateway listens");
        stream.set_nodelay(true).expect("a socket");
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket");
        stream.set_write_timeout(Some(PATIENCE)).expect("a socket");
        Self {
            stream,
            input: Vec::new(),
            decoder: Decoder::default(),
            answers: BTreeMap::new(),
            goaway: None,
            closed: false,
            gives_room: true,
        }
    }

    /// A connection with these settings.
    pub fn with(address: SocketAddr, settings: &[(u16, u32)]) -> Self {
        let mut h2 = Self::silent(address);
        let mut payload = Vec::new();
        for (id, value) in settings {
            payload.extend(id.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        h2.send(&[PREFACE, &raw(SETTINGS, 0, 0, &payload)].concat());
        h2
    }

    pub fn connect(address: SocketAddr) -> Self {
        Self::with(address, &[])
    }

    /// Sends bytes. Returns whether they were taken: the gateway may have closed.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).is_ok()
    }

    /// The next frame; None when the connection is over.
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.take_frame() {
                return Some(frame);
            }
            let mut bytes = [0; 65_536];
            match self.stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(count) => self.input.extend(&bytes[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
                Err(error) => panic!("no frame: {error}"),
            }
        }
        self.closed = true;
        None
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let [a, b, c, kind, flags, s @ ..] = *self.input.first_chunk::<9>()?;
        let length = u32::from_be_bytes([0, a, b, c]) as usize;
        if self.input.len() < 9 + length {
            return None;
        }
        let payload = self.input[9..9 + length].to_vec();
        self.input.drain(..9 + length);
        Some(Frame { kind, flags, stream: u32::from_be_bytes(s), payload })
    }

    /// Reads a frame and takes it into account. Returns false when the connection is over.
    pub fn step(&mut self) -> bool {
        let Some(frame) = self.frame() else { return false };
        self.account(frame);
        true
    }

    fn account(&mut self, frame: Frame) {
        match frame.kind {
            HEADERS => self.head(frame),
            DATA => {
                let length = frame.payload.len() as u32;
                let answer = self.answers.entry(frame.stream).or_default();
                answer.body.extend(&frame.payload);
                answer.ended = frame.flags & END_STREAM != 0;
                if self.gives_room && length > 0 {
                    let by = length.to_be_bytes();
                    let stream = raw(WINDOW_UPDATE, 0, frame.stream, &by);
                    self.send(&[raw(WINDOW_UPDATE, 0, 0, &by), stream].concat());
                }
            }
            RESET => self.answers.entry(frame.stream).or_default().reset = Some(frame.code()),
            GOAWAY => self.goaway = Some(frame),
            SETTINGS if frame.flags & ACK == 0 => drop(self.send(&raw(SETTINGS, ACK, 0, b""))),
            PING if frame.flags & ACK == 0 => drop(self.send(&raw(PING, ACK, 0, &frame.payload))),
            _ => {}
        }
    }

    fn head(&mut self, frame: Frame) {
        let mut fragment = frame.payload;
        let mut flags = frame.flags;
        while flags & END_HEADERS == 0 {
            let more = self.frame().expect("a block ends");
            assert_eq!((more.kind, more.stream), (CONTINUATION, frame.stream));
            fragment.extend(more.payload);
            flags = more.flags;
        }
        let fields = decode(&mut self.decoder, &fragment);
        let answer = self.answers.entry(frame.stream).or_default();
        answer.ended = frame.flags & END_STREAM != 0;
        let status =
            fields.iter().find(|(name, _)| name == ":status").map(|(_, value)| value.parse().expect("a number"));
        match status {
            Some(status @ 100..200) => answer.interim.push(status),
            Some(status) => (answer.status, answer.fields) = (status, fields),
            None => answer.trailers = fields,
        }
    }

    /// The answer on a stream, once it has ended or the connection has.
    pub fn answer(&mut self, stream: u32) -> Answer {
        let due = Instant::now() + PATIENCE;
        loop {
            if let Some(answer) = self.answers.get(&stream)
                && (answer.ended || answer.reset.is_some())
            {
                return answer.clone();
            }
            assert!(Instant::now() < due, "no answer on {stream}");
            if !self.step() {
                return self.answers.get(&stream).cloned().unwrap_or_default();
            }
        }
    }

    /// Reads until the connection is over. Returns the code and the text of the GOAWAY, if there was one.
    pub fn end(&mut self) -> Option<(u32, String)> {
        while self.step() {}
        let frame = self.goaway.as_ref()?;
        Some((frame.code(), String::from_utf8_lossy(&frame.payload[8..]).into_owned()))
    }

    /// A PING and its answer: all that was sent before it has been read.
    pub fn ping(&mut self) -> bool {
        let payload = *b"are you?";
        self.send(&raw(PING, 0, 0, &payload));
        while let Some(frame) = self.frame() {
            if frame.kind == PING && frame.flags & ACK != 0 && frame.payload == payload {
                return true;
            }
            self.account(frame);
        }
        false
    }
}

fn decode(decoder: &mut Decoder, fragment: &[u8]) -> Vec<(String, String)> {
    let mut out = Buf::small();
    let mut lines = Vec::new();
    let limits = HeadLimits { header_bytes_max: 1 << 20, fields_max: 1_000, ..HeadLimits::default() };
    let fault = decoder
        .decode(fragment, &mut out, &limits, &mut |line| {
            lines.push(line);
            Ok(())
        })
        .expect("a block that decodes");
    assert_eq!(fault, None);
    let mut fields = ringway::http::fields::Fields::default();
    fields.set_buffer(out);
    let text = |text| String::from_utf8_lossy(fields.text(text)).into_owned();
    lines.iter().map(|line| (text(line.name), text(line.value))).collect()
}
