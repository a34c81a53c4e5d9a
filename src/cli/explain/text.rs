//! The explanation for people: one line a fact, its kind in front.

use std::fmt;

use super::report::{Answer, PolicyReport, Report, ServiceReport, Taken, Typed};
use crate::http::message::reason_phrase;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "listener", &self.listener)?;
        if let Some(typed) = &self.request {
            show_request(f, typed)?;
        }
        match &self.route {
            Some(route) => show_route(f, route)?,
            None if self.request.is_some() => line(f, "route", "none")?,
            None => {}
        }
        for other in &self.candidates {
            let verdict = if other.matches { "lost" } else { "failed" };
            line(f, &format!("  {verdict}"), &format!("{}  {}  ({})", other.route, other.pattern, other.why))?;
        }
        if self.candidates_left_out > 0 {
            line(f, "", &format!("and {} more (--all shows them)", self.candidates_left_out))?;
        }
        for policy in &self.policies {
            show_policy(f, policy)?;
        }
        for service in &self.services {
            show_service(f, service)?;
        }
        show_answer(f, &self.answer)
    }
}

/// A fact behind its kind, which takes twelve columns.
fn line(f: &mut fmt::Formatter<'_>, kind: &str, fact: &str) -> fmt::Result {
    writeln!(f, "{kind:<11} {fact}")
}

fn show_request(f: &mut fmt::Formatter<'_>, typed: &Typed) -> fmt::Result {
    line(f, "client", &typed.client)?;
    line(f, "host", &typed.host)?;
    let path = match (&typed.changes[..], typed.path_sent == typed.path) {
        (_, true) => typed.path.clone(),
        ([], _) => format!("{} -> {}", typed.path_sent, typed.path),
        (changes, _) => format!("{} -> {} ({})", typed.path_sent, typed.path, changes.join(", ")),
    };
    line(f, "path", &path)
}

fn show_route(f: &mut fmt::Formatter<'_>, route: &Taken) -> fmt::Result {
    match route.is_default {
        true => line(f, "route", "default, as no route matches")?,
        false => line(f, "route", &format!("{}  {}", route.name, route.pattern))?,
    }
    for (name, value) in &route.captures {
        line(f, "  capture", &format!("{name} = {value}"))?;
    }
    if let Some(path) = &route.rewritten {
        line(f, "  rewritten", path)?;
    }
    if let Some(mirror) = &route.mirror {
        let share = if mirror.percent < 100.0 { format!("{:.2} % to ", mirror.percent) } else { String::new() };
        let what = match mirror.not {
            Some(why) => format!("not copied: {why}"),
            None => format!("within {} ms, body at most {} bytes", mirror.timeout_ms, mirror.body_bytes_max),
        };
        line(f, "  mirror", &format!("{share}{}  {what}", mirror.service))?;
    }
    let limits = format!("timeout {} ms, request body at most {} bytes", route.timeout_ms, route.body_bytes_max);
    line(f, "  limits", &limits)
}

fn show_policy(f: &mut fmt::Formatter<'_>, policy: &PolicyReport) -> fmt::Result {
    let outcome = match (policy.skipped, policy.answers) {
        (true, _) => "not reached".to_owned(),
        (_, Some(status)) => format!("answers {status}"),
        (_, None) => "passes".to_owned(),
    };
    line(f, "policy", &format!("{} ({}): {outcome}: {}", policy.name, policy.phase, policy.does))
}

fn show_service(f: &mut fmt::Formatter<'_>, service: &ServiceReport) -> fmt::Result {
    let key = service.key.as_ref().map(|key| format!(" of {key}")).unwrap_or_default();
    let missing = if service.key_missing { " (the request has none: endpoints take turns)" } else { "" };
    let share = match service.share_percent {
        100.0 => String::new(),
        share => format!("{share:.2} % to "),
    };
    let live = if service.is_live { ", as it runs" } else { "" };
    line(f, "service", &format!("{share}{}, {}{key}{missing}{live}", service.name, service.algorithm))?;
    let times = format!(
        "connect {} ms, first byte {} ms, between bytes {} ms, at most {} attempts",
        service.connect_timeout_ms,
        service.first_byte_timeout_ms,
        service.between_bytes_timeout_ms,
        service.attempts_max
    );
    line(f, "  limits", &times)?;
    if let Some(requests) = &service.requests {
        line(f, "  requests", requests)?;
    }
    if let Some(breaker) = &service.breaker {
        line(f, "  breaker", breaker)?;
    }
    for endpoint in &service.endpoints {
        let kind = if endpoint.picked { "  endpoint" } else { "  not" };
        let from = match &*endpoint.source {
            "configuration" | "" => String::new(),
            source => format!(", from {source}"),
        };
        let only = if endpoint.why == "picked" { String::new() } else { format!("  ({})", endpoint.why) };
        let fact = match endpoint.picked {
            true => format!("{}  weight {}, Host: {}{from}{only}", endpoint.authority, endpoint.weight, endpoint.host),
            false => format!("{}  weight {}{from}  ({})", endpoint.authority, endpoint.weight, endpoint.why),
        };
        line(f, kind, &fact)?;
    }
    Ok(())
}

fn show_answer(f: &mut fmt::Formatter<'_>, answer: &Answer) -> fmt::Result {
    let Some(status) = answer.status else {
        let whose = if answer.by == "fallback" { "the fallback's" } else { "the endpoint's" };
        return line(f, "answer", whose);
    };
    let mut fact = format!("{status} {}", reason_phrase(status));
    if let Some(reason) = answer.reason {
        fact += &format!(", reason {reason}");
    }
    if !answer.detail.is_empty() {
        fact += &format!(" ({})", answer.detail);
    }
    fact += &format!(", by the {}", answer.by);
    line(f, "answer", &fact)?;
    answer.fields.iter().try_for_each(|(name, value)| line(f, "", &format!("{name}: {value}")))
}
