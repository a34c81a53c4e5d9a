//! Which connections are closed for the sake of others: those that wait, slice by slice while the worker drains, and
//! the least useful one where it runs short.

use std::collections::VecDeque;
use std::net::Shutdown;
use std::rc::{Rc, Weak};

use super::{Entry, NEVER, OnExpiry, SLOTS, Timers};
use crate::time::Now;

/// What a downstream connection without a request under way waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Its last response was sent; only what the client still sends is drained.
    Linger,
    /// The first byte of another request.
    Request,
    /// The first byte of its first request.
    First,
    /// The rest of a request head.
    Head,
}

impl Waits {
    /// What a connection waits for between its requests and before them.
    pub const IDLE: &'static [Waits] = &[Waits::Request, Waits::First];

    /// Those with the lowest rank are closed first when the worker runs short, within one rank the oldest (F08). A
    /// client that has come and not spoken is no better than one that has sent half a head, and no worse: its bytes may
    /// be on their way, and those that have been silent longest make room for it.
    const fn rank(self) -> u8 {
        match self {
            Waits::Linger => 0,
            Waits::Request => 1,
            Waits::First | Waits::Head => 2,
        }
    }
}

/// A connection that waited when the wheel was searched last.
struct Candidate {
    waits: Waits,
    since: Now,
    entry: Weak<Entry>,
}

/// Connections that may be closed when the worker runs short: what the last search of the wheel found, in the order in
/// which they go. A search looks at every entry, but one search serves as many closes as it found connections, so that
/// a close costs a few steps, and a request nothing but the mark that it carries anyway.
#[derive(Default)]
pub(super) struct LeastUseful {
    found: VecDeque<Candidate>,
    searched: Option<Now>,
}

/// Idle connections closed in one tick, at least.
const CLOSES_PER_TICK: usize = 256;
/// Ticks in which all of them are closed, about.
const CLOSING_TICKS: usize = 64;
/// The order of what waits is looked at again after this long, in milliseconds.
const SEARCH_AGE_MS_MAX: u64 = 1_000;
/// A search that found nothing is repeated after a millisecond for so many entries: a worker full of requests under way
/// searches for at most a few hundredths of its time.
const SEARCH_ENTRIES_PER_MS: usize = 256;

impl Timers {
    /// Says that connections are to end: from now on each response announces its close. Those that can say it before
    /// are to be told so.
    #[must_use = "somebody is to be told"]
    pub fn end_soon(&self) -> Untold {
        self.ending.set(true);
        self.untold()
    }

    /// All connections, to be told that they are to end if that is so.
    pub fn untold(&self) -> Untold {
        Untold(self.slots.borrow().iter().flatten().cloned().collect())
    }

    /// Interrupts connections that wait for their next request, so that a drain ends soon: a slice of them, to be
    /// called at each tick until none is left. Returns how many. One whose request has arrived already can still be
    /// answered: only reading is shut.
    pub fn close_idle(&self) -> usize {
        self.end_waiting(Waits::IDLE, 0, Shutdown::Read, self.slice())
    }

    /// Interrupts connections that have waited for one of these for at least `ms`, as many as of `ticks` ticks. Returns
    /// how many.
    pub fn close_waiting(&self, those: &[Waits], ms: u64, ticks: u64) -> usize {
        self.end_waiting(those, ms, Shutdown::Both, self.slice() * ticks as usize)
    }

    /// How many connections are closed in one tick: each costs some ten microseconds, and thousands at once would keep
    /// all others waiting. With very many it is a part of them, so that the whole takes little more than a second.
    fn slice(&self) -> usize {
        CLOSES_PER_TICK.max(self.len() / CLOSING_TICKS)
    }

    fn end_waiting(&self, those: &[Waits], ms: u64, how: Shutdown, most: usize) -> usize {
        let until = self.known.get();
        let waits = |entry: &Rc<Entry>| {
            entry.waits.get().is_some_and(|waits| those.contains(&waits))
                && until.since_ns(entry.since.get()) >= ms * 1_000_000
                && !entry.fired.get()
        };
        let slots = self.slots.borrow();
        let from = self.close_slot.get();
        let in_turn = (from..from + SLOTS).flat_map(|at| slots[at % SLOTS].iter().map(move |entry| (at, entry)));
        let found = in_turn.filter_map(|(at, entry)| Some((at, entry.upgrade().filter(waits)?)));
        // The wheel may not stay borrowed while connections are interrupted.
        let found: Vec<_> = found.take(most).collect();
        drop(slots);
        // Where it stopped there may be more.
        self.close_slot.set(found.last().map_or(from, |(at, _)| at % SLOTS));
        found.iter().filter(|(_, entry)| waits(entry)).map(|(_, entry)| entry.close(how)).count()
    }

