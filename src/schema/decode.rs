//! From tree to typed values, with every mistake reported.

use serde_json::Value as Json;

use super::codes;
use super::diagnostics::{Diagnostic, Diagnostics};
use super::doc::{FieldSpec, Shape, TypeDoc};
use super::env::Env;
use super::kept::Kept;
use super::node::{Entry, Node, Scalar};
use super::policy::{NOT_BUILT, PolicyKind};
use super::span::{Span, Spanned};
use super::suggest;

/// A type that can stand in a configuration file.
pub trait Decode: Sized {
    /// The value at `node`, or `None` after at least one error was reported.
    ///
    /// A value may come with errors too: parts that could not be read then have their defaults, or are left out of
    /// lists, so that later checks find more of the mistakes. Whoever uses the value asks
    /// [`Diagnostics::has_errors`] first.
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self>;

    /// The value as JSON, every default written out, secrets masked (C60).
    fn dump(&self) -> Json;

    /// What the schema and the reference say about the type.
    fn describe() -> TypeDoc;

    /// The value of a key that is not given and has no default; `None` makes the key required.
    fn absent() -> Option<Self> {
        None
    }
}

/// What decoding needs besides the tree.
pub struct Cx<'a> {
    /// Everything found so far.
    pub diagnostics: Diagnostics,
    /// Where secret files are read.
    pub env: &'a dyn Env,
    /// The policies of this build.
    pub policies: &'a [PolicyKind],
    /// What was decoded before, if it may be used again.
    pub before: Option<&'a Kept>,
    /// What may be used again.
    pub kept: Kept,
    files_read: u32,
}

impl<'a> Cx<'a> {
    /// A context that begins with `diagnostics`.
    pub fn new(diagnostics: Diagnostics, env: &'a dyn Env, policies: &'a [PolicyKind]) -> Cx<'a> {
        Cx { diagnostics, env, policies, before: None, kept: Kept::default(), files_read: 0 }
    }

    /// Reads a file that a value names; see [`Env::read_file`].
    ///
    /// # Errors
    /// Why it cannot be read.
    pub fn read_file(&mut self, path: &str, bytes_max: usize) -> Result<String, String> {
        self.files_read += 1;
        self.env.read_file(path, bytes_max)
    }

    /// How many files were read for values so far.
    pub fn files_read(&self) -> u32 {
        self.files_read
    }

    /// Adds a finding; see [`Diagnostics::report`].
    pub fn report(&mut self, code: &'static str, span: Span, message: impl Into<String>) -> &mut Diagnostic {
        self.diagnostics.report(code, span, message)
    }

    /// Reports that `node` should have been `wanted`.
    pub fn wrong_type(&mut self, node: &Node, wanted: &str) -> &mut Diagnostic {
        if node.is_null() {
            let message = format!("expected {wanted}, but there is no value");
            return self.report(codes::WRONG_TYPE, node.span, message).hint("leave the key out to use its default");
        }
        self.report(codes::WRONG_TYPE, node.span, format!("expected {wanted}, found {}", node.kind()))
    }

    /// Reports that the scalar at `node` cannot be read as `wanted`.
    pub fn bad_value(&mut self, node: &Node, wanted: &str) -> &mut Diagnostic {
        let shown = node.as_scalar().map(Scalar::shown).unwrap_or_default();
        self.report(codes::BAD_VALUE, node.span, format!("`{shown}` is not {wanted}"))
    }

    /// The text of the scalar at `node`, else an error that names what was wanted.
    pub fn scalar<'n>(&mut self, node: &'n Node, wanted: &str) -> Option<&'n Scalar> {
        match node.as_scalar() {
            Some(scalar) if scalar.broken => None,
            Some(scalar) => Some(scalar),
            None => {
                self.wrong_type(node, wanted);
                None
            }
        }
    }

    /// The scalar at `node` as a number or yes/no: without quotes, unless a variable gave it.
    pub fn bare<'n>(&mut self, node: &'n Node, wanted: &str) -> Option<&'n str> {
        let scalar = self.scalar(node, wanted)?;
        if scalar.plain || scalar.written.is_some() {
            return Some(&scalar.text);
        }
        self.report(codes::WRONG_TYPE, node.span, format!("expected {wanted}, found text in quotes"))
            .hint("take the quotes away");
        None
    }
}

/// Decodes one mapping; made by [`config_struct!`](crate::config_struct).
pub struct Fields<'n> {
    node: &'n Node,
    entries: &'n [Entry],
    shorthand: Option<(&'static str, &'n Node)>,
    specs: &'static [FieldSpec],
}

