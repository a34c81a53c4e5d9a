//! An endpoint as one worker knows it: its connections, its load, what its answers were like.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use rustls::pki_types::ServerName;

use super::balance::Algorithm;
use super::failures;
use super::latency::Latency;
use super::passive::Window;
use super::pool::Pool;
use super::record::Record;
use super::streams::Streams;
use crate::error::{Failure, Reason};
use crate::http::exchange::EndpointTag;
use crate::limits::{BUF_LARGE_BYTES, BUF_SMALL_BYTES, BUF_TINY_BYTES, LATE_FAILURES_MAX, SHORT_RESPONSES_MIN};
use crate::net::io::{Connect, Io};
use crate::net::timer::Timers;
use crate::proto::h1::client::ClientConnection;
use crate::snapshot::{self, Protocol, ServiceRules};
use crate::time::Now;
use crate::tls::ClientTls;

/// One endpoint in one worker; the same one over reloads as long as its address stands.
pub struct Endpoint<I: Io> {
    /// Where it is; None while its name does not resolve.
    pub address: Option<SocketAddr>,
    /// As written: label.
    pub authority: String,
    /// The Host that it sees where the rule says so.
    pub host: String,
    /// What requests keep of it.
    pub tag: Rc<EndpointTag>,
    /// Idle connections.
    pub pool: Pool<I>,
    /// How it is spoken to by TLS; None without.
    secure: Option<Secure>,
    /// What it chose at the last handshake, where it was offered a choice.
    chosen: Cell<Option<Protocol>>,
    /// Connections that requests share, where they are HTTP/2.
    pub streams: Streams,
    pub(super) active: Cell<u32>,
    opened: Cell<u64>,
    reused: Cell<u64>,
    /// Room for the next response, in bytes.
    room: Cell<u32>,
    /// Responses in a row that would have fitted the smallest buffer.
    short: Cell<u8>,
    /// Failures in a row, as all workers have seen them.
    pub(super) record: Arc<Record>,
    /// Successes and failures that the other workers were not told of, where outliers are looked for.
    pub(super) window: Cell<Window>,
    /// How long answers take at worst of late, where balancing asks.
    latency: Cell<Latency>,
    /// Others of its service are addresses of the same name.
    pub(super) has_twins: Cell<bool>,
    /// Connections that are being opened and for which nobody waits any more: they take too long.
    late: Cell<i32>,
    /// What became of those, until it is learned from.
    late_failures: RefCell<Vec<Failure>>,
}

/// TLS towards an endpoint.
struct Secure {
    tls: Arc<ClientTls>,
    /// None where its host can be in no certificate.
    name: Option<ServerName<'static>>,
}

/// What is reckoned for a response's head.
const HEAD_BYTES_USUAL: usize = 512;

/// What an endpoint tells the admin plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointReport {
    /// As written.
    pub authority: String,
    /// Requests under way.
    pub active: u64,
    /// Idle connections.
    pub idle: u64,
    /// Connections that were opened.
    pub opened: u64,
    /// Requests that went over a connection already open.
    pub reused: u64,
    /// Whether it can be chosen.
    pub healthy: bool,
    /// How long its answers take of late, in microseconds, where balancing asks; 0 where it does not, or not yet.
    pub ewma_us: u64,
}

/// The connections of a service in one worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Connections {
    /// Requests under way.
    pub active: u64,
    /// Idle ones.
    pub idle: u64,
    /// Those that were opened.
    pub opened: u64,
    /// Requests that went over one already open.
    pub reused: u64,
}

impl std::ops::Add for Connections {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self {
            active: self.active + more.active,
            idle: self.idle + more.idle,
            opened: self.opened + more.opened,
            reused: self.reused + more.reused,
        }
    }
}

/// An endpoint while a request is with it: counted as its load until dropped.
pub struct Visit<I: Io>(pub(super) Rc<Endpoint<I>>);

impl<I: Io> Drop for Visit<I> {
    fn drop(&mut self) {
        debug_assert!(self.0.active.get() > 0);
        self.0.active.set(self.0.active.get().saturating_sub(1));
    }
}

impl<I: Io> Visit<I> {
    /// The endpoint, without the load.
    pub fn endpoint(&self) -> Rc<Endpoint<I>> {
        self.0.clone()
    }

    /// A load of its own on the same endpoint, for what may outlive the configuration.
    pub fn load(&self) -> Load<I> {
        self.0.active.set(self.0.active.get() + 1);
        Load(Rc::downgrade(&self.0))
    }
}

/// A tunnel as the load of its endpoint, until dropped. An endpoint that a reload took away is not kept: its idle
/// connections close.
pub struct Load<I: Io>(Weak<Endpoint<I>>);

