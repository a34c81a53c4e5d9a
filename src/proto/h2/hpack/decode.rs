//! Decoding blocks of field lines.

use super::ring::{Entry, Ring};
use super::{BadBlock, huffman, integer, statics};
use crate::http::fields::{self, Text};
use crate::http::name::Name;
use crate::limits::{H2_BOMB_FACTOR, H2_TABLE_BYTES_MAX, HEADER_BYTES_MAX};
use crate::proto::h1::parse::HeadLimits;
use crate::sys::buf::Buf;

/// A pseudo-header field (RFC 9113 section 8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudo {
    /// `:method`
    Method,
    /// `:scheme`
    Scheme,
    /// `:authority`
    Authority,
    /// `:path`
    Path,
    /// `:protocol` (RFC 8441)
    Protocol,
    /// `:status`
    Status,
}

impl Pseudo {
    fn of(name: &[u8]) -> Option<Pseudo> {
        Some(match name {
            b":method" => Pseudo::Method,
            b":scheme" => Pseudo::Scheme,
            b":authority" => Pseudo::Authority,
            b":path" => Pseudo::Path,
            b":protocol" => Pseudo::Protocol,
            b":status" => Pseudo::Status,
            _ => return None,
        })
    }
}

/// What kind of line it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A field.
    Field(Name),
    /// A pseudo-header field.
    Pseudo(Pseudo),
    /// One that makes its message malformed (RFC 9113 section 8.2.1).
    Malformed(&'static str),
}

/// A decoded line, as ranges of the buffer that it was written to.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    /// What kind it is.
    pub kind: Kind,
    /// The name; empty for what stands in the static table as a pseudo-header field.
    pub name: Text,
    /// The value.
    pub value: Text,
}

/// What is wrong with a block, other than its coding: the first fault found. The tables agree all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The message is malformed.
    Malformed(&'static str),
    /// It is over this bound.
    TooLarge(&'static str),
}

/// Decodes blocks, each with what the ones before it have left in the table.
#[derive(Debug)]
pub struct Decoder {
    ring: Ring<Kind>,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { ring: Ring::new(H2_TABLE_BYTES_MAX) }
    }
}

/// How a literal is told (RFC 7541 section 6.2).
struct Literal {
    prefix_bits: u32,
    enters: bool,
}

/// What is known of a block that comes in parts: what its lines so far count.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    size_updates: u8,
    fields: usize,
    list_bytes: usize,
    fault: Option<Fault>,
}

impl Progress {
    /// The first fault found so far.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }
}

/// The part of a block that is being decoded.
struct Block<'b> {
    bytes: &'b [u8],
    at: usize,
    known: Progress,
}

impl Decoder {
    /// Bytes of memory that the table holds.
    pub fn held_bytes(&self) -> usize {
        self.ring.held_bytes()
    }

    /// What the entries of the table count.
    pub fn table_size(&self) -> usize {
        self.ring.size()
    }

    /// Decodes a whole block. Its lines are written behind the window of `out` and told to `each`, up to the first
    /// fault, which is returned. Offsets count from the window's start.
    ///
    /// # Errors
    /// [`BadBlock`]: the connection is lost.
    pub fn decode(
        &mut self,
        block: &[u8],
        out: &mut Buf,
        limits: &HeadLimits,
        each: &mut dyn FnMut(Line) -> Result<(), &'static str>,
    ) -> Result<Option<Fault>, BadBlock> {
        self.decode_end(&mut Progress::default(), block, out, limits, each)
    }

    /// Decodes what is left of a block behind [`Self::decode_part`].
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_end(
        &mut self,
        progress: &mut Progress,
        rest: &[u8],
        out: &mut Buf,
        limits: &HeadLimits,
        each: &mut dyn FnMut(Line) -> Result<(), &'static str>,
    ) -> Result<Option<Fault>, BadBlock> {
        let mut block = Block { bytes: rest, at: 0, known: *progress };
        while let Some(&first) = block.bytes.get(block.at) {
            self.line(first, &mut block, out, limits, each)?;
        }
        *progress = block.known;
        Ok(block.known.fault)
    }

