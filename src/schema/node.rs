//! The document as a tree in which every key and value knows its place.

use super::kept::Known;
use super::span::Span;

/// A value with its place.
#[derive(Clone, Debug)]
pub struct Node {
    /// What stands there.
    pub value: Value,
    /// Where it stands.
    pub span: Span,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub enum Value {
    /// A single value: text, number, `true`, nothing.
    Scalar(Scalar),
    /// A list.
    Sequence(Vec<Node>),
    /// Keys with values, in the order of the file; no key stands twice.
    Mapping(Vec<Entry>),
    /// An item of a list that stood in the file before, as it was decoded then.
    Known(Known),
}

/// A single value, after substitution.
#[derive(Clone, Debug, Default)]
pub struct Scalar {
    /// The text.
    pub text: String,
    /// Whether it stands without quotes, so that it may be a number, `true` or nothing.
    pub plain: bool,
    /// The text as written, when variables were substituted. Messages show this one: the other may be secret.
    pub written: Option<Box<str>>,
    /// Whether a substitution failed, which is reported: decoding says nothing more about it.
    pub broken: bool,
}

/// One key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

impl Node {
    /// A scalar without quotes, at `span`.
    pub fn plain(text: impl Into<String>, span: Span) -> Node {
        let scalar = Scalar { text: text.into(), plain: true, written: None, broken: false };
        Node { value: Value::Scalar(scalar), span }
    }

    /// Text in quotes, at `span`.
    pub fn text(text: impl Into<String>, span: Span) -> Node {
        let scalar = Scalar { text: text.into(), plain: false, written: None, broken: false };
        Node { value: Value::Scalar(scalar), span }
    }

    /// A list, at `span`.
    pub fn sequence(items: Vec<Node>, span: Span) -> Node {
        Node { value: Value::Sequence(items), span }
    }

    /// A mapping, at `span`; the caller gives no key twice.
    pub fn mapping(entries: Vec<Entry>, span: Span) -> Node {
        Node { value: Value::Mapping(entries), span }
    }

    /// Whether it is `null`, `~` or nothing at all.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar(scalar) => {
                scalar.plain && matches!(scalar.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// The scalar, unless it is something else or nothing.
    pub fn as_scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) if !self.is_null() => Some(scalar),
            _ => None,
        }
    }

    /// The items of a list.
    pub fn as_sequence(&self) -> Option<&[Node]> {
        match &self.value {
            Value::Sequence(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a mapping.
    pub fn as_mapping(&self) -> Option<&[Entry]> {
        match &self.value {
            Value::Mapping(entries) => Some(entries),
            _ => None,
        }
    }

    /// The entry called `key`, if this is a mapping that has it.
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.as_mapping()?.iter().find(|entry| entry.key == key)
    }

    /// The value called `key`, if this is a mapping that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar(scalar) if scalar.plain && scalar.text.parse::<f64>().is_ok() => "a number",
            Value::Scalar(scalar) if scalar.plain && matches!(scalar.text.as_str(), "true" | "false") => "a yes or no",
            Value::Scalar(_) => "text",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) | Value::Known(_) => "a mapping",
        }
    }
}

impl Scalar {
    /// The text that messages may show: as written, before substitution, and not too long.
    pub fn shown(&self) -> String {
        let text = self.written.as_deref().unwrap_or(&self.text);
        match text.char_indices().nth(SHOWN_CHARS_MAX) {
            Some((at, _)) => format!("{}…", &text[..at]),
            None => text.to_owned(),
        }
    }
}

/// How many characters of a value a message shows.
const SHOWN_CHARS_MAX: usize = 60;

impl Entry {
    /// `key: value`, both at the value's place.
    pub fn new(key: impl Into<String>, value: Node) -> Entry {
        Entry { key: key.into(), key_span: value.span, value }
    }
}
