use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::backend::{
    Answer, Check, EndpointOrder, EndpointOutcome, ErrorRates, Health, HealthStatus, Readiness, ReadyStatus,
    ReloadOutcome, UpgradeOutcome,
};
use super::*;

const TOKEN: &str = "write-token-0123456789";

/// `mode` chooses what the gateway is in: 0 ready, 1 draining and reload rejected, 2 busy.
#[derive(Default)]
struct Fake {
    mode: AtomicU8,
}

impl AdminBackend for Fake {
    fn ready(&self) -> Readiness {
        let draining = self.mode.load(Ordering::Relaxed) == 1;
        let status = if draining { ReadyStatus::Draining } else { ReadyStatus::Ready };
        let check = Check { name: "workers".into(), ok: !draining, detail: "2 of 2".into() };
        Readiness { status, checks: vec![check] }
    }

    fn health(&self) -> Answer<'_, Health> {
        Box::pin(async {
            Health {
                status: HealthStatus::Healthy,
                error_rates: ErrorRates { all: 0.0 },
                average_response_time: 1.5,
                active_connections: 3,
                requests: 10,
                workers_up: 2,
                workers: 2,
                uptime_seconds: 1,
            }
        })
    }

    fn metrics_text(self: Arc<Self>) -> Answer<'static, Option<String>> {
        let broken = self.mode.load(Ordering::Relaxed) == 2;
        Box::pin(async move { (!broken).then(|| "# TYPE a gauge\na 1\n".to_owned()) })
    }

    fn config_json(&self) -> Value {
        json!({ "generation": 1 })
    }

    fn reload(&self) -> Answer<'_, ReloadOutcome> {
        let outcome = match self.mode.load(Ordering::Relaxed) {
            0 => ReloadOutcome::Applied { generation: 2, changes: json!(["route users"]) },
            1 => ReloadOutcome::Rejected { generation: 1, diagnostics: json!([{ "line": 3 }]) },
            2 => ReloadOutcome::Busy,
            _ => return Box::pin(std::future::pending()),
        };
        Box::pin(async { outcome })
    }

    fn upgrade(&self) -> Answer<'_, UpgradeOutcome> {
        Box::pin(async { UpgradeOutcome::Refused { error: "busy".into() } })
    }

    fn services(&self) -> Answer<'_, Value> {
        Box::pin(async { json!([{ "name": "users" }]) })
    }

    fn endpoints<'a>(&'a self, service: &'a str) -> Answer<'a, Option<Value>> {
        Box::pin(async move { (service == "a/b").then(|| json!([])) })
    }

    fn certificates(&self) -> Value {
        json!({ "listeners": [], "ordered": [] })
    }

    fn order_endpoint(&self, order: EndpointOrder) -> Answer<'_, EndpointOutcome> {
        Box::pin(async move {
            match (&*order.service, &*order.address) {
                ("users", "[::1]:80") => EndpointOutcome::Done(json!({ "why": order.why })),
                ("users", "full") => EndpointOutcome::Full,
                ("users", _) => EndpointOutcome::NoEndpoint,
                _ => EndpointOutcome::NoService,
            }
        })
    }

    fn events(&self) -> Value {
        json!([])
    }

    fn breakers(&self) -> Value {
        json!([])
    }

    fn reset_breaker(&self, name: &str) -> Option<Value> {
        (name == "a/b").then(|| json!({ "state": "closed" }))
    }

    fn workers(&self) -> Answer<'_, Value> {
        Box::pin(async { json!([]) })
    }

    fn policies(&self) -> Value {
        json!([])
    }

    fn version(&self) -> Value {
        json!({ "version": "0.1.0" })
    }
}

struct Running {
    address: SocketAddr,
    backend: Arc<Fake>,
}

async fn start(token: Option<&str>) -> Running {
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let settings = AdminSettings { token: token.map(str::to_owned), ..AdminSettings::on(loopback) };
    let server = AdminServer::bind(settings).expect("bound");
    let running = Running { address: server.local_addr().expect("address"), backend: Arc::new(Fake::default()) };
    tokio::spawn(server.serve(running.backend.clone(), std::future::pending()));
    running
}

