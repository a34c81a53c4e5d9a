//! Sliding windows (R75, C8): `sliding_window` keeps two counters per key and estimates, `sliding_log` keeps the time
//! of every admitted request and is exact.
//!
//! Both are for scope `node` and stand in sharded tables behind mutexes: they are there for limits whose meaning is
//! agreed on elsewhere, not for speed. Keys are bounded as in the bucket table.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::rate::{Ticks, Verdict};

/// Keys of a `sliding_window`.
pub const WINDOW_KEYS_MAX: usize = 65_536;
/// Keys of a `sliding_log`: with the longest logs, 32 MiB.
pub const LOG_KEYS_MAX: usize = 4_096;
/// Largest limit of a `sliding_log`: a key holds one time per token.
pub const LOG_LIMIT_MAX: u32 = 1_000;
const SHARDS: usize = 64;
const WAYS: usize = 8;

/// A limit per window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Requests in any window.
    pub limit: u32,
    /// Length of the window.
    pub span: Ticks,
}

/// What a key has used.
pub trait Usage: Default + Send + 'static {
    /// Decides on `cost` and counts it if it is admitted.
    fn decide(&mut self, window: Window, cost: u32, now: Ticks) -> Verdict;

    /// Takes an admitted `cost` back.
    fn refund(&mut self, cost: u32);
}

/// Two counters: the estimate takes the previous window as evenly spread. It admits at most twice the limit in a window
/// in the worst case of uneven traffic, typically within a few per cent.
#[derive(Debug, Default)]
pub struct Counters {
    index: u64,
    previous: u32,
    current: u32,
}

/// The times of admitted tokens, oldest first; at most [`LOG_LIMIT_MAX`].
#[derive(Debug, Default)]
pub struct Log {
    times: VecDeque<Ticks>,
}

/// A bounded table of keys.
pub struct Sharded<U> {
    shards: Box<[Mutex<Shard<U>>]>,
    sets: usize,
    evicted_live: AtomicU64,
}

type Shard<U> = Vec<Vec<Entry<U>>>;

struct Entry<U> {
    key: u64,
    touched: Ticks,
    usage: U,
}

impl<U: Usage> Sharded<U> {
    /// A table for at least `keys` keys.
    pub fn new(keys: usize) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::new(Vec::new())).collect();
        Self { shards, sets: keys.div_ceil(SHARDS * WAYS).max(1), evicted_live: AtomicU64::new(0) }
    }

    /// Decides on a request that costs `cost` of `key`.
    pub fn decide(&self, window: Window, key: u64, cost: u32, now: Ticks) -> Verdict {
        self.with(window, key, now, |usage| usage.decide(window, cost, now))
    }

    /// Takes an admitted request back.
    pub fn refund(&self, window: Window, key: u64, cost: u32, now: Ticks) {
        self.with(window, key, now, |usage| usage.refund(cost));
    }

    /// Keys that were forgotten in their window because the table was full.
    pub fn evicted_live(&self) -> u64 {
        self.evicted_live.load(Ordering::Relaxed)
    }

    fn with<T>(&self, window: Window, key: u64, now: Ticks, act: impl FnOnce(&mut U) -> T) -> T {
        let shard = &self.shards[key as usize % SHARDS];
        // A panic under the lock cannot leave a count half written: each is one number or one queue.
        let mut sets = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if sets.is_empty() {
            sets.resize_with(self.sets, Vec::new);
        }
        let set = &mut sets[(key >> 32) as usize % self.sets];
        let at = set.iter().position(|entry| entry.key == key);
        let at = at.unwrap_or_else(|| self.claim(set, window, key, now));
        set[at].touched = now;
        act(&mut set[at].usage)
    }

    /// A place for a new key: an unused one, else that of the key that was longest unused.
    fn claim(&self, set: &mut Vec<Entry<U>>, window: Window, key: u64, now: Ticks) -> usize {
        let entry = Entry { key, touched: now, usage: U::default() };
        if set.len() < WAYS {
            set.push(entry);
            return set.len() - 1;
        }
        let at = set.iter().enumerate().min_by_key(|(_, entry)| entry.touched).map_or(0, |(at, _)| at);
        // Counters look back two windows, logs one.
        if now < set[at].touched.saturating_add(window.span.saturating_mul(2)) {
            self.evicted_live.fetch_add(1, Ordering::Relaxed);
        }
        set[at] = entry;
        at
    }
}

impl Usage for Counters {
    fn decide(&mut self, window: Window, cost: u32, now: Ticks) -> Verdict {
        let index = now / window.span;
        if index != self.index {
            self.previous = if index == self.index + 1 { self.current } else { 0 };
            self.current = 0;
            self.index = index;
        }
        let left = window.span - now % window.span;
        let used = weighted(self.previous, left, window.span) + u64::from(self.current);
        let admitted = used + u64::from(cost) <= u64::from(window.limit);
        if admitted {
            self.current += cost;
        }
        let used = if admitted { used + u64::from(cost) } else { used };
        let remaining = u64::from(window.limit).saturating_sub(used) as u32;
        let retry = if admitted { 0 } else { self.retry(window, cost, left) };
        Verdict { admitted, remaining, retry, full_at: now + left + window.span }
    }

