//! Published weaknesses of other proxies that concern paths and the choice of a route, each as a test (F49, F50, FZ5).

use std::net::SocketAddr;

use crate::paths::{ask, echo};
use crate::support::e2e::Gateway;

/// A gateway of one listener for each policy, with these routes before an origin that answers with what it got.
struct Edge {
    gateway: Gateway,
}

impl Edge {
    #[track_caller]
    fn start(routes: &str) -> Self {
        let listeners = crate::bypass::listeners();
        let origin = echo();
        Self {
            gateway: Gateway::start(&format!(
                "listeners:\n{listeners}services:\n  - {{name: up, endpoints: [\"{origin}\"]}}\nroutes:\n{routes}"
            )),
        }
    }

    fn addresses(&self) -> &[SocketAddr] {
        &self.gateway.addresses
    }

    /// The target is refused with this status under each policy.
    #[track_caller]
    fn refuses(&self, target: &str, status: u16) {
        for (address, policy) in self.addresses().iter().zip(crate::bypass::POLICIES) {
            let fate = ask(*address, "a.test", target.as_bytes());
            assert_eq!((fate.status, fate.forwarded()), (status, None), "{target} under {policy}");
        }
    }

    /// The target arrives as this under each policy.
    #[track_caller]
    fn forwards(&self, target: &str, as_this: &str) {
        for (address, policy) in self.addresses().iter().zip(crate::bypass::POLICIES) {
            let fate = ask(*address, "a.test", target.as_bytes());
            assert_eq!(fate.forwarded(), Some(as_this), "{target} under {policy}: {}", fate.status);
        }
    }
}

const DENY: &str = "  - {name: deny, path: /admin/*, respond: 403}\n  - {name: all, path: /*, service: up}\n";

/// NGINX: a space in the request line let a path around a location.
#[test]
fn cve_2013_4547_space_in_the_request_line() {
    let edge = Edge::start(DENY);
    for target in ["/x /../admin", "/admin \0.html", "/admin ", " /admin", "/x\t/../admin"] {
        edge.refuses(target, 400);
    }
}

/// Envoy: paths were not normalised before they were matched.
#[test]
fn cve_2019_9901_no_path_normalisation() {
    let edge = Edge::start(DENY);
    for target in ["/x/../admin", "/./admin", "/x/%2e%2e/admin", "/%61dmin", "/x/y/../../admin/z"] {
        edge.refuses(target, 403);
    }
    edge.forwards("/x/../y/./z", "/y/z");
}

/// Envoy: `%2F` and `%5C` were no separators to the matcher, and were some to services.
#[test]
fn cve_2021_29492_escaped_slashes() {
    let edge = Edge::start(DENY);
    for target in ["/admin%2fx", "/admin%5Cx", "/%2fadmin", "/x%2f..%2fadmin", "/x/..%5cadmin"] {
        edge.refuses(target, 400);
    }
    let preserve = edge.addresses()[2];
    assert_eq!(ask(preserve, "a.test", b"/group%2fproject").forwarded(), Some("/group%2Fproject"));
}

/// Envoy: what followed a `#` counted for the matcher.
#[test]
fn cve_2021_32779_fragment_in_the_path() {
    let edge = Edge::start(DENY);
    for target in ["/admin#x", "/x#/../admin", "/#", "/a?b#c"] {
        edge.refuses(target, 400);
    }
}

/// Traefik: the same, with routes of more than one path.
#[test]
fn cve_2023_47106_fragment_reaches_another_route() {
    let edge = Edge::start("  - {name: one, path: /one/*, service: up}\n  - {name: two, path: /two/*, respond: 403}\n");
    for target in ["/one#/two", "/one/#/../../two", "/one%23/../two"] {
        assert_ne!(ask(edge.addresses()[0], "a.test", target.as_bytes()).status, 200, "{target}");
    }
    edge.refuses("/one#", 400);
}

