//! Services: by name from the registry, or by URL where a route gives one.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use ahash::AHashMap;

use super::identity::Identities;
use super::route::fixed_answer;
use super::shared::Shared;
use super::{Inputs, discovery, endpoint_tls, resilience};
use crate::concurrency::{Gate, Terms};
use crate::config::model::{self, Algorithm, HostMode};
use crate::limits::FIELDS_CEILING;
use crate::proto::h1::parse::HeadLimits;
use crate::proto::proxy_protocol::Version;
use crate::schema::types::{Endpoint as Place, KeySource, ScalarType, Scheme, ServiceUrl};
use crate::schema::{Diagnostics, Span, Spanned, codes};
use crate::snapshot::{
    Endpoint, Endpoints, Fallback, Family, HashKey, HostRule, Lookup, Protocol, Service, ServiceLimits, ServiceRules,
    Snapshot, Source,
};
use crate::tls::ClientTls;
use crate::upstream::balance::{self, ENDPOINTS_MAX};
use crate::upstream::breaker::BreakerSpec;
use crate::upstream::check::CheckRules;
use crate::upstream::rules::Resilience;
use crate::upstream::state::ServiceState;
use crate::upstream::sticky::Sticky;

/// The services of a snapshot while it is compiled. Routes may add variants: another algorithm, or a URL.
pub(super) struct Services<'a> {
    written: &'a [Spanned<Arc<model::Service>>],
    /// Their places by name, the first one of each; made when something is looked for first.
    named: OnceCell<AHashMap<&'a str, u32>>,
    zone: &'a str,
    resolve: Option<fn(&str, u16) -> Option<std::net::SocketAddr>>,
    previous: Option<&'a Snapshot>,
    known: Identities<'a>,
    compiled: Vec<Arc<Service>>,
    /// Of what routes added.
    ids: AHashMap<String, u32>,
    /// By label.
    tls: BTreeMap<String, Arc<ClientTls>>,
}

impl<'a> Services<'a> {
    pub(super) fn new(
        config: &'a model::Config,
        inputs: &Inputs<'a>,
        shared: &Shared<'a>,
        diagnostics: &mut Diagnostics,
    ) -> Self {
        let mut services = Self {
            written: &config.services,
            named: OnceCell::new(),
            zone: config.server.zone.as_deref().unwrap_or_default(),
            resolve: inputs.resolve,
            previous: inputs.previous,
            known: Identities::of(inputs.previous),
            compiled: Vec::with_capacity(config.services.len()),
            ids: AHashMap::new(),
            tls: BTreeMap::new(),
        };
        for (at, written) in config.services.iter().enumerate() {
            if let Some(before) = shared.service(at) {
                // What its variants share with it is found there too.
                services.compiled.push(before.clone());
                continue;
            }
            if let Some(tls) = &written.tls {
                let name = written.name.as_str();
                let tls = endpoint_tls::compile(tls, written.protocol.value, name, inputs.previous, diagnostics);
                services.tls.extend(tls.map(|tls| (name.to_owned(), tls)));
            }
            let sources = services.sources(written, diagnostics);
            if sources.len() > ENDPOINTS_MAX {
                let message = format!("a service has at most {ENDPOINTS_MAX} endpoints");
                diagnostics.report(codes::OUT_OF_RANGE, written.name.span, message);
            }
            let name = written.name.as_str();
            services.add(name, &Common::of(written, services.zone), sources, &written.load_balancer);
        }
        services
    }

    /// The place of a written service, which is also its id.
    fn place_of(&self, name: &str) -> Option<u32> {
        let by_name = || {
            let places = self.written.iter().enumerate().rev();
            places.map(|(at, service)| (service.name.as_str(), at as u32)).collect()
        };
        self.named.get_or_init(by_name).get(name).copied()
    }

    pub(super) fn into_services(mut self) -> Vec<Arc<Service>> {
        let written =
            self.written.iter().filter_map(|service| Some((service.name.as_str(), service.fallback.as_ref()?)));
        let fallbacks: BTreeMap<_, _> =
            written.filter_map(|(name, written)| Some((name, self.fallback(written)?))).collect();
        for service in &mut self.compiled {
            let fallback = fallbacks.get(&*service.label);
            // One of the snapshot before may be asked to have another service in its place, which has moved.
            if service.fallback.as_ref() != fallback {
                Arc::make_mut(service).fallback = fallback.cloned();
            }
        }
        self.compiled
    }

    fn fallback(&self, written: &model::Fallback) -> Option<Fallback> {
        match (&written.service, &written.respond) {
            (Some(name), _) => self.place_of(name.as_str()).map(Fallback::Service),
            (None, Some(respond)) => {
                let (status, body, fields) = fixed_answer(respond);
                Some(Fallback::Respond { status, body, fields })
            }
            (None, None) => None,
        }
    }

