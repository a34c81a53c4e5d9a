//! The configurations in `config/`: each is loaded as it stands and does what its comments say (acceptance 3).

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::Command;
use std::sync::Arc;

use crate::support::gateway::{Plan, example_path};
use crate::support::h2_origin::{Answer, H2Origin};
use crate::support::tls::{self, Authority, Issued, ask};
use crate::support::{Gateway, Origin, Step, eventually, ok};

/// What this file exercises. `demo` is what runs without a configuration, and has its own tests.
const EXERCISED: &[&str] = &[
    "acme",
    "addresses",
    "api_gateway",
    "behind_a_proxy",
    "canary",
    "concurrency",
    "discovery",
    "grpc",
    "headers",
    "http2",
    "limits",
    "load_balancing",
    "minimal",
    "mirror",
    "observability",
    "one_port",
    "operations",
    "proxy_protocol",
    "rate_limit",
    "redirects",
    "resilience",
    "routing",
    "tcp",
    "tls",
    "tls_upstream",
    "websocket",
];

/// A GET for this path with these field lines.
fn get(gateway: &Gateway, path: &str, fields: &str) -> crate::support::Response {
    gateway.ask(format!(
        "GET {path} HTTP/1.1\r\n{fields}{}\r\n",
        if fields.contains("Host:") { "" } else { "Host: t\r\n" }
    ))
}

#[test]
fn every_example_is_exercised_and_has_no_warnings() {
    let dir = example_path("x").with_file_name("");
    let names = std::fs::read_dir(dir).expect("the examples").flatten().filter_map(|entry| {
        let path = entry.path();
        (path.extension()? == "yaml").then(|| path.file_stem().map(|stem| stem.to_string_lossy().into_owned()))?
    });
    let found: BTreeSet<String> = names.filter(|name| name != "demo").collect();
    assert_eq!(found, EXERCISED.iter().map(|&name| name.to_owned()).collect());
    let site = Site::new();
    for name in EXERCISED {
        let output = Command::new(env!("CARGO_BIN_EXE_ringway"))
            .envs(site.environment())
            .args(["check", "--strict"])
            .arg(example_path(name))
            .output()
            .expect("it runs");
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn minimal() {
    let users = Origin::echo();
    let gateway = Plan::example("minimal").env("USERS", users.address).start();
    assert_eq!(gateway.get("/api/users/7").text(), "GET /api/users/7");
    assert_eq!(gateway.get("/else").status, 404);
}

#[test]
fn routing() {
    let (users, next, shop) = (Origin::echo(), Origin::fixed("next"), Origin::echo());
    let gateway = Plan::example("routing")
        .env("USERS", users.address)
        .env("USERS_V2", next.address)
        .env("SHOP", shop.address)
        .start();
    assert_eq!(gateway.get("/api/users/7?x=y").text(), "GET /users/7?x=y");
    let post = gateway.ask("POST /api/users/7 HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD, PUT, DELETE")), "a known path");
    assert_eq!(gateway.get("/nowhere").text(), "Nothing here.\n", "the default route takes what no route knows");
    assert_eq!(get(&gateway, "/api/users/7", "API-Version: 2\r\n").text(), "next");
    assert_eq!(next.last().path(), "/v2/users/7");
    assert_eq!(gateway.get("/api/orders/9").text(), "GET /9");
    for host in ["shop.example.com", "de.shop.example.com"] {
        assert_eq!(get(&gateway, "/anything", &format!("Host: {host}\r\n")).text(), "GET /anything");
        assert_eq!(shop.last().header("host"), Some(shop.address.to_string().as_str()));
    }
    assert_eq!(gateway.get("/legacy/user/12").text(), "GET /user/12");
    assert_eq!(gateway.get("/beta?preview").text(), "next");
    assert_eq!(get(&gateway, "/beta", "Cookie: a=b; group=staff\r\n").text(), "next");
    let none = gateway.get("/beta");
    assert_eq!((none.status, none.text().as_str()), (404, "Nothing here.\n"));
}

