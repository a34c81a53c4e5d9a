//! The typed header section: field lines as ranges into the bytes they arrived in, plus an arena for what was added.
//!
//! Nothing is copied for a field that passes through unchanged, and a recycled section allocates nothing. What can
//! stand in a section is checked when it enters: [`Fields::append`] refuses bytes that would change the message's
//! meaning (F48), so that whatever is serialised from it is one unambiguous section (D5).

use super::decimal::Decimal;
use super::name::{Name, NameSet};
use crate::sys::buf::Buf;

/// A range of bytes in a message's buffer or in its arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Text {
    offset: u32,
    len: u32,
}

const ARENA: u32 = 1 << 31;

impl Text {
    /// The empty text.
    pub const EMPTY: Text = Text { offset: 0, len: 0 };

    /// A range of the message's buffer. Offsets stay far below 2^31: a section is bounded by `HEADER_BYTES_MAX`.
    #[inline]
    pub fn in_buffer(offset: usize, len: usize) -> Self {
        debug_assert!(offset < ARENA as usize && len < ARENA as usize);
        Self { offset: offset as u32, len: len as u32 }
    }

    fn in_arena(offset: usize, len: usize) -> Self {
        debug_assert!(offset < ARENA as usize && len < ARENA as usize);
        Self { offset: offset as u32 | ARENA, len: len as u32 }
    }

    /// Length in bytes.
    #[inline]
    pub fn len(self) -> usize {
        self.len as usize
    }

    /// Whether there is nothing.
    #[inline]
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part of this text from `from` on, `len` bytes long; both are clamped to the text.
    pub fn part(self, from: usize, len: usize) -> Text {
        let from = from.min(self.len());
        Text { offset: self.offset + from as u32, len: len.min(self.len() - from) as u32 }
    }
}

/// One field line.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Field name, in the case it arrived in.
    pub name: Text,
    /// Field value without surrounding white space.
    pub value: Text,
    /// What the name means to the gateway.
    pub id: Name,
    removed: bool,
}

/// A field line that was checked once, to be added to many sections: what a configuration has them say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// `name: value CRLF`.
    raw: Box<[u8]>,
    name_bytes: usize,
    id: Name,
}

impl Line {
    /// The line of this field.
    ///
    /// # Errors
    /// As [`Fields::append`].
    pub fn new(name: &[u8], value: &[u8]) -> Result<Self, InvalidField> {
        if !is_token(name) || !is_field_value(value) {
            return Err(InvalidField);
        }
        let raw = [name, b": ", value, b"\r\n"].concat().into();
        Ok(Self { raw, name_bytes: name.len(), id: Name::of(name) })
    }

    /// Its name.
    pub fn name(&self) -> &[u8] {
        &self.raw[..self.name_bytes]
    }
}

/// Why a field was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidField;

/// A header or trailer section with the bytes that it points into.
#[derive(Debug, Default)]
pub struct Fields {
    buffer: Buf,
    arena: Vec<u8>,
    lines: Vec<Field>,
    /// Names that came in, removed ones included: what is not here need not be looked for.
    seen: NameSet,
}

impl Fields {
    /// Empties the section and gives its buffer back, keeping the allocated tables.
    #[inline]
    pub fn clear(&mut self) {
        if self.buffer.has_storage() {
            self.buffer = Buf::empty();
        }
        self.arena.clear();
        self.lines.clear();
        self.seen = NameSet::none();
    }

    /// The same section once more, with bytes of its own.
    pub fn copy(&self) -> Self {
        let buffer = Buf::copy_of(self.buffer.as_slice());
        Self { buffer, arena: self.arena.clone(), lines: self.lines.clone(), seen: self.seen }
    }

    /// Sets the bytes that buffer ranges point into.
    pub fn set_buffer(&mut self, buffer: Buf) {
        self.buffer = buffer;
    }

    /// As [`Self::set_buffer`] for a section that was just entered, with a copy of the bytes, so that their buffer goes
    /// on as something else.
    #[inline]
    pub fn set_copy(&mut self, bytes: &[u8]) {
        debug_assert!(self.arena.is_empty(), "ranges begin at the arena's front");
        self.arena.extend_from_slice(bytes);
        for line in &mut self.lines {
            line.name.offset |= ARENA;
            line.value.offset |= ARENA;
        }
    }

    /// The buffer that ranges point into.
    pub fn buffer(&self) -> &Buf {
        &self.buffer
    }

    /// The bytes of a range.
    #[inline]
    pub fn text(&self, text: Text) -> &[u8] {
        let (bytes, offset) = match text.offset & ARENA {
            0 => (self.buffer.as_slice(), text.offset as usize),
            _ => (self.arena.as_slice(), (text.offset & !ARENA) as usize),
        };
        bytes.get(offset..offset + text.len()).unwrap_or_default()
    }

    /// Copies bytes into the arena.
    #[inline]
    pub fn keep(&mut self, bytes: &[u8]) -> Text {
        let offset = self.arena.len();
        self.arena.extend_from_slice(bytes);
        Text::in_arena(offset, bytes.len())
    }

