//! Tokens that one worker has taken ahead, so that a busy key costs no shared write per request (`core-split`, C7).
//!
//! A lease grows with use: the first request of a key takes just its own tokens; each further visit to the node's table
//! within [`LEASE_MS`](super::node::LEASE_MS) doubles what is taken ahead, up to [`SplitPlan::extra_max`], and never
//! more than its share of what is left. What is not spent in that time goes back. A refusal is remembered until tokens
//! can exist again, so that a flood on a limited key writes nothing shared either.

use std::sync::Arc;

use super::node::{LEASE, NodeTable, WRITTEN_OFF, Wish};
use super::rate::{Rate, Ticks, Verdict};

/// Keys for which a worker holds leases.
pub const LEASES_MAX: usize = 4_096;
/// Most tokens that a worker takes ahead for a key.
pub const EXTRA_MAX: u32 = 63;
const WAYS: usize = 4;
const PAGE_SETS: usize = 16;
const PAGES: usize = LEASES_MAX / WAYS / PAGE_SETS;

/// How a bucket is split over workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitPlan {
    /// How many workers there are.
    pub workers: u32,
    /// Most tokens that a worker takes ahead for a key; 0 means that every decision is made in the node's table.
    pub extra_max: u32,
}

impl SplitPlan {
    /// The plan for a bucket: together the workers take at most an eighth of the burst ahead. With one worker there is
    /// nobody to contend with, and with a small burst each token matters: both take nothing ahead.
    pub fn new(burst: u32, workers: u32) -> Self {
        let extra_max = if workers > 1 { (burst / (8 * workers)).min(EXTRA_MAX) } else { 0 };
        Self { workers, extra_max }
    }

    /// Every decision in the node's table.
    pub const fn exact(workers: u32) -> Self {
        Self { workers, extra_max: 0 }
    }

    /// Most tokens that stand unused in the whole node while a request is refused: less than `cost` in the bucket, a
    /// lease with each worker, and what the bucket could not hold while spent leases were not reported. Each stays for
    /// at most two leases, a remembered refusal and a timer tick.
    pub const fn error_bound(&self, cost: u32) -> u64 {
        if self.extra_max == 0 {
            return cost as u64;
        }
        // A lease that is renewed counts twice for the moment in which the old one is reported.
        cost as u64 + 3 * self.workers as u64 * self.extra_max as u64
    }
}

/// The leases of one worker on one table.
pub struct Leases {
    table: Arc<NodeTable>,
    pages: Box<[Option<Page>]>,
    /// Leases with tokens, by index: what the timer looks at.
    active: Vec<u32>,
}

type Page = Box<[[Lease; WAYS]; PAGE_SETS]>;

#[derive(Clone, Copy, Debug, Default)]
struct Lease {
    key: u64,
    /// When the node's table was last asked.
    since: Ticks,
    /// No request passes before this.
    refuse_until: Ticks,
    /// The bucket's TAT when it was last seen.
    tat: Ticks,
    /// Tokens that may be spent here.
    held: u32,
    /// Tokens that were spent here and still count as leased in the table.
    spent: u32,
    /// How many to take ahead at the next visit.
    grow: u32,
    /// Whether the index is in `active`.
    listed: bool,
}

impl Leases {
    /// No leases on `table`.
    pub fn new(table: Arc<NodeTable>) -> Self {
        Self { table, pages: vec![None; PAGES].into(), active: Vec::new() }
    }

    /// The table that is leased from.
    pub fn table(&self) -> &Arc<NodeTable> {
        &self.table
    }

    /// Decides on a request that costs `cost` tokens of `key`.
    #[inline]
    pub fn decide(&mut self, rate: &Rate, plan: SplitPlan, key: u64, cost: u32, now: Ticks) -> Verdict {
        if plan.extra_max == 0 {
            return decide_exact(&self.table, rate, key, cost, now);
        }
        let at = self.lease(rate, key, now);
        let Some(lease) = at_index(&mut self.pages, at) else { return refusal(rate, now) };
        if now >= lease.since.saturating_add(LEASE) {
            end(&self.table, rate, lease, now);
        }
        if lease.held >= cost {
            lease.held -= cost;
            lease.spent += cost;
            return verdict(rate, true, lease.tat, lease.held, cost, now);
        }
        if now < lease.refuse_until {
            return verdict(rate, false, lease.tat, lease.held, cost, now);
        }
        let admitted = visit(&self.table, rate, plan, lease, cost, now);
        let answer = verdict(rate, admitted, lease.tat, lease.held, cost, now);
        if !lease.listed && lease.held + lease.spent > 0 {
            lease.listed = true;
            self.active.push(at);
        }
        answer
    }

