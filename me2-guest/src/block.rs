//! Blocks of pages, and the memory of an allocator for what it did last.

use crate::Random;

/// Blocks that are remembered.
const REMEMBERED: usize = 64;

/// Pages that are allocated as one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Block {
    /// Its first page in the share.
    pub(crate) first: usize,
    /// How many it has.
    pub(crate) pages: usize,
}

impl Block {
    /// The page behind its last.
    pub(crate) fn end(&self) -> usize {
        self.first + self.pages
    }
}

/// The last blocks that something was done to.
#[derive(Debug, Clone)]
pub(crate) struct Recent {
    blocks: [Block; REMEMBERED],
    count: usize,
    /// Where the next one goes.
    next: usize,
}

impl Default for Recent {
    fn default() -> Self {
        Self {
            blocks: [Block::default(); REMEMBERED],
            count: 0,
            next: 0,
        }
    }
}

impl Recent {
    /// Remembers a block, and forgets the oldest if there are too many.
    pub(crate) fn push(&mut self, block: Block) {
        self.blocks[self.next] = block;
        self.next = (self.next + 1) % REMEMBERED;
        self.count = (self.count + 1).min(REMEMBERED);
    }

    /// The one remembered last.
    pub(crate) fn last(&self) -> Option<Block> {
        (self.count > 0).then(|| self.blocks[(self.next + REMEMBERED - 1) % REMEMBERED])
    }

    /// Forgets the one remembered last.
    pub(crate) fn pop(&mut self) -> Option<Block> {
        let last = self.last()?;
        self.next = (self.next + REMEMBERED - 1) % REMEMBERED;
        self.count -= 1;
        Some(last)
    }

    /// Any of them.
    pub(crate) fn any(&self, random: &mut Random) -> Option<Block> {
        let back = 1 + random.below(self.count.max(1) as u64) as usize;
        (self.count > 0).then(|| self.blocks[(self.next + REMEMBERED - back) % REMEMBERED])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(first: usize) -> Block {
        Block { first, pages: 1 }
    }

    #[test]
    fn the_last_comes_first_and_the_oldest_are_forgotten() {
        let mut recent = Recent::default();
        assert_eq!(
            (recent.pop(), recent.any(&mut Random::new(1))),
            (None, None)
        );
        (0..100).for_each(|first| recent.push(block(first)));
        assert_eq!(recent.last(), Some(block(99)));
        let popped: Vec<Block> = core::iter::from_fn(|| recent.pop()).collect();
        let expected: Vec<Block> = (100 - REMEMBERED..100).rev().map(block).collect();
        assert_eq!(popped, expected);
    }

    #[test]
    fn any_is_each_of_them() {
        let mut recent = Recent::default();
        (0..5).for_each(|first| recent.push(block(first)));
        recent.pop();
        let mut random = Random::new(1);
        let mut seen = [0; 5];
        for _ in 0..400 {
            seen[recent.any(&mut random).expect("there are four").first] += 1;
        }
        assert!(seen[..4].iter().all(|count| *count > 50) && seen[4] == 0);
    }
}
