//! A text in the pieces that can be read one by one: the sections of the top level, and the items of the long lists.
//!
//! Lines alone are looked at, so that a text of a megabyte is split in a millisecond. What is found is a guess that the
//! scanner has to bear out: each piece must be whole when it is read alone, see [`super::pieces`].

/// Sections whose lists are split into their items: what there are thousands of.
pub(super) const LISTS: [&str; 2] = ["services", "routes"];

/// A stretch of whole lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its first byte.
    pub start: usize,
    /// One past its last.
    pub end: usize,
    /// Lines before it.
    pub line: usize,
}

impl Piece {
    /// What it says.
    pub fn of(self, text: &str) -> &str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// A key of the top level with all that belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Section {
    /// From the key to the next one.
    pub whole: Piece,
    /// Bytes of the key, which it begins with.
    key_bytes: usize,
    /// The items of its list, where that is one of [`LISTS`], written a line or more for each; else none.
    pub items: Vec<Piece>,
    /// Blanks before each item.
    pub column: usize,
    /// Whether its list may still be split.
    is_list: bool,
}

/// The sections of `text`; None for a text that is written in another way, or holds what ends or begins lines and
/// texts in ways of its own.
pub(super) fn split(text: &str) -> Option<Vec<Section>> {
    let mut splitting = Splitting { text, sections: Vec::new(), at: 0, line: 0 };
    splitting.to(text.len())?;
    Some(splitting.closed())
}

/// The same, where another text was split to `sections` before: of long texts that are alike but for a part, only that
/// part is looked at.
pub(super) fn split_after((before, sections): (&str, &[Section]), text: &str) -> Option<Vec<Section>> {
    let (first, last) = alike(before, text);
    let mut splitting = Splitting::behind(sections, before, text, first);
    // The rest of both texts is the same from a boundary on; there it is split as it was, if the lines stand for the
    // same at its beginning.
    let (rest_of_old, rest) = (before.len() - last, text.len() - last);
    let moved = |at: usize| at - rest_of_old + rest;
    let mut section_at = sections.partition_point(|section| section.whole.end < rest_of_old);
    while let Some(section) = sections.get(section_at) {
        let starts = std::iter::once((0, section.whole)).chain(section.items.iter().copied().enumerate().skip(1));
        // The end of the line before is the same too.
        for (item, piece) in starts.filter(|(_, piece)| piece.start > rest_of_old) {
            if moved(piece.start) < splitting.at {
                continue;
            }
            splitting.to(moved(piece.start))?;
            if splitting.goes_on_as((section, item), before) {
                splitting.take_rest(&sections[section_at..], item);
                return Some(splitting.closed());
            }
        }
        section_at += 1;
    }
    splitting.to(text.len())?;
    Some(splitting.closed())
}

/// How many bytes two texts have in common at their beginnings, and how many behind those at their ends.
fn alike(one: &str, other: &str) -> (usize, usize) {
    const STEP: usize = 256;
    let (one, other) = (one.as_bytes(), other.as_bytes());
    let chunks = one.chunks(STEP).zip(other.chunks(STEP)).take_while(|(one, other)| one == other);
    let first: usize = chunks.map(|(chunk, _)| chunk.len()).sum();
    let bytes = one[first..].iter().zip(&other[first..]).take_while(|(one, other)| one == other);
    let first = first + bytes.count();
    let (one, other) = (&one[first..], &other[first..]);
    let chunks = one.rchunks(STEP).zip(other.rchunks(STEP)).take_while(|(one, other)| one == other);
    let last: usize = chunks.map(|(chunk, _)| chunk.len()).sum();
    let (one, other) = (&one[..one.len() - last], &other[..other.len() - last]);
    let bytes = one.iter().rev().zip(other.iter().rev()).take_while(|(one, other)| one == other);
    (first, last + bytes.count())
}

/// A text that is being split, as far as it has been looked at.
struct Splitting<'t> {
    text: &'t str,
    sections: Vec<Section>,
    at: usize,
    line: usize,
}

impl<'t> Splitting<'t> {
    /// Begins at the last boundary of `sections`, those of a text that begins with the same bytes, before which all
    /// lines are among these bytes.
    fn behind(sections: &[Section], before: &str, text: &'t str, same_bytes: usize) -> Self {
        let same_lines = memchr::memrchr(b'\n', &before.as_bytes()[..same_bytes]).map_or(0, |at| at + 1);
        let count = sections.partition_point(|section| section.whole.start <= same_lines);
        let mut kept = sections[..count].to_vec();
        let Some(last) = kept.last_mut() else { return Self { text, sections: kept, at: 0, line: 0 } };
        let items = last.items.partition_point(|item| item.start <= same_lines);
        let whole = last.whole;
        let begin = match items.checked_sub(1).filter(|first| *first > 0) {
            // Without the first item it is not known where items stand.
            Some(item) => {
                let begin = last.items[item];
                last.items.truncate(item);
                begin
            }
            None => {
                kept.pop();
                whole
            }
        };
        Self { text, sections: kept, at: begin.start, line: begin.line }
    }

