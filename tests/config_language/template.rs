//! The `api_gateway` template loads as it stands.

use ringway::config::model::{AccessLogFormat, Algorithm};
use ringway::schema::FixedEnv;

use crate::support::{RateLimit, load};

const TEMPLATE: &str = r#"
api_gateway:
  server:
    port: 8080
    host: 0.0.0.0
    timeout: 30s
  routing:
    routes:
      - path: /api/users/*
        service: user-service
        methods: [GET, POST, PUT, DELETE]
        strip_prefix: true
        load_balancer: round_robin
      - path: /api/orders/*
        service: order-service
        methods: [GET, POST]
        load_balancer: least_connections
  plugins:
    - name: authentication
      config:
        type: jwt
        secret: ${JWT_SECRET}
        excluded_paths: [/api/auth/login, /api/health]
    - name: rate_limiting
      config:
        requests_per_minute: 60
        burst: 100
        by: user_id
    - name: caching
      config:
        ttl: 300
        max_size: 1000
    - name: cors
      config:
        origins: ["https://example.com"]
        methods: [GET, POST]
        headers: [Content-Type, Authorization]
  service_discovery:
    type: consul
    address: consul:8500
    refresh_interval: 30s
  circuit_breaker:
    failure_threshold: 5
    timeout: 60s
    half_open_requests: 3
  observability:
    metrics:
      enabled: true
      endpoint: /metrics
    tracing:
      enabled: true
      sample_rate: 0.1
      exporter: jaeger
    logging:
      level: info
      format: json
"#;

#[test]
fn the_template_loads_as_it_stands() {
    let env = FixedEnv::of(&[("JWT_SECRET", "hunter2")]);
    let loaded = load(TEMPLATE, &env).expect("accepted");
    let config = &loaded.config;
    assert_eq!(config.listeners[0].address.0.to_string(), "0.0.0.0:8080");
    assert_eq!(config.server.timeout.as_secs(), 30);
    let names: Vec<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["user-service", "order-service"]);
    assert!(config.routes[0].strip_prefix && !config.routes[1].strip_prefix);
    assert_eq!(config.routes[1].load_balancer.as_ref().map(|lb| lb.algorithm), Some(Algorithm::LeastConnections));
    assert_eq!(config.logging.access_log.format, AccessLogFormat::Json);
    let limit: &RateLimit = config.policies[0].config_as().expect("its type");
    assert_eq!((limit.rate.per_second(), limit.burst, limit.key.as_str()), (1.0, 100, "client_ip"));
    assert!(!loaded.effective().to_string().contains("hunter2"));

    let shown = loaded.warnings.render();
    for part in ["authentication", "caching", "cors", "service_discovery", "tracing", "by: user_id"] {
        let said = shown.lines().any(|line| line.contains("W0111") && line.contains(part));
        assert!(said, "{part} is not in:\n{shown}");
    }
    assert_eq!(loaded.warnings.warnings_total(), 6 + 2, "{shown}");
    assert!(shown.contains("REQUESTS ARE NOT AUTHENTICATED"));
    // The places are those of the template.
    assert!(shown.contains("test.yaml:10:18: warning[W0202]: the service `user-service` has no endpoints"), "{shown}");
}

#[test]
fn the_template_needs_its_variable() {
    let error = load(TEMPLATE, &FixedEnv::default()).expect_err("refused");
    assert!(error.contains("error[E0005]: the environment variable `JWT_SECRET` is not set"), "{error}");
}

#[test]
fn services_may_stand_beside_the_template() {
    let text = "\
api_gateway:
  server: {port: 9000, host: \"::1\"}
  routing: {routes: [{path: /a, service: a}, {path: /b, service: b}]}
services: [{name: a, endpoints: [\"127.0.0.1:1\"]}]
admin: {enabled: false}
";
    let loaded = load(text, &FixedEnv::default()).expect("accepted");
    let config = &loaded.config;
    assert_eq!(config.listeners[0].address.0.to_string(), "[::1]:9000");
    let ends: Vec<usize> = config.services.iter().map(|service| service.endpoints.len()).collect();
    assert_eq!((ends, config.admin.enabled), (vec![1, 0], false));
}
