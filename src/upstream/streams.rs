//! HTTP/2 connections to one endpoint, kept by one worker, each shared by many requests.
//!
//! The first connection with room is taken, so that few of them carry much. Another one is opened when none has room,
//! one at a time; whoever finds none waits for a stream that ends or for the connection that is being opened.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::net::Shutdown;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::error::{Failure, Reason};
use crate::limits::{H2_UPSTREAM_CONNECTIONS_MAX, H2_UPSTREAM_WAITING_MAX};
use crate::net::io::{Connect, Interrupt, Io};
use crate::net::timer::{OnExpiry, Timers};
use crate::proto::h2::client::{self, Link, Rules, Stream};
use crate::snapshot::ServiceRules;
use crate::time::Now;

/// The connections of one endpoint.
#[derive(Default)]
pub struct Streams {
    links: RefCell<Vec<Rc<Link>>>,
    is_connecting: Cell<bool>,
    queue: Rc<Queue>,
}

/// Those that wait for room, first come first served.
#[derive(Default)]
struct Queue(RefCell<VecDeque<Rc<Waiter>>>);

#[derive(Default)]
struct Waiter {
    waker: RefCell<Option<Waker>>,
    is_called: Cell<bool>,
}

impl Queue {
    fn call_next(&self) {
        if let Some(waiter) = self.0.borrow_mut().pop_front() {
            waiter.call();
        }
    }

    fn call_all(&self) {
        while !self.0.borrow().is_empty() {
            self.call_next();
        }
    }
}

impl Waiter {
    fn call(&self) {
        self.is_called.set(true);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The deadline of a wait.
impl Interrupt for Waiter {
    fn shutdown(&self, _: Shutdown) {
        self.call();
    }

    fn release(&self) {
        self.call();
    }

    fn is_quiet(&self) -> bool {
        true
    }

    fn has_left(&self) -> bool {
        false
    }
}

impl Streams {
    /// A stream on a connection that has room, by `open`.
    pub fn try_open(&self, mut open: impl FnMut(&Rc<Link>) -> Option<Stream>) -> Option<Stream> {
        let mut links = self.links.borrow_mut();
        // Those that end hold themselves until their last stream has ended.
        links.retain(|link| !link.is_ending());
        links.iter().find_map(&mut open)
    }

    /// The right to open another connection; None when one is being opened, or there are as many as there may be.
    pub fn may_connect(&self) -> Option<Connecting<'_>> {
        if self.is_connecting.get() || self.links.borrow().len() >= H2_UPSTREAM_CONNECTIONS_MAX {
            return None;
        }
        self.is_connecting.set(true);
        Some(Connecting(self))
    }

    /// Takes a connection into service.
    pub fn begin<C: Connect>(&self, connector: &C, io: C::Io, timers: &Rc<Timers>, rules: &ServiceRules) {
        let queue = Rc::downgrade(&self.queue);
        let on_room = Box::new(move || {
            if let Some(queue) = queue.upgrade() {
                queue.call_next();
            }
        });
        let (link, task) = start(io, timers, rules, on_room);
        self.links.borrow_mut().push(link);
        connector.spawn(task);
    }

    /// Waits until there may be room, at most until `due`.
    ///
    /// # Errors
    /// [`Reason::Overloaded`]: too many wait, or for too long.
    pub async fn wait(&self, timers: &Rc<Timers>, due: Now) -> Result<(), Failure> {
        if self.queue.0.borrow().len() >= H2_UPSTREAM_WAITING_MAX {
            return Err(Failure::with(Reason::Overloaded, "too many requests wait for a stream"));
        }
        let waiter = Rc::<Waiter>::default();
        let deadline = timers.deadline(waiter.clone());
        deadline.arm(due, OnExpiry::ShutBoth);
        self.queue.0.borrow_mut().push_back(waiter.clone());
        let waiting = Waiting(&self.queue, &waiter);
        poll_fn(|cx| {
            if waiter.is_called.get() {
                return Poll::Ready(());
            }
            waiter.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
        drop(waiting);
        if deadline.fired() {
            return Err(Failure::with(Reason::Overloaded, "no stream to the endpoint in time"));
        }
        Ok(())
    }

    /// Whether there is no connection, and none that is being opened.
    pub fn rests(&self) -> bool {
        self.links.borrow().is_empty() && !self.is_connecting.get()
    }

    /// Lets all that wait look again.
    pub fn call_all(&self) {
        self.queue.call_all();
    }

    /// Looks after connections: closes those that were idle for too long, and those that do not answer.
    pub fn expire(&self, now: Now, rules: &ServiceRules) {
        for link in self.links.borrow().iter() {
            link.check(now);
        }
        self.close_idle(now, rules.idle_timeout_ms);
    }

    /// Closes connections that have been idle for at least `ms`.
    pub fn close_idle(&self, now: Now, ms: u64) {
        // A copy: a connection that closes calls those that wait.
        let links = self.links.borrow().clone();
        let is_old = |link: &&Rc<Link>| link.is_idle() && now.since_ns(link.idle_since()) / 1_000_000 >= ms;
        links.iter().filter(is_old).for_each(|link| link.let_go());
        self.links.borrow_mut().retain(|link| !link.is_ending());
    }

    /// Connections that take requests.
    pub fn len(&self) -> usize {
        self.links.borrow().iter().filter(|link| !link.is_ending()).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An endpoint that is no more lets its connections end behind their streams.
impl Drop for Streams {
    fn drop(&mut self) {
        self.links.borrow().iter().for_each(|link| link.let_go());
        self.queue.call_all();
    }
}

fn start<I: Io>(
    io: I,
    timers: &Rc<Timers>,
    rules: &ServiceRules,
    on_room: Box<dyn Fn()>,
) -> (Rc<Link>, std::pin::Pin<Box<dyn Future<Output = ()>>>) {
    let send_timeout_ms = rules.send_timeout_ms;
    let rules = Rules { head: rules.head, send_timeout_ms, requests_max: rules.requests_max };
    client::start(io, timers, rules, on_room)
}

/// A connection that is being opened. Whatever comes of it, those that wait look again.
pub struct Connecting<'s>(&'s Streams);

impl Drop for Connecting<'_> {
    fn drop(&mut self) {
        self.0.is_connecting.set(false);
        self.0.queue.call_all();
    }
}

/// A place in the queue, left when dropped. Who was called and went away calls the next.
struct Waiting<'q>(&'q Queue, &'q Rc<Waiter>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.0.borrow_mut().retain(|waiter| !Rc::ptr_eq(waiter, self.1));
    }
}
