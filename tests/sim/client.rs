//! A simulated client: sends its requests, perhaps badly, and judges what comes back.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Poll, Waker};

use ringway::net::io::{Interrupt, Io};
use ringway::net::mem::{Mem, MemRead, MemWrite};

use crate::exec::Handle;
use crate::plan::{Misdeed, Request, Target, Then, answer_tag};
use crate::rng::Rng;
use crate::wire::{self, Framing, Head, Incoming, Piece};
use crate::world::World;

/// How long a client that stalls does so: longer than any deadline.
const STALL_MS: u64 = 9_000;

/// What the two halves of a client share.
pub struct Client {
    world: Rc<World>,
    handle: Handle,
    conn: usize,
    /// Final responses read.
    answered: Cell<usize>,
    continues: Cell<usize>,
    /// Requests that have begun to leave.
    begun: Cell<usize>,
    /// It has broken its reading off once.
    misread: Cell<bool>,
    /// The reading half is done.
    ended: Cell<bool>,
    waiting: RefCell<Vec<Waker>>,
    control: Rc<dyn Interrupt>,
}

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Whole, and the connection goes on.
    Whole,
    /// Whole, with the announcement of a close.
    Last,
    /// Without a visible end.
    Cut,
}

/// Starts a client's two tasks.
pub fn start(world: &Rc<World>, handle: &Handle, conn: usize, io: Mem) {
    let (read, write, control) = io.split();
    let client = Rc::new(Client {
        world: world.clone(),
        handle: handle.clone(),
        conn,
        answered: Cell::default(),
        continues: Cell::default(),
        begun: Cell::default(),
        misread: Cell::default(),
        ended: Cell::default(),
        waiting: RefCell::default(),
        control,
    });
    let rng = Rng::of(&[world.seed, 77, conn as u64]);
    handle.spawn(format!("client {conn} writes"), client.clone().write(write, rng));
    handle.spawn(format!("client {conn} reads"), client.read(read));
}

