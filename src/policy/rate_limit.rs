//! `rate_limit`: limits how many requests a key may make in a time (R73 to R94, C7 to C14, C63).
//!
//! ```yaml
//! policies:
//!   - rate_limit: { rate: 100/m, burst: 20, key: client_ip }
//!   - rate_limit: { windows: [100/m, 10000/h], key: "header:X-Api-Key", scope: node }
//! ```
//! The default is a token bucket whose budget holds for the whole node, split over the workers (`core-split`): a worker
//! takes tokens of a busy key ahead ([`lease`]) from a table that all workers share ([`node`]). In the whole node and
//! in any span of `t` seconds at most `burst + rate * t` requests pass. A request is refused only when at most
//! [`RateLimit::error_bound`] tokens stand unused. Scope `node` decides each request in the shared table: the bound is
//! then the request itself. Limits are local and need no store, so there is none to fail (C63).
//!
//! A refusal is a 429 with `Retry-After` (rounded up, C13). `X-RateLimit-*` go on whatever response leaves, never
//! upstream (C14); with several limits the tightest one speaks.

pub mod fields;
pub mod key;
pub mod lease;
pub mod node;
pub mod rate;
pub mod window;

use std::sync::Arc;

use ahash::RandomState;

use self::fields::{Lines, Quota};
use self::key::Key;
use self::lease::{Leases, SplitPlan};
use self::node::{NODE_KEYS_MAX, NodeTable};
use self::rate::{Rate, Ticks, Verdict, ticks};
use self::window::{Counters, LOG_KEYS_MAX, LOG_LIMIT_MAX, Log, Sharded, WINDOW_KEYS_MAX, Window};
use super::{Compile, CompileEnv, Flow, Hooks, Phase, Tick, WorkerSeed};
use crate::error::Reason;
use crate::http::exchange::Exchange;
use crate::limits::TICK_MS;
use crate::schema::codes;
use crate::schema::types::{Duration, Int, KeySource, Name, Rate as WrittenRate};
use crate::time::Now;
use crate::{config_enum, config_struct};

/// Most windows of one limit.
pub const WINDOWS_MAX: usize = 8;

config_struct! {
    /// Limits how many requests a key may make in a time (R73-R94).
    #[shorthand(rate)]
    pub struct Config {
        /// How many requests in which time.
        rate: Option<WrittenRate>,
        /// The same in two keys: how many requests …
        requests: Option<Int<1, 4_294_967_295>>,
        /// … in which time.
        per: Option<Duration>,
        /// How many at once (R83, C9); as many as in the time of the rate when left out.
        burst: Option<Int<1, 4_294_967_295>>,
        /// Several rates that hold at once, as a minute and an hour (R84).
        windows: Vec<WindowConfig> = "[]",
        /// Tokens that a request costs (R74).
        cost: Int<1, 1_000_000> = "1",
        /// Whose requests are counted together. Without the header, parameter or cookie: by address (R76, R77).
        key: KeySource = "client_ip",
        /// How exactly workers share the limit (C7).
        scope: Scope = "core-split",
        /// How requests are counted (C8).
        algorithm: Algorithm = "token_bucket",
        /// Whether responses carry `X-RateLimit-*` (R91, R92).
        headers: bool = "true",
        /// Whether responses also carry the `RateLimit` and `RateLimit-Policy` fields of the IETF draft.
        draft_headers: bool = "false",
        /// The label of refusals in metrics and in `X-RateLimit-Limit-Type`; from the kind of key when left out.
        limiter_type: Option<Name>,
        /// Count what would be refused, and refuse nothing.
        dry_run: bool = "false",
        /// Keys that are remembered; more push out those that are nearest to their full quota.
        keys_max: Int<1, 65_536> = "65536",
    }
}

config_struct! {
    /// One of several rates.
    #[shorthand(rate)]
    pub struct WindowConfig {
        /// How many requests in which time.
        rate: WrittenRate,
        /// How many at once; as many as in the time of the rate when left out.
        burst: Option<Int<1, 4_294_967_295>>,
    }
}

