//! Page contents for guests: real memory, captured from programs at work.
//!
//! Programs that this one starts (compilers above all) are stopped now and then, and their
//! anonymous memory is read. Pages of zeros, pages seen before, and pages most of which has been
//! seen before are left out: what a compressor with a long window finds must be found by one with a
//! short window too, since a guest's own repeats are not what is measured.
//!
//! ```text
//! recipe.rs    which programs, and how much of the memory each gives
//! programs.rs  starts a program and visits the processes that it becomes, as they grow
//! memory.rs    the anonymous memory of one process
//! files.rs     the page cache: files as they lie in memory
//! distinct.rs  what is new
//! pool.rs      the file that pages are gathered in
//! packing.rs   how well it packs
//! repeats.rs   zeros and repeats put in, for the one experiment that wants them
//! kept.rs      files of earlier runs
//! ```
//!
//! No other process of the machine is looked at, and compilers are given no environment but the
//! paths that they need: what is captured is the memory of public programs at work on public text.
//! It stays in the folder of build products all the same.

mod distinct;
mod files;
mod kept;
mod memory;
mod packing;
mod pool;
mod programs;
mod recipe;
mod repeats;

use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

pub(crate) use recipe::Recipe;
pub(crate) use repeats::with_repeats;

/// A guest page, bytes.
pub(crate) const PAGE_BYTES: usize = 4096;

/// A page of captured memory.
pub(crate) type Page = [u8; PAGE_BYTES];

/// The most that one file holds.
const BYTES_MAX: u64 = 2 << 30;

/// A file of captured pages, and what is known about it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Contents {
    /// The file: whole pages, one behind the other, none of them zero, no two the same (but for
    /// `with_repeats`).
    #[serde(skip)]
    pub(crate) path: PathBuf,
    /// Its length.
    pub(crate) bytes: u64,
    /// XXH3 of it, 64 bits.
    pub(crate) hash: u64,
    /// Raw by compressed size: zstd level 1, each 256 KiB by themselves.
    pub(crate) zstd_ratio: f64,
    /// The same with zstd level 3, the file as a whole.
    pub(crate) zstd_ratio_whole: f64,
    /// The same as `zstd_ratio_whole`, with matches over a window of 128 MiB. A file in which this
    /// is much better is not made.
    pub(crate) zstd_ratio_long: f64,
    /// Where the pages are from, in the file's order.
    pub(crate) sources: Vec<Source>,
}

/// A program whose memory was captured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Source {
    /// The program, and what it was at.
    pub(crate) what: String,
    /// Pages taken from it, one behind the other.
    pub(crate) pages: u64,
}

/// A file of `bytes` (whole pages, at most 2 GiB) of memory of several programs in `folder`: the
/// one of an earlier run if it is still whole, else captured now, which takes minutes.
pub(crate) fn prepare(bytes: u64, folder: &Path) -> Result<Contents> {
    prepare_of(Recipe::Mixed, bytes, folder)
}

/// The same of one kind of memory alone.
pub(crate) fn prepare_of(recipe: Recipe, bytes: u64, folder: &Path) -> Result<Contents> {
    let whole_pages = bytes.is_multiple_of(PAGE_BYTES as u64);
    ensure!(
        whole_pages && (PAGE_BYTES as u64..=BYTES_MAX).contains(&bytes),
        "contents come in whole pages, up to 2 GiB, not {bytes} bytes"
    );
    std::fs::create_dir_all(folder)?;
    if let Some(contents) = kept::find(recipe, bytes, folder) {
        return Ok(contents);
    }
    let pool = recipe.gather(bytes / PAGE_BYTES as u64, folder)?;
    kept::keep(recipe, pool, folder)
}
