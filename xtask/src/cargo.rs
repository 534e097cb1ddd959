//! Running cargo on the parts of this project.

use std::{
    env,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
    sync::OnceLock,
};

use crate::Result;

/// The root of the project that `cargo xtask` was called in: several may share a target folder.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let package = env::var_os("CARGO_MANIFEST_DIR");
        let package = package.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let root = Path::new(&package).parent();
        root.expect("this crate is a folder of the workspace")
            .into()
    })
}

/// The folder that cargo builds into, as an absolute path.
pub(crate) fn target() -> Result<PathBuf> {
    // This program is TARGET/PROFILE/xtask, wherever environment and configuration put TARGET.
    let own =
        env::current_exe().map_err(|error| format!("cannot find the own program: {error}"))?;
    let target = own.parent().and_then(Path::parent);
    let target = target.ok_or("the own program is not in a target folder")?;
    Ok(target.into())
}

/// The `me2` binary that [`build_me2`] builds, as an absolute path.
pub(crate) fn me2() -> Result<PathBuf> {
    Ok(target()?.join("release/me2"))
}

/// Builds `me2` for use, with the probes and the guest that it embeds. Progress goes to stderr.
pub(crate) fn build_me2() -> Result {
    build("me2-user")
}

/// Builds the client that the lab's database has; gives the absolute path of its binary.
pub(crate) fn checker() -> Result<PathBuf> {
    build("me2-checker")?;
    Ok(target()?.join("release/checker"))
}

/// Builds the binaries of one package for use. Progress goes to stderr.
pub(crate) fn build(package: &str) -> Result {
    run(cargo().args(["build", "--release", "--package", package]))
}

/// Builds the workload guest by itself, as other VMMs take it; gives the absolute path of its ELF.
pub(crate) fn build_guest() -> Result<PathBuf> {
    const TARGET: &str = "x86_64-unknown-linux-gnu";
    let target = target()?.join("guest");
    let mut cargo = cargo();
    cargo
        .args(["build", "--release", "--locked", "--bin", "me2-guest"])
        .args(["--manifest-path", "me2-guest/Cargo.toml"])
        .args(["--target", TARGET, "--target-dir"])
        .arg(&target);
    // Meant for programs of this host: the guest does not switch on all that its processor has.
    for variable in ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER"] {
        cargo.env_remove(variable);
    }
    // Empty, it comes before the flags that a configuration has.
    run(cargo.env("CARGO_ENCODED_RUSTFLAGS", ""))?;
    Ok(target.join(TARGET).join("release/me2-guest"))
}

/// Becomes the binary `name` of a package that was built with [`build`]: its signals, its terminal
/// and its exit status are then those of this process. Returns only if that fails.
pub(crate) fn become_binary(name: &str, prepare: impl FnOnce(&mut Command)) -> Result<ExitCode> {
    let path = target()?.join("release").join(name);
    let mut command = without_own_environment(Command::new(&path));
    prepare(&mut command);
    let error = command.exec();
    Err(format!("cannot run {}: {error}", path.display()))
}

/// Cargo in the root of the project, with the environment in which this program was called.
pub(crate) fn cargo() -> Command {
    let cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let mut cargo = without_own_environment(cargo);
    cargo.current_dir(root());
    cargo
}

/// Takes back what `cargo run` adds about this crate: it would make build scripts of others start
/// over.
fn without_own_environment(mut command: Command) -> Command {
    const ADDED: [&str; 5] = [
        "CARGO_BIN_",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_PACKAGE",
    ];
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ADDED.iter().any(|added| text.starts_with(added)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs a command to its end, with this program's terminal.
pub(crate) fn run(command: &mut Command) -> Result {
    let shown = show(command);
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed ({status})")),
        Err(error) => Err(format!("cannot run `{shown}`: {error}")),
    }
}

/// A command as a person would type it.
pub(crate) fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let words = program.into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
