//! For x86-64 with AVX-512, which leaves words out by itself. Putting them back is a permutation
//! from a table: the compiler joins `vpexpandq` and the load before it into its form that reads
//! memory, which takes many times as long on some processors.

use std::arch::x86_64::{
    __m512i, _mm_cvtsi64_si128, _mm512_alignr_epi64, _mm512_cmpneq_epi64_mask,
    _mm512_cvtepu8_epi64, _mm512_loadu_si512, _mm512_maskz_compress_epi64,
    _mm512_maskz_permutexvar_epi64, _mm512_or_si512, _mm512_permutex2var_epi64,
    _mm512_setzero_si512, _mm512_storeu_si512, _mm512_test_epi64_mask, _mm512_xor_si512,
};

use crate::{Mask, PAGE_SIZE, WORD, tail::Tail};

/// Words in a vector.
const LANES: usize = 8;
/// Bytes in a vector.
const VECTOR: usize = LANES * WORD;

/// For each 8 bits of a mask, where each of the 8 words comes from: a byte each, first word
/// lowest, 0–7 one of the next words, 15 the last word before them.
static PLACES: [u64; 256] = places_table();

pub(crate) fn is_supported() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn is_zero(page: &[u8; PAGE_SIZE]) -> bool {
    let (blocks, _) = page.as_chunks::<VECTOR>().0.as_chunks::<4>();
    for [a, b, c, d] in blocks {
        let (first, second) = (
            _mm512_or_si512(load(a), load(b)),
            _mm512_or_si512(load(c), load(d)),
        );
        let any = _mm512_or_si512(first, second);
        if _mm512_test_epi64_mask(any, any) != 0 {
            return false;
        }
    }
    true
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn nonzero(page: &[u8; PAGE_SIZE]) -> Mask {
    let (vectors, _) = page.as_chunks::<VECTOR>();
    let mut bytes = [[0; 8]; 8];
    for (bits, vector) in bytes.as_flattened_mut().iter_mut().zip(vectors) {
        let vector = load(vector);
        *bits = _mm512_test_epi64_mask(vector, vector);
    }
    bytes.map(u64::from_le_bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn changes(page: &[u8; PAGE_SIZE]) -> Mask {
    let (vectors, _) = page.as_chunks::<VECTOR>();
    let mut bytes = [[0; 8]; 8];
    let mut before = _mm512_setzero_si512();
    for (bits, vector) in bytes.as_flattened_mut().iter_mut().zip(vectors) {
        let vector = load(vector);
        *bits = _mm512_cmpneq_epi64_mask(vector, _mm512_alignr_epi64::<7>(vector, before));
        before = vector;
    }
    bytes.map(u64::from_le_bytes)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn xor(page: &mut [u8; PAGE_SIZE], base: &[u8; PAGE_SIZE]) {
    let (vectors, _) = page.as_chunks_mut::<VECTOR>();
    let (base, _) = base.as_chunks::<VECTOR>();
    for (vector, base) in vectors.iter_mut().zip(base) {
        let changed = _mm512_xor_si512(load(vector), load(base));
        store(changed, vector);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn gather(page: &[u8; PAGE_SIZE], mask: &Mask, out: &mut [u8]) {
    let (vectors, _) = page.as_chunks::<VECTOR>();
    let bytes = mask.map(u64::to_le_bytes);
    let mut at = 0;
    for (bits, vector) in bytes.as_flattened().iter().zip(vectors) {
        let words = _mm512_maskz_compress_epi64(*bits, load(vector));
        store(words, out[at..].first_chunk_mut().expect("the slack"));
        at += bits.count_ones() as usize * WORD;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn scatter(mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
    let (vectors, _) = page.as_chunks_mut::<VECTOR>();
    let bytes = mask.map(u64::to_le_bytes);
    let tail = Tail::of(words);
    let mut at = 0;
    for (bits, vector) in bytes.as_flattened().iter().zip(vectors) {
        let next = load(tail.vector(words, at));
        let words = _mm512_maskz_permutexvar_epi64(*bits, places(*bits), next);
        store(words, vector);
        at += bits.count_ones() as usize * WORD;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
pub(crate) fn scatter_repeating(mask: &Mask, words: &[u8], page: &mut [u8; PAGE_SIZE]) {
    let (vectors, _) = page.as_chunks_mut::<VECTOR>();
    let bytes = mask.map(u64::to_le_bytes);
    let tail = Tail::of(words);
    let mut at = 0;
    let mut before = _mm512_setzero_si512();
    for (bits, vector) in bytes.as_flattened().iter().zip(vectors) {
        let next = load(tail.vector(words, at));
        before = _mm512_permutex2var_epi64(next, places(*bits), before);
        store(before, vector);
        at += bits.count_ones() as usize * WORD;
    }
}

const fn places_table() -> [u64; 256] {
    let mut table = [0; 256];
    let mut bits = 0;
    while bits < table.len() {
        let mut from = 15;
        let mut taken = 0;
        let mut lane = 0;
        while lane < LANES {
            if bits >> lane & 1 == 1 {
                from = taken;
                taken += 1;
            }
            table[bits] |= from << (8 * lane);
            lane += 1;
        }
        bits += 1;
    }
    table
}

/// Where the words come from, see [`PLACES`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
#[inline]
fn places(bits: u8) -> __m512i {
    let places = PLACES[usize::from(bits)].cast_signed();
    _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(places))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
#[inline]
fn load(from: &[u8; VECTOR]) -> __m512i {
    // SAFETY: 64 bytes can be read there, and this load needs no alignment.
    unsafe { _mm512_loadu_si512(from.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1,bmi2,popcnt")]
#[inline]
fn store(vector: __m512i, to: &mut [u8; VECTOR]) {
    // SAFETY: 64 bytes can be written there, and this store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), vector) }
}
