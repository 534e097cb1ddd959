//! What the destination was sent: bases for differences.
//!
//! A bounded store. While there is room and time, everything is kept, since any page may change
//! before the migration is over; after that, what was kept first makes room for pages that are known
//! to change. A page's entry is always its last sent version, or there is none.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
};

use me2_vmm::staging::Staging;
use me2_wire::{PAGE_SIZE, PageIndex, Version};

use super::super::REGION_PAGES;

/// Parts of the VM's memory, and of what this host has to spare, that are kept at most.
const MEMORY_DIVISOR: usize = 2;
const AVAILABLE_DIVISOR: usize = 4;

/// Versions sent, by page. Encoders share it: each region of memory has its own lock.
pub struct SentPages {
    shards: Vec<Mutex<Shard>>,
}

struct Shard {
    /// Mapped when the first page is kept.
    store: Option<Staging>,
    slots: HashMap<PageIndex, Slot>,
    /// Whose slot it is, by slot.
    owners: Vec<Option<PageIndex>>,
    next: usize,
}

#[derive(Clone, Copy)]
struct Slot {
    number: u32,
    version: Version,
}

impl SentPages {
    /// An empty store for a VM with so many pages, on a host with so many to spare, in so many
    /// shards.
    pub fn new(page_count: PageIndex, available_pages: usize, shards: usize) -> Self {
        let pages = page_count as usize / MEMORY_DIVISOR;
        let share = pages.min(available_pages / AVAILABLE_DIVISOR) / shards;
        let shard = |_| {
            Mutex::new(Shard {
                store: None,
                slots: HashMap::new(),
                owners: vec![None; share],
                next: 0,
            })
        };
        Self {
            shards: (0..shards).map(shard).collect(),
        }
    }

    /// Copies out the last sent version of a page, and gives its number, if it was kept.
    pub fn read(&self, page: PageIndex, content: &mut [u8; PAGE_SIZE]) -> Option<Version> {
        let shard = self.shard(page);
        let slot = *shard.slots.get(&page)?;
        shard.store.as_ref()?.read(slot.number, content);
        Some(slot.version)
    }

    /// Keeps what is being sent of a page, in place of an earlier version. One of which there is
    /// none, only if there is room and `has_time`, or if it is known to change.
    pub fn keep(
        &self,
        page: PageIndex,
        version: Version,
        content: &[u8; PAGE_SIZE],
        has_time: bool,
        changes: impl FnOnce() -> bool,
    ) {
        let mut shard = self.shard(page);
        if !shard.is_mapped() {
            return;
        }
        let number = match shard.slots.get(&page) {
            Some(slot) => slot.number,
            None if has_time && shard.owners[shard.next].is_none() => shard.take_slot(page),
            None if changes() => shard.take_slot(page),
            None => return,
        };
        if let Some(store) = &mut shard.store {
            store.write(number, content);
        }
        shard.slots.insert(page, Slot { number, version });
    }

    /// Whether a version of the page is kept.
    pub fn has(&self, page: PageIndex) -> bool {
        self.shard(page).slots.contains_key(&page)
    }

    /// A version is being sent that is not kept.
    pub fn forget(&self, page: PageIndex) {
        let mut shard = self.shard(page);
        if let Some(slot) = shard.slots.remove(&page) {
            shard.owners[slot.number as usize] = None;
        }
    }

    fn shard(&self, page: PageIndex) -> MutexGuard<'_, Shard> {
        let number = (page / REGION_PAGES) as usize % self.shards.len();
        self.shards[number]
            .lock()
            .expect("no panics under this lock")
    }
}

impl Shard {
    /// Maps the store if it is not yet. Without the memory for it nothing is kept.
    fn is_mapped(&mut self) -> bool {
        if self.store.is_none() && !self.owners.is_empty() {
            match Staging::dense(self.owners.len() as PageIndex) {
                Ok(store) => self.store = Some(store),
                Err(error) => tracing::warn!("nothing is kept as a base for differences: {error}"),
            }
        }
        self.store.is_some()
    }

    /// The next slot in turn, for this page.
    fn take_slot(&mut self, page: PageIndex) -> u32 {
        let number = self.next;
        self.next = (self.next + 1) % self.owners.len();
        if let Some(evicted) = self.owners[number].replace(page) {
            self.slots.remove(&evicted);
        }
        number as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sent_version_is_kept_and_the_oldest_makes_room() {
        // Two shards with two slots each; all of these pages are in the first.
        let sent = SentPages::new(8, 100, 2);
        let keep = |page, version, byte, changes| {
            sent.keep(page, version, &[byte; PAGE_SIZE], true, || changes);
        };
        let mut content = [0; PAGE_SIZE];
        assert_eq!(sent.read(1, &mut content), None);
        keep(1, 1, 1, false);
        keep(2, 1, 2, false);
        keep(1, 2, 3, false);
        assert_eq!(sent.read(1, &mut content), Some(2));
        assert_eq!(content, [3; PAGE_SIZE]);
        keep(3, 2, 4, false);
        assert!(!sent.has(3), "no room for what may not change");
        keep(3, 2, 4, true);
        assert!(!sent.has(1), "kept first");
        assert_eq!(sent.read(2, &mut content), Some(1));
        assert_eq!(content, [2; PAGE_SIZE]);
        sent.forget(2);
        assert_eq!(sent.read(2, &mut content), None);
        keep(5, 3, 5, false);
        assert_eq!(sent.read(3, &mut content), Some(2));
        assert_eq!(sent.read(5, &mut content), Some(3));
    }

    #[test]
    fn without_memory_to_spare_nothing_is_kept() {
        let sent = SentPages::new(1024, 4, 2);
        sent.keep(1, 1, &[1; PAGE_SIZE], true, || true);
        assert!(!sent.has(1));
    }

    #[test]
    fn without_time_to_spare_only_what_changes_is_kept_and_what_is_kept_stays_true() {
        let sent = SentPages::new(1024, 1024, 1);
        let keep = |version, has_time, changes| {
            sent.keep(1, version, &[version as u8; PAGE_SIZE], has_time, || {
                changes
            });
        };
        keep(1, false, false);
        assert!(!sent.has(1));
        keep(2, false, true);
        let mut content = [0; PAGE_SIZE];
        assert_eq!(sent.read(1, &mut content), Some(2));
        keep(3, false, false);
        assert_eq!(sent.read(1, &mut content), Some(3), "never an older one");
        assert_eq!(content, [3; PAGE_SIZE]);
    }
}
