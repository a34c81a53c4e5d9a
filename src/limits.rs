//! Every bound of the process, with the default that users get.
//!
//! A bound that a configuration key can change has its default here and its meaning in the configuration reference; the
//! others are fixed. Modules with tables of their own name their bounds beside the table and are listed in
//! `docs/limits.md`.

/// Head room kept before the filled part of every pooled buffer: a chunk-size line, a frame header or a whole message
/// head is written there in place, so that a relayed payload is not copied to gain a prefix. With the head that the
/// payload came with, it is room for that head and half a KiB of additions.
pub const BUF_HEADROOM_BYTES: usize = 512;
/// Tail room kept behind every read: `CRLF 0 CRLF CRLF` fits without a copy, and behind it the type and the tag of a
/// TLS record.
pub const BUF_TAILROOM_BYTES: usize = 32;
/// Usable size of the smallest pooled buffer: nearly every request without a body and the shortest responses whole.
/// What waits for a next request or a short response holds one of these: with 512 clients, both sides' buffers of two
/// pages would compete for the same few sets of the second-level cache, as they all begin at the same offsets in it.
pub const BUF_TINY_BYTES: usize = 2560 - BUF_HEADROOM_BYTES - BUF_TAILROOM_BYTES;
/// An endpoint whose last so many responses would have fitted the smallest buffer is read with it.
pub const SHORT_RESPONSES_MIN: u8 = 8;
/// Usable size of a small pooled buffer: most requests and small responses whole. With head and tail room it is two
/// pages.
pub const BUF_SMALL_BYTES: usize = 8192 - BUF_HEADROOM_BYTES - BUF_TAILROOM_BYTES;
/// Usable size of a large pooled buffer: what one relayed read may bring, and the most that a client who does not read
/// its response can hold (F11).
pub const BUF_LARGE_BYTES: usize = 32 * 1024;
/// A body with so many bytes left is passed from socket to socket inside the kernel, where both ends are plain TCP and
/// the bytes go on as they are.
pub const SPLICE_BYTES_MIN: u64 = 32 * 1024;
/// What one pipe may hold on its way: kernel memory that a client who does not read its response keeps.
pub const SPLICE_STEP_BYTES: usize = 256 * 1024;
/// Steps of one such body in a row, before the worker's other connections have their turn.
pub const SPLICE_STEPS_MAX: u32 = 4;
/// Pipes (two descriptors each) that a worker uses at once; further bodies are copied.
pub const PIPES_MAX: usize = 128;
/// Free pipes that a worker keeps.
pub const PIPES_FREE_MAX: usize = 32;
/// Free small buffers that a worker keeps; more are given back to the allocator. Those that a second did not need are
/// given back as well.
pub const BUF_SMALL_FREE_MAX: usize = 4096;
/// Free buffers of each size that a worker keeps beyond what the last second needed.
pub const BUF_SPARE: usize = 8;
/// Free rooms for requests' futures (2 KiB each) that a worker keeps; those that a second did not need are given back.
pub const ROOMS_FREE_MAX: usize = 4096;
/// Free large buffers that a worker keeps.
pub const BUF_LARGE_FREE_MAX: usize = 256;

/// Header section of a request or response, start line included (431, R182; `header_bytes_max`).
pub const HEADER_BYTES_MAX: usize = 32 * 1024;
/// One field line (`field_bytes_max`).
pub const FIELD_BYTES_MAX: usize = 16 * 1024;
/// Request target (414; `target_bytes_max`).
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Field lines of one section, trailers counted (`fields_max`).
pub const FIELDS_MAX: usize = 100;
/// The largest `fields_max` that can be configured: the parser's table is this long.
pub const FIELDS_CEILING: usize = 256;
/// Request body streamed through (413; `body_bytes_max`).
pub const BODY_BYTES_MAX: u64 = 10 * 1024 * 1024;
/// Chunk-size line with its extensions.
pub const CHUNK_LINE_BYTES_MAX: usize = 4 * 1024;
/// Trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// A method that the gateway does not know by name.
pub const METHOD_BYTES_MAX: usize = 32;
/// Ranges of one request (F56).
pub const RANGES_MAX: usize = 16;
/// Interim (1xx) responses before the final one (F35).
pub const INTERIM_RESPONSES_MAX: u32 = 16;
/// Empty lines that may stand before a request line (RFC 9112 section 2.2).
pub const LEADING_CRLF_MAX: usize = 4;