    /// Interrupts the connection that is of the least use: one that is drained, else the one that has waited longest
    /// for another request, else the one that has waited longest for a whole head. Returns what it waited for, or None
    /// when every connection has a request under way.
    pub fn close_least_useful(&self) -> Option<Waits> {
        let now = self.known.get();
        let mut least_useful = self.least_useful.borrow_mut();
        let age_ms = least_useful.searched.map_or(u64::MAX, |at| now.since_ns(at) / 1_000_000);
        if age_ms >= SEARCH_AGE_MS_MAX {
            least_useful.search(self, now);
        }
        if let Some(waited) = least_useful.close_next() {
            return Some(waited);
        }
        if age_ms < SEARCH_AGE_MS_MAX && age_ms >= (self.len() / SEARCH_ENTRIES_PER_MS) as u64 {
            least_useful.search(self, now);
        }
        least_useful.close_next()
    }

    /// Ends every tunnel: the drain's time is over. Returns how many.
    pub fn close_tunnels(&self) -> usize {
        let entries: Vec<_> = self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        let is_tunnel = |e: &&Rc<Entry>| e.on_expiry.get() == OnExpiry::EndTunnel && !e.fired.get();
        entries.iter().filter(is_tunnel).map(|entry| entry.fire()).count()
    }

    /// Interrupts every connection, up and down. Returns how many.
    pub fn end_all(&self) -> usize {
        let entries: Vec<_> = self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        for entry in &entries {
            entry.target.shutdown(Shutdown::Both);
        }
        entries.len()
    }
}

/// Connections that were not told yet that they are to end.
pub struct Untold(Vec<Weak<Entry>>);

impl Untold {
    /// Tells some of them; to be called at each tick until it returns false, as each may write.
    pub fn tell_some(&mut self) -> bool {
        let mut told = 0;
        while told < CLOSES_PER_TICK {
            let Some(entry) = self.0.pop() else { return false };
            told += usize::from(entry.upgrade().is_some_and(|entry| entry.target.announce_end()));
        }
        true
    }
}

impl LeastUseful {
    fn search(&mut self, timers: &Timers, now: Now) {
        let candidate = |entry: &Weak<Entry>| {
            let strong = entry.upgrade()?;
            Some(Candidate { waits: strong.waits.get()?, since: strong.since.get(), entry: entry.clone() })
        };
        let mut all: Vec<_> = timers.slots.borrow().iter().flatten().filter_map(candidate).collect();
        all.sort_by_key(|candidate| (candidate.waits.rank(), candidate.since));
        self.found = all.into();
        self.searched = Some(now);
    }

    fn close_next(&mut self) -> Option<Waits> {
        while let Some(candidate) = self.found.pop_front() {
            let Some(entry) = candidate.entry.upgrade() else { continue };
            // One that has had a request meanwhile waits anew, behind those that are found now.
            if entry.waits.get() == Some(candidate.waits) && entry.since.get() == candidate.since {
                entry.close(Shutdown::Both);
                return Some(candidate.waits);
            }
        }
        self.found.shrink_to_fit();
        None
    }
}

