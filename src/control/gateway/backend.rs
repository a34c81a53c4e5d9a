//! What the admin API is told, and what it can ask for.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::super::admin::backend::{
    AdminBackend, Answer, Check, EndpointOrder, EndpointOutcome, ErrorRates, Health, HealthStatus, Readiness,
    ReadyStatus, ReloadOutcome, UpgradeOutcome,
};
use super::super::operator::{self, Told};
use super::super::{acme, limits, survival};
use super::facts::{memory_check, worker_reports};
use super::page::PageMaker;
use super::{Gateway, READY, STARTING, Wish};
use crate::policy;
use crate::snapshot::{Listener, Service, Snapshot};
use crate::worker::mailbox::Report;

impl AdminBackend for Gateway {
    fn ready(&self) -> Readiness {
        let status = match self.state.load(Ordering::Acquire) {
            STARTING => ReadyStatus::Starting,
            READY => ReadyStatus::Ready,
            _ => ReadyStatus::Draining,
        };
        let (all, ended) = (self.fleet.len(), self.fleet.ended());
        let workers = Check { name: "workers".into(), ok: ended == 0, detail: format!("{} of {all} run", all - ended) };
        let generation = self.fleet.snapshot().generation;
        let failed = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).is_some();
        let detail = match failed {
            true => format!("generation {generation} serves; the last reload was refused"),
            false => format!("generation {generation} serves"),
        };
        let mut checks = vec![workers, Check { name: "configuration".into(), ok: !failed, detail }];
        checks.extend(self.memory.is_limited().then(|| memory_check(&self.memory)));
        let check = |(ok, detail)| Check { name: "discovery".into(), ok, detail };
        checks.extend(self.discovery.check().map(check));
        let check = |(ok, detail)| Check { name: "configuration_store".into(), ok, detail };
        checks.extend(self.store.as_ref().map(|store| check(store.check())));
        Readiness { status, checks }
    }

    fn health(&self) -> Answer<'_, Health> {
        Box::pin(async move {
            let reports = self.fleet.report(false).await;
            let workers_up = reports.iter().flatten().count();
            let reports = worker_reports(reports);
            let summary = self.pages.lock().await.summary(&self.fleet, reports);
            let rate = |part: u64| if summary.requests == 0 { 0.0 } else { part as f64 / summary.requests as f64 };
            let average_ms = rate(summary.duration_ns) / 1e6;
            let error_rate = rate(summary.server_errors);
            Health {
                status: HealthStatus::judge(error_rate, average_ms, workers_up == self.fleet.len()),
                error_rates: ErrorRates { all: error_rate },
                average_response_time: average_ms,
                active_connections: summary.active_connections,
                requests: summary.requests,
                workers_up,
                workers: self.fleet.len(),
                uptime_seconds: self.started.elapsed().as_secs(),
            }
        })
    }

    fn metrics_text(self: Arc<Self>) -> Answer<'static, Option<String>> {
        Box::pin(async move {
            let reports = worker_reports(self.fleet.report(false).await);
            let snapshot = self.fleet.snapshot();
            let facts = self.control_facts(&snapshot);
            let gateway = self.clone();
            let page = move |pages: &mut PageMaker| pages.page(&gateway.fleet, &snapshot, reports, facts);
            self.make_page(page).await
        })
    }

    fn config_json(self: Arc<Self>) -> Answer<'static, Option<String>> {
        Box::pin(async move {
            let snapshot = self.fleet.snapshot();
            let failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let store = self.store.as_ref().map(|store| store.json());
            let write = move || {
                let config = snapshot.written.effective();
                let mut told = json!({ "generation": snapshot.generation, "last_refused": failure, "config": config });
                if let Some(store) = store {
                    told["store"] = store;
                }
                told.to_string()
            };
            self.background.run(write).await.ok()
        })
    }

    fn reload(&self) -> Answer<'_, ReloadOutcome> {
        Box::pin(async move {
            let (sender, outcome) = oneshot::channel();
            if self.wishes.try_send(Wish::Reload(sender)).is_err() {
                return ReloadOutcome::Busy;
            }
            outcome.await.unwrap_or(ReloadOutcome::Busy)
        })
    }

    fn upgrade(&self) -> Answer<'_, UpgradeOutcome> {
        Box::pin(async move {
            let refused = || UpgradeOutcome::Refused { error: "the gateway is busy or stopping".to_owned() };
            let (sender, outcome) = oneshot::channel();
            if self.wishes.try_send(Wish::Upgrade(sender)).is_err() {
                return refused();
            }
            outcome.await.unwrap_or_else(|_| refused())
        })
    }

    fn services(self: Arc<Self>) -> Answer<'static, Option<String>> {
        Box::pin(async move {
            let snapshot = self.fleet.snapshot();
            let reports = self.fleet.report(true).await;
            let gateway = self.clone();
            let write = move || gateway.services_json(&snapshot, &reports).to_string();
            self.background.run(write).await.ok()
        })
    }

    fn endpoints<'a>(&'a self, service: &'a str) -> Answer<'a, Option<Value>> {
        Box::pin(async move {
            let snapshot = self.fleet.snapshot();
            let service = snapshot.services.iter().find(|s| s.name == service)?;
            Some(Value::Array(self.endpoints_of(service).await))
        })
    }

    fn order_endpoint(&self, order: EndpointOrder) -> Answer<'_, EndpointOutcome> {
        Box::pin(self.order(order))
    }

    fn events(&self) -> Value {
        let snapshot = self.fleet.snapshot();
        let mut events = self.discovery.events();
        events.extend(self.acme.events());
        survival::recent(&snapshot, events)
    }

    fn certificates(&self) -> Value {
        let snapshot = self.fleet.snapshot();
        let of = |listener: &Listener| {
            let known = listener.tls.as_ref().map(|tls| tls.known()).unwrap_or_default();
            let shown = known.iter().map(acme::facts_of).collect::<Vec<_>>();
            json!({ "listener": listener.name, "certificates": shown })
        };
        let listeners = snapshot.listeners.iter().filter(|listener| listener.tls.is_some());
        json!({ "listeners": listeners.map(of).collect::<Vec<_>>(), "ordered": self.acme.json(&snapshot.acme) })
    }

    fn breakers(&self) -> Value {
        survival::breakers(&self.fleet.snapshot())
    }

    fn reset_breaker(&self, name: &str) -> Option<Value> {
        survival::reset(&self.fleet.snapshot(), name)
    }

    fn workers(&self) -> Answer<'_, Value> {
        Box::pin(async move {
            let (reports, fates) = (self.fleet.report(false).await, self.fleet.fates());
            let restarts = |worker: usize| fates.get(worker).map_or(0, |fate| fate.restarts);
            let worker = |(index, report): (usize, &Option<Report>)| match report {
                Some(report) => json!({
                    "worker": index, "up": true, "restarts": restarts(index), "driver": self.drivers.get(index),
                    "connections": report.connections, "active_requests": report.active_requests,
                    "generation": report.generation,
                }),
                None => json!({ "worker": index, "up": false }),
            };
            Value::Array(reports.iter().enumerate().map(worker).collect())
        })
    }

    fn policies(&self) -> Value {
        let kinds = policy::KINDS.iter();
        let known = kinds.map(|k| json!({ "name": k.name, "phase": k.phase.word(), "summary": k.summary }));
        let snapshot = self.fleet.snapshot();
        let in_use = snapshot.routes.iter().map(|route| {
            let chain = route.chain.slots().iter().map(|slot| slot.policy().explain());
            json!({ "route": route.name, "chain": chain.collect::<Vec<_>>() })
        });
        json!({ "known": known.collect::<Vec<_>>(), "routes": in_use.collect::<Vec<_>>() })
    }

    fn version(&self) -> Value {
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "commit": option_env!("RINGWAY_COMMIT").unwrap_or_default(),
            "drivers": self.drivers,
        })
    }
}

impl Gateway {
    /// All services with their endpoints: for ten thousand of those work for tens of milliseconds.
    fn services_json(&self, snapshot: &Snapshot, reports: &[Option<Report>]) -> Value {
        let told = Told::of(reports);
        let service = |service: &Arc<Service>| {
            json!({
                "name": service.name,
                "load_balancer": service.endpoints.algorithm().word(),
                "endpoints": operator::endpoints(service, &told, &self.orders, &self.discovery),
                "orders_for_absent": operator::absent(service, &self.orders),
                "sources": self.discovery.sources(service),
                "limits": limits::of_service(service),
                "breaker": service.breaker.as_ref().map(|breaker| breaker.shared.state().word()),
                "checks": self.checks.of_service(service),
                "events": survival::events(service),
            })
        };
        Value::Array(snapshot.services.iter().map(service).collect())
    }
}
