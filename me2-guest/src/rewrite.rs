//! Records in a working set of pages, one of them written at a time: 64 bytes of a page.
//!
//! ```text
//! page: stamp · contents · record 0 · contents · record 1 · … · record 15 · contents
//! ```
//! A record is 6 words; with version and checksum, a write changes 8 words and nothing else. Pages are taken
//! in order, or by chance with equal chances.

use crate::Random;
use crate::contents::Source;
use crate::page::{self, BODY, PAGE_WORDS};
use crate::scattered::Scattered;
use crate::share::{self, Failure, Pages};

/// Words of a record. Together with version and checksum: 64 bytes.
const RECORD_WORDS: usize = 6;

const RECORDS: usize = 16;

const RECORD_STRIDE: usize = (PAGE_WORDS - BODY) / RECORDS;

/// Which page comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The one behind, and after the last the first.
    Sequence,
    /// Any, with equal chances.
    Uniform,
}

/// The records of one share.
#[derive(Debug, Clone)]
pub struct Rewrite<'a> {
    source: Source<'a>,
    set: Scattered,
    order: Order,
    random: Random,
    next: u64,
}

impl<'a> Rewrite<'a> {
    /// Records in `hot_pages` of the `pages` of a share. Neither is 0, and hot pages are not the more.
    pub fn new(
        source: Source<'a>,
        pages: u64,
        hot_pages: u64,
        order: Order,
        random: Random,
    ) -> Self {
        let mut rewrite = Self {
            source,
            set: Scattered::new(source.seed, pages, hot_pages),
            order,
            random,
            next: 0,
        };
        rewrite.choose();
        rewrite
    }

    /// Puts all records into pages that are filled.
    pub fn build(&mut self, pages: &mut impl Pages) {
        for index in 0..self.set.count() {
            let local = self.set.page_of(index);
            for record in 0..RECORDS {
                let words = self.record();
                let first = first_word(record);
                pages.page(local)[first..first + RECORD_WORDS].copy_from_slice(&words);
            }
            share::seal(pages, local);
        }
    }

    /// Writes a record of the next page, which it checks before. How many pages were checked.
    pub fn write(&mut self, pages: &mut impl Pages) -> Result<u64, Failure> {
        let local = self.next_page();
        share::verify(pages, local)?;
        let version = page::next_version(pages.version(local));
        let first = first_word(self.random.below(RECORDS as u64) as usize);
        let words = self.record();
        page::replace(pages.page(local), first, &words, version);
        pages.set_version(local, version);
        self.choose();
        Ok(1)
    }

    /// The page of the share that is written next.
    pub fn next_page(&self) -> usize {
        self.set.page_of(self.next)
    }

    fn choose(&mut self) {
        self.next = match self.order {
            Order::Sequence => (self.next + 1) % self.set.count(),
            Order::Uniform => self.random.below(self.set.count()),
        };
    }

    fn record(&mut self) -> [u64; RECORD_WORDS] {
        let mut words = [0; RECORD_WORDS];
        self.source.value(&mut words, self.random.next(), 0);
        words
    }
}

fn first_word(record: usize) -> usize {
    BODY + record * RECORD_STRIDE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::{Memory, filled, generated};

    fn rewrite(order: Order) -> (Rewrite<'static>, Memory) {
        let mut memory = filled(300);
        let mut rewrite = Rewrite::new(generated(1), 300, 40, order, Random::new(5));
        rewrite.build(&mut memory);
        (rewrite, memory)
    }

    #[test]
    fn a_write_changes_at_most_64_bytes_of_the_page() {
        let (mut rewrite, mut memory) = rewrite(Order::Uniform);
        for _ in 0..200 {
            let before = memory.pages.clone();
            let local = rewrite.next_page();
            assert_eq!(rewrite.write(&mut memory), Ok(1));
            let words: Vec<usize> = before
                .iter()
                .zip(&memory.pages)
                .map(|(old, new)| old.iter().zip(new).filter(|(old, new)| old != new).count())
                .collect();
            assert!((3..=8).contains(&words[local]), "{} words", words[local]);
            assert_eq!(words.iter().sum::<usize>(), words[local]);
        }
        for local in 0..300 {
            share::verify(&mut memory, local).expect("all is as it was written");
        }
    }

    #[test]
    fn in_sequence_every_page_has_its_turn() {
        let (mut rewrite, mut memory) = rewrite(Order::Sequence);
        for _ in 0..80 {
            rewrite.write(&mut memory).expect("nothing is wrong");
        }
        let written = memory.versions.iter().filter(|version| **version == 3);
        assert_eq!(written.count(), 40);
    }

    #[test]
    fn by_chance_some_pages_are_left_out_and_others_come_twice() {
        let (mut rewrite, mut memory) = rewrite(Order::Uniform);
        for _ in 0..80 {
            rewrite.write(&mut memory).expect("nothing is wrong");
        }
        assert!(memory.versions.iter().any(|version| *version > 4));
        let left_out = memory.versions.iter().enumerate();
        let left_out =
            left_out.filter(|(local, version)| rewrite.set.contains(*local) && **version == 1);
        assert!((1..20).contains(&left_out.count()));
    }

    #[test]
    fn damage_is_noticed_and_not_covered_up() {
        let (mut rewrite, mut memory) = rewrite(Order::Uniform);
        share::corrupt(&mut memory, rewrite.next_page());
        for _ in 0..2 {
            assert!(rewrite.write(&mut memory).is_err());
        }
    }
}
