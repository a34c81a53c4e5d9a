//! A key of etcd, version 3, over the HTTP API that its servers have beside gRPC (R229).
//!
//! A watch tells when the key changes, and the value is asked for then: what counts is always a whole, linearised
//! answer. A watch begins behind the revision of the answer before it, so that nothing between the two is lost, and
//! ends after a while, so that one that has died unseen costs no more than that.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::super::discovery::dns::Names;
use super::super::discovery::http::{Answer, Ask, Lines};
use super::super::discovery::provider::Trouble;
use super::address::Address;
use super::link::{Link, Open, body, decode, encode};
use super::{Found, KeyValue, Look, News};
use crate::limits::{DISCOVERY_ANSWER_MS, STORE_WAIT_S};

const AT_ONCE: Duration = Duration::from_millis(DISCOVERY_ANSWER_MS);

/// One key.
pub struct EtcdKey {
    link: Link,
    /// Of the last answer; None before the first.
    revision: Option<u64>,
}

impl EtcdKey {
    /// Nothing is asked yet.
    pub fn new(address: Arc<Address>, names: Arc<Names>) -> Self {
        Self { link: Link::new(address, names), revision: None }
    }

    async fn look(&mut self) -> Result<News, Trouble> {
        let open = self.link.open().await?;
        // Tokens are short-lived, and a question is rare.
        let token = token(&open).await?;
        let key = encode(&self.link.address.key);
        if let Some(revision) = self.revision {
            watch(&open, &token, &key, revision).await?;
        }
        let answer = ask(&open, &token, "/v3/kv/range", &json!({ "key": key })).await?;
        let (found, revision) = match body(answer, AT_ONCE).await? {
            Some(body) => value(&body)?,
            None => (Found::TooLarge, 0),
        };
        self.revision = Some(revision);
        Ok(News { found, holds: Duration::ZERO })
    }
}

impl KeyValue for EtcdKey {
    fn next(&mut self) -> Look<'_> {
        Box::pin(self.look())
    }

    fn lose(&mut self) {
        self.revision = None;
        self.link.lose();
    }
}

/// What stands for the user in questions; empty where none is named.
async fn token(open: &Open) -> Result<String, Trouble> {
    #[derive(Deserialize)]
    struct Told {
        token: String,
    }
    if open.login.user.is_empty() {
        return Ok(String::new());
    }
    let login = json!({ "name": open.login.user, "password": open.login.secret });
    let answer = ask(open, "", "/v3/auth/authenticate", &login).await?;
    let body = body(answer, AT_ONCE).await?.unwrap_or_default();
    // What the answer says beside is a secret.
    let told: Told = serde_json::from_slice(&body).map_err(|_| Trouble::failed("the answer has no token"))?;
    Ok(told.token)
}

/// A good answer.
async fn ask(open: &Open, token: &str, path: &str, question: &Value) -> Result<Answer, Trouble> {
    let secrets: Vec<_> = Some(token)
        .filter(|token| !token.is_empty())
        .map(|token| ("authorization", token.to_owned()))
        .into_iter()
        .collect();
    let body = Some(question.to_string().into_bytes());
    let answer = Box::pin(open.api.ask(&Ask { path, secrets: &secrets, wait: AT_ONCE, body })).await?;
    match answer.status() {
        200 => Ok(answer),
        404 => Err(Trouble::failed(format!("answered 404 at {path}: this is no etcd 3.4 or later"))),
        _ => Err(answer.refusal().await),
    }
}

/// Waits until the key may have changed behind `revision`, or it is time to look anyway.
async fn watch(open: &Open, token: &str, key: &str, revision: u64) -> Result<(), Trouble> {
    let due = Instant::now() + Duration::from_secs(STORE_WAIT_S);
    let mut create = json!({ "key": key });
    // Where the last answer had none, the watch begins now.
    if revision > 0 {
        create["start_revision"] = (revision + 1).to_string().into();
    }
    let mut answer = ask(open, token, "/v3/watch", &json!({ "create_request": create })).await?;
    let mut lines = Lines::default();
    loop {
        while let Some(line) = lines.line() {
            if is_change(&line)? {
                return Ok(());
            }
        }
        match timeout_at(due, answer.piece()).await {
            Ok(Ok(Some(piece))) => lines.push(&piece)?,
            Ok(Ok(None)) => return Err(Trouble::failed("the watch ended")),
            Ok(Err(trouble)) => return Err(trouble),
            Err(_) => return Ok(()),
        }
    }
}

