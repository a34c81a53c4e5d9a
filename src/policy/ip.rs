//! `ip`: allows or denies clients by their address (R71).
//!
//! ```yaml
//! policies:
//!   - ip: { allow: [10.0.0.0/8, "2001:db8::/32"], deny: [10.0.0.13] }
//! ```
//! The longest matching prefix decides; when both lists hold it, `deny` does. With an `allow` list everything else is
//! denied. The address is the client's, read through trusted proxies only (C15); an IPv4 address written as IPv6
//! (`::ffff:a.b.c.d`) is that IPv4 address.

use std::net::IpAddr;

use super::{Compile, CompileEnv, Flow, Hooks, WorkerSeed};
use crate::config_struct;
use crate::error::Reason;
use crate::http::exchange::Exchange;
use crate::http::ipset::{Network, number};
use crate::schema::types::Cidr;
use crate::time::Now;

/// Most prefixes in both lists together.
pub const PREFIXES_MAX: usize = 65_536;

config_struct! {
    /// Allows or denies clients by their address (R71).
    #[shorthand(allow)]
    pub struct Config {
        /// Addresses or networks that may pass; when there are any, all others are denied.
        allow: Vec<Cidr> = "[]",
        /// Addresses or networks that are denied.
        deny: Vec<Cidr> = "[]",
    }
}

/// The compiled lists.
#[derive(Debug)]
pub struct Ip {
    /// Disjoint ranges in order: first address, and whether it and what follows up to the next range may pass.
    ranges: Vec<(u128, bool)>,
    allowed: usize,
    denied: usize,
}

impl Compile for Ip {
    type Config = Config;

    fn compile(config: &Config, _env: &CompileEnv) -> Result<Self, String> {
        if config.allow.len() + config.deny.len() > PREFIXES_MAX {
            return Err(format!("more than {PREFIXES_MAX} prefixes"));
        }
        let mut prefixes = Vec::new();
        for (list, pass) in [(&config.allow, true), (&config.deny, false)] {
            prefixes.extend(list.iter().map(|network| (*network, pass)));
        }
        let (allowed, denied) = (config.allow.len(), config.deny.len());
        Ok(Self { ranges: flatten(prefixes, config.allow.is_empty()), allowed, denied })
    }
}

impl Hooks for Ip {
    type State = ();

    fn new_state(&self, _seed: &WorkerSeed) {}

    #[inline]
    fn on_request(&self, _state: &mut (), x: &mut Exchange, _now: Now) -> Flow {
        match self.may_pass(x.client_ip) {
            true => Flow::Continue,
            false => Flow::fail(Reason::IpDenied),
        }
    }

    fn explain(&self) -> String {
        format!("allows {} and denies {} address prefixes", self.allowed, self.denied)
    }
}

impl Ip {
    /// Whether this client may pass: a binary search.
    pub fn may_pass(&self, address: IpAddr) -> bool {
        let key = number(address);
        let behind = self.ranges.partition_point(|&(first, _)| first <= key);
        behind.checked_sub(1).is_none_or(|at| self.ranges[at].1)
    }
}

/// Turns nested prefixes into disjoint ranges. `other` is what addresses in no prefix may do.
fn flatten(mut prefixes: Vec<(Network, bool)>, other: bool) -> Vec<(u128, bool)> {
    // Outer networks before inner ones; of equal ones `deny` comes last and so wins.
    prefixes.sort_by_key(|(prefix, pass)| (prefix.first(), prefix.bits(), !pass));
    let mut ranges = vec![(0, other)];
    let mut open: Vec<(Network, bool)> = Vec::new();
    for (prefix, pass) in prefixes {
        close(&mut open, &mut ranges, other, |outer| outer.last() < prefix.first());
        begin(&mut ranges, prefix.first(), pass);
        open.push((prefix, pass));
    }
    close(&mut open, &mut ranges, other, |_| true);
    ranges
}

