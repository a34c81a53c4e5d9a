//! Chance for simulations: the same seed, the same run.
#![allow(dead_code, reason = "shared by several test binaries")]

/// Numbers of the generator that the gateway has too.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        ringway::random::next(&mut self.0)
    }

    /// A number below `bound`; 0 where there is no choice.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}
