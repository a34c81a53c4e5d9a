//! Reads the sources and holds them to the rules of the house: lengths, layers, the place of `unsafe`, banned calls.
//!
//! A rule that the compiler or clippy can hold stands there (`src/lib.rs`, `clippy.toml`); these are the others.

use std::path::{Path, PathBuf};

/// Longest function, in lines from its first to its last.
const FUNCTION_LINES_MAX: usize = 70;
/// Longest file, in lines of code: without comments, empty lines and its tests.
const CODE_LINES_MAX: usize = 900;
/// Longest line, in characters.
const COLUMNS_MAX: usize = 120;

/// Functions that are longer, with their present length: an entry may shrink and go, none may come or grow.
const LONG_FUNCTIONS: &[(&str, &str, usize)] = &[];

/// What each module of the crate may import of the others. The chain runs from `sys` up to `control`; the data plane
/// never sees `config`, `control` or `cli`, and `schema` is what policies need to declare their settings.
const LAYERS: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("limits", &[]),
    ("random", &[]),
    ("sys", &["limits"]),
    ("time", &["sys"]),
    // For the grammar of names and networks.
    ("schema", &["http"]),
    // Permits are part of an exchange, so that they are given back however it ends.
    ("concurrency", &["time"]),
    ("http", &["concurrency", "error", "limits", "net", "sys", "time"]),
    ("net", &["limits", "random", "sys", "time"]),
    ("tls", &["http", "limits", "net", "time"]),
    ("proto", &["error", "http", "limits", "net", "sys", "time"]),
    ("route", &["http"]),
    ("telemetry", &["error", "http", "limits", "sys", "time"]),
    ("policy", &["concurrency", "error", "http", "limits", "random", "schema", "time"]),
    // The balancer and the rules of services are part of both the snapshot and what runs it.
    (
        "upstream",
        &["concurrency", "error", "http", "limits", "net", "proto", "random", "snapshot", "telemetry", "time", "tls"],
    ),
    ("snapshot", &["concurrency", "limits", "policy", "proto", "route", "tls", "upstream"]),
    ("handler", &["error", "http", "limits", "net", "proto", "snapshot", "sys", "time", "upstream"]),
    (
        "pipeline",
        &[
            "concurrency",
            "error",
            "handler",
            "http",
            "limits",
            "net",
            "policy",
            "proto",
            "random",
            "route",
            "snapshot",
            "sys",
            "telemetry",
            "time",
            "upstream",
        ],
    ),
    (
        "worker",
        &[
            "concurrency",
            "error",
            "http",
            "limits",
            "net",
            "pipeline",
            "policy",
            "proto",
            "snapshot",
            "sys",
            "telemetry",
            "time",
            "tls",
            "upstream",
        ],
    ),
    (
        "config",
        &[
            "concurrency",
            "error",
            "http",
            "limits",
            "policy",
            "proto",
            "route",
            "schema",
            "snapshot",
            "time",
            "tls",
            "upstream",
        ],
    ),
    (
        "control",
        &[
            "concurrency",
            "config",
            "error",
            "http",
            "limits",
            "net",
            "policy",
            "random",
            "route",
            "schema",
            "snapshot",
            "sys",
            "telemetry",
            "time",
            "tls",
            "upstream",
            "worker",
        ],
    ),
    // Origins for `ringway demo`, over the gateway's own wire.
    ("demo", &["error", "http", "limits", "net", "proto", "schema", "sys", "time"]),
    // `ringway explain` asks the very code that decides.
    (
        "cli",
        &[
            "config", "control", "demo", "error", "handler", "http", "limits", "pipeline", "policy", "proto", "route",
            "schema", "snapshot", "sys", "time", "upstream",
        ],
    ),
];

/// A text that may stand only in some places, and why.
struct Ban {
    what: &'static str,
    allowed: &'static [&'static str],
    why: &'static str,
}

