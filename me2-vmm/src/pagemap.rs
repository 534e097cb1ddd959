//! Which pages of guest memory are populated: the holes never travel.
//!
//! `PAGEMAP_SCAN` (Linux 6.7) where there is one, `/proc/self/pagemap` before. A page that is only
//! mapped to the kernel's shared zero page counts as a hole with the first, as populated with the
//! second (it then travels as a zero record).

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use crate::{layout::PAGE_SIZE, memory::GuestMemory};

/// Pages that hold memory, one bit a page by page index.
pub fn populated_pages(memory: &GuestMemory) -> io::Result<Vec<u64>> {
    let pagemap = File::open("/proc/self/pagemap")?;
    match scan(&pagemap, memory) {
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)) => {
            read(&pagemap, memory)
        }
        result => result,
    }
}

const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;
/// Regions that one call may return.
const REGIONS_PER_CALL: usize = 4096;

/// `struct page_region` of linux/fs.h.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg` of linux/fs.h.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

const _: () = assert!(size_of::<PageRegion>() == 24 && size_of::<ScanArgument>() == 96);

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = 3 << 30 | 96 << 16 | (b'f' as libc::c_ulong) << 8 | 16;

fn scan(pagemap: &File, memory: &GuestMemory) -> io::Result<Vec<u64>> {
    let base = memory.host_address() as u64;
    let end = base + memory.layout().size_bytes();
    let mut bitmap = vec![0u64; (memory.layout().page_count() as usize).div_ceil(64)];
    let mut regions = vec![PageRegion::default(); REGIONS_PER_CALL];
    let mut at = base;
    while at < end {
        let mut argument = ScanArgument {
            size: size_of::<ScanArgument>() as u64,
            start: at,
            end,
            vec: regions.as_mut_ptr() as u64,
            vec_len: regions.len() as u64,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT,
            ..Default::default()
        };
        // SAFETY: the argument has the kernel's layout (asserted), and `vec` points at `vec_len`
        // regions that live across the call.
        let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
        if found < 0 {
            return Err(io::Error::last_os_error());
        }
        for region in &regions[..found as usize] {
            let pages =
                (region.start - base) / PAGE_SIZE as u64..(region.end - base) / PAGE_SIZE as u64;
            for page in pages {
                bitmap[page as usize / 64] |= 1 << (page % 64);
            }
        }
        assert!(argument.walk_end > at, "PAGEMAP_SCAN made no progress");
        at = argument.walk_end;
    }
    Ok(bitmap)
}

fn read(pagemap: &File, memory: &GuestMemory) -> io::Result<Vec<u64>> {
    const PRESENT_OR_SWAPPED: u64 = 3 << 62;
    let first = memory.host_address() as u64 / PAGE_SIZE as u64;
    let count = memory.layout().page_count() as usize;
    let mut bitmap = vec![0u64; count.div_ceil(64)];
    let mut entries = vec![0u8; 8 * 8192];
    for chunk in (0..count).step_by(8192) {
        let len = 8192.min(count - chunk);
        pagemap.read_exact_at(&mut entries[..8 * len], (first + chunk as u64) * 8)?;
        for (i, entry) in entries[..8 * len].as_chunks::<8>().0.iter().enumerate() {
            if u64::from_le_bytes(*entry) & PRESENT_OR_SWAPPED != 0 {
                bitmap[(chunk + i) / 64] |= 1 << ((chunk + i) % 64);
            }
        }
    }
    Ok(bitmap)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::RamLayout;
    use vm_memory::{Bytes, GuestAddress};

    #[test]
    fn only_written_pages_are_populated() {
        let memory = GuestMemory::new(RamLayout::new(64 << 20).unwrap()).unwrap();
        for page in [0u64, 63, 64, 4095, 16383] {
            memory
                .guest()
                .write_obj(1u8, GuestAddress(page * 4096))
                .unwrap();
        }
        let mut read_only = [0; PAGE_SIZE];
        memory.read_page(100, &mut read_only);
        let bits = |bitmap: &[u64]| -> Vec<usize> {
            (0..16384)
                .filter(|i| bitmap[i / 64] >> (i % 64) & 1 == 1)
                .collect()
        };
        let pagemap = File::open("/proc/self/pagemap").unwrap();
        assert_eq!(
            bits(&read(&pagemap, &memory).unwrap()),
            [0, 63, 64, 100, 4095, 16383]
        );
        match scan(&pagemap, &memory) {
            Ok(bitmap) => assert_eq!(bits(&bitmap), [0, 63, 64, 4095, 16383]),
            Err(error) => eprintln!("SKIPPED: no PAGEMAP_SCAN on this kernel: {error}"),
        }
    }
}
