//! Active checks of endpoints: one prober for the process, on the control thread (R108-R111, C26). Workers see its
//! verdicts with their next request.

mod grpc;
mod probe;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::limits::{CHECK_HISTORY_MAX, CHECKS_AT_ONCE_MAX, CHECKS_LOOK_MS, CHECKS_REST_MS, CHECKS_TAKE_UP_MS};
use crate::random::next;
use crate::snapshot::{Service, Snapshot};
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::CheckFacts;
use crate::time::{self, Now};
use crate::tls::ClientTls;
use crate::upstream::check::{CheckRules, Row};
use crate::upstream::health::Verdict;
use crate::upstream::state::ServiceState;

/// What is known of the checks, for the admin API and metrics.
#[derive(Debug, Default)]
pub struct Checks {
    known: Mutex<Known>,
    /// Wakes the prober for a new configuration.
    anew: Notify,
}

#[derive(Debug, Default)]
struct Known {
    /// By service and endpoint.
    endpoints: BTreeMap<(String, String), Checked>,
    /// By service: checks that passed, that failed, and what they took together in microseconds.
    counts: BTreeMap<String, [u64; 3]>,
}

/// An endpoint that is checked.
#[derive(Debug)]
struct Checked {
    rules: Arc<CheckRules>,
    state: Arc<ServiceState>,
    address: SocketAddr,
    tls: Option<Arc<ClientTls>>,
    row: Row,
    due: Now,
    under_way: bool,
    history: VecDeque<Outcome>,
}

/// The result of one check.
#[derive(Clone, Debug)]
struct Outcome {
    at: Now,
    us: u64,
    /// Why it failed; None when it passed.
    failure: Option<String>,
}

/// A result on its way back.
struct Done {
    key: (String, String),
    outcome: Outcome,
}

impl Checks {
    /// Checks for ever what `snapshot` gives. It is woken when a check is due, and seldom while there are none.
    pub async fn run(self: Arc<Self>, snapshot: impl Fn() -> Arc<Snapshot>, seed: u64) {
        let (sender, mut results) = mpsc::channel(CHECKS_AT_ONCE_MAX);
        let places = Arc::new(Semaphore::new(CHECKS_AT_ONCE_MAX));
        let mut random = seed;
        let (mut take_up, mut look) = (Now::read(), Now::read());
        loop {
            let next = take_up.min(look);
            tokio::select! {
                () = sleep_until(next) => {
                    let now = Now::read();
                    if now >= take_up {
                        let any = self.take_up(&snapshot(), &mut random);
                        take_up = now.plus_ms(if any { CHECKS_TAKE_UP_MS } else { CHECKS_REST_MS });
                    }
                    look = self.begin(&places, &sender, &mut random).max(now.plus_ms(CHECKS_LOOK_MS));
                }
                () = self.anew.notified() => take_up = Now::read(),
                Some(done) = results.recv() => {
                    if let Some(due) = self.finish(done, &mut random) {
                        look = look.min(due.max(Now::read().plus_ms(CHECKS_LOOK_MS)));
                    }
                }
            }
        }
    }

    /// To be called when there is a new configuration.
    pub fn look_anew(&self) {
        self.anew.notify_one();
    }

    /// Fits what is checked to a configuration. Whether any service of it has checks.
    fn take_up(&self, snapshot: &Snapshot, random: &mut u64) -> bool {
        let (now, mut known) = (Now::read(), self.known());
        let mut wanted = HashMap::new();
        for service in &snapshot.services {
            let Some(rules) = service.check.as_ref().filter(|_| service.is_whole()) else { continue };
            for endpoint in &service.endpoints.get().endpoints {
                if let Some(address) = endpoint.address {
                    let key = (service.label.clone(), endpoint.authority.clone());
                    wanted.insert(key, (rules.clone(), service.state.clone(), address, service.tls.clone()));
                }
            }
        }
        known.endpoints.retain(|key, checked| {
            let is_wanted = wanted.contains_key(key);
            if !is_wanted {
                checked.state.judge(&key.1, Verdict::Unknown, now, "checked no more".to_owned());
            }
            is_wanted
        });
        for (key, (rules, state, address, tls)) in wanted {
            let due = now.plus_ms(rules.first_pause_ms(next(random)));
            if let Some(checked) = known.endpoints.get_mut(&key) {
                checked.due = if checked.rules == rules { checked.due } else { due };
                (checked.rules, checked.state, checked.address, checked.tls) = (rules, state, address, tls);
                continue;
            }
            if rules.begins_down {
                state.judge(&key.1, Verdict::Down, now, "not checked yet".to_owned());
            }
            let (row, history) = (Row::default(), VecDeque::new());
            known.endpoints.insert(key, Checked { rules, state, address, tls, row, due, under_way: false, history });
        }
        let Known { endpoints, counts } = &mut *known;
        counts.retain(|service, _| endpoints.keys().any(|(name, _)| name == service));
        snapshot.services.iter().any(|service| service.check.is_some())
    }

