//! Listening sockets: one per worker and address, which the kernel balances (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

/// How long a taken port may take to become free.
const PORT_RELEASE_MS_MAX: u64 = 1_000;
/// How often it is tried meanwhile.
const PORT_RETRY_MS: u64 = 10;
/// Connections that the kernel holds until a worker accepts them.
pub const BACKLOG: i32 = 4096;

/// Opens `count` listening sockets on one address, in the order in which workers take them.
///
/// The first one is bound without SO_REUSEPORT having let anybody else in: a port that another process listens on is an
/// error, not a silent share of its traffic. With port 0 the others follow to the port that the first one got.
///
/// # Errors
/// What the system calls give, `AddrInUse` above all.
pub fn open(address: SocketAddr, count: usize) -> io::Result<Vec<TcpListener>> {
    refuse_taken_for_long(address)?;
    let first = bind(address)?;
    let bound = first.local_addr()?;
    let mut all = vec![first];
    for _ in 1..count {
        all.push(bind(bound)?);
    }
    Ok(all)
}

/// The sockets of one address for `workers` workers, beginning with those that were handed to this process: their
/// queues hold clients, so that each of them must be used.
///
/// The kernel spreads clients evenly over the sockets of an address; where the number of workers has changed, sockets
/// are added until all workers can have equally many. Where the kernel lets none be added (the socket is shared with
/// nobody, or belongs to another user, as a service manager's does), those that are given are all there are.
///
/// # Errors
/// As [`open`], when none is given.
pub fn complete(address: SocketAddr, given: Vec<TcpListener>, workers: usize) -> io::Result<Vec<TcpListener>> {
    let Some(first) = given.first() else { return open(address, workers) };
    let bound = first.local_addr()?;
    for socket in &given {
        SockRef::from(socket).set_tcp_nodelay(true)?;
    }
    let wanted = given.len().div_ceil(workers.max(1)) * workers;
    let mut all = given;
    while all.len() < wanted {
        match bind(bound) {
            Ok(socket) => all.push(socket),
            Err(_) => break,
        }
    }
    Ok(all)
}

/// The kernel takes a ring apart behind the end of its process: for some milliseconds after a `kill -9` the accepts
/// that were under way keep the sockets of the dead one open (F07). So a taken port is tried again for a while.
fn refuse_taken_for_long(address: SocketAddr) -> io::Result<()> {
    for _ in 0..PORT_RELEASE_MS_MAX / PORT_RETRY_MS {
        match refuse_taken(address) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            other => return other,
        }
        std::thread::park_timeout(Duration::from_millis(PORT_RETRY_MS));
    }
    refuse_taken(address)
}

/// SO_REUSEPORT lets any process of the same user join a port. A probe without it fails when somebody is there already.
fn refuse_taken(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let probe = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    probe.set_reuse_address(true)?;
    only_v6(&probe, address)?;
    probe.bind(&address.into())
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    only_v6(&socket, address)?;
    // Accepted connections inherit it, which saves a system call on each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn only_v6(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    match address {
        SocketAddr::V6(v6) if !v6.ip().is_unspecified() => socket.set_only_v6(true),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_sockets_share_one_port() {
        let all = open(SocketAddr::from(([127, 0, 0, 1], 0)), 3).expect("loopback can be bound");
        let ports: Vec<_> = all.iter().map(|l| l.local_addr().expect("bound").port()).collect();
        assert!(ports[0] != 0 && ports.iter().all(|p| *p == ports[0]));
    }

    #[test]
    fn sockets_that_are_given_are_used_and_others_join_them() {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        for (given, workers, wanted) in [(1, 1, 1), (1, 4, 4), (3, 2, 4), (4, 2, 4), (2, 3, 3)] {
            let sockets = open(address, given).expect("loopback can be bound");
            let bound = sockets[0].local_addr().expect("bound");
            let all = complete(bound, sockets, workers).expect("more can join");
            assert_eq!(all.len(), wanted, "{given} given to {workers} workers");
            assert!(all.iter().all(|socket| socket.local_addr().is_ok_and(|address| address == bound)));
        }
    }

    #[test]
    fn a_socket_that_nobody_may_join_is_used_alone() {
        let alone = TcpListener::bind("127.0.0.1:0").expect("a port");
        let bound = alone.local_addr().expect("bound");
        assert_eq!(complete(bound, vec![alone], 4).expect("one is enough").len(), 1);
    }

    #[test]
    fn a_port_that_becomes_free_is_taken() {
        let before = open(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("loopback can be bound");
        let address = before[0].local_addr().expect("bound");
        let freed = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(5 * PORT_RETRY_MS));
            drop(before);
        });
        assert_eq!(open(address, 2).expect("free by then").len(), 2);
        freed.join().expect("it ends");
    }

    #[test]
    fn a_taken_port_is_refused() {
        let taken = open(SocketAddr::from(([127, 0, 0, 1], 0)), 1).expect("loopback can be bound");
        let address = taken[0].local_addr().expect("bound");
        assert_eq!(open(address, 2).expect_err("taken").kind(), io::ErrorKind::AddrInUse);
    }
}
