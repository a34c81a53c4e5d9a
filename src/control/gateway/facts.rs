//! What metrics and checks tell of the process and its configuration.

use super::super::admin::backend::Check;
use crate::snapshot::{Listener, Snapshot};
use crate::telemetry::metrics::exposition::{CertificateFacts, MemoryFacts, WorkerReport};
use crate::time;
use crate::tls::Known;
use crate::worker::mailbox::Report;
use crate::worker::memory::{Level, Memory};

/// The certificates that serve, and how long they are good for (F87).
pub(super) fn certificate_facts(snapshot: &Snapshot) -> Vec<CertificateFacts> {
    let now_s = time::unix_seconds() as i64;
    let of = |listener: &Listener| {
        let known = listener.tls.as_ref().map(|tls| tls.known()).unwrap_or_default();
        let fact = |known: &Known| CertificateFacts {
            listener: listener.name.clone(),
            label: known.label.clone(),
            days_left: (known.not_after_s - now_s) as f64 / 86_400.0,
            staples: known.staples,
        };
        known.iter().map(fact).collect::<Vec<_>>()
    };
    snapshot.listeners.iter().flat_map(of).collect()
}

/// The revocation lists, and the days until the next ones are promised.
pub(super) fn list_facts(snapshot: &Snapshot) -> Vec<(String, String, f64)> {
    let now_s = time::unix_seconds() as i64;
    let of = |listener: &Listener| {
        let lists = listener.tls.as_ref().map_or(&[][..], |tls| &tls.lists);
        let promised = lists.iter().filter(|list| list.until_s < i64::MAX);
        let days_left = |until_s: i64| (until_s - now_s) as f64 / 86_400.0;
        promised.map(|list| (listener.name.clone(), list.label.clone(), days_left(list.until_s))).collect::<Vec<_>>()
    };
    snapshot.listeners.iter().flat_map(of).collect()
}

/// A gateway that sheds is still the right place for new traffic: it says for itself what it cannot take.
pub(super) fn memory_check(memory: &Memory) -> Check {
    let facts = memory.facts();
    let percent = facts.used_bytes.saturating_mul(100) / facts.limit_bytes.max(1);
    let detail = format!("{}: {percent} % of {} bytes are in use", facts.level.word(), facts.limit_bytes);
    Check { name: "memory".into(), ok: facts.level == Level::Ample, detail }
}

pub(super) fn memory_facts(memory: &Memory) -> MemoryFacts {
    let facts = memory.facts();
    MemoryFacts {
        limit_bytes: facts.limit_bytes,
        used_bytes: facts.used_bytes,
        held_bytes: facts.held_bytes,
        group_bytes: facts.group_bytes,
        level: facts.level as u64,
    }
}

pub(super) fn worker_reports(reports: Vec<Option<Report>>) -> Vec<WorkerReport> {
    let with_number = |(worker, report): (usize, Option<Report>)| WorkerReport {
        worker: worker as u32,
        snapshot: report.map(|report| report.metrics),
    };
    reports.into_iter().enumerate().map(with_number).collect()
}
