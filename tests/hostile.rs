//! Inputs that are made to cost much: regular expressions that other engines need forever for (F57), documents nested
//! so deeply that a recursion would end the process (F58).

#![allow(clippy::disallowed_methods, reason = "what is measured is real time")]

use std::net::IpAddr;
use std::time::Instant;

use ringway::config::load_str;
use ringway::policy;
use ringway::route::{Captures, Order, PathPattern, Rewrite, RouteId, RouteInput, RouteSpec, RouteTable, Spellings};
use ringway::schema::FixedEnv;

/// Expressions for which an engine that tries again and again needs time exponential or cubic in the text.
const SLOW: [&str; 8] = [
    "^/(a+)+$",
    "^/(a|aa)+$",
    "^/(a|a)*$",
    "^/(.*)*x$",
    "^/(a*)*b$",
    "^/.*.*.*.*=.*$",
    "^/(a?){40}a{40}b$",
    "^/([a-z]+)*[0-9]$",
];

struct Asked<'a>(&'a [u8]);

impl RouteInput for Asked<'_> {
    fn method(&self) -> &[u8] {
        b"GET"
    }
    fn host(&self) -> &[u8] {
        b"h"
    }
    fn path(&self) -> &[u8] {
        self.0
    }
    fn query(&self) -> Option<&[u8]> {
        None
    }
    fn header<'a>(&'a self, _: &[u8], _: &mut dyn FnMut(&'a [u8]) -> bool) {}
    fn client_ip(&self) -> IpAddr {
        IpAddr::from([192, 0, 2, 1])
    }
}

/// A MiB is 128 times the longest path that is let in, and this build is not optimised: the bound is that of linear
/// work with much room. Any other work would take years.
#[test]
fn regular_expressions_take_linear_time() {
    let long = [b"/".to_vec(), vec![b'a'; 1 << 20], b"!".to_vec()].concat();
    for text in SLOW {
        let spec = RouteSpec::new(RouteId(0), PathPattern::Regex(text.to_owned()));
        let table = RouteTable::build(vec![spec], Order::Specificity).expect("compiles");
        let begun = Instant::now();
        let found = table.find(&Asked(&long), &mut Captures::new());
        assert!(found.is_err(), "{text} matches");
        let rewrite = Rewrite::regex(text, "/b$0").expect("compiles");
        let _ = rewrite.apply(Spellings::one(&long), 0, &Captures::new(), &mut Vec::new());
        assert!(begun.elapsed().as_secs() < 5, "{text} took {:?}", begun.elapsed());
    }
}

#[test]
fn regular_expressions_have_a_bound_at_load() {
    for text in ["(((a{100}){100}){100})", r"(\w{1000}){1000}", r"[^a]{100000}"] {
        let spec = RouteSpec::new(RouteId(0), PathPattern::Regex(text.to_owned()));
        assert!(RouteTable::build(vec![spec], Order::Specificity).is_err(), "{text} is taken");
        let file = format!("{{\"routes\": [{{\"regex\": {text:?}, \"respond\": 204}}]}}");
        let refused = load_str("deep.json", &file, &FixedEnv::default(), policy::SCHEMA).err();
        assert!(refused.is_some_and(|diagnostics| diagnostics.render().contains("regex")), "{text}");
    }
}

/// On a thread with little stack, which a recursion over the document would overflow.
#[test]
fn documents_nested_a_hundred_thousand_deep_are_refused() {
    const DEEP: usize = 100_000;
    let documents = [
        ("a.json", format!("{{\"routes\": {}{}}}", "[".repeat(DEEP), "]".repeat(DEEP))),
        ("b.json", "{\"a\":".repeat(DEEP) + "1" + &"}".repeat(DEEP)),
        ("c.json", "[".repeat(DEEP)),
        ("d.yaml", "- ".repeat(DEEP) + "a"),
        ("e.yaml", format!("routes: {}", "{a: ".repeat(DEEP))),
        ("f.yaml", "? ".repeat(DEEP)),
        ("g.yaml", "!a ".repeat(DEEP)),
    ];
    let load = move || {
        for (name, text) in documents {
            let refused = load_str(name, &text, &FixedEnv::default(), policy::SCHEMA).err();
            let said = refused.unwrap_or_else(|| panic!("{name} is taken")).render();
            assert!(said.contains("E000") && said.len() < 10_000, "{name}: {}", &said[..said.len().min(300)]);
        }
    };
    std::thread::Builder::new().stack_size(512 * 1024).spawn(load).expect("a thread").join().expect("no overflow");
}
