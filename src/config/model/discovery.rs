//! `discovery`, and `services[].discovery`.

use crate::schema::types::{Duration, Endpoint, Fault, Int, ScalarType, Secret, ServiceUrl};
use crate::schema::{Cx, Node, TypeDoc, codes};
use crate::{config_enum, config_scalar, config_struct};

config_struct! {
    /// Where endpoints are looked up, for all services.
    pub struct Discovery {
        /// How long a start or a reload waits for the first answers. Then it goes on without those that are missing;
        /// they are taken up when they come (F30).
        wait: Duration<0> = "500ms",
        /// How names are resolved: those of `endpoints`, `dns` and `srv`.
        dns: Dns = "{}",
        /// Where the Consul agent is. A bare URL means `{address: …}`.
        consul: Consul = "{}",
        /// Where the Kubernetes API is.
        kubernetes: Kubernetes = "{}",
    }
}

config_struct! {
    /// How names are resolved. A changed answer is used when the time to live of the one before has passed (F32).
    pub struct Dns {
        /// Name servers, as `10.0.0.2:53`; those of `/etc/resolv.conf` when left out. `/etc/hosts` comes first.
        servers: Vec<NameServer> = "[]",
        /// For one question to one server.
        timeout: Duration = "2s",
        /// Questions before a lookup has failed.
        attempts: Int<1, 10> = "2",
        /// How long the last answer is used when the name servers give no other: they are dead, or say that the name
        /// is not there (F31).
        stale: Duration<0> = "1h",
        /// Before a name that is not there is asked for again.
        negative: Duration<100> = "30s",
        /// Before a lookup that failed is tried again; doubled each time, up to `negative`.
        error: Duration<100> = "1s",
        /// Shortest time before a name is asked for again, whatever its time to live says.
        ttl_min: Duration<100> = "1s",
        /// Longest time before a name is asked for again.
        ttl_max: Duration<1000> = "1h",
    }
}

config_struct! {
    /// A Consul agent.
    #[shorthand(address)]
    pub struct Consul {
        /// Its HTTP API.
        address: ServiceUrl = "http://127.0.0.1:8500",
        /// Its token, for a catalogue with access rules.
        token: Option<Secret>,
        /// File with the authorities that its certificate may come from (PEM); those of the system when left out.
        ca_file: Option<String>,
        /// Which servers may answer.
        consistency: Consistency = "default",
        /// How long a question waits for a change.
        wait: Duration<1000> = "60s",
    }
}

config_enum! {
    /// Which Consul servers may answer.
    pub enum Consistency {
        /// The leader, by its lease.
        Default = "default",
        /// Any server: answers go on without a leader, and may be old.
        Stale = "stale",
        /// The leader, once it has asked the others.
        Consistent = "consistent",
    }
}

config_struct! {
    /// The Kubernetes API.
    pub struct Kubernetes {
        /// A kubeconfig file. When left out, what a pod finds in itself: its service account and the variables
        /// `KUBERNETES_SERVICE_HOST` and `KUBERNETES_SERVICE_PORT`.
        kubeconfig: Option<String>,
        /// The context of the kubeconfig; its current one when left out.
        context: Option<String>,
    }
}

config_struct! {
    /// One place that knows endpoints of a service: exactly one of `dns`, `srv`, `file`, `consul`, `kubernetes`.
    #[check(check_one)]
    pub struct Discover {
        /// All addresses of a name. A bare `host:port` means `{address: …}`.
        dns: Option<DnsQuery>,
        /// The SRV records of a name: targets with ports, weights and priorities. A bare name means `{name: …}`.
        srv: Option<SrvQuery>,
        /// A file with a list of endpoints, in YAML or JSON. It is watched. A bare path means `{path: …}`.
        file: Option<FileQuery>,
        /// The instances of a service in Consul (R225). A bare name means `{service: …}`.
        consul: Option<ConsulQuery>,
        /// The EndpointSlices of a Kubernetes service (R227, C56). A bare name means `{service: …}`.
        kubernetes: Option<KubernetesQuery>,
        /// The share of those that bring no weight of their own.
        weight: Int<1, 65535> = "1",
        /// The tier of those that bring none of their own.
        priority: Int<0, 15> = "0",
        /// The zone of those that bring none of their own.
        zone: Option<String>,
    }
}