    fn refund(&mut self, cost: u32) {
        self.current = self.current.saturating_sub(cost);
    }
}

impl Counters {
    /// How long until the estimate has room for `cost`; `left` is what is left of the current window.
    fn retry(&self, window: Window, cost: u32, left: Ticks) -> Ticks {
        let room = i64::from(window.limit) - i64::from(cost);
        // In this window the previous one fades; in the next one this one does.
        match fade(self.previous, room - i64::from(self.current), window.span) {
            Some(weight) if weight < left => (left - weight).max(1),
            _ => left + window.span.saturating_sub(fade(self.current, room, window.span).unwrap_or(0)),
        }
    }
}

/// The largest rest of a window in which `count` weighs at most `room`; None when it never does.
fn fade(count: u32, room: i64, span: Ticks) -> Option<Ticks> {
    let room = u64::try_from(room).ok()?;
    let weight = u128::from(span) * u128::from(room) / u128::from(count.max(1));
    Some(u64::try_from(weight).unwrap_or(span).min(span))
}

/// `count` times `left / span`, rounded up.
fn weighted(count: u32, left: Ticks, span: Ticks) -> u64 {
    // At most `count`, since `left` is at most `span`.
    (u128::from(count) * u128::from(left)).div_ceil(u128::from(span)) as u64
}

impl Usage for Log {
    fn decide(&mut self, window: Window, cost: u32, now: Ticks) -> Verdict {
        while self.times.front().is_some_and(|&time| time.saturating_add(window.span) <= now) {
            self.times.pop_front();
        }
        // The length is at most LOG_LIMIT_MAX.
        let free = window.limit.saturating_sub(self.times.len() as u32);
        let admitted = cost <= free;
        if admitted {
            self.times.extend(std::iter::repeat_n(now, cost as usize));
        }
        let ends = |at: usize| self.times.get(at).map_or(now, |time| time + window.span);
        let retry = if admitted { 0 } else { ends((cost - free) as usize - 1).saturating_sub(now).max(1) };
        let remaining = if admitted { free - cost } else { free };
        Verdict { admitted, remaining, retry, full_at: ends(self.times.len().saturating_sub(1)) }
    }

    fn refund(&mut self, cost: u32) {
        self.times.truncate(self.times.len().saturating_sub(cost as usize));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEN: Window = Window { limit: 10, span: 1_000 };

    #[test]
    fn a_log_is_exact_in_every_window() {
        let table = Sharded::<Log>::new(64);
        let mut admitted: Vec<Ticks> = Vec::new();
        for now in (0..10_000).step_by(37) {
            let verdict = table.decide(TEN, 5, 1, now);
            if verdict.admitted {
                admitted.push(now);
            }
            let inside = admitted.iter().filter(|&&time| time + TEN.span > now).count();
            assert!(inside <= 10);
            assert_eq!(verdict.remaining as usize, 10 - inside);
            assert_eq!(verdict.admitted, inside < 10 || admitted.last() == Some(&now));
        }
        assert!(admitted.len() >= 99);
    }

    #[test]
    fn retry_is_when_it_would_pass() {
        for start in [0, 333, 999] {
            let (mut log, mut counters) = (Log::default(), Counters::default());
            for step in 0..40 {
                let now = 5_000 + start + step * 61;
                let waits = [log.decide(TEN, 3, now).retry, counters.decide(TEN, 3, now).retry];
                for (wait, name) in waits.into_iter().zip(["log", "counters"]).filter(|(wait, _)| *wait > 0) {
                    let later = |usage: &mut dyn FnMut(Ticks) -> bool| usage(now + wait);
                    let passes = match name {
                        "log" => later(&mut |t| Log { times: log.times.clone() }.decide(TEN, 3, t).admitted),
                        _ => later(&mut |t| Counters { ..counters }.decide(TEN, 3, t).admitted),
                    };
                    assert!(passes, "{name} at {now} after {wait}");
                }
            }
        }
    }

    #[test]
    fn counters_fade_the_previous_window() {
        let mut counters = Counters::default();
        assert!((0..10).all(|_| counters.decide(TEN, 1, 5_999).admitted));
        assert!(!counters.decide(TEN, 1, 6_000).admitted);
        let got = (0..10).filter(|_| counters.decide(TEN, 1, 6_500).admitted).count();
        assert_eq!(got, 5);
        counters.refund(1);
        assert!(counters.decide(TEN, 1, 6_500).admitted);
        assert!(counters.decide(TEN, 10, 9_000).admitted, "two windows later all is forgotten");
    }

    #[test]
    fn keys_are_bounded() {
        let table = Sharded::<Counters>::new(1);
        for key in 0..100_000u64 {
            table.decide(TEN, key, 1, 5_000);
        }
        let held: usize =
            table.shards.iter().map(|s| s.lock().expect("sound").iter().map(Vec::len).sum::<usize>()).sum();
        assert_eq!(held, SHARDS * WAYS);
        assert_eq!(table.evicted_live(), 100_000 - held as u64);
    }
}
