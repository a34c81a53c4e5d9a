//! How services survive: from the written rules to those of the data path.

use std::sync::Arc;

use crate::config::model;
use crate::upstream::breaker::{Breaker, BreakerRules, BreakerSpec};
use crate::upstream::check::{CheckRules, Probe};
use crate::upstream::health::Returning;
use crate::upstream::rules::{
    Backoff, BudgetRules, EjectionRules, OutlierRules, Resilience, RetryRules, SelectionRules,
};
use crate::upstream::sticky::Sticky;

pub(super) fn resilience(written: &model::Service, zone: &str) -> Resilience {
    let ejection = &written.ejection;
    Resilience {
        ejection: EjectionRules {
            failures: ejection.failures.get() as u32,
            gateway_errors: ejection.gateway_errors.get() as u32,
            server_errors: ejection.server_errors.get() as u32,
            percent_max: ejection.percent_max.get() as u32,
            outliers: ejection.outliers.as_ref().map(|outliers| OutlierRules {
                window_ms: outliers.window.as_millis() as u64,
                requests_min: outliers.requests_min.get() as u32,
                endpoints_min: outliers.endpoints_min.get() as u32,
                // Saturating; a negative number ejects nobody below the mean by mistake.
                deviations_milli: (outliers.deviations * 1_000.0) as u32,
            }),
        },
        returning: Returning {
            base_ms: ejection.base.as_millis() as u64,
            max_ms: ejection.max.as_millis() as u64,
            slow_start_ms: written.slow_start.as_millis() as u64,
        },
        selection: SelectionRules {
            panic_percent: written.panic.threshold.get() as u32,
            panic_fails: written.panic.then == model::PanicMode::Fail,
            overprovision_percent: written.overprovision.get() as u32,
            zone: zone.to_owned(),
        },
        retries: retries(&written.retries),
    }
}

pub(super) fn check(written: &model::HealthCheck) -> CheckRules {
    let fields = || written.headers.iter().map(|(k, v)| (k.as_str().to_owned(), v.as_str().to_owned())).collect();
    let probe = match written.kind {
        model::CheckKind::Tcp => Probe::Tcp,
        model::CheckKind::Grpc => {
            let service = written.service.clone().unwrap_or_default();
            Probe::Grpc { service, host: written.host.clone(), fields: fields() }
        }
        model::CheckKind::Http => Probe::Http {
            method: written.method.as_str().to_owned(),
            path: written.path.clone(),
            host: written.host.clone(),
            fields: fields(),
            statuses: written.statuses.iter().map(|status| status.get() as u16).collect(),
            body: written.body.clone(),
        },
    };
    CheckRules {
        probe,
        port: written.port.map(|port| port.get() as u16),
        interval_ms: written.interval.as_millis() as u64,
        jitter_percent: written.jitter.get(),
        timeout_ms: written.timeout.as_millis() as u64,
        rise: written.rise.get() as u32,
        fall: written.fall.get() as u32,
        begins_down: written.initial == model::CheckInitial::Unhealthy,
    }
}

pub(super) fn sticky(written: &model::StickyConfig, service: &str) -> Arc<Sticky> {
    let age_s = written.max_age.map(|age| age.as_millis() as u64 / 1_000);
    Arc::new(Sticky::new(&written.cookie, age_s, written.secret.expose().as_bytes(), service))
}

/// A breaker with these numbers; one of the same name goes on with its state.
pub(super) fn breaker(name: &str, written: &model::CircuitBreaker, known: Option<Arc<Breaker>>) -> BreakerSpec {
    let rules = BreakerRules {
        failure_threshold: written.failure_threshold.get() as u32,
        open_ms: written.timeout.as_millis() as u64,
        half_open_requests: written.half_open_requests.get() as u32,
        statuses: written.statuses.iter().map(|status| status.get() as u16).collect(),
    };
    BreakerSpec { name: name.to_owned(), rules, shared: known.unwrap_or_default() }
}

pub(super) fn retries(written: &model::Retries) -> RetryRules {
    let on = |what| written.on.contains(&what);
    RetryRules {
        attempts_max: written.attempts.get() as u32,
        per_try_ms: written.per_try_timeout.map(|timeout| timeout.as_millis() as u64),
        on_connect: on(model::RetryOn::Connect),
        on_reset: on(model::RetryOn::Reset),
        on_timeout: on(model::RetryOn::Timeout),
        statuses: written.statuses.iter().map(|status| status.get() as u16).collect(),
        grpc_codes: written.grpc_codes.iter().map(|code| code.get() as u32).collect(),
        same_endpoint: written.same_endpoint,
        any_method: written.any_method,
        idempotency_key: written.idempotency_key,
        replay_bytes_max: written.replay_bytes_max.get() as usize,
        backoff: Backoff {
            linear: written.backoff.kind == model::BackoffKind::Linear,
            base_ms: written.backoff.base.as_millis() as u64,
            max_ms: written.backoff.max.as_millis() as u64,
        },
        budget: BudgetRules {
            percent: written.budget.percent.get() as u32,
            per_second: written.budget.per_second.get() as u32,
            least: written.budget.least.get() as u32,
        },
        deadline_header: written.deadline_header.as_ref().map(|name| name.as_str().to_owned()),
    }
}
