//! The destination's page table: which version of each page is final, which has arrived, and
//! whether the guest can see it.
//!
//! A page goes through `Absent → Staged → Placing → Placed` or, when its final version comes after
//! the handover, `Absent → Placing → Placed`. `Placing` belongs to one thread at a time: whoever
//! got the page from [`DestinationPages::fault`], [`DestinationPages::next_run`] or
//! [`DestinationPages::arrive`] places it and then calls [`DestinationPages::placed`]. So a page
//! becomes visible once, and never goes back.

mod comparison;
mod placing;

use std::{collections::HashSet, ops::Range};

use me2_wire::{PageIndex, Version, range::RangeList};

use crate::bitmap::Bitmap;

/// Pages that are placed together: those that changed while they travelled are mostly near each other,
/// and so is what the guest wants next.
const REGION_PAGES: PageIndex = 512;
/// A page that arrives in a later version has changed meanwhile.
const FIRST_VERSION: Version = 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nothing has arrived (a hole, after the handover, counts as `Zero`).
    Absent,
    /// A version with content is in the staging area.
    Staged,
    /// A version that is all zero has arrived; nothing is stored.
    Zero,
    /// A thread is placing it.
    Placing,
    /// The guest can see it.
    Placed,
}

#[derive(Debug, Clone, Copy)]
struct Page {
    expected: Version,
    arrived: Version,
    hash: u64,
    state: State,
    requested: bool,
}

impl Page {
    /// Whether it was never announced and never came.
    fn is_hole(&self) -> bool {
        self.expected == 0 && self.arrived == 0
    }
}

/// A peer broke the rules of the page table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// A page beyond RAM.
    #[error("page {0} is beyond the VM's memory")]
    BeyondMemory(PageIndex),
    /// An announcement that does not go up.
    #[error("version {announced} was announced after version {latest}")]
    VersionOrder {
        /// What came.
        announced: Version,
        /// What came before.
        latest: Version,
    },
    /// Something that belongs before the handover came after it, or the other way round.
    #[error("the peer did not keep the order of the handover")]
    Phase,
}

/// Where the content of pages to be placed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// In the staging area.
    Staged,
    /// All zero.
    Zero,
}

/// What to do about a page fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FaultAction {
    /// Place these pages, which include the one that faulted.
    Place(Content, Range<PageIndex>),
    /// Ask the source for it.
    Request,
    /// It is being placed, or was asked for: nothing.
    Wait,
    /// It is there: a message that came late. Wake whoever waits.
    Wake,
}

/// What to do with a page that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// Before the handover: keep it (write it to the staging area if it is not all zero).
    Stage,
    /// After the handover: place it, then say [`DestinationPages::placed`].
    Place,
    /// It is there already, or older than what is there.
    Duplicate,
}

/// Version and state of every page at the destination.
#[derive(Debug)]
pub struct DestinationPages {
    pages: Vec<Page>,
    latest: Version,
    handed_over: bool,
    /// Pages of which the announced version has not arrived.
    outstanding: u64,
    /// Pages that the guest cannot see yet, whatever the reason.
    unplaced: u64,
    /// Pages that are no holes.
    used: u64,
    /// Pages whose hash is not the source's, asked for once more.
    disputed: HashSet<PageIndex>,
    /// How often pages of each region arrived in a later version than the first.
    changes: Vec<u32>,
    /// Regions in the order in which they are placed, from when that begins.
    order: Vec<PageIndex>,
    /// In that order, and the next page of the region at hand.
    cursor: (usize, PageIndex),
}

impl DestinationPages {
    /// A table in which nothing is announced: all holes.
    pub fn new(pages: PageIndex) -> Self {
        let page = Page {
            expected: 0,
            arrived: 0,
            hash: 0,
            state: State::Absent,
            requested: false,
        };
        Self {
            pages: vec![page; pages as usize],
            latest: 0,
            handed_over: false,
            outstanding: 0,
            unplaced: u64::from(pages),
            used: 0,
            disputed: HashSet::new(),
            changes: vec![0; pages.div_ceil(REGION_PAGES) as usize],
            order: Vec::new(),
            cursor: (0, 0),
        }
    }

    /// The source announces which pages it sends in which version; a long list in several parts.
    pub fn announce(&mut self, version: Version, pages: &RangeList) -> Result<(), PageError> {
        if self.handed_over {
            return Err(PageError::Phase);
        }
        if version < self.latest {
            return Err(PageError::VersionOrder {
                announced: version,
                latest: self.latest,
            });
        }
        if pages.check(self.pages.len() as PageIndex).is_err() {
            return Err(PageError::BeyondMemory(self.pages.len() as PageIndex));
        }
        self.latest = version;
        for index in pages.iter() {
            let page = &mut self.pages[index as usize];
            let was_outstanding = page.expected != page.arrived;
            self.used += u64::from(page.is_hole());
            page.expected = version;
            let is_outstanding = page.arrived != version;
            self.outstanding =
                self.outstanding + u64::from(is_outstanding) - u64::from(was_outstanding);
        }
        Ok(())
    }

