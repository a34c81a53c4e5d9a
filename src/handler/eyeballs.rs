//! Connections to a name that has several addresses (RFC 8305, Happy Eyeballs): where one is not there after a short
//! while, another address of the same name is tried beside it, the other family first. Whoever connects first gets the
//! request, of which nothing was sent before.
//!
//! A connection that lost goes on in its task: what becomes of it tells whether the address is only far away, or leads
//! nowhere. Until that is known, requests to this address begin with another one, so that a black hole costs one of
//! them the short while and no request the time of a connection.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::nap::nap;
use super::proxy::Proxy;
use crate::error::Failure;
use crate::http::exchange::Exchange;
use crate::limits::ADDRESSES_AT_ONCE_MAX;
use crate::net::io::{Connect, Io};
use crate::net::timer::Timers;
use crate::proto::h1::client::ClientConnection;
use crate::snapshot::{Protocol, ServiceRules};
use crate::time::Now;
use crate::upstream::balance::TriedSet;
use crate::upstream::endpoint::{Endpoint, Visit};
use crate::upstream::passive::LATE;

/// A connection for one request alone, or None where its endpoint has one to share or has to be asked as ever.
pub type Given<I> = Result<Option<Box<ClientConnection<I>>>, Failure>;

/// That, and whose it is.
pub type First<I> = (Given<I>, u32, Visit<I>);

/// An address that is being tried, by a task of its own.
struct Leg<I: Io> {
    at: u32,
    visit: Visit<I>,
    end: Rc<End<I>>,
}

/// Where that task tells how it ended.
struct End<I: Io> {
    given: RefCell<Option<Given<I>>>,
    waker: RefCell<Option<Waker>>,
    /// It opens a connection, and does not wait for that of somebody else.
    opens: Cell<bool>,
    /// The request has gone elsewhere.
    is_left: Cell<bool>,
}

enum Event<I: Io> {
    Given(Leg<I>, Given<I>),
    TimeForAnother,
}

impl<C: Connect> Proxy<'_, C> {
    /// Whether other addresses of the endpoint's name may be asked too, since a connection has to be opened.
    #[inline]
    pub fn has_choice(&self, visit: &Visit<C::Io>) -> bool {
        visit.has_twins() && self.needs_connection(visit)
    }

    #[cold]
    fn needs_connection(&self, visit: &Visit<C::Io>) -> bool {
        let own = self.is_alone() || self.spec.proxy_protocol.is_some();
        let idle = || !visit.pool.is_empty() || !visit.streams.is_empty();
        self.spec.rules.next_address_ms > 0 && (own || !idle())
    }

    fn is_alone(&self) -> bool {
        self.is_stream || self.upgrade.is_some()
    }

    /// Connects to the endpoint, or to another address of its name.
    pub async fn connect_first(
        &self,
        x: &mut Exchange,
        (at, visit): (u32, Visit<C::Io>),
        tried: &mut TriedSet,
    ) -> First<C::Io> {
        let Some(connector) = self.connector.another() else { return (Ok(None), at, visit) };
        let name = visit.endpoint();
        let (mut asked, mut spare) = (vec![at], None);
        let other = if name.is_late() { self.next_address(&name, tried, &mut asked) } else { None };
        let first = match other {
            Some((other, twin)) if !self.needs_connection(&twin) => return (Ok(None), other, twin),
            Some((other, twin)) => {
                spare = Some((at, visit));
                self.leg(connector, other, twin)
            }
            None => self.leg(connector, at, visit),
        };
        let (mut legs, mut pause) = (vec![first], self.pause_for_next());
        loop {
            let failed = match next_event(&mut legs, &mut pause).await {
                Event::Given(leg, Ok(connection)) => {
                    legs.into_iter().for_each(leave_behind);
                    return (Ok(connection), leg.at, leg.visit);
                }
                Event::Given(leg, Err(failure)) => Some((leg, failure)),
                Event::TimeForAnother => None,
            };
            pause = None;
            if let Some((at, twin)) = self.next_address(&name, tried, &mut asked)
                && let Some(connector) = self.connector.another()
            {
                if !self.needs_connection(&twin) {
                    if let Some((leg, failure)) = failed {
                        self.note_lost(x, &leg, failure, tried);
                    }
                    legs.into_iter().for_each(leave_behind);
                    return (Ok(None), at, twin);
                }
                legs.push(self.leg(connector, at, twin));
                pause = self.pause_for_next();
            }
            let Some((leg, failure)) = failed else { continue };
            let is_last = legs.is_empty();
            match (failure == LATE, spare.take()) {
                // The last hope of this request: it waits with those that wait already.
                (true, last) => spare = last.or(Some((leg.at, leg.visit))),
                (false, None) if is_last => return (Err(failure), leg.at, leg.visit),
                (false, last) => {
                    self.note_lost(x, &leg, failure, tried);
                    spare = last;
                }
            }
            if is_last && let Some((at, visit)) = spare {
                return (Ok(None), at, visit);
            }
        }
    }

    fn pause_for_next(&self) -> Option<Pin<Box<impl Future<Output = ()>>>> {
        Some(Box::pin(nap(self.timers, self.spec.rules.next_address_ms)))
    }

    /// One address that failed while others are left.
    fn note_lost(&self, x: &mut Exchange, leg: &Leg<C::Io>, failure: Failure, tried: &mut TriedSet) {
        self.blame(&leg.visit, x, failure);
        // Full: the request has asked enough, and goes to nobody else afterwards.
        let _ = tried.has(leg.at as usize) || tried.insert(leg.at as usize);
        x.attempts += 1;
        x.vain += 1;
    }

    /// Another address of the same name that was not asked yet, counted as asked.
    fn next_address(
        &self,
        name: &Endpoint<C::Io>,
        tried: &TriedSet,
        asked: &mut Vec<u32>,
    ) -> Option<(u32, Visit<C::Io>)> {
        if asked.len() >= ADDRESSES_AT_ONCE_MAX || self.timers.known_now() >= self.due {
            return None;
        }
        let taken = |at: usize| tried.has(at) || asked.contains(&(at as u32));
        let (at, visit) = self.service.twin(self.spec, name, asked[0], taken)?;
        asked.push(at);
        Some((at, visit))
    }

    /// Sets out for an address.
    fn leg(&self, connector: C, at: u32, visit: Visit<C::Io>) -> Leg<C::Io> {
        let (given, waker) = (RefCell::new(None), RefCell::new(None));
        let end = Rc::new(End { given, waker, opens: Cell::new(false), is_left: Cell::new(false) });
        let now = self.timers.known_now();
        let left_ms = self.within_try(self.spec.rules.connect_timeout_ms, now).min(self.due.since_ns(now) / 1_000_000);
        let way = Way {
            endpoint: visit.endpoint(),
            connector,
            timers: self.timers.clone(),
            rules: self.spec.rules.clone(),
            due: now.plus_ms(left_ms),
            is_upgrade: self.is_alone(),
            is_stream: self.is_stream,
            is_kept: !self.is_alone() && self.spec.proxy_protocol.is_none(),
            end: end.clone(),
        };
        // A task from the beginning on: the runtime's timers wake the task that polled them first, and no other.
        self.connector.spawn(Box::pin(way.go()));
        Leg { at, visit, end }
    }
}

