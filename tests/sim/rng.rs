//! Chance from a seed.

use ringway::net::mem::splitmix;

#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(splitmix(seed ^ 0x51u64.rotate_left(40)))
    }

    /// A generator for a part of the run, independent of how much the others drew.
    pub fn of(parts: &[u64]) -> Self {
        Self::new(parts.iter().fold(1, |hash, &part| splitmix(hash ^ part)))
    }

    pub fn next(&mut self) -> u64 {
        ringway::random::next(&mut self.0)
    }

    /// A number from 0 to `most` - 1; 0 when there is no choice.
    pub fn below(&mut self, most: usize) -> usize {
        (self.next() % most.max(1) as u64) as usize
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}