    /// The breaker of a service: variants share it, and so does the service of the snapshot before.
    fn breaker(&self, label: &str, written: Option<&model::CircuitBreaker>) -> Option<BreakerSpec> {
        Some(resilience::breaker(label, written?, self.known.breaker(label)))
    }

    /// The breaker of a route alone, with the numbers of its service's.
    pub(super) fn route_breaker(&self, route: &str, service: Option<u32>) -> BreakerSpec {
        let name = format!("route:{route}");
        let shared = self.known.route_breaker(&name).unwrap_or_default();
        let of_service = service.and_then(|id| self.compiled.get(id as usize)?.breaker.as_ref());
        BreakerSpec { name, rules: of_service.map(|breaker| breaker.rules.clone()).unwrap_or_default(), shared }
    }

    /// The service of a route's `service`, `service_url` and `load_balancer` (R13, R14, C55). Unknown names were
    /// reported when the configuration was loaded.
    pub(super) fn id(
        &mut self,
        name: Option<&str>,
        url: Option<&Spanned<ServiceUrl>>,
        balancer: Option<&model::LoadBalancer>,
        subset: &[(&str, &str)],
        diagnostics: &mut Diagnostics,
    ) -> Option<u32> {
        let written = self.written;
        let known = name.and_then(|name| self.place_of(name));
        let known = known.and_then(|at| Some((at, &**written.get(at as usize)?)));
        match (known, url) {
            (Some((_, service)), Some(url)) if service.endpoints.is_empty() && service.discovery.is_empty() => {
                self.by_url(url, balancer, diagnostics)
            }
            (Some((at, service)), _) => self.variant(at, service, balancer, subset, diagnostics),
            (None, Some(url)) => self.by_url(url, balancer, diagnostics),
            (None, None) => None,
        }
    }

    fn variant(
        &mut self,
        at: u32,
        written: &model::Service,
        balancer: Option<&model::LoadBalancer>,
        subset: &[(&str, &str)],
        diagnostics: &mut Diagnostics,
    ) -> Option<u32> {
        let mut identity = written.name.as_str().to_owned();
        let own = balancer.filter(|own| differs(own, &written.load_balancer));
        if own.is_none() && subset.is_empty() {
            return Some(at);
        }
        identity.extend(own.map(|balancer| format!(" by {}", describe(balancer))));
        identity.extend(subset.iter().map(|(key, value)| format!(" where {key}={value}")));
        if let Some(id) = self.ids.get(&identity) {
            return Some(*id);
        }
        let balancer = own.unwrap_or(&written.load_balancer);
        let sources = self.sources(written, diagnostics);
        let mut common = Common::of(written, self.zone);
        common.subset = subset.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let id = self.add(&identity, &common, sources, balancer);
        self.ids.insert(identity, id);
        Some(id)
    }

    fn by_url(
        &mut self,
        url: &Spanned<ServiceUrl>,
        balancer: Option<&model::LoadBalancer>,
        diagnostics: &mut Diagnostics,
    ) -> Option<u32> {
        let mut authority = url.endpoint.show();
        if url.scheme == Scheme::Https {
            // Beside the same endpoint without TLS it is another service.
            authority.insert_str(0, "https://");
        }
        if let Some(id) = self.ids.get(&authority).copied().or_else(|| self.place_of(&authority)) {
            return Some(id);
        }
        if url.scheme == Scheme::Https {
            let tls = endpoint_tls::usual(&authority, self.previous, url.span, diagnostics)?;
            self.tls.insert(authority.clone(), tls);
        }
        let source = self.source(&url.endpoint, url.span, diagnostics);
        let common = Common {
            label: &authority,
            subset: Vec::new(),
            host: HostRule::Preserve,
            rules: ServiceRules::default(),
            resilience: Resilience::default(),
            check: None,
            sticky: None,
            breaker: None,
            terms: None,
            proxy_protocol: None,
        };
        let round_robin = model::LoadBalancer { algorithm: Algorithm::RoundRobin, key: None };
        let id = self.add(&authority, &common, vec![source], balancer.unwrap_or(&round_robin));
        self.ids.insert(authority, id);
        Some(id)
    }

