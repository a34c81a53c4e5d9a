use std::collections::BTreeMap;

use super::exposition::{ControlFacts, Exposition, Summary, WorkerReport};
use super::instruments::{Deadline, INSTRUMENTS};
use super::process::ProcessFacts;
use super::*;
use crate::error::Failure;
use crate::http::grpc::{Call, Dress};

fn tag(slot: u32) -> Option<std::rc::Rc<EndpointTag>> {
    Some(EndpointTag { authority: "".into(), slot }.into())
}

fn exchange(method: Method, status: u16, upstream_status: u16) -> Exchange {
    let mut exchange = Exchange { endpoint: tag(1), upstream_status, ..Exchange::default() };
    exchange.request.method = method;
    exchange.response.status = status;
    exchange.started = Now::from_ms(1_000);
    exchange.upstream_ns = 3_000_000;
    exchange
}

/// Ten GETs with 200, one POST with 502 (2 s), one that matched nothing, one client that left, two refusals.
fn traffic(metrics: &mut WorkerMetrics) {
    let route = metrics.route("users", "/u/{id}");
    let service = metrics.service("users", ["10.0.0.1:80", "10.0.0.2:80"]);
    let fast = Now::from_ms(1_004);
    for _ in 0..10 {
        metrics.finished(&route, Some(&service), &exchange(Method::Get, 200, 200), fast);
    }
    let mut failed = exchange(Method::Post, 502, 0);
    failed.failure = Some(Failure::new(Reason::ConnectRefused));
    metrics.finished(&route, Some(&service), &failed, Now::from_ms(3_000));
    let mut unmatched = exchange(Method::Get, 404, 0);
    unmatched.failure = Some(Failure::new(Reason::NoRoute));
    metrics.finished(&metrics.unmatched(), None, &unmatched, fast);
    let mut left = exchange(Method::Get, 0, 0);
    left.failure = Some(Failure::new(Reason::ClientClosed));
    metrics.finished(&route, Some(&service), &left, fast);
    metrics.limiter("token_bucket").inc();
    metrics.limiter("token_bucket").inc();
    let call = |path: &str, status| {
        let mut call = exchange(Method::Post, 200, 200);
        call.request.path = call.request.fields.keep(path.as_bytes());
        let noted = Call { dress: Dress::Grpc, due: Now::NEVER, left_ns: None, status };
        (noted, call)
    };
    for (path, status) in [("/a.B/C", Some(0)), ("/a.B/C", Some(99)), ("/made/up", Some(12)), ("/no", Some(0))] {
        let (call, exchange) = call(path, status);
        metrics.called(&call, &exchange);
    }
    metrics.own.active_connections.add(3);
    metrics.own.deadline(Deadline::Header);
}

fn report(metrics: &WorkerMetrics) -> WorkerReport {
    let snapshot = metrics.snapshot();
    WorkerReport { worker: snapshot.worker, snapshot: Some(snapshot) }
}

fn render(exposition: &mut Exposition, reports: &[WorkerReport]) -> String {
    let facts = ControlFacts { version: "0.1.0".into(), generation: 2, ..ControlFacts::default() };
    exposition.render(reports.to_vec(), &ProcessFacts::default(), &facts)
}

/// A parser of the text format that refuses what the format forbids: samples before their TYPE, repeated families,
/// repeated series, broken labels, values that are no numbers.
fn parse(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    let mut families = std::collections::BTreeSet::new();
    let mut current = String::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a kind");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name.to_owned()), "family twice: {line}");
            current = name.to_owned();
        } else if !line.starts_with("# HELP ") {
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().expect("a name");
            let stem = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            assert!(name == current || stem == Some(&current), "outside its family: {line}");
            assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'), "{line}");
            if let Some((_, labels)) = series.split_once('{') {
                assert!(labels.ends_with("\"}") && labels.contains("=\""), "{line}");
            }
            let value = value.parse().unwrap_or_else(|_| panic!("{line}"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "series twice: {line}");
        }
    }
    assert!(page.ends_with('\n'));
    samples
}

fn sum(samples: &BTreeMap<String, f64>, name: &str, matcher: impl Fn(&str) -> bool) -> f64 {
    let of_name = samples.iter().filter(|(series, _)| series.split('{').next() == Some(name));
    of_name.filter(|(series, _)| matcher(series)).map(|(_, value)| value).sum()
}

