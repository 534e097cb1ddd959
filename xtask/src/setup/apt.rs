//! Installing Debian packages: as root, or through a sudo that asks for nothing, or not at all.

use std::{
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    process::{Command, Stdio},
};

use super::{bpf, in_path, tell};
use crate::{Result, cargo::show};

/// How long to wait for another package manager to finish.
const LOCK_TIMEOUT_SECONDS: u32 = 300;

/// A package, and what it is for.
#[derive(Clone, Copy)]
pub(super) struct Package {
    /// Its name in Debian.
    pub(super) name: &'static str,
    /// What of this project needs it: the end of "… is missing".
    pub(super) why: &'static str,
}

/// Installs `packages`. Nothing is ever removed for them.
///
/// # Errors
/// If this is no Debian, if neither root nor sudo is at hand (with the command to type), or if apt
/// fails.
pub(super) fn install(packages: &[Package]) -> Result {
    if in_path("apt-get").is_none() || !Path::new("/etc/debian_version").exists() {
        let missing: Vec<_> = packages.iter().map(|package| package.why).collect();
        return Err(format!(
            "this is no Debian-like system, and setup does not know how to install here: {}; {}",
            missing.join(", and "),
            bpf::BY_HAND
        ));
    }
    let Some(privilege) = Privilege::find() else {
        let names: Vec<_> = packages.iter().map(|package| package.name).collect();
        return Err(format!(
            "packages are missing and need root: \
             sudo apt-get update && sudo apt-get install --no-install-recommends {}",
            names.join(" ")
        ));
    };
    for package in packages {
        tell(&format!("installing {}: {}", package.name, package.why));
    }
    let compiler = in_path("rustc");
    // Without fresh lists the names may be unknown; should a mirror be down, the lists at hand may
    // do.
    if let Err(error) = run_quietly(privilege.raise(&apt_get(&[], "update"))) {
        tell(&format!("going on with old package lists: {error}"));
    }
    let mut install = install_command(&[]);
    install.args(packages.iter().map(|package| package.name));
    run_quietly(privilege.raise(&install))?;
    if in_path("rustc") != compiler {
        tell("/usr/bin/rustc now comes first in PATH; put ~/.cargo/bin before /usr/bin");
    }
    Ok(())
}

/// `apt-get COMMAND` with `options` (each an argument of its own), which says little.
pub(super) fn apt_get(options: &[String], command: &str) -> Command {
    let mut apt = Command::new("apt-get");
    let lock = format!("DPkg::Lock::Timeout={LOCK_TIMEOUT_SECONDS}");
    apt.args(["-qq", "-o", &lock]).args(options).arg(command);
    apt
}

/// `apt-get install` that asks nothing and removes nothing; packages are still to be added.
pub(super) fn install_command(options: &[String]) -> Command {
    let mut install = apt_get(options, "install");
    // Recommended packages include a cargo that nobody asked for.
    install.args(["--yes", "--no-remove", "--no-install-recommends"]);
    install
}

/// How root's rights can be had.
pub(super) enum Privilege {
    Root,
    Sudo,
}

impl Privilege {
    pub(super) fn find() -> Option<Self> {
        let root = fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
        if root {
            return Some(Self::Root);
        }
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        sudo.status()
            .is_ok_and(|status| status.success())
            .then_some(Self::Sudo)
    }

    /// The command with the privilege, and without questions.
    pub(super) fn raise(&self, command: &Command) -> Command {
        let mut raised = match self {
            Self::Root => Command::new("env"),
            Self::Sudo => Command::new("sudo"),
        };
        if let Self::Sudo = self {
            raised.args(["-n", "env"]);
        }
        raised
            .arg("DEBIAN_FRONTEND=noninteractive")
            .arg(command.get_program())
            .args(command.get_args());
        raised
    }
}

/// Runs a command whose many lines matter only if it fails: then they go to stderr.
pub(super) fn run_quietly(mut command: Command) -> Result {
    let output = command.stdin(Stdio::null()).output();
    let shown = show(&command);
    let output = output.map_err(|error| format!("cannot run `{shown}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    for text in [output.stdout, output.stderr] {
        eprint!("{}", String::from_utf8_lossy(&text));
    }
    Err(format!("`{shown}` failed ({})", output.status))
}
