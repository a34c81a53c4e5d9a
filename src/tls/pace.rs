//! How many handshakes a listener takes in a time, in all and of one client (F86): a handshake costs the gateway more
//! than its client. All workers count together; only listeners with such a rule are counted at all.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use crate::limits::{CLIENT_SHARDS, HANDSHAKE_CLIENTS_MAX};

/// A rate, as the time that one handshake takes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Between two handshakes in the mean, in nanoseconds.
    interval_ns: u64,
    /// How much may be used ahead, in nanoseconds: the whole rate at once.
    period_ns: u64,
}

impl Pace {
    /// So many in such a time.
    pub fn new(count: u32, period_ns: u64) -> Self {
        Self { interval_ns: (period_ns / u64::from(count.max(1))).max(1), period_ns }
    }

    /// Whether one more may come now; `used_ns` is the time up to which the rate is used.
    fn take(self, used_ns: &mut u64, now_ns: u64) -> bool {
        let next_ns = (*used_ns).max(now_ns).saturating_add(self.interval_ns);
        let fits = next_ns - now_ns <= self.period_ns.max(self.interval_ns);
        if fits {
            *used_ns = next_ns;
        }
        fits
    }
}

/// Which rule a handshake is too many for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooMany {
    /// That for all clients.
    Listener,
    /// That for one client.
    Client,
}

/// What a listener has taken lately.
#[derive(Debug)]
pub struct Paces {
    listener: Option<Pace>,
    client: Option<Pace>,
    used_ns: Mutex<u64>,
    /// By client. An entry says something only while it lies in the future: others make room when it is needed.
    shards: Box<[Mutex<HashMap<u64, u64, ahash::RandomState>>]>,
    hasher: ahash::RandomState,
}

impl Paces {
    /// Nothing was taken yet.
    pub fn new(listener: Option<Pace>, client: Option<Pace>) -> Self {
        let shards = if client.is_some() { CLIENT_SHARDS } else { 0 };
        let shards = (0..shards).map(|_| Mutex::default()).collect();
        Self { listener, client, used_ns: Mutex::default(), shards, hasher: ahash::RandomState::default() }
    }

    /// Whether its rules are these.
    pub fn has(&self, listener: Option<Pace>, client: Option<Pace>) -> bool {
        self.listener == listener && self.client == client
    }

    /// Takes a handshake of this client.
    ///
    /// # Errors
    /// Which rule it is too many for.
    pub fn take(&self, client: IpAddr, now_ns: u64) -> Result<(), TooMany> {
        // The client first: what it is refused takes nothing from the others.
        if let Some(pace) = self.client
            && !self.take_of(client_of(client), pace, now_ns)
        {
            return Err(TooMany::Client);
        }
        let Some(pace) = self.listener else { return Ok(()) };
        let mut used_ns = self.used_ns.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.take(&mut used_ns, now_ns) { Ok(()) } else { Err(TooMany::Listener) }
    }

    fn take_of(&self, client: u64, pace: Pace, now_ns: u64) -> bool {
        let at = self.hasher.hash_one(client) as usize % self.shards.len();
        let mut shard = self.shards[at].lock().unwrap_or_else(PoisonError::into_inner);
        let most = HANDSHAKE_CLIENTS_MAX / CLIENT_SHARDS;
        if shard.len() >= most && !shard.contains_key(&client) {
            shard.retain(|_, used_ns| *used_ns > now_ns);
            if shard.len() >= most {
                // So many clients at once are the other rule's business.
                return true;
            }
        }
        pace.take(shard.entry(client).or_insert(0), now_ns)
    }

    /// Clients that are remembered.
    pub fn clients(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
}

/// An IPv4 address, or the 64 bits of an IPv6 network.
fn client_of(address: IpAddr) -> u64 {
    match address.to_canonical() {
        IpAddr::V4(v4) => u64::from(u32::from(v4)),
        IpAddr::V6(v6) => (u128::from(v6) >> 64) as u64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND_NS: u64 = 1_000_000_000;

    fn ip(last: u32) -> IpAddr {
        IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + last))
    }

    #[test]
    fn a_client_has_its_rate_at_once_and_then_in_the_mean() {
        let paces = Paces::new(None, Some(Pace::new(5, SECOND_NS)));
        let took = |count: u32, now_ns| (0..count).filter(|_| paces.take(ip(1), now_ns).is_ok()).count();
        assert_eq!(took(9, SECOND_NS), 5);
        assert_eq!(paces.take(ip(1), SECOND_NS), Err(TooMany::Client));
        assert_eq!(paces.take(ip(2), SECOND_NS), Ok(()), "each has its own");
        assert_eq!(took(9, SECOND_NS + SECOND_NS / 5), 1);
        let in_ten_s: usize = (0..1_000).map(|n| took(1, 3 * SECOND_NS + n * SECOND_NS / 100)).sum();
        assert!((50..=55).contains(&in_ten_s), "{in_ten_s} in ten seconds");
        let v6 = |text: &str| text.parse::<IpAddr>().expect("an address");
        let all = (0..9).filter(|n| paces.take(v6(&format!("2001:db8::{n}")), 99 * SECOND_NS).is_ok()).count();
        assert_eq!(all, 5, "one network of 64 bits is one client");
    }

    #[test]
    fn the_listener_counts_all_but_those_that_a_client_is_refused() {
        let paces = Paces::new(Some(Pace::new(10, SECOND_NS)), Some(Pace::new(2, SECOND_NS)));
        let flood = (0..100).filter(|_| paces.take(ip(1), SECOND_NS).is_ok()).count();
        assert_eq!(flood, 2);
        let others = (2..50).filter(|n| paces.take(ip(*n), SECOND_NS).is_ok()).count();
        assert_eq!(others, 8, "what is left of ten");
        assert_eq!(paces.take(ip(60), SECOND_NS), Err(TooMany::Listener));
        assert_eq!(Paces::new(None, None).take(ip(1), 0), Ok(()));
    }

    #[test]
    fn clients_beyond_the_bound_are_not_remembered_and_old_ones_make_room() {
        let paces = Paces::new(None, Some(Pace::new(1, SECOND_NS)));
        for n in 0..(2 * HANDSHAKE_CLIENTS_MAX as u32) {
            assert_eq!(paces.take(ip(n), SECOND_NS), Ok(()));
        }
        assert!(paces.clients() <= HANDSHAKE_CLIENTS_MAX);
        for n in 0..100 {
            let now_ns = 5 * SECOND_NS + u64::from(n);
            assert_eq!(paces.take(ip(n), now_ns), Ok(()));
            assert_eq!(paces.take(ip(n), now_ns), Err(TooMany::Client), "there is room again");
        }
    }
}
