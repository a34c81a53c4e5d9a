//! Who may be asked: from the facts about all endpoints to the sets that a pick looks at (R105, R141, F27, F28).
//!
//! It is computed when a fact changes or an ejection ends, and not for a request. While all are well there is one tier
//! with all endpoints, and a pick does what it would do without any of this.

use super::balance::View;
use super::health::{Administration, Facts, Out, Returning, Verdict};
use super::rules::SelectionRules;
use crate::time::Now;

/// An endpoint and what is known of it.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// The endpoint as balancing would see it if all were well.
    pub view: View,
    /// Its tier.
    pub priority: u32,
    /// Where it stands; empty when that is not said.
    pub zone: &'a str,
    /// What is known.
    pub facts: Facts,
}

/// A tier of endpoints.
#[derive(Clone, Debug)]
pub struct Tier {
    /// Lots below this fall on it or on a tier before it, in percent.
    pub below_percent: u32,
    /// All endpoints of the service; those that are not to be asked are marked as not healthy.
    pub views: Vec<View>,
}

/// The outcome.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// Tiers that get requests; none when nobody may be asked.
    pub tiers: Vec<Tier>,
    /// All healthy endpoints of all tiers: for retries, and where a tier has nobody left.
    pub healthy: Vec<View>,
    /// Endpoints in slow start: index and the beginning of it. Empty while there are none.
    pub ramping: Vec<(u32, Facts)>,
    /// Endpoints that an operator drains: clients that stick to them still get them.
    pub leaving: Vec<u32>,
    /// Endpoints that only requests have spoken against.
    pub ejected: Vec<u32>,
    /// More than the threshold is out, so that all are asked.
    pub panic: bool,
    /// When it must be computed anew although nothing happens.
    pub until: Now,
}

/// The share of its zone's weight that must be healthy for the zone to be kept to, in percent.
const ZONE_PERCENT_MIN: u64 = 70;

