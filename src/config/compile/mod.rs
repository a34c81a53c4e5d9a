//! From the written configuration to the running one: names become ids, patterns become tables, and whatever is wrong
//! is reported together, each at its place. Nothing is left for a worker to check.

mod acme;
mod discovery;
mod endpoint_tls;
mod identity;
mod policies;
mod resilience;
mod route;
mod service;
mod shared;
mod tls;

pub use tls::files as tls_files;

use std::sync::Arc;

use self::shared::Shared;
use super::load::{Loaded, Present};
use super::model;
use crate::http::pace::MinRate;
use crate::http::path::PathPolicy;
use crate::limits::FIELDS_CEILING;
use crate::policy::CompileEnv;
use crate::proto::h1::parse::HeadLimits;
use crate::proto::h1::server::ServerRules;
use crate::route::{Order, RouteSpec, RouteTable};
use crate::schema::{Diagnostics, codes};
use crate::snapshot::{ClientBound, ConnectionBound, Listener, Route, ServerNames, Snapshot, StreamRules};
use crate::tls::managed::Plan;

/// What the compiler needs beside the configuration.
pub struct Inputs<'a> {
    /// The generation that the snapshot gets.
    pub generation: u64,
    /// For policies.
    pub policies: CompileEnv,
    /// Finds the address of a name, for those who want to know without running anything; a gateway looks names up
    /// while it runs.
    pub resolve: Option<fn(&str, u16) -> Option<std::net::SocketAddr>>,
    /// What serves at present: limits and tables of the same identity go on.
    pub previous: Option<&'a Snapshot>,
}

/// Compiles a configuration. Warnings are added to those that it was loaded with.
///
/// # Errors
/// Everything that is wrong with it.
pub fn compile(loaded: &Loaded, inputs: &Inputs<'_>) -> Result<(Snapshot, Diagnostics), Box<Diagnostics>> {
    let mut diagnostics = loaded.warnings.clone();
    let config = &loaded.config;
    let shared = Shared::of(loaded, inputs);
    let mut services = service::Services::new(config, inputs, &shared, &mut diagnostics);
    let routes = match shared.routes(config) {
        Some(before) => Some(Routes::of(before)),
        None => Routes::compile(config, inputs, &shared, &mut services, &mut diagnostics),
    };
    let plan = acme::plan(config, inputs, &mut diagnostics);
    let listeners = config.listeners.iter();
    let mut listeners: Vec<_> =
        listeners.map(|written| listener(written, config, &plan, inputs, &mut diagnostics)).collect();
    for (listener, written) in listeners.iter_mut().zip(&config.listeners) {
        listener.stream = stream(written, &mut services, &mut diagnostics);
    }
    let (Some(Routes { table, routes, default_route }), false) = (routes, diagnostics.has_errors()) else {
        return Err(Box::new(diagnostics));
    };
    let snapshot = Snapshot {
        generation: inputs.generation,
        listeners,
        table,
        routes,
        default_route,
        services: services.into_services(),
        discovery: Arc::new(discovery::settings(&config.discovery)),
        acme: plan,
        written: Arc::new(Present::of(loaded, &diagnostics)),
    };
    Ok((snapshot, diagnostics))
}

/// The routes of a snapshot.
struct Routes {
    table: RouteTable,
    routes: Arc<[Route]>,
    default_route: Option<u32>,
}

impl Routes {
    /// Those of another one.
    fn of(before: &Snapshot) -> Self {
        let Snapshot { table, routes, default_route, .. } = before;
        Self { table: table.clone(), routes: routes.clone(), default_route: *default_route }
    }

    fn compile<'a>(
        config: &'a model::Config,
        inputs: &Inputs<'a>,
        shared: &Shared<'a>,
        services: &mut service::Services<'a>,
        diagnostics: &mut Diagnostics,
    ) -> Option<Self> {
        let mut chains = policies::Chains::new(config, inputs, diagnostics);
        let mut specs = Vec::with_capacity(config.routes.len());
        let mut routes = Vec::with_capacity(config.routes.len() + 1);
        for (at, written) in config.routes.iter().enumerate() {
            specs.extend(shared.spec(at).or_else(|| route::spec(written, at as u32, diagnostics).map(Arc::new)));
            routes.push(route::compile(written, config, services, &mut chains, diagnostics));
        }
        let default_route = config.default_route.as_ref().map(|written| {
            routes.push(route::compile_default(written, config, services, &mut chains, diagnostics));
            routes.len() as u32 - 1
        });
        let table = build_table(specs, config, shared.table(), diagnostics)?;
        Some(Self { table, routes: routes.into(), default_route })
    }
}

