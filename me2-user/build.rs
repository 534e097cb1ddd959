//! Builds what me2 embeds but cargo cannot build along with it, because the targets differ: the
//! probes (me2-ebpf, as a BPF object) and the built-in workload guest (me2-guest, as a freestanding
//! PVH ELF).
//!
//! Sets for the crate: `ME2_EBPF_OBJECT_PATH` and `ME2_GUEST_PATH`, absolute paths for
//! `include_bytes!`.
//!
//! Read from the environment:
//! - `ME2_WITHOUT_PROBES=1`: leave an empty object; me2 then runs without probes.
//! - `ME2_TOOLCHAIN`: where `cargo xtask setup` put bpf-linker; default
//!   `~/.local/share/me2/toolchain`.
//! - `ME2_EBPF_RUSTC`: a Rust compiler with a ready `core` for the BPF target.

use std::{
    env,
    ffi::OsString,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

const BPF_TARGET: &str = "bpfel-unknown-none";
const GUEST_TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where Debian's rustc-web lands, whose `core` for BPF is in libstd-rust-web-dev-bpf.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            println!("cargo::error={message}");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this crate is a folder of the workspace");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for crate_name in ["me2-common", "me2-ebpf", "me2-guest"] {
        watch(&root.join(crate_name))?;
    }
    for variable in ["ME2_WITHOUT_PROBES", "ME2_TOOLCHAIN", "ME2_EBPF_RUSTC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=build.rs");

    let object = out.join("me2-ebpf.o");
    if env::var("ME2_WITHOUT_PROBES").is_ok_and(|value| !["", "0"].contains(&value.as_str())) {
        fs::write(&object, []).map_err(|error| format!("{}: {error}", object.display()))?;
        println!("cargo::warning=built without probes (ME2_WITHOUT_PROBES is set)");
    } else {
        build_probes(&root.join("me2-ebpf"), &out.join("ebpf-target"), &object)?;
    }
    println!("cargo::rustc-env=ME2_EBPF_OBJECT_PATH={}", object.display());

    let guest = out.join("me2-guest.elf");
    build_guest(&root.join("me2-guest"), &out.join("guest-target"), &guest)?;
    println!("cargo::rustc-env=ME2_GUEST_PATH={}", guest.display());
    Ok(())
}

/// Has cargo run this again when a source of the crate in `folder` changes; its build output does
/// not count.
fn watch(folder: &Path) -> Result<(), String> {
    let error = |error: io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        let name = entry.file_name();
        if name != "target" && !name.to_string_lossy().ends_with(".md") {
            println!("cargo::rerun-if-changed={}", entry.path().display());
        }
    }
    Ok(())
}

fn build_probes(source: &Path, target_dir: &Path, object: &Path) -> Result<(), String> {
    let missing = |what| {
        format!(
            "{what} is missing: run `cargo xtask setup`, or set ME2_WITHOUT_PROBES=1 to build \
             without probes"
        )
    };
    let linker = bpf_linker().ok_or_else(|| missing("bpf-linker"))?;
    let toolchain = BpfToolchain::find();
    let toolchain = toolchain.ok_or_else(|| missing("a Rust compiler for BPF"))?;
    let mut cargo = toolchain.cargo_build();
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    cargo
        .args(["--target", BPF_TARGET])
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", linker);
    let bpf_arch = format!("--cfg=bpf_target_arch=\"{arch}\"");
    let flags = [bpf_arch.as_str(), "-Cdebuginfo=2", "-Clink-arg=--btf"];
    run(cargo, source, target_dir, &flags)?;
    let built = target_dir.join(BPF_TARGET).join("release/me2-ebpf");
    copy(&built, object)
}

fn build_guest(source: &Path, target_dir: &Path, elf: &Path) -> Result<(), String> {
    let mut cargo = clean(env::var_os("CARGO").expect("cargo sets CARGO"));
    cargo
        .env("RUSTC", env::var_os("RUSTC").expect("cargo sets RUSTC"))
        .args(["build", "--bin", "me2-guest", "--target", GUEST_TARGET]);
    run(cargo, source, target_dir, &[])?; // its own build script says how it is linked
    copy(
        &target_dir.join(GUEST_TARGET).join("release/me2-guest"),
        elf,
    )
}