impl Client {
    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.world.note(self.handle.now_ms(), format_args!("client {} {what}", self.conn));
    }

    fn misdeed(&self) -> Misdeed {
        self.world.clients[self.conn].misdeed
    }

    fn requests(&self) -> &[Request] {
        &self.world.clients[self.conn].requests
    }

    fn wake(&self) {
        self.waiting.take().into_iter().for_each(Waker::wake);
    }

    async fn until(&self, mut holds: impl FnMut() -> bool) {
        poll_fn(|cx| {
            if self.ended.get() || holds() {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    async fn write(self: Rc<Self>, mut write: MemWrite, mut rng: Rng) {
        let plan = &self.world.clients[self.conn];
        for (at, request) in plan.requests.iter().enumerate() {
            self.until(|| at - self.answered.get() < plan.window).await;
            if plan.between_ms > 0 && at > 0 {
                self.handle.sleep(rng.below(plan.between_ms as usize) as u64).await;
            }
            self.begun.set(at + 1);
            let last = at + 1 == plan.requests.len();
            if self.ended.get() || !self.send(request, at, last, &mut write, &mut rng).await {
                break;
            }
        }
        // The writing half stays open until the answers are read, unless the client is one that closes half.
        self.until(|| self.answered.get() == plan.requests.len()).await;
    }

    async fn send(&self, request: &Request, at: usize, last: bool, write: &mut MemWrite, rng: &mut Rng) -> bool {
        let (head, mut body) = request.bytes(self.conn, at);
        let continues = self.continues.get();
        self.note(format_args!("sends {} {at} {:?}", request.method, request));
        if last && self.misdeed() == Misdeed::BadChunk {
            let last_chunk = body.windows(5).rposition(|window| window == b"\r\n0\r\n").map_or(0, |at| at + 2);
            body.splice(last_chunk.., b"broken\r\n".iter().copied());
        }
        if let (true, Misdeed::Send(part, then)) = (last, self.misdeed()) {
            let bytes = [head, body].concat();
            let count = bytes.len() * part / 1_000;
            if !self.send_slowly(&bytes[..count], request.pause_ms, write, rng).await {
                return false;
            }
            self.misbehave(then, Some(write)).await;
            return false;
        }
        if !self.send_slowly(&head, request.pause_ms, write, rng).await {
            return false;
        }
        if request.expect && !request.http10 && !body.is_empty() {
            // Whether the gateway asks for the body or answers without it.
            let answered = at + 1;
            self.until(|| self.continues.get() > continues || self.answered.get() >= answered).await;
            if self.answered.get() >= answered {
                return false;
            }
        }
        self.send_slowly(&body, request.pause_ms, write, rng).await
    }

    async fn send_slowly(&self, bytes: &[u8], pause_ms: u64, write: &mut MemWrite, rng: &mut Rng) -> bool {
        let parts = if pause_ms > 0 { 1 + rng.below(4) } else { 1 };
        for part in bytes.chunks((bytes.len() / parts).max(1)) {
            if pause_ms > 0 {
                self.handle.sleep(rng.below(pause_ms as usize) as u64).await;
            }
            if !wire::send(write, part).await {
                return false;
            }
        }
        true
    }

    async fn misbehave(&self, then: Then, write: Option<&mut MemWrite>) {
        self.note(format_args!("does {then:?}"));
        match (then, write) {
            (Then::Stall, _) => self.handle.sleep(STALL_MS).await,
            (Then::Reset, Some(write)) => write.reset(),
            (Then::HalfClose, _) => self.control.shutdown(Shutdown::Write),
            _ => self.control.shutdown(Shutdown::Both),
        }
    }

    async fn read(self: Rc<Self>, read: MemRead) {
        let mut incoming = Incoming::new(read);
        let mut ending = Ending::Whole;
        while ending == Ending::Whole {
            match self.response(&mut incoming).await {
                Some(next) => ending = next,
                None => break,
            }
        }
        if ending == Ending::Last {
            let more = incoming.more().await;
            assert!(!more || self.misreads(&incoming), "bytes behind the last response: {:?}", incoming.raw);
        }
        self.ended.set(true);
        self.wake();
        self.note(format_args!("ends with {} of {} answers, {ending:?}", self.answered.get(), self.begun.get()));
        self.judge(ending, &incoming);
    }

    /// Whether the client itself broke its reading off.
    fn misreads(&self, incoming: &Incoming) -> bool {
        matches!(self.misdeed(), Misdeed::Read(bytes, _) if incoming.total >= bytes)
    }

    /// Reads one final response. None at the end of the connection.
    async fn response(&self, incoming: &mut Incoming) -> Option<Ending> {
        let at = self.answered.get();
        let head = loop {
            self.maybe_misread(incoming).await;
            let head = incoming.head().await?;
            match head.start[1].as_str() {
                "100" => {
                    self.continues.set(self.continues.get() + 1);
                    self.wake();
                }
                "103" => assert!(!self.requests()[at].http10, "an interim response to HTTP/1.0"),
                _ => break head,
            }
        };
        assert!(at < self.begun.get(), "a response that nobody asked for: {head:?}");
        let request = &self.requests()[at];
        let status: u16 = head.start[1].parse().expect("a status");
        // The gateway cannot know that it answers a HEAD of which it has not seen the whole head.
        let guessed = matches!(status, 400 | 408) && head.get("content-length") != Some("0");
        let bodiless = (request.method == "HEAD" && !guessed) || matches!(status, 204 | 304);
        let mut framing = match bodiless {
            true => Framing::Length(0),
            false => head.framing().unwrap_or(Framing::Close),
        };
        let unclear = framing == Framing::Close;
        assert!(!unclear || request.http10, "a body without end for HTTP/1.1: {head:?}");
        let (body, whole) = self.body(&mut framing, incoming).await;
        self.check(at, status, &head, &body, whole && !unclear, bodiless);
        self.answered.set(at + 1);
        self.world.responses.set(self.world.responses.get() + 1);
        self.wake();
        self.note(format_args!("has answer {at}: {status} {:?} {} bytes, {whole}", head.get("x-tag"), body.len()));
        let closes = match request.http10 {
            true => head.get("connection") != Some("keep-alive"),
            false => head.get("connection") == Some("close"),
        };
        Some(if !whole || unclear {
            Ending::Cut
        } else if closes {
            Ending::Last
        } else {
            Ending::Whole
        })
    }

    async fn body(&self, framing: &mut Framing, incoming: &mut Incoming) -> (Vec<u8>, bool) {
        let mut body = Vec::new();
        loop {
            self.maybe_misread(incoming).await;
            match incoming.piece(framing).await {
                Piece::Data(data) => body.extend_from_slice(&data),
                Piece::End => return (body, true),
                Piece::Cut => return (body, false),
            }
        }
    }

    async fn maybe_misread(&self, incoming: &Incoming) {
        if let Misdeed::Read(_, then) = self.misdeed()
            && self.misreads(incoming)
            && !self.misread.replace(true)
        {
            self.misbehave(then, None).await;
        }
    }

    /// The response belongs to its request, and if it looks whole it is.
    fn check(&self, at: usize, status: u16, head: &Head, body: &[u8], whole: bool, bodiless: bool) {
        let (conn, request) = (self.conn, &self.requests()[at]);
        let Some(tag) = head.get("x-tag") else { return self.check_own(at, status, body, whole, bodiless) };
        let numbers: Vec<usize> = tag.split('.').map(|part| part.parse().expect("a number")).collect();
        assert_eq!(numbers[..2], [conn, at], "the answer to another request");
        let attempts = self.world.attempts_of(conn, at);
        assert_eq!(numbers[2] + 1, attempts.len(), "the answer of an attempt that was given up");
        let attempt = &attempts[numbers[2]];
        assert_eq!((status, request.target), (attempt.answer.status, Target::Origin));
        let full = wire::body(&answer_tag(conn, at, numbers[2]), if bodiless { 0 } else { attempt.answer.bytes });
        assert!(full.starts_with(body), "body of {conn}/{at}: {}", body.escape_ascii());
        assert!(
            !whole || (!attempt.is_damaged() && body.len() == full.len()),
            "an answer of {} of {} bytes looks whole and is not",
            body.len(),
            full.len()
        );
        let excused = request.http10 || self.misdeed() != Misdeed::None || attempt.may_be_cut(self.handle.now_ms());
        assert!(
            whole || excused,
            "cut without cause: {} of {} bytes, asked at {}",
            body.len(),
            full.len(),
            attempt.at_ms
        );
    }

    /// An answer that the gateway made.
    fn check_own(&self, at: usize, status: u16, body: &[u8], whole: bool, bodiless: bool) {
        let request = &self.requests()[at];
        let in_last = self.misdeed() != Misdeed::None && at + 1 == self.requests().len();
        let excused = in_last || self.misread.get();
        let attempts = self.world.attempts_of(self.conn, at);
        match (request.target, status) {
            (Target::Fixed, 200) => assert!(bodiless || !whole || body == b"fixed\n"),
            (Target::Missing, 404) => {}
            (Target::Origin, 502 | 504) => {}
            // All connections of late have failed (F29).
            (Target::Origin, 503) if bodiless || body.windows(11).any(|part| part == b"no_endpoint") => {}
            (_, 400 | 408) => assert!(excused, "{at}: {status} for a client that did nothing wrong"),
            _ => {
                panic!("the gateway answered {at} with {status}, {} attempts: {}", attempts.len(), body.escape_ascii())
            }
        }
        assert!(bodiless || !whole || status == 200 || body.starts_with(b"{\"error\""), "{}", body.escape_ascii());
        assert!(whole || self.misdeed() != Misdeed::None, "an answer of the gateway's own was cut");
    }

    /// Every request that was begun has its answer, or there is a reason why the connection ended before.
    fn judge(&self, ending: Ending, incoming: &Incoming) {
        let unanswered = self.begun.get() - self.answered.get();
        let excused = ending != Ending::Whole || self.misdeed() != Misdeed::None || self.world.draining.get();
        assert!(unanswered == 0 || excused, "{unanswered} requests without an answer, reset {:?}", incoming.was_reset);
    }
}
