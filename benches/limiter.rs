//! Decisions of the rate limiter: in the shared table, from a lease, refused, with many keys, and with its hooks.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::http::exchange::Exchange;
use ringway::policy::rate_limit::RateLimit;
use ringway::policy::rate_limit::lease::{Leases, SplitPlan};
use ringway::policy::rate_limit::node::NodeTable;
use ringway::policy::rate_limit::rate::{Rate, ticks_of_ms};
use ringway::policy::{Compile, CompileEnv, Hooks, Tick, WorkerSeed};
use ringway::schema::decode_str;
use ringway::time::Now;

const KEY: u64 = 0x1234_5678_9abc_def1;

/// One decision per tenth of an interval; `split` tells how workers share.
fn decisions(c: &mut Criterion, name: &str, rate: Rate, split: SplitPlan, step: u64, keys: u64) {
    let mut leases = Leases::new(Arc::new(NodeTable::new(65_536)));
    let (mut now, mut turn) = (ticks_of_ms(1_000), 0u64);
    c.bench_function(name, |b| {
        b.iter(|| {
            now += step;
            turn = (turn + 1) % keys;
            let key = KEY.wrapping_add(turn.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            black_box(leases.decide(&rate, split, key, 1, now))
        });
    });
}

fn limiter(c: &mut Criterion) {
    let rate = Rate::new(1_000_000, 1_000_000_000, 100_000).expect("legal");
    let slow = Rate::new(1, 3_600_000_000_000, 16).expect("legal");
    let enough = rate.interval() * 2;
    decisions(c, "limiter/node/hit", rate, SplitPlan::exact(4), enough, 1);
    decisions(c, "limiter/split/hit", rate, SplitPlan::new(100_000, 4), enough, 1);
    decisions(c, "limiter/node/refuse", slow, SplitPlan::exact(4), 16, 1);
    decisions(c, "limiter/split/refuse", slow, SplitPlan { workers: 4, extra_max: 4 }, 16, 1);
    decisions(c, "limiter/node/50k_keys", rate, SplitPlan::exact(4), enough, 50_000);
    decisions(c, "limiter/split/50k_keys", rate, SplitPlan::new(100_000, 4), enough, 50_000);
    decisions(c, "limiter/split/lease_every_time", rate, SplitPlan { workers: 4, extra_max: 1 }, enough, 1);
}

fn hooks(c: &mut Criterion) {
    for (name, config) in [
        ("limiter/hooks/plain", "{rate: 1000000/s, headers: false}"),
        ("limiter/hooks/headers", "{rate: 1000000/s}"),
        ("limiter/hooks/refused", "{rate: 1/h}"),
    ] {
        let env = CompileEnv { workers: 4, random: 1 };
        let policy = RateLimit::compile(&decode_str(config).expect("legal"), &env).expect("legal");
        let tick = Tick { now: Now::from_ms(1), unix_ms: 1 };
        let mut state = policy.new_state(&WorkerSeed { index: 0, count: 4, random: 1, tick });
        let (mut x, mut now) = (Exchange::default(), Now::from_ms(1_000));
        c.bench_function(name, |b| {
            b.iter(|| {
                x.clear();
                now = now.plus_ns(2_000);
                black_box(policy.on_request(&mut state, &mut x, now))
            });
        });
    }
}

criterion_group!(benches, limiter, hooks);
criterion_main!(benches);
