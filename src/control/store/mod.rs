//! The configuration in a key-value store: Consul's or etcd's (R229).
//!
//! One task on the control thread follows the key and keeps what it read last; a change rings, and is checked and taken
//! up as a changed file is. A store that cannot be reached changes nothing: what serves goes on, and a start takes the
//! copy of the last good configuration (`copy`). Another store is a client with two methods ([`KeyValue`]), a word in
//! [`address`], and an arm in `Store::client`.

pub mod address;
mod consul;
mod copy;
mod etcd;
mod link;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use self::address::{Address, Kind};
use self::consul::ConsulKey;
use self::etcd::EtcdKey;
use super::discovery::dns::Names;
use super::discovery::provider::{Patience, Trouble};
use crate::limits::{
    STORE_BACK_OFF_MS, STORE_BACK_OFF_MS_MAX, STORE_PAUSE_MS, STORE_READ_MS, STORE_START_MS, STORE_START_PAUSE_MS,
    STORE_WAIT_S,
};
use crate::random;
use crate::schema::{SOURCE_BYTES_MAX, Source};
use crate::snapshot::Dns;
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::StoreFacts;

/// Answers in a row that come at once and bring nothing new; those behind them are taken more slowly.
const QUICK_ANSWERS_MAX: u32 = 3;

const NO_ANSWER: &str = "no answer in time";

/// What a store says of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// Its value.
    Value(Vec<u8>),
    /// There is no such key.
    Missing,
    /// More than a configuration may have.
    TooLarge,
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// What there is now.
    pub found: Found,
    /// How long it holds; the store is asked again then.
    pub holds: Duration,
}

/// What [`KeyValue::next`] gives.
pub type Look<'a> = Pin<Box<dyn Future<Output = Result<News, Trouble>> + Send + 'a>>;

/// A client of a store, for one key. It must bound what it reads and how long it waits.
pub trait KeyValue: Send {
    /// What there is now: at the first call and after [`KeyValue::lose`] at once, else when it may have changed.
    fn next(&mut self) -> Look<'_>;
    /// It did not work: begins anew, with the next server.
    fn lose(&mut self);
}

/// What was read last: the text, or why there is none that could serve.
type Reading = Result<Arc<str>, String>;

/// A configuration in a store.
pub struct Store {
    address: Arc<Address>,
    /// Where the copy is; None for nowhere.
    copy: Option<PathBuf>,
    names: OnceLock<Arc<Names>>,
    state: Mutex<State>,
    /// Rings when another text was read.
    changed: Notify,
    /// The follower is to begin anew.
    anew: Notify,
    /// What is to be written to the copy.
    unwritten: Mutex<Option<Arc<Source>>>,
    /// One writes at a time.
    writing: Mutex<()>,
}

struct State {
    reading: Option<Reading>,
    /// Why the store cannot be read, where it cannot.
    trouble: Option<String>,
    /// It comes from the copy.
    is_copy: bool,
    failures: u64,
    /// When the store answered last.
    answered: Instant,
}

impl Store {
    /// Nothing is asked yet. `copy` is where the last good configuration is kept; None for nowhere.
    pub fn new(address: Address, copy: Option<PathBuf>) -> Arc<Self> {
        let state = State { reading: None, trouble: None, is_copy: false, failures: 0, answered: Instant::now() };
        Arc::new(Self {
            address: Arc::new(address),
            copy,
            names: OnceLock::new(),
            state: Mutex::new(state),
            changed: Notify::new(),
            anew: Notify::new(),
            unwritten: Mutex::default(),
            writing: Mutex::default(),
        })
    }

    /// Where a copy is kept that nobody said a place for.
    pub fn default_copy(address: &Address) -> PathBuf {
        let directory = std::env::var("STATE_DIRECTORY").ok();
        let fingerprint = address.text.bytes().fold(0, |hash, byte| random::mix(hash ^ u64::from(byte)));
        copy::default_path(directory.as_deref(), fingerprint)
    }

    /// How messages call it.
    pub fn name(&self) -> &str {
        &self.address.text
    }