fn check_one(discover: &Discover, node: &Node, cx: &mut Cx) {
    let given = [
        discover.dns.is_some(),
        discover.srv.is_some(),
        discover.file.is_some(),
        discover.consul.is_some(),
        discover.kubernetes.is_some(),
    ];
    if given.into_iter().filter(|given| *given).count() != 1 {
        cx.report(
            codes::CONTRADICTION,
            node.span,
            "this needs exactly one of `dns`, `srv`, `file`, `consul`, `kubernetes`",
        )
        .hint("write one entry for each: [{dns: \"a:80\"}, {file: ./b.yaml}]");
    }
}

config_struct! {
    /// All addresses of a name.
    #[shorthand(address)]
    pub struct DnsQuery {
        /// The name and the port of all.
        address: Endpoint,
        /// Which addresses.
        family: Family = "auto",
    }
}

config_struct! {
    /// The SRV records of a name.
    #[shorthand(name)]
    pub struct SrvQuery {
        /// The name, as `_http._tcp.users.example.com`.
        name: DnsName,
        /// Which addresses of the targets.
        family: Family = "auto",
    }
}

config_enum! {
    /// Which addresses of a name are used.
    pub enum Family {
        /// Those of IPv4; where there are none, those of IPv6.
        Auto = "auto",
        /// Those of IPv4.
        V4 = "v4" | "ipv4",
        /// Those of IPv6.
        V6 = "v6" | "ipv6",
        /// All.
        Both = "both",
    }
}

config_struct! {
    /// A file with a list of endpoints.
    #[shorthand(path)]
    pub struct FileQuery {
        /// Where it is.
        path: String,
    }
}

config_struct! {
    /// The instances of a service in Consul.
    #[shorthand(service)]
    pub struct ConsulQuery {
        /// Its name there.
        service: String,
        /// Only instances that have all of these tags.
        tags: Vec<String> = "[]",
        /// The datacentre; the agent's own when left out.
        datacenter: Option<String>,
        /// The namespace (Consul Enterprise).
        namespace: Option<String>,
        /// Whether instances whose checks warn are left out. Those whose checks fail always are.
        passing_only: bool = "true",
    }
}

config_struct! {
    /// The EndpointSlices of a Kubernetes service.
    #[shorthand(service)]
    pub struct KubernetesQuery {
        /// Its name.
        service: String,
        /// Its namespace; the gateway's own when left out, else `default`.
        namespace: Option<String>,
        /// The name or number of its port; needed where there are several.
        port: Option<String>,
    }
}

/// Where a name server is: an address, with a port if it is not 53.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameServer(pub std::net::SocketAddr);

impl ScalarType for NameServer {
    const WANTED: &'static str = "the address of a name server";

    fn parse(text: &str) -> Result<Self, Fault> {
        let with_port = text.parse().ok();
        let address = with_port.or_else(|| Some((text.parse::<std::net::IpAddr>().ok()?, 53).into()));
        address.map(NameServer).ok_or_else(|| Fault::hint("write it as 10.0.0.2, 10.0.0.2:5353 or [2001:db8::1]:53"))
    }

    fn show(&self) -> String {
        self.0.to_string()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("name server", "an IP address, with or without a port", None)
    }
}

config_scalar!(NameServer);

/// A name in the domain name system, in lower case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DnsName(pub String);

impl ScalarType for DnsName {
    const WANTED: &'static str = "a domain name";

    fn parse(text: &str) -> Result<Self, Fault> {
        // The same rules as for the host of an endpoint.
        let with_port = Endpoint::parse(&format!("{text}:1"))?;
        match with_port.socket_addr() {
            Some(_) => Err(Fault::hint("an address has no SRV records: write it under `endpoints`")),
            None => Ok(Self(with_port.host)),
        }
    }

    fn show(&self) -> String {
        self.0.clone()
    }

    fn document() -> TypeDoc {
        TypeDoc::text("domain name", "letters, digits, -, _ and dots", None)
    }
}

config_scalar!(DnsName);
