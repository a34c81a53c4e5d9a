//! How one configuration differs from another, for operators.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Keys whose change is not taken up by a reload, as far as they differ. An upgrade takes them up.
pub(super) fn needs_restart(old: &Value, new: &Value) -> Vec<&'static str> {
    const KEYS: [(&str, &str); 5] = [
        ("/server/workers", "server.workers"),
        ("/server/pin_workers", "server.pin_workers"),
        ("/server/ring_entries", "server.ring_entries"),
        ("/logging/level", "logging.level"),
        ("/logging/format", "logging.format"),
    ];
    KEYS.into_iter().filter(|(at, _)| old.pointer(at) != new.pointer(at)).map(|(_, name)| name).collect()
}

/// What is different between two effective configurations, by name.
pub(super) fn changes(old: &Value, new: &Value) -> Value {
    let named = |value: &Value, list: &str| -> BTreeMap<String, Value> {
        let items = value.get(list).and_then(Value::as_array).cloned().unwrap_or_default();
        let key = |item: &Value| match (&item["name"], &item["address"]) {
            (Value::String(name), _) | (_, Value::String(name)) => name.clone(),
            _ => item.to_string(),
        };
        items.into_iter().map(|item| (key(&item), item)).collect()
    };
    let mut all = serde_json::Map::new();
    for list in ["listeners", "services", "routes"] {
        let (old, new) = (named(old, list), named(new, list));
        let added: Vec<_> = new.keys().filter(|name| !old.contains_key(*name)).collect();
        let removed: Vec<_> = old.keys().filter(|name| !new.contains_key(*name)).collect();
        let differs = |name: &&String| old.get(*name).is_some_and(|was| was != &new[*name]);
        let changed: Vec<_> = new.keys().filter(differs).collect();
        all.insert(list.to_owned(), json!({ "added": added, "removed": removed, "changed": changed }));
    }
    Value::Object(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_name() {
        let old =
            json!({ "routes": [{ "name": "a", "path": "/a" }, { "name": "b" }], "listeners": [{ "address": "x" }] });
        let new =
            json!({ "routes": [{ "name": "a", "path": "/z" }, { "name": "c" }], "listeners": [{ "address": "x" }] });
        let told = changes(&old, &new);
        assert_eq!(told["routes"], json!({ "added": ["c"], "removed": ["b"], "changed": ["a"] }));
        assert_eq!(told["listeners"], json!({ "added": [], "removed": [], "changed": [] }));
    }
}
