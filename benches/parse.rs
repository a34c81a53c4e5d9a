//! What reading a head costs: requests small and large, and a response.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ringway::http::message::{Method, RequestHead, ResponseHead};
use ringway::http::path::PathPolicy;
use ringway::proto::h1::parse::{HeadLimits, Parsed};
use ringway::proto::h1::{request, response};
use ringway::sys::buf::Buf;

const SMALL: &str =
    "GET /api/users/17?full=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1\r\nAccept: */*\r\n\r\n";

/// As a browser sends it: some thirty fields, among them long cookies.
fn large() -> String {
    let mut head = "GET /shop/items/42/reviews?page=3&sort=new HTTP/1.1\r\nHost: shop.example\r\n".to_owned();
    for at in 0..28 {
        head += &format!("Sec-Field-{at}: value {at}; q=0.{at}, other/{at}\r\n");
    }
    head + "Cookie: " + &"session=0123456789abcdef; ".repeat(40) + "\r\n\r\n"
}

fn request_head(c: &mut Criterion, name: &str, text: &str) {
    let (limits, mut head) = (HeadLimits::default(), RequestHead::default());
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Bytes(text.len() as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            head.clear();
            let buf = Buf::copy_of(text.as_bytes());
            let Ok(Parsed::Complete(bytes)) = request::parse_lines(buf.as_slice(), &limits, &mut head) else {
                panic!("not a head")
            };
            black_box(request::interpret(&mut head, buf, bytes, PathPolicy::Strict, false)).is_ok()
        });
    });
}

fn requests(c: &mut Criterion) {
    request_head(c, "request/small", SMALL);
    request_head(c, "request/large", &large());
    request_head(c, "request/dots", "GET /a/../b/%7Ec HTTP/1.1\r\nHost: Shop.Example\r\n\r\n");
}

fn responses(c: &mut Criterion) {
    let text = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1024\r\nServer: origin\r\n\
        Date: Sun, 22 Nov 2026 00:00:00 GMT\r\nCache-Control: no-store\r\n\r\n";
    let (limits, mut head) = (HeadLimits::default(), ResponseHead::default());
    c.bench_function("parse/response", |b| {
        b.iter(|| {
            head.clear();
            let buf = Buf::copy_of(text.as_bytes());
            let parsed = response::parse_lines(buf.as_slice(), &limits, &mut head);
            assert!(matches!(parsed, Ok(Parsed::Complete(_))));
            black_box(response::interpret(&mut head, buf, Method::Get)).is_ok()
        });
    });
}

criterion_group!(benches, requests, responses);
criterion_main!(benches);
