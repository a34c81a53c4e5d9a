//! The instruments of a worker: one table from which the fields, the snapshot and the page derive.

use std::cell::Cell;

/// How a value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Count,
    /// Goes up and down.
    Level,
    /// Nanoseconds that go up and down; shown in seconds.
    Nanoseconds,
    /// Parts of a thousand million; shown as a share from 0 to 1.
    Share,
}

/// A value of one worker: a counter or a level.
#[derive(Debug, Default)]
pub struct Instrument(Cell<i64>);

impl Instrument {
    /// One more.
    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    /// One less; only for levels.
    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    /// That many more.
    #[inline]
    pub fn add(&self, more: i64) {
        self.0.set(self.0.get().wrapping_add(more));
    }

    /// Replaces the value; only for levels.
    #[inline]
    pub fn set(&self, value: i64) {
        self.0.set(value);
    }

    /// The value.
    #[inline]
    pub fn get(&self) -> i64 {
        self.0.get()
    }
}

/// A fixed row of counters, addressed by index.
#[derive(Debug)]
pub struct Tally<const N: usize>([Cell<u64>; N]);

impl<const N: usize> Default for Tally<N> {
    fn default() -> Self {
        Self([const { Cell::new(0) }; N])
    }
}

impl<const N: usize> Tally<N> {
    /// One more at `index`; an index out of range is not counted.
    #[inline]
    pub fn add(&self, index: usize) {
        if let Some(cell) = self.0.get(index) {
            cell.set(cell.get() + 1);
        }
    }

    /// The values.
    pub fn values(&self) -> [u64; N] {
        std::array::from_fn(|at| self.0[at].get())
    }

