//! The memory of the process against its limit (F10): what workers hold, what the kernel says, and the level of both.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use crate::limits::{
    MEMORY_FULL_PERCENT, MEMORY_LOOK_CALM_MS, MEMORY_LOOK_MS, MEMORY_LOOK_RISING_MS, MEMORY_SAVE_PERCENT,
    MEMORY_SHED_PERCENT, MEMORY_SLACK_PERCENT,
};
use crate::sys::memory::{Group, Resident};
use crate::telemetry::log;
use crate::time::Now;

/// How much of the limit is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Less than 90 %, or there is no limit.
    #[default]
    Ample = 0,
    /// 90 %: connections close behind their responses, idle ones at once.
    Saving = 1,
    /// 95 %: new requests are answered 503; idle pools and spare buffers are given back.
    Shedding = 2,
}

impl Level {
    /// The word for people and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Level::Ample => "ample",
            Level::Saving => "saving",
            Level::Shedding => "shedding",
        }
    }

    fn of(number: u8) -> Self {
        match number {
            0 => Level::Ample,
            1 => Level::Saving,
            _ => Level::Shedding,
        }
    }

    /// The level after this one when `used` of `limit` bytes are in use. One is left some percent below where it is
    /// entered, so that it does not flicker.
    fn next(self, used: u64, limit: u64) -> Self {
        let percent = u128::from(used) * 100 / u128::from(limit.max(1));
        let slack = |level: Level| if self >= level { MEMORY_SLACK_PERCENT } else { 0 };
        let reaches = |percent_min: u64, level: Level| percent >= u128::from(percent_min - slack(level));
        match () {
            () if reaches(MEMORY_SHED_PERCENT, Level::Shedding) => Level::Shedding,
            () if reaches(MEMORY_SAVE_PERCENT, Level::Saving) => Level::Saving,
            () => Level::Ample,
        }
    }
}

/// What there is to tell about the memory of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryFacts {
    /// The limit in bytes; 0 for none.
    pub limit_bytes: u64,
    /// What is in use of it: the larger of the next three, with what came since they were looked at, and what is about
    /// to come where it grows fast.
    pub used_bytes: u64,
    /// What workers hold by their own count.
    pub held_bytes: u64,
    /// What is resident.
    pub resident_bytes: u64,
    /// What the control group is charged for, files apart; 0 where the group is not the gateway's own.
    pub group_bytes: u64,
    /// The level.
    pub level: Level,
}

/// The memory of the process.
#[derive(Debug)]
pub struct Memory {
    limit_bytes: u64,
    resident: Option<Resident>,
    group: Option<Group>,
    /// What the group may be charged for beyond the limit: its own is wider by so much.
    group_spare_bytes: u64,
    level: AtomicU8,
    /// What each worker holds by its own count.
    held: Box<[AtomicU64]>,
    looked_ms: AtomicU64,
    /// What is taken to come until the next ordinary look: by how much it grew in the time of one.
    rise_bytes: AtomicU64,
    /// What the kernel said at the last look.
    resident_bytes: AtomicU64,
    group_bytes: AtomicU64,
    /// What the workers held then.
    held_then: AtomicU64,
    /// What was in use when a worker told last.
    used_bytes: AtomicU64,
}

impl Memory {
    /// The memory of a process with so many workers, under a limit of so many bytes; 0 for none. What the control group
    /// is charged for counts too, by how little it leaves of what a group of that size may be charged for.
    pub fn new(limit_bytes: u64, group: Option<Group>, workers: u32) -> Self {
        let of_group = group.as_ref().map_or(limit_bytes, Group::share_bytes);
        Self {
            limit_bytes,
            resident: Resident::open(),
            group,
            group_spare_bytes: of_group.saturating_sub(limit_bytes),
            level: AtomicU8::new(Level::Ample as u8),
            held: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            looked_ms: AtomicU64::new(0),
            rise_bytes: AtomicU64::new(0),
            resident_bytes: AtomicU64::new(0),
            group_bytes: AtomicU64::new(0),
            held_then: AtomicU64::new(0),
            used_bytes: AtomicU64::new(0),
        }
    }

    /// Whether there is a limit.
    #[inline]
    pub fn is_limited(&self) -> bool {
        self.limit_bytes != 0
    }

    /// The limit in bytes; 0 for none.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// The present level.
    pub fn level(&self) -> Level {
        Level::of(self.level.load(Ordering::Relaxed))
    }

