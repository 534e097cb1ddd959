//! The backports of this Debian: newer packages, built for it.
//!
//! They need not be among the machine's sources: for one use they are added to a copy of these, in a
//! folder of its own, so that nothing of it stays.

use std::{
    env, fs,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    apt::{self, Privilege},
    tell,
};
use crate::Result;

/// The keys of Debian's archive, backports included, where its package puts them.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The machine's apt sources with those of the backports, and package lists of their own; gone when
/// dropped.
pub(super) struct Backports {
    suite: String,
    folder: PathBuf,
    privilege: Privilege,
}

impl Backports {
    /// Fetches the lists; `tell` is told before, from which suite and mirror.
    ///
    /// # Errors
    /// If this is no Debian with a mirror, or without root's rights.
    pub(super) fn open(tell: impl FnOnce(&str, &str)) -> Result<Self> {
        let codename = codename().ok_or("this is no Debian")?;
        let suite = format!("{codename}-backports");
        let mirror = mirror(&codename).ok_or("apt knows no mirror of this release")?;
        let privilege = Privilege::find().ok_or("installing takes root or sudo")?;
        tell(&suite, &mirror);
        let signed = match Path::new(KEYRING).exists() {
            true => format!("[signed-by={KEYRING}] "),
            false => String::new(),
        };
        let more = format!("deb {signed}{mirror} {suite} main\n");
        let backports = Self::copy(suite, privilege, &more)?;
        let update = apt::apt_get(&backports.options(), "update");
        apt::run_quietly(backports.privilege.raise(&update))?;
        Ok(backports)
    }

    pub(super) fn suite(&self) -> &str {
        &self.suite
    }

    pub(super) fn privilege(&self) -> &Privilege {
        &self.privilege
    }

    fn copy(suite: String, privilege: Privilege, more: &str) -> Result<Self> {
        let folder = env::temp_dir().join(format!("me2-apt-{}", std::process::id()));
        let error = |error| format!("cannot prepare {}: {error}", folder.display());
        // Readable for the user as whom apt downloads; fails on what somebody else put there.
        let mut builder = fs::DirBuilder::new();
        builder.mode(0o755).create(&folder).map_err(error)?;
        let backports = Self {
            suite,
            folder: folder.clone(),
            privilege,
        };
        backports.fill(more).map_err(error)?;
        Ok(backports)
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

    /// For apt's programs, so that they use these.
    pub(super) fn options(&self) -> Vec<String> {
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

impl Drop for Backports {
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
