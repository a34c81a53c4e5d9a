//! The instances of a service in Consul (R225, R226), by blocking queries of its health API: a change is told when it
//! happens, and not when a timer says so.
//!
//! The rules of blocking queries are those of Consul's documentation: an index that went backwards begins anew, one of
//! 0 is never sent, and an error begins anew.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::super::client::tls;
use super::dns::Names;
use super::http::{Api, Ask, escape};
use super::provider::{Lookout, Member, News, Provider, Trouble};
use crate::limits::{DISCOVERED_MAX, DISCOVERY_ANSWER_MS};
use crate::snapshot::{Consul, Family};

/// Pairs of metadata that are taken of one instance, and bytes of each.
const METADATA_MAX: usize = 64;
const METADATA_BYTES_MAX: usize = 512;

/// One service of a catalogue.
pub struct ConsulProvider {
    settings: Consul,
    names: Arc<Names>,
    query: Query,
    /// Of the last answer; 0 asks without waiting.
    index: u64,
    api: Option<Api>,
}

/// What is asked.
pub struct Query {
    /// The service.
    pub service: String,
    /// All of these tags.
    pub tags: Vec<String>,
    /// The datacentre; empty for the agent's own.
    pub datacenter: String,
    /// The namespace; empty for the default one.
    pub namespace: String,
    /// No instances whose checks warn.
    pub passing_only: bool,
}

impl ConsulProvider {
    /// Asks this agent.
    pub fn new(settings: Consul, names: Arc<Names>, query: Query) -> Self {
        Self { settings, names, query, index: 0, api: None }
    }

    async fn look(&mut self) -> Result<News, Trouble> {
        let outcome = self.ask().await;
        if outcome.is_err() {
            // A file of authorities may be repaired meanwhile.
            (self.index, self.api) = (0, None);
        }
        outcome
    }

    async fn ask(&mut self) -> Result<News, Trouble> {
        if self.api.is_none() {
            self.api = Some(api(&self.settings, &self.names)?);
        }
        let Some(api) = &self.api else { return Err(Trouble::failed("no API")) };
        let (path, at_once) = (self.path(), Duration::from_millis(DISCOVERY_ANSWER_MS));
        // Consul adds up to a sixteenth, so that clients do not come back together.
        let blocked = Duration::from_secs(if self.index > 0 { self.settings.wait_seconds * 17 / 16 } else { 0 });
        let secrets = match self.settings.token.is_empty() {
            true => Vec::new(),
            false => vec![("x-consul-token", self.settings.token.clone())],
        };
        let answer = api.ask(&Ask { path: &path, secrets: &secrets, wait: blocked + at_once, body: None }).await?;
        if answer.status() != 200 {
            return Err(answer.refusal().await);
        }
        let index = answer.header("x-consul-index").and_then(|text| text.parse().ok()).unwrap_or(0);
        let body = answer.body(at_once).await?;
        let members = self.members(&body).await?;
        self.index = next_index(self.index, index);
        // Without an index there is nothing to wait for: the catalogue is asked by the clock then (R226). One that went
        // back is no reason to wait.
        let holds = if index == 0 { Duration::from_secs(30) } else { Duration::ZERO };
        Ok(News { members, holds })
    }

    fn path(&self) -> String {
        let query = &self.query;
        let mut path = format!("/v1/health/service/{}?", escape(&query.service));
        let mut add = |key: &str, value: &str| {
            if !path.ends_with('?') {
                path.push('&');
            }
            path.push_str(key);
            if !value.is_empty() {
                path.push('=');
                path.push_str(&escape(value));
            }
        };
        if query.passing_only {
            add("passing", "");
        }
        query.tags.iter().for_each(|tag| add("tag", tag));
        [("dc", &query.datacenter), ("ns", &query.namespace)]
            .into_iter()
            .filter(|(_, value)| !value.is_empty())
            .for_each(|(key, value)| add(key, value));
        if !self.settings.consistency.is_empty() {
            add(&self.settings.consistency, "");
        }
        if self.index > 0 {
            add("index", &self.index.to_string());
            add("wait", &format!("{}s", self.settings.wait_seconds));
        }
        path
    }

    async fn members(&self, body: &[u8]) -> Result<Vec<Member>, Trouble> {
        let instances = parse(body, self.query.passing_only)?;
        let mut members = Vec::new();
        for (host, port, member) in instances {
            match host.parse::<IpAddr>() {
                Ok(ip) => members.push(Member { address: SocketAddr::new(ip, port), ..member }),
                // An instance may be registered under a name.
                Err(_) => {
                    let found = self.names.addresses(&host, Family::Auto).await?;
                    let host = format!("{host}:{port}");
                    let member =
                        |ip| Member { address: SocketAddr::new(ip, port), host: host.clone(), ..member.clone() };
                    members.extend(found.all.into_iter().map(member));
                }
            }
        }
        members.truncate(DISCOVERED_MAX);
        Ok(members)
    }
}

impl Provider for ConsulProvider {
    fn next(&mut self) -> Lookout<'_> {
        Box::pin(self.look())
    }
}

fn api(settings: &Consul, names: &Arc<Names>) -> Result<Api, Trouble> {
    let (is_https, host, port) = Api::parse(&settings.address)?;
    let authorities = match settings.ca_file.is_empty() {
        true => None,
        false => Some(
            std::fs::read(&settings.ca_file)
                .map_err(|error| Trouble::failed(format!("{}: {error}", settings.ca_file)))?,
        ),
    };
    let tls = if is_https { Some(tls(authorities.as_deref(), None).map_err(Trouble::failed)?) } else { None };
    Ok(Api { host, port, tls, tls_name: None, names: names.clone() })
}

