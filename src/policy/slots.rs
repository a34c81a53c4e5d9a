//! Chains of policies, and the states that a worker keeps for them across reloads.
//!
//! ```text
//! snapshot (shared, immutable)          worker
//!   Chain of a route                      Slots: identity -> state
//!     Arc<Slot { id, policy }> ─────────►   LiveChain: (slot, state) in phase order
//! ```
//! A state belongs to an identity, not to a snapshot: when a reload brings a slot of the same identity, old and new
//! chains share its state, so a limit is not reset and old requests are still counted. A state lives as long as a chain
//! that uses it; [`Slots`] itself only remembers it weakly.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use super::{Flow, Phase, Policy, Resumed, State, Tick, WorkerSeed};
use crate::error::Reason;
use crate::http::exchange::Exchange;
use crate::random::mix;
use crate::time::Now;

/// A policy in its place, with an identity that is stable across reloads.
pub struct Slot {
    id: Box<str>,
    phase: Phase,
    policy: Policy,
}

impl Slot {
    /// A slot for `policy`. `previous` is the slot of the same identity in the snapshot before, if there was one.
    pub fn new(id: &str, mut policy: Policy, previous: Option<&Slot>) -> Arc<Self> {
        if let Some(previous) = previous {
            debug_assert_eq!(*previous.id, *id);
            policy.inherit(&previous.policy);
        }
        Arc::new(Self { id: id.into(), phase: policy.phase(), policy })
    }

    /// Identity, as [`slot_id`] makes it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// When it runs.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// The identity of a slot: where it is declared, its kind, and its own `id` or else its number among the policies of
/// that kind in that place. Giving an `id` keeps the state when policies of one kind change places.
pub fn slot_id(scope: &str, kind: &str, id: Option<&str>, ordinal: usize) -> String {
    match id {
        Some(id) => format!("{scope}/{kind}={id}"),
        None => format!("{scope}/{kind}#{ordinal}"),
    }
}

/// The policies of one route, in the order in which a request passes them. A slot that is declared for many routes is
/// the same slot in each of their chains, so that its limit holds for all of them together.
///
/// Clones are one: routes without policies of their own share a chain, and its state in each worker.
#[derive(Clone, Default)]
pub struct Chain {
    slots: Arc<[Arc<Slot>]>,
}

impl Chain {
    /// Orders slots by phase, and inside a phase as they are given.
    pub fn new(mut slots: Vec<Arc<Slot>>) -> Self {
        slots.sort_by_key(|slot| slot.phase);
        Self { slots: slots.into() }
    }

    /// The slots in order.
    pub fn slots(&self) -> &[Arc<Slot>] {
        &self.slots
    }

    /// Whether the two are clones of one.
    pub fn is(&self, other: &Chain) -> bool {
        Arc::ptr_eq(&self.slots, &other.slots)
    }
}

/// How far a request has come in its chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    passed: usize,
}

/// A chain with the states of one worker.
#[derive(Clone, Default)]
pub struct LiveChain {
    links: Rc<[Link]>,
}

struct Link {
    slot: Arc<Slot>,
    state: Rc<RefCell<State>>,
}

impl LiveChain {
    /// Runs the request hooks from where `progress` stands. After [`Flow::Continue`] all have passed.
    #[inline]
    pub fn on_request(&self, progress: &mut Progress, x: &mut Exchange, now: Now) -> Flow {
        for link in self.links.get(progress.passed..).unwrap_or_default() {
            // Hooks are synchronous and never call a chain, so a state is borrowed by one hook at a time.
            match link.slot.policy.on_request(&mut link.state.borrow_mut(), x, now) {
                Flow::Continue => progress.passed += 1,
                stop => return stop,
            }
        }
        Flow::Continue
    }

    /// Goes on after a wait: asks the policy that `progress` stands before, then those behind it.
    pub fn on_resume(&self, progress: &mut Progress, x: &mut Exchange, outcome: Resumed, now: Now) -> Flow {
        let Some(link) = self.links.get(progress.passed) else { return Flow::fail(Reason::Internal) };
        match link.slot.policy.on_resume(&mut link.state.borrow_mut(), x, outcome, now) {
            Flow::Continue => progress.passed += 1,
            stop => return stop,
        }
        self.on_request(progress, x, now)
    }

