//! What makes Debian packages, and clean systems to try them in.

use std::path::PathBuf;

use super::{
    apt::{self, Package},
    in_path,
    tool::Tool,
};
use crate::Result;

const CARGO_DEB: Tool = Tool {
    name: "cargo-deb",
    version: "3.8.0",
    why: "makes Debian packages (1-2 minutes)",
    // Without its compressors: Debian has xz and gzip as programs.
    options: &["--no-default-features"],
};
const SHLIBDEPS: Package = Package {
    name: "dpkg-dev",
    why: "dpkg-shlibdeps, which finds the libraries that a package needs",
};
const BOOTSTRAP: Package = Package {
    name: "mmdebstrap",
    why: "a clean system to install the package in",
};

/// Installs what is missing, and gives the program cargo-deb.
///
/// # Errors
/// If it cannot be built, for want of a network.
pub(crate) fn ensure_cargo_deb() -> Result<PathBuf> {
    if in_path("dpkg-shlibdeps").is_none() {
        apt::install(&[SHLIBDEPS])?;
    }
    CARGO_DEB.ensure()
}

/// Installs the program that makes a Debian system in a folder, if it is missing.
pub(crate) fn ensure_mmdebstrap() -> Result {
    match in_path("mmdebstrap") {
        Some(_) => Ok(()),
        None => apt::install(&[BOOTSTRAP]),
    }
}

/// Whether there is a program of this name.
pub(crate) fn has(program: &str) -> bool {
    in_path(program).is_some()
}
