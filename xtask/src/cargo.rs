//! Running cargo on the parts of this project.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::Result;

/// The root of the project.
pub(crate) fn root() -> &'static Path {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    root.expect("this crate is a folder of the workspace")
}

/// The `me2` binary that [`build_me2`] builds, as an absolute path.
pub(crate) fn me2() -> Result<PathBuf> {
    // This program is TARGET/PROFILE/xtask, wherever environment and configuration put TARGET.
    let own =
        env::current_exe().map_err(|error| format!("cannot find the own program: {error}"))?;
    let target = own.parent().and_then(Path::parent);
    let target = target.ok_or("the own program is not in a target folder")?;
    Ok(target.join("release/me2"))
}

/// Builds `me2` for use, with the probes and the guest that it embeds. Progress goes to stderr.
pub(crate) fn build_me2() -> Result {
    run(cargo().args(["build", "--release", "--package", "me2-user"]))
}

/// Cargo in the root of the project, with the environment in which this program was called: what
/// `cargo run` adds about this crate would make build scripts of others start over.
pub(crate) fn cargo() -> Command {
    const ADDED: [&str; 5] = [
        "CARGO_BIN_",
        "CARGO_CRATE_NAME",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_PRIMARY_PACKAGE",
    ];
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root());
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if ADDED.iter().any(|added| text.starts_with(added)) {
            cargo.env_remove(&name);
        }
    }
    cargo
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
fn show(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name();
    let words = program.into_iter().chain(command.get_args());
    let words: Vec<_> = words.map(|word| word.to_string_lossy()).collect();
    words.join(" ")
}