/// Lets a connection that came too late come to its end. What is learned of it is noted by the worker's next second.
fn leave_behind<I: Io>(leg: Leg<I>) {
    leg.end.is_left.set(true);
    let is_over = leg.end.given.borrow().is_some();
    if leg.end.opens.get() && !is_over {
        leg.visit.is_late_by(1);
        // Those that wait for it look elsewhere.
        leg.visit.streams.call_all();
    }
}

/// The next thing that happens.
async fn next_event<I: Io, P: Future<Output = ()>>(
    legs: &mut Vec<Leg<I>>,
    pause: &mut Option<Pin<Box<P>>>,
) -> Event<I> {
    poll_fn(|cx| {
        for at in 0..legs.len() {
            if let Some(given) = legs[at].end.given.take() {
                return Poll::Ready(Event::Given(legs.remove(at), given));
            }
            legs[at].end.waker.replace(Some(cx.waker().clone()));
        }
        match pause {
            Some(until) => until.as_mut().poll(cx).map(|()| Event::TimeForAnother),
            None => Poll::Pending,
        }
    })
    .await
}

/// The way to one address.
struct Way<C: Connect> {
    endpoint: Rc<Endpoint<C::Io>>,
    connector: C,
    timers: Rc<Timers>,
    rules: ServiceRules,
    due: Now,
    /// It is for one client alone, so that nobody else is waited for.
    is_upgrade: bool,
    /// Whatever TLS agrees on is right.
    is_stream: bool,
    /// Its connection may serve other requests.
    is_kept: bool,
    end: Rc<End<C::Io>>,
}

impl<C: Connect> Way<C> {
    async fn go(self) {
        let given = self.connect().await;
        if !self.end.is_left.get() {
            self.end.given.replace(Some(given));
            if let Some(waker) = self.end.waker.take() {
                waker.wake();
            }
            return;
        }
        if self.end.opens.get() {
            self.endpoint.is_late_by(-1);
        }
        match given {
            Err(failure) => self.endpoint.note_late_failure(failure),
            Ok(Some(connection)) if self.is_kept => {
                self.endpoint.pool.give(connection, self.timers.known_now(), &self.rules);
            }
            Ok(_) => {}
        }
    }

    async fn connect(&self) -> Given<C::Io> {
        let endpoint = &self.endpoint;
        let mut connecting = None;
        // Requests share its connections, or may come to: one of them opens it, the others wait.
        while !self.is_upgrade && endpoint.protocol(&self.rules) != Some(Protocol::Http1) {
            if !endpoint.streams.is_empty() {
                return Ok(None);
            }
            if endpoint.is_late() {
                return Err(LATE);
            }
            connecting = endpoint.streams.may_connect();
            if connecting.is_some() {
                break;
            }
            endpoint.streams.wait(&self.timers, self.due).await?;
        }
        self.end.opens.set(true);
        let left_ms = self.due.since_ns(self.timers.known_now()) / 1_000_000;
        let io = endpoint.open(&self.connector, left_ms, self.is_upgrade && !self.is_stream).await?;
        if !self.is_upgrade {
            endpoint.remember(&io, &self.rules);
            if endpoint.protocol(&self.rules) == Some(Protocol::Http2) {
                endpoint.streams.begin(&self.connector, io, &self.timers, &self.rules);
                return Ok(None);
            }
        }
        drop(connecting);
        Ok(Some(Box::new(ClientConnection::new(io, &self.timers))))
    }
}