    /// Runs the response hooks of the policies that the request has passed, the last one first (R25).
    #[inline]
    pub fn on_response(&self, progress: Progress, x: &mut Exchange, now: Now) {
        for link in self.passed(progress) {
            link.slot.policy.on_response(&mut link.state.borrow_mut(), x, now);
        }
    }

    /// Runs the final hooks of the policies that the request has passed, the last one first. Exactly once per request.
    #[inline]
    pub fn on_done(&self, progress: Progress, x: &Exchange, now: Now) {
        for link in self.passed(progress) {
            link.slot.policy.on_done(&mut link.state.borrow_mut(), x, now);
        }
    }

    /// The policy that `progress` stands before: after a reply, the one that gave it.
    pub fn stopped_by(&self, progress: Progress) -> Option<&Policy> {
        self.links.get(progress.passed).map(|link| &link.slot.policy)
    }

    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    fn passed(&self, progress: Progress) -> impl Iterator<Item = &Link> {
        self.links.iter().take(progress.passed).rev()
    }
}

/// The states of one worker, by identity.
pub struct Slots {
    seed: WorkerSeed,
    states: BTreeMap<Box<str>, Entry>,
}

struct Entry {
    /// The slot whose configuration the state has: the latest committed one.
    slot: Arc<Slot>,
    state: Weak<RefCell<State>>,
}

impl Slots {
    /// No states yet. `seed` tells the worker; its random bits are spread over the states.
    pub fn new(seed: WorkerSeed) -> Self {
        Self { seed, states: BTreeMap::new() }
    }

    /// How many workers there are.
    pub fn workers(&self) -> u32 {
        self.seed.count
    }

    /// Number of the worker.
    pub fn worker(&self) -> u32 {
        self.seed.index
    }

    /// Joins a chain with this worker's states, creating those that do not live yet. Living states are not changed, so
    /// that a reload can still be abandoned; [`Slots::commit`] follows when it is not.
    pub fn prepare(&mut self, chain: &Chain, tick: Tick) -> LiveChain {
        let links = chain.slots.iter().map(|slot| Link { slot: slot.clone(), state: self.state(slot, tick) });
        LiveChain { links: links.collect() }
    }

    /// Fits the states of a prepared chain to its configuration. A slot that stands in many chains is fitted once.
    pub fn commit(&mut self, chain: &LiveChain) {
        for link in chain.links.iter() {
            let Some(entry) = self.states.get_mut(link.slot.id()) else { continue };
            if !Arc::ptr_eq(&entry.slot, &link.slot) {
                link.slot.policy.adopt(&mut link.state.borrow_mut());
                entry.slot = link.slot.clone();
            }
        }
    }

    /// Runs the timer hooks, and forgets states that no chain uses.
    pub fn on_tick(&mut self, tick: Tick) {
        self.seed.tick = tick;
        self.states.retain(|_, entry| match entry.state.upgrade() {
            Some(state) => {
                entry.slot.policy.on_tick(&mut state.borrow_mut(), tick);
                true
            }
            None => false,
        });
    }

    /// Shows every living state, in the order of identities: for metrics.
    pub fn each(&self, mut show: impl FnMut(&Slot, &State)) {
        for entry in self.states.values() {
            if let Some(state) = entry.state.upgrade() {
                show(&entry.slot, &state.borrow());
            }
        }
    }

    /// How many identities are known; dead ones are forgotten at the next tick.
    pub fn len(&self) -> usize {
        self.states.len()
    }

    /// Whether none is known.
    pub fn is_empty(&self) -> bool {
        self.states.is_empty()
    }

    fn state(&mut self, slot: &Arc<Slot>, tick: Tick) -> Rc<RefCell<State>> {
        if let Some(state) = self.states.get(slot.id()).and_then(|entry| entry.state.upgrade()) {
            return state;
        }
        // Each state gets bits of its own: two limiters of one worker must not draw alike.
        self.seed.random = mix(self.seed.random);
        let seed = WorkerSeed { tick, ..self.seed };
        let state = Rc::new(RefCell::new(slot.policy.new_state(&seed)));
        self.states.insert(slot.id.clone(), Entry { slot: slot.clone(), state: Rc::downgrade(&state) });
        state
    }
}

