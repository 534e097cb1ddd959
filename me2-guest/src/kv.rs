//! The hash table: a fixed number of buckets, each a page of the share, scattered over it.
//!
//! ```text
//! page: stamp · slot 0 · slot 1 · … · slot 32 · unused
//! slot: key · version of the page when it was set · value (13 words)
//! ```
//! A key that finds its bucket full lies in the next one. Keys are the ranks of the Zipf law, 1 and up;
//! all of them are in the table from the beginning, and none leaves it. A slot with key 0 is empty.

use crate::contents::Source;
use crate::page::{self, BODY, Check, Damage, PAGE_WORDS, Page};
use crate::scatter;
use crate::scattered::Scattered;
use crate::share::{self, Failure, Pages};

/// Words of a value: 104 bytes.
pub const VALUE_WORDS: usize = 13;

const SLOT_WORDS: usize = 2 + VALUE_WORDS;
const SLOTS: usize = (PAGE_WORDS - BODY) / SLOT_WORDS;

/// Keys per bucket on average: few enough that few buckets are full.
const KEYS_PER_BUCKET: u64 = 24;

/// The table of one share.
#[derive(Debug, Clone)]
pub struct Table<'a> {
    source: Source<'a>,
    buckets: Scattered,
}

impl<'a> Table<'a> {
    /// A table in `hot_pages` of the `pages` of a share. Neither is 0, and hot pages are not the more.
    pub fn new(source: Source<'a>, pages: u64, hot_pages: u64) -> Self {
        Self {
            source,
            buckets: Scattered::new(source.seed, pages, hot_pages),
        }
    }

    /// The keys are 1 to this.
    pub fn keys(&self) -> u64 {
        self.buckets.count() * KEYS_PER_BUCKET
    }

    /// Whether page `local` of the share is a bucket.
    pub fn is_bucket(&self, local: usize) -> bool {
        self.buckets.contains(local)
    }

    /// Writes all buckets, with every key in its place.
    pub fn build(&self, pages: &mut impl Pages) {
        for bucket in 0..self.buckets.count() {
            pages.page(self.buckets.page_of(bucket)).fill(0);
        }
        for key in 1..=self.keys() {
            self.insert(pages, key);
        }
        for bucket in 0..self.buckets.count() {
            share::seal(pages, self.buckets.page_of(bucket));
        }
    }

    /// Looks a key up and checks each page on the way and the value. How many pages were checked.
    pub fn get(&self, pages: &mut impl Pages, key: u64) -> Result<u64, Failure> {
        let place = self.find(pages, key)?;
        let page = pages.page(place.local);
        let slot = &page[place.slot..place.slot + SLOT_WORDS];
        let mut value = [0; VALUE_WORDS];
        self.source.value(&mut value, key, slot[1] as u32);
        for (expected, found) in value.iter().zip(&slot[2..]) {
            if let Err(damage) = page::compare(Check::Value, *expected, *found) {
                return Err(Failure {
                    address: pages.address(place.local),
                    damage,
                });
            }
        }
        Ok(place.verified)
    }

    /// Gives a key a new value, and its page a new version. How many pages were checked.
    pub fn set(&self, pages: &mut impl Pages, key: u64) -> Result<u64, Failure> {
        let place = self.find(pages, key)?;
        let version = page::next_version(pages.version(place.local));
        let mut words = [u64::from(version); 1 + VALUE_WORDS];
        self.source.value(&mut words[1..], key, version);
        page::replace(pages.page(place.local), place.slot + 1, &words, version);
        pages.set_version(place.local, version);
        Ok(place.verified)
    }

    /// The page of the share where a key's search begins.
    pub fn home_page(&self, key: u64) -> usize {
        self.buckets.page_of(self.home(key))
    }

    fn home(&self, key: u64) -> u64 {
        scatter(key) % self.buckets.count()
    }

    /// Finds a key, checking each page that it looks into.
    fn find(&self, pages: &mut impl Pages, key: u64) -> Result<Place, Failure> {
        let mut bucket = self.home(key);
        for verified in 1..=self.buckets.count() {
            let local = self.buckets.page_of(bucket);
            share::verify(pages, local)?;
            match look(pages.page(local), key) {
                Look::Found(slot) => {
                    return Ok(Place {
                        local,
                        slot,
                        verified,
                    });
                }
                Look::Absent => break,
                Look::Full => bucket = (bucket + 1) % self.buckets.count(),
            }
        }
        let damage = Damage {
            check: Check::Value,
            expected: key,
            found: 0,
        };
        Err(Failure {
            address: pages.address(self.buckets.page_of(bucket)),
            damage,
        })
    }

