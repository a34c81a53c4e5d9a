//! A client that sends exact bytes and shows exact bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// The head of a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Request or status line.
    pub start: String,
    /// Field lines in order, names as they were sent.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Reads a head up to its empty line.
    pub fn parse(bytes: &[u8]) -> Self {
        let text: String = bytes.iter().map(|&byte| byte as char).collect();
        let mut lines = text.split("\r\n");
        let start = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| line.split_once(':').map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
        Self { start, fields: lines.take_while(|line| !line.is_empty()).filter_map(field).collect() }
    }

    /// The only field of this name.
    #[track_caller]
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() < 2, "several {name}: {self:?}");
        all.first().copied()
    }

    /// All fields of this name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let is_wanted = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(is_wanted).map(|(_, value)| value.as_str()).collect()
    }

    pub fn is_chunked(&self) -> bool {
        self.get("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }

    pub fn length(&self) -> Option<usize> {
        self.get("content-length").and_then(|length| length.parse().ok())
    }
}

/// A response.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    pub head: Head,
    /// Without the chunked coding.
    pub body: Vec<u8>,
    pub trailers: String,
    /// Interim responses before it.
    pub interim: Vec<Head>,
    /// Whether its end was there; false for one that the connection's end cut off.
    pub complete: bool,
    /// Whether the body came chunked.
    pub chunked: bool,
}

impl Response {
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub fn json(&self) -> Value {
        match serde_json::from_slice(&self.body) {
            Ok(value) => value,
            Err(error) => panic!("{error} in {self:?}"),
        }
    }

    /// The reason word of an error that the gateway made.
    #[track_caller]
    pub fn reason(&self) -> String {
        self.json()["reason"].as_str().unwrap_or_default().to_owned()
    }

    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }
}

/// A connection.
pub struct Client {
    pub stream: TcpStream,
    carry: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect_timeout(&address, PATIENCE).expect("connected"))
    }

    /// A connection that exists; also the accepted end of one.
    #[track_caller]
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(PATIENCE)).expect("an option");
        stream.set_write_timeout(Some(PATIENCE)).expect("an option");
        Self { stream, carry: Vec::new() }
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
    }

    /// Sends what the peer takes; it may close in the middle.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.stream.write_all(bytes.as_ref()).is_ok()
    }

    /// Sends no more.
    pub fn shutdown_write(&self) {
        self.stream.shutdown(Shutdown::Write).expect("open");
    }

    /// A GET on this connection.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.response()
    }

    /// The response to something other than HEAD.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        self.try_response(false).expect("a response")
    }

    /// The response to HEAD.
    #[track_caller]
    pub fn head_response(&mut self) -> Response {
        self.try_response(true).expect("a response")
    }

    /// The next response; none when the connection ends before its head is whole.
    #[track_caller]
    pub fn try_response(&mut self, to_head: bool) -> Option<Response> {
        let mut response = Response::default();
        loop {
            let head = self.read_head()?;
            let status = head.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
            assert!((100..600).contains(&status), "not a response: {head:?}");
            if status >= 200 {
                (response.status, response.head) = (status, head);
                break;
            }
            response.interim.push(head);
        }
        self.read_body(&mut response, to_head);
        Some(response)
    }

    /// The next head, interim ones too.
    #[track_caller]
    pub fn read_head(&mut self) -> Option<Head> {
        let end = loop {
            match find(&self.carry, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None if self.more() => {}
                None => return None,
            }
        };
        let bytes: Vec<u8> = self.carry.drain(..end).collect();
        Some(Head::parse(&bytes))
    }

    #[track_caller]
    fn read_body(&mut self, response: &mut Response, to_head: bool) {
        response.complete = true;
        if to_head || matches!(response.status, 204 | 304) {
            return;
        }
        if response.head.is_chunked() {
            response.chunked = true;
            return self.read_chunked(response);
        }
        let Some(length) = response.head.length() else {
            response.body = self.read_to_end();
            return;
        };
        while self.carry.len() < length {
            if !self.more() {
                response.complete = false;
                break;
            }
        }
        response.body = self.carry.drain(..length.min(self.carry.len())).collect();
    }

    #[track_caller]
    fn read_chunked(&mut self, response: &mut Response) {
        loop {
            if let Some((used, body, trailers)) = chunked_end(&self.carry) {
                self.carry.drain(..used);
                (response.body, response.trailers) = (body, trailers);
                return;
            }
            if !self.more() {
                response.complete = false;
                response.body = std::mem::take(&mut self.carry);
                return;
            }
        }
    }

    /// Waits until so many bytes have arrived that no response has taken yet.
    #[track_caller]
    pub fn peek(&mut self, count: usize) -> &[u8] {
        while self.carry.len() < count && self.more() {}
        &self.carry
    }

    /// Waits for so many bytes and takes them; fewer when the connection ends.
    #[track_caller]
    pub fn take(&mut self, count: usize) -> Vec<u8> {
        while self.carry.len() < count && self.more() {}
        self.carry.drain(..count.min(self.carry.len())).collect()
    }

    /// How many bytes have arrived that nothing has taken yet.
    pub fn carried(&self) -> usize {
        self.carry.len()
    }

    /// Everything until the peer closes.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Vec<u8> {
        while self.more() {}
        std::mem::take(&mut self.carry)
    }

    /// Whether the peer closes now without another byte.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        self.read_to_end().is_empty()
    }

    /// Reads on. False when the connection has ended.
    #[track_caller]
    fn more(&mut self) -> bool {
        let mut bytes = [0; 65_536];
        match self.stream.read(&mut bytes) {
            Ok(count) => {
                self.carry.extend_from_slice(&bytes[..count]);
                count > 0
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                panic!("nothing came within {PATIENCE:?}; so far: {:?}", String::from_utf8_lossy(&self.carry))
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) => {
                eprintln!("the connection ended: {error}");
                false
            }
        }
    }
}

/// Where a sequence begins.
pub fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

/// A whole chunked body at the front of the bytes: how long it is, what it says, its trailer section.
pub fn chunked_end(bytes: &[u8]) -> Option<(usize, Vec<u8>, String)> {
    // Cheap for a body that is still under way: each ends with an empty line.
    find(bytes, b"\r\n\r\n")?;
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let line_end = at + find(bytes.get(at..)?, b"\r\n")?;
        let line = std::str::from_utf8(&bytes[at..line_end]).expect("a chunk-size line");
        let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16).expect("a chunk size");
        at = line_end + 2;
        if size == 0 {
            break;
        }
        body.extend_from_slice(bytes.get(at..at + size)?);
        assert!(bytes.get(at + size..).is_none_or(|rest| rest.len() < 2 || rest.starts_with(b"\r\n")), "no CRLF");
        at += size + 2;
    }
    let mut trailers = String::new();
    loop {
        let line_end = at + find(bytes.get(at..)?, b"\r\n")?;
        let line = String::from_utf8_lossy(&bytes[at..line_end]).into_owned();
        at = line_end + 2;
        if line.is_empty() {
            return Some((at, body, trailers));
        }
        trailers.push_str(&line);
        trailers.push('\n');
    }
}
