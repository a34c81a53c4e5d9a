//! The metrics page: snapshots of all workers, merged and written at a scrape, on the control thread.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::VERSIONS;
use super::instruments::{Deadline, Eviction, GoAway, HandshakeFailure, INSTRUMENTS, Kind, Refusal};
use super::latency::Latencies;
use super::page::{Page, Unit};
use super::process::ProcessFacts;
use super::snapshot::WorkerSnapshot;
use super::totals::{Admission, Labels, SERIES_MAX, Totals};

const QUANTILES: [(&str, f64); 4] = [("0.5", 0.5), ("0.9", 0.9), ("0.99", 0.99), ("0.999", 0.999)];
const ACTIVE_CONNECTIONS: usize = 0;

/// What the control thread knows of itself.
#[derive(Clone, Debug, Default)]
pub struct ControlFacts {
    /// Version of the program.
    pub version: String,
    /// Commit that it was built from; empty when unknown.
    pub commit: String,
    /// Hash of the configuration that serves.
    pub config_hash: String,
    /// Its generation.
    pub generation: u64,
    /// Whether the last attempt to load a configuration succeeded (F02).
    pub last_reload_ok: bool,
    /// When a configuration was last loaded with success, in seconds since the Unix epoch.
    pub last_reload_success_seconds: u64,
    /// Reloads that succeeded.
    pub reloads_ok: u64,
    /// Reloads that were refused.
    pub reloads_failed: u64,
    /// Upgrades of the program: done since the first start; failed and refused since this one.
    pub upgrades: [u64; 3],
    /// Writes of the access log that failed.
    pub log_write_errors: u64,
    /// Lines of the process log that were dropped.
    pub process_log_dropped: u64,
    /// Limits on requests in flight.
    pub limits: Vec<LimitFacts>,
    /// Circuit breakers.
    pub breakers: Vec<BreakerFacts>,
    /// Active checks of endpoints.
    pub checks: Vec<CheckFacts>,
    /// Endpoints of services by state.
    pub services: Vec<Arc<ServiceFacts>>,
    /// By worker: how often it was started again after it had died, and how often it was found stuck.
    pub workers: Vec<WorkerFate>,
    /// The memory against its limit.
    pub memory: MemoryFacts,
    /// Where endpoints come from.
    pub discovery: DiscoveryFacts,
    /// Certificates of listeners.
    pub certificates: Vec<CertificateFacts>,
    /// Revocation lists: listener, file, and the days until the next one is promised.
    pub lists: Vec<(String, String, f64)>,
    /// Certificates that the gateway orders itself.
    pub acme: AcmeFacts,
    /// The store that the configuration comes from, if it comes from one.
    pub store: Option<StoreFacts>,
}

/// What is known of the store that the configuration comes from (R229).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// Whether it can be read.
    pub is_up: bool,
    /// The copy serves, for the store has not answered since the start.
    pub is_copy: bool,
    /// How often it could not be read.
    pub failures: u64,
    /// How long ago it answered last, in seconds; 0 while it answers.
    pub stale_s: u64,
}

/// What is known of the lookups of endpoints (R225-R230).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoveryFacts {
    /// How many lookups there are, by kind and state. Both are words of the program.
    pub lookups: Vec<(&'static str, &'static str, u64)>,
    /// Answers that were good.
    pub answers: u64,
    /// Lookups that failed.
    pub failures: u64,
    /// Sets of endpoints that were replaced.
    pub sets: u64,
    /// How old the oldest answer is that is used because newer ones failed, in seconds; 0 where none is.
    pub stale_s: u64,
}

/// A certificate that clients are shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CertificateFacts {
    /// The listener's name.
    pub listener: String,
    /// Where it was read from.
    pub label: String,
    /// Days that it is good for yet; negative once it has expired.
    pub days_left: f64,
    /// Whether its OCSP response is stapled; None where it has none.
    pub staples: Option<bool>,
}

/// What is known of the orders of certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AcmeFacts {
    /// Names that certificates are ordered for; without any there are no metrics of it.
    pub names: u64,
    /// Those that have none.
    pub missing: u64,
    /// Orders that succeeded.
    pub orders: u64,
    /// Orders that failed, by a word of the program.
    pub failed: Vec<(&'static str, u64)>,
}