/// Envoy: parameters of a segment hid it from an access rule.
#[test]
fn cve_2026_73511_parameters_in_segments() {
    let edge = Edge::start(DENY);
    for target in ["/admin;", "/admin;x/y", "/admin;a=b;c/y", "/admin%3bx/y", "/%61dmin;/y"] {
        edge.refuses(target, 400);
    }
    edge.refuses("/admin/y;x", 403);
    edge.forwards("/users;role=x/7", "/users;role=x/7");
}

/// Envoy: parameters behind dot segments.
#[test]
fn cve_2026_73551_parameters_behind_dots() {
    let edge = Edge::start(DENY);
    for target in ["/x/..;/admin", "/x/..;a=b/admin", "/.;/admin", "/x/.;/../admin", "/x/..%3b/admin"] {
        edge.refuses(target, 400);
    }
}

/// Envoy: empty segments made of parameters.
#[test]
fn cve_2026_73553_segments_of_parameters_only() {
    let edge = Edge::start(DENY);
    for target in ["/;/admin", "/;x=y/admin", "/;/;/admin/x", "/%3b/admin"] {
        edge.refuses(target, 400);
    }
}

/// Traefik: encoded characters that are reserved in paths passed by matchers that saw them undecoded.
#[test]
fn cve_2025_66490_encoded_reserved_characters() {
    let edge = Edge::start(
        "  - {name: deny, path: \"/@fs/*\", respond: 403}\n  - {name: col, path: \"/v1:x\", respond: 403}\n  \
         - {name: odd, path: \"/c%2b%2B/{id}\", respond: 403}\n  - {name: all, path: /*, service: up}\n",
    );
    for target in ["/@fs/x", "/%40fs/x", "/v1%3ax", "/v1:x", "/c++/1", "/c%2b%2b/1", "/c+%2B/1"] {
        edge.refuses(target, 403);
    }
    for target in ["/%40fs%2fx", "/%40fs%5cx", "/%40fs;x", "/%2540fs/x", "/%40fs%3f", "/%40fs%23", "/%40fs%00"] {
        edge.refuses(target, 400);
    }
    // What no rule concerns keeps the spelling that its sender chose (RFC 3986 section 2.2).
    edge.forwards("/%21room%3aexample.org/a%2bb", "/%21room%3Aexample.org/a%2Bb");
}

/// Traefik: matchers took the path before, services behind, the resolution of dots.
#[test]
fn cve_2025_47952_encoded_traversal() {
    let edge = Edge::start(DENY);
    edge.refuses("/public/%2e%2e/admin", 403);
    for target in
        ["/public/%2e%2e%2fadmin", "/public/%252e%252e/admin", "/public/%252e%252e%252fadmin", "/%2e%2e/admin"]
    {
        edge.refuses(target, 400);
    }
}

/// Traefik: a matcher of one route let `/../` through to another one's service.
#[test]
fn cve_2025_32431_traversal_past_matchers() {
    for pattern in ["path: /public/*", "regex: \"^/public/\"", "path: \"/public/{rest...}\""] {
        let edge = Edge::start(&format!("  - {{name: public, {pattern}, service: up}}\n"));
        edge.refuses("/public/../private", 404);
        edge.refuses("/public/%2e%2e/private", 404);
        edge.refuses("/public/..%2fprivate", 400);
        edge.forwards("/public/x/../y", "/public/y");
    }
}

const STRIP: &str = "  - {name: api, prefix: /api, raw_prefix: true, service: up, strip_prefix: true}\n  \
                     - {name: seg, path: /seg/*, service: up, strip_prefix: true}\n  \
                     - {name: deny, path: /admin/*, respond: 403}\n";

