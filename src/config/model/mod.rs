//! The native schema. One declaration per mapping gives type, decoder, defaults, JSON Schema and reference page.

mod discovery;
mod endpoint_tls;
mod listener;
mod observe;
mod resilience;
mod route;
mod server;
mod service;
mod tls;
mod tunnel;

pub use discovery::{Consistency, Consul, Discover, Discovery, Dns, Family, Kubernetes};
pub use endpoint_tls::EndpointTls;
pub use listener::{Limits, ListenProtocol, Listener, PathPolicy, Wire};
pub use observe::{AccessLog, AccessLogFormat, LogFormat, LogLevel, LogTarget, Logging, Metrics};
pub use resilience::{
    BackoffKind, BreakerChoice, CheckInitial, CheckKind, CircuitBreaker, EjectionConfig, Fallback, HealthCheck,
    PanicConfig, PanicMode, Retries, RetryOn, StickyConfig,
};
pub use route::{
    Answer, DefaultRoute, MatchKind, Mirror, Redirect, Respond, Rewrite, Route, RouteOrder, ValueMatch, WeightedService,
};
pub use server::{Admin, MemoryLimit, Reload, Server, WORKERS_MAX, Workers};
pub use service::{Algorithm, EndpointConfig, EndpointWire, HostMode, LoadBalancer, Pool, Service, Timeouts};
pub use tls::{
    Acme, AcmeChallenge, Certificate, ClientAuth, ClientAuthMode, CrlExpired, ExternalAccount, Hsts, Tls, TlsHost,
    TlsProfile, UnknownName, is_provable,
};
pub use tunnel::{Protocol, ProxyProtocol, ProxyVersion, Tunnel};

use std::sync::Arc;

use crate::config_struct;
use crate::schema::types::Scheme;
use crate::schema::{Policy, Spanned};

config_struct! {
    /// A whole configuration file. Keys that begin with `x-` are left alone here: a place for YAML anchors.
    pub struct Config {
        /// Threads, deadlines and the stop.
        server: Server = "{}",
        /// The listener for operators.
        admin: Admin = "{}",
        /// Where clients connect. A bare address means `{address: …}`.
        listeners: Vec<Spanned<Listener>> = "[]",
        /// What requests are sent to, by name.
        services: Vec<Spanned<Arc<Service>>> = "[]",
        /// Where endpoints are looked up, for services that have them looked up.
        discovery: Discovery = "{}",
        /// Which requests go where.
        routes: Vec<Spanned<Arc<Route>>> = "[]",
        /// How the route is chosen when several match (C31).
        order: RouteOrder = "specificity",
        /// What answers requests for paths that no route knows; without it they get 404 (R20, R21, C57). A known path
        /// with another method gets 405 all the same (R7); to send that elsewhere too, write a route for `/*`.
        default_route: Option<Spanned<DefaultRoute>>,
        /// Policies for every route, before the route's own, in this order within their phases (R24, R278).
        policies: Vec<Policy> = "[]",
        /// What is written about the process and its requests.
        logging: Logging = "{}",
        /// What is counted.
        metrics: Metrics = "{}",
        /// How a changed file is taken up.
        reload: Reload = "{}",
    }
}

impl Config {
    /// Whether files are read when it is compiled: certificates, and those of authorities.
    pub fn uses_files(&self) -> bool {
        let by_url =
            |route: &Spanned<Arc<Route>>| route.service_url.as_ref().is_some_and(|url| url.scheme == Scheme::Https);
        self.listeners.iter().any(|listener| listener.tls.is_some())
            || self.services.iter().any(|service| service.tls.is_some())
            || self.routes.iter().any(by_url)
            || self.default_route.as_ref().is_some_and(|route| route.service_url.is_some())
    }
}
