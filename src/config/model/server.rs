//! `server`, `admin`, `reload`.

use crate::config_struct;
use crate::schema::types::{ByteSize, Duration, Int, ListenAddress, ScalarType};
use crate::schema::{Cx, Decode, Json, Node, Shape, Spanned, TypeDoc, codes};

/// Most worker threads.
pub const WORKERS_MAX: u64 = 1024;

config_struct! {
    /// Threads, deadlines and the stop.
    pub struct Server {
        /// Worker threads: `auto` is one for each core that the process may use (R303).
        workers: Workers = "auto",
        /// Whether each worker stays on one core (R309).
        pin_workers: bool = "true",
        /// The whole time of a request, from its head to the last byte of the answer, where a route says nothing
        /// else (R17, C51).
        timeout: Duration = "30s",
        /// How long requests in flight may take after a stop is asked for; then connections are closed.
        drain_timeout: Duration<0> = "30s",
        /// How long listeners stay open after a stop is asked for, while `/ready` already answers 503.
        drain_delay: Duration<0> = "0s",
        /// Memory of the process: at 90 % of it connections close behind their responses, at 95 % new requests are
        /// answered 503. `auto` leaves 64 MiB of the limit of the control group, if there is one, at least 10 % and at
        /// most 20 % of it (F10); never is it more. It is taken up at the start.
        memory_limit: MemoryLimit = "auto",
        /// Where this gateway stands, as `eu-1a`: endpoints in the same `zone` are preferred while enough of them are
        /// well.
        zone: Option<String>,
        /// Entries of each worker's io_uring submission queue; chosen by the gateway when left out.
        ring_entries: Option<Int<256, 32768>>,
    }
}

config_struct! {
    /// The listener for operators: health, metrics, configuration (C48).
    pub struct Admin {
        /// Whether it exists.
        enabled: bool = "true",
        /// Where it listens. It asks for no password: keep it on a loopback address.
        listen: Spanned<ListenAddress> = "127.0.0.1:9901",
        /// A file for what operators say of endpoints (drained, in maintenance, another weight), so that it holds after
        /// a restart too. Its directory must be writable. When left out, a restart forgets it; reloads
        /// and upgrades never do.
        state_file: Option<String>,
    }
}

config_struct! {
    /// How a changed file is taken up. SIGHUP and `POST /config/reload` work always.
    pub struct Reload {
        /// Whether the file is watched, and loaded when it changes.
        watch: bool = "false",
    }
}

/// How much memory the process may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryLimit {
    /// As much as its control group.
    Auto,
    /// As much as the system gives.
    None,
    /// This many bytes; at least `MEMORY_LIMIT_MIN`.
    Bytes(u64),
}

/// Smallest `memory_limit`, in bytes: a gateway at rest and its first clients fit.
pub const MEMORY_LIMIT_MIN: u64 = 32 << 20;

impl Decode for MemoryLimit {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        match cx.scalar(node, "`auto`, `none` or a size")?.text.as_str() {
            "auto" => return Some(MemoryLimit::Auto),
            "none" => return Some(MemoryLimit::None),
            _ => {}
        }
        let bytes = ByteSize::decode(node, cx)?.get();
        if bytes < MEMORY_LIMIT_MIN {
            cx.report(codes::OUT_OF_RANGE, node.span, "`memory_limit` is too small: at least 32MiB");
            return None;
        }
        Some(MemoryLimit::Bytes(bytes))
    }

    fn dump(&self) -> Json {
        match self {
            MemoryLimit::Auto => Json::from("auto"),
            MemoryLimit::None => Json::from("none"),
            MemoryLimit::Bytes(bytes) => Json::from(ByteSize::of(*bytes).show()),
        }
    }

    fn describe() -> TypeDoc {
        let words = TypeDoc::text("auto", "", Some("^(auto|none)$"));
        let range = "auto, none, or 32MiB to 1024GiB".to_owned();
        TypeDoc { word: "auto, none or size".to_owned(), range, shape: Shape::Any(vec![words, ByteSize::describe()]) }
    }
}

/// How many worker threads run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One for each core that the process may use.
    Auto,
    /// This many; from 1 to [`WORKERS_MAX`].
    Count(usize),
}

type Count = Int<1, WORKERS_MAX>;

impl Decode for Workers {
    fn decode(node: &Node, cx: &mut Cx) -> Option<Self> {
        let text = cx.scalar(node, "`auto` or a number of threads")?.text.as_str();
        if text == "auto" {
            return Some(Workers::Auto);
        }
        if !text.starts_with(|c: char| c.is_ascii_digit() || c == '-') {
            let shown = node.as_scalar().map(|scalar| scalar.shown()).unwrap_or_default();
            cx.report(codes::UNKNOWN_WORD, node.span, format!("`{shown}` is neither `auto` nor a number"));
            return None;
        }
        Count::decode(node, cx).map(|count| Workers::Count(count.get() as usize))
    }

    fn dump(&self) -> Json {
        match self {
            Workers::Auto => Json::from("auto"),
            Workers::Count(count) => Json::from(*count),
        }
    }

    fn describe() -> TypeDoc {
        let auto = TypeDoc::text("auto", "", Some("^auto$"));
        let range = format!("auto, or 1 to {WORKERS_MAX}");
        TypeDoc { word: "auto or number".to_owned(), range, shape: Shape::Any(vec![auto, Count::describe()]) }
    }
}