    /// The source ends a pass early: what it announced last of these pages will not come. They are
    /// expected as they are, until a later version is announced.
    pub fn withdraw(&mut self, pages: &RangeList) -> Result<(), PageError> {
        if self.handed_over {
            return Err(PageError::Phase);
        }
        if pages.check(self.pages.len() as PageIndex).is_err() {
            return Err(PageError::BeyondMemory(self.pages.len() as PageIndex));
        }
        for index in pages.iter() {
            let page = &mut self.pages[index as usize];
            self.outstanding -= u64::from(page.expected != page.arrived);
            let was_used = !page.is_hole();
            page.expected = page.arrived;
            self.used -= u64::from(was_used && page.is_hole());
        }
        Ok(())
    }

    /// A page arrived, decoded and with the right hash.
    pub fn arrive(
        &mut self,
        index: PageIndex,
        version: Version,
        hash: u64,
        zero: bool,
    ) -> Result<Arrival, PageError> {
        let handed_over = self.handed_over;
        let page = self
            .pages
            .get_mut(index as usize)
            .ok_or(PageError::BeyondMemory(index))?;
        if handed_over {
            if version != page.expected || version == page.arrived {
                return Ok(Arrival::Duplicate);
            }
            page.state = State::Placing;
        } else {
            if version <= page.arrived {
                return Ok(Arrival::Duplicate);
            }
            page.state = if zero { State::Zero } else { State::Staged };
        }
        let was_outstanding = page.expected != page.arrived;
        self.used += u64::from(page.is_hole());
        page.arrived = version;
        page.hash = hash;
        self.changes[(index / REGION_PAGES) as usize] += u32::from(version > FIRST_VERSION);
        let is_outstanding = page.expected != version;
        self.outstanding =
            self.outstanding + u64::from(is_outstanding) - u64::from(was_outstanding);
        Ok(if handed_over {
            Arrival::Place
        } else {
            Arrival::Stage
        })
    }

    /// Whether the table is frozen: the VM may run here.
    pub fn is_handed_over(&self) -> bool {
        self.handed_over
    }

    /// Whether a version of a page is at hand as it arrived: others may refer to it.
    pub fn holds(&self, index: PageIndex, version: Version) -> Option<Content> {
        let page = self.pages.get(index as usize)?;
        match page.state {
            State::Staged if page.arrived == version => Some(Content::Staged),
            State::Zero if page.arrived == version => Some(Content::Zero),
            _ => None,
        }
    }

    /// Whether this version of a page, or a newer one, has arrived: another copy is of no use.
    pub fn is_superseded(&self, index: PageIndex, version: Version) -> bool {
        self.pages
            .get(index as usize)
            .is_some_and(|page| page.arrived >= version)
    }

    /// Pages that are no holes: what the VM uses.
    pub fn used(&self) -> u64 {
        self.used
    }

    /// Pages announced and not in.
    pub fn outstanding(&self) -> u64 {
        self.outstanding
    }

    /// The handover: announces the last version and freezes the table. From now on a page is
    /// final, zero because it is a hole, or missing. Gives how many are missing. Takes time only
    /// for the pages in the list: the guest stands still meanwhile.
    pub fn hand_over(&mut self, version: Version, pages: &RangeList) -> Result<u64, PageError> {
        self.announce(version, pages)?;
        self.handed_over = true;
        Ok(self.outstanding)
    }

    /// What a page is after the handover: a hole is zero, and a stale version is as good as none
    /// (it stays in the staging area and never becomes visible).
    fn final_state(&self, index: PageIndex) -> State {
        let page = &self.pages[index as usize];
        match page.state {
            State::Absent if page.is_hole() => State::Zero,
            State::Staged | State::Zero if page.arrived != page.expected => State::Absent,
            state => state,
        }
    }

    /// Whether everything is visible in its final version.
    pub fn is_complete(&self) -> bool {
        self.handed_over && self.unplaced == 0
    }

    /// For a reconnect: pages that have not arrived, and those of them that the guest waits for.
    pub fn missing(&self) -> (RangeList, Vec<PageIndex>) {
        let mut missing = Bitmap::new(self.pages.len() as PageIndex);
        let mut wanted = Vec::new();
        for index in 0..self.pages.len() as PageIndex {
            if self.final_state(index) == State::Absent {
                missing.set(index);
                if self.pages[index as usize].requested {
                    wanted.push(index);
                }
            }
        }
        (RangeList::from_bitmap(missing.words()), wanted)
    }

    /// Whether a page is a hole: never announced.
    pub fn is_hole(&self, index: PageIndex) -> bool {
        self.pages[index as usize].expected == 0
    }
}

#[cfg(test)]
mod tests;
