//! Session tickets: sealed by keys that all workers share, so that a client resumes at whichever worker it comes to,
//! and the gateway keeps nothing for it. A key seals for 12 hours and opens for 36: three are kept (F82).
//!
//! Each ticket is bound to the rules that its session was made under: it opens under no others. That it was made for
//! the same server name, rustls checks itself.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use rustls::server::ProducesTickets;

use crate::time;

/// How long a key seals, in seconds.
pub const TICKET_ROTATION_S: u64 = 12 * 3600;
/// Keys that open.
pub const TICKET_KEYS: u64 = 3;
const NAME_BYTES: usize = 16;
const TAG_BYTES: usize = 16;

/// The keys of all workers; they go on over reloads.
pub struct TicketRing {
    keys: ArcSwap<Vec<Arc<Key>>>,
    /// One worker renews at a time.
    renewing: Mutex<()>,
}

struct Key {
    name: [u8; NAME_BYTES],
    key: LessSafeKey,
    born_s: u64,
}

impl std::fmt::Debug for TicketRing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketRing")
    }
}

impl Key {
    fn new(now_s: u64) -> Option<Arc<Self>> {
        let (mut name, mut secret) = ([0; NAME_BYTES], [0; 32]);
        rand::fill(&mut name).ok()?;
        rand::fill(&mut secret).ok()?;
        let key = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &secret).ok()?);
        Some(Arc::new(Self { name, key, born_s: now_s }))
    }
}

impl TicketRing {
    /// A ring with its first key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn new() -> Result<Arc<Self>, String> {
        Self::at(time::unix_seconds()).ok_or_else(|| "the system gives no random bytes".to_owned())
    }

    fn at(now_s: u64) -> Option<Arc<Self>> {
        let keys = ArcSwap::from_pointee(vec![Key::new(now_s)?]);
        Some(Arc::new(Self { keys, renewing: Mutex::default() }))
    }

    /// The keys at this time, the sealing one first.
    fn keys(&self, now_s: u64) -> Arc<Vec<Arc<Key>>> {
        let keys = self.keys.load_full();
        let is_due = |keys: &[Arc<Key>]| keys.first().is_none_or(|key| now_s >= key.born_s + TICKET_ROTATION_S);
        if !is_due(&keys) {
            return keys;
        }
        // Whoever comes second takes the present ones once more.
        let Ok(_renewing) = self.renewing.try_lock() else { return keys };
        let keys = self.keys.load_full();
        if !is_due(&keys) {
            return keys;
        }
        let Some(fresh) = Key::new(now_s) else { return keys };
        let opens = |key: &&Arc<Key>| now_s < key.born_s + TICKET_KEYS * TICKET_ROTATION_S;
        let old = keys.iter().filter(opens).take(TICKET_KEYS as usize - 1).cloned();
        let renewed = Arc::new(std::iter::once(fresh).chain(old).collect());
        self.keys.store(Arc::clone(&renewed));
        renewed
    }

    fn seal(&self, binding: &[u8; 32], plain: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let keys = self.keys(now_s);
        let key = keys.first()?;
        let mut nonce = [0; NONCE_LEN];
        rand::fill(&mut nonce).ok()?;
        let mut ticket = Vec::with_capacity(NAME_BYTES + NONCE_LEN + plain.len() + TAG_BYTES);
        ticket.extend_from_slice(&key.name);
        ticket.extend_from_slice(&nonce);
        ticket.extend_from_slice(plain);
        let nonce = Nonce::assume_unique_for_key(nonce);
        let (head, data) = ticket.split_at_mut(NAME_BYTES + NONCE_LEN);
        let aad = Aad::from(bound(head, binding));
        let tag = key.key.seal_in_place_separate_tag(nonce, aad, data).ok()?;
        ticket.extend_from_slice(tag.as_ref());
        Some(ticket)
    }

    fn open(&self, binding: &[u8; 32], ticket: &[u8], now_s: u64) -> Option<Vec<u8>> {
        let (head, data) = ticket.split_at_checked(NAME_BYTES + NONCE_LEN)?;
        let keys = self.keys(now_s);
        let key = keys.iter().find(|key| key.name == head[..NAME_BYTES])?;
        if now_s >= key.born_s + TICKET_KEYS * TICKET_ROTATION_S {
            return None;
        }
        let nonce = Nonce::try_assume_unique_for_key(&head[NAME_BYTES..]).ok()?;
        let mut data = data.to_vec();
        let length = key.key.open_in_place(nonce, Aad::from(bound(head, binding)), &mut data).ok()?.len();
        data.truncate(length);
        Some(data)
    }
}

