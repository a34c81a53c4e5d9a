//! The table of buckets that all workers of a node share: fixed in size, without locks on the path of a known key.
//!
//! Each key has a TAT (see [`super::rate`]) and the number of tokens that workers hold on lease. The rule that makes
//! the bound hard: **bucket and leases together never hold more than `burst`**. So every step first lowers the bucket
//! to `burst - leased` ([`Rate::base`]), and only then changes `leased`. Any span then admits at most what was there at
//! its begin, `bucket + leases <= burst`, plus `rate * t`.
//!
//! ```text
//!  take:    leased += extra;  bucket = min(bucket, burst - leased) - need - extra    one compare-and-swap, or again
//!  settle:  bucket = min(bucket, burst - leased) + unused;  leased -= spent + unused
//! ```
//! `leased` is counted up before tokens leave the bucket and down after they are back, so it is never too low.
//!
//! Bounded: sets of eight ways. A new key takes an empty way, else one whose bucket is full, which loses nothing, else
//! the one nearest to full, which forgives that key's debt and is counted ([`NodeTable::evicted_live`]). Only this
//! claim takes a set's lock, for some ten instructions.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::rate::{Rate, Ticks, ticks_of_ms};

/// Keys that a node's table holds, for keys that clients choose (F71).
pub const NODE_KEYS_MAX: usize = 65_536;
/// How long a worker may hold tokens that it does not spend.
pub const LEASE_MS: u64 = 250;
/// A lease that is this much older than [`LEASE_MS`] belongs to a worker that died: the key's count is written off.
pub const WRITE_OFF_MS: u64 = 750;
/// Attempts to swap a key's TAT; each failure means that another worker's attempt succeeded.
const SWAPS_MAX: usize = 10_000;
/// Attempts to find or claim a key while another worker claims in the same set; all but the first few yield.
const CLAIMS_MAX: usize = 1_000;
const SPINS: usize = 64;
const WAYS: usize = 8;
const PAGE_SETS: usize = 16;

/// A lease in ticks.
pub const LEASE: Ticks = ticks_of_ms(LEASE_MS);
/// After so many ticks nobody reports a lease, and the node forgets it.
pub const WRITTEN_OFF: Ticks = ticks_of_ms(LEASE_MS + WRITE_OFF_MS);

/// The shared table.
pub struct NodeTable {
    /// Allocated when the first key falls into them: an idle limiter costs 16 bytes per 128 keys.
    pages: Box<[OnceLock<Box<[Set; PAGE_SETS]>>]>,
    evicted_live: AtomicU64,
    gave_up: AtomicU64,
}

/// Keys stand apart from what is written often, so that looking for a key reads a line that nobody writes.
#[derive(Default)]
#[repr(align(64))]
struct Set {
    keys: [AtomicU64; WAYS],
    tats: [AtomicU64; WAYS],
    lease_ends: [AtomicU64; WAYS],
    leased: [AtomicU32; WAYS],
    lock: AtomicU32,
}

/// What a worker wants from a bucket.
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// Tokens without which it is a refusal.
    pub need: u32,
    /// Tokens to lease on top, at most.
    pub extra_max: u32,
    /// At most one in so many of the tokens that are left is leased.
    pub share: u32,
}

/// What a worker got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whether it got what it needs.
    pub granted: bool,
    /// Tokens leased on top.
    pub extra: u32,
    /// The bucket's TAT afterwards.
    pub tat: Ticks,
}

impl NodeTable {
    /// A table for at least `keys` keys, at most [`NODE_KEYS_MAX`].
    pub fn new(keys: usize) -> Self {
        let pages = keys.clamp(1, NODE_KEYS_MAX).div_ceil(WAYS * PAGE_SETS).next_power_of_two();
        Self {
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            evicted_live: AtomicU64::new(0),
            gave_up: AtomicU64::new(0),
        }
    }

    /// Takes tokens from the bucket of `key`, all that are needed or none.
    pub fn take(&self, rate: &Rate, key: u64, wish: Wish, now: Ticks) -> Grant {
        let Some((set, way)) = self.entry(key, now) else { return self.give_up(now) };
        for _ in 0..SWAPS_MAX {
            let seen = set.tats[way].load(Ordering::SeqCst);
            let base = rate.base(seen, set.leased(way, now), now);
            let level = rate.level(base, now);
            if level < wish.need {
                return Grant { granted: false, extra: 0, tat: base };
            }
            let extra = ((level - wish.need) / wish.share.max(1)).min(wish.extra_max);
            if let Some(tat) = set.try_take(rate, way, seen, wish.need, extra, now) {
                return Grant { granted: true, extra, tat };
            }
        }
        self.give_up(now)
    }

    /// Ends a lease, or a part of it: `spent` tokens were used, `unused` go back. A key that was evicted meanwhile is
    /// left alone.
    pub fn settle(&self, rate: &Rate, key: u64, spent: u32, unused: u32, now: Ticks) {
        self.give(rate, key, unused, now);
        if let Some((set, way)) = self.find(key) {
            let sub = |leased: u32| Some(leased.saturating_sub(spent + unused));
            let _ = set.leased[way].fetch_update(Ordering::SeqCst, Ordering::SeqCst, sub);
        }
    }

