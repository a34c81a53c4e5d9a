//! Certificates that the gateway orders and renews by itself (RFC 8555).
//!
//! Each authority has one task on the control thread, which orders what is due, one name after another. What it gets
//! goes to disk (`storage`) and into the slots that handshakes read (`tls::managed`): no configuration is loaded
//! again for it. Several processes may share a storage: one of them orders at a time, the others show its proofs
//! meanwhile and take up what it got.
//!
//! A failure leaves the present certificate where it is, and is not repeated soon (`schedule`), not by a process that
//! is started again either.

#[cfg(feature = "acme")]
mod client;
#[cfg(feature = "acme")]
mod order;
mod schedule;
mod storage;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use self::storage::{Asked, Attempts, Lock};
use super::discovery::state::{Event, Events};
use super::disk;
use crate::limits::{ACME_ORDER_MS, ACME_PAUSE_MS, ACME_WATCH_MS};
use crate::telemetry::log;
use crate::telemetry::metrics::exposition::AcmeFacts;
use crate::time;
use crate::tls::managed::{Plan, Proofs, Settings, Site, Slot};
use crate::tls::{Known, Pair};

/// How long a task sleeps at most: the wall clock may jump, and files may come from elsewhere.
const LOOK_S: u64 = 60;

/// Why there is no certificate, in a word: the label of the metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The authority does not answer, or not as one.
    Unreachable,
    /// It did not see what was to be proved.
    Challenge,
    /// It has had enough orders.
    RateLimited,
    /// It does not want to.
    Refused,
    /// It took too long.
    Timeout,
    /// What was got cannot be kept.
    Storage,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Unreachable, Self::Challenge, Self::RateLimited, Self::Refused, Self::Timeout, Self::Storage];

    /// The word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Challenge => "challenge",
            Self::RateLimited => "rate_limited",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Storage => "storage",
        }
    }
}

/// Why an order failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What kind of failure it is.
    pub kind: Kind,
    /// For operators.
    pub text: String,
    /// The authority asks to be left alone for so long, in seconds.
    pub retry_after_s: Option<u64>,
    /// The authority does not know the account.
    pub account_is_gone: bool,
}

impl Trouble {
    /// Of this kind.
    pub fn new(kind: Kind, text: impl std::fmt::Display) -> Self {
        Self { kind, text: text.to_string(), retry_after_s: None, account_is_gone: false }
    }
}

/// All orders.
#[derive(Default)]
pub struct Acme {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Vec<(Arc<Site>, AbortHandle)>,
    /// By the name's home on disk.
    names: BTreeMap<PathBuf, Status>,
    orders: u64,
    failed: BTreeMap<Kind, u64>,
    events: Events,
}

/// How a name is doing, beside its certificate.
#[derive(Clone, Debug, Default)]
struct Status {
    attempts: Attempts,
    /// When it is looked at next, in seconds since the Unix epoch.
    next_s: u64,
    /// What goes on.
    doing: Option<&'static str>,
}

/// What another process has to prove, and this one shows too.
#[derive(Default)]
struct Mirror(Vec<storage::Proof>);

impl Acme {
    /// Orders what this configuration names, and nothing else from now on. Must run on the control thread's runtime.
    pub fn follow(self: &Arc<Self>, plan: &Plan) {
        let mut state = self.state();
        let is_same = |one: &Site, other: &Site| {
            let names = |site: &Site| site.slots.iter().map(Arc::as_ptr).collect::<Vec<_>>();
            one.settings == other.settings && names(one) == names(other)
        };
        let before = std::mem::take(&mut state.running);
        for site in &plan.sites {
            let running = before.iter().find(|(known, _)| is_same(known, site));
            let running = running.cloned().unwrap_or_else(|| {
                let this = self.clone();
                let (site, proofs) = (site.clone(), plan.proofs.clone());
                (site.clone(), tokio::spawn(async move { this.run(site, proofs).await }).abort_handle())
            });
            state.running.push(running);
        }
        for (site, task) in &before {
            if !state.running.iter().any(|(known, _)| Arc::ptr_eq(known, site)) {
                task.abort();
            }
        }
        let homes = plan.sites.iter().flat_map(|site| site.slots.iter().map(|slot| site.settings.home(&slot.name)));
        let homes: Vec<PathBuf> = homes.collect();
        state.names.retain(|home, _| homes.contains(home));
    }

    async fn run(self: Arc<Self>, site: Arc<Site>, proofs: Arc<Proofs>) {
        for slot in site.slots.iter().filter(|slot| slot.get().is_none()) {
            log::info("no certificate yet, one is ordered", &[("name", &slot.name)]);
        }
        let mut mirror = Mirror::default();
        loop {
            let pause = Box::pin(self.turn(&site, &proofs, &mut mirror)).await;
            sleep(pause).await;
        }
    }