    /// Adds the counts of another row.
    pub fn absorb(&self, other: &Self) {
        for (cell, more) in self.0.iter().zip(&other.0) {
            cell.set(cell.get() + more.get());
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])+ $name:ident { $( $(#[$variant_doc:meta])+ $variant:ident = $word:literal, )+ }) => {
        $(#[$doc])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $( $(#[$variant_doc])+ $variant, )+ }

        impl $name {
            /// The label values, in declaration order.
            pub const WORDS: &'static [&'static str] = &[ $( $word, )+ ];
        }
    };
}

words! {
    /// What became of a request that was to be mirrored.
    Mirrored {
        /// It was answered, whatever the answer.
        Answered = "answered",
        /// It was sent, or could not be, and was not answered.
        Failed = "failed",
        /// Too many were under way, the service takes no more, or memory is short.
        Refused = "refused",
        /// Its body is longer than the bound, or has trailers.
        BodyTooLong = "body_too_long",
        /// Its body did not come to its end.
        BodyIncomplete = "body_incomplete",
    }
}

words! {
    /// A deadline that fired.
    Deadline {
        /// The request header did not arrive in time.
        Header = "header",
        /// A kept-alive downstream connection stayed idle.
        Idle = "idle",
        /// A request body paused.
        Body = "body",
        /// A client did not read.
        Write = "write",
        /// A request body came too slowly.
        BodyRate = "body_rate",
        /// A client took its response too slowly.
        WriteRate = "write_rate",
        /// Connecting to an endpoint took too long.
        Connect = "connect",
        /// The first byte of a response took too long.
        FirstByte = "first_byte",
        /// A response paused.
        BetweenBytes = "between_bytes",
        /// The whole request took too long.
        Request = "request",
        /// A connection reached its greatest age.
        Age = "age",
        /// A closing connection was not drained in time.
        Linger = "linger",
        /// Draining at a stop ended by force.
        Drain = "drain",
    }
}

words! {
    /// Why a connection was refused.
    Refusal {
        /// `connections_max` of its listener.
        Connections = "connections",
        /// No file descriptor was left.
        Descriptors = "descriptors",
        /// Memory ran short.
        Memory = "memory",
        /// The gateway is stopping.
        Draining = "draining",
        /// Accepting failed otherwise.
        Accept = "accept",
        /// `connections_per_client_max` of its listener.
        Client = "client",
        /// Too many TLS handshakes are under way.
        Handshakes = "handshakes",
        /// `handshake_rate` of its listener.
        HandshakeRate = "handshake_rate",
        /// `handshake_rate_per_client` of its listener.
        ClientHandshakeRate = "client_handshake_rate",
    }
}

words! {
    /// Why a TLS handshake failed.
    HandshakeFailure {
        /// The connection ended, or took too long.
        Ended = "ended",
        /// No certificate answers the name that was asked for.
        UnknownName = "unknown_name",
        /// A message is too long (F86).
        TooLong = "too_long",
        /// No version, cipher or protocol that both have.
        Incompatible = "incompatible",
        /// What came is no TLS, or against its rules.
        Protocol = "protocol",
        /// The client showed no certificate, and must.
        NoCertificate = "no_client_certificate",
        /// The client's certificate is revoked.
        Revoked = "client_certificate_revoked",
        /// The revocation list that should tell of the client's certificate is over.
        OldList = "crl_expired",
        /// The client's certificate is refused otherwise.
        BadCertificate = "client_certificate",
        /// The client does not know who has signed our certificate.
        AlertUnknownCa = "alert_unknown_ca",
        /// The client takes our certificate for over.
        AlertExpired = "alert_certificate_expired",
        /// The client takes our certificate for revoked.
        AlertRevoked = "alert_certificate_revoked",
        /// The client does not like our certificate, for another reason or for its name.
        AlertCertificate = "alert_bad_certificate",
        /// The client found nothing that both have.
        AlertFailure = "alert_handshake_failure",
        /// The client went away with a word.
        AlertClosed = "alert_close_notify",
        /// The client ended it with another alert.
        AlertOther = "alert_other",
        /// Anything else.
        Other = "other",
    }
}

words! {
    /// What a connection waited for that was closed to make room.
    Eviction {
        /// The rest of what the client sent, behind its last response.
        Linger = "linger",
        /// Another request.
        Idle = "idle",
        /// Its first request.
        First = "first",
        /// The rest of a request head.
        Head = "head",
        /// Any of these, closed for the memory's sake.
        Memory = "memory",
    }
}

words! {
    /// Why an HTTP/2 connection was ended for what its client did.
    GoAway {
        /// More resets than may be (F41).
        Resets = "resets",
        /// More stream errors than may be (F43).
        StreamErrors = "stream_errors",
        /// A block of fields in too many frames, or too large (F42).
        Continuation = "continuation",
        /// A block of fields that is far larger than it comes (F44).
        Bomb = "bomb",
        /// More control frames than may be (F45).
        Control = "control",
        /// More empty or tiny DATA frames than may be (F45).
        Data = "data",
        /// A block of fields that took too long.
        HeaderTimeout = "header_timeout",
        /// PROTOCOL_ERROR
        Protocol = "protocol_error",
        /// FLOW_CONTROL_ERROR
        FlowControl = "flow_control_error",
        /// FRAME_SIZE_ERROR
        FrameSize = "frame_size_error",
        /// COMPRESSION_ERROR
        Compression = "compression_error",
        /// STREAM_CLOSED
        StreamClosed = "stream_closed",
        /// Anything else.
        Other = "other",
    }
}

macro_rules! instruments {
    ($( $(#[$doc:meta])+ $name:ident: $kind:ident = $metric:literal, $help:literal; )+) => {
        /// Events and states of one worker, shown with the label `worker` under `ringway_worker_`.
        #[derive(Debug, Default)]
        pub struct Instruments {
            $( $(#[$doc])+ pub $name: Instrument, )+
            /// Deadlines that fired.
            pub deadlines: Tally<{ Deadline::WORDS.len() }>,
            /// Connections refused.
            pub refusals: Tally<{ Refusal::WORDS.len() }>,
            /// Connections closed to make room.
            pub evictions: Tally<{ Eviction::WORDS.len() }>,
            /// TLS handshakes that failed.
            pub handshake_failures: Tally<{ HandshakeFailure::WORDS.len() }>,
            /// HTTP/2 connections ended for what their clients did.
            pub goaways: Tally<{ GoAway::WORDS.len() }>,
        }

        /// Metric name without prefix, help and kind of each instrument, in declaration order.
        pub const INSTRUMENTS: &[(&str, &str, Kind)] = &[ $( ($metric, $help, Kind::$kind), )+ ];

        impl Instruments {
            /// The values in the order of [`INSTRUMENTS`].
            pub fn values(&self) -> [i64; INSTRUMENTS.len()] {
                [ $( self.$name.get(), )+ ]
            }
        }
    };
}

instruments! {
    /// Downstream connections that are open.
    active_connections: Level = "active_connections", "Open downstream connections.";
    /// Of these, kept alive without a request.
    idle_connections: Level = "idle_connections", "Downstream connections that wait for a request.";
    /// Downstream connections accepted.
    accepted: Count = "connections_accepted_total", "Downstream connections accepted.";
    /// Requests being served.
    active_requests: Level = "active_requests", "Requests being served.";
    /// Upstream connections that are open.
    upstream_open: Level = "upstream_connections", "Open upstream connections.";
    /// Of these, idle in a pool.
    upstream_idle: Level = "upstream_idle_connections", "Upstream connections idle in a pool.";
    /// Upstream connections opened.
    upstream_opened: Count = "upstream_connections_opened_total", "Upstream connections opened.";
    /// Requests sent on an upstream connection that had served another before.
    upstream_reused: Count = "upstream_connections_reused_total", "Requests sent on a pooled upstream connection.";
    /// Attempts after the first.
    retries: Count = "retries_total", "Attempts after the first.";
    /// Copies of requests that went to another endpoint before the first one had answered.
    hedges: Count = "hedges_total", "Copies of requests to a second endpoint while the first is slow.";
    /// Those that were answered first.
    hedges_won: Count = "hedges_won_total", "Hedged requests that a copy answered first.";
    /// Panics that were contained: each cost one connection.
    panics: Count = "panics_total", "Panics contained; each cost one connection.";
    /// Access log lines dropped because the writer was behind.
    log_dropped: Count = "log_lines_dropped_total", "Access log lines dropped because the writer was behind.";
    /// Bytes read from clients as request bodies.
    request_bytes: Count = "request_body_bytes_total", "Request body bytes read from clients.";
    /// Bytes sent to clients as response bodies.
    response_bytes: Count = "response_body_bytes_total", "Response body bytes sent to clients.";
    /// Tunnels that are open.
    tunnels_open: Level = "tunnels_open", "Open tunnels (WebSocket and the like).";
    /// Tunnels opened.
    tunnels_opened: Count = "tunnels_opened_total", "Tunnels opened.";
    /// Bytes that tunnels carried to endpoints.
    tunnel_bytes_up: Count = "tunnel_upstream_bytes_total", "Bytes that tunnels carried to endpoints.";
    /// Bytes that tunnels carried to clients.
    tunnel_bytes_down: Count = "tunnel_downstream_bytes_total", "Bytes that tunnels carried to clients.";
    /// HTTP/2 connections that are open.
    h2_connections: Level = "h2_connections", "Open downstream HTTP/2 connections.";
    /// HTTP/2 streams that clients opened.
    h2_streams: Count = "h2_streams_total", "HTTP/2 streams opened by clients.";
    /// HTTP/2 streams that clients reset.
    h2_resets: Count = "h2_resets_total", "HTTP/2 streams reset by clients.";
    /// HTTP/2 streams that were reset for what clients did.
    h2_stream_errors: Count = "h2_stream_errors_total", "HTTP/2 streams reset for what their clients did.";
    /// Pooled buffers in use.
    buffers_used: Level = "buffers_used", "Pooled buffers in use.";
    /// Pooled buffers that are free.
    buffers_free: Level = "buffers_free", "Pooled buffers kept free.";
    /// How late the last timer tick was.
    loop_lag: Nanoseconds = "loop_lag_seconds", "How late the last timer tick was.";
    /// How late a timer tick was at worst.
    loop_lag_max: Nanoseconds = "loop_lag_max_seconds", "How late a timer tick was at worst since the start.";
    /// Share of the last second in which the worker's thread ran.
    busy: Share = "busy_share", "Share of the last second in which the worker's thread ran.";
    /// Connections accepted here and handed to a calmer worker (D8).
    handed_over: Count = "connections_handed_over_total", "Connections accepted here and handed to a calmer worker.";
    /// Connections that other workers handed over.
    taken_over: Count = "connections_taken_over_total", "Connections that other workers handed to this one.";
    /// TLS handshakes that succeeded.
    handshakes: Count = "tls_handshakes_total", "TLS handshakes that succeeded.";
    /// Of these, taken up from an earlier session.
    handshakes_resumed: Count = "tls_handshakes_resumed_total", "TLS handshakes that resumed a session.";
    /// TLS handshakes that failed or took too long.
    handshakes_failed: Count = "tls_handshakes_failed_total", "TLS handshakes that failed or took too long.";
    /// Sets of endpoints that were taken up while the configuration stayed.
    endpoint_sets: Count = "endpoint_sets_total", "Changed sets of endpoints taken up without a reload.";
    /// Generation of the snapshot in use.
    generation: Level = "config_generation", "Generation of the configuration that the worker uses.";
}

impl Instruments {
    /// Counts a deadline that fired.
    pub fn deadline(&self, kind: Deadline) {
        self.deadlines.add(kind as usize);
    }

    /// Counts a refused connection.
    pub fn refused(&self, why: Refusal) {
        self.refusals.add(why as usize);
    }

    /// Counts a connection that was closed to make room.
    pub fn evicted(&self, what: Eviction) {
        self.evictions.add(what as usize);
    }

    /// Counts an HTTP/2 connection that was ended for what its client did.
    pub fn went_away(&self, why: &str) {
        let at = GoAway::WORDS.iter().position(|word| *word == why);
        self.goaways.add(at.unwrap_or(GoAway::Other as usize));
    }

    /// Notes how late a timer tick was.
    pub fn lag(&self, ns: u64) {
        let ns = i64::try_from(ns).unwrap_or(i64::MAX);
        self.loop_lag.set(ns);
        self.loop_lag_max.set(self.loop_lag_max.get().max(ns));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn names_are_unique_and_counters_end_in_total() {
        let names: HashSet<_> = INSTRUMENTS.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), INSTRUMENTS.len());
        for (name, _, kind) in INSTRUMENTS {
            assert_eq!(name.ends_with("_total"), *kind == Kind::Count, "{name}");
        }
    }

    #[test]
    fn tallies_ignore_what_is_out_of_range() {
        let own = Instruments::default();
        own.deadline(Deadline::Drain);
        own.refused(Refusal::Memory);
        own.refusals.add(99);
        assert_eq!(own.deadlines.values().iter().sum::<u64>(), 1);
        assert_eq!(own.refusals.values(), [0, 0, 1, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_worst_lag_is_kept() {
        let own = Instruments::default();
        own.lag(7);
        own.lag(3);
        assert_eq!((own.loop_lag.get(), own.loop_lag_max.get()), (3, 7));
    }
}
