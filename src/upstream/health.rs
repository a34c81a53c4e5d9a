//! What is known of an endpoint beyond its address: a state machine over facts, with the time as an argument.
//!
//! Facts come from three sides: an operator (enabled, draining, in maintenance), active checks (up, down), and the
//! requests themselves (ejected for a while). From them follows whether the endpoint may be picked, and with which part
//! of its share (slow start, F28). Nothing here waits, locks or reads a clock.

use crate::limits;
use crate::time::Now;

/// What an operator wants of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Administration {
    /// It serves.
    #[default]
    Enabled,
    /// It finishes what it has and gets nothing new; clients that stick to it still do.
    Draining,
    /// It gets nothing.
    Maintenance,
}

impl Administration {
    /// The word in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Administration::Enabled => "enabled",
            Administration::Draining => "draining",
            Administration::Maintenance => "maintenance",
        }
    }
}

/// What active checks say of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing yet, or there are no checks: taken for up (R111).
    #[default]
    Unknown,
    /// It passed as often as it must.
    Up,
    /// It failed as often as it may.
    Down,
}

impl Verdict {
    /// The word in reports.
    pub const fn word(self) -> &'static str {
        match self {
            Verdict::Unknown => "unknown",
            Verdict::Up => "up",
            Verdict::Down => "down",
        }
    }
}

/// How long an endpoint is left alone, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returning {
    /// First ejection, in milliseconds; each further one lasts twice as long as the one before.
    pub base_ms: u64,
    /// Longest ejection, in milliseconds.
    pub max_ms: u64,
    /// Slow start, in milliseconds; 0 for none.
    pub slow_start_ms: u64,
}

impl Default for Returning {
    fn default() -> Self {
        Self { base_ms: limits::EJECTION_MS, max_ms: limits::EJECTION_MS_MAX, slow_start_ms: limits::SLOW_START_MS }
    }
}

/// Why an endpoint does not get requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Out {
    /// An operator said so.
    Administration(Administration),
    /// Its checks fail.
    CheckFailed,
    /// Requests to it failed; until then.
    Ejected(Now),
}

/// All that is known of an endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// What an operator wants.
    pub administration: Administration,
    /// In place of the configured weight; None leaves that.
    pub weight: Option<u32>,
    /// What active checks say.
    pub verdict: Verdict,
    /// When the ejection ends, or ended; zero before the first.
    pub ejected_until: Now,
    /// How often the length of an ejection was doubled, plus one; 0 before the first.
    pub ejections: u32,
    /// When it came back or joined: the beginning of its slow start. None for one that was always there.
    pub back_since: Option<Now>,
}

impl Facts {
    /// An endpoint that joined a service that was running already.
    pub fn joined(now: Now) -> Self {
        Self { back_since: Some(now), ..Self::default() }
    }

    /// Why it gets no requests; None when it does.
    pub fn out(&self, now: Now) -> Option<Out> {
        match (self.administration, self.verdict) {
            (Administration::Enabled, Verdict::Down) => Some(Out::CheckFailed),
            (Administration::Enabled, _) if now < self.ejected_until => Some(Out::Ejected(self.ejected_until)),
            (Administration::Enabled, _) => None,
            (other, _) => Some(Out::Administration(other)),
        }
    }

