//! Where RAM lies in the guest's physical address space, and how its pages are numbered.
//!
//! Two numberings of a page exist. The **guest frame number** (gfn) is what the guest and KVM
//! use; it has a hole below 4 GiB, where devices live. The **page index** is dense: it numbers
//! RAM alone, so that tables have no hole. Only this module converts one into the other.

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use me2_wire::{PAGE_SIZE, PageIndex};

/// First guest physical address of the hole below 4 GiB.
pub const HOLE_START: u64 = 3 << 30;
/// First guest physical address behind the hole.
pub const HOLE_END: u64 = 4 << 30;
/// The largest VM, in bytes of RAM; a bound on what a peer can ask for.
pub const RAM_SIZE_MAX: u64 = 1 << 40;

/// One stretch of RAM without a hole: one KVM memory slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slot {
    /// Guest physical address of its first byte.
    pub guest_address: u64,
    /// Length in bytes, a multiple of the page size.
    pub size_bytes: u64,
    /// Page index of its first page.
    pub first_page: PageIndex,
}

impl Slot {
    /// Pages of this slot.
    pub fn pages(&self) -> Range<PageIndex> {
        self.first_page..self.first_page + (self.size_bytes / PAGE_SIZE as u64) as PageIndex
    }

    /// Guest frame number of its first page.
    pub fn first_frame(&self) -> u64 {
        self.guest_address / PAGE_SIZE as u64
    }
}

/// Why a RAM size cannot be laid out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// Not a whole number of pages, too small, or too large.
    #[error("{0} bytes of memory: must be a multiple of 4096 between 2 MiB and 1 TiB")]
    Size(u64),
}

/// The slots of a VM, in order of address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RamLayout {
    slots: Vec<Slot>,
}

impl RamLayout {
    /// Lays out `size_bytes` of RAM: one slot, or two around the hole below 4 GiB.
    pub fn new(size_bytes: u64) -> Result<Self, LayoutError> {
        if !size_bytes.is_multiple_of(PAGE_SIZE as u64)
            || !((2 << 20)..=RAM_SIZE_MAX).contains(&size_bytes)
        {
            return Err(LayoutError::Size(size_bytes));
        }
        let low = size_bytes.min(HOLE_START);
        let mut slots = vec![Slot {
            guest_address: 0,
            size_bytes: low,
            first_page: 0,
        }];
        if size_bytes > low {
            slots.push(Slot {
                guest_address: HOLE_END,
                size_bytes: size_bytes - low,
                first_page: (low / PAGE_SIZE as u64) as PageIndex,
            });
        }
        Ok(Self { slots })
    }

    /// The slots, in order of address.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// RAM in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.slots.iter().map(|slot| slot.size_bytes).sum()
    }

    /// RAM in pages.
    pub fn page_count(&self) -> PageIndex {
        (self.size_bytes() / PAGE_SIZE as u64) as PageIndex
    }

    /// One more than the largest guest frame number of RAM.
    pub fn frame_end(&self) -> u64 {
        self.slots.last().map_or(0, |slot| {
            (slot.guest_address + slot.size_bytes) / PAGE_SIZE as u64
        })
    }

    /// The page index of a guest frame, or `None` where there is no RAM.
    pub fn page_of_frame(&self, frame: u64) -> Option<PageIndex> {
        self.slots.iter().find_map(|slot| {
            let offset = frame.checked_sub(slot.first_frame())?;
            (offset < slot.size_bytes / PAGE_SIZE as u64).then(|| slot.first_page + offset as u32)
        })
    }

    /// The guest frame of a page index; the page must exist.
    pub fn frame_of_page(&self, page: PageIndex) -> u64 {
        let slot = self
            .slots
            .iter()
            .find(|slot| slot.pages().contains(&page))
            .expect("a page index beyond RAM");
        slot.first_frame() + u64::from(page - slot.first_page)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_slot_below_the_hole() {
        let layout = RamLayout::new(256 << 20).unwrap();
        assert_eq!(layout.slots().len(), 1);
        assert_eq!(layout.page_count(), 65536);
        assert_eq!(layout.page_of_frame(65535), Some(65535));
        assert_eq!(layout.page_of_frame(65536), None);
    }

    #[test]
    fn two_slots_around_the_hole() {
        let layout = RamLayout::new(4 << 30).unwrap();
        assert_eq!(layout.slots().len(), 2);
        assert_eq!(layout.frame_end(), (5 << 30) / 4096);
        assert_eq!(layout.page_of_frame(HOLE_START / 4096), None);
        let first_high = (HOLE_START / 4096) as u32;
        assert_eq!(layout.page_of_frame(HOLE_END / 4096), Some(first_high));
        for page in [0, first_high - 1, first_high, layout.page_count() - 1] {
            assert_eq!(layout.page_of_frame(layout.frame_of_page(page)), Some(page));
        }
    }

    #[test]
    fn bad_sizes_are_refused() {
        for size in [0, 4096, (4 << 20) + 1, RAM_SIZE_MAX + 4096] {
            assert_eq!(RamLayout::new(size), Err(LayoutError::Size(size)));
        }
    }
}