    fn insert(&self, pages: &mut impl Pages, key: u64) {
        let mut bucket = self.home(key);
        let slot = loop {
            // An empty slot has key 0.
            match look(pages.page(self.buckets.page_of(bucket)), 0) {
                Look::Found(slot) => break slot,
                _ => bucket = (bucket + 1) % self.buckets.count(),
            }
        };
        let words = &mut pages.page(self.buckets.page_of(bucket))[slot..slot + SLOT_WORDS];
        words[0] = key;
        words[1] = 1;
        self.source.value(&mut words[2..], key, 1);
    }
}

/// Where a key is: the page of the share, the first word of the slot, and how many pages were checked.
struct Place {
    local: usize,
    slot: usize,
    verified: u64,
}

enum Look {
    Found(usize),
    Absent,
    Full,
}

fn look(page: &Page, key: u64) -> Look {
    for slot in (BODY..).step_by(SLOT_WORDS).take(SLOTS) {
        if page[slot] == key {
            return Look::Found(slot);
        }
        if page[slot] == 0 {
            return Look::Absent;
        }
    }
    Look::Full
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::{Memory, generated};

    fn table(pages: u64, hot: u64) -> (Table<'static>, Memory) {
        let table = Table::new(generated(3), pages, hot);
        let mut memory = Memory::new(pages as usize);
        table.build(&mut memory);
        (table, memory)
    }

    #[test]
    fn buckets_are_scattered_and_known_as_such() {
        let (table, memory) = table(1000, 90);
        let buckets: Vec<usize> = (0..1000).filter(|local| table.is_bucket(*local)).collect();
        assert_eq!(buckets.len(), 90);
        assert!(buckets.windows(2).any(|pair| pair[1] - pair[0] > 11));
        for local in 0..1000 {
            assert_eq!(
                memory.versions[local] == 1,
                table.is_bucket(local),
                "page {local}"
            );
        }
    }

    #[test]
    fn every_key_is_there_even_where_buckets_overflow() {
        let (table, mut memory) = table(800, 400);
        let mut searched_on = 0;
        for key in 1..=table.keys() {
            searched_on += table.get(&mut memory, key).expect("the key is there") - 1;
        }
        assert!(
            searched_on > 0,
            "some bucket overflows, or this tests nothing"
        );
        assert!(table.get(&mut memory, table.keys() + 1).is_err());
    }

    #[test]
    fn a_set_changes_one_page_by_a_version() {
        let (table, mut memory) = table(100, 10);
        let before = memory.pages.clone();
        table.set(&mut memory, 7).expect("the key is there");
        let changed: Vec<usize> = (0..100)
            .filter(|local| memory.pages[*local] != before[*local])
            .collect();
        assert_eq!(changed.len(), 1);
        assert_eq!(memory.versions[changed[0]], 2);
        let words = before[changed[0]]
            .iter()
            .zip(&memory.pages[changed[0]])
            .filter(|(old, new)| old != new)
            .count();
        assert!(words <= 2 + 1 + VALUE_WORDS, "{words} words");
        for key in 1..=table.keys() {
            table
                .get(&mut memory, key)
                .expect("all is as it was written");
        }
    }

    #[test]
    fn a_page_put_back_to_its_last_version_is_noticed() {
        let (table, mut memory) = table(100, 10);
        let local = table.home_page(1);
        let stale = memory.pages[local];
        table.set(&mut memory, 1).expect("the key is there");
        memory.pages[local] = stale;
        let failure = table.get(&mut memory, 1).expect_err("the page is stale");
        assert_eq!(
            failure.damage,
            Damage {
                check: Check::Version,
                expected: 2,
                found: 1
            }
        );
        assert_eq!(failure.address, memory.address(local));
        assert!(
            table.set(&mut memory, 1).is_err(),
            "a set must not cover it up"
        );
    }

    #[test]
    fn a_wrong_value_in_a_sound_page_is_noticed() {
        let (table, mut memory) = table(100, 10);
        let local = table.home_page(1);
        page::replace(&mut memory.pages[local], BODY + 5, &[42], 1);
        let key = memory.pages[local][BODY];
        let failure = table.get(&mut memory, key).expect_err("the value is wrong");
        assert_eq!(
            (failure.damage.check, failure.damage.found),
            (Check::Value, 42)
        );
    }
}
