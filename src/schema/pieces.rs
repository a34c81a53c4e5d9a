//! A file that was read before, read again: only what is written anew goes through the scanner.
//!
//! The text is split by its lines ([`super::split`]), where it is not the same as before. A piece that stood in the
//! file before gives the value that it gave then; another one is read alone. This is the same as reading the whole, because a piece begins where a key of
//! the top level or an item of its list does, and is whole in itself: the scanner then stands at the beginning of the
//! next one as it would at the beginning of a text. What could make that untrue (texts and brackets
//! that are left open, aliases, several documents) is refused by the scanner or looked for here, and then the whole is
//! read. So it is where there is anything to report: what was kept has places of an earlier file.

use std::sync::Arc;

use super::diagnostics::Diagnostics;
use super::env::Env;
use super::kept::{Kept, Print, hangs_on_more, print_of_text};
use super::node::{Entry, Node, Value};
use super::parse::{NODES_MAX, Read, SOURCE_BYTES_MAX, TEXT_BYTES_MAX, parse_stretch};
use super::span::{Source, Span};
use super::split::{LISTS, Piece, Section, split};

/// What is remembered of a text, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    /// Where everything stands.
    pub(super) sections: Vec<Section>,
    /// The items of each of the long lists; none where the list is not read in pieces.
    pub(super) lists: [Vec<ItemFacts>; LISTS.len()],
    /// Items that stood in the file before, and are not in this one as they were.
    pub(super) gone: [Vec<u32>; LISTS.len()],
    /// Everything else; none where that hangs on more than its text.
    pub(super) rest: Option<Print>,
}

/// An item of a list.
#[derive(Clone, Copy, Debug)]
pub(super) struct ItemFacts {
    /// Whether its value hangs on its text alone.
    pub is_alone: bool,
    /// Values in it.
    pub nodes: u32,
    /// Whether it was taken from the file before.
    pub is_known: bool,
}

impl Pieces {
    /// For each item of a list whether it stood in the file before, in this order and without a finding.
    pub fn known(&self, list: &str) -> Vec<bool> {
        let items = list_of(list).map_or(&[][..], |list| &self.lists[list]);
        items.iter().map(|item| item.is_known).collect()
    }

    /// The pieces of a text that was read as a whole to `root`, if it could have been read in pieces.
    pub fn of(text: &str, root: &Node) -> Option<Self> {
        let (sections, entries) = (split(text)?, root.as_mapping()?);
        let is_same = |(section, entry): (&Section, &Entry)| entry.key_span.start as usize == section.whole.start;
        if sections.len() != entries.len() || !sections.iter().zip(entries).all(is_same) {
            return None;
        }
        let mut pieces = Self { rest: rest_of(text, &sections), ..Self::default() };
        for (section, entry) in sections.iter().zip(entries) {
            let (Some(list), Some(items)) = (list_of(section.key(text)), entry.value.as_sequence()) else { continue };
            let is_within = |(piece, item): (&Piece, &Node)| {
                (piece.start..piece.end).contains(&(item.span.start as usize)) && item.span.end as usize <= piece.end
            };
            if section.items.len() == items.len() && section.items.iter().zip(items).all(is_within) {
                let facts = |(piece, item): (&Piece, &Node)| ItemFacts {
                    is_alone: !hangs_on_more(piece.of(text)),
                    nodes: count(item) as u32,
                    is_known: false,
                };
                pieces.lists[list] = section.items.iter().zip(items).map(facts).collect();
            }
        }
        pieces.sections = sections;
        Some(pieces)
    }
}

/// The tree of `source`, in which items that stood in an earlier file are known. None where the whole has to be read.
pub fn parse_after(before: &Kept, source: &Arc<Source>, env: &dyn Env) -> Option<(Node, Pieces)> {
    let text = source.text.as_str();
    if text.len() > SOURCE_BYTES_MAX {
        return None;
    }
    let sections = before.split(text)?;
    // Another form of configuration, which is read as a whole.
    let is_foreign = sections.is_empty() || sections.iter().any(|section| section.key(text) == "api_gateway");
    let mut reader = Reader { source, env, nodes: 1, bytes: text.len() };
    let mut pieces = Pieces { rest: rest_of(text, &sections), ..Pieces::default() };
    let mut entries: Vec<Entry> = Vec::with_capacity(sections.len());
    for section in &sections {
        let key = section.key(text);
        if is_foreign || entries.iter().any(|entry| entry.key == key) {
            return None;
        }
        match list_of(key).filter(|_| !section.items.is_empty()) {
            Some(list) => {
                let items = reader.items(before, list, section, &mut pieces)?;
                let value = Node::sequence(items, span(section.whole, section.column));
                entries.push(Entry::new(key, value));
            }
            None => entries.push(reader.section(section)?),
        }
    }
    let fits = reader.nodes <= NODES_MAX && reader.bytes <= TEXT_BYTES_MAX;
    pieces.sections = sections;
    fits.then(|| (Node::mapping(entries, Span::NOWHERE), pieces))
}

