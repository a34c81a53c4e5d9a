//! The provider against answers in an API server's words, one after another: what it asks, and what it makes of them.
//!
//! Slices are as Kubernetes writes them itself (`tests/fixtures/kubernetes`), statuses as its `apimachinery` makes
//! them.

use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use super::*;

/// What Kubernetes has as the whole form of a slice, with every field that there is.
const SLICE: &str = include_str!("../../../../tests/fixtures/kubernetes/discovery.k8s.io.v1.EndpointSlice.json");

/// A request that must come, by a part of its target, and the answer to it.
struct Step(String, u16, Body);

enum Body {
    Whole(Value),
    Events(Vec<Value>),
}

/// A slice of this name with one endpoint.
fn slice(name: &str, version: &str, ip: &str) -> Value {
    let mut slice: Value = serde_json::from_str(SLICE).expect("JSON");
    slice["metadata"]["name"] = json!(name);
    slice["metadata"]["resourceVersion"] = json!(version);
    slice["addressType"] = json!("IPv4");
    slice["endpoints"][0]["addresses"] = json!([ip]);
    slice["ports"][0]["protocol"] = json!("TCP");
    slice
}

fn list(version: &str, more: &str, items: Vec<Value>) -> Body {
    let mut metadata = json!({ "resourceVersion": version });
    if !more.is_empty() {
        metadata["continue"] = json!(more);
    }
    let kinds = ("EndpointSliceList", "discovery.k8s.io/v1");
    Body::Whole(json!({ "kind": kinds.0, "apiVersion": kinds.1, "metadata": metadata, "items": items }))
}

fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": message, "reason": reason,
        "code": code,
    })
}

fn expired() -> Value {
    json!({ "type": "ERROR", "object": status(410, "Expired", "too old resource version: 10 (25)") })
}

fn bookmark(version: &str) -> Value {
    json!({ "type": "BOOKMARK", "object": {
        "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1", "metadata": { "resourceVersion": version },
        "addressType": "", "endpoints": null, "ports": null,
    }})
}

/// A list of everything.
fn listed(version: &str, ip: &str) -> Step {
    Step("limit=250".to_owned(), 200, list(version, "", vec![slice("a", version, ip)]))
}

/// A watch from this version on.
fn watched(from: &str, events: Vec<Value>) -> Step {
    Step(
        format!("watch=1&allowWatchBookmarks=true&timeoutSeconds=290&resourceVersion={from}"),
        200,
        Body::Events(events),
    )
}

