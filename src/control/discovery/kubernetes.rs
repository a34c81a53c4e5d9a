//! The EndpointSlices of a Kubernetes service (R227, C56): one list, then a watch for what changes.
//!
//! This speaks the two calls of `discovery.k8s.io/v1` that it needs, and no more: why not the ecosystem's client stands
//! in docs/decisions.md. Of each endpoint the first address counts, as the API says. Those that are ready get requests;
//! where none is, those that still serve while they end do (a rollout that goes wrong is no outage then).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio::time::Instant;

use super::cluster::{self, Cluster};
use super::dns::Names;
use super::http::{Answer, Ask, Lines, bearer, escape};
use super::provider::{Kind, Lookout, Member, News, Provider, Trouble};
use crate::limits::{DISCOVERED_MAX, DISCOVERY_ANSWER_MS, DISCOVERY_PAUSE_MS, DISCOVERY_WATCH_S};
use crate::snapshot::Kubernetes;

/// Slices of one service; Kubernetes puts 100 endpoints into each.
const SLICES_MAX: usize = 1_024;
/// What says which service a slice is of.
const LABEL: &str = "kubernetes.io%2Fservice-name";
/// Slices in one answer of a list.
const PAGE: usize = 250;

/// One service of a cluster.
pub struct KubernetesProvider {
    settings: Kubernetes,
    names: Arc<Names>,
    service: String,
    namespace: String,
    port: String,
    cluster: Option<Cluster>,
    slices: BTreeMap<String, Slice>,
    /// Where the next watch begins; empty before the first list.
    version: String,
    watch: Option<Watch>,
    /// Everything was listed anew since what was known had expired, and no watch has told anything since.
    is_anew: bool,
}

struct Watch {
    answer: Answer,
    lines: Lines,
    begun: Instant,
}

/// A watch that ends sooner, and has told nothing, is not one that came to its end.
const WATCH_MIN: Duration = Duration::from_secs(1);

impl KubernetesProvider {
    /// Watches this service.
    pub fn new(settings: Kubernetes, names: Arc<Names>, service: &str, namespace: &str, port: &str) -> Self {
        Self {
            settings,
            names,
            service: service.to_owned(),
            namespace: namespace.to_owned(),
            port: port.to_owned(),
            cluster: None,
            slices: BTreeMap::new(),
            version: String::new(),
            watch: None,
            is_anew: false,
        }
    }

    async fn look(&mut self) -> Result<News, Trouble> {
        let mut outcome = self.step().await;
        let is_expired = outcome.as_ref().is_err_and(|trouble| trouble.kind == Kind::Expired);
        if is_expired && !self.is_anew {
            // The API keeps a few minutes of changes and no more: nobody's fault, and no reason to wait. Where it comes
            // again at once, it is one.
            self.is_anew = true;
            self.forget();
            outcome = self.step().await;
        }
        if outcome.is_err() {
            // The credentials may have been the reason.
            self.cluster = None;
            self.forget();
        }
        outcome
    }

    /// Nothing that was seen holds any more.
    fn forget(&mut self) {
        self.watch = None;
        self.version.clear();
    }

    async fn step(&mut self) -> Result<News, Trouble> {
        if self.version.is_empty() {
            self.list().await?;
            return self.news();
        }
        loop {
            if self.watch.is_none() {
                self.watch = Some(self.begin_watch().await?);
            }
            if self.follow().await? {
                return self.news();
            }
        }
    }

    fn news(&self) -> Result<News, Trouble> {
        Ok(News { members: members(self.slices.values(), &self.port)?, holds: Duration::ZERO })
    }

