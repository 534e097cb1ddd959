//! What the fuzzer needs: a nightly compiler, which alone has sanitizers, and cargo-fuzz.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{in_path, tell, tool::Tool};
use crate::{Result, cargo::run};

const CARGO_FUZZ: Tool = Tool {
    name: "cargo-fuzz",
    version: "0.13.1",
    why: "builds and runs the fuzzer (1 minute)",
    options: &[],
};
const NIGHTLY: &str = "nightly";

/// Installs what is missing, and gives the program cargo-fuzz.
///
/// # Errors
/// If there is no rustup to install a compiler with, or no network.
pub(crate) fn ensure_fuzzer() -> Result<PathBuf> {
    if in_path("rustup").is_none() {
        return Err(
            "the fuzzer needs a nightly compiler, and there is no rustup to install it with: \
             https://rustup.rs"
                .into(),
        );
    }
    if !has_nightly() {
        tell("installing Rust's nightly compiler, for the fuzzer's sanitizers");
        let mut install = Command::new("rustup");
        install.args(["toolchain", "install", NIGHTLY, "--profile", "minimal"]);
        run(&mut install)?;
    }
    CARGO_FUZZ.ensure()
}

/// Cargo of the nightly toolchain: `program` and its arguments are to follow.
pub(crate) fn nightly() -> Command {
    let mut command = Command::new("rustup");
    command.args(["run", NIGHTLY]);
    command
}

fn has_nightly() -> bool {
    let mut ask = nightly();
    ask.args(["rustc", "--version"]);
    let status = ask.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
