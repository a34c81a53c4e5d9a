//! An origin for comparisons: records the exact bytes of each connection, answers whatever looks like a request, and
//! never objects. It closes behind each answer, so that no case meets a connection of another.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::e2e::PATIENCE;
use super::e2e::client::find;

/// What every request gets unless a case says otherwise.
pub const PLAIN: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

const IDLE_PATIENCE: Duration = Duration::from_secs(20);

/// The origin. Its threads end with the process.
pub struct Recorder {
    pub address: SocketAddr,
    shared: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Bytes of each connection since the last [`Recorder::begin`].
    received: Vec<Vec<u8>>,
    answer: Vec<u8>,
    /// Who has connected in this round.
    accepted: Vec<SocketAddr>,
    /// Raised by [`Recorder::begin`]: what belongs to an earlier case is dropped.
    round: usize,
}

impl Recorder {
    pub fn start() -> Self {
        Self::patient(PATIENCE)
    }

    /// One that answers after `patience` what does not look complete.
    pub fn patient(patience: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Mutex::new(State { answer: PLAIN.to_vec(), ..State::default() }));
        let theirs = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // Here and not in its thread, so that who connected before a round began belongs to the one before it.
                let conversation = Conversation::new(stream, theirs.clone(), patience);
                thread::spawn(move || conversation.run());
            }
        });
        Self { address, shared }
    }

    /// Forgets what came so far; from now on requests get this answer.
    pub fn begin(&self, answer: &[u8]) {
        // Whoever connected before is accepted before: what comes late is not taken for the next case's.
        let marker = TcpStream::connect(self.address).expect("it listens");
        let connected = marker.local_addr().expect("an address");
        while !self.shared.lock().expect("state").accepted.contains(&connected) {
            thread::park_timeout(Duration::from_millis(1));
        }
        let mut state = self.shared.lock().expect("state");
        state.received.clear();
        state.accepted.clear();
        state.answer = answer.to_vec();
        state.round += 1;
    }

    /// The bytes of each connection that brought any.
    pub fn received(&self) -> Vec<Vec<u8>> {
        let state = self.shared.lock().expect("state");
        state.received.iter().filter(|bytes| !bytes.is_empty()).cloned().collect()
    }
}

struct Conversation {
    stream: TcpStream,
    state: Arc<Mutex<State>>,
    round: usize,
    number: usize,
    carry: Vec<u8>,
    /// How long a body is waited for that does not look complete.
    patience: Duration,
}

impl Conversation {
    fn new(stream: TcpStream, state: Arc<Mutex<State>>, patience: Duration) -> Self {
        stream.set_nodelay(true).expect("an option");
        let (round, number) = {
            let mut state = state.lock().expect("state");
            state.received.push(Vec::new());
            // One that has left already has no address.
            state.accepted.extend(stream.peer_addr());
            (state.round, state.received.len() - 1)
        };
        Self { stream, state, round, number, carry: Vec::new(), patience }
    }

    fn run(mut self) {
        while find(&self.carry, b"\r\n\r\n").is_none() && find(&self.carry, b"\n\n").is_none() {
            if !self.more(IDLE_PATIENCE) {
                return;
            }
        }
        while !looks_whole(&self.carry) && self.more(self.patience) {}
        let answer = self.state.lock().expect("state").answer.clone();
        // The peer may have left; then there is nobody to answer.
        let _ = self.stream.write_all(&answer);
        let _ = self.stream.shutdown(Shutdown::Write);
        while self.more(IDLE_PATIENCE) {}
    }

    fn more(&mut self, patience: Duration) -> bool {
        let mut bytes = [0; 65_536];
        self.stream.set_read_timeout(Some(patience)).expect("an option");
        let count = match self.stream.read(&mut bytes) {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(_) => 0,
        };
        self.carry.extend_from_slice(&bytes[..count]);
        let mut state = self.state.lock().expect("state");
        if state.round == self.round
            && let Some(record) = state.received.get_mut(self.number)
        {
            record.extend_from_slice(&bytes[..count]);
        }
        count > 0
    }
}

/// Whether a request, read as the most tolerant of servers would, has its body.
fn looks_whole(bytes: &[u8]) -> bool {
    let head_end = find(bytes, b"\r\n\r\n").map(|at| at + 4).unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..head_end]).to_ascii_lowercase();
    if head.contains("transfer-encoding") {
        return bytes[head_end..].ends_with(b"\r\n\r\n");
    }
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    bytes.len() >= head_end + length.unwrap_or(0usize)
}
