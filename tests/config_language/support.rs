//! What the tests of this binary share.

use std::path::PathBuf;

use ringway::config::{Loaded, load_str};
use ringway::schema::types::{Int, Rate, Secret};
use ringway::schema::{Env, PolicyKind};
use ringway::{config_enum, config_struct};

config_enum! {
    /// A word.
    pub enum Colour {
        /// Like grass.
        Green = "green",
        /// Like blood.
        Red = "red" | "crimson",
    }
}

config_struct! {
    /// Stands for a real policy.
    pub struct Sample {
        /// Something that is not shown.
        token: Secret,
        /// A number.
        limit: Int<1, 10> = "5",
        /// A word.
        colour: Colour = "green",
    }
}

config_struct! {
    /// Has the keys of the real rate limiter that the template fills.
    pub struct RateLimit {
        /// The rate.
        rate: Rate,
        /// The bucket.
        burst: u32,
        /// Whose.
        key: String,
    }
}

pub const POLICIES: &[PolicyKind] =
    &[PolicyKind::of::<Sample>("sample", "A sample."), PolicyKind::of::<RateLimit>("rate_limit", "Limits.")];

/// A file below the repository's root.
pub fn path(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

pub fn read(relative: &str) -> String {
    std::fs::read_to_string(path(relative)).unwrap_or_else(|error| panic!("{relative}: {error}"))
}

pub fn load(text: &str, env: &dyn Env) -> Result<Loaded, String> {
    load_str("test.yaml", text, env, POLICIES).map_err(|diagnostics| diagnostics.render())
}

/// Compares with a file, or writes it when `RINGWAY_BLESS` is set.
pub fn golden(relative: &str, text: &str) {
    if std::env::var_os("RINGWAY_BLESS").is_some() {
        std::fs::write(path(relative), text).unwrap_or_else(|error| panic!("{relative}: {error}"));
        return;
    }
    let want = std::fs::read_to_string(path(relative)).unwrap_or_default();
    assert!(want == text, "{relative} differs; set RINGWAY_BLESS=1 to accept:\n{text}");
}
