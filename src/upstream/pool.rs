//! Idle connections to one endpoint, kept by one worker. The one used last is taken first, so that the rest can age
//! out.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use crate::limits::{POOL_BURST_FACTOR, POOL_BURST_MS, POOL_PROBE_AFTER_US, POOL_PROOF_MS};
use crate::net::io::Io;
use crate::proto::h1::client::ClientConnection;
use crate::snapshot::ServiceRules;
use crate::time::Now;

/// The idle connections of one endpoint.
pub struct Pool<I: Io> {
    /// Oldest first. Boxed, so that taking and giving move a pointer; a request's future is smaller by a quarter
    /// kilobyte.
    idle: RefCell<VecDeque<Box<ClientConnection<I>>>>,
    /// The endpoint has been seen to keep its connections. One that closes behind each answer without saying so may do
    /// it at the very moment of the next request; so what cannot be repeated goes over a fresh connection until then
    /// (F33).
    proven: Cell<bool>,
}

impl<I: Io> Default for Pool<I> {
    fn default() -> Self {
        Self { idle: RefCell::default(), proven: Cell::new(false) }
    }
}

impl<I: Io> Pool<I> {
    /// The connection that was used last, if it is young enough. One that has been idle for a while is probed first,
    /// and so is any when the request must not meet a closed one (`must_live`): a request that cannot be repeated.
    pub fn take(&self, now: Now, rules: &ServiceRules, must_live: bool) -> Option<Box<ClientConnection<I>>> {
        let mut idle = self.idle.borrow_mut();
        if must_live && !self.is_proven(idle.front().map(|oldest| &**oldest), now) {
            return None;
        }
        while let Some(connection) = idle.pop_back() {
            let idle_us = now.since_ns(connection.idle_since) / 1_000;
            if idle_us / 1_000 >= rules.idle_timeout_ms {
                // All others are older.
                idle.clear();
                return None;
            }
            let looks = must_live || connection.needs_look() || idle_us >= POOL_PROBE_AFTER_US;
            if !looks || connection.is_quiet() {
                return Some(connection);
            }
            if idle_us < POOL_BURST_MS * 1_000 {
                self.proven.set(false);
            }
        }
        None
    }

    /// Keeps a connection for the next request, or closes it when it is spent or there are enough.
    pub fn give(&self, mut connection: Box<ClientConnection<I>>, now: Now, rules: &ServiceRules) {
        let mut idle = self.idle.borrow_mut();
        if connection.uses > 1 {
            self.proven.set(true);
        }
        if connection.uses >= rules.requests_max || rules.idle_max == 0 {
            return;
        }
        let oldest_ms = idle.front().map_or(0, |oldest| now.since_ns(oldest.idle_since) / 1_000_000);
        let crowded = idle.len() >= rules.idle_max;
        // A connection that was used a moment ago is part of the present load: closing it would only open another.
        if crowded && (oldest_ms >= POOL_BURST_MS || idle.len() >= rules.idle_max.saturating_mul(POOL_BURST_FACTOR)) {
            idle.pop_front();
        }
        connection.rest(now);
        idle.push_back(connection);
        debug_assert!(idle.len() <= rules.idle_max.saturating_mul(POOL_BURST_FACTOR));
    }

    /// Whether the endpoint has been seen to keep its connections. `oldest` is its oldest idle one.
    fn is_proven(&self, oldest: Option<&ClientConnection<I>>, now: Now) -> bool {
        if !self.proven.get() {
            let rested = |c: &&ClientConnection<I>| now.since_ns(c.idle_since) / 1_000_000 >= POOL_PROOF_MS;
            self.proven.set(oldest.filter(rested).is_some_and(ClientConnection::is_quiet));
        }
        self.proven.get()
    }

    /// Closes connections that have been idle for too long. Returns how many.
    #[allow(clippy::borrowed_box, reason = "what an iterator over the queue gives")]
    pub fn expire(&self, now: Now, rules: &ServiceRules) -> usize {
        let mut idle = self.idle.borrow_mut();
        let old = |c: &Box<ClientConnection<I>>| now.since_ns(c.idle_since) / 1_000_000 >= rules.idle_timeout_ms;
        let count = idle.iter().take_while(|connection| old(connection)).count();
        let over = idle.len().saturating_sub(rules.idle_max);
        let rested = |c: &&Box<ClientConnection<I>>| now.since_ns(c.idle_since) / 1_000_000 >= POOL_BURST_MS;
        let count = count.max(idle.iter().take(over).take_while(rested).count());
        idle.drain(..count);
        count
    }

