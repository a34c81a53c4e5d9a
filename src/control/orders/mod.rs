//! What operators want of endpoints, by the admin API: drained, in maintenance, with another weight.
//!
//! An order belongs to an address of a service. It outlives reloads, and the absence of its endpoint: discovery, or
//! another configuration, may bring that back. It outlives an upgrade ([`handover`]), and with `admin.state_file` the
//! process ([`mod@file`]).
//! Everything here is done on the control thread; workers learn of it as of any other fact about an endpoint.

pub mod file;
pub mod handover;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::handover::Handover;
use crate::limits::ENDPOINT_ORDERS_MAX;
use crate::snapshot::{Endpoint, Service, Snapshot};
use crate::telemetry::log;
use crate::time::{self, Now};
use crate::upstream::health::Administration;
use crate::upstream::state::Order;

/// All orders.
#[derive(Debug, Default)]
pub struct Orders {
    state: Mutex<State>,
    /// Held while the file is written, so that the last text written is the last state.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    by_service: ByService,
    file: Option<PathBuf>,
    /// The file holds something that could not be read: it is put aside before it is written.
    is_foreign: bool,
    /// What is not in the file yet.
    is_unwritten: bool,
    /// Who is replaced may still be told something; and what it handed over first.
    predecessor: Option<(Handover, ByService)>,
}

/// Orders by service and, in it, by address as the endpoint was called when the order was made.
pub type ByService = BTreeMap<String, BTreeMap<String, Kept>>;

/// An order with what is told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The order.
    pub order: Order,
    /// Where the endpoint was, if it went by a name: it may go by its address when the name has got others.
    pub resolved: Option<SocketAddr>,
    /// What the operator said; may be empty.
    pub why: String,
    /// When.
    pub since_unix_ms: u64,
}

/// A change of one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Whether the endpoint gets requests.
    Administer(Administration),
    /// Its weight; None for the one that is written.
    Weigh(Option<u32>),
}

/// There are as many orders as are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// The orders about one service.
#[derive(Clone, Debug, Default)]
pub struct OfService(BTreeMap<String, Kept>);

impl OfService {
    /// What is wanted of this endpoint.
    pub fn of(&self, endpoint: &Endpoint) -> Option<&Kept> {
        if self.0.is_empty() {
            return None;
        }
        let resolved = endpoint.address;
        let by_address = || self.0.get(&resolved?.to_string());
        let same = || self.0.values().find(|kept| kept.resolved.is_some() && kept.resolved == resolved);
        self.0.get(&endpoint.authority).or_else(by_address).or_else(same)
    }

    /// The weight that holds for this endpoint.
    pub fn weight(&self, endpoint: &Endpoint) -> u32 {
        self.of(endpoint).and_then(|kept| kept.order.weight).unwrap_or(endpoint.weight)
    }

    /// The addresses with orders.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Kept)> {
        self.0.iter().map(|(address, kept)| (&**address, kept))
    }
}

impl Orders {
    /// Those that a predecessor handed over, else those of the file, if there is one; a file that cannot be used is
    /// told of, and holds nobody up.
    pub fn load(path: Option<PathBuf>, predecessor: Option<Handover>) -> Arc<Self> {
        let mut state = State { file: path, ..State::default() };
        if let Some(path) = &state.file {
            match file::read(path) {
                Ok(by_service) => state.by_service = by_service,
                Err(error) => {
                    let fields: [(&str, &dyn std::fmt::Display); 2] = [("file", &path.display()), ("error", &error)];
                    log::warn("admin.state_file cannot be used: all endpoints are as the configuration says", &fields);
                    state.is_foreign = true;
                }
            }
        }
        if let Some(predecessor) = predecessor {
            match predecessor.read() {
                Ok(handed) => {
                    state.is_unwritten = handed != state.by_service;
                    state.by_service.clone_from(&handed);
                    state.predecessor = Some((predecessor, handed));
                }
                Err(error) => log::warn("orders about endpoints were not handed over", &[("error", &error)]),
            }
        }
        Arc::new(Self { state: Mutex::new(state), ..Self::default() })
    }

    /// For a successor that starts: what holds now.
    ///
    /// # Errors
    /// What the system refuses.
    pub fn begin_handover(&self) -> io::Result<Handover> {
        let handover = Handover::new()?;
        handover.write(&self.state().by_service)?;
        Ok(handover)
    }

    /// For a successor that serves: what holds at the end. To be called when no orders are taken any more; nothing is
    /// written to the file after it.
    ///
    /// # Errors
    /// What the system refuses.
    pub async fn end_handover(&self, handover: &Handover) -> io::Result<()> {
        let _turn = self.writing.lock().await;
        let mut state = self.state();
        state.file = None;
        handover.write(&state.by_service)
    }

