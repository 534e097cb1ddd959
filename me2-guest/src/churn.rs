//! An allocator at work: blocks of pages are allocated, filled and freed, and their pages used again.
//!
//! ```text
//! share: | arena: spans of 64 pages, each of blocks of one size, 1 to 64 pages | pages that stay as filled |
//!          first page of a block: stamp · in use, or free · contents             ↑ contents are variations of these
//! ```
//! About three quarters of the arena are in use. Three blocks in four that are freed are young, and three in
//! four that are allocated were freed just before, as with any allocator and most programs; the others are
//! anywhere. What is freed keeps its old contents but for the two words that the allocator needs, or is
//! set to zero, as kernels can be told to.

use crate::block::{Block, Recent};
use crate::page::{self, BODY, Check, Damage};
use crate::share::{self, Failure, Pages};
use crate::stream::write_like;
use crate::vary::Variation;
use crate::{Random, scatter};

const SPAN_PAGES: usize = 64;

/// Sizes of blocks, in pages, and how many spans in sixteen are of each.
const SIZES: [usize; 16] = [1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 64];

/// How often to look for a block in the wanted state.
const LOOKS_MAX: usize = 64;

const IN_USE: u64 = u64::from_le_bytes(*b"in use\0\0");
const FREE: u64 = u64::from_le_bytes(*b"free\0\0\0\0");

/// What becomes of pages that are freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freed {
    /// They keep their contents.
    Kept,
    /// They are set to zero.
    Zeroed,
}

/// The arena of one share, and what is being done in it.
#[derive(Debug, Clone)]
pub struct Churn {
    seed: u64,
    arena: usize,
    stays: u64,
    freed: Freed,
    random: Random,
    /// Pages in use.
    used: usize,
    /// The version of what is written next. Versions do not start again when a page was zero meanwhile.
    version: u32,
    young: Recent,
    free: Recent,
    job: Job,
}

impl Churn {
    /// An arena of the first `arena` of the `pages` of a share: at least one, and not all.
    pub fn new(seed: u64, pages: usize, arena: usize, freed: Freed, random: Random) -> Self {
        assert!(
            0 < arena && arena < pages,
            "contents come from pages behind the arena"
        );
        Self {
            seed,
            arena,
            stays: (pages - arena) as u64,
            freed,
            random,
            used: 0,
            version: 1,
            young: Recent::default(),
            free: Recent::default(),
            job: Job::None,
        }
    }

    /// Makes blocks of pages that are filled, three quarters of them in use.
    pub fn build(&mut self, pages: &mut impl Pages) {
        let mut next = 0;
        while next < self.arena {
            let block = self.block_of(next);
            next = block.end();
            let in_use = self.random.below(4) > 0;
            self.used += if in_use { block.pages } else { 0 };
            if !in_use && self.freed == Freed::Zeroed {
                for local in block.first..block.end() {
                    pages.page(local).fill(0);
                    pages.set_version(local, 0);
                }
            } else {
                pages.page(block.first)[BODY] = if in_use { IN_USE } else { FREE };
                share::seal(pages, block.first);
            }
        }
    }

    /// Writes one page, having checked what it was. How many pages were checked.
    pub fn step(&mut self, pages: &mut impl Pages) -> Result<u64, Failure> {
        let local = self.next_page(pages)?;
        self.version = page::next_version(self.version);
        share::verify(pages, local)?;
        let mut verified = 1;
        match &mut self.job {
            Job::None => {}
            Job::Fill {
                block,
                written,
                from,
                variation,
            } => {
                let source = self.arena + ((*from + *written as u64) % self.stays) as usize;
                share::verify(pages, source)?;
                verified += 1;
                let head: &[u64] = if *written == 0 { &[IN_USE, 0] } else { &[] };
                write_like(pages, local, source, variation, self.version, head);
                *written += 1;
                if *written == block.pages {
                    self.used += block.pages;
                    self.young.push(*block);
                    self.job = Job::None;
                }
            }
            Job::Free { block, cleared } => {
                match self.freed {
                    Freed::Kept => {
                        // The allocator's list of free blocks goes through the blocks.
                        let link = self.free.last().map_or(0, |block| block.first as u64);
                        page::replace(pages.page(local), BODY, &[FREE, link], self.version);
                        pages.set_version(local, self.version);
                        *cleared = block.pages;
                    }
                    Freed::Zeroed => {
                        pages.page(local).fill(0);
                        pages.set_version(local, 0);
                        *cleared += 1;
                    }
                }
                if *cleared == block.pages {
                    self.used -= block.pages;
                    self.free.push(*block);
                    self.job = Job::None;
                }
            }
        }
        Ok(verified)
    }

