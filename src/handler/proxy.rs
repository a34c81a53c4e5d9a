//! Answers a request from an endpoint of a service: choose, connect or reuse, exchange, and try again where that is
//! safe.

use std::pin::pin;
use std::rc::Rc;

use super::forward;
use super::nap::nap;
use super::relay::{self, Terms};
use super::replay::{Held, Replayed, Tap};
use super::upgrade::Upgrade;
use crate::error::{Failure, Reason, Retry};
use crate::http::downstream::{Downstream, RequestBody, ResponseSink};
use crate::http::exchange::Exchange;
use crate::limits::VAIN_ATTEMPTS_MAX;
use crate::net::io::Connect;
use crate::net::timer::Timers;
use crate::proto::h1::client::ClientConnection;
use crate::proto::h2::client::Stream;
use crate::snapshot::{self, HostRule, Listener, Protocol};
use crate::sys::buf::Buf;
use crate::time::Now;
use crate::upstream::balance::{Algorithm, TriedSet};
use crate::upstream::endpoint::Visit;
use crate::upstream::passive::{CHANGED, Outcome};
use crate::upstream::rules::RetryRules;
use crate::upstream::service::{Service, UNREACHABLE};

/// What a request needs to reach an endpoint.
pub struct Proxy<'a, C: Connect> {
    /// Opens connections.
    pub connector: &'a C,
    /// The worker's timers.
    pub timers: &'a Rc<Timers>,
    /// Where the client came in.
    pub listener: &'a Listener,
    /// The service as the snapshot has it.
    pub spec: &'a snapshot::Service,
    /// The service as this worker knows it.
    pub service: &'a Service<C::Io>,
    /// Which Host goes upstream.
    pub host: &'a HostRule,
    /// When the whole request must be over.
    pub due: Now,
    /// Request body, in bytes.
    pub body_bytes_max: u64,
    /// When it is tried again.
    pub retries: &'a RetryRules,
    /// What the request needs to become a tunnel, where it asks for one and may.
    pub upgrade: Option<&'a Upgrade<C::Io>>,
    /// The connection is for one client alone, and its bytes are no requests.
    pub is_stream: bool,
    /// Who gets a copy of the request's body, where it is mirrored.
    pub tap: Option<&'a Rc<Tap>>,
}

/// How one attempt ended.
pub(super) enum Attempt {
    Done,
    /// The connection had been closed by the endpoint while it was idle; nothing was lost.
    Stale(Failure),
    Failed(Failure),
}

impl Attempt {
    /// One that found no connection. An endpoint that has come to speak another protocol is asked anew in that.
    fn unconnected(failure: Failure) -> Self {
        if failure == CHANGED { Self::Stale(failure) } else { Self::Failed(failure) }
    }
}

