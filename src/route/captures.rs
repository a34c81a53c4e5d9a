//! The parts of a path that a route's pattern named.

use smallvec::SmallVec;

/// Most captures that one route may have.
pub const CAPTURES_MAX: usize = 16;

/// Longest name of a capture, in bytes.
pub const CAPTURE_NAME_BYTES_MAX: usize = 31;

/// Most captures that are kept without a heap allocation.
const CAPTURES_INLINE: usize = 4;

/// Names and ranges into the path of the request that was routed last.
///
/// One value may serve many requests: [`RouteTable::find`](super::RouteTable::find) clears it first, so nothing of an
/// earlier request can be seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captures {
    items: SmallVec<[Capture; CAPTURES_INLINE]>,
}

impl Captures {
    /// No captures.
    pub fn new() -> Captures {
        Captures::default()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.items.clear();
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The capture `name` in `path`: a parameter's or group's name, or the decimal number of a regex group or of a
    /// parameter counted from 1. None if it did not take part, or if `path` is not the path that was routed and is
    /// too short.
    pub fn get<'p>(&self, name: &str, path: &'p [u8]) -> Option<&'p [u8]> {
        let named = self.items.iter().find(|item| item.name.bytes() == name.as_bytes());
        let item = named.or_else(|| {
            let number: u8 = name.parse().ok()?;
            self.items.iter().find(|item| item.number == number)
        })?;
        path.get(item.start as usize..item.end as usize)
    }

    /// Name and range of every capture, in order of the pattern; unnamed groups have an empty name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], std::ops::Range<usize>)> {
        self.items.iter().map(|item| (item.name.bytes(), item.start as usize..item.end as usize))
    }

    /// Moves every capture to the places that `place` gives for its ends: into another spelling of the path.
    pub fn translate(&mut self, place: impl Fn(usize) -> usize) {
        for item in &mut self.items {
            // A spelling is bounded as a path is, far below 4 GiB.
            (item.start, item.end) = (place(item.start as usize) as u32, place(item.end as usize) as u32);
        }
    }

    /// Adds one; beyond [`CAPTURES_MAX`] or 4 GiB it is dropped (a table that was built has no such routes).
    pub(super) fn push(&mut self, name: Name, number: u8, range: std::ops::Range<usize>) {
        let (Ok(start), Ok(end)) = (u32::try_from(range.start), u32::try_from(range.end)) else {
            return;
        };
        if self.items.len() < CAPTURES_MAX {
            self.items.push(Capture { name, number, start, end });
        }
    }
}

/// A capture's name, held in place so that handing it out touches no shared counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Name {
    length: u8,
    bytes: [u8; CAPTURE_NAME_BYTES_MAX],
}

impl Name {
    /// None if it is too long.
    pub(super) fn new(text: &str) -> Option<Name> {
        let mut bytes = [0; CAPTURE_NAME_BYTES_MAX];
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        Some(Name { length: text.len() as u8, bytes })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }
}

impl std::fmt::Debug for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", String::from_utf8_lossy(self.bytes()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Capture {
    name: Name,
    number: u8,
    start: u32,
    end: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_by_name_and_by_number() {
        let mut captures = Captures::new();
        captures.push(Name::new("id").unwrap(), 1, 3..5);
        captures.push(Name::new("").unwrap(), 2, 6..7);
        assert_eq!(captures.get("id", b"/a/42/x"), Some(&b"42"[..]));
        assert_eq!(captures.get("1", b"/a/42/x"), Some(&b"42"[..]));
        assert_eq!(captures.get("2", b"/a/42/x"), Some(&b"x"[..]));
        assert_eq!(captures.get("3", b"/a/42/x"), None);
        assert_eq!(captures.get("id", b"/a"), None, "another path must not panic");
        captures.clear();
        assert_eq!(captures.get("id", b"/a/42/x"), None);
    }

    #[test]
    fn bounded() {
        let mut captures = Captures::new();
        for number in 0..40 {
            captures.push(Name::new("x").unwrap(), number, 0..1);
        }
        assert_eq!(captures.len(), CAPTURES_MAX);
        assert!(Name::new(&"x".repeat(32)).is_none());
    }
}
