//! What becomes of a request, as data.

use serde::Serialize;

use super::asked::Asked;
use super::live::Live;
use super::pick;
use crate::error::{Failure, Reason};
use crate::handler::forward;
use crate::http::exchange::{Exchange, Reply};
use crate::pipeline::drive::{self, Input};
use crate::pipeline::env::Request;
use crate::pipeline::mirror;
use crate::policy::slots::Slot;
use crate::policy::{Flow, Tick, WorkerSeed};
use crate::route::{self, RouteId, RouteTable, Verdict};
use crate::snapshot::{self, Action, HashKey, Listener, MirrorRules, Snapshot};
use crate::time::Now;
use crate::upstream::service::key_of;

/// What becomes of a request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    /// Where it comes in.
    pub listener: String,
    /// The request, unless it is refused before it has a meaning.
    pub request: Option<Typed>,
    /// The route that takes it.
    pub route: Option<Taken>,
    /// The other routes, the nearest first.
    pub candidates: Vec<Candidate>,
    /// How many more there are.
    pub candidates_left_out: usize,
    /// What the route's policies do, in the order in which they run.
    pub policies: Vec<PolicyReport>,
    /// Where it may go; several when the route splits.
    pub services: Vec<ServiceReport>,
    /// What the client gets.
    pub answer: Answer,
}

/// A request as the gateway understands it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Typed {
    /// Method.
    pub method: String,
    /// Host that routes match.
    pub host: String,
    /// Path as it was sent.
    pub path_sent: String,
    /// Canonical path.
    pub path: String,
    /// What making it canonical changed.
    pub changes: Vec<&'static str>,
    /// Query.
    pub query: Option<String>,
    /// Address of the client, behind trusted proxies.
    pub client: String,
}

/// The route that takes the request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Taken {
    /// Its place in the snapshot.
    #[serde(skip)]
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Its path pattern as written.
    pub pattern: String,
    /// It serves what no route matches.
    pub is_default: bool,
    /// Named parts of the path.
    pub captures: Vec<(String, String)>,
    /// The path that goes upstream, where the route changes it.
    pub rewritten: Option<String>,
    /// Where copies of its requests go.
    pub mirror: Option<MirrorReport>,
    /// Whole request, in milliseconds.
    pub timeout_ms: u64,
    /// Request body, in bytes.
    pub body_bytes_max: u64,
}

/// Where copies of requests go, and which.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MirrorReport {
    /// The service.
    pub service: String,
    /// Its part of the requests.
    pub percent: f64,
    /// Why this request is not copied.
    pub not: Option<&'static str>,
    /// The longest body, in bytes.
    pub body_bytes_max: u64,
    /// A whole copy, in milliseconds.
    pub timeout_ms: u64,
}

/// A route that does not take the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Candidate {
    /// Its name.
    pub route: String,
    /// Its path pattern as written.
    pub pattern: String,
    /// It matches, but another one goes before it.
    pub matches: bool,
    /// Why it does not take the request.
    pub why: String,
}

/// What one policy does with the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PolicyReport {
    /// Its kind.
    pub name: &'static str,
    /// When it runs.
    pub phase: &'static str,
    /// Its settings in one line.
    pub does: String,
    /// The status that it answers with; None when it lets the request pass.
    pub answers: Option<u16>,
    /// An earlier policy has answered, so that this one does not see the request.
    pub skipped: bool,
}

/// A service that the request may go to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ServiceReport {
    /// Its name.
    pub name: String,
    /// Its share of the route's requests, in percent.
    pub share_percent: f64,
    /// How an endpoint is chosen.
    pub algorithm: &'static str,
    /// What is hashed, for algorithms that hash.
    pub key: Option<String>,
    /// The request has no such key, so that endpoints take turns.
    pub key_missing: bool,
    /// Its endpoints.
    pub endpoints: Vec<EndpointReport>,
    /// Connecting, in milliseconds.
    pub connect_timeout_ms: u64,
    /// Waiting for the response head, in milliseconds.
    pub first_byte_timeout_ms: u64,
    /// Pause between two reads of the response, in milliseconds.
    pub between_bytes_timeout_ms: u64,
    /// Attempts, the first one counted.
    pub attempts_max: u32,
    /// How many requests at once, where that is configured.
    pub requests: Option<String>,
    /// The state of its circuit breaker, where a running gateway told.
    pub breaker: Option<String>,
    /// What answers while that is open.
    #[serde(skip)]
    has_fallback: bool,
    /// Whether a running gateway told of its endpoints.
    pub is_live: bool,
}

/// An endpoint of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointReport {
    /// As written.
    pub authority: String,
    /// Its share of the load.
    pub weight: u32,
    /// Where it comes from: `configuration`, or a lookup.
    pub source: String,
    /// A worker that has just started sends the request here.
    pub picked: bool,
    /// Why, or why not.
    pub why: String,
    /// The Host that it would see.
    pub host: String,
}

