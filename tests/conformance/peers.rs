//! The same cases before other proxies, as a table for `docs/conformance.md`.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use crate::support::case::run;
use crate::support::{Case, Kind, Recorder};

const BEGIN: &str = "<!-- begin: written by the test peer_table -->\n";
const END: &str = "<!-- end -->\n";

/// The groups of rows, in the order of the page. A suite with a table of cases adds its line here.
fn groups() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("Request lines (F46)", crate::framing::request_lines()),
        ("Field lines (F46)", crate::framing::field_lines()),
        ("Lengths (F46)", crate::framing::lengths()),
        ("Chunks and trailers (F46)", crate::framing::chunks()),
        ("Host (F50)", crate::host::cases()),
        ("Fields of one hop (F52)", crate::identity::hop_by_hop()),
        ("Forged identity, from a stranger (F51, F53, F54)", crate::identity::forged()),
        ("Methods, expectations, upgrades (F47, F54)", crate::methods::cases()),
        ("Sizes (F40)", crate::sizes::cases()),
        ("Ranges (F56)", crate::sizes::ranges()),
        ("Heads of answers (F35, F36)", crate::responses::heads()),
        ("Bodies of answers, interim responses (F24, F35)", crate::responses::bodies()),
    ]
}

/// Runs every case against every proxy that is installed and writes the comparison into the page.
#[test]
#[ignore = "compares with other proxies; writes docs/conformance.md"]
fn peer_table() {
    let groups = groups();
    let kinds: Vec<(Kind, String)> = Kind::ALL.iter().filter_map(|&kind| Some((kind, kind.version()?))).collect();
    let columns: Vec<Vec<String>> = kinds.iter().map(|(kind, _)| words(*kind, &groups)).collect();
    let mut text = format!("Run on {}.\n", today());
    let names: Vec<String> = kinds.iter().map(|(kind, version)| format!("{} {version}", kind.word())).collect();
    let mut at = 0;
    for (title, cases) in &groups {
        let rule = "---|".repeat(names.len() + 1);
        write!(text, "\n### {title}\n\n| case | {} |\n|{rule}\n", names.join(" | ")).expect("memory");
        for case in cases {
            let row: Vec<&str> = columns.iter().map(|column| column[at].as_str()).collect();
            writeln!(text, "| {} | {} |", case.name.replace('|', "\\|"), row.join(" | ")).expect("memory");
            at += 1;
        }
    }
    println!("{text}");
    write_page(&text);
}

fn words(kind: Kind, groups: &[(&'static str, Vec<Case>)]) -> Vec<String> {
    let origin = Recorder::patient(Duration::from_millis(250));
    let edge = kind.start(origin.address);
    groups.iter().flat_map(|(_, cases)| cases).map(|case| run(case, &edge, &origin).word(case)).collect()
}

fn today() -> String {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%d"]).output().expect("date runs");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn write_page(table: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let page = std::fs::read_to_string(&path).unwrap_or_else(|_| format!("# Conformance\n\n{BEGIN}{END}"));
    let (before, rest) = page.split_once(BEGIN).expect("the page has a place for the table");
    let (_, after) = rest.split_once(END).expect("the place has an end");
    std::fs::write(&path, format!("{before}{BEGIN}{table}{END}{after}")).expect("written");
}
