//! Guest memory: one private anonymous mapping for all slots, in page index order.
//!
//! The mapping has no hole: page `i` lies at offset `i * 4096`, whatever its guest address. The
//! rust-vmm view of the same memory ([`GuestMemory::guest`]) is what the loader and devices write
//! through; it marks each page that the VMM itself writes, because KVM's dirty log does not show
//! those.
//!
//! What this module is not: it knows nothing of userfaultfd. While pages are missing
//! ([`crate::paging`]), reading here would block, so only a VM whose memory is whole is read.

use std::{
    io,
    num::NonZeroUsize,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard},
};

use vm_memory::{
    GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion, VolatileMemory,
    bitmap::{AtomicBitmap, Bitmap},
    mmap::{MmapRegionBuilder, MmapRegionError},
};

use crate::{
    layout::{PAGE_SIZE, PageIndex, RamLayout},
    mapping::AnonymousMapping,
};

/// The rust-vmm view of guest memory, with the VMM's own dirty bitmap.
pub type GuestMemoryView = GuestMemoryMmap<AtomicBitmap>;

/// Why guest memory could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The mapping was refused.
    #[error("cannot map {bytes} bytes of guest memory")]
    Map {
        /// Size asked for.
        bytes: u64,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The view over the mapping was refused.
    #[error("cannot describe guest memory")]
    Region(#[source] MmapRegionError),
    /// The slots overlap: a bug of the layout.
    #[error("cannot order guest memory")]
    Order(#[source] vm_memory::GuestRegionCollectionError),
}

/// All RAM of a VM.
#[derive(Debug, Clone)]
pub struct GuestMemory {
    layout: RamLayout,
    // The views hold raw addresses into the mapping: both live in one value, cloned together.
    view: GuestMemoryView,
    mapping: Arc<AnonymousMapping>,
    free: Arc<Mutex<FreePages>>,
}

/// What the guest says that it does not use.
#[derive(Debug, Default)]
struct FreePages {
    /// Pages may be missing: none is given back meanwhile.
    are_kept: bool,
    /// Given back at some time, one bit a page; empty while none was.
    reported: Vec<u64>,
}

impl GuestMemory {
    /// Maps the memory of `layout`; nothing is populated.
    pub fn new(layout: RamLayout) -> Result<Self, MemoryError> {
        let bytes = layout.size_bytes();
        let mapping = AnonymousMapping::new(bytes as usize)
            .map_err(|source| MemoryError::Map { bytes, source })?;
        let mut regions = Vec::new();
        for slot in layout.slots() {
            let len = slot.size_bytes as usize;
            let offset = slot.first_page as usize * PAGE_SIZE;
            let page_size = NonZeroUsize::new(PAGE_SIZE).expect("not zero");
            let builder =
                MmapRegionBuilder::new_with_bitmap(len, AtomicBitmap::new(len, page_size))
                    .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                    .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
            // SAFETY: the slots partition the mapping, so offset + len lies inside it, and `self`
            // keeps it mapped as long as the view exists.
            let region = unsafe { builder.with_raw_mmap_pointer(mapping.as_ptr().add(offset)) }
                .build()
                .map_err(MemoryError::Region)?;
            regions.push(
                GuestRegionMmap::new(region, GuestAddress(slot.guest_address))
                    .expect("a slot within the address space"),
            );
        }
        let view = GuestMemoryMmap::from_regions(regions).map_err(MemoryError::Order)?;
        Ok(Self {
            layout,
            view,
            mapping: Arc::new(mapping),
            free: Arc::default(),
        })
    }

    /// Where the RAM lies.
    pub fn layout(&self) -> &RamLayout {
        &self.layout
    }

    /// The view for loaders and devices; what is written through it is marked.
    pub fn guest(&self) -> &GuestMemoryView {
        &self.view
    }

    /// Host address of page 0; page `i` follows at `i * 4096`.
    pub fn host_address(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }

    /// Host address of a page; the page must exist.
    pub fn host_address_of(&self, page: PageIndex) -> *mut u8 {
        assert!(page < self.layout.page_count(), "page {page} beyond RAM");
        self.mapping
            .as_ptr()
            .wrapping_add(page as usize * PAGE_SIZE)
    }

    /// Copies one page out. The guest may be writing it: the copy is a snapshot of each word, not
    /// of the page, and is only final once the VM is stopped. Blocks if the page is missing.
    pub fn read_page(&self, page: PageIndex, out: &mut [u8; PAGE_SIZE]) {
        let (region, slot) = self
            .view
            .iter()
            .zip(self.layout.slots())
            .find(|(_, slot)| slot.pages().contains(&page))
            .expect("a page index beyond RAM");
        let offset = (page - slot.first_page) as usize * PAGE_SIZE;
        VolatileMemory::get_slice(&**region, offset, PAGE_SIZE)
            .expect("a page of the slot")
            .copy_to(&mut out[..]);
    }

    /// Drops KVM's mappings of `pages`, so that the guest's next access to each of them is a fault
    /// again, reads included. The VM may run meanwhile; what pages hold, and the dirty log, stay as
    /// they are (a read that maps its page writable again is logged as a write: KVM's choice).
    ///
    /// In ranges of whole, aligned 2 MiB large pages of the host stay whole.
    ///
    /// # Errors
    /// What the kernel says against memory that may be executed for a moment, which a security
    /// policy can forbid; or that it has too many mappings. The VM runs on in either case.
    pub fn drop_mappings(&self, pages: Range<PageIndex>) -> io::Result<()> {
        let bytes = pages.start as usize * PAGE_SIZE..pages.end as usize * PAGE_SIZE;
        self.mapping.drop_secondary_mappings(bytes)
    }

    /// From when pages may be missing until none can be: [`GuestMemory::drop_free`] does nothing. A
    /// page that was given back would be missing again, and nobody would bring it.
    pub(crate) fn keep_free_pages(&self, keep: bool) {
        self.lock_free().are_kept = keep;
    }

    /// Pages that were given back because the guest reported them free, one bit a page by page index;
    /// the guest may have written to them since. Words that are missing are zero.
    pub fn reported_free(&self) -> Vec<u64> {
        self.lock_free().reported.clone()
    }

    /// Asks for large pages from the first touch on, as far as the host has them.
    pub fn prefer_large_pages(&self) {
        self.mapping.prefer_large_pages();
    }

    /// [`crate::large_pages::collapse`].
    pub(crate) fn collapse(&self, pages: Range<PageIndex>) -> io::Result<()> {
        let bytes = pages.start as usize * PAGE_SIZE..pages.end as usize * PAGE_SIZE;
        self.mapping.collapse(bytes)
    }

    fn lock_free(&self) -> MutexGuard<'_, FreePages> {
        self.free.lock().expect("no panics under this lock")
    }

    /// Gives pages back to the host that the guest says are free: those that lie whole in these
    /// bytes. They read as zero from now on, which is a change like any other, and marked.
    pub fn drop_free(&self, address: u64, bytes: u64) {
        let mut free = self.lock_free();
        let end = address.saturating_add(bytes) / PAGE_SIZE as u64;
        let first = address.div_ceil(PAGE_SIZE as u64);
        if free.are_kept || first >= end {
            return;
        }
        for (region, slot) in self.view.iter().zip(self.layout.slots()) {
            let frames = slot.first_frame()..slot.first_frame() + slot.pages().len() as u64;
            let (start, end) = (first.max(frames.start), end.min(frames.end));
            if start < end {
                let within = (start - frames.start) as usize * PAGE_SIZE;
                let len = (end - start) as usize * PAGE_SIZE;
                let from = slot.first_page as usize * PAGE_SIZE + within;
                self.mapping.give_back(from..from + len);
                MmapRegion::bitmap(region).mark_dirty(within, len);
                let words = (self.layout.page_count() as usize).div_ceil(64);
                free.reported.resize(words, 0);
                for page in from / PAGE_SIZE..(from + len) / PAGE_SIZE {
                    free.reported[page / 64] |= 1 << (page % 64);
                }
            }
        }
    }

    /// Takes the VMM's own dirty bitmap: the pages that it wrote since the last call, one bit a
    /// page by page index. What devices write meanwhile is in this answer or in the next.
    pub fn take_own_dirty(&self) -> Vec<u64> {
        let mut all = vec![0u64; (self.layout.page_count() as usize).div_ceil(64)];
        for (region, slot) in self.view.iter().zip(self.layout.slots()) {
            let words = MmapRegion::bitmap(region).get_and_reset();
            // Slots start at multiples of 64 pages: the first is 3 GiB long if there is a second.
            let first = slot.first_page as usize / 64;
            for (into, word) in all[first..].iter_mut().zip(words) {
                *into |= word;
            }
        }
        all
    }
}

/// Tells the C library's heap to give memory back rather than keep it for the next time: tables of
/// a migration are mappings of their own, and little of what frames took stays behind. To be called
/// first thing in a VM process, which lives on for as long as its VM.
pub fn configure_heap() {
    const ARENAS: libc::c_int = 2;
    const KEPT_BYTES: libc::c_int = 2 << 20;
    // SAFETY: mallopt only sets parameters of the allocator, and may be called at any time.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
        libc::mallopt(libc::M_MMAP_THRESHOLD, KEPT_BYTES);
        libc::mallopt(libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}

/// Gives the heap's free pages back to the system. After a migration the buffers of thousands of
/// frames are free, and the process lives on for as long as its VM.
pub fn release_free_heap() {
    // SAFETY: malloc_trim has no preconditions; it only returns free pages.
    unsafe { libc::malloc_trim(0) };
}

#[cfg(test)]
mod tests {
    use super::*;
    use vm_memory::Bytes;

    #[test]
    fn own_writes_are_marked_by_page_index() {
        let memory = GuestMemory::new(RamLayout::new((3 << 30) + (4 << 20)).unwrap()).unwrap();
        memory
            .guest()
            .write_obj(1u8, GuestAddress(5 * 4096))
            .unwrap();
        memory
            .guest()
            .write_obj(2u8, GuestAddress((4 << 30) + 4096))
            .unwrap();
        let dirty = memory.take_own_dirty();
        let set: Vec<usize> = (0..dirty.len() * 64)
            .filter(|i| dirty[i / 64] >> (i % 64) & 1 == 1)
            .collect();
        let high = (3 << 30) / 4096 + 1;
        assert_eq!(set, [5, high]);
        assert!(memory.take_own_dirty().iter().all(|word| *word == 0));
        let mut page = [0; PAGE_SIZE];
        memory.read_page(high as u32, &mut page);
        assert_eq!((page[0], page[1]), (2, 0));
    }

    #[test]
    fn free_pages_become_holes_and_are_marked_unless_pages_may_be_missing() {
        let memory = GuestMemory::new(RamLayout::new((3 << 30) + (4 << 20)).unwrap()).unwrap();
        let write = |address| {
            memory
                .guest()
                .write_obj(7u8, GuestAddress(address))
                .unwrap()
        };
        let read = |address| {
            memory
                .guest()
                .read_obj::<u8>(GuestAddress(address))
                .unwrap()
        };
        [4096, 8192, 12288, (3 << 30) - 4096, 4 << 30]
            .into_iter()
            .for_each(write);
        memory.take_own_dirty();
        memory.keep_free_pages(true);
        memory.drop_free(8192, 4096);
        assert_eq!(read(8192), 7);
        memory.keep_free_pages(false);
        // Whole pages alone, up to the hole below 4 GiB and no further.
        memory.drop_free(4097, 8191);
        memory.drop_free((3 << 30) - 4096, 2 << 20);
        assert_eq!([4096, 8192, 12288].map(read), [7, 0, 7]);
        assert_eq!([(3 << 30) - 4096, 4 << 30].map(read), [0, 7]);
        let dirty = memory.take_own_dirty();
        let marked: u32 = dirty.iter().map(|word| word.count_ones()).sum();
        assert_eq!((marked, dirty[0]), (2, 1 << 2));
        let last = (3 << 30) / 4096 - 1;
        let reported = memory.reported_free();
        let set: Vec<usize> = (0..reported.len() * 64)
            .filter(|page| reported[page / 64] >> (page % 64) & 1 == 1)
            .collect();
        assert_eq!(set, [2, last]);
        memory.drop_free(u64::MAX - 4096, u64::MAX);
        memory.drop_free(0, 0);
        assert_eq!(memory.take_own_dirty().iter().max(), Some(&0));
    }
}
