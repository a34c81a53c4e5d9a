//! A simulated origin: serves one upstream connection as its script says.

use std::net::SocketAddr;
use std::rc::Rc;

use ringway::net::io::Io;
use ringway::net::mem::{Mem, MemWrite};

use crate::exec::Handle;
use crate::plan::{After, Answer, Damage, Framing, answer_tag, request_tag};
use crate::rng::Rng;
use crate::wire::{self, Head, Incoming, Piece};
use crate::world::{Attempt, World};

/// How long an origin that stalls does so: longer than any deadline.
const STALL_MS: u64 = 9_000;

pub struct Origin {
    world: Rc<World>,
    handle: Handle,
    address: SocketAddr,
    name: String,
    rng: Rng,
    /// The gateway reads in one piece what is sent in one piece.
    clean: bool,
}

/// Longest answer with unasked bytes behind it: they must come in the same read, for an idle connection that is reused
/// at once is not probed, and bytes that come later cannot be told from an answer.
const EXTRA_BYTES_MAX: usize = 1_000;

const EXTRA: &[u8] = b"HTTP/1.1 200 OK\r\nX-Tag: 9999.0.0\r\nContent-Length: 6\r\n\r\nforged";

/// Whether the connection goes on.
#[derive(PartialEq, Eq)]
enum Next {
    Request,
    Gone,
}

/// Serves a connection until either side ends it.
pub async fn serve(mut origin: Origin, io: Mem) {
    let (read, mut write, _) = io.split();
    let mut incoming = Incoming::new(read);
    loop {
        let Some(head) = incoming.head().await else { break };
        if origin.answer(head, &mut incoming, &mut write).await == Next::Gone {
            break;
        }
    }
    origin.check_rest(&incoming.raw);
}

impl Origin {
    pub fn new(world: Rc<World>, handle: Handle, address: SocketAddr, name: String, clean: bool, rng: Rng) -> Self {
        Self { world, handle, address, name, rng, clean }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.note(self.handle.now_ms(), format_args!("{} {what}", self.name));
    }

    /// A request that was cut inside its head counts as delivered if it may not be repeated.
    fn check_rest(&self, rest: &[u8]) {
        let Some((conn, at)) = std::str::from_utf8(rest).ok().and_then(|text| place(text.split(' ').nth(1)?)) else {
            return;
        };
        let request = &self.world.clients[conn].requests[at];
        let others = self.world.attempts_of(conn, at).len();
        assert!(others == 0 || request.repeatable(), "{} {conn}/{at} went out once more, in part", request.method);
    }

    async fn answer(&mut self, head: Head, incoming: &mut Incoming, write: &mut MemWrite) -> Next {
        let (conn, at) = place(&head.start[1]).unwrap_or_else(|| panic!("a path that nobody sent: {head:?}"));
        self.check_head(&head, conn, at);
        let number = self.world.attempts_of(conn, at).len();
        let mut rng = Rng::of(&[self.world.seed, conn as u64, at as u64, number as u64]);
        let drawn = Answer::draw(&mut rng, &self.world.scale);
        let answer = self.world.script.as_ref().map_or(drawn, |script| script(number));
        self.note(format_args!("is asked {} {conn}/{at} ({number}): {answer:?}", head.start[0]));
        let has_body = head.start[0] != "HEAD" && !matches!(answer.status, 204 | 304);
        let body = if has_body { wire::body(&answer_tag(conn, at, number), answer.bytes) } else { Vec::new() };
        let attempt = Attempt { answer, body, at_ms: self.handle.now_ms() };
        let attempt = self.world.deliver(conn, at, attempt);
        let early = attempt.answer.early;
        if !early && !self.read_body(&head, conn, at, incoming).await {
            return Next::Gone;
        }
        let tag = format!("{conn}.{at}.{number}");
        if !self.send(&attempt, &tag, &head, has_body, write).await {
            return Next::Gone;
        }
        if early && !self.read_body(&head, conn, at, incoming).await {
            return Next::Gone;
        }
        self.leave(&attempt.answer, has_body, write).await
    }

    fn check_head(&self, head: &Head, conn: usize, at: usize) {
        let request = &self.world.clients[conn].requests[at];
        assert_eq!(head.start[0], request.method, "{conn}/{at}");
        assert_eq!(head.start[2], "HTTP/1.1");
        assert_eq!(head.get("host"), Some("sim"));
        assert!(head.get("expect").is_none() && head.get("connection").is_none(), "{head:?}");
        assert_eq!(head.framing().is_some(), request.body.is_some(), "framing of {conn}/{at}: {head:?}");
    }

