//! A working set: some pages of a share, scattered over all of it.

use crate::scatter;

/// Which pages belong to it. Each is somewhere in a stretch of its own, so none is in it twice.
#[derive(Debug, Clone)]
pub struct Scattered {
    seed: u64,
    count: u64,
    /// Pages in a stretch.
    stride: u64,
}

impl Scattered {
    /// `count` of the `pages` of a share. Neither is 0, and `count` is not the larger.
    pub fn new(seed: u64, pages: u64, count: u64) -> Self {
        assert!(
            0 < count && count <= pages,
            "the working set is pages of the share"
        );
        Self {
            seed,
            count,
            stride: pages / count,
        }
    }

    /// How many pages it has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The page of the share that is number `index` (below the count) of the working set.
    pub fn page_of(&self, index: u64) -> usize {
        let within = scatter(self.seed ^ index.wrapping_mul(0x100_0001)) % self.stride;
        (index * self.stride + within) as usize
    }

    /// Whether page `local` of the share belongs to it.
    pub fn contains(&self, local: usize) -> bool {
        let index = local as u64 / self.stride;
        index < self.count && self.page_of(index) == local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_pages_are_known_and_scattered() {
        let set = Scattered::new(3, 1000, 90);
        let pages: Vec<usize> = (0..90).map(|index| set.page_of(index)).collect();
        let known: Vec<usize> = (0..1000).filter(|local| set.contains(*local)).collect();
        assert_eq!(pages, known);
        assert!(pages.windows(2).any(|pair| pair[1] - pair[0] > 11));
    }

    #[test]
    fn all_pages_may_belong_to_it() {
        let set = Scattered::new(3, 50, 50);
        assert!((0..50).all(|local| set.contains(local)));
    }
}
