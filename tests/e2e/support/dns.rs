//! A name server that tells what a test wants, truth or lies (F31), over UDP and TCP.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// How it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// From its records.
    Truth,
    /// Not at all.
    Dead,
    /// So late that nobody waits any more.
    Slow,
    /// The name is not there.
    NxDomain,
    /// It has a failure.
    ServFail,
    /// The answer does not fit, and it does not fit over TCP either.
    Truncated,
    /// Bytes that are no message.
    Malformed,
    /// An alias of an alias of itself.
    AliasLoop,
    /// Thousands of addresses, over TCP.
    Huge,
}

impl Mode {
    pub const LIES: [Mode; 8] = [
        Mode::Dead,
        Mode::Slow,
        Mode::NxDomain,
        Mode::ServFail,
        Mode::Truncated,
        Mode::Malformed,
        Mode::AliasLoop,
        Mode::Huge,
    ];
}

/// The data of a name.
#[derive(Clone, Debug)]
pub enum Record {
    Address(IpAddr),
    /// Priority, weight, port, target.
    Srv(u16, u16, u16, String),
    Alias(String),
}

/// The server; ends with its guard.
pub struct NameServer {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mode: Mutex<Mode>,
    records: Mutex<HashMap<String, (u32, Vec<Record>)>>,
    asked: AtomicUsize,
    ended: AtomicBool,
}

const A: u16 = 1;
const CNAME: u16 = 5;
const AAAA: u16 = 28;
const SRV: u16 = 33;

impl NameServer {
    pub fn start() -> Self {
        // The same port for both; another one may be quicker.
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
            if let Ok(tcp) = TcpListener::bind(udp.local_addr().expect("an address")) {
                break (udp, tcp);
            }
        };
        let address = udp.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Truth),
            records: Mutex::default(),
            asked: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        udp.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
        let of_udp = shared.clone();
        thread::spawn(move || of_udp.serve_udp(&udp));
        let of_tcp = shared.clone();
        thread::spawn(move || of_tcp.serve_tcp(&tcp));
        Self { address, shared }
    }

    pub fn set_mode(&self, mode: Mode) {
        *self.shared.mode.lock().expect("mode") = mode;
    }

    /// What `name` has from now on.
    pub fn set(&self, name: &str, ttl: u32, records: Vec<Record>) {
        self.shared.records.lock().expect("records").insert(name.to_owned(), (ttl, records));
    }

    /// The addresses of `name` from now on.
    pub fn set_addresses(&self, name: &str, ttl: u32, addresses: &[&str]) {
        let record = |text: &&str| Record::Address(text.parse().expect("an address"));
        self.set(name, ttl, addresses.iter().map(record).collect());
    }

    /// Questions so far.
    pub fn asked(&self) -> usize {
        self.shared.asked.load(Ordering::Relaxed)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Its accept ends with this connection.
        let _ = std::net::TcpStream::connect(self.address);
    }
}

