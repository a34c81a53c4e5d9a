//! A proxied GET from end to end in memory, on kept-alive connections: all of the gateway but the system.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};

#[path = "../tests/support/bed.rs"]
mod bed;
#[path = "../tests/support/whole.rs"]
mod gateway;

use gateway::{CONFIG, Whole};

fn proxied(c: &mut Criterion) {
    for body_bytes in [0, 1_024, 12_000] {
        let mut whole = Whole::new(CONFIG, body_bytes);
        c.bench_function(&format!("whole/get/{body_bytes}"), |b| b.iter(|| black_box(whole.exchange())));
    }
}

fn with_policies(c: &mut Criterion) {
    let policies = "policies: [{rate_limit: {rate: 1000000/s}}, {headers: {response: {set: {X-A: b}}}}]";
    let config = CONFIG.replace("service: up}]", &format!("service: up, {policies}}}]"));
    let mut whole = Whole::new(&config, 1_024);
    c.bench_function("whole/get/1024/policies", |b| b.iter(|| black_box(whole.exchange())));
}

criterion_group!(benches, proxied, with_policies);
criterion_main!(benches);