config_enum! {
    /// How exactly workers share a limit.
    pub enum Scope {
        /// Workers take tokens of busy keys ahead: no shared write for most requests, and a stated error bound.
        CoreSplit = "core-split" | "core_split",
        /// Every request is decided in a table that all workers share.
        Node = "node",
    }
}

config_enum! {
    /// How requests are counted.
    pub enum Algorithm {
        /// A bucket that fills at the rate and holds the burst.
        TokenBucket = "token_bucket" | "token-bucket",
        /// Two counters per key and an estimate between them; all workers share it.
        SlidingWindow = "sliding_window" | "sliding-window",
        /// The time of each request, exact, for limits up to 1000; all workers share it.
        SlidingLog = "sliding_log" | "sliding-log",
    }
}

/// The compiled limit.
pub struct RateLimit {
    key: Key,
    cost: u32,
    label: Box<str>,
    draft_headers: bool,
    dry_run: bool,
    hasher: RandomState,
    limits: Box<[Limit]>,
}

/// One rate with what all workers share.
struct Limit {
    quota: Quota,
    /// What its responses say; None where they say nothing.
    lines: Option<Lines>,
    table: Table,
}

enum Table {
    Bucket(Rate, SplitPlan, Arc<NodeTable>),
    Counters(Window, Arc<Sharded<Counters>>),
    Log(Window, Arc<Sharded<Log>>),
}

/// What a worker keeps for a limit.
pub struct State {
    leases: Vec<Option<Leases>>,
    counts: Counts,
    /// Wall clock minus monotonic clock.
    unix_offset_ms: u64,
    /// The limit that refused last is asked first: a flood then takes no tokens of the others that must go back.
    first: usize,
}

/// What a worker has decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests that passed.
    pub admitted: u64,
    /// Requests that were refused (`gateway_rate_limit_hits_total`, R215).
    pub refused: u64,
    /// Requests that would have been refused without `dry_run`.
    pub dry_run: u64,
}

impl State {
    /// What this worker has decided.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

impl RateLimit {
    /// The label in metrics and in `X-RateLimit-Limit-Type` (R92).
    pub fn label(&self) -> &str {
        &self.label
    }

    /// Most tokens that stand unused in the node while a request is refused, over all its rates; None for a sliding
    /// window, which estimates. The upper side has no error: never more than `burst + rate * t` pass.
    pub fn error_bound(&self) -> Option<u64> {
        self.limits.iter().map(|limit| limit.table.error_bound(self.cost)).try_fold(0, |most, one| Some(most.max(one?)))
    }

    /// Keys whose debt was forgiven because a table was full.
    pub fn evicted_live(&self) -> u64 {
        self.limits.iter().map(|limit| limit.table.evicted_live()).sum()
    }

    /// Decides on all rates: the tightest verdict, with its limit. Tokens are taken from all or from none.
    fn decide(&self, state: &mut State, key: u64, now: Ticks) -> Option<(Verdict, &Limit)> {
        let count = self.limits.len().min(state.leases.len());
        let mut tightest: Option<(Verdict, &Limit)> = None;
        for turn in 0..count {
            let at = (state.first + turn) % count;
            let (limit, leases) = (&self.limits[at], &mut state.leases[at]);
            let verdict = limit.table.decide(leases.as_mut(), key, self.cost, now);
            if !verdict.admitted {
                for turn in 0..turn {
                    let at = (state.first + turn) % count;
                    self.limits[at].table.refund(state.leases[at].as_mut(), key, self.cost, now);
                }
                state.first = at;
                return Some((verdict, limit));
            }
            if tightest.is_none_or(|(other, _)| verdict.remaining < other.remaining) {
                tightest = Some((verdict, limit));
            }
        }
        tightest
    }
}

impl Compile for RateLimit {
    type Config = Config;

