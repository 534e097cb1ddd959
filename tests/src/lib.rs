//! The harness of the end-to-end tests: real `me2` processes, real KVM, a link that can be cut.
//!
//! - [`Bench`]: a private folder with an identity, and a turn: one test at a time has the machine
//! - [`Vm`]: a process that has a VM, or waits for one; [`Migration`]: a client that follows one
//! - [`Report`]: what a migration tells of itself, and what must hold for every one that completed
//! - [`Link`]: a UDP relay between two of them, which cuts, delays and counts
//! - [`hostile`]: a peer that is trusted and misbehaves
//! - [`Middle`]: a peer between two of them, which says that pages differ, or that a machine needs more
//! - [`Wire`]: two hosts on a network of their own, whose addresses can change
//! - [`api`]: requests to a process, as any client may make them
//! - [`Usage`]: what a process holds of the host
//! - [`ThreadLimit`]: how many threads it may have
//! - [`Confinement`]: what a process may still do
//! - [`own_guest`]: a guest that is not the built-in one
//! - [`faults`]: migrations with failures injected where a seed says; [`soak`]: many without;
//!   [`skew`]: between builds of different age
//!
//! Every process ends with the test that started it. Nothing here asserts how long something takes,
//! beyond a [`PATIENCE`] that is never used up.
//!
//! The programs under test are found by the environment variable `ME2_BIN`; `cargo xtask test` sets
//! it.

#![forbid(unsafe_code)]

pub mod api;
mod bench;
mod confinement;
pub mod faults;
pub mod hostile;
mod link;
mod middle;
mod migration;
pub mod own_guest;
mod process;
mod report;
pub mod skew;
pub mod soak;
mod threads;
mod usage;
mod vm;
mod wire;

use std::{
    fs::OpenOptions,
    io::Write,
    time::{Duration, Instant},
};

pub use bench::{Bench, Guest};
pub use confinement::Confinement;
pub use link::{Link, Way};
pub use middle::Middle;
pub use migration::{Ended, Migration};
pub use process::Process;
pub use report::Report;
pub use rustix::process::Resource;
pub use threads::ThreadLimit;
pub use usage::Usage;
pub use vm::Vm;
pub use wire::Wire;

/// How long anything may take before the test fails: far longer than it ever does.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// How often a condition is looked at that nothing announces.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Returns from a test that needs KVM where there is none, and says so.
#[macro_export]
macro_rules! require_kvm {
    () => {
        if let Err(reason) = $crate::kvm() {
            $crate::say(&format!("SKIPPED: {reason}"));
            return;
        }
    };
}

/// Whether VMs can be run here; if not, why.
pub fn kvm() -> Result<(), String> {
    let opened = OpenOptions::new().read(true).write(true).open("/dev/kvm");
    match opened {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("/dev/kvm cannot be opened: {error}")),
    }
}

/// Says something past the capturing of test output: what must be seen of a test that passes.
pub fn say(text: &str) {
    // Nobody reads it: no reason to fail.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Looks until there is something.
///
/// # Panics
/// If there is nothing within [`PATIENCE`].
pub fn wait_until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    try_until(look).unwrap_or_else(|| panic!("no {what} within {} s", PATIENCE.as_secs()))
}

/// Looks until there is something, for [`PATIENCE`] at most.
fn try_until<T>(mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        std::thread::sleep(POLL_INTERVAL);
    }
}
