//! Listening sockets: one per worker and address, which the kernel balances (SO_REUSEPORT).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

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
