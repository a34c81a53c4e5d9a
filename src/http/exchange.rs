//! The state of one request and its response, from the first byte to the log line.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bytes::Bytes;

use super::fields::Fields;
use super::grpc::{self, Call};
use super::message::{RequestHead, ResponseHead};
use super::secure::{ClientIdentity, Secure};
use crate::concurrency::Permit;
use crate::error::{Failure, Reason};
use crate::time::Now;

/// The scheme that the client used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Scheme {
    /// Without TLS.
    #[default]
    Http,
    /// With TLS.
    Https,
    /// None: bytes that mean nothing to the gateway.
    Tcp,
}

impl Scheme {
    /// `http`, `https` or `tcp`.
    pub const fn text(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
            Scheme::Tcp => "tcp",
        }
    }
}

/// A request's identity in logs, traces and headers (R30, C18): a version 4 UUID, or what a trusted peer sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    text: [u8; RequestId::BYTES_MAX],
    len: u8,
}

impl RequestId {
    /// Longest identity taken from a trusted peer.
    pub const BYTES_MAX: usize = 64;

    /// A version 4 UUID from 128 random bits.
    pub fn from_random(high: u64, low: u64) -> Self {
        let high = (high & !0xf000) | 0x4000;
        let low = (low & (u64::MAX >> 2)) | (1 << 63);
        let (a, b) = (hex(high), hex(low));
        let mut id = Self { text: [b'-'; Self::BYTES_MAX], len: 36 };
        id.text[..8].copy_from_slice(&a[..8]);
        id.text[9..13].copy_from_slice(&a[8..12]);
        id.text[14..18].copy_from_slice(&a[12..]);
        id.text[19..23].copy_from_slice(&b[..4]);
        id.text[24..36].copy_from_slice(&b[4..]);
        id
    }

    /// An identity that a trusted peer sent: 1 to 64 letters, digits, `-`, `_`, `.`, `:`, `+`, `/` or `=`. None
    /// otherwise.
    pub fn from_peer(value: &[u8]) -> Option<Self> {
        let legal = |b: &u8| b.is_ascii_alphanumeric() || b"-_.:+/=".contains(b);
        if value.is_empty() || value.len() > Self::BYTES_MAX || !value.iter().all(legal) {
            return None;
        }
        let mut id = Self { text: [0; Self::BYTES_MAX], len: value.len() as u8 };
        id.text[..value.len()].copy_from_slice(value);
        Some(id)
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len as usize]
    }
}

/// Sixteen digits, eight at a time: each nibble of a spread-out word becomes its digit without a branch.
fn hex(value: u64) -> [u8; 16] {
    let half = |word: u64| {
        let mut spread = (word | word << 16) & 0x0000_ffff_0000_ffff;
        spread = (spread | spread << 8) & 0x00ff_00ff_00ff_00ff;
        spread = (spread | spread << 4) & 0x0f0f_0f0f_0f0f_0f0f;
        // 6 more carries a nibble over 9 into bit 4: those become letters.
        let letters = (spread + 0x0606_0606_0606_0606) >> 4 & 0x0101_0101_0101_0101;
        (spread + 0x3030_3030_3030_3030 + letters * 39).to_be_bytes()
    };
    let mut digits = [0; 16];
    digits[..8].copy_from_slice(&half(value >> 32));
    digits[8..].copy_from_slice(&half(value & 0xffff_ffff));
    digits
}

impl Default for RequestId {
    fn default() -> Self {
        Self { text: [0; Self::BYTES_MAX], len: 0 }
    }
}

/// A short text that is made once for a connection and written for each of its requests: an address, a port. `N` is the
/// longest one; that of addresses is an IPv6 address with a mapped IPv4 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortText<const N: usize = 46> {
    bytes: [u8; N],
    len: u8,
}

/// A port as text.
pub type PortText = ShortText<5>;

impl<const N: usize> ShortText<N> {
    /// The text of a value; what is beyond the longest text is cut.
    pub fn of(value: &impl std::fmt::Display) -> Self {
        use std::io::Write;
        let mut text = Self::default();
        let mut room = &mut text.bytes[..];
        // Writing stops where the room ends, which is the cut.
        let _ = write!(room, "{value}");
        text.len = (N - room.len()) as u8;
        text
    }

    /// The bytes.
    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }
}

