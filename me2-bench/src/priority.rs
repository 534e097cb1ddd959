//! Precedence of this program, which times and emulates, before those that it measures.
//!
//! Guests and encoders can take all cores. What was seen late, or came late out of the emulated link,
//! would be measured as their doing. It takes little of a core itself.

use std::{
    process::{self, Command},
    sync::OnceLock,
};

use crate::process::ask;

/// What this program is nicer by than usual; the others are as usual.
const NICENESS: i32 = -10;

static IS_RAISED: OnceLock<bool> = OnceLock::new();

/// Takes precedence, where that is allowed. Before any thread is started: each has its own, and
/// inherits it.
pub(crate) fn raise() {
    let mut command = Command::new("renice");
    command.args([
        "-n",
        &NICENESS.to_string(),
        "-p",
        &process::id().to_string(),
    ]);
    let is_raised = ask(&mut command).is_ok();
    if !is_raised {
        eprintln!("no precedence for the measurement itself: not allowed, or no renice");
    }
    IS_RAISED.get_or_init(|| is_raised);
}

/// What goes before a program that is to be as usual.
pub(crate) fn ordinary() -> Vec<String> {
    match IS_RAISED.get() {
        Some(true) => vec!["nice".into(), "-n".into(), (-NICENESS).to_string()],
        _ => Vec::new(),
    }
}