    /// The predecessor takes no orders any more: takes up what it was told since this process was started. Returns the
    /// services whose tables are others now.
    pub fn catch_up(&self, snapshot: &Snapshot) -> Vec<u32> {
        let mut state = self.state();
        let Some((predecessor, base)) = state.predecessor.take() else { return Vec::new() };
        let theirs = match predecessor.read() {
            Ok(theirs) => theirs,
            Err(error) => {
                log::warn("the last orders about endpoints were not handed over", &[("error", &error)]);
                return Vec::new();
            }
        };
        let merged = handover::merged(&base, &theirs, &state.by_service);
        if merged == state.by_service {
            return Vec::new();
        }
        let before = std::mem::replace(&mut state.by_service, merged);
        state.is_unwritten = true;
        let labels = state.by_service.keys().chain(before.keys()).cloned().collect();
        drop(state);
        self.apply_to_all(snapshot, &labels)
    }

    /// Whether the file lacks something that holds.
    pub fn is_unwritten(&self) -> bool {
        let state = self.state();
        state.is_unwritten && state.file.is_some()
    }

    /// The orders about a service.
    pub fn of_service(&self, label: &str) -> OfService {
        OfService(self.state().by_service.get(label).cloned().unwrap_or_default())
    }

    /// Whether there are orders about endpoints of this service.
    pub fn concern(&self, label: &str) -> bool {
        self.state().by_service.contains_key(label)
    }

    /// Makes all orders hold for a snapshot. Returns the services whose tables are others now.
    pub fn apply(&self, snapshot: &Snapshot) -> Vec<u32> {
        let labels = self.state().by_service.keys().cloned().collect();
        self.apply_to_all(snapshot, &labels)
    }

    fn apply_to_all(&self, snapshot: &Snapshot, labels: &BTreeSet<String>) -> Vec<u32> {
        let is_meant = |service: &Service| labels.contains(&service.label);
        let services = snapshot.services.iter().zip(0_u32..).filter(|(service, _)| is_meant(service));
        services.filter(|(service, _)| self.apply_to(service)).map(|(_, id)| id).collect()
    }

    /// Makes the orders about a service hold for it. Returns whether its tables are others now.
    pub fn apply_to(&self, service: &Service) -> bool {
        let orders = self.of_service(&service.label);
        if service.is_whole() {
            let named = orders.iter().map(|(address, kept)| (Arc::from(address), kept.order));
            let by_address =
                orders.iter().filter_map(|(_, kept)| Some((kept.resolved?.to_string().into(), kept.order)));
            service.state.set_orders(by_address.chain(named));
        }
        let now = Now::read();
        for endpoint in &service.endpoints.get().endpoints {
            let kept = orders.of(endpoint);
            let (order, why) = kept.map(|kept| (kept.order, kept.why.clone())).unwrap_or_default();
            service.state.administer(&endpoint.authority, order.administration, now, why.clone());
            service.state.set_weight(&endpoint.authority, order.weight, now, why);
        }
        service.endpoints.reweigh(|endpoint| orders.weight(endpoint))
    }

    /// Takes a change: `endpoint` as it is called now, or only its name where it is not there. Returns whether anything
    /// is other than before.
    ///
    /// # Errors
    /// [`Full`].
    pub fn change(
        &self,
        label: &str,
        name: &str,
        endpoint: Option<&Endpoint>,
        change: Change,
        why: String,
    ) -> Result<bool, Full> {
        let mut state = self.state();
        let count: usize = state.by_service.values().map(BTreeMap::len).sum();
        let known = OfService(state.by_service.get(label).cloned().unwrap_or_default());
        let kept = endpoint.map_or_else(|| known.0.get(name), |endpoint| known.of(endpoint));
        let before = kept.map(|kept| kept.order).unwrap_or_default();
        let order = match change {
            Change::Administer(administration) => Order { administration, ..before },
            Change::Weigh(weight) => Order { weight, ..before },
        };
        if order == before {
            return Ok(false);
        }
        if kept.is_none() && count >= ENDPOINT_ORDERS_MAX {
            return Err(Full);
        }
        let resolved = endpoint.and_then(|endpoint| endpoint.address);
        let is_old = |address: &str, kept: &Kept| {
            address == name || (resolved.is_some() && kept.resolved.or(address.parse().ok()) == resolved)
        };
        let all = state.by_service.entry(label.to_owned()).or_default();
        all.retain(|address, kept| !is_old(address, kept));
        if order != Order::default() {
            all.insert(name.to_owned(), Kept { order, resolved, why, since_unix_ms: time::unix_ms() });
        }
        if all.is_empty() {
            state.by_service.remove(label);
        }
        Ok(true)
    }