    fn compile(config: &Config, env: &CompileEnv) -> Result<Self, String> {
        // A cost is at most a million.
        let cost = config.cost.get() as u32;
        let key = Key::of(&config.key);
        let label = config.limiter_type.as_ref().map_or(key.label(), Name::as_str);
        let limits = rates(config)?.into_iter().map(|written| {
            let mut limit = Limit::compile(config, &key, cost, written, env)?;
            limit.lines = if config.headers { Lines::of(&limit.quota, label) } else { None };
            Ok(limit)
        });
        let [a, b, c, d] =
            [1, 2, 3, 4].map(|turn: u64| env.random.wrapping_mul(2 * turn + 1).rotate_left(17 * turn as u32));
        Ok(Self {
            cost,
            label: label.into(),
            draft_headers: config.draft_headers,
            dry_run: config.dry_run,
            hasher: RandomState::with_seeds(a, b, c, d),
            limits: limits.collect::<Result<_, String>>()?,
            key,
        })
    }
}

impl Hooks for RateLimit {
    type State = State;

    fn new_state(&self, seed: &WorkerSeed) -> State {
        let leases = self.limits.iter().map(|limit| limit.table.leases()).collect();
        State { leases, counts: Counts::default(), unix_offset_ms: offset(seed.tick), first: 0 }
    }

    fn phase(&self) -> Option<Phase> {
        Some(self.key.phase())
    }

    fn inherit(&mut self, previous: &Self) {
        // With another kind of key the old fingerprints mean nothing.
        if self.key != previous.key {
            return;
        }
        self.hasher = previous.hasher.clone();
        // A bucket's debt is kept as time: under a new rate it is paid back no later than under the old one.
        for (limit, old) in self.limits.iter_mut().zip(&previous.limits) {
            limit.table.inherit(&old.table);
        }
    }

    fn adopt(&self, state: &mut State) {
        state.leases.resize_with(self.limits.len(), || None);
        for (leases, limit) in state.leases.iter_mut().zip(&self.limits) {
            let same = leases.as_ref().is_some_and(|leases| limit.table.is_leased_by(leases));
            if !same {
                *leases = limit.table.leases();
            }
        }
    }

    fn on_request(&self, state: &mut State, x: &mut Exchange, now: Now) -> Flow {
        let key = self.key.fingerprint(&self.hasher, x);
        let Some((verdict, limit)) = self.decide(state, key, ticks(now)) else { return Flow::Continue };
        let counted = match (verdict.admitted, self.dry_run) {
            (true, _) => &mut state.counts.admitted,
            (false, true) => &mut state.counts.dry_run,
            (false, false) => &mut state.counts.refused,
        };
        *counted += 1;
        if self.dry_run {
            return Flow::Continue;
        }
        if let Some(lines) = &limit.lines {
            let full_at = fields::unix_seconds(verdict.full_at, state.unix_offset_ms);
            fields::write(&mut x.late_fields, &verdict, lines, full_at);
        }
        if self.draft_headers {
            fields::write_draft(&mut x.late_fields, &verdict, &limit.quota, ticks(now));
        }
        if verdict.admitted {
            return Flow::Continue;
        }
        fields::write_retry_after(&mut x.late_fields, &verdict);
        Flow::fail(Reason::RateLimited)
    }

    fn on_tick(&self, state: &mut State, tick: Tick) {
        state.unix_offset_ms = offset(tick);
        for (limit, leases) in self.limits.iter().zip(&mut state.leases) {
            if let (Table::Bucket(rate, ..), Some(leases)) = (&limit.table, leases) {
                leases.on_tick(rate, ticks(tick.now));
            }
        }
    }

    fn limiter_type(&self) -> Option<&str> {
        Some(&self.label)
    }

    /// Time passes for a worker in ticks: a bucket that holds less than one of them brings loses the rest (C10).
    fn doubt(&self) -> Option<(&'static str, String)> {
        self.limits.iter().filter(|limit| matches!(limit.table, Table::Bucket(..))).find_map(|limit| {
            let Quota { limit: burst, requests, per_ns } = limit.quota;
            let in_a_tick = u128::from(requests) * u128::from(TICK_MS * 1_000_000) / u128::from(per_ns.max(1));
            let what = || {
                format!(
                    "a burst of {burst} is less than the {in_a_tick} requests that the rate brings in {TICK_MS} ms, so \
                     that fewer pass than it says"
                )
            };
            (in_a_tick > u128::from(burst)).then(|| (codes::SMALL_BUCKET, what()))
        })
    }