    /// Gives the tokens of an admitted request back, because another limit refused it.
    pub fn refund(&mut self, rate: &Rate, key: u64, cost: u32, now: Ticks) {
        self.table.give(rate, key, cost, now);
    }

    /// Ends leases that are too old: for the timer. The work is bounded by the keys that were busy lately.
    pub fn on_tick(&mut self, rate: &Rate, now: Ticks) {
        let (table, pages) = (&self.table, &mut self.pages);
        self.active.retain(|&at| {
            let Some(lease) = at_index(pages, at) else { return false };
            if now >= lease.since.saturating_add(LEASE) {
                end(table, rate, lease, now);
            }
            lease.listed = lease.held + lease.spent > 0;
            lease.listed
        });
    }

    /// Tokens held at present, over all keys.
    pub fn held(&self) -> u64 {
        self.pages.iter().flatten().flat_map(|page| page.iter().flatten()).map(|lease| u64::from(lease.held)).sum()
    }

    /// The index of the key's lease; a new key takes the place of the one that was longest away from the table.
    fn lease(&mut self, rate: &Rate, key: u64, now: Ticks) -> u32 {
        let page = (key >> 40) as usize % PAGES;
        let set = (key >> 20) as usize % PAGE_SETS;
        let leases = &mut self.pages[page].get_or_insert_with(|| Box::new([[Lease::default(); WAYS]; PAGE_SETS]))[set];
        let oldest = || leases.iter().enumerate().min_by_key(|(_, lease)| lease.since).map_or(0, |(way, _)| way);
        let way = leases.iter().position(|lease| lease.key == key).unwrap_or_else(oldest);
        let lease = &mut leases[way];
        if lease.key != key {
            end(&self.table, rate, lease, now);
            *lease = Lease { key, listed: lease.listed, ..Lease::default() };
        }
        ((page * PAGE_SETS + set) * WAYS + way) as u32
    }
}

/// Decides on a request in the node's table, without taking anything ahead.
#[inline]
pub fn decide_exact(table: &NodeTable, rate: &Rate, key: u64, cost: u32, now: Ticks) -> Verdict {
    let grant = table.take(rate, key, Wish { need: cost, extra_max: 0, share: 1 }, now);
    verdict(rate, grant.granted, grant.tat, 0, cost, now)
}

/// Asks the node's table.
fn visit(table: &NodeTable, rate: &Rate, plan: SplitPlan, lease: &mut Lease, cost: u32, now: Ticks) -> bool {
    if lease.spent > 0 {
        table.settle(rate, lease.key, lease.spent, 0, now);
        lease.spent = 0;
    }
    let wish = Wish { need: cost - lease.held, extra_max: lease.grow.min(plan.extra_max), share: 2 * plan.workers };
    let grant = table.take(rate, lease.key, wish, now);
    lease.tat = grant.tat;
    if !grant.granted {
        // Other workers may give tokens back before the bucket refills: ask again after a lease.
        let wait = rate.wait(grant.tat, wish.need, now);
        lease.refuse_until = now.saturating_add(wait.min(LEASE));
        if lease.held == 0 {
            lease.since = now;
        }
        return false;
    }
    // What was held is spent with this request, and still counts as leased until the next visit.
    lease.spent = lease.held;
    lease.held = grant.extra;
    lease.grow = (lease.grow * 2).clamp(1, plan.extra_max);
    lease.since = now;
    true
}

/// Ends a lease: unspent tokens go back, spent ones are reported.
fn end(table: &NodeTable, rate: &Rate, lease: &mut Lease, now: Ticks) {
    // The node has forgotten such an old lease, or will.
    let forgotten = now >= lease.since.saturating_add(WRITTEN_OFF);
    if lease.held + lease.spent > 0 && !forgotten {
        table.settle(rate, lease.key, lease.spent, lease.held, now);
    }
    // A lease that was not spent was too large: begin with a part of it.
    lease.grow = if lease.held > 0 || forgotten { 0 } else { lease.grow / 4 };
    (lease.held, lease.spent) = (0, 0);
}

