//! `cargo xtask faults`: migrations with failures, from a fresh checkout in one command.

use std::process::ExitCode;

use crate::{
    Result,
    cargo::{become_binary, build, build_me2, me2},
    setup,
};

/// Installs what is missing, builds everything, and becomes `me2-faults`, which finds `me2` by the
/// environment variable `ME2_BIN`.
pub(crate) fn faults(arguments: &[String]) -> Result<ExitCode> {
    setup::setup()?;
    build_me2()?;
    let me2 = me2()?;
    build("me2-tests")?;
    become_binary("me2-faults", |command| {
        command.args(arguments).env("ME2_BIN", me2);
    })
}
