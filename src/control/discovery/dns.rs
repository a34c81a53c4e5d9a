//! Names: A, AAAA and SRV records, asked for again when their time to live has passed (F30-F32).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup as Records;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{RData, RecordType};
use hickory_resolver::{TokioResolver, system_conf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::provider::{Lookout, Member, News, Patience, Provider, Trouble};
use crate::limits::{ADDRESSES_MAX, DISCOVERED_MAX, DNS_QUESTIONS_MAX, SRV_TARGETS_MAX};
use crate::snapshot::{Dns, Family};

/// The resolver that all lookups share.
pub struct Names {
    resolver: Result<TokioResolver, String>,
    settings: Dns,
    places: Semaphore,
}

/// The addresses of a name, and how long they hold.
pub struct Addresses {
    /// The addresses, in order.
    pub all: Vec<IpAddr>,
    /// Until they are to be asked for again.
    pub holds: Duration,
}

impl Names {
    /// A resolver. Whatever is wrong with the system's own settings is told at each lookup, and not here.
    pub fn new(settings: &Dns) -> Arc<Self> {
        let resolver = build(settings).map_err(|error| format!("no resolver: {error}"));
        Arc::new(Self { resolver, settings: settings.clone(), places: Semaphore::new(DNS_QUESTIONS_MAX) })
    }

    /// How often names are asked for that cannot be resolved.
    pub fn patience(&self) -> Patience {
        Patience {
            error_ms: self.settings.error_ms,
            error_ms_max: self.settings.negative_ms,
            stale_ms: Some(self.settings.stale_ms),
        }
    }

    async fn records(&self, name: &str, kind: RecordType) -> Result<Records, Trouble> {
        let resolver = self.resolver.as_ref().map_err(Trouble::failed)?;
        let Ok(_place) = self.places.acquire().await else { return Err(Trouble::failed("stopping")) };
        // Names of this configuration are whole: the search list of the system comes into play for short ones only.
        let work = resolver.lookup(name, kind);
        // Each question has its own deadline; this one bounds chains of aliases and search lists.
        let whole = Duration::from_millis(self.settings.timeout_ms).saturating_mul(2 * self.settings.attempts as u32);
        match timeout(whole + Duration::from_secs(1), work).await {
            Ok(Ok(records)) => Ok(records),
            Ok(Err(error)) => Err(trouble(name, kind, &error)),
            Err(_) => Err(Trouble::failed(format!("{name}: no answer in time"))),
        }
    }

    /// The addresses of a name, none of them twice.
    pub async fn addresses(&self, name: &str, family: Family) -> Result<Addresses, Trouble> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(Addresses { all: vec![address], holds: self.holds(Instant::now() + Duration::from_secs(3600)) });
        }
        let kinds: &[RecordType] = match family {
            Family::V4 | Family::Auto => &[RecordType::A],
            Family::V6 => &[RecordType::AAAA],
            Family::Both => &[RecordType::A, RecordType::AAAA],
        };
        let mut outcome = self.of_kinds(name, kinds).await;
        // An answer that the name has no IPv4 address is no trouble yet; a server that is silent about one will be
        // silent about the other.
        let none = matches!(&outcome, Err(trouble) if trouble.is_missing());
        if family == Family::Auto && none {
            outcome = self.of_kinds(name, &[RecordType::AAAA]).await;
        }
        outcome
    }

    async fn of_kinds(&self, name: &str, kinds: &[RecordType]) -> Result<Addresses, Trouble> {
        let (mut all, mut until, mut trouble) = (Vec::new(), None, None);
        for &kind in kinds {
            match self.records(name, kind).await {
                Ok(records) => {
                    all.extend(records.answers().iter().filter_map(|record| address(&record.data)));
                    let valid = Instant::from_std(records.valid_until());
                    until = Some(until.map_or(valid, |until: Instant| until.min(valid)));
                }
                Err(other) => trouble = Some(other),
            }
        }
        // One family that has failed must not take the addresses of the other away, and not pass for its end.
        if let Some(trouble) = trouble.filter(|trouble| all.is_empty() || !trouble.is_missing()) {
            return Err(trouble);
        }
        all.sort();
        all.dedup();
        if all.is_empty() {
            return Err(Trouble::missing(format!("{name} has no address")));
        }
        all.truncate(ADDRESSES_MAX);
        Ok(Addresses { all, holds: self.holds(until.unwrap_or_else(Instant::now)) })
    }

    fn holds(&self, until: Instant) -> Duration {
        let (min, max) = (self.settings.ttl_ms_min, self.settings.ttl_ms_max.max(self.settings.ttl_ms_min));
        until.duration_since(Instant::now()).clamp(Duration::from_millis(min), Duration::from_millis(max))
    }
}