    async fn ask(&mut self, query: &str) -> Result<Answer, Trouble> {
        if self.cluster.is_none() {
            let (settings, names) = (self.settings.clone(), self.names.clone());
            let found = tokio::task::spawn_blocking(move || cluster::find(&settings, names)).await;
            self.cluster = Some(found.map_err(|_| Trouble::failed("the cluster's settings cannot be read"))??);
        }
        let Some(cluster) = &self.cluster else { return Err(Trouble::failed("no cluster")) };
        let namespace = if self.namespace.is_empty() { &cluster.namespace } else { &self.namespace };
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{}/endpointslices?labelSelector={LABEL}%3D{}{query}",
            escape(namespace),
            escape(&self.service)
        );
        // A service account's token is replaced while the gateway runs.
        let secrets: Vec<_> = cluster.token()?.iter().map(|token| bearer(token)).collect();
        let wait = Duration::from_millis(DISCOVERY_ANSWER_MS);
        let answer = cluster.api.ask(&Ask { path: &path, secrets: &secrets, wait, body: None }).await?;
        match answer.status() {
            200 => Ok(answer),
            410 => Err(Trouble { kind: Kind::Expired, ..answer.refusal().await }),
            _ => Err(answer.refusal().await),
        }
    }

    async fn list(&mut self) -> Result<(), Trouble> {
        let mut slices = BTreeMap::new();
        let mut after = String::new();
        loop {
            let answer = self.ask(&format!("&limit={PAGE}{after}")).await?;
            let body = answer.body(Duration::from_millis(DISCOVERY_ANSWER_MS)).await?;
            let list: List =
                serde_json::from_slice(&body).map_err(|error| Trouble::failed(format!("list: {error}")))?;
            slices.extend(list.items.into_iter().map(|slice| (slice.metadata.name.clone(), slice)));
            if slices.len() > SLICES_MAX {
                return Err(Trouble::failed(format!("more than {SLICES_MAX} slices")));
            }
            let ListMetadata { resource_version, next } = list.metadata;
            match next.filter(|next| !next.is_empty()) {
                Some(next) => after = format!("&continue={}", escape(&next)),
                None => {
                    (self.slices, self.version) = (slices, resource_version);
                    return if self.version.is_empty() {
                        Err(Trouble::failed("a list without a version"))
                    } else {
                        Ok(())
                    };
                }
            }
        }
    }

    async fn begin_watch(&mut self) -> Result<Watch, Trouble> {
        let version = escape(&self.version);
        let query =
            format!("&watch=1&allowWatchBookmarks=true&timeoutSeconds={DISCOVERY_WATCH_S}&resourceVersion={version}");
        Ok(Watch { answer: self.ask(&query).await?, lines: Lines::default(), begun: Instant::now() })
    }

    /// Takes events until there is something to tell. False when the watch has ended, as all do after a while.
    async fn follow(&mut self) -> Result<bool, Trouble> {
        let Some(watch) = &mut self.watch else { return Ok(false) };
        let mut changed = false;
        loop {
            while let Some(line) = watch.lines.line() {
                changed |= take(&mut self.slices, &mut self.version, &line)?;
                self.is_anew &= line.is_empty();
            }
            // What happens at the same time is told together.
            let wait = if changed { DISCOVERY_PAUSE_MS } else { (DISCOVERY_WATCH_S + 30) * 1_000 };
            let piece = tokio::time::timeout(Duration::from_millis(wait), watch.answer.piece()).await;
            match piece {
                Ok(piece) => match piece? {
                    Some(piece) => watch.lines.push(&piece)?,
                    None if !watch.lines.begun.is_empty() => {
                        return Err(Trouble::failed("the watch ended in the middle of an event"));
                    }
                    None if !changed && watch.begun.elapsed() < WATCH_MIN => {
                        return Err(Trouble::failed("the watch ended at once"));
                    }
                    None => {
                        self.watch = None;
                        return Ok(changed);
                    }
                },
                Err(_) if changed => return Ok(true),
                Err(_) => return Err(Trouble::failed("the watch has gone silent")),
            }
        }
    }
}

impl Provider for KubernetesProvider {
    fn next(&mut self) -> Lookout<'_> {
        Box::pin(self.look())
    }
}

/// Takes one event of a watch. Returns whether the slices have changed.
fn take(slices: &mut BTreeMap<String, Slice>, version: &mut String, line: &[u8]) -> Result<bool, Trouble> {
    if line.is_empty() {
        return Ok(false);
    }
    let event: Event = serde_json::from_slice(line).map_err(|error| Trouble::failed(format!("event: {error}")))?;
    if event.kind == "ERROR" {
        let status: Status = serde_json::from_value(event.object).unwrap_or_default();
        let text = format!("the watch ended: {} {}", status.code, status.message);
        // 410: what the watch would begin with is not kept any more. Everything is listed anew.
        return Err(if status.code == 410 { Trouble::expired(text) } else { Trouble::failed(text) });
    }
    let slice: Slice =
        serde_json::from_value(event.object).map_err(|error| Trouble::failed(format!("event: {error}")))?;
    if !slice.metadata.resource_version.is_empty() {
        version.clone_from(&slice.metadata.resource_version);
    }
    match event.kind.as_str() {
        "ADDED" | "MODIFIED" => {
            if slices.len() >= SLICES_MAX && !slices.contains_key(&slice.metadata.name) {
                return Err(Trouble::failed(format!("more than {SLICES_MAX} slices")));
            }
            slices.insert(slice.metadata.name.clone(), slice);
            Ok(true)
        }
        "DELETED" => Ok(slices.remove(&slice.metadata.name).is_some()),
        // Bookmarks bring a version only.
        _ => Ok(false),
    }
}

