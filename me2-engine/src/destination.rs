//! The destination's page table: which version of each page is final, which has arrived, and
//! whether the guest can see it.
//!
//! A page goes through `Absent → Staged → Placing → Placed` or, when its final version comes after
//! the handover, `Absent → Placing → Placed`. `Placing` belongs to one thread at a time: whoever
//! got the page from [`DestinationPages::fault`], [`DestinationPages::next_run`] or
//! [`DestinationPages::arrive`] places it and then calls [`DestinationPages::placed`]. So a page
//! becomes visible once, and never goes back.

use std::{cmp::Reverse, collections::HashSet, ops::Range};

use me2_wire::{PageIndex, Version, range::RangeList};

use crate::{bitmap::Bitmap, tree};

/// Pages that are placed together: those that changed while they travelled are mostly near each other,
/// and so is what the guest wants next.
const REGION_PAGES: PageIndex = 512;
/// A page that arrives in a later version has changed meanwhile.
const FIRST_VERSION: Version = 1;
/// Pages around a fault that are placed with it, where their content is at hand.
const AROUND_FAULT: PageIndex = 16;

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

    /// The guest touched a page that it cannot see.
    pub fn fault(&mut self, index: PageIndex) -> FaultAction {
        assert!(
            self.handed_over && (index as usize) < self.pages.len(),
            "nobody faults before, or beyond RAM"
        );
        match self.final_state(index) {
            State::Placed => FaultAction::Wake,
            State::Placing => FaultAction::Wait,
            State::Absent => {
                let asked_before =
                    std::mem::replace(&mut self.pages[index as usize].requested, true);
                if asked_before {
                    FaultAction::Wait
                } else {
                    FaultAction::Request
                }
            }
            State::Staged => FaultAction::Place(
                Content::Staged,
                self.claim_run(index, State::Staged, AROUND_FAULT),
            ),
            State::Zero => FaultAction::Place(
                Content::Zero,
                self.claim_run(index, State::Zero, AROUND_FAULT),
            ),
        }
    }

    /// The next pages whose content is at hand, to be placed behind the running guest: at most
    /// `count`, all of one kind, first where most has changed. `None` once all of them have been
    /// given out.
    pub fn next_run(&mut self, count: PageIndex) -> Option<(Content, Range<PageIndex>)> {
        if self.order.is_empty() {
            self.order = (0..self.changes.len() as PageIndex).collect();
            self.order
                .sort_by_key(|region| Reverse(self.changes[*region as usize]));
        }
        while let Some(region) = self.order.get(self.cursor.0) {
            let start = region * REGION_PAGES;
            let end = start
                .saturating_add(REGION_PAGES)
                .min(self.pages.len() as PageIndex);
            while start + self.cursor.1 < end {
                let index = start + self.cursor.1;
                let state = self.final_state(index);
                let content = match state {
                    State::Staged => Content::Staged,
                    State::Zero => Content::Zero,
                    _ => {
                        self.cursor.1 += 1;
                        continue;
                    }
                };
                let run = self.claim_run(index, state, count.min(end - index));
                self.cursor.1 = run.end - start;
                return Some((content, run));
            }
            self.cursor = (self.cursor.0 + 1, 0);
        }
        None
    }

    fn claim_run(&mut self, first: PageIndex, state: State, count: PageIndex) -> Range<PageIndex> {
        let end = first
            .saturating_add(count)
            .min(self.pages.len() as PageIndex);
        let mut run = first..first;
        while run.end < end && self.final_state(run.end) == state {
            self.pages[run.end as usize].state = State::Placing;
            run.end += 1;
        }
        run
    }

    /// These pages, given out before, are visible now.
    pub fn placed(&mut self, pages: Range<PageIndex>) {
        for page in &mut self.pages[pages.start as usize..pages.end as usize] {
            assert_eq!(
                page.state,
                State::Placing,
                "only pages that were given out are placed"
            );
            page.state = State::Placed;
            self.unplaced -= 1;
        }
    }

    /// Stretches of at least `min` holes among `within`; they count as placed from now on. Only
    /// after the handover.
    pub fn take_holes(
        &mut self,
        within: Range<PageIndex>,
        min: PageIndex,
    ) -> Vec<Range<PageIndex>> {
        assert!(
            self.handed_over,
            "what is a hole is known after the handover"
        );
        let end = within.end.min(self.pages.len() as PageIndex);
        let mut holes = Vec::new();
        let mut first = within.start;
        for index in within.start..=end {
            if index < end && self.is_hole(index) && self.final_state(index) == State::Zero {
                continue;
            }
            if index - first >= min {
                holes.push(first..index);
            }
            first = index + 1;
        }
        for hole in &holes {
            for page in &mut self.pages[hole.start as usize..hole.end as usize] {
                page.state = State::Placed;
            }
            self.unplaced -= hole.len() as u64;
        }
        holes
    }

    /// The VM will never run here, and who waits for a page shall go on all the same: every missing
    /// page counts as come, as zeros, and is to be placed by the caller.
    pub fn take_missing(&mut self) -> Vec<Range<PageIndex>> {
        let mut runs: Vec<Range<PageIndex>> = Vec::new();
        if !self.handed_over {
            return runs;
        }
        for index in 0..self.pages.len() as PageIndex {
            if self.final_state(index) != State::Absent {
                continue;
            }
            let page = &mut self.pages[index as usize];
            self.outstanding -= u64::from(page.expected != page.arrived);
            page.arrived = page.expected;
            page.state = State::Placing;
            match runs.last_mut() {
                Some(last) if last.end == index => last.end += 1,
                _ => runs.push(index..index + 1),
            }
        }
        runs
    }

    /// Pages that the guest cannot see yet.
    pub fn unplaced(&self) -> u64 {
        self.unplaced
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

    /// The hash tree over what was placed; holes have the hash 0.
    pub fn leaves(&self) -> Vec<u64> {
        tree::leaves(&self.hashes(0..self.pages.len()))
    }

    /// Hashes of the pages of one leaf.
    pub fn leaf_hashes(&self, leaf: usize) -> Vec<u64> {
        let start = leaf.saturating_mul(tree::LEAF_PAGES).min(self.pages.len());
        self.hashes(start..(start + tree::LEAF_PAGES).min(self.pages.len()))
    }

    fn hashes(&self, pages: Range<usize>) -> Vec<u64> {
        self.pages[pages].iter().map(|page| page.hash).collect()
    }

    /// The source has other hashes of these pages: they are to be asked for once more, to be compared
    /// and not to be placed, since the guest may have written to them meanwhile. Gives those of them
    /// that were placed.
    pub fn dispute(&mut self, pages: impl IntoIterator<Item = PageIndex>) -> Vec<PageIndex> {
        let is_placed = |page: &Page| page.state == State::Placed && !page.is_hole();
        let known = |index: &PageIndex| self.pages.get(*index as usize).is_some_and(is_placed);
        let disputed: Vec<_> = pages.into_iter().filter(known).collect();
        self.disputed.extend(&disputed);
        disputed
    }

    /// Whether a page that comes once more is to be compared.
    pub fn is_disputed(&self, index: PageIndex) -> bool {
        self.disputed.contains(&index)
    }

    /// Pages that were asked for once more, and did not come yet.
    pub fn disputes(&self) -> usize {
        self.disputed.len()
    }

    /// The link broke: what was asked for once more does not come. It is compared anew.
    pub fn forget_disputes(&mut self) {
        self.disputed.clear();
    }

    /// A disputed page came once more: with this hash, while guest memory has that one now. If guest
    /// memory has what the source has, it was only the account of it that was wrong. Otherwise
    /// nothing changes: the page differs.
    pub fn compare(&mut self, index: PageIndex, hash: u64, in_memory: u64) {
        if self.disputed.remove(&index) && hash == in_memory {
            self.pages[index as usize].hash = hash;
        }
    }

    /// Whether a page is a hole: never announced.
    pub fn is_hole(&self, index: PageIndex) -> bool {
        self.pages[index as usize].expected == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(pages: &[PageIndex]) -> RangeList {
        let mut bitmap = Bitmap::new(4096);
        pages.iter().for_each(|page| _ = bitmap.set(*page));
        RangeList::from_bitmap(bitmap.words())
    }

    #[test]
    fn what_is_missing_can_be_given_up() {
        let mut pages = DestinationPages::new(1000);
        assert_eq!(pages.take_missing(), []);
        pages.announce(1, &list(&[3, 4])).unwrap();
        pages.arrive(3, 1, 33, false).unwrap();
        pages.arrive(4, 1, 44, false).unwrap();
        pages.hand_over(2, &list(&[4, 5, 6, 900])).unwrap();
        assert_eq!(pages.fault(5), FaultAction::Request);
        assert_eq!(pages.take_missing(), [4..7, 900..901]);
        assert_eq!(pages.take_missing(), []);
        assert_eq!(pages.outstanding(), 0);
        assert_eq!(pages.fault(5), FaultAction::Wait);
        assert_eq!(pages.arrive(5, 2, 55, false), Ok(Arrival::Duplicate));
        pages.placed(4..7);
        assert_eq!(pages.fault(5), FaultAction::Wake);
        assert!(matches!(
            pages.fault(3),
            FaultAction::Place(Content::Staged, _)
        ));
    }

    #[test]
    fn older_never_replaces_newer() {
        let mut pages = DestinationPages::new(4096);
        pages.announce(1, &list(&[7])).unwrap();
        // Streams are not ordered: version 2 overtakes version 1 and its own announcement.
        assert_eq!(pages.arrive(7, 2, 22, false), Ok(Arrival::Stage));
        assert_eq!(pages.arrive(7, 1, 11, false), Ok(Arrival::Duplicate));
        assert_eq!(pages.outstanding(), 1);
        pages.announce(2, &list(&[7, 8])).unwrap();
        assert_eq!(pages.outstanding(), 1);
        assert_eq!(
            pages.announce(1, &list(&[9])),
            Err(PageError::VersionOrder {
                announced: 1,
                latest: 2
            })
        );
        assert_eq!(
            pages.announce(2, &list(&[8])),
            Ok(()),
            "a second part of the same list"
        );
        assert_eq!(pages.announce(3, &list(&[4095])), Ok(()));
        assert_eq!(
            pages.arrive(4096, 3, 0, false),
            Err(PageError::BeyondMemory(4096))
        );
    }

    #[test]
    fn what_has_changed_most_is_placed_first() {
        let mut pages = DestinationPages::new(3 * REGION_PAGES);
        let all = list(&(0..3 * REGION_PAGES).collect::<Vec<_>>());
        pages.announce(1, &all).unwrap();
        for page in 0..3 * REGION_PAGES {
            pages.arrive(page, 1, 1, false).unwrap();
        }
        pages.announce(2, &list(&[1030, 1031, 5])).unwrap();
        for page in [1030, 1031, 5] {
            pages.arrive(page, 2, 1, false).unwrap();
        }
        pages.hand_over(3, &RangeList::EMPTY).unwrap();
        let mut placed = Vec::new();
        while let Some((_, run)) = pages.next_run(400) {
            placed.push(run.clone());
            pages.placed(run);
        }
        assert_eq!(
            placed,
            [
                1024..1424,
                1424..1536,
                0..400,
                400..512,
                512..912,
                912..1024
            ]
        );
        assert!(pages.is_complete());
    }

    #[test]
    fn what_is_withdrawn_is_not_waited_for_until_it_is_announced_again() {
        let mut pages = DestinationPages::new(4096);
        pages.announce(1, &list(&[1, 2, 3])).unwrap();
        pages.arrive(1, 1, 1, false).unwrap();
        pages.withdraw(&list(&[1, 2])).unwrap();
        assert_eq!(pages.outstanding(), 1, "page 3");
        pages.arrive(3, 1, 3, false).unwrap();
        assert_eq!(pages.outstanding(), 0);
        assert_eq!(pages.hand_over(2, &list(&[2])), Ok(1));
        assert_eq!(pages.fault(2), FaultAction::Request);
        assert_eq!(pages.withdraw(&list(&[2])), Err(PageError::Phase));
        let mut pages = DestinationPages::new(64);
        assert!(pages.withdraw(&list(&[64])).is_err());
    }

    #[test]
    fn what_arrived_can_be_referred_to_until_it_is_replaced_or_placed() {
        let mut pages = DestinationPages::new(4096);
        pages.announce(1, &list(&[1, 2])).unwrap();
        assert_eq!(pages.holds(1, 1), None);
        pages.arrive(1, 1, 1, false).unwrap();
        assert_eq!(pages.holds(1, 1), Some(Content::Staged));
        assert_eq!(pages.holds(1, 2), None);
        assert_eq!(pages.holds(5000, 1), None);
        pages.hand_over(2, &list(&[1, 2])).unwrap();
        assert_eq!(
            pages.holds(1, 1),
            Some(Content::Staged),
            "stale: never placed, but good as a base"
        );
        assert!(!pages.is_superseded(1, 2));
        pages.arrive(1, 2, 3, false).unwrap();
        assert_eq!(pages.holds(1, 1), None);
        assert!(pages.is_superseded(1, 2));
    }

    #[test]
    fn stale_pages_are_missing_and_holes_are_zero() {
        let mut pages = DestinationPages::new(4096);
        pages.announce(1, &list(&[1, 2, 3])).unwrap();
        for page in [1, 2, 3] {
            pages.arrive(page, 1, 1, page == 3).unwrap();
        }
        assert_eq!(pages.hand_over(2, &list(&[2])), Ok(1));
        assert_eq!(pages.fault(2), FaultAction::Request);
        assert_eq!(pages.fault(2), FaultAction::Wait);
        assert_eq!(pages.fault(1), FaultAction::Place(Content::Staged, 1..2));
        assert_eq!(pages.fault(1), FaultAction::Wait);
        pages.placed(1..2);
        assert_eq!(pages.fault(1), FaultAction::Wake);
        assert_eq!(pages.arrive(2, 1, 1, false), Ok(Arrival::Duplicate));
        assert_eq!(pages.arrive(2, 2, 5, false), Ok(Arrival::Place));
        assert_eq!(pages.arrive(2, 2, 5, false), Ok(Arrival::Duplicate));
        pages.placed(2..3);
        assert_eq!(pages.take_holes(0..2048, 3000), []);
        let holes = pages.take_holes(0..4096, 1000);
        assert_eq!((holes.len(), &holes[0]), (1, &(4..4096)));
        assert_eq!(pages.next_run(512), Some((Content::Zero, 0..1)));
        assert_eq!(pages.next_run(512), Some((Content::Zero, 3..4)));
        assert_eq!(pages.next_run(512), None);
        assert!(!pages.is_complete());
        pages.placed(0..1);
        pages.placed(3..4);
        assert!(pages.is_complete());
    }

    #[test]
    fn what_is_used_is_counted() {
        let mut pages = DestinationPages::new(4096);
        pages.announce(1, &list(&[1, 2, 3])).unwrap();
        pages.announce(2, &list(&[2, 4])).unwrap();
        assert_eq!(pages.used(), 4);
        pages.arrive(1, 1, 1, false).unwrap();
        pages.withdraw(&list(&[1, 3])).unwrap();
        assert_eq!(pages.used(), 3, "3 is a hole again, 1 has come");
        pages.arrive(9, 1, 9, false).unwrap();
        pages.hand_over(3, &list(&[3, 9])).unwrap();
        assert_eq!(pages.used(), 5);
        let holes = (0..4096).filter(|page| pages.is_hole(*page)).count();
        assert_eq!(holes, 4096 - 5);
    }

    /// A table in which pages 1 and 2 are in place, with hashes of 11 and 12.
    fn complete() -> DestinationPages {
        let mut pages = DestinationPages::new(4096);
        pages.hand_over(1, &list(&[1, 2])).unwrap();
        for page in [1, 2] {
            pages.arrive(page, 1, u64::from(page) + 10, false).unwrap();
            pages.placed(page..page + 1);
        }
        while let Some((_, run)) = pages.next_run(4096) {
            pages.placed(run);
        }
        assert!(pages.is_complete());
        pages
    }

    #[test]
    fn a_page_that_differs_comes_again_and_is_compared_but_never_placed() {
        let mut pages = complete();
        assert_eq!(pages.dispute([1, 3, 5000]), [1], "holes are no pages");
        assert_eq!((pages.disputes(), pages.is_disputed(2)), (1, false));
        assert_eq!(pages.arrive(1, 1, 11, false), Ok(Arrival::Duplicate));
        assert!(pages.is_complete(), "it stays in place");

        // The account of it was wrong, and memory is as the source's.
        pages.compare(1, 99, 99);
        assert_eq!((pages.leaf_hashes(0)[1], pages.disputes()), (99, 0));
        // Only what is disputed is compared.
        pages.compare(2, 99, 99);
        assert_eq!(pages.leaf_hashes(0)[2], 12);
        // Memory has something else: it differs, and goes on to.
        pages.dispute([2]);
        pages.compare(2, 99, 98);
        assert_eq!((pages.leaf_hashes(0)[2], pages.disputes()), (12, 0));
    }

    #[test]
    fn what_is_missing_is_told_after_a_reconnect() {
        let mut pages = DestinationPages::new(4096);
        pages.hand_over(1, &list(&[10, 11, 12])).unwrap();
        pages.fault(12);
        pages.arrive(10, 1, 1, false).unwrap();
        let (missing, wanted) = pages.missing();
        assert_eq!(missing.iter().collect::<Vec<_>>(), [11, 12]);
        assert_eq!(wanted, [12]);
    }
}
