//! What a process holds of the host.

use std::fs;

/// Read from `/proc/PID`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Open file descriptors.
    pub descriptors: usize,
    /// Threads.
    pub threads: usize,
    /// Resident anonymous memory: for a VM process, all but all of it the guest's.
    pub anonymous_bytes: u64,
    /// All resident memory.
    pub resident_bytes: u64,
    /// Addresses in use, with memory behind them or not: what `RLIMIT_AS` counts.
    pub address_bytes: u64,
    /// Mappings.
    pub mappings: usize,
    /// Resident memory of the largest mapping: for a VM process, the guest's memory.
    pub largest_mapping_bytes: u64,
    /// The most that a mapping has in large pages: for a VM process, the guest's memory.
    pub large_page_bytes: u64,
}

impl Usage {
    /// The most that was ever resident of a process that is there.
    ///
    /// # Panics
    /// If it is not.
    pub fn peak_bytes(pid: u32) -> u64 {
        let path = format!("/proc/{pid}/status");
        let status = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = peak.and_then(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.unwrap_or_else(|| panic!("no VmHWM of {pid}")) * 1024
    }

    /// Of a process that is there.
    ///
    /// # Panics
    /// If it is not.
    pub fn of(pid: u32) -> Self {
        let read = |name: &str| {
            let path = format!("/proc/{pid}/{name}");
            fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
        };
        let status = read("status");
        let number = |name: &str| {
            let value = status
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let digits = value.and_then(|value| value.split_ascii_whitespace().next());
            let number = digits.and_then(|digits| digits.parse::<u64>().ok());
            number.unwrap_or_else(|| panic!("no {name} in the status of {pid}"))
        };
        let smaps = read("smaps");
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it is our child");
        Self {
            descriptors: descriptors.count(),
            threads: number("Threads") as usize,
            anonymous_bytes: number("RssAnon") * 1024,
            resident_bytes: number("VmRSS") * 1024,
            address_bytes: number("VmSize") * 1024,
            mappings: read("maps").lines().count(),
            largest_mapping_bytes: largest(&smaps, "Rss:"),
            large_page_bytes: largest(&smaps, "AnonHugePages:"),
        }
    }
}

/// What the mapping has that has most of it, in bytes.
fn largest(smaps: &str, what: &str) -> u64 {
    let sizes = smaps.lines().filter_map(|line| line.strip_prefix(what));
    let kib = sizes.filter_map(|size| size.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.max().expect("there are mappings") * 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_something_of_everything() {
        let usage = Usage::of(std::process::id());
        assert!(usage.descriptors >= 3 && usage.threads >= 1 && usage.mappings > 1);
        assert!(usage.anonymous_bytes > 0 && usage.resident_bytes >= usage.anonymous_bytes);
        assert!((1..=usage.resident_bytes).contains(&usage.largest_mapping_bytes));
    }
}
