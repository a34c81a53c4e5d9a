//! The PROXY protocol, versions 1 and 2: what a load balancer says of its client before the client's first byte.
//!
//! Source: `proxy-protocol.txt` of HAProxy, 2025/09/10. Pure; what reads it off a connection stands with the wire.
//! Strict: whatever is not exactly a header of a known version, within its bound, is refused (F59).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::limits::{PROXY_V1_BYTES_MAX, PROXY_V2_LENGTH_MAX};

/// A version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Both ends of the connection that a header tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// The client.
    pub source: SocketAddr,
    /// Where it connected to.
    pub to: SocketAddr,
}

/// A header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// None where the header tells of nobody: the sender speaks for itself (LOCAL), or the address is of another kind
    /// (UNKNOWN, a Unix socket). The connection's own addresses hold then.
    pub addresses: Option<Addresses>,
    /// Its length in bytes; what follows belongs to the client.
    pub bytes: usize,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// The first bytes of version 2: no line of any text protocol begins like this.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Fixed part of version 2: signature, version and command, family and transport, length.
const FIXED_BYTES: usize = 16;
const V1_BEGIN: &[u8; 6] = b"PROXY ";
/// Address block of TCP over IPv4, and over IPv6.
const INET_BYTES: usize = 12;
const INET6_BYTES: usize = 36;
const UNIX_BYTES: usize = 216;
/// Type of the TLV that holds a checksum of the whole header.
const TLV_CRC32C: u8 = 3;

/// Most bytes of a header of either version.
pub const HEADER_BYTES_MAX: usize = FIXED_BYTES + PROXY_V2_LENGTH_MAX;

/// Looks for a header at the front of `bytes`; None as long as they are the beginning of one.
///
/// # Errors
/// As soon as they cannot become one.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => parse_v1(bytes),
        Some(b'\r') => parse_v2(bytes),
        Some(_) => Err(Malformed("no PROXY header")),
    }
}

fn begins(bytes: &[u8], with: &[u8]) -> bool {
    let known = bytes.len().min(with.len());
    bytes[..known] == with[..known]
}

/// `PROXY TCP4 source destination port port CRLF` (section 2.1).
fn parse_v1(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if !begins(bytes, V1_BEGIN) {
        return Err(Malformed("no PROXY header"));
    }
    let within = &bytes[..bytes.len().min(PROXY_V1_BYTES_MAX)];
    let Some(line_end) = memchr::memchr(b'\n', within) else {
        let whole = within.len() == PROXY_V1_BYTES_MAX;
        return if whole { Err(Malformed("version 1 header too long")) } else { Ok(None) };
    };
    let line = within[..line_end].strip_suffix(b"\r").ok_or(Malformed("version 1 header without CRLF"))?;
    let rest = line.strip_prefix(V1_BEGIN).ok_or(Malformed("no PROXY header"))?;
    Ok(Some(Header { addresses: v1_addresses(rest)?, bytes: line_end + 1 }))
}

fn v1_addresses(text: &[u8]) -> Result<Option<Addresses>, Malformed> {
    if !text.iter().all(|b| matches!(b, b' '..=b'~')) {
        return Err(Malformed("control byte in a version 1 header"));
    }
    let text = std::str::from_utf8(text).map_err(|_| Malformed("version 1 header is not text"))?;
    let mut words = text.split(' ');
    let family = words.next().unwrap_or_default();
    // Whatever stands behind UNKNOWN is to be ignored.
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let mut word = || words.next().ok_or(Malformed("version 1 header with too few words"));
    let (source, to) = (address(family, word()?)?, address(family, word()?)?);
    let (source_port, to_port) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return Err(Malformed("version 1 header with too many words"));
    }
    Ok(Some(Addresses { source: SocketAddr::new(source, source_port), to: SocketAddr::new(to, to_port) }))
}

fn address(family: &str, text: &str) -> Result<IpAddr, Malformed> {
    let bad = |_| Malformed("version 1 header with a bad address");
    match family {
        "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::V4).map_err(bad),
        "TCP6" => text.parse::<Ipv6Addr>().map(|v6| v6.to_canonical()).map_err(bad),
        _ => Err(Malformed("version 1 header with an unknown family")),
    }
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    let bad = Malformed("version 1 header with a bad port");
    if plain { text.parse().map_err(|_| bad) } else { Err(bad) }
}

