//! One CPU's share of the fill: its pages, and the versions they must have.

use crate::contents::{Filled, Source};
use crate::page::{self, Damage, Page};

/// Access to a share. Page `local` of CPU `c` of `n` is page `local * n + c` of the fill; no page is in
/// two shares, so nothing is ever locked.
pub trait Pages {
    /// How many pages there are.
    fn count(&self) -> usize;
    /// A page's number in the fill.
    fn number(&self, local: usize) -> u64;
    /// A page's physical address.
    fn address(&self, local: usize) -> u64;
    /// The page itself, as it is in memory now.
    fn page(&mut self, local: usize) -> &mut Page;
    /// The version it must have, which is kept outside the page.
    fn version(&self, local: usize) -> u32;
    /// Notes that the page was written in this version.
    fn set_version(&mut self, local: usize, version: u32);
}

/// A page that is not what was written there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// Physical address of the page.
    pub address: u64,
    /// What is wrong with it.
    pub damage: Damage,
}

/// Fills a page with contents and stamps it; a page of zeros has version 0.
pub fn fill(pages: &mut impl Pages, local: usize, source: &Source<'_>) {
    let number = pages.number(local);
    match source.fill(pages.page(local), number) {
        Filled::Zero => pages.set_version(local, 0),
        Filled::Contents => seal(pages, local),
    }
}

/// Stamps a page that was filled otherwise, as its first version.
pub fn seal(pages: &mut impl Pages, local: usize) {
    let address = pages.address(local);
    page::seal(pages.page(local), address, 1);
    pages.set_version(local, 1);
}

/// Whether a page is what was last written there.
pub fn verify(pages: &mut impl Pages, local: usize) -> Result<(), Failure> {
    let (address, version) = (pages.address(local), pages.version(local));
    page::verify(pages.page(local), address, version).map_err(|damage| Failure { address, damage })
}

/// Flips one bit of a page without telling the stamp: what a check must notice.
pub fn corrupt(pages: &mut impl Pages, local: usize) {
    pages.page(local)[page::PAGE_WORDS - 1] ^= 1 << 56;
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::contents::Origin;
    use crate::page::{BODY, Check, PAGE_WORDS};

    /// A share in the test's own memory: CPU 1 of 2.
    pub(crate) struct Memory {
        pub(crate) pages: Vec<Page>,
        pub(crate) versions: Vec<u32>,
    }

    impl Memory {
        pub(crate) fn new(count: usize) -> Self {
            Self {
                pages: vec![[u64::MAX; PAGE_WORDS]; count],
                versions: vec![u32::MAX; count],
            }
        }
    }

    /// A share with generated contents.
    pub(crate) fn filled(count: usize) -> Memory {
        let mut memory = Memory::new(count);
        for local in 0..count {
            fill(&mut memory, local, &generated(1));
        }
        memory
    }

    pub(crate) fn generated(seed: u64) -> Source<'static> {
        Source {
            seed,
            origin: Origin::Generated,
        }
    }

    impl Pages for Memory {
        fn count(&self) -> usize {
            self.pages.len()
        }
        fn number(&self, local: usize) -> u64 {
            local as u64 * 2 + 1
        }
        fn address(&self, local: usize) -> u64 {
            (local as u64 + 256) * 4096
        }
        fn page(&mut self, local: usize) -> &mut Page {
            &mut self.pages[local]
        }
        fn version(&self, local: usize) -> u32 {
            self.versions[local]
        }
        fn set_version(&mut self, local: usize, version: u32) {
            self.versions[local] = version;
        }
    }

    #[test]
    fn what_was_filled_verifies_until_it_is_corrupted() {
        let mut memory = Memory::new(200);
        let source = generated(4);
        for local in 0..memory.count() {
            fill(&mut memory, local, &source);
        }
        let zeros = memory
            .versions
            .iter()
            .filter(|version| **version == 0)
            .count();
        assert!((1..20).contains(&zeros), "{zeros} zero pages");
        for local in 0..memory.count() {
            assert_eq!(verify(&mut memory, local), Ok(()));
            corrupt(&mut memory, local);
            let failure = verify(&mut memory, local).expect_err("a flipped bit must show");
            let check = if memory.versions[local] == 0 {
                Check::Zero
            } else {
                Check::Checksum
            };
            assert_eq!(
                (failure.address, failure.damage.check),
                (memory.address(local), check)
            );
        }
    }

    #[test]
    fn contents_in_place_are_kept_but_for_the_stamp() {
        let mut memory = Memory::new(3);
        memory.pages[1] = [0; PAGE_WORDS];
        memory.pages[2][BODY..].fill(0);
        let before = memory.pages.clone();
        let source = Source {
            seed: 4,
            origin: Origin::InPlace,
        };
        for (local, before) in before.iter().enumerate() {
            fill(&mut memory, local, &source);
            assert_eq!(memory.pages[local][BODY..], before[BODY..]);
            assert_eq!(verify(&mut memory, local), Ok(()));
        }
        assert_eq!(memory.versions, [1, 0, 1]);
    }
}