/// Whole request header, from its first byte (F38), in milliseconds.
pub const HEADER_TIMEOUT_MS: u64 = 10_000;
/// Idle kept-alive downstream connection.
pub const IDLE_TIMEOUT_MS: u64 = 75_000;
/// Pause between two reads of a request body.
pub const BODY_TIMEOUT_MS: u64 = 30_000;
/// Pause between two writes to a client that does not read.
pub const WRITE_TIMEOUT_MS: u64 = 30_000;
/// Bytes that a client must bring or take in a second while it is waited for (F39; `body_rate_min`, `write_rate_min`).
pub const RATE_BYTES_MIN: u64 = 256;
/// Waiting for a client that its rate does not count (`rate_grace`), in milliseconds.
pub const RATE_GRACE_MS: u64 = 10_000;
/// A TLS handshake, from the accept to its last message (F86), in milliseconds.
pub const HANDSHAKE_TIMEOUT_MS: u64 = 10_000;
/// Bytes of one handshake that wait for the rest of their message: a half-open handshake holds no more (F86).
pub const HANDSHAKE_BYTES_MAX: usize = 16 * 1024;
/// TLS handshakes that a worker has under way at once; further connections are closed (F86).
pub const HANDSHAKES_MAX: usize = 4096;
/// Certificates of one listener.
pub const CERTIFICATES_MAX: usize = 10_000;
/// A file with certificates, a key, an OCSP response or a revocation list.
pub const TLS_FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Days that a certificate should be good for yet; `check` and the start warn of fewer (F87).
pub const CERTIFICATE_DAYS_MIN: i64 = 21;
/// TLS records without application data in a row: empty ones, key updates, warnings.
pub const IDLE_RECORDS_MAX: u32 = 32;
/// Bytes of a handshake message that comes in pieces after the handshake: a session ticket.
pub const TICKET_BYTES_MAX: usize = 32 * 1024;
/// TLS records under one key, before it is renewed (RFC 8446 section 5.5).
pub const RECORDS_PER_KEY_MAX: u64 = 1 << 24;
/// Requests on one downstream connection.
pub const REQUESTS_PER_CONNECTION_MAX: u64 = 10_000;
/// Age of a downstream connection, after which it is closed at the next response.
pub const CONNECTION_AGE_MS_MAX: u64 = 3_600_000;
/// Routes, services and endpoints of a new configuration that a worker makes ready in one turn; of those that it takes
/// over as they are, 64 count as one.
pub const PREPARED_AT_ONCE: usize = 256;
/// How long a snapshot that was replaced is kept, in milliseconds, so that no worker is the last to have it.
pub const LET_GO_MS_MAX: u64 = 60_000;
/// How soon it is looked at, in milliseconds; the pause doubles with each look.
pub const LET_GO_LOOK_MS: u64 = 50;
/// How long that pause becomes, in milliseconds: a stream may hold it for long.
pub const LET_GO_LOOK_MS_MAX: u64 = 2_000;
/// How long a scrape waits for the background thread, in milliseconds, before the control thread makes the page itself:
/// a configuration that takes seconds to compile is no gap in anybody's graphs.
pub const PAGE_PATIENCE_MS: u64 = 1_000;
/// Accepts that wait on each listening socket of a ring: so many clients that come together are taken up in one turn of
/// the worker's loop.
pub const ACCEPTS_AT_ONCE: usize = 8;
/// Downstream connections of one worker, where the limit of open descriptors leaves more.
pub const CONNECTIONS_PER_WORKER_MAX: usize = 1 << 20;
/// Descriptors that clients never get: the admin API, health checks, the reopening of logs and reloads need them when
/// clients have taken all others (F08).
pub const DESCRIPTORS_RESERVE: u64 = 32;
/// Descriptors of the process's own besides the reserve and the workers': signals, timers, the process log, the admin
/// listener.
pub const DESCRIPTORS_OWN: u64 = 16;
/// Descriptors of one worker besides its listeners and connections: its ring and its mailbox.
pub const DESCRIPTORS_PER_WORKER: u64 = 8;
/// Connections that a worker accepts over its share before those that it has closed for them are gone.
pub const ACCEPT_OVERSHOOT: usize = 8;
/// Part of a worker's share, one in so many, that clients leave to upstream connections.
pub const UPSTREAM_SHARE: usize = 4;
/// Fewest connections that a worker must be able to hold for the gateway to start.
pub const SHARE_MIN: u64 = 8;
/// Locks of the table that counts the connections of each client.
pub const CLIENT_SHARDS: usize = 64;
/// What `memory_limit` by itself leaves of a control group's limit: at the group's the kernel kills, and what it needs
/// for a burst of connections is charged before the gateway can look (F10).
pub const MEMORY_GROUP_RESERVE_BYTES: u64 = 64 << 20;
/// Least and most of that reserve, in percent of the group's limit.
pub const MEMORY_GROUP_RESERVE_PERCENT: (u64, u64) = (10, 20);
/// Part of `memory_limit` in use from which connections close behind their responses, in percent (F10).
pub const MEMORY_SAVE_PERCENT: u64 = 90;
/// Part of `memory_limit` in use from which new requests are answered 503, in percent (F10).
pub const MEMORY_SHED_PERCENT: u64 = 95;
/// Part of `memory_limit` in use from which new clients are told 503 and closed, and heads that are on their way are
/// given up, in percent: a control group that is full has its processes killed (F10).
pub const MEMORY_FULL_PERCENT: u64 = 98;
/// Clients at a time that a worker tells so; further ones are closed without a word.
pub const TURNED_AWAY_MAX: u32 = 64;
/// How long a client that is told so has to read it, in milliseconds.
pub const TURNED_AWAY_MS: u64 = 500;
/// How far below its mark a level of memory is left, in percent of the limit.
pub const MEMORY_SLACK_PERCENT: u64 = 5;
/// How often the kernel is asked what the process uses, under a limit of which half is in use.
pub const MEMORY_LOOK_MS: u64 = 100;
/// The same while what is in use grows fast: by over a hundredth of the limit since the last look.
pub const MEMORY_LOOK_RISING_MS: u64 = 10;
/// The same while less is in use.
pub const MEMORY_LOOK_CALM_MS: u64 = 1_000;
/// What a connection holds besides buffers, by the worker's own count, in bytes.
pub const CONNECTION_HELD_BYTES: u64 = 3 * 1024;
/// What a request under way holds besides buffers, by the worker's own count, in bytes.
pub const REQUEST_HELD_BYTES: u64 = 12 * 1024;
/// What a new client is taken to cost until the kernel has been asked again, in bytes: its connection, a buffer, and
/// the kernel's own part.
pub const CLIENT_HELD_BYTES: u64 = 16 * 1024;
/// Bytes that the kernel holds for a client or an endpoint before they are on their way, under a memory limit. Without
/// one the kernel holds what its own settings say, several MiB at most.
pub const UNSENT_BYTES_MAX: u32 = 128 * 1024;
/// Whole request, head to last byte of the response (R132, C51).
pub const REQUEST_TIMEOUT_MS: u64 = 30_000;
/// Connecting to an endpoint.
pub const CONNECT_TIMEOUT_MS: u64 = 5_000;
/// First byte of the response head.
pub const FIRST_BYTE_TIMEOUT_MS: u64 = 15_000;
/// A request whose response is not there after this is looked at again: is it sent at all?
pub const SEND_CHECK_MS: u64 = 100;
/// Pause between two reads of a response.
pub const BETWEEN_BYTES_TIMEOUT_MS: u64 = 60_000;
/// Attempts for one request, the first one counted: one retry elsewhere, where that is safe (C50).
pub const ATTEMPTS_MAX: u32 = 2;
/// When another address of the same name is tried beside one that is not there (`timeouts.next_address`; RFC 8305).
pub const NEXT_ADDRESS_MS: u64 = 250;
/// Failures of connections that came too late which are remembered for an endpoint until the next second.
pub const LATE_FAILURES_MAX: usize = 16;
/// Addresses of one name that one request tries to connect to.
pub const ADDRESSES_AT_ONCE_MAX: usize = 4;
/// Attempts for one request that find nobody and do not count, while there are endpoints that it has not asked.
pub const VAIN_ATTEMPTS_MAX: u32 = 7;
/// From one check of an endpoint to its next (`health_check.interval`).
pub const CHECK_INTERVAL_MS: u64 = 5_000;
/// By how much that varies either way, in percent (`health_check.jitter`).
pub const CHECK_JITTER_PERCENT: u64 = 10;
/// A whole check (`health_check.timeout`).
pub const CHECK_TIMEOUT_MS: u64 = 2_000;
/// Checks in a row that make an endpoint up (`health_check.rise`).
pub const CHECK_RISE: u32 = 2;
/// Checks in a row that make an endpoint down (`health_check.fall`).
pub const CHECK_FALL: u32 = 3;
/// The first check of an endpoint comes within this, however long the interval.
pub const CHECK_FIRST_MS: u64 = 1_000;
/// Bytes of an answer to a check that are looked at.
pub const CHECK_ANSWER_BYTES_MAX: usize = 64 * 1024;
/// The head, and the trailers, of an answer to a check by gRPC.
pub const CHECK_HEAD_BYTES_MAX: u32 = 16 * 1024;
/// Checks of the whole process at once; more wait.
pub const CHECKS_AT_ONCE_MAX: usize = 64;
/// The prober looks for checks that are due when the next one is, but no sooner than so long after its last look.
pub const CHECKS_LOOK_MS: u64 = 20;
/// How often the prober looks which endpoints there are to be checked: discovery changes them without a word to it.
pub const CHECKS_TAKE_UP_MS: u64 = 200;
/// The same while no service has checks. A new configuration that has some is looked at at once.
pub const CHECKS_REST_MS: u64 = 5_000;
/// Results that are remembered for each endpoint.
pub const CHECK_HISTORY_MAX: usize = 10;
/// Failures in a row that open a circuit breaker (`circuit_breaker.failure_threshold`; R118).
pub const BREAKER_FAILURES: u32 = 5;
/// How long it stays open (`circuit_breaker.timeout`; R119, C24).
pub const BREAKER_OPEN_MS: u64 = 60_000;
/// Trials at once while it is half open, and successes that close it (`circuit_breaker.half_open_requests`; R120).
pub const BREAKER_TRIALS: u32 = 3;
/// When a client should come back whose request met a half open breaker with all its trials under way.
pub const BREAKER_TRIAL_RETRY_MS: u64 = 1_000;
/// Failed attempts in a row, over all workers, that eject an endpoint (`ejection.failures`; F23).
pub const EJECTION_FAILURES: u32 = 3;
/// An endpoint that could not be reached so often is tried again by one request in so many milliseconds, while others
/// are there for the rest, and while nobody is (F29).
pub const UNREACHABLE_TRIAL_MS: u64 = 250;
/// Answers 502, 503 and 504 in a row that do (`ejection.gateway_errors`).
pub const EJECTION_GATEWAY_ERRORS: u32 = 5;
/// Part of a pool that may be out by ejection, in percent (`ejection.percent_max`).
pub const EJECTION_PERCENT_MAX: u32 = 50;
/// Below this part of healthy endpoints all are asked, in percent (`panic.threshold`; F27).
pub const PANIC_PERCENT: u32 = 50;
/// What a tier of endpoints can take, in percent of its even share (`overprovision`).
pub const OVERPROVISION_PERCENT: u32 = 140;
/// Request body that is taken in before it is sent, so that it can go to several endpoints at once: what the buffers
/// between the gateway and an endpoint that does not read can be expected to take.
pub const HEDGED_BODY_BYTES_MAX: usize = 64 * 1024;
/// Request body that is held so that it can be sent again (`retries.replay_bytes_max`).
pub const REPLAY_BYTES_MAX: usize = 64 * 1024;
/// First pause before a retry at most (`retries.backoff.base`).
pub const BACKOFF_MS: u64 = 25;
/// Longest pause before a retry (`retries.backoff.max`).
pub const BACKOFF_MS_MAX: u64 = 250;
/// Retries in percent of the requests of the last ten seconds (`retries.budget.percent`; F25).
pub const RETRY_BUDGET_PERCENT: u32 = 20;
/// Retries a second besides, in the whole node (`retries.budget.per_second`; F25).
pub const RETRY_BUDGET_PER_SECOND: u32 = 10;
/// Retries at once besides, in each worker (`retries.budget.least`).
pub const RETRY_BUDGET_LEAST: u32 = 3;
/// Mirrored requests under way with one service, over all workers (`mirror.requests_max`); further ones are dropped.
pub const MIRROR_REQUESTS_MAX: u32 = 64;
/// Request body that is held for its copy (`mirror.body_bytes_max`); requests with a longer one are not mirrored.
pub const MIRROR_BODY_BYTES_MAX: u64 = 64 * 1024;
/// A whole mirrored request (`mirror.timeout`).
pub const MIRROR_TIMEOUT_MS: u64 = 5_000;
/// Answer to a mirrored request that is read, so that its connection can be used again; a longer one ends it.
pub const MIRROR_ANSWER_BYTES_MAX: u64 = 1024 * 1024;
/// First ejection of an endpoint by its failures; each further one lasts twice as long (`ejection.base`; F26).
pub const EJECTION_MS: u64 = 10_000;
/// Longest ejection (`ejection.max`).
pub const EJECTION_MS_MAX: u64 = 300_000;
/// Slow start of an endpoint that came back or joined (`slow_start`; F28).
pub const SLOW_START_MS: u64 = 30_000;
/// Part of its share that such an endpoint begins with, in percent.
pub const SLOW_START_PERCENT: u64 = 10;
/// Changes of endpoints that are remembered for each service.
pub const EVENTS_PER_SERVICE_MAX: usize = 64;
/// Endpoints that operators drain, maintain or weigh otherwise than the configuration says.
pub const ENDPOINT_ORDERS_MAX: usize = 1_024;
/// What an operator says of why, in characters; the rest is cut off.
pub const ENDPOINT_WHY_CHARS_MAX: usize = 256;
/// `admin.state_file`, in bytes: the most endpoints with the longest names and words fit.
pub const ENDPOINT_ORDERS_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest weight of an endpoint.
pub const ENDPOINT_WEIGHT_MAX: u32 = 65_535;
/// Metadata pairs of one endpoint.
pub const METADATA_MAX: usize = 32;
/// Requests that one worker has under way with one endpoint; more go to others, and are refused as `overloaded` where
/// those have as many. It is there so that an endpoint that hangs cannot take everything; `limits` of a service hold
/// for the whole node, and queue. Four times what Envoy gives an upstream, so that long polls of ordinary number fit
/// (F13).
pub const ENDPOINT_REQUESTS_MAX: u32 = 4_096;
/// Requests that wait for a place at a limit, where one is configured (`pending_max`; F13).
pub const PENDING_MAX: u32 = 128;
/// How long one waits (`queue_timeout`).
pub const QUEUE_TIMEOUT_MS: u64 = 1_000;
/// Idle upstream connections kept by one worker for one endpoint.
pub const POOL_IDLE_MAX: usize = 128;
/// While load is high, idle connections are kept up to so many times `POOL_IDLE_MAX`: those over it are closed once
/// they were idle for [`POOL_BURST_MS`].
pub const POOL_BURST_FACTOR: usize = 8;
/// See [`POOL_BURST_FACTOR`].
pub const POOL_BURST_MS: u64 = 1_000;
/// Idle upstream connection, after which it is closed.
pub const POOL_IDLE_TIMEOUT_MS: u64 = 60_000;
/// An upstream connection that was idle for longer than this, in microseconds, is probed before it is used again: it
/// may have been closed, or have brought bytes that nobody asked for (F33, F34). Below it a connection is in the midst
/// of its load, where a probe for each request would cost 5 % of it.
pub const POOL_PROBE_AFTER_US: u64 = 1_000;
/// An idle downstream connection gives its read buffer back after this.
pub const IDLE_RELEASE_MS: u64 = 1_000;
/// An idle upstream connection that is still open after this shows that its endpoint keeps connections.
pub const POOL_PROOF_MS: u64 = 2;
/// Body bytes that are read and thrown away so that a connection can be kept or closed without losing the answer.
pub const DRAIN_BODY_BYTES_MAX: u64 = 256 * 1024;
/// How long a closing connection is drained of unread bytes (lingering close).
pub const LINGER_MS: u64 = 2_000;
/// Timer tick of a worker: deadlines are late by at most this.
pub const TICK_MS: u64 = 20;
/// The same while no request comes or is under way: deadlines of connections that wait are seconds away, and a worker
/// that has nothing to do is to be woken seldom (F60). A turn of the runtime's timer wheel, so that each tick is one
/// wake-up; and below [`STUCK_WARN_MS`], as the tick is the worker's heartbeat too.
pub const QUIET_TICK_MS: u64 = 64;
/// Tunnels of one listener at once (`tunnels_max`).
pub const TUNNELS_MAX: u64 = 10_000;
/// A tunnel without a byte in either direction (`idle_timeout` of a route's `tunnel`).
pub const TUNNEL_IDLE_TIMEOUT_MS: u64 = 3_600_000;
/// A tunnel from its opening to its end (`duration_max` of a route's `tunnel`).
pub const TUNNEL_DURATION_MS_MAX: u64 = 86_400_000;
/// How long a worker that is told to end waits for its tunnels to write their log lines.
pub const TUNNEL_STOP_MS: u64 = 200;
/// A PROXY protocol header in text form, its CRLF counted (version 1).
pub const PROXY_V1_BYTES_MAX: usize = 107;
/// The declared length of a binary PROXY protocol header (version 2): addresses and TLVs (F59).
pub const PROXY_V2_LENGTH_MAX: usize = 4096;
/// A whole PROXY protocol header, from the acceptance of its connection.
pub const PROXY_TIMEOUT_MS: u64 = 5_000;
/// TLS sessions with endpoints that a service keeps to resume, by name.
pub const UPSTREAM_SESSIONS_MAX: usize = 256;
/// A TLS client's hello, where its server name chooses the service: with a key share for post-quantum exchange it has
/// some 2 KiB.
pub const CLIENT_HELLO_BYTES_MAX: usize = 16 * 1024;
/// Records that such a hello may stand in: ordinary ones stand in one.
pub const CLIENT_HELLO_RECORDS_MAX: usize = 64;
/// Connections handed to a worker that it has not taken yet; beyond it the one that accepted serves them.
pub const HANDED_WAITING_MAX: usize = 256;
/// How often a worker looks for a seat for a new connection before it takes its own: others may take the same one.
pub const SEAT_TRIES_MAX: u32 = 16;
/// How often the watchdog looks at the workers.
pub const WATCHDOG_TURN_MS: u64 = 50;
/// A worker without a turn for so long is warned of, with its stack (F06).
pub const STUCK_WARN_MS: u64 = 100;
/// A worker without a turn for so long is reported as an error and counted (F06).
pub const STUCK_REPORT_MS: u64 = 1_000;
/// A worker without a turn for so long ends the process, so that its supervisor starts another (F06).
pub const STUCK_ABORT_MS: u64 = 5_000;
/// A watchdog that is itself more late than this takes its lateness off: the process or the machine stood still (F18).
pub const WATCHDOG_LATE_MS: u64 = 50;
/// Frames of a stuck worker's stack that are written to the log.
pub const STACK_FRAMES_MAX: usize = 64;
/// A worker that died is started again after this, doubled for each time that it died within
/// [`WORKER_STEADY_MS`] of its start; the first time at once (F05).
pub const RESTART_BACK_OFF_MS: u64 = 100;
/// Longest pause before a worker is started again.
pub const RESTART_BACK_OFF_MS_MAX: u64 = 5_000;
/// A worker that ran for so long is not dying again and again.
pub const WORKER_STEADY_MS: u64 = 10_000;
/// How long a dying worker may take to end its connections.
pub const LAST_WORDS_MS: u64 = 500;
/// A loop that was late by this has stood still with the process: what arrived meanwhile is read before deadlines are
/// judged (F18).
pub const STOOD_STILL_MS: u64 = 1_000;
/// Entries of a worker's ring.
pub const RING_ENTRIES: u32 = 2048;
/// Graceful stop (R132's drain).
pub const DRAIN_TIMEOUT_MS: u64 = 30_000;
/// HTTP/2: streams that one client may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS).
pub const H2_STREAMS_MAX: usize = 100;
/// HTTP/2: body bytes of one stream that may be on their way to the gateway (SETTINGS_INITIAL_WINDOW_SIZE).
pub const H2_STREAM_WINDOW_BYTES: u32 = 64 * 1024;
/// HTTP/2: the same for all streams of a connection together.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// HTTP/2: largest frame that is taken (SETTINGS_MAX_FRAME_SIZE), the smallest that may be asked for.
pub const H2_FRAME_BYTES_MAX: usize = 16 * 1024;
/// HTTP/2: table of either side for compressing fields (SETTINGS_HEADER_TABLE_SIZE).
pub const H2_TABLE_BYTES_MAX: usize = 4 * 1024;
/// HTTP/2: CONTINUATION frames of one block of fields; more end the connection (F42).
pub const H2_CONTINUATIONS_MAX: u32 = 8;
/// HTTP/2: the time over which the floods of a peer are counted, in milliseconds.
pub const H2_FLOOD_MS: u64 = 10_000;
/// HTTP/2: streams that a peer may reset in [`H2_FLOOD_MS`] (F41).
pub const H2_RESETS_MAX: u32 = 200;
/// HTTP/2: streams that a peer may make the gateway reset in [`H2_FLOOD_MS`] (F43).
pub const H2_RESETS_MADE_MAX: u32 = 100;
/// HTTP/2: a block whose lines together are so many times longer than `header_bytes_max` (and than its default) is a
/// bomb: one long line is referred to again and again. Less ends with 431, this with the connection (F44).
pub const H2_BOMB_FACTOR: usize = 4;
/// HTTP/2: SETTINGS, PING, PRIORITY, WINDOW_UPDATE and unknown frames that a peer may send in [`H2_FLOOD_MS`], beyond
/// those that its streams and the data sent to it account for (F45).
pub const H2_CONTROLS_MAX: u32 = 200;
/// HTTP/2: such frames that each DATA frame sent to the peer accounts for: an update of two windows and a measuring
/// ping for each half of it (Envoy's 10).
pub const H2_CONTROLS_PER_DATA: u32 = 10;
/// HTTP/2: such frames that each stream accounts for.
pub const H2_CONTROLS_PER_STREAM: u32 = 4;
/// HTTP/2: such frames that may be saved up.
pub const H2_CONTROLS_SAVED_MAX: u32 = 2_000;
/// HTTP/2: DATA frames without payload and end that a peer may send in [`H2_FLOOD_MS`] (F45).
pub const H2_EMPTY_DATA_MAX: u32 = 100;
/// HTTP/2: a DATA frame with less payload than this counts what it lacks, until the payload is taken (F45). The prefix
/// of a message of gRPC: streams of the smallest messages come as fast as their windows let them.
pub const H2_TINY_DATA_BYTES: u32 = 5;
/// HTTP/2: how much may be counted so at once: a hundred frames of one byte that nobody has taken.
pub const H2_TINY_DATA_MAX: u32 = 100 * (H2_TINY_DATA_BYTES - 1);
/// HTTP/2: bytes that wait for the client's socket; beyond it streams wait with their bodies.
pub const H2_OUT_BYTES_MAX: usize = 64 * 1024;
/// HTTP/2: how long a client may take to read that its connection ends, before no further stream is served.
pub const H2_END_WAIT_MS: u64 = 1_000;
/// HTTP/2: a reset stream's late frames are dropped for so many streams (RFC 9113 section 5.1).
pub const H2_RESET_MEMORY: usize = 128;

