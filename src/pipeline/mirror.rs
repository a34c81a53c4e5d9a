//! Copies of requests for a second service, whose answers nobody gets (shadow traffic). A copy runs in a task of
//! its own, over the service's own connections, and is bounded in number, bytes and time: the request that it was made
//! from neither waits for it nor learns what became of it.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;

use super::env::{Env, Strain};
use super::fallback;
use super::plan::Plan;
use crate::error::{Failure, Reason};
use crate::handler::proxy::Proxy;
use crate::handler::replay::Tap;
use crate::http::body::Chunk;
use crate::http::downstream::{Downstream, RequestBody, ResponseSink, Rest};
use crate::http::exchange::Exchange;
use crate::http::grpc::Dress;
use crate::http::message::BodyLength;
use crate::limits::{BUF_SMALL_BYTES, MIRROR_ANSWER_BYTES_MAX};
use crate::net::io::Connect;
use crate::net::timer::Timers;
use crate::snapshot::{Listener, MirrorRules, Route};
use crate::sys::buf::Buf;
use crate::telemetry::metrics::instruments::Mirrored;
use crate::telemetry::metrics::stats::ServiceStats;
use crate::upstream::rules::RetryRules;
use crate::upstream::state::ServiceState;

/// Marks a copy. A request that comes with it is not copied again, so that gateways that mirror to each other end.
const MARK: &[u8] = b"X-Mirrored";

/// Why a request of this route is not copied, whatever its share; None where it may be.
pub fn why_not(route: &Route, rules: &MirrorRules, x: &Exchange) -> Option<WhyNot> {
    let is_web = x.grpc.is_some_and(|call| call.dress != Dress::Grpc);
    match x.request.body {
        _ if x.request.fields.find(MARK).is_some() => Some(WhyNot::IsCopy),
        _ if x.request.upgrade.is_some() => Some(WhyNot::Changes),
        _ if is_web && route.grpc_web => Some(WhyNot::Translated),
        BodyLength::Known(bytes) if bytes > rules.body_bytes_max => Some(WhyNot::TooLong),
        _ => None,
    }
}

/// See [`why_not`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhyNot {
    /// It is one.
    IsCopy,
    /// It asks for another protocol, which a copy cannot speak.
    Changes,
    /// It is translated on its way from gRPC-Web.
    Translated,
    /// Its body is too long.
    TooLong,
}

impl WhyNot {
    /// For people.
    pub const fn text(self) -> &'static str {
        match self {
            WhyNot::IsCopy => "it is a copy itself",
            WhyNot::Changes => "it asks for another protocol",
            WhyNot::Translated => "it is translated from gRPC-Web",
            WhyNot::TooLong => "its body is too long",
        }
    }
}

/// Copies a request that goes to its service now, where it is to be mirrored. One without a body leaves at once; with
/// one, when the last of it has been passed on: that is told by what is returned.
#[cold]
pub fn copy<C: Connect>(
    env: &Env<C>,
    plan: &Rc<Plan<C::Io>>,
    listener: &Listener,
    rules: &MirrorRules,
    x: &Exchange,
) -> Option<Rc<Tap>> {
    let why_not = why_not(&plan.snapshot.routes[x.route as usize], rules, x);
    if !rules.takes(x.random) || !matches!(why_not, None | Some(WhyNot::TooLong)) {
        return None;
    }
    let at = rules.service as usize;
    let (stats, state) = (plan.services[at].stats.stats(), &plan.snapshot.services[at].state);
    if why_not.is_some() {
        stats.mirrored.add(Mirrored::BodyTooLong as usize);
        return None;
    }
    let is_short = env.strain.get() != Strain::None || env.draining.get();
    let place = if is_short { None } else { Place::take(&stats, state, rules.requests_max) };
    let (Some(place), Some(connector)) = (place, env.connector.another()) else {
        stats.mirrored.add(Mirrored::Refused as usize);
        return None;
    };
    let mut request = Box::new(x.copy_request());
    let marked = request.request.fields.set(MARK, b"true");
    debug_assert!(marked.is_ok(), "a legal field");
    request.request.expects_continue = false;
    let copy = Copied {
        connector: Rc::new(connector),
        timers: env.timers.clone(),
        plan: plan.clone(),
        listener: plan.snapshot.listeners.iter().position(|own| own.name == listener.name)?,
        route: x.route,
        x: request,
        place,
    };
    if x.request.body.is_empty() {
        copy.leave(Some(Vec::new()));
        return None;
    }
    Some(Rc::new(Tap::new(rules.body_bytes_max as usize, |body| copy.leave(body))))
}