impl Entry {
    /// Ends a connection that waits, as if the client had left.
    fn close(&self, how: Shutdown) {
        // Half a head is then an end by the client, without an answer, and not a timeout.
        self.fired.set(self.waits.replace(None) != Some(Waits::Head));
        self.due_tick.set(NEVER);
        self.target.shutdown(how);
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::probe;
    use super::*;
    use crate::limits::TICK_MS;
    use crate::time::Clock;

    #[test]
    fn a_drain_interrupts_only_idle_connections() {
        let timers = Timers::new(Clock::stopped());
        let ((idle, a), (busy, b)) = (probe(&timers), probe(&timers));
        [&a, &b].iter().for_each(|d| d.arm(Now::from_ms(75_000), OnExpiry::Release));
        a.set_waits(Some(Waits::Request));
        assert_eq!(timers.close_idle(), 1);
        assert_eq!((idle.shut.get(), busy.shut.get()), (1, 0));
        assert_eq!(timers.close_idle(), 0, "each is closed once");
    }

    #[test]
    fn thousands_are_closed_in_slices_and_none_is_left() {
        for count in [1, 256, 257, 15_000, 40_000] {
            let timers = Timers::new(Clock::stopped());
            let all: Vec<_> = (0..count).map(|_| probe(&timers)).collect();
            for (at, (_, deadline)) in all.iter().enumerate() {
                deadline.arm(Now::from_ms((at as u64 * 7) % 75_000), OnExpiry::ShutRead);
                deadline.set_waits(Some(Waits::Request));
            }
            let mut slices = Vec::new();
            while slices.last() != Some(&0) {
                slices.push(timers.close_idle());
                assert!(slices.len() < 2 * CLOSING_TICKS, "{count}: {slices:?}");
            }
            assert!(slices.iter().all(|&slice| slice <= CLOSES_PER_TICK.max(count / CLOSING_TICKS)), "{slices:?}");
            assert_eq!(slices.iter().sum::<usize>(), count);
            assert!(all.iter().all(|(seen, _)| seen.shut.get() == 1));
        }
    }

    #[test]
    fn the_least_useful_goes_first_and_a_request_under_way_never() {
        let timers = Timers::new(Clock::stopped());
        let order = [None, Some(Waits::Head), Some(Waits::Request), Some(Waits::First), Some(Waits::Request)];
        let all: Vec<_> = order.iter().map(|_| probe(&timers)).collect();
        for (at, ((_, deadline), waits)) in all.iter().zip(order).enumerate() {
            timers.advance(Now::from_ms(at as u64 * TICK_MS));
            deadline.arm_in(10_000, OnExpiry::ShutRead);
            // A deadline that was moved up leaves a copy on the wheel.
            deadline.arm_in(1_000, OnExpiry::ShutRead);
            deadline.set_waits(waits);
        }
        let closed = || all.iter().map(|(seen, _)| seen.shut.get()).collect::<Vec<_>>();
        for (waits, expected) in [
            (Some(Waits::Request), [0, 0, 1, 0, 0]),
            (Some(Waits::Request), [0, 0, 1, 0, 1]),
            (Some(Waits::Head), [0, 1, 1, 0, 1]),
            (Some(Waits::First), [0, 1, 1, 1, 1]),
            (None, [0, 1, 1, 1, 1]),
        ] {
            assert_eq!((timers.close_least_useful(), closed()), (waits, expected.to_vec()));
        }
        let (late, deadline) = probe(&timers);
        deadline.arm_in(1_000, OnExpiry::ShutRead);
        deadline.set_waits(Some(Waits::Linger));
        assert_eq!((timers.close_least_useful(), late.shut.get()), (Some(Waits::Linger), 1));
    }

    #[test]
    fn one_that_has_had_a_request_since_the_search_is_kept() {
        let timers = Timers::new(Clock::stopped());
        let all: Vec<_> = (0..3).map(|_| probe(&timers)).collect();
        for (_, deadline) in &all {
            deadline.arm_in(10_000, OnExpiry::ShutRead);
            deadline.set_waits(Some(Waits::Request));
        }
        assert!(timers.close_least_useful().is_some());
        all[1].1.set_waits(None);
        timers.advance(Now::from_ms(TICK_MS));
        all[2].1.set_waits(Some(Waits::Request));
        assert!(timers.close_least_useful().is_some());
        assert_eq!(all.iter().map(|(seen, _)| seen.shut.get()).collect::<Vec<_>>(), [1, 0, 1]);
    }

    #[test]
    fn a_worker_full_of_requests_does_not_search_at_each_connection() {
        let timers = Timers::new(Clock::stopped());
        let all: Vec<_> = (0..SEARCH_ENTRIES_PER_MS * 100).map(|_| probe(&timers)).collect();
        all.iter().for_each(|(_, deadline)| deadline.arm_in(10_000, OnExpiry::ShutRead));
        assert_eq!(timers.close_least_useful(), None);
        all[7].1.set_waits(Some(Waits::Head));
        assert_eq!(timers.close_least_useful(), None, "not searched again so soon");
        timers.advance(Now::from_ms(100));
        assert_eq!(timers.close_least_useful(), Some(Waits::Head));
    }
}
