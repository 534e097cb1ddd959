//! The staging area: where pages wait that arrive before the VM resumes at the destination.
//!
//! Pages never go straight into guest memory during pre-copy: a later version may follow, and a
//! page becomes visible to the guest once, in its final version.

use std::{io, ops::Range};

use crate::{
    layout::{PAGE_SIZE, PageIndex},
    mapping::AnonymousMapping,
};

/// Anonymous memory as large as the VM's RAM, populated only where pages were staged.
///
/// Callers serialise access to a page: whoever writes, reads or moves page `i` is alone with it.
/// The destination's page table, under its lock, says who may.
#[derive(Debug)]
pub struct Staging {
    mapping: AnonymousMapping,
    pages: PageIndex,
}

impl Staging {
    /// Maps room for `pages` pages; nothing is populated.
    pub fn new(pages: PageIndex) -> io::Result<Self> {
        let mapping = AnonymousMapping::new(pages as usize * PAGE_SIZE)?;
        Ok(Self { mapping, pages })
    }

    /// Room that is filled from one end to the other: in large pages if the host has them, which
    /// cost less to populate.
    pub fn dense(pages: PageIndex) -> io::Result<Self> {
        let staging = Self::new(pages)?;
        staging.mapping.prefer_large_pages();
        Ok(staging)
    }

    /// Populates room for these pages at once, which costs less than page by page when they are
    /// written. Without the memory for it, that is left for later.
    pub fn populate(&self, pages: Range<PageIndex>) {
        if pages.is_empty() {
            return;
        }
        self.address(pages.end - 1);
        self.mapping
            .populate(pages.start as usize * PAGE_SIZE..pages.end as usize * PAGE_SIZE);
    }

    /// Stages a version of a page, replacing an earlier one.
    pub fn write(&mut self, page: PageIndex, content: &[u8; PAGE_SIZE]) {
        // SAFETY: one page inside the mapping (`address` asserts it); `&mut self` means that
        // nobody else reads or moves it.
        unsafe {
            self.address(page)
                .copy_from_nonoverlapping(content.as_ptr(), PAGE_SIZE)
        };
    }

    /// The staged version of a page; zeros if none was staged.
    pub fn read(&self, page: PageIndex, out: &mut [u8; PAGE_SIZE]) {
        // SAFETY: one page inside the mapping; writers need `&mut self`.
        unsafe {
            out.as_mut_ptr()
                .copy_from_nonoverlapping(self.address(page), PAGE_SIZE)
        };
    }

    /// Host address of a staged page; the page must exist.
    pub(crate) fn address(&self, page: PageIndex) -> *mut u8 {
        assert!(page < self.pages, "page {page} beyond the staging area");
        self.mapping
            .as_ptr()
            .wrapping_add(page as usize * PAGE_SIZE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn staged_pages_are_kept_apart() {
        let mut staging = Staging::new(1024).unwrap();
        staging.write(0, &[1; PAGE_SIZE]);
        staging.write(1023, &[2; PAGE_SIZE]);
        staging.write(1023, &[3; PAGE_SIZE]);
        let mut page = [9; PAGE_SIZE];
        staging.read(1023, &mut page);
        assert_eq!(page, [3; PAGE_SIZE]);
        staging.read(1, &mut page);
        assert_eq!(page, [0; PAGE_SIZE]);
    }
}