impl<I: Io> Drop for Load<I> {
    fn drop(&mut self) {
        if let Some(endpoint) = self.0.upgrade() {
            endpoint.active.set(endpoint.active.get().saturating_sub(1));
        }
    }
}

impl<I: Io> std::ops::Deref for Visit<I> {
    type Target = Endpoint<I>;

    fn deref(&self) -> &Endpoint<I> {
        &self.0
    }
}

impl<I: Io> Endpoint<I> {
    /// Whether it sees what the specification says.
    pub(super) fn is_as(&self, spec: &snapshot::Endpoint) -> bool {
        self.host == if spec.host.is_empty() { &*spec.authority } else { &*spec.host }
    }

    /// Whether nothing speaks against it, in any worker.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.record.is_clean()
    }

    pub(super) fn new(
        spec: &snapshot::Endpoint,
        tls: Option<&Arc<ClientTls>>,
        tag: Rc<EndpointTag>,
        record: Arc<Record>,
    ) -> Self {
        // A certificate is for the name that was written, whichever of its addresses this is.
        let name = if spec.host.is_empty() { &spec.authority } else { &spec.host };
        let secure = tls.map(|tls| Secure { tls: tls.clone(), name: tls.name(name) });
        Self {
            secure,
            chosen: Cell::new(None),
            address: spec.address,
            authority: spec.authority.clone(),
            host: if spec.host.is_empty() { spec.authority.clone() } else { spec.host.clone() },
            tag,
            pool: Pool::default(),
            streams: Streams::default(),
            active: Cell::new(0),
            opened: Cell::new(0),
            reused: Cell::new(0),
            room: Cell::new(BUF_SMALL_BYTES as u32),
            short: Cell::new(0),
            record,
            window: Cell::default(),
            latency: Cell::default(),
            has_twins: Cell::new(false),
            late: Cell::new(0),
            late_failures: RefCell::default(),
        }
    }

    /// What balancing compares.
    pub(super) fn load(&self, algorithm: Algorithm, now: Now) -> u32 {
        match algorithm {
            Algorithm::PeakEwma => self.latency.get().cost(self.active.get(), now),
            _ => self.active.get(),
        }
    }

    /// Whether nothing is under way with it, and nothing kept open: what comes next is a request.
    pub(super) fn rests(&self) -> bool {
        let is_quiet = self.active.get() == 0 && self.late.get() == 0 && self.late_failures.borrow().is_empty();
        is_quiet && self.pool.is_empty() && self.streams.rests()
    }

    /// Whether others of its service are addresses of the same name.
    #[inline]
    pub fn has_twins(&self) -> bool {
        self.has_twins.get()
    }

    /// Whether a connection to it takes so long that its request has gone elsewhere.
    pub fn is_late(&self) -> bool {
        self.late.get() > 0
    }

    /// There is one such connection more, or less.
    pub fn is_late_by(&self, change: i32) {
        self.late.set(self.late.get() + change);
        debug_assert!(self.late.get() >= 0);
    }

    /// Remembers why such a connection did not come about, until the service learns from it.
    pub fn note_late_failure(&self, failure: Failure) {
        let mut failures = self.late_failures.borrow_mut();
        if failures.len() < LATE_FAILURES_MAX {
            failures.push(failure);
        }
    }

    pub(super) fn take_late_failures(&self) -> Vec<Failure> {
        self.late_failures.take()
    }

    /// Learns how long an answer took.
    pub fn took(&self, ns: u64, now: Now) {
        self.latency.set(self.latency.get().with(ns, now));
    }

    pub(super) fn connections(&self) -> Connections {
        Connections {
            active: u64::from(self.active.get()),
            idle: (self.pool.len() + self.streams.len()) as u64,
            opened: self.opened.get(),
            reused: self.reused.get(),
        }
    }

    pub(super) fn report(&self) -> EndpointReport {
        let Connections { active, idle, opened, reused } = self.connections();
        EndpointReport {
            authority: self.authority.clone(),
            active,
            idle,
            opened,
            reused,
            healthy: self.address.is_some(),
            ewma_us: self.latency.get().us(),
        }
    }

    /// Room for the first read of a response, in bytes: what the last ones were like is the best guess.
    pub fn room(&self) -> usize {
        self.room.get() as usize
    }

    /// Remembers how long a response was. A large buffer pays where it takes the whole response: what is longer is read
    /// in steps or passed on by the kernel, and its first read need not be long. The smallest costs one more read where
    /// the guess is wrong, so it takes several responses to come to it.
    pub fn learn(&self, response_bytes: u64) {
        const TINY_MAX: u64 = (BUF_TINY_BYTES - HEAD_BYTES_USUAL) as u64;
        const LARGE_MIN: u64 = BUF_SMALL_BYTES as u64 + 1;
        const LARGE_MAX: u64 = BUF_LARGE_BYTES as u64;
        let short = if response_bytes <= TINY_MAX { self.short.get().saturating_add(1) } else { 0 };
        self.short.set(short);
        let room = match response_bytes {
            _ if short >= SHORT_RESPONSES_MIN => BUF_TINY_BYTES,
            LARGE_MIN..=LARGE_MAX => BUF_LARGE_BYTES,
            _ => BUF_SMALL_BYTES,
        };
        self.room.set(room as u32);
    }

    /// An idle connection, if there is one that may be used.
    pub fn reuse(&self, now: Now, rules: &ServiceRules, must_live: bool) -> Option<Box<ClientConnection<I>>> {
        let connection = self.pool.take(now, rules, must_live)?;
        self.reused.set(self.reused.get() + 1);
        Some(connection)
    }

    /// A request goes over a connection that was open.
    pub fn count_reuse(&self) {
        self.reused.set(self.reused.get() + 1);
    }

    /// A new connection, within `timeout_ms`.
    ///
    /// # Errors
    /// Why there is none; nothing of the request was sent then.
    pub async fn connect<C: Connect<Io = I>>(
        &self,
        connector: &C,
        timers: &Rc<Timers>,
        timeout_ms: u64,
    ) -> Result<Box<ClientConnection<I>>, Failure> {
        let io = self.open(connector, timeout_ms, false).await?;
        Ok(Box::new(ClientConnection::new(io, timers)))
    }

    /// How it is spoken to; None where that is agreed on and nobody has asked yet.
    #[inline]
    pub fn protocol(&self, rules: &ServiceRules) -> Option<Protocol> {
        match rules.protocol {
            Protocol::Auto if self.secure.is_some() => self.chosen.get(),
            Protocol::Auto => Some(Protocol::Http1),
            known => Some(known),
        }
    }

    /// Whether it is spoken to by TLS.
    pub fn is_secure(&self) -> bool {
        self.secure.is_some()
    }

    /// Remembers what was agreed on for a connection, where there was a choice.
    pub fn remember(&self, io: &I, rules: &ServiceRules) {
        if rules.protocol == Protocol::Auto {
            let agreed = io.agreed().and_then(|agreed| agreed.alpn.as_deref());
            self.chosen.set(Some(if agreed == Some(b"h2") { Protocol::Http2 } else { Protocol::Http1 }));
        }
    }

    /// As [`Self::connect`], without a wire. `http1_only`: for what HTTP/1.1 alone can carry.
    ///
    /// # Errors
    /// As there.
    pub async fn open<C: Connect<Io = I>>(
        &self,
        connector: &C,
        timeout_ms: u64,
        http1_only: bool,
    ) -> Result<I, Failure> {
        let Some(address) = self.address else { return Err(Failure::with(Reason::ConnectFailed, "name not resolved")) };
        // Boxed, since it is rare and its timer would make every request's future larger.
        let opened = match &self.secure {
            None => Box::pin(connector.connect(address, timeout_ms)).await,
            Some(Secure { tls, name: Some(name) }) => {
                let config = if http1_only { tls.http1_config() } else { tls.config() };
                Box::pin(connector.connect_tls(address, config, name.clone(), timeout_ms)).await
            }
            Some(Secure { name: None, .. }) => {
                return Err(Failure::with(Reason::UpstreamCertificate, "the host can be in no certificate"));
            }
        };
        match opened {
            Ok(io) => {
                self.opened.set(self.opened.get() + 1);
                // HTTP/2 behind TLS is agreed on, never guessed (RFC 9113 section 3.3).
                let wants_h2 = !http1_only && self.secure.as_ref().is_some_and(|secure| secure.tls.wants_h2());
                match io.agreed() {
                    Some(agreed) if wants_h2 && agreed.alpn.as_deref() != Some(b"h2") => {
                        Err(Failure::with(Reason::UpstreamHandshake, "the endpoint does not speak our protocol"))
                    }
                    _ => Ok(io),
                }
            }
            Err(error) => Err(failures::of_connect(&error)),
        }
    }

    /// Whether these are its rules of TLS. What was opened under others is not theirs.
    pub(super) fn is_secured_by(&self, tls: Option<&Arc<ClientTls>>) -> bool {
        match (&self.secure, tls) {
            (None, None) => true,
            (Some(known), Some(wanted)) => Arc::ptr_eq(&known.tls, wanted),
            _ => false,
        }
    }
}