    /// Decodes the lines at the front of `part` that are whole, up to the first fault: more of the block follows.
    /// Returns how many bytes they have. What is behind them is to be given once more, with what follows.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_part(
        &mut self,
        progress: &mut Progress,
        part: &[u8],
        out: &mut Buf,
        limits: &HeadLimits,
        each: &mut dyn FnMut(Line) -> Result<(), &'static str>,
    ) -> Result<usize, BadBlock> {
        let mut block = Block { bytes: part, at: 0, known: *progress };
        while block.known.fault.is_none()
            && let Some(first) = block.whole_line()?
        {
            self.line(first, &mut block, out, limits, each)?;
        }
        *progress = block.known;
        Ok(block.at)
    }

    /// One line, or an update of the table's size.
    #[inline]
    fn line(
        &mut self,
        first: u8,
        block: &mut Block<'_>,
        out: &mut Buf,
        limits: &HeadLimits,
        each: &mut dyn FnMut(Line) -> Result<(), &'static str>,
    ) -> Result<(), BadBlock> {
        let written = out.len();
        let line = match first {
            0x80.. => {
                let index = integer::read(block.bytes, &mut block.at, 7)?;
                self.indexed(index, block, out, limits)?
            }
            0x40..=0x7f => self.literal(Literal { prefix_bits: 6, enters: true }, block, out, limits)?,
            0x20..=0x3f => return self.size_update(block),
            _ => self.literal(Literal { prefix_bits: 4, enters: false }, block, out, limits)?,
        };
        match line {
            Some(Line { kind: Kind::Malformed(what), .. }) => block.fail(Fault::Malformed(what)),
            Some(line) => {
                if let Err(what) = each(line) {
                    block.fail(Fault::Malformed(what));
                }
            }
            None => out.truncate(written),
        }
        Ok(())
    }

    /// At most two stand at the beginning of a block (RFC 7541 section 4.2).
    #[cold]
    fn size_update(&mut self, block: &mut Block<'_>) -> Result<(), BadBlock> {
        if block.known.fields > 0 {
            return Err(BadBlock("size update behind a field"));
        }
        block.known.size_updates += 1;
        if block.known.size_updates > 2 {
            return Err(BadBlock("too many size updates"));
        }
        let size = integer::read(block.bytes, &mut block.at, 5)?;
        if size > H2_TABLE_BYTES_MAX {
            return Err(BadBlock("table larger than allowed"));
        }
        self.ring.resize(size);
        Ok(())
    }

    /// A reference to a table. None when the line is not wanted any more.
    fn indexed(
        &mut self,
        index: usize,
        block: &mut Block<'_>,
        out: &mut Buf,
        limits: &HeadLimits,
    ) -> Result<Option<Line>, BadBlock> {
        if let Some((name, value)) = index.checked_sub(1).and_then(|at| statics::TABLE.get(at)) {
            if !block.admits(name.len(), value.len(), limits)? {
                return Ok(None);
            }
            let start = out.len();
            write_line(out, name.as_bytes(), value.as_bytes());
            return Ok(Some(line_at(static_kind(index), start, name.len(), value.len())));
        }
        let entry = *self.entry(index)?;
        if !block.admits(entry.name_len as usize, entry.value_len as usize, limits)? {
            return Ok(None);
        }
        let start = out.len();
        out.extend(self.ring.line(&entry));
        Ok(Some(line_at(entry.extra, start, entry.name_len as usize, entry.value_len as usize)))
    }

    fn entry(&self, index: usize) -> Result<&Entry<Kind>, BadBlock> {
        let at = index.checked_sub(statics::TABLE.len() + 1);
        at.and_then(|at| self.ring.get(at)).ok_or(BadBlock("index beyond the table"))
    }

    fn literal(
        &mut self,
        how: Literal,
        block: &mut Block<'_>,
        out: &mut Buf,
        limits: &HeadLimits,
    ) -> Result<Option<Line>, BadBlock> {
        let index = integer::read(block.bytes, &mut block.at, how.prefix_bits)?;
        let start = out.len();
        let known = match index {
            0 => {
                block.string(out)?;
                None
            }
            1..=61 => {
                out.extend(statics::TABLE[index - 1].0.as_bytes());
                Some(static_kind(index))
            }
            _ => {
                let entry = *self.entry(index)?;
                out.extend(&self.ring.line(&entry)[..entry.name_len as usize]);
                Some(entry.extra)
            }
        };
        let name_len = out.len() - start;
        out.extend(b": ");
        block.string(out)?;
        let value_len = out.len() - start - name_len - 2;
        out.extend(b"\r\n");
        let line = &out.as_slice()[start..];
        let (name, value) = (&line[..name_len], &line[name_len + 2..][..value_len]);
        let kind = kind_of(known, name, value);
        if how.enters {
            self.ring.insert([line, b"", b"", b""], name_len, value_len, kind);
        }
        let admitted = block.admits(name_len, value_len, limits)?;
        Ok(admitted.then(|| line_at(kind, start, name_len, value_len)))
    }
}

