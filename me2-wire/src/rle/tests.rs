use proptest::{collection::vec, prelude::*};

use super::*;
use crate::PAGE_SIZE;

const NO_LIMIT: usize = usize::MAX;
const WORDS: usize = PAGE_SIZE / WORD;

fn page_of(words: impl Fn(usize) -> u64) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    for (at, chunk) in page.chunks_exact_mut(WORD).enumerate() {
        chunk.copy_from_slice(&words(at).to_le_bytes());
    }
    page
}

/// The encoding, word by word, straight from its description.
fn reference_encode(page: &[u8; PAGE_SIZE]) -> Vec<u8> {
    let words: Vec<&[u8]> = page.chunks(WORD).collect();
    let row = |mode: u8, is_left_out: &dyn Fn(usize) -> bool| {
        let kept = |at: usize| !is_left_out(at);
        let bits = |flags: &[bool]| -> Vec<u8> {
            let byte = |eight: &[bool]| (0..8).map(|bit| u8::from(eight[bit]) << bit).sum();
            flags.chunks(8).map(byte).collect()
        };
        let mask = bits(&(0..WORDS).map(kept).collect::<Vec<_>>());
        let middle = bits(&mask.iter().map(|byte| *byte != 0).collect::<Vec<_>>());
        let top = bits(&middle.iter().map(|byte| *byte != 0).collect::<Vec<_>>());
        let mut row = vec![mode, top[0]];
        row.extend(middle.iter().chain(&mask).filter(|byte| **byte != 0));
        row.extend((0..WORDS).filter(|at| kept(*at)).flat_map(|at| words[at]));
        row
    };
    let zeros = row(1, &|at| words[at] == [0; WORD]);
    let repeats = row(2, &|at| {
        words[at]
            == at
                .checked_sub(1)
                .map_or(&[0; WORD][..], |before| words[before])
    });
    if repeats.len() < zeros.len() {
        repeats
    } else {
        zeros
    }
}

/// Encodes, checks that decoding gives the page back, and gives the length.
fn encoded_length(page: &[u8; PAGE_SIZE]) -> usize {
    let expected = reference_encode(page);
    for simd in Simd::supported() {
        let mut bytes = vec![0xee; 3];
        let length = encode_with(simd, page, NO_LIMIT, &mut bytes).unwrap();
        assert_eq!((bytes.len(), &bytes[..3]), (length + 3, &[0xee; 3][..]));
        assert!(bytes[3..] == expected);
        let mut decoded = [0xdd; PAGE_SIZE];
        decode_with(simd, &bytes[3..], &mut decoded).unwrap();
        assert!(decoded == *page);
    }
    assert!(expected.len() <= ENCODED_BYTES_MAX);
    expected.len()
}

#[test]
fn lengths_of_typical_pages() {
    assert_eq!(encoded_length(&[0; PAGE_SIZE]), 2);
    assert_eq!(encoded_length(&page_of(|_| 7)), 12);
    assert_eq!(
        encoded_length(&page_of(|at| at as u64 + 1)),
        ENCODED_BYTES_MAX
    );
    assert_eq!(
        encoded_length(&page_of(|at| at as u64 % 2)),
        2 + 8 + 64 + 256 * 8
    );
    assert_eq!(
        encoded_length(&page_of(|at| at as u64 / 2 + 1)),
        2 + 8 + 64 + 256 * 8
    );
    for at in 0..WORDS {
        assert_eq!(encoded_length(&page_of(|word| u64::from(word == at))), 12);
    }
}

