//! An origin on threads: records the exact bytes that it receives and answers by script.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::client::{Head, chunked_end, find};
use super::{PATIENCE, eventually};

/// What an origin does for an answer, step by step.
pub enum Step {
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends them one by one, this far apart.
    Drip(Vec<u8>, Duration),
    /// Waits until the test says so.
    Await(Receiver<()>),
    /// Closes in an orderly way.
    Close,
    /// Resets the connection.
    Reset,
    /// Keeps the connection open without a word until the peer closes it.
    Hang,
}

/// A request as it arrived.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Number of its connection.
    pub connection: usize,
    /// The exact bytes, body framing included.
    pub raw: Vec<u8>,
    /// The head, without its last empty line.
    pub head: Head,
    /// The body, chunked coding removed.
    pub body: Vec<u8>,
    /// The trailer section as text.
    pub trailers: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.get(name)
    }

    /// `GET /path?query`
    pub fn line(&self) -> &str {
        self.head.start.trim_end_matches(" HTTP/1.1")
    }

    pub fn path(&self) -> &str {
        self.head.start.split(' ').nth(1).unwrap_or_default()
    }
}

type Script = dyn Fn(&Seen) -> Vec<Step> + Send + Sync;

/// An origin; ends with its guard.
pub struct Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    /// Bytes received, for each connection.
    received: Mutex<Vec<Vec<u8>>>,
    seen: Mutex<Vec<Seen>>,
    open: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    /// Whether the script runs behind the head, before the body is read.
    early: bool,
    script: Box<Script>,
}

/// `200 OK` with this body.
pub fn ok(body: impl AsRef<[u8]>) -> Vec<Step> {
    let body = body.as_ref();
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    vec![Step::Send(bytes)]
}

impl Origin {
    /// Answers each whole request by the script.
    pub fn start(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::begin(false, Box::new(script))
    }

    /// Answers each request as soon as its head is there.
    pub fn early(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::begin(true, Box::new(script))
    }

    /// Answers everything with `200 OK` and this body.
    pub fn fixed(body: &str) -> Self {
        let body = body.to_owned();
        Self::start(move |_| ok(&body))
    }

    /// Answers everything with these bytes.
    pub fn bytes(bytes: impl AsRef<[u8]>) -> Self {
        let bytes = bytes.as_ref().to_vec();
        Self::start(move |_| vec![Step::Send(bytes.clone())])
    }

    /// Answers with the request line that it saw.
    pub fn echo() -> Self {
        Self::start(|seen| ok(seen.line()))
    }

    /// The same at every address of the loopback network, on one port.
    pub fn everywhere(script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::begin_at(SocketAddr::from(([0, 0, 0, 0], 0)), false, Box::new(script))
    }

    /// As [`Self::fixed`], at an address where there was one before.
    pub fn fixed_at(address: SocketAddr, body: &str) -> Self {
        let body = body.to_owned();
        Self::begin_at(address, false, Box::new(move |_| ok(&body)))
    }

    pub fn start_at(address: SocketAddr, script: impl Fn(&Seen) -> Vec<Step> + Send + Sync + 'static) -> Self {
        Self::begin_at(address, false, Box::new(script))
    }

    fn begin(early: bool, script: Box<Script>) -> Self {
        Self::begin_at(SocketAddr::from(([127, 0, 0, 1], 0)), early, script)
    }

