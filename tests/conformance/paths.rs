//! Can a rule on a path be walked around? Proof 2 of F49: spellings of paths, rules of every kind, models of endpoints.
//!
//! The table runs against the program; thousands of further spellings run against its decision without sockets.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;

use proptest::prelude::*;
use ringway::http::path::PathPolicy;

use crate::bypass::{self, Judge, KINDS, MODELS, POLICIES, Readings};
use crate::support::Kind;
use crate::support::e2e::client::{Client, find};
use crate::support::e2e::{Gateway, PATIENCE};

/// Request targets that some endpoint takes for something at or below `/admin`.
pub const HOSTILE: &[&[u8]] = &[
    // As it stands, and with escapes that are not needed.
    b"/admin",
    b"/admin/",
    b"/admin/x",
    b"/admin?x",
    b"/%61dmin",
    b"/%61%64%6d%69%6e",
    b"/%61%64%6D%69%6E/",
    b"/adm%69n/x",
    b"/admi%6e?x=/",
    b"/admin/%78",
    // Dot segments, plain and escaped.
    b"/./admin",
    b"/../admin",
    b"/x/../admin",
    b"/x/./../admin",
    b"/x/y/../../admin",
    b"/admin/.",
    b"/admin/./x",
    b"/admin/x/..",
    b"/admin/../admin",
    b"/%2e/admin",
    b"/%2e%2e/admin",
    b"/x/%2e%2e/admin",
    b"/x/.%2e/admin",
    b"/x/%2E./admin",
    b"/x/%2e%2E%2fadmin",
    b"/x/../../admin",
    b"/x/../..//admin",
    // Empty segments.
    b"//admin",
    b"///admin",
    b"//admin/x",
    b"/.//admin",
    b"/x/..//admin",
    b"/x//../admin",
    b"/x//..//../admin",
    b"/admin//x",
    b"/admin//",
    b"//x/admin",
    b"///x/admin/y",
    b"//x;/admin",
    // Encoded slashes.
    b"/%2fadmin",
    b"/%2Fadmin",
    b"%2fadmin",
    b"/admin%2f",
    b"/admin%2fx",
    b"/admin%2Fx/y",
    b"/x%2f..%2fadmin",
    b"/x/..%2fadmin",
    b"/x%2f../admin",
    b"/..%2fadmin",
    b"/%2f%2fadmin",
    b"/x/%2e%2e%2fadmin",
    // Backslashes.
    b"/\\admin",
    b"\\admin",
    b"/admin\\",
    b"/admin\\x",
    b"/x\\..\\admin",
    b"/x/..\\admin",
    b"/%5cadmin",
    b"/admin%5cx",
    b"/x%5c..%5cadmin",
    b"/x/..%5Cadmin",
    b"/x/%2e%2e%5cadmin",
    // Parameters.
    b"/admin;",
    b"/admin;x",
    b"/admin;x=1/",
    b"/admin;/x",
    b"/admin;jsessionid=1/x",
    b"/admin/;x",
    b"/admin/x;y",
    b"/;/admin",
    b"/;x/admin",
    b"/x/..;/admin",
    b"/x/..;a=b/admin",
    b"/x/.;/../admin",
    b"/.;/admin",
    b"/..;/admin",
    b"/x;/../admin",
    b"/admin%3b",
    b"/admin%3bx/",
    b"/admin%3Bx/y",
    b"/x/..%3b/admin",
    b"/;%2fadmin",
    b"/admin;%2f..",
    b"/x;/..;/admin",
    b"/admin;x?y",
    b"/x/%2e%2e;/admin",
    b"/admin;;a/x",
    b"/%61dmin;x",
    // Double encoding, and triple.
    b"/%2561dmin",
    b"/%2561%2564min/x",
    b"/x/%252e%252e/admin",
    b"/x%252f..%252fadmin",
    b"/x/..%252fadmin",
    b"/admin%252fx",
    b"/%252fadmin",
    b"/x%255c..%255cadmin",
    b"/admin%255cx",
    b"/admin%253bx",
    b"/%25%36%31dmin",
    b"/%25%32%65%25%32%65/admin",
    b"/%25252e%25252e/admin",
    b"/x/%25%32e%25%32e/admin",
    // NUL and other controls, fragments, question marks.
    b"/admin%00",
    b"/admin%00.html",
    b"/admin%00/x",
    b"/admin%2500",
    b"/admin%2500.html",
    b"/admin\0",
    b"/admin%09",
    b"/admin%0d%0a",
    b"/admin\x7f",
    b"/admin#x",
    b"/x#/../admin",
    b"/admin%23",
    b"/admin%23/x",
    b"/admin%3f",
    b"/admin%3fx=1",
    b"/admin%3F/../x",
    b"/admin%253f",
    // Overlong and broken UTF-8, other encodings of characters.
    b"/x/%c0%ae%c0%ae/admin",
    b"/x%c0%afadmin",
    b"/%c0%afadmin",
    b"/x/..%c0%afadmin",
    b"/%e0%80%afadmin",
    b"/%f0%80%80%afadmin",
    b"/%c1%a1dmin",
    b"/admin%c0%80",
    b"/x/..%25c0%25af/admin",
    b"/%u0061dmin",
    b"/%u002fadmin",
    b"/%uff0fadmin",
    b"/\xc0\xafadmin",
    b"/admin%80",
    b"/%ff/../admin",
    // Broken escapes.
    b"/admin%",
    b"/admin%2",
    b"/admin%zz",
    b"/%/../admin",
    b"/admin%2/x",
    b"/x/%%32%65%%32%65/admin",
    // Other forms of the target.
    b"http://HOST/admin",
    b"http://HOST//admin",
    b"http://HOST/x/../admin",
    b"HTTP://HOST/admin;x",
    b"http://HOST/%61dmin",
    b"http://HOST\\admin",
    b"http://HOST;/admin",
    b"http://HOST#/admin",
    b"http:///admin",
    b"http:/admin",
    b"admin",
    b"../admin",
    b"*/admin",
    b"?/admin",
    b"/admin /x",
    b"/x/ /../admin",
];