/// What a ticket is sealed with beside its content: its key's name and the rules.
fn bound(head: &[u8], binding: &[u8; 32]) -> [u8; NAME_BYTES + 32] {
    let mut all = [0; NAME_BYTES + 32];
    all[..NAME_BYTES].copy_from_slice(&head[..NAME_BYTES]);
    all[NAME_BYTES..].copy_from_slice(binding);
    all
}

/// The ring as one set of rules sees it.
#[derive(Debug)]
pub(super) struct BoundTickets {
    pub(super) ring: Arc<TicketRing>,
    /// Digest of the rules.
    pub(super) binding: [u8; 32],
}

impl ProducesTickets for BoundTickets {
    fn enabled(&self) -> bool {
        true
    }

    /// What every ticket is good for, also one that was sealed by a key at its last moment.
    fn lifetime(&self) -> u32 {
        ((TICKET_KEYS - 1) * TICKET_ROTATION_S) as u32
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.ring.seal(&self.binding, plain, time::unix_seconds())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.ring.open(&self.binding, cipher, time::unix_seconds())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tickets_open_for_36_hours_over_rotations_and_not_longer() {
        let (start, hour) = (1_800_000_000, 3600);
        let ring = TicketRing::at(start).expect("random bytes");
        let early = ring.seal(&[1; 32], b"session", start + 1).expect("sealed");
        let late = ring.seal(&[1; 32], b"session", start + 12 * hour - 1).expect("sealed");
        for hours in [1, 11, 13, 25, 35] {
            assert_eq!(
                ring.open(&[1; 32], &early, start + hours * hour).as_deref(),
                Some(&b"session"[..]),
                "{hours} h"
            );
            assert!(ring.keys(start + hours * hour).len() <= 3);
        }
        assert!(
            ring.open(&[1; 32], &late, start + 12 * hour - 1 + 24 * hour).is_some(),
            "24 hours whenever it was made"
        );
        assert!(ring.open(&[1; 32], &early, start + 36 * hour).is_none());
        assert!(ring.open(&[1; 32], &late, start + 37 * hour).is_none());
    }

    #[test]
    fn keys_that_slept_too_long_are_gone_with_the_next_one() {
        let ring = TicketRing::at(1_000).expect("random bytes");
        assert_eq!(ring.keys(1_000 + 100 * 3600).len(), 1);
    }

    #[test]
    fn a_ticket_opens_under_its_own_rules_only_and_unchanged() {
        let ring = TicketRing::at(0).expect("random bytes");
        let ticket = ring.seal(&[1; 32], b"session", 5).expect("sealed");
        assert!(ring.open(&[2; 32], &ticket, 5).is_none());
        assert!(TicketRing::at(0).expect("random bytes").open(&[1; 32], &ticket, 5).is_none());
        for at in 0..ticket.len() {
            let mut changed = ticket.clone();
            changed[at] ^= 1;
            assert!(ring.open(&[1; 32], &changed, 5).is_none(), "byte {at}");
            assert!(ring.open(&[1; 32], &ticket[..at], 5).is_none(), "cut at {at}");
        }
        assert_ne!(ring.seal(&[1; 32], b"session", 5), ring.seal(&[1; 32], b"session", 5));
    }
}