    fn sources(&self, written: &model::Service, diagnostics: &mut Diagnostics) -> Vec<Source> {
        let one = |e: &Spanned<model::EndpointConfig>| {
            let mut source = self.source(&e.address, e.address.span, diagnostics);
            source.endpoint.weight = e.weight.get() as u32;
            source.endpoint.priority = e.priority.get() as u32;
            source.endpoint.zone = e.zone.clone().unwrap_or_default();
            source.endpoint.metadata =
                e.metadata.iter().map(|(key, value)| (key.value.clone(), value.clone())).collect();
            source
        };
        let written_out = written.endpoints.iter().map(one).collect::<Vec<_>>().into_iter();
        written_out.chain(written.discovery.iter().filter_map(|discover| discovery::source(discover))).collect()
    }

    /// An address, or a name that is looked up.
    fn source(&self, place: &Place, span: Span, diagnostics: &mut Diagnostics) -> Source {
        let mut endpoint = Endpoint { authority: place.show(), address: place.socket_addr(), ..Endpoint::default() };
        if endpoint.address.is_some() {
            return Source { endpoint, lookup: None };
        }
        if let Some(resolve) = self.resolve {
            endpoint.address = resolve(&place.host, place.port);
            if endpoint.address.is_none() {
                let message =
                    format!("`{}` does not resolve now; requests go to other endpoints until it does", place.host);
                diagnostics.report(codes::UNRESOLVED, span, message);
            }
        }
        let lookup = Lookup::Name { name: place.host.clone(), port: place.port, family: Family::Auto };
        Source { endpoint, lookup: Some(lookup) }
    }

    fn add(
        &mut self,
        identity: &str,
        common: &Common<'_>,
        sources: Vec<Source>,
        balancer: &model::LoadBalancer,
    ) -> u32 {
        let id = self.compiled.len() as u32;
        self.known.look_at(id as usize);
        let limits = common.terms.map(|terms| ServiceLimits { gate: self.gate(common.label, &terms), terms });
        let endpoints = self.place(identity, algorithm(balancer.algorithm), &sources, &common.subset);
        let state = self.state(common.label, &endpoints.get().endpoints);
        self.compiled.push(Arc::new(Service {
            name: identity.to_owned(),
            state,
            label: common.label.to_owned(),
            endpoints,
            sources: self.same_sources(identity, sources),
            subset: common.subset.clone(),
            hash_key: hash_key(balancer),
            host: common.host.clone(),
            rules: common.rules.clone(),
            resilience: common.resilience.clone(),
            check: common.check.clone(),
            sticky: common.sticky.clone(),
            breaker: self.breaker(common.label, common.breaker),
            // Known when all services are.
            fallback: None,
            proxy_protocol: common.proxy_protocol,
            tls: self.tls.get(common.label).cloned(),
            limits,
        }));
        self.known.add(&self.compiled[id as usize]);
        id
    }

    /// Where the endpoints lie: what was found for the same sources before stays. Where there was nothing, addresses
    /// are there at once, and names as long as nobody has looked them up.
    fn place(
        &self,
        identity: &str,
        algorithm: balance::Algorithm,
        sources: &[Source],
        subset: &[(String, String)],
    ) -> Arc<Endpoints> {
        match self.known.service(identity) {
            Some(before) if before.endpoints.algorithm() == algorithm && *before.sources == *sources => {
                before.endpoints.clone()
            }
            _ => {
                let written = sources.iter().map(|source| &source.endpoint);
                let wanted = written.filter(|endpoint| !endpoint.authority.is_empty() && endpoint.says(subset));
                Endpoints::new(algorithm, wanted.cloned().collect())
            }
        }
    }

    /// These sources, or the same ones of before.
    fn same_sources(&self, identity: &str, sources: Vec<Source>) -> Arc<[Source]> {
        let before = self.known.service(identity).filter(|before| *before.sources == *sources);
        before.map_or_else(|| sources.into(), |before| before.sources.clone())
    }

    /// Variants of a service share what is known of its endpoints, and so does the service of the snapshot before.
    /// Which endpoints there are is made known when the snapshot is taken into service.
    fn state(&self, label: &str, endpoints: &[Endpoint]) -> Arc<ServiceState> {
        let known = self.known.state(label);
        known.unwrap_or_else(|| ServiceState::new(endpoints.iter().map(|endpoint| &*endpoint.authority)))
    }

    /// Variants of a service share its limit, and so does the service of the snapshot before.
    fn gate(&self, label: &str, terms: &Terms) -> Arc<Gate> {
        self.known.gate(label).unwrap_or_else(|| Gate::new(None, terms))
    }
}

/// What all variants of a service have in common.
struct Common<'a> {
    label: &'a str,
    /// Only endpoints that say all of this of themselves.
    subset: Vec<(String, String)>,
    host: HostRule,
    rules: ServiceRules,
    resilience: Resilience,
    check: Option<Arc<CheckRules>>,
    sticky: Option<Arc<Sticky>>,
    breaker: Option<&'a model::CircuitBreaker>,
    proxy_protocol: Option<Version>,
    terms: Option<Terms>,
}

