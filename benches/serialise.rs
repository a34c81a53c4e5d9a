//! What writing costs: the head of a request as it goes upstream, and a chunk's frame.

use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use ringway::handler::forward;
use ringway::http::body::Chunk;
use ringway::http::exchange::{Exchange, RequestId, ShortText};
use ringway::http::path::PathPolicy;
use ringway::proto::h1::parse::{HeadLimits, Parsed};
use ringway::proto::h1::{request, serialise};
use ringway::snapshot::{HostRule, Listener};
use ringway::sys::buf::Buf;

const REQUEST: &[u8] = b"GET /api/users/17?full=1 HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: bench/1\r\n\
    Accept: */*\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n\r\n";

fn exchange(text: &[u8]) -> Exchange {
    let mut x = Exchange::default();
    let Ok(Parsed::Complete(bytes)) = request::parse_lines(text, &HeadLimits::default(), &mut x.request) else {
        panic!("not a head")
    };
    request::interpret(&mut x.request, Buf::copy_of(text), bytes, PathPolicy::Strict, false).expect("legal");
    x.peer = SocketAddr::from(([192, 0, 2, 1], 40_000));
    x.peer_text = ShortText::of(&x.peer.ip());
    x.port_text = ShortText::of(&8080);
    x.id = RequestId::from_random(1, 2);
    x
}

fn heads(c: &mut Criterion) {
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let listener = Listener::plain("l", address, Arc::default());
    let x = exchange(REQUEST);
    let mut out = Buf::small();
    c.bench_function("serialise/request", |b| {
        b.iter(|| {
            out.clear();
            forward::write_head(&mut out, &x, &listener, forward::host(&x, &HostRule::Preserve, "up:80"));
            black_box(out.len())
        });
    });
}

fn chunks(c: &mut Criterion) {
    let payload = vec![7; 4_000];
    c.bench_function("serialise/chunk", |b| {
        b.iter(|| {
            let chunk = Chunk { data: Buf::copy_of(&payload), end: false, trailers: None };
            black_box(serialise::chunk(chunk).len())
        });
    });
}

criterion_group!(benches, heads, chunks);
criterion_main!(benches);