/// A place among the copies under way, and what became of this one: counted when it is dropped.
struct Place {
    stats: Rc<ServiceStats>,
    /// Where all workers count them.
    state: Arc<ServiceState>,
    result: Mirrored,
}

impl Place {
    fn take(stats: &Rc<ServiceStats>, state: &Arc<ServiceState>, most: u32) -> Option<Self> {
        let (stats, result) = (stats.clone(), Mirrored::BodyIncomplete);
        state.take_copy(most).then(|| Self { stats, state: state.clone(), result })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.state.give_copy_back();
        self.stats.mirrored.add(self.result as usize);
    }
}

/// A copy with all that it needs when the request that it was made from is over.
struct Copied<C: Connect> {
    connector: Rc<C>,
    timers: Rc<Timers>,
    plan: Rc<Plan<C::Io>>,
    listener: usize,
    route: u32,
    x: Box<Exchange>,
    place: Place,
}

impl<C: Connect> Copied<C> {
    /// Sends it with this body, if there is one, in a task of its own.
    fn leave(mut self, body: Option<Vec<u8>>) {
        let Some(body) = body else {
            self.place.result = Mirrored::BodyTooLong;
            return;
        };
        self.place.result = Mirrored::Failed;
        let connector = self.connector.clone();
        connector.spawn(guarded(Box::pin(self.run(body))));
    }

    async fn run(mut self, body: Vec<u8>) {
        let Some(rules) = self.plan.snapshot.routes[self.route as usize].mirror.as_deref() else { return };
        let at = rules.service as usize;
        let (spec, service) = (&self.plan.snapshot.services[at], &self.plan.services[at]);
        let x = &mut *self.x;
        // It waits for nobody: a service whose limit is reached, or whose breaker is open, does without it.
        let passage = spec.breaker.as_ref().map(|breaker| breaker.enter(self.timers.known_now())).transpose();
        let entered = service.enter(x, self.timers.known_now());
        let (Ok(passage), Ok(None)) = (passage, entered) else {
            self.place.result = Mirrored::Refused;
            return;
        };
        let due = self.timers.now().plus_ms(rules.timeout_ms);
        let proxy = Proxy {
            connector: &*self.connector,
            timers: &self.timers,
            listener: &self.plan.snapshot.listeners[self.listener],
            spec,
            service,
            host: &spec.host,
            due: x.grpc.map_or(due, |call| due.min(call.due)),
            body_bytes_max: u64::MAX,
            retries: &RetryRules { attempts_max: 1, ..RetryRules::default() },
            upgrade: None,
            is_stream: false,
            tap: None,
        };
        let mut down = Nobody::new(body, x.request.body);
        let answered = proxy.answer(&mut down, x, &mut |_| {}).await;
        fallback::settle(passage, x, &answered, self.timers.known_now());
        if answered.is_ok() || down.sink.is_over() {
            self.place.result = Mirrored::Answered;
        }
    }
}

/// Ends a task that panics without its worker: its copy counts as failed.
fn guarded(mut task: Pin<Box<dyn Future<Output = ()>>>) -> Pin<Box<dyn Future<Output = ()>>> {
    Box::pin(std::future::poll_fn(move |cx| match catch_unwind(AssertUnwindSafe(|| task.as_mut().poll(cx))) {
        Ok(poll) => poll,
        Err(_) => Poll::Ready(()),
    }))
}

/// The client of a copy: its body is at hand, and nobody looks at its answer.
struct Nobody {
    body: Whole,
    sink: Nowhere,
}

impl Nobody {
    fn new(body: Vec<u8>, length: BodyLength) -> Self {
        let is_done = length.is_empty();
        Self { body: Whole { bytes: body, at: 0, is_done }, sink: Nowhere::default() }
    }
}

impl Downstream for Nobody {
    type Body = Whole;
    type Response = Nowhere;

    fn split(&mut self) -> (&mut Whole, &mut Nowhere) {
        (&mut self.body, &mut self.sink)
    }
}