    fn explain(&self) -> String {
        let rates: Vec<String> = self.limits.iter().map(|limit| limit.quota.to_string()).collect();
        let bound = match self.error_bound() {
            Some(bound) => format!("refuses only when at most {bound} tokens stand unused"),
            None => "estimates between two windows".to_owned(),
        };
        let dry = if self.dry_run { ", dry run" } else { "" };
        format!("{} by {}: {bound}{dry}", rates.join(" and "), self.key.label())
    }
}

/// A rate as it is written: requests, span in nanoseconds, burst.
type Written = (u32, u64, u32);

fn rates(config: &Config) -> Result<Vec<Written>, String> {
    let nanos =
        |span: std::time::Duration| u64::try_from(span.as_nanos()).map_err(|_| "the time is too long".to_owned());
    // The schema bounds these numbers to 32 bits.
    let burst = |burst: Option<Int<1, 4_294_967_295>>, requests: u32| burst.map_or(requests, |b| b.get() as u32);
    let mut out = Vec::new();
    match (config.rate, config.requests, config.per) {
        (Some(rate), None, None) => out.push((rate.count, nanos(rate.per)?, burst(config.burst, rate.count))),
        (None, Some(requests), Some(per)) => {
            let requests = requests.get() as u32;
            out.push((requests, nanos(per.get())?, burst(config.burst, requests)));
        }
        (None, None, None) if config.windows.is_empty() => return Err("give a `rate`, as 100/s".to_owned()),
        (None, None, None) if config.burst.is_some() => return Err("give each window its own `burst`".to_owned()),
        (None, None, None) => {}
        _ => return Err("give either `rate`, or `requests` and `per`".to_owned()),
    }
    for window in &config.windows {
        let rate = window.rate;
        out.push((rate.count, nanos(rate.per)?, burst(window.burst, rate.count)));
    }
    if out.len() > WINDOWS_MAX {
        return Err(format!("more than {WINDOWS_MAX} windows"));
    }
    Ok(out)
}

impl Limit {
    fn compile(config: &Config, key: &Key, cost: u32, written: Written, env: &CompileEnv) -> Result<Self, String> {
        let (requests, per_ns, burst) = written;
        let bucket = config.algorithm == Algorithm::TokenBucket;
        let limit = if bucket { burst } else { requests };
        if cost > limit {
            return Err(format!("a request costs {cost}, more than the limit of {limit} can ever give"));
        }
        // At most 65,536 by the schema.
        let keys = key.count_max(config.keys_max.get() as usize);
        let window = Window { limit, span: per_ns.saturating_mul(rate::TICKS_PER_NS) };
        let table = match config.algorithm {
            Algorithm::TokenBucket => {
                let rate = Rate::new(u64::from(requests), per_ns, burst)?;
                let plan = match config.scope {
                    Scope::CoreSplit => SplitPlan::new(burst, env.workers),
                    Scope::Node => SplitPlan::exact(env.workers),
                };
                Table::Bucket(rate, plan, Arc::new(NodeTable::new(keys.min(NODE_KEYS_MAX))))
            }
            Algorithm::SlidingWindow => Table::Counters(window, Arc::new(Sharded::new(keys.min(WINDOW_KEYS_MAX)))),
            Algorithm::SlidingLog if limit > LOG_LIMIT_MAX => {
                return Err(format!("a sliding log holds at most {LOG_LIMIT_MAX} requests; use sliding_window"));
            }
            Algorithm::SlidingLog => Table::Log(window, Arc::new(Sharded::new(keys.min(LOG_KEYS_MAX)))),
        };
        Ok(Self { quota: Quota { limit, requests, per_ns }, lines: None, table })
    }
}

impl Table {
    #[inline]
    fn decide(&self, leases: Option<&mut Leases>, key: u64, cost: u32, now: Ticks) -> Verdict {
        match (self, leases) {
            (Table::Bucket(rate, plan, _), Some(leases)) => leases.decide(rate, *plan, key, cost, now),
            // A request of an older snapshot whose state has another form: decide exactly.
            (Table::Bucket(rate, _, table), None) => lease::decide_exact(table, rate, key, cost, now),
            (Table::Counters(window, table), _) => table.decide(*window, key, cost, now),
            (Table::Log(window, table), _) => table.decide(*window, key, cost, now),
        }
    }

