//! How one configuration differs from another, for operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashSet;
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

/// What is different between two configurations, by name. `same_rest`: all but services and routes is known to be as
/// it was.
pub(super) fn changes(old: &Config, new: &Config, same_rest: bool) -> Value {
    let name = |listener: &Spanned<Listener>| listener.name();
    let listeners = match same_rest {
        true => (Vec::new(), Vec::new()),
        false => (old.listeners.iter().collect(), new.listeners.iter().collect()),
    };
    let needs_restart = if same_rest { Vec::new() } else { needs_restart(old, new) };
    json!({
        "listeners": of_lists(listeners, name, |old, new| old.dump() == new.dump()),
        "services": of_lists(differing(&old.services, &new.services), |one| one.name.as_str().to_owned(), is_same),
        "routes": of_lists(differing(&old.routes, &new.routes), |one| one.name().to_owned(), is_same),
        "needs_restart": needs_restart,
    })
}

/// The items of two lists that are not shared between them. What was not written anew is the same one.
fn differing<'c, T>(old: &'c [Spanned<Arc<T>>], new: &'c [Spanned<Arc<T>>]) -> (Vec<&'c T>, Vec<&'c T>) {
    let is_shared = |(old, new): &(&Spanned<Arc<T>>, &Spanned<Arc<T>>)| Arc::ptr_eq(&old.value, &new.value);
    // Most often all but a few stand where they stood.
    let first = old.iter().zip(new).take_while(is_shared).count();
    let last = old[first..].iter().rev().zip(new[first..].iter().rev()).take_while(is_shared).count();
    let (old, new) = (&old[first..old.len() - last], &new[first..new.len() - last]);
    let addresses =
        |list: &[Spanned<Arc<T>>]| list.iter().map(|item| Arc::as_ptr(&item.value)).collect::<AHashSet<_>>();
    let (of_old, of_new) = (addresses(old), addresses(new));
    let without = |list: &'c [Spanned<Arc<T>>], other: &AHashSet<*const T>| {
        list.iter().map(|item| &*item.value).filter(|item| !other.contains(&std::ptr::from_ref(*item))).collect()
    };
    (without(old, &of_new), without(new, &of_old))
}

/// What was written anew may say the same in other words.
fn is_same<T: Decode>(old: &T, new: &T) -> bool {
    old.dump() == new.dump()
}

fn of_lists<T>((old, new): (Vec<&T>, Vec<&T>), name: impl Fn(&T) -> String, is_same: impl Fn(&T, &T) -> bool) -> Value {
    let old: BTreeMap<_, _> = old.into_iter().map(|item| (name(item), item)).collect();
    let new: BTreeMap<_, _> = new.into_iter().map(|item| (name(item), item)).collect();
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
        let told = changes(&old, &new, false);
        assert_eq!(told["routes"], json!({ "added": ["c"], "removed": ["b"], "changed": ["a"] }));
        assert_eq!(told["listeners"], json!({ "added": [], "removed": [], "changed": [] }));
        assert_eq!(told["needs_restart"], json!(["server.workers"]));
    }

    #[test]
    fn what_is_shared_is_not_looked_at_wherever_it_stands() {
        let one = |value: u32| Spanned::new(Arc::new(value), crate::schema::Span::NOWHERE);
        let [a, b, c, d, e] = [1, 2, 3, 4, 5].map(one);
        let list = |all: &[&Spanned<Arc<u32>>]| all.iter().map(|one| (*one).clone()).collect::<Vec<_>>();
        let (old, new) = (list(&[&a, &b, &c, &d]), list(&[&a, &c, &e, &d]));
        assert_eq!(differing(&old, &new), (vec![&2], vec![&5]));
        assert_eq!(differing(&old, &old), (vec![], vec![]));
        assert_eq!(differing(&old, &list(&[&d, &c, &b, &a])), (vec![], vec![]), "only moved");
        assert_eq!(differing(&old, &[]), (vec![&1, &2, &3, &4], vec![]));
    }
}