/// Targets that no rule on `/admin` concerns, and what must arrive; none where the policy refuses.
const HARMLESS: &[(&str, [Option<&str>; 3])] = &[
    ("/", [Some("/"); 3]),
    ("/administrator", [Some("/administrator"); 3]),
    ("/x/admin", [Some("/x/admin"); 3]),
    ("/users;role=x/7;v=1?a=/admin", [Some("/users;role=x/7;v=1?a=/admin"); 3]),
    ("/a%3Bb/c", [Some("/a%3Bb/c"); 3]),
    ("/%40scope/a%2bb%2Cc", [Some("/%40scope/a%2Bb%2Cc"); 3]),
    ("/wiki/What%3f", [Some("/wiki/What%3F"); 3]),
    ("/c%23/x", [Some("/c%23/x"); 3]),
    ("/100%25/x", [Some("/100%25/x"); 3]),
    ("/caf%c3%a9/%E2%82%AC", [Some("/caf%C3%A9/%E2%82%AC"); 3]),
    ("/a/./b/../c", [Some("/a/c"); 3]),
    ("/a[1]|{x}^", [Some("/a%5B1%5D%7C%7Bx%7D%5E"); 3]),
    ("/a//b/", [None, Some("/a/b/"), Some("/a//b/")]),
    ("/group%2fproject", [None, None, Some("/group%2Fproject")]),
    ("/a%5cb", [None, None, Some("/a%5Cb")]),
    ("/a%252Fb", [None, None, Some("/a%252Fb")]),
    ("/caf%e9", [None, None, Some("/caf%E9")]),
];

/// Answers every request with the target that it got, byte by byte; whatever it is.
pub fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer_with_target(stream));
        }
    });
    address
}

/// What came of a target.
pub struct Fate {
    pub status: u16,
    /// What the origin got for it.
    pub forwarded: Option<Vec<u8>>,
    pub body: Vec<u8>,
}

impl Fate {
    /// The reason of a refusal.
    pub fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).unwrap_or_default();
        body["reason"].as_str().unwrap_or_default().to_owned()
    }

    pub fn forwarded(&self) -> Option<&str> {
        self.forwarded.as_deref().map(|target| std::str::from_utf8(target).expect("ASCII"))
    }
}