/// What the client gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Who answers: `listener`, `routing`, `policy NAME`, `route` or `service`.
    pub by: String,
    /// Status; None when an endpoint decides.
    pub status: Option<u16>,
    /// The reason's word, when the gateway refuses (see `docs/reasons.md`).
    pub reason: Option<&'static str>,
    /// More than the reason says.
    pub detail: &'static str,
    /// Fields that belong to the answer: Allow, Location.
    pub fields: Vec<(String, String)>,
}

impl Report {
    /// 0: a route takes the request, 1: none does, 2: the listener refuses it.
    pub fn exit_code(&self) -> u8 {
        match (&self.request, &self.route) {
            (None, _) => 2,
            (_, None) => 1,
            _ => 0,
        }
    }
}

/// Explains what becomes of a request where nothing speaks against any endpoint. At most `shown_max` candidates are
/// named.
///
/// # Errors
/// A sentence for the user when `asked` is no request.
pub fn explain(snapshot: &Snapshot, listener: &Listener, asked: &Asked, shown_max: usize) -> Result<Report, String> {
    explain_live(snapshot, listener, asked, shown_max, &Live::default())
}

/// The same with what a running gateway knows.
///
/// # Errors
/// As there.
pub fn explain_live(
    snapshot: &Snapshot,
    listener: &Listener,
    asked: &Asked,
    shown_max: usize,
    live: &Live,
) -> Result<Report, String> {
    let (mut request, accepted) = asked.parse(listener)?;
    let mut report = Report {
        listener: listener.name.clone(),
        request: None,
        route: None,
        candidates: Vec::new(),
        candidates_left_out: 0,
        policies: Vec::new(),
        services: Vec::new(),
        answer: Answer::default(),
    };
    if let Err(failure) = accepted {
        report.answer = Answer::refusal("listener", failure, &request.x);
        return Ok(report);
    }
    report.request = Some(typed(asked, &request.x));
    let decided = drive::decide(snapshot, &snapshot.table, listener.rules.path_policy, &mut request);
    consider(snapshot, &request.x, shown_max, &mut report);
    if request.x.route != Exchange::NO_ROUTE {
        report.route = Some(taken(snapshot, listener, &request));
    }
    match decided {
        Ok(()) => serve(snapshot, listener, &mut request, &mut report, live),
        Err(failure) => report.answer = Answer::refusal("routing", failure, &request.x),
    }
    Ok(report)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn typed(asked: &Asked, x: &Exchange) -> Typed {
    let sent = asked.target().split('?').next().unwrap_or_default();
    let sent = if sent.is_empty() { "/" } else { sent };
    Typed {
        method: text(Input(x).method_text()),
        host: text(x.request.host()),
        path_sent: sent.to_owned(),
        path: text(x.request.path()),
        changes: changes(sent, x.request.path()),
        query: x.request.query().map(text),
        client: x.client_ip.to_string(),
    }
}

/// What making a path canonical changed, in words.
fn changes(sent: &str, canonical: &[u8]) -> Vec<&'static str> {
    let mut changes = Vec::new();
    if sent.as_bytes() == canonical {
        return changes;
    }
    // What remains is undone escapes, or escapes in lower case.
    let plain = sent.to_ascii_lowercase().replace("%2e", ".");
    if plain.contains("//") && !canonical.windows(2).any(|pair| pair == b"//") {
        changes.push("empty segments merged");
    }
    if plain.split('/').any(|segment| matches!(segment, "." | "..")) {
        changes.push("dot segments resolved");
    }
    if sent.contains('%') {
        changes.push("percent escapes normalised");
    }
    if sent.contains(['"', '<', '>', '[', '\\', ']', '^', '`', '{', '|', '}']) {
        changes.push("illegal characters escaped");
    }
    changes
}

/// Names the routes that do not take the request.
fn consider(snapshot: &Snapshot, x: &Exchange, shown_max: usize, report: &mut Report) {
    let explanation = snapshot.table.explain(&Input(x));
    // The route that takes the path as it stands is no answer where another reading takes another one (F49).
    let taken = x.route != Exchange::NO_ROUTE;
    let others = explanation.considered.iter().filter(|one| !taken || one.verdict != Verdict::Won);
    report.candidates_left_out = others.clone().count().saturating_sub(shown_max);
    report.candidates = others.take(shown_max).map(|one| candidate(snapshot, one.route, &one.verdict)).collect();
}

fn candidate(snapshot: &Snapshot, id: RouteId, verdict: &Verdict) -> Candidate {
    let (name, pattern) = named(snapshot, id.0);
    let why = match verdict {
        Verdict::Won => "takes the path as it stands, but not in every reading".to_owned(),
        Verdict::LostTo { winner, why } => format!("{why} than {}", named(snapshot, winner.0).0),
        Verdict::Failed(failure) => failed(&snapshot.table, id, failure),
    };
    Candidate { route: name, pattern, matches: matches!(verdict, Verdict::LostTo { .. }), why }
}

