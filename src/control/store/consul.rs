//! A key of Consul's key-value store, by blocking queries (R229): a change is told when it happens.
//!
//! The rules are those of Consul's documentation: an index that went backwards begins anew, one of 0 is never sent, and
//! an error begins anew.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;

use super::super::discovery::consul::next_index;
use super::super::discovery::dns::Names;
use super::super::discovery::http::{Ask, escape};
use super::super::discovery::provider::Trouble;
use super::address::Address;
use super::link::{Link, body, decode};
use super::{Found, KeyValue, Look, News};
use crate::limits::{DISCOVERY_ANSWER_MS, STORE_POLL_MS, STORE_WAIT_S};

/// One key.
pub struct ConsulKey {
    link: Link,
    /// Of the last answer; 0 asks without waiting.
    index: u64,
}

impl ConsulKey {
    /// Nothing is asked yet.
    pub fn new(address: Arc<Address>, names: Arc<Names>) -> Self {
        Self { link: Link::new(address, names), index: 0 }
    }

    async fn look(&mut self) -> Result<News, Trouble> {
        let open = self.link.open().await?;
        let (path, at_once) = (path(&self.link.address, self.index), Duration::from_millis(DISCOVERY_ANSWER_MS));
        // Consul adds up to a sixteenth, so that clients do not come back together.
        let blocked = Duration::from_secs(if self.index > 0 { STORE_WAIT_S + STORE_WAIT_S / 16 + 1 } else { 0 });
        let secrets = match open.login.secret.is_empty() {
            true => Vec::new(),
            false => vec![("x-consul-token", open.login.secret.clone())],
        };
        let ask = Ask { path: &path, secrets: &secrets, wait: blocked + at_once, body: None };
        let answer = open.api.ask(&ask).await?;
        let index = answer.header("x-consul-index").and_then(|text| text.parse().ok());
        let found = match (answer.status(), index) {
            (200, _) => match body(answer, at_once).await? {
                Some(body) => value(&body, &self.link.address.key)?,
                None => Found::TooLarge,
            },
            // Without an index it is somebody else who says so.
            (404, Some(_)) => Found::Missing,
            _ => return Err(answer.refusal().await),
        };
        let index = index.unwrap_or(0);
        self.index = next_index(self.index, index);
        // Without an index there is nothing to wait for: it is asked by the clock then.
        let holds_ms = if index == 0 { STORE_POLL_MS } else { 0 };
        Ok(News { found, holds: Duration::from_millis(holds_ms) })
    }
}

impl KeyValue for ConsulKey {
    fn next(&mut self) -> Look<'_> {
        Box::pin(self.look())
    }

    fn lose(&mut self) {
        self.index = 0;
        self.link.lose();
    }
}

fn path(address: &Address, index: u64) -> String {
    // Slashes part folders, and stay.
    let key: Vec<_> = address.key.split('/').map(escape).collect();
    let mut path = format!("/v1/kv/{}", key.join("/"));
    let mut parameters = Vec::new();
    if !address.datacenter.is_empty() {
        parameters.push(format!("dc={}", escape(&address.datacenter)));
    }
    if index > 0 {
        parameters.push(format!("index={index}&wait={STORE_WAIT_S}s"));
    }
    if !parameters.is_empty() {
        path.push('?');
        path.push_str(&parameters.join("&"));
    }
    path
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Pair {
    key: String,
    value: Option<String>,
}

/// The value in an answer.
fn value(body: &[u8], key: &str) -> Result<Found, Trouble> {
    let pairs: Vec<Pair> = serde_json::from_slice(body)
        .map_err(|error| Trouble::failed(format!("the answer is not one of Consul's: {error}")))?;
    let pair = pairs.into_iter().find(|pair| pair.key == key);
    let pair = pair.ok_or_else(|| Trouble::failed("the answer is about another key"))?;
    Ok(Found::Value(decode(&pair.value.unwrap_or_default())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_written_as_the_api_has_them() {
        let of = |word: &str| Address::parse(word).expect("an address").expect("a good one");
        assert_eq!(path(&of("consul://a/k"), 0), "/v1/kv/k");
        let two = of("consul://a/edge/a%20b%3F.yaml?dc=eu%261");
        assert_eq!(path(&two, 0), "/v1/kv/edge/a%20b%3F.yaml?dc=eu%261");
        assert_eq!(path(&two, 7), format!("/v1/kv/edge/a%20b%3F.yaml?dc=eu%261&index=7&wait={STORE_WAIT_S}s"));
    }

    #[test]
    fn an_index_that_goes_back_begins_anew() {
        assert_eq!([next_index(0, 5), next_index(5, 5), next_index(5, 9), next_index(9, 2)], [5, 5, 9, 0]);
        assert_eq!(next_index(9, 0), 0);
    }

    #[test]
    fn answers_are_read_as_the_api_gives_them() {
        let one = r#"[{"LockIndex":0,"Key":"a/b","Flags":0,"Value":"aGk=","CreateIndex":1,"ModifyIndex":2}]"#;
        assert_eq!(value(one.as_bytes(), "a/b"), Ok(Found::Value(b"hi".to_vec())));
        let empty = r#"[{"Key":"a/b","Value":null}]"#;
        assert_eq!(value(empty.as_bytes(), "a/b"), Ok(Found::Value(Vec::new())));
        for wrong in
            ["", "<html>", "{}", "[]", "[{}]", r#"[{"Key":"c","Value":null}]"#, r#"[{"Key":"a/b","Value":"?"}]"#]
        {
            assert!(value(wrong.as_bytes(), "a/b").is_err(), "{wrong}");
        }
    }
}
