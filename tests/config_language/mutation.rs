//! No input makes the loader panic, and what it reports stays bounded.

use std::sync::Arc;

use proptest::prelude::*;
use ringway::config::load_str;
use ringway::schema::{DIAGNOSTICS_MAX, Diagnostics, FixedEnv, Source, json_schema::node_json, parse, parse_json};
use serde_json::Value;

use crate::support::{POLICIES, read};

fn corpus() -> Vec<String> {
    let names = ["config_language/full.yaml", "broken/many.yaml", "broken/template.yaml", "broken/unclosed.yaml"];
    names.iter().map(|name| read(&format!("tests/{name}"))).collect()
}

fn try_load(text: &str) {
    let env = FixedEnv::of(&[("API_TOKEN", "t"), ("BACKEND", "b")]);
    for name in ["a.yaml", "a.json"] {
        if let Err(diagnostics) = load_str(name, text, &env, POLICIES) {
            assert!(diagnostics.has_errors());
            assert!(diagnostics.sorted().len() <= 2 * DIAGNOSTICS_MAX);
            for item in diagnostics.sorted() {
                assert!(item.span.end as usize <= text.len() && item.span.start <= item.span.end, "{item:?}");
            }
            let _ = (diagnostics.render(), diagnostics.to_json());
        }
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let text = || "[^$]{0,6}";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u32>().prop_map(Value::from),
        text().prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(text(), inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Every character above ASCII as `\u` escapes, as many writers of JSON do.
fn escaped(json: &str) -> String {
    let mut units = [0; 2];
    let mut one = |c: char| match c.is_ascii() {
        true => c.to_string(),
        false => c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect(),
    };
    json.chars().map(&mut one).collect()
}

proptest! {
    /// The tree of a JSON text is that JSON.
    #[test]
    fn json_is_read_as_it_is(value in any_json()) {
        let pretty = serde_json::to_string_pretty(&value).unwrap_or_default();
        for text in [value.to_string(), escaped(&pretty), pretty.clone()] {
            let mut diagnostics = Diagnostics::new(Arc::new(Source::new("a.json", text)));
            let node = parse_json(&FixedEnv::default(), &mut diagnostics);
            let node = node.unwrap_or_else(|| panic!("{}", diagnostics.render()));
            prop_assert_eq!(node_json(&node), value.clone());
        }
    }

    /// Places of YAML are true: what stands at a scalar's place is the scalar.
    #[test]
    fn places_are_true(words in prop::collection::vec("[a-zé漢😀]{1,6}", 1..20)) {
        let line = |word: &String| format!("- {{ {word} : [ \"{word}\" , {word} ] }} # {word}\n");
        let text: String = words.iter().map(line).collect();
        let mut diagnostics = Diagnostics::new(Arc::new(Source::new("a.yaml", text)));
        let node = parse(&FixedEnv::default(), &mut diagnostics).expect("YAML");
        let source = diagnostics.source();
        for (line, (item, word)) in node.as_sequence().expect("list").iter().zip(&words).enumerate() {
            let entry = &item.as_mapping().expect("mapping")[0];
            prop_assert_eq!(source.slice(entry.key_span), word);
            prop_assert_eq!((entry.key_span.line, entry.key_span.column), (line as u32 + 1, 5));
            let both = entry.value.as_sequence().expect("list");
            prop_assert_eq!(source.slice(both[0].span), format!("\"{word}\""));
            prop_assert_eq!(source.slice(both[1].span), word);
        }
    }

    #[test]
    fn any_text_is_survived(text in "[a-c:\\-\\[\\]{}&*!|>'\"%@` \n\t$#,?~é\u{feff}\\\\0-9.<]{0,120}") {
        try_load(&text);
    }

    #[test]
    fn any_characters_are_survived(text in "\\PC{0,80}") {
        try_load(&text);
    }

    #[test]
    fn mutated_documents_are_survived(
        which in 0usize..4,
        edits in prop::collection::vec((any::<prop::sample::Index>(), 0u8..5, "[\\PC\n\t]{0,4}"), 1..6),
    ) {
        let mut chars: Vec<char> = corpus()[which].chars().collect();
        for (place, kind, piece) in edits {
            if chars.is_empty() {
                break;
            }
            let at = place.index(chars.len());
            match kind {
                0 => drop(chars.remove(at)),
                1 => drop(chars.splice(at..at, piece.chars())),
                2 => chars.truncate(at),
                3 => {
                    let end = (at + 20).min(chars.len());
                    let copy: Vec<char> = chars[at..end].to_vec();
                    chars.splice(at..at, copy);
                }
                _ => chars[at] = piece.chars().next().unwrap_or('\u{0}'),
            }
        }
        try_load(&chars.into_iter().collect::<String>());
    }
}
