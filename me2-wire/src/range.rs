//! Lists of page ranges: which pages are announced, missing, final.
//!
//! Encoded as numbers of variable length (`number.rs`), two for each range: the gap, and the length
//! less one. The gap of the first range counts from page 0; every other one from the page that
//! follows the range before, less one, since ranges never touch. So every sequence of numbers is a
//! sorted list of disjoint ranges, and every list has exactly one encoding.

use std::{fmt, ops::Range};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{
    PageIndex,
    frame::MESSAGE_BYTES_MAX,
    number::{NumberError, read_number, write_number},
};

/// Most ranges in a list that is deserialised: as many as a message has room for.
pub const RANGES_MAX: usize = MESSAGE_BYTES_MAX as usize / BYTES_MIN;

/// Each range takes at least so many bytes.
const BYTES_MIN: usize = 2;

/// Sorted ranges of pages, none empty, none touching the next.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct RangeList {
    ranges: Vec<Range<PageIndex>>,
}

/// Bytes that are no list of ranges, or one that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// The bytes end within a range.
    #[error("range list is cut short")]
    Truncated,
    /// A number with superfluous bytes, or beyond 32 bits.
    #[error("malformed number in a range list")]
    Number,
    /// More ranges than the reader takes.
    #[error("range list of {ranges} ranges, at most {max} are allowed")]
    TooMany {
        /// Ranges in the list.
        ranges: usize,
        /// What is allowed.
        max: usize,
    },
    /// A range reaches beyond the memory.
    #[error("range list reaches beyond {total_pages} pages")]
    BeyondMemory {
        /// Pages of memory.
        total_pages: PageIndex,
    },
}

impl RangeList {
    /// A list without a page.
    pub const EMPTY: Self = Self { ranges: Vec::new() };

    /// The pages of an iterator, which must ascend strictly and stay below `PageIndex::MAX`.
    pub fn from_ascending(pages: impl IntoIterator<Item = PageIndex>) -> Self {
        let mut list = Self::EMPTY;
        for page in pages {
            list.push(page..page.checked_add(1).expect("pages are below PageIndex::MAX"));
        }
        list
    }

    /// The pages whose bit is set: page 64 × w + b is bit b of word w.
    pub fn from_bitmap(words: &[u64]) -> Self {
        let mut list = Self::EMPTY;
        for (at, word) in words.iter().enumerate() {
            let base = at as u64 * 64;
            let (mut rest, mut bit) = (*word, 0);
            while rest != 0 {
                bit += rest.trailing_zeros();
                let ones = (word >> bit).trailing_ones();
                let page =
                    |bit: u32| PageIndex::try_from(base + u64::from(bit)).expect("a bitmap of RAM");
                list.push(page(bit)..page(bit + ones));
                bit += ones;
                rest = if bit < 64 { word >> bit } else { 0 };
            }
        }
        list
    }

    /// Appends a range, which must not be empty nor begin before the end of the last one.
    pub fn push(&mut self, range: Range<PageIndex>) {
        assert!(range.start < range.end, "ranges are not empty");
        match self.ranges.last_mut() {
            Some(last) if last.end == range.start => last.end = range.end,
            Some(last) if last.end > range.start => panic!("ranges ascend"),
            _ => self.ranges.push(range),
        }
    }

    /// The ranges, in order.
    pub fn ranges(&self) -> &[Range<PageIndex>] {
        &self.ranges
    }

    /// The pages, in order.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.ranges.iter().cloned().flatten()
    }

    /// Number of pages.
    pub fn count(&self) -> u64 {
        self.ranges.iter().map(|range| range.len() as u64).sum()
    }

    /// Whether there is no page in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Whether a page is in it.
    pub fn contains(&self, page: PageIndex) -> bool {
        let next = self.ranges.partition_point(|range| range.end <= page);
        self.ranges
            .get(next)
            .is_some_and(|range| range.start <= page)
    }

    /// That all pages are within the memory. To be called on every list from a peer before it is
    /// iterated: a few bytes can stand for billions of pages.
    pub fn check(&self, total_pages: PageIndex) -> Result<(), RangeError> {
        match self.ranges.last() {
            Some(last) if last.end > total_pages => Err(RangeError::BeyondMemory { total_pages }),
            _ => Ok(()),
        }
    }

    /// The same pages as lists of at most so many ranges each, for messages of bounded length.
    pub fn split(&self, ranges_max: usize) -> impl Iterator<Item = RangeList> + '_ {
        self.ranges.chunks(ranges_max).map(|ranges| RangeList {
            ranges: ranges.to_vec(),
        })
    }

    /// The list as bytes, at least two and at most ten for each range.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(self.ranges.len() * BYTES_MIN);
        let mut least = 0;
        for range in &self.ranges {
            write_number(&mut bytes, range.start - least);
            write_number(&mut bytes, range.end - range.start - 1);
            least = range.end.saturating_add(1);
        }
        bytes
    }

    /// Reads a list. Allocates up to 4 times the length of `bytes`, and no more than what
    /// `ranges_max` ranges take.
    ///
    /// # Errors
    /// Malformed, more than `ranges_max` ranges, or pages beyond `total_pages`.
    pub fn decode(
        mut bytes: &[u8],
        ranges_max: usize,
        total_pages: PageIndex,
    ) -> Result<Self, RangeError> {
        let numbers = bytes.iter().filter(|byte| **byte < 0x80).count();
        let ranges = numbers / 2;
        if ranges > ranges_max {
            return Err(RangeError::TooMany {
                ranges,
                max: ranges_max,
            });
        }
        let mut list = Self {
            ranges: Vec::with_capacity(ranges),
        };
        let mut least: PageIndex = 0;
        while !bytes.is_empty() {
            let (gap, length) = (read_number(&mut bytes)?, read_number(&mut bytes)?);
            let range = range_after(least, gap, length)
                .filter(|range| range.end <= total_pages)
                .ok_or(RangeError::BeyondMemory { total_pages })?;
            least = range.end.saturating_add(1);
            list.ranges.push(range);
        }
        Ok(list)
    }
}

/// The range that begins `gap` pages after `least` and has `length` + 1 pages.
fn range_after(least: PageIndex, gap: u32, length: u32) -> Option<Range<PageIndex>> {
    let start = least.checked_add(gap)?;
    Some(start..start.checked_add(length)?.checked_add(1)?)
}

impl From<NumberError> for RangeError {
    fn from(error: NumberError) -> Self {
        match error {
            NumberError::Truncated => Self::Truncated,
            NumberError::Malformed => Self::Number,
        }
    }
}

impl fmt::Debug for RangeList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.ranges).finish()
    }
}

/// As a byte string.
impl Serialize for RangeList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode())
    }
}

/// Checks the form, not the size of the memory: see [`RangeList::check`].
impl<'de> Deserialize<'de> for RangeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = RangeList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the bytes of a range list")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<RangeList, E> {
                RangeList::decode(bytes, RANGES_MAX, PageIndex::MAX).map_err(E::custom)
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}

#[cfg(test)]
mod tests;
