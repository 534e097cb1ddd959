//! `cargo xtask link`: an emulated link, from a fresh checkout in one command.

use std::process::ExitCode;

use crate::{
    Result,
    cargo::{become_binary, build},
    setup,
};

/// Installs what is missing, builds `me2-link`, and becomes it.
pub(crate) fn link(arguments: &[String]) -> Result<ExitCode> {
    setup::setup()?;
    setup::ensure_ip()?;
    build("me2-link")?;
    become_binary("me2-link", |command| {
        command.args(arguments);
    })
}
