//! `ringway explain`: golden texts, and that it never tells another route than the one that is taken.

use std::path::PathBuf;
use std::process::Command;

use proptest::prelude::*;
use ringway::cli::explain::asked::Asked;
use ringway::cli::explain::report::{Report, explain};
use ringway::control::source::ConfigSource;
use ringway::http::exchange::Exchange;
use ringway::pipeline::drive::{self, Input};
use ringway::policy::CompileEnv;
use ringway::snapshot::Snapshot;

const ENV: CompileEnv = CompileEnv { workers: 1, random: 0 };

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/explain").join(name)
}

fn ringway(arguments: &[&str]) -> (i32, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringway"));
    let output = command.arg("explain").args(arguments).arg("-c").arg(data("shop.yaml")).output().expect("it runs");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8(text).expect("text"))
}

/// Compares with a file, or writes it when `RINGWAY_BLESS` is set.
fn golden(name: &str, code: i32, arguments: &[&str]) {
    let (got, text) = ringway(arguments);
    assert_eq!(got, code, "{name}: {text}");
    let path = data(name);
    if std::env::var_os("RINGWAY_BLESS").is_some() {
        std::fs::write(&path, &text).expect("writable");
    }
    let want = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(want == text, "{name} differs; set RINGWAY_BLESS=1 to accept:\n{text}");
}

#[test]
fn a_route_with_captures_and_a_rewrite() {
    golden("user.txt", 0, &["GET", "http://api.example.com//api/./users/%37", "-H", "X-User: ann"]);
}

#[test]
fn a_more_demanding_route_wins() {
    golden("mobile.txt", 0, &["GET", "/api/users/7", "-H", "X-Client: mobile/2", "--listener", "strict"]);
}

#[test]
fn a_split_with_a_limit_behind_a_trusted_proxy() {
    golden("split.txt", 0, &["DELETE", "/api/users/7", "--client", "10.1.1.1", "-H", "X-Forwarded-For: 192.0.2.7"]);
}

#[test]
fn a_policy_that_refuses() {
    golden("refused.txt", 0, &["GET", "http://admin.example.com/admin/", "--client", "198.51.100.1"]);
}

#[test]
fn answers_without_an_endpoint() {
    golden("redirect.txt", 0, &["GET", "/old?x=1"]);
    golden("respond.txt", 0, &["GET", "/gone"]);
    golden("empty.txt", 0, &["GET", "/empty"]);
}

#[test]
fn no_route() {
    golden("missed.txt", 1, &["GET", "/nowhere", "--all"]);
    golden("method.txt", 1, &["POST", "/gone"]);
    golden("readings.txt", 1, &["GET", "/api/users;v=1/7"]);
}

#[test]
fn bodies_that_are_too_large() {
    golden("large.txt", 0, &["POST", "/api/", "-H", "Content-Length: 99999999999"]);
}

#[test]
fn requests_that_the_listener_refuses() {
    golden("climbs.txt", 2, &["GET", "/a/../../b"]);
    golden("strict.txt", 2, &["GET", "/a//b", "--listener", "strict"]);
    golden("no_header.txt", 2, &["GET", "/", "-H", "nonsense"]);
    golden("no_listener.txt", 2, &["GET", "/", "--listener", "none"]);
}

#[test]
fn json_has_the_same_content() {
    let (code, text) = ringway(&["GET", "/api/users/7", "-H", "X-User: ann", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["route"]["name"]), (0, &"user".into()));
    assert_eq!(json["route"]["captures"][0], serde_json::json!(["id", "7"]));
    assert_eq!(json["answer"]["status"], serde_json::Value::Null);
    let picked = json["services"][0]["endpoints"].as_array().expect("a list").iter().filter(|e| e["picked"] == true);
    assert_eq!(picked.count(), 1);
}

/// A route of a random configuration, as text.
fn route(at: usize, path: &str, host: &str, method: &str, predicate: &str, priority: i32) -> String {
    let mut text = format!("  - name: r{at}\n    {path}\n    respond: 200\n    priority: {priority}\n");
    for (key, value) in [("hosts", host), ("methods", method)] {
        if !value.is_empty() {
            text += &format!("    {key}: [{value}]\n");
        }
    }
    if !predicate.is_empty() {
        text += &format!("    {predicate}\n");
    }
    text
}