/// Section 2.2.
fn parse_v2(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if !begins(bytes, SIGNATURE) {
        return Err(Malformed("no PROXY header"));
    }
    let Some((fixed, rest)) = bytes.split_first_chunk::<FIXED_BYTES>() else { return Ok(None) };
    let (command, family) = (fixed[12], fixed[13]);
    if command >> 4 != 2 || command & 15 > 1 {
        return Err(Malformed("version 2 header with an unknown version or command"));
    }
    if family >> 4 > 3 || family & 15 > 2 {
        return Err(Malformed("version 2 header with an unknown family or transport"));
    }
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if length > PROXY_V2_LENGTH_MAX {
        return Err(Malformed("version 2 header too long"));
    }
    let Some(payload) = rest.get(..length) else { return Ok(None) };
    let whole = FIXED_BYTES + length;
    let is_local = command & 15 == 0;
    let (addresses, tlvs) = v2_addresses(family, payload, is_local)?;
    check_tlvs(&bytes[..whole], whole - tlvs.len())?;
    Ok(Some(Header { addresses: if is_local { None } else { addresses }, bytes: whole }))
}

/// The address block of a family, and the TLVs behind it.
fn v2_addresses(family: u8, payload: &[u8], is_local: bool) -> Result<(Option<Addresses>, &[u8]), Malformed> {
    let block = match family >> 4 {
        0 => 0,
        1 => INET_BYTES,
        2 => INET6_BYTES,
        _ => UNIX_BYTES,
    };
    // The receiver ignores the addresses of a LOCAL header; some senders leave them out.
    if is_local && payload.is_empty() {
        return Ok((None, payload));
    }
    let Some((block, tlvs)) = payload.split_at_checked(block) else {
        return Err(Malformed("version 2 header shorter than its addresses"));
    };
    // Only a stream can be the client of a listener.
    let is_stream = family & 15 == 1;
    Ok((if is_stream { inet(block) } else { None }, tlvs))
}

fn inet(block: &[u8]) -> Option<Addresses> {
    let (ends, ports) = block.split_last_chunk::<4>()?;
    let ip = |half: &[u8]| -> Option<IpAddr> {
        match half.len() {
            4 => <[u8; 4]>::try_from(half).ok().map(IpAddr::from),
            16 => <[u8; 16]>::try_from(half).ok().map(|octets| Ipv6Addr::from(octets).to_canonical()),
            _ => None,
        }
    };
    let (source, to) = ends.split_at(ends.len() / 2);
    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
    Some(Addresses { source: SocketAddr::new(ip(source)?, port(0)), to: SocketAddr::new(ip(to)?, port(2)) })
}

/// Whether the TLVs of `header`, from `from` on, fill their room exactly, and a checksum among them is right.
fn check_tlvs(header: &[u8], from: usize) -> Result<(), Malformed> {
    let mut at = from;
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk::<3>() else {
            return Err(Malformed("version 2 header with a torn TLV"));
        };
        let (begin, length) = (at + 3, usize::from(u16::from_be_bytes([high, low])));
        let value = header.get(begin..begin + length).ok_or(Malformed("version 2 header with a TLV beyond its end"))?;
        if kind == TLV_CRC32C {
            let said = <[u8; 4]>::try_from(value).map_err(|_| Malformed("version 2 header with a torn checksum"))?;
            if crc32c(header, begin) != u32::from_be_bytes(said) {
                return Err(Malformed("version 2 header with a wrong checksum"));
            }
        }
        at = begin + length;
    }
    Ok(())
}

