//! The documentation is true: generated pages are current, examples load, links lead somewhere.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use ringway::control::source::ConfigSource;
use ringway::error::Reason;
use ringway::error::pages::{PAGES, Page};
use ringway::policy::CompileEnv;

fn root(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a folder with this ending, in order of their paths.
fn files(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.extension().is_some_and(|it| it == ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Compares with a file, or writes it when `RINGWAY_BLESS` is set.
fn golden(relative: &str, text: &str) {
    if std::env::var_os("RINGWAY_BLESS").is_some() {
        std::fs::write(root(relative), text).expect("writable");
    }
    let want = std::fs::read_to_string(root(relative)).unwrap_or_default();
    assert!(want == text, "{relative} is not current; set RINGWAY_BLESS=1 and run this test again");
}

/// A constant as its source declares it.
struct Constant {
    name: String,
    value: String,
    meaning: String,
    private: bool,
}

/// The constants of a source file, those of its tests left out.
fn constants(source: &str) -> Vec<Constant> {
    let mut found = Vec::new();
    let mut doc = String::new();
    for line in source.lines().take_while(|line| *line != "#[cfg(test)]") {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("///") {
            write!(doc, "{}{}", if doc.is_empty() { "" } else { " " }, text.trim()).expect("memory");
            continue;
        }
        let public = line.strip_prefix("pub const ");
        let declared = public.or_else(|| line.strip_prefix("const ")).and_then(|rest| rest.split_once(": "));
        if let Some((name, (_, value))) = declared.and_then(|(name, rest)| Some((name, rest.split_once(" = ")?))) {
            let value = value.trim_end_matches(';').replace('_', "");
            found.push(Constant { name: name.into(), value, meaning: doc.clone(), private: public.is_none() });
        }
        if !line.starts_with("#[") {
            doc.clear();
        }
    }
    found
}

fn is_bound(name: &str) -> bool {
    ["_MAX", "_MIN", "_MS", "_CEILING"].iter().any(|end| name.ends_with(end)) || name.contains("_MAX_")
}

fn limits_page() -> String {
    let mut page = "# Limits\n\nThis page is made from the sources by the test `limits_page_is_current`; change those \
                    instead.\n\nEvery queue, table, buffer and wait has a bound. Those that a configuration can change \
                    have their default here and their key in the [configuration reference](reference/configuration.md); \
                    the others are fixed. Names that end in `_MS` are milliseconds, `_BYTES_` bytes.\n"
        .to_owned();
    let src = root("src");
    let mut paths = files(&src, "rs");
    paths.sort_by_key(|path| (!path.ends_with("limits.rs"), path.clone()));
    for path in paths {
        let all = constants(&read(&path));
        let everything = path.ends_with("src/limits.rs");
        let bounds = all.iter().filter(|one| !one.private && one.name != "_" && (everything || is_bound(&one.name)));
        let rows: Vec<_> = bounds.collect();
        if rows.is_empty() {
            continue;
        }
        let name = path.strip_prefix(&src).expect("below").display();
        write!(page, "\n## `src/{name}`\n\n| bound | value | meaning |\n|---|---|---|\n").expect("memory");
        for row in rows {
            assert!(!row.meaning.is_empty(), "{} has no doc comment", row.name);
            let meaning = row.meaning.replace('|', "\\|").replace("[`", "`").replace("`]", "`");
            writeln!(page, "| `{}` | {} | {meaning} |", row.name, row.value).expect("memory");
        }
    }
    page
}

#[test]
fn limits_page_is_current() {
    let page = limits_page();
    assert!(page.contains("| `HEADER_BYTES_MAX` | 32 * 1024 |") && page.contains("| `ROUTES_MAX` |"));
    golden("docs/limits.md", &page);
}

/// What a reason means: its doc comment in `src/error.rs`.
fn meaning(source: &str, word: &str) -> String {
    let at = source.lines().position(|line| line.contains(&format!("= \"{word}\",")));
    let lines: Vec<_> = source.lines().take(at.expect("declared")).collect();
    let docs = lines.iter().rev().map_while(|line| line.trim().strip_prefix("///"));
    let mut docs: Vec<_> = docs.map(str::trim).collect();
    docs.reverse();
    docs.join(" ")
}

/// The index, and one page for each reason.
fn reason_pages() -> Vec<(String, String)> {
    let mut index = "# Reasons\n\nThis page and those below `reasons/` are made from `src/error.rs` and \
                     `src/error/pages.rs` by the test `reasons_pages_are_current`; change those instead.\n\nEach answer \
                     that the gateway makes itself because something went wrong has one of these reasons. The word \
                     stands in the error body (`reason`), in the access log and in the metric `gateway_errors_total` \
                     (`error_type`). It does not change between versions.\n\n- *Origin*: whose fault it is.\n- *Retry*: \
                     whether the gateway may send the request to another endpoint: `never`; `safe`, always, as nothing \
                     of it left the gateway; `idempotent`, if the method may be repeated and none of the body is gone. \
                     What a client may do later stands on the reason's page, and as `retry` in a problem document.\n- \
                     Status 499 is only logged: there is nobody left to answer.\n\n\
                     | reason | status | origin | retry | meaning |\n|---|---|---|---|---|\n"
        .to_owned();
    let source = read(&root("src/error.rs"));
    let mut all = Vec::new();
    for reason in Reason::ALL {
        let (word, meaning) = (reason.word(), meaning(&source, reason.word()));
        let (status, origin, retry) = (reason.status(), reason.origin().word(), reason.retry().word());
        writeln!(index, "| [`{word}`](reasons/{word}.md) | {status} | {origin} | {retry} | {meaning} |")
            .expect("memory");
        let page = PAGES.iter().find(|page| page.word == word);
        let page = page.unwrap_or_else(|| panic!("`{word}` has no page in src/error/pages.rs"));
        all.push((format!("docs/reasons/{word}.md"), reason_page(*reason, &meaning, page)));
    }
    all.push(("docs/reasons.md".to_owned(), index));
    all
}

fn reason_page(reason: Reason, meaning: &str, page: &Page) -> String {
    let sent =
        if reason.status() == 499 { "nothing: nobody is left to answer; the log has 499" } else { reason.text() };
    let mut text = format!(
        "# `{word}`\n\n{meaning}\n\n| | |\n|---|---|\n| status | {status} |\n| the client reads | {sent} |\n| whose \
         fault | {origin} |\n| the gateway tries elsewhere | {retry} |\n| the client may try again | {repeat} |\n| \
         problem type | `urn:ringway:reason:{word}` |\n",
        word = page.word,
        status = reason.status(),
        origin = reason.origin().word(),
        retry = reason.retry().word(),
        repeat = reason.repeat().word(),
    );
    for (title, items) in [("Usual causes", page.causes), ("What to do", page.remedies)] {
        write!(text, "\n## {title}\n\n").expect("memory");
        items.iter().for_each(|item| writeln!(text, "- {item}").expect("memory"));
    }
    text.push_str("\n## Where to look\n\n");
    for (section, key) in page.keys {
        let at = if section.is_empty() { String::new() } else { format!(" of `{section}`") };
        writeln!(text, "- [`{key}`](../reference/configuration.md){at}").expect("memory");
    }
    writeln!(text, "- metric `gateway_errors_total{{error_type=\"{}\"}}`", page.word).expect("memory");
    page.metrics.iter().for_each(|metric| writeln!(text, "- metric `{metric}`").expect("memory"));
    text.push_str("- the access log, by its fields `reason` and `request_id`\n\n[All reasons](../reasons.md)\n");
    text
}

#[test]
fn reasons_pages_are_current() {
    let all = reason_pages();
    if std::env::var_os("RINGWAY_BLESS").is_some() {
        std::fs::create_dir_all(root("docs/reasons")).expect("writable");
        for path in stale(&all) {
            std::fs::remove_file(path).expect("writable");
        }
    }
    all.iter().for_each(|(path, text)| golden(path, text));
    assert_eq!(stale(&all), Vec::<PathBuf>::new(), "pages of no reason");
}

/// Files beside the pages that belong to no reason.
fn stale(all: &[(String, String)]) -> Vec<PathBuf> {
    let known: Vec<_> = all.iter().map(|(path, _)| root(path)).collect();
    files(&root("docs/reasons"), "md").into_iter().filter(|path| !known.contains(path)).collect()
}

/// Keys and metrics that the pages name exist.
#[test]
fn reasons_pages_name_what_exists() {
    let reference = read(&root("docs/reference/configuration.md"));
    let section = |name: &str| {
        let rest = reference.split_once(&format!("### `{name}`\n")).map(|(_, rest)| rest);
        rest.and_then(|rest| rest.split("\n##").next()).unwrap_or_else(|| panic!("no section `{name}`"))
    };
    let telemetry: String = files(&root("src/telemetry/metrics"), "rs").iter().map(|path| read(path)).collect();
    for page in PAGES {
        for (place, key) in page.keys {
            assert!(section(place).contains(&format!("\n| `{key}` |")), "{}: `{place}` has no `{key}`", page.word);
        }
        for metric in page.metrics {
            let own = metric.strip_prefix("ringway_worker_").unwrap_or(metric);
            let is_there = [*metric, own].iter().any(|name| telemetry.contains(&format!("\"{name}\"")));
            assert!(is_there, "{}: no metric `{metric}`", page.word);
        }
    }
}

fn pages() -> Vec<PathBuf> {
    let mut pages = files(&root("docs"), "md");
    pages.extend(["README.md", "SECURITY.md", "CHANGELOG.md"].map(root));
    pages
}

/// The fenced blocks of a page in one language.
fn blocks(page: &str, language: &str) -> Vec<String> {
    let open = format!("```{language}\n");
    page.split(&open).skip(1).filter_map(|rest| rest.split("\n```").next()).map(str::to_owned).collect()
}

#[test]
fn examples_of_configurations_compile() {
    let mut seen = 0;
    // What examples of TLS read.
    let dir = tempfile::tempdir().expect("a directory");
    let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
    std::fs::write(dir.path().join("site.crt"), made.cert.pem()).expect("written");
    std::fs::write(dir.path().join("site.key"), made.signing_key.serialize_pem()).expect("written");
    let place = format!("{}/", dir.path().display());
    for path in pages() {
        for block in blocks(&read(&path), "yaml").into_iter().filter(|block| block.contains("listeners:")) {
            let env = CompileEnv { workers: 2, random: 1 };
            let block = block.replace("/etc/ringway/", &place);
            if let Err(diagnostics) = ConfigSource::Embedded(block).compile(1, env, None) {
                panic!("{}: {}", path.display(), diagnostics.render());
            }
            seen += 1;
        }
    }
    assert!(seen >= 2, "{seen} examples");
}

#[test]
fn links_lead_to_files() {
    for path in pages() {
        let page = read(&path);
        for link in page.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let file = link.split('#').next().unwrap_or_default();
            if file.is_empty() || link.contains("://") || link.contains(' ') {
                continue;
            }
            let target = path.parent().expect("a folder").join(file);
            assert!(target.exists(), "{}: {link} leads nowhere", path.display());
        }
    }
}

/// Files and symbols that pages name in backquotes with a path of the tree exist.
#[test]
fn named_source_files_exist() {
    for path in pages().into_iter().filter(|path| !path.ends_with("CHANGELOG.md")) {
        for word in read(&path).split('`').skip(1).step_by(2) {
            let is_path = word.starts_with("src/") || word.starts_with("tests/") || word.starts_with("packaging/");
            if is_path && !word.contains(['*', '{', '<', ' ']) {
                assert!(root(word).exists(), "{}: `{word}` does not exist", path.display());
            }
        }
    }
}

/// What a row says to be shown by: its text, with the file that each word of it belongs to.
fn shown(row: &str) -> Vec<(Vec<PathBuf>, String)> {
    let (mut found, mut place) = (Vec::new(), Vec::new());
    for (at, part) in row.split('`').enumerate() {
        if at % 2 == 0 {
            found.push((place.clone(), part.to_owned()));
        } else if part.contains('/') {
            let braces = part.split_once('{').and_then(|(before, rest)| Some((before, rest.split_once('}')?)));
            place = match braces {
                Some((before, (names, after))) => {
                    names.split(',').map(|name| root(&format!("{before}{name}{after}"))).collect()
                }
                None => vec![root(part)],
            };
        }
    }
    found
}

/// How many tests, runs and fuzz targets a row names, all of which must exist.
fn named(row: &str, title: &str) -> usize {
    let targets = read(&root("fuzz/src/targets.rs"));
    let mut count = row
        .split("fuzz target")
        .skip(1)
        .flat_map(|rest| rest.split('`').skip(1).step_by(2))
        .filter(|name| targets.contains(&format!("(\"{name}\", ")))
        .count();
    for (files, text) in shown(row) {
        let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || "_/.".contains(letter)));
        for word in words.map(|word| word.trim_end_matches('.')) {
            if let Some(run) = word.strip_prefix("faults/") {
                assert!(root(&format!("tests/faults/runs/{run}.py")).exists(), "{title}: no run {run}");
            } else if word.contains('_') && !word.contains(['/', '.']) {
                let is_there = |file: &PathBuf| file.is_file() && read(file).contains(&format!("fn {word}("));
                assert!(files.iter().any(is_there), "{title}: no test {word} in {files:?}");
            } else {
                continue;
            }
            count += 1;
        }
    }
    count
}

