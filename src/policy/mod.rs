//! The policies of a route: what looks at a request and its response, changes them, or answers in the endpoint's place.
//!
//! A policy is one file with its configuration, its compiled form, its state in one worker and its hooks, and one line
//! in `policies!` below. [`ip`] is the file to copy. From that line come the compiled enum, the state enum, the
//! dispatch, and the lists of kinds that schema, `ringway policies` and metric labels are made from.
//!
//! Hooks are synchronous and dispatched by `match`: no allocation and no dynamic call on the request path. What a
//! policy knows is immutable and shared ([`Policy`]); what it counts belongs to one worker ([`State`]) and outlives a
//! reload ([`slots`]). A hook that must wait says what for, as data ([`Pending`]); the driver waits and comes back with
//! the outcome ([`Hooks::on_resume`]).

pub mod concurrency_limit;
pub mod headers;
pub mod ip;
pub mod rate_limit;
pub mod slots;

use crate::concurrency::{Permit, Ticket};
use crate::error::Reason;
use crate::http::exchange::{Exchange, Reply};
use crate::schema::{self, Decode, PolicyKind};
use crate::time::Now;

/// When a policy runs. Requests pass the phases in this order, responses in the reverse one (R25).
///
/// The order is fixed, so that a configuration cannot put a cache before the permission check by accident. Inside a
/// phase policies run in the order in which they are declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// What needs nothing but the connection: address lists, limits by address, route or for all (C12). First, since it
    /// is the cheapest way to refuse, and a flood must not reach the credential check.
    Guard,
    /// Cross-origin answers. Before `Access`: a preflight carries no credentials (C21).
    Cors,
    /// Who is it: credentials become an identity.
    Access,
    /// May they: roles, scopes and permissions of that identity.
    Permit,
    /// Limits keyed by who it is or by what the request says. After `Access`, so that the key is not forged (C12).
    Limit,
    /// Rewrites of the message. After every decision, so that none is made on rewritten bytes.
    Transform,
    /// Stored answers. Last: a hit has passed the permission check and has cost a token (C5).
    Cache,
}

impl Phase {
    /// All phases in the order of a request.
    pub const ALL: [Phase; 7] =
        [Phase::Guard, Phase::Cors, Phase::Access, Phase::Permit, Phase::Limit, Phase::Transform, Phase::Cache];

    /// The word for documentation and logs.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Guard => "guard",
            Phase::Cors => "cors",
            Phase::Access => "access",
            Phase::Permit => "permit",
            Phase::Limit => "limit",
            Phase::Transform => "transform",
            Phase::Cache => "cache",
        }
    }
}

/// What a request hook decides.
#[derive(Debug)]
#[non_exhaustive]
pub enum Flow {
    /// Go on with the next policy.
    Continue,
    /// Answer the client with this; no later policy and no endpoint sees the request.
    Reply(Box<Reply>),
    /// Wait for this, then ask the same policy again: [`Hooks::on_resume`]. Boxed, since it is rare and would make
    /// every request larger.
    Wait(Box<Pending>),
}

/// What a policy waits for, as data. Dropping it gives up what it stands for: a client that leaves, a deadline that
/// passes and a panic all end that way.
#[derive(Debug)]
#[non_exhaustive]
pub enum Pending {
    /// A place under a limit on requests in flight.
    Place(Ticket),
}

/// What became of a [`Pending`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Resumed {
    /// The place, or why there is none.
    Place(Result<Permit, Reason>),
}

impl Flow {
    /// Answers with a failure in the gateway's one error shape.
    pub fn fail(reason: Reason) -> Self {
        Flow::Reply(Box::new(Reply::failure(reason)))
    }
}

/// What the compiler of a policy knows beside its configuration.
#[derive(Clone, Copy, Debug)]
pub struct CompileEnv {
    /// How many workers will run the policy, at least 1.
    pub workers: u32,
    /// Random bits: keys of hash tables that clients must not be able to foresee.
    pub random: u64,
}

/// What a worker gives to the state that it creates.
#[derive(Clone, Copy, Debug)]
pub struct WorkerSeed {
    /// Index of the worker, from 0.
    pub index: u32,
    /// How many workers there are.
    pub count: u32,
    /// Random bits of this worker.
    pub random: u64,
    /// When the state is created.
    pub tick: Tick,
}

/// Both clocks at one moment; policies read none themselves.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tick {
    /// Monotonic clock.
    pub now: Now,
    /// Wall clock, milliseconds since the Unix epoch. For what people read, never for decisions (F17).
    pub unix_ms: u64,
}

/// From configuration to the compiled policy.
pub trait Compile: Hooks + Sized {
    /// What people write; declared with [`config_struct!`](crate::config_struct).
    type Config: Decode + std::fmt::Debug + Send + Sync + 'static;

