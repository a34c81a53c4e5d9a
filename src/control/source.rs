//! Where the configuration comes from, and how it becomes a snapshot.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::store::Store;
use super::store::address::Address;
use crate::config::compile::{Inputs, compile, tls_files};
use crate::config::model::Config;
use crate::config::{Again, Loaded, Present, load_file, load_file_after, load_str, load_text_after, unreadable};
use crate::policy::{self, CompileEnv};
use crate::schema::{Diagnostics, ProcessEnv};
use crate::snapshot::Snapshot;
use crate::sys::fetch;

/// The word for no copy of a store's configuration.
pub const NO_CACHE: &str = "none";

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// A file, read again at each reload.
    File(PathBuf),
    /// The program itself; a reload applies it again.
    Embedded(String),
    /// A key-value store, whose last reading counts (R229).
    Store(Arc<Store>),
}

/// A configuration that is ready to be served.
pub struct Ready {
    /// As it was written.
    pub loaded: Loaded,
    /// As it runs.
    pub snapshot: Arc<Snapshot>,
    /// Warnings.
    pub warnings: Diagnostics,
}

impl Ready {
    /// Compiles what was read and checked.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn of(
        loaded: Loaded,
        generation: u64,
        env: CompileEnv,
        previous: Option<&Snapshot>,
    ) -> Result<Self, Box<Diagnostics>> {
        Self::with(loaded, &Inputs { generation, policies: env, resolve: None, previous })
    }

    fn with(loaded: Loaded, inputs: &Inputs<'_>) -> Result<Self, Box<Diagnostics>> {
        let (snapshot, warnings) = compile(&loaded, inputs)?;
        Ok(Self { loaded, snapshot: Arc::new(snapshot), warnings })
    }
}

impl ConfigSource {
    /// What a word stands for: the path of a file, or the address of a store, whose copy is at `cache`.
    ///
    /// # Errors
    /// Why it is no address.
    pub fn of(word: &Path, cache: Option<&Path>) -> Result<Self, String> {
        let Some(address) = word.to_str().and_then(Address::parse) else { return Ok(Self::File(word.to_owned())) };
        let address = address?;
        let copy = match cache {
            Some(path) if path == Path::new(NO_CACHE) => None,
            Some(path) => Some(path.to_owned()),
            None => Some(Store::default_copy(&address)),
        };
        Ok(Self::Store(Store::new(address, copy)))
    }

    /// The store, if it is one.
    pub fn store(&self) -> Option<&Arc<Store>> {
        match self {
            Self::Store(store) => Some(store),
            Self::File(_) | Self::Embedded(_) => None,
        }
    }

    /// Asks a store, for somebody who runs nothing.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn ask(&self) -> std::io::Result<()> {
        if let Some(store) = self.store() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(store.look());
            // A file that hangs holds nobody up.
            runtime.shutdown_background();
        }
        Ok(())
    }

    /// Reads and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Box<Diagnostics>> {
        match self {
            Self::File(path) => load_file(path, &ProcessEnv, policy::SCHEMA),
            Self::Embedded(text) => load_str("(embedded)", text, &ProcessEnv, policy::SCHEMA),
            Self::Store(store) => match store.text() {
                Ok(text) => load_str(store.name(), &text, &ProcessEnv, policy::SCHEMA),
                Err(why) => {
                    Err(unreadable(store.name().to_owned(), format!("the configuration cannot be read: {why}")))
                }
            },
        }
    }

    /// The same behind what serves, if something of that can be used again.
    fn load_again(&self, previous: Option<&Snapshot>) -> Option<Again> {
        let kept = Present::in_snapshot(previous?)?.kept.as_deref()?;
        match self {
            Self::File(path) => load_file_after(kept, path, &ProcessEnv, policy::SCHEMA),
            Self::Embedded(_) => None,
            Self::Store(store) => {
                let (name, text) = (store.name().to_owned(), store.text().ok()?.to_string());
                load_text_after(kept, name, text, &ProcessEnv, policy::SCHEMA)
            }
        }
    }

    /// Reads, checks and compiles it. None where it says, and means, what serves already.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn compile(
        &self,
        generation: u64,
        env: CompileEnv,
        previous: Option<&Snapshot>,
    ) -> Result<Option<Ready>, Box<Diagnostics>> {
        let inputs = Inputs { generation, policies: env, resolve: None, previous };
        if let Some(previous) = previous {
            expect(previous);
        }
        // What has not changed is not made anew. Where there is anything to report, the places are to be those of this
        // file, and so all of it is read again.
        let again = match self.load_again(previous) {
            Some(Again::Unchanged) => return Ok(None),
            Some(Again::Loaded(loaded)) => Ready::with(*loaded, &inputs).ok(),
            None => None,
        };
        match again.filter(|ready| ready.warnings.is_empty()) {
            Some(ready) => Ok(Some(ready)),
            None => Ready::with(self.load()?, &inputs).map(Some),
        }
    }

    /// Reads, checks and compiles it for somebody who wants to know what it would do: its names are looked up once, by
    /// the system.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn examine(&self, env: CompileEnv) -> Result<Ready, Box<Diagnostics>> {
        Ready::with(self.load()?, &Inputs { generation: 1, policies: env, resolve: Some(resolve), previous: None })
    }

    /// The files to watch, if the configuration asks for it: its own, and what listeners' TLS is made from. A store is
    /// followed in any case.
    pub fn watched(&self, config: &Config) -> Option<Vec<PathBuf>> {
        let mut paths = match self {
            Self::File(path) => vec![path.clone()],
            Self::Store(_) => Vec::new(),
            Self::Embedded(_) => return None,
        };
        paths.extend(tls_files(config));
        (config.reload.watch && !paths.is_empty()).then_some(paths)
    }
}

/// Asks for all of a snapshot that the next one is going to share, or that goes with it.
pub(super) fn expect(snapshot: &Snapshot) {
    fetch::counts(snapshot.services.iter());
    if let Some(present) = Present::in_snapshot(snapshot) {
        fetch::counts(present.config.services.iter().map(|item| &item.value));
        fetch::counts(present.config.routes.iter().map(|item| &item.value));
        fetch::counts(present.kept.iter().flat_map(|kept| kept.items()));
    }
}

#[allow(clippy::disallowed_methods, reason = "a command that runs nothing may wait for a name")]
fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    (host, port).to_socket_addrs().ok()?.next()
}
