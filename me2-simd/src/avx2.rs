//! For x86-64 with AVX2. It has no instruction to leave words out or put them back, so these are
//! permutations from tables, four words at a time.

use std::arch::x86_64::{
    __m256i, _mm256_alignr_epi8, _mm256_and_si256, _mm256_blendv_epi8, _mm256_castsi256_pd,
    _mm256_cmpeq_epi64, _mm256_loadu_si256, _mm256_movemask_pd, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_permute4x64_epi64, _mm256_permutevar8x32_epi32,
    _mm256_setzero_si256, _mm256_storeu_si256, _mm256_testz_si256,
};

use crate::{Mask, PAGE_SIZE, WORD, portable, tail::Tail};

/// Words in a vector.
const LANES: usize = 4;
/// Bytes in a vector.
const VECTOR: usize = LANES * WORD;

/// A vector for each 4 bits of a mask.
type Table = [[u8; VECTOR]; 1 << LANES];

/// Which words are taken to the front, as halves of words: for each of the mask, in order.
static FRONT: Table = front_table();
/// Where each word comes from, as halves of words: the first of the mask from word 0, the next one
/// from word 1; a word that is not of the mask from where the one before it comes.
static PLACES: Table = places_table();
/// All ones for the words of the mask.
static PRESENT: Table = present_table(false);
/// All ones for the words from the first one of the mask on.
static BEGUN: Table = present_table(true);