/// Traefik: a prefix was stripped, and what was left was normalised behind the router.
#[test]
fn cve_2026_48020_strip_then_normalise() {
    let edge = Edge::start(STRIP);
    // The rest of a segment becomes a segment of its own: dots that were harmless are so no more.
    for target in ["/api../admin", "/api..", "/api./admin", "/api%2e%2e/admin", "/api..;x/admin", "/api..%3bx/admin"] {
        edge.refuses(target, 400);
    }
    for (target, rest) in [("/api/x", "/x"), ("/api//x", "/x"), ("/apix/y", "/x/y"), ("/api", "/")] {
        let merge = edge.addresses()[1];
        assert_eq!(ask(merge, "a.test", target.as_bytes()).forwarded(), Some(rest), "{target}");
    }
    for target in ["/seg/..;/admin", "/seg/%2e%2e%2fadmin", "/seg/..%5cadmin", "/seg;/../admin"] {
        let fate = ask(edge.addresses()[0], "a.test", target.as_bytes());
        assert!(fate.forwarded().is_none() && matches!(fate.status, 400 | 403), "{target}: {}", fate.status);
    }
}

/// Traefik: a path was replaced by an expression, and what came of it was normalised behind the router.
#[test]
fn cve_2026_40912_replace_then_normalise() {
    let edge = Edge::start(
        "  - {name: a, path: /a/*, service: up, rewrite: {pattern: \"^/a/([^/]*)/(.*)$\", to: /base/$1$2}}\n  \
         - {name: b, path: \"/b/{one}/{two}\", service: up, rewrite: {path: \"/base/{one}{two}/end\"}}\n",
    );
    for target in ["/a/.../x", "/a/x/...", "/b/.../x"] {
        let fate = ask(edge.addresses()[0], "a.test", target.as_bytes());
        assert!(fate.forwarded().is_none_or(|path| path.starts_with("/base/")), "{target}: {:?}", fate.forwarded());
    }
    // Two halves, each harmless: `.` and `.`, or an escaped percent sign and two digits.
    for target in ["/a/.;x/.", "/a/%25/2e%252e/x", "/b/%25/2fx", "/a/%25/2f.."] {
        let fate = ask(edge.addresses()[0], "a.test", target.as_bytes());
        assert!(fate.forwarded().is_none() && fate.status == 400, "{target}: {:?}", fate.forwarded());
    }
    edge.forwards("/a/x/y/z", "/base/xy/z");
    edge.forwards("/b/x%40/y", "/base/x%40y/end");
}

/// Traefik: a replaced prefix met a rest that began with a slash or dots.
#[test]
fn cve_2026_65600_replace_prefix_keeps_its_place() {
    let edge = Edge::start("  - {name: a, path: /a/*, service: up, rewrite: {prefix: /base/dir}}\n");
    for target in ["/a/../x", "/a/../../etc", "/a/%2e%2e/x", "/a;/../x", "/a/..;/x", "/a/%2e%2e%2fx", "/a/..%5cx"] {
        for address in edge.addresses() {
            let fate = ask(*address, "a.test", target.as_bytes());
            assert!(fate.forwarded().is_none(), "{target}: {:?}", fate.forwarded());
        }
    }
    edge.forwards("/a/b/../c", "/base/dir/c");
    edge.forwards("/a", "/base/dir");
}

/// Caddy: escapes switched to a branch of the matcher that compared case in another way.
#[test]
fn cve_2026_27587_case_of_escaped_paths() {
    for siblings in [0, 5, 200] {
        let many: String =
            (0..siblings).map(|at| format!("  - {{name: s{at}, path: /s{at}/*, service: up}}\n")).collect();
        let edge = Edge::start(&format!(
            "{many}  - {{name: deny, path: /Admin/*, respond: 403}}\n  - {{name: all, path: /*, service: up}}\n"
        ));
        for target in ["/Admin/x", "/%41dmin/x", "/%41%64min/x", "/Admi%6e/x", "/Admin/%40"] {
            edge.refuses(target, 403);
        }
        // Paths are case-sensitive (RFC 3986 section 6.2.2.1), spelled either way.
        edge.forwards("/admin/x", "/admin/x");
        edge.forwards("/%61dmin/x", "/admin/x");
    }
}

