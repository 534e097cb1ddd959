//! Captured memory with pages of zeros and repeated pages put in, which every other file lacks: for
//! what the codecs of these are worth.

use std::{
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use anyhow::Result;

use super::{Contents, PAGE_BYTES, Source, kept::hash_file, packing};

/// One page in so many is all zeros, and one repeats the page so many before it.
const ONE_IN: usize = 8;
const DISTANCE_PAGES: usize = 2003;
// What is repeated is neither all zeros nor a repeat itself.
const _: () = assert!(DISTANCE_PAGES % ONE_IN > 1);

/// The same number of pages, an eighth of them zeros and an eighth repeats.
pub(crate) fn with_repeats(contents: &Contents, folder: &Path) -> Result<Contents> {
    let path = folder.join(format!("repeats-{}.pages", contents.bytes));
    let mut pages = Vec::new();
    BufReader::new(File::open(&contents.path)?).read_to_end(&mut pages)?;
    let (zeros, repeats) = put_in(&mut pages);
    let mut file = BufWriter::new(File::create(&path)?);
    file.write_all(&pages)?;
    file.flush()?;
    let instead = |what: &str, pages| Source {
        what: format!("{what}, put in place of others"),
        pages,
    };
    let mut sources = contents.sources.clone();
    sources.extend([instead("zeros", zeros), instead("repeats", repeats)]);
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

/// Overwrites pages; gives how many are zeros now, and how many repeats.
fn put_in(pages: &mut [u8]) -> (u64, u64) {
    let (mut zeros, mut repeats) = (0, 0);
    for number in 0..pages.len() / PAGE_BYTES {
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
    (zeros, repeats)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn zeros_are_zeros_and_repeats_are_not() {
        let count = 2 * DISTANCE_PAGES;
        let mut pages = vec![0; count * PAGE_BYTES];
        for (number, page) in pages.chunks_exact_mut(PAGE_BYTES).enumerate() {
            page[..8].copy_from_slice(&(number as u64 + 1).to_le_bytes());
        }
        let (zeros, repeats) = put_in(&mut pages);
        let all: Vec<&[u8]> = pages.chunks_exact(PAGE_BYTES).collect();
        let nonzero = all.iter().filter(|page| page.iter().any(|byte| *byte != 0));
        let nonzero: Vec<_> = nonzero.collect();
        assert_eq!(count - nonzero.len(), zeros as usize);
        let distinct: HashSet<_> = nonzero.iter().collect();
        assert_eq!(nonzero.len() - distinct.len(), repeats as usize);
        assert!(repeats as usize > count / ONE_IN / 3);
    }
}
