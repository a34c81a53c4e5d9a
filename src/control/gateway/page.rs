//! The metrics page: what is remembered from scrape to scrape, and the thread that makes it.
//!
//! With ten thousand endpoints a page is some milliseconds of work, and a gateway is scraped every few seconds: on the
//! control thread, which has the priority of workers, that would be their clients' latency. So the control thread only
//! gathers what is at hand, and the background thread makes the page of it.

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::fleet::Fleet;
use super::super::survival::ServiceWatch;
use super::super::{limits, survival};
use super::Gateway;
use super::facts::{certificate_facts, list_facts, memory_facts};
use crate::config::{Fingerprints, Present};
use crate::limits::PAGE_PATIENCE_MS;
use crate::snapshot::Snapshot;
use crate::telemetry::metrics::exposition::{ControlFacts, Exposition, Summary, WorkerReport};
use crate::telemetry::metrics::process::ProcessFacts;
use crate::telemetry::{access_log, log};
use crate::time;

/// What is remembered from page to page.
pub(super) struct PageMaker {
    exposition: Exposition,
    fingerprints: Fingerprints,
    services: ServiceWatch,
    /// Of which generation, and what.
    config_hash: (u64, String),
}

impl PageMaker {
    pub fn new(compat_names: bool) -> Self {
        let (exposition, fingerprints) = (Exposition::new(compat_names), Fingerprints::default());
        Self { exposition, fingerprints, services: ServiceWatch::default(), config_hash: (0, String::new()) }
    }

    /// The page, of what the workers and the control thread have told.
    pub fn page(
        &mut self,
        fleet: &Fleet,
        snapshot: &Snapshot,
        reports: Vec<WorkerReport>,
        mut facts: ControlFacts,
    ) -> String {
        facts.config_hash = self.config_hash(snapshot);
        facts.services = self.services.facts(snapshot, time::Now::read());
        self.hear_last_words(fleet);
        self.exposition.render(reports, &ProcessFacts::read(), &facts)
    }

    /// The sums of it.
    pub fn summary(&mut self, fleet: &Fleet, reports: Vec<WorkerReport>) -> Summary {
        self.hear_last_words(fleet);
        self.exposition.summary(reports)
    }

    fn hear_last_words(&mut self, fleet: &Fleet) {
        fleet.take_counted().into_iter().for_each(|counted| self.exposition.last_words(counted));
    }

    /// A fingerprint of the configuration, the same one after a restart. Computed when somebody asks for it, and for
    /// what is new in it.
    fn config_hash(&mut self, snapshot: &Snapshot) -> String {
        if self.config_hash.0 != snapshot.generation
            && let Some(present) = Present::in_snapshot(snapshot)
        {
            let hash = self.fingerprints.of(&present.config);
            self.config_hash = (snapshot.generation, format!("{hash:016x}"));
        }
        self.config_hash.1.clone()
    }
}

impl Gateway {
    /// Has this done by the background thread; by this one where that has more to do than whoever scrapes should wait
    /// for. Nothing comes of it when it panics.
    pub(super) async fn make_page<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut PageMaker) -> T + Send + 'static,
    ) -> Option<T> {
        self.background.run_within(Duration::from_millis(PAGE_PATIENCE_MS), &self.pages, work).await
    }

    /// What the control thread has at hand. Whatever shares a lock with requests is asked here, by a thread that does
    /// not give way while it holds it.
    pub(super) fn control_facts(&self, snapshot: &Snapshot) -> ControlFacts {
        ControlFacts {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("RINGWAY_COMMIT").unwrap_or_default().to_owned(),
            generation: snapshot.generation,
            last_reload_ok: self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).is_none(),
            last_reload_success_seconds: self.last_success_seconds.load(Ordering::Relaxed),
            reloads_ok: self.reloads_ok.load(Ordering::Relaxed),
            reloads_failed: self.reloads_failed.load(Ordering::Relaxed),
            upgrades: self.upgrades.each_ref().map(|count| count.load(Ordering::Relaxed)),
            log_write_errors: access_log::write_errors(),
            process_log_dropped: log::dropped(),
            limits: limits::facts(snapshot),
            checks: self.checks.facts(),
            breakers: survival::breaker_facts(snapshot),
            workers: self.fleet.fates(),
            memory: memory_facts(&self.memory),
            discovery: self.discovery.facts(),
            certificates: certificate_facts(snapshot),
            lists: list_facts(snapshot),
            acme: self.acme.facts(&snapshot.acme),
            store: self.store.as_ref().map(|store| store.facts()),
            ..ControlFacts::default()
        }
    }
}
