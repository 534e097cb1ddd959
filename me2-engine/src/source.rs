//! The source's page table: which version of each page was announced and sent, and in
//! post-copy, which pages nobody has sent yet and in what order they go.

use std::{collections::VecDeque, ops::Range};

use me2_wire::{PageIndex, Version, message::Likely, range::RangeList};

use crate::{bitmap::Bitmap, tree};

/// Pages behind one that was asked for that are pushed before all others, for each that was likely to
/// be wanted: where one was missing, more are.
const FOCUS_PAGES_A_LIKELY: PageIndex = 16;
/// Places that faulted last, and are pushed first.
const FOCUSES_MAX: usize = 8;
/// Pages of one answer, whatever was asked for.
pub const ANSWER_PAGES_MAX: usize = 128;

/// Version and state of every page at the source.
#[derive(Debug)]
pub struct SourcePages {
    announced: Vec<Version>,
    sent_hash: Vec<u64>,
    version: Version,
    /// Announced in the latest version, but not handed to a stream yet.
    unsent: Bitmap,
    /// Asked for and answered, even if it was on its way already: answered once.
    answered: Bitmap,
    push_order: Vec<PageIndex>,
    push_cursor: usize,
    /// What is pushed next, since a fault was near, the latest last.
    focuses: VecDeque<Range<PageIndex>>,
    /// Counts the connections: who claims for an old one gets nothing.
    generation: u64,
}

impl SourcePages {
    /// A table in which no page was ever sent: `pages` holes.
    pub fn new(pages: PageIndex) -> Self {
        Self {
            announced: vec![0; pages as usize],
            sent_hash: vec![0; pages as usize],
            version: 0,
            unsent: Bitmap::new(pages),
            answered: Bitmap::new(pages),
            push_order: Vec::new(),
            push_cursor: 0,
            focuses: VecDeque::new(),
            generation: 0,
        }
    }

    /// Begins the next version with these pages, one bit a page: gives it and what to announce.
    /// Pages of the version before that were not sent are part of this one only if they are in
    /// `pages`.
    pub fn begin_version(&mut self, pages: &Bitmap) -> (Version, RangeList) {
        assert_eq!(pages.len(), self.unsent.len(), "one bit a page");
        self.version += 1;
        for page in pages.iter() {
            self.announced[page as usize] = self.version;
        }
        self.unsent = pages.clone();
        self.answered = Bitmap::new(pages.len());
        (self.version, RangeList::from_bitmap(pages.words()))
    }

    /// Pages that were never announced: holes at the destination.
    pub fn is_hole(&self, page: PageIndex) -> bool {
        self.announced[page as usize] == 0
    }

    /// Version of a page that the destination will take for final.
    pub fn version_of(&self, page: PageIndex) -> Version {
        self.announced[page as usize]
    }

    /// The connection that claims are for.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Takes a page for sending: true for the first who asks, false if it is on its way.
    pub fn claim(&mut self, page: PageIndex) -> bool {
        page < self.unsent.len() && self.unsent.clear(page)
    }

    /// Notes the hash of what was sent of a claimed page.
    pub fn sent(&mut self, page: PageIndex, hash: u64) {
        self.sent_hash[page as usize] = hash;
    }

    /// Sets the order in which pages are pushed; pages that it leaves out follow by index.
    pub fn set_push_order(&mut self, mut order: Vec<PageIndex>) {
        let mut rest = self.unsent.clone();
        order.retain(|page| *page < rest.len() && rest.clear(*page));
        order.extend(rest.iter());
        self.push_order = order;
        self.push_cursor = 0;
        self.focuses.clear();
    }

    /// Claims up to `count` pages: those near the latest faults, then in push order.
    pub fn claim_push(&mut self, count: usize) -> Vec<PageIndex> {
        let mut claimed = Vec::with_capacity(count);
        while claimed.len() < count
            && let Some(page) = self.next_to_push()
        {
            if self.unsent.clear(page) {
                claimed.push(page);
            }
        }
        claimed
    }