fn named(snapshot: &Snapshot, id: u32) -> (String, String) {
    let route = snapshot.routes.get(id as usize);
    route.map(|route| (route.name.to_string(), route.pattern.to_string())).unwrap_or_default()
}

fn failed(table: &RouteTable, id: RouteId, failure: &route::Failure) -> String {
    let Some(spec) = table.specs().iter().find(|spec| spec.id == id) else { return failure.to_string() };
    match failure {
        route::Failure::Host => {
            let hosts: Vec<_> = spec.hosts.iter().map(ToString::to_string).collect();
            format!("host is not {}", hosts.join(" or "))
        }
        route::Failure::Path => "path differs".to_owned(),
        route::Failure::Method => {
            let methods: Vec<_> = spec.methods.names().map(text).collect();
            format!("method is not {}", methods.join(" or "))
        }
        route::Failure::Predicate(_, what) => format!("does not hold: {what}"),
    }
}

fn taken(snapshot: &Snapshot, listener: &Listener, request: &Request) -> Taken {
    let (x, id) = (&request.x, request.x.route);
    let route = &snapshot.routes[id as usize];
    let path = x.request.path();
    let captures = request.captures.iter().map(|(name, range)| (text(name), text(&path[range])));
    Taken {
        id,
        name: route.name.to_string(),
        pattern: route.pattern.to_string(),
        is_default: snapshot.default_route == Some(id),
        captures: captures.collect(),
        rewritten: x.request.forward_path.map(|path| text(x.request.fields.text(path))),
        mirror: route.mirror.as_deref().map(|mirror| mirrored(snapshot, route, mirror, x)),
        timeout_ms: route.timeout_ms,
        body_bytes_max: drive::body_bytes_max(route, listener),
    }
}

fn mirrored(snapshot: &Snapshot, route: &snapshot::Route, rules: &MirrorRules, x: &Exchange) -> MirrorReport {
    MirrorReport {
        service: snapshot.services[rules.service as usize].label.clone(),
        percent: rules.share as f64 * 100.0 / (1_u64 << 32) as f64,
        not: mirror::why_not(route, rules, x).map(mirror::WhyNot::text),
        body_bytes_max: rules.body_bytes_max,
        timeout_ms: rules.timeout_ms,
    }
}

/// What the route's policies and its handler do.
fn serve(snapshot: &Snapshot, listener: &Listener, request: &mut Request, report: &mut Report, live: &Live) {
    let Request { x, captures, path } = request;
    let route = &snapshot.routes[x.route as usize];
    let mut stopped: Option<(String, Reply)> = None;
    for slot in route.chain.slots() {
        let (one, reply) = ask(slot, x, stopped.is_some());
        stopped = stopped.or(reply.map(|reply| (format!("policy {}", one.name), reply)));
        report.policies.push(one);
    }
    if let Some((by, reply)) = stopped {
        report.answer = Answer::reply(&by, &reply);
        return;
    }
    report.answer = match &route.action {
        Action::Proxy(_) | Action::Split(_) => {
            let shares: Vec<f64> = match &route.action {
                Action::Split(split) => split.shares.shares().collect(),
                _ => vec![100.0],
            };
            let ids = route.action.services().iter().zip(shares);
            report.services = ids.map(|(id, share)| service((snapshot, route, live), *id, share, x)).collect();
            match drive::check_body(x, route, listener) {
                Ok(()) => proxied(&report.services),
                Err(failure) => Answer::refusal("route", failure, x),
            }
        }
        Action::Redirect(to) => match drive::redirect(x, captures, path, to) {
            Ok(reply) => Answer::reply("route", &reply),
            Err(failure) => Answer::reply("route", &Reply::failure(failure.reason)),
        },
        Action::Respond(respond) => Answer { by: "route".into(), status: Some(respond.status), ..Answer::default() },
    };
}

/// Runs a policy as a worker would that has just started.
fn ask(slot: &Slot, x: &mut Exchange, skipped: bool) -> (PolicyReport, Option<Reply>) {
    let policy = slot.policy();
    let seed = WorkerSeed { index: 0, count: 1, random: 0, tick: Tick::default() };
    let reply = match skipped {
        true => None,
        false => match policy.on_request(&mut policy.new_state(&seed), x, Now::default()) {
            Flow::Reply(reply) => Some(*reply),
            _ => None,
        },
    };
    let report = PolicyReport {
        name: policy.kind().name,
        phase: slot.phase().word(),
        does: policy.explain(),
        answers: reply.as_ref().map(|reply| reply.status),
        skipped,
    };
    (report, reply)
}