    /// What was read last.
    ///
    /// # Errors
    /// Why it is nothing that could serve.
    pub fn text(&self) -> Result<Arc<str>, String> {
        self.state().reading.clone().unwrap_or_else(|| Err("the store was not asked yet".to_owned()))
    }

    /// Reads it for a start, within [`STORE_START_MS`]; the copy where that is in vain.
    ///
    /// # Errors
    /// Why there is neither.
    pub async fn begin(&self) -> Result<(), String> {
        let due = Instant::now() + Duration::from_millis(STORE_START_MS);
        let copied = self.read_copy().await;
        let mut said: Option<String> = None;
        loop {
            let trouble = match self.fetch(due.saturating_duration_since(Instant::now())).await {
                Ok(found) => {
                    self.take(reading_of(found));
                    return Ok(());
                }
                // That the time is over says less than what was said before.
                Err(trouble) if trouble.text == NO_ANSWER => said.take().unwrap_or(trouble.text),
                Err(trouble) => trouble.text,
            };
            match &copied {
                Ok(text) => {
                    let mut state = self.state();
                    state.reading = Some(Ok(text.as_str().into()));
                    (state.trouble, state.is_copy, state.failures) = (Some(trouble), true, 1);
                    return Ok(());
                }
                Err(why) if Instant::now() + Duration::from_millis(STORE_START_PAUSE_MS) >= due => {
                    return Err(format!("the configuration cannot be read from {}: {trouble}; {why}", self.name()));
                }
                // Both may be starting at this moment.
                Err(_) => {
                    said = Some(trouble);
                    sleep(Duration::from_millis(STORE_START_PAUSE_MS)).await;
                }
            }
        }
    }

    /// Says in the log that a start took the copy, if it did.
    pub fn tell_start(&self) {
        let state = self.state();
        if let (true, Some(trouble)) = (state.is_copy, &state.trouble) {
            log::error(
                "the configuration store cannot be read, this start takes the copy of the last good configuration",
                &[("source", &self.name()), ("copy", &self.shown_copy()), ("error", trouble)],
            );
        }
    }

    /// Reads it once, for somebody who runs nothing.
    pub async fn look(&self) {
        let found = self.fetch(Duration::from_millis(STORE_READ_MS)).await;
        self.state().reading = Some(found.map_or_else(|trouble| Err(trouble.text), reading_of));
    }

    /// Reads it anew for a reload, within [`STORE_READ_MS`]. Whatever comes of it is the last reading.
    pub async fn read(&self) {
        match self.fetch(Duration::from_millis(STORE_READ_MS)).await {
            Ok(found) => {
                self.take(reading_of(found));
            }
            Err(trouble) => {
                self.lost(&trouble);
                self.state().reading = Some(Err(trouble.text));
                // So that it is read as soon as that works again, whatever the follower waits for.
                self.anew.notify_one();
            }
        }
    }

    /// Rings when another text was read than before. Safe to drop and call again.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// This configuration serves: keeps it, and follows the key until the guard is dropped. Must run on the control
    /// thread's runtime.
    pub fn serve(self: &Arc<Self>, source: &Arc<Source>, seed: u64) -> Follower {
        self.keep(source.clone());
        let store = self.clone();
        Follower(tokio::spawn(async move { store.run(seed).await }).abort_handle())
    }

    /// Keeps a configuration that serves as the copy, in its own time.
    pub fn keep(self: &Arc<Self>, source: Arc<Source>) {
        let Some(path) = self.copy.clone() else { return };
        *self.unwritten.lock().unwrap_or_else(PoisonError::into_inner) = Some(source);
        let store = self.clone();
        drop(tokio::task::spawn_blocking(move || {
            let _one = store.writing.lock().unwrap_or_else(PoisonError::into_inner);
            // Another one may have written a newer one meanwhile.
            let Some(source) = store.unwritten.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
            if let Err(error) = copy::write(&path, store.name(), &source.text) {
                log::error(
                    "the configuration cannot be kept: a start without its store would fail (--config-cache)",
                    &[("copy", &path.display()), ("error", &error)],
                );
            }
        }));
    }