/// Ends the open networks that are over: what follows each belongs to the network around it.
fn close(open: &mut Vec<(Network, bool)>, ranges: &mut Vec<(u128, bool)>, other: bool, over: impl Fn(Network) -> bool) {
    while let Some((inner, _)) = open.pop_if(|(prefix, _)| over(*prefix)) {
        let around = open.last().map_or(other, |&(_, pass)| pass);
        if let Some(next) = inner.last().checked_add(1) {
            begin(ranges, next, around);
        }
    }
}

fn begin(ranges: &mut Vec<(u128, bool)>, first: u128, pass: bool) {
    match ranges.last_mut() {
        Some(last) if last.0 == first => last.1 = pass,
        _ => ranges.push((first, pass)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::decode_str;
    use proptest::prelude::*;

    fn compile(config: &str) -> Ip {
        let config = decode_str(config).expect("legal");
        Ip::compile(&config, &CompileEnv { workers: 1, random: 0 }).expect("legal")
    }

    fn passes(ip: &Ip, address: &str) -> bool {
        ip.may_pass(address.parse().expect("an address"))
    }

    #[test]
    fn the_longest_prefix_decides() {
        let ip = compile("{allow: [10.0.0.0/8, 10.1.2.0/24], deny: [10.1.0.0/16, 10.1.2.3]}");
        for (address, want) in [
            ("10.9.9.9", true),
            ("10.1.9.9", false),
            ("10.1.2.9", true),
            ("10.1.2.3", false),
            ("10.2.0.0", true),
            ("11.0.0.1", false),
            ("::ffff:10.9.9.9", true),
            ("::1", false),
        ] {
            assert_eq!(passes(&ip, address), want, "{address}");
        }
    }

    #[test]
    fn without_an_allow_list_only_denied_ones_are_refused() {
        let ip = compile("{deny: ['2001:db8::/32', 0.0.0.0/0]}");
        assert!(!passes(&ip, "2001:db8::1") && !passes(&ip, "1.2.3.4") && passes(&ip, "::1"));
        assert!(passes(&compile("{}"), "1.2.3.4"));
    }

    #[test]
    fn a_denied_client_gets_403() {
        let ip = compile("{deny: [10.0.0.1]}");
        let mut x = Exchange { client_ip: IpAddr::from([10, 0, 0, 1]), ..Exchange::default() };
        let Flow::Reply(reply) = ip.on_request(&mut (), &mut x, Now(0)) else { panic!("must refuse") };
        assert_eq!((reply.status, reply.reason), (403, Some(Reason::IpDenied)));
    }

    fn cidr() -> impl Strategy<Value = Cidr> {
        let network = |address: IpAddr, bits: u8| Network::new(address, bits).expect("a network");
        // Few distinct bits, so that networks nest.
        let v4 = (any::<u32>(), 0..=32u8).prop_map(move |(a, n)| network(IpAddr::V4((a & 0x0303_0303).into()), n));
        let v6 = (any::<u128>(), 0..=128u8)
            .prop_map(move |(a, n)| network(IpAddr::V6((a & (u128::MAX / 0xff * 3)).into()), n));
        prop_oneof![v4, v6]
    }

    fn naive(config: &Config, address: u128) -> bool {
        let longest =
            |list: &[Cidr]| list.iter().filter(|p| p.first() <= address && address <= p.last()).map(|p| p.bits()).max();
        match (longest(&config.allow), longest(&config.deny)) {
            (None, None) => config.allow.is_empty(),
            (allow, deny) => allow > deny,
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_match(
            allow in prop::collection::vec(cidr(), 0..6),
            deny in prop::collection::vec(cidr(), 0..6),
            probes in prop::collection::vec(any::<u128>(), 8),
        ) {
            let config = Config { allow, deny };
            let ip = Ip::compile(&config, &CompileEnv { workers: 1, random: 0 }).expect("legal");
            let prefixes = config.allow.iter().chain(&config.deny);
            let edges = prefixes
                .flat_map(|p| [p.first(), p.last(), p.first().wrapping_sub(1), p.last().wrapping_add(1)]);
            let small = probes.iter().map(|p| (p & 0x0303_0303) | 0xffff_0000_0000);
            for address in edges.chain(small).chain(probes.iter().copied()) {
                prop_assert_eq!(ip.may_pass(IpAddr::V6(address.into())), naive(&config, address));
            }
        }
    }
}