/// What a limit on requests in flight does at present (F13).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitFacts {
    /// Where it is configured: `service:NAME`, or the place of its policy.
    pub name: String,
    /// The limit; for each key, where there are keys.
    pub limit: u64,
    /// Requests in flight.
    pub in_flight: u64,
    /// Requests that wait.
    pub queued: u64,
    /// Requests that were refused, by reason.
    pub refused: Vec<(&'static str, u64)>,
}

/// A circuit breaker (R212).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BreakerFacts {
    /// Its service, or `route:NAME`.
    pub name: String,
    /// `closed`, `open` or `half_open`.
    pub state: &'static str,
    /// How often it opened.
    pub opened: u64,
}

/// The checks of a service's endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckFacts {
    /// The service.
    pub service: String,
    /// Checks that passed.
    pub passed: u64,
    /// Checks that failed.
    pub failed: u64,
    /// What all took together, in microseconds.
    pub us: u64,
}

/// The endpoints of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceFacts {
    /// Its name.
    pub name: String,
    /// How many are in which state.
    pub endpoints: Vec<(&'static str, u64)>,
    /// Whether so many are out that all are asked (F27).
    pub panic: bool,
    /// Ejections so far.
    pub ejections: u64,
}

/// What the control thread knows of a worker that the worker cannot tell itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WorkerFate {
    /// How often it was started again after it had died (F05).
    pub restarts: u64,
    /// How often it was found without a turn for [`STUCK_REPORT_MS`](crate::limits::STUCK_REPORT_MS) (F06).
    pub stalls: u64,
}

/// The memory of the process against its limit (F10).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// The limit in bytes; 0 for none, and then there are no metrics of it.
    pub limit_bytes: u64,
    /// What is in use of it.
    pub used_bytes: u64,
    /// What the workers hold by their own count.
    pub held_bytes: u64,
    /// What the control group is charged for, files apart.
    pub group_bytes: u64,
    /// 0 ample, 1 saving, 2 shedding.
    pub level: u64,
}

/// One worker's answer to the question for its counters.
#[derive(Clone, Debug)]
pub struct WorkerReport {
    /// Number of the worker.
    pub worker: u32,
    /// Its counters; None when it did not answer in time. Then the last ones known are shown, and the worker as down.
    pub snapshot: Option<WorkerSnapshot>,
}

/// Sums of everything since the start, for the health summary (R113, R114).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Requests finished.
    pub requests: u64,
    /// Requests answered with 5xx.
    pub server_errors: u64,
    /// Sum of their durations, in nanoseconds.
    pub duration_ns: u64,
    /// Open downstream connections.
    pub active_connections: u64,
}

impl Summary {
    /// Share of 5xx (0 to 1) and mean duration in milliseconds of the requests finished since `before`; 0 without any.
    pub fn rates_since(&self, before: &Summary) -> (f64, f64) {
        let requests = self.requests.saturating_sub(before.requests);
        if requests == 0 {
            return (0.0, 0.0);
        }
        let errors = self.server_errors.saturating_sub(before.server_errors);
        let ns = self.duration_ns.wrapping_sub(before.duration_ns);
        (errors as f64 / requests as f64, ns as f64 / 1e6 / requests as f64)
    }
}

/// Makes the page, and remembers between scrapes what keeps counters from going down: which series were let in, and the
/// counts of workers that were restarted.
#[derive(Debug, Default)]
pub struct Exposition {
    compat: bool,
    admission: Admission,
    last: BTreeMap<u32, WorkerSnapshot>,
    retired: Totals,
    carried: BTreeMap<u32, Carried>,
    page_bytes: usize,
}

/// What a worker's earlier lives counted, in the families that have its number as label.
#[derive(Debug)]
struct Carried {
    own: [i64; INSTRUMENTS.len()],
    deadlines: [u64; Deadline::WORDS.len()],
    refusals: [u64; Refusal::WORDS.len()],
    protocols: [u64; 3],
}

impl Carried {
    fn of(before: &WorkerSnapshot) -> Self {
        let count = |at: usize| if INSTRUMENTS[at].2 == Kind::Count { before.own[at] } else { 0 };
        Self {
            own: std::array::from_fn(count),
            deadlines: before.deadlines,
            refusals: before.refusals,
            protocols: before.protocols,
        }
    }