    /// Reads the request's body and compares it with what the client sends. False when it is cut.
    async fn read_body(&self, head: &Head, conn: usize, at: usize, incoming: &mut Incoming) -> bool {
        let Some(mut framing) = head.framing() else { return true };
        let expected = self.world.clients[conn].requests[at].body_bytes(&request_tag(conn, at));
        let mut got = Vec::new();
        loop {
            match incoming.piece(&mut framing).await {
                Piece::Data(data) => {
                    got.extend_from_slice(&data);
                    assert!(expected.starts_with(&got), "body of {conn}/{at}: {}", got.escape_ascii());
                }
                Piece::End => {
                    assert_eq!(got.len(), expected.len(), "the body of {conn}/{at} looks whole and is not");
                    return true;
                }
                Piece::Cut => {
                    self.note(format_args!("sees the body of {conn}/{at} cut"));
                    return false;
                }
            }
        }
    }

    /// Sends the answer, as far as its damage lets. False when the connection is over.
    async fn send(&mut self, attempt: &Attempt, tag: &str, head: &Head, has_body: bool, write: &mut MemWrite) -> bool {
        let answer = &attempt.answer;
        let bytes = self.bytes(attempt, tag, head, has_body);
        let cut = |part: usize| bytes.len() * part / 1_000;
        let count = match answer.damage {
            Damage::None | Damage::Garbage => bytes.len(),
            Damage::CloseAt(part) | Damage::ResetAt(part) | Damage::StallAt(part) => cut(part),
        };
        if !self.send_slowly(&bytes[..count], answer.pause_ms, write).await {
            return false;
        }
        match answer.damage {
            Damage::None => return true,
            Damage::ResetAt(_) => write.reset(),
            Damage::StallAt(_) => self.handle.sleep(STALL_MS).await,
            // The end of a body that the close delimits cannot be told from a cut.
            Damage::CloseAt(_) if answer.framing == Framing::Close && has_body => write.reset(),
            Damage::CloseAt(_) | Damage::Garbage => {}
        }
        false
    }

    async fn send_slowly(&mut self, bytes: &[u8], pause_ms: u64, write: &mut MemWrite) -> bool {
        let parts = if pause_ms > 0 { 1 + self.rng.below(4) } else { 1 };
        for part in bytes.chunks((bytes.len() / parts).max(1)) {
            if pause_ms > 0 {
                self.handle.sleep(self.rng.below(pause_ms as usize) as u64).await;
            }
            if !wire::send(write, part).await {
                return false;
            }
        }
        true
    }

    fn bytes(&mut self, attempt: &Attempt, tag: &str, head: &Head, has_body: bool) -> Vec<u8> {
        let answer = &attempt.answer;
        if answer.damage == Damage::Garbage {
            return self
                .rng
                .pick(&[&b"garbage\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b"\0"])
                .to_vec();
        }
        let mut text = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(answer.interim);
        text += &format!("HTTP/1.1 {} Sim\r\nX-Tag: {tag}\r\nX-Origin: {}\r\n", answer.status, self.address);
        if answer.after == After::Close {
            text += "Connection: close\r\n";
        }
        let mut body = attempt.body.clone();
        match answer.framing {
            _ if answer.status == 204 => {}
            Framing::Length if head.start[0] == "HEAD" || answer.status == 304 => {
                text += &format!("Content-Length: {}\r\n", answer.bytes);
            }
            Framing::Length => text += &format!("Content-Length: {}\r\n", body.len()),
            Framing::Chunked(size) => {
                text += "Transfer-Encoding: chunked\r\n";
                body = if has_body { wire::chunked(&body, size, answer.trailer) } else { Vec::new() };
            }
            Framing::Close => {}
        }
        let closes = answer.framing == Framing::Close && has_body;
        let sends_extra = answer.after == After::Extra && !closes && self.clean && body.len() < EXTRA_BYTES_MAX;
        let extra = if sends_extra && answer.pause_ms == 0 && !attempt.is_damaged() { EXTRA } else { b"" };
        [text.as_bytes(), b"\r\n", &body, extra].concat()
    }

    async fn leave(&mut self, answer: &Answer, has_body: bool, write: &mut MemWrite) -> Next {
        if answer.framing == Framing::Close && has_body {
            return Next::Gone;
        }
        match answer.after {
            After::Keep | After::Extra => return Next::Request,
            After::Close => {}
            After::Silent(ms) => self.handle.sleep(ms).await,
            After::Reset(ms) => {
                self.handle.sleep(ms).await;
                write.reset();
            }
        }
        Next::Gone
    }
}

/// Connection and request of a path such as `/c/3/1`.
fn place(path: &str) -> Option<(usize, usize)> {
    let (conn, at) = path.strip_prefix("/c/")?.split_once('/')?;
    Some((conn.parse().ok()?, at.parse().ok()?))
}
