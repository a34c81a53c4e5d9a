//! The configuration as people are shown it.

use serde_json::Value;

/// A configuration with every default written out and secrets masked (C60), as JSON text: the tree of a route takes
/// nine times the room, and nobody looks at it but an operator now and then.
pub struct Effective(Box<str>);

impl Effective {
    /// The text of this tree.
    pub fn of(tree: &Value) -> Self {
        Self(tree.to_string().into())
    }

    /// JSON without spaces.
    pub fn text(&self) -> &str {
        &self.0
    }

    /// The tree.
    pub fn tree(&self) -> Value {
        // What was written here is read back.
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tree_comes_back_in_its_order() {
        let tree = json!({ "routes": [{ "name": "b", "a": null, "weight": 0.5, "max": u64::MAX }], "admin": "\u{1}é" });
        let effective = Effective::of(&tree);
        assert_eq!(effective.tree(), tree);
        assert_eq!(effective.tree().to_string(), effective.text());
    }
}
