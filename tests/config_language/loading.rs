//! What is accepted, and what it means.

use ringway::config::model::{Algorithm, Answer, HostMode, Workers};
use ringway::config::{load_file, load_str};
use ringway::schema::FixedEnv;

use crate::support::{POLICIES, Sample, load, path, read};

const SMALL: &str = "\
listeners: [\":8080\"]
services:
  - name: users
    endpoints: [\"127.0.0.1:3000\"]
routes:
  - {path: /api/users/*, service: users}
";

fn none() -> FixedEnv {
    FixedEnv::default()
}

#[test]
fn six_lines_are_enough() {
    let loaded = load(SMALL, &none()).expect("accepted");
    assert_eq!(loaded.warnings.render(), "");
    let config = &loaded.config;
    assert_eq!(config.server.workers, Workers::Auto);
    assert_eq!(config.listeners[0].address.0.to_string(), "0.0.0.0:8080");
    assert_eq!(config.listeners[0].limits.body_bytes_max.get(), 10 << 20);
    assert_eq!(config.services[0].load_balancer.algorithm, Algorithm::RoundRobin);
    assert_eq!(config.services[0].timeouts.first_byte.as_secs(), 15);
    assert_eq!(config.services[0].host, HostMode::Preserve);
    assert_eq!(config.routes[0].name(), "/api/users/*");
    assert!(matches!(config.routes[0].answer(), Some(Answer::Service { .. })));
    assert_eq!(config.admin.listen.0.to_string(), "127.0.0.1:9901");
}

#[test]
fn the_full_file_is_accepted_and_its_dump_is_stable() {
    let env = FixedEnv::of(&[("API_TOKEN", "hunter2"), ("BACKEND", "10.0.0.9")]);
    let loaded = load(&read("tests/config_language/full.yaml"), &env).expect("accepted");
    assert_eq!(loaded.warnings.render(), "");
    let dump = loaded.effective();
    assert!(!dump.to_string().contains("hunter2"));
    assert_eq!(dump["routes"][0]["policies"][0]["sample"]["token"], "[redacted]");
    assert_eq!(dump["services"][0]["endpoints"][1]["address"], "10.0.0.9:3001");
    let sample: &Sample = loaded.config.routes[0].policies[0].config_as().expect("its type");
    assert_eq!((sample.token.expose(), sample.limit.get()), ("hunter2", 5));
}

#[test]
fn a_dump_loads_again_to_the_same_dump() {
    let dump = load(SMALL, &none()).expect("accepted").effective();
    let again = load_str("again.json", &dump.to_string(), &none(), POLICIES);
    assert_eq!(again.map_err(|d| d.render()).expect("accepted").effective(), dump);
}

#[test]
fn json_files_are_strict_json() {
    let good =
        "{\n\t\"listeners\": [\":8080\"],\n\t\"routes\": [{\"path\": \"/\\u00e4\\/\\\"x\\\"\", \"respond\": 204}]\n}\n";
    let loaded = load_str("a.json", good, &none(), POLICIES).map_err(|d| d.render()).expect("accepted");
    assert_eq!(loaded.config.routes[0].path_text().map(|(path, _)| path), Some("/ä/\"x\""));
    let pair = r#"{"listeners": [":1"], "routes": [{"path": "/", "respond": {"body": "\ud83d\ude00\t\u0001"}}]}"#;
    let loaded = load_str("a.json", pair, &none(), POLICIES).map_err(|d| d.render()).expect("accepted");
    let body = loaded.config.routes[0].respond.as_ref().map(|respond| respond.body.as_str());
    assert_eq!(body, Some("\u{1f600}\t\u{1}"));
    let error = load_str("a.json", "{listeners: [\":8080\"]}", &none(), POLICIES).expect_err("not JSON").render();
    assert!(error.starts_with("a.json:1:2: error[E0002]: this is not JSON"), "{error}");
}

#[test]
fn anchors_aliases_merges_and_extras_work() {
    let text = "\
x-limits: &limits {body_bytes_max: 1MiB, fields_max: 50}
listeners:
  - {address: \":8080\", limits: *limits}
  - address: \":8081\"
    limits:
      <<: *limits
      fields_max: 60
routes: [{path: /, respond: 204}]
";
    let config = load(text, &none()).expect("accepted").config;
    let limits =
        |at: usize| (config.listeners[at].limits.body_bytes_max.get(), config.listeners[at].limits.fields_max.get());
    assert_eq!((limits(0), limits(1)), ((1 << 20, 50), (1 << 20, 60)));
}

#[test]
fn secrets_come_from_variables_and_files() {
    let mut env = FixedEnv::of(&[("T", "from-env")]);
    env.files.push(("/run/t".to_owned(), "from-file\n".to_owned()));
    let text = format!(
        "{SMALL}policies:\n  - sample: {{token: \"${{T}}\"}}\n  - sample: {{token: file:/run/t}}\n\
         \x20 - sample: {{token: plain}}\n"
    );
    let loaded = load(&text, &env).expect("accepted");
    let tokens: Vec<&str> = loaded
        .config
        .policies
        .iter()
        .filter_map(|policy| policy.config_as::<Sample>())
        .map(|s| s.token.expose())
        .collect();
    assert_eq!(tokens, ["from-env", "from-file", "plain"]);
    assert!(loaded.warnings.render().contains("W0205"));
    assert_eq!(loaded.warnings.warnings_total(), 1);
}

#[test]
fn values_of_variables_do_not_appear_in_messages() {
    let env = FixedEnv::of(&[("V", "hunter2")]);
    for line in [
        "server: {timeout: \"${V}\"}",
        "server: {workers: \"${V}\"}",
        "order: ${V}",
        "admin: {listen: \"${V}:x\"}",
        "server: {pin_workers: \"${V}\"}",
    ] {
        let error = load(&format!("{SMALL}{line}\n"), &env).expect_err("refused");
        assert!(!error.contains("hunter2"), "{error}");
        assert!(error.contains("${V}"), "{error}");
    }
}

#[test]
fn default_names_of_routes_are_unique() {
    let text = "\
listeners: [\":80\"]
routes:
  - {path: /a, methods: [GET], respond: 200}
  - {path: /a, methods: [PUT], respond: 200}
  - {path: /a, respond: 200}
  - {name: \"/a#2\", path: /b, respond: 200}
  - {regex: '^/a, \"b\"$', respond: 200}
";
    let config = load(text, &none()).expect("accepted").config;
    let names: Vec<&str> = config.routes.iter().map(|route| route.name()).collect();
    assert_eq!(names, ["/a", "/a#3", "/a#4", "/a#2", "^/a___b_$"]);
}

#[test]
fn hostile_documents_are_refused_quickly() {
    let mut laughs = String::from("x-a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let previous = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("x-a{level}: &a{level} [{previous}]\n"));
    }
    let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
    let blocks: String = (0..300).map(|n| format!("{}a:\n", " ".repeat(n))).collect();
    let wide = format!("{{{}}}", (0..100_000).map(|n| format!("k{n}: 1")).collect::<Vec<_>>().join(", "));
    let twins = "a: 1\n".repeat(100_000);
    for (text, code) in [(laughs, "E0004"), (deep, "E0004"), (blocks, "E0004"), (wide, "E0102"), (twins, "E0003")] {
        let error = load(&text, &none()).expect_err("refused");
        assert!(error.contains(code), "{code}: {}", &error[..error.len().min(500)]);
    }
}

#[test]
fn files_that_cannot_be_read_are_an_error() {
    let error = load_file(&path("tests/no-such-file.yaml"), &none(), POLICIES).expect_err("missing").render();
    assert!(error.contains("E0001"), "{error}");
    assert!(load("", &none()).expect_err("empty").contains("the file is empty"));
    assert!(load("---\na: 1\n---\nb: 2\n", &none()).expect_err("two").contains("second document"));
}

#[test]
fn large_files_load_in_time() {
    let mut text = String::from("listeners: [\":80\"]\nservices: [{name: a, endpoints: [\"127.0.0.1:1\"]}]\nroutes:\n");
    for n in 0..10_000 {
        text.push_str(&format!("  - {{path: /r{n}/*, service: a}}\n"));
    }
    assert_eq!(load(&text, &none()).expect("accepted").config.routes.len(), 10_000);
}

#[test]
fn plain_secrets_are_masked_in_messages() {
    let text = format!("{SMALL}policies:\n  - sample: {{token: hunter2, limit: 99}}\n");
    let error = load(&text, &none()).expect_err("refused");
    assert!(error.contains("W0205") && error.contains("E0105"), "{error}");
    assert!(error.contains("{token: *******, limit: 99}") && !error.contains("hunter2"), "{error}");
}
