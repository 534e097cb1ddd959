//! The hashes of what was placed, and pages whose hash is not the source's.

use std::ops::Range;

use me2_wire::PageIndex;

use super::{DestinationPages, Page, State};
use crate::tree;

impl DestinationPages {
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
}
