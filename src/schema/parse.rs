//! From text to tree: YAML (of which JSON is a part), with bounds against hostile documents.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, StrInput};

use super::codes;
use super::diagnostics::Diagnostics;
use super::env::{Env, SubstituteError, substitute};
use super::hint::syntax_hint;
use super::json::{JsonEvents, is_json};
use super::node::{Entry, Node, Scalar, Value};
use super::places::Places;
use super::span::Span;

/// Largest configuration file, in bytes.
pub const SOURCE_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Deepest nesting of lists and mappings.
pub const DEPTH_MAX: usize = 64;
/// Most values of a document, counted after aliases are expanded.
pub const NODES_MAX: usize = 1_000_000;
/// Most bytes of text of a document, counted after aliases are expanded and variables substituted.
pub const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What was read.
pub struct Read {
    /// The tree.
    pub root: Node,
    /// Values in it, aliases expanded.
    pub nodes: usize,
    /// Bytes of their texts.
    pub bytes: usize,
    /// Whether something stands for something else.
    pub has_aliases: bool,
}

/// The tree of the file behind `diagnostics`, which gets every mistake; none after a mistake that hides the rest.
pub fn parse(env: &dyn Env, diagnostics: &mut Diagnostics) -> Option<Node> {
    read(env, diagnostics).map(|read| read.root)
}

/// The same with what the tree is like.
pub fn read(env: &dyn Env, diagnostics: &mut Diagnostics) -> Option<Read> {
    let source = diagnostics.source().clone();
    let text = source.text.as_str();
    // A byte order mark is no content.
    let body = text.strip_prefix('\u{feff}').unwrap_or(text);
    let places = Places::new(text, text.len() - body.len());
    let events = Events::Yaml(Box::new(Parser::new_from_str(body)), places);
    build(text, events, 0, env, diagnostics)
}

/// The tree of some lines, which stand behind so many others and so deep in the tree of the whole.
pub(super) fn parse_stretch(
    bytes: Range<usize>,
    lines: usize,
    depth: usize,
    env: &dyn Env,
    diagnostics: &mut Diagnostics,
) -> Option<Read> {
    let source = diagnostics.source().clone();
    let text = source.text.get(..bytes.end)?;
    let places = Places::new(text, bytes.start).behind(lines);
    let events = Events::Yaml(Box::new(Parser::new_from_str(text.get(bytes)?)), places);
    build(text, events, depth, env, diagnostics)
}

/// The same for a file of strict JSON.
pub fn parse_json(env: &dyn Env, diagnostics: &mut Diagnostics) -> Option<Node> {
    let source = diagnostics.source().clone();
    let text = source.text.as_str();
    if text.len() <= SOURCE_BYTES_MAX && !is_json(text, diagnostics) {
        return None;
    }
    build(text, Events::Json(JsonEvents::new(text)), 0, env, diagnostics).map(|read| read.root)
}

fn build(text: &str, events: Events, depth: usize, env: &dyn Env, diagnostics: &mut Diagnostics) -> Option<Read> {
    if text.len() > SOURCE_BYTES_MAX {
        let message = format!("the file is larger than {SOURCE_BYTES_MAX} bytes");
        diagnostics.report(codes::UNREADABLE, Span::NOWHERE, message);
        return None;
    }
    let (anchors, used) = (HashMap::new(), Used::default());
    let mut builder = Builder { events, text, env, anchors, used, has_aliases: false, diagnostics };
    let root = builder.document(depth).ok()?;
    let Builder { used: Used { nodes, bytes }, has_aliases, .. } = builder;
    Some(Read { root, nodes, bytes, has_aliases })
}

/// Where events come from.
enum Events<'a> {
    /// The scanner, and the form of its places.
    Yaml(Box<Parser<'a, StrInput<'a>>>, Places<'a>),
    /// A text that is JSON.
    Json(JsonEvents<'a>),
}

/// The mistake is reported; nothing after it can be read.
struct Stop;

/// What a subtree costs once expanded.
#[derive(Clone, Copy, Default)]
struct Used {
    nodes: usize,
    bytes: usize,
}

struct Builder<'a> {
    events: Events<'a>,
    text: &'a str,
    env: &'a dyn Env,
    anchors: HashMap<usize, (Node, Used)>,
    used: Used,
    has_aliases: bool,
    diagnostics: &'a mut Diagnostics,
}

