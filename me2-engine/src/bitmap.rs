//! One bit a page.

use me2_wire::{PageIndex, range::RangeList};

/// A set of pages as one bit each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: PageIndex,
}

impl Bitmap {
    /// An empty set over `len` pages.
    pub fn new(len: PageIndex) -> Self {
        Self {
            words: vec![0; (len as usize).div_ceil(64)],
            len,
        }
    }

    /// A bitmap with every bit set.
    pub fn full(len: PageIndex) -> Self {
        Self::from_words(vec![u64::MAX; (len as usize).div_ceil(64)], len)
    }

    /// A set from words with page 0 in the lowest bit; bits beyond `len` are dropped.
    pub fn from_words(mut words: Vec<u64>, len: PageIndex) -> Self {
        words.resize((len as usize).div_ceil(64), 0);
        if let (Some(last), 1..) = (words.last_mut(), len % 64) {
            *last &= (1 << (len % 64)) - 1;
        }
        Self { words, len }
    }

    /// Number of pages, in or out.
    pub fn len(&self) -> PageIndex {
        self.len
    }

    /// Whether no page is in the set.
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|word| *word == 0)
    }

    /// The words, page 0 in the lowest bit of the first.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// Number of pages in the set.
    pub fn count(&self) -> u64 {
        self.words
            .iter()
            .map(|word| u64::from(word.count_ones()))
            .sum()
    }

    /// Whether a page is in the set; panics beyond the end.
    pub fn contains(&self, page: PageIndex) -> bool {
        self.words[page as usize / 64] >> (page % 64) & 1 == 1
    }

    /// Puts a page in; false if it was in already.
    pub fn set(&mut self, page: PageIndex) -> bool {
        let word = &mut self.words[page as usize / 64];
        let was = *word >> (page % 64) & 1;
        *word |= 1 << (page % 64);
        was == 0
    }

    /// Takes a page out; false if it was out already.
    pub fn clear(&mut self, page: PageIndex) -> bool {
        let word = &mut self.words[page as usize / 64];
        let was = *word >> (page % 64) & 1;
        *word &= !(1 << (page % 64));
        was == 1
    }

    /// Puts in everything that is in `other`.
    pub fn union(&mut self, other: &Bitmap) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// Takes out everything that is in `other`.
    pub fn subtract(&mut self, other: &Bitmap) {
        assert_eq!(self.len, other.len, "of the same memory");
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word &= !other;
        }
    }

    /// Puts in every page of a list, which must be within.
    pub fn extend(&mut self, list: &RangeList) {
        for page in list.iter() {
            self.set(page);
        }
    }

    /// Pages in the set, ascending.
    pub fn iter(&self) -> impl Iterator<Item = PageIndex> + '_ {
        self.words.iter().enumerate().flat_map(|(index, word)| {
            let mut left = *word;
            std::iter::from_fn(move || {
                (left != 0).then(|| {
                    let bit = left.trailing_zeros();
                    left &= left - 1;
                    index as PageIndex * 64 + bit
                })
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_of_pages() {
        let mut bitmap = Bitmap::new(130);
        assert!(bitmap.is_empty());
        for page in [0, 63, 64, 129] {
            assert!(bitmap.set(page) && !bitmap.set(page));
        }
        assert_eq!(bitmap.iter().collect::<Vec<_>>(), [0, 63, 64, 129]);
        assert!(bitmap.clear(63) && !bitmap.clear(63) && !bitmap.contains(63));
        assert_eq!(bitmap.count(), 3);
    }

    #[test]
    fn bits_beyond_the_end_are_dropped() {
        let bitmap = Bitmap::from_words(vec![u64::MAX; 3], 70);
        assert_eq!((bitmap.count(), bitmap.words().len()), (70, 2));
    }
}