    /// Puts tokens back into a bucket that were taken from it and not used.
    pub fn give(&self, rate: &Rate, key: u64, tokens: u32, now: Ticks) {
        let Some((set, way)) = self.find(key) else { return };
        for _ in 0..SWAPS_MAX {
            let seen = set.tats[way].load(Ordering::SeqCst);
            let base = rate.base(seen, set.leased(way, now), now);
            let back = base.saturating_sub(rate.interval().saturating_mul(u64::from(tokens)));
            if back == seen || set.swap(way, seen, back) {
                return;
            }
        }
    }

    /// Keys whose debt was forgiven because the table was full.
    pub fn evicted_live(&self) -> u64 {
        self.evicted_live.load(Ordering::Relaxed)
    }

    /// Requests that were refused because other workers were faster too often; 0 in practice.
    pub fn gave_up(&self) -> u64 {
        self.gave_up.load(Ordering::Relaxed)
    }

    /// The bucket's TAT and the tokens on lease, if the key is known: for tests and reports.
    pub fn peek(&self, key: u64) -> Option<(Ticks, u32)> {
        let (set, way) = self.find(key)?;
        Some((set.tats[way].load(Ordering::SeqCst), set.leased[way].load(Ordering::SeqCst)))
    }

    /// Refuses: the upper bound is the promise.
    fn give_up(&self, now: Ticks) -> Grant {
        self.gave_up.fetch_add(1, Ordering::Relaxed);
        Grant { granted: false, extra: 0, tat: now }
    }

    fn set(&self, key: u64) -> &Set {
        // Keys are hashes: their low bits choose page and set.
        let page = key as usize & (self.pages.len() - 1);
        let sets = self.pages[page].get_or_init(|| Box::new(std::array::from_fn(|_| Set::default())));
        &sets[(key >> 32) as usize % PAGE_SETS]
    }

    fn find(&self, key: u64) -> Option<(&Set, usize)> {
        let set = self.set(key);
        Some((set, set.find(key)?))
    }

    fn entry(&self, key: u64, now: Ticks) -> Option<(&Set, usize)> {
        let set = self.set(key);
        for attempt in 0..CLAIMS_MAX {
            if let Some(way) = set.find(key) {
                return Some((set, way));
            }
            if set.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok() {
                let way = set.find(key).unwrap_or_else(|| self.claim(set, key, now));
                set.lock.store(0, Ordering::Release);
                return Some((set, way));
            }
            match attempt < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
        None
    }

    /// Gives `key` a full bucket. The caller holds the set's lock.
    fn claim(&self, set: &Set, key: u64, now: Ticks) -> usize {
        let cost = |way: usize| {
            let tat = set.tats[way].load(Ordering::SeqCst);
            let empty = set.keys[way].load(Ordering::SeqCst) == 0;
            let live = tat > now || set.leased(way, now) > 0;
            (!empty, live, tat)
        };
        let way = (0..WAYS).min_by_key(|&way| cost(way)).unwrap_or(0);
        let (used, live, _) = cost(way);
        if used && live {
            self.evicted_live.fetch_add(1, Ordering::Relaxed);
        }
        set.keys[way].store(0, Ordering::SeqCst);
        set.leased[way].store(0, Ordering::SeqCst);
        // Not 0: an attempt on the evicted key that is under way must not find the TAT that it has seen.
        set.tats[way].store(now, Ordering::SeqCst);
        set.keys[way].store(key, Ordering::SeqCst);
        way
    }
}

impl Set {
    #[inline]
    fn find(&self, key: u64) -> Option<usize> {
        self.keys.iter().position(|known| known.load(Ordering::Acquire) == key)
    }

    /// Tokens on lease, after writing off those whose holders died.
    #[inline]
    fn leased(&self, way: usize, now: Ticks) -> u32 {
        let leased = self.leased[way].load(Ordering::SeqCst);
        if leased == 0 || now <= self.lease_ends[way].load(Ordering::SeqCst) {
            return leased;
        }
        // A new lease moves the end before it counts up, so a count that is still the same is an old one.
        match self.leased[way].compare_exchange(leased, 0, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => 0,
            Err(newer) => newer,
        }
    }

    /// One attempt to take `need + extra` from the bucket that was `seen`. The TAT afterwards, or None when anything
    /// changed meanwhile.
    #[inline]
    fn try_take(&self, rate: &Rate, way: usize, seen: Ticks, need: u32, extra: u32, now: Ticks) -> Option<Ticks> {
        let tokens = u64::from(need) + u64::from(extra);
        if extra == 0 {
            let tat = rate.moved(rate.base(seen, self.leased[way].load(Ordering::SeqCst), now), tokens);
            return (tat <= now + rate.capacity() && self.swap(way, seen, tat)).then_some(tat);
        }
        self.lease_ends[way].fetch_max(now + WRITTEN_OFF, Ordering::SeqCst);
        let leased = self.leased[way].fetch_add(extra, Ordering::SeqCst);
        let tat = rate.moved(rate.base(seen, leased, now), tokens);
        let taken = tat <= now + rate.capacity() && self.swap(way, seen, tat);
        if !taken {
            self.leased[way].fetch_sub(extra, Ordering::SeqCst);
        }
        taken.then_some(tat)
    }

