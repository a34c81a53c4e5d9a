//! F47 (what is refused), F54 and odd requests: methods, expectations, upgrades that nobody serves.

use crate::support::{Case, Recorder, Want, check, e2e};

/// Methods, Expect, Upgrade.
pub fn cases() -> Vec<Case> {
    let refused = Want::Refused(405, "method_refused");
    let unexpected = Want::Refused(417, "expectation_failed");
    let get = |name: &str, fields: &str, want: Want| {
        Case::new(name, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), want)
    };
    vec![
        Case::new("CONNECT", "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", refused),
        Case::new(
            "CONNECT with a body",
            "CONNECT b:443 HTTP/1.1\r\nHost: b:443\r\nContent-Length: 30\r\n\r\nGET /smuggled HTTP/1.1\r\nX: y\r\n\r\n",
            refused,
        )
        .gone(&["smuggled"]),
        Case::new("CONNECT with a path", "CONNECT /x HTTP/1.1\r\nHost: a\r\n\r\n", refused),
        Case::new("TRACE with a cookie", "TRACE / HTTP/1.1\r\nHost: a\r\nCookie: secret\r\n\r\n", refused),
        Case::new("TRACE with Max-Forwards", "TRACE / HTTP/1.1\r\nHost: a\r\nMax-Forwards: 0\r\n\r\n", refused),
        Case::new("trace in lower case", "trace / HTTP/1.1\r\nHost: a\r\n\r\n", refused),
        Case::new("Connect in mixed case", "Connect b:443 HTTP/1.1\r\nHost: b:443\r\n\r\n", refused),
        Case::new("unknown method", "BREW /pot HTTP/1.1\r\nHost: a\r\n\r\n", Want::Served).kept(&["brew /pot "]),
        get("unknown Expect", "Expect: tea\r\n", unexpected),
        get("Expect with two values", "Expect: 100-continue, tea\r\n", unexpected),
        get("empty Expect", "Expect:\r\n", unexpected),
        get("two Expects", "Expect: 100-continue\r\nExpect: tea\r\n", unexpected),
        get("100-continue without a body", "Expect: 100-continue\r\n", Want::Served).gone(&["expect"]),
        get(
            "h2c upgrade",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
            Want::Served,
        )
        .gone(&["upgrade", "h2c", "http2-settings"]),
        get("h2c upgrade without Connection", "Upgrade: h2c\r\n", Want::Served).gone(&["upgrade", "h2c"]),
        get("unknown upgrade", "Connection: Upgrade\r\nUpgrade: tea/1\r\n", Want::Served).gone(&["upgrade", "tea/1"]),
        Case::new(
            "prior-knowledge HTTP/2",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
            Want::Refused(505, "version_unsupported"),
        ),
    ]
}

#[test]
fn methods_expectations_and_upgrades() {
    check(&cases());
}

/// A second request behind an upgrade that is not taken is a request by itself: it goes its own way through the routes.
#[test]
fn a_request_behind_an_unknown_upgrade_is_judged_by_itself() {
    let origin = e2e::Origin::echo();
    let gateway = e2e::Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: open, path: /open, service: up}}, {{name: shut, path: /admin, respond: 403}}]\n",
        origin.address
    ));
    let mut client = gateway.connect();
    client.send(
        "GET /open HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: tea/1\r\n\r\n\
         GET /admin HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    assert_eq!(client.response().text(), "GET /open");
    assert_eq!(client.response().status, 403);
    assert_eq!(origin.seen().len(), 1, "one request, one reading");
}

/// An answer to a request whose body was not read does not leave that body to be read as the next request.
#[test]
fn a_refused_body_is_never_the_next_request() {
    let origin = Recorder::start();
    let gateway = e2e::Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: shut, path: /admin, respond: 403}}, {{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for head in ["POST /admin", "GET /admin", "DELETE /admin"] {
        // Half of the body comes late: at the time of the answer it is unread.
        let mut client = gateway.connect();
        let length = 2 * inner.len();
        client.send(format!("{head} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}"));
        assert_eq!(client.response().status, 403);
        client.try_send(inner);
        assert!(client.is_closed(), "{head}: what follows has no known beginning");
        let mut client = gateway.connect();
        client.send(format!("{head} HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}{inner}"));
        assert_eq!(client.response().status, 403, "{head}");
    }
    assert!(origin.received().is_empty(), "{:?}", String::from_utf8_lossy(&origin.received().concat()));
}
