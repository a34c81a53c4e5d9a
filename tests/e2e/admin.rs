//! The admin API of a running gateway (R207–R216, R258–R264, C36–C39, C48, F76, F77).

use crate::support::gateway::Plan;
use crate::support::{Client, Gateway, Origin, Step, eventually};

fn busy() -> (Gateway, Origin) {
    let origin = Origin::start(|seen| match seen.path() {
        "/fails" => vec![Step::Close],
        "/teapot" => vec![Step::Send(b"HTTP/1.1 418 T\r\nContent-Length: 0\r\n\r\n".to_vec())],
        path => crate::support::ok(path),
    });
    let gateway = Gateway::start(&format!(
        "services: [{{name: up, endpoints: [\"{}\"]}}]\n\
         metrics: {{compat_names: true}}\n\
         routes:\n\
         - {{name: item, path: \"/items/{{id}}\", service: up}}\n\
         - {{name: rest, path: /*, service: up}}\n\
         - {{name: limited, path: /limited, respond: 200, policies: [{{rate_limit: {{rate: 1/h}}}}]}}\n",
        origin.address
    ));
    let mut client = gateway.connect();
    for (path, status) in
        [("/items/1", 200), ("/items/2", 200), ("/teapot", 418), ("/fails", 502), ("/limited", 200), ("/limited", 429)]
    {
        assert_eq!(client.get(path).status, status, "{path}");
    }
    (gateway, origin)
}

#[test]
fn metrics_have_their_names_and_labels() {
    let (gateway, origin) = busy();
    let _open = gateway.connect();
    let page = gateway.metrics();
    for (name, labels, value) in [
        (
            "gateway_requests_total",
            &["method=\"GET\"", "path=\"/items/{id}\"", "status=\"200\"", "service=\"up\""][..],
            2.0,
        ),
        ("gateway_requests_total", &["status=\"418\""], 1.0),
        ("gateway_requests_total", &["status=\"429\""], 1.0),
        ("gateway_request_duration_seconds_count", &["method=\"GET\"", "path=\"/items/{id}\"", "service=\"up\""], 2.0),
        ("gateway_request_duration_seconds_bucket", &["path=\"/items/{id}\"", "le=\"+Inf\""], 2.0),
        ("gateway_request_duration_count", &["path=\"/items/{id}\""], 2.0),
        ("gateway_request_duration_ms_count", &["path=\"/items/{id}\""], 2.0),
        ("gateway_errors_total", &["error_type=\"upstream_closed\"", "service=\"up\""], 1.0),
        ("gateway_errors_total", &["error_type=\"rate_limited\""], 1.0),
        ("gateway_rate_limit_hits_total", &["limiter_type="], 1.0),
        ("gateway_upstream_status_total", &["service=\"up\"", "status=\"418\""], 1.0),
        ("gateway_upstream_status_total", &["service=\"up\"", "status=\"200\""], 2.0),
    ] {
        assert_eq!(gateway.metric(name, labels), value, "{name} {labels:?}");
    }
    let endpoint = format!("endpoint=\"{}\"", origin.address);
    assert!(gateway.metric("gateway_backend_duration_seconds_count", &["service=\"up\"", &endpoint]) >= 3.0, "{page}");
    assert!(gateway.metric("gateway_active_connections", &[]) >= 1.0);
    assert_eq!(gateway.metric("gateway_worker_up", &[]), 1.0);
    for name in
        ["process_resident_memory_bytes", "process_open_fds", "ringway_latency_quantile_seconds", "ringway_build_info"]
    {
        assert!(gateway.metric(name, &[]) > 0.0, "{name} in\n{page}");
    }
    for line in page.lines().filter(|line| !line.starts_with('#')) {
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok() || value == "+Inf", "{line}");
    }
    assert_eq!(
        gateway.ask_admin("GET", "/metrics").header("content-type").map(|t| t.starts_with("text/plain; version=0.0.4")),
        Some(true)
    );
}

#[test]
fn what_clients_send_makes_no_series() {
    let gateway = Gateway::start("routes: [{path: /a, respond: 200}]\n");
    let series = || gateway.metrics().lines().filter(|line| line.starts_with("gateway_requests_total")).count();
    let mut client = gateway.connect();
    for number in 0..300 {
        client.send(format!("M{number} /{number} HTTP/1.1\r\nHost: h{number}\r\n\r\n"));
        assert_eq!(client.response().status, 404);
    }
    assert!(series() <= 2, "{}", gateway.metrics());
}