    #[inline]
    fn swap(&self, way: usize, seen: Ticks, new: Ticks) -> bool {
        self.tats[way].compare_exchange(seen, new, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    const NOW: Ticks = ticks_of_ms(10_000);

    fn rate(burst: u32) -> Rate {
        Rate::new(10, 1_000_000_000, burst).expect("legal")
    }

    fn one() -> Wish {
        Wish { need: 1, extra_max: 0, share: 1 }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let (table, rate) = (NodeTable::new(8), rate(5));
        for _ in 0..5 {
            assert!(table.take(&rate, 7, one(), NOW).granted);
        }
        let refused = table.take(&rate, 7, one(), NOW);
        assert_eq!((refused.granted, rate.wait(refused.tat, 1, NOW)), (false, rate.interval()));
        assert!(table.take(&rate, 7, one(), NOW + rate.interval()).granted);
        assert!(table.take(&rate, 8, one(), NOW).granted, "another key");
    }

    #[test]
    fn leases_and_bucket_never_hold_more_than_the_burst() {
        let (table, rate) = (NodeTable::new(8), rate(10));
        let grant = table.take(&rate, 7, Wish { need: 1, extra_max: 4, share: 1 }, NOW);
        assert_eq!((grant.granted, grant.extra), (true, 4));
        // Long enough to fill the bucket, short enough that the lease counts.
        let later = NOW + rate.interval() * 6;
        let got = (0..10).filter(|_| table.take(&rate, 7, one(), later).granted).count();
        assert_eq!(got, 6, "four are on lease");
        table.settle(&rate, 7, 0, 4, later);
        let got = (0..10).filter(|_| table.take(&rate, 7, one(), later).granted).count();
        assert_eq!((got, table.peek(7).map(|(_, leased)| leased)), (4, Some(0)));
    }

    #[test]
    fn leases_of_dead_workers_are_written_off() {
        let (table, rate) = (NodeTable::new(8), rate(10));
        assert_eq!(table.take(&rate, 7, Wish { need: 1, extra_max: 4, share: 1 }, NOW).extra, 4);
        let later = NOW + WRITTEN_OFF + rate.interval();
        assert!((0..10).all(|_| table.take(&rate, 7, one(), later).granted));
    }

    #[test]
    fn full_buckets_are_evicted_first_and_debts_are_counted() {
        let (table, rate) = (NodeTable::new(1), rate(2));
        // All keys fall into one set of the single page.
        for key in 1..=8 {
            table.take(&rate, key, one(), NOW);
        }
        table.take(&rate, 9, one(), NOW);
        assert_eq!(table.evicted_live(), 1);
        table.take(&rate, 10, one(), NOW + rate.capacity());
        assert_eq!(table.evicted_live(), 1, "the others are full again");
    }

    #[test]
    fn threads_together_never_take_more_than_there_is() {
        for round in 0..20 {
            let (table, rate) = (NodeTable::new(8), Rate::new(1, 3_600_000_000_000, 1_000).expect("legal"));
            let begin = Barrier::new(4);
            let used: u64 = std::thread::scope(|scope| {
                let spawn = |id: u64| {
                    let (table, begin) = (&table, &begin);
                    scope.spawn(move || stress(table, &rate, begin, round * 4 + id))
                };
                let threads: Vec<_> = (0..4).map(spawn).collect();
                threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
            });
            assert_eq!(table.gave_up(), 0);
            assert_eq!(table.peek(7).map(|(_, leased)| leased), Some(0));
            let left = (0..1_000).take_while(|_| table.take(&rate, 7, one(), NOW).granted).count() as u64;
            assert!(used + left <= 1_000, "{used} used, {left} left");
            // What a give-back loses in a race is at most one lease per thread and race; it is rare.
            assert!(used + left >= 900, "{used} used, {left} left");
        }
    }

    /// Leases, spends part and gives the rest back, until nothing is left. How many tokens it used.
    fn stress(table: &NodeTable, rate: &Rate, begin: &Barrier, seed: u64) -> u64 {
        begin.wait();
        let mut used = 0;
        for turn in 0.. {
            let extra_max = ((seed + turn) % 5) as u32;
            let grant = table.take(rate, 7, Wish { need: 1, extra_max, share: 4 }, NOW);
            if !grant.granted {
                break;
            }
            let spent = grant.extra / 2;
            used += u64::from(1 + spent);
            table.settle(rate, 7, spent, grant.extra - spent, NOW);
        }
        used
    }
}
