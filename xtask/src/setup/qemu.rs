//! QEMU, to compare with and to run the nested lab in: from the release's backports where they can
//! be had.
//!
//! The backports need not be among the machine's sources: for the one installation they are added
//! to a copy of these, in a folder of its own, so that nothing of it stays.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    apt::{self, Package, Privilege},
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
/// The keys of Debian's archive, backports included, where its package puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
    let codename = codename().ok_or("this is no Debian")?;
    let suite = format!("{codename}-backports");
    let mirror = mirror(&codename).ok_or("apt knows no mirror of this release")?;
    let privilege = Privilege::find().ok_or("installing takes root or sudo")?;
    tell(&format!(
        "installing {} from {suite}, taken from {mirror} this once: {}",
        PACKAGE.name, PACKAGE.why
    ));
    let signed = match Path::new(KEYRING).exists() {
        true => format!("[signed-by={KEYRING}] "),
        false => String::new(),
    };
    let lists = Lists::copy(&privilege, &format!("deb {signed}{mirror} {suite} main\n"))?;
    apt::run_quietly(privilege.raise(&apt::apt_get(&lists.options(), "update")))?;
    let mut install = apt::install_command(&lists.options());
    install.args(["--target-release", &suite, PACKAGE.name]);
    apt::run_quietly(privilege.raise(&install))?;
    match version() {
        Some(version) if major(Some(&version)) >= MAJOR_WANTED => {
            tell(&format!("QEMU is now {version}"));
            Ok(())
        }
        found => Err(format!(
            "{suite} has {}",
            found.as_deref().unwrap_or("none")
        )),
    }
}

/// `bookworm`, if this is Debian itself.
fn codename() -> Option<String> {
    let release = fs::read_to_string("/etc/os-release").ok()?;
    let value = |name: &str| {
        let mut lines = release.lines();
        let value = lines.find_map(|line| line.strip_prefix(name))?;
        Some(value.trim_matches('"').to_owned())
    };
    (value("ID=")? == "debian").then(|| value("VERSION_CODENAME="))?
}

/// Where apt takes this release from.
fn mirror(codename: &str) -> Option<String> {
    let mut targets = Command::new("apt-get");
    targets.args(["indextargets", "--format", "$(RELEASE) $(REPO_URI)"]);
    let output = targets.arg("Created-By: Packages").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines().filter_map(|line| line.split_once(' '));
    let found = lines.find(|(release, _)| *release == codename);
    found.map(|(_, mirror)| mirror.to_owned())
}

/// The machine's apt sources and one more, with package lists of their own; gone when dropped.
struct Lists<'privilege> {
    folder: PathBuf,
    privilege: &'privilege Privilege,
}

impl<'privilege> Lists<'privilege> {
    fn copy(privilege: &'privilege Privilege, more: &str) -> Result<Self> {
        let folder = env::temp_dir().join(format!("me2-apt-{}", std::process::id()));
        let error = |error| format!("cannot prepare {}: {error}", folder.display());
        // Readable for the user as whom apt downloads; fails on what somebody else put there.
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o755).create(&folder).map_err(error)?;
        let lists = Self {
            folder: folder.clone(),
            privilege,
        };
        lists.fill(more).map_err(error)?;
        Ok(lists)
    }

    fn fill(&self, more: &str) -> std::io::Result<()> {
        let parts = self.folder.join("parts");
        fs::create_dir(&parts)?;
        fs::create_dir_all(self.folder.join("lists/partial"))?;
        let system = Path::new("/etc/apt/sources.list");
        if system.exists() {
            fs::copy(system, self.folder.join("sources.list"))?;
        } else {
            fs::write(self.folder.join("sources.list"), [])?;
        }
        for entry in fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
        {
            let entry = entry?;
            if entry.path().is_file() {
                fs::copy(entry.path(), parts.join(entry.file_name()))?;
            }
        }
        fs::write(parts.join("me2-backports.list"), more)
    }

    fn options(&self) -> Vec<String> {
        let folder = self.folder.display();
        [
            format!("Dir::Etc::SourceList={folder}/sources.list"),
            format!("Dir::Etc::SourceParts={folder}/parts"),
            format!("Dir::State::Lists={folder}/lists"),
            // The ready-made index would be the machine's.
            "Dir::Cache::pkgcache=".into(),
            "Dir::Cache::srcpkgcache=".into(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".into(), option])
        .collect()
    }
}

impl Drop for Lists<'_> {
    fn drop(&mut self) {
        // What apt downloaded belongs to root.
        let mut remove = Command::new("rm");
        remove.args(["-rf", "--"]).arg(&self.folder);
        let removed = self.privilege.raise(&remove).status();
        if !removed.is_ok_and(|status| status.success()) {
            tell(&format!("cannot remove {}", self.folder.display()));
        }
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
