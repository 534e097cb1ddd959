//! Captured memory with pages of zeros and repeated pages put in, which every other file lacks: for
//! what the codecs of these are worth.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use anyhow::Result;

use super::{Contents, PAGE_BYTES, Source, kept::hash_file, packing};

/// One page in so many is all zeros, and one is the page so many before it.
pub(crate) const ONE_IN: usize = 8;
const DISTANCE_PAGES: usize = 2001;

/// The same number of pages, an eighth of them zeros and an eighth repeats.
pub(crate) fn with_repeats(contents: &Contents, folder: &Path) -> Result<Contents> {
    let path = folder.join(format!("repeats-{}.pages", contents.bytes));
    let mut pages = Vec::new();
    BufReader::new(File::open(&contents.path)?).read_to_end(&mut pages)?;
    let count = pages.len() / PAGE_BYTES;
    let (mut zeros, mut repeats) = (0, 0);
    for number in 0..count {
        let start = number * PAGE_BYTES;
        match number % ONE_IN {
            0 => {
                pages[start..start + PAGE_BYTES].fill(0);
                zeros += 1;
            }
            1 if number >= DISTANCE_PAGES => {
                let from = start - DISTANCE_PAGES * PAGE_BYTES;
                pages.copy_within(from..from + PAGE_BYTES, start);
                repeats += 1;
            }
            _ => {}
        }
    }
    let mut file = BufWriter::new(File::create(&path)?);
    file.write_all(&pages)?;
    file.flush()?;
    let put_in = |what: &str, pages| Source {
        what: format!("{what}, put in place of others"),
        pages,
    };
    let mut sources = contents.sources.clone();
    sources.extend([put_in("zeros", zeros), put_in("repeats", repeats)]);
    Ok(Contents {
        bytes: fs::metadata(&path)?.len(),
        hash: hash_file(&path)?,
        zstd_ratio: packing::packed_ratio(&path, 1)?,
        zstd_ratio_whole: packing::whole_ratio(&path, 3, false)?,
        zstd_ratio_long: packing::whole_ratio(&path, 3, true)?,
        path,
        sources,
    })
}
