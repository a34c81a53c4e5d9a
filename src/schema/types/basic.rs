//! Yes and no, numbers, text, free mappings.

use serde_json::Value as Json;

use crate::schema::codes;
use crate::schema::decode::{Cx, Decode};
use crate::schema::doc::{Shape, TypeDoc};
use crate::schema::node::Node;
use crate::schema::span::Spanned;

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Int<const MIN: u64, const MAX: u64>(u64);

impl<const MIN: u64, const MAX: u64> Int<MIN, MAX> {
    /// `value`, if it is in the range.
    pub fn new(value: u64) -> Option<Self> {
        (MIN..=MAX).contains(&value).then_some(Int(value))
    }

    /// The number.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl<const MIN: u64, const MAX: u64> Decode for Int<MIN, MAX> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        decode_integer(node, MIN, MAX, cx).map(Int)
    }

    fn dump(&self) -> Json {
        Json::from(self.0)
    }

    fn describe() -> TypeDoc {
        integer_doc(MIN, MAX)
    }
}

macro_rules! integers {
    ($($ty:ty),+) => {$(
        impl Decode for $ty {
            fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
                decode_integer(node, 0, <$ty>::MAX as u64, cx).and_then(|value| <$ty>::try_from(value).ok())
            }

            fn dump(&self) -> Json {
                Json::from(*self)
            }

            fn describe() -> TypeDoc {
                integer_doc(0, <$ty>::MAX as u64)
            }
        }
    )+};
}

integers!(u16, u32, u64, usize);

fn decode_integer(node: &Node, min: u64, max: u64, cx: &mut Cx) -> Option<u64> {
    let text = cx.bare(node, "a whole number")?;
    let digits = text.strip_prefix('+').unwrap_or(text);
    let digits_only = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let negative = digits.strip_prefix('-').is_some_and(|rest| rest.parse::<u64>().is_ok());
    if !digits_only && !negative {
        let item = cx.bad_value(node, "a whole number");
        if digits.contains(['_', ',', '\'']) {
            item.hint("write digits only");
        }
        return None;
    }
    match digits.parse::<u64>() {
        Ok(value) if (min..=max).contains(&value) => Some(value),
        _ => {
            let range = range_words(min, max);
            let shown = node.as_scalar().map(|scalar| scalar.shown()).unwrap_or_default();
            cx.report(codes::OUT_OF_RANGE, node.span, format!("`{shown}` is out of range: allowed is {range}"));
            None
        }
    }
}

fn range_words(min: u64, max: u64) -> String {
    match max {
        u64::MAX => format!("{min} or more"),
        max => format!("{min} to {max}"),
    }
}

fn integer_doc(min: u64, max: u64) -> TypeDoc {
    TypeDoc { word: "whole number".to_owned(), range: range_words(min, max), shape: Shape::Integer { min, max } }
}

impl Decode for bool {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        match cx.bare(node, "true or false")? {
            "true" => Some(true),
            "false" => Some(false),
            other => {
                let hint = match other.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "true" | "1" | "enabled" => Some("write true"),
                    "no" | "off" | "n" | "false" | "0" | "disabled" => Some("write false"),
                    _ => None,
                };
                let item = cx.bad_value(node, "true or false");
                if let Some(hint) = hint {
                    item.hint(hint);
                }
                None
            }
        }
    }

    fn dump(&self) -> Json {
        Json::from(*self)
    }

    fn describe() -> TypeDoc {
        TypeDoc { word: "true or false".to_owned(), range: String::new(), shape: Shape::Bool }
    }
}

impl Decode for f64 {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let text = cx.bare(node, "a number")?;
        let starts_well = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '.');
        match text.parse::<f64>() {
            Ok(value) if value.is_finite() && starts_well => Some(value),
            _ => {
                cx.bad_value(node, "a number");
                None
            }
        }
    }

    fn dump(&self) -> Json {
        Json::from(*self)
    }

    fn describe() -> TypeDoc {
        TypeDoc { word: "number".to_owned(), range: String::new(), shape: Shape::Number }
    }
}

impl Decode for String {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        cx.scalar(node, "text").map(|scalar| scalar.text.clone())
    }

    fn dump(&self) -> Json {
        Json::from(self.as_str())
    }

    fn describe() -> TypeDoc {
        TypeDoc::text("text", "", None)
    }
}

/// A part of the file that is kept as it is: settings of what this build does not contain.
///
/// It may hold secrets, so it is not dumped.
#[derive(Clone, Debug)]
pub struct Raw(pub Node);

impl Decode for Raw {
    fn decode(node: &Node, _: &mut Cx) -> Option<Self> {
        Some(Raw(node.clone()))
    }

    fn dump(&self) -> Json {
        Json::Null
    }

    fn describe() -> TypeDoc {
        TypeDoc { word: "anything".to_owned(), range: String::new(), shape: Shape::Any(Vec::new()) }
    }
}

/// Most entries of a [`Map`].
pub const MAP_ENTRIES_MAX: usize = 1_000;

/// A mapping with free keys, in the order of the file; no two keys are equal.
#[derive(Clone, Debug)]
pub struct Map<K, V>(pub Vec<(Spanned<K>, V)>);

impl<K, V> Map<K, V> {
    /// Keys and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&Spanned<K>, &V)> {
        self.0.iter().map(|(key, value)| (key, value))
    }

    /// Whether it is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many entries it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl<K: Decode + PartialEq, V: Decode> Decode for Map<K, V> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let Some(entries) = node.as_mapping() else {
            if node.as_scalar().is_some_and(|scalar| scalar.broken) {
                return None;
            }
            cx.wrong_type(node, "a mapping, as `name: value`");
            return None;
        };
        if entries.len() > MAP_ENTRIES_MAX {
            let message = format!("at most {MAP_ENTRIES_MAX} entries are allowed here");
            cx.report(codes::OUT_OF_RANGE, node.span, message);
            return None;
        }
        let mut out: Vec<(Spanned<K>, V)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let key = K::decode(&Node::text(entry.key.as_str(), entry.key_span), cx);
            let value = V::decode(&entry.value, cx);
            let (Some(key), Some(value)) = (key, value) else {
                continue;
            };
            // Names that differ in the file may be equal once read: header names ignore case.
            if out.iter().any(|(known, _)| known.value == key) {
                cx.report(codes::DUPLICATE_KEY, entry.key_span, format!("`{}` stands here twice", entry.key));
                continue;
            }
            out.push((Spanned::new(key, entry.key_span), value));
        }
        Some(Map(out))
    }

    fn dump(&self) -> Json {
        let entries = self.0.iter().map(|(key, value)| {
            let name = match key.dump() {
                Json::String(name) => name,
                other => other.to_string(),
            };
            (name, value.dump())
        });
        Json::Object(entries.collect())
    }

    fn describe() -> TypeDoc {
        let (key, value) = (K::describe(), V::describe());
        let word = format!("mapping of {} to {}", key.word, value.word);
        TypeDoc { word, range: value.range.clone(), shape: Shape::Map(Box::new(value)) }
    }
}
