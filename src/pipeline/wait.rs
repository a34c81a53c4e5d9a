//! Waits that policies and services ask for. Everything here is boxed where it is called: few requests wait, and the
//! others should not carry the room for it.

use std::future::poll_fn;
use std::task::Poll;

use super::env::Env;
use crate::concurrency::{Permit, Ticket};
use crate::error::{Failure, Reason};
use crate::http::downstream::Downstream;
use crate::http::exchange::Exchange;
use crate::net::io::Connect;
use crate::policy::slots::{LiveChain, Progress};
use crate::policy::{Flow, Pending, Resumed};
use crate::time::Now;

/// Waits for what a policy asks for and goes on with the chain, until that needs no wait.
///
/// # Errors
/// [`Reason::ClientClosed`]: the client left meanwhile.
pub async fn policies<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    chain: &LiveChain,
    progress: &mut Progress,
    x: &mut Exchange,
    mut pending: Box<Pending>,
    due: Now,
) -> Result<Flow, Failure> {
    loop {
        let outcome = match *pending {
            Pending::Place(ticket) => Resumed::Place(place(&|| down.has_left(), env, ticket, due).await?),
        };
        match chain.on_resume(progress, x, outcome, env.timers.now()) {
            Flow::Wait(next) => pending = next,
            flow => return Ok(flow),
        }
    }
}

/// Waits for a place under a service's limit.
///
/// # Errors
/// [`Reason::QueueTimeout`], or [`Reason::ClientClosed`]: the client left meanwhile.
pub async fn service<D: Downstream, C: Connect>(
    down: &mut D,
    env: &Env<C>,
    x: &mut Exchange,
    ticket: Ticket,
    due: Now,
) -> Result<(), Failure> {
    let permit = place(&|| down.has_left(), env, ticket, due).await?.map_err(Failure::new)?;
    x.permits.push(permit);
    Ok(())
}

/// The place, or [`Reason::QueueTimeout`]. `due`: when the whole request must be over.
///
/// # Errors
/// [`Reason::ClientClosed`]: the client left meanwhile.
pub async fn place<C: Connect>(
    has_left: &dyn Fn() -> bool,
    env: &Env<C>,
    mut ticket: Ticket,
    due: Now,
) -> Result<Result<Permit, Reason>, Failure> {
    ticket.end_by(due);
    env.waiting.watch(&ticket);
    poll_fn(|cx| {
        // First of all: a place that is there is taken, also when it came at the last moment.
        if let Some(permit) = ticket.granted() {
            return Poll::Ready(Ok(Ok(permit)));
        }
        if env.timers.known_now() >= ticket.due() {
            return Poll::Ready(Ok(Err(Reason::QueueTimeout)));
        }
        if has_left() {
            ticket.leave();
            return Poll::Ready(Err(Failure::with(Reason::ClientClosed, "left the queue")));
        }
        ticket.park(cx.waker());
        Poll::Pending
    })
    .await
}