    /// Looks at the lines up to `end`, where one begins.
    fn to(&mut self, end: usize) -> Option<()> {
        let stretch = self.text.get(self.at..end)?;
        if memchr::memchr2(b'\r', b'\0', stretch.as_bytes()).is_some() || stretch.contains('\u{feff}') {
            return None;
        }
        let begin = self.at;
        for length in memchr::memchr_iter(b'\n', stretch.as_bytes()).map(|at| at + 1).chain([stretch.len()]) {
            let line = Line { text: &self.text[self.at..begin + length], start: self.at, number: self.line };
            if !line.text.is_empty() {
                line.add_to(&mut self.sections)?;
                (self.at, self.line) = (begin + length, self.line + 1);
            }
        }
        Some(())
    }

    /// Whether what follows is split as it was behind this place of another text: at the beginning of a section, or of
    /// an item that is not the first one of its list.
    fn goes_on_as(&self, (section, item): (&Section, usize), before: &str) -> bool {
        let is_same = |last: &Section| {
            let same_list = last.is_list && last.column == section.column && !last.items.is_empty();
            same_list && last.key(self.text) == section.key(before)
        };
        item == 0 || self.sections.last().is_some_and(is_same)
    }

    /// Takes all that follows from another text, in which it stood behind so many items of the first section.
    fn take_rest(&mut self, rest: &[Section], items: usize) {
        let Some((section, others)) = rest.split_first() else { return };
        let from = if items == 0 { section.whole } else { section.items[items] };
        let (at, line) = (self.at, self.line);
        let moved = |piece: &Piece| Piece {
            start: piece.start - from.start + at,
            end: piece.end - from.start + at,
            line: piece.line - from.line + line,
        };
        let whole = |section: &Section| Section {
            whole: moved(&section.whole),
            items: section.items.iter().map(moved).collect(),
            ..*section
        };
        match (items, self.sections.last_mut()) {
            (1.., Some(last)) => last.items.extend(section.items[items..].iter().map(moved)),
            _ => self.sections.push(whole(section)),
        }
        self.sections.extend(others.iter().map(whole));
    }

    /// The sections of the whole text, which has been looked at.
    fn closed(mut self) -> Vec<Section> {
        let mut end = self.text.len();
        for section in self.sections.iter_mut().rev() {
            section.close(end);
            end = section.whole.start;
        }
        self.sections
    }
}

struct Line<'t> {
    text: &'t str,
    start: usize,
    number: usize,
}

impl Line<'_> {
    fn add_to(&self, sections: &mut Vec<Section>) -> Option<()> {
        let column = self.text.bytes().position(|byte| byte != b' ').unwrap_or(self.text.len());
        let rest = &self.text[column..];
        match rest.as_bytes().first() {
            None | Some(b'\n' | b'#') => return Some(()),
            Some(b'\t') => return None,
            Some(_) => {}
        }
        // Most lines stand within an item.
        if sections.last().is_some_and(|section| !section.items.is_empty() && column > section.column) {
            return Some(());
        }
        let is_item = rest.starts_with("- ") || rest == "-\n";
        let here = Piece { start: self.start, end: self.start, line: self.number };
        match sections.last_mut() {
            Some(section) if column > 0 || is_item => section.take(column, is_item, here),
            _ if column > 0 => return None,
            _ => {
                let (key, is_bare) = key_of(rest)?;
                let is_list = is_bare && LISTS.contains(&key);
                sections.push(Section { key_bytes: key.len(), whole: here, items: Vec::new(), column: 0, is_list });
            }
        }
        Some(())
    }
}

impl Section {
    /// The key.
    pub fn key<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.whole.start..self.whole.start + self.key_bytes).unwrap_or_default()
    }

    fn take(&mut self, column: usize, is_item: bool, here: Piece) {
        if !self.is_list {
            return;
        }
        if self.items.is_empty() {
            self.column = column;
        }
        if is_item && column == self.column {
            self.items.push(here);
        } else if column <= self.column || self.items.is_empty() {
            self.is_list = false;
            self.items.clear();
        }
    }

    /// Nothing more belongs to it.
    fn close(&mut self, end: usize) {
        self.whole.end = end;
        let mut item_end = end;
        for item in self.items.iter_mut().rev() {
            item.end = item_end;
            item_end = item.start;
        }
    }
}