    fn refund(&self, leases: Option<&mut Leases>, key: u64, cost: u32, now: Ticks) {
        match (self, leases) {
            (Table::Bucket(rate, ..), Some(leases)) => leases.refund(rate, key, cost, now),
            (Table::Bucket(rate, _, table), None) => table.give(rate, key, cost, now),
            (Table::Counters(window, table), _) => table.refund(*window, key, cost, now),
            (Table::Log(window, table), _) => table.refund(*window, key, cost, now),
        }
    }

    fn leases(&self) -> Option<Leases> {
        match self {
            Table::Bucket(_, _, table) => Some(Leases::new(table.clone())),
            Table::Counters(..) | Table::Log(..) => None,
        }
    }

    fn is_leased_by(&self, leases: &Leases) -> bool {
        matches!(self, Table::Bucket(_, _, table) if Arc::ptr_eq(table, leases.table()))
    }

    fn inherit(&mut self, previous: &Table) {
        match (self, previous) {
            (Table::Bucket(_, _, table), Table::Bucket(_, _, old)) => *table = old.clone(),
            // The counters of windows of another length count something else.
            (Table::Counters(window, table), Table::Counters(before, old)) if window.span == before.span => {
                *table = old.clone();
            }
            (Table::Log(_, table), Table::Log(_, old)) => *table = old.clone(),
            _ => {}
        }
    }

    fn error_bound(&self, cost: u32) -> Option<u64> {
        match self {
            Table::Bucket(_, plan, _) => Some(plan.error_bound(cost)),
            Table::Counters(..) => None,
            Table::Log(..) => Some(u64::from(cost)),
        }
    }

