//! Which programs, and how much of the memory each gives.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::{files, pool::Pool, programs::Job};

/// What kind of memory is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recipe {
    /// As in a machine at work: most of it page cache, the rest heaps.
    Mixed,
    /// The heaps of compilers at work.
    Compilers,
    /// The heap of a Python program.
    Python,
    /// The page cache: programs and libraries.
    Files,
}

/// How long programs may run for their memory.
const TIME_MAX: Duration = Duration::from_secs(420);

/// Eighths of the mix: the heap of a Python program, the heaps of compilers; the page cache fills up.
const PYTHON_EIGHTHS: u64 = 1;
const COMPILERS_EIGHTHS: u64 = 2;

impl Recipe {
    /// As in the names of files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Mixed => "mixed",
            Self::Compilers => "compilers",
            Self::Python => "python",
            Self::Files => "files",
        }
    }

    /// So many pages of it.
    pub(crate) fn gather(self, pages: u64, folder: &Path) -> Result<Pool> {
        let mut pool = Pool::new(folder)?;
        let deadline = Instant::now() + TIME_MAX;
        match self {
            Self::Mixed => {
                let python = pages * PYTHON_EIGHTHS / 8;
                Job::python().gather(&mut pool, python, deadline)?;
                let heaps = python + pages * COMPILERS_EIGHTHS / 8;
                compile(&mut pool, heaps, folder, deadline)?;
                files::gather(&mut pool, pages)?;
            }
            Self::Compilers => compile(&mut pool, pages, folder, deadline)?,
            Self::Python => Job::python().gather(&mut pool, pages, deadline)?,
            Self::Files => files::gather(&mut pool, pages)?,
        }
        if pool.pages < pages {
            bail!(
                "this machine gives {} different pages of memory ({}), {pages} are wanted: ask for less",
                pool.pages,
                self.name()
            );
        }
        Ok(pool)
    }
}

/// A debug build, and if that is not enough an optimised one.
fn compile(pool: &mut Pool, pages: u64, folder: &Path, deadline: Instant) -> Result<()> {
    for further in [&[][..], &["--release"]] {
        if pool.pages < pages {
            let target = tempfile::Builder::new()
                .prefix("build-")
                .tempdir_in(folder)?;
            Job::compilers(target.path(), further).gather(pool, pages, deadline)?;
        }
    }
    Ok(())
}