#[test]
fn the_encoding_is_fixed() {
    let encoded = |page: &[u8; PAGE_SIZE]| {
        let mut bytes = Vec::new();
        encode(page, NO_LIMIT, &mut bytes);
        bytes
    };
    assert_eq!(
        encoded(&page_of(|at| u64::from(at == 8))),
        [1, 1, 2, 1, 1, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        encoded(&page_of(|_| 5)),
        [2, 1, 1, 1, 5, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(encoded(&[0; PAGE_SIZE]), [1, 0]);
}

#[test]
fn what_does_not_pay_leaves_nothing_behind() {
    let page = page_of(|at| if at < 256 { 9 } else { at as u64 });
    let length = encoded_length(&page);
    let mut out = vec![1, 2, 3];
    assert_eq!(encode(&page, length, &mut out), None);
    assert_eq!(encode(&page, 0, &mut out), None);
    assert_eq!(out, [1, 2, 3]);
    assert_eq!(encode(&page, length + 1, &mut out), Some(length));
}

#[test]
fn malformed_rows_are_refused() {
    let mut page = [0; PAGE_SIZE];
    let mut check = |input: &[u8]| decode(input, &mut page);
    assert_eq!(check(&[1, 0]), Ok(()));
    assert_eq!(check(&[]), Err(RleError::Truncated));
    assert_eq!(check(&[1]), Err(RleError::Truncated));
    assert_eq!(check(&[0, 0]), Err(RleError::Mode(0)));
    assert_eq!(check(&[3, 0]), Err(RleError::Mode(3)));
    assert_eq!(check(&[1, 0, 0]), Err(RleError::TooLong));
    assert_eq!(check(&[1, 1]), Err(RleError::Truncated));
    assert_eq!(check(&[1, 1, 0]), Err(RleError::EmptyMaskByte));
    assert_eq!(check(&[1, 1, 1]), Err(RleError::Truncated));
    assert_eq!(check(&[1, 1, 1, 0]), Err(RleError::EmptyMaskByte));
    assert_eq!(check(&[1, 1, 1, 1]), Err(RleError::Truncated));
    assert_eq!(check(&[1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8]), Ok(()));
    assert_eq!(
        check(&[1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7]),
        Err(RleError::Truncated)
    );
    assert_eq!(
        check(&[1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9]),
        Err(RleError::TooLong)
    );
    let mut all = vec![1, 255];
    all.extend([255; 8 + MASK_BYTES]);
    all[40] = 0;
    assert_eq!(check(&all), Err(RleError::EmptyMaskByte));
}

/// Pages as memory has them: stretches of few different words.
fn pages() -> impl Strategy<Value = [u8; PAGE_SIZE]> {
    let word = prop_oneof![3 => Just(0u64), 3 => 1u64..4, 1 => any::<u64>()];
    vec((word, 1usize..40), 1..300).prop_map(|stretches| {
        let row: Vec<u64> = stretches
            .iter()
            .flat_map(|(word, count)| std::iter::repeat_n(*word, *count))
            .collect();
        page_of(|at| row.get(at).copied().unwrap_or(0))
    })
}

proptest! {
    #[test]
    fn round_trip(page in pages()) {
        encoded_length(&page);
    }

    #[test]
    fn round_trip_of_noise(bytes in vec(prop_oneof![Just(0u8), any::<u8>()], PAGE_SIZE)) {
        encoded_length(bytes.as_slice().try_into().unwrap());
    }

    #[test]
    fn a_cut_page_is_an_error(page in pages(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        let length = encode(&page, NO_LIMIT, &mut bytes).unwrap();
        prop_assert!(decode(&bytes[..cut.index(length)], &mut [0; PAGE_SIZE]).is_err());
    }

    /// All levels take the same rows, and make the same of them.
    #[test]
    fn garbage_never_panics(
        page in pages(),
        at in any::<prop::sample::Index>(),
        bytes in vec(prop_oneof![Just(1u8), Just(2), Just(0), any::<u8>()], 1..200),
    ) {
        let mut damaged = reference_encode(&page);
        let at = at.index(damaged.len());
        let end = damaged.len().min(at + bytes.len());
        damaged[at..end].copy_from_slice(&bytes[..end - at]);
        for row in [&damaged, &bytes] {
            let decoded = |simd| {
                let mut page = [0; PAGE_SIZE];
                decode_with(simd, row, &mut page).map(|()| page)
            };
            let expected = decoded(Simd::portable());
            for simd in Simd::supported() {
                prop_assert!(decoded(simd) == expected);
            }
        }
    }
}
