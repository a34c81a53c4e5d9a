//! What goes on over reloads, found by name: in the snapshot before, and among the services that are compiled already.
//! With thousands of services a look through all of them for each would be most of a reload.

use std::cell::OnceCell;
use std::sync::Arc;

use ahash::AHashMap;

use crate::concurrency::Gate;
use crate::snapshot::{Service, Snapshot};
use crate::upstream::breaker::{Breaker, BreakerSpec};
use crate::upstream::state::ServiceState;

/// Everything that has an identity.
pub(super) struct Identities<'a> {
    snapshot: Option<&'a Snapshot>,
    /// What was found in it, made when something is looked for first: most reloads have little to look for.
    services: OnceCell<AHashMap<&'a str, &'a Service>>,
    before: OnceCell<AHashMap<&'a str, Shared>>,
    route_breakers: OnceCell<AHashMap<&'a str, &'a BreakerSpec>>,
    compiled: AHashMap<String, Shared>,
    /// Where a service is looked for first.
    at: usize,
}

/// What all variants of a service share: that of the first one that has it.
#[derive(Default)]
struct Shared {
    state: Option<Arc<ServiceState>>,
    gate: Option<Arc<Gate>>,
    breaker: Option<Arc<Breaker>>,
}

impl Shared {
    fn of(service: &Service) -> Self {
        let mut shared = Self::default();
        shared.take(service);
        shared
    }

    fn take(&mut self, service: &Service) {
        self.state.get_or_insert_with(|| service.state.clone());
        let gate = service.limits.as_ref().map(|limits| &limits.gate);
        self.gate = self.gate.take().or_else(|| gate.cloned());
        let breaker = service.breaker.as_ref().map(|breaker| &breaker.shared);
        self.breaker = self.breaker.take().or_else(|| breaker.cloned());
    }
}

impl<'a> Identities<'a> {
    pub(super) fn of(snapshot: Option<&'a Snapshot>) -> Self {
        let (services, before, route_breakers) = Default::default();
        Self { snapshot, services, before, route_breakers, compiled: AHashMap::new(), at: 0 }
    }

    fn all_services(&self) -> &'a [Arc<Service>] {
        self.snapshot.map_or(&[][..], |snapshot| &snapshot.services)
    }

    /// A service is compiled whose place is this one: most stand where they stood.
    pub(super) fn look_at(&mut self, at: usize) {
        self.at = at;
    }

    /// A service is compiled: its variants share what it has.
    pub(super) fn add(&mut self, service: &Service) {
        self.compiled.entry(service.label.clone()).or_default().take(service);
    }

    /// The service of this identity in the snapshot before.
    pub(super) fn service(&self, identity: &str) -> Option<&'a Service> {
        let by_name = || self.all_services().iter().rev().map(|service| (&*service.name, &**service)).collect();
        let stands = self.all_services().get(self.at).map(|service| &**service);
        let stands = stands.filter(|service| service.name == identity);
        stands.or_else(|| self.services.get_or_init(by_name).get(identity).copied())
    }

    /// What is known of the endpoints of services with this label.
    pub(super) fn state(&self, label: &str) -> Option<Arc<ServiceState>> {
        self.find(label, |shared| shared.state.clone())
    }

    /// Their limit.
    pub(super) fn gate(&self, label: &str) -> Option<Arc<Gate>> {
        self.find(label, |shared| shared.gate.clone())
    }

    /// Their breaker.
    pub(super) fn breaker(&self, label: &str) -> Option<Arc<Breaker>> {
        self.find(label, |shared| shared.breaker.clone())
    }

    /// The breaker of a route alone.
    pub(super) fn route_breaker(&self, name: &str) -> Option<Arc<Breaker>> {
        let by_name = || {
            let routes = self.snapshot.map_or(&[][..], |snapshot| &snapshot.routes);
            let breakers = routes.iter().filter_map(|route| Some(&**route.breaker.as_ref()?.as_ref()?));
            breakers.map(|breaker| (&*breaker.name, breaker)).collect()
        };
        self.route_breakers.get_or_init(by_name).get(name).map(|breaker| breaker.shared.clone())
    }

    fn find<T>(&self, label: &str, of: impl Fn(&Shared) -> Option<T>) -> Option<T> {
        let by_label = || {
            let mut all: AHashMap<&str, Shared> = AHashMap::with_capacity(self.all_services().len());
            for service in self.all_services() {
                all.entry(&service.label).or_default().take(service);
            }
            all
        };
        let before = || match self.all_services().get(self.at).filter(|one| one.is_whole() && one.label == label) {
            Some(service) => of(&Shared::of(service)),
            None => self.before.get_or_init(by_label).get(label).and_then(&of),
        };
        self.compiled.get(label).and_then(&of).or_else(before)
    }
}
