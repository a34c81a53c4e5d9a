//! What was read before, for the next time that a file is read: of a list of thousands of mappings few change at once.
//!
//! A value is found again by its text, where the file is read in pieces ([`super::pieces`]); where it is not, by a
//! print of its part of the tree (texts, quotes, order; not places). Only what was decoded without a finding and
//! without reading another file is kept. Places inside of such a value are those of the file that it came from, so
//! whoever has something to report reads the file once more without what is kept.

use std::any::{Any, TypeId};
use std::hash::{BuildHasher, Hash, Hasher};
use std::sync::{Arc, LazyLock};

use ahash::{AHashMap, AHashSet, RandomState};

use super::Json;
use super::decode::{Cx, Decode};
use super::doc::TypeDoc;
use super::node::{Node, Value};
use super::pieces::{ItemFacts, Pieces};
use super::span::Source;
use super::split::{LISTS, Piece, Section, split_after};

/// Two hashes: nobody finds two texts that have both in common.
pub(super) type Print = u128;
type Shared = Arc<dyn Any + Send + Sync>;

/// Decoded values.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// By type and print of the tree.
    values: AHashMap<(TypeId, Print), Shared>,
    /// The file.
    source: Arc<Source>,
    /// Its parts, if it was read in pieces, or could have been.
    sections: Vec<Section>,
    /// The items of the long lists as they were decoded, in the order of the file.
    lists: [Vec<Known>; LISTS.len()],
    /// All of it hangs on its text alone.
    is_alone: bool,
    /// Of all but the lists.
    rest: Option<Print>,
    /// Values that were completed after decoding, by address, with what they are complete.
    complete: AHashMap<usize, (Shared, Shared)>,
}

/// An item of a list as it was decoded before.
#[derive(Clone, Debug)]
pub struct Known {
    /// Values in it.
    pub(super) nodes: u32,
    value: Shared,
    /// Where its text is the same, so is its value.
    may_be_used: bool,
}

impl Kept {
    /// How many values.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Whether all but the services and routes of two files is written alike, and says the same.
    pub fn has_same_rest(&self, other: &Self) -> bool {
        self.rest.is_some() && self.rest == other.rest
    }

    fn get<T: Any + Send + Sync>(&self, print: Print) -> Option<Arc<T>> {
        self.values.get(&(TypeId::of::<T>(), print))?.clone().downcast().ok()
    }

    fn insert<T: Any + Send + Sync>(&mut self, print: Print, value: Arc<T>) {
        self.values.insert((TypeId::of::<T>(), print), value);
    }

    /// The items of the long lists.
    pub fn items(&self) -> impl Iterator<Item = &Arc<dyn Any + Send + Sync>> {
        self.lists.iter().flatten().map(|known| &known.value)
    }

    /// The parts of another text.
    pub(super) fn split(&self, text: &str) -> Option<Vec<Section>> {
        split_after((&self.source.text, &self.sections), text)
    }

    /// How many items of a list are known.
    pub(super) fn count(&self, list: usize) -> u32 {
        self.lists[list].len() as u32
    }