impl Block<'_> {
    fn fail(&mut self, fault: Fault) {
        self.known.fault = self.known.fault.or(Some(fault));
    }

    /// The first byte of the line, or of the update, that comes next, if all of it is here.
    fn whole_line(&self) -> Result<Option<u8>, BadBlock> {
        let Some(&first) = self.bytes.get(self.at) else { return Ok(None) };
        match self.end_of_line(first) {
            Ok(end) if end > self.bytes.len() => Ok(None),
            Ok(_) => Ok(Some(first)),
            Err(integer::TORN) => Ok(None),
            Err(bad) => Err(bad),
        }
    }

    /// Where the next line ends, which may be behind what is here. Strings are skipped.
    fn end_of_line(&self, first: u8) -> Result<usize, BadBlock> {
        let mut at = self.at;
        let (prefix_bits, is_literal) = match first {
            0x80.. => (7, false),
            0x40..=0x7f => (6, true),
            0x20..=0x3f => (5, false),
            _ => (4, true),
        };
        let index = integer::read(self.bytes, &mut at, prefix_bits)?;
        let strings = if is_literal { 1 + usize::from(index == 0) } else { 0 };
        for _ in 0..strings {
            let length = integer::read(self.bytes, &mut at, 7)?;
            at += length;
        }
        Ok(at)
    }

    /// Counts a line. Returns whether it is to be told: all up to the first fault are (F44).
    #[inline]
    fn admits(&mut self, name_len: usize, value_len: usize, limits: &HeadLimits) -> Result<bool, BadBlock> {
        let known = &mut self.known;
        known.fields += 1;
        known.list_bytes += name_len + value_len + super::ring::LINE_EXTRA;
        if known.fault.is_some() {
            let bomb_bytes = H2_BOMB_FACTOR * limits.header_bytes_max.max(HEADER_BYTES_MAX);
            return if known.list_bytes > bomb_bytes { Err(BadBlock::BOMB) } else { Ok(false) };
        }
        // The request line's fields come in addition.
        known.fault = if known.fields > limits.fields_max + PSEUDO_FIELDS_MAX {
            Some(Fault::TooLarge("over fields_max"))
        } else if name_len + value_len > limits.field_bytes_max {
            Some(Fault::TooLarge("over field_bytes_max"))
        } else if known.list_bytes > limits.header_bytes_max {
            Some(Fault::TooLarge("over header_bytes_max"))
        } else {
            None
        };
        Ok(known.fault.is_none())
    }

    /// Appends a string literal (RFC 7541 section 5.2).
    #[inline]
    fn string(&mut self, out: &mut Buf) -> Result<(), BadBlock> {
        let is_coded = self.bytes.get(self.at).is_some_and(|byte| byte & 0x80 != 0);
        let length = integer::read(self.bytes, &mut self.at, 7)?;
        let text = self.bytes.get(self.at..self.at + length).ok_or(BadBlock("block ends in a string"))?;
        self.at += length;
        if is_coded {
            return huffman::decode(text, out).map_err(|_| BadBlock("bad Huffman code"));
        }
        out.extend(text);
        Ok(())
    }
}

/// `:method`, `:scheme`, `:authority`, `:path` and `:protocol`.
pub const PSEUDO_FIELDS_MAX: usize = 5;

fn write_line(out: &mut Buf, name: &[u8], value: &[u8]) {
    out.extend(name);
    out.extend(b": ");
    out.extend(value);
    out.extend(b"\r\n");
}

#[inline]
fn line_at(kind: Kind, start: usize, name_len: usize, value_len: usize) -> Line {
    let name = Text::in_buffer(start, name_len);
    Line { kind, name, value: Text::in_buffer(start + name_len + 2, value_len) }
}

fn static_kind(index: usize) -> Kind {
    match index {
        1 => Kind::Pseudo(Pseudo::Authority),
        2 | 3 => Kind::Pseudo(Pseudo::Method),
        4 | 5 => Kind::Pseudo(Pseudo::Path),
        6 | 7 => Kind::Pseudo(Pseudo::Scheme),
        8..=14 => Kind::Pseudo(Pseudo::Status),
        _ => Kind::Field(statics::name_of(index)),
    }
}

/// The kind of a literal; `known` is that of its name where a table has it.
fn kind_of(known: Option<Kind>, name: &[u8], value: &[u8]) -> Kind {
    let legal_value = fields::is_field_value(value) && value.trim_ascii().len() == value.len();
    let kind = match known {
        // What was wrong may have been the value.
        Some(Kind::Malformed(_)) | None => name_kind(name),
        Some(kind) => kind,
    };
    match kind {
        Kind::Malformed(_) => kind,
        _ if !legal_value => Kind::Malformed("invalid field value"),
        _ => kind,
    }
}

/// Names are tokens in lower case (RFC 9113 section 8.2.1).
fn name_kind(name: &[u8]) -> Kind {
    if name.first() == Some(&b':') {
        return Pseudo::of(name).map_or(Kind::Malformed("unknown pseudo-header field"), Kind::Pseudo);
    }
    if !fields::is_token(name) {
        return Kind::Malformed("invalid field name");
    }
    if name.iter().any(u8::is_ascii_uppercase) {
        return Kind::Malformed("field name in upper case");
    }
    Kind::Field(Name::of(name))
}
