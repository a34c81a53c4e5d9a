//! Networks: ranges of addresses, for trusted proxies, routes and address lists.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// A network: an address and how many of its leading bits count.
///
/// IPv4 stands in `::ffff:0:0/96`, so that one arithmetic serves both families, an IPv4 address written as IPv6 is that
/// IPv4 address, and `::/0` is everyone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    first: u128,
    bits: u8,
}

/// Why a text is no network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotANetwork {
    /// It does not look like one.
    Form,
    /// The address has fewer bits than the prefix.
    TooLong {
        /// The prefix that was written.
        bits: u8,
        /// The longest that this address can have.
        most: u8,
    },
}

/// An address as a number of 128 bits.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

impl Network {
    /// None if there are more bits than the address has (32 or 128). Bits behind the prefix are cleared.
    pub fn new(address: IpAddr, bits: u8) -> Option<Self> {
        let (most, outer) = if address.is_ipv4() { (32, 96) } else { (128, 0) };
        let bits = (bits <= most).then(|| bits + outer)?;
        Some(Self { first: number(address) & !host_mask(bits), bits })
    }

    /// Whether `address` is in the network.
    #[inline]
    pub fn contains(self, address: IpAddr) -> bool {
        self.holds(number(address))
    }

    #[inline]
    fn holds(self, number: u128) -> bool {
        (number ^ self.first) & !host_mask(self.bits) == 0
    }

    /// Whether all of `other` is in the network.
    pub fn covers(self, other: Self) -> bool {
        self.bits <= other.bits && self.holds(other.first)
    }

    /// Its first address, as a [`number`].
    pub fn first(self) -> u128 {
        self.first
    }

    /// Its last address, as a [`number`].
    pub fn last(self) -> u128 {
        self.first | host_mask(self.bits)
    }

    /// How many leading bits of 128 count.
    pub fn bits(self) -> u8 {
        self.bits
    }

    /// Whether it is every address of a family.
    pub fn is_everyone(self) -> bool {
        self.bits == 0 || (self.bits == 96 && self.address().is_ipv4())
    }

    fn address(self) -> IpAddr {
        let address = Ipv6Addr::from_bits(self.first);
        address.to_ipv4_mapped().filter(|_| self.bits >= 96).map_or(IpAddr::V6(address), IpAddr::V4)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address();
        let outer = if address.is_ipv4() { 96 } else { 0 };
        write!(f, "{address}/{}", self.bits - outer)
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().map_err(|_| NotANetwork::Form)?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork::Form)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        Self::new(address, bits).ok_or(NotANetwork::TooLong { bits, most })
    }
}

fn host_mask(bits: u8) -> u128 {
    u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
}

/// A small set of networks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpSet(Vec<Network>);

impl IpSet {
    /// Whether an address lies in one of the networks.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let number = number(address);
        self.0.iter().any(|network| network.holds(number))
    }

    /// Whether the set has no network.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<Network> for IpSet {
    fn from_iter<T: IntoIterator<Item = Network>>(networks: T) -> Self {
        Self(networks.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn network(text: &str) -> Network {
        text.parse().expect("a network")
    }

    #[test]
    fn membership_by_prefix_in_both_families() {
        for (range, address, inside) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("10.1.2.3/8", "10.9.9.9", true),
            ("10.0.0.0/8", "::ffff:10.1.2.3", true),
            ("::ffff:10.0.0.0/104", "10.1.2.3", true),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("0.0.0.0/0", "::1", false),
            ("::/0", "::1", true),
            ("::/0", "8.8.8.8", true),
            ("2001:db8::/32", "2001:db8:1::1", true),
            ("2001:db8::/32", "2001:db9::1", false),
            ("192.0.2.1", "192.0.2.1", true),
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
        ] {
            assert_eq!(network(range).contains(ip(address)), inside, "{address} in {range}");
            assert_eq!(
                IpSet::from_iter([network(range)]).contains(ip(address)),
                inside,
                "{address} in the set {range}"
            );
        }
        assert!(!IpSet::default().contains(ip("::")));
    }

    #[test]
    fn texts_are_read_and_written() {
        for (text, shown) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("192.0.2.1", "192.0.2.1/32"),
            ("2001:DB8::1/32", "2001:db8::/32"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::/0", "::/0"),
            ("0.0.0.0/0", "0.0.0.0/0"),
        ] {
            assert_eq!(network(text).to_string(), shown);
            assert_eq!(network(shown), network(text), "{text}");
        }
        for text in ["", "10.0.0/8", "10.0.0.0/-1", "x/8", "10.0.0.0/", "10.0.0.0/300"] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork::Form), "{text}");
        }
        assert_eq!("10.0.0.0/33".parse::<Network>(), Err(NotANetwork::TooLong { bits: 33, most: 32 }));
        assert_eq!("::/129".parse::<Network>(), Err(NotANetwork::TooLong { bits: 129, most: 128 }));
    }

    #[test]
    fn networks_cover_networks() {
        assert!(network("10.0.0.0/8").covers(network("10.1.0.0/16")) && network("::/0").covers(network("10.0.0.0/8")));
        assert!(!network("10.1.0.0/16").covers(network("10.0.0.0/8")));
        assert!(!network("0.0.0.0/0").covers(network("::/0")));
        for (text, everyone) in [("::/0", true), ("0.0.0.0/0", true), ("::/96", false), ("0.0.0.0/1", false)] {
            assert_eq!(network(text).is_everyone(), everyone, "{text}");
        }
    }
}