/// Caddy: with more than 100 hosts, their case was compared in another way.
#[test]
fn cve_2026_27588_case_among_many_hosts() {
    for count in [1, 101, 300] {
        let hosts: Vec<String> = (0..count).map(|at| format!("Host{at}.Example.test")).collect();
        let edge = Edge::start(&format!(
            "  - {{name: deny, hosts: [{}, \"*.Wild.test\"], path: /*, respond: 403}}\n  \
             - {{name: all, path: /*, service: up}}\n",
            hosts.join(", ")
        ));
        let last = count - 1;
        let spellings = [
            format!("host{last}.example.test"),
            format!("HOST{last}.EXAMPLE.TEST"),
            format!("hOsT{last}.eXample.Test:80"),
            format!("host{last}.example.test."),
            "a.WILD.test".to_owned(),
            "A.b.wild.TEST.".to_owned(),
        ];
        for host in spellings {
            assert_eq!(ask(edge.addresses()[0], &host, b"/x").status, 403, "{host} of {count}");
            let absolute = format!("http://{host}/x");
            assert_eq!(ask(edge.addresses()[0], &host, absolute.as_bytes()).status, 403, "{absolute} of {count}");
        }
        assert_eq!(ask(edge.addresses()[0], &format!("host{count}.example.test"), b"/x").status, 200);
    }
}

/// Caddy: characters of patterns in a request's path were taken for a pattern.
#[test]
fn cve_2026_27585_glob_characters() {
    let edge = Edge::start(
        "  - {name: deny, path: /admin/*, respond: 403}\n  - {name: star, exact: \"/star*\", respond: 403}\n  \
         - {name: all, path: /*, service: up}\n",
    );
    edge.refuses("/star*", 403);
    edge.refuses("/star%2A", 403);
    for (target, arrives) in [
        ("/adm*", "/adm*"),
        ("/adm%2a/x", "/adm%2A/x"),
        ("/[a]dmin/x", "/%5Ba%5Ddmin/x"),
        ("/%5ba%5ddmin/x", "/%5Ba%5Ddmin/x"),
        ("/{id}", "/%7Bid%7D"),
        ("/starx", "/starx"),
        ("/**", "/**"),
    ] {
        edge.forwards(target, arrives);
    }
    assert_ne!(ask(edge.addresses()[0], "a.test", b"/a\\dmin").status, 200);
}

/// NGINX: a capture that took no part, or one of the request before, stood in the rewritten path.
#[test]
fn cve_2026_42533_stale_captures() {
    let edge = Edge::start(
        "  - {name: r, path: /r/*, service: up, rewrite: {pattern: \"^/r/(a)?(b)?\", to: /x-$1-$2-}}\n  \
         - {name: t, path: \"/t/{one}\", service: up, rewrite: {path: \"/y/{one}\"}}\n",
    );
    edge.forwards("/r/ab", "/x-a-b-");
    edge.forwards("/r/b", "/x--b-");
    edge.forwards("/r/", "/x---");
    edge.forwards("/t/secret", "/y/secret");
    edge.forwards("/r/a", "/x-a--");
}

/// NGINX: lengths of captures were taken before, bytes behind escaping.
#[test]
fn cve_2026_9256_escapes_in_captures() {
    let edge = Edge::start(
        "  - {name: r, path: /r/*, service: up, rewrite: {pattern: \"^/r/(.*)/(.*)$\", to: /$2/$1}}\n  \
         - {name: at, regex: \"^/@(?<name>[^/]+)/x\", service: up, rewrite: {path: \"/u/{name}\"}}\n",
    );
    edge.forwards("/r/%40%2b+%20/%c3%a9", "/%C3%A9/%40%2B+%20");
    edge.forwards("/%40a%2bb/x", "/u/a%2Bb");
    edge.forwards("/@a+b/x", "/u/a+b");
    let long = format!("/r/{}/x", "%40%2b".repeat(600));
    let (one, two) = ("/x/".to_owned(), "%40%2B".repeat(600));
    edge.forwards(&long, &(one + &two));
}