impl Running {
    async fn send(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).await.expect("connected");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status");
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn ask(&self, method: &str, path: &str, more: &str) -> (u16, Value) {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{more}\r\n", self.address);
        let (status, _, body) = self.send(&request).await;
        (status, serde_json::from_str(&body).unwrap_or(Value::String(body)))
    }
}

#[tokio::test]
async fn every_resource_answers() {
    let running = start(None).await;
    for (path, part) in [
        ("/ready", r#""status":"ready","checks":[{"name":"workers","ok":true,"detail":"2 of 2"}]"#),
        (
            "/health",
            r#""status":"healthy","error_rates":{"all":0.0},"average_response_time":1.5,"active_connections":3"#,
        ),
        ("/config", r#""generation":1"#),
        ("/services", r#""name":"users""#),
        ("/services/a%2Fb/endpoints", "[]"),
        ("/events", "[]"),
        ("/workers", "[]"),
        ("/policies", "[]"),
        ("/version", r#""version":"0.1.0""#),
    ] {
        let (status, value) = running.ask("GET", path, "").await;
        assert_eq!(status, 200, "{path}");
        assert!(value.to_string().contains(part), "{path}: {value}");
    }
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", running.address);
    let (status, head, body) = running.send(&request).await;
    assert_eq!((status, body.as_str()), (200, "# TYPE a gauge\na 1\n"));
    assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
}

#[tokio::test]
async fn errors_have_the_one_shape() {
    let running = start(None).await;
    for (method, path, expected) in [
        ("GET", "/nothing", 404),
        ("GET", "/services/unknown/endpoints", 404),
        ("GET", "/services/%ff/endpoints", 400),
        ("DELETE", "/config", 405),
        ("GET", "/config/reload", 405),
    ] {
        let (status, value) = running.ask(method, path, "").await;
        assert_eq!(status, expected, "{method} {path}");
        let keys: Vec<_> = value.as_object().expect("an object").keys().collect();
        assert_eq!(keys, ["error", "status", "request_id", "timestamp"]);
        assert_eq!((&value["status"], value["request_id"].as_str().map(str::len)), (&json!(expected), Some(36)));
    }
    let request = format!("PUT /config HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", running.address);
    let (_, head, _) = running.send(&request).await;
    assert!(head.contains("allow: get"), "{head}");
}

#[tokio::test]
async fn reloads_tell_what_became_of_them() {
    let running = start(None).await;
    let expected = json!({ "result": "applied", "generation": 2, "changes": ["route users"] });
    assert_eq!(running.ask("POST", "/config/reload", "Content-Length: 0\r\n").await, (200, expected));
    running.backend.mode.store(1, Ordering::Relaxed);
    let expected = json!({ "result": "rejected", "generation": 1, "diagnostics": [{ "line": 3 }] });
    assert_eq!(running.ask("POST", "/config/reload", "").await, (422, expected));
    assert_eq!(running.ask("GET", "/ready", "").await.0, 503);
    running.backend.mode.store(2, Ordering::Relaxed);
    assert_eq!(running.ask("POST", "/config/reload", "").await.0, 409);
}

#[tokio::test]
async fn bodies_are_bounded() {
    let running = start(None).await;
    let announced = format!("Content-Length: {}\r\n", BODY_BYTES_MAX + 1);
    assert_eq!(running.ask("POST", "/config/reload", &announced).await.0, 413);
    let length = BODY_BYTES_MAX + 1;
    let head = format!("Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n");
    let sent = format!("{head}{}", "x".repeat(length));
    let start = format!("POST /config/reload HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", running.address);
    assert_eq!(running.send(&(start + &sent)).await.0, 413);
}

#[tokio::test]
async fn orders_about_endpoints_have_their_statuses() {
    let running = start(Some(TOKEN)).await;
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let with = format!("{token}Content-Length: 14\r\n\r\n{{\"why\": \"w\"}}");
    let at = |service: &str, address: &str| format!("/services/{service}/endpoints/{address}/drain");
    assert_eq!(running.ask("POST", &at("users", "%5B::1%5D:80"), &with).await, (200, json!({ "why": "w" })));
    for (path, status) in [
        (at("users", "full"), 409),
        (at("users", "10.0.0.1:80"), 404),
        (at("others", "10.0.0.1:80"), 404),
        (at("users", "%FF"), 400),
        ("/services/users/endpoints/x/explode".to_owned(), 404),
        ("/services/users/endpoints/x/weight".to_owned(), 400),
    ] {
        let (got, body) = running.ask("POST", &path, &token).await;
        assert_eq!((got, body["status"].as_u64()), (status, Some(u64::from(status))), "{path}: {body}");
    }
    assert_eq!(running.ask("GET", &at("users", "x"), &token).await.0, 405);
    assert_eq!(running.ask("POST", &at("users", "x"), "").await.0, 401);
    let foreign = format!("{token}Origin: https://evil.example\r\n");
    assert_eq!(running.ask("POST", &at("users", "%5B::1%5D:80"), &foreign).await.0, 403);
}

#[tokio::test]
async fn browsers_of_other_sites_are_refused() {
    let running = start(None).await;
    let rebound = "GET /config HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(running.send(rebound).await.0, 403);
    assert_eq!(running.ask("POST", "/config/reload", "Origin: https://evil.example\r\n").await.0, 403);
    let own = format!("Origin: http://{}\r\n", running.address);
    assert_eq!(running.ask("POST", "/config/reload", &own).await.0, 200);
}

#[tokio::test]
async fn without_the_token_only_bare_probes_answer() {
    let running = start(Some(TOKEN)).await;
    assert_eq!(running.ask("GET", "/health", "").await, (200, json!({ "status": "healthy" })));
    assert_eq!(running.ask("GET", "/ready", "").await, (200, json!({ "status": "ready" })));
    for path in ["/config", "/metrics", "/nothing", "/health/", "/services"] {
        assert_eq!(running.ask("GET", path, "").await.0, 401, "{path}");
    }
    assert_eq!(running.ask("POST", "/config/reload", "").await.0, 401);
    assert_eq!(running.ask("POST", "/health", "").await.0, 401);
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(running.ask("GET", "/config", &token).await.0, 200);
    assert_eq!(running.ask("POST", "/config/reload", &token).await.0, 200);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_a_504() {
    let admin = Admin {
        backend: Arc::new(Fake { mode: AtomicU8::new(9) }),
        guard: Arc::new(Guard::new(AdminSettings::on(SocketAddr::from(([127, 0, 0, 1], 0)))).expect("closed")),
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    tokio::spawn(async move { axum::serve(listener, router(admin, Duration::from_millis(20))).await });
    let running = Running { address, backend: Arc::new(Fake::default()) };
    assert_eq!(running.ask("POST", "/config/reload", "").await.0, 504);
}

#[tokio::test]
async fn addresses_that_cannot_be_used_are_start_errors() {
    let running = start(None).await;
    let taken = AdminServer::bind(AdminSettings::on(running.address)).expect_err("taken");
    assert!(matches!(taken, AdminError::Listen(..)), "{taken}");
    let open = AdminServer::bind(AdminSettings::on(SocketAddr::from(([0, 0, 0, 0], 0)))).expect_err("open");
    assert!(open.to_string().contains("no token"), "{open}");
}

#[tokio::test]
async fn more_connections_than_the_bound_wait() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let address = listener.local_addr().expect("address");
    let mut guarded = Guarded::with(listener, Duration::from_secs(60), Duration::from_secs(60));
    let mut clients = Vec::new();
    for _ in 0..=CONNECTIONS_MAX {
        clients.push(TcpStream::connect(address).await.expect("connected"));
    }
    let mut accepted = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        accepted.push(axum::serve::Listener::accept(&mut guarded).await);
    }
    let soon = Duration::from_millis(50);
    assert!(tokio::time::timeout(soon, axum::serve::Listener::accept(&mut guarded)).await.is_err());
    accepted.pop();
    assert!(tokio::time::timeout(Duration::from_secs(20), axum::serve::Listener::accept(&mut guarded)).await.is_ok());
}
