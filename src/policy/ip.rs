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
use crate::error::Reason;
use crate::http::exchange::Exchange;
use crate::time::Now;

/// Most prefixes in both lists together.
pub const PREFIXES_MAX: usize = 65_536;

/// What people write.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// Addresses or networks (CIDR) that may pass; when there are any, all others are denied.
    pub allow: Vec<String>,
    /// Addresses or networks (CIDR) that are denied.
    pub deny: Vec<String>,
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
            for text in list {
                prefixes.push((Prefix::parse(text)?, pass));
            }
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

/// A network: IPv4 stands in `::ffff:0:0/96`, so that one table serves both.
#[derive(Clone, Copy, Debug)]
struct Prefix {
    first: u128,
    bits: u8,
}

impl Prefix {
    fn parse(text: &str) -> Result<Self, String> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| format!("`{text}` is no address or network"))?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            None => width,
            Some(bits) => bits.parse().ok().filter(|b| *b <= width).ok_or(format!("`{text}`: 0 to {width} bits"))?,
        };
        let bits = bits + (128 - width);
        let first = number(address);
        if first & host_mask(bits) != 0 {
            return Err(format!("`{text}` has bits behind its prefix"));
        }
        Ok(Self { first, bits })
    }

    fn last(self) -> u128 {
        self.first | host_mask(self.bits)
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn host_mask(bits: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

/// Turns nested prefixes into disjoint ranges. `other` is what addresses in no prefix may do.
fn flatten(mut prefixes: Vec<(Prefix, bool)>, other: bool) -> Vec<(u128, bool)> {
    // Outer networks before inner ones; of equal ones `deny` comes last and so wins.
    prefixes.sort_by_key(|(prefix, pass)| (prefix.first, prefix.bits, !pass));
    let mut ranges = vec![(0, other)];
    let mut open: Vec<(Prefix, bool)> = Vec::new();
    for (prefix, pass) in prefixes {
        close(&mut open, &mut ranges, other, |outer| outer.last() < prefix.first);
        begin(&mut ranges, prefix.first, pass);
        open.push((prefix, pass));
    }
    close(&mut open, &mut ranges, other, |_| true);
    ranges
}

/// Ends the open networks that are over: what follows each belongs to the network around it.
fn close(open: &mut Vec<(Prefix, bool)>, ranges: &mut Vec<(u128, bool)>, other: bool, over: impl Fn(Prefix) -> bool) {
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
    use proptest::prelude::*;

    const ENV: CompileEnv = CompileEnv { workers: 1, random: 0 };

    fn lists(allow: &[&str], deny: &[&str]) -> Result<Ip, String> {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
        Ip::compile(&Config { allow: owned(allow), deny: owned(deny) }, &ENV)
    }

    fn passes(ip: &Ip, address: &str) -> bool {
        ip.may_pass(address.parse().expect("an address"))
    }

    #[test]
    fn the_longest_prefix_decides() {
        let ip = lists(&["10.0.0.0/8", "10.1.2.0/24"], &["10.1.0.0/16", "10.1.2.3"]).expect("legal");
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
        let ip = lists(&[], &["2001:db8::/32", "0.0.0.0/0"]).expect("legal");
        assert!(!passes(&ip, "2001:db8::1") && !passes(&ip, "1.2.3.4") && passes(&ip, "::1"));
        assert!(passes(&lists(&[], &[]).expect("legal"), "1.2.3.4"));
    }

    #[test]
    fn a_denied_client_gets_403() {
        let ip = lists(&[], &["10.0.0.1"]).expect("legal");
        let mut x = Exchange { client_ip: IpAddr::from([10, 0, 0, 1]), ..Exchange::default() };
        let Flow::Reply(reply) = ip.on_request(&mut (), &mut x, Now(0)) else { panic!("must refuse") };
        assert_eq!((reply.status, reply.reason), (403, Some(Reason::IpDenied)));
    }

    #[test]
    fn wrong_prefixes_are_refused() {
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "::/129", "a.b.c.d", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(lists(&[text], &[]).is_err(), "{text}");
        }
    }

    fn prefix() -> impl Strategy<Value = String> {
        let v4 = (any::<u32>(), 0..=32u32).prop_map(|(a, n)| {
            let mask = u32::MAX.checked_shl(32 - n).unwrap_or(0);
            format!("{}/{n}", std::net::Ipv4Addr::from_bits(a & 0x0303_0303 & mask))
        });
        let v6 = (any::<u128>(), 0..=128u32).prop_map(|(a, n)| {
            let mask = u128::MAX.checked_shl(128 - n).unwrap_or(0);
            format!("{}/{n}", std::net::Ipv6Addr::from_bits(a & (u128::MAX / 0xff * 3) & mask))
        });
        prop_oneof![v4, v6]
    }

    fn naive(allow: &[String], deny: &[String], address: u128) -> bool {
        let longest = |list: &[String]| {
            let matching = list.iter().map(|text| Prefix::parse(text).expect("legal"));
            matching.filter(|p| p.first <= address && address <= p.last()).map(|p| p.bits).max()
        };
        match (longest(allow), longest(deny)) {
            (None, None) => allow.is_empty(),
            (a, d) => a > d,
        }
    }

    proptest! {
        #[test]
        fn equals_the_naive_match(
            allow in prop::collection::vec(prefix(), 0..6),
            deny in prop::collection::vec(prefix(), 0..6),
            probes in prop::collection::vec(any::<u128>(), 8),
        ) {
            let ip = Ip::compile(&Config { allow: allow.clone(), deny: deny.clone() }, &ENV).expect("legal");
            let edges = allow.iter().chain(&deny).map(|t| Prefix::parse(t).expect("legal"));
            let edges = edges.flat_map(|p| [p.first, p.last(), p.first.wrapping_sub(1), p.last().wrapping_add(1)]);
            let small = probes.iter().map(|p| (p & 0x0303_0303) | 0xffff_0000_0000);
            for address in edges.chain(small).chain(probes.iter().copied()) {
                let got = ip.may_pass(IpAddr::V6(std::net::Ipv6Addr::from_bits(address)));
                prop_assert_eq!(got, naive(&allow, &deny, address));
            }
        }
    }
}
