//! Places of the YAML scanner as places of ours.

use saphyr_parser::Marker;

use super::span::Span;

/// From the scanner's places, counted in characters, to bytes.
pub(super) struct Places<'a> {
    text: &'a str,
    /// Bytes of the byte order mark, which the scanner does not see.
    skipped: usize,
    ascii: bool,
    /// The byte offset of each [`STEP`]th character; empty for ASCII.
    steps: Vec<u32>,
    /// Lines that the scanner does not see.
    lines: usize,
}

/// Characters between two entries of [`Places::steps`].
const STEP: usize = 64;

impl<'a> Places<'a> {
    /// For `text`, of which the scanner does not see the first `skipped` bytes.
    pub(super) fn new(text: &'a str, skipped: usize) -> Places<'a> {
        let ascii = text[skipped..].is_ascii();
        let steps = match ascii {
            true => Vec::new(),
            false => text[skipped..].char_indices().step_by(STEP).map(|(at, _)| (at + skipped) as u32).collect(),
        };
        Places { text, skipped, ascii, steps, lines: 0 }
    }

    /// The same behind so many lines, which the skipped bytes are.
    pub(super) fn behind(self, lines: usize) -> Places<'a> {
        Places { lines, ..self }
    }

    fn byte(&self, index: usize) -> u32 {
        let end = self.text.len();
        if self.ascii {
            return (index + self.skipped).min(end) as u32;
        }
        let Some(&step) = self.steps.get(index / STEP) else {
            return end as u32;
        };
        let tail = self.text.get(step as usize..).unwrap_or("");
        let more = tail.char_indices().nth(index % STEP).map_or(tail.len(), |(at, _)| at);
        step + more as u32
    }

    /// The place of a mark; no bytes long.
    pub(super) fn at(&self, mark: Marker) -> Span {
        let start = self.byte(mark.index());
        Span { start, end: start, line: (mark.line().max(1) + self.lines) as u32, column: mark.col() as u32 + 1 }
    }

    /// The place of a stretch.
    pub(super) fn span(&self, span: saphyr_parser::Span) -> Span {
        let start = self.at(span.start);
        Span { end: self.byte(span.end.index()).max(start.start), ..start }
    }
}
