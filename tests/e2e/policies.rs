//! The policies of this build in a running gateway (R71, R73–R94, R148, R149, C7–C14).

use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ringway::policy::rate_limit::lease::SplitPlan;

use crate::support::{Gateway, Origin, PATIENCE, proxy_to};

fn limited(policy: &str) -> Gateway {
    Gateway::start(&format!("policies: [{{rate_limit: {policy}}}]\nroutes: [{{path: /*, respond: {{body: ok}}}}]\n"))
}

#[test]
fn a_refusal_says_when_to_come_back() {
    let origin = Origin::fixed("ok");
    let gateway =
        Gateway::start(&format!("policies: [{{rate_limit: {{rate: 60/m, burst: 2}}}}]\n{}", proxy_to(&origin)));
    let mut client = gateway.connect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs();
    let first = client.get("/");
    let limit = |response: &crate::support::Response, name: &str| {
        response.header(&format!("x-ratelimit-{name}")).and_then(|value| value.parse::<u64>().ok())
    };
    assert_eq!((limit(&first, "limit"), limit(&first, "remaining")), (Some(2), Some(1)));
    assert!(limit(&first, "reset").is_some_and(|reset| (now..now + 5).contains(&reset)), "{first:?}");
    assert_eq!(first.header("x-ratelimit-limit-type"), Some("ip"));
    assert_eq!(client.get("/").status, 200);
    let refused = client.get("/");
    assert_eq!((refused.status, refused.reason().as_str(), refused.closes()), (429, "rate_limited", false));
    assert_eq!(refused.json()["error"], "Rate limit exceeded");
    assert_eq!((refused.header("retry-after"), limit(&refused, "remaining")), (Some("1"), Some(0)));
    assert_eq!(origin.seen().len(), 2);
    let text = String::from_utf8_lossy(&origin.received()).to_ascii_lowercase();
    assert!(!text.contains("ratelimit"), "nothing of it goes upstream: {text}");
    assert_eq!(gateway.metric("gateway_rate_limit_hits_total", &["limiter_type=\"ip\""]), 1.0);
}

#[test]
fn keys_are_counted_apart() {
    let gateway = limited("{rate: 1/h, key: \"header:X-Api-Key\"}");
    let mut client = gateway.connect();
    let mut ask = |fields: &str| {
        client.send(format!("GET / HTTP/1.1\r\nHost: t\r\n{fields}\r\n"));
        client.response().status
    };
    assert_eq!([ask("X-Api-Key: a\r\n"), ask("X-Api-Key: b\r\n"), ask("X-Api-Key: a\r\n")], [200, 200, 429]);
    assert_eq!([ask(""), ask("")], [200, 429], "without a key the address counts");
    for (key, one, other) in [
        ("\"query:k\"", "GET /?k=1", "GET /?k=2"),
        ("route", "GET /a", "GET /b"),
        ("global", "GET /a", ""),
        ("path", "GET /a", "GET /b"),
    ] {
        let gateway = Gateway::start(&format!(
            "policies: [{{rate_limit: {{rate: 1/h, key: {key}}}}}]\n\
             routes: [{{path: /, respond: 204}}, {{path: /a, respond: 204}}, {{path: /b, respond: 204}}]\n"
        ));
        let ask = |line: &str| gateway.ask(format!("{line} HTTP/1.1\r\nHost: t\r\n\r\n")).status;
        assert_eq!([ask(one), ask(one)], [204, 429], "{key}");
        if !other.is_empty() {
            assert_eq!([ask(other), ask(other)], [204, 429], "{key}");
        }
    }
}

#[test]
fn spellings_of_a_path_share_a_bucket() {
    let gateway = limited("{rate: 1/h, key: path}");
    assert_eq!(gateway.get("/abc").status, 200);
    for path in ["/abc", "/%61bc", "/x/../abc", "/./abc", "/abc?x"] {
        assert_eq!(gateway.get(path).status, 429, "{path}");
    }
}

#[test]
fn windows_algorithms_and_dry_runs() {
    let gateway = limited("{windows: [100/s, 3/h]}");
    let statuses = |gateway: &Gateway| -> Vec<_> { (0..4).map(|_| gateway.get("/").status).collect() };
    assert_eq!(statuses(&gateway), [200, 200, 200, 429]);
    for algorithm in ["sliding_window", "sliding_log"] {
        let gateway = limited(&format!("{{rate: 3/h, algorithm: {algorithm}}}"));
        assert_eq!(statuses(&gateway), [200, 200, 200, 429], "{algorithm}");
    }
    let gateway = limited("{rate: 1/h, dry_run: true}");
    assert_eq!(statuses(&gateway), [200; 4]);
    let gateway = limited("{rate: 10/h, cost: 4}");
    assert_eq!(statuses(&gateway), [200, 200, 429, 429]);
    let gateway = limited("{rate: 1/h, headers: false, draft_headers: true}");
    let response = gateway.get("/");
    assert_eq!((response.header("x-ratelimit-limit"), response.header("ratelimit-policy").is_some()), (None, true));
}