    /// The page of the share that is written next.
    pub fn next_page(&mut self, pages: &mut impl Pages) -> Result<usize, Failure> {
        loop {
            match self.job {
                Job::None => self.job = self.choose(pages)?,
                Job::Fill { block, written, .. } => return Ok(block.first + written),
                Job::Free { block, cleared } => return Ok(block.first + cleared),
            }
        }
    }

    fn choose(&mut self, pages: &mut impl Pages) -> Result<Job, Failure> {
        let full = self.used >= self.arena / 4 * 3;
        let (block, free) = self.find(pages, !full)?;
        if !free {
            return Ok(Job::Free { block, cleared: 0 });
        }
        Ok(Job::Fill {
            block,
            written: 0,
            from: self.random.below(self.stays),
            variation: Variation::new(self.random.next()),
        })
    }

    /// A block that is free, or not, as wanted; if none turns up, another. And whether it is free.
    fn find(&mut self, pages: &mut impl Pages, free: bool) -> Result<(Block, bool), Failure> {
        let mut block = self.any_block();
        if self.random.below(4) > 0 {
            let recent = if free {
                self.free.pop()
            } else {
                self.young.any(&mut self.random)
            };
            block = recent.unwrap_or(block);
        }
        for _ in 0..LOOKS_MAX {
            if is_free(pages, block)? == free {
                return Ok((block, free));
            }
            block = self.any_block();
        }
        Ok((block, is_free(pages, block)?))
    }

    fn any_block(&mut self) -> Block {
        let local = self.random.below(self.arena as u64) as usize;
        self.block_of(local)
    }

    fn block_of(&self, local: usize) -> Block {
        let span = local / SPAN_PAGES;
        let size = SIZES[(scatter(self.seed ^ scatter(span as u64)) % 16) as usize];
        let first = local / size * size;
        Block {
            first,
            pages: size.min(self.arena - first),
        }
    }
}

/// What the block's first page says.
fn is_free(pages: &mut impl Pages, block: Block) -> Result<bool, Failure> {
    if pages.version(block.first) == 0 {
        return Ok(true);
    }
    match pages.page(block.first)[BODY] {
        FREE => Ok(true),
        IN_USE => Ok(false),
        found => Err(Failure {
            address: pages.address(block.first),
            damage: Damage {
                check: Check::Value,
                expected: IN_USE,
                found,
            },
        }),
    }
}

