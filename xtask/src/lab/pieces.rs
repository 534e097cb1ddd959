//! What the lab's machine is made of and this project does not have: Debian's kernel for virtual
//! machines, busybox, and a database. Taken out of their packages once, and kept; nothing is installed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Result, setup};

/// Stands for the package of the kernel that the release has now.
const KERNEL_PACKAGE: &str = "linux-image-cloud-amd64";
/// How the packages begin and end that have a kernel.
const KERNEL_PREFIX: &str = "linux-image-";
const KERNEL_END: &str = "-cloud-amd64";
const BUSYBOX_PACKAGE: &str = "busybox-static";
/// Redis, and those of its libraries that a small Debian lacks.
const DATABASE_PACKAGES: [&str; 4] = ["redis-tools", "libatomic1", "libjemalloc2", "liblzf1"];
/// The program in them that is a server if it is called so.
const DATABASE_PROGRAM: &str = "redis-check-rdb";

/// Modules of the kernel, in the order in which they must be loaded.
const MODULES: [&str; 10] = [
    "irqbypass",
    "kvm",
    "kvm-amd",
    "veth",
    "sch_netem",
    "tun",
    "llc",
    "stp",
    "bridge",
    "loop",
];
/// The same in a Linux guest, which has the same kernel.
pub(super) const GUEST_MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_mmio",
    "virtio_blk",
    "virtio-rng",
    "virtio_balloon",
    "failover",
    "net_failover",
    "virtio_net",
];

/// Files at hand.
pub(super) struct Pieces {
    /// The kernel, as it boots.
    pub(super) kernel: PathBuf,
    /// One for each of [`MODULES`]; newer kernels have them packed, which busybox takes too.
    pub(super) modules: Vec<PathBuf>,
    /// One for each of [`GUEST_MODULES`].
    pub(super) guest_modules: Vec<PathBuf>,
    /// Statically linked.
    pub(super) busybox: PathBuf,
    /// A folder with `redis-server` and libraries, each under the name by which it is asked for.
    pub(super) database: PathBuf,
}

impl Pieces {
    /// Downloads into `folder` what is not there from an earlier time. The kernel is that of the
    /// release, or the newest of this version in its backports.
    pub(super) fn ensure(folder: &Path, version: Option<&str>) -> Result<Self> {
        // Named by what is in it: what an earlier version took is not enough.
        let kernel = folder.join(match version {
            None => "kernel-with-bridge".to_owned(),
            Some(version) => format!("kernel-{version}-with-bridge"),
        });
        if !kernel.is_dir() {
            match version {
                None => {
                    let package = setup::resolve(KERNEL_PACKAGE, KERNEL_PREFIX)?;
                    take(&[&package], &kernel, kernel_file)?;
                }
                Some(version) => take_with(&kernel, kernel_file, |unpacked| {
                    let begin = format!("{KERNEL_PREFIX}{version}.");
                    setup::unpack_backport(&begin, KERNEL_END, unpacked)
                })?,
            }
        }
        let busybox = folder.join("busybox");
        if !busybox.is_dir() {
            take(&[BUSYBOX_PACKAGE], &busybox, |name| {
                (name == "busybox").then(|| name.to_owned())
            })?;
        }
        let database = folder.join("database");
        if !database.is_dir() {
            take(&DATABASE_PACKAGES, &database, |name| match name {
                DATABASE_PROGRAM => Some("redis-server".to_owned()),
                library => library_name(library),
            })?;
        }
        let file = |module: &&str| {
            let plain = kernel.join(format!("{module}.ko"));
            let packed = plain.with_extension("ko.xz");
            if packed.is_file() { packed } else { plain }
        };
        let pieces = Self {
            kernel: kernel.join("vmlinuz"),
            modules: MODULES.iter().map(file).collect(),
            guest_modules: GUEST_MODULES.iter().map(file).collect(),
            busybox: busybox.join("busybox"),
            database,
        };
        pieces.check(folder)?;
        Ok(pieces)
    }

    fn check(&self, folder: &Path) -> Result {
        let files = [&self.kernel, &self.busybox];
        let modules = self.modules.iter().chain(&self.guest_modules);
        let mut files = files.into_iter().chain(modules);
        match files.find(|file| !file.is_file()) {
            None => Ok(()),
            Some(file) => Err(format!(
                "{} is missing: its package has none; remove {} to have it looked for again",
                file.display(),
                folder.display()
            )),
        }
    }
}

/// `libx.so.1` of `libx.so.1.2.3`.
fn library_name(file: &str) -> Option<String> {
    let (name, version) = file.split_once(".so.")?;
    let major = version.split('.').next()?;
    Some(format!("{name}.so.{major}"))
}

/// Of the files of a kernel's package: the kernel, and the modules of the lists above.
fn kernel_file(name: &str) -> Option<String> {
    match name.split_once('.') {
        Some((stem, "ko" | "ko.xz")) => {
            let is_wanted = MODULES.contains(&stem) || GUEST_MODULES.contains(&stem);
            is_wanted.then(|| name.to_owned())
        }
        _ => name.starts_with("vmlinuz-").then(|| "vmlinuz".to_owned()),
    }
}

/// Fills the new folder `into` with some files of packages: those for which `wanted` gives a name.
fn take(packages: &[&str], into: &Path, wanted: impl Fn(&str) -> Option<String>) -> Result {
    let listed = packages.join(", ");
    eprintln!("lab: downloading {listed}, to be used inside the lab alone");
    take_with(into, wanted, |unpacked| {
        let mut packages = packages.iter();
        packages.try_for_each(|package| setup::unpack(package, unpacked))
    })
}

/// The same with what `unpack` puts into the new folder that it is given.
fn take_with(
    into: &Path,
    wanted: impl Fn(&str) -> Option<String>,
    unpack: impl FnOnce(&Path) -> Result,
) -> Result {
    let error = |error| format!("cannot fill {}: {error}", into.display());
    // All or nothing: a folder with the final name is complete.
    let unpacked = into.with_file_name("unpacked");
    let taken = into.with_file_name("new");
    for old in [&unpacked, &taken] {
        if old.exists() {
            fs::remove_dir_all(old).map_err(error)?;
        }
    }
    unpack(&unpacked)?;
    fs::create_dir_all(&taken).map_err(error)?;
    visit(&unpacked, &mut |path| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        match wanted(&name) {
            Some(name) => fs::rename(path, taken.join(name)),
            None => Ok(()),
        }
    })
    .map_err(error)?;
    fs::rename(&taken, into).map_err(error)?;
    fs::remove_dir_all(&unpacked).map_err(error)
}

/// Calls `file` for every plain file below `folder`.
fn visit(
    folder: &Path,
    file: &mut impl FnMut(&Path) -> std::io::Result<()>,
) -> std::io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            visit(&entry.path(), file)?;
        } else if kind.is_file() {
            file(&entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_kept_under_the_name_by_which_programs_ask_for_them() {
        let names = ["libatomic.so.1.2.0", "libjemalloc.so.2", "changelog.gz"];
        let names = names.map(|name| library_name(name).unwrap_or_default());
        assert_eq!(names, ["libatomic.so.1", "libjemalloc.so.2", ""]);
    }
}