fn build(settings: &Dns) -> Result<TokioResolver, NetError> {
    let (config, mut options) = match settings.servers.is_empty() {
        true => system_conf::read_system_conf()?,
        false => (ResolverConfig::from_parts(None, Vec::new(), servers(settings)), Default::default()),
    };
    options.timeout = Duration::from_millis(settings.timeout_ms);
    options.attempts = settings.attempts;
    // Times to live are kept here: a cache below would only hide how old an answer is.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    options.max_active_requests = DNS_QUESTIONS_MAX;
    options.case_randomization = false;
    let builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    builder.with_options(options).build()
}

fn servers(settings: &Dns) -> Vec<NameServerConfig> {
    let server = |address: &SocketAddr| {
        let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
            connection.port = address.port();
            connection
        });
        NameServerConfig::new(address.ip(), true, connections.into())
    };
    settings.servers.iter().map(server).collect()
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

fn trouble(name: &str, kind: RecordType, error: &NetError) -> Trouble {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            Trouble::missing(format!("{name} has no {kind} record ({})", none.response_code))
        }
        error => Trouble::failed(format!("{name}: {error}")),
    }
}

/// The addresses of one name.
pub struct NameProvider {
    /// Who is asked.
    pub names: Arc<Names>,
    /// The name.
    pub name: String,
    /// The port of all.
    pub port: u16,
    /// Which addresses.
    pub family: Family,
}

impl Provider for NameProvider {
    fn next(&mut self) -> Lookout<'_> {
        Box::pin(async move {
            let found = self.names.addresses(&self.name, self.family).await?;
            let host = if self.port == 80 { self.name.clone() } else { format!("{}:{}", self.name, self.port) };
            let member = |ip| Member { host: host.clone(), ..Member::at(SocketAddr::new(ip, self.port)) };
            Ok(News { members: found.all.into_iter().map(member).collect(), holds: found.holds })
        })
    }
}

/// The targets of one SRV name (RFC 2782): their priorities become tiers, their weights shares.
pub struct SrvProvider {
    /// Who is asked.
    pub names: Arc<Names>,
    /// The name.
    pub name: String,
    /// Which addresses of the targets.
    pub family: Family,
}

impl SrvProvider {
    async fn look(&self) -> Result<News, Trouble> {
        let records = self.names.records(&self.name, RecordType::SRV).await?;
        let srv = |data: &RData| if let RData::SRV(srv) = data { Some(srv.clone()) } else { None };
        let mut targets: Vec<SRV> = records.answers().iter().filter_map(|record| srv(&record.data)).collect();
        // A single root as target says that the service is decidedly not there.
        targets.retain(|srv| !srv.target.is_root());
        if targets.is_empty() {
            return Err(Trouble::missing(format!("{} has no SRV record", self.name)));
        }
        targets.sort_by_key(|srv| (srv.priority, srv.target.to_string(), srv.port));
        targets.truncate(SRV_TARGETS_MAX);
        let mut news = News { members: Vec::new(), holds: self.names.holds(Instant::from_std(records.valid_until())) };
        let (mut tier, mut last, mut trouble) = (0, targets[0].priority, None);
        for srv in targets {
            if srv.priority != last {
                (tier, last) = (tier + 1, srv.priority);
            }
            let target = srv.target.to_ascii().trim_end_matches('.').to_ascii_lowercase();
            match self.names.addresses(&target, self.family).await {
                Ok(found) => {
                    news.holds = news.holds.min(found.holds);
                    let members = found.all.into_iter().map(|ip| member(ip, &srv, tier, &target));
                    news.members.extend(members);
                }
                Err(other) => trouble = Some(other),
            }
        }
        news.members.truncate(DISCOVERED_MAX);
        match trouble {
            // A target that could not be looked up is not a target that has gone.
            Some(trouble) if news.members.is_empty() || !trouble.is_missing() => Err(trouble),
            _ => Ok(news),
        }
    }
}

fn member(ip: IpAddr, srv: &SRV, tier: u32, target: &str) -> Member {
    Member {
        host: format!("{target}:{}", srv.port),
        // A weight of 0 is to be used seldom, not never.
        weight: Some(u32::from(srv.weight).max(1)),
        priority: Some(tier.min(15)),
        ..Member::at(SocketAddr::new(ip, srv.port))
    }
}

impl Provider for SrvProvider {
    fn next(&mut self) -> Lookout<'_> {
        Box::pin(self.look())
    }
}
