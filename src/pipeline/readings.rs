//! Paths that are not read alike by all endpoints: every reading must take the same route (F49).

use std::net::IpAddr;
use std::ops::ControlFlow;

use super::drive::Input;
use crate::error::{Failure, Reason};
use crate::http::exchange::Exchange;
use crate::http::{path, reading};
use crate::route::{Captures, RouteInput, RouteTable};
use crate::snapshot::Snapshot;

/// Refuses the request unless every reading of its path is taken by `route`, the one that takes it as it stands. So a
/// rule on `/admin` cannot be walked around by `/admin;x`, whatever the endpoint makes of it.
///
/// # Errors
/// [`Reason::BadPath`].
#[cold]
pub(super) fn agree(snapshot: &Snapshot, table: &RouteTable, x: &Exchange, route: u32) -> Result<(), Failure> {
    let mut captures = Captures::new();
    let flow = reading::each(x.request.path(), |path| {
        let taken = match table.find(&Read { input: Input(x), path }, &mut captures) {
            Ok(hit) => Some(hit.route.0),
            Err(miss) => snapshot.default_route.filter(|_| miss.allow.is_none()),
        };
        if taken == Some(route) { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    match flow {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => {
            Err(Failure::with(Reason::BadPath, "path is read in ways that take different routes"))
        }
    }
}

/// Moves what a route took of the matched form to the canonical path, which is what is rewritten and forwarded. Gives
/// the length of the prefix there.
#[cold]
pub(super) fn respell(x: &Exchange, captures: &mut Captures, prefix_bytes: usize) -> usize {
    let place = |offset| path::offset_in(x.request.path(), offset);
    captures.translate(place);
    place(prefix_bytes)
}

/// The request with another reading of its path.
struct Read<'a> {
    input: Input<'a>,
    path: &'a [u8],
}

impl RouteInput for Read<'_> {
    fn method(&self) -> &[u8] {
        self.input.method()
    }

    fn host(&self) -> &[u8] {
        self.input.host()
    }

    fn path(&self) -> &[u8] {
        self.path
    }

    fn query(&self) -> Option<&[u8]> {
        self.input.query()
    }

    fn header<'a>(&'a self, name: &[u8], each: &mut dyn FnMut(&'a [u8]) -> bool) {
        self.input.header(name, each);
    }

    fn client_ip(&self) -> IpAddr {
        self.input.client_ip()
    }
}
