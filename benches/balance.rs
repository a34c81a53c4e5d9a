//! Picks of each balancing algorithm at 2, 16 and 256 endpoints.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::upstream::balance::{Algorithm, Balancer, BalancerState, TriedSet, View, hash_key};

fn views(count: usize) -> Vec<View> {
    let view = |at: usize| View {
        weight: 1 + at as u32 % 3,
        load: at as u32 * 7 % 5,
        healthy: at % 16 != 5,
        hash: hash_key(format!("10.0.0.{at}:80").as_bytes()),
    };
    (0..count).map(view).collect()
}

fn picks(c: &mut Criterion) {
    for algorithm in Algorithm::ALL {
        let mut group = c.benchmark_group(format!("balance/{}", algorithm.word()));
        for count in [2, 16, 256] {
            let views = views(count);
            let (balancer, mut state) = (Balancer::new(algorithm, &views), BalancerState::new(1));
            let (tried, mut random) = (TriedSet::default(), 1u64);
            group.bench_with_input(BenchmarkId::from_parameter(count), &views, |b, views| {
                b.iter(|| {
                    random = random.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                    black_box(balancer.pick(&mut state, views, Some(random), random, &tried))
                });
            });
        }
        group.finish();
    }
}

fn tables(c: &mut Criterion) {
    for count in [16, 256] {
        let views = views(count);
        let name = format!("balance/build_table/{count}");
        c.bench_function(&name, |b| b.iter(|| black_box(Balancer::new(Algorithm::ConsistentHash, &views))));
    }
}

criterion_group!(benches, picks, tables);
criterion_main!(benches);