    /// For operators.
    pub fn json(&self) -> Value {
        let state = self.state();
        json!({
            "source": self.name(), "reachable": state.trouble.is_none(), "error": state.trouble,
            "from_copy": state.is_copy, "copy": self.copy,
        })
    }

    /// Whether it can be read, in words.
    pub fn check(&self) -> (bool, String) {
        let state = self.state();
        match &state.trouble {
            None => (true, format!("{} is followed", self.name())),
            Some(trouble) if state.is_copy => (false, format!("{trouble}; a copy serves")),
            Some(trouble) => (false, format!("{trouble}; the last configuration serves")),
        }
    }

    /// For metrics.
    pub fn facts(&self) -> StoreFacts {
        let state = self.state();
        let is_up = state.trouble.is_none();
        let stale_s = if is_up { 0 } else { state.answered.elapsed().as_secs() };
        StoreFacts { is_up, is_copy: state.is_copy, failures: state.failures, stale_s }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shown_copy(&self) -> String {
        self.copy.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    }

    async fn read_copy(&self) -> Result<String, String> {
        let Some(path) = self.copy.clone() else { return Err("no copy is kept".to_owned()) };
        let source = self.name().to_owned();
        let read = tokio::task::spawn_blocking(move || copy::read(&path, &source)).await;
        read.unwrap_or_else(|_| Err("the copy cannot be read".to_owned()))
    }

    fn client(&self) -> Box<dyn KeyValue> {
        let names = self.names.get_or_init(|| Names::new(&Dns::default())).clone();
        match self.address.kind {
            Kind::Consul => Box::new(ConsulKey::new(self.address.clone(), names)),
            Kind::Etcd => Box::new(EtcdKey::new(self.address.clone(), names)),
        }
    }

    /// Asks each server once, until one answers, and all of them within `wait`.
    async fn fetch(&self, wait: Duration) -> Result<Found, Trouble> {
        let mut client = self.client();
        let count = self.address.servers.len();
        let mut last = Trouble::failed("no server");
        for _ in 0..count {
            match timeout(wait / count as u32, client.next()).await {
                Ok(Ok(news)) => return Ok(news.found),
                Ok(Err(trouble)) => last = trouble,
                Err(_) => last = Trouble::failed(NO_ANSWER),
            }
            client.lose();
        }
        Err(last)
    }

    async fn run(&self, mut seed: u64) {
        let patience = Patience { error_ms: STORE_BACK_OFF_MS, error_ms_max: STORE_BACK_OFF_MS_MAX, stale_ms: None };
        let servers = self.address.servers.len() as u32;
        let mut client = self.client();
        let (mut failures, mut in_vain) = (0_u32, 0_u32);
        loop {
            let asked = Instant::now();
            let outcome = tokio::select! {
                outcome = client.next() => Some(outcome),
                () = self.anew.notified() => None,
            };
            let pause = match outcome {
                Some(Ok(news)) => {
                    failures = 0;
                    let is_changed = self.take(reading_of(news.found));
                    if is_changed {
                        self.changed.notify_one();
                    }
                    // Nothing new, and at once: where that goes on, somebody on the way does not wait for changes.
                    let is_quick = asked.elapsed() < Duration::from_secs(STORE_WAIT_S / 2);
                    in_vain = if is_changed || !is_quick { 0 } else { in_vain.saturating_add(1) };
                    let pause_ms = if in_vain > QUICK_ANSWERS_MAX { STORE_BACK_OFF_MS } else { STORE_PAUSE_MS };
                    news.holds.max(Duration::from_millis(pause_ms))
                }
                Some(Err(trouble)) => {
                    client.lose();
                    failures = failures.saturating_add(1);
                    match failures % servers {
                        // All of them have failed.
                        0 => {
                            self.lost(&trouble);
                            patience.pause(&trouble, failures / servers, random::next(&mut seed))
                        }
                        _ => Duration::from_millis(STORE_PAUSE_MS),
                    }
                }
                None => {
                    client.lose();
                    Duration::ZERO
                }
            };
            let due = Instant::now() + pause;
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.anew.notified() => client.lose(),
            }
        }
    }