/// Rows of a page whose last column says what shows them.
fn rows<'p>(page: &'p str, beginning: &str) -> Vec<(&'p str, &'p str)> {
    let lines = page.lines().filter(|line| line.starts_with(beginning));
    let cells =
        |line: &'p str| Some((line[2..].split(" |").next()?, line.trim_end_matches(" |").rsplit_once(" | ")?.1));
    lines.filter_map(cells).collect()
}

/// Every behaviour that the threat model promises names a test that exists, and so does every vulnerability.
#[test]
fn tests_that_pages_name_exist() {
    let page = read(&root("docs/threat-model.md"));
    let behaviours = rows(&page, "| F");
    assert!(behaviours.len() > 60, "{}", behaviours.len());
    for (title, row) in behaviours {
        // Nothing of early data is built, so nothing can be asked.
        assert!(named(row, title) > 0 || title.starts_with("F83"), "{title}: no test is named");
    }
    let page = read(&root("docs/cves.md"));
    let (built, _) = page.split_once("## What ringway does not have").expect("both parts");
    let numbers: Vec<_> = rows(built, "| CVE").into_iter().chain(rows(built, "| RUSTSEC")).collect();
    assert!(numbers.len() > 50, "{}", numbers.len());
    for (title, row) in numbers {
        assert!(named(row, title) > 0, "{title}: no test is named");
    }
}

#[test]
fn the_registry_line_and_the_model_policy_stand_as_described() {
    let (page, registry) = (read(&root("docs/adding-a-policy.md")), read(&root("src/policy/mod.rs")));
    let line = r#"Guard: "ip" => ip::Ip;"#;
    assert!(page.contains(line) && registry.contains(line));
    for verb in ["fn compile(", "fn new_state(", "fn on_request(", "fn explain("] {
        assert!(page.contains(verb) && read(&root("src/policy/ip.rs")).contains(verb), "{verb}");
    }
}
