//! Golden outputs for the mistakes that people make.

use ringway::config::load_str;
use ringway::schema::FixedEnv;

use crate::support::{POLICIES, golden, path, read};

#[test]
fn every_broken_file_says_what_is_wrong() {
    let mut names: Vec<String> = std::fs::read_dir(path("tests/broken"))
        .expect("the directory exists")
        .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".yaml"))
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    for name in names {
        let text = read(&format!("tests/broken/{name}"));
        let shown = match load_str(&name, &text, &FixedEnv::default(), POLICIES) {
            Ok(loaded) => loaded.warnings.render(),
            Err(diagnostics) => diagnostics.render(),
        };
        assert!(!shown.is_empty(), "{name} is not broken");
        golden(&format!("tests/broken/{}", name.replace(".yaml", ".txt")), &shown);
    }
}

#[test]
fn diagnostics_as_json_have_places_and_no_source() {
    let text = "listeners: [\":8080\"]\nadmin: {listn: secret}\n";
    let diagnostics = load_str("a.yaml", text, &FixedEnv::default(), POLICIES).expect_err("broken");
    let json = diagnostics.to_json();
    assert_eq!(json["errors"], 1);
    let item = &json["diagnostics"][0];
    assert_eq!((&item["code"], &item["line"], &item["column"]), (&"E0102".into(), &2.into(), &9.into()));
    assert_eq!(item["hint"], "did you mean `listen`?");
    assert!(!json.to_string().contains("secret"));
}
