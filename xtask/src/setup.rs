//! `cargo xtask setup`: installs what a build needs and this machine lacks.
//!
//! Two things are looked for: libclang, for the crate `userfaultfd`, and a toolchain for the
//! probes: a Rust compiler for BPF and bpf-linker. Where nothing is missing, that takes a few file
//! look-ups and nothing is printed. Programs that only some commands need (`ip`, QEMU) have
//! functions of their own here.

mod apt;
mod backports;
mod bpf;
mod deb;
mod download;
mod fuzzer;
mod libclang;
mod qemu;
mod tool;

use std::{
    env,
    ffi::OsStr,
    path::{Path, PathBuf},
};

use crate::Result;
use apt::Package;
pub(crate) use deb::{ensure_cargo_deb, ensure_mmdebstrap, has};
pub(crate) use download::{resolve, unpack, unpack_backport};
pub(crate) use fuzzer::{ensure_fuzzer, nightly};
pub(crate) use qemu::{ensure_qemu, version as qemu_version};

const IPROUTE: Package = Package {
    name: "iproute2",
    why: "the program ip, which makes network namespaces",
};

/// Installs what is missing, says what and why on stderr, and does nothing if all is there.
pub(crate) fn setup() -> Result {
    let compiler = match with_probes() {
        true => bpf::Compiler::find(),
        false => Some(bpf::Compiler::NotNeeded),
    };
    let mut packages = Vec::new();
    if !libclang::is_installed() {
        packages.push(libclang::PACKAGE);
    }
    if compiler.is_none() {
        packages.extend(bpf::PACKAGES);
    }
    if !packages.is_empty() {
        apt::install(&packages)?;
    }
    match compiler.or_else(bpf::Compiler::find) {
        Some(compiler) => bpf::ensure_linker(&compiler),
        None => Err(format!(
            "still no Rust compiler for BPF after installing it: {}",
            bpf::BY_HAND
        )),
    }
}

/// Installs the program `ip` if it is missing.
pub(crate) fn ensure_ip() -> Result {
    match in_path("ip").is_some() || Path::new("/usr/sbin/ip").is_file() {
        true => Ok(()),
        false => apt::install(&[IPROUTE]),
    }
}

/// Where a program is that only administrators use.
pub(crate) fn system_program(name: &str) -> PathBuf {
    in_path(name).unwrap_or_else(|| Path::new("/usr/sbin").join(name))
}

/// Says on stderr what setup is about to do.
fn tell(what: &str) {
    eprintln!("setup: {what}");
}

fn with_probes() -> bool {
    let value = env::var("ME2_WITHOUT_PROBES").unwrap_or_default();
    ["", "0"].contains(&value.as_str())
}

/// The first program of this name in PATH.
fn in_path(name: impl AsRef<OsStr>) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|folder| folder.join(name.as_ref()))
        .find(|candidate| candidate.is_file())
}