const BANS: &[Ban] = &[
    Ban { what: "thread::sleep(", allowed: &[], why: "it stops a worker and all its connections" },
    Ban {
        what: "Instant::now(",
        allowed: &["src/time.rs", "src/control/"],
        why: "time is passed in, so that runs repeat",
    },
    Ban {
        what: "Instant::now)",
        allowed: &["src/time.rs", "src/control/"],
        why: "time is passed in, so that runs repeat",
    },
    Ban { what: "SystemTime::now(", allowed: &["src/time.rs"], why: "one module reads the clocks" },
    // The wall clock may jump (F17): what is limited or waits goes by the monotonic one.
    Ban {
        what: "unix_ms()",
        allowed: &[
            "src/time.rs",
            "src/telemetry/",
            "src/worker/run.rs",
            "src/control/admin/",
            "src/control/checks",
            "src/control/orders/",
            "src/control/survival.rs",
        ],
        why: "the wall clock is for dates, certificates and tokens",
    },
    Ban {
        what: "unix_seconds()",
        allowed: &[
            "src/time.rs",
            "src/pipeline/reply.rs",
            "src/control/acme/",
            "src/control/gateway/",
            "src/tls/",
            "src/config/compile/tls.rs",
            "src/cli/cert.rs",
        ],
        why: "the wall clock is for dates, certificates and tokens",
    },
    Ban { what: "to_socket_addrs(", allowed: &["src/control/"], why: "it asks a resolver and waits for it" },
    Ban { what: "println!(", allowed: &["src/cli/", "src/main.rs"], why: "what the process says goes through its log" },
    Ban {
        what: "eprintln!(",
        allowed: &["src/cli/", "src/main.rs", "src/control/serve.rs"],
        why: "what the process says goes through its log",
    },
    Ban { what: "dbg!(", allowed: &[], why: "left over from a search" },
    Ban { what: "todo!(", allowed: &[], why: "what is not built is a diagnostic" },
    Ban { what: "unimplemented!(", allowed: &[], why: "what is not built is a diagnostic" },
    Ban {
        what: "std::sync::Mutex",
        // The queue of a limit that is configured and reached is the one thing that workers wait for together. The
        // connections of each client are counted for all workers together, when one comes and when it goes.
        allowed: &[
            "src/control/",
            "src/telemetry/",
            "src/cli/",
            "src/concurrency/gate.rs",
            "src/snapshot/bounds.rs",
            "src/tls/pace.rs",
        ],
        why: "workers share nothing",
    },
    Ban { what: "std::sync::RwLock", allowed: &["src/control/"], why: "workers share nothing" },
];

struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The part before the tests of the file.
    fn code(&self) -> &str {
        let tests = self.text.find("#[cfg(test)]\nmod tests");
        let is_test_file = self.path.ends_with("/tests.rs");
        if is_test_file { "" } else { tests.map_or(&self.text[..], |at| &self.text[..at]) }
    }

    /// Lines of code with their numbers, comments taken off.
    fn code_lines(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.code().lines().enumerate().map(|(at, line)| (at + 1, line.trim()));
        lines.filter(|(_, line)| !line.is_empty() && !line.starts_with("//"))
    }

    fn module(&self) -> &str {
        let name = self.path.trim_start_matches("src/").split('/').next().unwrap_or_default();
        name.trim_end_matches(".rs")
    }
}

fn sources(folders: &[&str]) -> Vec<Source> {
    let mut all = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    folders.iter().for_each(|folder| gather(root, &root.join(folder), &mut all));
    all.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(all.len() >= folders.len());
    all
}