/// Runs a `cargo build` that has its toolchain and target, in release, with these flags for rustc.
fn run(
    mut cargo: Command,
    source: &Path,
    target_dir: &Path,
    rustflags: &[&str],
) -> Result<(), String> {
    cargo
        .args(["--release", "--locked", "--target-dir"])
        .arg(target_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags.join("\u{1f}"))
        .current_dir(source);
    let name = source.file_name().unwrap_or_default().display();
    match cargo.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{name} does not build ({status}), see below")),
        Err(error) => Err(format!("cannot run {cargo:?}: {error}")),
    }
}

/// What can compile for the BPF target.
enum BpfToolchain {
    /// A stable compiler that comes with `core` for the target.
    Ready(OsString),
    /// rustup's nightly, which builds `core` from rust-src.
    Nightly,
}

impl BpfToolchain {
    fn find() -> Option<Self> {
        let chosen = env::var_os("ME2_EBPF_RUSTC");
        for rustc in chosen.into_iter().chain([DEBIAN_RUSTC.into()]) {
            let core = format!("lib/rustlib/{BPF_TARGET}/lib");
            if sysroot(clean(&rustc)).is_some_and(|sysroot| sysroot.join(core).is_dir()) {
                return Some(Self::Ready(rustc));
            }
        }
        let source = sysroot(nightly("rustc"))?.join("lib/rustlib/src/rust/library/core");
        source.is_dir().then_some(Self::Nightly)
    }

    fn cargo_build(&self) -> Command {
        match self {
            Self::Ready(rustc) => {
                let mut cargo = clean(env::var_os("CARGO").expect("cargo sets CARGO"));
                cargo.arg("build").env("RUSTC", rustc);
                // aya-ebpf uses inline assembly of BPF, which is not stable yet.
                cargo.env("RUSTC_BOOTSTRAP", "aya_ebpf");
                cargo
            }
            Self::Nightly => {
                let mut cargo = nightly("cargo");
                cargo.args(["build", "-Z", "build-std=core"]);
                cargo
            }
        }
    }
}

fn nightly(program: &str) -> Command {
    let mut rustup = clean("rustup");
    rustup
        .env_remove("RUSTUP_TOOLCHAIN")
        .args(["run", "nightly", program]);
    rustup
}

fn sysroot(mut rustc: Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok()?;
    let path = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| path.trim().into())
}

/// bpf-linker as `cargo xtask setup` installed it, or else in PATH.
fn bpf_linker() -> Option<PathBuf> {
    let toolchain = match env::var_os("ME2_TOOLCHAIN") {
        Some(toolchain) => Some(PathBuf::from(toolchain)),
        None => env::var_os("HOME").map(|home| Path::new(&home).join(".local/share/me2/toolchain")),
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = toolchain.map(|toolchain| toolchain.join("bin"));
    let mut candidates = folders
        .into_iter()
        .chain(env::split_paths(&path))
        .map(|folder| folder.join("bpf-linker"));
    candidates.find(|candidate| candidate.is_file())
}

/// A command into which nothing of the outer build leaks: what cargo tells build scripts (and the
/// flags, wrappers and profiles that were chosen for the outer target) would otherwise apply to the
/// inner one.
fn clean(program: impl AsRef<std::ffi::OsStr>) -> Command {
    const KEPT: [&str; 5] = [
        "CARGO_HOME",
        "CARGO_HTTP_",
        "CARGO_NET_",
        "CARGO_REGISTR",
        "CARGO_TERM_",
    ];
    const REMOVED: [&str; 13] = [
        "DEBUG",
        "HOST",
        "LD_LIBRARY_PATH",
        "MAKEFLAGS",
        "MFLAGS",
        "NUM_JOBS",
        "OPT_LEVEL",
        "OUT_DIR",
        "PROFILE",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "TARGET",
    ];
    let mut command = Command::new(program);
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        let of_cargo = text.starts_with("CARGO") && !KEPT.iter().any(|kept| text.starts_with(kept));
        let of_rustc = text == "RUSTC" || text.starts_with("RUSTC_") || text.starts_with("DEP_");
        if of_cargo || of_rustc || REMOVED.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command
}

fn copy(from: &Path, to: &Path) -> Result<(), String> {
    fs::copy(from, to)
        .map(drop)
        .map_err(|error| format!("{}: {error}", from.display()))
}
