//! stub
#![allow(missing_docs)]
use std::cell::Cell;
#[derive(Default)]
pub struct Tried(u64);
impl Tried {
    pub fn insert(&mut self, at: usize) {
        self.0 |= 1 << (at % 64);
    }
    pub fn has(&self, at: usize) -> bool {
        self.0 & (1 << (at % 64)) != 0
    }
}
pub struct Candidate {
    pub healthy: bool,
    pub active: u32,
}
pub struct Balancer {
    pub count: usize,
}
pub struct BalancerState {
    next: Cell<usize>,
}
impl Balancer {
    pub fn new_state(&self, seed: u64) -> BalancerState {
        BalancerState { next: Cell::new(seed as usize % self.count.max(1)) }
    }
    pub fn name(&self) -> &'static str {
        "round_robin"
    }
    pub fn wants_key(&self) -> bool {
        false
    }
    pub fn pick(
        &self,
        state: &mut BalancerState,
        view: impl Fn(usize) -> Candidate,
        _key: Option<u64>,
        _random: u64,
        tried: &Tried,
    ) -> Option<usize> {
        for _ in 0..self.count {
            let at = state.next.get() % self.count;
            state.next.set(at + 1);
            if view(at).healthy && !tried.has(at) {
                return Some(at);
            }
        }
        None
    }
}
pub fn hash_bytes(b: &[u8]) -> u64 {
    b.len() as u64
}
