//! What is done to every word of a page, with the widest vectors that the processor has: looking
//! for zeros and repeats, leaving words out and putting them back, XOR. Nothing here knows of a
//! format.
//!
//! ```text
//! portable.rs   plain Rust, and what the others are tested against
//! avx2.rs       x86-64 with AVX2, BMI and POPCNT
//! avx512.rs     x86-64 with AVX-512 F, BW, DQ and VL besides
//! ```
//!
//! All unsafe code of the encoding is in this crate, and of two kinds: calling a function that is
//! compiled for more than every x86-64 has, which a [`Simd`] of that level permits; and reading or
//! writing a vector through a reference to an array of its size.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(target_arch = "x86_64")]
mod tail;

use std::sync::LazyLock;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Bytes in a word.
pub const WORD: usize = 8;

/// Words in a page.
pub const WORDS: usize = PAGE_SIZE / WORD;

/// Bytes that [`Simd::gather`] needs behind the words that it leaves.
pub const GATHER_SLACK_BYTES: usize = 64;

/// One bit for each word of a page: bit b of element e stands for word 64 × e + b.
pub type Mask = [u64; WORDS / 64];

/// The proof that this processor can run the code of a level. All levels do the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Simd(Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

static BEST: LazyLock<Simd> = LazyLock::new(|| *Simd::supported().last().expect("portable"));

/// Calls the function of that name for the level at hand.
macro_rules! dispatch {
    ($simd:expr, $function:ident($($argument:expr),*)) => {
        match $simd.0 {
            Level::Portable => portable::$function($($argument),*),
            // SAFETY: `supported` makes this level only where the processor has its features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => unsafe { avx2::$function($($argument),*) },
            // SAFETY: `supported` makes this level only where the processor has its features.
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => unsafe { avx512::$function($($argument),*) },
        }
    };
}

impl Simd {
    /// The quickest level of this processor.
    pub fn best() -> Self {
        *BEST
    }

    /// The level that every processor has.
    pub fn portable() -> Self {
        Self(Level::Portable)
    }

    /// All levels of this processor, the quickest last.
    pub fn supported() -> Vec<Self> {
        #[cfg_attr(
            not(target_arch = "x86_64"),
            expect(unused_mut, reason = "there is only one level")
        )]
        let mut levels = vec![Self::portable()];
        #[cfg(target_arch = "x86_64")]
        if avx2::is_supported() {
            levels.push(Self(Level::Avx2));
            if avx512::is_supported() {
                levels.push(Self(Level::Avx512));
            }
        }
        levels
    }

    /// Its name: `portable`, `avx2` or `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }

    /// Whether all of a page is zero; quick to say no.
    pub fn is_zero(self, page: &[u8; PAGE_SIZE]) -> bool {
        dispatch!(self, is_zero(page))
    }

    /// The words that are not zero.
    pub fn nonzero(self, page: &[u8; PAGE_SIZE]) -> Mask {
        dispatch!(self, nonzero(page))
    }

    /// The words that are not equal to the word before; before the first one there is a zero.
    pub fn changes(self, page: &[u8; PAGE_SIZE]) -> Mask {
        dispatch!(self, changes(page))
    }

    /// Makes `page` its own difference from `base`: page XOR base. Twice is not at all.
    pub fn xor(self, page: &mut [u8; PAGE_SIZE], base: &[u8; PAGE_SIZE]) {
        dispatch!(self, xor(page, base))
    }

    /// Writes the words of the mask to the beginning of `out`, in order, and anything to the
    /// [`GATHER_SLACK_BYTES`] behind them.
    ///
    /// # Panics
    /// If `out` is shorter than that.
    pub fn gather(self, page: &[u8; PAGE_SIZE], mask: &Mask, out: &mut [u8]) {
        assert!(out.len() >= count(mask) * WORD + GATHER_SLACK_BYTES);
        dispatch!(self, gather(page, mask, out));
    }

    /// Puts words, as many as the mask has, in the places of the mask, and zeros in the others.
    ///
    /// # Panics
    /// If there are more or fewer words.
    pub fn scatter(self, mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
        assert!(words.len() == count(mask) * WORD);
        dispatch!(self, scatter(mask, words, page));
    }

    /// Puts words, as many as the mask has, in the places of the mask, and in the others the word
    /// before; before the first one there is a zero.
    ///
    /// # Panics
    /// If there are more or fewer words.
    pub fn scatter_repeating(self, mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
        assert!(words.len() == count(mask) * WORD);
        dispatch!(self, scatter_repeating(mask, words, page));
    }
}

/// How many words a mask has.
pub fn count(mask: &Mask) -> usize {
    mask.iter().map(|bits| bits.count_ones() as usize).sum()
}

#[cfg(test)]
mod tests;
