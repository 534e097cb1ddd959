//! What an experiment ran on.

use std::{fs, process::Command, thread};

use serde::{Deserialize, Serialize};

use crate::process::ask;

/// The machine.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Host {
    pub(crate) kernel: String,
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_bytes: u64,
    /// Modules of KVM that are there.
    pub(crate) kvm: String,
    /// TCP's, for rivals that use it.
    pub(crate) congestion_control: String,
}

/// The program under test.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Build {
    pub(crate) commit: String,
    /// The tree had changes that the commit does not have.
    pub(crate) dirty: bool,
    pub(crate) profile: String,
}

impl Host {
    pub(crate) fn of_this_machine() -> Self {
        Self {
            kernel: file("/proc/sys/kernel/osrelease"),
            cpu: entry("/proc/cpuinfo", "model name"),
            cpus: thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kibibytes(&entry("/proc/meminfo", "MemTotal")) * 1024,
            kvm: kvm_modules(),
            congestion_control: crate::network::tcp::congestion_control().to_owned(),
        }
    }
}

impl Build {
    /// Of the tree in which this program is called. What is not known is empty.
    pub(crate) fn of_this_tree() -> Self {
        let root = super::folder::root();
        let git =
            |arguments: &[&str]| ask(Command::new("git").arg("-C").arg(root).args(arguments)).ok();
        let status = git(&["status", "--porcelain", "--untracked-files=no"]);
        Self {
            commit: git(&["rev-parse", "HEAD"])
                .unwrap_or_default()
                .trim()
                .to_owned(),
            dirty: status.is_none_or(|changes| !changes.trim().is_empty()),
            profile: "release".to_owned(),
        }
    }
}

fn file(path: &str) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.trim().to_owned()
}

/// The value of the first entry `name: value` in a table.
fn entry(path: &str, name: &str) -> String {
    let table = file(path);
    let mut entries = table.lines().filter_map(|line| line.split_once(':'));
    let found = entries.find(|(key, _)| key.trim() == name);
    found.map_or_else(String::new, |(_, value)| value.trim().to_owned())
}

fn kibibytes(text: &str) -> u64 {
    let number = text.split_ascii_whitespace().next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Built in or not, each has a folder of its own if it has parameters.
fn kvm_modules() -> String {
    let names = ["kvm", "kvm_intel", "kvm_amd", "kvm_pvm"];
    let there = names
        .into_iter()
        .filter(|name| fs::exists(format!("/sys/module/{name}")).unwrap_or(false));
    there.collect::<Vec<_>>().join(" ")
}
