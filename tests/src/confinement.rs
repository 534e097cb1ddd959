//! What a process may still do, as the kernel tells of each of its threads.

use std::{collections::BTreeMap, fs, path::Path};

/// Read from `/proc/PID/task/TID/status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confinement {
    /// No program that it might start can give it privileges.
    pub no_new_privileges: bool,
    /// A filter looks at its system calls.
    pub is_filtered: bool,
    /// Its capabilities, by the set: `CapInh`, `CapPrm`, `CapEff`, `CapBnd`, `CapAmb`.
    pub capabilities: BTreeMap<String, u64>,
}

impl Confinement {
    /// Of all threads of a process that is there, by their names. Threads that end meanwhile are
    /// left out.
    ///
    /// # Panics
    /// If there is no such process.
    pub fn of_threads(pid: u32) -> Vec<(String, Self)> {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it is our child");
        let status = |task: &Path| fs::read_to_string(task.join("status")).ok();
        tasks
            .filter_map(|task| status(&task.ok()?.path()))
            .map(|status| Self::parse(&status))
            .collect()
    }

    /// Whether nothing is left to be given up.
    pub fn is_complete(&self) -> bool {
        let nothing = self.capabilities.values().all(|set| *set == 0);
        self.no_new_privileges && self.is_filtered && nothing
    }

    fn parse(status: &str) -> (String, Self) {
        let field = |name: &str| {
            let mut lines = status.lines();
            let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            value
                .unwrap_or_else(|| panic!("no {name} in {status}"))
                .trim()
        };
        let set = |name: &str| {
            let bits = u64::from_str_radix(field(name), 16).expect("a set of capabilities");
            (name.to_owned(), bits)
        };
        let confinement = Self {
            no_new_privileges: field("NoNewPrivs") == "1",
            is_filtered: field("Seccomp") == "2",
            capabilities: ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"]
                .map(set)
                .into(),
        };
        (field("Name").to_owned(), confinement)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_shows() {
        let status = |seccomp: &str, effective: &str| {
            format!(
                "Name:\tvcpu0\nCapInh:\t0\nCapPrm:\t0\nCapEff:\t{effective}\nCapBnd:\t0\n\
                 CapAmb:\t0\nNoNewPrivs:\t1\nSeccomp:\t{seccomp}\nSeccomp_filters:\t2\n"
            )
        };
        let (name, complete) = Confinement::parse(&status("2", "0000000000000000"));
        assert_eq!(name, "vcpu0");
        assert!(complete.is_complete());
        assert!(!Confinement::parse(&status("0", "0")).1.is_complete());
        assert!(
            !Confinement::parse(&status("2", "000001ffffffffff"))
                .1
                .is_complete()
        );
        assert!(!Confinement::of_threads(std::process::id()).is_empty());
    }
}
