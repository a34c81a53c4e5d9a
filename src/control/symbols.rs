//! Names for addresses in this program, from the symbol table of its own file. Names are not exact where the compiler
//! put functions into each other; the offset at the end of each, with `addr2line -i -e ringway`, gives the lines.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Longest name that is read.
const NAME_BYTES_MAX: usize = 1024;
/// Symbols that are read at once.
const SYMBOLS_AT_ONCE: usize = 4096;
/// Sections that are looked at: a real file has some forty.
const SECTIONS_MAX: u16 = 4096;

/// What stands at each address, innermost first: `name+0x12 [0x345]` with the offset in the file's address space, or
/// `file+0x345` in other files. The frames of signal delivery are left out.
pub fn describe(frames: &[usize]) -> Vec<String> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let program = std::fs::read_link("/proc/self/exe").unwrap_or_default();
    let places: Vec<_> = frames.iter().map(|&frame| place(&maps, frame as u64)).collect();
    // A return address is behind its call, which may be the last instruction of its function.
    let of_program = places.iter().filter(|place| Path::new(place.0) == program).map(|place| place.1.saturating_sub(1));
    let names = names(Path::new("/proc/self/exe"), of_program.collect()).unwrap_or_default();
    let text = |(file, offset): &(&str, u64)| {
        let known = names.get(&offset.saturating_sub(1)).filter(|_| Path::new(file) == program);
        match known {
            Some((name, start)) => format!("{name}+{:#x} [{offset:#x}]", offset - start),
            None => format!("{}+{offset:#x}", file.rsplit('/').next().unwrap_or_default()),
        }
    };
    let all: Vec<_> = places.iter().map(text).collect();
    // The walk begins in the handler: what is above the interrupted frame ends with libc's return from the signal. That
    // of a panic begins in its machinery.
    let handler = all.iter().position(|text| text.contains("on_signal")).map(|at| at + 2);
    let panic = all.iter().rposition(|text| text.contains("panicking::panic_fmt")).map(|at| at + 1);
    all.into_iter().skip(handler.or(panic).unwrap_or(0)).collect()
}

/// File and offset in it of an address.
fn place(maps: &str, address: u64) -> (&str, u64) {
    let parse = |line: &'_ str| {
        let mut words = line.split_ascii_whitespace();
        let (start, end) = words.next()?.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        let file = line.find('/').map_or("?", |at| &line[at..]);
        Some((start, end, file.to_owned()))
    };
    let within = maps.lines().find(|line| parse(line).is_some_and(|(start, end, _)| (start..end).contains(&address)));
    let Some(file) = within.map(|line| line.find('/').map_or("?", |at| &line[at..])) else { return ("?", address) };
    // A position-independent file is loaded from its first byte on: its first mapping is where its addresses begin.
    let first = maps.lines().filter_map(parse).find(|(_, _, name)| name == file);
    (file, address - first.map_or(0, |(start, ..)| start))
}

/// Names and start addresses of the functions in which addresses lie.
fn names(file: &Path, mut addresses: Vec<u64>) -> io::Result<BTreeMap<u64, (String, u64)>> {
    addresses.sort_unstable();
    let file = File::open(file)?;
    let Some((symbols, strings)) = tables(&file)? else { return Ok(BTreeMap::new()) };
    let mut found = BTreeMap::new();
    let mut chunk = vec![0; SYMBOLS_AT_ONCE * SYMBOL_BYTES];
    let mut at = 0;
    while at < symbols.bytes {
        let count = (symbols.bytes - at).min(chunk.len() as u64) as usize;
        file.read_exact_at(&mut chunk[..count], symbols.offset + at)?;
        at += count as u64;
        for symbol in chunk[..count].chunks_exact(SYMBOL_BYTES) {
            let (value, size) = (u64_at(symbol, 8), u64_at(symbol, 16));
            let first = addresses.partition_point(|&address| address < value);
            for address in addresses[first..].iter().take_while(|&&address| address < value + size) {
                found.insert(*address, (u64::from(u32_at(symbol, 0)), value));
            }
        }
    }
    let name = |(address, (offset, start)): (u64, (u64, u64))| {
        let mut bytes = vec![0; NAME_BYTES_MAX];
        let count = file.read_at(&mut bytes, strings.offset + offset).unwrap_or(0);
        let end = bytes[..count].iter().position(|&byte| byte == 0).unwrap_or(count);
        (address, (readable(&String::from_utf8_lossy(&bytes[..end])), start))
    };
    Ok(found.into_iter().map(name).collect())
}