/// A body in memory.
struct Whole {
    bytes: Vec<u8>,
    at: usize,
    is_done: bool,
}

impl Whole {
    fn piece(&mut self) -> Chunk {
        let to = self.bytes.len().min(self.at + BUF_SMALL_BYTES);
        let data = Buf::copy_of(&self.bytes[self.at..to]);
        self.at = to;
        self.is_done = to == self.bytes.len();
        Chunk { data, end: self.is_done, trailers: None }
    }
}

impl RequestBody for Whole {
    fn ready(&mut self) -> Result<Option<Chunk>, Failure> {
        Ok(if self.is_done { None } else { Some(self.piece()) })
    }

    async fn next(&mut self) -> Result<Chunk, Failure> {
        Ok(self.piece())
    }

    fn is_done(&self) -> bool {
        self.is_done
    }

    fn begin_drain(&mut self) {}

    fn stopper(&self) -> Box<dyn Fn(Rest)> {
        Box::new(|_| {})
    }
}

/// Takes an answer, up to a bound, so that its connection can be used again.
#[derive(Default)]
struct Nowhere {
    head_sent: bool,
    bytes: u64,
}

impl Nowhere {
    fn is_over(&self) -> bool {
        self.bytes > MIRROR_ANSWER_BYTES_MAX
    }

    fn drop_piece(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        self.bytes += chunk.data.len() as u64;
        if self.is_over() {
            // Said as of a client that left: it is no fault of the endpoint.
            return Err(Failure::with(Reason::ClientClosed, "the answer to a copy is too long"));
        }
        let mut emptied = chunk.data;
        emptied.clear();
        Ok(emptied)
    }
}

impl ResponseSink for Nowhere {
    async fn send_continue(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    async fn send_interim(&mut self, _: &Exchange) -> Result<(), Failure> {
        Ok(())
    }

    async fn send_head(&mut self, _: &mut Exchange, first: Chunk) -> Result<(), Failure> {
        self.head_sent = true;
        self.drop_piece(first).map(drop)
    }

    async fn send_body(&mut self, chunk: Chunk) -> Result<Buf, Failure> {
        self.drop_piece(chunk)
    }

    async fn send_switch(&mut self, _: &mut Exchange) -> Result<(), Failure> {
        Err(Reason::Internal.into())
    }

    fn local_addr(&self) -> Option<SocketAddr> {
        None
    }

    fn head_sent(&self) -> bool {
        self.head_sent
    }

    fn abort(&mut self) {}

    fn close_after(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_comes_in_pieces_and_ends_once() {
        for (length, body) in
            [(20_000, BodyLength::Known(20_000)), (0, BodyLength::Streamed), (7, BodyLength::Streamed)]
        {
            let mut whole = Nobody::new(vec![b'x'; length], body).body;
            let mut got = 0;
            assert!(!whole.is_done());
            while let Some(chunk) = whole.ready().expect("a body in memory") {
                got += chunk.data.len();
                assert_eq!(chunk.end, whole.is_done());
            }
            assert_eq!(got, length);
        }
        assert!(Nobody::new(Vec::new(), BodyLength::None).body.is_done());
        assert!(Nobody::new(Vec::new(), BodyLength::Known(0)).body.is_done());
    }

    #[test]
    fn an_answer_is_read_up_to_its_bound() {
        let mut sink = Nowhere::default();
        let mut piece = || sink.drop_piece(Chunk::more(Buf::copy_of(&[0; 4096]))).is_ok();
        let taken = (0..300).filter(|_| piece()).count() as u64;
        assert_eq!(taken, MIRROR_ANSWER_BYTES_MAX / 4096);
        assert!(sink.is_over());
    }

    #[test]
    fn shares_are_of_all_requests() {
        let rules = |share| MirrorRules { service: 0, share, requests_max: 1, body_bytes_max: 1, timeout_ms: 1 };
        let (none, all, half) = (rules(0), rules(1 << 32), rules(1 << 31));
        for random in [0, 1, u64::MAX, 0x8000_0000, 0x7fff_ffff] {
            assert!(!none.takes(random) && all.takes(random));
            assert_eq!(half.takes(random), random as u32 & 0x8000_0000 == 0, "{random:x}");
        }
    }
}