#[test]
fn two_workers_share_a_limit() {
    for scope in ["core-split", "node"] {
        let gateway = Gateway::start(&format!(
            "server: {{workers: 2, pin_workers: false}}\n\
             policies: [{{rate_limit: {{rate: 50/h, scope: {scope}}}}}]\nroutes: [{{path: /*, respond: 204}}]\n"
        ));
        // A connection each time, so that both workers are asked.
        let admitted = (0..120).filter(|_| gateway.get("/").status == 204).count();
        assert!((41..=50).contains(&admitted), "{scope}: {admitted} of 50");
    }
}

/// A request of the live run: when it was sent, when it was answered, and whether it was let in.
type Asked = (Duration, Duration, bool);

/// Acceptance 5, the live run: however connections are spread over workers, what is admitted stays within the bound,
/// and nobody is refused while more than the published bound of tokens stands unused. The first holds in each run. The
/// second holds of workers that run: one that waits for a processor keeps the tokens it has taken, so that it must
/// hold in one of a few runs.
#[test]
fn admitted_requests_stay_within_the_bound() {
    const RUNS_MAX: usize = 8;
    for workers in [1, 2, 4, 8] {
        let bound = SplitPlan::new(BURST, workers).error_bound(1) as f64;
        let mut unused = Vec::new();
        while unused.last().is_none_or(|one| *one > bound) {
            assert!(unused.len() < RUNS_MAX, "{workers} workers: {unused:?} tokens unused at refusals, bound {bound}");
            unused.push(tokens_unused_in_a_live_run(workers));
        }
    }
}

/// The bucket of the live run, in tokens and tokens per second.
const BURST: u32 = 100;
const RATE: f64 = 100.0;

/// Asks a gateway with `workers` for more than its limit, and returns how many tokens stood unused at a refusal.
/// Panics when more was admitted than burst and rate allow.
fn tokens_unused_in_a_live_run(workers: u32) -> f64 {
    let gateway = Gateway::start(&format!(
        "server: {{workers: {workers}, pin_workers: false}}\n\
         policies: [{{rate_limit: {{rate: {RATE}/s, burst: {BURST}, key: global}}}}]\n\
         routes: [{{path: /*, respond: 204}}]\n"
    ));
    let refused = AtomicU64::new(0);
    let begun = Instant::now();
    // Long enough for the rate to matter, and for more demand than there are tokens.
    let is_over = || {
        let demanded = refused.load(Ordering::Relaxed) >= 100 && begun.elapsed() >= Duration::from_millis(800);
        demanded || begun.elapsed() >= PATIENCE
    };
    let mut asked: Vec<Asked> = thread::scope(|scope| {
        // Two clients stay with their worker and send most; the third goes from one to the next.
        let clients = [false, false, true].map(|wanders| {
            let (gateway, refused, is_over) = (&gateway, &refused, &is_over);
            scope.spawn(move || {
                let (mut client, mut asked) = (gateway.connect(), Vec::new());
                while !is_over() {
                    let sent = begun.elapsed();
                    let response = client.get("/");
                    let admitted = response.status == 204;
                    refused.fetch_add(u64::from(!admitted), Ordering::Relaxed);
                    asked.push((sent, begun.elapsed(), admitted));
                    if wanders || response.closes() {
                        client = gateway.connect();
                    }
                }
                asked
            })
        });
        clients.into_iter().flat_map(|client| client.join().expect("a client ends well")).collect()
    });
    let most = f64::from(BURST) + RATE * begun.elapsed().as_secs_f64();
    let admitted = asked.iter().filter(|one| one.2).count() as f64;
    assert!(refused.into_inner() > 0, "{workers} workers: too little load ({admitted}) to show anything");
    assert!(admitted <= most, "{workers} workers: {admitted} admitted, the bound is {most}");
    assert!(admitted >= f64::from(BURST), "{workers} workers: {admitted} admitted");
    most_unused_at_a_refusal(&mut asked, BURST.into(), RATE)
}

