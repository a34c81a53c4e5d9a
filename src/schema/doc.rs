//! What a type tells about itself: the one source of the JSON Schema and of the reference pages.

/// A type of the configuration.
#[derive(Clone, Debug)]
pub struct TypeDoc {
    /// The word for it in the reference: `duration`, `list of routes`.
    pub word: String,
    /// The allowed range or form in words; empty when the word says it all.
    pub range: String,
    /// Its structure.
    pub shape: Shape,
}

/// The structure of a type.
#[derive(Clone, Debug)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Integer {
        /// Smallest value.
        min: u64,
        /// Largest value.
        max: u64,
    },
    /// A number that may have a fraction.
    Number,
    /// Text; with a regular expression for editors when there is a simple one.
    Text {
        /// An ECMA-262 pattern, looser than or equal to what the decoder accepts.
        pattern: Option<&'static str>,
    },
    /// One of several words, each with its meaning.
    Words(&'static [WordDoc]),
    /// A list.
    List(Box<TypeDoc>),
    /// A mapping with free keys.
    Map(Box<TypeDoc>),
    /// A mapping with known keys.
    Struct(StructDoc),
    /// Any of several.
    Any(Vec<TypeDoc>),
    /// One policy: a mapping with one key, the policy's name. The registry knows the rest.
    Policy,
}

/// One word of an enum.
#[derive(Clone, Copy, Debug)]
pub struct WordDoc {
    /// The word.
    pub word: &'static str,
    /// Other spellings that are accepted.
    pub aliases: &'static [&'static str],
    /// Its meaning, line by line.
    pub doc: &'static [&'static str],
}

/// A mapping with known keys.
#[derive(Clone, Debug)]
pub struct StructDoc {
    /// Unique name: the path of the Rust type.
    pub id: String,
    /// Its meaning, line by line.
    pub doc: &'static [&'static str],
    /// The key that a bare value stands for, if there is one.
    pub shorthand: Option<&'static str>,
    /// Its keys, in the order of the declaration.
    pub fields: Vec<FieldDoc>,
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub struct FieldDoc {
    /// What is known without the type.
    pub spec: &'static FieldSpec,
    /// Whether the key must be given.
    pub required: bool,
    /// The type of its value.
    pub ty: TypeDoc,
}

/// The declaration of one key.
#[derive(Clone, Copy, Debug)]
pub struct FieldSpec {
    /// The key.
    pub key: &'static str,
    /// Other spellings that are accepted.
    pub aliases: &'static [&'static str],
    /// The default, as one would write it.
    pub default: Option<&'static str>,
    /// Its meaning, line by line.
    pub doc: &'static [&'static str],
}

impl FieldSpec {
    /// The key as written in files: a raw identifier loses its `r#`.
    pub const fn key_of(name: &'static str) -> &'static str {
        match name.as_bytes() {
            [b'r', b'#', ..] => name.split_at(2).1,
            _ => name,
        }
    }
}

impl TypeDoc {
    /// A text type called `word`, with its form in words and a pattern for editors.
    pub fn text(word: &str, range: &str, pattern: Option<&'static str>) -> TypeDoc {
        TypeDoc { word: word.to_owned(), range: range.to_owned(), shape: Shape::Text { pattern } }
    }
}

/// Doc comment lines as one paragraph.
pub fn prose(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ").trim().to_owned()
}
