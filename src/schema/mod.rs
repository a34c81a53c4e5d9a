//! The configuration language: a tree with places, diagnostics, and types that know how to decode, dump and
//! document themselves. [`crate::config`] declares the gateway's own schema with it, each policy its own part.
//!
//! A policy declares its settings like this; decoder, defaults, JSON Schema and reference page come from it:
//!
//! ```
//! use ringway::schema::types::{Duration, Int};
//! use ringway::{config_enum, config_struct};
//!
//! config_enum! {
//!     /// Which end is closed first.
//!     pub enum Side {
//!         /// The client's.
//!         Client = "client" | "downstream",
//!         /// The server's.
//!         Server = "server",
//!     }
//! }
//!
//! config_struct! {
//!     /// Says no to slow clients.
//!     pub struct Config {
//!         /// How long to wait. (No default and no Option: the key is required.)
//!         wait: Duration,
//!         /// How often to try.
//!         tries | attempts: Int<1, 10> = "3",
//!         /// Which end is closed first.
//!         side: Side = "client",
//!         /// Paths that are left alone.
//!         except: Vec<String> = "[]",
//!         /// What the answer says; nothing when left out.
//!         message: Option<String>,
//!     }
//! }
//!
//! let config: Config = ringway::schema::decode_str("{wait: 5s, attempts: 4}").unwrap();
//! assert_eq!((config.wait.as_secs(), config.tries.get(), config.side), (5, 4, Side::Client));
//! assert!(ringway::schema::decode_str::<Config>("{wiat: 5s}").unwrap_err().contains("did you mean `wait`?"));
//! ```
//!
//! The registry then passes `PolicyKind::of::<x::Config>("x", "summary")` in its table;
//! `Policy::config_as::<x::Config>` gives the settings back. Located values: use `Spanned<T>` as the type of a
//! field whose place later checks need. Other types: [`types`]. A shorthand (`#[shorthand(key)]`) and a check
//! over several keys (`#[check(function)]`) are explained at [`config_struct!`](crate::config_struct).

pub mod codes;
mod decode;
mod diagnostics;
mod doc;
mod env;
mod hint;
mod json;
pub mod json_schema;
mod kept;
mod macros;
mod node;
mod parse;
mod pieces;
mod places;
mod policy;
pub mod reference;
mod span;
mod split;
pub mod suggest;
pub mod types;

pub use decode::{Cx, Decode, Fields, decode_str, default_node};
pub use diagnostics::{DIAGNOSTICS_MAX, Diagnostic, Diagnostics, Severity};
pub use doc::{FieldDoc, FieldSpec, Shape, StructDoc, TypeDoc, WordDoc, prose};
pub use env::{Env, FixedEnv, ProcessEnv};
pub use kept::{Kept, Known};
pub use node::{Entry, Node, Scalar, Value};
pub use parse::{DEPTH_MAX, NODES_MAX, Read, SOURCE_BYTES_MAX, TEXT_BYTES_MAX, parse, parse_json, read};
pub use pieces::{Pieces, parse_after};
pub use policy::{NOT_BUILT, Policy, PolicyConfig, PolicyKind};
pub use span::{Source, Span, Spanned};

/// A JSON value, as dumps use it.
pub type Json = serde_json::Value;
/// A JSON object that keeps the order of its keys.
pub type JsonMap = serde_json::Map<String, Json>;

/// For [`config_struct!`](crate::config_struct).
#[doc(hidden)]
pub fn describe_struct(
    id: &str,
    doc: &'static [&'static str],
    shorthand: Option<&'static str>,
    fields: Vec<FieldDoc>,
) -> TypeDoc {
    let id = id.strip_prefix("ringway::").unwrap_or(id).to_owned();
    let shape = Shape::Struct(StructDoc { id, doc, shorthand, fields });
    TypeDoc { word: "mapping".to_owned(), range: String::new(), shape }
}

/// For [`config_struct!`](crate::config_struct).
#[doc(hidden)]
pub fn describe_field<T: Decode>(spec: &'static FieldSpec) -> FieldDoc {
    FieldDoc { spec, required: spec.default.is_none() && T::absent().is_none(), ty: T::describe() }
}

/// For [`config_enum!`](crate::config_enum).
#[doc(hidden)]
pub fn describe_words(words: &'static [WordDoc]) -> TypeDoc {
    TypeDoc { word: "word".to_owned(), range: String::new(), shape: Shape::Words(words) }
}

/// For [`config_enum!`](crate::config_enum): the index of the word at `node`.
#[doc(hidden)]
pub fn decode_word(words: &'static [WordDoc], node: &Node, cx: &mut Cx) -> Option<usize> {
    let all = words.iter().map(|doc| doc.word).collect::<Vec<_>>();
    let scalar = cx.scalar(node, &format!("one of {}", all.join(", ")))?;
    let text = scalar.text.as_str();
    let found = words.iter().position(|doc| doc.word == text || doc.aliases.contains(&text));
    if found.is_none() {
        let message = format!("`{}` is not one of {}", scalar.shown(), all.join(", "));
        let item = cx.report(codes::UNKNOWN_WORD, node.span, message);
        if let Some(near) = suggest::nearest(text, all) {
            item.hint(format!("did you mean `{near}`?"));
        }
    }
    found
}
