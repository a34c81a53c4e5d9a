//! Where the configuration comes from, and how it becomes a snapshot.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::compile::{Inputs, compile, tls_files};
use crate::config::model::Config;
use crate::config::{Again, Loaded, Present, load_file, load_file_after, load_str};
use crate::policy::{self, CompileEnv};
use crate::schema::{Diagnostics, ProcessEnv};
use crate::snapshot::Snapshot;

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum ConfigSource {
    /// A file, read again at each reload.
    File(PathBuf),
    /// The program itself; a reload applies it again.
    Embedded(String),
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
    /// Reads and checks it.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn load(&self) -> Result<Loaded, Box<Diagnostics>> {
        match self {
            Self::File(path) => load_file(path, &ProcessEnv, policy::SCHEMA),
            Self::Embedded(text) => load_str("(embedded)", text, &ProcessEnv, policy::SCHEMA),
        }
    }

    /// The same behind what serves, if it is a file of which something can be used again.
    fn load_again(&self, previous: Option<&Snapshot>) -> Option<Again> {
        let kept = Present::in_snapshot(previous?)?.kept.as_deref()?;
        load_file_after(kept, &self.path()?, &ProcessEnv, policy::SCHEMA)
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

    /// The files to watch, if the configuration asks for it: its own, and what listeners' TLS is made from.
    pub fn watched(&self, config: &Config) -> Option<Vec<PathBuf>> {
        let mut paths = vec![self.path().filter(|_| config.reload.watch)?];
        paths.extend(tls_files(config));
        Some(paths)
    }

    /// The file, if there is one.
    pub fn path(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Embedded(_) => None,
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "a command that runs nothing may wait for a name")]
fn resolve(host: &str, port: u16) -> Option<SocketAddr> {
    (host, port).to_socket_addrs().ok()?.next()
}