/// CRC32c (RFC 9260 appendix A) of a header whose four bytes from `hole` on count as zero. Bit by bit: a header is
/// short, and read once for each connection.
fn crc32c(header: &[u8], hole: usize) -> u32 {
    let mut crc = u32::MAX;
    for (at, &byte) in header.iter().enumerate() {
        let byte = if (hole..hole + 4).contains(&at) { 0 } else { byte };
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

/// The header of a version for a connection; for an unknown one it tells of nobody. Addresses of different families
/// are both written as IPv6.
pub fn written(version: Version, addresses: Option<Addresses>) -> Vec<u8> {
    let addresses = addresses.map(|Addresses { source, to }| match (source.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(other)) => (Ok((from, other)), source.port(), to.port()),
        (from, other) => (Err((as_v6(from), as_v6(other))), source.port(), to.port()),
    });
    match version {
        Version::V1 => write_v1(addresses),
        Version::V2 => write_v2(addresses),
    }
}

/// Both addresses in one family, and both ports.
type Ends = (Result<(Ipv4Addr, Ipv4Addr), (Ipv6Addr, Ipv6Addr)>, u16, u16);

fn as_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

fn write_v1(ends: Option<Ends>) -> Vec<u8> {
    match ends {
        None => b"PROXY UNKNOWN\r\n".to_vec(),
        Some((Ok((from, to)), a, b)) => format!("PROXY TCP4 {from} {to} {a} {b}\r\n").into_bytes(),
        Some((Err((from, to)), a, b)) => format!("PROXY TCP6 {from} {to} {a} {b}\r\n").into_bytes(),
    }
}

fn write_v2(ends: Option<Ends>) -> Vec<u8> {
    let mut out = SIGNATURE.to_vec();
    let mut put = |command: u8, family: u8, block: &[&[u8]]| {
        let length: usize = block.iter().map(|part| part.len()).sum();
        out.extend_from_slice(&[command, family, 0, length as u8]);
        block.iter().for_each(|part| out.extend_from_slice(part));
    };
    match ends {
        None => put(0x20, 0, &[]),
        Some((Ok((from, to)), a, b)) => {
            put(0x21, 0x11, &[&from.octets(), &to.octets(), &a.to_be_bytes(), &b.to_be_bytes()]);
        }
        Some((Err((from, to)), a, b)) => {
            put(0x21, 0x21, &[&from.octets(), &to.octets(), &a.to_be_bytes(), &b.to_be_bytes()]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, to: &str) -> Addresses {
        Addresses { source: source.parse().expect("an address"), to: to.parse().expect("an address") }
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, payload].concat()
    }

    #[test]
    fn what_is_written_is_read_again_and_every_beginning_is_partial() {
        for addresses in [
            None,
            Some(ends("192.0.2.1:65535", "198.51.100.2:443")),
            Some(ends("[2001:db8::1]:1", "[2001:db8::2]:0")),
            Some(ends("192.0.2.1:5", "[2001:db8::2]:443")),
        ] {
            for version in [Version::V1, Version::V2] {
                let bytes = written(version, addresses);
                let header = Header { addresses, bytes: bytes.len() };
                assert_eq!(parse(&[&bytes[..], b"GET /"].concat()), Ok(Some(header)), "{version:?} {addresses:?}");
                for end in 0..bytes.len() {
                    assert_eq!(parse(&bytes[..end]), Ok(None), "{version:?} after {end} bytes");
                }
            }
        }
    }

    #[test]
    fn text_is_read_strictly() {
        let longest = format!("PROXY UNKNOWN{}\r\n", " ".repeat(PROXY_V1_BYTES_MAX - 15));
        assert_eq!(parse(longest.as_bytes()).map(|h| h.map(|h| h.bytes)), Ok(Some(PROXY_V1_BYTES_MAX)));
        assert!(parse(longest.replace("\r\n", " \r\n").as_bytes()).is_err());
        for text in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
            "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
            "PROXY TCP4 1.2.3.04 5.6.7.8 1 2\r\n",
            "PROXY TCP4 ::1 5.6.7.8 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
            "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY UNKNOWN\0\r\n",
            "PROXY\r\n",
            "PROX ",
            "POST / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n",
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn binary_is_read_strictly() {
        let inet = [192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 187];
        let known = Some(ends("192.0.2.1:4660", "198.51.100.2:443"));
        let read = |bytes: Vec<u8>| parse(&bytes).map(|h| h.expect("whole").addresses);
        assert_eq!(read(v2(0x21, 0x11, &inet)), Ok(known));
        // LOCAL, with and without addresses; unspecified; datagrams; a Unix socket.
        assert_eq!(read(v2(0x20, 0x11, &inet)), Ok(None));
        assert_eq!(read(v2(0x20, 0x11, &[])), Ok(None));
        assert_eq!(read(v2(0x21, 0x00, &[])), Ok(None));
        assert_eq!(read(v2(0x21, 0x12, &inet)), Ok(None));
        assert_eq!(read(v2(0x21, 0x31, &[0; UNIX_BYTES])), Ok(None));
        // TLVs: one of no meaning here, then a torn one, one that reaches beyond the end.
        let with = |tlv: &[u8]| v2(0x21, 0x11, &[&inet, tlv].concat());
        assert_eq!(read(with(&[2, 0, 1, b'h', 4, 0, 0])), Ok(known));
        for bad in [
            with(&[2, 0]),
            with(&[2, 0, 2, 1]),
            with(&[TLV_CRC32C, 0, 4, 1, 2, 3, 4]),
            with(&[TLV_CRC32C, 0, 3, 1, 2, 3]),
            v2(0x21, 0x11, &inet[..11]),
            v2(0x22, 0x11, &inet),
            v2(0x31, 0x11, &inet),
            v2(0x21, 0x41, &inet),
            v2(0x21, 0x13, &inet),
            [&SIGNATURE[..], &[0x21, 0x11], &(PROXY_V2_LENGTH_MAX as u16 + 1).to_be_bytes()].concat(),
        ] {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn checksums_are_checked() {
        assert_eq!(crc32c(b"123456789", 100), 0xe306_9283);
        let mut bytes = v2(0x21, 0x00, &[TLV_CRC32C, 0, 4, 0, 0, 0, 0]);
        let crc = crc32c(&bytes, bytes.len() - 4).to_be_bytes();
        let at = bytes.len() - 4;
        bytes[at..].copy_from_slice(&crc);
        assert!(parse(&bytes).is_ok());
        bytes[12] ^= 1;
        assert!(parse(&bytes).is_err());
    }
}