/// HTTP/2 to endpoints: connections of one worker to one endpoint. Another one is opened when all have as many streams
/// as the endpoint takes.
pub const H2_UPSTREAM_CONNECTIONS_MAX: usize = 8;
/// HTTP/2 to endpoints: requests that wait for a stream or a connection, of one worker and for one endpoint.
pub const H2_UPSTREAM_WAITING_MAX: usize = 1_024;
/// HTTP/2 to endpoints: a request on a connection that has brought nothing for so long takes a ping along.
pub const H2_PING_AFTER_MS: u64 = 10_000;
/// HTTP/2 to endpoints: a connection that does not answer a ping in this time is dead.
pub const H2_PING_TIMEOUT_MS: u64 = 5_000;

/// Recycled exchanges (per-request state) that a worker keeps.
pub const EXCHANGES_FREE_MAX: usize = 256;

const _: () = assert!(HEADER_BYTES_MAX <= BUF_LARGE_BYTES, "a header section must fit one large buffer");
const _: () = assert!(TARGET_BYTES_MAX < HEADER_BYTES_MAX && FIELD_BYTES_MAX < HEADER_BYTES_MAX);
const _: () = assert!(FIELDS_MAX <= FIELDS_CEILING);

/// Endpoints that one lookup may bring; more are left out, and said so (F31, F37).
pub const DISCOVERED_MAX: usize = 4_096;
/// Addresses that one name may have (F31).
pub const ADDRESSES_MAX: usize = 256;
/// Targets that one SRV name may have; the addresses of each are asked for.
pub const SRV_TARGETS_MAX: usize = 64;
/// Questions to name servers at once; further names wait.
pub const DNS_QUESTIONS_MAX: usize = 64;
/// One answer of a registry (Consul, Kubernetes) or one list of endpoints in a file (F37).
pub const DISCOVERY_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Lists of endpoints in files that are read at once, each by a thread of its own; others wait.
pub const DISCOVERY_READS_MAX: usize = 8;
/// Shortest time between two answers of one lookup that are taken up, in milliseconds: what changes more often is taken
/// up together.
pub const DISCOVERY_PAUSE_MS: u64 = 50;
/// Services whose endpoints a worker takes up at once; requests go on before the next ones.
pub const ENDPOINT_SETS_PER_TURN: usize = 32;
/// First pause after a registry failed, in milliseconds; doubled each time.
pub const DISCOVERY_BACK_OFF_MS: u64 = 1_000;
/// Longest pause after a registry failed, in milliseconds.
pub const DISCOVERY_BACK_OFF_MS_MAX: u64 = 30_000;
/// Changes of discovery that are kept for operators, in all.
pub const DISCOVERY_EVENTS_MAX: usize = 512;
/// Changes that one answer of the admin API tells of.
pub const EVENTS_SHOWN_MAX: usize = 1_024;
/// To connect to a registry, and to shake hands with it, in milliseconds each.
pub const DISCOVERY_CONNECT_MS: u64 = 5_000;
/// A request to a registry that is answered at once, in milliseconds.
pub const DISCOVERY_ANSWER_MS: u64 = 10_000;
/// How long a watch of Kubernetes lasts before it is begun anew, in seconds.
pub const DISCOVERY_WATCH_S: u64 = 290;

