//! How one configuration differs from another, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::config::model::{Config, Listener};
use crate::schema::{Decode, Spanned};

/// Keys whose change is not taken up by a reload, as far as they differ. An upgrade takes them up.
fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    const SERVER: [(&str, &str); 3] =
        [("workers", "server.workers"), ("pin_workers", "server.pin_workers"), ("ring_entries", "server.ring_entries")];
    const LOGGING: [(&str, &str); 2] = [("level", "logging.level"), ("format", "logging.format")];
    let differ = |old: Value, new: Value, keys: &[(&str, &'static str)]| -> Vec<&'static str> {
        keys.iter().filter(|(key, _)| old[*key] != new[*key]).map(|(_, name)| *name).collect()
    };
    let mut all = differ(old.server.dump(), new.server.dump(), &SERVER);
    all.extend(differ(old.logging.dump(), new.logging.dump(), &LOGGING));
    all
}

/// What is different between two configurations, by name.
pub(super) fn changes(old: &Config, new: &Config) -> Value {
    let name = |listener: &Spanned<Listener>| listener.name();
    json!({
        "listeners": of_list(&old.listeners, &new.listeners, name, |old, new| old.dump() == new.dump()),
        "services": of_list(&old.services, &new.services, |service| service.name.as_str().to_owned(), is_same),
        "routes": of_list(&old.routes, &new.routes, |route| route.name().to_owned(), is_same),
        "needs_restart": needs_restart(old, new),
    })
}

/// What was not written anew is the same one; what was may say the same in other words.
fn is_same<T: Decode + std::any::Any + Send + Sync>(old: &Spanned<Arc<T>>, new: &Spanned<Arc<T>>) -> bool {
    Arc::ptr_eq(&old.value, &new.value) || old.dump() == new.dump()
}

fn of_list<T>(old: &[T], new: &[T], name: impl Fn(&T) -> String, is_same: impl Fn(&T, &T) -> bool) -> Value {
    let old: BTreeMap<_, _> = old.iter().map(|item| (name(item), item)).collect();
    let new: BTreeMap<_, _> = new.iter().map(|item| (name(item), item)).collect();
    let added: Vec<_> = new.keys().filter(|name| !old.contains_key(*name)).collect();
    let removed: Vec<_> = old.keys().filter(|name| !new.contains_key(*name)).collect();
    let differs = |(name, item): &(&String, &&T)| old.get(*name).is_some_and(|was| !is_same(was, item));
    let changed: Vec<_> = new.iter().filter(differs).map(|(name, _)| name).collect();
    json!({ "added": added, "removed": removed, "changed": changed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::load_str;
    use crate::schema::FixedEnv;

    #[test]
    fn changes_are_told_by_name() {
        let read =
            |text: &str| load_str("t", text, &FixedEnv::default(), &[]).map_err(|d| d.render()).expect("good").config;
        let old = read(
            "listeners: [\"127.0.0.1:1\"]\nserver: {workers: 1}\n\
             routes:\n- {name: a, path: /a, respond: {body: x}}\n- {name: b, path: /b, respond: {body: x}}\n\
             - {name: d, path: /d, respond: {body: x}}\n",
        );
        let new = read(
            "listeners: [\"127.0.0.1:1\"]\nserver: {workers: 2}\n\
             routes:\n- {name: a, path: /z, respond: {body: x}}\n- {name: c, path: /c, respond: {body: x}}\n\
             - {name: d, path: /d, respond: {status: 200, body: x}}\n",
        );
        let told = changes(&old, &new);
        assert_eq!(told["routes"], json!({ "added": ["c"], "removed": ["b"], "changed": ["a"] }));
        assert_eq!(told["listeners"], json!({ "added": [], "removed": [], "changed": [] }));
        assert_eq!(told["needs_restart"], json!(["server.workers"]));
    }
}