/// A provider whose requests meet these answers, and what was wrong with them or is left over.
async fn play(steps: Vec<Step>) -> (KubernetesProvider, Arc<Mutex<Vec<String>>>, tempfile::TempDir) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let left: Vec<_> = steps.iter().map(|step| format!("never asked for: {}", step.0)).collect();
    let faults = Arc::new(Mutex::new(left));
    let theirs = faults.clone();
    tokio::spawn(async move {
        for step in steps {
            let (stream, _) = listener.accept().await.expect("a connection");
            let mut stream = BufReader::new(stream);
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                assert!(stream.read_line(&mut head).await.expect("a line") > 0, "{head}");
            }
            let target = head.split(' ').nth(1).unwrap_or_default();
            note(&theirs, &step.0, target);
            let answer = answer(&step);
            // The provider leaves when it has heard enough.
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("config");
    let config = format!(
        "current-context: t\ncontexts: [{{name: t, context: {{cluster: c, user: u, namespace: shop}}}}]\n\
         clusters: [{{name: c, cluster: {{server: \"http://{address}\"}}}}]\n\
         users: [{{name: u, user: {{token: secret}}}}]\n"
    );
    std::fs::write(&path, config).expect("written");
    let settings = Kubernetes { kubeconfig: path.display().to_string(), ..Kubernetes::default() };
    let names = Names::new(&crate::snapshot::Dns::default());
    (KubernetesProvider::new(settings, names, "users", "", ""), faults, dir)
}

/// Takes note that a request came: one fault less, or another one.
fn note(faults: &Mutex<Vec<String>>, due: &str, target: &str) {
    let mut faults = faults.lock().expect("faults");
    faults.remove(0);
    if !target.ends_with(due) {
        faults.push(format!("{due} was due, {target} came"));
    }
}

fn answer(step: &Step) -> String {
    let head = format!("HTTP/1.1 {} X\r\nContent-Type: application/json\r\nConnection: close\r\n", step.1);
    match &step.2 {
        Body::Whole(value) => {
            let text = value.to_string();
            format!("{head}Content-Length: {}\r\n\r\n{text}", text.len())
        }
        Body::Events(events) => {
            let chunk = |event: &Value| format!("{:x}\r\n{event}\n\r\n", event.to_string().len() + 1);
            let chunks: String = events.iter().map(chunk).collect();
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n")
        }
    }
}

/// The addresses that come next, or the kind of trouble.
async fn next(provider: &mut KubernetesProvider) -> Result<Vec<String>, Kind> {
    let news = provider.next().await.map_err(|trouble| trouble.kind)?;
    Ok(news.members.iter().map(|member| member.address.ip().to_string()).collect())
}

fn at(ips: &[&str]) -> Result<Vec<String>, Kind> {
    Ok(ips.iter().map(|ip| (*ip).to_owned()).collect())
}

#[test]
fn every_field_of_a_slice_is_read_or_ignored() {
    let whole: Slice = serde_json::from_str(SLICE).expect("a slice");
    assert_eq!((&*whole.metadata.name, &*whole.metadata.resource_version), ("nameValue", "resourceVersionValue"));
    let slice: Slice = serde_json::from_value(slice("a", "1", "10.0.0.1")).expect("a slice");
    let members = members([&slice].into_iter(), "nameValue").expect("members");
    let wanted = Member {
        zone: Some("zoneValue".to_owned()),
        metadata: vec![("pod".into(), "nameValue".into()), ("node".into(), "nodeNameValue".into())],
        ..Member::at("10.0.0.1:3".parse().expect("an address"))
    };
    assert_eq!(members, [wanted]);
}

#[tokio::test]
async fn an_expired_watch_is_begun_anew_at_once_and_not_twice_in_a_row() {
    let added = json!({ "type": "ADDED", "object": slice("b", "45", "10.0.0.9") });
    let steps = vec![
        listed("10", "10.0.0.1"),
        watched("10", vec![expired()]),
        listed("30", "10.0.0.2"),
        watched("30", vec![expired()]),
        listed("40", "10.0.0.3"),
        watched("40", vec![bookmark("44"), added, expired()]),
        listed("50", "10.0.0.4"),
    ];
    let (mut provider, faults, _dir) = play(steps).await;
    assert_eq!(next(&mut provider).await, at(&["10.0.0.1"]));
    assert_eq!(next(&mut provider).await, at(&["10.0.0.2"]), "no trouble, and so no pause");
    assert_eq!(next(&mut provider).await, Err(Kind::Expired), "as soon as that: whoever asks waits");
    assert_eq!(next(&mut provider).await, at(&["10.0.0.3"]));
    // What came before the end of the watch is in the list that follows.
    assert_eq!(next(&mut provider).await, at(&["10.0.0.4"]));
    assert!(faults.lock().expect("faults").is_empty(), "{faults:?}");
}

#[tokio::test]
async fn pages_that_expire_on_the_way_are_asked_for_again() {
    let first = || Step("limit=250".to_owned(), 200, list("10", "token+1", vec![slice("a", "9", "10.0.0.1")]));
    let gone = || {
        let message = "The provided continue parameter is too old to display a consistent list result.";
        Step("continue=token%2B1".to_owned(), 410, Body::Whole(status(410, "Expired", message)))
    };
    let second = Step("continue=token%2B1".to_owned(), 200, list("10", "", vec![slice("b", "9", "10.0.0.2")]));
    let (mut provider, faults, _dir) = play(vec![first(), gone(), first(), second]).await;
    assert_eq!(next(&mut provider).await, at(&["10.0.0.1", "10.0.0.2"]));
    let (mut twice, more, _dir) = play(vec![first(), gone(), first(), gone()]).await;
    assert_eq!(next(&mut twice).await, Err(Kind::Expired));
    for faults in [faults, more] {
        assert!(faults.lock().expect("faults").is_empty(), "{faults:?}");
    }
}

#[tokio::test]
async fn refusals_are_told_in_the_servers_words() {
    let forbidden = "endpointslices.discovery.k8s.io is forbidden: User \"u\" cannot list resource \
                     \"endpointslices\" in API group \"discovery.k8s.io\" in the namespace \"shop\"";
    for (code, reason, message) in [(401, "Unauthorized", "Unauthorized"), (403, "Forbidden", forbidden)] {
        let step = Step("limit=250".to_owned(), code, Body::Whole(status(code, reason, message)));
        let (mut provider, faults, _dir) = play(vec![step]).await;
        let trouble = provider.next().await.expect_err("a refusal");
        assert_eq!(trouble.kind, Kind::Failed);
        assert_eq!(trouble.text, format!("answered {code}: {message}"));
        assert!(faults.lock().expect("faults").is_empty(), "{faults:?}");
    }
}
