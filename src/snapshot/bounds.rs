//! Bounds on the connections of a listener: in all, and of one client. A place is taken when a connection is accepted
//! and given back when it ends; no request looks at them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::Listener;
use crate::limits::{CLIENT_SHARDS, TUNNELS_MAX};

/// A bound on a listener's connections, or on its tunnels, in all workers together. Connections that were open before a
/// reload brought the bound are not counted. The default is that of tunnels.
#[derive(Clone, Debug)]
pub struct ConnectionBound {
    /// The most at once.
    pub max: u64,
    /// Those that are open; shared by all workers and by the snapshots of one listener.
    pub open: Arc<AtomicU64>,
}

impl Default for ConnectionBound {
    fn default() -> Self {
        Self { max: TUNNELS_MAX, open: Arc::default() }
    }
}

/// The place of one connection under its bound, until dropped.
#[derive(Debug)]
pub struct ConnectionPlace(Arc<AtomicU64>);

impl ConnectionBound {
    /// Takes a place; None when there is none.
    pub fn enter(&self) -> Option<ConnectionPlace> {
        let place = ConnectionPlace(self.open.clone());
        // A refused place gives itself back.
        (self.open.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The bound on the connections that one client has to a listener, in all workers together and exact (F14). A client is
/// an IPv4 address or an IPv6 network of 64 bits: whoever has one address of it has them all.
#[derive(Clone, Debug)]
pub struct ClientBound {
    /// The most at once.
    pub max: u64,
    /// Those that are open; shared by all workers and by the snapshots of one listener.
    pub open: Arc<ClientTable>,
}

/// Open connections by client. It has an entry for each client that has a connection, and so never more than there are
/// connections. Its locks are taken when a connection comes and goes.
#[derive(Debug)]
pub struct ClientTable {
    shards: Box<[Mutex<HashMap<u64, u64, ahash::RandomState>>]>,
    hasher: ahash::RandomState,
}

impl Default for ClientTable {
    fn default() -> Self {
        Self { shards: (0..CLIENT_SHARDS).map(|_| Mutex::default()).collect(), hasher: ahash::RandomState::default() }
    }
}

/// The place of one connection among those of its client, until dropped.
#[derive(Debug)]
pub struct ClientPlace {
    table: Arc<ClientTable>,
    client: u64,
}

impl ClientBound {
    /// Takes a place; None when the client has no more.
    pub fn enter(&self, address: IpAddr) -> Option<ClientPlace> {
        let client = client_of(address);
        let mut shard = self.open.shard(client);
        let count = shard.entry(client).or_insert(0);
        // A bound of at least 1 has room for the entry that is new.
        if *count >= self.max {
            return None;
        }
        *count += 1;
        Some(ClientPlace { table: self.open.clone(), client })
    }
}

impl ClientTable {
    fn shard(&self, client: u64) -> std::sync::MutexGuard<'_, HashMap<u64, u64, ahash::RandomState>> {
        let at = self.hasher.hash_one(client) as usize % self.shards.len();
        self.shards[at].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Clients that have a connection.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut shard = self.table.shard(self.client);
        if let Some(count) = shard.get_mut(&self.client) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                shard.remove(&self.client);
            }
        }
        // What a flood of clients needed is given back behind it.
        if shard.capacity() > 64 && shard.len() * 8 < shard.capacity() {
            shard.shrink_to_fit();
        }
    }
}

/// An IPv4 address, or the network part of an IPv6 address. The two do not meet: no IPv6 network that is in use begins
/// with 32 zero bits.
fn client_of(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
}

/// Which bound has no place left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// That of the listener.
    Listener,
    /// That of the client.
    Client,
}

/// The places of one connection, until dropped.
#[derive(Debug)]
pub struct Places {
    _listener: Option<ConnectionPlace>,
    _client: Option<ClientPlace>,
}

impl Listener {
    /// Takes places for a connection from `address`. Trusted proxies stand for many clients: the bound of one client
    /// does not hold for them.
    ///
    /// # Errors
    /// The bound that is full.
    pub fn enter(&self, address: IpAddr) -> Result<Places, Full> {
        let client = match &self.per_client {
            Some(bound) if !self.rules.trusted_proxies.contains(address) => {
                Some(bound.enter(address).ok_or(Full::Client)?)
            }
            _ => None,
        };
        let listener = match &self.connections {
            Some(bound) => Some(bound.enter().ok_or(Full::Listener)?),
            None => None,
        };
        Ok(Places { _listener: listener, _client: client })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_client_has_its_places_back_when_its_connections_end() {
        let bound = ClientBound { max: 2, open: Arc::default() };
        let first = bound.enter(ip("192.0.2.1"));
        let second = bound.enter(ip("192.0.2.1"));
        assert!(first.is_some() && second.is_some() && bound.enter(ip("192.0.2.1")).is_none());
        assert!(bound.enter(ip("192.0.2.2")).is_some(), "another client has its own");
        drop(first);
        assert!(bound.enter(ip("::ffff:192.0.2.1")).is_some(), "the mapped form is the same client");
        drop(second);
        assert_eq!(bound.open.clients(), 0);
    }

    #[test]
    fn a_network_of_64_bits_is_one_client() {
        let bound = ClientBound { max: 1, open: Arc::default() };
        let held = bound.enter(ip("2001:db8:1:2::1"));
        assert!(held.is_some() && bound.enter(ip("2001:db8:1:2:ffff::9")).is_none());
        assert!(bound.enter(ip("2001:db8:1:3::1")).is_some());
    }

    #[test]
    fn many_clients_leave_nothing_behind() {
        let bound = ClientBound { max: 1, open: Arc::default() };
        let all: Vec<_> = (0..20_000_u32).map(|n| bound.enter(IpAddr::V4(n.into()))).collect();
        assert_eq!((all.iter().flatten().count(), bound.open.clients()), (20_000, 20_000));
        drop(all);
        assert_eq!(bound.open.clients(), 0);
        let room: usize = bound.open.shards.iter().map(|shard| shard.lock().expect("unharmed").capacity()).sum();
        assert!(room <= CLIENT_SHARDS * 64, "{room}");
    }
}