#[test]
fn mirror() {
    let (orders, next) = (Origin::fixed("orders"), Origin::fixed("next"));
    let plan = Plan::example("mirror").env("ORDERS", orders.address).env("ORDERS_NEXT", next.address);
    let gateway = plan.env("MIRRORED", "100%").start();
    assert_eq!(get(&gateway, "/orders/1", "").text(), "orders");
    eventually("the copy", || (next.seen().len() == 1).then_some(()));
    let copy = next.last();
    assert_eq!((copy.line(), copy.header("host")), ("GET /orders/1", Some("orders-next.internal")));
    assert_eq!(gateway.ask("POST /orders/2 HTTP/1.1\r\nHost: t\r\nContent-Length: 1\r\n\r\nx").text(), "orders");
    assert_eq!((next.seen().len(), orders.seen().len()), (1, 2), "what changes something is done once");
}

#[test]
fn canary() {
    let (stable, canary) = (Origin::fixed("stable"), Origin::fixed("canary"));
    let gateway = Plan::example("canary").env("STABLE", stable.address).env("CANARY", canary.address).start();
    let mut client = gateway.connect();
    let drawn = (0..500).filter(|_| client.get("/checkout/1").text() == "canary").count();
    // Seven standard deviations.
    assert!((4..=97).contains(&drawn), "{drawn} of 500 instead of about 50");
    assert_eq!(get(&gateway, "/checkout/1", "X-Canary: yes\r\n").text(), "canary");
}

#[test]
fn load_balancing() {
    let (one, two) = (Origin::fixed("one"), Origin::fixed("two"));
    let gateway = Plan::example("load_balancing").env("ONE", one.address).env("TWO", two.address).start();
    let mut client = gateway.connect();
    let weighted: Vec<_> = (0..8).map(|_| client.get("/weighted").text()).collect();
    assert_eq!(weighted.iter().filter(|name| *name == "one").count(), 6, "{weighted:?}");
    assert_eq!(client.get("/busy").status, 200);
    let address: BTreeSet<_> = (0..6).map(|_| client.get("/address").text()).collect();
    assert_eq!(address.len(), 1);
    let mut used = BTreeSet::new();
    // A quarter of them belongs to the second: of so many, never none.
    for session in 0..100 {
        let cookie = format!("Cookie: session=s{session}\r\n");
        let names: BTreeSet<_> = (0..2).map(|_| get(&gateway, "/sessions", &cookie).text()).collect();
        assert_eq!(names.len(), 1, "session {session}");
        used.extend(names);
    }
    assert_eq!(used.len(), 2);
}

#[test]
fn concurrency() {
    let (send, go) = std::sync::mpsc::channel();
    let go = std::sync::Mutex::new(Some(go));
    let api = Origin::start(move |seen| match seen.path() {
        "/api/report" => {
            let wait = go.lock().expect("the gate").take();
            wait.map(Step::Await).into_iter().chain(ok("report")).collect()
        }
        _ => ok("ok"),
    });
    let search = Origin::fixed("found");
    let gateway = Plan::example("concurrency").env("API", api.address).env("SEARCH", search.address).start();
    let mut first = gateway.connect();
    first.send("GET /api/report HTTP/1.1\r\nHost: t\r\n\r\n");
    eventually("the report is under way", || {
        (gateway.metric("ringway_limit_requests_in_flight", &["limit=\"route:report/"]) == 1.0).then_some(())
    });
    let refused = gateway.get("/api/report");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")));
    assert_eq!(gateway.get("/api/users").text(), "ok");
    send.send(()).expect("the origin waits");
    assert_eq!(first.response().text(), "report");
    eventually("its place is free", || {
        (gateway.metric("ringway_limit_requests_in_flight", &["limit=\"route:report/"]) == 0.0).then_some(())
    });
    assert_eq!(gateway.get("/api/report").text(), "report");
    assert_eq!(gateway.get("/search").text(), "found");
    let services = gateway.ask_admin("GET", "/services").json();
    assert_eq!(
        (&services[0]["limits"]["requests_max"], &services[1]["limits"]["adaptive"]),
        (&100.into(), &true.into())
    );
}

