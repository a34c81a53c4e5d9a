//! The committed corpora of the fuzz targets, run as ordinary tests: seeds, and every input that once failed.

#[path = "../fuzz/src/targets.rs"]
mod targets;

use std::path::PathBuf;

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("a directory entry").path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("a corpus file"))).collect()
}

#[test]
fn every_corpus_replays() {
    for (name, run) in targets::TARGETS {
        let inputs = corpus(name);
        assert!(inputs.len() >= 3, "{name} has no corpus to speak of");
        for (path, input) in inputs {
            let result = std::panic::catch_unwind(|| run(&input));
            assert!(result.is_ok(), "{name} fails on {}", path.display());
            // Cut anywhere, an input must do no harm either.
            for cut in (0..input.len()).step_by(1 + input.len() / 64) {
                let result = std::panic::catch_unwind(|| run(&input[..cut]));
                assert!(result.is_ok(), "{name} fails on the first {cut} bytes of {}", path.display());
            }
        }
    }
}

#[test]
fn every_target_is_built() {
    let manifest =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/Cargo.toml")).expect("a manifest");
    for (name, _) in targets::TARGETS {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} stands not in fuzz/Cargo.toml");
        let body = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/fuzz_targets/").to_owned() + name + ".rs";
        let body = std::fs::read_to_string(&body).unwrap_or_else(|error| panic!("{body}: {error}"));
        assert!(body.contains(&format!("targets::{name}(data)")));
    }
}
