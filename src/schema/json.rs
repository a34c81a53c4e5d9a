//! JSON documents as the events that the YAML scanner makes, so that one builder serves both.
//!
//! YAML's own reading of JSON differs in one point that writers of JSON produce: pairs of `\u` escapes.

use std::borrow::Cow;

use saphyr_parser::{Event, ScalarStyle};
use serde::de::IgnoredAny;

use super::codes;
use super::diagnostics::Diagnostics;
use super::span::Span;

/// Whether the file behind `diagnostics` is strict JSON (RFC 8259); reports where it is not.
pub(super) fn is_json(text: &str, diagnostics: &mut Diagnostics) -> bool {
    let Err(error) = serde_json::from_str::<IgnoredAny>(text) else {
        return true;
    };
    let (line, column) = (error.line().max(1), error.column().max(1));
    let begin: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    // The library counts columns in bytes.
    let start = (begin + column - 1).min(text.len());
    let before = text.as_bytes().get(begin..start).unwrap_or_default();
    let chars = String::from_utf8_lossy(before).chars().count();
    let span = Span { start: start as u32, end: start as u32, line: line as u32, column: chars as u32 + 1 };
    let cause = error.to_string();
    let cause = cause.split(" at line ").next().unwrap_or("");
    diagnostics.report(codes::SYNTAX, span, format!("this is not JSON: {cause}"));
    false
}

/// Reads a text that [`is_json`].
pub(super) struct JsonEvents<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    column: u32,
}

impl<'a> JsonEvents<'a> {
    /// At the beginning of `text`.
    pub(super) fn new(text: &'a str) -> JsonEvents<'a> {
        JsonEvents { text, at: 0, line: 1, column: 1 }
    }

    /// The next event and its place; the end of the stream for ever after the last.
    pub(super) fn next(&mut self) -> (Event<'a>, Span) {
        let rest = self.rest();
        let content = rest.trim_start_matches([' ', '\t', '\r', '\n', ',', ':']);
        self.advance(rest.len() - content.len());
        let (event, len) = token(content);
        let start = Span { start: self.at as u32, end: self.at as u32, line: self.line, column: self.column };
        self.advance(len);
        (event, Span { end: self.at as u32, ..start })
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn advance(&mut self, len: usize) {
        for c in self.rest().get(..len).unwrap_or("").chars() {
            self.column += 1;
            if c == '\n' {
                (self.line, self.column) = (self.line + 1, 1);
            }
        }
        self.at += len;
    }
}

/// The event that `text` begins with, and its length.
fn token(text: &str) -> (Event<'_>, usize) {
    match text.bytes().next() {
        None => (Event::StreamEnd, 0),
        Some(b'{') => (Event::MappingStart(0, None), 1),
        Some(b'}') => (Event::MappingEnd, 1),
        Some(b'[') => (Event::SequenceStart(0, None), 1),
        Some(b']') => (Event::SequenceEnd, 1),
        Some(b'"') => {
            let len = string_len(text);
            let value: String = serde_json::from_str(text.get(..len).unwrap_or("")).unwrap_or_default();
            (Event::Scalar(Cow::Owned(value), ScalarStyle::DoubleQuoted, 0, None), len)
        }
        Some(_) => {
            let len = text.find([' ', '\t', '\r', '\n', ',', ':', ']', '}']).unwrap_or(text.len());
            (Event::Scalar(Cow::Borrowed(&text[..len]), ScalarStyle::Plain, 0, None), len)
        }
    }
}

/// The length of the string that `text` begins with, its quotes counted.
fn string_len(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}
