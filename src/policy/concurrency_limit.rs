//! `concurrency_limit`: limits how many requests are in flight at once (F13, F14).
//!
//! ```yaml
//! policies:
//!   - concurrency_limit: 100
//!   - concurrency_limit: { requests_max: 20, key: client_ip, pending_max: 10, queue_timeout: 500ms }
//! ```
//! A request is in flight from here until its response was sent, or its client left. Past the limit it waits, at most
//! `pending_max` of them for at most `queue_timeout`, first come, first served; the newest first once the oldest has
//! waited for half of that time. Who finds the queue full or waits too long gets a 503 with `Retry-After`. The limit
//! holds for the whole node, exactly: see [`crate::concurrency`].
//!
//! With a `key` each client, header value or route has a limit of its own, so that one that asks too much at once waits
//! for itself. `limits` of a service is the same for all requests that go there, whatever their route.

use std::rc::Rc;
use std::sync::Arc;

use ahash::RandomState;

use super::rate_limit::key::Key;
use super::{Compile, CompileEnv, Flow, Hooks, Pending, Phase, Resumed, WorkerSeed};
use crate::concurrency::{Admission, Bounds, Gate, Local, Terms};
use crate::config_struct;
use crate::error::Reason;
use crate::http::exchange::{EndpointWork, Exchange};
use crate::schema::types::{Duration, Int, KeySource};
use crate::time::Now;

config_struct! {
    /// Limits how many requests are in flight at once (F13, F14).
    #[shorthand(requests_max)]
    pub struct Config {
        /// Requests in flight, in the whole node; for each key, where there is one.
        requests_max: Int<1, 1_000_000>,
        /// Requests that wait until others end, for each key; 0 refuses them at once.
        pending_max: Int<0, 10_000> = "128",
        /// How long one waits.
        queue_timeout: Duration = "1s",
        /// Whose requests are counted together. Without the header, parameter or cookie: by address.
        key: KeySource = "global",
        /// Moves the limit by latency, up to `requests_max`; without a key only.
        adaptive: Option<Adaptive>,
        /// Keys that are told apart at the same time; more share limits.
        keys_max: Int<1, 65_536> = "65536",
    }
}

config_struct! {
    /// Finds the limit by the latency of responses: it grows while endpoints are quick, and shrinks when requests begin
    /// to wait there.
    pub struct Adaptive {
        /// The limit is never lower.
        min: Int<1, 1_000_000> = "1",
    }
}

impl Adaptive {
    /// Between what the limit moves.
    pub fn bounds(&self, max: u32) -> Bounds {
        // At most a million by the schema.
        Bounds { min: (self.min.get() as u32).min(max), max }
    }
}

/// The compiled limit.
pub struct ConcurrencyLimit {
    key: Key,
    terms: Terms,
    keys: Option<usize>,
    hasher: RandomState,
    gate: Arc<Gate>,
}

impl ConcurrencyLimit {
    /// What all workers share.
    pub fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }
}

impl Compile for ConcurrencyLimit {
    type Config = Config;

    fn compile(config: &Config, env: &CompileEnv) -> Result<Self, String> {
        let key = Key::of(&config.key);
        if config.adaptive.is_some() && key != Key::Global {
            return Err("an adaptive limit has no key: it is learned from all requests together".to_owned());
        }
        // The schema bounds these numbers to 32 bits.
        let requests_max = config.requests_max.get() as u32;
        let terms = Terms {
            requests_max,
            pending_max: config.pending_max.get() as u32,
            wait_ms: config.queue_timeout.as_millis() as u64,
            adaptive: config.adaptive.as_ref().map(|adaptive| adaptive.bounds(requests_max)),
        };
        let keys = (key != Key::Global).then_some(config.keys_max.get() as usize);
        let [a, b, c, d] =
            [1, 2, 3, 4].map(|turn: u64| env.random.wrapping_mul(2 * turn + 1).rotate_left(13 * turn as u32));
        let hasher = RandomState::with_seeds(a, b, c, d);
        Ok(Self { key, terms, keys, hasher, gate: Gate::new(keys, &terms) })
    }
}

impl Hooks for ConcurrencyLimit {
    type State = Rc<Local>;

    fn new_state(&self, seed: &WorkerSeed) -> Rc<Local> {
        Local::new(self.gate.clone(), seed.index)
    }

    fn phase(&self) -> Option<Phase> {
        Some(self.key.phase())
    }

    fn inherit(&mut self, previous: &Self) {
        if self.key == previous.key && self.keys == previous.keys {
            self.hasher = previous.hasher.clone();
            self.gate = previous.gate.clone();
        }
    }

    fn adopt(&self, state: &mut Rc<Local>) {
        if !state.is_of(&self.gate) {
            *state = Local::new(self.gate.clone(), state.worker());
        }
        state.apply(&self.terms);
    }