fn routes() -> impl Strategy<Value = String> {
    let paths = [
        "exact: /a",
        "exact: /a/b",
        "path: /a/{x}",
        "path: /a/*",
        "path: /{x}/b",
        "prefix: /a",
        "prefix: /",
        "prefix: /a/b",
        "{prefix: /a, raw_prefix: true}",
        "regex: ^/a/.*b$",
        "regex: ^/[ab]+$",
        "path: /*",
    ];
    let paths = paths.map(|path| match path.strip_prefix("{prefix: /a, ") {
        Some(_) => "prefix: /a\n    raw_prefix: true",
        None => path,
    });
    let hosts = ["", "", "a.test", "\"*.test\"", "b.a.test"];
    let methods = ["", "", "GET", "POST", "GET, POST"];
    let predicates = ["", "", "headers: {X-V: \"1\"}", "query: {q: {present: true}}", "client_addresses: [10.0.0.0/8]"];
    let one = (
        prop::sample::select(paths.to_vec()),
        prop::sample::select(hosts.to_vec()),
        prop::sample::select(methods.to_vec()),
        prop::sample::select(predicates.to_vec()),
        0..3i32,
    );
    (prop::collection::vec(one, 1..12), prop::bool::ANY, prop::bool::ANY).prop_map(|(routes, strict, default)| {
        let mut text = "listeners: [\"127.0.0.1:0\"]\nadmin: {enabled: false}\nroutes:\n".to_owned();
        for (at, (path, host, method, predicate, priority)) in routes.iter().enumerate() {
            text += &route(at, path, host, method, predicate, *priority);
        }
        text += if strict { "order: strict\n" } else { "" };
        text += if default { "default_route: {respond: 404}\n" } else { "" };
        text
    })
}

fn asked() -> impl Strategy<Value = Asked> {
    let targets = ["/", "/a", "/a/", "/a/b", "/a/%62", "/ab", "/a/./b", "//a", "/b/b", "/a/x/b", "/aab", "/../a", "/%"];
    let hosts = ["a.test", "b.a.test", "A.test:80", "other"];
    (
        prop::sample::select(targets.to_vec()),
        prop::sample::select(hosts.to_vec()),
        prop::sample::select(vec!["GET", "POST", "HEAD", "PURGE", "TRACE"]),
        prop::sample::select(vec!["", "?q=1"]),
        prop::bool::ANY,
        prop::bool::ANY,
    )
        .prop_map(|(target, host, method, query, header, inside)| Asked {
            method: method.into(),
            url: format!("http://{host}{target}{query}"),
            headers: header.then(|| "X-V: 1".to_owned()).into_iter().collect(),
            peer: if inside { [10, 0, 0, 1].into() } else { [192, 0, 2, 1].into() },
        })
}

/// Routes the request as a worker does, and compares.
fn check(snapshot: &Snapshot, asked: &Asked) -> Result<(), TestCaseError> {
    let listener = &snapshot.listeners[0];
    let report: Report = explain(snapshot, listener, asked, usize::MAX).map_err(TestCaseError::fail)?;
    let (mut request, accepted) = asked.parse(listener).map_err(TestCaseError::fail)?;
    if let Err(failure) = accepted {
        prop_assert!(report.request.is_none());
        prop_assert_eq!(report.answer.reason, Some(failure.reason.word()));
        return Ok(());
    }
    // One clone of the table per worker, as in the gateway.
    let policy = listener.rules.path_policy;
    let decided = drive::decide(snapshot, &snapshot.table.clone(), policy, &mut request);
    let x = &request.x;
    prop_assert_eq!(report.route.as_ref().map(|route| route.id), (x.route != Exchange::NO_ROUTE).then_some(x.route));
    prop_assert_eq!(report.answer.reason, decided.err().map(|failure| failure.reason.word()));
    // What is told of every route agrees with the decision: its winner is the one, and the rest is accounted for.
    let explanation = snapshot.table.explain(&Input(x));
    let matched = (x.route != Exchange::NO_ROUTE && snapshot.default_route != Some(x.route)).then_some(x.route);
    prop_assert_eq!(explanation.winner.map(|id| id.0), matched);
    prop_assert_eq!(report.candidates.len() + usize::from(matched.is_some()), snapshot.table.len());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// 256 tables with 16 requests each.
    #[test]
    fn the_explained_route_is_the_one_that_is_taken(
        text in routes(),
        requests in prop::collection::vec(asked(), 16),
    ) {
        let ready = ConfigSource::Embedded(text).compile(1, ENV, None).map_err(|d| TestCaseError::fail(d.render()))?;
        let ready = ready.expect("nothing serves yet");
        for asked in &requests {
            check(&ready.snapshot, asked)?;
        }
    }
}
