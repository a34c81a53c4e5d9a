//! How many requests are in flight and how many wait, for each key: words that all workers share.
//!
//! ```text
//! word:  generation (16) | waiting (24) | in flight (24)
//! ```
//! A limit without a key has one word on a cache line of its own. With a key there is a table of sets of eight ways: a
//! key takes the place of one that has nothing in flight, and the generation tells those who looked before. When all
//! eight have requests in flight, the key shares one word with others in its position: the bound holds for them
//! together, which is stricter than written, never weaker.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crossbeam_utils::CachePadded;

/// Keys that one limit tells apart at the same time (F14).
pub const KEYS_MAX: usize = 65_536;
/// Attempts to find or claim a key while another worker claims in the same set; all but the first few yield.
const CLAIMS_MAX: usize = 1_000;
const SPINS: usize = 64;
const WAYS: usize = 8;
const PAGE_SETS: usize = 16;

const FIELD: u32 = 24;
const MASK: u64 = (1 << FIELD) - 1;
/// One more request in flight.
pub(super) const IN_FLIGHT: u64 = 1;
/// One more request that waits.
pub(super) const WAITING: u64 = 1 << FIELD;
const GENERATION: u64 = 1 << (2 * FIELD);

/// Requests in flight, of a word.
pub(super) const fn in_flight(word: u64) -> u32 {
    (word & MASK) as u32
}

/// Requests that wait, of a word.
pub(super) const fn waiting(word: u64) -> u32 {
    (word >> FIELD & MASK) as u32
}

/// Where the word of a key is; stays the same while anything is in flight or waits there.
pub(super) type Place = u32;

/// The place of keys that found none of their own, and of the only key of a limit without one.
pub(super) const SHARED: Place = u32::MAX;

/// The words of a limit.
pub(super) struct Keys {
    shared: CachePadded<AtomicU64>,
    /// Allocated when the first key falls into them. None at all for a limit without a key.
    pages: Box<[OnceLock<Box<[Set; PAGE_SETS]>>]>,
    crowded: AtomicU64,
}

#[derive(Default)]
#[repr(align(64))]
struct Set {
    keys: [AtomicU64; WAYS],
    words: [AtomicU64; WAYS],
    lock: AtomicU32,
}

impl Keys {
    /// One word, or a table for at least `keys` keys.
    pub fn new(keys: Option<usize>) -> Self {
        let pages = keys.map_or(0, |keys| keys.clamp(1, KEYS_MAX).div_ceil(WAYS * PAGE_SETS).next_power_of_two());
        Self {
            shared: CachePadded::default(),
            pages: (0..pages).map(|_| OnceLock::new()).collect(),
            crowded: AtomicU64::new(0),
        }
    }

    /// The place of a key, and its word at a moment at which the key was there: a swap that expects this word fails
    /// when the place was given to another key since.
    #[inline]
    pub fn find(&self, key: u64) -> (Place, &AtomicU64, u64) {
        match self.pages.is_empty() {
            true => self.shared(),
            false => self.find_in_table(key),
        }
    }

    /// The word at a place that is in use.
    #[inline]
    pub fn word(&self, place: Place) -> &AtomicU64 {
        let (set, way) = (place as usize / WAYS, place as usize % WAYS);
        let page = self.pages.get(set / PAGE_SETS).and_then(OnceLock::get);
        page.map_or(&self.shared, |page| &page[set % PAGE_SETS].words[way])
    }

    /// How often a key found no place of its own.
    pub fn crowded(&self) -> u64 {
        self.crowded.load(Ordering::Relaxed)
    }

    /// Requests in flight and requests that wait, over all keys.
    pub fn totals(&self) -> (u64, u64) {
        let pages = self.pages.iter().filter_map(OnceLock::get);
        let words = pages.flat_map(|page| page.iter()).flat_map(|set| &set.words);
        let all = words.chain([&*self.shared]).map(|word| word.load(Ordering::Relaxed));
        all.fold((0, 0), |(flying, queued), word| {
            (flying + u64::from(in_flight(word)), queued + u64::from(waiting(word)))
        })
    }

    fn shared(&self) -> (Place, &AtomicU64, u64) {
        (SHARED, &self.shared, self.shared.load(Ordering::SeqCst))
    }

