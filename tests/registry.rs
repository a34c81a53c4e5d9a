//! Every kind of policy has what a user needs to find and use it: a summary, an example that loads, a place in the
//! reference, and settings that are explained.

use std::path::{Path, PathBuf};

use ringway::config::{load_str, reference_markdown};
use ringway::policy::{KINDS, Phase, SCHEMA};
use ringway::schema::FixedEnv;

fn root(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn files(folder: &str, extension: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root(folder)).unwrap_or_else(|error| panic!("{folder}: {error}"));
    let paths = entries.map(|entry| entry.expect("a directory entry").path());
    let mut found: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .map(|path| (path.display().to_string(), std::fs::read_to_string(&path).expect("text")))
        .collect();
    found.sort();
    found
}

/// Whether the text uses the policy: `- ip:`, or `{ip: …}`.
fn uses(text: &str, policy: &str) -> bool {
    let lines = text.lines().map(str::trim_start).filter(|line| !line.starts_with('#'));
    let key = format!("{policy}:");
    lines.into_iter().any(|line| line.trim_start_matches("- ").starts_with(&key) || line.contains(&format!("{{{key}")))
}

#[test]
fn every_policy_has_a_summary_and_a_phase() {
    for kind in KINDS {
        assert!(kind.summary.len() > 20 && kind.summary.ends_with('.'), "{}: {:?}", kind.name, kind.summary);
        assert!(Phase::ALL.contains(&kind.phase));
    }
    assert!(SCHEMA.iter().map(|kind| kind.name).eq(KINDS.iter().map(|kind| kind.name)));
}

#[test]
fn every_policy_has_an_example() {
    let examples = files("config", "yaml");
    for kind in KINDS {
        let found = examples.iter().any(|(_, text)| uses(text, kind.name));
        assert!(found, "no example in config/ uses `{}`", kind.name);
    }
}

/// Examples are what people copy: each loads without an error, whatever the environment lacks.
#[test]
fn every_example_loads() {
    for (path, text) in files("config", "yaml") {
        let loaded = load_str(&path, &text, &FixedEnv::default(), SCHEMA);
        assert!(loaded.is_ok(), "{path}:\n{}", loaded.err().map(|found| found.render()).unwrap_or_default());
    }
}

#[test]
fn every_policy_stands_in_the_reference() {
    let reference = reference_markdown(SCHEMA);
    for kind in KINDS {
        let heading = reference.lines().any(|line| line.starts_with('#') && line.contains(&format!("`{}`", kind.name)));
        assert!(heading, "the reference has no section on `{}`", kind.name);
        assert!(reference.contains(kind.summary), "the reference does not say what `{}` does", kind.name);
    }
}

#[test]
fn every_policy_is_one_module_with_documentation() {
    for kind in KINDS {
        let path = root("src/policy").join(format!("{}.rs", kind.name));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert!(text.starts_with("//! "), "{} does not say what it is", path.display());
        assert!(text.contains("```yaml") || text.contains("```"), "{} shows no configuration", path.display());
    }
}