impl ShortText {
    /// The text of an address, which each new connection asks for: an IPv4 one without the machinery of formatting.
    pub fn of_address(address: IpAddr) -> Self {
        let IpAddr::V4(v4) = address else { return Self::of(&address) };
        let mut text = Self::default();
        let mut at = 0;
        let mut push = |byte: u8| {
            text.bytes[at] = byte;
            at += 1;
        };
        for (place, octet) in v4.octets().into_iter().enumerate() {
            if place > 0 {
                push(b'.');
            }
            if octet >= 100 {
                push(b'0' + octet / 100);
            }
            if octet >= 10 {
                push(b'0' + octet / 10 % 10);
            }
            push(b'0' + octet % 10);
        }
        text.len = at as u8;
        text
    }
}

impl<const N: usize> Default for ShortText<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0 }
    }
}

/// A response that the gateway makes itself.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Status code.
    pub status: u16,
    /// Why; None for an answer that is no failure (redirect, fixed answer).
    pub reason: Option<Reason>,
    /// Content type of `body`; empty when there is no body, or when the error shape is to be made (C19).
    pub content_type: &'static str,
    /// Body. An empty body with a reason becomes the JSON error shape.
    pub body: Bytes,
    /// More fields, checked when they are serialised.
    pub fields: Vec<(Bytes, Bytes)>,
}

impl Reply {
    /// The answer for a failure, in the gateway's one error shape.
    pub fn failure(reason: Reason) -> Self {
        Self { status: reason.status(), reason: Some(reason), ..Self::default() }
    }
}

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    /// The request.
    pub request: RequestHead,
    /// The response as it will leave, whether the endpoint or the gateway made it.
    pub response: ResponseHead,
    /// Fields that policies add to whatever response leaves, the gateway's own errors included (C13).
    pub late_fields: Fields,
    /// Identity of the request.
    pub id: RequestId,
    /// Address of the TCP peer.
    pub peer: SocketAddr,
    /// Address of the client, read from the right through trusted proxies (C15).
    pub client_ip: IpAddr,
    /// The peer's address as text.
    pub peer_text: ShortText,
    /// The port that the client connected to, as text.
    pub port_text: PortText,
    /// The peer is a trusted proxy: its forwarding fields are believed.
    pub peer_is_trusted: bool,
    /// Scheme that the client used.
    pub scheme: Scheme,
    /// What TLS knows of the connection; None without TLS.
    pub secure: Option<Rc<Secure>>,
    /// When the first byte of the request was read.
    pub started: Now,
    /// Index of the route in its snapshot; `NO_ROUTE` when none matched.
    pub route: u32,
    /// Identity of the route over reloads; 0 when none matched.
    pub route_key: u64,
    /// Index of the service in its snapshot; `NO_SERVICE` when none was asked.
    pub service: u32,
    /// The endpoint that was asked last.
    pub endpoint: Option<Rc<EndpointTag>>,
    /// Attempts made at endpoints.
    pub attempts: u32,
    /// Those among them that found nobody while there were others to ask.
    pub vain: u32,
    /// Nanoseconds from sending the request to the response head.
    pub upstream_ns: u64,
    /// The endpoint's own status, 0 without one (C1: kept whatever leaves).
    pub upstream_status: u16,
    /// What is known of a request that is a gRPC call.
    pub grpc: Option<Call>,
    /// Why the gateway answered itself or cut the exchange.
    pub failure: Option<Failure>,
    /// Request body bytes read from the client.
    pub request_bytes: u64,
    /// Response body bytes sent to the client.
    pub response_bytes: u64,
    /// Places under limits on requests in flight, given back when the exchange is cleared or dropped: a panic too gives
    /// them back.
    pub permits: Vec<Permit>,
    /// Copies that went to other endpoints before the first one had answered.
    pub hedges: u8,
    /// One of them brought the answer.
    pub hedge_won: bool,
    /// A value from the worker's generator, new for every request: policies and balancers that need chance take it.
    pub random: u64,
}

/// What is left of an endpoint for log and counters when it has gone from its service meanwhile.
#[derive(Debug, PartialEq, Eq)]
pub struct EndpointTag {
    /// As written.
    pub authority: Box<str>,
    /// Where its counters are among those of its service. No other endpoint's are there while this tag lives.
    pub slot: u32,
}

/// How an endpoint did with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointWork {
    /// It was not asked, or what became of it says nothing about it.
    Unknown,
    /// It answered: nanoseconds to the response head.
    Took(u64),
    /// It failed as an overloaded one does.
    Strained,
}

