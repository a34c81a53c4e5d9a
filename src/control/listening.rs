//! The listening sockets of the process: which it has, which worker accepts from which, and what a successor gets.
//!
//! Each socket exists once in the kernel and twice here: a worker accepts from it, and the control thread keeps it, so
//! that it can be handed to another process. Who closes a socket with connections in its queue loses them; handing the
//! same open socket on does not.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};

use super::activation::Inherited;
use crate::net::listener;
use crate::snapshot::Listener;
use crate::worker::mailbox::ListeningSocket;

/// What each worker is to accept from.
pub type Shares = Vec<Vec<ListeningSocket>>;

/// The control thread's hold on all listening sockets, by configured address.
#[derive(Debug, Default)]
pub struct Listening(BTreeMap<SocketAddr, Vec<TcpListener>>);

impl Listening {
    /// Opens what is missing for these listeners, with what the process was started with, and shares all of it between
    /// the workers. An address that is open already is not touched. When it fails, nothing has changed.
    ///
    /// # Errors
    /// Which address cannot be listened on, and why.
    pub fn open(
        &mut self,
        listeners: &[Listener],
        inherited: &mut Inherited,
        workers: usize,
    ) -> Result<Shares, String> {
        let mut shares: Shares = (0..workers).map(|_| Vec::new()).collect();
        let mut fresh = BTreeMap::new();
        for Listener { address, name, .. } in listeners {
            let address = *address;
            if self.0.contains_key(&address) || fresh.contains_key(&address) {
                continue;
            }
            let failed = |error| format!("cannot listen on {address}: {error}");
            let sockets = listener::complete(address, inherited.for_listener(address, name), workers);
            let sockets = sockets.map_err(failed)?;
            for (at, socket) in share_out(sockets.len(), workers) {
                let socket = sockets[socket].try_clone().map_err(failed)?;
                shares[at].push((address, socket));
            }
            fresh.insert(address, sockets);
        }
        self.0.append(&mut fresh);
        Ok(shares)
    }

    /// Lets go of every address that none of these has: the workers' own hold is all that is left.
    pub fn retain(&mut self, listeners: &[Listener]) {
        self.0.retain(|address, _| listeners.iter().any(|listener| listener.address == *address));
    }

    /// Lets go of everything.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// All sockets with the addresses as they are configured.
    pub fn all(&self) -> impl Iterator<Item = (SocketAddr, &TcpListener)> {
        self.0.iter().flat_map(|(address, sockets)| sockets.iter().map(|socket| (*address, socket)))
    }

    /// The addresses that are bound, one for each that is configured.
    pub fn bound(&self) -> Vec<SocketAddr> {
        self.0.values().filter_map(|sockets| sockets.first()?.local_addr().ok()).collect()
    }
}

/// Which worker accepts from which socket, as (worker, socket). Every worker has at least one socket and every socket
/// at least one worker: one that nobody accepts from would keep its clients waiting.
fn share_out(sockets: usize, workers: usize) -> impl Iterator<Item = (usize, usize)> {
    let (sockets_max, workers_max) = (sockets.max(1), workers.max(1));
    (0..sockets.max(workers)).map(move |at| (at % workers_max, at % sockets_max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::sync::Arc;

    #[test]
    fn every_worker_and_every_socket_has_its_part() {
        for sockets in 1..9 {
            for workers in 1..9 {
                let pairs: Vec<_> = share_out(sockets, workers).collect();
                let of = |part: fn(&(usize, usize)) -> usize| pairs.iter().map(part).collect::<BTreeSet<_>>();
                assert_eq!(of(|pair| pair.0), (0..workers).collect(), "{sockets} sockets, {workers} workers");
                assert_eq!(of(|pair| pair.1), (0..sockets).collect(), "{sockets} sockets, {workers} workers");
            }
        }
    }

    #[test]
    fn an_address_is_opened_once_and_given_back_when_it_is_no_more() {
        let (mut listening, mut nothing) = (Listening::default(), Inherited::default());
        let at = |name: &str| Listener::plain(name, SocketAddr::from(([127, 0, 0, 1], 0)), Arc::default());
        let shares = listening.open(&[at("a"), at("b")], &mut nothing, 2).expect("a port");
        assert_eq!(shares.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        assert_eq!(listening.all().count(), 2);
        let again = listening.open(&[at("a")], &mut nothing, 2).expect("nothing to do");
        assert!(again.iter().all(Vec::is_empty));
        let bound = listening.bound()[0];
        listening.retain(&[]);
        drop(shares);
        assert!(std::net::TcpStream::connect(bound).is_err(), "nobody listens any more");
    }
}
