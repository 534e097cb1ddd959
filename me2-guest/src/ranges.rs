//! Which memory is free, and which page of the fill lies where.

use crate::PAGE_SIZE;

/// The most ranges kept apart. A machine has two or three; what comes beyond this is left unused.
pub const RANGES_MAX: usize = 32;

/// Whole pages of physical memory, as ranges in ascending order that neither touch nor overlap.
#[derive(Debug, Clone, Copy)]
pub struct Ranges {
    /// Start and end (exclusive), physical addresses, multiples of the page size.
    entries: [(u64, u64); RANGES_MAX],
    count: usize,
}

impl Ranges {
    /// No memory.
    pub const fn new() -> Self {
        Self {
            entries: [(0, 0); RANGES_MAX],
            count: 0,
        }
    }

    /// Adds the whole pages between `start` and `end`.
    pub fn add(&mut self, start: u64, end: u64) {
        let start = start
            .checked_next_multiple_of(PAGE_SIZE)
            .unwrap_or(u64::MAX);
        let end = end / PAGE_SIZE * PAGE_SIZE;
        if start >= end {
            return;
        }
        // Whatever it touches becomes part of it.
        let (mut start, mut end) = (start, end);
        let before = *self;
        self.count = 0;
        for &(other_start, other_end) in before.iter() {
            if other_end < start || other_start > end {
                self.push(other_start, other_end);
            } else {
                start = start.min(other_start);
                end = end.max(other_end);
            }
        }
        self.push(start, end);
        self.entries[..self.count].sort_unstable();
    }

    /// Takes away every page that has a byte between `start` and `end`.
    pub fn remove(&mut self, start: u64, end: u64) {
        let start = start / PAGE_SIZE * PAGE_SIZE;
        let end = end.checked_next_multiple_of(PAGE_SIZE).unwrap_or(u64::MAX);
        if start >= end {
            return;
        }
        let before = *self;
        self.count = 0;
        for &(other_start, other_end) in before.iter() {
            self.push(other_start, other_end.min(start));
            self.push(other_start.max(end), other_end);
        }
    }

    /// Takes `pages` pages in one piece from the lowest range that has them; the address of the first.
    pub fn take(&mut self, pages: u64) -> Option<u64> {
        let bytes = pages.checked_mul(PAGE_SIZE)?;
        let &(start, _) = self.iter().find(|(start, end)| end - start >= bytes)?;
        self.remove(start, start + bytes);
        Some(start)
    }

    /// The ranges, ascending: start and end (exclusive).
    pub fn iter(&self) -> core::slice::Iter<'_, (u64, u64)> {
        self.entries[..self.count].iter()
    }

    /// Whether all bytes between `start` and `end` are in one range.
    pub fn contain(&self, start: u64, end: u64) -> bool {
        self.iter()
            .any(|&(low, high)| low <= start && end <= high && start <= end)
    }

    /// How many pages there are.
    pub fn pages(&self) -> u64 {
        self.iter()
            .map(|(start, end)| (end - start) / PAGE_SIZE)
            .sum()
    }

    /// The address of the page with this number, counting from the lowest.
    ///
    /// # Panics
    /// If there are not that many pages.
    pub fn address(&self, number: u64) -> u64 {
        let mut offset = number * PAGE_SIZE;
        for &(start, end) in self.iter() {
            if offset < end - start {
                return start + offset;
            }
            offset -= end - start;
        }
        panic!("page {number} is beyond the memory")
    }

    fn push(&mut self, start: u64, end: u64) {
        if start < end && self.count < RANGES_MAX {
            self.entries[self.count] = (start, end);
            self.count += 1;
        }
    }
}

impl Default for Ranges {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(list: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::new();
        for &(start, end) in list {
            ranges.add(start, end);
        }
        ranges
    }

    fn list(ranges: &Ranges) -> Vec<(u64, u64)> {
        ranges.iter().copied().collect()
    }

    #[test]
    fn ranges_are_whole_pages_in_order_and_merged() {
        let ranges = ranges(&[
            (0x9001, 0xbfff),
            (0x1000, 0x3000),
            (0x3000, 0x4800),
            (0x5001, 0x5fff),
        ]);
        assert_eq!(list(&ranges), [(0x1000, 0x4000), (0xa000, 0xb000)]);
        assert_eq!(ranges.pages(), 4);
    }

    #[test]
    fn removing_takes_every_page_that_is_touched() {
        let mut ranges = ranges(&[(0x1000, 0x9000), (0x10000, 0x12000)]);
        ranges.remove(0x3fff, 0x5001);
        assert_eq!(
            list(&ranges),
            [(0x1000, 0x3000), (0x6000, 0x9000), (0x10000, 0x12000)]
        );
        ranges.remove(0x0, 0x11000);
        assert_eq!(list(&ranges), [(0x11000, 0x12000)]);
        ranges.remove(0x11800, u64::MAX);
        assert_eq!(ranges.pages(), 0);
    }

    #[test]
    fn taking_needs_one_piece() {
        let mut ranges = ranges(&[(0x1000, 0x3000), (0x10000, 0x14000)]);
        assert_eq!(ranges.take(3), Some(0x10000));
        assert_eq!(ranges.take(1), Some(0x1000));
        assert_eq!(ranges.take(2), None);
        assert_eq!(ranges.pages(), 2);
    }

    #[test]
    fn pages_are_numbered_across_holes() {
        let ranges = ranges(&[(0x1000, 0x3000), (0x1_0000_0000, 0x1_0000_2000)]);
        let addresses: Vec<u64> = (0..4).map(|number| ranges.address(number)).collect();
        assert_eq!(addresses, [0x1000, 0x2000, 0x1_0000_0000, 0x1_0000_1000]);
    }

    #[test]
    fn too_many_ranges_are_left_out() {
        let many: Vec<_> = (0..100)
            .map(|index| (index * 0x2000, index * 0x2000 + 0x1000))
            .collect();
        assert_eq!(ranges(&many).pages(), RANGES_MAX as u64);
    }

    #[test]
    fn containing_is_about_whole_extents() {
        let ranges = ranges(&[(0x1000, 0x3000)]);
        assert!(ranges.contain(0x1800, 0x3000));
        assert!(!ranges.contain(0x800, 0x2000));
        assert!(!ranges.contain(0x2000, 0x3001));
    }
}
