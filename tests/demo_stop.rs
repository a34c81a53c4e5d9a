//! A stopped demo origin leaves nothing behind. Alone in its process, so that descriptors and threads can be counted.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use ringway::demo::{Kind, Origin};
use ringway::sys::ring::Driver;

fn entries(of: &str) -> usize {
    std::fs::read_dir(of).expect("proc").count()
}

fn round(driver: Driver) {
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let origin = Origin::start_as(Kind::Demo, address, "leaves", driver).expect("an origin");
    let mut clients = Vec::new();
    for path in ["/1k", "/stream", "/slow/60000", "/close", "/bytes/67108864"] {
        let mut client = TcpStream::connect(origin.address()).expect("it listens");
        write!(client, "GET {path} HTTP/1.1\r\nHost: a\r\n\r\n").expect("it reads");
        clients.push(client);
    }
    // In all states: idle, sending, waiting, closed by the origin, blocked by a client that does not read.
    assert!(clients[0].read(&mut [0; 4096]).expect("an answer") > 0);
    assert!(clients[3].read(&mut [0; 4096]).expect("an answer") > 0);
    drop(origin);
}

#[test]
fn descriptors_and_threads_are_given_back() {
    for driver in Driver::ALL {
        round(driver);
        let before = (entries("/proc/self/fd"), entries("/proc/self/task"));
        (0..10).for_each(|_| round(driver));
        assert_eq!((entries("/proc/self/fd"), entries("/proc/self/task")), before, "{driver:?}");
    }
}
