//! Which route takes a request: a pure engine over bytes, with no I/O, no clock and no configuration types.
//!
//! A [`RouteTable`] is built once from [`RouteSpec`]s and never changes; [`RouteTable::find`] answers in a few trie
//! steps however many routes there are, [`RouteTable::explain`] says for every route why it won or lost, and
//! [`RouteTable::lint`] lists the routes that can never be reached. Requirements R1-R9, R11, R12, R20, R21, C30-C34.
//!
//! # The order of routes
//!
//! [`Order::Specificity`], the default, takes of all routes that match the one with the greatest [`Rank`]:
//!
//! 1. **Host**: an exact host, then the wildcard with the longest suffix, then any host. If no route of the more
//!    specific host matches, the less specific one is asked.
//! 2. **Path**, segment by segment from the left; the first difference decides: the end of an exact path, a literal
//!    segment, a raw prefix ending within the segment (the longer one first), a parameter or `*`, a prefix that wants
//!    at least one more segment (`/a/`, `/a/{rest...}`), a prefix that does not (`/a/*`).
//!    Regular expressions come after all of these, and the catch-all `/` prefix after the regular expressions, so
//!    that a default route (R20, C57) never hides one.
//! 3. **Priority**: the higher number. It decides only between equal path patterns and between regular expressions.
//! 4. **Predicates**: the route with more of them; a method list counts as one.
//! 5. **Declared order**: the earlier route.
//!
//! [`Order::Strict`] takes the first match in declared order and looks at nothing else, for imported lists (C31).

mod build;
mod captures;
mod explain;
mod hosts;
mod lint;
mod method;
mod pattern;
mod predicate;
mod rank;
pub mod rewrite;
pub mod split;
mod table;
mod trie;

use std::net::IpAddr;

pub use build::{REGEX_BYTES_MAX, ROUTES_MAX};
pub use captures::{CAPTURE_NAME_BYTES_MAX, CAPTURES_MAX, Captures};
pub use explain::{Considered, Explanation, Failure, Lost, Verdict};
pub use lint::{Shadow, Shadowed};
pub use method::MethodSet;
pub use pattern::{HostPattern, PathPattern, SEGMENTS_MAX, Segment};
pub use predicate::{Predicate, Test};
pub use rank::{HostRank, PathRank, Rank, StepRank};
pub use rewrite::{Rewrite, RewriteError, Spellings};
pub use split::WeightedSplit;
pub use table::{Footprint, Hit, Miss, PATH_BYTES_MAX, RouteTable};

/// The caller's name for a route; the engine only hands it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteId(pub u32);

/// What routing looks at in a request.
pub trait RouteInput {
    /// The method, as sent (methods are case-sensitive, RFC 9110 section 9.1).
    fn method(&self) -> &[u8];
    /// The host in lower case and without a port; empty when there is none. One trailing dot is ignored.
    fn host(&self) -> &[u8];
    /// The canonical path: begins with `/`, dot segments removed, needless escapes decoded.
    fn path(&self) -> &[u8];
    /// The query without its `?`, still encoded.
    fn query(&self) -> Option<&[u8]>;
    /// Calls `each` with the value of every header field of this lower-case name, until `each` returns false.
    fn header<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8]) -> bool);
    /// The client's address, after trusted proxies have been resolved.
    fn client_ip(&self) -> IpAddr;
}

/// One route as the engine needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteSpec {
    /// The caller's name for it.
    pub id: RouteId,
    /// Hosts it serves; empty means any host (R8).
    pub hosts: Vec<HostPattern>,
    /// The path it takes (R2-R6).
    pub path: PathPattern,
    /// The methods it takes (R7).
    pub methods: MethodSet,
    /// What else must hold; all of them (R9).
    pub predicates: Vec<Predicate>,
    /// Decides between equal path patterns and between regular expressions; higher wins.
    pub priority: i32,
}

impl RouteSpec {
    /// A route for any host, any method, no predicates and priority 0.
    pub fn new(id: RouteId, path: PathPattern) -> RouteSpec {
        RouteSpec { id, hosts: Vec::new(), path, methods: MethodSet::any(), predicates: Vec::new(), priority: 0 }
    }
}

/// How a table chooses between several matching routes (C31).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The most specific one; see the module's documentation.
    Specificity,
    /// The first in declared order.
    Strict,
}

/// Why a route cannot be built.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildError {
    /// The route at fault.
    pub id: RouteId,
    /// What is wrong, as a sentence for the user.
    pub what: String,
}
