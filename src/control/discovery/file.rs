//! A file with a list of endpoints, taken up when it changes.
//!
//! ```yaml
//! - 10.0.0.1:8080
//! - {address: "10.0.0.2:8080", weight: 3, zone: eu-1b, metadata: {version: v2}}
//! ```

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::dns::Names;
use super::provider::{Lookout, Member, News, Provider, Trouble};
use crate::config::model::EndpointConfig;
use crate::control::watch::FileWatch;
use crate::limits::{DISCOVERED_MAX, DISCOVERY_ANSWER_MS, DISCOVERY_READS_MAX};
use crate::schema::{SOURCE_BYTES_MAX, decode_str};
use crate::snapshot::Family;

/// A watched file.
pub struct FileProvider {
    path: PathBuf,
    names: Arc<Names>,
    /// None before the first look and after trouble: then the file is read whatever it was.
    watch: Option<FileWatch>,
    /// When the names in it are to be asked for again.
    holds: Duration,
}

/// Reads under way.
static READS: Semaphore = Semaphore::const_new(DISCOVERY_READS_MAX);

/// Nothing in the file has to be asked for again.
const FOREVER: Duration = Duration::from_secs(366 * 24 * 3600);

impl FileProvider {
    /// The list in this file.
    pub fn new(path: &str, names: Arc<Names>) -> Self {
        Self { path: path.into(), names, watch: None, holds: FOREVER }
    }

    async fn look(&mut self) -> Result<News, Trouble> {
        match &mut self.watch {
            Some(watch) => {
                tokio::select! {
                    () = watch.changed() => {},
                    () = tokio::time::sleep(self.holds) => {},
                }
            }
            // What changes after this moment is seen.
            None => self.watch = Some(FileWatch::new(vec![self.path.clone()])),
        }
        let outcome = self.read().await;
        if outcome.is_err() {
            self.watch = None;
        }
        outcome
    }

    async fn read(&mut self) -> Result<News, Trouble> {
        let (path, allowed) = (self.path.clone(), Duration::from_millis(DISCOVERY_ANSWER_MS));
        let listed = timeout(allowed, read_beside(path)).await;
        let listed =
            listed.map_err(|_| Trouble::failed(format!("{} cannot be read in time", self.path.display())))??;
        let mut members = Vec::new();
        self.holds = FOREVER;
        for one in &listed {
            let found = self.names.addresses(&one.address.host, Family::Auto).await?;
            if one.address.socket_addr().is_none() {
                self.holds = self.holds.min(found.holds);
            }
            members.extend(found.all.into_iter().map(|ip| member(one, SocketAddr::new(ip, one.address.port))));
        }
        members.truncate(DISCOVERED_MAX);
        Ok(News { members, holds: Duration::ZERO })
    }
}

impl Provider for FileProvider {
    fn next(&mut self) -> Lookout<'_> {
        Box::pin(self.look())
    }
}

fn member(one: &EndpointConfig, address: SocketAddr) -> Member {
    use crate::schema::types::ScalarType;
    Member {
        address,
        host: if one.address.socket_addr().is_some() { String::new() } else { one.address.show() },
        weight: Some(one.weight.get() as u32),
        priority: Some(one.priority.get() as u32),
        zone: one.zone.clone(),
        metadata: one.metadata.iter().map(|(key, value)| (key.value.clone(), value.clone())).collect(),
    }
}

/// Reads on a thread of its own. Thousands of lists are no reason for hundreds of threads, nor are those of a file
/// system that hangs: a place is free again when the thread is.
async fn read_beside(path: PathBuf) -> Result<Vec<EndpointConfig>, Trouble> {
    let place = READS.acquire().await.map_err(Trouble::failed)?;
    let listed = tokio::task::spawn_blocking(move || {
        let _place = place;
        read(&path)
    });
    listed.await.map_err(|_| Trouble::failed("the list cannot be read"))?
}

fn read(path: &Path) -> Result<Vec<EndpointConfig>, Trouble> {
    let shown = path.display();
    let metadata = std::fs::metadata(path).map_err(|error| Trouble::failed(format!("{shown}: {error}")))?;
    // Opening a FIFO would wait for ever.
    if !metadata.is_file() || metadata.len() > SOURCE_BYTES_MAX as u64 {
        return Err(Trouble::failed(format!("{shown} is no file of at most {SOURCE_BYTES_MAX} bytes")));
    }
    let text = std::fs::read_to_string(path).map_err(|error| Trouble::failed(format!("{shown}: {error}")))?;
    parse(&shown.to_string(), &text).map_err(Trouble::failed)
}

/// The endpoints of a list. An empty file is taken for one that is being written.
fn parse(name: &str, text: &str) -> Result<Vec<EndpointConfig>, String> {
    let list: Vec<EndpointConfig> = decode_str(text).map_err(|what| format!("{name}: {what}"))?;
    match list.len() {
        ..=DISCOVERED_MAX => Ok(list),
        count => Err(format!("{name}: {count} endpoints are more than {DISCOVERED_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Arc<Names> {
        Names::new(&crate::snapshot::Dns { servers: vec![([127, 0, 0, 1], 9).into()], ..Default::default() })
    }

    #[test]
    fn lists_are_read_like_those_of_the_configuration() {
        let list =
            parse("x", "- 10.0.0.1:80\n- {address: \"10.0.0.2:80\", weight: 3, zone: b, metadata: {v: \"2\"}}\n");
        let list = list.expect("a list");
        let members: Vec<_> = list.iter().map(|one| member(one, one.address.socket_addr().expect("address"))).collect();
        assert_eq!((members[0].weight, &members[0].zone), (Some(1), &None));
        assert_eq!((members[1].weight, members[1].zone.as_deref()), (Some(3), Some("b")));
        assert_eq!(members[1].metadata, [("v".to_owned(), "2".to_owned())]);
        let json = parse("x", r#"[{"address": "10.0.0.1:80", "weight": 2}]"#).expect("JSON");
        assert_eq!(json[0].weight.get(), 2);
        assert!(parse("x", "[]").expect("no endpoint").is_empty());
        for wrong in ["", "a: 1", "- {adress: \"a:1\"}", "- 10.0.0.1", "- {address: \"a:1\", weight: 0}", "[1"] {
            let error = parse("lists/a.yaml", wrong).map(|list| list.len()).expect_err(wrong);
            assert!(error.starts_with("lists/a.yaml: "), "{error}");
        }
        let long = "- 10.0.0.1:80\n".repeat(DISCOVERED_MAX + 1);
        assert!(parse("x", &long).is_err());
    }

    #[tokio::test]
    async fn a_list_is_told_again_when_it_was_replaced_and_not_when_it_is_broken() {
        let dir = tempfile::tempdir().expect("directory");
        let (path, next) = (dir.path().join("a.yaml"), dir.path().join("b.yaml"));
        let put = |text: &str| {
            std::fs::write(&next, text).expect("written");
            std::fs::rename(&next, &path).expect("renamed");
        };
        let mut provider = FileProvider::new(&path.display().to_string(), names());
        assert!(provider.next().await.is_err(), "no file yet");
        put("- 10.0.0.1:80\n");
        let count = |news: Result<News, Trouble>| news.map(|news| news.members.len()).map_err(|trouble| trouble.text);
        assert_eq!(count(provider.next().await), Ok(1));
        put("- 10.0.0.1:80\n- 10.0.0.2:80\n");
        assert_eq!(count(provider.next().await), Ok(2));
        put("- nonsense\n");
        assert!(count(provider.next().await).is_err());
        put("- 10.0.0.3:80\n");
        assert_eq!(count(provider.next().await), Ok(1));
    }
}
