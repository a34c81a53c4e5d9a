//! Which request goes where, over real sockets: every kind of route, predicate and answer (R1–R28, C30–C34, C57).

use crate::support::{Gateway, Origin};

/// A gateway whose routes all go to one echoing origin, or answer with their name.
fn routes(yaml: &str) -> (Gateway, Origin) {
    let origin = Origin::echo();
    let services = format!("services: [{{name: up, endpoints: [\"{}\"]}}]\n", origin.address);
    (Gateway::start(&format!("{services}{yaml}")), origin)
}

/// What the gateway answers: the name of a fixed answer, or the line that the origin saw, or the status.
fn answer(gateway: &Gateway, request: &str) -> String {
    let (line, fields) = request.split_once('|').unwrap_or((request, "Host: test"));
    let response = gateway.ask(format!("{line} HTTP/1.1\r\n{}\r\n\r\n", fields.replace('|', "\r\n")));
    match response.status {
        200 => response.text(),
        status => format!("{status}"),
    }
}

#[track_caller]
fn answers(gateway: &Gateway, cases: &[(&str, &str)]) {
    let wrong: Vec<_> = cases
        .iter()
        .map(|(request, expected)| (request, expected, answer(gateway, request)))
        .filter(|(_, expected, got)| *expected != got)
        .map(|(request, expected, got)| format!("{request}: {got}, expected {expected}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_kind_of_path() {
    let (gateway, _origin) = routes(
        "routes:\n\
         - {path: /exact, respond: {body: exact}}\n\
         - {path: /glob/*, respond: {body: glob}}\n\
         - {path: \"/one/*/end\", respond: {body: segment}}\n\
         - {path: \"/users/{id}\", respond: {body: param}}\n\
         - {path: \"/users/{id}/orders/{order}\", respond: {body: params}}\n\
         - {prefix: /prefix, respond: {body: prefix}}\n\
         - {prefix: /raw, raw_prefix: true, respond: {body: raw}}\n\
         - {exact: \"/lit/{x}*\", respond: {body: literal}}\n\
         - {regex: \"^/items/(\\\\d+)$\", respond: {body: regex}}\n",
    );
    answers(
        &gateway,
        &[
            ("GET /exact", "exact"),
            ("GET /exact?q", "exact"),
            ("GET /exact/", "404"),
            ("GET /exact/x", "404"),
            ("GET /Exact", "404"),
            ("GET /%65xact", "exact"),
            ("GET /x/../exact", "exact"),
            ("GET /glob/a", "glob"),
            ("GET /glob/a/b/c", "glob"),
            ("GET /glob2", "404"),
            ("GET /one/x/end", "segment"),
            ("GET /one/x/y/end", "404"),
            ("GET /users/42", "param"),
            ("GET /users/42/orders/7", "params"),
            ("GET /users/42/orders", "404"),
            ("GET /prefix", "prefix"),
            ("GET /prefix/a/b", "prefix"),
            ("GET /prefix2", "404"),
            ("GET /raw2/a", "raw"),
            ("GET /lit/{x}*", "literal"),
            ("GET /lit/ab", "404"),
            ("GET /items/123", "regex"),
            ("GET /items/12a", "404"),
            ("OPTIONS *", "404"),
        ],
    );
}

#[test]
fn the_most_specific_route_wins_whatever_the_order_in_the_file() {
    let (gateway, _origin) = routes(
        "routes:\n\
         - {path: /*, respond: {body: everything}}\n\
         - {regex: \"^/a/.*$\", respond: {body: regex}}\n\
         - {regex: \"^/a/b.*$\", priority: 5, respond: {body: regex-first}}\n\
         - {path: \"/api/{name}\", respond: {body: param}}\n\
         - {path: /api/*, respond: {body: prefix}}\n\
         - {path: /api/users/*, respond: {body: longer}}\n\
         - {path: /api/users, respond: {body: exact}}\n",
    );
    answers(
        &gateway,
        &[
            ("GET /api/users", "exact"),
            ("GET /api/users/1", "longer"),
            ("GET /api/x/y", "prefix"),
            ("GET /other", "everything"),
            ("GET /api/y", "param"),
        ],
    );
}

#[test]
fn a_strict_list_is_read_from_the_top() {
    let (gateway, _origin) = routes(
        "order: strict\n\
         routes:\n\
         - {path: /api/*, methods: [GET], respond: {body: first}}\n\
         - {path: /api/users, respond: {body: second}}\n\
         - {path: /*, respond: {body: last}}\n",
    );
    answers(
        &gateway,
        &[("GET /api/users", "first"), ("POST /api/users", "second"), ("POST /api/x", "last"), ("GET /", "last")],
    );
}

#[test]
fn hosts_methods_and_other_predicates() {
    let (gateway, _origin) = routes(
        "routes:\n\
         - {path: /*, hosts: [api.example.com], respond: {body: api}}\n\
         - {path: /*, hosts: [\"*.example.com\"], respond: {body: wildcard}}\n\
         - {path: /v, headers: {API-Version: \"2\"}, respond: {body: v2}}\n\
         - {path: /v, headers: {X-Client-Type: {prefix: mobile}}, respond: {body: mobile}}\n\
         - {path: /v, query: {beta: {present: true}}, respond: {body: beta}}\n\
         - {path: /v, cookies: {tier: {regex: \"^(gold|silver)$\"}}, respond: {body: tier}}\n\
         - {path: /v, respond: {body: plain}}\n\
         - {path: /c, client_addresses: [127.0.0.0/8], respond: {body: local}}\n\
         - {path: /d, client_addresses: [10.0.0.0/8], respond: {body: never}}\n\
         - {path: /m, methods: [GET, PUT], respond: {body: m}}\n\
         - {path: /m, methods: [PURGE], respond: {body: purge}}\n",
    );
    answers(
        &gateway,
        &[
            ("GET /x|Host: api.example.com", "api"),
            ("GET /x|Host: API.Example.com:8080", "api"),
            ("GET /x|Host: shop.example.com", "wildcard"),
            ("GET /x|Host: a.b.example.com", "wildcard"),
            ("GET /x|Host: example.com", "404"),
            ("GET /x|Host: evilexample.com", "404"),
            ("GET /v|Host: t|API-Version: 2", "v2"),
            ("GET /v|Host: t|api-version: 2", "v2"),
            ("GET /v|Host: t|API-Version: 22", "plain"),
            ("GET /v|Host: t|X-Client-Type: mobile-ios", "mobile"),
            ("GET /v?beta", "beta"),
            ("GET /v?beta=0&x=1", "beta"),
            ("GET /v?alphabeta=1", "plain"),
            ("GET /v|Host: t|Cookie: a=b; tier=gold", "tier"),
            ("GET /v|Host: t|Cookie: tier=iron", "plain"),
            ("GET /c", "local"),
            ("GET /d", "404"),
            ("GET /m", "m"),
            ("PURGE /m", "purge"),
            ("DELETE /m", "405"),
        ],
    );
    let refused = gateway.ask("DELETE /m HTTP/1.1\r\nHost: t\r\n\r\n");
    let mut allowed: Vec<_> = refused.header("allow").unwrap_or_default().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!((allowed, refused.reason().as_str()), (vec!["GET", "HEAD", "PURGE", "PUT"], "method_not_allowed"));
    let nothing = gateway.get("/nothing");
    assert_eq!((nothing.status, nothing.reason().as_str(), nothing.header("allow")), (404, "no_route", None));
}

#[test]
fn paths_change_on_their_way() {
    let (gateway, _origin) = routes(
        "routes:\n\
         - {path: /api/*, service: up, strip_prefix: true}\n\
         - {path: /old/*, service: up, rewrite: {prefix: /new}}\n\
         - {path: \"/u/{id}/p/{page}\", service: up, rewrite: {path: \"/pages/{page}/of/{id}\"}}\n\
         - {path: /re/*, service: up, rewrite: {pattern: \"^/re/([a-z]+)/(\\\\d+)$\", to: \"/$2/$1\"}}\n\
         - {path: /kept/*, service: up}\n",
    );
    answers(
        &gateway,
        &[
            ("GET /api/users/1?x=1", "GET /users/1?x=1"),
            ("GET /api/", "GET /"),
            ("GET /old/a/b", "GET /new/a/b"),
            ("GET /u/7/p/9?q", "GET /pages/9/of/7?q"),
            ("GET /re/abc/12", "GET /12/abc"),
            ("GET /re/ABC/12", "GET /re/ABC/12"),
            ("GET /kept/%41/./b?%41", "GET /kept/A/b?%41"),
            ("GET /kept/caf%c3%a9", "GET /kept/caf%C3%A9"),
        ],
    );
}

#[test]
fn the_gateway_answers_itself() {
    let (gateway, origin) = routes(
        "routes:\n\
         - {path: /here, respond: {status: 418, body: tea, content_type: text/x-tea, headers: {X-Pot: full}}}\n\
         - {path: /gone, respond: 410}\n\
         - {path: /moved/*, redirect: \"https://new.example/home\"}\n\
         - {path: \"/item/{id}\", redirect: {to: \"/items/{id}\", status: 308}}\n\
         - {path: \"/tpl/{one}/{two}\", redirect: \"https://x.example/{two}/{one}?keep=1\"}\n\
         - {path: /all/*, redirect: \"https://y.example\"}\n\
         - {path: /see, redirect: {to: /other, status: 303}}\n\
         default_route: {service: up}\n",
    );
    let tea = gateway.get("/here");
    assert_eq!((tea.status, tea.text().as_str()), (418, "tea"));
    assert_eq!((tea.header("content-type"), tea.header("x-pot")), (Some("text/x-tea"), Some("full")));
    assert_eq!(gateway.get("/gone").status, 410);
    for (path, status, to) in [
        ("/moved/a?b", 307, "https://new.example/home"),
        ("/item/7", 308, "/items/7"),
        ("/see", 303, "/other"),
        ("/tpl/a/b", 307, "https://x.example/b/a?keep=1"),
        ("/all/a/b?c=d", 307, "https://y.example/all/a/b?c=d"),
    ] {
        let response = gateway.get(path);
        assert_eq!((response.status, response.header("location")), (status, Some(to)), "{path}");
    }
    let mut client = gateway.connect();
    client.send("HEAD /here HTTP/1.1\r\nHost: t\r\n\r\n");
    assert_eq!(client.head_response().head.length(), Some(3));
    assert!(origin.seen().is_empty());
    assert_eq!(gateway.get("/elsewhere").text(), "GET /elsewhere", "the default route");
}

#[test]
fn services_share_a_route_by_weight() {
    let (stable, canary) = (Origin::fixed("stable"), Origin::fixed("canary"));
    let gateway = Gateway::start(&format!(
        "services: [{{name: stable, endpoints: [\"{}\"]}}, {{name: canary, endpoints: [\"{}\"]}}]\n\
         routes:\n\
         - {{path: /split, services: [{{name: stable, weight: 80}}, {{name: canary, weight: 20}}]}}\n\
         - {{path: /off, services: [{{name: stable, weight: 1}}, {{name: canary, weight: 0}}]}}\n",
        stable.address, canary.address
    ));
    let mut client = gateway.connect();
    let mut count = |path: &str| (0..1000).filter(|_| client.get(path).text() == "canary").count();
    // Nine standard deviations of a fair lot: once in some 10^18 runs.
    let drawn = count("/split");
    assert!((86..=314).contains(&drawn), "{drawn} of 1000 instead of about 200");
    assert_eq!(count("/off"), 0);
}

#[test]
fn a_url_stands_in_for_endpoints() {
    let origin = Origin::echo();
    let url = format!("http://{}", origin.address);
    let gateway = Gateway::start(&format!(
        "services: [{{name: empty}}]\n\
         routes:\n\
         - {{path: /direct, service_url: \"{url}\"}}\n\
         - {{path: /fallback, service: empty, service_url: \"{url}\"}}\n\
         - {{path: /none, service: empty}}\n"
    ));
    answers(&gateway, &[("GET /direct", "GET /direct"), ("GET /fallback", "GET /fallback"), ("GET /none", "503")]);
}

#[test]
fn endpoints_are_chosen_by_each_algorithm() {
    let origins: Vec<_> = ["a", "b", "c"].into_iter().map(Origin::fixed).collect();
    let endpoints: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
    let service =
        |name: &str| format!("- {{name: {name}, load_balancer: {name}, endpoints: [{}]}}\n", endpoints.join(", "));
    let names = ["round_robin", "weighted_round_robin", "least_connections", "power_of_two", "random", "ip_hash"];
    let services: String = names.iter().map(|name| service(name)).collect();
    let routes: String = names.iter().map(|name| format!("- {{path: /{name}, service: {name}}}\n")).collect();
    let gateway = Gateway::start(&format!(
        "services:\n{services}\
         - {{name: hash, load_balancer: {{algorithm: consistent_hash, key: \"header:X-Key\"}}, endpoints: [{all}]}}\n\
         - {{name: weights, load_balancer: weighted_round_robin, endpoints: [{{address: {a}, weight: 5}}, {{address: {b}, weight: 1}}]}}\n\
         routes:\n{routes}- {{path: /hash, service: hash}}\n- {{path: /weights, service: weights}}\n",
        all = endpoints.join(", "),
        a = endpoints[0],
        b = endpoints[1],
    ));
    let mut client = gateway.connect();
    let mut order = |path: &str, fields: &str, count: usize| -> Vec<String> {
        (0..count)
            .map(|_| {
                client.send(format!("GET {path} HTTP/1.1\r\nHost: t\r\n{fields}\r\n"));
                client.response().text()
            })
            .collect()
    };
    let turns = order("/round_robin", "", 6);
    assert_eq!(turns[..3], turns[3..], "{turns:?}");
    assert!(["a", "b", "c"].iter().all(|name| turns.iter().any(|turn| turn == name)), "{turns:?}");
    for name in &names[1..5] {
        let seen = order(&format!("/{name}"), "", 60);
        assert!(seen.iter().all(|text| text.len() == 1), "{name}: {seen:?}");
    }
    let heavy = order("/weights", "", 12).iter().filter(|text| *text == "a").count();
    assert_eq!(heavy, 10, "smooth weights are exact (C29)");
    let same = |answers: Vec<String>| answers.windows(2).all(|pair| pair[0] == pair[1]);
    assert!(same(order("/ip_hash", "", 10)));
    let mut used = std::collections::HashSet::new();
    for key in 0..30 {
        let answers = order("/hash", &format!("X-Key: {key}\r\n"), 3);
        used.insert(answers[0].clone());
        assert!(same(answers), "key {key}");
    }
    assert_eq!(used.len(), 3, "all endpoints have keys");
}