#[derive(Debug, Clone)]
enum Job {
    None,
    Fill {
        block: Block,
        written: usize,
        /// Where contents come from: the page, counted from the arena's end.
        from: u64,
        variation: Variation,
    },
    Free {
        block: Block,
        cleared: usize,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::{Memory, filled};

    const PAGES: usize = 1500;
    const ARENA: usize = 1010;

    fn churn(freed: Freed) -> (Churn, Memory) {
        let mut memory = filled(PAGES);
        let mut churn = Churn::new(1, PAGES, ARENA, freed, Random::new(5));
        churn.build(&mut memory);
        (churn, memory)
    }

    fn blocks(churn: &Churn) -> Vec<Block> {
        let mut blocks = vec![churn.block_of(0)];
        while blocks[blocks.len() - 1].end() < ARENA {
            blocks.push(churn.block_of(blocks[blocks.len() - 1].end()));
        }
        blocks
    }

    #[test]
    fn blocks_of_all_sizes_cover_the_arena() {
        let (churn, _) = churn(Freed::Kept);
        let blocks = blocks(&churn);
        assert!(blocks.windows(2).all(|pair| pair[0].end() == pair[1].first));
        assert_eq!(blocks[blocks.len() - 1].end(), ARENA);
        for size in [1, 2, 4, 8, 16, 32] {
            assert!(blocks.iter().any(|block| block.pages == size), "{size}");
        }
        for local in 0..ARENA {
            let block = churn.block_of(local);
            assert!((block.first..block.end()).contains(&local));
        }
    }

    #[test]
    fn three_quarters_stay_in_use_and_everything_verifies() {
        for freed in [Freed::Kept, Freed::Zeroed] {
            let (mut churn, mut memory) = churn(freed);
            let stays = memory.pages[ARENA..].to_vec();
            for _ in 0..30_000 {
                assert!(churn.step(&mut memory).expect("nothing is wrong") <= 2);
                let used = churn.used * 100 / ARENA;
                assert!((55..=85).contains(&used), "{used}%");
            }
            assert_eq!(memory.pages[ARENA..], stays);
            for local in 0..PAGES {
                share::verify(&mut memory, local).expect("all is as it was written");
            }
            let in_use: usize = blocks(&churn)
                .into_iter()
                .filter(|block| !is_free(&mut memory, *block).expect("the block is sound"))
                .map(|block| block.pages)
                .sum();
            assert!(in_use.abs_diff(churn.used) <= SPAN_PAGES);
            let zeros = (0..ARENA).filter(|local| memory.versions[*local] == 0);
            let zeros = zeros.count() * 100 / ARENA;
            match freed {
                Freed::Kept => assert!(zeros < 5, "{zeros}%"),
                Freed::Zeroed => assert!((10..45).contains(&zeros), "{zeros}%"),
            }
        }
    }

    #[test]
    fn freed_pages_keep_their_contents() {
        let (mut churn, mut memory) = churn(Freed::Kept);
        let mut freed = 0;
        for _ in 0..30_000 {
            let local = churn.next_page(&mut memory).expect("nothing is wrong");
            let before = memory.pages[local];
            let frees = matches!(churn.job, Job::Free { .. });
            churn.step(&mut memory).expect("nothing is wrong");
            if frees {
                assert_eq!(memory.pages[local][BODY + 2..], before[BODY + 2..]);
                freed += 1;
            }
        }
        assert!(freed > 200, "{freed} blocks");
    }

    #[test]
    fn versions_go_on_where_pages_were_zero() {
        let (mut churn, mut memory) = churn(Freed::Zeroed);
        let mut last = vec![0; PAGES];
        for _ in 0..20_000 {
            let local = churn.next_page(&mut memory).expect("nothing is wrong");
            churn.step(&mut memory).expect("nothing is wrong");
            let version = memory.versions[local];
            assert!(version == 0 || version > last[local]);
            last[local] = version.max(last[local]);
        }
    }

    #[test]
    fn damage_is_noticed() {
        for freed in [Freed::Kept, Freed::Zeroed] {
            let (mut churn, mut memory) = churn(freed);
            for _ in 0..100 {
                churn.step(&mut memory).expect("nothing is wrong");
            }
            let local = churn.next_page(&mut memory).expect("nothing is wrong");
            share::corrupt(&mut memory, local);
            assert!(churn.step(&mut memory).is_err());
            // What says whether a block is free.
            let block = churn.block_of(500);
            memory.pages[block.first][BODY] ^= 1;
            memory.versions[block.first] = 1;
            assert!(is_free(&mut memory, block).is_err());
        }
    }
}
