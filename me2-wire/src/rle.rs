//! Run-length encoding of a page, over its 512 words of 8 bytes. A format of our own.
//!
//! The encoded page is a row of stretches that together make exactly 512 words:
//!
//! ```text
//! token u16, little-endian: kind in bits 14–15 │ count of words in bits 0–13, 1 … 512
//!   kind 1  literal   then `count` words as they are
//!   kind 2  repeat    then one word, which stands `count` times
//!   kind 3  zeros     nothing follows
//! ```
//!
//! Kind 0 is invalid. A page of one repeated word takes 10 bytes; one that does not compress at
//! all would take 4098. The encoder makes runs of at least two equal words, or of one zero word,
//! which always pays; a decoder takes any valid row.

use crate::PAGE_SIZE;

/// Bytes in a word.
const WORD: usize = 8;
/// Words in a page.
const WORDS: usize = PAGE_SIZE / WORD;
/// Words that are looked at together, so that the compiler can use vector instructions.
const BLOCK: usize = 8;

const LITERAL: u16 = 1;
const REPEAT: u16 = 2;
const ZEROS: u16 = 3;

/// An encoded page that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RleError {
    /// The input ends within a stretch, or before the page is full.
    #[error("run-length encoded page is cut short")]
    Truncated,
    /// A token of kind 0 or with a count of 0.
    #[error("invalid run-length token {0:#06x}")]
    Token(u16),
    /// More than a page.
    #[error("run-length encoded page is longer than a page")]
    TooLong,
}

/// Appends the encoded page to `out` and gives its length in bytes, or `None`, with `out` as it
/// was, if it would take `limit` bytes or more: it does not pay.
pub fn encode(page: &[u8; PAGE_SIZE], limit: usize, out: &mut Vec<u8>) -> Option<usize> {
    let words = words(page);
    let start = out.len();
    let mut at = 0;
    while at < WORDS {
        let rest = &words[at..];
        let first = rest[0];
        let equal = equal_prefix(rest);
        let (token, payload, count) = match (first, equal) {
            (0, _) => (ZEROS, 0, equal),
            (_, 2..) => (REPEAT, 1, equal),
            _ => {
                let literal = literal_prefix(rest);
                (LITERAL, literal, literal)
            }
        };
        if out.len() - start + 2 + payload * WORD >= limit {
            out.truncate(start);
            return None;
        }
        out.extend_from_slice(&(token << 14 | count as u16).to_le_bytes());
        out.extend_from_slice(&page[at * WORD..][..payload * WORD]);
        at += count;
    }
    Some(out.len() - start)
}

/// Decodes a page: exactly 512 words and not a byte more. On error, `page` holds anything.
pub fn decode(mut input: &[u8], page: &mut [u8; PAGE_SIZE]) -> Result<(), RleError> {
    let mut rest = &mut page[..];
    while let Some((token, after)) = input.split_first_chunk::<2>() {
        let token = u16::from_le_bytes(*token);
        let (kind, count) = (token >> 14, usize::from(token & 0x3fff));
        if kind == 0 || count == 0 {
            return Err(RleError::Token(token));
        }
        let stretch;
        (stretch, rest) = rest
            .split_at_mut_checked(count * WORD)
            .ok_or(RleError::TooLong)?;
        let payload = match kind {
            LITERAL => stretch.len(),
            REPEAT => WORD,
            _ => 0,
        };
        let (payload, after) = after.split_at_checked(payload).ok_or(RleError::Truncated)?;
        match kind {
            LITERAL => stretch.copy_from_slice(payload),
            REPEAT => stretch
                .chunks_exact_mut(WORD)
                .for_each(|word| word.copy_from_slice(payload)),
            _ => stretch.fill(0),
        }
        input = after;
    }
    match (input.is_empty(), rest.is_empty()) {
        (true, true) => Ok(()),
        (false, true) => Err(RleError::TooLong),
        (_, false) => Err(RleError::Truncated),
    }
}

fn words(page: &[u8; PAGE_SIZE]) -> [u64; WORDS] {
    let (bytes, _) = page.as_chunks::<WORD>();
    std::array::from_fn(|at| u64::from_le_bytes(bytes[at]))
}

/// How many words at the beginning equal the first.
fn equal_prefix(words: &[u64]) -> usize {
    let first = words[0];
    if words.get(1) != Some(&first) {
        return 1;
    }
    let (blocks, _) = words.as_chunks::<BLOCK>();
    let differs =
        |block: &&[u64; BLOCK]| block.iter().fold(0, |any, word| any | (word ^ first)) == 0;
    let known = blocks.iter().take_while(differs).count() * BLOCK;
    known
        + words[known..]
            .iter()
            .take_while(|word| **word == first)
            .count()
}

