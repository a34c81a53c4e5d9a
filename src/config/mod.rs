//! What people write: the gateway's own schema, the `api_gateway` template, and loading with all checks.

mod check;
mod document;
pub mod load;
pub mod model;
mod template;

pub use document::{reference_markdown, schema_json};
pub use load::{Loaded, load_file, load_str};