type Around<'a> = (&'a Snapshot, &'a snapshot::Route, &'a Live);

fn service((snapshot, route, live): Around<'_>, id: u32, share_percent: f64, x: &Exchange) -> ServiceReport {
    let spec = &snapshot.services[id as usize];
    let algorithm = spec.endpoints.algorithm();
    let key = algorithm.needs_key().then(|| key_of(&spec.hash_key, x));
    let told = live.endpoints(&spec.label);
    let known = match told {
        Some(told) => pick::running(told, &spec.resilience.returning),
        None => pick::configured(pick::of_whole(snapshot, spec)),
    };
    let rule = route.host.as_deref().unwrap_or(&spec.host);
    let endpoint = |asked: pick::Asked| EndpointReport {
        host: text(forward::host(x, rule, &asked.known.endpoint.authority)),
        weight: asked.known.facts.weight.unwrap_or(asked.known.endpoint.weight),
        authority: asked.known.endpoint.authority,
        source: asked.known.source,
        picked: asked.picked,
        why: asked.why,
    };
    let breaker = match &route.breaker {
        Some(own) => own.as_deref(),
        None => spec.breaker.as_ref(),
    };
    ServiceReport {
        name: spec.label.clone(),
        share_percent,
        algorithm: algorithm.word(),
        key: algorithm.needs_key().then(|| describe(&spec.hash_key)),
        key_missing: key == Some(None),
        endpoints: pick::pick(spec, known, x).into_iter().map(endpoint).collect(),
        connect_timeout_ms: spec.rules.connect_timeout_ms,
        first_byte_timeout_ms: spec.rules.first_byte_timeout_ms,
        between_bytes_timeout_ms: spec.rules.between_bytes_timeout_ms,
        attempts_max: route.retries.as_deref().unwrap_or(&spec.resilience.retries).attempts_max,
        requests: spec.limits.as_ref().map(|limits| limits.terms.text()),
        breaker: breaker.and_then(|breaker| live.breaker(&breaker.name)).map(str::to_owned),
        has_fallback: spec.fallback.is_some(),
        is_live: told.is_some(),
    }
}

fn describe(key: &HashKey) -> String {
    match key {
        HashKey::ClientIp => "client_ip".to_owned(),
        HashKey::ClientCert => "client_cert".to_owned(),
        HashKey::Path => "path".to_owned(),
        HashKey::Header(name) => format!("header:{name}"),
        HashKey::Cookie(name) => format!("cookie:{name}"),
        HashKey::Query(name) => format!("query:{name}"),
    }
}

/// An endpoint answers, unless no service that may be chosen has one, or may be asked.
fn proxied(services: &[ServiceReport]) -> Answer {
    let chosen: Vec<_> = services.iter().filter(|service| service.share_percent > 0.0).collect();
    let is_open = |service: &ServiceReport| service.breaker.as_deref() == Some("open");
    let answers = |service: &&ServiceReport| service.endpoints.iter().any(|endpoint| endpoint.picked);
    let refused = |reason: Reason| Answer::refusal("service", reason.into(), &Exchange::default());
    match () {
        () if chosen.iter().any(|service| !is_open(service) && answers(service)) => {
            Answer { by: "service".into(), ..Answer::default() }
        }
        () if chosen.iter().any(|service| service.has_fallback) => {
            Answer { by: "fallback".into(), ..Answer::default() }
        }
        () if chosen.iter().any(|service| is_open(service)) => refused(Reason::CircuitOpen),
        () => refused(Reason::NoEndpoint),
    }
}

impl Answer {
    fn refusal(by: &str, failure: Failure, x: &Exchange) -> Self {
        let fields = x.late_fields.iter().map(|(name, value)| (text(name), text(value)));
        Self {
            by: by.to_owned(),
            status: Some(failure.reason.status()),
            reason: Some(failure.reason.word()),
            detail: failure.detail,
            fields: fields.collect(),
        }
    }

    fn reply(by: &str, reply: &Reply) -> Self {
        Self {
            by: by.to_owned(),
            status: Some(reply.status),
            reason: reply.reason.map(|reason| reason.word()),
            detail: "",
            fields: reply.fields.iter().map(|(name, value)| (text(name), text(value))).collect(),
        }
    }
}

impl<'a> Input<'a> {
    /// The method as it was sent.
    fn method_text(&self) -> &'a [u8] {
        self.0.request.fields.text(self.0.request.method_text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_named() {
        assert!(changes("/a%2fb", b"/a%2fb").is_empty());
        assert_eq!(
            changes("//a/%2E%2e/b", b"/b"),
            ["empty segments merged", "dot segments resolved", "percent escapes normalised"]
        );
        assert_eq!(changes("/%7ea", b"/~a"), ["percent escapes normalised"]);
    }
}
