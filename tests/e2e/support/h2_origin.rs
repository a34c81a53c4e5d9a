//! An origin that speaks HTTP/2 by prior knowledge, on the gateway's own codec: records what each stream brings and
//! answers by script.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use ringway::http::name::Name;
use ringway::proto::h1::parse::HeadLimits;
use ringway::proto::h2::code::Code;
use ringway::proto::h2::core::{Core, Event, Key, Sent};
use ringway::proto::h2::hpack::decode::{Kind, Pseudo};
use ringway::sys::buf::Buf;
use ringway::time::Now;

use super::eventually;

/// A request as it arrived. Pseudo-header fields are among the fields.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    pub fn get(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    pub fn path(&self) -> &str {
        self.get(":path").unwrap_or_default()
    }
}

/// An answer. Heads have `:status` among their fields.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    pub interim: Vec<Vec<(&'static str, String)>>,
    pub head: Vec<(&'static str, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(&'static str, String)>,
    /// The stream is reset where it should end; before its head where there is no head.
    pub reset: Option<Code>,
    /// GOAWAY that has seen all streams so far.
    pub leave: bool,
    /// There is none, ever.
    pub hangs: bool,
    /// Bytes in its place, for the number of its stream.
    pub raw: Option<fn(u32) -> Vec<u8>>,
    /// The connection ends where the stream should.
    pub cut: bool,
}

impl Answer {
    pub fn ok(body: impl AsRef<[u8]>) -> Self {
        Self { head: vec![(":status", "200".into())], body: body.as_ref().to_vec(), ..Self::default() }
    }
}

type Script = dyn Fn(&Seen) -> Answer + Send + Sync;

struct Shared {
    seen: Mutex<Vec<Seen>>,
    resets: Mutex<Vec<Code>>,
    connections: Mutex<Vec<TcpStream>>,
    ended: AtomicBool,
    /// Answers come before the bodies of requests have.
    is_early: bool,
    script: Box<Script>,
}

/// The origin; ends with its guard.
pub struct H2Origin {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl H2Origin {
    pub fn start(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::at(SocketAddr::from(([127, 0, 0, 1], 0)), script)
    }

    /// The same at this address.
    pub fn at(address: SocketAddr, script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(address, false, script)
    }

    /// Answers as soon as the head is there.
    pub fn early(script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        Self::with(SocketAddr::from(([127, 0, 0, 1], 0)), true, script)
    }

    fn with(address: SocketAddr, is_early: bool, script: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let listener = eventually("a port", || TcpListener::bind(address).ok());
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            resets: Mutex::default(),
            connections: Mutex::default(),
            ended: AtomicBool::new(false),
            is_early,
            script: Box::new(script),
        });
        let theirs = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if theirs.ended.load(Ordering::SeqCst) {
                    return;
                }
                let mut connections = theirs.connections.lock().expect("connections");
                connections.push(stream.try_clone().expect("a descriptor"));
                let shared = theirs.clone();
                thread::spawn(move || Conversation::new(shared, stream).run());
            }
        });
        Self { address, shared }
    }

    pub fn connections(&self) -> usize {
        self.shared.connections.lock().expect("connections").len()
    }

    #[track_caller]
    pub fn last(&self) -> Seen {
        eventually("a request", || self.shared.seen.lock().expect("requests").last().cloned())
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().expect("requests").clone()
    }

    /// Codes that streams were reset with by the gateway.
    pub fn resets(&self) -> Vec<Code> {
        self.shared.resets.lock().expect("codes").clone()
    }
}

impl Drop for H2Origin {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        for stream in self.shared.connections.lock().expect("connections").drain(..) {
            // It may have been closed by the peer.
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the accepting thread, which then ends.
        drop(TcpStream::connect(self.address));
    }
}

struct Conversation {
    shared: Arc<Shared>,
    stream: TcpStream,
    core: Core,
    open: HashMap<u32, Seen>,
    /// Answers that wait for windows: body, and what follows it.
    waiting: Vec<(Key, Buf, Answer)>,
    /// Bytes behind what the codec has to say.
    raw: Vec<u8>,
    is_cut: bool,
}

impl Conversation {
    fn new(shared: Arc<Shared>, stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("an option");
        let core = Core::server(HeadLimits::default(), false, Now::read());
        Self { shared, stream, core, open: HashMap::new(), waiting: Vec::new(), raw: Vec::new(), is_cut: false }
    }

