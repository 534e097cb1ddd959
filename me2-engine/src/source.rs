//! The source's page table: which version of each page was announced and sent, and in
//! post-copy, which pages nobody has sent yet and in what order they go.

use me2_wire::{PageIndex, Version, range::RangeList};

use crate::{bitmap::Bitmap, tree};

/// Neighbours that travel with a page that was asked for.
pub const NEIGHBOURS_MAX: usize = 15;
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
    }

    /// Claims up to `count` pages in push order.
    pub fn claim_push(&mut self, count: usize) -> Vec<PageIndex> {
        let mut claimed = Vec::with_capacity(count);
        while claimed.len() < count && self.push_cursor < self.push_order.len() {
            let page = self.push_order[self.push_cursor];
            self.push_cursor += 1;
            if self.unsent.clear(page) {
                claimed.push(page);
            }
        }
        claimed
    }

    /// What answers a request: the wanted pages, even those on their way (what the push has claimed
    /// may be far back in a queue; a page is answered once), and unsent neighbours behind them.
    /// Pages that do not exist, or hold nothing, are left out.
    pub fn claim_answer(&mut self, wanted: &[PageIndex]) -> Vec<PageIndex> {
        let mut claimed = Vec::new();
        for page in wanted.iter().copied().take(ANSWER_PAGES_MAX) {
            if page < self.unsent.len() && !self.is_hole(page) && self.answered.set(page) {
                self.unsent.clear(page);
                claimed.push(page);
            }
        }
        for first in claimed.clone() {
            let end = first
                .saturating_add(1 + NEIGHBOURS_MAX as u32)
                .min(self.unsent.len());
            for page in first + 1..end {
                if claimed.len() >= ANSWER_PAGES_MAX || !self.unsent.clear(page) {
                    break;
                }
                claimed.push(page);
            }
        }
        claimed
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
        assert_eq!(pages.claim_answer(&[6, 6, 8, 2000]), [6, 7]);
        assert_eq!(pages.claim_push(10), [900, 5]);
        assert_eq!(
            pages.claim_answer(&[900]),
            [900],
            "in the push's queue: answered all the same"
        );
        assert_eq!(pages.claim_answer(&[900]), [], "but once");
        assert!(!pages.claim(5));
        assert_eq!(pages.unsent_count(), 0);
        assert!(pages.is_hole(8) && !pages.is_hole(7));
    }

    #[test]
    fn an_answer_is_bounded() {
        let mut pages = SourcePages::new(4096);
        let mut all = Bitmap::new(4096);
        (0..4096).for_each(|page| _ = all.set(page));
        pages.begin_version(&all);
        let scattered: Vec<u32> = (0..64).map(|number| number * 32).collect();
        let claimed = pages.claim_answer(&scattered);
        assert_eq!(
            (claimed.len(), &claimed[..64]),
            (ANSWER_PAGES_MAX, &scattered[..])
        );
        assert_eq!(
            pages.claim_answer(&(2048..3048).collect::<Vec<_>>()).len(),
            ANSWER_PAGES_MAX
        );
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
