//! Stamps: a page that tells whether it is what was written.
//!
//! A stamped page starts with three words: its physical address, its version, and a checksum of all
//! that follows. A page of version 0 has no stamp: it is all zero.

/// Words of 8 bytes in a page.
pub const PAGE_WORDS: usize = 512;

/// The first word behind the stamp.
pub const BODY: usize = 3;

/// A page as words.
pub type Page = [u64; PAGE_WORDS];

/// What a check compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    /// The address in the stamp: is it this page at all?
    Address,
    /// The version in the stamp: is it the last one written?
    Version,
    /// The checksum of the body: is it whole?
    Checksum,
    /// Every word of a zero page.
    Zero,
    /// A value of the hash table, or the state of a block.
    Value,
}

impl Check {
    /// The name used in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Version => "version",
            Self::Checksum => "checksum",
            Self::Zero => "zero",
            Self::Value => "value",
        }
    }
}

/// A failed check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Damage {
    /// Which check failed.
    pub check: Check,
    /// What should have been there.
    pub expected: u64,
    /// What was there.
    pub found: u64,
}

/// Whether `page` is what was last written at `address` in `version` (0: a zero page).
pub fn verify(page: &Page, address: u64, version: u32) -> Result<(), Damage> {
    if version == 0 {
        return match page.iter().find(|word| **word != 0) {
            None => Ok(()),
            Some(word) => Err(Damage {
                check: Check::Zero,
                expected: 0,
                found: *word,
            }),
        };
    }
    compare(Check::Address, address, page[0])?;
    compare(Check::Version, u64::from(version), page[1])?;
    compare(Check::Checksum, checksum(page), page[2])
}

/// Stamps a page whose body is complete.
pub fn seal(page: &mut Page, address: u64, version: u32) {
    page[0] = address;
    page[1] = u64::from(version);
    page[2] = checksum(page);
}

/// Replaces the words from `first` on (an index ≥ [`BODY`]) and gives the page a new version.
///
/// The checksum is carried forward by the difference, not computed anew: damage elsewhere in the page
/// stays visible.
pub fn replace(page: &mut Page, first: usize, words: &[u64], version: u32) {
    replace_words(page, (first..).zip(words.iter().copied()), version);
}

/// Like [`replace`], for words anywhere: index (≥ [`BODY`]) and new value.
pub fn replace_words(page: &mut Page, words: impl Iterator<Item = (usize, u64)>, version: u32) {
    let mut sum = page[2];
    for (index, new) in words {
        assert!(index >= BODY, "the stamp is not part of the body");
        sum = sum.wrapping_add(new.wrapping_sub(page[index]).wrapping_mul(WEIGHTS[index]));
        page[index] = new;
    }
    page[2] = sum;
    page[1] = u64::from(version);
}

/// The version that follows, never 0: that is the zero page's.
pub const fn next_version(version: u32) -> u32 {
    if version == u32::MAX { 1 } else { version + 1 }
}

/// `Ok` if the two are equal.
pub fn compare(check: Check, expected: u64, found: u64) -> Result<(), Damage> {
    if expected == found {
        Ok(())
    } else {
        Err(Damage {
            check,
            expected,
            found,
        })
    }
}

/// An odd weight for each word: a change of any single word always shows, whatever the change.
static WEIGHTS: [u64; PAGE_WORDS] = {
    let mut weights = [0; PAGE_WORDS];
    let mut index = 0;
    while index < PAGE_WORDS {
        weights[index] = crate::scatter(index as u64) | 1;
        index += 1;
    }
    weights
};

/// The weighted sum of the body. Four sums, since one would wait for its own additions.
fn checksum(page: &Page) -> u64 {
    // The first word of the body alone, so that the rest comes in fours less one.
    let mut sums = [page[BODY].wrapping_mul(WEIGHTS[BODY]), 0, 0, 0];
    let (words, weights) = (&page[BODY + 1..], &WEIGHTS[BODY + 1..]);
    for (words, weights) in words.chunks_exact(4).zip(weights.chunks_exact(4)) {
        for lane in 0..4 {
            sums[lane] = sums[lane].wrapping_add(words[lane].wrapping_mul(weights[lane]));
        }
    }
    sums.iter().fold(0, |sum, lane| sum.wrapping_add(*lane))
}

// Every word of the body is in the sum: it starts with one, and fours follow.
const _: () = assert!((PAGE_WORDS - BODY - 1).is_multiple_of(4));

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed() -> Page {
        let mut page = [0; PAGE_WORDS];
        for (index, word) in page.iter_mut().enumerate() {
            *word = crate::scatter(index as u64 + 77);
        }
        seal(&mut page, 0x1234_5000, 9);
        page
    }

    #[test]
    fn a_sealed_page_verifies() {
        assert_eq!(verify(&sealed(), 0x1234_5000, 9), Ok(()));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let whole = sealed();
        for index in 0..PAGE_WORDS {
            for bit in 0..64 {
                let mut page = whole;
                page[index] ^= 1 << bit;
                let damage = verify(&page, 0x1234_5000, 9).expect_err("a flipped bit must show");
                let check = match index {
                    0 => Check::Address,
                    1 => Check::Version,
                    _ => Check::Checksum,
                };
                assert_eq!(damage.check, check);
            }
        }
    }

    #[test]
    fn the_wrong_page_and_a_stale_one_are_noticed() {
        let page = sealed();
        let moved = Damage {
            check: Check::Address,
            expected: 0x1234_6000,
            found: 0x1234_5000,
        };
        assert_eq!(verify(&page, 0x1234_6000, 9), Err(moved));
        let stale = Damage {
            check: Check::Version,
            expected: 10,
            found: 9,
        };
        assert_eq!(verify(&page, 0x1234_5000, 10), Err(stale));
    }

    #[test]
    fn a_zero_page_is_zero_to_the_last_word() {
        let mut page = [0; PAGE_WORDS];
        assert_eq!(verify(&page, 0x1000, 0), Ok(()));
        page[511] = 5;
        let damage = Damage {
            check: Check::Zero,
            expected: 0,
            found: 5,
        };
        assert_eq!(verify(&page, 0x1000, 0), Err(damage));
    }

    #[test]
    fn replacing_keeps_the_checksum_right_and_damage_visible() {
        let mut page = sealed();
        replace(&mut page, 100, &[1, 2, 3], 10);
        assert_eq!(verify(&page, 0x1234_5000, 10), Ok(()));
        page[400] ^= 1;
        replace(&mut page, 100, &[4, 5, 6], 11);
        let damage = verify(&page, 0x1234_5000, 11).expect_err("damage must outlive a later write");
        assert_eq!(damage.check, Check::Checksum);
    }

    #[test]
    fn versions_never_become_that_of_a_zero_page() {
        assert_eq!(next_version(1), 2);
        assert_eq!(next_version(u32::MAX), 1);
    }
}