impl<'a> Common<'a> {
    fn of(written: &'a model::Service, zone: &str) -> Self {
        let proxy_protocol = written.proxy_protocol.map(|version| match version {
            model::ProxyVersion::V1 => Version::V1,
            model::ProxyVersion::V2 => Version::V2,
        });
        let limits = &written.limits;
        let terms = limits.requests_max.map(|max| {
            // At most a million by the schema.
            let requests_max = max.get() as u32;
            Terms {
                requests_max,
                pending_max: limits.pending_max.get() as u32,
                wait_ms: limits.queue_timeout.as_millis() as u64,
                adaptive: limits.adaptive.as_ref().map(|adaptive| adaptive.bounds(requests_max)),
            }
        });
        let (host, rules) = (host_rule(&written.host), rules(written));
        let resilience = resilience::resilience(written, zone);
        let breaker = written.circuit_breaker.as_ref();
        let sticky = written.sticky.as_ref().map(|sticky| resilience::sticky(sticky, written.name.as_str()));
        let check = written.health_check.as_ref().map(|check| Arc::new(resilience::check(check)));
        let (subset, label) = (Vec::new(), written.name.as_str());
        Self { subset, label, host, rules, resilience, check, sticky, breaker, terms, proxy_protocol }
    }
}

fn differs(one: &model::LoadBalancer, other: &model::LoadBalancer) -> bool {
    one.algorithm != other.algorithm || describe(one) != describe(other)
}

fn describe(balancer: &model::LoadBalancer) -> String {
    let key = balancer.key.as_ref().map(|key| format!(" {}", key.show())).unwrap_or_default();
    format!("{}{key}", balancer.algorithm.as_str())
}

fn algorithm(algorithm: Algorithm) -> balance::Algorithm {
    match algorithm {
        Algorithm::RoundRobin => balance::Algorithm::RoundRobin,
        Algorithm::WeightedRoundRobin => balance::Algorithm::WeightedRoundRobin,
        Algorithm::LeastConnections => balance::Algorithm::LeastConnections,
        Algorithm::PowerOfTwo => balance::Algorithm::PowerOfTwo,
        Algorithm::PeakEwma => balance::Algorithm::PeakEwma,
        Algorithm::Random => balance::Algorithm::Random,
        Algorithm::IpHash => balance::Algorithm::IpHash,
        Algorithm::ConsistentHash => balance::Algorithm::ConsistentHash,
    }
}

fn hash_key(balancer: &model::LoadBalancer) -> HashKey {
    match &balancer.key {
        Some(KeySource::ClientCert) => HashKey::ClientCert,
        Some(KeySource::Path) => HashKey::Path,
        Some(KeySource::Header(name)) => HashKey::Header(name.as_str().to_owned()),
        Some(KeySource::Cookie(name)) => HashKey::Cookie(name.clone()),
        Some(KeySource::Query(name)) => HashKey::Query(name.clone()),
        _ => HashKey::ClientIp,
    }
}

pub(super) fn host_rule(mode: &HostMode) -> HostRule {
    match mode {
        HostMode::Preserve => HostRule::Preserve,
        HostMode::Upstream => HostRule::Endpoint,
        HostMode::Literal(host) => HostRule::Literal(host.clone().into()),
    }
}

fn rules(written: &model::Service) -> ServiceRules {
    let (timeouts, pool) = (&written.timeouts, &written.pool);
    ServiceRules {
        connect_timeout_ms: timeouts.connect.as_millis() as u64,
        next_address_ms: timeouts.next_address.as_millis() as u64,
        first_byte_timeout_ms: timeouts.first_byte.as_millis() as u64,
        between_bytes_timeout_ms: timeouts.between_bytes.as_millis() as u64,
        send_timeout_ms: timeouts.send.as_millis() as u64,
        // A connection that names one client serves nobody else.
        idle_max: if written.proxy_protocol.is_some() { 0 } else { pool.idle_max.get() as usize },
        idle_timeout_ms: pool.idle_timeout.as_millis() as u64,
        requests_max: pool.requests_max.get(),
        head: HeadLimits {
            header_bytes_max: written.response_header_bytes_max.get() as usize,
            fields_max: (written.response_fields_max.get() as usize).min(FIELDS_CEILING),
            ..HeadLimits::default()
        },
        protocol: match written.protocol.value {
            model::EndpointWire::Http1 => Protocol::Http1,
            model::EndpointWire::H2 => Protocol::Http2,
            model::EndpointWire::Auto => Protocol::Auto,
        },
    }
}
