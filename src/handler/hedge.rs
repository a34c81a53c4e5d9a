//! Hedged requests (Dean and Barroso, The Tail at Scale): where an endpoint takes longer than most answers do, the same
//! request goes to another one as well. The first answer wins, the others are cancelled.
//!
//! Only what may be repeated and has no body is hedged, and each copy takes a retry from the service's budget. A copy
//! is a future of its own with its own connection or stream: the loser's is dropped as a whole, its connection shut
//! before, its stream reset, and never used again. Interim responses are not passed on meanwhile: they would be those
//! of an answer that may lose.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

use super::forward;
use super::nap::nap;
use super::proxy::{Attempt, Proxy, is_stale};
use super::relay::{self, TOO_MANY_INTERIM, is_final};
use crate::error::{Failure, Reason};
use crate::http::downstream::Downstream;
use crate::http::exchange::Exchange;
use crate::http::message::ResponseHead;
use crate::limits::INTERIM_RESPONSES_MAX;
use crate::net::io::{Connect, Io};
use crate::proto::h1::client::ClientConnection;
use crate::proto::h2::client::Stream;
use crate::proto::upstream::{Interrupter, RequestSink, ResponseSource, Upstream};
use crate::snapshot::Protocol;
use crate::sys::buf::Buf;
use crate::time::Now;
use crate::upstream::balance::TriedSet;
use crate::upstream::endpoint::Visit;
use crate::upstream::passive::CHANGED;
use crate::upstream::rules::Hedge;

/// What an answer comes on.
enum Wire<I: Io> {
    Connection(Box<ClientConnection<I>>),
    Stream(Stream),
}

/// An answer whose head is there.
struct Won<I: Io> {
    wire: Wire<I>,
    head: Box<ResponseHead>,
    asked: Now,
}

/// A copy that has come to its end.
struct Finished<I: Io> {
    at: u32,
    visit: Visit<I>,
    won: Result<Won<I>, Failure>,
}

type Copy<'r, I> = Pin<Box<dyn Future<Output = Finished<I>> + 'r>>;

/// What happened next.
enum Event<I: Io> {
    Finished(Finished<I>),
    TimeForAnother,
}

/// Shuts a connection when its copy of the request is given up: a read that is under way ends with it.
struct Cut(Option<Interrupter>);

impl Drop for Cut {
    fn drop(&mut self) {
        if let Some(interrupter) = self.0.take() {
            interrupter.shutdown_if(true);
        }
    }
}

