//! Which pages are new: not zero, not seen before, nor made of what was seen long before.
//!
//! A page is known again by *anchors*, as long-distance matchers do it: of all stretches of 64 bytes
//! in it, at whatever offset, those whose rolling hash has a certain form. A stretch that comes
//! again has the same hash, wherever it lies.

use std::collections::{HashMap, HashSet};

use xxhash_rust::xxh3::xxh3_64;

use super::{PAGE_BYTES, Page};

/// What has been seen so far.
#[derive(Debug, Default)]
pub(crate) struct Distinct {
    /// Hashes of pages.
    pages: HashSet<u64>,
    /// Anchors, with the number of the page in which each was last seen.
    anchors: HashMap<u64, u32>,
    kept: u32,
    found: Vec<u64>,
}

/// A repeat within so many pages before is what every compressor finds: zstd's window at level 3.
const NEAR_PAGES: u32 = 512;

/// A page is left out if more than one in so many of its anchors was seen long before.
const FAR_ANCHORS_ONE_IN: usize = 8;

/// Bytes of a stretch: the rolling hash forgets everything older.
const STRETCH_BYTES: usize = 64;

/// Of so many stretches, one is an anchor.
const STRETCHES_PER_ANCHOR_LOG2: u32 = 7;

impl Distinct {
    /// Whether a page is new; if so, it is remembered.
    pub(crate) fn is_new(&mut self, page: &Page) -> bool {
        if page.iter().all(|byte| *byte == 0) || !self.pages.insert(xxh3_64(page)) {
            return false;
        }
        find_anchors(page, &mut self.found);
        let far = |anchor| {
            let seen = self.anchors.get(anchor);
            seen.is_some_and(|page| self.kept - page > NEAR_PAGES)
        };
        let far = self.found.iter().filter(|anchor| far(anchor)).count();
        if far * FAR_ANCHORS_ONE_IN > self.found.len() {
            return false;
        }
        let page_number = self.kept;
        self.anchors
            .extend(self.found.iter().map(|anchor| (*anchor, page_number)));
        self.kept += 1;
        true
    }
}

/// The different anchors of a page.
fn find_anchors(page: &Page, anchors: &mut Vec<u64>) {
    anchors.clear();
    let mut hash = 0_u64;
    for (at, byte) in page.iter().enumerate() {
        hash = (hash << 1).wrapping_add(GEAR[usize::from(*byte)]);
        // Only the highest bits depend on a whole stretch.
        if hash >> (64 - STRETCHES_PER_ANCHOR_LOG2) == 0 && at + 1 >= STRETCH_BYTES {
            anchors.push(hash);
        }
    }
    anchors.sort_unstable();
    anchors.dedup();
}

const _: () = assert!(STRETCH_BYTES == u64::BITS as usize && PAGE_BYTES > STRETCH_BYTES);

/// A random number for each byte.
static GEAR: [u64; 256] = gear();

const fn gear() -> [u64; 256] {
    let mut table = [0; 256];
    let mut state = 0x6d65_3220_6765_6172_u64;
    let mut at = 0;
    while at < table.len() {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Noise that differs by `seed`.
    fn noise(seed: u64) -> Page {
        let mut page = [0; PAGE_BYTES];
        for (at, word) in page.chunks_exact_mut(8).enumerate() {
            let number = xxh3_64(&(seed << 32 | at as u64).to_le_bytes());
            word.copy_from_slice(&number.to_le_bytes());
        }
        page
    }

    #[test]
    fn zeros_and_exact_copies_are_not_new() {
        let mut distinct = Distinct::default();
        assert!(!distinct.is_new(&[0; PAGE_BYTES]));
        assert!(distinct.is_new(&noise(1)));
        assert!(!distinct.is_new(&noise(1)));
        assert!(distinct.is_new(&noise(2)));
    }

    #[test]
    fn most_of_a_page_from_long_ago_is_noticed_at_any_offset() {
        let mut distinct = Distinct::default();
        let old = noise(0);
        assert!(distinct.is_new(&old));
        for seed in 1..=u64::from(NEAR_PAGES) + 1 {
            assert!(distinct.is_new(&noise(seed)));
        }
        let mut moved = noise(1 << 20);
        moved[1003..].copy_from_slice(&old[..PAGE_BYTES - 1003]);
        assert!(!distinct.is_new(&moved));
        let mut mostly_new = noise(1 << 21);
        mostly_new[3900..].copy_from_slice(&old[..196]);
        assert!(distinct.is_new(&mostly_new));
    }

    #[test]
    fn repeats_nearby_belong_to_the_memory() {
        let mut distinct = Distinct::default();
        let old = noise(0);
        assert!(distinct.is_new(&old));
        let mut near = old;
        near[0] ^= 1;
        assert!(distinct.is_new(&near));
    }

    #[test]
    fn anchors_do_not_depend_on_the_offset() {
        let mut here = [0; PAGE_BYTES];
        let mut there = [0; PAGE_BYTES];
        let stretch = &noise(3)[..2000];
        here[5..2005].copy_from_slice(stretch);
        there[2001..4001].copy_from_slice(stretch);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        find_anchors(&here, &mut first);
        find_anchors(&there, &mut second);
        let common = first
            .iter()
            .filter(|anchor| second.contains(anchor))
            .count();
        // (2000 - 64) / 128 is 15.
        assert!(common >= 5, "{common} of {}", first.len());
    }
}
