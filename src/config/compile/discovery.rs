//! What is looked up while the gateway runs, and where.

use crate::config::model::{self, Consistency, Discover};
use crate::schema::types::ScalarType;
use crate::snapshot::{Consul, Discovery, Dns, Endpoint, Family, Kubernetes, Lookup, Source};

/// Where lookups go.
pub(super) fn settings(written: &model::Discovery) -> Discovery {
    let (dns, consul) = (&written.dns, &written.consul);
    let consistency = match consul.consistency {
        Consistency::Default => "",
        Consistency::Stale => "stale",
        Consistency::Consistent => "consistent",
    };
    Discovery {
        dns: Dns {
            servers: dns.servers.iter().map(|server| server.0).collect(),
            timeout_ms: dns.timeout.as_millis() as u64,
            attempts: dns.attempts.get() as usize,
            stale_ms: dns.stale.as_millis() as u64,
            negative_ms: dns.negative.as_millis() as u64,
            error_ms: dns.error.as_millis() as u64,
            ttl_ms_min: dns.ttl_min.as_millis() as u64,
            ttl_ms_max: dns.ttl_max.as_millis() as u64,
        },
        consul: Consul {
            address: consul.address.show(),
            token: consul.token.as_ref().map(|token| token.expose().to_owned()).unwrap_or_default(),
            ca_file: consul.ca_file.clone().unwrap_or_default(),
            consistency: consistency.to_owned(),
            wait_seconds: consul.wait.as_secs(),
        },
        kubernetes: Kubernetes {
            kubeconfig: written.kubernetes.kubeconfig.clone().unwrap_or_default(),
            context: written.kubernetes.context.clone().unwrap_or_default(),
        },
        wait_ms: written.wait.as_millis() as u64,
    }
}

/// One place that knows endpoints. What it lacks was reported when the configuration was loaded.
pub(super) fn source(written: &Discover) -> Option<Source> {
    Some(Source {
        endpoint: Endpoint {
            weight: written.weight.get() as u32,
            priority: written.priority.get() as u32,
            zone: written.zone.clone().unwrap_or_default(),
            ..Endpoint::default()
        },
        lookup: Some(lookup(written)?),
    })
}

fn lookup(written: &Discover) -> Option<Lookup> {
    if let Some(dns) = &written.dns {
        let family = family(dns.family);
        return Some(Lookup::Name { name: dns.address.host.clone(), port: dns.address.port, family });
    }
    if let Some(srv) = &written.srv {
        return Some(Lookup::Srv { name: srv.name.0.clone(), family: family(srv.family) });
    }
    if let Some(file) = &written.file {
        return Some(Lookup::File { path: file.path.clone() });
    }
    if let Some(consul) = &written.consul {
        return Some(Lookup::Consul {
            service: consul.service.clone(),
            tags: consul.tags.clone(),
            datacenter: consul.datacenter.clone().unwrap_or_default(),
            namespace: consul.namespace.clone().unwrap_or_default(),
            passing_only: consul.passing_only,
        });
    }
    let kubernetes = written.kubernetes.as_ref()?;
    Some(Lookup::Kubernetes {
        service: kubernetes.service.clone(),
        namespace: kubernetes.namespace.clone().unwrap_or_default(),
        port: kubernetes.port.clone().unwrap_or_default(),
    })
}

fn family(written: model::Family) -> Family {
    match written {
        model::Family::Auto => Family::Auto,
        model::Family::V4 => Family::V4,
        model::Family::V6 => Family::V6,
        model::Family::Both => Family::Both,
    }
}