    /// Takes what a worker holds, looks at the kernel's figures when the last look is old, and sets the level. Returns
    /// what the process uses, in bytes.
    pub fn tell(&self, worker: usize, held_bytes: u64, now: Now) -> u64 {
        if let Some(slot) = self.held.get(worker) {
            slot.store(held_bytes, Ordering::Relaxed);
        }
        let held = self.held_sum();
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let claimed = |to| self.looked_ms.compare_exchange(looked_ms, to, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let is_calm = self.used(held) < self.limit_bytes / 2;
        let is_rising = self.rise_bytes.load(Ordering::Relaxed) > self.limit_bytes / 100;
        let pause_ms = match (is_calm, is_rising) {
            (true, _) => MEMORY_LOOK_CALM_MS,
            (false, true) => MEMORY_LOOK_RISING_MS,
            (false, false) => MEMORY_LOOK_MS,
        };
        let since_ms = now.ms().saturating_sub(looked_ms);
        if since_ms >= pause_ms && claimed(now.ms()) {
            self.look(held, since_ms);
        }
        let used = self.used(held) + self.rise_bytes.load(Ordering::Relaxed);
        self.used_bytes.store(used, Ordering::Relaxed);
        self.judge(used);
        used
    }

    /// Whether `used` bytes are so much that nobody more can be let in.
    #[inline]
    pub fn is_full(&self, used: u64) -> bool {
        u128::from(used) * 100 >= u128::from(self.limit_bytes) * u128::from(MEMORY_FULL_PERCENT)
    }

    /// What there is to tell.
    pub fn facts(&self) -> MemoryFacts {
        MemoryFacts {
            limit_bytes: self.limit_bytes,
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
            held_bytes: self.held_sum(),
            resident_bytes: self.resident_bytes.load(Ordering::Relaxed),
            group_bytes: self.group_bytes.load(Ordering::Relaxed),
            level: self.level(),
        }
    }

    fn held_sum(&self) -> u64 {
        self.held.iter().map(|held| held.load(Ordering::Relaxed)).sum()
    }

    fn look(&self, held: u64, since_ms: u64) {
        let before = self.seen();
        let resident = self.resident.as_ref().and_then(Resident::bytes).unwrap_or_default();
        let group = self.group.as_ref().and_then(Group::used_bytes).unwrap_or_default();
        self.resident_bytes.store(resident, Ordering::Relaxed);
        self.group_bytes.store(group, Ordering::Relaxed);
        self.held_then.store(held, Ordering::Relaxed);
        // The first look has nothing to compare with, and one after a long calm says little of now.
        let grown = if before == 0 { 0 } else { self.seen().saturating_sub(before) };
        self.rise_bytes.store(grown * MEMORY_LOOK_MS / since_ms.max(MEMORY_LOOK_MS / 10), Ordering::Relaxed);
    }

    /// What the kernel said.
    fn seen(&self) -> u64 {
        let of_group = self.group_bytes.load(Ordering::Relaxed).saturating_sub(self.group_spare_bytes);
        self.resident_bytes.load(Ordering::Relaxed).max(of_group)
    }

    /// What the kernel said, and what workers took since.
    fn used(&self, held: u64) -> u64 {
        let since = held.saturating_sub(self.held_then.load(Ordering::Relaxed));
        held.max(self.seen() + since)
    }

    fn judge(&self, used: u64) {
        let before = self.level();
        let level = before.next(used, self.limit_bytes);
        let swapped = level != before
            && self.level.compare_exchange(before as u8, level as u8, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if swapped {
            let facts: [(&str, &dyn std::fmt::Display); 3] =
                [("level", &level.word()), ("used_bytes", &used), ("limit_bytes", &self.limit_bytes)];
            match level {
                Level::Ample => log::info("memory is ample again", &facts),
                Level::Saving | Level::Shedding => log::warn("memory is short", &facts),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_entered_and_left_at_different_marks() {
        let mut level = Level::Ample;
        let seen: Vec<_> = [89, 90, 94, 95, 91, 90, 89, 86, 85, 84, 99]
            .into_iter()
            .map(|used| {
                level = level.next(used, 100);
                level as u8
            })
            .collect();
        assert_eq!(seen, [0, 1, 1, 2, 2, 2, 1, 1, 1, 0, 2]);
    }

    #[test]
    fn what_workers_took_since_the_last_look_counts() {
        let memory = Memory::new(1 << 40, None, 2);
        let resident = memory.tell(0, 1_000, Now::from_ms(MEMORY_LOOK_CALM_MS));
        assert!(resident > 1 << 20, "{resident}");
        assert_eq!(memory.tell(1, 5_000, Now::from_ms(MEMORY_LOOK_CALM_MS + 1)), resident + 5_000);
        assert_eq!(memory.tell(0, 0, Now::from_ms(MEMORY_LOOK_CALM_MS + 2)), resident + 4_000);
        assert_eq!(memory.facts().held_bytes, 5_000);
        assert_eq!(memory.level(), Level::Ample);
    }

    #[test]
    fn what_grows_fast_is_looked_at_often_and_counts_ahead() {
        let memory = Memory::new(1_000_000, None, 1);
        let look = |seen: u64, since_ms: u64| {
            let before = memory.resident_bytes.swap(seen, Ordering::Relaxed);
            let grown = seen.saturating_sub(before);
            memory.rise_bytes.store(grown * MEMORY_LOOK_MS / since_ms, Ordering::Relaxed);
        };
        look(700_000, 100);
        look(740_000, 20);
        // 40 KB in 20 ms are 200 KB until the next ordinary look.
        memory.looked_ms.store(5_000, Ordering::Relaxed);
        assert_eq!(memory.tell(0, 0, Now::from_ms(5_001)), 940_000);
        assert_eq!(memory.level(), Level::Saving);
        // It is rising, so that ten milliseconds later the kernel is asked: this process is over its limit.
        let used = memory.tell(0, 0, Now::from_ms(5_000 + MEMORY_LOOK_RISING_MS));
        assert!(used > 1_000_000 && memory.is_full(used), "{used}");
        assert!(!memory.is_full(979_999) && memory.is_full(980_000));
    }

    #[test]
    fn a_process_over_its_limit_sheds() {
        let memory = Memory::new(1 << 20, None, 1);
        memory.tell(0, 0, Now::from_ms(MEMORY_LOOK_CALM_MS));
        assert_eq!(memory.facts().level, Level::Shedding);
        assert!(!Memory::new(0, None, 1).is_limited());
    }
}
