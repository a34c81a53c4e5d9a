//! What the endpoints of a service come from, as plain data: the control thread looks it up, workers never do.

use std::net::SocketAddr;

use super::Endpoint;

/// One part of what a service's endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The endpoint itself; or, where it is looked up, what all that are found have in common.
    pub endpoint: Endpoint,
    /// What is looked up; None for an address.
    pub lookup: Option<Lookup>,
}

/// Something that knows endpoints, and changes its mind. Equal ones are looked up once, whoever asks.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lookup {
    /// The addresses of a name.
    Name {
        /// The name.
        name: String,
        /// The port of all.
        port: u16,
        /// Which addresses.
        family: Family,
    },
    /// The SRV records of a name: targets with ports, weights and priorities.
    Srv {
        /// The name, as `_http._tcp.example.com`.
        name: String,
        /// Which addresses of the targets.
        family: Family,
    },
    /// A file with a list.
    File {
        /// Where it is.
        path: String,
    },
    /// The instances of a service in a Consul catalogue.
    Consul {
        /// Its name there.
        service: String,
        /// Only instances with all of these tags.
        tags: Vec<String>,
        /// The datacentre; empty for the agent's own.
        datacenter: String,
        /// The namespace; empty for the default one.
        namespace: String,
        /// Leave out instances whose checks warn; those whose checks fail always are.
        passing_only: bool,
    },
    /// The EndpointSlices of a Kubernetes service.
    Kubernetes {
        /// Its name.
        service: String,
        /// Its namespace; empty for the gateway's own.
        namespace: String,
        /// The name or number of the port; empty where there is only one.
        port: String,
    },
}

impl Lookup {
    /// Which kind of provider looks it up.
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Name { .. } => "name",
            Self::Srv { .. } => "srv",
            Self::File { .. } => "file",
            Self::Consul { .. } => "consul",
            Self::Kubernetes { .. } => "kubernetes",
        }
    }

    /// What is looked up, for people.
    pub fn text(&self) -> String {
        match self {
            Self::Name { name, port, .. } => format!("{name}:{port}"),
            Self::Srv { name, .. } => name.clone(),
            Self::File { path } => path.clone(),
            Self::Consul { service, .. } => service.clone(),
            Self::Kubernetes { service, namespace, .. } if namespace.is_empty() => service.clone(),
            Self::Kubernetes { service, namespace, .. } => format!("{namespace}/{service}"),
        }
    }
}

/// Which addresses of a name are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Those of IPv4; where there are none, those of IPv6.
    #[default]
    Auto,
    /// Those of IPv4.
    V4,
    /// Those of IPv6.
    V6,
    /// All.
    Both,
}

/// Where lookups go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Discovery {
    /// Name servers.
    pub dns: Dns,
    /// The Consul agent.
    pub consul: Consul,
    /// The Kubernetes API.
    pub kubernetes: Kubernetes,
    /// How long a start or a reload waits for the first answers, in milliseconds.
    pub wait_ms: u64,
}

/// How names are resolved.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dns {
    /// Name servers; none for those of the system.
    pub servers: Vec<SocketAddr>,
    /// For one question to one server, in milliseconds.
    pub timeout_ms: u64,
    /// Questions before a lookup has failed.
    pub attempts: usize,
    /// How long the last answer is used when no other comes, in milliseconds.
    pub stale_ms: u64,
    /// Before a missing name is asked for again, in milliseconds.
    pub negative_ms: u64,
    /// Before a name that could not be looked up is asked for again, in milliseconds; doubled each time up to
    /// `negative_ms`.
    pub error_ms: u64,
    /// Shortest time between two questions for a name, in milliseconds, whatever its time to live says.
    pub ttl_ms_min: u64,
    /// Longest time.
    pub ttl_ms_max: u64,
}

/// Where Consul is.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Consul {
    /// `http://host:port`; empty when there is none.
    pub address: String,
    /// Its token; empty for none.
    pub token: String,
    /// PEM file with the authorities that its certificate may come from; empty for those of the system.
    pub ca_file: String,
    /// `default`, `stale` or `consistent`.
    pub consistency: String,
    /// How long a blocking query waits, in seconds.
    pub wait_seconds: u64,
}

impl std::fmt::Debug for Consul {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consul").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Where the Kubernetes API is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kubernetes {
    /// A kubeconfig file; empty for what a pod finds in itself.
    pub kubeconfig: String,
    /// Its context; empty for the current one.
    pub context: String,
}
