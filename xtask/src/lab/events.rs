//! How often KVM's tracepoints fired in the lab's machine.

use std::collections::{BTreeMap, BTreeSet};

use super::record::Record;

/// Counts by the name of the tracepoint, without its group. One that exists and did not fire has 0,
/// one that does not exist is not here.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Counts(BTreeMap<String, u64>);

impl Counts {
    /// Of all threads, from the start until the text `name` was written.
    pub(super) fn of_all(record: &Record, name: &str) -> Self {
        Self::read(record.text(name), |_| true)
    }

    /// The same, of the process in which the VM started.
    pub(super) fn of_source(record: &Record, name: &str) -> Self {
        let threads = record.text("source.threads").iter();
        let threads: BTreeSet<_> = threads.map(|line| line.trim()).collect();
        Self::read(record.text(name), |thread| threads.contains(thread))
    }

    /// Lines `GROUP/NAME THREAD COUNT`.
    fn read(lines: &[String], counts: impl Fn(&str) -> bool) -> Self {
        let mut totals = BTreeMap::new();
        for line in lines {
            let mut words = line.split_whitespace();
            let (Some(event), Some(thread), Some(count)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let name = event.split_once('/').map_or(event, |(_, name)| name);
            let total = totals.entry(name.to_owned()).or_default();
            if counts(thread) {
                *total += count.parse().unwrap_or(0);
            }
        }
        Self(totals)
    }

    /// `None` where the kernel has no such tracepoint.
    pub(super) fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// What came since `earlier`.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let counts = self.0.iter();
        let counts = counts.map(|(name, count)| {
            let before = earlier.get(name).unwrap_or(0);
            (name.clone(), count.saturating_sub(before))
        });
        Self(counts.collect())
    }

    /// All of them, by name.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.0.iter().map(|(name, count)| (name.as_str(), *count))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_by_name_and_told_by_process() {
        let mut record = Record::default();
        let lines = [
            "begin source.threads",
            "7",
            "8",
            "end source.threads",
            "begin events",
            "kvm/kvm_exit 7 10",
            "kvm/kvm_exit 9 5",
            "kvmmmu/fast_page_fault - 0",
            "kvm/kvm_entry 8",
            "end events",
        ];
        for line in lines {
            assert_eq!(record.take(line), None);
        }
        let all = Counts::of_all(&record, "events");
        assert_eq!(all.get("kvm_exit"), Some(15));
        assert_eq!(all.get("fast_page_fault"), Some(0));
        assert_eq!(all.get("kvm_entry"), None);
        let source = Counts::of_source(&record, "events");
        assert_eq!(source.get("kvm_exit"), Some(10));
        assert_eq!(all.since(&source).get("kvm_exit"), Some(5));
    }
}
