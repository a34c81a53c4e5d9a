//! Every key of the model, misspelt by one edit, gets the right suggestion.

use std::collections::HashSet;

use ringway::config::model::Config;
use ringway::schema::{Decode, Shape, TypeDoc, suggest};

/// The keys of each mapping of the model.
fn key_sets(ty: &TypeDoc, seen: &mut HashSet<String>, out: &mut Vec<Vec<&'static str>>) {
    match &ty.shape {
        Shape::List(inner) | Shape::Map(inner) => key_sets(inner, seen, out),
        Shape::Any(types) => types.iter().for_each(|ty| key_sets(ty, seen, out)),
        Shape::Struct(doc) if seen.insert(doc.id.clone()) => {
            out.push(doc.fields.iter().map(|field| field.spec.key).collect());
            doc.fields.iter().for_each(|field| key_sets(&field.ty, seen, out));
        }
        _ => {}
    }
}

/// All deletions and swaps, and at each place one insertion and one replacement.
fn one_edit(word: &str) -> Vec<String> {
    let chars: Vec<char> = word.chars().collect();
    let mut out = Vec::new();
    for at in 0..chars.len() {
        let other = if chars[at] == 'e' { 'r' } else { 'e' };
        let mut edit = |change: &dyn Fn(&mut Vec<char>)| {
            let mut copy = chars.clone();
            change(&mut copy);
            out.push(copy.into_iter().collect::<String>());
        };
        edit(&|c| {
            c.remove(at);
        });
        edit(&|c| c.insert(at, other));
        edit(&|c| c[at] = other);
        if at + 1 < chars.len() {
            edit(&|c| c.swap(at, at + 1));
        }
    }
    out
}

#[test]
fn misspelt_keys_get_the_right_suggestion() {
    let mut sets = Vec::new();
    key_sets(&Config::describe(), &mut HashSet::new(), &mut sets);
    assert!(sets.len() >= 20);
    let (mut right, mut all, mut wrong) = (0, 0, Vec::new());
    for keys in &sets {
        for key in keys {
            for typo in one_edit(key).into_iter().filter(|typo| !keys.contains(&typo.as_str())) {
                all += 1;
                match suggest::nearest(&typo, keys.iter().copied()) {
                    Some(found) if found == *key => right += 1,
                    found => wrong.push(format!("{typo} -> {found:?}, not {key}")),
                }
            }
        }
    }
    assert!(all > 2000, "{all}");
    assert!(right * 100 >= all * 95, "{right} of {all}: {wrong:#?}");
}