    fn next_to_push(&mut self) -> Option<PageIndex> {
        while let Some(focus) = self.focuses.back_mut() {
            if let Some(page) = focus.next() {
                return Some(page);
            }
            self.focuses.pop_back();
        }
        let page = self.push_order.get(self.push_cursor).copied();
        self.push_cursor += 1;
        page
    }

    /// The push goes on behind this page, since a vCPU waits for it and walks that way: the farther, the
    /// longer it has done so.
    fn focus(&mut self, page: PageIndex, likely_pages: u8) {
        if self.focuses.len() >= FOCUSES_MAX {
            self.focuses.pop_front();
        }
        let end = page
            .saturating_add(FOCUS_PAGES_A_LIKELY * PageIndex::from(likely_pages))
            .min(self.unsent.len());
        self.focuses.push_back(page..end);
    }

    /// What answers a request: the wanted pages, even those on their way (what the push has claimed
    /// may be far back in a queue; a page is answered once), and unsent pages behind them that are
    /// likely to be wanted next. Pages that do not exist, or hold nothing, are left out.
    pub fn claim_answer(&mut self, wanted: &[PageIndex], likely: Likely) -> Vec<PageIndex> {
        let mut claimed = Vec::new();
        for page in wanted.iter().copied().take(ANSWER_PAGES_MAX) {
            if page < self.unsent.len() && !self.is_hole(page) && self.answered.set(page) {
                self.unsent.clear(page);
                claimed.push(page);
            }
        }
        for first in claimed.clone() {
            for step in 1..=i64::from(likely.pages) {
                let page = i64::from(first) + step * i64::from(likely.stride);
                let Ok(page) = PageIndex::try_from(page) else {
                    break;
                };
                if claimed.len() >= ANSWER_PAGES_MAX || page >= self.unsent.len() {
                    break;
                }
                if self.unsent.clear(page) {
                    claimed.push(page);
                }
            }
            if likely.stride == 1 && likely.pages > 0 {
                self.focus(first, likely.pages);
            }
        }
        claimed
    }

    /// These pages differ at the destination: they are answered once more.
    pub fn answer_again(&mut self, pages: &[PageIndex]) {
        for page in pages {
            self.answered.clear(*page);
        }
    }

    /// After a reconnect: these pages, and no others, must be sent (again). Holes among them are
    /// left out: the peer made them up.
    pub fn reset_unsent(&mut self, missing: &Bitmap) {
        assert_eq!(missing.len(), self.unsent.len(), "one bit a page");
        self.generation += 1;
        self.unsent = Bitmap::new(missing.len());
        self.answered = Bitmap::new(missing.len());
        for page in missing
            .iter()
            .filter(|page| self.announced[*page as usize] != 0)
        {
            self.unsent.set(page);
        }
        let order = std::mem::take(&mut self.push_order);
        self.set_push_order(order);
    }

    /// Pages of the latest version that nobody has claimed.
    pub fn unsent(&self) -> &Bitmap {
        &self.unsent
    }

    /// A pass ends early: gives up these pages, which are then sent in a later version only.
    pub fn take_unsent(&mut self) -> Bitmap {
        let empty = Bitmap::new(self.unsent.len());
        std::mem::replace(&mut self.unsent, empty)
    }

    /// How many these are.
    pub fn unsent_count(&self) -> u64 {
        self.unsent.count()
    }

    /// Pages that are not holes.
    pub fn used_count(&self) -> u64 {
        self.announced
            .iter()
            .filter(|version| **version != 0)
            .count() as u64
    }

    /// The hash tree over what was sent.
    pub fn leaves(&self) -> Vec<u64> {
        tree::leaves(&self.sent_hash)
    }