    /// Orders what is due first, if anything is, and says how long to wait before the next turn.
    async fn turn(&self, site: &Site, proofs: &Proofs, mirror: &mut Mirror) -> Duration {
        let now_s = time::unix_seconds();
        let mut next_s = now_s + LOOK_S;
        for slot in &site.slots {
            let due_s = self.due_s(&site.settings, slot, now_s);
            if due_s > now_s {
                next_s = next_s.min(due_s);
                continue;
            }
            let lock = match storage::lock(&site.settings, now_s) {
                Ok(Asked::Ours(lock)) => lock,
                Ok(Asked::Held) => {
                    self.note(&site.settings, slot, |status| status.doing = Some("ordered by another process"));
                    mirror.follow(&site.settings, proofs);
                    return Duration::from_millis(ACME_WATCH_MS);
                }
                Err(error) => {
                    let trouble = Trouble::new(Kind::Storage, format!("the storage cannot be written: {error}"));
                    self.failed(&site.settings, slot, trouble);
                    continue;
                }
            };
            mirror.clear(proofs);
            // Whoever had the lock before may have got it.
            if self.due_s(&site.settings, slot, now_s) <= now_s {
                Box::pin(self.obtain(&site.settings, slot, proofs, &lock)).await;
            }
            return Duration::from_millis(ACME_PAUSE_MS);
        }
        mirror.clear(proofs);
        Duration::from_secs(next_s.saturating_sub(now_s).max(1))
    }

    /// When this name is to be ordered next, in seconds since the Unix epoch.
    fn due_s(&self, settings: &Settings, slot: &Slot, now_s: u64) -> u64 {
        let by_life = |slot: &Slot| slot.get().map_or(0, |pair| renewal_s(&pair));
        if by_life(slot) <= now_s && storage::take_up(settings, slot) {
            self.tell(&slot.name, "certificate taken up", "another process has ordered it".to_owned());
            self.note(settings, slot, |status| status.attempts = Attempts::default());
        }
        let due_s = by_life(slot);
        let read = (due_s <= now_s).then(|| storage::attempts(settings, &slot.name));
        let mut next_s = due_s;
        self.note(settings, slot, |status| {
            if let Some(read) = read {
                // A storage that cannot be written keeps nothing: then what is in memory counts.
                if read.not_before_s >= status.attempts.not_before_s || status.attempts.not_before_s <= now_s {
                    status.attempts = read;
                }
                next_s = due_s.max(status.attempts.not_before_s);
            }
            (status.next_s, status.doing) = (next_s, None);
        });
        next_s
    }

    async fn obtain(&self, settings: &Settings, slot: &Slot, proofs: &Proofs, lock: &Lock) {
        self.note(settings, slot, |status| status.doing = Some("ordering"));
        let wait = Duration::from_millis(ACME_ORDER_MS);
        let ordered = timeout(wait, Box::pin(ordered(settings, &slot.name, proofs, lock))).await;
        let ordered = ordered.unwrap_or_else(|_| Err(Trouble::new(Kind::Timeout, "the order took too long")));
        let kept = ordered.and_then(|pem| keep(settings, slot, &pem));
        match kept {
            Ok(days) => {
                let mut state = self.state();
                state.orders += 1;
                state.names.insert(settings.home(&slot.name), Status::default());
                drop(state);
                log::info("certificate obtained", &[("name", &slot.name), ("days", &days)]);
                self.tell(&slot.name, "certificate obtained", format!("good for {days} days"));
            }
            Err(trouble) => self.failed(settings, slot, trouble),
        }
    }

    fn failed(&self, settings: &Settings, slot: &Slot, trouble: Trouble) {
        let now_s = time::unix_seconds();
        let known = self.state().names.get(&settings.home(&slot.name)).map(|status| status.attempts.failures);
        let failures = storage::attempts(settings, &slot.name).failures.max(known.unwrap_or(0)) + 1;
        let chance = time::Now::read().0;
        let is_unreachable = trouble.kind == Kind::Unreachable;
        let pause_s = schedule::pause_s(failures, is_unreachable, trouble.retry_after_s, chance);
        let attempts = Attempts { failures, not_before_s: now_s + pause_s, error: trouble.text.clone() };
        if let Err(error) = storage::write_attempts(settings, &slot.name, &attempts) {
            log::error("what was tried cannot be kept", &[("name", &slot.name), ("error", &error)]);
        }
        self.note(settings, slot, |status| {
            *status = Status { next_s: attempts.not_before_s, attempts: attempts.clone(), doing: None };
        });
        *self.state().failed.entry(trouble.kind).or_default() += 1;
        log::error(
            "no certificate obtained",
            &[
                ("name", &slot.name),
                ("reason", &trouble.kind.word()),
                ("error", &trouble.text),
                ("failures", &failures),
                ("again_in_s", &pause_s),
                ("serves", &if slot.get().is_some() { "the one before" } else { "none" }),
            ],
        );
        self.tell(&slot.name, "no certificate obtained", trouble.text);
    }

    fn note(&self, settings: &Settings, slot: &Slot, change: impl FnOnce(&mut Status)) {
        change(self.state().names.entry(settings.home(&slot.name)).or_default());
    }

