//! No input makes the loader panic, and what it reports stays bounded.

use proptest::prelude::*;
use ringway::config::load_str;
use ringway::schema::{DIAGNOSTICS_MAX, FixedEnv};

use crate::support::{POLICIES, read};

fn corpus() -> Vec<String> {
    let names = [
        "config_language/full.yaml",
        "broken/many.yaml",
        "broken/template.yaml",
        "broken/unclosed.yaml",
    ];
    names
        .iter()
        .map(|name| read(&format!("tests/{name}")))
        .collect()
}

fn try_load(text: &str) {
    let env = FixedEnv::of(&[("API_TOKEN", "t"), ("BACKEND", "b")]);
    for name in ["a.yaml", "a.json"] {
        if let Err(diagnostics) = load_str(name, text, &env, POLICIES) {
            assert!(diagnostics.has_errors());
            assert!(diagnostics.sorted().len() <= 2 * DIAGNOSTICS_MAX);
            for item in diagnostics.sorted() {
                assert!(
                    item.span.end as usize <= text.len() && item.span.start <= item.span.end,
                    "{item:?}"
                );
            }
            let _ = (diagnostics.render(), diagnostics.to_json());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

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
