//! Large pages of the host's for guest memory that was populated in small ones.
//!
//! Source: Linux, Documentation/admin-guide/mm/transhuge.rst; madvise(2), `MADV_COLLAPSE` (Linux 6.1).

use std::{io, ops::Range};

use crate::{layout::PageIndex, memory::GuestMemory, pagemap};

/// Small pages in a large one, of 2 MiB.
const SMALL_PAGES: PageIndex = 512;
/// So many of them may be holes, which then take memory: an eighth. Few stretches have none, as pages
/// of zeros are holes where a VM has arrived.
const HOLES_MAX: u32 = 64;

/// What had better be a large page each: it has hardly any holes.
///
/// # Errors
/// The kernel does not say which pages are populated.
pub fn stretches(memory: &GuestMemory) -> io::Result<Vec<Range<PageIndex>>> {
    Ok(dense(&pagemap::populated_pages(memory)?))
}

fn dense(populated: &[u64]) -> Vec<Range<PageIndex>> {
    let words = SMALL_PAGES as usize / 64;
    let holes = |stretch: &[u64]| stretch.iter().map(|word| word.count_zeros()).sum::<u32>();
    let is_dense = |(_, stretch): &(usize, &[u64])| holes(stretch) <= HOLES_MAX;
    let stretches = populated.chunks_exact(words).enumerate().filter(is_dense);
    stretches
        .map(|(at, _)| at as PageIndex * SMALL_PAGES)
        .map(|first| first..first + SMALL_PAGES)
        .collect()
}

/// Why a stretch is not one large page.
#[derive(Debug, thiserror::Error)]
pub enum CollapseError {
    /// There is no such call.
    #[error("this kernel makes no large pages when it is asked: Linux 6.1 or later does")]
    Kernel,
    /// No large page was free, or somebody held one of the small ones.
    #[error("not now")]
    NotNow(#[source] io::Error),
}

/// Makes one large page of a stretch, with what is in it; whoever needs it just then waits.
///
/// # Errors
/// [`CollapseError`]: it stays as it is.
pub fn collapse(memory: &GuestMemory, stretch: Range<PageIndex>) -> Result<(), CollapseError> {
    memory
        .collapse(stretch)
        .map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => CollapseError::Kernel,
            _ => CollapseError::NotNow(error),
        })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use vm_memory::{Bytes, GuestAddress};

    use super::*;
    use crate::layout::RamLayout;

    #[test]
    fn what_has_many_holes_is_left_out() {
        let mut populated = vec![!0; 8 * 3 + 5];
        populated[9] = 0;
        assert_eq!(dense(&populated), [0..512, 512..1024, 1024..1536]);
        populated[10] = !1;
        assert_eq!(dense(&populated), [0..512, 1024..1536]);
        assert!(dense(&[!0; 7]).is_empty());
    }

    #[test]
    fn a_collapsed_stretch_has_what_it_had() {
        const PAGES: u64 = 832;
        let memory = GuestMemory::new(RamLayout::new(6 << 20).unwrap()).unwrap();
        let address = |page| GuestAddress(page * 4096 + 8);
        // The first stretch whole, the second in part, the third not at all.
        for page in 0..PAGES {
            memory.guest().write_obj(!page, address(page)).unwrap();
        }
        let mut found = stretches(&memory).unwrap().into_iter();
        let first = found.next().unwrap();
        assert_eq!((first.clone(), found.next()), (0..512, None));
        match collapse(&memory, first) {
            Ok(()) => assert!(large_bytes(&memory) >= 2 << 20),
            Err(error) => eprintln!("SKIPPED: no large page was made: {error}"),
        }
        for page in 0..PAGES {
            let content: u64 = memory.guest().read_obj(address(page)).unwrap();
            assert_eq!(content, !page);
        }
        let populated = pagemap::populated_pages(&memory).unwrap();
        let holes = populated[PAGES as usize / 64..].iter();
        assert!(
            holes.into_iter().all(|word| *word == 0),
            "a hole was filled"
        );
    }

    /// Of the mapping that the memory is in, as the kernel counts them.
    fn large_bytes(memory: &GuestMemory) -> u64 {
        let start = memory.host_address() as u64;
        let smaps = fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines().skip_while(|line| {
            let range = line
                .split(' ')
                .next()
                .and_then(|range| range.split_once('-'));
            let parse = |text| u64::from_str_radix(text, 16).ok();
            let range = range.and_then(|(from, to)| Some(parse(from)?..parse(to)?));
            !range.is_some_and(|range| range.contains(&start))
        });
        let large = lines.find_map(|line| line.strip_prefix("AnonHugePages:"));
        let kib = large.and_then(|text| text.trim().strip_suffix(" kB"));
        kib.map_or(0, |kib| kib.parse::<u64>().unwrap() * 1024)
    }
}
