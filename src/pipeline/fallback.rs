//! What stands around the asking of a service: its circuit breaker, what answers in its place (R117-R128, R139, R140),
//! and the cookie by which its clients stick to endpoints.

use crate::error::{Failure, Origin, Reason};
use crate::http::downstream::{Downstream, ResponseSink};
use crate::http::exchange::{Exchange, Reply, Scheme};
use crate::snapshot::{self, Fallback, Service};
use crate::time::Now;
use crate::upstream::balance::hash_key;
use crate::upstream::breaker::{BreakerSpec, Passage, Verdict};
use crate::upstream::passive::Outcome;
use crate::upstream::sticky::Sticky;

/// The way through the breaker that the request's route takes; None where there is none.
///
/// # Errors
/// [`Reason::CircuitOpen`]; the client is told when to come back.
#[inline]
pub fn pass<'a>(
    route: &'a snapshot::Route,
    service: &'a Service,
    x: &mut Exchange,
    now: Now,
) -> Result<Option<Passage<'a>>, Failure> {
    let breaker = match &route.breaker {
        None => service.breaker.as_ref(),
        Some(own) => own.as_deref(),
    };
    let Some(breaker) = breaker else { return Ok(None) };
    match breaker.enter(now) {
        Ok(passage) => Ok(Some(passage)),
        Err(ms) => Err(refused(breaker, x, ms)),
    }
}

#[cold]
fn refused(_: &BreakerSpec, x: &mut Exchange, ms: u64) -> Failure {
    let seconds = ms.div_ceil(1_000).max(1).to_string();
    let added = x.late_fields.set(b"Retry-After", seconds.as_bytes());
    debug_assert!(added.is_ok(), "digits");
    Reason::CircuitOpen.into()
}

/// Tells the breaker how the request ended (C25).
#[inline]
pub fn settle(passage: Option<Passage<'_>>, x: &Exchange, answered: &Result<(), Failure>, now: Now) {
    if let Some(passage) = passage {
        let verdict = match answered {
            Ok(()) if passage.is_failure(x.upstream_status) => Verdict::Failure,
            Ok(()) => Verdict::Success,
            Err(failure) if failure.reason == Reason::UpstreamStatus => Verdict::Failure,
            Err(failure) => match Outcome::of(*failure, x.upstream_status != 0) {
                outcome if outcome.is_failure() => Verdict::Failure,
                _ => Verdict::Nothing,
            },
        };
        passage.settle(verdict, now);
    }
}

/// What answers in place of a service that gave this failure; None where nothing may.
#[cold]
pub fn instead<'a, D: Downstream>(
    down: &mut D,
    service: &'a Service,
    x: &Exchange,
    failure: Failure,
) -> Option<&'a Fallback> {
    let fallback = service.fallback.as_ref()?;
    let (_, sink) = down.split();
    let unasked = matches!(failure.reason, Reason::CircuitOpen | Reason::NoEndpoint);
    if sink.head_sent() || !(unasked || failure.reason.origin() == Origin::Upstream) {
        return None;
    }
    // A body that has gone out is not there any more.
    let whole = x.attempts == 0 || x.request.body.is_empty();
    (whole || matches!(fallback, Fallback::Respond { .. })).then_some(fallback)
}

/// Tells a client which endpoint it has, unless it says so itself.
pub fn stick(sticky: &Sticky, x: &mut Exchange) {
    let Some(endpoint) = x.endpoint.clone() else { return };
    let known = x.request.cookie(sticky.cookie.as_bytes()).and_then(|value| sticky.read(value));
    if known != Some(hash_key(endpoint.authority.as_bytes())) {
        let written = sticky.write(&endpoint.authority, x.scheme == Scheme::Https);
        let added = x.response.fields.append(b"Set-Cookie", written.as_bytes());
        debug_assert!(added.is_ok(), "a name that was checked, and digits");
    }
}

/// A fixed answer in place of a service.
pub fn reply(status: u16, body: &bytes::Bytes, fields: &[(bytes::Bytes, bytes::Bytes)]) -> Reply {
    Reply { status, reason: None, content_type: "", body: body.clone(), fields: fields.to_vec() }
}
