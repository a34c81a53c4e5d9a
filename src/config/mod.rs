//! What people write: the gateway's own schema, the `api_gateway` template, and loading with all checks.

mod check;
pub mod compile;
mod document;
mod fingerprint;
pub mod load;
pub mod model;
mod reach;
mod template;

pub use document::{reference_markdown, schema_json};
pub use fingerprint::Fingerprints;
pub use load::{
    Again, Loaded, Present, load_file, load_file_after, load_str, load_str_after, load_text_after, unreadable,
};