/// The endpoints of slices, by the rules at the top of this file.
fn members<'a>(slices: impl Iterator<Item = &'a Slice> + Clone, port: &str) -> Result<Vec<Member>, Trouble> {
    let of = |family: &str| slices.clone().any(|slice| slice.address_type == family && !slice.endpoints().is_empty());
    // A service of two families has each pod in slices of both: one of them is enough.
    let family = if of("IPv4") || !of("IPv6") { "IPv4" } else { "IPv6" };
    let (mut ready, mut ending) = (Vec::new(), Vec::new());
    for slice in slices.filter(|slice| slice.address_type == family) {
        let Some(port) = slice.port(port)? else { continue };
        for endpoint in slice.endpoints() {
            let Some(ip) = endpoint.addresses.first().and_then(|text| text.parse::<IpAddr>().ok()) else { continue };
            let conditions = &endpoint.conditions;
            // Unknown is taken for ready, as the API says.
            let is_ready = conditions.ready.unwrap_or(true);
            let is_serving = conditions.serving.unwrap_or(is_ready);
            let member = Member {
                zone: endpoint.zone.clone().filter(|zone| !zone.is_empty()),
                metadata: endpoint.metadata(),
                ..Member::at(SocketAddr::new(ip, port))
            };
            match (is_ready, is_serving && conditions.terminating.unwrap_or(false)) {
                (true, _) => ready.push(member),
                (false, true) => ending.push(member),
                (false, false) => {}
            }
        }
    }
    let mut all = if ready.is_empty() { ending } else { ready };
    all.truncate(DISCOVERED_MAX);
    Ok(all)
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    metadata: ListMetadata,
    items: Vec<Slice>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    #[serde(default, rename = "resourceVersion")]
    resource_version: String,
    #[serde(default, rename = "continue")]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Event {
    #[serde(rename = "type")]
    kind: String,
    object: serde_json::Value,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    code: u32,
    #[serde(default)]
    message: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Slice {
    metadata: Metadata,
    #[serde(default)]
    address_type: String,
    #[serde(default)]
    endpoints: Option<Vec<SliceEndpoint>>,
    #[serde(default)]
    ports: Option<Vec<Port>>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SliceEndpoint {
    #[serde(default)]
    addresses: Vec<String>,
    #[serde(default)]
    conditions: Conditions,
    #[serde(default)]
    zone: Option<String>,
    #[serde(default)]
    node_name: Option<String>,
    #[serde(default)]
    target_ref: Option<Target>,
}

#[derive(Clone, Debug, Default, Deserialize)]
struct Conditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct Target {
    #[serde(default)]
    name: String,
}

#[derive(Clone, Debug, Deserialize)]
struct Port {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
}

impl Slice {
    fn endpoints(&self) -> &[SliceEndpoint] {
        self.endpoints.as_deref().unwrap_or_default()
    }

    /// The port that is meant: by name, by number, or the only one. None when this slice does not have it.
    fn port(&self, wanted: &str) -> Result<Option<u16>, Trouble> {
        let tcp = |port: &&Port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP");
        let ports: Vec<_> = self.ports.iter().flatten().filter(tcp).collect();
        if wanted.is_empty() {
            return match ports[..] {
                [] => Ok(None),
                [only] => Ok(only.port),
                _ => Err(Trouble::failed("the service has several ports: name one with `port`")),
            };
        }
        let number = wanted.parse::<u16>().ok();
        let is_meant = |port: &&&Port| match number {
            Some(_) => port.port == number,
            None => port.name.as_deref() == Some(wanted),
        };
        Ok(ports.iter().find(is_meant).and_then(|port| port.port))
    }
}

impl SliceEndpoint {
    fn metadata(&self) -> Vec<(String, String)> {
        let pod = self.target_ref.as_ref().map(|target| ("pod".to_owned(), target.name.clone()));
        let node = self.node_name.as_ref().map(|node| ("node".to_owned(), node.clone()));
        pod.into_iter().chain(node).collect()
    }
}

#[cfg(test)]
mod replayed;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DISCOVERY_BYTES_MAX;
    use serde_json::json;

    fn slice(name: &str, family: &str, endpoints: serde_json::Value) -> Slice {
        let ports =
            json!([{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "dns", "port": 53, "protocol": "UDP"}]);
        let value = json!({
            "metadata": {"name": name, "resourceVersion": "5"}, "addressType": family,
            "endpoints": endpoints, "ports": ports,
        });
        serde_json::from_value(value).expect("a slice")
    }

    fn found(slices: &[Slice], port: &str) -> Vec<String> {
        members(slices.iter(), port).expect("endpoints").iter().map(|m| m.address.to_string()).collect()
    }

    #[test]
    fn ready_ones_first_then_those_that_serve_while_they_end() {
        let ready = json!({"addresses": ["10.0.0.1", "10.9.9.9"], "conditions": {"ready": true}, "zone": "a",
            "nodeName": "n", "targetRef": {"kind": "Pod", "name": "p"}});
        let unknown = json!({"addresses": ["10.0.0.2"]});
        let ending =
            json!({"addresses": ["10.0.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}});
        let starting = json!({"addresses": ["10.0.0.4"], "conditions": {"ready": false}});
        let dead =
            json!({"addresses": ["10.0.0.5"], "conditions": {"ready": false, "serving": false, "terminating": true}});
        let all = slice("s", "IPv4", json!([ready, unknown, ending, starting, dead]));
        assert_eq!(found(std::slice::from_ref(&all), ""), ["10.0.0.1:8080", "10.0.0.2:8080"]);
        let first = &members([&all].into_iter(), "http").expect("endpoints")[0];
        assert_eq!(first.zone.as_deref(), Some("a"));
        assert_eq!(first.metadata, [("pod".into(), "p".into()), ("node".into(), "n".into())]);
        let rollout = slice("s", "IPv4", json!([ending, starting, dead]));
        assert_eq!(found(&[rollout], "8080"), ["10.0.0.3:8080"]);
        assert!(found(&[slice("s", "IPv4", json!(null))], "").is_empty());
    }

    #[test]
    fn ports_are_found_by_name_and_number() {
        let one = slice("s", "IPv4", json!([{"addresses": ["10.0.0.1"]}]));
        for port in ["", "http", "8080"] {
            assert_eq!(found(std::slice::from_ref(&one), port), ["10.0.0.1:8080"]);
        }
        assert!(found(std::slice::from_ref(&one), "grpc").is_empty());
        assert!(found(std::slice::from_ref(&one), "53").is_empty(), "not a port of TCP");
        let mut two = one;
        two.ports = serde_json::from_value(json!([{"name": "a", "port": 1}, {"name": "b", "port": 2}])).expect("ports");
        assert!(members([&two].into_iter(), "").is_err());
        assert_eq!(found(&[two], "b"), ["10.0.0.1:2"]);
    }

    #[test]
    fn a_service_of_two_families_has_each_pod_once() {
        let v4 = slice("a", "IPv4", json!([{"addresses": ["10.0.0.1"]}]));
        let v6 = slice("b", "IPv6", json!([{"addresses": ["2001:db8::1"]}]));
        assert_eq!(found(&[v4, v6.clone()], ""), ["10.0.0.1:8080"]);
        assert_eq!(found(&[v6], ""), ["[2001:db8::1]:8080"]);
    }

    #[test]
    fn events_change_the_slices_and_an_expired_watch_ends() {
        let (mut slices, mut version) = (BTreeMap::new(), "1".to_owned());
        let mut play = |kind: &str, object: serde_json::Value| {
            let line = json!({"type": kind, "object": object}).to_string();
            let changed = take(&mut slices, &mut version, line.as_bytes()).map_err(|trouble| trouble.text);
            (changed, slices.len(), version.clone())
        };
        let named = |name: &str, version: &str| json!({"metadata": {"name": name, "resourceVersion": version}});
        assert_eq!(play("ADDED", named("a", "2")), (Ok(true), 1, "2".into()));
        assert_eq!(play("MODIFIED", named("a", "3")), (Ok(true), 1, "3".into()));
        assert_eq!(play("BOOKMARK", named("", "9")), (Ok(false), 1, "9".into()));
        assert_eq!(play("DELETED", named("a", "10")), (Ok(true), 0, "10".into()));
        assert_eq!(play("DELETED", named("a", "11")), (Ok(false), 0, "11".into()));
        let (ended, ..) = play("ERROR", json!({"kind": "Status", "code": 410, "message": "too old"}));
        assert!(ended.expect_err("an end").contains("410"));
        assert!(take(&mut BTreeMap::new(), &mut String::new(), b"<html>").is_err());
    }

    #[test]
    fn a_stream_is_cut_into_lines_wherever_its_pieces_end() {
        let text = b"{\"a\":1}\n{\"b\":2}\n{\"c\"";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            text.chunks(size).for_each(|piece| lines.push(piece).expect("short"));
            assert_eq!(lines.line().as_deref(), Some(&b"{\"a\":1}"[..]));
            assert_eq!(lines.line().as_deref(), Some(&b"{\"b\":2}"[..]));
            assert_eq!((lines.line(), &lines.begun[..]), (None, &b"{\"c\""[..]));
        }
        assert!(Lines::default().push(&vec![b'x'; DISCOVERY_BYTES_MAX + 1]).is_err());
    }
}