/// How many words there are before the next one with which a run begins: a zero, or a word that
/// equals its successor.
fn literal_prefix(words: &[u64]) -> usize {
    let begins_run = |at: usize| words[at] == 0 || words.get(at + 1) == Some(&words[at]);
    let mut at = 0;
    while let Some(block) = words[at..].first_chunk::<{ BLOCK + 1 }>() {
        let any = (0..BLOCK).fold(false, |any, at| {
            any | (block[at] == 0) | (block[at] == block[at + 1])
        });
        if any {
            break;
        }
        at += BLOCK;
    }
    (at..words.len())
        .find(|at| begins_run(*at))
        .unwrap_or(words.len())
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    const NO_LIMIT: usize = usize::MAX;

    fn page_of(words: impl Fn(usize) -> u64) -> [u8; PAGE_SIZE] {
        let mut page = [0; PAGE_SIZE];
        for (at, chunk) in page.chunks_exact_mut(WORD).enumerate() {
            chunk.copy_from_slice(&words(at).to_le_bytes());
        }
        page
    }

    /// Encodes, checks that decoding gives the page back, and gives the length.
    fn encoded_length(page: &[u8; PAGE_SIZE]) -> usize {
        let mut bytes = vec![0xee; 3];
        let length = encode(page, NO_LIMIT, &mut bytes).unwrap();
        assert_eq!((bytes.len(), &bytes[..3]), (length + 3, &[0xee; 3][..]));
        let mut decoded = [0xdd; PAGE_SIZE];
        decode(&bytes[3..], &mut decoded).unwrap();
        assert!(decoded == *page);
        length
    }

    #[test]
    fn lengths_of_typical_pages() {
        assert_eq!(encoded_length(&[0; PAGE_SIZE]), 2);
        assert_eq!(encoded_length(&page_of(|_| 7)), 10);
        assert_eq!(encoded_length(&page_of(|at| at as u64 + 1)), 4098);
        assert_eq!(encoded_length(&page_of(|at| 1 + at as u64 % 2)), 4098);
        assert_eq!(encoded_length(&page_of(|at| at as u64 % 2)), 256 * (2 + 10));
        // One word that differs, among zeros and among others: three stretches, fewer at the ends.
        for (at, among_zeros, among_others) in [
            (0, 12, 20),
            (1, 14, 28),
            (8, 14, 30),
            (255, 14, 30),
            (510, 14, 28),
            (511, 12, 20),
        ] {
            assert_eq!(
                encoded_length(&page_of(|word| u64::from(word == at))),
                among_zeros
            );
            assert_eq!(
                encoded_length(&page_of(|word| 5 + u64::from(word == at))),
                among_others
            );
        }
    }

    #[test]
    fn the_encoding_is_fixed() {
        let mut bytes = Vec::new();
        encode(&page_of(|at| u64::from(at == 8)), NO_LIMIT, &mut bytes);
        assert_eq!(
            bytes,
            [8, 0xc0, 1, 0x40, 1, 0, 0, 0, 0, 0, 0, 0, 0xf7, 0xc1]
        );
        bytes.clear();
        encode(&page_of(|_| 5), NO_LIMIT, &mut bytes);
        assert_eq!(bytes, [0, 0x82, 5, 0, 0, 0, 0, 0, 0, 0]);
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
        let full = (ZEROS << 14 | 512).to_le_bytes();
        assert_eq!(check(&full), Ok(()));
        assert_eq!(check(&[]), Err(RleError::Truncated));
        assert_eq!(check(&full[..1]), Err(RleError::Truncated));
        assert_eq!(check(&[full[0], full[1], 0]), Err(RleError::TooLong));
        assert_eq!(check(&[full, full].concat()), Err(RleError::TooLong));
        assert_eq!(
            check(&(ZEROS << 14 | 511).to_le_bytes()),
            Err(RleError::Truncated)
        );
        assert_eq!(
            check(&(ZEROS << 14 | 513).to_le_bytes()),
            Err(RleError::TooLong)
        );
        assert_eq!(
            check(&(ZEROS << 14).to_le_bytes()),
            Err(RleError::Token(0xc000))
        );
        assert_eq!(check(&[0, 2]), Err(RleError::Token(512)));
        assert_eq!(
            check(&(REPEAT << 14 | 512).to_le_bytes()),
            Err(RleError::Truncated)
        );
        assert_eq!(
            check(&(LITERAL << 14 | 512).to_le_bytes()),
            Err(RleError::Truncated)
        );
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
            prop_assert!(encoded_length(&page) <= PAGE_SIZE + 2);
        }

        #[test]
        fn round_trip_of_noise(bytes in vec(any::<u8>(), PAGE_SIZE)) {
            encoded_length(bytes.as_slice().try_into().unwrap());
        }

        #[test]
        fn a_cut_page_is_an_error(page in pages(), cut in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            let length = encode(&page, NO_LIMIT, &mut bytes).unwrap();
            prop_assert!(decode(&bytes[..cut.index(length)], &mut [0; PAGE_SIZE]).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes in vec(prop_oneof![Just(0x80u8), Just(0xc0), 0u8..4, any::<u8>()], 0..200)) {
            _ = decode(&bytes, &mut [0; PAGE_SIZE]);
        }
    }
}