impl<'a> Builder<'a> {
    fn document(&mut self, depth: usize) -> Result<Node, Stop> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
                Event::StreamEnd => return Ok(Node::plain("", span)),
                event => {
                    let node = self.node(event, span, depth)?;
                    self.end()?;
                    return Ok(node);
                }
            }
        }
    }

    /// Nothing may follow the first document.
    fn end(&mut self) -> Result<(), Stop> {
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => return Ok(()),
                Event::DocumentEnd | Event::Nothing => {}
                _ => {
                    return self.stop(codes::SYNTAX, span, "a second document begins here; a file holds one");
                }
            }
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Stop> {
        let (parser, places) = match &mut self.events {
            Events::Yaml(parser, places) => (parser, places),
            Events::Json(events) => return Ok(events.next()),
        };
        match parser.next_event() {
            Some(Ok((event, span))) => Ok((event, places.span(span))),
            Some(Err(error)) => {
                let span = places.at(*error.marker());
                self.syntax_error(&error, span)
            }
            None => Ok((Event::StreamEnd, Span::NOWHERE)),
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<Node, Stop> {
        if depth >= DEPTH_MAX {
            return self.stop(codes::TOO_LARGE, span, format!("nested more than {DEPTH_MAX} levels deep"));
        }
        let before = self.used;
        let (node, anchor) = match event {
            Event::Alias(id) => return self.alias(id, span),
            Event::Scalar(text, style, anchor, _) => (self.scalar(text, style, span)?, anchor),
            Event::SequenceStart(anchor, _) => (self.sequence(span, depth)?, anchor),
            Event::MappingStart(anchor, _) => (self.mapping(span, depth)?, anchor),
            _ => return self.stop(codes::SYNTAX, span, "a value is missing here"),
        };
        self.charge(Used { nodes: 1, bytes: 0 }, span)?;
        if anchor > 0 {
            let cost = Used { nodes: self.used.nodes - before.nodes, bytes: self.used.bytes - before.bytes };
            self.anchors.insert(anchor, (node.clone(), cost));
        }
        Ok(node)
    }

    /// Aliases are copied, so that the bounds count what they stand for and not how they are written.
    fn alias(&mut self, id: usize, span: Span) -> Result<Node, Stop> {
        self.has_aliases = true;
        let Some((_, cost)) = self.anchors.get(&id) else {
            return self.stop(codes::SYNTAX, span, "an alias stands inside its own anchor");
        };
        self.charge(*cost, span)?;
        match self.anchors.get(&id) {
            Some((node, _)) => Ok(node.clone()),
            None => Err(Stop),
        }
    }

    fn charge(&mut self, cost: Used, span: Span) -> Result<(), Stop> {
        self.used.nodes = self.used.nodes.saturating_add(cost.nodes);
        self.used.bytes = self.used.bytes.saturating_add(cost.bytes);
        if self.used.nodes > NODES_MAX {
            return self.stop(codes::TOO_LARGE, span, format!("the document holds more than {NODES_MAX} values"));
        }
        if self.used.bytes > TEXT_BYTES_MAX {
            return self.stop(codes::TOO_LARGE, span, format!("the document holds more than {TEXT_BYTES_MAX} bytes"));
        }
        Ok(())
    }

    fn scalar(&mut self, text: Cow<'a, str>, style: ScalarStyle, span: Span) -> Result<Node, Stop> {
        let plain = style == ScalarStyle::Plain;
        let span = match style {
            // The scanner counts the blanks and comments after a value as part of it.
            ScalarStyle::Plain if text.is_empty() => Span { end: span.start, ..span },
            _ => self.trimmed(span),
        };
        let (text, written, broken) = match substitute(&text, self.env) {
            Ok(None) => (text.into_owned(), None, false),
            Ok(Some(replaced)) => (replaced, Some(text.into()), false),
            Err(error) => {
                self.substitution_error(span, &error);
                (text.clone().into_owned(), Some(text.into()), true)
            }
        };
        self.charge(Used { nodes: 0, bytes: text.len() }, span)?;
        let scalar = Scalar { text, plain, written, broken };
        Ok(Node { value: Value::Scalar(scalar), span })
    }

    fn trimmed(&self, span: Span) -> Span {
        let slice = self.text.get(span.start as usize..span.end as usize).unwrap_or("");
        Span { end: span.start + slice.trim_end().len() as u32, ..span }
    }

    fn sequence(&mut self, span: Span, depth: usize) -> Result<Node, Stop> {
        let mut items: Vec<Node> = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::SequenceEnd {
                let end = at.end.max(items.last().map_or(0, |node| node.span.end));
                let span = self.trimmed(Span { end: end.max(span.end), ..span });
                return Ok(Node { value: Value::Sequence(items), span });
            }
            items.push(self.node(event, at, depth + 1)?);
        }
    }

    fn mapping(&mut self, span: Span, depth: usize) -> Result<Node, Stop> {
        let mut entries: Vec<Entry> = Vec::new();
        let mut seen = HashSet::new();
        let mut merged = Vec::new();
        loop {
            let (event, at) = self.next()?;
            if event == Event::MappingEnd {
                let end = at.end.max(entries.last().map_or(0, |entry| entry.value.span.end));
                let span = self.trimmed(Span { end: end.max(span.end), ..span });
                merge(&mut entries, &mut seen, merged);
                return Ok(Node { value: Value::Mapping(entries), span });
            }
            let (key, key_span, is_merge) = self.key(event, at)?;
            let (event, at) = self.next()?;
            let value = self.node(event, at, depth + 1)?;
            if is_merge {
                merged.push(value);
            } else if seen.insert(key.clone()) {
                entries.push(Entry { key, key_span, value });
            } else {
                self.duplicate_key(&key, key_span, &entries);
            }
        }
    }

    fn key(&mut self, event: Event<'a>, span: Span) -> Result<(String, Span, bool), Stop> {
        match event {
            Event::Scalar(text, style, _, _) => {
                let is_merge = style == ScalarStyle::Plain && text == "<<";
                let span = self.trimmed(span);
                self.charge(Used { nodes: 1, bytes: text.len() }, span)?;
                Ok((text.into_owned(), span, is_merge))
            }
            _ => self.stop(codes::SYNTAX, span, "a key must be a single word or text"),
        }
    }

    fn duplicate_key(&mut self, key: &str, span: Span, entries: &[Entry]) {
        if self.diagnostics.is_full() {
            self.diagnostics.report(codes::DUPLICATE_KEY, span, "");
            return;
        }
        let first = entries.iter().find(|entry| entry.key == key).map_or(Span::NOWHERE, |entry| entry.key_span);
        self.diagnostics
            .report(codes::DUPLICATE_KEY, span, format!("the key `{key}` stands twice in this mapping"))
            .hint(format!("it stands first in line {}; keep one of them", first.line));
    }

    fn substitution_error(&mut self, span: Span, error: &SubstituteError) {
        let (SubstituteError::Unset { part, .. } | SubstituteError::Malformed { part }) = error;
        let span = self.part_span(span, part);
        match error {
            SubstituteError::Unset { name, .. } => self
                .diagnostics
                .report(codes::UNSET_VARIABLE, span, format!("the environment variable `{name}` is not set"))
                .hint(format!("set it, or give a default: ${{{name}:-default}}")),
            SubstituteError::Malformed { part } => self
                .diagnostics
                .report(codes::BAD_SUBSTITUTION, span, format!("`{part}` is not a substitution"))
                .hint("write ${NAME} or ${NAME:-default}; for a literal `$` write `$$`"),
        };
    }

    /// The place of `part` inside the value at `span`, when it stands there on one line as written.
    fn part_span(&self, span: Span, part: &str) -> Span {
        let slice = self.text.get(span.start as usize..span.end as usize).unwrap_or("");
        match slice.find(part) {
            Some(at) if !slice[..at].contains('\n') => Span {
                start: span.start + at as u32,
                end: span.start + (at + part.len()) as u32,
                line: span.line,
                column: span.column + slice[..at].chars().count() as u32,
            },
            _ => span,
        }
    }

    fn syntax_error<T>(&mut self, error: &ScanError, span: Span) -> Result<T, Stop> {
        let hint = syntax_hint(self.text, span, error.info());
        let item = self.diagnostics.report(codes::SYNTAX, span, format!("this is not YAML: {}", error.info()));
        if let Some(hint) = hint {
            item.hint(hint);
        }
        Err(Stop)
    }

    fn stop<T>(&mut self, code: &'static str, span: Span, message: impl Into<String>) -> Result<T, Stop> {
        self.diagnostics.report(code, span, message);
        Err(Stop)
    }
}

/// Adds the entries of `<<: *name` that the mapping does not have itself (YAML's merge key).
fn merge(entries: &mut Vec<Entry>, seen: &mut HashSet<String>, merged: Vec<Node>) {
    let mut sources = Vec::new();
    for node in merged {
        match node.value {
            Value::Sequence(items) => sources.extend(items),
            _ => sources.push(node),
        }
    }
    for node in sources {
        if let Value::Mapping(more) = node.value {
            entries.extend(more.into_iter().filter(|entry| seen.insert(entry.key.clone())));
        }
    }
}
