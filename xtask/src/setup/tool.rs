//! Programs that are cargo subcommands: built once, in a folder that names the version.

use std::path::PathBuf;

use super::{bpf::toolchain, tell};
use crate::{
    Result,
    cargo::{cargo, run},
};

/// A program of crates.io.
pub(super) struct Tool {
    pub(super) name: &'static str,
    pub(super) version: &'static str,
    /// What it does, and how long building it takes.
    pub(super) why: &'static str,
    /// For `cargo install`.
    pub(super) options: &'static [&'static str],
}

impl Tool {
    /// Builds it, unless it is there; gives the program.
    pub(super) fn ensure(&self) -> Result<PathBuf> {
        let Self { name, version, .. } = self;
        let root = toolchain()?.join(format!("{name}-{version}"));
        let binary = root.join("bin").join(name);
        if binary.is_file() {
            return Ok(binary);
        }
        tell(&format!(
            "building {name} {version}, which {}, into {}",
            self.why,
            root.display()
        ));
        let mut install = cargo();
        install
            .args(["install", name, "--quiet", "--locked"])
            .args(["--version", version, "--root"])
            .arg(&root)
            .args(self.options)
            .env_remove("CARGO_TARGET_DIR");
        run(&mut install)?;
        Ok(binary)
    }
}
