//! Encoding blocks of field lines.
//!
//! A line that comes for the second time enters the table, and is one byte from then on. One that comes once never
//! does: lines with values of their own (ids, dates, tags) would only push those out that repeat.

use ahash::RandomState;

use super::ring::Ring;
use super::{huffman, integer, statics};
use crate::http::name::{Name, NameSet};
use crate::limits::H2_TABLE_BYTES_MAX;
use crate::sys::buf::Buf;

/// Lines whose values must not be found out by guessing at the size of later ones (RFC 7541 section 7.1.3).
const SECRET: NameSet = NameSet::of(&[Name::Authorization, Name::ProxyAuthorization, Name::Cookie, Name::SetCookie]);
/// Lines that do not repeat.
const UNIQUE: NameSet = NameSet::of(&[Name::XRequestId, Name::Location, Name::XForwardedFor]);

/// Lines whose coming is remembered.
const SEEN: usize = 64;
/// Longest value that enters the table.
const VALUE_BYTES_MAX: usize = 256;

/// What is compared before the text is.
#[derive(Clone, Copy, Debug)]
struct Hashes {
    line: u32,
    name: u32,
}

/// Encodes blocks; the peer's decoder follows.
#[derive(Debug)]
pub struct Encoder {
    ring: Ring<Hashes>,
    hasher: RandomState,
    /// Hashes of lines that came lately and are not in the table.
    seen: [u32; SEEN],
    /// The smallest and the last size that the peer's settings have asked for since the last block.
    resized: Option<(usize, usize)>,
}

impl Default for Encoder {
    fn default() -> Self {
        // Which of two lines enters first is nobody's secret.
        let hasher = RandomState::with_seeds(1, 2, 3, 4);
        Self { ring: Ring::new(H2_TABLE_BYTES_MAX), hasher, seen: [0; SEEN], resized: None }
    }
}

impl Encoder {
    /// Bytes of memory that the table holds.
    pub fn held_bytes(&self) -> usize {
        self.ring.held_bytes()
    }

    /// The peer's SETTINGS_HEADER_TABLE_SIZE; of what it allows no more is used than the default.
    pub fn set_table_size(&mut self, bytes: usize) {
        let wanted = bytes.min(H2_TABLE_BYTES_MAX);
        if wanted == self.ring.size_max() && self.resized.is_none() {
            return;
        }
        let smallest = self.resized.map_or(wanted, |(smallest, _)| smallest.min(wanted));
        self.resized = Some((smallest, wanted));
    }

    /// Begins a block: tells the changes of the table's size (RFC 7541 section 4.2).
    #[inline]
    pub fn begin(&mut self, out: &mut Buf) {
        if let Some((smallest, last)) = self.resized.take() {
            if smallest < last {
                self.ring.resize(smallest);
                integer::write(out, 0x20, 5, smallest);
            }
            self.ring.resize(last);
            integer::write(out, 0x20, 5, last);
        }
    }

