//! Pages as the difference from an older version: page XOR base, which is zero where nothing has
//! changed, encoded as by [`crate::rle`].

use me2_simd::Simd;

use crate::{
    PAGE_SIZE,
    rle::{self, Plan, RleError},
};

/// Appends the encoded difference to `out` and gives its length in bytes, or `None`, with `out` as
/// it was, if it would take `limit` bytes or more: it does not pay.
pub fn encode(
    page: &[u8; PAGE_SIZE],
    base: &[u8; PAGE_SIZE],
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    encode_with(Simd::best(), page, base, limit, out)
}

/// The same, with the vector instructions of choice.
pub fn encode_with(
    simd: Simd,
    page: &[u8; PAGE_SIZE],
    base: &[u8; PAGE_SIZE],
    limit: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let mut difference = [0; PAGE_SIZE];
    let plan = plan(simd, page, base, &mut difference);
    (plan.length() < limit).then(|| {
        plan.write(simd, &difference, out);
        plan.length()
    })
}

/// Decodes a page from its difference, with not a byte left over. On error, `page` holds anything.
pub fn decode(
    input: &[u8],
    base: &[u8; PAGE_SIZE],
    page: &mut [u8; PAGE_SIZE],
) -> Result<(), RleError> {
    decode_with(Simd::best(), input, base, page)
}

/// The same, with the vector instructions of choice.
pub fn decode_with(
    simd: Simd,
    input: &[u8],
    base: &[u8; PAGE_SIZE],
    page: &mut [u8; PAGE_SIZE],
) -> Result<(), RleError> {
    rle::decode_with(simd, input, page)?;
    simd.xor(page, base);
    Ok(())
}

/// Computes the difference, and how it would be encoded.
pub(crate) fn plan(
    simd: Simd,
    page: &[u8; PAGE_SIZE],
    base: &[u8; PAGE_SIZE],
    difference: &mut [u8; PAGE_SIZE],
) -> Plan {
    *difference = *page;
    simd.xor(difference, base);
    Plan::zeros(simd.nonzero(difference))
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;

    proptest! {
        #[test]
        fn round_trip(
            base in vec(any::<u8>(), PAGE_SIZE),
            changes in vec((0..PAGE_SIZE, any::<u8>()), 0..600),
        ) {
            let base: [u8; PAGE_SIZE] = base.try_into().unwrap();
            let mut page = base;
            changes.iter().for_each(|(at, byte)| page[*at] ^= byte);
            let changed = (0..PAGE_SIZE / 8).filter(|word| {
                let word = word * 8..word * 8 + 8;
                page[word.clone()] != base[word]
            });
            let changed_bytes = changed.count() * 8;
            for simd in Simd::supported() {
                let mut bytes = vec![9];
                let length = encode_with(simd, &page, &base, usize::MAX, &mut bytes).unwrap();
                prop_assert_eq!(bytes.len(), length + 1);
                prop_assert!((2..=2 + 8 + 64).contains(&(length - changed_bytes)));
                prop_assert_eq!(encode_with(simd, &page, &base, length, &mut bytes), None);
                let mut decoded = [0xdd; PAGE_SIZE];
                decode_with(simd, &bytes[1..], &base, &mut decoded).unwrap();
                prop_assert!(decoded == page);
            }
        }
    }
}
