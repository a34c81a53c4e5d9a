//! What the kernel tells about this process: processor time, memory, descriptors, start.

use std::fs;

/// Ticks per second in `/proc`: the kernel's `USER_HZ`, 100 on every architecture that ringway runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Facts about the process. What could not be read is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ProcessFacts {
    /// Processor time, user and system together, in seconds.
    pub cpu_seconds: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// The most file descriptors that may be open.
    pub max_fds: u64,
    /// Threads.
    pub threads: u64,
    /// Start of the process in seconds since the Unix epoch.
    pub start_seconds: f64,
}

impl ProcessFacts {
    /// Reads them from `/proc`. Blocks for some ten microseconds; for the control thread only.
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let mut facts = parse(
            &text("/proc/self/stat"),
            &text("/proc/self/status"),
            &text("/proc/self/limits"),
            &text("/proc/stat"),
        );
        // The directory's own descriptor is among those counted.
        facts.open_fds = fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count().saturating_sub(1) as u64);
        facts
    }
}

fn parse(stat: &str, status: &str, limits: &str, system: &str) -> ProcessFacts {
    // The command name stands in parentheses and may hold spaces; field 3 follows the last parenthesis.
    let fields: Vec<f64> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().map(float).collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let boot = word_after(system, "btime").map_or(0.0, float);
    ProcessFacts {
        cpu_seconds: (field(14) + field(15)) / TICKS_PER_SECOND,
        resident_bytes: kib(status, "VmRSS:"),
        virtual_bytes: kib(status, "VmSize:"),
        open_fds: 0,
        max_fds: word_after(limits, "Max open files").map_or(0, |word| word.parse().unwrap_or(u64::MAX)),
        threads: word_after(status, "Threads:").map_or(0, |word| word.parse().unwrap_or_default()),
        start_seconds: boot + field(22) / TICKS_PER_SECOND,
    }
}

fn float(word: &str) -> f64 {
    word.parse().unwrap_or_default()
}

fn kib(text: &str, name: &str) -> u64 {
    word_after(text, name).map_or(0, |word| word.parse::<u64>().unwrap_or_default().saturating_mul(1024))
}

fn word_after<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_whitespace().next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_files_are_read_even_with_odd_names() {
        let stat = "42 (a) b (c) S 1 1 1 0 -1 0 0 0 0 0 250 50 0 0 20 0 3 0 1000 0 0";
        let limits = "Limit  Soft Limit\nMax open files            1024                 4096                 files\n";
        let facts = parse(stat, "VmSize:\t 8 kB\nVmRSS:\t 4 kB\nThreads:\t3\n", limits, "cpu 1\nbtime 100\n");
        let expected = ProcessFacts {
            cpu_seconds: 3.0,
            resident_bytes: 4096,
            virtual_bytes: 8192,
            open_fds: 0,
            max_fds: 1024,
            threads: 3,
            start_seconds: 110.0,
        };
        assert_eq!(facts, expected);
        assert_eq!(parse("", "", "", ""), ProcessFacts::default());
    }

    #[test]
    fn this_process_has_memory_and_descriptors() {
        let facts = ProcessFacts::read();
        assert!(facts.resident_bytes > 0 && facts.open_fds > 0 && facts.start_seconds > 0.0, "{facts:?}");
    }
}
