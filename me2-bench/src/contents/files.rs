//! The page cache: programs and libraries as they lie in memory.

use std::{
    fs::File,
    io::Read,
    ops::ControlFlow,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{PAGE_BYTES, Page, pool::Pool};

/// Takes files of the compiler and of the system, whole pages of them, until the pool has `limit`
/// pages or there are no more.
pub(crate) fn gather(pool: &mut Pool, limit: u64) -> Result<()> {
    let mut folders = vec![
        PathBuf::from("/usr/bin"),
        PathBuf::from("/usr/lib/x86_64-linux-gnu"),
    ];
    folders.extend(compiler_libraries());
    for folder in folders {
        pool.take(&format!("files of {}", folder.display()), limit, |take| {
            for path in files_in(&folder) {
                if take_file(&path, take).is_break() {
                    break;
                }
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// The whole pages of a file, if it can be read.
fn take_file(path: &Path, take: &mut dyn FnMut(&Page) -> ControlFlow<()>) -> ControlFlow<()> {
    let mut page = [0; PAGE_BYTES];
    if let Ok(mut file) = File::open(path) {
        while file.read_exact(&mut page).is_ok() {
            take(&page)?;
        }
    }
    ControlFlow::Continue(())
}

/// Where the compiler's own libraries are, if there is one.
fn compiler_libraries() -> Option<PathBuf> {
    let output = Command::new("rustc")
        .args(["--print", "sysroot"])
        .output()
        .ok()?;
    let root = String::from_utf8(output.stdout).ok()?;
    Some(Path::new(root.trim()).join("lib"))
}

/// The regular files right in a folder, links left out, always in the same order.
fn files_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))
        .into_iter()
        .flatten()
        .filter_map(Result::ok);
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let mut files: Vec<PathBuf> = files.map(|entry| entry.path()).collect();
    files.sort();
    files
}
