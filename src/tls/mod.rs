//! Whom the gateway is to its clients: certificates by name, rules for client certificates, session tickets. What a
//! listener has of it is immutable and part of the snapshot; handshakes themselves are in `net::tls`.

mod certificate;
mod client;
pub mod managed;
mod ocsp;
mod pace;
mod provider;
mod server;
mod ticket;

pub use certificate::{Pair, identity, read_authorities, read_revocations, revocations_end_s};
pub use client::{ClientTls, EndpointRules, certificate_words, server_name};
pub use pace::{Pace, Paces, TooMany};
pub use provider::{Profile, provider};
pub use server::{ClientRules, Known, List, Rules, ServerTls, ZoneRules};
pub use ticket::{TICKET_KEYS, TICKET_ROTATION_S, TicketRing};