    /// Begins the checks that are due, and returns when the next one is. After a pause of the process they are spread
    /// anew (F18).
    fn begin(&self, places: &Arc<Semaphore>, results: &mpsc::Sender<Done>, random: &mut u64) -> Now {
        let (now, mut known, mut soonest) = (Now::read(), self.known(), Now::NEVER);
        for (key, checked) in &mut known.endpoints {
            if checked.under_way {
                continue;
            }
            if now.since_ns(checked.due) / 1_000_000 > checked.rules.interval_ms {
                checked.due = now.plus_ms(checked.rules.first_pause_ms(next(random)));
            }
            if now < checked.due {
                soonest = soonest.min(checked.due);
                continue;
            }
            // The others have their turn with the next look.
            let Ok(place) = places.clone().try_acquire_owned() else { return now };
            checked.under_way = true;
            let (key, rules, results) = (key.clone(), checked.rules.clone(), results.clone());
            let (mut address, tls) = (checked.address, checked.tls.clone());
            address.set_port(rules.port.unwrap_or(address.port()));
            tokio::spawn(async move {
                let begun = Now::read();
                let failure = probe::ask(address, &key.1, &rules, tls.as_ref()).await.err();
                let now = Now::read();
                let outcome = Outcome { at: now, us: now.since_ns(begun) / 1_000, failure };
                drop(place);
                // The prober ends with the process.
                let _ = results.send(Done { key, outcome }).await;
            });
        }
        soonest
    }

    /// Takes a result in, and returns when the endpoint's next check is due.
    fn finish(&self, Done { key, outcome }: Done, random: &mut u64) -> Option<Now> {
        let mut known = self.known();
        let Known { endpoints, counts } = &mut *known;
        // It may have gone meanwhile.
        let checked = endpoints.get_mut(&key)?;
        let count = counts.entry(key.0.clone()).or_default();
        count[usize::from(outcome.failure.is_some())] += 1;
        count[2] += outcome.us;
        let now = Now::read();
        (checked.under_way, checked.due) = (false, now.plus_ms(checked.rules.pause_ms(next(random))));
        let before = checked.state.facts(&key.1).map_or(Verdict::Unknown, |facts| facts.verdict);
        let alone = before == Verdict::Down && checked.state.is_deserted(now);
        let verdict = checked.row.add(outcome.failure.is_none(), before, &checked.rules, alone);
        let why = outcome.failure.clone().unwrap_or_else(|| "checks pass".to_owned());
        if checked.history.len() >= CHECK_HISTORY_MAX {
            checked.history.pop_front();
        }
        checked.history.push_back(outcome);
        let told = (before, verdict) != (Verdict::Unknown, Verdict::Up);
        if checked.state.judge(&key.1, verdict, now, why.clone()) && told {
            let fields: [(&str, &dyn std::fmt::Display); 4] =
                [("service", &key.0), ("endpoint", &key.1), ("verdict", &verdict.word()), ("why", &why)];
            log::warn("endpoint judged by its checks", &fields);
        }
        Some(checked.due)
    }

    /// The checks of a service's endpoints, the last results with their reasons.
    pub fn of_service(&self, service: &Service) -> Value {
        let (known, now, unix_ms) = (self.known(), Now::read(), time::unix_ms());
        let of_endpoint = |endpoint: &crate::snapshot::Endpoint| {
            let checked = known.endpoints.get(&(service.label.clone(), endpoint.authority.clone()))?;
            let verdict = checked.state.facts(&endpoint.authority).unwrap_or_default().verdict;
            let result = |outcome: &Outcome| {
                json!({
                    "unix_ms": unix_ms.saturating_sub(now.since_ns(outcome.at) / 1_000_000),
                    "passed": outcome.failure.is_none(),
                    "why": outcome.failure,
                    "us": outcome.us,
                })
            };
            Some(json!({
                "address": endpoint.authority,
                "verdict": verdict.word(),
                "consecutive_failures": checked.row.failed,
                "consecutive_successes": checked.row.passed,
                "history": checked.history.iter().map(result).collect::<Vec<_>>(),
            }))
        };
        Value::Array(service.endpoints.get().endpoints.iter().filter_map(of_endpoint).collect())
    }

    /// The counts for metrics.
    pub fn facts(&self) -> Vec<CheckFacts> {
        let known = self.known();
        let fact = |(name, [passed, failed, us]): (&String, &[u64; 3])| CheckFacts {
            service: name.clone(),
            passed: *passed,
            failed: *failed,
            us: *us,
        };
        known.counts.iter().map(fact).collect()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sleeps until then, but for an hour at most.
async fn sleep_until(then: Now) {
    tokio::time::sleep(Duration::from_nanos(then.since_ns(Now::read())).min(Duration::from_secs(3_600))).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F18: whoever stood still for long asks nobody at once, and spreads what it asks.
    #[test]
    fn after_a_pause_of_the_process_checks_are_spread_anew() {
        let (checks, rules) = (Checks::default(), Arc::new(CheckRules { interval_ms: 500, ..CheckRules::default() }));
        let state = ServiceState::new([]);
        for port in 1..=400 {
            let checked = Checked {
                rules: rules.clone(),
                state: state.clone(),
                address: SocketAddr::from(([127, 0, 0, 1], port)),
                tls: None,
                row: Row::default(),
                // The start of the machine: more than an interval ago.
                due: Now::from_ms(0),
                under_way: false,
                history: VecDeque::new(),
            };
            checks.known().endpoints.insert(("up".to_owned(), port.to_string()), checked);
        }
        let before = Now::read();
        // Outside of a runtime, so that a check that began would panic.
        let soonest = checks.begin(&Arc::new(Semaphore::new(400)), &mpsc::channel(1).0, &mut 7);
        let known = checks.known();
        assert!(soonest >= before && known.endpoints.values().all(|checked| !checked.under_way));
        // Those of each tenth of the interval, 40 of 400 on average.
        let mut tenths = [0; 11];
        for checked in known.endpoints.values() {
            tenths[(checked.due.since_ns(before) / 50_000_000) as usize] += 1;
        }
        assert!(tenths[..10].iter().all(|count| (15..=70).contains(count)), "{tenths:?}");
    }
}
