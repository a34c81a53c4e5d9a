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
pub(super) struct Section<'t> {
    /// The key.
    pub key: &'t str,
    /// From the key to the next one.
    pub whole: Piece,
    /// The items of its list, where that is one of [`LISTS`], written a line or more for each; else none.
    pub items: Vec<Piece>,
    /// Blanks before each item.
    pub column: usize,
    /// Whether its list may still be split.
    is_list: bool,
}

/// The sections of `text`; None for a text that is written in another way, or holds what ends or begins lines and
/// texts in ways of its own.
pub(super) fn split(text: &str) -> Option<Vec<Section<'_>>> {
    if memchr::memchr2(b'\r', b'\0', text.as_bytes()).is_some() || text.contains('\u{feff}') {
        return None;
    }
    let mut sections: Vec<Section<'_>> = Vec::new();
    let (mut start, mut number) = (0, 0);
    for end in memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1).chain([text.len()]) {
        let line = Line { text: &text[start..end], start, number };
        line.add_to(&mut sections)?;
        (start, number) = (end, number + 1);
    }
    let mut end = text.len();
    for section in sections.iter_mut().rev() {
        section.close(end);
        end = section.whole.start;
    }
    Some(sections)
}

struct Line<'t> {
    text: &'t str,
    start: usize,
    number: usize,
}

impl<'t> Line<'t> {
    fn add_to(&self, sections: &mut Vec<Section<'t>>) -> Option<()> {
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
                sections.push(Section { key, whole: here, items: Vec::new(), column: 0, is_list });
            }
        }
        Some(())
    }
}

impl Section<'_> {
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
        Some(sections.iter().map(|section| (section.key, items(section))).collect())
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