/// Numbers come as texts.
#[derive(Deserialize)]
struct Range {
    header: Header,
    #[serde(default)]
    kvs: Vec<Pair>,
}

#[derive(Deserialize)]
struct Header {
    revision: String,
}

#[derive(Deserialize)]
struct Pair {
    /// Absent where it is empty.
    #[serde(default)]
    value: String,
}

/// The value in an answer, and the revision of it.
fn value(body: &[u8]) -> Result<(Found, u64), Trouble> {
    let wrong = |error: &dyn std::fmt::Display| Trouble::failed(format!("the answer is not one of etcd's: {error}"));
    let range: Range = serde_json::from_slice(body).map_err(|error| wrong(&error))?;
    let revision = range.header.revision.parse().map_err(|error| wrong(&error))?;
    match range.kvs.first() {
        Some(pair) => Ok((Found::Value(decode(&pair.value)?), revision)),
        None => Ok((Found::Missing, revision)),
    }
}

#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    result: Watched,
    error: Option<Refused>,
}

#[derive(Default, Deserialize)]
struct Watched {
    #[serde(default)]
    events: Vec<serde::de::IgnoredAny>,
    #[serde(default)]
    canceled: bool,
    #[serde(default)]
    cancel_reason: String,
    compact_revision: Option<String>,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(default)]
    message: String,
}

/// Whether a line of a watch says that there is something to look at.
fn is_change(line: &[u8]) -> Result<bool, Trouble> {
    if line.is_empty() {
        return Ok(false);
    }
    let told: Told = serde_json::from_slice(line)
        .map_err(|error| Trouble::failed(format!("the watch is not one of etcd's: {error}")))?;
    match told {
        Told { error: Some(refused), .. } => Err(Trouble::failed(format!("the watch ended: {}", refused.message))),
        // What the watch would begin with is not kept any more: it may have changed.
        Told { result: Watched { compact_revision: Some(_), .. }, .. } => Ok(true),
        Told { result: Watched { canceled: true, cancel_reason, .. }, .. } => {
            Err(Trouble::failed(format!("the watch ended: {cancel_reason}")))
        }
        Told { result, .. } => Ok(!result.events.is_empty()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_as_the_api_gives_them() {
        let header = r#""header":{"cluster_id":"1","member_id":"2","revision":"9","raft_term":"2"}"#;
        let one = format!(r#"{{{header},"kvs":[{{"key":"aw==","mod_revision":"8","value":"aGk="}}],"count":"1"}}"#);
        assert_eq!(value(one.as_bytes()), Ok((Found::Value(b"hi".to_vec()), 9)));
        assert_eq!(value(format!("{{{header}}}").as_bytes()), Ok((Found::Missing, 9)));
        let empty = format!(r#"{{{header},"kvs":[{{"key":"aw=="}}]}}"#);
        assert_eq!(value(empty.as_bytes()), Ok((Found::Value(Vec::new()), 9)));
        for wrong in ["", "<html>", "{}", "[]", r#"{"header":{"revision":"x"}}"#, &one.replace("aGk=", "a")] {
            assert!(value(wrong.as_bytes()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn watches_are_read_as_the_api_gives_them() {
        let told = |text: &str| is_change(text.as_bytes()).map_err(|trouble| trouble.text);
        assert_eq!(told(""), Ok(false));
        assert_eq!(told(r#"{"result":{"header":{"revision":"9"},"created":true}}"#), Ok(false));
        assert_eq!(told(r#"{"result":{"header":{"revision":"9"}}}"#), Ok(false), "progress");
        assert_eq!(told(r#"{"result":{"events":[{"kv":{"key":"aw==","value":"aGk="}}]}}"#), Ok(true));
        assert_eq!(told(r#"{"result":{"events":[{"type":"DELETE","kv":{"key":"aw=="}}]}}"#), Ok(true));
        assert_eq!(told(r#"{"result":{"canceled":true,"compact_revision":"7"}}"#), Ok(true));
        let ended = told(r#"{"result":{"created":true,"canceled":true,"cancel_reason":"permission denied"}}"#);
        assert!(ended.is_err_and(|error| error.contains("permission denied")));
        assert!(told(r#"{"error":{"grpc_code":14,"message":"no leader"}}"#).is_err_and(|e| e.contains("no leader")));
        assert!(told("<html>").is_err());
    }
}
