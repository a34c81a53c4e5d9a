//! What was read before, for the next time that a file is read: of a list of thousands of mappings few change at once.
//!
//! A value is found again by a fingerprint of its part of the tree (texts, quotes, order; not places). Only what was
//! decoded without a finding and without reading another file is kept. Places inside of such a value are those of the
//! file that it came from, so whoever has something to report reads the file once more without what is kept.

use std::any::{Any, TypeId};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use ahash::{AHashMap, RandomState};

use super::Json;
use super::decode::{Cx, Decode};
use super::doc::TypeDoc;
use super::node::{Node, Value};

/// Decoded values by type and fingerprint.
#[derive(Clone, Debug, Default)]
pub struct Kept(AHashMap<(TypeId, u128), Arc<dyn Any + Send + Sync>>);

impl Kept {
    /// How many values.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn get<T: Any + Send + Sync>(&self, print: u128) -> Option<Arc<T>> {
        self.0.get(&(TypeId::of::<T>(), print))?.clone().downcast().ok()
    }

    fn insert<T: Any + Send + Sync>(&mut self, print: u128, value: Arc<T>) {
        self.0.insert((TypeId::of::<T>(), print), value);
    }
}

/// Two hashes with keys of this process: nobody finds two trees that have both in common.
static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);

fn fingerprint(node: &Node) -> u128 {
    let mut hashers = KEYS.each_ref().map(BuildHasher::build_hasher);
    hashers.iter_mut().for_each(|hasher| feed(node, hasher));
    let [one, other] = hashers.map(|hasher| hasher.finish());
    u128::from(one) << 64 | u128::from(other)
}

fn feed(node: &Node, hasher: &mut impl Hasher) {
    match &node.value {
        Value::Scalar(scalar) => {
            hasher.write_u8(0);
            (&scalar.text, scalar.plain, &scalar.written, scalar.broken).hash(hasher);
        }
        Value::Sequence(items) => {
            hasher.write_u8(1);
            hasher.write_usize(items.len());
            items.iter().for_each(|item| feed(item, hasher));
        }
        Value::Mapping(entries) => {
            hasher.write_u8(2);
            hasher.write_usize(entries.len());
            for entry in entries {
                entry.key.hash(hasher);
                feed(&entry.value, hasher);
            }
        }
    }
}

fn findings(cx: &Cx) -> usize {
    cx.diagnostics.errors_total() + cx.diagnostics.warnings_total()
}

/// A value that is shared with the file as it was read before, where its text is the same.
impl<T: Decode + Any + Send + Sync> Decode for Arc<T> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let print = fingerprint(node);
        if let Some(known) = cx.before.and_then(|before| before.get::<T>(print)) {
            cx.kept.insert(print, known.clone());
            return Some(known);
        }
        let before = (findings(cx), cx.files_read());
        let value = Arc::new(T::decode(node, cx)?);
        if before == (findings(cx), cx.files_read()) {
            cx.kept.insert(print, value.clone());
        }
        Some(value)
    }

    fn dump(&self) -> Json {
        (**self).dump()
    }

    fn describe() -> TypeDoc {
        T::describe()
    }

    fn absent() -> Option<Self> {
        T::absent().map(Arc::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::types::Secret;
    use crate::schema::{Diagnostics, FixedEnv, Source, parse};

    fn read(text: &str, before: Option<&Kept>) -> (Vec<Arc<String>>, Kept) {
        let env = FixedEnv::default();
        let mut diagnostics = Diagnostics::new(Arc::new(Source::new("t", text)));
        let node = parse(&env, &mut diagnostics).expect("a tree");
        let mut cx = Cx::new(diagnostics, &env, &[]);
        cx.before = before;
        let all = Vec::decode(&node, &mut cx).expect("values");
        (all, cx.kept)
    }

    #[test]
    fn what_is_written_alike_is_one_value_wherever_it_stands() {
        let (old, kept) = read("[one, two, three]", None);
        assert_eq!(kept.len(), 3);
        let (new, next) = read("- zero\n- two\n# a comment\n-   three\n", Some(&kept));
        assert_eq!(new.iter().map(|text| text.as_str()).collect::<Vec<_>>(), ["zero", "two", "three"]);
        assert!(Arc::ptr_eq(&old[1], &new[1]) && Arc::ptr_eq(&old[2], &new[2]));
        assert!(next.len() == 3 && !next.is_empty(), "what has gone is forgotten");
    }

    #[test]
    fn what_another_file_says_is_read_each_time() {
        let read = |secret: &str, before: Option<&Kept>| {
            let files = vec![("/run/t".to_owned(), secret.to_owned())];
            let env = FixedEnv { files, ..FixedEnv::default() };
            let mut diagnostics = Diagnostics::new(Arc::new(Source::new("t", "file:/run/t")));
            let node = parse(&env, &mut diagnostics).expect("a tree");
            let mut cx = Cx::new(diagnostics, &env, &[]);
            cx.before = before;
            (Arc::<Secret>::decode(&node, &mut cx).expect("a secret").expose().to_owned(), cx.kept)
        };
        let (one, kept) = read("one", None);
        assert!(one == "one" && kept.is_empty());
        assert_eq!(read("two", Some(&kept)).0, "two");
    }

    #[test]
    fn trees_that_differ_have_other_fingerprints() {
        let texts =
            ["[]", "{}", "''", "[[]]", "[a, b]", "[ab]", "[b, a]", "{a: b}", "{a: [b]}", "\"1\"", "1", "[1]", "{a: 1}"];
        let print = |text: &str| {
            let mut diagnostics = Diagnostics::new(Arc::new(Source::new("t", text)));
            fingerprint(&parse(&FixedEnv::default(), &mut diagnostics).expect("a tree"))
        };
        let all: std::collections::HashSet<u128> = texts.iter().map(|text| print(text)).collect();
        assert_eq!(all.len(), texts.len());
        assert_eq!(print("[1, {a: b}]"), print("- 1\n-\n    a:   b # x\n"));
    }
}