/// Bytes of one entry of an ELF symbol table (64 bits).
const SYMBOL_BYTES: usize = 24;
const SYMBOL_TABLE: u32 = 2;

/// Where a section is in the file.
#[derive(Clone, Copy)]
struct Section {
    offset: u64,
    bytes: u64,
}

/// Symbol table and its strings; None for a file without (a stripped one).
fn tables(file: &File) -> io::Result<Option<(Section, Section)>> {
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    let (at, size) = (u64_at(&header, 40), u64::from(u16_at(&header, 58)));
    let section = |index: u64| -> io::Result<[u8; 64]> {
        let mut entry = [0; 64];
        file.read_exact_at(&mut entry, at + index * size).map(|()| entry)
    };
    let place = |entry: &[u8; 64]| Section { offset: u64_at(entry, 24), bytes: u64_at(entry, 32) };
    for index in 0..u16_at(&header, 60).min(SECTIONS_MAX) {
        let entry = section(u64::from(index))?;
        if u32_at(&entry, 4) == SYMBOL_TABLE {
            let strings = section(u64::from(u32_at(&entry, 40)))?;
            return Ok(Some((place(&entry), place(&strings))));
        }
    }
    Ok(None)
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

/// The identifiers of a mangled name, in order: not the exact type, but what a person looks for.
fn readable(mangled: &str) -> String {
    let Some(mut rest) = mangled.strip_prefix("_R").or_else(|| mangled.strip_prefix("_ZN")) else {
        return mangled.to_owned();
    };
    let mut parts: Vec<&str> = Vec::new();
    while let Some(first) = rest.chars().next() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        if digits > 0 {
            let count: usize = rest[..digits].parse().unwrap_or(0);
            rest = &rest[digits..];
            rest = rest.strip_prefix('_').filter(|_| mangled.starts_with("_R")).unwrap_or(rest);
            let Some((part, behind)) = rest.split_at_checked(count) else { break };
            parts.push(part);
            rest = behind;
        } else if matches!(first, 's' | 'B' | 'L' | 'G') && mangled.starts_with("_R") {
            // A number in base 62, which may hold digits.
            rest = rest.find('_').map_or("", |at| &rest[at + 1..]);
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    // The older scheme ends with a hash.
    let is_hash = |part: &str| part.len() == 17 && part.starts_with('h');
    if parts.len() > 1 && parts.last().is_some_and(|last| is_hash(last)) {
        parts.pop();
    }
    let named: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if named.is_empty() { mangled.to_owned() } else { unescaped(&named.join("::")) }
}

/// What the older scheme writes for signs that no identifier can have. Closures are left out: their place says it.
fn unescaped(name: &str) -> String {
    const ESCAPES: [(&str, &str); 14] = [
        ("::_$u7b$$u7b$closure$u7d$$u7d$", ""),
        ("$LT$", "<"),
        ("$GT$", ">"),
        ("$LP$", "("),
        ("$RP$", ")"),
        ("$RF$", "&"),
        ("$BP$", "*"),
        ("$C$", ","),
        ("$u20$", " "),
        ("$u27$", "'"),
        ("$u5b$", "["),
        ("$u5d$", "]"),
        ("$u7b$", "{"),
        ("$u7d$", "}"),
    ];
    ESCAPES.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to)).replace("..", "::")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[inline(never)]
    fn a_function_to_be_found() -> usize {
        std::hint::black_box(7)
    }

    #[test]
    fn functions_of_the_program_have_names() {
        assert_eq!(a_function_to_be_found(), 7);
        let address = a_function_to_be_found as *const () as usize + 2;
        let described = describe(&[address, 5]);
        assert!(described[0].contains("a_function_to_be_found+0x2 ["), "{described:?}");
        assert_eq!(described[1], "?+0x5");
    }

    #[test]
    fn mangled_names_become_readable() {
        for (mangled, shown) in [
            ("_ZN7ringway6worker6faults4spin17h0123456789abcdefE", "ringway::worker::faults::spin"),
            ("_RNvNtNtCs1a2b_7ringway6worker3run5serve", "ringway::worker::run::serve"),
            ("_RINvNtC3std3mem8align_ofdE", "std::mem::align_of"),
            ("_ZN1a4Room28_$u7b$$u7b$closure$u7d$$u7d$17h0123456789abcdefE", "a::Room"),
            ("_ZN25Room$LT$a..F$C$$u20$G$GT$E", "Room<a::F, G>"),
            ("main", "main"),
            ("_ZN", "_ZN"),
            ("_R99999x", "_R99999x"),
        ] {
            assert_eq!(readable(mangled), shown);
        }
    }
}
