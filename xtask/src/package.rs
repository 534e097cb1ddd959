//! `cargo xtask package`: the Debian package, and with `--test` its trial in a clean system.

mod contents;
mod trial;

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use crate::{
    Result,
    cargo::{build_me2, cargo, me2, run, target},
    setup,
};

const USAGE: &str = "\
Usage: cargo xtask package [OPTIONS]

Makes the Debian package of me2 from the release build, in target/debian; prints its path.

Options:
  --test        then install it in a clean Debian 12 (made in target/package by mmdebstrap, with
                systemd as its first process), move VMs into and out of its units, and remove it;
                takes root, /dev/kvm, and the first time a Debian mirror
  -h, --help    show this text
";

/// Builds the package; `arguments` say whether it is tried.
pub(crate) fn run_command(arguments: &[String]) -> Result<ExitCode> {
    let is_tried = match arguments {
        [] => false,
        [only] if only == "--test" => true,
        [only] if only == "--help" || only == "-h" => {
            print!("{USAGE}");
            return Ok(ExitCode::SUCCESS);
        }
        [other, ..] => {
            eprint!("error: unexpected argument: {other}\n\n{USAGE}");
            return Ok(ExitCode::from(2));
        }
    };
    let package = build()?;
    if is_tried {
        check(&package)?;
        trial::run(&package)?;
    }
    println!("{}", package.display());
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<PathBuf> {
    setup::setup()?;
    let cargo_deb = setup::ensure_cargo_deb()?;
    build_me2()?;
    contents::generate(&me2()?)?;
    let package = target()?.join("debian/me2.deb");
    // What cargo hands to its subcommands, cargo-deb takes from the environment too.
    let mut make = Command::new(cargo_deb);
    let cargo = cargo();
    make.current_dir(crate::cargo::root())
        .args(["deb", "--no-build", "--quiet", "--package", "me2-user"])
        .arg("--output")
        .arg(&package)
        .env("CARGO", cargo.get_program())
        .env("CARGO_TARGET_DIR", target()?);
    run(&mut make)?;
    Ok(package)
}

/// What Debian's own checker has to say, where it is installed.
fn check(package: &Path) -> Result {
    if !setup::has("lintian") {
        eprintln!("package: SKIPPED lintian, which is not installed (apt-get install lintian)");
        return Ok(());
    }
    let mut lintian = Command::new("lintian");
    lintian.args(["--fail-on", "error", "--no-tag-display-limit"]);
    if trial::is_root() {
        lintian.arg("--allow-root");
    }
    run(lintian.arg(package))
}