    /// For each of the pieces of another text the item that had the same text, with its place: in the order of these.
    /// Most often few have changed, somewhere between others that have not.
    pub(super) fn items_of<'k>(&'k self, list: usize, text: &str, pieces: &[Piece]) -> Vec<Option<(u32, &'k Known)>> {
        let (old, values) = (self.pieces(list), &self.lists[list]);
        let mut known = vec![None; pieces.len()];
        let is_same = |at: usize, piece: &Piece| {
            values[at].may_be_used && old[at].of(&self.source.text).as_bytes() == piece.of(text).as_bytes()
        };
        let both = old.len().min(pieces.len());
        let first = (0..both).take_while(|at| is_same(*at, &pieces[*at])).count();
        let shift = |back: usize| (old.len() - 1 - back, pieces.len() - 1 - back);
        let last = (0..both - first).take_while(|back| is_same(shift(*back).0, &pieces[shift(*back).1])).count();
        (0..first).for_each(|at| known[at] = Some((at as u32, &values[at])));
        (0..last).map(shift).for_each(|(at, now)| known[now] = Some((at as u32, &values[at])));
        let (mut from, end) = (first, old.len() - last);
        if from < end {
            let places: AHashMap<&str, usize> = (first..end).map(|at| (old[at].of(&self.source.text), at)).collect();
            for now in first..pieces.len() - last {
                let place = places.get(pieces[now].of(text)).copied();
                if let Some(at) = place.filter(|at| *at >= from && values[*at].may_be_used) {
                    known[now] = Some((at as u32, &values[at]));
                    from = at + 1;
                }
            }
        }
        known
    }

    /// Where the items of a list stand that are known.
    fn pieces(&self, list: usize) -> &[Piece] {
        let section = self.sections.iter().find(|section| section.key(&self.source.text) == LISTS[list]);
        let pieces = section.map_or(&[][..], |section| &section.items);
        if pieces.len() == self.lists[list].len() { pieces } else { &[] }
    }

    /// Keeps the values of a list, whose texts are these pieces.
    pub fn keep_list<T: Any + Send + Sync>(
        &mut self,
        list: &str,
        pieces: &Pieces,
        values: impl Iterator<Item = Arc<T>>,
    ) {
        let Some(list) = LISTS.iter().position(|known| *known == list) else { return };
        let facts = &pieces.lists[list];
        let may_be_kept: AHashSet<usize> = self.values.values().map(address).collect();
        let keep = |(fact, value): (&ItemFacts, Arc<T>)| {
            let is_good = fact.is_known || may_be_kept.contains(&address(&value));
            Known { may_be_used: fact.is_alone && is_good, nodes: fact.nodes, value }
        };
        self.lists[list] = facts.iter().zip(values).map(keep).collect();
    }

    /// The values of a list that are not among those of a file that was read after this one in these pieces.
    pub fn gone<T: Any + Send + Sync>(&self, list: &str, pieces: &Pieces) -> Vec<Arc<T>> {
        let Some(list) = LISTS.iter().position(|known| *known == list) else { return Vec::new() };
        let value = |at: &u32| self.lists[list].get(*at as usize)?.value.clone().downcast().ok();
        pieces.gone[list].iter().filter_map(value).collect()
    }

    /// What this value became when it was completed the last time.
    pub fn completed<T: Any + Send + Sync>(&self, decoded: &Arc<T>) -> Option<Arc<T>> {
        let (_, complete) = self.complete.get(&address(decoded))?;
        complete.clone().downcast().ok()
    }

    /// Keeps a value with what it became.
    pub fn keep_completed<T: Any + Send + Sync>(&mut self, decoded: Arc<T>, complete: Arc<T>) {
        self.complete.insert(address(&decoded), (decoded, complete));
    }

    /// Whether all but the services and routes was written as in these pieces, and says the same.
    pub fn has_rest_of(&self, pieces: &Pieces) -> bool {
        self.rest.is_some() && self.rest == pieces.rest
    }

    /// Whether the file was written like this, and says the same for as long as it is.
    pub fn is_of(&self, text: &str) -> bool {
        self.is_alone && self.source.text == text
    }

    /// Remembers the file. `is_alone`: it names no other one that has a say in what it means.
    pub fn keep_source(&mut self, source: &Arc<Source>, is_alone: bool) {
        self.is_alone = is_alone && !hangs_on_more(&source.text);
        self.source = source.clone();
    }

    /// Remembers how the rest of the file is written, for [`Self::has_same_rest`].
    pub fn keep_rest(&mut self, pieces: &Pieces) {
        self.rest = pieces.rest;
    }

    /// Remembers where everything stands.
    pub fn keep_pieces(&mut self, pieces: Pieces) {
        self.sections = pieces.sections;
        self.sections.iter_mut().for_each(|section| section.items.shrink_to_fit());
    }
}

fn address<T: ?Sized>(value: &Arc<T>) -> usize {
    Arc::as_ptr(value).cast::<()>() as usize
}

/// Whether what a text says hangs on the environment.
pub(super) fn hangs_on_more(text: &str) -> bool {
    memchr::memchr(b'$', text.as_bytes()).is_some() && (text.contains("${") || text.contains("$$"))
}

/// The print of a text; None where what it says hangs on the environment.
pub(super) fn print_of_text(text: &str) -> Option<Print> {
    (!hangs_on_more(text)).then(|| join(KEYS.each_ref().map(|keys| keys.hash_one(text))))
}

fn join([one, other]: [u64; 2]) -> Print {
    u128::from(one) << 64 | u128::from(other)
}

/// Keys of this process.
static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);

fn fingerprint(node: &Node) -> Print {
    let mut hashers = KEYS.each_ref().map(BuildHasher::build_hasher);
    hashers.iter_mut().for_each(|hasher| feed(node, hasher));
    join(hashers.map(|hasher| hasher.finish()))
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
        Value::Known(known) => {
            hasher.write_u8(3);
            hasher.write_usize(address(&known.value));
        }
    }
}

fn findings(cx: &Cx) -> usize {
    cx.diagnostics.errors_total() + cx.diagnostics.warnings_total()
}

/// A value that is shared with the file as it was read before, where its text is the same.
impl<T: Decode + Any + Send + Sync> Decode for Arc<T> {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        if let Value::Known(known) = &node.value {
            let value = known.value.clone().downcast().ok();
            debug_assert!(value.is_some(), "a list holds values of one type");
            return value;
        }
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