    /// Adds a field line that a parser found and checked.
    #[inline]
    pub fn push_parsed(&mut self, name: Text, value: Text, id: Name) {
        self.seen = self.seen.with(id);
        self.lines.push(Field { name, value, id, removed: false });
    }

    /// Adds a field line behind the others.
    ///
    /// # Errors
    /// [`InvalidField`] when the name is no token (RFC 9110 section 5.1) or the value holds CR, LF, NUL or another
    /// control but the tab (section 5.5).
    pub fn append(&mut self, name: &[u8], value: &[u8]) -> Result<(), InvalidField> {
        if !is_token(name) || !is_field_value(value) {
            return Err(InvalidField);
        }
        self.write_line(name, value, Name::of(name));
        Ok(())
    }

    /// Adds a line that was checked before.
    #[inline]
    pub fn append_line(&mut self, line: &Line) {
        let at = self.arena.len();
        self.arena.extend_from_slice(&line.raw);
        self.push_own(at, line.name_bytes, line.id);
    }

    /// Adds a field of the gateway's own whose value is a number. `head` is its name with what stands before the value:
    /// `X-Name: `; to the gateway itself the name means nothing.
    #[inline]
    pub fn append_number(&mut self, head: &'static str, number: u64) {
        debug_assert!(head.strip_suffix(": ").is_some_and(|name| is_token(name.as_bytes())));
        let (at, name_bytes) = (self.arena.len(), head.len() - 2);
        debug_assert_eq!(Name::of(&head.as_bytes()[..name_bytes]), Name::Other);
        self.arena.extend_from_slice(head.as_bytes());
        self.arena.extend_from_slice(Decimal::of(number).as_bytes());
        self.arena.extend_from_slice(b"\r\n");
        self.push_own(at, name_bytes, Name::Other);
    }

    /// Writes a checked line into the arena as it will leave, so that it can be passed on in one piece.
    fn write_line(&mut self, name: &[u8], value: &[u8], id: Name) {
        let at = self.arena.len();
        self.arena.reserve(name.len() + value.len() + 4);
        self.arena.extend_from_slice(name);
        self.arena.extend_from_slice(b": ");
        self.arena.extend_from_slice(value);
        self.arena.extend_from_slice(b"\r\n");
        self.push_own(at, name.len(), id);
    }

    /// The line that was just written at `at` of the arena, `name: value CRLF`.
    #[inline]
    fn push_own(&mut self, at: usize, name_bytes: usize, id: Name) {
        let value_at = at + name_bytes + 2;
        let name = Text::in_arena(at, name_bytes);
        let value = Text::in_arena(value_at, self.arena.len() - 2 - value_at);
        self.push_parsed(name, value, id);
    }

    /// Replaces every line of this name by one.
    ///
    /// # Errors
    /// As [`Fields::append`]; the section is unchanged then.
    pub fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), InvalidField> {
        if !is_token(name) || !is_field_value(value) {
            return Err(InvalidField);
        }
        self.remove(name);
        self.append(name, value)
    }

    /// Removes every line of this name, in any case. Returns how many there were.
    pub fn remove(&mut self, name: &[u8]) -> usize {
        let mut removed = 0;
        for at in 0..self.lines.len() {
            let line = self.lines[at];
            let alike = line.name.len() == name.len() && !line.removed;
            if alike && self.text(line.name).eq_ignore_ascii_case(name) {
                self.lines[at].removed = true;
                removed += 1;
            }
        }
        removed
    }

    /// Removes every line whose known name is in the set.
    #[inline]
    pub fn remove_all(&mut self, names: NameSet) {
        if !self.may_have(names) {
            return;
        }
        for line in &mut self.lines {
            line.removed |= names.has(line.id);
        }
    }

    /// Removes the lines that `wanted` refuses; it gets name and value.
    pub fn retain(&mut self, mut wanted: impl FnMut(&[u8], &[u8]) -> bool) {
        for at in 0..self.lines.len() {
            let line = self.lines[at];
            if !line.removed && !wanted(self.text(line.name), self.text(line.value)) {
                self.lines[at].removed = true;
            }
        }
    }

    /// Whether a line of one of these names may be here; most messages lack most names, and need no search for them.
    #[inline]
    pub fn may_have(&self, names: NameSet) -> bool {
        self.seen.meets(names)
    }

    /// The living field lines in order.
    #[inline]
    pub fn lines(&self) -> impl Iterator<Item = Field> + '_ {
        self.lines.iter().copied().filter(|line| !line.removed)
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        self.lines().map(|line| (self.text(line.name), self.text(line.value)))
    }

    /// First value of a known name.
    #[inline]
    pub fn get(&self, id: Name) -> Option<&[u8]> {
        self.values(id).next()
    }

    /// All values of a known name.
    #[inline]
    pub fn values(&self, id: Name) -> impl Iterator<Item = &[u8]> + '_ {
        let lines = if self.seen.has(id) { &self.lines[..] } else { &[] };
        lines.iter().filter(move |line| line.id == id && !line.removed).map(|line| self.text(line.value))
    }

    /// First value of any name, in any case.
    pub fn find<'a>(&'a self, name: &'a [u8]) -> Option<&'a [u8]> {
        self.find_all(name).next()
    }

    /// All values of any name, in any case.
    pub fn find_all<'a>(&'a self, name: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// Number of living lines.
    pub fn len(&self) -> usize {
        self.lines().count()
    }

    /// Whether there is no living line.
    pub fn is_empty(&self) -> bool {
        self.lines().next().is_none()
    }

    /// The raw line as it arrived or was added, `name: value CRLF`, if its bytes are just what the serialiser would
    /// write. Then they are passed on as they are (D5).
    #[inline]
    pub fn verbatim(&self, line: Field) -> Option<&[u8]> {
        // Both in the same place, and one behind the other.
        if line.value.offset != line.name.offset.wrapping_add(line.name.len + 2) {
            return None;
        }
        let name_len = line.name.len();
        let raw = self.text(Text { offset: line.name.offset, len: line.name.len + line.value.len + 4 });
        if raw.len() < name_len + 4 {
            return None;
        }
        (raw[name_len] == b':' && raw[name_len + 1] == b' ' && raw.ends_with(b"\r\n")).then_some(raw)
    }
}