/// Which index to ask with next: where it went back, what was known of it is worth nothing. The answer that says so
/// is as good as others, and the next one comes at once.
pub fn next_index(before: u64, now: u64) -> u64 {
    if now < before { 0 } else { now }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Instance {
    node: Node,
    service: Service,
    #[serde(default)]
    checks: Option<Vec<Check>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Node {
    #[serde(default)]
    address: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Service {
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    tags: Option<Vec<String>>,
    #[serde(default)]
    meta: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    weights: Option<Weights>,
    #[serde(default)]
    locality: Option<Locality>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Weights {
    passing: u32,
    warning: u32,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Locality {
    #[serde(default)]
    zone: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Check {
    status: String,
}

/// The instances that may be asked: host, port, and the rest.
fn parse(body: &[u8], passing_only: bool) -> Result<Vec<(String, u16, Member)>, Trouble> {
    let all: Vec<Instance> =
        serde_json::from_slice(body).map_err(|error| Trouble::failed(format!("answer: {error}")))?;
    let mut members = Vec::new();
    for Instance { node, service, checks } in all.into_iter().take(DISCOVERED_MAX) {
        let checks = checks.unwrap_or_default();
        let has = |status: &str| checks.iter().any(|check| check.status == status);
        let is_warned = has("warning");
        if has("critical") || has("maintenance") || (passing_only && is_warned) || service.port == 0 {
            continue;
        }
        let weight = service.weights.map(|weights| if is_warned { weights.warning } else { weights.passing });
        if weight == Some(0) {
            continue;
        }
        let host = if service.address.is_empty() { node.address } else { service.address };
        let zone = service.locality.map(|locality| locality.zone).filter(|zone| !zone.is_empty());
        let mut metadata: Vec<_> = service.meta.unwrap_or_default().into_iter().collect();
        let tags = service.tags.unwrap_or_default();
        if !tags.is_empty() {
            metadata.push(("tags".to_owned(), tags.join(",")));
        }
        metadata.retain(|(key, value)| key.len().max(value.len()) <= METADATA_BYTES_MAX);
        metadata.truncate(METADATA_MAX);
        let nowhere = Member::at(SocketAddr::from(([0, 0, 0, 0], 0)));
        members.push((host, service.port, Member { weight: weight.map(|w| w.min(65_535)), zone, metadata, ..nowhere }));
    }
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn provider(passing_only: bool, tags: &[&str]) -> ConsulProvider {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        let query = Query {
            service: "users/1".into(),
            tags,
            datacenter: String::new(),
            namespace: String::new(),
            passing_only,
        };
        let settings = Consul { wait_seconds: 60, ..Consul::default() };
        ConsulProvider::new(settings, Names::new(&crate::snapshot::Dns::default()), query)
    }

    #[test]
    fn questions_are_written_as_the_api_has_them() {
        let mut one = provider(true, &["v2", "a b"]);
        assert_eq!(one.path(), "/v1/health/service/users%2F1?passing&tag=v2&tag=a%20b");
        one.index = 7;
        one.settings.consistency = "stale".into();
        one.query.datacenter = "eu".into();
        assert_eq!(one.path(), "/v1/health/service/users%2F1?passing&tag=v2&tag=a%20b&dc=eu&stale&index=7&wait=60s");
        assert_eq!(provider(false, &[]).path(), "/v1/health/service/users%2F1?");
    }

    #[test]
    fn an_index_that_goes_back_begins_anew() {
        assert_eq!([next_index(0, 5), next_index(5, 5), next_index(5, 9), next_index(9, 2)], [5, 5, 9, 0]);
        assert_eq!(next_index(9, 0), 0);
    }

    #[test]
    fn answers_are_read_as_the_api_gives_them() {
        let instance = |status: &str, service: &str| {
            format!(
                r#"{{"Node":{{"Node":"n","Address":"10.1.1.1"}},"Service":{{"ID":"x",{service}}},
                "Checks":[{{"Status":"passing"}},{{"Status":"{status}"}}]}}"#
            )
        };
        let body = format!(
            "[{},{},{},{},{}]",
            instance(
                "passing",
                r#""Address":"","Port":80,"Tags":["v2"],"Meta":{"m":"1"},"Weights":{"Passing":3,"Warning":1}"#
            ),
            instance(
                "warning",
                r#""Address":"10.0.0.2","Port":81,"Tags":null,"Meta":null,
                "Weights":{"Passing":3,"Warning":2},"Locality":{"Region":"r","Zone":"z"}"#
            ),
            instance("critical", r#""Address":"10.0.0.3","Port":82"#),
            instance("passing", r#""Address":"10.0.0.4","Port":0"#),
            instance("passing", r#""Address":"10.0.0.5","Port":83,"Weights":{"Passing":0,"Warning":0}"#),
        );
        let all = parse(body.as_bytes(), false).expect("an answer");
        let short: Vec<_> = all.iter().map(|(host, port, m)| (host.as_str(), *port, m.weight)).collect();
        assert_eq!(short, [("10.1.1.1", 80, Some(3)), ("10.0.0.2", 81, Some(2))]);
        assert_eq!(all[0].2.metadata, [("m".into(), "1".into()), ("tags".into(), "v2".into())]);
        assert_eq!(all[1].2.zone.as_deref(), Some("z"));
        assert_eq!(parse(body.as_bytes(), true).expect("an answer").len(), 1);
        assert!(parse(b"[]", true).expect("none").is_empty());
        for wrong in ["{}", "[{}]", "No cluster leader", "[{\"Node\":{},\"Service\":{\"Port\":70000}}]"] {
            assert!(parse(wrong.as_bytes(), true).is_err(), "{wrong}");
        }
    }
}
