//! Chains of policies: those for all routes first declared, then a route's own; each slot with its identity.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Inputs;
use crate::config::model;
use crate::policy::slots::{Chain, Slot, slot_id};
use crate::policy::{self, CompileEnv};
use crate::schema::{Diagnostics, Policy, codes};

/// Compiles chains; slots of the previous snapshot hand their shared tables on.
pub(super) struct Chains {
    env: CompileEnv,
    previous: BTreeMap<String, Arc<Slot>>,
    for_all: Chain,
}

impl Chains {
    pub(super) fn new(config: &model::Config, inputs: &Inputs<'_>, diagnostics: &mut Diagnostics) -> Self {
        let routes = inputs.previous.map_or(&[][..], |snapshot| &snapshot.routes);
        let slots = routes.iter().flat_map(|route| route.chain.slots());
        let previous = slots.map(|slot| (slot.id().to_owned(), slot.clone())).collect();
        let mut chains = Self { env: inputs.policies, previous, for_all: Chain::default() };
        chains.for_all = Chain::new(chains.slots("all", &config.policies, diagnostics));
        chains
    }

    /// The chain of a route: the policies for all routes and its own.
    pub(super) fn of(&self, route: &str, own: &[Policy], diagnostics: &mut Diagnostics) -> Chain {
        if own.is_empty() {
            return self.for_all.clone();
        }
        let mut slots = self.for_all.slots().to_vec();
        slots.extend(self.slots(&format!("route:{route}"), own, diagnostics));
        Chain::new(slots)
    }

    fn slots(&self, scope: &str, written: &[Policy], diagnostics: &mut Diagnostics) -> Vec<Arc<Slot>> {
        let mut ordinals: BTreeMap<&str, usize> = BTreeMap::new();
        let mut slots = Vec::with_capacity(written.len());
        for policy in written {
            let ordinal = ordinals.entry(policy.name).or_default();
            let id = slot_id(scope, policy.name, None, *ordinal);
            *ordinal += 1;
            match policy::Policy::compile(policy, &self.env) {
                Ok(compiled) => {
                    if let Some((code, what)) = compiled.doubt() {
                        diagnostics.report(code, policy.span, what);
                    }
                    slots.push(Slot::new(&id, compiled, self.previous.get(&id).map(|slot| &**slot)));
                }
                Err(what) => {
                    diagnostics.report(codes::BAD_VALUE, policy.span, what);
                }
            }
        }
        slots
    }
}
