//! Collects the workers' answers to one question, without waiting for a silent one.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::telemetry::metrics::exposition::WorkerReport;
use crate::telemetry::metrics::snapshot::WorkerSnapshot;

/// How long a scrape waits for all workers together.
pub const GATHER_TIMEOUT_MS: u64 = 1_000;

/// The counters of all workers that were asked. `asked` has the number of each worker and where its answer will arrive.
/// All answers share one deadline; a worker that is late or gone is reported without counters.
pub async fn gather(asked: Vec<(u32, oneshot::Receiver<WorkerSnapshot>)>, timeout: Duration) -> Vec<WorkerReport> {
    let deadline = tokio::time::Instant::now() + timeout;
    let mut reports = Vec::with_capacity(asked.len());
    for (worker, answer) in asked {
        let snapshot = tokio::time::timeout_at(deadline, answer).await.ok().and_then(Result::ok);
        reports.push(WorkerReport { worker, snapshot });
    }
    reports
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::WorkerMetrics;
    use crate::time::Now;

    #[tokio::test]
    async fn silent_and_dead_workers_are_reported_without_counters() {
        let (quick, quick_answer) = oneshot::channel();
        let (_silent, silent_answer) = oneshot::channel();
        let (dead, dead_answer) = oneshot::channel();
        drop(dead);
        assert!(quick.send(WorkerMetrics::new(2, Now(1)).snapshot()).is_ok());
        let asked = vec![(0, silent_answer), (1, dead_answer), (2, quick_answer)];
        let reports = gather(asked, Duration::from_millis(20)).await;
        let up: Vec<_> = reports.iter().map(|report| (report.worker, report.snapshot.is_some())).collect();
        assert_eq!(up, [(0, false), (1, false), (2, true)]);
    }
}