    /// Builds the policy.
    ///
    /// # Errors
    /// One sentence for the person who wrote the configuration.
    fn compile(config: &Self::Config, env: &CompileEnv) -> Result<Self, String>;
}

/// What a policy does. All but `new_state` and `explain` are optional.
pub trait Hooks: Send + Sync + 'static {
    /// What one worker keeps for the policy.
    type State: 'static;

    /// The state of a worker that has none yet.
    fn new_state(&self, seed: &WorkerSeed) -> Self::State;

    /// When this policy runs, if its configuration decides that; else the phase of its registry line.
    fn phase(&self) -> Option<Phase> {
        None
    }

    /// What is legal and hardly meant: the code of a warning and its sentence.
    fn doubt(&self) -> Option<(&'static str, String)> {
        None
    }

    /// Takes over what is shared between workers from the policy of the same identity in the previous snapshot. Called
    /// once, by the compiler, before any worker sees the policy.
    fn inherit(&mut self, _previous: &Self) {}

    /// Fits a living state to this policy's configuration after a reload. Requests that began earlier still use the
    /// state with the policy that they started with.
    fn adopt(&self, _state: &mut Self::State) {}

    /// The request head is there.
    fn on_request(&self, _state: &mut Self::State, _x: &mut Exchange, _now: Now) -> Flow {
        Flow::Continue
    }

    /// What `on_request` (or this) waited for has come to its end. The default, for policies that never wait, fails the
    /// request.
    fn on_resume(&self, _state: &mut Self::State, _x: &mut Exchange, _outcome: Resumed, _now: Now) -> Flow {
        Flow::fail(Reason::Internal)
    }

    /// The response head is there, from the endpoint or from an inner policy. Only for policies that let the request
    /// pass, the last one first.
    fn on_response(&self, _state: &mut Self::State, _x: &mut Exchange, _now: Now) {}

    /// The exchange is over, however it ended. For policies that let the request pass: the place to give permits back.
    fn on_done(&self, _state: &mut Self::State, _x: &Exchange, _now: Now) {}

    /// Called by the worker's timer.
    fn on_tick(&self, _state: &mut Self::State, _tick: Tick) {}

    /// Under which word its refusals are counted, if it is a limiter (R215).
    fn limiter_type(&self) -> Option<&str> {
        None
    }

    /// What the policy does, in one line for `ringway explain`.
    fn explain(&self) -> String;
}

/// One kind of policy, as the registry lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// Name in the configuration, in metric labels and in slot identities.
    pub name: &'static str,
    /// When it runs, unless its configuration decides.
    pub phase: Phase,
    /// What it does, in one sentence.
    pub summary: &'static str,
}