    fn begin_at(address: SocketAddr, early: bool, script: Box<Script>) -> Self {
        let listener = eventually("a port", || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            received: Mutex::default(),
            seen: Mutex::default(),
            open: Mutex::default(),
            ended: AtomicBool::new(false),
            early,
            script,
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                theirs.take(stream);
            }
        });
        Self { address, shared }
    }

    /// How many connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.received.lock().expect("bytes").len()
    }

    /// All bytes that have arrived.
    pub fn received(&self) -> Vec<u8> {
        self.shared.received.lock().expect("bytes").concat()
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("requests").clone()
    }

    /// Waits for so many requests.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Seen> {
        eventually(&format!("{count} requests at the origin"), || {
            let seen = self.seen();
            (seen.len() >= count).then_some(seen)
        })
    }

    /// Waits until so many bytes of all connections have arrived.
    #[track_caller]
    pub fn wait_bytes(&self, count: usize) {
        eventually(&format!("{count} bytes at the origin"), || (self.received().len() >= count).then_some(()));
    }

    /// The last request.
    #[track_caller]
    pub fn last(&self) -> Seen {
        self.wait(1).pop().expect("a request")
    }

    /// Closes all connections, as an origin does that has waited long enough for the next request.
    pub fn close_connections(&self) {
        for stream in self.shared.open.lock().expect("streams").drain(..) {
            // It may have been closed by the peer.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.close_connections();
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn take(self: &Arc<Self>, stream: TcpStream) {
        stream.set_nodelay(true).expect("an option");
        stream.set_read_timeout(Some(2 * PATIENCE)).expect("an option");
        self.open.lock().expect("streams").push(stream.try_clone().expect("a descriptor"));
        let connection = {
            let mut received = self.received.lock().expect("bytes");
            received.push(Vec::new());
            received.len() - 1
        };
        let shared = self.clone();
        thread::spawn(move || Conversation { shared, stream, connection, carry: Vec::new() }.run());
    }
}

struct Conversation {
    shared: Arc<Shared>,
    stream: TcpStream,
    connection: usize,
    carry: Vec<u8>,
}

impl Conversation {
    fn run(mut self) {
        while let Some(mut seen) = self.read_head() {
            let early = self.shared.early;
            if early {
                self.shared.seen.lock().expect("requests").push(seen.clone());
                let steps = (self.shared.script)(&seen);
                if !self.play(steps) || self.read_body(&mut seen).is_none() {
                    return;
                }
                continue;
            }
            if self.read_body(&mut seen).is_none() {
                return;
            }
            // The script first: whoever waits for the request may count on the script having seen it.
            let steps = (self.shared.script)(&seen);
            self.shared.seen.lock().expect("requests").push(seen);
            if !self.play(steps) {
                return;
            }
        }
    }

    fn more(&mut self) -> Option<()> {
        let mut bytes = [0; 65_536];
        let count = self.stream.read(&mut bytes).ok().filter(|&count| count > 0)?;
        self.carry.extend_from_slice(&bytes[..count]);
        self.shared.received.lock().expect("bytes")[self.connection].extend_from_slice(&bytes[..count]);
        Some(())
    }

    fn read_head(&mut self) -> Option<Seen> {
        let end = loop {
            match find(&self.carry, b"\r\n\r\n") {
                Some(at) => break at + 4,
                None => self.more()?,
            }
        };
        let raw: Vec<u8> = self.carry.drain(..end).collect();
        Some(Seen { connection: self.connection, head: Head::parse(&raw), raw, ..Seen::default() })
    }

    fn read_body(&mut self, seen: &mut Seen) -> Option<()> {
        if seen.head.is_chunked() {
            loop {
                if let Some((used, body, trailers)) = chunked_end(&self.carry) {
                    seen.raw.extend(self.carry.drain(..used));
                    (seen.body, seen.trailers) = (body, trailers);
                    return Some(());
                }
                self.more()?;
            }
        }
        let length = seen.head.length().unwrap_or(0);
        while self.carry.len() < length {
            self.more()?;
        }
        seen.body = self.carry.drain(..length).collect();
        seen.raw.extend_from_slice(&seen.body);
        Some(())
    }

    /// Returns whether the connection goes on.
    fn play(&mut self, steps: Vec<Step>) -> bool {
        for step in steps {
            let sent = match step {
                Step::Send(bytes) => self.stream.write_all(&bytes),
                Step::Drip(bytes, pause) => bytes.iter().try_for_each(|byte| {
                    thread::park_timeout(pause);
                    self.stream.write_all(&[*byte])
                }),
                Step::Await(go) => {
                    // A test that has ended says nothing more.
                    let _ = go.recv_timeout(PATIENCE);
                    Ok(())
                }
                Step::Close => {
                    let _ = self.stream.shutdown(Shutdown::Write);
                    while self.more().is_some() {}
                    return false;
                }
                Step::Reset => {
                    let linger = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
                    linger.expect("an option");
                    self.forget();
                    return false;
                }
                Step::Hang => {
                    while self.more().is_some() {}
                    return false;
                }
            };
            if sent.is_err() {
                return false;
            }
        }
        true
    }

    /// Drops the other descriptor of this connection, so that dropping ours ends it.
    fn forget(&self) {
        let own = self.stream.peer_addr().ok();
        self.shared.open.lock().expect("streams").retain(|stream| stream.peer_addr().ok() != own);
    }
}