impl<C: Connect> Proxy<'_, C> {
    /// Answers the request. `on_head` sees the response head before it leaves.
    ///
    /// # Errors
    /// Why there is no whole answer. `sink.head_sent()` tells whether the client has seen any of it.
    pub async fn answer<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Result<(), Failure> {
        // A stale connection says nothing about its endpoint: once per request it costs no attempt, and the next try
        // takes a new connection.
        let (mut tried, mut stale) = (TriedSet::default(), false);
        let held = self.hold(down, x);
        if let Some(held) = held.as_deref().filter(|_| self.takes_in(down, x)) {
            // Boxed: as below.
            Box::pin(self.take_in(down, x, held)).await?;
        }
        loop {
            let now = self.timers.known_now();
            let (mut at, mut visit) = match self.service.choose(self.spec, x, &mut tried, now) {
                Ok(chosen) => chosen,
                Err(failure) => return Err(self.sum_up(x.failure.unwrap_or(failure))),
            };
            x.endpoint = Some(visit.tag.clone());
            x.attempts += 1;
            x.grpc.iter_mut().for_each(|call| call.begin(self.timers.known_now()));
            let attempt = match &self.retries.hedge {
                // Boxed: requests that are not hedged carry nothing of it.
                Some(hedge) if x.attempts == 1 && self.may_hedge(down, x, held.as_deref()) => {
                    let attempt;
                    let race = self.race(down, x, (at, visit), &mut tried, (hedge, held.as_deref()), on_head);
                    (attempt, at, visit) = Box::pin(race).await;
                    attempt
                }
                _ => {
                    let mut first = Ok(None);
                    if self.has_choice(&visit) {
                        // Boxed: it is rare that a connection is opened to one of several addresses of a name.
                        (first, at, visit) = Box::pin(self.connect_first(x, (at, visit), &mut tried)).await;
                        x.endpoint = Some(visit.tag.clone());
                    }
                    match first {
                        Ok(first) if visit.is_clean() => {
                            pin!(self.attempt(down, x, &visit, stale, first, held.as_deref(), on_head)).await
                        }
                        Ok(first) => {
                            let mut heard = self.hearing(&visit, on_head);
                            Box::pin(self.attempt(down, x, &visit, stale, first, held.as_deref(), &mut heard)).await
                        }
                        Err(failure) => Attempt::unconnected(failure),
                    }
                }
            };
            let failure = match attempt {
                Attempt::Done => {
                    self.learn(&visit, x);
                    x.failure = None;
                    return Ok(());
                }
                Attempt::Stale(failure) if !stale && self.may_retry(down, x, failure, held.as_deref()) => {
                    stale = true;
                    rewind(x, held.as_deref());
                    continue;
                }
                Attempt::Stale(failure) | Attempt::Failed(failure) => failure,
            };
            self.blame(&visit, x, failure);
            let quick = self.goes_on(down, x, failure, (at, stale), &mut tried, held.as_deref())?;
            drop(visit);
            self.pause(x, quick).await?;
            rewind(x, held.as_deref());
        }
    }

    /// Whether another attempt is made behind this failure. Returns whether it may be made at once: elsewhere, and not
    /// since somebody has answered.
    ///
    /// # Errors
    /// None is made.
    #[cold]
    fn goes_on<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        failure: Failure,
        (at, stale): (u32, bool),
        tried: &mut TriedSet,
        held: Option<&Held>,
    ) -> Result<bool, Failure> {
        let has_room = tried.has(at as usize) || tried.insert(at as usize);
        let elsewhere = tried.count() < self.service.len();
        x.vain += u32::from(elsewhere && self.was_vain(x, failure));
        let spent = x.attempts - x.vain - u32::from(stale) >= self.retries.attempts_max;
        if spent || !self.may_retry(down, x, failure, held) {
            return Err(self.sum_up(failure));
        }
        // A refused answer has taken its retry from the budget.
        let refused = failure.reason == Reason::UpstreamStatus;
        let is_free = refused || cost_nothing(failure);
        let somewhere = has_room && (elsewhere || self.retries.same_endpoint);
        if !somewhere || !(is_free || self.service.take_retry(self.spec, self.timers.known_now())) {
            return Err(self.sum_up(failure));
        }
        // Remembered in case no other endpoint is left.
        x.failure = Some(failure);
        Ok(elsewhere && !refused)
    }

    /// What the last failure means for the request: where no endpoint can be reached any more, clients are told to come
    /// back, and not what one endpoint did (F29).
    #[cold]
    fn sum_up(&self, failure: Failure) -> Failure {
        let unreached = Outcome::of(failure, false) == Outcome::Unreached;
        if unreached && self.service.is_unreachable(self.spec) {
            return Failure::with(Reason::NoEndpoint, UNREACHABLE);
        }
        failure
    }

    /// Whether an attempt found nobody, at once. It counts as none where there are endpoints that were not asked, so
    /// that a request finds the one that is there among several that are gone.
    #[cold]
    fn was_vain(&self, x: &Exchange, failure: Failure) -> bool {
        let nobody = matches!(failure.reason, Reason::ConnectRefused | Reason::ConnectFailed) && failure != CHANGED;
        nobody && self.retries.attempts_max > 1 && x.vain < VAIN_ATTEMPTS_MAX
    }

    /// What holds the request's body, where it may have to be sent again.
    fn hold<D: Downstream>(&self, down: &mut D, x: &Exchange) -> Option<Box<Held>> {
        let (body, _) = down.split();
        let rules = self.retries;
        // An HTTP/2 endpoint says of which requests it has not looked at: those may go again whatever they ask.
        let is_told = self.spec.rules.protocol != Protocol::Http1;
        let repeatable = || rules.attempts_max > 1 && (is_told || self.is_repeatable(x));
        let wanted = !body.is_done() && self.upgrade.is_none() && (self.tap.is_some() || repeatable());
        wanted.then(|| Box::new(Held::new(rules.replay_bytes_max).tapped(self.tap)))
    }

    /// Whether the request may be with several endpoints at once: it has no body, or all of that is here.
    fn may_hedge<D: Downstream>(&self, down: &mut D, x: &Exchange, held: Option<&Held>) -> bool {
        let (body, _) = down.split();
        let is_here = x.request.body.is_empty() || held.is_some_and(Held::is_whole);
        self.is_for_several(x) && body.is_done() && is_here
    }

    /// Whether it may be with several at once, whatever its body is.
    pub(super) fn is_for_several(&self, x: &Exchange) -> bool {
        self.upgrade.is_none() && self.spec.proxy_protocol.is_none() && self.is_repeatable(x)
    }

    /// Whether the request may reach an endpoint twice.
    fn is_repeatable(&self, x: &Exchange) -> bool {
        let rules = self.retries;
        let named = || rules.idempotency_key && x.request.fields.find(b"idempotency-key").is_some();
        x.request.method.is_idempotent() || rules.any_method || named()
    }

    /// A request goes out again only if the client has seen nothing, and either nothing of it left the gateway or it
    /// may be repeated (C50, RFC 9110 section 9.2.2) and all of its body is still here.
    fn may_retry<D: Downstream>(&self, down: &mut D, x: &Exchange, failure: Failure, held: Option<&Held>) -> bool {
        let (_, sink) = down.split();
        if sink.head_sent() || self.timers.now() >= self.due {
            return false;
        }
        let rules = self.retries;
        let again = || self.is_repeatable(x) && (x.request.body.is_empty() || held.is_some_and(Held::is_whole));
        match (failure.reason.retry(), failure.reason) {
            (Retry::Unsent, _) => rules.on_connect,
            (_, Reason::UpstreamStatus) => again(),
            (Retry::IfIdempotent, _) => rules.on_reset && again(),
            (_, Reason::UpstreamTimeout) => (rules.on_timeout || rules.per_try_ms.is_some()) && again(),
            (Retry::No, _) => false,
        }
    }

    /// Whether a response is not passed on, since another endpoint may give a better one. Takes the retry.
    pub(super) fn refuses(&self, x: &Exchange, held: Option<&Held>) -> bool {
        let rules = self.retries;
        let code =
            || x.response.fields.find(b"grpc-status").and_then(|code| std::str::from_utf8(code).ok()?.parse().ok());
        let listed = rules.statuses.contains(&x.response.status)
            || (!rules.grpc_codes.is_empty() && code().is_some_and(|code| rules.grpc_codes.contains(&code)));
        listed
            && x.attempts - x.vain < rules.attempts_max
            && (rules.same_endpoint || self.service.len() as u64 > u64::from(x.attempts))
            && self.is_repeatable(x)
            && (x.request.body.is_empty() || held.is_some_and(Held::is_within))
            && self.service.take_retry(self.spec, self.timers.known_now())
    }

    /// Waits before a retry: not at all before the first one at another endpoint, unless the failed one has answered.
    /// Who was not there does not count.
    ///
    /// # Errors
    /// The failure before, when no time is left.
    async fn pause(&self, x: &Exchange, elsewhere: bool) -> Result<(), Failure> {
        if x.attempts <= 1 + x.vain && elsewhere {
            return Ok(());
        }
        let ms = self.retries.backoff.pause_ms(x.attempts, x.random.rotate_left(13 * x.attempts));
        if self.timers.known_now().plus_ms(ms) >= self.due {
            return Err(x.failure.unwrap_or(Reason::RequestTimeout.into()));
        }
        Box::pin(nap(self.timers, ms)).await;
        Ok(())
    }

    #[inline]
    fn learn(&self, visit: &Visit<C::Io>, x: &Exchange) {
        let now = self.timers.known_now();
        self.service.learn(self.spec, visit, Outcome::answered(x.upstream_status), now);
        if self.spec.endpoints.algorithm() == Algorithm::PeakEwma {
            visit.took(x.upstream_ns, now);
        }
    }

    /// Learns from the head of an answer already that an endpoint can be reached again: whoever sees that answer finds
    /// it so with every worker.
    #[cold]
    pub(super) fn hear(&self, visit: &Visit<C::Io>, status: u16) {
        self.service.hear(self.spec, visit, Outcome::answered(status), self.timers.known_now());
    }

    /// Hears of an answer's head, before `on_head` does.
    fn hearing<'h>(
        &'h self,
        visit: &'h Visit<C::Io>,
        on_head: &'h mut dyn FnMut(&mut Exchange),
    ) -> impl FnMut(&mut Exchange) + 'h {
        move |x| {
            self.hear(visit, x.upstream_status);
            on_head(x);
        }
    }

    #[cold]
    pub(super) fn blame(&self, visit: &Visit<C::Io>, x: &Exchange, failure: Failure) {
        let outcome = match failure.reason {
            Reason::UpstreamStatus => Outcome::answered(x.upstream_status),
            _ => Outcome::of(failure, x.upstream_status != 0),
        };
        self.service.learn(self.spec, visit, outcome, self.timers.known_now());
    }

    /// The rules of an attempt that began then.
    #[inline]
    pub(super) fn terms<'t>(
        &'t self,
        visit: &Visit<C::Io>,
        begun: Now,
        refuses: &'t dyn Fn(&Exchange) -> bool,
        held: Option<&'t Held>,
    ) -> Terms<'t> {
        Terms {
            rules: &self.spec.rules,
            due: self.due,
            body_bytes_max: self.body_bytes_max,
            room: visit.room(),
            first_byte_ms: self.within_try(self.spec.rules.first_byte_timeout_ms, begun),
            refuses: Some(refuses).filter(|_| self.retries.looks_at_answers()),
            held,
            timers: self.timers,
        }
    }

    /// `first` is a new connection for this request, where its protocol had to be found out.
    #[allow(clippy::too_many_arguments, reason = "one call, whose arguments are the parts of one attempt")]
    async fn attempt<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        visit: &Visit<C::Io>,
        fresh: bool,
        first: Option<Box<ClientConnection<C::Io>>>,
        held: Option<&Held>,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Attempt {
        x.upstream_status = 0;
        let is_known = self.upgrade.is_some() || visit.protocol(&self.spec.rules) == Some(Protocol::Http1);
        if !is_known && first.is_none() {
            // Boxed: plain requests do not carry the room for it.
            return Box::pin(self.attempt_as_agreed(down, x, visit, fresh, held, on_head)).await;
        }
        let begun = self.timers.known_now();
        let (body, sink) = down.split();
        // What cannot be sent twice needs a connection that is known to be open; before a body, a quiet one (F34).
        let must_live = !self.is_repeatable(x) || !body.is_done();
        // A tunnel has a connection of its own, and so has a client that the endpoint is told of.
        let fresh = fresh || self.upgrade.is_some() || self.spec.proxy_protocol.is_some();
        let reused = if fresh || first.is_some() {
            None
        } else {
            visit.reuse(self.timers.known_now(), &self.spec.rules, must_live)
        };
        let was_reused = reused.is_some();
        let mut upstream = match reused {
            Some(connection) => connection,
            None => match first {
                Some(connection) => connection,
                None => match self.connect(visit).await {
                    Ok(connection) => connection,
                    Err(failure) => return Attempt::unconnected(failure),
                },
            },
        };
        self.tell_deadline(x);
        let mut out = Buf::small();
        if let Some(version) = self.spec.proxy_protocol {
            forward::write_proxy_header(&mut out, version, x, sink.local_addr());
        }
        forward::write_head(&mut out, x, self.listener, forward::host(x, self.host, &visit.host));
        let refuses = |x: &Exchange| self.refuses(x, held);
        let terms = self.terms(visit, begun, &refuses, held);
        if let Some(upgrade) = self.upgrade {
            // Boxed, since it is rare.
            let changed = Box::pin(upgrade.exchange(sink, upstream, visit, x, out, &terms, on_head)).await;
            return changed.map_or_else(Attempt::Failed, |()| Attempt::Done);
        }
        upstream.uses += 1;
        let exchanged = match held {
            None => pin!(relay::exchange(body, sink, &mut *upstream, x, out, &terms, on_head)).await,
            Some(held) => {
                let mut body = Replayed::new(body, held);
                let mut answered = held.until_answered(on_head);
                Box::pin(relay::exchange(&mut body, sink, &mut *upstream, x, out, &terms, &mut answered)).await
            }
        };
        match exchanged {
            Ok(()) => {
                visit.learn(x.response_bytes);
                self.put_back(visit, upstream);
                Attempt::Done
            }
            Err(failure) if was_reused && is_stale(failure) => Attempt::Stale(failure),
            Err(failure) => Attempt::Failed(failure),
        }
    }

    /// An attempt at an endpoint that speaks HTTP/2, or what is still to be agreed on.
    async fn attempt_as_agreed<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        visit: &Visit<C::Io>,
        fresh: bool,
        held: Option<&Held>,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Attempt {
        if visit.protocol(&self.spec.rules).is_none() {
            match Box::pin(self.find_out(visit)).await {
                Err(failure) => return Attempt::Failed(failure),
                Ok(None) if visit.protocol(&self.spec.rules) == Some(Protocol::Http2) => {}
                Ok(first) => return Box::pin(self.attempt(down, x, visit, fresh, first, held, on_head)).await,
            }
        }
        self.attempt_stream(down, x, visit, fresh, held, on_head).await
    }

    /// An attempt over an HTTP/2 connection.
    async fn attempt_stream<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        visit: &Visit<C::Io>,
        fresh: bool,
        held: Option<&Held>,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Attempt {
        let (body, sink) = down.split();
        self.tell_deadline(x);
        match held {
            None => self.over_stream(body, sink, x, visit, fresh, held, on_head).await,
            Some(held) => {
                let mut body = Replayed::new(body, held);
                let mut answered = held.until_answered(on_head);
                self.over_stream(&mut body, sink, x, visit, fresh, Some(held), &mut answered).await
            }
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one call, whose arguments are the parts of one attempt")]
    async fn over_stream<B: RequestBody, S: ResponseSink>(
        &self,
        body: &mut B,
        sink: &mut S,
        x: &mut Exchange,
        visit: &Visit<C::Io>,
        fresh: bool,
        held: Option<&Held>,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> Attempt {
        let begun = self.timers.known_now();
        let had_body = !body.is_done();
        let mut stream = match self.open_stream(x, visit, !had_body).await {
            Ok(stream) => stream,
            Err(failure) => return Attempt::unconnected(failure),
        };
        let refuses = |x: &Exchange| self.refuses(x, held);
        let terms = self.terms(visit, begun, &refuses, held);
        match relay::exchange(body, sink, &mut stream, x, Buf::empty(), &terms, on_head).await {
            Ok(()) => Attempt::Done,
            // Not looked at by the endpoint; but what was taken of its body may be gone with it.
            Err(failure)
                if failure.reason == Reason::UpstreamRefused && had_body && !held.is_some_and(Held::is_within) =>
            {
                Attempt::Failed(Failure::with(Reason::UpstreamReset, failure.detail))
            }
            // A stream that is reset was looked at by somebody: that its endpoint fails is to be learned.
            Err(failure) if stream.was_used && !fresh && is_stale(failure) && stream.has_lost_connection() => {
                Attempt::Stale(failure)
            }
            Err(failure) => Attempt::Failed(failure),
        }
    }

    /// A stream with the request's head on its way. `end`: no body follows.
    pub(super) async fn open_stream(&self, x: &Exchange, visit: &Visit<C::Io>, end: bool) -> Result<Stream, Failure> {
        let now = self.timers.known_now();
        let wait_ms = self.spec.rules.connect_timeout_ms.min(self.due.since_ns(now) / 1_000_000);
        let due = now.plus_ms(wait_ms);
        loop {
            let opened = visit.streams.try_open(|link| {
                link.open(x.request.method, end, |encoder, out| {
                    let host = forward::host(x, self.host, &visit.host);
                    forward::write_h2_head(encoder, out, x, self.listener, host, visit.is_secure());
                })
            });
            if let Some(stream) = opened {
                if stream.was_used {
                    visit.count_reuse();
                }
                return Ok(stream);
            }
            let Some(connecting) = visit.streams.may_connect() else {
                visit.streams.wait(self.timers, due).await?;
                continue;
            };
            let left_ms = due.since_ns(self.timers.known_now()) / 1_000_000;
            let io = visit.open(self.connector, left_ms, false).await?;
            let before = visit.protocol(&self.spec.rules);
            let connection = self.begin(visit, io);
            drop(connecting);
            if connection.is_some() && before.is_some() {
                return Err(CHANGED);
            }
        }
    }

    /// Takes a new connection into service as what was agreed on for it. Returns one that serves one request at a time.
    pub(super) fn begin(&self, visit: &Visit<C::Io>, io: C::Io) -> Option<Box<ClientConnection<C::Io>>> {
        visit.remember(&io, &self.spec.rules);
        if visit.protocol(&self.spec.rules) == Some(Protocol::Http2) {
            visit.streams.begin(self.connector, io, self.timers, &self.spec.rules);
            return None;
        }
        Some(Box::new(ClientConnection::new(io, self.timers)))
    }

    /// Finds out what an endpoint speaks that was not asked yet, with its first connection. One request asks, the
    /// others wait. Returns that connection, where it is one of HTTP/1.1 and this request's; else the endpoint's
    /// protocol is known afterwards.
    async fn find_out(&self, visit: &Visit<C::Io>) -> Result<Option<Box<ClientConnection<C::Io>>>, Failure> {
        let now = self.timers.known_now();
        let due = now.plus_ms(self.spec.rules.connect_timeout_ms.min(self.due.since_ns(now) / 1_000_000));
        loop {
            match visit.protocol(&self.spec.rules) {
                Some(Protocol::Http2) => return Ok(None),
                Some(_) => return Ok(None),
                None => {}
            }
            let Some(connecting) = visit.streams.may_connect() else {
                visit.streams.wait(self.timers, due).await?;
                continue;
            };
            let left_ms = due.since_ns(self.timers.known_now()) / 1_000_000;
            let io = visit.open(self.connector, left_ms, false).await?;
            let connection = self.begin(visit, io);
            drop(connecting);
            if connection.is_some() {
                return Ok(connection);
            }
        }
    }

    pub(super) async fn connect(&self, visit: &Visit<C::Io>) -> Result<Box<ClientConnection<C::Io>>, Failure> {
        let left_ms = self.due.since_ns(self.timers.known_now()) / 1_000_000;
        let timeout_ms = self.within_try(self.spec.rules.connect_timeout_ms, self.timers.known_now()).min(left_ms);
        let io = visit.open(self.connector, timeout_ms, self.upgrade.is_some()).await?;
        if self.upgrade.is_some() {
            return Ok(Box::new(ClientConnection::new(io, self.timers)));
        }
        self.begin(visit, io).ok_or(CHANGED)
    }

    /// `ms`, or what is left of an attempt that began then, in milliseconds.
    #[inline]
    pub(super) fn within_try(&self, ms: u64, begun: Now) -> u64 {
        let Some(whole_ms) = self.retries.per_try_ms else { return ms };
        ms.min(whole_ms.saturating_sub(self.timers.known_now().since_ns(begun) / 1_000_000))
    }

    /// Writes how many milliseconds are left into the request (R133).
    #[inline]
    pub(super) fn tell_deadline(&self, x: &mut Exchange) {
        if let Some(name) = &self.retries.deadline_header {
            let left_ms = self.due.since_ns(self.timers.known_now()) / 1_000_000;
            let written = x.request.fields.set(name.as_bytes(), left_ms.to_string().as_bytes());
            debug_assert!(written.is_ok(), "a name that was checked");
        }
    }

    pub(super) fn put_back(&self, visit: &Visit<C::Io>, upstream: Box<ClientConnection<C::Io>>) {
        if upstream.is_reusable() {
            visit.pool.give(upstream, self.timers.known_now(), &self.spec.rules);
        }
    }
}

/// Whether an attempt cost no endpoint anything: to look elsewhere makes no storm, and needs nothing of the budget that
/// is there to prevent one (F25).
fn cost_nothing(failure: Failure) -> bool {
    failure.reason == Reason::UpstreamRefused || Outcome::of(failure, false) == Outcome::Unreached
}

/// Makes the request ready to be sent once more. A client that waited for 100 Continue has had it.
fn rewind(x: &mut Exchange, held: Option<&Held>) {
    if let Some(held) = held {
        held.rewind();
        x.request.expects_continue &= !held.has_begun();
    }
}

/// Whether a failure is what a connection gives that the endpoint closed while it was idle.
pub(super) fn is_stale(failure: Failure) -> bool {
    matches!(failure.reason, Reason::UpstreamClosed | Reason::UpstreamReset)
}
