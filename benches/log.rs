//! What a finished request costs in counters and in its log line.

use std::fs::File;
use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::http::exchange::{Exchange, RequestId, ShortText};
use ringway::http::path::PathPolicy;
use ringway::proto::h1::parse::{HeadLimits, Parsed};
use ringway::proto::h1::request;
use ringway::sys::buf::Buf;
use ringway::telemetry::access_log::{AccessLogWriter, Format, Names, Target};
use ringway::telemetry::metrics::WorkerMetrics;
use ringway::time::Now;

const REQUEST: &[u8] = b"GET /api/users/17?full=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1\r\n\
    Referer: https://shop.example/?token=x\r\n\r\n";

fn exchange() -> Exchange {
    let mut x = Exchange::default();
    let Ok(Parsed::Complete(bytes)) = request::parse_lines(REQUEST, &HeadLimits::default(), &mut x.request) else {
        panic!("not a head")
    };
    request::interpret(&mut x.request, Buf::copy_of(REQUEST), bytes, PathPolicy::Strict, false).expect("legal");
    x.peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
    x.client_ip = x.peer.ip();
    x.peer_text = ShortText::of(&x.peer.ip());
    x.id = RequestId::from_random(1, 2);
    (x.response.status, x.upstream_status, x.response_bytes) = (200, 200, 1_024);
    let tag = ringway::http::exchange::EndpointTag { authority: "10.0.0.1:80".into(), slot: 0 };
    (x.upstream_ns, x.endpoint, x.attempts) = (700_000, Some(tag.into()), 1);
    x
}

fn lines(c: &mut Criterion) {
    let x = exchange();
    let names = Names { route: "users", service: "up", endpoint: "10.0.0.1:80" };
    for (name, format) in [("json", Format::Json), ("combined", Format::Combined)] {
        let sink = File::options().write(true).open("/dev/null").expect("a sink");
        let writer = AccessLogWriter::start(Target::Open(sink), format, 1).expect("a thread");
        let mut log = writer.worker(0);
        let mut ns = 0;
        c.bench_function(&format!("log/{name}"), |b| {
            b.iter(|| {
                ns += 1_000;
                log.record(black_box(&x), &names, Now(ns), 1_700_000_000_000 + ns / 1_000_000);
            });
        });
        drop(log);
        writer.stop(Duration::from_secs(5));
    }
}

fn counters(c: &mut Criterion) {
    let x = exchange();
    let mut metrics = WorkerMetrics::new(0, Now::default());
    let (route, service) = (metrics.route("users", "/api/users/*"), metrics.service("up", ["10.0.0.1:80"]));
    c.bench_function("log/metrics", |b| {
        b.iter(|| metrics.finished(&route, Some(&service), black_box(&x), Now(900_000)));
    });
}

criterion_group!(benches, lines, counters);
criterion_main!(benches);