    fn evicted_live(&self) -> u64 {
        match self {
            Table::Bucket(_, _, table) => table.evicted_live(),
            Table::Counters(_, table) => table.evicted_live(),
            Table::Log(_, table) => table.evicted_live(),
        }
    }
}

fn offset(tick: Tick) -> u64 {
    tick.unix_ms.saturating_sub(tick.now.ms())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::decode_str;

    const AT: Now = Now::from_ms(100_000);

    fn compile(config: &str, workers: u32) -> Result<RateLimit, String> {
        RateLimit::compile(&decode_str(config)?, &CompileEnv { workers, random: 7 })
    }

    fn state(limit: &RateLimit) -> State {
        let tick = Tick { now: AT, unix_ms: 1_700_000_000_500 };
        limit.new_state(&WorkerSeed { index: 0, count: 1, random: 1, tick })
    }

    fn field(x: &Exchange, name: &str) -> String {
        String::from_utf8_lossy(x.late_fields.find(name.as_bytes()).unwrap_or_default()).into_owned()
    }

    fn ask(limit: &RateLimit, state: &mut State, now: Now) -> (bool, Exchange) {
        let mut x = Exchange::default();
        let flow = limit.on_request(state, &mut x, now);
        (matches!(flow, Flow::Continue), x)
    }

    #[test]
    fn a_bucket_smaller_than_a_tick_is_doubted() {
        for (config, doubted) in [
            ("{rate: 10000/s, burst: 199}", true),
            ("{rate: 10000/s, burst: 200}", false),
            ("{rate: 10000/s, burst: 5000}", false),
            ("{rate: 100/m, burst: 1}", false),
            ("{windows: [100/m, {rate: 1000000/s, burst: 7}]}", true),
            ("{rate: 10000/s, burst: 10, algorithm: sliding_window}", false),
        ] {
            let doubt = compile(config, 1).expect("legal").doubt();
            assert_eq!(doubt.map(|(code, _)| code), doubted.then_some(codes::SMALL_BUCKET), "{config}");
        }
    }

    #[test]
    fn refusals_and_successes_carry_the_fields() {
        let limit = compile("{requests: 2, per: 60s}", 1).expect("legal");
        let mut state = state(&limit);
        let (passed, x) = ask(&limit, &mut state, AT);
        assert!(passed && x.request.fields.is_empty(), "C14");
        let names = ["X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-RateLimit-Limit-Type"];
        assert_eq!(names.map(|name| field(&x, name)), ["2", "1", "1700000031", "ip"]);
        assert!(ask(&limit, &mut state, AT).0);
        let (passed, x) = ask(&limit, &mut state, AT.plus_ms(1));
        assert!(!passed);
        assert_eq!(names.map(|name| field(&x, name)), ["2", "0", "1700000061", "ip"]);
        assert_eq!(field(&x, "Retry-After"), "30");
        assert_eq!(state.counts(), Counts { admitted: 2, refused: 1, dry_run: 0 });
        assert!(ask(&limit, &mut state, AT.plus_ms(30_000)).0);
    }

    #[test]
    fn a_dry_run_counts_and_shows_nothing() {
        let limit = compile("{rate: 1/m, dry_run: true}", 1).expect("legal");
        let mut state = state(&limit);
        assert!((0..3).all(|_| ask(&limit, &mut state, AT).0));
        assert_eq!(state.counts(), Counts { admitted: 1, refused: 0, dry_run: 2 });
        assert!(ask(&limit, &mut state, AT).1.late_fields.is_empty());
    }

    #[test]
    fn several_windows_hold_at_once_and_refusals_cost_nothing() {
        for algorithm in ["token_bucket", "sliding_window", "sliding_log"] {
            let limit = compile(&format!("{{windows: [3/s, 5/h], algorithm: {algorithm}}}"), 1).expect("legal");
            let mut state = state(&limit);
            let burst = |state: &mut State, now| (0..10).filter(|_| ask(&limit, state, now).0).count();
            assert_eq!(burst(&mut state, AT), 3, "{algorithm}: the second");
            assert_eq!(burst(&mut state, AT.plus_ms(2_000)), 2, "{algorithm}: the hour");
            assert_eq!(burst(&mut state, AT.plus_ms(4_000)), 0, "{algorithm}");
        }
    }

    #[test]
    fn a_reload_keeps_what_was_used() {
        let old = compile("{rate: 10/h}", 2).expect("legal");
        let mut state = state(&old);
        assert!((0..8).all(|_| ask(&old, &mut state, AT).0));
        let mut new = compile("{rate: 10/h, burst: 12}", 2).expect("legal");
        new.inherit(&old);
        new.adopt(&mut state);
        assert_eq!((0..10).filter(|_| ask(&new, &mut state, AT).0).count(), 4);
        let mut other = compile("{rate: 10/h, key: global}", 2).expect("legal");
        other.inherit(&old);
        other.adopt(&mut state);
        assert!(ask(&other, &mut state, AT).0, "another key begins anew");
    }

    #[test]
    fn wrong_configurations_are_refused_with_a_reason() {
        for (config, part) in [
            ("{}", "give a `rate`"),
            ("{rate: 1/s, requests: 2, per: 1s}", "either"),
            ("{requests: 2}", "either"),
            ("{rate: 5/s, cost: 6}", "costs 6"),
            ("{rate: 5000/s, algorithm: sliding_log}", "sliding log"),
            ("{windows: [1/s], burst: 2}", "its own"),
            ("{rate: 4000000000/s}", "requests per second"),
            ("{rate: 1/s, scope: cluster}", "scope"),
        ] {
            let error = compile(config, 1).err().unwrap_or_default();
            assert!(error.contains(part), "{config}: {error}");
        }
    }

    #[test]
    fn the_key_decides_the_phase_and_the_bound_is_stated() {
        let phase = |config| compile(config, 1).expect("legal").phase();
        assert_eq!(phase("{rate: 1/s}"), Some(Phase::Guard));
        assert_eq!(phase("{rate: 1/s, key: 'header:x-api-key'}"), Some(Phase::Limit));
        let bound = |config, workers| compile(config, workers).expect("legal").error_bound();
        assert_eq!(bound("{rate: 100/s}", 1), Some(1));
        assert_eq!(bound("{rate: 100/s, scope: node}", 8), Some(1));
        assert_eq!(bound("{rate: 1600/s}", 4), Some(1 + 3 * 4 * 50));
        assert_eq!(bound("{rate: 100/s, algorithm: sliding_window}", 4), None);
    }
}
