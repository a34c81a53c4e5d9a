//! What a snapshot takes over from the one before it as it is, because nothing that it was made from has changed.
//!
//! This is looked for only where all but the services and routes is written as it was, and nothing hangs on files. What
//! is written anew, and all that it may have a say in, is compiled as if there were nothing before.

use std::sync::Arc;

use ahash::AHashMap;

use super::Inputs;
use crate::config::load::{Loaded, Present};
use crate::config::model::{self, BreakerChoice, Config};
use crate::route::{RouteId, RouteSpec, RouteTable};
use crate::schema::Spanned;
use crate::snapshot::{Service, Snapshot};

/// The snapshot before, and what of it is still good.
#[derive(Default)]
pub(super) struct Shared<'a> {
    before: Option<(&'a Snapshot, &'a Config)>,
    /// Where each service stood that has not changed.
    services: Vec<Option<u32>>,
    /// The same of routes.
    routes: Vec<Option<u32>>,
}

impl<'a> Shared<'a> {
    pub(super) fn of(loaded: &Loaded, inputs: &Inputs<'a>) -> Self {
        Self::find(loaded, inputs).unwrap_or_default()
    }

    fn find(loaded: &Loaded, inputs: &Inputs<'a>) -> Option<Self> {
        let snapshot = inputs.previous?;
        let present = Present::in_snapshot(snapshot)?;
        let is_alike = loaded.kept.has_same_rest(present.kept.as_deref()?) && inputs.resolve.is_none();
        if !is_alike || loaded.config.uses_files() || present.config.uses_files() {
            return None;
        }
        let services = places(&present.config.services, &loaded.config.services);
        let routes = places(&present.config.routes, &loaded.config.routes);
        Some(Self { before: Some((snapshot, &present.config)), services, routes })
    }

    /// What the service at this place of the configuration was compiled to.
    pub(super) fn service(&self, at: usize) -> Option<&'a Arc<Service>> {
        let (snapshot, _) = self.before?;
        // Those that are written come first, in their order; variants of routes follow.
        snapshot.services.get((*self.services.get(at)?)? as usize)
    }

    /// What the route at this place of the configuration was compiled to match.
    pub(super) fn spec(&self, at: usize) -> Option<Arc<RouteSpec>> {
        let spec = self.table()?.specs().get((*self.routes.get(at)?)? as usize)?;
        // The id is its place.
        Some(match spec.id.0 as usize == at {
            true => spec.clone(),
            false => Arc::new(RouteSpec { id: RouteId(at as u32), ..(**spec).clone() }),
        })
    }

    /// The table before, in which no route was hidden: nothing was found when it was made.
    pub(super) fn table(&self) -> Option<&'a RouteTable> {
        self.before.map(|(snapshot, _)| &snapshot.table)
    }

    /// The snapshot whose routes, and their table, are those of this configuration.
    pub(super) fn routes(&self, config: &Config) -> Option<&'a Snapshot> {
        let (snapshot, before) = self.before?;
        let same_routes = before.routes.len() == config.routes.len()
            && self.routes.iter().zip(0_u32..).all(|(place, at)| *place == Some(at));
        let same_names = before.services.len() == config.services.len()
            && before.services.iter().zip(&config.services).all(|(one, other)| one.name == other.name);
        // Variants are made by routes; what else a route has of its service, or makes of an address, is rare.
        let no_variants = snapshot.services.len() == config.services.len();
        let plain = |route: &Spanned<Arc<model::Route>>| {
            route.circuit_breaker != BreakerChoice::Own && route.service_url.is_none() && route.load_balancer.is_none()
        };
        let all_plain = || config.routes.iter().all(plain) && config.default_route.is_none();
        let same_services = || self.services.iter().zip(0_u32..).all(|(place, at)| *place == Some(at));
        (same_routes && same_names && no_variants && (same_services() || all_plain())).then_some(snapshot)
    }
}

/// Where each item of a list stands in another one that shares it.
fn places<T>(before: &[Spanned<Arc<T>>], now: &[Spanned<Arc<T>>]) -> Vec<Option<u32>> {
    let mut moved: Option<AHashMap<*const T, u32>> = None;
    let place = |(at, item): (usize, &Spanned<Arc<T>>)| {
        if before.get(at).is_some_and(|before| Arc::ptr_eq(&before.value, &item.value)) {
            return Some(at as u32);
        }
        let numbered = || before.iter().map(|item| Arc::as_ptr(&item.value)).zip(0_u32..).collect();
        moved.get_or_insert_with(numbered).get(&Arc::as_ptr(&item.value)).copied()
    };
    now.iter().enumerate().map(place).collect()
}
