//! QEMU, to compare with and to run the nested lab in: from the release's backports where they can
//! be had.

use std::process::Command;

use super::{
    apt::{self, Package},
    backports::Backports,
    in_path, tell,
};
use crate::Result;

const PROGRAM: &str = "qemu-system-x86_64";
const PACKAGE: Package = Package {
    name: "qemu-system-x86",
    why: "QEMU, to compare with and to emulate machines",
};
/// What Debian 12 has in its backports; its own is 7.
const MAJOR_WANTED: u32 = 10;

/// Installs QEMU where it is missing or older than what is wanted, as new as this Debian has it;
/// says on stderr if that is less.
///
/// # Errors
/// If there is no QEMU in the end. An old one will do.
pub(crate) fn ensure_qemu() -> Result {
    let present = version();
    if major(present.as_deref()) >= MAJOR_WANTED {
        return Ok(());
    }
    match (install_backport(), &present) {
        (Ok(()), _) => Ok(()),
        (Err(error), Some(present)) => {
            tell(&format!(
                "QEMU {MAJOR_WANTED} is not to be had ({error}); staying with {present}"
            ));
            Ok(())
        }
        (Err(error), None) => {
            tell(&format!(
                "QEMU {MAJOR_WANTED} is not to be had ({error}); taking the release's own"
            ));
            apt::install(&[PACKAGE])
        }
    }
}

/// The installed version, such as `10.0.2`.
pub(crate) fn version() -> Option<String> {
    let program = in_path(PROGRAM)?;
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, rest) = text.split_once(" version ")?;
    rest.split_whitespace().next().map(str::to_owned)
}

fn major(version: Option<&str>) -> u32 {
    let digits = version.and_then(|version| version.split('.').next());
    digits
        .and_then(|digits| digits.parse().ok())
        .unwrap_or_default()
}

fn install_backport() -> Result {
    let backports = Backports::open(|suite, mirror| {
        let Package { name, why } = PACKAGE;
        tell(&format!(
            "installing {name} from {suite}, taken from {mirror} this once: {why}"
        ));
    })?;
    let mut install = apt::install_command(&backports.options());
    install.args(["--target-release", backports.suite(), PACKAGE.name]);
    apt::run_quietly(backports.privilege().raise(&install))?;
    match version() {
        Some(version) if major(Some(&version)) >= MAJOR_WANTED => {
            tell(&format!("QEMU is now {version}"));
            Ok(())
        }
        found => Err(format!(
            "{} has {}",
            backports.suite(),
            found.as_deref().unwrap_or("none")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::major;

    #[test]
    fn versions_are_compared_by_their_first_number() {
        assert_eq!(major(Some("10.0.2")), 10);
        assert_eq!(major(Some("7.2.22")), 7);
        assert_eq!(major(Some("git")), 0);
        assert_eq!(major(None), 0);
    }
}
