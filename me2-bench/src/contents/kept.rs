//! Files of earlier runs.

use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use xxhash_rust::xxh3::Xxh3;

use super::{
    Contents, Recipe,
    packing::{packed_ratio, whole_ratio},
    pool::Pool,
};

/// More than this gained by a long window, and the file is not one without far repeats.
const LONG_GAIN_MAX: f64 = 1.05;

/// The file of this kind and size, if it is there and whole.
pub(crate) fn find(recipe: Recipe, bytes: u64, folder: &Path) -> Option<Contents> {
    let document = fs::read(document_path(recipe, bytes, folder)).ok()?;
    let mut contents: Contents = serde_json::from_slice(&document).ok()?;
    contents.path = file_path(recipe, bytes, folder);
    let length = fs::metadata(&contents.path).ok()?.len();
    let is_whole = contents.bytes == bytes && length == bytes;
    (is_whole && hash_file(&contents.path).ok()? == contents.hash).then_some(contents)
}

/// Gives a pool its name and its document.
pub(crate) fn keep(recipe: Recipe, pool: Pool, folder: &Path) -> Result<Contents> {
    let file = pool
        .file
        .into_inner()
        .context("cannot write the captured memory")?;
    let bytes = file.as_file().metadata()?.len();
    let contents = Contents {
        path: file_path(recipe, bytes, folder),
        bytes,
        hash: hash_file(file.path())?,
        zstd_ratio: packed_ratio(file.path(), 1)?,
        zstd_ratio_whole: whole_ratio(file.path(), 3, false)?,
        zstd_ratio_long: whole_ratio(file.path(), 3, true)?,
        sources: pool.sources,
    };
    ensure!(
        contents.zstd_ratio_long <= contents.zstd_ratio_whole * LONG_GAIN_MAX,
        "the captured memory repeats itself over long distances: zstd packs it {:.2}:1 with a long \
         window, {:.2}:1 without",
        contents.zstd_ratio_long,
        contents.zstd_ratio_whole
    );
    // The document last: a file without one does not count.
    file.persist(&contents.path)?;
    let document = serde_json::to_vec_pretty(&contents)?;
    fs::write(document_path(recipe, bytes, folder), document)?;
    Ok(contents)
}

pub(super) fn hash_file(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hash.digest()),
            length => hash.update(&buffer[..length]),
        }
    }
}

fn file_path(recipe: Recipe, bytes: u64, folder: &Path) -> PathBuf {
    folder.join(format!("{}-{bytes}.pages", recipe.name()))
}

fn document_path(recipe: Recipe, bytes: u64, folder: &Path) -> PathBuf {
    folder.join(format!("{}-{bytes}.json", recipe.name()))
}

#[cfg(test)]
mod tests {
    use std::ops::ControlFlow;

    use super::*;
    use crate::contents::{PAGE_BYTES, Page};

    const PAGES: u64 = 8;
    const BYTES: u64 = PAGES * PAGE_BYTES as u64;

    fn kept(folder: &Path) -> Contents {
        let mut pool = Pool::new(folder).unwrap();
        for (what, first) in [("a", 1), ("b", 1 + PAGES as u8 / 2)] {
            let pages = first..first + PAGES as u8 / 2;
            let read = |take: &mut dyn FnMut(&Page) -> ControlFlow<()>| {
                pages.for_each(|byte| assert!(take(&[byte; PAGE_BYTES]).is_continue()));
                Ok(())
            };
            pool.take(what, PAGES, read).unwrap();
        }
        keep(Recipe::Mixed, pool, folder).unwrap()
    }

    #[test]
    fn what_was_kept_is_found_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let contents = kept(folder.path());
        assert_eq!(contents.bytes, BYTES);
        assert_eq!(
            find(Recipe::Mixed, BYTES, folder.path()),
            Some(contents.clone())
        );
        assert_eq!(find(Recipe::Python, BYTES, folder.path()), None);
        let mut bytes = fs::read(&contents.path).unwrap();
        bytes[5000] ^= 1;
        fs::write(&contents.path, bytes).unwrap();
        assert_eq!(find(Recipe::Mixed, BYTES, folder.path()), None);
    }
}