#[test]
fn the_page_has_the_names_and_labels_of_the_requirements() {
    let mut metrics = WorkerMetrics::new(0, Now::from_ms(1));
    traffic(&mut metrics);
    let page = render(&mut Exposition::new(false), &[report(&metrics)]);
    let samples = parse(&page);
    let golden = [
        (r#"gateway_requests_total{method="GET",path="/u/{id}",status="200",service="users",client_type=""}"#, 10.0),
        (r#"gateway_requests_total{method="GET",path="/u/{id}",status="499",service="users",client_type=""}"#, 1.0),
        (r#"gateway_requests_total{method="POST",path="/u/{id}",status="502",service="users",client_type=""}"#, 1.0),
        (r#"gateway_requests_total{method="GET",path="unmatched",status="404",service="",client_type=""}"#, 1.0),
        (r#"gateway_request_duration_seconds_bucket{method="GET",path="/u/{id}",service="users",le="0.0025"}"#, 0.0),
        (r#"gateway_request_duration_seconds_bucket{method="GET",path="/u/{id}",service="users",le="0.005"}"#, 11.0),
        (r#"gateway_request_duration_seconds_sum{method="POST",path="/u/{id}",service="users"}"#, 2.0),
        (r#"gateway_backend_duration_seconds_bucket{service="users",endpoint="10.0.0.2:80",le="0.005"}"#, 10.0),
        (r#"gateway_errors_total{error_type="connect_refused",service="users"}"#, 1.0),
        (r#"gateway_errors_total{error_type="no_route",service=""}"#, 1.0),
        (r#"gateway_rate_limit_hits_total{limiter_type="token_bucket"}"#, 2.0),
        (r#"gateway_grpc_requests_total{grpc_service="a.B",grpc_method="C",grpc_code="0"}"#, 1.0),
        (r#"gateway_grpc_requests_total{grpc_service="a.B",grpc_method="C",grpc_code="other"}"#, 1.0),
        (r#"gateway_grpc_requests_total{grpc_service="other",grpc_method="other",grpc_code="12"}"#, 1.0),
        (r#"gateway_grpc_requests_total{grpc_service="other",grpc_method="other",grpc_code="0"}"#, 1.0),
        (r#"gateway_upstream_status_total{service="users",status="200"}"#, 10.0),
        (r#"gateway_active_connections"#, 3.0),
        (r#"gateway_worker_up{worker="0"}"#, 1.0),
        (r#"ringway_worker_deadlines_total{worker="0",deadline="header"}"#, 1.0),
        (r#"ringway_worker_requests_total{worker="0",protocol="HTTP/1.1"}"#, 13.0),
        (r#"ringway_config_generation"#, 2.0),
    ];
    for (series, value) in golden {
        assert_eq!(samples.get(series), Some(&value), "{series}\n{page}");
    }
    let p99 = samples[r#"ringway_service_latency_quantile_seconds{service="users",quantile="0.99"}"#];
    assert!((1.98..2.02).contains(&p99), "{p99}");
    assert!(!page.contains("gateway_request_duration_ms"));
}

#[test]
fn the_four_queries_can_be_computed_in_compat_mode() {
    let mut metrics = WorkerMetrics::new(0, Now::from_ms(1));
    let mut exposition = Exposition::new(true);
    traffic(&mut metrics);
    let before = parse(&render(&mut exposition, &[report(&metrics)]));
    traffic(&mut metrics);
    let after = parse(&render(&mut exposition, &[report(&metrics)]));
    let increase =
        |name: &str, matcher: &dyn Fn(&str) -> bool| sum(&after, name, matcher) - sum(&before, name, matcher);

    let users = |series: &str| series.contains(r#"service="users""#);
    assert_eq!(increase("gateway_requests_total", &users), 12.0, "requests_per_second by service");
    let all = increase("gateway_requests_total", &|_| true);
    let errors = increase("gateway_requests_total", &|series| series.contains(r#"status="5"#));
    assert_eq!(errors / all, 1.0 / 13.0, "error_rate");
    let hits = increase("gateway_rate_limit_hits_total", &|_| true);
    assert_eq!(hits / all, 2.0 / 13.0, "rate_limit_efficiency");
    let bucket = |le: &str| {
        let le = format!("le=\"{le}\"");
        increase("gateway_request_duration_ms_bucket", &|series| users(series) && series.contains(&le))
    };
    assert_eq!(
        [bucket("2.5"), bucket("5"), bucket("1000"), bucket("2500"), bucket("+Inf")],
        [0.0, 11.0, 11.0, 12.0, 12.0]
    );
    for name in ["gateway_request_duration_bucket", "gateway_backend_duration_bucket"] {
        assert!(sum(&after, name, |_| true) > 0.0, "{name}");
    }
}

#[test]
fn workers_are_summed_and_a_silent_or_restarted_one_takes_nothing_away() {
    let mut exposition = Exposition::new(false);
    let (mut a, mut b) = (WorkerMetrics::new(0, Now(1)), WorkerMetrics::new(1, Now(2)));
    traffic(&mut a);
    traffic(&mut b);
    let requests = |page: &str| sum(&parse(page), "gateway_requests_total", |_| true);
    let both = render(&mut exposition, &[report(&a), report(&b)]);
    assert_eq!(requests(&both), 26.0);

    let silent = WorkerReport { worker: 1, snapshot: None };
    let page = render(&mut exposition, &[report(&a), silent]);
    assert_eq!((requests(&page), parse(&page)[r#"gateway_worker_up{worker="1"}"#]), (26.0, 0.0));

    let mut restarted = WorkerMetrics::new(1, Now(3));
    traffic(&mut restarted);
    let page = render(&mut exposition, &[report(&a), report(&restarted)]);
    assert_eq!(requests(&page), 39.0);
    assert_eq!(requests(&render(&mut exposition, &[report(&a), report(&restarted)])), 39.0);
    assert_eq!(exposition.summary(Vec::new()).server_errors, 3);
}

#[test]
fn of_two_scrapes_at_once_the_later_question_counts() {
    let mut exposition = Exposition::new(false);
    let mut metrics = WorkerMetrics::new(0, Now(1));
    traffic(&mut metrics);
    let early = report(&metrics);
    traffic(&mut metrics);
    let late = report(&metrics);
    let mut next = WorkerMetrics::new(0, Now(2));
    traffic(&mut next);
    let next = report(&next);
    // However they come in, no count goes down and none is there twice.
    let mut requests = |report: &WorkerReport| {
        sum(&parse(&render(&mut exposition, std::slice::from_ref(report))), "gateway_requests_total", |_| true)
    };
    assert_eq!([&late, &early, &late].map(&mut requests), [26.0; 3]);
    assert_eq!([&next, &late, &early, &next].map(&mut requests), [39.0; 4]);
}

#[test]
fn counts_survive_reloads_by_name() {
    let mut metrics = WorkerMetrics::new(0, Now(1));
    traffic(&mut metrics);
    let route = metrics.route("users", "/u/{id}");
    let service = metrics.service("users", ["10.0.0.2:80"]);
    let mut moved = exchange(Method::Get, 200, 200);
    moved.endpoint = tag(0);
    metrics.finished(&route, Some(&service), &moved, Now::from_ms(1_004));
    let samples = parse(&render(&mut Exposition::new(false), &[report(&metrics)]));
    let series = r#"gateway_backend_duration_seconds_count{service="users",endpoint="10.0.0.2:80"}"#;
    assert_eq!(samples[series], 11.0);
}

#[test]
fn series_stay_bounded_and_sums_stay_right() {
    let mut metrics = WorkerMetrics::new(0, Now(1));
    let routes: Vec<_> = (0..3_000).map(|n| metrics.route(&format!("r{n}"), &format!("/p/{n}"))).collect();
    for route in &routes {
        metrics.finished(route, None, &exchange(Method::Get, 200, 0), Now::from_ms(1_004));
        metrics.finished(route, None, &exchange(Method::Get, 204, 0), Now::from_ms(1_004));
    }
    let samples = parse(&render(&mut Exposition::new(false), &[report(&metrics)]));
    let series = samples.keys().filter(|series| series.starts_with("gateway_requests_total{")).count();
    assert_eq!(series, totals::SERIES_MAX);
    assert_eq!(sum(&samples, "gateway_requests_total", |_| true), 6_000.0);
}

#[test]
fn a_reason_and_an_endpoint_out_of_range_are_harmless() {
    let mut metrics = WorkerMetrics::new(0, Now(1));
    let route = metrics.route("a", "/a");
    let service = metrics.service("a", []);
    metrics.finished(&route, Some(&service), &exchange(Method::Extension, 200, 200), Now(0));
    let page = render(&mut Exposition::new(false), &[report(&metrics)]);
    assert!(page.contains(r#"method="OTHER",path="/a",status="200""#));
}

#[test]
fn rates_are_those_since_an_earlier_summary() {
    let before = Summary { requests: 100, server_errors: 50, duration_ns: u64::MAX, active_connections: 0 };
    let now = Summary { requests: 110, server_errors: 51, duration_ns: 49_999_999, active_connections: 0 };
    assert_eq!(now.rates_since(&before), (0.1, 5.0));
    assert_eq!(before.rates_since(&before), (0.0, 0.0));
    assert_eq!(before.rates_since(&now), (0.0, 0.0));
}

#[test]
fn the_first_instrument_is_the_connection_gauge() {
    assert_eq!(INSTRUMENTS[0].0, "active_connections");
}
