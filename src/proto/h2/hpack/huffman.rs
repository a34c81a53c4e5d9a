//! The static Huffman code of HPACK (RFC 7541 section 5.2 and appendix B).
//!
//! Decoding walks the code's tree four bits at a time over a table that the compiler builds: no symbol is shorter than
//! five bits, so that a step yields one symbol at most.

use crate::sys::buf::Buf;

/// Why a coded string was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadHuffman;

/// Length of the coded form of `bytes`.
pub fn coded_len(bytes: &[u8]) -> usize {
    bytes.iter().map(|&byte| CODES[byte as usize].1 as usize).sum::<usize>().div_ceil(8)
}

/// Appends the coded form of `bytes`.
pub fn encode(bytes: &[u8], out: &mut Buf) {
    let (mut word, mut bits) = (0_u64, 0_u32);
    for &byte in bytes {
        let (code, length) = CODES[byte as usize];
        // At most 7 bits are left over and a code has at most 30.
        word = word << length | u64::from(code);
        bits += u32::from(length);
        while bits >= 8 {
            bits -= 8;
            out.extend(&[(word >> bits) as u8]);
        }
    }
    if bits > 0 {
        // The most significant bits of EOS, which are ones.
        out.extend(&[(word << (8 - bits)) as u8 | 0xff >> bits]);
    }
}

/// Appends the decoded form of `coded`.
///
/// # Errors
/// [`BadHuffman`] for EOS within the string, and for padding that is longer than 7 bits or not all ones.
pub fn decode(coded: &[u8], out: &mut Buf) -> Result<(), BadHuffman> {
    let mut state = 0_u8;
    let mut may_end = true;
    let mut symbols = [0_u8; 64];
    let mut count = 0;
    for &byte in coded {
        for nibble in [byte >> 4, byte & 15] {
            let step = STEPS[state as usize][nibble as usize];
            if step.flags & FAIL != 0 {
                return Err(BadHuffman);
            }
            if step.flags & SYMBOL != 0 {
                symbols[count] = step.symbol;
                count += 1;
            }
            may_end = step.flags & MAY_END != 0;
            state = step.next;
        }
        if count >= symbols.len() - 1 {
            out.extend(&symbols[..count]);
            count = 0;
        }
    }
    out.extend(&symbols[..count]);
    if may_end { Ok(()) } else { Err(BadHuffman) }
}

/// One step of the decoder: four bits from one node of the tree.
#[derive(Clone, Copy)]
struct Step {
    next: u8,
    flags: u8,
    symbol: u8,
}

const SYMBOL: u8 = 1;
const FAIL: u8 = 2;
/// The string may end here: what was read since the last symbol is at most 7 ones.
const MAY_END: u8 = 4;

/// Inner nodes of the tree: one less than its 257 leaves.
const NODES: usize = 256;
/// A branch that leads to a leaf has this added to its symbol.
const LEAF: u16 = 0x8000;
const EOS: u16 = 256;

/// The tree: for each inner node where a 0 and where a 1 leads; the root is node 0.
const fn tree() -> [[u16; 2]; NODES] {
    let mut nodes = [[0_u16; 2]; NODES];
    let (mut used, mut symbol) = (1, 0);
    while symbol < CODES.len() {
        let (code, length) = CODES[symbol];
        let (mut node, mut left) = (0, length);
        while left > 1 {
            left -= 1;
            let bit = (code >> left & 1) as usize;
            if nodes[node][bit] == 0 {
                nodes[node][bit] = used;
                used += 1;
            }
            node = nodes[node][bit] as usize;
        }
        nodes[node][(code & 1) as usize] = LEAF | symbol as u16;
        symbol += 1;
    }
    assert!(used as usize == NODES);
    nodes
}

/// Nodes that up to seven ones lead to from the root: there a string may end.
const fn ends(nodes: &[[u16; 2]; NODES]) -> [bool; NODES] {
    let mut ends = [false; NODES];
    let (mut node, mut ones) = (0, 0);
    while ones <= 7 {
        ends[node] = true;
        node = nodes[node][1] as usize;
        ones += 1;
    }
    ends
}

const fn step(nodes: &[[u16; 2]; NODES], ends: &[bool; NODES], from: usize, nibble: usize) -> Step {
    let (mut node, mut flags, mut symbol, mut left) = (from, 0, 0, 4);
    while left > 0 {
        left -= 1;
        let to = nodes[node][nibble >> left & 1];
        node = to as usize;
        if to & LEAF != 0 {
            if to & !LEAF == EOS {
                return Step { next: 0, flags: FAIL, symbol: 0 };
            }
            flags |= SYMBOL;
            symbol = to as u8;
            node = 0;
        }
    }
    if ends[node] {
        flags |= MAY_END;
    }
    Step { next: node as u8, flags, symbol }
}