/// Finds a kind by its name.
pub fn kind(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

macro_rules! policies {
    ($( $(#[doc = $doc:literal])+ $phase:ident: $name:literal => $module:ident::$type:ident; )+) => {
        /// All kinds of policy, in the order of the registry.
        pub const KINDS: &[Kind] = &[ $(
            Kind { name: $name, phase: Phase::$phase, summary: concat!($($doc),+).trim_ascii() },
        )+ ];

        /// All kinds as the configuration needs them: name, summary, and how to decode their settings.
        pub const SCHEMA: &[PolicyKind] = &[ $(
            PolicyKind::of::<<$module::$type as Compile>::Config>($name, concat!($($doc),+).trim_ascii()),
        )+ ];

        /// A compiled policy: immutable, shared by all workers.
        pub enum Policy { $( $(#[doc = $doc])+ $type($module::$type), )+ }

        /// What one worker keeps for a policy.
        pub enum State { $( $(#[doc = $doc])+ $type(<$module::$type as Hooks>::State), )+ }

        #[derive(Clone, Copy)]
        #[repr(usize)]
        enum Ordinal { $( $type, )+ }

        impl Policy {
            /// Builds a policy from its decoded settings.
            ///
            /// # Errors
            /// One sentence for the person who wrote the configuration.
            pub fn compile(written: &schema::Policy, env: &CompileEnv) -> Result<Policy, String> {
                $( if let Some(config) = written.config_as::<<$module::$type as Compile>::Config>() {
                    return $module::$type::compile(config, env).map(Policy::$type);
                } )+
                Err(format!("the policy `{}` is not in this build", written.name))
            }

            /// The kind of this policy.
            pub fn kind(&self) -> &'static Kind {
                match self { $( Policy::$type(_) => &KINDS[Ordinal::$type as usize], )+ }
            }

            /// When it runs.
            pub fn phase(&self) -> Phase {
                match self { $( Policy::$type(p) => p.phase().unwrap_or(Phase::$phase), )+ }
            }

            /// [`Hooks::explain`].
            pub fn explain(&self) -> String {
                match self { $( Policy::$type(p) => p.explain(), )+ }
            }

            /// [`Hooks::doubt`].
            pub fn doubt(&self) -> Option<(&'static str, String)> {
                match self { $( Policy::$type(p) => p.doubt(), )+ }
            }

            /// [`Hooks::limiter_type`].
            pub fn limiter_type(&self) -> Option<&str> {
                match self { $( Policy::$type(p) => p.limiter_type(), )+ }
            }

            /// [`Hooks::new_state`].
            pub fn new_state(&self, seed: &WorkerSeed) -> State {
                match self { $( Policy::$type(p) => State::$type(p.new_state(seed)), )+ }
            }

            /// [`Hooks::inherit`]; nothing happens when the kinds differ.
            pub fn inherit(&mut self, previous: &Policy) {
                match (self, previous) {
                    $( (Policy::$type(p), Policy::$type(previous)) => p.inherit(previous), )+
                    #[allow(unreachable_patterns)]
                    _ => {}
                }
            }

            /// [`Hooks::adopt`]; a state of another kind is left alone.
            pub fn adopt(&self, state: &mut State) {
                match (self, state) {
                    $( (Policy::$type(p), State::$type(s)) => p.adopt(s), )+
                    #[allow(unreachable_patterns)]
                    _ => debug_assert!(false, "state of another kind"),
                }
            }

            /// [`Hooks::on_request`]. A state of another kind, which no code makes, fails the request: fail closed.
            #[inline]
            pub fn on_request(&self, state: &mut State, x: &mut Exchange, now: Now) -> Flow {
                match (self, state) {
                    $( (Policy::$type(p), State::$type(s)) => p.on_request(s, x, now), )+
                    #[allow(unreachable_patterns)]
                    _ => Flow::fail(Reason::Internal),
                }
            }

            /// [`Hooks::on_resume`].
            pub fn on_resume(&self, state: &mut State, x: &mut Exchange, outcome: Resumed, now: Now) -> Flow {
                match (self, state) {
                    $( (Policy::$type(p), State::$type(s)) => p.on_resume(s, x, outcome, now), )+
                    #[allow(unreachable_patterns)]
                    _ => Flow::fail(Reason::Internal),
                }
            }

            /// [`Hooks::on_response`].
            #[inline]
            pub fn on_response(&self, state: &mut State, x: &mut Exchange, now: Now) {
                match (self, state) {
                    $( (Policy::$type(p), State::$type(s)) => p.on_response(s, x, now), )+
                    #[allow(unreachable_patterns)]
                    _ => debug_assert!(false, "state of another kind"),
                }
            }

            /// [`Hooks::on_done`].
            #[inline]
            pub fn on_done(&self, state: &mut State, x: &Exchange, now: Now) {
                match (self, state) {
                    $( (Policy::$type(p), State::$type(s)) => p.on_done(s, x, now), )+
                    #[allow(unreachable_patterns)]
                    _ => debug_assert!(false, "state of another kind"),
                }
            }

            /// [`Hooks::on_tick`].
            pub fn on_tick(&self, state: &mut State, tick: Tick) {
                match (self, state) {
                    $( (Policy::$type(p), State::$type(s)) => p.on_tick(s, tick), )+
                    #[allow(unreachable_patterns)]
                    _ => debug_assert!(false, "state of another kind"),
                }
            }
        }
    };
}

policies! {
    /// Allows or denies clients by their address.
    Guard: "ip" => ip::Ip;
    /// Limits how many requests are in flight at once; more wait in a queue, or are refused.
    Guard: "concurrency_limit" => concurrency_limit::ConcurrencyLimit;
    /// Limits how many requests a key may make in a time.
    Limit: "rate_limit" => rate_limit::RateLimit;
    /// Adds, sets, removes and renames fields of the request and of the response.
    Transform: "headers" => headers::Headers;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_stand_in_the_order_of_a_request() {
        assert!(Phase::ALL.is_sorted());
        assert!(Phase::Guard < Phase::Cors && Phase::Access < Phase::Permit && Phase::Limit < Phase::Cache);
    }

    #[test]
    fn kinds_have_unique_names_and_a_summary() {
        for (at, one) in KINDS.iter().enumerate() {
            assert_eq!(KINDS.iter().position(|k| k.name == one.name), Some(at));
            assert!(one.summary.ends_with('.') && !one.summary.starts_with(' '), "{}", one.name);
            assert!(one.name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        }
        assert_eq!(kind("ip").map(|k| k.phase), Some(Phase::Guard));
        assert!(kind("none").is_none());
        assert!(SCHEMA.iter().map(|kind| kind.name).eq(KINDS.iter().map(|kind| kind.name)));
    }
}