    fn tell(&self, name: &str, what: &'static str, why: String) {
        self.state().events.add(name.to_owned(), what, why);
    }

    /// The last changes, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.all().cloned().collect()
    }

    /// For metrics.
    pub fn facts(&self, plan: &Plan) -> AcmeFacts {
        let state = self.state();
        let slots = || plan.sites.iter().flat_map(|site| &site.slots);
        let failed = |kind: &Kind| (kind.word(), state.failed.get(kind).copied().unwrap_or(0));
        AcmeFacts {
            names: slots().count() as u64,
            missing: slots().filter(|slot| slot.get().is_none()).count() as u64,
            orders: state.orders,
            failed: Kind::ALL.iter().map(failed).collect(),
        }
    }

    /// How the names of a configuration are doing, for the admin API.
    pub fn json(&self, plan: &Plan) -> Value {
        let state = self.state();
        let one = |site: &Site, slot: &Slot| {
            let status = state.names.get(&site.settings.home(&slot.name)).cloned().unwrap_or_default();
            let pair = slot.get();
            json!({
                "name": slot.name,
                "authority": site.settings.directory,
                "challenge": site.settings.method.word(),
                "state": status.doing.unwrap_or(match (&pair, status.attempts.failures) {
                    (Some(_), 0) => "valid",
                    (Some(_), _) => "valid, renewal failed",
                    (None, 0) => "waiting",
                    (None, _) => "failed",
                }),
                "certificate": pair.as_ref().map(|pair| facts_of(&Known::of(pair))),
                "renewal_unix_s": pair.as_ref().map(|pair| renewal_s(pair)),
                "next_unix_s": status.next_s,
                "failures": status.attempts.failures,
                "error": (!status.attempts.error.is_empty()).then_some(&status.attempts.error),
            })
        };
        let of_site = |site: &Arc<Site>| site.slots.iter().map(|slot| one(site, slot)).collect::<Vec<_>>();
        Value::Array(plan.sites.iter().flat_map(of_site).collect())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A certificate for the admin API.
pub fn facts_of(known: &Known) -> Value {
    json!({
        "from": known.label,
        "names": known.names,
        "not_before_unix_s": known.not_before_s,
        "not_after_unix_s": known.not_after_s,
        "fingerprint": known.fingerprint.iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
    })
}

/// Processes that share a certificate draw the same chance from it.
fn renewal_s(pair: &Pair) -> u64 {
    let chance = pair.fingerprint.first_chunk::<8>().map_or(0, |bytes| u64::from_be_bytes(*bytes));
    schedule::renewal_s(pair.not_before_s, pair.not_after_s, chance).max(0) as u64
}

#[cfg(feature = "acme")]
async fn ordered(settings: &Settings, name: &str, proofs: &Proofs, lock: &Lock) -> Result<String, Trouble> {
    Box::pin(order::order(settings, name, proofs, lock)).await
}

#[cfg(not(feature = "acme"))]
async fn ordered(_: &Settings, _: &str, _: &Proofs, _: &Lock) -> Result<String, Trouble> {
    Err(Trouble::new(Kind::Refused, "this build orders no certificates"))
}

/// Serves and keeps what was got. What cannot be kept serves as well.
fn keep(settings: &Settings, slot: &Slot, pem: &str) -> Result<i64, Trouble> {
    let file = settings.pair_file(&slot.name);
    let refused = |what: String| Trouble::new(Kind::Refused, what);
    let pair = Pair::read(pem.as_bytes(), pem.as_bytes(), None, file.display().to_string()).map_err(refused)?;
    let now_s = time::unix_seconds();
    if !pair.names.contains(&slot.name) || pair.not_after_s <= now_s as i64 {
        return Err(refused("the certificate is for another name, or over".to_owned()));
    }
    let days = pair.days_left(now_s);
    slot.set(pair);
    let kept = disk::write(&file, pem.as_bytes());
    let kept = kept.and_then(|()| storage::write_attempts(settings, &slot.name, &Attempts::default()));
    kept.map(|()| days).map_err(|error| Trouble::new(Kind::Storage, format!("it serves, but is not kept: {error}")))
}

impl Mirror {
    /// Shows what others have to prove at present, and nothing else.
    #[cfg(feature = "acme")]
    fn follow(&mut self, settings: &Settings, proofs: &Proofs) {
        let found = storage::proofs(settings);
        self.0.retain(|known| {
            let stays = found.contains(known);
            if !stays {
                proofs.remove(&known.token, &known.name);
            }
            stays
        });
        for proof in found {
            if !self.0.contains(&proof) && order::show(proofs, &proof).is_ok() {
                self.0.push(proof);
            }
        }
    }

    #[cfg(not(feature = "acme"))]
    fn follow(&mut self, _: &Settings, _: &Proofs) {}

    fn clear(&mut self, proofs: &Proofs) {
        self.0.drain(..).for_each(|known| proofs.remove(&known.token, &known.name));
    }
}