fn at_index(pages: &mut [Option<Page>], at: u32) -> Option<&mut Lease> {
    let at = at as usize;
    let page = pages.get_mut(at / (WAYS * PAGE_SETS))?.as_mut()?;
    page.get_mut(at / WAYS % PAGE_SETS)?.get_mut(at % WAYS)
}

#[inline]
fn verdict(rate: &Rate, admitted: bool, tat: Ticks, held: u32, cost: u32, now: Ticks) -> Verdict {
    let base = rate.base(tat, 0, now);
    let retry = if admitted { 0 } else { rate.wait(base, cost, now).max(1) };
    let remaining = rate.level(base, now).saturating_add(held).min(rate.burst());
    Verdict { admitted, remaining: if admitted { remaining } else { remaining.min(cost - 1) }, retry, full_at: base }
}

fn refusal(rate: &Rate, now: Ticks) -> Verdict {
    verdict(rate, false, now, 0, 1, now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::rate_limit::rate::ticks_of_ms;

    const NOW: Ticks = ticks_of_ms(10_000);
    const KEY: u64 = 0x1234_5678_9abc_def1;

    fn setup(workers: u32) -> (Rate, SplitPlan, Vec<Leases>) {
        let rate = Rate::new(160, 1_000_000_000, 160).expect("legal");
        let table = Arc::new(NodeTable::new(64));
        let leases = (0..workers).map(|_| Leases::new(table.clone())).collect();
        (rate, SplitPlan::new(rate.burst(), workers), leases)
    }

    #[test]
    fn a_busy_key_spends_mostly_without_the_table() {
        let (rate, plan, mut workers) = setup(2);
        assert_eq!(plan.extra_max, 10);
        let mut visits = 0;
        let mut before = None;
        for _ in 0..100 {
            assert!(workers[0].decide(&rate, plan, KEY, 1, NOW).admitted);
            let after = workers[0].table.peek(KEY).map(|(tat, _)| tat);
            visits += usize::from(after != before);
            before = after;
        }
        assert!(visits < 20, "{visits} visits for 100 requests");
    }

    #[test]
    fn one_worker_can_spend_the_whole_burst() {
        let (rate, plan, mut workers) = setup(4);
        let got = (0..1_000).filter(|_| workers[1].decide(&rate, plan, KEY, 1, NOW).admitted).count();
        assert_eq!(got, 160);
    }

    #[test]
    fn unused_tokens_come_back_after_the_lease() {
        let (rate, plan, mut workers) = setup(2);
        for _ in 0..22 {
            assert!(workers[0].decide(&rate, plan, KEY, 1, NOW).admitted);
        }
        assert!(workers[0].held() > 0);
        workers[0].on_tick(&rate, NOW + LEASE);
        assert_eq!((workers[0].held(), workers[0].active.len()), (0, 0));
        assert_eq!(workers[0].table.peek(KEY).map(|(_, leased)| leased), Some(0));
        let got = (0..1_000).filter(|_| workers[1].decide(&rate, plan, KEY, 1, NOW + LEASE).admitted).count();
        assert_eq!(got, 159, "the bucket is full but for the one that was spent and not yet reported");
    }

    #[test]
    fn keys_are_bounded_and_evicted_leases_are_settled() {
        let (rate, plan, mut workers) = setup(2);
        for key in 1..20_000u64 {
            let key = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            for _ in 0..4 {
                workers[0].decide(&rate, plan, key, 1, NOW);
            }
        }
        assert!(workers[0].active.len() <= LEASES_MAX);
        workers[0].on_tick(&rate, NOW + LEASE);
        assert!(workers[0].active.is_empty());
    }

    #[test]
    fn verdicts_tell_what_is_left() {
        let (rate, _, mut workers) = setup(1);
        let plan = SplitPlan::exact(1);
        let first = workers[0].decide(&rate, plan, KEY, 60, NOW);
        assert_eq!((first.admitted, first.remaining, first.full_at), (true, 100, NOW + 60 * rate.interval()));
        workers[0].decide(&rate, plan, KEY, 60, NOW);
        let refused = workers[0].decide(&rate, plan, KEY, 60, NOW);
        assert_eq!((refused.admitted, refused.remaining, refused.retry), (false, 40, 20 * rate.interval()));
    }
}
