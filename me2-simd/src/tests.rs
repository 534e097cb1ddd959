use proptest::{collection::vec, prelude::*};

use super::*;

type Page = [u8; PAGE_SIZE];

fn words(page: &Page) -> Vec<u64> {
    page.chunks(WORD)
        .map(|word| u64::from_le_bytes(word.try_into().unwrap()))
        .collect()
}

fn page_of(words: &[u64]) -> Page {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    bytes.try_into().unwrap()
}

fn has(mask: &Mask, at: usize) -> bool {
    mask[at / 64] >> (at % 64) & 1 == 1
}

/// What `is_set` says of each word.
fn mask_of(is_set: impl Fn(usize) -> bool) -> Mask {
    let mut mask = Mask::default();
    (0..WORDS)
        .filter(|at| is_set(*at))
        .for_each(|at| mask[at / 64] |= 1 << (at % 64));
    mask
}

/// Pages as memory has them, stretches of few different words, and noise.
fn pages() -> impl Strategy<Value = Page> {
    let word = || prop_oneof![3 => Just(0u64), 3 => 1u64..4, 1 => any::<u64>()];
    let stretches = vec((word(), 1usize..40), 1..300).prop_map(|stretches| {
        let mut row: Vec<u64> = stretches
            .iter()
            .flat_map(|(word, count)| std::iter::repeat_n(*word, *count))
            .collect();
        row.resize(WORDS, 0);
        page_of(&row)
    });
    let scattered = vec(word(), WORDS).prop_map(|row| page_of(&row));
    let noise = vec(any::<u64>(), WORDS).prop_map(|row| page_of(&row));
    prop_oneof![4 => stretches, 4 => scattered, 1 => noise, 1 => Just([0; PAGE_SIZE])]
}

fn masks() -> impl Strategy<Value = Mask> {
    let bits = prop_oneof![
        Just(0),
        Just(u64::MAX),
        any::<u64>(),
        (0..64u32).prop_map(|bit| 1 << bit),
    ];
    vec(bits, WORDS / 64).prop_map(|bits| bits.try_into().unwrap())
}

#[test]
fn the_best_level_is_the_last_of_those_supported() {
    let supported = Simd::supported();
    assert_eq!(supported[0], Simd::portable());
    assert_eq!(supported.last(), Some(&Simd::best()));
    let names: Vec<_> = supported.iter().map(|simd| simd.name()).collect();
    assert_eq!(names, ["portable", "avx2", "avx512"][..names.len()]);
}

#[test]
fn no_bit_of_a_page_escapes() {
    for simd in Simd::supported() {
        let mut page = [0; PAGE_SIZE];
        assert!(simd.is_zero(&page));
        for bit in 0..PAGE_SIZE * 8 {
            page[bit / 8] = 1 << (bit % 8);
            assert!(!simd.is_zero(&page), "{} bit {bit}", simd.name());
            let word = bit / 64;
            assert_eq!(simd.nonzero(&page), mask_of(|at| at == word));
            assert_eq!(
                simd.changes(&page),
                mask_of(|at| at == word || at == word + 1)
            );
            page[bit / 8] = 0;
        }
    }
}

#[test]
#[should_panic(expected = "count(mask)")]
fn too_few_words_are_a_bug_of_the_caller() {
    Simd::best().scatter(&[1; 8], &[0; 7 * WORD], &mut [0; PAGE_SIZE]);
}

proptest! {
    #[test]
    fn looking(page in pages()) {
        let row = words(&page);
        for simd in Simd::supported() {
            prop_assert_eq!(simd.is_zero(&page), row.iter().all(|word| *word == 0));
            prop_assert_eq!(simd.nonzero(&page), mask_of(|at| row[at] != 0));
            prop_assert_eq!(
                simd.changes(&page),
                mask_of(|at| row[at] != if at == 0 { 0 } else { row[at - 1] })
            );
        }
    }

    #[test]
    fn differences(page in pages(), base in pages()) {
        let expected: Vec<u64> = words(&page).iter().zip(words(&base)).map(|(a, b)| a ^ b).collect();
        for simd in Simd::supported() {
            let mut changed = page;
            simd.xor(&mut changed, &base);
            prop_assert_eq!(&words(&changed), &expected);
        }
    }

    #[test]
    fn leaving_out(page in pages(), mask in masks(), more in 0usize..100) {
        let row = words(&page);
        let expected: Vec<u64> = (0..WORDS).filter(|at| has(&mask, *at)).map(|at| row[at]).collect();
        for simd in Simd::supported() {
            let mut out = vec![0xee; expected.len() * WORD + GATHER_SLACK_BYTES + more];
            simd.gather(&page, &mask, &mut out);
            let expected: Vec<u8> = expected.iter().flat_map(|word| word.to_le_bytes()).collect();
            prop_assert_eq!(&out[..expected.len()], &expected);
            let behind = &out[expected.len() + GATHER_SLACK_BYTES..];
            prop_assert!(behind.iter().all(|byte| *byte == 0xee));
        }
    }

    #[test]
    fn putting_back(page in pages(), mask in masks()) {
        let bytes = &page[..count(&mask) * WORD];
        let row = words(&page);
        let mut next = row.iter();
        let mut before = 0;
        let (mut zeros, mut repeats) = (Vec::new(), Vec::new());
        for at in 0..WORDS {
            let word = if has(&mask, at) { *next.next().unwrap() } else { 0 };
            before = if has(&mask, at) { word } else { before };
            zeros.push(word);
            repeats.push(before);
        }
        for simd in Simd::supported() {
            let mut out = [0xee; PAGE_SIZE];
            simd.scatter(&mask, bytes, &mut out);
            prop_assert_eq!(&words(&out), &zeros, "{}", simd.name());
            let mut out = [0xee; PAGE_SIZE];
            simd.scatter_repeating(&mask, bytes, &mut out);
            prop_assert_eq!(&words(&out), &repeats, "{}", simd.name());
        }
    }
}
