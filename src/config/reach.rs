//! Routes that no request reaches, as far as that shows without knowing how paths relate.

use std::collections::HashMap;

use ahash::AHashSet;

use super::check::Known;
use super::model::{Config, Route, RouteOrder};
use crate::schema::{Cx, Decode, Span, codes};

/// Finds routes with the same conditions as an earlier one, and in strict order those after one that takes all.
///
/// Routes that overlap in other ways are found by the router, which knows how paths relate.
///
/// Between two routes that are known nothing was found before. Another one is compared with those of its path, as the
/// path is a part of the conditions; in strict order also with what takes all.
pub(super) fn warn_unreachable(config: &Config, known: &Known, cx: &mut Cx) {
    if known.has_all_routes(config.routes.len()) {
        return;
    }
    let fresh = config.routes.iter().enumerate().filter(|(at, _)| !known.has_route(*at));
    let paths: AHashSet<&str> = fresh.filter_map(|(_, route)| Some(route.path_text()?.0)).collect();
    let mut seen: HashMap<String, Span> = HashMap::new();
    let mut takes_all: Option<Span> = None;
    let strict = config.order == RouteOrder::Strict;
    for (at, route) in config.routes.iter().enumerate() {
        let Some((path, span)) = route.path_text() else {
            continue;
        };
        if known.has_route(at) && !strict && !paths.contains(path) {
            continue;
        }
        let conditions = conditions(route, strict);
        if let Some(first) = takes_all {
            unreachable(span, first, "takes every request, and `order: strict` asks it first", cx);
        } else if let Some(first) = seen.get(&conditions) {
            unreachable(span, *first, "takes the same requests", cx);
        }
        seen.entry(conditions).or_insert(span);
        let everywhere = route.regex.is_none() && matches!((path, route.prefix.is_some()), ("/*", _) | ("/", true));
        if strict && everywhere && takes_all.is_none() && is_unconditional(route) {
            takes_all = Some(span);
        }
    }
}

fn unreachable(span: Span, first: Span, why: &str, cx: &mut Cx) {
    let message = format!("no request reaches this route: the one in line {} {why}", first.line);
    cx.report(codes::UNREACHABLE, span, message).hint("take one of them out, or set their conditions apart");
}

/// All conditions of a route as one text; equal texts match the same requests. In strict order priority is none.
fn conditions(route: &Route, strict: bool) -> String {
    let priority = if strict { 0 } else { route.priority.get() };
    let paths = [route.path.dump(), route.prefix.dump(), route.exact.dump(), route.regex.dump()];
    let others = [
        route.raw_prefix.dump(),
        route.hosts.dump(),
        route.methods.dump(),
        route.headers.dump(),
        route.query.dump(),
        route.cookies.dump(),
        route.client_addresses.dump(),
    ];
    format!("{priority} {paths:?} {others:?}")
}

fn is_unconditional(route: &Route) -> bool {
    route.hosts.is_empty()
        && route.methods.is_empty()
        && route.headers.is_empty()
        && route.query.is_empty()
        && route.cookies.is_empty()
        && route.client_addresses.is_empty()
}