pub(crate) fn is_supported() -> bool {
    is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("bmi1")
        && is_x86_feature_detected!("bmi2")
        && is_x86_feature_detected!("popcnt")
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn is_zero(page: &[u8; PAGE_SIZE]) -> bool {
    let (blocks, _) = page.as_chunks::<VECTOR>().0.as_chunks::<8>();
    for block in blocks {
        let mut any = _mm256_setzero_si256();
        for vector in block {
            any = _mm256_or_si256(any, load(vector));
        }
        if _mm256_testz_si256(any, any) == 0 {
            return false;
        }
    }
    true
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn nonzero(page: &[u8; PAGE_SIZE]) -> Mask {
    let zero = _mm256_setzero_si256();
    let (groups, _) = page.as_chunks::<VECTOR>().0.as_chunks::<16>();
    let mut mask = Mask::default();
    for (bits, group) in mask.iter_mut().zip(groups) {
        for (at, vector) in group.iter().enumerate() {
            *bits |= unequal(load(vector), zero) << (at * LANES);
        }
    }
    mask
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn changes(page: &[u8; PAGE_SIZE]) -> Mask {
    let (groups, _) = page.as_chunks::<VECTOR>().0.as_chunks::<16>();
    let mut mask = Mask::default();
    let mut before = _mm256_setzero_si256();
    for (bits, group) in mask.iter_mut().zip(groups) {
        for (at, vector) in group.iter().enumerate() {
            let vector = load(vector);
            // The last word of the vector before and the first three of this one.
            let across = _mm256_permute2x128_si256::<0x21>(before, vector);
            let shifted = _mm256_alignr_epi8::<8>(vector, across);
            *bits |= unequal(vector, shifted) << (at * LANES);
            before = vector;
        }
    }
    mask
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn xor(page: &mut [u8; PAGE_SIZE], base: &[u8; PAGE_SIZE]) {
    portable::xor(page, base);
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn gather(page: &[u8; PAGE_SIZE], mask: &Mask, out: &mut [u8]) {
    let (groups, _) = page.as_chunks::<VECTOR>().0.as_chunks::<16>();
    let mut at = 0;
    for (group, bits) in groups.iter().zip(mask) {
        if *bits == u64::MAX {
            out[at..at + 16 * VECTOR].copy_from_slice(group.as_flattened());
            at += 16 * VECTOR;
            continue;
        }
        for (place, vector) in group.iter().enumerate() {
            let bits = (bits >> (place * LANES) & 0xf) as usize;
            let words = _mm256_permutevar8x32_epi32(load(vector), load(&FRONT[bits]));
            store(words, out[at..].first_chunk_mut().expect("the slack"));
            at += bits.count_ones() as usize * WORD;
        }
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn scatter(mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
    let (vectors, _) = page.as_chunks_mut::<VECTOR>();
    let tail = Tail::of(words);
    let mut at = 0;
    for (vector, bits) in vectors.iter_mut().zip(nibbles(mask)) {
        let next = load(tail.vector(words, at));
        let placed = _mm256_permutevar8x32_epi32(next, load(&PLACES[bits]));
        store(_mm256_and_si256(placed, load(&PRESENT[bits])), vector);
        at += bits.count_ones() as usize * WORD;
    }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
pub(crate) fn scatter_repeating(mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
    let (vectors, _) = page.as_chunks_mut::<VECTOR>();
    let tail = Tail::of(words);
    let mut at = 0;
    let mut before = _mm256_setzero_si256();
    for (vector, bits) in vectors.iter_mut().zip(nibbles(mask)) {
        let next = load(tail.vector(words, at));
        let placed = _mm256_permutevar8x32_epi32(next, load(&PLACES[bits]));
        let last_before = _mm256_permute4x64_epi64::<0xff>(before);
        before = _mm256_blendv_epi8(last_before, placed, load(&BEGUN[bits]));
        store(before, vector);
        at += bits.count_ones() as usize * WORD;
    }
}

/// The bits of a mask, 4 at a time.
#[inline(always)]
fn nibbles(mask: &Mask) -> impl Iterator<Item = usize> {
    mask.iter()
        .flat_map(|bits| (0..16).map(move |at| (bits >> (at * LANES) & 0xf) as usize))
}

const fn front_table() -> Table {
    let mut table = [[0; VECTOR]; 1 << LANES];
    let mut bits = 0;
    while bits < table.len() {
        let (mut lane, mut taken) = (0, 0);
        while lane < LANES {
            if bits >> lane & 1 == 1 {
                set_place(&mut table[bits], taken, lane);
                taken += 1;
            }
            lane += 1;
        }
        bits += 1;
    }
    table
}

const fn places_table() -> Table {
    let mut table = [[0; VECTOR]; 1 << LANES];
    let mut bits = 0;
    while bits < table.len() {
        let (mut lane, mut taken) = (0, 0);
        while lane < LANES {
            taken += bits >> lane & 1;
            set_place(
                &mut table[bits],
                lane,
                if taken == 0 { 0 } else { taken - 1 },
            );
            lane += 1;
        }
        bits += 1;
    }
    table
}

const fn present_table(with_all_behind: bool) -> Table {
    let mut table = [[0; VECTOR]; 1 << LANES];
    let mut bits = 0;
    while bits < table.len() {
        let (mut at, mut has_begun) = (0, false);
        while at < VECTOR {
            let is_present = bits >> (at / WORD) & 1 == 1;
            has_begun |= is_present;
            if is_present || with_all_behind && has_begun {
                table[bits][at] = 0xff;
            }
            at += 1;
        }
        bits += 1;
    }
    table
}

/// Says that both halves of word `to` come from those of word `from`. Each is a number of 4 bytes,
/// of which the others stay 0.
const fn set_place(vector: &mut [u8; VECTOR], to: usize, from: usize) {
    vector[to * WORD] = 2 * from as u8;
    vector[to * WORD + WORD / 2] = 2 * from as u8 + 1;
}

/// One bit for each of the 4 words.
#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
#[inline]
fn unequal(a: __m256i, b: __m256i) -> u64 {
    let equal = _mm256_movemask_pd(_mm256_castsi256_pd(_mm256_cmpeq_epi64(a, b)));
    (equal as u64) ^ 0xf
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
#[inline]
fn load(from: &[u8; VECTOR]) -> __m256i {
    // SAFETY: 32 bytes can be read there, and this load needs no alignment.
    unsafe { _mm256_loadu_si256(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,bmi1,bmi2,popcnt")]
#[inline]
fn store(vector: __m256i, to: &mut [u8; VECTOR]) {
    // SAFETY: 32 bytes can be written there, and this store needs no alignment.
    unsafe { _mm256_storeu_si256(to.as_mut_ptr().cast(), vector) }
}
