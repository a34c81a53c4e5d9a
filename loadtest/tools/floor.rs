//! The least that a proxy on this runtime can cost: one read, one parse and one write per direction, no gateway at all.
//!
//! `loadtest/run --peers floor,…` measures it beside the others, so that PERF.md can tell what the kernel and the
//! runtime take and what ringway adds. It is no proxy for use: no framing beyond Content-Length, no timeouts, no
//! errors.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

use monoio::io::{AsyncReadRent, AsyncWriteRent, AsyncWriteRentExt};
use monoio::net::{TcpListener, TcpStream};
use ringway::sys::ring::{Driver, WorkerRuntime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BUFFER_BYTES: usize = 32 * 1024;

fn main() {
    let mut addresses = std::env::args().skip(1).map(|text| text.parse::<SocketAddr>().expect("LISTEN UPSTREAM"));
    let (listen, upstream) = (addresses.next().expect("LISTEN"), addresses.next().expect("UPSTREAM"));
    let (mut runtime, driver, _) = WorkerRuntime::build(Driver::RingDeferTaskrun, 2048).expect("a runtime");
    eprintln!("floor on {} listening {listen}", driver.text());
    let sockets = ringway::net::listener::open(listen, 1).expect("the address is free");
    runtime.block_on(async move {
        let listener = TcpListener::from_std(sockets.into_iter().next().expect("one socket")).expect("a listener");
        let pool = Rc::new(RefCell::new(Vec::new()));
        while let Ok((client, _)) = listener.accept().await {
            monoio::spawn(relay(client, upstream, pool.clone()));
        }
    });
}

async fn relay(mut client: TcpStream, upstream: SocketAddr, pool: Rc<RefCell<Vec<TcpStream>>>) {
    let mut buffer = Vec::with_capacity(BUFFER_BYTES);
    loop {
        let (count, back) = client.read(buffer).await;
        buffer = back;
        if !matches!(count, Ok(count) if count > 0) || !is_whole_request(&buffer) {
            return;
        }
        let pooled = pool.borrow_mut().pop();
        let mut server = match pooled {
            Some(server) => server,
            None => match TcpStream::connect_addr(upstream).await {
                Ok(server) => server,
                Err(_) => return,
            },
        };
        let (sent, back) = server.write_all(buffer).await;
        buffer = back;
        if sent.is_err() {
            return;
        }
        let mut left = usize::MAX;
        while left > 0 {
            let (count, back) = server.read(buffer).await;
            buffer = back;
            let Ok(count @ 1..) = count else { return };
            left = if left == usize::MAX { missing(&buffer) } else { left.saturating_sub(count) };
            let (sent, back) = client.write(buffer).await;
            buffer = back;
            if sent.is_err() {
                return;
            }
        }
        pool.borrow_mut().push(server);
    }
}

fn is_whole_request(bytes: &[u8]) -> bool {
    let mut lines = [httparse::EMPTY_HEADER; 32];
    httparse::Request::new(&mut lines).parse(bytes).is_ok_and(|status| status.is_complete())
}

/// Body bytes that are still to come behind what was read with the head.
fn missing(bytes: &[u8]) -> usize {
    let mut lines = [httparse::EMPTY_HEADER; 32];
    let mut response = httparse::Response::new(&mut lines);
    let Ok(httparse::Status::Complete(head)) = response.parse(bytes) else { return 0 };
    let length = response.headers.iter().find(|line| line.name.eq_ignore_ascii_case("content-length"));
    let length = length.and_then(|line| std::str::from_utf8(line.value).ok()?.parse::<usize>().ok()).unwrap_or(0);
    (head + length).saturating_sub(bytes.len())
}
