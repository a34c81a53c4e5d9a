//! What is known of each lookup: its last answer, how it is doing, and what changed lately.

use std::collections::VecDeque;
use std::sync::Arc;

use serde_json::{Value, json};

use super::provider::{Member, Patience, Trouble};
use crate::limits::DISCOVERY_EVENTS_MAX;
use crate::time::Now;

/// How a lookup is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// No answer yet.
    Waiting,
    /// The last answer is good.
    Current,
    /// The last one failed; the one before it is used.
    Stale,
    /// There is nothing to use.
    Failed,
}

impl Condition {
    /// The word in reports and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Current => "current",
            Self::Stale => "stale",
            Self::Failed => "failed",
        }
    }
}

/// What is known of one lookup.
#[derive(Clone, Debug)]
pub struct Known {
    /// Its last good answer; None before the first, and when it has been kept for long enough.
    pub members: Option<Arc<[Member]>>,
    /// The last good answer came at this time.
    pub good_at: Option<Now>,
    /// What went wrong since then.
    pub trouble: Option<String>,
    /// How often, in a row.
    pub failures: u64,
    /// Answers that differed from the one before.
    pub changes: u64,
}

/// What an answer changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// How the lookup is doing.
    Condition,
    /// The endpoints.
    Members,
}

impl Known {
    /// Nothing is known.
    pub const NOTHING: Self = Self { members: None, good_at: None, trouble: None, failures: 0, changes: 0 };

    /// How it is doing.
    pub fn condition(&self) -> Condition {
        match (&self.members, &self.trouble) {
            (None, None) => Condition::Waiting,
            (Some(_), None) => Condition::Current,
            (Some(_), Some(_)) => Condition::Stale,
            (None, Some(_)) => Condition::Failed,
        }
    }

    /// Takes an answer. The last good one is kept through trouble for as long as `patience` says (F31).
    pub fn take(&mut self, answer: Result<Vec<Member>, Trouble>, patience: &Patience, now: Now) -> Change {
        let before = self.condition();
        let members_changed = match answer {
            Ok(members) => {
                (self.good_at, self.trouble, self.failures) = (Some(now), None, 0);
                let is_new = self.members.as_deref() != Some(&*members);
                if is_new {
                    self.members = Some(members.into());
                    self.changes += 1;
                }
                is_new
            }
            Err(trouble) => {
                self.trouble = Some(trouble.text);
                self.failures += 1;
                let age_ms = self.good_at.map_or(u64::MAX, |at| now.since_ns(at) / 1_000_000);
                let is_over = patience.stale_ms.is_some_and(|stale_ms| age_ms >= stale_ms);
                is_over && self.members.take().is_some()
            }
        };
        match (members_changed, before == self.condition()) {
            (true, _) => Change::Members,
            (false, false) => Change::Condition,
            (false, true) => Change::None,
        }
    }

    /// For the admin API.
    pub fn json(&self, kind: &str, text: &str, now: Now) -> Value {
        json!({
            "kind": kind,
            "lookup": text,
            "state": self.condition().word(),
            "endpoints": self.members.as_deref().map(<[Member]>::len),
            "seconds_since_answer": self.good_at.map(|at| now.since_ns(at) / 1_000_000_000),
            "failures": self.failures,
            "error": self.trouble,
            "changes": self.changes,
        })
    }
}

/// The last changes, oldest first.
#[derive(Debug, Default)]
pub struct Events(VecDeque<Event>);

/// A change that an operator may want to know of.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub at: Now,
    /// What it is about: a lookup or a service.
    pub subject: String,
    /// What happened.
    pub what: &'static str,
    /// More.
    pub why: String,
}

impl Events {
    /// One more; the oldest goes when there are too many.
    pub fn add(&mut self, subject: String, what: &'static str, why: String) {
        if self.0.len() >= DISCOVERY_EVENTS_MAX {
            self.0.pop_front();
        }
        self.0.push_back(Event { at: Now::read(), subject, what, why });
    }

    /// All.
    pub fn all(&self) -> impl Iterator<Item = &Event> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn members(addresses: &[&str]) -> Vec<Member> {
        addresses.iter().map(|text| Member::at(text.parse().expect("an address"))).collect()
    }

    #[test]
    fn the_last_good_answer_outlives_trouble_for_an_hour_and_no_longer() {
        let patience = Patience { stale_ms: Some(HOUR_MS), ..Patience::default() };
        let mut known = Known::NOTHING;
        let failed = || Err(Trouble::failed("no answer"));
        assert_eq!(known.take(failed(), &patience, Now::from_ms(0)), Change::Condition);
        assert_eq!((known.condition(), known.failures), (Condition::Failed, 1));
        assert_eq!(known.take(Ok(members(&["10.0.0.1:80"])), &patience, Now::from_ms(10)), Change::Members);
        assert_eq!(known.take(Ok(members(&["10.0.0.1:80"])), &patience, Now::from_ms(20)), Change::None);
        assert_eq!(known.condition(), Condition::Current);
        assert_eq!(known.take(failed(), &patience, Now::from_ms(30)), Change::Condition);
        assert_eq!(known.take(failed(), &patience, Now::from_ms(19 + HOUR_MS)), Change::None);
        assert_eq!((known.condition(), known.members.is_some()), (Condition::Stale, true));
        assert_eq!(known.take(failed(), &patience, Now::from_ms(20 + HOUR_MS)), Change::Members);
        assert_eq!((known.condition(), known.members.is_none()), (Condition::Failed, true));
        assert_eq!(known.take(Ok(Vec::new()), &patience, Now::from_ms(HOUR_MS * 2)), Change::Members, "none is news");
        assert_eq!((known.condition(), known.failures, known.changes), (Condition::Current, 0, 2));
    }

    #[test]
    fn registries_are_believed_until_they_say_something_else() {
        let mut known = Known::NOTHING;
        known.take(Ok(members(&["10.0.0.1:80"])), &Patience::default(), Now(0));
        known.take(Err(Trouble::failed("refused")), &Patience::default(), Now::from_ms(1_000 * HOUR_MS));
        assert_eq!((known.condition(), known.members.is_some()), (Condition::Stale, true));
    }

    #[test]
    fn events_are_bounded() {
        let mut events = Events::default();
        (0..DISCOVERY_EVENTS_MAX + 3).for_each(|n| events.add(n.to_string(), "changed", String::new()));
        assert_eq!((events.all().count(), events.all().next().map(|e| &*e.subject)), (DISCOVERY_EVENTS_MAX, Some("3")));
    }
}