    fn add_to(&self, snapshot: &mut WorkerSnapshot) {
        snapshot.own.iter_mut().zip(self.own).for_each(|(count, more)| *count += more);
        let tallies = snapshot.deadlines.iter_mut().zip(self.deadlines);
        let tallies = tallies.chain(snapshot.refusals.iter_mut().zip(self.refusals));
        tallies.chain(snapshot.protocols.iter_mut().zip(self.protocols)).for_each(|(count, more)| *count += more);
    }
}

impl Exposition {
    /// With `compat` the page also has the names `gateway_request_duration`, `gateway_backend_duration` (R208, R210,
    /// seconds) and `gateway_request_duration_ms` (R209, milliseconds) with their labels (C36).
    pub fn new(compat: bool) -> Self {
        Self { compat, ..Self::default() }
    }

    /// The page. Takes some milliseconds with thousands of series.
    pub fn render(&mut self, reports: Vec<WorkerReport>, process: &ProcessFacts, control: &ControlFacts) -> String {
        let answers: Vec<_> = reports.iter().map(|report| (report.worker, report.snapshot.is_some())).collect();
        self.take_in(reports.into_iter().filter_map(|report| report.snapshot));
        let totals = self.totals();
        // As long as the last one, and room for some more series.
        let mut page = Page::with_room(self.page_bytes + self.page_bytes / 16);
        self.requests(&mut page, &totals);
        self.durations(&mut page, &totals);
        failures(&mut page, &totals);
        quantiles(&mut page, &totals);
        self.connections(&mut page, &answers);
        self.workers(&mut page);
        limit_families(&mut page, &control.limits);
        survival_families(&mut page, control);
        certificate_family(&mut page, &control.certificates);
        trust_families(&mut page, control);
        acme_families(&mut page, &control.acme);
        control_families(&mut page, control);
        fate_families(&mut page, &control.workers);
        memory_families(&mut page, &control.memory);
        discovery_families(&mut page, &control.discovery);
        store_families(&mut page, control.store);
        process_families(&mut page, process);
        let text = page.into_text();
        self.page_bytes = text.len();
        text
    }

    /// The sums, with these reports taken in.
    pub fn summary(&mut self, reports: Vec<WorkerReport>) -> Summary {
        self.take_in(reports.into_iter().filter_map(|report| report.snapshot));
        let totals = self.totals();
        Summary {
            requests: totals.request_count(),
            server_errors: totals.server_errors,
            duration_ns: totals.duration_ns(),
            active_connections: self.active_connections(),
        }
    }

    /// Takes in what a worker had counted when it died, so that nothing counted since the last scrape is lost (F05).
    pub fn last_words(&mut self, snapshot: WorkerSnapshot) {
        self.take_in([snapshot]);
    }

    fn take_in(&mut self, snapshots: impl IntoIterator<Item = WorkerSnapshot>) {
        for mut snapshot in snapshots {
            let worker = snapshot.worker;
            let before = self.last.get(&worker);
            // Two scrapes at once: what was asked for later may come first.
            if before.is_some_and(|before| (before.epoch, before.copy) > (snapshot.epoch, snapshot.copy)) {
                continue;
            }
            if let Some(before) = before.filter(|before| before.epoch != snapshot.epoch) {
                self.retired.add(&mut self.admission, before);
                self.carried.insert(worker, Carried::of(before));
            }
            if let Some(carried) = self.carried.get(&worker) {
                carried.add_to(&mut snapshot);
            }
            self.last.insert(worker, snapshot);
        }
    }

    fn totals(&mut self) -> Totals {
        let mut totals = self.retired.clone();
        for snapshot in self.last.values() {
            totals.add(&mut self.admission, snapshot);
        }
        totals
    }

    fn active_connections(&self) -> u64 {
        let sum: i64 = self.last.values().map(|snapshot| snapshot.own[ACTIVE_CONNECTIONS]).sum();
        u64::try_from(sum).unwrap_or_default()
    }

    fn requests(&self, page: &mut Page, totals: &Totals) {
        page.family("gateway_requests_total", "counter", "Requests finished.");
        for (labels, count) in &totals.requests {
            let [method, path, status, service] = texts(labels);
            let labels =
                [("method", method), ("path", path), ("status", status), ("service", service), ("client_type", "")];
            page.count(&labels, *count);
        }
        page.family("gateway_upstream_status_total", "counter", "Statuses that endpoints answered with.");
        for (labels, count) in &totals.upstream_status {
            let [service, status] = texts(labels);
            page.count(&[("service", service), ("status", status)], *count);
        }
    }

