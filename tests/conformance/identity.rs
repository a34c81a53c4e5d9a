//! F51, F52: who a request comes from is what the gateway knows, and a client cannot take away what it adds.

use crate::support::{Case, Recorder, Want, check, e2e};

/// `Connection` and the fields of one hop (RFC 9110 section 7.6.1).
pub fn hop_by_hop() -> Vec<Case> {
    let get = |name: &str, fields: &str, want: Want| {
        Case::new(name, format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"), want)
    };
    let removed =
        |name: &str, fields: &str, gone: &'static str| get(name, fields, Want::Served).gone(&[gone]).kept(&["host: a"]);
    let mut cases = vec![
        removed("Connection naming a plain field", "Connection: X-Secret\r\nX-Secret: leaf\r\n", "leaf"),
        removed("Connection naming it behind close", "Connection: close, x-secret\r\nX-Secret: leaf\r\n", "leaf"),
        removed("Connection in two lines", "Connection: close\r\nConnection: X-Secret\r\nX-Secret: leaf\r\n", "leaf"),
        removed("Connection itself", "Connection: X-Secret\r\n", "x-secret"),
        removed("Keep-Alive", "Keep-Alive: timeout=99\r\n", "timeout=99"),
        removed("Proxy-Connection", "Proxy-Connection: keep-alive\r\n", "proxy-connection"),
        removed("TE", "TE: trailers\r\n", "te: trailers"),
        removed("Proxy-Authorization", "Proxy-Authorization: Basic leaf\r\n", "leaf"),
        get("Connection is no token", "Connection: a b\r\n", Want::Refused(400, "bad_header")),
        get("Connection with a NUL", "Connection: a\0b\r\n", Want::Refused(400, "bad_header")),
    ];
    for name in [
        "Authorization",
        "AUTHORIZATION",
        "aUtHoRiZaTiOn",
        "Cookie",
        "Host",
        "Content-Length",
        "content_length",
        "Transfer-Encoding",
        "X-Forwarded-For",
        "x_forwarded_for",
        "X-Forwarded-Host",
        "X-Real-IP",
        "x-real-ip",
        "Forwarded",
        "True-Client-IP",
        "X-User-ID",
        "X_User_Id",
        "X-Request-ID",
        "Content-Type",
        "Expect",
        "Via",
    ] {
        let fields = format!("Connection: close, {name}\r\n");
        cases.push(get(&format!("Connection naming {name}"), &fields, Want::Refused(400, "bad_connection")));
    }
    cases
}

/// Fields that only a proxy or a gateway may set, from a stranger.
pub fn forged() -> Vec<Case> {
    let names = [
        "X-Forwarded-For",
        "X_Forwarded_For",
        "x-forwarded_for",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X_Forwarded_Host",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Forwarded-Server",
        "X-Forwarded-User",
        "X-Forwarded-Email",
        "X-Forwarded-Client-Cert",
        "X-Forwarded-Ssl",
        "X-Forwarded-Scheme",
        "Forwarded",
        "X-Real-IP",
        "X_Real_IP",
        "X.Real.IP",
        "True-Client-IP",
        "X-Client-IP",
        "CF-Connecting-IP",
        "X-Cluster-Client-IP",
        "X-Original-Forwarded-For",
        "X-Original-URL",
        "X_Original_URL",
        "X-Rewrite-URL",
        "X-Original-Host",
        "X-Host",
        "Proxy",
        "X-HTTP-Method-Override",
        "X_HTTP_Method_Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X-User-ID",
        "X_User_ID",
        "X-User-Role",
        "X-Client-ID",
        "X-Target-Service",
        "X-Request-ID",
        "X_Request_ID",
        "Content_Length",
        "Transfer_Encoding",
    ];
    let case = |name: &&str| {
        let send = format!("GET / HTTP/1.1\r\nHost: a\r\n{name}: forgery.example\r\n\r\n");
        Case::new(*name, send, Want::Served).gone(&["forgery.example"])
    };
    names.iter().map(case).collect()
}

#[test]
fn hop_by_hop_fields_stay_on_their_hop() {
    check(&hop_by_hop());
}

#[test]
fn strangers_cannot_forge_where_they_come_from() {
    check(&forged());
}

fn seen_through(trusted: &str, fields: &str) -> String {
    let origin = Recorder::start();
    let gateway = e2e::Gateway::start(&format!(
        "listeners: [{{address: \"127.0.0.1:0\"{trusted}}}]\n\
         services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         routes: [{{name: all, path: /*, service: up}}]\n",
        origin.address
    ));
    let response = gateway.ask(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    assert_eq!(response.status, 200, "{response:?}");
    String::from_utf8_lossy(&origin.received().concat()).to_ascii_lowercase()
}

#[test]
fn trusted_proxies_are_believed_and_continued_and_no_further() {
    let trusted = ", trusted_proxies: [127.0.0.0/8]";
    let fields = "X-Forwarded-For: 6.6.6.6, 7.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\n\
                  X_Forwarded_For: 9.9.9.9\r\nX-User-ID: root\r\nX_User_ID: root\r\nX-HTTP-Method-Override: DELETE\r\n\
                  X-Original-URL: /admin\r\nProxy: evil\r\n";
    let seen = seen_through(trusted, fields);
    for wanted in [
        "x-forwarded-for: 6.6.6.6, 7.7.7.7, 127.0.0.1\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: shop\r\n",
    ] {
        assert!(seen.contains(wanted), "{wanted} in {seen}");
    }
    for refused in ["9.9.9.9", "root", "delete", "/admin", "evil"] {
        assert!(!seen.contains(refused), "{refused} in {seen}");
    }
    let stranger = seen_through("", fields);
    assert!(stranger.contains("x-forwarded-for: 127.0.0.1\r\n"), "{stranger}");
    assert!(!stranger.contains("6.6.6.6") && !stranger.contains("shop"), "{stranger}");
}

/// F51: the address is read from the right, past what trusted proxies vouch for, and no further.
#[test]
fn the_client_address_is_read_from_the_right() {
    let gateway = e2e::Gateway::start(
        "listeners: [{address: \"127.0.0.1:0\", trusted_proxies: [127.0.0.0/8, 10.0.0.0/8]}]\n\
         routes:\n- {name: all, path: /*, respond: 200, policies: [{ip: {allow: [7.7.7.7]}}]}\n",
    );
    let ask =
        |value: &str| gateway.ask(format!("GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: {value}\r\n\r\n")).status;
    assert_eq!(ask("7.7.7.7"), 200);
    assert_eq!(ask("6.6.6.6, 7.7.7.7"), 200);
    assert_eq!(ask("6.6.6.6, 7.7.7.7, 10.1.1.1"), 200);
    assert_eq!(ask("7.7.7.7, 6.6.6.6"), 403, "the left-most is anybody's word");
    assert_eq!(ask("7.7.7.7, garbage, 10.1.1.1"), 403, "nothing is believed past what cannot be read");
    assert_eq!(ask("7.7.7.7\r\nX-Forwarded-For: 6.6.6.6"), 403, "lines are one list, the last is the right-most");
    assert_eq!(ask("6.6.6.6\r\nX-Forwarded-For: 7.7.7.7, 10.0.0.9"), 200);
}
