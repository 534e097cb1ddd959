//! `cargo xtask test`: all tests, the end-to-end ones with the release build that users run.

use std::time::Instant;

use crate::{
    Result,
    cargo::{cargo, me2, run},
    setup,
};

/// Builds, then runs all tests; `arguments` go to the workspace's `cargo test`.
///
/// The end-to-end tests find the binary by the environment variable `ME2_BIN`.
pub(crate) fn test(arguments: &[String]) -> Result {
    let start = Instant::now();
    let result = build_and_test(arguments);
    let verdict = if result.is_ok() { "passed" } else { "FAILED" };
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("cargo xtask test: {verdict} after {seconds:.1} s");
    result
}

fn build_and_test(arguments: &[String]) -> Result {
    setup::setup()?;
    // For the tests of the emulated link.
    setup::ensure_ip()?;
    // All at once: crates that tests alone need switch on features of others, and would have me2
    // built twice.
    run(cargo().args(["build", "--release", "--workspace", "--all-targets"]))?;
    // The guest is no part of the workspace, because it is linked on its own; only its library has
    // tests.
    run(cargo().args(["test", "--lib", "--manifest-path", "me2-guest/Cargo.toml"]))?;
    run(cargo()
        .args(["test", "--workspace", "--release"])
        .args(arguments)
        .env("ME2_BIN", me2()?))
}