    fn durations(&self, page: &mut Page, totals: &Totals) {
        let requests = "Time from the first byte of a request to the last of its response.";
        let backend = "Time from sending a request to an endpoint to its response head.";
        request_durations(page, totals, "gateway_request_duration_seconds", requests, Unit::Seconds);
        backend_durations(page, totals, "gateway_backend_duration_seconds", backend);
        if self.compat {
            request_durations(page, totals, "gateway_request_duration", requests, Unit::Seconds);
            request_durations(page, totals, "gateway_request_duration_ms", requests, Unit::Milliseconds);
            backend_durations(page, totals, "gateway_backend_duration", backend);
        }
    }

    fn connections(&self, page: &mut Page, answers: &[(u32, bool)]) {
        page.family("gateway_active_connections", "gauge", "Open downstream connections.");
        page.count(&[], self.active_connections());
        page.family("gateway_worker_up", "gauge", "Whether the worker answered this scrape in time.");
        for (worker, has_answered) in answers {
            page.count(&[("worker", &worker.to_string())], u64::from(*has_answered));
        }
    }

    fn workers(&self, page: &mut Page) {
        for (at, (name, help, kind)) in INSTRUMENTS.iter().enumerate() {
            let type_word = if *kind == Kind::Count { "counter" } else { "gauge" };
            let is_scaled = matches!(kind, Kind::Nanoseconds | Kind::Share);
            page.family(&format!("ringway_worker_{name}"), type_word, help);
            for (number, snapshot) in &self.last {
                let value = snapshot.own[at] as f64;
                let value = if is_scaled { value / 1e9 } else { value };
                page.number(&[("worker", &number.to_string())], value);
            }
        }
        let help = "Deadlines that fired.";
        self.tally(page, ("ringway_worker_deadlines_total", help, "deadline"), Deadline::WORDS, |s| &s.deadlines);
        let help = "Connections refused.";
        self.tally(page, ("ringway_worker_refused_total", help, "cause"), Refusal::WORDS, |s| &s.refusals);
        let help = "Connections closed to make room, by what they waited for.";
        self.tally(page, ("ringway_worker_evicted_total", help, "waited"), Eviction::WORDS, |s| &s.evictions);
        let help = "HTTP/2 connections ended for what their clients did.";
        self.tally(page, ("ringway_worker_h2_goaway_total", help, "reason"), GoAway::WORDS, |s| &s.goaways);
        let help = "TLS handshakes that failed, by reason; alerts are the client's.";
        let name = "ringway_worker_tls_handshake_failures_total";
        self.tally(page, (name, help, "reason"), HandshakeFailure::WORDS, |s| &s.handshake_failures);
        let versions = VERSIONS.map(|version| version.text());
        let help = "Requests by protocol.";
        self.tally(page, ("ringway_worker_requests_total", help, "protocol"), &versions, |s| &s.protocols);
    }

    fn tally(
        &self,
        page: &mut Page,
        (name, help, label): (&str, &str, &str),
        words: &[&str],
        counts: impl Fn(&WorkerSnapshot) -> &[u64],
    ) {
        page.family(name, "counter", help);
        for (number, snapshot) in &self.last {
            for (word, count) in words.iter().zip(counts(snapshot)) {
                page.count(&[("worker", &number.to_string()), (label, word)], *count);
            }
        }
    }
}