impl Selection {
    /// Computes it.
    pub fn of(members: &[Member<'_>], rules: &SelectionRules, returning: &Returning, now: Now) -> Self {
        let healthy: Vec<View> = members
            .iter()
            .map(|member| View { healthy: member.view.healthy && member.facts.out(now).is_none(), ..weighted(member) })
            .collect();
        let until = members.iter().map(|member| member.facts.changes_at(now, returning)).min().unwrap_or(Now::NEVER);
        let mut priorities: Vec<u32> = members.iter().map(|member| member.priority).collect();
        priorities.sort_unstable();
        priorities.dedup();
        let (tiers, panic) = tiers(members, &healthy, &priorities, rules, now);
        let slow = |(at, member): (usize, &Member<'_>)| {
            (healthy[at].healthy && member.facts.ramp_percent(now, returning) < 100)
                .then_some((at as u32, member.facts))
        };
        let ramping: Vec<_> = members.iter().enumerate().filter_map(slow).collect();
        let leaves = |(at, member): (usize, &Member<'_>)| {
            let drains = member.facts.administration == Administration::Draining && member.view.healthy;
            (drains && member.facts.verdict != Verdict::Down).then_some(at as u32)
        };
        let leaving = members.iter().enumerate().filter_map(leaves).collect();
        let is_ejected =
            |member: &Member<'_>| matches!(member.facts.out(now), Some(Out::Ejected(_))) && member.view.healthy;
        let ejected = (0..members.len() as u32).filter(|at| is_ejected(&members[*at as usize])).collect();
        // Where all of them start slowly, nobody could take what they do not.
        let all = ramping.len() == healthy.iter().filter(|view| view.healthy).count();
        Self { tiers, healthy, ramping: if all { Vec::new() } else { ramping }, leaving, ejected, panic, until }
    }

    /// Whether nobody may be asked.
    pub fn is_empty(&self) -> bool {
        self.tiers.is_empty()
    }

    /// The tier that a lot falls on.
    #[inline]
    pub fn tier(&self, random: u64) -> usize {
        if self.tiers.len() <= 1 {
            return 0;
        }
        let lot = ((u128::from(random.rotate_left(17)) * 100) >> 64) as u32;
        self.tiers.iter().position(|tier| lot < tier.below_percent).unwrap_or(0)
    }

    /// Whether endpoint `at` leaves this request to another, since it has only just come back. A key's lot does not
    /// change from request to request, so that its requests stay together.
    pub fn defers(&self, at: usize, lot: u64, returning: &Returning, now: Now) -> bool {
        let Some((_, facts)) = self.ramping.iter().find(|(slow, _)| *slow as usize == at) else { return false };
        let percent = ((u128::from(lot.rotate_left(31).wrapping_mul(0x9e37_79b9_7f4a_7c15)) * 100) >> 64) as u32;
        percent >= facts.ramp_percent(now, returning)
    }
}

fn weighted(member: &Member<'_>) -> View {
    View { weight: member.facts.weight.unwrap_or(member.view.weight), ..member.view }
}

/// Tiers with what falls on each: a tier gets what those before it cannot take.
fn tiers(
    members: &[Member<'_>],
    healthy: &[View],
    priorities: &[u32],
    rules: &SelectionRules,
    now: Now,
) -> (Vec<Tier>, bool) {
    if !healthy.iter().any(|view| view.healthy && view.weight > 0) {
        let tiers = last_resort(members, healthy, rules, now);
        let panic = !tiers.is_empty();
        return (tiers, panic);
    }
    let capacities: Vec<u64> = priorities.iter().map(|tier| capacity(members, healthy, *tier, rules)).collect();
    let total: u64 = capacities.iter().sum::<u64>().min(100);
    let (mut left, mut below) = (total, 0);
    let (mut tiers, mut panic) = (Vec::new(), false);
    for (priority, capacity) in priorities.iter().zip(&capacities) {
        let share = (*capacity).min(left);
        left -= share;
        if share == 0 {
            continue;
        }
        // Where the tiers cannot take it all together, what they have is shared out in their proportion.
        below += (share * 100).div_ceil(total) as u32;
        let of_tier = |at: usize| members[at].priority == *priority;
        let panics = total < 100 && percent_healthy(members, healthy, *priority) < u64::from(rules.panic_percent);
        panic |= panics;
        let views = if panics && !rules.panic_fails {
            spread(members, healthy, of_tier, now)
        } else {
            let near = near(members, healthy, *priority, rules);
            let keep = |(at, view): (usize, &View)| {
                let near = !near || members[at].zone == rules.zone;
                View { healthy: view.healthy && of_tier(at) && near, ..*view }
            };
            healthy.iter().enumerate().map(keep).collect()
        };
        tiers.push(Tier { below_percent: below.min(100), views });
    }
    (tiers, panic)
}

/// How much of all requests a tier can take, in percent.
fn capacity(members: &[Member<'_>], healthy: &[View], priority: u32, rules: &SelectionRules) -> u64 {
    (percent_healthy(members, healthy, priority) * u64::from(rules.overprovision_percent) / 100).min(100)
}

/// The healthy part of a tier, by weight, in percent. At least 1 where one is healthy.
fn percent_healthy(members: &[Member<'_>], healthy: &[View], priority: u32) -> u64 {
    part(healthy, |at| members[at].priority == priority)
}

fn part(healthy: &[View], of: impl Fn(usize) -> bool) -> u64 {
    let weights = |well: bool| {
        let those = healthy.iter().enumerate().filter(|(at, view)| of(*at) && (!well || view.healthy));
        those.map(|(_, view)| u64::from(view.weight)).sum::<u64>()
    };
    let (well, all) = (weights(true), weights(false));
    if well == 0 { 0 } else { (well * 100 / all).max(1) }
}

/// All of a tier that an operator did not take out.
fn spread(members: &[Member<'_>], healthy: &[View], of: impl Fn(usize) -> bool, now: Now) -> Vec<View> {
    let asked = |(at, view): (usize, &View)| {
        let wanted = !matches!(members[at].facts.out(now), Some(Out::Administration(_)));
        View { healthy: of(at) && wanted && members[at].view.healthy, ..*view }
    };
    healthy.iter().enumerate().map(asked).collect()
}

/// Where nobody is well: those that only requests have spoken against. A reload may have taken all others away. What
/// checks say is believed.
fn last_resort(members: &[Member<'_>], healthy: &[View], rules: &SelectionRules, now: Now) -> Vec<Tier> {
    let ejected = |at: usize| matches!(members[at].facts.out(now), Some(Out::Ejected(_))) && members[at].view.healthy;
    if rules.panic_fails || !(0..members.len()).any(ejected) {
        return Vec::new();
    }
    let views = healthy.iter().enumerate().map(|(at, view)| View { healthy: ejected(at), ..*view }).collect();
    vec![Tier { below_percent: 100, views }]
}

/// Whether a tier keeps to the gateway's own zone: it has endpoints there, and enough of them are well.
fn near(members: &[Member<'_>], healthy: &[View], priority: u32, rules: &SelectionRules) -> bool {
    let here = |at: usize| members[at].priority == priority && members[at].zone == rules.zone;
    !rules.zone.is_empty() && part(healthy, here) >= ZONE_PERCENT_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Now = Now::from_ms(100_000);

    fn member(priority: u32, well: bool) -> Member<'static> {
        let verdict = if well { Verdict::Up } else { Verdict::Down };
        let facts = Facts { verdict, ..Facts::default() };
        Member { view: View { weight: 1, load: 0, healthy: true, hash: 0 }, priority, zone: "", facts }
    }

    fn of(members: &[Member<'_>]) -> Selection {
        Selection::of(members, &SelectionRules::default(), &Returning::default(), NOW)
    }

    fn asked(tier: &Tier) -> Vec<usize> {
        tier.views.iter().enumerate().filter(|(_, view)| view.healthy).map(|(at, _)| at).collect()
    }

    #[test]
    fn while_all_are_well_there_is_one_tier_with_all() {
        let selection = of(&[member(0, true); 3]);
        assert_eq!((selection.tiers.len(), asked(&selection.tiers[0])), (1, vec![0, 1, 2]));
        assert!(!selection.panic && selection.ramping.is_empty() && selection.until == Now::NEVER);
    }

    #[test]
    fn a_tier_takes_over_what_those_before_it_cannot_take() {
        // well of 10 in tier 0, all of tier 1: what falls on tier 0, with 140 % overprovisioning.
        for (well, want) in [(10, 100), (8, 100), (7, 98), (5, 70), (1, 14), (0, 0)] {
            let mut members: Vec<_> = (0..10).map(|at| member(0, at < well)).collect();
            members.extend([member(1, true); 2]);
            let selection = of(&members);
            let first = selection.tiers[0].below_percent;
            match want {
                0 => assert_eq!((first, asked(&selection.tiers[0])), (100, vec![10, 11])),
                100 => assert_eq!((first, selection.tiers.len()), (100, 1)),
                _ => assert_eq!((first, selection.tiers[1].below_percent), (want, 100)),
            }
            assert!(!selection.panic, "the second tier is whole");
        }
    }

    #[test]
    fn below_half_all_are_asked_but_for_those_that_an_operator_took_out() {
        let mut members = vec![member(0, true), member(0, false), member(0, false), member(0, false)];
        members[3].facts.administration = Administration::Maintenance;
        let selection = of(&members);
        assert!(selection.panic);
        assert_eq!(asked(&selection.tiers[0]), [0, 1, 2]);
        let healthy: Vec<_> = selection.healthy.iter().map(|view| view.healthy).collect();
        assert_eq!(healthy, [true, false, false, false], "a retry knows better");
        let rules = SelectionRules { panic_fails: true, ..SelectionRules::default() };
        let strict = Selection::of(&members, &rules, &Returning::default(), NOW);
        assert!(strict.panic && asked(&strict.tiers[0]) == [0]);
        assert!(!of(&[member(0, true), member(0, false)]).panic, "half is enough");
    }

    #[test]
    fn nobody_is_asked_where_nobody_is_well() {
        let selection = of(&[member(0, false), member(1, false)]);
        assert!(selection.is_empty() && !selection.panic);
        assert!(of(&[]).is_empty());
    }

    #[test]
    fn those_that_are_only_ejected_are_asked_before_nobody_is() {
        let mut members = [member(0, false), member(0, true), member(0, true)];
        for member in &mut members[1..] {
            member.facts.ejected_until = NOW.plus_ms(1);
        }
        members[2].facts.administration = Administration::Maintenance;
        let selection = of(&members);
        assert!(selection.panic && asked(&selection.tiers[0]) == [1]);
    }

    #[test]
    fn the_own_zone_is_kept_to_while_enough_of_it_is_well() {
        let zoned = |zone, well| Member { zone, ..member(0, well) };
        let rules = SelectionRules { zone: "a".into(), ..SelectionRules::default() };
        let asked_of =
            |members: &[Member<'_>]| asked(&Selection::of(members, &rules, &Returning::default(), NOW).tiers[0]);
        assert_eq!(asked_of(&[zoned("a", true), zoned("b", true), zoned("a", true)]), [0, 2]);
        assert_eq!(asked_of(&[zoned("a", true), zoned("b", true), zoned("a", false)]), [0, 1]);
        assert_eq!(asked_of(&[zoned("c", true), zoned("b", true)]), [0, 1]);
    }

    #[test]
    fn slow_starters_defer_and_all_of_them_together_do_not() {
        let mut members = vec![member(0, true), member(0, true)];
        members[1].facts.back_since = Some(NOW);
        let returning = Returning::default();
        let selection = of(&members);
        let lots = |now: Now| {
            let mut random = 1_u64;
            let mut kept = 0;
            for _ in 0..10_000 {
                random = random.wrapping_mul(0xd134_2543_de82_ef95).wrapping_add(1);
                kept += u32::from(!selection.defers(1, random, &returning, now));
            }
            kept
        };
        assert!((900..1_100).contains(&lots(NOW)), "a tenth");
        assert!((5_300..5_700).contains(&lots(NOW.plus_ms(15_000))), "half way");
        assert_eq!(lots(NOW.plus_ms(30_000)), 10_000);
        assert!(!selection.defers(0, 7, &returning, NOW));
        assert_eq!(selection.until, NOW.plus_ms(30_000));
        members[0].facts.back_since = Some(NOW);
        assert!(of(&members).ramping.is_empty());
    }
}
