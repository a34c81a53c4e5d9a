//! What is added to a message and removed from it on its way: where it comes from, Host, fields of one hop (R22,
//! R28–R30, C15–C18, F51–F53).

use crate::support::{GET, Gateway, Origin, Seen, before, proxy_to};

/// What the origin sees of these lines.
fn forwarded(listener: &str, lines: &str) -> Seen {
    let origin = Origin::echo();
    let gateway =
        Gateway::start(&format!("listeners: [{{address: \"127.0.0.1:0\"{listener}}}]\n{}", proxy_to(&origin)));
    let response = gateway.ask(format!("GET /a HTTP/1.1\r\nHost: Shop.example:81\r\n{lines}\r\n"));
    assert_eq!(response.status, 200, "{}", response.text());
    let seen = origin.last();
    let port = gateway.address.port().to_string();
    if !lines.to_ascii_lowercase().contains("x-forwarded-port") {
        assert_eq!(seen.header("x-forwarded-port"), Some(port.as_str()));
    }
    assert_eq!(seen.header("x-request-id"), response.header("x-request-id"));
    seen
}

#[test]
fn strangers_cannot_forge_where_they_come_from() {
    let seen = forwarded(
        "",
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 443\r\n\
         X-Forwarded-Prefix: /evil\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nTrue-Client-IP: 6.6.6.6\r\n\
         X-Request-ID: evil\r\nX_Forwarded_For: 6.6.6.6\r\nX_Real-IP: 6.6.6.6\r\nX_User_ID: root\r\nX-User-ID: root\r\n\
         X-User-Role: admin\r\nX-Client-ID: evil\r\nX-Target-Service: evil\r\nX-Original-URL: /evil\r\n\
         X-HTTP-Method-Override: DELETE\r\nProxy: evil\r\nx_ordinary: stays\r\n",
    );
    assert_eq!(seen.header("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("http"));
    assert_eq!(seen.header("x-forwarded-host"), Some("Shop.example:81"));
    assert_eq!(seen.header("x_ordinary"), Some("stays"));
    let text = String::from_utf8_lossy(&seen.raw).to_ascii_lowercase();
    for forged in ["6.6.6.6", "evil", "root", "admin", "delete", "forwarded: "] {
        assert!(!text.contains(forged), "{forged} in {text}");
    }
}

#[test]
fn trusted_proxies_are_believed_and_continued() {
    let seen = forwarded(
        ", trusted_proxies: [127.0.0.0/8], forwarded: true, via: true",
        "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n\
         X-Forwarded-Port: 443\r\nForwarded: for=203.0.113.9\r\nX-Request-ID: given-1\r\nX-User-ID: root\r\n",
    );
    assert_eq!(seen.header("x-forwarded-for"), Some("203.0.113.9, 127.0.0.1"));
    assert_eq!(seen.header("x-forwarded-proto"), Some("https"));
    assert_eq!(seen.header("x-forwarded-host"), Some("a.example"));
    assert_eq!(seen.header("x-forwarded-port"), Some("443"));
    assert_eq!(seen.header("x-request-id"), Some("given-1"));
    assert_eq!(seen.header("forwarded"), Some("for=203.0.113.9, for=127.0.0.1;host=\"Shop.example:81\";proto=http"));
    assert!(seen.header("via").is_some_and(|via| via.starts_with("1.1 ")), "{seen:?}");
    assert_eq!(seen.header("x-user-id"), None, "identity comes from nobody but the gateway");
}

#[test]
fn request_ids_are_made_for_everyone_else() {
    let seen = forwarded(", trusted_proxies: [192.0.2.0/24]", "X-Request-ID: given-1\r\n");
    let id = seen.header("x-request-id").expect("an id").to_owned();
    assert!(id.len() >= 32 && id != "given-1", "{id}");
    let odd = forwarded(", trusted_proxies: [127.0.0.1]", "X-Request-ID: a b\"<script>\r\n");
    assert!(odd.header("x-request-id").is_some_and(|id| id.len() >= 32), "{odd:?}");
}

#[test]
fn the_host_that_endpoints_see_is_a_choice() {
    let origin = Origin::echo();
    let address = origin.address;
    let gateway = Gateway::start(&format!(
        "services:\n\
         - {{name: kept, endpoints: [\"{address}\"]}}\n\
         - {{name: own, endpoints: [\"{address}\"], host: upstream}}\n\
         - {{name: fixed, endpoints: [\"{address}\"], host: api.internal}}\n\
         routes:\n\
         - {{path: /kept, service: kept}}\n\
         - {{path: /own, service: own}}\n\
         - {{path: /fixed, service: fixed}}\n\
         - {{path: /route, service: fixed, host: preserve}}\n"
    ));
    let own = address.to_string();
    for (path, host) in
        [("/kept", "Test.example"), ("/own", &own), ("/fixed", "api.internal"), ("/route", "Test.example")]
    {
        gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: Test.example\r\n\r\n"));
        assert_eq!(origin.last().header("host"), Some(host), "{path}");
    }
    gateway.ask("GET /kept HTTP/1.0\r\n\r\n");
    assert_eq!(origin.last().header("host"), Some(own.as_str()), "HTTP/1.0 without Host");
    gateway.ask("GET http://Abs.example/kept?x HTTP/1.1\r\nHost: Abs.example\r\n\r\n");
    assert_eq!((origin.last().line(), origin.last().header("host")), ("GET /kept?x", Some("Abs.example")));
}

#[test]
fn what_belongs_to_one_hop_stays_there() {
    let seen = forwarded(
        "",
        "Connection: keep-alive, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nTE: trailers\r\nUpgrade: h2c\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic x\r\nX-End: 2\r\n",
    );
    for gone in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-connection", "proxy-authorization", "te"] {
        assert_eq!(seen.head.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!(seen.header("x-end"), Some("2"));
    let origin = Origin::bytes(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Upgrade: h2c\r\nProxy-Connection: close\r\nX-End: a\r\nX-End: b\r\n\r\nok",
    );
    let gateway = before(&origin);
    let response = gateway.ask(GET);
    for gone in ["connection", "x-hop", "keep-alive", "upgrade", "proxy-connection"] {
        assert_eq!(response.head.all(gone), Vec::<&str>::new(), "{gone}");
    }
    assert_eq!((response.text().as_str(), response.head.all("x-end")), ("ok", vec!["a", "b"]));
}