/// Circuit breakers and the states of endpoints.
fn survival_families(page: &mut Page, control: &ControlFacts) {
    let breakers = &control.breakers[..control.breakers.len().min(SERIES_MAX)];
    page.family("gateway_circuit_breaker_state", "gauge", "1 for the state that the circuit breaker is in.");
    for breaker in breakers {
        let states = ["closed", "open", "half_open"].map(|state| (state, u64::from(breaker.state == state)));
        page.counts(&[("service", &breaker.name)], "state", states);
    }
    page.family("ringway_circuit_breaker_opened_total", "counter", "How often the circuit breaker opened.");
    breakers.iter().for_each(|breaker| page.count(&[("service", &breaker.name)], breaker.opened));
    page.family("ringway_health_checks_total", "counter", "Active checks of endpoints by result.");
    for checks in &control.checks {
        page.count(&[("service", &checks.service), ("result", "passed")], checks.passed);
        page.count(&[("service", &checks.service), ("result", "failed")], checks.failed);
    }
    page.family("ringway_health_check_seconds_total", "counter", "Time that active checks took.");
    control.checks.iter().for_each(|c| page.number(&[("service", &c.service)], c.us as f64 / 1e6));
    let services = &control.services[..control.services.len().min(SERIES_MAX)];
    page.family("ringway_service_endpoints", "gauge", "Endpoints of the service by state.");
    for service in services {
        page.counts(&[("service", &service.name)], "state", service.endpoints.iter().copied());
    }
    page.family("ringway_service_panic", "gauge", "Whether so many endpoints are out that all are asked.");
    services.iter().for_each(|service| page.count(&[("service", &service.name)], u64::from(service.panic)));
    page.family("ringway_service_ejections_total", "counter", "Endpoints that were left alone for a while.");
    services.iter().for_each(|service| page.count(&[("service", &service.name)], service.ejections));
}

fn request_durations(page: &mut Page, totals: &Totals, name: &str, help: &str, unit: Unit) {
    page.family(name, "histogram", help);
    page.histograms(
        unit,
        totals.durations.iter().map(|(labels, buckets)| {
            let [method, path, service] = texts(labels);
            ([("method", method), ("path", path), ("service", service)], buckets)
        }),
    );
}

fn backend_durations(page: &mut Page, totals: &Totals, name: &str, help: &str) {
    page.family(name, "histogram", help);
    page.histograms(
        Unit::Seconds,
        totals.backend.iter().map(|(labels, buckets)| {
            let [service, endpoint] = texts(labels);
            ([("service", service), ("endpoint", endpoint)], buckets)
        }),
    );
}

fn failures(page: &mut Page, totals: &Totals) {
    page.family("gateway_errors_total", "counter", "Requests that the gateway answered itself or cut, by reason.");
    for (labels, count) in &totals.errors {
        let [error_type, service] = texts(labels);
        page.count(&[("error_type", error_type), ("service", service)], *count);
    }
    page.family("gateway_rate_limit_hits_total", "counter", "Requests that a limiter refused.");
    for (labels, count) in &totals.limiters {
        let [limiter_type] = texts(labels);
        page.count(&[("limiter_type", limiter_type)], *count);
    }
    page.family("gateway_grpc_requests_total", "counter", "gRPC calls by service, method and status code.");
    for (labels, count) in &totals.calls {
        let [service, method, code] = texts(labels);
        page.count(&[("grpc_service", service), ("grpc_method", method), ("grpc_code", code)], *count);
    }
    page.family("ringway_mirrored_requests_total", "counter", "Requests that were to be mirrored to a service.");
    for (labels, count) in &totals.mirrored {
        let [service, result] = texts(labels);
        page.count(&[("service", service), ("result", result)], *count);
    }
}

fn quantiles(page: &mut Page, totals: &Totals) {
    page.family("ringway_latency_quantile_seconds", "gauge", "Quantiles of request latency since the start.");
    if !totals.latency_all.is_empty() {
        quantile_samples(page, &[], &totals.latency_all);
    }
    let help = "Quantiles of request latency by service since the start.";
    page.family("ringway_service_latency_quantile_seconds", "gauge", help);
    for (labels, latency) in &totals.latency {
        let [service] = texts(labels);
        quantile_samples(page, &[("service", service)], latency);
    }
}

fn quantile_samples(page: &mut Page, labels: &[(&str, &str)], latency: &Latencies) {
    let found = latency.quantiles(QUANTILES.map(|(_, quantile)| quantile));
    page.microseconds(labels, "quantile", QUANTILES.iter().zip(found).map(|((word, _), us)| (*word, us)));
}

