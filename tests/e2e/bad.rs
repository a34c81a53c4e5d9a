//! One bad server of two: who it is, the clients in front, and what is counted.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::http2::wire::{self, H2};
use crate::support::h2_origin::H2Origin;
use crate::support::{Client, Gateway, Origin};

/// Requests of one row.
pub const REQUESTS: usize = 30;

/// A server that speaks HTTP, in one version or the other.
pub trait Serves {
    fn address(&self) -> SocketAddr;
    fn connections(&self) -> usize;
    /// The method and the path of each request that has reached it.
    fn arrived(&self) -> Vec<String>;
}

impl Serves for Origin {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn connections(&self) -> usize {
        Origin::connections(self)
    }

    fn arrived(&self) -> Vec<String> {
        self.seen().iter().map(|seen| seen.line().to_owned()).collect()
    }
}

impl Serves for H2Origin {
    fn address(&self) -> SocketAddr {
        self.address
    }

    fn connections(&self) -> usize {
        H2Origin::connections(self)
    }

    fn arrived(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.get(":method").unwrap_or_default(), seen.path())).collect()
    }
}

/// The bad server, while it lives.
pub enum Bad<O> {
    Origin(O),
    /// Its port is closed.
    Nobody(SocketAddr),
    Stranger(Stranger),
}

impl<O: Serves> Bad<O> {
    pub fn nobody() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        Bad::Nobody(listener.local_addr().expect("an address"))
    }

    /// Resets each connection as soon as it is there.
    pub fn resetter() -> Self {
        // Closing a socket that lingers for no time resets it.
        Bad::Stranger(Stranger::start(|stream| {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("an option");
        }))
    }

    /// Reads something, says this, and closes.
    pub fn speaker(says: &'static [u8]) -> Self {
        Bad::Stranger(Stranger::start(|mut stream| {
            // The gateway may have gone.
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(says);
        }))
    }

    pub fn address(&self) -> SocketAddr {
        match self {
            Bad::Origin(origin) => origin.address(),
            Bad::Nobody(address) => *address,
            Bad::Stranger(stranger) => stranger.address,
        }
    }

    pub fn arrived(&self) -> Vec<String> {
        if let Bad::Origin(origin) = self { origin.arrived() } else { Vec::new() }
    }

    /// Whether it was asked at all: a row without that shows nothing.
    pub fn was_asked(&self) -> bool {
        match self {
            Bad::Origin(origin) => origin.connections() > 0,
            Bad::Nobody(_) => true,
            Bad::Stranger(stranger) => stranger.accepted.load(Ordering::Relaxed) > 0,
        }
    }
}

/// Takes connections and does the same with each.
pub struct Stranger {
    address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

impl Stranger {
    fn start(with: impl Fn(TcpStream) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (accepted, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, end) = (accepted.clone(), ended.clone());
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                if end.load(Ordering::Relaxed) {
                    return;
                }
                count.fetch_add(1, Ordering::Relaxed);
                with(stream);
            }
        });
        Self { address, accepted, ended }
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
    }
}

/// What clients speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    Http1,
    /// HTTP/2 by prior knowledge.
    H2c,
}

/// What is done in one row.
pub struct Row<'a> {
    pub name: String,
    pub front: Front,
    pub method: &'a str,
    pub balancer: &'a str,
    /// Of the service, besides.
    pub more: &'a str,
    /// Requests that clients lose, at least and at most.
    pub lost: (usize, usize),
    /// How often a request reaches servers at most, where it may be repeated.
    pub arrivals: usize,
    /// What the bad server got is none of it: it says that it has not looked.
    pub is_unseen: bool,
}

impl Row<'_> {
    pub fn gateway<O: Serves>(&self, good: &O, bad: &Bad<O>) -> Gateway {
        Gateway::start(&format!(
            "listeners: [{{address: \"127.0.0.1:0\", protocols: [http1, h2c]}}]\n\
             services:\n  - name: up\n    endpoints: [\"{}\", \"{}\"]\n    load_balancer: {}\n{}\
             routes: [{{name: all, path: /*, service: up}}]\n",
            bad.address(),
            good.address(),
            self.balancer,
            self.more
        ))
    }

    /// Asks, and holds what clients and servers saw to what is allowed.
    #[track_caller]
    pub fn hold<O: Serves>(&self, good: &O, bad: &Bad<O>) {
        let gateway = self.gateway(good, bad);
        let lost = lost(self.front, gateway.address, self.method);
        let (least, most) = self.lost;
        let name = format!("{} {} {} {:?} in front", self.name, self.method, self.balancer, self.front);
        assert!((least..=most).contains(&lost), "{name}: {lost} of {REQUESTS} lost, allowed {least} to {most}");
        assert!(bad.was_asked(), "{name}: the bad server was not asked");
        let of_bad = bad.arrived().into_iter().filter(|_| !self.is_unseen);
        let mut counts = HashMap::<String, usize>::new();
        good.arrived().into_iter().chain(of_bad).for_each(|line| *counts.entry(line).or_default() += 1);
        for (line, count) in counts {
            let twice = self.method == "POST" && count > 1;
            assert!(!twice && count <= self.arrivals, "{name}: `{line}` reached servers {count} times");
        }
    }
}

/// Asks [`REQUESTS`] times, one after another. Returns how many did not get a whole `200`.
pub fn lost(front: Front, address: SocketAddr, method: &str) -> usize {
    match front {
        Front::Http1 => lost_over_http1(address, method),
        Front::H2c => lost_over_h2(address, method),
    }
}

fn lost_over_http1(address: SocketAddr, method: &str) -> usize {
    let mut client = Client::connect(address);
    let mut lost = 0;
    for at in 0..REQUESTS {
        let body = if method == "POST" { "hello" } else { "" };
        let length = if method == "POST" { "Content-Length: 5\r\n" } else { "" };
        client.send(format!("{method} /{method}/{at} HTTP/1.1\r\nHost: t\r\n{length}\r\n{body}"));
        let response = client.try_response(false);
        let whole = response.as_ref().is_some_and(|response| response.status == 200 && response.complete);
        lost += usize::from(!whole);
        if !whole || response.is_none_or(|response| response.closes()) {
            client = Client::connect(address);
        }
    }
    lost
}

/// All on one connection, which no loss may cost: a bad answer is the affair of its stream.
fn lost_over_h2(address: SocketAddr, method: &str) -> usize {
    let mut client = H2::connect(address);
    let mut lost = 0;
    for at in 0..REQUESTS {
        let (stream, path) = (2 * at as u32 + 1, format!("/{method}/{at}"));
        let bytes = match method {
            "POST" => [wire::post(stream, &path), wire::raw(wire::DATA, wire::END_STREAM, stream, b"hello")].concat(),
            _ => wire::get(stream, &path),
        };
        assert!(client.send(&bytes), "the connection has ended");
        let answer = client.answer(stream);
        assert!(answer.ended || answer.reset.is_some(), "{method} {at}: the connection has ended");
        lost += usize::from(!(answer.status == 200 && answer.ended && answer.reset.is_none()));
    }
    lost
}