#[test]
fn rate_limit() {
    let api = Origin::fixed("ok");
    let start = || Plan::example("rate_limit").env("API", api.address).start();
    let statuses = |gateway: &Gateway, path: &str, fields: &str, count: usize| -> Vec<u16> {
        (0..count).map(|_| get(gateway, path, fields).status).collect()
    };
    let gateway = start();
    let all = statuses(&gateway, "/api/x", "", 30);
    let admitted = all.iter().filter(|status| **status == 200).count();
    // The burst, and what came since: 100 a minute is less than two a second.
    assert!((20..=24).contains(&admitted), "{all:?}");
    let gateway = start();
    let ask = || get(&gateway, "/partners/x", "X-Api-Key: a\r\n");
    (0..10).for_each(|_| drop(ask()));
    let refused = ask();
    assert_eq!((refused.status, refused.header("x-ratelimit-limit-type")), (429, Some("partner")));
    assert!(refused.header("retry-after").is_some() && !refused.head.all("ratelimit").is_empty());
    assert_eq!(statuses(&gateway, "/partners/x", "X-Api-Key: b\r\n", 1), [200]);
    assert_eq!(statuses(&gateway, "/search", "", 4), [200, 200, 200, 429]);
}

#[test]
fn headers() {
    let app = Origin::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: x\r\nX-Powered-By: y\r\n\r\nok");
    let gateway = Plan::example("headers").env("APP", app.address).start();
    let response = get(&gateway, "/orders/7", "X-Debug: 1\r\nX-Token: t\r\nX-Client-Address: forged\r\n");
    let seen = app.last();
    assert_eq!((seen.header("x-debug"), seen.header("x-client-address")), (None, Some("127.0.0.1")));
    assert_eq!((seen.header("x-token"), seen.header("x-order-token")), (None, Some("t")));
    assert_eq!(seen.header("x-service-name"), Some("order-service"));
    assert_eq!((response.header("server"), response.header("x-powered-by")), (None, None));
    assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(
        (response.header("x-frame-options"), response.header("x-request-path")),
        (Some("DENY"), Some("/orders/7"))
    );
    assert_eq!(gateway.get("/").header("x-request-path"), None);
}

#[test]
fn addresses() {
    let app = Origin::fixed("ok");
    let gateway = Plan::example("addresses").env("APP", app.address).start();
    let from = |path: &str, client: &str| get(&gateway, path, &format!("X-Forwarded-For: {client}\r\n")).status;
    assert_eq!([from("/", "198.51.100.1"), from("/", "203.0.113.7"), from("/", "2001:db8:bad::1")], [200, 403, 403]);
    assert_eq!([from("/admin/x", "192.0.2.5"), from("/admin/x", "192.0.2.66")], [200, 403]);
    assert_eq!([from("/admin/x", "198.51.100.1"), from("/admin/x", "2001:db8::9")], [403, 200]);
    assert_eq!([from("/internal/x", "192.0.2.5"), from("/admin/x", "203.0.113.7")], [200, 403]);
}