    /// Hashes of the pages of one leaf.
    pub fn leaf_hashes(&self, leaf: usize) -> &[u64] {
        tree::leaf(&self.sent_hash, leaf)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WALK: Likely = Likely {
        pages: 15,
        stride: 1,
    };

    fn bitmap(pages: &[u32]) -> Bitmap {
        let mut bitmap = Bitmap::new(1024);
        pages.iter().for_each(|page| _ = bitmap.set(*page));
        bitmap
    }

    #[test]
    fn a_page_is_claimed_once() {
        let mut pages = SourcePages::new(1024);
        let (version, announced) = pages.begin_version(&bitmap(&[5, 6, 7, 900]));
        assert_eq!((version, announced.count()), (1, 4));
        pages.set_push_order(vec![900, 900, 5000]);
        assert_eq!(pages.claim_answer(&[6, 6, 8, 2000], WALK), [6, 7]);
        assert_eq!(pages.claim_push(10), [900, 5]);
        assert_eq!(
            pages.claim_answer(&[900], WALK),
            [900],
            "in the push's queue: answered all the same"
        );
        assert_eq!(pages.claim_answer(&[900], WALK), [], "but once");
        assert!(!pages.claim(5));
        assert_eq!(pages.unsent_count(), 0);
        assert!(pages.is_hole(8) && !pages.is_hole(7));
    }

    #[test]
    fn what_differs_is_answered_once_more() {
        let mut pages = SourcePages::new(1024);
        pages.begin_version(&bitmap(&[5, 6]));
        assert_eq!(pages.claim_answer(&[5], WALK), [5, 6]);
        assert_eq!(pages.claim_answer(&[5], WALK), []);
        pages.answer_again(&[5, 6]);
        assert_eq!(pages.claim_answer(&[5, 6], WALK), [5, 6]);
        assert_eq!(pages.claim_answer(&[5, 6], WALK), []);
    }

    fn full() -> SourcePages {
        let mut pages = SourcePages::new(4096);
        pages.begin_version(&Bitmap::full(4096));
        pages.set_push_order(Vec::new());
        pages
    }

    #[test]
    fn an_answer_is_bounded() {
        let mut pages = full();
        let scattered: Vec<u32> = (0..64).map(|number| number * 32).collect();
        let claimed = pages.claim_answer(&scattered, WALK);
        assert_eq!(
            (claimed.len(), &claimed[..64]),
            (ANSWER_PAGES_MAX, &scattered[..])
        );
        let many = (2048..3048).collect::<Vec<_>>();
        assert_eq!(pages.claim_answer(&many, WALK).len(), ANSWER_PAGES_MAX);
    }

    #[test]
    fn an_answer_goes_where_the_vcpu_goes() {
        let likely = |pages, stride| Likely { pages, stride };
        let mut pages = full();
        assert_eq!(pages.claim_answer(&[100], likely(0, 0)), [100]);
        assert_eq!(
            pages.claim_answer(&[200], likely(3, -100)),
            [200, 0],
            "one is on its way, one would be before the first page"
        );
        assert_eq!(
            pages.claim_answer(&[4090], likely(200, 2)),
            [4090, 4092, 4094]
        );
        assert_eq!(pages.claim_answer(&[7], likely(255, i32::MAX)), [7]);
        assert_eq!(pages.claim_answer(&[8], likely(255, i32::MIN)), [8]);
    }

    #[test]
    fn the_push_goes_on_where_a_walk_has_faulted() {
        let mut pages = full();
        assert_eq!(pages.claim_push(2), [0, 1]);
        pages.claim_answer(&[1000], WALK);
        assert_eq!(pages.claim_push(2), [1016, 1017], "behind the answer");
        pages.claim_answer(
            &[3000],
            Likely {
                pages: 0,
                stride: 0,
            },
        );
        assert_eq!(pages.claim_push(1), [1018], "a pointer leads nowhere");
        assert_eq!(pages.claim_push(300).last(), Some(&80), "and then in order");
    }

    #[test]
    fn after_a_reconnect_only_the_missing_are_sent() {
        let mut pages = SourcePages::new(1024);
        pages.begin_version(&bitmap(&[1, 2, 3]));
        pages.set_push_order(vec![3, 2, 1]);
        assert_eq!(pages.claim_push(2), [3, 2]);
        pages.reset_unsent(&bitmap(&[3, 900]));
        assert_eq!(pages.claim_push(9), [3]);
    }
}