    /// Leaves it alone for a while, longer than the last time (F26). Returns for how long, in milliseconds; None when
    /// it is out already.
    ///
    /// For every three base times that it served meanwhile, one doubling is forgotten.
    pub fn eject(&mut self, now: Now, rules: &Returning) -> Option<u64> {
        if now < self.ejected_until {
            return None;
        }
        if self.ejections > 0 {
            let served_ms = now.since_ns(self.ejected_until) / 1_000_000;
            let forgotten = served_ms / (rules.base_ms.max(1) * 3);
            self.ejections = self.ejections.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX));
        }
        let doublings = self.ejections.min(20);
        let ms = rules.base_ms.saturating_mul(1 << doublings).min(rules.max_ms.max(rules.base_ms));
        self.ejections = doublings + 1;
        self.ejected_until = now.plus_ms(ms);
        self.back_since = Some(self.ejected_until);
        Some(ms)
    }

    /// Ends an ejection: it was asked all the same, and has answered. Returns whether there was one.
    pub fn revive(&mut self, now: Now) -> bool {
        let ejected = now < self.ejected_until;
        if ejected {
            (self.ejected_until, self.back_since) = (now, Some(now));
        }
        ejected
    }

    /// Takes a check's verdict. Returns whether it is another than before.
    pub fn judge(&mut self, verdict: Verdict, now: Now) -> bool {
        if self.verdict == verdict {
            return false;
        }
        if self.verdict == Verdict::Down {
            // Its checks pass: what requests held against it before is out of date.
            self.ejected_until = self.ejected_until.min(now);
            self.back_since = Some(now);
        }
        self.verdict = verdict;
        true
    }

    /// Takes an operator's wish. Returns whether it is another than before.
    pub fn administer(&mut self, wish: Administration, now: Now) -> bool {
        if self.administration == wish {
            return false;
        }
        if wish == Administration::Enabled {
            // What requests held against it before is out of date.
            self.ejected_until = self.ejected_until.min(now);
            self.back_since = Some(now);
        }
        self.administration = wish;
        true
    }

    /// The part of its share that it gets, in percent: rising in a line from [`limits::SLOW_START_PERCENT`] (F28).
    pub fn ramp_percent(&self, now: Now, rules: &Returning) -> u32 {
        let Some(since) = self.back_since else { return 100 };
        let (passed_ms, whole_ms) = (now.since_ns(since) / 1_000_000, rules.slow_start_ms);
        if passed_ms >= whole_ms {
            return 100;
        }
        let least = limits::SLOW_START_PERCENT;
        // Below 100, since less than the whole has passed.
        (least + (100 - least) * passed_ms / whole_ms) as u32
    }

    /// When what was said last may no longer hold without any event: an ejection or a slow start ends.
    pub fn changes_at(&self, now: Now, rules: &Returning) -> Now {
        let ends = [Some(self.ejected_until), self.back_since.map(|since| since.plus_ms(rules.slow_start_ms))];
        ends.into_iter().flatten().filter(|end| *end > now).min().unwrap_or(Now::NEVER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Returning = Returning { base_ms: 10_000, max_ms: 300_000, slow_start_ms: 30_000 };

    fn at(seconds: u64) -> Now {
        Now::from_ms(seconds * 1_000)
    }

    #[test]
    fn every_combination_has_one_meaning() {
        use Administration::{Draining, Enabled, Maintenance};
        let ejected = at(20);
        for administration in [Enabled, Draining, Maintenance] {
            for verdict in [Verdict::Unknown, Verdict::Up, Verdict::Down] {
                for ejected_until in [Now(0), ejected] {
                    let facts = Facts { administration, verdict, ejected_until, ..Facts::default() };
                    let want = match (administration, verdict, ejected_until) {
                        (Draining | Maintenance, ..) => Some(Out::Administration(administration)),
                        (Enabled, Verdict::Down, _) => Some(Out::CheckFailed),
                        (Enabled, _, until) if until == ejected => Some(Out::Ejected(ejected)),
                        _ => None,
                    };
                    assert_eq!(facts.out(at(10)), want);
                    // Time alone ends an ejection and nothing else.
                    let later = want.filter(|out| !matches!(out, Out::Ejected(_)));
                    assert_eq!(facts.out(at(20)), later);
                }
            }
        }
    }

    #[test]
    fn ejections_double_to_a_cap_while_the_endpoint_flaps() {
        let (mut facts, mut now, mut lengths) = (Facts::default(), at(1), Vec::new());
        for _ in 0..8 {
            let ms = facts.eject(now, &RULES).expect("in service");
            assert_eq!(facts.eject(now, &RULES), None, "it is out already");
            lengths.push(ms / 1_000);
            // Up for a second, then it fails again.
            now = now.plus_ms(ms + 1_000);
        }
        assert_eq!(lengths, [10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn good_service_is_remembered() {
        let mut facts = Facts::default();
        let mut now = at(1);
        for _ in 0..3 {
            now = now.plus_ms(facts.eject(now, &RULES).expect("in service"));
        }
        assert_eq!(facts.eject(now.plus_ms(30_000), &RULES), Some(40_000), "one doubling forgotten");
        let mut facts = Facts { ejections: 3, ejected_until: at(100), ..Facts::default() };
        assert_eq!(facts.eject(at(1_000), &RULES), Some(10_000), "all forgotten");
    }

    #[test]
    fn a_returning_endpoint_starts_at_a_tenth_and_rises_in_a_line() {
        let mut facts = Facts::default();
        assert_eq!(facts.ramp_percent(at(5), &RULES), 100, "always there");
        facts.eject(at(0), &RULES);
        let ramp = |seconds| facts.ramp_percent(at(seconds), &RULES);
        assert_eq!([10, 20, 25, 39, 40, 400].map(ramp), [10, 40, 55, 97, 100, 100]);
        let none = Returning { slow_start_ms: 0, ..RULES };
        assert_eq!(facts.ramp_percent(at(10), &none), 100);
        assert_eq!(Facts::joined(at(7)).ramp_percent(at(7), &RULES), 10);
    }

    #[test]
    fn verdicts_and_wishes_tell_whether_they_change_anything() {
        let mut facts = Facts::default();
        assert!(facts.judge(Verdict::Up, at(1)) && !facts.judge(Verdict::Up, at(2)));
        assert_eq!(facts.back_since, None, "from unknown to up is no return");
        facts.eject(at(2), &RULES);
        assert!(facts.judge(Verdict::Down, at(3)) && facts.judge(Verdict::Up, at(4)));
        assert_eq!((facts.out(at(4)), facts.back_since), (None, Some(at(4))), "up by its checks, ejected no more");
        assert!(
            facts.administer(Administration::Draining, at(5)) && !facts.administer(Administration::Draining, at(6))
        );
        assert!(facts.administer(Administration::Enabled, at(9)));
        assert_eq!(facts.back_since, Some(at(9)));
    }

    #[test]
    fn the_next_change_is_known() {
        let mut facts = Facts::default();
        assert_eq!(facts.changes_at(at(1), &RULES), Now::NEVER);
        facts.eject(at(1), &RULES);
        assert_eq!([1, 11, 41].map(|s| facts.changes_at(at(s), &RULES)), [at(11), at(41), Now::NEVER]);
    }
}