/// Servers of a store of configurations that its address may name (R229).
pub const STORE_SERVERS_MAX: usize = 8;
/// The key of a configuration in a store, in bytes.
pub const STORE_KEY_BYTES_MAX: usize = 1_024;
/// One answer of a store: the largest configuration in base64, and what stands around it. A value that is larger is
/// refused as a file of that size is.
pub const STORE_ANSWER_BYTES_MAX: usize = 22 * 1024 * 1024;
/// How long a start waits for a store, in milliseconds: then it takes the copy, or fails. Less than an upgrade waits
/// for its new process.
pub const STORE_START_MS: u64 = 5_000;
/// Pause between two tries of a start that has no copy, in milliseconds.
pub const STORE_START_PAUSE_MS: u64 = 250;
/// How long a reload that is asked for waits for a store, in milliseconds.
pub const STORE_READ_MS: u64 = 10_000;
/// How long a store is asked to hold a question until there is a change, in seconds. It is asked again then, so that a
/// connection that has died unseen costs no more than that.
pub const STORE_WAIT_S: u64 = 60;
/// Time between two questions to a Consul that gives no index to wait for, in milliseconds.
pub const STORE_POLL_MS: u64 = 30_000;
/// Shortest time between two answers of a store that are taken up, in milliseconds.
pub const STORE_PAUSE_MS: u64 = 200;
/// First pause after all servers of a store have failed, in milliseconds; doubled each time, and spread.
pub const STORE_BACK_OFF_MS: u64 = 1_000;
/// Longest pause after all servers of a store have failed, in milliseconds.
pub const STORE_BACK_OFF_MS_MAX: u64 = 30_000;

