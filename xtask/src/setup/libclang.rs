//! libclang, which the crate `userfaultfd` needs to read the kernel's headers at build time.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use super::apt::Package;

/// Debian's, in the release's own version.
pub(super) const PACKAGE: Package = Package {
    name: "libclang-dev",
    why: "libclang, with which the crate userfaultfd reads the kernel's headers",
};

/// Whether libclang is in one of the places where builds look for it.
pub(super) fn is_installed() -> bool {
    let chosen = env::var_os("LIBCLANG_PATH").map(PathBuf::from);
    if chosen.as_ref().is_some_and(|path| path.is_file()) {
        return true;
    }
    let multiarch = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let usual = [
        multiarch.as_str(),
        "/usr/lib64",
        "/usr/lib",
        "/usr/local/lib",
    ];
    let mut folders = chosen
        .into_iter()
        .chain(usual.map(PathBuf::from))
        .chain(llvm_folders());
    folders.any(|folder| names(&folder).iter().any(|name| is_libclang(name)))
}

/// `/usr/lib/llvm-14/lib` and the like.
fn llvm_folders() -> impl Iterator<Item = PathBuf> {
    let parents = ["/usr/lib", "/usr/lib64"].map(Path::new);
    parents.into_iter().flat_map(|parent| {
        let versions = names(parent).into_iter();
        versions
            .filter(|name| name.starts_with("llvm"))
            .map(move |name| parent.join(name).join("lib"))
    })
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// The C interface alone: `libclang.so`, `libclang.so.1`, `libclang-14.so`, but not
/// `libclang-cpp.so`.
fn is_libclang(name: &str) -> bool {
    let Some(rest) = name.strip_prefix("libclang") else {
        return false;
    };
    let rest = rest.trim_start_matches(|c: char| c == '-' || c == '.' || c.is_ascii_digit());
    rest == "so" || rest.starts_with("so.")
}

#[cfg(test)]
mod tests {
    use super::is_libclang;

    #[test]
    fn only_the_c_interface_counts() {
        for name in [
            "libclang.so",
            "libclang.so.1",
            "libclang-14.so",
            "libclang-14.so.14.0.6",
            "libclang.so.18.1",
        ] {
            assert!(is_libclang(name), "{name}");
        }
        for name in [
            "libclang-cpp.so.14",
            "libclang.a",
            "libclangAST.so",
            "liblldb.so",
            "libclang-14",
        ] {
            assert!(!is_libclang(name), "{name}");
        }
    }
}