#[test]
fn resources_tell_what_is_there() {
    let (gateway, origin) = busy();
    let health = gateway.ask_admin("GET", "/health").json();
    assert_eq!(
        (health["workers"].as_u64(), health["workers_up"].as_u64(), health["requests"].as_u64()),
        (Some(1), Some(1), Some(6))
    );
    let ready = gateway.ask_admin("GET", "/ready");
    assert_eq!((ready.status, &ready.json()["status"]), (200, &"ready".into()));
    let services = gateway.ask_admin("GET", "/services").json();
    assert_eq!((&services[0]["name"], &services[0]["load_balancer"]), (&"up".into(), &"round_robin".into()));
    let endpoints = gateway.ask_admin("GET", "/services/up/endpoints").json();
    assert_eq!(endpoints[0]["address"], origin.address.to_string());
    assert!(endpoints[0]["opened"].as_u64() >= Some(1) && endpoints[0]["reused"].as_u64() >= Some(1), "{endpoints}");
    assert_eq!(gateway.ask_admin("GET", "/services/down/endpoints").status, 404);
    let workers = gateway.ask_admin("GET", "/workers").json();
    assert_eq!((&workers[0]["up"], &workers[0]["generation"]), (&true.into(), &1.into()));
    let policies = gateway.ask_admin("GET", "/policies").text();
    assert!(["rate_limit", "headers", "ip"].iter().all(|name| policies.contains(name)), "{policies}");
    assert_eq!(gateway.ask_admin("GET", "/version").json()["version"], env!("CARGO_PKG_VERSION"));
    let config = gateway.ask_admin("GET", "/config").json();
    assert_eq!(config["config"]["routes"][0]["name"], "item");
    assert_eq!(config["config"]["server"]["timeout"], "30s", "defaults are written out");
    let lost = gateway.ask_admin("GET", "/nothing");
    assert_eq!((lost.status, &lost.json()["error"]), (404, &"Not found".into()));
    assert_eq!(gateway.ask_admin("DELETE", "/config").status, 405);
}

#[test]
fn the_public_listener_shows_nothing_of_it() {
    let gateway = Gateway::start("routes: [{path: /a, respond: 200}]\n");
    for path in ["/metrics", "/config", "/health", "/ready", "/config/reload"] {
        assert_eq!(gateway.get(path).status, 404, "{path}");
    }
}

#[test]
fn no_secret_is_shown() {
    let gateway = Plan::new(
        "listeners: [\"127.0.0.1:0\"]\n\
         services: [{name: users, endpoints: [\"127.0.0.1:1\"]}]\n\
         admin: {listen: \"127.0.0.1:0\"}\n\
         api_gateway:\n  \
           server: {port: 0, host: 127.0.0.1}\n  \
           routing: {routes: [{path: /users/*, service: users}]}\n  \
           plugins:\n  \
           - {name: authentication, config: {type: jwt, secret: \"${JWT_SECRET}\", excluded_paths: [/health]}}\n"
            .replace("listeners: [\"127.0.0.1:0\"]\n", "")
            .as_str(),
    )
    .env("JWT_SECRET", "hunter2-very-secret")
    .start();
    for path in ["/config", "/metrics", "/policies", "/services", "/ready"] {
        assert!(!gateway.ask_admin("GET", path).text().contains("hunter2"), "{path}");
    }
    assert!(!gateway.stderr().contains("hunter2"), "{}", gateway.stderr());
}

#[test]
fn browsers_of_other_sites_are_kept_out() {
    let gateway = Gateway::start("routes: [{path: /a, respond: 200}]\n");
    let ask = |request: String| {
        let mut client = Client::connect(gateway.admin);
        client.send(request);
        client.response().status
    };
    let admin = gateway.admin;
    assert_eq!(ask("GET /config HTTP/1.1\r\nHost: evil.example\r\n\r\n".into()), 403, "a rebound name");
    assert_eq!(ask(format!("GET /config HTTP/1.1\r\nHost: {admin}\r\n\r\n")), 200);
    let reload =
        |more: &str| ask(format!("POST /config/reload HTTP/1.1\r\nHost: {admin}\r\nContent-Length: 0\r\n{more}\r\n"));
    assert_eq!(reload("Origin: https://evil.example\r\n"), 403);
    assert_eq!(reload("Origin: null\r\n"), 403);
    assert_eq!(reload("Sec-Fetch-Site: cross-site\r\n"), 403);
    assert_eq!(gateway.metric("ringway_config_generation", &[]), 1.0, "none of them was obeyed");
    assert_eq!(reload(&format!("Origin: http://{admin}\r\n")), 200);
}

#[test]
fn an_admin_listener_for_everybody_needs_a_token() {
    let exited = Plan::new("admin: {listen: \"0.0.0.0:0\"}\nroutes: [{path: /a, respond: 200}]\n").start_in_vain();
    assert_eq!(exited.code, Some(1), "{}", exited.stderr);
    assert!(exited.stderr.contains("token"), "{}", exited.stderr);
}

#[test]
fn it_can_be_turned_off_and_does_not_disturb_requests() {
    let gateway = Gateway::start("admin: {enabled: false}\nroutes: [{path: /a, respond: {body: here}}]\n");
    assert!(gateway.logs("admin listening").is_empty());
    assert_eq!(gateway.get("/a").text(), "here");
    let gateway = Gateway::start("routes: [{path: /a, respond: {body: here}}]\n");
    let half: Vec<_> = (0..80)
        .map(|_| {
            let mut client = Client::connect(gateway.admin);
            client.send("GET /he");
            client
        })
        .collect();
    let mut client = gateway.connect();
    for _ in 0..50 {
        assert_eq!(client.get("/a").text(), "here");
    }
    drop(half);
    eventually("the admin API serves again", || (gateway.ask_admin("GET", "/health").status == 200).then_some(()));
}

#[test]
fn metrics_stand_where_the_configuration_says() {
    let gateway = Gateway::start("metrics: {endpoint: /stats}\nroutes: [{path: /a, respond: 200}]\n");
    assert!(gateway.ask_admin("GET", "/stats").text().contains("gateway_worker_up"));
    assert_eq!(gateway.ask_admin("GET", "/metrics").status, 404);
    let gateway = Gateway::start("metrics: {enabled: false}\nroutes: [{path: /a, respond: 200}]\n");
    assert_eq!(gateway.ask_admin("GET", "/metrics").status, 404);
}
