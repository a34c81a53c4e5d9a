//! What the admin API asks of the control thread.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use crate::control::orders::Change;

/// An answer that may have to wait for workers. Dropping it must leave everything in order: clients go away.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The gateway, as the admin API sees it. No method may block the thread, and none may return a secret.
pub trait AdminBackend: Send + Sync {
    /// Whether new traffic should come here.
    fn ready(&self) -> Readiness;
    /// Summary of the gateway's own state.
    fn health(&self) -> Answer<'_, Health>;
    /// The metrics page; None when it cannot be made. A worker that stays silent is shown as down; it does not hold the
    /// page up.
    fn metrics_text(self: Arc<Self>) -> Answer<'static, Option<String>>;
    /// The configuration that serves, redacted, with its generation and what the last failed reload said (A30).
    fn config_json(&self) -> Value;
    /// Loads the configuration anew.
    fn reload(&self) -> Answer<'_, ReloadOutcome>;
    /// Replaces the running program.
    fn upgrade(&self) -> Answer<'_, UpgradeOutcome>;
    /// All services.
    fn services(&self) -> Answer<'_, Value>;
    /// The endpoints of a service; None when there is no such service.
    fn endpoints<'a>(&'a self, service: &'a str) -> Answer<'a, Option<Value>>;
    /// Drains an endpoint, or whatever else is wanted of it.
    fn order_endpoint(&self, order: EndpointOrder) -> Answer<'_, EndpointOutcome>;
    /// The last changes of endpoints and lookups, oldest first.
    fn events(&self) -> Value;
    /// The certificates of listeners, and how those are doing that the gateway orders itself. No keys.
    fn certificates(&self) -> Value;
    /// All circuit breakers.
    fn breakers(&self) -> Value;
    /// Closes a circuit breaker. Returns its state then; None when there is none of that name.
    fn reset_breaker(&self, name: &str) -> Option<Value>;
    /// All workers.
    fn workers(&self) -> Answer<'_, Value>;
    /// Policies in use and those that the build knows.
    fn policies(&self) -> Value;
    /// Version, build features, kernel features in use.
    fn version(&self) -> Value;
}

/// Answer of `/ready`.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    /// State of the gateway.
    pub status: ReadyStatus,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// Whether new traffic should come here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReadyStatus {
    /// Yes.
    Ready,
    /// Not yet.
    Starting,
    /// Not any more.
    Draining,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What.
    pub name: String,
    /// Whether it is well.
    pub ok: bool,
    /// More for operators; may be empty.
    pub detail: String,
}

/// Answer of `/health` (R114).
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// The judgement.
    pub status: HealthStatus,
    /// Share of requests answered with 5xx.
    pub error_rates: ErrorRates,
    /// Mean duration of requests in milliseconds.
    pub average_response_time: f64,
    /// Open downstream connections.
    pub active_connections: u64,
    /// Requests that the rates are about.
    pub requests: u64,
    /// Workers that answered.
    pub workers_up: usize,
    /// Workers that there should be.
    pub workers: usize,
    /// Seconds since the start.
    pub uptime_seconds: u64,
}

/// Shares from 0 to 1.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorRates {
    /// Of all requests.
    pub all: f64,
}

/// The judgement of R113.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// All is well.
    Healthy,
    /// Error rate over 5 %, or slower than a second in the mean, or a worker is silent.
    Degraded,
    /// Error rate over 10 %.
    Unhealthy,
}

impl HealthStatus {
    /// Judges an error rate from 0 to 1 and a mean duration.
    pub fn judge(error_rate: f64, average_ms: f64, all_workers_up: bool) -> Self {
        match () {
            () if error_rate > 0.10 => HealthStatus::Unhealthy,
            () if error_rate > 0.05 || average_ms > 1_000.0 || !all_workers_up => HealthStatus::Degraded,
            () => HealthStatus::Healthy,
        }
    }
}

/// What became of a reload.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum ReloadOutcome {
    /// The new configuration serves.
    Applied {
        /// Its generation.
        generation: u64,
        /// What is different.
        changes: Value,
    },
    /// The configuration is the one that serves already.
    Unchanged {
        /// Its generation.
        generation: u64,
    },
    /// The new configuration is wrong; the old one serves on.
    Rejected {
        /// The generation that serves on.
        generation: u64,
        /// All diagnostics.
        diagnostics: Value,
    },
    /// Another reload is under way, or the gateway is stopping.
    Busy,
}

/// What an operator wants of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointOrder {
    /// Its service.
    pub service: String,
    /// Its address, as the service has it or as it is resolved.
    pub address: String,
    /// What.
    pub change: Change,
    /// Why; may be empty.
    pub why: String,
}

/// What became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointOutcome {
    /// It holds, as the value tells.
    Done(Value),
    /// There is no such service.
    NoService,
    /// The service has no such endpoint.
    NoEndpoint,
    /// As many endpoints as may be are otherwise than the configuration says.
    Full,
    /// Another process serves: it is to be told.
    Replaced,
}

/// What became of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "result", rename_all = "lowercase")]
pub enum UpgradeOutcome {
    /// The new program serves; the old one finishes what it has and ends.
    Done {
        /// Its process.
        pid: u32,
    },
    /// The new program did not get ready; the old one serves on as before.
    Failed {
        /// Why.
        error: String,
    },
    /// None was begun.
    Refused {
        /// Why.
        error: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_is_judged_by_the_bounds_of_the_requirement() {
        let judge = |rate, ms| HealthStatus::judge(rate, ms, true);
        assert_eq!(judge(0.10, 0.0), HealthStatus::Degraded);
        assert_eq!(judge(0.101, 0.0), HealthStatus::Unhealthy);
        assert_eq!(judge(0.05, 1_000.0), HealthStatus::Healthy);
        assert_eq!(judge(0.0, 1_000.1), HealthStatus::Degraded);
        assert_eq!(HealthStatus::judge(0.0, 0.0, false), HealthStatus::Degraded);
    }
}
