//! Schema and reference page.

use std::collections::HashSet;

use ringway::config::model::Config;
use ringway::config::{load_file, load_str, reference_markdown, schema_json};
use ringway::schema::{Decode, FixedEnv, Shape, TypeDoc, codes};

use crate::support::{POLICIES, golden, path, read};

#[test]
fn reference_page_is_current() {
    golden("docs/reference/configuration.md", &reference_markdown(ringway::policy::SCHEMA));
}

#[test]
fn reference_page_shows_policies_and_all_codes() {
    let page = reference_markdown(POLICIES);
    assert!(page.contains("### `sample`") && page.contains("| `limit` | whole number | `5` | 1 to 10 | A number. |"));
    assert!(codes::ALL.iter().all(|(id, _)| page.contains(id)));
}

#[test]
fn codes_are_unique() {
    let mut seen = HashSet::new();
    assert!(codes::ALL.iter().all(|(id, _)| seen.insert(id)));
}

#[test]
fn schema_names_every_key_and_refuses_others() {
    let schema = schema_json(POLICIES);
    let native = &schema["$defs"]["config.model.Config"];
    assert_eq!(native["additionalProperties"], false);
    assert!(native["patternProperties"]["^x-"].as_bool().unwrap_or(false));
    assert_eq!(native["properties"]["order"]["default"], "specificity");
    let limits = &schema["$defs"]["config.model.listener.Limits"]["properties"];
    assert_eq!(limits["fields_max"]["anyOf"][0]["maximum"], 1000);
    assert_eq!(limits["fields_max"]["default"], 100);
    assert!(schema["$defs"]["policy"]["anyOf"][0]["properties"]["sample"].is_object());
    assert!(!schema.to_string().contains(":null"), "a definition was left open");
    let text = schema.to_string();
    for (at, _) in text.match_indices("\"$ref\":\"#/$defs/") {
        let name = text[at + 16..].split('"').next().unwrap_or("");
        assert!(schema["$defs"][name].is_object(), "{name}");
    }
}

/// Every key must be used in the file with everything, so that no key goes untested.
#[test]
fn the_full_file_uses_every_key() {
    let text = read("tests/config_language/full.yaml");
    let mut missing = Vec::new();
    walk(&Config::describe(), &mut HashSet::new(), &mut |key| {
        if !text.contains(&format!("{key}:")) {
            missing.push(key);
        }
    });
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_key_has_a_meaning_that_ends_in_a_full_stop() {
    fn visit(ty: &TypeDoc) {
        match &ty.shape {
            Shape::List(inner) | Shape::Map(inner) => visit(inner),
            Shape::Struct(doc) => {
                for field in &doc.fields {
                    let meaning = ringway::schema::prose(field.spec.doc);
                    assert!(meaning.ends_with('.'), "{} {}: {meaning}", doc.id, field.spec.key);
                    visit(&field.ty);
                }
            }
            _ => {}
        }
    }
    visit(&Config::describe());
}

fn walk(ty: &TypeDoc, seen: &mut HashSet<String>, found: &mut dyn FnMut(&'static str)) {
    match &ty.shape {
        Shape::List(inner) | Shape::Map(inner) => walk(inner, seen, found),
        Shape::Struct(doc) if seen.insert(doc.id.clone()) => {
            for field in &doc.fields {
                found(field.spec.key);
                walk(&field.ty, seen, found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_example_of_the_page_is_accepted() {
    let page = reference_markdown(ringway::policy::SCHEMA);
    let example = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let loaded = load_str("page.yaml", example, &FixedEnv::default(), ringway::policy::SCHEMA)
        .map_err(|d| d.render())
        .expect("accepted");
    assert_eq!(loaded.warnings.render(), "");
}

/// Examples may use real policies, which this binary gets from nobody: only files without them are loaded here.
#[test]
fn examples_are_accepted() {
    let Ok(files) = std::fs::read_dir(path("config")) else {
        return;
    };
    for file in files.map(|entry| entry.expect("readable").path()) {
        let is_yaml = file.extension().is_some_and(|extension| extension == "yaml");
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        if is_yaml && !text.contains("policies:") {
            load_file(&file, &FixedEnv::default(), ringway::policy::SCHEMA).map_err(|d| d.render()).expect("accepted");
        }
    }
}
