//! Clients that ask all the time and count what goes wrong: what reloads and upgrades must not disturb (F01, F03).

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::client::{Client, Response};
use super::eventually;

/// What the clients saw.
#[derive(Debug, Default)]
pub struct Counts {
    /// Requests answered in full.
    pub answered: AtomicUsize,
    /// Connections that were not taken.
    pub refused: AtomicUsize,
    /// Requests without a whole 200.
    pub lost: AtomicUsize,
    /// Kept connections that ended without a word, found at the next request.
    pub cut: AtomicUsize,
    /// Kept connections that ended with a `Connection: close`.
    pub announced: AtomicUsize,
    /// Slow requests answered in full.
    pub slow: AtomicUsize,
}

/// Clients at work until they are stopped.
pub struct Load {
    pub counts: Arc<Counts>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    /// `fresh` clients that come anew for each request, `kept` that keep their connection, `slow` whose requests to
    /// `/slow` take their time.
    pub fn start(address: SocketAddr, fresh: usize, kept: usize, slow: usize) -> Self {
        let (counts, stop) = (Arc::<Counts>::default(), Arc::<AtomicBool>::default());
        let kinds = [(fresh, ask_anew as fn(SocketAddr, &Counts, &AtomicBool)), (kept, ask_on), (slow, ask_slowly)];
        let mut threads = Vec::new();
        for (count, ask) in kinds {
            for _ in 0..count {
                let (counts, stop) = (counts.clone(), stop.clone());
                threads.push(thread::spawn(move || ask(address, &counts, &stop)));
            }
        }
        let load = Self { counts, stop, threads };
        load.wait(20);
        load
    }

    /// Waits for so many more answers.
    #[track_caller]
    pub fn wait(&self, more: usize) {
        let before = self.counts.answered.load(Ordering::Relaxed);
        eventually("the clients are answered", || {
            (self.counts.answered.load(Ordering::Relaxed) >= before + more).then_some(())
        });
    }

    /// Stops the clients, and fails when one of them was refused, lost a request or was cut.
    #[track_caller]
    pub fn finish(self) -> Arc<Counts> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a client");
        }
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        let bad = [of(&self.counts.refused), of(&self.counts.lost), of(&self.counts.cut)];
        assert_eq!(bad, [0, 0, 0], "refused, lost, cut: {:?}", self.counts);
        self.counts
    }
}

fn ask_anew(address: SocketAddr, counts: &Counts, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut client) = connect(address, counts) else { continue };
        client.try_send("GET /fresh HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
        let response = client.try_response(false);
        count(counts, response.as_ref());
        thread::park_timeout(Duration::from_millis(5));
    }
}

fn ask_on(address: SocketAddr, counts: &Counts, stop: &AtomicBool) {
    let mut kept = connect(address, counts);
    while !stop.load(Ordering::Relaxed) {
        let Some(client) = kept.as_mut() else {
            kept = connect(address, counts);
            continue;
        };
        client.try_send("GET /kept HTTP/1.1\r\nHost: t\r\n\r\n");
        let response = client.try_response(false);
        match &response {
            // Every close before this request would have been announced by the response before it.
            None => counts.cut.fetch_add(1, Ordering::Relaxed),
            response => count(counts, response.as_ref()),
        };
        if response.is_none_or(|response| response.closes()) {
            counts.announced.fetch_add(1, Ordering::Relaxed);
            kept = None;
        }
        thread::park_timeout(Duration::from_millis(20));
    }
}

fn ask_slowly(address: SocketAddr, counts: &Counts, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let Some(mut client) = connect(address, counts) else { continue };
        client.try_send("GET /slow HTTP/1.1\r\nHost: t\r\n\r\n");
        let response = client.try_response(false);
        if count(counts, response.as_ref()) == 0 {
            counts.slow.fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn connect(address: SocketAddr, counts: &Counts) -> Option<Client> {
    match TcpStream::connect(address) {
        Ok(stream) => Some(Client::over(stream)),
        Err(_) => {
            counts.refused.fetch_add(1, Ordering::Relaxed);
            None
        }
    }
}

/// Returns 0 for a whole 200.
fn count(counts: &Counts, response: Option<&Response>) -> usize {
    let whole = response.is_some_and(|response| response.status == 200 && response.complete);
    let counter = if whole { &counts.answered } else { &counts.lost };
    counter.fetch_add(1, Ordering::Relaxed);
    usize::from(!whole)
}