fn gather(root: &Path, folder: &Path, all: &mut Vec<Source>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries {
        let path: PathBuf = entry.expect("a directory entry").path();
        let is_built = path.ends_with("target");
        if path.is_dir() && !is_built {
            gather(root, &path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            all.push(Source { path: name, text: std::fs::read_to_string(&path).expect("a source") });
        }
    }
}

fn everything() -> Vec<Source> {
    sources(&["src", "tests", "benches", "fuzz"])
}

fn report(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Name and length of each function. The sources are formatted, so the closing brace stands under the first line.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(name) = function_name(trimmed) else { continue };
        let close = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let length = lines[at..].iter().position(|other| *other == close).map_or(1, |end| end + 1);
        // A function of one line has no closing brace of its own.
        let is_one_line = trimmed.ends_with('}') || trimmed.ends_with(';');
        found.push((name.to_owned(), if is_one_line { 1 } else { length }));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut words = line.split(' ');
    let word =
        words.by_ref().find(|word| !matches!(*word, "async" | "const" | "unsafe") && !word.starts_with("pub"))?;
    let name = words.next().filter(|_| word == "fn")?;
    Some(name.split(['(', '<']).next().unwrap_or(name))
}

#[test]
fn functions_are_short() {
    let mut found = Vec::new();
    let mut listed = LONG_FUNCTIONS.to_vec();
    for source in everything() {
        for (name, length) in functions(&source.text).into_iter().filter(|(_, length)| *length > FUNCTION_LINES_MAX) {
            let at = listed.iter().position(|(path, known, _)| *path == source.path && *known == name);
            let allowed = at.map_or(FUNCTION_LINES_MAX, |at| listed.swap_remove(at).2);
            if length > allowed {
                found.push(format!("{}: `{name}` has {length} lines, {allowed} are allowed", source.path));
            }
        }
    }
    found.extend(listed.iter().map(|(path, name, _)| format!("{path}: `{name}` is short now; take it off the list")));
    report(found);
}

#[test]
fn the_measure_of_functions_measures() {
    let text = "impl A {\n    pub async fn b<T>(\n        c: T,\n    ) {\n        d();\n    }\n    fn e() {}\n}\n\
        const fn f() {\n}\n";
    let expected = [("b", 5), ("e", 1), ("f", 2)].map(|(name, length)| (name.to_owned(), length));
    assert_eq!(functions(text), expected);
}

#[test]
fn files_are_short() {
    let long = everything().into_iter().filter_map(|source| {
        let lines = source.code_lines().count();
        (lines > CODE_LINES_MAX).then(|| format!("{}: {lines} lines of code", source.path))
    });
    report(long.collect());
}

#[test]
fn lines_are_short_and_clean() {
    let mut found = Vec::new();
    for source in everything() {
        for (at, line) in source.text.lines().enumerate() {
            // What goes over the wire is easier to read in one piece: tests may keep long literals.
            let in_tests = source.path.starts_with("tests/") || source.path.starts_with("fuzz/");
            let is_literal = in_tests && (line.contains('"') || line.ends_with('\\'));
            if line.chars().count() > COLUMNS_MAX && !is_literal {
                found.push(format!("{}:{}: {} columns", source.path, at + 1, line.chars().count()));
            }
            if line.ends_with([' ', '\t']) || line.contains('\t') {
                found.push(format!("{}:{}: a tab or a space at the end", source.path, at + 1));
            }
        }
        if !source.text.ends_with('\n') {
            found.push(format!("{}: no line end at the end", source.path));
        }
    }
    report(found);
}

/// Whether a line begins or holds an unsafe block, impl or function; not the lint's name or an attribute.
fn is_unsafe(line: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    ["unsafe {", "unsafe impl", "unsafe fn", "unsafe extern"].iter().any(|word| code.contains(word))
}

#[test]
fn unsafe_stands_in_sys_alone() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        for (at, line) in source.text.lines().enumerate().filter(|(_, line)| is_unsafe(line)) {
            if !source.path.starts_with("src/sys/") {
                found.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    report(found);
}

#[test]
fn every_unsafe_says_why_it_is_sound() {
    let mut found = Vec::new();
    for source in everything() {
        let lines: Vec<&str> = source.text.lines().collect();
        for at in (0..lines.len()).filter(|&at| is_unsafe(lines[at])) {
            // `unsafe fn` in an impl carries the contract of its trait, and its body has blocks of its own.
            let is_contract = lines[at].contains("unsafe fn");
            let above = lines[..at].iter().rev().map(|line| line.trim());
            let mut comment = above.take_while(|line| line.starts_with("//") || line.starts_with("#["));
            if !is_contract && !comment.any(|line| line.starts_with("// SAFETY:")) && source.path != "tests/tidy.rs" {
                found.push(format!("{}:{}: no SAFETY comment", source.path, at + 1));
            }
        }
    }
    report(found);
}

/// Modules of the crate that a file names.
fn imports(source: &Source) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (at, line) in source.code_lines() {
        for part in line.split("crate::").skip(1) {
            let group = part.strip_prefix('{').and_then(|rest| rest.split('}').next());
            let names = group.unwrap_or(part).split(',').map(|name| {
                let word = |c: char| !c.is_ascii_alphanumeric() && c != '_';
                name.trim().split(word).next().unwrap_or_default().to_owned()
            });
            match group {
                Some(_) => found.extend(names.map(|name| (at, name))),
                None => found.extend(names.take(1).map(|name| (at, name))),
            }
        }
    }
    found
}

#[test]
fn modules_import_downwards() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        let module = source.module();
        if matches!(module, "lib" | "main") {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            found.push(format!("{}: module `{module}` stands in no layer", source.path));
            continue;
        };
        for (line, name) in imports(&source) {
            let is_module = LAYERS.iter().any(|(known, _)| *known == name);
            if is_module && name != module && !allowed.contains(&&name[..]) {
                found.push(format!("{}:{line}: `{module}` must not import `{name}`", source.path));
            }
        }
    }
    report(found);
}

/// The table itself: no module of the data plane may reach the configuration or the control thread, by any way.
#[test]
fn the_data_plane_reaches_no_configuration() {
    for (module, allowed) in LAYERS.iter().filter(|(name, _)| !matches!(*name, "config" | "control" | "cli")) {
        for name in ["config", "control", "cli"] {
            assert!(!allowed.contains(&name), "{module} may import {name}");
        }
    }
}

#[test]
fn banned_calls_stay_out() {
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        for (at, line) in source.code_lines() {
            for ban in BANS.iter().filter(|ban| holds(line, ban.what)) {
                if !ban.allowed.iter().any(|place| source.path.starts_with(place)) {
                    found.push(format!("{}:{at}: {}: {}", source.path, ban.what, ban.why));
                }
            }
        }
    }
    report(found);
}

/// Whether the line calls it by just this name: `println!(` does not stand in `eprintln!(`.
fn holds(line: &str, what: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(what).any(|(at, _)| !line[..at].ends_with(word))
}

/// Words that speak of how the text was made, or that praise instead of telling why.
#[test]
fn comments_say_why_and_not_how_well() {
    const EMPTY_WORDS: [&str; 6] =
        ["blazing", "lightning-fast", "seamless", "cutting-edge", "world-class", "elegantly"];
    let mut found = Vec::new();
    for source in sources(&["src"]) {
        for (at, line) in source.text.lines().enumerate().filter(|(_, line)| line.trim_start().starts_with("//")) {
            let lower = line.to_ascii_lowercase();
            if let Some(word) = EMPTY_WORDS.iter().find(|word| lower.contains(*word)) {
                found.push(format!("{}:{}: `{word}`", source.path, at + 1));
            }
        }
    }
    report(found);
}