    fn on_request(&self, state: &mut Rc<Local>, x: &mut Exchange, now: Now) -> Flow {
        match state.enter(self.key.fingerprint(&self.hasher, x), &self.terms, now) {
            Admission::In(permit) => {
                x.permits.push(permit);
                Flow::Continue
            }
            Admission::Wait(ticket) => Flow::Wait(Box::new(Pending::Place(ticket))),
            Admission::Full => Flow::fail(Reason::ConcurrencyLimited),
        }
    }

    fn on_resume(&self, _state: &mut Rc<Local>, x: &mut Exchange, outcome: Resumed, _now: Now) -> Flow {
        let Resumed::Place(outcome) = outcome;
        match outcome {
            Ok(permit) => {
                x.permits.push(permit);
                Flow::Continue
            }
            Err(reason) => Flow::fail(reason),
        }
    }

    fn on_done(&self, state: &mut Rc<Local>, x: &Exchange, now: Now) {
        let Some(bounds) = self.terms.adaptive else { return };
        match x.endpoint_work() {
            EndpointWork::Unknown => {}
            EndpointWork::Took(ns) => state.observe(Some(ns), bounds, now),
            EndpointWork::Strained => state.observe(None, bounds, now),
        }
    }

    fn explain(&self) -> String {
        let by = if self.keys.is_some() { format!(", for each {}", self.key.label()) } else { String::new() };
        format!("{}{by}", self.terms.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Tick;
    use crate::schema::decode_str;

    const SEED: WorkerSeed = WorkerSeed { index: 2_000, count: 1, random: 0, tick: Tick { now: Now(0), unix_ms: 0 } };

    fn compile(config: &str) -> Result<ConcurrencyLimit, String> {
        ConcurrencyLimit::compile(&decode_str(config)?, &CompileEnv { workers: 1, random: 7 })
    }

    fn ask(limit: &ConcurrencyLimit, state: &mut Rc<Local>, address: &str) -> (Exchange, Flow) {
        let mut x = Exchange { client_ip: address.parse().expect("an address"), ..Exchange::default() };
        let flow = limit.on_request(state, &mut x, Now(0));
        (x, flow)
    }

    #[test]
    fn places_wait_and_are_given_back_with_the_exchange() {
        let limit = compile("{requests_max: 1, pending_max: 1}").expect("legal");
        let mut state = limit.new_state(&SEED);
        let (mut first, flow) = ask(&limit, &mut state, "10.0.0.1");
        assert!(matches!(flow, Flow::Continue));
        let (mut second, flow) = ask(&limit, &mut state, "10.0.0.2");
        let Flow::Wait(pending) = flow else { panic!("{flow:?}") };
        let Pending::Place(mut ticket) = *pending;
        assert!(ticket.granted().is_none());
        let (_, flow) = ask(&limit, &mut state, "10.0.0.3");
        assert!(matches!(flow, Flow::Reply(reply) if reply.reason == Some(Reason::ConcurrencyLimited)));
        first.clear();
        let outcome = Resumed::Place(Ok(ticket.granted().expect("a place")));
        assert!(matches!(limit.on_resume(&mut state, &mut second, outcome, Now(0)), Flow::Continue));
        assert_eq!(limit.gate().report().in_flight, 1);
        drop(second);
        assert_eq!(limit.gate().report().in_flight, 0);
        let late = Resumed::Place(Err(Reason::QueueTimeout));
        let flow = limit.on_resume(&mut state, &mut first, late, Now(0));
        assert!(matches!(flow, Flow::Reply(reply) if reply.status == 503));
    }

    #[test]
    fn clients_have_limits_of_their_own() {
        let limit = compile("{requests_max: 2, pending_max: 0, key: client_ip}").expect("legal");
        let mut state = limit.new_state(&SEED);
        let held: Vec<_> = (0..3).map(|_| ask(&limit, &mut state, "10.0.0.1")).collect();
        assert!(matches!(held[2].1, Flow::Reply(_)));
        assert!(matches!(ask(&limit, &mut state, "10.0.0.2").1, Flow::Continue));
        assert_eq!(limit.explain(), "at most 2 requests in flight, none waits, for each ip");
    }

    #[test]
    fn a_reload_keeps_what_is_in_flight_and_brings_the_new_limit() {
        let old = compile("5").expect("legal");
        let mut state = old.new_state(&SEED);
        let _held = ask(&old, &mut state, "10.0.0.1");
        let mut new = compile("{requests_max: 1, pending_max: 0}").expect("legal");
        new.inherit(&old);
        new.adopt(&mut state);
        assert!(matches!(ask(&new, &mut state, "10.0.0.1").1, Flow::Reply(_)));
        let mut keyed = compile("{requests_max: 1, key: client_ip}").expect("legal");
        keyed.inherit(&new);
        keyed.adopt(&mut state);
        assert!(matches!(ask(&keyed, &mut state, "10.0.0.1").1, Flow::Continue), "another key counts anew");
    }

    #[test]
    fn an_adaptive_limit_has_no_key() {
        assert!(compile("{requests_max: 9, adaptive: {}, key: client_ip}").is_err());
        let limit = compile("{requests_max: 9, adaptive: {min: 3}}").expect("legal");
        assert!(limit.explain().starts_with("from 3 to 9 requests in flight, by latency"));
    }
}