/// Whether these bytes are a token (RFC 9110 section 5.6.2).
#[inline]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|&b| TOKEN[b as usize])
}

/// Whether these bytes may stand in a field value: visible, space, tab, or above 0x7f (RFC 9110 section 5.5).
#[inline]
pub fn is_field_value(bytes: &[u8]) -> bool {
    bytes.iter().all(|&b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}

static TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        let b = byte as u8;
        table[byte] = b.is_ascii_alphanumeric()
            || matches!(
                b,
                b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
            );
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Fields {
        let mut fields = Fields::default();
        fields.append(b"Host", b"a.example").expect("legal");
        fields.append(b"X-One", b"1").expect("legal");
        fields.append(b"x-one", b"2").expect("legal");
        fields
    }

    #[test]
    fn names_are_compared_without_case() {
        let fields = sample();
        assert_eq!(fields.get(Name::Host), Some(&b"a.example"[..]));
        assert_eq!(fields.find_all(b"X-ONE").collect::<Vec<_>>(), [b"1", b"2"]);
    }

    #[test]
    fn set_replaces_all_and_remove_counts() {
        let mut fields = sample();
        fields.set(b"X-One", b"3").expect("legal");
        assert_eq!(fields.find_all(b"x-one").collect::<Vec<_>>(), [b"3"]);
        assert_eq!((fields.remove(b"HOST"), fields.len()), (1, 1));
        assert_eq!(fields.get(Name::Host), None);
    }

    #[test]
    fn injection_is_refused_and_changes_nothing() {
        for byte in 0..=255u8 {
            let mut fields = sample();
            let legal = byte == b'\t' || (byte >= 0x20 && byte != 0x7f);
            assert_eq!(fields.set(b"x-one", &[b'a', byte, b'b']).is_ok(), legal, "byte {byte:#x}");
            assert_eq!(fields.find(b"x-one").is_some_and(|v| v == b"1"), !legal);
        }
        assert_eq!(sample().append(b"bad name", b"v"), Err(InvalidField));
        assert_eq!(sample().append(b"", b"v"), Err(InvalidField));
    }

    #[test]
    fn checked_lines_and_numbers_are_as_if_appended() {
        let mut fields = sample();
        assert_eq!(Line::new(b"x-one", b"a\r\nb"), Err(InvalidField));
        let line = Line::new(b"Server", b"mine").expect("legal");
        fields.append_line(&line);
        fields.append_number("X-Left: ", 1_250);
        let mut other = sample();
        other.append(b"Server", b"mine").expect("legal");
        other.append(b"X-Left", b"1250").expect("legal");
        assert!(fields.iter().eq(other.iter()));
        assert_eq!((line.name(), fields.get(Name::Server)), (&b"Server"[..], Some(&b"mine"[..])));
        let raw: Vec<_> = fields.lines().filter_map(|line| fields.verbatim(line)).collect();
        assert_eq!(raw.concat(), b"Host: a.example\r\nX-One: 1\r\nx-one: 2\r\nServer: mine\r\nX-Left: 1250\r\n");
    }

    #[test]
    fn verbatim_lines_are_exactly_what_would_be_written() {
        let mut fields = Fields::default();
        fields.set_buffer(Buf::copy_of(b"A: b\r\nC:d\r\nE:  f\r\n"));
        fields.push_parsed(Text::in_buffer(0, 1), Text::in_buffer(3, 1), Name::Other);
        fields.push_parsed(Text::in_buffer(6, 1), Text::in_buffer(8, 1), Name::Other);
        fields.push_parsed(Text::in_buffer(11, 1), Text::in_buffer(14, 1), Name::Other);
        let raw: Vec<_> = fields.lines().map(|line| fields.verbatim(line)).collect();
        assert_eq!(raw, [Some(&b"A: b\r\n"[..]), None, None]);
    }
}
