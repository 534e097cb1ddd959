//! For every processor, in plain Rust. Compiled for more than the least x86-64 it also serves the
//! levels above where they have nothing better.
//!
//! Leaving words out and putting them back has no branch for the single word, since nobody could
//! predict it: the word is always written, and only the position depends on the mask.

use crate::{Mask, PAGE_SIZE, WORD, WORDS};

/// A page's words, 64 for each element of a mask.
type Groups = [[[u8; WORD]; 64]; WORDS / 64];

#[inline(always)]
pub(crate) fn is_zero(page: &[u8; PAGE_SIZE]) -> bool {
    // Blocks are long enough for vector instructions, and short enough to stop early.
    let (blocks, _) = page.as_chunks::<256>();
    blocks.iter().all(|block| {
        let (words, _) = block.as_chunks::<WORD>();
        let any = words
            .iter()
            .fold(0, |all, word| all | u64::from_ne_bytes(*word));
        any == 0
    })
}

#[inline(always)]
pub(crate) fn nonzero(page: &[u8; PAGE_SIZE]) -> Mask {
    groups(page).map(|group| mask_of(|at| group[at] != [0; WORD]))
}

#[inline(always)]
pub(crate) fn changes(page: &[u8; PAGE_SIZE]) -> Mask {
    let mut before = [0; WORD];
    groups(page).map(|group| {
        let first = u64::from(group[0] != before);
        before = group[63];
        first | mask_of(|at| at > 0 && group[at] != group[at.max(1) - 1])
    })
}

#[inline(always)]
pub(crate) fn xor(page: &mut [u8; PAGE_SIZE], base: &[u8; PAGE_SIZE]) {
    for (byte, base) in page.iter_mut().zip(base) {
        *byte ^= base;
    }
}

#[inline(always)]
pub(crate) fn gather(page: &[u8; PAGE_SIZE], mask: &Mask, out: &mut [u8]) {
    let (out, _) = out.as_chunks_mut::<WORD>();
    let mut at = 0;
    for (group, bits) in groups(page).iter().zip(mask) {
        match *bits {
            0 => {}
            u64::MAX => {
                out[at..at + 64].copy_from_slice(group);
                at += 64;
            }
            bits => {
                // Long enough also for what is written behind the last word.
                let out = &mut out[at..];
                let mut written = 0;
                for (bit, word) in group.iter().enumerate() {
                    out[written] = *word;
                    written += (bits >> bit & 1) as usize;
                }
                at += written;
            }
        }
    }
}

#[inline(always)]
pub(crate) fn scatter(mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
    let (mut words, _) = words.as_chunks::<WORD>();
    let (groups, _) = page.as_chunks_mut::<WORD>().0.as_chunks_mut::<64>();
    for (group, bits) in groups.iter_mut().zip(mask) {
        match *bits {
            0 => group.fill([0; WORD]),
            u64::MAX => {
                let (first, rest) = words.split_first_chunk::<64>().expect("64 of the mask");
                *group = *first;
                words = rest;
            }
            bits => {
                let (these, rest) = words.split_at(bits.count_ones() as usize);
                // Indexed below by at most 64, without a check for each word.
                let mut padded = [[0; WORD]; 128];
                padded[..these.len()].copy_from_slice(these);
                let mut read = 0;
                for (bit, word) in group.iter_mut().enumerate() {
                    let is_set = bits >> bit & 1;
                    let value = u64::from_ne_bytes(padded[read & 127]) & is_set.wrapping_neg();
                    *word = value.to_ne_bytes();
                    read += is_set as usize;
                }
                words = rest;
            }
        }
    }
}

#[inline(always)]
pub(crate) fn scatter_repeating(mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
    let (mut words, _) = words.as_chunks::<WORD>();
    let (groups, _) = page.as_chunks_mut::<WORD>().0.as_chunks_mut::<64>();
    let mut before = [0; WORD];
    for (group, bits) in groups.iter_mut().zip(mask) {
        match *bits {
            0 => group.fill(before),
            u64::MAX => {
                let (first, rest) = words.split_first_chunk::<64>().expect("64 of the mask");
                *group = *first;
                words = rest;
            }
            bits => {
                let (these, rest) = words.split_at(bits.count_ones() as usize);
                let mut padded = [before; 128];
                padded[1..=these.len()].copy_from_slice(these);
                let mut read = 0;
                for (bit, word) in group.iter_mut().enumerate() {
                    read += (bits >> bit & 1) as usize;
                    *word = padded[read & 127];
                }
                words = rest;
            }
        }
        before = group[63];
    }
}

#[inline(always)]
fn groups(page: &[u8; PAGE_SIZE]) -> &Groups {
    let (groups, _) = page.as_chunks::<WORD>().0.as_chunks::<64>();
    groups.first_chunk().expect("8 in a page")
}

#[inline(always)]
fn mask_of(is_set: impl Fn(usize) -> bool) -> u64 {
    (0..64).fold(0, |mask, bit| mask | u64::from(is_set(bit)) << bit)
}