    /// Takes what was read. Returns whether it is something else than before.
    fn take(&self, reading: Reading) -> bool {
        let mut state = self.state();
        let was = state.trouble.take();
        (state.answered, state.is_copy) = (Instant::now(), false);
        let is_changed = state.reading.as_ref() != Some(&reading);
        state.reading = Some(reading);
        drop(state);
        if was.is_some() {
            log::info("the configuration store can be read again", &[("source", &self.name())]);
        }
        is_changed
    }

    /// Takes note that the store cannot be read: what serves goes on. Said when it begins, and not each time.
    fn lost(&self, trouble: &Trouble) {
        let mut state = self.state();
        state.failures += 1;
        let was = state.trouble.replace(trouble.text.clone());
        drop(state);
        if was.is_none() {
            log::warn(
                "the configuration store cannot be read, the last configuration serves on",
                &[("source", &self.name()), ("error", &trouble.text)],
            );
        }
    }
}

/// What of an answer could serve.
fn reading_of(found: Found) -> Reading {
    let too_large = || format!("the value is larger than {SOURCE_BYTES_MAX} bytes");
    match found {
        Found::Missing => Err("the key is not there (an etcd key that begins with a slash is written with two: \
                               etcd://HOST//KEY)"
            .to_owned()),
        Found::TooLarge => Err(too_large()),
        Found::Value(bytes) if bytes.len() > SOURCE_BYTES_MAX => Err(too_large()),
        Found::Value(bytes) if bytes.is_empty() => Err("the value is empty".to_owned()),
        Found::Value(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Ok(text.into()),
            Err(error) => Err(format!("byte {} of the value is not UTF-8", error.utf8_error().valid_up_to())),
        },
    }
}

/// Follows a key for as long as it lives.
#[derive(Debug)]
pub struct Follower(AbortHandle);

impl Drop for Follower {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("source", &self.name()).field("copy", &self.copy).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(copy: Option<PathBuf>) -> Arc<Store> {
        // Nobody listens on port 1.
        Store::new(Address::parse("consul://127.0.0.1:1/k").expect("an address").expect("a good one"), copy)
    }

    #[test]
    fn what_cannot_serve_is_told_from_what_can() {
        assert_eq!(reading_of(Found::Value(b"a: 1".to_vec())), Ok("a: 1".into()));
        for (found, told) in [
            (Found::Missing, "not there"),
            (Found::TooLarge, "larger than"),
            (Found::Value(vec![b' '; SOURCE_BYTES_MAX + 1]), "larger than"),
            (Found::Value(Vec::new()), "empty"),
            (Found::Value(b"ab\xff".to_vec()), "byte 2"),
        ] {
            assert!(reading_of(found).is_err_and(|error| error.contains(told)), "{told}");
        }
    }

    #[test]
    fn a_change_is_told_once_and_trouble_is_none() {
        let store = store(None);
        assert!(store.text().is_err());
        assert!(store.take(Ok("a".into())) && !store.take(Ok("a".into())) && store.take(Ok("b".into())));
        store.lost(&Trouble::failed("gone"));
        store.lost(&Trouble::failed("gone"));
        assert_eq!(store.text(), Ok("b".into()));
        let facts = store.facts();
        assert_eq!((facts.is_up, facts.failures), (false, 2));
        assert!(!store.take(Ok("b".into())), "what it was before");
        assert!(store.facts().is_up);
        assert!(store.take(Err("the key is not there".into())) && store.take(Ok("b".into())));
    }

    #[tokio::test]
    async fn without_the_store_a_start_takes_the_copy_and_a_reload_fails() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("one.copy");
        copy::write(&path, "consul://127.0.0.1:1/k", "a: 1").expect("written");
        let store = store(Some(path));
        store.begin().await.expect("a copy");
        assert_eq!(store.text(), Ok("a: 1".into()));
        assert_eq!((store.json()["from_copy"].clone(), store.json()["reachable"].clone()), (true.into(), false.into()));
        store.read().await;
        assert!(store.text().is_err_and(|error| error.contains("127.0.0.1:1")));
    }
}