impl Exchange {
    /// `route` when no route matched.
    pub const NO_ROUTE: u32 = u32::MAX;
    /// `service` when none was asked.
    pub const NO_SERVICE: u32 = u32::MAX;

    /// The same request once more, of which nothing has been asked yet: for a copy that goes its own way.
    pub fn copy_request(&self) -> Self {
        Self {
            request: self.request.copy(),
            id: self.id,
            peer: self.peer,
            client_ip: self.client_ip,
            peer_text: self.peer_text,
            port_text: self.port_text,
            peer_is_trusted: self.peer_is_trusted,
            scheme: self.scheme,
            secure: self.secure.clone(),
            started: self.started,
            grpc: self.grpc,
            random: self.random,
            ..Self::default()
        }
    }

    /// Whose certificate the connection was opened with.
    pub fn client_identity(&self) -> Option<&ClientIdentity> {
        self.secure.as_ref()?.client.as_ref()
    }

    /// How the endpoint did, for limits that learn from it. Timeouts, refused connections and its own 503 are what an
    /// overloaded one gives; other failures, as that of a client that left, say nothing.
    pub fn endpoint_work(&self) -> EndpointWork {
        let strained = self.failure.is_some_and(|failure| {
            let at_connect = matches!(failure.reason, Reason::ConnectRefused | Reason::ConnectFailed);
            let late =
                matches!(failure.reason, Reason::ConnectTimeout | Reason::UpstreamTimeout | Reason::RequestTimeout);
            at_connect || late
        });
        match (self.attempts, self.upstream_status) {
            (0, _) => EndpointWork::Unknown,
            _ if strained => EndpointWork::Strained,
            (_, 503) => EndpointWork::Strained,
            (_, 0) => EndpointWork::Unknown,
            _ => EndpointWork::Took(self.upstream_ns),
        }
    }

    /// Remembers the status that a gRPC call ended with, where these fields of its response hold it.
    #[inline]
    pub fn note_grpc_status(&mut self, trailers: Option<&Fields>) {
        if let Some(call) = &mut self.grpc
            && let Some(text) = trailers.unwrap_or(&self.response.fields).find(grpc::STATUS)
        {
            call.status = grpc::parse_status(text);
        }
    }

    /// Empties the exchange for the next request, keeping the allocated tables.
    pub fn clear(&mut self) {
        self.request.clear();
        self.response.clear();
        self.late_fields.clear();
        self.route = Self::NO_ROUTE;
        self.route_key = 0;
        self.service = Self::NO_SERVICE;
        self.endpoint = None;
        (self.attempts, self.vain) = (0, 0);
        self.upstream_ns = 0;
        self.upstream_status = 0;
        self.grpc = None;
        self.failure = None;
        self.request_bytes = 0;
        self.response_bytes = 0;
        self.permits.clear();
        self.hedges = 0;
        self.hedge_won = false;
    }
}

impl Default for Exchange {
    fn default() -> Self {
        Self {
            request: RequestHead::default(),
            response: ResponseHead::default(),
            late_fields: Fields::default(),
            id: RequestId::default(),
            peer: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
            client_ip: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            peer_text: ShortText::default(),
            port_text: ShortText::default(),
            peer_is_trusted: false,
            scheme: Scheme::Http,
            secure: None,
            started: Now::default(),
            route: Self::NO_ROUTE,
            route_key: 0,
            service: Self::NO_SERVICE,
            endpoint: None,
            attempts: 0,
            vain: 0,
            hedges: 0,
            hedge_won: false,
            upstream_ns: 0,
            upstream_status: 0,
            grpc: None,
            failure: None,
            request_bytes: 0,
            response_bytes: 0,
            permits: Vec::new(),
            random: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_they_are_formatted() {
        for text in ["0.0.0.0", "1.20.255.9", "255.255.255.255", "10.100.99.200", "::1", "2001:db8::ff00:42:8329"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(ShortText::of_address(address).as_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn made_identities_are_version_4_uuids() {
        let id = RequestId::from_random(0x0123_4567_89ab_cdef, u64::MAX);
        assert_eq!(id.as_bytes(), b"01234567-89ab-4def-bfff-ffffffffffff");
    }

    #[test]
    fn peer_identities_are_checked() {
        assert!(RequestId::from_peer(b"abc-1").is_some());
        assert!(RequestId::from_peer(b"").is_none());
        assert!(RequestId::from_peer(b"a b").is_none());
        assert!(RequestId::from_peer(&[b'a'; 65]).is_none());
    }
}
