//! What finding a route costs by the number of routes: `cargo bench --bench route`.

use std::hint::black_box;
use std::net::IpAddr;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use ringway::route::*;

/// Paths asked for in turn; a power of two.
const REQUESTS: usize = 4096;

struct Request(String);

impl RouteInput for Request {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn host(&self) -> &[u8] {
        b"www.example.com"
    }
    fn path(&self) -> &[u8] {
        self.0.as_bytes()
    }
    fn query(&self) -> Option<&[u8]> {
        None
    }
    fn header<'a>(&'a self, _: &[u8], _: &mut dyn FnMut(&'a [u8]) -> bool) {}
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([127, 0, 0, 1])
    }
}

fn table(routes: u32, pattern: impl Fn(u32) -> String) -> RouteTable {
    let spec = |at| RouteSpec::new(RouteId(at), PathPattern::parse(&pattern(at)).expect("a pattern"));
    RouteTable::build((0..routes).map(spec).collect(), Order::Specificity).expect("a table")
}

/// Paths over the table's routes in a scattered but fixed order.
fn requests(routes: u32, path: impl Fn(u32) -> String) -> Vec<Request> {
    let scattered = |at: usize| ((at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % routes;
    (0..REQUESTS).map(|at| Request(path(scattered(at)))).collect()
}

fn find(criterion: &mut Criterion) {
    type Text = fn(u32) -> String;
    let kinds: [(&str, Text, Text); 4] = [
        ("exact", |at| format!("/api/v1/resource-{at}"), |at| format!("/api/v1/resource-{at}")),
        ("prefix", |at| format!("/service-{at}/*"), |at| format!("/service-{at}/users/42")),
        ("param", |at| format!("/service-{at}/users/{{id}}/x"), |at| format!("/service-{at}/users/42/x")),
        ("miss", |at| format!("/service-{at}/*"), |at| format!("/nothing-{at}/users/42")),
    ];
    for (kind, pattern, path) in kinds {
        let mut group = criterion.benchmark_group(format!("route/{kind}"));
        for routes in [1, 10, 1_000, 10_000] {
            let (table, requests) = (table(routes, pattern), requests(routes, path));
            let mut captures = Captures::new();
            let mut at = 0;
            group.bench_function(BenchmarkId::from_parameter(routes), |bencher| {
                bencher.iter(|| {
                    at = (at + 1) % REQUESTS;
                    black_box(table.find(&requests[at], &mut captures))
                })
            });
        }
    }
}

criterion_group!(benches, find);
criterion_main!(benches);