/// Asks for a target on a connection of its own.
#[track_caller]
pub fn ask(address: SocketAddr, host: &str, target: &[u8]) -> Fate {
    let mut client = Client::connect(address);
    let host_line = format!(" HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    client.send([b"GET ", target, host_line.as_bytes()].concat());
    let Some(response) = client.try_response(false) else {
        return Fate { status: 0, forwarded: None, body: Vec::new() };
    };
    let forwarded = (response.header("x-echo").is_some()).then(|| response.body.clone());
    Fate { status: response.status, forwarded, body: response.body }
}

#[test]
fn no_rule_is_walked_around() {
    assert!(HOSTILE.len() >= 68, "{}", HOSTILE.len());
    let gateway = Gateway::start(&bypass::config(&echo().to_string()));
    let mut walked = Vec::new();
    let (mut passed, mut refused) = (0, 0);
    for (at, policy) in POLICIES.iter().enumerate() {
        for kind in &KINDS {
            for target in HOSTILE {
                let fate = ask(gateway.addresses[at], kind.host, &on(kind.before, kind.host, target));
                let Some(sent) = &fate.forwarded else {
                    refused += usize::from(matches!(fate.status, 400 | 403));
                    continue;
                };
                passed += 1;
                if let Some(model) = Readings::of(sent).walked_around(kind) {
                    let (target, sent) = (target.escape_ascii(), sent.escape_ascii());
                    walked.push(format!("{} under {policy}: {target} arrives as {sent}: {model}", kind.name));
                }
            }
        }
    }
    assert!(walked.is_empty(), "{}:\n{}", walked.len(), walked.join("\n"));
    // Neither does everything pass nor nothing: rules for a parameter or an exact path leave much of `/admin` open.
    assert!(refused > 1_000 && passed > 100, "{refused} refused, {passed} passed");
}

#[test]
fn harmless_paths_arrive() {
    let gateway = Gateway::start(&bypass::config(&echo().to_string()));
    for kind in &KINDS {
        for (target, wanted) in HARMLESS.iter().filter(|(target, _)| !(kind.refuses)(target.as_bytes())) {
            for (at, policy) in POLICIES.iter().enumerate() {
                let fate = ask(gateway.addresses[at], kind.host, format!("{}{target}", kind.before).as_bytes());
                assert_eq!(fate.forwarded(), wanted[at], "{target} under {policy}, {}: {}", kind.name, fate.status);
                if wanted[at].is_none() {
                    assert_eq!((fate.status, fate.reason().as_str()), (400, "bad_path"), "{target} under {policy}");
                }
            }
        }
    }
}

#[test]
fn the_models_see_what_the_table_is_for() {
    // A gateway that forwards everything is walked around under every model, so that the test above can fail.
    for (name, read) in MODELS {
        let found = HOSTILE.iter().filter(|target| {
            let path = target.split(|byte| *byte == b'?').next().expect("a part");
            !path.starts_with(b"/admin") && bypass::views(&read(path)).iter().any(|view| view.starts_with(b"/admin"))
        });
        assert!(found.count() > 10, "{name}");
    }
    let prefix = &KINDS[1];
    for path in ["/admin;x", "/admin%2Fx", "/x/..%2Fadmin", "/%2561dmin", "/admin%5Cx", "/admin%00", "/admin%3Fx"] {
        assert!(Readings::of(path.as_bytes()).walked_around(prefix).is_some(), "{path}");
    }
    assert_eq!(Readings::of(b"/administrator").walked_around(prefix), None);
    assert_eq!(Readings::of(b"/users;role=admin/7").walked_around(prefix), None);
}

/// The spellings of one character or separator.
fn spelled(text: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(text).prop_map(str::to_owned)
}

fn targets() -> impl Strategy<Value = String> {
    let separator: &[&str] = &[
        "/",
        "/",
        "/",
        "//",
        "%2f",
        "%2F",
        "\\",
        "%5c",
        "/./",
        "/x/../",
        "/%2e/",
        "/;a/",
        ";a/",
        "%252f",
        "%255C",
        "/x/..;/",
        "/x/%2e%2e%2f",
        "/x/..%5c",
        "/x%3b/../",
        "%c0%af",
        "/..%3f/",
        ";",
        "%3b",
        "/.;a/",
        "/x/%252e%252e/",
    ];
    let first: &[&str] = &["a", "a", "a", "%61", "%2561", "%c1%a1", "%25%36%31"];
    let word: &[&str] = &["dmin", "dmin", "dmi%6e", "dmi%6E", "dmi%256e"];
    let last: &[&str] = &[
        "",
        "",
        "/",
        "/x",
        ";x",
        ";x/y",
        "%3b",
        "%00",
        "%2500",
        "?q",
        "%3fq",
        "%253f",
        "%23",
        "#",
        "%2f",
        "%5c",
        "\\",
        "/..",
        "/.",
        "/..;",
        "%20",
        "%",
        "//",
        "/;",
        ".",
        "%2e",
        "%252e%252e",
        ";%2f..",
        "/x/..",
        "%25",
    ];
    let parts = (spelled(separator), spelled(separator), spelled(first), spelled(word), spelled(last), any::<bool>());
    parts.prop_map(|(one, two, first, word, last, twice)| {
        let two = if twice { two } else { String::new() };
        let slash = if one.starts_with('/') { "" } else { "/" };
        format!("{slash}{one}{two}{first}{word}{last}")
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_generated_spelling_walks_around_a_rule(
        target in targets(),
        more in "([a-c./;%\\\\?]|%2[0-9a-fA-F]|%[345][0-9a-f]){0,6}",
    ) {
        thread_local! {
            static JUDGE: Judge = Judge::new();
        }
        for kind in &KINDS {
            let target = format!("{}{target}{more}", kind.before);
            for (at, policy) in POLICIES.iter().enumerate() {
                let sent = JUDGE.with(|judge| judge.forwarded(at, kind.host, target.as_bytes()));
                let Some(sent) = sent else { continue };
                let model = Readings::of(&sent).walked_around(kind);
                prop_assert!(
                    model.is_none(),
                    "{} under {}: {} arrives as {}: {:?}", kind.name, policy, target, sent.escape_ascii(), model
                );
            }
        }
    }
}

const INTO_BASE: &str = "services: [{name: up, endpoints: [\"127.0.0.1:1\"]}]
routes:
  - {name: t, path: \"/t/{a}/{b}\", service: up, rewrite: {path: \"/base/{a}{b}/end\"}}
  - {name: r, path: /r/*, service: up, rewrite: {pattern: \"^/r/(.*)/(.*)$\", to: /base/$2$1}}
  - {name: p, path: /p/*, service: up, rewrite: {prefix: /base}}
  - {name: raw, prefix: /q, raw_prefix: true, service: up, rewrite: {prefix: /base/}}
  - {name: rest, path: \"/s/{rest...}\", service: up, rewrite: {path: \"/base/{rest}.html\"}}
";

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_capture_leaves_its_directory(
        route in prop::sample::select(&["/t/", "/r/", "/p/", "/p", "/q", "/s/", "/%70/", "/r;/"][..]),
        target in targets(),
        more in "([a-c./;%\\\\?]|%2[0-9a-fA-F]|%[345][0-9a-f]|2[ef]|\\.\\.){0,8}",
    ) {
        thread_local! {
            static JUDGE: Judge = Judge::of(&format!("listeners:\n{}{INTO_BASE}", bypass::listeners()));
        }
        for target in [format!("{route}{more}{target}"), format!("{route}{more}")] {
            for (at, policy) in POLICIES.iter().enumerate() {
                let Some(sent) = JUDGE.with(|judge| judge.forwarded(at, "a.test", target.as_bytes())) else { continue };
                // Without a match of its expression, a path stays what it is.
                let model = if sent.starts_with(b"/r/") { None } else { bypass::escapes(b"/base", &sent) };
                prop_assert!(model.is_none(), "{policy}: {target} arrives as {}: {model:?}", sent.escape_ascii());
            }
        }
    }
}

#[test]
fn the_default_is_strict_everywhere() {
    let snapshot = bypass::snapshot("routes: [{path: /*, respond: 200}]\nlisteners: [\"127.0.0.1:0\"]\n");
    assert_eq!(snapshot.listeners[0].rules.path_policy, PathPolicy::Strict);
    assert_eq!(PathPolicy::default(), PathPolicy::Strict);
}

#[test]
fn routes_that_no_path_can_take_are_refused() {
    for path in ["/a;b", "/a%2Fb", "/a//b", "/a%3fb", "/a%00", "/..", "/a/{id}/b;c", "/a/./{id}"] {
        let yaml = format!("routes: [{{path: \"{path}\", respond: 200}}]\nlisteners: [\"127.0.0.1:0\"]\n");
        let told = std::panic::catch_unwind(|| bypass::snapshot(&yaml)).err().expect("refused");
        let told = told.downcast_ref::<String>().expect("a text").clone();
        assert!(told.contains("no request can have this path"), "{path}: {told}");
    }
}

#[test]
fn a_known_path_with_another_method_is_no_unknown_path() {
    let origin = echo();
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{origin}\"]}}]\nroutes:\n  \
         - {{name: read, path: /admin/*, methods: [GET],\n     \
         service: up, policies: [ip: {{deny: [0.0.0.0/0]}}]}}\ndefault_route: {{service: up}}\n"
    ));
    for (line, status) in [
        ("GET /admin/x", 403),
        ("POST /admin/x", 405),
        ("get /admin/x", 405),
        ("POST /admin;x/y", 400),
        ("GET /other;x/y", 200),
        ("POST /other", 200),
    ] {
        let mut client = Client::connect(gateway.address);
        client.send(format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"));
        let response = client.response();
        assert_eq!(response.status, status, "{line}");
        assert_eq!(response.header("allow"), (status == 405).then_some("GET, HEAD"), "{line}");
    }
}

/// Counts the targets with which a rule on the prefix `/admin` is walked around, for every proxy that is installed.
#[test]
#[ignore = "compares with other proxies; writes docs/conformance.md"]
fn peer_paths() {
    const BEGIN: &str = "<!-- begin: written by the test peer_paths -->\n";
    const END: &str = "<!-- end of paths -->\n";
    let origin = echo();
    let gateway = Gateway::start(&bypass::config(&origin.to_string()));
    let mut columns: Vec<(String, Vec<usize>)> = Vec::new();
    for (at, policy) in POLICIES.iter().enumerate() {
        columns.push((format!("ringway, {policy}"), count(gateway.addresses[at], "prefix.test")));
    }
    for kind in [Kind::Nginx, Kind::Haproxy] {
        let Some(version) = kind.version() else { continue };
        let edge = kind.start(origin);
        columns.push((format!("{} {version}", kind.word()), count(edge.address, "deny.test")));
    }
    let names: Vec<&str> = columns.iter().map(|(name, _)| name.as_str()).collect();
    let mut text = format!("| the endpoint… | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len()));
    let rows = MODELS.iter().map(|(name, _)| *name).chain(["any of them"]);
    for (at, row) in rows.enumerate() {
        let cells: Vec<String> = columns.iter().map(|(_, counts)| counts[at].to_string()).collect();
        writeln!(text, "| {row} | {} |", cells.join(" | ")).expect("memory");
    }
    println!("{} targets\n{text}", HOSTILE.len());
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/conformance.md");
    let page = std::fs::read_to_string(&path).expect("the page");
    let title = "\n## Paths (F49)\n\n";
    let empty = format!("{page}{title}{BEGIN}{END}");
    let page = if page.contains(BEGIN) { page } else { empty };
    let (before, rest) = page.split_once(BEGIN).expect("a place for the table");
    let (_, after) = rest.split_once(END).expect("its end");
    let head = format!(
        "{} request targets; a rule denies what begins with `/admin`. How many of them reach an endpoint that takes\n\
         them for something below `/admin`:\n\n",
        HOSTILE.len()
    );
    std::fs::write(&path, format!("{before}{BEGIN}{head}{text}{END}{after}")).expect("written");
}

/// Targets that walk around the rule, by model, and by any of them.
fn count(address: SocketAddr, host: &str) -> Vec<usize> {
    let mut counts = vec![0; MODELS.len() + 1];
    for target in HOSTILE {
        let Some(sent) = ask(address, host, &on("", host, target)).forwarded else { continue };
        let path = sent.split(|byte| *byte == b'?').next().expect("a part");
        let refused = |view: &Vec<u8>| (KINDS[1].refuses)(view);
        let walked = MODELS.map(|(_, read)| bypass::views(&read(path)).iter().any(refused));
        walked.iter().enumerate().for_each(|(at, walked)| counts[at] += usize::from(*walked));
        counts[MODELS.len()] += usize::from(walked.contains(&true));
    }
    counts
}

/// The target on this host, behind what leads to the route that is tried.
fn on(before: &str, host: &str, target: &[u8]) -> Vec<u8> {
    let text: String = target.iter().map(|&byte| byte as char).collect();
    let text = match text.starts_with('/') {
        true => format!("{before}{text}"),
        false => text.replace("HOST", &format!("{host}{before}")),
    };
    text.chars().map(|char| char as u8).collect()
}

fn answer_with_target(mut stream: TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).expect("an option");
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = find(&bytes, b"\r\n\r\n") {
            break end;
        }
        let mut piece = [0; 8192];
        match stream.read(&mut piece) {
            Ok(count) if count > 0 => bytes.extend_from_slice(&piece[..count]),
            _ => return,
        }
    };
    let line = bytes[..end].split(|byte| *byte == b'\r').next().unwrap_or_default();
    let target = line.strip_prefix(b"GET ").unwrap_or(line);
    let target = target.strip_suffix(b" HTTP/1.1").or(target.strip_suffix(b" HTTP/1.0")).unwrap_or(target);
    let head = format!("HTTP/1.1 200 OK\r\nX-Echo: 1\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", target.len());
    // The peer may have left; then there is nobody to answer.
    let _ = stream.write_all(&[head.as_bytes(), target].concat());
}