#[cfg(test)]
mod tests {
    use super::super::headers::Headers;
    use super::super::ip::Ip;
    use super::super::{Compile, CompileEnv};
    use super::*;
    use crate::schema::decode_str;

    const ENV: CompileEnv = CompileEnv { workers: 1, random: 0 };

    fn headers(id: &str, name: &str) -> Arc<Slot> {
        let config = decode_str(&format!("{{request: {{add: {{{name}: '1'}}}}, response: {{add: {{{name}: '1'}}}}}}"));
        let policy = Headers::compile(&config.expect("legal"), &ENV).expect("legal");
        Slot::new(id, Policy::Headers(policy), None)
    }

    fn denies_all(id: &str) -> Arc<Slot> {
        let config = decode_str("deny: ['::/0']").expect("legal");
        Slot::new(id, Policy::Ip(Ip::compile(&config, &ENV).expect("legal")), None)
    }

    fn seed() -> WorkerSeed {
        WorkerSeed { index: 0, count: 1, random: 1, tick: Tick::default() }
    }

    fn names(fields: &crate::http::fields::Fields) -> Vec<&[u8]> {
        fields.iter().map(|(name, _)| name).collect()
    }

    #[test]
    fn requests_run_forward_and_responses_back() {
        let chain = Chain::new(vec![headers("a", "a"), headers("b", "b")]);
        let live = Slots::new(seed()).prepare(&chain, Tick::default());
        let (mut x, mut progress) = (Exchange::default(), Progress::default());
        assert!(matches!(live.on_request(&mut progress, &mut x, Now(0)), Flow::Continue));
        live.on_response(progress, &mut x, Now(0));
        live.on_done(progress, &x, Now(0));
        assert_eq!(names(&x.request.fields), [b"a", b"b"]);
        assert_eq!(names(&x.response.fields), [b"b", b"a"]);
    }

    #[test]
    fn phases_come_before_declared_order_and_a_reply_stops_the_chain() {
        let chain = Chain::new(vec![headers("a", "a"), denies_all("b")]);
        let order: Vec<&str> = chain.slots().iter().map(|slot| slot.id()).collect();
        assert_eq!(order, ["b", "a"]);
        let live = Slots::new(seed()).prepare(&chain, Tick::default());
        let (mut x, mut progress) = (Exchange::default(), Progress::default());
        assert!(matches!(live.on_request(&mut progress, &mut x, Now(0)), Flow::Reply(_)));
        live.on_response(progress, &mut x, Now(0));
        assert_eq!(progress, Progress::default());
        assert!(x.request.fields.is_empty() && x.response.fields.is_empty());
    }

    #[test]
    fn states_survive_a_reload_and_die_with_their_last_chain() {
        let mut slots = Slots::new(seed());
        let old = slots.prepare(&Chain::new(vec![headers("a", "a")]), Tick::default());
        let new = slots.prepare(&Chain::new(vec![headers("a", "b")]), Tick::default());
        assert!(Rc::ptr_eq(&old.links[0].state, &new.links[0].state));
        slots.commit(&new);
        assert!(Arc::ptr_eq(&slots.states["a"].slot, &new.links[0].slot));
        drop(old);
        slots.on_tick(Tick::default());
        assert_eq!(slots.len(), 1);
        drop(new);
        slots.on_tick(Tick::default());
        assert!(slots.is_empty());
    }

    #[test]
    fn one_slot_in_two_chains_has_one_state() {
        let shared = headers("all", "a");
        let mut slots = Slots::new(seed());
        let one = slots.prepare(&Chain::new(vec![shared.clone(), headers("r1", "b")]), Tick::default());
        let two = slots.prepare(&Chain::new(vec![shared]), Tick::default());
        assert!(Rc::ptr_eq(&one.links[0].state, &two.links[0].state));
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn identities_prefer_the_given_id() {
        assert_eq!(slot_id("route:api", "ip", None, 1), "route:api/ip#1");
        assert_eq!(slot_id("route:api", "ip", Some("admins"), 1), "route:api/ip=admins");
    }
}