    /// Where orders are kept from now on. What there is at another place stays there, unread.
    pub fn keep_in(&self, path: Option<PathBuf>) {
        let mut state = self.state();
        if state.file != path {
            (state.file, state.is_foreign) = (path, false);
        }
    }

    /// Whether there is a file.
    pub fn is_kept(&self) -> bool {
        self.state().file.is_some()
    }

    /// Writes the file, if there is one. Returns whether there is. Goes on to its end where nobody waits for that.
    ///
    /// # Errors
    /// Why it cannot be written.
    pub async fn persist(self: &Arc<Self>) -> Result<bool, String> {
        let this = self.clone();
        tokio::spawn(async move { this.write().await }).await.map_err(|error| error.to_string())?
    }

    async fn write(&self) -> Result<bool, String> {
        let _turn = self.writing.lock().await;
        let (path, text, is_foreign) = {
            let state = self.state();
            let Some(path) = state.file.clone() else { return Ok(false) };
            (path, file::text(&state.by_service), state.is_foreign)
        };
        let (shown, began) = (path.display().to_string(), path.clone());
        let written = tokio::task::spawn_blocking(move || file::write(&path, &text, is_foreign)).await;
        if let Err(error) = written.map_err(|error| error.to_string())?.map_err(|error| error.to_string()) {
            log::warn("admin.state_file cannot be written", &[("file", &shown), ("error", &error)]);
            return Err(error);
        }
        let mut state = self.state();
        if state.file.as_deref() == Some(&began) {
            (state.is_foreign, state.is_unwritten) = (false, false);
        }
        Ok(true)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAIN: Change = Change::Administer(Administration::Draining);
    const ENABLE: Change = Change::Administer(Administration::Enabled);

    fn at(name: &str, ip: &str) -> Endpoint {
        let mut endpoint = Endpoint::at(ip.parse().expect("an address"));
        endpoint.authority = name.to_owned();
        endpoint
    }

    fn change(orders: &Orders, endpoint: &Endpoint, what: Change) -> bool {
        orders.change("up", &endpoint.authority, Some(endpoint), what, String::new()).expect("room")
    }

    #[test]
    fn an_order_goes_with_the_address_whatever_it_is_called() {
        let orders = Orders::default();
        let (by_name, by_address) = (at("up.test:80", "10.0.0.1:80"), at("10.0.0.1:80", "10.0.0.1:80"));
        let wanted = |endpoint: &Endpoint| orders.of_service("up").of(endpoint).map(|kept| kept.order.administration);
        assert!(change(&orders, &by_name, DRAIN) && !change(&orders, &by_address, DRAIN));
        assert_eq!(
            (wanted(&by_name), wanted(&by_address)),
            (Some(Administration::Draining), Some(Administration::Draining))
        );
        assert_eq!(wanted(&at("10.0.0.2:80", "10.0.0.2:80")), None);
        assert!(change(&orders, &by_address, ENABLE));
        assert_eq!((wanted(&by_name), wanted(&by_address)), (None, None));
        assert!(change(&orders, &by_address, DRAIN));
        assert_eq!(wanted(&by_name), Some(Administration::Draining), "its name has one address left");
    }

    #[test]
    fn parts_of_an_order_are_taken_back_separately() {
        let (orders, endpoint) = (Orders::default(), at("10.0.0.1:80", "10.0.0.1:80"));
        assert!(change(&orders, &endpoint, DRAIN) && change(&orders, &endpoint, Change::Weigh(Some(0))));
        assert_eq!(orders.of_service("up").weight(&endpoint), 0);
        assert!(change(&orders, &endpoint, ENABLE) && !change(&orders, &endpoint, ENABLE));
        assert_eq!(orders.of_service("up").weight(&endpoint), 0);
        assert!(change(&orders, &endpoint, Change::Weigh(None)));
        assert_eq!((orders.of_service("up").weight(&endpoint), orders.of_service("up").iter().count()), (1, 0));
        assert_eq!(orders.change("up", "10.9.9.9:80", None, ENABLE, String::new()), Ok(false), "it has none");
    }

    #[test]
    fn their_number_is_bounded() {
        let orders = Orders::default();
        for number in 0..ENDPOINT_ORDERS_MAX {
            let name = format!("e{number}:80");
            assert_eq!(orders.change("up", &name, None, DRAIN, String::new()), Ok(true));
        }
        assert_eq!(orders.change("up", "more:80", None, DRAIN, String::new()), Err(Full));
        assert_eq!(orders.change("up", "e7:80", None, Change::Weigh(Some(2)), String::new()), Ok(true));
        assert_eq!(orders.change("up", "e7:80", None, Change::Weigh(None), String::new()), Ok(true));
        assert_eq!(orders.change("up", "e7:80", None, ENABLE, String::new()), Ok(true));
        assert_eq!(orders.change("up", "more:80", None, DRAIN, String::new()), Ok(true));
    }
}
