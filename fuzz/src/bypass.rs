//! Can a rule on a path be walked around? (F49, B1)
//!
//! Models of how endpoints read a path, written without the gateway's own code, and rules of every kind on `/admin`.
//! A request walks around a rule when the gateway forwards a path that some model takes for one that the rule refuses.

use ringway::config::compile::{Inputs, compile};
use ringway::config::load_str;
use ringway::pipeline::drive;
use ringway::pipeline::env::Request;
use ringway::policy::{self, CompileEnv};
use ringway::proto::h1::parse::Parsed;
use ringway::proto::h1::request::parse_lines;
use ringway::schema::FixedEnv;
use ringway::snapshot::Snapshot;
use ringway::sys::buf::Buf;

/// How a model reads the bytes that it gets for a path, before it resolves dot segments.
pub type Model = (&'static str, fn(&[u8]) -> Vec<u8>);

/// The six models of the published comparison.
pub const MODELS: [Model; 6] = [
    ("decodes unreserved characters", |path| {
        decode_if(path, |byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    }),
    ("decodes once", decode),
    ("drops ;parameters first", |path| decode(&drop_parameters(path))),
    ("decodes twice", |path| decode(&decode(path))),
    ("takes backslash for slash", |path| slashes(&decode(path))),
    ("ends at a NUL", |path| ends_at(&decode(path), b"\0")),
];

/// More of them, which the comparison does not have.
pub const MORE_MODELS: [Model; 7] = [
    ("takes two slashes for an authority", |path| behind_host(path).to_vec()),
    ("reads what it gets", <[u8]>::to_vec),
    ("decodes, then drops ;parameters", |path| drop_parameters(&decode(path))),
    ("ends at a decoded ? or #", |path| ends_at(&decode(path), b"?#")),
    ("decodes overlong UTF-8", |path| overlong(&decode(path))),
    ("decodes twice, slashes, drops, cuts", |path| {
        drop_parameters(&ends_at(&slashes(&overlong(&decode(&decode(path)))), b"\0?#"))
    }),
    ("drops, decodes, drops, slashes", |path| slashes(&drop_parameters(&decode(&drop_parameters(path))))),
];

/// A rule that refuses a part of a service, with whatever stands around it on a host of its own.
pub struct Kind {
    /// What the rule is.
    pub name: &'static str,
    /// The host that it is tried on.
    pub host: &'static str,
    /// What stands before a target, so that it becomes one of a route that rewrites.
    pub before: &'static str,
    /// Whether the rule refuses this path, as the service has it.
    pub refuses: fn(&[u8]) -> bool,
    routes: &'static str,
}

const OPEN: &str = "  - {name: open.HOST, hosts: [HOST], path: /*, service: up}\n";

/// All kinds of rule.
pub const KINDS: [Kind; 10] = [
    Kind {
        name: "exact",
        host: "exact.test",
        before: "",
        refuses: |path| path == b"/admin",
        routes: "  - {name: HOST, hosts: [HOST], exact: /admin, respond: 403}\n",
    },
    Kind {
        name: "prefix",
        host: "prefix.test",
        before: "",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], path: /admin/*, respond: 403}\n",
    },
    Kind {
        name: "raw prefix",
        host: "raw.test",
        before: "",
        refuses: |path| path.starts_with(b"/admin"),
        routes: "  - {name: HOST, hosts: [HOST], prefix: /admin, raw_prefix: true, respond: 403}\n",
    },
    Kind {
        name: "parameter",
        host: "parameter.test",
        before: "",
        refuses: |path| segments(path).is_some_and(|all| all.len() == 2 && all[0] == b"admin" && !all[1].is_empty()),
        routes: "  - {name: HOST, hosts: [HOST], path: \"/admin/{id}\", respond: 403}\n",
    },
    Kind {
        name: "regex",
        host: "regex.test",
        before: "",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], regex: \"^/admin(/|$)\", respond: 403}\n",
    },
    Kind {
        name: "address policy",
        host: "address.test",
        before: "",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], path: /admin/*, service: up, policies: [ip: {deny: [0.0.0.0/0]}]}\n",
    },
    Kind {
        name: "strip_prefix",
        host: "strip.test",
        before: "/api",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], path: /api/admin/*, respond: 403}\n  \
                 - {name: api.HOST, hosts: [HOST], path: /api/*, service: up, strip_prefix: true}\n  \
                 - {name: no.HOST, hosts: [HOST], path: /*, respond: 404}\n",
    },
    Kind {
        name: "regex rewrite",
        host: "rewrite.test",
        before: "/r",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], path: /r/admin/*, respond: 403}\n  \
                 - {name: r.HOST, hosts: [HOST], path: /r/*, service: up,\n     \
                 rewrite: {pattern: \"^/r/(.*)$\", to: /$1}}\n  \
                 - {name: no.HOST, hosts: [HOST], path: /*, respond: 404}\n",
    },
    Kind {
        name: "template rewrite",
        host: "template.test",
        before: "/t",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], path: /t/admin/*, respond: 403}\n  \
                 - {name: t.HOST, hosts: [HOST], path: \"/t/{rest...}\", service: up, rewrite: {path: \"/{rest}\"}}\n  \
                 - {name: no.HOST, hosts: [HOST], path: /*, respond: 404}\n",
    },
    Kind {
        name: "default route",
        host: "default.test",
        before: "",
        refuses: below_admin,
        routes: "  - {name: HOST, hosts: [HOST], path: /admin/*, respond: 403}\n",
    },
];

/// Words of the three policies, in the order of the configuration's listeners.
pub const POLICIES: [&str; 3] = ["strict", "merge", "preserve"];

/// A listener for each policy, as a list. Ports of the system's choice need addresses that differ.
pub fn listeners() -> String {
    let all = POLICIES.iter().enumerate();
    all.map(|(at, word)| format!("  - {{name: {word}, address: \"127.0.0.{}:0\", path_policy: {word}}}\n", at + 1))
        .collect()
}

/// A configuration with a listener for each policy and a host for each kind of rule, before one origin.
pub fn config(origin: &str) -> String {
    let listeners = listeners();
    let routes = |kind: &Kind| {
        let open = if kind.before.is_empty() && kind.name != "default route" { OPEN } else { "" };
        (kind.routes.to_owned() + open).replace("HOST", kind.host)
    };
    let routes: String = KINDS.iter().map(routes).collect();
    format!(
        "listeners:\n{listeners}services:\n  - {{name: up, endpoints: [\"{origin}\"]}}\nroutes:\n{routes}\
         default_route: {{service: up}}\n"
    )
}

/// What all models make of a forwarded path: made once, and asked by every kind of rule.
pub struct Readings {
    views: Vec<(&'static str, [Vec<u8>; 3])>,
}

impl Readings {
    /// Of a path as a service gets it.
    pub fn of(forwarded: &[u8]) -> Readings {
        let path = forwarded.split(|byte| *byte == b'?').next().unwrap_or_default();
        let models = MODELS.iter().chain(&MORE_MODELS);
        Readings { views: models.map(|(name, read)| (*name, views(&read(path)))).collect() }
    }

    /// The model under which the path is one that the rule refuses.
    pub fn walked_around(&self, kind: &Kind) -> Option<&'static str> {
        let takes = |(_, views): &&(&'static str, [Vec<u8>; 3])| views.iter().any(|view| (kind.refuses)(view));
        self.views.iter().find(takes).map(|(name, _)| *name)
    }
}

/// The model under which a forwarded path lies outside of a directory (without a slash at its end).
pub fn escapes(directory: &[u8], forwarded: &[u8]) -> Option<&'static str> {
    let inside = |view: &Vec<u8>| view.strip_prefix(directory).is_some_and(|rest| matches!(rest, [] | [b'/', ..]));
    let leaves = |(_, read): &&Model| !views(&read(forwarded)).iter().all(inside);
    MODELS.iter().chain(&MORE_MODELS).find(leaves).map(|(name, _)| *name)
}

/// What a service may make of a path: dot segments resolved; slashes merged before, behind, or not at all.
pub fn views(path: &[u8]) -> [Vec<u8>; 3] {
    [resolve(path), resolve(&merge(path)), merge(&resolve(path))]
}

/// The gateway's decision without sockets.
pub struct Judge {
    snapshot: Snapshot,
}

impl Judge {
    /// For the [`config`].
    pub fn new() -> Judge {
        Judge::of(&config("127.0.0.1:1"))
    }

    /// For a configuration whose listeners are those of [`listeners`].
    pub fn of(yaml: &str) -> Judge {
        Judge { snapshot: snapshot(yaml) }
    }

    /// The path that goes to the service; None when the gateway answers by itself.
    pub fn forwarded(&self, policy: usize, host: &str, target: &[u8]) -> Option<Vec<u8>> {
        let listener = &self.snapshot.listeners[policy];
        let head = [b"GET ", target, b" HTTP/1.1\r\nHost: ", host.as_bytes(), b"\r\n\r\n"].concat();
        let mut request = Box::<Request>::default();
        let x = &mut request.x;
        let Ok(Parsed::Complete(length)) = parse_lines(&head, &listener.rules.head, &mut x.request) else {
            return None;
        };
        listener.rules.accept(x, Buf::copy_of(&head), length).ok()?;
        let table = &self.snapshot.table;
        drive::decide(&self.snapshot, table, listener.rules.path_policy, &mut request).ok()?;
        let x = &request.x;
        let route = &self.snapshot.routes[x.route as usize];
        let refused = &*route.name == "address.test";
        let proxied = !route.action.services().is_empty() && !refused;
        proxied.then(|| x.request.fields.text(x.request.forward_path.unwrap_or(x.request.path)).to_vec())
    }
}

impl Default for Judge {
    fn default() -> Self {
        Self::new()
    }
}

/// The running form of a configuration.
pub fn snapshot(yaml: &str) -> Snapshot {
    let outside = FixedEnv::of(&[]);
    let loaded =
        load_str("test.yaml", yaml, &outside, policy::SCHEMA).unwrap_or_else(|what| panic!("{}", what.render()));
    let policies = CompileEnv { workers: 1, random: 1 };
    let compiled = compile(&loaded, &Inputs { generation: 1, policies, resolve: None, previous: None });
    compiled.unwrap_or_else(|what| panic!("{}", what.render())).0
}

fn below_admin(path: &[u8]) -> bool {
    path.strip_prefix(b"/admin").is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
}

fn segments(path: &[u8]) -> Option<Vec<&[u8]>> {
    Some(path.strip_prefix(b"/")?.split(|byte| *byte == b'/').collect())
}

fn decode(path: &[u8]) -> Vec<u8> {
    decode_if(path, |_| true)
}

fn decode_if(path: &[u8], wanted: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|two| std::str::from_utf8(two).ok());
        let octet = digits.filter(|two| two.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let octet = octet.and_then(|two| u8::from_str_radix(two, 16).ok()).filter(|octet| wanted(*octet));
        match octet {
            Some(octet) if byte == b'%' => {
                out.push(octet);
                rest = &after[2..];
            }
            _ => {
                out.push(byte);
                rest = after;
            }
        }
    }
    out
}

fn drop_parameters(path: &[u8]) -> Vec<u8> {
    let kept: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').map(|segment| segment.split(|byte| *byte == b';').next().unwrap()).collect();
    kept.join(&b'/')
}

fn behind_host(path: &[u8]) -> &[u8] {
    match path.strip_prefix(b"//") {
        Some(rest) => {
            let host = rest.iter().take_while(|byte| **byte == b'/').count();
            let length = rest[host..].iter().take_while(|byte| **byte != b'/').count();
            &rest[host + length..]
        }
        None => path,
    }
}

fn slashes(path: &[u8]) -> Vec<u8> {
    path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
}

fn ends_at(path: &[u8], ends: &[u8]) -> Vec<u8> {
    path.iter().copied().take_while(|byte| !ends.contains(byte)).collect()
}

/// A decoder that does not refuse sequences which are longer than they need be.
fn overlong(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = path;
    let low = |byte: u8| u32::from(byte & 0x3f);
    loop {
        let (code, after) = match rest {
            [] => return out,
            [a @ 0xc0..=0xdf, b, after @ ..] => (u32::from(a & 0x1f) << 6 | low(*b), after),
            [a @ 0xe0..=0xef, b, c, after @ ..] => (u32::from(a & 0x0f) << 12 | low(*b) << 6 | low(*c), after),
            [a @ 0xf0..=0xf7, b, c, d, after @ ..] => {
                (u32::from(a & 7) << 18 | low(*b) << 12 | low(*c) << 6 | low(*d), after)
            }
            [a, after @ ..] => (u32::from(*a), after),
        };
        out.push(u8::try_from(code).ok().filter(u8::is_ascii).unwrap_or(b'_'));
        rest = after;
    }
}

fn merge(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::new();
    for byte in path {
        if *byte != b'/' || out.last() != Some(&b'/') {
            out.push(*byte);
        }
    }
    out
}

/// RFC 3986 section 5.2.4; what climbs above the root stays there.
fn resolve(path: &[u8]) -> Vec<u8> {
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut all = path.strip_prefix(b"/").unwrap_or(path).split(|byte| *byte == b'/').peekable();
    while let Some(segment) = all.next() {
        let last = all.peek().is_none();
        match segment {
            b"." | b".." => {
                if segment == b".." {
                    kept.pop();
                }
                if last {
                    kept.push(b"");
                }
            }
            segment => kept.push(segment),
        }
    }
    [b"/", &kept.join(&b'/')[..]].concat()
}