/// Clients whose handshakes a listener counts, where it has a rule for them; more are not counted one by one.
pub const HANDSHAKE_CLIENTS_MAX: usize = 65_536;
/// ACME: names that all listeners together order certificates for.
pub const ACME_NAMES_MAX: usize = 1_000;
/// ACME: proofs that are asked for at once, in the memory of a process.
pub const ACME_PROOFS_MAX: usize = 256;
/// ACME: one answer of an authority.
pub const ACME_ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// ACME: one request to an authority, from its connection to the end of its answer, in milliseconds.
pub const ACME_REQUEST_MS: u64 = 30_000;
/// ACME: one order, from its beginning to the certificate, in milliseconds.
pub const ACME_ORDER_MS: u64 = 300_000;
/// ACME: a lock on a name holds for so long without its owner, in seconds: longer than an order.
pub const ACME_LOCK_S: u64 = 600;
/// ACME: how often one process looks whether another has finished its order, in milliseconds.
pub const ACME_WATCH_MS: u64 = 500;
/// ACME: how long a proof is known to the processes that share a storage before the authority is asked to look, in
/// milliseconds: more than two looks of theirs.
pub const ACME_SPREAD_MS: u64 = 1_200;
/// ACME: first pause after an order failed, in seconds; doubled each time. Five within an hour.
pub const ACME_BACK_OFF_S: u64 = 120;
/// ACME: longest pause after an order failed, in seconds.
pub const ACME_BACK_OFF_S_MAX: u64 = 6 * 3600;
/// ACME: first pause after an authority could not be reached, in seconds; doubled each time.
pub const ACME_UNREACHABLE_S: u64 = 15;
/// ACME: longest pause that an authority may ask for, in seconds.
pub const ACME_RETRY_AFTER_S_MAX: u64 = 7 * 86_400;
/// ACME: shortest time between two orders of one authority, in milliseconds.
pub const ACME_PAUSE_MS: u64 = 1_000;
const _: () = assert!(ACME_LOCK_S * 1_000 > ACME_ORDER_MS && ACME_SPREAD_MS > 2 * ACME_WATCH_MS);
const _: () = assert!(BUF_TINY_BYTES < BUF_SMALL_BYTES && BUF_SMALL_BYTES < BUF_LARGE_BYTES);
