//! From a request's host to the tables of routes that may take it, the most specific first (R8).

use std::collections::HashMap;
use std::ops::ControlFlow;

use ahash::RandomState;

use super::HostPattern;
use super::pattern::HOST_BYTES_MAX;

/// The levels of a table, by host pattern. A level is an index that the caller gives a meaning.
#[derive(Debug)]
pub(super) struct Hosts {
    exact: HashMap<Box<[u8]>, u32, RandomState>,
    /// By suffix, without `*.`.
    wildcards: HashMap<Box<[u8]>, u32, RandomState>,
    /// Dots in the suffix with the most of them.
    wildcard_dots_max: usize,
    any: Option<u32>,
}

impl Hosts {
    pub(super) fn new() -> Hosts {
        Hosts {
            exact: HashMap::with_hasher(hasher()),
            wildcards: HashMap::with_hasher(hasher()),
            wildcard_dots_max: 0,
            any: None,
        }
    }

    /// The level of `pattern`, which is `next` if it is a new one.
    pub(super) fn level(&mut self, pattern: &HostPattern, next: u32) -> u32 {
        match pattern {
            HostPattern::Any => *self.any.get_or_insert(next),
            HostPattern::Exact(name) => *self.exact.entry(name.as_bytes().into()).or_insert(next),
            HostPattern::Wildcard(suffix) => {
                let dots = suffix.bytes().filter(|byte| *byte == b'.').count();
                self.wildcard_dots_max = self.wildcard_dots_max.max(dots);
                *self.wildcards.entry(suffix.as_bytes().into()).or_insert(next)
            }
        }
    }

    /// Calls `visit` with every level that takes `host`, the most specific first, until it breaks.
    #[inline]
    pub(super) fn visit(&self, host: &[u8], mut visit: impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
        if !self.exact.is_empty()
            && host.len() <= HOST_BYTES_MAX
            && let Some(level) = self.exact.get(host)
        {
            visit(*level)?;
        }
        if !self.wildcards.is_empty() && host.len() <= HOST_BYTES_MAX {
            self.visit_wildcards(host, &mut visit)?;
        }
        self.any.map_or(ControlFlow::Continue(()), visit)
    }

    fn visit_wildcards(&self, host: &[u8], visit: &mut impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
        let dots = memchr::memchr_iter(b'.', host).count();
        // A suffix with more dots than any wildcard has cannot be one; what is left is bounded by the table.
        let skip = dots.saturating_sub(self.wildcard_dots_max + 1);
        for at in memchr::memchr_iter(b'.', host).skip(skip).filter(|at| *at > 0) {
            if let Some(level) = self.wildcards.get(&host[at + 1..]) {
                visit(*level)?;
            }
        }
        ControlFlow::Continue(())
    }

    /// About how many bytes the maps take on the heap.
    pub(super) fn bytes(&self) -> usize {
        let entry = size_of::<(Box<[u8]>, u32)>() + 1;
        let names: usize = self.exact.keys().chain(self.wildcards.keys()).map(|name| name.len()).sum();
        (self.exact.capacity() + self.wildcards.capacity()) * entry + names
    }
}

/// A hasher with fixed keys: the keys of the maps come from the configuration, so that clients cannot fill a bucket.
pub(super) fn hasher() -> RandomState {
    RandomState::with_seeds(0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_specific_first() {
        let mut hosts = Hosts::new();
        let patterns = ["*", "*.com", "*.b.com", "a.b.com", "*.a.b.com"];
        for (level, text) in patterns.iter().enumerate() {
            assert_eq!(hosts.level(&HostPattern::parse(text).unwrap(), level as u32), level as u32);
        }
        assert_eq!(hosts.level(&HostPattern::parse("*.com").unwrap(), 9), 1, "one level per pattern");
        let visited = |host: &str| {
            let mut levels = Vec::new();
            let _ = hosts.visit(host.as_bytes(), |level| {
                levels.push(level);
                ControlFlow::Continue(())
            });
            levels
        };
        assert_eq!(visited("a.b.com"), [3, 2, 1, 0]);
        assert_eq!(visited("x.y.a.b.com"), [4, 2, 1, 0]);
        assert_eq!(visited("b.com"), [1, 0]);
        assert_eq!(visited(".com"), [0]);
        assert_eq!(visited(""), [0]);
        assert_eq!(visited(&format!("{}com", "a.".repeat(200))), [0], "longer than a host may be");
    }
}