impl<'n> Fields<'n> {
    /// Begins on `node`, which must be a mapping, or a bare value when there is a `shorthand` key for it.
    /// Unknown keys are reported here.
    pub fn begin(
        node: &'n Node,
        specs: &'static [FieldSpec],
        shorthand: Option<&'static str>,
        cx: &mut Cx,
    ) -> Option<Fields<'n>> {
        if let Some(entries) = node.as_mapping() {
            let fields = Fields { node, entries, shorthand: None, specs };
            fields.refuse_unknown(cx);
            return Some(fields);
        }
        match shorthand {
            Some(key) if node.as_scalar().is_some() => {
                Some(Fields { node, entries: &[], shorthand: Some((key, node)), specs })
            }
            _ => {
                let keys: Vec<&str> = specs.iter().take(KEYS_NAMED_MAX).map(|spec| spec.key).collect();
                cx.wrong_type(node, &format!("a mapping with keys such as {}", keys.join(", ")));
                None
            }
        }
    }

    fn refuse_unknown(&self, cx: &mut Cx) {
        let specs = self.specs;
        let is_known = |key: &str| specs.iter().any(|spec| spec.key == key || spec.aliases.contains(&key));
        let mut unknown = self.entries.iter().filter(|entry| !is_known(&entry.key)).peekable();
        if unknown.peek().is_none() {
            return;
        }
        // A key that already stands here cannot be what was meant.
        let absent = |key: &&str| self.node.entry(key).is_none();
        let free: Vec<&str> = specs.iter().map(|spec| spec.key).filter(absent).collect();
        for entry in unknown {
            if NOT_BUILT.contains(&entry.key.as_str()) {
                let message = format!("`{}` is not in this build yet", entry.key);
                cx.report(codes::NOT_BUILT, entry.key_span, message);
                continue;
            }
            if cx.diagnostics.is_full() {
                cx.report(codes::UNKNOWN_KEY, entry.key_span, "");
                continue;
            }
            let all = || specs.iter().map(|spec| spec.key);
            let key = entry.key.as_str();
            let item = cx.report(codes::UNKNOWN_KEY, entry.key_span, format!("unknown key `{key}`"));
            match suggest::nearest(key, free.iter().copied()) {
                None if suggest::nearest(key, all()).is_some() => item.suggest(key, all()),
                _ => item.suggest(key, free.iter().copied()),
            };
        }
    }

    /// The value of one key: as written, else its default, else an error.
    pub fn take<T: Decode>(&self, spec: &'static FieldSpec, cx: &mut Cx) -> Option<T> {
        if let Some((key, node)) = self.shorthand
            && key == spec.key
        {
            return T::decode(node, cx);
        }
        let mut given =
            self.entries.iter().filter(|entry| entry.key == spec.key || spec.aliases.contains(&entry.key.as_str()));
        if let Some(entry) = given.next() {
            if let Some(twin) = given.next() {
                let message = format!("`{}` and `{}` mean the same; keep one of them", entry.key, twin.key);
                cx.report(codes::DUPLICATE_KEY, twin.key_span, message);
            }
            let decoded = decode_entry(entry, spec, cx);
            // The file is refused; a default lets the rest of it be checked all the same.
            return decoded.or_else(|| default_of(spec, cx));
        }
        default_of(spec, cx).or_else(|| self.missing(spec, cx))
    }

    fn missing<T>(&self, spec: &FieldSpec, cx: &mut Cx) -> Option<T> {
        // The place is the first key of the mapping: the whole of it would be marked otherwise.
        let span = self.entries.first().map_or(self.node.span, |entry| entry.key_span);
        let similar = suggest::nearest(
            spec.key,
            self.entries
                .iter()
                .map(|entry| entry.key.as_str())
                .filter(|key| !self.specs.iter().any(|known| known.key == *key)),
        );
        // A misspelt key is reported already, with this key as the suggestion.
        if similar.is_none() {
            cx.report(codes::MISSING_KEY, span, format!("the key `{}` is missing here", spec.key))
                .hint(super::doc::prose(spec.doc));
        }
        None
    }
}

fn default_of<T: Decode>(spec: &FieldSpec, cx: &mut Cx) -> Option<T> {
    match spec.default {
        Some(text) => T::decode(&default_node(text), cx),
        None => T::absent(),
    }
}

/// How many keys the message for a wrong type names.
const KEYS_NAMED_MAX: usize = 3;

fn decode_entry<T: Decode>(entry: &Entry, spec: &FieldSpec, cx: &mut Cx) -> Option<T> {
    if !entry.value.is_null() || T::absent().is_some() {
        return T::decode(&entry.value, cx);
    }
    let span = entry.key_span;
    let item = cx.report(codes::WRONG_TYPE, span, format!("the key `{}` has no value", entry.key));
    if let Some(default) = spec.default {
        item.hint(format!("leave the key out to use its default, {default}"));
    }
    None
}