struct Reader<'a> {
    source: &'a Arc<Source>,
    env: &'a dyn Env,
    nodes: usize,
    bytes: usize,
}

impl Reader<'_> {
    /// The items of a list. Those that are known stand in the order in which they stood, and none of them twice: what
    /// holds between any two of them held before.
    fn items(&mut self, before: &Kept, list: usize, section: &Section, pieces: &mut Pieces) -> Option<Vec<Node>> {
        let text = &*self.source.text;
        let known = before.items_of(list, text, &section.items);
        let mut items = Vec::with_capacity(section.items.len());
        let facts = &mut pieces.lists[list];
        facts.reserve_exact(section.items.len());
        // The key and the list itself.
        self.nodes += 2;
        let mut from = 0;
        for (piece, known) in section.items.iter().zip(known) {
            let (item, fact) = match known {
                Some((at, known)) => {
                    pieces.gone[list].extend(from..at);
                    from = at + 1;
                    self.nodes += known.nodes as usize;
                    let fact = ItemFacts { is_alone: true, nodes: known.nodes, is_known: true };
                    (Node { value: Value::Known(known.clone()), span: span(*piece, section.column) }, fact)
                }
                None => {
                    let (item, nodes) = self.alone(*piece, 1, |root| match root.value {
                        Value::Sequence(mut items) if items.len() == 1 => items.pop(),
                        _ => None,
                    })?;
                    (item, ItemFacts { is_alone: !hangs_on_more(piece.of(text)), nodes, is_known: false })
                }
            };
            items.push(item);
            facts.push(fact);
        }
        pieces.gone[list].extend(from..before.count(list));
        Some(items)
    }

    fn section(&mut self, section: &Section) -> Option<Entry> {
        let (entry, _) = self.alone(section.whole, 0, |root| match root.value {
            Value::Mapping(mut entries) if entries.len() == 1 => entries.pop(),
            _ => None,
        })?;
        (entry.key == section.key(&self.source.text)).then_some(entry)
    }

    /// What `inside` takes of the tree of a piece that nothing is wrong with; and how many values that has.
    fn alone<T>(&mut self, piece: Piece, depth: usize, inside: impl FnOnce(Node) -> Option<T>) -> Option<(T, u32)> {
        let mut diagnostics = Diagnostics::new(self.source.clone());
        let Read { root, nodes, bytes, has_aliases } =
            parse_stretch(piece.start..piece.end, piece.line, depth, self.env, &mut diagnostics)?;
        if has_aliases || !diagnostics.is_empty() {
            return None;
        }
        // Without the list, or the mapping, that stands around it here.
        let nodes = nodes - 1;
        self.nodes += nodes;
        self.bytes += bytes;
        Some((inside(root)?, nodes as u32))
    }
}

fn list_of(key: &str) -> Option<usize> {
    LISTS.iter().position(|known| *known == key)
}

fn span(piece: Piece, column: usize) -> Span {
    Span { start: piece.start as u32, end: piece.end as u32, line: piece.line as u32 + 1, column: column as u32 + 1 }
}

/// All that is not read by items, and the order in which everything stands.
fn rest_of(text: &str, sections: &[Section]) -> Option<Print> {
    let mut rest = String::new();
    for section in sections {
        rest.push_str(if section.items.is_empty() { section.whole.of(text) } else { section.key(text) });
    }
    print_of_text(&rest)
}

fn count(node: &Node) -> usize {
    match &node.value {
        Value::Scalar(_) => 1,
        Value::Sequence(items) => 1 + items.iter().map(count).sum::<usize>(),
        Value::Mapping(entries) => 1 + entries.iter().map(|entry| 1 + count(&entry.value)).sum::<usize>(),
        Value::Known(known) => known.nodes as usize,
    }
}
