//! Pages to work on, a place for what comes of them, and the memcpy that everything is compared to.

use std::{fs, hint::black_box};

use me2_wire::PAGE_SIZE;
use serde_json::Value;

/// A page where hardware has pages.
#[derive(Clone)]
#[repr(align(4096))]
pub(super) struct Page(pub(super) [u8; PAGE_SIZE]);

/// All pages of a population, and as many to write to.
pub(super) struct Memory {
    pub(super) pages: Vec<Page>,
    pub(super) out: Vec<Page>,
    description: Value,
}

/// Times the last-level cache: so much a population has. Some codecs are for a part of its pages.
const CACHE_MULTIPLE: u64 = 8;

/// Times the last-level cache: so much is enough.
const CACHE_MULTIPLE_ENOUGH: u64 = 4;

/// Where the size of the cache is not told, bytes.
const CACHE_BYTES_ASSUMED: u64 = 32 << 20;

/// Bytes of pages that a population has.
pub(super) fn population_bytes() -> u64 {
    (last_level_cache_bytes() * CACHE_MULTIPLE).next_multiple_of(1 << 20)
}

/// Bytes of pages that are enough for a codec that the processor, not memory, limits.
pub(super) fn enough_bytes() -> u64 {
    (last_level_cache_bytes() * CACHE_MULTIPLE_ENOUGH).next_multiple_of(1 << 20)
}

/// The largest cache of the first CPU.
pub(super) fn last_level_cache_bytes() -> u64 {
    let sizes = (0..8).filter_map(|index| {
        let path = format!("/sys/devices/system/cpu/cpu0/cache/index{index}/size");
        cache_size(fs::read_to_string(path).ok()?.trim())
    });
    sizes.max().unwrap_or(CACHE_BYTES_ASSUMED)
}

/// `32768K` in bytes.
fn cache_size(text: &str) -> Option<u64> {
    let (digits, scale) = match text.strip_suffix('K') {
        Some(digits) => (digits, 1 << 10),
        None => (text.strip_suffix('M')?, 1 << 20),
    };
    digits
        .parse::<u64>()
        .ok()?
        .checked_mul(scale)
        .filter(|bytes| *bytes > 0)
}

impl Memory {
    /// With so many pages of zeros, all of them touched.
    pub(super) fn of_zeros(pages: usize) -> Self {
        let mut memory = Self {
            pages: vec![Page([0; PAGE_SIZE]); pages],
            out: vec![Page([0; PAGE_SIZE]); pages],
            description: Value::Null,
        };
        for page in memory.pages.iter_mut().chain(&mut memory.out) {
            // A page of zeros that nobody wrote may be one and the same.
            *black_box(&mut page.0[0]) = 0;
        }
        memory
    }

    /// With a description of what is in it.
    pub(super) fn described(mut self, description: Value) -> Self {
        self.description = description;
        self
    }

    pub(super) fn description(&self) -> Value {
        self.description.clone()
    }

    /// The numbers of all pages.
    pub(super) fn all(&self) -> Vec<u32> {
        (0..self.pages.len() as u32).collect()
    }

    /// The numbers of as many of the first pages as are enough.
    pub(super) fn enough(&self) -> Vec<u32> {
        let pages = enough_bytes() / PAGE_SIZE as u64;
        (0..self.pages.len().min(pages as usize) as u32).collect()
    }

    /// Copies pages to where results go, page by page.
    pub(super) fn copy(&mut self, pages: &[u32]) {
        for &page in pages {
            let page = page as usize;
            self.out[page]
                .0
                .copy_from_slice(black_box(&self.pages[page].0));
        }
        black_box(&mut self.out);
    }

    /// Whether the results are the pages.
    pub(super) fn out_is_right(&self, pages: &[u32]) -> bool {
        let mut pages = pages.iter().map(|page| *page as usize);
        pages.all(|page| self.out[page].0 == self.pages[page].0)
    }

    /// So that a result of before cannot pass for a new one.
    pub(super) fn spoil_out(&mut self) {
        self.out.iter_mut().for_each(|page| page.0.fill(0xa5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cache_sizes_are_read() {
        assert_eq!(cache_size("32768K"), Some(32 << 20));
        assert_eq!(cache_size("2M"), Some(2 << 20));
        for bad in ["", "K", "0K", "12", "xK"] {
            assert_eq!(cache_size(bad), None, "{bad}");
        }
        assert!(enough_bytes() >= 4 * last_level_cache_bytes());
        assert!(population_bytes() > enough_bytes());
    }

    #[test]
    fn a_copy_is_right_until_spoiled() {
        let mut memory = Memory::of_zeros(3);
        memory.pages[1].0[7] = 1;
        memory.copy(&[1, 2]);
        assert!(memory.out_is_right(&[1, 2]));
        memory.spoil_out();
        assert!(!memory.out_is_right(&[2]));
        assert_eq!(memory.all(), [0, 1, 2]);
    }
}
