//! The toolchain for the probes: a Rust compiler that knows the BPF target, and bpf-linker.
//!
//! Debian packages the first, with `core` ready-made, and its LLVM as a shared library. bpf-linker
//! must understand the bitcode of the compiler, so it is built from source against that same
//! library, in a folder that names both versions.

use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use super::{apt::Package, in_path, tell};
use crate::{
    Result,
    cargo::{cargo, run},
};

/// What the build of the probes takes from Debian. Nothing of it comes before rustup's in PATH.
pub(super) const PACKAGES: [Package; 2] = [
    Package {
        name: "rustc-web",
        why: "a Rust compiler for the probes",
    },
    Package {
        name: "libstd-rust-web-dev-bpf",
        why: "its core library for BPF",
    },
];

/// What to do where setup cannot.
pub(super) const BY_HAND: &str = "for the probes, `rustup toolchain install nightly --component rust-src` and `cargo install \
     bpf-linker` do as well, and ME2_WITHOUT_PROBES=1 builds without them";

const BPF_LINKER_VERSION: &str = "0.13.0";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// What can compile the probes.
pub(super) enum Compiler {
    /// Debian's rustc-web.
    Debian,
    /// rustup's nightly with rust-src, set up by hand.
    Nightly,
    /// Probes are not wanted.
    NotNeeded,
}

impl Compiler {
    /// Looks for a compiler, as the build script of me2-user does.
    pub(super) fn find() -> Option<Self> {
        if Path::new(DEBIAN_RUSTC).is_file() && Path::new(DEBIAN_CORE).is_dir() {
            return Some(Self::Debian);
        }
        let home = env::var_os("RUSTUP_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(Path::new(&env::var_os("HOME")?).join(".rustup")))?;
        let name = format!("nightly-{}-unknown-linux-gnu", env::consts::ARCH);
        let source = home.join("toolchains").join(name);
        source
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
            .then_some(Self::Nightly)
    }
}

/// Builds bpf-linker for `compiler`, unless it is there.
pub(super) fn ensure_linker(compiler: &Compiler) -> Result {
    match compiler {
        Compiler::Debian => ensure_linker_for_debian(),
        Compiler::NotNeeded => Ok(()),
        Compiler::Nightly => {
            let installed = toolchain()?.join("bin/bpf-linker").is_file();
            match installed || in_path("bpf-linker").is_some() {
                true => Ok(()),
                false => Err("bpf-linker is missing: cargo install bpf-linker".into()),
            }
        }
    }
}

fn ensure_linker_for_debian() -> Result {
    let llvm = llvm_major()?;
    let name = format!("bpf-linker-{BPF_LINKER_VERSION}-llvm-{llvm}");
    let toolchain = toolchain()?;
    let root = toolchain.join(&name);
    let binary = root.join("bin/bpf-linker");
    let link = toolchain.join("bin/bpf-linker");
    let target = Path::new("..").join(&name).join("bin/bpf-linker");
    if binary.is_file() && fs::read_link(&link).is_ok_and(|present| present == target) {
        return Ok(());
    }
    if !binary.is_file() {
        build_linker(&root, &llvm)?;
    }
    let linked = replace_link(&link, &target);
    linked.map_err(|error| format!("cannot create {}: {error}", link.display()))
}

fn build_linker(root: &Path, llvm: &str) -> Result {
    tell(&format!(
        "building bpf-linker {BPF_LINKER_VERSION}, which links the probes, into {} (1-2 minutes)",
        root.display()
    ));
    // The build looks for the library by the name that only development packages have.
    let library = llvm_library(llvm)?;
    let prefix = root.join("llvm");
    let link = prefix.join("lib/libLLVM.so");
    replace_link(&link, &library)
        .map_err(|error| format!("cannot create {}: {error}", link.display()))?;
    let mut install = cargo();
    install
        .args(["install", "bpf-linker", "--quiet", "--locked"])
        .args(["--version", BPF_LINKER_VERSION, "--no-default-features"])
        .args(["--features", &format!("llvm-{llvm}"), "--force", "--root"])
        .arg(root)
        .env("LLVM_PREFIX", &prefix);
    // Chosen for other programs than this one.
    for variable in [
        "CARGO_TARGET_DIR",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "RUSTFLAGS",
    ] {
        install.env_remove(variable);
    }
    run(&mut install)
}

/// The major version of the LLVM inside Debian's compiler.
fn llvm_major() -> Result<String> {
    let output = Command::new(DEBIAN_RUSTC).arg("-vV").output();
    let output = output.map_err(|error| format!("cannot run {DEBIAN_RUSTC}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next());
    major
        .map(String::from)
        .ok_or_else(|| format!("{DEBIAN_RUSTC} -vV does not name its LLVM"))
}

/// The shared library that Debian's compiler is linked to, such as `libLLVM.so.22.1`.
fn llvm_library(major: &str) -> Result<PathBuf> {
    let folder = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let prefix = format!("libLLVM.so.{major}.");
    let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
    let mut found = entries.filter(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(&prefix)
    });
    let found = found.next().map(|entry| entry.path());
    found.ok_or_else(|| format!("no {prefix}* in {folder}, which {DEBIAN_RUSTC} should be using"))
}

/// Where setup installs; the build script of me2-user looks there.
pub(super) fn toolchain() -> Result<PathBuf> {
    if let Some(toolchain) = env::var_os("ME2_TOOLCHAIN") {
        return std::path::absolute(toolchain).map_err(|error| format!("ME2_TOOLCHAIN: {error}"));
    }
    match env::var_os("HOME") {
        Some(home) => Ok(Path::new(&home).join(".local/share/me2/toolchain")),
        None => Err("neither HOME nor ME2_TOOLCHAIN says where to install bpf-linker".into()),
    }
}

/// Makes `link` point to `target`, without a moment at which it does not exist: a build may be
/// using it.
fn replace_link(link: &Path, target: &Path) -> io::Result<()> {
    let folder = link.parent().expect("links lie in folders of ours");
    fs::create_dir_all(folder)?;
    let new = folder.join(format!(".new-{}", std::process::id()));
    symlink(target, &new)?;
    fs::rename(&new, link)
}