#[test]
fn behind_a_proxy() {
    let app = Origin::fixed("ok");
    let gateway = Plan::example("behind_a_proxy").env("APP", app.address).env("PROXIES", "127.0.0.0/8").start();
    let fields =
        "Host: www.example.com\r\nX-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nX-Request-ID: abc-1\r\n";
    assert_eq!(get(&gateway, "/", fields).header("x-request-id"), Some("abc-1"));
    let seen = app.last();
    assert_eq!(seen.header("x-forwarded-for"), Some("198.51.100.1, 127.0.0.1"));
    assert_eq!(
        (seen.header("x-forwarded-proto"), seen.header("x-forwarded-host")),
        (Some("https"), Some("www.example.com"))
    );
    assert_eq!((seen.header("host"), seen.header("via")), (Some("app.internal"), Some("1.1 ringway")));
    assert_eq!(seen.header("forwarded"), Some("for=127.0.0.1;host=\"www.example.com\";proto=http"));
    // With the networks that stand in the file this client is a stranger.
    let gateway = Plan::example("behind_a_proxy").env("APP", app.address).start();
    assert_ne!(get(&gateway, "/", fields).header("x-request-id"), Some("abc-1"));
    assert_eq!(app.last().header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn limits() {
    let api = Origin::start(|seen| crate::support::ok(seen.body.len().to_string()));
    let gateway = Plan::example("limits").env("API", api.address).start();
    let post = |path: &str, bytes: usize| {
        let body = "x".repeat(bytes);
        gateway.ask(format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: {bytes}\r\n\r\n{body}"))
    };
    assert_eq!(post("/api/x", 65_536).text(), "65536");
    assert_eq!(post("/api/x", 65_537).status, 413);
    assert_eq!(post("/uploads/x", 1 << 20).text(), "1048576");
    assert_eq!(gateway.get(&format!("/api/{}", "x".repeat(2048))).status, 414);
    assert_eq!(get(&gateway, "/api/x", &format!("X: {}\r\n", "x".repeat(4096))).status, 431);
    assert_eq!(get(&gateway, "/api/x", &"X: y\r\n".repeat(50)).status, 431);
    let mut slow = gateway.connect();
    slow.send("GET /api/x HTTP/1.1\r\n");
    let late = slow.response();
    assert_eq!((late.status, late.reason().as_str()), (408, "header_timeout"));
}

#[test]
fn redirects() {
    let gateway = Plan::example("redirects").start();
    let leads = |path: &str, fields: &str| {
        let response = get(&gateway, path, fields);
        (response.status, response.header("location").unwrap_or_default().to_owned())
    };
    assert_eq!(leads("/a?b=c", "Host: www.example.com\r\n"), (301, "https://example.com/a?b=c".into()));
    assert_eq!(leads("/products/7", ""), (308, "/items/7".into()));
    assert_eq!(leads("/home", ""), (307, "/".into()));
    let robots = gateway.get("/robots.txt");
    assert_eq!((robots.status, robots.header("cache-control")), (200, Some("max-age=86400")));
    assert!(robots.text().starts_with("User-agent: *\n"));
    let closed = gateway.get("/shop/cart");
    assert_eq!((closed.status, closed.header("retry-after")), (503, Some("3600")));
    assert!(closed.header("content-type").is_some_and(|kind| kind.starts_with("text/html")));
}

#[test]
fn observability() {
    let app = Origin::fixed("ok");
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("access.log");
    let gateway =
        Plan::example("observability").env("APP", app.address).env("RINGWAY_ACCESS_LOG", log.display()).start();
    assert_eq!(gateway.get("/items/7").status, 200);
    let line =
        eventually("a line is written", || std::fs::read_to_string(&log).ok().filter(|text| text.ends_with('\n')));
    let entry: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((&entry["route"], &entry["path"], &entry["status"]), (&"items".into(), &"/items/7".into(), &200.into()));
    for name in ["gateway_request_duration_seconds_count", "gateway_request_duration_ms_count"] {
        assert_eq!(gateway.metric(name, &["path=\"/items/{id}\""]), 1.0, "{name}");
    }
}

#[test]
fn operations() {
    let (before, after) = (Origin::fixed("before"), Origin::fixed("after"));
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("state.json");
    let plan = Plan::example("operations").env("APP", before.address).env("DRAIN_DELAY", "3s");
    let mut gateway = plan.env("STATE_FILE", file.display()).start();
    let mut client = gateway.connect();
    assert_eq!(client.get("/").text(), "before");
    let endpoint = format!("/services/app/endpoints/{}", before.address);
    assert_eq!(gateway.ask_admin("POST", &format!("{endpoint}/drain")).json()["persisted"], true);
    assert_eq!(client.get("/").reason(), "no_endpoint");
    assert!(std::fs::read_to_string(&file).expect("the file").contains("draining"));
    assert_eq!(gateway.ask_admin("POST", &format!("{endpoint}/enable")).status, 200);
    assert_eq!(client.get("/").text(), "before");
    let text = std::fs::read_to_string(gateway.config_path()).expect("the file");
    gateway.write_config(&text.replace("${APP:-127.0.0.1:3000}", &after.address.to_string()));
    eventually("the change is taken up", || (client.get("/").text() == "after").then_some(()));
    gateway.signal("TERM");
    gateway.wait_log("stopping", 1);
    assert_eq!(gateway.ask_admin("GET", "/ready").status, 503);
    assert_eq!(gateway.get("/").text(), "after", "taken during the delay");
    assert_eq!(gateway.exit_code(), 0);
}

#[test]
fn api_gateway() {
    let (users, orders) = (Origin::echo(), Origin::echo());
    let gateway = Plan::example("api_gateway")
        .env("RINGWAY_PORT", 0)
        .env("RINGWAY_HOST", "127.0.0.1")
        .env("USERS", users.address)
        .env("ORDERS", orders.address)
        .start();
    let response = gateway.get("/api/users/7");
    assert_eq!((response.text().as_str(), response.header("x-ratelimit-limit")), ("GET /7", Some("100")));
    assert_eq!(gateway.get("/api/orders/9").text(), "GET /9");
    assert_eq!((users.seen().len(), orders.seen().len()), (1, 1));
    assert_eq!(gateway.ask("DELETE /api/orders/9 HTTP/1.1\r\nHost: t\r\n\r\n").status, 405);
    eventually("the access log is on", || {
        gateway.stdout().iter().any(|line| line.contains("\"path\":\"/api/orders/9\"")).then_some(())
    });
}

#[test]
fn grpc() {
    let greeter = H2Origin::start(|seen| Answer {
        head: vec![(":status", "200".into()), ("content-type", "application/grpc".into())],
        trailers: vec![("grpc-status", "0".into())],
        // SERVING, for its checks.
        ..Answer::ok(if seen.path().starts_with("/grpc.health") { b"\0\0\0\0\x02\x08\x01" } else { &seen.body[..] })
    });
    let gateway = Plan::example("grpc").env("GREETER", greeter.address).env("CHECK_INTERVAL", "50ms").start();
    let call = |path: &str, kind: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: t\r\nContent-Type: {kind}\r\nContent-Length: 6\r\n\r\n");
        gateway.ask([head.as_bytes(), b"\0\0\0\0\x01x"].concat())
    };
    let answer = call("/helloworld.Greeter/SayHello", "application/grpc-web+proto");
    assert_eq!(answer.body, b"\0\0\0\0\x01x\x80\0\0\0\x10grpc-status: 0\r\n");
    let seen = greeter.seen().into_iter().find(|seen| seen.path() == "/helloworld.Greeter/SayHello").expect("a call");
    assert_eq!((seen.get("te"), seen.get("content-type")), (Some("trailers"), Some("application/grpc+proto")));
    eventually("checks", || {
        (gateway.metric("ringway_health_checks_total", &["result=\"passed\""]) > 1.0).then_some(())
    });
    let codes = (0..3).map(|_| call("/grpc.health.v1.Health/Check", "application/grpc"));
    let codes: Vec<_> = codes.map(|answer| answer.header("grpc-status").map(str::to_owned)).collect();
    assert_eq!(codes[2].as_deref(), Some("8"), "{codes:?}");
}

#[test]
fn discovery() {
    let (one, two, reports) = (Origin::fixed("one"), Origin::fixed("two"), Origin::fixed("reports"));
    let dir = tempfile::tempdir().expect("a directory");
    let list = dir.path().join("users.yaml");
    let put = |text: String| {
        let next = list.with_extension("next");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(&next, &list).expect("renamed");
    };
    put(format!("- {}\n", one.address));
    let gateway = Plan::example("discovery")
        .env("USERS_LIST", list.display())
        .env("REPORTS", format!("localhost:{}", reports.address.port()))
        .start();
    assert_eq!((gateway.get("/users/7").text(), gateway.get("/reports/1").text()), ("one".into(), "reports".into()));
    put(format!("- {}\n", two.address));
    eventually("the new list is used", || (gateway.get("/users/7").text() == "two").then_some(()));
}

#[test]
fn websocket() {
    let switch = "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nhello";
    let chat = Origin::start(move |seen| match seen.header("upgrade") {
        Some(_) => vec![Step::Send(switch.into()), Step::Hang],
        None => crate::support::ok("page"),
    });
    let gateway = Plan::example("websocket").env("CHAT", chat.address).start();
    let ask = |path: &str| {
        let mut client = gateway.connect();
        client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"));
        client
    };
    let mut client = ask("/chat/room");
    assert_eq!(client.read_head().expect("an answer").start, "HTTP/1.1 101 Switching Protocols");
    assert_eq!(client.take(5), b"hello");
    assert_eq!(ask("/").response().text(), "page");
}

#[test]
fn tls_upstream() {
    let ca = crate::support::tls::Authority::new("ca");
    let public = crate::upstream_tls::named(&ca, "api.example.com");
    let plain = Origin::fixed("plain");
    let gateway = Plan::example("tls_upstream")
        .env("PUBLIC", public.address)
        .env("PLAIN", plain.address)
        .env("SSL_CERT_FILE", ca.ca().display())
        .start();
    assert_eq!((gateway.get("/api/x").text().as_str(), gateway.get("/").text().as_str()), ("1", "plain"));
}

#[test]
fn tcp() {
    let (database, app, shop) = (Origin::echo(), Origin::echo(), Origin::echo());
    let gateway = Plan::example("tcp")
        .env("RINGWAY_LISTEN_TLS", "127.0.0.2:0")
        .env("DATABASE", database.address)
        .env("APP", app.address)
        .env("SHOP", shop.address)
        .start();
    // What an origin answers to a request passes like anything else.
    assert_eq!(gateway.get("/a").text(), "GET /a");
    let mut client = crate::support::Client::connect(gateway.addresses[1]);
    client.send("GET / HTTP/1.1\r\n\r\n");
    assert!(client.is_closed(), "what is no TLS leads nowhere");
    for (name, origin) in [("app.example.com", &app), ("de.shop.example.com", &shop)] {
        let mut client = crate::support::Client::connect(gateway.addresses[1]);
        client.send(crate::tcp::hello(Some(name), 16_384));
        eventually(name, || (origin.connections() == 1).then_some(()));
    }
}

#[test]
fn proxy_protocol() {
    let (app, mail) = (Origin::fixed("app"), Origin::fixed("mail"));
    let start = |balancers: &str| {
        let plan = Plan::example("proxy_protocol").env("APP", app.address).env("MAIL", mail.address);
        plan.env("BALANCERS", balancers).start()
    };
    let gateway = start("127.0.0.0/8");
    let ask = |gateway: &Gateway, path: &str| {
        gateway.ask(format!("PROXY TCP4 203.0.113.9 127.0.0.1 9 80\r\nGET {path} HTTP/1.1\r\nHost: t\r\n\r\n"))
    };
    assert_eq!(ask(&gateway, "/").text(), "app");
    assert_eq!(app.last().header("x-forwarded-for"), Some("203.0.113.9"));
    let mut client = gateway.connect();
    client.send("PROXY TCP4 203.0.113.9 127.0.0.1 9 80\r\nGET /mail/x HTTP/1.1\r\nHost: t\r\n\r\n");
    mail.wait_bytes(28);
    let told = [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &[203, 0, 113, 9, 127, 0, 0, 1, 0, 9]].concat();
    assert!(mail.received().starts_with(&told), "{:?}", mail.received());
    // With the network that stands in the file this peer is a stranger.
    assert_eq!(ask(&start("10.0.0.0/8"), "/").reason(), "bad_proxy_header");
}

#[test]
fn http2() {
    let app = Origin::fixed("app");
    let gateway = Plan::example("http2").env("APP", app.address).start();
    let mut client = crate::http2::wire::H2::connect(gateway.address);
    client.send(&crate::http2::wire::get(1, "/"));
    assert_eq!(client.answer(1).body, b"app");
    assert_eq!(get(&gateway, "/", "").text(), "app");
}

/// What the example of TLS reads.
struct Site {
    ca: Authority,
    site: Issued,
    more: tempfile::TempDir,
}

impl Site {
    fn new() -> Self {
        let ca = Authority::new("admins");
        let site = ca.issue("site", &["www.example.com"]);
        let more = tempfile::tempdir().expect("a directory");
        let admin = ca.issue("admin", &["admin.example.com"]);
        for (from, to) in [(&admin.cert, "admin.crt"), (&admin.key, "admin.key")] {
            std::fs::copy(from, more.path().join(to)).expect("copied");
        }
        Self { ca, site, more }
    }

    fn environment(&self) -> [(&'static str, String); 4] {
        let text = |path: &std::path::Path| path.display().to_string();
        [
            ("SITE_CERT", text(&self.site.cert)),
            ("SITE_KEY", text(&self.site.key)),
            ("MORE_CERTS", text(self.more.path())),
            ("ADMINS_CA", text(&self.ca.ca())),
        ]
    }
}

#[test]
fn tls() {
    let (site, app) = (Site::new(), Origin::echo());
    let mut plan = Plan::example("tls").env("APP", app.address).env("RINGWAY_PLAIN", "127.0.0.2:0");
    for (name, value) in site.environment() {
        plan = plan.env(name, value);
    }
    let gateway = plan.start();
    let at = |ip: &str| {
        let found = gateway.addresses.iter().find(|address| address.ip().to_string() == ip);
        *found.expect("it listens there")
    };
    let (plain, secure) = (at("127.0.0.2"), at("127.0.0.1"));
    let mut client = crate::support::Client::connect(plain);
    client.send("GET /x HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    assert_eq!(client.response().header("location"), Some("https://www.example.com:8443/x"));
    let stranger = Arc::new(site.ca.client(None));
    let (answer, _) = ask(secure, &stranger, "www.example.com", "www.example.com").expect("served");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("max-age=31536000"), "{answer}");
    assert!(ask(secure, &stranger, "admin.example.com", "admin.example.com").is_err());
    let (answer, _) = ask(secure, &stranger, "www.example.com", "admin.example.com").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    let root = site.ca.issue("root", &["root.example.com"]);
    let member = Arc::new(site.ca.client(Some(&root)));
    let (answer, _) = ask(secure, &member, "admin.example.com", "admin.example.com").expect("served");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(app.last().header("x-client-cert-subject"), Some("CN=root"));
}

#[test]
fn one_port() {
    use crate::http2::wire::{H2, PREFACE, SETTINGS, get, raw};
    let (site, app) = (Site::new(), Origin::fixed("app"));
    let mut plan = Plan::example("one_port").env("APP", app.address).env("BALANCERS", "127.0.0.0/8");
    for (name, value) in site.environment() {
        plan = plan.env(name, value);
    }
    let gateway = plan.start();
    let named = |scheme: &str| {
        let last = app.last();
        assert_eq!(last.header("x-forwarded-for"), Some("203.0.113.9"));
        assert_eq!(last.header("x-forwarded-proto"), Some(scheme));
    };
    let header = &b"PROXY TCP4 203.0.113.9 127.0.0.1 9 443\r\n"[..];
    let mut http1 = gateway.connect();
    http1.send([header, b"GET / HTTP/1.1\r\nHost: www.example.com\r\n\r\n"].concat());
    assert_eq!(http1.response().text(), "app");
    named("http");
    let mut http2 = H2::silent(gateway.address);
    assert!(http2.send(&[header, PREFACE, &raw(SETTINGS, 0, 0, b""), &get(1, "/")].concat()));
    assert_eq!(http2.answer(1).body, b"app");
    named("http");
    for offered in ["h2", "http/1.1"] {
        let mut config = site.ca.client(None);
        config.alpn_protocols = vec![offered.as_bytes().to_vec()];
        let mut secured = tls::connect(gateway.address, &Arc::new(config), "www.example.com", false);
        secured.sock.stream.write_all(header).expect("sent");
        if offered == "h2" {
            secured.write_all(&[PREFACE, &raw(SETTINGS, 0, 0, b""), &get(1, "/")].concat()).expect("sent");
            let (mut seen, mut bytes) = (Vec::new(), [0; 1_024]);
            while !seen.ends_with(b"app") {
                let count = secured.read(&mut bytes).expect("an answer");
                assert!(count > 0, "closed after {seen:?}");
                seen.extend(&bytes[..count]);
            }
        } else {
            let answer = tls::get(&mut secured, "www.example.com", "").expect("served");
            assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("app"), "{answer}");
        }
        assert_eq!(secured.conn.alpn_protocol(), Some(offered.as_bytes()));
        named("https");
    }
    // Whoever comes past the load balancer is closed.
    let stranger = Arc::new(site.ca.client(None));
    assert!(tls::ask(gateway.address, &stranger, "www.example.com", "www.example.com").is_err());
}

#[test]
fn acme() {
    let storage = tempfile::tempdir().expect("a directory");
    let app = Origin::echo();
    let gateway = Plan::example("acme")
        .env("APP", app.address)
        .env("RINGWAY_PLAIN", "127.0.0.2:0")
        // Nobody is there; tests/e2e/acme.rs has an authority that is.
        .env("ACME_DIRECTORY", "https://127.0.0.1:1/dir")
        .env("ACME_STORAGE", storage.path().display())
        .start();
    let plain = *gateway.addresses.iter().find(|at| at.ip().to_string() == "127.0.0.2").expect("it listens there");
    let mut client = crate::support::Client::connect(plain);
    client.send("GET /x HTTP/1.1\r\nHost: www.example.com\r\n\r\n");
    assert_eq!(client.response().header("location"), Some("https://www.example.com/x"));
    let site = Site::new();
    let refused = ask(gateway.address, &Arc::new(site.ca.client(None)), "www.example.com", "www.example.com");
    assert!(refused.is_err(), "there is no certificate yet: {refused:?}");
    let page = eventually("both were tried", || {
        let page = gateway.ask_admin("GET", "/certificates").json();
        let failed = page["ordered"].as_array()?.iter().filter(|one| one["failures"] == 1).count();
        (failed == 2).then_some(page)
    });
    assert_eq!(page["ordered"][1]["name"], "www.example.com");
    assert_eq!(gateway.metric("ringway_acme_failures_total", &["unreachable"]), 2.0);
}

#[test]
fn resilience() {
    let ill = |status: u16| {
        Origin::start(move |seen| match seen.path() {
            "/health" => ok("fine"),
            path if path.starts_with("/payments") || path.starts_with("/orders") => {
                vec![Step::Send(format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").into_bytes())]
            }
            path if path.starts_with("/catalogue") => vec![Step::Hang],
            _ => ok("served"),
        })
    };
    let (one, two, far) = (ill(503), Origin::fixed("two"), Origin::fixed("far"));
    let gateway = Plan::example("resilience")
        .env("ORDERS_1", one.address)
        .env("ORDERS_2", two.address)
        .env("ORDERS_FAR", far.address)
        .env("CHECK_INTERVAL", "50ms")
        .env("HEDGE_AFTER", "30ms")
        .env("TRY_TIMEOUT", "20s")
        .env("STICKY_SECRET", "a secret that is long enough")
        .start();
    // No more than it takes: each retry leaves less of the budget to the hedged copies below.
    eventually("an answer of the ill one, tried elsewhere", || {
        let answer = get(&gateway, "/orders/7", "");
        assert_eq!((answer.status, answer.text()), (200, "two".to_owned()), "a 503 is tried elsewhere");
        assert!(answer.header("set-cookie").is_some_and(|cookie| cookie.starts_with("orders_route=")));
        one.seen().iter().any(|seen| seen.path() != "/health").then_some(())
    });
    let served = two.seen().into_iter().rfind(|seen| seen.path() != "/health").expect("a request");
    assert!(served.header("x-timeout-ms").is_some());
    // A failure or two are too few for an ejection; with those of the payments it may come, and the second tier helps.
    assert!(far.seen().iter().all(|seen| seen.path() == "/health"), "the second tier was not needed");
    // Behind the others, since copies take from the budget that retries have.
    eventually("a second endpoint that is asked as well", || {
        assert_eq!(get(&gateway, "/catalogue/7", "").text(), "two");
        (gateway.metric("ringway_worker_hedges_won_total", &[]) > 0.0).then_some(())
    });
    let payments = (0..4).map(|_| get(&gateway, "/payments/7", "").status).collect::<Vec<_>>();
    assert!(payments.contains(&503), "never tried twice: {payments:?}");
    assert_eq!(get(&gateway, "/preview/7", "").text(), "two");
    eventually("checks", || {
        (gateway.metric("ringway_health_checks_total", &["result=\"passed\""]) > 3.0).then_some(())
    });
    let breakers = gateway.ask_admin("GET", "/circuit-breakers").json();
    assert_eq!((breakers[0]["service"].as_str(), breakers[0]["state"].as_str()), (Some("orders"), Some("closed")));
}