static STEPS: [[Step; 16]; NODES] = {
    let nodes = tree();
    let ends = ends(&nodes);
    let mut steps = [[Step { next: 0, flags: FAIL, symbol: 0 }; 16]; NODES];
    let mut at = 0;
    while at < NODES * 16 {
        steps[at / 16][at % 16] = step(&nodes, &ends, at / 16, at % 16);
        at += 1;
    }
    steps
};

/// Code and its length in bits of each octet and of EOS.
#[rustfmt::skip]
const CODES: [(u32, u8); 257] = [
    (0x1ff8, 13), (0x7fffd8, 23), (0xfffffe2, 28), (0xfffffe3, 28), (0xfffffe4, 28), (0xfffffe5, 28), (0xfffffe6, 28),
    (0xfffffe7, 28), (0xfffffe8, 28), (0xffffea, 24), (0x3ffffffc, 30), (0xfffffe9, 28), (0xfffffea, 28),
    (0x3ffffffd, 30), (0xfffffeb, 28), (0xfffffec, 28), (0xfffffed, 28), (0xfffffee, 28), (0xfffffef, 28),
    (0xffffff0, 28), (0xffffff1, 28), (0xffffff2, 28), (0x3ffffffe, 30), (0xffffff3, 28), (0xffffff4, 28),
    (0xffffff5, 28), (0xffffff6, 28), (0xffffff7, 28), (0xffffff8, 28), (0xffffff9, 28), (0xffffffa, 28),
    (0xffffffb, 28), (0x14, 6), (0x3f8, 10), (0x3f9, 10), (0xffa, 12), (0x1ff9, 13), (0x15, 6), (0xf8, 8),
    (0x7fa, 11), (0x3fa, 10), (0x3fb, 10), (0xf9, 8), (0x7fb, 11), (0xfa, 8), (0x16, 6), (0x17, 6), (0x18, 6),
    (0x0, 5), (0x1, 5), (0x2, 5), (0x19, 6), (0x1a, 6), (0x1b, 6), (0x1c, 6), (0x1d, 6), (0x1e, 6), (0x1f, 6),
    (0x5c, 7), (0xfb, 8), (0x7ffc, 15), (0x20, 6), (0xffb, 12), (0x3fc, 10), (0x1ffa, 13), (0x21, 6), (0x5d, 7),
    (0x5e, 7), (0x5f, 7), (0x60, 7), (0x61, 7), (0x62, 7), (0x63, 7), (0x64, 7), (0x65, 7), (0x66, 7), (0x67, 7),
    (0x68, 7), (0x69, 7), (0x6a, 7), (0x6b, 7), (0x6c, 7), (0x6d, 7), (0x6e, 7), (0x6f, 7), (0x70, 7), (0x71, 7),
    (0x72, 7), (0xfc, 8), (0x73, 7), (0xfd, 8), (0x1ffb, 13), (0x7fff0, 19), (0x1ffc, 13), (0x3ffc, 14), (0x22, 6),
    (0x7ffd, 15), (0x3, 5), (0x23, 6), (0x4, 5), (0x24, 6), (0x5, 5), (0x25, 6), (0x26, 6), (0x27, 6), (0x6, 5),
    (0x74, 7), (0x75, 7), (0x28, 6), (0x29, 6), (0x2a, 6), (0x7, 5), (0x2b, 6), (0x76, 7), (0x2c, 6), (0x8, 5),
    (0x9, 5), (0x2d, 6), (0x77, 7), (0x78, 7), (0x79, 7), (0x7a, 7), (0x7b, 7), (0x7ffe, 15), (0x7fc, 11),
    (0x3ffd, 14), (0x1ffd, 13), (0xffffffc, 28), (0xfffe6, 20), (0x3fffd2, 22), (0xfffe7, 20), (0xfffe8, 20),
    (0x3fffd3, 22), (0x3fffd4, 22), (0x3fffd5, 22), (0x7fffd9, 23), (0x3fffd6, 22), (0x7fffda, 23), (0x7fffdb, 23),
    (0x7fffdc, 23), (0x7fffdd, 23), (0x7fffde, 23), (0xffffeb, 24), (0x7fffdf, 23), (0xffffec, 24), (0xffffed, 24),
    (0x3fffd7, 22), (0x7fffe0, 23), (0xffffee, 24), (0x7fffe1, 23), (0x7fffe2, 23), (0x7fffe3, 23), (0x7fffe4, 23),
    (0x1fffdc, 21), (0x3fffd8, 22), (0x7fffe5, 23), (0x3fffd9, 22), (0x7fffe6, 23), (0x7fffe7, 23), (0xffffef, 24),
    (0x3fffda, 22), (0x1fffdd, 21), (0xfffe9, 20), (0x3fffdb, 22), (0x3fffdc, 22), (0x7fffe8, 23), (0x7fffe9, 23),
    (0x1fffde, 21), (0x7fffea, 23), (0x3fffdd, 22), (0x3fffde, 22), (0xfffff0, 24), (0x1fffdf, 21), (0x3fffdf, 22),
    (0x7fffeb, 23), (0x7fffec, 23), (0x1fffe0, 21), (0x1fffe1, 21), (0x3fffe0, 22), (0x1fffe2, 21), (0x7fffed, 23),
    (0x3fffe1, 22), (0x7fffee, 23), (0x7fffef, 23), (0xfffea, 20), (0x3fffe2, 22), (0x3fffe3, 22), (0x3fffe4, 22),
    (0x7ffff0, 23), (0x3fffe5, 22), (0x3fffe6, 22), (0x7ffff1, 23), (0x3ffffe0, 26), (0x3ffffe1, 26), (0xfffeb, 20),
    (0x7fff1, 19), (0x3fffe7, 22), (0x7ffff2, 23), (0x3fffe8, 22), (0x1ffffec, 25), (0x3ffffe2, 26), (0x3ffffe3, 26),
    (0x3ffffe4, 26), (0x7ffffde, 27), (0x7ffffdf, 27), (0x3ffffe5, 26), (0xfffff1, 24), (0x1ffffed, 25),
    (0x7fff2, 19), (0x1fffe3, 21), (0x3ffffe6, 26), (0x7ffffe0, 27), (0x7ffffe1, 27), (0x3ffffe7, 26),
    (0x7ffffe2, 27), (0xfffff2, 24), (0x1fffe4, 21), (0x1fffe5, 21), (0x3ffffe8, 26), (0x3ffffe9, 26),
    (0xffffffd, 28), (0x7ffffe3, 27), (0x7ffffe4, 27), (0x7ffffe5, 27), (0xfffec, 20), (0xfffff3, 24), (0xfffed, 20),
    (0x1fffe6, 21), (0x3fffe9, 22), (0x1fffe7, 21), (0x1fffe8, 21), (0x7ffff3, 23), (0x3fffea, 22), (0x3fffeb, 22),
    (0x1ffffee, 25), (0x1ffffef, 25), (0xfffff4, 24), (0xfffff5, 24), (0x3ffffea, 26), (0x7ffff4, 23),
    (0x3ffffeb, 26), (0x7ffffe6, 27), (0x3ffffec, 26), (0x3ffffed, 26), (0x7ffffe7, 27), (0x7ffffe8, 27),
    (0x7ffffe9, 27), (0x7ffffea, 27), (0x7ffffeb, 27), (0xffffffe, 28), (0x7ffffec, 27), (0x7ffffed, 27),
    (0x7ffffee, 27), (0x7ffffef, 27), (0x7fffff0, 27), (0x3ffffee, 26), (0x3fffffff, 30),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn coded(text: &[u8]) -> Vec<u8> {
        let mut out = Buf::small();
        encode(text, &mut out);
        assert_eq!(out.len(), coded_len(text));
        out.as_slice().to_vec()
    }

    fn decoded(bytes: &[u8]) -> Result<Vec<u8>, BadHuffman> {
        let mut out = Buf::small();
        decode(bytes, &mut out).map(|()| out.as_slice().to_vec())
    }

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 appendix C.4 and C.6.
        for (text, bytes) in [
            ("www.example.com", "f1e3c2e5f23a6ba0ab90f4ff"),
            ("no-cache", "a8eb10649cbf"),
            ("custom-key", "25a849e95ba97d7f"),
            ("custom-value", "25a849e95bb8e8b4bf"),
            ("302", "6402"),
            ("private", "aec3771a4b"),
            ("Mon, 21 Oct 2013 20:13:21 GMT", "d07abe941054d444a8200595040b8166e082a62d1bff"),
            ("https://www.example.com", "9d29ad171863c78f0b97c8e9ae82ae43d3"),
        ] {
            let hex: String = coded(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, bytes);
            assert_eq!(decoded(&coded(text.as_bytes())), Ok(text.as_bytes().to_vec()));
        }
    }

    #[test]
    fn every_octet_and_every_pair_survive() {
        for first in 0..=255 {
            assert_eq!(decoded(&coded(&[first])), Ok(vec![first]));
            for second in 0..=255 {
                assert_eq!(decoded(&coded(&[first, second, b'a'])), Ok(vec![first, second, b'a']));
            }
        }
        let long: Vec<u8> = (0..2_000).map(|n| (n * 7) as u8).collect();
        assert_eq!(decoded(&coded(&long)), Ok(long));
    }

    #[test]
    fn wrong_padding_and_eos_are_refused() {
        // Eight ones behind a symbol; EOS; zeros as padding; a symbol cut short by zeros.
        for bytes in [&[0x1f, 0xff][..], &[0xff, 0xff, 0xff, 0xff], &[0x18], &[0xff], &[0x00]] {
            assert_eq!(decoded(bytes), Err(BadHuffman), "{bytes:02x?}");
        }
        assert_eq!(decoded(&[0x1f]), Ok(b"a".to_vec()));
        assert_eq!(decoded(&[]), Ok(vec![]));
    }
}