fn build_table(
    specs: Vec<Arc<RouteSpec>>,
    config: &model::Config,
    before: Option<&RouteTable>,
    diagnostics: &mut Diagnostics,
) -> Option<RouteTable> {
    let order = match config.order {
        model::RouteOrder::Specificity => Order::Specificity,
        model::RouteOrder::Strict => Order::Strict,
    };
    let place = |id: crate::route::RouteId| config.routes.get(id.0 as usize);
    let span = |id| place(id).and_then(|r| r.path_text().map(|(_, span)| span.or(r.span))).unwrap_or_default();
    match RouteTable::build_after(before, specs, order) {
        Ok(table) => {
            for shadowed in before.map_or_else(|| table.lint(), |before| table.lint_after(before)) {
                let by = place(shadowed.by).map_or("", |route| route.name());
                let message = format!("this route can never be reached: `{by}` takes its requests ({})", shadowed.why);
                diagnostics.report(codes::UNREACHABLE, span(shadowed.route), message);
            }
            Some(table)
        }
        Err(errors) => {
            for error in errors {
                diagnostics.report(codes::BAD_VALUE, span(error.id), error.what);
            }
            None
        }
    }
}

fn rules(written: &model::Listener) -> ServerRules {
    let limits = &written.limits;
    let grace_ms = limits.rate_grace.as_millis() as u64;
    ServerRules {
        head: HeadLimits {
            header_bytes_max: limits.header_bytes_max.get() as usize,
            field_bytes_max: limits.field_bytes_max.get() as usize,
            target_bytes_max: limits.target_bytes_max.get() as usize,
            fields_max: (limits.fields_max.get() as usize).min(FIELDS_CEILING),
        },
        header_timeout_ms: limits.header_timeout.as_millis() as u64,
        idle_timeout_ms: limits.idle_timeout.as_millis() as u64,
        body_timeout_ms: limits.body_timeout.as_millis() as u64,
        write_timeout_ms: limits.write_timeout.as_millis() as u64,
        body_rate: MinRate { bytes_per_s: limits.body_rate_min.get(), grace_ms },
        write_rate: MinRate { bytes_per_s: limits.write_rate_min.get(), grace_ms },
        body_bytes_max: limits.body_bytes_max.get(),
        requests_max: limits.requests_max.get(),
        age_ms_max: limits.age_max.as_millis() as u64,
        path_policy: match written.path_policy {
            model::PathPolicy::Strict => PathPolicy::Strict,
            model::PathPolicy::Merge => PathPolicy::Merge,
            model::PathPolicy::Preserve => PathPolicy::Preserve,
        },
        trusted_proxies: written.trusted_proxies.iter().map(|range| range.value).collect(),
        proxy_protocol: written
            .proxy_protocol
            .as_ref()
            .map(|from| from.trusted.iter().map(|range| range.value).collect()),
        h2: written.protocols.contains(&model::Wire::H2),
        h2c: written.protocols.contains(&model::Wire::H2c),
    }
}

fn listener(
    written: &model::Listener,
    config: &model::Config,
    plan: &Plan,
    inputs: &Inputs<'_>,
    diagnostics: &mut Diagnostics,
) -> Listener {
    let (previous, limits) = (inputs.previous, &written.limits);
    let takes_plain = written.tls.as_ref().is_none_or(|tls| tls.plain_too);
    let before = previous.and_then(|snapshot| snapshot.listeners.iter().find(|l| l.address == written.address.0));
    Listener {
        name: written.name(),
        address: written.address.0,
        rules: Arc::new(rules(written)),
        forwarded: written.forwarded,
        via: written.via.then(|| "ringway".to_owned()),
        connections: limits.connections_max.map(|max| bound(max.get(), before.and_then(|l| l.connections.as_ref()))),
        tunnels: bound(limits.tunnels_max.get(), before.map(|listener| &listener.tunnels)),
        tls: tls::compile(written, config, plan, inputs, diagnostics),
        proofs: (takes_plain && acme::by_requests(plan)).then(|| plan.proofs.clone()),
        https_redirect: written.https_redirect.map(|port| port.get() as u16),
        per_client: limits.connections_per_client_max.map(|max| client_bound(max.get(), before)),
        stream: None,
        is_closed: false,
    }
}

/// Where a listener's connections lead that are passed on as they are.
fn stream(
    written: &model::Listener,
    services: &mut service::Services<'_>,
    diagnostics: &mut Diagnostics,
) -> Option<Arc<StreamRules>> {
    if written.protocol != model::ListenProtocol::Tcp {
        return None;
    }
    let mut names = ServerNames::default();
    for (name, service) in written.sni.iter() {
        if let Some(id) = services.id(Some(service.as_str()), None, None, &[], diagnostics) {
            names.insert(name.as_str(), id);
        }
    }
    let service = written.service.as_ref();
    let service = service.and_then(|name| services.id(Some(name.as_str()), None, None, &[], diagnostics));
    let (idle_timeout_ms, duration_ms_max) = route::tunnel_times(written.tunnel.as_deref());
    let names = (!written.sni.is_empty()).then_some(names);
    Some(Arc::new(StreamRules { names, service, idle_timeout_ms, duration_ms_max }))
}

/// A listener keeps its counts over reloads.
fn bound(max: u64, before: Option<&ConnectionBound>) -> ConnectionBound {
    ConnectionBound { max, open: before.map(|bound| bound.open.clone()).unwrap_or_default() }
}

/// As [`bound`].
fn client_bound(max: u64, before: Option<&Listener>) -> ClientBound {
    let open = before.and_then(|listener| listener.per_client.as_ref()).map(|bound| bound.open.clone());
    ClientBound { max, open: open.unwrap_or_default() }
}
