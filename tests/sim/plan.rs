//! What the peers of one seed will do.

use ringway::net::mem::Faults;

use crate::rng::Rng;
use crate::wire;

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: &'static str,
    pub target: Target,
    pub http10: bool,
    /// `Connection: close`.
    pub close: bool,
    pub expect: bool,
    pub body: Option<Body>,
    /// Pauses of at most this inside the message.
    pub pause_ms: u64,
}

/// Who is to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    Origin,
    Fixed,
    Missing,
}

#[derive(Clone, Copy, Debug)]
pub struct Body {
    pub bytes: usize,
    /// Chunks of this size, or a Content-Length.
    pub chunk: Option<usize>,
}

/// What a client does wrong, if anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Misdeed {
    None,
    /// Of its last message only so many thousandths leave; then this.
    Send(usize, Then),
    /// The last message has a broken chunk in it.
    BadChunk,
    /// It reads so many bytes; then this.
    Read(usize, Then),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Close,
    HalfClose,
    Reset,
    Stall,
}

#[derive(Clone, Debug)]
pub struct Client {
    pub requests: Vec<Request>,
    /// Requests that may be under way at once.
    pub window: usize,
    pub start_ms: u64,
    pub between_ms: u64,
    pub misdeed: Misdeed,
    pub capacity: usize,
    pub faults: [Faults; 2],
}

/// How one seed is made.
#[derive(Clone, Debug)]
pub struct Scale {
    /// Body bytes.
    pub bytes_max: usize,
    /// Bytes of a torn operation.
    pub torn_bytes: usize,
}

impl Scale {
    pub fn draw(rng: &mut Rng) -> Self {
        match rng.below(20) {
            0 => Self { bytes_max: 90_000, torn_bytes: 4_096 },
            1..=3 => Self { bytes_max: 6_000, torn_bytes: 300 },
            _ => Self { bytes_max: 300, torn_bytes: 9 },
        }
    }

    pub fn faults(&self, rng: &mut Rng) -> Faults {
        let mut torn = || if rng.one_in(3) { usize::MAX } else { 1 + rng.below(self.torn_bytes) };
        let (read_bytes_max, write_bytes_max) = (torn(), torn());
        let delay_one_in = rng.pick(&[0, 0, 2, 5]);
        Faults { seed: rng.next(), read_bytes_max, write_bytes_max, delay_one_in, reset_after_bytes: None }
    }

    pub fn capacity(&self, rng: &mut Rng) -> usize {
        rng.pick(&[self.torn_bytes * 4, 1 << 16, 1 << 20]).max(16)
    }

    fn bytes(&self, rng: &mut Rng) -> usize {
        match rng.below(4) {
            0 => rng.below(4),
            1 => rng.below(40),
            _ => rng.below(self.bytes_max),
        }
    }
}

impl Client {
    /// A client on a perfect connection.
    pub fn plain(requests: Vec<Request>, misdeed: Misdeed) -> Self {
        let faults = [Faults::NONE, Faults::NONE];
        Self { requests, window: 1, start_ms: 0, between_ms: 0, misdeed, capacity: 1 << 20, faults }
    }

    pub fn draw(rng: &mut Rng, scale: &Scale) -> Self {
        let count = 1 + rng.below(6);
        let mut requests: Vec<_> = (0..count).map(|_| Request::draw(rng, scale)).collect();
        // Only the last request asks for the close; a client that pipelines behind one loses what follows by right.
        let last = requests.len() - 1;
        requests[..last].iter_mut().for_each(|request| request.close = false);
        let misdeed = Misdeed::draw(rng, scale, requests[last].body);
        Self {
            requests,
            window: rng.pick(&[1, 1, 2, 8]),
            start_ms: rng.below(400) as u64,
            between_ms: rng.pick(&[0, 0, 0, 30, 300, 1_400]),
            misdeed,
            capacity: scale.capacity(rng),
            faults: [scale.faults(rng), scale.faults(rng)],
        }
    }
}

impl Request {
    /// A request without anything special.
    pub fn plain(method: &'static str, body: Option<Body>) -> Self {
        Self { method, target: Target::Origin, http10: false, close: false, expect: false, body, pause_ms: 0 }
    }

