//! Places in a configuration file, and the file itself.

use std::ops::{Deref, DerefMut};

/// A stretch of one source file. Line and column count from 1, the column in characters; bytes count from 0.
///
/// The default value is "nowhere": what stands in no file, such as a default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Span {
    /// First byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
    /// Line of the first byte; 0 means nowhere.
    pub line: u32,
    /// Column of the first byte, in characters; 0 means nowhere.
    pub column: u32,
}

impl Span {
    /// The place of values that stand in no file.
    pub const NOWHERE: Span = Span { start: 0, end: 0, line: 0, column: 0 };

    /// Whether this is a place in a file.
    pub fn is_known(self) -> bool {
        self.line > 0
    }

    /// This place, or `other` when this one is nowhere.
    pub fn or(self, other: Span) -> Span {
        if self.is_known() { self } else { other }
    }
}

/// A configuration file as it was read.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// How messages call it: its path as the user gave it.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl Source {
    /// A source called `name` that holds `text`.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Source {
        Source { name: name.into(), text: text.into() }
    }

    /// The text between two byte offsets; empty when they are not in the text.
    pub fn slice(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or("")
    }
}

/// A value together with the place where it was written, for checks that come after decoding.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spanned<T> {
    /// What was written.
    pub value: T,
    /// Where; nowhere for a default.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// `value`, written at `span`.
    pub fn new(value: T, span: Span) -> Spanned<T> {
        Spanned { value, span }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for Spanned<T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}

impl<T: PartialEq> PartialEq for Spanned<T> {
    /// Places do not count: two values are equal wherever they stand.
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}