    fn find_in_table(&self, key: u64) -> (Place, &AtomicU64, u64) {
        // Keys are hashes: their low bits choose page and set.
        let page = key as usize & (self.pages.len() - 1);
        let sets = self.pages[page].get_or_init(|| Box::new(std::array::from_fn(|_| Set::default())));
        let at = (key >> 32) as usize % PAGE_SETS;
        let set = &sets[at];
        for attempt in 0..CLAIMS_MAX {
            if let Some((way, word)) = set.find(key).or_else(|| set.claim(key)) {
                return (((page * PAGE_SETS + at) * WAYS + way) as Place, &set.words[way], word);
            }
            if set.is_crowded() {
                break;
            }
            match attempt < SPINS {
                true => std::hint::spin_loop(),
                false => std::thread::yield_now(),
            }
        }
        self.crowded.fetch_add(1, Ordering::Relaxed);
        self.shared()
    }
}

impl Set {
    /// The word is read before the key: whoever gives the place to another key takes the key away first.
    #[inline]
    fn find(&self, key: u64) -> Option<(usize, u64)> {
        (0..WAYS).find_map(|way| {
            if self.keys[way].load(Ordering::Relaxed) != key {
                return None;
            }
            let word = self.words[way].load(Ordering::SeqCst);
            (self.keys[way].load(Ordering::SeqCst) == key).then_some((way, word))
        })
    }

    fn is_crowded(&self) -> bool {
        self.lock.load(Ordering::SeqCst) == 0 && self.words.iter().all(|word| is_used(word.load(Ordering::SeqCst)))
    }

    /// Gives a place without requests to `key`; None when there is none, or when another worker claims at this moment.
    fn claim(&self, key: u64) -> Option<(usize, u64)> {
        self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).ok()?;
        let claimed = self.find(key).or_else(|| (0..WAYS).find_map(|way| self.take(way, key)));
        self.lock.store(0, Ordering::Release);
        claimed
    }

    fn take(&self, way: usize, key: u64) -> Option<(usize, u64)> {
        let word = self.words[way].load(Ordering::SeqCst);
        if is_used(word) {
            return None;
        }
        let old = self.keys[way].swap(0, Ordering::SeqCst);
        let new = word.wrapping_add(GENERATION);
        if self.words[way].compare_exchange(word, new, Ordering::SeqCst, Ordering::SeqCst).is_err() {
            // A request of the old key came in between.
            self.keys[way].store(old, Ordering::SeqCst);
            return None;
        }
        self.keys[way].store(key, Ordering::SeqCst);
        Some((way, new))
    }
}

const fn is_used(word: u64) -> bool {
    word & (GENERATION - 1) != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(keys: &Keys, key: u64) -> Place {
        let (place, word, seen) = keys.find(key);
        word.compare_exchange(seen, seen + IN_FLIGHT, Ordering::SeqCst, Ordering::SeqCst).expect("nobody else");
        place
    }

    #[test]
    fn keys_keep_their_place_while_they_are_used() {
        let keys = Keys::new(Some(1));
        let places: Vec<_> = (1..=8).map(|key| enter(&keys, key)).collect();
        assert!((1..=8).all(|key| keys.find(key).0 == places[key as usize - 1]));
        assert_eq!((enter(&keys, 9), keys.crowded(), keys.totals()), (SHARED, 1, (9, 0)));
        keys.word(places[3]).fetch_sub(IN_FLIGHT, Ordering::SeqCst);
        let (_, _, seen) = keys.find(4);
        assert_eq!(keys.find(9).0, places[3], "a place that nobody uses is given away");
        let late = keys.word(places[3]).compare_exchange(seen, seen + 1, Ordering::SeqCst, Ordering::SeqCst);
        assert!(late.is_err(), "who looked before must look again");
    }

    #[test]
    fn threads_never_count_a_request_for_the_wrong_key() {
        let keys = Keys::new(Some(1));
        std::thread::scope(|scope| {
            for seed in 0..4u64 {
                let keys = &keys;
                scope.spawn(move || {
                    for turn in 0..20_000u64 {
                        // More keys than places, at most four in use.
                        let key = 1 + (turn * 7 + seed * 3) % 24;
                        let (place, word, seen) = keys.find(key);
                        let taken = word.compare_exchange(seen, seen + IN_FLIGHT, Ordering::SeqCst, Ordering::SeqCst);
                        if taken.is_ok() {
                            assert!(place == SHARED || keys.find(key).0 == place);
                            word.fetch_sub(IN_FLIGHT, Ordering::SeqCst);
                        }
                    }
                });
            }
        });
        assert_eq!(keys.totals(), (0, 0));
    }
}
