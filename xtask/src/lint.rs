//! `cargo xtask lint`: formatting and lints of every part.

use crate::{
    Result,
    cargo::{cargo, run},
    setup,
};

/// Fails on anything that is not formatted, and on every warning.
pub(crate) fn lint() -> Result {
    run(cargo().args(["fmt", "--all", "--check"]))?;
    for apart in ["me2-ebpf", "me2-guest", "fuzz"] {
        let manifest = format!("{apart}/Cargo.toml");
        run(cargo().args(["fmt", "--check", "--manifest-path", &manifest]))?;
    }
    setup::setup()?; // clippy runs build scripts
    // Not me2-ebpf: the compilers that know its target come without clippy.
    for part in [
        ["--workspace"].as_slice(),
        &["--manifest-path", "me2-guest/Cargo.toml"],
    ] {
        let mut clippy = cargo();
        clippy.arg("clippy").args(part);
        run(clippy.args(["--all-targets", "--", "--deny", "warnings"]))?;
    }
    Ok(())
}