/// The key that a line of the top level begins with, and whether nothing but a comment follows on the line.
fn key_of(line: &str) -> Option<(&str, bool)> {
    let is_of_key = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    let length = line.bytes().position(|byte| !is_of_key(byte))?;
    let (key, rest) = line.split_at(length);
    let rest = rest.strip_prefix(':')?;
    if !key.starts_with(|first: char| first.is_ascii_alphabetic())
        || !(rest.is_empty() || rest.starts_with([' ', '\n']))
    {
        return None;
    }
    let value = rest.trim_matches([' ', '\n']);
    Some((key, value.is_empty() || (value.starts_with('#') && rest.starts_with(' '))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keys with the texts of their items.
    fn shown(text: &str) -> Option<Vec<(&str, Vec<&str>)>> {
        let sections = split(text)?;
        let items = |section: &Section| section.items.iter().map(|item| item.of(text)).collect();
        Some(sections.iter().map(|section| (section.key(text), items(section))).collect())
    }

    #[test]
    fn sections_and_items_are_found_by_their_columns() {
        let text = "# first\nlisteners: [\":1\"]\nservices: # all\n\n  - name: a\n    weight: 1\n  # of b\n\
                    \x20 - name: b\n\
                    routes:\n\
                    - path: /a\n\n- path: /b\nlogging:\n  level: info\n";
        let services = vec!["  - name: a\n    weight: 1\n  # of b\n", "  - name: b\n"];
        let routes = vec!["- path: /a\n\n", "- path: /b\n"];
        let want = vec![("listeners", vec![]), ("services", services), ("routes", routes), ("logging", vec![])];
        assert_eq!(shown(text), Some(want));
        let sections = split(text).expect("sections");
        assert_eq!(
            sections.iter().map(|section| section.whole.of(text)).collect::<String>(),
            text["# first\n".len()..]
        );
        assert_eq!((sections[1].column, sections[1].items[1].line, sections[2].whole.line), (2, 7, 8));
    }

    /// Each text behind each other one, and behind itself with a piece taken out or put in.
    #[test]
    fn a_text_that_was_split_before_is_split_as_if_it_was_not() {
        let whole = "# first\nlisteners: [\":1\"]\nservices: # all\n\n  - name: a\n    weight: 1\n  # of b\n  - name: b\n\
                     \x20 - name: c\n    x: |\n      text\n\n\nroutes:\n- path: /a\n\n- path: /b\n- path: é\nlogging:\n\
                     \x20 level: info";
        let parts = [
            "",
            "\n",
            "x",
            "  - name: n\n",
            "- path: /n\n",
            "services:\n",
            "routes:\n",
            "routes: []\n",
            "a: 1\n",
            "    w: 2\n",
            "    - name: n\n",
            " - x\n",
            "#\n",
            "\r",
            "\u{feff}",
            "\t\n",
            "logging:\n",
            "- path: /b\n- path: /b\n",
        ];
        let cuts: Vec<usize> = (0..=whole.len()).filter(|at| whole.is_char_boundary(*at)).collect();
        let mut texts = vec![String::new(), whole.to_owned()];
        for (number, at) in cuts.iter().enumerate().step_by(3) {
            let part = parts[number % parts.len()];
            texts.push(format!("{}{part}{}", &whole[..*at], &whole[*at..]));
            for length in [1, 24] {
                let end = cuts.get(number + length).copied().unwrap_or(whole.len());
                texts.push(format!("{}{part}{}", &whole[..*at], &whole[end..]));
            }
        }
        for before in &texts {
            let Some(sections) = split(before) else { continue };
            for text in &texts {
                assert_eq!(split_after((before, &sections), text), split(text), "{before:?}\n{text:?}");
            }
        }
    }

    #[test]
    fn a_list_that_is_written_in_another_way_stays_one_piece() {
        for text in [
            "services: [{name: a}]\n",
            "services:\n  [{name: a}]\n",
            "services:\n  - name: a\n - name: b\n",
            "services:\n  - name: a\n  name: b\n",
            "services:\n",
            "services: &all\n  - name: a\n",
            "services:#x\n",
        ] {
            assert!(shown(text).is_none_or(|all| all == [("services", vec![])]), "{text}");
        }
    }

    #[test]
    fn what_is_no_list_of_keys_is_not_split() {
        for text in
            ["{a: 1}\n", "- a\n", "---\na: 1\n", "a: 1\n...\n", "a: 1\r\n", "\"a\": 1\n", "? a\n", " a: 1\n", "a\n"]
        {
            assert_eq!(shown(text), None, "{text}");
        }
        assert_eq!(shown(""), Some(vec![]));
    }
}