/// How many tokens stood unused at a refusal, at the most, in one bucket that is charged with all that was let in. When
/// a decision was made is known to the length of its exchange, and the workers' clock to a turn of their loops: what
/// could have come in the longest of them is not counted.
fn most_unused_at_a_refusal(asked: &mut [Asked], burst: f64, rate: f64) -> f64 {
    asked.sort();
    let unsure = asked.iter().map(|(sent, answered, _)| *answered - *sent).max().unwrap_or_default();
    let allowance = rate * (2.0 * unsure.as_secs_f64() + 0.1);
    let (mut unused, mut before, mut most) = (burst, Duration::ZERO, 0.0_f64);
    for (at, _, admitted) in asked {
        unused = (unused + rate * (*at - before).as_secs_f64()).min(burst);
        before = *at;
        if *admitted {
            unused = (unused - 1.0).max(0.0);
        } else {
            most = most.max(unused - allowance);
        }
    }
    most
}

#[test]
fn headers_are_edited_both_ways() {
    let origin = Origin::bytes("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nServer: secret/1\r\nX-Old: o\r\n\r\nok");
    let gateway = Gateway::start(&format!(
        "policies:\n\
         - headers:\n    \
             request: {{remove: [X-Debug], rename: {{X-A: X-B}}, set: {{X-Client: $client_ip, X-Id: $request_id}}, add: {{X-Tag: one}}}}\n    \
             response: {{remove: [Server], rename: {{X-Old: X-New}}, set: {{X-Path: $path}}, add: {{X-Served-By: ringway}}}}\n\
         {}",
        proxy_to(&origin)
    ));
    let response =
        gateway.ask("GET /p HTTP/1.1\r\nHost: t\r\nX-Debug: 1\r\nX-A: a\r\nX-Client: forged\r\nX-Tag: zero\r\n\r\n");
    let seen = origin.last();
    assert_eq!((seen.header("x-debug"), seen.header("x-a"), seen.header("x-b")), (None, None, Some("a")));
    assert_eq!((seen.header("x-client"), seen.head.all("x-tag")), (Some("127.0.0.1"), vec!["zero", "one"]));
    assert_eq!(seen.header("x-id"), response.header("x-request-id"));
    assert_eq!(
        (response.header("server"), response.header("x-old"), response.header("x-new")),
        (None, None, Some("o"))
    );
    assert_eq!((response.header("x-path"), response.header("x-served-by")), (Some("/p"), Some("ringway")));
}

#[test]
fn policies_run_in_the_order_of_their_phases() {
    // A refused address costs no token; both refusals come before headers are edited, so theirs are not.
    let gateway = Gateway::start(
        "policies: [{headers: {response: {set: {X-Edge: here}}}}, {rate_limit: {rate: 2/h, key: \"header:X-Key\"}}]\n\
         routes:\n\
         - {path: /open, respond: 204}\n\
         - {path: /denied, respond: 204, policies: [{ip: {deny: [127.0.0.0/8]}}]}\n",
    );
    let ask = |path: &str| {
        let response = gateway.get(path);
        (response.status, response.header("x-edge").is_some())
    };
    assert_eq!([ask("/denied"), ask("/denied"), ask("/denied")], [(403, false); 3]);
    assert_eq!([ask("/open"), ask("/open"), ask("/open")], [(204, true), (204, true), (429, false)]);
}

#[test]
fn addresses_are_allowed_and_denied() {
    let gateway = Gateway::start(
        "listeners: [{address: \"127.0.0.1:0\", trusted_proxies: [127.0.0.1]}]\n\
         routes:\n\
         - {path: /open, respond: 204}\n\
         - {path: /office, respond: 204, policies: [{ip: {allow: [10.0.0.0/8], deny: [10.0.0.13]}}]}\n",
    );
    let from = |path: &str, client: &str| {
        gateway.ask(format!("GET {path} HTTP/1.1\r\nHost: t\r\nX-Forwarded-For: {client}\r\n\r\n"))
    };
    assert_eq!(from("/office", "10.1.2.3").status, 204);
    assert_eq!(from("/office", "6.6.6.6, 10.1.2.3").status, 204, "read from the right");
    for client in ["10.0.0.13", "10.1.2.3, 6.6.6.6", "192.0.2.1", "garbage", "::1"] {
        let response = from("/office", client);
        assert_eq!((response.status, response.reason().as_str()), (403, "ip_denied"), "{client}");
    }
    assert_eq!(from("/open", "10.0.0.13").status, 204);
}