    fn run(mut self) {
        let mut input = Buf::large();
        let mut bytes = [0; 16_384];
        loop {
            self.send_bodies();
            while let Some(output) = self.core.take_output() {
                if self.stream.write_all(output.as_slice()).is_err() {
                    return;
                }
            }
            if self.stream.write_all(&std::mem::take(&mut self.raw)).is_err() || self.is_cut {
                // The peer may have closed it before.
                let _ = self.stream.shutdown(Shutdown::Both);
                return;
            }
            let Ok(count @ 1..) = self.stream.read(&mut bytes) else { return };
            input.compact();
            input.extend(&bytes[..count]);
            loop {
                match self.core.receive(&mut input, Now::read()) {
                    Ok(Some(event)) => self.take(event),
                    Ok(None) => break,
                    Err(fatal) => panic!("the gateway broke the rules: {fatal:?}"),
                }
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Head { key, end, fault } => {
                assert_eq!(fault, None);
                let seen = Seen { fields: self.lines(), ..Seen::default() };
                self.open.insert(key.id, seen);
                self.end_if(end, key);
            }
            Event::Data { key, data, end } => {
                if let Some(seen) = self.open.get_mut(&key.id) {
                    seen.body.extend_from_slice(data.as_slice());
                }
                self.core.taken(key, data.len());
                self.end_if(end, key);
            }
            Event::Trailers { key, fault } => {
                assert_eq!(fault, None);
                let lines = self.lines();
                if let Some(seen) = self.open.get_mut(&key.id) {
                    seen.trailers = lines;
                }
                self.end_if(true, key);
            }
            Event::Reset { key, code, .. } => {
                self.waiting.retain(|(other, ..)| *other != key);
                self.shared.resets.lock().expect("codes").push(code);
                self.core.release(key);
            }
            _ => {}
        }
    }

    fn lines(&mut self) -> Vec<(String, String)> {
        let section = self.core.section();
        let mut fields = ringway::http::fields::Fields::default();
        fields.set_buffer(std::mem::take(&mut section.buf));
        let text = |text| String::from_utf8_lossy(fields.text(text)).into_owned();
        let line = |line: &ringway::proto::h2::hpack::decode::Line| match line.kind {
            Kind::Pseudo(Pseudo::Method) => (":method".to_owned(), text(line.value)),
            Kind::Pseudo(Pseudo::Scheme) => (":scheme".to_owned(), text(line.value)),
            Kind::Pseudo(Pseudo::Authority) => (":authority".to_owned(), text(line.value)),
            Kind::Pseudo(Pseudo::Path) => (":path".to_owned(), text(line.value)),
            Kind::Field(_) => (text(line.name), text(line.value)),
            other => panic!("{other:?} in a request"),
        };
        section.lines.iter().map(line).collect()
    }

    fn end_if(&mut self, end: bool, key: Key) {
        let due = end || self.shared.is_early;
        let Some(seen) = self.open.get(&key.id).filter(|_| due).cloned() else { return };
        self.open.remove(&key.id);
        let answer = (self.shared.script)(&seen);
        self.shared.seen.lock().expect("requests").push(seen);
        if answer.hangs {
            return;
        }
        if let Some(raw) = answer.raw {
            self.raw.extend(raw(key.id));
            self.is_cut |= answer.cut;
            return;
        }
        if answer.leave {
            self.core.refuse_further();
        }
        for head in &answer.interim {
            write_head(&mut self.core, key, false, head);
        }
        let has_more = !answer.trailers.is_empty() || answer.reset.is_some() || answer.cut;
        let follows = !answer.body.is_empty() || has_more;
        if !answer.head.is_empty() {
            write_head(&mut self.core, key, !follows, &answer.head);
        }
        self.waiting.push((key, Buf::copy_of(&answer.body), answer));
    }

    fn send_bodies(&mut self) {
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|(key, data, answer)| {
            let is_last = answer.trailers.is_empty() && answer.reset.is_none() && !answer.cut;
            while !data.is_empty() && self.core.data(*key, data, is_last) == Sent::Some {}
            if !data.is_empty() {
                return true;
            }
            if !answer.trailers.is_empty() {
                write_head(&mut self.core, *key, true, &answer.trailers);
            }
            if let Some(code) = answer.reset {
                self.core.reset(*key, code);
            }
            if answer.cut {
                self.is_cut = true;
                return false;
            }
            self.core.release(*key);
            false
        });
        self.waiting = waiting;
    }
}

fn write_head(core: &mut Core, key: Key, end: bool, fields: &[(&'static str, String)]) {
    core.head(key, end, |encoder, out| {
        for (name, value) in fields {
            match *name {
                ":status" => encoder.status(out, value.parse().expect("a number")),
                name => encoder.field(out, name.as_bytes(), value.as_bytes(), Name::of(name.as_bytes())),
            }
        }
    });
}