fn control_families(page: &mut Page, facts: &ControlFacts) {
    page.family("ringway_build_info", "gauge", "Version of the program.");
    page.count(&[("version", &facts.version), ("commit", &facts.commit)], 1);
    page.family("ringway_config_info", "gauge", "Hash of the configuration that serves.");
    page.count(&[("hash", &facts.config_hash)], 1);
    page.family("ringway_config_generation", "gauge", "Generation of the configuration that serves.");
    page.count(&[], facts.generation);
    page.family(
        "ringway_config_last_reload_successful",
        "gauge",
        "Whether the last load of a configuration succeeded.",
    );
    page.count(&[], u64::from(facts.last_reload_ok));
    let help = "When a configuration was last loaded with success.";
    page.family("ringway_config_last_reload_success_timestamp_seconds", "gauge", help);
    page.count(&[], facts.last_reload_success_seconds);
    page.family("ringway_config_reloads_total", "counter", "Reloads by result.");
    page.count(&[("result", "applied")], facts.reloads_ok);
    page.count(&[("result", "rejected")], facts.reloads_failed);
    page.family("ringway_upgrades_total", "counter", "Replacements of the running program, by result.");
    for (result, count) in ["done", "failed", "refused"].iter().zip(facts.upgrades) {
        page.count(&[("result", result)], count);
    }
    page.family("ringway_access_log_write_errors_total", "counter", "Writes of the access log that failed.");
    page.count(&[], facts.log_write_errors);
    page.family("ringway_process_log_dropped_total", "counter", "Lines of the process log that were dropped.");
    page.count(&[], facts.process_log_dropped);
}

/// Series are bounded by the configuration, and here.
fn certificate_family(page: &mut Page, certificates: &[CertificateFacts]) {
    if certificates.is_empty() {
        return;
    }
    page.family("ringway_tls_certificate_days_left", "gauge", "Days until a certificate expires.");
    for one in &certificates[..certificates.len().min(SERIES_MAX)] {
        page.number(&[("listener", &one.listener), ("certificate", &one.label)], one.days_left);
    }
}

/// Only where there are any.
fn trust_families(page: &mut Page, facts: &ControlFacts) {
    let stapled = || facts.certificates.iter().take(SERIES_MAX).filter_map(|one| Some((one, one.staples?)));
    if stapled().next().is_some() {
        let help = "Whether the OCSP response of a certificate is stapled; 0 when it is over or bad.";
        page.family("ringway_tls_ocsp_stapled", "gauge", help);
        for (one, staples) in stapled() {
            page.count(&[("listener", &one.listener), ("certificate", &one.label)], u64::from(staples));
        }
    }
    if !facts.lists.is_empty() {
        page.family("ringway_tls_crl_days_left", "gauge", "Days until a revocation list promises the next one.");
        for (listener, list, days_left) in facts.lists.iter().take(SERIES_MAX) {
            page.number(&[("listener", listener), ("list", list)], *days_left);
        }
    }
}

fn acme_families(page: &mut Page, facts: &AcmeFacts) {
    if facts.names == 0 {
        return;
    }
    for (name, help, value) in [
        ("ringway_acme_names", "Names that certificates are ordered for.", facts.names),
        ("ringway_acme_names_without_certificate", "Of these, names that have none yet.", facts.missing),
    ] {
        page.family(name, "gauge", help);
        page.count(&[], value);
    }
    page.family("ringway_acme_orders_total", "counter", "Certificates that were obtained.");
    page.count(&[], facts.orders);
    page.family("ringway_acme_failures_total", "counter", "Orders of certificates that failed, by reason.");
    for (reason, count) in &facts.failed {
        page.count(&[("reason", reason)], *count);
    }
}

fn limit_families(page: &mut Page, limits: &[LimitFacts]) {
    let limits = &limits[..limits.len().min(SERIES_MAX)];
    let mut family = |name: &str, help: &str, value: fn(&LimitFacts) -> u64| {
        page.family(name, "gauge", help);
        limits.iter().for_each(|limit| page.count(&[("limit", &limit.name)], value(limit)));
    };
    family("ringway_limit_requests_max", "Requests that may be in flight; for each key, if any.", |one| one.limit);
    family("ringway_limit_requests_in_flight", "Requests in flight under a limit.", |one| one.in_flight);
    family("ringway_limit_requests_queued", "Requests that wait at a limit.", |one| one.queued);
    page.family("ringway_limit_refused_total", "counter", "Requests that a limit did not let through.");
    for limit in limits {
        for (reason, count) in &limit.refused {
            page.count(&[("limit", &limit.name), ("reason", reason)], *count);
        }
    }
}

