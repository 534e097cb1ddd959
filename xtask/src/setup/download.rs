//! Debian packages that are taken apart rather than installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{
    apt::{Privilege, apt_get, run_quietly},
    backports::Backports,
    in_path, tell,
};
use crate::Result;

/// Unpacks a package of this release into the new folder `into`; takes no privilege, unless the
/// package lists are missing or out of date.
///
/// # Errors
/// If apt has no such package here, or cannot get it.
pub(crate) fn unpack(package: &str, into: &Path) -> Result {
    with_fresh_lists(package, || download(&[], package, into))?;
    extract(package, into)
}

/// Unpacks the newest package of the release's backports whose name begins and ends so, into the new
/// folder `into`; needs root's rights, and leaves nothing else.
///
/// # Errors
/// If there are no backports here, or no such package in them.
pub(crate) fn unpack_backport(begin: &str, end: &str, into: &Path) -> Result {
    let backports = Backports::open(|suite, mirror| {
        tell(&format!(
            "looking for {begin}…{end} in {suite}, at {mirror}"
        ));
    })?;
    let mut names = Command::new("apt-cache");
    let names = names.args(backports.options()).args(["pkgnames", begin]);
    let output = names.output();
    let output = output.map_err(|error| format!("cannot run apt-cache: {error}"))?;
    let package = newest(&String::from_utf8_lossy(&output.stdout), end)
        .ok_or_else(|| format!("{} has no package {begin}…{end}", backports.suite()))?;
    download(&backports.options(), &package, into)?;
    extract(&package, into)
}

fn download(options: &[String], package: &str, into: &Path) -> Result {
    fs::create_dir_all(into).map_err(|error| format!("{}: {error}", into.display()))?;
    let mut options = options.to_vec();
    // As root, apt would use a user who may not see this folder.
    options.extend(["-o".to_owned(), "APT::Sandbox::User=root".to_owned()]);
    let mut download = apt_get(&options, "download");
    download.arg(package).current_dir(into);
    run_quietly(download)
}

/// Unpacks what was downloaded into this folder, and removes the archive.
fn extract(package: &str, folder: &Path) -> Result {
    let archive = archive(folder).ok_or_else(|| format!("apt-get downloaded no {package}"))?;
    let mut extract = Command::new("dpkg-deb");
    extract.arg("--extract").arg(&archive).arg(folder);
    run_quietly(extract)?;
    fs::remove_file(&archive).map_err(|error| format!("{}: {error}", archive.display()))
}

/// The package that `package` stands for: its first dependency whose name starts with `prefix`.
///
/// # Errors
/// If apt knows no such package here.
pub(crate) fn resolve(package: &str, prefix: &str) -> Result<String> {
    with_fresh_lists(package, || {
        let mut depends = Command::new("apt-cache");
        depends.args(["depends", package]).stderr(Stdio::null());
        let output = depends.output();
        let output = output.map_err(|error| format!("cannot run apt-cache: {error}"))?;
        dependency(&String::from_utf8_lossy(&output.stdout), prefix)
            .ok_or_else(|| format!("apt knows no package {package}"))
    })
}

/// Tries, and tries once more after an `apt-get update` where that is possible.
fn with_fresh_lists<T>(package: &str, attempt: impl Fn() -> Result<T>) -> Result<T> {
    if in_path("apt-get").is_none() {
        return Err(format!(
            "{package} comes from Debian, and this system has no apt-get"
        ));
    }
    let first = match attempt() {
        Ok(done) => return Ok(done),
        Err(error) => error,
    };
    let Some(privilege) = Privilege::find() else {
        return Err(format!("{first}; perhaps `sudo apt-get update` helps"));
    };
    tell("refreshing the package lists");
    run_quietly(privilege.raise(&apt_get(&[], "update")))?;
    attempt()
}

fn archive(folder: &Path) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.find(|path| path.extension().is_some_and(|extension| extension == "deb"))
}

/// Of the names with this end, the one with the highest numbers in it.
fn newest(names: &str, end: &str) -> Option<String> {
    let numbers = |name: &&str| -> Vec<u64> {
        let digits = name.split(|character: char| !character.is_ascii_digit());
        digits.filter_map(|number| number.parse().ok()).collect()
    };
    let names = names.lines().filter(|name| name.ends_with(end));
    names.max_by_key(numbers).map(str::to_owned)
}

fn dependency(listing: &str, prefix: &str) -> Option<String> {
    let mut names = listing
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "));
    names
        .find(|name| name.starts_with(prefix))
        .map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::{dependency, newest};

    #[test]
    fn the_dependency_is_found() {
        let listing = "linux-image-cloud-amd64\n  PreDepends: x\n  Depends: <debconf>\n  \
                       Depends: linux-image-6.1.0-1-cloud-amd64\n  Recommends: linux-image-x\n";
        let found = dependency(listing, "linux-image-");
        assert_eq!(found.as_deref(), Some("linux-image-6.1.0-1-cloud-amd64"));
        assert_eq!(dependency(listing, "busybox"), None);
    }

    #[test]
    fn the_newest_is_taken_by_numbers_not_by_letters() {
        let names = "linux-image-6.12.9+bpo-cloud-amd64\nlinux-image-6.12.43+deb12-cloud-amd64\n\
                     linux-image-6.12.99+deb12-amd64\nlinux-image-6.12.43+deb12-cloud-amd64-unsigned\n";
        let found = newest(names, "-cloud-amd64");
        assert_eq!(
            found.as_deref(),
            Some("linux-image-6.12.43+deb12-cloud-amd64")
        );
        assert_eq!(newest(names, "-arm64"), None);
    }
}