impl<C: Connect> Proxy<'_, C> {
    /// Answers by the first of up to `1 + hedge.most` endpoints, of which `visit` is asked at once. Returns how it
    /// ended, and with which of them.
    pub(super) async fn race<D: Downstream>(
        &self,
        down: &mut D,
        x: &mut Exchange,
        (at, visit): (u32, Visit<C::Io>),
        tried: &mut TriedSet,
        hedge: &Hedge,
        on_head: &mut dyn FnMut(&mut Exchange),
    ) -> (Attempt, u32, Visit<C::Io>) {
        self.tell_deadline(x);
        x.upstream_status = 0;
        let begun = self.timers.known_now();
        let (Finished { at: winner, visit, won }, copies) = self.first_of(x, (at, visit), tried, hedge).await;
        x.hedges += copies;
        x.endpoint = Some(visit.tag.clone());
        let won = match won {
            Ok(won) => won,
            Err(failure) => return (Attempt::Failed(failure), winner, visit),
        };
        x.hedge_won = winner != at;
        x.response = *won.head;
        let refuses = |x: &Exchange| self.refuses(x, None);
        let terms = self.terms(&visit, begun, &refuses, None);
        let (_, sink) = down.split();
        let delivered = match won.wire {
            Wire::Connection(mut connection) => {
                let receiver = connection.split().1;
                let delivered = relay::deliver(receiver, sink, x, won.asked, &terms, on_head).await;
                if delivered.is_ok() {
                    visit.learn(x.response_bytes);
                    self.put_back(&visit, connection);
                }
                delivered
            }
            Wire::Stream(mut stream) => relay::deliver(stream.split().1, sink, x, won.asked, &terms, on_head).await,
        };
        // From the first copy on: what the others might have taken is not known.
        self.service.note_answer(hedge, won.asked.since_ns(begun) + x.upstream_ns);
        (delivered.map_or_else(Attempt::Failed, |()| Attempt::Done), winner, visit)
    }

    /// The first whole head, or the last failure. Returns how many copies were sent.
    async fn first_of(
        &self,
        x: &Exchange,
        (at, visit): (u32, Visit<C::Io>),
        tried: &mut TriedSet,
        hedge: &Hedge,
    ) -> (Finished<C::Io>, u8) {
        let after_ms = self.service.hedge_after_ms(hedge);
        let mut running: Vec<Copy<'_, C::Io>> = vec![Box::pin(self.copy(x, at, visit))];
        let (mut pause, mut copies, mut asked) = (Some(Box::pin(nap(self.timers, after_ms))), 0, vec![at]);
        loop {
            let event = poll_fn(|cx| {
                for at in 0..running.len() {
                    if let Poll::Ready(finished) = running[at].as_mut().poll(cx) {
                        drop(running.swap_remove(at));
                        return Poll::Ready(Event::Finished(finished));
                    }
                }
                match &mut pause {
                    Some(until) => until.as_mut().poll(cx).map(|()| Event::TimeForAnother),
                    None => Poll::Pending,
                }
            })
            .await;
            match event {
                Event::Finished(finished) if finished.won.is_ok() || running.is_empty() => return (finished, copies),
                Event::Finished(Finished { visit, won, .. }) => {
                    won.err().into_iter().for_each(|failure| self.blame(&visit, x, failure));
                }
                Event::TimeForAnother => {
                    pause = None;
                    let Some((at, visit)) = self.another(x, tried, &mut asked) else { continue };
                    running.push(Box::pin(self.copy(x, at, visit)));
                    copies += 1;
                    pause = (copies < hedge.most).then(|| Box::pin(nap(self.timers, after_ms)));
                }
            }
        }
    }

    /// An endpoint that has no copy yet, if the budget has one left.
    fn another(&self, x: &Exchange, tried: &mut TriedSet, asked: &mut Vec<u32>) -> Option<(u32, Visit<C::Io>)> {
        let now = self.timers.now();
        let room = now < self.due && asked.iter().all(|at| tried.has(*at as usize) || tried.insert(*at as usize));
        if !room || self.service.len() <= asked.len() || !self.service.take_retry(self.spec, now) {
            return None;
        }
        let (at, visit) = self.service.choose(self.spec, x, tried, now).ok()?;
        let is_new = !asked.contains(&at);
        asked.push(at);
        is_new.then_some((at, visit))
    }

    /// One copy, to the head of its answer.
    async fn copy(&self, x: &Exchange, at: u32, visit: Visit<C::Io>) -> Finished<C::Io> {
        let won = match visit.protocol(&self.spec.rules) {
            Some(Protocol::Http2) => self.over_shared(x, &visit).await,
            _ => match self.over_own(x, &visit).await {
                // It has turned out to speak HTTP/2.
                Err(failure) if failure == CHANGED => self.over_shared(x, &visit).await,
                result => result,
            },
        };
        Finished { at, visit, won }
    }

    async fn over_own(&self, x: &Exchange, visit: &Visit<C::Io>) -> Result<Won<C::Io>, Failure> {
        let begun = self.timers.known_now();
        if let Some(connection) = visit.reuse(begun, &self.spec.rules, true) {
            match self.exchange_heads(x, visit, connection, begun).await {
                // The endpoint had closed it while it was idle.
                Err(failure) if is_stale(failure) => {}
                result => return result,
            }
        }
        let connection = self.connect(visit).await?;
        self.exchange_heads(x, visit, connection, begun).await
    }

    async fn exchange_heads(
        &self,
        x: &Exchange,
        visit: &Visit<C::Io>,
        mut connection: Box<ClientConnection<C::Io>>,
        begun: Now,
    ) -> Result<Won<C::Io>, Failure> {
        let mut out = Buf::small();
        forward::write_head(&mut out, x, self.listener, forward::host(x, self.host, &visit.host));
        connection.uses += 1;
        let mut cut = Cut(Some(connection.sender.interrupter()));
        let asked = self.timers.known_now();
        let (sender, receiver) = connection.split();
        drop(sender.send(out, self.spec.rules.send_timeout_ms).await?);
        let head = self.final_head(receiver, x, begun).await?;
        cut.0 = None;
        drop(cut);
        Ok(Won { wire: Wire::Connection(connection), head, asked })
    }

    async fn over_shared(&self, x: &Exchange, visit: &Visit<C::Io>) -> Result<Won<C::Io>, Failure> {
        let begun = self.timers.known_now();
        loop {
            let mut stream = self.open_stream(x, visit, true).await?;
            let asked = self.timers.known_now();
            let (sender, receiver) = stream.split();
            // The head is in the connection's output: this sends it on its way.
            drop(sender.send(Buf::empty(), self.spec.rules.send_timeout_ms).await?);
            match self.final_head(receiver, x, begun).await {
                Ok(head) => return Ok(Won { wire: Wire::Stream(stream), head, asked }),
                // Of a connection that had ended by itself. A new one is another matter.
                Err(failure) if stream.was_used && is_stale(failure) => {}
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn final_head<R: ResponseSource>(
        &self,
        receiver: &mut R,
        x: &Exchange,
        begun: Now,
    ) -> Result<Box<ResponseHead>, Failure> {
        let wait_ms = self.within_try(self.spec.rules.first_byte_timeout_ms, begun);
        let due = self.timers.known_now().plus_ms(wait_ms).min(self.due);
        let mut head = Box::<ResponseHead>::default();
        for _ in 0..=INTERIM_RESPONSES_MAX {
            let received = receiver.recv_head(&mut head, x.request.method, &self.spec.rules.head, due).await;
            received.map_err(|failure| match failure.reason {
                Reason::UpstreamTimeout if self.timers.now() >= self.due => Reason::RequestTimeout.into(),
                _ => failure,
            })?;
            match head.status {
                101 => return Err(Failure::with(Reason::UpstreamInvalid, "switch of protocols that nobody asked for")),
                status if is_final(status) => return Ok(head),
                _ => {}
            }
        }
        Err(TOO_MANY_INTERIM)
    }
}