fn fate_families(page: &mut Page, fates: &[WorkerFate]) {
    let mut family = |name: &str, help: &str, count: fn(&WorkerFate) -> u64| {
        page.family(name, "counter", help);
        for (worker, fate) in fates.iter().enumerate() {
            page.count(&[("worker", &worker.to_string())], count(fate));
        }
    };
    family("ringway_worker_restarts_total", "Times that a worker was started again after it had died.", |f| f.restarts);
    family("ringway_worker_stalls_total", "Times that a worker took no turn for a second.", |f| f.stalls);
}

fn memory_families(page: &mut Page, facts: &MemoryFacts) {
    if facts.limit_bytes == 0 {
        return;
    }
    for (name, help, value) in [
        ("ringway_memory_limit_bytes", "The memory limit.", facts.limit_bytes),
        ("ringway_memory_used_bytes", "What is in use of the memory limit.", facts.used_bytes),
        ("ringway_memory_held_bytes", "What workers hold by their own count.", facts.held_bytes),
        ("ringway_memory_group_bytes", "What the control group is charged for, files apart.", facts.group_bytes),
        ("ringway_memory_level", "0 ample, 1 connections close (90 %), 2 requests are refused (95 %).", facts.level),
    ] {
        page.family(name, "gauge", help);
        page.count(&[], value);
    }
}

fn discovery_families(page: &mut Page, facts: &DiscoveryFacts) {
    if facts.lookups.is_empty() {
        return;
    }
    let help = "Age of the oldest answer that is used because newer ones failed.";
    page.family("ringway_discovery_stale_seconds", "gauge", help);
    page.count(&[], facts.stale_s);
    page.family("ringway_discovery_lookups", "gauge", "Lookups of endpoints, by kind and state.");
    for (kind, state, count) in &facts.lookups {
        page.count(&[("kind", kind), ("state", state)], *count);
    }
    for (name, help, value) in [
        ("ringway_discovery_answers_total", "Lookups of endpoints that were answered.", facts.answers),
        ("ringway_discovery_failures_total", "Lookups of endpoints that failed.", facts.failures),
        ("ringway_discovery_updates_total", "Sets of endpoints that were replaced without a reload.", facts.sets),
    ] {
        page.family(name, "counter", help);
        page.count(&[], value);
    }
}

fn store_families(page: &mut Page, facts: Option<StoreFacts>) {
    let Some(facts) = facts else { return };
    for (name, kind, help, value) in [
        (
            "ringway_config_store_up",
            "gauge",
            "Whether the store of the configuration can be read.",
            u64::from(facts.is_up),
        ),
        (
            "ringway_config_store_copy",
            "gauge",
            "Whether the copy serves, for the store has not answered since the start.",
            u64::from(facts.is_copy),
        ),
        (
            "ringway_config_store_stale_seconds",
            "gauge",
            "How long ago the store of the configuration answered last; 0 while it answers.",
            facts.stale_s,
        ),
        (
            "ringway_config_store_failures_total",
            "counter",
            "How often the store of the configuration could not be read.",
            facts.failures,
        ),
    ] {
        page.family(name, kind, help);
        page.count(&[], value);
    }
}

fn process_families(page: &mut Page, facts: &ProcessFacts) {
    page.family("process_cpu_seconds_total", "counter", "User and system processor time.");
    page.number(&[], facts.cpu_seconds);
    page.family("process_resident_memory_bytes", "gauge", "Resident memory.");
    page.count(&[], facts.resident_bytes);
    page.family("process_virtual_memory_bytes", "gauge", "Virtual memory.");
    page.count(&[], facts.virtual_bytes);
    page.family("process_open_fds", "gauge", "Open file descriptors.");
    page.count(&[], facts.open_fds);
    page.family("process_max_fds", "gauge", "The most file descriptors that may be open.");
    page.count(&[], facts.max_fds);
    page.family("process_threads", "gauge", "Threads.");
    page.count(&[], facts.threads);
    page.family("process_start_time_seconds", "gauge", "Start of the process since the Unix epoch.");
    page.number(&[], facts.start_seconds);
}

/// The label values; a missing one is empty.
fn texts<const N: usize>(labels: &Labels) -> [&str; N] {
    std::array::from_fn(|at| labels.get(at).map_or("", |label| &**label))
}