    fn draw(rng: &mut Rng, scale: &Scale) -> Self {
        let method = rng.pick(&["GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "PUT", "DELETE", "PATCH"]);
        let target = match rng.below(12) {
            0 => Target::Fixed,
            1 => Target::Missing,
            _ => Target::Origin,
        };
        let http10 = rng.one_in(10);
        let wanted = matches!(method, "POST" | "PUT" | "PATCH") || rng.one_in(12);
        let chunk = (!http10 && rng.one_in(2)).then(|| 1 + rng.below(scale.bytes_max / 2));
        let body = wanted.then(|| Body { bytes: scale.bytes(rng), chunk });
        let expect = body.is_some() && rng.one_in(5);
        let pause_ms = rng.pick(&[0, 0, 0, 0, 20, 90]);
        Self { method, target, http10, close: rng.one_in(3), expect, body, pause_ms }
    }

    pub fn repeatable(&self) -> bool {
        !matches!(self.method, "POST" | "PATCH")
    }

    pub fn body_bytes(&self, tag: &str) -> Vec<u8> {
        self.body.map(|body| wire::body(tag, body.bytes)).unwrap_or_default()
    }

    /// Head and body as they go onto the wire.
    pub fn bytes(&self, conn: usize, at: usize) -> (Vec<u8>, Vec<u8>) {
        let prefix = match self.target {
            Target::Origin => "c",
            Target::Fixed => "fixed",
            Target::Missing => "missing",
        };
        let version = if self.http10 { "1.0" } else { "1.1" };
        let mut head = format!("{} /{prefix}/{conn}/{at} HTTP/{version}\r\nHost: sim\r\n", self.method);
        match (self.close, self.http10) {
            (true, false) => head += "Connection: close\r\n",
            (false, true) => head += "Connection: keep-alive\r\n",
            _ => {}
        }
        if self.expect {
            head += "Expect: 100-continue\r\n";
        }
        let payload = self.body_bytes(&request_tag(conn, at));
        let body = match self.body {
            None => Vec::new(),
            Some(Body { chunk: Some(size), .. }) => {
                head += "Transfer-Encoding: chunked\r\n";
                wire::chunked(&payload, size, at.is_multiple_of(3))
            }
            Some(_) => {
                head += &format!("Content-Length: {}\r\n", payload.len());
                payload
            }
        };
        ((head + "\r\n").into_bytes(), body)
    }
}

impl Misdeed {
    fn draw(rng: &mut Rng, scale: &Scale, last_body: Option<Body>) -> Self {
        let then = rng.pick(&[Then::Close, Then::HalfClose, Then::Reset, Then::Stall]);
        match rng.below(12) {
            0 | 1 => Self::Send(rng.below(1_000), then),
            2 if last_body.is_some_and(|body| body.chunk.is_some() && body.bytes > 0) => Self::BadChunk,
            3 | 4 if then != Then::HalfClose => Self::Read(rng.below(scale.bytes_max), then),
            _ => Self::None,
        }
    }
}

/// What an origin does with one request.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub framing: Framing,
    pub bytes: usize,
    pub trailer: bool,
    /// Interim responses in front.
    pub interim: usize,
    /// It answers without waiting for the body.
    pub early: bool,
    pub pause_ms: u64,
    pub damage: Damage,
    pub after: After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked(usize),
    Close,
}

/// How an answer is spoilt; numbers are thousandths of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Damage {
    None,
    CloseAt(usize),
    ResetAt(usize),
    StallAt(usize),
    Garbage,
}

/// What becomes of the connection behind a whole answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    Keep,
    /// `Connection: close`, and so it does.
    Close,
    /// It closes without having said so, after a pause.
    Silent(u64),
    /// It resets without having said so.
    Reset(u64),
    /// It sends bytes that nobody asked for.
    Extra,
}

impl Answer {
    /// An answer without anything special.
    pub fn plain(framing: Framing, bytes: usize) -> Self {
        Self {
            status: 200,
            framing,
            bytes,
            trailer: false,
            interim: 0,
            early: false,
            pause_ms: 0,
            damage: Damage::None,
            after: After::Keep,
        }
    }

    pub fn draw(rng: &mut Rng, scale: &Scale) -> Self {
        let chunk = 1 + rng.below(scale.bytes_max / 2);
        let framing = rng.pick(&[Framing::Length, Framing::Length, Framing::Chunked(chunk), Framing::Close]);
        let at = rng.below(1_000);
        let damage = match rng.below(24) {
            0 => Damage::CloseAt(at),
            1 | 2 => Damage::ResetAt(at),
            3 => Damage::StallAt(at),
            4 => Damage::CloseAt(0),
            5 if rng.one_in(2) => Damage::Garbage,
            _ => Damage::None,
        };
        let pause = rng.pick(&[0, 40, 700]);
        let after = match rng.below(10) {
            0 => After::Close,
            1 => After::Silent(pause),
            2 => After::Reset(pause),
            3 => After::Extra,
            _ => After::Keep,
        };
        Self {
            status: rng.pick(&[200, 200, 200, 200, 204, 304, 404, 500]),
            framing,
            bytes: scale.bytes(rng),
            trailer: rng.one_in(3),
            interim: if rng.one_in(6) { 1 + rng.below(3) } else { 0 },
            early: rng.one_in(5),
            pause_ms: rng.pick(&[0, 0, 0, 20, 120]),
            damage,
            after,
        }
    }
}

pub fn request_tag(conn: usize, at: usize) -> String {
    format!("q{conn}.{at}")
}

pub fn answer_tag(conn: usize, at: usize, attempt: usize) -> String {
    format!("a{conn}.{at}.{attempt}")
}