impl Shared {
    fn serve_udp(&self, socket: &UdpSocket) {
        let mut bytes = [0; 2048];
        while !self.ended.load(Ordering::Relaxed) {
            let Ok((count, peer)) = socket.recv_from(&mut bytes) else { continue };
            if let Some(answer) = self.answer(&bytes[..count], false) {
                let _ = socket.send_to(&answer, peer);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            let Ok(mut stream) = stream else { continue };
            let _ = stream.set_read_timeout(Some(Duration::from_millis(500)));
            let mut length = [0; 2];
            while stream.read_exact(&mut length).is_ok() {
                let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
                if stream.read_exact(&mut question).is_err() {
                    break;
                }
                let Some(answer) = self.answer(&question, true) else { break };
                let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                framed.extend(answer);
                if stream.write_all(&framed).is_err() {
                    break;
                }
            }
        }
    }

    fn answer(&self, question: &[u8], over_tcp: bool) -> Option<Vec<u8>> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let mode = *self.mode.lock().expect("mode");
        let (name, kind, end) = read_question(question)?;
        let reply = |flags: u16, records: &[(String, u32, Record)]| Some(write(question, end, flags, records));
        match mode {
            Mode::Dead => None,
            Mode::Slow => {
                thread::park_timeout(Duration::from_millis(1_500));
                None
            }
            Mode::NxDomain => reply(0x8183, &[]),
            Mode::ServFail => reply(0x8182, &[]),
            Mode::Truncated => reply(0x8380, &[]),
            Mode::Malformed => {
                let mut bytes = question[..2].to_vec();
                bytes.extend([0x81, 0x80, 0xff, 0xff, 0xff, 0xff, 0xc0, 0x0c, 0xc0, 0xc0, 0x0c]);
                Some(bytes)
            }
            Mode::AliasLoop => {
                let next = name.strip_prefix("loop-").map_or_else(|| format!("loop-{name}"), str::to_owned);
                reply(0x8180, &[(name, 1, Record::Alias(next))])
            }
            Mode::Huge if kind == A && !over_tcp => reply(0x8380, &[]),
            Mode::Huge if kind == A => {
                let address = |n: u32| IpAddr::from([127, 1, (n / 250) as u8, (n % 250 + 1) as u8]);
                let all: Vec<_> = (0..3_000).map(|n| (name.clone(), 1, Record::Address(address(n)))).collect();
                reply(0x8180, &all)
            }
            Mode::Truth | Mode::Huge => {
                let records = self.records.lock().expect("records");
                let Some((ttl, all)) = records.get(&name) else { return reply(0x8183, &[]) };
                let fits = |record: &&Record| match record {
                    Record::Address(address) => kind == if address.is_ipv4() { A } else { AAAA },
                    Record::Srv(..) => kind == SRV,
                    Record::Alias(_) => true,
                };
                let fitting = all.iter().filter(fits).map(|record| (name.clone(), *ttl, record.clone()));
                reply(0x8180, &fitting.collect::<Vec<_>>())
            }
        }
    }
}

/// Name, type, and where the question ends.
fn read_question(message: &[u8]) -> Option<(String, u16, usize)> {
    let (mut at, mut labels) = (12, Vec::new());
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        labels.push(String::from_utf8_lossy(message.get(at..at + length)?).to_ascii_lowercase());
        at += length;
    }
    let kind = u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]);
    Some((labels.join("."), kind, at + 4))
}

fn write(question: &[u8], end: usize, flags: u16, records: &[(String, u32, Record)]) -> Vec<u8> {
    let mut out = question[..2].to_vec();
    out.extend(flags.to_be_bytes());
    out.extend([0, 1]);
    out.extend((records.len() as u16).to_be_bytes());
    out.extend([0; 4]);
    out.extend(&question[12..end]);
    for (_, ttl, record) in records {
        // The owner is the name of the question.
        out.extend([0xc0, 0x0c]);
        let (kind, data) = match record {
            Record::Address(IpAddr::V4(v4)) => (A, v4.octets().to_vec()),
            Record::Address(IpAddr::V6(v6)) => (AAAA, v6.octets().to_vec()),
            Record::Alias(name) => (CNAME, write_name(name)),
            Record::Srv(priority, weight, port, target) => {
                let mut data: Vec<u8> = [priority, weight, port].iter().flat_map(|n| n.to_be_bytes()).collect();
                data.extend(write_name(target));
                (SRV, data)
            }
        };
        out.extend(kind.to_be_bytes());
        out.extend([0, 1]);
        out.extend(ttl.to_be_bytes());
        out.extend((data.len() as u16).to_be_bytes());
        out.extend(data);
    }
    out
}

fn write_name(name: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for label in name.split('.') {
        out.push(label.len() as u8);
        out.extend(label.bytes());
    }
    out.push(0);
    out
}