    /// Closes those that have been idle for at least `ms`, and gives back the room that they had.
    #[allow(clippy::borrowed_box, reason = "as above")]
    pub fn close_idle(&self, now: Now, ms: u64) {
        let mut idle = self.idle.borrow_mut();
        let old = |c: &&Box<ClientConnection<I>>| now.since_ns(c.idle_since) / 1_000_000 >= ms;
        let count = idle.iter().take_while(old).count();
        idle.drain(..count);
        idle.shrink_to_fit();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.idle.borrow().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::mem::{Faults, Mem, pair};
    use crate::net::timer::Timers;
    use crate::time::Clock;

    fn connection(kept: &mut Vec<Mem>) -> Box<ClientConnection<Mem>> {
        let (ours, theirs) = pair(64, &Faults::NONE);
        kept.push(theirs);
        Box::new(ClientConnection::new(ours, &Timers::new(Clock::stopped())))
    }

    #[test]
    fn last_in_first_out_within_bounds() {
        let (pool, mut far) = (Pool::default(), Vec::new());
        let rules = ServiceRules { idle_max: 2, ..ServiceRules::default() };
        for uses in 1..=3 {
            let mut one = connection(&mut far);
            one.uses = uses;
            pool.give(one, Now::from_ms(uses), &rules);
        }
        assert_eq!(pool.len(), 3, "a burst is kept");
        assert_eq!(pool.expire(Now::from_ms(3 + POOL_BURST_MS), &rules), 1);
        let uses = || pool.take(Now::from_ms(5), &rules, false).map(|c| c.uses);
        assert_eq!([uses(), uses(), uses()], [Some(3), Some(2), None]);
    }

    #[test]
    fn old_and_spent_connections_are_not_kept() {
        let (pool, mut far) = (Pool::default(), Vec::new());
        let rules = ServiceRules { requests_max: 5, ..ServiceRules::default() };
        pool.give(connection(&mut far), Now::from_ms(0), &rules);
        pool.give(connection(&mut far), Now::from_ms(50_000), &rules);
        assert_eq!(pool.expire(Now::from_ms(60_000), &rules), 1);
        assert!(pool.take(Now::from_ms(110_000), &rules, false).is_none() && pool.is_empty());
        pool.give(connection(&mut far), Now::from_ms(0), &rules);
        pool.give(connection(&mut far), Now::from_ms(900), &rules);
        pool.close_idle(Now::from_ms(1_000), 1_000);
        assert_eq!(pool.len(), 1);
        pool.close_idle(Now::from_ms(1_000), 0);
        let mut spent = connection(&mut far);
        spent.uses = 5;
        pool.give(spent, Now::from_ms(0), &rules);
        assert!(pool.is_empty());
    }

    #[test]
    fn closed_connections_are_found_where_it_matters() {
        let (pool, mut far) = (Pool::default(), Vec::new());
        let rules = ServiceRules::default();
        for uses in [2, 3] {
            let mut one = connection(&mut far);
            one.uses = uses;
            pool.give(one, Now::from_ms(0), &rules);
        }
        // Dropping the far end's halves closes both directions.
        far.into_iter().for_each(|end| drop(crate::net::io::Io::split(end)));
        assert!(pool.take(Now::from_ms(0), &rules, false).is_some(), "a repeatable request may try it");
        assert!(pool.take(Now::from_ms(0), &rules, true).is_none());
    }

    #[test]
    fn what_cannot_be_repeated_waits_for_proof_that_connections_are_kept() {
        let (pool, mut far) = (Pool::default(), Vec::new());
        let rules = ServiceRules::default();
        let once = |far: &mut Vec<Mem>| {
            let mut one = connection(far);
            one.uses = 1;
            one
        };
        pool.give(once(&mut far), Now::from_ms(0), &rules);
        assert!(pool.take(Now::from_ms(POOL_PROOF_MS - 1), &rules, true).is_none() && pool.len() == 1);
        let mut again = pool.take(Now::from_ms(POOL_PROOF_MS), &rules, true).expect("proven");
        again.uses += 1;
        pool.give(again, Now::from_ms(POOL_PROOF_MS), &rules);
        assert!(pool.take(Now::from_ms(POOL_PROOF_MS), &rules, true).is_some());
        pool.give(once(&mut far), Now::from_ms(1_000), &rules);
        drop(crate::net::io::Io::split(far.pop().expect("the far end")));
        assert!(pool.take(Now::from_ms(1_001), &rules, true).is_none(), "closed behind its first answer");
        pool.give(once(&mut far), Now::from_ms(1_002), &rules);
        assert!(pool.take(Now::from_ms(1_002), &rules, true).is_none(), "so the next is not trusted either");
    }

    #[test]
    fn unasked_bytes_are_found_before_the_next_request() {
        let (pool, mut far) = (Pool::default(), Vec::new());
        let rules = ServiceRules::default();
        pool.give(connection(&mut far), Now::from_ms(0), &rules);
        let (_read, mut write, _) = crate::net::io::Io::split(far.remove(0));
        let sent = std::pin::pin!(crate::net::io::send_all(&mut write, crate::sys::buf::Buf::copy_of(b"HTTP/1.1 200")));
        assert!(sent.poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready());
        assert!(pool.take(Now::from_ms(1), &rules, false).is_none() && pool.is_empty());
    }
}
