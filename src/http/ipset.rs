//! A small set of networks, for trusted proxies.

use std::net::IpAddr;

/// Networks as (address bits, prefix length), IPv4 mapped into IPv6.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet(Vec<(u128, u8)>);

impl IpSet {
    /// The set of these networks, each an address and its prefix length in bits (0 to 32, or 0 to 128).
    pub fn new(networks: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        Self(networks.into_iter().map(|(address, bits)| entry(address, bits)).collect())
    }

    /// Whether an address lies in one of the networks.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let bits = mapped(address);
        self.0.iter().any(|(network, prefix)| (bits ^ network) & mask(*prefix) == 0)
    }

    /// Whether the set has no network.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn entry(address: IpAddr, bits: u8) -> (u128, u8) {
    let prefix = if address.is_ipv4() { bits.min(32) + 96 } else { bits.min(128) };
    (mapped(address) & mask(prefix), prefix)
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

const fn mask(prefix: u8) -> u128 {
    if prefix == 0 { 0 } else { u128::MAX << (128 - prefix as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership_by_prefix_in_both_families() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let set = IpSet::new([(ip("10.0.0.0"), 8), (ip("192.168.1.7"), 32), (ip("2001:db8::"), 32)]);
        for (address, inside) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("2001:db8:1::1", true),
            ("2001:db9::1", false),
            ("::ffff:10.0.0.1", true),
        ] {
            assert_eq!(set.contains(ip(address)), inside, "{address}");
        }
        assert!(IpSet::new([(ip("0.0.0.0"), 0)]).contains(ip("8.8.8.8")));
        assert!(!IpSet::new([(ip("0.0.0.0"), 0)]).contains(ip("2001:db8::1")));
        assert!(IpSet::new([(ip("::"), 0)]).contains(ip("8.8.8.8")));
    }
}