    /// `:status`.
    pub fn status(&mut self, out: &mut Buf, status: u16) {
        let index = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                let digits = [status / 100 % 10, status / 10 % 10, status % 10].map(|digit| b'0' + digit as u8);
                return self.line(out, b":status", &digits, Name::Other, Some(statics::STATUS));
            }
        };
        out.extend(&[0x80 | index]);
    }

    /// `:method`.
    pub fn method(&mut self, out: &mut Buf, method: &[u8]) {
        match method {
            b"GET" => out.extend(&[0x82]),
            b"POST" => out.extend(&[0x83]),
            _ => self.line(out, b":method", method, Name::Other, Some(statics::METHOD)),
        }
    }

    /// `:scheme`.
    pub fn scheme(&mut self, out: &mut Buf, scheme: &[u8]) {
        match scheme {
            b"http" => out.extend(&[0x86]),
            b"https" => out.extend(&[0x87]),
            _ => self.line(out, b":scheme", scheme, Name::Other, Some(statics::SCHEME)),
        }
    }

    /// `:authority`.
    pub fn authority(&mut self, out: &mut Buf, authority: &[u8]) {
        self.line(out, b":authority", authority, Name::Other, Some(statics::AUTHORITY));
    }

    /// `:path`.
    pub fn path(&mut self, out: &mut Buf, path: &[u8]) {
        match path {
            b"/" => out.extend(&[0x84]),
            _ => self.line(out, b":path", path, Name::Other, Some(statics::PATH)),
        }
    }

    /// `:protocol` (RFC 8441).
    pub fn protocol(&mut self, out: &mut Buf, protocol: &[u8]) {
        self.line(out, b":protocol", protocol, Name::Other, None);
    }

    /// A field; `name` is in lower case, and `id` is what it means.
    #[inline]
    pub fn field(&mut self, out: &mut Buf, name: &[u8], value: &[u8], id: Name) {
        debug_assert!(!name.iter().any(u8::is_ascii_uppercase));
        self.line(out, name, value, id, statics::index_of(id));
    }

    fn line(&mut self, out: &mut Buf, name: &[u8], value: &[u8], id: Name, in_statics: Option<usize>) {
        if SECRET.has(id) {
            return self.literal(out, 0x10, 4, in_statics, name, value);
        }
        let name_hash = self.hasher.hash_one(name) as u32;
        if UNIQUE.has(id) || value.len() > VALUE_BYTES_MAX {
            let known = in_statics.or_else(|| self.find_name(name, name_hash));
            if known.is_none() && value.len() <= VALUE_BYTES_MAX {
                // For its name alone.
                return self.enter(out, name, value, Hashes { line: name_hash, name: name_hash }, None);
            }
            return self.literal(out, 0, 4, known, name, value);
        }
        let line = (self.hasher.hash_one((name_hash, value)) as u32).max(1);
        if let Some(index) = self.find_line(name, value, line) {
            return integer::write(out, 0x80, 7, index);
        }
        let known = in_statics.or_else(|| self.find_name(name, name_hash));
        let seen = &mut self.seen[line as usize % SEEN];
        if *seen == line || known.is_none() {
            return self.enter(out, name, value, Hashes { line, name: name_hash }, known);
        }
        *seen = line;
        self.literal(out, 0, 4, known, name, value);
    }

    fn find_line(&self, name: &[u8], value: &[u8], hash: u32) -> Option<usize> {
        let found = self.ring.newest_first().enumerate().find(|(_, entry)| {
            entry.extra.line == hash && {
                let line = self.ring.line(entry);
                let name_len = entry.name_len as usize;
                line[..name_len] == *name && line[name_len + 2..line.len() - 2] == *value
            }
        });
        found.map(|(at, _)| statics::TABLE.len() + 1 + at)
    }

    fn find_name(&self, name: &[u8], hash: u32) -> Option<usize> {
        let found =
            self.ring.newest_first().enumerate().find(|(_, entry)| {
                entry.extra.name == hash && self.ring.line(entry)[..entry.name_len as usize] == *name
            });
        found.map(|(at, _)| statics::TABLE.len() + 1 + at)
    }

    /// A literal that enters the table (RFC 7541 section 6.2.1).
    fn enter(&mut self, out: &mut Buf, name: &[u8], value: &[u8], hashes: Hashes, known: Option<usize>) {
        self.literal(out, 0x40, 6, known, name, value);
        self.ring.insert([name, b": ", value, b"\r\n"], name.len(), value.len(), hashes);
    }

    fn literal(&self, out: &mut Buf, first: u8, bits: u32, known: Option<usize>, name: &[u8], value: &[u8]) {
        integer::write(out, first, bits, known.unwrap_or(0));
        if known.is_none() {
            string(out, name);
        }
        // What is told once is told as it stands: coding it costs more than its bytes.
        if first == 0x40 { string(out, value) } else { plain(out, value) }
    }
}

fn plain(out: &mut Buf, text: &[u8]) {
    integer::write(out, 0, 7, text.len());
    out.extend(text);
}

/// Appends a string in its shorter form.
fn string(out: &mut Buf, text: &[u8]) {
    let coded = huffman::coded_len(text);
    if coded >= text.len() {
        return plain(out, text);
    }
    integer::write(out, 0x80, 7, coded);
    huffman::encode(text, out);
}