/// The tree of a default. Scalars and empty collections, nearly all of them, need no parser.
pub fn default_node(text: &str) -> Node {
    match text {
        "[]" => Node::sequence(Vec::new(), Span::NOWHERE),
        "{}" => Node::mapping(Vec::new(), Span::NOWHERE),
        _ if text.starts_with(['[', '{', '"', '\'']) => {
            let source = std::sync::Arc::new(super::span::Source::new("default", text));
            let mut diagnostics = Diagnostics::new(source);
            let node = super::parse::parse(&super::env::FixedEnv::default(), &mut diagnostics);
            node.map_or_else(|| Node::plain(text, Span::NOWHERE), without_places)
        }
        _ => Node::plain(text, Span::NOWHERE),
    }
}

/// A default stands in no file.
fn without_places(mut node: Node) -> Node {
    use super::node::Value;
    node.span = Span::NOWHERE;
    match &mut node.value {
        Value::Scalar(_) | Value::Known(_) => {}
        Value::Sequence(items) => {
            *items = std::mem::take(items).into_iter().map(without_places).collect();
        }
        Value::Mapping(entries) => {
            let taken = std::mem::take(entries).into_iter();
            *entries = taken.map(|entry| Entry::new(entry.key, without_places(entry.value))).collect();
        }
    }
    node
}

/// Decodes `text` as a `T` with no environment, no policies and no secret files: for tests and examples.
///
/// # Errors
/// The rendered diagnostics.
pub fn decode_str<T: Decode>(text: &str) -> Result<T, String> {
    let source = std::sync::Arc::new(super::span::Source::new("text", text));
    let env = super::env::FixedEnv::default();
    let mut diagnostics = Diagnostics::new(source);
    let node = super::parse::parse(&env, &mut diagnostics);
    let mut cx = Cx::new(diagnostics, &env, &[]);
    let value = node.and_then(|node| T::decode(&node, &mut cx));
    match value {
        Some(value) if !cx.diagnostics.has_errors() => Ok(value),
        _ => Err(cx.diagnostics.render()),
    }
}

impl<T: Decode> Decode for Spanned<T> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        T::decode(node, cx).map(|value| Spanned::new(value, node.span))
    }

    fn dump(&self) -> Json {
        self.value.dump()
    }

    fn describe() -> TypeDoc {
        T::describe()
    }

    fn absent() -> Option<Self> {
        T::absent().map(|value| Spanned::new(value, Span::NOWHERE))
    }
}

impl<T: Decode> Decode for Option<T> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        if node.is_null() { Some(None) } else { T::decode(node, cx).map(Some) }
    }

    fn dump(&self) -> Json {
        self.as_ref().map_or(Json::Null, T::dump)
    }

    fn describe() -> TypeDoc {
        T::describe()
    }

    fn absent() -> Option<Self> {
        Some(None)
    }
}

impl<T: Decode> Decode for Box<T> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        T::decode(node, cx).map(Box::new)
    }

    fn dump(&self) -> Json {
        (**self).dump()
    }

    fn describe() -> TypeDoc {
        T::describe()
    }

    fn absent() -> Option<Self> {
        T::absent().map(Box::new)
    }
}

/// A bare value as the list that was probably meant: `GET|POST` as `[GET, POST]`.
fn as_list(scalar: &Scalar) -> String {
    let shown = scalar.shown();
    let parts: Vec<&str> = shown.split(['|', ',', ' ']).filter(|part| !part.is_empty()).collect();
    if scalar.plain { format!("[{}]", parts.join(", ")) } else { format!("[\"{shown}\"]") }
}

impl<T: Decode> Decode for Vec<T> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let Some(items) = node.as_sequence() else {
            if node.as_scalar().is_some_and(|scalar| scalar.broken) {
                return None;
            }
            let item = cx.wrong_type(node, "a list");
            if let Some(scalar) = node.as_scalar() {
                item.hint(format!("write it as a list: {}", as_list(scalar)));
            } else if node.as_mapping().is_some() {
                item.hint("begin each item with `- `");
            }
            return None;
        };
        // Every item is decoded, so that every mistake is reported.
        Some(items.iter().filter_map(|item| T::decode(item, cx)).collect())
    }

    fn dump(&self) -> Json {
        Json::Array(self.iter().map(T::dump).collect())
    }

    fn describe() -> TypeDoc {
        let item = T::describe();
        TypeDoc { word: format!("list of {}s", item.word), range: item.range.clone(), shape: Shape::List(item.into()) }
    }
}
