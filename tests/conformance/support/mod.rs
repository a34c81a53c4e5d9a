//! What the suites share: cases as data, the edge under test (ringway or another proxy), the recording origin.

#[path = "../../e2e/support/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the end-to-end tests, which use more of it")]
pub mod e2e;

pub mod case;
pub mod edge;
pub mod recorder;

pub use case::{Case, Want, check};
pub use edge::{Edge, Kind};
pub use recorder::Recorder;
