//! What the fuzzer needs: a nightly compiler, which alone has sanitizers, and cargo-fuzz.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
};

use super::{bpf::toolchain, in_path, tell};
use crate::{
    Result,
    cargo::{cargo, run},
};

const CARGO_FUZZ_VERSION: &str = "0.13.1";
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
    ensure_cargo_fuzz()
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

fn ensure_cargo_fuzz() -> Result<PathBuf> {
    let root = toolchain()?.join(format!("cargo-fuzz-{CARGO_FUZZ_VERSION}"));
    let binary = root.join("bin/cargo-fuzz");
    if binary.is_file() {
        return Ok(binary);
    }
    tell(&format!(
        "building cargo-fuzz {CARGO_FUZZ_VERSION}, which builds and runs the fuzzer, into {} (1 minute)",
        root.display()
    ));
    let mut install = cargo();
    install
        .args(["install", "cargo-fuzz", "--quiet", "--locked"])
        .args(["--version", CARGO_FUZZ_VERSION, "--root"])
        .arg(&root)
        .env_remove("CARGO_TARGET_DIR");
    run(&mut install)?;
    Ok(binary)
}
