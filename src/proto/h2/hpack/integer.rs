//! Integers with a prefix (RFC 7541 section 5.1).

use super::BadBlock;
use crate::sys::buf::Buf;

/// Largest integer that is read: more than any length or index of a bounded message.
pub const VALUE_MAX: usize = 1 << 24;
/// Bytes behind the prefix that are read, zeros at the end included.
const MORE_BYTES_MAX: usize = 5;

/// The integer goes on behind what is here.
pub const TORN: BadBlock = BadBlock("block ends in an integer");

/// Reads the integer in the low `bits` of the first byte and what follows; `at` moves behind it.
///
/// # Errors
/// [`BadBlock`] when the block ends within it, or it is too large or too long.
#[inline]
pub fn read(block: &[u8], at: &mut usize, bits: u32) -> Result<usize, BadBlock> {
    let most = (1_usize << bits) - 1;
    let value = *block.get(*at).ok_or(TORN)? as usize & most;
    *at += 1;
    if value < most { Ok(value) } else { read_more(block, at, most) }
}

fn read_more(block: &[u8], at: &mut usize, prefix: usize) -> Result<usize, BadBlock> {
    let mut value = prefix;
    for count in 0..MORE_BYTES_MAX {
        let byte = *block.get(*at).ok_or(TORN)? as usize;
        *at += 1;
        value += (byte & 0x7f) << (7 * count);
        if value > VALUE_MAX {
            return Err(BadBlock("integer too large"));
        }
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(BadBlock("integer too long"))
}

/// Appends an integer; `first` has the bits before the prefix.
#[inline]
pub fn write(out: &mut Buf, first: u8, bits: u32, value: usize) {
    let most = (1_usize << bits) - 1;
    if value < most {
        return out.extend(&[first | value as u8]);
    }
    let mut left = value - most;
    let mut bytes = [0_u8; 11];
    bytes[0] = first | most as u8;
    let mut count = 1;
    while left >= 0x80 {
        bytes[count] = left as u8 | 0x80;
        left >>= 7;
        count += 1;
    }
    bytes[count] = left as u8;
    out.extend(&bytes[..=count]);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_rfc() {
        // RFC 7541 appendix C.1.
        for (bits, value, bytes) in
            [(5, 10, &[0x0a][..]), (5, 1337, &[0x1f, 0x9a, 0x0a]), (8, 42, &[0x2a]), (7, 127, &[0x7f, 0])]
        {
            let mut out = Buf::small();
            write(&mut out, 0, bits, value);
            assert_eq!(out.as_slice(), bytes);
            let mut at = 0;
            assert_eq!((read(bytes, &mut at, bits), at), (Ok(value), bytes.len()));
        }
    }

    #[test]
    fn all_values_survive_and_long_ones_are_refused() {
        for bits in 4..=8 {
            for value in (0..1_000).chain([16_383, 16_384, VALUE_MAX - 1, VALUE_MAX]) {
                let mut out = Buf::small();
                write(&mut out, 0, bits, value);
                let mut at = 0;
                assert_eq!((read(out.as_slice(), &mut at, bits), at), (Ok(value), out.len()));
                for end in 0..out.len() {
                    assert!(read(&out.as_slice()[..end], &mut 0, bits).is_err());
                }
            }
            let mut out = Buf::small();
            write(&mut out, 0, bits, VALUE_MAX + 1);
            assert!(read(out.as_slice(), &mut 0, bits).is_err());
        }
        assert!(read(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &mut 0, 7).is_err());
        assert!(read(&[0x7f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], &mut 0, 7).is_err(), "zeros without an end");
    }
}
